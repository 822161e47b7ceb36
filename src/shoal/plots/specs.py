"""What interactive figures are made of: plain dicts and lists as Plotly reads them, without its Python package.

Each ``*_spec`` of the ``specs_*`` modules takes the plain data of a plot, the name of a theme, and how many points a
line may have at most. Numbers have six digits. ``customdata`` begins with the member's number, and
``layout["meta"]`` has title and note as plain text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .choose import log_ticks
from .info import Line
from .style import Theme
from .words import Heading, for_plotly, value_text, wrapped

__all__ = [
    "Spec",
    "annotation",
    "axis",
    "gapped",
    "hover",
    "layout_of",
    "log_axis",
    "num",
    "nums",
    "rows_of",
    "x_axis_of",
]

Spec = dict[str, Any]
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
CLEAR = "rgba(0,0,0,0)"
_NOTE_WIDTH = 132
_TOP = 74


def num(value: float | None) -> float | int | None:
    """Return a number as it is written: whole ones without a point, others with six digits; None for what is none."""
    if value is None or not math.isfinite(value):
        return None
    whole = int(value)
    if whole == value:
        return whole
    return float(f"{value:.6g}")


def nums(values: Iterable[float | None]) -> list[float | int | None]:
    """Return numbers as they are written."""
    return [num(value) for value in values]


def gapped(lines: Sequence[Line]) -> tuple[list[Any], list[Any]]:
    """Return the points of several lines as those of one that has gaps."""
    xs: list[Any] = []
    ys: list[Any] = []
    for place, line in enumerate(lines):
        if place:
            xs.append(None)
            ys.append(None)
        xs += nums(line.x)
        ys += nums(line.y)
    return xs, ys


def hover(*lines: str) -> str:
    """Return a template of a hover text, without the box beside it that names the trace."""
    return "<br>".join(line for line in lines if line) + "<extra></extra>"


def layout_of(theme: Theme, heading: Heading, *, height: int, right: int = 24, top: int = 0) -> Spec:
    """Return the layout that all figures have.

    Args:
        theme: its colours.
        heading: title and note.
        height: of the figure, in pixels, with one line of note.
        right: room at the right for labels, in pixels.
        top: more room below the heading, in pixels.
    """
    lines = wrapped(heading.note, _NOTE_WIDTH)
    note = "".join(f'<br><span style="font-size:12px;color:{theme.muted}">{for_plotly(line)}</span>' for line in lines)
    more = 16 * max(0, len(lines) - 1) + top
    return {
        "title": {
            "text": f"<b>{for_plotly(heading.title)}</b>{note}",
            "font": {"size": 16, "color": theme.ink},
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 12, "t": 22},
        },
        "meta": {"title": heading.title, "note": heading.note},
        "height": height + more,
        "autosize": True,
        "margin": {"l": 56, "r": right, "t": _TOP + more, "b": 48},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"family": FONT, "size": 12.5, "color": theme.ink},
        "hovermode": "closest",
        "hoverlabel": {
            "align": "left",
            "bgcolor": theme.background,
            "bordercolor": theme.pale,
            "font": {"family": FONT, "size": 12.5, "color": theme.ink},
        },
        "showlegend": False,
        "uirevision": "shoal",
        "modebar": {"bgcolor": CLEAR, "color": theme.pale, "activecolor": theme.ink},
    }


def axis(theme: Theme, title: str = "", **more: Any) -> Spec:
    """Return an axis; its title is plain text."""
    return {
        "title": {"text": for_plotly(title), "standoff": 10, "font": {"color": theme.muted, "size": 12.5}},
        "gridcolor": theme.grid,
        "linecolor": theme.pale,
        "tickfont": {"color": theme.muted},
        "zeroline": False,
        "automargin": True,
        "exponentformat": "power",
        "separatethousands": False,
        **more,
    }


def x_axis_of(info: Any, theme: Theme, low: float, high: float, **more: Any) -> Spec:
    """Return the x axis of a plot from a low to a high value; training iterations have no fractions."""
    whole = {"tick0": 0, "dtick": 1} if info.x_axis == "training_iteration" and high - low < 4 else {}
    return axis(theme, info.x_label, range=[num(low), num(high)], **whole, **more)


def log_axis(theme: Theme, low: float, high: float, title: str = "", **more: Any) -> Spec:
    """Return a logarithmic axis from a low to a high value, with plain numbers at its ticks."""
    margin = max(0.04 * math.log10(high / low), 0.03) if low > 0 else 0.0
    low, high = low / 10**margin, high * 10**margin
    ticks = log_ticks(low, high)
    return axis(
        theme,
        title,
        type="log",
        range=[num(math.log10(low)), num(math.log10(high))],
        tickvals=nums(ticks),
        ticktext=[value_text(tick) for tick in ticks],
        **more,
    )


def annotation(text: str, x: float, y: float, **more: Any) -> Spec:
    """Return a text at a place; it is written as it is, so that what users named has to be escaped before."""
    return {"text": text, "x": x, "y": y, "showarrow": False, **more}


def rows_of(heights: Sequence[float], gap: float) -> list[tuple[float, float]]:
    """Return the domains of axes that stand one above the other, the first at the top.

    Args:
        heights: how they share the height.
        gap: between two, as a part of the whole.
    """
    room = 1.0 - gap * (len(heights) - 1)
    total = sum(heights)
    found: list[tuple[float, float]] = []
    top = 1.0
    for height in heights:
        bottom = top - room * height / total
        found.append((max(0.0, round(bottom, 6)), round(top, 6)))
        top = bottom - gap
    return found


def line_trace(x: list[Any], y: list[Any], colour: str, width: float, **more: Any) -> Spec:
    """Return lines through points, broken where a point is None."""
    line: Mapping[str, Any] = {"color": colour, "width": width, **more.pop("line", {})}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": dict(line), "connectgaps": False, **more}
