"""Small helpers that scripts take from ``ray.tune.utils`` and ``ray.tune.logger``."""

from __future__ import annotations

import copy
import enum
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ..errors import ConfigError
from ..trainable import Trainable

__all__ = ["Verbosity", "flatten_dict", "merge_dicts", "pretty_print", "unflatten_dict", "validate_save_restore"]


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


def pretty_print(result: Mapping[str, Any], exclude: Collection[str] | None = None) -> str:
    """Return a result as text for people, in the manner of YAML: sorted, one value in a line, dicts and lists indented.

    Args:
        result: the metrics. Values that are None, the config and ``hist_stats`` are left out.
        exclude: further keys to leave out.
    """
    hidden = {"config", "hist_stats", *(exclude or ())}
    shown = {key: value for key, value in result.items() if value is not None and key not in hidden}
    return "".join(f"{line}\n" for line in _lines(shown))


def _lines(value: Any) -> Iterator[str]:
    """Yield the lines of a dict or a list that is not empty."""
    items = sorted(value.items(), key=lambda item: str(item[0])) if isinstance(value, Mapping) else enumerate(value)
    for key, inner in items:
        head = f"{key}:" if isinstance(value, Mapping) else "-"
        if isinstance(inner, (Mapping, list, tuple)) and inner:
            yield head
            yield from (f"  {line}" for line in _lines(inner))
        else:
            yield f"{head} {_scalar(inner)}"


def _scalar(value: Any) -> str:
    """Return a single value as text, a number of numpy as Python's."""
    if callable(getattr(value, "item", None)) and getattr(value, "size", 1) == 1:
        value = value.item()
    if isinstance(value, str) and value.isprintable():
        return value
    if isinstance(value, (Mapping, list, tuple)):
        return "{}" if isinstance(value, Mapping) else "[]"
    return json.dumps(value) if value is None or isinstance(value, (str, bool)) else str(value)


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
