"""What tests of storage share: a file system in memory that a test can interrupt, and a driver that only tells."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
from tests.simulated import write_experiment

from shoal.checkpoints.depot import LocalDepot
from shoal.checkpoints.store import measure
from shoal.core.commands import DeleteCheckpoint, checkpoint_name
from shoal.core.events import Event, Reported, Saved, TrialAdded
from shoal.experiment import ExperimentInfo
from shoal.history import History
from shoal.journal import Item, Record
from shoal.journal.sqlite import SQLiteJournal
from shoal.storage.place import Place
from shoal.storage.shipping import fetch
from shoal.storage.transfer import download_checkpoint

__all__ = [
    "LOGS",
    "AtOnce",
    "Crash",
    "Telling",
    "check_copy",
    "existing",
    "interrupted",
    "story",
    "undisturbed",
    "write_checkpoint",
    "write_logs",
]

_T = TypeVar("_T")
_Hook = Callable[[str, str], object]


LOGS = [
    ".hydra/config.yaml", "journal.txt", "t/.mine.new",
    "pbt_global.txt", "plots/curve.png", "t/.hidden", "t/deep/er/checkpoint_000001/a", "t/events.out.tfevents.17.shoal",
    "t/notes.txt", "t/output.log", "t/params.json", "t/result.json", "t/x?versionId=1",
]  # fmt: skip
OTHERS = [
    ".journal.copy.json.17", ".journal.sqlite.17.4-journal", "journal.copy.json", ".writable",
    "t/checkpoint_000000/result.json", "t/checkpoint_000001.json", "t/.checkpoint_000002.17/x",
    "t/.deleted_checkpoint_000002/x", "t/.result.json.new", "journal/x", "journal.lock",
]  # fmt: skip


class Crash(BaseException):
    """The process ends here."""


class Interrupted(MemoryFileSystem):  # type: ignore[misc]
    """Files in memory; what a test has set is called before and after each change, and before each look."""

    protocol = "interrupted"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    hook: _Hook | None = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("interrupted://").strip("/")

    def _say(self, what: str, path: str) -> None:
        if Interrupted.hook is not None:
            Interrupted.hook(what, path)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **settings: Any) -> None:
        """Write an object."""
        self._say("write", path)
        super().pipe_file(path, value, mode, **settings)
        self._say("wrote", path)

    def cp_file(self, path1: str, path2: str, **settings: Any) -> None:
        """Copy an object."""
        self._say("write", path2)
        super().cp_file(path1, path2, **settings)
        self._say("wrote", path2)

    def rm_file(self, path: str) -> None:
        """Delete an object."""
        self._say("delete", path)
        try:
            super()._rm(path)
        except KeyError as error:
            raise FileNotFoundError(path) from error
        self._say("deleted", path)

    def cat_file(self, path: str, *arguments: Any, **settings: Any) -> bytes:
        """Read an object."""
        self._say("read", path)
        found: bytes = super().cat_file(path, *arguments, **settings)
        return found

    def ls(self, path: str, *arguments: Any, **settings: Any) -> Any:
        """List a folder."""
        self._say("list", path)
        return super().ls(path, *arguments, **settings)

    def find(self, path: str, *arguments: Any, **settings: Any) -> Any:
        """List a tree."""
        self._say("list", path)
        return super().find(path, *arguments, **settings)


fsspec.register_implementation("interrupted", Interrupted, clobber=True)


@contextlib.contextmanager
def interrupted(hook: _Hook | None = None) -> Generator[Place]:
    """Give an empty place at which ``hook(what, path)`` is called; it may raise."""
    Interrupted.store.clear()
    Interrupted.pseudo_dirs[:] = [""]
    Interrupted.hook = hook
    try:
        yield Place("interrupted://runs/exp")
    finally:
        Interrupted.hook = None


@contextlib.contextmanager
def undisturbed() -> Generator[None]:
    """Call nothing meanwhile."""
    hook, Interrupted.hook = Interrupted.hook, None
    try:
        yield
    finally:
        Interrupted.hook = hook


class AtOnce:
    """Workers that do everything in the thread that asks, before it goes on."""

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        """See ``Workers``; a crash is one of all."""
        future: Future[_T] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Nothing is waiting."""


@lru_cache(maxsize=8)
def _written(members: int, steps: int) -> tuple[dict[str, Any], tuple[tuple[Item, ...], ...]]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = write_experiment(Path(folder, "exp"), members=members, steps=steps)
        with contextlib.closing(SQLiteJournal.open_for_reading(path)) as journal:
            facts, items = journal.meta(), [record.item for record in journal.read()]
    batches: list[list[Item]] = []
    for item in items:
        if isinstance(item, get_args(Event)):
            batches.append([])
        batches[-1].append(item)
    return facts, tuple(map(tuple, batches))


