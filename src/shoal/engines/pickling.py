"""Carry the user's function to other processes, and say what stands in the way where it cannot be carried."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

from ..core.events import Config
from ..errors import ConfigError

__all__ = ["check_config", "pickle_config", "pickle_trainable"]

_PLAIN = frozenset({bool, int, float, str, type(None)})


def pickle_trainable(trainable: Callable[..., Any]) -> bytes:
    """Return the function as bytes.

    Raises:
        ConfigError: it refers to something that cannot be pickled; the message names it.
    """
    from ..pickles import dumps

    try:
        data = dumps(trainable)
    except Exception as error:
        name = getattr(trainable, "__qualname__", repr(trainable))
        culprits = [
            f"{where} {key!r} ({type(value).__name__})"
            for where, key, value in _references(trainable)
            if not _fits(value)
        ]
        blame = f" It refers to {', '.join(culprits)}, which cannot be pickled." if culprits else ""
        raise ConfigError(
            f"The trainable {name} cannot be sent to other processes: {type(error).__name__}: {error}.{blame} Create "
            f"such "
            f"objects (locks, open files, connections, generators) inside the function, or run with "
            f"TuneConfig(engine='inline')."
        ) from error
    return data


def pickle_config(config: Config) -> bytes:
    """Return a member's config as bytes. Most are plain, and these need no look into scripts and notebooks."""
    if all(type(key) is str and type(value) in _PLAIN for key, value in config.items()):
        return pickle.dumps(config, pickle.HIGHEST_PROTOCOL)
    from ..pickles import dumps

    return dumps(config)


def check_config(config: Config) -> None:
    """Raise ConfigError, with the key's name, where a value cannot be sent to another process or written down."""
    for key, value in config.items():
        if not _fits(value):
            raise ConfigError(
                f"param_space[{key!r}] gives {value!r:.100} ({type(value).__name__}), which cannot be pickled, so it "
                f"can "
                f"neither be sent to a member nor recorded. Create such objects (locks, open files, connections) "
                f"inside "
                f"the trainable."
            )


def _references(trainable: Callable[..., Any]) -> Iterator[tuple[str, str, Any]]:
    code = getattr(trainable, "__code__", None)
    if code is None:
        for key, value in getattr(trainable, "__dict__", {}).items():
            yield "the attribute", key, value
        return
    for key, cell in zip(code.co_freevars, getattr(trainable, "__closure__", None) or (), strict=False):
        yield "the enclosing variable", key, cell.cell_contents
    names = getattr(trainable, "__globals__", {})
    for key in code.co_names:
        if key in names:
            yield "the global", key, names[key]


def _fits(value: Any) -> bool:
    from ..pickles import dumps

    try:
        dumps(value)
    except Exception:
        return False
    return True
