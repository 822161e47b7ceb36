"""The session: what ``tune.report`` and its companions talk to inside a member.

One class serves every engine; an engine gives it a channel. A report that needs no decision is sent and forgotten. At a
boundary it waits for the driver's answer, and then either returns, or unwinds the user's function so that it can be
entered again with another checkpoint and config.
"""

from __future__ import annotations

import decimal
import math
import numbers
import os
import pickle
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

from ..applied import CheckApplied
from ..checkpoints import Checkpoint
from ..checkpoints.store import is_full, measure, take_over, write
from ..core.commands import Launch
from ..core.events import Config, Drifted, Metrics, Reported, Saved, SavedCheckpoint
from ..core.reports import DONE, ReportRules, at_boundary, check_report, progress, stop_reason, waits
from ..errors import ReportError
from ..location import is_url
from .applied import Watch
from .wire import Enter, Go, HandTo, Leave, MemberInfo, SaveNow, Turn

__all__ = ["SWALLOWED", "Keeper", "Port", "Session", "TrialContext", "Unwind", "current_session", "set_current_session"]

_SWALLOWED_AT_MOST = 25
SWALLOWED = (
    "the trainable catches BaseException (a bare 'except:'?) around tune.report and goes on, so it cannot be stopped "
    "or "
    "entered again. Catch Exception instead."
)


class Unwind(BaseException):
    """Leaves the user's function. No Exception, so that ``except Exception`` in the function does not stop it."""


class Port(Protocol):
    """How a session reaches the driver."""

    def send(self, message: object) -> None:
        """Send an event."""
        ...

    def receive(self, turn: Turn | None = None) -> Any:
        """Wait for an answer; where ``turn`` says where the member waits to go on, also of another member."""
        ...

    def hand_on(self, to: HandTo) -> None:
        """Let another member go on in this one's slot."""
        ...

    def pending(self) -> bool:
        """Return whether something has arrived unasked."""
        ...

    def abandon(self, launch: int | None) -> NoReturn:
        """The function cannot be left by unwinding it. Get rid of it by force; never returns.

        ``launch``: the launch that was to follow and now fails, or None.
        """
        ...


class Keeper(Protocol):
    """A member that can save its state whenever it waits in a report: one of a class."""

    def wants(self, iteration: int, *, ends: bool) -> bool:
        """Return whether the user asked for a checkpoint at this iteration; ``ends``: it is the trial's last."""
        ...

    def save(self, folder: Path) -> None:
        """Write the state into an empty folder."""
        ...


@dataclass(frozen=True, slots=True)
class TrialContext:
    """What ``tune.get_context()`` returns: who this member is."""

    trial_id: str
    trial_name: str
    trial_dir: str
    experiment_name: str
    cpus: float
    gpus: float
    index: int
    session: Session = field(repr=False, compare=False)

    def get_trial_id(self) -> str:
        """Return the trial's id, unique in the experiment: ``<run id>_<number>``."""
        return self.trial_id

    def get_trial_name(self) -> str:
        """Return the trial's name: ``<function>_<trial id>``."""
        return self.trial_name

    def get_trial_dir(self) -> str:
        """Return the path of the trial's folder."""
        return self.trial_dir

    def get_trial_resources(self) -> dict[str, float]:
        """Return what the trial was given: ``{"cpu": 1.0, "gpu": 0.0}``."""
        return {"cpu": self.cpus, "gpu": self.gpus}

    def get_world_size(self) -> int:
        """Return 1: a member is one process, for code that asks how many workers train it."""
        return 1

    def get_world_rank(self) -> int:
        """Return 0: see :meth:`get_world_size`."""
        return 0

    def get_local_rank(self) -> int:
        """Return 0: see :meth:`get_world_size`."""
        return 0

    def get_experiment_name(self) -> str:
        """Return the experiment's name."""
        return self.experiment_name


