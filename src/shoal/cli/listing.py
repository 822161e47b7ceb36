"""``shoal list``: the experiments in a folder."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .finding import FolderArgument, experiment_folders, storage_root
from .output import Format, FormatOption, Table, print_csv, print_json, print_table, warn, when

if TYPE_CHECKING:
    from .summaries import Summary

__all__ = ["list_experiments"]


def list_experiments(folder: FolderArgument = None, format: FormatOption = Format.table) -> None:
    """List the experiments in a folder, the newest first.

    A running one is shown as far as it has come. One that is damaged has a row that says so, and the exit code
    is 0 all the same; 'shoal doctor' tells more.
    """
    from .summaries import Summary, summaries

    folders, _ = experiment_folders(folder)
    rows = summaries(folders)
    if format is not Format.table:
        values = [_values(row) for row in rows]
        if format is Format.json:
            print_json(values)
        else:
            print_csv(values, [*Summary.__dataclass_fields__, "started"])
        return
    if not rows:
        warn(f"There are no experiments in {folder or storage_root()}.")
        return
    print_table(_table(rows))
    for row in rows:
        if row.error is not None:
            warn(f"{row.name}: {row.error}")


def _values(row: Summary) -> dict[str, object]:
    from dataclasses import asdict

    return {**asdict(row), "started": when(row.started_at)}


def _table(rows: list[Summary]) -> Table:
    from ..display.text import Column, format_duration, format_value
    from .watching import status_style

    def text(value: object) -> str:
        return "" if value is None else str(value)

    columns = [
        Column("name", [row.name for row in rows]),
        Column("state", [row.state for row in rows]),
        Column("trials", [text(row.trials) for row in rows], right=True),
        Column("failed", [text(row.failed or None) for row in rows], right=True, expendable=5),
        Column("iter", [text(row.iterations) for row in rows], right=True),
        Column("best", ["" if row.best_score is None else format_value(row.best_score) for row in rows], right=True),
        Column("metric", [_goal(row) for row in rows], expendable=1),
        Column("exploits", [text(row.exploits) for row in rows], right=True, expendable=3),
        Column("started", [_day(row) for row in rows], expendable=2),
        Column(
            "took",
            ["" if row.duration_s is None else format_duration(row.duration_s) for row in rows],
            right=True,
            expendable=4,
        ),
    ]
    failed = any(row.failed for row in rows)
    return Table(
        [column for column in columns if failed or column.title != "failed"],
        {1: [status_style(row.state) for row in rows]},
    )


def _goal(row: Summary) -> str:
    return "" if row.metric is None else f"{row.metric} ({row.mode})"


def _day(row: Summary) -> str:
    return "" if not row.started_at else time.strftime("%Y-%m-%d %H:%M", time.localtime(row.started_at))
