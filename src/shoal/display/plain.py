"""The status in a pipe, a log or a CI job: few lines, no escape codes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TextIO

from ..core.commands import Exploit
from ..experiment import ExperimentInfo
from ..history import History
from ..journal.codec import Record
from .base import EXPLOITS, SILENT, Memory, StatusBase
from .table import Pace, count_text, end_line, exploit_line, overview, status_counts, stopped_because, work_done
from .text import format_duration, lay_out, printable

__all__ = ["PlainStatus"]

_BLOCK_EVERY_S = 30.0
_BLOCK_AT_LEAST_EVERY_S = 600.0
_BLOCKS_PER_RUN = 20
"""A run of any length has about as many blocks, so that a night's log stays readable."""
_EXPLOITS_PER_BLOCK = 10
_ROWS = 20


class PlainStatus(StatusBase):
    """Prints lines and never goes back.

    A block of two lines (how far, and the best so far) every 30 seconds, less often in long runs and only if something
    happened; a line for each exploit, at most ten between two blocks unless ``verbose`` is 2; a table at the end.

    Args:
        verbose: 0 to 3; see :func:`shoal.display.make_status`.
        stream: where to print.
    """

    def __init__(self, verbose: int, stream: TextIO) -> None:
        super().__init__(verbose)
        self._stream = stream
        self._memory = Memory()
        self._pace: Pace | None = None
        self._next_block: float | None = None
        self._changed = False
        self._dirty = False
        self._exploit_lines = 0
        self._exploits_unsaid = 0
        self._closed = False

    def say(self, text: str, kind: str) -> None:
        """Print lines."""
        prefix = {"note": "Note: ", "error": "Error: "}.get(kind, "")
        self._print(prefix + "\n".join(map(printable, text.split("\n"))))
        if self.info is None:
            # Nobody calls tick before the experiment begins, and it may have to wait for that.
            with contextlib.suppress(OSError):
                self.flush()

    def output(self, name: str, text: str) -> None:
        """Print a member's line, unless ``verbose`` is 0."""
        if self.verbose > SILENT:
            for line in text.split("\n"):
                self._print(f"({name}) {printable(line)}")

    def start(self, info: ExperimentInfo, folder: Path, history: History) -> None:
        """Print the first line at once."""
        super().start(info, folder, history)
        self.flush()

    def opening(self, text: str) -> None:
        """Print a line at once, before the experiment begins, unless ``verbose`` is 0."""
        super().opening(text)
        self.flush()

    def take(self, record: Record) -> None:
        """Remember that something happened."""
        self._changed = True
        super().take(record)

    def exploited(self, exploit: Exploit) -> None:
        """Print an exploit, or only count it where there are many."""
        if self.verbose >= EXPLOITS:
            super().exploited(exploit)
        elif self.verbose > SILENT and self.info is not None:
            self._exploit_lines += 1
            if self._exploit_lines <= _EXPLOITS_PER_BLOCK:
                self.say(exploit_line(exploit, self.history, self.info), "exploit")
            else:
                self._exploits_unsaid += 1

    def tick(self, now: float) -> None:
        """Print a block if it is time and something has happened."""
        self.now = now
        self.say_repeats(now)
        self.flush()
        if self.verbose == SILENT or self.info is None:
            return
        if self._next_block is None or now < self._next_block - _BLOCK_AT_LEAST_EVERY_S:
            # The first call, or the clock was set back.
            self._pace = self._pace or Pace(self.info)
            self._pace.at(now, self.history)
            self._next_block = now + _BLOCK_EVERY_S
        elif now >= self._next_block and self._changed:
            self._block(now)
            ran = now - self.began
            self._next_block = now + max(_BLOCK_EVERY_S, min(_BLOCK_AT_LEAST_EVERY_S, ran / _BLOCKS_PER_RUN))

    def flush(self) -> None:
        """Hand what was printed to the operating system."""
        if self._dirty:
            self._dirty = False
            self._stream.flush()

    def close(self) -> None:
        """Print the final table."""
        self.say_repeats()
        if self.verbose > SILENT and self.info is not None and not self._closed:
            self._closed = True
            self._summary()
        self.flush()

    def _block(self, now: float) -> None:
        assert self.info is not None
        assert self._pace is not None
        view = overview(self.info, self.history, folder=self.folder, running_for=now - self.began, rows=0)
        facts = [
            status_counts(self.history),
            work_done(self.history, self.info),
        ]
        if memory := self._memory.text(now):
            facts.append(f"memory {memory}")
        if (reached := self._pace.at(now, self.history)) is not None:
            facts.append(f"{reached.done:.0%} done")
            if reached.to_go is not None:
                facts.append(f"{format_duration(reached.to_go)} to go")
        self._print(f"[{format_duration(now - self.began)}] {', '.join(facts)}")
        if view.best:
            self._print(f"    best: {view.best}")
        self._say_unsaid()
        self._changed = False
        self.flush()

    def _say_unsaid(self) -> None:
        if self._exploits_unsaid:
            self._print(f"    and {count_text(self._exploits_unsaid, 'more exploit')}")
        self._exploit_lines = self._exploits_unsaid = 0

    def _summary(self) -> None:
        assert self.info is not None
        history = self.history
        self._say_unsaid()
        view = overview(self.info, history, folder=self.folder, running_for=self.now - self.began, rows=_ROWS)
        grid = lay_out(view.columns, None)
        self._print(
            f"\n{self.info.name} ended after {format_duration(self.now - self.began)}: {end_line(history, self.info)}"
        )
        if stopped := stopped_because(history):
            self._print(f"stopped: {stopped}")
        if view.statuses:
            for cells in (grid.titles, *grid.rows):
                self._print("  ".join(cells).rstrip())
        if view.rest:
            self._print(f"and {view.rest}")
        if view.best:
            self._print(f"best: {view.best}")
        if view.config:
            self._print(f"    config: {view.config}")
        for name, _, path in view.failures:
            self._print(f"{name} failed: {path}")
        if view.more_failures:
            self._print(f"and {count_text(view.more_failures, 'more failure')}")
        self._print(f"results: {self.folder}")

    def _print(self, line: str) -> None:
        try:
            self._stream.write(f"{line}\n")
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self._stream.write(f"{line.encode(encoding, 'backslashreplace').decode(encoding)}\n")
        self._dirty = True
