"""The names that Ray Tune knows: functions that make domains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from ..arguments import check_keywords
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


@check_keywords
def uniform(lower: float, upper: float) -> Float:
    """A domain of the floats from ``lower`` to ``upper``, all as likely.

    Args:
        lower, upper: the bounds, finite numbers. If given upper first, they are taken as the interval they mean, with a
            :class:`~shoal.space.SpaceWarning` that names the key.

    Raises:
        SpaceError: an argument is out of its range; the message says which and what is allowed.
    """
    return Float(lower, upper)


@check_keywords
def quniform(lower: float, upper: float, q: float) -> Float:
    """A domain of the multiples of ``q`` from ``lower`` to ``upper``, all as likely.

    Args:
        lower, upper: the bounds, finite numbers. If given upper first, they are taken as the interval they mean, with a
            :class:`~shoal.space.SpaceWarning` that names the key.
        q: the distance of neighbouring values, above 0 and not wider than the bounds.

    Raises:
        SpaceError: an argument is out of its range; the message says which and what is allowed.
    """
    return Float(lower, upper, q)


@check_keywords
def loguniform(lower: float, upper: float, base: float = 10) -> Float:
    """A domain of the floats from ``lower`` to ``upper``, even on a log scale: for learning rates and the like.

    Args:
        lower, upper: the bounds, above 0. If given upper first, they are taken as the interval they mean, with a
            :class:`~shoal.space.SpaceWarning` that names the key.
        base: the base of the logarithm; accepted as in Ray Tune, it changes no draw. Default 10.

    Raises:
        SpaceError: an argument is out of its range; the message says which and what is allowed.
    """
    return Float(lower, upper, log=True, base=base)


@check_keywords
def qloguniform(lower: float, upper: float, q: float, base: float = 10) -> Float:
    """A domain of the multiples of ``q`` from ``lower`` to ``upper``, even on a log scale.

    Args:
        lower, upper: the bounds, above 0. If given upper first, they are taken as the interval they mean, with a
            :class:`~shoal.space.SpaceWarning` that names the key.
        q: the distance of neighbouring values, above 0 and not wider than the bounds.
        base: the base of the logarithm; accepted as in Ray Tune, it changes no draw. Default 10.

    Raises:
        SpaceError: an argument is out of its range; the message says which and what is allowed.
    """
    return Float(lower, upper, q, log=True, base=base)


@check_keywords
def randn(mean: float = 0.0, sd: float = 1.0) -> Normal:
    """A domain of normally distributed floats, without bounds.

    Args:
        mean, sd: mean and standard deviation; ``sd`` is above 0. Default 0 and 1.

    Raises:
        SpaceError: an argument is out of its range; the message says which and what is allowed.
    """
    return Normal(mean, sd)


@check_keywords
def qrandn(mean: float, sd: float, q: float) -> Normal:
    """A domain of normally distributed floats rounded to multiples of ``q``, without bounds.

    Args:
        mean, sd: mean and standard deviation; ``sd`` is above 0.
        q: the distance of neighbouring values, above 0.

    Raises:
        SpaceError: an argument is out of its range; the message says which and what is allowed.
    """
    return Normal(mean, sd, q)


@check_keywords
def randint(lower: int, upper: int) -> Integer:
    """A domain of the ints from ``lower`` to ``upper - 1``, all as likely.

    Args:
        lower, upper: the bounds, ints; ``upper`` itself is not drawn. If given upper first, they are swapped, with a
            :class:`~shoal.space.SpaceWarning` that names the key.

    Raises:
        SpaceError: an argument is out of its range; the message says which and what is allowed.
    """
    return Integer(lower, upper)


@check_keywords
def qrandint(lower: int, upper: int, q: int = 1) -> Integer:
    """A domain of the int multiples of ``q`` from ``lower`` to ``upper``, both included, all as likely.

    Args:
        lower, upper: the bounds, ints, both can be drawn. If given upper first, they are swapped, with a
            :class:`~shoal.space.SpaceWarning` that names the key.
        q: the distance of neighbouring values, above 0 and not wider than the bounds.

    Raises:
        SpaceError: an argument is out of its range; the message says which and what is allowed.
    """
    return Integer(lower, upper, q)


@check_keywords
def lograndint(lower: int, upper: int, base: float = 10) -> Integer:
    """A domain of the ints from ``lower``, 1 or more, to ``upper - 1``, even on a log scale.

    Args:
        lower, upper: the bounds, ints; ``upper`` itself is not drawn. If given upper first, they are swapped, with a
            :class:`~shoal.space.SpaceWarning` that names the key.
        base: the base of the logarithm; accepted as in Ray Tune, it changes no draw. Default 10.

    Raises:
        SpaceError: an argument is out of its range; the message says which and what is allowed.
    """
    return Integer(lower, upper, log=True, base=base)


@check_keywords
def qlograndint(lower: int, upper: int, q: int, base: float = 10) -> Integer:
    """A domain of the multiples of ``q`` from ``lower``, 1 or more, to ``upper``, both included, even on a log scale.

    Args:
        lower, upper: the bounds, ints, both can be drawn. If given upper first, they are swapped, with a
            :class:`~shoal.space.SpaceWarning` that names the key.
        q: the distance of neighbouring values, above 0 and not wider than the bounds.
        base: the base of the logarithm; accepted as in Ray Tune, it changes no draw. Default 10.

    Raises:
        SpaceError: an argument is out of its range; the message says which and what is allowed.
    """
    return Integer(lower, upper, q, log=True, base=base)


@check_keywords
def choice(categories: Sequence[Any]) -> Choice:
    """A domain of the given values, all as likely. When it mutates, it moves to a neighbour in their order.

    Args:
        categories: one value or more, of any type. A value may itself hold domains: a conditional part of the space.

    Raises:
        SpaceError: an argument is out of its range; the message says which and what is allowed.
    """
    return Choice(cast("tuple[Any, ...]", categories))


@check_keywords
def sample_from(func: Callable[..., Any]) -> Function:
    """A domain of what a function returns, which may use keys that were drawn before it.

    Args:
        func: called as ``func()``, ``func(config)`` or, if its argument is named so, ``func(spec)``; ``spec.config``
            has the values as attributes and as items. These keys are drawn after the plain ones, in any order they
            need.

    Raises:
        SpaceError: an argument is out of its range; the message says which and what is allowed.
    """
    return Function(func)


@check_keywords
def grid_search(values: Sequence[Any]) -> GridSearch:
    """Try each of the values; ``num_samples`` says how often the whole grid is repeated.

    Args:
        values: one value or more. Ray's dict form ``{"grid_search": values}`` works as well.

    Raises:
        SpaceError: an argument is out of its range; the message says which and what is allowed.
    """
    return GridSearch(cast("tuple[Any, ...]", values))
