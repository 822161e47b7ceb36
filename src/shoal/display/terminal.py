"""The status in a terminal: a live view at its foot, and lines above it.

Rich moves the cursor and knows the colours. The view itself is laid out by hand, at a tenth of the cost of a rich
table, and drawn by whoever calls :meth:`TerminalStatus.tick`: there is no thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TextIO

from rich.console import Console, ConsoleOptions
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.style import Style

from ..core.commands import Status
from ..core.events import Reported
from ..experiment import ExperimentInfo
from ..history import History
from ..journal.codec import Record
from .base import RESULTS, SILENT, Memory, StatusBase
from .capture import Capture
from .table import Overview, Pace, Progress, count_text, end_line, overview, stopped_because
from .text import Grid, crop, format_duration, lay_out, printable, width_of

__all__ = ["TerminalStatus"]

_DRAW_EVERY_S = 0.25
_CLOCK_EVERY_S = 1.0
_SHARE = 0.005
"""Drawing may take this part of the time at most: the slower a view is to draw, the rarer it is drawn."""
_ROWS = 20
_LINES_KEPT = 2000
"""Lines that wait to be drawn; of a member that prints more at a time, the oldest are left out and counted."""

_PLAIN = Style()
_DIM = Style(dim=True)
_BOLD = Style(bold=True)
_HEAD = Style(bold=True, color="cyan")
_STATUS = {
    Status.PENDING: Style(dim=True),
    Status.RUNNING: Style(color="green"),
    Status.PAUSED: Style(color="yellow"),
    Status.TERMINATED: Style(color="blue"),
    Status.ERROR: Style(color="red", bold=True),
}
_KINDS = {
    "note": Style(color="yellow"),
    "error": Style(color="red"),
    "repeat": Style(color="red"),
    "exploit": Style(color="cyan"),
    "result": _PLAIN,
    "info": _PLAIN,
    "output": _PLAIN,
}
_Line = list[Segment]


class _Lines:
    """Lines of segments, as something that rich can print."""

    def __init__(self, lines: list[_Line]) -> None:
        self.lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for line in self.lines:
            yield from line
            yield Segment.line()


class TerminalStatus(StatusBase):
    """Draws a live view at most four times a second, and only if something changed or a second passed.

    While the view is there, what this process prints (a callback, a warning, a logger) is shown above it.

    Args:
        verbose: 0 to 3; see :func:`shoal.display.make_status`.
        stream: a terminal.
        console: what draws; made from ``stream`` by default.
    """

    def __init__(self, verbose: int, stream: TextIO, console: Console | None = None) -> None:
        super().__init__(verbose)
        self._console = console or Console(file=stream, highlight=False, markup=False, emoji=False)
        self._live: Live | None = None
        self._shown = _Lines([])
        """What the live view draws, with everything that is printed above it and whenever it is refreshed."""
        self._width = 0
        """The terminal's width when the view was drawn."""
        self._capture = Capture(self._caught)
        self._lock = threading.RLock()
        """Any thread may print."""
        self._printed = float("-inf")
        self._memory = Memory()
        self._pace: Pace | None = None
        self._above: list[_Line] = []
        self._skipped = 0
        self._changed = True
        self._drawn = float("-inf")
        self._next = float("-inf")
        unicode = (self._console.encoding or "").startswith("utf")
        self._ellipsis = "…" if unicode else "..."
        self._bar = ("━", "━") if unicode else ("#", "-")

    def start(self, info: ExperimentInfo, folder: Path, history: History) -> None:
        """Print the first line at once."""
        super().start(info, folder, history)
        self._print_above()

    def opening(self, text: str) -> None:
        """Print a line at once, before the experiment begins, unless ``verbose`` is 0."""
        super().opening(text)
        self._print_above()

    def say(self, text: str, kind: str) -> None:
        """Show lines above the view, with its next drawing."""
        style = _KINDS.get(kind, _PLAIN)
        for line in text.split("\n"):
            self._add_above([Segment(printable(line), style)])

    def output(self, name: str, text: str) -> None:
        """Show a member's line above the view, in its own colours, unless ``verbose`` is 0."""
        if self.verbose > SILENT:
            for line in text.split("\n"):
                self._add_above([Segment(f"({name}) ", _DIM), Segment(printable(line, colours=True))])

    def take(self, record: Record) -> None:
        """Remember that something happened."""
        self._changed = True
        if self.verbose < RESULTS and isinstance(record.item, Reported):
            self.now = max(self.now, record.at)  # there are many of these, and none has a line of its own
            return
        with self._or_gone():
            super().take(record)

    def flush(self) -> None:
        """Nothing: the next tick draws."""

    def tick(self, now: float) -> None:
        """Draw if something changed or a second passed, but not too often."""
        self.say_repeats(now)
        if now < self._drawn:
            self._drawn = self._next = float("-inf")  # the clock was set back
        if now < self._next or not (self._changed or self._above or now - self._drawn >= _CLOCK_EVERY_S):
            return
        self.now = now
        before = time.thread_time()
        with self._or_gone():
            self._draw()
        cost = time.thread_time() - before
        self._drawn = now
        self._changed = False
        self._next = now + max(_DRAW_EVERY_S, cost / _SHARE)

    def close(self) -> None:
        """Take the view away and print the final table."""
        self.say_repeats()
        with self._or_gone():
            self._take_away()
            self._print_above()
        if self.verbose > SILENT and self.info is not None:
            self._console.print(_Lines(self._summary()), end="", crop=False, soft_wrap=True)
            self.info = None

    # ----------------------------------------------------------------------------------------------- this process's own

    def _caught(self, lines: list[str], urgent: bool) -> None:
        """Show what this process printed: at once where somebody waits or it is little, else with the next drawing."""
        with self._lock:
            for line in lines:
                self._add_above([Segment(printable(line, colours=True))])
            now = time.monotonic()
            if urgent or now - self._printed >= _DRAW_EVERY_S:
                self._printed = now
                with self._or_gone():
                    self._print_above()

    @contextlib.contextmanager
    def _or_gone(self) -> Generator[None, None, None]:
        """Leave no view and no stand-in behind where drawing fails: nobody calls this status again then."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(Exception):
                self._take_away()
                self._print_above()
            raise

    def _take_away(self) -> None:
        """End the live view, if there is one."""
        live, self._live = self._live, None
        try:
            if live is not None:
                self._rewrapped()
                self._shown.lines = []
                live.stop()
        finally:
            self._capture.stop()

    # ------------------------------------------------------------------------------------------------------- drawing

    def _add_above(self, line: _Line) -> None:
        with self._lock:
            self._above.append(line)
            if len(self._above) > _LINES_KEPT:
                self._skipped += _LINES_KEPT // 2
                del self._above[: _LINES_KEPT // 2]

    def _rewrapped(self) -> None:
        """Go up to where the view begins now, where the terminal was made narrower and has wrapped its lines."""
        width, self._width = self._width, self._console.width
        if not self._shown.lines or width <= self._width:
            return
        wide = (sum(width_of(segment.text) for segment in line) for line in self._shown.lines)
        more = sum(max(0, taken - 1) // self._width for taken in wide)
        up = min(more, max(0, self._console.height - len(self._shown.lines)))
        erase = (ControlType.ERASE_IN_LINE, 2)
        steps = [step for _ in range(up) for step in (erase, (ControlType.CURSOR_UP, 1))]
        self._console.control(Control(ControlType.CARRIAGE_RETURN, *steps))

    def _draw(self) -> None:
        if self.verbose == SILENT or self.info is None:
            self._print_above()
            return
        if self._live is None:
            self._live = Live(
                self._shown,
                console=self._console,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
                transient=True,
                vertical_overflow="crop",
            )
            self._width = self._console.width
            self._live.start()
            self._capture.start()
        with self._lock:
            self._rewrapped()
            self._shown.lines = self._view(self._width, self._console.height)
            if self._above:
                self._print_above()
            else:
                self._live.refresh()

    def _print_above(self) -> None:
        with self._lock:
            if not self._above:
                return
            if self._live is not None:
                self._rewrapped()
            if self._skipped:
                self._above.insert(0, [Segment(f"{self._ellipsis} {self._skipped} lines left out", _DIM)])
            lines, self._above, self._skipped = self._above, [], 0
            # No cropping and no wrapping: the terminal wraps long lines itself, and copies them whole.
            self._console.print(_Lines(lines), end="", crop=False, soft_wrap=True)

    def _view(self, width: int, height: int) -> list[_Line]:
        """Return the live view's lines, none wider and not more than the terminal has."""
        assert self.info is not None
        self._pace = self._pace or Pace(self.info)
        # A line for each of title, facts (two), bar, header, what is left out (two), best, two blanks; and failures.
        failed = sum(trial.status is Status.ERROR for trial in self.history.trials.values())
        rows = max(1, min(_ROWS, height - 11 - 2 * min(failed, 2)))
        view = overview(
            self.info,
            self.history,
            folder=self.folder,
            running_for=self.now - self.began,
            memory=self._memory.text(self.now),
            rows=rows,
        )
        clock = time.strftime("%H:%M:%S", time.localtime(self.now))
        title = crop(view.title, max(1, width - len(clock) - 2), self._ellipsis)
        blanks = " " * max(1, width - width_of(title) - len(clock) - 1)
        lines: list[_Line] = [[Segment(title, _HEAD), Segment(blanks), Segment(clock, _DIM)]]
        lines += _facts(view.facts, width)
        reached = self._pace.at(self.now, self.history)
        if reached is not None:
            lines.append(self._progress(reached, width))
        lines += self._table(view, width)
        lines += self._best(view, whole=False)
        for _, text, path in view.failures[:2]:
            shown = path if len(path) + 4 <= width else f"{self._ellipsis}{path[-(width - 7) :]}"
            lines += [[Segment(text, _KINDS["error"])], [Segment(f"    {shown}", _DIM)]]
        lines += self._more_failures(view.more_failures + len(view.failures[2:]))
        # The cursor stands in an empty line, where the ^C that the terminal shows does not wrap.
        return [*(self._cropped(line, width) for line in lines[: max(1, height - 2)]), []]

    def _progress(self, reached: Progress, width: int) -> _Line:
        text = f" {reached.done:4.0%}"
        if reached.to_go is not None:
            text += f", {format_duration(reached.to_go)} to go"
        room = max(4, min(50, width - len(text) - 1))
        full = min(room, int(reached.done * room))
        done, left = self._bar
        return [Segment(done * full, _STATUS[Status.RUNNING]), Segment(left * (room - full), _DIM), Segment(text)]

    def _table(self, view: Overview, width: int | None) -> list[_Line]:
        if not view.statuses:
            return []
        grid = lay_out(view.columns, width)
        lines: list[_Line] = [[Segment("  ".join(grid.titles), _BOLD)]]
        lines += [self._row(view, grid, row) for row in range(len(grid.rows))]
        if grid.left_out:
            what = count_text(len(grid.left_out), "more column")
            lines.append([Segment(f"{self._ellipsis} {what} in a wider terminal: {', '.join(grid.left_out)}", _DIM)])
        if view.rest:
            lines.append([Segment(f"{self._ellipsis} and {view.rest}", _DIM)])
        return lines

    @staticmethod
    def _row(view: Overview, grid: Grid, row: int) -> _Line:
        status = view.statuses[row]
        base = _BOLD if row == view.best_row else _DIM if status is Status.PENDING else _PLAIN
        line: _Line = []
        for place, cell in zip(grid.places, grid.rows[row], strict=True):
            style = _STATUS[status] if view.columns[place].title == "status" else base
            line += [Segment("  ")] if line else []
            line.append(Segment(cell, style))
        return line

    def _best(self, view: Overview, *, whole: bool) -> list[_Line]:
        """Return the lines about the best trial."""
        lines: list[_Line] = []
        if view.best:
            lines.append([Segment("best  ", _HEAD), Segment(view.best)])
        if view.config and whole:
            lines.append([Segment("      config: "), Segment(view.config)])
        return lines

    def _more_failures(self, count: int) -> list[_Line]:
        text = f"{self._ellipsis} and {count_text(count, 'more failure')}"
        return [[Segment(text, _KINDS["error"])]] if count else []

    def _cropped(self, line: _Line, width: int) -> _Line:
        if sum(width_of(segment.text) for segment in line) <= width:
            return line
        kept: _Line = []
        for segment in line:
            room = width - sum(width_of(before.text) for before in kept)
            kept.append(Segment(crop(segment.text, room, self._ellipsis), segment.style))
            if kept[-1].text != segment.text:
                break
        return kept

    def _summary(self) -> list[_Line]:
        assert self.info is not None
        history = self.history
        ran = format_duration(self.now - self.began)
        view = overview(self.info, history, folder=self.folder, running_for=self.now - self.began, rows=_ROWS)
        counts = f": {end_line(history, self.info)}"
        lines: list[_Line] = [[], [Segment(f"{self.info.name} ended after {ran}", _HEAD), Segment(counts)]]
        if stopped := stopped_because(history):
            lines.append([Segment(f"stopped: {stopped}", _KINDS["note"])])
        lines += self._table(view, self._console.width)
        lines += self._best(view, whole=True)
        lines += [[Segment(f"{name} failed: ", _KINDS["error"]), Segment(path)] for name, _, path in view.failures]
        lines += self._more_failures(view.more_failures)
        lines.append([Segment("results: ", _HEAD), Segment(str(self.folder))])
        return lines


def _facts(facts: list[tuple[str, str]], width: int) -> list[_Line]:
    """Return the facts, in as many lines as they need."""
    lines: list[_Line] = [[]]
    used = 0
    for name, value in facts:
        needed = width_of(name) + 1 + width_of(value)
        if used and used + 3 + needed > width:
            lines.append([])
            used = 0
        if used:
            lines[-1].append(Segment("   "))
            used += 3
        lines[-1] += [Segment(f"{name} ", _DIM), Segment(value)]
        used += needed
    return lines
