"""What an experiment gives back."""

from __future__ import annotations

import builtins
import copy
import math
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from shoal.core.commands import Status, Stop
from shoal.core.events import StopAsked
from shoal.errors import ConfigError, JournalError, ResultError, TrialFailed
from shoal.journal.sqlite import SQLiteJournal
from shoal.results import Result, ResultGrid

from .stories import Story, make_info


@pytest.fixture
def story(tmp_path: Path) -> Story:
    told = Story(tmp_path)
    told.add_usual()
    return told


def grid_of(story: Story) -> ResultGrid:
    return ResultGrid(story.history, story.info, story.folder)


def scores(story: Story, *values: list[Any]) -> ResultGrid:
    """Let each trial report its values."""
    for index, of_trial in enumerate(values):
        for value in of_trial:
            story.report(index, {"mean_accuracy": value})
    return grid_of(story)


def make_checkpoints(story: Story) -> None:
    """Make the folders of all checkpoints that the story has."""
    for trial in story.history.in_order():
        for number in trial.checkpoints:
            (story.folder / trial.folder / f"checkpoint_{number:06d}").mkdir(parents=True, exist_ok=True)


# ------------------------------------------------------------------------------------------------------- as a sequence


@pytest.mark.parametrize("again", [lambda it: pickle.loads(pickle.dumps(it)), copy.deepcopy], ids=["pickled", "copied"])
@pytest.mark.parametrize("of", [lambda grid: grid, lambda grid: grid[0]], ids=["grid", "result"])
def test_long_runs_can_be_pickled_and_copied(
    story: Story, again: Callable[[Any], Any], of: Callable[[Any], Any]
) -> None:
    for step in range(1_500):
        story.report(0, {"mean_accuracy": step}, save=True)
        story.report(1, {"mean_accuracy": step}, save=True)
        story.exploit(1, 0)  # and the next time the other way round: the chain of donors gets as long as the run
        story.launch(1, checkpoint=story.saved[story.name(0)])
        story.report(1, {"mean_accuracy": step}, save=True)
        story.exploit(0, 1)
        story.launch(0, checkpoint=story.saved[story.name(1)])
    given = of(grid_of(story))
    found = again(given)
    results = [(given, found)] if isinstance(given, Result) else list(zip(given, found, strict=True))
    for before, after in results:
        assert after.metrics == before.metrics
        assert len(after.lineage()) == len(before.lineage())
        if before.metrics:
            assert after.metrics_dataframe.equals(before.metrics_dataframe)
            assert after.learning_curve().equals(before.learning_curve())


def test_a_grid_has_one_result_for_each_trial_by_its_number(story: Story) -> None:
    grid = grid_of(story)
    assert len(grid) == 4
    assert [result.trial_id for result in grid] == [story.name(index) for index in range(4)]
    assert grid[0].trial_id == "40bd6_00000"
    assert grid[-1].trial_id == "40bd6_00003"
    assert [result.trial_id for result in grid[1:3]] == ["40bd6_00001", "40bd6_00002"]
    assert next(reversed(grid)).trial_id == "40bd6_00003"


def test_a_wrong_index_says_what_is_allowed(story: Story) -> None:
    grid = grid_of(story)
    with pytest.raises(ResultError, match="There is no result 4: allowed is 0 to 3, or -4 to -1 from the end"):
        grid[4]
    with pytest.raises(IndexError):
        grid[-5]
    with pytest.raises(TypeError, match="use get_best_result"):
        grid["mean_accuracy"]  # type: ignore[call-overload]


def test_an_experiment_without_trials_has_an_empty_grid(tmp_path: Path) -> None:
    grid = grid_of(Story(tmp_path))
    assert len(grid) == 0
    assert grid.errors == []
    with pytest.raises(ResultError, match="because there is no trial"):
        grid[0]
    with pytest.raises(ResultError, match="no result yet"):
        grid.get_best_result()


def test_a_grid_of_one_trial_counts_it(tmp_path: Path) -> None:
    told = Story(tmp_path)
    told.add({"lr": 0.1})
    assert repr(grid_of(told)).startswith("ResultGrid of 1 trial in ")


