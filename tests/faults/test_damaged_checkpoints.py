"""Checkpoints that are changed on the disk after they were committed: none is loaded, and the user is told."""

from __future__ import annotations

import json
import shutil
import tempfile
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import fit, items, pbt, story

from shoal import tune
from shoal.checkpoints.store import damage, digest_of
from shoal.core.commands import CheckpointRecord, DeleteCheckpoint, Exploit, FallBack, Launch, Status, checkpoint_name
from shoal.core.events import Damaged, Started
from shoal.errors import StorageError
from shoal.history import History
from shoal.journal.sqlite import SQLiteJournal


def train(config: dict[str, Any]) -> None:
    """Asserts the checksum of all that it loads; its score is the sum of the learning rates of its steps."""
    step, score = load(tune.get_checkpoint())
    while True:
        step += 1
        score += config["lr"]
        if config.get("dies") == step and not Path(config["mark"]).exists():
            Path(config["mark"]).touch()
            raise RuntimeError("dies once")
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder), step, score)
            tune.report({"score": score}, checkpoint=tune.Checkpoint.from_directory(folder))


def save(folder: Path, step: int, score: float) -> None:
    text = json.dumps([step, score])
    (folder / "deep").mkdir()
    (folder / "deep" / "weights").write_text(text)
    (folder / "checksum").write_text(str(zlib.crc32(text.encode())))


def load(checkpoint: tune.Checkpoint | None) -> tuple[int, float]:
    if checkpoint is None:
        return 0, 0.0
    text = Path(checkpoint.path, "deep", "weights").read_text()
    assert sorted(path.name for path in Path(checkpoint.path).rglob("[!.]*")) == ["checksum", "deep", "weights"]
    assert Path(checkpoint.path, "checksum").read_text() == str(zlib.crc32(text.encode())), "loads what is damaged"
    step, score = json.loads(text)
    return step, score


class Climber(tune.Trainable):
    """The same as a class."""

    def setup(self, config: dict[str, Any]) -> None:
        self.steps, self.score = 0, 0.0

    def step(self) -> dict[str, Any]:
        self.steps += 1
        self.score += self.config["lr"]
        return {"score": self.score}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        save(Path(checkpoint_dir), self.steps, self.score)

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.steps, self.score = load(tune.Checkpoint(checkpoint))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True


# --------------------------------------------------------------------------------------------------------------- damage


def flip(folder: Path) -> None:
    path = folder / "deep" / "weights"
    data = bytearray(path.read_bytes())
    data[1] ^= 1
    path.write_bytes(data)


def truncate(folder: Path) -> None:
    (folder / "deep" / "weights").write_bytes((folder / "deep" / "weights").read_bytes()[:-1])


def empty(folder: Path) -> None:
    (folder / "deep" / "weights").write_bytes(b"")


def without_a_file(folder: Path) -> None:
    (folder / "checksum").unlink()


def with_another_file(folder: Path) -> None:
    (folder / "more").write_text("")


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def renamed(folder: Path) -> None:
    (folder / "deep" / "weights").rename(folder / "weights")


def dangling(folder: Path) -> None:
    (folder / "checksum").unlink()
    (folder / "checksum").symlink_to("nowhere")


def older(folder: Path) -> None:
    """A checkpoint that is whole, but not this one."""
    shutil.rmtree(folder)
    folder.mkdir()
    save(folder, 1, 0.25)


DAMAGE = [flip, truncate, empty, without_a_file, with_another_file, gone, renamed, dangling, older]


