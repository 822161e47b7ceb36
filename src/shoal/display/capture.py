"""What this process prints while a live view is shown: caught, so that it appears above the view and not across it."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

__all__ = ["Capture", "CaughtStream"]

_STREAMS = ("stdout", "stderr")


class CaughtStream:
    """Stands in for ``sys.stdout`` or ``sys.stderr``: hands on whole lines, and is the original in all else.

    Args:
        original: the stream.
        show: takes complete lines, and whether somebody waits for them to be seen.
        eager: whether a flush means that somebody waits, as it does where a question follows. Loggers flush each line.
    """

    def __init__(self, original: TextIO, show: Callable[[list[str], bool], None], *, eager: bool) -> None:
        self.original = original
        self._show = show
        self._eager = eager
        self._rest = ""

    def write(self, text: str) -> int:
        """Show the lines that are complete, and keep the rest."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._show(lines, False)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Show a line without an end, such as a question; not a progress bar, which still changes."""
        if self._rest and "\r" not in self._rest:
            self.release()
        elif self._eager:
            self._show([], True)

    def release(self) -> None:
        """Show what is left."""
        if self._rest:
            rest, self._rest = self._rest, ""
            self._show([rest], True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.original)


class Capture:
    """Catches ``sys.stdout``, ``sys.stderr`` and logging handlers that write there, where they are terminals.

    Args:
        show: takes complete lines, and whether somebody waits for them to be seen.
    """

    def __init__(self, show: Callable[[list[str], bool], None]) -> None:
        self._show = show
        self._caught: dict[str, CaughtStream] = {}
        self._handlers: list[tuple[logging.StreamHandler[Any], CaughtStream]] = []

    def start(self) -> None:
        """Put the stand-ins in place."""
        for name in _STREAMS:
            original = getattr(sys, name)
            if isinstance(original, CaughtStream):
                continue  # another experiment in this process shows its view; what is printed appears above that
            if name not in self._caught and _is_terminal(original):
                caught = CaughtStream(original, self._show, eager=name == "stdout")
                self._caught[name] = caught
                setattr(sys, name, caught)
                # These were given the stream itself, perhaps long before.
                for handler in _handlers_of(original):
                    _hand(handler, caught)
                    self._handlers.append((handler, caught))

    def stop(self) -> None:
        """Put the originals back, then show what is left."""
        caught, self._caught = self._caught, {}
        handlers, self._handlers = self._handlers, []
        for handler, stream in handlers:
            if handler.stream is stream:
                _hand(handler, stream.original)
        for name, stream in caught.items():
            if getattr(sys, name) is stream:
                setattr(sys, name, stream.original)
        # Handlers that were made meanwhile.
        for stream in caught.values():
            for handler in _handlers_of(stream):
                _hand(handler, stream.original)
        for stream in caught.values():
            stream.release()


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def _hand(handler: logging.StreamHandler[Any], stream: Any) -> None:
    with contextlib.suppress(AttributeError):  # some look sys.stderr up each time, and have nothing to set
        handler.stream = stream


def _handlers_of(stream: object) -> list[logging.StreamHandler[Any]]:
    """Return the logging handlers that write to a stream."""
    known = [logging.root, *list(logging.root.manager.loggerDict.values())]
    handlers = [handler for logger in known if isinstance(logger, logging.Logger) for handler in logger.handlers]
    return [it for it in handlers if isinstance(it, logging.StreamHandler) and it.stream is stream]
