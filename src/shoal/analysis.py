"""What ``tune.run`` gives back: :class:`ExperimentAnalysis`, and the questions that its users ask.

It answers from a :class:`~shoal.results.ResultGrid`, so both ways to run an experiment give the same answers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from .arguments import check_arguments
from .callbacks import Trial
from .core.events import Config, Metrics
from .core.reports import flatten, lookup
from .errors import ConfigError, ResultError, did_you_mean
from .experiment import ExperimentInfo
from .history import TrialHistory, full_row
from .location import is_url
from .results import Result, ResultGrid
from .space import copy_containers

if TYPE_CHECKING:
    import pandas as pd

    from .checkpoints import Checkpoint

__all__ = ["ByTrial", "ExperimentAnalysis", "RecordedTrial"]

V = TypeVar("V")
_MODES = ("max", "min")
_ITERATION = "training_iteration"


class RecordedTrial(Trial):
    """A trial as the journal tells it: what callbacks see of it, and what can be asked only afterwards."""

    __slots__ = ("_result",)

    def __init__(self, history: TrialHistory, folder: str, info: ExperimentInfo, result: Result) -> None:
        super().__init__(history, folder, info)
        self._result = result

    @property
    def config(self) -> Config:
        """A copy of the config of its last result; of the one that it began with where there is no result."""
        config: Config = copy_containers(self._result.config)
        return config

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint of its weights, or None; see :attr:`shoal.tune.Result.checkpoint`."""
        return self._result.checkpoint

    @property
    def metric_analysis(self) -> dict[str, dict[str, float]]:
        """For each number in its results (``val/acc`` where nested), over all of them.

        That is ``max``, ``min``, ``avg``, ``last``, ``last-5-avg`` and ``last-10-avg``. NaN counts for neither ``max``
        nor ``min``.
        """
        values: dict[str, list[float]] = {}
        for row in self._history.rows:
            for key, value in flatten(full_row(self._history, row)):
                if type(value) in (int, float):
                    values.setdefault(key, []).append(value)
        return {key: _summary(of_key) for key, of_key in values.items()}


def _summary(values: list[float]) -> dict[str, float]:
    numbers = [value for value in values if not math.isnan(value)]
    return {
        "max": max(numbers, default=math.nan),
        "min": min(numbers, default=math.nan),
        "avg": sum(values) / len(values),
        "last": values[-1],
        "last-5-avg": sum(values[-5:]) / len(values[-5:]),
        "last-10-avg": sum(values[-10:]) / len(values[-10:]),
    }


