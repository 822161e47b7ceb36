"""Stoppers: when each of them ends a trial or the experiment, and what exploits, repetitions and NaN do to that."""

from __future__ import annotations

import datetime
import math
import pickle
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shoal import stoppers as ours
from shoal.errors import ConfigError
from shoal.stoppers import (
    CombinedStopper,
    ExperimentPlateauStopper,
    FunctionStopper,
    MaximumIterationStopper,
    NoopStopper,
    Stopper,
    TimeoutStopper,
    TrialPlateauStopper,
)
from shoal.tune import callback, stopper

NAN = math.nan


def result(iteration: int, score: Any) -> dict[str, Any]:
    """Return a result as the driver shows it."""
    return {"score": score, "training_iteration": iteration, "config": {"lr": 0.1}, "done": False}


def told(stopper: Stopper, *scores: Any, trial: str = "a", first: int = 1) -> list[bool]:
    """Show a stopper the scores of a trial, iteration by iteration, and return its answers."""
    return [stopper(trial, result(iteration, score)) for iteration, score in enumerate(scores, first)]


def test_the_names_are_those_of_ray_tune() -> None:
    assert set(stopper.__all__) == set(ours.__all__)
    assert all(getattr(stopper, name) is getattr(ours, name) for name in ours.__all__)
    assert all(getattr(ours, name).__doc__ for name in ours.__all__)
    assert callback.__all__ == ["Callback"]


