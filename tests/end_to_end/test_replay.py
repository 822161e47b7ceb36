"""Replays as users run them: of policy files, Shoal's and Ray Tune's, and of results; with functions and classes."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import climb, fit, items, load_state, pbt, report_state, run_script, story

import shoal
from shoal import tune
from shoal.core.commands import Reconfigure, Retry
from shoal.errors import ConfigError
from shoal.tune.schedulers import PopulationBasedTrainingReplay


class Climber(tune.Trainable):
    """The same as ``climb``, as a class; it goes on in place where its config says so. Objects have numbers."""

    made = 0

    def setup(self, config: dict[str, Any]) -> None:
        type(self).made += 1
        self.number = self.made
        self.score = 0.0

    def step(self) -> dict[str, Any]:
        self.score += self.config["lr"]
        return {"score": self.score, "step": self.iteration + 1, "object": self.number}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"score": self.score}

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.score = checkpoint["score"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return bool(new_config.get("in_place", False))


def original(trainable: Any, storage: Path, engine: str = "inline") -> tune.ResultGrid:
    """Run PBT, in which several exploits are behind the best result."""
    grid = fit(
        trainable,
        storage / "original",
        space={"lr": tune.uniform(0.0, 1.0), "in_place": True, "every": 5},
        scheduler=pbt(synch=True),
        num_samples=6,
        stop={"training_iteration": 30},
        engine=engine,
    )
    assert len(best(grid).lineage()) >= 3
    return grid


def best(grid: tune.ResultGrid) -> tune.Result:
    return grid.get_best_result("score", "max")


def policy_of(grid: tune.ResultGrid) -> Path:
    return Path(grid.experiment_path, f"pbt_policy_{best(grid).trial_id}.txt")


def replay(
    trainable: Any,
    scheduler: Any,
    storage: Path,
    *,
    space: dict[str, Any] | None = None,
    steps: int = 30,
    engine: str = "inline",
    **run: Any,
) -> tune.ResultGrid:
    """Run a replay as the guide does: nothing but the scheduler and a stop condition."""
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(scheduler=scheduler, engine=engine),
        run_config=tune.RunConfig(
            storage_path=storage / "replays", verbose=0, stop={"training_iteration": steps}, **run
        ),
    ).fit()


def used(grid: tune.ResultGrid) -> list[tuple[int, float]]:
    """Return (iteration, lr) of every result of the one trial."""
    (trial,) = story(grid).in_order()
    return [(row.report.iteration, row.config["lr"]) for row in trial.rows]


def scheduled(result: tune.Result, steps: int = 30) -> list[tuple[int, float]]:
    schedule = result.schedule()
    return [(step, schedule.at(step)["lr"]) for step in range(1, steps + 1)]


# ------------------------------------------------------------------------------------------------- to the last bit


@pytest.mark.parametrize(
    ("trainable", "engine"), [(climb, "processes"), (Climber, "processes"), (climb, "inline"), (Climber, "inline")]
)
def test_a_replay_of_a_result_has_the_originals_configs_at_each_step_and_its_final_score(
    trainable: Any, engine: str, tmp_path: Path
) -> None:
    winner = best(original(trainable, tmp_path, engine=engine))
    scheduler = PopulationBasedTrainingReplay.from_result(winner)
    grid = replay(trainable, scheduler, tmp_path, engine=engine)
    assert len(grid) == 1
    assert grid.num_errors == 0
    assert used(grid) == scheduled(winner)
    assert grid[0].metrics["score"] == winner.metrics["score"]
    assert grid[0].metrics["step"] == 30
    assert grid[0].config == winner.config
    assert [change.iteration for change in items(grid, Reconfigure)] == [
        step for step, _ in winner.schedule().changes[1:]
    ]
    assert len({row.pid for row in story(grid).in_order()[0].rows}) == 1
    assert grid[0].schedule().changes == winner.schedule().changes
    again = replay(trainable, PopulationBasedTrainingReplay.from_result(grid[0]), tmp_path)
    assert again[0].metrics["score"] == winner.metrics["score"]


@pytest.mark.parametrize("trainable", [climb, Climber])
def test_a_policy_file_replays_to_the_end(trainable: Any, tmp_path: Path) -> None:
    """Ray Tune's replay stops early without an error, or crashes (its defect 1)."""
    run = original(trainable, tmp_path)
    winner = best(run)
    grid = replay(trainable, PopulationBasedTrainingReplay(policy_of(run)), tmp_path)
    assert used(grid) == scheduled(winner)
    assert grid[0].metrics["score"] == winner.metrics["score"]
    assert grid.num_terminated == 1


