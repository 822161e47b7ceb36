"""The files of an experiment as its journal knows them: which checkpoints are there, needed, freed, or nobody's."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.leftovers import committed_number, is_unfinished, of_the_store
from ..core.commands import checkpoint_name
from ..core.events import Reported, Saved
from ..history import History
from .sizes import size_of

if TYPE_CHECKING:
    from ..history import CheckpointEntry, TrialHistory
    from ..journal import Record

__all__ = ["Files", "Item", "read_files"]

_HALF_REPLACED = re.compile(
    r"\.(?:result\.json|progress\.csv|params\.json|pbt_global\.txt|pbt_policy_[^/]*\.txt)\.new|\.writable"
)


@dataclass(frozen=True, slots=True)
class Item:
    """Something that can be deleted."""

    path: Path
    size: int
    """Bytes."""
    why: str
    """What it is, in a few words."""
    checkpoint: str | None = None
    """The id of the checkpoint, where the journal counts on it."""


@dataclass(slots=True)
class Files:
    """What the journal tells about the files of an experiment."""

    folder: Path
    history: History = field(default_factory=History)
    following: dict[str, int] = field(default_factory=dict[str, int])
    """For each trial, the number that follows the last one that a report has told of."""

    @property
    def freed(self) -> int:
        """How many checkpoints the user has had deleted after a run."""
        return sum(len(trial.freed) for trial in self.history.trials.values())

    def trial_folder(self, trial: TrialHistory) -> Path | None:
        """Return a trial's folder; None where it is not there, or leads out of the experiment."""
        path = self.folder / trial.folder
        plain = trial.folder not in ("", ".", "..") and os.sep not in trial.folder
        with contextlib.suppress(OSError):
            if plain and path.is_dir() and not path.is_symlink():
                return path
        return None

    def checkpoints(self) -> Iterator[tuple[TrialHistory, int, CheckpointEntry, Path]]:
        """Yield the checkpoints that the journal says are there, oldest first, with their paths."""
        for trial in self.history.in_order():
            for number, entry in sorted(trial.whole.items()):
                yield trial, number, entry, self.folder / trial.folder / checkpoint_name(number)

    def needed(self) -> set[str]:
        """Return the ids of the checkpoints that a restore goes on from, or that others may copy then."""
        found: set[str] = set()
        for trial in self.history.trials.values():
            own = [number for number in trial.whole if number >= trial.first_checkpoint]
            if own:
                found.add(f"{trial.trial_id}/{checkpoint_name(max(own))}")
            if trial.restore is not None:
                found.add(trial.restore.id)
        return found

    def leftovers(self) -> list[Item]:
        """Return what processes have left that were killed: nobody will ever read it."""
        found: list[Item] = []
        saves = any(self.following.values())
        found += self._half_replaced(self.folder)
        for trial in self.history.in_order():
            folder = self.trial_folder(trial)
            if folder is None:
                continue
            found += self._half_replaced(folder)
            committed: dict[int, Path] = {}
            for path in _entries(folder):
                if not path.is_dir() or path.is_symlink():
                    continue
                if is_unfinished(path.name):
                    what = "was being deleted" if path.name.startswith(".deleted") else "was being written"
                    found.append(Item(path, size_of(path), f"a checkpoint that {what}"))
                elif (number := committed_number(path.name)) is not None:
                    committed[number] = path
            if not saves:
                continue
            for number in sorted(of_the_store(committed, self.following.get(trial.trial_id, 0))):
                path = committed[number]
                if number in trial.freed:
                    found.append(Item(path, size_of(path), "a checkpoint that was freed before"))
                elif number not in trial.checkpoints:
                    found.append(Item(path, size_of(path), "a checkpoint that counts no more"))
        return found

    @staticmethod
    def _half_replaced(folder: Path) -> list[Item]:
        return [
            Item(path, size_of(path), "a file that was being written")
            for path in _entries(folder)
            if _HALF_REPLACED.fullmatch(path.name) and path.is_file() and not path.is_symlink()
        ]


def read_files(folder: Path, records: Iterable[Record]) -> Files:
    """Return what the records of an experiment's journal tell about its files."""
    files = Files(folder)
    for record in records:
        files.history.add(record)
        item = record.item
        if isinstance(item, (Reported, Saved)) and item.checkpoint is not None:
            following = files.following.get(item.trial_id, 0)
            files.following[item.trial_id] = max(following, item.checkpoint.number + 1)
    return files


def _entries(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(folder.iterdir())
    return []
