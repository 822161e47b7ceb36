"""Stoppers in real experiments, on real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal import tune
from shoal.core.events import Reported
from shoal.tune.stopper import (
    CombinedStopper,
    ExperimentPlateauStopper,
    FunctionStopper,
    MaximumIterationStopper,
    NoopStopper,
    Stopper,
    TimeoutStopper,
    TrialPlateauStopper,
)

from ..helpers import climb, fit, items, load_state, pbt, report_state, story

FOREVER = {"training_iteration": 500}


def saturate(config: dict[str, Any]) -> None:
    """The score rises by 1 up to the trial's ceiling, and stays there."""
    step, score = load_state() or (0, 0.0)
    while True:
        step += 1
        score = min(score + 1.0, config["ceiling"])
        report_state(step, score, {"score": score}, save=step % 5 == 0)


def test_every_trial_ends_at_the_maximum_iteration_whatever_it_copied(tmp_path: Path) -> None:
    grid = fit(climb, tmp_path, scheduler=pbt(synch=True), stop=MaximumIterationStopper(12))
    assert story(grid).exploits
    assert [each.metrics["training_iteration"] for each in grid] == [12] * 4
    assert {trial.reason for trial in story(grid).trials.values()} == {"the stop condition is met"}


def test_a_trial_ends_on_its_plateau_and_the_others_go_on(tmp_path: Path) -> None:
    grid = fit(
        saturate,
        tmp_path,
        space={"ceiling": tune.grid_search([2.0, 6.0])},
        num_samples=1,
        stop=CombinedStopper(TrialPlateauStopper("score", num_results=3), MaximumIterationStopper(100)),
    )
    assert [each.metrics["training_iteration"] for each in grid] == [4, 8]


def test_an_exploit_takes_a_trial_off_its_plateau(tmp_path: Path) -> None:
    """With a window longer than the interval, the trial that stands still is saved by its donor."""
    grid = fit(
        saturate,
        tmp_path,
        space={"ceiling": tune.grid_search([1.0, 1000.0])},
        num_samples=1,
        scheduler=pbt(
            perturbation_interval=5,
            quantile_fraction=0.5,
            resample_probability=0.0,
            synch=True,
            hyperparam_mutations={"ceiling": tune.uniform(1.0, 2000.0)},
        ),
        stop=CombinedStopper(TrialPlateauStopper("score", num_results=6), MaximumIterationStopper(20)),
    )
    assert story(grid).exploits[0].trial_id == grid[0].metrics["trial_id"]
    assert [each.metrics["training_iteration"] for each in grid] == [20, 20]


def test_the_experiment_ends_when_its_best_do_not_change(tmp_path: Path) -> None:
    grid = fit(
        saturate,
        tmp_path,
        space={"ceiling": 4.0},
        num_samples=2,
        stop=ExperimentPlateauStopper("score", top=3, mode="max"),
    )
    assert story(grid).stopped == "the stopper ended the experiment"
    assert grid.get_best_result().metrics["score"] == 4.0
    assert max(trial.iteration for trial in story(grid).trials.values()) in (5, 6)


def test_the_experiment_ends_when_the_time_is_over(tmp_path: Path) -> None:
    readings = iter(range(1000))
    timeout = TimeoutStopper(5, clock=lambda: float(next(readings)))
    grid = fit(climb, tmp_path, stop=timeout)
    assert story(grid).stopped == "the stopper ended the experiment"
    assert 1 <= story(grid).results < 10


def test_stoppers_that_end_nothing_leave_the_function_to_return(tmp_path: Path) -> None:
    def three(config: dict[str, Any]) -> None:
        for step in range(1, 4):
            tune.report({"score": step})

    grid = fit(three, tmp_path, stop=CombinedStopper(NoopStopper(), FunctionStopper(lambda trial_id, result: False)))
    assert [each.metrics["training_iteration"] for each in grid] == [3] * 4


def test_repetitions_after_failures_are_no_plateau(tmp_path: Path) -> None:
    def stumble(config: dict[str, Any]) -> None:
        """Fail at iteration 2 until it has been tried four times."""
        tries = Path(config["folder"], "tries")
        count = int(tries.read_text()) if tries.exists() else 0
        tries.write_text(str(count + 1))
        for step in range(1, 6):
            if step == 2 and count < 4:
                raise RuntimeError("stumbled")
            tune.report({"score": float(step)})

    grid = fit(
        stumble,
        tmp_path,
        space={"folder": str(tmp_path)},
        num_samples=1,
        stop=TrialPlateauStopper("score", num_results=3, grace_period=0),
        run={"failure_config": tune.FailureConfig(max_failures=5)},
    )
    assert not grid.errors
    assert grid[0].metrics["score"] == 5.0
    assert len(items(grid, Reported)) == 4 + 5
    assert story(grid).results == 5


def test_a_stopper_begins_anew_when_the_experiment_is_restored(tmp_path: Path) -> None:
    def stand(config: dict[str, Any]) -> None:
        """Report the same score, and fail after iteration 3 where that is not mended."""
        step, _ = load_state() or (0, 0.0)
        while True:
            step += 1
            report_state(step, 0.0, {"score": 1.0}, save=True)
            if step == 3 and not Path(config["folder"], "mended").exists():
                raise RuntimeError("not mended")

    grid = fit(stand, tmp_path, space={"folder": str(tmp_path)}, num_samples=1, stop=TrialPlateauStopper("score"))
    assert grid.errors
    (tmp_path / "mended").touch()
    grid = tune.Tuner.restore(grid.experiment_path, stand, resume_errored=True).fit()
    assert not grid.errors
    assert grid[0].metrics["training_iteration"] == 3 + 4


def test_a_stopper_of_the_users_own(tmp_path: Path) -> None:
    class Own(Stopper):
        """Ends trial 0 at once, and all when anybody scores 2."""

        def __init__(self) -> None:
            self.enough = False

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            self.enough = self.enough or result["score"] >= 2
            return trial_id.endswith("_00000")

        def stop_all(self) -> bool:
            return self.enough

    grid = fit(climb, tmp_path, space={"lr": 0.25}, stop=Own())
    assert grid[0].metrics["training_iteration"] == 1
    assert max(each.metrics.get("score", 0.0) for each in grid) == 2.0
    assert story(grid).stopped == "the stopper ended the experiment"


def test_a_stopper_that_cannot_judge_ends_the_run_with_its_name(tmp_path: Path) -> None:
    def words(config: dict[str, Any]) -> None:
        tune.report({"score": 1.0, "word": "good"})

    with pytest.raises(ValueError, match=r"TrialPlateauStopper raised ConfigError: .*'word' must be a number"):
        fit(words, tmp_path, stop=TrialPlateauStopper("word"))


def test_what_a_stopper_said_is_in_the_journal(tmp_path: Path) -> None:
    from shoal.core.events import Reported

    grid = fit(climb, tmp_path, num_samples=1, stop=MaximumIterationStopper(2))
    assert [report.stop for report in items(grid, Reported)] == [None, "the stop condition is met"]
