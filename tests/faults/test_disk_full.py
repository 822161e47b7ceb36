"""Full disks: small ones, really mounted, and files that cannot grow. The run ends with a clear error, and goes on."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.faults.test_journal_faults import mounted
from tests.helpers import items, lineage, load_state, report_state, story

from shoal import tune
from shoal.checkpoints import store
from shoal.checkpoints.store import damage, is_full
from shoal.core.commands import Status, checkpoint_name
from shoal.core.events import Failed
from shoal.errors import JournalError, ShoalError, StorageError
from shoal.tune.schedulers import PopulationBasedTraining

WEIGHTS = 100_000
"""Bytes of a checkpoint, about."""
LONG_ENOUGH_S = "60"


def train(config: dict[str, Any]) -> None:
    """A deterministic function with checkpoints of some size, made in the folder that SCRATCH names."""
    step, score = load_state() or (0, 0.0)
    while True:
        step += 1
        score += config["lr"]
        print(f"step {step}")
        with tempfile.TemporaryDirectory(dir=os.environ.get("SCRATCH")) as folder:
            Path(folder, "weights").write_bytes(bytes([step]) * WEIGHTS)
            Path(folder, "state.json").write_text(json.dumps([step, score]))
            # A column that comes late has progress.csv written anew.
            metrics = {"score": score, **({"late": step} if step > 4 else {})}
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


class Climber(tune.Trainable):
    """The same as a class."""

    def setup(self, config: dict[str, Any]) -> None:
        self.steps, self.score = 0, 0.0

    def step(self) -> dict[str, Any]:
        self.steps += 1
        self.score += self.config["lr"]
        return {"score": self.score, **({"late": self.steps} if self.steps > 4 else {})}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "weights").write_bytes(bytes([self.steps]) * WEIGHTS)
        Path(checkpoint_dir, "state.json").write_text(json.dumps([self.steps, self.score]))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.steps, self.score = json.loads(Path(checkpoint, "state.json").read_text())

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True


KINDS: dict[str, Any] = {"function": train, "scratch": train, "class": Climber}


def settings(**run: Any) -> dict[str, Any]:
    """Return what a small synchronous experiment is made of: what it comes to depends on the seed alone."""
    where: dict[str, Any] = {"name": "run", "verbose": 0, "log_to_file": True, "stop": {"training_iteration": 8}}
    where["checkpoint_config"] = tune.CheckpointConfig(num_to_keep=1)
    return {
        "param_space": {"lr": tune.uniform(0, 1)},
        "tune_config": tune.TuneConfig(
            metric="score", mode="max", num_samples=4, seed=1, max_concurrent_trials=2,
            scheduler=PopulationBasedTraining(
                time_attr="training_iteration", perturbation_interval=2, synch=True, quantile_fraction=0.5,
                hyperparam_mutations={"lr": tune.uniform(0, 1)},
            ),
        ),
        "run_config": tune.RunConfig(**{**where, **run}),
    }  # fmt: skip


def tuner(trainable: Any, storage: Path, **run: Any) -> tune.Tuner:
    return tune.Tuner(trainable, **settings(storage_path=str(storage), **run))


def outcome(grid: tune.ResultGrid) -> Any:
    """Return what the experiment came to: who copied whom, the scores of all steps, the configs."""
    return [
        lineage(grid),
        [(result.metrics["score"], result.metrics["training_iteration"], result.config) for result in grid],
        [[row["score"] for row in result.learning_curve().to_dict("records")] for result in grid],
    ]


def check_checkpoints(run: Path, *, settled: bool) -> None:
    """Make sure that every checkpoint that the journal knows is whole; where all is settled, nothing else is there."""
    for trial in story(tune.ResultGrid.read(run)).in_order():
        folder = run / trial.folder
        for number, entry in trial.checkpoints.items():
            assert damage(folder / checkpoint_name(number), entry.saved.digest) is None
        if settled:
            there = {path.name for path in folder.glob("*") if "checkpoint_" in path.name or path.name[0] == "."}
            assert there == {checkpoint_name(number) for number in trial.checkpoints}


def check_files(grid: tune.ResultGrid) -> None:
    """Make sure that the log files have all results, and nothing twice or torn."""
    for trial in story(grid).in_order():
        folder = Path(grid.experiment_path, trial.folder)
        steps = [row.report.iteration for row in trial.rows]
        lines = (folder / "result.json").read_text().splitlines()
        assert [json.loads(line)["training_iteration"] for line in lines] == steps
        table = (folder / "progress.csv").read_text().splitlines()
        place = table[0].split(",").index("training_iteration")
        assert [int(line.split(",")[place]) for line in table[1:]] == steps
        assert json.loads((folder / "params.json").read_text()) == trial.config


def fill(disk: Path, room: int) -> None:
    """Leave so many bytes on a disk."""
    there = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(max(0, there.f_bavail * there.f_frsize - room)))


def attempt(work: Callable[[], Any]) -> ShoalError | None:
    """Return the error of Shoal's with which it ends; None where it comes to its end. No process is left."""
    error: ShoalError | None = None
    try:
        work()
    except ShoalError as caught:
        error = caught
    assert psutil.Process().children(recursive=True) == []
    return error


