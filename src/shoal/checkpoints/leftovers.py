"""Which folders in a trial's folder are the store's, and which of them nobody needs: told by their names."""

from __future__ import annotations

import re
from collections.abc import Collection

__all__ = ["committed_number", "is_unfinished", "of_the_store"]

_COMMITTED = re.compile(r"checkpoint_(\d{6,})")
_UNFINISHED = re.compile(r"\.checkpoint_\d{6,}\.\d+|\.deleted_checkpoint_\d{6,}")
"""Names that only the store gives."""


def committed_number(name: str) -> int | None:
    """Return the number in the name of a committed checkpoint's folder; None for any other name."""
    found = _COMMITTED.fullmatch(name)
    return None if found is None else int(found[1])


def is_unfinished(name: str) -> bool:
    """Return whether a folder of this name is a checkpoint that was being written or deleted."""
    return _UNFINISHED.fullmatch(name) is not None


def of_the_store(numbers: Collection[int], following: int) -> list[int]:
    """Return which numbers of folders were given by the store; others are the user's own.

    The store counts. So it has given all numbers below the one that follows, and from there on those without a gap:
    checkpoints whose reports have not arrived. In an experiment that saves nothing through reports, all are the user's.

    Args:
        numbers: of the folders in a trial's folder.
        following: the number that the trial's next checkpoint would have.
    """
    while following in numbers:
        following += 1
    return [number for number in numbers if number < following]
