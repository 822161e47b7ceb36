"""Whole experiments without processes, files or real time: thousands a minute, each of them repeatable.

The real core (population and scheduler) decides; members, checkpoints and time are simulated. A member is a pure
function ``train(config, state) -> (metrics, state)``, called once a step::

    def train(config, state):
        weight = (state or 0.0) + config["lr"]
        return {"score": weight}, weight

    result = Simulation(train, [{"lr": 0.1}, {"lr": 0.2}], scheduler, slots=1, stop={"training_iteration": 20}).run()
    assert result.exploits

The engine is strict where a real one could only misbehave: a command that no engine could carry out, or that would lose
or mix up a member's work, raises :class:`BrokenContract`. :class:`Fault` names what can go wrong, and when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..core.commands import Command, Exploit, Notice, Status
from ..core.events import Config, Event, Reported, StopAsked, TrialAdded
from ..core.limits import Limits, RetentionRules
from ..core.population import Population
from ..core.reports import ReportRules
from ..core.trial import Trial
from ..schedulers.base import TrialScheduler
from ..schedulers.fifo import FIFOScheduler
from .engine import BrokenContract, Faults, SimulatedEngine, Train

__all__ = ["Simulation", "SimulationResult", "Watch"]

Watch: TypeAlias = Callable[[Population, Event, "list[Command]"], None]
"""Called after each event with the population, the event and the commands that it led to."""


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What happened in a simulated experiment."""

    events: list[Event]
    commands: list[list[Command]]
    """For each event what it led to."""
    trials: dict[str, Trial]
    """The core's last word on each trial."""
    states: dict[str, Any]
    """Each trial's state at its end."""
    elapsed_s: float
    """Virtual seconds."""
    busy_s: float
    """Virtual seconds of all steps together."""
    peak_checkpoints: int
    """The largest number of checkpoints that existed at the same time."""
    peak_processes: int
    checkpoints: set[str]
    """The ids of the checkpoints that are left."""

    def of_kind(self, kind: type[Any]) -> list[Any]:
        """Return all commands of one kind, in order."""
        return [command for commands in self.commands for command in commands if isinstance(command, kind)]

    @property
    def exploits(self) -> list[Exploit]:
        """All exploits, in order."""
        return self.of_kind(Exploit)

    @property
    def notices(self) -> list[Notice]:
        """What the user was told."""
        return self.of_kind(Notice)

    @property
    def reports(self) -> list[Reported]:
        """All reports, late ones included."""
        return [event for event in self.events if isinstance(event, Reported)]

    @property
    def statuses(self) -> dict[str, Status]:
        """How each trial ended."""
        return {trial_id: trial.status for trial_id, trial in self.trials.items()}

    @property
    def lineage(self) -> list[tuple[Any, ...]]:
        """Who copied whom, when and what came out, in an order that does not depend on timing."""
        return sorted(
            (entry.trial_id, entry.generation, entry.iteration, entry.donor_id, entry.checkpoint.id,
             entry.checkpoint.iteration, entry.score, repr(entry.new_config))
            for entry in self.exploits
        )  # fmt: skip


