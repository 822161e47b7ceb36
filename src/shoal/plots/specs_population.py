"""Interactive figures of the population as a whole: diversity, times and gains."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .choose import MANY_GAINS, bands, entries, fan_width, fanned, gains_axes, moments
from .lanes import lane_height, lane_labels
from .population import Diversity, Gain, Gains, Times
from .specs import Spec, annotation, axis, hover, layout_of, line_trace, num, nums, rows_of, x_axis_of
from .style import Theme, place_labels, theme_of
from .thin import check_points
from .words import (
    diversity_heading,
    for_plotly,
    gains_heading,
    label_of,
    name_of,
    short,
    times_heading,
    value_text,
)

__all__ = ["diversity_spec", "gains_spec", "times_spec"]

# ---------------------------------------------------------------------------------------------------------- diversity


def diversity_spec(info: Diversity, theme: str = "light", points: int | None = None) -> Spec:
    """Return the figure of the diversity: founders' shares, effective numbers, spread of the hyperparameters."""
    look = theme_of(theme)
    kept = entries(info, check_points(points))
    x = nums(info.x[place] for place in kept)
    size = len(info.founders)
    heights = (2.2, 1.2, 1.2) if info.spread else (2.2, 1.2)
    rows = rows_of(heights, 0.09)
    layout = layout_of(look, diversity_heading(info), height=640 if info.spread else 480, right=150, top=18)
    high = max(info.x)
    anchor = f"y{len(rows)}"
    layout["xaxis"] = x_axis_of(info, look, 0, high * 1.005 or 1, anchor=anchor)
    layout["yaxis"] = axis(look, domain=list(rows[0]), range=[0, size], rangemode="tozero")
    layout["yaxis2"] = axis(look, domain=list(rows[1]), rangemode="tozero")
    traces, notes = _shares(info, kept, x, look)
    headings = [f"members by founder ({size} in all)", "effective number of founders and of donors"]
    traces += _numbers(info, kept, x, look, notes)
    if info.spread:
        layout["yaxis3"] = axis(look, domain=list(rows[2]), rangemode="tozero")
        traces += _spread(info, kept, x, look, notes)
        headings.append("spread of hyperparameters, 1 at the beginning")
    for text, domain in zip(headings, rows, strict=True):
        notes.append(
            annotation(
                f"<b>{text}</b>", 0, domain[1], xref="paper", yref="paper", xanchor="left", yanchor="bottom", yshift=3,
                font={"size": 12.5},
            )
        )  # fmt: skip
    layout["shapes"] = [
        {
            "type": "line",
            "xref": "x",
            "yref": "paper",
            "x0": num(at),
            "x1": num(at),
            "y0": bottom,
            "y1": top,
            "line": {"color": look.ink, "width": 1.2, "dash": "dot"},
        }
        for at, _ in moments(info)
        for bottom, top in rows
    ]
    notes += [
        annotation(
            text, num(at) or 0, rows[0][0], xref="x", yref="paper", xanchor="left" if at < 0.7 * high else "right",
            yanchor="bottom", xshift=5 if at < 0.7 * high else -5, yshift=4 + 20 * step,
            font={"size": 11.5, "color": look.ink}, bgcolor=look.background, opacity=0.85, borderpad=2,
        )
        for step, (at, text) in enumerate(moments(info))
    ]  # fmt: skip
    layout["annotations"] = notes
    labels = [html.unescape(note["text"]) for note in notes if note["xref"] == "paper" and note["x"] == 1]
    layout["margin"]["r"] = max(80, 28 + round(7.2 * max(map(len, labels), default=0)))
    return {"data": traces, "layout": layout}


def _shares(info: Diversity, kept: Sequence[int], x: list[Any], look: Theme) -> tuple[list[Spec], list[Spec]]:
    found: list[Spec] = []
    notes: list[Spec] = []
    below = 0
    size = len(info.founders)
    centres: list[float] = []
    labelled: list[tuple[str, str]] = []
    for band in bands(info, look):
        counts = [band.counts[place] for place in kept]
        found.append(
            line_trace(
                x, counts, look.background, 0.8, line={"shape": "hv"}, stackgroup="founders", fillcolor=band.colour,
                name=for_plotly(band.label), hoveron="points+fills",
                customdata=[-1 if band.member is None else band.member] * len(x),
                hovertemplate=hover(
                    f"<b>descend from {for_plotly(band.label)}</b>", "%{y} of " + str(size) + " members",
                    f"{for_plotly(info.x_label)} %{{x}}",
                ),
            )
        )  # fmt: skip
        final = info.shares[-1]
        share = band.counts[-1]
        if share and sum(final):
            centres.append(below + share / 2)
            labelled.append((f"{for_plotly(band.label)}  {share}", band.colour))
        below += share
    for (text, colour), at in zip(labelled, place_labels(centres, size * 0.08, 0, size), strict=True):
        notes.append(_right_label(text, at, "y", look.muted if colour == look.pale else colour))
    return found, notes


