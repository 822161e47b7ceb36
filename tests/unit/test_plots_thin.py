from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.plots.info import Line
from shoal.plots.style import DARK, LIGHT, blend, place_labels, robust_range, theme_of
from shoal.plots.thin import check_points, pieces, thin, thin_all

values = st.one_of(st.none(), st.floats(-1e6, 1e6))
lines = st.lists(values, max_size=80).map(lambda y: Line(tuple(float(x) for x in range(len(y))), tuple(y)))


@given(lines)
def test_pieces_hold_all_points_that_have_a_value_in_order_and_never_cross_a_break(line: Line) -> None:
    found = list(pieces(line))
    assert [pair for piece in found for pair in zip(piece.x, piece.y, strict=True)] == [
        pair for pair in zip(line.x, line.y, strict=True) if pair[1] is not None
    ]
    assert all(piece.x == tuple(piece.x[0] + step for step in range(len(piece))) for piece in found)


@given(st.lists(lines, max_size=5), st.integers(4, 60))
def test_a_thinned_curve_has_no_more_points_than_asked_and_only_points_that_it_had(
    curve: list[Line], points: int
) -> None:
    found = thin_all(curve, points)
    had = [pair for line in curve for pair in zip(line.x, line.y, strict=True)]
    assert sum(map(len, found)) <= points
    assert all(pair in had for piece in found for pair in zip(piece.x, piece.y, strict=True))


@given(st.lists(st.floats(-1e6, 1e6), min_size=30, max_size=300))
def test_a_thinned_line_keeps_its_ends_and_its_lowest_and_highest_value(y: list[float]) -> None:
    line = Line(tuple(float(x) for x in range(len(y))), tuple(y))
    found = thin(line, 20)
    assert (found.x[0], found.x[-1]) == (line.x[0], line.x[-1])
    kept = [value for value in found.y if value is not None]
    assert (min(kept), max(kept)) == (min(y), max(y))
    assert list(found.x) == sorted(found.x)


def test_breaks_stay_where_there_is_room_for_them() -> None:
    line = Line(tuple(map(float, range(100))), tuple(None if x % 25 == 24 else float(x) for x in range(100)))
    found = thin_all([line], 40)
    assert [(piece.x[0], piece.x[-1]) for piece in found] == [(0, 23), (25, 48), (50, 73), (75, 98)]


def test_without_a_limit_nothing_is_left_out() -> None:
    line = Line((1.0, 2.0, 3.0), (1.0, 1.0, 1.0))
    assert thin_all([line], None) == [line]


@pytest.mark.parametrize("points", [3, 0, -1, 2.5, "many", True])
def test_a_number_of_points_that_makes_no_picture_is_refused(points: object) -> None:
    with pytest.raises(ConfigError, match="points must be a whole number of at least 4"):
        check_points(points)  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_labels_do_not_overlap_and_keep_their_order(wanted: list[float]) -> None:
    places = place_labels(wanted, 0.1, 0.0, 2.0)
    order = sorted(range(len(wanted)), key=lambda place: (wanted[place], place))
    ordered = [places[place] for place in order]
    assert all(high - low > 0.1 - 1e-9 for low, high in pairwise(ordered))
    assert all(-1e-9 <= place <= 2.0 + 1e-9 for place in places)


def test_labels_that_have_room_are_where_they_should_be() -> None:
    assert place_labels([0.9, 0.1, 0.5], 0.1, 0.0, 1.0) == pytest.approx([0.9, 0.1, 0.5])
    assert place_labels([0.5, 0.5], 0.2, 0.0, 1.0) == pytest.approx([0.4, 0.6])


def test_more_labels_than_there_is_room_for_share_it() -> None:
    assert place_labels([0.5] * 5, 1.0, 0.0, 1.0) == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])


def test_a_member_that_diverged_does_not_flatten_the_others() -> None:
    values = [0.1 + 0.001 * step for step in range(200)]
    low, high, outside = robust_range([*values, 1e9, 2e9])
    assert outside == 2
    assert low < 0.1
    assert 0.3 < high < 1.0
    assert robust_range([*values, 1e9], always=[1e9])[2] == 0


def test_a_range_of_one_value_is_not_empty() -> None:
    for value in (0.0, 5.0, -3.0, 1e308, -1e308):
        low, high, outside = robust_range([value, value])
        assert low < value < high
        assert outside == 0


def test_the_better_a_score_is_the_more_it_stands_out_from_the_background() -> None:
    def distance(first: str, second: str) -> int:
        return sum(abs(int(first[at : at + 2], 16) - int(second[at : at + 2], 16)) for at in (1, 3, 5))

    for theme in (LIGHT, DARK):
        assert distance(theme.score(1.0), theme.background) > distance(theme.score(0.0), theme.background)
    assert blend("#000000", "#ffffff", 0.5) == "#808080"


def test_an_unknown_theme_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"theme must be 'light' or 'dark', but is 'drak'\. Did you mean 'dark'\?"):
        theme_of("drak")
