"""``tune.run``: the older way to start an experiment. It builds the classes behind :class:`Tuner` and calls it.

What Ray Tune's function takes and Shoal does not have is accepted at Ray Tune's default, and refused by name otherwise.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .config import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, storage_root
from .errors import ConfigError, TuneError, did_you_mean
from .location import Location, join, location_of
from .reporters import check_reporter
from .resources import with_resources
from .schedulers.base import TrialScheduler
from .tuner import Tuner

if TYPE_CHECKING:
    from .analysis import ExperimentAnalysis
    from .results import ResultGrid

__all__ = ["check_absent", "create_scheduler", "find_trainable", "register_trainable", "run", "storage_of"]

_ERRORS_SHOWN = 10


def run(
    run_or_experiment: Callable[..., Any] | str,
    *,
    name: str | None = None,
    metric: str | None = None,
    mode: str | None = None,
    stop: Any = None,
    time_budget_s: float | datetime.timedelta | None = None,
    config: Mapping[str, Any] | None = None,
    resources_per_trial: Mapping[str, float] | None = None,
    num_samples: int = 1,
    storage_path: str | os.PathLike[str] | None = None,
    scheduler: TrialScheduler | str | None = None,
    checkpoint_config: CheckpointConfig | None = None,
    verbose: int | None = None,
    progress_reporter: object = None,
    log_to_file: bool | None = None,
    max_failures: int = 0,
    fail_fast: bool | str = False,
    resume: bool | str | None = None,
    reuse_actors: bool | None = None,
    raise_on_failed_trial: bool = True,
    callbacks: Sequence[Any] | None = None,
    max_concurrent_trials: int | None = None,
    local_dir: str | os.PathLike[str] | None = None,
    keep_checkpoints_num: int | None = None,
    checkpoint_score_attr: str | None = None,
    checkpoint_freq: int = 0,
    checkpoint_at_end: bool = False,
    seed: int | None = None,
    engine: str | None = None,
    max_residents: int | None = None,
    control: int | None = None,
    **absent: Any,
) -> ExperimentAnalysis:
    """Train a population and return its results, as ``Tuner(...).fit()`` does, with everything in one call.

    Args:
        run_or_experiment: the trainable, or the name that :func:`register_trainable` gave it.
        name, stop, storage_path, checkpoint_config, callbacks: see :class:`RunConfig`.
        metric, mode, num_samples, time_budget_s, max_concurrent_trials, seed, engine, max_residents, control,
            reuse_actors: see :class:`TuneConfig`. ``max_concurrent_trials=0`` is no limit, too.
        config: the search space; ``param_space`` of :class:`Tuner`.
        resources_per_trial: what each trial takes, such as ``{"cpu": 2, "gpu": 0.5}``; see ``tune.with_resources``.
        scheduler: a scheduler, or a name that :func:`create_scheduler` knows. Default: FIFO.
        verbose, log_to_file: see :class:`RunConfig`, whose defaults count. ``verbose=False`` is 0.
        progress_reporter: accepted as in Ray Tune, without effect; see :class:`shoal.tune.CLIReporter`.
        max_failures, fail_fast: see :class:`FailureConfig`.
        resume: go on with the experiment ``name`` in ``storage_path``: True (or ``"LOCAL"``), or ``"AUTO"`` to begin
            anew where there is none. Finished trials stay as they are, also those that the same time budget or the
            same stopper has ended. ``"AUTO+ERRORED"`` and ``"LOCAL+ERRORED"`` also resume failed trials from their
            checkpoints, ``+RESTART_ERRORED`` lets them begin anew, and ``+ERRORED_ONLY`` and ``+RESTART_ERRORED_ONLY``
            do so and resume no others. What the other arguments change is told at ``Tuner.restore``; what is left
            out, or is at its default, stays as it was before.
        raise_on_failed_trial: whether failed trials are an error of the call, too.
        local_dir: the older name of ``storage_path``.
        keep_checkpoints_num, checkpoint_score_attr, checkpoint_freq, checkpoint_at_end: older names of
            ``CheckpointConfig``'s ``num_to_keep``, ``checkpoint_score_attribute`` (``min-loss``: lower is better),
            ``checkpoint_frequency`` and ``checkpoint_at_end``.
        **absent: arguments that Ray Tune has and Shoal does not, at Ray Tune's default.

    Raises:
        ConfigError: an argument is wrong; nothing was started.
        TuneError: trials failed, and ``raise_on_failed_trial`` is True. The others have trained to their end, and
            ``tune.ExperimentAnalysis(folder)`` reads the results of all.
        StorageError, EngineError, TrialFailed, KeyboardInterrupt: as ``Tuner.fit``.
    """
    from .analysis import ExperimentAnalysis

    check_absent("tune.run", absent, _ARGUMENTS)
    check_reporter(progress_reporter, "tune.run")
    trainable = find_trainable(run_or_experiment)
    if resources_per_trial is not None:
        trainable = with_resources(trainable, resources_per_trial)
    # Checkpoints first: an older spelling is to be named as it was given.
    checkpoints = _checkpoint_config(
        checkpoint_config, keep_checkpoints_num, checkpoint_score_attr, checkpoint_freq, checkpoint_at_end
    )
    failures = FailureConfig(max_failures=max_failures, fail_fast=fail_fast)
    # None is left out, so that it stands for what was set before where an experiment goes on.
    run_config = RunConfig(
        **_given(
            name=name,
            storage_path=storage_of("tune.run", storage_path, local_dir),
            stop=stop,
            checkpoint_config=checkpoints,
            failure_config=failures if failures != FailureConfig() else None,
            callbacks=callbacks,
            verbose=int(verbose) if isinstance(verbose, bool) else verbose,
            log_to_file=log_to_file,
        )
    )
    tune_config = TuneConfig(
        **_given(
            metric=metric,
            mode=mode,
            scheduler=create_scheduler(scheduler) if isinstance(scheduler, str) else scheduler,
            num_samples=None if type(num_samples) is int and num_samples == 1 else num_samples,
            max_concurrent_trials=max_concurrent_trials or None,
            time_budget_s=time_budget_s,
            seed=seed,
            engine=engine,
            max_residents=max_residents,
            control=control,
            reuse_actors=reuse_actors,
        )
    )
    settings: dict[str, Any] = {"param_space": config, "tune_config": tune_config, "run_config": run_config}
    tuner = _restored(_parse_resume(resume), trainable, settings) or Tuner(trainable, **settings)
    grid = tuner.fit()
    if raise_on_failed_trial and grid.errors:
        raise TuneError(_failures(grid)) from grid.errors[0]
    return ExperimentAnalysis(grid.experiment_path, default_metric=metric, default_mode=mode)


_ARGUMENTS = tuple(name for name in run.__kwdefaults__ or ())


def _given(**values: Any) -> dict[str, Any]:
    """Return the arguments that are not None, so that the others keep their defaults."""
    return {key: value for key, value in values.items() if value is not None}


def storage_of(where: str, storage_path: Any, local_dir: Any) -> Any:
    """Return the storage path, which may have been given by its older name.

    Raises:
        ConfigError: both were given to ``where``.
    """
    if storage_path is not None and local_dir is not None:
        raise ConfigError(
            f"{where}: storage_path is {storage_path!r} and local_dir is {local_dir!r}; give only storage_path."
        )
    return local_dir if storage_path is None else storage_path


def _checkpoint_config(
    config: CheckpointConfig | None, keep: int | None, score: str | None, frequency: int, at_end: bool
) -> CheckpointConfig | None:
    """Return what is kept, from the newer argument or the older ones."""
    older: dict[str, Any] = {}
    if keep is not None:
        older["num_to_keep"] = keep
    if score is not None:
        smaller_is_better = score.startswith("min-")
        older["checkpoint_score_attribute"] = score.removeprefix("min-").removeprefix("max-")
        older["checkpoint_score_order"] = "min" if smaller_is_better else "max"
    if frequency:
        older["checkpoint_frequency"] = frequency
    if at_end:
        older["checkpoint_at_end"] = at_end
    if older and config is not None:
        raise ConfigError(
            f"tune.run: checkpoint_config and the older arguments for {', '.join(older)} exclude each other. Put all "
            f"into tune.CheckpointConfig(...)."
        )
    return CheckpointConfig(**older) if older else config


def _failures(grid: ResultGrid) -> str:
    """Return what a TuneError says."""
    failed = [result for result in grid if result.error is not None]
    lines = [f"{len(failed)} of {len(grid)} trials failed:"]
    for result in failed[:_ERRORS_SHOWN]:
        last_line = str(result.error).rstrip().rpartition("\n")[2].strip()
        lines.append(f"  {os.path.basename(result.path)}: {last_line}")
    if len(failed) > _ERRORS_SHOWN:
        lines.append(f"  and {len(failed) - _ERRORS_SHOWN} more")
    others = "The others trained to their end. " if len(failed) < len(grid) else ""
    lines.append(
        f"Tracebacks are in the error.txt of each. {others}tune.ExperimentAnalysis({grid.experiment_path!r}) reads all "
        f"results. With tune.run(..., "
        f"raise_on_failed_trial=False) failed trials are no error."
    )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------ resuming


@dataclass(frozen=True, slots=True)
class _Resume:
    """What ``resume`` asks for."""

    must_exist: bool
    unfinished: bool = True
    errored: bool = False
    restart: bool = False


_SUFFIXES = {
    "ERRORED": {"errored": True},
    "RESTART_ERRORED": {"restart": True},
    "ERRORED_ONLY": {"errored": True, "unfinished": False},
    "RESTART_ERRORED_ONLY": {"restart": True, "unfinished": False},
}


def _parse_resume(resume: bool | str | None) -> _Resume | None:
    if resume is None or resume is False:
        return None
    words = ["LOCAL"] if resume is True else str(resume).upper().split("+")
    if words[0] in _SUFFIXES:
        words.insert(0, "LOCAL")
    if words[0] not in ("LOCAL", "AUTO") or not set(words[1:]) <= set(_SUFFIXES):
        raise ConfigError(
            f"tune.run: resume must be True, False, 'LOCAL' or 'AUTO', the latter two with "
            f"{', '.join('+' + suffix for suffix in _SUFFIXES)} or without, but is {resume!r}."
        )
    asked: dict[str, bool] = {}
    for suffix in words[1:]:
        asked.update(_SUFFIXES[suffix])
    return _Resume(must_exist=words[0] == "LOCAL", **asked)


def _restored(resume: _Resume | None, trainable: Callable[..., Any], settings: dict[str, Any]) -> Tuner | None:
    """Return a tuner that goes on with the experiment, or None to begin anew.

    Raises:
        ConfigError: there must be an experiment, and there is none; or no name was given to find it by.
        JournalError: there is one that cannot go on. It is not to be taken for none.
    """
    from .restore import holds_experiment

    if resume is None:
        return None
    run_config: RunConfig = settings["run_config"]
    if run_config.name is None:
        raise ConfigError(
            "tune.run: resume needs the name of the experiment, tune.run(..., name='pbt_test', resume=...), because a "
            "name made of the time is never the same again."
        )
    location = location_of(join(storage_root(run_config), run_config.name))
    if not holds_experiment(location):
        if not resume.must_exist:
            return None
        raise ConfigError(
            f"tune.run: there is no experiment to resume in {location}. Check name and storage_path, or give "
            f"resume='AUTO' to begin anew where there is none."
        )
    tune_config: TuneConfig = settings["tune_config"]
    return Tuner.restore(
        str(location),
        trainable,
        resume_unfinished=resume.unfinished,
        resume_errored=resume.errored,
        restart_errored=resume.restart,
        param_space=settings["param_space"],
        run_config=run_config,
        tune_config=_without_old_budget(tune_config, location),
    )


def _without_old_budget(tune: TuneConfig, location: Location) -> TuneConfig:
    """Return the settings without a time budget that is the same as before.

    The same script, run again, would otherwise train on each time, although its budget was spent.
    """
    from .restore import stored_facts

    if tune.time_budget_s is None:
        return tune
    before = stored_facts(location).get("time_budget_s")
    return tune if tune.time_budget_s != before else dataclasses.replace(tune, time_budget_s=None)


# ---------------------------------------------------------------------------------------------- trainables, schedulers

_registered: dict[str, Callable[..., Any]] = {}


def register_trainable(name: str, trainable: Callable[..., Any]) -> None:
    """Give a trainable a name for :func:`run`: ``tune.run("my_trainable")``. A second one replaces the first.

    Raises:
        ConfigError: the name is no text, or the trainable cannot be called.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"register_trainable: name must be a text, but is {name!r}.")
    if not callable(trainable):
        raise ConfigError(f"register_trainable: {name!r} must be a function or a class, but is {trainable!r}.")
    _registered[name] = trainable


