"""A few threads for transfers. A process that ends does not wait for them: storage may not answer for long."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["Workers", "each"]

_T = TypeVar("_T")
_FILES_AT_ONCE = 16


class Workers:
    """As ``ThreadPoolExecutor``, but its threads keep no process from ending.

    Args:
        count: how many threads there are at most.
        name: of the threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        """Have a thread call something; the future has what it returned.

        Raises:
            RuntimeError: they were closed.
        """
        future: Future[_T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("these workers are closed")
            self._waiting.put((future, call))
            if not self._idle.acquire(blocking=False) and len(self._threads) < self._count:
                thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def close(self) -> None:
        """Begin nothing more, and wait for nothing: what has not begun is cancelled."""
        with self._lock:
            self._closed = True
            while True:
                try:
                    entry = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if entry is not None:
                    entry[0].cancel()
            for _ in self._threads:
                self._waiting.put(None)

    def _work(self) -> None:
        while (entry := self._waiting.get()) is not None:
            future, call = entry
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)
            del future, call, entry
            self._idle.release()


_of_files: dict[int, Workers] = {}
_making = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().update(_making=threading.Lock()))


def each(calls: Iterable[Callable[[], _T]]) -> list[_T]:
    """Call all of them, several at the same time, and return what they returned, in order.

    They are about single files: one of them must not use this itself.

    Raises:
        Exception: of the first that failed, when none is at work any more.
    """
    todo = list(calls)
    if len(todo) == 1:
        return [todo[0]()]
    with _making:
        workers = _of_files.setdefault(os.getpid(), Workers(_FILES_AT_ONCE, "shoal-file"))
    futures = [workers.submit(call) for call in todo]
    try:
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        for future in futures:
            if not future.cancelled():
                future.exception()
        raise
