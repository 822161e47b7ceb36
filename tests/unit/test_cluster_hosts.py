"""The engine for clusters with a cluster that is none: hosts that begin late, elsewhere or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.clustered import Bench, FakeBackend, FakeLine, Make, benches, executed, facts

import shoal
from shoal.core.commands import CheckpointRecord, Launch
from shoal.engines import cluster as module
from shoal.engines.backend import Away, Gone
from shoal.engines.orders import Batch, Fetch, HostSetup, Missing, Peers
from shoal.errors import EngineError
from shoal.objects import ObjectRef
from shoal.resources import Request
from shoal.worker.wire import frame


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    yield from benches(tmp_path, monkeypatch)


# ------------------------------------------------------------------------- what is nowhere but in the driver's folder


def test_who_is_restored_on_other_nodes_only_gets_its_checkpoint_when_a_host_works_here(make: Make) -> None:
    bench = make(FakeBackend(away=1))
    homes: list[FakeLine] = []

    def on_begin(line: FakeLine, members: bool) -> None:
        if members:
            line.answer("started", facts(line, shared=False))
        else:
            homes.append(line)

    bench.backend.on_begin = on_begin
    bench.start(trials=1)
    (bench.folder / "t0/checkpoint_000000").mkdir(parents=True)
    record = CheckpointRecord("t0/checkpoint_000000", "t0", 0, "d", 1, 1, 1.0, 1.0, None, None)
    [slot] = bench.slots
    launch = Launch("t0", 1, slot, {}, record, 1, 0.0, 1, until=None, fresh=True)
    bench.engine.execute(launch, str(bench.folder / "t0/checkpoint_000000"))
    bench.until(lambda: homes and executed(bench.line("away")))
    bench.line("away").answer("batch", Batch(1, 0, frame(Missing("t0", 1, "t0", 0, "d", (), True, "nobody has it"))))
    bench.poll()

    def fetched() -> list[Fetch]:
        return [order for order in bench.line("away").orders if isinstance(order, Fetch)]

    assert fetched() == []
    homes[0].answer("started", facts(homes[0]))
    bench.until(fetched)
    assert fetched() == [Fetch("t0", 1, (homes[0].key,))]
    homes[0].answer("batch", Gone())  # and the next launch comes while another is begun
    bench.until(lambda: len(homes) == 2)
    bench.line("away").answer("batch", Batch(2, 0, frame(Missing("t0", 1, "t0", 0, "d", (homes[0].key,), False, "?"))))
    bench.poll()
    assert len(fetched()) == 1
    homes[1].answer("started", facts(homes[1]))
    bench.until(lambda: len(fetched()) == 2)
    assert fetched()[1] == Fetch("t0", 1, (homes[1].key,))


# -------------------------------------------------------------------------------------------- hosts that do not begin


def test_a_host_that_keeps_copies_and_dies_at_its_start_is_begun_again(make: Make) -> None:
    bench = make(FakeBackend(away=1))
    tried: list[bool] = []

    def on_begin(line: FakeLine, members: bool) -> None:
        if not members:
            tried.append(True)
        line.answer("started", facts(line, shared=False) if members else Gone() if len(tried) < 3 else facts(line))

    bench.backend.on_begin = on_begin
    bench.start()
    bench.until(lambda: bench.engine.fleet.home is not None)
    assert len(tried) == 3
    assert bench.notes == []


@pytest.mark.parametrize("found", [Gone(), EngineError("there is no room")])
def test_where_no_host_can_keep_copies_nobody_waits_for_one_and_the_user_is_told(make: Make, found: Any) -> None:
    bench = make(FakeBackend(away=1))
    bench.backend.on_begin = lambda line, members: line.answer(
        "started", facts(line, shared=False) if members else found
    )
    bench.start()
    bench.until(lambda: bench.notes)
    bench.poll()
    told = [order for order in bench.line("away").orders if isinstance(order, Peers)]
    assert told[-1] == Peers((), awaited=False)
    assert "cannot be copied to this one" in bench.notes[0]


def test_a_host_that_is_to_keep_copies_and_does_not_find_the_drivers_folder_keeps_none_and_the_user_is_told(
    make: Make,
) -> None:
    bench = make(FakeBackend(away=1))
    bench.backend.on_begin = lambda line, members: line.answer("started", facts(line, shared=False))
    bench.start()
    bench.until(lambda: bench.notes)
    bench.poll()
    assert bench.engine.fleet.home is None
    told = [order for order in bench.line("away").orders if isinstance(order, Peers)]
    assert told[-1] == Peers((), awaited=False)
    assert all(peers.keys == () for peers in told)
    [note] = bench.notes
    assert f"machine of driver cannot use {bench.folder}" in note
    assert bench.line("driver").did == ["begin", "close"]
    assert bench.line("driver").key in bench.backend.ended


def with_a_bad_node(make: Make, good: Callable[[FakeLine], object]) -> Bench:
    """Make a bench on which one of two hosts cannot run members; the other answers first, as given, and then begins."""
    bench = make(FakeBackend(good=1, bad=1))
    begun: list[FakeLine] = []

    def on_begin(line: FakeLine, members: bool) -> None:
        begun.append(line)
        if len(begun) == 2:
            for each in sorted(begun, key=lambda line: line.node == "bad"):
                each.answer("started", good(each) if each.node == "good" else EngineError("no such module"))
        elif len(begun) > 2:
            line.answer("started", facts(line))

    bench.backend.on_begin = on_begin
    return bench


def test_a_node_that_cannot_run_members_does_not_end_a_start_that_has_succeeded(make: Make) -> None:
    bench = with_a_bad_node(make, facts)
    bench.start(trials=2)
    bench.until(lambda: bench.notes)
    assert "is left out: no such module" in bench.notes[0]
    assert set(bench.slots.values()) == {"good"}
    assert bench.line("bad").key in bench.backend.ended


def test_a_refused_node_does_not_keep_the_run_from_slots_elsewhere(make: Make) -> None:
    bench = make(FakeBackend(good=1, bad=3))
    bench.backend.on_begin = lambda line, members: line.answer(
        "started", facts(line) if line.node != "bad" else EngineError("no such module")
    )
    bench.start(trials=4)
    bench.until(lambda: bench.notes)
    bench.backend.has["late"] = 3
    bench.until(lambda: len(bench.slots) == 4)
    assert sorted(bench.slots.values()) == ["good", "late", "late", "late"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The engine's clock, which stands still."""
    now = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_host_that_hangs_is_told_of_ended_and_begun_again(make: Make, clock: list[float]) -> None:
    bench = make(FakeBackend(a=1))
    bench.backend.on_begin = lambda line, members: (
        line.answer("started", facts(line)) if len(bench.backend.lines) > 1 else None
    )

    def check() -> None:
        if bench.backend.lines and not bench.backend.ended:
            clock[0] += 40.0

    bench.start(trials=1, check=check)
    assert bench.notes == ["Waiting for a host to begin on node a."] * 4
    assert clock[0] >= 1000.0 + module._BEGIN_S
    hung, there = bench.backend.lines
    assert bench.backend.ended == [hung.key]
    hung.answer("started", facts(hung))  # too late
    bench.poll()
    assert list(bench.engine.fleet.posts) == [there.key]
    assert len(bench.slots) == 1


