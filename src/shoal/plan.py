"""The plan of an experiment: all that follows from the user's settings, before anything is written or started."""

from __future__ import annotations

import os
import secrets
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import runtime
from .config import ENGINES, CheckpointConfig, FailureConfig, RunConfig, TuneConfig
from .core.events import TrialAdded
from .core.population import Limits, Population
from .core.reports import ReportRules
from .core.retention import RetentionRules
from .engines.pickling import check_config
from .errors import ConfigError, did_you_mean
from .experiment import ExperimentInfo
from .naming import experiment_name, folder_name, tag_of, trainable_name, trial_id
from .resources import FILES_OF_A_RESIDENT, open_files_allowed, resources_of
from .schedulers import FIFOScheduler, TrialScheduler
from .space import Variant, check_space, expand

if TYPE_CHECKING:
    from .driver import Stopper

__all__ = ["Plan", "make_plan"]

_RESIDENT_BYTES = 256 << 20
"""What a parked member is taken to need, where the user does not say how many there may be."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about an experiment that is decided before anything is written."""

    info: ExperimentInfo
    trainable: Callable[..., Any]
    trials: list[TrialAdded]
    population: Population
    rules: ReportRules
    devices: list[str]
    stopper: Stopper | None
    raises: bool


def make_plan(trainable: Callable[..., Any], space: dict[str, Any], tune: TuneConfig, run: RunConfig) -> Plan:
    """Return all that follows from the settings.

    Raises:
        ConfigError: they do not fit together.
        EngineError: one trial asks for more than the machine has.
    """
    now = time.time()
    scheduler = tune.scheduler or FIFOScheduler()
    metric, mode = _goal(tune, scheduler)
    engine = _engine_name(tune)
    seed = secrets.randbits(32) if tune.seed is None else tune.seed
    check_space(space)
    scheduler.check(space)
    cpus, gpus = resources_of(trainable)
    devices = [""] if engine == "inline" else runtime.slots(cpus, gpus, tune.max_concurrent_trials)
    name = trainable_name(trainable)
    run_id = secrets.token_hex(3)[:5]
    variants = expand(space, tune.num_samples, seed, check=False)
    trials = [_trial(name, run_id, index, variant, scheduler, seed, now) for index, variant in enumerate(variants)]
    check_config(trials[0].config)
    scheduler.rehearse(trials[0].config, seed)
    stop = dict(run.stop) if isinstance(run.stop, Mapping) else {}
    _warn_about_stop(stop, metric, mode)
    stopper = _stopper(run.stop)
    sampled = [path for variant in variants for path in variant.sampled]
    info = ExperimentInfo(
        name=run.name or experiment_name(name, run_id, now),
        trainable=name,
        run_id=run_id,
        metric=metric,
        mode=mode,
        time_attr=scheduler.time_attr,
        scheduler=scheduler.describe(),
        logs_policies=scheduler.logs_policies,
        num_trials=len(trials),
        slots=len(devices),
        cpus=cpus,
        gpus=gpus,
        engine=engine,
        seed=seed,
        parameters=list(dict.fromkeys([*sampled, *scheduler.mutated()])),
        stop=stop,
        time_budget_s=None if tune.time_budget_s is None else float(tune.time_budget_s),  # type: ignore[arg-type]
        started_at=now,
    )
    rules = ReportRules(
        metric=metric,
        time_attr=scheduler.time_attr,
        required=scheduler.require_attrs,
        stop=stop,
        always_wait=stopper is not None,
        rank=(run.checkpoint_config or CheckpointConfig()).checkpoint_score_attribute,
    )
    population = _population(info, scheduler, devices, tune, run)
    raises = (run.failure_config or FailureConfig()).fail_fast == "raise"
    return Plan(info, trainable, trials, population, rules, devices, stopper, raises)


def _goal(tune: TuneConfig, scheduler: TrialScheduler) -> tuple[str | None, str]:
    """Return what is compared, and whether larger or smaller is better."""
    metric = _agreed("metric", tune.metric, scheduler.metric, scheduler)
    mode = _agreed("mode", tune.mode, scheduler.mode, scheduler)
    if metric is not None and mode is None:
        raise ConfigError(f"TuneConfig(metric={metric!r}) needs mode: 'max' (larger is better) or 'min'.")
    return metric, mode or "max"


