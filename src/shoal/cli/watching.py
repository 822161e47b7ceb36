"""``shoal status``: what the live status of a run shows, of any experiment and from any process."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import EXIT_WRONG, UsageProblem
from .finding import ExperimentArgument, open_experiment
from .output import (
    Format,
    FormatOption,
    OneFormat,
    OneFormatOption,
    Table,
    console,
    print_csv,
    print_json,
    table_lines,
    warn,
    when,
)
from .values import flat

if TYPE_CHECKING:
    from rich.text import Text

    from ..display.table import Overview, Progress
    from ..history import TrialHistory
    from ..reading import Experiment, State

__all__ = ["card", "status", "status_style"]

_EVERY_S = 1.0
_ROWS = 20
_BAR = 40
_STYLES = {
    "PENDING": "dim",
    "RUNNING": "green",
    "PAUSED": "yellow",
    "TERMINATED": "blue",
    "ERROR": "bold red",
    "running": "green",
    "interrupted": "yellow",
    "ended": "blue",
    "starting": "green",
    "never began": "dim",
    "damaged": "bold red",
    "unreadable": "bold red",
}


def status_style(status: str) -> str:
    """Return rich's style of a trial's status, or of an experiment's state."""
    return _STYLES.get(status, "")


def status(
    experiment: ExperimentArgument,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Draw again every second until it ends. Ctrl-C leaves it running.")
    ] = False,
    rows: Annotated[int, typer.Option("--rows", min=1, metavar="N", help="How many trials to show at most.")] = _ROWS,
    format: FormatOption = Format.table,
) -> None:
    """Show how far an experiment has come: its members, its best one, its failures.

    It may be running in another process, which is not disturbed. JSON has the experiment with all its trials, CSV a
    row for each trial.
    """
    if watch and format is not Format.table:
        raise UsageProblem(f"--watch draws a table; --format {format.value} is printed once. Give one of both.")
    found = open_experiment(experiment)
    if format is Format.json:
        print_json({**_experiment_values(found), "trials": [_trial_values(found, trial) for trial in _trials(found)]})
        return
    if format is Format.csv:
        table: list[dict[str, Any]] = []
        for trial in _trials(found):
            config = {f"config/{key}": value for key, value in flat(trial.config).items()}
            table.append({**_trial_values(found, trial), **config})
        print_csv([{key: value for key, value in row.items() if key != "config"} for row in table])
        return
    with contextlib.suppress(KeyboardInterrupt):
        if watch and found.state.value == "running":
            _watch(found, rows)
            return
        out = console()
        width = out.width if out.is_terminal else None
        for line in _view(found, found.state, rows, width, None):
            out.print(line, crop=False, overflow="ignore", no_wrap=True)


def _trials(experiment: Experiment) -> list[TrialHistory]:
    return experiment.history.in_order()


def _experiment_values(experiment: Experiment) -> dict[str, Any]:
    info, history, best = experiment.info, experiment.history, experiment.best
    state = experiment.state.value
    ran = experiment.timeline.active(time.time()) if state == "running" else experiment.timeline.duration
    return {
        "name": experiment.name,
        "path": experiment.place,
        "state": state,
        "stopped": history.stopped,
        "metric": info.metric,
        "mode": None if info.metric is None else info.mode,
        "best_trial": None if best is None else best.trial_id,
        "best_score": None if best is None or info.metric is None else best.value(info.metric),
        "results": history.results,
        "exploits": history.perturbations,
        "checkpoints": history.checkpoints,
        "slots": info.slots if history.slots is None else history.slots,
        "started": when(info.started_at or history.started_at),
        "duration_s": ran,
    }


def _trial_values(experiment: Experiment, trial: TrialHistory) -> dict[str, Any]:
    last = trial.last
    return {
        "trial": trial.index,
        "trial_id": trial.trial_id,
        "name": trial.name,
        "status": trial.status.value,
        "reason": trial.reason or None,
        "iteration": trial.iteration,
        "score": None if experiment.info.metric is None else trial.value(experiment.info.metric),
        "time_total_s": None if last is None else last.report.time_total_s,
        "exploits": len(trial.exploits),
        "control": trial.index in experiment.info.control,
        "error": trial.error,
        "config": trial.config,
    }


def card(experiment: ExperimentArgument, format: OneFormatOption = OneFormat.table) -> None:
    """Show the PBT report card: whether copying paid, what moved, where the time went, and from which numbers."""
    from ..card import report_card
    from ..display.card import card_lines

    made = report_card(open_experiment(experiment))
    if format is OneFormat.json:
        print_json(
            [
                {"key": each.key, "verdict": each.verdict.value, "text": each.text, "because": each.because}
                for each in made
            ]
        )
        return
    out = console()
    if not made.statements:
        warn("There is nothing to say yet.")
        raise typer.Exit(EXIT_WRONG)
    for line in card_lines(made, out.width if out.is_terminal else 120, colour=out.is_terminal):
        print(line)


