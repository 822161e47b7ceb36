"""A member's main loop: enter the user's function, again and again, until told to leave."""

from __future__ import annotations

import contextlib
import inspect
import os
import pickle
import random
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..checkpoints.store import damage, is_full, stamp
from ..core.events import Damaged, Failed, Finished, Started
from ..core.rng import stream
from ..errors import one_line
from .classes import ClassRunner
from .session import Port, Session, Unwind, set_current_session
from .wire import DriverGone, Enter, Leave

__all__ = ["run_member", "seed_member"]

Trainable = Callable[[dict[str, Any]], Any] | type[Any]


def run_member(port: Port, session: Session, trainable: Trainable, seed: int | None) -> None:
    """Run the user's function as often as the driver says; return when the member is to leave.

    Args:
        port: the way to the driver.
        session: the member's session.
        trainable: the user's function or class.
        seed: the experiment's seed; None leaves the random generators of this process alone.
    """
    function = ClassRunner(trainable, session) if inspect.isclass(trainable) else trainable
    while True:
        message = session.next_message()
        if isinstance(message, Leave):
            if isinstance(function, ClassRunner):
                function.close()
            return
        if seed is not None:
            launch = message.launch
            seed_member(seed, session.context.index, launch.generation, launch.iteration)
        set_current_session(session)
        outcome = _run_once(port, session, function, message)
        if outcome is not None:
            port.send(outcome)


def _run_once(
    port: Port, session: Session, trainable: Callable[[dict[str, Any]], Any], message: Enter
) -> Finished | Failed | Damaged | None:
    """Run the function once. Return how it ended, or None where it was unwound."""
    launch = message.launch
    source = launch.checkpoint
    outcome: Finished | Failed = Finished(launch.trial_id, launch.launch)
    try:
        # Before every load: what has changed on the disk since, or was never whole, must not become weights.
        before = _stamp(message) if launch.waits else None
        if (damaged := _damage(message)) is not None:
            return damaged
        session.begin(message)
        if launch.waits:
            session.wait_for_slot()
            if _stamp(message) != before and (damaged := _damage(message)) is not None:
                return damaged
        digest = None if source is None else source.digest
        port.send(Started(launch.trial_id, launch.launch, os.getpid(), socket.gethostname(), digest))
        config = launch.config if message.config is None else pickle.loads(message.config)
        returned = trainable(_own_copy(config))
        _only_the_member(session, 0)
        if isinstance(returned, Mapping) and not session.leaving:
            session.report(returned)
    except Unwind:
        return None
    except DriverGone:
        raise
    except BaseException as error:
        # All of them, SystemExit and asyncio's CancelledError too: the function has ended, and the member lives on.
        _only_the_member(session, 1)
        outcome = _failure(launch.trial_id, launch.launch, error, no_room=session.lacked_room)
    finally:
        session.end()
    return None if session.leaving else outcome


def _stamp(message: Enter) -> object:
    return None if message.checkpoint is None else stamp(message.checkpoint)


def _damage(message: Enter) -> Damaged | None:
    """Return what is wrong with the checkpoint that the function is to go on from, or None."""
    launch, source = message.launch, message.launch.checkpoint
    if source is None or message.checkpoint is None:
        return None
    wrong = damage(Path(message.checkpoint), source.digest)
    return None if wrong is None else Damaged(launch.trial_id, launch.launch, source.id, wrong)


def _only_the_member(session: Session, code: int) -> None:
    """End a process that the function has forked and that came back here: only the member itself may go on."""
    if os.getpid() != session.pid:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _failure(trial_id: str, launch: int, error: BaseException, *, no_room: bool) -> Failed:
    # The frames of this module are of no interest to the user.
    shown = error.__traceback__
    while shown is not None and shown.tb_frame.f_code.co_filename == __file__:
        shown = shown.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, shown))
    except Exception:
        text = "".join(traceback.format_tb(shown)) + one_line(error)
    hint = ""
    if type(error).__name__ == "BdbQuit" or (isinstance(error, EOFError) and "reading a line" in str(error)):
        hint = " (breakpoint() and input() work with TuneConfig(engine='inline') or SHOAL_ENGINE=inline)"
    elif "Cannot re-initialize CUDA in forked subprocess" in text:
        hint = " (a module of the trainable asks CUDA something when it is imported: do that inside the trainable)"
    return Failed(trial_id, launch, one_line(error) + hint, text + hint, _pickled(error), no_room or is_full(error))


def _pickled(error: BaseException) -> bytes | None:
    from ..pickles import dumps

    try:
        data = dumps(error.with_traceback(None))
        pickle.loads(data)
    except Exception:
        # An exception that cannot travel is still told by its text.
        return None
    return data if len(data) < 1_000_000 else None


def _own_copy(value: Any) -> Any:
    """Return a config whose dicts and lists are the function's own, so that changing them changes nothing in Shoal."""
    if type(value) is dict:
        return {key: _own_copy(entry) for key, entry in value.items()}
    if type(value) is list:
        return [_own_copy(entry) for entry in value]
    return value


def seed_member(seed: int, index: int, generation: int, iteration: int) -> None:
    """Seed the generators of this process, so that members differ from each other and a seeded run repeats itself.

    Members are forked from one parent and would otherwise all draw the same numbers. A function that seeds by itself
    overrides this.
    """
    rng = stream(seed, "member", index, generation, iteration)
    random.seed(rng.getrandbits(64))
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(rng.getrandbits(32))
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(rng.getrandbits(63))
