"""The interactive lineage tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.commands import Status
from .choose import FEW, Scale, changes, ends, runs, score_scale
from .info import Line
from .specs import CLEAR, Spec, axis, hover, layout_of, line_trace, num, nums
from .style import Theme, theme_of
from .thin import check_points
from .tree import Branch, BranchId, LineageTree
from .words import for_plotly, label_of, lineage_heading, short, value_text

__all__ = ["arc", "lane_width", "lineage_spec", "path_line"]

_LEVELS = 18
_HOVERED = 4000
"""About how many points of the lanes answer the mouse."""
_ARCS = 200
"""Of more copies, the links are straight."""


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
    copies = [branch for branch in info.branches if branch.parent is not None]
    bulge = 0.022 * (high - low) if len(copies) <= _ARCS else 0.0
    traces = [_links(copies, branches, lanes, look, bulge)] if copies else []
    if info.path:
        x, y = path_line(info, branches, lanes, bulge)
        traces.append(line_trace(x, y, look.winner, width + 5, name="path of the best weights", hoverinfo="skip"))
    traces += _lanes(info, lanes, scale, look, width, points)
    traces.append(_hovered(info, lanes, points, scale))
    if copies:
        traces.append(_copies(copies, branches, lanes, look, width, info))
    traces += _ends(info, lanes, look)
    if scale is not None:
        traces.append(_colour_bar(scale, look, info))
    layout = layout_of(look, lineage_heading(info), height=max(300, 124 + round(_lane_height(size) * size)), right=20)
    margin = (high - low) * 0.02 or 0.5
    layout["xaxis"] = axis(look, info.x_label, range=[num(low - margin), num(high + margin)])
    layout["yaxis"] = _lane_axis(info, look)
    return {"data": traces, "layout": layout}


def lane_width(size: int) -> float:
    """Return how wide a lane is drawn, in pixels, where there are so many members."""
    return 7.0 if size <= FEW else 5.0 if size <= 30 else 3.0


def _lane_height(size: int) -> float:
    return 34.0 if size <= FEW else 20.0 if size <= 40 else 9.5


def arc(x0: float, y0: float, x1: float, y1: float, bulge: float) -> tuple[list[float], list[float]]:
    """Return points from a donor's checkpoint to where the copy begins; ``bulge``: how far they swing to the left."""
    if not bulge:
        return [x0, x1], [y0, y1]
    steps = [step / 8 for step in range(9)]
    # The further apart two lanes are, the wider the swing, so that links of one moment can be told apart.
    swing = bulge * min(1.0, 0.35 + 0.12 * abs(y1 - y0))
    return (
        [x0 + (x1 - x0) * step - 4 * step * (1 - step) * swing for step in steps],
        [y0 + (y1 - y0) * step for step in steps],
    )


def path_line(
    info: LineageTree, branches: Mapping[BranchId, Branch], lanes: Mapping[int, int], bulge: float
) -> tuple[list[Any], list[Any]]:
    """Return the line of the path on which the best weights came."""
    xs: list[Any] = []
    ys: list[Any] = []
    for place, step in enumerate(info.path):
        lane = lanes[step.branch[0]]
        branch = branches.get(step.branch)
        if place and branch is not None and branch.parent is not None and branch.parent_x is not None:
            x, y = arc(branch.parent_x, lanes[branch.parent[0]], step.begin, lane, bulge)
            xs += nums(x)
            ys += nums(y)
        xs += nums((step.begin, step.end))
        ys += (lane, lane)
    return xs, ys


def _lanes(
    info: LineageTree, lanes: Mapping[int, int], scale: Scale | None, look: Theme, width: float, points: int | None
) -> list[Spec]:
    """Return the lanes, a trace for each colour."""
    total = dict.fromkeys(lanes, 0)
    for branch in info.branches:
        total[branch.member.index] += len(branch.x)
    found: dict[int, tuple[list[Any], list[Any]]] = {}
    for branch in info.branches:
        lane = lanes[branch.member.index]
        # A stretch is two points and a gap.
        most = None if points is None else max(1, points * len(branch.x) // (3 * total[branch.member.index]))
        for level, begin, end in runs(branch, scale, _LEVELS, most):
            xs, ys = found.setdefault(level, ([], []))
            xs += (num(begin), num(end), None)
            ys += (lane, lane, None)
    return [
        line_trace(
            xs, ys, look.pale if level < 0 else look.score((level + 0.5) / _LEVELS), width, hoverinfo="skip",
            name="lanes",
        )
        for level, (xs, ys) in sorted(found.items())
    ]  # fmt: skip


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
        assert branch.parent is not None
        begin = branch.x[0] if branch.parent_x is None else branch.parent_x
        x, y = arc(begin, lanes[branch.parent[0]], branch.x[0], lanes[branch.member.index], bulge)
        xs += (*nums(x), None)
        ys += (*nums(y), None)
    many = len(copies) > _ARCS
    return line_trace(
        xs, ys, look.pale, 0.6 if many else 1.3, opacity=0.5 if many else 1.0, name="copies", hoverinfo="skip"
    )


def _copies(
    copies: list[Branch], branches: Mapping[BranchId, Branch], lanes: Mapping[int, int], look: Theme, width: float,
    info: LineageTree,
) -> Spec:  # fmt: skip
    """Return a mark where each copy begins, which says what was copied and what changed."""
    told: list[str] = []
    for branch in copies:
        assert branch.parent is not None
        parent = branches.get(branch.parent)
        donor = for_plotly(label_of(info.members[lanes[branch.parent[0]]]))
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
        "customdata": [[branch.member.index, branch.generation, (branch.parent or (0, 0))[0]] for branch in copies],
        "text": told,
        "marker": {
            "size": max(3.5, width),
            "color": look.background,
            "line": {"color": look.ink, "width": 1.2 if width > 4 else 0.7},
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
    size = len(info.members)
    every = 1 if size <= 40 else 5 if size <= 120 else max(1, size // 20)
    shown = [
        (place, member) for place, member in enumerate(info.members) if not place % every or member.index == info.best
    ]
    if every > 1:  # no two that overlap
        best = next((place for place, member in enumerate(info.members) if member.index == info.best), None)
        shown = [pair for pair in shown if best is None or pair[0] == best or abs(pair[0] - best) > 1]
    texts = [
        f'<b style="color:{look.winner}">{for_plotly(label_of(member))}</b>'
        if member.index == info.best
        else for_plotly(label_of(member))
        for _, member in shown
    ]
    return axis(
        look, tickvals=[place for place, _ in shown], ticktext=texts, range=[size - 0.4, -0.6], showgrid=False,
    )  # fmt: skip


def _colour_bar(scale: Scale, look: Theme, info: LineageTree) -> Spec:
    """Return an empty trace that has the colour bar."""
    colours = look.scale if scale.sign > 0 else tuple(reversed(look.scale))
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