def has_begun(error: ShoalError | None, run: Path) -> bool:
    """Return whether there is an experiment to go on with."""
    return run.exists() and not any(what in str(error) for what in ("Nothing had begun", "cannot be created"))


def check_text(error: ShoalError, run: Path) -> None:
    """Make sure that an error says what there was no room for, and what to do."""
    text = str(error)
    assert isinstance(error, StorageError)
    assert any(what in text for what in ("full", "No space left", "disk I/O error", "unable to open")), text
    assert ".." not in text.replace("...", "")
    if has_begun(error, run):
        assert f"go on: tune.Tuner.restore({str(run)!r}" in text


def go_on(run: Path, trainable: Any, error: ShoalError | None) -> tune.ResultGrid:
    """Go on with an experiment, or begin it where nothing had begun."""
    if error is not None and not has_begun(error, run):
        return tuner(trainable, run.parent).fit()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*begin from scratch")  # those that had not saved anything yet
        return tune.Tuner.restore(run, trainable).fit()


def sweep(disk: Path, kind: str, rooms: Iterator[int]) -> None:
    """Run into the end of a small disk at many moments, one after the other. Prints each error."""
    trainable = KINDS[kind]
    if kind == "scratch":
        os.environ["SCRATCH"] = str(disk)
    with tempfile.TemporaryDirectory() as elsewhere:
        expected = outcome(tuner(trainable, Path(elsewhere)).fit())
    run = disk / "run"
    for room in rooms:
        fill(disk, room)
        error = attempt(tuner(trainable, disk).fit)
        print(json.dumps([room, None if error is None else type(error).__name__, str(error)]))
        if error is not None:
            check_text(error, run)
        (disk / "filler").unlink()
        if has_begun(error, run):
            check_checkpoints(run, settled=not isinstance(error, JournalError))
        grid = go_on(run, trainable, error)
        assert outcome(grid) == expected, room
        check_checkpoints(run, settled=True)
        check_files(grid)
        shutil.rmtree(run)
        assert list(disk.iterdir()) == []


def on_a_small_disk(work: str, folder: Path, options: str = "size=8m") -> list[Any]:
    """Run some lines with a small disk mounted at ``folder``; return what they print, a JSON value in each line."""
    lines = f"""
os.environ["SHOAL_GRACE_S"] = "{LONG_ENOUGH_S}"
mount("-t", "tmpfs", "-o", "{options}", "tmpfs", folder)
from tests.faults.test_disk_full import *
{work}
"""
    said = mounted(lines, folder).splitlines()
    return [json.loads(line) for line in said if line.startswith("[")]


KB = 1024
FIRST_PAGES = (0, 32, *range(60, 92, 8), 112)
"""Where there is no room for what comes before the first checkpoint."""
FEW = (100, 150, 220, 420, 700)


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_gets_full_ends_the_run_with_a_clear_error_and_with_room_it_goes_on_as_if_nothing_had_been(
    kind: str, tmp_path: Path
) -> None:
    said = on_a_small_disk(f"sweep(folder, {kind!r}, [room * 1024 for room in {FEW}])", tmp_path)
    assert len(said) == len(FEW)
    assert sum(name is not None for _, name, _ in said) >= len(FEW) / 2
    assert any("restore(" in text for _, _, text in said)


def test_a_disk_without_room_for_the_beginning_leaves_nothing_in_the_way_of_the_next_start(tmp_path: Path) -> None:
    said = on_a_small_disk(f"sweep(folder, 'function', [room * 1024 for room in {FIRST_PAGES}])", tmp_path)
    texts = [text for _, _, text in said]
    assert None not in [name for _, name, _ in said]
    for what in ("journal.sqlite cannot be created", "journal.sqlite cannot be written", "Nothing had begun"):
        assert any(what in text for text in texts), what


