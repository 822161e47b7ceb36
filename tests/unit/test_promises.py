"""Slots that are promised one report ahead, where members can hand them on by themselves."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.test_population import Story, ToldPolicy, kinds

from shoal.core.commands import Continue, Evict, HandOn, Launch, Park, Retry, Status, Stop, WindUp
from shoal.core.events import Damaged, StopAsked
from shoal.errors import InvalidTransition

# Boundaries are every two units of time.


def story(trials: str = "ab", **limits: Any) -> Story:
    return Story(trials, hands_on=True, **limits)


def promises(commands: list[Any]) -> list[tuple[str, str, int]]:
    return [(command.trial_id, command.to, command.slot) for command in commands if isinstance(command, HandOn)]


def test_who_is_next_gets_ready_one_report_before_the_boundary_and_is_promised_the_slot() -> None:
    told = story()
    commands = told.report("a")
    assert commands == [
        Launch("b", 1, 0, {"lr": "b"}, None, 0, 0.0, next_checkpoint=0, until=2.0, fresh=True, waits=True),
        HandOn("a", 1, 0, to="b", to_launch=1, to_iteration=0, until=2.0),
    ]
    assert (told["b"].status, told["b"].slot, told["b"].promised, told["b"].waiting) == (Status.PAUSED, None, 0, True)
    assert told.report("a", save=True) == [Park("a", 1), Continue("b", 1, 0, until=2.0)]
    assert (told["b"].slot, told["b"].promised, told["b"].ready) == (0, None, False)


def test_where_members_cannot_hand_on_nothing_is_promised() -> None:
    told = Story("ab")
    assert told.report("a") == []


def test_with_a_boundary_at_each_report_the_promise_comes_with_the_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToldPolicy, "interval", 1.0)
    told = story()
    assert kinds(told.report("a", save=True)) == ["Park", "Launch"], "how far a report leads is not known at first"
    assert kinds(told.report("b", save=True)) == ["Continue", "HandOn"]
    for holder, other in ("ba", "ab", "ba"):
        commands = told.report(holder, save=True)
        assert [kind for kind in kinds(commands) if kind != "DeleteCheckpoint"] == ["Park", "Continue", "HandOn"]
        assert promises(commands) == [(other, holder, 0)]


def test_a_member_that_waits_in_its_report_is_promised_the_slot_as_it_is() -> None:
    told = story()
    told.reach_boundary("a", save=True)
    assert told.report("b") == [HandOn("b", 1, 0, to="a", to_launch=1, to_iteration=2, until=4.0)]
    assert kinds(told.report("b", save=True)) == ["Park", "Continue"]


def test_one_that_exploits_gets_ready_for_its_turn() -> None:
    told = story()
    told.reach_boundary("a", save=True)
    told.copies("b", "a")
    commands = told.reach_boundary("b", save=True)
    assert [kind for kind in kinds(commands) if kind != "DeleteCheckpoint"] == ["Exploit", "Park", "Continue"]
    launch, promise = told.report("a")
    assert (launch.trial_id, launch.waits, launch.fresh, launch.launch) == ("b", True, False, 2)
    assert promise == HandOn("a", 1, 0, to="b", to_launch=2, to_iteration=2, until=4.0)
    assert kinds(told.report("a", save=True))[-1] == "Continue"


def test_a_slot_is_promised_once() -> None:
    told = story("abc")
    assert promises(told.report("a")) == [("a", "b", 0)]
    told.policy.boundary["a"] = 10.0
    assert told.report("a", waiting=False) == []


def test_two_slots_are_promised_to_two() -> None:
    told = story("abcd", devices=("", ""))
    assert promises(told.report("a")) == [("a", "c", 0)]
    assert promises(told.report("b")) == [("b", "d", 1)]


def test_one_that_has_trained_more_than_the_holder_will_have_is_promised_nothing() -> None:
    told = story()
    told.reach_boundary("a")
    told.reach_boundary("b")  # a is in the slot again, b waits at 2
    told.report("a")
    told.policy.boundary["b"] = 2.0
    assert told["a"].slot == 0
    assert told["b"].promised == 0
    other = story()
    other["b"].time = 7.0
    other.population._queue.clear()
    other.population._queue.add(other["b"])
    assert other.report("a") == []


def test_who_was_promised_a_slot_goes_on_where_one_is_free_before() -> None:
    told = story("abc", devices=("", ""))
    told.report("a")
    assert told["c"].promised == 0
    commands = told.report("b", stop="done", waiting=True)
    assert commands == [Stop("b", 1, Status.TERMINATED, "done"), Continue("c", 1, 1, until=2.0)]
    assert told["c"].promised is None


def test_nobody_waits_for_a_slow_holder_because_of_a_promise() -> None:
    told = story("abc", devices=("", ""))
    told.report("a")
    assert told["c"].promised == 0
    # a takes for ever; b comes to its boundary again and again.
    assert told.reach_boundary("b") == [Park("b", 1), Continue("c", 1, 1, until=2.0)]
    assert promises(told.report("c")) == [("c", "b", 1)]
    assert promises(told.report("c", save=True)) == []
    assert told["b"].slot == 1


def test_who_is_ready_goes_before_who_has_trained_the_same() -> None:
    told = story("abcd", devices=("", ""), residents=3)
    assert promises(told.report("a")) == [("a", "c", 0)]
    told.report("b")
    assert told["d"].promised is None, "there is no room for it"
    assert kinds(told.report("b", save=True)) == ["Park", "Continue"]
    assert told["c"].slot == 1


def test_the_promise_holds_where_the_holder_fails() -> None:
    told = story(max_failures=1)
    told.report("a")
    commands = told.fail("a")
    assert isinstance(commands[0], Retry)
    assert commands[1:] == [Continue("b", 1, 0, until=2.0)]


def test_the_promise_holds_where_the_holder_ends() -> None:
    told = story()
    told.report("a")
    assert told.report("a", stop="done", waiting=True) == [
        Stop("a", 1, Status.TERMINATED, "done"),
        Continue("b", 1, 0, until=2.0),
    ]


def test_one_that_dies_while_it_gets_ready_has_failed() -> None:
    """Else one that can never be started would be started again and again."""
    told = story()
    told.report("a")
    assert kinds(told.lose("b")) == ["Stop"]
    assert told["b"].status is Status.ERROR
    again = story(max_failures=1)
    again.report("a")
    assert kinds(again.lose("b")) == ["Retry"]
    assert again["b"].queued


def test_one_that_dies_while_it_waits_for_the_slot_that_it_was_promised_has_not() -> None:
    told = story()
    told.reach_boundary("a", save=True)
    told.report("b")
    assert told["a"].promised == 0
    assert told.lose("a") == []
    assert told["a"].queued
    assert told["a"].promised is None
    assert kinds(told.report("b", save=True)) == ["Continue"], "it has trained no more than the one that waits"


def test_a_damaged_checkpoint_is_found_before_the_slot_is_there() -> None:
    told = story("ab", keep=None)
    told.report("a", save=True)
    told.report("a", save=True)  # b has the slot
    told.lose("a")
    record = told["a"].restore
    [launch, _] = told.report("b")
    assert (launch.trial_id, launch.checkpoint, launch.waits) == ("a", record, True)
    commands = told.tell(Damaged("a", launch.launch, record.id, "its bytes have changed"))
    assert kinds(commands) == ["FallBack", "DeleteCheckpoint"]
    assert told["a"].promised is None
    commands = told.report("b", save=True)
    assert kinds(commands) == ["Park", "Launch"]
    assert commands[1].checkpoint.iteration == 1


def test_all_that_wait_end_with_the_experiment() -> None:
    told = story()
    told.report("a")
    commands = told.tell(StopAsked("enough"))
    assert kinds(commands) == ["Stop", "Stop"]
    assert told.population.ended


def test_who_may_train_by_the_holders_word_comes_to_its_next_report_too() -> None:
    told = story()
    told.report("a")
    assert told.tell(StopAsked("interrupted", gently=True)) == [WindUp("a", 1), WindUp("b", 1)]
    assert told.tell(StopAsked("again", gently=True)) == []
    told.policy.boundary["b"] = 9.0
    assert told.report("b") == [], "it may have sent more before it was asked"
    assert told.report("b") == []
    assert told["b"].iteration == 2
    assert kinds(told.report("a")) == ["Stop"]
    assert kinds(told.lose("b")) == ["Stop"]
    assert told["b"].iteration == 2
    assert told.population.ended


def test_a_report_that_waits_is_the_last_of_one_that_is_to_leave() -> None:
    told = story()
    told.report("a")
    told.tell(StopAsked("interrupted", gently=True))
    assert told.report("b") == []
    assert kinds(told.report("b", save=True)) == ["Stop"]
    assert told["b"].restore.iteration == 2


def test_one_that_was_to_leave_and_had_not_begun_ends() -> None:
    told = story()
    told.report("a")
    told.tell(StopAsked("interrupted", gently=True))
    assert kinds(told.lose("b")) == ["Stop"]
    assert told["b"].status is Status.TERMINATED
    assert told["b"].cut


def test_nobody_gets_ready_where_there_is_no_room_for_one_more_process() -> None:
    told = story("ab", residents=1)
    assert told.report("a") == []
    commands = told.report("a", save=True)
    assert kinds(commands) == ["Park", "Evict", "Launch"]


def test_who_has_trained_more_makes_room_for_who_gets_ready() -> None:
    told = story("abc", residents=2)
    told.report("a")
    told.report("a", save=True)  # b has the slot, a is parked
    commands = told.report("b")
    assert kinds(commands) == ["Evict", "Launch", "HandOn"]
    assert commands[0] == Evict("a", 1)
    assert commands[1].trial_id == "c"


def test_who_was_promised_a_slot_on_another_device_does_not_move() -> None:
    told = story("abc", devices=("0", "1"))
    told.report("a")
    assert (told["c"].promised, told["c"].device) == (0, "0")
    commands = told.report("b", stop="done", waiting=True)
    assert kinds(commands) == ["Stop"]
    assert told["c"].promised == 0


def test_a_report_of_one_that_has_no_slot_yet_is_a_bug_of_the_engine() -> None:
    told = story()
    told.report("a")
    with pytest.raises(InvalidTransition, match="reports without a slot"):
        told.report("b")
