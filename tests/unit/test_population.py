"""What follows from each event: the population, with a policy that does as it is told."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import pytest

from shoal.core.commands import (
    CheckpointRecord,
    Command,
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
from shoal.core.events import Failed, Finished, Lost, Reported, SavedCheckpoint, Started, StopAsked, TrialAdded
from shoal.core.limits import Limits, RetentionRules
from shoal.core.policy import Copy, Decision, Proceed
from shoal.core.population import BARREN_AT_MOST, Population
from shoal.errors import InvalidTransition
from shoal.schedulers.fifo import _FIFO


class ToldPolicy(_FIFO):
    """Decides what the test says; else lets everybody go on. Boundaries are every ``interval`` units of time."""

    interval = 2.0

    def __init__(self) -> None:
        self.answers: dict[str, list[Decision]] = {}
        self.when_gone: dict[str, list[Decision]] = {}
        self.boundary: dict[str, float] = defaultdict(lambda: self.interval)
        self.observed: list[tuple[str, float | None, str | None]] = []
        self.withdrawn: list[str] = []
        self.settled: list[Decision] = []
        self.notices: list[tuple[str, str]] = []

    def until(self, trial_id: str) -> float | None:
        return self.boundary[trial_id]

    def observe(self, trial_id: str, score: float | None, checkpoint: CheckpointRecord | None) -> None:
        self.observed.append((trial_id, score, None if checkpoint is None else checkpoint.id))

    def decide(self, trial_id: str, time: float, score: float | None) -> list[Decision]:
        decisions = self.answers.get(trial_id, [Proceed(trial_id)])
        for decision in decisions:
            self.boundary[decision.trial_id] = time + self.interval
        return decisions

    def withdraw(self, trial_id: str) -> None:
        self.withdrawn.append(trial_id)

    def gone(self, trial_id: str, donates: bool = False) -> None:
        self.settled = self.when_gone.get(trial_id, [])

    def settle(self) -> list[Decision]:
        return self.settled

    def notice(self) -> tuple[str, str] | None:
        return self.notices.pop(0) if self.notices else None


class Story:
    """A population of trials ``a``, ``b``, ... and short words for what happens to them."""

    def __init__(
        self,
        trials: str = "ab",
        *,
        keep: int | None = None,
        time_attr: str = "training_iteration",
        score_attribute: str | None = None,
        **limits: Any,
    ) -> None:
        settings: dict[str, Any] = {"devices": ("",), **limits}
        self.policy = ToldPolicy()
        self.population = Population(
            self.policy,
            metric="score",
            time_attr=time_attr,
            limits=Limits(**settings),
            retention=RetentionRules(keep, score_attribute),
        )
        self.added = [self.tell(added(trial, index)) for index, trial in enumerate(trials)]

    def __getitem__(self, trial: str) -> Any:
        return self.population.trials[trial]

    def tell(self, event: Any) -> list[Any]:
        commands = self.population.apply(event)
        self.population.validate()
        return commands

    def report(self, trial: str, *, save: bool = False, launch: int | None = None, **fields: Any) -> list[Any]:
        """The next report; it waits where a real member would."""
        state = self[trial]
        iteration = fields.pop("iteration", state.iteration + 1)
        defaults: dict[str, Any] = {
            "metrics": {"score": 1.0},
            "waiting": iteration >= self.policy.boundary[trial],
            "checkpoint": SavedCheckpoint(state.next_checkpoint, "digest", 1) if save else None,
            "time_total_s": 10.0 * iteration,
        }
        return self.tell(Reported(trial, state.launch if launch is None else launch, iteration, **(defaults | fields)))

    def reach_boundary(self, trial: str, *, save: bool = False) -> list[Any]:
        self.report(trial)
        return self.report(trial, save=save)

    def lose(self, trial: str, launch: int | None = None) -> list[Any]:
        return self.tell(Lost(trial, self[trial].launch if launch is None else launch, "killed"))

    def fail(self, trial: str, launch: int | None = None) -> list[Any]:
        return self.tell(Failed(trial, self[trial].launch if launch is None else launch, "ValueError: no", "Traceback"))

    def copies(self, trial: str, donor: str) -> None:
        """From now on the trial copies the donor's newest checkpoint at its boundary."""
        checkpoint = self[donor].restore
        self.policy.answers[trial] = [Copy(trial, donor, checkpoint, self[donor].config, {"lr": "new"})]

    def holds(self, trial: str) -> None:
        """From now on the trial stays at its boundary until another's decision names it."""
        self.policy.answers[trial] = []