class Session:
    """A member's state between the calls of the user's function into Shoal.

    Args:
        port: the way to the driver.
        info: who the member is.
        rules: what a report must hold.
        experiment: the experiment's name.
        cpus, gpus: what the member was given.
        applied: how to check that optimizers use the config's values; None: not at all.
    """

    def __init__(
        self,
        port: Port,
        info: MemberInfo,
        rules: ReportRules,
        experiment: str,
        cpus: float,
        gpus: float,
        applied: CheckApplied | None = None,
    ) -> None:
        self._port = port
        self._info = info
        self._rules = rules
        self._pid = os.getpid()
        self._until: float | None = None
        self._launch: Launch | None = None
        self._config: bytes | None = None
        self._checkpoint: Checkpoint | None = None
        self._iteration = 0
        self._since_restore = 0
        # Nanoseconds are counted as integers: a sum of them has no digits that are noise, which would be written down.
        self._total_ns = 0
        self._since_restore_ns = 0
        self._next_checkpoint = 0
        self._settle: Callable[[], None] | None = None
        """What is left of a commit, once the report is sent."""
        self.lacked_room = False
        """There was no room for the folder that the user may write to next; to fail for that is no fault of theirs."""
        self._entered_ns = 0
        self._swallowed = 0
        self._progress = -math.inf
        self._reporting = threading.RLock()
        self._next: Enter | Leave | None = None
        self._successor: HandTo | None = None
        """Who goes on in this member's slot when it comes to its boundary, where that is known."""
        self._keeper: Keeper | None = None
        self._applied = applied
        self._watch = Watch(applied, lambda: _session_here() is self)
        self.class_name: str | None = None
        """Of a class trainable, which returns its results instead of reporting them."""
        self.context = TrialContext(info.trial_id, info.name, info.folder, experiment, cpus, gpus, info.index, self)

    # ------------------------------------------------------------------------------------------- used by the main loop

    def begin(self, enter: Enter) -> None:
        """Get ready for one run of the user's function."""
        launch = enter.launch
        self._launch = launch
        self._config = enter.config
        self._until = launch.until
        self._checkpoint = None if enter.checkpoint is None else Checkpoint(enter.checkpoint)
        self._iteration = launch.iteration
        self._total_ns = round(launch.time_total_s * 1e9)
        self._since_restore_ns = 0
        self._since_restore = 0
        self._progress = -math.inf
        self._next_checkpoint = launch.next_checkpoint
        self._swallowed = 0
        self._next = self._successor = None
        self._watch.begin(enter)
        self._entered_ns = time.perf_counter_ns()

    def wait_for_slot(self) -> None:
        """Wait before the function until it may be entered.

        Raises:
            Unwind: something else comes instead.
        """
        self._next = self._wait_to_go_on()
        if self._next is not None:
            raise Unwind
        self._entered_ns = time.perf_counter_ns()

    def end(self) -> None:
        """The run of the user's function that began last has ended, however it did."""
        self._watch.end()

    def next_message(self) -> Enter | Leave:
        """Return what made the function unwind, or wait for what comes next."""
        message, self._next = self._next, None
        while message is None:
            received = self._port.receive()
            if isinstance(received, Enter | Leave):
                message = received
        return message

    @property
    def pid(self) -> int:
        """The process that the member lives in."""
        return self._pid

    @property
    def rules(self) -> ReportRules:
        """What every report must hold, and when a class trainable saves."""
        return self._rules

    @property
    def iteration(self) -> int:
        """Reports that made these weights, donors' included."""
        return self._iteration

    @property
    def launch(self) -> int | None:
        """The number of the launch that the function was entered for last; None before the first."""
        return None if self._launch is None else self._launch.launch

    @property
    def config(self) -> Config:
        """The config that the function was entered with last, whatever it has made of it since."""
        if self._config is not None:
            config: Config = pickle.loads(self._config)
            return config
        return {} if self._launch is None else self._launch.config

    def goes_on_with(self, path: str) -> bool:
        """Return whether the checkpoint at a path is the one to go on from and the member's own, not a donor's."""
        record = None if self._launch is None else self._launch.checkpoint
        given = self._checkpoint is not None and os.path.realpath(path) == os.path.realpath(self._checkpoint.path)
        return given and record is not None and record.trial_id == self._info.trial_id

    @property
    def leaving(self) -> bool:
        """True where the function is being unwound."""
        return self._next is not None

    # ------------------------------------------------------------------------------------------ used by the user's code

    def get_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint to go on from, or None."""
        return self._checkpoint

    def report(
        self,
        metrics: Mapping[str, Any] | None,
        checkpoint: Checkpoint | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """Send a result; at a boundary, wait for what follows from it. Threads of the function take turns.

        Args:
            metrics: what the user reports.
            checkpoint: what the user's function saved, or None.
            keeper: saves a checkpoint where one is wanted or needed, in place of ``checkpoint``.
        """
        if self.class_name is not None and keeper is None:
            raise ReportError(
                f"tune.report was called inside of the class {self.class_name}. Return the metrics from step() instead,"
                f' with "should_checkpoint": True where you want a checkpoint.'
            )
        with self._reporting:
            self._report(metrics, checkpoint, keeper)

    def _report(self, metrics: Mapping[str, Any] | None, checkpoint: Checkpoint | None, keeper: Keeper | None) -> None:
        now = time.perf_counter_ns()
        if self._next is not None:
            self._unwind()
        launch = self._check_caller()
        self._check_applied(launch)
        spent_ns = now - self._entered_ns
        total_ns, since_restore_ns = self._total_ns + spent_ns, self._since_restore_ns + spent_ns
        spent, total, since_restore = spent_ns / 1e9, total_ns / 1e9, since_restore_ns / 1e9
        timestamp = time.time_ns() // 1000 / 1e6
        plain = _plain_metrics(metrics)
        _check_checkpoint(checkpoint)
        automatic = {
            "training_iteration": self._iteration + 1,
            "time_this_iter_s": spent,
            "time_total_s": total,
            "time_since_restore": since_restore,
            "iterations_since_restore": self._since_restore + 1,
            "timestamp": timestamp,
        }
        done = bool(plain.pop("done", False))
        stop = stop_reason(self._rules, plain, automatic) or (DONE if done else None)
        self._hear_early()
        wanted = keeper is not None and keeper.wants(self._iteration + 1, ends=stop is not None)
        check_report(self._rules, plain, automatic, checkpoint is not None or wanted)
        reached = progress(self._rules, plain, automatic)
        self._check_growth(reached)
        waiting = stop is not None or waits(self._rules, self._until, reached)
        self._keeper = keeper
        yields = stop is None and self._next is None and at_boundary(self._until, reached)
        saved: SavedCheckpoint | None = None
        if keeper is not None and (wanted or yields or (stop is None and self._next is not None)):
            saved = self._saved(keeper, transient=not wanted)
        # From here on the function does not run, so another's may.
        if checkpoint is not None:
            saved = self._committed(checkpoint, self._hand_on if yields else None)
        elif yields:
            self._hand_on()
        self._iteration += 1
        self._since_restore += 1
        self._total_ns, self._since_restore_ns = total_ns, since_restore_ns
        self._port.send(
            Reported(
                trial_id=self._info.trial_id,
                launch=launch.launch,
                iteration=self._iteration,
                metrics=plain,
                waiting=waiting,
                stop=stop,
                checkpoint=saved,
                timestamp=timestamp,
                time_this_iter_s=spent,
                time_total_s=total,
                time_since_restore=since_restore,
                iterations_since_restore=self._since_restore,
            )
        )
        self._settle_commit()
        if self._next is not None:
            self._unwind()
        # To save may have taken long; else it was heard only just now that there is nothing.
        if waiting or (saved is not None and self._port.pending()):
            self._answer(waiting)
        self._entered_ns = time.perf_counter_ns()

    def _settle_commit(self) -> None:
        """Do what is left of a commit. The report counts already."""
        settle, self._settle = self._settle, None
        if settle is None:
            return
        try:
            settle()
        except OSError as error:
            self.lacked_room = is_full(error)

    def _check_applied(self, launch: Launch) -> None:
        """Tell the driver, or where the user wants it the trial, which hyperparameters have drifted."""
        for key, text in self._watch.drifts():
            if self._applied is not None and self._applied.strict:
                raise ReportError(text)
            self._port.send(Drifted(launch.trial_id, launch.launch, key, text))

    def _hear_early(self) -> None:
        """Find out before a report whether it is the last: who can save at any time then does, and loses nothing.

        Whose report counts no more saves nothing: another may have taken its place, and the numbers of its checkpoints.
        """
        while self._next is None and self._port.pending():
            # A member that was not asked to wait is told who goes on after it, or to leave.
            message = self._port.receive()
            if not self._taken_in_passing(message):
                self._next = message
                if not (isinstance(message, Leave) and message.counts):
                    self._unwind()

    def _taken_in_passing(self, message: object) -> bool:
        """Take in what leads to nothing by itself; return False where it is something else."""
        if isinstance(message, HandTo):
            self._successor = message
        return isinstance(message, HandTo | Go)  # that it may go on it has heard of another before

    def _hand_on(self) -> None:
        """Let the one that was promised this slot go on there."""
        successor, self._successor = self._successor, None
        if successor is not None:
            self._port.hand_on(successor)

    def _committed(self, checkpoint: Checkpoint, begins: Callable[[], None] | None) -> SavedCheckpoint:
        """Take the user's checkpoint over. ``begins`` is called first, unless it is plain that it cannot be one."""
        folder = Path(self._info.folder)
        number, linked = self._next_checkpoint, checkpoint.linked_files
        began = time.perf_counter()
        saved, self._settle = take_over(Path(checkpoint.path), folder, number, linked=linked, begins=begins)
        self._next_checkpoint += 1
        return replace(saved, seconds=_since(began))

    def _saved(self, keeper: Keeper, *, transient: bool = False) -> SavedCheckpoint:
        """Save what the user asked for; or, transient, what the scheduler needs to copy this member or to go on."""

        def make(folder: Path) -> tuple[str, int]:
            keeper.save(folder)
            return measure(folder)

        began = time.perf_counter()
        saved = write(make, Path(self._info.folder), self._next_checkpoint)
        self._next_checkpoint += 1
        return replace(saved, transient=transient, seconds=_since(began))

    def _check_growth(self, now: float | None) -> None:
        """A ``time_attr`` that shrinks would make a member wait for ever, or never, for its boundary."""
        if now is not None and now < self._progress:
            raise ReportError(
                f"tune.report: {self._rules.time_attr!r} is the scheduler's time_attr and must not get smaller, but is "
                f"{now:g} after {self._progress:g}."
            )
        self._progress = self._progress if now is None else now

    def _answer(self, waiting: bool) -> None:
        """Take the driver's answers until the function may go on or must be left."""
        if waiting:
            self._next = self._wait_to_go_on()
        else:
            self._hear_early()
        if self._next is not None:
            self._unwind()

    def _wait_to_go_on(self) -> Enter | Leave | None:
        """Wait until the function may go on, or be entered; return what comes instead, or None."""
        launch = self._check_caller().launch
        turn = (launch, self._iteration)
        while True:
            message = self._port.receive(turn)
            if isinstance(message, Go):
                if message.turn is not None and message.turn != turn:
                    continue  # it has gone on from there, by the word of another
                if message.until != self._until:
                    self._successor = None
                self._until = message.until
                return None
            if isinstance(message, SaveNow):
                assert self._keeper is not None, "only a class trainable is asked to save"
                self._port.send(Saved(self._info.trial_id, launch, self._saved(self._keeper)))
            elif not self._taken_in_passing(message):
                other: Enter | Leave = message
                return other

    def _unwind(self) -> None:
        self._swallowed += 1
        if self._swallowed > _SWALLOWED_AT_MOST:
            self._port.abandon(self._next.launch.launch if isinstance(self._next, Enter) else None)
        raise Unwind

    def _check_caller(self) -> Launch:
        if self._launch is None:
            raise ReportError("tune.report was called before the trainable was entered.")
        if os.getpid() != self._pid:
            raise ReportError(
                "tune.report was called in a process that the trainable started (a DataLoader worker?). Call it in the "
                "trainable itself."
            )
        return self._launch


