"""What the core does where something fails for good: a member, a checkpoint, the disk; and where all are to leave."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.test_population import Story

from shoal import space
from shoal.core.commands import Await, DeleteCheckpoint, Exploit, FallBack, Launch, Notice, Retry, Status, Stop, WindUp
from shoal.core.events import Config, Damaged, Drifted, Failed, Lost, Metrics, Opened, Saved, SavedCheckpoint, StopAsked
from shoal.core.limits import Limits, RetentionRules
from shoal.core.population import BARREN_AT_MOST, ORPHANED_AT_MOST
from shoal.errors import ConfigError, InvalidTransition, SpaceError
from shoal.history import History
from shoal.journal import Record
from shoal.journal.codec import decode, encode
from shoal.schedulers import FIFOScheduler, PopulationBasedTraining
from shoal.schedulers.ranking import group_key
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


def ranked(config: Config, state: int | None) -> tuple[Metrics, int]:
    """Members rank by the config's ``who``."""
    steps = (state or 0) + 1
    return {"score": 100.0 * config["who"] + steps}, steps


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("slots", [1, 8])
@pytest.mark.parametrize("members", [2, 3, 4, 8])
def test_whoever_fails_copies_another_whatever_its_own_rank(synch: bool, slots: int, members: int) -> None:
    for who in range(members):
        result = run(pbt(synch=synch, keep=["who"]), members, ranked, slots=slots, faults=once(who, 4))
        assert set(result.statuses.values()) == {Status.TERMINATED}
        copies = [exploit for exploit in result.exploits if exploit.failed is not None]
        assert {copy.trial_id for copy in copies} == {f"trial_{who:05d}"}
        assert all(copy.donor_id != copy.trial_id for copy in copies)


def test_where_the_best_has_failed_the_low_ones_copy_the_best_of_the_others() -> None:
    result = run(pbt(synch=True, keep=["who"]), 8, ranked, slots=8, faults=once(7, 2))
    first = {copy.trial_id: copy.donor_id for copy in result.exploits if copy.iteration <= 2 and copy.generation == 1}
    # Two are in each quantile: of the low ones one is the one that has failed.
    assert first.keys() == {"trial_00000", "trial_00007"}
    assert set(first.values()) <= {"trial_00005", "trial_00006"}


@pytest.mark.parametrize("synch", [False, True])
def test_nobody_goes_on_from_where_a_member_has_failed_for_good(synch: bool) -> None:
    """Only it has a checkpoint; it ends with its error, and says why nobody takes its place."""

    def saves(index: int, iteration: int) -> bool:
        return index == 0

    result = run(pbt(synch=synch), faults=once(0, 4), checkpoint_every=saves, slots=2)
    assert list(result.statuses.values()) == [Status.ERROR] + [Status.TERMINATED] * 3
    (reason,) = (stop.reason for stop in result.of_kind(Stop) if stop.status is Status.ERROR)
    assert reason == "RuntimeError: a simulated failure. It was not replaced: no other member has saved a checkpoint."
    assert not result.exploits


# ---- Waiting for a donor ---------------------------------------------------------------------------------------------


