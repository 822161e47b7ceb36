"""Ctrl-C, SIGTERM, SIGUSR1: members come to their next report, the script says how to go on, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from tests.faults.test_driver import line_of, running, told
from tests.helpers import fit

from shoal import tune, warm_parent
from shoal.core.commands import Status
from shoal.interruption import RESUME_EXIT_CODE, Interruption

SLOW = """
import json, sys, tempfile, time
from pathlib import Path
from shoal import tune
from shoal.tune.schedulers import PopulationBasedTraining

def train(config):
    step = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint:
        step = int(Path(checkpoint.path, "step").read_text())
    while True:
        step += 1
        if step > 3:
            print("in the middle of a step", flush=True)
            while not Path(GATE).exists():
                time.sleep(0.01)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "step").write_text(str(step))
            tune.report({"score": config["lr"]}, checkpoint=tune.Checkpoint.from_directory(folder))

GATE = "gate"

if __name__ == "__main__":
    tune.Tuner(
        train,
        param_space={"lr": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(
            metric="score", mode="max", num_samples=2, seed=1, max_concurrent_trials=2,
            scheduler=PopulationBasedTraining(
                time_attr="training_iteration", perturbation_interval=100, hyperparam_mutations={"lr": [0.1, 0.2]}
            ),
        ),
        run_config=tune.RunConfig(name="run", verbose=3),
    ).fit()
    print("the fit ended by itself")
"""


def _is_the_twentieth(count: Iterator[int], line: str) -> bool:
    return "iteration" in line and next(count) == 20


def steps(folder: Path) -> list[int]:
    """Return for each trial how many results count."""
    return [len(trial.rows) for trial in told(folder).in_order()]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, -signal.SIGINT),
        (signal.SIGTERM, RESUME_EXIT_CODE),
        (signal.SIGUSR1, RESUME_EXIT_CODE),
    ],
)
@pytest.mark.parametrize("engine", ["processes", "inline"])
def test_members_come_to_their_report_and_it_counts(
    number: signal.Signals, code: int, engine: str, tmp_path: Path
) -> None:
    at_work = 2 if engine == "processes" else 1
    with running(SLOW, tmp_path, SHOAL_ENGINE=engine, SHOAL_GRACE_S="60") as driver:
        for _ in range(at_work):
            line_of(driver, lambda line: "in the middle of a step" in line)
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(number)
        line_of(driver, lambda line: "The run ends" in line and "in 60 s at most" in line)
        (tmp_path / "gate").touch()
        assert driver.stdout is not None
        rest = driver.stdout.read()
        driver.wait(60)
    assert driver.returncode == code
    assert "ended by itself" not in rest
    how = f"tune.Tuner.restore({str(tmp_path / 'run')!r}, train).fit()"
    assert how in rest.splitlines()[-1]
    said = [line for line in rest.splitlines() if "To go on" in line]
    assert len(said) == 1
    assert how in said[0]
    assert (f"by {number.name}, with exit code 75" in said[0]) == (number is not signal.SIGINT)
    assert psutil.wait_procs(family, timeout=30)[1] == []
    # The step that each was in the middle of has been reported, and nobody has begun another.
    assert steps(tmp_path / "run") == ([4, 4] if engine == "processes" else [4, 0])
    for trial in told(tmp_path / "run").in_order():
        assert trial.status is Status.TERMINATED
        assert {path.name for path in (tmp_path / "run" / trial.folder).glob("*checkpoint_*")} == {
            f"checkpoint_{number:06d}" for number in trial.checkpoints
        }


def test_a_member_that_does_not_come_to_its_report_in_time_is_ended_and_goes_on_from_its_checkpoint(
    tmp_path: Path,
) -> None:
    with running(SLOW, tmp_path, SHOAL_GRACE_S="0.2") as driver:
        for _ in range(2):
            line_of(driver, lambda line: "in the middle of a step" in line)
        driver.send_signal(signal.SIGTERM)
        driver.communicate(timeout=60)
    assert driver.returncode == RESUME_EXIT_CODE
    assert steps(tmp_path / "run") == [3, 3]
    source = SLOW[: SLOW.index('if __name__ == "__main__":')].replace('"gate"', '"/"')
    source += "tune.Tuner.restore('run', train, run_config=tune.RunConfig(stop={'training_iteration': 6})).fit()"
    (tmp_path / "again.py").write_text(source)
    subprocess.run([sys.executable, "again.py"], cwd=tmp_path, check=True, capture_output=True, timeout=90)
    assert steps(tmp_path / "run") == [6, 6]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGUSR1, RESUME_EXIT_CODE), (signal.SIGTERM, RESUME_EXIT_CODE), (signal.SIGINT, -signal.SIGINT)],
)
def test_signals_that_a_cluster_sends_to_all_processes_are_the_drivers_business(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """SLURM's ``--signal=USR1@60`` without ``B:``, ``scancel --full`` and systemd reach members and their parent."""
    with running(SLOW, tmp_path, SHOAL_GRACE_S="60") as driver:
        for _ in range(2):
            line_of(driver, lambda line: "in the middle of a step" in line)
        family = psutil.Process(driver.pid).children(recursive=True)
        assert len(family) >= 3  # on Linux there is a guardian, too
        for _ in range(2):  # and often more than once
            for process in family:
                process.send_signal(number)
        for _ in range(1 if number is signal.SIGINT else 2):  # the second Ctrl-C means something else
            driver.send_signal(number)
        line_of(driver, lambda line: "The run ends" in line)
        (tmp_path / "gate").touch()
        driver.communicate(timeout=60)
    assert driver.returncode == code
    assert steps(tmp_path / "run") == [4, 4]


def test_such_a_signal_does_not_end_the_parent_of_the_members_while_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = "import os, signal; [os.kill(os.getpid(), number) for number in (2, 10, 15)]; "
    monkeypatch.setattr(warm_parent, "_START", kills + warm_parent._START)
    grid = fit(lambda config: {"score": 1.0}, tmp_path, engine="processes", num_samples=1)
    assert grid.num_errors == 0


# ---- While the script ends, and before it has begun ------------------------------------------------------------------

LEAVES = """
import atexit, os, signal, time

class AtTheVeryEnd:
    def __del__(self, kill=os.kill, me=os.getpid(), number=int(signal.SIGTERM)):
        kill(me, number)

def leave():
    print("leaving", flush=True)
    while not Path("left").exists():
        time.sleep(0.01)

atexit.register(leave)
last = AtTheVeryEnd()
"""


@pytest.mark.parametrize("where", ["finally", "exit handler", "its very end"])
def test_a_second_signal_while_the_script_ends_does_not_change_its_exit_code(where: str, tmp_path: Path) -> None:
    """Launchers send SIGTERM once more. The code that was promised is that by which a job is started again."""
    source = SLOW
    if where == "exit handler":
        source = SLOW.replace('GATE = "gate"', 'GATE = "gate"\n' + LEAVES.replace("last = AtTheVeryEnd()", ""))
    elif where == "its very end":
        source = SLOW.replace('GATE = "gate"', 'GATE = "gate"\n' + LEAVES.replace("atexit.register(leave)", ""))
    elif where == "finally":
        source = SLOW.replace("    tune.Tuner(\n", "  try:\n    tune.Tuner(\n").replace(
            '    print("the fit ended by itself")\n', "  finally:\n" + LEAVES_HERE
        )
    with running(source, tmp_path, SHOAL_GRACE_S="60") as driver:
        for _ in range(2):
            line_of(driver, lambda line: "in the middle of a step" in line)
        driver.send_signal(signal.SIGTERM)
        line_of(driver, lambda line: "The run ends" in line)
        (tmp_path / "gate").touch()
        if where != "its very end":
            line_of(driver, lambda line: "leaving" in line)
            driver.send_signal(signal.SIGTERM)
            (tmp_path / "left").touch()
        driver.communicate(timeout=60)
    assert driver.returncode == RESUME_EXIT_CODE


LEAVES_HERE = """
    print("leaving", flush=True)
    while not Path("left").exists():
        time.sleep(0.01)
"""


CAUGHT = """
import os, signal
import shoal.interruption
from shoal import tune

shoal.interruption._WAY_OUT_S = 0.0

def train(config):
    while True:
        tune.report({"score": 1.0})

def stop(trial_id, result):
    os.kill(os.getpid(), signal.SIGTERM)
    return False

try:
    tune.Tuner(train, run_config=tune.RunConfig(stop=stop, verbose=0)).fit()
except SystemExit as end:
    print("caught", end.code, flush=True)
signal.pause()
"""


def test_a_script_that_catches_the_exit_and_goes_on_is_ended_by_the_next_signal(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(CAUGHT)
    with subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as script:
        try:
            assert script.stdout is not None
            assert "caught 75\n" in iter(script.stdout.readline, "")
            script.terminate()
            assert script.wait(60) == -signal.SIGTERM
        finally:
            script.kill()


def test_after_a_fit_that_no_signal_ended_they_mean_what_they_did_and_the_next_fit_takes_them_again() -> None:
    with Interruption() as interruption:
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGTERM)
            with interruption, pytest.raises(SystemExit):  # the driver enters what is entered
                interruption.leave("again")
        signal.raise_signal(signal.SIGTERM)  # nothing happens
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGTERM)
            assert interruption.asked is signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


