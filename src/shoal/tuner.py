"""The Tuner: checks what the user gave, and hands it on."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from .arguments import check_arguments, check_keywords
from .config import RunConfig, TuneConfig, engine_name
from .errors import ConfigError, EngineError, JournalError
from .location import Location, location_of
from .trainable import Trainable

if TYPE_CHECKING:
    from .restore import Again
    from .results import ResultGrid
    from .warm_parent import WarmParent

__all__ = ["Tuner"]

_SLOW_TO_IMPORT = ("torch",)


@check_arguments
class Tuner:
    """Trains a population and returns its results.

    Args:
        trainable: what trains one member: a function ``train(config)``, which calls ``tune.report(metrics,
            checkpoint=)`` once an iteration, or a subclass of :class:`shoal.tune.Trainable`.
        param_space: the config of a member: constants, distributions (``tune.uniform(...)``),
            ``tune.grid_search([...])``, nested dicts and lists of these.
        tune_config: what is optimised and how.
        run_config: where and how long.

    Raises:
        ConfigError: an argument is wrong; the message says which and what is allowed.
    """

    def __init__(
        self,
        trainable: Callable[..., Any] | None = None,
        *,
        param_space: Mapping[str, Any] | None = None,
        tune_config: TuneConfig | None = None,
        run_config: RunConfig | None = None,
    ) -> None:
        self._trainable = _check_trainable(trainable)
        self._space = _check_space(param_space)
        _check_configs("Tuner", tune_config, run_config)
        self._tune = tune_config or TuneConfig()
        self._run = run_config or RunConfig()
        self._location: Location | None = None
        self._results: ResultGrid | None = None
        self._again: Again | None = None

    @classmethod
    @check_keywords
    def restore(
        cls,
        path: str | os.PathLike[str],
        trainable: Callable[..., Any] | None = None,
        *,
        resume_unfinished: bool = True,
        resume_errored: bool = False,
        restart_errored: bool = False,
        param_space: Mapping[str, Any] | None = None,
        run_config: RunConfig | None = None,
        tune_config: TuneConfig | None = None,
    ) -> Tuner:
        """Return a Tuner that goes on with an experiment where it was left; call ``fit()`` on it.

        The experiment may have been killed, interrupted or finished, and its folder may have been moved; of one in
        object storage the machine may be another one, and nothing of it on that machine. Every trial
        goes on from its newest checkpoint, and the scheduler knows all that it knew. Trials that have finished stay as
        they are. But of those that a stop condition or a stopper has ended, the ones go on that another ``stop``, given
        here, does not end; and those that the time budget has ended, if you give a time budget here. A stopper is
        another one where its class or what it was made with differs; one that reads the clock in ``__init__``, or
        cannot be pickled, always is.

        The settings of the experiment lie in its journal, pickled, and unpickling executes code: restore only
        experiments that come from yourself. So do its configs, where they hold more than plain values.

        Args:
            path: the experiment's folder; or its URL, such as ``s3://bucket/runs/name``. Storage is some seconds behind
                a driver that was killed: what was reported in these is trained again, from the last checkpoints that
                storage has. Where this machine has the experiment's working folder, and that is further, it counts.
            trainable: the same as before. It must understand the checkpoints that are there.
            resume_unfinished: whether trials go on that were cut off. Default True; False ends them as they are.
            resume_errored: whether trials that failed go on from their newest checkpoint. Default False.
            restart_errored: whether trials that failed begin from scratch, with the config that they began with.
                Default False.
            param_space: constants in it replace those of the trials, for example references from ``shoal.put``, which
                do not outlive their process. What is sampled or mutated stays as it is.
            run_config: what is given in it replaces what was given before, also at its default:
                ``RunConfig(stop={"training_iteration": 100})`` extends an experiment. Name and storage path follow from
                ``path``.
            tune_config: the same; metric, mode, number of trials and seed cannot change, nor can settings of the
                scheduler that its past decisions follow from, such as ``perturbation_interval``. A time budget counts
                from the start of ``fit()``, for whoever goes on.

        Raises:
            ConfigError: an argument is wrong.
            JournalError: there is no experiment that can go on, its settings cannot be loaded, or (from ``fit()``) it
                is running.
            StorageError: object storage cannot be read.
        """
        from .journal.sqlite import SQLiteJournal
        from .restore import Again
        from .settings import gives_budget, gives_stop, is_same_stop, stored_settings

        for name, value in (
            ("resume_unfinished", resume_unfinished),
            ("resume_errored", resume_errored),
            ("restart_errored", restart_errored),
        ):
            if not isinstance(value, bool):
                raise ConfigError(f"Tuner.restore: {name} must be True or False, but is {value!r}.")
        if resume_errored and restart_errored:
            raise ConfigError("Tuner.restore: resume_errored and restart_errored exclude each other; give one of them.")
        _check_configs("Tuner.restore", tune_config, run_config)
        location = _checked_location(path)
        space = _check_space(param_space)
        with (
            _readable(location) as folder,
            contextlib.closing(SQLiteJournal.open_for_reading(folder)) as journal,
        ):
            meta = journal.meta()
            tune, run = stored_settings(meta, location, run_config, tune_config)
        tuner = cls(trainable, tune_config=tune, run_config=run)
        same_stop = is_same_stop(run_config, meta)
        anew = [
            *(["stop"] if gives_stop(run_config) and not same_stop else []),
            *(["time_budget_s"] if gives_budget(tune_config) else []),
        ]
        tuner._location = location
        tuner._again = Again(resume_unfinished, resume_errored, restart_errored, space, frozenset(anew), same_stop)
        return tuner

    @staticmethod
    def can_restore(path: str | os.PathLike[str]) -> bool:
        """Return whether the folder, or the URL, holds an experiment that :meth:`restore` can go on with.

        Whether a process runs it right now is not looked at: ``fit()`` raises then.

        Raises:
            ConfigError: this is no path; the kind of URL is not known, or a package is missing.
            StorageError: whether object storage has it cannot be told.
        """
        from .restore import can_restore

        return can_restore(_checked_path(path))

    def fit(self) -> ResultGrid:
        """Train the population to its end and return its results.

        Returns:
            One result a trial. A trial that failed does not make ``fit`` raise; see ``ResultGrid.errors``.

        Raises:
            ConfigError: the settings do not fit together; nothing was started.
            StorageError: the experiment's folder cannot be used; or object storage cannot, or was away for longer than
                ``SHOAL_STORAGE_PATIENCE_S`` (600 seconds): then everything is in the working folder.
            EngineError: members cannot be started, or one asks for more than the machine has.
            TrialFailed: a trial failed, with ``FailureConfig(fail_fast="raise")``.
            KeyboardInterrupt: the user pressed Ctrl-C. Everything reported so far is kept:
                ``tune.ResultGrid.read(folder)`` returns it, and :meth:`restore` goes on with it.
        """
        _check_not_loading()
        location, raises = self._begin() if self._again is None else self._go_on(self._again)
        # Late, so that importing shoal costs next to nothing.
        from .wiring import take_results

        self._results = grid = take_results(location)
        if self._run.verbose:
            from .display.card import show_card_of

            show_card_of(grid)
        if raises and grid.errors:
            raise grid.errors[0]
        return grid

    def get_results(self) -> ResultGrid:
        """Return the results of :meth:`fit` again; of a Tuner that :meth:`restore` returned, also those from before it.

        Raises:
            ConfigError: there are none yet.
        """
        from .results import ResultGrid

        if self._results is not None:
            return self._results
        if self._location is None:
            raise ConfigError(
                "Tuner.get_results: there are no results yet. Call fit() first; tune.ResultGrid.read(folder) reads "
                "those of an experiment that has ended, was interrupted, or is running."
            )
        return ResultGrid.read(str(self._location))

    def _begin(self) -> tuple[Location, bool]:
        """Run a new experiment. Return where it is, and whether errors are raised."""
        with _early_parent(self._tune, self._trainable) as parent:
            from .plan import make_plan
            from .wiring import execute, make_folder

            plan = make_plan(self._trainable, self._space, self._tune, self._run)
            location = make_folder(self._run, plan.info.name)
            execute(plan, location, self._run, self._tune, parent=parent)
            return location, plan.raises

    def _go_on(self, again: Again) -> tuple[Location, bool]:
        """Run an experiment on. Return where it is, and whether errors are raised."""
        from .restore import restored_plan
        from .wiring import complete_files, execute, open_journal

        assert self._location is not None
        location = self._location
        journal = open_journal(location)
        try:
            plan = restored_plan(journal, location, self._trainable, self._tune, self._run, again)
            if plan.idle:
                complete_files(plan, location, self._run)
            else:
                with _early_parent(self._tune, self._trainable) as parent:
                    execute(plan, location, self._run, self._tune, journal, parent)
        finally:
            journal.close()  # or this process would keep it locked, whatever went wrong
        return location, plan.raises


@contextlib.contextmanager
def _early_parent(tune: TuneConfig, trainable: Callable[..., Any]) -> Generator[WarmParent | None]:
    """Start the members' warm parent, so that it imports what it needs while this process does the same."""
    if engine_name(tune) != "processes":
        yield None
        return
    from .warm_parent import WarmParent

    parent = WarmParent([name for name in _SLOW_TO_IMPORT if name in sys.modules and _speaks_of(trainable, name)])
    try:
        yield parent
    finally:
        parent.close(0.0)  # where a run has begun, that has closed it already; else nothing depends on it


