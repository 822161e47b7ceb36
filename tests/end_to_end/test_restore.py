"""Experiments on real processes that go on: after a kill, after Ctrl-C, after their end, elsewhere, on other slots."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.end_to_end import mortal, restorable
from tests.helpers import climb, fit, items, lineage, load_state, pbt, report_state, story

import shoal
from shoal import tune
from shoal.core.commands import Exploit, Launch, Status, checkpoint_name
from shoal.core.events import Opened, StopAsked, Undecided
from shoal.errors import EngineError, SpaceError
from shoal.journal import JOURNAL_NAME
from shoal.journal.brief import BRIEF

REPOSITORY = Path(__file__).parents[2]

# When a run ends at a moment that nobody chooses, a member may not have saved yet.
pytestmark = pytest.mark.filterwarnings("ignore:Tuner.restore. .* begin from scratch")


def reports(folder: Path) -> int:
    """Return how many reports the journal holds so far; 0 where there is none yet."""
    path = folder / JOURNAL_NAME
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
            query = f"SELECT count(*) FROM journal WHERE kind IN ('Reported', '{BRIEF}')"
            return int(connection.execute(query).fetchone()[0])
    except sqlite3.OperationalError:
        return 0


@contextmanager
def script(*arguments: str | Path, name: str = "restorable") -> Generator[subprocess.Popen[str]]:
    """Run a script beside this file."""
    with subprocess.Popen(
        [sys.executable, "-m", f"tests.end_to_end.{name}", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def run_and_end(
    what: str, kind: str, folder: Path, gates: Path, more: int, how: signal.Signals
) -> list[psutil.Process]:
    """Run the script until there are so many more reports, and end it; return all its other processes.

    Nobody waits for these: whoever goes on with the experiment meets them in their last moments.
    """
    wanted = reports(folder) + more
    with script(what, kind, folder, gates) as driver:
        while reports(folder) < wanted:
            assert driver.poll() is None, driver.stdout and driver.stdout.read()
            time.sleep(0.001)
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(how)
        driver.wait(60)
    assert driver.returncode == -how
    assert len(family) >= 3, "the warm parent and two members"
    return family


def check_files(grid: tune.ResultGrid) -> None:
    """Compare all files with the journal: nothing torn, nothing missing, nothing left over."""
    history = story(grid)
    folder = Path(grid.experiment_path)
    for trial in history.in_order():
        place = folder / trial.folder
        rows = [json.loads(line) for line in (place / "result.json").read_text().splitlines()]
        assert [row["training_iteration"] for row in rows] == [row.report.iteration for row in trial.rows]
        assert [row["score"] for row in rows] == [row.report.metrics["score"] for row in trial.rows]
        assert [row["config"]["lr"] for row in rows] == [row.config["lr"] for row in trial.rows]
        with (place / "progress.csv").open() as file:
            table = list(csv.DictReader(file))
        assert [int(row["training_iteration"]) for row in table] == [row.report.iteration for row in trial.rows]
        assert json.loads((place / "params.json").read_text()) == trial.config
        there = {path.name for path in place.glob("*checkpoint_*")}
        assert there == {checkpoint_name(number) for number in trial.checkpoints}
        assert list(place.glob(".*")) == []
        policy = folder / f"pbt_policy_{trial.trial_id}.txt"
        assert policy.exists() == (trial.ancestry is not None)
        if trial.ancestry is not None:
            expected = [line_of(link.change, history) for link in trial.ancestry.oldest_first()]
            assert [json.loads(line) for line in policy.read_text().splitlines()] == expected
            assert expected[-1][5] == trial.config
    told = [json.loads(line) for line in (folder / "pbt_global.txt").read_text().splitlines()]
    assert told == [line_of(exploit, history) for exploit in history.exploits]


def line_of(exploit: Any, history: Any) -> list[Any]:
    """Return an exploit as it stands in the policy files."""
    assert isinstance(exploit, Exploit)
    tags = [history.trials[trial_id].tag for trial_id in (exploit.trial_id, exploit.donor_id)]
    return [*tags, exploit.iteration, exploit.checkpoint.iteration, exploit.donor_config, exploit.new_config]


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    folder = tmp_path / "gates"
    folder.mkdir()
    return folder


def open_gates(gates: Path, *steps: int) -> None:
    for step in steps or restorable.GATES:
        (gates / str(step)).touch()


# ---- Killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["function", "class"])
def test_a_run_that_is_killed_interrupted_and_killed_has_the_lineage_of_one_that_is_not(
    kind: str, tmp_path: Path, gates: Path
) -> None:
    folder = tmp_path / "run"
    # A gate lets each driver come so far, but not to the end.
    family = run_and_end("begin", kind, folder, gates, more=30 if kind == "function" else 45, how=signal.SIGKILL)
    assert tune.Tuner.can_restore(folder)
    assert not any(trial.status.ended for trial in story(tune.ResultGrid.read(folder)).in_order())
    open_gates(gates, 17)
    family += run_and_end("restore", kind, folder, gates, more=35, how=signal.SIGINT)
    assert {trial.status for trial in story(tune.ResultGrid.read(folder)).in_order()} == {Status.TERMINATED}
    open_gates(gates, 33)
    family += run_and_end("restore", kind, folder, gates, more=40, how=signal.SIGKILL)
    open_gates(gates)

    # And somewhere else, on other slots, it goes on to its end.
    moved = folder.rename(tmp_path / "moved")
    shoal.init(num_cpus=3, ignore_reinit_error=True)
    try:
        grid = restorable.restore(kind, moved, tune_config=tune.TuneConfig(max_concurrent_trials=4))
    finally:
        shoal.shutdown()
    assert [result.metrics["training_iteration"] for result in grid] == [60] * 4
    assert [len(event.limits.devices) for event in items(grid, Opened)] == [2, 2, 2, 3]
    assert len(items(grid, StopAsked)) == 1
    assert psutil.wait_procs(family, timeout=30)[1] == []
    check_files(grid)

    expected = restorable.begin(kind, tmp_path / "expected", gates, engine="inline")
    assert lineage(grid) == lineage(expected)
    assert len(lineage(grid)) == 11
    assert [result.metrics["score"] for result in grid] == [result.metrics["score"] for result in expected]
    if kind == "class":
        kept = {trial.index: len(trial.checkpoints) for trial in story(grid).in_order()}
        assert max(kept.values()) <= 2, "Shoal's own checkpoints go as soon as nobody would go on from them"


def test_no_result_counts_twice_where_members_and_drivers_are_killed(tmp_path: Path, gates: Path) -> None:
    folder = tmp_path / "run"
    for what, more, opened in (("begin", 40, 17), ("restore", 25, 33), ("restore", 25, 48)):
        wanted = reports(folder) + more
        with script(what, folder, gates, name="mortal") as driver:
            while reports(folder) < wanted:
                assert driver.poll() is None, driver.stdout and driver.stdout.read()
                time.sleep(0.001)
            driver.kill()
        open_gates(gates, opened)
    grid = mortal.restore(folder)
    history = story(grid)
    assert grid.num_errors == 0
    check_files(grid)
    retries = 0
    for result, trial in zip(grid, history.in_order(), strict=True):
        retries += trial.reported - trial.counted
        frame = result.metrics_dataframe
        assert frame is not None
        assert not frame.duplicated(["generation", "training_iteration"]).any()
        assert len(frame) == len(Path(result.path, "result.json").read_text().splitlines()) == trial.counted
        curve = result.learning_curve()
        assert curve["training_iteration"].tolist() == [*range(1, mortal.LAST + 1)]
        assert curve["score"].diff()[1:].tolist() == pytest.approx(curve["config/lr"][1:].tolist())
        digest = ""
        for number, told in zip(curve["number"], curve["digest"], strict=True):
            digest = mortal.digest(digest, number)
            assert digest == told
        assert result.metrics["digest"] == digest
    assert retries > 10, "steps were trained again"
    assert len({(row.report.trial_id, row.generation, row.report.iteration) for trial in history.in_order()
                for row in trial.rows}) == history.results  # fmt: skip


def test_a_finished_run_is_extended_where_it_was_moved_and_then_again(tmp_path: Path, gates: Path) -> None:
    open_gates(gates)
    first = restorable.begin("function", tmp_path / "run", gates, length=10)
    assert [result.metrics["training_iteration"] for result in first] == [10] * 4
    moved = Path(shutil.move(tmp_path / "run", tmp_path / "place"))
    for length in (20, 31):
        grid = restorable.restore("function", moved, run_config=tune.RunConfig(stop={"training_iteration": length}))
        assert [result.metrics["training_iteration"] for result in grid] == [length] * 4
        assert all(result.checkpoint is not None and result.checkpoint.path.startswith(str(moved)) for result in grid)
    check_files(grid)
    expected = restorable.begin("function", tmp_path / "expected", gates, length=31, engine="inline")
    assert lineage(grid) == lineage(expected)
    # What is finished costs nothing: no process is started, and the results are there.
    launches = items(grid, Launch)
    assert items(restorable.restore("function", moved), Launch) == launches


def test_where_nothing_could_be_started_the_same_process_can_go_on_later(
    tmp_path: Path, gates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_gates(gates)
    restorable.begin("function", tmp_path / "run", gates, length=3, engine="inline")
    longer = tune.RunConfig(stop={"training_iteration": 5})
    with monkeypatch.context() as broken:
        broken.setattr("shoal.wiring.make_engine", failing)
        with pytest.raises(EngineError, match="no such cluster"):
            restorable.restore("function", tmp_path / "run", run_config=longer)
    grid = restorable.restore("function", tmp_path / "run", run_config=longer)
    assert [result.metrics["training_iteration"] for result in grid] == [5] * 4


def failing(*_: object) -> Any:
    raise EngineError("no such cluster")


# ---- Failed ----------------------------------------------------------------------------------------------------------


def test_failed_members_go_on_or_begin_anew_when_they_are_asked_to(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()

    def train(config: dict[str, Any]) -> None:
        step, _ = load_state() or (0, 0.0)
        second = tune.get_context().get_trial_id().endswith("1")
        for now in range(step + 1, 9):
            if second and now == 6 and not (marks / "mended").exists():
                raise RuntimeError("broken")
            report_state(now, 0.0, {"score": config["lr"]}, save=now % 2 == 0)

    grid = fit(train, tmp_path, num_samples=2, run={"name": "run"})
    assert "broken" in str(grid[1].error)
    folder = grid.experiment_path
    assert tune.Tuner.restore(folder, train).fit().num_errors == 1
    (marks / "mended").touch()
    grid = tune.Tuner.restore(folder, train, resume_errored=True).fit()
    assert (grid.num_errors, grid.num_terminated) == (0, 2)
    steps = [row.report.iteration for row in story(grid).in_order()[1].rows]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8], "step 5, which was trained twice, is there once"
    assert "broken" in Path(grid[1].path, "error.txt").read_text()

    (marks / "mended").unlink()
    grid = fit(train, tmp_path, num_samples=2, run={"name": "other"})
    (marks / "mended").touch()
    grid = tune.Tuner.restore(grid.experiment_path, train, restart_errored=True).fit()
    assert grid.num_errors == 0
    assert [row.report.iteration for row in story(grid).in_order()[1].rows] == [*range(1, 9)]


def test_whoever_was_cut_off_can_be_left_as_it_is(tmp_path: Path, gates: Path) -> None:
    folder = tmp_path / "run"
    family = run_and_end("begin", "function", folder, gates, more=30, how=signal.SIGKILL)
    assert psutil.wait_procs(family, timeout=30)[1] == []
    before = story(tune.ResultGrid.read(folder))
    grid = restorable.restore("function", folder, resume_unfinished=False)
    assert grid.num_terminated == 4
    after = story(grid)
    assert [trial.iteration for trial in after.in_order()] == [trial.iteration for trial in before.in_order()]
    assert after.exploits == before.exploits
    check_files(grid)


@pytest.mark.parametrize("synch", [False, True])
def test_a_run_that_failed_in_exploring_goes_on_with_the_mended_function(synch: bool, tmp_path: Path) -> None:
    def explore_well(config: dict[str, Any]) -> dict[str, Any]:
        return {**config, "lr": config["lr"] / 2}

    def explore_badly(config: dict[str, Any]) -> dict[str, Any]:
        if marker.exists():
            raise KeyError("momentum")
        return config  # the rehearsal

    def scheduler(function: Any) -> Any:
        return pbt(synch=synch, custom_explore_fn=function)

    marker = tmp_path / "marker"

    def touch(trial_id: str, result: dict[str, Any]) -> bool:
        marker.touch()
        return False

    stop = {"training_iteration": 20}
    with pytest.raises(SpaceError, match="momentum"):
        fit(climb, tmp_path, scheduler=scheduler(explore_badly), run={"name": "run"}, stop=touch)
    folder = tmp_path / "run"
    for _ in range(2):
        # The same function, as it was kept, fails as soon as it is asked again.
        with pytest.raises(SpaceError, match="momentum"):
            tune.Tuner.restore(folder, climb).fit()
    grid = tune.Tuner.restore(
        folder,
        climb,
        run_config=tune.RunConfig(stop=stop),
        tune_config=tune.TuneConfig(scheduler=scheduler(explore_well)),
    ).fit()
    assert [result.metrics["training_iteration"] for result in grid] == [20] * 4
    assert len(items(grid, Undecided)) == 3
    check_files(grid)
    if synch:
        expected = fit(climb, tmp_path, scheduler=scheduler(explore_well), stop=stop, engine="inline")
        assert lineage(grid) == lineage(expected)


# ---- With what else runs in the driver -------------------------------------------------------------------------------


class Seeing(tune.Callback):
    """Writes down what it is told."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, what: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{what}\n")

    def setup(self, **info: Any) -> None:
        self.note("setup")

    def on_trial_restore(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.note(f"restore {trial.index} {trial.iteration}")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.note(f"result {trial.index} {result['training_iteration']}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.note(f"complete {trial.index}")


def test_callbacks_and_stoppers_go_on_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    grid = fit(
        climb, tmp_path, num_samples=2, stop=tune.stopper.MaximumIterationStopper(5),
        run={"name": "run", "callbacks": [Seeing(log)]},
    )  # fmt: skip
    first = log.read_text().splitlines()
    assert first[0] == "setup"
    assert sorted(first[1:]) == sorted(
        [*(f"result {index} {step}" for index in (0, 1) for step in range(1, 6)), "complete 0", "complete 1"]
    )
    log.unlink()
    folder = grid.experiment_path
    assert tune.Tuner.restore(folder, climb).fit().num_terminated == 2
    assert not log.exists(), "nothing happened"
    grid = tune.Tuner.restore(
        folder, climb, run_config=tune.RunConfig(stop=tune.stopper.MaximumIterationStopper(8))
    ).fit()
    second = log.read_text().splitlines()
    assert second[0] == "setup"
    assert sorted(second[1:]) == sorted(
        [
            "restore 0 5", "restore 1 5", "complete 0", "complete 1",
            *(f"result {index} {step}" for index in (0, 1) for step in range(6, 9)),
        ]
    )  # fmt: skip
    assert [result.metrics["training_iteration"] for result in grid] == [8, 8]
