"""Thousands of seeded experiments, with every promise checked after each event, and a few chosen ones told in full."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from tests.simulation.scenarios import Scenario, drawn_scenario

from shoal import space
from shoal.core.commands import Continue, Evict, Exploit, Launch, Park, Retry, Status, Stop
from shoal.core.events import Config, Failed, Finished, Lost, Reported, StopAsked
from shoal.schedulers import PopulationBasedTraining
from shoal.schedulers.pbt import SECOND_CHANCES
from shoal.testing import BrokenContract, Fault, Faults, Simulation, SimulationResult


def climb(config: Config, state: float | None) -> tuple[dict[str, Any], float]:
    """The score grows by ``h`` with each step."""
    level = (state or 0.0) + config["h"]
    return {"score": level}, level


def pbt(**settings: Any) -> PopulationBasedTraining:
    """PBT on iterations, every 2 of them."""
    defaults: dict[str, Any] = {
        "time_attr": "training_iteration",
        "perturbation_interval": 2,
        "hyperparam_mutations": {"h": space.uniform(0.0, 1.0)},
    }
    return PopulationBasedTraining(**(defaults | settings))


def members(count: int) -> list[Config]:
    """Return configs whose members rank by their index."""
    return [{"h": (index + 1) / (count + 1)} for index in range(count)]


def at_iteration(*faults: tuple[Fault, int, int, int]) -> Faults:
    """Return faults that strike as told: (fault, index of the trial, launch, iteration)."""
    told = {(index, launch, iteration): fault for fault, index, launch, iteration in faults}
    return lambda index, launch, iteration: told.get((index, launch, iteration))


def order_of(result: SimulationResult) -> list[tuple[str, int]]:
    """Return who reported which iteration, in order."""
    return [(report.trial_id[-1], report.iteration) for report in result.reports]


# --------------------------------------------------------------------------------------------------- random experiments


@pytest.mark.parametrize("block", range(20))
def test_every_promise_holds_after_each_event_of_small_experiments(block: int) -> None:
    for seed in range(block * 150, block * 150 + 150):
        drawn_scenario(seed, largest=12).run()


@pytest.mark.parametrize("block", range(10))
def test_every_promise_holds_after_each_event_of_larger_experiments(block: int) -> None:
    for seed in range(50_000 + block * 20, 50_000 + block * 20 + 20):
        drawn_scenario(seed, largest=60).run()


@pytest.mark.parametrize("slots", [1, 32])
@pytest.mark.parametrize("synch", [False, True])
def test_every_promise_holds_after_each_event_with_300_members(slots: int, synch: bool) -> None:
    faults = tuple((fault, 0.005) for fault in Fault if fault not in (Fault.RETURN, Fault.DAMAGE))
    scenario = Scenario(
        seed=slots, members=300, slots=slots, residents=slots + 5, synch=synch, interval=2.0, length=7, not_finite=0.05,
        num_to_keep=1, max_failures=-1, faults=faults, hands_on=True,
    )  # fmt: skip
    result = scenario.run()
    assert len(result.exploits) > 50


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("burn_in", [0.0, 5.0, 100.0])
@pytest.mark.parametrize("slots", [1, 5])
@pytest.mark.parametrize("fault", [None, *Fault])
@pytest.mark.parametrize("replace_failed", [False, True])
def test_nobody_waits_for_ever(
    synch: bool, burn_in: float, slots: int, fault: Fault | None, replace_failed: bool
) -> None:
    """Also where members return at different steps, with more members than slots, and killed at the barrier."""
    for max_failures in (0, 2, -1):
        for returns in (True, False):
            scenario = Scenario(
                seed=slots, members=8, slots=slots, synch=synch, burn_in=burn_in, returns=returns,
                max_failures=max_failures, replace_failed=replace_failed,
                faults=() if fault is None else ((fault, 0.1),),
            )  # fmt: skip
            for hands_on in (False, True):
                result = replace(scenario, hands_on=hands_on).run()
                assert all(status.ended for status in result.statuses.values())


@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize("checkpoint_every", [1, 5])
def test_a_population_whose_scores_get_worse_with_time_comes_to_its_end(slots: int, checkpoint_every: int) -> None:
    # Whoever is behind looks better, so members that are ahead copy those behind.
    scenario = Scenario(seed=3, members=8, slots=slots, interval=1.0, length=40, landscape="worsens")
    result = replace(scenario, checkpoint_every=checkpoint_every).run()
    assert len(result.reports) < 3 * 8 * 40


def test_a_lucky_checkpoint_is_not_copied_over_and_over() -> None:
    def lucky(config: Config, state: tuple[int, bool] | None) -> tuple[dict[str, Any], tuple[int, bool]]:
        # Member 1 is lucky once; nobody who goes on from there ever is again.
        steps, was_lucky = state or (0, False)
        lucky_now = config["seed"] == 1 and steps == 1
        return {"score": float(lucky_now)}, (steps + 1, was_lucky or lucky_now)

    configs = [{"h": 0.5, "seed": index} for index in range(2)]
    result = Simulation(lucky, configs, pbt(), stop={"training_iteration": 30}, max_events=500).run()
    copied = [(exploit.trial_id, exploit.checkpoint.id) for exploit in result.exploits]
    assert copied
    assert max(Counter(copied).values()) <= 1 + SECOND_CHANCES


# ------------------------------------------------------------------------------------------------------- same decisions


@pytest.mark.parametrize("block", range(4))
def test_the_same_seed_gives_the_same_story(block: int) -> None:
    for seed in range(60_000 + block * 25, 60_000 + block * 25 + 25):
        scenario = drawn_scenario(seed, largest=12)
        # repr, because NaN is not equal to itself.
        first, second = (scenario.simulation(validate=False).run() for _ in range(2))
        assert repr(first.events) == repr(second.events)
        assert repr(first.commands) == repr(second.commands)


@pytest.mark.parametrize("block", range(4))
def test_a_fresh_population_answers_the_same_to_the_same_events(block: int) -> None:
    for seed in range(70_000 + block * 50, 70_000 + block * 50 + 50):
        simulation = drawn_scenario(seed, largest=12).simulation(validate=False)
        result = simulation.run()
        assert repr(simulation.replay(result.events)) == repr(result.commands)


def test_another_seed_gives_another_lineage() -> None:
    first, second = (Scenario(seed=1, members=8, synch=True).simulation() for _ in range(2))
    second.seed = 2
    assert first.run().lineage != second.run().lineage


@pytest.mark.parametrize("landscape", ["improves", "noise", "ties", "constant", "worsens"])
@pytest.mark.parametrize("checkpoint_every", [1, 2, 4])
@pytest.mark.parametrize("returns", [False, True])
def test_the_lineage_of_a_synchronous_run_depends_neither_on_slots_nor_on_timing(
    landscape: str, checkpoint_every: int, returns: bool
) -> None:
    base = Scenario(
        seed=11, members=12, synch=True, landscape=landscape, checkpoint_every=checkpoint_every, returns=returns,
        not_finite=0.1, length=15,
    )  # fmt: skip
    expected = replace(base, slots=12, uneven=False).run()
    assert expected.exploits
    variants: list[dict[str, Any]] = [
        {"slots": 1},
        {"slots": 2},
        {"slots": 8, "start_time": 7.0},
        {"slots": 32},
        {"slots": 3, "residents": 3},
        {"slots": 4, "devices": ("0", "1", "1", "2")},
        {"slots": 2, "num_to_keep": 1},
    ]
    for changes in variants:
        result = replace(base, **changes).run()
        assert result.lineage == expected.lineage, changes
        assert result.states == expected.states, changes


def test_the_lineage_of_a_synchronous_run_survives_crashes_of_members_that_saved_at_the_barrier() -> None:
    base = Scenario(seed=4, members=10, slots=3, synch=True, interval=3.0, checkpoint_every=1, length=13, num_to_keep=1)
    faults = tuple((fault, 0.03) for fault in Fault if fault not in (Fault.RETURN, Fault.DAMAGE))
    crashed = replace(base, max_failures=-1, faults=faults).run()
    assert crashed.of_kind(Retry)
    assert [entry[:4] for entry in crashed.lineage] == [entry[:4] for entry in base.run().lineage]


# ----------------------------------------------------------------------------------------------------- slots, processes


def test_whoever_has_trained_least_gets_the_slot() -> None:
    result = Simulation(climb, members(3), pbt(quantile_fraction=0), stop={"training_iteration": 4}).run()
    assert order_of(result) == [
        ("0", 1), ("0", 2), ("1", 1), ("1", 2), ("2", 1), ("2", 2),
        ("2", 3), ("2", 4), ("0", 3), ("0", 4), ("1", 3), ("1", 4),
    ]  # fmt: skip


def test_parking_costs_no_launch_and_no_checkpoint() -> None:
    result = Simulation(
        climb, members(6), pbt(quantile_fraction=0), slots=2, stop={"training_iteration": 10}, checkpoint_every=0
    ).run()
    assert len(result.of_kind(Launch)) == 6
    assert result.of_kind(Park)
    assert result.elapsed_s == 30.0, "two slots, busy all the time"


def test_no_slot_is_idle_while_somebody_waits_for_one() -> None:
    result = Simulation(climb, members(20), pbt(), slots=5, stop={"training_iteration": 20}).run()
    assert result.busy_s / (5 * result.elapsed_s) > 0.9


def test_members_leave_through_a_checkpoint_where_memory_allows_fewer_processes() -> None:
    result = Simulation(
        climb, members(10), pbt(synch=True), slots=2, residents=3, stop={"training_iteration": 10}, num_to_keep=1
    ).run()
    assert result.of_kind(Evict)
    assert result.peak_processes == 3


def test_members_that_would_lose_work_keep_their_process_and_the_user_is_told_once() -> None:
    result = Simulation(
        climb, members(10), pbt(), slots=2, residents=3, stop={"training_iteration": 10}, checkpoint_every=0
    ).run()
    assert [notice.key for notice in result.notices].count("residents") == 1
    assert "checkpoint" in result.notices[0].text
    assert {trial.iteration for trial in result.trials.values()} == {10}
    assert not result.of_kind(Evict)


def test_a_process_never_changes_its_device() -> None:
    result = Simulation(
        climb, members(9), pbt(), devices=["0", "0", "1", "2"], stop={"training_iteration": 12}, num_to_keep=1
    ).run()  # The engine raises where a process is launched on another device.
    assert {trial.status for trial in result.trials.values()} == {Status.TERMINATED}


# ---------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("slots", [1, 3, 8])
def test_keeping_one_checkpoint_a_member_never_deletes_one_that_is_needed(synch: bool, slots: int) -> None:
    result = Scenario(
        seed=9, members=8, slots=slots, residents=slots, synch=synch, interval=1.0, length=600, num_to_keep=1
    ).run()
    assert len(result.exploits) > 1000
    # Proven bound: each member keeps one and may go on from a donor's older one; one more is just being saved.
    assert result.peak_checkpoints <= 2 * 8 + 1
    assert len(result.checkpoints) <= 2 * 8


@pytest.mark.parametrize("kept", [1, 2, 5])
def test_the_number_of_checkpoints_is_bounded(kept: int) -> None:
    for attribute, extra in ((None, 1), ("score", 2)):
        result = Scenario(
            seed=2, members=6, slots=2, interval=1.0, length=60, num_to_keep=kept, score_attribute=attribute
        ).run()
        assert result.peak_checkpoints <= 6 * (kept + extra) + 1


def test_without_a_limit_all_checkpoints_stay() -> None:
    result = Simulation(climb, members(4), pbt(), slots=2, stop={"training_iteration": 10}).run()
    assert len(result.checkpoints) == sum(report.checkpoint is not None for report in result.reports)


def test_who_never_saves_is_never_copied_and_the_user_is_told_once_what_to_do() -> None:
    result = Simulation(climb, members(4), pbt(), slots=4, stop={"training_iteration": 20}, checkpoint_every=0).run()
    assert not result.exploits
    assert [notice.key for notice in result.notices] == ["no-checkpoint"]
    assert "tune.report(metrics, checkpoint=" in result.notices[0].text


# ------------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("max_failures", [0, 1, 3])
def test_a_member_is_launched_again_as_often_as_allowed(max_failures: int) -> None:
    def always(index: int, launch: int, iteration: int) -> Fault | None:
        return Fault.RAISE if index == 0 and iteration == 3 else None

    result = Simulation(
        climb, members(3), slots=3, stop={"training_iteration": 5}, faults=always, max_failures=max_failures
    ).run()
    assert len(result.of_kind(Retry)) == max_failures
    assert [retry.iteration for retry in result.of_kind(Retry)] == [2] * max_failures
    assert list(result.statuses.values()) == [Status.ERROR, Status.TERMINATED, Status.TERMINATED]


def test_a_failure_for_good_ends_everything_where_fail_fast_says_so() -> None:
    faults = at_iteration((Fault.RAISE, 1, 1, 2))
    result = Simulation(
        climb, members(3), slots=3, stop={"training_iteration": 50}, faults=faults, fail_fast=True
    ).run()
    assert list(result.statuses.values()) == [Status.TERMINATED, Status.ERROR, Status.TERMINATED]
    assert len(result.reports) < 10


def test_when_asked_to_stop_everybody_stops_once_and_nothing_starts_again() -> None:
    result = Simulation(climb, members(6), pbt(), slots=2, stop={"training_iteration": 50}, stop_asked_at=20.5).run()
    stops = result.of_kind(Stop)
    assert sorted(stop.trial_id for stop in stops) == sorted(result.trials)
    assert {stop.reason for stop in stops} == {"the time budget is spent"}
    assert result.elapsed_s == 20.5


def test_a_trial_that_is_added_after_the_end_was_asked_for_ends_at_once() -> None:
    simulation = Simulation(climb, members(2), stop={"training_iteration": 1})
    first, second, *_ = simulation.run().events
    *_, commands = simulation.replay([first, StopAsked("interrupted"), second])
    assert commands == [Stop("trial_00001", 0, Status.TERMINATED, "interrupted")]


def test_a_late_report_of_an_earlier_launch_changes_nothing() -> None:
    faults = at_iteration((Fault.LATE_REPORT, 0, 1, 3), (Fault.LATE_REPORT, 1, 1, 4))
    simulation = Simulation(
        climb, members(2), pbt(), slots=2, stop={"training_iteration": 6}, faults=faults, max_failures=1
    )
    result = simulation.run()
    late = [
        commands
        for event, commands in zip(result.events, result.commands, strict=True)
        if isinstance(event, Reported) and event.launch == 1 and event.iteration >= 3
        and (event.trial_id, event.iteration) in {("trial_00000", 3), ("trial_00001", 4)}
    ]  # fmt: skip
    assert late == [[], []]
    assert {trial.iteration for trial in result.trials.values()} == {6}


# ---------------------------------------------------------------------------------------------------------- the barrier


def passes(result: SimulationResult, trial_id: str) -> int:
    """Return the number of the first event after which the trial goes on from its barrier at iteration 2."""
    reached = next(
        number for number, event in enumerate(result.events)
        if isinstance(event, Reported) and event.trial_id == trial_id and event.iteration == 2
    )  # fmt: skip
    return next(
        number for number, commands in enumerate(result.commands[reached:], reached)
        if any(isinstance(command, Continue | Launch) and command.trial_id == trial_id for command in commands)
    )  # fmt: skip


def test_nobody_passes_the_barrier_before_the_last_has_arrived() -> None:
    result = Simulation(
        climb, members(4), pbt(synch=True), slots=4, stop={"training_iteration": 4},
        duration=lambda index, iteration, config: 1.0 + 10.0 * (index == 2),
    ).run()  # fmt: skip
    last = next(
        number for number, event in enumerate(result.events)
        if isinstance(event, Reported) and event.trial_id == "trial_00002" and event.iteration == 2
    )  # fmt: skip
    assert {passes(result, trial_id) for trial_id in result.trials} == {last}


@pytest.mark.parametrize("fault", [Fault.CRASH, Fault.RAISE, Fault.RETURN])
def test_the_barrier_opens_when_the_last_one_that_the_others_wait_for_ends(fault: Fault) -> None:
    result = Simulation(
        climb, members(4), pbt(synch=True), slots=4, stop={"training_iteration": 4},
        faults=at_iteration((fault, 2, 1, 2)), duration=lambda index, *_: 1.0 + 10.0 * (index == 2),
    ).run()  # fmt: skip
    end = next(number for number, event in enumerate(result.events) if isinstance(event, Finished | Lost | Failed))
    assert {passes(result, f"trial_0000{index}") for index in (0, 1, 3)} == {end}


def test_who_dies_at_the_barrier_with_work_unsaved_is_waited_for() -> None:
    result = Simulation(
        climb, members(3), pbt(synch=True), slots=3, stop={"training_iteration": 4}, max_failures=1, checkpoint_every=0,
        faults=at_iteration((Fault.CRASH_PARKED, 0, 1, 2)), duration=lambda index, *_: 1.0 + 10.0 * (index == 2),
    ).run()  # fmt: skip
    (retry,) = result.of_kind(Retry)
    assert (retry.trial_id, retry.iteration) == ("trial_00000", 0)
    assert [iteration for trial, iteration in order_of(result) if trial == "0"] == [1, 2, 1, 2, 3, 4]
    assert {trial.iteration for trial in result.trials.values()} == {4}


def test_who_dies_at_the_barrier_with_all_saved_has_not_failed() -> None:
    result = Simulation(
        climb, members(3), pbt(synch=True), slots=3, stop={"training_iteration": 4}, max_failures=0,
        faults=at_iteration((Fault.CRASH_PARKED, 0, 1, 2)), duration=lambda index, *_: 1.0 + 10.0 * (index == 2),
    ).run()  # fmt: skip
    assert any(isinstance(event, Lost) for event in result.events)
    assert set(result.statuses.values()) == {Status.TERMINATED}
    assert [iteration for trial, iteration in order_of(result) if trial == "0"] == [1, 2, 3, 4]


def test_a_time_attr_that_leaps_over_several_boundaries_does_not_stop_at_each() -> None:
    def leap(config: Config, state: int | None) -> tuple[dict[str, Any], int]:
        frames = (state or 0) + 1000
        return {"score": config["h"], "frames": frames}, frames

    for synch in (False, True):
        result = Simulation(
            leap,
            members(3),
            pbt(time_attr="frames", perturbation_interval=10, synch=synch, quantile_fraction=0),
            slots=3,
            stop={"frames": 5000},
        ).run()
        assert [trial.iteration for trial in result.trials.values()] == [5, 5, 5]
        assert len(result.of_kind(Continue)) == 3 * 4


# ------------------------------------------------------------------------------------------------------ strange metrics


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("worst", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_member_whose_score_is_not_finite_copies_and_is_never_copied(synch: bool, worst: float, mode: str) -> None:
    def train(config: Config, state: int | None) -> tuple[dict[str, Any], int]:
        return {"score": worst if config["seed"] == 2 else 1.0}, (state or 0) + 1

    configs = [{"h": 0.5, "seed": index} for index in range(4)]
    result = Simulation(train, configs, pbt(synch=synch), mode=mode, slots=4, stop={"training_iteration": 12}).run()
    assert {exploit.trial_id for exploit in result.exploits} == {"trial_00002"}


def test_where_all_scores_are_not_finite_nobody_copies() -> None:
    result = Simulation(
        lambda config, state: ({"score": math.nan}, None), members(6), pbt(), slots=2, stop={"training_iteration": 8}
    ).run()
    assert not result.exploits
    assert set(result.statuses.values()) == {Status.TERMINATED}


def test_an_automatic_value_may_be_the_metric() -> None:
    for metric, mode in (("training_iteration", "max"), ("time_total_s", "min")):
        result = Simulation(
            climb, members(4), pbt(metric=metric, mode=mode), slots=2, stop={"training_iteration": 6}
        ).run()
        assert all(trial.score is not None and trial.score >= 6 for trial in result.trials.values())


def test_checkpoints_can_be_kept_by_an_automatic_value() -> None:
    result = Simulation(
        climb, members(1), stop={"training_iteration": 6}, num_to_keep=2, score_attribute="training_iteration",
        score_order="min",
    ).run()  # fmt: skip
    assert result.checkpoints == {f"trial_00000/checkpoint_{number:06d}" for number in (0, 1, 5)}


@pytest.mark.parametrize(("members_", "quantile"), [(1, 0.5), (4, 0.0), (8, 0.0)])
def test_nobody_copies_alone_or_without_a_quantile(members_: int, quantile: float) -> None:
    for synch in (False, True):
        scheduler = pbt(quantile_fraction=quantile, synch=synch)
        result = Simulation(climb, members(members_), scheduler, slots=2, stop={"training_iteration": 20}).run()
        assert not result.exploits


def test_the_experiment_never_ends_where_nothing_ends_it_and_the_simulation_says_so() -> None:
    with pytest.raises(BrokenContract, match="no end after 500 events"):
        Simulation(climb, members(2), pbt(), max_events=500).run()


def test_an_exploit_brings_the_weights_of_the_donors_checkpoint_and_its_config_mutated() -> None:
    result = Simulation(climb, members(4), pbt(synch=True), slots=4, stop={"training_iteration": 4}).run()
    (exploit,) = [command for command in result.exploits if command.iteration == 2]
    launch = next(
        command for command in result.of_kind(Launch) if (command.trial_id, command.launch) == (exploit.trial_id, 2)
    )
    assert isinstance(exploit, Exploit)
    assert (exploit.trial_id, exploit.donor_id) == ("trial_00000", "trial_00003")
    assert exploit.donor_config == {"h": 0.8}
    assert launch.checkpoint == exploit.checkpoint
    assert launch.config == exploit.new_config
    first = next(report for report in result.reports if (report.trial_id, report.launch) == (exploit.trial_id, 2))
    assert first.metrics["score"] == pytest.approx(2 * 0.8 + exploit.new_config["h"])
