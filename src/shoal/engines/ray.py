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
import re
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import ray
from ray.exceptions import (
    ActorUnavailableError,
    ActorUnschedulableError,
    NodeDiedError,
    RayActorError,
    RayError,
    RayTaskError,
)
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from ..errors import EngineError, one_line
from ..objects import ObjectRef, adopt
from .backend import Away, Gone, HostLine, Inbox
from .cluster import ClusterEngine
from .copies import Offer, Piece
from .host import Host
from .orders import Batch, HostFacts, HostSetup
from .sharing import Sharing

__all__ = ["RayEngine", "connect", "disconnect"]

_ray: Any = ray
"""The same, where its types are too narrow or lacking."""
_THE_DRIVERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_LISTEN_S = 10.0
_ANSWERS_S = 5.0
"""So long a cluster may take to answer at all when it is connected to."""


# --------------------------------------------------------------------------------------------------------- connecting


_connected: tuple[str, tuple[str, str]] | None = None
"""The address that :func:`connect` has connected this process to, and what tells that connection from others."""


def _connection() -> tuple[str, str]:
    """Return what tells this process's connection to a Ray from those before and after it."""
    context: Any = ray.get_runtime_context()
    return context.get_node_id(), context.get_job_id()


def _is_ours(address: str | None = None) -> bool:
    """Return whether :func:`connect` has made the connection that there is, and not the user; to that address."""
    if _connected is None or not ray.is_initialized() or _connected[1] != _connection():
        return False
    return address is None or _connected[0] == address


def connect(address: str | None, **settings: Any) -> None:
    """Connect to a cluster, or start a Ray of this machine alone; nothing where this process is connected to it.

    Args:
        address: of a running cluster, ``auto`` for the one that runs on this machine, ``local`` for a Ray of one's own.
            None: what the environment variable ``RAY_ADDRESS`` says, which Ray sets in its jobs; else ``local``.
        **settings: as for ``ray.init``.

    Raises:
        EngineError: there is none at this address, or none can be started; or this process is connected to another one.
    """
    global _connected
    if ray.is_initialized():
        _check_it_is(address)
        return
    address = address or os.environ.get("RAY_ADDRESS", "").strip() or "local"
    if address.startswith("ray://"):
        raise EngineError(
            f"{address!r} is the address of Ray's client, from where a script reaches a cluster that it is no part of. "
            f"Run the script on a machine of the cluster (ray job submit does that), with address='auto'."
        )
    _see_whether_it_is_there(address)
    handlers = {number: signal.getsignal(number) for number in _THE_DRIVERS}
    quiet: dict[str, Any] = {"configure_logging": False, **({"include_dashboard": False} if address == "local" else {})}
    try:
        _ray.init(address=address, **{**quiet, **settings})
        _connected = address, _connection()
    except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = "A Ray of this machine cannot be started" if address == "local" else f"No Ray at {address!r}"
        raise EngineError(f"{where}: {one_line(error)}") from error
    finally:
        # Ray has its own idea of what ends this process, and how.
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None:
                    signal.signal(number, handler)


def _check_it_is(address: str | None) -> None:
    """Raise where this process is connected to another Ray than the one at an address."""
    there = str(ray.get_runtime_context().gcs_address)
    asked, here = (re.fullmatch(r"\[?([^\s/]+?)\]?:(\d+)", each or "") for each in (address, there))
    if asked is None or here is None or asked[2] == here[2]:
        return  # a machine has many names, but its ports are those that they are
    raise EngineError(
        f"This process is connected to the Ray at {there} already, and {address!r} is another one. Call ray.shutdown() "
        f"first, or leave the address out."
    )


def _see_whether_it_is_there(address: str) -> None:
    """Raise where nobody answers at an address, for which Ray would wait for minutes."""
    named = re.fullmatch(r"\[?([^\s/]+?)\]?:(\d+)", address)
    if "://" in address:
        raise EngineError(f"{address!r} is no address of a Ray cluster; those are like 'auto' or '10.0.0.1:6379'.")
    if named is not None:
        try:
            socket.create_connection((named[1], int(named[2])), _ANSWERS_S).close()
        except (OSError, OverflowError) as error:
            raise EngineError(f"No Ray at {address!r}: {one_line(error)}") from error