ALL_SIZES = bool(os.environ.get("SHOAL_TEST_ALL"))
STEP = 7 if ALL_SIZES else 190
"""Kilobytes between two sizes that are tried. All of them take some minutes."""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_the_disk_may_get_full_at_any_moment(kind: str, tmp_path: Path) -> None:
    said = on_a_small_disk(f"sweep(folder, {kind!r}, range({67 * KB}, {1000 * KB}, {STEP * KB}))", tmp_path)
    seen = {name for _, name, _ in said} - {None}
    # Whether the journal or another file comes to the end of the disk depends on the moment; of many, both do.
    assert seen >= {"StorageError", "JournalError"} if ALL_SIZES else seen


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_gets_little_room_again_and_again_is_gone_on_with_until_the_end(kind: str, tmp_path: Path) -> None:
    said = on_a_small_disk(
        f"""
trainable = KINDS[{kind!r}]
expected = outcome(tuner(trainable, Path(tempfile.mkdtemp())).fit())
if {kind!r} == "scratch":
    os.environ["SCRATCH"] = str(folder)
fill(folder, 140_000)
error = attempt(tuner(trainable, folder).fit)
errors = 0
while error is not None:
    errors += 1
    print(json.dumps([str(error)]))
    check_text(error, folder / "run")
    size = (folder / "filler").stat().st_size
    assert size, "there is all the room that there can be"
    os.truncate(folder / "filler", max(0, size - 250_000))
    error = attempt(lambda: go_on(folder / "run", trainable, error))
grid = tune.ResultGrid.read(folder / "run")
assert outcome(grid) == expected
check_checkpoints(folder / "run", settled=True)
check_files(grid)
""",
        tmp_path,
    )
    assert len(said) >= 3


def test_a_disk_without_room_for_more_files_says_so_and_the_run_goes_on_when_there_is(tmp_path: Path) -> None:
    said = on_a_small_disk(
        """
expected = outcome(tuner(train, Path(tempfile.mkdtemp())).fit())
for count in (1, 2, 3, 4, 5, 6, 7, 9, 14, 20, 28, 36):
    mount("-o", f"remount,nr_inodes={count}", folder)
    error = attempt(tuner(train, folder).fit)
    print(json.dumps([count, str(error)]))
    if error is not None:
        check_text(error, folder / "run" if count > 3 else folder / "not there")
    mount("-o", "remount,nr_inodes=1000", folder)
    grid = go_on(folder / "run", train, error) if count > 3 else tuner(train, folder).fit()
    assert outcome(grid) == expected
    check_checkpoints(folder / "run", settled=True)
    check_files(grid)
    shutil.rmtree(folder / "run")
""",
        tmp_path,
        "size=8m,nr_inodes=1000",
    )
    assert sum(text != "None" for _, text in said) >= 8


def test_a_script_that_resumes_by_itself_is_simply_started_again(tmp_path: Path) -> None:
    said = on_a_small_disk(
        """
def script():
    given = settings()
    space, about = given["param_space"], given["tune_config"]
    return tune.run(
        train, name="run", storage_path=str(folder), config=space, resume="AUTO", verbose=0, num_samples=4, seed=1,
        metric="score", mode="max", scheduler=about.scheduler, stop={"training_iteration": 8}, max_concurrent_trials=2,
        checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
    )
expected = outcome(tuner(train, Path(tempfile.mkdtemp())).fit())
for room in (0, 40, 80, 88, 130, 200, 500):
    fill(folder, room * 1024)
    error = attempt(script)
    again = attempt(script)
    print(json.dumps([room, str(error), str(again)]))
    (folder / "filler").unlink()
    script()
    assert outcome(tune.ResultGrid.read(folder / "run")) == expected
    shutil.rmtree(folder / "run")
""",
        tmp_path,
    )
    assert [room for room, error, again in said if error != "None" and again != "None"][:4] == [0, 40, 80, 88]


# ---------------------------------------------------------------------------------------- the user's own files and code