def test_a_host_that_hangs_as_often_as_it_is_begun_is_left_out(make: Make, clock: list[float]) -> None:
    bench = make(FakeBackend(good=1, bad=1))
    bench.backend.on_begin = lambda line, members: line.answer("started", facts(line)) if line.node == "good" else None
    bench.start(trials=2)
    bench.until(lambda: len(bench.backend.lines) == 2)
    for times in (3, 4):
        clock[0] += module._BEGIN_S + 1.0
        bench.until(lambda times=times: len(bench.backend.lines) == times)  # type: ignore[misc]
    clock[0] += module._BEGIN_S + 1.0
    bench.until(lambda: [note for note in bench.notes if "is left out" in note])
    assert "left out: a host on node bad has not begun within 301 s" in bench.notes[-1]
    assert list(bench.slots.values()) == ["good"]


def test_a_host_that_is_to_keep_copies_and_hangs_is_not_waited_for_for_ever(make: Make, clock: list[float]) -> None:
    bench = make(FakeBackend(away=1))
    bench.backend.on_begin = lambda line, members: (
        line.answer("started", facts(line, shared=False)) if members else None
    )
    bench.start(trials=1)
    bench.until(lambda: len(bench.backend.lines) == 2)
    clock[0] += module._SLOW_S + 1.0
    bench.until(lambda: bench.notes)
    assert bench.notes == ["Waiting for a host to begin on this machine."]
    clock[0] += module._BEGIN_S
    bench.until(lambda: len(bench.notes) == 2)
    bench.poll()
    assert "cannot be copied to this one" in bench.notes[1]
    told = [order for order in bench.line("away").orders if isinstance(order, Peers)]
    assert told[-1] == Peers((), awaited=False)
    assert bench.line("driver").key in bench.backend.ended


def test_a_host_has_more_time_for_large_objects(make: Make, clock: list[float]) -> None:
    ref = shoal.put(b"large")
    given: list[FakeLine] = []
    bench = make(FakeBackend(a=1, b=1))
    bench.backend.lacks = lambda line, refs: [replace(each, size=8 << 30) for each in refs]
    bench.backend.on_give = lambda line, ref: (
        given.append(line) if line.node == "b" else line.answer("given", None, ref)
    )
    bench.start(trials=2)
    bench.until(lambda: given)
    clock[0] += module._BEGIN_S + 1000.0
    bench.poll()
    assert bench.backend.ended == []
    given[0].answer("given", None, ref)
    bench.until(lambda: len(bench.slots) == 2)