_current: Session | None = None
_of_thread = threading.local()


def set_current_session(session: Session | None) -> Session | None:
    """Make ``session`` the one that ``tune.report`` talks to, and return the one that this thread had before.

    It counts in this thread and in those that have none of their own. Called when a member begins to run: a process
    holds one member, the inline engine a thread for each.
    """
    global _current
    before: Session | None = getattr(_of_thread, "session", None)
    _current = _of_thread.session = session
    return before


def _session_here() -> Session | None:
    """Return the session that the calling thread belongs to, or None."""
    session: Session | None = getattr(_of_thread, "session", None) or _current
    return session


def current_session(caller: str) -> Session:
    """Return the session of the member that runs here.

    Raises:
        ReportError: no member runs in this process.
    """
    session = _session_here()
    if session is None:
        raise ReportError(
            f"{caller} was called outside of a trial. It works inside a function that tune.Tuner(function, ...).fit() "
            f"runs."
        )
    return session


def _since(began: float) -> float:
    """Return the seconds since a reading of ``time.perf_counter``, without digits that are noise."""
    return round(time.perf_counter() - began, 6)


def _check_checkpoint(checkpoint: object) -> None:
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        raise ReportError(
            f"tune.report: checkpoint must be a tune.Checkpoint, but is {checkpoint!r} ({type(checkpoint).__name__}). "
            f"Write tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))."
        )
    if checkpoint is not None and is_url(checkpoint.path):
        raise ReportError(
            f"tune.report: {checkpoint!r} is in object storage: download it with checkpoint.to_directory(), and report "
            f"tune.Checkpoint.from_directory(folder)."
        )


