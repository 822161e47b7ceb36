"""What a restore brings to this machine: all of it or nothing, and nothing that is only here is thrown away."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.in_memory import cache, fail_once, interrupted, root, run, working_folders
from tests.helpers import load_state, report_state

from shoal import tune
from shoal.errors import StorageError
from shoal.location import location_of
from shoal.reading import Experiment
from shoal.storage.place import Place
from shoal.storage.trying import PlaceError

__all__ = ["cache", "root"]  # fixtures

FILES = ("mine.csv", "sub/more.txt")


def writes(config: dict[str, Any]) -> None:
    """Climb, and add to own files with each step."""
    folder = Path(tune.get_context().get_trial_dir())
    step, score = load_state() or (0, 0.0)
    while True:
        step += 1
        for name in FILES:
            (folder / name).parent.mkdir(exist_ok=True)
            with (folder / name).open("a") as file:
                file.write(f"{step}\n")
        report_state(step, score, {"score": score}, save=True)


def until(iteration: int) -> tune.RunConfig:
    return tune.RunConfig(stop={"training_iteration": iteration}, verbose=0)


@pytest.fixture
def elsewhere(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of an experiment with three steps, of which nothing is on this machine."""
    run(root, writes, run={"name": "a"}, num_samples=1, stop={"training_iteration": 3})
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "another machine"))
    return f"{root}/a"


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    """Have storage not give one file: half of it arrives."""
    real = Place.download_file

    def download(place: Place, path: Path, size: int | None = None) -> None:
        if place.name == name:
            path.write_bytes(b"half")
            raise error
        real(place, path, size)

    monkeypatch.setattr(Place, "download_file", download)


@pytest.mark.parametrize("name", [file.rpartition("/")[2] for file in FILES])
def test_a_restore_that_is_cut_off_while_files_come_loses_none_of_them(
    elsewhere: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, name, KeyboardInterrupt())
        tuner = tune.Tuner.restore(elsewhere, writes, run_config=until(5))
        with pytest.raises(KeyboardInterrupt):
            tuner.fit()
    grid = tune.Tuner.restore(elsewhere, writes, run_config=until(5)).fit()
    for file in FILES:
        assert (Place(grid[0].path) / file).read_bytes().split() == [b"1", b"2", b"3", b"4", b"5"]
    assert working_folders() == []


def test_a_file_that_storage_does_not_give_is_told_and_left_as_it_is(
    elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "more.txt", PlaceError("Access to more.txt is denied."))
    tuner = tune.Tuner.restore(elsewhere, writes, run_config=until(5))
    with (
        pytest.warns(UserWarning, match=r"storage does not give 1 file of .*/sub/more.txt. Access .* is denied"),
        pytest.warns(UserWarning, match=r"was kept, because .*/sub/more.txt"),
    ):
        grid = tuner.fit()
    assert (Place(grid[0].path) / "mine.csv").read_bytes().split() == [b"1", b"2", b"3", b"4", b"5"]
    assert (Place(grid[0].path) / "sub/more.txt").read_bytes().split() == [b"1", b"2", b"3"]
    (folder,) = working_folders()
    assert [path.read_bytes().split() for path in folder.glob("*/sub/more.txt")] == [[b"4", b"5"]]
    assert not (folder / ".fetching").exists()


def test_storage_that_goes_away_while_files_come_is_an_error_and_nothing_is_changed(
    elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.working._FILES_PATIENCE_S", 0.0)
    before = Place(elsewhere).list_sizes()
    with monkeypatch.context() as patch:
        failing(patch, "more.txt", PlaceError("It cannot be reached now.", passes=True))
        tuner = tune.Tuner.restore(elsewhere, writes, run_config=until(5))
        with pytest.raises(StorageError, match=r"cannot be brought to .* cannot be reached now\. .*restore it again"):
            tuner.fit()
    assert Place(elsewhere).list_sizes() == before
    assert tune.Tuner.restore(elsewhere, writes, run_config=until(5)).fit()[0].metrics["training_iteration"] == 5


def test_a_working_folder_whose_checkpoints_are_gone_is_moved_aside_with_its_journal(root: str, tmp_path: Path) -> None:
    interrupted(root, tmp_path / "flag")
    (folder,) = working_folders()
    tune.Tuner.restore(folder, fail_once).fit()  # without storage
    here = Experiment.open(folder).seq
    (newest,) = [sorted(trial.glob("checkpoint_*"))[-1] for trial in sorted(folder.glob("fail_once_*"))[:1]]
    shutil.rmtree(newest)
    tuner = tune.Tuner.restore(f"{root}/a", fail_once)
    with pytest.warns(UserWarning, match=rf"are gone: {newest.parent.name}/{newest.name}\. It was moved to .*\.aside"):
        grid = tuner.fit()
    assert {result.metrics["training_iteration"] for result in grid} == {20}
    (aside,) = working_folders()
    assert aside != location_of(f"{root}/a").folder
    assert Experiment.open(aside).seq == here
