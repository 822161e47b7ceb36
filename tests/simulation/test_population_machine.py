"""Whatever happens in whatever order, shrunk to the shortest story where it goes wrong (Hypothesis, stateful).

The simulated engine only tells stories that follow from its members. Here any member may do anything at any moment, and
drivers are killed and succeed one another, and nodes come and go.
"""

from __future__ import annotations

import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shoal import space
from shoal.core.commands import Command, Continue, DeleteCheckpoint, Evict, Exploit, HandOn, Launch, Status, Stop
from shoal.core.events import (
    Config,
    Event,
    Failed,
    Finished,
    Lost,
    Opened,
    Reported,
    SavedCheckpoint,
    SlotsJoined,
    SlotsLeft,
    Started,
    StopAsked,
    TrialAdded,
    Undecided,
)
from shoal.core.limits import Limits, RetentionRules
from shoal.core.population import Population
from shoal.core.recall import choose, recall
from shoal.core.trial import Trial
from shoal.errors import SpaceError
from shoal.schedulers import PopulationBasedTraining

LIMITS = st.builds(
    Limits,
    st.sampled_from([("",), ("", ""), ("",) * 4, ("0", "1"), ("0", "0", "1"), ()]),
    residents=st.sampled_from([None, None, 1, 3]),
    max_failures=st.sampled_from([0, 1, -1]),
    fail_fast=st.booleans(),
    replace_failed=st.booleans(),
    hands_on=st.booleans(),
)
KEPT = st.sampled_from([None, 1, 2])
SCORES = st.sampled_from([0.0, 1.0, 1.0, 2.0, -1.0, math.nan, math.inf])
WHO = st.integers(0, 11)
LAST = 40
"""The iteration at which every trial ends, once the story is brought to its end."""


class PopulationMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.until: dict[str, float | None] = {}
        self.saved: set[str] = set()
        self.stops: list[str] = []
        self.journal: list[Event | Command] = []
        self.broken: str | None = None
        """Where the user's function raises."""
        self.dying: dict[str, int] = {}
        """Trials whose process has died with its node, of which the core has not heard, and their launch."""
        self.population: Population

    @initialize(members=st.integers(1, 6), limits=LIMITS, synch=st.booleans(), keep=KEPT, kinds=st.integers(0, 2))
    def begin(self, members: int, limits: Limits, synch: bool, keep: int | None, kinds: int) -> None:
        self.scheduler = PopulationBasedTraining(
            time_attr="training_iteration",
            perturbation_interval=2,
            hyperparam_mutations={"h": space.uniform(0.0, 1.0)},
            quantile_fraction=0.5,
            custom_explore_fn=self.explore,
            synch=synch,
            fixed=["kind"] if kinds else [],
        )
        self.population = self.new_population()
        self.tell(Opened(limits, RetentionRules(keep)))
        for index in range(members):
            self.tell(TrialAdded(f"t{index}", index, "", "", "", {"h": 0.5, "kind": index % max(1, kinds)}))

    def new_population(self) -> Population:
        return Population(self.scheduler.policy(mode="max", seed=0), metric="score")

    def explore(self, config: Config) -> Config:
        if self.broken:
            raise ZeroDivisionError
        return config

    def tell(self, event: Any) -> list[Command]:
        try:
            commands = self.population.apply(event)
        except SpaceError:
            self.note(Undecided("no"), [])
            self.note(event, self.population.decided)
            if self.broken == "and the driver says so":
                stop = StopAsked("the run failed")
                self.note(stop, self.population.apply(stop))
            self.broken = None
            self.open_again(self.population.limits, self.population.retention.rules)
            return []
        return self.note(event, commands)

    def open_again(
        self,
        limits: Limits,
        retention: RetentionRules,
        *,
        unfinished: bool = True,
        failed: str = "",
        extended: bool = False,
        config: Config | None = None,
    ) -> None:
        """Another driver reads the journal back and goes on."""
        self.population = self.recalled()
        ended = [trial.trial_id for trial in self.population.trials.values() if trial.status is Status.TERMINATED]
        choice = choose(
            self.population,
            unfinished=unfinished,
            errored=failed == "go on",
            restarted=failed == "begin anew",
            extended=ended[::2] if extended else [],
        )
        for trial_id in (*choice.again, *choice.anew):
            self.stops.remove(trial_id)
        self.tell(Opened(limits, retention, choice.again, choice.anew, choice.dropped, config or {}))

    def recalled(self) -> Population:
        broken, self.broken = self.broken, "while the journal is read back"
        population = self.new_population()
        recall(population, self.journal)
        self.broken = broken
        return population

    def note(self, event: Event, commands: list[Command]) -> list[Command]:
        self.journal += [event, *commands]
        if isinstance(event, Opened):
            self.dying.clear()
        for command in commands:
            if isinstance(command, Launch | Continue | HandOn):
                assert command.slot not in self.population._gone
            if isinstance(command, Evict | Stop) or (isinstance(command, Launch) and command.fresh):
                self.dying.pop(command.trial_id, None)
            elif isinstance(command, Launch) and command.trial_id in self.dying:
                self.dying[command.trial_id] = command.launch
            if isinstance(command, Launch | Continue):
                self.until[command.trial_id] = command.until
            if isinstance(command, Launch) and command.checkpoint is not None:
                assert command.checkpoint.id in self.saved
            elif isinstance(command, Exploit):
                assert command.checkpoint.id in self.saved
                assert command.checkpoint.score is not None
                assert math.isfinite(command.checkpoint.score)
                if self.scheduler.fixed:
                    assert command.donor_config["kind"] == command.old_config["kind"] == command.new_config["kind"]
            elif isinstance(command, DeleteCheckpoint):
                self.saved.remove(f"{command.trial_id}/checkpoint_{command.number:06d}")
            elif isinstance(command, Stop):
                assert command.trial_id not in self.stops
                self.stops.append(command.trial_id)
        return commands

    def one_of(self, trials: list[Trial], who: int) -> Trial | None:
        return trials[who % len(trials)] if trials else None

    def report(self, trial: Trial, score: float, save: bool) -> None:
        iteration = trial.iteration + 1
        until = self.until[trial.trial_id]
        stop = "the end" if iteration >= LAST else None
        checkpoint = SavedCheckpoint(trial.next_checkpoint, "", 0) if save else None
        if checkpoint is not None:
            self.saved.add(f"{trial.trial_id}/checkpoint_{checkpoint.number:06d}")
        waiting = stop is not None or (until is not None and iteration >= until)
        self.tell(
            Reported(
                trial.trial_id, trial.launch, iteration, {"score": score}, waiting, stop=stop, checkpoint=checkpoint
            )
        )

    @property
    def parked(self) -> list[Trial]:
        return [trial for trial in self.population.trials.values() if trial.resident and trial.slot is None]

    @rule(who=WHO, score=SCORES, save=st.booleans())
    def a_member_reports(self, who: int, score: float, save: bool) -> None:
        if trial := self.one_of(self.population.running, who):
            self.report(trial, score, save)

    @rule(who=WHO, scores=st.lists(SCORES, min_size=2, max_size=2), save=st.booleans())
    def a_member_reports_up_to_its_boundary(self, who: int, scores: list[float], save: bool) -> None:
        if trial := self.one_of(self.population.running, who):
            launch = trial.launch
            for score in scores:
                trial = self.population.trials[trial.trial_id]
                if trial.slot is not None and trial.launch == launch:
                    self.report(trial, score, save)

    @rule(who=WHO)
    def a_function_raises(self, who: int) -> None:
        if trial := self.one_of(self.population.running, who):
            self.tell(Failed(trial.trial_id, trial.launch, "an error", ""))

    @rule(who=WHO)
    def a_function_returns(self, who: int) -> None:
        if trial := self.one_of(self.population.running, who):
            self.tell(Finished(trial.trial_id, trial.launch))

    @rule(who=WHO)
    def a_running_process_dies(self, who: int) -> None:
        if trial := self.one_of(self.population.running, who):
            self.tell(Lost(trial.trial_id, trial.launch, "killed"))

    @rule(who=WHO)
    def one_that_gets_ready_fails(self, who: int) -> None:
        if trial := self.one_of([trial for trial in self.parked if trial.ready], who):
            self.tell(Failed(trial.trial_id, trial.launch, "its config cannot be sent", ""))

    @rule(who=WHO)
    def a_parked_process_dies(self, who: int) -> None:
        if trial := self.one_of(self.parked, who):
            self.tell(Lost(trial.trial_id, trial.launch, "killed"))

    @rule(devices=st.sampled_from([("2",), ("0", "0"), ("1", "2", "2")]), residents=st.sampled_from([0, 1, 3]))
    def a_node_joins(self, devices: tuple[str, ...], residents: int) -> None:
        if len(self.population.devices) < 12:
            alike = self.population.devices[:1] == [""]
            self.tell(SlotsJoined(("",) * len(devices) if alike else devices, residents))

    @rule(who=WHO, whole=st.booleans(), at_once=st.booleans(), residents=st.sampled_from([0, 1]))
    def a_node_dies(self, who: int, whole: bool, at_once: bool, residents: int) -> None:
        devices = self.population.devices
        there = [slot for slot in range(len(devices)) if slot not in self.population._gone]
        if not there:
            return
        first = there[who % len(there)]
        left = {slot for slot in there if devices[slot] == devices[first]} if whole and devices[first] else {first}
        staying = {devices[slot] for slot in there if slot not in left}
        trials = self.population.trials.values()
        lost = [
            trial
            for trial in trials
            if trial.slot in left or trial.promised in left or (trial.device and trial.device not in staying)
        ]
        self.dying.update({trial.trial_id: trial.launch for trial in lost})
        self.tell(SlotsLeft(tuple(left), residents))
        if at_once:
            self.it_is_heard_who_died_with_a_node()

    @rule()
    def it_is_heard_who_died_with_a_node(self) -> None:
        while self.dying:
            trial_id = next(iter(self.dying))
            self.tell(Lost(trial_id, self.dying.pop(trial_id), "the node died", innocent=True))

    @rule()
    def the_parent_of_all_processes_dies(self) -> None:
        lost = [(trial.trial_id, trial.launch) for trial in self.population.trials.values() if trial.resident]
        for trial_id, launch in lost:
            self.tell(Lost(trial_id, launch, "the parent died", innocent=True))

    @rule(who=WHO, back=st.integers(0, 2))
    def a_message_comes_late(self, who: int, back: int) -> None:
        """Of an earlier launch, of a launch that is over, or of a trial that has ended."""
        trial = self.one_of(list(self.population.trials.values()), who)
        assert trial is not None
        launch = trial.launch - back
        over = trial.status.ended or back > 0 or (trial.slot is None and not trial.waiting)
        if launch > 0 and over:
            for event in (
                Started(trial.trial_id, launch, 1, ""),
                Reported(trial.trial_id, launch, 77, {"score": 1.0}, False, checkpoint=SavedCheckpoint(99, "", 0)),
                Failed(trial.trial_id, launch, "late", ""),
                Finished(trial.trial_id, launch),
            ):
                assert self.tell(event) == []

    @precondition(lambda self: len(self.stops) > 0)
    @rule()
    def the_experiment_is_asked_to_end(self) -> None:
        self.tell(StopAsked("enough"))
        assert self.population.ended

    @rule(how=st.sampled_from(["and the driver says so", "and the driver is killed"]))
    def the_users_function_raises_from_now_on(self, how: str) -> None:
        self.broken = how

    @rule()
    def the_driver_is_killed(self) -> None:
        self.open_again(self.population.limits, self.population.retention.rules)

    @rule(
        limits=LIMITS,
        keep=KEPT,
        unfinished=st.booleans(),
        failed=st.sampled_from(["", "go on", "begin anew"]),
        extended=st.booleans(),
        config=st.sampled_from([{}, {"k": 1}, {"k": {"inner": 2}}, {"kind": 7}]),
    )
    def the_driver_is_killed_and_another_one_has_other_settings(
        self, limits: Limits, keep: int | None, unfinished: bool, failed: str, extended: bool, config: Config
    ) -> None:
        self.open_again(
            limits, RetentionRules(keep), unfinished=unfinished, failed=failed, extended=extended, config=config
        )

    @invariant()
    def everything_is_in_order(self) -> None:
        self.population.validate()
        ended = [trial.trial_id for trial in self.population.trials.values() if trial.status.ended]
        assert sorted(ended) == sorted(self.stops)

    def teardown(self) -> None:
        """From here on all goes well: then everybody comes to an end."""
        if not hasattr(self, "population"):
            return
        self.it_is_heard_who_died_with_a_node()
        for turn in range(100 * LAST):
            if len(self.population._gone) == len(self.population.devices):
                self.tell(SlotsJoined(("",) if self.population.devices[:1] == [""] else ("3",)))
            running = self.population.running
            if not running:
                break
            self.report(running[turn % len(running)], score=1.0, save=True)
            self.population.validate()
        assert self.population.ended
        told, recalled = (
            {
                trial.trial_id: repr((trial.status, trial.iteration, trial.restore))
                for trial in population.trials.values()
            }
            for population in (self.population, self.recalled())
        )
        assert recalled == told


def _machine() -> Any:
    case = PopulationMachine.TestCase
    case.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
    return case


TestAnyOrderOfEvents = _machine()