def test_a_grid_shows_itself_as_a_table(story: Story) -> None:
    grid = scores(story, [0.5], [0.25], [], [1 / 3])
    assert repr(grid).splitlines() == [
        f"ResultGrid of 4 trials in {story.folder}",
        "trial                      status   iter  total time (s)  mean_accuracy   lr  momentum",
        "train_convnet_40bd6_00000  RUNNING     1             0.2        0.5      0.1       0.9",
        "train_convnet_40bd6_00001  RUNNING     1             0.2        0.25     0.2       0.9",
        "train_convnet_40bd6_00002  RUNNING                                       0.3       0.9",
        "train_convnet_40bd6_00003  RUNNING     1             0.2        0.33333  0.4       0.9",
    ]


def test_a_large_grid_shows_its_best_trials(tmp_path: Path) -> None:
    story = Story(tmp_path, info=make_info(num_trials=100))
    story.add_usual(100)
    grid = scores(story, *([index / 100] for index in range(100)))
    lines = repr(grid).splitlines()
    assert len(lines) == 43
    assert lines[-1] == "and 60 more"
    assert lines[-2].startswith("train_convnet_40bd6_00099")


# ------------------------------------------------------------------------------------------------------------- reading


def test_results_are_read_from_the_folder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    journal = SQLiteJournal.create(folder)
    story = Story(folder, journal=journal)
    journal.set_meta(**story.info.to_meta())
    story.add_usual()
    story.report(0, {"mean_accuracy": 0.5})
    running = ResultGrid.read(folder)
    assert running[0].metrics["mean_accuracy"] == 0.5
    assert running.num_terminated == 0
    story.stop_all("enough")
    journal.close()
    moved = folder.rename(tmp_path / "moved")
    grid = ResultGrid.read(str(moved))
    assert grid.num_terminated == 4
    assert grid.experiment_path == str(moved)
    assert Path(grid[0].path).parent == moved
    assert grid.get_best_result().trial_id == "40bd6_00000"
    pd.testing.assert_frame_equal(grid.get_dataframe(), ResultGrid.read(moved).get_dataframe())


def test_a_folder_without_an_experiment_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="holds no experiment of Shoal"):
        ResultGrid.read(tmp_path)


def test_a_journal_that_does_not_say_what_it_is_of_is_an_error(tmp_path: Path) -> None:
    journal = SQLiteJournal.create(tmp_path)
    journal.append([StopAsked("enough")], 1.0)
    journal.close()
    with pytest.raises(JournalError, match="does not say what the experiment is"):
        ResultGrid.read(tmp_path)


def test_a_journal_of_an_experiment_that_never_began_is_an_error(tmp_path: Path) -> None:
    SQLiteJournal.create(tmp_path).close()
    with pytest.raises(JournalError, match="never began"):
        ResultGrid.read(tmp_path)


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """The folder of an experiment with four trials, of which the first two have reported."""
    folder = tmp_path / "experiment"
    folder.mkdir()
    journal = SQLiteJournal.create(folder)
    told = Story(folder, journal=journal)
    journal.set_meta(**told.info.to_meta())
    told.add_usual()
    told.report(1, {"mean_accuracy": 0.9}, save=True)
    told.report(0, {"mean_accuracy": 0.1})
    told.exploit(0, 1)
    told.report(0, {"mean_accuracy": 0.8}, iteration=2)
    journal.close()
    for trial in told.history.in_order():
        (folder / trial.folder / "checkpoint_000000").mkdir(parents=True)
    return folder


