"""The class API without processes: a class used by itself, what is checked before a run, and what the core makes of it.

What happens in a run is in ``tests/end_to_end/test_class_trainables.py``.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import climb, pbt

from shoal import tune
from shoal.core.commands import Command, DeleteCheckpoint, Reconfigure, Save, Status, Stop
from shoal.core.events import Opened, Reported, Saved, SavedCheckpoint, StopAsked
from shoal.core.limits import Limits, RetentionRules
from shoal.core.policy import Change
from shoal.errors import ConfigError, InvalidTransition
from shoal.schedulers.replay import ReplayScheduler
from shoal.trainable import Trainable, can_save

from .test_population import Story, kinds

# ------------------------------------------------------------------------------------------------- a class by itself


class Counter(Trainable):
    """Counts; its state is in a file."""

    closed = False

    def setup(self, config: dict[str, Any]) -> None:
        self.value = config.get("start", 0)

    def step(self) -> dict[str, Any]:
        self.value += 1
        return {"score": self.value}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any] | None:
        Path(checkpoint_dir, "value").write_text(str(self.value))
        return None

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.value = int(Path(checkpoint, "value").read_text())

    def cleanup(self) -> None:
        self.closed = True


class DictCounter(Counter):
    """Counts; its state is a dict."""

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any] | None:
        return {"value": self.value, "anything": {1, 2}}

    def load_checkpoint(self, checkpoint: Any) -> None:
        assert checkpoint["anything"] == {1, 2}
        self.value = checkpoint["value"]


def test_an_object_is_set_up_with_its_config_and_trains_step_by_step() -> None:
    counter = Counter({"start": 5})
    assert counter.iteration == 0
    assert counter.train() == {"score": 6, "training_iteration": 1, "done": False}
    assert counter.train() == {"score": 7, "training_iteration": 2, "done": False}
    assert counter.iteration == counter.training_iteration == 2
    assert counter.config == counter.get_config() == {"start": 5}
    assert Counter().config == {}


def test_what_step_returns_comes_before_what_train_adds() -> None:
    class Done(Counter):
        def step(self) -> dict[str, Any]:
            return {"done": True, "training_iteration": 99}

    assert Done().train() == {"done": True, "training_iteration": 99}


@pytest.mark.parametrize("kind", [Counter, DictCounter])
def test_what_is_saved_is_restored_with_its_iteration_by_another_object(kind: type[Counter], tmp_path: Path) -> None:
    first = kind({"start": 5})
    first.train()
    first.train()
    folder = first.save(str(tmp_path / "new" / "folder"))
    assert folder == str(tmp_path / "new" / "folder")
    first.train()
    second = kind()
    second.restore(folder)
    assert (second.value, second.iteration) == (7, 2)
    assert second.train()["training_iteration"] == 3
    first.restore(folder)
    assert (first.value, first.iteration) == (7, 2)


def test_without_a_folder_it_saves_into_a_new_one_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    counter = Counter()
    folders = [counter.save(), counter.save()]
    assert len(set(folders)) == 2
    assert all(Path(folder).parent == tmp_path for folder in folders)


def test_stopping_it_cleans_up() -> None:
    counter = Counter()
    counter.stop()
    assert counter.closed


def test_outside_of_a_run_it_has_default_names_and_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    counter = Counter()
    assert (counter.trial_id, counter.trial_name, counter.trial_resources) == ("default", "default", {})
    assert list(tmp_path.iterdir()) == []
    assert Path(counter.logdir).is_dir()
    assert counter.logdir == counter.logdir
    assert Counter().logdir != counter.logdir


def test_a_step_that_returns_no_dict_is_an_error_that_names_the_class() -> None:
    class Wrong(Counter):
        def step(self) -> Any:
            return 5

    with pytest.raises(ConfigError, match=re.escape("Wrong.step() must return a dict of metrics, but returned 5")):
        Wrong().train()


def test_what_a_class_lacks_is_said_with_its_name(tmp_path: Path) -> None:
    class Bare(Trainable):
        pass

    bare = Bare()
    assert bare.reset_config({}) is False
    bare.cleanup()
    with pytest.raises(NotImplementedError, match=re.escape("Bare has no step(): write one")):
        bare.train()
    with pytest.raises(NotImplementedError, match=re.escape("Bare has no save_checkpoint(checkpoint_dir)")):
        bare.save(str(tmp_path))
    with pytest.raises(NotImplementedError, match=re.escape("Bare has no load_checkpoint(checkpoint)")):
        bare.load_checkpoint(str(tmp_path))


def test_an_object_that_holds_only_plain_data_can_be_pickled() -> None:
    counter = Counter({"start": 3})
    counter.train()
    again = pickle.loads(pickle.dumps(counter))
    assert (again.value, again.iteration, again.config) == (4, 1, {"start": 3})


# ----------------------------------------------------------------------------------------------- checked before a run


class NoSave(Trainable):
    def step(self) -> dict[str, Any]:
        return {"score": 1.0}


class OnlySave(NoSave):
    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any] | None:
        return {}


class OnlyLoad(NoSave):
    def load_checkpoint(self, checkpoint: Any) -> None:
        pass


class Mixed(OnlySave, OnlyLoad):
    pass


def test_a_class_can_save_if_it_saves_and_loads_whoever_wrote_that() -> None:
    assert [can_save(kind) for kind in (Counter, DictCounter, Mixed)] == [True] * 3
    assert [can_save(kind) for kind in (Trainable, NoSave, OnlySave, OnlyLoad)] == [False] * 4
    assert can_save(tune.with_resources(Counter, {"cpu": 1}))
    assert not can_save(tune.with_resources(OnlySave, {"cpu": 1}))


def test_parameters_and_resources_leave_a_class_a_class_that_can_save() -> None:
    class Fed(Counter):
        def setup(self, config: dict[str, Any], data: Any = None) -> None:
            self.value = len(data)

    fed: Any = tune.with_parameters(Fed, data=[1, 2, 3])
    assert issubclass(fed, Fed)
    assert fed.__name__ == "Fed"
    assert can_save(fed)
    assert fed({}).train()["score"] == 4


def fit(kind: Any, tmp_path: Path, *, checkpoint: tune.CheckpointConfig | None = None, **settings: Any) -> Any:
    """Run an experiment that is refused, and check that nothing of it is left."""
    try:
        return tune.Tuner(
            kind,
            tune_config=tune.TuneConfig(metric="score", mode="max", engine="inline", **settings),
            run_config=tune.RunConfig(
                storage_path=tmp_path, verbose=0, checkpoint_config=checkpoint, stop={"training_iteration": 2}
            ),
        ).fit()
    finally:
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [NoSave, OnlySave, OnlyLoad, tune.with_resources(NoSave, {"cpu": 1})])
@pytest.mark.parametrize("scheduler", [pbt(), ReplayScheduler({"lr": 1}, [(1, {"lr": 2})])])
def test_a_class_that_cannot_save_is_refused_where_checkpoints_are_needed(
    kind: Any, scheduler: Any, tmp_path: Path
) -> None:
    expected = f"needs checkpoints, but the class {kind.__name__} has no save_checkpoint(checkpoint_dir) or no load_c"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        fit(kind, tmp_path, scheduler=scheduler)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (tune.CheckpointConfig(checkpoint_frequency=2), "CheckpointConfig(checkpoint_frequency=2)"),
        (tune.CheckpointConfig(checkpoint_at_end=True), "CheckpointConfig(checkpoint_at_end=True)"),
    ],
)
def test_checkpoints_that_nobody_can_save_are_refused(asked: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{named} needs checkpoints, but the class NoSave")):
        fit(NoSave, tmp_path, checkpoint=asked)
    with pytest.raises(ConfigError, match=re.escape(f"{named} is for class trainables. A function saves by itself")):
        fit(lambda config: {"score": 1.0}, tmp_path, checkpoint=asked)


@pytest.mark.parametrize("value", [-1, 1.5, "2", None, True])
def test_a_checkpoint_frequency_is_a_whole_number(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint_frequency must be a whole number of iterations, or 0, but is"):
        tune.CheckpointConfig(checkpoint_frequency=value)


@pytest.mark.parametrize("value", [0, 1, 1.0, "yes", []])
def test_checkpoint_at_end_is_true_or_false(value: Any) -> None:
    with pytest.raises(ConfigError, match="checkpoint_at_end must be True or False, but is"):
        tune.CheckpointConfig(checkpoint_at_end=value)
    assert tune.CheckpointConfig().checkpoint_at_end is None


def test_an_object_in_place_of_its_class_is_refused() -> None:
    expected = "the trainable is an object of the class Counter. Give the class itself, Tuner(Counter, ...)"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        tune.Tuner(Counter())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_class_that_is_no_trainable_is_refused() -> None:
    class Other:
        def step(self) -> dict[str, Any]:
            return {}

    with pytest.raises(ConfigError, match=re.escape("the class Other is no trainable. Derive it from tune.Trainable")):
        tune.Tuner(Other)
    with pytest.raises(ConfigError, match="the class dict is no trainable"):
        tune.Tuner(dict)
    with pytest.raises(ConfigError, match="has no step"):
        tune.Tuner(Trainable)


def test_a_class_without_step_is_refused() -> None:
    class Bare(Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            pass

    with pytest.raises(ConfigError, match=re.escape("the class Bare has no step(): write one that returns a dict")):
        tune.Tuner(Bare)


# ------------------------------------------------------------------------------------------------ saving, in the core


def saved(number: int, *, transient: bool = False) -> SavedCheckpoint:
    return SavedCheckpoint(number, "digest", 1, transient)


def asked_to_save(*, transient: bool, **limits: Any) -> tuple[Story, list[Command]]:
    """Return a story in which ``a`` ended by a stopper's word at iteration 1, with a transient checkpoint or none."""
    story = Story("ab", save_at_end=True, **limits)
    checkpoint = saved(0, transient=True) if transient else None
    return story, story.report("a", stop="enough", waiting=True, checkpoint=checkpoint)


