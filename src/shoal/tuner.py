"""The Tuner: checks what the user gave, wires the parts together, and returns the results. No logic of its own."""

from __future__ import annotations

import inspect
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import runtime
from .config import ENGINES, CheckpointConfig, FailureConfig, RunConfig, TuneConfig, check_arguments
from .core.events import TrialAdded
from .core.population import Limits, Population
from .core.reports import ReportRules
from .core.retention import RetentionRules
from .errors import ConfigError, ExperimentExists, StorageError, did_you_mean
from .experiment import ExperimentInfo
from .naming import experiment_name, folder_name, tag_of, trainable_name, trial_id
from .resources import make_slots, resources_of
from .schedulers import FIFOScheduler, TrialScheduler
from .space import check_space, expand

if TYPE_CHECKING:
    from .driver import Driver, Status, Stopper
    from .engines import Engine
    from .results import ResultGrid

__all__ = ["Tuner"]

_RESIDENT_BYTES = 256 << 20
"""What a parked member is taken to need, where the user does not say how many there may be."""


@check_arguments
class Tuner:
    """Trains a population and returns its results.

    Args:
        trainable: the function that trains one member: ``train(config)``, which calls ``tune.report(metrics, checkpoint=)``
            once an iteration.
        param_space: the config of a member: constants, distributions (``tune.uniform(...)``), ``tune.grid_search([...])``,
            nested dicts and lists of these.
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
        if param_space is not None and not isinstance(param_space, Mapping):
            raise ConfigError(f"Tuner: param_space must be a dict such as {{'lr': tune.uniform(0, 1)}}, but is {param_space!r}.")
        for name, value, kind in (("tune_config", tune_config, TuneConfig), ("run_config", run_config, RunConfig)):
            if value is not None and not isinstance(value, kind):
                raise ConfigError(f"Tuner: {name} must be a tune.{kind.__name__}(...), but is {value!r}.")
        self._space = dict(param_space or {})
        self._tune = tune_config or TuneConfig()
        self._run = run_config or RunConfig()

    def fit(self) -> ResultGrid:
        """Train the population to its end and return its results.

        Returns:
            One result a trial. A trial that failed does not make ``fit`` raise; see ``ResultGrid.errors``.

        Raises:
            ConfigError: the settings do not fit together; nothing was started.
            StorageError: the experiment's folder cannot be used.
            EngineError: members cannot be started, or one asks for more than the machine has.
        """
        from .results import ResultGrid

        plan = _plan(self._trainable, self._space, self._tune, self._run)
        folder = _make_folder(self._run, plan.info.name)
        _execute(plan, folder, self._run)
        grid = ResultGrid.read(folder)
        if plan.raises and grid.errors:
            raise grid.errors[0]
        return grid


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything about an experiment that is decided before anything is written."""

    info: ExperimentInfo
    trainable: Callable[..., Any]
    trials: list[TrialAdded]
    population: Population
    rules: ReportRules
    devices: list[str]
    stopper: Stopper | None
    raises: bool


def _plan(trainable: Callable[..., Any], space: dict[str, Any], tune: TuneConfig, run: RunConfig) -> _Plan:
    now = time.time()
    scheduler = tune.scheduler or FIFOScheduler()
    metric = _agreed("metric", tune.metric, scheduler.metric, scheduler)
    mode = _agreed("mode", tune.mode, scheduler.mode, scheduler) or "max"
    engine = _engine_name(tune)
    seed = secrets.randbits(32) if tune.seed is None else tune.seed
    check_space(space)
    scheduler.check(space)
    variants = expand(space, tune.num_samples, seed)
    cpus, gpus = resources_of(trainable)
    devices = [""] if engine == "inline" else runtime.slots(cpus, gpus, tune.max_concurrent_trials)
    name = trainable_name(trainable)
    run_id = secrets.token_hex(3)[:5]
    trials = []
    for index, variant in enumerate(variants):
        tid = trial_id(run_id, index)
        tag = tag_of(index, variant.sampled)
        config = scheduler.prepare(variant.config, index, seed)
        trials.append(TrialAdded(tid, index, f"{name}_{tid}", tag, folder_name(f"{name}_{tid}", tag, now), config))
    stop = run.stop if isinstance(run.stop, Mapping) else {}
    stopper = _stopper(run.stop)
    info = ExperimentInfo(
        name=run.name or experiment_name(name, now),
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
        parameters=list(dict.fromkeys([*(path for variant in variants for path in variant.sampled), *scheduler.mutated()])),
        stop=dict(stop),
        time_budget_s=tune.time_budget_s,
        started_at=now,
    )
    checkpoints = run.checkpoint_config or CheckpointConfig()
    rules = ReportRules(
        metric=metric,
        time_attr=scheduler.time_attr,
        required=scheduler.require_attrs,
        stop=dict(stop),
        always_wait=stopper is not None,
        rank=checkpoints.checkpoint_score_attribute,
    )
    failures = run.failure_config or FailureConfig()
    population = Population(
        scheduler.policy(mode=mode, seed=seed),
        metric=metric,
        time_attr=scheduler.time_attr,
        limits=Limits(
            devices=devices,
            residents=tune.max_residents or _residents(len(devices), gpus),
            max_failures=failures.max_failures,
            fail_fast=bool(failures.fail_fast),
        ),
        retention=RetentionRules(
            checkpoints.num_to_keep, checkpoints.checkpoint_score_attribute, checkpoints.checkpoint_score_order
        ),
    )
    return _Plan(info, trainable, trials, population, rules, devices, stopper, failures.fail_fast == "raise")


