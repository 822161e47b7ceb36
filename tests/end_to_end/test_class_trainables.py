"""Class trainables: when their methods are called, what becomes of their checkpoints, and what happens if they fail."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import fit as fit_any
from tests.helpers import items, lineage, pbt, run_script, story

from shoal import tune
from shoal.core.commands import Exploit, Retry
from shoal.errors import TrialFailed


class Climber(tune.Trainable):
    """Its score grows by ``lr`` with each step. It writes every call of Shoal's into the file ``log`` of its config.

    Other keys of the config: ``reset`` is what ``reset_config`` returns. ``trip`` is a call, such as ``save 4``, in
    which it raises the first time. ``result`` is added to each result.
    """

    made = 0

    def setup(self, config: dict[str, Any]) -> None:
        type(self).made += 1
        self.number = type(self).made
        self.note("setup")
        self.lr = config["lr"]
        self.score = 0.0

    def step(self) -> dict[str, Any]:
        self.note(f"step {self.iteration + 1}")
        self.score += self.lr
        return {"score": self.score, "number": self.number, "lr": self.lr, **self.config.get("result", {})}

    def save_checkpoint(self, checkpoint_dir: str) -> Any:
        assert os.listdir(checkpoint_dir) == []
        Path(checkpoint_dir, "state.json").write_text(json.dumps([self.iteration, self.score, self.lr]))
        self.note(f"save {self.iteration}")

    def load_checkpoint(self, checkpoint: Any) -> None:
        step, self.score, _ = json.loads(Path(checkpoint, "state.json").read_text())
        self.note(f"load {step}")

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.note("reset")
        self.lr = new_config["lr"]
        return bool(new_config.get("reset", False))

    def cleanup(self) -> None:
        self.note("cleanup")

    def note(self, call: str) -> None:
        """Write a call down, and raise where the config says so."""
        line = json.dumps([self.trial_id, self.number, call])
        with Path(self.config["log"]).open("a") as log:
            log.write(f"{line}\n")
        if self.config.get("trip") == call:
            marker = Path(f"{self.config['log']}.tripped")
            if not marker.exists():
                marker.touch()
                raise RuntimeError(f"tripped in {call}")


class DictClimber(Climber):
    """Its checkpoint is a dict."""

    def save_checkpoint(self, checkpoint_dir: str) -> Any:
        self.note(f"save {self.iteration}")
        return {"score": self.score, "odd": (1, {2}, 3j)}

    def load_checkpoint(self, checkpoint: Any) -> None:
        assert checkpoint["odd"] == (1, {2}, 3j)
        self.score = checkpoint["score"]
        self.note("load dict")


class Lab:
    """Runs small experiments inline, and reads what the trainables have written down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "calls.log"

    def fit(
        self,
        kind: Any = Climber,
        config: dict[str, Any] | None = None,
        *,
        steps: int = 5,
        checkpoint: tune.CheckpointConfig | None = None,
        failures: int = 0,
        **settings: Any,
    ) -> tune.ResultGrid:
        space = {"lr": 1.0, "log": str(self.log), **(config or {})}
        run = {"checkpoint_config": checkpoint, "failure_config": tune.FailureConfig(max_failures=failures)}
        defaults: dict[str, Any] = {"num_samples": 1, "engine": "inline", "stop": {"training_iteration": steps}}
        return fit_any(kind, self.folder / "results", space=space, run=run, **(defaults | settings))

    def pbt(self, kind: Any = Climber, config: dict[str, Any] | None = None, **settings: Any) -> tune.ResultGrid:
        """Four members with different learning rates, an interval of 2, 10 steps."""
        space = {"lr": tune.uniform(0.1, 1.0), **(config or {})}
        scheduler = pbt(perturbation_interval=2, hyperparam_mutations={"lr": tune.uniform(0.1, 1.0)}, synch=True)
        defaults: dict[str, Any] = {"num_samples": 4, "scheduler": scheduler, "steps": 10}
        return self.fit(kind, space, **(defaults | settings))

    def calls(self, trial: int | None = 0) -> list[str]:
        """Return the calls of one trial, or of all, in order."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [call for trial_id, _, call in lines if trial is None or trial_id.endswith(f"_{trial:05d}")]

    def saved(self, grid: tune.ResultGrid) -> list[str]:
        """Return the names of the checkpoint folders of all trials."""
        return sorted(path.name for path in Path(grid.experiment_path).glob("*/checkpoint_*"))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    Climber.made = 0
    return Lab(tmp_path)


def scores(grid: tune.ResultGrid) -> list[float]:
    return [row.report.metrics["score"] for row in story(grid).in_order()[0].rows]


# ------------------------------------------------------------------------------------------------------- what is called


def test_a_class_is_set_up_once_steps_until_it_is_stopped_and_cleans_up(lab: Lab) -> None:
    grid = lab.fit(steps=3)
    assert lab.calls() == ["setup", "step 1", "step 2", "step 3", "cleanup"]
    assert scores(grid) == [1.0, 2.0, 3.0]
    assert grid[0].metrics["training_iteration"] == 3
    assert lab.saved(grid) == []
    assert grid[0].checkpoint is None


def test_it_saves_at_the_frequency_that_the_user_asks_for(lab: Lab) -> None:
    grid = lab.fit(checkpoint=tune.CheckpointConfig(checkpoint_frequency=2))
    assert [call for call in lab.calls() if call.startswith("save")] == ["save 2", "save 4"]
    assert lab.saved(grid) == ["checkpoint_000000", "checkpoint_000001"]
    assert [metrics["training_iteration"] for _, metrics in grid[0].best_checkpoints] == [2, 4]


def test_what_is_kept_of_frequent_checkpoints_is_the_users_choice(lab: Lab) -> None:
    grid = lab.fit(checkpoint=tune.CheckpointConfig(num_to_keep=2, checkpoint_frequency=1))
    assert lab.saved(grid) == ["checkpoint_000003", "checkpoint_000004"]


class Stopper:
    """A stopper as an object."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return bool(result["score"] >= 3)

    def stop_all(self) -> bool:
        return False


