"""A member hands its slot on before it commits its checkpoint: what happens meanwhile counts, and whoever dies, nothing
is lost."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import fit, items, load_state, pbt, report_state, story

from shoal import tune
from shoal.core.commands import Continue, HandOn, Launch, Retry, WindUp
from shoal.core.events import Lost, Reported, Started
from shoal.core.reports import ReportRules
from shoal.engines import EngineSetup
from shoal.engines.processes import ProcessEngine
from shoal.errors import StorageError
from shoal.worker.wire import MemberInfo

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="members hand slots on by sockets that Linux has")

When = Callable[[Path], None]
Step = Callable[[int, int, Path], None]


def wait_until(there: Callable[[], bool], otherwise: object, meanwhile: Callable[[], object] = lambda: None) -> None:
    end = time.monotonic() + 60
    while not there():
        assert time.monotonic() < end, otherwise
        time.sleep(0.001)
        meanwhile()


def wait_for(mark: Path) -> None:
    wait_until(mark.exists, f"{mark.name} does not happen")


def wait_until_it_can_hand_on() -> None:
    """Wait until this member was told who goes on after it, and that one can be reached."""
    session: Any = tune.get_context().session

    def can() -> bool:
        successor = session._successor
        return successor is not None and successor.address[1:] in Path("/proc/net/unix").read_text()

    wait_until(can, "nobody is promised the slot", session._hear_early)


def wait_until_it_is_told() -> None:
    """Wait until the driver has said something, as that this member shall leave."""
    session: Any = tune.get_context().session
    wait_until(session._port.pending, "the driver says nothing")


def until(mark: str) -> When:
    """Return what takes until a mark is there."""
    return lambda marks: wait_for(marks / mark)


def dies_in(step: int) -> Step:
    """Return what ends the second member in a step, once."""

    def in_step(me: int, now: int, marks: Path) -> None:
        if me == 1 and now == step and not (marks / "1 is gone").exists():
            wait_for(marks / "committing")
            (marks / "1 is gone").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return in_step


def train(config: dict[str, Any]) -> None:
    """Trains in rounds of two steps. What happens during a commit of the first member is another's business."""
    session: Any = importlib.import_module("shoal.worker.session")
    me = tune.get_context().index
    marks = Path(config["marks"])
    commit = session.take_over

    def slow(*args: Any, begins: Callable[[], None], **kwargs: Any) -> Any:
        session.take_over = commit
        begins()
        (marks / "committing").touch()
        config["during"](marks)
        return commit(*args, **kwargs)

    step, score = load_state() or (0, 0.0)
    while True:
        step += 1
        score += config["lr"]
        config["in_step"](me, step, marks)
        if me == 0 and step == config["commits"] and not (marks / "committing").exists():
            session.take_over = slow
            wait_until_it_can_hand_on()
        metrics = {"score": score, "step": step, "process": os.getpid()}
        try:
            report_state(step, score, metrics, save=step % 2 == 0)
        except StorageError:
            report_state(step, score, metrics, save=step % 2 == 0)
        if step % 2 == 1:
            (marks / f"{me} has reported {step}").touch()


def nothing(me: int, step: int, marks: Path) -> None:
    pass


def run(
    folder: Path,
    during: When,
    in_step: Step = nothing,
    *,
    commits: int = 2,
    **settings: Any,
) -> Any:
    """Run two members in one slot; ``during`` happens while the first one commits its state of a step."""
    marks = folder / "marks"
    marks.mkdir()
    (marks / "driver").write_text(str(os.getpid()))
    own = {"marks": str(marks), "during": during, "in_step": in_step, "commits": commits}
    return fit(
        train,
        folder / "run",
        space={"lr": tune.uniform(0.0, 1.0), **own},
        num_samples=2,
        scheduler=pbt(perturbation_interval=2, quantile_fraction=0.0),
        stop={"training_iteration": 8},
        max_concurrent_trials=1,
        **settings,
    )


def check(grid: tune.ResultGrid) -> None:
    assert grid.num_errors == 0
    for trial in story(grid).in_order():
        assert [row.report.iteration for row in trial.rows] == [*range(1, 9)]
        assert [row.report.metrics["step"] for row in trial.rows] == [*range(1, 9)]


