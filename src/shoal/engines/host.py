"""A host: runs the members of one node for a driver that is elsewhere. It knows nothing of how both talk.

Members are those of a :class:`ProcessEngine`, so that all holds here that holds on one machine. All calls to it come
from one thread, which the host has for that. Where the host does not work in the driver's own folder, it does two
things more: it brings a checkpoint here before a member is launched from it, and it holds a report back until another
host has a copy of the checkpoint that comes with it. So what has been told, and was decided upon, outlives a node.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ..checkpoints.store import damage
from ..core.commands import Continue, Evict, HandOn, Launch, Stop, WindUp, checkpoint_name
from ..core.events import Event, Lost, Reported, Saved, SavedCheckpoint
from ..core.reports import reader
from ..errors import StorageError
from ..worker.wire import frame
from . import EngineSetup
from .copies import Piece, bring, read_piece
from .orders import (
    Add,
    Batch,
    Delete,
    Devices,
    End,
    Ended,
    Execute,
    Held,
    HostFacts,
    HostSetup,
    Kill,
    Order,
    Peers,
    Printed,
    Said,
    Upload,
    Uploaded,
    unpacked,
)
from .processes import ProcessEngine

__all__ = ["Host", "Neighbours"]

_PATIENCE_S = 0.1
"""So long what nobody waits for is collected, to be told together."""
_POLL_S = 0.5
_LINES_AT_MOST = 20_000
"""So many printed lines are kept for a driver that does not take them; then lines are left out, and that is said."""
_TRANSFERS = 4


class Neighbours(Protocol):
    """The other hosts, as this one reaches them. All calls wait, and raise where the other cannot be reached."""

    def piece(self, key: str, trial_folder: str, number: int, index: int) -> Piece:
        """Return a piece of a checkpoint that another host has."""
        ...

    def keep(self, key: str, owner: str, trial_folder: str, number: int, digest: str, first: Piece) -> None:
        """Have another host make a copy of a checkpoint of this one, ``owner``. Returns when it has."""
        ...


class Outbox:
    """What is to be told to the driver. What somebody waits for goes at once, the rest with it, or a moment later."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._said: list[bytes] = []
        self._since = 0.0
        """When the oldest of it came."""
        self._urgent = False
        self._number = 0
        self._newest: Batch | None = None
        """Kept until the driver has confirmed it."""
        self._lines = 0
        self._left_out = 0
        self.done = 0
        """The number of the newest packet of orders that has arrived."""

    def put(self, message: Said, *, urgent: bool) -> None:
        """Have something told."""
        data = frame(message)
        with self._ready:
            if not self._said:
                self._since = time.monotonic()
            self._said.append(data)
            self._urgent = self._urgent or urgent
            self._ready.notify()

    def print(self, name: str, text: str) -> None:
        """Have a line told that a member printed."""
        with self._ready:
            if self._lines >= _LINES_AT_MOST:
                self._left_out += 1
                return
            self._lines += 1
        self.put(Printed(name, text), urgent=False)

    def take(self, confirmed: int, patience_s: float) -> Batch:
        """Return the next batch, which may be empty; wait for something to tell.

        Args:
            confirmed: the number of the newest batch that has arrived. The one after it is given again.
            patience_s: how long to wait.
        """
        with self._ready:
            if self._newest is not None and self._newest.number > confirmed:
                return replace(self._newest, done=self.done)
            end = time.monotonic() + patience_s
            while not self._urgent and (now := time.monotonic()) < end:
                due = min(end, self._since + _PATIENCE_S) if self._said else end
                if due <= now:
                    break
                self._ready.wait(due - now)
            if self._left_out:
                text = f"(shoal: {self._left_out} lines that members printed were left out; see their output.log)"
                self._said.append(frame(Printed("shoal", text)))
            self._number += 1
            self._newest = Batch(self._number, self.done, b"".join(self._said))
            self._said, self._urgent, self._lines, self._left_out = [], False, 0, 0
            return self._newest


@dataclass(slots=True)
class _Trial:
    """What a host knows of a trial that has a process here."""

    launch: int
    until: float | None
    reached: float = 0.0
    """``time_attr`` at its newest report."""
    held: deque[Event] = field(default_factory=deque[Event])
    """What it has said since a checkpoint that no other host has yet, the report that brought it first."""
    fetching: deque[Execute] = field(default_factory=deque[Execute])
    """What is to be done when the checkpoint is here that it is launched from, that launch first."""


