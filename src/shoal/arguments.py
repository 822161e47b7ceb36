"""Arguments that do not exist: say which were meant. Pure."""

from __future__ import annotations

import functools
import inspect
from typing import Any, TypeVar

from .errors import ConfigError, did_you_mean

__all__ = ["check_arguments"]

T = TypeVar("T")


def check_arguments(cls: type[T]) -> type[T]:
    """Make a class name the argument it was wrongly given, and those it takes, instead of Python's bare TypeError."""
    original = cls.__init__
    names = [name for name in inspect.signature(original).parameters if name != "self"]

    @functools.wraps(original)
    def checked(self: T, *args: Any, **kwargs: Any) -> None:
        for name in kwargs:
            if name not in names:
                raise ConfigError(
                    f"{cls.__name__} has no argument {name!r}.{did_you_mean(name, names)} It takes: {', '.join(names)}."
                )
        original(self, *args, **kwargs)

    cls.__init__ = checked  # type: ignore[assignment, method-assign]
    return cls
