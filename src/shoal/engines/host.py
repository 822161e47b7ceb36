"""A host: runs the members of one node for a driver that is elsewhere. It knows nothing of how both talk.

Members are those of a :class:`ProcessEngine`, so that all holds here that holds on one machine. All calls to it come
from one thread, which the host has for that. Where the host does not work in the driver's own folder, it does two
things more: it brings a checkpoint here before a member is launched from it, or asks the driver where that cannot be
done, and it holds a report back until another host has a copy of the checkpoint that comes with it. So what has been
told, and was decided upon, outlives a node. If no other host can make a copy, the report is told all the same, and so
is the user.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from .. import objects
from ..checkpoints.store import is_full
from ..core.commands import Continue, Evict, HandOn, Launch, Stop, WindUp, checkpoint_name
from ..core.events import Event, Failed, Lost, Reported, Saved, SavedCheckpoint
from ..core.reports import reader
from ..errors import StorageError, one_line
from ..patience import grace_s
from ..scratch import Owner, sweep_untouched
from ..storage.workers import Workers
from ..worker.environment import THREAD_VARIABLES
from . import EngineSetup
from .copies import Offer, Piece
from .line import Outbox
from .orders import (
    Add,
    Batch,
    Begin,
    Delete,
    Devices,
    End,
    Ended,
    Execute,
    Fetch,
    Held,
    HostFacts,
    HostSetup,
    Kill,
    Missing,
    Order,
    Peers,
    Remark,
    Upload,
    Uploaded,
)
from .processes import ProcessEngine
from .stock import Neighbours, Stock, has_answered, patience_for

__all__ = ["Host"]

_POLL_S = 0.5
_IDLE_S = 0.05
_NOT_TAKEN = ("RAY_", "CUDA_VISIBLE_DEVICES", *THREAD_VARIABLES)
"""How environment variables begin that are others in each process of Ray."""
_OF_RAY = "runtime_resources"
"""In the path of a working directory that Ray has made for a ``runtime_env``."""
_TRANSFERS = 4
"""So many checkpoints are fetched at the same time, and so many are copied to others."""


@dataclass(slots=True)
class _Trial:
    """What a host knows of a trial that has a process here."""

    launch: int
    until: float | None
    reached: float = 0.0
    """``time_attr`` at its newest report."""
    held: deque[Event] = field(default_factory=deque[Event])
    """What it has said since a checkpoint that no other host has yet, the report that brought it first."""
    copying: bool = False
    """Whether a copy of that checkpoint is being made."""
    fetching: deque[Execute] = field(default_factory=deque[Execute])
    """What is to be done when the checkpoint is here that it is launched from, that launch first."""
    fetched_since: float = 0.0
    """When that began."""
    excused_until: float = 0.0
    """It has waited for its checkpoint, and until then has as much time more to be heard."""


class Host:
    """Runs the members of a node. Unless something else is said, its methods may be called in any thread.

    Args:
        setup: what it needs to know.
        neighbours: the other hosts.
    """

    def __init__(self, setup: HostSetup, neighbours: Neighbours) -> None:
        self._setup = setup
        self._neighbours = neighbours
        self._engine = ProcessEngine()
        self._files = Owner("files")
        self._outbox = Outbox()
        self.shared = os.path.exists(setup.probe) and (setup.place is None or setup.with_driver) and self._can_write()
        self.folder = Path(setup.folder) if self.shared else _folder_here(self._files, setup)
        self._ending = threading.Event()
        """Nobody needs this host any more."""
        self._stock = Stock(self.folder, neighbours, setup.place, self._ending.wait)
        self._devices: dict[int, str] = {}
        self._trials: dict[str, _Trial] = {}
        """Those that have a process here, or are about to have one."""
        self._gone_by: dict[str, float] = {}
        """When those have to be gone that are to leave: until then a copy can be waited for."""
        self._folders: dict[str, str] = {}
        """The names of the trials' folders."""
        self._peers = Peers(())
        self._unreached: str | None = None
        """The one of them that could not be reached when it was tried last."""
        self._alone = False
        """Whether it was said that no other host can make copies."""
        self._orders: deque[Order | Callable[[], None]] = deque()
        self._taking = threading.Lock()
        """Held while orders are put there that have come, so that they keep their order."""
        self._fetchers = Workers(_TRANSFERS, "shoal-fetch")
        self._copiers = Workers(_TRANSFERS, "shoal-copy")
        self._reached = reader(setup.rules.time_attr)
        self._thread = threading.Thread(target=self._live, name="shoal-host", daemon=True)
        self._started: Future[None] = Future()
        self._over = False
        """All members have ended."""

    def _can_write(self) -> bool:
        """Return whether files can be made in the driver's folder, which is there."""
        mine = Path(f"{self._setup.probe}.{self._setup.key}")
        try:
            mine.touch()
            mine.unlink()
        except OSError as error:
            where = f"{socket.gethostname()} cannot write to {self._setup.folder}, which it sees ({one_line(error)})"
            self._outbox.put(Remark(f"{where}. Members there have a folder of their own."), urgent=False)
            return False
        return True

    # ------------------------------------------------------------------------------- called by who brings the messages

    def start(self) -> HostFacts:
        """Load the trainable. Return what this host is. One that only keeps copies need not be started.

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

    def do(self, number: int, orders: bytes) -> int:
        """Take a packet of orders, unless it has come before. Return the number of the newest that has come."""
        with self._taking:
            self._orders.extend(self._outbox.receive(number, orders))
        self._engine.wake()
        return self._outbox.done

    def listen(self, confirmed: int, patience_s: float) -> Batch:
        """Return what is to be told; see :meth:`shoal.engines.line.Outbox.take`."""
        self._files.touch()
        return self._outbox.take(confirmed, patience_s)

    def piece(self, trial_folder: str, number: int, index: int) -> Piece:
        """Return a piece of a checkpoint; see :meth:`shoal.engines.stock.Stock.piece`."""
        return self._stock.piece(trial_folder, number, index)

    def keep(self, offer: Offer) -> None:
        """Make a copy of another host's checkpoint; see :meth:`shoal.engines.stock.Stock.keep`."""
        self._stock.keep(offer)

    def close(self) -> None:
        """End all that is left, without waiting for what is on its way, and delete what was stored on this machine."""
        self._ending.set()
        self._engine.wake()
        if self._thread.ident is not None:
            self._thread.join()
        else:
            self._engine.close(at_once=True)
        self._fetchers.close()
        self._copiers.close()
        self._stock.close()
        self._files.free()
        objects.free_all()

    # ------------------------------------------------------------------------------------------------------ its thread

    def _live(self) -> None:
        try:
            self._start()
        except BaseException as error:
            self._engine.close(at_once=True)
            self._started.set_exception(error)
            return
        self._started.set_result(None)
        try:
            while not self._over and not self._ending.is_set():
                while self._orders and not self._over:
                    self._do(self._orders.popleft())
                if not self._over:
                    for event in self._engine.poll(_POLL_S):
                        self._hear(event)
                    if self._gone_by:
                        self._tell_overdue()
            while not self._ending.is_set():  # checkpoints are still given away
                while self._orders:
                    self._do_after_the_end(self._orders.popleft())
                self._ending.wait(_IDLE_S)
        except BaseException:
            self._over = True
            self._outbox.put(Ended(traceback.format_exc()), urgent=True)
        finally:
            self._engine.close(at_once=True)

    def _start(self) -> None:
        setup = self._setup
        _take_over(setup)
        objects.expect()
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
        elif isinstance(order, Fetch | Begin):
            self._answered(order)
        elif isinstance(order, Kill):
            self._kill(order)
        elif isinstance(order, Peers):
            self._peers = order
            for trial_id, trial in list(self._trials.items()):
                if trial.held and not trial.copying:
                    self._secure(trial_id, trial)
        elif isinstance(order, Delete):
            self._stock.delete(order.trial_folder, order.number)
        elif isinstance(order, Upload):
            self._upload(order)
        elif isinstance(order, End):
            self._end(order)
        else:
            order()

    def _end(self, order: End) -> None:
        self._over = True
        self._engine.close(at_once=order.at_once)
        self._trials.clear()
        self._outbox.put(Ended(), urgent=True)

    def _do_after_the_end(self, order: Order | Callable[[], None]) -> None:
        """Carry out what is not about members. Those whose checkpoint has arrived only now do not begin any more."""
        if isinstance(order, Delete | Upload):
            self._do(order)

    # ------------------------------------------------------------------------------------------------------- executing

    def _execute(self, order: Execute) -> None:
        command = order.command
        trial_id = command.trial_id
        if isinstance(command, Launch):
            trial = self._trials.setdefault(trial_id, _Trial(command.launch, command.until))
            trial.launch, trial.until = command.launch, command.until
            self._gone_by.pop(trial_id, None)
            trial.reached = 0.0 if command.checkpoint is None else command.checkpoint.time
            self._stock.launched(self._folders[trial_id], command.launch)
            if self._lacks(order):
                self._fetch(trial, order)
                return
        elif isinstance(command, Continue) and trial_id in self._trials:
            self._trials[trial_id].until = command.until
        elif isinstance(command, HandOn) and command.to in self._trials:
            successor = self._trials[command.to]
            if successor.fetching:
                return  # it is not ready to be told; it hears of it by its Continue
            successor.until = command.until
        elif isinstance(command, WindUp):
            self._gone_by[trial_id] = time.monotonic() + grace_s()
        elif isinstance(command, Evict | Stop):
            self._trials.pop(trial_id, None)
            self._gone_by.pop(trial_id, None)
        self._pass_on(order)

    def _pass_on(self, order: Execute) -> None:
        command, path = order.command, None
        if isinstance(command, Launch):
            if order.config is not None:
                self._engine.pack(command.trial_id, command.launch, order.config)
            if command.checkpoint is not None:
                path = str(self._stock.path(order.trial_folder, command.checkpoint.number))
        self._engine.execute(command, path)

    def _kill(self, order: Kill) -> None:
        """End a trial of which nothing is heard, unless that is because of what is on its way between hosts.

        All such ways have limits of their own.
        """
        trial = self._trials.get(order.trial_id)
        if trial is None or not (trial.fetching or trial.held or time.monotonic() < trial.excused_until):
            self._engine.kill(order.trial_id, order.reason)

    # -------------------------------------------------------------------------------------------------------- fetching

    def _lacks(self, order: Execute) -> bool:
        """Return whether the checkpoint of a launch has to be brought here first."""
        assert isinstance(order.command, Launch)
        record = order.command.checkpoint
        if record is None:
            return False
        if self.shared and self._setup.place is None:
            return not self._stock.path(order.trial_folder, record.number).is_dir()
        return not self._stock.has(order.trial_folder, record.number, record.digest)

    def _fetch(self, trial: _Trial, order: Execute) -> None:
        """Bring the checkpoint of a launch here. What is to be done with that trial meanwhile waits."""
        trial.fetching.append(order)
        trial.fetched_since = time.monotonic()
        self._bring(trial, order)

    def _bring(self, trial: _Trial, order: Execute) -> None:
        assert isinstance(order.command, Launch)
        record = order.command.checkpoint
        assert record is not None
        fetch = partial(self._stock.fetch, order.trial_folder, record.number, record.digest, order.holders)
        self._begin(self._fetchers, fetch, lambda fetched: self._fetched(trial, order, fetched.result()))

    def _fetched(self, trial: _Trial, order: Execute, why_not: BaseException | None) -> None:
        """The checkpoint of a launch is here, or cannot be brought."""
        if not trial.fetching or trial.fetching[0] is not order:
            return  # it is not wanted any more
        if why_not is None:
            self._go_on(trial)
        elif is_full(why_not):
            trial.fetching.clear()
            text = one_line(why_not)
            self._hear(Failed(order.command.trial_id, order.command.launch, text, text, no_room=True))
        else:
            self._misses(order, why_not)

    def _misses(self, order: Execute, why: BaseException) -> None:
        """Ask the driver what is to become of a launch. It knows where the checkpoint is, and who is about to come."""
        command = order.command
        assert isinstance(command, Launch)
        record = command.checkpoint
        assert record is not None
        self._outbox.put(
            Missing(
                command.trial_id,
                command.launch,
                order.trial_folder,
                record.number,
                record.digest,
                order.holders,
                has_answered(why),
                one_line(why),
            ),
            urgent=True,
        )

    def _answered(self, answer: Fetch | Begin) -> None:
        """The driver has said what is to become of a launch that misses its checkpoint."""
        trial = self._trials.get(answer.trial_id)
        if trial is None or not trial.fetching or trial.fetching[0].command.launch != answer.launch:
            return  # it is not wanted any more
        if isinstance(answer, Fetch):
            order = trial.fetching[0]
            asked = tuple(key for key in order.holders if key not in answer.holders)
            order = trial.fetching[0] = replace(order, holders=(*answer.holders, *asked))
            self._bring(trial, order)
        elif answer.lost is not None:
            self._give_up(answer.trial_id, trial, answer.lost, innocent=True)
        else:
            self._go_on(trial)  # the member finds out that it is gone, and the core decides

    def _go_on(self, trial: _Trial) -> None:
        """Do what has waited for a checkpoint."""
        waiting, trial.fetching = trial.fetching, deque()
        now = time.monotonic()
        trial.excused_until = now + (now - trial.fetched_since)
        self._pass_on(waiting.popleft())
        while waiting:
            self._do(waiting.popleft())

    def _wait_for_fetch(self, trial: _Trial, order: Execute) -> None:
        """Something is to be done with a trial whose checkpoint is on its way."""
        command = order.command
        if isinstance(command, WindUp):
            self._give_up(command.trial_id, trial, "it had not been started yet")
        elif isinstance(command, Evict | Stop):
            trial.fetching.clear()
            self._execute(order)
        else:
            trial.fetching.append(order)

    def _give_up(self, trial_id: str, trial: _Trial, reason: str, *, innocent: bool = False) -> None:
        """End a trial here that waits for the checkpoint that it was to be launched from."""
        launch = trial.fetching[0].command
        assert isinstance(launch, Launch)
        trial.fetching.clear()
        if not launch.fresh:
            self._engine.execute(Evict(trial_id, launch.launch), None)
        self._hear(Lost(trial_id, launch.launch, reason, innocent))

    # --------------------------------------------------------------------------------------------------------- hearing

    def _hear(self, event: Event) -> None:
        """Pass on what has happened, now or when it is safe."""
        trial_id: str = getattr(event, "trial_id", "")
        trial = self._trials.get(trial_id)
        saved = _saved(event)
        if saved is not None:
            self._stock.saved(self._folders[trial_id], saved.number, saved.digest)
        if trial is None:
            self._outbox.put(event, urgent=True)
        elif trial.held:
            trial.held.append(event)
        elif saved is not None and not self.shared and not self._is_overdue(trial_id):
            trial.held.append(event)
            self._secure(trial_id, trial)
        else:
            self._tell(trial, event)

    def _secure(self, trial_id: str, trial: _Trial) -> None:
        """Have a copy made of the checkpoint of a report that is held, or wait until somebody is there who can."""
        saved = _saved(trial.held[0])
        assert saved is not None
        if self._peers.keys:
            trial.copying = True
            copy = partial(self._copy, self._folders[trial_id], trial.launch, saved, self._peers.keys)
            self._begin(self._copiers, copy, lambda copied: self._copied(trial_id, trial, saved, copied))
        elif not self._peers.awaited:
            self._tell_held(trial_id, trial)

    def _copy(self, trial_folder: str, launch: int, saved: SavedCheckpoint, peers: Sequence[str]) -> str:
        """Have another host make a copy of a checkpoint. Return which has.

        Raises:
            Exception: why it could not.
        """
        why: Exception = StorageError("no other host is there")
        for key in sorted(peers, key=lambda key: key == self._unreached):
            try:
                first = self._stock.piece(trial_folder, saved.number, 0)
                offer = Offer(self._setup.key, trial_folder, launch, saved.number, saved.digest, first)
                self._neighbours.keep(key, offer, patience_for(first.listing.size))
                return key
            except Exception as error:
                why, self._unreached = error, key
        raise why

    def _copied(self, trial_id: str, trial: _Trial, saved: SavedCheckpoint, copied: Future[str]) -> None:
        """There is a copy of a checkpoint, or there cannot be any: the report that brought it can be told."""
        name, why = self._folders[trial_id], copied.exception()
        if why is None:
            self._alone = False
            self._outbox.put(Held(name, saved.number, saved.digest, copied.result()), urgent=False)
        if not trial.held or _saved(trial.held[0]) is not saved:
            return  # it was told meanwhile
        trial.copying = False
        if why is not None and self._peers.awaited:
            self._secure(trial_id, trial)  # all who could are gone, and another comes
            return
        if why is not None and not self._alone:
            self._alone = True
            text = f"{name}/{checkpoint_name(saved.number)} is on {socket.gethostname()} only, as others may be"
            self._outbox.put(Remark(f"{text}: it cannot be copied to another node. {one_line(why)}"), urgent=False)
        self._tell_held(trial_id, trial)

    def _is_overdue(self, trial_id: str) -> bool:
        """Return whether a trial should have left by now."""
        return trial_id in self._gone_by and time.monotonic() >= self._gone_by[trial_id]

    def _tell_overdue(self) -> None:
        """Tell what is held of those that should have left by now: somebody waits for the end of the run."""
        overdue = [trial_id for trial_id in self._gone_by if self._is_overdue(trial_id)]
        held = {trial_id: trial for trial_id in overdue if (trial := self._trials.get(trial_id)) and trial.held}
        if held:
            saved = {trial_id: _saved(trial.held[0]) for trial_id, trial in held.items()}
            names = [
                f"{self._folders[trial_id]}/{checkpoint_name(each.number)}"
                for trial_id, each in saved.items()
                if each is not None
            ]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            where = f"On {socket.gethostname()} only: {names[0]}{more}"
            self._outbox.put(Remark(f"{where}. There was no time left for copies on another node."), urgent=False)
        for trial_id, trial in held.items():
            trial.copying = False
            self._tell_held(trial_id, trial)

    def _tell_held(self, trial_id: str, trial: _Trial) -> None:
        """Tell a report that was held, and what came after it."""
        held, trial.held = trial.held, deque()
        if self._trials.get(trial_id) is not trial:
            for late in held:
                self._outbox.put(late, urgent=True)
            return
        self._tell(trial, held.popleft())
        while held:
            self._hear(held.popleft())

    def _tell(self, trial: _Trial, event: Event) -> None:
        if isinstance(event, Reported) and not event.waiting:
            reached = self._reached(event)
            reached = float(event.iteration) if reached is None else reached
            step, trial.reached = reached - trial.reached, reached
            # The core may promise its slot to another when it hears this, which has to be in time for that.
            nearly_there = trial.until is not None and reached + step >= trial.until
            self._outbox.put(event, urgent=nearly_there)
            return
        if isinstance(event, Lost) and event.launch >= trial.launch:
            self._trials.pop(event.trial_id, None)
            self._gone_by.pop(event.trial_id, None)
        self._outbox.put(event, urgent=True)

    def _begin(self, workers: Workers, call: Callable[[], Any], then: Callable[[Future[Any]], None]) -> None:
        """Have something done that takes long, and then something else in the host's own thread."""

        def later(done: Future[Any]) -> None:
            self._orders.append(lambda: then(done))
            self._engine.wake()

        workers.submit(call).add_done_callback(later)

    # --------------------------------------------------------------------------------------------------------- storage

    def _upload(self, order: Upload) -> None:
        def uploaded(future: Future[None]) -> None:
            error = StorageError("The host has ended.") if future.cancelled() else future.exception()
            self._outbox.put(Uploaded(order.number_of_order, _as_told(error)), urgent=True)

        try:
            future = self._stock.upload(order.trial_folder, order.number, order.digest, order.place)
        except Exception as error:
            future = Future()
            future.set_exception(error)
        future.add_done_callback(uploaded)


