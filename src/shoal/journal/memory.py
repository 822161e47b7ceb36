"""A journal that lives in memory, for tests. It writes and reads through the same codec as the durable one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from .brief import BRIEF, Expander, Writer
from .codec import Item, Record, decode

__all__ = ["MemoryJournal"]


class MemoryJournal:
    """See :class:`shoal.journal.Journal`."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, str, str]] = []
        self._meta: dict[str, str] = {}
        self._writer = Writer()

    def append(self, items: Sequence[Item], at: float) -> list[Record]:
        """Write the items in order. Return their records."""
        records: list[Record] = []
        for item in items:
            seq = len(self._rows) + 1
            kind, body, texts = self._writer.encode(seq, item)
            self._rows.append((at, kind, body))
            records.append(Record(seq, at, item, texts))
        return records

    def set_meta(self, **values: Any) -> None:
        """Remember facts about the whole experiment."""
        self._meta.update({key: json.dumps(value) for key, value in values.items()})

    def meta(self) -> dict[str, Any]:
        """Return the facts about the whole experiment."""
        return {key: json.loads(value) for key, value in self._meta.items()}

    def read(self, after: int = 0) -> Iterator[Record]:
        """Yield the records whose number is greater than ``after``, in order."""
        expander = Expander(lambda number: decode(*self._rows[number - 1][1:]))
        for place, (at, kind, body) in enumerate(self._rows[after:], start=after + 1):
            item = expander.decode(place, body) if kind == BRIEF else decode(kind, body)
            yield Record(place, at, item)

    def check_place(self) -> None:
        """It is always where it is."""

    def close(self) -> None:
        """Nothing to let go of."""
