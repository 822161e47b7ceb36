"""The few statistics that a report card needs. Pure, on plain numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

__all__ = [
    "between",
    "expected_best",
    "middle",
    "quantile",
    "rank_correlation",
    "rank_sum_test",
    "sign_test",
    "spread",
]


def middle(values: Sequence[float]) -> float:
    """Return the median of one value or more."""
    return quantile(values, 0.5)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of the others, 0 to 1, is below, interpolated between the two nearest."""
    return between(sorted(values), share * (len(values) - 1))


def between(values: Sequence[float], place: float) -> float:
    """Return the value at a place, counted from 0, interpolated between the two next to it."""
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    part = place - low
    return values[low] * (1.0 - part) + values[high] * part  # the difference of two large ones may be too large


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation of one value or more, as of a whole population."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def sign_test(better: int, cases: int) -> float:
    """Return the chance that a fair coin shows as unequal a result, or one that is more so: a two-sided sign test.

    Args:
        better: how many cases went one way, 0 to ``cases``.
        cases: all that went one way or the other; for none, the chance is 1.
    """
    if not cases:
        return 1.0
    extreme = min(better, cases - better)
    # By logarithms, and from the largest term down: of thousands of cases the numbers are too large for floats.
    log_ways = math.lgamma(cases + 1) - math.lgamma(extreme + 1) - math.lgamma(cases - extreme + 1)
    term = total = 1.0
    for count in range(extreme, 0, -1):
        term *= count / (cases - count + 1)
        total += term
        if term < total * 1e-17:
            break
    return min(1.0, 2 * total * math.exp(log_ways - cases * math.log(2)))


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Spearman's rank correlation, -1 to 1, of two pairs or more; None where one side is all equal.

    Source: Spearman (1904); equal values share the mean of their ranks.
    """
    first, second = (_ranks([pair[side] for pair in pairs]) for side in (0, 1))
    center = (len(pairs) + 1) / 2
    spreads = [math.fsum((rank - center) ** 2 for rank in ranks) for ranks in (first, second)]
    if not all(spreads):
        return None
    together = math.fsum((a - center) * (b - center) for a, b in zip(first, second, strict=True))
    return together / math.sqrt(spreads[0] * spreads[1])


def expected_best(values: Sequence[float], count: int) -> float:
    """Return the expected largest of ``count`` values drawn from these without putting them back.

    Args:
        values: at least ``count``.
        count: 1 or more.
    """
    ordered = sorted(values)
    ways = math.comb(len(ordered), count)
    return math.fsum(math.comb(place, count - 1) / ways * value for place, value in enumerate(ordered))


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, from 1; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    begin = 0
    while begin < len(order):
        end = begin
        while end < len(order) and values[order[end]] == values[order[begin]]:
            end += 1
        for place in order[begin:end]:
            ranks[place] = (begin + 1 + end) / 2
        begin = end
    return ranks


def rank_sum_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the chance that two groups differ so much, or more, where they are drawn from the same: two-sided.

    The rank-sum test of Mann and Whitney (1947); exact, by counting, where the groups are small and no two values are
    equal, else by the normal approximation with a correction for ties. 1 where a group is empty.
    """
    if not first or not second:
        return 1.0
    ranks = _ranks([*first, *second])
    statistic = math.fsum(ranks[: len(first)]) - len(first) * (len(first) + 1) / 2
    if len(first) * len(second) <= 400 and len(set(ranks)) == len(ranks):
        return _exact_rank_sum(round(statistic), len(first), len(second))
    return _normal_rank_sum(statistic, ranks, len(first), len(second))


def _exact_rank_sum(statistic: int, first: int, second: int) -> float:
    """Return the two-sided chance of Mann and Whitney's U, by counting all orders of two groups.

    How many orders lead to each U are the coefficients of a Gaussian binomial.
    """
    ways = [1] + [0] * (first * second)
    for size in range(1, first + 1):
        for value in range(first * second, second + size - 1, -1):
            ways[value] -= ways[value - second - size]
        for value in range(size, first * second + 1):
            ways[value] += ways[value - size]
    low = min(statistic, first * second - statistic)
    return min(1.0, 2 * sum(ways[: low + 1]) / sum(ways))


def _normal_rank_sum(statistic: float, ranks: Sequence[float], first: int, second: int) -> float:
    count = first + second
    ties = sum(size**3 - size for size in Counter(ranks).values())
    variance = first * second / 12 * (count + 1 - ties / (count * (count - 1)))
    if variance <= 0:
        return 1.0
    away = max(0.0, abs(statistic - first * second / 2) - 0.5) / math.sqrt(variance)
    return math.erfc(away / math.sqrt(2))
