"""The plan of an experiment: all that follows from the user's settings, before anything is written or started."""

from __future__ import annotations

import inspect
import secrets
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import runtime
from .config import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, engine_name
from .core.events import Config, Event, Opened, TrialAdded
from .core.limits import Limits, RetentionRules
from .core.population import Population
from .core.reports import ReportRules, lookup
from .core.rng import stream
from .engines.pickling import check_config
from .errors import ConfigError
from .experiment import ExperimentInfo
from .history import History
from .naming import experiment_name, folder_name, tag_of, trainable_name, trial_id
from .resources import (
    FILES_OF_A_RESIDENT,
    Request,
    has_resources,
    memory_available,
    open_files_allowed,
    resources_of,
    with_resources,
)
from .schedulers import FIFOScheduler, TrialScheduler
from .space import Variant, check_space, expand, log_keys, same
from .stoppers import FunctionStopper
from .trainable import can_save

if TYPE_CHECKING:
    from .driver import Stopper

__all__ = [
    "Plan",
    "check_saving",
    "facts",
    "limits_of",
    "make_plan",
    "new_population",
    "retention_of",
    "rules_of",
    "stopper_of",
    "warn_about_stop",
]

_RESIDENT_BYTES = 256 << 20
"""What a parked member is taken to need, where the user does not say how many there may be."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about an experiment that is decided before anything is written."""

    info: ExperimentInfo
    trainable: Callable[..., Any]
    opened: Opened
    trials: list[TrialAdded]
    """All trials, also those that an earlier driver has added."""
    population: Population
    """The core, as the journal has left it so far."""
    history: History
    """What the journal tells so far."""
    rules: ReportRules
    stopper: Stopper | None
    raises: bool

    @property
    def idle(self) -> bool:
        """True where every trial has ended and none goes on."""
        ended = bool(self.population.trials) and self.population.ended
        return ended and not self.opened.again and not self.opened.anew

    @property
    def going_on(self) -> int:
        """How many trials have not ended, or begin again."""
        opened = self.opened
        ended = {trial_id for trial_id, trial in self.population.trials.items() if trial.status.ended}
        over = ended.difference(opened.again, opened.anew).union(opened.dropped)
        return sum(trial.trial_id not in over for trial in self.trials)

    @property
    def begin(self) -> list[Event]:
        """The first events of the run."""
        return [self.opened, *(trial for trial in self.trials if trial.trial_id not in self.population.trials)]


def make_plan(trainable: Callable[..., Any], space: dict[str, Any], tune: TuneConfig, run: RunConfig) -> Plan:
    """Return all that follows from the settings of a new experiment.

    Raises:
        ConfigError: they do not fit together.
        EngineError: one trial asks for more than the machine has.
    """
    now = time.time()
    scheduler = tune.scheduler or FIFOScheduler()
    metric, mode = _goal(tune, scheduler)
    seed = secrets.randbits(32) if tune.seed is None else tune.seed
    check_space(space)
    scheduler.check(space)
    check_saving(trainable, scheduler, run)
    name = trainable_name(trainable)
    run_id = secrets.token_hex(3)[:5]
    variants = expand(space, tune.num_samples, seed, check=False)
    trials = [_trial(name, run_id, index, variant, scheduler, seed, now) for index, variant in enumerate(variants)]
    check_config(trials[0].config)
    scheduler.rehearse(trials[0].config, seed)
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
        replay=scheduler.replays,
        num_trials=len(trials),
        seed=seed,
        parameters=list(dict.fromkeys([*sampled, *scheduler.mutated()])),
        log_parameters=sorted({*log_keys(space), *scheduler.log_keys()}),
        exploits=scheduler.controls,
        control=_control(tune.control, trials, scheduler, seed),
        started_at=now,
        **facts(trainable, trials[0].config, tune, run),
    )
    warn_about_stop(info.stop, metric, mode)
    return Plan(
        info=info,
        trainable=trainable,
        opened=Opened(limits_of(info, tune, run), retention_of(run)),
        trials=trials,
        population=new_population(info, scheduler),
        history=History(keep_rows=False),
        rules=rules_of(info, scheduler, run),
        stopper=stopper_of(run.stop),
        raises=(run.failure_config or FailureConfig()).fail_fast == "raise",
    )


