"""Members share what the script has put: without copies, for as long as the script lives, and no longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import fit, run_script

from shoal import tune
from shoal.objects import free_all, get, put
from shoal.parameters import with_parameters
from shoal.trainable import Trainable


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    free_all()


def memory_of(path: str) -> dict[str, int]:
    """Return what this process has of a file in its memory, in kB, by the names of /proc/self/smaps."""
    found: dict[str, int] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if "-" in name.partition(" ")[0]:
            inside = line.endswith(path)
        elif inside and rest.endswith("kB"):
            found[name] = found.get(name, 0) + int(rest.split()[0])
    return found


def look(config: dict[str, Any]) -> None:
    """Report what a member sees of the script's objects."""
    data, model = get([config["data"], config["model"]])
    again = get(config["data"])
    try:
        data[0] = 1
        refused = False
    except ValueError:
        refused = True
    metrics: dict[str, Any] = {
        "score": float(data.sum()),
        "refused": refused,
        "same": again is data,
        "output": model(torch.ones(1, 2000)).sum().item(),
        "tied": model[0].weight is model[2].weight,
        "process": os.getpid(),
    }
    if sys.platform == "linux":
        memory = [memory_of(config[name].path) for name in ("data", "model")]
        metrics["mapped"] = sum(found["Rss"] for found in memory)
        metrics["copied"] = sum(found["Anonymous"] for found in memory)
    tune.report(metrics)


def test_members_see_an_array_and_a_model_that_the_script_has_put_without_copying_them(tmp_path: Path) -> None:
    data = np.arange(50_000_000 // 8, dtype=np.float64)
    model = torch.nn.Sequential(torch.nn.Linear(2000, 2000), torch.nn.ReLU(), torch.nn.Linear(2000, 2000))
    model[2].weight = model[0].weight
    space = {"data": put(data), "model": put(model)}
    grid = fit(look, tmp_path, space=space, num_samples=3, stop={"training_iteration": 1})
    assert not grid.errors
    expected = model(torch.ones(1, 2000)).sum().item()
    for result in grid:
        metrics = result.metrics or {}
        assert metrics["score"] == float(data.sum())
        assert metrics["refused"]
        assert metrics["same"]
        assert metrics["tied"]
        assert metrics["output"] == pytest.approx(expected, rel=1e-4)
        assert metrics["process"] != os.getpid()
        if sys.platform == "linux":
            assert 60_000 < metrics["mapped"] < 80_000  # 50 MB, and 16 MB of weights
            assert metrics["copied"] == 0
        assert result.config is not None
        assert result.config["data"] == space["data"]


def look_at_parameter(config: dict[str, Any], data: Any, *, scale: float) -> None:
    tune.report({"score": config["lr"] * 0 + float(data.sum()) * scale, "read_only": not data.flags.writeable})


@pytest.mark.parametrize("engine", ["processes", "inline"])
def test_a_function_with_parameters_gets_them_in_every_member(engine: str, tmp_path: Path) -> None:
    given = tune.with_resources(with_parameters(look_at_parameter, data=np.ones(1000), scale=2.0), {"cpu": 1})
    grid = fit(given, tmp_path, num_samples=2, stop={"training_iteration": 1}, engine=engine)
    assert not grid.errors
    assert [(result.metrics or {})["score"] for result in grid] == [2000, 2000]
    assert all((result.metrics or {})["read_only"] for result in grid)


class Adder(Trainable):
    """A class trainable that gets an array beside its config."""

    def setup(self, config: dict[str, Any], data: Any = None, scale: float = 1.0) -> None:
        self.data, self.scale = data, scale

    def step(self) -> dict[str, Any]:
        return {"score": float(self.data.sum()) * self.scale, "read_only": not self.data.flags.writeable}


def test_a_class_with_parameters_gets_them_in_every_member(tmp_path: Path) -> None:
    given = tune.with_resources(with_parameters(Adder, data=np.ones(1000), scale=2.0), {"cpu": 1})
    grid = fit(given, tmp_path, num_samples=2, stop={"training_iteration": 2})
    assert not grid.errors
    assert [(result.metrics or {})["score"] for result in grid] == [2000, 2000]
    assert all((result.metrics or {})["read_only"] for result in grid)


def use(config: dict[str, Any]) -> None:
    tune.report({"score": get(config["data"])})


def test_a_member_that_gets_what_is_gone_is_told_what_to_do(tmp_path: Path) -> None:
    ref = put(1)
    free_all()
    grid = fit(use, tmp_path, space={"data": ref}, num_samples=1)
    assert len(grid.errors) == 1
    assert "is gone" in str(grid.errors[0])
    assert "Put it again" in str(grid.errors[0])


DCGAN = """
import torch
import shoal
from shoal import objects, tune

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, x):
        return self.layer(x)

def score(model_ref):
    model = objects.get(model_ref)
    assert isinstance(model, Net)
    return model(torch.ones(1, 3)).item()

def train(config):
    while True:
        tune.report({"is_score": score(config["model_ref"]) + config["lr"] * 0})

model = Net()
model.eval()
ref = objects.put(model)
grid = tune.Tuner(
    train,
    run_config=tune.RunConfig(stop={"training_iteration": 2}, verbose=0),
    tune_config=tune.TuneConfig(metric="is_score", mode="max", num_samples=2),
    param_space={"lr": tune.choice([0.1, 0.2]), "model_ref": ref},
).fit()
print([abs(result.metrics["is_score"] - model(torch.ones(1, 3)).item()) < 1e-5 for result in grid])
"""


@pytest.mark.parametrize("stdin", [False, True])
def test_a_model_of_a_class_of_the_script_travels(stdin: bool, tmp_path: Path) -> None:
    ran = run_script(DCGAN, tmp_path, stdin=stdin)
    assert ran.stdout == "[True, True]\n", ran.stderr


BOTH = """
import pickle
from shoal import tune
from shoal.parameters import with_parameters

class Net: ...

def train(config, data):
    tune.report({"score": len(pickle.loads(pickle.dumps([Net(), data])))})

for given in (
    tune.with_resources(with_parameters(train, data=1), {"cpu": 1}),
    with_parameters(tune.with_resources(train, {"cpu": 1}), data=1),
):
    grid = tune.Tuner(
        given,
        run_config=tune.RunConfig(stop={"training_iteration": 1}, verbose=0),
        tune_config=tune.TuneConfig(metric="score", mode="max"),
    ).fit()
    print([result.metrics["score"] for result in grid], grid.errors)
"""


def test_members_can_pickle_what_the_script_defines_behind_both_wrappers(tmp_path: Path) -> None:
    ran = run_script(BOTH, tmp_path)
    assert ran.stdout == "[2] []\n[2] []\n", ran.stderr


def script(source: str) -> str:
    return "import os, signal, sys\nfrom shoal.objects import *\nimport shoal\n" + textwrap.dedent(source)


def path_in(output: str) -> Path:
    path = Path(output.split()[0])
    assert path.is_absolute()
    return path


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "1 / 0", "shoal.shutdown()\nfree_all()"])
def test_nothing_is_left_when_the_script_has_ended(end: str, tmp_path: Path) -> None:
    ran = run_script(
        script(
            f"""
ref = put(bytes(1000))
assert len(get(ref)) == 1000
print(ref.path, os.path.exists(ref.path))
{end}
"""
        ),
        tmp_path,
    )
    path = path_in(ran.stdout)
    assert ran.stdout.endswith("True\n"), ran.stderr
    assert not path.exists()
    assert not path.parent.exists()


