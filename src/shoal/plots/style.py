"""How plots look, whichever renderer draws them: colours for a light and for a dark background, places of labels.

Categories have the palette of Okabe and Ito, which people with any colour vision can tell apart; on a dark background
its darker hues are lightened. Scores have viridis, turned so that what is better stands out from the background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ConfigError, did_you_mean
from ..inference import quantile

__all__ = [
    "DARK", "LIGHT", "THEMES", "Theme", "blend", "clipped", "drawable", "not_diverged", "place_labels",
    "robust_range", "theme_of",
]  # fmt: skip

_VIRIDIS = (
    "#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151", "#bddf26",
    "#fde725",
)  # fmt: skip


_DIVERGED = 1e6
_LARGEST = 1.79e308
_LONGEST = 1e307
"""No axis is longer: what is drawn is computed in floats, margins included."""


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours for one kind of background."""

    name: str
    background: str
    """What the colours are made for. Interactive figures are transparent and show what is behind them."""
    ink: str
    """Text, and what is drawn in the front without a meaning of its own."""
    muted: str
    """Second-rank text."""
    grid: str
    pale: str
    """Lines of members that are there for comparison only."""
    winner: str
    better: str
    worse: str
    palette: tuple[str, ...]
    """Categories, the winner's colour not among them."""
    scale: tuple[str, ...]
    """Scores, the worst first, evenly spaced."""
    training: str
    saving: str
    loading: str
    waiting: str

    def score(self, part: float, *, neutral: bool = False) -> str:
        """Return the colour of a score, given how good it is from 0 to 1; how large, where nobody said what is good."""
        scale = self.neutral if neutral else self.scale
        place = min(1.0, max(0.0, part)) * (len(scale) - 1)
        low = min(int(place), len(scale) - 2)
        return blend(scale[low], scale[low + 1], place - low)

    @property
    def neutral(self) -> tuple[str, ...]:
        """Values of which none is better than another, the smallest first, evenly spaced: shades of one hue."""
        first, last = blend(self.background, self.training, 0.3), blend(self.training, self.ink, 0.8)
        return tuple(blend(first, last, step / 10) for step in range(11))

    def colour(self, place: int) -> str:
        """Return the colour of a category; they come again after the last."""
        return self.palette[place % len(self.palette)]


LIGHT = Theme(
    name="light",
    background="#ffffff",
    ink="#1d2733",
    muted="#5a6675",
    grid="#e4e8ed",
    pale="#b9c1cb",
    winner="#d55e00",
    better="#0072b2",
    worse="#e69f00",
    palette=("#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7d6bb0", "#8a8f3c"),
    scale=tuple(reversed(_VIRIDIS[:-1])),
    training="#0072b2",
    saving="#e69f00",
    loading="#cc79a7",
    waiting="#d3d9e0",
)
DARK = Theme(
    name="dark",
    background="#12171d",
    ink="#e8ecf1",
    muted="#9fabb8",
    grid="#2a323c",
    pale="#6d7a89",
    winner="#ff8f3f",
    better="#56b4e9",
    worse="#e6b93d",
    palette=("#56b4e9", "#2fc397", "#e39ac4", "#f0e442", "#a99be0", "#c9a46a", "#9fb3c8"),
    scale=_VIRIDIS[1:],
    training="#56b4e9",
    saving="#e6b93d",
    loading="#e39ac4",
    waiting="#3a4450",
)
THEMES = {theme.name: theme for theme in (LIGHT, DARK)}


def theme_of(name: str) -> Theme:
    """Return a theme by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    found = THEMES.get(name) if isinstance(name, str) else None
    if found is None:
        raise ConfigError(
            f"theme must be {' or '.join(map(repr, THEMES))}, but is {name!r}.{did_you_mean(str(name), THEMES)}"
        )
    return found


def blend(first: str, second: str, part: float) -> str:
    """Return a colour between two, both ``#rrggbb``: 0 is the first, 1 the second."""
    pairs = ((int(first[place : place + 2], 16), int(second[place : place + 2], 16)) for place in (1, 3, 5))
    return "#" + "".join(f"{round(low + (high - low) * part):02x}" for low, high in pairs)


