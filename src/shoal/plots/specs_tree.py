"""The interactive lineage tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.commands import Status
from .choose import changes, ends
from .info import Line
from .lanes import (
    ARCS,
    Scale,
    arc,
    lane_height,
    lane_labels,
    lane_of,
    lane_pieces,
    lane_width,
    path_lines,
    score_scale,
)
from .specs import CLEAR, Spec, axis, gapped, hover, layout_of, line_trace, num, nums, x_axis_of
from .style import Theme, theme_of
from .thin import check_points
from .tree import Branch, BranchId, LineageTree
from .words import for_plotly, label_of, lineage_heading, short, value_text

__all__ = ["lineage_spec"]

_HOVERED = 4000
"""About how many points of the lanes answer the mouse."""


def lineage_spec(info: LineageTree, theme: str = "light", points: int | None = None) -> Spec:
    """Return the figure of the lineage tree: a lane for each member, and a link for each copy."""
    look = theme_of(theme)
    check_points(points)
    lanes = {member.index: place for place, member in enumerate(info.members)}
    branches = {branch.id: branch for branch in info.branches}
    scale = score_scale(info)
    size = len(info.members)
    width = lane_width(size)
    low, high = ends([Line(branch.x, branch.scores) for branch in info.branches]) or (0.0, 1.0)
    copies = [branch for branch in info.branches if branch.copied is not None]
    bulge = 0.022 * (high - low) if len(copies) <= ARCS else 0.0
    traces = [_links(copies, branches, lanes, look, bulge)] if copies else []
    if info.path:
        for line, thickness in zip(path_lines(info, branches, lanes, bulge), (3.0, width + 5), strict=True):
            x, y = gapped(line)
            traces.append(line_trace(x, y, look.winner, thickness, name="path of the best weights", hoverinfo="skip"))
    traces += _lanes(info, lanes, scale, look, width, points)
    traces.append(_hovered(info, lanes, points, scale))
    if copies:
        traces.append(_copies(copies, branches, lanes, look, width, info))
    traces += _ends(info, lanes, look)
    if scale is not None:
        traces.append(_colour_bar(scale, look, info))
    layout = layout_of(look, lineage_heading(info), height=max(300, 124 + round(lane_height(size) * size)), right=20)
    margin = (high - low) * 0.02 or 0.5
    layout["xaxis"] = x_axis_of(info, look, low - margin, high + margin)
    layout["yaxis"] = _lane_axis(info, look)
    return {"data": traces, "layout": layout}


def _lanes(
    info: LineageTree, lanes: Mapping[int, int], scale: Scale | None, look: Theme, width: float, points: int | None
) -> list[Spec]:
    """Return the lanes, a trace for each colour."""
    found: dict[int, tuple[list[Any], list[Any]]] = {}
    # A stretch is two points and a gap.
    for index, level, begin, end in lane_pieces(info, scale, None if points is None else max(1, points // 3)):
        xs, ys = found.setdefault(level, ([], []))
        xs += (num(begin), num(end), None)
        ys += (lanes[index], lanes[index], None)
    return [
        line_trace(
            xs,
            ys,
            look.pale if scale is None else scale.colour(level, look),
            width,
            hoverinfo="skip",
            name="lanes",
        )
        for level, (xs, ys) in sorted(found.items())
    ]


def _hovered(info: LineageTree, lanes: Mapping[int, int], points: int | None, scale: Scale | None) -> Spec:
    """Return an invisible trace along the lanes, which says what is there and who it is."""
    xs: list[Any] = []
    ys: list[Any] = []
    data: list[Any] = []
    names: list[str | None] = []
    total = sum(len(branch.x) for branch in info.branches) or 1
    most = min(_HOVERED, len(info.members) * points) if points is not None else _HOVERED
    step = max(1, -(-total // most))
    for branch in info.branches:
        lane, name = lanes[branch.member.index], for_plotly(label_of(branch.member))
        for place in range((len(branch.x) - 1) % step, len(branch.x), step):
            xs.append(num(branch.x[place]))
            ys.append(lane)
            data.append([branch.member.index, branch.generation, value_text(branch.scores[place])])
            names.append(name)
        xs.append(None)
        ys.append(None)
        data.append([branch.member.index, branch.generation, ""])
        names.append(None)
    score = "" if scale is None else f"{for_plotly(short(info.metric or ''))} %{{customdata[2]}}"
    return line_trace(
        xs, ys, CLEAR, 0.5, name="members", text=names, customdata=data,
        hovertemplate=hover(
            "<b>%{text}</b>, %{customdata[1]} copies so far", f"{for_plotly(info.x_label)} %{{x}}", score,
        ),
    )  # fmt: skip


def _links(
    copies: list[Branch], branches: Mapping[BranchId, Branch], lanes: Mapping[int, int], look: Theme, bulge: float
) -> Spec:
    """Return the lines from donors to copies."""
    xs: list[Any] = []
    ys: list[Any] = []
    for branch in copies:
        assert branch.copied is not None
        begin = branch.x[0] if branch.parent_x is None else branch.parent_x
        x, y = arc(begin, lanes[branch.copied[0]], branch.x[0], lanes[branch.member.index], bulge)
        xs += (*nums(x), None)
        ys += (*nums(y), None)
    many = len(copies) > ARCS
    return line_trace(
        xs, ys, look.pale, 0.6 if many else 1.3, opacity=0.5 if many else 1.0, name="copies", hoverinfo="skip"
    )


def _copies(
    copies: list[Branch], branches: Mapping[BranchId, Branch], lanes: Mapping[int, int], look: Theme, width: float,
    info: LineageTree,
) -> Spec:  # fmt: skip
    """Return a mark where each copy begins, which says what was copied and what changed."""
    told: list[str] = []
    many = len(copies) > ARCS
    for branch in copies:
        assert branch.copied is not None
        parent = branches.get(branch.copied)
        donor = for_plotly(label_of(info.members[lanes[branch.copied[0]]]))
        metric = for_plotly(short(info.metric or "", 40))
        score = f" with {metric} {value_text(branch.scores[0])}" if branch.scores[0] is not None else ""
        changed = [] if parent is None else changes(parent.config, branch.config)
        why = "<br>it had failed" if branch.failed else ""
        told.append(f"copied {donor}{score}{why}" + "".join(f"<br>{for_plotly(change)}" for change in changed))
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "copies",
        "x": nums(branch.x[0] for branch in copies),
        "y": [lanes[branch.member.index] for branch in copies],
        "customdata": [[branch.member.index, branch.generation, (branch.copied or (0, 0))[0]] for branch in copies],
        "text": told,
        "marker": {
            "size": 3 if many else width,
            "color": look.muted if many else look.background,
            "line": {"color": look.ink, "width": 0 if many else 1.2},
        },
        "hovertemplate": hover(
            "<b>member %{customdata[0]}</b>", f"{for_plotly(info.x_label)} %{{x}}", "%{text}"
        ),
    }  # fmt: skip


def _ends(info: LineageTree, lanes: Mapping[int, int], look: Theme) -> list[Spec]:
    """Return marks at the ends of lanes: of the best member, and of those that failed."""
    last = {branch.member.index: branch for branch in info.branches if branch.present}
    best = [branch for branch in last.values() if branch.member.index == info.best]
    failed = [branch for branch in last.values() if branch.member.status is Status.ERROR]
    marks = (("best", best, "star", look.winner, 13), ("failed", failed, "x", look.ink, 8))
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": nums(branch.x[-1] for branch in found),
            "y": [lanes[branch.member.index] for branch in found],
            "customdata": [[branch.member.index, branch.generation] for branch in found],
            "text": [for_plotly(label_of(branch.member)) for branch in found],
            "cliponaxis": False,
            "marker": {"symbol": symbol, "size": size, "color": colour, "line": {"color": look.background, "width": 1}},
            "hovertemplate": hover(f"<b>%{{text}}</b> {'is the best' if name == 'best' else 'has failed'}"),
        }
        for name, found, symbol, colour, size in marks
        if found
    ]


def _lane_axis(info: LineageTree, look: Theme) -> Spec:
    shown = lane_labels(len(info.members), lane_of(info, info.best))
    members = [(place, info.members[place]) for place in shown]
    texts = [
        f'<b style="color:{look.winner}">{for_plotly(label_of(member))}</b>'
        if member.index == info.best
        else for_plotly(label_of(member))
        for _, member in members
    ]
    size = len(info.members)
    return axis(look, tickvals=shown, ticktext=texts, range=[size - 0.4, -0.6], showgrid=False)


def _colour_bar(scale: Scale, look: Theme, info: LineageTree) -> Spec:
    """Return an empty trace that has the colour bar."""
    colours = scale.colours(look)
    low, high = (scale.low, scale.high) if scale.high > scale.low else (scale.low, scale.low + 1e-9)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "colours",
        "x": [None],
        "y": [None],
        "hoverinfo": "skip",
        "marker": {
            "color": [num(low)],
            "cmin": num(low),
            "cmax": num(high),
            "showscale": True,
            "colorscale": [[round(step / (len(colours) - 1), 4), colour] for step, colour in enumerate(colours)],
            "colorbar": {
                "thickness": 10,
                "len": 0.9,
                "outlinewidth": 0,
                "xpad": 14,
                "tickfont": {"color": look.muted, "size": 11.5},
                "title": {
                    "text": for_plotly(short(info.metric or "", 28)),
                    "side": "right",
                    "font": {"color": look.muted, "size": 12},
                },
            },
        },
    }