def story(members: int = 3, steps: int = 15) -> tuple[dict[str, Any], tuple[tuple[Item, ...], ...]]:
    """Return the facts of a simulated experiment, and what happened and was decided, a batch for each event."""
    return _written(members, steps)


def until(is_so: Callable[[], object]) -> None:
    """Wait until another thread has made something so."""
    waited = threading.Event()
    for _ in range(6000):
        if is_so():
            return
        waited.wait(0.005)
    raise AssertionError("it never was so")


def write_checkpoint(folder: Path, text: str, files: int = 1) -> str:
    """Write something like a checkpoint, and return its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        (folder / f"part_{number}").write_text(f"{text} {number}")
    return measure(folder)[0]


class Telling:
    """Does what a driver does for its journal, checkpoints and readers: tells the story from where it is.

    Args:
        folder: the experiment's.
        life: how often the experiment was gone on with; other lives write other checkpoints.
        depot: default: one that works at once.
    """

    def __init__(self, folder: Path, life: int = 0, depot: LocalDepot | None = None, members: int = 3) -> None:
        facts, self.batches = story(members)
        self.folder = folder
        self.life = life
        self.info = ExperimentInfo.from_meta(facts)
        if (folder / "journal.sqlite").exists():
            self.journal = SQLiteJournal.open_for_writing(folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self.journal = SQLiteJournal.create(folder)
            self.journal.set_meta(**facts)
        self.depot = depot or LocalDepot(folder, AtOnce())  # type: ignore[arg-type]
        self.history = History.of(self.journal.read(), keep_rows=False)
        self.listeners: list[tuple[Callable[[Record], object], Callable[[], object]]] = []
        self.told = 0
        """How many batches."""
        left = self.journal.last
        while left:
            left -= len(self.batches[self.told])
            self.told += 1

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to tell."""
        return self.told == len(self.batches)

    def step(self) -> None:
        """Let the next thing happen."""
        if self.ended:
            return
        items = [self._real(item) for item in self.batches[self.told]]
        self.told += 1
        records = self.journal.append(items, 1000.0 + self.life)
        for item in items:
            if isinstance(item, DeleteCheckpoint):
                self.depot.delete(self.history.trials[item.trial_id].folder, item.number)
        for record in records:
            self.history.add(record)
            for take, _ in self.listeners:
                take(record)
        for _, flush in self.listeners:
            flush()

    def _real(self, item: Item) -> Item:
        """Have the checkpoint that comes with a report on the disk."""
        if not isinstance(item, (Reported, Saved)) or item.checkpoint is None:
            return item
        folder = self._folder_of(item.trial_id) / checkpoint_name(item.checkpoint.number)
        digest = write_checkpoint(folder, f"{item.trial_id} {item.checkpoint.number} {self.life}")
        return dataclasses.replace(item, checkpoint=dataclasses.replace(item.checkpoint, digest=digest))

    def _folder_of(self, trial_id: str) -> Path:
        for batch in self.batches:
            for item in batch:
                if isinstance(item, TrialAdded) and item.trial_id == trial_id:
                    return self.folder / item.folder
        raise LookupError(trial_id)


def existing(history: History) -> dict[tuple[str, int], str]:
    """Return the checkpoints that exist, by trial's folder and number, with their digests."""
    trials = history.trials.values()
    return {(trial.folder, number): entry.saved.digest for trial in trials for number, entry in trial.whole.items()}


def check_copy(place: Place, journal: SQLiteJournal, aside: Path) -> int:
    """Assert that what is in storage is a state of the experiment with all its checkpoints; return its newest record.

    Args:
        place: the experiment's.
        journal: that of the driver.
        aside: an empty folder.
    """
    published = fetch(place, aside)
    with contextlib.closing(SQLiteJournal.open_for_reading(aside)) as copy:
        copy.check_all()
        assert copy.raw(0, published.seq) == [record for record in _all_of(journal) if record[0] <= published.seq], (
            "not the first records of the journal"
        )
        history = History.of(copy.read())
    for (folder, number), digest in existing(history).items():
        name = checkpoint_name(number)
        download_checkpoint(place / folder / name, aside / folder / name, digest)
    return published.seq


def _all_of(journal: SQLiteJournal) -> list[Any]:
    with contextlib.closing(SQLiteJournal.open_for_reading(journal.folder)) as reader:
        return reader.raw(0, reader.last)


def write_logs(folder: Path) -> None:
    """Write log files and files of a user, and beside them what goes otherwise, or not."""
    for name in (*LOGS, *OTHERS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
