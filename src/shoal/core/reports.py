"""Rules of a report: which values it must hold, and when the member has to wait for a decision.

Pure functions, used inside the member's process (so that an error appears at the user's own line) and by simulations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from ..errors import ReportError, did_you_mean
from .events import Metrics, Reported

__all__ = [
    "AUTOMATIC",
    "DONE",
    "NO_ROOM",
    "ReportRules",
    "at_boundary",
    "check_report",
    "flatten",
    "lookup",
    "number",
    "progress",
    "reader",
    "stop_met",
    "stop_reason",
    "value_of",
    "waits",
]

AUTOMATIC = (
    "training_iteration",
    "time_this_iter_s",
    "time_total_s",
    "time_since_restore",
    "iterations_since_restore",
    "timestamp",
    "date",
    "trial_id",
    "pid",
    "hostname",
    "node_ip",
    "done",
    "config",
    "checkpoint_dir_name",
    "should_checkpoint",
)
"""Keys that every result has, whatever the user reports."""


DONE = "the trainable reported done"
"""Why a trial ends whose report holds ``"done": True``."""

NO_ROOM = "there is no room on the disk"
"""How the reason begins for which a whole experiment ends where a member had no room for what it had to write."""


@dataclass(frozen=True, slots=True)
class ReportRules:
    """What every report of an experiment must hold, and what makes it wait. The same for all members."""

    metric: str | None = None
    time_attr: str = "training_iteration"
    required: bool = True
    """Whether a report without ``metric`` or ``time_attr`` is an error."""
    stop: Mapping[str, float] = field(default_factory=dict)
    """The trial ends with the first report in which one of these keys is at least the given value."""
    always_wait: bool = False
    """Every report waits: a stopper in the driver looks at each."""
    rank: str | None = None
    """``checkpoint_score_attribute``, which reports with a checkpoint must hold."""
    save_every: int = 0
    """A class trainable saves after so many iterations; 0: only where it is needed."""
    save_at_end: bool = False
    """A class trainable saves with its last report."""


def flatten(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested metrics as ``("val/acc", value)``."""
    for key, value in metrics.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def lookup(metrics: Mapping[str, Any], name: str) -> Any:
    """Return the value called ``name``, which may be a path such as ``val/acc``; None where there is none.

    A list is entered by its index: ``layers/0``.
    """
    if name in metrics:
        return metrics[name]
    head, slash, tail = name.partition("/")
    while slash:
        if (found := _inside(metrics.get(head), tail)) is not None:
            return found
        more, slash, tail = tail.partition("/")
        head = f"{head}/{more}"
    return None


