"""The wiring of an experiment: make its folder, plug journal, engine and readers together, run, take it apart."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import warn_user
from .checkpoints.depot import Depot, LocalDepot
from .checkpoints.leftovers import committed_number, is_unfinished, of_the_store
from .config import RunConfig, TuneConfig, storage_root
from .errors import ExperimentExists, JournalError, StorageError
from .location import Location, join, location_of
from .plan import Plan
from .resources import FILES_OF_A_RESIDENT, allow_open_files

if TYPE_CHECKING:
    from .display import Status
    from .driver import Driver
    from .engines import Engine, EngineSetup
    from .experiment import Reader
    from .interruption import Interruption
    from .journal.sqlite import SQLiteJournal
    from .results import ResultGrid
    from .storage.mirror import Mirror
    from .warm_parent import WarmParent
    from .watchdog import Watchdog

__all__ = ["complete_files", "execute", "make_engine", "make_folder", "open_journal", "take_results"]

_SLOW_TO_LOAD = ("torch", "tensorflow", "jax")
"""What the script has of these, members' parent process loads too, and that takes seconds."""

_PROBE = ".writable"
"""Name of a file that is there for a moment, to see whether the folder can be written."""


def execute(
    plan: Plan,
    location: Location,
    run: RunConfig,
    tune: TuneConfig,
    journal: SQLiteJournal | None = None,
    parent: WarmParent | None = None,
) -> None:
    """Run the plan in its folder, and leave nothing running, however it ends.

    Args:
        plan: what to run.
        location: where the experiment is.
        run, tune: the settings, which are kept for a restore.
        journal: that of an experiment that goes on, open for writing; it is closed here. None: begin one.
        parent: the members' warm parent, where it was started early; it is closed here.

    Raises:
        KeyboardInterrupt, SystemExit: as ``Driver.run``, also where the signal came before that.
        StorageError: as ``Driver.run``; or storage cannot be used.
    """
    from .interruption import Interruption

    # Around all of it: to load the trainable may take long, and what a signal cuts in half there would be left.
    with Interruption() as interruption:
        driver = _execute(_placed(plan, location), location, run, tune, journal, parent, interruption)
        driver.leave_if_asked()


def _placed(plan: Plan, location: Location) -> Plan:
    """Return the plan with the URL of today in its facts."""
    return dataclasses.replace(plan, info=dataclasses.replace(plan.info, place=location.url))


