"""The wiring of an experiment: make its folder, plug journal, engine and readers together, run, take it apart."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .config import RunConfig, TuneConfig, storage_folder
from .errors import ExperimentExists, JournalError, StorageError
from .plan import Plan
from .resources import FILES_OF_A_RESIDENT, allow_open_files

if TYPE_CHECKING:
    from .display import Status
    from .engines import Engine, EngineSetup
    from .journal.sqlite import SQLiteJournal
    from .watchdog import Watchdog

__all__ = ["execute", "make_folder"]

_SLOW_TO_LOAD = ("torch", "tensorflow", "jax")
"""What the script has of these, members' parent process loads too, and that takes seconds."""

_OF_THE_STORE = re.compile(r"\.?(deleted_)?checkpoint_\d{6,}(\.\d+)?")


def execute(plan: Plan, folder: Path, run: RunConfig, tune: TuneConfig, journal: SQLiteJournal | None = None) -> None:
    """Run the plan in its folder, and leave nothing running, however it ends.

    Args:
        plan: what to run.
        folder: the experiment's folder.
        run, tune: the settings, which are kept for a restore.
        journal: that of an experiment that goes on, open for writing; it is closed here. None: begin one.
    """
    from .callbacks import CallbackReader
    from .display import make_status
    from .driver import Driver
    from .journal.sqlite import SQLiteJournal
    from .loggers import tensorboard_wanted
    from .settings import settings_to_meta
    from .sinks import LogFiles, PolicyFiles
    from .sinks.tensorboard import TensorBoardFiles

    started = False
    status: Status = make_status(run.verbose, inline=plan.info.engine == "inline")
    engine = _make_engine(plan.info.engine)
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
        driver = Driver(
            info=plan.info,
            folder=folder,
            population=plan.population,
            journal=journal,
            engine=engine,
            status=status,
            readers=[
                LogFiles(),
                PolicyFiles(),
                *([TensorBoardFiles()] if tensorboard_wanted(run.callbacks) else []),
                *([CallbackReader(run.callbacks, status.note)] if run.callbacks else []),
            ],
            stopper=plan.stopper,
            watchdog=_watchdog(run),
            history=plan.history,
        )
        if not new:
            _sweep(plan, folder)  # what members of a killed driver have left
        if any(name in sys.modules for name in _SLOW_TO_LOAD):
            with contextlib.suppress(OSError):  # a terminal that is gone ends no run
                status.opening(f"{plan.info.name}: loading {plan.info.trainable} and what it imports ...")
        engine.start(_engine_setup(plan, run, tune, driver.output))
        if not new:
            # Only now, because settings with which nothing could be started are not those of the experiment.
            journal.set_meta(**facts)
        started = True
        driver.run(plan.begin, plan.trials)
    finally:
        try:
            engine.close()
        finally:
            if journal is not None:
                journal.close()
            if started:
                # Where the journal lacks something, it still needs checkpoints that the core thinks are gone.
                if driver is not None and driver.settled:
                    _sweep(plan, folder)
            elif new:
                # Nothing has happened yet: leave nothing, so that the corrected script can use the same name.
                shutil.rmtree(folder, ignore_errors=True)


def _engine_setup(plan: Plan, run: RunConfig, tune: TuneConfig, output: Callable[[str, str], None]) -> EngineSetup:
    from .applied import CheckApplied
    from .engines import EngineSetup

    check = tune.check_applied
    return EngineSetup(
        trainable=plan.trainable,
        rules=plan.rules,
        experiment=plan.info.name,
        seed=plan.info.seed,
        cpus=plan.info.cpus,
        gpus=plan.info.gpus,
        devices=plan.info.devices,
        output=output,
        log_to_file=run.log_to_file,
        applied=check if isinstance(check, CheckApplied) else CheckApplied() if check else None,
    )


def _watchdog(run: RunConfig) -> Watchdog | None:
    from .watchdog import Watchdog

    timeout = None if run.failure_config is None else run.failure_config.report_timeout_s
    return None if timeout is None else Watchdog(timeout)  # type: ignore[arg-type]


def _sweep(plan: Plan, folder: Path) -> None:
    """Delete what members had written for a report that came too late to count."""
    for trial in plan.trials:
        for path in (folder / trial.folder).glob("*checkpoint_*"):
            if _OF_THE_STORE.fullmatch(path.name) is None:
                continue  # the user's own
            known = not path.name.startswith(".") and plan.population.retention.knows(f"{trial.trial_id}/{path.name}")
            if not known:
                shutil.rmtree(path, ignore_errors=True)


def _make_engine(name: str) -> Engine:
    if name == "inline":
        from .engines.inline import InlineEngine

        return InlineEngine()
    from .engines.processes import ProcessEngine

    return ProcessEngine()


def make_folder(run: RunConfig, name: str) -> Path:
    """Make the folder of a new experiment."""
    folder = storage_folder(run) / name
    try:
        folder = folder.expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
        _clear_false_start(folder)
        if any(folder.iterdir()):
            raise ExperimentExists(
                f"The folder {folder} already holds an experiment or other files, which Shoal will not mix with a new "
                f"one. Give "
                f"RunConfig another name (or none: then it has the time in it), or move the folder away."
            )
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except (OSError, RuntimeError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"The experiment's folder {folder} cannot be made or written: {error}. Give RunConfig a storage_path that "
            f"can be."
        ) from error
    return folder


def _clear_false_start(folder: Path) -> None:
    """Delete an empty journal: its driver was killed before anything had begun, perhaps while it loaded the trainable.

    There is nothing in it to go on with, and it must not stand in the way of the same script, started again.
    """
    from .journal import JOURNAL_NAME
    from .journal.sqlite import SQLiteJournal

    parts = {JOURNAL_NAME, f"{JOURNAL_NAME}-wal", f"{JOURNAL_NAME}-shm", "journal.lock"}
    there = {path.name for path in folder.iterdir()}
    if JOURNAL_NAME not in there or not there <= parts:
        return
    with contextlib.suppress(JournalError):  # it is being run, or no journal
        with contextlib.closing(SQLiteJournal.open_for_writing(folder)) as journal:
            empty = next(journal.read(), None) is None
        if empty:
            for name in parts:
                (folder / name).unlink(missing_ok=True)
