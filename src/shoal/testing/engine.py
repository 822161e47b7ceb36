"""The simulated engine: it carries out the core's commands in virtual time, and is strict where a real one could only
misbehave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, singledispatchmethod
from typing import Any, TypeAlias

from ..core.commands import (
    Await,
    Command,
    Continue,
    DeleteCheckpoint,
    Evict,
    Exploit,
    FallBack,
    HandOn,
    Launch,
    Notice,
    Park,
    Reconfigure,
    Retry,
    Save,
    Status,
    Stop,
    WindUp,
    checkpoint_id,
)
from ..core.events import (
    Config,
    Damaged,
    Event,
    Failed,
    Finished,
    Lost,
    Metrics,
    Opened,
    Reported,
    Saved,
    SavedCheckpoint,
    Started,
)
from ..core.population import Population
from ..core.reports import ReportRules, at_boundary, check_report, progress, stop_reason, value_of, waits
from ..core.rng import uniform_key
from .clock import VirtualClock
from .faults import Fault, Faults
from .nodes import Machine, Node
from .process import Before, Process, Stored

__all__ = ["BrokenContract", "HandsOn", "SimulatedEngine", "Train"]

EPOCH = 1_700_000_000.0
"""The virtual clock's zero, in seconds since the epoch."""

Train: TypeAlias = Callable[[Config, Any], "tuple[Metrics, Any] | None"]
"""One step of a member. ``state`` is None at the start. None ends the member's function; an exception fails it."""


HandsOn: TypeAlias = Callable[[int, int], "float | None"]
"""See :class:`SimulatedEngine`."""


class BrokenContract(AssertionError):
    """The core gave a command that no engine can carry out without losing work, or the experiment came to a halt."""