def _execute(plan: _Plan, folder: Path, run: RunConfig) -> None:
    """Run the plan in its folder, and leave nothing running, however it ends."""
    from .callbacks import CallbackReader
    from .display import make_status
    from .driver import Driver
    from .engines import EngineSetup
    from .journal.sqlite import SQLiteJournal
    from .sinks import LogFiles, PolicyFiles

    status: Status = make_status(run.verbose, inline=plan.info.engine == "inline")
    engine = _make_engine(plan.info.engine)
    journal = SQLiteJournal.create(folder)
    try:
        journal.set_meta(**plan.info.to_meta())
        engine.start(
            EngineSetup(
                trainable=plan.trainable,
                rules=plan.rules,
                experiment=plan.info.name,
                folder=folder,
                seed=plan.info.seed,
                cpus=plan.info.cpus,
                gpus=plan.info.gpus,
                devices=plan.devices,
                output=status.output,
                log_to_file=run.log_to_file,
            )
        )
        driver = Driver(
            info=plan.info,
            folder=folder,
            population=plan.population,
            journal=journal,
            engine=engine,
            status=status,
            readers=[LogFiles(), PolicyFiles(), *([CallbackReader(run.callbacks, status.note)] if run.callbacks else [])],
            stopper=plan.stopper,
        )
        _run(driver, plan.trials)
    finally:
        engine.close()
        journal.close()


def _run(driver: Driver, trials: list[TrialAdded]) -> None:
    try:
        driver.run(trials)
    except KeyboardInterrupt:
        driver.interrupt("interrupted by the user")
        raise


def _make_engine(name: str) -> Engine:
    if name == "inline":
        from .engines.inline import InlineEngine

        return InlineEngine()
    from .engines.processes import ProcessEngine

    return ProcessEngine()


def _check_trainable(trainable: object) -> Callable[..., Any]:
    if trainable is None or not callable(trainable):
        raise ConfigError(
            f"Tuner: the trainable must be a function that takes a config, such as train(config), but is {trainable!r}."
        )
    if inspect.isclass(trainable):
        raise ConfigError(
            f"Tuner: the trainable must be a function train(config), but is the class {trainable.__name__}. Class trainables "
            f"are not supported yet; write its loop as a function that calls tune.report."
        )
    try:
        inspect.signature(trainable).bind({})
    except ValueError:
        pass  # a built-in function without a signature
    except TypeError as error:
        raise ConfigError(
            f"Tuner: the trainable must take one argument, the config, but {trainable_name(trainable)} does not: {error}."
        ) from error
    return trainable


def _agreed(what: str, ours: str | None, theirs: str | None, scheduler: TrialScheduler) -> str | None:
    """Return what TuneConfig and the scheduler say, which must not contradict."""
    if ours is not None and theirs is not None and ours != theirs:
        raise ConfigError(
            f"TuneConfig says {what}={ours!r}, but {scheduler.describe()} says {what}={theirs!r}. Give it in one place."
        )
    if ours is None and theirs is None and scheduler.needs_metric:
        example = "'mean_accuracy'" if what == "metric" else "'max'"
        raise ConfigError(f"{scheduler.describe()} needs {what}. Give it as TuneConfig({what}={example}) or to the scheduler.")
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


def _residents(slots: int, gpus: float) -> int:
    """How many members may keep a process, where the user does not say."""
    if gpus > 0:
        # A parked member keeps its share of the GPU's memory, and nobody knows how much that is.
        return slots
    import psutil

    return max(slots, int(psutil.virtual_memory().available / 2 / _RESIDENT_BYTES))


def _make_folder(run: RunConfig, name: str) -> Path:
    """Make the folder of a new experiment."""
    root = Path(run.storage_path or os.environ.get("SHOAL_DIR") or "shoal_results").expanduser().absolute()
    folder = root / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ExperimentExists(
                f"The folder {folder} already holds an experiment or other files, which Shoal will not mix with a new one. Give "
                f"RunConfig another name (or none: then it has the time in it), or move the folder away."
            )
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"The experiment's folder {folder} cannot be made or written: {error}. Give RunConfig a storage_path that can be."
        ) from error
    return folder
