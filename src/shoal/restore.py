"""Going on with an experiment: read its journal back into the core, and choose who goes on."""

from __future__ import annotations

import base64
import contextlib
import copy
import dataclasses
import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .config import FailureConfig, RunConfig, TuneConfig
from .core.commands import Status, checkpoint_name
from .core.events import Config, Opened, Reported, TrialAdded
from .core.recall import choose, recall
from .core.reports import DONE, number, value_of
from .engines.pickling import check_config
from .errors import ConfigError, InvalidTransition, JournalError, StorageError
from .experiment import ExperimentInfo
from .history import History, full_row
from .naming import trainable_name
from .plan import (
    Plan,
    check_saving,
    facts,
    limits_of,
    new_population,
    retention_of,
    rules_of,
    stopper_of,
    warn_about_stop,
)
from .schedulers import FIFOScheduler, TrialScheduler
from .space import constants, same

if TYPE_CHECKING:
    from .core.population import Population
    from .driver import Stopper
    from .journal.sqlite import SQLiteJournal

__all__ = ["Again", "can_restore", "is_new_stop", "restored_plan", "settings_to_meta", "stored_settings"]

T = TypeVar("T", RunConfig, TuneConfig)
_PARTS = ("tune", "run", "callbacks", "stop")


@dataclass(frozen=True, slots=True)
class Again:
    """What the user asks for when an experiment goes on."""

    unfinished: bool
    errored: bool
    restart: bool
    space: Mapping[str, Any]
    """Constants in it replace those of the trials' configs."""
    new_stop: bool
    """Whether the stop condition is another than before."""


# ------------------------------------------------------------------------------------------------- the user's settings


def settings_to_meta(tune: TuneConfig, run: RunConfig) -> dict[str, Any]:
    """Return the settings as JSON values for the journal, each part pickled by itself.

    What cannot be pickled, a callback with an open connection for example, is left out with the reason; it stands in
    the way of nothing but a restore that needs it.
    """
    parts = {
        "tune": tune,
        "run": dataclasses.replace(run, callbacks=None, stop=None),
        "callbacks": None if run.callbacks is None else list(run.callbacks),
        "stop": run.stop,
    }
    return {f"settings_{name}": _pickled(part) for name, part in parts.items()}


def _pickled(part: object) -> dict[str, str]:
    import cloudpickle

    try:
        return {"pickle": base64.b64encode(cloudpickle.dumps(part)).decode()}
    except Exception as error:
        return {"reason": f"{type(error).__name__}: {error}"}


def stored_settings(
    meta: Mapping[str, Any], folder: Path, run: RunConfig | None, tune: TuneConfig | None
) -> tuple[TuneConfig, RunConfig]:
    """Return the settings of an experiment, with those that are given now in place of the old.

    Args:
        meta: the journal's facts.
        folder: the experiment's folder, from which name and storage path follow.
        run, tune: fields that differ from their default replace the old ones.

    Raises:
        ConfigError: a setting is given that cannot change.
        JournalError: the old settings are not there or cannot be loaded.
    """
    parts: dict[str, Any] = {}
    for name in _PARTS:
        entry = meta.get(f"settings_{name}")
        if entry is None:
            raise JournalError(f"{folder} has no settings to go on with: it was not started by tune.Tuner.fit().")
        parts[name] = _loaded(entry, name, folder, given=_gives(name, run, tune))
    new_tune: TuneConfig = parts["tune"] or TuneConfig()
    new_run: RunConfig = dataclasses.replace(
        parts["run"] or RunConfig(), callbacks=parts["callbacks"], stop=parts["stop"]
    )
    if tune is not None:
        _check_unchanged(tune, meta, parts["tune"])
        new_tune = _merged(new_tune, tune)
    if run is not None:
        new_run = _merged(new_run, run)
    return new_tune, dataclasses.replace(new_run, name=folder.name, storage_path=str(folder.parent))


def is_new_stop(stop: object, meta: Mapping[str, Any]) -> bool:
    """Return whether trials that have met their stop condition may go on, because another one is given now.

    A stopper that is the same as before is no other one: it would not remember why it ended them.
    """
    if not callable(getattr(stop, "stop_all", None)):
        return stop is not None
    given = _pickled(stop)
    return "reason" in given or given != meta.get("settings_stop")


