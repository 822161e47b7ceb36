"""The journal's copy in storage: segments of committed records, and who writes it. (Signatures; being built.)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import JournalError
from .place import Place

__all__ = ["Alive", "Published", "TakenOver", "check_free", "fetch", "is_there", "look", "refresh", "relation"]


class TakenOver(JournalError):
    """Another driver has taken the experiment over."""


@dataclass(frozen=True, slots=True)
class Alive:
    """The heartbeat of whoever runs an experiment, or ran it last."""

    process: int
    host: str
    counter: int
    every_s: float
    """Seconds between two heartbeats."""
    ended: bool
    """Whether the driver has said that it ends."""
    at: float
    """Seconds since the epoch, by the clock of the driver."""


@dataclass(frozen=True, slots=True)
class Published:
    """What there is of an experiment in storage."""

    seq: int
    """Number of the newest record."""
    facts: dict[str, Any]
    """Of the journal's ``meta()``."""
    alive: Alive | None


def is_there(place: Place) -> bool:
    """Return whether there is an experiment of this URL (``s3://bucket/runs/name``)."""
    raise NotImplementedError


def look(place: Place) -> Published | None:
    """Return what there is of an experiment, without its records; None where there is none."""
    raise NotImplementedError


def fetch(place: Place, folder: Path) -> Published:
    """Make the journal in a folder on this machine that is a copy of the one in storage: whole, or nothing.

    A journal that is there is replaced. JournalError: there is none, or it is damaged.
    """
    raise NotImplementedError


def refresh(place: Place, folder: Path) -> bool:
    """Bring a copy that :func:`fetch` made up to date; return whether anything is new."""
    raise NotImplementedError


def relation(place: Place, folder: Path) -> str:
    """Return how the journal in a local folder stands to the one in storage.

    ``"same"`` or ``"further"``: it is the same experiment, and has all that storage has (and more): go on with it.
    ``"behind"``: storage has more. ``"other"``: the same name, but not the same records. In both of these what is in the
    folder, checkpoints too, is to be deleted before :func:`fetch`. ``"nothing"``: no journal in the folder.
    """
    raise NotImplementedError


def check_free(place: Place) -> None:
    """Make sure that nobody runs the experiment; waits for a few heartbeats where that cannot be told otherwise.

    JournalError: "... is being run by process 12 on host".
    """
    raise NotImplementedError
