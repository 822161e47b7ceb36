"""Time in a simulated experiment."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from ..core.events import Event

__all__ = ["VirtualClock"]


class VirtualClock:
    """A clock that jumps to what is due next. What is due at the same time comes in the order it was asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], Event | None]]] = []
        self._asked = 0

    def after(self, delay: float, action: Callable[[], Event | None]) -> None:
        """Have ``action`` called ``delay`` from now."""
        self._asked += 1
        heapq.heappush(self._due, (self.now + delay, self._asked, action))

    def next_event(self) -> Event | None:
        """Call what is due until something happens that the core must know of; None if nothing ever will."""
        while self._due:
            self.now, _, action = heapq.heappop(self._due)
            event = action()
            if event is not None:
                return event
        return None