class Host:
    """Runs the members of a node.

    Args:
        setup: what it needs to know.
        neighbours: the other hosts.
    """

    def __init__(self, setup: HostSetup, neighbours: Neighbours) -> None:
        self._setup = setup
        self._neighbours = neighbours
        self._engine = ProcessEngine()
        self.shared = os.path.exists(setup.probe) and (setup.place is None or setup.with_driver)
        self.folder = Path(setup.folder) if self.shared else _folder_here(setup)
        self._devices: dict[int, str] = {}
        self._trials: dict[str, _Trial] = {}
        self._folders: dict[str, str] = {}
        """The names of the trials' folders."""
        self._peers: tuple[str, ...] = ()
        self._orders: deque[Order | Callable[[], None]] = deque()
        self._outbox = Outbox()
        self._pool = ThreadPoolExecutor(_TRANSFERS, "shoal-transfer")
        self._reached = reader(setup.rules.time_attr)
        self._thread = threading.Thread(target=self._live, name="shoal-host", daemon=True)
        self._started: Future[None] = Future()
        self._ending = threading.Event()
        self._over = False
        self._depot: Any = None

    # ------------------------------------------------------------------------------- called by who brings the messages

    def start(self) -> HostFacts:
        """Load the trainable. Return what this host is.

        Raises:
            EngineError: it cannot be loaded here.
        """
        self._thread.start()
        self._started.result()
        return self.facts()

    def facts(self) -> HostFacts:
        """Return what this host is and has."""
        from .. import __version__
        from ..resources import memory_available

        return HostFacts(socket.gethostname(), os.getpid(), __version__, self.shared, memory_available())

    def give_up(self) -> None:
        """Nobody waits for the start any more."""
        self._ending.set()

    def do(self, number: int, orders: bytes) -> int:
        """Take a packet of orders, unless it has come before. Return the number of the newest that has come."""
        if number == self._outbox.done + 1:
            self._outbox.done = number
            self._orders.extend(unpacked(orders))
            self._engine.wake()
        return self._outbox.done

    def listen(self, confirmed: int, patience_s: float) -> Batch:
        """Return what is to be told; see :meth:`Outbox.take`."""
        return self._outbox.take(confirmed, patience_s)

    def piece(self, trial_folder: str, number: int, index: int) -> Piece:
        """Return a piece of a checkpoint that is here.

        Raises:
            OSError: it is not.
        """
        return read_piece(self.folder / trial_folder / checkpoint_name(number), index)

    def keep(self, owner: str, trial_folder: str, number: int, digest: str, first: Piece) -> None:
        """Make a copy of a checkpoint that another host has.

        Raises:
            StorageError: it cannot be written here.
            Exception: the other cannot be reached any more.
        """
        self._bring(trial_folder, number, digest, owner, first)

    # ------------------------------------------------------------------------------------------------------ its thread

    def _live(self) -> None:
        try:
            self._start()
        except BaseException as error:
            self._started.set_exception(error)
            self._engine.close(at_once=True)
            return
        self._started.set_result(None)
        try:
            while not self._over:
                while self._orders:
                    self._do(self._orders.popleft())
                if not self._over:
                    for event in self._engine.poll(_POLL_S):
                        self._hear(event)
            while True:  # checkpoints are still given away
                self._after_the_end(self._orders.popleft() if self._orders else None)
        except BaseException:
            self._outbox.put(Ended(traceback.format_exc()), urgent=True)
            self._engine.close(at_once=True)

    def _start(self) -> None:
        setup = self._setup
        _take_path_over(setup.path)
        self._engine.start(
            EngineSetup(
                trainable=_never_called,
                rules=setup.rules,
                experiment=setup.experiment,
                seed=setup.seed,
                cpus=setup.cpus,
                gpus=setup.gpus,
                devices=self._devices,
                output=self._outbox.print,
                # Else the driver writes it, from what it is told.
                log_to_file=setup.log_to_file and self.shared,
                applied=setup.applied,
                check=self._check,
            ),
            pickled=setup.trainable,
        )

    def _check(self) -> None:
        if self._ending.is_set():
            raise KeyboardInterrupt

    def _do(self, order: Order | Callable[[], None]) -> None:
        """Carry an order out."""
        if isinstance(order, Execute):
            trial = self._trials.get(order.command.trial_id)
            if trial is not None and trial.fetching:
                self._wait_for_fetch(trial, order)
            else:
                self._execute(order)
        elif isinstance(order, Add):
            name = os.path.basename(order.info.folder)
            self._folders[order.info.trial_id] = name
            self._engine.add(replace(order.info, folder=str(self.folder / name)))
        elif isinstance(order, Devices):
            self._devices.update(order.devices)
        elif isinstance(order, Kill):
            self._engine.kill(order.trial_id, order.reason)
        elif isinstance(order, Peers):
            self._peers = order.keys
        elif isinstance(order, Delete):
            self._local_depot().delete(order.trial_folder, order.number)
        elif isinstance(order, Upload):
            self._upload(order)
        elif isinstance(order, End):
            self._end(order)
        else:
            order()

    def _end(self, order: End) -> None:
        self._over = True
        self._engine.close(at_once=order.at_once)
        self._outbox.put(Ended(), urgent=True)

    def _after_the_end(self, order: Order | Callable[[], None] | None) -> None:
        if order is None:
            time.sleep(0.02)
        elif not isinstance(order, Execute | Kill | End):
            self._do(order)

    # ------------------------------------------------------------------------------------------------------- executing

    def _execute(self, order: Execute) -> None:
        command = order.command
        trial_id = command.trial_id
        if isinstance(command, Launch):
            trial = self._trials.setdefault(trial_id, _Trial(command.launch, command.until))
            trial.launch, trial.until = command.launch, command.until
            trial.reached = 0.0 if command.checkpoint is None else command.checkpoint.time
            if self._lacks(order):
                self._fetch(trial, order)
                return
        elif isinstance(command, Continue) and trial_id in self._trials:
            self._trials[trial_id].until = command.until
        elif isinstance(command, HandOn) and command.to in self._trials:
            self._trials[command.to].until = command.until
        elif isinstance(command, Evict | Stop):
            self._trials.pop(trial_id, None)
        self._pass_on(order)

    def _pass_on(self, order: Execute) -> None:
        command, path = order.command, None
        if isinstance(command, Launch):
            if order.config is not None:
                self._engine.pack(command.trial_id, command.launch, order.config)
            if command.checkpoint is not None:
                path = str(self.folder / order.trial_folder / checkpoint_name(command.checkpoint.number))
        self._engine.execute(command, path)

    def _lacks(self, order: Execute) -> bool:
        """Return whether the checkpoint of a launch has to be brought here first."""
        assert isinstance(order.command, Launch)
        record = order.command.checkpoint
        if self.shared and self._setup.place is None:
            return False
        return record is not None and not (self.folder / order.trial_folder / checkpoint_name(record.number)).is_dir()

    def _fetch(self, trial: _Trial, order: Execute) -> None:
        """Bring the checkpoint of a launch here. What is to be done with that trial meanwhile waits."""
        trial.fetching.append(order)

        def arrived() -> None:
            if not trial.fetching or trial.fetching[0] is not order:
                return  # it is not wanted any more
            waiting, trial.fetching = trial.fetching, deque()
            # One that is nowhere any more is launched all the same: the member finds that out, and the core decides.
            first = waiting.popleft()
            assert isinstance(first.command, Launch)
            if first.command.checkpoint is not None and not self._lacks(first):
                self._outbox.put(
                    Held(first.trial_folder, first.command.checkpoint.number, (self._setup.key,)), urgent=False
                )
            self._pass_on(first)
            while waiting:
                self._do(waiting.popleft())

        self._pool.submit(self._bring_for, order).add_done_callback(lambda _: self._later(arrived))

    def _wait_for_fetch(self, trial: _Trial, order: Execute) -> None:
        """Something is to be done with a trial whose checkpoint is on its way."""
        command = order.command
        if isinstance(command, WindUp | Evict | Stop):
            # It has not been entered, so there is nothing to wait for.
            launch = trial.fetching[0].command
            trial.fetching.clear()
            if isinstance(command, WindUp) and isinstance(launch, Launch) and launch.fresh:
                self._trials.pop(command.trial_id, None)
                self._outbox.put(Lost(command.trial_id, command.launch, "it had not been started yet"), urgent=True)
            else:
                self._execute(order)
        else:
            trial.fetching.append(order)

    def _bring_for(self, order: Execute) -> None:
        """Bring the checkpoint of a launch here: from another host's memory, or else from storage."""
        command = order.command
        assert isinstance(command, Launch)
        record = command.checkpoint
        assert record is not None
        for key in order.holders:
            with contextlib.suppress(Exception):
                first = self._neighbours.piece(key, order.trial_folder, record.number, 0)
                self._bring(order.trial_folder, record.number, record.digest, key, first)
                return
        if self._setup.place is not None:
            from ..storage.place import Place
            from ..storage.transfer import download_checkpoint

            name = checkpoint_name(record.number)
            with contextlib.suppress(Exception):
                place = Place(self._setup.place) / order.trial_folder / name
                download_checkpoint(place, self.folder / order.trial_folder / name, record.digest)

    def _bring(self, trial_folder: str, number: int, digest: str, key: str, first: Piece) -> None:
        there = self.folder / trial_folder / checkpoint_name(number)
        if there.is_dir() and damage(there, digest) is None:
            return
        bring(
            self.folder,
            trial_folder,
            number,
            digest,
            first,
            lambda index: self._neighbours.piece(key, trial_folder, number, index),
        )

    # --------------------------------------------------------------------------------------------------------- hearing

    def _hear(self, event: Event) -> None:
        """Pass on what has happened, now or when it is safe."""
        trial = self._trials.get(getattr(event, "trial_id", ""))
        if trial is None:
            self._outbox.put(event, urgent=True)
        elif trial.held:
            trial.held.append(event)
        elif (saved := _saved(event)) is not None and self._peers and not self.shared:
            trial.held.append(event)
            self._secure(trial, event, saved)
        else:
            self._tell(trial, event)

    def _secure(self, trial: _Trial, event: Event, saved: SavedCheckpoint) -> None:
        """Have another host make a copy of a checkpoint, and then pass on the report that brought it."""
        trial_id: str = event.trial_id  # type: ignore[union-attr]
        name, peers = self._folders[trial_id], self._peers

        def copy() -> tuple[str, ...]:
            for key in peers:
                with contextlib.suppress(Exception):
                    first = self.piece(name, saved.number, 0)
                    self._neighbours.keep(key, self._setup.key, name, saved.number, saved.digest, first)
                    return (self._setup.key, key)
            return (self._setup.key,)  # nobody else is there any more

        def secured(copied: Future[tuple[str, ...]]) -> None:
            keys = copied.result()
            self._outbox.put(Held(name, saved.number, keys), urgent=False)
            held, trial.held = trial.held, deque()
            self._tell(trial, held.popleft())
            while held:
                self._hear(held.popleft())

        self._pool.submit(copy).add_done_callback(lambda copied: self._later(lambda: secured(copied)))

    def _tell(self, trial: _Trial, event: Event) -> None:
        if isinstance(event, Reported) and not event.waiting:
            reached = self._reached(event)
            reached = float(event.iteration) if reached is None else reached
            step, trial.reached = reached - trial.reached, reached
            # The core may promise its slot to another when it hears this, which has to be in time for that.
            nearly_there = trial.until is not None and reached + step >= trial.until
            self._outbox.put(event, urgent=nearly_there)
            return
        if isinstance(event, Lost):
            self._trials.pop(event.trial_id, None)
        self._outbox.put(event, urgent=True)

    def _later(self, call: Callable[[], None]) -> None:
        """Have something done in the host's own thread."""
        self._orders.append(call)
        self._engine.wake()

    # --------------------------------------------------------------------------------------------------------- storage

    def _upload(self, order: Upload) -> None:
        from ..storage.place import Place

        def uploaded(future: Future[None]) -> None:
            error = future.exception()
            self._outbox.put(Uploaded(order.number_of_order, _travels(error)), urgent=True)

        depot = self._local_depot()
        depot.upload(order.trial_folder, order.number, order.digest, Place(order.place)).add_done_callback(uploaded)

    def _local_depot(self) -> Any:
        if self._depot is None:
            from ..checkpoints.depot import LocalDepot

            self._depot = LocalDepot(self.folder)
        return self._depot


