"""The simulation itself: its clock, and an engine that refuses what a real one could only get wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from shoal.core.commands import (
    CheckpointRecord,
    Continue,
    DeleteCheckpoint,
    Evict,
    Exploit,
    Launch,
    Notice,
    Park,
    Retry,
    Status,
    Stop,
)
from shoal.core.events import Config, Event, Failed, Finished, Lost, Reported, Started, StopAsked
from shoal.core.reports import ReportRules
from shoal.schedulers import FIFOScheduler
from shoal.testing import BrokenContract, Fault, SimulatedEngine, Simulation, VirtualClock, random_faults


def count(config: Config, state: int | None) -> tuple[dict[str, Any], int]:
    """The state counts the steps; so does the score."""
    steps = (state or 0) + 1
    return {"score": float(steps)}, steps


def launch(trial: str = "a", number: int = 1, **changes: Any) -> Launch:
    first = Launch(trial, number, 0, {}, None, 0, 0.0, next_checkpoint=0, until=2.0, fresh=number == 1)
    return replace(first, **changes)


def engine(*devices: str, **options: Any) -> SimulatedEngine:
    made = SimulatedEngine(count, ReportRules("score"), devices=devices or ("", ""), **options)
    for index, trial in enumerate("abc"):
        made.add(trial, index)
    return made


def at_boundary(**options: Any) -> SimulatedEngine:
    """Return an engine in which a waits at step 2, with a checkpoint of each step."""
    made = engine(**options)
    made.execute(launch())
    events = [made.wait() for _ in range(3)]
    assert [type(event) for event in events] == [Started, Reported, Reported]
    return made


def record(number: int, iteration: int, **changes: Any) -> CheckpointRecord:
    """Return the record of a's checkpoint of an iteration."""
    name = f"a/checkpoint_{number:06d}"
    right = CheckpointRecord(
        name, "a", number, f"{name}@1/{iteration}", 1, iteration, float(iteration), float(iteration), None, None
    )
    return replace(right, **changes)


# ---- The clock -------------------------------------------------------------------------------------------------------


def test_what_is_due_first_happens_first_and_ties_keep_their_order() -> None:
    clock = VirtualClock()
    for delay, name in ((2.0, "c"), (1.0, "a"), (2.0, "d"), (1.0, "b")):
        clock.after(delay, _stop_asked(name))
    assert [clock.next_event() for _ in range(5)] == [*map(StopAsked, "abcd"), None]
    assert clock.now == 2.0


def _stop_asked(reason: str) -> Callable[[], Event | None]:
    return lambda: StopAsked(reason)


def test_what_leads_to_no_event_is_passed_over() -> None:
    clock = VirtualClock()
    clock.after(1.0, lambda: None)
    clock.after(3.0, lambda: StopAsked("late"))
    assert clock.next_event() == StopAsked("late")
    assert clock.now == 3.0


# ---- What a member does ----------------------------------------------------------------------------------------------


def test_a_member_reports_each_step_and_waits_from_its_boundary_on() -> None:
    made = engine(duration=1.5, start_time=10.0)
    made.execute(launch())
    started, first, second = (made.wait() for _ in range(3))
    assert started == Started("a", 1, 1000, "simulated")
    assert isinstance(first, Reported)
    assert isinstance(second, Reported)
    assert (first.iteration, first.waiting, first.time_total_s) == (1, False, 1.5)
    assert (second.iteration, second.waiting, second.time_total_s, second.metrics) == (2, True, 3.0, {"score": 2.0})
    assert made.clock.now == 13.0
    assert made.wait() is None


def test_a_member_keeps_its_state_while_it_has_its_process() -> None:
    made = at_boundary()
    made.execute(Park("a", 1))
    made.execute(Continue("a", 1, 1, until=4.0))
    report = made.wait()
    assert isinstance(report, Reported)
    assert (report.iteration, report.metrics, report.iterations_since_restore) == (3, {"score": 3.0}, 3)


