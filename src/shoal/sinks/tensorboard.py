"""``events.out.tfevents.*``: what TensorBoard shows, one file in each trial's folder.

A run of TensorBoard is a trial. Its scalars, by ``training_iteration``:

* every number that was reported, under its own name, nested ones as ``val/acc``, and the times that Shoal measures
  (``time_this_iter_s``, ``time_total_s``). Ray Tune writes ``ray/tune/mean_accuracy``. Shoal does not: TensorBoard
  makes a group of what comes before the first slash, so that prefix would put everything into one, and plain names are
  those of runs that were logged without any of the two, beside which these are looked at;
* ``config/lr``: the hyperparameters that the trial had at that step, as far as they are numbers. They come with every
  result, so that their lines are as long as the scores'. The HPARAMS tab can show one value only for a run: the first.

Where ``training_iteration`` goes back, after an exploit or to try again, TensorBoard is told to drop what was written
from there on, so each step has one value: that of the weights which the trial went on with. Nothing is taken off the
file for that: a TensorBoard that is running would lose its place. All results that count are in ``result.json``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.commands import Status, Stop
from ..core.events import Config, Reported, TrialAdded
from ..core.reports import flatten, lookup, number
from ..experiment import ExperimentInfo
from ..history import History, Row, TrialHistory
from ..journal.codec import Record
from .files import append_whole
from .tfevents import Kind, Series, first, records, restart, scalar, scalars, session_end, session_start

__all__ = ["TensorBoardFiles"]

_SUFFIX = ".shoal"
"""Tells Shoal's file from those that a train function writes itself."""
_LONGEST_SERIES = 64
"""With more values, what a series remembers would become large."""


class TensorBoardFiles:
    """Writes each trial's event file; a :class:`shoal.experiment.Reader`.

    Results are collected in :meth:`take` and written in :meth:`flush`, one write a file. No file is open in between,
    and there are no threads, however many trials there are.

    When an experiment goes on after a restore, a torn record is cut off and the results that a file lacks are added,
    which needs a history that keeps its rows. The file stays the same one: a TensorBoard that is running follows it,
    and would not see that it was replaced.
    """

    def __init__(self) -> None:
        self._trials: dict[str, _TrialEvents] = {}
        self._changed: dict[str, _TrialEvents] = {}
        self._info: ExperimentInfo | None = None
        self._folder = Path()
        self._history = History()

    def start(self, info: ExperimentInfo, folder: Path, history: History) -> None:
        """Begin in the experiment's folder, which exists."""
        self._info = info
        self._folder = folder
        self._history = history
        for trial in history.in_order():
            self._add(trial).resume(trial.rows if history.keep_rows else None)

    def take(self, record: Record) -> None:
        """Collect what the record adds to the files."""
        item = record.item
        if isinstance(item, Reported):
            events = self._trials[item.trial_id]
            row = events.trial.last
            if row is not None and row.report is item:
                events.add_row(row, plain=record.texts is not None)
                self._changed[item.trial_id] = events
        elif isinstance(item, TrialAdded):
            self._add(self._history.trials[item.trial_id])
        elif isinstance(item, Stop):
            events = self._trials[item.trial_id]
            events.end(record.at)
            self._changed[item.trial_id] = events

    def flush(self) -> None:
        """Write what was collected."""
        for events in self._changed.values():
            events.write()
        self._changed.clear()

    def close(self) -> None:
        """Write what was collected."""
        for trial_id, events in self._trials.items():
            if events.trial.status.ended:
                # One that ended in an earlier run, and that this one might have opened again.
                events.end(self._history.updated_at or 0.0)
                self._changed[trial_id] = events
        self.flush()

    def _add(self, trial: TrialHistory) -> _TrialEvents:
        assert self._info is not None, "start() comes first"
        events = self._trials[trial.trial_id] = _TrialEvents(trial, self._folder / trial.folder, self._info)
        return events


