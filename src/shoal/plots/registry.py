"""All plots by their names: what command line, report and dashboard choose from."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, ResultError, did_you_mean
from ..reading import Experiment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PLOTS", "Plot", "plot_of"]


@dataclass(frozen=True, slots=True)
class Plot:
    """One kind of plot."""

    name: str
    title: str
    explanation: str
    """How to read it, in a sentence."""
    options: tuple[str, ...]
    """Names of the keyword arguments that :meth:`info` takes."""
    _stage_one: str
    """Module and name of the function that makes the plain data."""
    _spec: str
    _figure: str

    def info(self, experiment: Experiment, **options: Any) -> Any:
        """Return the plain data to draw.

        Raises:
            ConfigError: it has no such option, or an option's value is wrong.
            ResultError: there is nothing to draw yet.
        """
        for name in options:
            if name not in self.options:
                raise ConfigError(
                    f"The plot {self.name!r} has no option {name!r}.{did_you_mean(name, self.options)} "
                    f"It has: {', '.join(map(repr, self.options)) or 'none'}."
                )
        for name in ("metric", "x", "trial_id", "mode"):
            value = options.get(name)
            if not isinstance(value, str) and not (value is None and name != "x") and name in options:
                raise ConfigError(f"{name} must be a text, but is {value!r} ({type(value).__name__}).")
        if not any(trial.last is not None for trial in experiment.history.trials.values()):
            raise ResultError(f"{experiment.name} has no result yet, so there is nothing to draw.")
        return _load(self._stage_one)(experiment, **options)

    def spec(self, info: Any, theme: str = "light", points: int | None = None) -> dict[str, Any]:
        """Return an interactive figure as Plotly reads it: JSON values, ``data`` and ``layout``.

        Args:
            info: what :meth:`info` returned.
            theme: ``light`` or ``dark``. The background is transparent.
            points: how many points a line may have at most, 4 or more; of more, the extremes remain. None: all.

        Raises:
            ConfigError: the theme or the number of points is none that there can be.
        """
        found: dict[str, Any] = _load(self._spec)(info, theme=theme, points=points)
        return found

    def figure(self, info: Any) -> Figure:
        """Return a matplotlib figure, which belongs to no window and to no pyplot.

        Args:
            info: what :meth:`info` returned.

        Raises:
            ImportError: matplotlib is not installed.
        """
        try:
            importlib.import_module("matplotlib")
        except ImportError as error:
            raise ImportError("Figures need matplotlib, which is not installed: pip install 'shoal[plots]'") from error
        figure: Figure = _load(self._figure)(info)
        return figure


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f".{module}", __package__), name)


def plot_of(name: str) -> Plot:
    """Return a plot by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    found = PLOTS.get(name) if isinstance(name, str) else None
    if found is None:
        raise ConfigError(
            f"There is no plot {name!r}.{did_you_mean(str(name), PLOTS)} There are: {', '.join(map(repr, PLOTS))}."
        )
    return found


_METRIC = ("metric", "x", "mode")
_ALL = (
    Plot(
        "learning-curves",
        "Learning curves",
        "Each line is what one member reported; where a line begins at another, the member copied that one, and the "
        "best member is in front.",
        _METRIC,
        "info:learning_curves",
        "specs_curves:learning_spec",
        "figures_curves:learning_figure",
    ),
    Plot(
        "lineage",
        "Lineage",
        "Each lane is a member, coloured by its score; a link leads from a donor's checkpoint to the member that "
        "copied it, and the path on which the best weights came is outlined.",
        _METRIC,
        "tree:lineage_tree",
        "specs_tree:lineage_spec",
        "figures_tree:lineage_figure",
    ),
    Plot(
        "schedules",
        "Schedules",
        "Each row is a hyperparameter: pale what the members trained with, in colour the schedule that made the best "
        "member's weights, through all donors.",
        ("parameters", "x"),
        "info:schedules",
        "specs_curves:schedules_spec",
        "figures_curves:schedules_figure",
    ),
    Plot(
        "ancestry",
        "Ancestry",
        "The one true learning curve of the best member's weights; colours and the strip below say which member "
        "trained which stretch.",
        ("metric", "x", "trial_id", "mode"),
        "info:ancestry",
        "specs_curves:ancestry_spec",
        "figures_curves:ancestry_figure",
    ),
    Plot(
        "diversity",
        "Diversity",
        "From whose first weights the members descend, how many founders and donors that amounts to, and how far the "
        "hyperparameters are apart: where one colour fills the picture, the population has become one family.",
        ("x",),
        "population:diversity",
        "specs_population:diversity_spec",
        "figures_population:diversity_figure",
    ),
    Plot(
        "times",
        "Times",
        "What each member's time went into; waiting for a slot or for a decision is grey.",
        (),
        "population:times",
        "specs_population:times_spec",
        "figures_population:times_figure",
    ),
    Plot(
        "gains",
        "Gains",
        "For each copy the score before, that of the copied checkpoint, and the score one interval later; below, by "
        "how much it changed.",
        ("x",),
        "population:gains_to_draw",
        "specs_population:gains_spec",
        "figures_population:gains_figure",
    ),
)
PLOTS: Mapping[str, Plot] = MappingProxyType({plot.name: plot for plot in _ALL})
"""All plots by their names, in the order in which a report has them."""
