"""The driver: interrupted, without a terminal, with functions of the user that raise; and nothing lost or left over."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.helpers import climb, fit, items, pbt, run_script, story

from shoal import tune
from shoal.core.commands import Status
from shoal.core.events import Reported
from shoal.errors import ConfigError, ExperimentExists, SpaceError
from shoal.history import History
from shoal.journal.sqlite import SQLiteJournal
from shoal.tune.schedulers import PopulationBasedTraining

ENGINES = ("inline", "processes")


def told(folder: Path) -> History:
    """Return what the journal in a folder tells."""
    journal = SQLiteJournal.open_for_reading(folder)
    try:
        return History.of(journal.read())
    finally:
        journal.close()


def results(history: History, folder: Path) -> list[tuple[int, int]]:
    """Return for each trial how many results the journal has, and how many lines its ``result.json``."""
    counts: list[tuple[int, int]] = []
    for trial in history.in_order():
        path = folder / trial.folder / "result.json"
        lines = path.read_text().splitlines() if path.exists() else []
        steps = [json.loads(line)["training_iteration"] for line in lines]
        assert steps == [row.report.iteration for row in trial.rows]
        counts.append((len(trial.rows), len(lines)))
    return counts


@contextmanager
def running(source: str, cwd: Path, *arguments: str, **environment: str) -> Generator[subprocess.Popen[str]]:
    """Start a script; what it prints comes line by line."""
    (cwd / "script.py").write_text(source)
    with subprocess.Popen(
        [sys.executable, "script.py", *arguments],
        cwd=cwd,
        env={**os.environ, "SHOAL_DIR": str(cwd), "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def line_of(process: subprocess.Popen[str], wanted: Callable[[str], bool]) -> str:
    """Read on until the wanted line, and return it."""
    assert process.stdout is not None
    seen: list[str] = []
    for line in process.stdout:
        seen.append(line)
        if wanted(line):
            return line
    raise AssertionError(f"the script ended without the line: {''.join(seen)}")


# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------

ENDLESS = """
import json, tempfile
from pathlib import Path
from shoal import tune
from shoal.tune.schedulers import PopulationBasedTraining

def train(config):
    while True:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "state").write_text("1")
            tune.report({"score": config["lr"]}, checkpoint=tune.Checkpoint.from_directory(folder))

tune.Tuner(
    train,
    param_space={"lr": tune.uniform(0, 1)},
    tune_config=tune.TuneConfig(
        metric="score", mode="max", num_samples=4, seed=1, max_concurrent_trials=2,
        scheduler=PopulationBasedTraining(
            time_attr="training_iteration", perturbation_interval=2, hyperparam_mutations={"lr": tune.uniform(0, 1)}
        ),
    ),
    run_config=tune.RunConfig(name="run", verbose=3),
).fit()
print("the fit ended by itself")
"""


POINTS = [1, 2, 3, *sorted(random.Random(7).sample(range(4, 200), 5))]


@pytest.mark.parametrize(
    ("point", "engine"), [*((point, "processes") for point in POINTS), (1, "inline"), (100, "inline")]
)
def test_ctrl_c_at_any_moment_ends_all_trials_and_leaves_a_journal_and_no_process(
    point: int, engine: str, tmp_path: Path
) -> None:
    with running(ENDLESS, tmp_path, SHOAL_ENGINE=engine) as driver:
        count = iter(range(1, point + 1))
        line_of(driver, lambda line: next(count) == point)
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGINT)
        assert driver.stdout is not None
        rest = driver.stdout.read()
        driver.wait(60)
    assert driver.returncode == -signal.SIGINT
    assert rest.count("Traceback (most recent call last)") == 1
    last = rest.rstrip().splitlines()[-1]
    assert last == f"KeyboardInterrupt: to go on: tune.Tuner.restore({str(tmp_path / 'run')!r}, train).fit()"
    assert f"Interrupted. Everything reported so far is in {tmp_path / 'run'}" in rest
    assert "switched off" not in rest
    assert "ended by itself" not in rest
    assert psutil.wait_procs(family, timeout=30)[1] == []
    history = told(tmp_path / "run")
    assert len(history.trials) == 4
    assert {trial.status for trial in history.in_order()} == {Status.TERMINATED}
    assert history.stopped == "interrupted by the user"
    results(history, tmp_path / "run")
    for trial in history.in_order():
        folder = tmp_path / "run" / trial.folder
        there = {path.name for path in folder.glob("*checkpoint_*")}
        assert there == {f"checkpoint_{number:06d}" for number in trial.checkpoints}


STUBBORN = """
import os, time
import shoal.engines.processes
from shoal import tune

