"""The engine for a cluster: asks for slots, runs a host on each node that has some, and passes on what both sides say.

It knows a cluster by what :class:`Backend` and :class:`HostLine` promise; :mod:`shoal.engines.ray` is the one there
is. Everything happens in the thread that polls. What comes from elsewhere, answers of hosts above all, is put into an
inbox.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ..core.commands import Launch, Stop
from ..core.events import Event
from ..errors import EngineError, one_line
from ..objects import ObjectRef, stored
from ..worker.wire import MemberInfo
from . import EngineCommand, EngineSetup
from .cluster_depot import ClusterDepot
from .fleet import Fleet, Post
from .granted import Change, Cluster, Granted
from .line import Line
from .orders import Batch, HostFacts, HostSetup
from .pickling import pickle_trainable

__all__ = ["Away", "Backend", "ClusterEngine", "Gone", "HostLine", "Inbox"]

Inbox: TypeAlias = "queue.SimpleQueue[tuple[str, Any, Any]]"
"""(what it is, of whom, what was found), see :meth:`ClusterEngine._handle`."""
_END_S = 7.0
"""So long members have to end before their hosts are ended."""
_LEAVE_S = 5.0
"""So long hosts have to delete what they have stored."""
_AWAY_S = 30.0
"""So long a host may be out of reach before it counts as gone."""
_AGAIN_S = 0.5
_TELL_AFTER_S = 3.0
"""So long a run waits for its first slot before it says so."""
_BEGIN_AT_MOST = 3
"""So often a host is begun on a node where it dies at once."""
_HOME = "home"


@dataclass(frozen=True, slots=True)
class Away:
    """The answer of a host that cannot be reached now."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The answer of a host that has ended."""