LOADS = """
import os, time
from shoal import tune

if os.environ.get("SLOW"):
    print("in the midst of loading", flush=True)
    time.sleep(1000)

def train(config):
    while True:
        tune.report({"score": 1.0})
"""
BEGINS = """
import os, sys
import slow
from shoal import tune
os.environ["SLOW"] = "1"
if sys.argv[1:]:
    tuner = tune.Tuner.restore("run", slow.train)
else:
    tuner = tune.Tuner(slow.train, run_config=tune.RunConfig(name="run", storage_path=os.getcwd()))
tuner.fit()
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, RESUME_EXIT_CODE), (signal.SIGUSR1, RESUME_EXIT_CODE)],
)
def test_a_signal_while_the_trainable_is_loaded_says_what_to_do_and_leaves_nothing_of_a_new_experiment(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(LOADS)
    with running(BEGINS, tmp_path) as driver:
        line_of(driver, lambda line: "in the midst of loading" in line)
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(number)
        said = driver.communicate(timeout=60)[0]
    assert driver.returncode == code
    by = "" if number is signal.SIGINT else f" by {number.name}, with exit code 75"
    wanted = f"Interrupted{by}. Nothing had begun, and nothing is left of it. To go on: start the script again."
    assert wanted in said
    assert said.rstrip().endswith("start the script again.")
    assert psutil.wait_procs(family, timeout=30)[1] == []
    assert not (tmp_path / "run").exists()


def test_a_signal_while_a_restore_loads_the_trainable_leaves_the_experiment_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(LOADS)
    begun = BEGINS.replace('os.environ["SLOW"] = "1"\n', "").replace("getcwd())", "getcwd(), verbose=3)")
    with running(begun, tmp_path) as driver:
        line_of(driver, lambda line: "iteration" in line)
        driver.send_signal(signal.SIGTERM)
        driver.communicate(timeout=60)
    before = steps(tmp_path / "run")
    with running(BEGINS, tmp_path, "restore") as driver:
        line_of(driver, lambda line: "in the midst of loading" in line)
        driver.send_signal(signal.SIGTERM)
        said = driver.communicate(timeout=60)[0]
    assert driver.returncode == RESUME_EXIT_CODE
    how = f"To go on: tune.Tuner.restore({str(tmp_path / 'run')!r}, train).fit()"
    assert said.rstrip().endswith(how)
    assert "Interrupted by SIGTERM, with exit code 75." in said
    assert steps(tmp_path / "run") == before


def test_workers_that_a_member_starts_are_ended_by_its_signals_as_ever(tmp_path: Path) -> None:
    """``torch.utils.data.DataLoader`` and ``multiprocessing.Pool`` end their workers with SIGTERM."""

    def train(config: dict[str, object]) -> None:
        import multiprocessing
        import time
        from typing import Any

        default = "raise SystemExit(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
        started = subprocess.run([sys.executable, "-c", f"import signal; {default}"], check=False).returncode
        child = os.fork()
        if child == 0:
            os._exit(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
        codes = [started, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]
        for kind in ("fork", "spawn"):
            context: Any = multiprocessing.get_context(kind)
            worker = context.Process(target=time.sleep, args=(600,))
            worker.start()
            worker.terminate()
            worker.join(60)
            codes.append(worker.exitcode)
        tune.report({"score": 1.0, "codes": codes})

    grid = fit(train, tmp_path, num_samples=1, engine="processes")
    assert grid[0].metrics["codes"] == [True, True, -signal.SIGTERM, -signal.SIGTERM]


def test_a_handler_of_the_scripts_own_stays(tmp_path: Path) -> None:
    source = SLOW.replace(
        'if __name__ == "__main__":', "import signal\nsignal.signal(signal.SIGTERM, lambda *_: print('mine'))\nif True:"
    )
    with running(source, tmp_path) as driver:
        line_of(driver, lambda line: "in the middle of a step" in line)
        driver.send_signal(signal.SIGTERM)
        line_of(driver, lambda line: "mine" in line)
        driver.send_signal(signal.SIGINT)
        (tmp_path / "gate").touch()
        driver.communicate(timeout=60)
    assert driver.returncode == -signal.SIGINT


OF_CLASS = """
import time
from pathlib import Path
from shoal import tune

