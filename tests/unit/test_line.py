"""Whatever is lost, comes twice or late on the way between driver and host: each hears all, once, and in order."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shoal.core.events import Finished
from shoal.engines import line as line_module
from shoal.engines.line import Line, Outbox
from shoal.engines.orders import Batch, Kill, Printed, Remark
from shoal.worker.wire import FrameReader

WHICH = st.integers(0, 5)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class LineMachine(RuleBasedStateMachine):
    """Calls are in the air, and so are their answers, until they arrive, once or several times, or are lost."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.packets: list[tuple[int, bytes]] = []
        self.questions: list[int] = []
        self.answers: list[Batch] = []
        self.line = Line(lambda number, orders: self.packets.append((number, orders)), self.clock)
        self.outbox = Outbox(self.clock)
        self.frames = FrameReader()
        self.ordered, self.got, self.said, self.heard = 0, list[str](), 0, list[str]()

    @rule(count=st.integers(1, 3))
    def the_driver_sends_orders(self, count: int) -> None:
        self.line.send([Kill(str(self.ordered + index), "") for index in range(count)])
        self.ordered += count

    @rule(seconds=st.floats(0, 3), all_of_it=st.booleans())
    def the_driver_sends_again_what_may_be_lost(self, seconds: float, all_of_it: bool) -> None:
        self.clock.now += seconds
        self.line.resend(all_of_it=all_of_it)

    @rule(which=WHICH, again=st.booleans())
    def a_packet_arrives(self, which: int, again: bool) -> None:
        if self.packets:
            number, orders = self.pick(self.packets, which, again)
            for order in self.outbox.receive(number, orders):
                assert isinstance(order, Kill)
                self.got.append(order.trial_id)

    @rule(urgent=st.booleans())
    def the_host_says_something(self, urgent: bool) -> None:
        self.outbox.put(Finished(str(self.said), 1), urgent=urgent)
        self.said += 1

    @rule()
    def the_driver_asks(self) -> None:
        self.questions.append(self.line.confirmed)

    @rule(which=WHICH, again=st.booleans())
    def a_question_arrives(self, which: int, again: bool) -> None:
        if self.questions:
            self.answers.append(self.outbox.take(self.pick(self.questions, which, again), 0.0))

    @rule(which=WHICH, again=st.booleans())
    def an_answer_arrives(self, which: int, again: bool) -> None:
        if self.answers:
            batch = self.pick(self.answers, which, again)
            if self.line.took(batch):
                self.heard += [event.trial_id for event in self.frames.feed(batch.said)]

    @rule(which=WHICH, of=st.sampled_from(["packets", "questions", "answers"]))
    def something_is_lost(self, which: int, of: str) -> None:
        if entries := getattr(self, of):
            self.pick(entries, which, False)

    def pick(self, entries: list[Any], which: int, again: bool) -> Any:
        """Take something out of the air, or leave it there to come once more."""
        place = which % len(entries)
        return entries[place] if again else entries.pop(place)

    @invariant()
    def nothing_came_twice_or_out_of_order(self) -> None:
        assert self.got == [str(index) for index in range(len(self.got))]
        assert self.heard == [str(index) for index in range(len(self.heard))]

    def teardown(self) -> None:
        """From here on nothing is lost, though what is in the air still arrives: then all has come."""
        for _ in range(3):
            self.line.resend(all_of_it=True)
            while self.packets:
                self.a_packet_arrives(0, False)
            self.the_driver_asks()
            while self.questions:
                self.a_question_arrives(0, False)
            while self.answers:
                self.an_answer_arrives(0, False)
        assert len(self.got) == self.ordered
        assert len(self.heard) == self.said
        assert not self.line._unconfirmed
        assert not self.line.resend(all_of_it=True)


def _machine() -> Any:
    case = LineMachine.TestCase
    case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
    return case


TestAnyTrouble = _machine()


def messages(batch: Batch) -> list[Any]:
    return FrameReader().feed(batch.said)


def test_what_nobody_waits_for_is_told_together_and_what_somebody_waits_for_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(line_module, "_PATIENCE_S", 1e9)
    outbox = Outbox()
    taken: list[Batch] = []
    listening = threading.Thread(target=lambda: taken.append(outbox.take(0, 1e9)))
    listening.start()
    outbox.put(Finished("a", 1), urgent=False)
    outbox.print("name", "line")
    outbox.put(Finished("b", 1), urgent=True)
    listening.join()
    assert messages(taken[0]) == [Finished("a", 1), Printed("name", "line"), Finished("b", 1)]


def test_what_nobody_waits_for_is_told_a_moment_later_all_the_same() -> None:
    outbox = Outbox()
    outbox.put(Finished("a", 1), urgent=False)
    assert messages(outbox.take(0, 1e9)) == [Finished("a", 1)]


def test_orders_that_overtake_others_wait_for_them() -> None:
    outbox = Outbox()
    sent: list[tuple[int, bytes]] = []
    line = Line(lambda number, orders: sent.append((number, orders)))
    for name in "abcd":
        line.send([Kill(name, "")])
    assert outbox.receive(*sent[2]) == []
    assert outbox.receive(*sent[1]) == []
    assert outbox.done == 0
    assert outbox.receive(*sent[0]) == [Kill(name, "") for name in "abc"]
    assert outbox.receive(*sent[2]) == []
    assert outbox.receive(*sent[3]) == [Kill("d", "")]


def test_a_host_with_nothing_to_tell_says_so_and_confirms_what_has_arrived() -> None:
    outbox = Outbox()
    sent: list[tuple[int, bytes]] = []
    Line(lambda number, orders: sent.append((number, orders))).send([Kill("t", "")])
    assert outbox.receive(*sent[0]) == [Kill("t", "")]
    assert outbox.take(0, 0.0) == Batch(1, 1, b"")


def test_what_is_told_again_confirms_what_has_arrived_since() -> None:
    outbox = Outbox()
    sent: list[tuple[int, bytes]] = []
    outbox.put(Finished("a", 1), urgent=True)
    first = outbox.take(0, 0.0)
    Line(lambda number, orders: sent.append((number, orders))).send([Kill("t", "")])
    outbox.receive(*sent[0])
    again = outbox.take(0, 0.0)
    assert (again.number, again.said, again.done) == (first.number, first.said, 1)


def test_a_driver_that_hears_nothing_does_not_fill_the_memory_with_what_members_print(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(line_module, "_PRINTED_AT_MOST", 1000)
    outbox = Outbox()
    for _ in range(100):
        outbox.print("name", "x" * 100)
    outbox.put(Finished("a", 1), urgent=True)
    *lines, event, remark = messages(outbox.take(0, 0.0))
    assert 0 < len(lines) < 10
    assert event == Finished("a", 1)
    assert remark == Remark(f"{100 - len(lines)} lines that members printed were too many, and lost.")
    outbox.print("name", "and now there is room again")
    assert len(messages(outbox.take(1, 0.0))) == 1


def test_orders_are_sent_again_only_when_they_may_be_lost() -> None:
    clock, sent = Clock(), list[int]()
    line = Line(lambda number, orders: sent.append(number), clock)
    line.send([])
    clock.now = 1.0
    line.send([])
    assert not line.resend(all_of_it=False)
    clock.now = 2.5
    assert line.resend(all_of_it=False)
    assert not line.resend(all_of_it=False)
    assert sent == [1, 2, 1, 2]
    line.took(Batch(1, 1, b""))
    clock.now = 5.0
    assert line.resend(all_of_it=False)
    assert sent == [1, 2, 1, 2, 2]
