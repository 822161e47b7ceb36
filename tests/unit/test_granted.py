"""The slots that a cluster grants: all that is of use is asked for, and what there is is told, once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.engines import granted as module
from shoal.engines.granted import Change, Granted, bundle_of
from shoal.resources import Request


class FakeCluster:
    """Places a reservation on the first node that has room, when it is told to."""

    def __init__(self, **nodes: float) -> None:
        self.has: dict[str, dict[str, float] | None] = {name: {"CPU": cpus} for name, cpus in nodes.items()}
        self.placed: dict[str, str | None] = {}
        self.asked = 0
        self.fails: Exception | None = None
        """Raised by all calls."""
        self.asks_fail: Exception | None = None

    def ask(self, bundle: Mapping[str, float]) -> str:
        if self.asks_fail is not None:
            raise self.asks_fail
        self.asked += 1
        self.placed[f"r{self.asked:03}"] = None
        return f"r{self.asked:03}"

    def withdraw(self, reservation: str) -> None:
        if self.fails is not None:
            raise self.fails
        self.placed.pop(reservation, None)

    def where(self) -> dict[str, str | None]:
        return dict(self.placed)

    def nodes(self) -> dict[str, dict[str, float] | None]:
        if self.fails is not None:
            raise self.fails
        return dict(self.has)

    def grant(self) -> None:
        """Grant what there is room for, as the cluster does of itself."""
        for reservation, node in self.placed.items():
            if node is not None and self.has[node] is None:
                self.placed[reservation] = None
        for reservation, node in self.placed.items():
            if node is None:
                self.placed[reservation] = next((name for name in self.has if self.room(name) >= 1), None)

    def room(self, name: str) -> float:
        has = self.has[name]
        return 0.0 if has is None else has["CPU"] - sum(node == name for node in self.placed.values())


class Bench:
    def __init__(self, cluster: FakeCluster, wanted: int | None = None, request: Request | None = None) -> None:
        self.cluster = cluster
        self.told: list[Change] = []
        self.granted = Granted(cluster, request or Request(), wanted, self.told.append)
        self.slots: dict[str, str] = {}
        """What whoever is told knows: the node of each slot."""

    def look(self) -> bool:
        self.cluster.grant()
        self.told.clear()
        changed = self.granted.look()
        for change in self.told:
            self.slots = {name: node for name, node in self.slots.items() if node not in change.dead}
            for reservation, node in change.placed:
                assert reservation not in self.slots, "told twice"
                self.slots[reservation] = node
        return changed

    def settle(self) -> None:
        for _ in range(3):
            self.look()
        while self.look():
            pass


def test_there_is_a_slot_wherever_there_is_room_and_a_few_more_are_asked_for() -> None:
    bench = Bench(FakeCluster(a=2, b=3))
    bench.settle()
    assert sorted(bench.slots.values()) == ["a", "a", "b", "b", "b"]
    assert list(bench.cluster.placed.values()).count(None) == 4


def test_no_more_is_asked_for_than_is_of_use() -> None:
    bench = Bench(FakeCluster(a=8), wanted=3)
    bench.settle()
    assert len(bench.slots) == len(bench.cluster.placed) == 3


def test_where_fewer_are_of_use_what_was_not_granted_is_withdrawn_and_the_rest_stays() -> None:
    bench = Bench(FakeCluster(a=2), wanted=6)
    bench.settle()
    assert len(bench.cluster.placed) == 6
    bench.granted.want(1)
    bench.settle()
    assert bench.cluster.placed == bench.slots
    assert len(bench.slots) == 2


def test_a_node_that_joins_gives_slots() -> None:
    bench = Bench(FakeCluster(a=1))
    bench.settle()
    bench.cluster.has["b"] = {"CPU": 6}
    bench.settle()
    assert sorted(bench.slots.values()) == ["a", *"bbbbbb"]


def test_a_node_that_dies_is_told_before_what_is_placed_elsewhere_instead() -> None:
    bench = Bench(FakeCluster(a=2))
    bench.settle()
    bench.cluster.has |= {"a": None, "b": {"CPU": 2}}
    bench.look()
    assert [change.dead for change in bench.told] == [("a",)]
    bench.settle()
    assert sorted(bench.slots.values()) == ["b", "b"]


def test_what_is_still_placed_where_a_host_died_is_told_again() -> None:
    bench = Bench(FakeCluster(a=2, b=1))
    bench.settle()
    before = bench.slots
    bench.slots = {name: node for name, node in before.items() if node != "a"}
    bench.granted.forget("a")
    bench.look()
    assert bench.slots == before
    bench.look()
    assert not bench.told


def test_what_is_given_back_is_withdrawn_and_not_asked_for_again() -> None:
    bench = Bench(FakeCluster(a=4), wanted=4)
    bench.settle()
    bench.granted.want(1)
    back = sorted(bench.slots)[:3]
    bench.granted.give_back(back)
    for name in back:
        del bench.slots[name]
    bench.settle()
    assert bench.slots == bench.cluster.placed
    assert len(bench.slots) == 1
    assert bench.cluster.asked == 4


def test_what_cannot_be_given_back_now_is_given_back_later() -> None:
    bench = Bench(FakeCluster(a=2), wanted=2)
    bench.settle()
    bench.granted.want(1)
    bench.granted.give_back(["r001"])
    bench.cluster.fails = ConnectionError("away")
    with pytest.raises(ConnectionError):
        bench.look()
    bench.cluster.fails = None
    bench.look()
    assert list(bench.cluster.placed) == ["r002"]


def test_a_node_that_was_refused_keeps_others_off_and_what_it_has_counts_no_more() -> None:
    bench = Bench(FakeCluster(bad=3), wanted=4)
    bench.settle()
    bench.granted.refuse("bad")
    bench.slots.clear()
    bench.settle()
    assert list(bench.cluster.placed.values()).count("bad") == 3, "else what is asked for would be placed there again"
    bench.cluster.has |= {"bad": {"CPU": 4.0}, "late": {"CPU": 4.0}}
    bench.settle()
    assert sorted(bench.slots.values()) == ["late"] * 4
    assert bench.told == []
    bench.granted.release()
    assert bench.cluster.placed == {}


def test_what_a_refused_node_had_is_of_use_where_it_is_placed_when_that_node_dies() -> None:
    bench = Bench(FakeCluster(bad=2), wanted=2)
    bench.settle()
    bench.granted.refuse("bad")
    bench.slots.clear()
    bench.settle()
    bench.cluster.has |= {"bad": None, "good": {"CPU": 2.0}}
    bench.settle()
    assert sorted(bench.slots.values()) == ["good", "good"]


def test_one_of_which_nothing_can_be_made_is_told_again_or_counts_no_more() -> None:
    bench = Bench(FakeCluster(a=2), wanted=2)
    bench.settle()
    del bench.slots["r001"]
    bench.granted.again("r001")
    bench.look()
    assert [change.placed for change in bench.told] == [(("r001", "a"),)]
    del bench.slots["r001"]
    bench.granted.useless("r001", "a")
    bench.cluster.has["b"] = {"CPU": 1.0}
    bench.settle()
    assert sorted(bench.slots.values()) == ["a", "b"]
    assert bench.cluster.placed["r001"] == "a"


def test_a_slot_is_told_even_where_the_cluster_cannot_be_asked_for_more() -> None:
    bench = Bench(FakeCluster(a=1))
    bench.look()
    bench.cluster.asks_fail = ConnectionError("away")
    bench.cluster.has["b"] = {"CPU": 9}
    with pytest.raises(ConnectionError):
        bench.look()
    assert sorted(node for _, node in bench.told[0].placed) == ["a", "b", "b", "b"]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["join", "die", "forget", "want", "fail", "back", "refuse"]), st.integers(0, 6)),
        max_size=30,
    )
)
@example([("join", 1), ("die", 0), ("want", 2), ("join", 5), ("join", 1), ("refuse", 1)])  # a large node is refused
def test_whatever_comes_and_goes_what_is_told_is_what_there_is(story: list[tuple[str, int]]) -> None:
    bench = Bench(FakeCluster(n0=2), wanted=10)
    for place, (what, which) in enumerate(story):
        alive = [name for name, has in bench.cluster.has.items() if has is not None]
        node = alive[which % len(alive)] if alive else ""
        if what == "join":
            bench.cluster.has[f"n{place + 1}"] = {"CPU": float(which)}
        elif what == "die" and alive:
            bench.cluster.has[node] = None
        elif what == "forget" and alive:
            bench.look()
            bench.slots = {name: where for name, where in bench.slots.items() if where != node}
            bench.granted.forget(node)
        elif what == "want":
            bench.granted.want(which)
        elif what == "back" and bench.slots:
            bench.look()
            back = sorted(bench.slots)[: 1 + which]
            bench.granted.give_back(back)
            bench.slots = {name: where for name, where in bench.slots.items() if name not in back}
        elif what == "refuse" and len(alive) > 1:
            bench.look()
            bench.granted.refuse(node)
            bench.slots = {name: where for name, where in bench.slots.items() if where != node}
        else:
            bench.cluster.asks_fail = ConnectionError("away")
        try:
            bench.look()
        except ConnectionError:
            for change in bench.told:
                bench.slots = {name: node for name, node in bench.slots.items() if node not in change.dead}
                bench.slots.update(change.placed)
        bench.cluster.asks_fail = None
    bench.settle()
    refused = bench.granted._refused
    placed = {name: node for name, node in bench.cluster.placed.items() if node is not None and node not in refused}
    assert bench.slots == placed
    wanted = bench.granted.wanted
    assert wanted is not None
    room = sum(
        max(0.0, bench.cluster.room(name))
        for name, has in bench.cluster.has.items()
        if has is not None and name not in refused
    )
    assert len(bench.slots) >= wanted or room == 0


# ------------------------------------------------------------------------------------------------------ its thread


def living(monkeypatch: pytest.MonkeyPatch, cluster: Any, until: Callable[[Change], bool]) -> Granted:
    """Start the thread that asks, and return when something was told that is waited for."""
    monkeypatch.setattr(module, "_OFTEN_S", 0.001)
    monkeypatch.setattr(module, "_SELDOM_S", 0.001)
    there = threading.Event()
    granted = Granted(cluster, Request(), 2, lambda change: there.set() if until(change) else None)
    granted.start()
    assert there.wait(60)
    return granted


def test_all_is_given_back_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(a=9)
    monkeypatch.setattr(cluster, "where", lambda: dict.fromkeys(cluster.placed, "a"))
    granted = living(monkeypatch, cluster, lambda change: len(change.placed) > 0)
    granted.release()
    assert cluster.placed == {}
    granted.release()


def test_a_cluster_that_does_not_answer_for_a_moment_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(a=9)
    calls: list[int] = []

    def nodes() -> Any:
        calls.append(1)
        if len(calls) < 5:
            raise ConnectionError("away")
        cluster.grant()
        return cluster.has

    monkeypatch.setattr(cluster, "nodes", nodes)
    granted = living(monkeypatch, cluster, lambda change: len(change.placed) > 0)
    granted.release()


def test_a_cluster_that_stays_away_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AWAY_S", 0.0)
    cluster = FakeCluster(a=9)
    cluster.fails = ConnectionError("the head node\nis gone")
    told: list[Change] = []

    def tell(change: Change) -> bool:
        told.append(change)
        return True

    granted = living(monkeypatch, cluster, tell)
    assert granted._thread is not None
    granted._thread.join()
    assert told == [Change(failed="ConnectionError: the head node is gone")]
    granted.release()  # which asks the cluster again, and is no error
    assert granted.what_is_there() == "it does not answer: ConnectionError: the head node is gone."


def released_while_it_hangs(monkeypatch: pytest.MonkeyPatch, call: str) -> FakeCluster:
    """Give all back while a call to the cluster hangs, let that go on, and return the cluster."""
    monkeypatch.setattr(module, "_JOIN_S", 0.01)
    cluster = FakeCluster(a=9)
    hangs, goes_on = threading.Event(), threading.Event()
    real = getattr(cluster, call)

    def slow(*given: Any) -> Any:
        hangs.set()
        goes_on.wait()
        return real(*given)

    monkeypatch.setattr(cluster, call, slow)
    granted = Granted(cluster, Request(), 2, lambda change: None)
    granted.start()
    hangs.wait()
    granted.release()
    goes_on.set()
    assert granted._thread is not None
    granted._thread.join()
    return cluster


def test_a_cluster_that_hangs_keeps_nobody_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = released_while_it_hangs(monkeypatch, "where")
    assert cluster.asked == 0  # nothing is asked for when all was given back


def test_what_is_asked_for_while_all_is_given_back_is_given_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = released_while_it_hangs(monkeypatch, "ask")
    assert cluster.asked == 1
    assert cluster.placed == {}


# ------------------------------------------------------------------------------------------------ what a trial takes


def test_a_bundle_has_all_that_a_trial_takes_by_rays_names() -> None:
    request = Request(2.0, 0.5, 1 << 30, {"tpu": 1.0})
    assert bundle_of(request) == {"CPU": 2.0, "GPU": 0.5, "memory": float(1 << 30), "tpu": 1.0}


def test_one_that_takes_nothing_asks_for_next_to_nothing() -> None:
    bench = Bench(FakeCluster(a=1), wanted=3, request=Request(0.0))
    assert bundle_of(Request(0.0)) == {"CPU": 0.001}
    bench.settle()
    assert len(bench.cluster.placed) == 3


def test_who_waits_is_told_what_there_is_and_what_is_asked_for() -> None:
    bench = Bench(FakeCluster(a=2), request=Request(4.0))
    assert bench.granted.what_is_there() == (
        "one trial takes CPU 4, and no node that is there now can run one. The nodes have in all: CPU 2."
    )
    assert not bench.granted.possible
    bench.cluster.has["b"] = {"CPU": 4.0}
    assert bench.granted.possible
    assert "and nothing of that is free. The nodes have in all: CPU 2; CPU 4." in bench.granted.what_is_there()
    bench.cluster.fails = ConnectionError("away")
    assert bench.granted.possible, "nobody knows"
