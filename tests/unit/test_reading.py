"""Looking at an experiment: as far as its journal goes, what has come since, whether it goes on; no foreign code."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from shoal import tune
from shoal.core.commands import Stop
from shoal.core.events import StopAsked
from shoal.errors import JournalError
from shoal.history import History
from shoal.journal.lock import lock, unlock
from shoal.journal.sqlite import SQLiteJournal
from shoal.reading import Experiment, State, find_experiments, is_experiment
from shoal.timeline import Timeline

from ..helpers import climb
from ..simulated import write_experiment


def copied_up_to(source: Path, folder: Path, last: int) -> SQLiteJournal:
    """Return a journal, open for writing, that has the first records of another."""
    folder.mkdir()
    reader = SQLiteJournal.open_for_reading(source)
    journal = SQLiteJournal.create(folder)
    journal.set_meta(**reader.meta())
    for record in reader.read():
        if record.seq <= last:
            journal.append([record.item], record.at)
    reader.close()
    return journal


def test_reading_on_bit_by_bit_tells_the_same_as_reading_at_once(tmp_path: Path) -> None:
    whole = write_experiment(tmp_path / "whole", members=5, steps=15)
    records = list(SQLiteJournal.open_for_reading(whole).read())
    journal = copied_up_to(whole, tmp_path / "part", 7)
    followed = Experiment.open(tmp_path / "part")
    for record in records[7:]:
        journal.append([record.item], record.at)
        if record.seq % 11 == 0:
            assert followed.refresh()
    journal.close()
    followed.refresh()
    assert not followed.refresh()
    expected = History.of(records)
    assert followed.seq == len(records)
    assert {key: trial.rows for key, trial in followed.history.trials.items()} == {
        key: trial.rows for key, trial in expected.trials.items()
    }
    assert followed.history.exploits == expected.exploits
    assert followed.timeline == Timeline.of(records)


def test_whether_an_experiment_goes_on_is_told(tmp_path: Path) -> None:
    ended = write_experiment(tmp_path / "ended", members=3, steps=5)
    assert Experiment.open(ended).state is State.ENDED
    handle = lock(ended)
    assert Experiment.open(ended).state is State.RUNNING
    unlock(handle)
    cut = copied_up_to(ended, tmp_path / "cut", 12)
    assert Experiment.open(tmp_path / "cut").state is State.RUNNING
    cut.close()
    assert Experiment.open(tmp_path / "cut").state is State.INTERRUPTED


@pytest.mark.parametrize(
    ("reason", "met", "state"),
    [
        ("interrupted by the user", None, State.INTERRUPTED),
        ("the time budget of 5 s is spent", "time_budget_s", State.ENDED),
        ("the stopper ended the experiment", "stop", State.ENDED),
    ],
)
def test_what_the_user_has_cut_off_is_interrupted_and_what_met_a_condition_has_ended(
    tmp_path: Path, reason: str, met: str | None, state: State
) -> None:
    whole = write_experiment(tmp_path / "whole", members=3, steps=5)
    journal = copied_up_to(whole, tmp_path / "run", 12)
    journal.append([StopAsked(reason, met)], 1_700_000_900.0)
    experiment = Experiment.open(tmp_path / "run")
    stops = [
        Stop(trial.trial_id, trial.launches, tune.ResultGrid.read(whole)[0]._trial.status, reason)
        for trial in experiment.history.in_order()
        if not trial.status.ended
    ]
    journal.append(stops, 1_700_000_900.0)
    journal.close()
    assert Experiment.open(tmp_path / "run").state is state


class Trap:
    """An object whose pickle leaves a trace where it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)

    def __repr__(self) -> str:
        return "a trap"


def test_looking_at_an_experiment_runs_no_code_of_its_configs(tmp_path: Path) -> None:
    whole = write_experiment(tmp_path / "whole", members=2, steps=4)
    folder = tmp_path / "run"
    folder.mkdir()
    reader = SQLiteJournal.open_for_reading(whole)
    journal = SQLiteJournal.create(folder)
    journal.set_meta(**reader.meta())
    for record in reader.read():
        config = getattr(record.item, "config", None)
        if type(config) is dict and config:
            config["model"] = Trap(tmp_path / "trace")
        journal.append([record.item], record.at)
    journal.close()
    experiment = Experiment.open(folder)
    assert not (tmp_path / "trace").exists()
    assert all(repr(trial.config["model"]) == "a trap" for trial in experiment.history.trials.values())
    with pytest.raises(JournalError, match="it was only looked at"):
        pickle.dumps(experiment.history.in_order()[0].config)
    tune.ResultGrid.read(folder)
    assert (tmp_path / "trace").exists()


def test_experiments_are_found_the_newest_first(tmp_path: Path) -> None:
    for place, name in enumerate(("old", "new", "middle")):
        write_experiment(tmp_path / name, members=1, steps=1)
        os.utime(tmp_path / name / "journal.sqlite", (0, 1000 * [1, 3, 2][place]))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert [path.name for path in find_experiments(tmp_path)] == ["new", "middle", "old"]
    assert list(find_experiments(tmp_path / "new")) == [tmp_path / "new"]
    assert list(find_experiments(tmp_path / "nowhere")) == []
    assert is_experiment(tmp_path / "new")
    assert not is_experiment(tmp_path / "empty")


def test_an_experiment_that_is_gone_is_an_error(tmp_path: Path) -> None:
    experiment = Experiment.open(write_experiment(tmp_path / "run", members=2, steps=3))
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(JournalError, match="run"):
        experiment.refresh()


def test_a_folder_that_was_moved_has_the_name_it_has_now(tmp_path: Path) -> None:
    write_experiment(tmp_path / "run", members=2, steps=3).rename(tmp_path / "moved")
    assert Experiment.open(tmp_path / "moved").name == "moved"


def test_a_running_experiment_is_read_while_its_driver_writes(tmp_path: Path) -> None:
    seen: list[tuple[State, int]] = []

    class Look(tune.Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            experiment = Experiment.open(tmp_path / "run")
            seen.append((experiment.state, experiment.history.results))

    tune.Tuner(
        climb,
        param_space={"lr": 0.5},
        tune_config=tune.TuneConfig(engine="inline"),
        run_config=tune.RunConfig(
            storage_path=tmp_path, name="run", stop={"training_iteration": 4}, callbacks=[Look()], verbose=0
        ),
    ).fit()
    assert len(seen) == 4
    assert all(state is State.RUNNING and results > place for place, (state, results) in enumerate(seen))
    assert Experiment.open(tmp_path / "run").state is State.ENDED
