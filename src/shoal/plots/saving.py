"""Plots from what people have at hand - a path, results, an experiment - and into files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, StorageError
from ..reading import Experiment
from .registry import plot_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..results import ResultGrid

    Source = str | os.PathLike[str] | ResultGrid | Experiment

__all__ = [
    "experiment_of",
    "plot_ancestry",
    "plot_diversity",
    "plot_gains",
    "plot_learning_curves",
    "plot_lineage",
    "plot_schedules",
    "plot_times",
    "save_plot",
]

ENDINGS = (".png", ".svg", ".pdf", ".html", ".json")
_DOTS_PER_INCH = 150


def experiment_of(source: Source) -> Experiment:
    """Return the experiment that a source is about.

    Args:
        source: the path or URL of an experiment's folder, what ``fit()`` returned, or an experiment that was opened.

    Raises:
        ConfigError: it is none of these.
        JournalError: the folder holds no experiment, or its journal is damaged.
    """
    if isinstance(source, Experiment):
        return source
    path = getattr(source, "experiment_path", source)
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ConfigError(
            f"A plot's source must be the path of an experiment's folder, a ResultGrid or a shoal.reading.Experiment, "
            f"but is {source!r} ({type(source).__name__})."
        )
    return Experiment.open(path)


def _drawn(name: str, source: Source, options: dict[str, Any]) -> Figure:
    plot = plot_of(name)
    return plot.figure(plot.info(experiment_of(source), **options))


def plot_learning_curves(
    source: Source, metric: str | None = None, x: str = "training_iteration", *, mode: str | None = None
) -> Figure:
    """Draw what every member reported, the winner in front.

    Args:
        source: the path of an experiment's folder, a ``ResultGrid``, or a ``shoal.reading.Experiment``.
        metric: a key of the results, nested ones written ``val/acc``. Default: the one that the scheduler compares.
        x: ``training_iteration``, ``time`` (seconds since the beginning, without pauses), or a key of the results.
        mode: ``max`` or ``min``, which values of the metric are better. Default: the experiment's, for its own metric;
            of another, nobody is said to be best.

    Returns:
        A matplotlib ``Figure``; ``figure.savefig(path)`` writes it.

    Raises:
        ConfigError: no metric is known, or an argument is wrong.
        ResultError: there is nothing to draw.
        JournalError: the folder holds no experiment.
        ImportError: matplotlib is not installed.
    """
    return _drawn("learning-curves", source, {"metric": metric, "x": x, "mode": mode})


def plot_lineage(
    source: Source, metric: str | None = None, x: str = "training_iteration", *, mode: str | None = None
) -> Figure:
    """Draw the lineage tree: a lane for each member, who copied whom, when, and the path of the best weights.

    Args, returns, raises: as for :func:`plot_learning_curves`.
    """
    return _drawn("lineage", source, {"metric": metric, "x": x, "mode": mode})


def plot_schedules(source: Source, parameters: Sequence[str] | None = None, x: str = "training_iteration") -> Figure:
    """Draw the hyperparameters' values by member, and in front the schedule that made the best weights.

    Args:
        source, x: as for :func:`plot_learning_curves`.
        parameters: config keys, nested ones written ``a/b``. Default: all that were sampled or mutate.
    """
    return _drawn("schedules", source, {"parameters": parameters, "x": x})


def plot_ancestry(
    source: Source,
    metric: str | None = None,
    x: str = "training_iteration",
    trial_id: str | None = None,
    *,
    mode: str | None = None,
) -> Figure:
    """Draw the true learning curve of one member's weights, and who trained which stretch.

    Args:
        source, metric, x, mode: as for :func:`plot_learning_curves`.
        trial_id: whose weights. Default: the best member's.
    """
    return _drawn("ancestry", source, {"metric": metric, "x": x, "trial_id": trial_id, "mode": mode})


def plot_diversity(source: Source, x: str = "training_iteration") -> Figure:
    """Draw the founders' shares, the effective numbers of founders and donors, and the hyperparameters' spread.

    Args:
        source: as for :func:`plot_learning_curves`.
        x: ``training_iteration``, how far the furthest member had trained by then, or ``time``.
    """
    return _drawn("diversity", source, {"x": x})


def plot_times(source: Source) -> Figure:
    """Draw what each member's time went into.

    Args:
        source: as for :func:`plot_learning_curves`.
    """
    return _drawn("times", source, {})


def plot_gains(source: Source, x: str = "training_iteration") -> Figure:
    """Draw for each exploit the score before, what was copied, and the score after one interval.

    Args:
        source: as for :func:`plot_learning_curves`.
        x: ``training_iteration`` or ``time``.
    """
    return _drawn("gains", source, {"x": x})


# -------------------------------------------------------------------------------------------------------------- files


def save_plot(source: Source, name: str, path: str | os.PathLike[str], **options: Any) -> Path:
    """Write a plot to a file, and return its path.

    Args:
        source: as for :func:`plot_learning_curves`.
        name: one of :data:`shoal.plots.PLOTS`, such as ``lineage``.
        path: the format follows from its ending: ``.png``, ``.svg`` and ``.pdf`` are drawn by matplotlib; ``.html`` is
            an interactive page that needs no network, made by Plotly; ``.json`` is what Plotly reads. A file that is
            there is replaced, folders that are missing are made.
        **options: those of the plot; with ``.html`` and ``.json`` also ``theme`` and ``points``, see
            :meth:`shoal.plots.Plot.spec`.

    Raises:
        ConfigError: the name, the ending or an option is none that there can be.
        ResultError: there is nothing to draw.
        StorageError: the file cannot be written.
        ImportError: matplotlib or Plotly is not installed.
    """
    plot = plot_of(name)
    target = _target(path)
    ending = target.suffix.lower()
    interactive = ending in (".html", ".json")
    look = {key: options.pop(key) for key in ("theme", "points") if key in options}
    if look and not interactive:
        raise ConfigError(
            f"Only .html and .json have the option {next(iter(look))!r}, but the path is {str(target)!r}."
        )
    info = plot.info(experiment_of(source), **options)
    if ending == ".json":
        text = json.dumps(plot.spec(info, **look), allow_nan=False, separators=(",", ":"), ensure_ascii=False)
        return _write(target, text.encode())
    if ending == ".html":
        from .plotly import page

        return _write(target, page(plot.spec(info, **look), theme=look.get("theme", "light")).encode())
    figure = plot.figure(info)
    return _written(target, lambda aside: figure.savefig(aside, format=ending[1:], dpi=_DOTS_PER_INCH))


def _target(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ConfigError(f"path must be the path of a file, but is {path!r}.")
    target = Path(path).expanduser()
    if target.suffix.lower() not in ENDINGS:
        raise ConfigError(
            f"A plot's path must end with {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}, which says the format, but is "
            f"{str(target)!r}."
        )
    return target


def _write(target: Path, content: bytes) -> Path:
    return _written(target, lambda aside: aside.write_bytes(content))


def _written(target: Path, write: Any) -> Path:
    """Let a file be written aside and renamed, so that nobody sees half of it."""
    aside: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:40]}_", suffix=target.suffix)
        os.close(handle)
        aside = Path(name)
        write(aside)
        # A temporary file is its owner's alone; this one is as others that he makes.
        mask = os.umask(0)
        os.umask(mask)
        aside.chmod(0o666 & ~mask)
        aside.replace(target)
    except OSError as error:
        raise StorageError(f"The plot cannot be written to {target}: {error}.") from error
    finally:
        if aside is not None:
            with suppress(OSError):
                aside.unlink()
    return target
