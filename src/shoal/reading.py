"""Experiments as their journals tell them, for whoever looks at one: command line, plots, pages. Only reads.

A reader never waits for the driver and never disturbs it: it takes no lock, and SQLite's log lets both work at once.
Of an experiment in object storage the journal is downloaded, and what has come since with each refresh; see
:mod:`shoal.viewing`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import re
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from .core.commands import Status, checkpoint_name
from .core.reports import NO_ROOM
from .errors import JournalError, StorageError
from .experiment import ExperimentInfo
from .history import History, TrialHistory
from .journal import JOURNAL_NAME
from .location import join, location_of
from .timeline import Timeline

if TYPE_CHECKING:
    from .viewing import View

__all__ = [
    "Experiment", "NothingYet", "State", "find_experiments", "has_ended", "info_of", "is_experiment", "is_locked",
    "is_running", "mark_running", "nothing_yet", "state_of", "task_of",
]  # fmt: skip

_ELSEWHERE = "elsewhere"
"""Of a copy: a file that says until when the driver, which is on another machine, is taken to be alive."""
_TASK = re.compile(r"process \d+ on .* \((\w+)\)\s*")


class NothingYet(JournalError):
    """The journal holds nothing, and that is no damage: the experiment is just starting, or it never began.

    Args:
        text: which of both, in words.
        starting: whether it is just starting.
    """

    def __init__(self, text: str, *, starting: bool) -> None:
        super().__init__(text)
        self.starting = starting


class State(str, Enum):
    """Whether an experiment goes on."""

    RUNNING = "running"
    """A driver runs it now."""
    ENDED = "ended"
    """All its trials have ended."""
    INTERRUPTED = "interrupted"
    """No driver runs it, and trials have not ended, or were cut off: ``Tuner.restore`` goes on with it."""


@dataclass(slots=True)
class Experiment:
    """An experiment, read from its folder as far as its journal goes; :meth:`refresh` reads what has come since."""

    folder: Path
    """Where its journal lies on this machine. Of one in object storage that may be a copy, without the other files."""
    info: ExperimentInfo
    history: History = field(default_factory=History)
    timeline: Timeline = field(default_factory=Timeline)
    seq: int = 0
    """Number of the newest record that was read."""
    view: View | None = None
    """Of an experiment in object storage: what was downloaded of it."""

    @classmethod
    def begin(cls, folder: str | os.PathLike[str]) -> Experiment:
        """Return an experiment of which no record was read yet. Arguments and errors as :meth:`open`."""
        location = location_of(folder)
        if location.url is None:
            return cls(location.folder, info_of(location.folder))
        from .viewing import View

        view = View.open(location)
        try:
            return cls(view.folder, info_of(view.folder), view=view)
        except BaseException:
            view.close()
            raise

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, unpickle: bool = False) -> Experiment:
        """Read an experiment, whether it has ended, was killed or is running.

        Args:
            folder: the experiment's folder, or its URL in object storage.
            unpickle: whether objects in configs are loaded, which runs code of whoever wrote the journal. If not, they
                are shown as their text, NumPy's numbers are Python's, and everything else is the same.

        Raises:
            NothingYet: it is just starting, or never began.
            JournalError: the folder holds no experiment, or its journal is damaged.
            ConfigError: the kind of URL is not known, or a package is missing.
            StorageError: object storage cannot be read.
        """
        experiment = cls.begin(folder)
        experiment._read(unpickle=unpickle)
        return experiment

    def refresh(self, *, unpickle: bool = False) -> bool:
        """Read what was written since the last time. Return whether there was anything.

        Raises:
            JournalError: the journal is gone or damaged.
        """
        if self.view is not None:
            self.folder = self.view.refresh()
        return self._read(unpickle=unpickle)

    def _read(self, *, unpickle: bool) -> bool:
        from .journal.sqlite import SQLiteJournal

        before = self.seq
        with _no_collections(), contextlib.closing(SQLiteJournal.open_for_reading(self.folder)) as journal:
            for record in journal.read(before, unpickle=unpickle):
                self.history.add(record)
                self.timeline.add(record)
                self.seq = record.seq
            if self.seq > before:
                self.info = _read_info(journal.meta(), self.folder)
        return self.seq > before

    @property
    def place(self) -> str:
        """Its folder, or its URL in object storage."""
        return str(self.folder) if self.view is None else self.view.url

    def path_of(self, *parts: str) -> str:
        """Return the path, or the URL, of something in its folder."""
        return functools.reduce(join, parts, self.place)

    def has_checkpoint(self, trial_folder: str, number: int) -> bool:
        """Return whether a trial's checkpoint is there; where that cannot be told now, it is not."""
        if (self.folder / trial_folder / checkpoint_name(number)).is_dir():
            return True
        with contextlib.suppress(StorageError):
            return self.view is not None and number in self.view.checkpoints(trial_folder)
        return False

    def end_of(self, trial_folder: str, name: str) -> Path:
        """Return where the last lines of a text of a trial can be read, if there is one; they are downloaded.

        Raises:
            StorageError: object storage cannot be read.
        """
        if self.view is not None:
            self.view.fetch_end(trial_folder, name)
        return self.folder / trial_folder / name

    def close(self) -> None:
        """Delete what was downloaded; what was read stays, and :meth:`refresh` would download it again."""
        if self.view is not None:
            self.view.close()

    @property
    def name(self) -> str:
        """The experiment's name, which is its folder's now: it may have been moved."""
        return self.folder.name

    @property
    def state(self) -> State:
        """Whether it goes on; looked up anew each time."""
        if self.view is None:
            return state_of(self.folder, self.history)
        if self.view.is_running():
            return State.RUNNING
        return State.ENDED if has_ended(self.history) else State.INTERRUPTED

    @property
    def best(self) -> TrialHistory | None:
        """The trial whose newest result is best by the experiment's metric; None without a metric or a result."""
        return None if self.info.metric is None else self.history.best(self.info.metric, self.info.mode)


