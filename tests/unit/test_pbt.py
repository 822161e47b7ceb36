"""Population Based Training: what its settings may be, and who copies whom."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from shoal import space
from shoal.core.commands import CheckpointRecord
from shoal.core.policy import Copy, Decision, Proceed
from shoal.errors import ConfigError
from shoal.schedulers import FIFOScheduler, PopulationBasedTraining
from shoal.schedulers.pbt import SECOND_CHANCES, PBTPolicy

LR = {"lr": space.uniform(0.0, 1.0)}


def pbt(**settings: Any) -> PopulationBasedTraining:
    defaults: dict[str, Any] = {
        "time_attr": "training_iteration",
        "perturbation_interval": 5,
        "hyperparam_mutations": LR,
    }
    return PopulationBasedTraining(**(defaults | settings))


def complaint(**settings: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        pbt(**settings)
    return str(raised.value)


class Members:
    """Members of one experiment, told to a policy in few words. Names are ``m0``, ``m1``, ..."""

    def __init__(self, count: int, *, mode: str = "max", seed: int = 0, **settings: Any) -> None:
        self.policy: PBTPolicy = pbt(**settings).policy(mode=mode, seed=seed)
        self.saved: Counter[str] = Counter()
        for index in range(count):
            self.policy.add(f"m{index}", index, {"lr": 0.5, "name": f"m{index}"})

    def save(self, member: int, time: float, score: float | None) -> CheckpointRecord:
        """The member reports with a checkpoint."""
        name = f"m{member}"
        number = self.saved[name]
        self.saved[name] += 1
        record = CheckpointRecord(
            f"{name}/{number}", name, number, "", 0, int(time), time, time_total_s=0.0, score=score, rank=None
        )
        self.policy.observe(name, score, record)
        return record

    def reach(self, member: int, score: float | None, time: float = 5.0, *, save: bool = True) -> list[Decision]:
        """The member waits at its boundary, by default with a checkpoint."""
        if save:
            self.save(member, time, score)
        else:
            self.policy.observe(f"m{member}", score, None)
        return self.policy.decide(f"m{member}", time, score)

    def all_reach(self, scores: list[float | None], time: float = 5.0) -> dict[str, Decision]:
        """All reach the boundary, in order; return the decision on each."""
        decisions = [decision for index, score in enumerate(scores) for decision in self.reach(index, score, time)]
        return {decision.trial_id: decision for decision in decisions}


def copies(decisions: dict[str, Decision] | list[Decision]) -> dict[str, str]:
    """Return who copies whom."""
    found = decisions.values() if isinstance(decisions, dict) else decisions
    return {decision.trial_id: decision.donor_id for decision in found if isinstance(decision, Copy)}


# ---- Settings --------------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_ray_tune() -> None:
    scheduler = PopulationBasedTraining(hyperparam_mutations=LR)
    assert (scheduler.time_attr, scheduler.metric, scheduler.mode) == ("time_total_s", None, None)
    assert (scheduler.perturbation_interval, scheduler.burn_in_period) == (60.0, 0.0)
    assert (scheduler.quantile_fraction, scheduler.resample_probability) == (0.25, 0.25)
    assert scheduler.perturbation_factors == (1.2, 0.8)
    assert (scheduler.logs_policies, scheduler.require_attrs, scheduler.synch) == (True, True, False)
    assert scheduler.needs_metric
    assert scheduler.describe() == "PopulationBasedTraining"


@pytest.mark.parametrize("mode", ["maximum", "MAX", "maxx", "", 1, True])
def test_a_misspelled_mode_names_both_modes(mode: object) -> None:
    text = complaint(mode=mode)
    assert repr(mode) in text
    assert "'max'" in text
    assert "'min'" in text


def test_a_mode_that_is_nearly_right_is_recognized() -> None:
    assert "Did you mean 'max'?" in complaint(mode="Max")
    assert "Did you mean 'min'?" in complaint(mode="minn")


@pytest.mark.parametrize(
    ("name", "values", "allowed"),
    [
        ("perturbation_interval", [0, -1, -0.5, math.nan, math.inf, "5", None, True], "greater than 0"),
        ("burn_in_period", [-5, -1e-9, math.nan, math.inf, "1", None], "0 or more"),
        ("quantile_fraction", [-0.1, 0.51, 1, 25, math.nan, "0.2", None, True], "from 0 to 0.5"),
        ("resample_probability", [-0.1, 1.1, 7, math.nan, "0.2", None], "from 0 to 1"),
    ],
)
def test_a_number_out_of_its_range_is_refused_with_what_was_given_and_what_is_allowed(
    name: str, values: list[object], allowed: str
) -> None:
    for value in values:
        text = complaint(**{name: value})
        assert name in text
        assert allowed in text
        assert f"is {value!r}" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("perturbation_interval", 1),
        ("perturbation_interval", 0.1),
        ("burn_in_period", 0),
        ("quantile_fraction", 0),
        ("quantile_fraction", 0.5),
        ("resample_probability", 0),
        ("resample_probability", 1),
        ("resample_probability", np.float64(0.5)),
        ("perturbation_factors", [2, 0.5]),
    ],
)
def test_the_ends_of_a_range_are_allowed(name: str, value: Any) -> None:
    assert getattr(pbt(**{name: value}), name) == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("factors", [(), [], (1.2,), (1.2, 0.8, 1.0), (0.0, 1.2), (-1.2, 0.8), (math.nan, 1), ("a", 1)])
def test_perturbation_factors_are_two_positive_numbers(factors: object) -> None:
    text = complaint(perturbation_factors=factors)
    assert "perturbation_factors must be two positive numbers such as (1.2, 0.8)" in text
    assert repr(factors) in text


@pytest.mark.parametrize("factors", [None, 1.2, "ab", (True, 0.8), (math.inf, 0.8)])
def test_perturbation_factors_of_another_type_are_refused(factors: object) -> None:
    assert repr(factors) in complaint(perturbation_factors=factors)


@pytest.mark.parametrize("name", ["log_config", "require_attrs", "synch", "keep_in_bounds"])
@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_flags_are_true_or_false(name: str, value: object) -> None:
    text = complaint(**{name: value})
    assert f"{name} must be True or False, but is {value!r}" in text


@pytest.mark.parametrize("name", ["time_attr", "metric"])
@pytest.mark.parametrize("value", ["", 3, ["acc"]])
def test_keys_of_reports_are_text(name: str, value: object) -> None:
    text = complaint(**{name: value})
    assert name in text
    assert repr(value) in text


@pytest.mark.parametrize("seed", [1.0, "1", True])
def test_a_seed_is_an_int(seed: object) -> None:
    assert f"seed must be an int or None, but is {seed!r}" in complaint(seed=seed)


@pytest.mark.parametrize("keep", ["seed", [1], None, 5, {"seed"}])
def test_keep_is_a_list_of_keys(keep: object) -> None:
    assert f"keep must be a list of config keys, but is {keep!r}" in complaint(keep=keep)


@pytest.mark.parametrize("function", [3, "explore", {}])
def test_custom_explore_fn_is_a_function(function: object) -> None:
    assert f"custom_explore_fn must be a function config -> config, but is {function!r}" in complaint(
        custom_explore_fn=function
    )


@pytest.mark.parametrize("mutations", [None, {}])
def test_there_must_be_something_to_mutate(mutations: object) -> None:
    text = complaint(hyperparam_mutations=mutations)
    assert "nothing to mutate" in text
    assert "custom_explore_fn" in text
    pbt(hyperparam_mutations=mutations, custom_explore_fn=dict)


@pytest.mark.parametrize("mutations", [["lr"], "lr", 3, [("lr", [1, 2])]])
def test_mutations_are_a_dict(mutations: object) -> None:
    text = complaint(hyperparam_mutations=mutations)
    assert "hyperparam_mutations" in text
    assert "dict" in text
    assert repr(mutations) in text


@pytest.mark.parametrize(("key", "value"), [("lr", []), ("lr", 3), ("lr", None), ("lr", {}), (3, [1, 2])])
def test_a_mutation_that_says_nothing_is_refused_by_its_key(key: object, value: object) -> None:
    assert repr(key) in complaint(hyperparam_mutations={key: value})


def test_an_unknown_argument_is_refused_by_its_name() -> None:
    text = complaint(perturbation_intervall=5)
    assert "'perturbation_intervall'. Did you mean 'perturbation_interval'?" in text
    assert "quantile_fraction, resample_probability" in text


def test_settings_do_not_change_with_what_they_were_given() -> None:
    mutations: dict[str, Any] = {"lr": [1, 2]}
    scheduler = pbt(hyperparam_mutations=mutations)
    mutations["other"] = [3]
    assert list(scheduler.hyperparam_mutations) == ["lr"]
    assert scheduler.mutated() == ["lr"]


def test_the_keys_that_mutate_are_told_by_their_paths() -> None:
    assert pbt(hyperparam_mutations={"a": [1], "opt": {"lr": [1], "m": {"b": [2]}}}).mutated() == [
        "a",
        "opt/lr",
        "opt/m/b",
    ]


# ---- Keys that nobody has --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mutations", "param_space", "given", "meant"),
    [
        ({"Lr": [1]}, {"lr": 1}, "Lr", "lr"),
        ({"momentun": [1]}, {"momentum": 1, "lr": 2}, "momentun", "momentum"),
        ({"opt": {"LR": [1]}}, {"opt": {"lr": 1}}, "opt/LR", "opt/lr"),
        ({"lr": [1], "learningrate": [2]}, {"lr": 1, "learning_rate": 3}, "learningrate", "learning_rate"),
    ],
)
def test_a_misspelled_mutation_names_the_key_that_was_meant(
    mutations: dict[str, Any], param_space: dict[str, Any], given: str, meant: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        pbt(hyperparam_mutations=mutations).check(param_space)
    assert repr(given) in str(raised.value)
    assert repr(meant) in str(raised.value)


@pytest.mark.parametrize(
    ("mutations", "param_space"),
    [
        ({"lr": [1]}, {"lr": 1}),
        ({"lr": [1]}, {}),
        ({"lr": [1]}, {"width": 1}),
        ({"lr": [1], "Lr": [1]}, {"lr": 1}),
        ({"opt": {"lr": [1]}}, {"opt": {"lr": 1, "LR": 2}}),
    ],
)
def test_keys_that_resemble_none_that_would_be_missed_are_fine(
    mutations: dict[str, Any], param_space: dict[str, Any]
) -> None:
    pbt(hyperparam_mutations=mutations).check(param_space)


def test_keys_that_a_config_lacks_are_filled_and_the_others_stay() -> None:
    scheduler = pbt(hyperparam_mutations={"lr": space.uniform(0.0, 1.0), "opt": {"m": [1, 2]}})
    given = {"width": 3, "opt": {"x": 1}}
    config = scheduler.prepare(given, 0, seed=1)
    assert 0.0 <= config["lr"] <= 1.0
    assert config["opt"]["m"] in (1, 2)
    assert (config["width"], config["opt"]["x"]) == (3, 1)
    assert given == {"width": 3, "opt": {"x": 1}}
    assert scheduler.prepare(given, 0, seed=1) == config
    assert scheduler.prepare(given, 1, seed=1) != config
    assert scheduler.prepare({"lr": 9.0, "opt": {"m": 7}}, 0, seed=1) == {"lr": 9.0, "opt": {"m": 7}}


# ---- When a member is ready ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("synch", [False, True])
def test_a_member_is_ready_after_each_interval(synch: bool) -> None:
    members = Members(1, synch=synch)
    assert members.policy.until("m0") == 5.0
    members.reach(0, 1.0, time=5.0)
    assert members.policy.until("m0") == 10.0


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("burn_in", [3.0, 5.0, 8.0, 100.0])
def test_nobody_is_ready_during_burn_in(synch: bool, burn_in: float) -> None:
    members = Members(1, synch=synch, burn_in_period=burn_in)
    assert members.policy.until("m0") == max(5.0, burn_in)


@pytest.mark.parametrize("synch", [False, True])
def test_progress_that_leaps_over_boundaries_does_not_make_a_member_wait_for_each(synch: bool) -> None:
    members = Members(1, synch=synch)
    members.reach(0, 1.0, time=23.0)
    until = members.policy.until("m0")
    assert until is not None
    assert 23.0 < until <= 28.0


def test_a_member_that_copies_is_ready_an_interval_after_the_checkpoint() -> None:
    members = Members(2, quantile_fraction=0.5)
    members.save(1, time=3.0, score=2.0)
    members.reach(1, 2.0, save=False)
    members.reach(0, 1.0)
    assert members.policy.until("m0") == 8.0


# ---- Who copies whom -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "fraction", "expected"),
    [
        (1, 0.5, 0),
        (2, 0.25, 1),
        (3, 0.5, 1),
        (4, 0.25, 1),
        (5, 0.25, 2),
        (8, 0.25, 2),
        (8, 0.5, 4),
        (8, 0.0, 0),
        (100, 0.07, 7),  # 100 * 0.07 is 7.000000000000001
        (50, 0.14, 7),
        (25, 0.28, 7),
    ],
)
def test_the_quantile_is_rounded_up_but_never_more_than_half(count: int, fraction: float, expected: int) -> None:
    members = Members(count, synch=True, quantile_fraction=fraction)
    found = copies(members.all_reach([float(index) for index in range(count)]))
    assert sorted(found) == sorted(f"m{index}" for index in range(expected))
    assert set(found.values()) <= {f"m{index}" for index in range(count - expected, count)}


def test_every_donor_of_the_top_quantile_is_drawn_equally_often() -> None:
    drawn: Counter[str] = Counter()
    for seed in range(600):
        members = Members(8, synch=True, seed=seed)
        drawn.update(copies(members.all_reach([float(index) for index in range(8)])).values())
    assert set(drawn) == {"m6", "m7"}
    assert abs(drawn["m6"] - drawn["m7"]) < 150  # 4 standard deviations of 1,200 fair draws are 139


def test_each_member_draws_a_donor_of_its_own() -> None:
    found = copies(Members(100, synch=True).all_reach([float(index) for index in range(100)]))
    assert len(found) == 25
    assert len(set(found.values())) > 10


def test_the_smallest_score_is_best_in_mode_min() -> None:
    assert copies(Members(4, mode="min", synch=True).all_reach([1.0, 2.0, 3.0, 4.0])) == {"m3": "m0"}


def test_without_a_barrier_a_member_is_compared_with_the_last_scores_of_the_others() -> None:
    members = Members(4)
    assert members.reach(0, 10.0) == [Proceed("m0")], "nobody to compare with"
    assert copies(members.reach(1, 5.0)) == {"m1": "m0"}
    assert members.reach(2, 7.0) == [Proceed("m2")], "m1 is lower"
    assert copies(members.reach(3, 6.0, time=5.0)) == {}
    assert copies(members.reach(2, 4.0, time=10.0)) == {"m2": "m0"}


def test_the_donor_hands_over_checkpoint_and_config_of_the_same_step() -> None:
    members = Members(2)
    early = members.save(1, 3.0, score=9.0)
    members.reach(1, 8.0, save=False)
    (decision,) = members.reach(0, 1.0)
    assert isinstance(decision, Copy)
    assert decision.checkpoint == early
    assert decision.checkpoint.score == 9.0
    assert decision.donor_config["name"] == "m1"
    assert decision.new_config["name"] == "m1"
    assert decision.new_config["lr"] != 0.5


def test_a_donor_counts_with_the_score_of_its_checkpoint_not_of_its_last_report() -> None:
    members = Members(2)
    members.save(1, 3.0, score=1.0)
    members.reach(1, 100.0, save=False)
    assert members.reach(0, 50.0) == [Proceed("m0")], "the weights that could be copied are worse than its own"


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_score_that_is_not_finite_ranks_last_and_is_never_a_donor(
    synch: bool, score: float | None, mode: str
) -> None:
    members = Members(4, synch=synch, mode=mode)
    assert copies(members.all_reach([1.0, 1.0, 1.0, score])).keys() == {"m3"}
    nobody = Members(4, synch=synch, mode=mode)
    assert copies(nobody.all_reach([score] * 4)) == {}


def test_who_has_copied_is_no_donor_before_it_saves_again() -> None:
    members = Members(2)
    members.reach(0, 10.0)
    assert copies(members.reach(1, 5.0)) == {"m1": "m0"}
    assert members.reach(0, 1.0, time=10.0) == [Proceed("m0")], "m1 has no checkpoint of its own weights yet"
    members.save(1, 9.0, score=7.0)
    assert copies(members.reach(0, 1.0, time=15.0)) == {"m0": "m1"}


def test_the_config_of_a_member_that_has_copied_is_the_new_one() -> None:
    members = Members(2)
    members.reach(0, 10.0)
    (first,) = members.reach(1, 5.0)
    assert isinstance(first, Copy)
    members.save(1, 9.0, score=70.0)
    (second,) = members.reach(0, 1.0, time=15.0)
    assert isinstance(second, Copy)
    assert second.donor_config == first.new_config


def test_the_same_checkpoint_is_copied_again_only_a_few_times() -> None:
    members = Members(2)
    members.reach(1, 10.0)
    assert copies(members.reach(0, 1.0)) == {"m0": "m1"}
    for _ in range(SECOND_CHANCES):
        assert copies(members.reach(0, 1.0, time=10.0)) == {"m0": "m1"}
    assert members.reach(0, 1.0, time=10.0) == [Proceed("m0")]
    members.save(1, 6.0, score=10.0)
    assert copies(members.reach(0, 1.0, time=15.0)) == {"m0": "m1"}


def test_who_has_ended_is_neither_compared_nor_copied() -> None:
    members = Members(3)
    members.reach(1, 9.0)
    members.reach(0, 10.0)
    members.policy.gone("m0")
    assert members.policy.settle() == []
    assert copies(members.reach(2, 5.0)) == {"m2": "m1"}
    members.policy.gone("m1")
    assert members.reach(2, 1.0, time=10.0) == [Proceed("m2")], "it is alone now"


@pytest.mark.parametrize("synch", [False, True])
def test_ties_are_broken_by_the_seed_alone(synch: bool) -> None:
    def story(seed: int) -> dict[str, str]:
        return copies(Members(8, synch=synch, seed=seed).all_reach([1.0] * 8))

    assert story(1) == story(1)
    assert len({tuple(story(seed).items()) for seed in range(20)}) > 10
    assert all(target != donor for seed in range(20) for target, donor in story(seed).items())


def test_the_schedulers_own_seed_goes_before_the_experiments() -> None:
    assert [pbt(seed=7).policy(mode="max", seed=seed).seed for seed in (1, 2)] == [7, 7]
    assert pbt().policy(mode="max", seed=1).seed == 1


# ---- The barrier -----------------------------------------------------------------------------------------------------


def test_nobody_is_decided_on_before_the_last_has_arrived_and_then_everybody_is() -> None:
    members = Members(4, synch=True)
    for index in range(3):
        assert members.reach(index, float(index)) == []
    decisions = members.reach(3, 3.0)
    assert [decision.trial_id for decision in decisions] == ["m0", "m1", "m2", "m3"]
    assert copies(decisions) == {"m0": "m3"}


def test_the_order_of_arrival_changes_nothing() -> None:
    outcomes = set[str]()
    for order in range(10):
        members = Members(8, synch=True)
        indices = list(range(8))
        random.Random(order).shuffle(indices)
        decisions = [decision for index in indices for decision in members.reach(index, float(index % 3))]
        outcomes.add(repr(decisions))
    assert len(outcomes) == 1


def test_the_end_of_the_last_one_missing_decides_for_the_others() -> None:
    members = Members(3, synch=True)
    members.reach(0, 1.0)
    members.reach(1, 2.0)
    members.policy.gone("m2")
    assert copies(members.policy.settle()) == {"m0": "m1"}


def test_the_end_of_one_that_had_arrived_is_waited_for_no_longer() -> None:
    members = Members(3, synch=True)
    members.reach(0, 1.0)
    members.policy.gone("m0")
    assert members.policy.settle() == []
    members.reach(1, 2.0)
    assert copies(members.reach(2, 3.0)) == {"m1": "m2"}


def test_the_end_of_the_last_of_all_decides_nothing() -> None:
    members = Members(1, synch=True)
    members.policy.gone("m0")
    assert members.policy.settle() == []


def test_one_that_goes_back_is_waited_for_again() -> None:
    members = Members(2, synch=True)
    members.reach(0, 1.0)
    members.policy.withdraw("m0")
    assert members.reach(1, 2.0) == []
    assert copies(members.reach(0, 1.5)) == {"m0": "m1"}


def test_all_donors_are_as_they_were_at_the_barrier() -> None:
    # With half the members low, a donor that copied in the same round would be among the low ones.
    for seed in range(20):
        members = Members(9, synch=True, quantile_fraction=0.5, seed=seed)
        found = copies(members.all_reach([1.0] * 9))
        assert len(found) == 4
        assert not set(found) & set(found.values())


# ---- Configs ---------------------------------------------------------------------------------------------------------


def explored(own: dict[str, Any], donor: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return pbt(**settings).explored(donor, own, index=0, generation=1, seed=0)


def test_keys_that_stay_with_the_member_are_not_copied() -> None:
    own = {"lr": 0.1, "seed": 1, "random_seed": 2, "id": 3, "opt": {"x": 4, "y": 5}}
    donor = {"lr": 0.2, "seed": 10, "random_seed": 20, "id": 30, "opt": {"x": 40, "y": 50}}
    config = explored(own, donor)
    assert (config["seed"], config["random_seed"], config["id"], config["opt"]) == (1, 2, 30, {"x": 40, "y": 50})
    config = explored(own, donor, keep=["id", "opt/y", "missing", "lr/no", "opt/no"])
    assert (config["seed"], config["id"], config["opt"]) == (10, 3, {"x": 40, "y": 5})
    assert donor["opt"] == {"x": 40, "y": 50}, "what was given stays as it was"
    assert own["opt"] == {"x": 4, "y": 5}


def test_perturbed_values_stay_in_bounds_unless_told_otherwise() -> None:
    always_up: dict[str, Any] = {"resample_probability": 0.0, "perturbation_factors": (1.2, 1.2)}
    assert explored({}, {"lr": 0.9}, **always_up)["lr"] == 1.0
    assert explored({}, {"lr": 0.9}, keep_in_bounds=False, **always_up)["lr"] == pytest.approx(1.08)


def test_the_custom_function_comes_last_and_cannot_change_the_donors_config() -> None:
    def custom(config: dict[str, Any]) -> dict[str, Any]:
        config["opt"]["x"] = -1
        config["lr"] = "seen " + str(config["lr"] != 0.5)
        return config

    donor = {"lr": 0.5, "opt": {"x": 1}}
    assert explored({}, donor, custom_explore_fn=custom) == {"lr": "seen True", "opt": {"x": -1}}
    assert donor == {"lr": 0.5, "opt": {"x": 1}}


def test_each_generation_of_each_member_explores_by_a_stream_of_its_own() -> None:
    scheduler = pbt(resample_probability=1.0)
    drawn = {
        scheduler.explored({"lr": 0.5}, {}, index, generation, seed)["lr"]
        for index in range(3)
        for generation in range(3)
        for seed in range(3)
    }
    assert len(drawn) == 27


# ---- Being told ------------------------------------------------------------------------------------------------------


def test_an_exploit_without_any_checkpoint_is_noticed() -> None:
    members = Members(2)
    members.reach(0, 2.0, save=False)
    assert members.policy.notice() is None
    assert members.reach(1, 1.0, save=False) == [Proceed("m1")]
    notice = members.policy.notice()
    assert notice is not None
    assert notice[0] == "no-checkpoint"
    assert "tune.get_checkpoint()" in notice[1]
    assert members.policy.notice() is None


@pytest.mark.parametrize(("count", "fraction"), [(1, 0.25), (4, 0.0)])
def test_where_nobody_would_copy_no_checkpoint_is_missed(count: int, fraction: float) -> None:
    members = Members(count, quantile_fraction=fraction)
    for index in range(count):
        members.reach(index, 1.0, save=False)
        assert (members.policy.notice() or ("",))[0] != "no-checkpoint"


def test_pbt_with_one_member_says_once_that_it_is_alone() -> None:
    members = Members(1)
    members.reach(0, 1.0)
    key, text = members.policy.notice() or ("", "")
    assert key == "alone"
    assert "num_samples" in text
    assert members.policy.notice() is None


# ---- FIFO ------------------------------------------------------------------------------------------------------------


def test_fifo_lets_everybody_run_to_the_end() -> None:
    scheduler = FIFOScheduler()
    policy = scheduler.policy(mode="max", seed=0)
    policy.add("a", 0, {})
    assert policy.until("a") is None
    assert policy.decide("a", 1.0, 1.0) == [Proceed("a")]
    policy.gone("a")
    assert policy.settle() == []
    assert policy.notice() is None
    assert scheduler.describe() == "FIFO"
    assert scheduler.prepare({"x": 1}, 0, 0) == {"x": 1}
    assert not scheduler.needs_metric


def test_a_member_that_reached_its_stop_condition_can_still_be_copied() -> None:
    members = Members(3)
    members.reach(0, 1.0)
    members.reach(1, 2.0)
    members.policy.gone("m1", donates=True)
    assert copies(members.reach(2, 0.5)) == {"m2": "m1"}


def test_a_member_that_ended_otherwise_is_never_copied() -> None:
    members = Members(3)
    members.reach(0, 1.0)
    members.reach(1, 2.0)
    members.policy.gone("m1")
    assert copies(members.reach(2, 0.5)) == {"m2": "m0"}
