"""``shoal gc``: what it deletes, and that everything else goes on as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.simulated import write_experiment
from tests.unit.tended import Shoal, command_line, cut_off, findings, problems, run_in, save_always, snapshot

from shoal import tune
from shoal.core.commands import checkpoint_name
from shoal.errors import ConfigError
from shoal.journal.lock import lock, unlock
from shoal.reading import Experiment, State
from shoal.results import ResultGrid


@pytest.fixture
def shoal(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shoal:
    return command_line(capsys, tmp_path / "results", monkeypatch)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run, whole and ended: four members, fifteen steps, a checkpoint at each."""
    return Path(run_in(tmp_path_factory.mktemp("ran")).experiment_path)


@pytest.fixture
def folder(ran: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ran, tmp_path / "results" / "pbt"))


def leave_behind(folder: Path) -> list[Path]:
    """Leave what killed processes leave, and beside it what nobody may touch. Return the former."""
    trial = Experiment.open(folder).history.in_order()[0]
    own = folder / trial.folder
    following = max(trial.checkpoints) + 1
    left = [
        own / f".checkpoint_{following:06d}.4711",
        own / ".deleted_checkpoint_000000",
        own / checkpoint_name(following),
    ]
    for path in left:
        path.mkdir()
        (path / "weights.bin").write_bytes(b"x" * 1000)
    (own / ".result.json.new").write_text("half")
    for mine in ("checkpoint_best", "checkpoint_999999", "checkpoint_12"):
        (own / mine).mkdir()
        (own / mine / "mine.bin").write_bytes(b"mine")
    return [*left, own / ".result.json.new"]


def test_by_default_only_what_killed_processes_have_left_is_deleted(shoal: Shoal, folder: Path) -> None:
    before = snapshot(folder)
    left = leave_behind(folder)
    code, out, _ = shoal("gc", "pbt", "--dry-run")
    assert code == 0
    assert all(path.name in out for path in left)
    assert all(path.exists() for path in left)
    assert shoal("gc", "pbt", "--yes")[0] == 0
    after = snapshot(folder)
    mine = {name for name in after if name.endswith("mine.bin")}
    assert len(mine) == 3
    assert (folder / "journal.lock").read_text().endswith(" (gc)")
    assert {name: data for name, data in after.items() if name not in {*mine, "journal.lock"}} == {
        name: data for name, data in before.items() if name != "journal.lock"
    }
    assert shoal("gc", "pbt", "--yes")[1] == "nothing to free.\n"
    assert shoal("doctor", "pbt")[0] == 0


def there(folder: Path) -> set[str]:
    history = Experiment.open(folder).history
    return {
        f"{trial.index}/{number}"
        for trial in history.in_order()
        for number in trial.checkpoints
        if (folder / trial.folder / checkpoint_name(number)).is_dir()
    }


def test_asked_to_keep_the_best_it_keeps_also_what_a_restore_needs_and_results_know(shoal: Shoal, folder: Path) -> None:
    history = Experiment.open(folder).history
    needed = {f"{trial.index}/{max(trial.checkpoints)}" for trial in history.in_order()}
    scores = {
        f"{trial.index}/{number}": entry.row.value("score")
        for trial in history.in_order()
        for number, entry in trial.checkpoints.items()
    }
    best = {key for key, score in scores.items() if score in sorted(scores.values())[-2:]}
    code, out, _ = shoal("gc", "pbt", "--keep-best", "2", "--yes", "--format", "json")
    assert code == 0
    (told,) = json.loads(out)
    assert told["deleted"]
    assert needed <= there(folder) <= needed | best
    assert len(there(folder) & best) >= 2
    grid = ResultGrid.read(folder)
    assert all(result.checkpoint is not None for result in grid)
    kept = {str(checkpoint.path) for result in grid for checkpoint, _ in result.best_checkpoints}
    assert len(kept) == len(there(folder))
    found = list(findings(shoal, "pbt"))
    assert not [each for each in found if each["level"] == "problem"]
    assert any("freed by 'shoal gc'" in each["what"] for each in found)