def _execute(
    plan: Plan,
    location: Location,
    run: RunConfig,
    tune: TuneConfig,
    journal: SQLiteJournal | None,
    parent: WarmParent | None,
    interruption: Interruption,
) -> Driver:
    """As :func:`execute`; returns the driver, which has done its work."""
    from .callbacks import CallbackReader
    from .display import make_status
    from .driver import Driver
    from .interruption import Asked
    from .journal.sqlite import SQLiteJournal
    from .scratch import sweep
    from .settings import settings_to_meta

    started = False
    folder = location.folder
    status: Status = make_status(run.verbose, inline=plan.info.engine == "inline")
    try:
        engine = make_engine(tune.engine if callable(tune.engine) else plan.info.engine, parent)
    except BaseException:
        if journal is None:
            with contextlib.suppress(OSError):
                folder.rmdir()  # which was just made
        raise
    depot: Depot = getattr(engine, "depot", None) or LocalDepot(folder)
    mirror = None
    if location.url is not None:
        engine, mirror = _with_storage(engine, depot, location, location.url)
    new = journal is None
    driver: Driver | None = None
    try:
        if journal is None:
            journal = SQLiteJournal.create(folder)
        residents = plan.opened.limits.residents or plan.info.num_trials
        allow_open_files(FILES_OF_A_RESIDENT * min(residents, plan.info.num_trials))
        facts = {**plan.info.to_meta(), **settings_to_meta(tune, run)}
        if new:
            journal.set_meta(**facts)
        if mirror is not None:
            mirror.begin(folder)
        driver = Driver(
            info=plan.info,
            folder=folder,
            population=plan.population,
            journal=journal,
            engine=engine,
            status=status,
            readers=[*_files(run), *([CallbackReader(run.callbacks, status.note)] if run.callbacks else [])],
            stopper=plan.stopper,
            watchdog=_watchdog(run),
            interruption=interruption,
            history=plan.history,
            depot=depot,
            mirror=mirror,
        )
        sweep()  # what processes that were killed have left elsewhere
        if not new:
            _sweep(plan, folder)  # what members of a killed driver have left
        if any(name in sys.modules for name in _SLOW_TO_LOAD):
            with contextlib.suppress(OSError):  # a terminal that is gone ends no run
                status.opening(f"{plan.info.name}: loading {plan.info.trainable} and what it imports ...")
        engine.start(_engine_setup(plan, folder, run, tune, driver, interruption.check))
        interruption.check()
        if not new:
            # Only now, because settings with which nothing could be started are not those of the experiment.
            journal.set_meta(**facts)
        started = True
        driver.run(plan.begin, plan.trials)
        return driver
    except Asked:
        assert driver is not None
        driver.leave_before_the_run(new=new)
    finally:
        try:
            engine.close()
        finally:
            if mirror is not None:
                mirror.close(at_once=True)  # nothing, where the driver has closed it
            depot.close()
            if journal is not None:
                journal.close()
            if started:
                # Where the journal lacks something, it still needs checkpoints that the core thinks are gone.
                if driver is not None and driver.settled:
                    _sweep(plan, folder)
                sweep()
            elif new and journal is not None:
                # Nothing has happened yet: leave nothing, so that the corrected script can use the same name.
                _leave_nothing(location)


def _with_storage(engine: Engine, depot: Depot, location: Location, url: str) -> tuple[Engine, Mirror]:
    """Return the engine, which downloads what is not on this machine, and what copies the experiment to storage."""
    from .storage.fetching import FetchingEngine
    from .storage.mirror import Mirror
    from .storage.place import Place

    place = Place(url)
    if not hasattr(engine, "depot"):  # else its members fetch by themselves, where they are
        engine = FetchingEngine(engine, location.folder, place)
    return engine, Mirror(place, depot)


def _leave_nothing(location: Location) -> None:
    """Delete what there is of an experiment that has not begun."""
    shutil.rmtree(location.folder, ignore_errors=True)
    if location.url is not None:
        from .working import forget

        with contextlib.suppress(OSError):
            location.folder.parent.rmdir()
        with contextlib.suppress(Exception):  # why it has not begun says more
            forget(location.url)


def open_journal(location: Location) -> SQLiteJournal:
    """Return the journal of an experiment that goes on, for writing; one in storage is brought here first.

    Raises:
        JournalError: there is none, it is damaged, or somebody runs the experiment.
        StorageError: storage cannot be read.
    """
    from .journal.sqlite import SQLiteJournal

    if location.url is not None:
        from .working import bring

        bring(location)
    return SQLiteJournal.open_for_writing(location.folder)


def take_results(location: Location) -> ResultGrid:
    """Return the results of a run that has come to its end. One that is all in storage leaves nothing else here."""
    from .reading import Experiment, has_ended
    from .results import ResultGrid

    experiment = Experiment.open(location.folder, unpickle=True)
    if location.url is not None and has_ended(experiment.history):
        from .working import discard_copied

        trials = experiment.history.trials.values()
        discard_copied(location, {(trial.folder, number) for trial in trials for number in trial.checkpoints})
    return ResultGrid(experiment.history, experiment.info, str(location), experiment.timeline)


