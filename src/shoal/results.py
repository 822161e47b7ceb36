"""What an experiment gives back: :class:`ResultGrid`, one :class:`Result` for each trial. Read from the journal."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from .core.commands import Status, checkpoint_name
from .core.events import Config, Metrics
from .core.reports import flatten, lookup, number
from .errors import ConfigError, ResultError, TrialFailed, did_you_mean
from .experiment import ExperimentInfo
from .history import History, Row, TrialHistory, full_row
from .lineage import Lineage, Schedule, data_frame, lineage_of, schedule_of
from .location import is_url, join, name_of, parent_of

if TYPE_CHECKING:
    import pandas as pd
    from fsspec import AbstractFileSystem

    from .card import ReportCard
    from .checkpoints import Checkpoint
    from .timeline import Timeline

__all__ = ["Result", "ResultGrid"]

SCOPES = ("last", "all", "avg", "last-5-avg", "last-10-avg")
_MODES = ("max", "min")
_ROWS_SHOWN = 40
_NAMED = 8
"""How many trials an error names."""


class Result:
    """One trial's results. It follows the journal, so that it is there for a trial that failed or still runs, too."""

    _metric: str | None = None
    """What a notebook shows the curve of."""

    def __init__(self, trial: TrialHistory, history: History, folder: Path | str, metric: str | None = None) -> None:
        self._history = history  # the first, because it knows how to be pickled
        self._trial = trial
        self._folder = str(folder)
        self._metric = metric
        self._error: TrialFailed | None = None

    @staticmethod
    def from_path(path: str | os.PathLike[str]) -> Result:
        """Read the result of one trial from its folder, whether it has ended or still runs.

        Args:
            path: the trial's folder, or its URL, inside of that of its experiment, whose journal is read.

        Raises:
            ConfigError: this is no path.
            ResultError: it is no trial's folder; the message names those that are there.
            JournalError: the journal is damaged.
        """
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise ConfigError(f"Result.from_path: path must be the path of a trial's folder, but is {path!r}.")
        if is_url(path):
            grid = ResultGrid.read(parent_of(path))
            found = [result for result in grid if name_of(result.path) == name_of(path)]
            if not found:
                raise ResultError(f"Result.from_path: {path} is no trial's folder. {_trials_of(grid)}")
            return found[0]
        given = Path(path).expanduser()
        # As it is written first: the experiment may have been made of links to elsewhere. Then where a link leads to.
        for folder in (Path(os.path.abspath(given)), Path(os.path.realpath(given))):
            if _is_experiment(folder.parent):
                grid = ResultGrid.read(folder.parent)
                found = [result for result in grid if Path(result.path) == folder]
                if found:
                    return found[0]
        raise ResultError(_no_trial(Path(os.path.abspath(given))))

    @property
    def trial_id(self) -> str:
        """The trial's id: ``<run id>_<number>``."""
        return self._trial.trial_id

    @property
    def metrics(self) -> Metrics:
        """The last result: what was reported, the automatic values, ``config`` as it was then. Empty without one."""
        last = self._trial.last
        return {} if last is None else full_row(self._trial, last)

    @property
    def config(self) -> Config:
        """The config of the last result; the one that the trial began with where there is no result.

        Where the trial copied another, that is not the config it began with. A config that it was given by an exploit
        counts from the first result on that it reported with it.
        """
        last = self._trial.last
        return self._trial.initial_config if last is None else last.config

    @property
    def path(self) -> str:
        """The trial's folder; of an experiment in object storage the whole URL, such as
        ``s3://bucket/runs/name/trial``, which :attr:`filesystem` and everything that takes such URLs accept as it is.
        """
        return join(self._folder, self._trial.folder)

    @property
    def filesystem(self) -> AbstractFileSystem:
        """The file system that ``path`` belongs to, as fsspec knows it: of this machine, or object storage."""
        return _filesystem_of(self._folder)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint of the weights that the last result is of, or None.

        After an exploit, and until the trial saves one of its own, that is the donor's. Where the trial has reported
        nothing since its last exploit, ``metrics`` and ``config`` are still those from before it, and so is this: the
        trial's own newest checkpoint. If that has been deleted, it is the donor's nevertheless.

        Of an experiment in object storage it is a ``Checkpoint`` with a URL, which is downloaded when it is read.

        Raises:
            ConfigError: its folder has been deleted or moved.
        """
        trial = self._trial
        own = [number for number in trial.whole if number >= trial.first_checkpoint]
        restore = trial.restore
        if restore is None:
            return self._checkpoint(trial, max(own)) if own else None
        if trial.last is None or trial.last.generation < len(trial.exploits):
            saved = (row.report.checkpoint for row in reversed(trial.rows))
            newest = next((checkpoint.number for checkpoint in saved if checkpoint is not None), None)
            if newest in own:
                return self._checkpoint(trial, newest)
        donor = self._history.trials[restore.trial_id]
        return None if restore.number in donor.damaged | donor.freed else self._checkpoint(donor, restore.number)

    @property
    def best_checkpoints(self) -> list[tuple[Checkpoint, Metrics]]:
        """The trial's own checkpoints that ``CheckpointConfig`` has kept, oldest first, each with its result."""
        return [
            (self._checkpoint(self._trial, number), full_row(self._trial, entry.row))
            for number, entry in sorted(self._trial.whole.items())
        ]

    def get_best_checkpoint(self, metric: str, mode: str) -> Checkpoint:
        """Return the one of ``best_checkpoints`` whose result is best; NaN and infinite values do not count.

        Args:
            metric: a key of the results; nested ones are written ``val/acc``.
            mode: ``max`` if larger is better, or ``min``.

        Raises:
            ConfigError: the mode is neither.
            ResultError: there is no checkpoint, or none came with the metric.
        """
        sign = _sign(mode, "get_best_checkpoint")
        entries = self._trial.whole
        if not entries:
            raise ResultError(
                f"Trial {self._trial.name} has no checkpoint of its own. Save one with "
                f"tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))."
            )
        scores = {key: _value(self._trial, entry.row, metric) for key, entry in entries.items()}
        good = {key: score for key, score in scores.items() if score is not None and math.isfinite(score)}
        if not good:
            rows = [entry.row for entry in entries.values()]
            raise ResultError(_no_metric(metric, "checkpoints", [(self._trial, rows)], scores.values()))
        return self._checkpoint(self._trial, max(good, key=lambda key: (sign * good[key], key)))

    @property
    def error(self) -> TrialFailed | None:
        """Why the trial failed, with the member's own traceback as its text; None if it did not.

        Its ``__cause__`` is the exception that the function raised, where that could be sent here.
        """
        trial = self._trial
        if trial.status is Status.ERROR and self._error is None:
            text = (trial.traceback or trial.error or trial.reason).rstrip("\n")
            self._error = TrialFailed(f"Trial {trial.name} failed after iteration {trial.iteration}:\n{text}")
            self._error.__cause__ = _unpickled(trial.raised)
        return self._error

    @property
    def metrics_dataframe(self) -> pd.DataFrame | None:
        """All results of the trial, oldest first, or None if there is none.

        Nested metrics are in columns such as ``val/acc``, the config of each result in columns such as ``config/lr``.
        ``generation`` says how many exploits the trial had done; with ``training_iteration``, it is unique. Steps that
        were trained again after a failure are there once, as they made the weights. An exploit may lead to a step that
        the trial has passed: then ``training_iteration`` goes back, and a new generation begins. For one curve without
        such breaks, see :meth:`learning_curve`.

        A metric that is itself called ``generation`` stays as it was reported; the number is then in
        ``trial/generation``.

        Raises:
            ImportError: pandas is not installed.
        """
        if not self._trial.rows:
            return None
        return data_frame(_told_apart([(self._trial, row) for row in self._trial.rows], ("generation",)))

    def learning_curve(self) -> pd.DataFrame:
        """Return the true learning curve of the weights that the last result is of: the result of each of their steps.

        ``training_iteration`` goes from 1 to the last, each once. Where the weights were copied, the rows up to there
        are the donors': ``trial_id``, ``trial`` (the number of the member) and ``generation`` say whose step it was,
        and columns such as ``config/lr`` with what it was trained. Everything else is as in ``metrics_dataframe``. A
        metric that has one of these names stays; the number is then in ``trial/trial`` or ``trial/generation``.
        Empty where the trial has reported nothing.

        Raises:
            ImportError: pandas is not installed.
        """
        last, trials = self._trial.last, self._history.trials
        steps = [] if last is None else last.steps()
        return data_frame(_told_apart([(trials[row.report.trial_id], row) for row in steps], ("trial", "generation")))

    def lineage(self) -> Lineage:
        """Return the exact ancestry of the weights that the last result is of.

        It says which members trained them, for which steps, with which config, and from which donor's checkpoint they
        went on; ``to_dataframe()`` and ``to_json()`` give it away. Empty where the trial has reported nothing.
        """
        last = self._trial.last
        return Lineage([]) if last is None else lineage_of(self._trial, last, self._history)

    def schedule(self) -> Schedule:
        """Return the hyperparameters by step that made the weights of the last result.

        ``to_dataframe()`` and ``to_json()`` give it away, ``PopulationBasedTrainingReplay.from_result(result)`` trains
        with it.
        """
        return schedule_of(self.lineage())

    def _checkpoint(self, trial: TrialHistory, number: int) -> Checkpoint:
        from .checkpoints import Checkpoint

        made = Checkpoint(join(join(self._folder, trial.folder), checkpoint_name(number)))
        entry = trial.checkpoints.get(number)
        made.digest = None if entry is None else entry.saved.digest
        return made

    def __repr__(self) -> str:
        trial = self._trial
        last = trial.last
        shown = {} if last is None else {"training_iteration": trial.iteration, **last.report.metrics}
        error = "" if trial.status is not Status.ERROR else f",\n  error={trial.error!r}"
        return (
            f"Result({trial.name}, {trial.status.value}\n  metrics={shown!r},\n  config={self.config!r},"
            f"\n  path={self.path!r}{error})"
        )

    def _repr_html_(self) -> str | None:
        from .display.reprs import result_html

        return result_html(self._trial, self.path, self.config, self._metric, lambda: self.checkpoint)


