"""The files in a trial's folder: ``params.json``, ``result.json``, ``progress.csv`` and ``error.txt``.

Results are collected in :meth:`LogFiles.take` and written in :meth:`LogFiles.flush`, one write a file, however many
results a batch has. Where a trial goes back, the results that no longer count are taken off the end of the files.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.commands import Await, Exploit, Launch, Reconfigure, Retry, Status, Stop
from ..core.events import Config, Metrics, Opened, Reported, TrialAdded
from ..core.reports import AUTOMATIC, flatten
from ..experiment import ExperimentInfo
from ..history import History, Row, TrialHistory, date_text, full_row
from ..journal.codec import Record
from .files import GrowingFiles, cut_rows, replace_text, to_json

__all__ = ["LogFiles"]

_NOT_IN_CSV = ("config", "should_checkpoint")
"""The second says only that ``checkpoint_dir_name`` is not empty."""
_RESERVED = frozenset(AUTOMATIC)
_VARIES = (
    "timestamp",
    "training_iteration",
    "date",
    "time_this_iter_s",
    "time_total_s",
    "time_since_restore",
    "iterations_since_restore",
)
"""The automatic values that differ from result to result, where there is no checkpoint, in the order of a row."""


class LogFiles:
    """Writes each trial's log files; a :class:`shoal.experiment.Reader`.

    ``result.json`` and ``progress.csv`` hold the results that count, as the history has them: each step of a generation
    once. Of a trial without any they hold nothing, but for a header.

    When an experiment goes on after a restore, ``result.json`` and ``progress.csv`` are written anew from the history,
    so a run that was killed leaves neither lost nor torn lines. That needs a history that keeps its rows.

    Args:
        open_files: how many files stay open at the same time, whatever the number of trials.
    """

    def __init__(self, *, open_files: int = 100) -> None:
        self._files = GrowingFiles(open_files)
        self._trials: dict[str, _TrialFiles] = {}
        self._changed: dict[str, _TrialFiles] = {}
        self._folder = Path()
        self._history = History()

    def start(self, info: ExperimentInfo, folder: Path, history: History) -> None:
        """Begin in the experiment's folder, which exists."""
        self._folder = folder
        self._history = history
        for trial in history.in_order():
            files = self._add(trial)
            files.rewrite(trial.rows if history.keep_rows else None)
            files.write(self._files)

    def take(self, record: Record) -> None:
        """Collect what the record adds to the files."""
        item = record.item
        if isinstance(item, Reported):
            files = self._trials[item.trial_id]
            row = files.trial.last
            if row is not None and row.report is item:
                self._changed[item.trial_id] = files
                files.add_row(row, record.texts)
        elif isinstance(item, Launch):
            files = self._trials[item.trial_id]
            if files.go_back():
                self._changed[item.trial_id] = files
        elif isinstance(item, Opened):
            if item.config or item.anew:
                for identity, files in self._trials.items():
                    files.go_back()
                    files.params_changed = True
                    self._changed[identity] = files
        elif isinstance(item, TrialAdded):
            self._add(self._history.trials[item.trial_id])
        elif isinstance(item, Exploit | Reconfigure | Retry | Await | Stop):
            files = self._trials[item.trial_id]
            if isinstance(item, Exploit | Reconfigure):
                files.params_changed = True
                if isinstance(item, Exploit) and item.failed is not None:
                    files.replaced_by(item.donor_id, item.failed)
            elif isinstance(item, Await):
                files.waits(item.error)
            elif isinstance(item, Retry):
                files.add_failure(" and is tried again")
            elif item.status is Status.ERROR:
                files.add_failure("")
            self._changed[item.trial_id] = files

    def flush(self) -> None:
        """Write what was collected."""
        for files in self._changed.values():
            files.write(self._files)
        self._changed.clear()

    def close(self) -> None:
        """Write what was collected and close the files."""
        try:
            self.flush()
        finally:
            self._files.close()

    def _add(self, trial: TrialHistory) -> _TrialFiles:
        files = self._trials[trial.trial_id] = _TrialFiles(trial, self._folder / trial.folder)
        return files


@dataclass(frozen=True, slots=True)
class _Lines:
    """What differs only in numbers from line to line, with ``%s`` for these: a tenth of the work of writing it anew."""

    keys: tuple[str, ...]
    config: Config
    pid: int
    hostname: str
    result: str
    """A line of ``result.json``."""
    progress: str
    """A line of ``progress.csv``."""
    columns: int
    """How many that has."""

    def fit(self, row: Row, columns: int) -> bool:
        """Return whether a result without a checkpoint, and that ends nothing, has lines like these.

        Args:
            row: the result.
            columns: how many ``progress.csv`` has now.
        """
        same = row.config is self.config and row.pid == self.pid and row.hostname == self.hostname
        return same and columns == self.columns and tuple(row.report.metrics) == self.keys


