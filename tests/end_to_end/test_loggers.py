"""Loggers and TensorBoard's files in real experiments, on real processes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from shoal import tune
from shoal.tune.logger import CSVLoggerCallback, JsonLoggerCallback, LoggerCallback, TBXLoggerCallback

from ..helpers import climb, fit, pbt, report_state, story


class Diary(LoggerCallback):
    """Notes what it is told, with what it sees in the trial."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Any]] = {name: [] for name in ("start", "restore", "save", "result", "end")}

    def log_trial_start(self, trial: Any) -> None:
        self.calls["start"].append(trial.trial_id)

    def log_trial_restore(self, trial: Any) -> None:
        self.calls["restore"].append((trial.trial_id, trial.config["lr"]))

    def log_trial_save(self, trial: Any) -> None:
        self.calls["save"].append((trial.trial_id, Path(trial.checkpoint.path).name))

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        self.calls["result"].append((trial.trial_id, result["training_iteration"], result["score"]))

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        self.calls["end"].append((trial.trial_id, trial.status, failed))


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOAL_TENSORBOARD", raising=False)
    monkeypatch.delenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", raising=False)


def event_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("events.out.tfevents.*"))


def lines(folder: Path) -> dict[str, dict[int, float]]:
    """Return what TensorBoard draws of a trial; every step must be there once."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    accumulator: Any = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    found: dict[str, dict[int, float]] = {}
    for tag in accumulator.Tags()["scalars"]:
        points = [(event.step, event.value) for event in accumulator.Scalars(tag)]
        found[tag] = dict(points)
        assert len(found[tag]) == len(points)
    return found


def told(folder: Path, of_config: bool, key: str) -> dict[int, Any]:
    """Return a value by step as ``result.json`` has it, where a step counts that was not gone back behind."""
    expected: dict[int, Any] = {}
    for text in (folder / "result.json").read_text().splitlines():
        result = json.loads(text)
        step = result["training_iteration"]
        expected = {earlier: value for earlier, value in expected.items() if earlier < step}
        expected[step] = pytest.approx((result["config"] if of_config else result)[key], rel=1e-6)
    return expected


def test_loggers_and_tensorboard_tell_the_same_story_as_the_results(tmp_path: Path) -> None:
    diary = Diary()
    callbacks = [diary, JsonLoggerCallback(), CSVLoggerCallback(), TBXLoggerCallback()]
    grid = fit(climb, tmp_path, scheduler=pbt(synch=True), run={"callbacks": callbacks})
    exploits = story(grid).exploits
    assert len(exploits) >= 2

    calls = diary.calls
    assert len(calls["start"]) == 4 + len(exploits)
    assert calls["restore"] == [(exploit.trial_id, exploit.new_config["lr"]) for exploit in exploits]
    assert len(calls["result"]) == story(grid).results
    assert len(calls["save"]) == story(grid).checkpoints
    assert sorted(calls["end"]) == [(each.metrics["trial_id"], "TERMINATED", False) for each in grid]

    for each in grid:
        folder = Path(each.path)
        assert len(event_files(folder)) == 1
        drawn = lines(folder)
        assert set(drawn) == {"score", "step", "time_this_iter_s", "time_total_s", "config/lr"}
        assert drawn["score"] == told(folder, False, "score")
        assert drawn["config/lr"] == told(folder, True, "lr")
        assert max(drawn["score"]) == each.metrics["training_iteration"] == 20
    moved = Path(next(each.path for each in grid if each.metrics["trial_id"] == exploits[0].trial_id))
    assert len(set(lines(moved)["config/lr"].values())) >= 2


def test_what_is_repeated_after_a_failure_is_drawn_once(tmp_path: Path) -> None:
    def stumble(config: dict[str, Any]) -> None:
        """Fail once, after iteration 4, without a checkpoint."""
        flag = Path(config["folder"], "failed")
        again = flag.exists()
        for step in range(1, 7):
            report_state(step, 0.0, {"score": step + (0.5 if again else 0.0)}, save=False)
            if step == 4 and not again:
                flag.touch()
                raise RuntimeError("stumbled")

    diary = Diary()
    grid = fit(
        stumble,
        tmp_path,
        space={"folder": str(tmp_path), "lr": 0.5},
        num_samples=1,
        run={"failure_config": tune.FailureConfig(max_failures=1), "callbacks": [diary]},
    )
    assert [score for _, _, score in diary.calls["result"]] == [1, 2, 3, 4, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5]
    assert lines(Path(grid[0].path))["score"] == {step: step + 0.5 for step in range(1, 7)}


def test_an_experiment_that_goes_on_goes_on_in_the_same_files(tmp_path: Path) -> None:
    callbacks = [JsonLoggerCallback(), TBXLoggerCallback()]
    grid = fit(
        climb, tmp_path, scheduler=pbt(synch=True), stop={"training_iteration": 10}, run={"callbacks": callbacks}
    )
    files = event_files(tmp_path)
    # As a driver leaves it that is killed while it writes.
    files[0].write_bytes(files[0].read_bytes()[:-100])
    files[1].unlink()
    more = tune.RunConfig(stop={"training_iteration": 20})
    grid = tune.Tuner.restore(grid.experiment_path, climb, run_config=more).fit()
    assert event_files(tmp_path) == files
    for each in grid:
        drawn = lines(Path(each.path))
        assert drawn["score"] == told(Path(each.path), False, "score")
        assert drawn["config/lr"] == told(Path(each.path), True, "lr")
        assert max(drawn["score"]) == 20


def test_a_failed_trial_ends_its_log(tmp_path: Path) -> None:
    def fail(config: dict[str, Any]) -> None:
        tune.report({"score": 1.0})
        raise ValueError("no such layer")

    diary = Diary()
    grid = fit(fail, tmp_path, num_samples=1, run={"callbacks": [diary]})
    assert diary.calls["end"] == [(grid[0].metrics["trial_id"], "ERROR", True)]


@pytest.mark.parametrize("variable", ["SHOAL_TENSORBOARD=0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS=1"])
def test_event_files_can_be_switched_off_and_asked_for(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, value = variable.partition("=")
    monkeypatch.setenv(name, value)
    fit(climb, tmp_path / "off", num_samples=1, stop={"training_iteration": 2})
    assert event_files(tmp_path / "off") == []
    assert list((tmp_path / "off").rglob("result.json"))
    fit(climb, tmp_path / "on", num_samples=1, stop={"training_iteration": 2}, run={"callbacks": [TBXLoggerCallback()]})
    assert len(event_files(tmp_path / "on")) == 1


def test_a_wrong_choice_is_an_error_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_TENSORBOARD", "yes")
    with pytest.raises(ValueError, match="SHOAL_TENSORBOARD must be 0 or 1"):
        fit(climb, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_logger_that_raises_spoils_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Broken(LoggerCallback):
        def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
            raise RuntimeError("my own bug")

    diary = Diary()
    grid = fit(climb, tmp_path, scheduler=pbt(), run={"callbacks": [Broken(), diary]})
    assert [each.metrics["training_iteration"] for each in grid] == [20] * 4
    assert len(diary.calls["result"]) == story(grid).results
    assert capfd.readouterr().out.count("RuntimeError: my own bug") == 1
    assert len(event_files(tmp_path)) == 4
