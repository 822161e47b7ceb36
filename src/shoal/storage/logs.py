"""The other files of an experiment in storage: log files, and what users write beside them; copied now and then.

That is all in the experiment's folder but the journal, the checkpoints, which go by themselves, and what Shoal has
there for a moment. Of checkpoints there are only the notes, which may change when the checkpoint is in storage already.
Files that have not changed are not copied again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

from ..checkpoints import NOTES
from ..checkpoints.leftovers import committed_number, is_unfinished
from ..core.commands import checkpoint_name
from .place import PROBE, Place
from .transfer import MANIFEST_SUFFIX, key_of, manifest_place, name_of_key, safe_name
from .trying import FileRefused
from .workers import Workers

__all__ = [
    "LogCopies", "Stamp", "is_made_from_the_journal", "lacking", "log_files", "note_unread", "stored_files",
]  # fmt: skip

_MADE = re.compile(
    r"result\.json|progress\.csv|params\.(json|pkl)|error\.pkl|pbt_global\.txt|pbt_policy_.*\.txt"
    r"|events\.out\.tfevents\..*"
)
_OF_SHOAL = re.compile(
    r"journal(\.lock|\.copy\.json|\.sqlite(-(shm|wal|journal))?)?"
    r"|\.journal\.(copy\.json\.\d+|sqlite\.\d+\.\d+(-(shm|wal|journal))?)"
    rf"|\.writable|\.pbt_.*\.txt\.new|\.unread\.json|{PROBE}"
)
"""Names in the experiment's folder: of the journal, in storage too, its lock, and what is there for a moment."""
_FOR_A_MOMENT = re.compile(rf"\.({_MADE.pattern}|error\.txt)\.new")
"""Names in a trial's folder of log files that are being written anew."""
_UNREAD = ".unread.json"
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
    return _Found.of(folder).files


@dataclass(slots=True)
class _Found:
    """What is in an experiment's folder beside the journal. Names go from that folder on."""

    files: dict[str, Stamp] = field(default_factory=dict[str, Stamp])
    notes: dict[str, Stamp] = field(default_factory=dict[str, Stamp])
    """Notes about checkpoints."""
    closed: list[str] = field(default_factory=list[str])
    """Folders that cannot be looked into."""

    @classmethod
    def of(cls, folder: Path) -> _Found:
        found = cls()
        found._add(os.fspath(folder), "", 0)
        return found

    def _add(self, folder: str, prefix: str, depth: int) -> None:
        try:
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    with contextlib.suppress(OSError):  # it is gone
                        self._take(entry, prefix, depth)
        except FileNotFoundError:
            return
        except OSError:
            self.closed.append(prefix.rstrip("/"))

    def _take(self, entry: os.DirEntry[str], prefix: str, depth: int) -> None:
        name = prefix + entry.name
        if not _is_other(entry.name, depth):
            # There may be many: each is asked for this one file, and not listed.
            if depth == 1 and committed_number(entry.name) is not None:
                state = os.stat(os.path.join(entry.path, NOTES))
                self.notes[f"{name}/{NOTES}"] = (state.st_size, state.st_mtime_ns)
        elif entry.is_dir(follow_symlinks=False):
            self._add(entry.path, f"{name}/", depth + 1)
        elif entry.is_file():
            state = entry.stat()
            self.files[name] = (state.st_size, state.st_mtime_ns)


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


def note_unread(folder: Path, names: Collection[str]) -> None:
    """Write down which files storage has and did not give: what is here under their names is not all of them.

    Args:
        folder: the experiment's, on this machine.
        names: theirs, from that folder on.
    """
    (folder / _UNREAD).write_text(json.dumps(sorted(names)))


def _unread(folder: Path) -> frozenset[str]:
    try:
        return frozenset(map(str, json.loads((folder / _UNREAD).read_text())))
    except (OSError, ValueError, TypeError):
        return frozenset()


