"""The report card as text: at the end of a run, and on the command line."""

from __future__ import annotations

import contextlib
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, TextIO

from ..arguments import warn_user
from ..card import ReportCard, Verdict
from .text import printable

if TYPE_CHECKING:
    from ..results import ResultGrid

__all__ = ["card_lines", "show_card", "show_card_of"]

_MARKS = {Verdict.GOOD: "+", Verdict.WARN: "!", Verdict.BAD: "x", Verdict.INFO: "-"}
_COLOURS = {Verdict.GOOD: "32", Verdict.WARN: "33", Verdict.BAD: "31", Verdict.INFO: "36"}
_WIDEST = 120
_TITLE = "PBT report card"


def card_lines(card: ReportCard, width: int = _WIDEST, *, colour: bool = False, evidence: bool = True) -> list[str]:
    """Return the lines of a report card.

    Args:
        card: which.
        width: columns of the text.
        colour: whether marks are coloured, by escape codes.
        evidence: whether each statement is followed by the numbers that it comes from.
    """
    if not card.statements:
        return []
    lines = [f"{_TITLE} (+ fine, ! can be better, x bad, - for information)"]
    for statement in card:
        mark = _MARKS[statement.verdict]
        first, *rest = textwrap.wrap(printable(statement.text), max(20, width - 4)) or [""]
        shown = f"\x1b[1;{_COLOURS[statement.verdict]}m{mark}\x1b[0m" if colour else mark
        lines += [f"  {shown} {first}", *(f"    {line}" for line in rest)]
        if evidence:
            because = textwrap.wrap(f"From: {printable(statement.because)}", max(20, width - 6))
            lines += [f"      \x1b[2m{line}\x1b[0m" if colour else f"      {line}" for line in because]
    return lines


def show_card_of(grid: ResultGrid) -> None:
    """Print the report card of a run that has ended. Where none can be made, the run has ended all the same."""
    try:
        show_card(grid.report_card())
    except Exception as error:
        warn_user(
            f"The report card cannot be made: {type(error).__name__}: {error}. The results are not touched by that."
        )


def show_card(card: ReportCard, stream: TextIO | None = None) -> None:
    """Print a report card. A stream that is closed or gone is no reason to fail."""
    stream = sys.stdout if stream is None else stream
    if stream is None or not card.statements:
        return
    from . import is_terminal

    terminal = is_terminal(stream)
    width = min(_WIDEST, shutil.get_terminal_size().columns - 1) if terminal else _WIDEST
    with contextlib.suppress(OSError, ValueError):
        text = "\n".join(["", *card_lines(card, width, colour=terminal)])
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(f"{text.encode(encoding, 'backslashreplace').decode(encoding)}\n")
        stream.flush()
