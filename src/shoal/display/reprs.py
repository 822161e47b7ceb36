"""How results look in a notebook: the ``_repr_html_`` of what an experiment gives back, from plain data.

A notebook calls these for whatever stands in the last line of a cell, so they are quick, and where something cannot be
shown they return None: then the notebook shows the object's ordinary text.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

from ..core.events import Config
from ..core.reports import flatten, number
from ..experiment import ExperimentInfo
from ..history import History, Row, TrialHistory
from ..lineage import Segment
from ..location import is_url
from ..naming import short_name
from .html import Html, cut, element, escape, fragment, pairs, sparkline, status_mark, table
from .table import choose, count_text, error_of, overview, trial_columns
from .text import Column, format_duration, format_value, one_line

__all__ = [
    "checkpoint_html",
    "config_columns",
    "grid_html",
    "learning_points",
    "lineage_columns",
    "lineage_html",
    "result_html",
    "schedule_columns",
    "schedule_html",
    "size_text",
]

_ROWS = 40
"""Trials in a table."""
_VALUES = 30
"""Metrics, hyperparameters or files that are listed."""
_CHANGES = 60
"""Segments of a lineage, or changes of a schedule; the newest of more."""
_FILES_SEEN = 1000
"""Files of a checkpoint that are counted."""
_LARGEST_NOTES = 64 << 10
"""Bytes of a checkpoint's metadata that are read."""

P = ParamSpec("P")


def _or_nothing(make: Callable[P, str | None]) -> Callable[P, str | None]:
    """Return None where the HTML cannot be made, so that a notebook shows the text instead of a traceback."""

    @functools.wraps(make)
    def safe(*args: P.args, **options: P.kwargs) -> str | None:
        try:
            return str(make(*args, **options))
        except Exception:
            return None

    return safe


# ------------------------------------------------------------------------------------------------------------- results


@_or_nothing
def grid_html(history: History, info: ExperimentInfo, folder: str) -> str | None:
    """Return the table of an experiment's trials, the best one marked."""
    trials = history.in_order()
    name = f"{os.path.basename(folder)}: {count_text(len(trials), 'trial')}"
    where = element("div", "in ", element("code", folder), _gone(folder), class_="shoal-dim")
    if not trials:
        return fragment(element("div", name, class_="shoal-title"), where)
    view = overview(info, history, folder=folder, running_for=0.0, rows=_ROWS)
    shown = choose(trials, info, _ROWS)
    rest = f"and {view.rest}" if view.rest else ""
    best = [element("div", element("b", "best "), view.best)] if view.best else []
    made = table(trial_columns(shown, info), best=view.best_row, statuses=view.statuses, caption=rest)
    return fragment(element("div", name, class_="shoal-title"), where, made, *best)


@_or_nothing
def result_html(
    trial: TrialHistory, folder: str, config: Config, metric: str | None, checkpoint: Callable[[], Any]
) -> str | None:
    """Return a trial's result: metrics, config, the learning curve of its weights, where things are.

    Args:
        trial: its history.
        folder: the trial's folder, or its URL.
        config: that of the last result.
        metric: what the curve shows; None: the first number that was reported.
        checkpoint: returns the trial's checkpoint or None, or raises where its folder is gone.
    """
    last = trial.last
    facts: list[object] = [status_mark(trial.status)]
    if last is not None:
        report = last.report
        facts += [f"iteration {report.iteration}", f"trained for {format_duration(report.time_total_s)}"]
    if trial.exploits:
        facts.append(count_text(len(trial.exploits), "exploit"))
    blocks: list[Html] = []
    if last is not None:
        blocks.append(pairs(_limited(flatten(last.report.metrics)), title="metrics"))
    blocks.append(pairs(_limited(flatten(config)), title="config"))
    curve = _curve(last, metric)
    if curve:
        blocks.append(curve)
    return fragment(
        element("div", trial.name, class_="shoal-title"),
        element("div", *(element("span", fact) for fact in facts), class_="shoal-facts"),
        element("div", *blocks, class_="shoal-columns"),
        *([element("div", element("code", error_of(trial)), class_="shoal-failure")] if trial.error else []),
        pairs([("path", element("code", folder, _gone(folder))), *_checkpoint_path(checkpoint)], class_="shoal-wrap"),
    )


