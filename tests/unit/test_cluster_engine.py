"""The engine for clusters with a cluster that is none: what it asks for, gives back, hands out, and how it ends."""

from __future__ import annotations

import json
import pickle
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.clustered import PLACE, Bench, FakeBackend, FakeLine, Make, benches, executed, facts, train

import shoal
from shoal.config import RunConfig, TuneConfig
from shoal.core.commands import Status
from shoal.core.events import SlotsJoined, SlotsLeft
from shoal.engines import cluster as module
from shoal.engines.backend import Away, Gone
from shoal.engines.granted import Change
from shoal.engines.orders import Batch, Ended, Upload, Uploaded
from shoal.errors import EngineError, StorageError
from shoal.objects import ObjectRef
from shoal.plan import make_plan
from shoal.resources import Request
from shoal.storage.place import Place
from shoal.worker.wire import frame


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    yield from benches(tmp_path, monkeypatch)


# ------------------------------------------------------------------------------------------- how many slots are of use


@pytest.mark.parametrize(("trials", "limit", "wanted"), [(2, None, 2), (9, 3, 3), (2, 8, 2)])
def test_no_more_slots_are_asked_for_than_there_are_trials(
    make: Make, trials: int, limit: int | None, wanted: int
) -> None:
    bench = make(FakeBackend(a=16))
    bench.start(trials=trials, limit=limit)
    bench.until(lambda: len(bench.slots) == wanted)
    bench.poll()
    assert bench.backend.asked == wanted


def test_slots_that_can_be_of_no_use_any_more_go_back_and_so_do_hosts(make: Make) -> None:
    bench = make(FakeBackend(a=2, b=2))
    bench.start()
    bench.until(lambda: len(bench.slots) == 4)
    on = {node: [slot for slot, where in bench.slots.items() if where == node] for node in ("a", "b")}
    for index, slot in enumerate([*on["a"], *on["b"]]):
        bench.launch(f"t{index}", slot)
    bench.poll()
    bench.events.clear()
    for trial_id in ("t1", "t2", "t3"):
        bench.stop(trial_id)
    bench.until(lambda: len(bench.backend.placed) == 1)
    [left] = bench.slots
    assert left == on["a"][0], "the one that the last trial has"
    assert sorted(slot for event in bench.events if isinstance(event, SlotsLeft) for slot in event.slots) == sorted(
        {*on["a"], *on["b"]} - {left}
    )
    assert list(bench.backend.placed.values()) == ["a"]
    bench.until(lambda: bench.line("b").key in bench.backend.ended)
    assert bench.line("b").did == ["begin", "close"]
    assert bench.line("a").key not in bench.backend.ended


def told_again(bench: Bench, *reservations: str) -> None:
    """Reservations are told once more, as it happens to all of a node where one host is gone."""
    bench.backend.inbox.put(("slots", Change(tuple((each, "a") for each in reservations)), None))


def test_a_slot_that_is_told_once_more_is_the_same(make: Make) -> None:
    bench = make(FakeBackend(a=2))
    held: list[FakeLine] = []

    def on_begin(line: FakeLine, members: bool) -> None:
        held.append(line)
        told_again(bench, "r001", "r002")
        line.answer("started", facts(line))

    bench.backend.on_begin = on_begin
    bench.start(trials=2)
    bench.until(lambda: len(bench.slots) == 2)
    told_again(bench, "r001", "r002")
    bench.poll()
    assert len(bench.slots) == 2
    assert sorted(bench.engine._reservations.values()) == ["r001", "r002"]
    assert len(held) == 1


def test_a_slot_that_is_told_once_more_while_its_gpus_are_asked_for_is_not_asked_about_twice(make: Make) -> None:
    bench = make(FakeBackend(a=1))

    def device(reservation: str) -> str:
        told_again(bench, reservation)
        return "0"

    bench.backend.device = device
    bench.start(trials=1, request=Request(1.0, 1.0))
    bench.poll()
    assert bench.backend.devices_asked == ["r001"]
    assert len(bench.slots) == 1