def lacking(
    place: Place,
    folder: Path,
    checkpoints: Collection[tuple[str, int]],
    existing: Callable[[], Collection[tuple[str, int]]] = tuple,
) -> list[str]:
    """Return the files on this machine that storage does not have, of an experiment that has been copied.

    Args:
        place: the experiment's, in storage.
        folder: the experiment's, on this machine.
        checkpoints: those that are Shoal's, by the trial's folder and the number. What only has such a name is a
            user's, and is never copied.
        existing: returns those of them that still exist. It is asked only where one is on this machine alone.

    Raises:
        PlaceError: storage cannot be read.
    """
    there = place.list_sizes()
    here = _Found.of(folder)
    unread = _unread(folder)
    found = [name for name, (size, _) in here.files.items() if name in unread or there.get(key_of(name)) != size]
    alone: list[tuple[str, int]] = []
    for path in folder.glob("*/checkpoint_*"):
        trial, name = path.parent.name, f"{path.parent.name}/{path.name}"
        number = committed_number(path.name.removesuffix(MANIFEST_SUFFIX))
        if number is None:
            continue
        if not (path.is_dir() and (trial, number) in checkpoints):
            found.append(name)
        elif key_of(f"{name}{MANIFEST_SUFFIX}") not in there:
            alone.append((trial, number))
        elif (notes := here.notes.get(f"{name}/{NOTES}")) and there.get(key_of(f"{name}/{NOTES}")) != notes[0]:
            found.append(f"{name}/{NOTES}")
    if alone:
        wanted = existing()
        found += [f"{trial}/{checkpoint_name(number)}" for trial, number in alone if (trial, number) in wanted]
    return [*found, *here.closed, *_unknown(folder)]


def _unknown(folder: Path) -> list[str]:
    """Return what is in the experiment's folder under a name of the journal's, and is not Shoal's: it is not copied."""
    return ["journal"] if (folder / "journal").exists() else []


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
        self._unread = _unread(folder)
        """Those that would be written over with less than they are."""
        self._sent: dict[str, Stamp] = {}
        self._began = time.time_ns()
        """Notes that are older were there when this driver began: somebody may have changed them in storage since."""
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
        found = _Found.of(self._folder)
        for name in self._sent.keys() - found.files.keys() - found.notes.keys():
            del self._sent[name]
        todo = [
            partial(send, name, stamp)
            for send, stamps in ((self._send_one, found.files), (self._send_notes, found.notes))
            for name, stamp in stamps.items()
            if self._sent.get(name) != stamp and name not in self._unread
        ]
        errors = [error for each in map(self._single.submit, todo) if (error := each.exception()) is not None]
        if errors:
            raise errors[0]

    def _send_one(self, name: str, stamp: Stamp) -> None:
        # One that cannot be read, for example: whoever would delete it here finds that storage lacks it.
        with contextlib.suppress(FileNotFoundError, FileRefused):
            (self._place / key_of(name)).upload_file(self._folder / name, self._has_moved)
            self._sent[name] = stamp

    def _send_notes(self, name: str, stamp: Stamp) -> None:
        """Copy notes that may have changed since their checkpoint was sent, which has taken them along."""
        notes = self._place / key_of(name)
        if name not in self._sent and stamp[1] < self._began and _is_newer(notes, stamp):
            self._sent[name] = stamp
            return
        if not manifest_place(notes.parent).is_there():
            return  # it is not there yet, and takes them along, or no more
        self._send_one(name, stamp)
        if not (self._folder / name).parent.is_dir():
            # It was deleted meanwhile, there perhaps before they came.
            self._sent.pop(name, None)
            notes.delete()

    def _has_moved(self) -> None:
        self.moved += 1


def _is_newer(notes: Place, stamp: Stamp) -> bool:
    """Return whether notes in storage have changed after those of this machine, as far as clocks tell."""
    try:
        changed = notes.changed_at()
    except FileNotFoundError:
        return False
    return changed is None or changed * 1e9 >= stamp[1]