def test_a_launch_goes_on_from_what_the_checkpoint_contained() -> None:
    made = at_boundary()
    made.execute(launch(number=2, checkpoint=record(0, 1), iteration=1, time_total_s=1.0, next_checkpoint=2, until=9.0))
    assert isinstance(made.wait(), Started)
    report = made.wait()
    assert isinstance(report, Reported)
    assert (report.launch, report.iteration, report.metrics) == (2, 2, {"score": 2.0})
    assert (report.time_total_s, report.time_since_restore, report.iterations_since_restore) == (2.0, 1.0, 1)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.CRASH, ["Started", "Reported", "Lost"]),
        (Fault.ORPHAN, ["Started", "Reported", "Lost"]),
        (Fault.RAISE, ["Started", "Reported", "Failed"]),
        (Fault.RETURN, ["Started", "Reported", "Finished"]),
        (Fault.RAISE_AND_CRASH, ["Started", "Reported", "Failed", "Lost"]),
        (Fault.CRASH_AFTER_REPORT, ["Started", "Reported", "Reported", "Lost"]),
        (Fault.LATE_REPORT, ["Started", "Reported", "Lost", "Reported"]),
        (Fault.CRASH_PARKED, ["Started", "Reported", "Reported"]),
    ],
)
def test_each_fault_is_told_as_it_happens(fault: Fault, expected: list[str]) -> None:
    made = engine(faults=lambda index, launch, iteration: fault if iteration == 2 else None)
    made.execute(launch())
    events = iter(made.wait, None)
    assert [type(event).__name__ for event in events] == expected


def test_a_member_that_is_to_crash_while_parked_does_so_only_then() -> None:
    made = at_boundary(faults=lambda index, launch, iteration: Fault.CRASH_PARKED if iteration == 2 else None)
    made.execute(Continue("a", 1, 0, until=3.0))
    assert isinstance(made.wait(), Reported)
    made = at_boundary(faults=lambda index, launch, iteration: Fault.CRASH_PARKED if iteration == 2 else None)
    made.execute(Park("a", 1))
    assert made.wait() == Lost("a", 1, "the process was killed (simulated)")


def test_a_process_that_is_entered_after_its_death_is_lost_with_its_newest_launch() -> None:
    made = at_boundary(faults=lambda index, launch, iteration: Fault.CRASH_AFTER_REPORT if iteration == 2 else None)
    made.execute(launch(number=2, checkpoint=record(0, 1), iteration=1, time_total_s=1.0, next_checkpoint=2))
    assert made.wait() == Lost("a", 2, "the process was killed (simulated)")


def test_an_exception_or_a_wrong_report_fails_the_member() -> None:
    def bad(config: Config, state: Any) -> tuple[dict[str, Any], Any]:
        raise ZeroDivisionError("by h")

    for train, error in ((bad, "ZeroDivisionError: by h"), (lambda config, state: ({"loss": 1}, 0), "'score'")):
        made = SimulatedEngine(train, ReportRules("score"))
        made.add("a", 0)
        made.execute(launch())
        made.wait()
        failed = made.wait()
        assert isinstance(failed, Failed)
        assert error in failed.error


def test_none_is_a_function_that_returns() -> None:
    made = SimulatedEngine(lambda config, state: None, ReportRules("score"))
    made.add("a", 0)
    made.execute(launch())
    assert [made.wait() for _ in range(2)][1] == Finished("a", 1)


def test_faults_strike_as_often_as_told_and_the_same_for_the_same_seed() -> None:
    faults = random_faults(1, {Fault.CRASH: 0.1, Fault.RAISE: 0.3})
    told = [faults(index, 1, iteration) for index in range(50) for iteration in range(100)]
    assert told == [
        random_faults(1, {Fault.CRASH: 0.1, Fault.RAISE: 0.3})(i, 1, k) for i in range(50) for k in range(100)
    ]
    assert 400 < told.count(Fault.CRASH) < 600
    assert 1400 < told.count(Fault.RAISE) < 1600
    assert told.count(None) == 5000 - told.count(Fault.CRASH) - told.count(Fault.RAISE)


# ---- What the engine refuses -----------------------------------------------------------------------------------------