class HostLine(Line):
    """The way to a host that a backend has begun.

    What is asked for is put into the inbox, and nobody waits for it: the answer, or ``Away``, ``Gone``, or an error
    that the host has raised.

    Args:
        key: the host's.
        node: that it is on.
    """

    def __init__(self, key: str, node: str, call: Callable[[int, bytes], None]) -> None:
        super().__init__(call)
        self.key = key
        self.node = node
        self.away_since: float | None = None
        self.again_at: float | None = None
        """When to try again to listen."""
        self.listening = False
        """Whether it was asked what there is to tell, and has not answered."""

    def took(self, batch: Batch) -> bool:
        """A batch has arrived. Return whether it is a new one."""
        self.away_since = None
        return super().took(batch)

    def begin(self, *, members: bool) -> None:
        """Have it get ready to run members, or only to keep copies. Answer: ``HostFacts``, as ``started``."""
        raise NotImplementedError

    def lacks(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """Ask which objects of ``shoal.put`` are not on its node. Answer: their references, as ``lacks``."""
        raise NotImplementedError

    def give(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """Give it such objects, before all that it is told from now on."""
        raise NotImplementedError

    def listen(self) -> None:
        """Ask for what there is to tell, and send with it what was to be sent. Answer: a ``Batch``, as ``batch``."""
        raise NotImplementedError


class Backend(Protocol):
    """What the engine needs of a cluster."""

    @property
    def node(self) -> str:
        """The node that this process is on."""
        ...

    @property
    def alone(self) -> bool:
        """Whether the cluster is of this process alone, and so no node will join it."""
        ...

    def connect(self, experiment: str, inbox: Inbox) -> Cluster:
        """Connect to the cluster; return whom to ask for slots.

        Raises:
            EngineError: there is none.
        """
        ...

    def environment(self) -> Mapping[str, str]:
        """Return the environment variables of this process that hosts are told of."""
        ...

    def begin_host(self, setup: HostSetup, node: str) -> HostLine:
        """Begin a host on a node, without waiting for it."""
        ...

    def devices(self, reservation: str, node: str, gpus: float) -> None:
        """Ask which GPUs a slot has. Answer: as for ``CUDA_VISIBLE_DEVICES``, as ``devices`` of the node."""
        ...

    def introduce(self, line: HostLine) -> None:
        """Let all hosts know one that has begun to work."""
        ...

    def end_host(self, line: HostLine) -> None:
        """End a host at once. One that has ended is no error."""
        ...

    def leave(self, lines: Sequence[HostLine], patience_s: float) -> None:
        """Have hosts delete what they have stored, and let go of all that was begun."""
        ...


@dataclass(slots=True)
class _Beginning:
    """A host that is about to work."""

    line: HostLine
    devices: list[str]
    home: bool = False


class ClusterEngine:
    """See :class:`shoal.engines.Engine`.

    Args:
        backend: the cluster.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._inbox: Inbox = queue.SimpleQueue()
        self._setup: EngineSetup | None = None
        self._fleet: Fleet | None = None
        self._granted: Granted | None = None
        self._host_setup: dict[str, Any] = {}
        self._lines: dict[str, HostLine] = {}
        self._silent: dict[str, HostLine] = {}
        """Those of them that are to be asked what there is to tell."""
        self._beginning: dict[str, _Beginning] = {}
        """By node; that of the host that only keeps copies is called ``home``."""
        self._begun: Counter[str] = Counter()
        """How often a host was begun on a node since one has worked there."""
        self._refused: set[str] = set()
        """Nodes on which no host can be begun."""
        self._hosts = 0
        self._trials: set[str] = set()
        """Those that have not ended."""
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

    @property
    def fleet(self) -> Fleet:
        """All hosts."""
        assert self._fleet is not None
        return self._fleet

    # -------------------------------------------------------------------------------------------------------- starting

    def start(self, setup: EngineSetup) -> None:
        """Ask for slots, and wait until the trainable is loaded where the first of them are."""
        cluster = self._backend.connect(setup.experiment, self._inbox)
        self._setup = setup
        self._fleet = Fleet(setup)
        self.depot.begin(Path(setup.folder))
        self._shared.update(ref.id for ref in stored())
        self._probe = Path(setup.folder, f".shoal-{uuid.uuid4().hex}")
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
            "folder": setup.folder,
            "probe": str(self._probe),
            "place": setup.place,
            "path": tuple(sys.path),
            "cwd": os.getcwd(),
            "environment": self._backend.environment(),
        }
        self._granted = Granted(cluster, setup.request, setup.limit, lambda change: self._put("slots", change))
        self._granted.start()
        self._wait_for_first(self._granted, setup)

    def _wait_for_first(self, granted: Granted, setup: EngineSetup) -> None:
        tell_at: float | None = time.monotonic() + _TELL_AFTER_S
        while not self.fleet.posts:
            setup.check()
            self._take(0.1, starting=True)
            if tell_at is not None and time.monotonic() > tell_at and not self._beginning:
                tell_at = None
                if self._backend.alone and not granted.possible:
                    raise EngineError(f"Nothing can be run: {granted.what_is_there()}")
                setup.note(f"Waiting for the cluster: {granted.what_is_there()}")

    def _put(self, kind: str, key: Any) -> None:
        """Put something into the inbox, in any thread."""
        self._inbox.put((kind, key, None))

    # ---------------------------------------------------------------------------------------------- executing, polling

    def add(self, info: MemberInfo) -> None:
        """A trial was added."""
        self._trials.add(info.trial_id)
        self.fleet.add(info)

    def execute(self, command: EngineCommand, checkpoint: str | None) -> None:
        """Have a command carried out where it belongs; it is on its way with the next :meth:`poll`."""
        if isinstance(command, Launch):
            self._trials.add(command.trial_id)
            self._share_new()
        self.fleet.execute(command, checkpoint)
        if isinstance(command, Stop) and self._granted is not None:
            self._trials.discard(command.trial_id)
            limit = None if self._setup is None else self._setup.limit
            self._granted.want(len(self._trials) if limit is None else min(len(self._trials), limit))

    def kill(self, trial_id: str, reason: str) -> None:
        """End the process of a trial at once."""
        self.fleet.kill(trial_id, reason)

    def poll(self, timeout: float) -> list[Event]:
        """Return what has happened; wait at most ``timeout`` seconds for the first event."""
        fleet = self.fleet
        fleet.flush()
        self._listen()
        self._events += fleet.take_ready()
        self._take(0.0 if self._events else timeout)
        fleet.flush()
        events, self._events = self._events, []
        return events

    def _take(self, timeout: float, *, starting: bool = False) -> None:
        """Take in what has arrived; wait for the first."""
        with contextlib.suppress(queue.Empty):
            self._handle(*self._inbox.get(timeout=timeout), starting=starting)
            while True:
                self._handle(*self._inbox.get_nowait(), starting=starting)

    def _listen(self) -> None:
        """Ask all hosts what there is to tell that have answered that.

        Not as soon as they have answered: then the driver has not decided yet, and what it decides can go along.
        """
        now = time.monotonic()
        for key, line in list(self._silent.items()):
            if line.again_at is None or line.again_at <= now:
                del self._silent[key]
                line.listening, line.again_at = True, None
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

    # ----------------------------------------------------------------------------------------------------------- slots

    def _slots_changed(self, change: Change) -> None:
        """The cluster has granted slots, or nodes have died."""
        assert self._setup is not None
        if change.failed is not None:
            raise EngineError(f"The cluster does not answer any more: {change.failed}")
        for node in change.dead:
            for line in [line for line in self._lines.values() if line.node == node]:
                self._lost_host(line, "its node died")
        for reservation, node in change.placed:
            if self._setup.request.gpus > 0:
                self._backend.devices(reservation, node, self._setup.request.gpus)
            else:
                self._slot_ready(node, "")
        self._see_to_home()

    def _slot_ready(self, node: str, device: str | Away | Gone | BaseException) -> None:
        """A slot can be used."""
        if not isinstance(device, str) or node in self._refused or self._closed:
            return  # its node has died meanwhile, and the cluster places it elsewhere
        post = next((post for post in self.fleet.posts.values() if post.node == node), None)
        if post is not None:
            self._events += self.fleet.more_slots(post, [device])
        elif node in self._beginning:
            self._beginning[node].devices.append(device)
        else:
            self._begin_host(node, [device])

    # ----------------------------------------------------------------------------------------------------------- hosts

    def _see_to_home(self) -> None:
        """Begin a host in the driver's folder where one is needed that keeps copies there."""
        if self._fleet is not None and self._fleet.needs_home and _HOME not in self._beginning and not self._closed:
            self._begin_host(self._backend.node, [], home=True)

    def _begin_host(self, node: str, devices: list[str], *, home: bool = False) -> None:
        self._hosts += 1
        key = f"host-{self._hosts}"
        setup = HostSetup(key=key, with_driver=node == self._backend.node, **self._host_setup)
        line = self._backend.begin_host(setup, node)
        self._beginning[_HOME if home else node] = _Beginning(line, devices, home)
        self._begun[node] += 1
        if refs := stored():
            line.lacks(refs)
        else:
            line.begin(members=not home)

    def _beginning_of(self, key: str) -> tuple[str, _Beginning] | None:
        return next(((where, each) for where, each in self._beginning.items() if each.line.key == key), None)

    def _lacks(self, key: str, found: list[ObjectRef[Any]] | Away | Gone | BaseException) -> None:
        """A host lacks objects. One that is about to work gets them first."""
        beginning = self._beginning_of(key)
        line = self._lines.get(key) if beginning is None else beginning[1].line
        if line is None:
            return
        if isinstance(found, list):
            line.give(found)
        if beginning is not None:
            line.begin(members=not beginning[1].home)

    def _share_new(self) -> None:
        """Give all hosts the objects that were put since they began: the launch that follows may need them."""
        new = [ref for ref in stored() if ref.id not in self._shared]
        self._shared.update(ref.id for ref in new)
        for line in self._lines.values() if new else ():
            if line.node != self._backend.node:
                line.give(new)

    def _host_started(self, key: str, found: HostFacts | Away | Gone | BaseException, *, starting: bool) -> None:
        from .. import __version__

        known = self._beginning_of(key)
        assert self._setup is not None
        if known is None:
            return
        where, begun = known
        del self._beginning[where]
        if isinstance(found, HostFacts) and found.version != __version__:
            found = EngineError(f"Shoal is {found.version} on {found.hostname}, and {__version__} here. Install one.")
        if isinstance(found, HostFacts):
            self._host_works(begun, found)
        elif isinstance(found, Away | Gone) and self._begun[begun.line.node] < _BEGIN_AT_MOST:
            if self._granted is not None and not begun.home:
                self._granted.forget(begun.line.node)  # if the node is still there, it is tried again
        else:
            why = _cannot(found if isinstance(found, BaseException) else EngineError("its process ends at once"))
            if starting and not self._beginning:
                raise found if isinstance(found, EngineError) else EngineError(why)
            if begun.home:
                self.fleet.no_home()
            else:
                self._refused.add(begun.line.node)
            self._setup.note(f"A node of the cluster cannot run members, and is left out: {why}")

    def _host_works(self, begun: _Beginning, facts: HostFacts) -> None:
        line = begun.line
        del self._begun[line.node]
        self._lines[line.key] = self._silent[line.key] = line
        self._backend.introduce(line)
        self._events += self.fleet.join(Post(line.key, line, facts, line.node), begun.devices, home=begun.home)
        self._see_to_home()

    def _took(self, key: str, found: Batch | Away | Gone | BaseException) -> None:
        """A host has said something, or cannot be heard any more."""
        line = self._lines.get(key)
        if line is None:
            return
        line.listening, self._silent[key] = False, line
        if isinstance(found, Batch):
            again = line.away_since is not None
            if line.took(found):
                self._events += self.fleet.heard(key, found.said)
            if self.fleet.has(key):
                line.resend(all_of_it=again)
            else:
                self._lost_host(line, "it cannot go on")
        elif isinstance(found, Away) and not _gave_up(line):
            now = time.monotonic()
            line.away_since, line.again_at = line.away_since or now, now + _AGAIN_S
        elif isinstance(found, BaseException):
            self._lost_host(line, f"its host failed: {one_line(found)}")
        else:
            self._lost_host(line, "its node died")

    def _lost_host(self, line: HostLine, reason: str) -> None:
        self._lines.pop(line.key, None)
        self._silent.pop(line.key, None)
        self._backend.end_host(line)
        with_slots = not self.fleet.is_home(line.key)
        self._events += self.fleet.leave(line.key, reason)
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
        self._put("call", call)
        if self._left:
            self._answer_calls()

    def _answer_calls(self) -> None:
        """Nobody polls any more."""
        with contextlib.suppress(queue.Empty):
            while True:
                kind, call, _ = self._inbox.get_nowait()
                if kind == "call":
                    call()

    def _leave(self) -> None:
        """Let go of all that the cluster has given."""
        if self._fleet is not None:
            self._fleet.close()
        self._left = True
        self._answer_calls()
        beginning = [each.line for each in self._beginning.values()]
        for line in beginning:
            self._backend.end_host(line)
        self._backend.leave([*self._lines.values()], _LEAVE_S)
        self._lines.clear()
        self._silent.clear()
        self._beginning.clear()
        if self._granted is not None:
            self._granted.release()
            self._granted = None
        if self._probe is not None:
            self._probe.unlink(missing_ok=True)


def _gave_up(line: HostLine) -> bool:
    return line.away_since is not None and time.monotonic() - line.away_since > _AWAY_S


def _cannot(error: BaseException) -> str:
    return str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