@pytest.mark.parametrize("transient", [True, False])
def test_a_trial_that_ends_is_asked_to_save_first_and_keeps_its_slot_meanwhile(transient: bool) -> None:
    story, commands = asked_to_save(transient=transient)
    assert commands == [Save("a", 1)]
    assert story["a"].status is Status.RUNNING
    number = int(transient)
    commands = story.tell(Saved("a", 1, saved(number)))
    expected = [DeleteCheckpoint("a", 0)] if transient else []
    assert commands[: len(expected) + 1] == [*expected, Stop("a", 1, Status.TERMINATED, "enough")]
    assert kinds(commands[len(expected) + 1 :]) == ["Launch"]
    record = story["a"].restore
    assert (record.number, record.iteration, record.score, record.transient) == (number, 1, 1.0, False)
    assert story.policy.observed[-1] == ("a", 1.0, f"a/checkpoint_{number:06d}")


def test_a_trial_that_saved_with_its_last_report_is_not_asked_again() -> None:
    story = Story("a", save_at_end=True)
    assert story.report("a", stop="enough", waiting=True, save=True) == [Stop("a", 1, Status.TERMINATED, "enough")]


def test_a_trial_is_not_asked_where_nobody_wants_that_or_the_whole_experiment_ends() -> None:
    assert kinds(Story("a").report("a", stop="enough", waiting=True)) == ["Stop"]
    story = Story("a", save_at_end=True)
    assert story.tell(StopAsked("interrupted")) == [Stop("a", 1, Status.TERMINATED, "interrupted")]