@pytest.mark.parametrize("stop", [{"score": 3}, lambda trial_id, result: result["score"] >= 3, Stopper()])
@pytest.mark.parametrize("frequency", [0, 2, 3])
def test_it_saves_once_at_its_end_however_it_is_stopped(lab: Lab, stop: Any, frequency: int) -> None:
    checkpoint = tune.CheckpointConfig(checkpoint_at_end=True, checkpoint_frequency=frequency)
    grid = lab.fit(stop=stop, checkpoint=checkpoint)
    early = ["save 2"] if frequency == 2 else []
    assert [call for call in lab.calls() if call.startswith("save")] == [*early, "save 3"]
    assert lab.calls()[-2:] == ["save 3", "cleanup"]
    assert scores(grid) == [1.0, 2.0, 3.0]
    assert len(lab.saved(grid)) == len(early) + 1
    assert grid[0].checkpoint is not None
    assert json.loads(Path(grid[0].checkpoint.path, "state.json").read_text()) == [3, 3.0, 1.0]


def test_a_result_that_says_done_ends_the_trial(lab: Lab) -> None:
    grid = lab.fit(config={"result": {"done": True}}, checkpoint=tune.CheckpointConfig(checkpoint_at_end=True))
    assert lab.calls() == ["setup", "step 1", "save 1", "cleanup"]
    assert grid[0].metrics["done"] is True
    assert grid.num_terminated == 1


@pytest.mark.parametrize("done", [False, None, 0])
def test_a_result_that_does_not_say_done_goes_on(lab: Lab, done: Any) -> None:
    assert len(scores(lab.fit(config={"result": {"done": done}}))) == 5


def test_a_result_can_ask_for_a_checkpoint_and_may_be_the_same_dict_each_time(lab: Lab) -> None:
    class SameDict(Climber):
        def setup(self, config: dict[str, Any]) -> None:
            super().setup(config)
            self.result: dict[str, Any] = {"should_checkpoint": True}

        def step(self) -> dict[str, Any]:
            self.result.update(super().step())
            self.result["should_checkpoint"] = self.result["should_checkpoint"] if self.iteration < 3 else False
            return self.result

    grid = lab.fit(SameDict)
    assert [call for call in lab.calls() if call.startswith("save")] == ["save 1", "save 2", "save 3"]
    marks = [row.get("should_checkpoint") for row in map(json.loads, _lines(grid, "result.json"))]
    assert marks == [True, True, True, None, None]


def _lines(grid: tune.ResultGrid, name: str) -> list[str]:
    return Path(grid[0].path, name).read_text().splitlines()