def _speaks_of(trainable: Callable[..., Any], package: str) -> bool:
    """Return whether what a function, or the module of a class, has around it comes from a package."""
    around = getattr(inspect.unwrap(trainable), "__globals__", None)
    if around is None:
        around = getattr(sys.modules.get(str(getattr(trainable, "__module__", ""))), "__dict__", {})
    for value in list(around.values()):
        name = None
        with contextlib.suppress(Exception):  # an object of the user's may answer as it likes
            if isinstance(value, ModuleType):
                name = ModuleType.__getattribute__(value, "__name__")  # its own way of asking may import it
            else:
                name = (value if isinstance(value, (type, FunctionType)) else type(value)).__module__
        if isinstance(name, str) and name.partition(".")[0] == package:
            return True
    return False


def _check_space(param_space: object) -> dict[str, Any]:
    if param_space is not None and not isinstance(param_space, Mapping):
        raise ConfigError(
            f"Tuner: param_space must be a dict such as {{'lr': tune.uniform(0, 1)}}, but is {param_space!r}."
        )
    return dict(param_space or {})


def _check_configs(where: str, tune_config: object, run_config: object) -> None:
    for name, value, kind in (("tune_config", tune_config, TuneConfig), ("run_config", run_config, RunConfig)):
        if value is not None and not isinstance(value, kind):
            raise ConfigError(f"{where}: {name} must be a tune.{kind.__name__}(...), but is {value!r}.")


