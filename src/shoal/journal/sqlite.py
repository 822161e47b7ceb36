"""The journal as one SQLite file: WAL mode, one writer with a lock, any number of readers.

A batch of records is one transaction. ``synchronous=NORMAL`` in WAL mode means: a killed process loses nothing that was
committed; a power cut loses at most the last moments, never consistency.

What a disk gives back is not believed but checked: each record and the facts have a checksum, numbers have no gaps,
the last record is the last of its transaction, and there are not fewer than at the last closing. So a file whose pages
are lost, old or garbage is told apart from one that is whole, and what is read is what was written, or an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import JournalError
from . import JOURNAL_NAME
from .brief import BRIEF, Expander, Writer
from .codec import Item, Record, decode, is_known
from .lock import LOCK_NAME, is_at, is_gone, unlock
from .lock import lock as take_lock

__all__ = ["SCHEMA_VERSION", "RawRecord", "SQLiteJournal", "never_began"]

SCHEMA_VERSION = 5
_READABLE = (2, 3, 4, SCHEMA_VERSION)
"""Format 4 knows no slots that come and go, and format 3 has all results written out; both have format 5 from when they
go on. Format 2 has them, too, but what was decided followed from other rules: it can be read, and not gone on with."""
_GOES_ON = (3, 4, SCHEMA_VERSION)
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL, crc INTEGER NOT NULL
);
"""
_COLUMNS = ("seq", "at", "kind", "body", "crc")
RawRecord: TypeAlias = tuple[int, float, str, str, int]
"""A record as it is written: its number, time, kind, body and checksum."""
_SEAL = "$crc"
"""Key of the checksum of all other facts."""
_COUNT = "$records"
"""Key of the number of records at the last closing: there can be more, and never fewer."""
_WHAT_IS_LEFT = (
    "Nothing was changed. The trials' folders still have their results (result.json, progress.csv) and their "
    f"checkpoints. To go on with the experiment, put back a copy of {JOURNAL_NAME} and of what lay beside it."
)


