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

A driver can be killed too, and the experiment then goes on, in the same simulation or in one with other settings::

    killed = simulation.run(kill_after=17)
    result = simulation.go_on(killed)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..core.commands import Command, Exploit, FallBack, Notice, Status
from ..core.events import Config, Event, Opened, Reported, StopAsked, TrialAdded
from ..core.limits import Limits, RetentionRules
from ..core.population import Population
from ..core.recall import choose, recall
from ..core.reports import ReportRules, number, value_of
from ..core.trial import Trial
from ..schedulers.base import TrialScheduler
from ..schedulers.fifo import FIFOScheduler
from .engine import BrokenContract, HandsOn, SimulatedEngine, Train
from .faults import Faults
from .nodes import Node

__all__ = ["Simulation", "SimulationResult", "Watch"]

Watch: TypeAlias = Callable[[Population, Event, "list[Command]"], None]
"""Called after each event with the population, the event and the commands that it led to."""


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What happened in a simulated experiment, since its beginning."""

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
    """Virtual seconds of all steps together, since the last driver began."""
    peak_checkpoints: int
    """The largest number of checkpoints that existed at the same time, since the last driver began."""
    peak_processes: int
    checkpoints: set[str]
    """The ids of the checkpoints that are left."""
    opened: Opened
    """As what the experiment began."""
    engine: SimulatedEngine = field(repr=False)
    """What the last driver has left."""

    @property
    def journal(self) -> list[Event | Command]:
        """What a driver writes down: each event, and behind it what it led to."""
        told = zip(self.events, self.commands, strict=True)
        return [self.opened, *(item for event, commands in told for item in (event, *commands))]

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
        control: numbers of the members that are kept out of exploits.
        seed: of the scheduler's decisions.
        slots: how many members train at the same time. Or give ``devices``, one entry a slot.
        nodes: nodes of a cluster that come and go, beside these slots; there are none where only ``nodes`` are given.
            Each driver begins with all of them.
        residents, max_failures, fail_fast, replace_failed: as in ``Limits``.
        stop: a trial ends with the first report in which one of these keys is at least the given value.
        num_to_keep, score_attribute, score_order: as in ``CheckpointConfig``.
        always_wait, stopper: every report waits for ``stopper``, which returns why the trial should end, or None.
        hands_on: see :class:`SimulatedEngine`.
        stop_asked_at: virtual time at which the whole experiment is asked to end.
        gently: whether members may come to their next report then.
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
        control: Iterable[int] = (),
        slots: int | None = None,
        devices: Sequence[str] | None = None,
        nodes: Sequence[Node] = (),
        residents: int | None = None,
        max_failures: int = 0,
        fail_fast: bool = False,
        replace_failed: bool = False,
        stop: Mapping[str, float] | None = None,
        num_to_keep: int | None = None,
        score_attribute: str | None = None,
        score_order: str = "max",
        stopper: Callable[[Reported], str | None] | None = None,
        hands_on: HandsOn | None = None,
        stop_asked_at: float | None = None,
        gently: bool = False,
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
        self.control = frozenset(control)
        if slots is None:
            slots = 0 if nodes else 1
        first = [node for node in nodes if node.joins_at is None]
        self.limits = Limits(
            (
                *([""] * slots if devices is None else devices),
                *(node.device for node in first for _ in range(node.slots)),
            ),
            None if residents is None else residents + sum(node.residents for node in first),
            max_failures,
            fail_fast,
            checkpoint_at_end,
            replace_failed,
            hands_on is not None,
        )
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
        self._stopper = stopper
        self.stop_asked_at = stop_asked_at
        self.gently = gently
        self.validate = validate
        self.watch = watch
        self.max_events = max_events
        self._engine: Callable[[], SimulatedEngine] = lambda: SimulatedEngine(
            train,
            self.rules,
            devices=self.limits.devices,
            nodes=nodes,
            duration=duration,
            start_time=start_time,
            checkpoint_every=checkpoint_every,
            saves_when_needed=saves_when_needed,
            faults=faults,
            seed=seed,
            stopper=stopper,
            hands_on=hands_on,
        )

    def population(self) -> Population:
        """Return the population of this experiment as it is before anything happened."""
        return Population(
            self.scheduler.policy(
                mode=self.mode, seed=self.seed, **({"control": self.control} if self.control else {})
            ),
            metric=self.metric,
            time_attr=self.scheduler.time_attr,
            limits=self.limits,
            retention=self.retention,
        )

    def replay(self, events: Iterable[Event]) -> list[list[Command]]:
        """Return what a fresh population answers to a list of events."""
        population = self.population()
        return [population.apply(event) for event in events]

    def run(self, *, kill_after: int | None = None) -> SimulationResult:
        """Run the experiment to its end.

        Args:
            kill_after: the driver is killed after this event, counted from 1: what follows from it is written down, but
                never carried out.

        Raises:
            BrokenContract: a command could not be carried out, or members wait although nothing will ever happen.
            InvalidTransition: an invariant of the population does not hold.
        """
        engine = self._engine()
        for index, trial in enumerate(self._added):
            engine.add(trial.trial_id, index)
        run = _Run(self, self.population(), engine, Opened(self.limits, self.retention), [], [])
        return run.go(self._added, kill_after)

    def go_on(
        self,
        result: SimulationResult,
        *,
        resume_unfinished: bool = True,
        resume_errored: bool = False,
        restart_errored: bool = False,
        config: Config | None = None,
        kill_after: int | None = None,
    ) -> SimulationResult:
        """Go on with an experiment, one that was killed or one that has ended, as ``Tuner.restore`` does.

        This simulation may have other slots, limits and stop conditions than the one before. Trials that have met their
        stop condition go on where they do not meet this one.

        Args:
            result: of the experiment so far.
            resume_unfinished, resume_errored, restart_errored: as in ``Tuner.restore``.
            config: values that replace those of the trials' configs.
            kill_after: as in :meth:`run`, counted from the beginning of the experiment.

        Returns:
            What happened since the beginning, what was before included.

        Raises:
            BrokenContract, InvalidTransition: as in :meth:`run`; the latter also where this scheduler decides otherwise
                than the one before.
        """
        population = self.population()
        recall(population, result.journal)
        choice = choose(
            population,
            unfinished=resume_unfinished,
            errored=resume_errored,
            restarted=restart_errored,
            extended=self._extended(result, population),
        )
        opened = Opened(self.limits, self.retention, choice.again, choice.anew, choice.dropped, config or {})
        engine = self._engine()
        engine.take_over(result.engine, population, opened)
        for trial in self._added:
            engine.add(trial.trial_id, trial.index)
        missing = [trial for trial in self._added if trial.trial_id not in population.trials]
        run = _Run(self, population, engine, result.opened, [*result.events], [*result.commands])
        return run.go([opened, *missing], kill_after)

    @property
    def _added(self) -> list[TrialAdded]:
        names = [f"trial_{index:05d}" for index in range(len(self.configs))]
        return [
            TrialAdded(name, index, name=name, tag=str(index), folder=name, config=config)
            for index, (name, config) in enumerate(zip(names, self.configs, strict=True))
        ]

    def _extended(self, result: SimulationResult, population: Population) -> list[str]:
        """Return the trials that met their stop condition, and do not meet this simulation's."""
        last = {
            report.trial_id: report
            for report in result.reports
            if report.launch == population.trials[report.trial_id].launch
        }
        return [
            trial_id
            for trial_id, report in last.items()
            if population.trials[trial_id].status is Status.TERMINATED and report.stop and not self._stops(report)
        ]

    def _stops(self, report: Reported) -> bool:
        values = {key: number(value_of(report, key)) for key in self.rules.stop}
        met = any(value is not None and value >= self.rules.stop[key] for key, value in values.items())
        return met or (self._stopper is not None and self._stopper(report) is not None)


