"""The names that people know from Ray Tune. Re-exports, no logic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..applied import CheckApplied
from ..checkpoints import Checkpoint
from ..config import CheckpointConfig, FailureConfig, RunConfig, TuneConfig
from ..errors import TuneError
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
    from ..reporters import CLIReporter, JupyterNotebookReporter
    from ..resources import PlacementGroupFactory
    from ..results import Result, ResultGrid
    from ..run import create_scheduler, register_trainable, run
    from ..stoppers import Stopper
    from . import callback, logger, stopper

__all__ = [
    "CLIReporter",
    "Callback",
    "CheckApplied",
    "Checkpoint",
    "CheckpointConfig",
    "ExperimentAnalysis",
    "FailureConfig",
    "JupyterNotebookReporter",
    "PlacementGroupFactory",
    "Result",
    "ResultGrid",
    "RunConfig",
    "Stopper",
    "Trainable",
    "TuneConfig",
    "TuneError",
    "Tuner",
    "callback",
    "choice",
    "create_scheduler",
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
    "register_trainable",
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
    "CLIReporter": "reporters",
    "Callback": "callbacks",
    "ExperimentAnalysis": "analysis",
    "JupyterNotebookReporter": "reporters",
    "PlacementGroupFactory": "resources",
    "Result": "results",
    "ResultGrid": "results",
    "Stopper": "stoppers",
    "create_scheduler": "run",
    "register_trainable": "run",
    "run": "run",
    "with_parameters": "parameters",
}
"""Names that are needed after a run, or by few, and their modules: not worth the time of every import."""


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LATE:
        return getattr(importlib.import_module(f"..{_LATE[name]}", __name__), name)
    if name in ("callback", "logger", "stopper"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'shoal.tune' has no attribute {name!r}")