def _saved(event: Event) -> SavedCheckpoint | None:
    return event.checkpoint if isinstance(event, Reported | Saved) else None


def _travels(error: BaseException | None) -> BaseException | None:
    """Return an error that the driver can load."""
    return (
        error if error is None or isinstance(error, StorageError) else StorageError(f"{type(error).__name__}: {error}")
    )


def _never_called(config: dict[str, Any]) -> None:
    raise AssertionError("the trainable is there as bytes only")


def _folder_here(setup: HostSetup) -> Path:
    """Return a folder of this node, in place of the driver's, which goes when this process ends."""
    from ..location import cache_folder
    from ..scratch import Owner

    base = cache_folder() / "nodes"
    base.mkdir(parents=True, exist_ok=True)
    return Owner("files").folder(base) / Path(setup.folder).name


def _take_path_over(path: Sequence[str]) -> None:
    """Let this process, and so its members, import what the driver can: where it is here, too."""
    here = os.path.dirname(os.path.abspath(sys.modules["__main__"].__file__ or "")) if _has_main() else None
    # Ray's own script lies in a folder of modules that nobody else means.
    own = [entry for entry in sys.path if entry != here]
    sys.path[:] = [*own, *(entry for entry in path if entry not in own and (not entry or os.path.isdir(entry)))]


def _has_main() -> bool:
    return getattr(sys.modules.get("__main__"), "__file__", None) is not None