def late(first: int) -> Any:
    """Members save from an iteration on."""
    return lambda index, iteration: iteration >= first


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.parametrize("first", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("burn_in", [0, 7, 100])
def test_whoever_fails_before_anybody_has_saved_waits_for_the_first_that_does(
    synch: bool, slots: int, first: int, burn_in: int
) -> None:
    scheduler = pbt(synch=synch, burn_in_period=burn_in)
    result = run(scheduler, 5, slots=slots, faults=once(0, 1), checkpoint_every=late(first))
    assert not (burn_in == 100 and synch) or not result.exploits
    if burn_in == 100 and synch:
        assert result.statuses["trial_00000"] is Status.ERROR  # nobody ever comes to the barrier
        return
    assert set(result.statuses.values()) == {Status.TERMINATED}
    copy = result.exploits[0]
    assert (copy.trial_id, copy.generation) == ("trial_00000", 1)
    assert copy.failed == "RuntimeError: a simulated failure"
    assert result.of_kind(Await) == [Await("trial_00000", 1, "RuntimeError: a simulated failure")]


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("slots", [1, 8])
def test_whoever_waits_for_a_donor_is_given_up_when_nobody_is_left_that_could_become_one(
    synch: bool, slots: int
) -> None:
    result = run(pbt(synch=synch), faults=once(0, 1), checkpoint_every=0, slots=slots)
    assert list(result.statuses.values()) == [Status.ERROR] + [Status.TERMINATED] * 3
    (reason,) = (stop.reason for stop in result.of_kind(Stop) if stop.status is Status.ERROR)
    assert "not replaced: no other member has saved a checkpoint." in reason


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("slots", [1, 3, 8])
def test_where_all_fail_nobody_waits_for_ever(synch: bool, slots: int) -> None:
    def faults(index: int, launch: int, iteration: int) -> Fault | None:
        return Fault.RAISE if iteration == 1 + index % 3 else None

    for every in (0, 1, 2):
        result = run(pbt(synch=synch), 7, slots=slots, faults=faults, checkpoint_every=every)
        assert all(status.ended for status in result.statuses.values())


@pytest.mark.parametrize("killed", range(5, 40))
def test_whoever_waits_for_a_donor_waits_on_when_the_experiment_is_opened_again(killed: int) -> None:
    def simulation() -> Simulation:
        return Simulation(
            climb, [{"h": 0.1 * index} for index in range(5)], pbt(), slots=2, stop={"training_iteration": 9},
            faults=once(0, 1), checkpoint_every=late(4), replace_failed=True,
        )  # fmt: skip

    result = simulation().go_on(simulation().run(kill_after=killed))
    assert set(result.statuses.values()) == {Status.TERMINATED}


# ---- Why it was not replaced -----------------------------------------------------------------------------------------


def why(result: SimulationResult, index: int = 0) -> str:
    """Return what a trial's error says after its own."""
    (stop,) = (stop for stop in result.of_kind(Stop) if stop.trial_id == f"trial_{index:05d}")
    assert stop.status is Status.ERROR
    return str(stop.reason).partition(" It was not replaced: ")[2]


def test_the_error_of_a_member_that_was_not_replaced_says_why() -> None:
    def diverges(config: Config, state: int | None) -> tuple[Metrics, int]:
        return {"score": float("nan")}, (state or 0) + 1

    scheduler = pbt(keep=["who"])
    assert why(run(scheduler, 1, faults=once(0, 4))) == "there is no other member."
    alone = run(pbt(fixed=["who"]), faults=once(0, 4), slots=4)
    assert why(alone) == "no other member has the same values of fixed=['who']."
    nowhere = run(scheduler, 2, diverges, slots=2, faults=once(0, 4))
    assert why(nowhere) == "no other member is left that could be copied."


def test_where_it_is_not_said_why_the_error_stands_alone() -> None:
    for settings in ({"replace_failed": False}, {}):
        scheduler = pbt(quantile_fraction=0.0) if not settings else pbt()
        result = run(scheduler, faults=once(0, 4), **settings)
        (stop,) = (stop for stop in result.of_kind(Stop) if stop.status is Status.ERROR)
        assert stop.reason == "RuntimeError: a simulated failure"


def test_the_traceback_stays_and_ends_with_why() -> None:
    result = run(pbt(), 1, faults=once(0, 4))
    (trial,) = History.of(Record(place, 0.0, item) for place, item in enumerate(result.journal, start=1)).in_order()
    assert trial.error == "RuntimeError: a simulated failure. It was not replaced: there is no other member."
    assert trial.traceback.startswith("Traceback (simulated)")
    assert trial.traceback.endswith(f"\n\n{trial.error}\n")


# ---- Lost by no fault of its own -------------------------------------------------------------------------------------


def orphan(story: Story, trial: str = "a") -> list[Any]:
    return story.tell(Lost(trial, story[trial].launch, "the parent died", innocent=True))


@pytest.mark.parametrize("fail_fast", [False, True])
def test_a_process_that_was_lost_by_no_fault_of_its_own_is_no_failure(fail_fast: bool) -> None:
    story = Story("a", max_failures=0, fail_fast=fail_fast)
    story.report("a", save=True)
    retry, launch = orphan(story)
    assert retry == Retry("a", 0, 1, "the parent died", innocent=True)
    assert isinstance(launch, Launch)
    assert (launch.iteration, launch.fresh) == (1, True)


def test_lost_so_again_and_again_without_getting_further_it_has_failed() -> None:
    story = Story("a", max_failures=0)
    for _ in range(ORPHANED_AT_MOST):
        story.report("a")
        assert kinds(orphan(story)) == ["Retry", "Launch"]
    story.report("a")  # the same step as before: it does not get anywhere
    (stop,) = orphan(story)
    assert (stop.status, stop.reason) == (
        Status.ERROR, "the parent died, 3 times in a row before this trial got any further",
    )  # fmt: skip


def test_lost_so_now_and_then_it_goes_on() -> None:
    story = Story("a", max_failures=0)
    story.policy.boundary["a"] = 100.0
    for _ in range(4 * ORPHANED_AT_MOST):
        story.report("a", save=True)
        assert kinds(orphan(story)) == ["Retry", "Launch"]
    assert story["a"].failures == 0


def test_without_a_limit_of_failures_it_ends_all_the_same_where_nothing_is_ever_reported() -> None:
    story = Story("a", max_failures=-1)
    for _ in range(BARREN_AT_MOST + ORPHANED_AT_MOST - 1):
        assert kinds(orphan(story)) == ["Retry", "Launch"]
    (stop,) = orphan(story)
    assert stop.status is Status.ERROR


def test_what_was_written_before_there_were_innocent_losses_can_be_read() -> None:
    for item in (Lost("a", 1, "killed"), Retry("a", 1, 3, "killed")):
        kind, body = encode(item)
        assert decode(kind, body.rpartition(",")[0] + "]") == item


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
@pytest.mark.parametrize("first", [1, 5])
def test_the_lineage_of_a_synchronous_run_with_members_that_fail_depends_neither_on_slots_nor_on_timing(
    seed: int, first: int
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
            checkpoint_every=late(first),
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
    (notice,) = (notice for notice in result.notices if notice.key == "alone-by-fixed")
    assert "fixed=['who']" in notice.text
    assert "trial_00000, trial_00001, trial_00002, trial_00003. " in notice.text


def by_layers(config: Config, state: float | None) -> tuple[Metrics, float]:
    """The more layers, the better, whatever else there is."""
    level = (state or 0.0) + config["h"]
    return {"score": level + 100.0 * config["layers"]}, level


@pytest.mark.parametrize("synch", [False, True])
def test_members_of_equal_fixed_keys_are_a_population_of_their_own(synch: bool) -> None:
    configs = [{"h": (index + 0.5) / 8, "layers": index // 4} for index in range(8)]
    result = Simulation(
        by_layers, configs, pbt(synch=synch, fixed=["layers"]), slots=8, stop={"training_iteration": 20}
    ).run()
    by_group = [sum(exploit.new_config["layers"] == layers for exploit in result.exploits) for layers in (0, 1)]
    assert min(by_group) >= 2, by_group
    # Each is told apart as four alone are: one of them copies at a time.
    if synch:
        at_first = [exploit.trial_id for exploit in result.exploits if exploit.iteration == 2]
        assert at_first == ["trial_00000", "trial_00004"]


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("who", range(8))
def test_a_failed_member_copies_one_of_equal_fixed_keys_also_where_another_architecture_is_better(
    synch: bool, who: int
) -> None:
    configs = [{"h": (index + 0.5) / 8, "layers": index // 4} for index in range(8)]
    scheduler = pbt(synch=synch, fixed=["layers"])
    result = Simulation(
        by_layers, configs, scheduler, slots=8, stop={"training_iteration": 9}, faults=once(who, 5), replace_failed=True
    ).run()
    assert set(result.statuses.values()) == {Status.TERMINATED}
    assert [exploit.trial_id for exploit in result.exploits if exploit.failed]


def test_values_of_fixed_keys_are_told_apart_by_their_types_and_equal_ones_are_not() -> None:
    nan = float("nan")
    groups: list[list[Any]] = [
        [1, 1], [True, True], [1.0, 1.0], ["1", "1"], [None, None], [nan, float("nan")], [[1, 2], [1, 2]],
        [(1, 2), (1, 2)], [{"a": 1, "b": [2]}, {"b": [2], "a": 1}], [{"a": 1, "b": [2.0]}, {"b": [2.0], "a": 1}],
    ]  # fmt: skip
    keys = [[group_key({"net": {"size": value}}, ["net/size"]) for value in values] for values in groups]
    assert all(one == other for one, other in keys)
    assert len({one for one, _ in keys}) == len(groups)


def test_members_change_their_group_where_the_values_of_fixed_keys_are_replaced() -> None:
    def simulation() -> Simulation:
        configs = [{"h": (index + 0.5) / 4, "layers": index} for index in range(4)]
        return Simulation(climb, configs, pbt(synch=True, fixed=["layers"]), slots=2, stop={"training_iteration": 9})

    first = simulation().run(kill_after=20)
    assert not first.exploits
    result = simulation().go_on(first, config={"layers": 7})
    assert result.exploits
    assert {exploit.new_config["layers"] for exploit in result.exploits} == {7}


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


@pytest.mark.parametrize(("keep", "back_to"), [(1, 0), (2, 1), (3, 2), (12, 11)])
def test_the_best_that_are_kept_are_remembered_however_many_have_come_and_gone_since(keep: int, back_to: int) -> None:
    story = Story("a", max_failures=1, keep=keep, score_attribute="score")
    story.policy.boundary["a"] = 1000.0
    for step in range(40):
        story.report("a", save=True, metrics={"score": 100.0 - step})
    story.fail("a")
    back, *_ = story.tell(damaged("a", 39, 2))
    assert isinstance(back, FallBack)
    assert back.checkpoint.id == f"a/checkpoint_{back_to:06d}"
    for number in range(back_to - 1, -1, -1):
        back, *_ = story.tell(damaged("a", number + 1, story["a"].launch))
        assert back.checkpoint.id == f"a/checkpoint_{number:06d}"


@pytest.mark.parametrize("keep", [None, 2, 3])
def test_where_more_are_kept_nobody_is_advised_to_keep_more(keep: int | None) -> None:
    story = Story("a", max_failures=1, keep=keep)
    story.report("a", save=True)
    story.fail("a")
    (stop,) = story.tell(damaged("a", 0, 2))
    assert isinstance(stop, Stop)
    assert stop.reason.endswith("is damaged (its bytes differ), and there is none before it")


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