class Train(tune.Trainable):
    def setup(self, config):
        self.steps = 0
    def step(self):
        self.steps += 1
        if self.steps > 3:
            print("in the middle of a step", flush=True)
            while not Path("gate").exists():
                time.sleep(0.01)
        return {"score": float(self.steps)}
    def save_checkpoint(self, folder):
        Path(folder, "steps").write_text(str(self.steps))
    def load_checkpoint(self, folder):
        self.steps = int(Path(folder, "steps").read_text())

if __name__ == "__main__":
    tune.Tuner(Train, tune_config=tune.TuneConfig(num_samples=2, max_concurrent_trials=2, seed=1),
               run_config=tune.RunConfig(name="run", verbose=3)).fit()
"""


def test_a_member_of_a_class_saves_before_it_leaves_and_loses_nothing(tmp_path: Path) -> None:
    with running(OF_CLASS, tmp_path, SHOAL_GRACE_S="60") as driver:
        for _ in range(2):
            line_of(driver, lambda line: "in the middle of a step" in line)
        driver.send_signal(signal.SIGTERM)
        line_of(driver, lambda line: "The run ends" in line)
        (tmp_path / "gate").touch()
        driver.communicate(timeout=60)
    assert driver.returncode == RESUME_EXIT_CODE
    for trial in told(tmp_path / "run").in_order():
        assert [entry.row.report.iteration for entry in trial.checkpoints.values()] == [4]
        folder = tmp_path / "run" / trial.folder / "checkpoint_000000"
        assert (folder / "steps").read_text() == "4"
    sys.path.insert(0, str(tmp_path))
    try:
        source = OF_CLASS[: OF_CLASS.index("if __name__")]
        again = source + "tune.Tuner.restore('run', Train, run_config=tune.RunConfig(stop={'score': 6})).fit()"
        (tmp_path / "again.py").write_text(again)
        subprocess.run([sys.executable, "again.py"], cwd=tmp_path, check=True, capture_output=True, timeout=90)
    finally:
        sys.path.remove(str(tmp_path))
    for trial in told(tmp_path / "run").in_order():
        assert [row.report.metrics["score"] for row in trial.rows] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        assert trial.launches == 2


def test_what_was_interrupted_twice_and_killed_once_has_no_step_twice(tmp_path: Path) -> None:
    """A script that is started again after each end, as a job that is requeued."""
    resumed = "    if tune.Tuner.can_restore('run'):\n        tuner = tune.Tuner.restore('run', train)\n    tuner.fit()"
    source = SLOW.replace("if step > 3:", "if False:").replace("    ).fit()", f"    )\n{resumed}")
    source = source.replace("    tune.Tuner(\n", "    tuner = tune.Tuner(\n")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        with running(source, tmp_path) as driver:
            count = iter(range(1, 30))
            line_of(driver, partial(_is_the_twentieth, count))
            driver.send_signal(number)
            driver.communicate(timeout=60)
    for trial in told(tmp_path / "run").in_order():
        assert [row.report.iteration for row in trial.rows] == list(range(1, len(trial.rows) + 1))
        assert trial.launches == 3
    assert sum(steps(tmp_path / "run")) >= 50
    assert os.path.isdir(tmp_path / "run")
