"""The one number that a trial's values come to, as ``ResultGrid.get_best_result`` counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["in_scope"]


def in_scope(values: Sequence[float | None], scope: str, sign: float) -> float | None:
    """Return the value that counts; None where there is none.

    Args:
        values: of all results of a trial, oldest first; None where one lacks the metric.
        scope: ``last``, ``all``, ``avg``, ``last-5-avg`` or ``last-10-avg``.
        sign: 1 where larger is better, -1 where smaller is.
    """
    found = [value for value in values if value is not None]
    if not found:
        return None
    if scope == "last":
        return found[-1]
    if scope == "all":
        finite = [value for value in found if math.isfinite(value)]
        return max(finite, key=lambda value: sign * value) if finite else None
    taken = found if scope == "avg" else found[-int(scope.split("-")[1]) :]
    return sum(taken) / len(taken)
