"""What all matplotlib figures have in common: they belong to no window and no pyplot, and follow no style but this."""

from __future__ import annotations

import functools
import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .choose import log_ticks
from .style import LIGHT, place_labels
from .words import Heading, for_matplotlib, value_text, wrapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LOOK", "canvas", "end_labels", "headline", "legend", "log_scale", "named_ticks", "shown", "styled"]

LOOK = LIGHT
WIDTH = 9.5
"""Of all figures, in inches."""
_NOTE_WIDTH = 130
_WIDE_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans", "WenQuanYi Zen Hei", "Microsoft YaHei", "PingFang SC",
    "Hiragino Sans", "Arial Unicode MS", "Noto Sans Symbols2", "Noto Sans Symbols", "Segoe UI Symbol", "Symbola",
)  # fmt: skip


@lru_cache(maxsize=1)
def _families() -> list[str]:
    """Return the fonts that are asked for a character, one after another: the one matplotlib brings, then others."""
    from matplotlib import font_manager

    there = {entry.name for entry in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _WIDE_FONTS if name in there)]


@lru_cache(maxsize=1)
def _drawable() -> frozenset[int]:
    """Return the characters that have a glyph in one of these fonts."""
    from matplotlib import font_manager

    found: set[int] = set()
    for name in _families():
        font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties(family=[name])))
        found.update(font.get_charmap())
    return frozenset(found)


def shown(text: str) -> str:
    """Return a text that users named as matplotlib can draw it: no formulas, and a box where no font has a glyph."""
    text = for_matplotlib(text)
    if text.isascii():
        return text
    return "".join(each if ord(each) in _drawable() else "\u25a1" for each in text)


@contextmanager
def styled() -> Generator[None, None, None]:
    """Draw in this style, whatever the user's settings are, which stay as they were."""
    import matplotlib

    settings: dict[Any, Any] = {
        "text.usetex": False,
        "font.family": _families(),
        "font.size": 9.5,
        "text.color": LOOK.ink,
        "axes.labelcolor": LOOK.muted,
        "axes.edgecolor": LOOK.pale,
        "axes.facecolor": LOOK.background,
        "axes.linewidth": 0.8,
        "axes.unicode_minus": True,
        "axes.xmargin": 0.015,
        "axes.ymargin": 0.05,
        "axes.formatter.useoffset": False,
        "axes.formatter.use_mathtext": False,
        "axes.formatter.limits": (-4, 7),
        "axes.autolimit_mode": "data",
        "lines.solid_capstyle": "butt",
        "lines.solid_joinstyle": "round",
        "lines.dash_capstyle": "butt",
        "path.simplify": True,
        "path.sketch": None,
        "xtick.color": LOOK.muted,
        "ytick.color": LOOK.muted,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "xtick.direction": "out",
        "ytick.direction": "out",
        "xtick.major.size": 3,
        "ytick.major.size": 0,
        "xtick.minor.visible": False,
        "ytick.minor.visible": False,
    }
    with matplotlib.rc_context(settings):
        yield


def canvas(heading: Heading, heights: Sequence[float], *, share: bool = True) -> tuple[Figure, list[Axes]]:
    """Return a figure with its heading, and axes one above the other.

    Args:
        heading: title and note.
        heights: of the axes, in inches.
        share: whether they have one x axis.
    """
    from matplotlib.figure import Figure

    lines = wrapped(heading.note, _NOTE_WIDTH)
    head = 0.48 + 0.19 * len(lines)
    whole = head + sum(heights) + 0.55
    figure = Figure(figsize=(WIDTH, whole), dpi=100, facecolor=LOOK.background, layout="constrained")
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0.008, 0.008 * WIDTH / whole, 0.984, 1 - (head + 0.008 * WIDTH) / whole), hspace=0.04, h_pad=0.05)
    title = figure.text(
        0.014, 1 - 0.16 / whole, shown(heading.title), size=12.5, weight="bold", ha="left", va="top", color=LOOK.ink
    )
    title.set_in_layout(False)
    for place, line in enumerate(lines):
        note = figure.text(
            0.014, 1 - (0.43 + 0.19 * place) / whole, shown(line), size=9, ha="left", va="top", color=LOOK.muted
        )
        note.set_in_layout(False)
    grid: Any = figure.subplots(
        len(heights), 1, sharex=share, squeeze=False, gridspec_kw={"height_ratios": list(heights)}
    )
    axes: list[Axes] = [row[0] for row in grid]
    for each in axes:
        each.grid(color=LOOK.grid, linewidth=0.8)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
    if share:
        for each in axes[:-1]:
            each.tick_params(bottom=False)
    return figure, axes