shoal.engines.processes._GRACE_S = 3600.0  # only the second Ctrl-C can end this

def train(config):
    tune.report({"score": 1.0})
    try:
        while "NEVER" not in os.environ:
            tune.report({"score": 1.0})
        time.sleep(3600)
    finally:
        port = tune.get_context().session._port
        while not port.pending():  # what it has reported is decided upon when it is told to leave at once
            time.sleep(0.001)
        print("leaving, which takes long")
        time.sleep(3600)

print("started")
tune.Tuner(train, run_config=tune.RunConfig(name="run", verbose=3)).fit()
"""


@pytest.mark.parametrize(
    "last_before",
    ["leaving, which takes long", "Members that train come to their next report first"],
    ids=["while they leave", "while they train"],
)
def test_a_second_ctrl_c_waits_for_nobody_and_leaves_nothing(last_before: str, tmp_path: Path) -> None:
    never = {} if "leaving" in last_before else {"NEVER": "1"}
    with running(STUBBORN, tmp_path, SHOAL_GRACE_S="3600", **never) as driver:
        line_of(driver, lambda line: "train" in line and "iteration" in line)
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGINT)
        line_of(driver, lambda line: last_before in line)
        driver.send_signal(signal.SIGINT)
        driver.communicate(timeout=60)
    assert driver.returncode == -signal.SIGINT
    assert len(family) >= 2
    assert psutil.wait_procs(family, timeout=30)[1] == []
    assert {trial.status for trial in told(tmp_path / "run").in_order()} == {Status.TERMINATED}


def test_a_second_ctrl_c_while_the_place_of_the_run_is_looked_at_ends_all_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = SQLiteJournal.check_place
    looked: list[None] = []

    def interrupted(self: SQLiteJournal) -> None:
        looked.append(None)
        if len(looked) == 3:
            raise KeyboardInterrupt
        look(self)

    def train(config: dict[str, Any]) -> None:
        while True:
            tune.report({"score": 1.0})
            time.sleep(0.01)

    monkeypatch.setattr(SQLiteJournal, "check_place", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(train, tmp_path, num_samples=2, stop={"training_iteration": 10**9}, run={"name": "run"})
    assert {trial.status for trial in told(tmp_path / "run").in_order()} == {Status.TERMINATED}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_handler_of_ctrl_c_is_the_users_again_after_fit(engine: str, tmp_path: Path) -> None:
    def mine(number: int, frame: object) -> None: ...

    def stop(trial_id: str, result: dict[str, Any]) -> bool:
        raise RuntimeError("no")

    def interrupt(trial_id: str, result: dict[str, Any]) -> bool:
        signal.raise_signal(signal.SIGINT)
        return False

    before = signal.signal(signal.SIGINT, mine)
    try:
        fit(climb, tmp_path, engine=engine, num_samples=1)
        assert signal.getsignal(signal.SIGINT) is mine
        with pytest.raises(ConfigError):
            fit(climb, tmp_path, engine=engine, num_samples=1, stop=stop)
        assert signal.getsignal(signal.SIGINT) is mine
        with pytest.raises(KeyboardInterrupt):
            fit(climb, tmp_path, engine=engine, num_samples=1, stop=interrupt)
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_script_that_ignores_ctrl_c_goes_on_ignoring_it(tmp_path: Path) -> None:
    def interrupt(trial_id: str, result: dict[str, Any]) -> bool:
        signal.raise_signal(signal.SIGINT)
        return bool(result["training_iteration"] >= 3)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        grid = fit(climb, tmp_path, num_samples=1, stop=interrupt)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert grid[0].metrics["training_iteration"] == 3


# ---- Threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_fits_run_in_threads_also_two_at_once(engine: str, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    together = threading.Barrier(2, timeout=60)
    grids: dict[str, tune.ResultGrid] = {}

    def run(name: str) -> None:
        met: list[bool] = []

        def stop(trial_id: str, result: dict[str, Any]) -> bool:
            if not met:
                met.append(True)
                together.wait()  # both are in the middle of their run
            return False

        grids[name] = fit(ten, tmp_path / name, engine=engine, num_samples=2, scheduler=pbt(), stop=stop)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert sorted(grids) == ["one", "two"]
    for grid in grids.values():
        assert grid.num_terminated == 2
        assert [result.metrics["training_iteration"] for result in grid] == [10, 10]
    assert signal.getsignal(signal.SIGINT) is before


def ten(config: dict[str, Any]) -> None:
    for _ in range(10):
        tune.report({"score": config["lr"]})


# ---- The user's functions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stop_function_that_raises_is_named_and_what_was_reported_is_kept(engine: str, tmp_path: Path) -> None:
    def stop_when_bored(trial_id: str, result: dict[str, Any]) -> bool:
        if result["training_iteration"] == 3:
            raise ZeroDivisionError("bored")
        return False

    with pytest.raises(ConfigError, match=r"stop_when_bored raised ZeroDivisionError: bored.*iteration 3") as error:
        fit(climb, tmp_path, engine=engine, num_samples=2, stop=stop_when_bored, run={"name": "run"})
    assert isinstance(error.value.__cause__, ZeroDivisionError)
    history = told(tmp_path / "run")
    assert {trial.status for trial in history.in_order()} == {Status.TERMINATED}
    assert "bored" in (history.stopped or "")
    assert (2, 2) in results(history, tmp_path / "run")


def test_an_explore_function_that_raises_is_named_and_what_was_reported_is_kept(tmp_path: Path) -> None:
    calls: list[int] = []

    def shake(config: dict[str, Any]) -> dict[str, Any]:
        calls.append(1)
        if len(calls) > 1:  # the first call is the rehearsal
            raise KeyError("momentum")
        return config

    scheduler = pbt(custom_explore_fn=shake, synch=True)
    with pytest.raises(SpaceError, match=r"custom_explore_fn .*shake raised KeyError: 'momentum'"):
        fit(climb, tmp_path, scheduler=scheduler, run={"name": "run"})
    history = told(tmp_path / "run")
    assert [trial.status for trial in history.in_order()] == [Status.TERMINATED] * 4
    assert "momentum" in (history.stopped or "")
    assert results(history, tmp_path / "run") == [(5, 5)] * 4


def test_an_explore_function_that_never_works_is_told_before_anything_is_written(tmp_path: Path) -> None:
    def shake(config: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("momentum")

    with pytest.raises(SpaceError, match="shake raised KeyError"):
        fit(climb, tmp_path, scheduler=pbt(custom_explore_fn=shake))
    assert list(tmp_path.iterdir()) == []


def test_a_callback_that_raises_is_named_once_and_the_run_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Grumpy(tune.Callback):
        def on_trial_result(self, *_: Any, **info: Any) -> None:
            raise ZeroDivisionError("not today")

    class Counting(tune.Callback):
        seen = 0

        def on_trial_result(self, *_: Any, **info: Any) -> None:
            self.seen += 1

    counting = Counting()
    grid = fit(climb, tmp_path, run={"name": "run", "callbacks": [Grumpy(), counting]})
    captured = capfd.readouterr()
    shown = captured.out + captured.err
    assert shown.count("The callback Grumpy raised in on_trial_result") == 1
    assert shown.count("ZeroDivisionError: not today") == 1
    assert grid.num_terminated == 4
    assert counting.seen == 80
    assert results(story(grid), tmp_path / "run") == [(20, 20)] * 4


# ---- Standard streams ------------------------------------------------------------------------------------------------

WAITING = """
import sys, time
from pathlib import Path
from shoal import tune

