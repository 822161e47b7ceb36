"""The journal's copy in storage: what is published, who publishes it, and how it comes back. See :mod:`.segments`."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from ..errors import JournalError
from ..journal import JOURNAL_NAME
from ..journal.lock import check_free as check_unlocked
from ..journal.sqlite import RawRecord, SQLiteJournal
from .heartbeat import Alive, born_at, this_machine
from .place import Place
from .segments import ALIVE, FACTS, OPEN, Epoch, Packed, Segment, Shelf, arranged, pack, unpack
from .trying import retrying
from .workers import each

__all__ = [
    "COPY_NAME", "Alive", "Published", "Relation", "Shipper", "TakenOver", "begun", "check_free", "fetch", "is_there",
    "look", "refresh", "relation",
]  # fmt: skip

Relation: TypeAlias = Literal["same", "further", "behind", "other", "nothing"]
_T = TypeVar("_T")
_FOLDER = "journal"
_PATIENCE_S = 20.0
"""For a single request of who only looks. A driver has more: it tries whole rounds again."""
_AT_ONCE = 8
_ABOUT = 8192
"""So many records are in a segment at most, or a few more: those that were committed together stay together."""
_ABOUT_BYTES = 8 << 20
"""Likewise for the bytes of their texts: they are in memory, several segments at a time, of whoever reads them."""
_LARGE = 65536
"""Segments with so many records together are not merged any more."""
_LARGE_BYTES = 2 << 20
"""Nor are those of so many bytes, as they lie in storage."""
_FANOUT = 16
"""So many segments of a level become one of the next."""
_RACES = 8
"""How often it is looked again where a segment was merged into another while they were read."""
_SLACK_S = 1.0
_BEATS_S = (0.1, 10.0)
"""Between two heartbeats there is at least and at most so much, whatever is written in one."""
COPY_NAME = "journal.copy.json"
"""Beside a copy: which records of which epoch it is of."""


class TakenOver(JournalError):
    """Another driver has taken the experiment over."""


class _Merged(Exception):
    """A segment is not there any more: what was listed is old."""


@dataclass(frozen=True, slots=True)
class Published:
    """What there is of an experiment in storage."""

    seq: int
    """Number of the newest record; 0 where nothing had happened yet."""
    facts: dict[str, Any]
    """The facts about the experiment, as of the journal's ``meta()``."""
    alive: Alive | None
    """Its newest heartbeat."""
    epoch: int
    """How often it was begun or taken over."""


# ------------------------------------------------------------------------------------------------------------- looking


@dataclass(frozen=True, slots=True)
class _Part:
    """The records of one epoch that count."""

    shelf: Shelf
    after: int
    upto: int


@dataclass(frozen=True, slots=True)
class _Survey:
    """Where everything is that counts, oldest epoch first."""

    parts: tuple[_Part, ...]
    facts_of: Epoch | None
    """The newest epoch that has facts; None: none has, because its driver was killed when it had only just begun."""

    @property
    def seq(self) -> int:
        return self.parts[-1].upto

    @property
    def newest(self) -> Epoch:
        return self.parts[-1].shelf.epoch


def _survey(place: Place) -> _Survey | None:
    """Return what there is in storage; None where nothing has been begun."""
    for attempt in range(_RACES):
        shelves = arranged(_try((place / _FOLDER).list_sizes))
        newest = _newest(shelf.epoch for shelf in shelves.values())
        if newest is None:
            return None
        gap = shelves[newest.token].gap
        if gap is None:
            return _counted(place, shelves, newest)
        # A long list comes in pages, and segments were merged between two of them; or one is lost.
        if attempt == _RACES - 1:
            raise JournalError(f"The journal in {place} is damaged: records {gap[0]} to {gap[1]} are missing.")
    raise AssertionError


def _experiment(place: Place) -> tuple[_Survey, Epoch] | None:
    """Return what there is in storage, and the epoch with its facts; None where there is no experiment."""
    survey = _survey(place)
    return None if survey is None or survey.facts_of is None else (survey, survey.facts_of)


def _counted(place: Place, shelves: dict[str, Shelf], newest: Epoch) -> _Survey:
    parts: list[_Part] = []
    shelf, upto = shelves[newest.token], shelves[newest.token].end
    while True:
        epoch = shelf.epoch
        parts.append(_Part(shelf, epoch.base, upto))
        if not epoch.parent:
            break
        if epoch.parent not in shelves:
            raise JournalError(f"The journal in {place} is damaged: there is nothing of its epoch {epoch.parent!r}.")
        shelf, upto = shelves[epoch.parent], epoch.base
    facts_of = next((part.shelf.epoch for part in parts if FACTS in part.shelf.objects), None)
    return _Survey(tuple(reversed(parts)), facts_of)