class SQLiteJournal:
    """See :class:`shoal.journal.Journal`. Use :meth:`create`, :meth:`open_for_writing` or :meth:`open_for_reading`."""

    def __init__(self, connection: sqlite3.Connection, path: Path, lock: int | None) -> None:
        self._connection = connection
        self._path = path
        self._lock = lock
        self._process = os.getpid()
        self._writer = Writer()
        self._gone = False
        """The files are not where they were."""
        row = connection.execute("SELECT max(seq) FROM journal").fetchone()
        self._last: int = row[0] or 0

    @classmethod
    def create(cls, folder: Path) -> SQLiteJournal:
        """Start the journal of a new experiment in an existing folder.

        Raises:
            JournalError: the folder has a journal already, or cannot be written.
        """
        path = folder / JOURNAL_NAME
        lock = take_lock(folder)
        connection: sqlite3.Connection | None = None
        try:
            if path.exists():
                raise JournalError(f"{path} exists already; a new experiment needs a folder of its own.")
            connection = _connect(path, "rwc")
            seal = f"INSERT INTO meta VALUES ('{_SEAL}', '{_seal_of({})}');"
            connection.executescript(f"BEGIN; {_SCHEMA} {seal} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
            return cls(connection, path, lock)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.Error):
                # While it is locked: what there is of it is nobody's, and must not be taken for a damaged one.
                for suffix in ("", "-journal", "-wal", "-shm"):
                    _beside(path, suffix).unlink(missing_ok=True)
            unlock(lock)
            if isinstance(error, sqlite3.Error):
                raise JournalError(
                    f"The journal {path} cannot be created: {error}. Make room, if the disk is full, or give another "
                    f"storage_path; nothing has begun."
                ) from error
            raise

    @classmethod
    def open_for_writing(cls, folder: Path, task: str | None = None) -> SQLiteJournal:
        """Go on with the journal of an experiment, after all of it was checked; one that is damaged is left as it is.

        Args:
            folder: the experiment's folder.
            task: what for, where it is not to run the experiment; see :func:`shoal.journal.lock.lock`.

        Raises:
            JournalError: there is none, it is damaged or newer than this Shoal, or another driver writes it.
        """
        path = folder / JOURNAL_NAME
        lock = take_lock(folder, task)
        try:
            with contextlib.closing(cls.open_for_reading(folder)) as reader:
                reader.check_format()
                reader.check_all()
            # Only now, because closing what can be written also tidies up, and nothing is to change in a damaged file.
            return cls(_open_again(path), path, lock)
        except BaseException:
            unlock(lock)
            raise

    @classmethod
    def open_for_reading(cls, folder: Path) -> SQLiteJournal:
        """Read the journal of an experiment, running or ended, also where nothing can be written.

        Raises:
            JournalError: there is none, or it is damaged or newer than this Shoal.
        """
        return cls(_open(folder), folder / JOURNAL_NAME, None)

    def append(self, items: Sequence[Item], at: float) -> list[Record]:
        """Write the items in order, in one transaction. Return their records.

        Raises:
            JournalError: they could not be written, all of them; the same call may succeed later.
        """
        at = float(at)
        at_text = repr(at)
        end = self._last + len(items)
        records: list[Record] = []
        rows: list[tuple[int, float, str, str, int]] = []
        try:
            for seq, item in enumerate(items, start=self._last + 1):
                kind, body, texts = self._writer.encode(seq, item)
                stamp = _stamp(seq, at_text, kind, body)
                rows.append((seq, at, kind, body, stamp if seq < end else ~stamp))
                records.append(Record(seq, at, item, texts))
            with self._transaction() as connection:
                connection.executemany("INSERT INTO journal VALUES (?, ?, ?, ?, ?)", rows)
        except BaseException:
            self._writer = Writer()  # whose results are like none that was not written
            raise
        self._last = end
        return records

    def set_meta(self, **values: Any) -> None:
        """Remember facts about the whole experiment (JSON values)."""
        texts = {key: json.dumps(value) for key, value in values.items()}
        with self._transaction() as connection:
            _store(connection, texts)

    def meta(self) -> dict[str, Any]:
        """Return the facts about the whole experiment.

        Raises:
            JournalError: they are not what was written.
        """
        try:
            return {key: json.loads(value) for key, value in self._facts().items() if key not in (_SEAL, _COUNT)}
        except (ValueError, TypeError, RecursionError) as error:
            raise self._damaged(f"the facts about the experiment are {error}") from error

    def read(self, after: int = 0, *, unpickle: bool = True) -> Iterator[Record]:
        """Yield the committed records whose number is greater than ``after``, in order.

        Args:
            after: a record's number.
            unpickle: whether objects in configs are loaded, which runs code of whoever wrote the journal.

        Raises:
            JournalError: a record is not what was written, or is missing. Those that came before are right.
        """
        expander = Expander(self._result)
        for seq, at, kind, body, _ in self._rows(after):
            try:
                item = expander.decode(seq, body) if kind == BRIEF else decode(kind, body, unpickle=unpickle)
            except ValueError as error:
                raise self._damaged(f"record {seq}: {error}") from error
            yield Record(seq, at, item)

    # ---------------------------------------------------------------------------------------------------------- copies

    def raw(self, after: int, upto: int, about: int | None = None, about_bytes: int | None = None) -> list[RawRecord]:
        """Return the records after a number, and not after another, as they are written.

        Args:
            after, upto: numbers of records; with the second one a batch ends that was committed together.
            about: return so many, and those that were committed together with the last of them; None: all.
            about_bytes: likewise, for the bytes of their texts.

        Raises:
            JournalError: one of them is not what was written, or is missing.
        """
        found: list[RawRecord] = []
        most, most_bytes = about or sys.maxsize, about_bytes or sys.maxsize
        size = 0
        with contextlib.closing(self._rows(after)) as rows:
            for record in rows if upto > after else ():
                found.append(record)
                size += len(record[3])
                if record[0] >= upto or (record[4] < 0 and (len(found) >= most or size >= most_bytes)):
                    break
        end = found[-1] if found else (after, 0.0, "", "", -1)
        limited = about is not None or about_bytes is not None
        if end[4] >= 0 or (end[0] < upto and not limited) or (not found and upto > after):
            raise self._damaged(f"records {end[0]} to {upto} are not there as they were committed")
        return found

    def raw_facts(self) -> dict[str, str]:
        """Return the facts about the experiment as they are written, JSON texts.

        Raises:
            JournalError: they are not what was written.
        """
        return {key: text for key, text in self._facts().items() if key not in (_SEAL, _COUNT)}

    @property
    def folder(self) -> Path:
        """Where the journal is."""
        return self._path.parent

    @property
    def last(self) -> int:
        """Number of the last record when the journal was opened, or that was written since."""
        return self._last

    @property
    def format(self) -> int:
        """The format that the journal has."""
        found: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
        return found

    @staticmethod
    def write_copy(folder: Path, version: int, facts: Mapping[str, str], records: Iterable[RawRecord]) -> None:
        """Make a folder's journal a copy of another one, whole or not at all. One that is there is replaced.

        Args:
            folder: an existing folder; nobody has its journal open for writing.
            version: the format of the other one.
            facts, records: all of :meth:`raw_facts` and :meth:`raw`.

        Raises:
            JournalError: it cannot be written, or this Shoal does not know the format.
        """
        path = folder / JOURNAL_NAME
        if version not in _READABLE:
            raise JournalError(
                f"The journal has format {version}; this Shoal reads format {SCHEMA_VERSION}. Update Shoal to read it."
            )
        staging = folder / f".{JOURNAL_NAME}.{os.getpid()}.{threading.get_ident()}"
        try:
            try:
                with contextlib.closing(sqlite3.connect(staging)) as connection:
                    # Nothing is lost where this is cut off: it is not in its place before it is whole.
                    connection.executescript(
                        f"PRAGMA journal_mode=OFF; BEGIN; {_SCHEMA} PRAGMA user_version={version}; COMMIT;"
                    )
                    _append_copied(connection, facts, records)
                for suffix in ("", "-wal", "-shm", "-journal"):
                    _beside(path, suffix).unlink(missing_ok=True)
                staging.replace(path)
            finally:
                staging.unlink(missing_ok=True)
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, JournalError):
                raise
            raise JournalError(f"The journal {path} cannot be written: {error}.") from error

    @staticmethod
    def extend_copy(folder: Path, facts: Mapping[str, str], records: Sequence[RawRecord]) -> None:
        """Add what has come since to a copy that :meth:`write_copy` made.

        Args:
            folder: that of the copy.
            facts: all of them, as they are now.
            records: those that follow; those that somebody else has added meanwhile are left out.

        Raises:
            JournalError: it cannot be written.
        """
        path = folder / JOURNAL_NAME
        try:
            uri = f"{path.absolute().as_uri()}?mode=rw"
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10.0, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                last = connection.execute("SELECT max(seq) FROM journal").fetchone()[0] or 0
                _append_copied(connection, facts, [record for record in records if record[0] > last])
        except sqlite3.Error as error:
            raise JournalError(f"The journal {path} cannot be written: {error}.") from error

    def check_place(self) -> None:
        """Make sure that the files are where they were: one that was deleted can be written to, and nobody finds it.

        Raises:
            JournalError: they were deleted, moved or replaced, or the folder was.
        """
        if self._lock is None:
            return
        if is_at(self._lock, self._path.with_name(LOCK_NAME)) and not is_gone(self._path):
            return
        self._gone = True
        raise JournalError(
            f"The experiment's folder {self._path.parent} was deleted, moved or replaced while the experiment was "
            f"being run, and what is written now would be lost. The run has ended. If you have moved it, go on where "
            f"it is now: tune.Tuner.restore(folder, trainable).fit()."
        )

    def check_format(self) -> None:
        """Make sure that the experiment can go on with this Shoal.

        Raises:
            JournalError: it was written by an earlier one, which took other decisions.
        """
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in _GOES_ON:
            raise JournalError(
                f"The journal {self._path} has format {version}. It was written by an earlier Shoal, which decided by "
                f"other rules, so the experiment cannot go on with this one, which goes on with format "
                f"{SCHEMA_VERSION}. Its results can be read: tune.ResultGrid.read(folder)."
            )

    def close(self) -> None:
        """Write everything into the one file and let go of it. Closing again, or in a fork, does nothing."""
        if os.getpid() != self._process:
            return
        lock, self._lock = self._lock, None
        try:
            if lock is not None and not self._gone:
                self._tidy_up()
        except sqlite3.Error as error:
            # On a full disk all of it stays in the -wal file, where the next one to open the journal finds it.
            if "full" not in str(error):
                raise JournalError(f"The journal {self._path} cannot be written: {error}.") from error
        finally:
            self._connection.close()
            if lock is not None:
                unlock(lock)

    # -------------------------------------------------------------------------------------------------------- checking

    def _rows(self, after: int) -> Generator[RawRecord]:
        """Yield the records after a number, checked but not decoded."""
        last, whole = after, True
        query = f"SELECT {', '.join(_COLUMNS)} FROM journal WHERE seq > ? ORDER BY seq"
        count = self._facts().get(_COUNT, "0")
        try:
            for seq, at, kind, body, stamp in self._connection.execute(query, (after,)):
                if seq != last + 1:
                    raise self._damaged(f"records {last + 1} to {seq - 1} are missing")
                last = seq
                expected = _stamp(seq, repr(at), kind, body)
                whole = stamp == ~expected
                if not whole and stamp != expected:
                    raise self._damaged(f"record {seq} is not what was written, by its checksum")
                yield seq, at, kind, body, stamp
        except sqlite3.Error as error:
            raise self._damaged(f"after record {last}: {error}") from error
        if not whole:
            raise self._damaged(f"records are missing after record {last}, which was not written as the last one")
        if last < int(count):
            raise self._damaged(f"records {last + 1} to {count} are missing")

    def _result(self, number: int) -> Item:
        """Return the item of one record, checked.

        Raises:
            ValueError: it is not there, or not what was written.
        """
        query = f"SELECT {', '.join(_COLUMNS)} FROM journal WHERE seq = ?"
        try:
            found = self._connection.execute(query, (number,)).fetchone()
        except sqlite3.Error as error:
            raise ValueError(f"record {number} cannot be read: {error}") from error
        if found is None:
            raise ValueError(f"record {number} is missing")
        seq, at, kind, body, stamp = found
        expected = _stamp(seq, repr(at), kind, body)
        if stamp not in (expected, ~expected):
            raise ValueError(f"record {number} is not what was written, by its checksum")
        return decode(kind, body)

    def _facts(self) -> Mapping[str, str]:
        """Return the table of facts, checked."""
        try:
            facts: dict[str, str] = dict(self._connection.execute("SELECT key, value FROM meta"))
            sealed = facts.get(_SEAL) == _seal_of(facts)
        except (sqlite3.Error, TypeError, AttributeError) as error:
            raise self._damaged(f"the facts about the experiment: {error}") from error
        if not sealed:
            raise self._damaged("the facts about the experiment are not what was written, by their checksum")
        return facts

    def check_all(self) -> None:
        """Make sure that all of it is as it was written, and can be read by this Shoal; takes as long as reading it.

        Raises:
            JournalError: something is not.
        """
        try:
            found: str = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.Error as error:
            raise self._damaged(str(error)) from error
        if found != "ok":
            raise self._damaged(" ".join(found.split()))
        self.meta()
        for seq, _, kind, _, _ in self._rows(0):
            if kind != BRIEF and not is_known(kind):
                raise self._damaged(f"record {seq} is of the unknown kind {kind!r}")

    def _damaged(self, what: str) -> JournalError:
        return JournalError(f"The journal {self._path} is damaged: {what}. {_WHAT_IS_LEFT}")

    # --------------------------------------------------------------------------------------------------------- writing

    @contextlib.contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        """Commit what is written inside, or nothing of it."""
        if os.getpid() != self._process:
            raise JournalError(
                f"The journal {self._path} belongs to process {self._process}; a fork of it, such as this process, "
                f"must not write it."
            )
        if self._lock is None:
            raise JournalError(f"The journal {self._path} is closed, or was opened for reading.")
        try:
            try:
                yield self._connection
                self._connection.commit()
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.rollback()
                raise
        except sqlite3.Error as error:
            raise JournalError(f"The journal {self._path} cannot be written: {error}.") from error

    def _tidy_up(self) -> None:
        """Write down how many records there are, and make it a single file."""
        connection = self._connection
        found = connection.execute("SELECT value FROM meta WHERE key = ?", (_COUNT,)).fetchone()
        if found != (str(self._last),):
            with connection:
                _store(connection, {_COUNT: str(self._last)})
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        # A single file needs no companions and can be read where nothing can be written. A reader that is at work right
        # now keeps it from that, which does no harm.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA busy_timeout=200")
            connection.execute("PRAGMA journal_mode=DELETE")


