"""What is left of a trial's first life when it begins anew after a restore: its rows, and nothing that misleads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import fit, load_state, pbt, report_state

import shoal
from shoal import tune
from shoal.core.events import Reported
from shoal.engines.processes import ProcessEngine
from shoal.errors import ConfigError, JournalError
from shoal.journal.sqlite import SQLiteJournal


def fails_once(config: dict[str, Any]) -> None:
    """Climb; the weak member fails at step 12 as long as a file is there."""
    step, score = load_state() or (0, 0.0)
    while True:
        step += 1
        score += config["lr"]
        if step == 12 and config["lr"] > 0.5 and Path(config["flag"]).exists():
            raise RuntimeError("the disk of the data is gone")
        save = step % 5 == 0 and Path(config["flag"]).exists()
        report_state(step, score, {"score": score}, save=save)


@pytest.fixture
def failed(tmp_path: Path) -> tune.ResultGrid:
    flag = tmp_path / "flag"
    flag.touch()
    space = {"lr": tune.grid_search([0.25, 0.75]), "flag": str(flag)}
    grid = fit(fails_once, tmp_path, space=space, num_samples=1, engine="inline", run={"name": "run"})
    assert [error is not None for error in (grid[0].error, grid[1].error)] == [False, True]
    assert grid[1].checkpoint is not None
    flag.unlink()
    return grid


def test_its_old_checkpoints_are_no_longer_those_of_its_weights(failed: tune.ResultGrid) -> None:
    grid = tune.Tuner.restore(failed.experiment_path, fails_once, restart_errored=True).fit()
    assert grid[1].error is None
    assert grid[1].metrics["training_iteration"] == 20
    assert grid[1].checkpoint is None, "it has saved none since"
    assert len(grid[1].best_checkpoints) == 2, "the old ones are still there"
    assert [segment.first_step for segment in grid[1].lineage()] == [1]
    frame = grid[1].metrics_dataframe
    assert frame is not None
    assert list(frame["training_iteration"]) == [*range(1, 21)]


def test_params_json_follows_values_that_a_restore_replaces(failed: tune.ResultGrid, tmp_path: Path) -> None:
    other = str(tmp_path / "elsewhere")
    grid = tune.Tuner.restore(
        failed.experiment_path, fails_once, restart_errored=True, param_space={"flag": other}
    ).fit()
    assert json.loads(Path(grid[1].path, "params.json").read_text()) == {"lr": 0.75, "flag": other}
    assert grid[1].config["flag"] == other


def test_a_misspelled_argument_of_restore_is_named(failed: tune.ResultGrid) -> None:
    with pytest.raises(ConfigError, match=r"no argument 'resume_error'. Did you mean 'resume_errored'"):
        tune.Tuner.restore(failed.experiment_path, fails_once, resume_error=True)  # type: ignore[call-arg]


def test_a_stop_condition_that_mode_min_makes_doubtful_is_warned_about_again(failed: tune.ResultGrid) -> None:
    folder = Path(failed.experiment_path).parent
    fit(
        fails_once,
        folder,
        space={"lr": 0.1, "flag": ""},
        mode="min",
        num_samples=1,
        engine="inline",
        run={"name": "min"},
    )
    with pytest.warns(UserWarning, match="AT LEAST 3, although mode is 'min'"):
        tune.Tuner.restore(folder / "min", fails_once, run_config=tune.RunConfig(stop={"score": 3})).fit()


def test_a_policy_file_goes_with_the_weights_that_it_tells_of(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    scheduler = pbt(synch=True, hyperparam_mutations={"lr": [0.1, 0.75]}, resample_probability=0.0)
    space = {"lr": tune.grid_search([0.1, 0.75]), "flag": str(flag)}
    grid = fit(
        fails_once, tmp_path, space=space, num_samples=1, scheduler=scheduler, engine="inline", run={"name": "p"}
    )
    failed = [result for result in grid if result.error is not None]
    policies = {path.name for path in Path(grid.experiment_path).glob("pbt_policy_*.txt")}
    assert failed
    assert policies
    flag.unlink()
    again = tune.Tuner.restore(grid.experiment_path, fails_once, restart_errored=True).fit()
    left = {path.name for path in Path(again.experiment_path).glob("pbt_policy_*.txt")}
    assert left.isdisjoint({f"pbt_policy_{result.trial_id}.txt" for result in failed})


class Interrupts(tune.Callback):
    """Interrupts like a second Ctrl-C, while results are being told."""

    def __init__(self) -> None:
        self.results = 0

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        self.results += 1
        if self.results == 7:
            raise KeyboardInterrupt


def ends_at_20(trial_id: str, result: dict[str, Any]) -> bool:
    return bool(result["training_iteration"] >= 20)


def in_pairs(poll: Any) -> Any:
    """Return a ``poll`` that gives results two at a time, as long as two members report."""

    def paired(engine: ProcessEngine, timeout: float) -> list[Any]:
        events = poll(engine, timeout)
        for _ in range(50):
            if sum(isinstance(event, Reported) for event in events) != 1:
                break
            events += poll(engine, 0.1)
        return list(events)

    return paired


@pytest.mark.filterwarnings("ignore:Tuner.restore. .* begin from scratch")
def test_an_interruption_while_results_are_told_writes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProcessEngine, "poll", in_pairs(ProcessEngine.poll))
    shoal.init(num_cpus=2, ignore_reinit_error=True)
    space = {"lr": tune.grid_search([0.25, 0.75]), "flag": str(tmp_path / "no such file")}
    run = {"name": "cut", "callbacks": [Interrupts()]}
    with pytest.raises(KeyboardInterrupt):
        fit(fails_once, tmp_path, space=space, num_samples=1, stop=ends_at_20, run=run)
    shoal.shutdown()
    grid = tune.Tuner.restore(tmp_path / "cut", fails_once, run_config=tune.RunConfig(callbacks=[])).fit()
    assert [result.metrics["training_iteration"] for result in grid] == [20, 20]


def test_a_journal_that_fails_once_can_be_followed_and_lacks_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    space = {"lr": tune.grid_search([0.1, 0.2, 0.3, 0.4]), "flag": str(flag)}
    run = {"name": "full", "checkpoint_config": tune.CheckpointConfig(num_to_keep=1)}
    append, saved = SQLiteJournal.append, [0]

    def fails(journal: SQLiteJournal, items: Any, at: float) -> Any:
        saved[0] += sum(isinstance(item, Reported) and item.checkpoint is not None for item in items)
        if saved[0] == 6:  # the first checkpoints of some trials are about to be replaced
            saved[0] += 1
            raise JournalError("the disk is full")
        return append(journal, items, at)

    monkeypatch.setattr(SQLiteJournal, "append", fails)
    with pytest.raises(JournalError, match="the disk is full"):
        fit(fails_once, tmp_path, space=space, num_samples=1, scheduler=pbt(synch=True), engine="inline", run=run)
    grid = tune.Tuner.restore(tmp_path / "full", fails_once).fit()
    assert [result.metrics["training_iteration"] for result in grid] == [20] * 4
    assert grid.num_errors == 0