@pytest.mark.parametrize("happens", ["fail", "lose"])
def test_a_trial_that_fails_while_it_saves_is_tried_again(happens: str) -> None:
    story, _ = asked_to_save(transient=False, max_failures=1)
    commands = getattr(story, happens)("a")
    assert "Retry" in kinds(commands)
    assert story["a"].ending is None
    assert story["a"].iteration == 0
    story, _ = asked_to_save(transient=False)
    assert getattr(story, happens)("a")[0].status is Status.ERROR


def test_a_trial_whose_save_checkpoint_raises_has_failed_also_where_all_that_it_has_is_saved() -> None:
    story, _ = asked_to_save(transient=True)
    assert story.fail("a")[0].status is Status.ERROR


def test_the_end_of_the_experiment_does_not_wait_for_a_trial_that_saves() -> None:
    story, _ = asked_to_save(transient=False)
    stops = story.tell(StopAsked("interrupted"))
    assert [(stop.trial_id, stop.reason) for stop in stops if isinstance(stop, Stop)] == [
        ("a", "interrupted"),
        ("b", "interrupted"),
    ]
    assert story["a"].cut
    assert story.tell(Saved("a", 1, saved(0))) == []


def test_a_trial_at_its_end_that_has_all_in_a_checkpoint_has_ended_whatever_happens_before_it_saves() -> None:
    story, _ = asked_to_save(transient=True)
    story.tell(StopAsked("interrupted"))
    assert not story["a"].cut
    story, _ = asked_to_save(transient=True)
    commands = story.tell(Opened(Limits(("",)), RetentionRules()))
    assert commands[0] == Stop("a", 1, Status.TERMINATED, "enough")
    story, _ = asked_to_save(transient=False)
    commands = story.tell(Opened(Limits(("",)), RetentionRules()))
    assert kinds(commands) == ["Launch"]
    assert not story["a"].status.ended


def test_a_checkpoint_that_nobody_asked_for_is_a_bug_of_the_engine_and_a_late_one_is_ignored() -> None:
    story = Story("a")
    with pytest.raises(InvalidTransition, match="saves a checkpoint that nobody asked for"):
        story.tell(Saved("a", 1, saved(0)))
    story, _ = asked_to_save(transient=False, max_failures=1)
    story.fail("a")
    assert story.tell(Saved("a", 1, saved(0))) == []