def test_the_next_one_trains_and_reports_while_the_one_before_commits(tmp_path: Path) -> None:
    grid = run(tmp_path, until("1 has reported 1"))
    check(grid)
    first, second = (trial.trial_id for trial in story(grid).in_order())
    told: list[Any] = [
        item
        for item in items(grid, object)
        if isinstance(item, Launch | HandOn | Continue | Started | Reported)
        and (isinstance(item, HandOn) or item.trial_id == second or getattr(item, "iteration", 0) == 2)
    ]
    names = [f"{type(item).__name__} {'first' if item.trial_id == first else 'second'}" for item in told[:6]]
    # All that the second one did is told after the report that gave it the slot.
    assert names == [
        "Launch second", "HandOn first", "Reported first", "Continue second", "Started second", "Reported second",
    ]  # fmt: skip
    assert told[0].waits


def test_one_that_dies_while_it_commits_goes_back_and_the_next_one_trains_on(tmp_path: Path) -> None:
    def during(marks: Path) -> None:
        wait_for(marks / "1 has reported 1")
        os.kill(os.getpid(), signal.SIGKILL)

    grid = run(tmp_path, during, run={"failure_config": tune.FailureConfig(max_failures=1)})
    check(grid)
    first, second = story(grid).in_order()
    assert [retry.trial_id for retry in items(grid, Retry)] == [first.trial_id]
    assert len({row.report.metrics["process"] for row in second.rows}) == 1


def test_the_next_one_that_dies_before_its_slot_is_known_fails_once(tmp_path: Path) -> None:
    grid = run(tmp_path, until("1 is gone"), dies_in(1), run={"failure_config": tune.FailureConfig(max_failures=1)})
    check(grid)
    [lost] = items(grid, Lost)
    assert [retry.innocent for retry in items(grid, Retry)] == [False]
    second = story(grid).in_order()[1]
    assert lost.trial_id == second.trial_id
    # That it had entered its function is told before it is told that it is gone, and both after the Continue.
    about = [
        type(item).__name__
        for item in items(grid, object)
        if getattr(item, "trial_id", "") == second.trial_id and isinstance(item, Launch | Continue | Started | Lost)
    ]
    assert about[:5] == ["Launch", "Continue", "Started", "Lost", "Launch"]


def test_one_that_waits_in_its_report_and_dies_before_its_slot_is_known_has_failed(tmp_path: Path) -> None:
    """Not only one that is about to enter its function: it dies in a step of its own."""

    grid = run(
        tmp_path, until("1 is gone"), dies_in(3), commits=4, run={"failure_config": tune.FailureConfig(max_failures=1)}
    )
    check(grid)
    [retry] = items(grid, Retry)
    assert (retry.trial_id, retry.iteration, retry.innocent) == (story(grid).in_order()[1].trial_id, 2, False)


def test_what_was_reported_before_the_slot_was_known_counts_where_the_run_is_interrupted(tmp_path: Path) -> None:
    def during(marks: Path) -> None:
        wait_for(marks / "1 has reported 1")
        os.kill(int((marks / "driver").read_text()), signal.SIGTERM)
        wait_until_it_is_told()  # so that all is decided before the report of this one is there

    def in_step(me: int, step: int, marks: Path) -> None:
        if me == 1 and step == 2:
            wait_until_it_is_told()

    with pytest.raises(SystemExit):
        run(tmp_path, during, in_step)
    [folder] = (tmp_path / "run").iterdir()
    grid = tune.ResultGrid.read(folder)
    assert [trial.iteration for trial in story(grid).in_order()] == [2, 2]


def test_one_whose_commit_fails_after_it_has_handed_its_slot_on_reports_again(tmp_path: Path) -> None:
    def during(marks: Path) -> None:
        wait_for(marks / "1 has reported 1")
        raise StorageError("there is no room")

    grid = run(tmp_path, during)
    check(grid)
    assert not items(grid, Retry)


def test_a_function_that_raises_before_its_slot_is_known_fails_once(tmp_path: Path) -> None:
    def in_step(me: int, step: int, marks: Path) -> None:
        if me == 1 and not (marks / "1 raises").exists():
            (marks / "1 raises").touch()
            raise RuntimeError("once")

    grid = run(tmp_path, until("1 raises"), in_step, run={"failure_config": tune.FailureConfig(max_failures=1)})
    check(grid)
    assert [retry.error for retry in items(grid, Retry)] == ["RuntimeError: once"]


