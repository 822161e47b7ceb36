"""How the journal's copy lies in storage: epochs, and in each of them segments of records.

Names say everything but the records.

``journal/000002.5e1f.from.9a0c.0000001234/`` is the second epoch: it goes on after record 1234 of the epoch ``9a0c``.
Whoever takes an experiment over begins a new epoch, and writes nowhere else. In it there are

* ``open.json``, without which it does not count: who began it;
* ``facts.json``: the facts about the experiment;
* ``alive.json``: the heartbeat;
* ``0000001235-0000001300.1.seg``: records 1235 to 1300, merged once from smaller ones. Those of them that are still
  there say the same. A segment ends where a batch of records does that was committed together.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import xxhash

from ..errors import JournalError
from ..journal.sqlite import RawRecord

__all__ = ["ALIVE", "FACTS", "OPEN", "Epoch", "Packed", "Segment", "Shelf", "arranged", "pack", "unpack"]

OPEN, FACTS, ALIVE = "open.json", "facts.json", "alive.json"
_EPOCH = re.compile(r"(\d{6,})\.([0-9a-f]+)\.from\.([0-9a-f]*)\.(\d{10,})")
_SEGMENT = re.compile(r"(\d{10,})-(\d{10,})\.(\d+)\.seg")
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Epoch:
    """The time in which one driver has an experiment."""

    number: int
    token: str
    """Hex digits, drawn by who began it."""
    parent: str
    """Token of the epoch that it goes on from; empty where it is the first."""
    base: int
    """Number of the record after which it goes on."""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.number:06d}.{self.token}.from.{self.parent}.{self.base:010d}"

    @classmethod
    def of(cls, name: str) -> Epoch | None:
        """Return the epoch whose folder has a name; None for another name."""
        found = _EPOCH.fullmatch(name)
        return None if found is None else cls(int(found[1]), found[2], found[3], int(found[4]))

    def is_after(self, other: Epoch) -> bool:
        """Return whether this one counts more. Of two that were begun at the same time one wins, for all who look."""
        return (-self.number, self.token) < (-other.number, other.token)


@dataclass(frozen=True, slots=True)
class Segment:
    """Records that follow each other, in one object."""

    first: int
    last: int
    level: int
    """How often they were merged."""

    @property
    def name(self) -> str:
        """The name of its object."""
        return f"{self.first:010d}-{self.last:010d}.{self.level}.seg"

    @classmethod
    def of(cls, name: str) -> Segment | None:
        """Return the segment whose object has a name; None for another name."""
        found = _SEGMENT.fullmatch(name)
        return None if found is None else cls(int(found[1]), int(found[2]), int(found[3]))


@dataclass(slots=True)
class Shelf:
    """What there is of one epoch, by the names of its objects."""

    epoch: Epoch
    segments: list[Segment] = field(default_factory=list[Segment])
    objects: set[str] = field(default_factory=set[str])

    def following(self, seq: int, upto: int | None = None) -> list[Segment]:
        """Return the fewest segments with what comes after a record, without gaps, in order.

        Args:
            seq: the record's number.
            upto: nothing after this one is needed; None: all that is there.
        """
        found: list[Segment] = []
        while upto is None or seq < upto:
            fitting = [each for each in self.segments if each.first <= seq + 1 <= each.last]
            if not fitting:
                break
            best = max(fitting, key=lambda each: (each.last, -each.first))
            found.append(best)
            seq = best.last
        return found

    @property
    def end(self) -> int:
        """Number of the newest record that can be reached."""
        found = self.following(self.epoch.base)
        return found[-1].last if found else self.epoch.base

    @property
    def gap(self) -> tuple[int, int] | None:
        """Numbers of the first and the last record that are missing before others that are there; None: none are."""
        end = self.end
        beyond = [segment.first for segment in self.segments if segment.first > end + 1]
        return (end + 1, min(beyond) - 1) if beyond else None


def arranged(names: Iterable[str]) -> dict[str, Shelf]:
    """Return the epochs that count by their tokens, from the names of all objects in the folder ``journal``."""
    shelves: dict[str, Shelf] = {}
    for name in names:
        folder, _, inner = name.partition("/")
        epoch = Epoch.of(folder)
        if epoch is None or not inner:
            continue
        shelf = shelves.setdefault(epoch.token, Shelf(epoch))
        segment = Segment.of(inner)
        if segment is None:
            shelf.objects.add(inner)
        else:
            shelf.segments.append(segment)
    return {token: shelf for token, shelf in shelves.items() if OPEN in shelf.objects}


@dataclass(frozen=True, slots=True)
class Packed:
    """What a segment holds."""

    version: int
    """The format of the journal that the records are of."""
    records: Sequence[RawRecord]


def pack(version: int, records: Sequence[RawRecord]) -> bytes:
    """Return the object of a segment."""
    lines = "\n".join(map(_line, records)).encode()
    body = zlib.compress(lines, 6)
    head = {
        "format": _FORMAT,
        "journal": version,
        "first": records[0][0],
        "last": records[-1][0],
        "digest": xxhash.xxh3_128_hexdigest(body),
    }
    return json.dumps(head).encode() + b"\n" + body


def _line(record: RawRecord) -> str:
    return json.dumps(record, separators=(",", ":"))


def unpack(data: bytes, segment: Segment, where: str) -> Packed:
    """Return what :func:`pack` was given.

    Args:
        data: the object.
        segment: what its name says.
        where: its URL, for the error.

    Raises:
        JournalError: it is damaged, or a newer Shoal has written it.
    """
    head_text, _, body = data.partition(b"\n")
    try:
        head: Mapping[str, Any] = json.loads(head_text)
        if head["format"] != _FORMAT:
            raise JournalError(f"{where} has format {head['format']}; this Shoal reads {_FORMAT}. Update Shoal.")
        if head["digest"] != xxhash.xxh3_128_hexdigest(body):
            raise JournalError(f"{where} is damaged: it is not what was written, by its checksum.")
        # Split as bytes: texts in it may have other characters that end lines.
        records = [_record(line) for line in zlib.decompress(body).split(b"\n")]
        version = int(head["journal"])
    except (ValueError, TypeError, LookupError, RecursionError, zlib.error) as error:
        raise JournalError(f"{where} is damaged: {error}.") from error
    numbers = [record[0] for record in records]
    if numbers != list(range(segment.first, segment.last + 1)) or records[-1][4] >= 0:
        raise JournalError(f"{where} is damaged: it does not hold the records that its name says.")
    return Packed(version, records)


def _record(line: bytes) -> RawRecord:
    seq, at, kind, body, stamp = json.loads(line)
    return int(seq), float(at), str(kind), str(body), int(stamp)