def find_trainable(trainable: Any) -> Any:
    """Return the trainable of a name; what is no name as it is.

    Raises:
        ConfigError: there is none of that name.
    """
    if not isinstance(trainable, str):
        return trainable
    if trainable not in _registered:
        known = f"Registered: {', '.join(map(repr, _registered))}." if _registered else "None is registered."
        raise ConfigError(
            f"There is no trainable {trainable!r}.{did_you_mean(trainable, _registered)} {known} Give a function "
            f"train(config) or a subclass of tune.Trainable, or register one with tune.register_trainable(name, "
            f"trainable). The algorithms of RLlib, such as 'PPO', are not part of Shoal."
        )
    return _registered[trainable]


_SCHEDULERS = {
    "fifo": ("shoal.schedulers", "FIFOScheduler"),
    "pbt": ("shoal.schedulers", "PopulationBasedTraining"),
    "pbt_replay": ("shoal.replay", "PopulationBasedTrainingReplay"),
}


def create_scheduler(scheduler: str, **settings: Any) -> TrialScheduler:
    """Return a scheduler by its short name: ``create_scheduler("pbt", perturbation_interval=5, ...)``.

    Args:
        scheduler: ``fifo``, ``pbt`` or ``pbt_replay``.
        **settings: the arguments of the scheduler's class.

    Raises:
        ConfigError: there is no such scheduler, or an argument is wrong.
    """
    key = scheduler.lower() if isinstance(scheduler, str) else scheduler
    if key not in _SCHEDULERS:
        raise ConfigError(
            f"create_scheduler: Shoal has no scheduler {scheduler!r}.{did_you_mean(str(key), _SCHEDULERS)} It has: "
            f"{', '.join(map(repr, _SCHEDULERS))}."
        )
    home, name = _SCHEDULERS[key]
    made: TrialScheduler = getattr(importlib.import_module(home), name)(**settings)
    return made


