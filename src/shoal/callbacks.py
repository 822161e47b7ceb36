"""Callbacks: the user's own code, told of what happens while an experiment runs.

The hooks are called in the driver, between its decisions. One that takes long holds up all members; one that raises is
reported once, with its traceback, and its callback is not called again; the run goes on. ``sys.exit()`` in a hook, or
in the handler of a signal that comes meanwhile, ends the run with the step, as an interruption does.
"""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import warn_user
from .core.commands import CheckpointRecord, Exploit, Launch, Reconfigure, Retry, Status, Stop, checkpoint_name
from .core.events import Config, Metrics, Reported, Saved, Started, TrialAdded
from .core.reports import lookup
from .errors import ConfigError, TrialFailed
from .experiment import ExperimentInfo
from .history import History, TrialHistory, full_row
from .journal.codec import Record
from .location import join
from .space import copy_containers

if TYPE_CHECKING:
    from .checkpoints import Checkpoint

__all__ = ["Callback", "CallbackReader", "Trial", "check_callbacks"]


class Trial:
    """A trial as callbacks see it: always up to date, and read-only.

    There is one for each trial, the same in every call, so it can be the key of a dict. Beside Shoal's own names it has
    those that loggers written for Ray Tune read; what belongs to Ray's machinery, such as ``runner``, it has not.

    Args:
        history: what the journal tells of it.
        folder: the experiment's folder, or its URL.
        info: facts about the experiment.
    """

    __slots__ = ("_folder", "_history", "_info")

    def __init__(self, history: TrialHistory, folder: Path | str, info: ExperimentInfo) -> None:
        self._history = history
        self._folder = str(folder)
        self._info = info

    @property
    def trial_id(self) -> str:
        """Its id: ``<run id>_<number>``."""
        return self._history.trial_id

    @property
    def index(self) -> int:
        """Its number in the population, from 0."""
        return self._history.index

    @property
    def config(self) -> Config:
        """A copy of its config as it is now."""
        config: Config = copy_containers(self._history.config)
        return config

    @property
    def status(self) -> str:
        """``PENDING``, ``RUNNING``, ``PAUSED``, ``TERMINATED`` or ``ERROR``."""
        return self._history.status.value

    @property
    def iteration(self) -> int:
        """``training_iteration`` of its newest result; 0 before the first."""
        return self._history.iteration

    @property
    def last_result(self) -> Metrics:
        """Its newest result, as ``on_trial_result`` gets it; empty before the first."""
        last = self._history.last
        result: Metrics = {} if last is None else copy_containers(full_row(self._history, last))
        return result

    @property
    def path(self) -> str:
        """Its folder on this machine, where its files are written while it runs."""
        return join(self._folder, self._history.folder)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The newest of its own checkpoints that have not been deleted, or None."""
        newest = max(self._history.whole, default=None)
        return None if newest is None else _checkpoint_in(Path(self.path), newest)

    @property
    def error(self) -> str | None:
        """Why it failed, in one line; None where it has not."""
        return self._history.error if self._history.status is Status.ERROR else None

    # ----------------------------------------------------------------------------- what loggers for Ray Tune also read

    @property
    def local_path(self) -> str:
        """The same as :attr:`path`."""
        return self.path

    @property
    def logdir(self) -> str:
        """The same as :attr:`path`."""
        return self.path

    @property
    def trainable_name(self) -> str:
        """The name of the user's function."""
        return self._info.trainable

    @property
    def experiment_dir_name(self) -> str:
        """The name of the experiment's folder."""
        return os.path.basename(self._folder)

    @property
    def experiment_tag(self) -> str:
        """``<index>_<param=value,...>`` of its first sample. It never changes, unlike Ray Tune's."""
        return self._history.tag

    @property
    def evaluated_params(self) -> dict[str, Any]:
        """A copy of what was drawn for it at the beginning, flat: ``{"lr": 0.1, "opt/eps": 1e-8}``.

        These are the hyperparameters that were sampled or mutate. What they are now is in :attr:`config`.
        """
        initial = self._history.initial_config
        params: dict[str, Any] = copy_containers({name: lookup(initial, name) for name in self._info.parameters})
        return params

    @property
    def error_file(self) -> str | None:
        """The file with the tracebacks of its failures, or None where it has not failed."""
        path = Path(self.path, "error.txt")
        return str(path) if path.exists() else None

    def is_finished(self) -> bool:
        """Return whether it has ended, well or not."""
        return self._history.status.ended

    def get_error(self) -> TrialFailed | None:
        """Return the failure that ended it, with the member's own traceback as its text, or None."""
        trial = self._history
        return TrialFailed(trial.traceback or trial.error) if trial.status is Status.ERROR else None

    def init_local_path(self) -> None:
        """Make its folder, where it is not there yet; loggers for Ray Tune begin with that."""
        Path(self.path).mkdir(parents=True, exist_ok=True)

    def init_logdir(self) -> None:
        """The same as :meth:`init_local_path`."""
        self.init_local_path()

    def __str__(self) -> str:
        return self._history.name

    def __repr__(self) -> str:
        return f"Trial({self._history.name}, {self.status}, iteration {self.iteration})"


