"""The statistics of the report card, against what one would count by hand."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.inference import expected_best, middle, quantile, rank_correlation, rank_sum_test, sign_test, spread

VALUES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=7)


@given(VALUES, st.data())
def test_the_expected_best_is_the_mean_over_all_subsets(values: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    bests = [max(subset) for subset in itertools.combinations(values, count)]
    assert expected_best(values, count) == pytest.approx(sum(bests) / len(bests))


@given(st.integers(0, 10), st.data())
def test_the_sign_test_counts_the_outcomes_that_are_as_unequal(cases: int, data: st.DataObject) -> None:
    better = data.draw(st.integers(0, cases))
    outcomes = list(itertools.product((0, 1), repeat=cases))
    unequal = [each for each in outcomes if abs(2 * sum(each) - cases) >= abs(2 * better - cases)]
    assert sign_test(better, cases) == pytest.approx(len(unequal) / len(outcomes))


def test_the_sign_test_of_very_many_cases_is_a_number() -> None:
    assert sign_test(1500, 3000) == pytest.approx(1.0)
    assert 0.0 <= sign_test(1300, 3000) < 1e-10


@given(VALUES)
def test_quantiles_lie_in_order_between_the_extremes(values: list[float]) -> None:
    found = [quantile(values, share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (min(values), max(values))
    assert middle(values) == found[2]


def test_the_middle_of_an_even_number_lies_between_the_two() -> None:
    assert middle([4.0, 1.0, 3.0, 2.0]) == 2.5
    assert spread([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]) == 2.0


def test_rank_correlation_sees_order_and_nothing_else() -> None:
    up = [(1.0, 10.0), (2.0, 20.0), (3.0, 1000.0)]
    assert rank_correlation(up) == pytest.approx(1.0)
    assert rank_correlation([(a, -b) for a, b in up]) == pytest.approx(-1.0)
    assert rank_correlation([(1.0, 5.0), (2.0, 5.0)]) is None


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=8))
def test_rank_correlation_is_that_of_ranks_with_ties_in_the_middle(pairs: list[tuple[int, int]]) -> None:
    def ranks(values: list[int]) -> list[float]:
        return [sum(v < value for v in values) + (values.count(value) + 1) / 2 for value in values]

    first, second = ranks([a for a, _ in pairs]), ranks([b for _, b in pairs])
    found = rank_correlation([(float(a), float(b)) for a, b in pairs])
    mean = (len(pairs) + 1) / 2
    above = sum((a - mean) * (b - mean) for a, b in zip(first, second, strict=True))
    below = math.sqrt(sum((a - mean) ** 2 for a in first) * sum((b - mean) ** 2 for b in second))
    assert found is None if not below else found == pytest.approx(above / below)


@given(st.lists(st.integers(0, 100), min_size=2, max_size=8, unique=True), st.data())
def test_the_rank_sum_test_counts_the_divisions_that_are_as_unequal(values: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(values) - 1))
    first, second = values[:size], values[size:]

    def ahead(group: tuple[int, ...] | list[int]) -> int:
        return sum(one > other for one in group for other in set(values) - set(group))

    def away(group: tuple[int, ...] | list[int]) -> float:
        return abs(ahead(group) - size * len(second) / 2)

    divisions = list(itertools.combinations(values, size))
    unequal = [each for each in divisions if away(each) >= away(first)]
    found = rank_sum_test([float(each) for each in first], [float(each) for each in second])
    assert found == pytest.approx(min(1.0, len(unequal) / len(divisions)))


def test_large_groups_and_ties_are_judged_by_the_normal_approximation() -> None:
    same = [float(place % 7) for place in range(100)]
    assert rank_sum_test(same, same) == pytest.approx(1.0, abs=0.01)
    assert rank_sum_test(same, [value + 3.0 for value in same]) < 1e-6
    assert rank_sum_test([1.0, 1.0], [1.0]) == 1.0
    assert rank_sum_test([], [1.0]) == 1.0
    drawn = [float((place * 37) % 101) for place in range(60)]
    exact, approximate = (rank_sum_test(drawn[:20], drawn[20:40]), rank_sum_test(drawn[:30], drawn[30:]))
    assert 0.0 < exact <= 1.0
    assert 0.0 < approximate <= 1.0