def _stamp(seq: int, at: str, kind: str, body: str) -> int:
    """Return the checksum of a record, in 31 bits; the last one of a transaction has its complement, a negative one."""
    return zlib.crc32(f"{seq} {at} {kind} {body}".encode()) & 0x7FFFFFFF


def _seal_of(facts: Mapping[str, str]) -> str:
    """Return the checksum of all facts but itself."""
    crc = 0
    for key in sorted(facts.keys() - {_SEAL}):
        for part in (key.encode(), facts[key].encode()):
            crc = zlib.crc32(b"%d " % len(part) + part, crc)
    return str(crc)


def _store(connection: sqlite3.Connection, texts: Mapping[str, str]) -> None:
    """Put facts in place of older ones of the same names, and seal all of them."""
    statement = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
    connection.executemany(statement, list(texts.items()))
    facts = dict(connection.execute("SELECT key, value FROM meta"))
    connection.execute(statement, (_SEAL, _seal_of(facts)))


def _append_copied(connection: sqlite3.Connection, facts: Mapping[str, str], records: Iterable[RawRecord]) -> None:
    """Write records as they are, and facts, and commit them."""
    connection.executemany("INSERT INTO journal VALUES (?, ?, ?, ?, ?)", records)
    _store(connection, facts)
    connection.commit()


