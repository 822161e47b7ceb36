"""Fewer points for the same picture: of each bucket of points, the lowest and the highest remain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..errors import ConfigError
from .info import Line

__all__ = ["check_points", "pieces", "thin", "thin_all"]

_FEWEST = 4


def check_points(points: int | None) -> int | None:
    """Return how many points a line may have; None: all.

    Raises:
        ConfigError: it is no whole number of at least 4.
    """
    if points is None:
        return None
    if isinstance(points, bool) or not isinstance(points, int) or points < _FEWEST:
        raise ConfigError(f"points must be a whole number of at least {_FEWEST}, or None for all, but is {points!r}.")
    return points


def pieces(line: Line) -> Iterator[Line]:
    """Yield the unbroken pieces of a line: it breaks where a ``y`` is None, and those points are in none."""
    y = line.y
    if None not in y:
        if y:
            yield line
        return
    begin = 0
    for place in range(len(y) + 1):
        if place == len(y) or y[place] is None:
            if place > begin:
                yield Line(line.x[begin:place], y[begin:place])
            begin = place + 1


def thin_all(lines: Sequence[Line], points: int | None) -> list[Line]:
    """Return a curve's unbroken pieces with at most so many points together.

    Every piece keeps its first and last point. Only where there are so many pieces that this would be too many points,
    whole pieces are left out, evenly.

    Args:
        lines: the curve's lines, in their order.
        points: how many; None: all.
    """
    found = [piece for line in lines for piece in pieces(line)]
    total = sum(map(len, found))
    if points is None or total <= points:
        return found
    most = points // 2
    if len(found) > most:
        found = [found[round(step * (len(found) - 1) / (most - 1))] for step in range(most)]
        return [thin(piece, 2) for piece in found]
    # Two for each, and of the others each its share.
    spare, rest = points - 2 * len(found), total
    return [thin(piece, 2 + spare * len(piece) // rest) for piece in found]


def thin(line: Line, points: int) -> Line:
    """Return an unbroken line with at most ``points`` points, 2 or more: its ends, and extremes of what is between."""
    count = len(line)
    if count <= points:
        return line
    x, y = line.x, line.y
    inner = (points - 2) // 2
    kept = [0]
    for bucket in range(inner):
        begin, end = 1 + bucket * (count - 2) // inner, 1 + (bucket + 1) * (count - 2) // inner
        values: Sequence[float] = y[begin:end]  # type: ignore[assignment]  # no None in an unbroken line
        low, high = values.index(min(values)), values.index(max(values))
        if low > high:
            low, high = high, low
        kept.append(begin + low)
        if low != high:
            kept.append(begin + high)
    kept.append(count - 1)
    return Line(tuple([x[place] for place in kept]), tuple([y[place] for place in kept]))
