"""Loggers: which calls they get, the requests for files that Shoal writes, and when TensorBoard's are wanted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shoal import loggers
from shoal.callbacks import Callback, CallbackReader, Trial, check_callbacks
from shoal.errors import ConfigError
from shoal.loggers import (
    CSVLoggerCallback,
    JsonLoggerCallback,
    LoggerCallback,
    TBXLoggerCallback,
    tensorboard_wanted,
)
from shoal.sinks import LogFiles
from shoal.sinks.tensorboard import TensorBoardFiles
from shoal.tune import logger

from .stories import Story

REQUESTS: list[Callable[[], LoggerCallback]] = [JsonLoggerCallback, CSVLoggerCallback, TBXLoggerCallback]


class Diary(LoggerCallback):
    """Writes down every call."""

    def __init__(self) -> None:
        self.entries: list[tuple[Any, ...]] = []

    def log_trial_start(self, trial: Trial) -> None:
        self.entries.append(("start", trial.index))

    def log_trial_restore(self, trial: Trial) -> None:
        self.entries.append(("restore", trial.index))

    def log_trial_save(self, trial: Trial) -> None:
        self.entries.append(("save", trial.index))

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        self.entries.append(("result", trial.index, result["mean_accuracy"], iteration))

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        self.entries.append(("end", trial.index, failed))


def told(folder: Path, *callbacks: Callback, trials: int = 2) -> tuple[Story, list[str]]:
    """Begin a story whose log files are written, with these callbacks."""
    warnings: list[str] = []
    story = Story(folder, LogFiles(), TensorBoardFiles(), CallbackReader(callbacks, warnings.append))
    story.add_usual(trials)
    return story, warnings


# ------------------------------------------------------------------------------------------------------- own loggers


def test_the_names_are_those_of_ray_tune() -> None:
    assert set(logger.__all__) == {"CSVLoggerCallback", "JsonLoggerCallback", "LoggerCallback", "TBXLoggerCallback"}
    assert all(getattr(logger, name) is getattr(loggers, name) for name in logger.__all__)
    assert all(getattr(logger, name).__doc__ for name in logger.__all__)
    assert all(issubclass(getattr(logger, name), Callback) for name in logger.__all__)


def test_a_logger_is_told_of_a_trials_life(tmp_path: Path) -> None:
    diary = Diary()
    story, warnings = told(tmp_path, diary)
    story.report(1, {"mean_accuracy": 0.9}, save=True)
    story.report(0, {"mean_accuracy": 0.1})
    story.exploit(0, 1)
    story.finish(0)
    story.fail_and_retry(1, ValueError("x"))
    story.fail(1, ValueError("x"))
    story.close()
    steps = [entry[3] for entry in diary.entries if entry[0] == "result"]
    assert [entry[:3] for entry in diary.entries] == [
        ("start", 0),
        ("start", 1),
        ("result", 1, 0.9),
        ("save", 1),
        ("result", 0, 0.1),
        ("start", 0),
        ("restore", 0),
        ("end", 0, False),
        ("start", 1),
        ("end", 1, True),
    ]
    assert steps == sorted(set(steps))
    assert warnings == []


def test_a_logger_that_overrides_nothing_does_nothing(tmp_path: Path) -> None:
    story, warnings = told(tmp_path, LoggerCallback())
    story.report(0, save=True)
    story.report(1)
    story.exploit(1, 0)
    story.finish(0)
    story.fail(1, ValueError("x"))
    story.close()
    assert warnings == []


def test_a_logger_may_override_hooks_too(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Mine(LoggerCallback):
        def on_trial_result(self, iteration, trials, trial, result, **info):  # type: ignore[no-untyped-def]
            seen.append(f"TestLogger for trial {trial}: {result['mean_accuracy']}")

    told(tmp_path, Mine())[0].report(0)
    assert seen == ["TestLogger for trial train_convnet_40bd6_00000: 0.5"]


def test_a_logger_as_people_write_it_for_ray_tune(tmp_path: Path) -> None:
    class FileLogger(LoggerCallback):
        """Keeps a file for each trial, found by the trial itself."""

        def __init__(self, name: str) -> None:
            self._name = name
            self._files: dict[Any, Any] = {}

        def log_trial_start(self, trial: "Trial"):  # type: ignore[no-untyped-def]  # noqa: UP037
            if trial in self._files:
                return
            trial.init_logdir()
            self._files[trial] = Path(trial.logdir, self._name).open("at")  # noqa: SIM115
            json.dump(trial.evaluated_params, self._files[trial])

        def log_trial_result(self, iteration, trial, result):  # type: ignore[no-untyped-def]
            if trial not in self._files:
                self.log_trial_start(trial)
            self._files[trial].write(f" {result['mean_accuracy']}")

        def log_trial_end(self, trial, failed=False):  # type: ignore[no-untyped-def]
            self._files.pop(trial).close()

    story, warnings = told(tmp_path, FileLogger("log.txt"))
    story.report(1, save=True)
    story.report(0)
    story.exploit(0, 1)
    story.report(0, {"mean_accuracy": 0.75})
    for index in (0, 1):
        story.finish(index)
    text = (tmp_path / story.history.trials[story.name(0)].folder / "log.txt").read_text()
    assert text == '{"lr": 0.1, "momentum": 0.9} 0.5 0.75'
    assert warnings == []


def test_a_method_nearly_of_the_right_name_is_told_and_a_helper_is_not() -> None:
    class Misspelled(LoggerCallback):
        def log_trial_results(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None: ...

    class Own(LoggerCallback):
        def log_trial_params(self, trial: Trial) -> None: ...

        def log_trial_results(self, trial: Trial) -> None: ...

        def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
            self.log_trial_results(trial)

    with pytest.warns(
        UserWarning, match=r"'log_trial_results'\. Shoal does not call it; did you mean 'log_trial_resul"
    ):
        CallbackReader([Misspelled()], print)
    CallbackReader([Own()], print)


# ------------------------------------------------------------------------------------ requests for what is there anyway


@pytest.mark.parametrize("make", REQUESTS)
def test_a_request_for_a_file_that_is_written_changes_nothing(
    make: Callable[[], LoggerCallback], tmp_path: Path
) -> None:
    contents: list[dict[str, bytes]] = []
    for name, callbacks in (("without", []), ("with", [make()])):
        story, warnings = told(tmp_path / name, *callbacks)
        story.tell(story.reported(0), story.reported(1))
        story.report(0)
        story.finish(0)
        story.close()
        assert warnings == []
        files = [path for path in story.folder.rglob("*") if path.is_file()]
        contents.append({str(path.relative_to(story.folder)): path.read_bytes() for path in files})
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("make", "file"),
    [
        (JsonLoggerCallback, "result.json"),
        (CSVLoggerCallback, "progress.csv"),
        (TBXLoggerCallback, "events.out.tfevents.*.shoal"),
    ],
)
def test_a_request_complains_once_where_nothing_writes_the_file(
    make: Callable[[], LoggerCallback], file: str, tmp_path: Path
) -> None:
    warnings: list[str] = []
    story = Story(tmp_path, CallbackReader([make()], warnings.append))
    story.add_usual()
    story.report(0)
    story.report(1)
    (warning,) = warnings
    assert f"train_convnet_40bd6_00000 has reported, but there is no {file} in" in warning


def test_what_a_request_is_told_to_leave_out_is_written_all_the_same_so_that_is_said() -> None:
    with pytest.warns(UserWarning, match=r"Filter overrides log_trial_result\. Shoal writes result\.json itself"):

        class Filter(JsonLoggerCallback):
            def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None: ...

    assert check_callbacks([Filter()])


def test_a_logger_may_call_others(tmp_path: Path) -> None:
    class All(LoggerCallback):
        def __init__(self) -> None:
            self.all = [JsonLoggerCallback(), CSVLoggerCallback(), TBXLoggerCallback()]

        def log_trial_start(self, trial: Trial) -> None:
            for each in self.all:
                each.log_trial_start(trial)

        def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
            for each in self.all:
                each.log_trial_result(iteration, trial, result)

    story, warnings = told(tmp_path, All())
    story.report(0)
    assert warnings == []


# ------------------------------------------------------------------------------------------------ TensorBoard, or not


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOAL_TENSORBOARD", raising=False)
    monkeypatch.delenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", raising=False)


@pytest.fixture
def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let neither package be installed."""
    for name in ("tensorboard", "tensorboardX"):
        monkeypatch.setitem(sys.modules, name, None)


