"""The live status: what a run looks like while it goes on."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Protocol, TextIO

from ..errors import ConfigError
from ..experiment import Reader

if TYPE_CHECKING:
    from .base import StatusBase

__all__ = ["Status", "is_terminal", "make_status"]


class Status(Reader, Protocol):
    """A reader that shows the experiment while it runs."""

    def opening(self, text: str) -> None:
        """Show a line at once, before the experiment begins and while there is nothing else to see."""
        ...

    def tick(self, now: float) -> None:
        """Draw if it is worth it. Called about ten times a second with the time in seconds since the epoch."""
        ...

    def output(self, name: str, text: str) -> None:
        """Show a line that a member printed, with its name in front."""
        ...

    def note(self, text: str) -> None:
        """Show a warning or another remark of Shoal's."""
        ...


def make_status(verbose: int = 1, stream: TextIO | None = None, *, inline: bool = False) -> StatusBase:
    """Return the status that suits the place where the run was started.

    A terminal gets a live view, a notebook one in HTML; a pipe, a file, a CI job (env ``CI``) and ``TERM=dumb`` get a
    few plain lines.

    Args:
        verbose: how much to show. 0: errors and notes only, and nothing that members print. 1: the status and what
            members print; in plain lines also the first exploits. 2: a line for every exploit. 3: a line for every
            result, too.
        stream: where to show it; ``sys.stdout`` by default.
        inline: whether members run in this process. Then a live view would fight with their output and with a
            debugger's prompt, so that plain lines are used.

    Raises:
        ConfigError: ``verbose`` is not 0, 1, 2 or 3.
    """
    if isinstance(verbose, bool) or verbose not in (0, 1, 2, 3):
        raise ConfigError(f"verbose must be 0, 1, 2 or 3, but is {verbose!r}.")
    stream = stream or sys.stdout
    if stream is None:
        # Started without any output, as by a service manager.
        stream, verbose = io.StringIO(), 0
    from .capture import CaughtStream

    # Two views in one terminal would overwrite each other: a second experiment in this process gets plain lines.
    if not inline and is_terminal(stream) and not isinstance(stream, CaughtStream):
        from .terminal import TerminalStatus

        return TerminalStatus(verbose, stream)
    if "IPython" in sys.modules:
        from .notebook import NotebookStatus, in_notebook

        if in_notebook(stream):
            return NotebookStatus(verbose, stream)
    from .plain import PlainStatus

    return PlainStatus(verbose, stream)


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that understands escape codes."""
    if os.environ.get("CI") or os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        return False
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        # A replaced or closed stream.
        return False
