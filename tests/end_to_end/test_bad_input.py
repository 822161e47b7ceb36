"""Bad input: a clear error that says what was given, what is allowed and what to do; and nothing lost."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import climb, fit, items, pbt, story

from shoal import tune
from shoal.core.commands import Exploit
from shoal.core.events import Failed
from shoal.errors import ConfigError, EngineError, ExperimentExists, ReportError, StorageError
from shoal.tune.schedulers import PopulationBasedTraining


def noop(config: dict[str, Any]) -> None:
    tune.report({"score": 1.0})


# ---- Before the start ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: tune.TuneConfig(metrc="loss"), ["'metrc'", "'metric'", "num_samples"]),  # type: ignore[call-arg]
        (lambda: tune.TuneConfig(mode="maximum"), ["'maximum'", "'max'", "'min'"]),
        (lambda: tune.TuneConfig(num_samples=0), ["num_samples", "1 or more", "0"]),
        (lambda: tune.TuneConfig(num_samples=2.5), ["num_samples", "2.5", "float"]),  # type: ignore[arg-type]
        (lambda: tune.TuneConfig(num_samples=True), ["num_samples", "True", "bool"]),
        (lambda: tune.TuneConfig(max_concurrent_trials=0), ["max_concurrent_trials", "1 or more"]),
        (lambda: tune.TuneConfig(time_budget_s=-1), ["time_budget_s", "-1"]),
        (lambda: tune.TuneConfig(seed="one"), ["seed", "'one'"]),  # type: ignore[arg-type]
        (lambda: tune.TuneConfig(engine="proceses"), ["'proceses'", "'processes'", "'inline'"]),
        (lambda: tune.TuneConfig(scheduler="pbt"), ["scheduler", "'pbt'", "PopulationBasedTraining"]),  # type: ignore[arg-type]
        (lambda: tune.RunConfig(storage_pth="x"), ["'storage_pth'", "'storage_path'"]),  # type: ignore[call-arg]
        (lambda: pbt(perturbation_intervall=5), ["'perturbation_intervall'", "'perturbation_interval'"]),
        (lambda: tune.uniform(lower=0, uper=1), ["'uper'", "'upper'", "lower, upper"]),  # type: ignore[call-arg]
        (lambda: tune.RunConfig(name="a/b"), ["'a/b'", "storage_path"]),
        (lambda: tune.RunConfig(storage_path=Path("s3://bucket")), ["s3://bucket", "as a text"]),
        (lambda: tune.RunConfig(storage_path="s3:/bucket"), ["s3:/bucket", "lacks a slash"]),
        (lambda: tune.RunConfig(stop=50), ["stop", "50", "training_iteration"]),  # type: ignore[arg-type]
        (lambda: tune.RunConfig(stop={"loss": "low"}), ["'loss'", "'low'", "number"]),  # type: ignore[dict-item]
        (lambda: tune.RunConfig(checkpoint_config={}), ["checkpoint_config", "CheckpointConfig"]),  # type: ignore[arg-type]
        (lambda: tune.RunConfig(verbose="yes"), ["verbose", "'yes'"]),  # type: ignore[arg-type]
        (lambda: tune.CheckpointConfig(num_to_keep=0), ["num_to_keep", "1 or more"]),
        (lambda: tune.CheckpointConfig(checkpoint_score_order="maxx"), ["'maxx'", "'max' or 'min'"]),
        (lambda: tune.FailureConfig(max_failures=-2), ["max_failures", "-2"]),
        (lambda: tune.FailureConfig(fail_fast="yes"), ["fail_fast", "'yes'", "'raise'"]),
        (lambda: tune.FailureConfig(fail_fast=True, max_failures=2), ["fail_fast", "max_failures"]),
        (lambda: tune.Tuner(3), ["train(config)", "3"]),  # type: ignore[arg-type]
        (lambda: tune.Tuner(noop, param_space=[1]), ["param_space", "dict", "[1]"]),  # type: ignore[arg-type]
        (lambda: tune.Tuner(noop, tune_config=tune.RunConfig()), ["tune_config", "TuneConfig"]),  # type: ignore[arg-type]
        (lambda: tune.Tuner(noop, param_spac={}), ["'param_spac'", "'param_space'"]),  # type: ignore[call-arg]
        (lambda: tune.Tuner(lambda: None), ["one argument"]),
        (lambda: tune.Tuner(dict), ["class dict", "function"]),
        (lambda: tune.with_resources(noop, {"gpus": 1}), ["'gpus'", "custom_resources"]),
        (lambda: tune.with_resources(noop, {"gpu": 1.5}), ["'gpu'", "1.5"]),
        (lambda: tune.with_resources(noop, {"cpu": -1}), ["'cpu'", "-1"]),
        (lambda: tune.Checkpoint.from_directory("/no/such/folder"), ["/no/such/folder", "does not exist"]),
        (lambda: tune.Checkpoint.from_directory(__file__), ["is a file"]),
        (lambda: tune.Checkpoint.from_directory({"step": 1}), ["folder", "dict"]),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(make: Any, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    for text in expected:
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"scheduler": pbt(metric="loss")}, ["'score'", "'loss'"]),
        ({"scheduler": pbt(), "mode": None}, ["needs mode", "TuneConfig(mode='max')"]),
        ({"scheduler": pbt(), "metric": None}, ["needs metric"]),
        ({"scheduler": pbt(hyperparam_mutations={"Lr": [1, 2]})}, ["'Lr'", "'lr'", "never mutate"]),
        ({"scheduler": pbt(hyperparam_mutations={"l_r": [1, 2]})}, ["'l_r'", "'lr'"]),
    ],
)
def test_settings_that_do_not_fit_together_are_told_before_anything_is_written(
    settings: dict[str, Any], expected: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        fit(noop, tmp_path, **settings)
    for text in expected:
        assert text in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_trainable_that_cannot_be_pickled_is_blamed_on_what_it_refers_to(tmp_path: Path) -> None:
    guard = threading.Lock()

    def train(config: dict[str, Any]) -> None:
        with guard:
            tune.report({"score": 1.0})

    with pytest.raises(ConfigError, match=r"(?s)train.*'guard' \(lock\).*inside the function.*inline"):
        fit(train, tmp_path, engine="processes")


def test_a_trainable_whose_module_is_missing_in_members_says_so(tmp_path: Path) -> None:
    class Unloadable:
        def __call__(self, config: dict[str, Any]) -> None: ...

        def __reduce__(self) -> Any:
            return (__import__, ("no_such_module_at_all",))

    with pytest.raises(EngineError, match=r"(?s)importable.*no_such_module_at_all"):
        fit(Unloadable(), tmp_path, engine="processes")


def test_a_storage_path_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="storage_path"):
        fit(noop, tmp_path / "file")


def test_another_experiment_in_the_folder_is_left_alone(tmp_path: Path) -> None:
    first = fit(noop, tmp_path, run={"name": "mine"}, num_samples=1)
    before = sorted(path.name for path in Path(first.experiment_path).rglob("*"))
    with pytest.raises(ExperimentExists, match=r"(?s)mine.*another name"):
        fit(noop, tmp_path, run={"name": "mine"}, num_samples=1)
    assert sorted(path.name for path in Path(first.experiment_path).rglob("*")) == before


def test_a_machine_without_enough_cpus_or_gpus_says_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match=r"asks for 1000 CPUs, but this machine has \d+.*with_resources"):
        fit(tune.with_resources(noop, {"cpu": 1000}), tmp_path, engine="processes")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(EngineError, match=r"asks for 2 GPUs, but this machine has 1 that CUDA_VISIBLE_DEVICES allows"):
        fit(tune.with_resources(noop, {"gpu": 2}), tmp_path, engine="processes")


def test_an_unknown_engine_in_the_environment_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_ENGINE", "threads")
    with pytest.raises(ConfigError, match=r"SHOAL_ENGINE.*'processes', 'inline'.*'threads'"):
        fit(noop, tmp_path)


def test_report_outside_of_a_trial_says_where_it_works() -> None:
    with pytest.raises(ReportError, match=r"outside of a trial.*fit\(\)"):
        tune.report({"score": 1})


# ---- In a report -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"scores": 1.0, "loss": 0.1}, ["'score'", "Did you mean 'scores'", "'loss'"]),
        ({}, ["'score'", "nothing"]),
        (3, ["dict", "3 (int)"]),
        ({"score": "high"}, ["'score'", "'high' (str)", "number"]),
        ({"score": None}, ["'score'"]),
        ({1: 2.0}, ["keys", "1 (int)"]),
    ],
)
def test_a_bad_report_fails_its_own_trial_at_its_own_line(value: Any, expected: list[str], tmp_path: Path) -> None:
    """Ray Tune aborts the whole experiment, with messages about its own inside (its defect 8)."""

    def train(config: dict[str, Any]) -> None:
        tune.report({"score": 1.0})
        if tune.get_context().get_trial_id().endswith("0"):
            tune.report(value)
        for _ in range(4):
            tune.report({"score": 1.0})

    grid = fit(train, tmp_path, num_samples=2, stop={"training_iteration": 5}, scheduler=pbt())
    assert [result.error is None for result in grid] == [False, True]
    for text in expected:
        assert text in str(grid[0].error)
    assert "tune.report(value)" in str(grid[0].error)
    assert grid[1].metrics["training_iteration"] == 5


def test_a_checkpoint_of_the_wrong_kind_says_how_to_make_one(tmp_path: Path) -> None:
    grid = fit(lambda config: tune.report({"score": 1}, checkpoint={"w": 1}), tmp_path, num_samples=1)  # type: ignore[arg-type]
    assert "Checkpoint.from_directory(folder)" in str(grid[0].error)


def test_keyword_arguments_of_old_scripts_are_shown_how_to_write_it_now(tmp_path: Path) -> None:
    grid = fit(lambda config: tune.report(mean_accuracy=1.0), tmp_path, num_samples=1)
    assert "tune.report({'mean_accuracy': ...}" in str(grid[0].error)


def test_a_stop_key_that_is_not_reported_is_an_error_that_lists_what_is(tmp_path: Path) -> None:
    grid = fit(climb, tmp_path, num_samples=1, stop={"mean_acuracy": 0.9})
    assert "'mean_acuracy'" in str(grid[0].error)
    assert "'score'" in str(grid[0].error)


def test_a_stop_dict_on_a_metric_that_is_minimised_is_warned_about(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"AT LEAST 0.1, although mode is 'min'.*lambda trial_id, result"):
        fit(climb, tmp_path, num_samples=1, mode="min", stop={"score": 0.1})


def test_nan_and_infinite_scores_rank_last_and_are_never_donors(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        import tempfile

        while True:
            with tempfile.TemporaryDirectory() as folder:
                tune.report({"score": config["score"]}, checkpoint=tune.Checkpoint.from_directory(folder))

    scores = [1.0, math.nan, math.inf, 2.0, -math.inf, 3.0]
    grid = fit(
        train,
        tmp_path,
        space={"score": tune.grid_search(scores), "x": 1.0},
        num_samples=1,
        scheduler=pbt(hyperparam_mutations={"x": tune.uniform(0, 1)}, synch=True, quantile_fraction=0.5),
        stop={"training_iteration": 15},
    )
    trials = story(grid).trials
    exploits = items(grid, Exploit)
    assert len(exploits) >= 3
    assert all(math.isfinite(exploit.checkpoint.score) for exploit in exploits)
    first_round = {trials[exploit.trial_id].index for exploit in exploits if exploit.generation == 1}
    assert {1, 2, 4} <= first_round
    assert grid.get_best_result().metrics["score"] == 3.0


def test_a_function_that_never_reports_is_an_error_that_says_what_to_call(tmp_path: Path) -> None:
    grid = fit(lambda config: None, tmp_path, num_samples=2)
    assert grid.num_errors == 2
    assert "without a single tune.report" in str(grid[0].error)


def test_a_function_without_checkpoints_is_told_once_what_to_add(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def train(config: dict[str, Any]) -> None:
        while True:
            tune.report({"score": config["lr"]})

    grid = fit(train, tmp_path, scheduler=pbt(), run={"verbose": 1})
    shown = capfd.readouterr()
    text = " ".join((shown.out + shown.err).split())
    assert text.count("no member has a checkpoint") == 1
    assert "Checkpoint.from_directory(folder)" in text
    assert not items(grid, Exploit)
    assert grid.num_terminated == 4


def test_a_function_that_catches_everything_can_still_be_stopped(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        while True:
            with contextlib.suppress(BaseException):
                tune.report({"score": 1.0})

    grid = fit(train, tmp_path, num_samples=1, stop={"training_iteration": 3})
    assert [row.report.iteration for row in story(grid).in_order()[0].rows] == [1, 2, 3]
    assert grid.num_terminated == 1


def test_a_checkpoint_folder_that_is_gone_at_the_report_says_so(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            checkpoint = tune.Checkpoint.from_directory(folder)
        tune.report({"score": 1.0}, checkpoint=checkpoint)

    grid = fit(train, tmp_path, num_samples=1)
    assert "no longer exists" in str(grid[0].error)


def test_fail_fast_raise_raises_the_members_own_error(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        raise KeyError("weights")

    from shoal.errors import TrialFailed

    with pytest.raises(TrialFailed, match="weights"):
        fit(train, tmp_path, run={"failure_config": tune.FailureConfig(fail_fast="raise")})


def test_configs_may_hold_any_object(tmp_path: Path) -> None:
    marker = {"set": {1, 2}, "tuple": (1, (2, 3)), "fn": json.dumps, "none": None, "nested": [{"a": 1}]}
    grid = fit(
        lambda config: {"score": config["fn"]([len(config["set"]), config["tuple"][1][0]]) == "[2, 2]"},
        tmp_path,
        space=dict(marker),
        num_samples=1,
    )
    assert grid[0].metrics["score"] is True
    assert grid[0].config == marker
    assert items(grid, Failed) == []


def test_the_scheduler_object_can_be_used_for_several_experiments(tmp_path: Path) -> None:
    scheduler = pbt(synch=True)
    assert isinstance(scheduler, PopulationBasedTraining)
    grids = [fit(climb, tmp_path / name, scheduler=scheduler, seed=5) for name in ("a", "b")]
    first, second = ([trial.config for trial in story(grid).in_order()] for grid in grids)
    assert first == second
