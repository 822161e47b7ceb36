"""``ray.air.session``, and the functions about a trial that were in ``ray.tune`` once. For use in a train function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..worker import api
from ..worker.api import get_checkpoint, report

if TYPE_CHECKING:
    from .context import TrialContext, TrialResources

__all__ = [
    "get_checkpoint",
    "get_context",
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


def get_context() -> TrialContext:
    """See :func:`shoal.tune.get_context`. What the trial was given can be read as in Ray, too.

    Raises:
        ReportError: not called inside a trial.
    """
    found = api.get_context()
    # Late: a script that only sets up a run needs none of it.
    from .context import context_of

    return context_of(found)


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


def get_trial_resources() -> TrialResources:
    """Return what the trial was given: a placement group as in Ray, and a dict as in Shoal."""
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
