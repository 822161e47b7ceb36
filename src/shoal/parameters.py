"""Large objects for a trainable: ``tune.with_parameters(train, data=data)`` stores each once, for all members."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, overload

from .errors import ConfigError, did_you_mean
from .objects import ObjectRef, get, put
from .resources import show_innermost, subclass

__all__ = ["with_parameters"]

C = TypeVar("C", bound=type)
R = TypeVar("R")


@overload
def with_parameters(trainable: C, **objects: Any) -> C: ...
@overload
def with_parameters(trainable: Callable[..., R], **objects: Any) -> Callable[[dict[str, Any]], R]: ...
def with_parameters(trainable: Any, **objects: Any) -> Any:
    """Give a trainable objects that are too large for its config: ``tune.with_parameters(train, data=data)``.

    Each object is stored once, by :func:`shoal.put`, and shared by all members; what is said there holds here: NumPy
    arrays are read-only, and what members get is not for them to change.

    Args:
        trainable: a function, which is called as ``train(config, data=data)``; or a class, whose
            ``setup(self, config, data=data)`` is. A function or a subclass with its name is returned, which takes the
            config alone. What :func:`with_resources` said stays, before and after.
        objects: by the names of the parameters that receive them. For an ``ObjectRef`` the trainable gets its object.

    Raises:
        ConfigError: the trainable cannot be called so, or an object cannot be pickled.
        StorageError: there is no room for an object.
    """
    if not callable(trainable):
        raise ConfigError(f"with_parameters: the trainable must be a function or a class, but is {trainable!r}.")
    if inspect.isclass(trainable):
        return _with_parameters_of_setup(trainable, objects)
    _check_call(trainable, getattr(trainable, "__name__", repr(trainable)), ("config",), objects)
    refs = _store(objects)

    @functools.wraps(trainable)
    def wrapped(config: dict[str, Any]) -> Any:
        return trainable(config, **_fetch(refs))

    _take_only(wrapped, "config")
    return show_innermost(wrapped)


def _with_parameters_of_setup(trainable: type[Any], objects: Mapping[str, Any]) -> Any:
    if not callable(getattr(trainable, "setup", None)):
        raise ConfigError(
            f"with_parameters: the class {trainable.__name__} has no method setup(self, config, ...), which would "
            f"receive {_listed(objects)}. Give it one."
        )
    _check_call(trainable.setup, f"{trainable.__name__}.setup", ("self", "config"), objects)
    refs = _store(objects)

    @functools.wraps(trainable.setup)
    def setup(self: Any, config: dict[str, Any]) -> Any:
        return trainable.setup(self, config, **_fetch(refs))

    _take_only(setup, "self", "config")
    return subclass(trainable, {"setup": setup})


def _store(objects: Mapping[str, Any]) -> dict[str, ObjectRef[Any]]:
    return {name: value if isinstance(value, ObjectRef) else put(value) for name, value in objects.items()}


def _fetch(refs: Mapping[str, ObjectRef[Any]]) -> dict[str, Any]:
    return {name: get(ref) for name, ref in refs.items()}


def _take_only(function: Callable[..., Any], *names: str) -> None:
    """Have a wrapper show the parameters that it takes itself, not those of the function that it wraps."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    function.__signature__ = signature  # type: ignore[attr-defined]


def _check_call(
    function: Callable[..., Any], name: str, positional: tuple[str, ...], objects: Mapping[str, object]
) -> None:
    """Raise ConfigError where the function cannot be called with so many positional arguments and these keywords."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # a built-in function without a signature
    parameters = list(signature.parameters.values())
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    # The first ones receive the config (and self).
    by_position = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY][: len(positional)]
    named = [p for p in parameters if p.kind in kinds and p.name not in by_position]
    names = [parameter.name for parameter in named]
    for given in objects:
        if given in by_position:
            raise ConfigError(
                f"with_parameters: {name} receives {', '.join(positional)} first, in its parameter {given!r}, so no "
                f"object can be given for it. Rename one of them."
            )
        if given not in names and not takes_all:
            raise ConfigError(
                f"with_parameters: {name} has no parameter {given!r}.{did_you_mean(given, names)} It takes, after "
                f"{', '.join(positional)}: {', '.join(names) or 'nothing'}."
            )
    missing = [p.name for p in named if p.default is inspect.Parameter.empty and p.name not in objects]
    if missing:
        raise ConfigError(
            f"with_parameters: {name} also needs {_listed(missing)}. Give it, with_parameters(..., "
            f"{missing[0]}=...), or give the parameter a default."
        )
    try:
        signature.bind(*positional, **objects)
    except TypeError as error:
        raise ConfigError(
            f"with_parameters: {name} cannot be called with {', '.join((*positional, *objects))}: {error}."
        ) from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "nothing"