def _newest(epochs: Iterator[Epoch]) -> Epoch | None:
    found: Epoch | None = None
    for epoch in epochs:
        if found is None or epoch.is_after(found):
            found = epoch
    return found


@dataclass(frozen=True, slots=True)
class _Facts:
    """The facts about an experiment."""

    version: int
    """The format of its journal."""
    texts: dict[str, str]
    """JSON texts."""

    def to_bytes(self) -> bytes:
        return json.dumps({"journal": self.version, "facts": self.texts, "crc": self.seal}).encode()

    @property
    def seal(self) -> int:
        return zlib.crc32(json.dumps([self.version, self.texts], sort_keys=True).encode())

    @property
    def values(self) -> dict[str, Any]:
        return {key: json.loads(text) for key, text in self.texts.items()}


def _read_facts(place: Place, epoch: Epoch) -> _Facts:
    where = place / _FOLDER / epoch.name / FACTS
    try:
        found: dict[str, Any] = json.loads(_try(where.read_bytes))
        facts = _Facts(int(found["journal"]), {str(key): str(text) for key, text in found["facts"].items()})
        whole = found["crc"] == facts.seal
    except FileNotFoundError as error:
        raise JournalError(f"{where} is gone: somebody has deleted the experiment.") from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise JournalError(f"{where} is damaged: {error}.") from error
    if not whole:
        raise JournalError(f"{where} is damaged: it is not what was written, by its checksum.")
    return facts


def _read_alive(place: Place, epoch: Epoch) -> Alive | None:
    for name in (ALIVE, OPEN):  # of one that was killed at its very beginning, there is only the latter
        try:
            found: Any = json.loads(_try((place / _FOLDER / epoch.name / name).read_bytes))
            shortest, longest = _BEATS_S
            if not shortest <= float(found["every_s"]) <= longest:
                found["every_s"] = longest
            return Alive(**{key: found[key] for key in Alive.__slots__})
        except FileNotFoundError:
            continue
        except (ValueError, TypeError, LookupError, RecursionError):
            return None
    return None


def is_there(place: Place) -> bool:
    """Return whether there is an experiment in storage.

    Args:
        place: the experiment's, ``s3://bucket/runs/name``.

    Raises:
        PlaceError: storage cannot be reached, or refuses.
    """
    return _experiment(place) is not None


def look(place: Place) -> Published | None:
    """Return what there is of an experiment, without its records; None where there is none.

    Args:
        place: the experiment's.

    Raises:
        JournalError: it is damaged.
        PlaceError: storage cannot be reached, or refuses.
    """
    found = _experiment(place)
    return None if found is None else _published(place, found[0], _read_facts(place, found[1]))


def begun(place: Place) -> Published | None:
    """As :func:`look`, and where a driver was killed when it had only just begun, what there is: it has no facts.

    Args:
        place: the experiment's.

    Raises:
        JournalError, PlaceError: as :func:`look`.
    """
    survey = _survey(place)
    if survey is None:
        return None
    facts = None if survey.facts_of is None else _read_facts(place, survey.facts_of)
    return _published(place, survey, facts)


def _published(place: Place, survey: _Survey, facts: _Facts | None) -> Published:
    values = {} if facts is None else facts.values
    return Published(survey.seq, values, _read_alive(place, survey.newest), survey.newest.number)


def check_free(
    place: Place,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
    tell: Callable[[str], object] | None = None,
) -> None:
    """Make sure that nobody runs an experiment. Where that cannot be told otherwise, this waits for some heartbeats.

    Args:
        place: the experiment's.
        clock, sleep: seconds, and how to wait for some.
        tell: what the user is told while this waits; default: a line on standard error.

    Raises:
        JournalError: it is being run.
        PlaceError: storage cannot be reached, or refuses.
    """
    survey = _survey(place)
    first = None if survey is None else _read_alive(place, survey.newest)
    if first is None or first.ended or first.surely_dead:
        return
    # Two heartbeats, and one more for a line that is slow.
    began, limit = clock(), 3 * first.every_s + _SLACK_S
    (tell or _tell)(f"{place}: waiting for {limit:.0f} s, to see whether {first.who}, which ran it last, is alive ...")
    while clock() - began < limit:
        sleep(first.every_s / 4)
        survey = _survey(place)
        now = None if survey is None else _read_alive(place, survey.newest)
        if now is None or now.ended:
            return
        if (now.counter, now.process, now.born) != (first.counter, first.process, first.born):
            raise JournalError(f"The experiment {place} is being run by {now.who}. Wait for it, or stop it first.")