def test_what_is_told_of_gpus_where_a_slot_is_no_more_does_not_count(make: Make) -> None:
    bench = make(FakeBackend(a=1))
    bench.start(trials=1, request=Request(1.0, 1.0))
    bench.backend.inbox.put(("devices", ("r001", "elsewhere"), "0"))
    bench.poll()
    assert list(bench.slots.values()) == ["a"]


def test_a_host_that_cannot_go_on_leaves_no_slot_behind_and_the_next_one_has_them(make: Make) -> None:
    bench = make(FakeBackend(a=2))
    bench.start(trials=2)
    bench.until(lambda: len(bench.slots) == 2)
    first = bench.line("a")
    first.answer("batch", Batch(1, 0, frame(Ended("Traceback ..."))))
    bench.until(lambda: bench.line("a") is not first and len(bench.slots) == 2)
    bench.poll()
    assert bench.engine._reservations.keys() == bench.slots.keys()
    assert sorted(bench.engine._reservations.values()) == ["r001", "r002"]


def test_a_reservation_that_another_slot_is_in_is_not_given_back(make: Make) -> None:
    bench = make(FakeBackend(a=1, b=0))
    bench.start(trials=4)
    bench.until(lambda: len(bench.slots) == 1)
    bench.backend.inbox.put(("slots", Change((("r001", "b"),)), None))  # it was moved, and its node is not yet dead
    bench.until(lambda: len(bench.slots) == 2)
    on_b = next(slot for slot, node in bench.slots.items() if node == "b")
    bench.launch("t0", on_b)
    for trial_id in ("t1", "t2", "t3"):
        bench.stop(trial_id)
    bench.until(lambda: len(bench.slots) == 1)
    bench.poll()
    assert bench.slots == {on_b: "b"}
    assert "r001" in bench.backend.placed


def test_a_slot_leaves_only_when_all_is_told_and_carried_out(make: Make) -> None:
    bench = make(FakeBackend(a=2))
    bench.start(trials=2)
    bench.until(lambda: len(bench.slots) == 2)
    bench.stop("t1")
    bench.engine._events.append(SlotsJoined((), 0))  # something that the core has not heard
    assert not [event for event in bench.engine.poll(0.0) if isinstance(event, SlotsLeft)]
    assert [event for event in bench.engine.poll(0.0) if isinstance(event, SlotsLeft)]


def test_a_host_whose_checkpoints_are_nowhere_else_stays_without_slots(make: Make) -> None:
    bench = make(FakeBackend(a=1, b=1))
    bench.backend.on_begin = lambda line, members: line.answer("started", facts(line, shared=not members))
    bench.start(trials=2, place=PLACE)
    bench.until(lambda: len(bench.slots) == 2)
    first = next(slot for slot, node in bench.slots.items() if node == "a")
    bench.launch("t0", first)
    keeper = next(post for post in bench.engine.fleet.posts.values() if post.node == "b")
    bench.engine.fleet._has(keeper, "t1", 0, "d")
    bench.stop("t1")
    bench.until(lambda: list(bench.backend.placed.values()) == ["a"])
    bench.poll()
    assert "close" not in bench.line("b").did
    future = bench.engine.fleet.upload("t1", 0, "d", Place(f"{PLACE}/t1/checkpoint_000000"))
    bench.until(lambda: [order for order in bench.line("b").orders if isinstance(order, Upload)])
    bench.line("b").answer("batch", Batch(1, 0, frame(Uploaded(1, None))))
    bench.until(lambda: "close" in bench.line("b").did)
    assert future.result() is None


# ---------------------------------------------------------------------------------------------- objects of shoal.put


def test_a_host_has_the_objects_before_it_begins_and_those_put_meanwhile_before_its_first_member(make: Make) -> None:
    first = shoal.put(b"first")
    bench = make(FakeBackend(a=1, b=1))
    held: list[FakeLine] = []

    def on_begin(line: FakeLine, members: bool) -> None:
        if line.node == "b":
            held.append(line)
        else:
            line.answer("started", facts(line))

    bench.backend.on_begin = on_begin
    bench.start(trials=2)
    bench.until(lambda: held)
    assert held[0].gave == [first.id]
    second = shoal.put(b"second")
    on_a = next(iter(bench.slots))
    bench.launch("t0", on_a)
    bench.poll()
    assert bench.line("a").gave == [first.id, second.id]
    held[0].answer("started", facts(held[0]))
    bench.until(lambda: len(bench.slots) == 2)
    bench.poll()
    assert held[0].gave == [first.id, second.id]


