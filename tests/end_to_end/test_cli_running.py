"""``shoal run``, ``resume``, ``replay`` and ``stop`` as users type them: real processes, in a folder of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.simulated import write_experiment

from shoal.cli import main
from shoal.errors import JournalError
from shoal.journal.lock import lock, unlock
from shoal.reading import Experiment, State
from shoal.results import ResultGrid

MODULE = """
import json, pathlib, tempfile, time
from shoal import tune
import arithmetic

class Odd:
    pass

def train(config):
    step, x = 0, 0.0
    if checkpoint := tune.get_checkpoint():
        step, x = json.loads(pathlib.Path(checkpoint.path, "state.json").read_text())
    while True:
        step, x = arithmetic.advance(step, x, config["lr"])
        time.sleep(config.get("pause", 0.0))
        if step == config.get("breaks_at"):
            raise RuntimeError("broken [bold]on purpose")
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "state.json").write_text(json.dumps([step, x]))
            tune.report({"score": x}, checkpoint=tune.Checkpoint.from_directory(folder))
"""

# As the installed script does: without the working directory in sys.path. And with Ctrl-C, which whoever runs the tests
# in the background may have had ignored.
AS_INSTALLED = """
import signal, sys
sys.path[:] = [entry for entry in sys.path if entry]
signal.signal(signal.SIGINT, signal.default_int_handler)
from shoal.cli import main
sys.exit(main())
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A working directory with a module that trains and another that it needs."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "mytrain.py").write_text(MODULE)
    (work / "arithmetic.py").write_text("def advance(step, x, lr):\n    return step + 1, x + lr * (1.0 - x)\n")
    (work / "space.py").write_text("from shoal import tune\nspace = {'lr': tune.loguniform(1e-3, 0.5), 'batch': 64}\n")
    (work / "slow.py").write_text("from shoal import tune\nspace = {'lr': tune.uniform(0.1, 0.2), 'pause': 0.05}\n")
    return work


