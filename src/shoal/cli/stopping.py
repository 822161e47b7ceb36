"""``shoal stop``: ends a running experiment, gently or at once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ..location import location_of
from .errors import EXIT_CTRL_C, EXIT_WRONG
from .finding import ExperimentArgument, find_experiment, name_for
from .output import say, warn

if TYPE_CHECKING:
    from .drivers import Driver

__all__ = ["stop"]

_LOOK_EVERY_S = 0.1
_AGAIN_AFTER_S = 1.0
"""Between two signals that say the same with more emphasis."""


def stop(
    experiment: ExperimentArgument,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for the members' next reports: as Ctrl-C, pressed twice.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, metavar="SECONDS", help="How long to wait until it has ended.")
    ] = 300.0,
) -> None:
    """End a running experiment: members come to their next report, which still counts.

    'shoal resume' goes on with it. The exit code is 1 where it is not running, runs on another machine, or has not
    ended in time.
    """
    from ..reading import is_locked, is_running
    from .drivers import driver_of

    found = find_experiment(experiment)
    if isinstance(found, str):
        folder = location_of(found).folder
        if not is_running(folder):
            _not_here(found)
    else:
        folder = found
    driver = driver_of(folder)
    if not is_running(folder):
        by = f" 'shoal {driver.task}' works on it now: {driver}." if driver is not None and is_locked(folder) else ""
        warn(f"{folder.name} is not running.{by}{_state(folder)}")
        raise typer.Exit(EXIT_WRONG)
    problem = _problem(folder, driver)
    if problem is not None or driver is None:
        warn(f"error: {problem}")
        raise typer.Exit(EXIT_WRONG)
    try:
        ended = _end(folder, driver, now, timeout)
    except KeyboardInterrupt:
        warn(f"no longer waiting for {driver}, which ends by itself.")
        raise typer.Exit(EXIT_CTRL_C) from None
    if not ended:
        how = "kill -9 ends it in any case, and nothing that was reported is lost" if now else "--now ends it at once"
        warn(f"error: {folder.name} has not ended after {timeout:g} s: {driver} was asked to, and still runs. {how}.")
        raise typer.Exit(EXIT_WRONG)
    say(("stopped ", "bold"), f"{folder.name} ({driver}).{_state(found)}")


def _not_here(url: str) -> NoReturn:
    """Say of an experiment in object storage that no driver of this machine runs it."""
    from ..reading import Experiment, State
    from .drivers import who_runs

    with contextlib.closing(Experiment.open(url)) as experiment:
        driver = who_runs(experiment)
        if experiment.state is not State.RUNNING or driver is None:
            warn(f"{experiment.name} is not running.{_state(url)}")
        elif driver.here:
            warn(f"error: {experiment.name} was run by {driver} moments ago, which has ended without a word.")
        else:
            warn(
                f"error: {experiment.name} is being run by {driver}, and this is another machine. Stop it there: ssh "
                f"{driver.host} kill -TERM {driver.pid}"
            )
    raise typer.Exit(EXIT_WRONG)


def _problem(folder: Path, driver: Driver | None) -> str | None:
    """Return why a running experiment cannot be ended from here; None where it can."""
    from ..journal.lock import LOCK_NAME

    if driver is None:
        return f"{folder.name} is running, but {folder / LOCK_NAME} does not say in which process."
    if not driver.here:
        return (
            f"{folder.name} is being run by {driver}, and this is another machine. Stop it there: "
            f"ssh {driver.host} kill -TERM {driver.pid}"
        )
    if not driver.alive:
        return (
            f"{folder.name} is locked, but {driver}, which its lock names, is not alive: another process holds the "
            f"lock, perhaps in another container. Look for it with: lsof {folder / LOCK_NAME}"
        )
    if not driver.is_mine:
        return f"{folder.name} is being run by {driver}, which belongs to another user. Ask that user, or use sudo."
    if driver.holds(folder / LOCK_NAME) is False:
        return (
            f"{folder.name} is running, but not in {driver}, which its lock names: that is another program by now, or "
            f"the experiment runs in another container. Look for it with: lsof {folder / LOCK_NAME}"
        )
    return None


def _end(folder: Path, driver: Driver, now: bool, timeout: float) -> bool:
    """Ask a driver to end and wait until it has; return whether it has ended in time."""
    deadline = time.monotonic() + timeout
    if not now:
        # The second of SIGTERM changes nothing, so one is enough.
        if not _send(driver, signal.SIGTERM):
            return True
        print(f"asked {driver} to end; members come to their next report first ...", flush=True)
        return _wait(folder, driver, deadline)
    # As a shell starts it in the background, a program may ignore SIGINT; then there is only the gentle way.
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        if not _send(driver, number) or _wait(folder, driver, min(deadline, time.monotonic() + _AGAIN_AFTER_S)):
            return True
    return _wait(folder, driver, deadline)


def _send(driver: Driver, number: signal.Signals) -> bool:
    """Send a signal; return False where there is nobody any more."""
    try:
        os.kill(driver.pid, number)
    except ProcessLookupError:
        return False
    return True


def _wait(folder: Path, driver: Driver, deadline: float) -> bool:
    """Wait until an experiment is not locked any more and its driver has left."""
    from ..journal.lock import LOCK_NAME
    from ..reading import is_locked

    while is_locked(folder) or (driver.alive and driver.holds(folder / LOCK_NAME)):
        if time.monotonic() >= deadline:
            return False
        time.sleep(min(_LOOK_EVERY_S, max(0.0, deadline - time.monotonic())))
    return True


def _state(folder: Path | str) -> str:
    """Return how far it has come, and how to go on."""
    from ..display.table import end_line
    from ..reading import Experiment, NothingYet, State

    try:
        with contextlib.closing(Experiment.open(folder)) as experiment:
            pass
    except NothingYet:
        return " Nothing had begun."
    line = f" {end_line(experiment.history, experiment.info)}."
    if experiment.state is State.INTERRUPTED:
        return f"{line} To go on: shoal resume {name_for(folder)} MODULE:{experiment.info.trainable}"
    return line