def train(config):
    tune.report({"score": 0.0})
    while not Path("go").exists():
        time.sleep(0.01)
    for step in range(20):
        print("a line of a member")
        tune.report({"score": 1.0})

grid = tune.Tuner(train, param_space={}, tune_config=tune.TuneConfig(num_samples=2),
                  run_config=tune.RunConfig(name="run", verbose=3)).fit()
Path("result.txt").write_text(f"{grid.num_terminated} {grid[0].metrics['training_iteration']}")
"""


def test_a_run_whose_output_nobody_reads_any_more_goes_on_to_its_end(tmp_path: Path) -> None:
    """``python script.py | head -1``"""
    (tmp_path / "script.py").write_text(WAITING)
    with subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "SHOAL_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stdout is not None
        assert driver.stderr is not None
        assert "2 trials" in driver.stdout.readline()
        driver.stdout.close()
        (tmp_path / "go").touch()
        complaint = driver.stderr.read()
        driver.wait(60)
    assert (tmp_path / "result.txt").read_text() == "2 21"
    assert complaint.count("failed and is switched off") == 1
    assert "BrokenPipeError" in complaint
    assert results(told(tmp_path / "run"), tmp_path / "run") == [(21, 21)] * 2


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_script_without_standard_streams_runs_all_the_same(closed: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(WAITING)
    (tmp_path / "go").touch()
    subprocess.run(
        ["sh", "-c", f'exec "$0" script.py {closed}', sys.executable],
        cwd=tmp_path,
        env={**os.environ, "SHOAL_DIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=90,
        check=True,
    )
    assert (tmp_path / "result.txt").read_text() == "2 21"
    history = told(tmp_path / "run")
    for trial in history.in_order():
        output = (tmp_path / "run" / trial.folder / "output.log").read_text()
        assert output == "a line of a member\n" * 20


# ---- The start -------------------------------------------------------------------------------------------------------


class _Misspelled(tune.Callback):
    def on_trial_reslt(self, **info: Any) -> None: ...


@pytest.mark.parametrize("failure", ["callback", "trainable", "unloadable"])
def test_a_failed_start_leaves_nothing_so_that_the_name_can_be_used_again(failure: str, tmp_path: Path) -> None:
    class Unloadable:
        def __call__(self, config: dict[str, Any]) -> None: ...

        def __reduce__(self) -> Any:
            return (__import__, ("no_such_module_at_all",))

    lock = threading.Lock()

    def locked(config: dict[str, Any]) -> None:
        with lock:
            climb(config)

    run: dict[str, Any] = {"name": "mine", "callbacks": [_Misspelled()] if failure == "callback" else []}
    trainable: Any = {"callback": climb, "trainable": locked, "unloadable": Unloadable()}[failure]
    with pytest.raises(Exception, match=r"'on_trial_result'|'lock'|no_such_module_at_all"):
        fit(trainable, tmp_path, engine="processes", run=run)
    assert list(tmp_path.iterdir()) == []
    assert fit(climb, tmp_path, engine="processes", run={"name": "mine"}, num_samples=1).num_terminated == 1
    with pytest.raises(ExperimentExists):
        fit(climb, tmp_path, engine="processes", run={"name": "mine"}, num_samples=1)


def test_unnamed_runs_right_after_another_have_folders_of_their_own(tmp_path: Path) -> None:
    tuner = tune.Tuner(
        lambda config: {"score": 1.0}, tune_config=tune.TuneConfig(engine="inline"),
        run_config=tune.RunConfig(storage_path=tmp_path, verbose=0),
    )  # fmt: skip
    paths = {tuner.fit().experiment_path for _ in range(4)}
    assert {Path(path) for path in paths} == set(tmp_path.iterdir())
    assert len(paths) == 4


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"mode": None}, r"metric='score'.* needs mode: 'max'.*'min'"),
        ({"scheduler": pbt(keep=["nope"])}, r"keep names 'nope'.*no key 'nope'|keep names 'nope'.*Config keys: 'lr'"),
        ({"scheduler": pbt(keep=["lrr"])}, r"keep names 'lrr'.*'lr'"),
    ],
)
def test_settings_that_cannot_be_meant_are_errors_before_anything_is_written(
    settings: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"(?s){expected}"):
        fit(climb, tmp_path, **settings)
    assert list(tmp_path.iterdir()) == []


def test_what_may_be_kept_is_kept_without_an_error(tmp_path: Path) -> None:
    scheduler: PopulationBasedTraining = pbt(keep=["seed", "width"])
    grid = fit(climb, tmp_path, space={"lr": 0.5, "width": 3}, num_samples=1, scheduler=scheduler)
    assert grid.num_terminated == 1


def test_functions_that_would_run_none_of_their_code_are_refused() -> None:
    async def later(config: dict[str, Any]) -> None:
        tune.report({"score": 1.0})

    def lazily(config: dict[str, Any]) -> Iterator[None]:
        tune.report({"score": 1.0})
        yield

    for trainable, kind in ((later, "async def"), (lazily, "generator")):
        with pytest.raises(ConfigError, match=rf"{trainable.__name__} is an {kind} function"):
            tune.Tuner(trainable)


# ---- Reports ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_time_attr_that_shrinks_fails_its_trial_with_both_values(engine: str, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        bad = tune.get_context().get_trial_id().endswith("1")
        for steps in (10, 20, 15 if bad else 30):
            tune.report({"score": 1.0, "steps": steps})

    grid = fit(
        train, tmp_path, engine=engine, num_samples=2, scheduler=pbt(time_attr="steps", perturbation_interval=100)
    )
    assert [result.error is None for result in grid] == [True, False]
    assert "'steps'" in str(grid[1].error)
    assert "15 after 20" in str(grid[1].error)
    assert [row.report.metrics["steps"] for row in story(grid).in_order()[1].rows] == [10, 20]


def test_a_time_attr_begins_anew_when_the_function_is_entered_anew(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for steps in range(1, 8):
            tune.report({"score": 1.0, "steps": steps})
            marker = Path(tune.get_context().get_trial_dir(), "failed")
            if steps == 4 and not marker.exists():
                marker.touch()
                raise RuntimeError("once")

    grid = fit(
        train, tmp_path, num_samples=1, scheduler=pbt(time_attr="steps", perturbation_interval=100),
        run={"failure_config": tune.FailureConfig(max_failures=1)},
    )  # fmt: skip
    assert grid.num_errors == 0
    assert [report.metrics["steps"] for report in items(grid, Reported)] == [*range(1, 5), *range(1, 8)]
    assert [row.report.metrics["steps"] for row in story(grid).in_order()[0].rows] == [*range(1, 8)]


def test_reserved_keys_are_noted_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def train(config: dict[str, Any]) -> None:
        for _ in range(3):
            tune.report({"score": 1.0, "pid": -1, "training_iteration": 77})

    grid = fit(train, tmp_path, num_samples=3)
    captured = capfd.readouterr()
    shown = " ".join((captured.out + captured.err).split())
    assert shown.count("which Shoal fills itself") == 1
    assert "'training_iteration', 'pid'" in shown
    assert [result.metrics["training_iteration"] for result in grid] == [3, 3, 3]
    assert all(result.metrics["pid"] > 0 for result in grid)


# ---- Nothing is left over --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_ten_fits_leave_no_files_threads_or_processes(engine: str, tmp_path: Path) -> None:
    def state() -> tuple[int, set[int | None], set[int]]:
        gc.collect()
        me = psutil.Process()
        return me.num_fds(), {thread.ident for thread in threading.enumerate()}, {kid.pid for kid in me.children()}

    def run(number: int) -> None:
        fit(climb, tmp_path / str(number), engine=engine, num_samples=3, scheduler=pbt(), stop={"score": 3.0})

    run(0)
    before = state()
    for number in range(1, 11):
        run(number)
    assert state() == before


STRICT = """
from shoal import tune
from shoal.tune.schedulers import PopulationBasedTraining

def train(config):
    for step in range(4):
        tune.report({"score": config["lr"]})

if __name__ == "__main__":
    for engine in ("processes", "inline"):
        grid = tune.Tuner(
            train,
            param_space={"lr": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(metric="score", mode="max", num_samples=3, engine=engine),
        ).fit()
        assert grid.num_terminated == 3
        grid.get_best_result()
    print("done")
"""


def test_nothing_is_left_open_and_nothing_deprecated_is_used(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(STRICT)
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "script.py"],
        cwd=tmp_path,
        env={**os.environ, "SHOAL_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "done" in ran.stdout
    assert "Warning" not in ran.stdout + ran.stderr
    assert ran.stderr == ""


def test_a_script_that_ends_with_an_error_of_its_own_after_fit_leaves_nothing_running(tmp_path: Path) -> None:
    ran = run_script(STRICT.replace('print("done")', 'raise SystemExit("my own end")'), tmp_path)
    assert ran.returncode == 1
    assert "my own end" in ran.stderr
