"""What the processes of members have around them: signals that are the driver's business, threads, their end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import Any

__all__ = ["THE_DRIVERS", "THREAD_VARIABLES", "ends"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""What tells numeric libraries, when they are loaded, how many threads to use."""
THE_DRIVERS: dict[signal.Signals, Any] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGUSR1: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}
"""What a cluster or a terminal may send to all processes of a job; with what they do in what a member starts."""


def ends(pid: int, patience_s: float) -> bool | None:
    """Wait until a process ends, and return whether it did in this time; None where the system does not tell."""
    with contextlib.suppress(OSError, AttributeError):  # macOS, or too many open files
        handle = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            return bool(poll.poll(1000 * patience_s))
        finally:
            os.close(handle)
    return None
