"""Small helpers that scripts take from ``ray.tune.utils``."""

from __future__ import annotations

import copy
import enum
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ConfigError
from ..trainable import Trainable

__all__ = ["Verbosity", "flatten_dict", "merge_dicts", "unflatten_dict", "validate_save_restore"]


class Verbosity(enum.IntEnum):
    """How much the status shows; the numbers of ``RunConfig(verbose=...)``."""

    V0_MINIMAL = 0
    V1_EXPERIMENT = 1
    V2_TRIAL_NORM = 2
    V3_TRIAL_DETAILS = 3


def flatten_dict(dt: Mapping[str, Any], delimiter: str = "/") -> dict[str, Any]:
    """Return a dict without dicts in it: ``{"val": {"acc": 1}}`` becomes ``{"val/acc": 1}``. Empty dicts stay."""
    return dict(_leaves(dt, delimiter, ""))


def _leaves(values: Mapping[str, Any], delimiter: str, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, delimiter, f"{prefix}{key}{delimiter}")
        else:
            yield f"{prefix}{key}", value


def unflatten_dict(dt: Mapping[str, Any], delimiter: str = "/") -> dict[str, Any]:
    """Return what :func:`flatten_dict` was given."""
    nested: dict[str, Any] = {}
    for path, value in dt.items():
        *folders, name = path.split(delimiter)
        at = nested
        for folder in folders:
            at = at.setdefault(folder, {})
        at[name] = value
    return nested


def merge_dicts(d1: Mapping[str, Any], d2: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deep copy of the first dict with the second's values in it; dicts in both are merged."""
    merged: dict[str, Any] = copy.deepcopy(dict(d1))
    for key, value in d2.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge_dicts(merged[key], value) if both else copy.deepcopy(value)
    return merged


def validate_save_restore(
    trainable_cls: type[Trainable],
    config: dict[str, Any] | None = None,
    num_gpus: int = 0,
    use_object_store: bool = False,
) -> bool:
    """Train an object of a class trainable in this process, save it, and go on with another one that restores it.

    Args:
        trainable_cls: the class.
        config: hyperparameters for both objects.
        num_gpus, use_object_store: without effect.

    Returns:
        True, always.

    Raises:
        ConfigError: the restored object does not go on where the saved one was. What its methods raise is raised, too.
    """
    first, second = trainable_cls(config), trainable_cls(config)
    for _ in range(3):
        first.train()
    with tempfile.TemporaryDirectory() as folder:
        second.restore(first.save(folder))
    before, after = first.train()["training_iteration"], second.train()["training_iteration"]
    if before != after:
        raise ConfigError(
            f"validate_save_restore: an object of {trainable_cls.__name__} is at iteration {before}, but the one that "
            f"restored it is at {after}."
        )
    return True
