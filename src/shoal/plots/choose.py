"""What of an experiment a picture shows in the front, and where: decisions that both renderers share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..core.events import Config
from ..core.reports import flatten
from ..display.text import format_value
from .info import Ancestry, Curve, LearningCurves, Line, finite
from .population import Diversity, Gain
from .style import Theme, robust_range
from .words import count, label_of, short

__all__ = [
    "FEW",
    "MANY_GAINS",
    "Band",
    "ancestry_axis",
    "axis_of",
    "bands",
    "changes",
    "ends",
    "entries",
    "fan_width",
    "fanned",
    "front",
    "gains_axes",
    "log_ticks",
    "moments",
    "owner_colours",
]

FEW = 12
"""Up to so many members each has a line of its own, with a label."""
MANY_GAINS = 120
"""Of more exploits, no lines from before to after are drawn."""
_IN_FRONT = 5
_BANDS = 6


def front(curves: Sequence[Curve], best: int | None, mode: str | None, theme: Theme) -> dict[int, str]:
    """Return the places of the curves that are in colour, the best one first, each with its colour.

    Those are the winner, members that are kept out of exploits, and the next best by what is drawn. Where nobody has
    said what is better, they are all while there are colours, else the highest, the middle and the lowest.
    """
    sign = -1.0 if mode == "max" else 1.0
    scored = [(sign * last[1], place) for place, curve in enumerate(curves) if (last := curve.last) is not None]
    ranked = [place for _, place in sorted(scored)]
    if mode is None:
        some = [ranked[-1], ranked[len(ranked) // 2], ranked[0]] if ranked else []
        chosen = list(range(len(curves))) if len(curves) <= len(theme.palette) else list(dict.fromkeys(some))
        return {place: theme.colour(rank) for rank, place in enumerate(chosen)}
    control = [place for place in ranked if curves[place].member.control][:2]
    first = [] if best is None else [best]
    chosen = list(dict.fromkeys([*first, *control, *ranked]))[:_IN_FRONT]
    colours = iter(theme.palette)
    return {place: theme.winner if place == best else next(colours) for place in chosen}


def owner_colours(info: Ancestry, theme: Theme) -> dict[int, str]:
    """Return the colour of each member that trained, by its number: the one whose weights they are is the winner.

    Where there are more members than colours, those that trained one after the other still have different ones.
    """
    beside: dict[int, set[int]] = {}
    for one, other in pairwise(stretch.member.index for stretch in info.stretches):
        beside.setdefault(one, set()).add(other)
        beside.setdefault(other, set()).add(one)
    found = {info.member.index: theme.winner}
    used = dict.fromkeys(theme.palette, 0)
    for stretch in info.stretches:
        index = stretch.member.index
        if index in found:
            continue
        near = {found[other] for other in beside.get(index, ()) if other in found}
        colour = min(used, key=lambda each: (each in near, used[each]))
        used[colour] += 1
        found[index] = colour
    return found


def changes(old: Config, new: Config, most: int = 5) -> list[str]:
    """Return what is different in a new config, as ``lr 0.1 → 0.12``."""
    before = dict(flatten(old))
    found = [
        f"{short(name, 24)} {format_value(before.get(name))} → {format_value(value)}"
        for name, value in flatten(new)
        if format_value(before.get(name)) != format_value(value)
    ]
    return [*found[:most], f"{len(found) - most} more"] if len(found) > most else found


def axis_of(info: LearningCurves) -> tuple[float, float, int]:
    """Return the range of the y axis, and how many results are outside of it."""
    values = [y for curve in info.curves for line in curve.lines for y in line.y if y is not None]
    # What the winner gave up when it copied another may have diverged.
    winner = [] if info.best is None else [y for line in info.curves[info.best].lines[-1:] for y in line.y]
    return robust_range(values, [y for y in winner if y is not None])


def ancestry_axis(info: Ancestry) -> tuple[float, float, int]:
    """Return the range of the y axis, and how many results are outside of it."""
    values = [y for stretch in info.stretches for y in stretch.line.y if y is not None]
    return robust_range(values, values[-1:]) if values else (0.0, 1.0, 0)


def gains_axes(found: Sequence[Gain]) -> tuple[tuple[float, float, int], tuple[float, float]]:
    """Return the ranges of the axes of scores, with how many scores are outside of it, and of changes."""
    scores = [each for gain in found for each in (gain.before, gain.copied, gain.after) if each is not None]
    changes = [gain.sign * each for gain in found if (each := finite(gain.gain)) is not None]
    low, high, _ = robust_range([*changes, 0.0], [0.0])
    return robust_range(scores), (low, high)


# ---------------------------------------------------------------------------------------------------------- diversity


@dataclass(frozen=True, slots=True)
class Band:
    """One area of the founders' shares."""

    label: str
    member: int | None
    """The founder's number; None for all others together."""
    colour: str
    counts: tuple[int, ...]


