"""Sizes of files as people read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["size_of", "size_text"]


def size_text(size: float) -> str:
    """Return ``512 B``, ``1.5 KiB``, ``23 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1000 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" or abs(size) >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def size_of(path: Path) -> int:
    """Return how many bytes would be free without a file or a folder; links are not followed."""
    try:
        state = path.lstat()
    except OSError:
        return 0
    if not stat.S_ISDIR(state.st_mode):
        return state.st_size if state.st_nlink <= 1 else 0
    total = 0
    for parent, _, names in os.walk(path):
        for name in names:
            total += size_of(Path(parent, name))
    return total