def test_a_replay_can_be_longer_or_shorter_than_the_original(tmp_path: Path) -> None:
    run = original(climb, tmp_path)
    winner = best(run)
    scheduler = PopulationBasedTrainingReplay.from_result(winner)
    assert used(replay(climb, scheduler, tmp_path, steps=40)) == scheduled(winner, 40)
    assert used(replay(climb, scheduler, tmp_path, steps=7)) == scheduled(winner, 7)


def test_a_result_that_was_read_from_its_folder_gives_the_same_replay(tmp_path: Path) -> None:
    run = original(climb, tmp_path)
    found = best(tune.ResultGrid.read(run.experiment_path))
    scheduler = PopulationBasedTrainingReplay.from_result(found)
    assert replay(climb, scheduler, tmp_path)[0].metrics["score"] == best(run).metrics["score"]


def test_a_class_goes_on_in_place_where_it_can(tmp_path: Path) -> None:
    run = original(Climber, tmp_path)
    for in_place in (True, False):
        lines = [json.loads(line) for line in policy_of(run).read_text().splitlines()]
        for line in lines:
            line[4]["in_place"] = line[5]["in_place"] = in_place
        file = tmp_path / "pbt_policy.txt"
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        grid = replay(Climber, PopulationBasedTrainingReplay(file), tmp_path)
        objects = {row.report.metrics["object"] for row in story(grid).in_order()[0].rows}
        assert (len(objects) == 1) == in_place
        assert grid[0].metrics["score"] == best(run).metrics["score"]


def test_the_log_files_of_a_replay_show_each_config(tmp_path: Path) -> None:
    run = original(climb, tmp_path)
    grid = replay(climb, PopulationBasedTrainingReplay(policy_of(run)), tmp_path)
    folder = Path(grid[0].path)
    rows = [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]
    assert [(row["training_iteration"], row["config"]["lr"]) for row in rows] == scheduled(best(run))
    assert json.loads((folder / "params.json").read_text()) == best(run).config
    assert not list(Path(grid.experiment_path).glob("pbt_*"))


# ------------------------------------------------------------------------------------------------------- Ray's files


def ray_file(folder: Path, *lines: tuple[str, str, int, int, float, float]) -> PopulationBasedTrainingReplay:
    """Return a replay of a file as Ray Tune writes it; a line is given with the old and the new learning rate."""
    path = folder / "pbt_policy_40bd6_00001.txt"
    with path.open("w") as file:
        for target, donor, at, step, old, new in lines:
            configs = [{"lr": lr, "momentum": 0.9, "checkpoint_interval": 5} for lr in (old, new)]
            file.write(json.dumps([target, donor, at, step, *configs]) + "\n")
    return PopulationBasedTrainingReplay(path)


RAY = (
    ("0_lr=0.1000,momentum=0.9", "2_lr=0.3000,momentum=0.9", 9, 4, 0.3, 0.36),
    ("1_lr=0.2000,momentum=0.9", "0_lr=0.1000,momentum=0.9", 14, 9, 0.36, 0.288),
)


def test_a_function_that_saves_every_five_steps_changes_at_the_checkpoint_after_rays_step(tmp_path: Path) -> None:
    """Ray's steps are one low: 4 and 9 were copied at 5 and 10."""
    grid = replay(climb, ray_file(tmp_path, *RAY), tmp_path, steps=20, engine="processes")
    assert [lr for _, lr in used(grid)] == [0.3] * 5 + [0.36] * 5 + [0.288] * 10
    assert grid[0].metrics["step"] == 20
    assert grid[0].config == {"lr": 0.288, "momentum": 0.9, "checkpoint_interval": 5}
    (notice,) = story(grid).notices
    assert "change the config at step 4, but no checkpoint came with this report" in notice


