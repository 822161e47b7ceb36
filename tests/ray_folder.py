"""The environment of each Ray that a process of tests starts: it leaves nothing behind, on no machine."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import psutil

__all__ = ["let_ray_leave_nothing_behind"]

_PREFIX = "shoal_ray_"


def let_ray_leave_nothing_behind() -> None:
    """Give each Ray that this process starts a folder that goes with it, and no business with the user's home.

    What processes have left that were killed goes, too.
    """
    base, owner = Path(tempfile.gettempdir()), os.getpid()
    for left in base.glob(f"{_PREFIX}*"):
        if not psutil.pid_exists(int(left.name.removeprefix(_PREFIX))):
            shutil.rmtree(left, ignore_errors=True)
    folder = base / f"{_PREFIX}{owner}"
    os.environ["RAY_TMPDIR"] = str(folder)
    # Ray would keep a token in the home folder, and once it has one, nodes with and without do not find together.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