def test_who_catches_the_error_and_makes_room_may_report_again_and_nothing_counts_twice(tmp_path: Path) -> None:
    """A report that raised has not happened: it has no number, the journal does not know of it.

    The disk is full for single copies only: on one that is, the journal and the log files may come to its end as well.
    """
    marks = tmp_path / "marks"
    marks.mkdir()

    def stubborn(config: dict[str, Any]) -> None:
        copy, move, report, count = store._copy, store._commit_by_moving, tune.report, itertools.count(1)

        def full(source: Path, target: Path, *more: Any) -> tuple[str, int]:
            if next(count) in (2, 5):
                Path(target, "half").write_bytes(b"x")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return copy(source, target, *more)

        def other_file_system(*_: Any) -> Any:
            raise store._Unmovable

        def again(metrics: dict[str, Any], checkpoint: tune.Checkpoint) -> None:
            try:
                report(metrics, checkpoint=checkpoint)
            except StorageError as error:
                left = [path.name for path in Path(tune.get_context().get_trial_dir()).glob(".checkpoint*")]
                if left or "Free some space" not in str(error):
                    raise AssertionError(left) from error
                os.close(tempfile.mkstemp(dir=marks)[0])
                report(metrics, checkpoint=checkpoint)

        store._copy, store._commit_by_moving, tune.report = full, other_file_system, again  # type: ignore[assignment]
        try:
            train(config)
        finally:
            store._copy, store._commit_by_moving, tune.report = copy, move, report

    expected = outcome(tuner(train, tmp_path / "plain").fit())
    grid = tuner(stubborn, tmp_path / "full").fit()
    assert len(list(marks.iterdir())) >= 4
    assert outcome(grid) == expected
    check_checkpoints(tmp_path / "full" / "run", settled=True)
    check_files(grid)


def test_who_catches_the_error_and_reports_without_a_checkpoint_trains_on(tmp_path: Path) -> None:
    """What they have reported counts; what they have not saved cannot be copied or gone back to."""

    def train_on(config: dict[str, Any]) -> None:
        step, score = load_state() or (0, 0.0)
        while True:
            step += 1
            score += config["lr"]
            try:
                if step > 3:
                    with Path("/dev/full").open("w") as file:
                        file.write("weights")
                report_state(step, score, {"score": score}, save=True)
            except OSError:
                tune.report({"score": score})

    grid = tuner(train_on, tmp_path).fit()
    for trial in story(grid).in_order():
        assert trial.status is Status.TERMINATED
        assert trial.iteration == 8
        assert all(entry.row.report.iteration <= 3 for entry in trial.checkpoints.values())
    check_checkpoints(tmp_path / "run", settled=True)


def own_log(gate: Path) -> None:
    with Path("/dev/full").open("w") as file:
        file.write("a line of the user's own log")


def torch_to_a_path(gate: Path) -> None:
    import torch

    torch.save(torch.zeros(100_000), "/dev/full")


def torch_to_a_file(gate: Path) -> None:
    import torch

    with Path("/dev/full").open("wb") as file:
        torch.save(torch.zeros(100_000), file)


def numpy_to_a_file(gate: Path) -> None:
    import numpy as np

    with Path("/dev/full").open("wb") as file:
        np.save(file, np.zeros(100_000))


@pytest.mark.parametrize("write", [own_log, torch_to_a_path, torch_to_a_file, numpy_to_a_file])
@pytest.mark.parametrize("engine", ["processes", "inline"])
def test_a_full_disk_in_the_users_own_code_ends_the_run_as_well_and_it_goes_on(
    write: Callable[[Path], None], engine: str, tmp_path: Path
) -> None:
    gate = tmp_path / "full"
    gate.touch()

    def writes(config: dict[str, Any]) -> None:
        step, score = load_state() or (0, 0.0)
        while True:
            step += 1
            score += config["lr"]
            if step == 4 and gate.exists():
                write(gate)
            report_state(step, score, {"score": score}, save=True)

    def plain(config: dict[str, Any]) -> None:
        step, score = load_state() or (0, 0.0)
        while True:
            step += 1
            score += config["lr"]
            report_state(step, score, {"score": score}, save=True)

    about = settings(storage_path=str(tmp_path))
    about["tune_config"].engine = engine
    with pytest.raises(
        StorageError, match=r"what trial writes_\w+ writes by itself: .*Make room, then go on"
    ) as caught:
        tune.Tuner(writes, **about).fit()
    check_text(caught.value, tmp_path / "run") if write is not torch_to_a_path else None
    cut = tune.ResultGrid.read(tmp_path / "run")
    assert all(failed.no_room for failed in items(cut, Failed))
    assert cut.num_errors == 0
    gate.unlink()
    grid = tune.Tuner.restore(tmp_path / "run", writes).fit()
    assert outcome(grid) == outcome(tuner(plain, tmp_path / "elsewhere").fit())
    check_files(grid)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "x"),
        OSError(122, "x"),
        OSError("100000 requested and 512 written"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        RuntimeError("basic_ios::clear: iostream error"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        RuntimeError("unable to write to file </torch_7>: No space left on device (28)"),
        sqlite3.OperationalError("database or disk is full"),
    ],
    ids=str,
)
def test_errors_that_say_that_a_disk_is_full_are_told_apart_also_behind_others(error: Exception) -> None:
    def fails() -> None:
        try:
            raise error
        finally:
            int("no number")

    assert is_full(error)
    with pytest.raises(ValueError, match="invalid literal") as behind:
        fails()
    assert is_full(behind.value)


