"""``shoal plot``, ``report`` and ``dashboard``: experiments as pictures and pages."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError, ResultError, did_you_mean
from ..location import is_url
from .errors import EXIT_CTRL_C, EXIT_WRONG, UsageProblem
from .finding import (
    ExperimentArgument,
    FolderArgument,
    TrialOption,
    find_experiment,
    find_trial,
    name_in,
    open_experiment,
    storage_root,
)
from .output import warn

if TYPE_CHECKING:
    from ..reading import Experiment

__all__ = ["dashboard", "plot", "report"]

_NAMES = ("learning-curves", "lineage", "schedules", "ancestry", "diversity", "times", "gains")
_OTHERS = frozenset(
    (".gif .jpg .jpeg .webp .bmp .tif .tiff .eps .ps .htm .pgf .raw .rgba .svgz .mp4 .csv .txt .md .ppt .pptx").split()
)
"""Endings of files that no plot is written as; anything else is taken for the name of a folder."""


class PlotFormat(str, Enum):
    """The kind of file."""

    png = "png"
    svg = "svg"
    pdf = "pdf"
    html = "html"
    json = "json"


class Mode(str, Enum):
    """Which values are better."""

    max = "max"
    min = "min"


def _complete_plot(incomplete: str) -> list[str]:
    return [name for name in _NAMES if name.startswith(incomplete)]


def plot(
    experiment: ExperimentArgument,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...",
            show_default=False,
            autocompletion=_complete_plot,
            help=f"Which: {', '.join(_NAMES)}. Default: all.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            show_default=False,
            help="A file for one plot, else a folder. Default: the folder 'plots' of the experiment; of one in object "
            "storage, NAME-plots here.",
        ),
    ] = None,
    format: Annotated[
        PlotFormat | None,
        typer.Option("--format", "-f", show_default=False, help="Default: as the file's name ends, else png."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", "-m", metavar="KEY", show_default=False, help="Default: what the run compared."),
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option("--mode", show_default=False, help="Whether a larger or a smaller value of --metric is better."),
    ] = None,
    x: Annotated[
        str | None,
        typer.Option(
            "--x", metavar="KEY", show_default=False, help="'training_iteration' (default), 'time', or a reported key."
        ),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="KEY", show_default=False, help="Of the schedules; may be repeated."),
    ] = None,
    trial: TrialOption = None,
) -> None:
    """Draw plots of an experiment, running or ended, and write them as files.

    Pictures need 'pip install shoal\\[plots]', interactive pages (html) 'pip install shoal\\[plotly]'.
    """
    from ..plots import PLOTS

    found = open_experiment(experiment)
    for name in names or ():
        if name not in PLOTS:
            raise UsageProblem(f"There is no plot {name!r}.{did_you_mean(name, PLOTS)} There are: {', '.join(PLOTS)}.")
    for option, key in (("--metric", metric), ("--x", x)):
        _check_reported(found, option, key)
    for key in parameter or ():
        _check_parameter(found, key)
    given = {
        "metric": metric,
        "mode": None if mode is None else mode.value,
        "x": x,
        "parameters": parameter or None,
        "trial_id": None if trial is None else find_trial(found, trial).trial_id,
    }
    drawn = [
        _draw(found, name, path, {key: value for key, value in given.items() if value is not None}, wanted=bool(names))
        for name, path in _targets(found, list(dict.fromkeys(names or PLOTS)), output, format)
    ]
    if not any(drawn):
        raise typer.Exit(EXIT_WRONG)


def _check_reported(experiment: Experiment, option: str, key: str | None) -> None:
    """Raise UsageProblem where no result has a key."""
    from ..core.reports import flatten
    from ..history import full_row

    lasts = [(trial, trial.last) for trial in experiment.history.in_order() if trial.last is not None]
    if key is None or not lasts or (option == "--x" and key == "time"):
        return
    names = dict.fromkeys(name for trial, row in lasts for name, _ in flatten(full_row(trial, row)))
    if key not in names and all(row.value(key) is None for _, row in lasts):
        reported = dict.fromkeys(name for _, row in lasts for name, _ in flatten(row.report.metrics))
        raise UsageProblem(
            f"{option} {key}: nobody has reported {key!r}.{did_you_mean(key, names)} Reported are: "
            f"{', '.join(reported)}."
        )


def _check_parameter(experiment: Experiment, key: str) -> None:
    """Raise UsageProblem where no config has a key."""
    from ..core.reports import flatten, lookup

    configs = [trial.config for trial in experiment.history.in_order()]
    if configs and all(lookup(config, key) is None for config in configs):
        names = dict.fromkeys(name for config in configs for name, _ in flatten(config))
        raise UsageProblem(
            f"--parameter {key}: no config has {key!r}.{did_you_mean(key, names)} They have: {', '.join(names)}."
        )


def _targets(
    experiment: Experiment, names: list[str], output: Path | None, format: PlotFormat | None
) -> list[tuple[str, Path]]:
    """Return the plots with the paths of their files."""
    endings = [f".{each.value}" for each in PlotFormat]
    output = None if output is None else output.expanduser()
    if output is not None and output.suffix.lower() in endings and not output.is_dir():
        if len(names) > 1:
            raise UsageProblem(
                f"--output {output} is one file, but there are {len(names)} plots. Give the name of one, for example "
                f"{names[0]}, or a folder."
            )
        if format is not None and output.suffix.lower() != f".{format.value}":
            raise UsageProblem(f"--output {output} and --format {format.value} contradict each other.")
        return [(names[0], output)]
    if output is not None and output.suffix.lower() in _OTHERS and not output.is_dir():
        raise UsageProblem(
            f"--output {output}: no plot is written as {output.suffix}. Kinds of files are: {', '.join(endings)}."
        )
    beside = Path(f"{experiment.name}-plots") if experiment.view is not None else experiment.folder / "plots"
    folder = beside if output is None else output
    return [(name, folder / f"{name}.{(format or PlotFormat.png).value}") for name in names]


def _draw(experiment: Experiment, name: str, path: Path, options: dict[str, Any], *, wanted: bool) -> bool:
    """Write a plot and say where; where it cannot be drawn and was not asked for by name, say why."""
    from ..plots import PLOTS, save_plot

    fitting = {key: value for key, value in options.items() if key in PLOTS[name].options}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_plot(experiment, name, path, **fitting)
    except (ResultError, ConfigError) as error:
        if wanted:
            raise
        warn(f"{name}: {error}")
        return False
    print(path)
    return True


def report(
    experiment: ExperimentArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            show_default=False,
            help="Default: report.html in the experiment's folder; of one in object storage, NAME-report.html here.",
        ),
    ] = None,
) -> None:
    """Write a report of an experiment: one HTML file with everything in it, to be kept or sent."""
    from ..report import write_report

    found = find_experiment(experiment)
    beside = found / "report.html" if isinstance(found, Path) else Path(f"{name_in(found)}-report.html")
    print(write_report(found, beside if output is None else output.expanduser()))


def dashboard(
    folder: FolderArgument = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Where to listen; elsewhere than here, a token is needed.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=0, max=65535, metavar="N", show_default=False,
            help="0: any that is free. Default: 8787, or the next one that is free.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", metavar="TEXT", show_default=False, help="What a browser must show. Default: random."),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Whether to open a browser.")] = False,
) -> None:  # fmt: skip
    """Show experiments in a browser, live, until Ctrl-C. Only looks: nothing can be changed from there.

    Needs 'pip install shoal\\[dashboard]'.
    """
    from ..dashboard import serve

    path = storage_root() if folder is None else folder if is_url(folder) else Path(folder).expanduser()
    if isinstance(path, Path) and not path.is_dir():
        path = find_experiment(folder) if folder is not None else path
    try:
        serve(path, host=host, port=port, token=token, open_browser=open_browser)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_CTRL_C) from None
