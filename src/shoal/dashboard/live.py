"""The experiments in a folder as pages see them: opened once, and read on when somebody looks, and only then.

Requests come from several threads. What was read of an experiment changes only while nobody uses it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from ..errors import JournalError, one_line
from ..experiment import ExperimentInfo
from ..journal import JOURNAL_NAME
from ..location import is_url
from ..reading import Experiment, State, find_experiments, is_experiment, is_running, state_of
from ..viewing import Followed

__all__ = ["KEPT", "MAX_AGE", "MOST_RESULTS", "Experiments", "Looked", "Watched", "key_of", "shown"]

MAX_AGE = 0.8
"""Seconds for which what was read is new enough."""
MOST_RESULTS = 600_000
"""Results in memory, of all experiments: beyond, those at which nobody has looked for longest are let go of."""
KEPT = 30.0
"""Seconds for which what somebody has looked at is kept, also where that is beyond the budget."""
_RETRY = 60.0
"""Seconds after which a journal that could not be read is tried again, even if it seems not to have changed."""
_REST = 10.0
"""So many times as long as the last try took, a damaged journal that is still written to is not tried again."""
_BRIEFLY = 0.05
"""Seconds to wait at most for those who use what was read, before it is read on."""
_WARM = 3
"""How many experiments, the newest, are read before anybody asks for them."""
_SETTLED = 2.0
"""Seconds after which a file's time tells for sure that it was not written since."""