def test_what_was_freed_changes_neither_decisions_nor_durations_and_the_experiment_goes_on(
    shoal: Shoal, folder: Path
) -> None:
    before = Experiment.open(folder)
    shoal("gc", "pbt", "--keep-newest", "1", "--yes")
    after = Experiment.open(folder)
    assert after.seq > before.seq
    assert after.timeline.duration == before.timeline.duration
    assert after.state is State.ENDED
    assert [t.rows for t in after.history.in_order()] == [t.rows for t in before.history.in_order()]
    grid = tune.Tuner.restore(
        folder, save_always, run_config=tune.RunConfig(stop={"training_iteration": 20}, verbose=0)
    ).fit()
    assert not grid.errors
    assert [result.metrics["training_iteration"] for result in grid] == [20] * 4
    assert all(trial.first_checkpoint == 0 for trial in Experiment.open(folder).history.in_order())
    assert shoal("doctor", "pbt")[0] == 0


def test_an_interrupted_experiment_keeps_what_it_goes_on_from_and_does_not_give_it_up(
    shoal: Shoal, folder: Path
) -> None:
    cut_off(folder)
    code, _, err = shoal("gc", "pbt", "--keep-best", "0", "--give-up-restore", "--yes")
    assert code == 2
    assert "interrupted" in err
    needed = {f"{trial.index}/{max(trial.checkpoints)}" for trial in Experiment.open(folder).history.in_order()}
    assert shoal("gc", "pbt", "--keep-best", "0", "--yes")[0] == 0
    assert there(folder) == needed
    grid = tune.Tuner.restore(folder, save_always, run_config=tune.RunConfig(verbose=0)).fit()
    assert not grid.errors
    assert [result.metrics["training_iteration"] for result in grid] == [15] * 4


def test_only_where_it_is_said_an_ended_experiment_gives_up_what_a_restore_needs(shoal: Shoal, folder: Path) -> None:
    best = Experiment.open(folder).history.best("score", "max")
    assert best is not None
    assert shoal("gc", "pbt", "--give-up-restore", "--yes")[0] == 2
    assert shoal("gc", "pbt", "--keep-best", "1", "--give-up-restore", "--yes")[0] == 0
    assert there(folder) == {f"{best.index}/{max(best.checkpoints)}"}
    grid = ResultGrid.read(folder)
    assert [result.checkpoint is not None for result in grid] == [index == best.index for index in range(4)]
    assert shoal("doctor", "pbt")[0] == 0


def test_the_lineage_that_is_kept_is_the_best_trials(shoal: Shoal, folder: Path) -> None:
    lineage = ResultGrid.read(folder).get_best_result().lineage()
    shoal("gc", "pbt", "--keep-lineage", "--yes")
    history = Experiment.open(folder).history
    for segment in lineage:
        if segment.checkpoint is not None:
            owner, _, name = segment.checkpoint.rpartition("/")
            assert (folder / history.trials[owner].folder / name).is_dir()


def test_with_its_lineage_the_best_trial_keeps_the_weights_that_it_ended_with(shoal: Shoal, folder: Path) -> None:
    winner = ResultGrid.read(folder).get_best_result()
    assert winner.checkpoint is not None
    path = winner.checkpoint.path
    assert shoal("gc", "pbt", "--keep-lineage", "--give-up-restore", "--yes")[0] == 0
    kept = ResultGrid.read(folder).get_best_result().checkpoint
    assert kept is not None
    assert kept.path == path
    assert Path(path).is_dir()


def test_a_best_trial_without_a_checkpoint_of_its_own_keeps_the_donors(shoal: Shoal, tmp_path: Path) -> None:
    from shoal.cli.files import Files

    folder = write_experiment(tmp_path / "results" / "sim", members=8, steps=7, files=True, checkpoint_every=5)
    history = Experiment.open(folder).history
    files = Files(folder, history)
    copied = [trial for trial in history.in_order() if trial.restore is not None]
    assert copied
    for trial in copied:
        assert trial.restore is not None
        assert trial.restore.id in files.weights_of(trial)