class Simulation:
    """An experiment with simulated members.

    Args:
        train: one step of a member: ``(config, state) -> (metrics, state)``, a pure function. None ends the member's
            function, an exception fails it.
        configs: one for each member.
        scheduler: as given to ``TuneConfig``; default FIFO.
        metric, mode: used where the scheduler names none.
        seed: of the scheduler's decisions.
        slots: how many members train at the same time. Or give ``devices``, one entry a slot.
        residents, max_failures, fail_fast: as in ``Limits``.
        stop: a trial ends with the first report in which one of these keys is at least the given value.
        num_to_keep, score_attribute, score_order: as in ``CheckpointConfig``.
        always_wait, stopper: every report waits for ``stopper``, which returns why the trial should end, or None.
        stop_asked_at: virtual time at which the whole experiment is asked to end.
        checkpoint_at_end: as in ``CheckpointConfig``; needs ``saves_when_needed``.
        duration, start_time, checkpoint_every, saves_when_needed, faults: see :class:`SimulatedEngine`.
        validate: check every invariant of the population after each event.
        watch: called after each event.
        max_events: more than this is taken for an experiment that never ends.
    """

    def __init__(
        self,
        train: Train,
        configs: Iterable[Config],
        scheduler: TrialScheduler | None = None,
        *,
        metric: str = "score",
        mode: str = "max",
        seed: int = 0,
        slots: int = 1,
        devices: Sequence[str] | None = None,
        residents: int | None = None,
        max_failures: int = 0,
        fail_fast: bool = False,
        stop: Mapping[str, float] | None = None,
        num_to_keep: int | None = None,
        score_attribute: str | None = None,
        score_order: str = "max",
        stopper: Callable[[Reported], str | None] | None = None,
        stop_asked_at: float | None = None,
        duration: float | Callable[[int, int, Config], float] = 1.0,
        start_time: float = 0.0,
        checkpoint_every: int | Callable[[int, int], bool] = 1,
        checkpoint_at_end: bool = False,
        saves_when_needed: bool = False,
        faults: Faults | None = None,
        validate: bool = True,
        watch: Watch | None = None,
        max_events: int = 1_000_000,
    ) -> None:
        self.scheduler = scheduler or FIFOScheduler()
        self.metric = self.scheduler.metric or metric
        self.mode = self.scheduler.mode or mode
        self.seed = seed
        self.limits = Limits(tuple(devices or [""] * slots), residents, max_failures, fail_fast, checkpoint_at_end)
        self.retention = RetentionRules(num_to_keep, score_attribute, score_order)
        self.rules = ReportRules(
            metric=self.metric,
            time_attr=self.scheduler.time_attr,
            required=self.scheduler.require_attrs,
            stop=dict(stop or {}),
            always_wait=stopper is not None,
            rank=score_attribute,
            save_at_end=checkpoint_at_end,
        )
        self.configs = [self.scheduler.prepare(dict(config), index, seed) for index, config in enumerate(configs)]
        self._stop_asked_at = stop_asked_at
        self._validate = validate
        self._watch = watch
        self._max_events = max_events
        self._engine: Callable[[], SimulatedEngine] = lambda: SimulatedEngine(
            train,
            self.rules,
            devices=self.limits.devices,
            duration=duration,
            start_time=start_time,
            checkpoint_every=checkpoint_every,
            saves_when_needed=saves_when_needed,
            faults=faults,
            seed=seed,
            stopper=stopper,
        )

    def population(self) -> Population:
        """Return the population of this experiment as it is before anything happened."""
        return Population(
            self.scheduler.policy(mode=self.mode, seed=self.seed),
            metric=self.metric,
            time_attr=self.scheduler.time_attr,
            limits=self.limits,
            retention=self.retention,
        )

    def replay(self, events: Iterable[Event]) -> list[list[Command]]:
        """Return what a fresh population answers to a list of events."""
        population = self.population()
        return [population.apply(event) for event in events]

    def run(self) -> SimulationResult:
        """Run the experiment to its end.

        Raises:
            BrokenContract: a command could not be carried out, or members wait although nothing will ever happen.
            InvalidTransition: an invariant of the population does not hold.
        """
        population, engine = self.population(), self._engine()
        events: list[Event] = []
        answers: list[list[Command]] = []

        def take(event: Event) -> list[Command]:
            commands = population.apply(event)
            events.append(event)
            answers.append(commands)
            if self._validate:
                population.validate()
            for command in commands:
                engine.execute(command)
            if self._watch is not None:
                self._watch(population, event, commands)
            return commands

        for index, config in enumerate(self.configs):
            trial_id = f"trial_{index:05d}"
            engine.add(trial_id, index)
            take(TrialAdded(trial_id, index, name=trial_id, tag=str(index), folder=trial_id, config=config))
        if self._stop_asked_at is not None:
            engine.clock.after(self._stop_asked_at, lambda: StopAsked("the time budget is spent"))
        while not population.ended:
            event = engine.wait()
            if event is None:
                left = [trial for trial in population.trials.values() if not trial.status.ended]
                raise BrokenContract(f"nothing will ever happen again, but {len(left)} trials wait: {left[:3]}")
            if len(events) >= self._max_events:
                raise BrokenContract(f"no end after {self._max_events} events")
            take(event)
        elapsed = engine.clock.now
        while (event := engine.wait()) is not None:
            if take(event):
                raise BrokenContract(f"every trial had ended, but {event!r} led to {answers[-1]}")
        return SimulationResult(
            events=events,
            commands=answers,
            trials=population.trials,
            states=engine.states,
            elapsed_s=elapsed,
            busy_s=engine.busy_s,
            peak_checkpoints=engine.peak_checkpoints,
            peak_processes=engine.peak_processes,
            checkpoints=engine.checkpoints,
        )
