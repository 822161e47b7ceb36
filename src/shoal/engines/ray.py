"""The engine for Ray clusters: slots are placement groups, and members live below one actor on each node, the *host*.

Of Ray it uses the Core alone: resources, actors and the object store. Ray is asked for one placement group for each
slot that can be of use, and whatever it grants becomes a slot, whenever that is: also when a node joins later, or
because an autoscaler has started one for it. On each node with slots there is one actor, which runs Shoal's own process
engine, see :mod:`shoal.engines.host`. A placement group takes no process, and a member is a fork of a few milliseconds
where an actor takes a second or two to start. Decision 0020 has the figures.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import queue
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from ..core.commands import Launch, Stop
from ..core.events import Event
from ..errors import EngineError, one_line
from ..objects import ObjectRef, adopt, stored
from ..worker.wire import MemberInfo
from . import EngineCommand, EngineSetup
from .cluster_depot import ClusterDepot
from .copies import Offer, Piece
from .fleet import Fleet, Post
from .granted import Change, Granted
from .host import Host
from .line import Line
from .orders import Batch, HostFacts, HostSetup
from .pickling import pickle_trainable

__all__ = ["RayEngine", "connect", "disconnect"]

_Inbox: TypeAlias = "queue.SimpleQueue[tuple[str, Any, Any]]"
_ray: Any = ray
"""The same, where its types are too narrow or lacking."""
_THE_DRIVERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_LISTEN_S = 10.0
_END_S = 7.0
"""So long members have to end before their hosts are ended."""
_AWAY_S = 30.0
"""So long a host may be out of reach before it counts as gone."""
_AGAIN_S = 0.5
_LEAVE_S = 5.0
"""So long hosts have to delete what they have stored."""
_TELL_AFTER_S = 3.0


# --------------------------------------------------------------------------------------------------------- connecting


_connected: str | None = None
"""The address that :func:`connect` has connected this process to; None where it has not, or the user has."""


def connect(address: str | None, **settings: Any) -> None:
    """Connect to a cluster, or start a Ray of this machine alone; nothing where this process is connected already.

    Args:
        address: of a running cluster, ``auto`` for the one that runs on this machine, ``local`` for a Ray of one's own.
            None: what the environment variable ``RAY_ADDRESS`` says, which Ray sets in its jobs; else ``local``.
        **settings: as for ``ray.init``.

    Raises:
        EngineError: there is none at this address, or none can be started.
    """
    global _connected
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS", "").strip() or "local"
    if address.startswith("ray://"):
        raise EngineError(
            f"{address!r} is the address of Ray's client, from where a script reaches a cluster that it is no part of. "
            f"Run the script on a machine of the cluster (ray job submit does that), with address='auto'."
        )
    handlers = {number: signal.getsignal(number) for number in _THE_DRIVERS}
    quiet: dict[str, Any] = {"configure_logging": False, **({"include_dashboard": False} if address == "local" else {})}
    try:
        _ray.init(address=address, **{**quiet, **settings})
        _connected = address
    except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = "A Ray of this machine cannot be started" if address == "local" else f"No Ray at {address!r}"
        raise EngineError(f"{where}: {one_line(error)}") from error
    finally:
        # Ray has its own idea of what ends this process, and how.
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None:
                    signal.signal(number, handler)


def disconnect() -> None:
    """Leave the cluster that :func:`connect` has connected to; a Ray that it has started ends."""
    global _connected
    if _connected is not None:
        _connected = None
        ray.shutdown()


class _RayCluster:
    """See :class:`shoal.engines.granted.Cluster`: reservations are placement groups of one bundle."""

    def __init__(self, experiment: str) -> None:
        self._experiment = f"{experiment} {uuid.uuid4().hex[:5]}"
        self._asked = 0
        self.groups: dict[str, PlacementGroup] = {}

    def ask(self, bundle: Mapping[str, float]) -> str:
        self._asked += 1
        name = f"shoal {self._experiment} {self._asked}"
        group = placement_group([dict(bundle)], strategy="STRICT_PACK", name=name)
        self.groups[group.id.hex()] = group
        return str(group.id.hex())

    def withdraw(self, reservation: str) -> None:
        group = self.groups.pop(reservation, None)
        if group is not None and ray.is_initialized():
            with contextlib.suppress(RayError, ValueError):
                remove_placement_group(group)

    def where(self) -> dict[str, str | None]:
        table: dict[str, dict[str, Any]] = placement_group_table()
        return {
            key: str(next(iter(each["bundles_to_node_id"].values()))) if each["state"] == "CREATED" else None
            for key, each in table.items()
            if key in self.groups
        }

    def nodes(self) -> dict[str, dict[str, float] | None]:
        found: list[dict[str, Any]] = _ray.nodes()
        return {node["NodeID"]: dict(node["Resources"]) if node["Alive"] else None for node in found}


# ------------------------------------------------------------------------------------------------------------- a host


F = TypeVar("F", bound=Callable[..., Any])


def _in_group(name: str) -> Callable[[F], F]:
    """Have an actor's method called in threads of its own."""
    decorate: Callable[[F], F] = _ray.method(concurrency_group=name)
    return decorate


