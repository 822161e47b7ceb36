"""Configs and other nested values, flat and in full precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["exact", "flat"]


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values by their paths: ``model/lr``."""
    from ..core.reports import flatten

    return dict(flatten(values))


def exact(value: Any) -> str:
    """Return a value in full: numbers as Python writes them."""
    return value if isinstance(value, str) else repr(value)