def test_the_deadline_of_a_host_that_hangs_when_it_is_asked_what_it_lacks_counts(
    make: Make, clock: list[float]
) -> None:
    shoal.put(b"an object")
    bench = make(FakeBackend(a=1))
    asked: list[FakeLine] = []

    class Silent(FakeLine):
        def lacks(self, refs: Sequence[ObjectRef[Any]]) -> None:
            asked.append(self)
            if len(asked) > 1:
                super().lacks(refs)

    def begin_host(setup: HostSetup, node: str) -> FakeLine:
        bench.backend.lines.append(Silent(setup, node, bench.backend))
        return bench.backend.lines[-1]

    bench.backend.begin_host = begin_host  # type: ignore[method-assign]

    def check() -> None:
        clock[0] += 100.0 if len(asked) == 1 else 0.0

    bench.start(trials=1, check=check)
    assert len(asked) == 2


class SlowToTell(FakeBackend):
    """Which GPUs slots on some nodes have is told when the test says so."""

    def __init__(self, *slow: str, **nodes: int) -> None:
        super().__init__(**nodes)
        self.slow = slow
        self.pending: list[tuple[str, str]] = []

    def devices(self, reservation: str, node: str, gpus: float) -> None:
        if node in self.slow:
            self.pending.append((reservation, node))
        else:
            super().devices(reservation, node, gpus)

    def tell(self) -> None:
        for asked in self.pending:
            self.inbox.put(("devices", asked, "0"))


def test_who_waits_for_word_of_gpus_is_told_so_and_not_that_nothing_is_free(make: Make, clock: list[float]) -> None:
    backend = SlowToTell("a", a=1)
    bench = make(backend)

    def check() -> None:
        clock[0] += 2.0 if backend.pending else 0.0
        if bench.notes:
            backend.tell()

    bench.start(trials=1, request=Request(1.0, 1.0), check=check)
    assert bench.notes == ["Waiting for word of which GPUs a slot on node a has."]


def test_a_bad_node_does_not_end_a_start_while_a_slot_elsewhere_is_asked_for_its_gpus(make: Make) -> None:
    backend = SlowToTell("good", good=1, bad=1)
    bench = make(backend)

    def on_begin(line: FakeLine, members: bool) -> None:
        line.answer("started", facts(line) if line.node == "good" else EngineError("no such module"))

    def check() -> None:
        if bench.notes:
            backend.tell()

    backend.on_begin = on_begin
    bench.start(trials=2, request=Request(1.0, 1.0), check=check)
    assert list(bench.slots.values()) == ["good"]
    assert "is left out: no such module" in bench.notes[0]


def test_a_bad_node_does_not_end_a_start_while_another_is_tried_again(make: Make) -> None:
    bench = with_a_bad_node(make, lambda line: Gone())
    bench.start(trials=2)
    assert list(bench.slots.values()) == ["good"]


def test_where_no_node_can_run_members_the_start_fails_with_the_reason(make: Make) -> None:
    bench = make(FakeBackend(bad=1))
    bench.backend.on_begin = lambda line, members: line.answer("started", EngineError("no such module"))
    with pytest.raises(EngineError, match=r"^no such module$"):
        bench.start()


# ------------------------------------------------------------------------------------------------------------- GPUs


def test_a_slot_whose_gpu_cannot_be_told_is_asked_about_again(make: Make) -> None:
    bench = make(FakeBackend(a=1))
    answers: list[Any] = [Gone(), Away(), "3"]
    bench.backend.device = lambda reservation: answers.pop(0)
    bench.start(trials=1, request=Request(1.0, 1.0))
    bench.until(lambda: bench.slots)
    assert answers == []
    assert bench.notes == []


def test_a_slot_whose_gpu_nobody_can_tell_is_left_out_with_a_note_and_another_is_asked_for(make: Make) -> None:
    bench = make(FakeBackend(a=2))
    bench.backend.device = lambda reservation: RuntimeError("no driver") if reservation == "r001" else "0"
    bench.start(trials=2, request=Request(1.0, 1.0))
    bench.until(lambda: bench.notes)
    assert len(bench.slots) >= 1
    assert bench.backend.devices_asked.count("r001") == 3
    assert len(bench.notes) == 1
    assert "RuntimeError: no driver" in bench.notes[0]


def test_where_no_gpu_can_be_told_the_start_fails(make: Make) -> None:
    bench = make(FakeBackend(a=1))
    bench.backend.device = lambda reservation: RuntimeError("no driver")
    with pytest.raises(EngineError, match="RuntimeError: no driver"):
        bench.start(trials=1, request=Request(1.0, 1.0))