def test_a_stopper_needs_both_methods() -> None:
    class Half(Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return True

    with pytest.raises(TypeError, match="stop_all"):
        Half()  # type: ignore[abstract]


# ----------------------------------------------------------------------------------------------------------- iterations


def test_a_trial_ends_at_the_maximum_iteration() -> None:
    limit = MaximumIterationStopper(3)
    assert told(limit, 1, 1, 1, 1) == [False, False, True, True]
    assert not limit.stop_all()


def test_iterations_are_those_of_the_weights() -> None:
    limit = MaximumIterationStopper(max_iter=10)
    assert not any(told(limit, *[1.0] * 9))
    assert not any(told(limit, *[1.0] * 9))  # the same once more, after a failure
    assert told(limit, 1.0, trial="b", first=12) == [True]  # its first own report, with a donor's weights


# ---------------------------------------------------------------------------------------------------- a trial's plateau


def test_a_trial_ends_when_its_newest_results_are_alike() -> None:
    plateau = TrialPlateauStopper("score", std=0.01, num_results=3, grace_period=0)
    assert told(plateau, 0.1, 0.5, 0.9, 0.9, 0.901) == [False, False, False, False, True]
    assert not plateau.stop_all()


def test_every_trial_has_a_window_of_its_own() -> None:
    plateau = TrialPlateauStopper("score", num_results=2, grace_period=0)
    answers = [plateau(trial, result(iteration, 0.5)) for iteration in (1, 2) for trial in "abc"]
    assert answers == [False] * 3 + [True] * 3


def test_no_trial_ends_before_its_grace_period_is_over() -> None:
    assert told(TrialPlateauStopper("score", num_results=2, grace_period=5), *[1.0] * 6) == [False] * 4 + [True] * 2


def test_the_defaults_are_those_of_ray_tune() -> None:
    assert told(TrialPlateauStopper("score"), 1.0, 1.0, 1.0, 1.0) == [False, False, False, True]
    assert told(TrialPlateauStopper("score"), 1.0, 1.0, 1.0, 1.03) == [False] * 4


@pytest.mark.parametrize(
    ("mode", "scores", "answers"),
    [
        ("max", [0.1, 0.1, 0.5, 0.5, 0.9, 0.9], [False, False, False, True, False, True]),
        ("min", [0.9, 0.9, 0.6, 0.5, 0.1, 0.1], [False, False, False, False, False, True]),
    ],
)
def test_a_plateau_must_be_good_enough_where_that_is_asked(mode: str, scores: list[float], answers: list[bool]) -> None:
    plateau = TrialPlateauStopper("score", num_results=2, grace_period=0, metric_threshold=0.5, mode=mode)
    assert told(plateau, *scores) == answers


def test_a_threshold_of_zero_is_one() -> None:
    plateau = TrialPlateauStopper("score", num_results=2, grace_period=0, metric_threshold=0, mode="max")
    assert told(plateau, -1.0, -1.0, 0.0, 0.0) == [False, False, False, True]


def test_a_window_takes_time_to_settle_after_an_exploit() -> None:
    plateau = TrialPlateauStopper("score", num_results=3, grace_period=0)
    assert not any(told(plateau, 0.10, 0.15, 0.2))
    assert told(plateau, 0.8, 0.8, 0.8, first=7) == [False, False, True]  # a donor's weights, of iteration 6


def test_weights_of_an_earlier_iteration_put_their_results_in_the_place_of_the_old_ones() -> None:
    plateau = TrialPlateauStopper("score", num_results=3, grace_period=0)
    assert not any(told(plateau, 0.1, 0.2, 0.5, 0.5))
    # The donor's checkpoint is of iteration 3. The window now begins with the results up to there, 0.2 and 0.5.
    assert told(plateau, 0.5, 0.5, first=4) == [False, True]


def test_what_is_repeated_after_a_failure_is_no_plateau() -> None:
    plateau = TrialPlateauStopper("score", num_results=3, grace_period=0)
    assert not any(told(plateau, 0.5) == [True] for _ in range(20))  # fails again and again at iteration 2
    assert told(plateau, 0.5, 0.5, 0.5) == [False, False, True]


@pytest.mark.parametrize("odd", [NAN, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_never_part_of_a_plateau(odd: float) -> None:
    plateau = TrialPlateauStopper("score", num_results=2, grace_period=0, metric_threshold=0.0, mode="max")
    assert told(plateau, odd, odd, odd, 0.5, 0.5) == [False] * 4 + [True]


def test_results_without_the_metric_do_not_count() -> None:
    plateau = TrialPlateauStopper("score", num_results=2, grace_period=2)
    assert told(plateau, 0.5, None, None, 0.5) == [False, False, False, True]


def test_a_first_result_without_the_metric_is_worth_a_warning() -> None:
    plateau = TrialPlateauStopper("val/loss", num_results=2, grace_period=0)
    with pytest.warns(
        UserWarning, match=r"the first result has no 'val/loss'\. Did you mean 'val/los'\?.* has: 'val/los'"
    ):
        plateau("a", {"val": {"los": 1}, "training_iteration": 1})
    assert not plateau("a", {"training_iteration": 2})  # told once
    assert not plateau("a", {"val": {"loss": 1}, "training_iteration": 3})
    assert plateau("a", {"val": {"loss": 1}, "training_iteration": 4})


def test_a_metric_that_is_no_number_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"TrialPlateauStopper: 'score' must be a number, but a result has 'good' \(str"
    ):
        told(TrialPlateauStopper("score"), "good")


def test_numbers_of_numpy_will_do() -> None:
    plateau = TrialPlateauStopper("score", num_results=2, grace_period=0)
    assert told(plateau, np.float32(0.5), np.float64(0.5)) == [False, True]


def test_a_result_by_hand_needs_no_iteration() -> None:
    plateau = TrialPlateauStopper("score", num_results=2, grace_period=0)
    assert [plateau("a", {"score": 1.0}) for _ in range(3)] == [False, True, True]


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12), st.integers(2, 5), st.integers(0, 6))
def test_it_is_the_standard_deviation_of_the_newest_results(scores: list[float], size: int, grace: int) -> None:
    plateau = TrialPlateauStopper("score", std=0.5, num_results=size, grace_period=grace)
    for count, answer in enumerate(told(plateau, *scores), 1):
        window = scores[:count][-size:]
        spread = statistics.pstdev(window)
        if abs(spread - 0.5) > 1e-6:
            assert answer == (len(window) == size and count >= grace and spread < 0.5)


@given(st.lists(NUMBERS, min_size=4, max_size=8))
def test_huge_scores_do_not_overflow(scores: list[float]) -> None:
    told(TrialPlateauStopper("score"), *scores)
    told(ExperimentPlateauStopper("score", top=2, patience=100), *scores)


@given(st.data())
def test_a_repetition_changes_no_answer(data: st.DataObject) -> None:
    """Going back any number of times, and reporting the same again, ends as if it had not happened."""
    scores = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=3, max_size=10))
    straight, winding = (TrialPlateauStopper("score", num_results=3, grace_period=0) for _ in range(2))
    expected = told(straight, *scores)[-1]
    for _ in range(data.draw(st.integers(0, 3))):
        told(winding, *scores[: data.draw(st.integers(1, len(scores)))])
    assert told(winding, *scores)[-1] == expected


# --------------------------------------------------------------------------------------------- the experiment's plateau