class ByTrial(dict[str, V]):
    """A dict with one value for each trial, by the trial's folder. A trial's id, too, finds its value.

    Ray Tune's keys were folders once and are ids now, and scripts of both times are around. What a loop over this dict
    yields are the folders.
    """

    def __init__(self, values: Iterable[tuple[Trial, V]]) -> None:
        pairs = list(values)
        super().__init__((trial.path, value) for trial, value in pairs)
        self._folders = {trial.trial_id: trial.path for trial, _ in pairs}

    def __missing__(self, key: str) -> V:
        folder = self._folder(key)
        if folder is None:
            raise KeyError(f"There is no trial with the folder or the id {key!r}. Ids: {', '.join(self._folders)}.")
        return self[folder]

    def __contains__(self, key: object) -> bool:
        return self._folder(key) is not None

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a trial by its folder or its id, or the default."""
        folder = self._folder(key)
        return default if folder is None else self[folder]

    def _folder(self, key: object) -> str | None:
        if not isinstance(key, (str, os.PathLike)):
            return None
        text = os.fspath(key)
        folder = self._folders.get(text, text if is_url(text) else os.path.abspath(os.path.expanduser(text)))
        return folder if super().__contains__(folder) else None


class _Grid(ResultGrid):
    """A ResultGrid that also gives its trials."""

    @property
    def info(self) -> ExperimentInfo:
        return self._info

    def html(self) -> str | None:
        return self._repr_html_()

    def recorded(self) -> list[RecordedTrial]:
        return [
            RecordedTrial(history, self._folder, self._info, result)
            for history, result in zip(self._trials, self._results, strict=True)
        ]


@check_arguments
class ExperimentAnalysis:
    """The results of an experiment as :func:`shoal.tune.run` returns them, or read from the experiment's folder.

    The best trial is, unless told otherwise, the one whose *last* result is best by ``default_metric``.

    Args:
        experiment_checkpoint_path: the experiment's folder, or its URL in object storage; whether it has ended, still
            runs or was killed.
        default_metric: the key of the results that is compared. Default: the experiment's own, which was given to
            ``tune.run`` or to the scheduler.
        default_mode: ``max`` if larger is better, or ``min``. Default: the experiment's own.

    Attributes:
        default_metric, default_mode: as above; may be set afterwards.
        trials: all trials by their numbers, each with ``config``, ``last_result``, ``path``, ``checkpoint``,
            ``metric_analysis`` and so on.

    Raises:
        ConfigError: an argument is wrong.
        JournalError: the folder holds no experiment, or its journal is damaged.
    """

    def __init__(
        self,
        experiment_checkpoint_path: str | os.PathLike[str],
        *,
        default_metric: str | None = None,
        default_mode: str | None = None,
    ) -> None:
        if default_mode is not None and default_mode not in _MODES:
            hint = did_you_mean(str(default_mode), _MODES)
            raise ConfigError(
                f"ExperimentAnalysis: default_mode must be 'max' (larger is better) or 'min', but is {default_mode!r}."
                f"{hint}"
            )
        grid = _Grid.read(experiment_checkpoint_path)
        assert isinstance(grid, _Grid)
        info = grid.info
        # Where nobody named a metric, a mode of "max" is nobody's choice either.
        chosen = info.mode if info.metric is not None or info.mode == "min" else None
        self.default_metric: str | None = info.metric if default_metric is None else default_metric
        self.default_mode: str | None = chosen if default_mode is None else default_mode
        self.trials: list[RecordedTrial] = grid.recorded()
        self._grid: _Grid = grid

    # ------------------------------------------------------------------------------------------------------ best trial

    def get_best_trial(
        self,
        metric: str | None = None,
        mode: str | None = None,
        scope: str = "last",
        filter_nan_and_inf: bool = True,
    ) -> RecordedTrial:
        """Return the best trial; of equals, the one with the lowest number.

        Args:
            metric: a key of the results, nested ones written ``val/acc``. Default: ``default_metric``.
            mode: ``max`` if larger is better, or ``min``. Default: ``default_mode``.
            scope: what counts of each trial: its ``last`` value, the best of ``all``, or the mean of all (``avg``), of
                the last five (``last-5-avg``) or ten (``last-10-avg``).
            filter_nan_and_inf: whether trials with nothing but NaN and infinite values cannot be the best.

        Raises:
            ConfigError: no metric or mode is known, or an argument is misspelled.
            ResultError: no trial has reported the metric. (Ray Tune returns None then.)
        """
        best = self._grid.get_best_result(
            self._metric(metric, "get_best_trial"), self._mode(mode, "get_best_trial"), scope, filter_nan_and_inf
        )
        return self._trial(best.trial_id)

    def get_best_config(self, metric: str | None = None, mode: str | None = None, scope: str = "last") -> Config:
        """Return the config of the last result of the best trial; see :meth:`get_best_trial`."""
        return self.get_best_trial(metric, mode, scope).config

    def get_best_logdir(self, metric: str | None = None, mode: str | None = None, scope: str = "last") -> str:
        """Return the folder of the best trial; see :meth:`get_best_trial`."""
        return self.get_best_trial(metric, mode, scope).path

    @property
    def best_trial(self) -> RecordedTrial:
        """The best trial by ``default_metric`` and ``default_mode``."""
        return self.get_best_trial()

    @property
    def best_config(self) -> Config:
        """The config of the last result of the best trial."""
        return self.best_trial.config

    @property
    def best_logdir(self) -> str:
        """The folder of the best trial."""
        return self.best_trial.path

    @property
    def best_result(self) -> Metrics:
        """The last result of the best trial."""
        return self.best_trial.last_result

    @property
    def best_checkpoint(self) -> Checkpoint:
        """The best of the checkpoints that the best trial has kept; see :meth:`get_best_checkpoint`."""
        return self.get_best_checkpoint(self.best_trial)

    @property
    def best_dataframe(self) -> pd.DataFrame:
        """All results of the best trial, oldest first."""
        return self._dataframe(self.best_trial)

    @property
    def best_result_df(self) -> pd.DataFrame:
        """The last result of the best trial as a table of one row, with the trial's id as its index."""
        best: pd.DataFrame = self.results_df.loc[[self.best_trial.trial_id]]
        return best

    # ----------------------------------------------------------------------------------------------------- checkpoints

    def get_best_checkpoint(
        self, trial: Trial | str | os.PathLike[str], metric: str | None = None, mode: str | None = None
    ) -> Checkpoint:
        """Return the one of a trial's own checkpoints whose result is best; NaN and infinite values do not count.

        Args:
            trial: a trial, its folder or its id.
            metric: a key of the results. Default: ``default_metric``, else the newest checkpoint.
            mode: ``max`` or ``min``. Default: ``default_mode``.

        Raises:
            ConfigError: no mode is known or it is misspelled, or the checkpoint's folder has been deleted or moved.
            ResultError: there is no such trial, it has no checkpoint, or none came with the metric.
        """
        chosen = metric or self.default_metric or _ITERATION
        newest = chosen == _ITERATION and mode is None
        return self._result(trial).get_best_checkpoint(
            chosen, "max" if newest else self._mode(mode, "get_best_checkpoint")
        )

    def get_last_checkpoint(
        self,
        trial: Trial | str | os.PathLike[str] | None = None,
        metric: str = _ITERATION,
        mode: str = "max",
    ) -> Checkpoint | None:
        """Return the newest checkpoint of a trial's weights, or None where there is none.

        Args:
            trial: a trial, its folder or its id. Default: the best one by ``metric`` and ``mode``.
            metric, mode: see :meth:`get_best_trial`. Default: the trial that has trained longest.
        """
        return self._result(self.get_best_trial(metric, mode) if trial is None else trial).checkpoint

    def get_trial_checkpoints_paths(
        self, trial: Trial | str | os.PathLike[str], metric: str | None = None
    ) -> list[tuple[str, Any]]:
        """Return the folder of each of a trial's own checkpoints, oldest first, with a value of its result.

        Args:
            trial: a trial, its folder or its id.
            metric: a key of the results. Default: ``default_metric``, else ``training_iteration``.
        """
        key = metric or self.default_metric or _ITERATION
        return [(checkpoint.path, lookup(row, key)) for checkpoint, row in self._result(trial).best_checkpoints]

    # ------------------------------------------------------------------------------------------------------ all trials

    @property
    def experiment_path(self) -> str:
        """The experiment's folder."""
        return self._grid.experiment_path

    @property
    def results(self) -> dict[str, Metrics]:
        """The last result of each trial by the trial's id; empty for a trial without one."""
        return {trial.trial_id: trial.last_result for trial in self.trials}

    @property
    def results_df(self) -> pd.DataFrame:
        """A table of the last results, with the trials' ids as its index."""
        frame = self._grid.get_dataframe()
        return frame.set_index("trial_id") if len(frame) else frame

    @cached_property
    def trial_dataframes(self) -> ByTrial[pd.DataFrame]:
        """All results of each trial, oldest first, by the trial's folder or id; empty for a trial without one."""
        return ByTrial((trial, self._dataframe(trial)) for trial in self.trials)

    def get_all_configs(self, prefix: bool = False) -> ByTrial[Config]:
        """Return the config of the last result of each trial, by the trial's folder or id.

        Args:
            prefix: whether configs are flattened, with keys such as ``config/lr``.
        """
        return ByTrial((trial, _prefixed(trial.config) if prefix else trial.config) for trial in self.trials)

    def dataframe(self, metric: str | None = None, mode: str | None = None) -> pd.DataFrame:
        """Return a table with one row for each trial that has results, and its folder in the column ``logdir``.

        Args:
            metric: take each trial's result in which this key is best. Default: its last one.
            mode: ``max`` or ``min``. Default: ``default_mode``. Needs ``metric``.

        Raises:
            ConfigError: the mode is unknown or misspelled, or given without a metric.
            ResultError: no trial has reported the metric.
            ImportError: pandas is not installed.
        """
        if metric is None and mode is not None:
            raise ConfigError("ExperimentAnalysis.dataframe: mode needs metric, the key to look for.")
        if metric is None:
            return self._grid.get_dataframe()
        return self._grid.get_dataframe(metric, self._mode(mode, "dataframe"))

    # --------------------------------------------------------------------------------------------------------- helpers

    def _dataframe(self, trial: Trial) -> pd.DataFrame:
        frame = self._result(trial).metrics_dataframe
        if frame is None:
            import pandas as pd

            empty: pd.DataFrame = pd.DataFrame()
            return empty
        return frame

    def _metric(self, metric: str | None, where: str) -> str:
        found = self.default_metric if metric is None else metric
        if found is None:
            raise ConfigError(
                f"ExperimentAnalysis: which metric? Neither tune.run nor the scheduler was given one. Give it there or "
                f"here: {where}(metric='mean_accuracy', mode='max')."
            )
        return found

    def _mode(self, mode: str | None, where: str) -> str:
        found = self.default_mode if mode is None else mode
        if found is None:
            raise ConfigError(
                f"ExperimentAnalysis: is larger better? Neither tune.run nor the scheduler was given a mode. Give it "
                f"there, or here: {where}(..., mode='max') or mode='min'."
            )
        return found

    def _trial(self, trial_id: str) -> RecordedTrial:
        return next(trial for trial in self.trials if trial.trial_id == trial_id)

    def _result(self, trial: Trial | str | os.PathLike[str]) -> Result:
        """Return the result of a trial, given as itself, its folder or its id."""
        results = ByTrial(zip(self.trials, self._grid, strict=True))
        key = trial.trial_id if isinstance(trial, Trial) else trial
        if key not in results:
            raise ResultError(
                f"ExperimentAnalysis: {trial!r} is no trial of this experiment, nor the folder or the id of one. Ids: "
                f"{', '.join(known.trial_id for known in self.trials)}."
            )
        return results[os.fspath(key)]

    def __repr__(self) -> str:
        return repr(self._grid).replace("ResultGrid", "ExperimentAnalysis", 1)

    def _repr_html_(self) -> str | None:
        return self._grid.html()


def _prefixed(config: Mapping[str, Any]) -> Config:
    return dict(flatten({"config": dict(config)}))
