"""Runs whose experiment is kept in object storage: in memory here; with a real server in test_storage_restore.py."""

from __future__ import annotations

import errno
import functools
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tests.end_to_end.in_memory import cache, fail_once, interrupted, names, root, run, working_folders
from tests.helpers import climb, lineage, load_state, pbt, report_state

from shoal import tune
from shoal.errors import ConfigError, ExperimentExists, JournalError, StorageError
from shoal.interruption import Interruption
from shoal.location import location_of
from shoal.reading import Experiment, State
from shoal.storage.heartbeat import Alive, this_machine
from shoal.storage.place import Place
from shoal.storage.shipping import Shipper
from shoal.storage.transfer import key_of
from shoal.storage.trying import PlaceError
from shoal.viewing import find_urls
from shoal.working import forget

__all__ = ["cache", "root"]  # fixtures


# ------------------------------------------------------------------------------------------------------------ the run


@pytest.mark.parametrize("engine", ["processes", "inline"])
def test_a_run_in_storage_is_as_one_in_a_folder(root: str, tmp_path: Path, engine: str) -> None:
    there = run(root, engine=engine, scheduler=pbt(synch=True), run={"name": "a"})
    here = run(str(tmp_path / "here"), engine=engine, scheduler=pbt(synch=True), run={"name": "a"})
    assert lineage(there) == lineage(here)
    assert [result.metrics["score"] for result in there] == [result.metrics["score"] for result in here]
    assert there.experiment_path == f"{root}/a"


def test_all_files_are_in_storage_and_nothing_is_left_on_this_machine(root: str) -> None:
    grid = run(root, run={"name": "a"})
    found = names(f"{root}/a")
    for result in grid:
        folder = result.path.rpartition("/")[2]
        files = {name.partition("/")[2] for name in found if name.startswith(f"{folder}/")}
        assert {"result.json", "progress.csv", "params.json"} <= files
        assert result.checkpoint is not None
        assert result.checkpoint.path.removeprefix(f"{root}/a/") + "/state.json" in found
    assert any(name.startswith("journal/") for name in found)
    assert working_folders() == []


def draws(config: dict[str, Any]) -> None:
    """Climb, and write own files beside what is reported."""
    folder = Path(tune.get_context().get_trial_dir())
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    step, score = load_state() or (0, 0.0)
    while True:
        step += 1
        (folder / "samples" / f"{step}.png").write_text(f"{step}")
        with (folder / "mine?.csv").open("a") as file:
            file.write(f"{step}\n")
        if "own" in config:
            (folder / "checkpoint_000999").mkdir(exist_ok=True)
            (folder / "checkpoint_000999" / "own").write_text("own")
        report_state(step, score, {"score": score}, save=True)


def test_files_of_users_are_in_storage_and_come_back_where_the_run_goes_on(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(root, draws, run={"name": "a"}, num_samples=1, stop={"training_iteration": 3})
    assert working_folders() == []
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "another machine"))
    grid = tune.Tuner.restore(f"{root}/a", draws, run_config=tune.RunConfig(stop={"training_iteration": 5})).fit()
    place = Place(grid[0].path)
    assert (place / key_of("mine?.csv")).read_bytes().split() == [b"1", b"2", b"3", b"4", b"5"]
    assert (place / "samples").list_names() == [f"{step}.png" for step in range(1, 6)]
    assert working_folders() == []


def test_a_working_folder_with_what_storage_lacks_is_kept(root: str) -> None:
    with pytest.warns(UserWarning, match=r"was kept, because .* lacks files of it: draws_.*/checkpoint_000999"):
        run(root, draws, run={"name": "a"}, num_samples=1, stop={"training_iteration": 3}, space={"own": True})
    (folder,) = working_folders()
    assert [path.read_text() for path in folder.glob("*/checkpoint_000999/own")] == ["own"]


