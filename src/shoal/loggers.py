"""Loggers: callbacks that are told of a trial's life in a few words, and those that people name to get log files.

Shoal writes ``result.json``, ``params.json`` and ``progress.csv`` always, and TensorBoard's event files where
:func:`tensorboard_wanted`. They follow the journal and not the callbacks: so they are written in batches, completed
after a restore, and go on when a callback fails. The logger classes for these files are a request, not the writer.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from .callbacks import Callback, Trial
from .errors import ConfigError, StorageError

__all__ = ["CSVLoggerCallback", "JsonLoggerCallback", "LoggerCallback", "TBXLoggerCallback", "tensorboard_wanted"]


class LoggerCallback(Callback):
    """Base class of loggers. Override what you need; all others do nothing.

    ``log_trial_start`` is called each time that the trial's function is entered: at first, after an exploit, and to try
    again. So open what you log to only once, as in ``if trial not in self.files: ...``.
    """

    def log_trial_start(self, trial: Trial) -> None:
        """The trial's function was entered."""

    def log_trial_restore(self, trial: Trial) -> None:
        """The trial's function was entered with a checkpoint; comes after ``log_trial_start``."""

    def log_trial_save(self, trial: Trial) -> None:
        """The trial saved a checkpoint; comes after ``log_trial_result``."""

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """The trial reported.

        Args:
            iteration: the number of batches of events that the driver has handled. The trial's own is
                ``result["training_iteration"]``.
            trial: the trial.
            result: what was reported, with the automatic values and ``config``; a copy.
        """

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """The trial ended.

        Args:
            trial: the trial.
            failed: whether with an error.
        """

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Call ``log_trial_start``."""
        self.log_trial_start(trial)

    def on_trial_restore(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Call ``log_trial_restore``."""
        self.log_trial_restore(trial)

    def on_trial_save(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Call ``log_trial_save``."""
        self.log_trial_save(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Call ``log_trial_result``."""
        self.log_trial_result(iteration, trial, result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Call ``log_trial_end``."""
        self.log_trial_end(trial, failed=False)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Call ``log_trial_end`` with ``failed=True``."""
        self.log_trial_end(trial, failed=True)


class _WrittenByShoal(LoggerCallback):
    """A request for a file that Shoal writes itself; fails aloud where the file is not there.

    A second writer would spoil the first one's file, and could not know what that one has from the journal, such as the
    lines that a killed driver had not written.
    """

    _pattern: ClassVar[str] = ""
    """Name of the file in each trial's folder."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        """Trials whose file has been found."""
        self._new: dict[str, Trial] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "log_trial_result" in vars(cls):
            warnings.warn(
                f"{cls.__name__} overrides log_trial_result. Shoal writes {cls._pattern} itself, with everything that "
                f"was reported: what you pass to super().log_trial_result() changes nothing in it. To log something "
                f"else, derive from LoggerCallback and write a file of your own.",
                stacklevel=2,
            )

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Remember to look for the trial's file."""
        if trial.trial_id not in self._seen:
            self._new[trial.trial_id] = trial
        super().on_trial_result(iteration, trials, trial, result, **info)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Check that Shoal has written the file of every trial that reported for the first time.

        Raises:
            StorageError: it has not, because the one that writes it was switched off after an error.
        """
        for trial in self._new.values():
            if not any(Path(trial.path).glob(self._pattern)):
                raise StorageError(
                    f"{type(self).__name__}: {trial} has reported, but there is no {self._pattern} in {trial.path}. "
                    f"What writes this file has failed, which was shown above. Make room or mend the folder; when the "
                    f"experiment is restored, the file is completed."
                )
        self._seen.update(self._new)
        self._new.clear()


class JsonLoggerCallback(_WrittenByShoal):
    """Asks for ``result.json`` and ``params.json``, which Shoal writes anyway; complains where they are missing."""

    _pattern = "result.json"


class CSVLoggerCallback(_WrittenByShoal):
    """Asks for ``progress.csv``, which Shoal writes anyway; complains where it is missing."""

    _pattern = "progress.csv"


class TBXLoggerCallback(_WrittenByShoal):
    """Asks for TensorBoard's event files, also where :func:`tensorboard_wanted` would not have them.

    What they hold: :mod:`shoal.sinks.tensorboard`. They are written without tensorboardX, which need not be installed.
    """

    _pattern = "events.out.tfevents.*.shoal"


def tensorboard_wanted(callbacks: Iterable[object] | None) -> bool:
    """Return whether event files for TensorBoard are to be written.

    They are where a ``TBXLoggerCallback`` is among the callbacks. Else the environment decides: ``SHOAL_TENSORBOARD=1``
    or ``SHOAL_TENSORBOARD=0``, and Ray Tune's ``TUNE_DISABLE_AUTO_CALLBACK_LOGGERS=1`` for no. Else they are where
    somebody could look at them: where tensorboard or tensorboardX is installed. Neither is needed to write them.

    Args:
        callbacks: ``RunConfig.callbacks``.

    Raises:
        ConfigError: ``SHOAL_TENSORBOARD`` is something else.
    """
    choice = os.environ.get("SHOAL_TENSORBOARD", "").strip()
    if choice not in ("", "0", "1"):
        raise ConfigError(f"The environment variable SHOAL_TENSORBOARD must be 0 or 1, but is {choice!r}.")
    if any(isinstance(callback, TBXLoggerCallback) for callback in callbacks or ()):
        return True
    if choice:
        return choice == "1"
    if os.environ.get("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "").strip() not in ("", "0"):
        return False
    return any(map(_installed, ("tensorboard", "tensorboardX")))


def _installed(name: str) -> bool:
    """Return whether a package is installed, without importing it."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # something odd is in sys.modules under this name
        return False
    # A folder of that name beside the script, where people keep event files, has no origin.
    return found is not None and found.origin is not None
