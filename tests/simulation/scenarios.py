"""Seeded experiments for the simulated engine, and what must hold after every single event of each of them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, ClassVar

from shoal import space
from shoal.core.commands import (
    Command,
    Continue,
    DeleteCheckpoint,
    Exploit,
    FallBack,
    HandOn,
    Launch,
    Park,
    Retry,
    Status,
    Stop,
)
from shoal.core.events import Config, Damaged, Event, Failed, Lost, Metrics, Opened, Reported, Saved
from shoal.core.population import ORPHANED_AT_MOST, Population
from shoal.schedulers import FIFOScheduler, PopulationBasedTraining, TrialScheduler
from shoal.schedulers.pbt import SECOND_CHANCES
from shoal.testing import Fault, Simulation, SimulationResult, random_faults

# ------------------------------------------------------------------------------------------------------------ scenarios

State = tuple[int, float, int, int]
"""(steps, level, frames, chain): the chain is a digest of all that made these weights."""


@dataclass(frozen=True)
class Scenario:
    """One experiment. Everything follows from these numbers."""

    knows_all_faults: ClassVar[bool] = True
    """Whether members fail only where ``faults`` says so."""

    seed: int
    members: int = 4
    slots: int = 2
    devices: Sequence[str] | None = None
    residents: int | None = None
    pbt: bool = True
    synch: bool = False
    interval: float = 3.0
    burn_in: float = 0.0
    quantile: str = "0.25"
    mode: str = "max"
    time_attr: str = "training_iteration"
    landscape: str = "noise"
    not_finite: float = 0.0
    length: int = 10
    returns: bool = False
    """Members return after ``length`` steps, some of them earlier, instead of being stopped."""
    target: float | None = None
    """``stop={"score": target}``, too."""
    stopper: bool = False
    stop_asked_at: float | None = None
    gently: bool = False
    checkpoint_every: int = 1
    of_class: bool = False
    """Whether members can save at any time, and do so at each boundary."""
    checkpoint_at_end: bool = False
    """Whether members of a class are asked for a checkpoint at their end."""
    num_to_keep: int | None = None
    score_attribute: str | None = None
    score_order: str = "max"
    max_failures: int = 0
    fail_fast: bool = False
    replace_failed: bool = False
    architectures: int = 0
    """How many values there are of a key in ``fixed``; the larger one is, the better the scores. 0: no such key."""
    faults: tuple[tuple[Fault, float], ...] = ()
    uneven: bool = True
    """Whether steps differ in duration."""
    start_time: float = 0.0
    hands_on: bool = False
    """Whether members hand their slot on by themselves."""

    def scheduler(self) -> TrialScheduler:
        if not self.pbt:
            return FIFOScheduler()
        return PopulationBasedTraining(
            time_attr=self.time_attr,
            perturbation_interval=self.interval,
            burn_in_period=self.burn_in,
            hyperparam_mutations={"h": space.uniform(0.0, 1.0)},
            quantile_fraction=float(self.quantile),
            synch=self.synch,
            fixed=["layers"] if self.architectures else [],
        )

    def train(self, config: Config, state: State | None) -> tuple[Metrics, State] | None:
        steps, level, frames, chain = state or (0, 0.0, 0, 1)
        if self.returns and steps >= max(1, self.length - config["seed"] % 4):
            return None
        steps += 1
        chain = (chain * 6364136223846793005 + int(config["h"] * 1e9) * 1442695040888963407 + steps) % 2**64
        drawn = (chain >> 11) / 2**53
        frames += 1 + int(drawn * 5)
        level += config["h"]
        score = {"improves": level, "worsens": -level, "noise": drawn, "ties": float(steps // 4), "constant": 1.0}
        value = (score[self.landscape] + 5.0 * config.get("layers", 0)) * (1.0 if self.mode == "max" else -1.0)
        if (drawn * 1000) % 1.0 < self.not_finite:
            value = (math.nan, math.inf, -math.inf)[chain % 3]
        return {"score": value, "steps": steps, "info": {"frames": frames}}, (steps, level, frames, chain)

    def simulation(self, watch: Invariants | None = None, *, validate: bool = True) -> Simulation:
        draws = [random.Random(f"{self.seed}/{index}").random() for index in range(self.members)]
        layers = [{"layers": index % self.architectures} if self.architectures else {} for index in range(self.members)]
        stop: dict[str, float] = {} if self.returns else {"training_iteration": self.length}
        if self.target is not None:
            stop["score"] = self.target
        return Simulation(
            self.train,
            [{"h": drawn, "seed": index, **layers[index]} for index, drawn in enumerate(draws)],
            self.scheduler(),
            mode=self.mode,
            seed=self.seed,
            slots=self.slots,
            devices=self.devices,
            residents=self.residents,
            max_failures=self.max_failures,
            fail_fast=self.fail_fast,
            replace_failed=self.replace_failed,
            stop=stop,
            num_to_keep=self.num_to_keep,
            score_attribute=self.score_attribute,
            score_order=self.score_order,
            stopper=self._stopper if self.stopper else None,
            stop_asked_at=self.stop_asked_at,
            gently=self.gently,
            duration=self._duration if self.uneven else 1.0,
            start_time=self.start_time,
            checkpoint_every=self.checkpoint_every,
            saves_when_needed=self.of_class,
            hands_on=self._hands_on if self.hands_on else None,
            checkpoint_at_end=self.of_class and self.checkpoint_at_end,
            faults=random_faults(self.seed, dict(self.faults)) if self.faults else None,
            validate=validate,
            watch=watch,
            max_events=200_000,
        )

    def run(self) -> SimulationResult:
        """Run it with every invariant checked after each event, and at the end."""
        watch = Invariants(self)
        try:
            result = self.simulation(watch).run()
            watch.at_the_end(result)
        except Exception as error:
            raise AssertionError(f"{error}\nin {self!r}") from error
        return result

    def time_of(self, event: Reported) -> float:
        if self.time_attr == "info/frames":
            return float(event.metrics["info"]["frames"])
        return event.time_total_s if self.time_attr == "time_total_s" else float(event.iteration)

    def _duration(self, index: int, iteration: int, config: Config) -> float:
        return 0.5 + (index * 7919 + iteration * 104729 + self.seed) % 16 / 16

    def _hands_on(self, index: int, iteration: int) -> float | None:
        drawn = random.Random(f"{self.seed}/{index}/{iteration}/hands_on").random()
        return None if drawn < 0.1 else max(0.0, 2.0 * drawn - 0.8)

    @staticmethod
    def _stopper(event: Reported) -> str | None:
        return "a stopper said so" if event.metrics["steps"] > 6 and event.metrics["info"]["frames"] % 11 == 0 else None


def run_through(*lives: tuple[Scenario, int | None], **resume: Any) -> SimulationResult:
    """Run an experiment that is restored again and again, with every invariant checked after each event and at the end.

    Args:
        lives: the settings of each driver, and the event after which it is killed, counted from the beginning, or None.
        resume: given to each :meth:`Simulation.go_on`.
    """
    watch = Invariants(lives[0][0])
    result: SimulationResult | None = None
    try:
        for scenario, kill_after in lives:
            watch.scenario = scenario
            simulation = scenario.simulation(watch)
            if result is None:
                result = simulation.run(kill_after=kill_after)
            else:
                result = simulation.go_on(result, kill_after=kill_after, **resume)
        assert result is not None
        watch.at_the_end(result)
    except Exception as error:
        told = "\n".join(f"{scenario!r}, killed after {kill_after}" for scenario, kill_after in lives)
        raise AssertionError(f"{error}\nin {told}\n{resume}") from error
    return result


_APART = {
    Fault.DAMAGE: ("damage", (0.02, 0.1, 0.5)),
    Fault.ORPHAN: ("orphan", (0.02, 0.1)),
    Fault.CRASH_COMMITTING: ("committing", (0.02, 0.1)),
}
"""Faults whose rates are drawn from streams of their own, so that they leave the other draws as they are."""


def drawn_scenario(seed: int, largest: int, **fixed: Any) -> Scenario:
    """Draw an experiment with up to ``largest`` members."""
    rng = random.Random(seed)
    members = rng.choice((1, 2, 3, 4, rng.randint(1, largest), rng.randint(1, largest)))
    slots = rng.choice((1, 2, 4, 8, rng.randint(1, 32)))
    devices = None
    if rng.random() < 0.2:
        devices = tuple(rng.choice(("0", "1", "2")) for _ in range(slots))
    faults: list[tuple[Fault, float]] = []
    if rng.random() < 0.5:
        faults = [(fault, rng.choice((0.0, 0.01, 0.05))) for fault in Fault if fault not in _APART]
    for fault, (name, rates) in _APART.items():
        apart = random.Random(f"{seed}/{name}")
        if apart.random() < 0.3:
            faults.append((fault, apart.choice(rates)))
    architectures = random.Random(f"{seed}/architectures")
    drawn = Scenario(
        seed=seed,
        members=members,
        slots=slots,
        devices=devices,
        residents=rng.choice((None, None, slots, slots + rng.randint(0, 4))),
        pbt=rng.random() < 0.93,
        synch=rng.random() < 0.5,
        interval=rng.choice((1.0, 2.0, 3.0, 4.0, 7.0, 2.5)),
        burn_in=rng.choice((0.0, 0.0, 5.0, 8.0, 30.0)),
        quantile=rng.choice(("0.25", "0.5", "0", "0.2", "0.07", "0.33", "1e-9")),
        mode=rng.choice(("max", "min")),
        time_attr=rng.choice(("training_iteration", "training_iteration", "info/frames", "time_total_s")),
        landscape=rng.choice(("improves", "improves", "noise", "ties", "constant", "worsens")),
        not_finite=rng.choice((0.0, 0.0, 0.1, 0.5, 1.0)),
        length=rng.randint(1, 16),
        returns=rng.random() < 0.2,
        target=rng.choice((None, None, 3.0)),
        stopper=rng.random() < 0.1,
        stop_asked_at=rng.choice((None,) * 9 + (rng.random() * 30,)),
        checkpoint_every=rng.choice((1, 1, 1, 2, 3, 5, 0)),
        num_to_keep=rng.choice((None, 1, 1, 2, 3)),
        score_attribute=rng.choice((None, None, "score")),
        score_order=rng.choice(("max", "min")),
        max_failures=rng.choice((0, 1, 3, -1)),
        fail_fast=rng.random() < 0.1,
        gently=random.Random(f"{seed}/gently").random() < 0.5,
        replace_failed=random.Random(f"{seed}/replace_failed").random() < 0.5,
        architectures=architectures.choice((1, 2, 3)) if architectures.random() < 0.3 else 0,
        faults=tuple(faults),
        uneven=rng.random() < 0.7,
        start_time=rng.choice((0.0, 0.0, 3.0)),
        of_class=rng.random() < 0.2,
        checkpoint_at_end=rng.random() < 0.5,
        hands_on=random.Random(f"{seed}/hands_on").random() < 0.6,
    )
    return replace(drawn, **fixed)


# ----------------------------------------------------------------------------------------------------------- invariants


@dataclass
class Invariants:
    """A second, slow and simple account of an experiment, kept from events and commands alone."""

    scenario: Scenario
    launch: dict[str, int] = field(default_factory=dict[str, int])
    """The launch whose function is entered."""
    slot: dict[str, int] = field(default_factory=dict[str, int])
    """The slot that it was given last."""
    until: dict[str, float | None] = field(default_factory=dict[str, "float | None"])
    committed: dict[str, Reported] = field(default_factory=dict[str, Reported])
    deleted: set[str] = field(default_factory=set[str])
    own: dict[str, float] = field(default_factory=dict[str, float])
    """What live members' newest checkpoints are worth, made since they last copied; finite ones only."""
    own_time: dict[str, float] = field(default_factory=dict[str, float])
    own_name: dict[str, str] = field(default_factory=dict[str, str])
    """The newest checkpoint that each has saved."""
    copied: dict[str, float] = field(default_factory=dict[str, float])
    """The latest ``time_attr`` of the checkpoints that a member has copied."""
    chances: dict[str, int] = field(default_factory=dict[str, int])
    """How often a member may still copy one that is not later than that."""
    evaluated: dict[str, float] = field(default_factory=dict[str, float])
    arrived: dict[str, float] = field(default_factory=dict[str, float])
    ended: dict[str, Status] = field(default_factory=dict[str, Status])
    retired: dict[str, float] = field(default_factory=dict[str, float])
    """What those reached that ended at their stop condition and can still be copied."""
    retries: dict[str, int] = field(default_factory=dict[str, int])
    orphaned: dict[str, int] = field(default_factory=dict[str, int])
    """How often in a row a trial was launched again that had lost its process by no fault of its own."""
    furthest: dict[str, int] = field(default_factory=dict[str, int])
    """The iteration beyond which that begins anew."""
    last: dict[str, Reported] = field(default_factory=dict[str, Reported])
    """The step at which each trial is: its newest report, or the one that came with the checkpoint it has copied."""
    newest: dict[str, Reported] = field(default_factory=dict[str, Reported])
    """The step of the checkpoint from which it would go on."""
    undecided: set[str] = field(default_factory=set[str])
    """Trials at a boundary of which nothing was decided: they wait for others there, or ended there."""
    at_its_end: dict[str, tuple[float | None, float | None]] = field(default_factory=dict[str, Any])
    """What an ended trial's newest checkpoint and its evaluation were worth."""
    revived: int = 0
    """How many trials went on after their end."""
    failed: set[str] = field(default_factory=set[str])
    """Trials that have failed for good, and wait for a donor."""
    promised: dict[str, int] = field(default_factory=dict[str, int])
    """Slots that trials were promised before."""

    def __call__(self, population: Population, event: Event, commands: list[Command]) -> None:
        at_boundary = None
        reopened: list[str] = []
        if isinstance(event, Reported) and self.launch.get(event.trial_id) == event.launch:
            at_boundary = self._report(event)
        elif isinstance(event, Lost | Failed) and self.launch.get(event.trial_id) == event.launch:
            if isinstance(event, Failed) or any(isinstance(command, Retry | Stop) for command in commands):
                self.arrived.pop(event.trial_id, None)
            del self.launch[event.trial_id]
            self._fails(event.trial_id, population, commands)
        elif isinstance(event, Damaged) and self.launch.get(event.trial_id) == event.launch:
            del self.launch[event.trial_id]
            self._spoiled(event.checkpoint_id)
            self._fails(event.trial_id, population, commands)
        elif isinstance(event, Saved) and self.launch.get(event.trial_id) == event.launch:
            self._saved(self.last[event.trial_id], event.checkpoint.number)
        elif isinstance(event, Opened):
            reopened = self._opened(event, population)
        for command in commands:
            if isinstance(command, Stop) and command.trial_id not in self.failed:
                self._stop(command, event)
        live = [trial_id for trial_id in population.trials if trial_id not in self.ended]
        decided: list[str] = []
        if self.scenario.pbt and self.scenario.synch:
            if live and len(self.arrived) == len(live):
                self.evaluated = {**self.retired, **self.arrived}
                decided = list(self.arrived)
                self.arrived.clear()
            else:
                assert not any(isinstance(command, Exploit) for command in commands), "exploit before all have arrived"
            for command in commands:
                if isinstance(command, Launch | Continue):
                    assert command.trial_id not in self.arrived, f"passes the barrier before {len(live)} have arrived"
        elif reopened:
            decided = reopened
        elif at_boundary is not None and at_boundary in live:
            decided = [at_boundary]
        self.undecided.difference_update(set(decided) - self.failed)
        if population.stopping is None:
            # Where several are decided one after the other, what each was compared with is not told here.
            judged = len(reopened) + bool(self.failed and isinstance(event, Opened)) < 2
            exploits = [command for command in commands if isinstance(command, Exploit)]
            assert {command.trial_id for command in exploits} <= {*decided, *self.failed}, "it is not at its boundary"
            if self.scenario.pbt and self.scenario.synch:
                if decided:
                    self._exploits(population, exploits, decided, judged=judged)
                    self._replaced(commands, live, judged=judged)
            else:
                apart = [command for command in exploits if command.trial_id in self.failed]
                first = [command for command in exploits if command.trial_id not in self.failed]
                self._exploits(population, first, decided, judged=judged)
                self._exploits(population, apart, list(self.failed), judged=judged)
                self._replaced(commands, live, judged=judged)
        else:
            assert all(not isinstance(command, Launch | Continue | HandOn | Exploit | Retry) for command in commands)
        for command in commands:
            if isinstance(command, Stop) and command.trial_id not in self.ended:
                self._stop(command, event)
        parked = {command.trial_id: self.slot[command.trial_id] for command in commands if isinstance(command, Park)}
        for command in commands:
            self._follow(command, population)
        back = {trial_id for trial_id, slot in parked.items() if population.trials[trial_id].slot == slot}
        assert not back, "gives its slot up only to get it again"
        if len(set(population.limits.devices)) == 1:
            moved = [trial_id for trial_id in parked if population.trials[trial_id].slot is not None]
            assert not moved, "changes its slot for no reason"
            self._least_trained_first(population, commands, gives=not self._merely_goes_on(event, at_boundary))

    def at_the_end(self, result: SimulationResult) -> None:
        scenario = self.scenario
        if not scenario.knows_all_faults:
            return
        assert len(self.ended) == scenario.members
        assert set(self.ended) == set(result.trials)
        assert len(result.of_kind(Stop)) == scenario.members + self.revived
        never_saves = scenario.checkpoint_every == 0 and not scenario.of_class
        if not scenario.pbt or scenario.members < 2 or scenario.quantile == "0" or never_saves:
            assert not result.exploits
        if not scenario.faults:
            assert not self.retries
            assert set(self.ended.values()) == {Status.TERMINATED}
            assert all(trial.failures == 0 for trial in result.trials.values())
        if scenario.max_failures == -1 and not any(
            fault in (Fault.RETURN, Fault.DAMAGE) for fault, _ in scenario.faults
        ):
            assert set(self.ended.values()) == {Status.TERMINATED}
        if not scenario.returns:
            assert all(trial.iteration <= scenario.length for trial in result.trials.values())
        if scenario.residents is not None and not any(notice.key == "residents" for notice in result.notices):
            assert result.peak_processes <= max(scenario.residents, scenario.slots)
        assert result.checkpoints == set(self.committed) - self.deleted
        kept = scenario.num_to_keep
        if kept is not None:
            # Where the best are kept, the newest stays beside them, and the one from which the trial goes on, for a
            # class also one that only Shoal wanted; one more is just being added.
            beside = (2 + scenario.of_class) * (scenario.score_attribute is not None)
            assert result.peak_checkpoints <= scenario.members * (kept + beside) + 1

    # -------------------------------------------------------------------------------------------------------- the story

    def _report(self, event: Reported) -> str | None:
        """Take in a report; return the trial's id if it waits at its boundary."""
        trial_id = event.trial_id
        assert event.metrics["steps"] == event.iteration, "these are not the weights that the core thinks they are"
        value = self._value(event)
        self.last[trial_id] = event
        if event.iteration > self.furthest.get(trial_id, 0):
            self.orphaned.pop(trial_id, None)
        if event.checkpoint is not None:
            self._saved(event, event.checkpoint.number)
        until = self.until[trial_id]
        if until is None or self.scenario.time_of(event) < until:
            return None
        self.undecided.add(trial_id)
        if event.stop is not None:
            return None
        assert event.waiting
        (self.arrived if self.scenario.synch else self.evaluated)[trial_id] = value
        return trial_id

    def _fails(self, trial_id: str, population: Population, commands: list[Command]) -> None:
        """Take in that a trial has failed; for good, where it now ends, copies or waits for that."""
        ends = any(isinstance(command, Stop) and command.trial_id == trial_id for command in commands)
        copies = any(isinstance(command, Exploit) and command.trial_id == trial_id for command in commands)
        scenario = self.scenario
        can_copy = scenario.pbt and scenario.replace_failed and scenario.quantile != "0"
        if not can_copy or scenario.fail_fast or population.stopping is not None:
            assert not copies
        elif ends or copies or population.trials[trial_id].failed is not None:
            self.failed.add(trial_id)
            (self.arrived if scenario.synch else self.evaluated)[trial_id] = -math.inf
            self.retries.pop(trial_id, None)
            self.orphaned.pop(trial_id, None)

    def _spoiled(self, name: str) -> None:
        """A checkpoint is damaged, and can no longer be copied."""
        owner = name.partition("/")[0]
        if self.own_name.get(owner) == name:
            self.own.pop(owner, None)
            if owner in self.at_its_end:
                self.at_its_end[owner] = (None, self.at_its_end[owner][1])

    def _saved(self, step: Reported, number: int) -> None:
        """A checkpoint of a step has come."""
        trial_id, value = step.trial_id, self._value(step)
        name = self.own_name[trial_id] = f"{trial_id}/checkpoint_{number:06d}"
        self.committed[name] = self.newest[trial_id] = step
        self.own.pop(trial_id, None)
        self.own_time[trial_id] = self.scenario.time_of(step)
        if math.isfinite(value):
            self.own[trial_id] = value

    def _opened(self, event: Opened, population: Population) -> list[str]:
        """The experiment goes on. Return who stands at a boundary that is decided now, without waiting for others."""
        self.launch.clear()
        self.revived += len(event.again) + len(event.anew)
        for trial_id in (*event.again, *event.anew):
            assert trial_id in self.ended
            del self.ended[trial_id]
            self.retries.pop(trial_id, None)
            self.orphaned.pop(trial_id, None)
            self._take_back(trial_id)
            if trial_id in event.anew:
                for told in (
                    self.own,
                    self.own_time,
                    self.evaluated,
                    self.copied,
                    self.chances,
                    self.last,
                    self.newest,
                    self.furthest,
                ):
                    told.pop(trial_id, None)
        self.arrived.clear()
        barrier = max((until for until in self.until.values() if until is not None), default=math.inf)
        standing: list[str] = []
        for trial_id in population.trials:
            if trial_id in self.ended or trial_id in event.dropped:
                self.failed.discard(trial_id)
                continue
            if trial_id in self.failed:
                (self.arrived if self.scenario.synch else self.evaluated)[trial_id] = -math.inf
                continue
            step = self.last.get(trial_id)
            if step is not self.newest.get(trial_id):
                self._go_back(trial_id)
            elif step is not None and trial_id in self.undecided:
                until = barrier if self.scenario.synch else self.until[trial_id]
                if until is not None and self.scenario.time_of(step) >= until:
                    (self.arrived if self.scenario.synch else self.evaluated)[trial_id] = self._value(step)
                    standing.append(trial_id)
        return [] if self.scenario.synch else standing

    def _go_back(self, trial_id: str) -> None:
        """What a trial has done since its newest checkpoint is lost."""
        self.undecided.discard(trial_id)
        self.last.pop(trial_id, None)
        if trial_id in self.newest:
            self.last[trial_id] = self.newest[trial_id]

    def _take_back(self, trial_id: str) -> None:
        """A trial that had ended ranks again as it did then."""
        if self.retired.pop(trial_id, None) is None:
            own, evaluated = self.at_its_end[trial_id]
            for told, value in ((self.own, own), (self.evaluated, evaluated)):
                if value is not None:
                    told[trial_id] = value

    def _stop(self, command: Stop, event: Event) -> None:
        trial_id = command.trial_id
        assert trial_id not in self.ended, "stopped twice"
        self.ended[trial_id] = command.status
        self.failed.discard(trial_id)
        mine = isinstance(event, Reported) and event.trial_id == trial_id
        at_its_stop = mine and isinstance(event, Reported) and event.stop is not None and event.checkpoint is None
        if at_its_stop and trial_id in self.own and trial_id in self.evaluated:
            assert isinstance(event, Reported)
            self.retired[trial_id] = self.evaluated[trial_id] = self._value(event)
        else:
            self.at_its_end[trial_id] = (self.own.pop(trial_id, None), self.evaluated.pop(trial_id, None))
        self.arrived.pop(trial_id, None)
        self.launch.pop(command.trial_id, None)

    def _follow(self, command: Command, population: Population) -> None:
        if isinstance(command, Launch):
            self.launch[command.trial_id] = command.launch
            if not command.waits:
                self.slot[command.trial_id] = command.slot
            self.until[command.trial_id] = command.until
            time = population.trials[command.trial_id].time
            assert command.until is None or command.until > time, "it would wait at once, for ever"
        elif isinstance(command, Continue):
            assert self.launch[command.trial_id] == command.launch
            self.slot[command.trial_id] = command.slot
            self.until[command.trial_id] = command.until
        elif isinstance(command, Retry) and command.innocent:
            before = self.last.get(command.trial_id)
            reached = max(self.furthest.get(command.trial_id, 0), before.iteration if before is not None else 0)
            self.furthest[command.trial_id] = reached
            self.orphaned[command.trial_id] = self.orphaned.get(command.trial_id, 0) + 1
            assert self.orphaned[command.trial_id] <= ORPHANED_AT_MOST
            self._go_back(command.trial_id)
        elif isinstance(command, Retry):
            self._go_back(command.trial_id)
            self.retries[command.trial_id] = self.retries.get(command.trial_id, 0) + 1
            assert self.scenario.max_failures < 0 or self.retries[command.trial_id] <= self.scenario.max_failures
        elif isinstance(command, FallBack):
            step, before = self.committed[command.checkpoint.id], self.committed[command.damaged]
            assert step.iteration < before.iteration, "that is not the one before"
            self.last[command.trial_id] = self.newest[command.trial_id] = step
        elif isinstance(command, DeleteCheckpoint):
            self.deleted.add(f"{command.trial_id}/checkpoint_{command.number:06d}")

    # -------------------------------------------------------------------------------------------------- who copies whom

    def _exploits(self, population: Population, exploits: list[Exploit], decided: list[str], *, judged: bool) -> None:
        """Judge who of those that are decided at once copies whom, and take in that they do."""
        targets = {command.trial_id for command in exploits}
        assert len(targets) == len(exploits)
        if judged:
            for trial_id in decided:
                if trial_id not in targets:
                    assert not self._must_copy(trial_id), f"{trial_id} is among the worst, yet copies nobody"
            for command in exploits:
                self._exploit(population, command, targets)
        for command in exploits:
            self.furthest[command.trial_id] = command.checkpoint.iteration
            self.last[command.trial_id] = self.newest[command.trial_id] = self.committed[command.checkpoint.id]
            self.own.pop(command.trial_id, None)
            self.launch.pop(command.trial_id, None)
            if command.checkpoint.time > self.copied.get(command.trial_id, -math.inf):
                self.copied[command.trial_id] = command.checkpoint.time
                self.chances[command.trial_id] = SECOND_CHANCES
            else:
                self.chances[command.trial_id] = self.chances.get(command.trial_id, SECOND_CHANCES) - 1

    def _replaced(self, commands: list[Command], live: list[str], *, judged: bool) -> None:
        """Take in what became of those that have failed for good: they copy, end with an error, or wait for a donor."""
        stops = [command for command in commands if isinstance(command, Stop)]
        ends = {stop.trial_id for stop in stops if stop.status is Status.ERROR}
        copies = {command.trial_id for command in commands if isinstance(command, Exploit)}
        for trial_id in list(self.failed):
            mates = [name for name in live if name not in self.failed and self._group(name) == self._group(trial_id)]
            donors = [name for name in self._peers(self.own, trial_id) if name != trial_id]
            if trial_id in copies or trial_id in ends:
                if trial_id in ends and judged:
                    assert donors or not mates, "it could have waited for a donor"
                self.undecided.discard(trial_id)
            else:
                assert mates, "it waits, and there is nobody who could ever be copied"
                if self.scenario.synch:
                    self.arrived[trial_id] = -math.inf
        self.failed &= {trial_id for trial_id in self.failed if trial_id not in copies and trial_id not in ends}

    def _group(self, trial_id: str) -> int:
        return int(trial_id.rpartition("_")[2]) % max(1, self.scenario.architectures)

    def _peers(self, values: dict[str, float], trial_id: str) -> dict[str, float]:
        """Return those values that are of members which may copy one another; of failed ones no weights."""
        return {
            name: value
            for name, value in values.items()
            if self._group(name) == self._group(trial_id) and not (values is self.own and name in self.failed)
        }

    def _exploit(self, population: Population, command: Exploit, targets: set[str]) -> None:
        donor, target, record = command.donor_id, command.trial_id, command.checkpoint
        own, evaluated = self._peers(self.own, target), self._peers(self.evaluated, target)
        count = self._in_a_quantile(len(evaluated))
        assert donor in own, "it may not be copied"
        assert donor != target
        assert donor not in self.ended or donor in self.retired
        assert not (self.scenario.synch and donor in targets), "the donor gives its own weights up in the same round"
        assert record.trial_id == donor
        assert record.id in self.committed
        assert record.id not in self.deleted
        step = self.committed[record.id]
        assert (record.iteration, record.score) == (step.iteration, step.metrics["score"]), "score and step do not fit"
        assert math.isfinite(self._value(step))
        assert self._value(step) >= self.evaluated[target], "the donor is worse"
        better = sum(other > own[donor] for other in own.values())
        assert better < max(count, target in self.failed), "the donor is not in the top quantile"
        assert self._leads_on(target, record.time), "it was there before, too often"
        assert (command.failed is not None) == (target in self.failed)
        worse = sum(other < evaluated[target] for other in evaluated.values())
        assert worse < count or target in self.failed, "the target is not in the bottom quantile"
        assert command.donor_config == population.trials[donor].config
        assert command.new_config["seed"] == command.old_config["seed"]
        for config in (command.new_config, command.donor_config):
            assert config.get("layers") == command.old_config.get("layers"), "the weights do not fit"
        assert 0.0 <= command.new_config["h"] <= 1.0

    def _must_copy(self, trial_id: str) -> bool:
        """Whether the trial has failed or is in the bottom quantile, and has a donor, however ties are broken."""
        own, evaluated = self._peers(self.own, trial_id), self._peers(self.evaluated, trial_id)
        count = self._in_a_quantile(len(evaluated))
        value = evaluated[trial_id]
        if sum(other <= value for other in evaluated.values()) - 1 >= count and trial_id not in self.failed:
            return False
        count = max(count, trial_id in self.failed)
        for donor, worth in own.items():
            may_be_low = self.scenario.synch and sum(x < evaluated[donor] for x in evaluated.values()) < count
            on_top = sum(other >= worth for other in own.values()) - 1 < count
            ahead = self._leads_on(trial_id, self.own_time[donor])
            if donor != trial_id and worth >= value and on_top and ahead and not may_be_low:
                return True
        return False

    def _leads_on(self, target: str, time: float) -> bool:
        return time > self.copied.get(target, -math.inf) or self.chances.get(target, SECOND_CHANCES) > 0

    def _in_a_quantile(self, members: int) -> int:
        return min(math.ceil(members * Fraction(self.scenario.quantile)), members // 2)

    def _value(self, event: Reported) -> float:
        score: float = event.metrics["score"]
        if not math.isfinite(score):
            return -math.inf
        return score if self.scenario.mode == "max" else -score

    # -------------------------------------------------------------------------------------------------------- the slots

    @staticmethod
    def _merely_goes_on(event: Event, at_boundary: str | None) -> bool:
        """A member that waited for a stopper and may go on keeps its slot: no slot is given out."""
        return isinstance(event, Reported) and event.stop is None and at_boundary is None

    def _least_trained_first(self, population: Population, commands: list[Command], *, gives: bool) -> None:
        trials = population.trials
        queued = [trial.place for trial in trials.values() if trial.queued]
        waiting = [trial.place for trial in trials.values() if trial.claims]
        running = {trial.trial_id for trial in population.running}
        for command in commands:
            if isinstance(command, HandOn):
                assert population.limits.hands_on
                to, until = trials[command.to], trials[command.trial_id].until
                assert until is not None
                assert to.time <= until, "it has trained more than the holder will have"
                assert to.place <= min(queued, default=to.place), "somebody who has trained less waits for a slot"
            elif isinstance(command, Continue | Launch) and command.trial_id in running:
                kept, place = self.promised.get(command.trial_id) == command.slot, trials[command.trial_id].place
                first = place <= min(waiting, default=place)
                assert first or not gives or kept, "somebody who has trained less waits for a slot"
        self.promised = {name: trial.promised for name, trial in trials.items() if trial.promised is not None}
