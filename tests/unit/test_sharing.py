"""Objects on their way to the nodes: put into the store once, kept there as long as somebody waits for them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from shoal.engines.sharing import Sharing
from shoal.objects import ObjectRef

REF: ObjectRef[Any] = ObjectRef("an id", 1, "/nowhere")


class There:
    """Stands for an object in the store."""


class Bench:
    def __init__(self) -> None:
        self.opened = threading.Event()
        self.puts = 0
        self.fails: Exception | None = None
        self.sharing = Sharing(self.put)
        self.sent: list[Any] = []
        self.failed: list[BaseException] = []
        self.done = threading.Semaphore(0)

    def put(self, ref: ObjectRef[Any]) -> There:
        assert threading.current_thread() is not threading.main_thread()
        assert self.opened.wait(60)
        self.puts += 1
        if self.fails is not None:
            raise self.fails
        return There()

    def give(self, count: int) -> None:
        for _ in range(count):
            self.sharing.give(REF, self._send, self._fail)

    def _send(self, there: Any) -> None:
        self.sent.append(there)
        self.done.release()

    def _fail(self, error: BaseException) -> None:
        self.failed.append(error)
        self.done.release()

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self.done.acquire(timeout=60)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.opened.set()
    made.sharing.close()


def test_an_object_for_many_is_put_once_and_nobody_waits_for_that(bench: Bench) -> None:
    bench.give(4)
    assert bench.sent == []
    bench.opened.set()
    bench.wait(4)
    assert bench.puts == 1
    assert len({id(there) for there in bench.sent}) == 1


def test_it_is_let_go_of_when_all_have_received_it(bench: Bench) -> None:
    bench.opened.set()
    bench.give(2)
    bench.wait(2)
    there = weakref.ref(bench.sent[0])
    bench.sent.clear()
    bench.sharing.received(REF)
    assert there() is not None
    bench.sharing.received(REF)
    bench.give(1)
    bench.wait(1)
    assert bench.puts == 2


def test_who_cannot_be_sent_it_is_told_why(bench: Bench) -> None:
    bench.fails = OSError("the store is full")
    bench.opened.set()
    bench.give(2)
    bench.wait(2)
    assert bench.failed == [bench.fails, bench.fails]
    bench.fails = None
    bench.give(1)
    bench.wait(1)
    assert len(bench.sent) == 1