def test_a_transient_checkpoint_goes_with_the_next_one_and_stays_while_somebody_needs_it() -> None:
    story = Story("ab", devices=("", ""))
    story.report("a")
    story.report("a", checkpoint=saved(0, transient=True))
    story.report("a")
    assert DeleteCheckpoint("a", 0) in story.report("a", checkpoint=saved(1, transient=True))
    story.report("b")
    story.copies("b", "a")
    commands = story.report("b", checkpoint=saved(0, transient=True))
    assert DeleteCheckpoint("b", 0) in commands  # the weights that it has given up
    story.report("a")
    assert not [c for c in story.report("a", checkpoint=saved(2, transient=True)) if isinstance(c, DeleteCheckpoint)]
    story.policy.answers.clear()
    story.report("b")
    assert DeleteCheckpoint("a", 1) in story.report("b", checkpoint=saved(1, transient=True))


def test_a_transient_checkpoint_counts_among_those_that_are_kept() -> None:
    story = Story("a", keep=2)
    story.report("a", save=True, waiting=False)
    assert story.report("a", save=True, waiting=False) == []
    assert story.report("a", checkpoint=saved(2, transient=True), waiting=False) == [DeleteCheckpoint("a", 0)]
    assert story.report("a", checkpoint=saved(3), waiting=False) == [DeleteCheckpoint("a", 2)]
    assert story.report("a", checkpoint=saved(4), waiting=False) == [DeleteCheckpoint("a", 1)]


def test_the_best_by_a_score_stay_beside_a_transient_checkpoint() -> None:
    story = Story("a", keep=1, score_attribute="score")
    story.report("a", save=True, waiting=False)
    assert story.report("a", checkpoint=saved(1, transient=True), waiting=False) == []


# -------------------------------------------------------------------------------------- another config, in the core


def test_a_change_of_the_config_launches_the_trial_from_its_own_checkpoint_in_its_process() -> None:
    story = Story("a")
    story.policy.answers["a"] = [Change("a", {"lr": "other"})]
    commands = story.reach_boundary("a", save=True)
    assert kinds(commands) == ["Reconfigure", "Launch"]
    change, launch = commands
    assert isinstance(change, Reconfigure)
    assert (change.launch, change.number, change.iteration, change.checkpoint.id) == (1, 1, 2, "a/checkpoint_000000")
    assert (change.old_config, change.new_config) == ({"lr": "a"}, {"lr": "other"})
    assert (launch.config, launch.iteration, launch.fresh) == ({"lr": "other"}, 2, False)
    assert story["a"].generation == 0


def test_a_change_without_a_checkpoint_of_that_step_is_a_bug_of_the_policy() -> None:
    story = Story("a")
    story.report("a", save=True)
    story.policy.answers["a"] = [Change("a", {"lr": "other"})]
    with pytest.raises(InvalidTransition, match="change its config without a checkpoint of its newest report"):
        story.report("a")


def test_a_trial_that_fails_after_a_change_goes_back_to_it_and_keeps_the_new_config() -> None:
    story = Story("a", max_failures=1)
    story.policy.answers["a"] = [Change("a", {"lr": "other"})]
    story.reach_boundary("a", save=True)
    story.policy.answers.clear()
    story.report("a")
    retry, launch = story.fail("a")
    assert (retry.iteration, launch.iteration, launch.config) == (2, 2, {"lr": "other"})


def test_a_late_report_of_the_launch_before_a_change_is_ignored() -> None:
    story = Story("a")
    story.policy.answers["a"] = [Change("a", {"lr": "other"})]
    story.reach_boundary("a", save=True)
    assert story.tell(Reported("a", 1, 3, {"score": 1.0}, waiting=False)) == []
    assert story["a"].iteration == 2


def test_a_setup_that_needs_more_than_the_config_is_refused_before_anything_starts() -> None:
    class Needs(tune.Trainable):
        def setup(self, config: dict[str, Any], data: Any) -> None: ...  # type: ignore[override]

        def step(self) -> dict[str, Any]:
            return {}

    with pytest.raises(ConfigError, match=r"Needs\.setup is called with the config alone, .*'data'.*with_parameters"):
        tune.Tuner(Needs)
    tune.Tuner(tune.with_parameters(Needs, data=[1]))


def test_the_results_can_be_had_again(tmp_path: Path) -> None:
    tuner = tune.Tuner(climb, **settings(tmp_path))
    with pytest.raises(ConfigError, match=r"there are no results yet\. Call fit\(\) first"):
        tuner.get_results()
    grid = tuner.fit()
    assert tuner.get_results() is grid
    again = tune.Tuner.restore(grid.experiment_path, climb)
    assert [result.metrics for result in again.get_results()] == [result.metrics for result in grid]


def settings(folder: Path) -> dict[str, Any]:
    return {
        "param_space": {"lr": 1.0},
        "tune_config": tune.TuneConfig(engine="inline"),
        "run_config": tune.RunConfig(storage_path=folder, stop={"training_iteration": 2}, verbose=0),
    }