def headline(axes: Axes, text: str) -> None:
    """Write what one of several axes shows above it."""
    axes.set_title(shown(text), loc="left", size=9.5, weight="bold", color=LOOK.ink, pad=5)


def name_x(axes: Axes, label: str, key: str) -> None:
    """Label the x axis, when it has its range; training iterations have no fractions.

    Args:
        axes: the lowest.
        label: what is written.
        key: what it is, as plots are asked for it.
    """
    from matplotlib.ticker import FixedLocator, MaxNLocator

    axes.set_xlabel(shown(label))
    if key != "training_iteration":
        return
    low, high = axes.get_xlim()
    few = range(math.ceil(low), math.floor(high) + 1) if high - low < 4 else range(0)
    axes.xaxis.set_major_locator(
        FixedLocator(list(few)) if few else MaxNLocator(integer=True, nbins=9, steps=[1, 2, 5, 10])
    )


def log_scale(axes: Axes, low: float, high: float) -> None:
    """Make the y axis logarithmic, with plain numbers at its ticks."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    margin = 10.0 ** max(0.05 * (math.log10(high) - math.log10(low)), 0.03)
    axes.set_yscale("log")
    axes.set_ylim(low / margin, high * margin)
    ticks = log_ticks(low / margin, high * margin)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FixedFormatter([value_text(tick) for tick in ticks]))
    axes.yaxis.set_minor_locator(NullLocator())


def named_ticks(axes: Axes, places: Sequence[float], names: Sequence[str]) -> None:
    """Write names at places of the y axis."""
    axes.set_yticks(list(places), labels=[shown(name) for name in names])


def end_labels(axes: Axes, labels: Sequence[tuple[str, float, str, bool]], inches: float, *, size: float = 9.0) -> None:
    """Write labels at the right of the axes so that they do not overlap.

    Args:
        axes: with their final y limits.
        labels: text, where it should be on the y axis, colour, and whether it is bold.
        inches: how high the axes are.
        size: of the font, in points.
    """
    low, high = sorted(map(float, axes.get_ylim()))
    gap = (high - low) * size * 1.35 / 72 / inches
    wanted = [min(high, max(low, y)) for _, y, _, _ in labels]
    for (text, _, colour, bold), y in zip(labels, place_labels(wanted, gap, low, high), strict=True):
        axes.annotate(
            shown(text), (1, y), xycoords=("axes fraction", "data"), xytext=(7, 0), textcoords="offset points",
            ha="left", va="center", size=size, color=colour, weight="bold" if bold else "normal",
            annotation_clip=False,
        )  # fmt: skip


def legend(axes: Axes, entries: Sequence[tuple[str, Any]]) -> None:
    """Write a legend in one line above the axes; entries are fixed texts with what they explain."""
    axes.legend(
        [handle for _, handle in entries], [text for text, _ in entries], loc="lower left", bbox_to_anchor=(-0.01, 1.0),
        ncols=len(entries), frameon=False, borderaxespad=0.3, handlelength=1.2, columnspacing=1.6,
        labelcolor=LOOK.muted, fontsize=9,
    )  # fmt: skip


def _plain_numbers(axes: Axes) -> None:
    """Write very large and very small numbers at their ticks, without a power of ten beside the axis."""
    from matplotlib.ticker import FuncFormatter, ScalarFormatter

    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        largest = max(abs(low), abs(high))
        if type(axis.get_major_formatter()) is ScalarFormatter and not 1e-3 <= largest < 1e6:
            axis.set_major_formatter(FuncFormatter(lambda value, _: value_text(float(value))))


def in_style(draw: Callable[[Any], Figure]) -> Callable[[Any], Figure]:
    """Let a function draw in this style."""

    @functools.wraps(draw)
    def drawn(info: Any) -> Figure:
        with styled():
            figure = draw(info)
            for axes in figure.axes:  # ticks are made when they are asked for, and then take the user's style
                _plain_numbers(axes)
                axes.get_xticklabels()
                axes.get_yticklabels()
            return figure

    return drawn