@dataclass(slots=True)
class _Run:
    """One driver's part of an experiment."""

    simulation: Simulation
    population: Population
    engine: SimulatedEngine
    opened: Opened
    events: list[Event]
    answers: list[list[Command]]

    def go(self, begin: Iterable[Event], kill_after: int | None) -> SimulationResult:
        """Run to the end, or until the driver is killed."""
        settings, clock = self.simulation, self.engine.clock
        self.engine.begin()
        if any(self._take(event, kill_after) for event in begin):
            return self._result(clock.now)
        if settings.stop_asked_at is not None:
            asked = StopAsked("the time budget is spent", gently=settings.gently)
            clock.after(settings.stop_asked_at, lambda: asked)
        while not self.population.ended:
            event = self.engine.wait()
            if event is None:
                left = [trial for trial in self.population.trials.values() if not trial.status.ended]
                raise BrokenContract(f"nothing will ever happen again, but {len(left)} trials wait: {left[:3]}")
            if len(self.events) >= settings.max_events:
                raise BrokenContract(f"no end after {settings.max_events} events")
            if self._take(event, kill_after):
                return self._result(clock.now)
        elapsed = clock.now
        while (event := self.engine.wait()) is not None:
            killed = self._take(event, kill_after)
            if self.answers[-1]:
                raise BrokenContract(f"every trial had ended, but {event!r} led to {self.answers[-1]}")
            if killed:
                break
        return self._result(elapsed)

    def _take(self, event: Event, kill_after: int | None) -> bool:
        """Tell the population, and carry out what it answers. Return whether the driver was killed before that."""
        commands = self.population.apply(event)
        self.events.append(event)
        self.answers.append(commands)
        if self.simulation.validate:
            self.population.validate()
        killed = len(self.events) == kill_after
        for command in commands:
            # From where somebody goes on is settled with the decision.
            if not killed or isinstance(command, Exploit | FallBack):
                self.engine.execute(command)
        if self.simulation.watch is not None:
            self.simulation.watch(self.population, event, commands)
        return killed

    def _result(self, elapsed: float) -> SimulationResult:
        return SimulationResult(
            events=self.events,
            commands=self.answers,
            trials=self.population.trials,
            states=self.engine.states,
            elapsed_s=elapsed,
            busy_s=self.engine.busy_s,
            peak_checkpoints=self.engine.peak_checkpoints,
            peak_processes=self.engine.peak_processes,
            checkpoints=self.engine.checkpoints,
            opened=self.opened,
            engine=self.engine,
        )
