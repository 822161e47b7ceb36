"""The slots that a cluster grants: asks for one reservation for each that can be of use, and follows where they are.

A thread asks every second, because what a cluster grants may change at any time, and an answer may take long. It knows
the cluster by a few calls, see :class:`Cluster`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from ..errors import one_line
from ..resources import Request

__all__ = ["Change", "Cluster", "Granted", "bundle_of"]

_FIRST_S = 0.01
_OFTEN_S = 0.1
_SELDOM_S = 1.0
_OFTEN_FOR = 20
"""So many times it asks often after something has changed, the first few times more often still."""
_AWAY_S = 60.0
"""So long the cluster may not answer."""
_AHEAD = 4
"""So many reservations, at least, are asked for beyond those that are granted: room may come."""
_ALL = 1 << 20
_JOIN_S = 10.0
"""So long an answer of the cluster is waited for when all is given back."""
_LEAST_CPU = 0.001
"""What is asked for where a trial takes nothing: a cluster does not reserve nothing."""


Nodes: TypeAlias = Mapping[str, "Mapping[str, float] | None"]


class Cluster(Protocol):
    """What a cluster is asked. All calls may wait."""

    def ask(self, bundle: Mapping[str, float]) -> str:
        """Ask for a reservation; return its id."""
        ...

    def withdraw(self, reservation: str) -> None:
        """Give a reservation back, granted or not. One that is gone is no error."""
        ...

    def where(self) -> Mapping[str, str | None]:
        """Return the node of each reservation, None where it is not granted, or not any more."""
        ...

    def nodes(self) -> Nodes:
        """Return what each node has in all; None: it has died."""
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """What has changed."""

    placed: tuple[tuple[str, str], ...] = ()
    """Reservations that are granted now, with their nodes."""
    dead: tuple[str, ...] = ()
    """Nodes that have died, of those that had reservations."""
    failed: str | None = None
    """Why the cluster cannot be asked any more."""


def bundle_of(request: Request) -> dict[str, float]:
    """Return what one trial takes, by Ray's names."""
    amounts = {"CPU": request.cpus, "GPU": request.gpus, "memory": float(request.memory), **request.custom}
    return {name: amount for name, amount in amounts.items() if amount} or {"CPU": _LEAST_CPU}


