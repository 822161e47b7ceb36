"""``tune.run`` with a ``search_alg`` that is an object."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import run as running
from .search import settle_search

if TYPE_CHECKING:
    from ..analysis import ExperimentAnalysis

__all__ = ["run"]


@functools.wraps(running.run)
def run(
    run_or_experiment: Callable[..., Any] | str,
    *,
    search_alg: Any = None,
    max_concurrent_trials: int | None = None,
    seed: int | None = None,
    **settings: Any,
) -> ExperimentAnalysis:
    search_alg, max_concurrent_trials, seed = settle_search("tune.run", search_alg, max_concurrent_trials, seed)
    return running.run(
        run_or_experiment,
        search_alg=search_alg,
        max_concurrent_trials=max_concurrent_trials,
        seed=seed,
        **settings,
    )
