"""The user's callbacks: which hook is called when, and what happens to one that raises."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from tests.helpers import climb

from shoal import tune
from shoal.callbacks import Callback, CallbackReader, Trial, check_callbacks
from shoal.core.commands import CheckpointRecord, Reconfigure
from shoal.errors import ConfigError, TrialFailed
from shoal.schedulers.replay import ReplayScheduler
from shoal.sinks import LogFiles

from .stories import Story, make_info


class Diary(Callback):
    """Writes down every call."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, dict[str, Any]]] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.entries]

    def of(self, name: str) -> list[dict[str, Any]]:
        return [arguments for entry, arguments in self.entries if entry == name]


def _note(name: str) -> Any:
    def hook(self: Diary, **arguments: Any) -> None:
        self.entries.append((name, arguments))

    return hook


HOOKS = [name for name in vars(Callback) if name == "setup" or name.startswith("on_")]
for _name in HOOKS:
    setattr(Diary, _name, _note(_name))


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def story(tmp_path: Path, diary: Diary, warnings: list[str]) -> Story:
    return Story(tmp_path, CallbackReader([diary], warnings.append))


def ready(story: Story) -> Story:
    """Add trials whose checkpoints exist."""
    story.add_usual()
    for trial in story.history.in_order():
        for number in range(3):
            (story.folder / trial.folder / f"checkpoint_{number:06d}").mkdir(parents=True)
    return story


def reconfigured(story: Story, index: int, **changed: Any) -> Reconfigure:
    """Return a change of a trial's config at its newest checkpoint, as a replay makes it; not told yet."""
    trial = story.history.trials[story.name(index)]
    saved = story.saved[trial.trial_id]
    number = len(trial.changes) + 1
    new = {**trial.config, **changed}
    return Reconfigure(trial.trial_id, trial.launches, number, saved.iteration, saved, trial.config, new)


def quiet(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith("on_step")]


def test_the_hooks_are_those_of_ray_tune_and_three_more() -> None:
    assert set(HOOKS) == {
        "setup",
        "on_step_begin",
        "on_step_end",
        "on_trial_start",
        "on_trial_restore",
        "on_trial_save",
        "on_trial_result",
        "on_trial_complete",
        "on_trial_recover",
        "on_trial_error",
        "on_checkpoint",
        "on_exploit",
        "on_explore",
        "on_reconfigure",
        "on_experiment_end",
    }


def test_every_hook_of_the_base_class_does_nothing(tmp_path: Path, warnings: list[str]) -> None:
    story = ready(Story(tmp_path, CallbackReader([Callback()], warnings.append)))
    story.report(1, save=True)
    story.report(0)
    story.exploit(0, 1)
    story.tell(reconfigured(story, 1, lr=0.5))
    story.fail(2, ValueError())
    story.close()
    assert warnings == []


def test_setup_comes_first_with_the_facts_about_the_experiment(story: Story, diary: Diary) -> None:
    story.add_usual()
    assert diary.names[0] == "setup"
    assert diary.of("setup") == [
        {
            "stop": {"mean_accuracy": 0.96, "training_iteration": 50},
            "num_samples": 4,
            "total_num_samples": 4,
            "name": "pbt_test",
            "metric": "mean_accuracy",
            "mode": "max",
            "experiment_path": str(story.folder),
        }
    ]


def test_the_life_of_a_trial(story: Story, diary: Diary) -> None:
    ready(story)
    assert quiet(diary.names) == ["setup", *["on_trial_start"] * 4]
    diary.entries.clear()
    story.report(0)
    story.report(0, save=True)
    story.park(0)
    story.go_on(0)
    story.finish(0)
    story.close()
    assert quiet(diary.names) == [
        "on_trial_result",
        "on_trial_result",
        "on_trial_save",
        "on_checkpoint",
        "on_trial_complete",
        "on_experiment_end",
    ]


def test_hooks_about_a_trial_come_between_the_begin_and_the_end_of_a_step(story: Story, diary: Diary) -> None:
    ready(story)
    diary.entries.clear()
    story.tell(story.reported(0), story.reported(1))
    assert diary.names == ["on_step_begin", "on_trial_result", "on_trial_result", "on_step_end"]
    assert len({arguments["iteration"] for _, arguments in diary.entries}) == 1
    story.report(0)
    assert diary.of("on_trial_result")[2]["iteration"] == diary.of("on_trial_result")[0]["iteration"] + 1