def _numbers(report: Reported, texts: Sequence[str]) -> tuple[object, ...]:
    """Return what varies in the lines of a result: its metrics, then what ``_VARIES`` names."""
    *metrics, spent, total, since_restore = texts
    timestamp = int(report.timestamp)
    return (
        *metrics, timestamp, report.iteration, date_text(timestamp), spent, total, since_restore,
        report.iterations_since_restore,
    )  # fmt: skip


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _cell(value: object) -> str:
    """Return a value as it stands in a table."""
    cells: list[str] = []
    csv.writer(_Collected(cells), lineterminator="\n").writerow([value, ""])
    return cells[0].removesuffix(",\n")


class _TrialFiles:
    """The files of one trial, and what is to be written to them."""

    def __init__(self, trial: TrialHistory, folder: Path) -> None:
        self.trial = trial
        self.params_changed = False
        self._folder = folder
        self._result_path = folder / "result.json"
        self._results: list[str] = []
        self._written = trial.counted
        """How many results the files hold, or will hold with those that are collected."""
        self._surplus = 0
        """How many at the end of ``result.json`` no longer count."""
        self._went_back = False
        self._progress = _Progress(folder / "progress.csv")
        self._failures: list[str] = []
        self._waits = False
        """It has failed for good, was told so, and has not been replaced yet."""
        self._config: Config | None = None
        self._config_text = ""
        self._lines: _Lines | None = None
        """What the lines of results like the newest one are made with."""
        folder.mkdir(parents=True, exist_ok=True)
        self._write_params()

    def add_row(self, row: Row, texts: Sequence[str] | None = None) -> None:
        """Collect a result.

        Args:
            row: the result.
            texts: its numbers, where they were written before; see :class:`shoal.journal.codec.Record`.
        """
        self._written += 1
        if texts is not None and row.report.checkpoint is None and row.report.stop is None:
            if self._lines is None or not self._lines.fit(row, len(self._progress.columns)):
                self._lines = self._lines_like(row)
            if self._lines is not None:
                numbers = _numbers(row.report, texts)
                self._results.append(self._lines.result % numbers)
                self._progress.add_line(self._lines.progress % numbers)
                return
        values = full_row(self.trial, row)
        for key in _NOT_IN_CSV:
            values.pop(key, None)
        self._progress.add(values)
        if row.report.checkpoint is not None:
            values["should_checkpoint"] = True
        self._results.append(f'{to_json(values)[:-1]}, "config": {self._text_of(row.config)}}}\n')

    def _text_of(self, config: Config) -> str:
        # It changes only with an exploit, and may hold objects whose text is long to make.
        if config is not self._config:
            self._config, self._config_text = config, to_json(config)
        return self._config_text

    def _lines_like(self, row: Row) -> _Lines | None:
        """Return what lines like those of a result are made with; None where it goes into the table in another way."""
        keys = tuple(row.report.metrics)
        if not _RESERVED.isdisjoint(keys):
            return None
        values = full_row(self.trial, row)
        del values["config"]
        if list(values) != self._progress.columns:
            return None
        assert [key for key in values if key in _VARIES or key in keys] == [*keys, *_VARIES]
        result = [f"{_escaped(to_json(key))}: {_escaped(to_json(value))}" for key, value in values.items()]
        progress = [_escaped(_cell(value)) for value in values.values()]
        for place, key in enumerate(values):
            if key in _VARIES or key in row.report.metrics:
                result[place] = f"{_escaped(to_json(key))}: {to_json('%s') if key == 'date' else '%s'}"
                progress[place] = "%s"
        config = _escaped(self._text_of(row.config))
        return _Lines(
            keys, row.config, row.pid, row.hostname,
            f'{{{", ".join(result)}, "config": {config}}}\n', f"{','.join(progress)}\n", len(values),
        )  # fmt: skip

    def go_back(self) -> bool:
        """Drop the results that no longer count, and return whether there are any."""
        surplus = self._written - self.trial.counted
        if surplus <= 0:
            return False
        self._went_back = True
        self._written -= surplus
        self._surplus += _drop(self._results, surplus)
        self._progress.drop(surplus)
        return True

    def waits(self, why: str) -> None:
        """Collect why the trial failed for good, while nobody knows yet how it will go on."""
        self._waits = True
        self.add_failure(" and waits for one that it can copy", why)

    def replaced_by(self, donor_id: str, why: str) -> None:
        """Collect that the trial goes on as a copy of another, and why it failed, unless that was told before."""
        if self._waits:
            self._failures.append(f"{self.trial.name} goes on as a copy of {donor_id}\n\n")
            self._waits = False
        else:
            self.add_failure(f" and goes on as a copy of {donor_id}", why)

    def add_failure(self, then: str, why: str | None = None) -> None:
        """Collect why the trial failed, from its history; ``why``: the reason, which may be no error of its own."""
        trial = self.trial
        own = trial.traceback or trial.error or ""
        text = (own if why is None or (trial.error or "?") in why else why).rstrip("\n")
        self._failures.append(f"{trial.name} failed after iteration {trial.iteration}{then}:\n{text}\n\n")

    def write(self, files: GrowingFiles) -> None:
        """Write what was collected."""
        if self._surplus:
            cut_rows(self._result_path, self._surplus)
            self._surplus = 0
        if self._results or self._went_back:
            files.append(self._result_path, "".join(self._results))
            self._results.clear()
            self._went_back = False
        self._progress.write(files)
        if self.params_changed:
            self._write_params()
        if self._failures:
            with (self._folder / "error.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(self._failures)
            self._failures.clear()

    def rewrite(self, rows: Sequence[Row] | None) -> None:
        """Put all results of a trial that ran before in place of what its files hold; :meth:`write` completes it.

        Args:
            rows: the results; None: they are not known, and the files stay as they are.
        """
        if rows is not None and (rows or self._result_path.exists()):
            self._progress.clear(keep_header=not rows)
            self._written = 0
            for row in rows:
                self.add_row(row)
            replace_text(self._result_path, "".join(self._results))
            self._results.clear()
        if self.trial.status is Status.ERROR and not (self._folder / "error.txt").exists():
            self.add_failure("")

    def _write_params(self) -> None:
        replace_text(self._folder / "params.json", to_json(self.trial.config, indent=2))
        self.params_changed = False


class _Progress:
    """``progress.csv``: its columns are those of the first result, and later ones come at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        old = _read(path)
        self.columns: list[str] = old[0] if old else []
        """Names in the order of the first results that had them."""
        self._stale = not old
        """Whether the file's header is not ``columns``."""
        self._lines: list[str] = []
        """Rows that are collected, each one entry."""
        self._surplus = 0
        """How many rows at the end of the file no longer count."""
        self._row = csv.writer(_Collected(self._lines), lineterminator="\n").writerow

    def add(self, values: Metrics) -> None:
        """Collect a row of values."""
        if dict in map(type, values.values()):
            values = dict(flatten(values))
        if list(values) == self.columns:
            self._row(values.values())
            return
        known = set(self.columns)
        new = [key for key in values if key not in known]
        if new:
            self.columns += new
            self._stale = True
        self._row([values.get(key) for key in self.columns])

    def add_line(self, text: str) -> None:
        """Collect a row of values that is written already, for all columns."""
        self._lines.append(text)

    def drop(self, count: int) -> None:
        """Drop the last rows, collected or written."""
        self._surplus += _drop(self._lines, count)

    def write(self, files: GrowingFiles) -> None:
        """Append what was collected; where a column is new, write the file anew with it."""
        if self._surplus:
            cut_rows(self._path, self._surplus, quoted=True)
            self._surplus = 0
        if not self._lines and not (self._stale and self.columns):
            return
        text = "".join(self._lines)
        self._lines.clear()
        if not self._stale:
            files.append(self._path, text)
            return
        files.release(self._path)
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(self.columns)
        width = len(self.columns)
        writer.writerows(row + [""] * (width - len(row)) for row in (*_read(self._path)[1:], *_parse(text)))
        replace_text(self._path, table.getvalue())
        self._stale = False

    def clear(self, *, keep_header: bool) -> None:
        """Forget the file, which is then written from its start: with its columns of now, or with those to come."""
        self._path.unlink(missing_ok=True)
        if not keep_header:
            self.columns = []
        self._stale = True


def _drop(lines: list[str], count: int) -> int:
    """Take entries off the end, and return how many there were too few."""
    kept = len(lines) - count
    del lines[max(kept, 0) :]
    return max(-kept, 0)


class _Collected:
    """A file, as far as ``csv.writer`` asks, that is a list of lines."""

    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append


def _read(path: Path) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            return _parse(file.read())
    except FileNotFoundError:
        return []


def _parse(text: str) -> list[list[str]]:
    limit = csv.field_size_limit(sys.maxsize)
    try:
        return list(csv.reader(io.StringIO(text, newline="")))
    finally:
        csv.field_size_limit(limit)