# ----------------------------------------------------------------------------------------------------- opening the file


def never_began(folder: Path) -> bool:
    """Return whether what there is of a journal holds no record and never did: its driver was killed in making it.

    Raises:
        JournalError: it is damaged, or none of this Shoal's.
    """
    path = folder / JOURNAL_NAME
    try:
        if not path.exists() or path.stat().st_size == 0:
            return not _wal(path).exists() or _wal(path).stat().st_size == 0
        if _beside(path, "-journal").exists():
            _roll_back(path)
        with contextlib.closing(_connect(path, "ro")) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                # Everything in it is made in one transaction. Until that is committed, there is nothing.
                return bool(connection.execute("SELECT count(*) = 0 FROM sqlite_master").fetchone()[0])
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"The journal {path} cannot be read: {error}. {_WHAT_IS_LEFT}") from error
    with contextlib.closing(SQLiteJournal.open_for_reading(folder)) as journal:
        return next(journal.read(), None) is None


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=10.0, check_same_thread=False)
    if mode != "ro":
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
        except BaseException:
            connection.close()
            raise
    return connection


def _open(folder: Path) -> sqlite3.Connection:
    """Open the journal in a folder for reading."""
    path = folder / JOURNAL_NAME
    try:
        there = path.is_file()
        only_wal = not there and _wal(path).is_file()
    except OSError as error:
        raise JournalError(f"The journal {path} cannot be read: {error}.") from error
    if only_wal:
        raise JournalError(f"The journal {path} is gone, and only {_wal(path).name} is left. {_WHAT_IS_LEFT}")
    if not there:
        raise JournalError(f"{folder} holds no experiment of Shoal: there is no file {JOURNAL_NAME}.")
    try:
        return _checked(_connect(path, "ro"), path)
    except sqlite3.Error as error:
        with contextlib.suppress(sqlite3.Error, OSError):
            if not os.access(folder, os.W_OK):
                # SQLite makes files beside a journal whose driver was killed, or fails.
                return _checked(_copied(path), path)
            if _beside(path, "-journal").exists():
                _roll_back(path)
                return _checked(_connect(path, "ro"), path)
        raise JournalError(f"The journal {path} cannot be read: {error}. {_WHAT_IS_LEFT}") from error


