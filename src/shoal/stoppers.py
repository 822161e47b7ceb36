"""Stoppers: objects for ``RunConfig(stop=...)`` that end a trial, or all of them, when something holds.

The driver shows a stopper every result, one after the other, and then asks ``stop_all()``. Because it looks at every
result, each member waits after each report; a dict such as ``stop={"training_iteration": 50}`` costs no waiting, and is
the better choice where it says what you mean.

What Population Based Training does to results, and what that means here:

* After an exploit a trial's ``training_iteration`` goes on from its donor's, which may be further or less far, and its
  score jumps to about the donor's.
* A trial that is tried again after a failure repeats iterations. So that a repetition does not look like a plateau, the
  plateau stoppers put a result in the place of the trial's earlier results from its ``training_iteration`` on.
* A score that is NaN or infinite is never part of a plateau. A result without the metric does not count.

A stopper's memory lives as long as the driver's process. When an experiment is restored, its stopper begins anew, as it
was given to ``RunConfig``: it has not seen what was reported before.
"""

from __future__ import annotations

import datetime
import inspect
import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from .arguments import check_arguments
from .core.reports import AUTOMATIC, flatten, lookup, number
from .errors import ConfigError, did_you_mean
from .naming import trainable_name

__all__ = [
    "CombinedStopper",
    "ExperimentPlateauStopper",
    "FunctionStopper",
    "MaximumIterationStopper",
    "NoopStopper",
    "Stopper",
    "TimeoutStopper",
    "TrialPlateauStopper",
]


class Stopper(ABC):
    """Base class of stoppers. Give both methods. They are called in the driver: both after each
    result, and ``stop_all`` also several times a second in between."""

    @abstractmethod
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return True to end the trial with this result.

        Args:
            trial_id: its id.
            result: what was reported, with the automatic values and ``config``.
        """

    @abstractmethod
    def stop_all(self) -> bool:
        """Return True to end the whole experiment."""


@check_arguments
class MaximumIterationStopper(Stopper):
    """Ends each trial when its ``training_iteration`` has reached a number: ``stop={"training_iteration": max_iter}``.

    It is the iteration of the *weights* that counts: after an exploit it goes on from the donor's, and what is repeated
    after a failure does not count twice. Ray Tune counts how often the trial has reported instead.

    Args:
        max_iter: the last iteration of a trial, 1 or more.

    Raises:
        ConfigError: ``max_iter`` is no whole number of 1 or more.
    """

    def __init__(self, max_iter: int) -> None:
        self._max_iter = _whole(self, "max_iter", max_iter, least=1)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether the trial has come that far."""
        return bool(result["training_iteration"] >= self._max_iter)

    def stop_all(self) -> bool:
        """Return False."""
        return False