Signature = tuple[tuple[int, int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Looked:
    """What is known of an experiment at one look."""

    info: ExperimentInfo | None
    state: State | None
    """None where it is not known."""
    version: str
    """Changes with everything that was read."""
    reading: int | None
    """How many records were read so far, while it is being opened; else None."""
    problem: str
    """Why it cannot be read, or not all of it; else empty."""
    unread: bool = False
    """Whether it was not read, or let go of, and nobody reads it now: the next look opens it."""


class Watched:
    """One experiment. :meth:`look` says how far it was read, :meth:`reading` lends what was.

    Args:
        folder: the experiment's folder.
        key: its name in addresses.
        max_age: seconds for which what was read is new enough.
    """

    def __init__(self, folder: Path, key: str, max_age: float = MAX_AGE) -> None:
        self.folder = folder
        self.key = key
        self.name = shown(folder.name)
        self.looked_at = -1e9
        self.forgotten = ""
        """The version of what was read and let go of to make room, while that is what still lies there; else empty."""
        self.size = 0
        """How many results of it there were when it was read last."""
        self._max_age = max_age
        self._lock = threading.RLock()
        self._unused = threading.Condition(self._lock)
        self._users = 0
        self._opened = threading.Event()
        self._thread: threading.Thread | None = None
        self._opening: Experiment | None = None
        self._experiment: Experiment | None = None
        self._info: ExperimentInfo | None = None
        self._state: State | None = None
        self._problem = ""
        self._signature: Signature = ()
        self._read_at = -1e9
        self._tried_at, self._took = -1e9, 0.0
        """When it was last opened, and how long that took."""
        self._failed_at: int | None = None
        """The last record that could be read where the next could not."""
        self._stuck = False
        """Whether the same record could not be read twice."""
        self._first_seen = 0.0
        self._epoch = secrets.token_hex(4)

    # -------------------------------------------------------------------------------------------------------- questions

    def look(self, wait: float = 0.0) -> Looked:
        """Have it read on where that is due, and say how far it was read.

        Args:
            wait: seconds to wait at most where it is being opened.
        """
        self.looked_at = time.monotonic()
        if not self._opened.is_set():
            self.open()
            self._opened.wait(wait)
        if self._opened.is_set():
            self._read_on()
        else:
            self._glance()
        return self.known()

    def glance(self) -> Looked:
        """Have it read on where it is open and that is due, but do not open it; say how far it was read."""
        if self._opened.is_set():
            self._read_on()
        else:
            self._glance()
        return self.known()

    def known(self) -> Looked:
        """Say how far it was read, without reading."""
        thread = self._thread  # first: it ends after there is something to show
        opened = self._opened.is_set()
        opening = self._opening
        reading = None if opened or thread is None else (0 if opening is None else opening.seq)
        unread = not opened and thread is None
        return Looked(self._info, self._state, self._version(), reading, self._problem, unread)

    def _version(self) -> str:
        experiment = self._experiment
        state = None if self._state is None else self._state.value
        seq = 0 if experiment is None else experiment.seq
        return f"{self._epoch}-{seq}-{state}-{int(bool(self._problem))}"

    @contextlib.contextmanager
    def reading(self) -> Generator[Experiment | None]:
        """Lend the experiment, which does not change meanwhile; None where it is not read (yet)."""
        with self._lock:
            self._users += 1
            experiment = self._experiment
        try:
            yield experiment
        finally:
            with self._lock:
                self._users -= 1
                self._unused.notify_all()

    @property
    def results(self) -> int:
        """How many results of it are in memory."""
        experiment = self._experiment
        return 0 if experiment is None else experiment.history.results

    @property
    def started_at(self) -> float:
        """When it began, in seconds since the epoch; of what does not say so, when its journal was found."""
        if self._info is None and not self._first_seen:
            self._learn_info()
            status = _stat(self.folder / JOURNAL_NAME)
            self._first_seen = 0.0 if status is None else status[3] / 1e9
        return self._first_seen if self._info is None else self._info.started_at

    # --------------------------------------------------------------------------------------------------------- reading

    def open(self) -> None:
        """Begin to read it, in a thread of its own, where it was not read and is not being read."""
        with self._lock:
            if not self._opened.is_set():
                self._start()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._open, name=f"shoal-open-{self.key}", daemon=True)
            self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it was opened."""
        self._opened.wait(seconds)

    def forget(self) -> None:
        """Let go of what was read; the next look opens it again."""
        with self._lock:
            if self._thread is None and self._opened.is_set():
                self.forgotten = self._version()
                self._experiment, self._problem = None, ""
                self._epoch = secrets.token_hex(4)
                self._opened.clear()

    def _open(self) -> None:
        began = time.monotonic()
        signature = self._sign()
        experiment: Experiment | None = None
        problem = ""
        try:
            experiment = Experiment(self.folder, _info_of(self.folder))
            self._info = experiment.info
            self._opening = experiment
            experiment.refresh()
        except JournalError as error:
            problem = str(error)
        except Exception as error:  # a journal that only looks like one: the page says so, and others are shown
            problem = f"It cannot be read: {one_line(error)}"
        with self._lock:
            if self._opened.is_set():
                self._epoch = secrets.token_hex(4)
            # What came before the damage is right.
            self._experiment = experiment if experiment is not None and experiment.seq else None
            self._signature = signature
            self._take_in(problem, experiment)
            self._state = self._ask_state(experiment)
            self.size = self.results
            self._read_at = self._tried_at = time.monotonic()
            self._took = self._tried_at - began
            self.forgotten = ""
            self._opened.set()
            self._opening = self._thread = None

    def _take_in(self, problem: str, experiment: Experiment | None) -> None:
        """Note whether it could be read, and whether it failed where it had failed before."""
        failed_at = None if not problem else 0 if experiment is None else experiment.seq
        self._stuck = failed_at is not None and failed_at == self._failed_at
        self._failed_at = failed_at
        self._problem = problem

    def _read_on(self) -> None:
        """Read what has come since, where the last time was long enough ago."""
        with self._lock:
            if not self._is_due() or not self._unused.wait_for(lambda: not self._users, _BRIEFLY) or not self._is_due():
                return  # new enough, or somebody uses it for longer: the next look will do
            self._read_at = time.monotonic()
            signature = self._sign()
            experiment = self._experiment
            if self._problem:
                if self._is_worth_a_try(signature):
                    self._start()  # what is shown stays until that is read
                self._state = self._ask_state(experiment)
                return
            problem = ""
            try:
                settled = signature == self._signature and _is_settled(signature)
                if experiment is not None and not settled:
                    if self._is_another(experiment, signature):
                        self._begin_anew()
                        return
                    experiment.refresh()
                    self._info = experiment.info
            except JournalError as error:
                problem = str(error)
            except Exception as error:
                problem = f"It cannot be read on: {one_line(error)}"
            self._take_in(problem, experiment)
            self._signature = signature
            self._state = self._ask_state(experiment)
            self.size = self.results

    def _is_worth_a_try(self, signature: Signature) -> bool:
        """Return whether a journal that could not be read is opened again: that begins with its first record."""
        age = time.monotonic() - self._tried_at
        if age > _RETRY or _is_another_file(signature, self._signature):
            return True
        return signature != self._signature and not self._stuck and age > _REST * self._took

    def _is_due(self) -> bool:
        return self._opened.is_set() and time.monotonic() - self._read_at >= self._max_age

    def _is_another(self, experiment: Experiment, signature: Signature) -> bool:
        """Return whether another experiment lies where this one did."""
        if _is_another_file(signature, self._signature):
            return True
        info = _info_of(self.folder)
        return (info.run_id, info.started_at) != (experiment.info.run_id, experiment.info.started_at)

    def _begin_anew(self) -> None:
        self._experiment, self._problem, self._epoch = None, "", secrets.token_hex(4)
        self._start()  # before: nobody is told that it is not read, and nobody reads it
        self._opened.clear()

    def _glance(self) -> None:
        """Find out the little that needs no reading: what it is, and whether it runs."""
        if self._info is None:
            self._learn_info()
        with self._lock:
            now = time.monotonic()
            if self._thread is not None or self._opened.is_set() or now - self._read_at < self._max_age:
                return
            self._read_at = now
            signature = self._sign()
            changed = signature != self._signature
            if changed:
                self._signature = signature
                self._learn_info()
            state = self._state
            with contextlib.suppress(OSError):
                # Whether one that does not run has ended is known only where nothing was written since.
                was_told = not changed and state is not State.RUNNING
                state = State.RUNNING if is_running(self.folder) else state if was_told else None
            if changed or state is not self._state:
                self.forgotten = ""
            self._state = state

    def _learn_info(self) -> None:
        with contextlib.suppress(Exception):  # opening it will tell why
            self._info = _info_of(self.folder)

    def _ask_state(self, experiment: Experiment | None) -> State | None:
        if experiment is None:
            return None
        with contextlib.suppress(OSError):
            return state_of(self.folder, experiment.history)
        return None

    def _sign(self) -> Signature:
        path = self.folder / JOURNAL_NAME
        return tuple(_stat(each) for each in (path, path.with_name(f"{path.name}-wal")))


class Experiments:
    """All experiments in a folder, found again at each look.

    Args:
        root: a storage folder, or the folder of one experiment; or the URL of either, whose journals are copied here.
        max_age: seconds for which what was found and read is new enough.
        most_results: how many results are kept in memory, of all experiments together; see :const:`MOST_RESULTS`.
        kept: seconds for which what somebody has looked at is kept even so.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        max_age: float = MAX_AGE,
        most_results: int = MOST_RESULTS,
        kept: float = KEPT,
    ) -> None:
        self._followed = Followed(root) if is_url(root) else None
        self.root = Path(os.path.realpath(Path(root).expanduser() if self._followed is None else self._followed.folder))
        self.place = shown(self.root) if self._followed is None else self._followed.url
        """The folder, or the URL, as text."""
        self._max_age = max_age
        self._most_results = most_results
        self._kept = kept
        self._lock = threading.Lock()
        self._found: dict[str, Watched] = {}
        self._found_at = -1e9
        self._outside: list[str] = []
        self._warming = threading.Lock()

    def place_of(self, watched: Watched) -> str:
        """Return the folder, or the URL, of an experiment as text."""
        return shown(watched.folder) if self._followed is None else self._followed.place_of(watched.folder)

    @property
    def single(self) -> bool:
        """Whether the folder is itself an experiment's."""
        return is_experiment(self.root)

    @property
    def outside(self) -> list[str]:
        """Names of those that are not shown, because they are links that lead out of the folder."""
        return list(self._outside)

    def all(self) -> list[Watched]:
        """Return the experiments that there are, those that began last first."""
        with self._lock:
            now = time.monotonic()
            if now - self._found_at >= self._max_age:
                self._found, self._outside = self._find()
                self._found_at = now
            return list(self._found.values())

    def get(self, key: str) -> Watched | None:
        """Return the experiment with this name in addresses; None where it is not there (any more)."""
        return self.get_all(key)[0]

    def get_all(self, *keys: str) -> list[Watched | None]:
        """Return experiments that are shown together, so that none is let go of to make room for another."""
        there = {each.key: each for each in self.all()}
        found = [there.get(key) for key in keys]
        self._make_room([each for each in found if each is not None])
        return found

    def warm(self, count: int = _WARM) -> bool:
        """Read the newest experiments in the background, one after the other, as far as there is room.

        Returns:
            whether that goes on now.
        """
        if not self._warming.acquire(blocking=False):
            return True
        room = self._room()
        if not any(self._is_to_warm(each, room) for each in self.all()[:count]):
            self._warming.release()
            return False

        def read() -> None:
            try:
                for each in self.all()[:count]:
                    if self._is_to_warm(each, self._room()):
                        each.open()
                        each.wait()
            finally:
                self._warming.release()

        threading.Thread(target=read, name="shoal-warm", daemon=True).start()
        return True

    def _room(self) -> int:
        """Return how many results there is room for."""
        return self._most_results - sum(each.results for each in self.all())

    def _is_to_warm(self, watched: Watched, room: int) -> bool:
        return room > 0 and watched.size <= room and not watched.forgotten and watched.known().unread

    def _find(self) -> tuple[dict[str, Watched], list[str]]:
        before = {each.folder: each for each in self._found.values()}
        found: dict[str, Watched] = {}
        outside: list[str] = []
        for folder in find_experiments(self.root):
            if not _is_inside(folder, self.root):
                outside.append(shown(folder.name))
                continue
            known = before.get(folder)
            key = key_of(folder.name) if known is None else known.key
            found[key] = Watched(folder, key, self._max_age) if known is None else known
        # Files change while an experiment runs, and lines that swap places cannot be read.
        return dict(sorted(found.items(), key=lambda each: (-each[1].started_at, each[1].name))), outside

    def _make_room(self, wanted: list[Watched]) -> None:
        there = self.all()
        total = sum(each.results for each in there)
        for each in sorted(there, key=lambda each: each.looked_at):
            if total <= self._most_results or time.monotonic() - each.looked_at < self._kept:
                break
            if each.results and each not in wanted:
                total -= each.results
                each.forget()


