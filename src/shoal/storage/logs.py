"""The log files of an experiment in storage: copied now and then, as far as they have changed."""

from __future__ import annotations

import os
import re
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TypeAlias

from .place import Place
from .workers import Workers

__all__ = ["LogCopies", "log_files"]

_NAME = re.compile(
    r"result\.json|progress\.csv|params\.(json|pkl)|output\.log|error\.(txt|pkl)|pbt_global\.txt|pbt_policy_.*\.txt"
    r"|events\.out\.tfevents\..*"
)
_AT_ONCE = 4
Stamp: TypeAlias = tuple[int, int]


def log_files(folder: Path) -> dict[str, Stamp]:
    """Return the log files of an experiment: their names from its folder on, and what tells whether they have changed.

    Args:
        folder: the experiment's, on this machine.
    """
    found: dict[str, Stamp] = {}
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return found
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if not entry.name.startswith("."):
                _add(found, entry.path, f"{entry.name}/")
        elif _NAME.fullmatch(entry.name):
            _add_one(found, entry, "")
    return found


def _add(found: dict[str, Stamp], folder: str, prefix: str) -> None:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name):
                    _add_one(found, entry, prefix)
    except OSError:
        return


def _add_one(found: dict[str, Stamp], entry: os.DirEntry[str], prefix: str) -> None:
    try:
        if entry.is_file():
            state = entry.stat()
            found[prefix + entry.name] = (state.st_size, state.st_mtime_ns)
    except OSError:
        return


class LogCopies:
    """Copies the log files of a running experiment, beside everything else.

    Args:
        place: the experiment's, in storage.
        folder: the experiment's, on this machine.
    """

    def __init__(self, place: Place, folder: Path) -> None:
        self._place = place
        self._folder = folder
        self._sent: dict[str, Stamp] = {}
        self._whole = Workers(1, "shoal-logs")
        self._single = Workers(_AT_ONCE, "shoal-log")

    def send(self) -> Future[None]:
        """Copy what has changed since the last time. The future's error says what could not be copied."""
        return self._whole.submit(self._send)

    def close(self) -> None:
        """Copy nothing more, and wait for nothing."""
        self._whole.close()
        self._single.close()

    def _send(self) -> None:
        changed = {name: stamp for name, stamp in log_files(self._folder).items() if self._sent.get(name) != stamp}
        futures = [self._single.submit(partial(self._send_one, name, stamp)) for name, stamp in changed.items()]
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            raise errors[0]

    def _send_one(self, name: str, stamp: Stamp) -> None:
        try:
            (self._place / name).upload_file(self._folder / name)
        except FileNotFoundError:
            return  # it is gone from this machine
        self._sent[name] = stamp