def _gives(part: str, run: RunConfig | None, tune: TuneConfig | None) -> bool:
    """Whether the user gives anew what this part held."""
    if part == "tune":
        return tune is not None and tune.scheduler is not None
    return part in ("callbacks", "stop") and run is not None and getattr(run, part) is not None


def _loaded(entry: Mapping[str, str], part: str, folder: Path, *, given: bool) -> Any:
    reason = entry.get("reason")
    if reason is None:
        try:
            return pickle.loads(base64.b64decode(entry["pickle"]))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
    if given:
        return None
    where = {
        "tune": "tune_config=tune.TuneConfig(scheduler=...)",
        "callbacks": "run_config=tune.RunConfig(callbacks=[...])",
        "stop": "run_config=tune.RunConfig(stop=...)",
    }.get(part, "run_config=tune.RunConfig(...)")
    what = {"tune": "scheduler and settings", "run": "run settings"}.get(part, part)
    raise JournalError(
        f"The {what} of the experiment {folder} cannot be loaded: {reason}. Give them again: "
        f"Tuner.restore(path, trainable, {where})."
    )


def _merged(old: T, new: T) -> T:
    """Return the old settings with all that the new ones set."""
    changed = {
        field.name: value
        for field in dataclasses.fields(new)
        if not _is_default(field, value := getattr(new, field.name))
    }
    return dataclasses.replace(old, **changed)


def _is_default(field: Any, value: Any) -> bool:
    default = field.default
    return value is default or (isinstance(value, (bool, int, float, str)) and value == default)


def _check_unchanged(new: TuneConfig, meta: Mapping[str, Any], old: TuneConfig | None) -> None:
    """Compare with the facts, where the metric given to the scheduler and a seed that was drawn stand, too."""
    before = {name: meta[name] for name in ("metric", "mode", "seed")}
    if old is not None:
        before["num_samples"] = old.num_samples
    for field in dataclasses.fields(TuneConfig):
        value = getattr(new, field.name)
        if field.name in before and not _is_default(field, value):
            _check_same("TuneConfig", field.name, value, before[field.name])


def _check_scheduler(scheduler: TrialScheduler, info: ExperimentInfo) -> None:
    for name in ("metric", "mode", "time_attr"):
        value = getattr(scheduler, name)
        if value is not None:
            _check_same(scheduler.describe(), name, value, getattr(info, name))


def _check_same(owner: str, name: str, value: object, before: object) -> None:
    if value != before:
        raise ConfigError(
            f"Tuner.restore: {owner}({name}={value!r}) cannot change when an experiment goes on; it is {before!r}. "
            f"Leave it out, or start a new experiment."
        )


# ---------------------------------------------------------------------------------------------------- the experiment


def can_restore(path: Path) -> bool:
    """Return whether there is an experiment in the folder that can go on."""
    from .journal.sqlite import SQLiteJournal

    try:
        journal = SQLiteJournal.open_for_reading(path)
    except (JournalError, OSError):
        return False
    with contextlib.closing(journal):
        try:
            first = next(journal.read(), None)
            return first is not None and isinstance(first.item, Opened) and "settings_tune" in journal.meta()
        except JournalError:
            return False


