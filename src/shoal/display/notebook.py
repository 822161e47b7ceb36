"""The status in a notebook: a view that is drawn anew in its place, and lines of ordinary output below it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from ..core.commands import Exploit
from ..core.events import Reported
from ..errors import one_line
from ..experiment import ExperimentInfo
from ..history import History
from ..journal.codec import Record
from .base import RESULTS, SILENT, Memory, StatusBase
from .html import Html, element, fragment, pairs, table
from .plain import PlainStatus
from .table import Overview, Pace, Progress, count_text, end_line, overview, stopped_because
from .text import format_duration, lay_out

__all__ = ["NotebookStatus", "Update", "in_notebook", "open_display"]

_DRAW_EVERY_S = 1.0
_SHARE = 0.005
"""Drawing may take this part of the time at most: the slower a view is to draw, the rarer it is drawn."""
_ROWS = 20

Update = Callable[[Mapping[str, str]], object]
"""Puts an output, by MIME type, in the place of the one that is shown."""


def in_notebook(stream: TextIO) -> bool:
    """Return whether this process is the kernel of a notebook, and ``stream`` is what its cells print to.

    That is so in Jupyter, VS Code and Colab. Spyder's console has such a kernel, too, but shows no HTML.
    """
    ipython = sys.modules.get("IPython")
    if ipython is None or not type(stream).__module__.startswith("ipykernel"):
        return False
    try:
        kinds = [kind.__name__ for kind in type(ipython.get_ipython()).__mro__]
    except Exception:
        return False  # half imported, or something else of that name
    return "ZMQInteractiveShell" in kinds and "SpyderShell" not in kinds


def open_display(data: Mapping[str, str]) -> Update:
    """Show an output below the cell, and return what replaces it."""
    from IPython import display

    show: Any = display.display
    handle = show(dict(data), raw=True, display_id=True)

    def update(data: Mapping[str, str]) -> None:
        handle.update(dict(data), raw=True)

    return update


class NotebookStatus(PlainStatus):
    """Draws a view at most once a second, and only if something changed; lines are printed below it.

    Where the view cannot be shown, it ends, and the run goes on with plain lines.

    Args:
        verbose: 0 to 3; see :func:`shoal.display.make_status`. With 0 there is no view.
        stream: where lines are printed.
        show: shows an output and returns what replaces it.
    """

    def __init__(
        self, verbose: int, stream: TextIO, show: Callable[[Mapping[str, str]], Update] = open_display
    ) -> None:
        super().__init__(verbose, stream)
        self._show = show
        self._update: Update | None = None
        self._viewing = verbose > SILENT
        self._pace_of_view: Pace | None = None
        self._memory_of_view = Memory()
        self._new = True
        self._drawn = self._next = float("-inf")
        self._ended = False

    def opening(self, text: str) -> None:
        """Show a line in the view's place, before the experiment begins."""
        if self._viewing:
            self._put(fragment(element("div", text, class_="shoal-dim")), text)
        if not self._viewing:
            super().opening(text)

    def start(self, info: ExperimentInfo, folder: Path, history: History) -> None:
        """Draw the view for the first time."""
        if not self._viewing:
            super().start(info, folder, history)
            return
        self.info, self.folder, self.history = info, info.place or folder, history
        self.now = self.began = time.time()
        self._draw()
        if not self._viewing:
            super().start(info, folder, history)
        self.flush()

    def take(self, record: Record) -> None:
        """Remember that something happened."""
        self._new = True
        if self._viewing and self.verbose < RESULTS and isinstance(record.item, Reported):
            self._changed = True  # there are many of these, and none has a line of its own
            self.now = max(self.now, record.at)
            return
        super().take(record)

    def exploited(self, exploit: Exploit) -> None:
        """Print an exploit from ``verbose=2`` on; the view counts them."""
        if self._viewing:
            StatusBase.exploited(self, exploit)
        else:
            super().exploited(exploit)

    def tick(self, now: float) -> None:
        """Draw if something changed, but not too often; where there is no view, print as in a pipe."""
        if not self._viewing:
            super().tick(now)
            return
        self.say_repeats(now)
        self.flush()
        if now < self._drawn:
            self._drawn = self._next = float("-inf")  # the clock was set back
        if self.info is None or not self._new or now < self._next:
            return
        self.now = now
        before = time.thread_time()
        self._draw()
        self._drawn = now
        self._next = now + max(_DRAW_EVERY_S, (time.thread_time() - before) / _SHARE)

    def close(self) -> None:
        """Draw how it ended, which stays."""
        if not self._viewing or self.info is None:
            super().close()
            return
        self.say_repeats()
        if not self._ended:
            self._ended = True
            self._draw()
        if not self._viewing:
            super().close()  # the table as text
        self.flush()

    # ------------------------------------------------------------------------------------------------------------ view

    def _draw(self) -> None:
        """Put the view as it is now in the place of the one that is shown."""
        self._new = False
        try:
            made, text = self._final() if self._ended else self._running()
        except Exception as error:
            self._give_up(error)
            return
        self._put(made, text)

    def _put(self, made: Html, text: str) -> None:
        """Show HTML, and the same as text for whatever shows none."""
        data = {"text/html": str(made), "text/plain": text}
        try:
            if self._update is None:
                self._update = self._show(data)
            else:
                self._update(data)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """End the view; lines go on."""
        self._viewing, self._update = False, None
        self.note(f"The view in this notebook could not be shown ({one_line(error)}), so its lines are printed.")

    def _running(self) -> tuple[Html, str]:
        assert self.info is not None
        self._pace_of_view = self._pace_of_view or Pace(self.info)
        ran = self.now - self.began
        memory = self._memory_of_view.text(self.now)
        view = overview(self.info, self.history, folder=self.folder, running_for=ran, memory=memory, rows=_ROWS)
        clock = time.strftime("%H:%M:%S", time.localtime(self.now))
        title = element("span", view.title)
        reached = self._pace_of_view.at(self.now, self.history)
        facts = [
            element("span", element("span", name, class_="shoal-name"), " ", value, style="white-space:nowrap")
            for name, value in view.facts
        ]
        made = fragment(
            element("div", title, element("span", clock, class_="shoal-clock"), class_="shoal-title"),
            element("div", *facts, class_="shoal-facts"),
            *([] if reached is None else [_bar(reached)]),
            *_table(view),
            *_best(view, whole=False),
            *_failures(view),
        )
        return made, f"{view.title}, {', '.join(f'{name} {value}' for name, value in view.facts)}"

    def _final(self) -> tuple[Html, str]:
        assert self.info is not None
        ran = self.now - self.began
        view = overview(self.info, self.history, folder=self.folder, running_for=ran, rows=_ROWS)
        title = f"{self.info.name} ended after {format_duration(ran)}"
        end = end_line(self.history, self.info)
        stopped = stopped_because(self.history)
        made = fragment(
            element("div", title, class_="shoal-title"),
            element("div", end),
            *([element("div", f"stopped: {stopped}")] if stopped else []),
            *_table(view),
            *_best(view, whole=True),
            *_failures(view),
            pairs([("results", element("code", self.folder))], class_="shoal-wrap"),
        )
        grid = lay_out(view.columns, None)
        rows = ["  ".join(cells).rstrip() for cells in (grid.titles, *grid.rows)] if view.statuses else []
        lines = [f"{title}: {end}", *rows, *([f"best: {view.best}"] if view.best else []), f"results: {self.folder}"]
        return made, "\n".join(lines)


def _bar(reached: Progress) -> Html:
    """Return how far the run has come, as a bar and in words."""
    text = f"{reached.done:.0%}"
    if reached.to_go is not None:
        text += f", {format_duration(reached.to_go)} to go"
    full = element("div", style=f"width:{100 * reached.done:.1f}%")
    return element("div", element("div", full), element("span", text), class_="shoal-bar")


def _table(view: Overview) -> list[Html]:
    if not view.statuses:
        return []
    rest = f"… and {view.rest}" if view.rest else ""
    return [table(view.columns, best=view.best_row, statuses=view.statuses, caption=rest)]


def _best(view: Overview, *, whole: bool) -> list[Html]:
    found: list[tuple[str, object]] = [("best", view.best)] if view.best else []
    if view.config and whole:
        found.append(("config", view.config))
    return [pairs(found, class_="shoal-wrap")] if found else []


def _failures(view: Overview) -> list[Html]:
    made = [
        element("div", text, element("br"), element("code", path, class_="shoal-dim"), class_="shoal-failure")
        for _, text, path in view.failures
    ]
    more = [element("div", f"… and {count_text(view.more_failures, 'more failure')}")] if view.more_failures else []
    return made + more
