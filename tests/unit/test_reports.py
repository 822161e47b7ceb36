"""The rules of a report: what it must hold, when it waits, when it ends the trial."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core.events import Reported
from shoal.core.reports import (
    ReportRules,
    check_report,
    flatten,
    lookup,
    number,
    progress,
    reader,
    stop_reason,
    value_of,
    waits,
)
from shoal.errors import ReportError

AUTOMATIC = {"training_iteration": 4, "time_total_s": 2.5}


def complaint(rules: ReportRules, metrics: dict[str, Any], has_checkpoint: bool = False) -> str:
    with pytest.raises(ReportError) as raised:
        check_report(rules, metrics, AUTOMATIC, has_checkpoint)
    return str(raised.value)


# ---- Looking values up -----------------------------------------------------------------------------------------------


def test_nested_metrics_flatten_to_paths() -> None:
    assert dict(flatten({"a": 1, "val": {"acc": 0.5, "per": {"cat": 0.1}}, "empty": {}})) == {
        "a": 1,
        "val/acc": 0.5,
        "val/per/cat": 0.1,
        "empty": {},
    }


@pytest.mark.parametrize(
    ("metrics", "name", "value"),
    [
        ({"acc": 1}, "acc", 1),
        ({"val": {"acc": 1}}, "val/acc", 1),
        ({"val/acc": 1}, "val/acc", 1),
        ({"val/acc": 1, "val": {"acc": 2}}, "val/acc", 1),
        ({"a/b": {"c": 1}}, "a/b/c", 1),
        ({"a": {"b/c": 1}}, "a/b/c", 1),
        ({"a": {"x": 0}, "a/b": {"c": 1}}, "a/b/c", 1),
        ({"a": 3}, "a/b", None),
        ({"a": {"b": 3}}, "b", None),
        ({}, "a/b/c", None),
        ({"a": {"b": 1}}, "a", {"b": 1}),
    ],
)
def test_a_value_is_found_by_its_path(metrics: dict[str, Any], name: str, value: object) -> None:
    assert lookup(metrics, name) == value


_keys = st.text("ab/", min_size=1, max_size=3)
_metrics = st.recursive(
    st.dictionaries(_keys, st.integers(), min_size=1, max_size=3),
    lambda inner: st.dictionaries(_keys, st.one_of(st.integers(), inner), min_size=1, max_size=3),
    max_leaves=8,
)


@given(_metrics)
def test_every_path_of_flattened_metrics_leads_to_one_of_its_values(metrics: dict[str, Any]) -> None:
    for name, _ in flatten(metrics):
        # Two values can have the same path, {"a/b": 1, "a": {"b": 2}}; and a path may also name a dict on the way.
        found = lookup(metrics, name)
        assert isinstance(found, dict) or found in [value for path, value in flatten(metrics) if path == name]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        (True, 1.0),
        (0.5, 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3.0),
        (np.array(2.0), 2.0),
        (Fraction(1, 2), 0.5),
        (Decimal("0.5"), 0.5),
        (math.inf, math.inf),
        (10**400, math.inf),
        (-(10**400), -math.inf),
    ],
)
def test_numbers_are_numbers_whatever_their_type(value: object, expected: float) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("score", 0.5),
        ("count", 3.0),
        ("val/acc", 0.25),
        ("flat/path", 7.0),
        ("text", None),
        ("nothing", None),
        ("missing", None),
        ("training_iteration", 4.0),
        ("time_total_s", 2.5),
        ("timestamp", 0.0),
    ],
)
def test_a_reader_reads_what_a_look_up_finds(name: str, expected: float | None) -> None:
    metrics = {"score": 0.5, "count": 3, "val": {"acc": 0.25}, "flat/path": 7, "text": "x", "nothing": None}
    report = Reported("a", 1, 4, metrics, waiting=False, time_total_s=2.5)
    found = reader(name)(report)
    assert found == expected == number(value_of(report, name))
    assert found is None or type(found) is float


def test_without_a_name_a_reader_reads_nothing() -> None:
    assert reader(None)(Reported("a", 1, 1, {"score": 1.0}, waiting=False)) is None


def test_nan_is_a_number() -> None:
    found = number(math.nan)
    assert found is not None
    assert math.isnan(found)


@pytest.mark.parametrize("value", [None, "1.0", b"1", [1.0], {"a": 1}, object(), 1j])
def test_what_is_no_number_is_none(value: object) -> None:
    assert number(value) is None


# ---- What a report must hold -----------------------------------------------------------------------------------------


def test_a_good_report_passes() -> None:
    rules = ReportRules("val/acc", stop={"time_total_s": 5, "loss": 1}, rank="loss")
    check_report(rules, {"val": {"acc": math.nan}, "loss": 2}, AUTOMATIC, has_checkpoint=True)


def test_a_report_without_the_metric_names_what_is_there_and_what_was_probably_meant() -> None:
    text = complaint(ReportRules("mean_accuracy"), {"mean_acuracy": 0.5, "val": {"loss": 1.0}})
    assert "'mean_accuracy' (the metric)" in text
    assert "Did you mean 'mean_acuracy'?" in text
    assert "'mean_acuracy', 'val/loss'" in text
    assert "training_iteration, time_total_s" in text


def test_an_empty_report_is_said_to_hold_nothing() -> None:
    assert "The report has: nothing." in complaint(ReportRules("acc"), {})


def test_an_automatic_value_can_be_the_metric() -> None:
    check_report(ReportRules("time_total_s"), {}, AUTOMATIC, has_checkpoint=False)


@pytest.mark.parametrize("value", ["0.9", [0.9], {"acc": 0.9}])
def test_a_metric_that_is_no_number_is_shown_with_its_type(value: object) -> None:
    text = complaint(ReportRules("acc"), {"acc": value})
    assert "must be a number" in text
    assert repr(value) in text
    assert f"({type(value).__name__})" in text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_a_metric_may_be_not_finite_but_progress_may_not(value: float) -> None:
    check_report(ReportRules("acc"), {"acc": value}, AUTOMATIC, has_checkpoint=False)
    text = complaint(ReportRules("acc", time_attr="epoch"), {"acc": 1.0, "epoch": value})
    assert "time_attr" in text
    assert "finite" in text


def test_a_report_without_the_time_attr_is_an_error() -> None:
    assert "'epoch' (the scheduler's time_attr)" in complaint(ReportRules("acc", time_attr="epoch"), {"acc": 1.0})


def test_where_nothing_is_required_metric_and_time_attr_may_be_missing_but_not_be_text() -> None:
    rules = ReportRules("acc", time_attr="epoch", required=False)
    check_report(rules, {}, AUTOMATIC, has_checkpoint=False)
    assert "must be a number" in complaint(rules, {"acc": "high"})


def test_a_report_without_a_key_of_stop_is_an_error() -> None:
    assert "'acc' (a key of RunConfig(stop=...))" in complaint(ReportRules(stop={"acc": 0.9}), {"loss": 1.0})


def test_the_checkpoint_score_is_needed_only_with_a_checkpoint() -> None:
    rules = ReportRules(rank="acc")
    check_report(rules, {}, AUTOMATIC, has_checkpoint=False)
    assert "checkpoint_score_attribute" in complaint(rules, {}, has_checkpoint=True)


# ---- Stopping and waiting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "stops"), [(0.95, False), (0.96, True), (0.97, True), (math.nan, False)])
def test_the_trial_ends_with_the_first_report_that_reaches_a_bound(value: float, stops: bool) -> None:
    reason = stop_reason(ReportRules(stop={"acc": 0.96}), {"acc": value}, AUTOMATIC)
    assert (reason is not None) == stops


def test_the_reason_names_key_value_and_bound() -> None:
    assert (
        stop_reason(ReportRules(stop={"val/acc": 0.5}), {"val": {"acc": 0.75}}, {}) == "val/acc is 0.75, at least 0.5"
    )


def test_any_of_several_bounds_ends_the_trial() -> None:
    rules = ReportRules(stop={"acc": 0.96, "training_iteration": 4})
    assert stop_reason(rules, {"acc": 0.1}, AUTOMATIC) == "training_iteration is 4, at least 4"
    assert stop_reason(rules, {"acc": 0.1}, {"training_iteration": 3}) is None


def waits_upon(rules: ReportRules, until: float | None, metrics: dict[str, Any]) -> bool:
    return waits(rules, until, progress(rules, metrics, AUTOMATIC))


@pytest.mark.parametrize(("until", "wait"), [(None, False), (3.0, True), (4.0, True), (4.5, False)])
def test_a_report_waits_from_its_boundary_on(until: float | None, wait: bool) -> None:
    assert waits_upon(ReportRules(), until, {}) == wait


def test_progress_can_be_measured_by_what_the_user_reports() -> None:
    rules = ReportRules(time_attr="info/frames")
    assert waits_upon(rules, 1000, {"info": {"frames": 1000}})
    assert not waits_upon(rules, 1000, {"info": {"frames": 999}})


def test_a_report_without_progress_does_not_wait() -> None:
    assert not waits_upon(ReportRules(time_attr="epoch", required=False), 0.0, {})


def test_every_report_waits_where_a_stopper_looks_at_each() -> None:
    assert waits_upon(ReportRules(always_wait=True), None, {})