def restored_plan(
    journal: SQLiteJournal,
    folder: Path,
    trainable: Callable[..., Any],
    tune: TuneConfig,
    run: RunConfig,
    again: Again,
) -> Plan:
    """Return what follows from an experiment's journal and the settings of today.

    Raises:
        ConfigError: the settings do not fit together.
        JournalError: the journal cannot be followed.
        StorageError: a checkpoint that is needed is gone.
    """
    records = list(journal.read())
    if not records or not isinstance(records[0].item, Opened):
        raise JournalError(
            f"The journal in {folder} does not begin with the start of an experiment; nothing to restore."
        )
    scheduler = tune.scheduler or FIFOScheduler()
    check_saving(trainable, scheduler, run)
    trials = [record.item for record in records if isinstance(record.item, TrialAdded)]
    info = ExperimentInfo.from_meta(journal.meta())
    if trainable_name(trainable) != info.trainable:
        warnings.warn(
            f"The experiment was started with {info.trainable!r} and goes on with {trainable_name(trainable)!r}. Its "
            f"checkpoints must mean the same to both.",
            stacklevel=4,
        )
    _check_scheduler(scheduler, info)
    if again.new_stop and isinstance(run.stop, Mapping):
        warn_about_stop(run.stop, info.metric, info.mode)
    info = dataclasses.replace(info, name=folder.name, **facts(trainable, trials[0].config, tune, run))
    population = new_population(info, scheduler)
    try:
        recall(population, (record.item for record in records))
    except (InvalidTransition, KeyError) as error:
        raise JournalError(
            f"The journal in {folder} cannot be followed: {error}. It was written by another version of Shoal, or "
            f"changed, or the scheduler is another."
        ) from error
    history = History.of(records)
    stopper = stopper_of(run.stop)
    values = _new_values(again.space, history.trials[trials[0].trial_id].initial_config, scheduler, info)
    check_config(values)
    choice = choose(
        population,
        unfinished=again.unfinished,
        errored=again.errored,
        restarted=again.restart,
        extended=_extended(history, info.stop, stopper) if again.new_stop else (),
    )
    opened = Opened(
        limits=limits_of(info, tune, run),
        retention=retention_of(run),
        again=choice.again,
        anew=choice.anew,
        dropped=choice.dropped,
        config=values,
    )
    _check_checkpoints(population, opened, history, folder)
    return Plan(
        info=info,
        trainable=trainable,
        opened=opened,
        trials=trials,
        population=population,
        history=history,
        rules=rules_of(info, scheduler, run),
        stopper=stopper,
        raises=(run.failure_config or FailureConfig()).fail_fast == "raise",
    )


def _extended(history: History, stop: Mapping[str, float], stopper: Stopper | None) -> list[str]:
    """Return the trials that met the old stop condition, and do not meet the new one.

    A copy of the stopper is asked, so that the one of the run begins without memory.
    """
    with contextlib.suppress(Exception):
        stopper = copy.deepcopy(stopper)
    return [
        trial.trial_id
        for trial in history.in_order()
        if trial.status is Status.TERMINATED
        and trial.last is not None
        and _goes_on(trial.last.report, stop)
        and (stopper is None or not stopper(trial.trial_id, full_row(trial, trial.last)))
    ]


def _goes_on(report: Reported, stop: Mapping[str, float]) -> bool:
    if report.stop is None or report.stop == DONE:
        return False
    values = {key: number(value_of(report, key)) for key in stop}
    return not any(value is not None and value >= stop[key] for key, value in values.items())


def _new_values(space: Mapping[str, Any], config: Config, scheduler: TrialScheduler, info: ExperimentInfo) -> Config:
    """Return the constants of the space that are others than in the config, and that were not sampled or mutate."""
    given = constants(space)
    prepared = scheduler.prepare(given, 0, 0)  # of a replay, the schedule's own values come first
    return _others(
        {key: prepared[key] for key in given}, config, frozenset([*info.parameters, *scheduler.mutated()]), ""
    )


def _others(values: Config, config: Config, mutated: frozenset[str], prefix: str) -> Config:
    found: Config = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if key not in config or path in mutated or same(value, config[key]):
            continue
        inside = config[key]
        if isinstance(value, dict) and isinstance(inside, dict):
            if others := _others(value, inside, mutated, f"{path}/"):
                found[key] = others
        else:
            found[key] = value
    return found


def _check_checkpoints(population: Population, opened: Opened, history: History, folder: Path) -> None:
    """Raise StorageError where a trial would go on from a checkpoint whose files are gone."""
    for trial in population.trials.values():
        goes_on = not trial.status.ended and trial.trial_id not in opened.dropped
        record = trial.restore if goes_on or trial.trial_id in opened.again else None
        if record is None:
            continue
        path = folder / history.trials[record.trial_id].folder / checkpoint_name(record.number)
        if not path.is_dir():
            raise StorageError(
                f"Trial {trial.trial_id} would go on from {path}, which is gone. Put it back; or let the trial begin "
                f"anew, if it failed, with restart_errored=True."
            )
