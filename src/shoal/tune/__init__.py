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
    from ..analysis import ExperimentAnalysis
    from ..callbacks import Callback
    from ..parameters import with_parameters
    from ..resources import PlacementGroupFactory
    from ..results import Result, ResultGrid
    from ..run import run
    from . import logger, stopper

__all__ = [
    "Callback",
    "Checkpoint",
    "CheckpointConfig",
    "ExperimentAnalysis",
    "FailureConfig",
    "PlacementGroupFactory",
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
    "logger",
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
    "run",
    "sample_from",
    "schedulers",
    "stopper",
    "uniform",
    "with_parameters",
    "with_resources",
]


_LATE = {
    "Callback": "callbacks",
    "ExperimentAnalysis": "analysis",
    "PlacementGroupFactory": "resources",
    "Result": "results",
    "ResultGrid": "results",
    "run": "run",
    "with_parameters": "parameters",
}
"""Names that are needed after a run, or by few, and the modules that they are in: not worth the time of every import."""


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LATE:
        return getattr(importlib.import_module(f"..{_LATE[name]}", __name__), name)
    if name in ("logger", "stopper"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'shoal.tune' has no attribute {name!r}")