class ResultGrid(Sequence[Result]):
    """The results of an experiment, one for each trial, by the trials' numbers.

    Args:
        history: the journal's records; it has to keep its rows.
        info: facts about the experiment.
        folder: the experiment's folder, or its URL.
        timeline: when things happened, for the report card; by default it is read when it is needed.
    """

    def __init__(
        self, history: History, info: ExperimentInfo, folder: Path | str, timeline: Timeline | None = None
    ) -> None:
        self._history = history
        self._timeline = timeline
        self._info = info
        self._folder = folder if is_url(folder) else os.path.abspath(folder)
        self._trials = history.in_order()
        self._results = [Result(trial, history, self._folder, info.metric) for trial in self._trials]

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> ResultGrid:
        """Read the results of an experiment, whether it has ended or still runs.

        Args:
            folder: its folder; or its URL in object storage, of which the journal is downloaded.

        Raises:
            JournalError: the folder holds no experiment, or its journal is damaged.
            ConfigError: the kind of URL is not known, or a package is missing.
            StorageError: object storage cannot be read.
        """
        from .reading import Experiment

        with contextlib.closing(Experiment.open(folder, unpickle=True)) as experiment:
            return cls(experiment.history, experiment.info, experiment.place, experiment.timeline)

    # ------------------------------------------------------------------------------------------------------ a sequence

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[Result]:
        return iter(self._results)

    @overload
    def __getitem__(self, index: int) -> Result: ...

    @overload
    def __getitem__(self, index: slice) -> list[Result]: ...

    def __getitem__(self, index: int | slice) -> Result | list[Result]:
        """Return the result of a trial by its number, or a list of them.

        Raises:
            ResultError: there is no such trial; it is an IndexError, too.
            TypeError: the index is no number.
        """
        if isinstance(index, slice):
            return self._results[index]
        try:
            return self._results[index]
        except IndexError:
            size = len(self)
            allowed = f"0 to {size - 1}, or {-size} to -1 from the end" if size else "none, because there is no trial"
            raise _NoSuchResult(f"There is no result {index}: allowed is {allowed}.") from None
        except TypeError:
            raise TypeError(
                f"The index of a ResultGrid is a trial's number, but is {index!r} ({type(index).__name__}). For the "
                f"best trial, use get_best_result(metric, mode)."
            ) from None

    # ------------------------------------------------------------------------------------------------------- questions

    @property
    def experiment_path(self) -> str:
        """The experiment's folder; in object storage the whole URL, such as ``s3://bucket/runs/name``."""
        return self._folder

    @property
    def filesystem(self) -> AbstractFileSystem:
        """The file system that ``experiment_path`` belongs to: of this machine, or object storage."""
        return _filesystem_of(self._folder)

    @property
    def errors(self) -> list[TrialFailed]:
        """The errors of the trials that failed, by their numbers."""
        return [error for result in self._results if (error := result.error) is not None]

    @property
    def num_errors(self) -> int:
        """How many trials failed."""
        return sum(trial.status is Status.ERROR for trial in self._trials)

    @property
    def num_terminated(self) -> int:
        """How many trials ended without an error."""
        return sum(trial.status is Status.TERMINATED for trial in self._trials)

    def report_card(self) -> ReportCard:
        """Return what the run says about itself: whether exploits paid, whether the interval is too short or too long,
        whether one ancestor took over, where the time went, and so on, each with the numbers that it follows from.

        Raises:
            JournalError: the experiment's folder is gone or damaged, and times have to be read from it.
        """
        from .card import report_card
        from .reading import Experiment

        if self._timeline is None:
            return report_card(self._folder)
        return report_card(Experiment(Path(self._folder), self._info, self._history, self._timeline))

    def get_best_result(
        self,
        metric: str | None = None,
        mode: str | None = None,
        scope: str = "last",
        filter_nan_and_inf: bool = True,
    ) -> Result:
        """Return the result of the best trial; of equals, the one with the lowest number.

        Args:
            metric: a key of the results, nested ones written ``val/acc``; by default that of ``TuneConfig``.
            mode: ``max`` if larger is better, or ``min``; by default that of ``TuneConfig``.
            scope: what counts of each trial: its ``last`` value, the best of ``all``, or the mean of all (``avg``), of
                the last five (``last-5-avg``) or ten (``last-10-avg``).
            filter_nan_and_inf: whether NaN and infinite values count for nothing, and trials that have no others
                cannot be the best. If not, infinite values compare as they are; NaN is never better than a number.

        Raises:
            ConfigError: mode or scope is misspelled, or there is no metric.
            ResultError: no trial has reported the metric.
        """
        if metric is None:
            metric = self._info.metric
        if metric is None:
            raise ConfigError(
                "get_best_result: which metric? TuneConfig named none. Give one, for example "
                "get_best_result(metric='mean_accuracy', mode='max')."
            )
        sign = _sign(self._info.mode if mode is None else mode, "get_best_result")
        if scope not in SCOPES:
            raise ConfigError(
                f"get_best_result: scope must be one of {', '.join(map(repr, SCOPES))}, but is {scope!r}."
                f"{did_you_mean(str(scope), SCOPES)}"
            )
        best: tuple[float, Result] | None = None
        values: list[float | None] = []
        for trial, result in zip(self._trials, self._results, strict=True):
            found = _values(trial, metric)
            values += found
            score = in_scope([value for value in found if value is not None], scope, sign, filter_nan_and_inf)
            if score is None or (filter_nan_and_inf and not math.isfinite(score)):
                continue
            rank = -math.inf if math.isnan(score) else sign * score
            if best is None or rank > best[0]:
                best = (rank, result)
        if best is None:
            stories = [(trial, trial.rows) for trial in self._trials]
            raise ResultError(_no_metric(metric, "results", stories, values) + self._failed_hint())
        return best[1]

    def get_dataframe(self, filter_metric: str | None = None, filter_mode: str | None = None) -> pd.DataFrame:
        """Return a table with one row for each trial that has results, and its folder in the column ``logdir``.

        Args:
            filter_metric: take each trial's row in which this key is best; by default its last.
            filter_mode: ``max`` or ``min``; by default that of ``TuneConfig``. Needs ``filter_metric``.

        Raises:
            ConfigError: the mode is misspelled or given without a metric.
            ResultError: no trial has reported the metric.
            ImportError: pandas is not installed.
        """
        if filter_metric is None and filter_mode is not None:
            raise ConfigError("get_dataframe: filter_mode needs filter_metric, the key to look for.")
        sign = _sign(self._info.mode if filter_mode is None else filter_mode, "get_dataframe")
        rows: list[Metrics] = []
        for trial, result in zip(self._trials, self._results, strict=True):
            row = trial.last if filter_metric is None else _best_row(trial, filter_metric, sign)
            if row is not None:
                rows.append({**_flat(trial, row), "logdir": result.path})
        if filter_metric is not None and not rows:
            values = [value for trial in self._trials for value in _values(trial, filter_metric)]
            stories = [(trial, trial.rows) for trial in self._trials]
            raise ResultError(_no_metric(filter_metric, "results", stories, values) + self._failed_hint())
        return data_frame(rows)

    def _failed_hint(self) -> str:
        count = self.num_errors
        return "" if not count else f" {count} of {len(self)} trials failed; see ResultGrid.errors."

    def __repr__(self) -> str:
        from .display.table import choose, count_text, trial_columns
        from .display.text import lay_out

        lines = [f"ResultGrid of {count_text(len(self), 'trial')} in {self.experiment_path}"]
        if self._trials:
            chosen = choose(self._trials, self._info, _ROWS_SHOWN)
            grid = lay_out(trial_columns(chosen, self._info), None)
            lines += ["  ".join(cells).rstrip() for cells in (grid.titles, *grid.rows)]
            if len(chosen) < len(self):
                lines.append(f"and {len(self) - len(chosen)} more")
        return "\n".join(lines)

    def _repr_html_(self) -> str | None:
        from .display.reprs import grid_html

        return grid_html(self._history, self._info, self._folder)


