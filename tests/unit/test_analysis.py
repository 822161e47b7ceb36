"""What ``tune.run`` gives back, asked as scripts ask it."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from shoal.analysis import ExperimentAnalysis
from shoal.callbacks import Trial
from shoal.errors import ConfigError, JournalError, ResultError
from shoal.journal.sqlite import SQLiteJournal

from .stories import Story, make_info


def tell(tmp_path: Path, *values: list[float], **facts: Any) -> Story:
    """Return a finished story in which each trial reports its values, each with a checkpoint."""
    folder = tmp_path / "pbt_test"
    folder.mkdir()
    story = Story(folder, info=make_info(**facts), journal=SQLiteJournal.create(folder))
    assert isinstance(story.journal, SQLiteJournal)
    story.journal.set_meta(**story.info.to_meta())
    story.add_usual(len(values))
    for index, of_trial in enumerate(values):
        for value in of_trial:
            story.report(index, {"mean_accuracy": value, "val": {"loss": 1 - value}}, save=True)
    for trial in story.history.in_order():
        for number in trial.checkpoints:
            (folder / trial.folder / f"checkpoint_{number:06d}").mkdir(parents=True, exist_ok=True)
        story.finish(trial.index)
    story.journal.close()
    return story


def ask(tmp_path: Path, *values: list[float], **facts: Any) -> ExperimentAnalysis:
    return ExperimentAnalysis(tell(tmp_path, *values, **facts).folder)


# ---------------------------------------------------------------------------------------------------------- best trial


def test_the_best_trial_is_the_one_whose_last_result_is_best(tmp_path: Path) -> None:
    analysis = ask(tmp_path, [0.1, 0.9, 0.2], [0.3, 0.4, 0.5])
    best = analysis.best_trial
    assert best.trial_id == "40bd6_00001"
    assert analysis.best_config == best.config == {"lr": 0.2, "momentum": 0.9, "checkpoint_interval": 5}
    assert analysis.best_result == best.last_result
    assert analysis.best_result["mean_accuracy"] == 0.5
    assert analysis.best_result["config"]["lr"] == 0.2
    assert analysis.best_logdir == best.path == analysis.get_best_logdir()
    assert Path(analysis.best_logdir).parent == tmp_path / "pbt_test"
    assert isinstance(best, Trial)


def test_every_scope_and_mode_of_the_best_trial(tmp_path: Path) -> None:
    analysis = ask(tmp_path, [0.1, 0.9, 0.2], [0.3, 0.4, 0.5], [0.0, 0.0, 0.3])

    def best(mode: str, scope: str = "last") -> int:
        return analysis.get_best_trial("mean_accuracy", mode, scope).index

    assert (best("max"), best("max", "all"), best("max", "avg"), best("max", "last-5-avg")) == (1, 0, 0, 0)
    assert (best("min"), best("min", "all"), best("min", "avg")) == (0, 2, 2)
    assert analysis.get_best_config("val/loss", "min")["lr"] == 0.2
    assert analysis.get_best_config("mean_accuracy", "max", scope="all")["lr"] == 0.1
    assert analysis.get_best_logdir("mean_accuracy", mode="min") == analysis.trials[0].path


def test_what_was_given_to_the_experiment_is_the_default_and_can_be_changed(tmp_path: Path) -> None:
    story = tell(tmp_path, [0.1], [0.5])
    analysis = ExperimentAnalysis(story.folder)
    assert (analysis.default_metric, analysis.default_mode) == ("mean_accuracy", "max")
    analysis.default_mode = "min"
    assert analysis.best_trial.index == 0
    analysis.default_metric, analysis.default_mode = "val/loss", "max"
    assert analysis.best_trial.index == 0
    assert ExperimentAnalysis(story.folder, default_metric="val/loss", default_mode="min").best_trial.index == 1


def test_without_a_metric_or_a_mode_it_asks_for_them(tmp_path: Path) -> None:
    analysis = ask(tmp_path, [0.1], [0.5], metric=None)
    assert (analysis.default_metric, analysis.default_mode) == (None, None)
    with pytest.raises(ConfigError, match=r"which metric.*tune\.run.*get_best_trial\(metric='mean_accuracy'"):
        _ = analysis.best_config
    with pytest.raises(ConfigError, match=r"is larger better.*mode='max'"):
        analysis.get_best_config("mean_accuracy")
    with pytest.raises(ConfigError, match="is larger better"):
        analysis.dataframe("mean_accuracy")
    assert analysis.get_best_config("mean_accuracy", "max")["lr"] == 0.2


def test_a_metric_that_is_not_there_is_an_error_with_those_that_are(tmp_path: Path) -> None:
    analysis = ask(tmp_path, [0.1], [0.5])
    with pytest.raises(ResultError, match=r"'mean_acuracy' is not there.*Did you mean 'mean_accuracy'\?"):
        analysis.get_best_trial("mean_acuracy", "max")
    with pytest.raises(ConfigError, match=r"mode must be 'max'.*'maximum'"):
        analysis.get_best_trial("mean_accuracy", "maximum")
    with pytest.raises(ConfigError, match="scope must be one of"):
        analysis.get_best_trial("mean_accuracy", "max", "first")
    with pytest.raises(ConfigError, match="default_mode must be 'max'"):
        ExperimentAnalysis(analysis.experiment_path, default_mode="larger")
    with pytest.raises(ConfigError, match=r"no argument 'default_metrics'. Did you mean 'default_metric'"):
        ExperimentAnalysis(analysis.experiment_path, default_metrics="loss")  # type: ignore[call-arg]


def test_nan_is_never_best(tmp_path: Path) -> None:
    analysis = ask(tmp_path, [0.5], [0.1, math.nan])
    assert analysis.best_trial.index == 0
    numbers = analysis.trials[1].metric_analysis["mean_accuracy"]
    assert (numbers["max"], numbers["min"]) == (0.1, 0.1)
    assert math.isnan(numbers["last"])


# ---------------------------------------------------------------------------------------------------------- all trials


def test_results_and_configs_of_all_trials(tmp_path: Path) -> None:
    analysis = ask(tmp_path, [0.1, 0.3], [], [0.5])
    assert [trial.status for trial in analysis.trials] == ["TERMINATED"] * 3
    assert [result.get("mean_accuracy") for result in analysis.results.values()] == [0.3, None, 0.5]
    assert list(analysis.results) == [trial.trial_id for trial in analysis.trials]
    configs = analysis.get_all_configs()
    assert list(configs) == [trial.path for trial in analysis.trials]
    assert configs[analysis.trials[1].path]["lr"] == 0.2
    assert analysis.get_all_configs(prefix=True)["40bd6_00002"]["config/momentum"] == 0.9


def test_a_trial_is_found_by_its_folder_and_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = ask(tmp_path, [0.1, 0.3], [0.5])
    frames = analysis.trial_dataframes
    folder = analysis.best_logdir
    monkeypatch.chdir(tmp_path)
    for key in (folder, folder + "/", "40bd6_00001", str(Path(folder).relative_to(tmp_path))):
        assert key in frames
        assert list(frames[key]["mean_accuracy"]) == [0.5]
        assert frames.get(key) is not None
    assert "40bd6_00009" not in frames
    assert frames.get("40bd6_00009") is None
    assert None not in frames
    with pytest.raises(KeyError, match=r"no trial with the folder or the id '40bd6_00009'.*40bd6_00000, 40bd6_00001"):
        frames["40bd6_00009"]
    assert len(frames) == 2


def test_tables(tmp_path: Path) -> None:
    analysis = ask(tmp_path, [0.1, 0.4, 0.3], [], [0.5])
    frames = analysis.trial_dataframes
    assert [list(frame.get("mean_accuracy", [])) for frame in frames.values()] == [[0.1, 0.4, 0.3], [], [0.5]]
    assert list(analysis.best_dataframe["training_iteration"]) == [1]
    assert list(frames["40bd6_00000"]["val/loss"]) == [0.9, 0.6, 0.7]
    last = analysis.dataframe()
    assert list(last["mean_accuracy"]) == [0.3, 0.5]
    assert list(last["logdir"]) == [analysis.trials[0].path, analysis.trials[2].path]
    assert list(last["config/lr"]) == [0.1, pytest.approx(0.3)]
    assert list(analysis.dataframe("mean_accuracy", "max")["mean_accuracy"]) == [0.4, 0.5]
    assert list(analysis.dataframe(metric="val/loss", mode="max")["mean_accuracy"]) == [0.1, 0.5]
    assert list(analysis.dataframe("mean_accuracy")["mean_accuracy"]) == [0.4, 0.5]
    assert list(analysis.results_df.index) == ["40bd6_00000", "40bd6_00002"]
    assert analysis.best_result_df.loc["40bd6_00002", "mean_accuracy"] == 0.5
    with pytest.raises(ConfigError, match="mode needs metric"):
        analysis.dataframe(mode="max")


def test_an_experiment_without_results_has_empty_tables(tmp_path: Path) -> None:
    analysis = ask(tmp_path, [], [])
    assert len(analysis.results_df) == len(analysis.dataframe()) == 0
    with pytest.raises(ResultError, match="no result yet"):
        _ = analysis.best_trial


def test_without_pandas_a_table_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = ask(tmp_path, [0.1])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        analysis.dataframe()
    assert analysis.best_config["lr"] == 0.1


def test_a_trial_sums_up_each_number(tmp_path: Path) -> None:
    (trial,) = ask(tmp_path, [float(value) for value in range(12)]).trials
    assert trial.metric_analysis["mean_accuracy"] == {
        "max": 11.0, "min": 0.0, "avg": 5.5, "last": 11.0, "last-5-avg": 9.0, "last-10-avg": 6.5,
    }  # fmt: skip
    assert trial.metric_analysis["val/loss"]["max"] == 1.0
    assert trial.metric_analysis["training_iteration"]["last"] == 12
    assert trial.metric_analysis["config/lr"]["avg"] == pytest.approx(0.1)
    assert "done" not in trial.metric_analysis
    assert "date" not in trial.metric_analysis


def test_the_config_is_that_of_the_last_result(tmp_path: Path) -> None:
    folder = tmp_path / "pbt_test"
    folder.mkdir()
    story = Story(folder, journal=SQLiteJournal.create(folder))
    assert isinstance(story.journal, SQLiteJournal)
    story.journal.set_meta(**story.info.to_meta())
    story.add_usual(2)
    story.report(0, {"mean_accuracy": 0.9}, save=True)
    story.report(1, {"mean_accuracy": 0.1})
    story.exploit(1, 0, lr=0.7)
    analysis = ExperimentAnalysis(folder)
    assert analysis.trials[1].config["lr"] == analysis.get_all_configs()["40bd6_00001"]["lr"] == 0.2
    story.report(1, {"mean_accuracy": 0.95})
    story.journal.close()
    assert ExperimentAnalysis(folder).best_config["lr"] == 0.7


# --------------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints(tmp_path: Path) -> None:
    analysis = ask(tmp_path, [0.1, 0.9, 0.2], [0.3, 0.4])
    names = {path.name for path in Path(analysis.trials[0].path).iterdir()}
    assert len(names) == 3
    first, best, last = sorted(names)
    trial = analysis.trials[0]
    for key in (trial, trial.path, trial.trial_id):
        assert Path(analysis.get_best_checkpoint(key).path).name == best
    assert Path(analysis.get_best_checkpoint(trial, "mean_accuracy", "min").path).name == first
    assert Path(analysis.get_best_checkpoint(trial, metric="training_iteration", mode="max").path).name == last
    assert trial.checkpoint is not None
    assert Path(trial.checkpoint.path).name == last
    assert analysis.get_last_checkpoint(trial) == trial.checkpoint == analysis.get_last_checkpoint()
    assert analysis.best_checkpoint.path.startswith(analysis.trials[1].path)
    paths = analysis.get_trial_checkpoints_paths(trial, "mean_accuracy")
    assert [(Path(path).name, value) for path, value in paths] == [(first, 0.1), (best, 0.9), (last, 0.2)]


def test_a_trial_that_is_not_there_has_no_checkpoint(tmp_path: Path) -> None:
    analysis = ask(tmp_path, [0.1])
    with pytest.raises(ResultError, match=r"'nobody' is no trial of this experiment.*40bd6_00000"):
        analysis.get_best_checkpoint("nobody")


def test_without_a_metric_the_best_checkpoint_is_the_newest(tmp_path: Path) -> None:
    analysis = ask(tmp_path, [0.9, 0.1], metric=None)
    trial = analysis.trials[0]
    assert analysis.get_best_checkpoint(trial) == trial.checkpoint


# ------------------------------------------------------------------------------------------------------------- reading


def test_it_shows_itself_as_a_table(tmp_path: Path) -> None:
    analysis = ask(tmp_path, [0.1], [0.5])
    assert repr(analysis).startswith(f"ExperimentAnalysis of 2 trials in {tmp_path / 'pbt_test'}\n")


def test_a_folder_without_an_experiment_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError):
        ExperimentAnalysis(tmp_path)
