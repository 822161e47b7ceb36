"""What all tests need of the process that runs them."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import psutil

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control starts what it puts into the background so, and processes inherit it: none of those
    # that the tests start would then hear of their Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _let_ray_leave_nothing_behind() -> None:
    """Give each Ray that this process starts a folder that goes with it, and no business with the user's home."""
    prefix = "shoal_ray_"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):  # of tests that were killed
        if not psutil.pid_exists(int(left.name.removeprefix(prefix))):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.gettempdir(), f"{prefix}{os.getpid()}")
    os.environ["RAY_TMPDIR"] = str(folder)
    # Ray would keep a token in the home folder, and once it has one, nodes with and without do not find together.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    owner = os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))


_let_ray_leave_nothing_behind()
