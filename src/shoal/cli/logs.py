"""Compares the log files of an experiment with its journal, from which they are made: every value of every result."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..core.commands import Exploit, Status
from ..core.reports import flatten
from ..history import History, TrialHistory, full_row
from ..journal.codec import Unloadable
from ..sinks.files import to_json

__all__ = ["differences"]

_LOCAL = "date"
"""It is the timestamp in the local time of who wrote it."""
_NOT_IN_TABLES = ("config", "should_checkpoint")


def differences(folder: Path, history: History, *, policies: bool) -> Iterator[str]:
    """Yield in words what is otherwise in ``result.json``, ``progress.csv``, ``params.json`` and the policies.

    Objects in configs that were not loaded are taken to be right.

    Args:
        folder: the experiment's folder.
        history: what its journal tells, with all rows.
        policies: whether exploits are written to ``pbt_global.txt`` and ``pbt_policy_*.txt``.

    Raises:
        OSError: a file cannot be read.
    """
    for trial in history.in_order():
        own = folder / trial.folder
        if not own.is_dir():
            if trial.launches:
                yield f"{trial.trial_id}: its folder is gone"
            continue
        for problem in (_results(own, trial), _table(own, trial), _params(own, trial)):
            if problem is not None:
                yield f"{trial.trial_id}: {problem}"
        if trial.status is Status.ERROR and not (own / "error.txt").exists():
            yield f"{trial.trial_id}: error.txt is missing"
    if policies:
        yield from _policies(folder, history)


def _results(folder: Path, trial: TrialHistory) -> str | None:
    """Return what is wrong with ``result.json``."""
    lines = _lines(folder / "result.json")
    if lines is None:
        return "result.json is missing" if trial.rows else None
    if len(lines) != len(trial.rows):
        return f"result.json has {len(lines)} results in place of {len(trial.rows)}"
    for place, (row, line) in enumerate(zip(trial.rows, lines, strict=True), start=1):
        found = _parsed(line)
        if not isinstance(found, dict):
            return f"line {place} of result.json cannot be read"
        key = _differs(full_row(trial, row), found)
        if key is not None:
            return f"line {place} of result.json has another {key}"
    return None


def _differs(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """Return a key whose value is another one, or that one of both lacks."""
    for key, value in expected.items():
        if key != _LOCAL and not (key in found and _same(value, found[key])):
            return key
    return next((key for key in found if key not in expected), None)


def _table(folder: Path, trial: TrialHistory) -> str | None:
    """Return what is wrong with ``progress.csv``."""
    rows = _cells(folder / "progress.csv")
    if rows is None:
        return "progress.csv is missing" if trial.rows else None
    titles, *rows = rows or [[]]
    if len(rows) != len(trial.rows):
        return f"progress.csv has {len(rows)} rows in place of {len(trial.rows)}"
    known = set(titles)
    for place, (row, cells) in enumerate(zip(trial.rows, rows, strict=True), start=1):
        values = {key: value for key, value in full_row(trial, row).items() if key not in _NOT_IN_TABLES}
        if dict in map(type, values.values()):
            values = dict(flatten(values))
        if len(cells) > len(titles):
            return f"row {place} of progress.csv has {len(cells)} cells in place of {len(titles)}"
        for title, cell in zip_longest(titles, cells, fillvalue=""):
            if title != _LOCAL and not _is_written(values.get(title), cell):
                return f"row {place} of progress.csv has another {title}"
        lacking = next((key for key in values if key not in known), None)
        if lacking is not None:
            return f"progress.csv has no {lacking}"
    return None


def _params(folder: Path, trial: TrialHistory) -> str | None:
    """Return what is wrong with ``params.json``."""
    try:
        text = (folder / "params.json").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "params.json is missing"
    return None if _same(trial.config, _parsed(text)) else "params.json has another config"


def _policies(folder: Path, history: History) -> Iterator[str]:
    """Yield what is wrong with the files that tell of exploits."""
    wanted: dict[str, list[Exploit]] = {"pbt_global.txt": history.exploits}
    for trial in history.in_order():
        chain = [] if trial.ancestry is None else [link.change for link in trial.ancestry.oldest_first()]
        wanted[f"pbt_policy_{trial.trial_id}.txt"] = [each for each in chain if isinstance(each, Exploit)]
    for name, exploits in wanted.items():
        lines = _lines(folder / name)
        if lines is None:
            if exploits:
                yield f"{name} is missing"
            continue
        expected = [_fields(history, exploit) for exploit in exploits]
        if len(lines) != len(expected):
            yield f"{name} has {len(lines)} lines in place of {len(expected)}"
        elif not all(_same(fields, _parsed(line)) for fields, line in zip(expected, lines, strict=True)):
            yield f"{name} tells of other exploits"


def _fields(history: History, exploit: Exploit) -> list[Any]:
    trials = history.trials
    return [
        trials[exploit.trial_id].tag, trials[exploit.donor_id].tag, exploit.iteration, exploit.checkpoint.iteration,
        exploit.donor_config, exploit.new_config,
    ]  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- values


def _same(expected: Any, found: Any) -> bool:
    """Return whether a value is what JSON gives back for another."""
    if type(expected) is float and math.isnan(expected):
        return type(found) is float and math.isnan(found)
    if expected is None or type(expected) in (bool, int, float, str):
        return bool(expected == found) and isinstance(expected, bool) == isinstance(found, bool)
    if isinstance(expected, Unloadable):
        return True
    if isinstance(expected, dict):
        pairs: dict[Any, Any] = expected
        if not isinstance(found, dict) or len(found) != len(pairs):
            return False
        return all(str(key) in found and _same(value, found[str(key)]) for key, value in pairs.items())
    if isinstance(expected, (list, tuple)):
        values: Sequence[Any] = expected
        if not isinstance(found, list) or len(found) != len(values):
            return False
        return all(_same(value, other) for value, other in zip(values, found, strict=True))
    return bool(_parsed(to_json(expected)) == found)


def _is_written(value: Any, cell: str) -> bool:
    """Return whether a cell of a table says a value."""
    if value is None:
        return cell == ""
    text = str(value)
    if text == cell or text.encode("utf-8", "backslashreplace").decode() == cell:
        return True
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return isinstance(value, (int, float)) and not isinstance(value, bool) and float(cell) == value
    return False


def _parsed(text: str) -> Any:
    """Return the value of a JSON text; an Ellipsis, which is like nothing else, where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return ...


def _lines(path: Path) -> list[str] | None:
    """Return the lines of a file; None where there is no file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _cells(path: Path) -> list[list[str]] | None:
    """Return the rows of a table, the header first; None where there is no file."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            return list(csv.reader(file))
    except FileNotFoundError:
        return None
    except csv.Error:
        return []
    finally:
        csv.field_size_limit(limit)