def _tell(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # there may be no such stream
        sys.stderr.write(f"{text}\n")


# ------------------------------------------------------------------------------------------------------------ fetching


def fetch(place: Place, folder: Path) -> Published:
    """Make the journal in a folder of this machine a copy of the one in storage: whole, or not at all.

    Args:
        place: the experiment's.
        folder: made if needed. A journal that is there is replaced; nobody has it open.

    Returns:
        What the copy is of.

    Raises:
        JournalError: there is no experiment, it is damaged, or cannot be written here.
        PlaceError: storage cannot be reached, or refuses.
    """
    return _settled(partial(_fetch, place, folder))


def _fetch(place: Place, folder: Path) -> Published:
    survey, facts_of = _there(place)
    facts = _read_facts(place, facts_of)
    folder.mkdir(parents=True, exist_ok=True)
    check_unlocked(folder)
    (folder / COPY_NAME).unlink(missing_ok=True)
    records = (record for packed in _packed(place, survey, 0) for record in packed.records)
    SQLiteJournal.write_copy(folder, facts.version, facts.texts, records)
    _remember(folder, survey)
    return _published(place, survey, facts)


def refresh(place: Place, folder: Path) -> bool:
    """Bring a copy up to date that :func:`fetch` has made; return whether anything is new.

    Args:
        place: the experiment's.
        folder: that of the copy; where there is none, one is made.

    Raises:
        JournalError, PlaceError: as :func:`fetch`.
    """
    return _settled(partial(_refresh, place, folder))


def _refresh(place: Place, folder: Path) -> bool:
    known = _remembered(folder)
    survey, facts_of = _there(place)
    if known is None or not _is_prefix(known, survey):
        _fetch(place, folder)
        return True
    facts = _read_facts(place, facts_of)
    with contextlib.closing(SQLiteJournal.open_for_reading(folder)) as journal:
        before = _Facts(journal.format, journal.raw_facts())
    if before.version != facts.version:
        _fetch(place, folder)
        return True
    if survey.seq == known[1] and facts == before:
        return False
    check_unlocked(folder)
    for packed in _packed(place, survey, known[1]):
        SQLiteJournal.extend_copy(folder, facts.texts, packed.records)
    SQLiteJournal.extend_copy(folder, facts.texts, [])
    _remember(folder, survey)
    return True


def relation(place: Place, folder: Path) -> Relation:
    """Return how the journal in a folder of this machine stands to the one in storage.

    Args:
        place: the experiment's.
        folder: that on this machine.

    Returns:
        ``"same"`` or ``"further"``: it is the same experiment, and has all that is in storage, or more: go on with it.
        ``"behind"``: storage has more. ``"other"``: it has other records, or cannot be read, or there is no experiment
        in storage. In these two cases delete what is in the folder, checkpoints too, before :func:`fetch`.
        ``"nothing"``: there is no journal in the folder.

    Raises:
        PlaceError: storage cannot be reached, or refuses.
    """
    if not (folder / JOURNAL_NAME).exists():
        return "nothing"
    return _settled(partial(_relation, place, folder))


def _relation(place: Place, folder: Path) -> Relation:
    found = _experiment(place)
    if found is None:
        return "other"
    survey, facts_of = found
    try:
        with contextlib.closing(SQLiteJournal.open_for_reading(folder)) as journal:
            ours, facts = journal.last, journal.meta()
            theirs = _read_facts(place, facts_of).values
            if facts.get("run_id") != theirs.get("run_id"):
                return "other"
            common = min(ours, survey.seq)
            for packed in _packed(place, survey, max(0, common - 1)):
                # Each record names the time at which it was written: two that went apart differ in the last one.
                overlap = [record for record in packed.records if record[0] == common]
                if overlap and _of_file(journal, common) != _without_end(overlap[0]):
                    return "other"
                break
    except JournalError:
        return "other"
    if ours < survey.seq:
        return "behind"
    return "same" if ours == survey.seq else "further"


def _of_file(journal: SQLiteJournal, seq: int) -> tuple[Any, ...]:
    return _without_end(journal.raw(seq - 1, seq + (1 << 40), about=1)[0])


def _without_end(record: RawRecord) -> tuple[Any, ...]:
    """Return a record without what tells whether it ends its batch."""
    return (*record[:4], record[4] if record[4] >= 0 else ~record[4])


def _there(place: Place) -> tuple[_Survey, Epoch]:
    found = _experiment(place)
    if found is None:
        raise JournalError(f"{place} holds no experiment of Shoal.")
    return found


def _packed(place: Place, survey: _Survey, after: int) -> Iterator[Packed]:
    """Yield the records that count after a number, in order, a few segments in memory at a time.

    Raises:
        _Merged: a segment is not there any more.
    """
    wanted: list[tuple[_Part, Segment]] = []
    for part in survey.parts:
        start = max(after, part.after)
        found = part.shelf.following(start, part.upto) if part.upto > start else []
        if part.upto > start and (not found or found[-1].last < part.upto):
            raise JournalError(
                f"The journal in {place} is damaged: records {(found[-1].last if found else start) + 1} to "
                f"{part.upto} are missing."
            )
        wanted += [(part, segment) for segment in found]
    for start in range(0, len(wanted), _AT_ONCE):
        batch = wanted[start : start + _AT_ONCE]
        try:
            for (part, _), packed in zip(batch, each(partial(_read, place, *one) for one in batch), strict=True):
                records = [each for each in packed.records if max(after, part.after) < each[0] <= part.upto]
                yield Packed(packed.version, records)
                after = max(after, records[-1][0]) if records else after
        except FileNotFoundError as error:
            raise _Merged from error


def _read(place: Place, part: _Part, segment: Segment) -> Packed:
    where = place / _FOLDER / part.shelf.epoch.name / segment.name
    return unpack(_try(where.read_bytes), segment, where.url)


def _settled(call: Callable[[], _T]) -> _T:
    """Call again where the driver has merged segments meanwhile."""
    for _ in range(_RACES):
        try:
            return call()
        except _Merged:
            continue
    raise JournalError("The journal in storage changes faster than it can be read. Try again.")


def _remember(folder: Path, survey: _Survey) -> None:
    text = json.dumps({"epoch": survey.newest.token, "seq": survey.seq})
    staging = folder / f".{COPY_NAME}.{os.getpid()}"
    staging.write_text(text)
    staging.replace(folder / COPY_NAME)


def _remembered(folder: Path) -> tuple[str, int] | None:
    """Return the token of the epoch and the number of the newest record that a copy is of."""
    try:
        found: Any = json.loads((folder / COPY_NAME).read_text())
        token = str(found["epoch"])
        with contextlib.closing(SQLiteJournal.open_for_reading(folder)) as journal:
            return token, journal.last
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _is_prefix(known: tuple[str, int], survey: _Survey) -> bool:
    """Return whether what is known of an epoch are the first records of what there is now."""
    return any(part.shelf.epoch.token == known[0] and known[1] <= part.upto for part in survey.parts)


# ---------------------------------------------------------------------------------------------------------- publishing


class Shipper:
    """Publishes the journal of an experiment; used by one thread. Another one may call :meth:`beat`.

    Args:
        place: the experiment's, in storage.
        folder: the experiment's on this machine, whose journal is published.
        every_s: seconds between two heartbeats.
        clock: seconds since the epoch.
    """

    def __init__(self, place: Place, folder: Path, every_s: float, clock: Callable[[], float] = time.time) -> None:
        self._place = place
        self._folder = folder
        self._every_s = every_s
        self._clock = clock
        self._counter = 0
        self._where, self._born = this_machine(), born_at(os.getpid())
        self._epoch: Epoch | None = None
        self._facts: _Facts | None = None
        """Those that are published."""
        self._segments: list[Segment] = []
        """Those of this epoch that are published and may be merged, in order: they follow each other without gaps."""
        self._sizes: dict[Segment, int] = {}
        """Bytes of them."""
        self._merged: list[Segment] = []
        """Those that are to be deleted."""
        self.seq = 0
        """Number of the newest record that is published."""
        self.published = 0
        """How many segments were, larger ones of them included."""
        self._beating = threading.Lock()
        self._ended = False

    def begin(self) -> int:
        """Take the experiment over, or begin it. Return the number of the newest record that is there already.

        Raises:
            JournalError: what is in storage is not the beginning of what is in the folder.
            TakenOver: somebody else does the same at this moment.
            PlaceError: storage cannot be reached, or refuses.
        """
        survey = _survey(self._place)
        if survey is not None and survey.seq:
            how = relation(self._place, self._folder)
            if how not in ("same", "further"):
                raise JournalError(
                    f"{self._place} holds records that the journal in {self._folder} does not have: another driver has "
                    f"gone on with the experiment, or it is another one of that name. To go on with it: "
                    f"tune.Tuner.restore({self._place.url!r}, trainable)."
                )
        self.seq = 0 if survey is None else survey.seq
        number = 1 + max((entry.number for entry in _try(self._epochs)), default=0)
        parent = "" if survey is None or not survey.seq else survey.newest.token
        epoch = Epoch(number, uuid.uuid4().hex[:8], parent, self.seq)
        _try(partial((self._inside(epoch) / OPEN).write_bytes, self._heartbeat(ended=False)))
        self._epoch = epoch
        try:
            _try(self.check_mine)
        except TakenOver:
            _try((self._inside(epoch) / OPEN).delete)
            raise
        with contextlib.closing(SQLiteJournal.open_for_reading(self._folder)) as journal:
            _try(partial(self._publish_facts, journal))
        _try(self.beat)
        return self.seq

    def check_mine(self) -> None:
        """Make sure that nobody has taken the experiment over.

        Raises:
            TakenOver: somebody has.
            PlaceError: storage cannot be reached, or refuses.
        """
        newest = _newest(iter(self._epochs()))
        if newest is not None and self._epoch is not None and newest.is_after(self._epoch):
            alive = _read_alive(self._place, newest)
            who = "another driver" if alive is None else alive.who
            raise TakenOver(
                f"The experiment {self._place} was taken over by {who}, which has gone on from record {newest.base}. "
                f"What this driver has done since then is in {self._folder} only."
            )

    def publish(self, upto: int) -> None:
        """Publish the journal up to a record, with which a batch ends that was committed together.

        Raises:
            JournalError: the journal cannot be read.
            PlaceError: storage cannot be reached, or refuses. What has been published by then is a beginning.
        """
        with contextlib.closing(SQLiteJournal.open_for_reading(self._folder)) as journal:
            self._publish_facts(journal)
            version = journal.format
            while self.seq < upto:
                records = journal.raw(self.seq, upto, about=_ABOUT, about_bytes=_ABOUT_BYTES)
                segment = Segment(records[0][0], records[-1][0], 0)
                self._write(segment, pack(version, records))
                self._segments.append(segment)
                self.seq = segment.last
            self._merge(journal, version)
        self._drop_merged()

    def beat(self, *, ended: bool = False) -> None:
        """Say that this driver is there, or that it has ended; after that this says nothing more.

        Raises:
            PlaceError: storage cannot be reached, or refuses.
        """
        with self._beating:
            if self._ended and not ended:
                return
            (self._inside() / ALIVE).write_bytes(self._heartbeat(ended=ended))
            self._ended = ended

    def _heartbeat(self, *, ended: bool) -> bytes:
        self._counter += 1
        alive = Alive(
            os.getpid(),
            socket.gethostname(),
            self._counter,
            self._every_s,
            ended,
            self._clock(),
            self._where,
            self._born,
        )
        return json.dumps(asdict(alive)).encode()

    def _inside(self, epoch: Epoch | None = None) -> Place:
        found = epoch or self._epoch
        assert found is not None
        return self._place / _FOLDER / found.name

    def _epochs(self) -> list[Epoch]:
        names = (self._place / _FOLDER).list_names()
        return [epoch for name in names if (epoch := Epoch.of(name)) is not None]

    def _publish_facts(self, journal: SQLiteJournal) -> None:
        facts = _Facts(journal.format, journal.raw_facts())
        if facts != self._facts:
            (self._inside() / FACTS).write_bytes(facts.to_bytes())
            self._facts = facts

    def _write(self, segment: Segment, data: bytes) -> None:
        (self._inside() / segment.name).write_bytes(data)
        self._sizes[segment] = len(data)
        self.published += 1

    def _merge(self, journal: SQLiteJournal, version: int) -> None:
        """Make one of many small segments, so that there are few to read; and larger ones of those."""
        level = 0
        while any(segment.level >= level for segment in self._segments):
            same = [segment for segment in self._segments if segment.level == level]
            if len(same) >= _FANOUT:
                first, last = same[0].first, same[-1].last
                if (
                    last - first >= _LARGE or sum(self._sizes[each] for each in same) >= _LARGE_BYTES
                ):  # it is large enough as it is, and so is all that is before
                    del self._segments[: self._segments.index(same[-1]) + 1]
                else:
                    merged = Segment(first, last, level + 1)
                    self._write(merged, pack(version, journal.raw(first - 1, last)))
                    start = self._segments.index(same[0])
                    self._segments[start : start + len(same)] = [merged]
                    self._merged += same
            level += 1

    def _drop_merged(self) -> None:
        """Delete segments whose records are in a larger one."""
        if self._merged:
            each([(self._inside() / segment.name).delete for segment in self._merged])
            self._merged.clear()


def _try(call: Callable[[], _T]) -> _T:
    return retrying(call, patience_s=_PATIENCE_S)