class _TrialEvents:
    """The event file of one trial, and what is to be written to it."""

    def __init__(self, trial: TrialHistory, folder: Path, info: ExperimentInfo) -> None:
        self.trial = trial
        self._folder = folder
        self._parameters = info.parameters
        self._path = folder / f"events.out.tfevents.{int(info.started_at)}{_SUFFIX}"
        self._records: list[bytes] = []
        self._begun = self._ended = False
        self._step = 0
        """The step of the newest scalars."""
        self._config: Config | None = None
        self._config_values = b""
        self._names: tuple[str, ...] | None = None
        """Of the newest result's metrics, where these were numbers; None where its config was another."""
        self._series: Series | None = None

    def add_row(self, row: Row, *, plain: bool = False) -> None:
        """Collect a result.

        Args:
            row: the result.
            plain: whether all of its metrics are known to be finite numbers.
        """
        report = row.report
        if not self._begun:
            self._begin(report.timestamp)
        if report.iteration <= self._step:
            self._records.append(restart(report.timestamp, report.iteration))
        self._step = report.iteration
        if row.config is not self._config:
            self._config, self._config_values = row.config, self._hyperparameters(row.config)
            self._names = self._series = None
        if not (plain and self._add_to_series(report)):
            values = [scalar(name, value) for name, value in _numbers(report.metrics)]
            values += scalar("time_this_iter_s", report.time_this_iter_s), scalar("time_total_s", report.time_total_s)
            self._records.append(scalars(report.timestamp, report.iteration, b"".join(values) + self._config_values))

    def _add_to_series(self, report: Reported) -> bool:
        """Collect a result as one more of those before it; return False, and do nothing, where it is of another."""
        names = tuple(report.metrics)
        if names != self._names:
            self._names, self._series = names, None
            return False
        if self._series is None:
            # With the second of a kind, because it takes as long as some results.
            if len(names) > _LONGEST_SERIES:
                return False
            self._series = Series([*names, "time_this_iter_s", "time_total_s"], self._config_values)
        values = [*report.metrics.values(), report.time_this_iter_s, report.time_total_s]
        try:
            record = self._series.record(report.timestamp, report.iteration, values)
        except OverflowError:
            return False
        self._records.append(record)
        return True

    def end(self, at: float) -> None:
        """Collect that the trial has ended, once."""
        if self._begun and not self._ended:
            self._ended = True
            self._records.append(session_end(at, success=self.trial.status is Status.TERMINATED))

    def write(self) -> None:
        """Write what was collected."""
        if self._records:
            _append(self._path, b"".join(self._records))
            self._records.clear()

    def resume(self, rows: Sequence[Row] | None) -> None:
        """Go on with the file of an earlier run, and add what it lacks of the rows; None: they are not known."""
        data = b""
        for path in self._folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
            self._path, data = path, path.read_bytes()
        there = end_of_whole = 0
        for record in records(data):
            if record.kind is Kind.SCALARS:
                if rows is not None and there == self.trial.reported:
                    break  # a power cut took more from the journal than from this file
                there += 1
            if record.kind is not Kind.RESTART:  # which is written again, with the row that follows
                end_of_whole = record.end
                self._ended = self._ended or record.kind is Kind.SESSION_END
        if not there:
            end_of_whole = 0  # the records that a file begins with may be torn too
        if end_of_whole < len(data):
            os.truncate(self._path, end_of_whole)
        self._begun = there > 0
        if rows is None:
            self._step = self.trial.iteration
            return
        known = next((row for row in reversed(rows) if row.ordinal <= there), None)
        # The newest scalars may be of a result that no longer counts: then the next one has to drop whatever was there.
        self._step = sys.maxsize if there else 0
        if known is not None and known.ordinal == there:
            self._step = known.report.iteration
        at = rows[0].report.timestamp if rows else 0.0
        for row in rows[known.number if known is not None else 0 :]:
            self._skip(row.ordinal - there - 1, at)
            self.add_row(row)
            there, at = row.ordinal, row.report.timestamp
        self._skip(self.trial.reported - there, at)
        self.write()

    def _skip(self, count: int, at: float) -> None:
        """Write empty scalars for results that the file lacks and that no longer count: each result has its place."""
        if count > 0 and not self._begun:
            self._begin(at)
        self._records += [scalars(at, 1, b"")] * count

    def _begin(self, at: float) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        initial = self.trial.initial_config
        found = {name: _plain(lookup(initial, name)) for name in self._parameters}
        hparams = {name: value for name, value in found.items() if value is not None}
        # TensorBoard takes the first restart of a run for its start, and drops nothing at it.
        self._records += first(at), restart(at, 0), session_start(at, hparams)
        self._begun = True

    def _hyperparameters(self, config: Config) -> bytes:
        """Return the values of the parameters that were sampled or mutate, and of others that have changed."""
        initial = self.trial.initial_config
        names = set(self._parameters)
        return b"".join(
            scalar(f"config/{name}", value)
            for name, value in _numbers(config)
            if name in names or value != number(lookup(initial, name))
        )


def _numbers(values: dict[str, Any]) -> list[tuple[str, float]]:
    """Return what TensorBoard can draw as a line: numbers, and bools as 0 and 1; nested ones as ``val/acc``."""
    found: list[tuple[str, float]] = []
    for name, value in flatten(values):
        if type(value) is float:
            found.append((name, value))
        elif getattr(value, "ndim", 0) == 0:  # NumPy's float() takes an array of one element for a number
            as_number = number(value)
            if as_number is not None:
                found.append((name, as_number))
    return found


def _plain(value: object) -> object:
    """Return NumPy's scalars as Python's, so that they are shown as numbers."""
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", None) == 0 else value


def _append(path: Path, data: bytes) -> None:
    """Write whole records at the end of a file, made if needed."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        append_whole(handle, data)
    finally:
        os.close(handle)