def test_one_result_is_read_from_its_folder(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ResultGrid.read(experiment)[0]
    monkeypatch.chdir(experiment)
    link = experiment.parent / "best"
    link.symlink_to(expected.path)
    for path in (expected.path, Path(expected.path), f"{expected.path}/", Path(expected.path).name, f"{link}"):
        result = Result.from_path(path)
        assert (result.trial_id, result.path) == (expected.trial_id, expected.path)
        assert result.metrics == expected.metrics
        assert [segment.trial for segment in result.lineage()] == [1, 0]
        assert result.checkpoint is not None


def test_a_folder_that_is_no_trials_says_what_is_there(experiment: Path, tmp_path: Path) -> None:
    first = Path(ResultGrid.read(experiment)[0].path)
    with pytest.raises(
        ResultError, match=rf"other is no trial's folder of .*experiment\. .* There are: {first.name}, "
    ):
        Result.from_path(experiment / "other")
    with pytest.raises(ResultError, match="is no trial's folder of the experiment in"):
        Result.from_path(first / "checkpoint_000000")
    with pytest.raises(ResultError, match=rf"is the folder of an experiment; tune\.ResultGrid\.read.*: {first.name}"):
        Result.from_path(experiment)
    with pytest.raises(ResultError, match="nowhere does not exist, and no experiment of Shoal is in the folder above"):
        Result.from_path(tmp_path / "nowhere")
    with pytest.raises(ResultError, match="is no trial's folder, and no experiment"):
        Result.from_path(tmp_path)
    for wrong in (3, None, ""):
        with pytest.raises(ConfigError, match=rf"path must be the path of a trial's folder, but is {wrong!r}"):
            Result.from_path(wrong)  # type: ignore[arg-type] # pyright: ignore


def test_many_trials_are_not_all_named(tmp_path: Path) -> None:
    journal = SQLiteJournal.create(tmp_path)
    told = Story(tmp_path, journal=journal)
    journal.set_meta(**told.info.to_meta())
    told.add_usual(11)
    journal.close()
    with pytest.raises(ResultError, match=r"_00007_\S+ and 3 more\.$"):
        Result.from_path(tmp_path / "other")


# ------------------------------------------------------------------------------------------------------ counts, errors


def test_trials_are_counted_by_how_they_ended(story: Story) -> None:
    story.finish(0)
    story.finish(1)
    story.fail(2, ValueError("x"))
    grid = grid_of(story)
    assert (grid.num_terminated, grid.num_errors, len(grid.errors)) == (2, 1, 1)


def test_an_error_has_the_members_traceback_and_the_original_exception(story: Story) -> None:
    story.report(2)
    story.fail(2, ZeroDivisionError("division by zero"))
    error = grid_of(story)[2].error
    assert isinstance(error, TrialFailed)
    assert "Trial train_convnet_40bd6_00002 failed after iteration 1:\nTraceback (most recent call last)" in str(error)
    assert "ZeroDivisionError: division by zero" in str(error)
    assert isinstance(error.__cause__, ZeroDivisionError)


def test_an_exception_that_cannot_be_loaded_here_leaves_its_traceback(story: Story) -> None:
    item = story.failed(2, ValueError("x"))
    story.tell(item.__class__(item.trial_id, item.launch, item.error, item.traceback, b"garbage"))
    story.tell(Stop(item.trial_id, item.launch, Status.ERROR, item.error))
    error = grid_of(story)[2].error
    assert error is not None
    assert error.__cause__ is None
    assert "ValueError: x" in str(error)


def test_a_lost_process_is_an_error_too(story: Story) -> None:
    story.lose(1, "the process was killed by signal 9")
    (error,) = grid_of(story).errors
    assert "killed by signal 9" in str(error)
    assert error.__cause__ is None


def test_a_trial_that_recovered_has_no_error(story: Story) -> None:
    story.fail_and_retry(0, ValueError("x"))
    story.report(0)
    story.finish(0)
    result = grid_of(story)[0]
    assert result.error is None
    assert "error" not in repr(result)


# ---------------------------------------------------------------------------------------------------------- one result


def test_metrics_are_the_last_result_with_the_automatic_values(story: Story) -> None:
    story.report(0)
    story.report(0, {"mean_accuracy": 0.7, "val": {"loss": 1}})
    metrics = grid_of(story)[0].metrics
    assert metrics["mean_accuracy"] == 0.7
    assert metrics["val"] == {"loss": 1}
    assert metrics["training_iteration"] == 2
    assert metrics["config"] == {"lr": 0.1, "momentum": 0.9, "checkpoint_interval": 5}


def test_the_config_is_that_of_the_last_result(story: Story) -> None:
    story.report(1, save=True)
    story.report(0)
    story.exploit(0, 1, lr=0.7)
    result = grid_of(story)[0]
    assert result.config["lr"] == result.metrics["config"]["lr"] == 0.1
    assert "'lr': 0.1" in repr(result)
    story.report(0)
    assert result.config["lr"] == result.metrics["config"]["lr"] == 0.7


def test_a_trial_without_results(story: Story) -> None:
    result = grid_of(story)[0]
    assert result.metrics == {}
    assert result.metrics_dataframe is None
    assert result.checkpoint is None
    assert result.best_checkpoints == []
    assert result.config["lr"] == 0.1


def test_a_result_shows_itself(story: Story) -> None:
    story.report(0)
    story.fail(0, ValueError("x"))
    text = repr(grid_of(story)[0])
    assert "train_convnet_40bd6_00000" in text
    assert "'mean_accuracy': 0.5" in text
    assert "'lr': 0.1" in text
    assert "error='ValueError: x'" in text


def test_the_file_system_is_the_local_one(story: Story) -> None:
    grid = grid_of(story)
    (story.folder / "file").touch()
    assert grid.filesystem.exists(f"{grid.experiment_path}/file")
    assert grid[0].filesystem is grid.filesystem


# --------------------------------------------------------------------------------------------------------- checkpoints


def test_the_checkpoint_is_the_newest_own_one(story: Story) -> None:
    story.report(0, save=True)
    story.report(0, save=True)
    story.report(0)
    make_checkpoints(story)
    result = grid_of(story)[0]
    assert result.checkpoint is not None
    assert result.checkpoint.path == f"{result.path}/checkpoint_000001"


def test_after_an_exploit_it_is_the_donors_until_there_is_an_own_one(story: Story) -> None:
    story.report(0, save=True)
    story.report(1, save=True)
    make_checkpoints(story)
    story.exploit(0, 1)
    story.report(0, iteration=2)
    grid = grid_of(story)
    assert grid[0].checkpoint is not None
    assert grid[0].checkpoint.path == f"{grid[1].path}/checkpoint_000000"
    story.report(0, iteration=3, save=True)
    make_checkpoints(story)
    assert grid[0].checkpoint.path == f"{grid[0].path}/checkpoint_000002"


def test_an_exploit_after_the_last_result_changes_the_checkpoint_only_where_the_own_one_is_gone(story: Story) -> None:
    for index in (0, 0, 1):
        story.report(index, save=True)
    make_checkpoints(story)
    story.exploit(0, 1)
    story.finish(0)
    grid = grid_of(story)
    assert grid[0].checkpoint is not None
    assert grid[0].checkpoint.path == f"{grid[0].path}/checkpoint_000001"
    story.delete_checkpoint(0, 1)  # the one that is left is of an earlier step than the metrics
    assert grid[0].checkpoint.path == f"{grid[1].path}/checkpoint_000000"


def test_best_checkpoints_are_those_that_are_kept_with_their_results(story: Story) -> None:
    for value in (0.3, 0.9, 0.5):
        story.report(0, {"mean_accuracy": value}, save=True)
    story.delete_checkpoint(0, 0)
    make_checkpoints(story)
    result = grid_of(story)[0]
    pairs = result.best_checkpoints
    assert [(Path(checkpoint.path).name, metrics["mean_accuracy"]) for checkpoint, metrics in pairs] == [
        ("checkpoint_000001", 0.9),
        ("checkpoint_000002", 0.5),
    ]
    assert pairs[0][1]["training_iteration"] == 2


def test_the_best_checkpoint_by_a_metric(story: Story) -> None:
    for value in (0.3, 0.9, math.nan, 0.5):
        story.report(0, {"mean_accuracy": value, "val": {"loss": -value}}, save=True)
    make_checkpoints(story)
    result = grid_of(story)[0]

    def best(metric: str, mode: str) -> str:
        return Path(result.get_best_checkpoint(metric, mode).path).name

    assert best("mean_accuracy", "max") == "checkpoint_000001"
    assert best("mean_accuracy", "min") == "checkpoint_000000"
    assert best("val/loss", "max") == "checkpoint_000000"
    assert best("training_iteration", "max") == "checkpoint_000003"
    with pytest.raises(ResultError, match="'acuracy' is not there in the checkpoints"):
        best("acuracy", "max")
    with pytest.raises(ConfigError, match=r"mode must be 'max' .* but is 'maxx'. Did you mean 'max'?"):
        best("mean_accuracy", "maxx")


def test_without_a_checkpoint_none_is_best(story: Story) -> None:
    story.report(0)
    with pytest.raises(ResultError, match=r"has no checkpoint of its own. Save one with tune.report"):
        grid_of(story)[0].get_best_checkpoint("mean_accuracy", "max")


# ---------------------------------------------------------------------------------------------------------- dataframes


def test_a_dataframe_has_every_result_with_nested_keys_and_configs_flattened(story: Story) -> None:
    story.report(1, save=True)
    story.report(0, {"mean_accuracy": 0.5, "val": {"loss": 2.0}})
    story.exploit(0, 1, lr=0.7)
    story.report(0, {"mean_accuracy": 0.6}, iteration=2)
    frame = grid_of(story)[0].metrics_dataframe
    assert frame is not None
    assert frame["mean_accuracy"].tolist() == [0.5, 0.6]
    assert frame["training_iteration"].tolist() == [1, 2]
    assert frame["config/lr"].tolist() == [0.1, 0.7]
    assert frame["val/loss"].isna().tolist() == [False, True]
    assert frame["trial_id"].unique().tolist() == ["40bd6_00000"]
    assert not [name for name in frame.columns if name in ("config", "val")]
    assert frame["generation"].tolist() == [0, 1]


def test_a_dataframe_needs_no_deduplication(story: Story) -> None:
    story.report(1, {"mean_accuracy": 0.8}, save=True)
    for score in (0.1, 0.2, 0.3):
        story.report(0, {"mean_accuracy": score}, save=score == 0.1)
    story.launch(0, 1, story.saved[story.name(0)])  # it was killed, and trains two steps again
    for score in (0.25, 0.35):
        story.report(0, {"mean_accuracy": score})
    story.exploit(0, 1)
    story.report(0, {"mean_accuracy": 0.9}, iteration=2)
    grid = grid_of(story)
    frame = grid[0].metrics_dataframe
    assert frame is not None
    told = frame[["generation", "training_iteration", "mean_accuracy"]].values.tolist()
    assert told == [[0, 1, 0.1], [0, 2, 0.25], [0, 3, 0.35], [1, 2, 0.9]]
    assert not frame.duplicated(["generation", "training_iteration"]).any()
    assert grid[0].learning_curve()["mean_accuracy"].tolist() == [0.8, 0.9]


def test_what_was_undone_is_nobodys_best(story: Story) -> None:
    for score in (0.1, 0.9):
        story.report(0, {"mean_accuracy": score}, save=score == 0.1)
    story.report(1, {"mean_accuracy": 0.5})
    story.launch(0, 1, story.saved[story.name(0)])
    story.report(0, {"mean_accuracy": 0.3})
    grid = grid_of(story)
    assert grid.get_best_result(scope="all").trial_id == story.name(1)
    assert grid.get_best_result(mode="min", scope="avg").trial_id == story.name(0)
    assert grid.get_dataframe("mean_accuracy")["mean_accuracy"].tolist() == [0.3, 0.5]


def test_a_metric_keeps_its_name_where_a_column_of_the_tables_is_called_like_it(story: Story) -> None:
    story.report(0, {"mean_accuracy": 0.1, "generation": 7})
    story.report(0, {"mean_accuracy": 0.2, "trial": "x"})
    frame, curve = grid_of(story)[0].metrics_dataframe, grid_of(story)[0].learning_curve()
    assert frame is not None
    assert frame["trial/generation"].tolist() == curve["trial/generation"].tolist() == [0, 0]
    assert frame["generation"].tolist()[0] == curve["generation"].tolist()[0] == 7
    assert curve["trial/trial"].tolist() == [0, 0]
    assert curve["trial"].tolist()[1] == "x"


def test_no_row_is_lost_between_reports_and_dataframe(story: Story) -> None:
    count = [44, 42, 42, 40]
    grid = scores(story, *([step / 100 for step in range(each)] for each in count))
    frames = [result.metrics_dataframe for result in grid]
    assert [0 if frame is None else len(frame) for frame in frames] == count


def test_the_guides_plotting_code_works(story: Story) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for step in range(6):
        story.report(0, {"mean_accuracy": step / 10, "is_score": step, "lossg": -step}, save=True)
        story.report(1, {"mean_accuracy": step / 20, "is_score": step, "lossg": -step})
    story.exploit(1, 0)
    story.report(1, {"mean_accuracy": 0.5, "is_score": 5, "lossg": 3}, iteration=5)
    results_grid = grid_of(story)[:2]
    best_result = grid_of(story).get_best_result(metric="mean_accuracy", mode="max")
    df = results_grid[1].metrics_dataframe
    assert df is not None
    assert len(df) == 7
    assert not df.duplicated(["generation", "training_iteration"]).any()
    df = df.drop_duplicates(subset="training_iteration", keep="last")
    assert df["mean_accuracy"].tolist()[-1] == 0.5
    assert len(df) == 6
    df.plot("training_iteration", "mean_accuracy")
    figure, axes = plt.subplots(1, 2)
    for i, frame in enumerate(result.metrics_dataframe for result in results_grid):
        assert frame is not None
        axes[0].plot(frame["is_score"], label=i)
        axes[1].plot(frame["lossg"], label=i)
    plt.close("all")
    assert figure is not None
    assert best_result.config["lr"] == 0.1


def test_the_table_of_trials_has_the_last_row_of_each_and_its_folder(story: Story) -> None:
    grid = scores(story, [0.1, 0.2], [0.9, 0.3], [], [0.4])
    frame = grid.get_dataframe()
    assert frame["mean_accuracy"].tolist() == [0.2, 0.3, 0.4]
    assert frame["logdir"].tolist() == [grid[index].path for index in (0, 1, 3)]
    assert frame["config/lr"].tolist() == [0.1, 0.2, 0.4]


def test_the_table_of_trials_can_have_the_best_row_of_each(story: Story) -> None:
    grid = scores(story, [0.1, math.nan, 0.2, 0.2], [0.9, 0.3])
    best = grid.get_dataframe(filter_metric="mean_accuracy")
    assert best["mean_accuracy"].tolist() == [0.2, 0.9]
    assert best["training_iteration"].tolist() == [3, 1]
    assert grid.get_dataframe("mean_accuracy", "min")["mean_accuracy"].tolist() == [0.1, 0.3]
    with pytest.raises(ConfigError, match="filter_mode needs filter_metric"):
        grid.get_dataframe(filter_mode="max")
    with pytest.raises(ConfigError, match="get_dataframe: mode must be"):
        grid.get_dataframe("mean_accuracy", "best")
    with pytest.raises(ResultError, match="'accuracy' is not there in the results"):
        grid.get_dataframe("accuracy")


def test_without_pandas_the_error_says_what_to_install(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    really_import = builtins.__import__

    def without_pandas(name: str, *args: Any, **options: Any) -> Any:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'")
        return really_import(name, *args, **options)

    grid = scores(story, [0.5])
    monkeypatch.delitem(sys.modules, "pandas")
    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(ImportError, match="pip install pandas"):
        _ = grid[0].metrics_dataframe
    with pytest.raises(ImportError, match="pip install pandas"):
        grid[0].learning_curve()
    assert grid.get_best_result().metrics["mean_accuracy"] == 0.5


# ---------------------------------------------------------------------------------------------------------------- best


def test_the_best_result_is_by_the_experiments_own_metric_and_mode(story: Story) -> None:
    grid = scores(story, [0.9, 0.1], [0.5], [0.3])
    assert grid.get_best_result().trial_id == story.name(1)
    assert grid.get_best_result(mode="min").trial_id == story.name(0)
    assert grid.get_best_result("training_iteration", "max").trial_id == story.name(0)
    assert grid.get_best_result("config/lr", "max").trial_id == story.name(2)


@pytest.mark.parametrize(
    ("scope", "mode", "winner"),
    [
        ("last", "max", 2),
        ("last", "min", 0),
        ("all", "max", 0),
        ("all", "min", 1),
        ("avg", "max", 2),
        ("avg", "min", 1),
        ("last-5-avg", "max", 2),
        ("last-5-avg", "min", 0),
        ("last-10-avg", "max", 2),
    ],
)
def test_scopes(story: Story, scope: str, mode: str, winner: int) -> None:
    grid = scores(story, [0.99, *[0.5] * 4, *[0.1] * 5], [-1.0, *[0.2] * 10], [0.6, 0.6])
    assert grid.get_best_result("mean_accuracy", mode, scope).trial_id == story.name(winner)


def test_nan_and_infinite_values_are_never_best_unless_asked_for(story: Story) -> None:
    grid = scores(story, [math.nan], [0.5, math.inf], [0.4], [0.3, math.nan])
    assert grid.get_best_result().trial_id == story.name(2)
    assert grid.get_best_result(scope="all").trial_id == story.name(1)
    assert grid.get_best_result(filter_nan_and_inf=False).trial_id == story.name(1)
    assert grid.get_best_result(mode="min", filter_nan_and_inf=False).trial_id == story.name(2)


def test_only_nan_is_an_error_that_says_so(story: Story) -> None:
    grid = scores(story, [math.nan], [math.inf])
    with pytest.raises(ResultError, match="All values of 'mean_accuracy' in the results are NaN or infinite"):
        grid.get_best_result()


def test_of_equals_the_first_is_best(story: Story) -> None:
    assert scores(story, [0.5], [0.5], [0.5]).get_best_result().trial_id == story.name(0)


def test_a_metric_that_is_missing_from_the_last_result_counts_by_its_last_value(story: Story) -> None:
    story.report(0, {"mean_accuracy": 0.9})
    story.report(0, {"loss": 1})
    story.report(1, {"mean_accuracy": 0.5})
    assert grid_of(story).get_best_result().trial_id == story.name(0)


def test_an_unknown_metric_names_those_that_are_there(story: Story) -> None:
    grid = scores(story, [0.5])
    story.fail(3, ValueError("x"))
    with pytest.raises(ResultError) as caught:
        grid.get_best_result("mean_acuracy", "max")
    message = str(caught.value)
    assert "'mean_acuracy' is not there in the results. Did you mean 'mean_accuracy'?" in message
    assert "'training_iteration'" in message
    assert "'config/lr'" in message
    assert "1 of 4 trials failed; see ResultGrid.errors." in message


def test_a_metric_that_is_no_number_is_an_error_that_says_so(story: Story) -> None:
    story.report(0, {"mean_accuracy": 0.5, "phase": "warm"})
    with pytest.raises(ResultError, match="'phase' is no number but 'warm'"):
        grid_of(story).get_best_result("phase", "max")


def test_wrong_arguments_are_errors_that_say_what_is_allowed(story: Story, tmp_path: Path) -> None:
    grid = scores(story, [0.5])
    with pytest.raises(ConfigError, match=r"mode must be 'max' .* but is 'mx'. Did you mean 'max'?"):
        grid.get_best_result(mode="mx")
    with pytest.raises(ConfigError, match=r"scope must be one of 'last', .* but is 'last-5-avrg'. Did you mean"):
        grid.get_best_result(scope="last-5-avrg")
    nameless = ResultGrid(story.history, make_info(metric=None), tmp_path)
    with pytest.raises(ConfigError, match="which metric"):
        nameless.get_best_result()
    assert nameless.get_best_result("mean_accuracy").trial_id == story.name(0)


def test_whole_numbers_and_booleans_compare(story: Story) -> None:
    assert scores(story, [1], [2], [True], [0.5]).get_best_result().trial_id == story.name(1)
