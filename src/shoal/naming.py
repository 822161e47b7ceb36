"""Names of trials and of their folders, in the form that people's scripts read."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["experiment_name", "folder_name", "short_name", "tag_of", "trainable_name", "trial_id"]

_UNSAFE = re.compile(r"[^A-Za-z0-9_.,=+@-]+")
_TAG_LENGTH = 120
_NAME_LENGTH = 60
"""File systems take 255 bytes for a name, and a folder's is made of a function's name, an id, a tag and a time."""


def trainable_name(trainable: Callable[..., Any]) -> str:
    """Return a function's name, fit for a folder: ``lambda`` for a lambda, the class for a callable object."""
    name = getattr(trainable, "__name__", None)
    if not isinstance(name, str):
        inner = getattr(trainable, "func", None)  # functools.partial
        name = trainable_name(inner) if callable(inner) else type(trainable).__name__
    return _UNSAFE.sub("", name)[:_NAME_LENGTH] or "trainable"


def experiment_name(trainable: str, run_id: str, now: float) -> str:
    """Return the default name of an experiment: the function's name, the time, and the run's id."""
    return f"{trainable}_{_stamp(now)}_{run_id}"


def trial_id(run_id: str, index: int) -> str:
    """Return a trial's id: ``<run id>_<NNNNN>``."""
    return f"{run_id}_{index:05d}"


def tag_of(index: int, sampled: Mapping[str, Any]) -> str:
    """Return ``<index>_<param=value,...>`` of a trial's first sample; floats with four decimals."""
    parts = [f"{short_name(path).replace('/', '_')}={_value(value)}" for path, value in sampled.items()]
    if not parts:
        return str(index)
    return f"{index}_{_UNSAFE.sub('_', ','.join(parts))[:_TAG_LENGTH]}"


def short_name(path: str) -> str:
    """Return the last part of a parameter's path, such as ``lr``; of an index with the list's name, ``layers/0``."""
    parts = path.split("/")
    first = len(parts) - 1
    while first and parts[first].isdigit():
        first -= 1
    return "/".join(parts[first:])


def folder_name(name: str, tag: str, now: float) -> str:
    """Return the name of a trial's folder."""
    return f"{name}_{tag}_{_stamp(now)}"


def _stamp(now: float) -> str:
    return time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(now))


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    text = str(value)
    return text if len(text) <= 32 else text[:29] + "..."