def _is_experiment(folder: Path) -> bool:
    from .journal import JOURNAL_NAME

    return (folder / JOURNAL_NAME).is_file()


def _no_trial(folder: Path) -> str:
    """Return why a folder is no trial's, with those that could be meant."""
    experiment = next((each for each in (folder, *folder.parents) if _is_experiment(each)), None)
    if experiment is None:
        what = "does not exist" if not folder.exists() else "is no trial's folder"
        return (
            f"Result.from_path: {folder} {what}, and no experiment of Shoal is in the folder above it. A trial is read "
            f"from the journal of its experiment: leave its folder there, and move or copy the experiment's."
        )
    if experiment == folder:
        what = "is the folder of an experiment; tune.ResultGrid.read(path) reads all its trials"
    else:
        what = f"is no trial's folder of the experiment in {experiment}"
    return f"Result.from_path: {folder} {what}. {_trials_of(ResultGrid.read(experiment))}"


def _trials_of(grid: ResultGrid) -> str:
    names = [os.path.basename(result.path) for result in grid]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"Give the folder of one trial. There are: {', '.join(names[:_NAMED]) or 'none'}{more}."


class _NoSuchResult(ResultError, IndexError):
    """For code that goes through a sequence until an IndexError."""


def _sign(mode: object, where: str) -> float:
    if mode not in _MODES:
        hint = did_you_mean(str(mode), _MODES)
        raise ConfigError(f"{where}: mode must be 'max' (larger is better) or 'min', but is {mode!r}.{hint}")
    return 1.0 if mode == "max" else -1.0


