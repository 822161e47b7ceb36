"""Interactive figures of learning curves, of the winner's ancestry, and of the schedules."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from .choose import FEW, ancestry_axis, axis_of, ends, front, owner_colours
from .info import Ancestry, Curve, LearningCurves, Line, ParameterSchedule, Schedules, Stretch
from .specs import Spec, annotation, axis, gapped, hover, layout_of, line_trace, log_axis, num, nums, rows_of, x_axis_of
from .style import Theme, place_labels, theme_of
from .thin import check_points, thin_all
from .words import (
    ancestry_heading,
    count,
    for_plotly,
    label_of,
    learning_heading,
    name_of,
    schedules_heading,
    short,
    value_text,
)

__all__ = ["ancestry_spec", "learning_spec", "schedules_spec"]

_LABEL_GAP = 17.0
"""Pixels between two labels at the ends of lines."""


def learning_spec(info: LearningCurves, theme: str = "light", points: int | None = None) -> Spec:
    """Return the figure of the learning curves."""
    look = theme_of(theme)
    check_points(points)
    colours = front(info.curves, info.best, info.mode, look)
    few = len(info.curves) <= FEW
    lines = [thin_all(curve.lines, points) for curve in info.curves]
    low, high, outside = axis_of(info)
    metric = for_plotly(short(info.metric))
    told = [f"{for_plotly(info.x_label)} %{{x}}", f"{metric} %{{y}}"]
    pale = [place for place in range(len(info.curves)) if place not in colours]
    traces: list[Spec] = []
    if few:
        traces += [_member_line(info.curves[place], lines[place], look.pale, 1.4, told) for place in pale]
    elif pale:
        traces.append(_pale_lines([info.curves[place] for place in pale], [lines[place] for place in pale], look, told))
    for place in reversed(colours):
        curve, colour, width = info.curves[place], colours[place], 2.8 if place == info.best else 1.7
        # What it gave up when it copied another is fainter than what it trains now.
        now = thin_all(curve.lines[-1:], points)
        if len(curve.lines) > 1:
            traces.append(_member_line(curve, thin_all(curve.lines[:-1], points), colour, 1.2, told, opacity=0.5))
        traces.append(_member_line(curve, now, colour, width, told))
    for place in (*(pale if few else ()), *reversed(colours)):
        curve = info.curves[place]
        if curve.copies:
            size = (8.0 if place == info.best else 6.5) if few else 5.0
            traces.append(_diamonds(curve, colours.get(place, look.pale), look, size, told))
    shown = [place for place in (*colours, *(pale if few else ())) if info.curves[place].last is not None]
    texts = [_end_text(info.curves[place]) for place in shown]
    room = 28 + round(7.6 * max(map(len, texts), default=10))
    layout = layout_of(look, learning_heading(info, outside), height=460, right=room)
    span = ends([line for curve in lines for line in curve]) or (0.0, 1.0)
    layout["xaxis"] = x_axis_of(info, look, *_padded(*span))
    layout["yaxis"] = axis(look, short(info.metric), range=[num(low), num(high)])
    layout["annotations"] = _end_labels([info.curves[place] for place in shown], shown, colours, low, high, look)
    if pale and not few:
        text = f"pale: {count(len(pale), 'other member')}"
        layout["annotations"].append(
            annotation(
                text, 1, 0, xref="paper", yref="paper", xanchor="left", yanchor="bottom", xshift=8,
                font={"size": 11, "color": look.muted},
            )
        )  # fmt: skip
    return {"data": traces, "layout": layout}


def _end_labels(
    curves: Sequence[Curve], places: Sequence[int], colours: dict[int, str], low: float, high: float, look: Theme
) -> list[Spec]:
    """Return the labels at the ends of lines, which do not overlap."""
    ys = [curve.last[1] for curve in curves if curve.last is not None]
    gap = (high - low) * _LABEL_GAP / 340
    inside = [min(high, max(low, y)) for y in ys]
    found: list[Spec] = []
    for curve, place, at in zip(curves, places, place_labels(inside, gap, low, high), strict=True):
        text = for_plotly(_end_text(curve))
        colour = colours.get(place, look.muted)
        found.append(
            annotation(
                f"<b>{text}</b>" if colour == look.winner else text, 1, num(at) or 0, xref="paper", yref="y",
                xanchor="left", yanchor="middle", xshift=8, font={"size": 12, "color": colour},
            )
        )  # fmt: skip
    return found


def _end_text(curve: Curve) -> str:
    return f"{label_of(curve.member)}  {value_text(None if curve.last is None else curve.last[1])}"


def _member_line(curve: Curve, lines: Sequence[Line], colour: str, width: float, told: list[str], **more: Any) -> Spec:
    x, y = gapped(lines)
    return line_trace(
        x, y, colour, width,
        **_dotted(lines, colour),
        name=for_plotly(label_of(curve.member)),
        meta={"member": curve.member.index},
        customdata=[curve.member.index] * len(x),
        hovertemplate=hover(f"<b>{for_plotly(name_of(curve.member))}</b>", *told),
        **more,
    )  # fmt: skip


def _dotted(lines: Sequence[Line], colour: str) -> Spec:
    """Return how pieces of one point are marked, which are no line; nothing where there are none."""
    if all(len(line) > 1 for line in lines):
        return {}
    sizes: list[int] = []
    for place, line in enumerate(lines):
        sizes += [0] * (place > 0) + [4 if len(line) == 1 else 0] * len(line)
    return {"mode": "lines+markers", "marker": {"color": colour, "size": sizes, "opacity": 1}}


def _pale_lines(curves: Sequence[Curve], lines: Sequence[Sequence[Line]], look: Theme, told: list[str]) -> Spec:
    """Return the lines of many members as one trace."""
    xs: list[Any] = []
    ys: list[Any] = []
    who: list[int] = []
    for curve, own in zip(curves, lines, strict=True):
        x, y = gapped(own)
        xs += (*x, None)
        ys += (*y, None)
        who += [curve.member.index] * (len(x) + 1)
    return line_trace(
        xs, ys, look.pale, 0.9,
        name=count(len(curves), "other member"),
        opacity=0.65,
        customdata=who,
        hovertemplate=hover("<b>member %{customdata}</b>", *told),
    )  # fmt: skip


def _diamonds(curve: Curve, colour: str, look: Theme, size: float, told: list[str]) -> Spec:
    """Return the marks of where a member went on as another."""
    kept = [(x, y, donor) for (x, y), donor in zip(curve.copies, curve.donors, strict=True) if y is not None]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": nums(x for x, _, _ in kept),
        "y": nums(y for _, y, _ in kept),
        "name": f"{for_plotly(label_of(curve.member))}: copies",
        "customdata": [[curve.member.index, donor] for _, _, donor in kept],
        "marker": {
            "symbol": "diamond",
            "size": size,
            "color": look.background,
            "line": {"color": colour, "width": 1.4},
        },
        "hovertemplate": hover(
            f"<b>{for_plotly(name_of(curve.member))}</b>", "copied member %{customdata[1]}", *told
        ),
    }  # fmt: skip


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = (high - low) * 0.015 or 0.5
    return low - margin, high + margin


# ----------------------------------------------------------------------------------------------------------- ancestry


def ancestry_spec(info: Ancestry, theme: str = "light", points: int | None = None) -> Spec:
    """Return the figure of the ancestry."""
    look = theme_of(theme)
    check_points(points)
    colours = owner_colours(info, look)
    total = sum(len(stretch.line) for stretch in info.stretches) or 1
    before: Line = Line((), ())
    lonely: list[tuple[Line, Stretch]] = []
    by_colour: dict[str, tuple[list[Any], list[Any], list[Any], list[str]]] = {}
    for stretch in info.stretches:
        whole = Line((*before.x[-1:], *stretch.line.x), (*before.y[-1:], *stretch.line.y))
        share = None if points is None else max(4, points * len(whole) // total)
        drawn = thin_all([whole], share)
        lonely += [(piece, stretch) for piece in drawn if len(piece) == 1]
        x, y = gapped(drawn)
        xs, ys, who, names = by_colour.setdefault(colours[stretch.member.index], ([], [], [], []))
        xs += (*x, None)
        ys += (*y, None)
        who += [[stretch.member.index, stretch.generation]] * (len(x) + 1)
        names += [for_plotly(label_of(stretch.member))] * (len(x) + 1)
        before = stretch.line if len(stretch.line) else before
    metric = for_plotly(short(info.metric))
    told = hover(
        "<b>trained by %{text}</b>",
        "after %{customdata[1]} copies of its own",
        f"{for_plotly(info.x_label)} %{{x}}",
        f"{metric} %{{y}}",
    )
    traces = [
        line_trace(x, y, colour, 2.6, text=names, customdata=who, hovertemplate=told, name=names[0], yaxis="y")
        for colour, (x, y, who, names) in by_colour.items()
    ]
    marks = [
        (stretch.line.x[0], line.line.x[-1], line.line.y[-1], stretch)
        for line, stretch in pairwise(info.stretches)
        if len(stretch.line) and len(line.line)
    ]
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "x": nums(x for _, x, _, _ in marks),
            "y": nums(y for _, _, y, _ in marks),
            "name": "handovers",
            "customdata": [[stretch.member.index, stretch.generation] for *_, stretch in marks],
            "text": [for_plotly(label_of(stretch.member)) for *_, stretch in marks],
            "marker": {"size": 7, "color": look.background, "line": {"color": look.ink, "width": 1.3}},
            "hovertemplate": hover(
                "<b>copied by %{text}</b>", f"{for_plotly(info.x_label)} %{{x}}", f"{metric} %{{y}}"
            ),
        }
    )  # fmt: skip
    if lonely:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [num(piece.x[0]) for piece, _ in lonely],
                "y": [num(piece.y[0]) for piece, _ in lonely],
                "name": "single results",
                "customdata": [[stretch.member.index, stretch.generation] for _, stretch in lonely],
                "text": [for_plotly(label_of(stretch.member)) for _, stretch in lonely],
                "marker": {"size": 5, "color": [colours[stretch.member.index] for _, stretch in lonely]},
                "hovertemplate": told,
            }
        )
    traces.append(_who_trained(info, colours, look))
    low, high, outside = ancestry_axis(info)
    layout = layout_of(look, ancestry_heading(info, outside), height=470)
    upper, lower = rows_of((10, 1), 0.05)
    span = ends([stretch.line for stretch in info.stretches]) or (0.0, 1.0)
    layout["xaxis"] = x_axis_of(info, look, *_padded(_origin(info), span[1]), anchor="y2")
    layout["yaxis"] = axis(look, short(info.metric), domain=list(upper), range=[num(low), num(high)])
    layout["yaxis2"] = axis(
        look, domain=list(lower), range=[0, 1], showgrid=False, fixedrange=True, tickvals=[0.5],
        ticktext=["trained by"],
    )  # fmt: skip
    return {"data": traces, "layout": layout}


def _origin(info: Ancestry) -> float:
    """Return where the first stretch begins."""
    first = next((stretch.line.x[0] for stretch in info.stretches if len(stretch.line)), 0.0)
    return min(0.0, first) if info.x_axis == "training_iteration" else first


def _who_trained(info: Ancestry, colours: dict[int, str], look: Theme) -> Spec:
    """Return the strip that says who trained which stretch."""
    begin = _origin(info)
    base: list[float] = []
    width: list[float] = []
    shown = [stretch for stretch in info.stretches if len(stretch.line)]
    for stretch in shown:
        base.append(begin)
        width.append(max(0.0, stretch.line.x[-1] - begin))
        begin = stretch.line.x[-1]
    whole = sum(width) or 1.0
    labels = [for_plotly(label_of(stretch.member)) for stretch in shown]
    return {
        "type": "bar",
        "orientation": "h",
        "yaxis": "y2",
        "y": [0.5] * len(shown),
        "width": 0.9,
        "base": nums(base),
        "x": nums(width),
        "text": [
            label if part / whole > 0.012 * len(label) else str(stretch.member.index) if part / whole > 0.02 else ""
            for label, part, stretch in zip(labels, width, shown, strict=True)
        ],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "constraintext": "none",
        "textfont": {"size": 11, "color": look.background},
        "customdata": [
            [stretch.member.index, stretch.generation, num(start), num(start + part), label]
            for stretch, start, part, label in zip(shown, base, width, labels, strict=True)
        ],
        "marker": {
            "color": [colours[stretch.member.index] for stretch in shown],
            "line": {"color": look.background, "width": 1},
        },
        "name": "trained by",
        "hovertemplate": hover(
            "<b>trained by %{customdata[4]}</b>",
            f"{for_plotly(info.x_label)} %{{customdata[2]}} to %{{customdata[3]}}",
        ),
    }


# ---------------------------------------------------------------------------------------------------------- schedules


def schedules_spec(info: Schedules, theme: str = "light", points: int | None = None) -> Spec:
    """Return the figure of the schedules."""
    look = theme_of(theme)
    check_points(points)
    size = len(info.parameters)
    rows = rows_of([1.0] * size, min(0.11, 0.5 / size))
    layout = layout_of(look, schedules_heading(info), height=110 + 185 * size, top=16)
    traces: list[Spec] = []
    notes: list[Spec] = []
    span = ends([line for each in info.parameters for curve in each.curves for line in curve.lines]) or (0.0, 1.0)
    layout["xaxis"] = x_axis_of(info, look, *_padded(*span), anchor="y" if size == 1 else f"y{size}")
    for place, (each, domain) in enumerate(zip(info.parameters, rows, strict=True)):
        name = "y" if not place else f"y{place + 1}"
        traces += _parameter_traces(each, info, name, look, points)
        layout[name.replace("y", "yaxis")] = _value_axis(each, look, domain)
        notes.append(
            annotation(
                f"<b>{for_plotly(short(each.name, 70))}</b>", 0, domain[1], xref="paper", yref="paper", xanchor="left",
                yanchor="bottom", yshift=3, font={"size": 13},
            )
        )  # fmt: skip
    layout["annotations"] = notes
    return {"data": traces, "layout": layout}


def _value_axis(each: ParameterSchedule, look: Theme, domain: tuple[float, float]) -> Spec:
    if each.categories:
        return axis(
            look, domain=list(domain), range=[-0.6, len(each.categories) - 0.4],
            tickvals=list(range(len(each.categories))),
            ticktext=[for_plotly(short(text, 28)) for text in each.categories],
        )  # fmt: skip
    values = [y for curve in each.curves for line in curve.lines for y in line.y if y is not None]
    if each.log and values:
        return log_axis(look, min(values), max(values), domain=list(domain))
    return axis(look, domain=list(domain))


def _parameter_traces(
    each: ParameterSchedule, info: Schedules, axis_name: str, look: Theme, points: int | None
) -> list[Spec]:
    size = len(each.curves)
    xs: list[Any] = []
    ys: list[Any] = []
    who: list[int] = []
    for place, curve in enumerate(each.curves):
        # Members that have the same category lie side by side.
        shift = (place / (size - 1) - 0.5) * 0.6 if each.categories and size > 1 else 0.0
        for line in thin_all(curve.lines, points):
            xs += (*nums(line.x), None)
            ys += (*nums(None if y is None else y + shift for y in line.y), None)
            who += [curve.member.index] * (len(line) + 1)
    value = [f"{for_plotly(short(each.name, 40))} %{{y}}"]
    text: Spec = {}
    if each.categories:
        names = [for_plotly(short(name, 60)) for name in each.categories]
        text = {"text": [None if y is None else names[round(y)] for y in ys]}
        value = [f"{for_plotly(short(each.name, 40))} %{{text}}"]
    told = [f"{for_plotly(info.x_label)} %{{x}}", *value]
    many = size > FEW
    found = [
        line_trace(
            xs, ys, look.pale, 1.0 if many else 1.6, opacity=0.65 if many else 0.9, yaxis=axis_name,
            name=count(size, "member"), customdata=who, hovertemplate=hover("<b>member %{customdata}</b>", *told),
            **text,
        )
    ]  # fmt: skip
    if len(each.winner) and info.best is not None:
        member = each.curves[info.best].member
        x, y = gapped(thin_all([each.winner], points))
        if each.categories:
            names = [for_plotly(short(name, 60)) for name in each.categories]
            text = {"text": [None if value is None else names[int(value)] for value in y]}
        found.append(
            line_trace(
                x, y, look.winner, 2.8, yaxis=axis_name, name=f"weights of {for_plotly(label_of(member))}",
                customdata=[member.index] * len(x),
                hovertemplate=hover(f"<b>the weights of {for_plotly(label_of(member))}</b>", *told), **text,
            )
        )  # fmt: skip
    return found
