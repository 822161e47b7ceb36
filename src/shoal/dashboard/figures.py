"""Figures for the browser: specs of :mod:`shoal.plots` as compressed JSON."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import ShoalError, one_line
from ..reading import Experiment
from ..report_page import without_title
from .lighter import lighter

__all__ = ["Panel", "encoded", "message", "panels", "plot_figure"]

_FEW_MEMBERS = 12
_POINTS, _POINTS_OF_MANY = 240, 120
_LEAST = 14
"""Pixels that stay above a plot whose title the page shows."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A plot's place on the page of an experiment."""

    name: str
    title: str
    explanation: str
    by_x: bool
    """Whether its x axis can be chosen."""


def panels() -> list[Panel]:
    """Return the plots of an experiment, in the order of the page."""
    from ..plots import PLOTS

    return [Panel(plot.name, plot.title, plot.explanation, "x" in plot.options) for plot in PLOTS.values()]


def plot_figure(
    experiment: Experiment, name: str, theme: str, x: str, trial_id: str | None = None
) -> Callable[[], dict[str, Any]]:
    """Read what a plot shows, and return what draws it: that does not need the experiment any more.

    Args:
        experiment: which.
        name: the plot's, one of those that there are.
        theme: ``light`` or ``dark``.
        x: ``training_iteration`` or ``time``, for plots that have the choice.
        trial_id: whose, for the plot of an ancestry.
    """
    from ..plots import PLOTS

    plot = PLOTS[name]
    options: dict[str, Any] = {}
    if "x" in plot.options:
        options["x"] = x
    if trial_id is not None:
        options["trial_id"] = trial_id
    try:
        info = plot.info(experiment, **options)
    except ShoalError as error:
        text = str(error)
        return lambda: message(text)
    except Exception as error:
        text = f"This plot cannot be drawn: {one_line(error)}"
        return lambda: message(text)
    points = _POINTS if len(experiment.history.trials) <= _FEW_MEMBERS else _POINTS_OF_MANY

    def draw() -> dict[str, Any]:
        try:
            spec = plot.spec(info, theme=theme, points=points)
        except Exception as error:  # the other plots are shown
            return message(f"This plot cannot be drawn: {one_line(error)}")
        # Who has zoomed in keeps that while the figure goes on, and loses it with another axis.
        layout = {**_without_heading(spec["layout"], plot.title), "uirevision": f"{name} {x} {trial_id}"}
        data, layout = lighter(spec["data"], layout)
        return {"data": data, "layout": layout}

    return draw


def _without_heading(layout: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a layout whose title and note, which are in ``meta``, do not stand in the figure: the page shows them.

    Args:
        layout: with a title.
        name: what stands above on the page, and need not be said again.
    """
    title = layout.get("title", {}).get("text", "")
    if "meta" not in layout or not title:
        return layout
    rest = without_title(layout, _LEAST)
    said = str(layout["meta"].get("title", ""))
    if said.casefold().startswith(f"{name.casefold()}: "):
        said = said[len(name) + 2 :]
        rest["meta"] = {**layout["meta"], "title": said[:1].upper() + said[1:]}
    return rest


def message(text: str) -> dict[str, Any]:
    """Return what is shown in place of a figure."""
    return {"message": text}


def encoded(spec: dict[str, Any]) -> bytes:
    """Return a figure as it is sent: JSON, compressed with gzip."""
    try:
        text = json.dumps(spec, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        text = json.dumps(message(f"This plot cannot be drawn: {one_line(error)}"))
    return gzip.compress(text.encode(), compresslevel=4, mtime=0)
