"""Members that die: what the user sees, and that the others go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.helpers import climb, fit, load_state, pbt, report_state, story

import shoal
from shoal import tune
from shoal.core.commands import Status


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL; "),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "SIGSEGV"),
        (lambda: os._exit(3), "exited with code 3"),
        (lambda: sys.exit(4), "SystemExit: 4"),
    ],
    ids=["killed", "crashed", "exited", "sys.exit"],
)
def test_a_member_that_dies_says_how_and_the_others_go_on(end: Any, expected: str, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(6):
            tune.report({"score": float(step)})
            if step == 2 and tune.get_context().get_trial_id().endswith("1"):
                end()

    grid = fit(train, tmp_path, num_samples=3)
    assert [result.error is None for result in grid] == [True, False, True]
    assert expected in str(grid[1].error)
    assert len(story(grid).in_order()[1].rows) == 3  # what it had reported is kept


def test_a_killed_member_goes_on_from_its_checkpoint_with_the_config_that_belongs_to_it(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        step, score = load_state() or (0, 0.0)
        fresh = tune.get_checkpoint() is None
        while True:
            step += 1
            score += config["lr"]
            if step == 8 and fresh:
                os.kill(os.getpid(), signal.SIGKILL)
            report_state(step, score, {"score": score, "lr": config["lr"]}, save=step % 5 == 0)

    failures = tune.FailureConfig(max_failures=1)
    grid = fit(train, tmp_path, scheduler=pbt(), run={"failure_config": failures})
    assert grid.num_errors == 0
    for trial in story(grid).in_order():
        assert trial.status is Status.TERMINATED
        assert trial.iteration == 20
        for row in trial.rows:
            assert row.report.metrics["lr"] == row.config["lr"]


def test_a_synchronous_run_does_not_wait_for_a_member_that_has_failed_for_good(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        if tune.get_context().get_trial_id().endswith("2"):
            tune.report({"score": 0.0})
            raise RuntimeError("dead before the barrier")
        climb(config)

    grid = fit(
        train, tmp_path, scheduler=pbt(synch=True),
        run={"failure_config": tune.FailureConfig(replace_failed=False)},
    )  # fmt: skip
    assert [result.error is None for result in grid] == [True, True, False, True]
    assert [result.metrics["training_iteration"] for result in grid] == [20, 20, 1, 20]


def test_fail_fast_ends_the_others(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        if tune.get_context().get_trial_id().endswith("1"):
            raise RuntimeError("first")
        while True:
            tune.report({"score": 0.0})

    grid = fit(
        train, tmp_path, num_samples=2, stop={"training_iteration": 10**9},
        run={"failure_config": tune.FailureConfig(fail_fast=True)},
    )  # fmt: skip
    assert grid.num_errors == 1
    assert "fail_fast" in story(grid).in_order()[0].reason


@pytest.mark.slow
def test_a_member_that_does_not_come_back_is_killed_at_the_end(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        tune.report({"score": 0.0, "process": os.getpid()})
        while True:
            time.sleep(60)

    grid = fit(train, tmp_path, num_samples=1, stop={"training_iteration": 9}, time_budget_s=0.5)
    assert not psutil.pid_exists(grid[0].metrics["process"])


DRIVER = """
import os, sys, time
import shoal
from shoal import tune

def train(config):
    for step in range(10**9):
        tune.report({"score": 1.0})
        if step == 5:
            print("process is up")
        time.sleep(0.02)

tune.Tuner(train, run_config=tune.RunConfig(name="run")).fit()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_no_process_outlives_the_driver(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(DRIVER)
    environment = {**os.environ, "SHOAL_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if b"process is up" in line:
                break
        family = psutil.Process(driver.pid).children(recursive=True)
        assert len(family) >= 2
        driver.send_signal(number)
        driver.stdout.read()
        driver.wait(30)
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []
    from shoal.tune import ResultGrid

    assert ResultGrid.read(tmp_path / "run")[0].metrics["score"] == 1.0


def test_hundreds_of_members_that_start_at_once_all_run(tmp_path: Path) -> None:
    """The warm parent answers each request; neither side may wait for the other to read first."""
    shoal.init(num_cpus=600, ignore_reinit_error=True)
    try:
        grid = fit(lambda config: {"score": config["lr"]}, tmp_path, num_samples=600)
    finally:
        shoal.shutdown()
    assert grid.num_terminated == 600
