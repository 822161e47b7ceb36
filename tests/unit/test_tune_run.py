"""``tune.run``: what it takes, what it makes of it, what it refuses, and what goes with it."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shoal import run as module
from shoal.analysis import ExperimentAnalysis
from shoal.core.events import StopAsked
from shoal.errors import ConfigError, ShoalError, TrialFailed, TuneError
from shoal.journal.sqlite import SQLiteJournal
from shoal.reporters import CLIReporter, JupyterNotebookReporter, ProgressReporter
from shoal.run import create_scheduler, register_trainable, run
from shoal.schedulers import FIFOScheduler, PopulationBasedTraining
from shoal.tune import CheckpointConfig, grid_search, report, uniform
from shoal.tuner import Tuner

wrong: Any = run
"""The same, for what a type checker refuses."""


class Asked(Exception):
    """Holds what a Tuner was made with."""

    def __init__(self, made: dict[str, Any]) -> None:
        super().__init__(made)
        self.made = made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a ``tune.run`` that only says what it would ask a Tuner for."""

    class Recorder(Tuner):
        def __init__(self, trainable: Any, **settings: Any) -> None:
            raise Asked({"trainable": trainable, **settings})

    monkeypatch.setattr(module, "Tuner", Recorder)

    def call(*arguments: Any, **settings: Any) -> dict[str, Any]:
        with pytest.raises(Asked) as found:
            wrong(*(arguments or (train,)), **settings)
        return found.value.made

    return call


def train(config: dict[str, Any]) -> None:
    for step in range(1, 4):
        if config.get("fails"):
            raise ValueError(f"no luck with lr {config['lr']}")
        report({"score": config["lr"] * step})


def quick(tmp_path: Path, **settings: Any) -> ExperimentAnalysis:
    """Run an experiment in this process."""
    where: dict[str, Any] = {"storage_path": tmp_path, "verbose": 0, "engine": "inline", **settings}
    return run(train, **where)


# ------------------------------------------------------------------------------------------------------------ running


def test_it_trains_and_returns_an_analysis(tmp_path: Path) -> None:
    analysis = quick(tmp_path, name="exp", metric="score", mode="max", config={"lr": grid_search([1.0, 3.0, 2.0])})
    assert isinstance(analysis, ExperimentAnalysis)
    assert analysis.experiment_path == str(tmp_path / "exp")
    assert analysis.best_config == {"lr": 3.0}
    assert analysis.best_result["score"] == 9.0
    assert [trial.last_result["score"] for trial in analysis.trials] == [3.0, 9.0, 6.0]


def test_the_metric_of_the_scheduler_is_the_default_of_the_analysis(tmp_path: Path) -> None:
    pbt = PopulationBasedTraining(
        "training_iteration", "score", "min", perturbation_interval=9, hyperparam_mutations={"lr": uniform(0, 1)}
    )
    analysis = quick(tmp_path, config={"lr": grid_search([0.5, 0.25])}, scheduler=pbt)
    assert analysis.best_config == {"lr": 0.25}


def test_failed_trials_are_an_error_after_all_have_ended(tmp_path: Path) -> None:
    space = {"lr": grid_search([1.0, 2.0, 3.0]), "fails": grid_search([True, False])}
    with pytest.raises(TuneError) as caught:
        quick(tmp_path, name="exp", config=space)
    text = str(caught.value)
    assert text.startswith("3 of 6 trials failed:\n")
    assert text.count("ValueError: no luck with lr") == 3
    assert "ExperimentAnalysis" in text
    assert "raise_on_failed_trial=False" in text
    assert isinstance(caught.value, ShoalError)
    assert isinstance(caught.value.__cause__, TrialFailed)
    analysis = ExperimentAnalysis(tmp_path / "exp")
    assert [trial.status for trial in analysis.trials].count("TERMINATED") == 3


def test_a_long_list_of_failed_trials_is_cut(tmp_path: Path) -> None:
    with pytest.raises(TuneError) as caught:
        quick(tmp_path, config={"lr": 1.0, "fails": True}, num_samples=12)
    assert str(caught.value).count("no luck") == 10
    assert "\n  and 2 more\n" in str(caught.value)


def test_failed_trials_can_be_left_to_the_analysis(tmp_path: Path) -> None:
    analysis = quick(tmp_path, config={"lr": 1.0, "fails": True}, raise_on_failed_trial=False)
    assert analysis.trials[0].status == "ERROR"
    assert analysis.trials[0].error == "ValueError: no luck with lr 1.0"


def test_fail_fast_raise_raises_the_trials_own_error(tmp_path: Path) -> None:
    with pytest.raises(TrialFailed, match="no luck"):
        quick(tmp_path, config={"lr": 1.0, "fails": True}, fail_fast="raise")


