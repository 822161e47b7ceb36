"""The read model: what the journal says, as trials with their results."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from shoal import tune
from shoal.core.commands import CheckpointRecord, Evict, Exploit, Launch, Park, Retry, Status, Stop
from shoal.core.events import Failed, Freed, Lost, Opened, Reported, SavedCheckpoint, Started
from shoal.core.limits import Limits, RetentionRules
from shoal.history import History, full_row

from .stories import NOON, Story


@pytest.fixture
def story(tmp_path: Path) -> Story:
    told = Story(tmp_path)
    told.add_usual()
    return told


def test_the_history_of_the_journal_is_the_one_that_was_followed_live(story: Story) -> None:
    story.report(1, save=True)
    story.report(0)
    story.exploit(0, 1, lr=0.7)
    story.park(1)
    story.fail(2, ValueError("x"))
    story.notice("careful")
    story.stop_all("enough")
    again = History.of(story.journal.read())
    assert again.trials == story.history.trials
    assert again.exploits == story.history.exploits
    assert again.notices == ["careful"]
    assert again.stopped == "enough"
    assert (again.results, again.checkpoints, again.perturbations) == (2, 1, 1)


def test_without_rows_only_the_newest_result_is_kept(tmp_path: Path) -> None:
    story = Story(tmp_path, keep_rows=False)
    story.add_usual(1)
    story.report(0)
    newest = story.report(0)
    trial = story.history.trials[story.name(0)]
    assert trial.rows == []
    assert trial.last is not None
    assert trial.last.report == newest
    assert story.history.results == 2


def test_trials_are_in_the_order_of_their_numbers(story: Story) -> None:
    assert [trial.index for trial in story.history.in_order()] == [0, 1, 2, 3]


def test_a_trial_goes_through_the_statuses_that_ray_tune_shows(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.add({"lr": 0.1})
    trial = story.history.trials[story.name(0)]
    seen = [trial.status.value]
    for step in (story.launch, story.park, story.go_on, story.finish):
        step(0)
        seen.append(trial.status.value)
    assert seen == ["PENDING", "RUNNING", "PAUSED", "RUNNING", "TERMINATED"]
    assert trial.slot is None
    assert trial.reason == "the function returned"


def test_an_evicted_trial_and_one_that_is_tried_again_hold_no_slot(story: Story) -> None:
    story.park(0)
    story.tell(Evict(story.name(0), 1))
    story.tell(story.failed(1, ValueError("x")), Retry(story.name(1), 1, 0, "ValueError: x"))
    assert [(trial.status, trial.slot) for trial in story.history.in_order()[:2]] == [(Status.PAUSED, None)] * 2


def test_an_exploit_changes_the_config_of_later_results_only(story: Story) -> None:
    story.report(1, save=True)
    story.report(0)
    story.exploit(0, 1, lr=0.7)
    story.report(0, iteration=2)
    trial = story.history.trials[story.name(0)]
    assert [row.config["lr"] for row in trial.rows] == [0.1, 0.7]
    assert [row.generation for row in trial.rows] == [0, 1]
    assert trial.initial_config["lr"] == 0.1
    assert trial.config["lr"] == 0.7


def test_the_tag_and_the_folder_of_a_trial_never_change(story: Story) -> None:
    before = [(trial.tag, trial.folder, trial.name) for trial in story.history.in_order()]
    story.report(1, save=True)
    story.report(0)
    story.exploit(0, 1, lr=0.7)
    again = History.of(story.journal.read())
    assert [(trial.tag, trial.folder, trial.name) for trial in again.in_order()] == before


def test_every_row_carries_the_id_of_its_own_trial_also_after_it_copied_another(story: Story) -> None:
    story.report(1, save=True)
    story.report(0)
    story.exploit(0, 1, trial_id="not this one", seed=7)
    story.report(0, {"mean_accuracy": 0.6, "trial_id": "nor this"}, iteration=2)
    trial = story.history.trials[story.name(0)]
    assert [full_row(trial, row)["trial_id"] for row in trial.rows] == [story.name(0)] * 2


# -------------------------------------------------------------------------------------------------- what counts no more


def steps(story: Story, index: int) -> list[tuple[int, int]]:
    trial = story.history.trials[story.name(index)]
    found = [(row.generation, row.report.iteration) for row in trial.rows]
    assert trial.counted == len(found)
    assert trial.last == (trial.rows[-1] if trial.rows else None)
    return found


def test_steps_that_are_trained_again_count_once(story: Story) -> None:
    story.report(0, save=True)
    story.report(0)
    story.report(0)
    error = story.failed(0, ValueError("x"))
    story.tell(error, Retry(error.trial_id, 1, 1, error.error))
    assert steps(story, 0) == [(0, 1), (0, 2), (0, 3)], "they count until it is launched"
    story.launch(0, 1, story.saved[story.name(0)])
    assert steps(story, 0) == [(0, 1)]
    assert story.history.results == 1
    again = story.report(0)
    assert steps(story, 0) == [(0, 1), (0, 2)]
    assert story.history.trials[story.name(0)].rows[-1].report == again
    assert story.history.trials[story.name(0)].reported == 4


def test_without_a_checkpoint_nothing_is_left(story: Story) -> None:
    story.report(0)
    story.report(1)
    story.fail_and_retry(0, ValueError("x"))
    assert steps(story, 0) == []
    assert story.history.trials[story.name(0)].iteration == 0
    assert steps(story, 1) == [(0, 1)]
    assert story.history.results == 1


def test_results_from_before_an_exploit_stay_and_those_after_it_go_with_their_weights(story: Story) -> None:
    story.report(1, save=True)
    for _ in range(3):
        story.report(0, save=True)
    copied = story.saved[story.name(1)]
    story.exploit(0, 1)
    assert steps(story, 0) == [(0, 1), (0, 2), (0, 3)]
    for step in (2, 3):
        story.report(0, iteration=step)
    story.launch(0, 1, copied)
    assert steps(story, 0) == [(0, 1), (0, 2), (0, 3)]
    story.report(0, iteration=2, save=True)
    story.report(0, iteration=3)
    story.launch(0, 2, story.saved[story.name(0)])
    assert steps(story, 0) == [(0, 1), (0, 2), (0, 3), (1, 2)]
    assert story.history.results == 5


def test_a_trial_that_is_launched_where_it_stands_loses_nothing(story: Story) -> None:
    """It was evicted, its process was lost while it was parked, or its config was changed."""
    story.report(0, save=True)
    story.report(0, save=True)
    story.park(0)
    story.tell(Evict(story.name(0), 1))
    story.launch(0, 2, story.saved[story.name(0)])
    assert steps(story, 0) == [(0, 1), (0, 2)]


def test_a_trial_that_begins_anew_has_only_its_new_life(story: Story) -> None:
    story.report(1, save=True)
    story.report(0)
    story.exploit(0, 1)
    story.report(0, iteration=2, save=True)
    story.fail(0, ValueError("x"))
    story.tell(Opened(Limits(), RetentionRules(), anew=(story.name(0),)))
    assert steps(story, 0) == []
    story.launch(0)
    story.report(0)
    assert steps(story, 0) == [(1, 1)]
    assert story.history.results == 2


def test_a_history_without_rows_counts_the_same_ones(tmp_path: Path) -> None:
    whole, short = Story(tmp_path), Story(tmp_path, keep_rows=False)
    for story in (whole, short):
        story.add_usual(2)
        story.report(1, save=True, checkpoint=SavedCheckpoint(0, "d1935", 1))
        story.report(0)
        story.exploit(0, 1)
        for step in (2, 3):
            story.report(0, iteration=step)
        story.launch(0, 1, story.saved[story.name(1)])
        story.launch(1, 1, story.saved[story.name(1)])
        story.report(1)
    assert short.history.results == whole.history.results == 3
    for one, other in zip(short.history.in_order(), whole.history.in_order(), strict=True):
        assert (one.last, one.counted, one.reported) == (other.last, other.counted, other.reported)
        assert one.rows == []
        assert one.last is not None
        assert one.last.before is None


# -------------------------------------------------------------------------------------------------------- late records


def test_a_report_of_an_earlier_launch_is_no_result(story: Story) -> None:
    story.launch(0)
    story.report(0, launch=1)
    assert story.history.results == 0
    assert story.history.trials[story.name(0)].last is None


def test_a_report_after_the_end_is_no_result(story: Story) -> None:
    story.finish(0)
    story.report(0)
    assert story.history.results == 0


def test_a_failure_that_comes_late_is_not_the_trials(story: Story) -> None:
    name = story.name(0)
    story.launch(0)
    story.tell(Failed(name, 1, "ValueError: old", "old"), Lost(name, 1, "old"), Started(name, 1, 99, "elsewhere"))
    trial = story.history.trials[name]
    assert (trial.error, trial.traceback, trial.pid) == (None, "", 1000)
    story.finish(0)
    story.tell(Lost(name, 2, "killed when it was no longer needed"))
    assert trial.error is None


# ------------------------------------------------------------------------------------------------------------ failures


def test_a_failure_keeps_the_members_own_traceback(story: Story) -> None:
    story.fail(0, ValueError("boom"))
    trial = story.history.trials[story.name(0)]
    assert trial.status is Status.ERROR
    assert trial.error == "ValueError: boom"
    assert "Traceback" in trial.traceback


def test_what_ended_a_trial_is_not_what_it_had_recovered_from(story: Story) -> None:
    story.fail_and_retry(0, ValueError("first"))
    name = story.name(0)
    story.tell(Stop(name, 2, Status.ERROR, "the function returned without a single report"))
    trial = story.history.trials[name]
    assert trial.error == "the function returned without a single report"
    assert trial.traceback == ""
    assert trial.raised is None


# --------------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_are_there_until_they_are_deleted(story: Story) -> None:
    first, second = story.report(0, save=True), story.report(0, save=True)
    trial = story.history.trials[story.name(0)]
    assert [entry.row.report for entry in trial.checkpoints.values()] == [first, second]
    story.delete_checkpoint(0, 0)
    assert list(trial.checkpoints) == [1]
    assert story.history.checkpoints == 2


def test_a_checkpoint_that_was_freed_is_handed_to_nobody_and_tells_on_what_it_was_of(story: Story) -> None:
    story.report(0, save=True)
    story.report(0, save=True)
    story.tell(Freed(story.name(0), 1))
    trial = story.history.trials[story.name(0)]
    assert (list(trial.checkpoints), list(trial.whole), trial.damaged) == ([0, 1], [0], set())
    (story.folder / trial.folder / "checkpoint_000000").mkdir(parents=True)
    result = tune.ResultGrid(story.history, story.info, story.folder)[0]
    assert [Path(checkpoint.path).name for checkpoint, _ in result.best_checkpoints] == ["checkpoint_000000"]


def test_a_copied_checkpoint_counts_until_the_trial_saves_its_own(story: Story) -> None:
    story.report(1, save=True)
    story.report(0)
    exploit = story.exploit(0, 1)
    trial = story.history.trials[story.name(0)]
    assert trial.restore == exploit.checkpoint
    story.report(0, iteration=2)
    assert trial.restore == exploit.checkpoint
    story.report(0, iteration=3, save=True)
    assert trial.restore is None


# ------------------------------------------------------------------------------------------------------------ ancestry


def ancestry(story: Story, index: int) -> list[tuple[str, str]]:
    chain = story.history.trials[story.name(index)].ancestry
    changes = [] if chain is None else [link.change for link in chain.oldest_first()]
    return [(change.trial_id[-1], change.donor_id[-1]) for change in changes if isinstance(change, Exploit)]


def test_the_ancestry_of_weights_is_the_donors_and_the_own_earlier_ones_are_gone(story: Story) -> None:
    for index in range(4):
        story.report(index, save=True)
    story.exploit(0, 1)
    story.report(0, save=True)
    story.exploit(2, 3)
    story.report(2, save=True)
    story.exploit(2, 0)
    assert ancestry(story, 0) == [("0", "1")]
    assert ancestry(story, 1) == []
    assert ancestry(story, 2) == [("0", "1"), ("2", "0")]
    assert [(exploit.trial_id[-1], exploit.donor_id[-1]) for exploit in story.history.exploits] == [
        ("0", "1"),
        ("2", "3"),
        ("2", "0"),
    ]


def test_the_ancestry_is_that_of_the_copied_checkpoint_not_that_of_the_donor_now(story: Story) -> None:
    story.report(0, save=True)
    story.report(1, save=True)
    story.exploit(0, 1)  # trial 0 has not saved since: its checkpoint is of the weights before
    story.report(2)
    story.exploit(2, 0)
    assert ancestry(story, 2) == [("2", "0")]


def test_a_chain_of_ten_thousand_generations_can_be_followed(story: Story) -> None:
    story.report(0, save=True)
    story.report(1, save=True)
    for generation in range(5000):
        story.exploit(0, 1)
        story.report(0, iteration=generation + 2, save=True)
        story.exploit(1, 0)
        story.report(1, iteration=generation + 2, save=True)
    assert len(ancestry(story, 1)) == 10_000


# ---------------------------------------------------------------------------------------------------------------- best


def test_the_best_is_by_the_newest_finite_value(story: Story) -> None:
    for index, value in enumerate((0.9, 0.5, math.nan, math.inf)):
        story.report(index, {"mean_accuracy": value})
    story.report(0, {"mean_accuracy": 0.1})
    best, worst = story.history.best("mean_accuracy", "max"), story.history.best("mean_accuracy", "min")
    assert best is not None
    assert worst is not None
    assert (best.index, worst.index) == (1, 0)


def test_nothing_is_best_before_a_finite_value(story: Story) -> None:
    assert story.history.best("mean_accuracy", "max") is None
    story.report(0, {"mean_accuracy": math.nan})
    story.report(1, {"mean_accuracy": "high"})
    assert story.history.best("mean_accuracy", "max") is None


def test_nested_and_automatic_values_can_be_asked_for(story: Story) -> None:
    story.report(0, {"val": {"acc": 0.4}, "val/loss": 2})
    trial = story.history.trials[story.name(0)]
    assert [trial.value(key) for key in ("val/acc", "val/loss", "training_iteration", "time_total_s", "nothing")] == [
        0.4,
        2,
        1,
        0.25,
        None,
    ]


# ---------------------------------------------------------------------------------------------------------- whole rows


def test_a_row_has_what_was_reported_and_then_the_automatic_values_in_the_files_order(story: Story) -> None:
    story.report(0, {"mean_accuracy": 0.5, "lr": 0.1}, save=True)
    trial = story.history.trials[story.name(0)]
    assert trial.last is not None
    assert full_row(trial, trial.last) == {
        "mean_accuracy": 0.5,
        "lr": 0.1,
        "timestamp": int(NOON),
        "checkpoint_dir_name": "checkpoint_000000",
        "done": False,
        "training_iteration": 1,
        "trial_id": "40bd6_00000",
        "date": time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(NOON)),
        "time_this_iter_s": 0.25,
        "time_total_s": 0.25,
        "pid": 1000,
        "hostname": "host",
        "node_ip": "127.0.0.1",
        "config": {"lr": 0.1, "momentum": 0.9, "checkpoint_interval": 5},
        "time_since_restore": 0.25,
        "iterations_since_restore": 1,
        "should_checkpoint": True,
    }
    assert list(full_row(trial, trial.last))[:5] == ["mean_accuracy", "lr", "timestamp", "checkpoint_dir_name", "done"]


def test_a_row_without_a_checkpoint_says_so_and_the_last_one_is_done(story: Story) -> None:
    story.report(0, stop="training_iteration is 1, at least 1")
    trial = story.history.trials[story.name(0)]
    assert trial.last is not None
    row = full_row(trial, trial.last)
    assert row["done"] is True
    assert row["checkpoint_dir_name"] is None
    assert "should_checkpoint" not in row


def test_an_automatic_value_cannot_be_overwritten_by_a_report(story: Story) -> None:
    story.report(0, {"mean_accuracy": 0.5, "training_iteration": 77, "config": "mine"})
    trial = story.history.trials[story.name(0)]
    assert trial.last is not None
    row = full_row(trial, trial.last)
    assert row["training_iteration"] == 1
    assert row["config"] == trial.config


def test_records_of_all_kinds_are_taken_in(story: Story) -> None:
    record = CheckpointRecord("x", story.name(1), 0, "d", 1, 1, 1.0, 1.0, None, None)
    story.tell(
        Park(story.name(0), 1),
        Launch(story.name(0), 2, 1, {}, record, 1, 1.0, 1, None, False),
        Started(story.name(0), 2, 7, "elsewhere"),
        Reported(story.name(0), 2, 2, {}, False),
    )
    trial = story.history.trials[story.name(0)]
    assert (trial.launches, trial.slot, trial.pid, trial.hostname, trial.iteration) == (2, 1, 7, "elsewhere", 2)