@check_arguments
class TrialPlateauStopper(Stopper):
    """Ends each trial whose metric does not change any more.

    A trial is on a plateau when the standard deviation of the metric in its newest ``num_results`` results is below
    ``std``. They are the results that this trial reported itself, whatever weights it had: right after an exploit they
    are old and new scores, so a trial that jumped is given some reports to settle, while one that copied weights no
    better than its own may well be on a plateau. Beware of ``num_results`` smaller than PBT's
    ``perturbation_interval``: it ends trials that the next exploit would have moved.

    Args:
        metric: the key of the report, ``val/acc`` where nested.
        std: the standard deviation (of the population, not of a sample) below which it is a plateau. Default 0.01.
        num_results: how many results are compared, 2 or more. Default 4.
        grace_period: a trial is not ended before it has reported so often, repeated iterations included. Default 4.
        metric_threshold: a trial is not ended before its newest score is at least this (``mode="max"``) or at most this
            (``mode="min"``). Default: none.
        mode: ``max`` (larger is better) or ``min``; needed with ``metric_threshold``, else of no effect.

    Raises:
        ConfigError: an argument is not as described.
    """

    def __init__(
        self,
        metric: str,
        std: float = 0.01,
        num_results: int = 4,
        grace_period: int = 4,
        metric_threshold: float | None = None,
        mode: str | None = None,
    ) -> None:
        self._metric = _Metric(self, metric)
        self._std = _positive(self, "std", std)
        self._num_results = _whole(self, "num_results", num_results, least=2)
        self._grace_period = _whole(self, "grace_period", grace_period, least=0)
        _check_mode(self, mode, needed=metric_threshold is not None)
        if metric_threshold is not None and (not _is_number(metric_threshold) or math.isnan(metric_threshold)):
            raise _fail(self, "metric_threshold", metric_threshold, "a number, or None")
        self._threshold = metric_threshold
        self._mode = mode
        self._windows: dict[str, list[tuple[float, float]]] = {}
        self._reports: dict[str, int] = {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether the trial is on a plateau."""
        window = self._windows.setdefault(trial_id, [])
        iteration = _iteration(result, window[-1][0] if window else 0.0)
        window[:] = [entry for entry in window if entry[0] < iteration]
        score = self._metric.of(result)
        if score is None:
            return False
        window.append((iteration, score))
        del window[: -self._num_results]
        self._reports[trial_id] = reports = self._reports.get(trial_id, 0) + 1
        if reports < self._grace_period or len(window) < self._num_results or not self._good_enough(score):
            return False
        return _deviation([value for _, value in window]) < self._std

    def stop_all(self) -> bool:
        """Return False."""
        return False

    def _good_enough(self, score: float) -> bool:
        if self._threshold is None:
            return True
        return score >= self._threshold if self._mode == "max" else score <= self._threshold


@check_arguments
class ExperimentPlateauStopper(Stopper):
    """Ends the experiment when its best results do not get better any more.

    The best ``top`` results of all trials so far are compared, several of one trial included: the experiment is on a
    plateau when there are so many and their standard deviation is at most ``std``. With PBT the best results soon come
    from relatives, which score alike; give ``patience`` for at least one round of exploits of the whole population.

    Args:
        metric: the key of the report, ``val/acc`` where nested.
        std: the standard deviation (of the population, not of a sample) up to which it is a plateau. Default 0.001.
        top: how many results are compared, 2 or more. Default 10.
        mode: ``min`` (smaller is better; the default, as in Ray Tune) or ``max``.
        patience: how many more results, of whatever trial, may follow on the plateau before the experiment ends. One
            that gets the best ones moving begins the count anew. Default 0.

    Raises:
        ConfigError: an argument is not as described.
    """

    def __init__(self, metric: str, std: float = 0.001, top: int = 10, mode: str = "min", patience: int = 0) -> None:
        self._metric = _Metric(self, metric)
        self._std = _positive(self, "std", std)
        self._top = _whole(self, "top", top, least=2)
        _check_mode(self, mode, needed=True)
        self._sign = 1.0 if mode == "max" else -1.0
        self._patience = _whole(self, "patience", patience, least=0)
        self._best: list[tuple[float, str, float]] = []
        """Scores, the best first, each with its trial and iteration."""
        self._newest: dict[str, float] = {}
        """The iteration of each trial's newest result."""
        self._results_on_plateau = 0

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Take the result in, and return what :meth:`stop_all` does."""
        iteration = self._newest[trial_id] = _iteration(result, self._newest.get(trial_id, 0.0))
        best = [entry for entry in self._best if entry[1] != trial_id or entry[2] < iteration]
        score = self._metric.of(result)
        if score is not None and math.isfinite(score):
            best.append((score, trial_id, iteration))
            best.sort(key=lambda entry: -self._sign * entry[0])
        self._best = best[: self._top]
        if len(self._best) < self._top or not _deviation([value for value, _, _ in self._best]) <= self._std:
            self._results_on_plateau = 0
        elif score is not None and math.isfinite(score):
            self._results_on_plateau += 1
        return self.stop_all()

    def stop_all(self) -> bool:
        """Return whether the experiment has been on a plateau for long enough."""
        return self._results_on_plateau > self._patience


@check_arguments
class TimeoutStopper(Stopper):
    """Ends the experiment when a time is over.

    The time begins when the stopper is asked first, shortly after the start. It is asked with each result, and several
    times a second in between. In a restored experiment the time counts anew.

    Args:
        timeout: seconds, more than 0, or a timedelta.
        clock: gives seconds that only grow; for tests.

    Raises:
        ConfigError: ``timeout`` is not as described.
    """

    def __init__(self, timeout: float | datetime.timedelta, *, clock: Callable[[], float] = time.monotonic) -> None:
        seconds = timeout.total_seconds() if isinstance(timeout, datetime.timedelta) else timeout
        if not _is_number(seconds) or not seconds > 0:
            raise _fail(self, "timeout", timeout, "a number of seconds greater than 0, or a timedelta")
        self._seconds = seconds
        self._clock = clock
        self._began: float | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False."""
        self._elapsed()
        return False

    def stop_all(self) -> bool:
        """Return whether the time is over."""
        return self._elapsed() >= self._seconds

    def _elapsed(self) -> float:
        now = self._clock()
        if self._began is None:
            self._began = now
        return now - self._began


class CombinedStopper(Stopper):
    """Ends a trial, or the experiment, as soon as one of several stoppers would. All of them see every result.

    Args:
        *stoppers: stoppers, or functions ``(trial_id, result) -> bool``.

    Raises:
        ConfigError: there is none, or one is neither.
    """

    def __init__(self, *stoppers: Stopper | Callable[[str, dict[str, Any]], bool]) -> None:
        if not stoppers:
            raise ConfigError("CombinedStopper: give at least one stopper, such as MaximumIterationStopper(50).")
        self._stoppers = [_as_stopper(stopper) for stopper in stoppers]

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether one of them would end the trial."""
        # Each is asked, because those that remember results must not miss one.
        answers = [stopper(trial_id, result) for stopper in self._stoppers]
        return any(answers)

    def stop_all(self) -> bool:
        """Return whether one of them would end the experiment."""
        answers = [stopper.stop_all() for stopper in self._stoppers]
        return any(answers)


@check_arguments
class FunctionStopper(Stopper):
    """Ends each trial for which a function says so; the same as to give the function itself as ``stop``.

    Args:
        function: ``(trial_id, result) -> bool``.

    Raises:
        ConfigError: it is no such function.
    """

    def __init__(self, function: Callable[[str, dict[str, Any]], bool]) -> None:
        if not callable(function) or inspect.isclass(function):
            raise _fail(self, "function", function, "a function (trial_id, result) -> bool")
        try:
            inspect.signature(function).bind("trial_id", {})
        except ValueError:
            pass  # a built-in function without a signature
        except TypeError as error:
            allowed = f"a function (trial_id, result) -> bool, but it takes others ({error}):"
            raise _fail(self, "function", function, allowed) from error
        self._function = function

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return what the function says."""
        return bool(self._function(trial_id, result))

    def stop_all(self) -> bool:
        """Return False."""
        return False

    @property
    def name(self) -> str:
        """What an error calls it."""
        return trainable_name(self._function)


class NoopStopper(Stopper):
    """Ends nothing."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False."""
        return False

    def stop_all(self) -> bool:
        """Return False."""
        return False


# -------------------------------------------------------------------------------------------------------------- helpers


class _Metric:
    """Reads a metric from results."""

    def __init__(self, owner: object, name: object) -> None:
        if not isinstance(name, str) or not name:
            raise _fail(owner, "metric", name, "the key of a report, such as 'mean_accuracy'")
        self._owner = type(owner).__name__
        self._name = name
        self._known = False
        """Whether there is nothing more to warn of."""

    def of(self, result: dict[str, Any]) -> float | None:
        """Return the score of a result, or None where it has none."""
        value = lookup(result, self._name)
        score = number(value)
        if not self._known:
            self._known = True
            if value is None and self._name not in result:
                there = [key for key, _ in flatten(result) if key.partition("/")[0] not in AUTOMATIC]
                hint = did_you_mean(self._name, [*there, *AUTOMATIC])
                warnings.warn(
                    f"{self._owner}: the first result has no {self._name!r}.{hint} "
                    f"Results without it do not count, so this stopper ends nothing until there are some with it. "
                    f"The result has: {', '.join(map(repr, there))}.",
                    stacklevel=3,
                )
        if score is None and value is not None:
            raise ConfigError(
                f"{self._owner}: {self._name!r} must be a number, but a result has {value!r} "
                f"({type(value).__name__}). Report it as a float or an int."
            )
        return score


def _iteration(result: dict[str, Any], newest: float) -> float:
    """Return the result's ``training_iteration``, or one more than ``newest`` where somebody leaves it out."""
    iteration = number(result.get("training_iteration"))
    return newest + 1 if iteration is None else iteration


def _deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of the population; NaN, for which no comparison holds, where one is not finite."""
    if not all(map(math.isfinite, values)):
        return math.nan
    count = len(values)
    mean = math.fsum(value / count for value in values)
    return math.hypot(*(value - mean for value in values)) / math.sqrt(count)


def _as_stopper(stopper: object) -> Stopper:
    if isinstance(stopper, Stopper):
        return stopper
    if callable(stopper) and not inspect.isclass(stopper):
        # One that somebody wrote without the base class.
        return stopper if callable(getattr(stopper, "stop_all", None)) else FunctionStopper(stopper)  # type: ignore[return-value]
    hint = " Add parentheses to make one of this class." if inspect.isclass(stopper) else ""
    if isinstance(stopper, dict):
        hint = " Instead of a dict: MaximumIterationStopper, or a function (trial_id, result) -> bool."
    raise ConfigError(f"CombinedStopper: each must be a stopper or a function, but one is {stopper!r}.{hint}")


def _fail(owner: object, name: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"{type(owner).__name__}: {name} must be {allowed}, but is {value!r} ({type(value).__name__}).")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(owner: object, name: str, value: int, *, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _fail(owner, name, value, f"a whole number of {least} or more")
    return value


def _positive(owner: object, name: str, value: float) -> float:
    if not _is_number(value) or not value > 0:
        raise _fail(owner, name, value, "a number greater than 0")
    return value


def _check_mode(owner: object, mode: object, *, needed: bool) -> None:
    if mode not in ("max", "min") and (needed or mode is not None):
        hint = did_you_mean(str(mode), ("max", "min"))
        error = _fail(owner, "mode", mode, "'max' (larger is better) or 'min'")
        raise ConfigError(f"{error}{hint}" if mode is not None else f"{error} It goes with metric_threshold.")
