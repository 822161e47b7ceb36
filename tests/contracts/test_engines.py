"""What every engine promises, for each that Shoal has: see :mod:`shoal.testing.contracts`."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import climb, fit, story

import shoal
from shoal import tune
from shoal.core.commands import Continue, Evict, HandOn
from shoal.core.events import Event, Lost, Reported, Started
from shoal.engines import EngineCommand, EngineSetup
from shoal.engines.inline import InlineEngine
from shoal.engines.processes import ProcessEngine
from shoal.errors import ConfigError
from shoal.journal.sqlite import SQLiteJournal
from shoal.testing.contracts import EngineContract
from shoal.testing.contracts.bench import Bench


class TestInline(EngineContract):
    engine = "inline"
    in_processes = False


class TestProcesses(EngineContract):
    engine = "processes"


@pytest.mark.cluster
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
class TestRay(EngineContract):
    engine = "ray"

    def take_slots(self, bench: Bench) -> None:
        import ray

        engine: Any = bench.engine
        for post in engine.fleet.posts.values():
            ray.kill(engine._lines[post.key].actor)


def test_the_inline_engine_runs_in_this_very_process(tmp_path: Path) -> None:
    seen: list[int] = []

    def train(config: dict[str, Any]) -> None:
        seen.append(os.getpid())
        tune.report({"score": 1.0})

    fit(train, tmp_path, engine="inline", num_samples=2)
    assert seen == [os.getpid()] * 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shoal-")]


def test_one_that_leaves_just_when_its_time_is_up_is_lost_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_GRACE_S", "0")
    with Bench(InlineEngine(), tmp_path / "bench", slots=1) as bench:
        member = bench.member(climb, lr=0.1)
        member.launch(until=1.0)
        member.next(Started)
        member.reports(1)
        thread = next(thread for thread in threading.enumerate() if thread.name == f"shoal-{member.info.name}")
        member.wind_up()
        thread.join()
        member.next(Lost)
        assert member.is_silent()


def test_the_environment_chooses_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_ENGINE", "inline")
    grid = fit(lambda config: {"score": 1.0}, tmp_path, num_samples=1)
    assert story(grid).in_order()[0].pid == os.getpid()


# ---- Engines of one's own --------------------------------------------------------------------------------------------


class Own(InlineEngine):
    """An engine that is none of Shoal's."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1


def test_an_engine_of_ones_own_is_given_by_its_class_and_used_again_when_the_experiment_goes_on(tmp_path: Path) -> None:
    shoal.init(num_cpus=1)
    before = Own.made
    try:
        grid = fit(climb, tmp_path, engine=Own, num_samples=2, stop={"training_iteration": 5})
        assert story(grid).in_order()[0].pid == os.getpid()
        tuner = tune.Tuner.restore(
            grid.experiment_path, climb, run_config=tune.RunConfig(stop={"training_iteration": 6}, verbose=0)
        )
        again = tuner.fit()
    finally:
        shoal.shutdown()
    assert [result.metrics["training_iteration"] for result in again] == [6, 6]
    assert Own.made == before + 2
    journal = SQLiteJournal.open_for_reading(Path(grid.experiment_path))
    assert journal.meta()["engine"] == f"{__name__}.Own"
    journal.close()


class Remarks(InlineEngine):
    """An engine that has something to tell the user."""

    def start(self, setup: EngineSetup) -> None:
        setup.note("Waiting for room")
        super().start(setup)


def test_what_an_engine_remarks_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fit(lambda config: {"score": 1.0}, tmp_path, engine=Remarks, num_samples=1)
    assert "Note: Waiting for room\n" in capfd.readouterr().out


@pytest.mark.parametrize("given", [InlineEngine(), 5, "inlin"], ids=["object", "number", "name"])
def test_what_makes_no_engine_is_an_error_that_says_what_does(given: Any) -> None:
    expected = r"must be one of 'processes', 'inline', 'ray', or the class of one of your own"
    with pytest.raises(ConfigError, match=expected):
        tune.TuneConfig(engine=given)


# ---- The contract finds what is broken -------------------------------------------------------------------------------


class NeverGoesOn(InlineEngine):
    def execute(self, command: EngineCommand, checkpoint: str | None) -> None:
        if not isinstance(command, Continue):
            super().execute(command, checkpoint)


class ForgetsCheckpoints(InlineEngine):
    def execute(self, command: EngineCommand, checkpoint: str | None) -> None:
        super().execute(command, None)


class ReportsTwice(InlineEngine):
    def poll(self, timeout: float) -> list[Event]:
        return [each for event in super().poll(timeout) for each in ([event] * (1 + isinstance(event, Reported)))]


class LosesTheEvicted(ProcessEngine):
    def execute(self, command: EngineCommand, checkpoint: str | None) -> None:
        super().execute(command, checkpoint)
        if isinstance(command, Evict):
            self._ready.append(Lost(command.trial_id, command.launch, "it was evicted"))


class TellsTooEarly(ProcessEngine):
    """Those that were promised a slot go on at once."""

    def execute(self, command: EngineCommand, checkpoint: str | None) -> None:
        super().execute(command, checkpoint)
        if isinstance(command, HandOn):
            super().execute(Continue(command.to, command.to_launch, command.slot, command.until), None)


class SaysNotWhy(ProcessEngine):
    def poll(self, timeout: float) -> list[Event]:
        events = super().poll(timeout)
        return [dataclasses.replace(event, reason="gone") if isinstance(event, Lost) else event for event in events]


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        (NeverGoesOn, "test_a_member_waits_from_its_boundary_on_until_it_is_told_to_go_on"),
        (ForgetsCheckpoints, "test_a_launch_in_place_leaves_the_function_and_enters_it_with_new_config_and_state"),
        (ReportsTwice, "test_a_launch_tells_that_it_started_what_it_reports_and_that_it_finished_in_this_order"),
        (LosesTheEvicted, "test_an_evicted_member_leaves_and_goes_on_in_a_new_process_from_its_checkpoint"),
        (TellsTooEarly, "test_a_promised_slot_is_handed_on_or_not_and_nothing_is_told_before_its_time"),
        (SaysNotWhy, "test_a_killed_member_is_lost_for_the_reason_given_and_can_be_launched_again"),
    ],
)
def test_an_engine_that_breaks_a_promise_does_not_pass(
    engine: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.testing.contracts.bench.PATIENCE_S", 1.0)
    broken: Any = type(
        "Broken", (EngineContract,), {"engine": engine, "in_processes": engine.__base__ is ProcessEngine}
    )
    wanted = {"tmp_path": tmp_path, "parked": True}
    test = getattr(broken(), name)
    with broken.make_bench(tmp_path / "bench") as bench:
        arguments = {**wanted, "bench": bench}
        with pytest.raises(AssertionError):
            test(**{each: arguments[each] for each in inspect.signature(test).parameters})