def bands(info: Diversity, theme: Theme) -> list[Band]:
    """Return the areas from the bottom up: the founders that matter most, and all others in one."""
    size = len(info.founders)
    peak = [max(entry[place] for entry in info.shares) for place in range(size)]
    final = info.shares[-1]
    order = sorted(range(size), key=lambda place: (-final[place], -peak[place], place))
    chosen = order if size <= _BANDS + 1 else order[:_BANDS]
    found = [
        Band(
            label_of(info.founders[place]),
            info.founders[place].index,
            theme.colour(rank),
            tuple([entry[place] for entry in info.shares]),
        )
        for rank, place in enumerate(chosen)
    ]
    rest = order[len(chosen) :]
    if rest:
        together = [sum(entry) for entry in info.shares]
        shown = [sum(counts) for counts in zip(*(band.counts for band in found), strict=True)]
        counts = tuple([whole - part for whole, part in zip(together, shown, strict=True)])
        found.append(Band(count(len(rest), "other founder"), None, theme.pale, counts))
    return found


def entries(info: Diversity, points: int | None) -> list[int]:
    """Return the places of the entries to draw: the last one at each ``x``, and of too many a few, evenly."""
    x = info.x
    kept = [place for place in range(len(x)) if place + 1 == len(x) or x[place + 1] != x[place]]
    if points is not None and len(kept) > points:
        kept = [kept[round(step * (len(kept) - 1) / (points - 1))] for step in range(points)]
    return kept


def moments(info: Diversity) -> list[tuple[float, str]]:
    """Return the moments that are marked, and what happened."""
    found: list[tuple[float, str]] = []
    if info.takeover is not None:
        found.append((info.x[info.takeover], "half from one founder"))
    if info.fixation is not None:
        found.append((info.x[info.fixation], "all from one founder"))
    return found


# ------------------------------------------------------------------------------------------------------------- places


def fanned(xs: Sequence[float], width: float) -> list[float]:
    """Return places on the x axis at which those that would be at one place lie side by side, within a width."""
    groups: dict[float, list[int]] = {}
    for place, x in enumerate(xs):
        groups.setdefault(x, []).append(place)
    found = list(xs)
    most = max(map(len, groups.values()), default=1)
    for x, places in groups.items():
        for step, place in enumerate(places):
            found[place] = x + (step - (len(places) - 1) / 2) * width / most
    return found


def fan_width(found: Sequence[Gain]) -> float:
    """Return the width in which copies of one moment lie side by side: most of the least distance of two moments."""
    places = sorted({gain.x for gain in found})
    return 0.7 * min((high - low for low, high in pairwise(places)), default=1.0)


def log_ticks(low: float, high: float) -> list[float]:
    """Return the places of ticks on a logarithmic axis, all of them short to write."""
    if not 0 < low < math.inf:
        return []
    decades = math.log10(high) - math.log10(low)
    begin, end = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if decades > 2.2:
        step = max(1, math.ceil(decades / 7))
        return [found for power in range(begin, end + 1, step) if low <= (found := 10.0**power) <= high]
    digits = (1, 2, 5) if decades > 0.7 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    return [
        found
        for power in range(begin, end + 1)
        for digit in digits
        if low <= (found := float(f"{digit}e{power}")) <= high
    ]


def ends(lines: Iterable[Line]) -> tuple[float, float] | None:
    """Return the least and the largest ``x`` of lines; None without a point."""
    found = [x for line in lines for x in (min(line.x, default=math.inf), max(line.x, default=-math.inf))]
    low, high = min(found, default=math.inf), max(found, default=-math.inf)
    return (low, high) if low <= high else None