def _open_again(path: Path) -> sqlite3.Connection:
    """Open a journal for writing that could be read, and say that it has the format of what will be written."""
    try:
        connection = _connect(path, "rw")
        try:
            if connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
                connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        except BaseException:
            connection.close()
            raise
        return connection
    except sqlite3.Error as error:
        raise JournalError(f"The journal {path} cannot be written: {error}.") from error


def _copied(path: Path) -> sqlite3.Connection:
    """Return the journal as a database in memory."""
    memory = sqlite3.connect(":memory:", check_same_thread=False)
    try:
        with tempfile.TemporaryDirectory(prefix="shoal_") as aside:
            copy = Path(shutil.copyfile(path, Path(aside, path.name)))
            for suffix in ("-wal", "-journal"):
                if _beside(path, suffix).exists():
                    shutil.copyfile(_beside(path, suffix), _beside(copy, suffix))
            with contextlib.closing(sqlite3.connect(copy)) as connection:
                connection.execute("PRAGMA journal_mode=DELETE")
                connection.backup(memory)
    except BaseException:
        memory.close()
        raise
    return memory


def _roll_back(path: Path) -> None:
    """Undo the transaction of a driver that was killed in it, as only who may write can.

    There is none around records, which go by way of the -wal file; but making the journal is one, and so is making it a
    single file at the end.
    """
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=10.0)) as writer:
        writer.execute("SELECT count(*) FROM sqlite_master")


def _wal(path: Path) -> Path:
    return _beside(path, "-wal")


def _beside(path: Path, suffix: str) -> Path:
    """Return a file that SQLite keeps beside the journal."""
    return path.with_name(f"{path.name}{suffix}")


def _checked(connection: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    """Make sure that it is a journal that this Shoal understands; close it where not."""
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in _READABLE:
            what_to_do = "It was written by an earlier Shoal, which can read it"
            if version == 0:
                what_to_do = "It is no journal, or damaged"
            elif version > SCHEMA_VERSION:
                what_to_do = "Update Shoal to read it"
            raise JournalError(
                f"The journal {path} has format {version}; this Shoal reads format {SCHEMA_VERSION}. {what_to_do}."
            )
        connection.execute("SELECT max(seq) FROM journal").fetchone()
        columns = tuple(row[1] for row in connection.execute("PRAGMA table_info(journal)"))
        if columns != _COLUMNS:
            raise JournalError(
                f"The journal {path} is damaged: records have {columns} instead of {_COLUMNS}. {_WHAT_IS_LEFT}"
            )
    except BaseException:
        connection.close()
        raise
    return connection
