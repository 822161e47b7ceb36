"""The engine for a cluster: asks for slots, runs a host on each node that has some, and passes on what both sides say.

It knows a cluster by what :mod:`shoal.engines.backend` promises; :mod:`shoal.engines.ray` is the one there is. All of
it happens in the thread that polls. What comes from elsewhere, answers of hosts above all, is put into an inbox.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core.commands import Launch, Stop
from ..core.events import Event
from ..errors import EngineError, one_line
from ..objects import ObjectRef, stored
from ..scratch import make_temporary, remove_temporary
from ..worker.wire import MemberInfo
from . import EngineCommand, EngineSetup
from .backend import Away, Backend, Gone, HostLine, Inbox
from .beginning import Beginning, Late, Slot, not_at_home, waiting_for, why_not
from .cluster_depot import ClusterDepot
from .fleet import Fleet, Post
from .granted import Change, Granted
from .orders import Batch, HostFacts, HostSetup
from .pickling import pickle_trainable
from .stock import patience_for

__all__ = ["ClusterEngine"]

_END_S = 7.0
"""So long members have to end before their hosts are ended."""
_LEAVE_S = 5.0
"""So long hosts have to delete what they have stored."""
_AWAY_S = 30.0
"""So long a host may be out of reach before it counts as gone."""
_AGAIN_S = 0.5
_TELL_AFTER_S = 3.0
"""So long a run waits for its first slot before it says so."""
_TELL_AGAIN_S = 60.0
_BEGIN_S = 300.0
"""So long a host may take to begin, beside what its objects take. A first import from a slow disk is no error."""
_SLOW_S = 10.0
"""After so long it is said that a host is waited for, or word of GPUs."""
_BEGIN_AT_MOST = 3
"""So often a host is begun on a node where it dies at once, and so often it is asked which GPUs a slot has."""
_LOOK_S = 1.0
"""So often it is looked whether there are more slots than can be of use."""
_STAYS_S = 10.0
"""So long a host without slots stays at least: who keeps copies there may not know yet that others do now."""
_HOME = "home"
_PROBE = ".shoal-"
_OF_A_NODE = ("SHOAL_CACHE", "SHOAL_DIR")
"""What another node has of its own."""


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
        self._beginning: dict[str, Beginning] = {}
        """By node; that of the host that only keeps copies is called ``home``."""
        self._begun: Counter[str] = Counter()
        """How often a host was begun since one has worked there, by the same names."""
        self._refused: set[str] = set()
        """Nodes on which no host can be begun."""
        self._asked: Counter[str] = Counter()
        """How often it was asked which GPUs a reservation has, where that is not known yet."""
        self._asking: dict[str, tuple[str, float]] = {}
        """Reservations of which that is being asked, with their nodes, and since when."""
        self._reservations: dict[int, str] = {}
        """What the cluster has granted for each slot."""
        self._given_back: set[str] = set()
        """Reservations that were given back."""
        self._idle: dict[str, float] = {}
        """Since when hosts have been of no use."""
        self._dismissed: dict[str, HostLine] = {}
        """Those that delete what they have stored, and then end."""
        self._look_at = 0.0
        self._tell_slow_at = 0.0
        """When to say again who is waited for."""
        self._hosts = 0
        self._ended: set[str] = set()
        """Trials that have ended while this ran."""
        self._events: list[Event] = []
        self._probe: Path | None = None
        self._secrets: str | None = None
        self._starting = False
        self._closed = False
        self._left = False
        self._pump: threading.Thread | None = None
        self._done = threading.Event()
        """Nobody needs the hosts any more."""
        self._shared: set[str] = set()
        """Ids of the objects of ``shoal.put`` that all hosts at work have been asked about."""
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
        for left in Path(setup.folder).glob(f"{_PROBE}*"):
            left.unlink(missing_ok=True)  # by a driver that was killed
        self._probe = Path(setup.folder, f"{_PROBE}{uuid.uuid4().hex}")
        self._probe.touch()
        environment = self._backend.environment()
        self._secrets = _written(environment)
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
            # All of a cluster's actors, and its head, see what they are begun with.
            "environment": {
                name: value
                for name, value in environment.items()
                if name.startswith("SHOAL_") and name not in _OF_A_NODE
            },
        }
        self._granted = Granted(cluster, setup.request, self._wanted(), lambda change: self._put("slots", change))
        self._granted.start()
        self._wait_for_first(self._granted, setup)

    def _wait_for_first(self, granted: Granted, setup: EngineSetup) -> None:
        self._starting = True
        tell_at = time.monotonic() + _TELL_AFTER_S
        while not self.fleet.posts:
            setup.check()
            self._take(0.1)
            now, under_way = time.monotonic(), bool(self._beginning or self._asking)
            self._see_to_beginnings()
            if under_way:
                tell_at = max(tell_at, now + _TELL_AFTER_S)  # where that fails, it is tried again
            elif now > tell_at and not self.fleet.posts:
                if self._backend.alone and not granted.possible:
                    raise EngineError(f"Nothing can be run: {granted.what_is_there()}")
                setup.note(f"Waiting for the cluster: {granted.what_is_there()}")
                tell_at = now + _TELL_AGAIN_S
        self._starting = False

    def _put(self, kind: str, key: Any) -> None:
        """Put something into the inbox, in any thread."""
        self._inbox.put((kind, key, None))

    # ---------------------------------------------------------------------------------------------- executing, polling

    def add(self, info: MemberInfo) -> None:
        """A trial was added."""
        self.fleet.add(info)

    def execute(self, command: EngineCommand, checkpoint: str | None) -> None:
        """Have a command carried out where it belongs; it is on its way with the next :meth:`poll`."""
        if isinstance(command, Launch):
            self._ended.discard(command.trial_id)
            self._share_new()
        self.fleet.execute(command, checkpoint)
        if isinstance(command, Stop) and self._granted is not None:
            self._ended.add(command.trial_id)
            self._granted.want(self._wanted())

    def kill(self, trial_id: str, reason: str) -> None:
        """End the process of a trial at once."""
        self.fleet.kill(trial_id, reason)

    def poll(self, timeout: float) -> list[Event]:
        """Return what has happened; wait at most ``timeout`` seconds for the first event."""
        fleet = self.fleet
        fleet.flush()
        self._listen()
        self._events += fleet.take_ready()
        self._see_to_beginnings()
        if not self._events:
            self._give_back()
        self._take(0.0 if self._events else timeout)
        fleet.flush()
        events, self._events = self._events, []
        return events

    def _take(self, timeout: float) -> None:
        """Take in what has arrived; wait for the first. What arrives meanwhile is for the next time."""
        with contextlib.suppress(queue.Empty):
            self._handle(*self._inbox.get(timeout=timeout))
            for _ in range(self._inbox.qsize()):
                self._handle(*self._inbox.get_nowait())

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

    def _handle(self, kind: str, key: Any, found: Any) -> None:
        if kind == "batch":
            self._took(key, found)
        elif kind == "slots":
            self._slots_changed(key)
        elif kind == "devices":
            reservation, node = key
            self._devices_told(reservation, node, found)
        elif kind == "started":
            self._host_started(key, found)
        elif kind == "lacks":
            self._lacks(key, found)
        elif kind == "given":
            host, ref = key
            self._given(host, ref, found)
        elif kind == "closed":
            if (line := self._dismissed.pop(key, None)) is not None:
                self._backend.end_host(line)
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
            if reservation in self._given_back or self._is_known(reservation, node):
                continue  # it was placed elsewhere meanwhile, or is told once more because of another on its node
            if self._setup.request.gpus > 0:
                self._asked[reservation] += 1
                self._asking[reservation] = node, time.monotonic()
                self._backend.devices(reservation, node, self._setup.request.gpus)
            else:
                self._slot_ready(node, Slot(reservation, ""))
        self._see_to_home()

    def _is_known(self, reservation: str, node: str) -> bool:
        """Return whether what was granted on a node is in use there, or about to be."""
        begun = self._beginning.get(node)
        return (
            self._is_asking(reservation, node)
            or (begun is not None and any(slot.reservation == reservation for slot in begun.slots))
            or any(
                self._reservations.get(slot) == reservation
                for post in self.fleet.posts.values()
                if post.node == node
                for slot in post.slots
            )
        )

    def _is_asking(self, reservation: str, node: str) -> bool:
        return reservation in self._asking and self._asking[reservation][0] == node

    def _devices_told(self, reservation: str, node: str, found: str | Away | Gone | BaseException) -> None:
        """It is known which GPUs a slot has, or not."""
        assert self._granted is not None
        assert self._setup is not None
        if not self._is_asking(reservation, node):
            return  # it was placed elsewhere meanwhile
        del self._asking[reservation]
        if isinstance(found, str):
            del self._asked[reservation]
            self._slot_ready(node, Slot(reservation, found))
            return
        if self._asked[reservation] < _BEGIN_AT_MOST:
            self._granted.again(reservation)  # if its node has died, the cluster places it elsewhere
            return
        del self._asked[reservation]
        self._granted.useless(reservation, node)
        why = why_not(found if isinstance(found, BaseException) else EngineError("who was asked ends at once"))
        if self._starting and not self._is_hopeful:
            raise found if isinstance(found, EngineError) else EngineError(why)
        self._setup.note(f"A slot of the cluster is left out, because nobody can tell which GPUs it has: {why}")

    @property
    def _is_hopeful(self) -> bool:
        """Whether there is a slot, or what is under way may give one."""
        begun = any(where != _HOME for where in self._begun)
        return bool(self._asked or begun or self.fleet.posts)

    def _slot_ready(self, node: str, slot: Slot) -> None:
        """A slot can be used."""
        if node in self._refused or self._closed or slot.reservation in self._given_back:
            return
        post = next((post for post in self.fleet.posts.values() if post.node == node), None)
        if post is not None:
            before = set(post.slots)
            self._events += self.fleet.more_slots(post, [slot.device])
            self._reservations.update(dict.fromkeys(post.slots - before, slot.reservation))
        elif node in self._beginning:
            self._beginning[node].slots.append(slot)
        else:
            self._begin_host(node, [slot])

    def _wanted(self) -> int | None:
        """Return how many slots can be of use, or None."""
        assert self._setup is not None
        trials, limit = self._setup.trials, self._setup.limit
        if trials is None:
            return limit
        left = max(1, trials - len(self._ended))
        return left if limit is None else min(left, limit)

    def _give_back(self) -> None:
        """Give slots back that can be of no use any more, and end hosts without slots.

        The core must know all that has happened, and what it has decided must have been carried out: then nobody gets a
        slot while it leaves.
        """
        now, wanted, granted = time.monotonic(), self._wanted(), self._granted
        if now < self._look_at or wanted is None or granted is None or self._closed:
            return
        self._look_at = now + _LOOK_S
        for post, slots in self.fleet.spare(wanted):
            self._events += self.fleet.fewer_slots(post, slots)
            back = {self._reservations.pop(slot) for slot in slots}.difference(self._reservations.values())
            self._given_back.update(back)
            granted.give_back(back)
        idle = {post.key for post in self.fleet.idle()}
        self._idle = {key: self._idle.get(key, now) for key in idle}
        for key in [key for key, since in self._idle.items() if now - since > _STAYS_S]:
            line = self._lines.pop(key)
            self._silent.pop(key, None)
            self._events += self.fleet.leave(key, "it is of no use any more")
            self._dismiss(line)

    def _dismiss(self, line: HostLine) -> None:
        """Have a host delete what it has stored, and end."""
        self._dismissed[line.key] = line
        line.close()

    # ----------------------------------------------------------------------------------------------------------- hosts

    def _see_to_home(self) -> None:
        """Begin a host in the driver's folder where one is needed that keeps copies there."""
        if self._fleet is not None and self._fleet.needs_home and _HOME not in self._beginning and not self._closed:
            self._begin_host(self._backend.node, [], home=True)

    def _begin_host(self, node: str, slots: list[Slot], *, home: bool = False) -> None:
        self._hosts += 1
        key = f"host-{self._hosts}"
        with_driver = node == self._backend.node
        secrets = self._secrets or "" if with_driver else ""
        setup = HostSetup(key=key, with_driver=with_driver, secrets=secrets, **self._host_setup)
        line = self._backend.begin_host(setup, node)
        where = _HOME if home else node
        now = time.monotonic()
        self._beginning[where] = Beginning(line, slots, home, now, now + _BEGIN_S)
        self._begun[where] += 1
        if home or not self._see_to_objects(line):
            line.begin(members=not home)

    def _beginning_of(self, key: str) -> tuple[str, Beginning] | None:
        return next(((where, each) for where, each in self._beginning.items() if each.line.key == key), None)

    def _see_to_beginnings(self) -> None:
        """End hosts that take too long to begin. Say now and then what has been waited for for some time."""
        if self._closed or not (self._beginning or self._asking):
            return
        now = time.monotonic()
        for begun in [begun for begun in self._beginning.values() if now > begun.until]:
            where, took = self._name(begun.line.node), f"{now - begun.since:.0f} s"
            self._host_started(begun.line.key, Late(f"a host on {where} has not begun within {took}"))
        hosts = [begun.line.node for begun in self._beginning.values() if now - begun.since > _SLOW_S]
        asked = [node for node, since in self._asking.values() if now - since > _SLOW_S]
        if (hosts or asked) and now > self._tell_slow_at:
            assert self._setup is not None
            self._tell_slow_at = now + _TELL_AGAIN_S
            self._setup.note(waiting_for([*map(self._name, hosts)], [*map(self._name, asked)]))

    def _name(self, node: str) -> str:
        """Return what a node is called of which nothing is known yet."""
        return "this machine" if node == self._backend.node else f"node {node[:8]}"

    def _see_to_objects(self, line: HostLine) -> bool:
        """Give a host the objects that were put and that it lacks. Return whether it has to wait for that."""
        new = [ref for ref in stored() if ref.id not in line.given]
        if new:
            line.given.update(ref.id for ref in new)
            line.waits += 1
            line.lacks(new)
        return bool(new)

    def _share_new(self) -> None:
        """Give all hosts the objects that were put since they began: the launch that follows may need them."""
        new = {ref.id for ref in stored()} - self._shared
        self._shared |= new
        for line in self._lines.values() if new else ():
            self._see_to_objects(line)

    def _waiting(self, key: str) -> HostLine | None:
        """Return the line of a host that waits for objects."""
        beginning = self._beginning_of(key)
        return self._lines.get(key) if beginning is None else beginning[1].line

    def _lacks(self, key: str, found: list[ObjectRef[Any]] | Away | Gone | BaseException) -> None:
        """A host lacks objects. It gets them first."""
        line = self._waiting(key)
        if line is None:
            return
        known = self._beginning_of(key)
        if isinstance(found, list):
            line.waits += len(found)
            if known is not None:
                known[1].until = time.monotonic() + _BEGIN_S + patience_for(sum(ref.size for ref in found))
            line.give(found)
        elif known is not None:
            self._host_started(key, found)
            return
        else:
            line.given.clear()
            line.behind = True
        self._has_objects(key, line)

    def _given(self, key: str, ref: ObjectRef[Any], found: Away | Gone | BaseException | None) -> None:
        """An object is where a host is, or cannot be."""
        line = self._waiting(key)
        if line is None:
            return
        if isinstance(found, BaseException):
            why = f"the object of {ref!r} cannot be stored there: {one_line(found)}"
            if self._beginning_of(key) is not None:
                self._host_started(key, EngineError(why))
                return
            assert self._setup is not None
            where = self.fleet.hostname(key)
            self._setup.note(f"On {where} {why.rstrip('.')}. Members that need it there fail.")
        elif found is not None:
            if self._beginning_of(key) is not None:
                self._host_started(key, found)
                return
            line.given.discard(ref.id)
            line.behind = True
        self._has_objects(key, line)

    def _has_objects(self, key: str, line: HostLine) -> None:
        """A host has answered about an object. When that was the last, it begins, or goes on."""
        line.waits -= 1
        if line.waits:
            return
        beginning = self._beginning_of(key)
        if beginning is not None:
            beginning[1].until = time.monotonic() + _BEGIN_S
            line.begin(members=True)
        else:
            line.go_on()

    def _host_started(self, key: str, found: HostFacts | Away | Gone | BaseException) -> None:
        """A host works, or cannot be begun."""
        from .. import __version__

        known = self._beginning_of(key)
        if known is None:
            return
        where, begun = known
        del self._beginning[where]
        if self._closed:
            self._backend.end_host(begun.line)
            return
        if isinstance(found, HostFacts) and found.version != __version__:
            found = EngineError(f"Shoal is {found.version} on {found.hostname}, and {__version__} here. Install one.")
        if isinstance(found, HostFacts) and begun.home and not found.shared:
            self._dismiss(begun.line)
            self._cannot_begin(begun, not_at_home(found, self._host_setup["folder"]))
            return
        if isinstance(found, HostFacts):
            del self._begun[where]
            self._host_works(begun, found)
            return
        self._backend.end_host(begun.line)
        # Without one that keeps copies reports are held; members that begin late hold up nobody.
        again = isinstance(found, Away | Gone) or (isinstance(found, Late) and not begun.home)
        if again and self._begun[where] < _BEGIN_AT_MOST:
            if begun.home:
                self._see_to_home()
            elif self._granted is not None:
                self._granted.forget(begun.line.node)  # if the node is still there, it is tried again
        else:
            del self._begun[where]
            self._cannot_begin(begun, found)

    def _cannot_begin(self, begun: Beginning, found: Away | Gone | BaseException) -> None:
        """A node cannot have a host."""
        assert self._setup is not None
        why = why_not(found if isinstance(found, BaseException) else EngineError("its process ends at once"))
        if begun.home:
            self.fleet.no_home()
            self._setup.note(
                f"What members save on other nodes cannot be copied to this one, and may be lost with its node: {why}"
            )
            return
        if self._starting and not self._is_hopeful:
            raise found if isinstance(found, EngineError) else EngineError(why)
        self._refused.add(begun.line.node)
        if self._granted is not None:
            self._granted.refuse(begun.line.node)
        self._setup.note(f"A node of the cluster cannot run members, and is left out: {why}")

    def _host_works(self, begun: Beginning, facts: HostFacts) -> None:
        line = begun.line
        self._lines[line.key] = self._silent[line.key] = line
        self._backend.introduce(line)
        post = Post(line.key, line, facts, line.node)
        self._events += self.fleet.join(post, [slot.device for slot in begun.slots], home=begun.home)
        self._reservations.update(zip(sorted(post.slots), [slot.reservation for slot in begun.slots], strict=True))
        if not begun.home:
            self._see_to_objects(line)  # some may have been put while it began
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
                if line.behind:
                    line.behind = False
                    self._see_to_objects(line)
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
        for slot in [slot for slot in self._reservations if not self.fleet.has_slot(slot)]:
            del self._reservations[slot]
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
        """Poll until nobody needs the hosts any more."""
        why: BaseException | None = None
        try:
            while not self._done.is_set():
                self.poll(0.1)
        except BaseException as error:
            why = error  # who waits for an upload is told
        finally:
            self._leave(why)

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

    def _leave(self, why: BaseException | None = None) -> None:
        """Let go of all that the cluster has given.

        Args:
            why: what was in the way of going on, where something was.
        """
        with contextlib.ExitStack() as stack:
            if self._probe is not None:
                stack.callback(self._probe.unlink, missing_ok=True)
            if self._secrets is not None:
                stack.callback(remove_temporary, os.path.dirname(self._secrets))
                self._secrets = None
            if self._granted is not None:
                stack.callback(self._granted.release)
                self._granted = None
            stack.callback(self._leave_hosts)
            if self._fleet is not None:
                self._fleet.close(why)
            self._left = True
            self._answer_calls()

    def _leave_hosts(self) -> None:
        for begun in self._beginning.values():
            self._backend.end_host(begun.line)
        self._backend.leave([*self._lines.values(), *self._dismissed.values()], _LEAVE_S)
        for known in (self._lines, self._silent, self._beginning, self._dismissed):
            known.clear()


def _written(environment: Mapping[str, str]) -> str:
    """Write environment variables into a file that only this user can read. Return its path."""
    path = os.path.join(make_temporary("environment-"), "environment")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(dict(environment), file)  # what is no UTF-8 in it, too: as escapes
    return path


def _gave_up(line: HostLine) -> bool:
    return line.away_since is not None and time.monotonic() - line.away_since > _AWAY_S