def _value(trial: TrialHistory, row: Row, metric: str) -> float | None:
    """Return a number out of a result, the config's included."""
    value = row.value(metric)
    if value is None and metric.startswith("config/"):
        value = lookup(row.config, metric.removeprefix("config/"))
    return number(value)


def _values(trial: TrialHistory, metric: str) -> list[float | None]:
    return [_value(trial, row, metric) for row in trial.rows]


def in_scope(values: Sequence[float], scope: str, sign: float, finite: bool) -> float | None:
    """Return the one number that a trial's values come to; None without any.

    Args:
        values: of all results, oldest first.
        scope: one of ``SCOPES``.
        sign: 1 where larger is better, -1 where smaller is.
        finite: whether only finite values count, where the best of all is asked for.
    """
    if not values:
        return None
    if scope == "last":
        return values[-1]
    if scope == "all":
        counts = math.isfinite if finite else (lambda value: not math.isnan(value))
        kept = [value for value in values if counts(value)]
        return max(kept, key=lambda value: sign * value) if kept else math.nan
    taken = values if scope == "avg" else values[-int(scope.split("-")[1]) :]
    return sum(taken) / len(taken)


def _best_row(trial: TrialHistory, metric: str, sign: float) -> Row | None:
    """Return the first row in which the metric is best; NaN counts for nothing."""
    scored = [(value, row) for row in trial.rows if (value := _value(trial, row, metric)) is not None]
    scored = [pair for pair in scored if not math.isnan(pair[0])]
    return max(scored, key=lambda pair: sign * pair[0])[1] if scored else None


