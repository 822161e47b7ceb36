"""The wiring of an experiment: make its folder, plug journal, engine and readers together, run, take it apart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from .config import RunConfig
from .errors import ExperimentExists, StorageError
from .plan import Plan

if TYPE_CHECKING:
    from .driver import Status
    from .engines import Engine

__all__ = ["execute", "make_folder"]


def execute(plan: Plan, folder: Path, run: RunConfig) -> None:
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
            readers=[
                LogFiles(),
                PolicyFiles(),
                *([CallbackReader(run.callbacks, status.note)] if run.callbacks else []),
            ],
            stopper=plan.stopper,
        )
        driver.run(plan.trials)
    finally:
        engine.close()
        journal.close()


def _make_engine(name: str) -> Engine:
    if name == "inline":
        from .engines.inline import InlineEngine

        return InlineEngine()
    from .engines.processes import ProcessEngine

    return ProcessEngine()


def make_folder(run: RunConfig, name: str) -> Path:
    """Make the folder of a new experiment."""
    root = Path(run.storage_path or os.environ.get("SHOAL_DIR") or "shoal_results").expanduser().absolute()
    folder = root / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ExperimentExists(
                f"The folder {folder} already holds an experiment or other files, which Shoal will not mix with a new "
                f"one. Give "
                f"RunConfig another name (or none: then it has the time in it), or move the folder away."
            )
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"The experiment's folder {folder} cannot be made or written: {error}. Give RunConfig a storage_path that "
            f"can be."
        ) from error
    return folder
