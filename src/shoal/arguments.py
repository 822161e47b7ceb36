"""What calls were given: which argument a misspelled one means, which were given at all, and at which line. Pure."""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from .errors import ConfigError, did_you_mean

__all__ = ["check_arguments", "check_keywords", "given_arguments", "is_default", "warn_user"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_GIVEN = "_shoal_given"


def check_arguments(cls: type[T]) -> type[T]:
    """Make a class name the argument it was wrongly given, and those it takes, instead of Python's bare TypeError.

    Its instances remember which arguments they were given; see :func:`given_arguments`.
    """
    original = cls.__init__
    parameters = {name: each for name, each in inspect.signature(original).parameters.items() if name != "self"}
    names = list(parameters)
    # Whether a stopper is the same as before is told by all that is in it (`settings.alike`); this has no place there.
    remembers = not hasattr(cls, "stop_all")

    @functools.wraps(original)
    def checked(self: T, *args: Any, **kwargs: Any) -> None:
        _check_names(cls.__name__, kwargs, names)
        original(self, *args, **kwargs)
        if remembers:
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            by_user = getattr(type(self), "__init__", None) is checked and not _replacing()
            _remember(
                self, [name for name in given if by_user or not is_default(parameters[name].default, given[name])]
            )

    cls.__init__ = checked  # type: ignore[assignment, method-assign]
    return cls


def given_arguments(obj: object) -> frozenset[str]:
    """Return the names of the arguments that were passed, by position or by name, when an object was made.

    An argument that was passed at its default counts as well: ``RunConfig(verbose=1)`` gives ``verbose``. Copies and
    pickles keep what was given. ``dataclasses.replace`` passes on all fields, so that only those count that differ from
    their default. What is set afterwards (``config.verbose = 2``) is not given; compare it with its default.

    Where a subclass has an ``__init__`` of its own, which passes on what it likes, those arguments count that it passed
    to ours with another value than the default.

    Args:
        obj: an instance of a class that :func:`check_arguments` was applied to. For anything else, for a stopper and
            for an object that takes no attributes, the names are none.
    """
    given: tuple[str, ...] = getattr(obj, _GIVEN, ())
    return frozenset(given)


def _remember(obj: object, names: Iterable[str]) -> None:
    with contextlib.suppress(AttributeError, TypeError):  # it has __slots__
        # Past the class's own __setattr__, which a frozen dataclass forbids. As a sorted tuple, so that equal objects
        # have equal pickles.
        object.__setattr__(obj, _GIVEN, tuple(sorted(names)))


def _replacing() -> bool:
    """Whether ``dataclasses.replace`` makes the object, which passes on all fields, given or not."""
    here = inspect.currentframe()
    caller = here.f_back.f_back if here and here.f_back else None
    return caller is not None and caller.f_globals.get("__name__") in ("dataclasses", "copy")


def is_default(default: object, value: object) -> bool:
    """Return whether a value is the default, or a plain one that equals it: others may not know what equal means."""
    plain = isinstance(value, (bool, int, float, str)) and type(value) is type(default)
    return value is default or (plain and value == default)


def check_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function or a method name the keyword that it was wrongly given, and those it takes."""
    owner = function.__qualname__.rpartition("<locals>.")[2]
    names = list(inspect.signature(function).parameters)
    if "." in owner and names[:1] in (["cls"], ["self"]):
        del names[0]  # nobody passes it by name

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        _check_names(owner, kwargs, names)
        return function(*args, **kwargs)

    return checked


def _check_names(owner: str, given: Iterable[str], names: list[str]) -> None:
    for name in given:
        if name not in names:
            raise ConfigError(
                f"{owner} has no argument {name!r}.{did_you_mean(name, names)} It takes: {', '.join(names)}."
            )


def warn_user(message: str) -> None:
    """Warn (UserWarning) at the line outside of Shoal that led here, however many calls lie in between."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and _is_ours(frame.f_globals):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def _is_ours(names: Mapping[str, Any]) -> bool:
    return str(names.get("__name__")).partition(".")[0] == "shoal"
