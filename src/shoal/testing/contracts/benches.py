"""What the tests at the seam share: benches, and members that do little."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from ... import tune
from ...core.events import Reported
from ..trainables import load_state, play, report_state
from .bench import PATIENCE_S, Bench
from .terms import Terms

__all__ = ["Benches", "NewBench", "count", "count_quickly", "ends", "mark", "scores"]

NewBench: TypeAlias = Callable[..., Bench]


def count(config: dict[str, Any]) -> None:
    """Report 1, 2, 3 and so on, from the checkpoint on, for ever; save with each."""
    step, _ = load_state() or (0, 0.0)
    while True:
        step += 1
        report_state(step, 0.0, {"score": float(step), "pid": os.getpid()}, save=True)


def count_quickly(config: dict[str, Any]) -> None:
    """Report 1, 2, 3 and so on, from the checkpoint on, for ever; save with each that is asked for."""
    step, _ = load_state() or (0, 0.0)
    while True:
        step += 1
        tune.report({"score": float(step)})


def mark(config: dict[str, Any]) -> None:
    """Leave a file on entering and one on leaving, in the folder ``marks``; report until told otherwise."""
    Path(config["marks"], "entered").touch()
    try:
        while True:
            tune.report({"score": 1.0})
    finally:
        Path(config["marks"], "left").touch()


def scores(reports: list[Reported]) -> list[float]:
    return [report.metrics["score"] for report in reports]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that nobody has waited for is dead all the same.
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()


def ends(pid: int, bench: Bench | None = None) -> bool:
    """Wait until a process has ended; with a bench, its engine is polled meanwhile, as by a driver."""
    end = time.monotonic() + PATIENCE_S
    while is_alive(pid):
        if time.monotonic() > end:
            return False
        if bench is None:
            time.sleep(0.01)
        else:
            bench.pump(0.01)
    return True


class Benches(Terms):
    """Tests that drive the engine by hand."""

    @pytest.fixture(scope="class")
    @classmethod
    def shared_bench(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
        """Yield one engine for all tests that need no other."""
        with cls.make_bench(tmp_path_factory.mktemp("bench")) as bench:
            yield bench

    @pytest.fixture
    def bench(self, shared_bench: Bench) -> Iterator[Bench]:
        """Yield the engine; all members that a test has made end with it."""
        yield shared_bench
        shared_bench.dismiss()

    @pytest.fixture
    def new_bench(self, tmp_path: Path) -> Iterator[NewBench]:
        """Yield what makes a bench with an engine of its own, which is closed in the end."""
        with contextlib.ExitStack() as stack:

            def make(trainable: Callable[..., Any] = play, **settings: Any) -> Bench:
                bench = self.make_bench(tmp_path / "run", trainable, **settings)
                stack.callback(bench.engine.close)
                return bench

            yield make

    @classmethod
    def make_bench(cls, folder: Path, *args: Any, **kwargs: Any) -> Bench:
        """Return a bench with a new engine, not started."""
        slots = 0 if cls.tells_slots() else 4 if cls.in_processes else 1
        return Bench(cls.make_engine(), folder, *args, slots=slots, limit=4, **kwargs)
