"""Arguments that do not exist: say which were meant. Pure."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from .errors import ConfigError, did_you_mean

__all__ = ["check_arguments", "check_keywords"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def check_arguments(cls: type[T]) -> type[T]:
    """Make a class name the argument it was wrongly given, and those it takes, instead of Python's bare TypeError."""
    original = cls.__init__
    names = [name for name in inspect.signature(original).parameters if name != "self"]

    @functools.wraps(original)
    def checked(self: T, *args: Any, **kwargs: Any) -> None:
        _check_names(cls.__name__, kwargs, names)
        original(self, *args, **kwargs)

    cls.__init__ = checked  # type: ignore[assignment, method-assign]
    return cls


def check_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function name the keyword that it was wrongly given, and those it takes."""
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        _check_names(function.__name__, kwargs, names)
        return function(*args, **kwargs)

    return checked


def _check_names(owner: str, given: Iterable[str], names: list[str]) -> None:
    for name in given:
        if name not in names:
            raise ConfigError(
                f"{owner} has no argument {name!r}.{did_you_mean(name, names)} It takes: {', '.join(names)}."
            )
