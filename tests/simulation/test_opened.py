"""Who goes on when an experiment is opened again, with which config, and where functions of the user had raised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.simulation.test_population import climb, members, pbt
from tests.simulation.test_recall import check_recall, journal_until
from tests.unit.test_pbt import Members, copies

from shoal.core.commands import (
    Command,
    DeleteCheckpoint,
    Exploit,
    Launch,
    Notice,
    Status,
    Stop,
)
from shoal.core.events import (
    Config,
    Event,
    Opened,
    StopAsked,
    Undecided,
)
from shoal.core.limits import Limits, RetentionRules
from shoal.core.policy import Copy
from shoal.core.population import Population
from shoal.core.recall import recall
from shoal.errors import SpaceError
from shoal.schedulers.pbt import SECOND_CHANCES
from shoal.testing import BrokenContract, Fault, SimulatedEngine, Simulation, SimulationResult

# ----------------------------------------------------------------------------------- who goes on, and with which config


def failing(faulty: tuple[int, ...], **settings: Any) -> Simulation:
    """Four members, of which some fail at their fourth step, once."""

    def faults(index: int, launch: int, iteration: int) -> Fault | None:
        return Fault.RAISE if index in faulty and launch == 1 and iteration == 4 else None

    defaults: dict[str, Any] = {"slots": 4, "stop": {"training_iteration": 6}, "faults": faults}
    return Simulation(climb, members(4), **(defaults | settings))


def test_trials_that_failed_stay_as_they_are_unless_told_otherwise() -> None:
    ended = failing((1, 2)).run()
    assert [trial.status for trial in ended.trials.values()].count(Status.ERROR) == 2
    result = failing((1, 2)).go_on(ended)
    assert result.statuses == ended.statuses
    assert result.of_kind(Launch) == ended.of_kind(Launch)


def test_trials_that_failed_go_on_from_their_newest_checkpoint() -> None:
    ended = failing((1, 2), checkpoint_every=2).run()
    result = failing((1, 2)).go_on(ended, resume_errored=True)
    assert set(result.statuses.values()) == {Status.TERMINATED}
    launches = result.of_kind(Launch)[4:]
    assert [(launch.trial_id[-1], launch.launch, launch.iteration) for launch in launches] == [("1", 2, 2), ("2", 2, 2)]
    assert [trial.failures for trial in result.trials.values()] == [0, 0, 0, 0]


def test_trials_that_failed_begin_anew_with_their_first_config_and_numbers_never_used_before() -> None:
    scheduler = pbt(quantile_fraction=0.5)
    ended = failing((0, 1), scheduler=scheduler, faults=once_copied).run()
    failed = [trial_id for trial_id, status in ended.statuses.items() if status is Status.ERROR]
    assert failed
    assert all(ended.trials[trial_id].config["h"] != members(4)[int(trial_id[-1])]["h"] for trial_id in failed)
    result = failing((), scheduler=scheduler, faults=None, num_to_keep=1).go_on(ended, restart_errored=True)
    assert set(result.statuses.values()) == {Status.TERMINATED}
    for trial_id in failed:
        launch = next(
            launch for launch in result.of_kind(Launch)[len(ended.of_kind(Launch)) :] if launch.trial_id == trial_id
        )
        assert (launch.iteration, launch.checkpoint, launch.time_total_s) == (0, None, 0.0)
        assert launch.config == members(4)[int(trial_id[-1])]
        assert launch.generation > 0
        assert launch.until == 2
    saved = [(report.trial_id, report.checkpoint.number) for report in result.reports if report.checkpoint is not None]
    assert len(saved) == len(set(saved))


def once_copied(index: int, launch: int, iteration: int) -> Fault | None:
    """Whoever has copied fails right after."""
    return Fault.RAISE if launch == 2 and iteration == 4 else None


def test_whose_experiment_was_cut_off_stay_as_they_are_where_nobody_unfinished_goes_on() -> None:
    explored: list[Config] = []

    def explore(config: Config) -> Config:
        explored.append(config)
        return config

    for synch in (False, True):
        simulation = Simulation(
            climb, members(6), pbt(synch=synch, custom_explore_fn=explore, quantile_fraction=0.5), slots=5,
            stop={"training_iteration": 9},
            # The first is the last at each barrier, so where it ends the others have all arrived.
            duration=lambda index, iteration, config: 3.0 if index == 0 else 1.0,
        )  # fmt: skip
        for count in range(6, len(simulation.run().events)):
            killed = simulation.run(kill_after=count)
            explored.clear()
            result = simulation.go_on(killed, resume_unfinished=False)
            assert explored == []
            assert len(result.events) == count + 1
            kinds = {type(command) for command in result.commands[-1]}
            assert kinds <= {Stop, DeleteCheckpoint, Notice}, "nothing is decided for those that end"
            for trial_id, trial in result.trials.items():
                assert trial.status is Status.TERMINATED
                assert trial.config == killed.trials[trial_id].config
            # And it is not final: they can still go on another time.
            assert all(trial.iteration == 9 for trial in simulation.go_on(result).trials.values())


def test_those_that_failed_can_go_on_alone_also_at_the_barrier() -> None:
    def faults(index: int, launch: int, iteration: int) -> Fault | None:
        return Fault.RAISE if index in (0, 3) and launch == 1 and iteration == 2 else None

    simulation = Simulation(
        climb, members(6), pbt(synch=True, quantile_fraction=0.5), slots=6, stop={"training_iteration": 8},
        faults=faults, start_time=0.5,
    )  # fmt: skip
    for count in range(14, 40, 3):
        killed = simulation.run(kill_after=count)
        result = simulation.go_on(killed, resume_unfinished=False, resume_errored=True)
        went_on = {launch.trial_id[-1] for launch in result.of_kind(Launch)[len(killed.of_kind(Launch)) :]}
        failed = {trial_id[-1] for trial_id, trial in killed.trials.items() if trial.status is Status.ERROR}
        assert went_on == failed
        assert set(result.statuses.values()) == {Status.TERMINATED}


def test_values_of_all_configs_can_be_replaced_first_ones_and_those_of_donors_included() -> None:
    configs = [{**config, "data": {"train": "old", "depth": 1}} for config in members(6)]
    simulation = Simulation(climb, configs, pbt(quantile_fraction=0.5), slots=2, stop={"training_iteration": 8})
    killed = simulation.run(kill_after=40)
    result = simulation.go_on(killed, config={"data": {"train": "new", "unknown": 1}, "unknown": 2})
    later = [command for commands in result.commands[40:] for command in commands]
    for command in later:
        if isinstance(command, Launch):
            assert command.config["data"] == {"train": "new", "depth": 1}
            assert set(command.config) == {"h", "data"}
        if isinstance(command, Exploit):
            assert command.donor_config["data"] == command.new_config["data"] == {"train": "new", "depth": 1}
    assert any(isinstance(command, Exploit) for command in later)
    assert configs[0]["data"] == {"train": "old", "depth": 1}
    assert {trial.first_config["data"]["train"] for trial in result.trials.values()} == {"new"}
    for count in range(41, len(result.events), 9):
        check_recall(simulation, result, count)


def test_a_member_that_begins_anew_may_copy_a_step_as_often_as_at_first() -> None:
    story = Members(4)
    assert copies(story.all_reach([0.0, 1.0, 2.0, 3.0])) == {}
    for _ in range(1 + SECOND_CHANCES):
        assert copies(story.reach(0, 0.0, 10.0)) == {"m0": "m3"}
    assert copies(story.reach(0, 0.0, 10.0)) == {}
    story.policy.gone("m0")
    story.policy.back("m0", {"lr": 0.25})
    assert story.policy.until("m0") == 5.0
    for _ in range(1 + SECOND_CHANCES):
        assert copies(story.reach(0, 0.0)) == {"m0": "m3"}
    assert copies(story.reach(0, 0.0)) == {}


@pytest.mark.parametrize("donates", [False, True])
def test_a_member_that_begins_anew_has_left_the_rankings(donates: bool) -> None:
    story = Members(4)
    story.all_reach([0.0, 1.0, 2.0, 3.0])
    story.policy.gone("m3", donates=donates)
    story.policy.back("m3", {"lr": 0.25})
    assert copies(story.reach(0, 0.0, 10.0)) == {"m0": "m2"}, "the best one has given its checkpoint up"
    story.reach(3, 3.0)
    (decision,) = story.reach(0, 0.0, 15.0)
    assert isinstance(decision, Copy)
    assert (decision.donor_id, decision.donor_config) == ("m3", {"lr": 0.25})


@pytest.mark.parametrize("donates", [False, True])
def test_a_member_that_goes_on_ranks_as_before(donates: bool) -> None:
    story = Members(4)
    story.all_reach([0.0, 1.0, 2.0, 3.0])
    story.policy.gone("m3", donates=donates)
    assert copies(story.reach(0, 0.0, 10.0)) == {"m0": "m3" if donates else "m2"}
    story.policy.back("m3", None)
    assert story.policy.until("m3") == 10.0
    assert copies(story.reach(0, 0.0, 15.0)) == {"m0": "m3"}
    story.policy.gone("m3")
    assert copies(story.reach(0, 0.0, 20.0)) == {"m0": "m2"}


def test_what_the_user_should_know_is_said_again_by_each_driver() -> None:
    simulation = Simulation(climb, members(4), pbt(), slots=4, stop={"training_iteration": 20}, checkpoint_every=0)
    whole = simulation.run()
    told = next(number for number, commands in enumerate(whole.commands, start=1) for c in commands if is_notice(c))
    killed = simulation.run(kill_after=told)
    assert [notice.key for notice in killed.notices] == ["no-checkpoint"]
    assert [notice.key for notice in simulation.go_on(killed).notices] == ["no-checkpoint"] * 2


def is_notice(command: Command) -> bool:
    return isinstance(command, Notice)


# ------------------------------------------------------------------------------------- functions of the user that raise


class Unhappy(Exception):
    pass


class Told:
    """An experiment whose ``custom_explore_fn`` raises when told to, and a driver that writes that down."""

    def __init__(self, *, synch: bool, raises: Callable[[int], bool]) -> None:
        self.calls = 0
        self.raises = raises
        scheduler = pbt(synch=synch, quantile_fraction=0.5, custom_explore_fn=self.explore)
        self.simulation = Simulation(climb, members(6), scheduler, slots=3, stop={"training_iteration": 9})

    def explore(self, config: Config) -> Config:
        self.calls += 1
        if self.raises(self.calls):
            raise Unhappy
        return config

    def run(self, before: SimulationResult | None = None, *, killed: bool = False) -> SimulationResult:
        """Run it or go on with it. Where the function raises, end as a driver does, or be ``killed`` before that."""
        told: list[tuple[Event, list[Command]]] = []
        engines: list[SimulatedEngine] = []
        populations: list[Population] = []
        simulation, make, apply = self.simulation, self.simulation._engine, Population.apply

        def engine() -> SimulatedEngine:
            engines.append(make())
            return engines[-1]

        class Driver(Population):
            def apply(self, event: Event) -> list[Command]:
                populations.append(self)
                try:
                    commands = apply(self, event)
                except SpaceError:
                    told.extend([(Undecided("Unhappy"), []), (event, self.decided)])
                    raise
                told.append((event, commands))
                return commands

        simulation._engine = engine
        simulation.population = lambda: Driver(  # type: ignore[method-assign]
            simulation.scheduler.policy(mode="max", seed=0), metric="score", time_attr="training_iteration",
            limits=simulation.limits,
        )  # fmt: skip
        try:
            return simulation.run() if before is None else simulation.go_on(before)
        except SpaceError:
            if not killed:
                population, stop = populations[-1], StopAsked("the run failed with Unhappy")
                told.append((stop, apply(population, stop)))
        finally:
            simulation._engine = make
        opened = Opened(simulation.limits, simulation.retention)
        return SimulationResult(
            [event for event, _ in told], [commands for _, commands in told], populations[-1].trials, {}, 0.0, 0.0, 0,
            0, set(), opened, engines[-1],
        )  # fmt: skip


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("first", [1, 2, 3, 4, 7])
def test_where_exploring_raised_the_member_stands_at_its_boundary_and_the_mended_function_is_asked(
    synch: bool, killed: bool, first: int
) -> None:
    expected = Told(synch=synch, raises=lambda call: False).run()
    experiment = Told(synch=synch, raises=lambda call: call == first)
    failed = experiment.run(killed=killed)
    undecided = [event for event in failed.events if isinstance(event, Undecided)]
    assert len(undecided) == 1
    result = experiment.run(failed)
    assert set(result.statuses.values()) == {Status.TERMINATED}
    assert {trial.iteration for trial in result.trials.values()} == {9}
    if synch:
        assert result.lineage == expected.lineage
    else:
        assert result.exploits


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("killed", [False, True])
def test_a_function_that_still_raises_can_be_mended_a_third_and_a_fourth_time(synch: bool, killed: bool) -> None:
    expected = Told(synch=synch, raises=lambda call: False).run()
    # The second and the third driver fail as soon as they begin, the third in the midst of several decisions.
    experiment = Told(synch=synch, raises=lambda call: call in (3, 4, 6))
    result = experiment.run(killed=killed)
    for _ in range(2):
        result = experiment.run(result, killed=killed)
        assert isinstance(result.events[-2 if killed else -3], Undecided)
    result = experiment.run(result)
    assert {trial.iteration for trial in result.trials.values()} == {9}
    if synch:
        assert result.lineage == expected.lineage
    recalled = experiment.simulation.population()
    before = experiment.calls
    recall(recalled, result.journal)
    assert experiment.calls == before


# ------------------------------------------------------------------------------------------ the simulation that goes on


def test_a_killed_simulation_tells_what_was_written_down_and_goes_on_from_there() -> None:
    simulation = Simulation(climb, members(2), slots=2, stop={"training_iteration": 4}, num_to_keep=1)
    whole = simulation.run()
    killed = simulation.run(kill_after=9)
    assert killed.events == whole.events[:9]
    assert killed.commands == whole.commands[:9]
    assert killed.journal == journal_until(whole, 9)
    deleted = [command for command in killed.commands[8] if isinstance(command, DeleteCheckpoint)]
    assert deleted, "decided, but not carried out any more"
    assert len(killed.checkpoints) == 3
    result = simulation.go_on(killed)
    assert result.events[:9] == whole.events[:9]
    assert isinstance(result.events[9], Opened)
    assert result.checkpoints == whole.checkpoints
    assert result.elapsed_s > killed.elapsed_s
    assert killed.events == whole.events[:9], "the result that it went on from is as it was"
    assert simulation.go_on(killed).events == result.events


def test_a_simulation_that_is_killed_later_than_it_ends_is_not_killed() -> None:
    simulation = Simulation(climb, members(2), slots=2, stop={"training_iteration": 4})
    assert simulation.run(kill_after=10_000).events == simulation.run().events


def test_an_engine_that_takes_over_refuses_a_launch_that_would_lose_work() -> None:
    simulation = Simulation(climb, members(1), stop={"training_iteration": 4})
    killed = simulation.run(kill_after=5)
    population = simulation.population()
    recall(population, killed.journal)
    opened = Opened(simulation.limits, simulation.retention)
    engine = simulation._engine()
    engine.take_over(killed.engine, population, opened)
    (launch,) = population.apply(opened)
    assert isinstance(launch, Launch)
    with pytest.raises(BrokenContract, match="it waited at iteration 3: work is lost"):
        engine.execute(replace(launch, checkpoint=None, iteration=0, time_total_s=0.0))
    engine.execute(launch)


def test_a_recalled_population_opens_for_other_limits() -> None:
    simulation = Simulation(climb, members(5), slots=1, stop={"training_iteration": 4})
    killed = simulation.run(kill_after=8)
    population = simulation.population()
    recall(population, killed.journal)
    commands = population.apply(Opened(Limits(("0", "1", "1"), max_failures=7), RetentionRules(2)))
    assert [(command.slot, command.fresh) for command in commands if isinstance(command, Launch)] == [
        (0, True), (1, True), (2, True),
    ]  # fmt: skip
    population.validate()