def refusal(made: SimulatedEngine, command: Any) -> str:
    with pytest.raises(BrokenContract) as raised:
        made.execute(command)
    return str(raised.value)


def test_a_slot_has_one_member_at_most() -> None:
    made = at_boundary()
    assert "slot 0 is taken by a" in refusal(made, launch("b"))
    made.execute(Park("a", 1))
    made.execute(launch("b"))
    assert "slot 0 is taken by b" in refusal(made, Continue("a", 1, 0, until=4.0))


def test_a_process_is_bound_to_its_device() -> None:
    made = engine("0", "1", "0")
    made.execute(launch(until=1.0))
    made.wait()
    made.wait()
    made.execute(Park("a", 1))
    assert "bound to device '0'" in refusal(made, launch(number=2, slot=1))
    assert "bound to '0'" in refusal(made, Continue("a", 1, 1, until=4.0))
    made.execute(Continue("a", 1, 2, until=4.0))


def test_only_a_member_that_waits_is_continued_parked_or_copied_over() -> None:
    made = engine()
    assert "it has no process" in refusal(made, Continue("a", 1, 0, until=None))
    assert "it has no process" in refusal(made, Park("a", 1))
    assert "it has no process" in refusal(made, Evict("a", 1))
    made.execute(launch())
    made.wait()
    made.wait()
    assert "training" in refusal(made, Continue("a", 1, 0, until=None))
    assert "training" in refusal(made, Park("a", 1))
    assert "training" in refusal(made, Evict("a", 1))
    assert "training" in refusal(made, launch(number=2))
    assert "training" in refusal(made, _exploit(record(0, 1)))


def test_a_message_to_another_launch_is_refused() -> None:
    made = at_boundary()
    assert "its launch is 1" in refusal(made, Continue("a", 2, 0, until=4.0))
    assert "launch 1 was before" in refusal(made, launch(number=1, fresh=False))


def test_fresh_means_that_there_is_no_process() -> None:
    assert "but its process is" in refusal(engine(), launch(fresh=False))
    assert "but its process is" in refusal(at_boundary(), launch(number=2, fresh=True))


def test_a_member_that_has_copied_can_only_be_launched() -> None:
    made = at_boundary()
    made.execute(_exploit(record(0, 1)))
    assert "but it is idle" in refusal(made, Continue("a", 1, 0, until=4.0))
    made.execute(Park("a", 1))
    assert "it is" in refusal(made, _exploit(record(0, 1)))


def _exploit(checkpoint: CheckpointRecord) -> Exploit:
    return Exploit("a", 1, 1, 2, None, "a", 2, checkpoint, {}, {}, {})


@pytest.mark.parametrize(
    ("changes", "checkpoint", "complaint"),
    [
        ({"iteration": 1, "time_total_s": 1.0}, record(7, 1), "was never saved"),
        (
            {"iteration": 1, "time_total_s": 1.0},
            record(0, 1, digest="other"),
            "holds a/checkpoint_000000@1/1, not other",
        ),
        ({"iteration": 2, "time_total_s": 1.0}, record(0, 1), "holds iteration 1"),
        ({"iteration": 2, "time_total_s": 2.0}, replace(record(0, 1), iteration=2), "holds iteration 1"),
        ({"iteration": 1, "time_total_s": 9.0}, record(0, 1), "and 1.0 seconds"),
        ({"iteration": 1, "time_total_s": 0.0}, None, "no checkpoint holds that"),
    ],
)
def test_a_launch_from_a_checkpoint_that_does_not_hold_that_step_is_refused(
    changes: dict[str, Any], checkpoint: CheckpointRecord | None, complaint: str
) -> None:
    assert complaint in refusal(at_boundary(), launch(number=2, checkpoint=checkpoint, **changes))