def test_a_class_changes_at_the_very_step(tmp_path: Path) -> None:
    grid = replay(Climber, ray_file(tmp_path, *RAY), tmp_path, steps=20)
    assert [lr for _, lr in used(grid)] == [0.3] * 4 + [0.36] * 5 + [0.288] * 11
    assert story(grid).notices == []


def test_a_function_that_never_saves_trains_to_the_end_and_the_user_is_told(tmp_path: Path) -> None:
    grid = replay(climb, ray_file(tmp_path, *RAY), tmp_path, space={"every": 1000}, steps=20)
    assert [lr for _, lr in used(grid)] == [0.3] * 20
    assert len(story(grid).notices) == 1


def test_lines_of_weights_that_ray_has_thrown_away_are_not_replayed(tmp_path: Path) -> None:
    left = ("1_lr=0.2000,momentum=0.9", "3_lr=0.4000,momentum=0.9", 5, 5, 0.4, 0.5)
    counts = ("1_lr=0.2000,momentum=0.9", "0_lr=0.1000,momentum=0.9", 10, 10, 0.1, 0.08)
    grid = replay(climb, ray_file(tmp_path, left, counts), tmp_path, steps=15)
    assert [lr for _, lr in used(grid)] == [0.1] * 10 + [0.08] * 5


# --------------------------------------------------------------------------------------------- what can come between


def mortal(config: dict[str, Any]) -> None:
    """``climb``, but its process is killed once in each step that ``deadly`` names."""
    step, score = load_state() or (0, 0.0)
    while True:
        step += 1
        marker = Path(config["marks"], str(step))
        if step in config["deadly"] and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        score += config["lr"]
        report_state(step, score, {"score": score, "step": step}, save=step % 5 == 0)


def test_a_process_that_is_killed_on_the_way_changes_nothing(tmp_path: Path) -> None:
    run = original(climb, tmp_path)
    first = best(run).schedule().changes[1][0]
    space = {"marks": str(tmp_path), "deadly": [1, first, first + 1, 24]}
    grid = replay(
        mortal,
        PopulationBasedTrainingReplay.from_result(best(run)),
        tmp_path,
        space=space,
        engine="processes",
        failure_config=tune.FailureConfig(max_failures=4),
    )
    assert len(items(grid, Retry)) == 4
    assert grid[0].metrics["score"] == best(run).metrics["score"]
    last = dict(used(grid))
    assert list(last.items()) == scheduled(best(run))


@pytest.mark.filterwarnings("ignore:Tuner.restore. .* begin from scratch")
@pytest.mark.parametrize("trainable", [climb, Climber])
def test_a_replay_that_is_cut_off_and_restored_ends_as_if_nothing_had_happened(trainable: Any, tmp_path: Path) -> None:
    run = original(climb, tmp_path)
    scheduler = PopulationBasedTrainingReplay.from_result(best(run))
    first = best(run).schedule().changes[1][0]
    for cut in (first - 1, first, first + 1):
        grid = replay(trainable, scheduler, tmp_path, steps=cut, name=f"cut{cut}")
        for end in (20, 30):
            more = tune.RunConfig(stop={"training_iteration": end}, verbose=0)
            grid = tune.Tuner.restore(grid.experiment_path, trainable, run_config=more).fit()
        assert grid[0].metrics["score"] == best(run).metrics["score"]
        assert list(dict(used(grid)).items()) == scheduled(best(run))
        assert grid[0].schedule().changes == best(run).schedule().changes


KILLED = """
import os
import signal
import sys

from tests.helpers import load_state, report_state
from shoal import tune
from shoal.tune.schedulers import PopulationBasedTrainingReplay


def climb(config):
    step, score = load_state() or (0, 0.0)
    while True:
        step += 1
        if step == 13:
            os.kill(config["driver"], signal.SIGKILL)
            signal.pause()
        score += config["lr"]
        report_state(step, score, {"score": score, "step": step}, save=step % 5 == 0)


replay = PopulationBasedTrainingReplay(sys.argv[1])
tune.Tuner(
    climb,
    param_space={"driver": os.getpid()},
    tune_config=tune.TuneConfig(scheduler=replay),
    run_config=tune.RunConfig(name="killed", stop={"training_iteration": 30}, verbose=0),
).fit()
"""