_GROUPS = {"orders": 1, "listen": 1, "data": 4, "keep": 4}
"""Threads of a host's actor by what they do: orders keep their order, and nobody waits for those who listen. Who keeps
a copy waits for pieces of another host, and so must not take the threads that give such pieces away."""


class _HostActor:
    """A host, as Ray has it."""

    def __init__(self, setup: bytes) -> None:
        self._neighbours = _Neighbours()
        self._host = Host(pickle.loads(setup), self._neighbours)

    def lacks(self, refs: list[ObjectRef[Any]]) -> list[ObjectRef[Any]]:
        """Return which objects of ``shoal.put`` are not on this node."""
        return [ref for ref in refs if not ref.there]

    def adopt(self, ref: ObjectRef[Any], data: Any) -> None:
        """Take over an object of ``shoal.put``."""
        adopt(ref, data)

    def start(self, *, members: bool) -> HostFacts:
        """Get ready to run members, or only to keep copies."""
        return self._host.start() if members else self._host.facts()

    @_in_group("orders")
    def do(self, number: int, orders: bytes, neighbours: dict[str, Any]) -> int:
        """Take orders."""
        self._neighbours.handles.update(neighbours)
        return self._host.do(number, orders)

    @_in_group("listen")
    def listen(self, confirmed: int, patience_s: float) -> Batch:
        """Return what is to be told."""
        return self._host.listen(confirmed, patience_s)

    @_in_group("data")
    def piece(self, trial_folder: str, number: int, index: int) -> Piece:
        """Return a piece of a checkpoint."""
        return self._host.piece(trial_folder, number, index)

    @_in_group("keep")
    def keep(self, offer: Offer) -> None:
        """Copy a checkpoint of another host."""
        self._host.keep(offer)

    def close(self) -> None:
        """Leave nothing behind on this node."""
        self._host.close()


class _Neighbours:
    """The other hosts. What is large travels by Ray's object store, from memory to memory."""

    def __init__(self) -> None:
        self.handles: dict[str, Any] = {}

    def piece(self, key: str, trial_folder: str, number: int, index: int, patience_s: float) -> Piece:
        asked = self.handles[key].piece.remote(trial_folder, number, index)
        found: Piece = ray.get(asked, timeout=patience_s)
        return found

    def keep(self, key: str, offer: Offer, patience_s: float) -> None:
        ray.get(self.handles[key].keep.remote(offer), timeout=patience_s)


class _HolderActor:
    """Holds the GPUs of a slot, and knows which these are."""

    def devices(self) -> str:
        return os.environ.get("CUDA_VISIBLE_DEVICES", "")


_Host: Any = _ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0, concurrency_groups=_GROUPS)(_HostActor)
_Holder: Any = _ray.remote(num_cpus=0, max_restarts=0)(_HolderActor)