def test_a_deleted_checkpoint_is_neither_loaded_nor_copied_nor_deleted_again() -> None:
    made = at_boundary()
    assert made.checkpoints == {"a/checkpoint_000000", "a/checkpoint_000001"}
    made.execute(DeleteCheckpoint("a", 0))
    assert made.checkpoints == {"a/checkpoint_000001"}
    assert "there is no such checkpoint" in refusal(made, DeleteCheckpoint("a", 0))
    assert "the donor's checkpoint does not exist" in refusal(made, _exploit(record(0, 1)))
    gone = launch(number=2, checkpoint=record(0, 1), iteration=1, time_total_s=1.0)
    assert "a/checkpoint_000000 was deleted" in refusal(made, gone)


def test_a_number_of_a_checkpoint_is_never_used_again() -> None:
    made = at_boundary()
    made.execute(launch(number=2, checkpoint=record(1, 2), iteration=2, time_total_s=2.0, next_checkpoint=1))
    assert isinstance(made.wait(), Started)
    with pytest.raises(BrokenContract, match="two checkpoints would have the same name"):
        made.wait()


def test_who_is_evicted_must_go_on_from_where_it_waited() -> None:
    made = at_boundary()
    made.execute(Park("a", 1))
    made.execute(Evict("a", 1))
    back = launch(number=2, fresh=True, next_checkpoint=2)
    assert "work is lost" in refusal(made, replace(back, checkpoint=record(0, 1), iteration=1, time_total_s=1.0))


def test_who_holds_a_slot_is_not_evicted() -> None:
    assert "slot=0" in refusal(at_boundary(), Evict("a", 1))


def test_a_trial_is_stopped_once_and_then_left_alone() -> None:
    made = at_boundary()
    assert "that is no end" in refusal(made, Stop("a", 1, Status.PAUSED, ""))
    made.execute(Stop("a", 1, Status.TERMINATED, "done"))
    assert made.states == {"a": 2}
    assert "it was stopped before" in refusal(made, Stop("a", 1, Status.TERMINATED, "done"))
    assert "the trial has been stopped" in refusal(made, launch(number=2))


def test_only_what_has_failed_is_retried() -> None:
    assert "but it is" in refusal(at_boundary(), Retry("a", 1, 0, "no"))


def test_a_notice_says_something_and_other_things_are_no_commands() -> None:
    assert "it says nothing" in refusal(engine(), Notice("key", ""))
    assert "unknown command" in refusal(engine(), "launch")


# ---- Whole simulations -----------------------------------------------------------------------------------------------


class ForgetsItsMembers(FIFOScheduler):
    """A scheduler with a bug: at its boundary, nobody is ever named."""

    def policy(self, *, mode: str, seed: int, control: frozenset[int] = frozenset()) -> Any:
        policy: Any = super().policy(mode=mode, seed=seed)
        policy.until = lambda trial_id: 2.0
        policy.decide = lambda trial_id, time, score: []
        return policy


def test_a_scheduler_that_lets_members_wait_for_ever_is_found_out() -> None:
    with pytest.raises(BrokenContract, match="nothing will ever happen again, but 2 trials wait"):
        Simulation(count, [{}, {}], ForgetsItsMembers(), slots=2, validate=False).run()


def test_a_result_tells_the_whole_story() -> None:
    result = Simulation(count, [{}, {}], slots=2, stop={"training_iteration": 3}, num_to_keep=1).run()
    assert len(result.events) == len(result.commands) == 2 + 2 + 6
    assert result.states == {"trial_00000": 3, "trial_00001": 3}
    assert result.statuses == {"trial_00000": Status.TERMINATED, "trial_00001": Status.TERMINATED}
    assert (result.elapsed_s, result.busy_s, result.peak_processes, result.peak_checkpoints) == (3.0, 6.0, 2, 3)
    assert result.checkpoints == {"trial_00000/checkpoint_000002", "trial_00001/checkpoint_000002"}
    assert (result.exploits, result.notices, result.lineage) == ([], [], [])


def test_a_stopper_looks_at_each_report() -> None:
    seen: list[int] = []

    def stopper(report: Reported) -> str | None:
        seen.append(report.iteration)
        return "enough" if report.iteration == 4 else None

    result = Simulation(count, [{}], stopper=stopper).run()
    assert seen == [1, 2, 3, 4]
    assert [stop.reason for stop in result.of_kind(Stop)] == ["enough"]
