"""Defects that were measured in Ray Tune 2.60, each shown to be absent here, on real processes.

The numbers are those of the project's list of measured defects. Those that concern replay and restoring are in
``test_replay.py`` and ``test_restore.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import climb, fit, items, pbt, run_script, story

import shoal
from shoal import tune
from shoal.core.commands import Exploit, Launch
from shoal.core.events import Reported


@pytest.fixture
def two_slots() -> Any:
    shoal.init(num_cpus=2, ignore_reinit_error=True)
    yield
    shoal.shutdown()


def test_2_no_row_of_the_results_is_lost_around_exploits(tmp_path: Path, two_slots: None) -> None:
    grid = fit(climb, tmp_path, num_samples=8, scheduler=pbt(), stop={"training_iteration": 40})
    assert len(items(grid, Exploit)) >= 5
    for trial, result in zip(story(grid).in_order(), grid, strict=True):
        seen = [event.iteration for event in items(grid, Reported) if event.trial_id == trial.trial_id]
        lines = Path(result.path, "result.json").read_text().splitlines()
        assert [json.loads(line)["training_iteration"] for line in lines] == seen
        assert result.metrics_dataframe is not None
        assert result.metrics_dataframe["training_iteration"].tolist() == seen
        assert len(Path(result.path, "progress.csv").read_text().splitlines()) == len(seen) + 1


@pytest.mark.parametrize(("synch", "at_least"), [(True, 200), (False, 30)])
def test_3_a_donors_checkpoint_is_never_deleted_before_it_is_copied(
    synch: bool, at_least: int, tmp_path: Path, two_slots: None
) -> None:
    grid = fit(
        climb,
        tmp_path,
        num_samples=8,
        space={"lr": tune.uniform(0.0, 1.0), "every": 1},
        scheduler=pbt(perturbation_interval=1, quantile_fraction=0.5, synch=synch),
        stop={"training_iteration": 60},
        run={"checkpoint_config": tune.CheckpointConfig(num_to_keep=1)},
    )
    assert grid.num_errors == 0
    exploits = items(grid, Exploit)
    assert len(exploits) >= at_least
    # Each launch found the step and the score that the decision was about.
    rows = {(event.trial_id, event.launch, event.iteration): event for event in items(grid, Reported)}
    for launch in items(grid, Launch):
        first = rows.get((launch.trial_id, launch.launch, launch.iteration + 1))
        if first is not None and launch.checkpoint is not None:
            assert first.metrics["step"] == launch.checkpoint.iteration + 1
            assert first.metrics["score"] == pytest.approx(launch.checkpoint.score + launch.config["lr"])
    left = list(Path(grid.experiment_path).glob("*/checkpoint_*"))
    assert 8 <= len(left) <= 16
    assert not list(Path(grid.experiment_path).glob("*/.*checkpoint*"))


def test_4_every_member_of_the_bottom_quantile_exploits_at_its_boundary(tmp_path: Path, two_slots: None) -> None:
    grid = fit(climb, tmp_path, scheduler=pbt(synch=True), stop={"training_iteration": 12})
    assert len(items(grid, Exploit)) == 2  # one of four members, at the steps 5 and 10


def test_6_a_member_keeps_its_own_seed_and_its_rows_their_own_id(tmp_path: Path) -> None:
    grid = fit(
        climb,
        tmp_path,
        space={"lr": tune.uniform(0.0, 1.0), "seed": tune.randint(0, 10**9), "width": tune.choice([32, 64, 128])},
        scheduler=pbt(),
        stop={"training_iteration": 30},
    )
    history = story(grid)
    exploits = items(grid, Exploit)
    assert exploits
    for exploit in exploits:
        assert exploit.new_config["seed"] == history.trials[exploit.trial_id].initial_config["seed"]
        # What shapes the weights comes with them.
        assert exploit.new_config["width"] == exploit.donor_config["width"]
    for trial, result in zip(history.in_order(), grid, strict=True):
        for line in Path(result.path, "result.json").read_text().splitlines():
            assert json.loads(line)["trial_id"] == trial.trial_id


def test_7_the_policy_files_hold_the_true_steps_and_the_ancestry_of_the_weights(tmp_path: Path) -> None:
    grid = fit(climb, tmp_path, num_samples=6, scheduler=pbt(), stop={"training_iteration": 40})
    history = story(grid)
    folder = Path(grid.experiment_path)
    exploits = items(grid, Exploit)
    lines = [json.loads(line) for line in (folder / "pbt_global.txt").read_text().splitlines()]
    assert lines == [
        [
            history.trials[exploit.trial_id].tag,
            history.trials[exploit.donor_id].tag,
            exploit.iteration,
            exploit.checkpoint.iteration,
            exploit.donor_config,
            exploit.new_config,
        ]
        for exploit in exploits
    ]
    ancestry: dict[str, list[Any]] = {}
    for exploit, line in zip(exploits, lines, strict=True):
        ancestry[exploit.trial_id] = [*ancestry.get(exploit.donor_id, []), line]
    found = {
        path.name.removeprefix("pbt_policy_").removesuffix(".txt"): [
            json.loads(line) for line in path.read_text().splitlines()
        ]
        for path in folder.glob("pbt_policy_*.txt")
    }
    assert found == ancestry
    for trial, result in zip(history.in_order(), grid, strict=True):
        assert json.loads(Path(result.path, "params.json").read_text()) == trial.config
        assert Path(result.path).name.startswith(f"{trial.name}_{trial.tag}_")


def test_12_a_run_of_four_members_over_fifty_iterations_prints_fewer_than_forty_lines(tmp_path: Path) -> None:
    source = """
from shoal import tune
from tests.helpers import climb, pbt
tune.Tuner(
    climb,
    param_space={"lr": tune.uniform(0.0, 1.0)},
    tune_config=tune.TuneConfig(metric="score", mode="max", num_samples=4, scheduler=pbt(), seed=1),
    run_config=tune.RunConfig(stop={"training_iteration": 50}),
).fit()
"""
    done = run_script(source, tmp_path, PYTHONPATH=str(Path(__file__).parents[2]))
    assert done.returncode == 0, done.stderr
    assert 5 <= len((done.stdout + done.stderr).splitlines()) < 40
