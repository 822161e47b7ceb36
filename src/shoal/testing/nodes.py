"""The nodes of a simulated cluster, which come and go, and the slots on them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.events import SlotsJoined, SlotsLeft

__all__ = ["Machine", "Node", "random_nodes"]


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a simulated cluster.

    When it dies, all processes die that ran there last. What they have saved is still there: what the core has heard of
    is safe.
    """

    device: str
    """To which processes on it are bound. Either all nodes have a name of their own, or all have ``""``."""
    slots: int = 1
    joins_at: float | None = None
    """Virtual seconds since the driver has begun; None: its slots are there when the experiment is opened."""
    dies_at: float | None = None
    """Virtual seconds since the driver has begun, or None."""
    residents: int = 0
    """How many more processes are allowed while it is there, where their number is limited."""


def random_nodes(
    seed: int, *, count: int, seconds: float, slots: int = 3, residents: int = 0, alike: bool = False
) -> tuple[Node, ...]:
    """Return nodes that come and go at random times, and one that comes at last and stays.

    Args:
        seed: the same nodes for the same seed.
        count: how many there are beside that one.
        seconds: virtual seconds within which all of them come and go.
        slots: the most slots that one of them has.
        residents: as in :class:`Node`, for each.
        alike: whether processes are not bound to their node.
    """
    rng = random.Random(f"{seed}/nodes")
    nodes: list[Node] = []
    for index in range(count):
        joins_at = None if rng.random() < 0.4 else rng.random() * seconds
        dies_at = None if rng.random() < 0.15 else (joins_at or 0.0) + rng.random() * (seconds - (joins_at or 0.0))
        device = "" if alike else f"node-{index}"
        nodes.append(Node(device, rng.randint(1, slots), joins_at, dies_at, residents))
    last = Node("" if alike else f"node-{count}", rng.randint(1, slots), seconds * rng.random(), None, residents)
    return (*nodes, last)


class Machine:
    """The slots of a simulated experiment, and who holds them.

    Args:
        devices: one entry a slot: those of the beginning.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = list(devices)
        self.gone: set[int] = set()
        """Slots that have left."""
        self._holders: dict[int, str] = {}
        self._slots_of: dict[int, list[int]] = {}
        """The slots of each node that is there, by its place."""

    def begin(self, nodes: Sequence[Node]) -> None:
        """Learn which of the slots of the beginning are on which node. They are the last ones, in order."""
        there = [(place, node.slots) for place, node in enumerate(nodes) if node.joins_at is None]
        slot = len(self.devices) - sum(slots for _, slots in there)
        for place, slots in there:
            self._slots_of[place] = list(range(slot, slot + slots))
            slot += slots

    def join(self, place: int, node: Node) -> SlotsJoined:
        """A node joins. Return what the core is told."""
        first = len(self.devices)
        self.devices += [node.device] * node.slots
        self._slots_of[place] = list(range(first, len(self.devices)))
        return SlotsJoined((node.device,) * node.slots, node.residents)

    def leave(self, place: int, node: Node) -> SlotsLeft:
        """A node dies. Return what the core is told."""
        slots = self._slots_of.pop(place)
        self.gone.update(slots)
        return SlotsLeft(tuple(slots), node.residents)

    def take(self, slot: int, trial_id: str) -> str | None:
        """Give a trial a slot. Return what stands against that, or None."""
        holder = self._holders.get(slot)
        if slot in self.gone:
            return f"slot {slot} has left"
        if holder is not None and holder != trial_id:
            return f"slot {slot} is taken by {holder}"
        self._holders[slot] = trial_id
        return None

    def free(self, slot: int) -> None:
        """A slot is given up."""
        self._holders.pop(slot, None)