def test_a_working_folder_whose_records_are_not_all_in_storage_is_kept(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has noticed that the copy has stopped: what is here may be all that there is."""
    monkeypatch.setattr(Shipper, "publish", lambda shipper, upto: setattr(shipper, "seq", upto))
    with pytest.warns(UserWarning, match=rf"was kept, because {root}/a does not have the same records"):
        grid = run(root, run={"name": "a"}, num_samples=1)
    (folder,) = working_folders()
    assert Experiment.open(folder).seq > 10
    assert grid[0].checkpoint is not None
    assert [*folder.glob("*/checkpoint_*/state.json")]


def test_a_working_folder_with_a_checkpoint_that_storage_lacks_is_kept(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object, **__: object) -> None:
        pass

    monkeypatch.setattr("shoal.storage.transfer.upload_checkpoint", lost)
    with pytest.warns(UserWarning, match=r"was kept, because .* lacks files of it: climb_.*/checkpoint_0000"):
        run(root, run={"name": "a"}, num_samples=1)
    (folder,) = working_folders()
    assert [*folder.glob("*/checkpoint_*/state.json")]


def test_a_file_that_cannot_be_read_ends_no_run_with_an_error(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaves_a_file(config: dict[str, Any]) -> None:
        folder = Path(tune.get_context().get_trial_dir())
        folder.mkdir(exist_ok=True)
        (folder / "secret.bin").write_text("secret")
        report_state(1, 1.0, {"score": 1.0}, save=True)

    real = Path.open

    def refuses(path: Path, mode: str = "r", *arguments: Any, **settings: Any) -> Any:
        if path.name == "secret.bin" and mode == "rb":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, mode, *arguments, **settings)

    monkeypatch.setattr(Path, "open", refuses)
    with pytest.warns(UserWarning, match=r"was kept, because .* lacks files of it: leaves_a_file_.*/secret\.bin\."):
        grid = run(root, leaves_a_file, run={"name": "a"}, num_samples=1)
    assert grid[0].checkpoint is not None
    assert grid[0].checkpoint.path.startswith(root)
    (folder,) = working_folders()
    assert [path.read_text() for path in folder.glob("*/secret.bin")] == ["secret"]


def test_notes_that_are_set_after_the_upload_are_in_storage(root: str) -> None:
    def saves(config: dict[str, Any]) -> None:
        report_state(1, 1.0, {"score": 1.0}, save=True)

    class Notes(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            path = Path(trial.checkpoint.path)
            manifest = Place(f"{root}/a/{path.parent.name}/{path.name}.json")
            while not manifest.is_there():
                time.sleep(0.01)
            trial.checkpoint.set_metadata({"by": "hand"})

    grid = run(root, saves, run={"name": "a", "callbacks": [Notes()]}, num_samples=1)
    assert grid[0].checkpoint is not None
    assert grid[0].checkpoint.get_metadata() == {"by": "hand"}
    assert working_folders() == []


def test_results_have_urls_that_fsspec_and_shoal_can_open(root: str) -> None:
    run(root, run={"name": "a"})
    for grid in (tune.ResultGrid.read(f"{root}/a"), tune.ResultGrid.read(f"{root}/a/")):
        best = grid.get_best_result()
        assert best.path.startswith(f"{root}/a/climb_")
        assert best.filesystem.isdir(best.path)
        assert len(best.filesystem.cat_file(f"{best.path}/result.json").splitlines()) >= 20
        assert tune.Result.from_path(best.path).metrics == best.metrics
        checkpoint = best.checkpoint
        assert checkpoint is not None
        assert checkpoint.path.startswith(f"{root}/a/climb_")
        with checkpoint.as_directory() as folder:
            assert json.loads(Path(folder, "state.json").read_text())[0] == 20
        assert not os.path.exists(folder)
        assert best.best_checkpoints
        assert grid.report_card().statements
        assert f"in {root}/a" in repr(grid)
        assert all(root in (shown._repr_html_() or "") for shown in (grid, best))
        assert grid.get_dataframe()["logdir"].str.startswith(root).all()


def test_a_trial_that_is_not_there_is_named_with_those_that_are(root: str) -> None:
    run(root, run={"name": "a"}, num_samples=1)
    with pytest.raises(LookupError, match=r"is no trial's folder.*There are: climb_"):
        tune.Result.from_path(f"{root}/a/nobody")


def test_tune_run_and_its_analysis_work_on_urls(root: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"config": {"lr": tune.uniform(0, 1)}, "metric": "score", "mode": "max", "verbose": 0}
    settings |= {"num_samples": 2, "storage_path": root, "name": "a", "seed": 1}
    first = tune.run(climb, stop={"training_iteration": 10}, **settings)
    assert first.best_trial.path.startswith(f"{root}/a/")
    again = tune.ExperimentAnalysis(f"{root}/a")
    assert again.best_config == first.best_config
    assert first.best_trial.path in again.trial_dataframes
    went_on = tune.run(climb, stop={"training_iteration": 20}, resume="AUTO", **settings)
    assert {trial.iteration for trial in went_on.trials} == {20}
    settings["name"] = "b"
    with pytest.raises(ConfigError, match="no experiment to resume"):
        tune.run(climb, resume=True, **settings)
    assert tune.run(climb, stop={"training_iteration": 1}, resume="AUTO", **settings).trials


def test_scripts_for_ray_tune_may_give_urls_too(root: str) -> None:
    from shoal.as_ray.settings import RunConfig

    assert RunConfig(storage_path=root).storage_path == RunConfig(local_dir=root).storage_path == root
    with pytest.raises(ConfigError, match=r"no storage_filesystem .*fsspec finds the file system by the URL"):
        RunConfig(storage_path=root, storage_filesystem=fsspec.filesystem("memory"))


def test_a_policy_in_storage_can_be_replayed(root: str) -> None:
    run(root, run={"name": "a"}, scheduler=pbt(synch=True))
    policy = next(name for name in sorted(names(f"{root}/a")) if name.startswith("pbt_policy_"))
    replay = tune.schedulers.PopulationBasedTrainingReplay(f"{root}/a/{policy}")
    assert len(run(root, run={"name": "b"}, scheduler=replay, num_samples=1)) == 1
    with pytest.raises(ConfigError, match="does not exist"):
        tune.schedulers.PopulationBasedTrainingReplay(f"{root}/a/nothing.txt")


def test_the_variable_may_hold_a_url(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_DIR", root)
    grid = tune.Tuner(
        climb,
        param_space={"lr": 0.5},
        run_config=tune.RunConfig(name="a", stop={"training_iteration": 2}, verbose=0),
    ).fit()
    assert grid.experiment_path == f"{root}/a"
    monkeypatch.setenv("SHOAL_DIR", "s3:/bucket")
    with pytest.raises(ConfigError, match="SHOAL_DIR is 's3:/bucket', a URL that lacks a slash"):
        tune.Tuner(climb, param_space={"lr": 0.5}).fit()


def test_what_is_printed_says_where_things_are(root: str, capfd: pytest.CaptureFixture[str]) -> None:
    run(root, run={"name": "a", "verbose": 1})
    printed = capfd.readouterr().out
    folder = location_of(f"{root}/a").folder
    assert f"Results: {root}/a, and until it ends also in {folder}" in printed
    assert f"results: {root}/a\n" in printed


def test_a_failed_member_is_found_in_storage(root: str) -> None:
    def broken(config: dict[str, Any]) -> None:
        tune.report({"score": 1})
        raise ValueError("as it is told")

    grid = run(root, broken, run={"name": "a"}, num_samples=1, scheduler=tune.schedulers.FIFOScheduler())
    assert "as it is told" in str(grid.errors[0])
    assert any(name.endswith("/error.txt") for name in names(f"{root}/a"))


# ------------------------------------------------------------------------------------------------------- before a run


def test_an_experiment_that_is_there_is_not_mixed_with_a_new_one(root: str) -> None:
    run(root, run={"name": "a"})
    before = names(f"{root}/a")
    with pytest.raises(ExperimentExists, match=rf"{root}/a already holds .*Tuner\.restore\('{root}/a'"):
        run(root, run={"name": "a"})
    assert names(f"{root}/a") == before
    Place(f"{root}/b/notes.txt").write_bytes(b"mine")
    with pytest.raises(ExperimentExists, match="or other files"):
        run(root, run={"name": "b"})
    assert names(f"{root}/b") == {"notes.txt"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("nonsense://bucket/runs", "scheme 'nonsense' is unknown"),
        ("s4://bucket/runs", "scheme 's4' is unknown"),
        ("abfs://box/runs", r"needs a package|needs the package|credentials|cannot be"),
    ],
)
def test_storage_that_cannot_be_used_is_an_error_before_anything_starts(path: str, expected: str) -> None:
    with pytest.raises((ConfigError, StorageError), match=expected):
        run(path, run={"name": "a"})
    assert working_folders() == []


def test_a_run_that_cannot_start_leaves_nothing(root: str) -> None:
    def unloadable() -> Callable[[dict[str, Any]], None]:
        lock = threading.Lock()

        def train(config: dict[str, Any]) -> None:
            lock.acquire()

        return train

    with pytest.raises(ConfigError):
        run(root, unloadable(), run={"name": "a"}, engine="processes")
    assert names(f"{root}/a") == set()
    assert working_folders() == []
    assert len(run(root, run={"name": "a"})) == 4


def test_a_name_can_be_used_again_whose_driver_was_killed_when_it_had_only_just_begun(root: str) -> None:
    dead = Alive(2**22 + 1, "gone", 1, 2.0, False, 0.0, this_machine(), 17)
    Place(f"{root}/a/journal/000001.5e1f.from..0000000000/open.json").write_bytes(json.dumps(asdict(dead)).encode())
    Place(f"{root}/a/.shoal_0123abcd").write_bytes(b"shoal")
    with pytest.raises(JournalError, match="There is no experiment"):
        tune.Tuner.restore(f"{root}/a", climb).fit()
    assert find_urls(root) == []
    once: dict[str, Any] = {"config": {"lr": 0.5}, "stop": {"training_iteration": 2}, "resume": "AUTO", "verbose": 0}
    assert [trial.iteration for trial in tune.run(climb, name="a", storage_path=root, **once).trials] == [2]
    assert not any("5e1f" in name for name in names(f"{root}/a"))
    Place(f"{root}/b/.shoal_0123abcd").write_bytes(b"shoal")
    run(root, run={"name": "b"}, num_samples=1)


def test_where_storage_refuses_just_after_the_beginning_nothing_is_left_there(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise PlaceError("not now")

    monkeypatch.setattr(Shipper, "_publish_facts", refuses)
    with pytest.raises(StorageError, match="not now"):
        run(root, run={"name": "a"})
    assert names(f"{root}/a") == set()


def test_what_somebody_else_has_begun_meanwhile_is_not_deleted(root: str) -> None:
    run(root, run={"name": "a"})
    before = names(f"{root}/a")
    forget(f"{root}/a")
    assert names(f"{root}/a") == before


def test_a_working_folder_of_which_storage_knows_nothing_is_not_overwritten(root: str, tmp_path: Path) -> None:
    interrupted(root, tmp_path / "flag")
    fsspec.filesystem("memory").rm(f"/{root.rpartition('/')[2]}", recursive=True)
    with pytest.raises(ExperimentExists, match=r"working folder of memory://.*where there is nothing"):
        run(root, run={"name": "a"})
    tune.Tuner.restore(f"{root}/a", fail_once).fit()
    assert {result.metrics["training_iteration"] for result in tune.ResultGrid.read(f"{root}/a")} == {20}


# ------------------------------------------------------------------------------------------------------------ going on


def test_an_interrupted_run_goes_on_where_its_working_folder_is(root: str, tmp_path: Path) -> None:
    interrupted(root, tmp_path / "flag")
    (folder,) = working_folders()
    assert [*folder.glob("*/checkpoint_*")]
    experiment = Experiment.open(f"{root}/a")
    assert experiment.state is State.INTERRUPTED
    assert Experiment.open(folder).seq == experiment.seq
    assert tune.Tuner.can_restore(f"{root}/a")
    grid = tune.Tuner.restore(f"{root}/a", fail_once).fit()
    assert {result.metrics["training_iteration"] for result in grid} == {20}
    assert working_folders() == []


def test_an_interrupted_run_goes_on_elsewhere(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(root, tmp_path / "flag")
    before = Experiment.open(f"{root}/a")
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "another machine"))
    grid = tune.Tuner.restore(f"{root}/a", fail_once).fit()
    assert {result.metrics["training_iteration"] for result in grid} == {20}
    after = Experiment.open(f"{root}/a")
    assert after.seq > before.seq
    assert [item.trial_id for item in after.history.in_order()] == [item.trial_id for item in before.history.in_order()]
    assert working_folders() == []


def test_a_working_folder_that_is_behind_storage_is_replaced(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(root, tmp_path / "flag")
    (stale,) = working_folders()
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "another machine"))
    tune.Tuner.restore(f"{root}/a", fail_once).fit()
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    for checkpoint in stale.glob("*/checkpoint_*"):
        (checkpoint / "state.json").write_text("[3, 99999.0]")
    more = tune.RunConfig(stop={"training_iteration": 30})
    grid = tune.Tuner.restore(f"{root}/a", fail_once, run_config=more).fit()
    assert {result.metrics["training_iteration"] for result in grid} == {30}
    assert max(result.metrics["score"] for result in grid) <= 30
    assert not stale.exists()


@pytest.mark.parametrize("what", ["went apart", "unreadable"])
def test_a_working_folder_with_other_records_is_moved_aside(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    interrupted(root, tmp_path / "flag")
    (folder,) = working_folders()
    if what == "unreadable":
        (folder / "journal.sqlite").write_bytes(b"no database")
    else:
        monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "another machine"))
        tune.Tuner.restore(f"{root}/a", fail_once).fit()
        monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
        # Cut off from storage, the first machine has gone on as well.
        more = tune.RunConfig(stop={"training_iteration": 40})
        tune.Tuner.restore(folder, fail_once, run_config=more).fit()
    before = {path.relative_to(folder) for path in folder.rglob("*")}
    tuner = tune.Tuner.restore(f"{root}/a", fail_once, run_config=tune.RunConfig(stop={"training_iteration": 30}))
    with pytest.warns(UserWarning, match=r"was moved to .*\.aside, where it stays for 30 days"):
        grid = tuner.fit()
    assert {result.metrics["training_iteration"] for result in grid} == {30}
    (aside,) = working_folders()
    assert aside.name.endswith(".aside")
    assert before <= {path.relative_to(aside) for path in aside.rglob("*")}
    old = time.time() - 31 * 86400
    for path in [*aside.glob("journal*"), aside]:
        os.utime(path, (old, old))
    run(root, run={"name": "b"}, num_samples=1)
    assert working_folders() == []


def test_a_restore_downloads_the_journal_once(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(root, tmp_path / "flag")
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "another machine"))
    read: list[str] = []
    real = Place.read_bytes

    def reading(place: Place) -> bytes:
        if place.url.endswith(".seg"):
            read.append(place.name)
        return real(place)

    monkeypatch.setattr(Place, "read_bytes", reading)
    assert tune.Tuner.can_restore(f"{root}/a")
    once = len(read)
    tune.Tuner.restore(f"{root}/a", fail_once).fit()
    assert len(read) <= once + 2  # the last one is compared once more, before it goes on and when it has ended


def test_an_ended_run_is_extended_from_its_url(root: str) -> None:
    run(root, run={"name": "a"})
    tuner = tune.Tuner.restore(f"{root}/a", climb, run_config=tune.RunConfig(stop={"training_iteration": 30}))
    grid = tuner.fit()
    assert {result.metrics["training_iteration"] for result in grid} == {30}
    assert all(len(result.metrics_dataframe) >= 30 for result in grid if result.metrics_dataframe is not None)
    assert tuner.get_results() is grid
    assert len(tune.Tuner.restore(f"{root}/a", climb).get_results()) == 4


def test_a_run_of_which_nothing_goes_on_is_read_again(root: str) -> None:
    run(root, run={"name": "a"})
    before = Experiment.open(f"{root}/a").seq
    grid = tune.Tuner.restore(f"{root}/a", climb).fit()
    assert {result.metrics["training_iteration"] for result in grid} == {20}
    assert Experiment.open(f"{root}/a").seq == before
    assert working_folders() == []


def test_what_members_printed_before_is_still_there_afterwards(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talks(config: dict[str, Any]) -> None:
        step, score = load_state() or (0, 0.0)
        while True:
            step += 1
            print(f"step {step}")
            report_state(step, score, {"score": score}, save=True)

    run(root, talks, run={"name": "a"}, num_samples=1, stop={"training_iteration": 3}, engine="processes")
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "another machine"))
    grid = tune.Tuner.restore(f"{root}/a", talks, run_config=tune.RunConfig(stop={"training_iteration": 5})).fit()
    printed: Any = grid[0].filesystem.cat_file(f"{grid[0].path}/output.log")
    assert [f"step {step}".encode() in printed for step in range(1, 6)] == [True] * 5


def test_a_url_without_an_experiment_cannot_go_on(root: str) -> None:
    assert not tune.Tuner.can_restore(f"{root}/nobody")
    with pytest.raises(JournalError, match=f"no experiment {root}/nobody"):
        tune.Tuner.restore(f"{root}/nobody", climb)
    with pytest.raises(ConfigError, match="is unknown"):
        tune.Tuner.can_restore("nonsense://bucket/a")


def test_a_run_that_goes_on_from_its_working_folder_alone_can_be_copied_later(root: str, tmp_path: Path) -> None:
    interrupted(root, tmp_path / "flag")
    (folder,) = working_folders()
    tune.Tuner.restore(folder, fail_once).fit()  # without storage
    assert Experiment.open(f"{root}/a").state is State.INTERRUPTED
    grid = tune.Tuner.restore(f"{root}/a", fail_once).fit()  # nothing is left to do but that
    assert {result.metrics["training_iteration"] for result in grid} == {20}
    assert Experiment.open(f"{root}/a").state is State.ENDED
    assert grid[0].checkpoint is not None
    with grid[0].checkpoint.as_directory() as there:
        assert json.loads(Path(there, "state.json").read_text())[0] == 20


def test_checkpoints_that_are_gone_from_storage_are_told_before_anything_starts(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(root, tmp_path / "flag")
    for name in names(f"{root}/a"):
        if "/checkpoint_" in name:
            (Place(f"{root}/a") / name).delete()
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "another machine"))
    with pytest.raises(StorageError, match=rf"would go on from {root}/a/.*which is gone"):
        tune.Tuner.restore(f"{root}/a", fail_once).fit()


def test_a_damaged_checkpoint_in_storage_makes_a_trial_fall_back(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(root, run={"name": "a"}, num_samples=2, scheduler=tune.schedulers.FIFOScheduler())
    grid = tune.ResultGrid.read(f"{root}/a")
    Place(f"{grid[0].path}/checkpoint_000003/state.json").write_bytes(b"[20, 77777.0]")
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "another machine"))
    more = tune.RunConfig(stop={"training_iteration": 25})
    grid = tune.Tuner.restore(f"{root}/a", climb, run_config=more).fit()
    assert {result.metrics["training_iteration"] for result in grid} == {25}
    assert all(result.metrics["score"] < 25 for result in grid)


# --------------------------------------------------------------------------------------------------- storage goes away


class Away:
    """Storage that refuses all that is written from the moment on at which somebody says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from shoal.storage.trying import PlaceError

        self.gone = threading.Event()
        for name in ("write_bytes", "upload_file"):
            real = getattr(Place, name)

            def refusing(place: Place, *given: Any, _real: Any = real) -> Any:
                if self.gone.is_set():
                    raise PlaceError(f"{place} cannot be reached now: it is away.", passes=True)
                return _real(place, *given)

            monkeypatch.setattr(Place, name, functools.wraps(real)(refusing))


def test_storage_that_stays_away_ends_the_run_and_nothing_is_lost(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_STORAGE_PATIENCE_S", "0.3")
    away = Away(monkeypatch)

    class Cut(tune.Callback):
        def on_trial_result(self, iteration: int, *_: Any, **__: Any) -> None:
            if iteration >= 5:
                away.gone.set()

    def paced(config: dict[str, Any]) -> None:
        step, score = load_state() or (0, 0.0)
        while True:
            step += 1
            time.sleep(0.005)
            report_state(step, score, {"score": score}, save=step % 5 == 0)

    with pytest.raises(StorageError) as error:
        run(root, paced, run={"name": "a", "callbacks": [Cut()]}, stop={"training_iteration": 10**9})
    (folder,) = working_folders()
    for text in ("it is away", f"not in storage is in {folder}", f"Tuner.restore('{root}/a', paced).fit()"):
        assert text in str(error.value)
    here, there = Experiment.open(folder), Experiment.open(f"{root}/a")
    assert here.history.stopped is not None
    assert here.seq > there.seq
    away.gone.clear()
    monkeypatch.delenv("SHOAL_STORAGE_PATIENCE_S")
    furthest = max(trial.iteration for trial in here.history.in_order())
    stop = tune.RunConfig(stop={"training_iteration": furthest + 5}, callbacks=[])
    grid = tune.Tuner.restore(f"{root}/a", paced, run_config=stop).fit()
    assert {result.metrics["training_iteration"] for result in grid} == {furthest + 5}
    assert working_folders() == []


def test_a_last_round_that_cannot_be_made_is_an_error_that_says_where_things_are(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_STORAGE_PATIENCE_S", "0.3")
    away = Away(monkeypatch)

    class CutAtTheEnd(tune.Callback):
        def on_experiment_end(self, *_: Any, **__: Any) -> None:
            away.gone.set()

    with pytest.raises(StorageError, match=r"What is not in storage is in .*cache.* nothing that was reported is lost"):
        run(root, run={"name": "a", "callbacks": [CutAtTheEnd()]})
    (folder,) = working_folders()
    assert Experiment.open(folder).state is State.ENDED
    away.gone.clear()
    monkeypatch.delenv("SHOAL_STORAGE_PATIENCE_S")
    grid = tune.Tuner.restore(f"{root}/a", climb, run_config=tune.RunConfig(callbacks=[])).fit()
    assert {result.metrics["training_iteration"] for result in grid} == {20}
    assert Experiment.open(f"{root}/a").state is State.ENDED
    assert working_folders() == []


def test_a_full_disk_says_where_checkpoints_lie_and_how_to_have_them_elsewhere(root: str) -> None:
    def full(config: dict[str, Any]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match=rf"lie on this machine, too, in .*SHOAL_CACHE .*restore\('{root}/a'"):
        run(root, full, run={"name": "a"}, num_samples=1, scheduler=tune.schedulers.FIFOScheduler())


def test_the_second_ctrl_c_does_not_wait_for_the_last_round(
    root: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    closing, hanging, over, heard = (threading.Event() for _ in range(4))
    real, real_ask = Place.write_bytes, Interruption._ask

    def ask(interruption: Interruption, *given: Any) -> None:
        real_ask(interruption, *given)
        heard.set()

    def hangs(place: Place, data: bytes) -> None:
        if closing.is_set():
            hanging.set()
            over.wait(60)
        real(place, data)

    class SaysSo(tune.Callback):
        def on_experiment_end(self, *_: Any, **__: Any) -> None:
            closing.set()

    def press() -> None:
        assert hanging.wait(60)
        os.kill(os.getpid(), signal.SIGINT)
        assert heard.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Place, "write_bytes", hangs)
    monkeypatch.setattr(Interruption, "_ask", ask)
    presses = threading.Thread(target=press)
    presses.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(root, run={"name": "a", "callbacks": [SaysSo()]})
    finally:
        over.set()
        presses.join()
    assert working_folders()
    assert f"{root}/a does not have everything: The rest was not copied." in capfd.readouterr().out
