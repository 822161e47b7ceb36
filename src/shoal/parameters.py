"""Large objects for a trainable: ``tune.with_parameters(train, data=data)`` stores each once, for all members."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, overload

from .errors import ConfigError, did_you_mean
from .objects import ObjectRef, get, put
from .resources import TAKES, show_innermost, subclass

__all__ = ["with_parameters"]

C = TypeVar("C", bound=type)
R = TypeVar("R")
_MORE = "_any_other"


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
            config alone. What :func:`with_resources` said stays, before and after. May be what this function has
            returned before: then it is given more objects, and one that it had already is replaced.
        objects: by the names of the parameters that receive them. For an ``ObjectRef`` the trainable gets its object.
            A parameter without a default that is left out can be given by a further call; without one, ``Tuner``
            refuses the function.

    Raises:
        ConfigError: the trainable cannot be called so, or an object cannot be pickled.
        StorageError: there is no room for an object.
    """
    if not callable(trainable):
        raise ConfigError(f"with_parameters: the trainable must be a function or a class, but is {trainable!r}.")
    if inspect.isclass(trainable):
        return _with_parameters_of_setup(trainable, objects)
    takes = _check_call(trainable, getattr(trainable, "__name__", repr(trainable)), ("config",), objects)
    refs = _store(objects)

    @functools.wraps(trainable)
    def wrapped(config: dict[str, Any], **more: Any) -> Any:
        return trainable(config, **_fetch(refs, more))

    _show(wrapped, takes, "config")
    return show_innermost(wrapped)


def _with_parameters_of_setup(trainable: type[Any], objects: Mapping[str, Any]) -> Any:
    if not callable(getattr(trainable, "setup", None)):
        raise ConfigError(
            f"with_parameters: the class {trainable.__name__} has no method setup(self, config, ...), which would "
            f"receive {_listed(objects)}. Give it one."
        )
    takes = _check_call(trainable.setup, f"{trainable.__name__}.setup", ("self", "config"), objects)
    refs = _store(objects)

    @functools.wraps(trainable.setup)
    def setup(self: Any, config: dict[str, Any], **more: Any) -> Any:
        return trainable.setup(self, config, **_fetch(refs, more))

    _show(setup, takes, "self", "config")
    return subclass(trainable, {"setup": setup})


def _store(objects: Mapping[str, Any]) -> dict[str, ObjectRef[Any]]:
    return {name: value if isinstance(value, ObjectRef) else put(value) for name, value in objects.items()}


def _fetch(refs: Mapping[str, ObjectRef[Any]], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the objects, and those that an outer wrapper passes on; of two for one name, the outer's."""
    return {**{name: get(ref) for name, ref in refs.items() if name not in more}, **more}


def _show(wrapper: Callable[..., Any], takes: inspect.Signature | None, *names: str) -> None:
    """Have a wrapper show what it must be called with, and remember what an outer wrapper may pass to it.

    Args:
        wrapper: shows ``names``, and those of the wrapped function's parameters that still have to be given.
        takes: all that it takes; None: nobody knows.
        names: of its own parameters.
    """
    empty = inspect.Parameter.empty
    remaining = [] if takes is None else list(takes.parameters.values())[len(names) :]
    needed = [each for each in remaining if each.kind is inspect.Parameter.KEYWORD_ONLY and each.default is empty]
    own = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    wrapper.__signature__ = inspect.Signature([*own, *needed])  # type: ignore[attr-defined]
    # With the wrapper itself, because functools.wraps copies attributes to functions that take something else.
    setattr(wrapper, TAKES, (wrapper, takes))


def _check_call(
    function: Callable[..., Any], name: str, positional: tuple[str, ...], objects: Mapping[str, object]
) -> inspect.Signature | None:
    """Check that the function can be called with so many positional arguments and these keywords.

    Returns:
        What can still be given by name, after the positional ones; None for a built-in function without a signature.

    Raises:
        ConfigError: the function cannot be called so, whatever else is given.
    """
    try:
        of, takes = getattr(function, TAKES, (None, None))
        signature: inspect.Signature = takes if of is function and takes else inspect.signature(function)
    except ValueError:
        return None
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
    try:
        signature.bind(*positional, **dict.fromkeys([*objects, *missing]))
    except TypeError as error:
        raise ConfigError(
            f"with_parameters: {name} cannot be called with {', '.join((*positional, *objects))}: {error}."
        ) from error
    return _remaining(by_position, names, missing, takes_all)


def _remaining(by_position: list[str], names: list[str], missing: list[str], takes_all: bool) -> inspect.Signature:
    """Return what can be given once more: all by name, with a default where nothing has to be given.

    Without the function's own defaults and annotations: it travels with the wrapper.
    """
    kind = inspect.Parameter
    first = [kind(name, kind.POSITIONAL_OR_KEYWORD) for name in by_position]
    rest = [kind(name, kind.KEYWORD_ONLY, default=kind.empty if name in missing else None) for name in names]
    more = [kind(_MORE, kind.VAR_KEYWORD)] if takes_all else []
    return inspect.Signature([*first, *rest, *more])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "nothing"
