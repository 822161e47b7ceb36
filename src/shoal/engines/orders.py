"""What a driver and the hosts of its members say to each other, where these are on other machines.

A *host* runs the members of one node. The driver gives it orders, and it tells in batches what happened. Both count
what they send, because a connection may break when nobody knows whether a message has arrived: what was not confirmed
is sent again, and what has arrived already is left out.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..applied import CheckApplied
from ..core.reports import ReportRules
from ..errors import StorageError
from ..worker.wire import MemberInfo
from . import EngineCommand

__all__ = [
    "Add", "Batch", "Begin", "Delete", "Devices", "End", "Ended", "Execute", "Fetch", "Held", "HostFacts", "HostSetup",
    "Kill", "Missing", "Order", "Peers", "Printed", "Remark", "Said", "Upload", "Uploaded", "packed", "unpacked",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class HostSetup:
    """Everything that a host needs to run members."""

    key: str
    """The host's name, which no other of the experiment has."""
    trainable: bytes
    rules: ReportRules
    experiment: str
    seed: int
    cpus: float
    gpus: float
    log_to_file: bool
    applied: CheckApplied | None
    folder: str
    """The experiment's folder on the driver's machine."""
    probe: str
    """A file that the driver has made in that folder: who finds it works in the same folder."""
    place: str | None
    """The URL that checkpoints are kept at, or None."""
    with_driver: bool
    """Whether the host is on the driver's node."""
    path: tuple[str, ...]
    """The driver's ``sys.path``."""
    cwd: str = ""
    """The driver's working directory, which is also the members' where it is there."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """Those of the driver's environment variables that hosts on all nodes may know."""
    secrets: str = ""
    """A file on the driver's node with all of them, which only the user can read: they go to no other node."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a host is and has."""

    hostname: str
    pid: int
    version: str
    """Of Shoal."""
    shared: bool
    """Whether it works in the driver's own folder of the experiment."""
    memory: int
    """Bytes that members may use."""


# ------------------------------------------------------------------------------------------------- driver to host


@dataclass(frozen=True, slots=True)
class Add:
    """A trial was added; its folder is the driver's."""

    info: MemberInfo


@dataclass(frozen=True, slots=True)
class Devices:
    """The host has slots, with the ``CUDA_VISIBLE_DEVICES`` of each; ``""`` leaves it alone."""

    devices: dict[int, str]


@dataclass(frozen=True, slots=True)
class Execute:
    """Carry a command out."""

    command: EngineCommand
    """The config of a launch is left out."""
    config: bytes | None = None
    """It, pickled."""
    trial_folder: str = ""
    """Name of the folder in which the checkpoint lies that is to be loaded."""
    holders: tuple[str, ...] = ()
    """Other hosts that have this checkpoint."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """The answer to :class:`Missing`: others have the checkpoint, or may have it."""

    trial_id: str
    launch: int
    holders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """The answer to :class:`Missing`: nobody has the checkpoint. The member is launched, and finds that out."""

    trial_id: str
    launch: int
    lost: str | None = None
    """Why it is lost instead: the checkpoint is there, and cannot be brought to where it would be launched."""


@dataclass(frozen=True, slots=True)
class Kill:
    """End the process of a trial at once, because nothing is heard of it, unless it is the host that keeps it."""

    trial_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Peers:
    """The hosts that can keep copies of this one's checkpoints, those first that should."""

    keys: tuple[str, ...]
    awaited: bool = False
    """Whether there is none now, and one will come."""


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a checkpoint."""

    trial_folder: str
    number: int


@dataclass(frozen=True, slots=True)
class Upload:
    """Copy a checkpoint to where it is kept."""

    number_of_order: int
    trial_folder: str
    number: int
    digest: str
    place: str
    """The URL of the checkpoint."""


@dataclass(frozen=True, slots=True)
class End:
    """End all members. The host goes on to give its checkpoints away."""

    at_once: bool


Order: TypeAlias = Add | Devices | Execute | Fetch | Begin | Kill | Peers | Delete | Upload | End


# ------------------------------------------------------------------------------------------------- host to driver


@dataclass(frozen=True, slots=True)
class Printed:
    """A member printed a line."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that the user should know."""

    text: str


@dataclass(frozen=True, slots=True)
class Held:
    """A host has a copy of a checkpoint now."""

    trial_folder: str
    number: int
    digest: str
    key: str
    """The host's."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A launch waits here because its checkpoint could not be brought. :class:`Fetch` or :class:`Begin` answers."""

    trial_id: str
    launch: int
    trial_folder: str
    number: int
    digest: str
    asked: tuple[str, ...]
    """The hosts that were asked for it."""
    reached: bool
    """Whether all of them have answered."""
    why: str


@dataclass(frozen=True, slots=True)
class Uploaded:
    """An order to upload was carried out, or why not."""

    number_of_order: int
    error: StorageError | FileNotFoundError | None
    """FileNotFoundError: the checkpoint is not there."""


@dataclass(frozen=True, slots=True)
class Ended:
    """All members have ended, or the host cannot go on."""

    error: str | None = None


Said: TypeAlias = Any
"""An event of the core, or one of the messages above."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a host has to say."""

    number: int
    """Counts the batches, from 1."""
    done: int
    """The number of the newest packet of orders that has arrived."""
    said: bytes = field(repr=False)
    """Frames, as on the wire between a driver and its members."""


def packed(orders: list[Order]) -> bytes:
    """Return orders as bytes."""
    return pickle.dumps(orders, pickle.HIGHEST_PROTOCOL)


def unpacked(data: bytes) -> list[Order]:
    """Return the orders that :func:`packed` gave."""
    orders: list[Order] = pickle.loads(data)
    return orders
