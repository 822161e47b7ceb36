"""Slots join and leave: what each event in between leads to."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.test_population import Story, added, kinds

from shoal.core.commands import Continue, Evict, HandOn, Launch, Park, Retry, Status
from shoal.core.events import Lost, Saved, SavedCheckpoint, SlotsJoined, SlotsLeft, StopAsked
from shoal.errors import InvalidTransition

# Boundaries are every two units of time.


def joined(story: Story, *devices: str, residents: int = 0) -> list[Any]:
    return story.tell(SlotsJoined(devices, residents))


def left(story: Story, *slots: int, residents: int = 0) -> list[Any]:
    return story.tell(SlotsLeft(slots, residents))


def died(story: Story, trial: str) -> list[Any]:
    return story.tell(Lost(trial, story[trial].launch, "the node died", innocent=True))


def launched(commands: list[Any]) -> list[tuple[str, int]]:
    return [(command.trial_id, command.slot) for command in commands if isinstance(command, Launch | Continue)]


def test_without_a_slot_all_wait_and_slots_that_join_are_given_in_order() -> None:
    story = Story("abc", devices=())
    assert story.added == [[], [], []]
    assert launched(joined(story, "x", "y")) == [("a", 0), ("b", 1)]
    assert launched(joined(story, "y", "y")) == [("c", 2)]
    assert {trial: story[trial].device for trial in "abc"} == {"a": "x", "b": "y", "c": "y"}


def test_slots_are_numbered_on_after_some_have_left() -> None:
    story = Story("a", devices=())
    joined(story, "x", "x")
    left(story, 0, 1)
    died(story, "a")
    assert launched(joined(story, "x")) == [("a", 2)]


def test_a_slot_that_nobody_held_is_never_given_out_once_it_has_left() -> None:
    story = Story("", devices=("x", "x"))
    left(story, 0)
    story.added.append(story.tell(added("a", 0)))
    assert launched(story.added[-1]) == [("a", 1)]


def test_who_held_the_slot_keeps_it_until_it_is_heard_that_its_process_is_gone() -> None:
    story = Story("ab", devices=("x",))
    story.report("a", save=True)
    assert left(story, 0) == []
    assert story["a"].status is Status.RUNNING
    commands = died(story, "a")
    assert [type(command) for command in commands] == [Retry]
    assert (commands[0].innocent, commands[0].iteration) == (True, 1)
    assert story["a"].failures == 0
    assert launched(joined(story, "y", "y")) == [("b", 1), ("a", 2)]


def test_a_report_from_before_counts_and_where_it_waits_the_member_goes_on_elsewhere() -> None:
    story = Story("a", devices=("x", "y"))
    left(story, 0)
    assert story.report("a") == []
    commands = story.report("a", save=True)
    assert kinds(commands) == ["Park", "Evict", "Launch"]
    assert (commands[2].slot, commands[2].iteration) == (1, 2)
    # And that it is gone is no news any more.
    assert story.tell(Lost("a", 1, "the node died", innocent=True)) == []
    assert story["a"].slot == 1


def test_a_member_that_waits_for_a_stopper_gives_up_a_slot_that_has_left() -> None:
    story = Story("a", devices=("x",))
    left(story, 0)
    assert story.report("a", waiting=True) == [Park("a", 1)]
    assert kinds(died(story, "a")) == ["Retry"], "nothing holds what it did"
    assert launched(joined(story, "y")) == [("a", 1)]


def test_what_it_was_asked_to_save_ends_it() -> None:
    story = Story("a", devices=("x",), save_at_end=True)
    assert kinds(story.report("a", stop="done", waiting=True)) == ["Save"]
    left(story, 0)
    assert kinds(story.tell(Saved("a", 1, SavedCheckpoint(0, "digest", 1)))) == ["Stop"]
    assert story.population.ended


def test_a_function_that_raises_there_has_failed_as_anywhere_and_its_death_is_no_second_failure() -> None:
    story = Story("a", devices=("x",), max_failures=1)
    left(story, 0)
    assert kinds(story.fail("a")) == ["Retry"]
    assert died(story, "a") == []
    assert story["a"].failures == 1
    assert launched(joined(story, "y")) == [("a", 1)]


def test_who_is_never_heard_to_be_gone_can_be_moved_where_a_checkpoint_holds_all_that_it_has() -> None:
    story = Story("ab", devices=("x", "y"))
    story.reach_boundary("a", save=True)
    left(story, 0)
    assert story["a"].slot == 0
    assert kinds(story.reach_boundary("a", save=True)) == ["Park"]
    commands = story.report("b", stop="done", waiting=True)
    assert kinds(commands) == ["Stop", "Evict", "Launch"]
    assert (story["a"].slot, story["a"].iteration) == (1, 4)


def test_a_promise_of_the_slot_is_withdrawn_and_who_had_it_waits_for_any_other() -> None:
    story = Story("ab", devices=("",), hands_on=True)
    assert [command for command in story.report("a") if isinstance(command, HandOn)]
    left(story, 0)
    assert (story["b"].promised, story["b"].queued > 0, story["b"].ready) == (None, True, True)
    assert launched(joined(story, "")) == [("b", 1)]


def test_who_was_promised_a_slot_goes_on_in_one_that_joins_on_its_device() -> None:
    story = Story("ab", devices=("x",), hands_on=True)
    story.report("a")
    assert joined(story, *["y"] * 6) == []
    assert [type(command) for command in joined(story, *["x"] * 6)] == [Continue]
    assert story["b"].slot == 7


def test_no_slot_that_has_left_is_promised() -> None:
    story = Story("ab", devices=("x",), hands_on=True)
    left(story, 0)
    assert story.report("a") == []
    assert story["b"].promised is None


def test_a_member_that_is_parked_on_a_node_that_died_has_lost_nothing() -> None:
    story = Story("ab", devices=("x", "y"))
    story.holds("a")
    story.reach_boundary("a", save=True)
    left(story, 0)
    assert died(story, "a") == []
    assert (story["a"].failures, story["a"].iteration, story["a"].resident) == (0, 2, False)


def test_all_end_where_that_is_asked_while_there_is_no_slot() -> None:
    story = Story("ab", devices=())
    assert kinds(story.tell(StopAsked("enough"))) == ["Stop", "Stop"]
    assert joined(story, "x") == []


def test_the_limit_of_processes_grows_and_shrinks_with_nodes_and_none_stays_none() -> None:
    story = Story("abc", devices=(), residents=0)
    joined(story, "x", residents=1)
    assert kinds(story.reach_boundary("a", save=True)) == ["Park", "Evict", "Launch"]
    joined(story, "y", residents=2)
    assert len([trial for trial in "abc" if story[trial].resident]) == 2
    left(story, 1, residents=2)
    assert story.population._room == 1
    endless = Story("a", devices=())
    joined(endless, "x", residents=5)
    assert endless.population._room is None


def test_processes_that_are_about_to_be_heard_of_as_gone_take_nobodys_room() -> None:
    story = Story("abcd", devices=("x", "x"), residents=2)
    left(story, 0, 1)
    commands = joined(story, "y", "y")
    assert launched(commands) == [("c", 2), ("d", 3)]
    assert not [command for command in commands if not isinstance(command, Launch)], "no notice, and nobody is evicted"


def test_a_node_that_joins_takes_one_that_waits_elsewhere_rather_than_let_its_own_run_away() -> None:
    story = Story("abc", devices=())
    joined(story, "x")
    story.reach_boundary("a", save=True)
    story.reach_boundary("b", save=True)
    story.reach_boundary("c", save=True)
    assert kinds(joined(story, "y")) == ["Evict", "Launch"]
    runs = next(trial for trial in "abc" if story[trial].device == "y")
    assert kinds(story.reach_boundary(runs, save=True)) == ["Continue"]
    commands = story.reach_boundary(runs, save=True)
    assert [type(command) for command in commands] == [Park, Evict, Launch]
    assert story[runs].slot is None


@pytest.mark.parametrize("slots", [(2,), (-1,), (0, 0)])
def test_slots_that_are_not_there_cannot_leave(slots: tuple[int, ...]) -> None:
    story = Story("a", devices=("x", "x"))
    with pytest.raises(InvalidTransition, match="there is no slot"):
        story.tell(SlotsLeft(slots))


@pytest.mark.parametrize(("devices", "more"), [(("",), ("x",)), (("x",), ("",)), ((), ("x", ""))])
def test_slots_are_alike_or_not(devices: tuple[str, ...], more: tuple[str, ...]) -> None:
    story = Story("a", devices=devices)
    with pytest.raises(InvalidTransition, match="some slots are alike and others are not"):
        story.tell(SlotsJoined(more))