def _control(count: int, trials: Sequence[TrialAdded], scheduler: TrialScheduler, seed: int) -> list[int]:
    """Return the numbers of the trials that are kept out of exploits: drawn, because a grid's last ones are alike.

    Of members that may copy each other at least two are left.

    Raises:
        ConfigError: so many cannot be kept out.
    """
    if not count:
        return []
    if not scheduler.controls:
        raise ConfigError(
            f"TuneConfig(control={count}) keeps members out of exploits, but {scheduler.describe()} makes none. Leave "
            f"it out, or give a PopulationBasedTraining."
        )
    kin = {trial.index: scheduler.kin(trial.config) for trial in trials}
    left = Counter(kin.values())
    drawn = stream(seed, "control").sample(range(len(trials)), len(trials))
    chosen: list[int] = []
    while len(chosen) < count:
        # From the largest group that is left, so that none is used up before others.
        free = [index for index in drawn if index not in chosen and left[kin[index]] > 2]
        if not free:
            groups = "" if len(left) == 1 else f", in {len(left)} groups by the values of fixed"
            raise ConfigError(
                f"TuneConfig(control={count}) keeps {count} of {len(trials)} members out of exploits{groups}, and at "
                f"least two have to be left that can copy each other. At most {len(chosen)} can be kept out; give more "
                f"num_samples."
            )
        most = max(left[kin[index]] for index in free)
        index = next(index for index in free if left[kin[index]] == most)
        left[kin[index]] -= 1
        chosen.append(index)
    return sorted(chosen)


def facts(trainable: Callable[..., Any], config: Config, tune: TuneConfig, run: RunConfig) -> dict[str, Any]:
    """Return the fields of ExperimentInfo that may be others when the experiment goes on."""
    engine = engine_name(tune)
    request = resources_of(_with_own_request(trainable, config))
    if engine == "inline":
        devices = runtime.slots(Request(custom=request.custom), 1)
    elif engine == "ray" or _says(tune, "brings_slots"):
        devices = []  # the engine tells of slots as the cluster grants them
    else:
        devices = runtime.slots(request, tune.max_concurrent_trials)
    budget = tune.time_budget_s
    return {
        "slots": len(devices),
        "devices": devices,
        "cpus": request.cpus,
        "gpus": request.gpus,
        "memory": request.memory,
        "custom": dict(request.custom),
        "engine": engine,
        "stop": dict(run.stop) if isinstance(run.stop, Mapping) else {},
        "time_budget_s": None if budget is None else float(budget),  # type: ignore[arg-type]
        "versions": _versions(),
    }


_WORTH_A_VERSION = ("torch", "tensorflow", "jax", "flax", "keras", "sklearn", "xgboost", "numpy")


def _versions() -> dict[str, str]:
    """Return what the experiment is run with."""
    from . import __version__

    found = {"shoal": __version__, "python": ".".join(map(str, sys.version_info[:3]))}
    for name in _WORTH_A_VERSION:
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            found[name] = str(version)
    return found


def _with_own_request(trainable: Callable[..., Any], config: Config) -> Callable[..., Any]:
    """A class may say by itself what a trial takes, unless ``with_resources`` has said it."""
    own = getattr(trainable, "default_resource_request", None) if inspect.isclass(trainable) else None
    request: Any = own(config) if callable(own) and not has_resources(trainable) else None
    return trainable if request is None else with_resources(trainable, request)


def new_population(info: ExperimentInfo, scheduler: TrialScheduler) -> Population:
    """Return the core of an experiment, before its first event."""
    # Only where there are some, so that a scheduler that knows of none need not take the argument.
    control = {"control": frozenset(info.control)} if info.control else {}
    policy = scheduler.policy(mode=info.mode, seed=info.seed, **control)
    return Population(policy, metric=info.metric, time_attr=info.time_attr)