def test_a_result_is_the_whole_row(story: Story, diary: Diary) -> None:
    ready(story)
    story.report(0, {"mean_accuracy": 0.5, "val": {"loss": 2}})
    (arguments,) = diary.of("on_trial_result")
    result, trial = arguments["result"], arguments["trial"]
    assert result["mean_accuracy"] == 0.5
    assert result["val"] == {"loss": 2}
    assert result["training_iteration"] == 1
    assert result["config"]["lr"] == 0.1
    assert trial.trial_id == result["trial_id"] == "40bd6_00000"
    assert [each.index for each in arguments["trials"]] == [0, 1, 2, 3]


def test_a_trial_is_a_live_and_read_only_view(story: Story, diary: Diary) -> None:
    ready(story)
    trial: Trial = diary.of("on_trial_start")[0]["trial"]
    assert str(trial) == "train_convnet_40bd6_00000"
    assert (trial.status, trial.iteration, trial.last_result, trial.error) == ("RUNNING", 0, {}, None)
    story.report(0)
    assert trial.last_result["mean_accuracy"] == 0.5
    assert trial.path == str(story.folder / story.history.trials[story.name(0)].folder)
    story.fail(0, ValueError("x"))
    assert (trial.status, trial.iteration, trial.error) == ("ERROR", 1, "ValueError: x")
    with pytest.raises(AttributeError):
        trial.status = "RUNNING"  # type: ignore[misc]
    assert repr(trial) == "Trial(train_convnet_40bd6_00000, ERROR, iteration 1)"


def test_a_trial_has_what_loggers_for_ray_tune_read(story: Story, diary: Diary) -> None:
    story.add_usual()
    trial: Trial = diary.of("on_trial_start")[0]["trial"]
    folder = story.folder / story.history.trials[story.name(0)].folder
    assert trial.local_path == trial.logdir == trial.path == str(folder)
    assert trial.trainable_name == "train_convnet"
    assert trial.experiment_tag == "0_lr=0.1,momentum=0.9"
    assert trial.experiment_dir_name == story.folder.name
    assert trial.evaluated_params == {"lr": 0.1, "momentum": 0.9}
    assert not trial.is_finished()
    assert trial.get_error() is None
    trial.init_logdir()
    trial.init_local_path()
    assert folder.is_dir()


def test_what_was_drawn_at_the_beginning_stays_and_is_flat(tmp_path: Path, diary: Diary) -> None:
    story = Story(tmp_path, CallbackReader([diary], print), info=make_info(parameters=["opt/lr", "layers/0"]))
    for _ in range(2):
        story.add({"opt": {"lr": 0.5, "eps": 0.1}, "layers": [64, 32]})
        story.launch(len(story.history.trials) - 1)
    story.report(1, save=True)
    story.report(0)
    story.exploit(0, 1, opt={"lr": 0.25})
    trial = diary.of("on_explore")[0]["trial"]
    assert trial.evaluated_params == {"opt/lr": 0.5, "layers/0": 64}
    assert trial.config["opt"] == {"lr": 0.25}


def test_a_trial_knows_its_newest_checkpoint(story: Story, diary: Diary) -> None:
    ready(story)
    trial: Trial = diary.of("on_trial_start")[0]["trial"]
    assert trial.checkpoint is None
    for _ in range(2):
        story.report(0, save=True)
    assert trial.checkpoint is not None
    assert Path(trial.checkpoint.path) == Path(trial.path, "checkpoint_000001")
    story.delete_checkpoint(0, 1)
    assert trial.checkpoint is not None
    assert Path(trial.checkpoint.path).name == "checkpoint_000000"
    Path(trial.checkpoint.path).rmdir()
    assert trial.checkpoint is None


def test_a_trial_that_failed_knows_why(tmp_path: Path, diary: Diary) -> None:
    story = ready(Story(tmp_path, LogFiles(), CallbackReader([diary], print)))
    trial: Trial = diary.of("on_trial_start")[0]["trial"]
    story.fail_and_retry(0, ValueError("x"))
    assert trial.get_error() is None
    assert trial.error_file == str(Path(trial.path, "error.txt"))
    story.fail(0, ValueError("no such layer"))
    error = trial.get_error()
    assert isinstance(error, TrialFailed)
    assert "Traceback" in str(error)
    assert "ValueError: no such layer" in str(error)
    assert trial.is_finished()
    assert diary.of("on_trial_start")[1]["trial"].error_file is None