# ------------------------------------------------------------------------------------------------ what it asks a Tuner


def test_arguments_reach_the_classes_behind_the_tuner(asked: Callable[..., Any]) -> None:
    scheduler = FIFOScheduler()
    made = asked(
        train,
        name="exp",
        metric="score",
        mode="min",
        stop={"training_iteration": 3},
        time_budget_s=datetime.timedelta(minutes=1),
        config={"lr": 1.0},
        num_samples=5,
        storage_path="/somewhere",
        scheduler=scheduler,
        verbose=2,
        log_to_file=False,
        max_failures=3,
        reuse_actors=True,
        callbacks=[],
        max_concurrent_trials=2,
        seed=7,
        engine="inline",
        max_residents=9,
    )
    assert made["trainable"] is train
    assert made["param_space"] == {"lr": 1.0}
    tune, where = made["tune_config"], made["run_config"]
    assert (tune.metric, tune.mode, tune.num_samples, tune.scheduler) == ("score", "min", 5, scheduler)
    assert (tune.time_budget_s, tune.seed, tune.engine, tune.max_residents) == (60.0, 7, "inline", 9)
    assert (tune.max_concurrent_trials, tune.reuse_actors) == (2, True)
    assert (where.name, where.storage_path, where.stop) == ("exp", "/somewhere", {"training_iteration": 3})
    assert (where.verbose, where.log_to_file, where.callbacks) == (2, False, [])
    assert where.failure_config.max_failures == 3


def test_what_is_not_given_is_the_default(asked: Callable[..., Any]) -> None:
    made = asked()
    assert made["param_space"] is None
    assert (made["run_config"].verbose, made["run_config"].log_to_file) == (1, True)
    assert made["run_config"].checkpoint_config is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"keep_checkpoints_num": 3}, CheckpointConfig(num_to_keep=3)),
        ({"checkpoint_score_attr": "acc"}, CheckpointConfig(checkpoint_score_attribute="acc")),
        ({"checkpoint_score_attr": "max-acc"}, CheckpointConfig(checkpoint_score_attribute="acc")),
        (
            {"checkpoint_score_attr": "min-val_loss", "keep_checkpoints_num": 1},
            CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="val_loss", checkpoint_score_order="min"),
        ),
        (
            {"checkpoint_freq": 5, "checkpoint_at_end": True},
            CheckpointConfig(checkpoint_frequency=5, checkpoint_at_end=True),
        ),
        ({"checkpoint_config": CheckpointConfig(num_to_keep=2)}, CheckpointConfig(num_to_keep=2)),
        ({"checkpoint_freq": 0, "checkpoint_at_end": False}, None),
    ],
)
def test_older_spellings_of_the_checkpoint_config(
    asked: Callable[..., Any], given: dict[str, Any], expected: CheckpointConfig | None
) -> None:
    assert asked(**given)["run_config"].checkpoint_config == expected


def test_other_older_spellings(asked: Callable[..., Any]) -> None:
    assert asked(local_dir="/tmp/x")["run_config"].storage_path == "/tmp/x"
    assert asked(max_concurrent_trials=0)["tune_config"].max_concurrent_trials is None
    assert asked(verbose=False)["run_config"].verbose == 0
    assert asked(verbose=True)["run_config"].verbose == 1
    assert isinstance(asked(scheduler="fifo")["tune_config"].scheduler, FIFOScheduler)


def test_resources_per_trial_are_those_of_the_trainable(asked: Callable[..., Any]) -> None:
    from shoal.resources import Request, resources_of

    assert resources_of(asked(resources_per_trial={"cpu": 2, "gpu": 0.5})["trainable"]) == Request(2.0, 0.5)
    assert resources_of(asked()["trainable"]) == Request(1.0, 0.0)


