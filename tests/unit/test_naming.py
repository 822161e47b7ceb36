"""Names, numbers and text as people read them: in tags, titles, lines and tables."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core.reports import lookup
from shoal.display.table import exploit_line, overview
from shoal.display.text import Column, crop, format_config, format_duration, format_value, lay_out, printable, width_of
from shoal.naming import short_name, tag_of

from .stories import Story, make_info

ESCAPE = "\x1b"
NESTED = {"layers": [0.5672, {"width": 3}], "pair": (1, [7, 8]), "a": {"b/c": [4]}, "0": "zero"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("layers/0", 0.5672),
        ("layers/1/width", 3),
        ("pair/1/0", 7),
        ("a/b/c/0", 4),
        ("0", "zero"),
        ("layers/2", None),
        ("layers/-1", None),
        ("layers/x", None),
        ("layers/0/0", None),
        ("layers/", None),
        ("layers/" + "9" * 5000, None),
    ],
)
def test_lists_are_entered_by_index(path: str, value: Any) -> None:
    assert lookup(NESTED, path) == value


def test_the_short_name_of_an_index_keeps_the_lists() -> None:
    paths = ["lr", "opt/lr", "layers/0", "model/layers/0", "grid/0/1", "layers/0/width", "0"]
    assert [short_name(path) for path in paths] == ["lr", "lr", "layers/0", "layers/0", "grid/0/1", "width", "0"]


def test_a_tag_names_the_list_of_an_index() -> None:
    assert tag_of(0, {"layers/0": 0.5672, "layers/1": 3}) == "0_layers_0=0.5672,layers_1=3"
    assert tag_of(7, {"opt/lr": 0.1, "act": "relu"}) == "7_lr=0.1000,act=relu"
    assert tag_of(3, {}) == "3"


def test_parameters_inside_lists_have_titles_values_and_changes() -> None:
    story = Story(Path("/results"), info=make_info(parameters=["layers/0", "layers/1"]))
    story.add({"layers": [0.25, 8], "extra": [1]}, {"layers": [0.5, 8], "extra": [1]})
    for index in range(2):
        story.launch(index)
        story.report(index, save=True)
    view = overview(story.info, story.history, folder=story.folder, running_for=0)
    assert [(column.title, column.cells) for column in view.columns[-2:]] == [
        ("layers/0", ["0.25", "0.5"]),
        ("layers/1", ["8", "8"]),
    ]
    assert view.best.endswith(": layers/0=0.25, layers/1=8")
    line = exploit_line(story.exploit(0, 1, layers=[0.6, 8]), story.history, story.info)
    assert line.endswith(": layers/0 0.5 -> 0.6")


def test_a_trial_that_has_ended_is_shown_with_the_parameters_of_its_last_result() -> None:
    story = Story(Path("/results"))
    story.add_usual(2)
    story.report(1, save=True)
    story.report(0)
    story.exploit(0, 1, lr=0.7)
    story.finish(0)
    view = overview(story.info, story.history, folder=story.folder, running_for=0)
    assert next(column for column in view.columns if column.title == "lr").cells == ["0.1", "0.2"]


# ---------------------------------------------------------------------------------------------------- numbers and text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (0.123456789, "0.12346"),
        (1e-5, "1e-5"),
        (0.000123456, "0.00012346"),
        (1.23456789e-7, "1.2346e-7"),
        (123456.7, "1.2346e5"),
        (-0.5, "-0.5"),
        (0.0, "0"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (7, "7"),
        (999_999_999, "999999999"),
        (10**12, "1e12"),
        (10**400, "1000000000000000..."),
        (True, "True"),
        (None, "None"),
        ("adam", "adam"),
        ("x" * 50, "x" * 17 + "..."),
        ("a\nb\x1b[31m", "a b"),
        ([1, 2], "[1, 2]"),
        (np.float32(0.5), "0.5"),
        (np.int64(3), "3"),
        (len, "len"),
    ],
)
def test_values_are_short_and_legible(value: object, text: str) -> None:
    assert format_value(value) in (text, "1" + "0" * 16 + "...")


@given(st.floats() | st.integers() | st.text() | st.binary() | st.lists(st.integers()))
def test_any_value_fits_in_twenty_columns_and_one_line(value: object) -> None:
    text = format_value(value)
    assert width_of(text) <= 20
    assert "\n" not in text
    assert ESCAPE not in text


def test_durations() -> None:
    assert [format_duration(seconds) for seconds in (1.98, 59.4, 61, 3600, 86_399, 86_400, 200_000, -1)] == [
        "0:00:02",
        "0:00:59",
        "0:01:01",
        "1:00:00",
        "23:59:59",
        "1 d 0:00:00",
        "2 d 7:33:20",
        "0:00:00",
    ]


def test_configs_in_one_line() -> None:
    assert format_config({"lr": 0.1, "model": {"width": 8, "act": "relu"}}) == "lr=0.1, model/width=8, model/act=relu"
    assert format_config({"lr": 0.1, "model": {"width": 8}}, ["model/width", "gone"]) == "model/width=8, gone=None"


def test_decimal_points_stand_in_one_line() -> None:
    grid = lay_out([Column("lr", ["0.8", "0.07008", "12", "1e-5", "1.5e-5", "nan", "auto"], right=True)], None)
    assert grid.titles == ["      lr"]
    assert [row[0] for row in grid.rows] == [
        " 0.8    ",
        " 0.07008",
        "12      ",
        " 1e-5   ",
        " 1.5e-5 ",
        "     nan",
        "    auto",
    ]


def test_wide_characters_are_aligned() -> None:
    grid = lay_out([Column("name", ["日本", "abc"]), Column("x", ["1", "2"])], None)
    assert {width_of("  ".join(row)) for row in grid.rows} == {width_of("  ".join(grid.titles))}


@given(st.text(), st.integers(0, 30))
def test_cropped_text_is_never_wider_than_asked(text: str, width: int) -> None:
    assert width_of(crop(text, width, "…")) <= width
    assert crop(text, width_of(text), "…") == text


@given(st.text())
def test_printable_text_has_no_control_codes(text: str) -> None:
    assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", printable(text))
    kept = printable(text, colours=True)
    assert all(re.match(r"\x1b\[[0-9;]*m", kept[found.start() :]) for found in re.finditer(ESCAPE, kept))