def test_a_trial_is_the_same_object_in_every_call(story: Story, diary: Diary) -> None:
    ready(story)
    story.report(0, save=True)
    trials = [arguments["trial"] for _, arguments in diary.entries if "trial" in arguments]
    assert len({trial for trial in trials if trial.index == 0}) == 1
    assert len(set(diary.of("on_trial_result")[0]["trials"])) == 4


def test_a_callback_cannot_change_the_experiment(story: Story, diary: Diary) -> None:
    ready(story)
    story.report(1, save=True)
    result = diary.of("on_trial_result")[0]
    result["result"]["config"]["lr"] = "changed"
    result["trial"].config["lr"] = "changed"
    result["trial"].evaluated_params["lr"] = "changed"
    result["trials"].clear()
    story.report(0)
    story.exploit(0, 1)
    diary.of("on_explore")[0]["new_config"]["lr"] = "changed"
    assert [trial.config["lr"] for trial in story.history.in_order()] == [0.2, 0.2, 0.3, 0.4]
    assert len(diary.of("on_exploit")[0]["trials"]) == 4


def test_an_exploit_names_the_donor_its_checkpoint_and_the_configs(story: Story, diary: Diary) -> None:
    ready(story)
    story.report(1, save=True)
    story.report(0)
    diary.entries.clear()
    story.exploit(0, 1, lr=0.7)
    assert quiet(diary.names) == ["on_exploit", "on_explore", "on_trial_start", "on_trial_restore"]
    (exploit,), (explore,) = diary.of("on_exploit"), diary.of("on_explore")
    assert exploit["trial"].index == 0
    assert exploit["donor"].index == 1
    assert exploit["checkpoint_iteration"] == 1
    assert exploit["checkpoint"].path == str(
        story.folder / story.history.trials[story.name(1)].folder / "checkpoint_000000"
    )
    assert [explore[name]["lr"] for name in ("donor_config", "old_config", "new_config")] == [0.2, 0.1, 0.7]


def test_a_replays_change_names_the_configs_and_comes_after_the_result(story: Story, diary: Diary) -> None:
    ready(story)
    story.report(0, save=True)
    diary.entries.clear()
    report = story.reported(0)
    story.tell(report, reconfigured(story, 0, lr=0.7))
    story.launch(0, 1, story.saved[story.name(0)])
    assert quiet(diary.names) == ["on_trial_result", "on_reconfigure", "on_trial_start", "on_trial_restore"]
    assert diary.names[:4] == ["on_step_begin", "on_trial_result", "on_reconfigure", "on_step_end"]
    (change,) = diary.of("on_reconfigure")
    assert set(change) == {"iteration", "trials", "trial", "old_config", "new_config"}
    assert (change["trial"].index, change["iteration"]) == (0, diary.of("on_trial_result")[0]["iteration"])
    assert (change["old_config"]["lr"], change["new_config"]["lr"]) == (0.1, 0.7)
    change["new_config"]["lr"] = "changed"
    assert change["trial"].config["lr"] == 0.7


def test_a_replay_tells_of_its_changes_and_its_files_have_them(tmp_path: Path, diary: Diary) -> None:
    run = tune.RunConfig("exp", tmp_path, callbacks=[diary], verbose=0, stop={"training_iteration": 4})
    config = tune.TuneConfig(
        scheduler=ReplayScheduler({"lr": 1.0, "every": 1}, [(2, {"lr": 5.0, "every": 1})]), engine="inline"
    )
    (result,) = tune.Tuner(climb, tune_config=config, run_config=run).fit()
    (change,) = diary.of("on_reconfigure")
    assert (change["old_config"]["lr"], change["new_config"]["lr"]) == (1.0, 5.0)
    names = quiet(diary.names)
    at = names.index("on_reconfigure")
    assert names[:at].count("on_trial_result") == 2
    assert names[at + 1 : at + 3] == ["on_trial_start", "on_trial_restore"]
    folder = Path(result.path)
    lines = [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]
    assert [line["config"]["lr"] for line in lines] == [1.0, 1.0, 5.0, 5.0]
    assert json.loads((folder / "params.json").read_text())["lr"] == 5.0


