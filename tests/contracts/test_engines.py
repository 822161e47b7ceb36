"""What every engine promises: the same experiment gives the same decisions, whatever carries them out."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import climb, fit, items, lineage, load_state, pbt, report_state, story

import shoal
from shoal import tune
from shoal.core.commands import Exploit, Launch, Status
from shoal.core.events import Reported
from shoal.errors import TrialFailed

ENGINES = ("inline", "processes")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_member_reports_and_ends_when_its_function_returns(engine: str, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(3):
            tune.report({"score": step * config["lr"]})

    grid = fit(train, tmp_path, engine=engine, space={"lr": 2.0}, num_samples=2)
    assert [result.metrics["score"] for result in grid] == [4.0, 4.0]
    assert [result.metrics["training_iteration"] for result in grid] == [3, 3]
    assert grid.num_terminated == 2


def test_a_dict_that_the_function_returns_is_its_last_report(engine: str, tmp_path: Path) -> None:
    grid = fit(lambda config: {"score": config["lr"] + 1}, tmp_path, engine=engine, space={"lr": 2.0}, num_samples=1)
    assert grid[0].metrics["score"] == 3.0


def test_a_run_never_overshoots_its_stop_condition(engine: str, tmp_path: Path) -> None:
    grid = fit(climb, tmp_path, engine=engine, stop={"training_iteration": 7})
    assert [len(trial.rows) for trial in story(grid).in_order()] == [7, 7, 7, 7]


def test_leaving_the_function_runs_its_with_and_finally_blocks(engine: str, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()

    def train(config: dict[str, Any]) -> None:
        try:
            while True:
                tune.report({"score": 1.0})
        finally:
            (marks / tune.get_context().get_trial_id()).touch()

    grid = fit(train, tmp_path / "run", engine=engine, num_samples=2, stop={"training_iteration": 2})
    assert {path.name for path in marks.iterdir()} == set(story(grid).trials)


def test_an_exploit_enters_the_function_anew_in_the_same_process_with_the_donors_state(
    engine: str, tmp_path: Path
) -> None:
    def train(config: dict[str, Any]) -> None:
        restored = load_state()
        step, score = restored or (0, 0.0)
        while True:
            step += 1
            score += config["lr"]
            metrics = {"score": score, "restored": score if restored is None else restored[1], "process": os.getpid()}
            report_state(step, score, metrics, save=step % 5 == 0)

    grid = fit(train, tmp_path, engine=engine, scheduler=pbt())
    history = story(grid)
    exploits = items(grid, Exploit)
    assert exploits
    for exploit in exploits:
        rows = history.trials[exploit.trial_id].rows
        after = [row for row in rows if row.generation == exploit.generation]
        if after:
            donor = exploit.checkpoint
            assert after[0].report.metrics["restored"] == donor.score
            assert after[0].report.iteration == donor.iteration + 1
    for trial in history.in_order():
        assert len({row.report.metrics["process"] for row in trial.rows}) == 1


def test_a_function_that_raises_fails_alone_with_its_traceback(engine: str, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(4):
            if step == 2 and tune.get_context().get_trial_id().endswith("00001"):
                raise ZeroDivisionError("the loss exploded")
            tune.report({"score": float(step)})

    grid = fit(train, tmp_path, engine=engine)
    assert grid.num_errors == 1
    assert grid.num_terminated == 3
    error = grid[1].error
    assert isinstance(error, TrialFailed)
    assert "the loss exploded" in str(error)
    assert 'raise ZeroDivisionError("the loss exploded")' in str(error)
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert "the loss exploded" in Path(grid[1].path, "error.txt").read_text()
    assert [len(trial.rows) for trial in story(grid).in_order()] == [4, 2, 4, 4]


def test_a_failed_member_is_launched_again_from_its_last_checkpoint(engine: str, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        step, score = load_state() or (0, 0.0)
        broken = tune.get_checkpoint() is None
        while True:
            step += 1
            if step == 8 and broken:
                raise RuntimeError("once")
            report_state(step, score, {"score": score, "step": step}, save=step % 5 == 0)

    grid = fit(
        train,
        tmp_path,
        engine=engine,
        num_samples=1,
        stop={"training_iteration": 12},
        run={"failure_config": tune.FailureConfig(max_failures=1)},
    )
    assert [report.metrics["step"] for report in items(grid, Reported)] == [*range(1, 8), *range(6, 13)]
    # What was undone does not count, and no step counts twice.
    assert [row.report.metrics["step"] for row in story(grid).in_order()[0].rows] == [*range(1, 13)]
    assert grid[0].error is None


def test_more_members_than_slots_train_in_turn_and_lose_nothing_without_checkpoints(
    engine: str, tmp_path: Path
) -> None:
    """Ray Tune starts a function that never checkpoints from scratch at each pause (its defect 5)."""

    def train(config: dict[str, Any]) -> None:
        step = 0
        while True:
            step += 1
            tune.report({"score": config["lr"] * step, "step": step})

    shoal.init(num_cpus=2, ignore_reinit_error=True)
    try:
        grid = fit(train, tmp_path, engine=engine, num_samples=6, scheduler=pbt())
    finally:
        shoal.shutdown()
    for trial in story(grid).in_order():
        assert [row.report.metrics["step"] for row in trial.rows] == list(range(1, 21))
    assert {launch.launch for launch in items(grid, Launch)} == {1}


def test_residents_beyond_the_limit_leave_through_their_checkpoint_and_go_on_where_they_were(
    engine: str, tmp_path: Path
) -> None:
    grid = fit(climb, tmp_path, engine=engine, num_samples=5, scheduler=pbt(quantile_fraction=0.0), max_residents=2)
    history = story(grid)
    for trial in history.in_order():
        assert [row.report.metrics["step"] for row in trial.rows] == list(range(1, 21))
        assert trial.rows[-1].report.metrics["score"] == pytest.approx(20 * trial.config["lr"])
    assert any(launch.launch > 1 for launch in items(grid, Launch))


def test_the_seeded_synchronous_lineage_is_the_same_on_every_engine_and_number_of_slots(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for name, engine, slots in (
        ("inline", "inline", 1),
        ("one", "processes", 1),
        ("two", "processes", 2),
        ("eight", "processes", 8),
    ):
        shoal.init(num_cpus=slots, ignore_reinit_error=True)
        try:
            grid = fit(
                climb,
                tmp_path / name,
                engine=engine,
                num_samples=8,
                scheduler=pbt(synch=True),
                stop={"training_iteration": 30},
            )
        finally:
            shoal.shutdown()
        scores = [trial.value("score") for trial in story(grid).in_order()]
        found[name] = (lineage(grid), scores)
    assert len(found["one"][0]) >= 8
    assert found["inline"] == found["one"] == found["two"] == found["eight"]


def test_the_context_tells_a_member_who_it_is(engine: str, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        context = tune.get_context()
        tune.report(
            {
                "score": 1.0,
                "id": context.get_trial_id(),
                "name": context.get_trial_name(),
                "dir": context.get_trial_dir(),
                "experiment": context.get_experiment_name(),
                "cpus": context.get_trial_resources()["cpu"],
            }
        )

    grid = fit(train, tmp_path, engine=engine, num_samples=2, run={"name": "who"})
    for trial, result in zip(story(grid).in_order(), grid, strict=True):
        metrics = result.metrics
        assert (metrics["id"], metrics["name"]) == (trial.trial_id, trial.name)
        assert metrics["name"].endswith(metrics["id"])
        assert metrics["dir"] == result.path
        assert metrics["experiment"] == "who"
        assert metrics["cpus"] == 1.0


def test_a_callable_stop_ends_a_trial_with_the_very_result_that_it_saw(engine: str, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def stop(trial_id: str, result: dict[str, Any]) -> bool:
        seen.append((trial_id, result["training_iteration"]))
        return bool(result["score"] >= 3)

    grid = fit(climb, tmp_path, engine=engine, space={"lr": 1.0}, num_samples=2, stop=stop)
    assert [trial.iteration for trial in story(grid).in_order()] == [3, 3]
    assert sorted(seen) == [(trial_id, step) for trial_id in sorted(story(grid).trials) for step in (1, 2, 3)]
    assert all(result.metrics["done"] for result in grid)


def test_a_stopper_can_end_the_whole_experiment(engine: str, tmp_path: Path) -> None:
    class Enough:
        results = 0

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            self.results += 1
            return False

        def stop_all(self) -> bool:
            return self.results >= 4

    grid = fit(climb, tmp_path, engine=engine, num_samples=2, stop=Enough())
    assert grid.num_terminated == 2
    assert story(grid).stopped == "the stopper ended the experiment"
    assert all(trial.status is Status.TERMINATED for trial in story(grid).trials.values())


def test_the_time_budget_ends_members_that_would_go_on_for_ever(engine: str, tmp_path: Path) -> None:
    grid = fit(climb, tmp_path, engine=engine, stop={"training_iteration": 10**9}, num_samples=2, time_budget_s=0.5)
    assert grid.num_terminated == 2
    assert "time budget" in (story(grid).stopped or "")


def test_members_draw_different_random_numbers_and_a_seeded_run_draws_the_same_again(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        import random

        tune.report({"score": random.random()})

    first, second = (
        [
            result.metrics["score"]
            for result in fit(train, tmp_path / name, engine="processes", stop={"training_iteration": 1})
        ]
        for name in ("a", "b")
    )
    assert first == second
    assert len(set(first)) == 4


def test_the_inline_engine_runs_in_this_very_process(tmp_path: Path) -> None:
    seen: list[int] = []

    def train(config: dict[str, Any]) -> None:
        seen.append(os.getpid())
        tune.report({"score": 1.0})

    fit(train, tmp_path, engine="inline", num_samples=2)
    assert seen == [os.getpid()] * 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shoal-")]


def test_the_environment_chooses_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_ENGINE", "inline")
    grid = fit(lambda config: {"score": 1.0}, tmp_path, num_samples=1)
    assert story(grid).in_order()[0].pid == os.getpid()