def _trial(
    trainable: str, run_id: str, index: int, variant: Variant, scheduler: TrialScheduler, seed: int, now: float
) -> TrialAdded:
    identity = trial_id(run_id, index)
    name = f"{trainable}_{identity}"
    tag = tag_of(index, variant.sampled)
    config = scheduler.prepare(variant.config, index, seed)
    return TrialAdded(identity, index, name, tag, folder_name(name, tag, now), config)


def _warn_about_stop(stop: Mapping[str, float], metric: str | None, mode: str) -> None:
    if metric is not None and metric in stop and mode == "min":
        bound = stop[metric]
        warnings.warn(
            f"RunConfig(stop={stop}) ends a trial when {metric} is AT LEAST {bound}, although mode is 'min'. To stop "
            f"when "
            f"it is small enough: stop=lambda trial_id, result: result[{metric!r}] <= {bound}.",
            stacklevel=4,
        )


def _population(
    info: ExperimentInfo, scheduler: TrialScheduler, devices: list[str], tune: TuneConfig, run: RunConfig
) -> Population:
    checkpoints = run.checkpoint_config or CheckpointConfig()
    failures = run.failure_config or FailureConfig()
    return Population(
        scheduler.policy(mode=info.mode, seed=info.seed),
        metric=info.metric,
        time_attr=info.time_attr,
        limits=Limits(
            devices=devices,
            residents=tune.max_residents or _residents(len(devices), info.gpus),
            max_failures=failures.max_failures,
            fail_fast=bool(failures.fail_fast),
        ),
        retention=RetentionRules(
            checkpoints.num_to_keep, checkpoints.checkpoint_score_attribute, checkpoints.checkpoint_score_order
        ),
    )


def _agreed(what: str, ours: str | None, theirs: str | None, scheduler: TrialScheduler) -> str | None:
    """Return what TuneConfig and the scheduler say, which must not contradict."""
    if ours is not None and theirs is not None and ours != theirs:
        raise ConfigError(
            f"TuneConfig says {what}={ours!r}, but {scheduler.describe()} says {what}={theirs!r}. Give it in one place."
        )
    if ours is None and theirs is None and scheduler.needs_metric:
        example = "'mean_accuracy'" if what == "metric" else "'max'"
        raise ConfigError(
            f"{scheduler.describe()} needs {what}. Give it as TuneConfig({what}={example}) or to the scheduler."
        )
    return theirs if ours is None else ours


def _engine_name(tune: TuneConfig) -> str:
    if tune.engine is not None:
        return tune.engine
    name = os.environ.get("SHOAL_ENGINE", "").strip() or ENGINES[0]
    if name not in ENGINES:
        raise ConfigError(
            f"The environment variable SHOAL_ENGINE must be one of {', '.join(map(repr, ENGINES))}, but is {name!r}."
            f"{did_you_mean(name, ENGINES)}"
        )
    return name


def _stopper(stop: object) -> Stopper | None:
    if stop is None or isinstance(stop, Mapping):
        return None
    assert callable(stop)
    return stop if callable(getattr(stop, "stop_all", None)) else _FunctionStopper(stop)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class _FunctionStopper:
    function: Callable[[str, dict[str, Any]], bool]

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return bool(self.function(trial_id, result))

    def stop_all(self) -> bool:
        return False

    @property
    def name(self) -> str:
        """What an error calls it."""
        return trainable_name(self.function)


def _residents(slots: int, gpus: float) -> int:
    """How many members may keep a process, where the user does not say."""
    if gpus > 0:
        # A parked member keeps its share of the GPU's memory, and nobody knows how much that is.
        return slots
    import psutil

    by_memory = int(psutil.virtual_memory().available / 2 / _RESIDENT_BYTES)
    return max(slots, min(by_memory, open_files_allowed() // FILES_OF_A_RESIDENT))