@dataclass(slots=True)
class Granted:
    """Asks for slots and tells which there are.

    Args:
        cluster: whom to ask.
        request: what one trial takes.
        wanted: at most so many slots are of use; None: there is no limit.
        tell: called with each change, in a thread of its own. It must not raise.
    """

    cluster: Cluster
    request: Request
    wanted: int | None
    tell: Callable[[Change], None]
    _placed: dict[str, str] = field(default_factory=dict[str, str])
    """Granted reservations, with their nodes."""
    _pending: set[str] = field(default_factory=set[str])
    _useless: dict[str, str] = field(default_factory=dict[str, str])
    """Granted where no trial can run: they are kept, so that no others are placed there, and count for nothing."""
    _refused: set[str] = field(default_factory=set[str])
    """Nodes on which no trial can run."""
    _lost: set[str] = field(default_factory=set[str])
    """Nodes that who runs there is gone from: what is placed there is to be told once more."""
    _again: set[str] = field(default_factory=set[str])
    """Reservations that are to be told once more."""
    _returned: set[str] = field(default_factory=set[str])
    """Reservations that are to be withdrawn."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to ask."""
        self._thread = threading.Thread(target=self._live, name="shoal-slots", daemon=True)
        self._thread.start()

    def want(self, wanted: int | None) -> None:
        """At most so many slots are of use from now on; those that were granted stay until they are given back."""
        self.wanted = wanted

    def forget(self, node: str) -> None:
        """Whoever ran on a node is gone. If reservations are still there, they are told again."""
        with self._lock:
            self._lost.add(node)

    def again(self, reservation: str) -> None:
        """Nothing could be made of a granted reservation: if it is still there, it is told again."""
        with self._lock:
            self._again.add(reservation)

    def refuse(self, node: str) -> None:
        """No trial can run on a node. What is granted there counts no more, and is told no more."""
        with self._lock:
            self._refused.add(node)

    def useless(self, reservation: str, node: str) -> None:
        """No trial can run in a granted reservation: it counts no more."""
        with self._lock:
            if self._placed.pop(reservation, None) is not None:
                self._useless[reservation] = node

    def give_back(self, reservations: Iterable[str]) -> None:
        """Granted reservations are of no use any more. Nobody is told of them again."""
        with self._lock:
            self._returned.update(reservations)

    def stop(self) -> None:
        """Ask for nothing more."""
        self._stop.set()

    def release(self) -> None:
        """Give all back. What cannot be given back goes with the connection to the cluster."""
        self.stop()
        if self._thread is not None:
            self._thread.join(_JOIN_S)
        with self._lock:
            all_of_them = [*self._placed, *self._pending, *self._useless]
            for known in (self._placed, self._pending, self._useless):
                known.clear()
        for reservation in all_of_them:
            with contextlib.suppress(Exception):
                self.cluster.withdraw(reservation)

    def _live(self) -> None:
        often, pause = _OFTEN_FOR, _FIRST_S
        failing_since: float | None = None
        while not self._stop.is_set():
            often -= 1
            try:
                if self.look():
                    often, pause = _OFTEN_FOR, _FIRST_S
                failing_since = None
            except Exception as error:
                now = time.monotonic()
                failing_since = now if failing_since is None else failing_since
                if now - failing_since > _AWAY_S:
                    self.tell(Change(failed=one_line(error)))
                    return
            # What is asked for is granted within some 20 ms where there is room, and a host takes its time after that.
            self._stop.wait(pause if often > 0 else _SELDOM_S)
            pause = min(2 * pause, _OFTEN_S)

    def look(self) -> bool:
        """Ask once; tell what has changed, and ask for what is lacking. Return whether something has changed.

        Raises:
            Exception: the cluster does not answer. What had changed until then has been told.
        """
        useless = len(self._useless)
        nodes = self.cluster.nodes()
        self._withdraw_returned()
        change = self._compare(nodes, self.cluster.where())
        if change is not None:
            self.tell(change)
        self._ask(nodes)
        # What was granted where it is of no use is asked for anew, and may be granted there again until that is full.
        return change is not None or len(self._useless) > useless

    def _withdraw_returned(self) -> None:
        with self._lock:
            returned = list(self._returned)
        for reservation in returned:
            self.cluster.withdraw(reservation)
            with self._lock:
                self._returned.discard(reservation)
                self._forget(reservation)

    def _forget(self, reservation: str) -> None:
        self._placed.pop(reservation, None)
        self._useless.pop(reservation, None)
        self._pending.discard(reservation)

    def _compare(self, nodes: Nodes, where: Mapping[str, str | None]) -> Change | None:
        """Return what has changed, or None."""
        with self._lock:
            lost, self._lost = self._lost, set()
            again, self._again = self._again, set()
            dead = {node for node in self._placed.values() if nodes.get(node) is None}
            for reservation, node in list(self._placed.items()):
                # One that is elsewhere now was moved by the cluster, because its node has died.
                if node in dead or node in lost or reservation in again or where.get(reservation) != node:
                    del self._placed[reservation]
                    self._pending.add(reservation)
            for reservation, node in list(self._useless.items()):
                if nodes.get(node) is None or where.get(reservation) != node:
                    del self._useless[reservation]
                    self._pending.add(reservation)
            placed: list[tuple[str, str]] = []
            for reservation in sorted(self._pending):
                found = where.get(reservation)
                if found is not None and nodes.get(found) is not None:
                    self._pending.discard(reservation)
                    self._placed[reservation] = found
                    placed.append((reservation, found))
            for reservation, node in list(self._placed.items()):
                if node in self._refused:
                    self._useless[reservation] = self._placed.pop(reservation)
            placed = [each for each in placed if each[1] not in self._refused]
        return Change(tuple(placed), tuple(sorted(dead))) if placed or dead else None

    def _ask(self, nodes: Nodes) -> None:
        """Ask for as many as there may be room for, and a few more; take back what is of no use."""
        with self._lock:
            have, pending, refused = len(self._placed), sorted(self._pending), set(self._refused)
        wanted = _ALL if self.wanted is None else self.wanted
        room = sum(_fits(self.request, has) for node, has in nodes.items() if has is not None and node not in refused)
        target = min(wanted, max(room, have + max(_AHEAD, have // 4)))
        for _ in range(target - have - len(pending)):
            if not self._stop.is_set():
                self._ask_for_one()
        for reservation in pending[max(0, wanted - have) :]:
            self.cluster.withdraw(reservation)
            with self._lock:
                self._forget(reservation)

    def _ask_for_one(self) -> None:
        reservation = self.cluster.ask(bundle_of(self.request))
        with self._lock:
            if not self._stop.is_set():
                self._pending.add(reservation)
                return
        self.cluster.withdraw(reservation)  # all was given back while this took its time

    def what_is_there(self) -> str:
        """Say what one trial takes and what the nodes have, for who waits."""
        asks = ", ".join(f"{name} {amount:g}" for name, amount in bundle_of(self.request).items())
        try:
            nodes = self.cluster.nodes()
        except Exception as error:
            return f"it does not answer: {one_line(error)}."
        alive = [has for has in nodes.values() if has is not None]
        has = "; ".join(_text(each) for each in alive[:5]) or "no node"
        fits = any(_fits(self.request, each) for each in alive)
        lacks = "nothing of that is free" if fits else "no node that is there now can run one"
        return f"one trial takes {asks}, and {lacks}. The nodes have in all: {has}."

    @property
    def possible(self) -> bool:
        """Whether a node that is there now could ever run a trial; also where that cannot be known."""
        try:
            nodes = self.cluster.nodes()
        except Exception:
            return True
        return any(_fits(self.request, has) for has in nodes.values() if has is not None)


def _fits(request: Request, has: Mapping[str, float]) -> int:
    """Return how many trials a node has room for, if nobody else uses it."""
    return min(int(has.get(name, 0.0) / amount + 1e-9) for name, amount in bundle_of(request).items())


def _text(has: Mapping[str, float]) -> str:
    shown = {name: amount for name, amount in has.items() if not name.startswith(("node:", "object_store"))}
    return ", ".join(f"{name} {amount:g}" for name, amount in sorted(shown.items()))
