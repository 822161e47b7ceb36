"""What an experiment keeps of the settings that it was started with, and what may be given when it goes on."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import pbt
from tests.unit.test_restore import restore, run, steps

from shoal import tune
from shoal.config import CheckpointConfig, FailureConfig, RunConfig, TuneConfig
from shoal.errors import ConfigError, JournalError
from shoal.location import Location
from shoal.schedulers.base import TrialScheduler
from shoal.schedulers.fifo import FIFOScheduler
from shoal.schedulers.replay import ReplayScheduler
from shoal.settings import alike, settings_to_meta, stored_settings
from shoal.tune.schedulers import PopulationBasedTraining


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_ENGINE", "inline")


# ---- The settings that are kept --------------------------------------------------------------------------------------

FACTS = {"metric": "score", "mode": "max", "seed": 1, "num_trials": 4}


def kept(tune_config: TuneConfig | None = None, run_config: RunConfig | None = None) -> dict[str, Any]:
    """Return the facts that a journal holds, as they come back from it."""
    settings = settings_to_meta(tune_config or TuneConfig("score", "max", seed=1), run_config or RunConfig())
    facts: dict[str, Any] = json.loads(json.dumps({**FACTS, **settings}))
    return facts


def test_settings_come_back_as_they_were_with_the_folder_where_it_is_now() -> None:
    def stop(trial_id: str, result: dict[str, Any]) -> bool:
        return bool(result["score"] > 5)

    tune_config = TuneConfig(
        "score", "max", pbt(custom_explore_fn=lambda config: {**config, "x": 1}), 4, 2, 60.0, 1, "inline", 3
    )
    run_config = RunConfig(
        "old", "/old", stop, CheckpointConfig(2), FailureConfig(3), [tune.Callback()], verbose=0, log_to_file=False
    )
    again, there = stored_settings(kept(tune_config, run_config), Location(Path("/new/place")), None, None)
    assert replace(again, scheduler=None) == replace(tune_config, scheduler=None)
    assert isinstance(again.scheduler, PopulationBasedTraining)
    assert again.scheduler.custom_explore_fn is not None
    assert again.scheduler.custom_explore_fn({"lr": 1}) == {"lr": 1, "x": 1}
    assert (there.name, there.storage_path) == ("place", "/new")
    assert (there.checkpoint_config, there.failure_config) == (CheckpointConfig(2), FailureConfig(3))
    assert (there.verbose, there.log_to_file) == (0, False)
    assert callable(there.stop)
    assert there.stop("", {"score": 6}) is True
    assert there.callbacks is not None
    assert [type(callback) for callback in there.callbacks] == [tune.Callback]


def test_what_is_given_now_goes_before_and_the_rest_stays() -> None:
    old = kept(
        TuneConfig("score", "max", num_samples=4, max_concurrent_trials=2, seed=1, engine="inline"),
        RunConfig(stop={"training_iteration": 5}, failure_config=FailureConfig(3), verbose=0),
    )
    scheduler = tune.schedulers.FIFOScheduler()
    again, there = stored_settings(
        old,
        Location(Path("/place/name")),
        RunConfig("ignored", "/ignored", {"training_iteration": 9}, CheckpointConfig(1), verbose=3),
        TuneConfig(scheduler=scheduler, max_concurrent_trials=7, time_budget_s=30),
    )
    assert again == TuneConfig(
        "score", "max", scheduler, num_samples=4, max_concurrent_trials=7, time_budget_s=30, seed=1, engine="inline"
    )
    assert there == RunConfig(
        "name", "/place", {"training_iteration": 9}, CheckpointConfig(1), FailureConfig(3), verbose=3
    )


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (TuneConfig(metric="loss"), "metric='loss'"),
        (TuneConfig(mode="min"), "mode='min'"),
        (TuneConfig(num_samples=8), "num_samples=8"),
        (TuneConfig(seed=2), "seed=2"),
    ],
)
def test_what_cannot_change_is_refused_with_what_it_is(given: TuneConfig, name: str) -> None:
    old = kept(TuneConfig("score", "max", num_samples=4, seed=1))
    with pytest.raises(ConfigError, match=rf"TuneConfig\({name}\) cannot change .* it is ('score'|'max'|4|1)\."):
        stored_settings(old, Location(Path("/place/name")), None, given)


def test_what_cannot_change_may_be_given_again_wherever_it_was_given() -> None:
    # The metric was given to the scheduler, and the seed was drawn: both stand in the journal's facts.
    old = kept(TuneConfig(scheduler=pbt(metric="score", mode="max"), num_samples=4))
    same = TuneConfig("score", "max", num_samples=4, seed=1)
    again, _ = stored_settings(old, Location(Path("/place/name")), None, same)
    assert (again.metric, again.mode, again.num_samples, again.seed) == ("score", "max", 4, 1)


class Unpicklable(tune.Callback):
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, *_: Any, **__: Any) -> Any:
        return False


def stop_with(lock: Any) -> Callable[[str, dict[str, Any]], bool]:
    return lambda trial_id, result: bool(lock)


def explore_with(lock: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda config: config if lock else {}


LOCKED: list[tuple[str, str, TuneConfig, RunConfig]] = [
    (
        "scheduler and settings",
        r"tune_config=tune\.TuneConfig\(scheduler=\.\.\.\)",
        TuneConfig("score", "max", pbt(custom_explore_fn=explore_with(threading.Lock())), num_samples=4, seed=1),
        RunConfig(),
    ),
    (
        "callbacks",
        r"run_config=tune\.RunConfig\(callbacks=\[\.\.\.\]\)",
        TuneConfig("score", "max"),
        RunConfig(callbacks=[Unpicklable()]),
    ),
    (
        "stop",
        r"run_config=tune\.RunConfig\(stop=\.\.\.\)",
        TuneConfig("score", "max"),
        RunConfig(stop=stop_with(threading.Lock())),
    ),
]


@pytest.mark.parametrize(("what", "where", "tune_config", "run_config"), LOCKED)
def test_what_could_not_be_pickled_has_to_be_given_again(
    what: str, where: str, tune_config: TuneConfig, run_config: RunConfig
) -> None:
    with pytest.raises(
        JournalError,
        match=rf"The {what} of the experiment /place/name cannot be loaded: TypeError: cannot pickle '_thread.lock' "
        rf"object\. Give them again: Tuner\.restore\(path, trainable, {where}\)",
    ):
        stored_settings(kept(tune_config, run_config), Location(Path("/place/name")), None, None)


@pytest.mark.parametrize(("what", "where", "tune_config", "run_config"), LOCKED)
def test_where_it_is_given_again_the_rest_is_kept(
    what: str, where: str, tune_config: TuneConfig, run_config: RunConfig
) -> None:
    run_config = replace(run_config, verbose=3)
    again, there = stored_settings(
        kept(tune_config, run_config), Location(Path("/place/name")), run_config, tune_config
    )
    assert again.scheduler is tune_config.scheduler
    assert (again.metric, again.mode) == ("score", "max")
    assert (there.callbacks, there.stop) == (run_config.callbacks, run_config.stop)
    assert there.verbose == 3


def test_where_only_the_scheduler_is_given_again_the_metric_stands_in_the_facts(tmp_path: Path) -> None:
    lock = threading.Lock()
    scheduler = pbt(synch=True, custom_explore_fn=explore_with(lock))
    folder = run(tmp_path, scheduler=scheduler, num_samples=3)
    with pytest.raises(JournalError, match="Give them again"):
        restore(folder)
    longer = RunConfig(stop={"training_iteration": 10})
    assert steps(restore(folder, run_config=longer, tune_config=TuneConfig(scheduler=scheduler))) == [10, 10, 10]
    whole = TuneConfig("score", "max", scheduler, num_samples=3, seed=1)
    longer = RunConfig(stop={"training_iteration": 15})
    assert steps(restore(folder, run_config=longer, tune_config=whole)) == [15, 15, 15]


def test_settings_that_hold_much_data_are_not_kept() -> None:
    data = bytes(17 << 20)
    old = kept(run_config=RunConfig(stop=stop_with(data), verbose=3))
    with pytest.raises(
        JournalError, match=r"cannot be loaded: they take 17 MB, .* more than 16 MB are not kept\. Give"
    ):
        stored_settings(old, Location(Path("/place/name")), None, None)
    _, there = stored_settings(old, Location(Path("/place/name")), RunConfig(stop={"score": 1}), None)
    assert (there.stop, there.verbose) == ({"score": 1}, 3)


def test_what_replace_passes_on_at_its_default_was_not_given() -> None:
    old = kept(run_config=RunConfig(callbacks=[tune.Callback()], verbose=3))
    _, there = stored_settings(old, Location(Path("/place/name")), replace(RunConfig(), stop={"score": 1}), None)
    assert there.verbose == 3
    assert there.callbacks is not None


def test_callbacks_are_left_out_by_giving_none_of_them() -> None:
    old = kept(run_config=RunConfig(callbacks=[Unpicklable()]))
    _, there = stored_settings(old, Location(Path("/place/name")), RunConfig(callbacks=[]), None)
    assert there.callbacks == []


def test_settings_whose_module_is_gone_have_to_be_given_again() -> None:
    old = kept(run_config=RunConfig(stop={"training_iteration": 5}))
    old["settings_stop"] = {"pickle": "gAJjbm93aGVyZQpUaGluZwopgS4="}  # an instance of nowhere.Thing
    with pytest.raises(
        JournalError, match=r"The stop of the experiment .* No module named 'nowhere'\. Give them again"
    ):
        stored_settings(old, Location(Path("/place/name")), None, None)
    _, there = stored_settings(old, Location(Path("/place/name")), RunConfig(stop={"score": 1}), None)
    assert there.stop == {"score": 1}


def test_a_journal_without_settings_was_not_started_by_a_tuner() -> None:
    with pytest.raises(JournalError, match=r"/place/name has no settings .* not started by tune\.Tuner\.fit\(\)"):
        stored_settings(FACTS, Location(Path("/place/name")), None, None)


# ---- What is the same ------------------------------------------------------------------------------------------------


def unset() -> Callable[[], Any]:
    """Return a function with an enclosing variable that has no value yet."""

    def read() -> Any:
        return late

    if os.environ.get("NEVER SET"):
        late = 0
    return read


def test_objects_are_compared_by_what_they_consist_of() -> None:
    shared: Any = [0]
    other: Any = [0]
    for _ in range(60):
        shared, other = [shared, shared], [other, other]
    circle: list[Any] = []
    circle.append(circle)
    assert alike(shared, other)
    assert alike(circle, [circle])
    assert not alike(unset(), unset()), "nobody knows what is in there"
    assert not alike(threading.Lock(), threading.Lock())
    for one, same, different in (
        (lambda x: x + 1, lambda x: x + 1, lambda x: x + 2),
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}, {"a": 1, "b": [3]}),
        (tune.uniform(0, 1), tune.uniform(0, 1), tune.uniform(0, 2)),
        (tune.stopper.MaximumIterationStopper(3), tune.stopper.MaximumIterationStopper(3), tune.stopper.NoopStopper()),
        (float("nan"), float("nan"), 0.0),
        ({1, 2}, {2, 1}, {1, 3}),
    ):
        assert alike(one, same)
        assert not alike(one, different)


@pytest.mark.parametrize(
    "scheduler",
    [pbt(), FIFOScheduler(), ReplayScheduler({"lr": 0.1}, [(3, {"lr": 0.2})])],
    ids=lambda it: it.describe(),
)
def test_what_past_decisions_follow_from_are_settings_that_schedulers_have(scheduler: TrialScheduler) -> None:
    assert all(hasattr(scheduler, name) for name in scheduler.settled)
    # Whoever decides about configs says what from.
    assert bool(scheduler.settled) == bool(scheduler.mutated())
