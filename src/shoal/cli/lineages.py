"""``shoal schedule`` and ``shoal lineage``: with which hyperparameters, and by whom, weights were trained."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ResultError
from .finding import ExperimentArgument, TrialOption, find_trial, open_experiment
from .output import (
    Format,
    FormatOption,
    Table,
    csv_text,
    plain,
    print_csv,
    print_json,
    print_table,
    say,
    warn,
    write_text,
)
from .values import exact, flat

if TYPE_CHECKING:
    from ..core.commands import Exploit
    from ..lineage import Lineage, Schedule
    from ..reading import Experiment
    from ..results import Result

__all__ = ["exploit_table", "exploit_values", "lineage", "result_of", "schedule"]


class ScheduleFormat(str, Enum):
    """How a schedule is printed."""

    table = "table"
    csv = "csv"
    json = "json"
    python = "python"


def schedule(
    experiment: ExperimentArgument,
    trial: TrialOption = None,
    format: Annotated[
        ScheduleFormat,
        typer.Option("--format", "-f", help="'python' is a module with a function config(step) that needs no Shoal."),
    ] = ScheduleFormat.table,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="Write it to a file.")
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Load objects in configs, which runs code of whoever wrote the journal."),
    ] = False,
) -> None:
    """Show the hyperparameter schedule that made the best weights, step by step, exact to the last bit.

    NumPy's numbers are written as plain ones. In JSON and CSV, infinities and NaN are the texts "inf", "-inf" and
    "nan", and objects are their text.
    """
    found = open_experiment(experiment, unpickle=trust)
    result = result_of(found, trial)
    made = result.schedule()
    if not made.changes:
        raise ResultError(f"Trial {result.trial_id} of {found.name} has reported nothing, so it has no schedule.")
    last = int(result.metrics["training_iteration"])
    if format is ScheduleFormat.table and output is None:
        say(("schedule of ", "bold"), found.history.trials[result.trial_id].name, (f", {last} steps", "dim"))
        print_table(_schedule_table(made, last))
        return
    if format is ScheduleFormat.python:
        from .source import schedule_source

        text = schedule_source(made, found.name, result.trial_id, last)
    elif format is ScheduleFormat.json:
        import json

        steps = [{"step": step, "config": config} for step, config in made.changes]
        text = json.dumps(plain(steps, finite=False), indent=2, allow_nan=False)
    else:
        # A file gets values separated by commas where nothing else was asked for.
        text = csv_text([{"step": step, **_named(flat(config), "step")} for step, config in made.changes], finite=False)
    write_text(output, text)
    if output is not None:
        warn(f"written to {output}")


def result_of(experiment: Experiment, trial: str | None) -> Result:
    """Return the result of the trial that is meant, by default of the best one.

    Raises:
        UsageProblem: there is no such trial.
        ResultError: nothing was reported yet.
        ConfigError: the experiment compared no metric, and no trial was given.
    """
    from ..errors import ConfigError
    from ..results import Result, ResultGrid

    if trial is not None:
        return Result(find_trial(experiment, trial), experiment.history, experiment.place)
    grid = ResultGrid(experiment.history, experiment.info, experiment.place)
    if experiment.info.metric is None and len(grid) != 1:
        raise ConfigError(f"{experiment.name} compared no metric, so none is best. Give a trial: --trial 0.")
    return grid[0] if experiment.info.metric is None else grid.get_best_result()


def _schedule_table(schedule: Schedule, last: int) -> Table:
    from ..display.text import Column

    ends = [*(begin for begin, _ in schedule.changes[1:]), last]
    rows = [flat(config) for _, config in schedule.changes]
    steps = [f"{begin + 1}-{end}" for (begin, _), end in zip(schedule.changes, ends, strict=True)]
    return Table([Column("steps", steps, right=True), *_config_columns(rows)])


def _config_columns(rows: Sequence[dict[str, Any]]) -> list[Any]:
    """Return a column for each hyperparameter, in full precision; those that never change are the first to go."""
    from ..display.text import Column

    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns: list[Column] = []
    for place, key in enumerate(keys):
        cells = [exact(row[key]) if key in row else "" for row in rows]
        constant = len(set(cells)) == 1
        columns.append(Column(key, cells, right=True, expendable=place + 1 + (len(keys) if constant else 0)))
    return columns


def _named(values: dict[str, Any], *taken: str) -> dict[str, Any]:
    return {f"config/{key}" if key in taken else key: value for key, value in values.items()}


# ------------------------------------------------------------------------------------------------------------- lineage


def lineage(
    experiment: ExperimentArgument,
    trial: TrialOption = None,
    everyone: Annotated[
        bool, typer.Option("--all", "-a", help="All exploits instead: who copied whom, when, and what changed.")
    ] = False,
    format: FormatOption = Format.table,
) -> None:
    """Show which members trained the best weights, for which steps, and with which hyperparameters."""
    found = open_experiment(experiment)
    if everyone:
        _all_exploits(found, trial, format)
        return
    result = result_of(found, trial)
    segments = result.lineage()
    if not segments:
        raise ResultError(f"Trial {result.trial_id} of {found.name} has reported nothing, so it has no lineage.")
    values = [
        {
            "trial_id": segment.trial_id,
            "trial": segment.trial,
            "first_step": segment.first_step,
            "last_step": segment.last_step,
            "checkpoint": segment.checkpoint,
            "donor_id": segment.donor_id,
            "digest": segment.digest,
            "config": segment.config,
        }
        for segment in segments
    ]
    if format is Format.json:
        print_json(values)
    elif format is Format.csv:
        rows = [{key: value for key, value in row.items() if key != "config"} for row in values]
        print_csv([
            {**row, **{f"config/{key}": value for key, value in flat(segment.config).items()}}
            for row, segment in zip(rows, segments, strict=True)
        ])  # fmt: skip
    else:
        say(("lineage of ", "bold"), found.history.trials[result.trial_id].name)
        print_table(_segment_table(segments))


def _segment_table(segments: Lineage) -> Table:
    from ..display.text import Column

    kept = [segment for segment in segments if segment.steps > 0] or list(segments)
    return Table(
        [
            Column("steps", [f"{each.first_step}-{each.last_step}" for each in kept], right=True),
            Column("trial", [str(each.trial) for each in kept], right=True),
            Column("began with", [each.checkpoint or "from scratch" for each in kept]),
            *_config_columns([flat(each.config) for each in kept]),
        ]
    )


def _all_exploits(experiment: Experiment, trial: str | None, format: Format) -> None:
    exploits = experiment.history.exploits
    if trial is not None:
        wanted = find_trial(experiment, trial).trial_id
        exploits = [each for each in exploits if wanted in (each.trial_id, each.donor_id)]
    if format is Format.table:
        if exploits:
            print_table(exploit_table(experiment, exploits))
        else:
            warn(f"In {experiment.name} nobody has copied anybody.")
        return
    values = [exploit_values(experiment, exploit) for exploit in exploits]
    if format is Format.json:
        print_json(values)
    else:
        print_csv(values, list(_EXPLOIT_KEYS))


_EXPLOIT_KEYS = (
    "at_s", "trial", "trial_id", "generation", "iteration", "score", "donor", "donor_id", "donor_iteration",
    "checkpoint", "checkpoint_iteration", "checkpoint_score", "failed", "donor_config", "new_config",
)  # fmt: skip


def exploit_values(experiment: Experiment, exploit: Exploit) -> dict[str, Any]:
    """Return an exploit for programs."""
    trials = experiment.history.trials
    copied = experiment.timeline.copied.get((exploit.trial_id, exploit.generation))
    values = (
        None if copied is None else copied.at,
        trials[exploit.trial_id].index,
        exploit.trial_id,
        exploit.generation,
        exploit.iteration,
        exploit.score,
        trials[exploit.donor_id].index,
        exploit.donor_id,
        exploit.donor_iteration,
        exploit.checkpoint.id,
        exploit.checkpoint.iteration,
        exploit.checkpoint.score,
        exploit.failed,
        exploit.donor_config,
        exploit.new_config,
    )
    return dict(zip(_EXPLOIT_KEYS, values, strict=True))


def exploit_table(experiment: Experiment, exploits: Sequence[Exploit]) -> Table:
    """Return exploits as a table: who copied whom, when, with which scores, and what changed."""
    from ..display.text import Column, format_duration, format_value

    trials, copied = experiment.history.trials, experiment.timeline.copied

    def score(value: float | None) -> str:
        return "" if value is None else format_value(value)

    times = [copied.get((each.trial_id, each.generation)) for each in exploits]
    return Table(
        [
            Column(
                "after", ["" if each is None else format_duration(each.at) for each in times], right=True, expendable=2
            ),
            Column("trial", [str(trials[each.trial_id].index) for each in exploits], right=True),
            Column("iter", [str(each.iteration) for each in exploits], right=True),
            Column("score", [score(each.score) for each in exploits], right=True),
            Column("copied", [str(trials[each.donor_id].index) for each in exploits], right=True),
            Column("at iter", [str(each.checkpoint.iteration) for each in exploits], right=True),
            Column("its score", [score(each.checkpoint.score) for each in exploits], right=True),
            Column("changed", [_changes(each) for each in exploits]),
        ]
    )


def _changes(exploit: Exploit) -> str:
    from ..display.text import format_value

    old, new = flat(exploit.donor_config), flat(exploit.new_config)
    parts = [
        f"{key} {format_value(old.get(key))} -> {format_value(value)}"
        for key, value in new.items()
        if repr(old.get(key)) != repr(value)
    ]
    why = " (it had failed)" if exploit.failed is not None else ""
    return f"{', '.join(parts) or 'nothing'}{why}"
