"""The three functions that a trainable calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..checkpoints import Checkpoint
from ..errors import ReportError

if TYPE_CHECKING:
    from .session import Session, TrialContext

__all__ = ["get_checkpoint", "get_context", "report"]


_find: Callable[[str], Session] | None = None


def _session(caller: str) -> Session:
    global _find
    if _find is None:
        # Late: a script that only sets up a run needs none of it. And once: each report comes by.
        from .session import current_session

        _find = current_session
    return _find(caller)


def report(metrics: Mapping[str, Any] | None = None, checkpoint: Checkpoint | None = None, **unknown: Any) -> None:
    """Report the results of one iteration, from inside a trainable.

    At a perturbation boundary the call waits until it is decided how the member goes on. It may then leave the
    function: the function's ``with`` and ``finally`` blocks run, and it is entered again with another checkpoint and
        config.

    Args:
        metrics: names and values. Nested dicts are fine; the scheduler's metric must be a number.
        checkpoint: the member's state at this iteration. Its files are copied before the call returns.

    Raises:
        ReportError: the metric is missing or no number, or this is not called inside a trial.
    """
    if unknown:
        names = ", ".join(f"{name!r}: ..." for name in unknown)
        raise ReportError(f"tune.report takes a dict: tune.report({{{names}}}, checkpoint=...), not keyword arguments.")
    _session("tune.report()").report(metrics, checkpoint)


def get_checkpoint() -> Checkpoint | None:
    """Return the checkpoint that this member goes on from, or None where it starts from scratch.

    Raises:
        ReportError: not called inside a trial.
    """
    return _session("tune.get_checkpoint()").get_checkpoint()


def get_context() -> TrialContext:
    """Return who this member is: its trial's id, name, folder and resources, and the experiment's name.

    Raises:
        ReportError: not called inside a trial.
    """
    return _session("tune.get_context()").context
