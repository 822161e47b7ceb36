"""Going on with an experiment: read its journal back into the core, and choose who goes on."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import warn_user
from .config import FailureConfig, RunConfig, TuneConfig
from .core.commands import CheckpointRecord, Status, checkpoint_name
from .core.events import Config, Opened, TrialAdded
from .core.recall import choose, recall
from .core.reports import DONE, stop_met
from .core.trial import Trial, replaced
from .engines.pickling import check_config
from .errors import ConfigError, InvalidTransition, JournalError, StorageError, did_you_mean, stopper_failed
from .experiment import ExperimentInfo
from .history import History, Row, TrialHistory, full_row
from .location import join
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
from .settings import check_same
from .space import constants, holds_domains, is_domain, same
from .space.containers import children

if TYPE_CHECKING:
    from .core.population import Population
    from .driver import Stopper
    from .journal.sqlite import SQLiteJournal
    from .location import Location

__all__ = ["Again", "can_restore", "holds_experiment", "restored_plan", "stored_facts"]


@dataclass(frozen=True, slots=True)
class Again:
    """What the user asks for when an experiment goes on."""

    unfinished: bool
    errored: bool
    restart: bool
    space: Mapping[str, Any]
    """Constants in it replace those of the trials' configs."""
    anew: frozenset[str]
    """Which conditions, ``stop`` and ``time_budget_s``, count anew: what has finished by the old ones may go on."""
    same_stop: bool
    """A stopper was given, and it is the one of before."""


def can_restore(location: Location) -> bool:
    """Return whether there is an experiment that can go on.

    Raises:
        ConfigError: the kind of URL is not known, or a package is missing.
        StorageError: object storage cannot be read.
    """
    try:
        return holds_experiment(location)
    except JournalError:
        return False
    except OSError:
        if location.url is not None:
            raise
        return False


def holds_experiment(location: Location) -> bool:
    """Return whether there is an experiment that can go on; False where nothing has begun there.

    Raises:
        JournalError: there is one, or what is left of one, that cannot go on.
        ConfigError: the kind of URL is not known, or a package is missing.
        StorageError: object storage cannot be read.
    """
    if location.url is None:
        return _holds_experiment(location.folder)
    from .viewing import NothingThere, View

    try:
        with View.open(location, furthest=True).kept() as folder:
            return _holds_experiment(folder)
    except NothingThere:
        return False


def stored_facts(location: Location) -> dict[str, Any]:
    """Return the facts about an experiment, as :func:`holds_experiment` finds it.

    Raises:
        JournalError: it is damaged, or there is none.
        StorageError: object storage cannot be read.
    """
    from .journal.sqlite import SQLiteJournal
    from .viewing import View

    with contextlib.ExitStack() as stack:
        folder = location.folder
        if location.url is not None:
            folder = stack.enter_context(View.open(location, furthest=True).kept())
        journal = SQLiteJournal.open_for_reading(folder)
        stack.callback(journal.close)
        return journal.meta()


def _holds_experiment(path: Path) -> bool:
    from .journal import JOURNAL_NAME
    from .journal.lock import check_free
    from .journal.sqlite import SQLiteJournal

    if not any(os.path.isfile(path / name) for name in (JOURNAL_NAME, f"{JOURNAL_NAME}-wal")):
        return False
    with contextlib.closing(SQLiteJournal.open_for_reading(path)) as journal:
        journal.check_format()
        first = next(journal.read(), None)
        has_settings = "settings_tune" in journal.meta()
    if first is None:
        check_free(path)  # one that is just starting
        beside = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("journal."))
        if not beside:
            return False
        raise JournalError(
            f"The journal in {path} holds no record, but there are other files ({', '.join(beside[:5])}): its records "
            f"are lost, or it was ended before it began. Nothing was changed. Give another name, or move the folder "
            f"away."
        )
    if not isinstance(first.item, Opened):
        raise JournalError(
            f"The journal in {path} does not begin with the start of an experiment, but with {first.item!r:.100}."
        )
    if not has_settings:
        raise JournalError(f"{path} has no settings to go on with: it was not started by tune.Tuner.fit().")
    return True