def robust_range(values: Sequence[float], always: Sequence[float] = ()) -> tuple[float, float, int]:
    """Return the range that an axis should show, and how many values are outside of it.

    Where some values are far from all others, as those of members that diverged, they are left outside.

    Args:
        values: at least one, finite.
        always: values that have to be inside.
    """
    ordered = sorted(values)
    near = not_diverged(ordered)
    diverged = len(near) < len(ordered)
    low, high = near[0], near[-1]
    tail = 0.1 if diverged else 0.03
    inner_low, inner_high = quantile(near, tail), quantile(near, 1 - tail)
    middle = inner_high - inner_low
    if middle > 0 and high / 12 - low / 12 > middle:
        low = max(low, inner_low - 0.5 * middle)
        high = min(high, inner_high + 0.5 * middle)
    if len(always):
        low, high = min(low, *always), max(high, *always)
    margin = (high / 2 - low / 2) * 0.1
    if margin <= 0:
        margin = abs(low) * 0.05 or 0.5
    low, high = drawable(max(low - margin, -_LARGEST), min(high + margin, _LARGEST))
    return low, high, sum(not low <= value <= high for value in ordered)


def drawable(low: float, high: float) -> tuple[float, float]:
    """Return a range, made shorter where it is so long that renderers could not compute with it."""
    if high / 2 - low / 2 <= 0.6 * _LONGEST:
        return low, high
    low, high = max(low, -_LONGEST / 2), min(high, _LONGEST / 2)
    return (low, high) if low < high else (low, low + _LONGEST) if low > 0 else (high - _LONGEST, high)


def not_diverged(ordered: Sequence[float]) -> Sequence[float]:
    """Return those of sorted values that are not a million times as far from where most are as these are apart.

    As long as at least a quarter of the values is at one place, a loss that grew without bounds is not among them.
    """
    size = len(ordered)
    window = size // 4
    if size < 8:
        return ordered
    near = ordered
    # A half of all tells best where most are; where more than half have diverged, a quarter does.
    for count in (size // 2, window):
        width, begin = min((ordered[place + count] / 2 - ordered[place] / 2, place) for place in range(size - count))
        room = width * _DIVERGED
        if width > 0 and room < math.inf:
            low, high = ordered[begin] / 2 - room, ordered[begin + count] / 2 + room
            near = [value for value in near if low <= value / 2 <= high]
    return near


def clipped(values: Sequence[float | None], low: float, high: float) -> list[float | None]:
    """Return values of which none is further outside of an axis than ten times its length."""
    low, high = float(low), float(high)  # numbers of NumPy's would warn
    far = 10 * (high / 2 - low / 2)
    least, most = max(low - far, -_LARGEST), min(high + far, _LARGEST)
    return [None if value is None else min(most, max(least, value)) for value in values]


def place_labels(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return where labels go so that they do not overlap, each as near as can be to where it should be.

    Args:
        wanted: where each should be, in any order.
        gap: the least distance between two.
        low, high: where the first and the last may be; exceeded only where there is not enough room for all.
    """
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    gap = min(gap, (high - low) / max(1, len(order) - 1)) if high > low else gap
    # Labels that push each other form blocks, which lie around the middle of what their labels want.
    blocks: list[tuple[float, int]] = []  # sum of what their labels want of the first label, number of labels
    for place in order:
        total, count = wanted[place], 1
        while blocks and blocks[-1][0] / blocks[-1][1] + gap * blocks[-1][1] > total / count:
            before, size = blocks.pop()
            total, count = before + total - gap * size * count, count + size
        blocks.append((total, count))
    places = [total / count + gap * step for total, count in blocks for step in range(count)]
    for step in range(len(places)):  # inside the limits, from both ends
        places[step] = max(places[step], low + gap * step)
    for step in range(len(places) - 1, -1, -1):
        places[step] = min(places[step], high - gap * (len(places) - 1 - step))
    found = [0.0] * len(wanted)
    for step, place in enumerate(order):
        found[place] = places[step]
    return found