def _saved(event: Event) -> SavedCheckpoint | None:
    return event.checkpoint if isinstance(event, Reported | Saved) else None


def _as_told(error: BaseException | None) -> StorageError | FileNotFoundError | None:
    """Return an error that the driver can load."""
    if error is None or isinstance(error, StorageError) or type(error) is FileNotFoundError:
        return error
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(one_line(error))  # one of a library's own may not be loadable, there or anywhere
    return StorageError(one_line(error))


def _never_called(config: dict[str, Any]) -> None:
    raise AssertionError("the trainable is there as bytes only")


def _folder_here(owner: Owner, setup: HostSetup) -> Path:
    """Return a folder of this node, in place of the driver's, which goes when this process ends."""
    from ..location import cache_folder

    try:
        base = cache_folder() / "nodes"
        base.mkdir(parents=True, exist_ok=True)
        sweep_untouched(base)
        return owner.folder(base) / Path(setup.folder).name
    except OSError:  # a node on which the user has no home
        return owner.folder(Path(tempfile.gettempdir())) / Path(setup.folder).name


def _take_over(setup: HostSetup) -> None:
    """Make this process, and so its members, find what the script finds: modules, files, environment variables."""
    taken = {name: value for name, value in setup.environment.items() if name not in os.environ}
    if setup.with_driver:
        # Another machine has paths, users and credentials of its own.
        with contextlib.suppress(OSError):  # another container of this machine, or another user
            taken = json.loads(Path(setup.secrets).read_text(encoding="utf-8"))
    os.environ.update({name: value for name, value in taken.items() if not name.startswith(_NOT_TAKEN)})
    if setup.cwd and _OF_RAY not in os.getcwd():
        with contextlib.suppress(OSError):  # it is not here, too
            os.chdir(setup.cwd)
    here = os.path.dirname(os.path.abspath(sys.modules["__main__"].__file__ or "")) if _has_main() else None
    # Ray's own script lies in a folder of modules that nobody else means.
    own = [entry for entry in sys.path if entry != here]
    path = [entry for entry in setup.path if entry not in own and (not entry or os.path.isdir(entry))]
    sys.path[:] = [*own, *path]


def _has_main() -> bool:
    return getattr(sys.modules.get("__main__"), "__file__", None) is not None
