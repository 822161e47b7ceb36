"""The lineage tree, by matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.commands import Status
from .figures import LOOK, canvas, in_style, name_x, named_ticks, shown
from .figures_curves import draw_lines
from .info import Line
from .lanes import ARCS, Scale, arc, lane_height, lane_labels, lane_of, lane_pieces, lane_width, path_lines, score_scale
from .tree import Branch, LineageTree
from .words import label_of, lineage_heading, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["lineage_figure"]

_STRETCHES = 200
"""Of one lane, about."""


@in_style
def lineage_figure(info: LineageTree) -> Figure:
    """Return the figure of the lineage tree."""
    size = len(info.members)
    lanes = {member.index: place for place, member in enumerate(info.members)}
    branches = {branch.id: branch for branch in info.branches}
    scale = score_scale(info)
    height = max(1.7, size * min(0.33 if size <= 12 else 0.2 if size <= 40 else 0.085, lane_height(size) / 100))
    figure, (axes,) = canvas(lineage_heading(info), [height])
    width = lane_width(size) * 0.72
    xs = [x for branch in info.branches for x in branch.x]
    copies = [branch for branch in info.branches if branch.copied is not None]
    many = len(copies) > ARCS
    bulge = 0.0 if many else 0.022 * (max(xs) - min(xs))
    _links(axes, copies, lanes, bulge, many)
    if info.path:
        links, along = path_lines(info, branches, lanes, bulge)
        draw_lines(axes, links, LOOK.winner, 2.2, zorder=3)
        draw_lines(axes, along, LOOK.winner, width + 3.6, zorder=3)
    _lanes(axes, info, lanes, scale, width)
    if copies:
        axes.scatter(
            [branch.x[0] for branch in copies], [lanes[branch.member.index] for branch in copies],
            s=4 if many else 16, facecolor=LOOK.muted if many else LOOK.background, edgecolor=LOOK.ink,
            linewidth=0 if many else 0.9, zorder=5,
        )  # fmt: skip
    _ends(axes, info, lanes)
    axes.autoscale_view()
    axes.set_ylim(size - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    best = lane_of(info, info.best)
    labelled = lane_labels(size, best)
    named_ticks(axes, labelled, [label_of(info.members[place]) for place in labelled])
    for place, text in zip(labelled, axes.get_yticklabels(), strict=True):
        if place == best:
            text.set(color=LOOK.winner, weight="bold")
    name_x(axes, info.x_label, info.x_axis)
    if scale is not None:
        _colour_bar(figure, axes, scale, info)
    return figure


def _links(axes: Axes, copies: list[Branch], lanes: dict[int, int], bulge: float, many: bool) -> None:
    lines: list[Line] = []
    for branch in copies:
        assert branch.copied is not None
        begin = branch.x[0] if branch.parent_x is None else branch.parent_x
        x, y = arc(begin, lanes[branch.copied[0]], branch.x[0], lanes[branch.member.index], bulge)
        lines.append(Line(tuple(x), tuple(y)))
    draw_lines(axes, lines, LOOK.pale, 0.5 if many else 1.0, alpha=0.45 if many else 1.0, zorder=2)


def _lanes(axes: Axes, info: LineageTree, lanes: dict[int, int], scale: Scale | None, width: float) -> None:
    from matplotlib.collections import LineCollection

    paths: list[Any] = []
    colours: list[str] = []
    for index, level, begin, end in lane_pieces(info, scale, _STRETCHES):
        paths.append([(begin, lanes[index]), (end, lanes[index])])
        colours.append(LOOK.pale if scale is None else scale.colour(level, LOOK))
    if paths:
        axes.add_collection(LineCollection(paths, colors=colours, linewidths=width, zorder=4), autolim=True)


def _ends(axes: Axes, info: LineageTree, lanes: dict[int, int]) -> None:
    """Mark the ends of lanes: of the best member, and of those that failed."""
    for branch in info.branches:
        if not branch.present:
            continue
        where = (branch.x[-1], lanes[branch.member.index])
        if branch.member.status is Status.ERROR:
            axes.scatter(*where, marker="X", s=42, color=LOOK.ink, edgecolor=LOOK.background, zorder=6, clip_on=False)
        if branch.member.index == info.best:
            axes.scatter(
                *where, marker="*", s=130, color=LOOK.winner, edgecolor=LOOK.background, zorder=7, clip_on=False
            )


def _colour_bar(figure: Figure, axes: Axes, scale: Scale, info: LineageTree) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    high = scale.high if scale.high > scale.low else scale.low + (abs(scale.low) * 1e-6 or 1e-9)
    mappable = ScalarMappable(
        Normalize(scale.low, high), LinearSegmentedColormap.from_list("scores", list(scale.colours(LOOK)))
    )
    bar = figure.colorbar(mappable, ax=axes, fraction=0.03, pad=0.015, aspect=30, shrink=0.9)
    outline: Any = bar.outline
    outline.set_visible(False)
    bar.set_label(shown(short(info.metric or "", 32)))
    if scale.high <= scale.low:
        bar.set_ticks([scale.low])