def test_other_errors_and_those_that_cannot_be_shown_say_nothing_about_a_disk() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    for error in (OSError(2, "No such file or directory"), Odd(), ValueError("full"), RuntimeError("unexpected pos 3")):
        assert not is_full(error)


def test_a_temporary_folder_that_is_full_from_the_beginning_is_avoided_and_later_it_ends_the_run(
    tmp_path: Path,
) -> None:
    said = on_a_small_disk(
        """
storage = Path(tempfile.mkdtemp())
expected = outcome(tuner(train, storage / "other").fit())
os.environ["TMPDIR"], tempfile.tempdir = str(folder), None
fill(folder, 0)
error = attempt(tuner(train, storage).fit)  # Python looks for another
print(json.dumps(["begins full", str(error)]))
(folder / "filler").unlink()
tempfile.tempdir = None
shutil.rmtree(storage / "run")
os.environ["SCRATCH"] = str(folder)
fill(folder, WEIGHTS // 2)
error = attempt(tuner(train, storage).fit)
print(json.dumps(["gets full", str(error)]))
assert list(folder.iterdir()) == [folder / "filler"]
(folder / "filler").unlink()
assert outcome(go_on(storage / "run", train, error)) == expected
""",
        tmp_path,
    )
    assert said[0] == ["begins full", "None"]
    assert "what trial train_" in said[1][1]
    assert "No space left on device" in said[1][1]


# ------------------------------------------------------------------------------------------ files that Shoal itself has


class Full(tune.Callback):
    """Lets files of Shoal's in the trials' folders be on a full disk."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.done = False

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        for name in self.names:
            folder = Path(trial.path)
            path = (folder.parent if name.startswith((".pbt", "pbt")) else folder) / name.format(trial.trial_id)
            if not path.is_symlink():
                path.unlink(missing_ok=True)
                path.symlink_to("/dev/full")


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("result.json", "LogFiles"),
        (".progress.csv.new", "LogFiles"),
        (".params.json.new", "LogFiles"),
        ("pbt_global.txt", "PolicyFiles"),
        (".pbt_policy_{}.txt.new", "PolicyFiles"),
    ],
)
def test_a_log_file_without_room_ends_the_run_and_is_whole_after_it_has_gone_on(
    name: str, reader: str, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match=rf"There was no room on the disk: {reader}: .*No space left.*restore\("):
        tuner(train, tmp_path, callbacks=[Full([name])]).fit()
    for path in tmp_path.rglob("*"):
        if path.is_symlink():
            path.unlink()
    check_checkpoints(tmp_path / "run", settled=True)
    grid = tune.Tuner.restore(tmp_path / "run", train, run_config=tune.RunConfig(callbacks=[])).fit()
    assert outcome(grid) == outcome(tuner(train, tmp_path / "elsewhere").fit())
    check_files(grid)
    exploits = (tmp_path / "run" / "pbt_global.txt").read_text().splitlines()
    assert len(exploits) == len(story(grid).exploits) > 0


def test_what_is_printed_to_a_full_disk_is_given_up_and_the_run_comes_to_its_end(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from tests.faults.test_disk_full import train, tuner
tuner(train, Path(sys.argv[1]), verbose=3).fit()
"""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=100,
        )  # fmt: skip
    assert "PlainStatus failed and is switched off" in done.stderr
    assert "No space left on device" in done.stderr
    grid = tune.ResultGrid.read(tmp_path / "run")
    assert outcome(grid) == outcome(tuner(train, tmp_path / "elsewhere").fit())
    check_files(grid)


def test_a_callback_that_finds_its_disk_full_is_left_out_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Notebook(tune.Callback):
        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
            with Path("/dev/full").open("w") as file:
                file.write("what the user wants to know")

    grid = tuner(train, tmp_path, callbacks=[Notebook()]).fit()
    assert [result.metrics["training_iteration"] for result in grid] == [8] * 4
    said = capsys.readouterr()
    assert (
        "The callback Notebook raised in on_trial_result and is not called again; the run goes on."
        in said.out + said.err
    )
    assert "No space left on device" in said.out + said.err