def test_what_somebody_else_has_deleted_takes_no_place_among_those_that_are_kept(shoal: Shoal, folder: Path) -> None:
    trial = Experiment.open(folder).history.best("score", "max")
    assert trial is not None
    *_, second, newest = sorted(trial.checkpoints)
    shutil.rmtree(folder / trial.folder / checkpoint_name(newest))
    shoal("gc", "pbt", "--keep-newest", "1", "--give-up-restore", "--yes")
    assert f"{trial.index}/{second}" in there(folder)


def test_a_running_experiment_is_left_alone(shoal: Shoal, folder: Path) -> None:
    left = leave_behind(folder)
    held = lock(folder)
    try:
        code, _, err = shoal("gc", "pbt", "--yes")
        assert code == 1
        assert "being run by process" in err
        assert shoal("gc", str(folder.parent), "--yes")[0] == 0
    finally:
        unlock(held)
    assert all(path.exists() for path in left)


def test_a_damaged_journal_means_that_nothing_is_deleted(shoal: Shoal, folder: Path) -> None:
    left = leave_behind(folder)
    (folder / "journal.sqlite").write_bytes(b"no journal at all" * 100)
    assert shoal("gc", "pbt", "--yes")[0] == 1
    assert all(path.exists() for path in left)


def test_links_are_not_followed(shoal: Shoal, folder: Path, tmp_path: Path) -> None:
    trials = Experiment.open(folder).history.in_order()
    outside = tmp_path / "outside"
    shutil.move(folder / trials[0].folder, outside)
    (folder / trials[0].folder).symlink_to(outside)
    old = folder / trials[1].folder / checkpoint_name(min(trials[1].checkpoints))
    shutil.move(old, tmp_path / "elsewhere")
    old.symlink_to(tmp_path / "elsewhere")
    inside = folder / trials[2].folder / checkpoint_name(min(trials[2].checkpoints))
    (inside / "link").symlink_to(tmp_path / "elsewhere")
    before = snapshot(outside), snapshot(tmp_path / "elsewhere")
    assert shoal("gc", "pbt", "--keep-best", "0", "--give-up-restore", "--yes")[0] == 0
    assert not inside.exists()
    assert old.is_symlink()
    assert (snapshot(outside), snapshot(tmp_path / "elsewhere")) == before


def test_without_a_terminal_nothing_is_deleted_that_nobody_has_confirmed(
    shoal: Shoal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    left = leave_behind(folder)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, _, err = shoal("gc", "pbt")
    assert code == 2
    assert "--yes" in err
    assert all(path.exists() for path in left)


def test_checkpoints_that_are_gone_from_the_disk_by_other_hands_are_no_matter_of_gc(shoal: Shoal, folder: Path) -> None:
    trial = Experiment.open(folder).history.in_order()[0]
    shutil.rmtree(folder / trial.folder / checkpoint_name(min(trial.checkpoints)))
    assert shoal("gc", "pbt", "--keep-newest", "1", "--yes")[0] == 0
    assert problems(shoal, "pbt") == ["checkpoints"]
    with pytest.raises(ConfigError):
        _ = ResultGrid.read(folder)[0].best_checkpoints


def test_of_each_file_that_is_replaced_whole_a_half_written_one_is_known(folder: Path) -> None:
    from shoal.cli.files import _HALF_REPLACED

    growing = {"error.txt", "output.log"}
    names = {
        path.name
        for path in [*folder.iterdir(), *folder.glob("*/*")]
        if path.is_file() and not path.name.startswith(("journal", "events.out")) and path.name not in growing
    }
    assert {"result.json", "progress.csv", "params.json", "pbt_global.txt"} <= names
    assert all(_HALF_REPLACED.fullmatch(f".{name}.new") for name in names), names