def test_a_checkpoint_is_the_committed_one(story: Story, diary: Diary) -> None:
    ready(story)
    story.report(2, save=True)
    (arguments,) = diary.of("on_checkpoint")
    assert Path(arguments["checkpoint"].path).name == "checkpoint_000000"
    assert arguments["trial"].index == 2


def test_a_checkpoint_that_is_deleted_at_once_is_only_a_save(story: Story, diary: Diary, warnings: list[str]) -> None:
    story.add_usual()
    story.report(0, save=True)
    assert len(diary.of("on_trial_save")) == 1
    assert diary.of("on_checkpoint") == []
    assert warnings == []


def test_failures(story: Story, diary: Diary) -> None:
    ready(story)
    diary.entries.clear()
    story.fail_and_retry(0, ValueError("x"))
    story.fail(0, ValueError("x"))
    assert quiet(diary.names) == ["on_trial_recover", "on_trial_start", "on_trial_error"]


def test_a_launch_from_scratch_is_no_restore(story: Story, diary: Diary) -> None:
    ready(story)
    record = CheckpointRecord("x", story.name(0), 0, "d", 1, 1, 1.0, 1.0, None, None)
    story.launch(0, 1, record)
    story.launch(0)
    assert len(diary.of("on_trial_start")) == 6
    assert len(diary.of("on_trial_restore")) == 1


def test_a_late_report_is_no_result(story: Story, diary: Diary) -> None:
    ready(story)
    story.launch(0)
    story.report(0, launch=1)
    assert diary.of("on_trial_result") == []


def test_closing_twice_ends_the_experiment_once(story: Story, diary: Diary) -> None:
    story.close()
    story.close()
    assert len(diary.of("on_experiment_end")) == 1


# ------------------------------------------------------------------------------------------------------ bad callbacks


class Broken(Callback):
    calls = 0

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self.calls += 1
        raise RuntimeError("my own bug")


def test_one_that_raises_is_reported_once_and_not_called_again(
    tmp_path: Path, diary: Diary, warnings: list[str]
) -> None:
    broken = Broken()
    story = ready(Story(tmp_path, CallbackReader([broken, diary], warnings.append)))
    for _ in range(3):
        story.report(0)
    story.close()
    assert broken.calls == 1
    assert len(diary.of("on_trial_result")) == 3
    (warning,) = warnings
    assert "The callback Broken raised in on_trial_result and is not called again" in warning
    assert "Traceback" in warning
    assert "RuntimeError: my own bug" in warning


def test_the_users_interrupt_is_no_error_of_a_callback(tmp_path: Path, warnings: list[str]) -> None:
    class Interrupted(Callback):
        def setup(self, **info: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CallbackReader([Interrupted()], warnings.append).start(make_info(), tmp_path, Story(tmp_path).history)


def test_signatures_written_for_ray_tune_work(tmp_path: Path, warnings: list[str]) -> None:
    seen: list[float] = []

    class Mine(Callback):
        def setup(self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **info: Any) -> None:
            assert total_num_samples == 4

        def on_trial_result(self, iteration, trials, trial, result, **info):  # type: ignore[no-untyped-def]
            seen.append(result["mean_accuracy"])

        def on_experiment_end(self, trials, **info):  # type: ignore[no-untyped-def]
            seen.append(len(trials))

    story = ready(Story(tmp_path, CallbackReader([Mine()], warnings.append)))
    story.report(0)
    story.close()
    assert seen == [0.5, 4]
    assert warnings == []


def test_a_class_in_place_of_an_instance_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"one is <class .*Broken'>\. Make an instance of it\."):
        CallbackReader([Broken], print)


def test_something_else_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"must be instances of subclasses of tune\.Callback, but one is 3"):
        CallbackReader([3], print)


@pytest.mark.parametrize("how", [sys.exit, asyncio.CancelledError])
def test_a_callback_that_wants_to_leave_does_so_when_all_have_been_told_of_the_step(
    how: Any, tmp_path: Path, diary: Diary, warnings: list[str]
) -> None:
    class Leaving(Callback):
        def on_trial_result(self, **info: Any) -> None:  # type: ignore[override] # pyright: ignore
            raise how()

    reader = CallbackReader([Leaving(), diary], warnings.append)
    story = ready(Story(tmp_path, reader))
    with pytest.raises((SystemExit, asyncio.CancelledError)):
        story.report(0)
    assert len(diary.of("on_trial_result")) == 1
    assert len(diary.of("on_step_end")) == len(diary.of("on_step_begin"))
    assert warnings == []
    reader.close()  # it has been said, and is not said again