def _checked_path(path: object) -> Location:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ConfigError(f"Tuner.restore: path must be the folder of an experiment, or its URL, but is {path!r}.")
    return location_of(path)


@contextlib.contextmanager
def _readable(location: Location) -> Generator[Path]:
    """Give a folder with the experiment's journal, for reading.

    Raises:
        JournalError: object storage has no such experiment.
    """
    if location.url is None:
        yield location.folder
        return
    from .viewing import View

    with View.open(location, furthest=True).kept() as folder:
        yield folder


def _checked_location(path: object) -> Location:
    from .journal import JOURNAL_NAME

    location = _checked_path(path)
    folder = location.folder
    if location.url is not None or (folder / JOURNAL_NAME).is_file():
        return location
    inside = sorted(entry.parent.name for entry in folder.glob(f"*/{JOURNAL_NAME}")) if folder.is_dir() else []
    hint = f" It holds the experiments {', '.join(inside[:8])}; give the path of one of them." if inside else ""
    if folder.is_dir():
        what = "holds no experiment of Shoal"
    else:
        what = "is no folder" if folder.exists() else "does not exist"
    raise JournalError(f"Tuner.restore: {folder} {what}.{hint}")


def _check_not_loading() -> None:
    """Refuse to start an experiment while members' modules are imported: each parent process would start another."""
    loading = sys.modules.get("shoal.worker.loading")
    if loading is not None and loading.in_progress:
        raise EngineError(
            "Tuner.fit() was called by a module that is only imported to find the trainable in it. Put the call under "
            "if __name__ == '__main__': or into a function."
        )


def _check_trainable(trainable: object) -> Callable[..., Any]:
    if isinstance(trainable, Trainable):
        kind = type(trainable).__name__
        raise ConfigError(
            f"Tuner: the trainable is an object of the class {kind}. Give the class itself, Tuner({kind}, ...): each "
            f"member makes an object of its own."
        )
    if trainable is None or not callable(trainable):
        raise ConfigError(
            f"Tuner: the trainable must be a function that takes a config, such as train(config), but is {trainable!r}."
        )
    if inspect.isclass(trainable):
        return _check_class(trainable)
    for kind, test in (("async def", inspect.iscoroutinefunction), ("generator", inspect.isgeneratorfunction)):
        if test(inspect.unwrap(trainable)):
            name = getattr(trainable, "__name__", trainable)
            raise ConfigError(
                f"Tuner: the trainable must be an ordinary function train(config), but {name} is an {kind} function: "
                f"calling it would run none of its code."
            )
    try:
        inspect.signature(trainable).bind({})
    except ValueError:
        pass  # a built-in function without a signature
    except TypeError as error:
        raise ConfigError(
            f"Tuner: the trainable must take one argument, the config, but "
            f"{getattr(trainable, '__name__', trainable)} does not: {error}."
        ) from error
    return trainable


def _check_class(trainable: type[Any]) -> type[Any]:
    if not issubclass(trainable, Trainable):
        raise ConfigError(
            f"Tuner: the class {trainable.__name__} is no trainable. Derive it from tune.Trainable and write "
            f"setup(config) and step(); or give a function train(config)."
        )
    if trainable.step is Trainable.step:
        raise ConfigError(
            f"Tuner: the class {trainable.__name__} has no step(): write one that returns a dict of metrics."
        )
    bound = isinstance(inspect.getattr_static(trainable, "setup"), (staticmethod, classmethod))
    try:
        inspect.signature(trainable.setup).bind(*([{}] if bound else [None, {}]))
    except TypeError as error:
        raise ConfigError(
            f"Tuner: {trainable.__name__}.setup is called with the config alone, but cannot be: {error}. Give objects "
            f"for its other parameters with tune.with_parameters(...), or defaults."
        ) from error
    return trainable