class _Line(Line):
    """The way to a host.

    Args:
        key: the host's.
        node: that it is on.
        actor: the host.
        inbox: where answers are put.
        handles: the actors of all hosts, which it is told of.
    """

    def __init__(self, key: str, node: str, actor: Any, inbox: _Inbox, handles: dict[str, Any]) -> None:
        super().__init__(self._do)
        self.key = key
        self.node = node
        self.actor = actor
        self._inbox = inbox
        self._handles = handles
        self._introduced: set[str] = set()
        """The hosts that it was told of."""
        self.away_since: float | None = None
        self.again_at: float | None = None
        """When to try again to listen."""

    def _do(self, number: int, orders: bytes) -> None:
        new = {name: handle for name, handle in self._handles.items() if name not in {*self._introduced, self.key}}
        self._introduced.update(new)
        self.actor.do.remote(number, orders, new)

    def resend(self, *, all_of_it: bool) -> bool:
        """Send again what may have been lost, and with it who the other hosts are."""
        before, self._introduced = self._introduced, set[str]()
        resent = super().resend(all_of_it=all_of_it)
        if not resent:
            self._introduced = before
        return resent

    def listen(self) -> None:
        """Ask for what comes next."""
        _tell(self.actor.listen.remote(self.confirmed, _LISTEN_S), self._inbox, "batch", self.key)

    def took(self, batch: Batch) -> bool:
        """A batch has arrived. Return whether it is a new one."""
        self.away_since = None
        return super().took(batch)


def _tell(ref: Any, inbox: _Inbox, kind: str, key: Any) -> None:
    """Have the result of a call, or its error, put into the inbox."""

    def done(future: Future[Any]) -> None:
        error = future.exception()
        inbox.put((kind, key, future.result() if error is None else error))

    ref.future().add_done_callback(done)


@dataclass(slots=True)
class _Starting:
    """A host that is about to work."""

    line: _Line
    devices: list[str]
    home: bool = False


# ---------------------------------------------------------------------------------------------------------- the engine