class Callback:
    """Base class of callbacks. Override the hooks you need; all others do nothing.

    Pass instances to ``RunConfig(callbacks=[...])``. Every hook is called with keyword arguments. ``iteration`` is the
    number of batches of events that the driver has handled; ``trials`` are all trials by their number, ``trial`` the
    one that it is about; ``**info`` leaves room for more, so keep it.
    """

    def setup(self, **info: Any) -> None:
        """The experiment begins.

        Args:
            **info: ``stop``, ``num_samples``, ``total_num_samples`` (the number of trials), ``name``, ``metric``,
                ``mode`` and ``experiment_path``.
        """

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Something happened; the hooks that say what come next."""

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """All hooks about what happened have been called."""

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The trial's function was entered: for the first time, after an exploit, or to try again."""

    def on_trial_restore(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The trial's function was entered with a checkpoint; comes after ``on_trial_start``."""

    def on_trial_save(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The trial saved a checkpoint; comes after ``on_trial_result``."""

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """The trial reported.

        Args:
            iteration, trials, trial, **info: as for every hook.
            result: what was reported, with the automatic values and ``config``. All callbacks get the same dict.
        """

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The trial ended without an error."""

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The trial failed and will be tried again."""

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The trial failed for good."""

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: Checkpoint, **info: Any
    ) -> None:
        """The trial saved a checkpoint; comes after ``on_trial_save``.

        Args:
            iteration, trials, trial, **info: as for every hook.
            checkpoint: the committed one. It may be deleted later, so copy what you want to keep. Where
                ``CheckpointConfig`` keeps few, one can be gone before callbacks are told: decisions are carried out
                first, and several results that arrive together are told together. The hook is not called for such a
                one; ``on_trial_save`` is.
        """

    def on_exploit(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        donor: Trial,
        checkpoint: Checkpoint | None,
        checkpoint_iteration: int,
        **info: Any,
    ) -> None:
        """The trial takes over another's weights. Ray Tune has no such hook.

        Args:
            iteration, trials, trial, **info: as for every hook.
            donor: the trial that it copies.
            checkpoint: the donor's checkpoint; None where its files are gone.
            checkpoint_iteration: ``training_iteration`` of that checkpoint.
        """

    def on_explore(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        donor_config: dict[str, Any],
        old_config: dict[str, Any],
        new_config: dict[str, Any],
        **info: Any,
    ) -> None:
        """The trial takes over another's config, mutated; comes after ``on_exploit``. Ray Tune has no such hook.

        Args:
            iteration, trials, trial, **info: as for every hook.
            donor_config: the config that was copied.
            old_config: what the trial had before.
            new_config: what it has from now on.
        """

    def on_reconfigure(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        old_config: dict[str, Any],
        new_config: dict[str, Any],
        **info: Any,
    ) -> None:
        """The trial's config was changed without copying another's weights, by a replay; Ray Tune has no such hook.

        Comes after ``on_trial_result`` of the result at which it was changed, and before the ``on_trial_start`` with
        the new config.

        Args:
            iteration, trials, trial, **info: as for every hook.
            old_config: what the trial had before.
            new_config: what it has from now on.
        """

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """The experiment has ended, or was interrupted."""


_PREFIXES = ("on_", "log_trial_")
"""How the names of hooks begin, those of LoggerCallback included."""


def _checkpoint_in(folder: Path, number: int) -> Checkpoint | None:
    """Return a trial's checkpoint, or None where its files are gone."""
    from .checkpoints import Checkpoint

    path = folder / checkpoint_name(number)
    return Checkpoint.from_directory(path) if path.is_dir() else None


def check_callbacks(callbacks: Iterable[object]) -> list[Callback]:
    """Return the callbacks as a list.

    Warns (UserWarning) of a method whose name is one slip away from a hook's, which Shoal would not call.

    Raises:
        ConfigError: one is no instance of Callback.
    """
    checked: list[Callback] = []
    for callback in callbacks:
        if not isinstance(callback, Callback):
            hint = " Make an instance of it." if isinstance(callback, type) and issubclass(callback, Callback) else ""
            raise ConfigError(
                f"RunConfig: callbacks must be instances of subclasses of tune.Callback, but one is {callback!r}.{hint}"
            )
        _warn_of_slips(callback)
        checked.append(callback)
    return checked


def _warn_of_slips(callback: Callback) -> None:
    """Warn of methods whose names are nearly a hook's, where that hook is not there as well."""
    cls = type(callback)
    of_shoal = [base for base in cls.__mro__ if base.__module__.startswith("shoal.")]
    ours = {name for base in of_shoal for name in vars(base)}
    hooks = sorted(name for name in ours if name.startswith(_PREFIXES))
    # A name that begins with an underscore says itself that nobody else calls it.
    own = [name for name in dir(callback) if name not in ours and not name.startswith("_")]
    for name in own:
        meant = next((hook for hook in hooks if _is_slip(name, hook)), None)
        if meant is None or _has(callback, of_shoal[0], meant) or not _is_method(callback, name):
            continue
        warn_user(
            f"RunConfig: the callback {cls.__name__} has a method {name!r}. Shoal does not call it; did you mean "
            f"{meant!r}?"
        )


def _is_slip(given: str, meant: str) -> bool:
    """Whether one letter is missing, too much or another one, or two neighbours are swapped."""
    if abs(len(given) - len(meant)) > 1 or given == meant:
        return False
    at = next((place for place, (a, b) in enumerate(zip(given, meant, strict=False)) if a != b), len(given))
    rest, other = given[at:], meant[at:]
    swapped = rest[:2] == other[1::-1] and rest[2:] == other[2:]
    return swapped or rest[1:] == other[1:] or rest[1:] == other or rest == other[1:]


def _is_method(callback: Callback, name: str) -> bool:
    # Without calling properties.
    value = inspect.getattr_static(callback, name, None)
    return callable(value) or isinstance(value, classmethod)


def _has(callback: Callback, base: type[Callback], hook: str) -> bool:
    """Whether a callback has a hook other than the base class, in its own class or set on itself."""
    return hook in vars(callback) or getattr(type(callback), hook, None) is not getattr(base, hook)


class CallbackReader:
    """Calls the user's callbacks; a :class:`shoal.experiment.Reader`.

    Args:
        callbacks: instances of Callback, called in this order.
        warn: told once of each callback that raised, with its traceback.

    Raises:
        ConfigError: see :func:`check_callbacks`.
    """

    def __init__(self, callbacks: Iterable[object], warn: Callable[[str], None]) -> None:
        self._callbacks = check_callbacks(callbacks)
        self._warn = warn
        self._folder = Path()
        self._info: ExperimentInfo | None = None
        self._history = History(keep_rows=False)
        self._trials: dict[str, Trial] = {}
        self._restoring: set[str] = set()
        """Trials that have been launched with a checkpoint and not started yet."""
        self._step = 0
        self._in_step = False
        self._leaving: BaseException | None = None
        """What a callback raised to end the process."""

    def start(self, info: ExperimentInfo, folder: Path, history: History) -> None:
        """Call ``setup``."""
        self._info = info
        self._folder = folder
        self._history = history
        for trial in history.in_order():
            self._add(trial)
        self._call(
            "setup",
            stop=dict(info.stop),
            num_samples=info.num_trials,
            total_num_samples=info.num_trials,
            name=info.name,
            metric=info.metric,
            mode=info.mode,
            experiment_path=str(folder),
        )
        self._leave()

    def take(self, record: Record) -> None:
        """Call the hooks that the record is about."""
        if not self._in_step:
            self._in_step = True
            self._step += 1
            if self._wants("on_step_begin"):
                self._call("on_step_begin", iteration=self._step, trials=self._all)
        item = record.item
        if isinstance(item, Reported):
            self._reported(item)
        elif isinstance(item, Saved):
            history = self._history.trials[item.trial_id]
            if item.launch == history.launches and not history.status.ended:
                self._saved(item.trial_id, item.checkpoint.number)
        elif isinstance(item, TrialAdded):
            self._add(self._history.trials[item.trial_id])
        elif isinstance(item, Launch):
            (self._restoring.discard if item.checkpoint is None else self._restoring.add)(item.trial_id)
        elif isinstance(item, Started):
            self._started(item)
        elif isinstance(item, Exploit):
            if item.failed is not None:
                self._about("on_trial_recover", item.trial_id)
            self._exploited(item)
        elif isinstance(item, Reconfigure):
            self._reconfigured(item)
        elif isinstance(item, Retry):
            self._about("on_trial_recover", item.trial_id)
        elif isinstance(item, Stop):
            self._about("on_trial_error" if item.status is Status.ERROR else "on_trial_complete", item.trial_id)

    def flush(self) -> None:
        """Call ``on_step_end``."""
        if self._in_step:
            self._in_step = False
            if self._wants("on_step_end"):
                self._call("on_step_end", iteration=self._step, trials=self._all)
        self._leave()

    def close(self) -> None:
        """Call ``on_experiment_end``, once."""
        self.flush()
        self._call("on_experiment_end", trials=self._all)
        self._callbacks = []
        self._leave()

    def _leave(self) -> None:
        """Raise what is no error but asks for the end of the process, now that all have been told of the step."""
        leaving, self._leaving = self._leaving, None
        if leaving is not None:
            raise leaving

    # ----------------------------------------------------------------------------------------------------------- hooks

    def _reported(self, report: Reported) -> None:
        history = self._history.trials[report.trial_id]
        if history.last is None or history.last.report is not report:
            return  # late
        if self._wants("on_trial_result"):
            result = copy_containers(full_row(history, history.last))
            self._about("on_trial_result", report.trial_id, result=result)
        if report.checkpoint is not None:
            self._saved(report.trial_id, report.checkpoint.number)

    def _saved(self, trial_id: str, number: int) -> None:
        self._about("on_trial_save", trial_id)
        if self._wants("on_checkpoint"):
            checkpoint = self._checkpoint(trial_id, number)
            if checkpoint is not None:
                self._about("on_checkpoint", trial_id, checkpoint=checkpoint)

    def _started(self, started: Started) -> None:
        history = self._history.trials[started.trial_id]
        if started.launch != history.launches or history.status.ended:
            return  # late
        self._about("on_trial_start", started.trial_id)
        if started.trial_id in self._restoring:
            self._restoring.discard(started.trial_id)
            self._about("on_trial_restore", started.trial_id)

    def _exploited(self, exploit: Exploit) -> None:
        record: CheckpointRecord = exploit.checkpoint
        if self._wants("on_exploit"):
            self._about(
                "on_exploit",
                exploit.trial_id,
                donor=self._trials[exploit.donor_id],
                checkpoint=self._checkpoint(record.trial_id, record.number),
                checkpoint_iteration=record.iteration,
            )
        if self._wants("on_explore"):
            self._about(
                "on_explore",
                exploit.trial_id,
                donor_config=copy_containers(exploit.donor_config),
                old_config=copy_containers(exploit.old_config),
                new_config=copy_containers(exploit.new_config),
            )

    def _reconfigured(self, change: Reconfigure) -> None:
        if self._wants("on_reconfigure"):
            self._about(
                "on_reconfigure",
                change.trial_id,
                old_config=copy_containers(change.old_config),
                new_config=copy_containers(change.new_config),
            )

    # ----------------------------------------------------------------------------------------------------------- calls

    @property
    def _all(self) -> list[Trial]:
        return list(self._trials.values())

    def _add(self, trial: TrialHistory) -> None:
        assert self._info is not None, "start() comes first"
        self._trials[trial.trial_id] = Trial(trial, self._folder, self._info)

    def _checkpoint(self, trial_id: str, number: int) -> Checkpoint | None:
        # What was decided in one batch has been carried out before readers hear of it, deletions included.
        return _checkpoint_in(self._folder / self._history.trials[trial_id].folder, number)

    def _wants(self, hook: str) -> bool:
        """Whether anybody overrides the hook, so that its arguments are worth making."""
        return any(_has(callback, Callback, hook) for callback in self._callbacks)

    def _about(self, hook: str, trial_id: str, **more: Any) -> None:
        if self._wants(hook):
            self._call(hook, iteration=self._step, trials=self._all, trial=self._trials[trial_id], **more)

    def _call(self, hook: str, **arguments: Any) -> None:
        for callback in list(self._callbacks):
            self._call_one(callback, hook, arguments)

    def _call_one(self, callback: Callback, hook: str, arguments: Mapping[str, Any]) -> None:
        try:
            getattr(callback, hook)(**arguments)
        except KeyboardInterrupt:
            raise
        except Exception:
            self._callbacks.remove(callback)
            self._warn(
                f"The callback {type(callback).__name__} raised in {hook} and is not called again; the run goes on.\n"
                f"{traceback.format_exc().rstrip()}"
            )
        except BaseException as error:
            # sys.exit(), also in the handler of a signal: the process is to end, but not in the middle of a step.
            self._leaving = error
