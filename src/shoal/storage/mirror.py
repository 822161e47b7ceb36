"""Keeps the copy of a running experiment in storage up to date, behind the run. (Signatures; being built.)"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.depot import Depot
from ..journal.codec import Record
from .place import Place

if TYPE_CHECKING:
    from ..experiment import ExperimentInfo
    from ..history import History

__all__ = ["Mirror"]


class Mirror:
    """A reader of the experiment with one thread. It must be the last reader of the driver."""

    trouble: str | None = None
    """Why it has given up: the run is to end."""

    def __init__(
        self,
        place: Place,
        depot: Depot,
        *,
        every_s: float | None = None,
        patience_s: float | None = None,
    ) -> None:
        raise NotImplementedError

    def begin(self, folder: Path) -> None:
        """Take the experiment over in storage, before anything runs; raises StorageError, TakenOver, JournalError.

        The journal in the folder exists (and has its facts) by now.
        """
        raise NotImplementedError

    def start(self, info: ExperimentInfo, folder: Path, history: History) -> None:
        """See Reader."""
        raise NotImplementedError

    def take(self, record: Record) -> None:
        """See Reader."""
        raise NotImplementedError

    def flush(self) -> None:
        """See Reader."""
        raise NotImplementedError

    def told(self) -> list[str]:
        """Return what the user is to be told since the last call, such as that storage is away: for the driver's tick."""
        raise NotImplementedError

    def close(self, *, at_once: bool = False, patience_s: float | None = None) -> None:
        """Make the last round: all checkpoints, the journal, the log files.

        at_once: try for a few seconds only. patience_s: how long at most; default: as given to the class. Sets
        ``trouble`` where not everything is in storage now.
        """
        raise NotImplementedError
