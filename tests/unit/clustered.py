"""A cluster that is none, for the engine for clusters: a test says what its nodes have, and what hosts answer."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.core.commands import Launch, Status, Stop
from shoal.core.events import Event
from shoal.core.reports import ReportRules
from shoal.engines import EngineSetup
from shoal.engines import cluster as module
from shoal.engines.backend import HostLine, Inbox
from shoal.engines.cluster import ClusterEngine
from shoal.engines.orders import Execute, HostFacts, HostSetup, Order
from shoal.objects import ObjectRef
from shoal.worker.wire import MemberInfo

PLACE = "memory://cluster engine/runs/e"


def train(config: dict[str, Any]) -> None:
    """Never called."""


class FakeLine(HostLine):
    """Writes down what a host is told; it answers as the test says."""

    def __init__(self, setup: HostSetup, node: str, backend: FakeBackend) -> None:
        super().__init__(setup.key, node, self._do)
        self.setup = setup
        self.backend = backend
        self.orders: list[Order] = []
        self.did: list[str] = []
        self.gave: list[str] = []

    def _do(self, number: int, orders: bytes) -> None:
        self.orders += pickle.loads(orders)

    def answer(self, kind: str, found: Any, of: Any = None) -> None:
        self.backend.inbox.put((kind, self.key if of is None else (self.key, of), found))

    def begin(self, *, members: bool) -> None:
        self.did.append("begin")
        self.backend.on_begin(self, members)

    def lacks(self, refs: Sequence[ObjectRef[Any]]) -> None:
        self.answer("lacks", self.backend.lacks(self, list(refs)))

    def give(self, refs: Sequence[ObjectRef[Any]]) -> None:
        for ref in refs:
            self.gave.append(ref.id)
            self.backend.on_give(self, ref)

    def listen(self) -> None:
        self.backend.on_listen(self)

    def close(self) -> None:
        self.did.append("close")
        self.answer("closed", None)


class FakeBackend:
    """A cluster whose nodes have as many slots as a test says."""

    def __init__(self, **nodes: int) -> None:
        self.has = nodes
        self.node = "driver"
        self.alone = False
        self.inbox: Inbox
        self.placed: dict[str, str | None] = {}
        self.asked = 0
        self.lines: list[FakeLine] = []
        self.ended: list[str] = []
        self.left: list[str] = []
        self.devices_asked: list[str] = []
        self.on_begin: Callable[[FakeLine, bool], None] = lambda line, members: line.answer("started", facts(line))
        self.on_listen: Callable[[FakeLine], None] = lambda line: None
        self.lacks: Callable[[FakeLine, list[ObjectRef[Any]]], Any] = lambda line, refs: refs
        self.on_give: Callable[[FakeLine, ObjectRef[Any]], None] = lambda line, ref: line.answer("given", None, ref)
        self.device: Callable[[str], Any] = lambda reservation: reservation

    # as a backend

    def connect(self, experiment: str, inbox: Inbox) -> FakeBackend:
        self.inbox = inbox
        return self

    def environment(self) -> dict[str, str]:
        return {"TOKEN": "a secret", "SHOAL_A": "1", "SHOAL_CACHE": "/mine"}

    def begin_host(self, setup: HostSetup, node: str) -> FakeLine:
        self.lines.append(FakeLine(setup, node, self))
        return self.lines[-1]

    def devices(self, reservation: str, node: str, gpus: float) -> None:
        self.devices_asked.append(reservation)
        self.inbox.put(("devices", (reservation, node), self.device(reservation)))

    def introduce(self, line: HostLine) -> None:
        pass

    def end_host(self, line: HostLine) -> None:
        self.ended.append(line.key)

    def leave(self, lines: Sequence[HostLine], patience_s: float) -> None:
        self.left += [line.key for line in lines]

    # as a cluster

    def ask(self, bundle: Mapping[str, float]) -> str:
        self.asked += 1
        name = f"r{self.asked:03}"
        self.placed[name] = None
        return name

    def withdraw(self, reservation: str) -> None:
        self.placed.pop(reservation, None)

    def where(self) -> dict[str, str | None]:
        for name, node in self.placed.items():
            if node is None:
                taken = list(self.placed.values())
                self.placed[name] = next((node for node, has in self.has.items() if taken.count(node) < has), None)
        return dict(self.placed)

    def nodes(self) -> dict[str, dict[str, float] | None]:
        return {name: {"CPU": float(has), "GPU": float(has)} for name, has in self.has.items()}


def facts(line: FakeLine, *, shared: bool = True) -> HostFacts:
    return HostFacts(f"machine of {line.node}", 1, shoal.__version__, shared, 1 << 30)


class Bench:
    def __init__(self, folder: Path, backend: FakeBackend) -> None:
        self.folder = folder
        self.backend = backend
        self.engine = ClusterEngine(backend)
        self.notes: list[str] = []
        self.events: list[Event] = []

    def start(self, **settings: Any) -> None:
        given: dict[str, Any] = {"trials": 4, "check": lambda: None, **settings}
        self.engine.start(
            EngineSetup(
                trainable=train, rules=ReportRules(), experiment="e", seed=0, cpus=1.0, gpus=0.0, devices=(),
                output=lambda name, text: None, folder=str(self.folder), note=self.notes.append, **given,
            )
        )  # fmt: skip
        for index in range(given["trials"]):
            self.engine.add(MemberInfo(f"t{index}", index, f"t{index}", str(self.folder / f"t{index}")))

    def until(self, there: Callable[[], object]) -> None:
        for _ in range(3000):
            if there():
                return
            self.events += self.engine.poll(0.01)
        raise AssertionError((self.events, self.notes))

    def poll(self, times: int = 5) -> None:
        for _ in range(times):
            self.events += self.engine.poll(0.01)

    def launch(self, trial_id: str, slot: int) -> None:
        self.engine.execute(Launch(trial_id, 1, slot, {}, None, 0, 0.0, 0, until=None, fresh=True), None)

    def stop(self, trial_id: str) -> None:
        self.engine.execute(Stop(trial_id, 1, Status.TERMINATED, "the end"), None)

    def line(self, node: str) -> FakeLine:
        return next(line for line in reversed(self.backend.lines) if line.node == node)

    @property
    def slots(self) -> dict[int, str]:
        """The node of each slot that the core knows."""
        return {slot: post.node for post in self.engine.fleet.posts.values() for slot in post.slots}


Make = Callable[[FakeBackend], Bench]


def benches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Yield what makes benches, for a fixture, and end their engines."""
    monkeypatch.setattr("shoal.engines.granted._SELDOM_S", 0.01)
    monkeypatch.setattr(module, "_LOOK_S", 0.0)
    monkeypatch.setattr(module, "_STAYS_S", 0.0)
    made: list[Bench] = []

    def bench(backend: FakeBackend) -> Bench:
        made.append(Bench(folder, backend))
        return made[-1]

    yield bench
    for each in made:
        if each.engine._fleet is not None:
            for post in each.engine.fleet.posts.values():
                post.ended = True
        each.engine.close(at_once=True)
        each.engine.depot.close()
    shoal.objects.free_all()


def executed(line: FakeLine) -> list[str]:
    return [order.command.trial_id for order in line.orders if isinstance(order, Execute)]
