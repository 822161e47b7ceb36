"""The names that Ray Tune knows: functions that make domains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from .domains import Choice, Float, Function, GridSearch, Integer, Normal

__all__ = [
    "choice",
    "grid_search",
    "lograndint",
    "loguniform",
    "qlograndint",
    "qloguniform",
    "qrandint",
    "qrandn",
    "quniform",
    "randint",
    "randn",
    "sample_from",
    "uniform",
]


def uniform(lower: float, upper: float) -> Float:
    """Return the floats from ``lower`` to ``upper``, all as likely."""
    return Float(lower, upper)


def quniform(lower: float, upper: float, q: float) -> Float:
    """Return the multiples of ``q`` from ``lower`` to ``upper``, all as likely."""
    return Float(lower, upper, q)


def loguniform(lower: float, upper: float, base: float = 10) -> Float:
    """Return the floats from ``lower`` to ``upper``, both above 0, even on a log scale; ``base`` changes no draw."""
    return Float(lower, upper, log=True, base=base)


def qloguniform(lower: float, upper: float, q: float, base: float = 10) -> Float:
    """Return the multiples of ``q`` from ``lower`` to ``upper``, both above 0, even on a log scale."""
    return Float(lower, upper, q, log=True, base=base)


def randn(mean: float = 0.0, sd: float = 1.0) -> Normal:
    """Return normally distributed floats with mean ``mean`` and standard deviation ``sd``, without bounds."""
    return Normal(mean, sd)


def qrandn(mean: float, sd: float, q: float) -> Normal:
    """Return normally distributed floats rounded to multiples of ``q``, without bounds."""
    return Normal(mean, sd, q)


def randint(lower: int, upper: int) -> Integer:
    """Return the integers from ``lower`` to ``upper - 1``, all as likely."""
    return Integer(lower, upper)


def qrandint(lower: int, upper: int, q: int = 1) -> Integer:
    """Return the integer multiples of ``q`` from ``lower`` to ``upper``, both included, all as likely."""
    return Integer(lower, upper, q)


def lograndint(lower: int, upper: int, base: float = 10) -> Integer:
    """Return the integers from ``lower``, 1 or more, to ``upper - 1``, even on a log scale."""
    return Integer(lower, upper, log=True, base=base)


def qlograndint(lower: int, upper: int, q: int, base: float = 10) -> Integer:
    """Return the multiples of ``q`` from ``lower``, 1 or more, to ``upper``, both included, even on a log scale."""
    return Integer(lower, upper, q, log=True, base=base)


def choice(categories: Sequence[Any]) -> Choice:
    """Return some values in their order, all as likely. An entry may hold domains: a conditional part of the space."""
    return Choice(cast("tuple[Any, ...]", categories))


def sample_from(func: Callable[..., Any]) -> Function:
    """Return what ``func()``, ``func(config)`` or ``func(spec)`` returns; it may use keys drawn before it.

    The argument's name decides: ``spec`` is given an object whose ``config`` has the values as attributes and as items,
    any other name the config itself. These keys are drawn after the plain ones, and in any order they need.
    """
    return Function(func)


def grid_search(values: Sequence[Any]) -> GridSearch:
    """Return a mark that each of ``values`` is tried. Ray's dict form ``{"grid_search": values}`` works as well."""
    return GridSearch(cast("tuple[Any, ...]", values))
