"""What users set is checked when they set it, and what is allowed is taken as it is meant."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shoal import tune
from shoal.errors import ConfigError

wrong: Any = tune
"""The same, for what a type checker refuses."""


class Stopper:
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return False


@pytest.mark.parametrize(
    "make",
    [
        lambda: tune.TuneConfig(time_budget_s=0.5),
        lambda: tune.TuneConfig(seed=-(2**63)),
        lambda: tune.TuneConfig(seed=2**200),
        lambda: tune.TuneConfig(reuse_actors=True),
        lambda: tune.RunConfig(storage_path=Path("somewhere")),
        lambda: tune.RunConfig(stop={"score": math.inf}),
        lambda: tune.RunConfig(stop={}),
        lambda: tune.RunConfig(stop=Stopper()),
        lambda: wrong.RunConfig(stop=lambda trial_id, result, more=1: False),
        lambda: tune.RunConfig(stop=lambda *arguments: False),
        lambda: tune.RunConfig(callbacks=()),
        lambda: tune.RunConfig(name="a name with spaces and ü"),
        lambda: tune.FailureConfig(max_failures=-1),
        lambda: tune.FailureConfig(fail_fast="raise"),
        lambda: tune.CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="a/b", checkpoint_score_order="min"),
    ],
)
def test_what_is_allowed_is_taken(make: Callable[[], object]) -> None:
    assert make() is not None


def test_a_time_budget_may_be_a_timedelta() -> None:
    assert tune.TuneConfig(time_budget_s=datetime.timedelta(minutes=2)).time_budget_s == 120.0


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: wrong.TuneConfig(time_budget_s=datetime.timedelta(0)), "time_budget_s.*greater than 0"),
        (lambda: wrong.TuneConfig(time_budget_s=math.nan), "time_budget_s.*nan"),
        (lambda: wrong.TuneConfig(time_budget_s=True), "time_budget_s.*True"),
        (lambda: wrong.TuneConfig(max_residents=0), "max_residents.*1 or more"),
        (lambda: wrong.TuneConfig(metric=""), "metric.*text or None"),
        (lambda: wrong.TuneConfig(metric=["score"]), r"metric.*\['score'\] \(list\)"),
        (lambda: wrong.TuneConfig(mode="MAX"), "mode.*'max'.*'min'"),
        (lambda: wrong.TuneConfig(seed=True), "seed.*True"),
        (lambda: wrong.TuneConfig(seed=1.0), "seed.*1.0"),
        (lambda: wrong.TuneConfig(samples=3), "no argument 'samples'.*It takes: metric, mode"),
        (lambda: wrong.RunConfig(verbose=4), "verbose must be 0, 1, 2 or 3, but is 4"),
        (lambda: wrong.RunConfig(verbose=-1), "verbose.*-1"),
        (lambda: wrong.RunConfig(verbose=True), "verbose.*True"),
        (lambda: wrong.RunConfig(name=""), "name"),
        (lambda: wrong.RunConfig(name=".."), "name.*folder"),
        (lambda: wrong.RunConfig(name="nul\0"), "name.*folder"),
        (lambda: wrong.RunConfig(storage_path=""), "storage_path.*path of a folder"),
        (lambda: wrong.RunConfig(stop=Stopper), r"stop.*add parentheses"),
        (lambda: wrong.RunConfig(stop=lambda: False), r"stop.*\(trial_id, result\) -> bool"),
        (lambda: wrong.RunConfig(stop=lambda result: False), r"stop.*\(trial_id, result\) -> bool"),
        (lambda: wrong.RunConfig(stop={"score": math.nan}), "'score': nan"),
        (lambda: wrong.RunConfig(stop={"score": True}), "'score': True"),
        (lambda: wrong.RunConfig(stop={1: 2}), "1: 2"),
        (lambda: wrong.RunConfig(callbacks=wrong.Callback()), "callbacks.*list"),
        (lambda: wrong.RunConfig(callbacks="all"), "callbacks.*list"),
        (lambda: wrong.RunConfig(log_to_file=1), "log_to_file.*True or False"),
        (lambda: wrong.RunConfig(failure_config=3), "failure_config.*FailureConfig"),
        (lambda: wrong.FailureConfig(max_failures=True), "max_failures.*True"),
        (lambda: wrong.FailureConfig(fail_fast=1), "fail_fast.*True, False or 'raise'"),
        (lambda: wrong.FailureConfig(fail_fast=None), "fail_fast"),
        (lambda: wrong.FailureConfig(fail_fast="raise", max_failures=-1), "exclude each other"),
        (lambda: wrong.CheckpointConfig(num_to_keep=1.0), "num_to_keep.*1.0"),
        (lambda: wrong.CheckpointConfig(checkpoint_score_attribute=""), "checkpoint_score_attribute"),
    ],
)
def test_what_is_not_allowed_is_named(make: Callable[[], object], expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s){expected}"):
        make()