def complete_files(plan: Plan, location: Location, run: RunConfig) -> None:
    """Write the files of an experiment of which nothing goes on: its driver may have been killed before it had.

    Args:
        plan: of a restore; its history keeps its rows.
        location: where the experiment is.
        run: the settings.

    Raises:
        StorageError: storage lacks something, and it cannot be copied there.
    """
    from .scratch import sweep

    folder = location.folder
    try:
        for reader in _files(run):
            reader.start(plan.info, folder, plan.history)
            reader.close()
    except OSError as error:
        warn_user(f"Tuner.restore: the log files in {folder} cannot be written: {error}. Results are in the journal.")
    _sweep(plan, folder)
    if location.url is not None:
        _complete_copy(_placed(plan, location), location, location.url)
    sweep()  # the driver may have been killed when all had ended, and its members with it


def _complete_copy(plan: Plan, location: Location, url: str) -> None:
    """Copy to storage what it lacks of an experiment of which nothing goes on."""
    from .storage.mirror import Mirror
    from .storage.place import Place

    depot = LocalDepot(location.folder)
    mirror = Mirror(Place(url), depot)
    with contextlib.ExitStack() as stack:
        stack.callback(depot.close)
        stack.callback(mirror.abandon)  # where the user does not wait for the end of it
        stack.callback(mirror.close, at_once=True)  # nothing, where it is closed
        mirror.begin(location.folder)
        mirror.start(plan.info, location.folder, plan.history)
        mirror.close()
    if mirror.trouble is not None:
        raise StorageError(
            f"{url} does not have everything: {mirror.trouble.rstrip('.')}. All of it is in {location.folder}. "
            f"Tuner.restore copies the rest when storage is back."
        )


def _files(run: RunConfig) -> list[Reader]:
    """Return what writes the files that are made from the journal."""
    from .loggers import tensorboard_wanted
    from .sinks import LogFiles, PolicyFiles
    from .sinks.tensorboard import TensorBoardFiles

    return [LogFiles(), PolicyFiles(), *([TensorBoardFiles()] if tensorboard_wanted(run.callbacks) else [])]


def _engine_setup(
    plan: Plan,
    folder: Path,
    run: RunConfig,
    tune: TuneConfig,
    driver: Driver,
    check: Callable[[], None],
) -> EngineSetup:
    from .applied import CheckApplied
    from .engines import EngineSetup
    from .resources import Request

    info = plan.info
    applied = tune.check_applied
    return EngineSetup(
        trainable=plan.trainable,
        rules=plan.rules,
        experiment=plan.info.name,
        seed=plan.info.seed,
        cpus=plan.info.cpus,
        gpus=plan.info.gpus,
        devices=plan.info.devices,
        output=driver.output,
        note=driver.note,
        log_to_file=run.log_to_file,
        applied=applied if isinstance(applied, CheckApplied) else CheckApplied() if applied else None,
        check=check,
        request=Request(info.cpus, info.gpus, info.memory, info.custom),
        limit=tune.max_concurrent_trials,
        max_residents=tune.max_residents,
        folder=str(folder),
        place=info.place,
        trials=plan.going_on,
    )


def _watchdog(run: RunConfig) -> Watchdog | None:
    from .watchdog import Watchdog

    timeout = None if run.failure_config is None else run.failure_config.report_timeout_s
    return None if timeout is None else Watchdog(timeout)  # type: ignore[arg-type]


def _sweep(plan: Plan, folder: Path) -> None:
    """Delete checkpoints that the store has written, and that count no more or whose report came too late to count."""
    following = {trial_id: trial.next_checkpoint for trial_id, trial in plan.population.trials.items()}
    for trial in plan.trials:
        committed: dict[int, Path] = {}
        for path in (folder / trial.folder).glob("*checkpoint_*"):
            if is_unfinished(path.name):
                shutil.rmtree(path, ignore_errors=True)
            elif (found := committed_number(path.name)) is not None:
                committed[found] = path
        for number in of_the_store(committed, following.get(trial.trial_id, 0)) if any(following.values()) else ():
            if not plan.population.retention.knows(f"{trial.trial_id}/{committed[number].name}"):
                shutil.rmtree(committed[number], ignore_errors=True)