def test_the_experiment_ends_when_its_best_results_are_alike() -> None:
    plateau = ExperimentPlateauStopper("score", std=0.01, top=3, mode="max")
    assert not any(told(plateau, 0.1, 0.5, trial="a"))
    assert not any(told(plateau, 0.9, 0.2, 0.899, trial="b"))
    assert not plateau.stop_all()
    assert told(plateau, 0.901, trial="c") == [True]
    assert plateau.stop_all()


def test_small_is_better_unless_told_otherwise() -> None:
    plateau = ExperimentPlateauStopper("score", std=0.1, top=2)
    told(plateau, 9.0, 9.0, 1.0, 2.0)
    assert not plateau.stop_all()
    told(plateau, 1.1, trial="b")
    assert plateau.stop_all()


def test_patience_counts_the_results_that_may_follow() -> None:
    plateau = ExperimentPlateauStopper("score", top=2, mode="max", patience=2)
    assert told(plateau, 1.0, 1.0, 0.1, 0.1, trial="a") == [False, False, False, True]


def test_a_new_best_begins_the_count_anew() -> None:
    plateau = ExperimentPlateauStopper("score", top=2, mode="max", patience=1)
    assert told(plateau, 1.0, 1.0, 2.0, 0.1, 2.0, 0.1) == [False] * 5 + [True]


def test_what_is_repeated_is_no_plateau_of_the_experiment() -> None:
    plateau = ExperimentPlateauStopper("score", top=2, mode="max")
    assert not any(told(plateau, 0.3, 0.6, 0.9) == [True] for _ in range(5))
    told(plateau, 0.9, trial="b")
    assert plateau.stop_all()


def test_scores_that_are_not_finite_are_never_among_the_best() -> None:
    plateau = ExperimentPlateauStopper("score", top=2, mode="max")
    told(plateau, math.inf, math.inf, NAN, NAN, -math.inf)
    assert not plateau.stop_all()
    told(plateau, 1.0, NAN, 1.0)
    assert plateau.stop_all()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), min_size=1, max_size=30), st.integers(2, 5))
def test_it_is_the_best_of_all_trials_that_are_compared(reports: list[tuple[str, int]], top: int) -> None:
    plateau = ExperimentPlateauStopper("score", std=0.5, top=top, mode="max")
    scores: list[float] = []
    iterations = dict.fromkeys("abc", 0)
    for trial, score in reports:
        iterations[trial] += 1
        scores.append(float(score))
        best = sorted(scores)[-top:]
        deviation = statistics.pstdev(best)
        assume(deviation != 0.5)
        assert plateau(trial, result(iterations[trial], float(score))) == (len(best) == top and deviation <= 0.5)


# ----------------------------------------------------------------------------------------------------------------- time


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("timeout", [60, 60.0, datetime.timedelta(minutes=1)])
def test_time_counts_from_the_first_question(timeout: Any) -> None:
    clock = Clock()
    limit = TimeoutStopper(timeout, clock=clock)
    clock.now += 500
    assert told(limit, 1.0) == [False]
    assert not limit.stop_all()
    clock.now += 59.9
    assert not limit.stop_all()
    clock.now += 0.2
    assert limit.stop_all()
    assert told(limit, 1.0) == [False]


# ----------------------------------------------------------------------------------------------- functions, and several


def test_a_function_is_asked_about_every_result() -> None:
    asked: list[tuple[str, float]] = []

    def enough(trial_id: str, result: dict[str, Any]) -> Any:
        asked.append((trial_id, result["score"]))
        return np.bool_(result["score"] > 0.5)

    stopper = FunctionStopper(enough)
    assert told(stopper, 0.1, 0.9) == [False, True]
    assert asked == [("a", 0.1), ("a", 0.9)]
    assert type(stopper("a", result(1, 0.9))) is bool
    assert not stopper.stop_all()
    assert stopper.name == "enough"


def test_nothing_ends_nothing() -> None:
    assert told(NoopStopper(), NAN, 1, 1, 1) == [False] * 4
    assert not NoopStopper().stop_all()


def test_one_of_several_is_enough_and_all_see_every_result() -> None:
    plateau = TrialPlateauStopper("score", num_results=3, grace_period=0)
    both = CombinedStopper(MaximumIterationStopper(2), plateau)
    assert told(both, 0.5, 0.5) == [False, True]
    assert plateau("a", result(3, 0.5))  # it has seen the second too
    assert not both.stop_all()


def test_one_of_several_may_end_the_experiment() -> None:
    clock = Clock()
    both = CombinedStopper(NoopStopper(), TimeoutStopper(10, clock=clock))
    assert not both.stop_all()
    clock.now += 10
    assert both.stop_all()


