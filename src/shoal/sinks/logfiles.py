"""The files in a trial's folder: ``params.json``, ``result.json``, ``progress.csv`` and ``error.txt``.

Results are collected in :meth:`LogFiles.take` and written in :meth:`LogFiles.flush`, one write a file, however many
results a batch has.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from ..core.commands import Exploit, Reconfigure, Retry, Status, Stop
from ..core.events import Config, Metrics, Opened, Reported, TrialAdded
from ..core.reports import flatten
from ..experiment import ExperimentInfo
from ..history import History, Row, TrialHistory, full_row
from ..journal.codec import Record
from .files import GrowingFiles, replace_text, to_json

__all__ = ["LogFiles"]

_NOT_IN_CSV = ("config", "should_checkpoint")
"""The second says only that ``checkpoint_dir_name`` is not empty."""


class LogFiles:
    """Writes each trial's log files; a :class:`shoal.experiment.Reader`.

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
            files.rewrite(trial.rows)
            files.write(self._files)

    def take(self, record: Record) -> None:
        """Collect what the record adds to the files."""
        item = record.item
        if isinstance(item, Reported):
            files = self._trials[item.trial_id]
            row = files.trial.last
            if row is not None and row.report is item:
                self._changed[item.trial_id] = files
                files.add_row(row)
        elif isinstance(item, Opened):
            if item.config or item.anew:
                for identity, files in self._trials.items():
                    files.params_changed = True
                    self._changed[identity] = files
        elif isinstance(item, TrialAdded):
            self._add(self._history.trials[item.trial_id])
        elif isinstance(item, Exploit | Reconfigure | Retry | Stop):
            files = self._trials[item.trial_id]
            if isinstance(item, Exploit | Reconfigure):
                files.params_changed = True
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


class _TrialFiles:
    """The files of one trial, and what is to be written to them."""

    def __init__(self, trial: TrialHistory, folder: Path) -> None:
        self.trial = trial
        self.params_changed = False
        self._folder = folder
        self._result_path = folder / "result.json"
        self._results: list[str] = []
        self._progress = _Progress(folder / "progress.csv")
        self._failures: list[str] = []
        self._config: Config | None = None
        self._config_text = ""
        folder.mkdir(parents=True, exist_ok=True)
        self._write_params()

    def add_row(self, row: Row) -> None:
        """Collect a result."""
        values = full_row(self.trial, row)
        for key in _NOT_IN_CSV:
            values.pop(key, None)
        self._progress.add(values)
        if row.report.checkpoint is not None:
            values["should_checkpoint"] = True
        # The config changes only with an exploit, and may hold objects whose text is long to make.
        if row.config is not self._config:
            self._config, self._config_text = row.config, to_json(row.config)
        self._results.append(f'{to_json(values)[:-1]}, "config": {self._config_text}}}\n')

    def add_failure(self, then: str) -> None:
        """Collect why the trial failed, from its history."""
        trial = self.trial
        text = (trial.traceback or trial.error or "").rstrip("\n")
        self._failures.append(f"{trial.name} failed after iteration {trial.iteration}{then}:\n{text}\n\n")

    def write(self, files: GrowingFiles) -> None:
        """Write what was collected."""
        if self._results:
            files.append(self._result_path, "".join(self._results))
            self._results.clear()
        self._progress.write(files)
        if self.params_changed:
            self._write_params()
        if self._failures:
            with (self._folder / "error.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(self._failures)
            self._failures.clear()

    def rewrite(self, rows: Sequence[Row]) -> None:
        """Put all results of a trial that ran before in place of what its files hold; :meth:`write` completes it."""
        if rows:
            self._progress.clear()
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
        self._columns: list[str] = old[0] if old else []
        self._stale = not old
        """Whether the file's header is not ``_columns``."""
        self._lines: list[str] = []
        self._row = csv.writer(_Lines(self._lines), lineterminator="\n").writerow

    def add(self, values: Metrics) -> None:
        """Collect a row of values."""
        if dict in map(type, values.values()):
            values = dict(flatten(values))
        if list(values) == self._columns:
            self._row(values.values())
            return
        known = set(self._columns)
        new = [key for key in values if key not in known]
        if new:
            self._columns += new
            self._stale = True
        self._row([values.get(key) for key in self._columns])

    def write(self, files: GrowingFiles) -> None:
        """Append what was collected; where a column is new, write the file anew with it."""
        if not self._lines:
            return
        text = "".join(self._lines)
        self._lines.clear()
        if not self._stale:
            files.append(self._path, text)
            return
        files.release(self._path)
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(self._columns)
        width = len(self._columns)
        writer.writerows(row + [""] * (width - len(row)) for row in (*_read(self._path)[1:], *_parse(text)))
        replace_text(self._path, table.getvalue())
        self._stale = False

    def clear(self) -> None:
        """Forget the file, which is then written from its start."""
        self._path.unlink(missing_ok=True)
        self._columns = []
        self._stale = True


class _Lines:
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
