"""The durable record of an experiment: everything that happened and was decided, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from .codec import Item, Record

__all__ = ["JOURNAL_NAME", "Item", "Journal", "Record"]

JOURNAL_NAME = "journal.sqlite"
"""Name of the journal's file in the folder of an experiment."""


class Journal(Protocol):
    """One writer appends; any number of readers read what is committed."""

    def append(self, items: Sequence[Item], at: float) -> list[Record]:
        """Write the items in order and commit them together. Return their records."""
        ...

    def set_meta(self, **values: Any) -> None:
        """Remember facts about the whole experiment (JSON values), replacing older ones of the same names."""
        ...

    def meta(self) -> dict[str, Any]:
        """Return the facts about the whole experiment."""
        ...

    def read(self, after: int = 0) -> Iterator[Record]:
        """Yield the committed records whose number is greater than ``after``, in order."""
        ...

    def check_place(self) -> None:
        """Make sure that what is written can still be found.

        Raises:
            JournalError: its files were deleted, moved or replaced.
        """
        ...

    def close(self) -> None:
        """Write out everything and let go of the file."""
        ...
