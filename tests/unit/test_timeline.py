"""When things happened: active time, and what each member's time went into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.card import report_card
from shoal.core.commands import Continue, Exploit, Launch, Status, Stop
from shoal.core.events import (
    Failed,
    Finished,
    Lost,
    Opened,
    Reported,
    SavedCheckpoint,
    SlotsJoined,
    SlotsLeft,
    Started,
    TrialAdded,
)
from shoal.core.limits import Limits, RetentionRules
from shoal.display.table import begin_line, overview
from shoal.journal.codec import Record
from shoal.plots.population import times
from shoal.reading import Experiment
from shoal.report import report_html
from shoal.testing import Node
from shoal.timeline import Timeline

from ..helpers import climb, fit
from ..simulated import write_experiment


def told(*items: tuple[float, Any]) -> Timeline:
    return Timeline.of(Record(seq, at, item) for seq, (at, item) in enumerate(items, start=1))


def opened(slots: int = 2) -> Opened:
    return Opened(Limits(("",) * slots), RetentionRules())


def added(index: int) -> TrialAdded:
    return TrialAdded(f"t{index}", index, f"train_t{index}", str(index), f"t{index}", {})


def launch(number: int = 1, *, waits: bool = False, generation: int = 0, until: float = 5.0) -> Launch:
    return Launch("t0", number, 0, {}, None, 0, 0.0, 0, until, True, generation, waits=waits)


def reported(seconds: float, saving: float | None = None) -> Reported:
    checkpoint = None if saving is None else SavedCheckpoint(0, "d", 1, seconds=saving)
    return Reported("t0", 1, 1, {}, False, checkpoint=checkpoint, time_this_iter_s=seconds)


def test_a_pause_between_two_drivers_is_no_active_time() -> None:
    timeline = told(
        (100.0, opened()), (101.0, added(0)), (110.0, reported(1.0)), (5000.0, opened(4)), (5002.0, added(1))
    )
    assert timeline.duration == 12.0
    assert [timeline.active(at) for at in (50.0, 100.0, 105.0, 110.0, 3000.0, 5000.0, 5001.0)] == [
        0.0, 0.0, 5.0, 10.0, 10.0, 10.0, 11.0,
    ]  # fmt: skip
    assert timeline.slot_seconds == 10.0 * 2 + 2.0 * 4


def test_a_members_time_is_divided() -> None:
    timeline = told(
        (0.0, opened()), (1.0, added(0)), (2.0, launch()), (2.5, Started("t0", 1, 1, "h")),
        (6.0, reported(3.0, saving=0.25)), (9.0, reported(2.0)), (20.0, added(1)),
    )  # fmt: skip
    spent = timeline.members["t0"]
    assert (spent.training, spent.saving, spent.loading) == (5.0, 0.25, 0.5)
    assert spent.waiting(timeline.duration) == 20.0 - 1.0 - 5.0 - 0.25 - 0.5


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    timeline = told((1000.0, opened()), (1000.0, added(0)), (1100.0, added(1)), (500.0, added(2)), (550.0, added(3)))
    assert timeline.duration == 150.0
    assert [timeline.members[f"t{index}"].added for index in range(4)] == [0.0, 100.0, 100.0, 150.0]
    assert [timeline.active(at) for at in (1050.0, 1100.0, 520.0, 550.0)] == [50.0, 100.0, 120.0, 150.0]
    assert timeline.slot_seconds == 300.0


def test_a_second_driver_whose_clock_is_behind_goes_on_counting() -> None:
    timeline = told((5000.0, opened()), (5100.0, added(0)), (1000.0, opened()), (1050.0, added(1)))
    assert timeline.duration == 150.0


def test_what_a_function_does_after_its_last_report_is_training() -> None:
    begin = [(0.0, opened()), (0.0, added(0)), (1.0, launch()), (1.5, Started("t0", 1, 1, "h"))]
    for last in (Finished("t0", 1), Failed("t0", 1, "e", "t"), Lost("t0", 1, "gone")):
        timeline = told(*begin, (4.0, reported(2.5)), (9.0, last))
        assert timeline.members["t0"].training == 2.5 + 5.0


def test_the_time_between_an_end_and_going_on_is_no_waiting() -> None:
    stop = Stop("t0", 1, Status.TERMINATED, "done")
    again = Opened(Limits(("",)), RetentionRules(), again=("t0",))
    timeline = told((0.0, opened()), (0.0, added(0)), (10.0, stop), (90.0, added(1)), (500.0, again), (505.0, added(2)))
    spent = timeline.members["t0"]
    assert (spent.ended, spent.away) == (None, 80.0)
    assert spent.waiting(timeline.duration) == 15.0


def test_the_boundaries_that_a_member_was_given_are_known_by_generation() -> None:
    more = Continue("t0", 1, 0, 10.0)
    timeline = told(
        (0.0, opened()), (0.0, added(0)), (1.0, launch(until=5.0)), (2.0, more), (3.0, more),
        (4.0, launch(2, generation=1, until=9.0)),
    )  # fmt: skip
    assert timeline.boundaries == {("t0", 0): [5.0, 10.0], ("t0", 1): [9.0]}


def test_getting_ready_while_another_trains_is_no_loading() -> None:
    timeline = told((0.0, opened()), (1.0, added(0)), (2.0, launch(waits=True)), (9.0, Started("t0", 1, 1, "h")))
    assert timeline.members["t0"].loading == 0.0


def test_when_a_copy_is_judged_again_is_known() -> None:
    exploit = Exploit("t0", 1, 1, 5, 0.1, "t1", 5, None, {}, {}, {})  # type: ignore[arg-type]
    timeline = told((0.0, opened()), (0.0, added(0)), (7.0, exploit), (8.0, launch(2, generation=1, until=10.0)))
    copied = timeline.copied["t0", 1]
    assert (copied.at, copied.until) == (7.0, 10.0)


def test_no_second_of_a_members_life_is_counted_twice(tmp_path: Path) -> None:
    experiment = Experiment.open(write_experiment(tmp_path / "run", slots=3))
    for trial_id, spent in experiment.timeline.members.items():
        life = (spent.ended or 0.0) - spent.added
        assert spent.training + spent.saving + spent.loading <= life + 1e-6, trial_id
        parts = spent.training + spent.saving + spent.loading + spent.waiting(experiment.timeline.duration)
        assert parts == pytest.approx(life)


@pytest.mark.parametrize("engine", ["inline", "processes"])
def test_real_members_say_how_long_they_saved_and_loaded(tmp_path: Path, engine: str) -> None:
    grid = fit(climb, tmp_path, num_samples=2, engine=engine, stop={"training_iteration": 10})
    timeline = Experiment.open(grid.experiment_path).timeline
    assert all(spent.saving > 0 for spent in timeline.members.values())
    assert any(spent.loading > 0 for spent in timeline.members.values())


def test_slots_that_join_and_leave_count_as_long_as_they_are_there() -> None:
    timeline = told(
        (100.0, opened(0)), (100.0, SlotsJoined(("a", "a"))), (110.0, SlotsJoined(("b",) * 3)),
        (114.0, SlotsLeft((0, 1))), (120.0, added(0)),
    )  # fmt: skip
    assert timeline.slots == [(0.0, 0), (0.0, 2), (10.0, 5), (14.0, 3)]
    assert timeline.slot_seconds == 10 * 2 + 4 * 5 + 6 * 3
    assert timeline.slots_between == (2, 5)


def test_each_driver_begins_with_its_own_slots() -> None:
    timeline = told((0.0, opened(1)), (5.0, SlotsJoined(("",))), (10.0, added(0)), (90.0, opened(1)), (94.0, added(1)))
    assert timeline.slot_seconds == 5 * 1 + 5 * 2 + 4 * 1
    assert told((0.0, opened(0)), (9.0, added(0))).slots_between == (0, 0)


def test_an_experiment_that_never_had_a_slot_is_read_without_a_division_by_zero(tmp_path: Path) -> None:
    node = Node("late", 1, joins_at=50.0, dies_at=50.5)
    folder = write_experiment(tmp_path / "run", slots=0, nodes=(node,), stop_asked_at=60.0, facts={"engine": "ray"})
    experiment = Experiment.open(folder)
    assert experiment.timeline.slot_seconds == 0.0
    assert experiment.history.slots == 0
    assert times(experiment).training_share is None
    assert len(report_card(experiment)) == 0
    assert "0 slots" not in begin_line(experiment.info, folder, experiment.history)


def test_a_report_and_its_card_tell_how_many_slots_there_were_and_take_no_host_for_a_gpu(tmp_path: Path) -> None:
    nodes = (Node("host-a", 2, dies_at=30.0), Node("host-b", 3, joins_at=10.0))
    facts = {"engine": "ray", "gpus": 1.0}
    experiment = Experiment.open(write_experiment(tmp_path / "run", slots=0, nodes=nodes, facts=facts))
    page = report_html(experiment, interactive=False)
    assert "2 to 5, each with" in page
    assert "host-a" not in page
    time = next(statement for statement in report_card(experiment).statements if statement.key == "time")
    assert "on 2 to 5 slots, " in time.because
    assert overview(experiment.info, experiment.history, folder="f", running_for=1.0).facts[1] == ("slots", "0/3")
