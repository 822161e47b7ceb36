"""What a user sets: the classes behind ``Tuner``'s arguments, checked when they are made."""

from __future__ import annotations

import datetime
import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import runtime
from .applied import CheckApplied
from .arguments import check_arguments
from .errors import ConfigError, did_you_mean
from .location import check_slashes
from .schedulers.base import TrialScheduler, check_mode

__all__ = ["CheckpointConfig", "FailureConfig", "RunConfig", "TuneConfig"]


def _fail(owner: object, name: str, allowed: str) -> ConfigError:
    value = getattr(owner, name)
    return ConfigError(f"{type(owner).__name__}: {name} must be {allowed}, but is {value!r} ({type(value).__name__}).")


def _check_int(owner: object, name: str, allowed: str, *, least: int, none: bool = False) -> None:
    value = getattr(owner, name)
    if value is None and none:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _fail(owner, name, allowed)


def _check_bool(owner: object, name: str) -> None:
    if not isinstance(getattr(owner, name), bool):
        raise _fail(owner, name, "True or False")


def _seconds(owner: object, name: str) -> float | None:
    """Return a number of seconds, which may be given as a timedelta, or None."""
    given = getattr(owner, name)
    seconds = given.total_seconds() if isinstance(given, datetime.timedelta) else given
    if seconds is None:
        return None
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds > 0:
        raise _fail(owner, name, "a number of seconds greater than 0, or None")
    return seconds


def _check_text(owner: object, name: str) -> None:
    value = getattr(owner, name)
    if value is not None and (not isinstance(value, str) or not value):
        raise _fail(owner, name, "a text or None")


@check_arguments
@dataclass
class CheckpointConfig:
    """Which checkpoints are kept.

    Args:
        num_to_keep: how many checkpoints each trial keeps, 1 or more: its own, and, from an exploit to its next own,
            the donor's that it goes on from; of a class trainable also the one that only Shoal needs, at the newest
            boundary. Any that another trial still goes on from stays, too. Default: all.
        checkpoint_score_attribute: keep the best by this key of the report, and beside them the newest and the one that
            the trial goes on from. Default: keep the newest.
        checkpoint_score_order: ``max`` (default) or ``min``.
        checkpoint_frequency: a class trainable saves after so many iterations; 0 (default): only where somebody needs
            one, and such a checkpoint goes when nobody does any more. A function saves by itself.
        checkpoint_at_end: whether a class trainable saves when it ends by its stop condition, by a stopper or because
            it is done. Default False. Where the whole experiment is ended, members are not asked.
    """

    num_to_keep: int | None = None
    checkpoint_score_attribute: str | None = None
    checkpoint_score_order: str = "max"
    checkpoint_frequency: int = 0
    checkpoint_at_end: bool | None = None

    def __post_init__(self) -> None:
        _check_int(self, "checkpoint_frequency", "a whole number of iterations, or 0", least=0)
        if self.checkpoint_at_end not in (None, True, False) or isinstance(self.checkpoint_at_end, (int, float)) != (
            isinstance(self.checkpoint_at_end, bool)
        ):
            raise _fail(self, "checkpoint_at_end", "True or False")
        _check_int(self, "num_to_keep", "a whole number of 1 or more, or None to keep all", least=1, none=True)
        _check_text(self, "checkpoint_score_attribute")
        if self.checkpoint_score_order not in ("max", "min"):
            raise _fail(self, "checkpoint_score_order", "'max' or 'min'")


@check_arguments
@dataclass
class FailureConfig:
    """What happens when a member fails.

    Args:
        max_failures: how often a trial is launched again from its last checkpoint; -1: always, until it has failed 20
            times in a row without a single report. Default 0. A process that ends because the parent of all members'
            processes has died is no failure, unless that happens 3 times in a row before the trial gets any further.
        fail_fast: True ends the experiment with the first trial that has failed for good; ``"raise"`` also raises that
            trial's error from ``fit()``. Default False: the others go on.
        replace_failed: whether a trial that has failed for good copies a trial of the top quantile, as one with a low
            score does, and goes on, so that the population keeps its size. Needs a scheduler that copies
            (PopulationBasedTraining) and a donor with a checkpoint. Where no other trial has one yet, it waits for the
            first; where none can come any more, it ends with its error, which says why. It never goes on from its own,
            from which it has failed. A trial that fails again and again without getting further than before ends,
            too. Default True.
        report_timeout_s: a member that trains and reports nothing for so many seconds (or a timedelta) has failed: its
            process is killed. It has to hold for the longest time between two reports, saving included, and for what
            comes before the first. Default: no limit.
    """

    max_failures: int = 0
    fail_fast: bool | str = False
    replace_failed: bool = True
    report_timeout_s: float | datetime.timedelta | None = None

    def __post_init__(self) -> None:
        _check_bool(self, "replace_failed")
        self.report_timeout_s = _seconds(self, "report_timeout_s")
        _check_int(self, "max_failures", "a whole number, -1 for no limit", least=-1)
        if self.fail_fast not in (True, False, "raise") or isinstance(self.fail_fast, (int, float)) != isinstance(
            self.fail_fast, bool
        ):
            raise _fail(self, "fail_fast", "True, False or 'raise'")
        if self.fail_fast and self.max_failures != 0:
            raise ConfigError("FailureConfig: fail_fast and max_failures exclude each other; give one of them.")