# ------------------------------------------------------------------------------------------ what only Ray Tune has

_NAMES_ARE_FIXED = "Trials are called <trainable>_<trial_id>; leave it out, and use trial.trial_id or get_context()"
_ABSENT: dict[str, tuple[tuple[Any, ...], str]] = {
    # name: Ray Tune's default and what comes to the same; what to do instead
    "search_alg": (
        (None, "random", "variant_generator"),
        "Shoal samples at random and by grid. Leave it out; for its max_concurrent use max_concurrent_trials",
    ),
    "storage_filesystem": ((None,), "fsspec finds the file system by the URL: give that as storage_path"),
    "sync_config": ((None,), "A storage_path that is a URL is kept up to date by itself. Leave it out"),
    "trial_name_creator": ((None,), _NAMES_ARE_FIXED),
    "trial_dirname_creator": ((None,), _NAMES_ARE_FIXED),
    "export_formats": ((None, [], ()), "Save what you want to keep with tune.report(..., checkpoint=...)"),
    "restore": ((None,), "To begin with given weights, load them in the trainable from a path in the config"),
    "resume_config": ((None,), "See the suffixes of tune.run(resume=...), or Tuner.restore"),
    "server_port": ((None, 4321), "There is no server"),
    "chdir_to_trial_dir": (
        (None, True, False, "DEPRECATED"),
        "Members work in the folder that the script was started in; get_context().get_trial_dir() is the trial's",
    ),
    "checkpoint_keep_all_ranks": ((False,), "A trial is one process. Leave it out"),
    "checkpoint_upload_from_workers": ((False,), "Checkpoints go to storage by themselves. Leave it out"),
    "loggers": ((None,), "Give tune.logger callbacks as callbacks=[...]"),
    "trial_executor": ((None,), "Leave it out"),
}


def check_absent(where: str, given: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Refuse arguments that only Ray Tune has, unless they are at Ray Tune's default, and those that nobody has.

    Args:
        where: what was called.
        given: arguments that it does not take.
        allowed: those that it takes.

    Raises:
        ConfigError: see above; it says what to do instead.
    """
    for name, value in given.items():
        if name not in _ABSENT:
            raise ConfigError(
                f"{where} has no argument {name!r}.{did_you_mean(name, allowed)} It takes: {', '.join(allowed)}."
            )
        defaults, advice = _ABSENT[name]
        # By type as well: 0 is not False here.
        if not any(type(value) is type(default) and value == default for default in defaults):
            raise ConfigError(f"{where}: Shoal has no {name} (it is {value!r:.100}). {advice}.")
