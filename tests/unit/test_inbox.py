"""How a member hears from another that it may go on: once for each turn, and from nobody else."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator

import pytest

from shoal.core.events import Reported
from shoal.core.reports import ReportRules
from shoal.worker.wire import (
    Channel,
    FrameReader,
    Go,
    Handed,
    HandTo,
    Setup,
    Turn,
    address_of,
    baton,
    frame,
    open_inbox,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such addresses")

SECRET = b"0123456789abcdef"


@pytest.fixture
def setup() -> Setup:
    rules = ReportRules()
    return Setup(b"", rules, "test", 1, 1.0, 0.0, 1, run=os.urandom(8).hex(), secret=SECRET)


@pytest.fixture
def ends(setup: Setup) -> Iterator[tuple[Channel, Channel, socket.socket]]:
    """Two members, numbers 1 and 2, and the driver's end of the second one's socket."""
    pairs = [socket.socketpair() for _ in range(2)]
    inboxes = [open_inbox(setup, key) for key in (1, 2)]
    one, two = (Channel(pair[0], inbox, SECRET) for pair, inbox in zip(pairs, inboxes, strict=True))
    yield one, two, pairs[1][1]
    for end in (*pairs[0], *pairs[1], *inboxes):
        assert end is not None
        end.close()


def to(setup: Setup, turn: Turn, *, until: float | None = 5.0, secret: bytes = SECRET, key: int = 2) -> HandTo:
    return HandTo("two", turn, address_of(setup.run, key), baton(secret, until, turn))


@pytest.mark.parametrize("until", [5.0, 7, None])
def test_a_member_goes_on_by_the_word_of_another(
    setup: Setup, ends: tuple[Channel, Channel, socket.socket], until: float | None
) -> None:
    one, two, _ = ends
    assert one.hand_on(to(setup, (1, 4), until=until))
    assert two.receive((1, 4)) == Go(until, (1, 4))


def test_what_strangers_say_or_was_said_of_an_earlier_turn_counts_for_nothing(
    setup: Setup, ends: tuple[Channel, Channel, socket.socket]
) -> None:
    one, two, driver = ends
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        for data in (b"", b"x", os.urandom(len(baton(SECRET, 1.0, (1, 4)))), baton(SECRET, 1.0, (1, 4)) + b"x"):
            stranger.sendto(data, address_of(setup.run, 2))
    assert one.hand_on(to(setup, (1, 4), secret=b"another's secret"))
    assert one.hand_on(to(setup, (1, 3)))
    assert one.hand_on(to(setup, (0, 9)))
    driver.sendall(frame(Go(8.0)))
    assert two.receive((1, 4)) == Go(8.0)


def test_a_word_that_comes_before_its_turn_is_kept_for_it(
    setup: Setup, ends: tuple[Channel, Channel, socket.socket]
) -> None:
    """The member is still to be told by the driver that it was launched for that turn."""
    one, two, driver = ends
    assert one.hand_on(to(setup, (2, 3)))
    driver.sendall(frame("launched anew"))
    assert two.receive((1, 4)) == "launched anew"
    assert two.receive((2, 3)) == Go(5.0, (2, 3))
    driver.sendall(frame("no second time"))
    assert two.receive((2, 3)) == "no second time"


def test_who_does_not_wait_for_a_slot_listens_to_the_driver_alone(
    setup: Setup, ends: tuple[Channel, Channel, socket.socket]
) -> None:
    one, two, driver = ends
    assert one.hand_on(to(setup, (1, 4)))
    assert not two.pending()
    driver.sendall(frame("the driver"))
    assert two.pending()
    assert two.receive() == "the driver"


def test_who_is_not_there_cannot_be_told(setup: Setup, ends: tuple[Channel, Channel, socket.socket]) -> None:
    one, _, _ = ends
    assert not one.hand_on(to(setup, (1, 4), key=3))


def test_one_that_hears_nothing_can_be_told_only_so_often(
    setup: Setup, ends: tuple[Channel, Channel, socket.socket]
) -> None:
    """Its inbox is full then; whoever hands on does not wait for that, and the driver tells it."""
    one, _, _ = ends
    told = [one.hand_on(to(setup, (1, 4))) for _ in range(10_000)]
    assert told[0]
    assert not told[-1]


def test_without_an_inbox_nobody_is_told(setup: Setup) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not Channel(ours).hand_on(to(setup, (1, 4)))


def test_where_the_run_has_no_addresses_there_is_no_inbox() -> None:
    assert open_inbox(Setup(b"", ReportRules(), "test", 1, 1.0, 0.0, 1), 1) is None


def test_an_address_that_is_taken_gives_no_inbox(setup: Setup) -> None:
    first = open_inbox(setup, 1)
    assert first is not None
    with first:
        assert open_inbox(setup, 1) is None


def test_a_report_comes_back_with_who_was_told() -> None:
    report = Reported("one", 1, 5, {"score": 1.0}, True)
    sent = [report, Handed(report, "two", (3, 10))]
    assert FrameReader().feed(b"".join(map(frame, sent))) == sent