@check_arguments
@dataclass
class RunConfig:
    """Where and how long an experiment runs.

    Args:
        name: the experiment's name and the name of its folder. Default: the function's name and the time.
        storage_path: the folder that experiments are in, or the URL of one in object storage, such as
            ``s3://bucket/runs`` or ``gs://bucket/runs``: any that fsspec knows, with the credentials that it finds in
            the environment. With a URL the run works in a folder of this machine and is copied to storage all the
            while; see :mod:`shoal.location`. Default: the environment variable ``SHOAL_DIR``, else
            ``./shoal_results``.
        stop: when a trial ends: a dict (``{"mean_accuracy": 0.96, "training_iteration": 50}``: with the first report in
            which one of the keys is at least its value), a function ``(trial_id, result) -> bool``, or a stopper: such
            a function with a method ``stop_all() -> bool``. Default: when the function returns.
        checkpoint_config: which checkpoints are kept.
        failure_config: what happens when a member fails.
        callbacks: :class:`shoal.tune.Callback` objects.
        verbose: 0 silent, 1 status (default), 2 also each exploit, 3 also each result.
        log_to_file: whether what a member prints is also written to ``output.log`` in its folder. Default True.
    """

    name: str | None = None
    storage_path: str | Path | None = None
    stop: Mapping[str, float] | Callable[[str, dict[str, Any]], bool] | None = None
    checkpoint_config: CheckpointConfig | None = None
    failure_config: FailureConfig | None = None
    callbacks: Sequence[Any] | None = None
    verbose: int = 1
    log_to_file: bool = True

    def __post_init__(self) -> None:
        _check_text(self, "name")
        if self.name is not None and (self.name in (".", "..") or "/" in self.name or "\0" in self.name):
            raise _fail(
                self, "name", "the name of a folder, without '/'; give the folder that it is in as storage_path"
            )
        if self.storage_path is not None and (
            not isinstance(self.storage_path, (str, Path)) or not str(self.storage_path)
        ):
            raise _fail(self, "storage_path", "the path of a folder, or a URL such as 's3://bucket/runs'")
        if self.storage_path is not None:
            check_slashes("RunConfig: storage_path", self.storage_path)
        for name, kind in (("checkpoint_config", CheckpointConfig), ("failure_config", FailureConfig)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise _fail(self, name, f"a tune.{kind.__name__}(...)")
        _check_stop(self)
        callbacks = self.callbacks
        if callbacks is not None and (isinstance(callbacks, (str, Mapping)) or not isinstance(callbacks, Sequence)):
            raise _fail(self, "callbacks", "a list of tune.Callback objects")
        _check_int(self, "verbose", "0, 1, 2 or 3", least=0)
        if self.verbose > 3:
            raise _fail(self, "verbose", "0, 1, 2 or 3")
        _check_bool(self, "log_to_file")


def storage_root(run: RunConfig) -> str:
    """Return the folder or the URL that experiments are in: as given, or ``SHOAL_DIR``, or ``./shoal_results``.

    Raises:
        ConfigError: the variable holds a URL that has lost a slash.
    """
    if run.storage_path is not None:
        return str(run.storage_path)
    found = os.environ.get("SHOAL_DIR") or "shoal_results"
    check_slashes("The environment variable SHOAL_DIR", found)
    return found


def _check_stop(config: RunConfig) -> None:
    stop = config.stop
    if stop is None:
        return
    if callable(stop):
        if inspect.isclass(stop):
            raise _fail(config, "stop", "an object; add parentheses to make one of this class")
        try:
            inspect.signature(stop).bind("trial_id", {})
        except ValueError:
            pass  # a built-in function without a signature
        except TypeError as error:
            raise _fail(
                config, "stop", f"a function (trial_id, result) -> bool, but it takes others: {error}"
            ) from error
        return
    if not isinstance(stop, Mapping):
        raise _fail(
            config,
            "stop",
            "a dict such as {'training_iteration': 50}, a function (trial_id, result) -> bool, or a stopper",
        )
    for key, value in stop.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
        if not isinstance(key, str) or not number:
            raise ConfigError(
                f"RunConfig: stop must give a number for each key of the report, such as {{'training_iteration': "
                f"50}}, but "
                f"has {key!r}: {value!r}."
            )


@check_arguments
@dataclass
class TuneConfig:
    """What is optimised, how large the population is and who decides.

    Args:
        metric: the key of a report that is compared. May be given to the scheduler instead.
        mode: ``max`` (larger is better) or ``min``; needed with a metric. May be given to the scheduler instead.
        scheduler: who decides, for example :class:`shoal.tune.schedulers.PopulationBasedTraining`. Default: FIFO.
        num_samples: how many members; with ``grid_search`` in the space, how often the grid is repeated. Default 1.
        max_concurrent_trials: at most so many members run at a time. Default: as many as the machine has slots for.
        time_budget_s: the experiment ends after so many seconds, or a timedelta. Default: no limit.
        seed: of sampling and of all decisions. Default: drawn at random, and recorded.
        engine: ``processes`` (each member in a process of its own), ``inline`` (all in this process, one at a time,
            for ``breakpoint()``) or ``ray`` (on a Ray cluster; needs ``shoal[ray]``); or the class of an engine of your
            own (see :mod:`shoal.engines`), or what else makes one when it is called. Default: the environment variable
            ``SHOAL_ENGINE``, else ``processes``.
        max_residents: how many members may keep a process at a time, running or parked. Those beyond leave through a
            checkpoint. Default: as many as fit in half of the free memory.
        reuse_actors: accepted as in Ray Tune, without effect: a member's process is always used again.
        control: so many members are kept out of all exploits: they copy nobody, and nobody copies them. They are drawn
            at random, and show what PBT gains over a random search. Default 0.
        check_applied: whether members check, after an exploit, that their torch optimizers step with the config's
            values, and say so where one has drifted. Default True; False: not at all; a
            :class:`shoal.tune.CheckApplied` says how keys are called, and whether a drift is an error.
    """

    metric: str | None = None
    mode: str | None = None
    scheduler: TrialScheduler | None = None
    num_samples: int = 1
    max_concurrent_trials: int | None = None
    time_budget_s: float | datetime.timedelta | None = None
    seed: int | None = None
    engine: str | Callable[[], Any] | None = None
    max_residents: int | None = None
    reuse_actors: bool | None = None
    check_applied: bool | CheckApplied = True
    control: int = 0

    def __post_init__(self) -> None:
        _check_text(self, "metric")
        check_mode(self.mode, "TuneConfig")
        if self.scheduler is not None and not isinstance(self.scheduler, TrialScheduler):
            raise _fail(self, "scheduler", "a scheduler object, such as PopulationBasedTraining(...)")
        _check_int(self, "num_samples", "a whole number of 1 or more", least=1)
        _check_int(self, "control", "a whole number of members, 0 for none", least=0)
        _check_int(self, "max_concurrent_trials", "a whole number of 1 or more, or None", least=1, none=True)
        _check_int(self, "max_residents", "a whole number of 1 or more, or None", least=1, none=True)
        self.time_budget_s = _seconds(self, "time_budget_s")
        if self.seed is not None:
            _check_int(self, "seed", "a whole number or None", least=-(2**63))
        if not isinstance(self.check_applied, (bool, CheckApplied)):
            raise _fail(self, "check_applied", "True, False or a tune.CheckApplied(...)")
        if self.engine is not None and not callable(self.engine) and self.engine not in ENGINES:
            raise ConfigError(
                f"TuneConfig: engine must be one of {', '.join(map(repr, ENGINES))}, or the class of one of your own, "
                f"but is {self.engine!r}."
                f"{did_you_mean(str(self.engine), ENGINES)}"
            )


ENGINES = ("processes", "inline", "ray")
"""The engines that ``TuneConfig(engine=...)`` knows."""


def engine_name(tune: TuneConfig) -> str:
    """Return the engine's name: what the user set, or else that of the environment variable ``SHOAL_ENGINE``.

    One of the user's own is called as its class, ``module.Class``.

    Else it is ``ray`` where ``shoal.init`` was given a cluster, and ``processes`` where not.

    Raises:
        ConfigError: the variable names none.
    """
    if tune.engine is not None and not isinstance(tune.engine, str):
        named: Any = tune.engine if hasattr(tune.engine, "__qualname__") else type(tune.engine)
        return f"{named.__module__}.{named.__qualname__}"
    if tune.engine is not None:
        return tune.engine
    name = os.environ.get("SHOAL_ENGINE", "").strip() or ("ray" if runtime.has_cluster() else ENGINES[0])
    if name not in ENGINES:
        raise ConfigError(
            f"The environment variable SHOAL_ENGINE must be one of {', '.join(map(repr, ENGINES))}, but is {name!r}."
            f"{did_you_mean(name, ENGINES)}"
        )
    return name
