"""What the processes of members have around them: signals that are the driver's business, and how many threads."""

from __future__ import annotations

import signal
from typing import Any

__all__ = ["THE_DRIVERS", "THREAD_VARIABLES"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""What tells numeric libraries, when they are loaded, how many threads to use."""
THE_DRIVERS: dict[signal.Signals, Any] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGUSR1: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}
"""What a cluster or a terminal may send to all processes of a job; with what they do in what a member starts."""
