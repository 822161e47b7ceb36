"""What must hold after every single event of each simulated experiment."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

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
from shoal.core.events import Damaged, Event, Failed, Lost, Opened, Reported, Saved, SlotsJoined, SlotsLeft
from shoal.core.population import DISPLACED_AT_MOST, ORPHANED_AT_MOST, Population
from shoal.schedulers.pbt import SECOND_CHANCES
from shoal.testing import Fault, SimulationResult

if TYPE_CHECKING:
    from .scenarios import Scenario


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
    devices: list[str] | None = None
    """The device of each slot that there has been since the driver has begun."""
    gone: set[int] = field(default_factory=set[int])
    """Those that have left."""

    def __call__(self, population: Population, event: Event, commands: list[Command]) -> None:
        if self.devices is None:
            self.devices = [*population.limits.devices]
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
        elif isinstance(event, SlotsJoined):
            self.devices += event.devices
        elif isinstance(event, SlotsLeft):
            self.gone.update(event.slots)
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
        self._slots_are_used(population, commands)
        if len(set(self.devices)) == 1:
            staying = [trial_id for trial_id, slot in parked.items() if slot not in self.gone]
            moved = [trial_id for trial_id in staying if population.trials[trial_id].slot is not None]
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
        if (
            scenario.residents is not None
            and not scenario.nodes
            and not any(notice.key == "residents" for notice in result.notices)
        ):
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
        self.devices, self.gone = [*event.limits.devices], set()
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
            at_most = ORPHANED_AT_MOST + (DISPLACED_AT_MOST if self.scenario.nodes else 0)
            assert self.orphaned[command.trial_id] <= at_most
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

    def _slots_are_used(self, population: Population, commands: list[Command]) -> None:
        """Nobody is given a slot that has left, and none is idle while somebody waits whose process is there."""
        for command in commands:
            if isinstance(command, Launch | Continue | HandOn):
                assert command.slot not in self.gone, "that slot has left"
        assert self.devices is not None
        trials = population.trials.values()
        assert not {trial.promised for trial in trials} & self.gone, "that slot has left, and is promised"
        if population.stopping is not None:
            return
        held = {trial.slot for trial in trials}
        idle = {self.devices[slot] for slot in range(len(self.devices)) if slot not in held and slot not in self.gone}
        waiting = {trial.device for trial in trials if trial.claims}
        assert not idle & waiting, "a slot is free where somebody waits for one"
        assert not (idle and population.limits.residents is None and None in waiting), "somebody could be launched"

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
