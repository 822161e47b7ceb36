"""All commands, put together. This file decides their order, their examples and how they are grouped."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from . import checking, freeing, lineages, listing, pictures, stopping, training, trials, watching
from .errors import EXIT_CODES

__all__ = ["app", "command"]

_LOOK, _RUN, _CARE = "Look at experiments", "Run experiments", "Take care of experiments"
# Before Typer 0.28 a line of an epilog ended with an empty one, which was not shown.
_RELEASE = tuple(int(part) for part in typer.__version__.split(".")[:2] if part.isdecimal())
_BREAK = "\n" if _RELEASE >= (0, 28) else "\n\n"
_CODES = _BREAK.join(f"[bold]{code:>3}[/bold]  {text}" for code, text in EXIT_CODES.items())
_EXPERIMENT = (
    "EXPERIMENT is a path, or the name of an experiment in the storage folder (the variable SHOAL_DIR, else "
    "./shoal_results), the beginning of that name, or [bold]latest[/bold]."
)

app = typer.Typer(
    name="shoal",
    help=f"Population Based Training: run experiments, look at them, take care of them.\n\n{_EXPERIMENT}",
    epilog=f"[dim]Exit codes[/dim]{_BREAK}{_CODES}",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command() -> Any:
    """Return the whole command line."""
    return typer.main.get_command(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        print(f"shoal {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _shoal(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and leave.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        text = context.get_help()
        if text:
            print(text)
        raise typer.Exit


def _add(name: str, function: Any, group: str, *examples: str) -> None:
    lines = _BREAK.join(f"[dim]$[/dim] {example}" for example in examples)
    # Each paragraph in one line: how it is broken, the terminal's width says.
    text = "\n\n".join(" ".join(part.split()) for part in (inspect.getdoc(function) or "").split("\n\n"))
    epilog = f"[dim]Examples[/dim]{_BREAK}{lines}"
    app.command(name, help=text, rich_help_panel=group, epilog=epilog)(function)


_add("list", listing.list_experiments, _LOOK, "shoal list", "shoal list ~/results --format csv > experiments.csv")
_add("status", watching.status, _LOOK, "shoal status latest", "shoal status mnist --watch")
_add("show", trials.show, _LOOK, "shoal show mnist 3 --log 20", "shoal show latest best --format json")
_add("best", trials.best, _LOOK, "shoal best mnist", "shoal best mnist --metric loss --mode min --scope all")
_add(
    "schedule", lineages.schedule, _LOOK,
    "shoal schedule mnist", "shoal schedule mnist --format python -o schedule.py",
)  # fmt: skip
_add("lineage", lineages.lineage, _LOOK, "shoal lineage mnist", "shoal lineage mnist --all --format csv")
_add("card", watching.card, _LOOK, "shoal card mnist", "shoal card mnist --format json")
_add("plot", pictures.plot, _LOOK, "shoal plot mnist", "shoal plot mnist lineage schedules -o pictures/")
_add("report", pictures.report, _LOOK, "shoal report mnist", "shoal report mnist -o mnist.html")
_add("dashboard", pictures.dashboard, _LOOK, "shoal dashboard", "shoal dashboard ~/results --port 9000 --open")
_add(
    "run", training.run, _RUN,
    "shoal run train:train --space space.toml --metric acc --mode max",
    "shoal run train:train --space space.py:space --scheduler fifo --seed 1",
)  # fmt: skip
_add(
    "resume", training.resume, _RUN,
    "shoal resume mnist train:train", "shoal resume mnist train:train --stop training_iteration=100",
)  # fmt: skip
_add("replay", training.replay, _RUN, "shoal replay mnist train:train", "shoal replay mnist train:train --trial 2")
_add("stop", stopping.stop, _RUN, "shoal stop mnist", "shoal stop latest --now")
_add("demo", training.demo, _RUN, "shoal demo", "shoal demo --iterations 10")
_add("doctor", checking.doctor, _CARE, "shoal doctor mnist", "shoal doctor ~/results --format json")
_add("gc", freeing.gc, _CARE, "shoal gc mnist --dry-run", "shoal gc mnist --keep-best 1 --yes")