def test_an_interrupt_in_a_hook_passes_through(tmp_path: Path, warnings: list[str]) -> None:
    class Interrupted(Callback):
        def on_trial_result(self, **info: Any) -> None:  # type: ignore[override] # pyright: ignore
            raise KeyboardInterrupt

    story = ready(Story(tmp_path, CallbackReader([Interrupted()], warnings.append)))
    with pytest.raises(KeyboardInterrupt):
        story.report(0)
    assert warnings == []


def test_a_hook_that_is_set_on_the_callback_itself_is_called(tmp_path: Path, warnings: list[str]) -> None:
    seen: list[str] = []
    callback: Any = Callback()
    for hook in HOOKS:
        setattr(callback, hook, lambda _hook=hook, **arguments: seen.append(_hook))
    mock = Mock(spec=Callback)
    story = ready(Story(tmp_path, CallbackReader([callback, mock], warnings.append)))
    story.report(1, save=True)
    story.report(0)
    story.exploit(0, 1)
    story.tell(reconfigured(story, 1, lr=0.5))
    story.fail_and_retry(2, ValueError())
    story.fail(2, ValueError())
    story.finish(3)
    story.close()
    assert set(seen) == set(HOOKS)
    assert mock.on_trial_result.call_count == 2
    assert warnings == []


# ------------------------------------------------------------------------------------------------------ nearly a hook


def with_method(name: str, base: type[Callback] = Callback, **more: Any) -> Callback:
    """Return an instance of a subclass that has a method of this name."""
    made: Callback = type("Mine", (base,), {name: lambda self, **info: None, **more})()
    return made


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("on_trial_results", "on_trial_result"),
        ("on_trial_resul", "on_trial_result"),
        ("on_trail_result", "on_trial_result"),
        ("on_trial_resutl", "on_trial_result"),
        ("on_triall_result", "on_trial_result"),
        ("on_trial_Result", "on_trial_result"),
        ("no_trial_result", "on_trial_result"),
        ("n_trial_result", "on_trial_result"),
        ("on_experiment_ends", "on_experiment_end"),
        ("on_exploits", "on_exploit"),
        ("on_reconfigured", "on_reconfigure"),
    ],
)
def test_a_method_one_slip_away_from_a_hook_is_told(name: str, meant: str) -> None:
    callback = with_method(name)
    with pytest.warns(
        UserWarning, match=rf"Mine has a method '{name}'\. Shoal does not call it; .* '{meant}'\?"
    ) as told:
        assert check_callbacks([callback]) == [callback]
    assert len(told) == 1


def test_a_hook_misspelled_on_the_callback_itself_is_told_too() -> None:
    callback: Any = Callback()
    callback.on_trial_results = lambda **info: None
    with pytest.warns(UserWarning, match="did you mean 'on_trial_result'"):
        CallbackReader([callback], print)


@pytest.mark.parametrize(
    "name",
    [
        *("on_friday", "on_train_start", "on_epoch_end", "on_trial_end", "on_trial_starting", "on_step"),
        *("on_trial_result_late", "log_trial_params", "log_trial_results", "_on_trial_result", "restart", "set_up"),
        *("on_lairt_result", "on_step_start"),
    ],
)
def test_a_helper_whose_name_only_resembles_a_hook_is_no_slip(name: str) -> None:
    check_callbacks([with_method(name)])


def test_a_callback_that_has_the_hook_as_well_has_not_misspelled_it() -> None:
    check_callbacks([with_method("on_trial_results", on_trial_result=lambda self, **info: None)])
    callback: Any = with_method("on_trial_results")
    callback.on_trial_result = callback.on_trial_results
    check_callbacks([callback])


def test_what_is_no_method_is_no_hook() -> None:
    class Own(Callback):
        on_trial_results: tuple[int, ...] = ()

        @property
        def on_trial_starts(self) -> Any:
            raise AssertionError

    check_callbacks([Own()])