def _plain_metrics(metrics: object) -> Metrics:
    if type(metrics) is not dict and not isinstance(metrics, Mapping):
        raise ReportError(
            f"tune.report: metrics must be a dict of names and values, such as {{'mean_accuracy': 0.9}}, but is "
            f"{metrics!r} "
            f"({type(metrics).__name__})."
        )
    plain: Metrics = {}
    for key, value in metrics.items():
        if not isinstance(key, str):
            raise ReportError(
                f"tune.report: the keys of metrics must be text, but one is {key!r} ({type(key).__name__})."
            )
        plain[key] = value if type(value) is float else _plain(value)
    return plain


def _plain(value: Any) -> Any:
    """Return a value of the standard library's types: what a metric means, without arrays, tensors and their memory."""
    if value is None or type(value) in (bool, float, str):
        return value
    if type(value) is int:
        if value.bit_length() > 4096:
            raise ReportError(
                f"tune.report: a metric is an int of {value.bit_length()} bits, which no reader can show."
            )
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (bool, int, float, str)):
        # Subclasses: numpy.float64, enums and the like.
        return next(kind(value) for kind in (bool, int, float, str) if isinstance(value, kind))
    if isinstance(value, (numbers.Real, decimal.Decimal)):
        return float(value)
    shape = getattr(value, "shape", None)
    if shape is not None:
        # NumPy scalars and arrays, torch tensors and their like, on any device.
        detach = getattr(value, "detach", None)
        host = value if detach is None else detach().cpu()
        if hasattr(host, "tolist"):
            entries = host.tolist()
            while isinstance(entries, list) and len(entries) == 1:
                entries = entries[0]
            return entries
    return str(value)
