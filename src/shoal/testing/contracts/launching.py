"""Launches, reports, boundaries, checkpoints and slots, command by command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ... import tune
from ...checkpoints.store import digest_of
from ...core.events import Damaged, Finished, Reported, Saved, Started
from ...core.reports import ReportRules
from ..trainables import Climber, load_state, report_state
from .bench import Bench, Member
from .benches import Benches, NewBench, count, count_quickly, mark, scores

__all__ = ["LaunchingContract"]


class LaunchingContract(Benches):
    """What an engine promises about members that train."""

    # ----------------------------------------------------------------------------------------------- launches, reports

    def test_a_launch_tells_that_it_started_what_it_reports_and_that_it_finished_in_this_order(
        self, bench: Bench
    ) -> None:
        def train(config: dict[str, Any]) -> dict[str, Any]:
            for step in range(300):
                tune.report({"score": float(step)})
            return {"score": -1.0}

        member = bench.member(train)
        member.launch()
        started = member.next(Started)
        assert (started.trial_id, started.launch, started.digest) == (member.trial_id, 1, None)
        assert started.pid > 0
        assert started.hostname
        assert (started.pid == os.getpid()) == (not self.in_processes)
        reports = member.reports(301)
        assert scores(reports) == [*range(300), -1.0]
        assert [report.iteration for report in reports] == list(range(1, 302))
        assert not any(report.waiting or report.stop or report.checkpoint for report in reports)
        assert all(report.launch == 1 for report in reports)
        assert member.next(Finished).launch == 1
        assert member.is_silent()

    def test_a_member_waits_from_its_boundary_on_until_it_is_told_to_go_on(self, bench: Bench) -> None:
        member = bench.member(count_quickly)
        member.launch(until=3.0)
        member.next(Started)
        assert [report.waiting for report in member.reports(3)] == [False, False, True]
        assert member.is_silent()
        member.go_on(until=5.0)
        assert [(report.iteration, report.waiting) for report in member.reports(2)] == [(4, False), (5, True)]
        assert member.is_silent()
        member.go_on(until=6.0)
        assert [report.waiting for report in member.reports(1)] == [True]

    def test_members_go_their_own_way_and_each_is_told_in_its_order(self, bench: Bench) -> None:
        self.needs_processes()
        members = [bench.member(count_quickly, lr=float(at)) for at in range(4)]
        for slot, member in enumerate(members):
            member.launch(min(slot, bench.slots - 1), until=50.0)
        for member in members:
            member.next(Started)
            assert scores(member.reports(50)) == list(range(1, 51))
        for member in reversed(members):
            member.go_on(until=60.0)
        for member in members:
            assert scores(member.reports(10)) == list(range(51, 61))

    def test_a_config_arrives_as_it_is_whatever_it_holds(self, bench: Bench) -> None:
        class Own:
            value = 7

        def train(config: dict[str, Any]) -> dict[str, Any]:
            own = (len(config["big"]), config["big"][-1], config["naïve"], config["own"].value, config["nested"])
            config["nested"]["x"].append(1)  # is the function's own
            return {"score": 1.0, "got": list(own)}

        nested = {"x": [1.5, None, True], "ключ": {"y": "ü"}}
        given: dict[str, Any] = {"big": b"x" * 20_000_000 + b"y", "naïve": "日本語", "own": Own(), "nested": nested}
        member = bench.member(train, **given)
        member.launch()
        member.next(Started)
        report = member.next(Reported)
        assert report.metrics["got"][:4] == [20_000_001, ord("y"), "日本語", 7]
        assert nested == {"x": [1.5, None, True], "ключ": {"y": "ü"}}

    def test_names_and_folders_may_hold_any_character(self, bench: Bench) -> None:
        def train(config: dict[str, Any]) -> None:
            context = tune.get_context()
            said = {"name": context.get_trial_name(), "dir": context.get_trial_dir(), "id": context.get_trial_id()}
            report_state(1, 0.0, {"score": 1.0, **said}, save=True)

        member = bench.member(train, name="träin_日本 %s {x} 'q' \"d\" #1")
        member.launch()
        member.next(Started)
        report = member.next(Reported)
        told = (member.info.name, member.info.folder, member.trial_id)
        assert tuple(report.metrics[key] for key in ("name", "dir", "id")) == told
        assert (member.path_of(report.checkpoint) / "state.json").read_text() == "[1, 0.0]"

    # ------------------------------------------------------------------------------------------- checkpoints, anew

    def test_a_launch_in_place_leaves_the_function_and_enters_it_with_new_config_and_state(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        def train(config: dict[str, Any]) -> None:
            try:
                step, _ = load_state() or (0, 0.0)
                while True:
                    step += 1
                    told = {"score": float(step), "lr": config["lr"], "pid": os.getpid()}
                    report_state(step, 0.0, told, save=True)
            finally:
                Path(config["marks"], f"left with {config['lr']}").touch()

        donor = bench.member(count)
        donor.launch(until=4.0)
        donor.next(Started)
        record = donor.record(donor.reports(4)[-1].checkpoint)
        assert digest_of(Path(donor.info.folder, f"checkpoint_{record.number:06d}")) == record.digest
        member = bench.member(train, lr=1.0, marks=str(tmp_path))
        member.launch(until=2.0)
        first = member.next(Started)
        before = member.reports(2)[-1]
        member.launch(until=6.0, checkpoint=record, lr=2.0)
        again = member.next(Started)
        assert (again.launch, again.pid, again.digest) == (2, first.pid, record.digest)
        after = member.reports(2)
        assert scores(after) == [5.0, 6.0]
        assert [report.iteration for report in after] == [5, 6]
        assert {report.metrics["lr"] for report in after} == {2.0}
        assert {report.metrics["pid"] for report in [*after, before]} == {first.pid}
        assert [path.name for path in tmp_path.iterdir()] == ["left with 1.0"]
        assert after[0].checkpoint is not None
        assert after[0].checkpoint.number == 200  # as its launch has said

    @pytest.mark.parametrize("how", ["gone", "changed"])
    def test_a_checkpoint_that_is_not_what_it_was_is_told_and_not_loaded(self, bench: Bench, how: str) -> None:
        member = bench.member(count)
        member.launch(until=2.0)
        first = member.next(Started)
        good, bad = member.reports(2)
        record = member.record(bad.checkpoint)
        path = member.path_of(bad.checkpoint)
        if how == "gone":
            path.rename(path.with_name("elsewhere"))
        else:
            (path / "state.json").write_text("[7, 7.0]")
        member.launch(until=9.0, checkpoint=record)
        damaged = member.next(Damaged)
        assert (damaged.launch, damaged.checkpoint_id) == (2, record.id)
        assert damaged.reason
        assert member.is_silent()
        member.launch(until=2.0, checkpoint=member.record(good.checkpoint, iteration=1))
        again = member.next(Started)
        assert (again.launch, again.pid) == (3, first.pid)
        assert scores(member.reports(1)) == [2.0]

    def test_a_class_saves_when_it_is_asked_and_waits_in_its_report(self, new_bench: NewBench) -> None:
        rules = ReportRules(metric="score", stop={"training_iteration": 2})
        with new_bench(Climber, rules=rules) as bench:
            member = bench.member(lr=2.0)
            member.launch()
            member.next(Started)
            first, second = member.reports(2)
            assert (first.stop, first.waiting, second.waiting) == (None, False, True)
            assert second.stop
            assert second.checkpoint is None
            member.save()
            saved = member.next(Saved).checkpoint
            assert (member.path_of(saved) / "score.json").read_text() == "4.0"
            assert digest_of(member.path_of(saved)) == saved.digest
            member.launch(checkpoint=member.record(saved), lr=3.0)
            assert member.next(Started).digest == saved.digest
            assert scores(member.reports(1)) == [7.0]

    # --------------------------------------------------------------------------------------------- slots, handed on

    def test_one_that_gets_ready_enters_its_function_when_it_is_told_to_go_on(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        member = bench.member(mark, marks=str(tmp_path))
        member.launch(until=1.0, waits=True)
        assert member.is_silent()
        assert not list(tmp_path.iterdir())
        member.go_on(until=2.0)
        member.next(Started)
        assert [report.waiting for report in member.reports(2)] == [False, True]

    def test_one_that_gets_ready_and_is_stopped_never_enters_its_function(self, bench: Bench, tmp_path: Path) -> None:
        member = bench.member(mark, marks=str(tmp_path))
        member.launch(waits=True)
        member.stop()
        bench.settle()
        assert not member.late
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("parked", [False, True], ids=["before its function", "parked"])
    def test_a_promised_slot_is_handed_on_or_not_and_nothing_is_told_before_its_time(
        self, bench: Bench, parked: bool
    ) -> None:
        holder, successor = bench.member(count), bench.member(count)
        first = self._gets_ready(successor, parked)
        holder.launch(until=4.0)
        holder.next(Started)
        holder.hand_on(successor, until=first + 3)
        assert [report.waiting for report in holder.reports(4)] == [False, False, False, True]
        assert not successor.events
        assert holder.is_silent()
        assert not successor.events
        successor.go_on(0, until=first + 3)
        self._trains_once(successor, first, 3, parked=parked)

    def test_a_slot_that_is_given_up_otherwise_than_promised_is_gone_on_in_all_the_same(self, bench: Bench) -> None:
        def short(config: dict[str, Any]) -> None:
            tune.report({"score": 1.0})

        holder, successor = bench.member(short), bench.member(count)
        self._gets_ready(successor, False)
        holder.launch(until=9.0)
        holder.hand_on(successor, until=2.0)
        holder.next(Started)
        holder.reports(1)
        holder.next(Finished)
        assert not successor.events
        successor.go_on(0, until=2.0)
        self._trains_once(successor, 0, 2, parked=False)

    def test_one_that_was_promised_a_slot_and_goes_on_in_another_trains_its_steps_once(self, bench: Bench) -> None:
        self.needs_processes()
        holder, successor = bench.member(count), bench.member(count)
        first = self._gets_ready(successor, True)
        holder.launch(0, until=5.0)
        holder.hand_on(successor, until=first + 4)
        successor.go_on(min(1, bench.slots - 1), until=first + 4)
        holder.next(Started)
        assert holder.reports(5)[-1].waiting
        self._trains_once(successor, first, 4, parked=True)
        assert holder.is_silent()

    def test_what_was_done_in_a_slot_handed_on_is_told_when_all_is_to_end(self, bench: Bench) -> None:
        holder, successor = bench.member(count), bench.member(count)
        first = self._gets_ready(successor, True)
        holder.launch(until=3.0)
        holder.hand_on(successor, until=first + 2)
        holder.next(Started)
        assert holder.reports(3)[-1].waiting
        successor.wind_up()
        told = successor.until_lost()
        # It went on or it did not; what it reported is told, once and in order.
        assert scores(told) == [first + 1.0, first + 2.0][: len(told)]
        holder.wind_up()
        assert not holder.until_lost()

    def _gets_ready(self, member: Member, parked: bool) -> int:
        """Have a member wait, in a report or before its function; return how far it is."""
        if not parked:
            member.launch(waits=True)
            return 0
        member.launch(until=2.0)
        member.next(Started)
        assert member.reports(2)[-1].waiting
        return 2

    def _trains_once(self, member: Member, first: int, steps: int, *, parked: bool) -> None:
        if not parked:
            member.next(Started)
        reports = member.reports(steps)
        assert scores(reports) == [first + step for step in range(1, steps + 1)]
        assert [report.waiting for report in reports] == [False] * (steps - 1) + [True]
        assert member.is_silent()