def test_what_a_killed_script_left_is_swept_by_the_next_one(tmp_path: Path) -> None:
    killed = run_script(
        script("print(put(bytes(1000)).path, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"), tmp_path
    )
    assert killed.returncode == -signal.SIGKILL
    path = path_in(killed.stdout)
    assert path.exists()
    run_script(script("put(1)"), tmp_path)
    assert not path.parent.exists()


def test_what_a_living_script_has_put_is_not_swept(tmp_path: Path) -> None:
    living = tmp_path / "living.py"
    living.write_text(script("print(put(5).path, flush=True)\nsys.stdin.read()"))
    with subprocess.Popen(
        [sys.executable, str(living)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        path = path_in(process.stdout.readline())
        run_script(script("put(1)"), tmp_path)
        assert path.exists()
        process.communicate("")
    assert not path.parent.exists()


def test_a_fork_of_the_script_deletes_only_what_it_has_put_itself(tmp_path: Path) -> None:
    ran = run_script(
        script(
            """
            ref = put("parent")
            pid = os.fork()
            if pid == 0:
                own = put("child")
                print(own.path, os.path.dirname(own.path) != os.path.dirname(ref.path), *get([ref, own]), flush=True)
                sys.exit(0)
            os.waitpid(pid, 0)
            pid = os.fork()
            if pid == 0:
                shoal.shutdown()
                print(get(ref), flush=True)
                sys.exit(0)
            os.waitpid(pid, 0)
            print(get(ref))
            """
        ),
        tmp_path,
    )
    path = path_in(ran.stdout)
    assert ran.stdout.removeprefix(str(path)) == " True parent child\nparent\nparent\n", ran.stderr
    assert not path.parent.exists()


def test_a_fork_that_outlives_a_killed_script_keeps_nothing_alive(tmp_path: Path) -> None:
    killed = run_script(
        script(
            """
            ref = put(1)
            ready, told = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.write(told, b"x")
                os.close(1), os.close(2)
                signal.pause()
            os.read(ready, 1)
            print(ref.path, pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
            """
        ),
        tmp_path,
    )
    path = path_in(killed.stdout)
    try:
        run_script(script("put(1)"), tmp_path)
        assert not path.parent.exists()
    finally:
        os.kill(int(killed.stdout.split()[1]), signal.SIGKILL)
