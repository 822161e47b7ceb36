"""Members that leave, fail and die, what they print, and engines that begin and end, command by command."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ... import tune
from ...checkpoints.store import digest_of
from ...core.events import Failed, Finished, Lost, Reported, SlotsLeft, Started
from ...errors import ConfigError, EngineError
from ..trainables import climb, report_state
from .bench import Bench
from .benches import Benches, NewBench, count, count_quickly, ends, mark, scores

__all__ = ["EndingContract"]


def report_once_and_wait(config: dict[str, Any]) -> None:
    """Report once, and then nothing until there is a file."""
    tune.report({"score": 1.0})
    while not Path(config["end"]).exists():
        time.sleep(0.01)


class AskedToLeave(Exception):
    """What ``EngineSetup.check`` raises here."""


class BlocksUntilSeen:
    """A trainable that takes as long to load as it takes until somebody has asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, config: dict[str, Any]) -> None: ...

    def __reduce__(self) -> Any:
        return _wait_for, (str(self.folder / "asked"),)


def _wait_for(path: str) -> Callable[[dict[str, Any]], None]:
    end = time.monotonic() + 60
    while not Path(path).exists() and time.monotonic() < end:
        time.sleep(0.01)
    return climb


class NotThere:
    """A trainable that needs a module which members do not find."""

    def __call__(self, config: dict[str, Any]) -> None: ...

    def __reduce__(self) -> Any:
        return __import__, ("no_module_of_this_name",)