def added(trial: str, index: int) -> TrialAdded:
    return TrialAdded(trial, index, trial, trial, trial, {"lr": trial})


def kinds(commands: list[Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


# ---- Starting --------------------------------------------------------------------------------------------------------


def test_trials_start_in_order_until_the_slots_are_taken() -> None:
    story = Story("abc", devices=("", ""))
    assert [kinds(commands) for commands in story.added] == [["Launch"], ["Launch"], []]
    assert story.added[0] == [
        Launch("a", 1, 0, {"lr": "a"}, None, 0, 0.0, next_checkpoint=0, until=2.0, fresh=True),
    ]
    assert [trial.trial_id for trial in story.population.running] == ["a", "b"]
    assert story["c"].status is Status.PENDING


def test_a_population_without_trials_has_ended() -> None:
    assert Story("").population.ended
    assert not Story("a").population.ended


def test_started_changes_nothing_but_is_remembered() -> None:
    story = Story("a")
    assert story.tell(Started("a", 1, 4711, "host")) == []
    assert "started, pid 4711" in story["a"].story


# ---- Reports ---------------------------------------------------------------------------------------------------------


def test_a_report_before_the_boundary_leads_to_nothing() -> None:
    story = Story("a")
    assert story.report("a", metrics={"score": 0.5}) == []
    assert (story["a"].iteration, story["a"].score, story["a"].time_total_s) == (1, 0.5, 10.0)
    assert story.policy.observed == [("a", 0.5, None)]


def test_a_member_that_waits_at_its_boundary_goes_on_as_the_policy_says() -> None:
    story = Story("a")
    assert story.reach_boundary("a") == [Continue("a", 1, 0, until=4.0)]


def test_a_member_that_waits_before_its_boundary_goes_on_without_the_policy() -> None:
    story = Story("a")
    story.holds("a")
    assert story.report("a", waiting=True) == [Continue("a", 1, 0, until=2.0)]


def test_a_report_that_stops_ends_the_trial_and_frees_its_slot() -> None:
    story = Story("ab")
    commands = story.report("a", stop="score is 1, at least 1", waiting=True)
    assert commands[0] == Stop("a", 1, Status.TERMINATED, "score is 1, at least 1")
    assert [(command.trial_id, command.slot) for command in commands[1:] if isinstance(command, Launch)] == [("b", 0)]


def test_score_time_and_rank_may_be_nested_or_automatic() -> None:
    story = Story("a", time_attr="info/frames", score_attribute="time_total_s")
    story.report("a", metrics={"score": 1, "info": {"frames": 640}}, save=True, waiting=False)
    record = story["a"].restore
    assert (record.time, record.score, record.rank, record.iteration) == (640.0, 1.0, 10.0, 1)


@pytest.mark.parametrize(
    ("time_attr", "expected"),
    [
        ("training_iteration", 1.0),
        ("time_total_s", 10.0),
        ("time_since_restore", 5.0),
        ("time_this_iter_s", 4.0),
        ("iterations_since_restore", 3.0),
        ("timestamp", 1e9),
        ("epoch", 7.0),
    ],
)
def test_progress_can_be_measured_by_any_number_of_a_report(time_attr: str, expected: float) -> None:
    story = Story("a", time_attr=time_attr)
    story.report(
        "a",
        metrics={"score": 1.0, "epoch": 7, "time_total_s": "the automatic value counts"},
        waiting=False,
        time_this_iter_s=4.0,
        time_since_restore=5.0,
        iterations_since_restore=3,
        timestamp=1e9,
    )
    assert story["a"].time == expected


@pytest.mark.parametrize("epoch", [None, math.nan, math.inf, "one"])
def test_where_progress_cannot_be_measured_iterations_count(epoch: object) -> None:
    story = Story("a", time_attr="epoch")
    story.report("a", metrics={"epoch": epoch}, waiting=False)
    assert story["a"].time == 1.0
    assert story["a"].score is None


def test_a_checkpoint_belongs_to_the_step_of_its_report() -> None:
    story = Story("a")
    story.report("a")
    story.report("a", save=True, metrics={"score": 0.25}, checkpoint=SavedCheckpoint(7, "abc", 99))
    assert story["a"].restore == CheckpointRecord(
        "a/checkpoint_000007", "a", 7, "abc", 99, iteration=2, time=2.0, time_total_s=20.0, score=0.25, rank=None
    )
    assert story["a"].next_checkpoint == 8
    assert story.policy.observed[-1] == ("a", 0.25, "a/checkpoint_000007")


# ---- Slots -----------------------------------------------------------------------------------------------------------


def test_at_its_boundary_a_member_passes_its_slot_to_one_that_has_trained_less() -> None:
    story = Story("ab")
    park, launch = story.reach_boundary("a")
    assert park == Park("a", 1)
    assert launch == Launch("b", 1, 0, {"lr": "b"}, None, 0, 0.0, next_checkpoint=0, until=2.0, fresh=True)
    assert (story["a"].status, story["b"].status) == (Status.PAUSED, Status.RUNNING)


def test_a_member_that_has_trained_as_much_as_the_next_keeps_its_slot() -> None:
    story = Story("ab")
    story.reach_boundary("a")
    assert kinds(story.reach_boundary("b")) == ["Continue"]
    assert story["b"].status is Status.RUNNING


def test_a_parked_member_goes_on_in_its_own_process_without_a_checkpoint() -> None:
    story = Story("ab")
    story.reach_boundary("a")
    story.reach_boundary("b")
    assert story.reach_boundary("b") == [Park("b", 1), Continue("a", 1, 0, until=4.0)]


def test_a_member_that_no_decision_names_stays_at_its_boundary_without_a_slot() -> None:
    story = Story("ab", devices=("", ""))
    story.holds("a")
    assert story.reach_boundary("a") == [Park("a", 1)]
    assert story["a"].queued == 0
    story.policy.answers["b"] = [Proceed("a"), Proceed("b")]
    assert sorted(kinds(story.reach_boundary("b"))) == ["Continue", "Continue"]


def test_the_last_at_the_barrier_keeps_its_slot_where_others_find_a_free_one() -> None:
    story = Story("abc", devices=("", "", ""))
    for trial in "ab":
        story.holds(trial)
        story.reach_boundary(trial, save=True)
    story.policy.answers["c"] = [Proceed("c"), Proceed("a"), Proceed("b")]
    assert kinds(story.reach_boundary("c", save=True)) == ["Continue"] * 3
    assert sorted(trial.slot for trial in story.population.running if trial.slot is not None) == [0, 1, 2]


def test_a_process_is_only_continued_on_its_own_device() -> None:
    story = Story("abc", devices=("0", "1"))
    story.reach_boundary("a")  # c takes its slot, and nobody is left for the other device.
    assert story["a"].device == "0"
    commands = story.report("b", stop="done", waiting=True)
    assert kinds(commands) == ["Stop"], "a would lose its work on device 1, so that slot stays free"
    assert kinds(story.report("c", stop="done", waiting=True)) == ["Stop", "Continue"]


def test_a_member_moves_to_an_idle_device_where_a_checkpoint_holds_all_that_it_has() -> None:
    story = Story("abc", devices=("0", "1"))
    story.reach_boundary("a", save=True)
    commands = story.report("b", stop="done", waiting=True)
    assert kinds(commands) == ["Stop", "Evict", "Launch"]
    assert isinstance(commands[2], Launch)
    assert (commands[2].trial_id, commands[2].slot, commands[2].iteration, commands[2].fresh) == ("a", 1, 2, True)


def test_a_member_is_not_parked_for_one_that_is_bound_to_another_device() -> None:
    story = Story("abc", devices=("0", "1"))
    story.reach_boundary("a", save=True)  # Waits for device 0, where c runs now.
    assert kinds(story.reach_boundary("b")) == ["Continue"]
    assert kinds(story.reach_boundary("b")) == ["Continue"], "a has trained less, but waits for device 0"


# ---- Residents -------------------------------------------------------------------------------------------------------


def test_the_most_trained_leaves_where_no_more_processes_are_allowed() -> None:
    story = Story("abc", residents=2)
    story.policy.boundary["a"] = 3.0
    story.report("a")
    story.reach_boundary("a", save=True)
    commands = story.reach_boundary("b", save=True)
    assert kinds(commands) == ["Park", "Evict", "Launch"]
    assert commands[1] == Evict("a", 1)
    assert [trial for trial in "abc" if story[trial].resident] == ["b", "c"]


def test_who_left_comes_back_from_its_checkpoint() -> None:
    story = Story("ab", residents=1)
    story.reach_boundary("a", save=True)
    assert not story["a"].resident
    launch = story.report("b", stop="done", waiting=True)[-1]
    assert isinstance(launch, Launch)
    assert (launch.trial_id, launch.launch, launch.iteration, launch.fresh) == ("a", 2, 2, True)
    assert launch.checkpoint == story["a"].restore


def test_who_left_can_come_back_on_any_device() -> None:
    story = Story("abc", devices=("0", "1"), residents=2)
    assert kinds(story.reach_boundary("a", save=True)) == ["Park", "Evict", "Launch"]
    story.reach_boundary("b", save=True)
    assert story["b"].status is Status.RUNNING, "a has trained as much"
    park, evict, launch = story.reach_boundary("b", save=True)
    assert (park, evict) == (Park("b", 1), Evict("b", 1))
    assert isinstance(launch, Launch)
    assert (launch.trial_id, launch.slot, launch.iteration) == ("a", 1, 2)


def test_nobody_leaves_who_would_lose_work_and_the_user_is_told_once() -> None:
    story = Story("abcd", residents=1)
    said = [command for trial in "abc" for command in story.reach_boundary(trial) if isinstance(command, Notice)]
    assert [notice.key for notice in said] == ["residents"]
    assert all(story[trial].waiting for trial in "abc")


# ---- Exploits --------------------------------------------------------------------------------------------------------


def test_a_copy_brings_the_donors_checkpoint_with_the_new_config_into_the_same_process() -> None:
    story = Story("ab", devices=("", ""))
    story.report("b", save=True)
    story.copies("a", "b")
    exploit, launch = story.reach_boundary("a", save=True)
    assert exploit == Exploit(
        trial_id="a", launch=1, generation=1, iteration=2, score=1.0, donor_id="b", donor_iteration=1,
        checkpoint=story["b"].restore, donor_config={"lr": "b"}, old_config={"lr": "a"}, new_config={"lr": "new"},
    )  # fmt: skip
    assert launch == Launch(
        "a", 2, 0, {"lr": "new"}, story["b"].restore, 1, 10.0, next_checkpoint=1, until=4.0, fresh=False, generation=1
    )
    assert (story["a"].iteration, story["a"].time, story["a"].config) == (1, 1.0, {"lr": "new"})


def test_the_donors_checkpoint_stays_while_the_copy_may_need_it() -> None:
    story = Story("ab", devices=("", ""), keep=1, max_failures=1)
    story.report("b", save=True)
    story.copies("a", "b")
    story.reach_boundary("a")
    assert story.report("b", save=True) == [Continue("b", 1, 1, until=4.0)], "checkpoint 0 of b is not deleted"
    retry, launch = story.fail("a")
    assert isinstance(retry, Retry)
    assert isinstance(launch, Launch)
    assert launch.checkpoint is not None
    assert launch.checkpoint.id == "b/checkpoint_000000"
    assert story.report("a", save=True) == [DeleteCheckpoint("b", 0)], "a has one of its own now"


def test_a_process_that_dies_between_decision_and_launch_costs_nothing() -> None:
    story = Story("abc", devices=("",))
    story.report("a", save=True)
    story.copies("a", "a")
    assert kinds(story.report("a")) == ["Exploit", "Park", "Launch"]
    assert story.lose("a") == []
    assert story["a"].failures == 0
    assert story["a"].queued


# ---- Ends and failures -----------------------------------------------------------------------------------------------


def test_a_function_that_returns_ends_its_trial_well() -> None:
    story = Story("a")
    story.report("a")
    assert story.tell(Finished("a", 1)) == [Stop("a", 1, Status.TERMINATED, "the function returned")]
    assert story.population.ended


def test_a_function_that_returns_without_a_report_has_failed_and_the_user_is_told_what_to_do() -> None:
    (stop,) = Story("a").tell(Finished("a", 1))
    assert isinstance(stop, Stop)
    assert stop.status is Status.ERROR
    assert "tune.report(metrics)" in stop.reason


def test_a_failure_ends_the_trial_and_the_others_go_on() -> None:
    story = Story("ab")
    stop, launch = story.fail("a")
    assert stop == Stop("a", 1, Status.ERROR, "ValueError: no")
    assert isinstance(launch, Launch)
    assert launch.trial_id == "b"


@pytest.mark.parametrize("end", ["fail", "lose"])
def test_a_failed_trial_is_launched_again_from_its_last_checkpoint(end: str) -> None:
    story = Story("a", max_failures=1)
    story.report("a", save=True)
    story.report("a", waiting=False)
    retry, launch = getattr(story, end)("a")
    assert retry == Retry("a", 1, 1, "ValueError: no" if end == "fail" else "killed")
    assert (launch.launch, launch.iteration, launch.time_total_s, launch.next_checkpoint) == (2, 1, 10.0, 1)
    assert launch.fresh == (end == "lose"), "a function that raised left its process in order"
    assert kinds(getattr(story, end)("a")) == ["Stop"]


def test_failures_may_be_without_limit() -> None:
    story = Story("a", max_failures=-1)
    for _ in range(50):
        story.report("a", waiting=False)
        assert kinds(story.fail("a")) == ["Retry", "Launch"]


def test_a_trial_that_fails_again_and_again_without_a_report_has_failed_for_good() -> None:
    story = Story("a", max_failures=-1)
    for _ in range(BARREN_AT_MOST - 1):
        assert kinds(story.fail("a")) == ["Retry", "Launch"]
    (stop,) = story.lose("a")
    assert isinstance(stop, Stop)
    assert stop.status is Status.ERROR
    assert f"failed {BARREN_AT_MOST} times in a row" in stop.reason
    assert "killed" in stop.reason


def test_with_fail_fast_the_first_failure_for_good_ends_all() -> None:
    story = Story("ab", devices=("", ""), max_failures=1, fail_fast=True)
    assert kinds(story.fail("a")) == ["Retry", "Launch"]
    assert story.fail("a") == [
        Stop("a", 2, Status.ERROR, "ValueError: no"),
        Stop("b", 1, Status.TERMINATED, "fail_fast: trial a failed"),
    ]
    assert story.population.stopping == "fail_fast: trial a failed"


def test_when_asked_to_stop_all_stop_once_and_a_second_time_nothing_happens() -> None:
    story = Story("abc")
    story.reach_boundary("a")
    assert [command.reason for command in story.tell(StopAsked("enough")) if isinstance(command, Stop)] == [
        "enough"
    ] * 3
    assert story.tell(StopAsked("enough")) == []
    assert story.population.ended


def test_an_end_can_decide_for_those_that_waited() -> None:
    story = Story("ab", devices=("", ""))
    story.holds("a")
    story.reach_boundary("a")
    story.policy.when_gone["b"] = [Proceed("a")]
    assert kinds(story.fail("b")) == ["Stop", "Continue"]


def test_what_the_policy_has_to_say_is_said_once_for_each_key() -> None:
    story = Story("a")
    story.policy.notices = [("k", "first"), ("k", "again"), ("other", "second")]
    said = [command for _ in range(3) for command in story.reach_boundary("a")[:-1]]
    assert said == [Notice("k", "first"), Notice("other", "second")]


# ---- A process that dies while its member waits ----------------------------------------------------------------------


def test_a_parked_member_whose_work_is_saved_only_needs_another_process() -> None:
    story = Story("ab")
    story.reach_boundary("a", save=True)
    assert story.lose("a") == []
    assert story["a"].failures == 0
    launch = story.report("b", stop="done", waiting=True)[-1]
    assert isinstance(launch, Launch)
    assert (launch.trial_id, launch.iteration, launch.fresh) == ("a", 2, True)


def test_a_parked_member_whose_work_is_lost_has_failed() -> None:
    story = Story("ab", max_failures=1)
    story.reach_boundary("a")
    assert story.lose("a") == [Retry("a", 1, 0, "killed")]
    assert story.policy.withdrawn == [], "it does not wait at a barrier"
    assert kinds(story.report("b", stop="done", waiting=True)) == ["Stop", "Launch"]


def test_one_that_is_lost_at_the_barrier_with_its_work_is_withdrawn_from_it() -> None:
    story = Story("ab", devices=("", ""), max_failures=1)
    story.holds("a")
    story.reach_boundary("a")
    assert kinds(story.lose("a")) == ["Retry", "Launch"]
    assert story.policy.withdrawn == ["a"]


def test_one_that_is_lost_at_the_barrier_with_all_saved_stays_there() -> None:
    story = Story("ab", devices=("", ""))
    story.holds("a")
    story.reach_boundary("a", save=True)
    assert story.lose("a") == []
    assert story.policy.withdrawn == []
    story.policy.answers["b"] = [Proceed("a"), Proceed("b")]
    assert sorted(kinds(story.reach_boundary("b"))) == ["Continue", "Launch"]


def test_one_that_is_lost_at_the_barrier_for_good_ends() -> None:
    story = Story("ab", devices=("", ""))
    story.holds("a")
    story.reach_boundary("a")
    assert story.lose("a") == [Stop("a", 1, Status.ERROR, "killed")]


# ---- Late messages ---------------------------------------------------------------------------------------------------


def test_messages_of_an_earlier_launch_are_ignored() -> None:
    story = Story("a", max_failures=5)
    story.report("a", save=True)
    story.fail("a")
    before = repr(story["a"])
    assert story.report("a", launch=1, iteration=2) == []
    assert story.tell(Finished("a", 1)) == []
    assert story.fail("a", launch=1) == []
    assert story.lose("a", launch=1) == []
    assert story.tell(Started("a", 1, 1, "")) == []
    assert repr(story["a"]) == before


def test_messages_after_the_end_are_ignored() -> None:
    story = Story("a")
    story.report("a", stop="done", waiting=True)
    assert story.report("a") == story.fail("a") == story.lose("a") == story.tell(Finished("a", 1)) == []


def test_a_report_that_the_news_of_the_crash_has_overtaken_is_ignored() -> None:
    story = Story("abc", max_failures=3)
    story.report("a")
    story.lose("a")  # It waits for its next launch: b and c were in the queue before it.
    assert story["a"].slot is None
    assert story.report("a", iteration=2) == []
    assert story.fail("a") == []
    assert story.tell(Finished("a", 1)) == []
    assert story.lose("a") == []
    assert story["a"].failures == 1
    assert story["a"].status is Status.PAUSED


def test_a_trial_that_joins_after_the_end_was_asked_for_ends_at_once() -> None:
    story = Story("a")
    story.tell(StopAsked("enough"))
    assert story.tell(added("b", 1)) == [Stop("b", 0, Status.TERMINATED, "enough")]
    assert story.population.ended


# ---- Checkpoints that can go -----------------------------------------------------------------------------------------


def test_what_nobody_needs_is_deleted_when_the_next_is_saved() -> None:
    story = Story("a", keep=1)
    assert story.report("a", save=True) == []
    assert story.report("a", save=True)[0] == DeleteCheckpoint("a", 0)


def test_nothing_is_deleted_that_the_trial_itself_goes_on_from() -> None:
    story = Story("a", keep=1, score_attribute="score")
    story.report("a", save=True, metrics={"score": 5})
    assert kinds(story.report("a", save=True, metrics={"score": 1})) == ["Continue"]
    assert story["a"].restore.number == 1


# ---- What cannot be --------------------------------------------------------------------------------------------------


def impossible(story: Story, event: Any) -> str:
    with pytest.raises(InvalidTransition) as raised:
        story.population.apply(event)
    return str(raised.value)


def test_what_cannot_happen_is_refused() -> None:
    assert "added twice" in impossible(Story("a"), added("a", 0))
    assert "there is no trial z" in impossible(Story("a"), Finished("z", 1))
    assert "speaks of launch 2, which is still to come" in impossible(Story("a"), Finished("a", 2))
    assert "unknown event" in impossible(Story("a"), object())
    assert "reports iteration 3 after 0" in impossible(Story("a"), Reported("a", 1, 3, {}, waiting=False))


def test_a_parked_member_cannot_report() -> None:
    story = Story("ab")
    story.reach_boundary("a")
    text = impossible(story, Reported("a", 1, 3, {"score": 1.0}, waiting=False))
    assert "trial a (PAUSED) reports without a slot" in text


def test_an_impossible_event_is_shown_with_the_trials_story() -> None:
    story = Story("ab")
    story.tell(Started("a", 1, 77, "host"))
    story.reach_boundary("a")
    text = impossible(story, Reported("a", 1, 3, {"score": 1.0}, waiting=False))
    told = [line.strip() for line in text.split("Its story:\n")[1].splitlines()]
    assert told == [
        "added",
        "launch 1 in slot 0 from scratch",
        "started, pid 77",
        "report 1",
        "report 2 waits",
        "parked",
    ]


@pytest.mark.parametrize(
    ("attribute", "value", "complaint"),
    [
        ("slot", None, "not all slots"),
        ("slot", 1, "not all slots"),
        ("status", Status.PAUSED, "has slot 0"),
        ("status", Status.TERMINATED, "has slot 0"),
        ("waiting", True, "runs, and waits"),
        ("device", None, "runs, and waits or has no process"),
        ("queued", 1, "runs, and waits"),
        ("restore", "never saved", "which was deleted"),
    ],
)
def test_validate_notices_a_running_trial_in_disorder(attribute: str, value: Any, complaint: str) -> None:
    story = Story("ab")
    story.report("a", save=True)
    if value == "never saved":
        value = CheckpointRecord("a/checkpoint_000009", "a", 9, "", 0, 1, 1.0, 0.0, None, None)
    setattr(story["a"], attribute, value)
    with pytest.raises(InvalidTransition, match=complaint):
        story.population.validate()


@pytest.mark.parametrize(
    ("attribute", "value", "complaint"),
    [
        ("device", "", "has ended, and has a process"),
        ("queued", 5, "has ended, and has a process or is queued"),
        ("status", Status.PAUSED, "live trials are counted"),
    ],
)
def test_validate_notices_an_ended_trial_in_disorder(attribute: str, value: Any, complaint: str) -> None:
    story = Story("ab")
    story.report("a", stop="done", waiting=True)
    setattr(story["a"], attribute, value)
    with pytest.raises(InvalidTransition, match=complaint):
        story.population.validate()


def test_validate_notices_that_everybody_would_wait_for_ever() -> None:
    story = Story("a")
    story.holds("a")
    story.report("a")
    story.population.apply(Reported("a", 1, 2, {"score": 1.0}, waiting=True))
    with pytest.raises(InvalidTransition, match="everyone would wait for ever"):
        story.population.validate()


def test_validate_notices_that_a_process_is_not_counted() -> None:
    story = Story("ab")
    story["b"].device = ""
    with pytest.raises(InvalidTransition, match="residents are said to be"):
        story.population.validate()


def test_validate_notices_a_member_that_waits_without_a_process() -> None:
    story = Story("ab")
    story["b"].waiting = True
    with pytest.raises(InvalidTransition, match="waits without a process"):
        story.population.validate()
