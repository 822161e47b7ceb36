"""The names that people know from Ray Tune. Re-exports, no logic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..analysis import ExperimentAnalysis
    from ..applied import CheckApplied
    from ..callbacks import Callback
    from ..checkpoints import Checkpoint
    from ..config import CheckpointConfig, FailureConfig, RunConfig, TuneConfig
    from ..errors import TuneError
    from ..parameters import with_parameters
    from ..reporters import CLIReporter, JupyterNotebookReporter
    from ..resources import PlacementGroupFactory, with_resources
    from ..results import Result, ResultGrid
    from ..run import create_scheduler, register_trainable, run
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
    from ..stoppers import Stopper
    from ..trainable import Trainable
    from ..tuner import Tuner
    from ..worker.api import get_checkpoint, get_context, report
    from . import callback, logger, schedulers, stopper

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


_FROM = {
    "analysis": ("ExperimentAnalysis",),
    "applied": ("CheckApplied",),
    "callbacks": ("Callback",),
    "checkpoints": ("Checkpoint",),
    "config": ("CheckpointConfig", "FailureConfig", "RunConfig", "TuneConfig"),
    "errors": ("TuneError",),
    "parameters": ("with_parameters",),
    "reporters": ("CLIReporter", "JupyterNotebookReporter"),
    "resources": ("PlacementGroupFactory", "with_resources"),
    "results": ("Result", "ResultGrid"),
    "run": ("create_scheduler", "register_trainable", "run"),
    "space": (
        *("choice", "grid_search", "lograndint", "loguniform", "qlograndint", "qloguniform", "qrandint", "qrandn"),
        *("quniform", "randint", "randn", "sample_from", "uniform"),
    ),
    "stoppers": ("Stopper",),
    "trainable": ("Trainable",),
    "tuner": ("Tuner",),
    "worker.api": ("get_checkpoint", "get_context", "report"),
}
"""Modules, and the names that come from them. Each is imported when the first of its names is used: a member needs few
of them, and the start of a run waits for what its members import."""
_MODULE_OF = {name: module for module, names in _FROM.items() for name in names}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    import importlib

    if name in _MODULE_OF:
        found = getattr(importlib.import_module(f"..{_MODULE_OF[name]}", __name__), name)
        globals()[name] = found
        return found
    if name in ("callback", "logger", "schedulers", "stopper"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'shoal.tune' has no attribute {name!r}")