@pytest.mark.parametrize("kind", [Climber, DictClimber])
def test_an_object_that_restores_a_checkpoint_of_a_run_is_as_far_as_the_run_was(
    kind: type[Climber], lab: Lab, tmp_path: Path
) -> None:
    result = lab.fit(kind, {"lr": 0.5}, steps=7, checkpoint=tune.CheckpointConfig(checkpoint_at_end=True))[0]
    checkpoint = result.checkpoint
    assert checkpoint is not None
    again = kind({"lr": 0.5, "log": str(tmp_path / "log")})
    again.restore(checkpoint)
    assert (again.iteration, again.score) == (7, 3.5)
    assert again.train()["training_iteration"] == 8
    if kind is DictClimber:
        assert checkpoint.to_dict()["score"] == 3.5


def test_inside_a_run_it_knows_who_it_is(lab: Lab) -> None:
    class Who(Climber):
        def step(self) -> dict[str, Any]:
            who = {"id": self.trial_id, "name": self.trial_name, "cpus": self.trial_resources["cpu"]}
            Path(self.logdir, "mine.txt").touch()
            return {**super().step(), **who, "config_lr": self.get_config()["lr"], "step": self.training_iteration}

    grid = lab.fit(tune.with_resources(Who, {"cpu": 2}), steps=2)
    metrics = grid[0].metrics
    assert (metrics["id"], metrics["name"], metrics["cpus"]) == (grid[0].trial_id, f"Who_{grid[0].trial_id}", 2.0)
    assert (metrics["config_lr"], metrics["step"]) == (1.0, 1)
    assert Path(grid[0].path, "mine.txt").exists()


def test_a_class_gets_large_objects_by_the_names_of_setups_parameters(lab: Lab) -> None:
    class Fed(Climber):
        def setup(self, config: dict[str, Any], data: Any = None, bias: float = 0.0) -> None:
            super().setup(config)
            self.score = sum(data) + bias

    assert scores(lab.pbt(tune.with_parameters(Fed, data=[1, 2, 3], bias=0.5)))[0] == pytest.approx(6.5, abs=1.0)
    assert scores(lab.fit(tune.with_parameters(Fed, data=[1, 2, 3]), steps=1)) == [7.0]


# ------------------------------------------------------------------------------------------------------------- with PBT


def check_exploits(grid: tune.ResultGrid) -> int:
    """Check that each exploit went on from the donor's state with the new config; return how many did."""
    history, checked = story(grid), 0
    for exploit in items(grid, Exploit):
        after = [r for r in history.trials[exploit.trial_id].rows if r.generation == exploit.generation]
        if after:
            assert after[0].report.iteration == exploit.checkpoint.iteration + 1
            assert after[0].report.metrics["lr"] == exploit.new_config["lr"] == after[0].config["lr"]
            expected = exploit.checkpoint.score + exploit.new_config["lr"]
            assert after[0].report.metrics["score"] == pytest.approx(expected)
            checked += 1
    return checked


def test_an_exploit_in_place_resets_the_config_then_loads_and_keeps_the_object(lab: Lab) -> None:
    grid = lab.pbt(config={"reset": True})
    assert check_exploits(grid) >= 3
    history = story(grid)
    for trial in history.in_order():
        calls = " ".join(lab.calls(trial.index))
        assert calls.count("setup") == calls.count("cleanup") == 1
        assert calls.count("reset load") == calls.count("reset") == calls.count("load") == len(trial.exploits)
        assert len({row.report.metrics["number"] for row in trial.rows}) == 1


@pytest.mark.parametrize("kind", [Climber, DictClimber])
def test_an_exploit_without_reset_config_makes_the_object_anew(lab: Lab, kind: type[Climber]) -> None:
    grid = lab.pbt(kind, {"reset": False})
    assert check_exploits(grid) >= 3
    for trial in story(grid).in_order():
        calls = " ".join(lab.calls(trial.index))
        assert calls.count("setup") == calls.count("cleanup") == len(trial.exploits) + 1
        assert calls.count("reset cleanup setup load") == len(trial.exploits)


def test_a_class_without_reset_config_exploits_too(lab: Lab) -> None:
    class Plain(Climber):
        reset_config = tune.Trainable.reset_config

    assert check_exploits(lab.pbt(Plain)) >= 3


def test_it_saves_at_its_boundaries_and_only_the_checkpoints_that_somebody_needs_are_kept(lab: Lab) -> None:
    peak: list[int] = []

    def look(trial_id: str, result: dict[str, Any]) -> bool:
        peak.append(len(list((lab.folder / "results").glob("*/*/*checkpoint_*"))))
        return bool(result["training_iteration"] >= 20)

    grid = lab.pbt(stop=look, num_samples=6)
    assert check_exploits(grid) >= 5
    assert 5 <= max(peak) <= 7
    assert [call for call in lab.calls() if call.startswith("save")][:3] == ["save 2", "save 4", "save 6"]
    assert len(lab.saved(grid)) <= 6
    assert all(result.checkpoint is not None for result in grid)