class Alone:
    """The engine without a driver: the test gives the commands, and hears what happens."""

    def __init__(self, folder: Path, during: When, in_step: Step, *, hands_on: bool = True) -> None:
        self.marks = folder / "marks"
        self.marks.mkdir()
        commits = 2 if hands_on else 0
        own = {"lr": 1.0, "marks": str(self.marks), "during": during, "in_step": in_step, "commits": commits}
        self.engine = ProcessEngine()
        rules = ReportRules(metric="score")
        self.engine.start(EngineSetup(train, rules, "alone", 1, 1.0, 0.0, [""], lambda name, text: None))
        self.heard: list[Any] = []
        for index, name in enumerate("ab"):
            self.engine.add(MemberInfo(name, index, name, str(folder / name)))
        self.engine.execute(self.launch("a", own), None)
        self.poll_until(lambda: self.iteration_of("a") >= 1)
        self.engine.execute(self.launch("b", own, waits=True), None)
        if hands_on:
            self.engine.execute(HandOn("a", 1, 0, "b", 1, 0, 2.0), None)
            self.poll_until((self.marks / "committing").exists)

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    @staticmethod
    def launch(name: str, config: dict[str, Any], *, waits: bool = False) -> Launch:
        return Launch(name, 1, 0, config, None, 0, 0.0, 0, 2.0, True, waits=waits)

    def poll_until(self, there: Callable[[], bool]) -> None:
        wait_until(there, self.heard, lambda: self.heard.extend(self.engine.poll(0.01)))

    def iteration_of(self, name: str) -> int:
        return sum(isinstance(event, Reported) and event.trial_id == name for event in self.heard)

    def names(self, name: str) -> list[str]:
        return [type(event).__name__ for event in self.heard if event.trial_id == name]


def test_nothing_is_told_of_one_that_goes_on_early_until_it_has_the_slot_not_even_its_death(tmp_path: Path) -> None:
    with Alone(tmp_path, until("go on"), dies_in(2)) as alone:
        alone.poll_until(lambda: "b" not in alone.engine._members)
        assert alone.names("b") == []
        (alone.marks / "go on").touch()
        alone.poll_until(lambda: alone.iteration_of("a") == 2)
        assert alone.names("b") == []
        alone.engine.execute(Continue("b", 1, 0, 2.0), None)
        alone.poll_until(lambda: alone.names("b")[-1:] == ["Lost"])
        assert alone.names("b") == ["Started", "Reported", "Lost"]


def test_one_that_dies_before_it_has_said_anything_is_known_to_have_gone_on(tmp_path: Path) -> None:
    with Alone(tmp_path, until("go on"), nothing) as alone:
        # As one that waits in its report: what it says first is only the word that it goes on.
        alone.poll_until(lambda: alone.engine._members["b"].early)
        member = alone.engine._members["b"]
        alone.poll_until(lambda: any(isinstance(event, Reported) and event.waiting for event in member.held))
        member.held.clear()
        assert member.pid is not None
        os.kill(member.pid, signal.SIGKILL)
        alone.poll_until(lambda: "b" not in alone.engine._members)
        assert alone.names("b") == []
        alone.engine.execute(Continue("b", 1, 0, 2.0), None)
        alone.poll_until(lambda: alone.names("b") == ["Lost"])
        (alone.marks / "go on").touch()


def test_what_one_that_is_gone_had_reported_is_told_where_all_are_to_leave(tmp_path: Path) -> None:
    with Alone(tmp_path, until("go on"), dies_in(2)) as alone:
        alone.poll_until(lambda: "b" not in alone.engine._members)
        alone.engine.execute(WindUp("b", 1), None)
        alone.poll_until(lambda: alone.names("b")[-1:] == ["Lost"])
        assert alone.names("b") == ["Started", "Reported", "Lost"]
        (alone.marks / "go on").touch()


def test_one_that_waits_for_the_slot_that_it_was_promised_leaves_when_it_is_asked_to(tmp_path: Path) -> None:
    with Alone(tmp_path, until("never"), nothing, hands_on=False) as alone:
        alone.engine.execute(WindUp("b", 1), None)
        alone.poll_until(lambda: alone.names("b") == ["Lost"])