class Cycle:
    """Each kind of damage in turn."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, folder: Path) -> None:
        self.count += 1
        DAMAGE[self.count % len(DAMAGE)](folder)


class Damages:
    """Damages checkpoints between commit and load.

    As a stop function it is asked in the driver about every result, before anything is decided upon it: so whoever is
    to load the checkpoint finds it damaged.
    """

    def __init__(
        self, how: Callable[[Path], None], which: Callable[[int, int], bool], length: int, run: Path, most: int = 1
    ) -> None:
        self.how = how
        self.which = which
        self.length = length
        self.run = run
        self.most = most
        self.damaged: list[Path] = []

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        name, iteration = result["checkpoint_dir_name"], result["training_iteration"]
        if len(self.damaged) < self.most and name is not None and self.which(int(trial_id[-5:]), iteration):
            [folder] = self.run.glob(f"*_{trial_id}_*")
            if folder / name not in self.damaged:
                self.damaged.append(folder / name)
                self.how(folder / name)
        return bool(iteration >= self.length)


def experiment(folder: Path, trainable: Any = train, stop: Any = None, **more: Any) -> tune.ResultGrid:
    """Run a synchronous experiment of four members with fixed learning rates: the last member is the best."""
    run: dict[str, Any] = {"name": "run", **more}
    return fit(
        trainable, folder, space={"lr": tune.grid_search([0.1, 0.2, 0.3, 0.4])}, num_samples=1,
        scheduler=pbt(synch=True, perturbation_interval=3, quantile_fraction=0.25, resample_probability=0.0),
        stop=stop or {"training_iteration": 9}, run=run,
    )  # fmt: skip


def told(run: Path) -> list[Any]:
    with closing(SQLiteJournal.open_for_reading(run)) as journal:
        return [record.item for record in journal.read()]


def check_truth(grid: tune.ResultGrid) -> None:
    """Make sure that what the members loaded is what was saved, and that all that is told follows from it."""
    everything = told(Path(grid.experiment_path))
    bad = {item.checkpoint_id for item in everything if isinstance(item, Damaged)}
    launches: dict[tuple[str, int], CheckpointRecord | None] = {}
    spoiled: set[str] = set()
    for item in everything:
        if isinstance(item, Launch):
            launches[item.trial_id, item.launch] = item.checkpoint
        elif isinstance(item, Damaged):
            spoiled.add(item.checkpoint_id)
        elif isinstance(item, Started):
            record = launches[item.trial_id, item.launch]
            assert item.digest == (None if record is None else record.digest)
            assert record is None or record.id not in spoiled
        elif isinstance(item, Exploit):
            assert item.checkpoint.id not in spoiled
        elif isinstance(item, FallBack):
            assert item.damaged in spoiled
            assert item.checkpoint.id not in spoiled
    for result, trial in zip(grid, story(grid).in_order(), strict=True):
        rows = result.learning_curve().to_dict("records")
        # The score is the sum of the learning rates with which the steps were trained: so a curve that is wrong shows.
        total = 0.0
        for step, row in enumerate(rows, start=1):
            total += row["config/lr"]
            assert row["training_iteration"] == step
            assert row["score"] == pytest.approx(total)
        steps = sum(segment.steps * segment.config["lr"] for segment in result.lineage())
        assert steps == pytest.approx(0.0 if not rows else rows[-1]["score"])
        assert not bad & {f"{trial.trial_id}/{checkpoint_name(number)}" for number in trial.checkpoints}
        for checkpoint, metrics in result.best_checkpoints:
            assert load(checkpoint)[0] == metrics["training_iteration"]
        if result.checkpoint is not None:
            load(result.checkpoint)


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("trainable", [train, Climber])
def test_a_donors_damaged_checkpoint_is_not_loaded_and_the_member_goes_on_from_the_one_before(
    how: Callable[[Path], None], trainable: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damages = Damages(how, lambda index, iteration: (index, iteration) == (3, 3), 9, tmp_path / "run")
    keep = {"checkpoint_config": tune.CheckpointConfig(**_every(trainable))}
    grid = experiment(tmp_path, trainable, damages, **keep)
    assert len(damages.damaged) == 1
    found = items(grid, Damaged)
    assert len(found) == 1
    copied = [exploit for exploit in items(grid, Exploit) if exploit.checkpoint.id == found[0].checkpoint_id]
    assert len(copied) == 1
    fallen = items(grid, FallBack)
    assert [(fall.trial_id, fall.damaged, fall.checkpoint.iteration) for fall in fallen] == [
        (copied[0].trial_id, copied[0].checkpoint.id, 2)
    ]
    # The member keeps the config that it was given, and trains the donor's older weights with it.
    launch = next(item for item in items(grid, Launch) if item.checkpoint == fallen[0].checkpoint)
    assert launch.trial_id == copied[0].trial_id
    assert launch.config == copied[0].new_config
    said = capsys.readouterr()
    line = next(line for line in (said.out + said.err).splitlines() if "is damaged" in line)
    assert found[0].checkpoint_id in line
    assert "which is damaged: " in line
    assert f"It goes on from {fallen[0].checkpoint.id}, iteration 2." in line
    assert [result.metrics["training_iteration"] for result in grid] == [9] * 4
    assert grid.num_errors == 0
    check_truth(grid)


def _every(trainable: Any) -> dict[str, Any]:
    return {} if trainable is train else {"checkpoint_frequency": 1}


@pytest.mark.parametrize("how", [flip, gone, older])
def test_a_members_own_damaged_checkpoint_is_not_loaded_after_a_crash(
    how: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damages = Damages(how, lambda index, iteration: iteration == 4, 8, tmp_path / "run")
    grid = fit(
        train, tmp_path, num_samples=1, space={"lr": 0.5, "dies": 5, "mark": str(tmp_path / "mark")}, stop=damages,
        run={"name": "run", "failure_config": tune.FailureConfig(max_failures=1)},
    )  # fmt: skip
    [found] = items(grid, Damaged)
    assert [(fall.damaged, fall.checkpoint.iteration) for fall in items(grid, FallBack)] == [(found.checkpoint_id, 3)]
    assert grid[0].metrics["score"] == 4.0
    assert f"{found.checkpoint_id}, which is damaged" in "".join(capsys.readouterr())
    check_truth(grid)


@pytest.mark.parametrize("how", DAMAGE)
def test_a_checkpoint_that_is_damaged_while_nothing_runs_is_found_when_the_experiment_goes_on(
    how: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = fit(
        train, tmp_path, space={"lr": tune.grid_search([0.25, 0.5])}, num_samples=1, stop={"training_iteration": 5},
        run={"name": "plain"},
    )  # fmt: skip
    folders = [Path(result.path, checkpoint_name(4)) for result in grid]
    how(folders[0])
    again = tune.Tuner.restore(tmp_path / "plain", train, run_config=tune.RunConfig(stop={"training_iteration": 8}))
    grid = again.fit()
    assert [(fall.damaged[-17:], fall.checkpoint.iteration) for fall in items(grid, FallBack)] == [
        (checkpoint_name(4), 4)
    ]
    assert [result.metrics["score"] for result in grid] == [2.0, 4.0]
    check_truth(grid)
    assert "checkpoint_000004, which is damaged" in "".join(capsys.readouterr())


def test_a_folder_without_any_of_its_checkpoints_is_not_gone_on_with(tmp_path: Path) -> None:
    """Copied without them, say: they can be put back, and then nothing is lost."""
    space = {"lr": tune.grid_search([0.25, 0.5])}
    grid = fit(train, tmp_path, space=space, num_samples=1, stop={"training_iteration": 5}, run={"name": "plain"})
    there = [path for result in grid for path in Path(result.path).glob("checkpoint_*")]
    for place, path in enumerate(there):
        path.rename(tmp_path / f"aside{place}")
    more = tune.RunConfig(stop={"training_iteration": 8})
    with pytest.raises(StorageError, match=r"checkpoint_000004, which is gone, and so are .* of all .* Put them back"):
        tune.Tuner.restore(tmp_path / "plain", train, run_config=more).fit()
    for place, path in enumerate(there):
        (tmp_path / f"aside{place}").rename(path)
    grid = tune.Tuner.restore(tmp_path / "plain", train, run_config=more).fit()
    assert [result.metrics["score"] for result in grid] == [2.0, 4.0]
    assert items(grid, FallBack) == []


@pytest.mark.parametrize("how", [how for how in DAMAGE if how is not gone])
def test_where_there_is_none_before_it_the_trial_fails_with_its_name_and_the_advice(
    how: Callable[[Path], None], tmp_path: Path
) -> None:
    keep = tune.CheckpointConfig(num_to_keep=1)
    grid = fit(
        train, tmp_path, space={"lr": 0.5}, num_samples=1, stop={"training_iteration": 5},
        run={"name": "run", "checkpoint_config": keep},
    )  # fmt: skip
    folder = Path(grid[0].path, checkpoint_name(4))
    good = Path(shutil.copytree(folder, tmp_path / "good"))
    how(folder)
    grid = tune.Tuner.restore(tmp_path / "run", train, run_config=tune.RunConfig(stop={"training_iteration": 8})).fit()
    text = str(grid[0].error)
    assert f"{grid[0].trial_id}/checkpoint_000004, from which it was to go on, is damaged (" in text
    assert "there is none before it" in text
    assert "CheckpointConfig(num_to_keep=2)" in text
    assert len(items(grid, Damaged)) == 1
    assert items(grid, FallBack) == []
    assert grid[0].metrics["training_iteration"] == 5
    # Whoever wants it to go on all the same is told the same again, until the files are put back: none begins anew.
    again = tune.Tuner.restore(tmp_path / "run", train, resume_errored=True).fit()
    assert "is damaged (" in str(again[0].error)
    shutil.rmtree(folder)
    shutil.copytree(good, folder)
    again = tune.Tuner.restore(tmp_path / "run", train, resume_errored=True).fit()
    assert again[0].metrics["score"] == 4.0


def test_a_checkpoint_that_is_known_to_be_damaged_is_not_handed_out(tmp_path: Path) -> None:
    keep = tune.CheckpointConfig(num_to_keep=1)
    grid = fit(
        train, tmp_path, space={"lr": 0.5}, num_samples=1, stop={"training_iteration": 5},
        run={"name": "run", "checkpoint_config": keep},
    )  # fmt: skip
    flip(Path(grid[0].path, checkpoint_name(4)))
    grid = tune.Tuner.restore(tmp_path / "run", train, run_config=tune.RunConfig(stop={"training_iteration": 8})).fit()
    assert grid[0].error is not None
    assert grid[0].checkpoint is None
    assert grid[0].best_checkpoints == []


@pytest.mark.parametrize("synch", [True, False])
def test_a_member_whose_only_checkpoint_is_damaged_copies_another_where_there_is_pbt(
    synch: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = tune.CheckpointConfig(num_to_keep=1)
    about: dict[str, Any] = {
        "space": {"lr": tune.grid_search([0.1, 0.2, 0.3, 0.4])},
        "num_samples": 1,
        "scheduler": pbt(synch=synch, perturbation_interval=7),
    }
    fit(train, tmp_path, stop={"training_iteration": 5}, run={"name": "run", "checkpoint_config": keep}, **about)
    grid = tune.ResultGrid.read(tmp_path / "run")
    flip(Path(grid[2].path, checkpoint_name(4)))
    grid = tune.Tuner.restore(tmp_path / "run", train, run_config=tune.RunConfig(stop={"training_iteration": 9})).fit()
    assert grid.num_errors == 0
    found = items(grid, Damaged)
    assert [item.trial_id for item in found] == [grid[2].trial_id]
    copies = [item for item in items(grid, Exploit) if item.failed is not None]
    assert [item.trial_id for item in copies] == [grid[2].trial_id]
    if synch:  # else the best is who has come furthest so far
        assert copies[0].donor_id == grid[3].trial_id
    why = f"the checkpoint {found[0].checkpoint_id}, from which it was to go on, is damaged"
    assert why in copies[0].failed
    said = "".join(capsys.readouterr())
    assert f"failed after iteration 5: {why}" in said
    assert "It goes on as a copy of" in said
    assert why in Path(grid[2].path, "error.txt").read_text()
    check_truth(grid)


def test_several_checkpoints_that_are_damaged_are_passed_over_one_after_the_other(tmp_path: Path) -> None:
    about: dict[str, Any] = {"space": {"lr": 0.5}, "num_samples": 1}
    grid = fit(train, tmp_path, stop={"training_iteration": 6}, run={"name": "run"}, **about)
    for number in (3, 4, 5):
        flip(Path(grid[0].path, checkpoint_name(number)))
    grid = tune.Tuner.restore(tmp_path / "run", train, run_config=tune.RunConfig(stop={"training_iteration": 8})).fit()
    assert [fall.checkpoint.iteration for fall in items(grid, FallBack)] == [5, 4, 3]
    assert grid[0].metrics["score"] == 4.0
    assert [row["training_iteration"] for row in grid[0].learning_curve().to_dict("records")] == list(range(1, 9))
    check_truth(grid)


def test_every_checkpoint_damaged_again_and_again_never_becomes_weights(tmp_path: Path) -> None:
    damages = Damages(Cycle(), lambda index, iteration: iteration % 3 == 0, 9, tmp_path / "run", most=99)
    grid = experiment(tmp_path, stop=damages)
    assert len(damages.damaged) >= 8
    assert len(items(grid, Damaged)) >= 2
    assert all(trial.status in (Status.TERMINATED, Status.ERROR) for trial in story(grid).in_order())
    for item in items(grid, Started):
        assert item.pid
    errors = [str(error) for error in grid.errors]
    assert all("is damaged" in error for error in errors), errors
    assert not any("loads what is damaged" in trial.traceback for trial in story(grid).in_order())


# ---------------------------------------------------------------------------------------------------------------- notes


@pytest.mark.parametrize("when", ["before the report", "after the commit"])
def test_notes_in_a_checkpoint_are_no_damage(when: str, tmp_path: Path) -> None:
    def noting(config: dict[str, Any]) -> None:
        step, score = load(tune.get_checkpoint())
        while True:
            step += 1
            score += config["lr"]
            with tempfile.TemporaryDirectory() as folder:
                save(Path(folder), step, score)
                checkpoint = tune.Checkpoint.from_directory(folder)
                if when == "before the report":
                    checkpoint.set_metadata({"step": step})
                tune.report({"score": score}, checkpoint=checkpoint)

    grid = fit(noting, tmp_path, num_samples=1, space={"lr": 0.5}, stop={"training_iteration": 3}, run={"name": "run"})
    kept = grid[0].checkpoint
    assert kept is not None
    assert kept.get_metadata() == ({"step": 3} if when == "before the report" else {})
    kept.set_metadata({"classes": ["cat", "dog"]})
    Path(kept.path, ".metadata.json.4711").write_text("{")  # left by a process that died while it wrote them
    grid = tune.Tuner.restore(tmp_path / "run", noting, run_config=tune.RunConfig(stop={"training_iteration": 5})).fit()
    assert items(grid, Damaged) == []
    assert grid[0].metrics["score"] == 2.5
    assert kept.get_metadata() == {"classes": ["cat", "dog"]}


def test_notes_do_not_change_what_a_checkpoint_is_and_other_files_of_such_names_do(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "weights").write_text("1")
    digest = digest_of(tmp_path)
    tune.Checkpoint(tmp_path).set_metadata({"a": 1})
    assert damage(tmp_path, digest) is None
    for name in ("deep/.metadata.json", ".metadata.json.new", "metadata.json"):
        (tmp_path / name).write_text("{}")
        assert "its files have the digest" in str(damage(tmp_path, digest))
        (tmp_path / name).unlink()
    assert damage(tmp_path, digest) is None
    assert damage(tmp_path / "nowhere", digest) == f"{tmp_path / 'nowhere'} is gone"


def _kinds(history: History) -> list[str]:
    return [trial.status.value for trial in history.in_order()]


def test_what_is_damaged_and_needed_by_nobody_is_deleted(tmp_path: Path) -> None:
    damages = Damages(flip, lambda index, iteration: (index, iteration) == (3, 3), 9, tmp_path / "run")
    grid = experiment(tmp_path, stop=damages)
    [found] = items(grid, Damaged)
    deleted = {f"{item.trial_id}/{checkpoint_name(item.number)}" for item in items(grid, DeleteCheckpoint)}
    assert found.checkpoint_id in deleted
    assert not any(path.exists() for path in damages.damaged)
    assert _kinds(story(grid)) == ["TERMINATED"] * 4
