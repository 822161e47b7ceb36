"""Numbers, durations and tables as text: aligned, and no wider than the terminal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Column",
    "Grid",
    "crop",
    "format_config",
    "format_duration",
    "format_value",
    "lay_out",
    "one_line",
    "printable",
    "unturned",
    "width_of",
]

_LONGEST_VALUE = 20
# A number as format_value writes it; the group is what stands behind the place of its decimal point.
_NUMBER = re.compile(r"-?\d+((?:\.\d+)?(?:e-?\d+)?)")
# These change the order in which the characters behind them are shown, also those of the text that follows.
_TURNING = "\u202a-\u202e\u2066-\u2069"
# Escape sequences, and every other control character but the tab.
_CONTROL = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?|[\x00-\x08\x0a-\x1f\x7f-\x9f" + f"{_TURNING}]"
)
_TURN = re.compile(f"[{_TURNING}]")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def format_value(value: Any) -> str:
    """Return a metric or a hyperparameter as a few characters: five significant digits, long text shortened."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int) and abs(value) < 10**9:
        return str(value)
    if not isinstance(value, str):
        try:
            return _format_float(float(value))
        except (TypeError, ValueError, OverflowError, RuntimeError):
            value = getattr(value, "__name__", None) or str(value)
    return crop(one_line(value), _LONGEST_VALUE, "...")


def _format_float(value: float) -> str:
    text = f"{value:.5g}"
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        return f"{mantissa}e{int(exponent)}"
    return text


def format_config(config: Mapping[str, Any], names: Iterable[str] | None = None) -> str:
    """Return ``lr=0.1, momentum=0.9``; nested keys are written ``model/lr``.

    Args:
        config: a trial's config.
        names: the keys to show; all by default.
    """
    # Imported here so that formatting needs no more than the standard library.
    from ..core.reports import flatten, lookup

    pairs = flatten(config) if names is None else ((name, lookup(config, name)) for name in names)
    return ", ".join(f"{name}={format_value(value)}" for name, value in pairs)


def format_duration(seconds: float) -> str:
    """Return ``1:02:03``, or ``2 d 1:02:03`` from a day on, to the nearest second."""
    whole = max(0, int(seconds + 0.5))
    days, rest = divmod(whole, 86400)
    text = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} d {text}" if days else text


def unturned(text: str) -> str:
    """Return text without the characters that change the order in which others are shown."""
    return text if text.isascii() else _TURN.sub("", text)


def one_line(text: str) -> str:
    """Return text without line breaks, escape sequences and other control characters."""
    return _CONTROL.sub("", " ".join(text.split())) if not text.isprintable() else text


def printable(text: str, *, colours: bool = False) -> str:
    """Return a line of somebody else's output as it can be shown among other lines.

    Args:
        text: the line. Of a progress bar that overwrites itself with carriage returns, the newest state counts.
        colours: whether escape sequences that set colours stay; all others always go.
    """
    if text.isprintable():
        return text
    text = text.rstrip("\r").rpartition("\r")[2]
    if not colours:
        return _CONTROL.sub("", text)
    kept = _CONTROL.sub(lambda found: found[0] if _COLOUR.fullmatch(found[0]) else "", text)
    return f"{kept}\x1b[0m" if "\x1b" in kept else kept


def width_of(text: str) -> int:
    """Return how many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(_width(character) for character in text)


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def crop(text: str, width: int, ellipsis: str) -> str:
    """Return the text, cut and marked with ``ellipsis`` where it is wider than ``width`` columns."""
    if width_of(text) <= width:
        return text
    room = width - width_of(ellipsis)
    if room <= 0:
        return text[: max(0, width)] if text.isascii() else ""
    taken = 0
    for place, character in enumerate(text):
        taken += _width(character)
        if taken > room:
            return text[:place] + ellipsis
    return text


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    cells: Sequence[str]
    right: bool = False
    """Whether it stands flush right; numbers do, with their decimal points in one line."""
    short: Sequence[str] | None = None
    """Shorter cells, for a terminal that is too narrow."""
    expendable: int = 0
    """Columns are left out of a table that is too wide by this number, the highest first; 0 stays."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table laid out: every cell padded to its column's width."""

    titles: list[str]
    rows: list[list[str]]
    places: list[int]
    """For each column shown, its place among those given."""
    left_out: list[str]
    """Titles of the columns that did not fit."""


def lay_out(columns: Sequence[Column], width: int | None, gap: int = 2) -> Grid:
    """Return the table, no wider than ``width`` where leaving out columns can achieve that; None: any width."""
    cells = [_aligned(column.title, column.cells, column.right) for column in columns]
    shown = list(range(len(columns)))
    left_out: list[int] = []

    def total() -> int:
        return sum(width_of(cells[place][0]) for place in shown) + gap * (len(shown) - 1)

    if width is not None and total() > width:
        for place, column in enumerate(columns):
            if column.short is not None:
                cells[place] = _aligned(column.title, column.short, column.right)
        for place in sorted(shown, key=lambda place: (-columns[place].expendable, -place)):
            if total() <= width or not columns[place].expendable:
                break
            shown.remove(place)
            left_out.append(place)
    count = len(cells[0]) - 1 if cells else 0
    return Grid(
        titles=[cells[place][0] for place in shown],
        rows=[[cells[place][row + 1] for place in shown] for row in range(count)],
        places=shown,
        left_out=[columns[place].title for place in sorted(left_out)],
    )


def _aligned(title: str, cells: Sequence[str], right: bool) -> list[str]:
    """Return the title and the cells, padded to one width."""
    if right:
        cells = _points_in_line(cells)
    width = max(map(width_of, (title, *cells)))
    padded: list[str] = []
    for cell in (title, *cells):
        pad = " " * (width - width_of(cell))
        padded.append(pad + cell if right else cell + pad)
    return padded


def _points_in_line(cells: Sequence[str]) -> Sequence[str]:
    """Return numbers with blanks behind them, so that their decimal points stand in one line."""
    found = [_NUMBER.fullmatch(cell) for cell in cells]
    longest = max((len(number[1]) for number in found if number), default=0)
    return [
        cell + " " * (longest - len(number[1])) if number else cell for cell, number in zip(cells, found, strict=True)
    ]
