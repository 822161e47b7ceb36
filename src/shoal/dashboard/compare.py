"""Two experiments side by side: what they were, what they came to, and their curves over each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..core.reports import flatten
from ..display.table import span_text
from ..display.text import crop, format_duration, format_value
from ..errors import ShoalError
from ..plots.info import Line, ancestry, finite, metric_of, reader_of, x_label
from ..plots.specs import CLEAR, FONT, axis, hover
from ..plots.style import Theme, theme_of
from ..plots.thin import thin_all
from ..plots.words import for_plotly
from ..reading import Experiment
from .figures import message
from .views import NOTHING, moment, seconds, whole_value

__all__ = ["COMPARED", "X_AXES", "Compared", "compared_figure", "comparison"]

COMPARED = {
    "winners": ("The winners' learning curves", "Each line is the true curve of the best weights, through all donors."),
    "best-so-far": ("Best so far", "The best score that any member has reported until then."),
}
_POINTS = 400
_LONGEST_NAME = 40
X_AXES = ("training_iteration", "time")


@dataclass(frozen=True, slots=True)
class Compared:
    """A line of the table: the same of both."""

    label: str
    first: str
    second: str

    @property
    def differs(self) -> bool:
        """Whether they are not the same."""
        return self.first != self.second


def comparison(first: Experiment, second: Experiment) -> tuple[list[Compared], list[Compared]]:
    """Return the facts of two experiments side by side, and the configs of their winners."""
    facts = [Compared(*each) for each in _zipped(dict(_facts(first)), dict(_facts(second)))]
    configs = [Compared(*each) for each in _zipped(_best_config(first), _best_config(second))]
    return facts, configs


def _zipped(first: dict[str, str], second: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    for name in dict.fromkeys([*first, *second]):
        yield name, first.get(name, NOTHING), second.get(name, NOTHING)


def _facts(experiment: Experiment) -> Iterator[tuple[str, str]]:
    info, history, timeline = experiment.info, experiment.history, experiment.timeline
    best = experiment.best
    yield "function", info.trainable
    yield "scheduler", info.scheduler
    yield "metric", NOTHING if info.metric is None else f"{info.metric} ({info.mode})"
    yield "best score", NOTHING if best is None or info.metric is None else format_value(best.value(info.metric))
    yield "best member", NOTHING if best is None else f"{best.index}, at iteration {best.iteration}"
    yield "members", str(info.num_trials)
    yield "results", f"{history.results:,}"
    yield "exploits", f"{history.perturbations:,}"
    yield "slots", span_text(*timeline.slots_between)
    yield "time", format_duration(timeline.duration)
    yield "time in training, all members", seconds(sum(spent.training for spent in timeline.members.values()))
    yield "seed", str(info.seed)
    yield "started", moment(info.started_at)


def _best_config(experiment: Experiment) -> dict[str, str]:
    best = experiment.best
    if best is None or best.last is None:
        return {}
    return {name: whole_value(value) for name, value in flatten(best.last.config)}


def compared_figure(
    first: Experiment, second: Experiment, name: str, theme: str, x: str
) -> Callable[[], dict[str, Any]]:
    """Read what a plot of two experiments shows, and return what draws it."""
    try:
        metric, mode = metric_of(first, None)
        if (metric, mode) != metric_of(second, None):
            other, other_mode = metric_of(second, None)
            return lambda: message(
                f"The experiments were compared by different things, so their scores have no common axis: {metric} "
                f"({mode}) and {other} ({other_mode})."
            )
        lines = [_LINES[name](experiment, metric, mode, x) for experiment in (first, second)]
    except ShoalError as error:
        text = str(error)
        return lambda: message(text)
    names = [first.name, second.name]
    label = x_label(x, first)
    return lambda: _spec(names, lines, metric, label, theme_of(theme), f"{name} {x}")


def _winner(experiment: Experiment, metric: str, mode: str, x: str) -> list[Line]:
    stretches = ancestry(experiment, metric, x).stretches
    points = [(at, value) for stretch in stretches for at, value in zip(stretch.line.x, stretch.line.y, strict=True)]
    return [Line(tuple(at for at, _ in points), tuple(value for _, value in points))]


def _best_so_far(experiment: Experiment, metric: str, mode: str, x: str) -> list[Line]:
    read = reader_of(experiment, x)
    sign = 1.0 if mode == "max" else -1.0
    rows = (row for trial in experiment.history.trials.values() for row in trial.rows)
    points = sorted((read(row), value) for row in rows if (value := finite(row.value(metric))) is not None)
    best: list[tuple[float, float]] = []
    for at, value in points:
        if best and best[-1][0] == at:
            best[-1] = (at, max(best[-1][1], value, key=lambda each: sign * each))
        elif not best or sign * value > sign * best[-1][1]:
            best.append((at, value))
    if points and best[-1][0] != points[-1][0]:
        best.append((points[-1][0], best[-1][1]))
    return [Line(tuple(at for at, _ in best), tuple(value for _, value in best))]


_LINES: dict[str, Callable[[Experiment, str, str, str], list[Line]]] = {
    "winners": _winner,
    "best-so-far": _best_so_far,
}


def _spec(
    names: list[str], lines: list[list[Line]], metric: str, label: str, theme: Theme, revision: str
) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    looks = ((theme.better, "solid"), (theme.winner, "dash"))
    shape = "hv" if revision.startswith("best-so-far") else "linear"
    for name, pieces, (colour, dash) in zip(names, lines, looks, strict=True):
        xs: list[float | None] = []
        ys: list[float | None] = []
        for piece in thin_all(pieces, _POINTS):
            xs += [*piece.x, None]
            ys += [*piece.y, None]
        shown = for_plotly(crop(name, _LONGEST_NAME, "…"))
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": shown,
                "x": xs,
                "y": ys,
                "line": {"color": colour, "dash": dash, "width": 2.2, "shape": shape},
                "hovertemplate": hover(shown, f"{for_plotly(label)} %{{x}}: %{{y:.5g}}"),
            }
        )
    layout = {
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"family": FONT, "size": 12.5, "color": theme.ink},
        "margin": {"l": 56, "r": 16, "t": 36, "b": 48},
        "height": 340,
        "xaxis": axis(theme, label),
        "yaxis": axis(theme, crop(metric, _LONGEST_NAME, "…")),
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": theme.background, "bordercolor": theme.pale, "font": {"color": theme.ink}},
        "modebar": {"bgcolor": CLEAR, "color": theme.pale, "activecolor": theme.ink},
        "uirevision": revision,
    }
    return {"data": data, "layout": layout}