def _checkpoint_path(find: Callable[[], Any]) -> list[tuple[str, object]]:
    from ..errors import ConfigError

    try:
        found = find()
    except ConfigError:
        return [("checkpoint", "its folder is gone")]
    return [] if found is None else [("checkpoint", element("code", found.path))]


def _limited(values: Any) -> list[tuple[str, object]]:
    """Return names and values for a list that stays short."""
    found = list(values)
    shown: list[tuple[str, object]] = [(one_line(str(name)), _shown(value)) for name, value in found[:_VALUES]]
    if len(found) > _VALUES:
        shown.append(("…", f"{len(found) - _VALUES} more"))
    return shown


def _shown(value: object) -> str:
    """Return a value as a cell has it: numbers short, text somewhat longer."""
    return cut(one_line(value), 80) if isinstance(value, str) else format_value(value)


def _gone(folder: str) -> str:
    return "" if is_url(folder) or os.path.isdir(folder) else " (not there any more)"


def learning_points(last: Row, metric: str | None) -> tuple[str, list[tuple[float, float | None]]]:
    """Return the metric, and its value in each step that made the weights of a result, donors' steps included.

    Args:
        last: the result.
        metric: a key of the results. None, or one that was not reported: the first number in it.
    """
    if metric is None or number(last.value(metric)) is None:
        metric = next((name for name, value in flatten(last.report.metrics) if number(value) is not None), None)
    if metric is None:
        return "", []
    return metric, [(float(row.report.iteration), number(row.value(metric))) for row in last.steps()]


def _curve(last: Row | None, metric: str | None) -> Html:
    if last is None:
        return escape("")
    name, points = learning_points(last, metric)
    drawn = sparkline(points, f"{name} by training_iteration")
    values = [y for _, y in points if y is not None and y == y]
    if not drawn or not values:
        return escape("")
    note = f"{format_value(values[0])} → {format_value(values[-1])}, iteration {points[0][0]:g} to {points[-1][0]:g}"
    return element(
        "div", element("div", cut(name, 60), class_="shoal-head"), drawn, element("div", note, class_="shoal-dim")
    )


# --------------------------------------------------------------------------------------------------------- checkpoints


@_or_nothing
def checkpoint_html(path: str, metadata_name: str) -> str | None:
    """Return what a checkpoint holds: its files with their sizes, and its metadata.

    Args:
        path: the checkpoint's folder; of one in object storage, whose files are not looked up, the URL.
        metadata_name: the file with the notes of ``set_metadata``.
    """
    title = element("div", "Checkpoint ", element("code", path), class_="shoal-head")
    if is_url(path):
        return fragment(title)
    folder = Path(path)
    if not folder.is_dir():
        return fragment(title, element("div", "Its folder is gone.", class_="shoal-failure"))
    files, whole = _files(folder)
    names = [name for name, _ in files[:_VALUES]]
    total = size_text(sum(size for _, size in files))
    more = "" if whole else f"more than {_FILES_SEEN} files; "
    rest = f"and {count_text(len(files) - len(names), 'more file')}; " if len(files) > len(names) else ""
    listed = table(
        [Column("file", names), Column("size", [size_text(size) for _, size in files[:_VALUES]], right=True)],
        caption=f"{more or rest}{total} in all" if whole else f"{more}the first take {total}",
    )
    notes = _notes(folder / metadata_name)
    return fragment(title, listed if files else element("div", "It has no files."), *notes)


def _files(folder: Path) -> tuple[list[tuple[str, int]], bool]:
    """Return files with their sizes in bytes by name, and whether these are all."""
    found: list[tuple[str, int]] = []
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if len(found) == _FILES_SEEN:
                return found, False
            path = os.path.join(where, name)
            try:
                size = os.lstat(path).st_size
            except OSError:
                continue  # deleted meanwhile
            found.append((os.path.relpath(path, folder), size))
    return found, True


def _notes(path: Path) -> list[Html]:
    import json

    try:
        if path.stat().st_size > _LARGEST_NOTES:
            return [element("div", f"Its metadata takes {size_text(path.stat().st_size)}.", class_="shoal-dim")]
        notes = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError):
        return [element("div", "Its metadata cannot be read.", class_="shoal-failure")]
    if not isinstance(notes, dict) or not notes:
        return []
    return [
        pairs([(key, cut(json.dumps(value), 120)) for key, value in list(notes.items())[:_VALUES]], title="metadata")
    ]


