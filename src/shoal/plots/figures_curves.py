"""Learning curves, the winner's ancestry, and schedules, by matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .choose import FEW, ancestry_axis, axis_of, front, owner_colours
from .figures import LOOK, canvas, end_labels, headline, in_style, log_scale, name_x, named_ticks, shown
from .info import Ancestry, LearningCurves, Line, ParameterSchedule, Schedules
from .style import clipped
from .thin import pieces, thin_all
from .words import ancestry_heading, count, label_of, learning_heading, schedules_heading, short, value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ancestry_figure", "draw_lines", "learning_figure", "schedules_figure"]

_POINTS = 700
"""Of one line: about two for each pixel column of a saved picture."""


def draw_lines(axes: Axes, lines: Iterable[Line], colour: str, width: float, **more: float) -> None:
    """Draw many lines at once, those parts that are far outside of the y axis excepted."""
    from matplotlib.collections import LineCollection

    low, high = axes.get_ylim()
    fixed = not axes.get_autoscaley_on()
    paths: Any = [
        list(zip(line.x, clipped(line.y, low, high) if fixed else line.y, strict=True))
        for line in lines
        if len(line) > 1
    ]
    if paths:
        axes.add_collection(LineCollection(paths, colors=colour, linewidths=width, **more), autolim=True)


@in_style
def learning_figure(info: LearningCurves) -> Figure:
    """Return the figure of the learning curves."""
    colours = front(info.curves, info.best, info.mode, LOOK)
    few = len(info.curves) <= FEW
    lines = [thin_all(curve.lines, _POINTS) for curve in info.curves]
    low, high, outside = axis_of(info)
    height = 4.3
    figure, (axes,) = canvas(learning_heading(info, outside), [height])
    axes.set_ylim(low, high)
    pale = [place for place in range(len(info.curves)) if place not in colours]
    for place in pale:
        draw_lines(axes, lines[place], LOOK.pale, 1.2 if few else 0.7, alpha=1.0 if few else 0.6, zorder=2)
        _lonely(axes, lines[place], LOOK.pale, 2)
        if few:
            _diamonds(axes, info.curves[place].copies, LOOK.pale, 14, 3)
    for rank, place in enumerate(reversed(colours)):
        curve, colour, best = info.curves[place], colours[place], place == info.best
        draw_lines(axes, thin_all(curve.lines[:-1], _POINTS), colour, 1.0, alpha=0.5, zorder=3)
        draw_lines(axes, thin_all(curve.lines[-1:], _POINTS), colour, 2.4 if best else 1.5, zorder=4 + rank / 10)
        _lonely(axes, lines[place], colour, 4)
        _diamonds(axes, curve.copies, colour, (30 if best else 20) if few else 9, 5 + rank / 10)
    axes.autoscale_view(scaley=False)
    axes.set_ylabel(shown(short(info.metric)))
    name_x(axes, info.x_label, info.x_axis)
    labels = [
        (
            f"{label_of(curve.member)}  {value_text(last[1])}",
            last[1],
            colours.get(place, LOOK.muted),
            place == info.best,
        )
        for place in (*colours, *(pale if few else ()))
        if (last := (curve := info.curves[place]).last) is not None
    ]
    end_labels(axes, labels, height * 0.9)
    if pale and not few:
        axes.annotate(
            f"pale: {count(len(pale), 'other member')}", (1, 0), xycoords="axes fraction", xytext=(7, 2),
            textcoords="offset points", size=8.5, color=LOOK.muted, annotation_clip=False,
        )  # fmt: skip
    return figure


def _lonely(axes: Axes, lines: Sequence[Line], colour: str, order: float) -> None:
    """Draw pieces of one point, which are no line."""
    points = [(line.x[0], y) for line in lines if len(line) == 1 and (y := line.y[0]) is not None]
    if points:
        axes.scatter([x for x, _ in points], [y for _, y in points], s=10, color=colour, zorder=order, linewidths=0)


def _diamonds(axes: Axes, copies: Sequence[tuple[float, float | None]], colour: str, size: float, order: float) -> None:
    points = [(x, y) for x, y in copies if y is not None]
    if points:
        axes.scatter(
            [x for x, _ in points], [y for _, y in points], marker="D", s=size, facecolor=LOOK.background,
            edgecolor=colour, linewidth=1.1, zorder=order,
        )  # fmt: skip


@in_style
def ancestry_figure(info: Ancestry) -> Figure:
    """Return the figure of the ancestry."""
    colours = owner_colours(info, LOOK)
    low, high, outside = ancestry_axis(info)
    figure, (axes, strip) = canvas(ancestry_heading(info, outside), [3.9, 0.42])
    axes.set_ylim(low, high)
    before = Line((), ())
    for stretch in info.stretches:
        whole = Line((*before.x[-1:], *stretch.line.x), (*before.y[-1:], *stretch.line.y))
        draw_lines(axes, thin_all([whole], _POINTS), colours[stretch.member.index], 2.2, zorder=3)
        _lonely(axes, list(pieces(whole)), colours[stretch.member.index], 3)
        if len(before) and before.y[-1] is not None and len(stretch.line):
            axes.scatter(
                before.x[-1], before.y[-1], s=22, facecolor=LOOK.background, edgecolor=LOOK.ink, linewidth=1.0,
                zorder=4,
            )  # fmt: skip
        before = stretch.line if len(stretch.line) else before
    axes.autoscale_view(scaley=False)
    axes.set_ylabel(shown(short(info.metric)))
    _strip(strip, info, colours)
    name_x(strip, info.x_label, info.x_axis)
    return figure


def _strip(axes: Axes, info: Ancestry, colours: dict[int, str]) -> None:
    """Draw who trained which stretch."""
    drawn = [stretch for stretch in info.stretches if len(stretch.line)]
    first = drawn[0].line.x[0] if drawn else 0.0
    begin = origin = min(0.0, first) if info.x_axis == "training_iteration" else first
    whole = (drawn[-1].line.x[-1] - origin if drawn else 0.0) or 1.0
    for stretch in drawn:
        end = stretch.line.x[-1]
        axes.barh(
            0.5, end - begin, left=begin, height=1.0, color=colours[stretch.member.index], edgecolor=LOOK.background,
            linewidth=0.8,
        )  # fmt: skip
        label, part = label_of(stretch.member), (end - begin) / whole
        text = label if part > 0.011 * len(label) else str(stretch.member.index) if part > 0.022 else ""
        if text:
            axes.text(
                (begin + end) / 2, 0.47, shown(text), size=8, color=LOOK.background, ha="center", va="center",
                weight="bold",
            )  # fmt: skip
        begin = end
    axes.set_ylim(0, 1)
    named_ticks(axes, [0.5], ["trained by"])
    axes.grid(visible=False)


@in_style
def schedules_figure(info: Schedules) -> Figure:
    """Return the figure of the schedules."""
    heights = [_height(each) for each in info.parameters]
    figure, rows = canvas(schedules_heading(info), heights)
    many = len(info.parameters[0].curves) > FEW
    for axes, each in zip(rows, info.parameters, strict=True):
        size = len(each.curves)
        for place, curve in enumerate(each.curves):
            # Members that have the same category lie side by side.
            shift = (place / (size - 1) - 0.5) * 0.6 if each.categories and size > 1 else 0.0
            moved = [
                Line(line.x, tuple([None if y is None else y + shift for y in line.y])) for line in curve.lines
            ] if shift else curve.lines  # fmt: skip
            lines = thin_all(moved, _POINTS)
            # Of very many, where most are is darker than where few are.
            alpha = min(0.5, max(0.06, 30 / size)) if many else 0.9
            draw_lines(axes, lines, LOOK.pale, 0.8 if many else 1.3, alpha=alpha, zorder=2)
        if info.best is not None:
            draw_lines(axes, thin_all([each.winner], 2 * _POINTS), LOOK.winner, 2.3, zorder=4)
        axes.autoscale_view()
        _value_axis(axes, each)
        headline(axes, short(each.name, 80))
    name_x(rows[-1], info.x_label, info.x_axis)
    return figure


def _height(each: ParameterSchedule) -> float:
    return 1.45 if len(each.categories) <= 5 else min(5.0, 0.3 * len(each.categories))


def _value_axis(axes: Axes, each: ParameterSchedule) -> None:
    values = [y for curve in each.curves for line in curve.lines for y in line.y if y is not None]
    if each.categories:
        axes.set_ylim(-0.6, len(each.categories) - 0.4)
        named_ticks(axes, list(range(len(each.categories))), [short(text, 28) for text in each.categories])
    elif each.log and values:
        log_scale(axes, min(values), max(values))
    elif values and min(values) == max(values):
        margin = abs(values[0]) * 0.1 or 0.5
        axes.set_ylim(values[0] - margin, values[0] + margin)