def restored_plan(
    journal: SQLiteJournal,
    folder: Location,
    trainable: Callable[..., Any],
    tune: TuneConfig,
    run: RunConfig,
    again: Again,
) -> Plan:
    """Return what follows from an experiment's journal and the settings of today.

    Raises:
        ConfigError: the settings do not fit together.
        JournalError: the journal cannot be followed.
        StorageError: the checkpoints are gone.
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
        warn_user(
            f"The experiment was started with {info.trainable!r} and goes on with {trainable_name(trainable)!r}. Its "
            f"checkpoints must mean the same to both."
        )
    _check_scheduler(scheduler, info)
    if "stop" in again.anew and isinstance(run.stop, Mapping):
        warn_about_stop(run.stop, info.metric, info.mode)
    info = dataclasses.replace(info, name=folder.name, **facts(trainable, trials[0].config, tune, run))
    population = new_population(info, scheduler)
    try:
        recall(population, (record.item for record in records))
    except (InvalidTransition, LookupError) as error:
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
        extended=_extended(population, history, again.anew, info.stop, stopper),
    )
    opened = Opened(
        limits=limits_of(info, tune, run),
        retention=retention_of(run),
        again=choice.again,
        anew=choice.anew,
        dropped=choice.dropped,
        config=values,
    )
    _check_references(population, opened)
    _check_checkpoints(population, opened, history, folder)
    _warn_from_scratch(population, opened)
    _warn_who_stays(population, history, opened, again)
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


def _extended(
    population: Population,
    history: History,
    anew: frozenset[str],
    stop: Mapping[str, float],
    stopper: Stopper | None,
) -> list[str]:
    """Return the trials that have finished by a condition that counts anew, and meet none of today's.

    A copy of the stopper is asked, so that the one of the run begins without memory.
    """
    if not anew:
        return []
    with contextlib.suppress(Exception):
        stopper = copy.deepcopy(stopper)
    found: list[str] = []
    for trial in history.in_order():
        finished_by = _finished_by(population.trials[trial.trial_id], trial)
        if finished_by not in anew:
            continue
        last = trial.last
        if last is None or not (stop_met(stop, last.value) or _ends(stopper, trial, last)):
            found.append(trial.trial_id)
    return found


def _ends(stopper: Stopper | None, trial: TrialHistory, last: Row) -> bool:
    try:
        return stopper is not None and bool(stopper(trial.trial_id, full_row(trial, last)))
    except Exception as error:
        asked = f"whether trial {trial.trial_id} goes on, by its last result"
        raise stopper_failed(stopper, error, asked) from error


def _finished_by(trial: Trial, history: TrialHistory) -> str | None:
    """Return which condition of the user's a trial has finished by; None where it did not, or said itself when."""
    if trial.status is not Status.TERMINATED or trial.cut:
        return None
    if trial.met is not None:
        return trial.met
    reason = None if history.last is None else history.last.report.stop
    return None if reason in (None, DONE) else "stop"


def _check_scheduler(scheduler: TrialScheduler, info: ExperimentInfo) -> None:
    for name in ("metric", "mode", "time_attr"):
        value = getattr(scheduler, name)
        if value is not None:
            check_same(scheduler.describe(), name, value, getattr(info, name))


# ------------------------------------------------------------------------------------------------- the trials' configs


def _new_values(space: Mapping[str, Any], config: Config, scheduler: TrialScheduler, info: ExperimentInfo) -> Config:
    """Return the constants of the space that are others than in the config, and that were not sampled or mutate.

    Raises:
        ConfigError: there is a key that the config lacks.
    """
    drawn = frozenset([*info.parameters, *scheduler.mutated()])
    _check_keys(space, config, drawn, "")
    given = constants(space)
    prepared = scheduler.prepare(given, 0, 0)  # of a replay, the schedule's own values come first
    return _others({key: prepared[key] for key in given}, config, drawn, "")


def _check_keys(space: Mapping[str, Any], config: Config, drawn: frozenset[str], prefix: str) -> None:
    """Refuse what has no place in the config, and say what has no effect."""
    for key, value in space.items():
        path = f"{prefix}{key}"
        # Of a choice among dicts, one trial has keys that another lacks.
        was_drawn = path in drawn or (key not in config and any(name.startswith(f"{path}/") for name in drawn))
        if was_drawn:
            if not holds_domains(value) and not (key in config and same(value, config[key])):
                _warn_no_effect(path, f"is {value!r:.100} now, but was sampled or mutates")
        elif key not in config:
            names = [f"{prefix}{name}" for name in config]
            raise ConfigError(
                f"Tuner.restore: param_space has {path!r}, which the trials' configs lack.{did_you_mean(path, names)} "
                f"They have: {', '.join(map(repr, names)) or 'nothing'}. Values can be replaced, and none be added."
            )
        elif isinstance(value, dict) and isinstance(config[key], dict) and not is_domain(value):
            _check_keys(value, config[key], drawn, f"{path}/")
        elif is_domain(value) and not any(name.startswith(f"{path}/") for name in drawn):
            _warn_no_effect(path, f"is sampled now, but was {config[key]!r:.100}")


def _warn_no_effect(path: str, why: str) -> None:
    warn_user(f"Tuner.restore: param_space[{path!r}] {why}. It has no effect: the trials keep what they have.")


def _others(values: Config, config: Config, drawn: frozenset[str], prefix: str) -> Config:
    found: Config = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if key not in config or path in drawn or same(value, config[key]):
            continue
        inside = config[key]
        if isinstance(value, dict) and isinstance(inside, dict):
            if others := _others(value, inside, drawn, f"{path}/"):
                found[key] = others
        else:
            found[key] = value
    return found


