"""Small helpers that scripts take from ``ray.tune.utils``."""

from __future__ import annotations

import copy
import enum
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Verbosity", "flatten_dict", "merge_dicts", "unflatten_dict"]


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
