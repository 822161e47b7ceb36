"""How a member hears from another that it may go on: once for each turn, and from nobody else."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from shoal.worker.wire import Channel, FrameReader, Go, HandTo, Turn, WentOn, baton, frame, open_inbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such addresses")

SECRET = b"0123456789abcdef"


Ends = tuple[Channel, Channel, socket.socket, str]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Two members, the driver's end of the second one's socket, and the second one's address."""
    addresses = [f"\0shoal-test-{os.urandom(8).hex()}" for _ in range(2)]
    pairs = [socket.socketpair() for _ in range(2)]
    inboxes = [open_inbox(address) for address in addresses]
    one, two = (Channel(pair[0], inbox, SECRET) for pair, inbox in zip(pairs, inboxes, strict=True))
    yield one, two, pairs[1][1], addresses[1]
    for end in (*pairs[0], *pairs[1], *inboxes):
        assert end is not None
        end.close()


def to(address: str, turn: Turn, *, until: float | None = 5.0, secret: bytes = SECRET) -> HandTo:
    return HandTo(address, baton(secret, until, turn))


@pytest.mark.parametrize("until", [5.0, 7, None])
def test_a_member_goes_on_by_the_word_of_another_and_the_driver_hears_of_it(ends: Ends, until: float | None) -> None:
    one, two, driver, address = ends
    one.hand_on(to(address, (1, 4), until=until))
    assert two.receive((1, 4)) == Go(until, (1, 4))
    assert FrameReader().feed(driver.recv(1000)) == [WentOn()]


def test_what_strangers_say_or_was_said_of_another_turn_counts_for_nothing(ends: Ends) -> None:
    one, two, driver, address = ends
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        for data in (b"", b"x", os.urandom(len(baton(SECRET, 1.0, (1, 4)))), baton(SECRET, 1.0, (1, 4)) + b"x"):
            stranger.sendto(data, address)
    one.hand_on(to(address, (1, 4), secret=b"another's secret"))
    one.hand_on(to(address, (1, 3)))
    one.hand_on(to(address, (0, 9)))
    one.hand_on(to(address, (1, 4), until=6.0))
    assert two.receive((1, 4)) == Go(6.0, (1, 4))
    driver.sendall(frame("no second time"))
    assert two.receive((1, 4)) == "no second time"


@pytest.mark.parametrize("first", ["the driver", "the other"])
def test_what_the_driver_says_comes_first(ends: Ends, first: str) -> None:
    """It has decided that later, such as that the member shall leave; or the member has to know it before."""
    one, two, driver, address = ends
    if first == "the driver":
        driver.sendall(frame("leave"))
    one.hand_on(to(address, (1, 4)))
    if first == "the other":
        driver.sendall(frame("leave"))
    assert two.receive((1, 4)) == "leave"


def test_a_word_that_comes_before_its_turn_is_heard_then(ends: Ends) -> None:
    """The member was launched for that turn before another could be told of it."""
    one, two, driver, address = ends
    driver.sendall(frame("launched anew"))
    one.hand_on(to(address, (2, 3)))
    assert two.receive((1, 4)) == "launched anew"
    assert two.receive((2, 3)) == Go(5.0, (2, 3))


def test_who_does_not_wait_for_a_slot_listens_to_the_driver_alone(ends: Ends) -> None:
    one, two, driver, address = ends
    one.hand_on(to(address, (1, 4)))
    assert not two.pending()
    driver.sendall(frame("the driver"))
    assert two.pending()
    assert two.receive() == "the driver"


def test_who_is_not_there_or_hears_nothing_is_not_waited_for(ends: Ends) -> None:
    one, two, driver, address = ends
    one.hand_on(to(address + "x", (1, 4)))
    for _ in range(10_000):
        one.hand_on(to(address, (1, 3)))
    driver.sendall(frame(Go(8.0)))
    assert two.receive((1, 4)) == Go(8.0)


@pytest.mark.parametrize("how", ["closed", "another file"])
def test_a_member_whose_inbox_was_closed_hears_the_driver(how: str) -> None:
    """By code of the user's that closes what it does not know; the number may then be another file's."""
    inbox = open_inbox(f"\0shoal-test-{os.urandom(8).hex()}")
    assert inbox is not None
    ours, driver = socket.socketpair()
    with ours, driver:
        member = Channel(ours, inbox, SECRET)
        number = inbox.fileno()
        other = os.open(__file__, os.O_RDONLY)
        os.close(number)
        if how == "another file":
            os.dup2(other, number)
        os.close(other)
        answers: list[object] = []
        thread = threading.Thread(target=lambda: answers.append(member.receive((1, 4))))
        thread.start()
        end = time.monotonic() + 30
        while member._inbox is not None:
            assert time.monotonic() < end, "it listens to what is closed"
            time.sleep(0.001)
        driver.sendall(frame(Go(8.0)))
        thread.join(30)
        assert answers == [Go(8.0)]
        if how == "another file":
            assert os.fstat(number)
            os.close(number)


def test_without_an_inbox_nobody_is_told() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Channel(ours).hand_on(to("\0nobody", (1, 4)))


def test_without_an_address_there_is_no_inbox() -> None:
    assert open_inbox("") is None


def test_an_address_that_is_taken_gives_no_inbox() -> None:
    address = f"\0shoal-test-{os.urandom(8).hex()}"
    first = open_inbox(address)
    assert first is not None
    with first:
        assert open_inbox(address) is None