def _no_metric(
    metric: str,
    what: str,
    stories: Iterable[tuple[TrialHistory, Sequence[Row]]],
    values: Iterable[float | None],
) -> str:
    """Return why the best by a metric cannot be told: not there, no number, or never finite."""
    lasts = [(trial, rows[-1]) for trial, rows in stories if rows]
    if not lasts:
        return f"There is no result yet, so none is best by {metric!r}."
    if any(value is not None for value in values):
        return f"All values of {metric!r} in the {what} are NaN or infinite, so none is best."
    there = {key: value for trial, row in lasts for key, value in _flat(trial, row).items()}
    keys = [key for key in there if any(_value(trial, row, key) is not None for trial, row in lasts)]
    problem = f"is no number but {there[metric]!r}" if metric in there else "is not there"
    return f"{metric!r} {problem} in the {what}.{did_you_mean(metric, keys)} Numbers: {', '.join(map(repr, keys))}."


def _flat(trial: TrialHistory, row: Row) -> Metrics:
    """Return a result with nested keys written ``val/acc`` and ``config/lr``."""
    return {key: value for key, value in flatten(full_row(trial, row)) if type(value) is not dict}


def _told_apart(told: Sequence[tuple[TrialHistory, Row]], names: Sequence[str]) -> list[Metrics]:
    """Return results with columns that tell whose they are: the trial's number, the generation."""
    flat = [_flat(trial, row) for trial, row in told]
    columns = {name: f"trial/{name}" if any(name in values for values in flat) else name for name in names}
    for (trial, row), values in zip(told, flat, strict=True):
        known = {"trial": trial.index, "generation": row.generation}
        values.update({column: known[name] for name, column in columns.items()})
    return flat


def _unpickled(raised: bytes | None) -> BaseException | None:
    if raised is None:
        return None
    load: Callable[[bytes], object] = pickle.loads
    try:
        exception = load(raised)
    except Exception:
        # The exception's class may live in a module that is not here; its traceback is in the text anyway.
        return None
    return exception if isinstance(exception, BaseException) else None


def _filesystem_of(path: str) -> AbstractFileSystem:
    from .checkpoints import filesystem_of

    return filesystem_of(path)
