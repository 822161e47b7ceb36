"""``ray.air.session``, and the functions about a trial that were in ``ray.tune`` once. For use in a train function."""

from __future__ import annotations

from ..worker.api import get_checkpoint, get_context, report

__all__ = [
    "get_checkpoint",
    "get_experiment_name",
    "get_local_rank",
    "get_trial_dir",
    "get_trial_id",
    "get_trial_name",
    "get_trial_resources",
    "get_world_rank",
    "get_world_size",
    "report",
]


def get_experiment_name() -> str:
    """Return the experiment's name."""
    return get_context().get_experiment_name()


def get_trial_name() -> str:
    """Return the trial's name: ``<function>_<trial id>``."""
    return get_context().get_trial_name()


def get_trial_id() -> str:
    """Return the trial's id."""
    return get_context().get_trial_id()


def get_trial_dir() -> str:
    """Return the path of the trial's folder."""
    return get_context().get_trial_dir()


def get_trial_resources() -> dict[str, float]:
    """Return what the trial was given: ``{"cpu": 1.0, "gpu": 0.0}``."""
    return get_context().get_trial_resources()


def get_world_size() -> int:
    """Return 1: a trial is one process."""
    return 1


def get_world_rank() -> int:
    """Return 0: a trial is one process."""
    return 0


def get_local_rank() -> int:
    """Return 0: a trial is one process."""
    return 0
