"""Where things are in a lineage tree, and which colour they have: what both renderers share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..inference import quantile
from .choose import FEW
from .info import Line
from .style import Theme, drawable, not_diverged
from .tree import Branch, BranchId, LineageTree

__all__ = [
    "ARCS",
    "LEVELS",
    "Scale",
    "arc",
    "lane_height",
    "lane_labels",
    "lane_of",
    "lane_pieces",
    "lane_width",
    "path_lines",
    "score_scale",
]

LEVELS = 18
"""How many colours scores have."""
_HIGHEST = 2000.0
"""All lanes together, in pixels."""
ARCS = 200
"""Of more copies, the links are straight."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How scores become colours."""

    low: float
    high: float
    sign: float
    """1 where larger is better, -1 where smaller is."""
    neutral: bool = False
    """Whether nobody has said which of the two is better."""

    def colours(self, theme: Theme) -> tuple[str, ...]:
        """Return the colours from the lowest to the highest score, evenly spaced."""
        if self.neutral:
            return theme.neutral
        return theme.scale if self.sign > 0 else tuple(reversed(theme.scale))

    def colour(self, level: int, theme: Theme) -> str:
        """Return the colour of a level; -1: without a score."""
        return theme.pale if level < 0 else theme.score((level + 0.5) / LEVELS, neutral=self.neutral)

    def part(self, score: float) -> float:
        """Return how good a score is, 0 to 1."""
        if self.high <= self.low:
            return 1.0
        part = (score / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        part = min(1.0, max(0.0, part))
        return part if self.sign > 0 else 1.0 - part


def score_scale(tree: LineageTree) -> Scale | None:
    """Return the scale of a tree's scores, or None without any.

    The worst few share one colour, and so do those that diverged. Where nobody has said what is better, the lowest few
    and the highest few do.
    """
    scores = [score for branch in tree.branches for score in branch.scores if score is not None]
    if not scores:
        return None
    near = not_diverged(sorted(scores))
    low, high = drawable(near[0], near[-1])
    worst_low, worst_high = (min(high, max(low, quantile(near, part))) for part in (0.05, 0.95))
    if tree.mode is None:
        return Scale(worst_low, worst_high, 1.0, neutral=True)
    return Scale(worst_low, high, 1.0) if tree.mode == "max" else Scale(low, worst_high, -1.0)


def lane_pieces(
    info: LineageTree, scale: Scale | None, most: int | None = None
) -> Iterator[tuple[int, int, float, float]]:
    """Yield the stretches of all lanes that have one colour: member, level (-1 without a score), from where, to where.

    The step to a result has the colour of that result. Stretches of one branch overlap a little, so that no gap is seen
    between two.

    Args:
        info: the tree.
        scale: of its scores.
        most: about how many stretches a lane may have at most; several results have then the colour of their mean.
    """
    total: dict[int, int] = {}
    for branch in info.branches:
        total[branch.member.index] = total.get(branch.member.index, 0) + len(branch.x)
    xs = [x for branch in info.branches for x in (branch.x[0], branch.x[-1])]
    overlap = 0.0008 * (max(xs) - min(xs)) if xs else 0.0
    for branch in info.branches:
        index = branch.member.index
        share = None if most is None else max(1, most * len(branch.x) // total[index])
        for level, begin, end in _runs(branch, scale, share):
            yield index, level, begin if begin == branch.x[0] else begin - overlap, end


def _runs(branch: Branch, scale: Scale | None, most: int | None) -> Iterator[tuple[int, float, float]]:
    """Yield the stretches of a branch."""
    x, scores = branch.x[1:], branch.scores[1:]
    size = 1 if most is None else -(-len(x) // most) or 1
    begin = end = branch.x[0]
    now = -2
    for first in range(0, len(x), size):
        chunk = [score for score in scores[first : first + size] if score is not None]
        level = -1
        if chunk and scale is not None:
            level = min(LEVELS - 1, int(LEVELS * scale.part(math.fsum(chunk) / len(chunk))))
        if level != now:
            if now != -2:
                yield now, begin, end
            begin, now = end, level
        end = x[min(first + size, len(x)) - 1]
    if now != -2:
        yield now, begin, end


def lane_width(size: int) -> float:
    """Return how wide a lane is drawn, in pixels, where there are so many members."""
    return 7.0 if size <= FEW else 5.0 if size <= 30 else min(3.0, 0.8 * lane_height(size))


def lane_height(size: int) -> float:
    """Return how far apart two lanes are, in pixels; the more there are, the less, so that a screen or two hold all."""
    return 34.0 if size <= FEW else 20.0 if size <= 40 else min(9.5, _HIGHEST / size)


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


def path_lines(
    info: LineageTree, branches: Mapping[BranchId, Branch], lanes: Mapping[int, int], bulge: float
) -> tuple[list[Line], list[Line]]:
    """Return the path on which the best weights came: from lane to lane, and along the lanes."""
    links: list[Line] = []
    along: list[Line] = []
    for place, step in enumerate(info.path):
        lane = lanes[step.branch[0]]
        branch = branches.get(step.branch)
        if place and branch is not None and branch.parent is not None and branch.parent_x is not None:
            x, y = arc(branch.parent_x, lanes[branch.parent[0]], step.begin, lane, bulge)
            links.append(Line(tuple(x), tuple(y)))
        along.append(Line((step.begin, step.end), (lane, lane)))
    return links, along


def lane_of(info: LineageTree, index: int | None) -> int | None:
    """Return the lane of a member, by its number; None without one."""
    return next((place for place, member in enumerate(info.members) if member.index == index), None)


def lane_labels(size: int, always: int | None = None) -> list[int]:
    """Return which of so many lanes have a label: all while there is room, else some and one that always has."""
    every = 1 if size <= 40 else 5 if size <= 120 else max(1, size // 20)
    shown = range(0, size, every)
    if every == 1 or always is None:
        return list(shown)
    return sorted({always, *(place for place in shown if abs(place - always) > 1)})
