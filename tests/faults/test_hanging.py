"""Members that hang, or that the kernel kills for lack of memory.

Who is silent for too long depends on how busy the machine is. So here a member that hangs says so beforehand, except
where it does not matter when it is noticed.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import fit, items, load_state, pbt, report_state, story

from shoal import tune, wiring
from shoal.core.commands import Exploit, Retry
from shoal.engines.memory import OutOfMemory
from shoal.errors import ConfigError
from shoal.watchdog import Watchdog

ENGINES = ("inline", "processes")
WHY = "it reported nothing for 1 s, the report_timeout_s, and was killed"


class Told(Watchdog):
    """Takes those for silent that have said that they are about to be."""

    def __init__(self, folder: Path) -> None:
        super().__init__(1.0)
        self._folder = folder

    def overdue(self, training: Iterable[str], now: float) -> list[str]:
        found = [trial_id for trial_id in training if (self._folder / trial_id).exists()]
        for trial_id in found:
            (self._folder / trial_id).unlink()
        return found


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what a member calls before it hangs."""
    folder = tmp_path / "silent"
    folder.mkdir()
    monkeypatch.setattr(wiring, "_watchdog", lambda run: Told(folder))

    def say() -> None:
        (folder / tune.get_context().get_trial_id()).touch()

    return say