def _inside(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return lookup(value, name)
    if isinstance(value, list | tuple):
        head, slash, tail = name.partition("/")
        if head.isascii() and head.isdigit() and len(head) < 10 and int(head) < len(value):
            element = value[int(head)]
            return _inside(element, tail) if slash else element
    return None


_AUTOMATIC_NUMBERS = {
    "training_iteration": "iteration",
    "time_this_iter_s": "time_this_iter_s",
    "time_total_s": "time_total_s",
    "time_since_restore": "time_since_restore",
    "iterations_since_restore": "iterations_since_restore",
    "timestamp": "timestamp",
}
"""Automatic values that can be compared, and where a report has them."""


def value_of(event: Reported, name: str) -> Any:
    """Return a value of a report: an automatic one, or else what the user reported under this name, or None."""
    attribute = _AUTOMATIC_NUMBERS.get(name)
    return lookup(event.metrics, name) if attribute is None else getattr(event, attribute)


def number(value: Any) -> float | None:
    """Return ``value`` as a float, or None where it is no number. NaN and infinities are numbers."""
    if type(value) is float:
        return value
    if value is None or isinstance(value, (str, bytes)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):
        return None


def reader(name: str | None) -> Callable[[Reported], float | None]:
    """Return what reads one value of a report, as :func:`number` does; nothing where ``name`` is None."""
    if name is None:
        return lambda report: None
    attribute = _AUTOMATIC_NUMBERS.get(name)
    if attribute is not None:
        automatic = attrgetter(attribute)
        return lambda report: number(automatic(report))

    def read(report: Reported) -> float | None:
        value = report.metrics.get(name)
        return value if type(value) is float else number(lookup(report.metrics, name))

    return read


def check_report(rules: ReportRules, metrics: Metrics, automatic: Mapping[str, Any], has_checkpoint: bool) -> None:
    """Raise ReportError unless the report holds what the experiment needs.

    Args:
        rules: the experiment's rules.
        metrics: what the user reported.
        automatic: the values that Shoal adds itself.
        has_checkpoint: whether a checkpoint came with the report.
    """
    if rules.required:
        if rules.metric is not None:
            _need(rules.metric, "the metric", metrics, automatic, finite=False)
        _need(rules.time_attr, "the scheduler's time_attr", metrics, automatic, finite=True)
    elif rules.metric is not None and lookup(metrics, rules.metric) is not None:
        _need(rules.metric, "the metric", metrics, automatic, finite=False)
    for key in rules.stop:
        _need(key, "a key of RunConfig(stop=...)", metrics, automatic, finite=False)
    if has_checkpoint and rules.rank is not None:
        _need(rules.rank, "checkpoint_score_attribute", metrics, automatic, finite=False)


def _need(name: str, what: str, metrics: Metrics, automatic: Mapping[str, Any], *, finite: bool) -> None:
    value = _reported(name, metrics, automatic)
    if value is None and name in metrics:
        raise ReportError(
            f"tune.report: {name!r} ({what}) must be a number, but is None. Report it as a float or an int."
        )
    if value is None:
        there = [key for key, _ in flatten(metrics)]
        allowed = sorted({*there, *automatic})
        raise ReportError(
            f"tune.report: {name!r} ({what}) is not in this report.{did_you_mean(name, allowed)} "
            f"The report has: {', '.join(map(repr, there)) or 'nothing'}. Automatic: {', '.join(automatic)}. "
            f"Report {name!r} with every call, or name one of these keys instead."
        )
    as_number = number(value)
    if as_number is None:
        raise ReportError(
            f"tune.report: {name!r} ({what}) must be a number, but is {value!r} ({type(value).__name__}). "
            f"Report it as a float or an int."
        )
    if finite and not math.isfinite(as_number):
        raise ReportError(f"tune.report: {name!r} ({what}) must be a finite number, but is {value!r}.")


def stop_reason(rules: ReportRules, metrics: Metrics, automatic: Mapping[str, Any]) -> str | None:
    """Return why the trial ends with this report, or None."""
    return stop_met(rules.stop, lambda key: _reported(key, metrics, automatic)) if rules.stop else None


def stop_met(stop: Mapping[str, float], read: Callable[[str], Any]) -> str | None:
    """Return which condition is met, in words, by the values that ``read`` returns; or None."""
    for key, bound in stop.items():
        value = number(read(key))
        if value is not None and value >= bound:
            return f"{key} is {value:g}, at least {bound:g}"
    return None


def waits(rules: ReportRules, until: float | None, reached: float | None) -> bool:
    """Return whether the member has to wait for a decision after a report, stop conditions aside.

    Args:
        rules: the experiment's rules.
        until, reached: as for :func:`at_boundary`.
    """
    return rules.always_wait or at_boundary(until, reached)


def at_boundary(until: float | None, reached: float | None) -> bool:
    """Return whether the scheduler decides about the member upon a report.

    Args:
        until: where it decides next.
        reached: the :func:`progress` of the report.
    """
    return until is not None and reached is not None and reached >= until


def progress(rules: ReportRules, metrics: Metrics, automatic: Mapping[str, Any]) -> float | None:
    """Return the scheduler's ``time_attr`` of a report, or None where it is not there."""
    return number(_reported(rules.time_attr, metrics, automatic))


def _reported(name: str, metrics: Metrics, automatic: Mapping[str, Any]) -> Any:
    """Return a value of a report: an automatic one, or else what the user reported under this name, or None."""
    value = automatic.get(name)
    return lookup(metrics, name) if value is None else value