# --------------------------------------------------------------------------------------------------- those that go on


def _check_references(population: Population, opened: Opened) -> None:
    """Raise ConfigError where the config of a trial that goes on refers to an object that is gone."""
    from .objects import ObjectRef

    for trial in _going_on(population, opened):
        config = trial.first_config if trial.trial_id in opened.anew else trial.config
        for path, value in _leaves(replaced(config, opened.config), ""):
            if isinstance(value, ObjectRef) and not value.there:
                first, _, rest = path.partition("/")
                whole = "[...]" if isinstance(config[first], (list, tuple)) else "{...}"
                where = f"{{{first!r}: {whole if rest else 'shoal.put(...)'}}}"
                raise ConfigError(
                    f"Tuner.restore: the object that config[{path!r}] refers to, {value!r}, is gone: what shoal.put "
                    f"stores lives as long as the process that put it. Put it again and give the new reference: "
                    f"Tuner.restore(path, trainable, param_space={where})."
                )


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    pairs = children(value)
    if pairs is None:
        yield path, value
        return
    for key, part in pairs:
        yield from _leaves(part, f"{path}/{key}" if path else str(key))


def _warn_from_scratch(population: Population, opened: Opened) -> None:
    """Say which trials lose all that they had done, because they never saved a checkpoint."""
    lost = [
        trial.trial_id
        for trial in _going_on(population, opened)
        if trial.reported and trial.restore is None and trial.trial_id not in opened.anew
    ]
    if lost:
        some = f"{', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''}"
        warn_user(
            f"Tuner.restore: {len(lost)} of {len(population.trials)} trials ({some}) have no checkpoint and begin from "
            f"scratch. Save one now and then: tune.report(metrics, checkpoint=...), or for a class "
            f"CheckpointConfig(checkpoint_frequency=...)."
        )


def _warn_who_stays(population: Population, history: History, opened: Opened, again: Again) -> None:
    """Say why trials stay as they are although something was given for them."""
    going_on = {trial.trial_id for trial in _going_on(population, opened)}
    stay = [
        _finished_by(population.trials[trial.trial_id], trial)
        for trial in history.in_order()
        if trial.trial_id not in going_on
    ]
    where = {"stop": "RunConfig(stop=...)", "time_budget_s": "TuneConfig(time_budget_s=...)"}
    for name, other in (("stop", "time_budget_s"), ("time_budget_s", "stop")):
        if other in again.anew and name not in again.anew and (count := stay.count(name)):
            same = " The stopper that is given is the one that ended them." if again.same_stop else ""
            warn_user(
                f"Tuner.restore: {count} of {len(population.trials)} trials have finished by {name} and stay so."
                f"{same} To let them go on, give {where[name]}, too."
            )
    if again.same_stop and not again.anew and (count := stay.count("stop")):
        warn_user(
            f"Tuner.restore: {count} of {len(population.trials)} trials have finished by their stopper and stay so, "
            f"because the one that is given is the same."
        )
    if opened.config and not going_on:
        keys = ", ".join(map(repr, opened.config))
        warn_user(f"Tuner.restore: what param_space replaces ({keys}) has no effect, because no trial goes on.")


def _going_on(population: Population, opened: Opened) -> Iterator[Trial]:
    revived = {*opened.again, *opened.anew}
    for trial in population.trials.values():
        if trial.trial_id in revived or not (trial.status.ended or trial.trial_id in opened.dropped):
            yield trial


def _check_checkpoints(population: Population, opened: Opened, history: History, location: Location) -> None:
    """Raise StorageError where none of the checkpoints is there that trials would go on from.

    The folder was copied without them, say, and they can be put back. Where only some are gone, as after a power cut,
    the core decides: their trials go on from the ones before, copy others, or fail by themselves.
    """

    def folder_of(record: CheckpointRecord) -> str:
        return history.trials[record.trial_id].folder

    def is_there(record: CheckpointRecord) -> bool:
        if (location.folder / folder_of(record) / checkpoint_name(record.number)).is_dir():
            return True
        if location.url is None:
            return False
        from .storage.place import Place
        from .storage.transfer import list_checkpoints

        return record.number in list_checkpoints(Place(location.url) / folder_of(record))

    trials = [
        trial
        for trial in _going_on(population, opened)
        if trial.restore is not None and trial.trial_id not in opened.anew
    ]
    newest = [trial.restore for trial in trials if trial.restore is not None]
    older = (record for trial in trials for record in trial.older)
    if newest and not any(is_there(record) for record in (*newest, *older)):
        path = join(join(str(location), folder_of(newest[0])), checkpoint_name(newest[0].number))
        raise StorageError(
            f"Trial {trials[0].trial_id} would go on from {path}, which is gone, and so are the "
            f"checkpoints of all others that go on. Put them back; nothing was changed."
        )
