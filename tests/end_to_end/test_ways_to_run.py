"""However people start things: scripts without a guard, standard input, notebooks, lambdas, closures, own processes."""

from __future__ import annotations

import functools
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import fit, items, run_script, story

from shoal import tune

SCRIPT = """
import os
from shoal import tune
from shoal.tune.schedulers import PopulationBasedTraining

FACTOR = 2.0

class Model:
    def __init__(self, lr):
        self.lr = lr
    def score(self, step):
        return FACTOR * self.lr * step

def train(config):
    model = Model(config["lr"])
    for step in range(1, 6):
        tune.report({"score": model.score(step), "cwd": os.getcwd()})
    print("trained with", config["lr"])

grid = tune.Tuner(
    train,
    param_space={"lr": tune.grid_search([1.0, 2.0, 3.0])},
    tune_config=tune.TuneConfig(metric="score", mode="max"),
    run_config=tune.RunConfig(name="plain"),
).fit()
print("cwd", {result.metrics["cwd"] for result in grid} == {os.getcwd()})
print("best", grid.get_best_result().config["lr"], grid.get_best_result().metrics["score"])
"""


@pytest.mark.parametrize("stdin", [False, True], ids=["from a file without a guard", "from standard input"])
def test_a_script_runs_as_it_stands(stdin: bool, tmp_path: Path) -> None:
    done = run_script(SCRIPT, tmp_path, stdin=stdin)
    assert done.returncode == 0, done.stderr
    assert "best 3.0 30.0" in done.stdout
    assert "cwd True" in done.stdout


def test_what_members_print_reaches_the_terminal_with_their_names_and_a_log_file(tmp_path: Path) -> None:
    done = run_script(SCRIPT, tmp_path)
    folders = sorted((tmp_path / "results" / "plain").glob("train_*"))
    assert len(folders) == 3
    for folder, lr in zip(folders, ("1.0", "2.0", "3.0"), strict=True):
        name = "_".join(folder.name.split("_")[:3])
        assert f"({name}) trained with {lr}" in done.stdout
        assert (folder / "output.log").read_text() == f"trained with {lr}\n"


def test_a_module_beside_the_script_can_be_imported_by_members(tmp_path: Path) -> None:
    (tmp_path / "mymodel.py").write_text("def score(step):\n    return 10.0 * step\n")
    source = """
    import mymodel
    from shoal import tune

    def train(config):
        tune.report({"score": mymodel.score(2)})

    print("score", tune.Tuner(train).fit()[0].metrics["score"])
    """
    done = run_script(textwrap.dedent(source), tmp_path)
    assert "score 20.0" in done.stdout, done.stderr


def test_plain_pickle_in_a_member_finds_classes_of_the_script(tmp_path: Path) -> None:
    source = """
    import pickle
    from shoal import tune

    class State:
        step = 3

    def train(config):
        tune.report({"score": pickle.loads(pickle.dumps(State())).step})

    print("score", tune.Tuner(train).fit()[0].metrics["score"])
    """
    done = run_script(textwrap.dedent(source), tmp_path)
    assert "score 3" in done.stdout, done.stderr


@pytest.mark.slow
def test_code_in_notebook_cells_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                "from shoal import tune\ndef train(config):\n    tune.report({'score': config['lr'] * 2})"
            ),
            nbformat.v4.new_code_cell(
                "grid = tune.Tuner(train, param_space={'lr': tune.grid_search([1, 2])},\n"
                "    run_config=tune.RunConfig(storage_path='results')).fit()\n"
                "print('scores', [result.metrics['score'] for result in grid])"
            ),
        ]
    )
    nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = "".join(output.get("text", "") for output in notebook.cells[1].outputs)
    assert "scores [2, 4]" in text


class Trainer:
    """A trainable that is an object."""

    def __init__(self, offset: float) -> None:
        self.offset = offset

    def __call__(self, config: dict[str, Any]) -> dict[str, float]:
        return {"score": self.offset + config["lr"]}

    def method(self, config: dict[str, Any]) -> None:
        tune.report({"score": self.offset + config["lr"]})


def with_more(config: dict[str, Any], more: float = 0.0) -> dict[str, float]:
    return {"score": config["lr"] + more}