def test_with_a_checkpoint_at_the_end_each_trial_keeps_exactly_that_of_its_last_result(lab: Lab) -> None:
    for stop in ({"training_iteration": 9}, lambda trial_id, result: result["training_iteration"] >= 10):
        grid = lab.pbt(stop=stop, checkpoint=tune.CheckpointConfig(checkpoint_at_end=True))
        assert len(items(grid, Exploit)) >= 3
        for result in grid:
            (folder,) = Path(result.path).glob("*checkpoint_*")
            checkpoint = result.checkpoint
            assert checkpoint is not None
            assert Path(checkpoint.path) == folder
            step, score, _ = json.loads((folder / "state.json").read_text())
            assert (step, score) == (result.metrics["training_iteration"], result.metrics["score"])


def test_the_decisions_are_the_same_inline_and_in_processes_with_any_number_of_slots(lab: Lab, tmp_path: Path) -> None:
    found = [
        lineage(lab.pbt(config={"reset": True})),
        lineage(lab.pbt(config={"reset": False}, max_concurrent_trials=1, engine="processes")),
        lineage(lab.pbt(config={"reset": True}, max_residents=2, engine="processes")),
    ]
    assert len(found[0]) >= 3
    plain = [[entry[:5] for entry in entries] for entries in found]
    assert plain[0] == plain[1] == plain[2]


# -------------------------------------------------------------------------------------------------------- what can fail


@pytest.mark.parametrize("where", ["setup", "step 4", "save 4", "load 2", "cleanup"])
def test_a_method_that_raises_once_is_tried_again_with_a_new_object(lab: Lab, where: str) -> None:
    # With a checkpoint of step 2, so that a second failure, of step 3, leads to load.
    class Fragile(Climber):
        def step(self) -> dict[str, Any]:
            if where == "load 2" and self.iteration == 2 and self.number == 1:
                raise RuntimeError("first failure")
            return super().step()

    grid = lab.fit(
        Fragile,
        {"trip": where},
        checkpoint=tune.CheckpointConfig(checkpoint_frequency=2),
        failures=2,
    )
    assert grid.num_errors == 0
    assert scores(grid)[-1] == 5.0
    failures = {"cleanup": 0, "load 2": 2}.get(where, 1)
    retries = items(grid, Retry)
    assert len(retries) == failures
    calls = lab.calls()
    assert calls.count("setup") == failures + 1
    # An object whose setup raised was never whole; every other one is cleaned up.
    assert calls.count("cleanup") == failures + (where != "setup")
    if failures:
        assert f"RuntimeError: tripped in {where}" in retries[-1].error


@pytest.mark.parametrize("where", ["reset", "load 4", "cleanup"])
def test_a_method_that_raises_in_an_exploit_is_tried_again_from_the_donors_checkpoint(lab: Lab, where: str) -> None:
    grid = lab.pbt(config={"reset": where == "load 4", "trip": where}, failures=1)
    assert grid.num_errors == 0
    assert Path(f"{lab.log}.tripped").exists()
    assert check_exploits(grid) >= 3
    assert len(items(grid, Retry)) == (where != "cleanup")
    assert [result.metrics["training_iteration"] for result in grid] == [10] * 4
    calls = lab.calls(None)
    assert calls.count("setup") == calls.count("cleanup")


