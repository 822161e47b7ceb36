"""The journal as one SQLite file: WAL mode, one writer with a lock, any number of readers.

A batch of records is one transaction. ``synchronous=NORMAL`` in WAL mode means: a killed process loses nothing that was
committed; a power cut loses at most the last moments, never consistency.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import JournalError
from . import JOURNAL_NAME
from .codec import Item, Record, decode, encode

__all__ = ["SCHEMA_VERSION", "SQLiteJournal"]

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE journal (seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL);
"""


class SQLiteJournal:
    """See :class:`shoal.journal.Journal`. Use :meth:`create`, :meth:`open_for_writing` or :meth:`open_for_reading`."""

    def __init__(self, connection: sqlite3.Connection, path: Path, lock: int | None) -> None:
        self._connection = connection
        self._path = path
        self._lock = lock
        row = connection.execute("SELECT max(seq) FROM journal").fetchone()
        self._last: int = row[0] or 0

    @classmethod
    def create(cls, folder: Path) -> SQLiteJournal:
        """Start the journal of a new experiment in an existing folder.

        Raises:
            JournalError: the folder has a journal already, or cannot be written.
        """
        path = folder / JOURNAL_NAME
        lock = _lock(folder)
        connection: sqlite3.Connection | None = None
        try:
            if path.exists():
                raise JournalError(f"{path} exists already; a new experiment needs a folder of its own.")
            connection = _connect(path, "rwc")
            connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
            return cls(connection, path, lock)
        except BaseException as error:
            if connection is not None:
                connection.close()
            _unlock(lock)
            if isinstance(error, sqlite3.Error):
                raise JournalError(f"The journal {path} cannot be created: {error}.") from error
            raise

    @classmethod
    def open_for_writing(cls, folder: Path) -> SQLiteJournal:
        """Go on with the journal of an experiment.

        Raises:
            JournalError: there is none, it is damaged or newer than this Shoal, or another driver writes it.
        """
        lock = _lock(folder)
        try:
            return cls(_open(folder, "rw"), folder / JOURNAL_NAME, lock)
        except BaseException:
            _unlock(lock)
            raise

    @classmethod
    def open_for_reading(cls, folder: Path) -> SQLiteJournal:
        """Read the journal of an experiment, running or ended.

        Raises:
            JournalError: there is none, or it is damaged or newer than this Shoal.
        """
        return cls(_open(folder, "ro"), folder / JOURNAL_NAME, None)

    def append(self, items: Sequence[Item], at: float) -> list[Record]:
        """Write the items in order, in one transaction. Return their records."""
        records = [Record(self._last + place, at, item) for place, item in enumerate(items, start=1)]
        rows = [(record.seq, at, *encode(record.item)) for record in records]
        try:
            with self._connection:
                self._connection.executemany("INSERT INTO journal VALUES (?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise JournalError(f"The journal {self._path} cannot be written: {error}.") from error
        self._last += len(records)
        return records

    def set_meta(self, **values: Any) -> None:
        """Remember facts about the whole experiment (JSON values)."""
        try:
            with self._connection:
                self._connection.executemany(
                    "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                    [(key, json.dumps(value)) for key, value in values.items()],
                )
        except sqlite3.Error as error:
            raise JournalError(f"The journal {self._path} cannot be written: {error}.") from error

    def meta(self) -> dict[str, Any]:
        """Return the facts about the whole experiment."""
        try:
            return {key: json.loads(value) for key, value in self._connection.execute("SELECT key, value FROM meta")}
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise JournalError(f"The journal {self._path} is damaged: {error}.") from error

    def read(self, after: int = 0) -> Iterator[Record]:
        """Yield the committed records whose number is greater than ``after``, in order."""
        try:
            query = "SELECT seq, at, kind, body FROM journal WHERE seq > ? ORDER BY seq"
            for seq, at, kind, body in self._connection.execute(query, (after,)):
                yield Record(seq, at, decode(kind, body))
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise JournalError(f"The journal {self._path} is damaged: {error}.") from error

    def close(self) -> None:
        """Write everything into the one file and let go of it. Closing again does nothing."""
        lock, self._lock = self._lock, None
        try:
            if lock is not None:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                # Back to a single file, which needs no companions and can be read where nothing can be written. A
                # reader that is at work right now keeps it from that, which does no harm.
                with contextlib.suppress(sqlite3.OperationalError):
                    self._connection.execute("PRAGMA busy_timeout=200")
                    self._connection.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.Error as error:
            raise JournalError(f"The journal {self._path} cannot be written: {error}.") from error
        finally:
            self._connection.close()
            if lock is not None:
                _unlock(lock)


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


def _open(folder: Path, mode: str) -> sqlite3.Connection:
    path = folder / JOURNAL_NAME
    if not path.is_file():
        raise JournalError(f"{folder} holds no experiment of Shoal: there is no file {JOURNAL_NAME}.")
    try:
        return _checked(path, mode)
    except sqlite3.Error as error:
        wal = path.with_name(f"{path.name}-wal")
        if mode == "ro" and not os.access(folder, os.W_OK) and not (wal.exists() and wal.stat().st_size):
            # In a folder that cannot be written, SQLite may not make the index of a -wal file; here it needs none.
            with contextlib.suppress(sqlite3.Error):
                return _checked(path, "ro&immutable=1")
        raise JournalError(f"The journal {path} cannot be read: {error}.") from error


def _checked(path: Path, mode: str) -> sqlite3.Connection:
    """Open the file and make sure that it is a journal that this Shoal understands."""
    connection = _connect(path, mode)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise JournalError(
                f"The journal {path} has format {version}; this Shoal reads format {SCHEMA_VERSION}. "
                + ("Update Shoal to read it." if version > SCHEMA_VERSION else "It is no journal, or damaged.")
            )
        connection.execute("SELECT max(seq) FROM journal").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _lock(folder: Path) -> int:
    """Take the experiment's lock, which the kernel frees when the process ends, however it ends."""
    import fcntl

    path = folder / "journal.lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise JournalError(f"The experiment's folder cannot be written: {error}.") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(handle, 200).decode(errors="replace").strip() or "another process"
        os.close(handle)
        raise JournalError(
            f"The experiment {folder} is being run by {owner}. Wait for it, or stop it first."
        ) from error
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return handle


def _unlock(handle: int) -> None:
    os.close(handle)
