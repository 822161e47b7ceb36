"""Which key of a config is which hyperparameter of a torch optimizer, and what of it a member is asked to check."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .arguments import check_arguments
from .errors import ConfigError

__all__ = ["CheckApplied", "element", "leaves", "named", "plain", "same", "spelled", "target"]

_TARGET = re.compile(r"([^\[\]/]+)(?:/(\d+)|\[(\d+)\])?")
_CLOSE = 1e-6
"""Relative difference up to which two values are the same: an optimizer may hold its own in single precision."""


@check_arguments
@dataclass(frozen=True)
class CheckApplied:
    """Have members check, after an exploit, that their torch optimizers step with the values of the config.

    Args:
        names: for keys of the config that optimizers call otherwise, the optimizers' names:
            ``{"learning_rate": "lr", "netG_lr": "lr", "beta1": "betas/0"}``; ``"betas[0]"`` is the same. A key inside
            of nested dicts may be given alone or with its path, ``"generator/rate"``. Default: names are the same, and
            a float that the code puts into an optimizer before it loads the optimizer's state is known by its value.
            So names are needed for a class that keeps its optimizers and loads no state into them, and for values that
            could as well be other ones: equal to another key's, 0, or 1. ``"none"`` says that it is no optimizer's.
        strict: True fails the trial at its ``tune.report`` instead of saying it once. Default False.

    Raises:
        ConfigError: an argument is wrong.
    """

    names: Mapping[str, str] = field(default_factory=dict[str, str])
    strict: bool = False

    def __post_init__(self) -> None:
        check_names("CheckApplied", self.names)
        if not isinstance(self.strict, bool):
            raise ConfigError(
                f"CheckApplied: strict must be True or False, but is {self.strict!r} ({type(self.strict).__name__})."
            )


def check_names(owner: str, names: object) -> None:
    """Raise ConfigError where ``names`` does not say which key of a config is which hyperparameter of an optimizer."""
    example = "such as {'learning_rate': 'lr', 'beta1': 'betas/0'}"
    if not isinstance(names, Mapping):
        raise ConfigError(
            f"{owner}: names must be a dict from keys of the config to names of the optimizer, {example}, but is "
            f"{names!r} ({type(names).__name__})."
        )
    for key, name in names.items():
        if not isinstance(key, str) or not key or not isinstance(name, str) or _TARGET.fullmatch(name) is None:
            raise ConfigError(
                f"{owner}: names must give the optimizer's name for each key of the config, {example}, but has "
                f"{key!r}: {name!r}."
            )


def target(path: str, names: Mapping[str, str]) -> tuple[str, int | None]:
    """Return how an optimizer calls a key of the config, and which element of it is meant (None: all)."""
    leaf = path.rpartition("/")[2]
    found = _TARGET.fullmatch(names.get(path) or names.get(leaf) or leaf)
    if found is None:  # a key of the user's such as "a[b", which is no hyperparameter
        return leaf, None
    index = found[2] or found[3]
    return found[1], None if index is None else int(index)


def named(path: str, names: Mapping[str, str]) -> bool:
    """Return whether the user has said what a key of the config is."""
    return path in names or path.rpartition("/")[2] in names


def spelled(config: Mapping[Any, Any], path: str) -> str:
    """Return how code gets at a key of the config: ``['sgd']['lr']``, or ``['sgd/lr']`` where that is a key."""
    for key, value in config.items():
        if f"{key}" == path:
            return f"[{key!r}]"
        if isinstance(value, Mapping) and path.startswith(f"{key}/"):
            inside = spelled(value, path[len(f"{key}/") :])
            if inside:
                return f"[{key!r}]{inside}"
    return ""


def leaves(config: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the numbers of a config, and what consists of numbers, with their paths: ``optimizer/lr``."""
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}/")
        elif (number := plain(value)) is not None:
            yield path, number


def plain(value: Any) -> Any:
    """Return a number, or a tuple of numbers, as plain Python values; None for all else.

    NumPy scalars and tensors of one element are numbers as well. A tensor that lies on a GPU is waited for.
    """
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, (list, tuple)):
        entries = tuple(plain(entry) for entry in value)
        return entries if entries and None not in entries else None
    if hasattr(value, "item") and hasattr(value, "numel") and value.numel() == 1:
        return value.item()
    return None


def element(values: Mapping[str, Any], name: str, index: int | None) -> Any:
    """Return what an optimizer has under a name, or one element of it; None where there is no such thing."""
    value = values.get(name)
    if index is None or value is None:
        return value
    return value[index] if isinstance(value, Sequence) and index < len(value) else None


def same(one: Any, other: Any) -> bool:
    """Return whether two plain values are the same, up to the rounding of single precision."""
    if isinstance(one, tuple) or isinstance(other, tuple):
        both = isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other)
        return both and all(same(*pair) for pair in zip(one, other, strict=True))
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=_CLOSE)