def state_of(folder: Path, history: History) -> State:
    """Return whether the experiment in a folder goes on."""
    if is_running(folder):
        return State.RUNNING
    return State.ENDED if has_ended(history) else State.INTERRUPTED


def is_locked(folder: Path) -> bool:
    """Return whether somebody has the lock of an experiment now: a driver, or who tidies up."""
    from .journal.lock import check_free

    try:
        check_free(folder)
    except JournalError:
        return True
    return False


def is_running(folder: Path) -> bool:
    """Return whether a driver runs an experiment now."""
    return (is_locked(folder) and task_of(folder) is None) or _runs_elsewhere(folder)


def mark_running(folder: Path, until: float) -> None:
    """Have a copy of an experiment's journal be taken for one that is running.

    Args:
        folder: that of the copy.
        until: how long, in seconds since the epoch.
    """
    aside = folder / f".{_ELSEWHERE}"
    aside.write_text(repr(until))
    aside.replace(folder / _ELSEWHERE)


def _runs_elsewhere(folder: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return float((folder / _ELSEWHERE).read_text()) > time.time()
    return False


def task_of(folder: Path) -> str | None:
    """Return what the lock of an experiment was taken for last, as its file says; None: to run it."""
    from .journal.lock import LOCK_NAME

    with contextlib.suppress(OSError), (folder / LOCK_NAME).open(errors="replace") as file:
        found = _TASK.fullmatch(file.read(300))
        return None if found is None else found[1]
    return None


def nothing_yet(folder: Path) -> NothingYet | None:
    """Return that an experiment is just starting, or never began; None where that is not why nothing can be read."""
    from .journal.sqlite import never_began

    locked = is_locked(folder)
    if not is_experiment(folder) and not locked:
        return None
    # Members have folders since the first record: where there is one, the records are lost.
    if any(folder.glob("*/params.json")):
        return None
    try:
        if not never_began(folder):
            return None
    except JournalError:
        return None
    if locked:
        return NothingYet(f"The experiment {folder} is just starting: its journal holds nothing yet.", starting=True)
    return NothingYet(
        f"The experiment {folder} never began: its driver ended before anything had happened. Delete the folder.",
        starting=False,
    )


def has_ended(history: History) -> bool:
    """Return whether all trials have ended, and none was cut off."""
    trials = history.trials.values()
    return bool(trials) and all(trial.status.ended and not _was_cut_off(trial, history) for trial in trials)


def _was_cut_off(trial: TrialHistory, history: History) -> bool:
    """Return whether a trial ended because the experiment was interrupted, and not by a condition of the user's."""
    if trial.status is not Status.TERMINATED:
        return False
    return (history.stopped == trial.reason and history.met is None) or trial.reason.startswith(NO_ROOM)


def is_experiment(folder: Path) -> bool:
    """Return whether a folder holds a journal, as far as this user may know."""
    with contextlib.suppress(OSError):
        return (folder / JOURNAL_NAME).is_file()
    return False


def find_experiments(root: Path) -> Iterator[Path]:
    """Yield the folders of experiments in a folder, the newest first; itself, where it is one.

    For object storage there is :func:`shoal.viewing.find_urls`.
    """
    if is_experiment(root):
        yield root
        return
    found: list[tuple[float, Path]] = []
    with contextlib.suppress(OSError):
        for entry in sorted(root.iterdir()):
            with contextlib.suppress(OSError):
                found.append(((entry / JOURNAL_NAME).stat().st_mtime, entry))
    yield from (path for _, path in sorted(found, key=lambda pair: (-pair[0], pair[1].name)))


@contextlib.contextmanager
def _no_collections() -> Generator[None]:
    """Look for no garbage in cycles meanwhile: each time all that was read so far would be looked at, and none is."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def info_of(folder: Path) -> ExperimentInfo:
    """Return the facts about the experiment in a folder, without reading its records.

    Raises:
        NothingYet: it is just starting, or never began.
        JournalError: the folder holds no experiment, or its journal is damaged.
    """
    from .journal.sqlite import SQLiteJournal

    try:
        with contextlib.closing(SQLiteJournal.open_for_reading(folder)) as journal:
            return _read_info(journal.meta(), folder)
    except JournalError as error:
        nothing = nothing_yet(folder)
        if nothing is None:
            raise
        raise nothing from error


def _read_info(meta: dict[str, object], folder: Path) -> ExperimentInfo:
    try:
        return ExperimentInfo.from_meta(meta)
    except TypeError as error:
        raise JournalError(f"The journal in {folder} does not say what the experiment is: {error}.") from error
