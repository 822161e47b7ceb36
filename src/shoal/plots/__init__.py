"""Plots of experiments, finished or running: ``shoal.plots.plot_lineage(results)``.

They are made in two stages. Stage one, :mod:`.info`, :mod:`.tree` and :mod:`.population`, turns an experiment into
plain data. Stage two draws it: with matplotlib (the functions here, ``shoal[plots]``), or as interactive figures (the
same names in :mod:`shoal.plots.plotly`, ``shoal[plotly]``). :data:`PLOTS` has all of them by their names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .registry import PLOTS, Plot
    from .saving import (
        plot_ancestry,
        plot_diversity,
        plot_gains,
        plot_learning_curves,
        plot_lineage,
        plot_schedules,
        plot_times,
        save_plot,
    )

__all__ = [
    "PLOTS",
    "Plot",
    "plot_ancestry",
    "plot_diversity",
    "plot_gains",
    "plot_learning_curves",
    "plot_lineage",
    "plot_schedules",
    "plot_times",
    "save_plot",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import registry, saving

        return getattr(registry if name in ("PLOTS", "Plot") else saving, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