def test_rays_defaults_of_what_is_not_there_are_accepted(asked: Callable[..., Any]) -> None:
    asked(
        search_alg=None,
        storage_filesystem=None,
        sync_config=None,
        trial_name_creator=None,
        trial_dirname_creator=None,
        export_formats=[],
        restore=None,
        resume=False,
        resume_config=None,
        chdir_to_trial_dir="DEPRECATED",
        checkpoint_keep_all_ranks=False,
        checkpoint_upload_from_workers=False,
        progress_reporter=None,
        reuse_actors=False,
        checkpoint_freq=0,
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"search_alg": object()}, r"Shoal has no search_alg \(it is <object.*at random and by grid"),
        ({"sync_config": object()}, "no sync_config.*kept up to date by itself"),
        ({"trial_dirname_creator": str}, "no trial_dirname_creator.*<trainable>_<trial_id>"),
        ({"restore": "/a/checkpoint"}, "no restore.*'/a/checkpoint'"),
        ({"checkpoint_keep_all_ranks": True}, "no checkpoint_keep_all_ranks"),
        ({"sampels": 3}, "no argument 'sampels'.*It takes: name, metric"),
        ({"num_sample": 3}, r"no argument 'num_sample'\. Did you mean 'num_samples'"),
        ({"stop": 3}, "stop must be"),
        ({"num_samples": -1}, "num_samples"),
        ({"mode": "maximum"}, "mode"),
        ({"storage_path": "/a", "local_dir": "/b"}, "storage_path is '/a' and local_dir is '/b'"),
        ({"storage_path": "s3:/bucket"}, "storage_path.*lacks a slash"),
        (
            {"keep_checkpoints_num": 1, "checkpoint_config": CheckpointConfig()},
            "older arguments for num_to_keep exclude each other",
        ),
        ({"keep_checkpoints_num": 0}, "num_to_keep"),
        ({"fail_fast": True, "max_failures": 2}, "exclude each other"),
        ({"log_to_file": "out.txt"}, "log_to_file"),
        ({"resources_per_trial": {"cups": 1}}, "no resource 'cups'"),
        ({"progress_reporter": "cli"}, r"progress_reporter must be None or a reporter such as tune\.CLIReporter"),
        ({"scheduler": "asha"}, "no scheduler 'asha'.*'fifo', 'pbt'"),
        ({"resume": "REMOTE", "name": "a"}, r"resume must be True, False, 'LOCAL' or 'AUTO'.*'REMOTE'"),
        ({"resume": "AUTO+ERROR", "name": "a"}, r"\+ERRORED,.*'AUTO\+ERROR'"),
        ({"resume": True}, "resume needs the name"),
        ({"resume": True, "name": "gone", "storage_path": "/nowhere"}, "no experiment to resume in /nowhere/gone"),
    ],
)
def test_what_is_not_there_is_refused_by_name(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        wrong(train, **given)


# --------------------------------------------------------------------------------------------------- trainables by name


def test_a_registered_trainable_is_found_by_its_name(asked: Callable[..., Any]) -> None:
    register_trainable("my_trainable", train)
    assert asked("my_trainable")["trainable"] is train


def test_an_algorithm_of_rllib_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no trainable 'PPO'.*'PPO', are not part of Shoal"):
        run("PPO")
    register_trainable("my_trainable", train)
    with pytest.raises(ConfigError, match=r"Did you mean 'my_trainable'\? Registered: 'my_trainable'"):
        run("my_trainabel")


def test_only_what_can_be_called_is_registered() -> None:
    with pytest.raises(ConfigError, match="'three' must be a function or a class, but is 3"):
        register_trainable("three", 3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="name must be a text"):
        register_trainable(train, train)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------- schedulers


def test_schedulers_by_name() -> None:
    pbt = create_scheduler("pbt", perturbation_interval=5, hyperparam_mutations={"lr": uniform(0, 1)})
    assert isinstance(pbt, PopulationBasedTraining)
    assert pbt.perturbation_interval == 5.0
    assert isinstance(create_scheduler("FIFO"), FIFOScheduler)


def test_a_misspelled_setting_of_a_scheduler_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"no argument 'perturbation_intervall'\. Did you mean"):
        create_scheduler("pbt", perturbation_intervall=5)
    with pytest.raises(ConfigError, match="Shoal has no scheduler 'hyperband'"):
        create_scheduler("hyperband")
    with pytest.raises(ConfigError, match="no scheduler 3"):
        create_scheduler(3)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- resuming


def test_a_run_can_be_resumed_and_extended(tmp_path: Path) -> None:
    def long(config: dict[str, Any]) -> None:
        for step in range(1, 10):
            report({"score": config["lr"] * step})

    settings: dict[str, Any] = {"name": "exp", "storage_path": tmp_path, "verbose": 0, "engine": "inline"}
    settings.update(config={"lr": grid_search([1.0, 2.0])}, metric="score", mode="max")
    first = run(long, stop={"training_iteration": 2}, **settings)
    with pytest.warns(UserWarning, match="2 of 2 trials .* have no checkpoint and begin from scratch") as warned:
        again = run(long, stop={"training_iteration": 4}, resume="AUTO", **settings)
    assert [one.filename for one in warned] == [__file__]
    assert [trial.trial_id for trial in again.trials] == [trial.trial_id for trial in first.trials]
    assert [trial.last_result["training_iteration"] for trial in again.trials] == [4, 4]
    assert again.best_config == {"lr": 2.0}


class Restored(Exception):
    pass