def test_event_files_are_written_where_tensorboard_is_installed() -> None:
    assert tensorboard_wanted([])
    assert tensorboard_wanted(None)


@pytest.mark.usefixtures("nobody_looks")
def test_event_files_are_not_written_where_nobody_could_look_at_them(tmp_path: Path) -> None:
    assert not tensorboard_wanted([Callback(), JsonLoggerCallback()])
    assert tensorboard_wanted([TBXLoggerCallback()])


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "tensorboardX"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert not tensorboard_wanted([])


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({"SHOAL_TENSORBOARD": "0"}, False),
        ({"SHOAL_TENSORBOARD": " 1 "}, True),
        ({"SHOAL_TENSORBOARD": ""}, True),
        ({"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}, False),
        ({"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "0"}, True),
        ({"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "SHOAL_TENSORBOARD": "1"}, True),
    ],
)
def test_the_environment_decides(variables: dict[str, str], wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert tensorboard_wanted([]) is wanted
    assert tensorboard_wanted([TBXLoggerCallback()])


@pytest.mark.usefixtures("nobody_looks")
def test_the_environment_can_ask_for_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_TENSORBOARD", "1")
    assert tensorboard_wanted([])


def test_another_choice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_TENSORBOARD", "yes")
    with pytest.raises(ConfigError, match=r"SHOAL_TENSORBOARD must be 0 or 1, but is 'yes'"):
        tensorboard_wanted([TBXLoggerCallback()])