def key_of(name: str) -> str:
    """Return an experiment's name as it is in addresses: itself, where that is plain text."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.,=+@-]*", name):
        return name
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40]
    return f"{plain or 'experiment'}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:10]}"


def shown(path: str | Path) -> str:
    """Return a path as text, also where its name is in no known encoding."""
    return os.fsencode(path).decode("utf-8", "replace")


def _is_inside(folder: Path, root: Path) -> bool:
    """Return whether a folder and its journal are really where they seem to be."""
    real = Path(os.path.realpath(folder))
    journal = Path(os.path.realpath(folder / JOURNAL_NAME))
    return (real == root or root in real.parents) and journal.parent == real


def _info_of(folder: Path) -> ExperimentInfo:
    from ..journal.sqlite import SQLiteJournal

    with contextlib.closing(SQLiteJournal.open_for_reading(folder)) as journal:
        try:
            return ExperimentInfo.from_meta(journal.meta())
        except TypeError as error:
            raise JournalError(f"The journal in {folder} does not say what the experiment is: {error}.") from error


def _stat(path: Path) -> tuple[int, int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _is_another_file(now: Signature, before: Signature) -> bool:
    """Return whether another journal lies where one was."""
    old, new = before[0] if before else None, now[0]
    return old is not None and new is not None and old[:2] != new[:2]


def _is_settled(signature: Signature, clock: Callable[[], float] = time.time) -> bool:
    """Return whether all the files were written long enough ago that a change since would show."""
    return all(each is None or clock() - each[3] / 1e9 > _SETTLED for each in signature)