def _right_label(text: str, at: float, axis_name: str, colour: str) -> Spec:
    return annotation(
        text, 1, num(at) or 0, xref="paper", yref=axis_name, xanchor="left", yanchor="middle", xshift=8,
        font={"size": 12, "color": colour},
    )  # fmt: skip


def _series(
    info: Diversity, series: Sequence[tuple[str, Sequence[float | None], str]], kept: Sequence[int], x: list[Any],
    axis_name: str, notes: list[Spec],
) -> list[Spec]:  # fmt: skip
    """Return lines with labels at their ends."""
    found: list[Spec] = []
    ends: list[tuple[str, float, str]] = []
    top = 0.0
    for name, values, colour in series:
        shown = nums(values[place] for place in kept)
        top = max([top, *(value for value in shown if value is not None)])
        found.append(
            line_trace(
                x, shown, colour, 2.0, line={"shape": "hv"}, name=name, yaxis=axis_name,
                hovertemplate=hover(f"<b>{name} %{{y}}</b>", f"{for_plotly(info.x_label)} %{{x}}"),
            )
        )  # fmt: skip
        if shown and (last := shown[-1]) is not None:
            ends.append((name, float(last), colour))
    top = top or 1.0
    places = place_labels([value for _, value, _ in ends], top * 0.17, 0, top)
    for (name, value, colour), at in zip(ends, places, strict=True):
        notes.append(_right_label(f"{name}  {value_text(float(f'{value:.3g}'))}", at, axis_name, colour))
    return found


def _numbers(info: Diversity, kept: Sequence[int], x: list[Any], look: Theme, notes: list[Spec]) -> list[Spec]:
    series = [("founders", info.effective, look.ink), ("donors", info.donors, look.winner)]
    return _series(info, series, kept, x, "y2", notes)


def _spread(info: Diversity, kept: Sequence[int], x: list[Any], look: Theme, notes: list[Spec]) -> list[Spec]:
    series = [
        (for_plotly(short(name, 16)), values, look.colour(place))
        for place, (name, values) in enumerate(info.spread.items())
    ]
    return _series(info, series, kept, x, "y3", notes)


# -------------------------------------------------------------------------------------------------------------- times


def times_spec(info: Times, theme: str = "light", points: int | None = None) -> Spec:
    """Return the figure of the times: a bar for each member."""
    look = theme_of(theme)
    check_points(points)
    size = len(info.members)
    parts = (
        ("training", [each.training for each in info.members], look.training),
        ("saving", [each.saving for each in info.members], look.saving),
        ("loading", [each.loading for each in info.members], look.loading),
        ("waiting", [each.waiting for each in info.members], look.waiting),
    )
    names = [for_plotly(name_of(each.member)) for each in info.members]
    traces: list[Spec] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": list(range(size)),
            "x": nums(values),
            "text": names,
            "textposition": "none",
            "customdata": [each.member.index for each in info.members],
            "marker": {"color": colour, "line": {"width": 0}},
            "hovertemplate": hover("<b>%{text}</b>", f"{name} %{{x:.4~g}} s"),
        }
        for name, values, colour in parts
    ]
    shown = lane_labels(size)
    height = max(280, 150 + round(min(30 if size <= 12 else 19 if size <= 40 else 9, lane_height(size)) * size))
    layout = layout_of(look, times_heading(info), height=height, top=22)
    layout |= {
        "barmode": "stack",
        "bargap": 0.28 if size <= 200 else 0,
        "showlegend": True,
        "legend": _legend(look),
        "xaxis": axis(look, "time (s)", rangemode="tozero"),
        "yaxis": axis(
            look, tickvals=shown, showgrid=False, range=[size - 0.4, -0.6],
            ticktext=[for_plotly(label_of(info.members[place].member)) for place in shown],
        ),
    }  # fmt: skip
    return {"data": traces, "layout": layout}


def _legend(look: Theme) -> Spec:
    return {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "traceorder": "normal",
        "font": {"color": look.muted, "size": 12},
        "bgcolor": "rgba(0,0,0,0)",
    }


# -------------------------------------------------------------------------------------------------------------- gains