def test_a_cleanup_that_raises_is_shown_and_harms_nobody(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    grid = lab.fit(config={"trip": "cleanup"})
    assert grid.num_errors == 0
    assert grid[0].metrics["training_iteration"] == 5
    assert "shoal: Climber.cleanup raised:" in (shown := capfd.readouterr().err)
    assert "RuntimeError: tripped in cleanup" in shown


def test_a_failure_shows_the_traceback_of_the_class(lab: Lab) -> None:
    for where in ("setup", "step 2", "save 5"):
        marker = Path(f"{lab.log}.tripped")
        marker.unlink(missing_ok=True)
        grid = lab.fit(config={"trip": where}, checkpoint=tune.CheckpointConfig(checkpoint_at_end=True))
        error = grid[0].error
        assert isinstance(error, TrialFailed)
        assert f"RuntimeError: tripped in {where}" in str(error)
        assert 'raise RuntimeError(f"tripped in {call}")' in str(error)
        assert isinstance(error.__cause__, RuntimeError)


def failure(lab: Lab, kind: type[Climber]) -> str:
    """Return why a class fails that is asked for checkpoints; nothing of them must be left."""
    grid = lab.fit(kind, checkpoint=tune.CheckpointConfig(checkpoint_frequency=1))
    assert lab.saved(grid) == []
    assert not list(Path(grid[0].path).glob(".*checkpoint*"))
    return str(grid[0].error)


@pytest.mark.parametrize("returned", [None, 5, [1], "score"])
def test_a_step_that_returns_no_dict_fails_and_says_what_it_must_return(lab: Lab, returned: Any) -> None:
    class Wrong(Climber):
        def step(self) -> Any:
            return returned

    message = failure(lab, Wrong)
    assert "Wrong.step must return a dict of metrics, such as {'mean_accuracy': 0.9}" in message
    assert f"but it returned {returned!r} ({type(returned).__name__})" in message


def test_a_save_checkpoint_that_writes_nothing_fails(lab: Lab) -> None:
    class Empty(Climber):
        def save_checkpoint(self, checkpoint_dir: str) -> Any:
            return None

    assert "Empty.save_checkpoint wrote no file into the folder that it was given and returned no dict" in failure(
        lab, Empty
    )


@pytest.mark.parametrize("returned", ["/tmp", 5, ["a"], "state.json"])
def test_a_save_checkpoint_that_returns_another_path_fails(lab: Lab, returned: Any) -> None:
    class Foreign(Climber):
        def save_checkpoint(self, checkpoint_dir: str) -> Any:
            Path(checkpoint_dir, "state.json").touch()
            return returned

    message = failure(lab, Foreign)
    assert "Foreign.save_checkpoint must write into the folder that it is given and return None, or" in message
    assert f"but it returned {returned!r}" in message


def test_a_save_checkpoint_may_return_a_path_in_its_folder(lab: Lab) -> None:
    class Old(Climber):
        def save_checkpoint(self, checkpoint_dir: str) -> Any:
            super().save_checkpoint(checkpoint_dir)
            return os.path.join(checkpoint_dir, "state.json") if self.iteration % 4 else checkpoint_dir

    assert check_exploits(lab.pbt(Old)) >= 3


def test_a_class_that_reports_by_itself_is_told_to_return_its_results(lab: Lab) -> None:
    class Reporter(Climber):
        def step(self) -> dict[str, Any]:
            tune.report({"score": 1.0})
            return super().step()

    assert "tune.report was called inside of the class Reporter. Return the metrics from" in failure(lab, Reporter)


def test_what_checkpoints_are_ranked_by_is_needed_only_where_one_is_saved(lab: Lab) -> None:
    class Validates(Climber):
        def step(self) -> dict[str, Any]:
            result = super().step()
            return {**result, "val": -self.score} if self.iteration % 2 else result

    ranked: dict[str, Any] = {"checkpoint_score_attribute": "val", "num_to_keep": 1}
    grid = lab.fit(Validates, checkpoint=tune.CheckpointConfig(checkpoint_frequency=2, **ranked))
    assert grid.num_errors == 0
    assert lab.saved(grid) == ["checkpoint_000000", "checkpoint_000001"]
    grid = lab.fit(Validates, checkpoint=tune.CheckpointConfig(checkpoint_frequency=3, **ranked))
    assert "'val' (checkpoint_score_attribute) is not in this report" in str(grid[0].error)
    assert grid[0].metrics["training_iteration"] == 2


def test_a_metric_that_is_missing_is_named_as_for_a_function(lab: Lab) -> None:
    class Without(Climber):
        def step(self) -> dict[str, Any]:
            return {"scor": 1.0}

    assert "'score' (the metric) is not in this report. Did you mean 'scor'?" in failure(lab, Without)


@pytest.mark.parametrize("at_end", [True, False])
def test_an_experiment_that_is_extended_goes_on_from_its_newest_checkpoint(lab: Lab, at_end: bool) -> None:
    config = tune.CheckpointConfig(checkpoint_at_end=at_end, checkpoint_frequency=2)
    grid = lab.fit(stop={"training_iteration": 5}, checkpoint=config)
    more = tune.RunConfig(stop={"training_iteration": 8})
    again = tune.Tuner.restore(grid.experiment_path, Climber, run_config=more).fit()
    assert scores(again) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert lab.calls()[-8 if at_end else -9 :][:2] == ["setup", "load 5" if at_end else "load 4"]


# --------------------------------------------------------------------------------------------------------- in processes


def test_in_processes_too_each_member_has_one_object_that_is_called_as_promised(lab: Lab) -> None:
    grid = lab.pbt(config={"reset": True}, engine="processes", checkpoint=tune.CheckpointConfig(checkpoint_at_end=True))
    assert check_exploits(grid) >= 3
    for trial in story(grid).in_order():
        calls = lab.calls(trial.index)
        assert calls[0] == "setup"
        assert calls[-2:] == ["save 10", "cleanup"]
        assert calls.count("reset") == len(trial.exploits)
        assert len({row.pid for row in trial.rows}) == 1
    assert len(lab.saved(grid)) == 4


def test_a_member_whose_process_is_killed_is_made_anew_from_its_last_checkpoint(lab: Lab) -> None:
    class Mortal(Climber):
        def step(self) -> dict[str, Any]:
            marker = Path(f"{self.config['log']}.killed")
            if self.iteration == 3 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().step()

    grid = lab.fit(Mortal, engine="processes", failures=1, checkpoint=tune.CheckpointConfig(checkpoint_frequency=2))
    assert scores(grid) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert lab.calls() == [
        *("setup", "step 1", "step 2", "save 2", "step 3"),
        *("setup", "load 2", "step 3", "step 4", "save 4", "step 5", "cleanup"),
    ]


SCRIPT = """
import json
from pathlib import Path

from shoal import tune
from shoal.tune.schedulers import PopulationBasedTraining


class Base(tune.Trainable):
    def setup(self, config):
        super().setup(config)
        self.score = 0.0


class Climber(Base):
    def step(self):
        self.score += self.config["lr"]
        return {"score": self.score}

    def save_checkpoint(self, checkpoint_dir):
        Path(checkpoint_dir, "score").write_text(json.dumps(self.score))

    def load_checkpoint(self, checkpoint):
        self.score = json.loads(Path(checkpoint, "score").read_text())

    def reset_config(self, new_config):
        return True


results = tune.Tuner(
    Climber,
    param_space={"lr": tune.uniform(0, 1)},
    tune_config=tune.TuneConfig(
        metric="score",
        mode="max",
        num_samples=4,
        seed=1,
        scheduler=PopulationBasedTraining(
            time_attr="training_iteration",
            perturbation_interval=2,
            hyperparam_mutations={"lr": tune.uniform(0, 1)},
            synch=True,
        ),
    ),
    run_config=tune.RunConfig(stop={"training_iteration": 10}, verbose=0),
).fit()
best = results.get_best_result()
print(results.num_terminated, best.metrics["training_iteration"], len(best.lineage()) > 1, best.checkpoint is not None)
"""


@pytest.mark.parametrize("stdin", [False, True])
def test_a_class_of_a_script_or_of_a_notebook_runs_in_processes(stdin: bool, tmp_path: Path) -> None:
    done = run_script(SCRIPT, tmp_path, stdin=stdin)
    assert done.stderr == ""
    assert done.stdout.strip() == "4 10 True True"


class Net(tune.Trainable):
    """A linear model with momentum; after each load it sets the optimizer's lr from its config, as the guide says."""

    def setup(self, config: dict[str, Any]) -> None:
        import torch

        torch.manual_seed(0)
        self.model = torch.nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config["lr"], momentum=0.9)
        self.data = torch.linspace(-1, 1, 32).reshape(8, 4)

    def step(self) -> dict[str, Any]:
        self.optimizer.zero_grad()
        loss = ((self.model(self.data) - self.data.sum(dim=1, keepdim=True)) ** 2).mean()
        loss.backward()
        self.optimizer.step()
        return {"score": -loss.item(), "used": self.optimizer.param_groups[0]["lr"], "object": id(self.model)}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.config["lr"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True


def test_a_model_that_exploits_in_place_trains_with_the_lr_of_its_config(tmp_path: Path) -> None:
    """What users of such systems trip over first: the donor's optimizer brings the donor's learning rate."""
    grid = fit_any(
        Net,
        tmp_path,
        space={"lr": tune.loguniform(1e-4, 1e-1)},
        scheduler=pbt(perturbation_interval=2, hyperparam_mutations={"lr": tune.loguniform(1e-4, 1e-1)}, synch=True),
        stop={"training_iteration": 12},
        engine="inline",
    )
    history = story(grid)
    assert len(history.exploits) >= 3
    for trial in history.in_order():
        assert all(row.report.metrics["used"] == row.config["lr"] for row in trial.rows)
        assert len({row.report.metrics["object"] for row in trial.rows}) == 1