def test_what_is_ordered_waits_for_the_objects_that_it_may_need(make: Make) -> None:
    bench = make(FakeBackend(a=1))
    bench.start(trials=1)
    given: list[ObjectRef[Any]] = []
    bench.backend.on_give = lambda line, ref: given.append(ref)
    shoal.put(b"large")
    [slot] = bench.slots
    bench.launch("t0", slot)
    bench.until(lambda: given)
    bench.poll()
    assert executed(bench.line("a")) == []
    bench.line("a").answer("given", None, given[0])
    bench.poll()
    assert executed(bench.line("a")) == ["t0"]


def test_a_node_that_has_no_room_for_an_object_is_left_out_when_it_begins(make: Make) -> None:
    shoal.put(b"large")
    bench = make(FakeBackend(a=1, full=1))
    bench.backend.on_give = lambda line, ref: line.answer(
        "given", StorageError("no space left") if line.node == "full" else None, ref
    )
    bench.start(trials=2)
    bench.until(lambda: bench.notes)
    assert "is left out" in bench.notes[0]
    assert "StorageError: no space left" in bench.notes[0]
    bench.poll()
    assert set(bench.slots.values()) == {"a"}


def test_a_node_at_work_that_has_no_room_for_an_object_is_named_and_goes_on(make: Make) -> None:
    bench = make(FakeBackend(a=1))
    bench.start(trials=1)
    bench.backend.on_give = lambda line, ref: line.answer("given", StorageError("no space left"), ref)
    shoal.put(b"large")
    [slot] = bench.slots
    bench.launch("t0", slot)
    bench.until(lambda: bench.notes)
    assert "On machine of a the object of ObjectRef(" in bench.notes[0]
    assert "no space left" in bench.notes[0]
    bench.poll()
    assert executed(bench.line("a")) == ["t0"]


def test_a_host_that_could_not_be_reached_is_asked_again_what_it_lacks_when_it_is_heard(make: Make) -> None:
    bench = make(FakeBackend(a=1))
    bench.start(trials=1)
    answers: list[Any] = [Away()]
    bench.backend.lacks = lambda line, refs: answers.pop() if answers else refs
    ref = shoal.put(b"large")
    [slot] = bench.slots
    bench.launch("t0", slot)
    bench.poll()
    assert bench.line("a").gave == []
    bench.line("a").answer("batch", Batch(1, 0, b""))
    bench.until(lambda: bench.line("a").gave == [ref.id])


# ---------------------------------------------------------------------------------------------- what goes to which node


def test_the_drivers_environment_goes_to_no_other_node_and_into_no_message(make: Make) -> None:
    bench = make(FakeBackend(driver=1, foreign=1))
    bench.start(trials=2)
    bench.until(lambda: len(bench.backend.lines) == 2)
    for line in bench.backend.lines:
        assert b"a secret" not in pickle.dumps(line.setup)
        assert line.setup.environment == {"SHOAL_A": "1"}
    assert bench.line("foreign").setup.secrets == ""
    path = Path(bench.line("driver").setup.secrets)
    assert json.loads(path.read_text())["TOKEN"] == "a secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    bench.engine.close(at_once=True)
    assert not path.parent.exists()


def test_what_a_killed_driver_left_in_the_folder_goes(make: Make, tmp_path: Path) -> None:
    (tmp_path / ".shoal-0123").touch()
    bench = make(FakeBackend(a=1))
    bench.start(trials=1)
    assert len(list(tmp_path.glob(".shoal-*"))) == 1
    bench.engine.close(at_once=True)
    assert list(tmp_path.glob(".shoal-*")) == []


# ------------------------------------------------------------------------------------------------------ to the end


def ended(bench: Bench) -> None:
    for post in bench.engine.fleet.posts.values():
        post.ended = True
    bench.engine.close()