def test_a_replay_whose_driver_was_killed_goes_on_with_its_schedule(tmp_path: Path) -> None:
    run = original(climb, tmp_path)
    root = str(Path(__file__).parents[2])
    done = run_script(KILLED, tmp_path, args=(str(policy_of(run)),), PYTHONPATH=root)
    assert done.returncode == -signal.SIGKILL, done.stderr
    grid = tune.Tuner.restore(tmp_path / "results" / "killed", climb).fit()
    assert grid[0].metrics["score"] == best(run).metrics["score"]
    assert list(dict(used(grid)).items()) == scheduled(best(run))


def test_a_replay_that_has_begun_goes_on_with_no_other_schedule(tmp_path: Path) -> None:
    run = original(climb, tmp_path)
    grid = replay(climb, PopulationBasedTrainingReplay.from_result(best(run)), tmp_path, steps=7, name="cut")
    lines = [json.loads(line) for line in policy_of(run).read_text().splitlines()]
    lines[-1][5]["lr"] = 0.9
    other = tmp_path / "pbt_policy_other.txt"
    other.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    before = {path: path.read_bytes() for path in Path(grid.experiment_path).rglob("*") if path.is_file()}
    again = tune.TuneConfig(scheduler=PopulationBasedTrainingReplay(other))
    with pytest.raises(ConfigError, match=r"replay\(changes=.* cannot change when an experiment goes on"):
        tune.Tuner.restore(grid.experiment_path, climb, tune_config=again).fit()
    assert all(path.read_bytes() == content for path, content in before.items() if path.name != "journal.lock")


# -------------------------------------------------------------------------------------------------- what users pass


def test_a_replay_trains_one_trial(tmp_path: Path) -> None:
    scheduler = ray_file(tmp_path, *RAY)
    with pytest.raises(ConfigError, match=re.escape("A replay trains one member: leave TuneConfig(num_samples=1)")):
        fit(climb, tmp_path / "results", scheduler=scheduler, num_samples=2)
    with pytest.raises(ConfigError, match="no grid_search in param_space"):
        fit(climb, tmp_path / "results", scheduler=scheduler, num_samples=1, space={"a": tune.grid_search([1, 2])})
    assert not (tmp_path / "results").exists()


def test_the_search_space_adds_keys_and_objects_and_changes_nothing_of_the_schedule(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        step, score = load_state() or (0, 0.0)
        while True:
            step += 1
            score += config["lr"] * shoal.get(config["data"])["scale"]
            report_state(step, score, {"score": score, "note": config["note"]}, save=step % 5 == 0)

    def space(scale: float, **more: Any) -> dict[str, Any]:
        return {"lr": tune.uniform(0, 1), "every": 5, "data": shoal.put({"scale": scale}), "note": "a", **more}

    run = fit(train, tmp_path, space=space(2.0), engine="inline", scheduler=pbt(synch=True))
    winner = best(run)
    assert len(winner.lineage()) > 1
    for scheduler in (
        PopulationBasedTrainingReplay.from_result(winner),
        PopulationBasedTrainingReplay(policy_of(run)),
    ):
        grid = replay(train, scheduler, tmp_path, space=space(1.0, note="b", extra=1), steps=20)
        assert grid[0].metrics["score"] == pytest.approx(winner.metrics["score"] / 2)
        assert grid[0].metrics["note"] == "a"
        assert grid[0].config["extra"] == 1
        assert "lr=" not in Path(grid[0].path).name, "the sampled lr was not used"
        assert [lr for _, lr in used(grid)] == [lr for _, lr in scheduled(winner, 20)]


def test_a_damaged_file_stops_the_script_with_the_line_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "pbt_policy_x.txt"
    path.write_text('["0", "1", 5, 5, {"lr": 1}, {"lr": 2}]\n["0", "1", 5, 5, {"lr"')
    with pytest.raises(ConfigError, match=re.escape(f"line 2 of {path} is no JSON")):
        PopulationBasedTrainingReplay(path)