def make_engine(engine: str | Callable[[], Engine], parent: WarmParent | None = None) -> Engine:
    """Return a new engine.

    Args:
        engine: its name, or what makes one.
        parent: the members' warm parent, where it was started early; the engine ``processes`` takes it over.
    """
    if not isinstance(engine, str):
        return engine()
    if engine == "inline":
        from .engines.inline import InlineEngine

        return InlineEngine()
    if engine == "ray":
        from . import runtime

        runtime.connect()  # which says what to do where Ray is not installed
        from .engines.ray import RayEngine

        return RayEngine(runtime.connect)
    from .engines.processes import ProcessEngine

    return ProcessEngine(parent)


def make_folder(run: RunConfig, name: str) -> Location:
    """Make the folder of a new experiment. Return where it is.

    Raises:
        ExperimentExists: there is one of that name, or something else.
        ConfigError: the kind of URL is not known, or a package is missing.
        StorageError: the folder, or storage, cannot be used.
    """
    location = location_of(join(storage_root(run), name))
    if location.url is not None:
        from .working import check_new, sweep_cache

        check_new(location)
        sweep_cache(keep=location.folder)
    _make(location)
    return location


def _make(location: Location) -> None:
    folder = location.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear_false_start(folder)
        if not all(map(_says_nothing, folder.iterdir())):
            _check_not_running(folder)
            raise ExperimentExists(
                f"The folder {folder} already holds an experiment or other files, which Shoal will not mix with a new "
                f"one. Give "
                f"RunConfig another name (or none: then it has the time in it), or move the folder away."
                f"{_what_storage_lacks(location)}"
            )
        probe = folder / _PROBE
        probe.touch()
        probe.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"The experiment's folder {folder} cannot be made or written: {error}. "
            f"{_GIVE_ANOTHER if location.url is None else _GIVE_ANOTHER_CACHE}"
        ) from error


_GIVE_ANOTHER = "Give RunConfig a storage_path that can be."
_GIVE_ANOTHER_CACHE = "Set SHOAL_CACHE to a folder that can be: the experiment is run there and copied to storage."


def _what_storage_lacks(location: Location) -> str:
    """Say why a working folder is there although storage has no such experiment."""
    if location.url is None:
        return ""
    return (
        f" It is the working folder of {location}, where there is nothing: deleted there, or never copied. To go on "
        f"with it: tune.Tuner.restore({location.url!r}, trainable)."
    )


def _check_not_running(folder: Path) -> None:
    from .journal.lock import check_free

    try:
        check_free(folder)
    except JournalError as error:
        raise ExperimentExists(f"{error} To run another one beside it, give RunConfig another name.") from error


def _says_nothing(path: Path) -> bool:
    """Return whether a file is of no experiment: a lock, or what a reader of a journal made while that was cleared."""
    from .journal import JOURNAL_NAME
    from .journal.lock import LOCK_NAME

    empty_log = path.name == f"{JOURNAL_NAME}-wal" and path.stat().st_size == 0
    return path.name in (LOCK_NAME, f"{JOURNAL_NAME}-shm") or empty_log


def _clear_false_start(folder: Path) -> None:
    """Delete what a driver has left that was killed before anything had begun, perhaps while it made the journal.

    There is nothing in it to go on with, and it must not stand in the way of the same script, started again. The lock's
    file stays: another driver may be about to lock it.
    """
    from .journal import JOURNAL_NAME
    from .journal.lock import LOCK_NAME, lock, unlock
    from .journal.sqlite import never_began

    # The file itself last: beside what else there is of it, it tells a driver that is killed in here what this was.
    parts = [_PROBE, *(f"{JOURNAL_NAME}{suffix}" for suffix in ("-shm", "-wal", "-journal", ""))]
    there = {path.name for path in folder.iterdir()} - {LOCK_NAME}
    if not there or not there <= set(parts):
        return
    with contextlib.suppress(JournalError):  # it is being run, or no journal
        handle = lock(folder)
        try:
            if never_began(folder):
                for name in parts:
                    (folder / name).unlink(missing_ok=True)
        finally:
            unlock(handle)