@pytest.mark.parametrize("engine", ENGINES)
def test_a_member_that_reports_nothing_for_too_long_is_killed(engine: str, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        while not (tmp_path / "over").exists():
            time.sleep(0.01)

    failures = tune.FailureConfig(report_timeout_s=0.5)
    try:
        grid = fit(train, tmp_path, engine=engine, num_samples=1, run={"failure_config": failures})
    finally:
        (tmp_path / "over").touch()
    assert "it reported nothing for 0.5 s, the report_timeout_s, and was killed" in str(grid[0].error)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_member_that_hangs_is_killed_and_tried_again_from_its_checkpoint(
    engine: str, tmp_path: Path, silent: Callable[[], None]
) -> None:
    def train(config: dict[str, Any]) -> None:
        step, score = load_state() or (0, 0.0)
        fresh = step == 0
        while True:
            step += 1
            score += config["lr"]
            if fresh and step == 8 and tune.get_context().index == 1:
                silent()
                while not (tmp_path / "over").exists():  # for ever
                    time.sleep(0.01)
                return
            report_state(step, score, {"score": score, "step": step}, save=step % 5 == 0)

    try:
        grid = fit(
            train, tmp_path, engine=engine, num_samples=2,
            run={"failure_config": tune.FailureConfig(max_failures=1)},
        )  # fmt: skip
    finally:
        (tmp_path / "over").touch()
    assert [result.error for result in grid] == [None, None]
    (retry,) = items(grid, Retry)
    assert retry.trial_id == story(grid).in_order()[1].trial_id
    assert WHY in retry.error
    assert retry.iteration == 5
    assert [row.report.metrics["step"] for row in story(grid).in_order()[1].rows] == list(range(1, 21))


def test_a_member_that_is_stopped_by_a_signal_or_does_not_even_start_is_noticed(
    tmp_path: Path, silent: Callable[[], None]
) -> None:
    def train(config: dict[str, Any]) -> None:
        if tune.get_context().index == 0:
            silent()
            os.kill(os.getpid(), signal.SIGSTOP)
        tune.report({"score": 1.0})
        if tune.get_context().index == 1:
            silent()
            os.kill(os.getpid(), signal.SIGSTOP)
        tune.report({"score": 1.0})

    grid = fit(train, tmp_path, engine="processes", num_samples=3)
    assert [WHY in str(result.error) for result in grid] == [True, True, False]
    assert [len(trial.rows) for trial in story(grid).in_order()] == [0, 1, 2]


@pytest.mark.parametrize("slots", [1, 4])
def test_members_that_wait_for_others_or_for_a_slot_do_not_hang(
    slots: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one trains, for however long, nobody else is asked about: the others wait for it at the barrier."""
    go_on = tmp_path / "go on"

    class Alone(Watchdog):
        def overdue(self, training: Iterable[str], now: float) -> list[str]:
            if [*training] == [self.first] and self.waiting.exists():
                go_on.touch()
            return []

        waiting = tmp_path / "waiting"

        @property
        def first(self) -> str:
            return self.waiting.read_text() if self.waiting.exists() else ""

    def train(config: dict[str, Any]) -> None:
        step, score = load_state() or (0, 0.0)
        while True:
            step += 1
            if step == 3 and tune.get_context().index == 0:
                (tmp_path / "new").write_text(tune.get_context().get_trial_id())
                (tmp_path / "new").rename(tmp_path / "waiting")
                end = time.monotonic() + 60
                while not go_on.exists():
                    assert time.monotonic() < end, "others are taken for silent that wait"
                    time.sleep(0.01)
            report_state(step, score, {"score": score, "step": step}, save=True)

    monkeypatch.setattr(wiring, "_watchdog", lambda run: Alone(1.0))
    grid = fit(
        train, tmp_path, engine="processes", num_samples=4, max_concurrent_trials=slots,
        stop={"training_iteration": 6}, scheduler=pbt(perturbation_interval=3, synch=True),
    )  # fmt: skip
    assert grid.num_errors == 0
    assert not items(grid, Retry)


def test_a_member_that_comes_back_after_it_was_given_up_saves_nothing_in_the_place_of_its_successor(
    tmp_path: Path, silent: Callable[[], None]
) -> None:
    """With ``inline`` a member that hangs cannot be killed: it lives on in its thread."""
    hung, back = tmp_path / "hung", tmp_path / "back"

    def train(config: dict[str, Any]) -> None:
        step, score = load_state() or (0, 0.0)
        while True:
            step += 1
            if step == 3 and not hung.exists():
                hung.touch()
                silent()
                while not back.exists():
                    time.sleep(0.01)
                step = 1000
            if step == 8:
                back.touch()
                name = threading.current_thread().name
                while sum(thread.name == name for thread in threading.enumerate()) > 1:
                    time.sleep(0.01)  # until the other has left
            report_state(step, score, {"score": score, "step": step}, save=True)

    failures = tune.FailureConfig(max_failures=1)
    grid = fit(
        train, tmp_path / "run", engine="inline", num_samples=1, stop={"training_iteration": 12},
        run={"failure_config": failures},
    )  # fmt: skip
    assert grid.num_errors == 0
    for checkpoint, metrics in grid[0].best_checkpoints:
        assert json.loads(Path(checkpoint.path, "state.json").read_text())[0] == metrics["training_iteration"]


def test_a_member_that_hangs_while_it_saves_for_its_end_is_noticed(tmp_path: Path, silent: Callable[[], None]) -> None:
    class Slow(tune.Trainable):
        def step(self) -> dict[str, float]:
            return {"score": 1.0}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            silent()
            time.sleep(3600)

        def load_checkpoint(self, checkpoint: Any) -> None: ...

    grid = fit(
        Slow, tmp_path, engine="processes", num_samples=1, stop=lambda trial_id, result: True,
        run={"checkpoint_config": tune.CheckpointConfig(checkpoint_at_end=True)},
    )  # fmt: skip
    assert WHY in str(grid[0].error)


def test_one_that_hangs_at_its_first_report_again_and_again_is_replaced_where_pbt_is_on(
    tmp_path: Path, silent: Callable[[], None]
) -> None:
    def train(config: dict[str, Any]) -> None:
        step, score = load_state() or (0, 0.0)
        if step == 0 and tune.get_context().index == 1:
            silent()
            time.sleep(3600)
        while True:
            step += 1
            score += config["lr"]
            report_state(step, score, {"score": score, "step": step}, save=step % 5 == 0)

    failures = tune.FailureConfig(max_failures=1)
    grid = fit(
        train, tmp_path, engine="processes", num_samples=2, scheduler=pbt(), stop={"training_iteration": 32},
        run={"failure_config": failures},
    )  # fmt: skip
    assert grid.num_errors == 0
    replaced = [exploit for exploit in items(grid, Exploit) if exploit.failed is not None]
    assert len(replaced) == 1
    assert WHY in replaced[0].failed


@pytest.mark.parametrize("timeout", [0, -1, "1", True, float("nan")])
def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    with pytest.raises(ConfigError, match="report_timeout_s must be a number of seconds greater than 0"):
        tune.FailureConfig(report_timeout_s=timeout)


def test_the_watchdog_names_only_who_was_silent_twice() -> None:
    watchdog = Watchdog(10.0)
    watchdog.hear("a", 0.0)
    watchdog.hear("b", 0.0)
    assert watchdog.overdue(["a", "b"], 9.0) == []
    assert watchdog.overdue(["a", "b"], 10.0) == []  # what they sent may wait to be read
    watchdog.hear("b", 10.0)
    assert watchdog.overdue(["a", "b"], 10.1) == ["a"]
    assert watchdog.overdue(["a", "b"], 10.2) == []  # once
    assert watchdog.overdue(["b"], 25.0) == []
    assert watchdog.overdue([], 26.0) == []  # it waits meanwhile
    assert watchdog.overdue(["b"], 27.0) == []
    assert watchdog.overdue(["b"], 28.0) == ["b"]


# ---- Out of memory ---------------------------------------------------------------------------------------------------


def test_what_the_kernel_counts_tells_whether_memory_was_the_reason(tmp_path: Path) -> None:
    system, group = tmp_path / "vmstat", tmp_path / "memory.events"

    def count(in_system: int, in_group: int) -> None:
        system.write_text(f"pgpgin 1\noom_kill {in_system}\n")
        group.write_text(f"low 0\noom 7\noom_kill {in_group}\noom_group_kill 0\n")

    count(3, 1)
    memory = OutOfMemory(system, group, lambda: 0.0)
    assert "somebody else has" in memory.hint()
    count(4, 2)
    limit = "the kernel has killed it because the memory limit of this job or container was reached"
    assert memory.hint() == limit
    assert "somebody else has" in memory.hint()  # what was counted then says nothing of the next one
    count(5, 2)
    assert "the machine was out of memory" in memory.hint()
    system.unlink()
    group.write_text("nothing that it knows")
    assert memory.hint() == "possibly the machine was out of memory"


def test_each_that_the_kernel_counts_explains_one_death_and_only_for_a_while(tmp_path: Path) -> None:
    system, group = tmp_path / "vmstat", tmp_path / "memory.events"
    now = 0.0

    def count(number: int) -> None:
        system.write_text(f"oom_kill {number}\n")
        group.write_text(f"oom_kill {number}\n")

    count(0)
    memory = OutOfMemory(system, group, lambda: now)
    count(2)  # two members at once, of which one is heard of first
    limit = "memory limit of this job or container"
    assert [limit in memory.hint() for _ in range(3)] == [True, True, False]
    count(4)
    assert limit in memory.hint()
    now = 60.0  # the other was a process that nobody has asked about
    assert "somebody else has" in memory.hint()


@pytest.mark.parametrize(
    ("error", "about_it"),
    [
        ("RuntimeError: DataLoader worker (pid 5) is killed by signal: Killed. ", True),
        ("RuntimeError: DataLoader worker (pid 5) is killed by signal: Terminated. ", False),
        ("TerminatedWorkerError: The exit codes of the workers are {SIGKILL(-9)}", True),
        ("BrokenProcessPool: A process in the process pool was terminated abruptly while ...", True),
        ("ValueError: wrong", False),
    ],
)
def test_an_error_about_a_worker_that_was_killed_is_explained_and_nothing_else_is_by_the_same(
    error: str, about_it: bool, tmp_path: Path
) -> None:
    (system := tmp_path / "vmstat").write_text("oom_kill 0\n")
    memory = OutOfMemory(system, tmp_path / "none", lambda: 0.0)
    assert memory.hint_about_worker(error) is None
    system.write_text("oom_kill 1\n")
    assert (memory.hint_about_worker(error) is not None) == about_it
    assert ("somebody else has" in memory.hint()) == about_it


def test_a_member_whose_worker_the_kernel_has_killed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (system := tmp_path / "vmstat").write_text("oom_kill 0\n")
    memory = OutOfMemory(system, tmp_path / "none", lambda: 0.0)
    monkeypatch.setattr("shoal.engines.processes.OutOfMemory", lambda: memory)

    def train(config: dict[str, Any]) -> None:
        if tune.get_context().index:
            os.kill(os.getpid(), signal.SIGKILL)
        system.write_text("oom_kill 1\n")
        raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. ")

    first, second = fit(train, tmp_path, engine="processes", num_samples=2, max_concurrent_trials=1)
    assert "signal: Killed. (the machine was out of memory: the kernel has killed" in " ".join(str(first.error).split())
    assert "somebody else has" in str(second.error)


def test_where_the_kernel_says_nothing_memory_is_only_possible(tmp_path: Path) -> None:
    memory = OutOfMemory(tmp_path / "absent", tmp_path / "neither")
    assert memory.hint() == "possibly the machine was out of memory"


def test_the_counters_of_this_machine_can_be_read() -> None:
    assert OutOfMemory().hint()