def _watch(experiment: Experiment, rows: int) -> None:
    from ..display.table import Pace
    from ..reading import State

    out, pace = console(), Pace(experiment.info)
    if not out.is_terminal:
        _follow(experiment)
        for line in _view(experiment, experiment.state, rows, None, None):
            out.print(line, crop=False, overflow="ignore", no_wrap=True)
        return
    from rich.console import Group
    from rich.live import Live

    state = State.RUNNING
    with Live(console=out, auto_refresh=False, transient=False, vertical_overflow="crop") as live:
        while True:
            room = max(1, min(rows, out.height - 11))
            progress = pace.at(time.time(), experiment.history) if state is State.RUNNING else None
            live.update(Group(*_view(experiment, state, room, out.width, progress)), refresh=True)
            if state is not State.RUNNING:
                return
            time.sleep(_EVERY_S)
            state = experiment.state  # asked for first, so that nothing is missed that is written before it ends
            experiment.refresh()


def _follow(experiment: Experiment) -> None:
    """Print a line whenever something has happened, where there is no terminal to draw in."""
    from ..display.table import end_line
    from ..reading import State

    changed = True
    while experiment.state is State.RUNNING:
        if changed:
            clock = time.strftime("%H:%M:%S")
            print(f"{clock} {end_line(experiment.history, experiment.info)}", flush=True)
        time.sleep(_EVERY_S)
        changed = experiment.refresh()
    experiment.refresh()


def _view(experiment: Experiment, state: State, rows: int, width: int | None, progress: Progress | None) -> list[Text]:
    """Return the lines to show."""
    from rich.text import Text

    from ..display.table import overview, stopped_because
    from ..display.text import crop, one_line

    history, info = experiment.history, experiment.info
    running = state.value == "running"
    timeline = experiment.timeline
    ran = timeline.active(time.time()) if running else timeline.duration
    view = overview(info, history, folder=experiment.place, running_for=ran, rows=rows)
    lines = [Text(one_line(view.title), style="bold cyan"), *_facts(experiment, state, view, width)]
    if progress is not None:
        lines.append(_bar(progress, width))
    if stopped := stopped_because(history):
        lines.append(Text.assemble(("stopped  ", "yellow"), one_line(stopped)))
    if info.control:
        lines.append(Text(f"kept out of exploits: {', '.join(map(str, info.control))}", style="dim"))
    if not running:
        view = _was_running(view)
    lines += _table(view, width)
    if view.best:
        lines.append(Text.assemble(("best  ", "bold cyan"), one_line(view.best)))
    for _, text, path in view.failures:
        lines += [Text(one_line(text), style="red"), Text(f"    {one_line(path)}", style="dim")]
    if view.more_failures:
        lines.append(Text(f"and {view.more_failures} more failed", style="red"))
    lines.append(Text.assemble(("in  ", "bold cyan"), one_line(experiment.place)))
    if width is not None:
        for line in lines[:-1]:
            if len(crop(line.plain, width, "…")) < len(line.plain):
                line.truncate(width, overflow="ellipsis")
    return lines


def _was_running(view: Overview) -> Overview:
    """Return a view that tells of trials, whose driver was killed, that they were running."""
    from dataclasses import replace

    columns = [
        replace(each, cells=[f"was {cell}" if cell == "RUNNING" else cell for cell in each.cells])
        if each.title == "status" else each
        for each in view.columns
    ]  # fmt: skip
    return replace(view, columns=columns, rest=view.rest.replace(" RUNNING", " were RUNNING"))


def _facts(experiment: Experiment, state: State, view: Overview, width: int | None) -> list[Text]:
    """Return the state and the facts, in as many lines as they need."""
    from rich.text import Text

    from ..display.table import span_text
    from .drivers import who_runs

    lines = [Text.assemble((state.value, status_style(state.value)))]
    by = who_runs(experiment) if state.value == "running" else None
    if by is not None:
        lines[-1].append(f" by {by}", style="dim")
    for name, value in view.facts:
        if name == "slots" and state.value != "running":
            value = span_text(*experiment.timeline.slots_between)
        name = "ran for" if name == "running for" and state.value != "running" else name
        fact = Text.assemble((f"{name} ", "dim"), value)
        if width is not None and lines[-1].cell_len + 3 + fact.cell_len > width:
            lines.append(fact)
        else:
            lines[-1].append("   ").append_text(fact)
    return lines


def _bar(progress: Progress, width: int | None) -> Text:
    from rich.text import Text

    from ..display.text import format_duration

    text = f" {progress.done:4.0%}"
    if progress.to_go is not None:
        text += f", {format_duration(progress.to_go)} to go"
    room = max(4, min(_BAR, (width or 80) - len(text) - 1))
    full = min(room, int(progress.done * room))
    return Text.assemble(("━" * full, "green"), ("━" * (room - full), "dim"), text)


def _table(view: Overview, width: int | None) -> list[Text]:
    from rich.text import Text

    if not view.statuses:
        return []
    styles = [status_style(status.value) for status in view.statuses]
    place = next(place for place, column in enumerate(view.columns) if column.title == "status")
    bold = () if view.best_row is None else (view.best_row,)
    lines = table_lines(Table(view.columns, {place: styles}, bold), width)
    if view.rest:
        lines.append(Text(f"… and {view.rest}", style="dim"))
    return lines