@pytest.mark.parametrize("found", [None, EngineError("no such module"), Gone()])
def test_a_host_that_begins_when_all_ends_is_ended_and_nobody_waits_for_it(make: Make, found: Any) -> None:
    bench = make(FakeBackend(a=1, b=1))
    bench.backend.on_begin = lambda line, members: line.answer("started", facts(line)) if line.node == "a" else None
    bench.start(trials=2)
    bench.until(lambda: len(bench.backend.lines) == 2)
    late = bench.line("b")
    late.answer("started", found or facts(late))
    bench.line("a").answer("batch", Batch(1, 0, frame(Ended())))
    bench.engine.close()
    assert late.key in bench.backend.ended
    assert bench.backend.left == [bench.line("a").key]
    assert bench.notes == []


def test_where_the_cluster_fails_after_the_end_who_waits_for_an_upload_is_told_and_all_is_given_back(
    make: Make,
) -> None:
    bench = make(FakeBackend(a=1))
    bench.backend.on_begin = lambda line, members: line.answer("started", facts(line, shared=False))
    bench.start(trials=1, place=PLACE)
    post = next(iter(bench.engine.fleet.posts.values()))
    bench.engine.fleet._has(post, "t0", 0, "d")
    ended(bench)
    place = Place(f"{PLACE}/t0/checkpoint_000000")
    before = bench.engine.depot.upload("t0", 0, "d", place)
    bench.backend.inbox.put(("slots", Change(failed="the head is gone"), None))
    error = before.exception(60)
    assert isinstance(error, StorageError)
    assert "the head is gone" in str(error)
    assert isinstance(bench.engine.depot.upload("t0", 0, "d", place).exception(60), StorageError)
    bench.engine.depot.close()
    assert bench.backend.placed == {}
    assert bench.backend.left
    assert not any(thread.name == "shoal-uploads" for thread in threading.enumerate())


def test_another_checkpoint_of_that_number_in_the_drivers_folder_is_not_uploaded(make: Make, tmp_path: Path) -> None:
    bench = make(FakeBackend(a=1))
    bench.backend.on_begin = lambda line, members: line.answer("started", facts(line, shared=not members))
    bench.start(trials=1, place=PLACE)
    (tmp_path / "t0/checkpoint_000000").mkdir(parents=True)
    (tmp_path / "t0/checkpoint_000000/weights").write_text("of a process that died, told to nobody")
    post = next(iter(bench.engine.fleet.posts.values()))
    bench.engine.fleet._has(post, "t0", 0, "d")
    place = Place(f"{PLACE}/t0/checkpoint_000000")
    bench.engine.depot.upload("t0", 0, "d", place)
    bench.until(lambda: [order for order in bench.line("a").orders if isinstance(order, Upload)])
    assert not place.is_there()


def test_one_round_of_polling_ends_however_much_hosts_say(make: Make) -> None:
    bench = make(FakeBackend(a=1))
    said: list[int] = []

    bench.start(trials=1)

    def again() -> None:
        said.append(1)
        if len(said) < 100:
            bench.engine.later(again)

    bench.engine.later(again)
    bench.engine.poll(0.0)
    assert 1 <= len(said) <= 2


def test_who_waits_for_a_cluster_without_room_is_told_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TELL_AFTER_S", 0.0)
    monkeypatch.setattr(module, "_TELL_AGAIN_S", 0.0)
    bench = make(FakeBackend(small=0))

    def check() -> None:
        if len(bench.notes) == 2:
            bench.backend.has["small"] = 1

    bench.start(trials=1, check=check)
    assert "no node that is there now can run one" in bench.notes[0]
    assert len(bench.notes) >= 2


def test_a_plan_counts_the_trials_that_go_on_or_begin_again(tmp_path: Path) -> None:
    plan = make_plan(train, {}, TuneConfig(num_samples=4), RunConfig(storage_path=str(tmp_path)))
    assert plan.going_on == 4
    for event in plan.begin:
        plan.population.apply(event)
    names = [trial.trial_id for trial in plan.trials]
    for name in names[:3]:
        plan.population.trials[name].status = Status.TERMINATED
    assert plan.going_on == 1
    opened = replace(plan.opened, again=(names[0],), anew=(names[1],), dropped=(names[3],))
    assert replace(plan, opened=opened).going_on == 2