def disconnect() -> None:
    """Leave the cluster that :func:`connect` has connected to; a Ray that it has started ends."""
    global _connected
    ours, _connected = _is_ours(), None
    if ours:
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
        group = self.groups.get(reservation)
        if group is not None and ray.is_initialized():
            with contextlib.suppress(ValueError):  # it is gone. Where Ray does not answer, it is tried again
                remove_placement_group(group)
        self.groups.pop(reservation, None)

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
    def listen(self, confirmed: int, patience_s: float, *sent: Any) -> Batch:
        """Return what is to be told; ``sent``: packets of orders, and who else there is, as for :meth:`do`."""
        if sent:
            packets, neighbours = sent
            self._neighbours.handles.update(neighbours)
            for number, orders in packets:
                self._host.do(number, orders)
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
        """Return them. Not what ``CUDA_VISIBLE_DEVICES`` says here: Ray does not set that everywhere."""
        found: list[str] = _ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        if not found:
            raise EngineError("Ray does not tell which GPUs were granted, so no member can be bound to one.")
        return ",".join(map(str, found))


_Host: Any = _ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0, concurrency_groups=_GROUPS)(_HostActor)
_Holder: Any = _ray.remote(num_cpus=0, max_restarts=0)(_HolderActor)


class _Line(HostLine):
    """The way to a host.

    Args:
        key: the host's.
        node: that it is on.
        actor: the host.
        inbox: where answers are put.
        actors: those of all hosts that work, which it is told of.
        sharing: has objects on their way.
    """

    def __init__(self, key: str, node: str, actor: Any, inbox: Inbox, actors: dict[str, Any], sharing: Sharing) -> None:
        super().__init__(key, node, self._do)
        self.actor = actor
        self._inbox = inbox
        self._actors = actors
        self._sharing = sharing
        self._introduced: set[str] = set()
        """The hosts that it was told of."""
        self._waiting: list[tuple[int, bytes]] = []
        """Packets that go with the next question: a call costs each side about half a millisecond."""

    def _do(self, number: int, orders: bytes) -> None:
        if self.listening or self.again_at is not None:
            self.actor.do.remote(number, orders, self._new())
        else:
            self._waiting.append((number, orders))

    def _new(self) -> dict[str, Any]:
        """Return the hosts that it has not been told of."""
        new = {name: actor for name, actor in self._actors.items() if name not in self._introduced}
        new.pop(self.key, None)
        self._introduced.update(new)
        return new

    def resend(self, *, all_of_it: bool) -> bool:
        """Send again what may have been lost, and with it who the other hosts are."""
        before, self._introduced = self._introduced, set[str]()
        resent = super().resend(all_of_it=all_of_it)
        if not resent:
            self._introduced = before
        return resent

    def begin(self, *, members: bool) -> None:
        """See :class:`HostLine`."""
        _answer(self.actor.start.remote(members=members), self._inbox.put, "started", self.key)

    def lacks(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """See :class:`HostLine`."""
        _answer(self.actor.lacks.remote(list(refs)), self._inbox.put, "lacks", self.key)

    def give(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """See :class:`HostLine`."""
        for ref in refs:
            self._sharing.give(ref, partial(self._adopt, ref), partial(self._not_sent, ref))

    def _not_sent(self, ref: ObjectRef[Any], error: BaseException) -> None:
        self._inbox.put(("given", (self.key, ref), error))

    def _adopt(self, ref: ObjectRef[Any], there: Any) -> None:
        def put(answer: tuple[str, Any, Any]) -> None:
            self._sharing.received(ref)
            self._inbox.put(answer)

        _answer(self.actor.adopt.remote(ref, there), put, "given", (self.key, ref))

    def close(self) -> None:
        """See :class:`HostLine`."""
        _answer(self.actor.close.remote(), self._inbox.put, "closed", self.key)

    def listen(self) -> None:
        """See :class:`HostLine`."""
        waiting, self._waiting = self._waiting, []
        sent = (waiting, self._new()) if waiting else ()
        _answer(self.actor.listen.remote(self.confirmed, _LISTEN_S, *sent), self._inbox.put, "batch", self.key)


def _answer(ref: Any, put: Callable[[tuple[str, Any, Any]], object], kind: str, key: Any) -> None:
    """Have the result of a call, or why there is none, put into the inbox."""

    def done(future: Future[Any]) -> None:
        error = future.exception()
        put((kind, key, future.result() if error is None else _meaning(error)))

    ref.future().add_done_callback(done)


def _put_object(ref: ObjectRef[Any]) -> Any:
    """Put an object into Ray's store, which takes it to each node once."""
    with open(ref.path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return ray.put(pickle.PickleBuffer(data))


def _meaning(error: BaseException) -> BaseException | Away | Gone:
    """Return what an error of a call means."""
    if isinstance(error, ActorUnavailableError):
        return Away()
    if isinstance(error, RayActorError) and not getattr(error, "actor_init_failed", False):
        return Gone()
    if isinstance(error, ActorUnschedulableError | NodeDiedError):  # the node has died before it could begin there
        return Gone()
    return error.cause if isinstance(error, RayTaskError) and error.cause is not None else error


# ---------------------------------------------------------------------------------------------------------- the engine


class _RayBackend:
    """See :class:`shoal.engines.backend.Backend`."""

    def __init__(self, connect: Callable[[], None]) -> None:
        self._connect = connect
        self._cluster: _RayCluster | None = None
        self._inbox: Inbox | None = None
        self._actors: dict[str, Any] = {}
        """Those of the hosts that work."""
        self._holders: dict[str, Any] = {}
        """By reservation: the actor that holds the GPUs of the slot."""
        self._sharing = Sharing(_put_object)
        self.node = ""

    @property
    def alone(self) -> bool:
        """See the class."""
        return _is_ours("local")

    def connect(self, experiment: str, inbox: Inbox) -> _RayCluster:
        """See the class."""
        self._connect()
        self.node = ray.get_runtime_context().get_node_id()
        self._inbox, self._cluster = inbox, _RayCluster(experiment)
        return self._cluster

    def environment(self) -> Mapping[str, str]:
        """See the class. Left out is that of which the user has told Ray another value."""
        told: Mapping[str, str] = ray.get_runtime_context().runtime_env.get("env_vars") or {}
        return {name: value for name, value in os.environ.items() if name not in told}

    def begin_host(self, setup: HostSetup, node: str) -> HostLine:
        """See the class."""
        from ..pickles import dumps

        assert self._inbox is not None
        affinity = NodeAffinitySchedulingStrategy(node, soft=False)
        actor = _Host.options(scheduling_strategy=affinity).remote(dumps(setup))
        return _Line(setup.key, node, actor, self._inbox, self._actors, self._sharing)

    def devices(self, reservation: str, node: str, gpus: float) -> None:
        """See the class. Ray tells only who holds them, so an actor does."""
        assert self._cluster is not None
        assert self._inbox is not None
        group = self._cluster.groups.get(reservation)
        if group is not None:
            strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
            if (before := self._holders.pop(reservation, None)) is not None:
                _kill(before)
            holder = _Holder.options(num_gpus=gpus, scheduling_strategy=strategy).remote()
            self._holders[reservation] = holder
            _answer(holder.devices.remote(), self._inbox.put, "devices", (reservation, node))

    def introduce(self, line: HostLine) -> None:
        """See the class."""
        assert isinstance(line, _Line)
        self._actors[line.key] = line.actor

    def end_host(self, line: HostLine) -> None:
        """See the class."""
        assert isinstance(line, _Line)
        self._actors.pop(line.key, None)
        _kill(line.actor)

    def leave(self, lines: Sequence[HostLine], patience_s: float) -> None:
        """See the class."""
        actors = [line.actor for line in lines if isinstance(line, _Line)]
        with contextlib.suppress(RayError):
            closing = [actor.close.remote() for actor in actors]
            if closing:
                ray.wait(closing, num_returns=len(closing), timeout=patience_s)
        for actor in [*actors, *self._holders.values()]:
            _kill(actor)
        self._sharing.close()
        self._actors.clear()
        self._holders.clear()


def _kill(actor: Any) -> None:
    if ray.is_initialized():
        with contextlib.suppress(RayError):
            ray.kill(actor)


class RayEngine(ClusterEngine):
    """See :class:`shoal.engines.Engine`.

    Args:
        connect: connects this process to Ray, where it is not connected yet.
    """

    def __init__(self, connect: Callable[[], None]) -> None:
        super().__init__(_RayBackend(connect))
