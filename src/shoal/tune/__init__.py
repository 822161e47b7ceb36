"""The names that people know from Ray Tune. Re-exports, no logic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..checkpoints import Checkpoint
from ..config import CheckpointConfig, FailureConfig, RunConfig, TuneConfig
from ..resources import with_resources
from ..space import (
    choice,
    grid_search,
    lograndint,
    loguniform,
    qlograndint,
    qloguniform,
    qrandint,
    qrandn,
    quniform,
    randint,
    randn,
    sample_from,
    uniform,
)
from ..trainable import Trainable
from ..tuner import Tuner
from ..worker.api import get_checkpoint, get_context, report
from . import schedulers

if TYPE_CHECKING:
    from ..callbacks import Callback
    from ..results import Result, ResultGrid

__all__ = [
    "Callback",
    "Checkpoint",
    "CheckpointConfig",
    "FailureConfig",
    "Result",
    "ResultGrid",
    "RunConfig",
    "Trainable",
    "TuneConfig",
    "Tuner",
    "choice",
    "get_checkpoint",
    "get_context",
    "grid_search",
    "lograndint",
    "loguniform",
    "qlograndint",
    "qloguniform",
    "qrandint",
    "qrandn",
    "quniform",
    "randint",
    "randn",
    "report",
    "sample_from",
    "schedulers",
    "uniform",
    "with_resources",
]


def __getattr__(name: str) -> Any:
    # Needed after a run, or by few: not worth the time of every import.
    if name in ("Result", "ResultGrid"):
        from .. import results

        return getattr(results, name)
    if name == "Callback":
        from ..callbacks import Callback

        return Callback
    raise AttributeError(f"module 'shoal.tune' has no attribute {name!r}")
