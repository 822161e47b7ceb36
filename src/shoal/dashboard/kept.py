"""What is expensive to make is made once for all who look, and the less often, the longer it takes.

What takes a second is made again after twenty at the earliest, so that a page that somebody looks at takes little of
the machine that trains.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["REST", "Kept"]

REST = 20.0
"""So many times as long as it took to make, something is shown before it is made again."""
_LONGEST_REST = 60.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Made(Generic[T]):
    version: str
    value: T
    at: float
    took: float


class Kept(Generic[T]):
    """Keeps what was made.

    Args:
        most: how much is kept; what was made the longest ago goes first.
        rest: so many times as long as it took to make, something is shown before it is made again.
        clock: seconds.
    """

    def __init__(self, most: int, rest: float = REST, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._rest = rest
        self._clock = clock
        self._made: OrderedDict[tuple[str, ...], _Made[T]] = OrderedDict()
        self._lock = threading.Lock()
        self._making = threading.Lock()

    def get(self, key: tuple[str, ...], version: str, make: Callable[[], T], live: bool) -> tuple[str, T]:
        """Return something that is as new as it has to be, with the version of what it was made from.

        Args:
            key: what it is.
            version: of what it would be made from now: ``<which>-<how far>``.
            make: makes it.
            live: whether it will change again; what will not is made at once.
        """
        made = self._find(key, version, live)
        if made is None:
            with self._making:  # one after the other
                made = self._find(key, version, live)
                if made is None:
                    began = self._clock()
                    value = make()
                    ended = self._clock()
                    made = _Made(version, value, ended, ended - began)
                    self._keep(key, made)
        return made.version, made.value

    def peek(self, key: tuple[str, ...], version: str, live: bool) -> tuple[T | None, bool]:
        """Return what there is, which may be older than it should be, and whether it is new enough."""
        found = self._find(key, version, live)
        if found is not None:
            return found.value, True
        with self._lock:
            made = self._made.get(key)
        same = made is not None and made.version.partition("-")[0] == version.partition("-")[0]
        return (made.value if made is not None and same else None), False

    def _find(self, key: tuple[str, ...], version: str, live: bool) -> _Made[T] | None:
        """Return what there is, where it is new enough."""
        with self._lock:
            made = self._made.get(key)
            if made is None or made.version == version:
                return made
        # What is of another opening of the journal has nothing to do with what is there now.
        if not live or made.version.partition("-")[0] != version.partition("-")[0]:
            return None
        return made if self._clock() - made.at < min(_LONGEST_REST, self._rest * made.took) else None

    def _keep(self, key: tuple[str, ...], made: _Made[T]) -> None:
        with self._lock:
            self._made[key] = made
            self._made.move_to_end(key)
            while len(self._made) > self._most:
                self._made.popitem(last=False)
