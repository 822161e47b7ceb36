"""What can be deleted of an experiment, and deleting it: see :mod:`shoal.cli.freeing`."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints import store
from ..checkpoints.leftovers import committed_number
from ..core.events import Freed
from ..core.reports import number as number_of
from ..errors import ConfigError, ShoalError
from ..experiment import ExperimentInfo
from ..journal.lock import lock, unlock
from ..journal.sqlite import SQLiteJournal
from ..lineage import lineage_of
from ..reading import NothingYet, has_ended, info_of, is_locked, task_of
from .drivers import driver_of
from .errors import words_of
from .files import Files, Item, read_files
from .finding import no_permission
from .sizes import size_of

__all__ = ["Found", "Keep", "delete", "look"]

_TASK = "gc"
"""What the lock says meanwhile."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Which checkpoints stay, where others are deleted."""

    best: int | None = None
    """So many with the best scores of the experiment."""
    newest: int | None = None
    """So many of each trial, the newest."""
    lineage: bool = False
    """Those that the best trial's weights came through."""
    restore: bool = True
    """Those that a restore goes on from."""
    lost: bool = True
    """Those that the journal has lost its records of."""

    @property
    def all(self) -> bool:
        """Whether all stay that the journal counts on."""
        return self.best is None and self.newest is None and not self.lineage


@dataclass(frozen=True, slots=True)
class Found:
    """What can be deleted, or was deleted, of one experiment."""

    folder: Path
    items: list[Item]
    why_not: str | None = None
    """Why nothing can be deleted here."""
    lost: int = 0
    """How many checkpoints stay because the journal has lost its records of them."""
    usage: bool = False
    """Whether what the user wants is not possible for this experiment."""

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return sum(item.size for item in self.items)


# -------------------------------------------------------------------------------------------------------- what can go


def look(folder: Path, keep: Keep) -> Found:
    """Return what can be deleted of an experiment, as it is now."""
    folder = folder.absolute()
    closed = no_permission(folder)
    if closed is not None:
        return Found(folder, [], closed)
    try:
        with contextlib.closing(SQLiteJournal.open_for_reading(folder)) as journal:
            files = read_files(folder, journal.read(unpickle=False))
            meta = journal.meta()
        if is_locked(folder):
            by = driver_of(folder) or "another process"
            does = "is being run by" if task_of(folder) is None else f"is in the hands of 'shoal {task_of(folder)}',"
            return Found(folder, [], f"{folder.name} {does} {by}.")
        return Found(folder, _items(files, keep, meta), lost=len(files.lost()) if keep.lost else 0)
    except (ShoalError, OSError) as error:
        return Found(folder, [], _why(folder, error), usage=isinstance(error, ConfigError))


def _why(folder: Path, error: Exception) -> str:
    """Return in words why nothing can be done with an experiment."""
    try:
        info_of(folder)
    except NothingYet as nothing:
        return str(nothing)
    except (ShoalError, OSError):
        pass
    return words_of(error)


def _items(files: Files, keep: Keep, meta: dict[str, Any]) -> list[Item]:
    """Return what can be deleted.

    Raises:
        ConfigError: what the user wants is not possible for this experiment.
    """
    items = files.leftovers()
    if not keep.lost:
        items += files.lost()
    if keep.all:
        return items
    if keep.lost and (files.unreported() or files.lost()):
        raise ConfigError(  # to write the journal would replace what is left of its log
            f"The journal of {files.folder.name} has lost records; see 'shoal doctor'. Copy the folder, and then give "
            f"--lost-records."
        )
    if not keep.restore and not has_ended(files.history):
        raise ConfigError(
            f"{files.folder.name} was interrupted, so what 'shoal resume' goes on from stays. Leave out "
            f"--give-up-restore."
        )
    kept = _kept(files, keep, meta)
    for trial, number, _, path in files.checkpoints():
        identity = f"{trial.trial_id}/{path.name}"
        folder = files.trial_folder(trial)
        if identity in kept or folder is None or path.is_symlink() or not path.is_dir():
            continue
        items.append(Item(path, size_of(path), f"checkpoint {number} of trial {trial.index}", identity))
    return items


