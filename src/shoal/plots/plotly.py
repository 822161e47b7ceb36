"""The plots as interactive Plotly figures; the same names as in :mod:`shoal.plots`, which draws with matplotlib.

Each takes the arguments of its namesake, and of how it looks: ``theme``, ``light`` (default) or ``dark``, and
``points``, how many points a line may have at most (default: all). They return a ``plotly.graph_objects.Figure`` with
a transparent background, and raise the same errors; ImportError where Plotly is not installed.
"""

from __future__ import annotations

import html
import importlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .registry import plot_of
from .saving import experiment_of
from .style import theme_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure  # type: ignore[import-untyped]

    from .saving import Source

__all__ = [
    "page",
    "plot_ancestry",
    "plot_diversity",
    "plot_gains",
    "plot_learning_curves",
    "plot_lineage",
    "plot_schedules",
    "plot_times",
]


def plot_learning_curves(
    source: Source,
    metric: str | None = None,
    x: str = "training_iteration",
    *,
    mode: str | None = None,
    theme: str = "light",
    points: int | None = None,
) -> Figure:
    """Draw what every member reported, the winner in front."""
    return _drawn("learning-curves", source, theme, points, metric=metric, x=x, mode=mode)


def plot_lineage(
    source: Source,
    metric: str | None = None,
    x: str = "training_iteration",
    *,
    mode: str | None = None,
    theme: str = "light",
    points: int | None = None,
) -> Figure:
    """Draw the lineage tree; ``customdata`` of what was clicked begins with the member's number."""
    return _drawn("lineage", source, theme, points, metric=metric, x=x, mode=mode)


def plot_schedules(
    source: Source,
    parameters: Sequence[str] | None = None,
    x: str = "training_iteration",
    *,
    theme: str = "light",
    points: int | None = None,
) -> Figure:
    """Draw the hyperparameters' values, and in front the schedule that made the best weights."""
    return _drawn("schedules", source, theme, points, parameters=parameters, x=x)


def plot_ancestry(
    source: Source,
    metric: str | None = None,
    x: str = "training_iteration",
    trial_id: str | None = None,
    *,
    mode: str | None = None,
    theme: str = "light",
    points: int | None = None,
) -> Figure:
    """Draw the true learning curve of one member's weights, and who trained which stretch."""
    return _drawn("ancestry", source, theme, points, metric=metric, x=x, trial_id=trial_id, mode=mode)


def plot_diversity(
    source: Source, x: str = "training_iteration", *, theme: str = "light", points: int | None = None
) -> Figure:
    """Draw the founders' shares, the effective numbers of founders and donors, and the hyperparameters' spread."""
    return _drawn("diversity", source, theme, points, x=x)


def plot_times(source: Source, *, theme: str = "light", points: int | None = None) -> Figure:
    """Draw what each member's time went into."""
    return _drawn("times", source, theme, points)


def plot_gains(
    source: Source, x: str = "training_iteration", *, theme: str = "light", points: int | None = None
) -> Figure:
    """Draw for each exploit the score before, what was copied, and the score after one interval."""
    return _drawn("gains", source, theme, points, x=x)


def _drawn(name: str, source: Source, theme: str, points: int | None, **options: Any) -> Figure:
    graph_objects = _plotly("graph_objects")
    plot = plot_of(name)
    spec = plot.spec(plot.info(experiment_of(source), **options), theme=theme, points=points)
    # "none": no colours of Plotly's own beside those of the theme.
    figure: Figure = graph_objects.Figure(data=spec["data"], layout={"template": "none", **spec["layout"]})
    return figure


def _plotly(module: str) -> Any:
    try:
        # By its whole name: this module is called like the package.
        return importlib.import_module(f"plotly.{module}")
    except ImportError as error:
        raise ImportError(
            "Interactive figures need plotly, which is not installed: pip install 'shoal[plotly]'"
        ) from error


def page(spec: dict[str, Any], theme: str = "light") -> str:
    """Return a whole HTML page with a figure, which needs no network.

    Args:
        spec: the figure, made with the same theme.
        theme: ``light`` or ``dark``.

    Raises:
        ImportError: Plotly is not installed, which brings the script.
    """
    look = theme_of(theme)
    script = _plotly("offline").get_plotlyjs()
    title = html.escape(spec["layout"]["meta"]["title"])
    # Nothing that users named can end the element.
    data = json.dumps(spec, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n"
        f"<style>body {{ margin: 12px; background: {look.background}; }}</style>\n"
        f"<script>{script}</script>\n</head>\n<body>\n"
        f'<div id="plot"></div>\n<script type="application/json" id="spec">{data}</script>\n'
        "<script>\n"
        'const spec = JSON.parse(document.getElementById("spec").textContent);\n'
        'Plotly.newPlot("plot", spec.data, spec.layout, { responsive: true, displaylogo: false });\n'
        "</script>\n</body>\n</html>\n"
    )