def gains_spec(info: Gains, theme: str = "light", points: int | None = None) -> Spec:
    """Return the figure of the gains: for each exploit the scores before and after, and their difference."""
    look = theme_of(theme)
    check_points(points)
    known = [gain for gain in info.gains if gain.before is not None or gain.copied is not None]
    found = _some(known, None if points is None else _COPIES_FOR_A_POINT * points)
    (bottom, top, outside), change = gains_axes(known)
    heading = gains_heading(info, outside)
    if len(found) < len(known):
        heading = replace(heading, note=f"{heading.note}; {len(found)} of {len(known)} are drawn")
    xs = fanned([gain.x for gain in found], fan_width(found))
    many = len(found) > MANY_GAINS
    traces: list[Spec] = []
    groups = (("better", look.better, 1), ("not better", look.worse, 0))
    if not many:
        for name, colour, wanted in groups:
            x, y = _sticks(found, xs, wanted, lambda gain: (gain.before, gain.after))
            traces.append(
                line_trace(x, y, colour, 2.2, name=name, hoverinfo="skip", showlegend=False, opacity=0.65)
            )  # fmt: skip
    metric = for_plotly(short(info.metric))
    before = [(gain, x, gain.before) for gain, x in zip(found, xs, strict=True)]
    copied = [(gain, x, gain.copied) for gain, x in zip(found, xs, strict=True)]
    size = 4 if many else 7
    traces.append(_dots("before", before, look, metric, info, {
        "size": size, "color": "rgba(0,0,0,0)" if not many else look.pale,
        "line": {"color": look.muted, "width": 0 if many else 1.4},
    }))  # fmt: skip
    traces.append(_dots("what was copied", copied, look, metric, info, {
        "size": size, "symbol": "line-ew", "color": look.muted, "line": {"color": look.muted, "width": 1.6},
    }))  # fmt: skip
    for name, colour, wanted in groups:
        after = [
            (gain, x, gain.after)
            for gain, x in zip(found, xs, strict=True)
            if gain.gain is not None and (gain.gain > 0) == bool(wanted)
        ]
        traces.append(_dots(f"after, {name}", after, look, metric, info, {"size": size, "color": colour}))
        x, y = _sticks(found, xs, wanted, lambda gain: (0.0, None if gain.gain is None else gain.sign * gain.gain))
        traces.append(
            line_trace(
                x, y, colour, 1.0 if many else 2.6, name=f"change, {name}", yaxis="y2", showlegend=False,
                opacity=0.6 if many else 1.0,
                hovertemplate=hover(f"<b>change of {metric} %{{y}}</b>", f"{for_plotly(info.x_label)} %{{x:.5~g}}"),
            )
        )  # fmt: skip
    upper, lower = rows_of((2.0, 1.0), 0.1)
    layout = layout_of(look, heading, height=540, top=24)
    low, high = min(xs, default=0.0), max(xs, default=1.0)
    margin = (high - low) * 0.02 or 0.5
    layout |= {
        "showlegend": True,
        "legend": _legend(look),
        "xaxis": x_axis_of(info, look, low - margin, high + margin, anchor="y2"),
        "yaxis": axis(look, short(info.metric), domain=list(upper), range=nums((bottom, top))),
        "yaxis2": axis(look, "change", domain=list(lower), zeroline=True, zerolinecolor=look.muted, range=nums(change)),
    }
    return {"data": traces, "layout": layout}


_COPIES_FOR_A_POINT = 2
"""So many copies are drawn for each point that a line may have: a browser takes a tenth of a millisecond for each."""


def _some(found: Sequence[Gain], at_most: int | None) -> Sequence[Gain]:
    """Return so many gains at most, evenly chosen, and among them the largest and the smallest."""
    if at_most is None or len(found) <= at_most:
        return found
    step = -(-len(found) // max(1, at_most - 2))
    places = set(range(0, len(found), step))
    known = [place for place, gain in enumerate(found) if gain.gain is not None]
    for extreme in (min, max):
        if known:
            places.add(extreme(known, key=lambda place: found[place].gain or 0.0))
    return [found[place] for place in sorted(places)]


def _sticks(found: Sequence[Gain], xs: Sequence[float], wanted: int, ends: Any) -> tuple[list[Any], list[Any]]:
    """Return vertical lines of the exploits after which members were better, or were not."""
    x: list[Any] = []
    y: list[Any] = []
    for gain, at in zip(found, xs, strict=True):
        low, high = ends(gain)
        if gain.gain is None or low is None or high is None or (gain.gain > 0) != bool(wanted):
            continue
        x += (num(at), num(at), None)
        y += (num(low), num(high), None)
    return x, y


def _dots(
    name: str, shown: Sequence[tuple[Gain, float, float | None]], look: Theme, metric: str, info: Gains, marker: Spec
) -> Spec:
    """Return dots with a hover text."""
    kept = [(gain, x, y) for gain, x, y in shown if y is not None and math.isfinite(y)]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": nums(x for _, x, _ in kept),
        "y": nums(y for _, _, y in kept),
        "customdata": [[gain.member.index, gain.donor.index, gain.generation, num(gain.x)] for gain, _, _ in kept],
        "marker": marker,
        "hovertemplate": hover(
            "<b>member %{customdata[0]}</b> copied member %{customdata[1]}",
            f"{for_plotly(info.x_label)} %{{customdata[3]}}",
            f"{metric} {name}: %{{y}}",
        ),
    }
