"""Going on with an experiment: who goes on, with what, and what is said where it cannot go on."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import climb, fit, items, load_state, pbt, report_state

from shoal import tune
from shoal.config import RunConfig, TuneConfig
from shoal.core.events import Event, Failed, Finished, Opened, Reported, StopAsked, TrialAdded, Undecided
from shoal.core.limits import Limits, RetentionRules
from shoal.core.population import Population
from shoal.core.recall import choose
from shoal.core.trial import replaced
from shoal.errors import ConfigError, ExperimentExists, JournalError, StorageError
from shoal.journal import JOURNAL_NAME
from shoal.journal.codec import decode, encode
from shoal.journal.sqlite import SQLiteJournal
from shoal.schedulers import FIFOScheduler
from shoal.settings import settings_to_meta


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_ENGINE", "inline")


def run(folder: Path, **config: Any) -> Path:
    """Run an experiment of two members and five steps; return its folder."""
    settings: dict[str, Any] = {"stop": {"training_iteration": 5}, "num_samples": 2, **config}
    trainable = settings.pop("trainable", climb)
    settings["run"] = {"name": "run", **settings.get("run", {})}
    fit(trainable, folder, **settings)
    return folder / "run"


def restore(folder: Path | str, trainable: Any = climb, **options: Any) -> tune.ResultGrid:
    return tune.Tuner.restore(folder, trainable, **options).fit()


def records(folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """Return all that a journal holds."""
    with contextlib.closing(SQLiteJournal.open_for_reading(folder)) as journal:
        return journal.meta(), list(journal.read())


def opened(grid: tune.ResultGrid) -> Opened:
    """Return as what an experiment was opened last."""
    found: Opened = items(grid, Opened)[-1]
    return found


def numbers(trial_ids: tuple[str, ...]) -> list[int]:
    return [int(trial_id[-5:]) for trial_id in trial_ids]


def steps(grid: tune.ResultGrid) -> list[int]:
    return [result.metrics["training_iteration"] for result in grid]


# ---- The journal -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        Opened(Limits(["", ""]), RetentionRules()),
        Opened(
            Limits(["0", "1"], 3, -1, True, True), RetentionRules(2, "acc", "min"), ("a",), ("b", "c"), ("d",),
            {"data": (1, Path("x")), "nested": {"deep": [None]}},
        ),
        Undecided("SpaceError: no"),
    ],
)  # fmt: skip
def test_events_of_going_on_come_back_from_the_journal_as_they_were(event: Event) -> None:
    assert decode(*encode(event)) == event


def test_values_are_replaced_where_there_are_keys_and_nothing_is_changed_in_place() -> None:
    config = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": {"g": 4}}
    values = {"a": {"x": 1}, "b": {"c": 5, "d": {"e": 6, "new": 7}}, "f": 8, "new": 9}
    assert replaced(config, values) == {"a": {"x": 1}, "b": {"c": 5, "d": {"e": 6}}, "f": 8}
    assert config == {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": {"g": 4}}


# ---- Who goes on -----------------------------------------------------------------------------------------------------


def left() -> Population:
    """Return a population that was left with: 0 returned, 1 stopped, 2 failed, 3 running, 4 never started."""
    population = Population(FIFOScheduler().policy(mode="max", seed=0), metric=None, limits=Limits(("",) * 4))
    for index in range(5):
        population.apply(TrialAdded(str(index), index, "", "", "", {}))
    for trial_id in "0123":
        stop = "enough" if trial_id == "1" else None
        population.apply(Reported(trial_id, 1, 1, {}, waiting=stop is not None, stop=stop))
    population.apply(Finished("0", 1))
    population.apply(Failed("2", 1, "ValueError: no", ""))
    population.apply(Finished("4", 1))  # failed, because it has reported nothing
    population.apply(TrialAdded("5", 5, "", "", "", {}))
    return population


@pytest.mark.parametrize(
    ("asked", "again", "anew", "dropped"),
    [
        ({}, "", "", ""),
        ({"unfinished": False}, "", "", "35"),
        ({"errored": True}, "24", "", ""),
        ({"errored": True, "unfinished": False}, "24", "", "35"),
        ({"restarted": True}, "", "24", ""),
        ({"restarted": True, "errored": True}, "", "24", ""),
        ({"extended": ["1"]}, "1", "", ""),
        ({"extended": ["1"], "errored": True, "unfinished": False}, "124", "", "35"),
        ({"extended": ["3"]}, "", "", ""),
    ],
)
def test_after_a_kill_those_go_on_that_are_asked_for(
    asked: dict[str, Any], again: str, anew: str, dropped: str
) -> None:
    settings: dict[str, Any] = {"unfinished": True, "errored": False, "restarted": False, "extended": (), **asked}
    choice = choose(left(), **settings)
    assert (choice.again, choice.anew, choice.dropped) == (tuple(again), tuple(anew), tuple(dropped))


@pytest.mark.parametrize(
    ("asked", "again", "anew"),
    [
        ({}, "35", ""),
        ({"unfinished": False}, "", ""),
        ({"errored": True}, "2345", ""),
        ({"restarted": True}, "35", "24"),
        ({"extended": ["1"]}, "135", ""),
    ],
)
def test_after_an_interruption_those_that_it_cut_off_are_unfinished(
    asked: dict[str, Any], again: str, anew: str
) -> None:
    population = left()
    population.apply(StopAsked("interrupted"))
    settings: dict[str, Any] = {"unfinished": True, "errored": False, "restarted": False, "extended": (), **asked}
    choice = choose(population, **settings)
    assert (choice.again, choice.anew, choice.dropped) == (tuple(again), tuple(anew), ())


@pytest.mark.parametrize("met", ["stop", "time_budget_s"])
def test_what_a_condition_for_all_has_ended_is_not_unfinished(met: str) -> None:
    population = left()
    population.apply(StopAsked("enough", met=met))
    population.apply(TrialAdded("6", 6, "", "", "", {}))
    settings: dict[str, Any] = {"unfinished": True, "errored": False, "restarted": False}
    assert choose(population, **settings, extended=()).again == ()
    assert [trial.trial_id for trial in population.trials.values() if trial.met == met] == ["3", "5", "6"]
    # They may go on, and are then cut off like any other.
    extended = choose(population, **settings, extended=["3", "5"]).again
    assert extended == ("3", "5")
    population.apply(Opened(Limits(("",)), RetentionRules(), again=extended))
    population.apply(StopAsked("interrupted"))
    assert choose(population, **settings, extended=()).again == ("3", "5")


# ---- What cannot be restored -----------------------------------------------------------------------------------------


def test_arguments_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    for options, expected in (
        ({"resume_errored": 1}, "resume_errored must be True or False, but is 1"),
        ({"restart_errored": "yes"}, "restart_errored must be True or False, but is 'yes'"),
        ({"resume_unfinished": None}, "resume_unfinished must be True or False, but is None"),
        ({"resume_errored": True, "restart_errored": True}, "exclude each other"),
        ({"run_config": {"stop": 5}}, "run_config must be a tune.RunConfig"),
        ({"tune_config": RunConfig()}, "tune_config must be a tune.TuneConfig"),
    ):
        with pytest.raises(ConfigError, match=expected):
            restore(tmp_path, **options)
    folder = run(tmp_path)
    with pytest.raises(ConfigError, match="param_space must be a dict"):
        restore(folder, param_space=[1])
    with pytest.raises(ConfigError, match="the trainable must be a function"):
        restore(folder, None)


@pytest.mark.parametrize("path", [None, "", 5, b"bytes", ["list"]])
def test_a_path_that_is_none_is_refused(path: Any) -> None:
    for function in (tune.Tuner.can_restore, lambda path: tune.Tuner.restore(path, climb)):
        with pytest.raises(ConfigError, match="path must be the folder of an experiment"):
            function(path)


def test_folders_without_an_experiment_say_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"nowhere does not exist\.$"):
        restore(tmp_path / "nowhere")
    with pytest.raises(JournalError, match=r"holds no experiment of Shoal\.$"):
        restore(tmp_path)
    # Ray Tune's.
    ray = tmp_path / "ray" / "train_2026"
    ray.mkdir(parents=True)
    for name in ("tuner.pkl", "trainable.pkl", "experiment_state-2026-11-23_12-00-00.json"):
        (ray / name).write_bytes(b"")
    with pytest.raises(JournalError, match=r"train_2026 holds no experiment of Shoal\.$"):
        restore(ray)
    # A folder above.
    run(tmp_path)
    fit(climb, tmp_path, run={"name": "other"}, num_samples=1)
    with pytest.raises(JournalError, match="It holds the experiments other, run; give the path of one of them"):
        restore(tmp_path)
    with pytest.raises(JournalError, match=f"{JOURNAL_NAME} is no folder"):
        restore(tmp_path / "run" / JOURNAL_NAME)


def test_a_journal_that_does_not_begin_with_a_start_is_refused(tmp_path: Path) -> None:
    journal = SQLiteJournal.create(tmp_path)
    journal.set_meta(**settings_to_meta(TuneConfig(), RunConfig()))
    journal.close()
    assert tune.Tuner.can_restore(tmp_path) is False
    with pytest.raises(JournalError, match="does not begin with the start of an experiment; nothing to restore"):
        restore(tmp_path)
    journal = SQLiteJournal.open_for_writing(tmp_path)
    journal.append([TrialAdded("a", 0, "a", "a", "a", {})], 0.0)
    journal.close()
    assert tune.Tuner.can_restore(tmp_path) is False
    with pytest.raises(JournalError, match="does not begin with the start of an experiment; nothing to restore"):
        restore(tmp_path)


def test_a_driver_that_was_killed_before_anything_had_begun_stands_in_nobodys_way(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for what in ("killed", "still starting", "somebody else's file"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        journal = SQLiteJournal.create(folder)
        if what == "killed":
            aside = Path(shutil.copytree(folder, tmp_path / "aside"))
            journal.close()
            shutil.rmtree(folder)
            aside.rename(folder)
            assert {path.name for path in folder.iterdir()} > {JOURNAL_NAME, f"{JOURNAL_NAME}-wal"}
            assert steps(tune.ResultGrid.read(run(tmp_path))) == [5, 5]
            continue
        if what == "somebody else's file":
            journal.close()
            (folder / "notes.txt").touch()
        with contextlib.closing(journal), pytest.raises(ExperimentExists):
            run(tmp_path)
        assert (folder / JOURNAL_NAME).exists()


def test_an_experiment_that_is_running_is_left_alone(tmp_path: Path) -> None:
    def stop(trial_id: str, result: dict[str, Any]) -> bool:
        assert tune.Tuner.can_restore(tmp_path / "run") is True
        with pytest.raises(JournalError, match=r"is being run by process \d+ on .*Wait for it, or stop it first"):
            restore(tmp_path / "run", run_config=RunConfig(stop={"training_iteration": 3}))
        return True

    folder = run(tmp_path, stop=stop, num_samples=1)
    assert steps(tune.ResultGrid.read(folder)) == [1]


def test_a_journal_that_tells_another_story_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    folder = run(tmp_path, scheduler=pbt(perturbation_interval=2))
    longer = RunConfig(stop={"training_iteration": 9})
    before = records(folder)
    scheduler = pbt(perturbation_interval=2)
    scheduler.settled = ()  # somebody's own, which does not tell
    scheduler.perturbation_interval = 3.0
    with pytest.raises(JournalError, match=r"cannot be followed: record \d+ .*or the scheduler is another"):
        restore(folder, run_config=longer, tune_config=TuneConfig(scheduler=scheduler))
    assert records(folder) == before
    assert steps(restore(folder, run_config=longer)) == [9, 9]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"metric": "step"}, r"PopulationBasedTraining\(metric='step'\) cannot change .* it is 'score'"),
        ({"mode": "min"}, r"PopulationBasedTraining\(mode='min'\) cannot change .* it is 'max'"),
        ({"time_attr": "step"}, r"\(time_attr='step'\) cannot change .* it is 'training_iteration'"),
        ({"perturbation_interval": 3}, r"\(perturbation_interval=3\.0\) cannot change .* it is 5\.0\. Give that"),
        ({"quantile_fraction": 0.5}, r"\(quantile_fraction=0\.5\) cannot change .* it is 0\.25"),
        ({"synch": True}, r"\(synch=True\) cannot change .* it is False"),
    ],
)
def test_a_scheduler_that_looks_at_other_values_is_refused(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    folder = run(tmp_path, scheduler=pbt())
    with pytest.raises(ConfigError, match=expected):
        restore(folder, tune_config=TuneConfig(scheduler=pbt(**changes)))


def test_a_damaged_journal_is_told(tmp_path: Path) -> None:
    folder = run(tmp_path)
    with contextlib.closing(sqlite3.connect(folder / JOURNAL_NAME)) as connection:
        connection.execute("UPDATE journal SET body = '[1' WHERE kind = 'Launch'")
        connection.commit()
    assert tune.Tuner.can_restore(folder) is True, "it begins well"
    with pytest.raises(JournalError, match="is damaged"):
        restore(folder)
    with contextlib.closing(sqlite3.connect(folder / JOURNAL_NAME)) as connection:
        connection.execute("UPDATE journal SET body = '[1' WHERE seq = 1")
        connection.commit()
    assert tune.Tuner.can_restore(folder) is False


def test_checkpoints_that_are_gone_are_named_and_nothing_is_changed(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        step, _ = load_state() or (0, 0.0)
        while step < 4:
            step += 1
            report_state(step, 0.0, {"score": 0.0}, save=True)
        if step == 4:
            raise RuntimeError("no")

    folder = run(tmp_path, trainable=train, num_samples=2, stop={"training_iteration": 9})
    (tmp_path / "aside").mkdir()
    for path in folder.glob("train_*/checkpoint_*"):
        path.rename(tmp_path / "aside" / f"{path.parent.name}-{path.name}")
    before = records(folder)
    with pytest.raises(StorageError, match=r"would go on from .*00000.*checkpoint_000003, which is gone, .*Put them"):
        restore(folder, train, resume_errored=True)
    assert records(folder) == before
    # Who does not go on from them needs none.
    assert restore(folder, train).num_errors == 2
    assert restore(folder, train, restart_errored=True).num_errors == 2
    assert restore(folder, train, resume_errored=True).num_errors == 2


def make_nothing(path: Path) -> None: ...


def make_folder(path: Path) -> None:
    path.mkdir()


def make_file(path: Path) -> None:
    path.write_text("a file")


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_folder_of_that_name(path: Path) -> None:
    (path / JOURNAL_NAME).mkdir(parents=True)


def make_empty_file(path: Path) -> None:
    path.mkdir()
    (path / JOURNAL_NAME).touch()


def make_garbage(path: Path) -> None:
    path.mkdir()
    (path / JOURNAL_NAME).write_bytes(b"no database" * 500)


def make_other_database(path: Path) -> None:
    path.mkdir()
    with contextlib.closing(sqlite3.connect(path / JOURNAL_NAME)) as connection:
        connection.execute("CREATE TABLE journal (seq)")


def make_new_journal(path: Path) -> None:
    path.mkdir()
    SQLiteJournal.create(path).close()


@pytest.mark.parametrize(
    "make",
    [
        make_nothing,
        make_folder,
        make_file,
        make_loop,
        make_folder_of_that_name,
        make_empty_file,
        make_garbage,
        make_other_database,
        make_new_journal,
    ],
)
def test_what_is_no_experiment_cannot_be_restored(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "it"
    make(path)
    assert tune.Tuner.can_restore(path) is False
    assert tune.Tuner.can_restore(str(path)) is False
    with pytest.raises(JournalError):
        restore(path)


def test_a_path_that_can_be_none_cannot_be_restored() -> None:
    assert tune.Tuner.can_restore("x" * 1000) is False
    assert tune.Tuner.can_restore("a\0b") is False


def test_what_can_be_restored_can_be_however_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(tmp_path)
    monkeypatch.chdir(folder / next(folder.glob("climb_*")))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(folder)
    for path in (folder, str(folder), "..", "../../run", "../", "~/run", tmp_path / "link"):
        assert tune.Tuner.can_restore(path) is True, path
        grid = restore(path)
        assert steps(grid) == [5, 5], path
    assert records(folder)[0]["name"] == "run"