class RayEngine:
    """See :class:`shoal.engines.Engine`.

    Args:
        connect: connects this process to Ray, where it is not connected yet.
    """

    def __init__(self, connect: Callable[[], None]) -> None:
        self._connect = connect
        self._inbox: _Inbox = queue.SimpleQueue()
        self._setup: EngineSetup | None = None
        self._fleet: Fleet | None = None
        self._granted: Granted | None = None
        self._cluster: _RayCluster | None = None
        self._host_setup: dict[str, Any] = {}
        self._handles: dict[str, Any] = {}
        self._lines: dict[str, _Line] = {}
        self._starting: dict[str, _Starting] = {}
        """By node."""
        self._holders: dict[str, Any] = {}
        """By placement group: the actor that holds the GPUs of the slot."""
        self._refused: set[str] = set()
        """Nodes on which no host could be started."""
        self._hosts = 0
        self._node = ""
        """That of the driver."""
        self._ended: set[str] = set()
        """Trials that have ended."""
        self._trials: set[str] = set()
        self._events: list[Event] = []
        self._probe: Path | None = None
        self._closed = False
        self._left = False
        self._pump: threading.Thread | None = None
        self._done = threading.Event()
        """Nobody needs the hosts any more."""
        self._shared: set[str] = set()
        """Ids of the objects of ``shoal.put`` that all hosts have been given."""
        self.depot = ClusterDepot(self)

    # -------------------------------------------------------------------------------------------------------- starting

    def start(self, setup: EngineSetup) -> None:
        """Ask for slots, and wait until the trainable is loaded where the first of them are."""
        self._connect()
        self._setup = setup
        self._node = ray.get_runtime_context().get_node_id()
        self._fleet = Fleet(setup)
        folder = Path(setup.folder)
        self.depot.begin(folder)
        self._shared.update(ref.id for ref in stored())
        self._probe = folder / f".shoal-{uuid.uuid4().hex}"
        self._probe.touch()
        self._host_setup = {
            "trainable": pickle_trainable(setup.trainable),
            "rules": setup.rules,
            "experiment": setup.experiment,
            "seed": setup.seed,
            "cpus": setup.cpus,
            "gpus": setup.gpus,
            "log_to_file": setup.log_to_file,
            "applied": setup.applied,
            "folder": str(folder),
            "probe": str(self._probe),
            "place": setup.place,
            "path": tuple(sys.path),
            "cwd": os.getcwd(),
            "environment": _environment(),
        }
        self._cluster = _RayCluster(setup.experiment)
        self._granted = Granted(self._cluster, setup.request, setup.limit, self._changed)
        self._granted.start()
        tell_at: float | None = time.monotonic() + _TELL_AFTER_S
        while not self._fleet.posts:
            setup.check()
            self._take(0.1, starting=True)
            if tell_at is not None and time.monotonic() > tell_at and not self._starting:
                tell_at = None
                if _connected == "local" and not self._granted.possible:
                    raise EngineError(f"Nothing can be run: {self._granted.what_is_there()}")
                setup.note(f"Waiting for the cluster: {self._granted.what_is_there()}")

    def _changed(self, change: Change) -> None:
        """Called in another thread."""
        self._inbox.put(("slots", change, None))

    def add(self, info: MemberInfo) -> None:
        """A trial was added."""
        assert self._fleet is not None
        self._trials.add(info.trial_id)
        self._fleet.add(info)

    # ---------------------------------------------------------------------------------------------- executing, polling

    def execute(self, command: EngineCommand, checkpoint: str | None) -> None:
        """Have a command carried out where it belongs; it is on its way with the next :meth:`poll`."""
        assert self._fleet is not None
        if isinstance(command, Launch):
            self._share_new()
        self._fleet.execute(command, checkpoint)
        if isinstance(command, Stop) and self._granted is not None:
            self._ended.add(command.trial_id)
            left = len(self._trials) - len(self._ended)
            self._granted.want(
                left if self._setup is None or self._setup.limit is None else min(left, self._setup.limit)
            )

    def kill(self, trial_id: str, reason: str) -> None:
        """End the process of a trial at once."""
        assert self._fleet is not None
        self._fleet.kill(trial_id, reason)

    def poll(self, timeout: float) -> list[Event]:
        """Return what has happened; wait at most ``timeout`` seconds for the first event."""
        fleet = self._fleet
        assert fleet is not None
        fleet.flush()
        self._events += fleet.take_ready()
        self._take(0.0 if self._events else timeout)
        fleet.flush()
        events, self._events = self._events, []
        return events

    def _take(self, timeout: float, *, starting: bool = False) -> None:
        """Take in what has arrived; wait for the first."""
        try:
            self._handle(*self._inbox.get(timeout=timeout), starting=starting)
            while True:
                self._handle(*self._inbox.get_nowait(), starting=starting)
        except queue.Empty:
            pass
        now = time.monotonic()
        for line in self._lines.values():
            if line.again_at is not None and line.again_at <= now:
                line.again_at = None
                line.listen()

    def _handle(self, kind: str, key: Any, found: Any, *, starting: bool) -> None:
        if kind == "batch":
            self._took(key, found)
        elif kind == "slots":
            self._slots_changed(key)
        elif kind == "devices":
            self._slot_ready(key, found)
        elif kind == "started":
            self._host_started(key, found, starting=starting)
        elif kind == "lacks":
            self._lacks(key, found)
        elif kind == "call":
            key()

    # ----------------------------------------------------------------------------------------------------- slots, hosts

    def _slots_changed(self, change: Change) -> None:
        """Ray has granted slots, or nodes have died."""
        assert self._setup is not None
        if change.failed is not None:
            raise EngineError(f"The Ray cluster does not answer any more: {change.failed}")
        for node in change.dead:
            self._lost_node(node, "its node died")
        for reservation, node in change.placed:
            if self._setup.request.gpus > 0:
                self._ask_devices(reservation, node)
            else:
                self._slot_ready(node, "")
        self._see_to_home()

    def _see_to_home(self) -> None:
        """Start a host in the driver's folder where one is needed that keeps copies there."""
        if self._fleet is not None and self._fleet.needs_home and "home" not in self._starting and not self._closed:
            self._start_host(self._node, [], home=True)

    def _ask_devices(self, reservation: str, node: str) -> None:
        """Find out which GPUs a slot has: Ray tells only who holds them."""
        assert self._cluster is not None
        assert self._setup is not None
        group = self._cluster.groups.get(reservation)
        if group is None:
            return
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        holder = _Holder.options(num_gpus=self._setup.request.gpus, scheduling_strategy=strategy).remote()
        self._holders[reservation] = holder
        _tell(holder.devices.remote(), self._inbox, "devices", node)

    def _slot_ready(self, node: str, device: Any) -> None:
        """A slot can be used."""
        assert self._fleet is not None
        if isinstance(device, BaseException) or node in self._refused:
            return  # its node has died meanwhile, and Ray places it elsewhere
        post = next((post for post in self._fleet.posts.values() if post.node == node), None)
        if post is not None:
            self._events += self._fleet.more_slots(post, [device])
        elif node in self._starting:
            self._starting[node].devices.append(device)
        else:
            self._start_host(node, [device])

    def _start_host(self, node: str, devices: list[str], *, home: bool = False) -> None:
        from ..pickles import dumps

        self._hosts += 1
        key = f"host-{self._hosts}"
        setup = HostSetup(key=key, with_driver=node == self._node, **self._host_setup)
        affinity = NodeAffinitySchedulingStrategy(node, soft=False)
        actor = _Host.options(scheduling_strategy=affinity, name=None).remote(dumps(setup))
        line = _Line(key, node, actor, self._inbox, self._handles)
        where = "home" if home else node
        self._starting[where] = _Starting(line, devices, home)
        if refs := stored():
            _tell(actor.lacks.remote(refs), self._inbox, "lacks", where)
        else:
            _tell(actor.start.remote(members=not home), self._inbox, "started", where)

    def _lacks(self, where: str, found: list[ObjectRef[Any]] | BaseException) -> None:
        """Give a host the objects that are not on its node; then it starts."""
        line = self._starting[where].line
        if isinstance(found, list):
            _share(line.actor, found)
        _tell(line.actor.start.remote(members=where != "home"), self._inbox, "started", where)

    def _share_new(self) -> None:
        """Give all hosts the objects that were put since they began."""
        new = [ref for ref in stored() if ref.id not in self._shared]
        self._shared.update(ref.id for ref in new)
        for line in self._lines.values() if new else ():
            with contextlib.suppress(RayError):
                _share(line.actor, ray.get(line.actor.lacks.remote(new)))

    def _host_started(self, where: str, found: HostFacts | BaseException, *, starting: bool) -> None:
        from .. import __version__

        assert self._fleet is not None
        assert self._setup is not None
        begun = self._starting.pop(where)
        if not isinstance(found, BaseException) and found.version != __version__:
            found = EngineError(f"Shoal is {found.version} on {found.hostname}, and {__version__} here. Install one.")
        if isinstance(found, BaseException):
            cause = found.cause if isinstance(found, RayTaskError) else found
            if isinstance(found, RayActorError) and not found.actor_init_failed:
                return  # its node has died meanwhile
            if starting and not self._starting:
                raise cause if isinstance(cause, EngineError) else EngineError(_cannot(cause)) from found
            if begun.home:
                self._fleet.no_home()
            else:
                self._refused.add(begun.line.node)
            self._setup.note(f"A node of the cluster cannot run members, and is left out: {_cannot(cause)}")
            return
        line = begun.line
        self._lines[line.key] = line
        self._handles[line.key] = line.actor
        post = Post(line.key, line, found, line.node)
        self._events += self._fleet.join(post, begun.devices, home=begun.home)
        line.listen()
        self._see_to_home()

    def _took(self, key: str, found: Batch | BaseException) -> None:
        """A host has said something, or cannot be heard any more."""
        assert self._fleet is not None
        line = self._lines.get(key)
        if line is None:
            return
        if isinstance(found, Batch):
            again = line.away_since is not None
            if line.took(found):
                self._events += self._fleet.heard(key, found.said)
            if self._fleet.has(key):
                line.resend(all_of_it=again)
                line.listen()
            else:
                self._lost_host(line, "it cannot go on")
        elif isinstance(found, ActorUnavailableError) and not self._gave_up(line):
            now = time.monotonic()
            line.away_since, line.again_at = line.away_since or now, now + _AGAIN_S
        else:
            why = "its node died" if isinstance(found, RayActorError) else f"its host failed: {one_line(found)}"
            self._lost_host(line, why)

    def _gave_up(self, line: _Line) -> bool:
        return line.away_since is not None and time.monotonic() - line.away_since > _AWAY_S

    def _lost_node(self, node: str, reason: str) -> None:
        for line in [line for line in self._lines.values() if line.node == node]:
            self._lost_host(line, reason)

    def _lost_host(self, line: _Line, reason: str) -> None:
        assert self._fleet is not None
        self._lines.pop(line.key, None)
        self._handles.pop(line.key, None)
        with contextlib.suppress(RayError):
            ray.kill(line.actor)
        with_slots = not self._fleet.is_home(line.key)
        self._events += self._fleet.leave(line.key, reason)
        if self._granted is not None and not self._closed and with_slots:
            self._granted.forget(line.node)
        self._see_to_home()

    # --------------------------------------------------------------------------------------------------------- closing

    def close(self, *, at_once: bool = False) -> None:
        """End all members."""
        if self._closed:
            return
        self._closed = True
        fleet = self._fleet
        try:
            if self._granted is not None:
                self._granted.stop()
            if fleet is not None:
                fleet.end(at_once=at_once)
                end = time.monotonic() + (1.0 if at_once else _END_S)
                while not all(post.ended for post in fleet.posts.values()) and time.monotonic() < end:
                    self.poll(0.05)
        finally:
            if self._setup is None or self._setup.place is None or at_once or fleet is None or not fleet.posts:
                self._leave()
            else:
                # Checkpoints are still on their way to storage, from the hosts that have them.
                self._pump = threading.Thread(target=self._go_on, name="shoal-uploads", daemon=True)
                self._pump.start()

    def _go_on(self) -> None:
        while not self._done.is_set():
            self.poll(0.1)
        self._leave()

    def leave(self) -> None:
        """Nobody needs the hosts any more."""
        self._done.set()
        if self._pump is not None:
            self._pump.join()
            self._pump = None

    def later(self, call: Callable[[], None]) -> None:
        """Have something done in the thread that polls."""
        self._inbox.put(("call", call, None))
        if self._left:
            self._answer_calls()

    def _answer_calls(self) -> None:
        """Nobody polls any more."""
        with contextlib.suppress(queue.Empty):
            while True:
                kind, call, _ = self._inbox.get_nowait()
                if kind == "call":
                    call()

    @property
    def fleet(self) -> Fleet:
        """All hosts."""
        assert self._fleet is not None
        return self._fleet

    def _leave(self) -> None:
        """Let go of all that the cluster has given."""
        if self._fleet is not None:
            self._fleet.close()
        self._left = True
        self._answer_calls()
        lines = [*self._lines.values(), *(each.line for each in self._starting.values())]
        with contextlib.suppress(RayError):
            closing = [line.actor.close.remote() for line in self._lines.values()]
            ray.wait(closing, num_returns=len(closing), timeout=_LEAVE_S)
        for actor in [*(line.actor for line in lines), *self._holders.values()]:
            with contextlib.suppress(RayError):
                ray.kill(actor)
        self._lines.clear()
        self._starting.clear()
        self._holders.clear()
        if self._granted is not None:
            self._granted.release()
            self._granted = None
        if self._probe is not None:
            self._probe.unlink(missing_ok=True)


def _share(actor: Any, refs: list[ObjectRef[Any]]) -> None:
    """Give a host objects of ``shoal.put``, by way of the object store, which takes them to its node once."""
    for ref in refs:
        with open(ref.path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            actor.adopt.remote(ref, ray.put(pickle.PickleBuffer(data)))


def _environment() -> dict[str, str]:
    """Return this process's environment variables, but for those of which the user has told Ray another value."""
    told: Mapping[str, str] = ray.get_runtime_context().runtime_env.get("env_vars") or {}
    return {name: value for name, value in os.environ.items() if name not in told}


def _cannot(error: BaseException) -> str:
    return str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
