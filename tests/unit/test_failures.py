"""What the core does where something fails for good: a member, a checkpoint, the disk; and where all are to leave."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.test_population import Story

from shoal import space
from shoal.core.commands import DeleteCheckpoint, Exploit, FallBack, Launch, Notice, Retry, Status, Stop, WindUp
from shoal.core.events import Config, Damaged, Drifted, Failed, Lost, Metrics, Opened, Saved, SavedCheckpoint, StopAsked
from shoal.core.limits import Limits, RetentionRules
from shoal.errors import ConfigError, InvalidTransition, SpaceError
from shoal.schedulers import FIFOScheduler, PopulationBasedTraining
from shoal.schedulers.replay import ReplayPolicy
from shoal.testing import Fault, Simulation, SimulationResult

# ---- Members that fail for good --------------------------------------------------------------------------------------


def pbt(**settings: Any) -> PopulationBasedTraining:
    defaults: dict[str, Any] = {
        "time_attr": "training_iteration",
        "perturbation_interval": 2,
        "hyperparam_mutations": {"h": space.uniform(0.0, 1.0)},
    }
    return PopulationBasedTraining(**(defaults | settings))


def climb(config: Config, state: int | None) -> tuple[Metrics, int]:
    steps = (state or 0) + 1
    return {"score": steps + config["h"]}, steps


def run(scheduler: Any, members: int = 4, train: Any = climb, **settings: Any) -> SimulationResult:
    configs = [{"h": 0.2 * index, "who": index} for index in range(members)]
    defaults: dict[str, Any] = {"stop": {"training_iteration": 9}, "replace_failed": True, "seed": 3}
    return Simulation(train, configs, scheduler, **(defaults | settings)).run()


def once(who: int, at: int) -> Any:
    """The first life of a member fails at a step, each time that it comes there."""

    def faults(index: int, launch: int, iteration: int) -> Fault | None:
        return Fault.RAISE if (index, iteration) == (who, at) and launch <= 3 else None

    return faults


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("slots", [1, 2, 8])
def test_a_member_that_fails_for_good_copies_another_and_the_population_keeps_its_size(synch: bool, slots: int) -> None:
    result = run(pbt(synch=synch), slots=slots, faults=once(0, 4), max_failures=1)
    assert set(result.statuses.values()) == {Status.TERMINATED}
    assert len(result.of_kind(Retry)) == 1
    (copy,) = [exploit for exploit in result.exploits if exploit.failed is not None]
    assert copy.trial_id == "trial_00000"
    assert "a simulated failure" in str(copy.failed)
    assert copy.checkpoint.trial_id == copy.donor_id != copy.trial_id
    assert result.trials["trial_00000"].iteration == 9


def test_what_failed_before_the_copy_does_not_count_after_it() -> None:
    result = run(pbt(), faults=once(0, 4), max_failures=1)
    assert result.trials["trial_00000"].failures <= 1


@pytest.mark.parametrize(
    ("scheduler", "settings"),
    [
        (pbt(quantile_fraction=0.0), {}),
        (FIFOScheduler(), {}),
        (pbt(), {"replace_failed": False}),
        (pbt(), {"checkpoint_every": 0}),
    ],
    ids=["no quantile", "FIFO", "not wanted", "no checkpoints"],
)
def test_where_nobody_can_be_copied_it_ends_with_its_error_and_the_others_go_on(
    scheduler: Any, settings: dict[str, Any]
) -> None:
    result = run(scheduler, faults=once(0, 4), **settings)
    statuses = list(result.statuses.values())
    assert statuses == [Status.ERROR] + [Status.TERMINATED] * 3
    assert not [exploit for exploit in result.exploits if exploit.failed is not None]


@pytest.mark.parametrize("synch", [False, True])
def test_a_member_that_fails_at_the_same_step_for_ever_is_given_up_after_a_few_copies(synch: bool) -> None:
    def train(config: Config, state: int | None) -> tuple[Metrics, int]:
        if (state or 0) >= 6:
            raise RuntimeError("too far")
        return climb(config, state)

    result = run(pbt(synch=synch), train=train, slots=2, stop={"training_iteration": 50}, max_failures=2)
    assert set(result.statuses.values()) == {Status.ERROR}
    assert all("too far" in stop.reason for stop in result.of_kind(Stop))
    assert len(result.reports) < 400


def test_fail_fast_goes_before_copying() -> None:
    result = run(pbt(), faults=once(0, 4), fail_fast=True, slots=4)
    assert result.statuses["trial_00000"] is Status.ERROR
    assert not [exploit for exploit in result.exploits if exploit.failed is not None]


@pytest.mark.parametrize("seed", range(12))
def test_the_lineage_of_a_synchronous_run_with_members_that_fail_depends_neither_on_slots_nor_on_timing(
    seed: int,
) -> None:
    """Which hyperparameters are too large for the function is all that decides who fails."""

    def train(config: Config, state: float | None) -> tuple[Metrics, float]:
        level = (state or 0.0) + config["h"]
        if config["h"] > 0.7 and level > 2.5:
            raise FloatingPointError("diverged")
        return {"score": level}, level

    def simulate(slots: int, uneven: bool) -> SimulationResult:
        return run(
            pbt(synch=True), 8, train, slots=slots, seed=seed, stop={"training_iteration": 14},
            duration=(lambda index, iteration, config: 0.5 + (index * 7 + iteration * 3) % 5) if uneven else 1.0,
        )  # fmt: skip

    whole = simulate(1, uneven=False)
    for slots in (1, 2, 3, 8):
        other = simulate(slots, uneven=True)
        assert other.lineage == whole.lineage
        assert other.states == whole.states


def test_there_are_such_members() -> None:
    def train(config: Config, state: float | None) -> tuple[Metrics, float]:
        if config["h"] > 0.5:
            raise FloatingPointError("diverged")
        return {"score": 1.0}, 1.0

    result = run(pbt(synch=True), 6, train, slots=2)
    assert [exploit for exploit in result.exploits if exploit.failed is not None]


def test_nothing_to_copy_in_a_replay() -> None:
    assert ReplayPolicy({}, ()).reseed("a") is None


# ---- Fixed keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("synch", [False, True])
def test_a_donor_whose_fixed_keys_differ_is_never_copied(synch: bool) -> None:
    scheduler = pbt(synch=synch, fixed=["layers", "net/width"], quantile_fraction=0.5)
    for seed in range(20):
        configs = [
            {"h": 0.1 * index, "layers": index % 2, "net": {"width": index % 3}, "kept": index} for index in range(12)
        ]
        result = Simulation(climb, configs, scheduler, slots=3, seed=seed, stop={"training_iteration": 12}).run()
        assert result.exploits
        for exploit in result.exploits:
            for config in (exploit.donor_config, exploit.new_config):
                assert config["layers"] == exploit.old_config["layers"]
                assert config["net"] == exploit.old_config["net"]


def test_nobody_fits_where_all_differ() -> None:
    result = run(pbt(fixed=["who"]), faults=once(0, 4))
    assert not result.exploits
    assert result.statuses["trial_00000"] is Status.ERROR


@pytest.mark.parametrize("fixed", ["layers", [1], [""], 3])
def test_fixed_is_a_list_of_keys(fixed: Any) -> None:
    with pytest.raises(ConfigError, match="fixed must be a list of config keys"):
        pbt(fixed=fixed)


@pytest.mark.parametrize(
    ("fixed", "mutations", "touched"),
    [("h", {"h": [1, 2]}, "h"), ("net", {"net": {"lr": [1, 2]}}, "net/lr"), ("net/a", {"net": [1, 2]}, "net")],
)
def test_a_fixed_key_cannot_mutate(fixed: str, mutations: dict[str, Any], touched: str) -> None:
    with pytest.raises(ConfigError, match=f"'{fixed}' is in fixed, but '{touched}' is in hyperparam_mutations"):
        pbt(fixed=[fixed], hyperparam_mutations=mutations)


def test_a_fixed_key_that_no_config_has_is_named() -> None:
    with pytest.raises(ConfigError, match=r"fixed names 'layer', but .* Did you mean 'layers'"):
        pbt(fixed=["layer"]).check({"layers": 3})


def test_the_value_of_a_fixed_key_is_no_object_because_that_is_another_one_after_a_restore() -> None:
    scheduler = pbt(fixed=["net"])
    assert scheduler.prepare({"h": 0.5, "net": {"sizes": [3, (4, 5)], "kind": "wide", "bias": None}}, 0, 0)
    with pytest.raises(ConfigError, match=r"'net' is in fixed, and its value must be made of numbers.*\(object\)"):
        scheduler.prepare({"h": 0.5, "net": object()}, 0, 0)


def test_a_function_that_changes_a_fixed_key_is_told() -> None:
    def explore(config: Config) -> Config:
        return {**config, "layers": config["layers"] + 1}

    scheduler = pbt(fixed=["layers"], custom_explore_fn=explore)
    with pytest.raises(SpaceError, match="custom_explore_fn has changed 'layers' from 3 to 4"):
        scheduler.rehearse({"h": 0.5, "layers": 3}, seed=0)


# ---- Damaged checkpoints ---------------------------------------------------------------------------------------------


def damaged(trial: str, number: int, launch: int) -> Damaged:
    return Damaged(trial, launch, f"{trial}/checkpoint_{number:06d}", "its bytes differ")


def kinds(commands: list[Any]) -> list[str]:
    return [type(command).__name__ for command in commands]


def test_a_member_goes_on_from_the_checkpoint_before_a_damaged_one() -> None:
    story = Story("a", max_failures=1)
    story.policy.boundary["a"] = 100.0
    for _ in range(3):
        story.report("a", save=True)
    story.report("a")
    assert kinds(story.fail("a")) == ["Retry", "Launch"]
    commands = story.tell(damaged("a", 2, 2))
    assert kinds(commands) == ["FallBack", "DeleteCheckpoint", "Launch"]
    back, _, launch = commands
    assert isinstance(back, FallBack)
    assert (back.damaged, back.checkpoint.id, back.reason) == (
        "a/checkpoint_000002", "a/checkpoint_000001", "its bytes differ",
    )  # fmt: skip
    assert isinstance(launch, Launch)
    assert (launch.checkpoint, launch.iteration, launch.next_checkpoint) == (back.checkpoint, 2, 3)
    assert story["a"].failures == 1  # that was no failure of its own


def test_where_no_checkpoint_is_whole_it_fails_for_good_and_never_begins_anew_in_silence() -> None:
    story = Story("a", max_failures=5, keep=1)
    story.policy.boundary["a"] = 100.0
    story.report("a", save=True)
    story.report("a", save=True)
    story.fail("a")
    (stop,) = story.tell(damaged("a", 1, 2))
    assert isinstance(stop, Stop)
    assert stop.status is Status.ERROR
    assert "a/checkpoint_000001" in stop.reason
    assert "its bytes differ" in stop.reason
    assert "num_to_keep=2" in stop.reason


def test_news_of_a_checkpoint_that_it_was_not_launched_from_is_a_bug() -> None:
    story = Story("a", max_failures=1)
    story.report("a", save=True)
    story.fail("a")
    with pytest.raises(InvalidTransition, match="was not launched from that checkpoint"):
        story.tell(damaged("a", 7, 2))


def test_news_of_damage_from_an_earlier_launch_is_late() -> None:
    story = Story("a", max_failures=2)
    story.report("a", save=True)
    story.fail("a")
    story.fail("a")
    assert story.tell(damaged("a", 0, 2)) == []


# ---- Leaving ---------------------------------------------------------------------------------------------------------


def test_whoever_trains_may_come_to_its_next_report_and_the_others_end_at_once() -> None:
    story = Story("abc", devices=("", ""))
    commands = story.tell(StopAsked("interrupted", gently=True))
    assert [(type(command), command.trial_id) for command in commands] == [
        (WindUp, "a"), (WindUp, "b"), (Stop, "c"),
    ]  # fmt: skip
    (stop,) = story.report("a", save=True)
    assert isinstance(stop, Stop)
    assert (stop.status, stop.reason) == (Status.TERMINATED, "interrupted")
    assert (story["a"].cut, story["a"].restore.iteration) == (True, 1)
    assert kinds(story.lose("b")) == ["Stop"]
    assert story["b"].failures == 0
    assert story.population.ended


def test_a_report_that_meets_the_stop_condition_ends_its_trial_as_finished_also_then() -> None:
    story = Story("a", save_at_end=True)
    story.tell(StopAsked("interrupted", gently=True))
    (stop,) = story.report("a", waiting=True, stop="far enough")
    assert (stop.reason, story["a"].cut) == ("far enough", False)


def test_whoever_saves_for_its_end_is_waited_for_as_long_as_for_a_report() -> None:
    story = Story("a", save_at_end=True)
    assert kinds(story.report("a", waiting=True, stop="far enough")) == ["Save"]
    assert kinds(story.tell(StopAsked("interrupted", gently=True))) == ["WindUp"]
    (stop,) = story.tell(Saved("a", 1, SavedCheckpoint(0, "digest", 1)))
    assert (stop.reason, story["a"].cut) == ("far enough", False)


@pytest.mark.parametrize("second", [StopAsked("now"), StopAsked("now", met="stop")])
def test_whoever_is_asked_to_come_to_a_report_can_still_be_ended_at_once(second: StopAsked) -> None:
    story = Story("a")
    story.tell(StopAsked("interrupted", gently=True))
    assert kinds(story.tell(second)) == ["Stop"]
    assert story.population.ended


def test_asked_a_second_time_nobody_is_told_twice() -> None:
    story = Story("a")
    story.tell(StopAsked("interrupted", gently=True))
    assert story.tell(StopAsked("interrupted", gently=True)) == []


def test_a_failure_on_the_way_out_counts_for_nobody() -> None:
    story = Story("a", max_failures=3)
    story.report("a", save=True)
    story.tell(StopAsked("interrupted", gently=True))
    assert kinds(story.fail("a")) == ["Stop"]
    assert story["a"].cut


def test_a_damaged_checkpoint_on_the_way_out_waits_for_the_next_start() -> None:
    story = Story("a", max_failures=1)
    story.report("a", save=True)
    story.fail("a")
    story.tell(StopAsked("interrupted", gently=True))
    assert kinds(story.tell(damaged("a", 0, 2))) == ["Stop"]
    assert story["a"].restore is not None


def test_whoever_was_leaving_when_the_driver_died_goes_on() -> None:
    story = Story("a")
    story.report("a", save=True)
    story.tell(StopAsked("interrupted", gently=True))
    commands = story.tell(Opened(Limits(), RetentionRules()))
    assert kinds(commands) == ["Launch"]
    assert story.population.stopping is None


# ---- No room ---------------------------------------------------------------------------------------------------------


def test_no_room_on_the_disk_is_nobodys_failure_and_all_can_go_on() -> None:
    story = Story("abc", devices=("", ""), max_failures=0)
    story.report("a", save=True)
    commands = story.tell(Failed("a", 1, "StorageError: disk full", "", no_room=True))
    assert [(type(command).__name__, command.trial_id) for command in commands] == [
        ("Stop", "a"), ("WindUp", "b"), ("Stop", "c"),
    ]  # fmt: skip
    assert "there is no room on the disk: StorageError: disk full" in commands[0].reason
    (stop,) = story.tell(Failed("b", 1, "StorageError: disk full", "", no_room=True))
    assert stop.status is Status.TERMINATED
    assert {story[name].cut for name in "abc"} == {True}
    assert {story[name].failures for name in "abc"} == {0}
    commands = story.tell(Opened(Limits(("", "")), RetentionRules(), again=("a", "b", "c")))
    assert kinds(commands) == ["Launch", "Launch"]


# ---- Notices ---------------------------------------------------------------------------------------------------------


def test_a_drifted_hyperparameter_is_told_once_for_each_key() -> None:
    story = Story("ab", devices=("", ""))
    told = [
        story.tell(Drifted(trial, 1, key, f"{key} drifted"))
        for trial, key in (("a", "lr"), ("b", "lr"), ("b", "momentum"))
    ]
    assert told == [[Notice("drift lr", "lr drifted")], [], [Notice("drift momentum", "momentum drifted")]]


# ---- What is kept ----------------------------------------------------------------------------------------------------


def test_a_donors_checkpoint_takes_the_place_of_ones_own_among_those_kept() -> None:
    result = run(pbt(quantile_fraction=0.5), 8, slots=2, num_to_keep=1, stop={"training_iteration": 30})
    assert len(result.exploits) > 15
    assert result.peak_checkpoints <= 8 + 1  # one is being added


def test_a_lost_process_of_a_member_that_waits_for_a_donor_is_no_further_failure() -> None:
    def faults(index: int, launch: int, iteration: int) -> Fault | None:
        return Fault.RAISE_AND_CRASH if (index, launch, iteration) == (0, 1, 1) else None

    result = run(pbt(synch=True), slots=4, faults=faults)
    assert [event.launch for event in result.events if isinstance(event, Lost)] == [1]
    copies = [exploit for exploit in result.exploits if exploit.failed is not None]
    assert [exploit.trial_id for exploit in copies] == ["trial_00000"]
    assert isinstance(copies[0], Exploit)
    assert set(result.statuses.values()) == {Status.TERMINATED}
    assert not [command for command in result.of_kind(DeleteCheckpoint) if command.number < 0]