class SimulatedEngine:
    """Carries commands out as a real engine must, in virtual time, and raises BrokenContract where that is impossible.

    Args:
        train: one step of a member.
        rules: what every report must hold.
        devices: one entry a slot, as in ``Limits``. Those of nodes that are there from the beginning come last.
        nodes: which nodes come and go.
        duration: virtual seconds of a step; a number, or ``(index, iteration, config) -> seconds``.
        start_time: virtual seconds that a new process needs before its function is entered.
        checkpoint_every: save a checkpoint with every n-th report, 0 for never; or ``(index, iteration) -> bool``.
        saves_when_needed: members can save at any time, as those of a class trainable can: they save at each boundary
            too, a checkpoint that goes when nobody needs it any more, and at their end where ``rules`` ask for that.
        faults: what goes wrong.
        seed: of the small delays that news of a crash takes.
        stopper: looks at each report in the driver and returns why the trial should end, or None.
        hands_on: ``(index, iteration) -> seconds``, after which the report is heard of a member that hands its slot on;
            or None, where it does not hear in time that it could. Default: members cannot do that.
    """

    def __init__(
        self,
        train: Train,
        rules: ReportRules,
        *,
        devices: Sequence[str] = ("",),
        nodes: Sequence[Node] = (),
        duration: float | Callable[[int, int, Config], float] = 1.0,
        start_time: float = 0.0,
        checkpoint_every: int | Callable[[int, int], bool] = 1,
        saves_when_needed: bool = False,
        faults: Faults | None = None,
        seed: int = 0,
        stopper: Callable[[Reported], str | None] | None = None,
        hands_on: HandsOn | None = None,
    ) -> None:
        self.clock = VirtualClock()
        self.busy_s = 0.0
        """Virtual seconds of all steps together: what the slots were used for."""
        self.stopped: dict[str, Status] = {}
        self.states: dict[str, Any] = {}
        """Each ended trial's state at its end."""
        self.peak_checkpoints = 0
        self.peak_processes = 0
        self._train = train
        self._rules = rules
        self._machine = Machine(devices)
        self._nodes = nodes
        self._duration = duration
        self._start_time = start_time
        self._checkpoint_every = checkpoint_every
        self._saves_when_needed = saves_when_needed
        self._faults = faults
        self._seed = seed
        self._stopper = stopper
        self._hands_on = hands_on
        self._indices: dict[str, int] = {}
        self._processes: dict[str, Process] = {}
        self._stored: dict[str, Stored] = {}
        self._deleted: set[str] = set()
        self._damaged: set[str] = set()
        self._unknown: set[str] = set()
        """Checkpoints of which the core has not heard, and never will where their report is late."""
        self._goes_on_from: dict[str, Stored] = {}
        self._went_at: dict[str, int] = {}
        """The iteration at which a waiting trial lost its process; its next launch must go on from there."""

    @property
    def checkpoints(self) -> set[str]:
        """The ids of all checkpoints that exist."""
        return set(self._stored) - self._unknown

    def add(self, trial_id: str, index: int) -> None:
        """Make a trial known."""
        self._indices[trial_id] = index

    def begin(self) -> None:
        """The driver begins: from now on nodes come and go."""
        self._machine.begin(self._nodes)
        for place, node in enumerate(self._nodes):
            if node.joins_at is not None:
                self.clock.after(node.joins_at, partial(self._machine.join, place, node))
            if node.dies_at is not None:
                self.clock.after(node.dies_at, partial(self._die, place, node))

    def _die(self, place: int, node: Node) -> Event:
        """A node dies, and all processes that ran there last. That is told of each, some of them at once."""
        left = self._machine.leave(place, node)
        for process in self._processes.values():
            if process.home not in left.slots or not process.alive:
                continue
            process.alive = False
            if process.early is not None:
                # Nobody will ever hear what it did in a slot that the core did not give it.
                process.iteration, process.state = process.early.iteration, process.early.state
                process.phase, process.early, process.mute = "waiting", None, True
                process.held.clear()
            lag = max(0.0, self._lag(process) - 1.0)
            self.clock.after(lag, partial(self._tell_of_death, process, innocent=True))
        return left

    def wait(self) -> Event | None:
        """Return what happens next; None if nothing ever will."""
        while (event := self.clock.next_event()) is not None:
            process = self._processes.get(getattr(event, "trial_id", ""))
            if process is None or process.launch != getattr(event, "launch", None):
                return event
            if process.mute and not isinstance(event, Lost):
                continue
            if process.early is not None and not isinstance(event, Damaged):
                process.held.append(self._later(process, event))
                continue
            if isinstance(event, Reported | Saved) and event.checkpoint is not None:
                self._goes_on_from[event.trial_id] = self._make_known(event.trial_id, event.checkpoint.number)
            return event
        return None

    def _later(self, process: Process, event: Event) -> Callable[[], Event]:
        def tell() -> Event:
            if isinstance(event, Failed):
                self._free_slot(process)  # which it was given by mistake
            return event

        return tell

    def _make_known(self, trial_id: str, number: int) -> Stored:
        name = checkpoint_id(trial_id, number)
        self._unknown.discard(name)
        self.peak_checkpoints = max(self.peak_checkpoints, len(self._stored) - len(self._unknown))
        return self._stored[name]

    def take_over(self, before: SimulatedEngine, core: Population, opened: Opened) -> None:
        """Begin where the engine of an earlier driver was left: no process, and the checkpoints that the core knows.

        A trial that goes on then has to do so from its newest checkpoint, its own or the one that it has copied.

        Args:
            before: the engine of the driver that is gone.
            core: the population, before it is told ``opened``.
            opened: who goes on.
        """
        self.clock.now = before.clock.now
        self._indices = dict(before._indices)
        self._stored = {name: stored for name, stored in before._stored.items() if core.retention.knows(name)}
        self._damaged = set(before._damaged)
        self._deleted = before._deleted | (before.checkpoints - set(self._stored))
        for trial_id, trial in core.trials.items():
            newest = None if trial_id in opened.anew else before._goes_on_from.get(trial_id)
            if newest is not None:
                self._goes_on_from[trial_id] = newest
            if trial.status.ended and trial_id not in (*opened.again, *opened.anew):
                self.stopped[trial_id] = trial.status
                self.states[trial_id] = before.states.get(trial_id, newest and newest.state)
            else:
                self._went_at[trial_id] = 0 if newest is None else newest.iteration

    @singledispatchmethod
    def execute(self, command: Command) -> None:
        """Carry out one command of the core.

        Raises:
            BrokenContract: that is impossible, or would lose work.
        """
        raise BrokenContract(f"unknown command {command!r}")

    # ----------------------------------------------------------------------------------------------------- commands

    @execute.register
    def _(self, command: Launch) -> None:
        process = self._processes.get(command.trial_id)
        _check(command.trial_id not in self.stopped, command, "the trial has been stopped")
        _check(command.fresh == (process is None), command, f"but its process is {process}")
        device = self._device(command)
        if process is None:
            process = Process(command.trial_id, self._indices[command.trial_id], device)
        _check(process.phase != "training", command, "the member is training")
        _check(process.device == device, command, f"its process is bound to device {process.device!r}")
        _check(command.launch > process.launch, command, f"launch {process.launch} was before")
        state, iteration, time_total_s = self._load(command)
        expected = self._went_at.get(command.trial_id, iteration)
        _check(expected == iteration, command, f"it waited at iteration {expected}: work is lost")
        if not command.waits:
            self._take_slot(process, command.slot, command)
        self._went_at.pop(command.trial_id, None)
        self._processes[command.trial_id] = process
        there = sum(other.alive for other in self._processes.values()) if self._nodes else len(self._processes)
        self.peak_processes = max(self.peak_processes, there)
        process.home = command.slot
        process.launch = command.launch
        process.phase = "waiting" if command.waits else "training"
        process.door, process.arrived = True, False
        process.successor = process.early = None
        process.doomed = False
        process.turn += 1
        process.config = command.config
        source = command.checkpoint
        process.damaged = source.id if source is not None and source.id in self._damaged else None
        process.state = state
        process.until = command.until
        process.iteration = process.start_iteration = iteration
        process.time_total_s = process.start_time_s = time_total_s
        process.next_checkpoint = command.next_checkpoint
        turn = process.turn
        self.clock.after(self._start_time if command.fresh else 0.0, lambda: self._arrive(process, turn))

    @execute.register
    def _(self, command: Continue) -> None:
        process = self._resident(command)
        early, process.early = process.early, None
        _check(process.phase == "waiting" or early is not None, command, f"but it is {process.phase}")
        _check(
            process.device == self._machine.devices[command.slot],
            command,
            f"its process is bound to {process.device!r}",
        )
        if process.slot != command.slot:
            _check(process.slot is None, command, f"it holds slot {process.slot}")
            self._take_slot(process, command.slot, command)
        if early is None:
            self._set_off(process, command.until)
            return
        _check(process.until == command.until, command, f"it was handed the slot until {process.until}")
        self._release(process)

    def _release(self, process: Process) -> None:
        """Let the core hear what happened to a member while it trained early."""
        for tell in process.held:
            self.clock.after(0.0, tell)
        process.held.clear()

    def _set_off(self, process: Process, until: float | None) -> None:
        """Let a member that waits go on, or enter its function."""
        process.phase = "training"
        process.doomed = False
        process.until = until
        process.successor = None
        if process.door and not process.arrived:
            return
        process.turn += 1
        if process.door:
            process.door = False
            started = self._started(process)
            self.clock.after(0.0, lambda: started)
        self._begin_step(process)

    @execute.register
    def _(self, command: HandOn) -> None:
        process, other = self._resident(command), self._processes.get(command.to)
        _check(process.slot == command.slot, command, f"but it is {process}")
        fits = other is not None and other.phase == "waiting" and other.slot is None
        _check(fits, command, f"{command.to} does not wait for a slot: {other}")
        assert other is not None
        _check(other.launch == command.to_launch, command, f"its launch is {other.launch}")
        _check(other.iteration == command.to_iteration, command, f"it waits at {other.iteration}")
        _check(
            other.device == self._machine.devices[command.slot], command, f"its process is bound to {other.device!r}"
        )
        if process.phase == "training":  # else it has come to its boundary meanwhile
            process.successor = command

    def _hand_on(self, process: Process) -> None:
        """A member is at its boundary: let the other go on in its slot that was promised it."""
        told, process.successor = process.successor, None
        other = None if told is None else self._processes.get(told.to)
        if told is None or other is None or not other.alive or other.phase != "waiting":
            return
        if (other.launch, other.iteration) == (told.to_launch, told.to_iteration) and other.slot is None:
            other.early = Before(other.iteration, other.state)
            other.home = told.slot
            self._set_off(other, told.until)

    @execute.register
    def _(self, command: Park) -> None:
        process = self._resident(command)
        _check(process.phase != "training" and process.slot is not None, command, f"but it is {process}")
        self._free_slot(process)
        if process.doomed:
            turn = process.turn
            self.clock.after(self._lag(process), lambda: self._die_parked(process, turn))

    @execute.register
    def _(self, command: Exploit) -> None:
        _check(command.checkpoint.id in self._stored, command, "the donor's checkpoint does not exist")
        self._went_at.pop(command.trial_id, None)
        self._goes_on_from[command.trial_id] = self._stored[command.checkpoint.id]
        process = self._processes.get(command.trial_id)
        if process is not None:
            expected = "waiting" if command.failed is None else "idle"
            _check(process.phase == expected and process.launch == command.launch, command, f"but it is {process}")
            process.phase = "idle"

    @execute.register
    def _(self, command: Reconfigure) -> None:
        stored = self._stored.get(command.checkpoint.id)
        _check(command.checkpoint.trial_id == command.trial_id, command, "the checkpoint is not its own")
        if stored is None:
            raise BrokenContract(f"{command!r}: the checkpoint does not exist")
        _check(stored.iteration == command.iteration, command, f"it holds iteration {stored.iteration}: work is lost")
        self._went_at.pop(command.trial_id, None)
        self._goes_on_from[command.trial_id] = stored
        process = self._processes.get(command.trial_id)
        if process is not None:
            _check(process.phase == "waiting" and process.launch == command.launch, command, f"but it is {process}")
            _check(process.iteration == command.iteration, command, f"it is at iteration {process.iteration}")
            process.phase = "idle"

    @execute.register
    def _(self, command: Save) -> None:
        process = self._resident(command)
        _check(self._saves_when_needed, command, "it saves by itself and cannot be asked")
        _check(process.phase == "waiting" and process.slot is not None, command, f"but it is {process}")
        turn = process.turn
        self.clock.after(0.0, lambda: self._save_now(process, turn))

    @execute.register
    def _(self, command: Evict) -> None:
        process = self._resident(command)
        _check(process.phase != "training" and process.slot is None, command, f"but it is {process}")
        self._wait_without_process(process)
        process.turn += 1
        del self._processes[command.trial_id]

    @execute.register
    def _(self, command: WindUp) -> None:
        process = self._resident(command)
        process.leaving = True
        if process.slot is None:
            self._wind_up_early(process)
        else:
            _check(process.phase != "idle", command, f"but it is {process}")

    def _wind_up_early(self, process: Process) -> None:
        """Have a member leave that waits for the slot that it was promised, or trains there already."""
        early, process.early = process.early, None
        if early is None:
            lost = Lost(process.trial_id, process.launch, "it had not been started yet")
            self.clock.after(0.0, lambda: lost)
        self._release(process)

    @execute.register
    def _(self, command: Retry) -> None:
        process = self._processes.get(command.trial_id)
        _check(process is None or process.phase == "idle", command, f"but it is {process}")
        self._went_at.pop(command.trial_id, None)

    @execute.register
    def _(self, command: Await) -> None:
        process = self._processes.get(command.trial_id)
        _check(process is None or process.phase == "idle", command, f"but it is {process}")

    @execute.register
    def _(self, command: FallBack) -> None:
        process = self._processes.get(command.trial_id)
        _check(process is None or process.phase == "idle", command, f"but it is {process}")
        _check(command.damaged in self._damaged, command, f"{command.damaged} is whole")
        stored = self._stored.get(command.checkpoint.id)
        if stored is None:
            raise BrokenContract(f"{command!r}: {command.checkpoint.id} does not exist")
        self._went_at.pop(command.trial_id, None)
        self._goes_on_from[command.trial_id] = stored

    @execute.register
    def _(self, command: Stop) -> None:
        _check(command.trial_id not in self.stopped, command, "it was stopped before")
        _check(command.status.ended, command, "that is no end")
        self.stopped[command.trial_id] = command.status
        process = self._processes.pop(command.trial_id, None)
        if process is not None:
            process.turn += 1
            self._free_slot(process)
        self._went_at.pop(command.trial_id, None)
        stored = self._goes_on_from.get(command.trial_id)
        if process is None:
            self.states[command.trial_id] = stored and stored.state
        else:
            # What it did in a slot that the core did not give it counts for nobody.
            self.states[command.trial_id] = process.state if process.early is None else process.early.state

    @execute.register
    def _(self, command: DeleteCheckpoint) -> None:
        name = checkpoint_id(command.trial_id, command.number)
        _check(name in self._stored and name not in self._unknown, command, "there is no such checkpoint")
        del self._stored[name]
        self._deleted.add(name)

    @execute.register
    def _(self, command: Notice) -> None:
        _check(bool(command.key and command.text), command, "it says nothing")

    # ------------------------------------------------------------------------------------------------------ members

    def _arrive(self, process: Process, turn: int) -> Event | None:
        """A member stands before its function; it enters it where it has a slot."""
        if process.turn != turn or not process.alive:
            return None
        if process.damaged is not None:
            process.phase = "idle"
            process.door = False
            process.early = None
            self._free_slot(process)
            return Damaged(process.trial_id, process.launch, process.damaged, "its bytes have changed (simulated)")
        process.arrived = True
        if process.phase == "waiting":
            return None
        process.door = False
        self._begin_step(process)
        return self._started(process)

    @staticmethod
    def _started(process: Process) -> Started:
        return Started(process.trial_id, process.launch, pid=1000 + process.index, hostname="simulated")

    def _begin_step(self, process: Process) -> None:
        turn = process.turn
        spent = self._duration
        if callable(spent):
            spent = spent(process.index, process.iteration + 1, process.config)
        self.clock.after(spent, lambda: self._end_step(process, turn, spent))

    def _end_step(self, process: Process, turn: int, spent: float) -> Event | None:
        if process.turn != turn or not process.alive:
            return None
        self.busy_s += spent
        fault = self._faults(process.index, process.launch, process.iteration + 1) if self._faults is not None else None
        if fault is Fault.CRASH or fault is Fault.ORPHAN:
            process.alive = False
            return self._tell_of_death(process, innocent=fault is Fault.ORPHAN)
        if fault is Fault.RAISE or fault is Fault.RAISE_AND_CRASH:
            if fault is Fault.RAISE_AND_CRASH:
                process.alive = False
                self.clock.after(self._lag(process), lambda: self._tell_of_death(process))
            return self._failed(process, "RuntimeError: a simulated failure")
        if fault is Fault.RETURN:
            return self._returned(process)
        try:
            step = self._train(process.config, process.state)
            event = None if step is None else self._report(process, *step, spent=spent)
        except BrokenContract:
            raise
        except Exception as error:
            return self._failed(process, f"{type(error).__name__}: {error}")
        if event is None:
            return self._returned(process)
        lag = 0.0
        if event.waiting or process.leaving:
            process.phase = "waiting"
            there = at_boundary(process.until, value_of(event, self._rules.time_attr))
            yields = event.stop is None and not process.leaving and there
            heard = self._hands_on(process.index, event.iteration) if self._hands_on and yields else None
            if heard is not None:
                lag = heard
                self._hand_on(process)
        if fault is Fault.DAMAGE and event.checkpoint is not None:
            self._damaged.add(checkpoint_id(process.trial_id, event.checkpoint.number))
        process.doomed = fault is Fault.CRASH_PARKED
        if fault is Fault.CRASH_COMMITTING and event.waiting:
            process.alive = False
            self.clock.after(self._lag(process), lambda: self._tell_of_death(process))
            return None
        if fault is Fault.CRASH_AFTER_REPORT:
            process.alive = False
            self.clock.after(self._lag(process), lambda: self._tell_of_death(process))
        elif fault is Fault.LATE_REPORT:
            process.alive = False
            self.clock.after(self._lag(process), lambda: event)
            return self._tell_of_death(process)
        elif not event.waiting and not process.leaving:
            self._begin_step(process)
        elif process.leaving and process.slot is None and process.early is None:
            # It was asked to leave in a slot of which the core has not heard: that it is gone is told, too.
            self.clock.after(self._lag(process), lambda: self._tell_of_death(process))
        elif lag:
            self.clock.after(lag, lambda: event)
            return None
        return event

    def _report(self, process: Process, metrics: Metrics, state: Any, *, spent: float) -> Reported:
        iteration = process.iteration + 1
        total = process.time_total_s + spent
        automatic = {
            "training_iteration": iteration,
            "time_this_iter_s": spent,
            "time_total_s": total,
            "time_since_restore": total - process.start_time_s,
            "iterations_since_restore": iteration - process.start_iteration,
            "timestamp": EPOCH + self.clock.now,
        }
        every = self._checkpoint_every
        saves = every(process.index, iteration) if callable(every) else every > 0 and iteration % every == 0
        stop = stop_reason(self._rules, metrics, automatic)
        transient = False
        reached = progress(self._rules, metrics, automatic)
        if self._saves_when_needed and not saves:
            saves = stop is not None and self._rules.save_at_end
            needed = process.leaving or at_boundary(process.until, reached)
            transient = stop is None and needed
        check_report(self._rules, metrics, automatic, saves or transient)
        process.state = state
        process.iteration = iteration
        process.time_total_s = total
        waiting = stop is not None or waits(self._rules, process.until, reached)
        event = Reported(
            trial_id=process.trial_id,
            launch=process.launch,
            iteration=iteration,
            metrics=metrics,
            waiting=waiting,
            stop=stop,
            checkpoint=self._save(process, transient=transient) if saves or transient else None,
            timestamp=automatic["timestamp"],
            time_this_iter_s=spent,
            time_total_s=total,
            time_since_restore=automatic["time_since_restore"],
            iterations_since_restore=iteration - process.start_iteration,
        )
        if self._stopper is not None and stop is None:
            reason = self._stopper(event)
            if reason is not None:
                return replace(event, stop=reason)
        return event

    def _failed(self, process: Process, error: str) -> Failed:
        process.phase = "idle"
        self._free_slot(process)
        return Failed(process.trial_id, process.launch, error, traceback=f"Traceback (simulated)\n{error}")

    def _returned(self, process: Process) -> Finished:
        process.phase = "idle"
        return Finished(process.trial_id, process.launch)

    def _die_parked(self, process: Process, turn: int) -> Event | None:
        if process.turn != turn or process.slot is not None or self._processes.get(process.trial_id) is not process:
            return None
        process.alive = False
        return self._tell_of_death(process)

    def _tell_of_death(self, process: Process, *, innocent: bool = False) -> Lost | None:
        """The process is gone. What it was last asked to launch is what is lost, also where it never came to that."""
        if self._processes.get(process.trial_id) is process:
            if process.early is not None:
                process.held.append(lambda: self._tell_of_death(process, innocent=innocent))
                return None
            self._wait_without_process(process)
            del self._processes[process.trial_id]
            self._free_slot(process)
        return Lost(process.trial_id, process.launch, "the process was killed (simulated)", innocent)

    def _wait_without_process(self, process: Process) -> None:
        """If the core sees no failure in this (no Retry and no Stop follow), nothing may be lost."""
        if process.early is not None:
            self._went_at[process.trial_id] = process.early.iteration
        elif process.phase == "waiting":
            self._went_at[process.trial_id] = process.iteration

    # -------------------------------------------------------------------------------------------- slots, checkpoints

    def _resident(self, command: Continue | HandOn | Park | Save | WindUp | Evict) -> Process:
        process = self._processes.get(command.trial_id)
        if process is None:
            raise BrokenContract(f"{command!r}: it has no process")
        _check(process.launch == command.launch, command, f"its launch is {process.launch}")
        return process

    def _device(self, command: Launch | Continue | HandOn) -> str:
        return self._machine.devices[command.slot]

    def _take_slot(self, process: Process, slot: int, command: Command) -> None:
        _check(process.slot is None or process.slot == slot, command, f"it holds slot {process.slot}")
        against = self._machine.take(slot, process.trial_id)
        _check(against is None, command, str(against))
        process.slot = process.home = slot

    def _free_slot(self, process: Process) -> None:
        if process.slot is not None:
            self._machine.free(process.slot)
            process.slot = None

    def _save_now(self, process: Process, turn: int) -> Event | None:
        if process.turn != turn or not process.alive:
            return None
        return Saved(process.trial_id, process.launch, self._save(process))

    def _save(self, process: Process, *, transient: bool = False) -> SavedCheckpoint:
        number = process.next_checkpoint
        process.next_checkpoint += 1
        name = checkpoint_id(process.trial_id, number)
        known = name in self._deleted or (name in self._stored and name not in self._unknown)
        if known:
            raise BrokenContract(f"{name} was used before: two checkpoints would have the same name")
        self._damaged.discard(name)
        digest = f"{name}@{process.launch}/{process.iteration}"
        self._stored[name] = Stored(process.state, process.iteration, process.time_total_s, digest)
        self._unknown.add(name)
        return SavedCheckpoint(number, digest, size=1, transient=transient)

    def _load(self, command: Launch) -> tuple[Any, int, float]:
        record = command.checkpoint
        if record is None:
            _check(command.iteration == 0 and command.time_total_s == 0.0, command, "no checkpoint holds that")
            return None, 0, 0.0
        _check(record.id not in self._deleted, command, f"{record.id} was deleted")
        _check(record.id in self._stored, command, f"{record.id} was never saved")
        stored = self._stored[record.id]
        _check(record.digest == stored.digest, command, f"{record.id} holds {stored.digest}, not {record.digest}")
        _check(
            stored.iteration == command.iteration == record.iteration and stored.time_total_s == command.time_total_s,
            command,
            f"{record.id} holds iteration {stored.iteration} and {stored.time_total_s} seconds",
        )
        return stored.state, stored.iteration, stored.time_total_s

    def _lag(self, process: Process) -> float:
        """How long the news of a crash takes: up to the time of two ordinary steps."""
        return 2.0 * uniform_key(self._seed, "lag", process.index, process.launch, process.iteration)


def _check(fits: bool, command: Command, otherwise: str) -> None:
    if not fits:
        raise BrokenContract(f"{command!r}: {otherwise}")