def test_lambdas_closures_partials_objects_and_methods_are_trainables(tmp_path: Path) -> None:
    offset = 1.0
    trainables: dict[str, Any] = {
        "lambda": lambda config: {"score": config["lr"] + offset},
        "partial": functools.partial(with_more, more=1.0),
        "object": Trainer(1.0),
        "method": Trainer(1.0).method,
    }
    for name, trainable in trainables.items():
        grid = fit(trainable, tmp_path / name, space={"lr": 1.0}, num_samples=1)
        assert grid[0].error is None, name
        assert grid[0].metrics["score"] == 2.0, name


def test_members_may_start_processes_of_their_own_and_none_of_them_stays(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        import multiprocessing
        import subprocess

        left = subprocess.Popen(["sleep", "600"])  # a child that the function forgets
        with multiprocessing.get_context("fork").Pool(2) as pool:
            total = sum(pool.map(abs, [-1, -2, -3]))
        tune.report({"score": total, "left": left.pid})

    grid = fit(train, tmp_path, num_samples=1)
    assert grid[0].error is None, grid[0].error
    assert grid[0].metrics["score"] == 6
    status = Path(f"/proc/{grid[0].metrics['left']}/stat")
    if os.path.isdir("/proc/self"):
        # Gone, or dead and not yet collected by the system's first process.
        assert not status.exists() or status.read_text().split()[2] == "Z"


def test_a_dataloader_with_workers_works_in_a_member(tmp_path: Path) -> None:
    pytest.importorskip("torch")

    def train(config: dict[str, Any]) -> None:
        import torch

        data = torch.utils.data.TensorDataset(torch.arange(8.0))
        loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=2)
        tune.report({"score": sum(float(batch.sum()) for (batch,) in loader), "threads": torch.get_num_threads()})

    grid = fit(train, tmp_path, num_samples=1)
    assert grid[0].error is None, grid[0].error
    assert grid[0].metrics["score"] == 28.0
    assert grid[0].metrics["threads"] == 1


def test_torch_has_as_many_threads_as_the_member_has_cpus(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import shoal

    def train(config: dict[str, Any]) -> None:
        import torch

        tune.report({"score": torch.get_num_threads()})

    shoal.init(num_cpus=4, ignore_reinit_error=True)
    try:
        grid = fit(tune.with_resources(train, {"cpu": 2}), tmp_path, num_samples=1)
    finally:
        shoal.shutdown()
    assert grid[0].metrics["score"] == 2


def test_each_slot_has_gpus_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is needed to see which one a member was given."""
    from tests.helpers import pbt

    from shoal.core.commands import Launch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")

    def train(config: dict[str, Any]) -> None:
        while True:
            tune.report({"score": 1.0, "gpu": os.environ["CUDA_VISIBLE_DEVICES"]})

    grid = fit(
        tune.with_resources(train, {"gpu": 1}),
        tmp_path,
        num_samples=4,
        scheduler=pbt(),
        stop={"training_iteration": 10},
    )
    devices = {(launch.trial_id, launch.launch): ("3", "5")[launch.slot] for launch in items(grid, Launch)}
    for trial in story(grid).in_order():
        for row in trial.rows:
            assert row.report.metrics["gpu"] == devices[trial.trial_id, row.report.launch]
    assert set(devices.values()) == {"3", "5"}


def test_the_users_folder_may_change_after_the_report_without_changing_the_checkpoint(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"

    def train(config: dict[str, Any]) -> None:
        scratch.mkdir(exist_ok=True)
        for step in range(3):
            (scratch / "weights").write_text(str(step))
            tune.report({"score": float(step)}, checkpoint=tune.Checkpoint.from_directory(scratch))
        (scratch / "weights").write_text("overwritten")

    grid = fit(train, tmp_path / "run", num_samples=1)
    kept = sorted(Path(grid[0].path).glob("checkpoint_*/weights"))
    assert [path.read_text() for path in kept] == ["0", "1", "2"]
    assert grid[0].checkpoint is not None
    assert Path(grid[0].checkpoint.path) == kept[-1].parent


def test_folders_that_the_user_makes_in_the_trials_folder_stay(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        Path(tune.get_context().get_trial_dir(), "best_checkpoint_of_mine").mkdir()
        tune.report({"score": 1.0})

    grid = fit(train, tmp_path, num_samples=1)
    assert Path(grid[0].path, "best_checkpoint_of_mine").is_dir()