@pytest.fixture
def restoring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Make an experiment, and return what ``Tuner.restore`` is called with."""
    quick(tmp_path, name="exp", config={"lr": 1.0})
    calls: dict[str, Any] = {}

    def restore(path: Path, trainable: Any, **settings: Any) -> Tuner:
        calls.update(path=os.fspath(path), trainable=trainable, **settings)
        raise Restored

    monkeypatch.setattr(Tuner, "restore", restore)
    return calls


@pytest.mark.parametrize(
    ("resume", "unfinished", "errored", "restart"),
    [
        (True, True, False, False),
        ("LOCAL", True, False, False),
        ("auto", True, False, False),
        ("AUTO+ERRORED", True, True, False),
        ("LOCAL+RESTART_ERRORED", True, False, True),
        ("AUTO+ERRORED_ONLY", False, True, False),
        ("ERRORED_ONLY", False, True, False),
        ("AUTO+RESTART_ERRORED_ONLY", False, False, True),
    ],
)
def test_resume_goes_on_with_the_experiment(
    restoring: dict[str, Any], tmp_path: Path, resume: Any, unfinished: bool, errored: bool, restart: bool
) -> None:
    with pytest.raises(Restored):
        quick(tmp_path, name="exp", resume=resume, stop={"training_iteration": 9})
    assert restoring["path"] == os.fspath(tmp_path / "exp")
    assert restoring["trainable"] is train
    assert restoring["run_config"].stop == {"training_iteration": 9}
    assert restoring["tune_config"].num_samples == 1
    assert restoring["param_space"] is None
    assert (restoring["resume_unfinished"], restoring["resume_errored"]) == (unfinished, errored)
    assert restoring["restart_errored"] == restart


def test_resume_auto_begins_anew_where_there_is_nothing(restoring: dict[str, Any], tmp_path: Path) -> None:
    assert quick(tmp_path, name="other", config={"lr": 1.0}, resume="AUTO").trials[0].last_result["score"] == 3.0
    assert restoring == {}


def test_resume_looks_where_results_go_by_default(
    restoring: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_DIR", str(tmp_path))
    with pytest.raises(Restored):
        run(train, name="exp", resume=True)
    assert restoring["path"] == os.fspath(tmp_path / "exp")


# ------------------------------------------------------------------------------------------------------------ reporters


def test_reporters_are_accepted_without_effect(tmp_path: Path) -> None:
    reporter = CLIReporter(metric_columns=["score"], parameter_columns={"lr": "rate"}, max_report_frequency=30)
    reporter.add_metric_column("time_total_s", "s")
    reporter.add_parameter_column("momentum")
    assert reporter.metric_columns == {"score": "score", "time_total_s": "s"}
    assert reporter.parameter_columns == {"lr": "rate", "momentum": "momentum"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (reporter, CLIReporter(["score"]), JupyterNotebookReporter(True, metric_columns=["score"])):
            quick(tmp_path, config={"lr": 1.0}, progress_reporter=given)
    assert reporter.should_report([]) is False


def test_a_misspelled_column_argument_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"no argument 'metric_column'\. Did you mean 'metric_columns'"):
        CLIReporter(metric_column=["score"])  # type: ignore[call-arg]


def test_a_reporter_of_ones_own_is_told_that_it_is_never_called(tmp_path: Path) -> None:
    class Mine(ProgressReporter):
        def should_report(self, trials: list[Any], done: bool = False) -> bool:
            return True

    class Later(CLIReporter):
        def report(self, trials: list[Any], done: bool, *sys_info: Any) -> None:
            raise AssertionError

    for reporter, method in ((Mine(), "Mine.should_report"), (Later(), "Later.report")):
        with pytest.warns(UserWarning, match=re.escape(f"{method} is never called") + ".*tune.Callback"):
            quick(tmp_path, config={"lr": 1.0}, progress_reporter=reporter)


def test_a_script_that_is_started_again_does_not_spend_the_same_budget_again(tmp_path: Path) -> None:
    def endless(config: dict[str, Any]) -> None:
        step = 0
        while True:
            step += 1
            report({"score": step})

    def ends(budget: float) -> int:
        """Start the script, and return how often the experiment has ended by a budget."""
        run(
            endless, name="exp", storage_path=tmp_path, verbose=0, engine="inline", metric="score", mode="max",
            time_budget_s=budget, resume="AUTO",
        )  # fmt: skip
        with contextlib.closing(SQLiteJournal.open_for_reading(tmp_path / "exp")) as journal:
            return [record.item.met for record in journal.read() if isinstance(record.item, StopAsked)].count(
                "time_budget_s"
            )

    assert ends(0.1) == 1
    assert ends(0.1) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it begins from scratch, if it had begun at all
        assert ends(0.2) == 2