def test_functions_and_stoppers_without_the_base_class_can_be_combined() -> None:
    class Own:
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return True

    several = CombinedStopper(Own(), lambda trial_id, result: result["score"] > 0.5)
    assert told(several, 0.1, 0.9) == [False, True]
    assert several.stop_all()


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=4))
def test_several_are_their_or(answers: Sequence[Sequence[bool]]) -> None:
    def of(script: Sequence[bool]) -> Callable[[str, dict[str, Any]], bool]:
        return lambda trial_id, result: script[result["training_iteration"] - 1]

    both = CombinedStopper(*map(of, answers))
    assert told(both, 0, 0, 0, 0) == [any(step) for step in zip(*answers, strict=True)]


@pytest.mark.parametrize(
    "stopper",
    [
        MaximumIterationStopper(3),
        TrialPlateauStopper("score"),
        ExperimentPlateauStopper("score"),
        TimeoutStopper(3),
        NoopStopper(),
        CombinedStopper(NoopStopper(), TimeoutStopper(3)),
    ],
)
def test_stoppers_can_be_pickled(stopper: Stopper) -> None:
    told(stopper, 0.5)
    assert told(pickle.loads(pickle.dumps(stopper)), 0.5) == [False]


# ------------------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda s: s.MaximumIterationStopper(0),
            r"MaximumIterationStopper: max_iter must be a whole number of 1 or more",
        ),
        (lambda s: s.MaximumIterationStopper(2.5), r"but is 2\.5 \(float\)"),
        (lambda s: s.MaximumIterationStopper(True), r"but is True \(bool\)"),
        (lambda s: s.MaximumIterationStopper(maxiter=3), r"has no argument 'maxiter'\. Did you mean 'max_iter'"),
        (lambda s: s.TrialPlateauStopper(""), r"TrialPlateauStopper: metric must be the key of a report"),
        (lambda s: s.TrialPlateauStopper(3), r"metric must be .* but is 3"),
        (lambda s: s.TrialPlateauStopper("a", std=0), r"std must be a number greater than 0, but is 0"),
        (lambda s: s.TrialPlateauStopper("a", std=NAN), r"std must be a number greater than 0, but is nan"),
        (lambda s: s.TrialPlateauStopper("a", num_results=1), r"num_results must be a whole number of 2 or more"),
        (lambda s: s.TrialPlateauStopper("a", grace_period=-1), r"grace_period must be a whole number of 0 or more"),
        (lambda s: s.TrialPlateauStopper("a", mode="maximum"), r"mode must be 'max' .* but is 'maximum'"),
        (
            lambda s: s.TrialPlateauStopper("a", metric_threshold=1),
            r"mode must be .* is None .* goes with metric_threshold",
        ),
        (lambda s: s.TrialPlateauStopper("a", metric_threshold="1", mode="max"), r"metric_threshold must be a number"),
        (lambda s: s.TrialPlateauStopper("a", metric_threshold=NAN, mode="max"), r"metric_threshold must be a number"),
        (lambda s: s.ExperimentPlateauStopper("a", mode="mix"), r"mode must be .* but is 'mix'"),
        (lambda s: s.ExperimentPlateauStopper("a", top=1), r"top must be a whole number of 2 or more"),
        (lambda s: s.ExperimentPlateauStopper("a", patience=-1), r"patience must be a whole number of 0 or more"),
        (lambda s: s.ExperimentPlateauStopper("a", std=-1), r"std must be a number greater than 0"),
        (lambda s: s.TimeoutStopper(0), r"TimeoutStopper: timeout must be a number of seconds greater than 0"),
        (lambda s: s.TimeoutStopper(datetime.timedelta()), r"timeout must be a number of seconds greater than 0"),
        (lambda s: s.TimeoutStopper("1h"), r"but is '1h' \(str\)"),
        (lambda s: s.CombinedStopper(), r"give at least one stopper"),
        (lambda s: s.CombinedStopper({"a": 1}), r"one is \{'a': 1\}\. Instead of a dict: MaximumIterationStopper"),
        (lambda s: s.CombinedStopper(s.NoopStopper), r"Add parentheses"),
        (lambda s: s.FunctionStopper(3), r"function must be a function \(trial_id, result\) -> bool, but is 3"),
        (lambda s: s.FunctionStopper(s.NoopStopper), r"function must be a function"),
        (lambda s: s.FunctionStopper(lambda result: True), r"but it takes others \(too many positional arguments\)"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(make: Callable[[Any], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(ours)
