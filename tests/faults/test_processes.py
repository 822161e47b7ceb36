"""Members that behave oddly: exceptions of every kind, forks, threads, streams, modules; each harms itself at most."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import climb, fit, items, load_state, pbt, report_state, run_script, story

import shoal
from shoal import tune
from shoal.core.commands import Exploit, Launch, Retry, Status
from shoal.errors import ConfigError

ENGINES = ("inline", "processes")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def second() -> bool:
    """Whether this is the second member."""
    return tune.get_context().get_trial_id().endswith("00001")


# ---- Exceptions ------------------------------------------------------------------------------------------------------


class Private(BaseException):
    """No Exception."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text today")


class Unpicklable(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (asyncio.CancelledError("cancelled"), "CancelledError: cancelled"),
        (Private("mine"), "Private: mine"),
        (GeneratorExit(), "GeneratorExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit(0), "SystemExit: 0"),
        (Unspeakable(), "Unspeakable"),
        (Exception("\ud800 and \0"), "Exception: "),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_exception_of_any_kind_fails_its_own_trial_only(
    error: BaseException, expected: str, engine: str, tmp_path: Path
) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(3):
            tune.report({"score": float(step)})
            if step == 1 and second():
                raise error

    grid = fit(train, tmp_path, engine=engine, num_samples=3)
    assert [result.error is None for result in grid] == [True, False, True]
    assert expected in str(grid[1].error)
    assert "raise error" in str(grid[1].error)
    assert [len(trial.rows) for trial in story(grid).in_order()] == [3, 2, 3]
    assert expected in Path(grid[1].path, "error.txt").read_text()


def test_an_exception_that_cannot_travel_is_told_by_its_text(engine: str, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        raise Unpicklable("holds a lock")

    grid = fit(train, tmp_path, engine=engine, num_samples=1)
    assert "Unpicklable: holds a lock" in str(grid[0].error)


CATCHES_ALL = """
import sys, tempfile
from pathlib import Path
import shoal.engines.inline
from shoal import tune
from shoal.tune.schedulers import PopulationBasedTraining

shoal.engines.inline._GRACE_S = 0.1  # a thread that cannot be ended is not waited for

def train(config):
    while True:
        try:
            with tempfile.TemporaryDirectory() as folder:
                tune.report({"score": config["score"]}, checkpoint=tune.Checkpoint.from_directory(folder))
        except:
            pass

grid = tune.Tuner(
    train,
    param_space={"score": tune.grid_search([1.0, 2.0, 3.0, 4.0]), "lr": 1.0},
    tune_config=tune.TuneConfig(
        metric="score", mode="max", engine=sys.argv[1],
        scheduler=PopulationBasedTraining(
            time_attr="training_iteration", perturbation_interval=3, synch=True,
            hyperparam_mutations={"lr": tune.uniform(0.5, 1)},
        ),
    ),
    run_config=tune.RunConfig(name="run", verbose=0, stop={"training_iteration": 6}),
).fit()
print("errors:", grid.num_errors, "ended:", grid.num_terminated)
for result in grid.errors:
    print(" ".join(str(result).split()))
"""


def test_a_bare_except_costs_its_trial_at_most_and_never_the_script(engine: str, tmp_path: Path) -> None:
    """The lowest is told to copy another, and cannot be entered again; the others reach their end."""
    ran = run_script(CATCHES_ALL, tmp_path, args=(engine,))
    assert ran.returncode == 0, ran.stderr
    assert "errors: 1 ended: 3" in ran.stdout
    assert "catches BaseException" in ran.stdout
    assert engine != "processes" or "it catches BaseException around tune.report" in ran.stdout
    assert "atch Exception instead" in ran.stdout


# ---- Forks and threads -----------------------------------------------------------------------------------------------


def _raises() -> None:
    raise ValueError("in the child")


def _exits() -> None:
    sys.exit(3)


def _returns() -> None:
    return


@pytest.mark.parametrize("end", [_raises, _exits, _returns])
def test_a_fork_of_the_trainable_does_not_speak_for_the_member(end: Callable[[], None], tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> dict[str, Any] | None:
        tune.report({"score": 1.0})
        child = os.fork()
        if child == 0:
            end()
            return {"score": -1.0}
        os.waitpid(child, 0)
        tune.report({"score": 2.0})
        return {"score": 3.0}

    grid = fit(train, tmp_path, engine="processes", num_samples=2)
    assert grid.num_errors == 0
    for trial in story(grid).in_order():
        assert [row.report.metrics["score"] for row in trial.rows] == [1.0, 2.0, 3.0]


def test_report_in_a_fork_says_where_to_call_it(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        tune.report({"score": 1.0})
        folder = Path(tune.get_context().get_trial_dir())
        child = os.fork()
        if child == 0:
            try:
                tune.report({"score": -1.0})
            except Exception as error:
                (folder / "said").write_text(str(error))
            os._exit(0)
        os.waitpid(child, 0)
        tune.report({"score": 2.0})

    grid = fit(train, tmp_path, engine="processes", num_samples=1)
    assert [row.report.metrics["score"] for row in story(grid).in_order()[0].rows] == [1.0, 2.0]
    assert "in a process that the trainable started" in Path(grid[0].path, "said").read_text()


@pytest.mark.parametrize(("kind", "members"), [("inline", 1), ("processes", 2)])
def test_threads_of_a_member_may_all_report(kind: str, members: int, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        def work(number: int) -> None:
            for step in range(25):
                report_state(step, 0.0, {"score": 1.0, "thread": number, "step": step}, save=step % 5 == 0)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    grid = fit(
        train, tmp_path, engine=kind, num_samples=members, stop={"training_iteration": 1000},
        scheduler=pbt(perturbation_interval=7, quantile_fraction=0.0),
    )  # fmt: skip
    assert grid.num_errors == 0
    for trial in story(grid).in_order():
        assert [row.report.iteration for row in trial.rows] == list(range(1, 101))
        for number in range(4):
            steps = [row.report.metrics["step"] for row in trial.rows if row.report.metrics["thread"] == number]
            assert steps == list(range(25))
        numbers = [row.report.checkpoint.number for row in trial.rows if row.report.checkpoint is not None]
        assert numbers == list(range(20))


# ---- Modules ---------------------------------------------------------------------------------------------------------

BESIDE = """
import sys
from pathlib import Path
import shoal.engines.processes
from shoal import tune

def run(trainable, engine):
    return tune.Tuner(
        trainable, tune_config=tune.TuneConfig(engine=engine), run_config=tune.RunConfig(verbose=0)
    ).fit()

# This process has what it needs before the folder counts; what members need is another matter.
run(lambda config: {"score": 1.0}, "inline")
sys.path.insert(0, str(Path(__file__).parent / "mine"))
import helper

grid = run(helper.train, "processes")
print(grid.num_errors, grid[0].metrics["score"])
"""


@pytest.mark.parametrize("name", ["types", "json", "random", "socket", "queue", "selectors", "pickle", "signal"])
def test_a_module_called_like_one_of_the_standard_library_gets_in_nobodys_way(name: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / f"{name}.py").write_text("raise RuntimeError('the wrong module')\n")
    (mine / "helper.py").write_text("from shoal import tune\n\n\ndef train(config):\n    tune.report({'score': 4.0})\n")
    ran = run_script(BESIDE, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "0 4.0\n"


def test_members_import_from_the_folder_of_the_script(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("SCORE = 5.0\n")
    source = """
from shoal import tune

def train(config):
    import helper
    tune.report({"score": helper.SCORE})

grid = tune.Tuner(train, run_config=tune.RunConfig(verbose=0)).fit()
print(grid.num_errors, grid[0].metrics["score"])
"""
    ran = run_script(source, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "0 5.0\n"


def test_a_module_that_calls_fit_when_it_is_imported_starts_no_avalanche(tmp_path: Path) -> None:
    (tmp_path / "experiment.py").write_text(
        "from shoal import tune\n\n\n"
        "def train(config):\n    tune.report({'score': 1.0})\n\n\n"
        "grid = tune.Tuner(train, run_config=tune.RunConfig(name='run', verbose=0)).fit()\n"
    )
    ran = run_script("import experiment\n", tmp_path)
    assert ran.returncode == 1
    assert "if __name__ == '__main__':" in ran.stderr
    assert list((tmp_path / "results").iterdir()) == []


PICKLES = """
import functools, pickle, sys
from shoal import tune

class Net:
    def __init__(self):
        self.weights = [1.0, 2.0]

def train(config, extra=0):
    net = pickle.loads(pickle.dumps(Net()))
    tune.report({"score": sum(net.weights)})

class Callable:
    def __call__(self, config):
        train(config)

class Holder:
    def method(self, config):
        pickle.loads(pickle.dumps(Net()))
        train(config)

trainables = {
    "function": train,
    "with_resources": tune.with_resources(train, {"cpu": 1}),
    "partial": functools.partial(train, extra=1),
    "both": tune.with_resources(functools.partial(train, extra=1), {"cpu": 1}),
    "object": Callable(),
    "method": Holder().method,
}
for name, trainable in trainables.items():
    grid = tune.Tuner(trainable, run_config=tune.RunConfig(name=name, verbose=0)).fit()
    print(name, [str(error) for error in grid.errors] or grid[0].metrics["score"])
"""


def test_members_can_pickle_what_the_script_defines_however_the_function_is_wrapped(tmp_path: Path) -> None:
    ran = run_script(PICKLES, tmp_path)
    assert ran.returncode == 0, ran.stderr
    names = ("function", "with_resources", "partial", "both", "object", "method")
    assert ran.stdout.splitlines() == [f"{name} 3.0" for name in names]


@pytest.mark.parametrize("given", [None, "/somewhere/of/mine"])
def test_processes_that_a_member_starts_see_the_users_own_pythonpath(given: str | None, tmp_path: Path) -> None:
    source = """
import os, subprocess, sys
from shoal import tune

def train(config):
    seen = subprocess.run(
        [sys.executable, "-c", "import os; print(os.environ.get('PYTHONPATH'))"], capture_output=True, text=True
    )
    tune.report({"score": 1.0, "path": seen.stdout.strip(), "mine": str(os.environ.get("PYTHONPATH"))})

os.environ.pop("PYTHONPATH", None)
if len(sys.argv) > 1:
    os.environ["PYTHONPATH"] = sys.argv[1]
grid = tune.Tuner(train, run_config=tune.RunConfig(verbose=0)).fit()
print(grid[0].metrics["path"], grid[0].metrics["mine"])
"""
    ran = run_script(source, tmp_path, args=() if given is None else (given,))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"{given} {given}\n"


def test_torch_in_the_module_of_the_trainable_works_with_several_threads(tmp_path: Path) -> None:
    """Its pool of threads does not survive a fork: a member would wait for it for ever."""
    pytest.importorskip("torch")
    (tmp_path / "model.py").write_text(
        "import torch\nfrom shoal import tune\n\n"
        "START = torch.ones(300, 300) @ torch.ones(300, 300)\n\n\n"
        "def train(config):\n"
        "    for _ in range(3):\n"
        "        product = (START @ START).sum().item()\n"
        "        tune.report({'score': product, 'threads': torch.get_num_threads()})\n"
    )
    source = """
import shoal
from shoal import tune
import model

shoal.init(num_cpus=4)
grid = tune.Tuner(
    tune.with_resources(model.train, {"cpu": 2}), tune_config=tune.TuneConfig(num_samples=2),
    run_config=tune.RunConfig(verbose=0),
).fit()
print(grid.num_terminated, [result.metrics["training_iteration"] for result in grid], grid[0].metrics["threads"])
"""
    ran = run_script(source, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "2 [3, 3] 2\n"


# ---- Configs ---------------------------------------------------------------------------------------------------------


class LoadsBadly:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> Any:
        return (int, ("this is no number",))


def test_a_config_that_cannot_be_loaded_fails_its_own_trial(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        tune.report({"score": 1.0})

    grid = fit(
        train, tmp_path, engine="processes", num_samples=1, space={"value": tune.grid_search([1, LoadsBadly(), 3])}
    )
    assert [result.error is None for result in grid] == [True, False, True]
    assert "this is no number" in str(grid[1].error)
    assert grid[0].metrics["score"] == grid[2].metrics["score"] == 1.0


def test_a_config_value_that_cannot_be_pickled_is_named_before_anything_is_written(engine: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)param_space\['guard'\].*\(lock\).*cannot be pickled.*inside"):
        fit(climb, tmp_path, engine=engine, space={"lr": 0.5, "guard": threading.Lock()})
    assert list(tmp_path.iterdir()) == []


# ---- Deaths and retries ----------------------------------------------------------------------------------------------


def _once(path: Path) -> bool:
    """Return True to the first that asks."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def test_a_run_survives_the_death_of_the_parent_of_its_members(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()

    def train(config: dict[str, Any]) -> None:
        step, score = load_state() or (0, 0.0)
        while True:
            step += 1
            score += config["lr"]
            if second() and step in (7, 13) and _once(marks / str(step)):
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(60)  # ends with its parent
            report_state(step, score, {"score": score, "step": step}, save=step % 5 == 0)

    failures = tune.FailureConfig(max_failures=2)
    grid = fit(train, tmp_path / "run", scheduler=pbt(), run={"failure_config": failures})
    assert {path.name for path in marks.iterdir()} == {"7", "13"}
    assert grid.num_errors == 0
    assert [result.metrics["step"] for result in grid] == [20] * 4
    assert any("the parent process of the members died" in retry.error for retry in items(grid, Retry))


@pytest.mark.parametrize("with_pbt", [False, True])
def test_one_death_of_the_parent_of_the_members_is_nobodys_failure(with_pbt: bool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def train(config: dict[str, Any]) -> None:
        step, score = load_state() or (0, 0.0)
        while True:
            step += 1
            score += config["lr"]
            if second() and step == 7 and _once(mark):
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(60)  # ends with its parent
            report_state(step, score, {"score": score, "step": step}, save=step % 5 == 0)

    grid = fit(train, tmp_path / "run", scheduler=pbt() if with_pbt else None, engine="processes")
    assert mark.exists()
    assert grid.num_errors == 0
    assert [result.metrics["step"] for result in grid] == [20] * 4
    retries = items(grid, Retry)
    expected = {"the parent process of the members died", "its process died while it waited"}
    assert {retry.error for retry in retries} <= expected
    assert retries
    assert all(retry.innocent and retry.failures == 0 for retry in retries)
    assert not [exploit for exploit in items(grid, Exploit) if exploit.failed]


def test_deaths_of_the_parent_of_the_members_in_a_row_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(config: dict[str, Any]) -> None:
        tune.report({"score": 1.0})
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)

    grid = fit(train, tmp_path, engine="processes", num_samples=1, run={"verbose": 1})
    expected = "the parent process of the members died, 3 times in a row before this trial got any further"
    assert expected in str(grid[0].error)
    assert len(story(grid).in_order()[0].rows) == 1
    assert "It counts as no failure; it is tried again from the start." in capsys.readouterr().out


KILLED_WHILE_IT_LOADS = """
import os, sys
from pathlib import Path

Path("trainer.py").write_text('''
import os, signal, time
from pathlib import Path
from shoal import tune

LOADS = Path("loads")
if "IN_MEMBERS" in os.environ:
    with LOADS.open("a") as file:
        file.write("x")
    if LOADS.stat().st_size == 2:
        os.kill(os.getpid(), signal.SIGKILL)

def train(config):
    if LOADS.stat().st_size == 1:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)  # ends with its parent
    tune.report({"score": 1.0})
''')
sys.path.insert(0, os.getcwd())
import trainer
from shoal import tune

os.environ["IN_MEMBERS"] = "1"
grid = tune.Tuner(trainer.train, run_config=tune.RunConfig(verbose=1)).fit()
print("errors:", grid.num_errors, "loads:", trainer.LOADS.read_text())
"""


def test_a_parent_of_the_members_that_is_killed_while_it_loads_again_is_nobodys_failure(tmp_path: Path) -> None:
    ran = run_script(KILLED_WHILE_IT_LOADS, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "errors: 0 loads: xxx" in ran.stdout
    assert "was killed while it loaded the trainable" in ran.stdout


def test_a_function_that_always_fails_comes_to_an_end_without_a_limit_of_failures(engine: str, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        raise RuntimeError("never works")

    run = {"failure_config": tune.FailureConfig(max_failures=-1)}
    grid = fit(train, tmp_path, engine=engine, num_samples=2, run=run)
    assert grid.num_errors == 2
    for trial in story(grid).in_order():
        assert trial.launches == 20
        assert "failed 20 times in a row without a single report" in trial.reason
        assert "never works" in trial.reason


def test_a_function_that_reports_before_it_fails_is_tried_on(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        tune.report({"score": 1.0})
        attempts = Path(tune.get_context().get_trial_dir(), "attempts")
        with attempts.open("a") as file:
            file.write("x")
        if attempts.stat().st_size < 30:
            raise RuntimeError("not yet")

    run = {"failure_config": tune.FailureConfig(max_failures=-1)}
    grid = fit(train, tmp_path, engine="processes", num_samples=1, run=run)
    assert grid.num_errors == 0
    assert story(grid).in_order()[0].launches == 30


def test_a_slot_is_entered_only_when_its_process_has_left(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def train(config: dict[str, Any]) -> None:
        def note(what: str) -> None:
            fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(fd, f"{what} {tune.get_context().index}\n".encode())
            os.close(fd)

        note("enter")
        try:
            while True:
                tune.report({"score": 1.0})
        finally:
            time.sleep(0.2)  # frees its GPU's memory, say
            note("leave")

    grid = fit(
        train, tmp_path / "run", engine="processes", num_samples=3, max_concurrent_trials=1,
        stop={"training_iteration": 2},
    )  # fmt: skip
    assert grid.num_terminated == 3
    assert log.read_text().splitlines() == [f"{what} {index}" for index in range(3) for what in ("enter", "leave")]


def test_trials_that_leave_through_a_checkpoint_do_not_overlap_in_their_slot_either(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()

    def train(config: dict[str, Any]) -> None:
        mine = inside / f"{tune.get_context().index}"
        others = len(list(inside.iterdir()))
        mine.touch()
        try:
            step, score = load_state() or (0, 0.0)
            while True:
                step += 1
                report_state(step, score, {"score": score, "others": others}, save=True)
        finally:
            time.sleep(0.05)
            mine.unlink()

    grid = fit(
        train, tmp_path / "run", engine="processes", num_samples=3, max_concurrent_trials=1, max_residents=1,
        scheduler=pbt(quantile_fraction=0.0), stop={"training_iteration": 10},
    )  # fmt: skip
    assert grid.num_terminated == 3
    assert any(launch.launch > 1 for launch in items(grid, Launch))
    assert {row.report.metrics["others"] for trial in story(grid).in_order() for row in trial.rows} == {0}


# ---- What members print ----------------------------------------------------------------------------------------------


def test_a_member_may_print_megabytes_without_a_new_line(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(20):
            print("x" * (1 << 20), end="", flush=True)
            tune.report({"score": float(step)})

    grid = fit(train, tmp_path, engine="processes", num_samples=2)
    assert grid.num_terminated == 2
    for result in grid:
        assert Path(result.path, "output.log").read_bytes() == b"x" * (20 << 20)


def test_of_a_line_that_rewrites_itself_the_last_state_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(101):
            print(f"{step}% done", end="\r", flush=True)
        print("100% done, at last")
        os.write(2, b"dos\r\n")
        tune.report({"score": 1.0})

    grid = fit(train, tmp_path, engine="processes", num_samples=1, run={"verbose": 1})
    shown = capfd.readouterr().out
    assert [line for line in shown.splitlines() if "done" in line] == [f"({grid_name(grid)}) 100% done, at last"]
    assert f"({grid_name(grid)}) dos\n" in shown
    assert "\r" not in shown
    assert Path(grid[0].path, "output.log").read_text().startswith("0% done\n1% done\n")  # universal newlines


def grid_name(grid: tune.ResultGrid) -> str:
    """Return the name of the first trial."""
    return story(grid).in_order()[0].name


def test_what_a_member_prints_right_before_it_is_killed_is_kept(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for number in range(2000):
            print(f"line {number}")
        os.kill(os.getpid(), signal.SIGKILL)

    grid = fit(train, tmp_path, engine="processes", num_samples=1)
    assert Path(grid[0].path, "output.log").read_text().splitlines() == [f"line {number}" for number in range(2000)]


# ---- Nested experiments and leftovers --------------------------------------------------------------------------------


def test_an_experiment_inside_a_trainable_leaves_the_outer_report_working(engine: str, tmp_path: Path) -> None:
    def outer(config: dict[str, Any]) -> None:
        mine = tune.get_context().get_trial_id()
        tune.report({"score": 0.0, "id": mine})

        def inner(config: dict[str, Any]) -> None:
            tune.report({"score": config["x"]})

        grid = tune.Tuner(
            inner,
            param_space={"x": tune.grid_search([1.0, 2.0])},
            tune_config=tune.TuneConfig(engine="inline", metric="score", mode="max"),
            run_config=tune.RunConfig(storage_path=tmp_path / "inner", name=mine, verbose=0),
        ).fit()
        tune.report({"score": grid.get_best_result().metrics["score"], "id": tune.get_context().get_trial_id()})

    shoal.init(num_cpus=2, ignore_reinit_error=True)
    try:
        grid = fit(outer, tmp_path / "outer", engine=engine, num_samples=2)
    finally:
        shoal.shutdown()
    assert [str(error) for error in grid.errors] == []
    for trial in story(grid).in_order():
        assert [row.report.metrics["score"] for row in trial.rows] == [0.0, 2.0]
        assert {row.report.metrics["id"] for row in trial.rows} == {trial.trial_id}
        assert tune.ResultGrid.read(tmp_path / "inner" / trial.trial_id).num_terminated == 2


OF_THE_USER = {"checkpoint_000077", "checkpoint_best", "checkpoint_000078.5", "deleted_checkpoint_000002"}
"""Names that the store has not given, although one of them has a number far beyond those that it has come to."""


def test_checkpoints_that_no_report_made_known_are_swept_at_the_end(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        folder = Path(tune.get_context().get_trial_dir())
        for name in (".checkpoint_000078.123", ".deleted_checkpoint_000001", *OF_THE_USER):  # as if one had died there
            (folder / name).mkdir(parents=True)
            (folder / name / "weights").write_text("1")
        for step in range(10**9):
            if second() and step == 3:
                raise RuntimeError("ends the others, which go on reporting for a moment")
            report_state(step, 0.0, {"score": 1.0}, save=True)

    grid = fit(
        train, tmp_path, engine="processes", num_samples=3, stop={"training_iteration": 10**9},
        run={"failure_config": tune.FailureConfig(fail_fast=True)},
    )  # fmt: skip
    for trial, result in zip(story(grid).in_order(), grid, strict=True):
        there = {path.name for path in Path(result.path).glob("*checkpoint_*")}
        # One that was ended before its first report counted may have made them or not.
        mine = OF_THE_USER if trial.rows else there & OF_THE_USER
        assert there - mine == {f"checkpoint_{number:06d}" for number in trial.checkpoints}
        assert mine <= there
        if result.checkpoint is not None:
            assert json.loads(Path(result.checkpoint.path, "state.json").read_text())[0] == trial.iteration - 1
    assert {trial.status for trial in story(grid).in_order()} == {Status.TERMINATED, Status.ERROR}
