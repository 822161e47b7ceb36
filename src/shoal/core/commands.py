"""What to do: the decisions of the core.

The driver journals and commits a command before the engine carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from .events import Config

__all__ = [
    "Await",
    "CheckpointRecord",
    "Command",
    "Continue",
    "DeleteCheckpoint",
    "Evict",
    "Exploit",
    "FallBack",
    "HandOn",
    "Launch",
    "Notice",
    "Park",
    "Reconfigure",
    "Retry",
    "Save",
    "Status",
    "Stop",
    "WindUp",
    "checkpoint_id",
    "checkpoint_name",
]


class Status(str, Enum):
    """Where a trial is in its life. The values are the names that Ray Tune shows."""

    PENDING = "PENDING"
    """Never started."""
    RUNNING = "RUNNING"
    """Holds a slot."""
    PAUSED = "PAUSED"
    """Waits for a slot, or at the barrier of ``synch=True`` for the others."""
    TERMINATED = "TERMINATED"
    ERROR = "ERROR"

    @property
    def ended(self) -> bool:
        """True where nothing more will happen to the trial."""
        return self in _ENDED


_ENDED = (Status.TERMINATED, Status.ERROR)


def checkpoint_name(number: int) -> str:
    """Return the name of a checkpoint's folder: ``checkpoint_000004``."""
    return f"checkpoint_{number:06d}"


def checkpoint_id(trial_id: str, number: int) -> str:
    """Return the id of a trial's checkpoint, unique in the experiment: ``<trial_id>/checkpoint_000004``."""
    return f"{trial_id}/{checkpoint_name(number)}"


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A committed checkpoint, with the score and the step at which it was taken. Never changes."""

    id: str
    """``<trial_id>/checkpoint_NNNNNN``, unique in the experiment and never used again."""
    trial_id: str
    number: int
    digest: str
    size: int
    iteration: int
    time: float
    """The scheduler's ``time_attr`` at this step."""
    time_total_s: float
    score: float | None
    """The scheduler's metric as reported with this checkpoint (``mode`` not applied); None if it was not reported."""
    rank: float | None
    """``CheckpointConfig.checkpoint_score_attribute`` as reported with it; None without one."""
    transient: bool = False
    """Only Shoal wanted it: it goes as soon as nobody would go on from it."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Enter the trial's function: in its own process where it has one, else in a new one."""

    trial_id: str
    launch: int
    slot: int
    """Where it runs, or where it most likely will."""
    config: Config
    checkpoint: CheckpointRecord | None
    """What ``tune.get_checkpoint()`` returns; None starts from scratch."""
    iteration: int
    time_total_s: float
    next_checkpoint: int
    """The number of the next checkpoint in the trial's folder."""
    until: float | None
    """The value of ``time_attr`` from which on a report waits for a decision; None: none does."""
    fresh: bool
    """True where the trial has no process yet."""
    generation: int = 0
    """How many exploits the trial has done."""
    changed: tuple[str, ...] = ()
    """The numbers of the config, ``a/b`` for nested ones, that are others than those that the checkpoint was made with:
    mutated by an exploit, or replaced."""
    waits: bool = False
    """True where it only gets ready: a ``Continue`` follows when it has the slot, and then the function is entered."""


@dataclass(frozen=True, slots=True)
class Continue:
    """Let a member go on that waits in ``tune.report``, or before its function."""

    trial_id: str
    launch: int
    slot: int
    until: float | None


@dataclass(frozen=True, slots=True)
class HandOn:
    """A slot is promised: when its holder comes to its boundary, the other goes on there.

    The holder may tell the other so itself, before it commits its checkpoint and reports: the other then trains
    meanwhile. The ``Continue`` that follows upon the report repeats it. Where the holder gives the slot up otherwise,
    or cannot tell, the other goes on with that ``Continue``, which may be for another slot, if one is free before. An
    engine may ignore this command.
    """

    trial_id: str
    """Who holds the slot."""
    launch: int
    slot: int
    to: str
    """The trial that waits for the slot."""
    to_launch: int
    to_iteration: int
    """At which it waits."""
    until: float | None
    """As in its ``Continue``."""


@dataclass(frozen=True, slots=True)
class Park:
    """The member gave up its slot and goes on waiting inside ``tune.report``. Nothing is sent to it."""

    trial_id: str
    launch: int


@dataclass(frozen=True, slots=True)
class Exploit:
    """The trial takes over a donor's weights and, mutated, its config. A ``Launch`` follows when it has a slot."""

    trial_id: str
    launch: int
    """The launch that this ends."""
    generation: int
    """How many exploits the trial has done, this one included."""
    iteration: int
    """The trial's own iteration at the decision."""
    score: float | None
    donor_id: str
    donor_iteration: int
    """The donor's own iteration at the decision; its checkpoint's is ``checkpoint.iteration``."""
    checkpoint: CheckpointRecord
    donor_config: Config
    old_config: Config
    new_config: Config
    failed: str | None = None
    """Why the trial failed for good, where it copies in place of ending; None where its score was too low."""


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """The trial goes on from its own newest checkpoint with another config. A ``Launch`` follows when it has a slot."""

    trial_id: str
    launch: int
    """The launch that this ends."""
    number: int
    """How often the trial has been reconfigured, this one included."""
    iteration: int
    """The trial's iteration, which is the checkpoint's."""
    checkpoint: CheckpointRecord
    old_config: Config
    new_config: Config


@dataclass(frozen=True, slots=True)
class Save:
    """Save a checkpoint now; the member waits inside its report. ``Saved`` follows."""

    trial_id: str
    launch: int


@dataclass(frozen=True, slots=True)
class Evict:
    """End the process of a parked trial to make room; its checkpoint holds everything."""

    trial_id: str
    launch: int


@dataclass(frozen=True, slots=True)
class WindUp:
    """The member leaves its function with its next report, or with what it was asked to save, which still counts.

    ``Lost`` follows where nothing comes.
    """

    trial_id: str
    launch: int


@dataclass(frozen=True, slots=True)
class Retry:
    """The trial failed and will be launched again from its last checkpoint. A ``Launch`` follows."""

    trial_id: str
    failures: int
    """How often it has failed, this time included."""
    iteration: int
    """The iteration it goes back to."""
    error: str
    innocent: bool = False
    """It lost its process by no fault of its own, and this is not among its ``failures``."""


@dataclass(frozen=True, slots=True)
class Await:
    """The trial has failed for good, and waits for one that it can copy. An ``Exploit`` follows, or a ``Stop``."""

    trial_id: str
    launch: int
    error: str
    """Why it has failed."""


@dataclass(frozen=True, slots=True)
class FallBack:
    """The checkpoint of a trial is damaged: it goes on from the one before. A ``Launch`` follows when it has a slot."""

    trial_id: str
    launch: int
    """The launch that this ends; it never entered the function."""
    damaged: str
    """Id of the damaged checkpoint."""
    checkpoint: CheckpointRecord
    """The one before."""
    reason: str
    config: Config | None = None
    """The config that the trial goes on with; None: the one that it has."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the trial for good. Every trial gets exactly one."""

    trial_id: str
    launch: int
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class DeleteCheckpoint:
    """Nobody needs this checkpoint any more."""

    trial_id: str
    number: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know, said once for each ``key``."""

    key: str
    text: str


Command: TypeAlias = (
    Launch
    | Continue
    | HandOn
    | Park
    | Exploit
    | Reconfigure
    | Save
    | Evict
    | WindUp
    | Retry
    | Await
    | FallBack
    | Stop
    | DeleteCheckpoint
    | Notice
)
