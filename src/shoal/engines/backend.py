"""What the engine for clusters needs of a cluster: to begin hosts where slots were granted, and ways to them.

Whoever is asked for something never waits. What was found is put into an inbox, by any thread.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ..objects import ObjectRef
from .granted import Cluster
from .line import Line
from .orders import Batch, HostSetup, Order

__all__ = ["Away", "Backend", "Gone", "HostLine", "Inbox"]

Inbox: TypeAlias = "queue.SimpleQueue[tuple[str, Any, Any]]"
"""(what it is, of whom, what was found), see :meth:`shoal.engines.cluster.ClusterEngine.poll`."""


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
        self.given: set[str] = set()
        """Ids of the objects of ``shoal.put`` that it has, or is about to have."""
        self.waits = 0
        """For how many answers about such objects it waits before it is told more."""
        self.behind = False
        """It has to be asked again which it lacks, when it is heard."""
        self._later: list[list[Order]] = []

    def send(self, orders: list[Order]) -> None:
        """Send a packet of orders, as soon as the objects are there that what is ordered may need."""
        if self.waits:
            self._later.append(orders)
        else:
            super().send(orders)

    def go_on(self) -> None:
        """Send what had to wait."""
        later, self._later = self._later, []
        for orders in later:
            super().send(orders)

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
        """Give it such objects. Answer for each: None, as ``given`` of (the host's key, the reference)."""
        raise NotImplementedError

    def listen(self) -> None:
        """Ask for what there is to tell, and send with it what was to be sent. Answer: a ``Batch``, as ``batch``."""
        raise NotImplementedError

    def close(self) -> None:
        """Have it delete what it has stored. Answer: as ``closed``."""
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
        """Ask which GPUs a slot has. Answer: as for ``CUDA_VISIBLE_DEVICES``, as ``devices`` of (reservation, node)."""
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