def size_text(size: float) -> str:
    """Return bytes as ``12 B``, ``3.4 kB`` or ``1.2 GB``, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


# ------------------------------------------------------------------------------------------------ lineage and schedule


@_or_nothing
def lineage_html(segments: Sequence[Segment]) -> str | None:
    """Return a lineage as a table with a row for each segment."""
    if not segments:
        return fragment(element("div", "Lineage: nothing has been reported yet.", class_="shoal-head"))
    title = f"Lineage: {count_text(segments[-1].last_step, 'step')}, {count_text(len(segments), 'segment')}"
    shown = segments[-_CHANGES:]
    columns, same = lineage_columns(shown)
    return fragment(
        element("div", title, class_="shoal-head"),
        table(columns, caption=_caption(len(segments) - len(shown), "earlier segment", same)),
    )


def lineage_columns(segments: Sequence[Segment]) -> tuple[list[Column], str]:
    """Return the table of a lineage, and the hyperparameters that are the same in all of it as text."""
    columns, same = config_columns([segment.config for segment in segments])
    steps = [
        f"{segment.first_step} to {segment.last_step}" if segment.steps > 0 else f"none after {segment.last_step}"
        for segment in segments
    ]
    began = [
        "from scratch"
        if segment.checkpoint is None
        else f"{'copied' if segment.donor_id is not None else 'went on from'} {segment.checkpoint}"
        for segment in segments
    ]
    first = [
        Column("steps", steps),
        Column("trained by trial", [str(segment.trial) for segment in segments], right=True),
        Column("began", began),
    ]
    return [*first, *columns], same


@_or_nothing
def schedule_html(changes: Sequence[tuple[int, Config]]) -> str | None:
    """Return a schedule as a table with a row for each change."""
    if not changes:
        return fragment(element("div", "Schedule: nothing has been reported yet.", class_="shoal-head"))
    shown = changes[-_CHANGES:]
    columns, same = schedule_columns(shown)
    return fragment(
        element("div", f"Schedule: {count_text(len(changes), 'config')}", class_="shoal-head"),
        table(columns, caption=_caption(len(changes) - len(shown), "earlier change", same)),
    )


def schedule_columns(changes: Sequence[tuple[int, Config]]) -> tuple[list[Column], str]:
    """Return the table of a schedule, and the hyperparameters that are the same in all of it as text."""
    columns, same = config_columns([config for _, config in changes])
    return [Column("from step", [str(step + 1) for step, _ in changes], right=True), *columns], same


def config_columns(configs: Sequence[Mapping[str, Any]]) -> tuple[list[Column], str]:
    """Return a column for each hyperparameter that differs among configs, and the others as text.

    Where none differs, all have a column, up to a number that a table can take.
    """
    flat = [dict(flatten(config)) for config in configs]
    names = list(dict.fromkeys(name for values in flat for name in values))
    cells = {name: [format_value(values[name]) if name in values else "" for values in flat] for name in names}
    differ = [name for name in names if len(set(cells[name])) > 1]
    constant = [name for name in names if name not in differ]
    if not differ:
        differ, constant = constant[:_VALUES], constant[_VALUES:]
    tails = [short_name(name) for name in differ]
    titles = [tail if tails.count(tail) == 1 else name for name, tail in zip(differ, tails, strict=True)]
    columns = [
        Column(one_line(title), cells[name], right=_are_numbers(cells[name]))
        for title, name in zip(titles, differ, strict=True)
    ]
    same = ", ".join(f"{one_line(name)}={cells[name][0]}" for name in constant[:_VALUES])
    return columns, f"{same}, …" if len(constant) > _VALUES else same


def _are_numbers(cells: Sequence[str]) -> bool:
    return all(not cell or cell.lstrip("-")[:1].isdigit() or cell in ("inf", "-inf", "nan") for cell in cells)


def _caption(left_out: int, noun: str, same: str) -> str:
    parts = [count_text(left_out, noun) + " left out"] if left_out else []
    return "; ".join([*parts, f"always: {same}"] if same else parts)
