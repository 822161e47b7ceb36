"""Both ends of the way between a driver and a host. Neither loses anything, and neither takes anything in twice.

The driver sends *packets* of orders, and asks again and again what there is to tell, which comes in *batches*. Both are
counted. A call may be lost on its way, come twice or come late, and so may its answer. So each end keeps what it has
sent until the other confirms it, and takes in only what comes next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from ..worker.wire import frame
from .orders import Batch, Order, Printed, Remark, Said, packed, unpacked

__all__ = ["Line", "Outbox"]

_PATIENCE_S = 0.1
"""So long what nobody waits for is collected, to be told together."""
_PRINTED_AT_MOST = 16 << 20
"""So many bytes of printed lines are kept for a driver that does not take them. Then lines are left out."""
_RESEND_S = 2.0
"""After so long what was not confirmed is sent again."""


class Line:
    """The driver's end.

    Args:
        call: has the host called with the number of a packet and its orders. It does not wait, and nobody may hear
            that it failed.
        clock: seconds of one clock.
    """

    def __init__(self, call: Callable[[int, bytes], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._call = call
        self._clock = clock
        self._sent = 0
        self._unconfirmed: dict[int, bytes] = {}
        self._oldest_at = 0.0
        """When the oldest of them was sent last."""
        self.confirmed = 0
        """The number of the newest batch that has arrived."""

    def send(self, orders: list[Order]) -> None:
        """Send a packet of orders, without waiting."""
        self._sent += 1
        data = packed(orders)
        if not self._unconfirmed:
            self._oldest_at = self._clock()
        self._unconfirmed[self._sent] = data
        self._call(self._sent, data)

    def took(self, batch: Batch) -> bool:
        """A batch has arrived. Return whether it is the next one; any other has been taken in before."""
        confirmed = [number for number in self._unconfirmed if number <= batch.done]
        for number in confirmed:
            del self._unconfirmed[number]
        if confirmed:
            self._oldest_at = self._clock()
        new = batch.number == self.confirmed + 1
        self.confirmed += new
        return new

    def resend(self, *, all_of_it: bool) -> bool:
        """Send again what may have been lost. Return whether there was any.

        Args:
            all_of_it: also what was sent only just now, because the host was out of reach.
        """
        now = self._clock()
        if not self._unconfirmed or not (all_of_it or now - self._oldest_at > _RESEND_S):
            return False
        self._oldest_at = now
        for number, data in self._unconfirmed.items():
            self._call(number, data)
        return True


class Outbox:
    """The host's end. What somebody waits for is told at once, the rest with it, or a moment later.

    All methods may be called in any thread.

    Args:
        clock: seconds of one clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ready = threading.Condition()
        self._said: list[bytes] = []
        self._since = 0.0
        """When the oldest of it came."""
        self._urgent = False
        self._number = 0
        self._newest: Batch | None = None
        """Kept until the driver has confirmed it."""
        self._early: dict[int, bytes] = {}
        """Packets that have overtaken another, which is on its way."""
        self._printed = 0
        """Bytes of the printed lines among it."""
        self._left_out = 0
        """How many printed lines there was no room for."""
        self._done = 0
        """The number of the newest packet of orders that has arrived."""

    def put(self, message: Said, *, urgent: bool) -> None:
        """Have something told."""
        self._put(frame(message), urgent=urgent)

    def print(self, name: str, text: str) -> None:
        """Have a line told that a member printed."""
        data = frame(Printed(name, text))
        with self._ready:
            if self._printed + len(data) > _PRINTED_AT_MOST:
                self._left_out += 1
                return
            self._printed += len(data)
            self._put(data, urgent=False)

    def _put(self, data: bytes, *, urgent: bool) -> None:
        with self._ready:
            if not self._said:
                self._since = self._clock()
            self._said.append(data)
            self._urgent = self._urgent or urgent
            self._ready.notify()

    def receive(self, number: int, orders: bytes) -> list[Order]:
        """Return the orders of a packet, and of those after it that came before it.

        Returns none where it has come before, or another has to come first.
        """
        with self._ready:
            if number > self._done:
                self._early[number] = orders
            received: list[Order] = []
            while (data := self._early.get(self._done + 1)) is not None:
                received += unpacked(data)
                self._done += 1
                del self._early[self._done]
            return received

    @property
    def done(self) -> int:
        """The number of the newest packet of orders that has arrived."""
        return self._done

    def take(self, confirmed: int, patience_s: float) -> Batch:
        """Return the next batch, which may be empty; wait for something to tell.

        Args:
            confirmed: the number of the newest batch that has arrived. The one after it is given again.
            patience_s: how long to wait.
        """
        with self._ready:
            if self._newest is not None and self._newest.number > confirmed:
                return replace(self._newest, done=self._done)
            end = self._clock() + patience_s
            while not self._urgent and (now := self._clock()) < end:
                due = min(end, self._since + _PATIENCE_S) if self._said else end
                if due <= now:
                    break
                self._ready.wait(due - now)
            if self._left_out:
                self._said.append(
                    frame(Remark(f"{self._left_out} lines that members printed were too many, and lost."))
                )
            self._number += 1
            self._newest = Batch(self._number, self._done, b"".join(self._said))
            self._said, self._urgent, self._printed, self._left_out = [], False, 0, 0
            return self._newest
