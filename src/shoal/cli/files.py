"""The files of an experiment as its journal knows them: which checkpoints are there, needed, freed, or nobody's."""

from __future__ import annotations

import contextlib
import json
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

_DELETED = ".deleted_"
_IN_FLIGHT = 2
"""So many checkpoints of a trial may be there whose reports had not arrived when its driver was killed."""
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
    freed: bool = False
    """Whether the user has had it deleted before, which was interrupted."""


@dataclass(slots=True)
class Files:
    """What the journal tells about the files of an experiment."""

    folder: Path
    history: History = field(default_factory=History)
    following: dict[str, int] = field(default_factory=dict[str, int])
    """For each trial, the number that follows the last one that a report has told of."""
    reported: dict[str, set[tuple[int, int]]] = field(default_factory=dict[str, set[tuple[int, int]]])
    """For each trial, iteration and timestamp of all that it has ever reported, also where that counts no longer."""
    _unreported: dict[str, int] | None = None

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
        """Return the ids of the checkpoints that a restore goes on from, or that others may copy then.

        Where the one that a trial goes on from is known to be damaged or was deleted, that are those which the core may
        fall back to: older ones of its own, or of those that its weights came from. The core takes one of them.
        """
        found: set[str] = set()
        for trial in self.history.trials.values():
            own = [number for number in trial.whole if number >= trial.first_checkpoint]
            if own:
                found.add(f"{trial.trial_id}/{checkpoint_name(max(own))}")
            if trial.restore is not None:
                found.add(trial.restore.id)
            if self._has_lost_its_way(trial):
                found |= self._fallbacks(trial)
        return found

    def _has_lost_its_way(self, trial: TrialHistory) -> bool:
        """Return whether what a trial would go on from is known to be damaged, or was deleted."""
        if trial.restore is not None:
            return trial.restore.number not in self.history.trials[trial.restore.trial_id].whole
        newest = max((number for number in trial.checkpoints if number >= trial.first_checkpoint), default=None)
        return newest is not None and newest not in trial.whole

    def _fallbacks(self, trial: TrialHistory) -> set[str]:
        """Return the newest whole checkpoints, of each member that had to do with a trial's weights."""
        ways = [] if trial.restore is None else [trial.restore]
        for start in (trial, *(self.history.trials[way.trial_id] for way in ways)):
            link = start.ancestry
            while link is not None:
                ways.append(link.change.checkpoint)
                link = link.before
        found: set[str] = set()
        for way in ways:
            whole = [number for number in self.history.trials[way.trial_id].whole if number <= way.number]
            if whole:
                found.add(f"{way.trial_id}/{checkpoint_name(max(whole))}")
        return found

    def weights_of(self, trial: TrialHistory) -> set[str]:
        """Return the ids of the checkpoints that hold the newest weights of a trial, as ``Result.checkpoint`` has it.

        After an exploit, and until it saves one of its own, that is the donor's; where it has reported nothing since,
        its own newest one is that of its last result.
        """
        own = [
            number
            for number in trial.whole
            if number >= trial.first_checkpoint and (self.folder / trial.folder / checkpoint_name(number)).is_dir()
        ]
        mine = {f"{trial.trial_id}/{checkpoint_name(max(own))}"} if own else set[str]()
        if trial.restore is None:
            return mine
        if trial.last is None or trial.last.generation < len(trial.exploits):
            return {trial.restore.id, *mine}
        return {trial.restore.id}

    def unreported(self) -> dict[str, int]:
        """Return for each trial how many results its ``result.json`` has that the journal knows nothing of.

        They are written after the journal was, so that has lost records. Not those that count no longer: it has them.
        """
        if self._unreported is not None:
            return self._unreported
        found = self._unreported = dict[str, int]()
        for trial in self.history.in_order():
            folder = self.trial_folder(trial)
            if folder is None:
                continue
            known = self.reported.get(trial.trial_id, set())
            with (
                contextlib.suppress(OSError),
                (folder / "result.json").open(encoding="utf-8", errors="replace") as file,
            ):
                count = sum(stamp is not None and stamp not in known for stamp in map(_stamp, file))
                if count:
                    found[trial.trial_id] = count
        return found

    def lost(self) -> list[Item]:
        """Return whole checkpoints that the journal knows nothing of, and that are more than a kill explains.

        Its records of them are lost, so these weights are there only as long as nobody tidies up.
        """
        unreported = self.unreported()
        found: list[Item] = []
        for trial in self.history.in_order():
            paths = self._beyond(trial)
            if trial.trial_id in unreported or len(paths) > _IN_FLIGHT:
                found += [Item(path, size_of(path), "a checkpoint whose records are lost") for path in paths]
        return found

    def _beyond(self, trial: TrialHistory) -> list[Path]:
        """Return a trial's committed checkpoints that the store has made and no report has told of."""
        folder = self.trial_folder(trial)
        if folder is None or not any(self.following.values()):
            return []
        committed = _committed(folder)
        following = self.following.get(trial.trial_id, 0)
        return [committed[number] for number in sorted(of_the_store(committed, following)) if number >= following]

    def leftovers(self) -> list[Item]:
        """Return what processes have left that were killed: nobody will ever read it."""
        found: list[Item] = []
        lost = {item.path for item in self.lost()}
        saves = any(self.following.values())
        found += self._half_replaced(self.folder)
        for trial in self.history.in_order():
            folder = self.trial_folder(trial)
            if folder is None:
                continue
            found += self._half_replaced(folder)
            for path in _entries(folder):
                if is_unfinished(path.name) and path.is_dir() and not path.is_symlink():
                    deleted = path.name.startswith(_DELETED)
                    what = "was being deleted" if deleted else "was being written"
                    freed = deleted and committed_number(path.name.removeprefix(_DELETED)) in trial.freed
                    found.append(Item(path, size_of(path), f"a checkpoint that {what}", freed=freed))
            if not saves:
                continue
            committed = _committed(folder)
            for number in sorted(of_the_store(committed, self.following.get(trial.trial_id, 0))):
                path = committed[number]
                if path in lost:
                    continue
                if number in trial.freed:
                    found.append(Item(path, size_of(path), "a checkpoint that was freed before", freed=True))
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
        if isinstance(item, Reported):
            files.reported.setdefault(item.trial_id, set()).add((item.iteration, int(item.timestamp)))
        if isinstance(item, (Reported, Saved)) and item.checkpoint is not None:
            following = files.following.get(item.trial_id, 0)
            files.following[item.trial_id] = max(following, item.checkpoint.number + 1)
    return files


def _entries(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(folder.iterdir())
    return []


def _committed(folder: Path) -> dict[int, Path]:
    """Return the folders of committed checkpoints in a trial's folder, by their numbers."""
    found: dict[int, Path] = {}
    for path in _entries(folder):
        number = committed_number(path.name)
        if number is not None and path.is_dir() and not path.is_symlink():
            found[number] = path
    return found


def _stamp(line: str) -> tuple[int, int] | None:
    """Return iteration and timestamp of a line of ``result.json``; None where it has none."""
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError, OverflowError):
        values = json.loads(line)
        return int(values["training_iteration"]), int(values["timestamp"])
    return None
