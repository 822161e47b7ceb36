"""Who runs an experiment: what the lock's file says, and whether that is so."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..reading import Experiment

__all__ = ["Driver", "driver_of", "who_runs"]

_OWNER = re.compile(r"process (\d{1,10}) on (\S.*?)(?: \((\w+)\))?")


@dataclass(frozen=True, slots=True)
class Driver:
    """The process that has the lock of an experiment, as the lock's file names it."""

    pid: int
    host: str
    task: str | None = None
    """What it has the lock for, where that is not to run the experiment: ``gc``."""

    @property
    def here(self) -> bool:
        """Whether it runs on this machine, by its name."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether there is such a process on this machine, and it is no zombie."""
        import psutil

        try:
            status: str = psutil.Process(self.pid).status()
        except psutil.NoSuchProcess:
            return False
        except psutil.Error:
            return True
        return status != psutil.STATUS_ZOMBIE

    @property
    def is_mine(self) -> bool:
        """Whether this user may end it."""
        import psutil

        with contextlib.suppress(psutil.Error):
            return os.geteuid() in (0, psutil.Process(self.pid).uids().real)
        return False

    def holds(self, path: Path) -> bool | None:
        """Return whether it has the lock's file open; None where that cannot be told.

        Another process may have its number: in another container, or because it has ended and the number was given
        again.
        """
        import psutil

        try:
            wanted = path.stat()
            names = [entry.path for entry in psutil.Process(self.pid).open_files()]
        except (psutil.Error, OSError):
            return None
        for name in names:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(name), wanted):
                    return True
        return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def who_runs(experiment: Experiment) -> Driver | None:
    """Return who runs an experiment, or ran it last; None where that is not known."""
    if experiment.view is not None and (found := experiment.view.driver()) is not None:
        return Driver(*found)
    return driver_of(experiment.folder)


def driver_of(folder: Path) -> Driver | None:
    """Return who has the lock of an experiment, or had it last, as its file says; None where that says nothing."""
    from ..journal.lock import LOCK_NAME

    with contextlib.suppress(OSError), (folder / LOCK_NAME).open(errors="replace") as file:
        found = _OWNER.fullmatch(file.read(300).strip())
        return None if found is None else Driver(int(found[1]), found[2], found[3])
    return None