def start(here: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", AS_INSTALLED, *arguments],
        cwd=here,
        env={**os.environ, "SHOAL_DIR": str(here / "results"), "XDG_CACHE_HOME": str(here / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def shoal(here: Path, *arguments: str) -> tuple[int, str, str]:
    process = start(here, *arguments)
    out, err = process.communicate(timeout=90)
    return process.returncode, out, err


def run_it(here: Path, name: str = "pbt", *more: str) -> tuple[int, str, str]:
    return shoal(
        here, "run", "mytrain:train", "--space", "space.py", "--metric", "score", "--mode", "max", "--num-samples", "4",
        "--stop", "training_iteration=10", "--seed", "1", "--synch", "--name", name, "-v", "0", *more,
    )  # fmt: skip


@pytest.fixture
def running(here: Path) -> Iterator[subprocess.Popen[str]]:
    """An experiment that never ends by itself, of which there are results."""
    process = start(
        here, "run", "mytrain:train", "--space", "slow.py", "--metric", "score", "--mode", "max", "--num-samples", "2",
        "--name", "endless", "-v", "0", "--stop", "score=2",
    )  # fmt: skip
    try:
        until(lambda: results(here / "results" / "endless") >= 3, process)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def results(folder: Path) -> int:
    try:
        return Experiment.open(folder).history.results
    except (JournalError, OSError):
        return 0


def until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_population_trains_with_a_function_of_the_working_directory_and_can_be_extended_and_replayed(
    here: Path,
) -> None:
    code, out, err = run_it(here)
    assert (code, out, err) == (0, "", "")
    folder = here / "results" / "pbt"
    grid = ResultGrid.read(folder)
    assert [result.metrics["training_iteration"] for result in grid] == [10] * 4
    assert all(result.config["batch"] == 64 for result in grid)
    experiment = Experiment.open(folder)
    assert experiment.info.parameters == ["lr"]
    assert experiment.history.perturbations > 0
    assert experiment.info.engine == "processes"

    code, _, err = shoal(here, "resume", "pbt", "mytrain:train", "-v", "0")
    assert code == 0
    assert "Nothing was left to do" in err
    assert shoal(here, "resume", "pbt", "mytrain:train", "--stop", "training_iteration=15", "-v", "0") == (0, "", "")
    assert [result.metrics["training_iteration"] for result in ResultGrid.read(folder)] == [15] * 4

    assert shoal(here, "replay", "pbt", "mytrain:train", "--name", "again", "-v", "0")[0] == 0
    best, again = ResultGrid.read(folder).get_best_result(), ResultGrid.read(here / "results" / "again")[0]
    assert again.metrics["training_iteration"] == 15
    assert again.schedule().changes == best.schedule().changes


def test_what_a_member_takes_stays_when_an_experiment_goes_on_or_is_replayed(here: Path) -> None:
    run_it(here, "wide", "--cpus", "2", "--engine", "inline")
    assert shoal(here, "resume", "wide", "mytrain:train", "--stop", "training_iteration=12", "-v", "0")[0] == 0
    assert shoal(here, "replay", "wide", "mytrain:train", "--name", "again", "-v", "0", "--engine", "inline")[0] == 0
    assert [Experiment.open(here / "results" / name).info.cpus for name in ("wide", "again")] == [2.0, 2.0]


def test_members_that_fail_for_good_lead_to_exit_code_1_and_can_be_tried_again(here: Path) -> None:
    (here / "space.py").write_text("from shoal import tune\nspace = {'lr': tune.grid_search([0.1]), 'breaks_at': 3}\n")
    code, _, err = shoal(
        here, "run", "mytrain:train", "--space", "space.py", "--scheduler", "fifo", "--name", "bad", "-v", "0",
        "--stop", "training_iteration=5",
    )  # fmt: skip
    assert code == 1
    assert "1 of 1 trials failed" in err
    assert "broken [bold]on purpose" in shoal(here, "show", "bad", "0")[1]
    assert json.loads(shoal(here, "list", "--format", "json")[1])[0]["failed"] == 1
    (here / "mytrain.py").write_text(MODULE.replace('config.get("breaks_at")', "None"))
    assert shoal(here, "resume", "bad", "mytrain:train", "--resume-errored", "-v", "0")[0] == 0
    assert [r.metrics["training_iteration"] for r in ResultGrid.read(here / "results" / "bad")] == [5]


def test_stopped_gently_it_ends_with_75_and_goes_on_where_it_was(here: Path, running: subprocess.Popen[str]) -> None:
    assert "running by process" in shoal(here, "status", "endless")[1]
    code, out, _ = shoal(here, "doctor", "endless")
    assert code == 0, out
    assert f"it is being run by process {running.pid}" in out
    code, out, _ = shoal(here, "stop", "endless")
    assert code == 0
    assert f"process {running.pid} on {socket.gethostname()}" in out
    assert "shoal resume endless MODULE:train" in out
    _, err = running.communicate(timeout=60)
    assert running.returncode == 75
    assert "to go on: shoal resume endless mytrain:train" in err
    folder = here / "results" / "endless"
    assert Experiment.open(folder).state is State.INTERRUPTED
    before = results(folder)
    code, _, _ = shoal(here, "resume", "endless", "mytrain:train", "--stop", "training_iteration=1", "-v", "0")
    assert code == 0
    assert Experiment.open(folder).state is State.ENDED
    assert results(folder) >= before
    code, _, err = shoal(here, "stop", "endless")
    assert code == 1
    assert "not running" in err


def test_stopped_now_it_ends_as_by_ctrl_c_with_130(here: Path, running: subprocess.Popen[str]) -> None:
    assert shoal(here, "stop", "endless", "--now")[0] == 0
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in err
    assert "to go on: shoal resume endless mytrain:train" in err


def test_watching_a_run_of_another_process_ends_with_it_or_with_ctrl_c(
    here: Path, running: subprocess.Popen[str]
) -> None:
    watching, leaving = (start(here, "status", "endless", "--watch") for _ in range(2))
    assert leaving.stdout is not None
    assert "RUNNING" in leaving.stdout.readline()
    leaving.send_signal(signal.SIGINT)
    _, err = leaving.communicate(timeout=60)
    assert (leaving.returncode, err) == (0, "")
    assert watching.stdout is not None
    assert "RUNNING" in watching.stdout.readline()
    assert shoal(here, "stop", "endless")[0] == 0
    out, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert "interrupted" in out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("process 4711 on another-host", "ssh another-host kill -TERM 4711"),
        (f"process {2**22 + 5} on {socket.gethostname()}", "not alive"),
        (f"process OTHER on {socket.gethostname()}", "another program by now"),
        ("somebody", "does not say in which process"),
    ],
)
def test_what_is_run_elsewhere_is_not_stopped_but_told_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    folder = write_experiment(tmp_path / "elsewhere", members=2, steps=2)
    held = lock(folder)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        try:
            (folder / "journal.lock").write_text(text.replace("OTHER", str(other.pid)))
            assert main(["stop", str(folder)]) == 1
            assert other.poll() is None
        finally:
            unlock(held)
            other.communicate(b"\n")
    out, err = capsys.readouterr()
    assert out == ""
    assert expected in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "mytrain:train", "--space", "space.py"], ["--metric", "--scheduler fifo"]),
        (["run", "mytrain:train", "--metric", "score"], ["--mode max or --mode min"]),
        (["run", "mytrain:train", "--metric", "score", "--mode", "max"], ["--space FILE", "loguniform"]),
        (["run", "mytrain:train", "--scheduler", "fifo", "--synch"], ["--synch", "fifo"]),
        (["run", "mytrain:trian", "--scheduler", "fifo"], ["Did you mean 'train'?"]),
        (["run", "mytrain:Odd.x", "--scheduler", "fifo"], ["no 'Odd.x'"]),
        (["run", "mytrain:train", "--scheduler", "fifo", "--stop", "score>1"], ["KEY=NUMBER", "score>1"]),
        (["run", "mytrain:train", "--scheduler", "fifo", "--engine", "inlin"], ["Did you mean 'inline'?"]),
        (["run", "mytrain:train", "--space", "space.py", "--metric", "score", "--mode", "mx"], ["'mx'"]),
        (["resume", "nothing", "mytrain:train"], ["no experiment 'nothing'"]),
    ],
)
def test_what_is_wrong_is_told_in_one_line_before_anything_starts(
    here: Path, arguments: list[str], expected: list[str]
) -> None:
    code, out, err = shoal(here, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("shoal: error: ")
    assert all(part in err for part in expected)
    assert not (here / "results").exists()


def test_a_reader_that_has_read_enough_is_no_error(here: Path, tmp_path: Path) -> None:
    for number in range(3):
        write_experiment(here / "results" / f"experiment_{number}", members=2, steps=2)
    command = f"{sys.executable} -m shoal lineage experiment_0 --trial 0 --format csv | true; "
    command += f"{sys.executable} -m shoal list | head -1; {sys.executable} -m shoal list --format json | head -1"
    environment = {**os.environ, "SHOAL_DIR": str(here / "results"), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0].startswith("name ")


def test_the_help_needs_nothing_heavy() -> None:
    code = "import sys; from shoal.cli import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=True)
    loaded: set[Any] = set(done.stdout.split())
    heavy = {
        "torch", "numpy", "pandas", "matplotlib", "plotly", "starlette", "uvicorn", "psutil", "fsspec", "cloudpickle",
        "shoal.driver", "shoal.engines.processes", "shoal.history", "shoal.plots.registry", "shoal.report",
        "shoal.dashboard",
    }  # fmt: skip
    assert not heavy & loaded