class EndingContract(Benches):
    """What an engine promises about ends of every kind."""

    # ------------------------------------------------------------------------------------------------------- leaving

    def test_a_stop_leaves_the_function_through_its_finally_blocks_and_nothing_is_told_of_it(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        member = bench.member(mark, marks=str(tmp_path))
        member.launch(until=2.0)
        pid = member.next(Started).pid
        member.reports(2)
        member.stop()
        bench.until(lambda: (tmp_path / "left").exists(), "its finally block")
        assert not self.in_processes or ends(pid, bench)
        bench.settle()
        assert not member.late

    def test_a_member_that_trains_can_be_stopped_and_launched_again(self, bench: Bench) -> None:
        member = bench.member(count_quickly)
        member.launch()
        pid = member.next(Started).pid
        member.reports(3)
        member.stop()
        member.launch(until=2.0)  # what the other launch still says is none of this one's
        again = member.next(Started)
        assert again.launch == 2
        assert scores(member.reports(2)) == [1.0, 2.0]
        assert (again.pid == pid) == (not self.in_processes)
        assert all(isinstance(event, Reported) and event.launch == 1 for event in member.late)

    def test_an_evicted_member_leaves_and_goes_on_in_a_new_process_from_its_checkpoint(self, bench: Bench) -> None:
        member = bench.member(count)
        member.launch(until=3.0)
        pid = member.next(Started).pid
        record = member.record(member.reports(3)[-1].checkpoint)
        member.evict()
        assert not self.in_processes or ends(pid, bench)
        assert member.is_silent()
        member.launch(until=5.0, checkpoint=record)
        again = member.next(Started)
        assert (again.launch, again.digest) == (2, record.digest)
        assert (again.pid == pid) == (not self.in_processes)
        assert scores(member.reports(2)) == [4.0, 5.0]

    def test_one_that_winds_up_while_it_trains_leaves_with_a_report_that_counts(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        def train(config: dict[str, Any]) -> None:
            try:
                for step in range(1, 1_000_000):
                    report_state(step, 0.0, {"score": float(step)}, save=True)
            finally:
                Path(config["marks"], "left").touch()

        member = bench.member(train, marks=str(tmp_path))
        member.launch()
        member.next(Started)
        told = member.reports(2)
        member.wind_up()
        told += member.until_lost()
        assert scores(told) == [*range(1, len(told) + 1)]
        assert digest_of(member.path_of(told[-1].checkpoint)) == member.record(told[-1].checkpoint).digest
        assert (tmp_path / "left").exists()

    def test_one_that_winds_up_while_it_waits_just_leaves(self, bench: Bench) -> None:
        member = bench.member(count)
        member.launch(until=2.0)
        member.next(Started)
        member.reports(2)
        member.wind_up()
        assert not member.until_lost()
        assert member.is_silent()

    def test_one_that_winds_up_and_does_not_come_to_a_report_is_lost_when_its_time_is_up(
        self, new_bench: NewBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not self.carries_environment:
            pytest.skip("how long it has follows from the environment of where it is")
        monkeypatch.setenv("SHOAL_GRACE_S", "0.2")
        with new_bench() as bench:
            member = bench.member(report_once_and_wait, end=str(tmp_path / "end"))
            member.launch()
            pid = member.next(Started).pid
            member.reports(1)
            member.wind_up()
            assert member.next(Lost).launch == 1
            (tmp_path / "end").touch()  # for a thread, which cannot be killed
            member.has_process = False
            assert not self.in_processes or ends(pid, bench)
            assert member.is_silent()

    def test_one_that_winds_up_before_its_function_never_enters_it(self, bench: Bench, tmp_path: Path) -> None:
        member = bench.member(mark, marks=str(tmp_path))
        member.launch(waits=True)
        member.wind_up()
        assert not member.until_lost()
        assert not list(tmp_path.iterdir())

    # ------------------------------------------------------------------------------------------------------- failures

    def test_a_function_that_raises_is_told_with_its_traceback_and_its_process_is_used_again(
        self, bench: Bench
    ) -> None:
        def train(config: dict[str, Any]) -> None:
            tune.report({"score": 1.0})
            if config["broken"]:
                raise ZeroDivisionError("the löss exploded")

        member = bench.member(train, broken=True)
        member.launch()
        pid = member.next(Started).pid
        member.reports(1)
        failed = member.next(Failed)
        assert (failed.launch, failed.error, failed.no_room) == (1, "ZeroDivisionError: the löss exploded", False)
        assert 'raise ZeroDivisionError("the löss exploded")' in failed.traceback
        assert failed.raised is not None
        assert isinstance(pickle.loads(failed.raised), ZeroDivisionError)
        member.launch(broken=False)
        again = member.next(Started)
        assert (again.launch, again.pid) == (2, pid)
        member.reports(1)
        member.next(Finished)

    def test_an_import_that_fails_in_the_function_fails_its_trial(self, bench: Bench) -> None:
        def train(config: dict[str, Any]) -> None:
            import no_module_of_this_name  # type: ignore[import-not-found]  # noqa: F401

        member = bench.member(train)
        member.launch()
        member.next(Started)
        assert "No module named 'no_module_of_this_name'" in member.next(Failed).error

    def test_a_config_that_cannot_be_carried_or_loaded_fails_its_trial_alone(self, bench: Bench) -> None:
        self.needs_processes()
        locked, broken, fine = (bench.member(lambda config: {"score": 1.0}) for _ in range(3))
        locked.launch(lock=threading.Lock())
        assert "lock" in locked.next(Failed).error
        broken.launch(value=NotThere())
        assert "no_module_of_this_name" in broken.next(Failed, Started).error
        fine.launch()
        fine.next(Started)
        fine.reports(1)
        fine.next(Finished)

    @pytest.mark.parametrize("way", ["exit", "kill"])
    def test_a_member_that_dies_is_lost_with_how_it_ended_after_all_that_it_has_said(
        self, bench: Bench, way: str
    ) -> None:
        self.needs_processes()

        def train(config: dict[str, Any]) -> None:
            for step in range(20):
                tune.report({"score": float(step)})
            print("last words", flush=True)
            if config["way"] == "exit":
                os._exit(42)
            os.kill(os.getpid(), signal.SIGKILL)

        member = bench.member(train, way=way)
        member.launch()
        first = member.next(Started)
        assert scores(member.reports(20)) == list(range(20))
        lost = member.next(Lost)
        assert (lost.launch, lost.innocent) == (1, False)
        assert ("42" if way == "exit" else "SIGKILL") in lost.reason
        bench.until(lambda: (member.info.name, "last words") in bench.lines, "its last words")
        member.has_process = False
        member.launch(play=count, until=1.0)
        again = member.next(Started)
        assert again.launch == 2
        assert again.pid != first.pid
        member.reports(1)

    def test_one_that_dies_while_it_waits_is_lost_and_others_are_not(self, bench: Bench) -> None:
        self.needs_processes()
        dies, other = bench.member(count), bench.member(count)
        for member in (dies, other):
            member.launch(until=1.0)
        pid = dies.next(Started).pid
        other.next(Started)
        for member in (dies, other):
            member.reports(1)
        os.kill(pid, signal.SIGKILL)
        assert dies.next(Lost).launch == 1
        dies.has_process = False
        other.go_on(until=2.0)
        other.reports(1)

    def test_a_killed_member_is_lost_for_the_reason_given_and_can_be_launched_again(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        member = bench.member(report_once_and_wait, end=str(tmp_path / "end"))
        member.launch()
        pid = member.next(Started).pid
        member.reports(1)
        bench.engine.kill(member.trial_id, "it was silent for too long")
        lost = member.next(Lost)
        assert (lost.launch, lost.reason) == (1, "it was silent for too long")
        (tmp_path / "end").touch()  # for a thread, which cannot be killed
        assert not self.in_processes or ends(pid, bench)
        member.has_process = False
        member.launch(play=count_quickly, until=2.0)
        assert member.next(Started).launch == 2
        assert scores(member.reports(2)) == [1.0, 2.0]

    def test_one_that_was_killed_when_it_is_told_to_go_on_is_lost_once(self, bench: Bench) -> None:
        member = bench.member(count)
        member.launch(until=1.0)
        member.next(Started)
        assert member.reports(1)[-1].waiting
        bench.engine.kill(member.trial_id, "too slow")
        member.go_on(until=2.0)
        assert not member.until_lost()
        assert member.is_silent()

    def test_to_kill_one_that_has_no_process_is_nothing(self, bench: Bench) -> None:
        never, gone = bench.member(count), bench.member(lambda config: {"score": 1.0})
        gone.launch()
        gone.next(Started)
        gone.reports(1)
        gone.next(Finished)
        gone.stop()
        bench.engine.kill(never.trial_id, "no reason")
        bench.engine.kill(gone.trial_id, "no reason")
        assert never.is_silent()
        assert not gone.late

    # --------------------------------------------------------------------------------------------------------- output

    def test_what_members_print_comes_with_their_names_and_stays_in_a_file(self, bench: Bench) -> None:
        self.needs_processes()

        def train(config: dict[str, Any]) -> None:
            print("grüße an alle", "日本")
            sys.stderr.write("a warning\n")
            os.write(1, b"not \xff text\n")
            print("x" * 10_000)
            print("no end of line", end="")

        member = bench.member(train, name="loud")
        member.launch()
        member.next(Started)
        member.next(Finished)
        member.stop()
        expected = {"grüße an alle 日本", "a warning", "not \ufffd text", "x" * 10_000, "no end of line"}
        bench.until(lambda: {line for name, line in bench.lines if name == "loud"} == expected, "what it printed")
        log = Path(member.info.folder, "output.log")
        bench.until(lambda: b"no end of line" in log.read_bytes(), "its file")
        assert "grüße an alle 日本\n".encode() in log.read_bytes()

    def test_without_files_for_output_none_is_written(self, new_bench: NewBench) -> None:
        self.needs_processes()
        with new_bench(log_to_file=False) as bench:
            member = bench.member(lambda config: print("hello"))
            member.launch()
            member.next(Started)
            member.next(Finished)
            bench.until(lambda: bench.lines == [(member.info.name, "hello")], "what it printed")
            assert not Path(member.info.folder, "output.log").exists()

    def test_slots_that_are_taken_away_are_told_before_the_members_that_were_there(self, new_bench: NewBench) -> None:
        if not self.tells_slots():
            pytest.skip("its slots follow from this machine")
        with new_bench() as bench:
            waiting, training = bench.member(count), bench.member(count)
            waiting.launch(until=1.0)
            waiting.next(Started)
            assert waiting.reports(1)[-1].waiting
            training.launch(bench.slots - 1)
            training.next(Started)
            there, at = bench.slots, len(bench.told)
            self.take_slots(bench)
            for member in (waiting, training):
                member.until_lost()
            told = bench.told[at:]
            lost = [event for event in told if isinstance(event, Lost)]
            assert len(lost) == 2
            assert all(event.innocent for event in lost)
            left = [event for event in told[: told.index(lost[0])] if isinstance(event, SlotsLeft)]
            gone = [slot for event in left for slot in event.slots]
            assert sorted(gone) == sorted(set(gone))
            assert {waiting.slot, training.slot} <= set(gone) <= set(range(there))
            # Those that come in their place have numbers of their own.
            bench.until(lambda: bench.slots > there, "a slot")
            waiting.launch(bench.slots - 1, until=1.0)
            waiting.next(Started)
            assert waiting.reports(1)[-1].waiting

    # ------------------------------------------------------------------------------------------ many, starting, closing

    def test_nothing_is_told_where_nothing_happens(self, bench: Bench) -> None:
        bench.settle()
        bench.pump(0.0)
        bench.pump(0.01)
        assert not bench.heard()

    def test_many_members_at_once_all_come_and_go(self, bench: Bench) -> None:
        self.needs_processes()
        members = [bench.member(count_quickly) for _ in range(30)]
        for at, member in enumerate(members):
            member.launch(at % bench.slots, until=2.0)
        for member in members:
            member.next(Started)
            assert scores(member.reports(2)) == [1.0, 2.0]
        for member in members:
            member.stop()
        bench.settle()
        assert not any(member.late or member.events for member in members)

    def test_a_closed_engine_leaves_nothing_running_and_can_be_closed_again(
        self, new_bench: NewBench, tmp_path: Path
    ) -> None:
        bench = new_bench()
        threads = set(threading.enumerate())
        bench.start()
        waiting, training = bench.member(count), bench.member(mark, marks=str(tmp_path))
        waiting.launch(until=1.0)
        pids = [waiting.next(Started).pid]
        waiting.reports(1)
        training.launch(bench.slots - 1)
        pids.append(training.next(Started).pid)
        training.reports(1)
        bench.engine.close()
        assert (tmp_path / "left").exists()
        assert not self.in_processes or all(map(ends, pids))
        bench.engine.close()
        bench.engine.close(at_once=True)
        assert not [thread for thread in set(threading.enumerate()) - threads if not thread.daemon]

    def test_an_engine_that_is_closed_at_once_does_not_wait_for_members(self, new_bench: NewBench) -> None:
        self.needs_processes()

        def deaf(config: dict[str, Any]) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            tune.report({"score": 1.0})
            while True:
                time.sleep(1.0)

        bench = new_bench()
        bench.start()
        member = bench.member(deaf)
        member.launch()
        pid = member.next(Started).pid
        member.reports(1)
        bench.engine.close(at_once=True)
        assert ends(pid)

    def test_an_engine_that_was_not_started_can_be_closed(self) -> None:
        engine = self.make_engine()
        engine.close()
        engine.close()

    def test_a_trainable_that_cannot_be_carried_is_an_error_of_the_start(self, new_bench: NewBench) -> None:
        self.needs_processes()
        lock = threading.Lock()

        def train(config: dict[str, Any]) -> None:
            with lock:
                tune.report({"score": 1.0})

        bench = new_bench(train)
        with pytest.raises(ConfigError, match=r"train cannot be sent.*'lock' \(lock\), which cannot be pickled"):
            bench.start()
        bench.engine.close()
        bench.engine.close()

    def test_a_trainable_that_cannot_be_loaded_is_an_error_of_the_start(self, new_bench: NewBench) -> None:
        self.needs_processes()
        bench = new_bench(NotThere())
        with pytest.raises(EngineError, match=r"(?s)cannot be loaded.*no_module_of_this_name"):
            bench.start()
        bench.engine.close()
        bench.engine.close()

    def test_a_start_that_takes_long_can_be_ended(self, new_bench: NewBench, tmp_path: Path) -> None:
        self.needs_processes()

        def check() -> None:
            (tmp_path / "asked").touch()
            raise AskedToLeave

        bench = new_bench(BlocksUntilSeen(tmp_path), check=check)
        with pytest.raises(AskedToLeave):
            bench.start()
        bench.engine.close()

    def test_members_have_the_environment_the_folder_and_the_path_of_the_driver(
        self, new_bench: NewBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = tmp_path / "lib" / "of_the_suite"
        (package / "deep").mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "deep" / "__init__.py").write_text("from .inner import VALUE\n")
        (package / "deep" / "inner.py").write_text("from of_the_suite.beside import BASE\nVALUE = BASE + 1\n")
        (package / "beside.py").write_text("BASE = 41\n")
        monkeypatch.syspath_prepend(str(tmp_path / "lib"))
        monkeypatch.setenv("OF_THE_SUITE", "ä b")
        monkeypatch.chdir(tmp_path)

        def train(config: dict[str, Any]) -> dict[str, Any]:
            from of_the_suite.deep import VALUE  # type: ignore[import-not-found]

            return {"score": float(VALUE), "environment": os.environ.get("OF_THE_SUITE"), "folder": os.getcwd()}

        with new_bench() as bench:
            member = bench.member(train)
            member.launch()
            assert member.next(Started).hostname == socket.gethostname()
            found = member.next(Reported).metrics
            assert found["score"] == 42.0
            if self.carries_environment:
                assert (found["environment"], found["folder"]) == ("ä b", str(tmp_path))
        sys.modules.pop("of_the_suite", None)
