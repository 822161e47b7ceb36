"""Nobody waits for the dead, on real processes: each of these runs comes to its end by itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import fit, items, load_state, pbt, report_state, story

from shoal import tune
from shoal.core.commands import Exploit, Status
from shoal.core.events import Failed, Lost

LAST = 12


def train(config: dict[str, Any]) -> None:
    """Member 1 is the one to which something happens, in its first life."""
    step, score = load_state() or (0, 0.0)
    checkpoint = tune.get_checkpoint()
    copied = checkpoint is not None and Path(checkpoint.path).parent != Path(tune.get_context().get_trial_dir())
    struck = tune.get_context().index == 1 and step < config["at"] and not copied
    while True:
        step += 1
        score += config["lr"]
        if struck and step == config["at"]:
            if config["what"] == "return":
                return
            if config["what"] == "raise":
                raise RuntimeError("struck")
            if config["what"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        report_state(step, score, {"score": score, "step": step}, save=step % 2 == 0)


@pytest.mark.parametrize("synch", [False, True], ids=["async", "sync"])
@pytest.mark.parametrize("slots", [1, 2], ids=["one slot", "two slots"])
@pytest.mark.parametrize("what", ["nothing", "return", "raise", "kill"])
@pytest.mark.parametrize("replace_failed", [False, True], ids=["errored", "replaced"])
def test_a_run_comes_to_its_end(synch: bool, slots: int, what: str, replace_failed: bool, tmp_path: Path) -> None:
    grid = fit(
        train, tmp_path, engine="processes", num_samples=4, max_concurrent_trials=slots,
        space={"lr": tune.uniform(0.0, 1.0), "what": what, "at": 7},
        scheduler=pbt(perturbation_interval=2, synch=synch), stop={"training_iteration": LAST},
        run={"failure_config": tune.FailureConfig(replace_failed=replace_failed)},
    )  # fmt: skip
    check(grid, what, replace_failed)


@pytest.mark.parametrize("synch", [False, True], ids=["async", "sync"])
@pytest.mark.parametrize("burn_in", [6, 100], ids=["burn-in", "endless burn-in"])
@pytest.mark.parametrize("what", ["return", "kill"])
def test_a_run_with_a_burn_in_comes_to_its_end(synch: bool, burn_in: int, what: str, tmp_path: Path) -> None:
    grid = fit(
        train, tmp_path, engine="processes", num_samples=4, max_concurrent_trials=2,
        space={"lr": tune.uniform(0.0, 1.0), "what": what, "at": 3},
        scheduler=pbt(perturbation_interval=2, burn_in_period=burn_in, synch=synch), stop={"training_iteration": LAST},
    )  # fmt: skip
    check(grid, what, replace_failed=True)


def check(grid: tune.ResultGrid, what: str, replace_failed: bool) -> None:
    history = story(grid).in_order()
    assert all(trial.status.ended for trial in history)
    others = [trial for trial in history if trial.index != 1]
    assert [(trial.status, trial.iteration) for trial in others] == [(Status.TERMINATED, LAST)] * 3
    one = history[1]
    copied = [exploit for exploit in items(grid, Exploit) if exploit.failed is not None]
    happened = bool(items(grid, Failed) or items(grid, Lost))
    if what in ("nothing", "return") or not happened:
        assert one.status is Status.TERMINATED
        assert not copied
    elif copied:
        assert replace_failed
        assert (one.status, one.iteration) == (Status.TERMINATED, LAST)
    else:
        # Nobody was there to be copied any more, or that was not wanted.
        assert one.status is Status.ERROR
        assert grid[1].error is not None


@pytest.mark.parametrize("replace_failed", [False, True])
@pytest.mark.parametrize("saves", [True, False], ids=["saved there", "not saved there"])
def test_one_that_is_killed_while_it_waits_at_the_barrier_holds_nobody_up(
    saves: bool, replace_failed: bool, tmp_path: Path
) -> None:
    """Member 0 comes last to the barrier, and kills member 1, which waits there."""

    def train(config: dict[str, Any]) -> None:
        index = tune.get_context().index
        mine = tmp_path / f"pid{index}"
        mine.write_text(str(os.getpid()))
        step, score = load_state() or (0, 0.0)
        while True:
            step += 1
            score += config["lr"]
            if index == 0 and step == 4 and not (tmp_path / "done").exists():
                while not (tmp_path / "there").exists():
                    pass
                (tmp_path / "done").touch()
                os.kill(int((tmp_path / "pid1").read_text()), signal.SIGKILL)
            if index == 1 and step == 4:
                (tmp_path / "there").touch()
            report_state(step, score, {"score": score, "step": step}, save=step % 2 == 0 and (saves or step % 4 != 0))

    grid = fit(
        train, tmp_path / "run", engine="processes", num_samples=3, max_concurrent_trials=3,
        scheduler=pbt(perturbation_interval=4, synch=True), stop={"training_iteration": LAST},
        run={"failure_config": tune.FailureConfig(replace_failed=replace_failed)},
    )  # fmt: skip
    history = story(grid).in_order()
    assert all(trial.status.ended for trial in history)
    for trial in (history[0], history[2]):
        assert (trial.status, trial.iteration) == (Status.TERMINATED, LAST)
