"""``shoal show`` and ``shoal best``: one trial of an experiment."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError, ResultError, StorageError, did_you_mean
from .errors import UsageProblem
from .finding import ExperimentArgument, TrialArgument, find_trial, open_experiment
from .output import OneFormat, OneFormatOption, Table, facts, print_json, print_table, say, warn, when
from .values import exact, flat

if TYPE_CHECKING:
    from ..history import CheckpointEntry, Row, TrialHistory
    from ..reading import Experiment

__all__ = ["best", "config_facts", "show"]

_LOG_BLOCK = 1 << 16
_MODES = ("max", "min")


def show(
    experiment: ExperimentArgument,
    trial: TrialArgument,
    log: Annotated[
        int, typer.Option("--log", "-n", min=0, metavar="N", help="How many of the last lines of its output to show.")
    ] = 10,
    format: OneFormatOption = OneFormat.table,
) -> None:
    """Show one trial: its config, its last result, whom it has copied, its checkpoints, why it failed, its output."""
    found = open_experiment(experiment)
    member = find_trial(found, trial)
    if format is OneFormat.json:
        print_json(_values(found, member, log))
        return
    _show(found, member)
    lines = _log_of(found, member, log)
    if lines:
        say(("\nlast lines of ", "bold"), found.path_of(member.folder, "output.log"))
        for line in lines:
            say(line)


def _show(experiment: Experiment, trial: TrialHistory) -> None:
    from ..display.table import count_text
    from ..display.text import format_config, format_value
    from .watching import status_style

    status, last = trial.status.value, trial.last
    was = "was " if status == "RUNNING" and experiment.state.value != "running" else ""
    shown: list[tuple[str, str] | tuple[str, str, str]] = [
        ("trial", f"{trial.index}: {trial.name}"),
        ("status", f"{was}{status}{f' ({trial.reason})' if trial.reason else ''}", status_style(status)),
        ("iteration", str(trial.iteration)),
        ("folder", experiment.path_of(trial.folder)),
    ]
    if trial.index in experiment.info.control:
        shown.append(("control", "it takes no part in exploits"))
    if trial.pid and trial.slot is not None:
        shown.append(("process", f"{trial.pid} on {trial.hostname}"))
    if trial.error is not None:
        shown.append(("error", trial.error, "red"))
        shown.append(("traceback", experiment.path_of(trial.folder, "error.txt")))
    facts(shown)
    say(("\nconfig", "bold"))
    facts(config_facts(trial.config, trial.initial_config))
    if last is not None:
        said = f" at iteration {last.report.iteration}, {when(last.report.timestamp) or ''}"
        say(("\nlast result", "bold"), (said, "dim"))
        facts((key, exact(value)) for key, value in flat(last.report.metrics).items())
        facts([("time_total_s", format_value(last.report.time_total_s))])
    if trial.exploits:
        say(("\nexploits", "bold"), (f" it has copied {count_text(len(trial.exploits), 'time')}", "dim"))
        from .lineages import exploit_table

        print_table(exploit_table(experiment, trial.exploits))
    for change in trial.changes:
        say(f"iteration {change.iteration}: config changed to {format_config(change.new_config)}")
    say(("\ncheckpoints", "bold"))
    if trial.checkpoints:
        print_table(_checkpoint_table(experiment, trial))
    else:
        say("none of its own")
    if trial.restore is not None:
        say(f"goes on from {trial.restore.id}, which it has copied")


def config_facts(config: dict[str, Any], before: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    """Return the values of a config by their paths, each with what it was at the beginning where it has changed."""
    old = flat(before or {})
    pairs: list[tuple[str, str]] = []
    for key, value in flat(config).items():
        was = f"   (began with {exact(old[key])})" if key in old and repr(old[key]) != repr(value) else ""
        pairs.append((key, f"{exact(value)}{was}"))
    return pairs or [("(empty)", "")]


def _checkpoint_table(experiment: Experiment, trial: TrialHistory) -> Table:
    from ..display.text import Column, format_value
    from .sizes import size_text

    metric = experiment.info.metric
    entries = sorted(trial.checkpoints.items())
    scores = ["" if metric is None else format_value(entry.row.value(metric)) for _, entry in entries]
    return Table(
        [
            Column("iter", [str(entry.row.report.iteration) for _, entry in entries], right=True),
            Column(metric or "score", scores, right=True),
            Column("size", [size_text(entry.saved.size) for _, entry in entries], right=True),
            Column(
                "path",
                [_checkpoint_text(experiment, trial, number) for number, _ in entries],
                short=[_checkpoint_text(experiment, trial, number, whole=False) for number, _ in entries],
            ),
        ]
    )


def _checkpoint_path(experiment: Experiment, trial: TrialHistory, number: int) -> str:
    from ..core.commands import checkpoint_name

    return experiment.path_of(trial.folder, checkpoint_name(number))


def _checkpoint_text(experiment: Experiment, trial: TrialHistory, number: int, *, whole: bool = True) -> str:
    path = _checkpoint_path(experiment, trial, number)
    text = path if whole else path.rpartition("/")[2]
    if number in trial.freed:
        return f"{text} (freed)"
    if not experiment.has_checkpoint(trial.folder, number):
        return f"{text} (gone)"
    return f"{text} (damaged)" if number in trial.damaged else text


def _log_of(experiment: Experiment, trial: TrialHistory, count: int) -> list[str]:
    """Return the last lines of what a trial has printed; where they cannot be read, say so."""
    if count == 0:
        return []
    try:
        path = experiment.end_of(trial.folder, "output.log")
    except StorageError as error:
        warn(f"The output of {trial.name} cannot be shown: {error}")
        return []
    return _tail(path, count)


def _tail(path: Path, count: int) -> list[str]:
    """Return the last lines of a file, fit to be shown; none where there is no such file."""
    from ..display.text import printable

    data = b""
    with contextlib.suppress(OSError), path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0 and data.count(b"\n") <= count:
            begin = max(0, end - _LOG_BLOCK)
            file.seek(begin)
            data = file.read(end - begin) + data
            end = begin
    lines = data.decode(errors="replace").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [printable(line) for line in lines[-count:]]


def _values(experiment: Experiment, trial: TrialHistory, log: int) -> dict[str, Any]:
    from ..history import full_row
    from .lineages import exploit_values

    last = trial.last
    return {
        "trial": trial.index,
        "trial_id": trial.trial_id,
        "name": trial.name,
        "path": experiment.path_of(trial.folder),
        "status": trial.status.value,
        "reason": trial.reason or None,
        "iteration": trial.iteration,
        "control": trial.index in experiment.info.control,
        "config": trial.config,
        "initial_config": trial.initial_config,
        "last_result": None if last is None else full_row(trial, last),
        "exploits": [exploit_values(experiment, exploit) for exploit in trial.exploits],
        "checkpoints": [
            {
                **_checkpoint_values(experiment, trial, number, entry),
                "damaged": number in trial.damaged,
                "freed": number in trial.freed,
                "there": experiment.has_checkpoint(trial.folder, number),
            }
            for number, entry in sorted(trial.checkpoints.items())
        ],
        "goes_on_from": None if trial.restore is None else trial.restore.id,
        "error": trial.error,
        "traceback": trial.traceback or None,
        "log": _log_of(experiment, trial, log),
    }


def _checkpoint_values(
    experiment: Experiment, trial: TrialHistory, number: int, entry: CheckpointEntry
) -> dict[str, Any]:
    metric = experiment.info.metric
    return {
        "path": _checkpoint_path(experiment, trial, number),
        "iteration": entry.row.report.iteration,
        "score": None if metric is None else entry.row.value(metric),
        "size": entry.saved.size,
        "digest": entry.saved.digest,
    }


def best(
    experiment: ExperimentArgument,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric", "-m", metavar="KEY", show_default=False,
            help="What is compared; nested keys are written a/b. Default: what the run compared.",
        ),
    ] = None,
    mode: Annotated[
        str | None, typer.Option("--mode", metavar="max|min", show_default=False, help="Default: as the run did.")
    ] = None,
    scope: Annotated[
        str,
        typer.Option(
            "--scope", metavar="SCOPE",
            help="What counts of each trial: its 'last' value, the best of 'all', or a mean: 'avg', 'last-5-avg', "
            "'last-10-avg'.",
        ),
    ] = "last",
    format: OneFormatOption = OneFormat.table,
) -> None:  # fmt: skip
    """Show the best trial: its score, its config, and the paths of its newest and of its best checkpoint.

    The exit code is 2 where nobody has reported the metric, and 1 where there is no result yet.
    """
    from ..core.reports import number
    from ..results import SCOPES, ResultGrid

    found = open_experiment(experiment)
    info = found.info
    if metric is None and info.metric is None:
        raise ConfigError(f"Which metric? {found.name} compared none. Give one, for example --metric accuracy.")
    for option, value, allowed in (("--mode", mode, _MODES), ("--scope", scope, SCOPES)):
        if value is not None and value not in allowed:
            hint = did_you_mean(value, allowed)
            raise UsageProblem(f"{option} must be one of {', '.join(allowed)}, but is {value!r}.{hint}")
    grid = ResultGrid(found.history, info, found.place)
    try:
        winner = grid.get_best_result(metric, mode, scope)
    except ResultError as error:
        rows = [row for trial in found.history.in_order() for row in trial.rows]
        if metric is not None and rows and all(number(_read(row, metric)) is None for row in rows):
            raise UsageProblem(f"--metric {metric}: {error}") from error
        raise
    member = found.history.trials[winner.trial_id]
    key, order = metric or str(info.metric), mode or info.mode
    values = _best_values(found, member, key, order, scope)
    if format is OneFormat.json:
        print_json(values)
        return
    score = f"{exact(values['score'])}" + ("" if scope == "last" else f"   ({scope} over its results: --scope)")
    facts(
        [
            ("trial", f"{member.index}: {member.name}"),
            (key, score, "bold"),
            ("iteration", str(member.iteration)),
            ("path", values["path"]),
            ("newest checkpoint", values["newest_checkpoint"] or "none"),
            ("best checkpoint", _best_text(values)),
        ]
    )
    say(("\nconfig", "bold"))
    facts(config_facts(winner.config))


def _best_text(values: dict[str, Any]) -> str:
    if values["best_checkpoint"] is None:
        return "none"
    score = "" if values["best_checkpoint_score"] is None else f"   ({exact(values['best_checkpoint_score'])})"
    return f"{values['best_checkpoint']}{score}"


def _read(row: Row, key: str) -> Any:
    """Return a value of a result, those of its config included: ``config/lr``."""
    from ..core.reports import lookup

    value = row.value(key)
    return lookup(row.config, key.removeprefix("config/")) if value is None and key.startswith("config/") else value


def _best_values(experiment: Experiment, trial: TrialHistory, metric: str, mode: str, scope: str) -> dict[str, Any]:
    from ..core.reports import number
    from ..results import Result, in_scope

    last: Row | None = trial.last
    newest: str | None = None
    result = Result(trial, experiment.history, experiment.place)
    with contextlib.suppress(ConfigError):  # it is gone
        checkpoint = result.checkpoint
        newest = None if checkpoint is None else checkpoint.path
    saved = [
        (score, place) for place, entry in trial.whole.items()
        if (score := number(_read(entry.row, metric))) is not None and score == score
        and experiment.has_checkpoint(trial.folder, place)
    ]  # fmt: skip
    sign = 1.0 if mode == "max" else -1.0
    values = [value for row in trial.rows if (value := number(_read(row, metric))) is not None]
    top = max(saved, key=lambda pair: (sign * pair[0], pair[1])) if saved else None
    return {
        "trial": trial.index,
        "trial_id": trial.trial_id,
        "name": trial.name,
        "metric": metric,
        "mode": mode,
        "scope": scope,
        "score": _read(last, metric) if scope == "last" and last is not None else in_scope(values, scope, sign, True),
        "iteration": trial.iteration,
        "config": None if last is None else last.config,
        "path": experiment.path_of(trial.folder),
        "newest_checkpoint": newest,
        "best_checkpoint": None if top is None else _checkpoint_path(experiment, trial, top[1]),
        "best_checkpoint_score": None if top is None else top[0],
    }
