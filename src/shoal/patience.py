"""How long Shoal waits for what does not come, where users set it by environment variables."""

from __future__ import annotations

import os

__all__ = ["grace_s", "seconds_set", "storage_patience_s", "uploads_at_once"]

_GRACE_S = 20.0
_STORAGE_S = 600.0
_UPLOADS = 16


def grace_s() -> float:
    """Return how many seconds a member has to come to its next report, where the run is interrupted.

    From the environment variable ``SHOAL_GRACE_S``; 20 where it is not set, or no number.
    """
    return seconds_set("SHOAL_GRACE_S", _GRACE_S)


def storage_patience_s() -> float:
    """Return for how many seconds nothing may move between here and storage before a run ends.

    From the environment variable ``SHOAL_STORAGE_PATIENCE_S``; 600 where it is not set, or no number.
    """
    return seconds_set("SHOAL_STORAGE_PATIENCE_S", _STORAGE_S)


def uploads_at_once() -> int:
    """Return how many checkpoints are uploaded at the same time, of which four have large files.

    From the environment variable ``SHOAL_STORAGE_UPLOADS``; 16 where it is not set, or no positive number.
    """
    text = os.environ.get("SHOAL_STORAGE_UPLOADS", "")
    return int(text) if text.isdecimal() and int(text) > 0 else _UPLOADS


def seconds_set(variable: str, default: float) -> float:
    """Return the seconds that an environment variable gives; the default where it is not set, or no such number."""
    try:
        given = float(os.environ.get(variable, ""))
    except ValueError:
        return default
    return given if given >= 0 else default
