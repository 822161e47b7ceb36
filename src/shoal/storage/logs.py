"""The other files of an experiment in storage: log files, and what users write beside them; copied now and then.

That is all in the experiment's folder but the journal, the checkpoints, which go by themselves, and what is hidden or
being written at its top. Files that have not changed are not copied again.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TypeAlias

from ..checkpoints.leftovers import committed_number, is_unfinished
from .place import Place
from .transfer import MANIFEST_SUFFIX, key_of, name_of_key, safe_name
from .workers import Workers

__all__ = ["LogCopies", "Stamp", "is_made_from_the_journal", "lacking", "log_files", "stored_files"]

_MADE = re.compile(
    r"result\.json|progress\.csv|params\.(json|pkl)|error\.pkl|pbt_global\.txt|pbt_policy_.*\.txt"
    r"|events\.out\.tfevents\..*"
)
_OF_SHOAL = re.compile(r"\..*|journal|journal\..*")
"""Names in the experiment's folder: of the journal, in storage too, its lock, and what is there for a moment."""
_FOR_A_MOMENT = re.compile(r"\..*\.new")
"""Names in a trial's folder of log files that are being written anew."""
_AT_ONCE = 4
Stamp: TypeAlias = tuple[int, int]


def is_made_from_the_journal(name: str) -> bool:
    """Return whether a file is one that a driver writes anew where it is not there.

    Args:
        name: from the experiment's folder on.
    """
    return name.count("/") <= 1 and _MADE.fullmatch(name.rpartition("/")[2]) is not None


def log_files(folder: Path) -> dict[str, Stamp]:
    """Return the other files of an experiment, by their names from its folder on, and what tells that one has changed.

    Args:
        folder: the experiment's, on this machine.
    """
    found: dict[str, Stamp] = {}
    _add(found, os.fspath(folder), "", 0)
    return found


def _add(found: dict[str, Stamp], folder: str, prefix: str, depth: int) -> None:
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not _is_other(entry.name, depth):
                    continue
                with contextlib.suppress(OSError):  # it is gone
                    if entry.is_dir(follow_symlinks=False):
                        _add(found, entry.path, f"{prefix}{entry.name}/", depth + 1)
                    elif entry.is_file():
                        state = entry.stat()
                        found[prefix + entry.name] = (state.st_size, state.st_mtime_ns)
    except OSError:
        return


def _is_other(name: str, depth: int) -> bool:
    """Return whether a file or a folder is neither the journal's nor a checkpoint's.

    Args:
        name: its own.
        depth: 0 in the experiment's folder, 1 in that of a trial.
    """
    if depth == 0:
        return _OF_SHOAL.fullmatch(name) is None
    if depth > 1:
        return True
    a_checkpoint = is_unfinished(name) or committed_number(name.removesuffix(MANIFEST_SUFFIX)) is not None
    return not a_checkpoint and _FOR_A_MOMENT.fullmatch(name) is None


def lacking(place: Place, folder: Path, checkpoints: Collection[tuple[str, int]]) -> list[str]:
    """Return the files on this machine that storage does not have, of an experiment that has been copied.

    Args:
        place: the experiment's, in storage.
        folder: the experiment's, on this machine.
        checkpoints: those that are Shoal's, by the trial's folder and the number. What only has such a name is a
            user's, and is never copied.

    Raises:
        PlaceError: storage cannot be read.
    """
    there = place.list_sizes()
    found = [name for name, (size, _) in log_files(folder).items() if there.get(key_of(name)) != size]
    for path in folder.glob("*/checkpoint_*"):
        number = committed_number(path.name.removesuffix(MANIFEST_SUFFIX))
        if number is not None and not (path.is_dir() and (path.parent.name, number) in checkpoints):
            found.append(f"{path.parent.name}/{path.name}")
    return found


def stored_files(place: Place) -> dict[str, int]:
    """Return the other files of an experiment that are in storage: their names from its folder on, and their bytes.

    Args:
        place: the experiment's, in storage.

    Raises:
        PlaceError: storage cannot be read.
    """
    found = {name_of_key(key): size for key, size in place.list_sizes().items()}
    return {
        name: size
        for name, size in found.items()
        if safe_name(name) and all(_is_other(part, depth) for depth, part in enumerate(name.split("/")[:2]))
    }


class LogCopies:
    """Copies the other files of a running experiment, beside everything else.

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
        self.moved = 0
        """Grows with what arrives in storage."""

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
            (self._place / key_of(name)).upload_file(self._folder / name, self._has_moved)
        except FileNotFoundError:
            return  # it is gone from this machine
        self._sent[name] = stamp

    def _has_moved(self) -> None:
        self.moved += 1