def _kept(files: Files, keep: Keep, meta: dict[str, Any]) -> set[str]:
    """Return the ids of the checkpoints that stay."""
    info = ExperimentInfo.from_meta(meta)
    kept = files.needed() if keep.restore else set[str]()
    scored: list[tuple[float, int, str]] = []
    newest: dict[str, list[str]] = {}
    for trial, number, entry, path in files.checkpoints():
        if not path.is_dir():
            continue  # one that somebody else has deleted keeps nothing
        identity = f"{trial.trial_id}/{path.name}"
        newest.setdefault(trial.trial_id, []).append(identity)
        value = None if info.metric is None else number_of(entry.row.value(info.metric))
        if value is not None and math.isfinite(value):
            scored.append((value if info.mode == "max" else -value, number, identity))
    if keep.best:
        if info.metric is None:
            raise ConfigError(f"{files.folder.name} compared no metric, so none of its checkpoints is best.")
        kept |= {identity for _, _, identity in sorted(scored, reverse=True)[: keep.best]}
    if keep.newest:
        kept |= {identity for own in newest.values() for identity in own[-keep.newest :]}
    if keep.lineage:
        best = None if info.metric is None else files.history.best(info.metric, info.mode)
        if best is None or best.last is None:
            raise ConfigError(f"No trial of {files.folder.name} is best, so there is no lineage to keep.")
        kept |= {each.checkpoint for each in lineage_of(best, best.last, files.history) if each.checkpoint is not None}
        kept |= files.weights_of(best)  # that the others led to
    return kept


# ------------------------------------------------------------------------------------------------------------ deleting


def delete(found: Found, keep: Keep) -> Found:
    """Delete what was found, as far as it still can be, while nobody else can run the experiment."""
    wanted = {item.path for item in found.items}
    try:
        with _locked(found.folder, writes=not keep.all) as (files, meta, journal):
            items = [item for item in _items(files, keep, meta) if item.path in wanted]
            events = [_freed(item.checkpoint) for item in items if item.checkpoint is not None]
            if events:
                # As old as the newest record: nobody has run the experiment since, and its duration stays what it is.
                journal.append(events, files.history.updated_at or 0.0)
            gone = [item for item in items if _remove(item.path)]
    except (ShoalError, OSError) as error:
        return Found(found.folder, [], words_of(error))
    left = len(items) - len(gone)
    return Found(found.folder, gone, f"{left} in {found.folder} could not be deleted." if left else None)


def _freed(checkpoint: str) -> Freed:
    """Return what the journal is told of a checkpoint, given by its id."""
    trial_id, _, name = checkpoint.rpartition("/")
    number = committed_number(name)
    assert number is not None, checkpoint
    return Freed(trial_id, number)


@contextlib.contextmanager
def _locked(folder: Path, *, writes: bool) -> Generator[tuple[Files, dict[str, Any], SQLiteJournal]]:
    """Have the lock of an experiment meanwhile, and its journal, which is whole.

    Args:
        folder: the experiment's folder.
        writes: whether the journal is to be written.

    Raises:
        JournalError: it is being run, cannot be written, or its journal is damaged.
    """
    with contextlib.ExitStack() as stack:
        if writes:
            journal = SQLiteJournal.open_for_writing(folder, _TASK)
        else:
            stack.callback(unlock, lock(folder, _TASK))
            journal = SQLiteJournal.open_for_reading(folder)
        stack.callback(journal.close)
        yield read_files(folder, journal.read(unpickle=False)), journal.meta(), journal


def _remove(path: Path) -> bool:
    """Delete a file or a folder, whose name is gone at once; links in it are deleted, and not what they lead to."""
    if path.is_symlink():
        return False
    with contextlib.suppress(OSError):
        if not path.is_dir():
            path.unlink()
            return True
        number = committed_number(path.name)
        if number is not None:
            store.delete(path.parent, number)
        else:
            shutil.rmtree(path)
    return not os.path.lexists(path)