def limits_of(info: ExperimentInfo, tune: TuneConfig, run: RunConfig) -> Limits:
    """Return what the machine and the user allow."""
    failures = run.failure_config or FailureConfig()
    return Limits(
        devices=info.devices,
        # On a cluster, each node says for how many it has room.
        residents=tune.max_residents
        or (0 if info.engine == "ray" or _says(tune, "brings_slots") else _residents(info)),
        max_failures=failures.max_failures,
        fail_fast=bool(failures.fail_fast),
        save_at_end=bool((run.checkpoint_config or CheckpointConfig()).checkpoint_at_end),
        replace_failed=failures.replace_failed,
        hands_on=info.engine in ("processes", "ray") or _says(tune, "hands_on"),
    )


def _says(tune: TuneConfig, what: str) -> bool:
    """Return what an engine of the user's own says of itself, see :class:`shoal.engines.Engine`."""
    return bool(getattr(tune.engine, what, False))


def retention_of(run: RunConfig) -> RetentionRules:
    """Return which checkpoints are kept."""
    checkpoints = run.checkpoint_config or CheckpointConfig()
    return RetentionRules(
        checkpoints.num_to_keep, checkpoints.checkpoint_score_attribute, checkpoints.checkpoint_score_order
    )


def rules_of(info: ExperimentInfo, scheduler: TrialScheduler, run: RunConfig) -> ReportRules:
    """Return what every report must hold, and what makes it wait."""
    checkpoints = run.checkpoint_config or CheckpointConfig()
    return ReportRules(
        metric=info.metric,
        time_attr=info.time_attr,
        required=scheduler.require_attrs,
        stop=info.stop,
        always_wait=stopper_of(run.stop) is not None,
        rank=checkpoints.checkpoint_score_attribute,
        save_every=checkpoints.checkpoint_frequency,
        save_at_end=bool(checkpoints.checkpoint_at_end),
    )


def check_saving(trainable: Callable[..., Any], scheduler: TrialScheduler, run: RunConfig) -> None:
    """Raise ConfigError where checkpoints are asked for that nobody can save."""
    checkpoints = run.checkpoint_config or CheckpointConfig()
    asked = [
        f"{name}={value!r}"
        for name in ("checkpoint_frequency", "checkpoint_at_end")
        if (value := getattr(checkpoints, name))
    ]
    if not inspect.isclass(trainable):
        if asked:
            raise ConfigError(
                f"CheckpointConfig({asked[0]}) is for class trainables. A function saves by itself, every so many "
                f"iterations: tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))."
            )
        return
    if not can_save(trainable) and (asked or scheduler.needs_checkpoints):
        who = f"CheckpointConfig({asked[0]})" if asked else scheduler.describe()
        raise ConfigError(
            f"{who} needs checkpoints, but the class {trainable.__name__} has no save_checkpoint(checkpoint_dir) or no "
            f"load_checkpoint(checkpoint). Write both."
        )


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
    config = scheduler.prepare(variant.config, index, seed)
    sampled = variant.sampled
    if scheduler.replays:
        # It has values of its own for some of what the space would sample.
        sampled = {path: value for path, value in sampled.items() if same(lookup(config, path), value)}
    tag = tag_of(index, sampled)
    return TrialAdded(identity, index, name, tag, folder_name(name, tag, now), config)


def warn_about_stop(stop: Mapping[str, float], metric: str | None, mode: str) -> None:
    if metric is not None and metric in stop and mode == "min":
        bound = stop[metric]
        warnings.warn(
            f"RunConfig(stop={dict(stop)}) ends a trial when {metric} is AT LEAST {bound}, although mode is 'min'. To "
            f"stop when it is small enough: stop=lambda trial_id, result: result[{metric!r}] <= {bound}.",
            stacklevel=4,
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


def stopper_of(stop: object) -> Stopper | None:
    if stop is None or isinstance(stop, Mapping):
        return None
    assert callable(stop)
    return stop if callable(getattr(stop, "stop_all", None)) else FunctionStopper(stop)  # type: ignore[return-value]


def _residents(info: ExperimentInfo) -> int:
    """How many members may keep a process, where the user does not say."""
    if info.gpus > 0:
        # A parked member keeps its share of the GPU's memory, and nobody knows how much that is.
        return info.slots
    by_memory = memory_available() // (info.memory or 2 * _RESIDENT_BYTES)
    return max(info.slots, min(by_memory, open_files_allowed() // FILES_OF_A_RESIDENT))
