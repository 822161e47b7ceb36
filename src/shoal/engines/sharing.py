"""Objects of ``shoal.put`` on their way to the nodes: each goes into the cluster's store once, in a thread for that."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from ..objects import ObjectRef
from ..storage.workers import Workers

__all__ = ["Sharing"]


class Sharing:
    """Keeps an object in the store until all have received it that it was sent to.

    Args:
        put: puts an object into the store, and returns what stands for it there; it may take long. What it returned is
            let go of when nobody is waiting for the object any more.
    """

    def __init__(self, put: Callable[[ObjectRef[Any]], Any]) -> None:
        self._put = put
        self._workers = Workers(1, "shoal-objects")
        self._there: dict[str, Any] = {}
        """What is in the store, by the objects' ids."""
        self._waiting: Counter[str] = Counter()
        """How many have not received an object yet."""
        self._lock = threading.Lock()

    def give(
        self, ref: ObjectRef[Any], send: Callable[[Any], object], failed: Callable[[BaseException], object]
    ) -> None:
        """Send an object to somebody as soon as it is in the store. Waits for nothing.

        Args:
            ref: the object's.
            send: called with what stands for it in the store; :meth:`received` is to follow.
            failed: called instead, with the reason, where it cannot be put there.
        """
        with self._lock:
            self._waiting[ref.id] += 1

        def work() -> None:
            try:
                with self._lock:
                    there = self._there.get(ref.id)
                if there is None:
                    there = self._put(ref)
                    with self._lock:
                        self._there[ref.id] = there
                send(there)
            except Exception as error:
                self.received(ref)
                failed(error)

        self._workers.submit(work)

    def received(self, ref: ObjectRef[Any]) -> None:
        """One of those that an object was sent to has it, or will never have it."""
        with self._lock:
            self._waiting[ref.id] -= 1
            if not self._waiting[ref.id]:
                del self._waiting[ref.id]
                self._there.pop(ref.id, None)

    def close(self) -> None:
        """Send nothing more."""
        self._workers.close()
        with self._lock:
            self._there.clear()
