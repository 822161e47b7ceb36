"""What happened: the facts that the shell tells the core.

An event is a fact from outside: a member reported, a process vanished, the time is up. The driver appends it to the
journal and hands it to :meth:`shoal.core.population.Population.apply`. Events are frozen, hold plain data only, and
carry every clock reading and identifier that the core needs, because the core has no clock of its own.

``launch`` counts how often a trial's function was entered. A message of an earlier launch is late, and ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .limits import Limits, RetentionRules

__all__ = [
    "Config",
    "Damaged",
    "Drifted",
    "Event",
    "Failed",
    "Finished",
    "Freed",
    "Lost",
    "Metrics",
    "Opened",
    "Reported",
    "Saved",
    "SavedCheckpoint",
    "SlotsJoined",
    "SlotsLeft",
    "Started",
    "StopAsked",
    "TrialAdded",
    "Undecided",
]

Config: TypeAlias = dict[str, Any]
Metrics: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A checkpoint that a member has written, whole and renamed into place, and that comes with a report."""

    number: int
    """Its number in the trial's folder, from 0: ``checkpoint_000000``."""
    digest: str
    """Hex digest of the names and bytes of its files."""
    size: int
    """Bytes of all its files."""
    transient: bool = False
    """True where only Shoal wanted it, to be able to go on from here: it goes as soon as nobody would."""
    seconds: float = field(default=0.0, compare=False)
    """How long the member took to write it, or to take it over."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A driver begins to run the experiment: for the first time, or again after it had ended or was killed.

    No member has a process at this moment. Trials that have not ended go on from where they can.
    """

    limits: Limits
    retention: RetentionRules
    again: tuple[str, ...] = ()
    """Trials that have ended and go on all the same, from their newest checkpoint."""
    anew: tuple[str, ...] = ()
    """Trials that have ended and begin from scratch, with their first config."""
    dropped: tuple[str, ...] = ()
    """Trials that have not ended and shall not go on."""
    config: Config = field(default_factory=dict[str, Any])
    """Values that replace those of the same keys in every trial's config; nested dicts recurse."""


@dataclass(frozen=True, slots=True)
class SlotsJoined:
    """There are more slots: a node has joined the cluster, or has room for more.

    Slots are numbered on from those that there have been since ``Opened``, and never renumbered.
    """

    devices: tuple[str, ...]
    """One entry a slot, as in :class:`~shoal.core.limits.Limits`. Either all slots are alike, ``""``, or none."""
    residents: int = 0
    """By how much ``Limits.residents`` grows, where that is a number; 0 where it counts as it is."""


@dataclass(frozen=True, slots=True)
class SlotsLeft:
    """Slots are gone, for good: their node has died, or was taken away. They are never given out again.

    The engine says so first, and then of each trial that had a process there, running, parked or before its function,
    that it is ``Lost``, by no fault of its own. What such a trial has sent until then still counts, and it holds its
    slot until then, or until the report upon which it has to wait.
    """

    slots: tuple[int, ...]
    residents: int = 0
    """By how much ``Limits.residents`` shrinks, where that is a number: as much as it grew for them."""


@dataclass(frozen=True, slots=True)
class TrialAdded:
    """A trial joins the population. Sent once for each trial, before anything runs."""

    trial_id: str
    index: int
    """Its place in the population, from 0."""
    name: str
    tag: str
    """``<index>_<param=value,...>`` of the first sample; never changes."""
    folder: str
    """Name of its folder inside the experiment's."""
    config: Config


@dataclass(frozen=True, slots=True)
class Started:
    """A member's process has entered the user's function."""

    trial_id: str
    launch: int
    pid: int
    hostname: str
    digest: str | None = None
    """Of the checkpoint that it goes on from, as it found it on disk; None from scratch."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """A member was to go on from a checkpoint that is not what it was, or not there. It has loaded nothing."""

    trial_id: str
    launch: int
    checkpoint_id: str
    reason: str
    """What was found."""


@dataclass(frozen=True, slots=True)
class Freed:
    """The user has had a checkpoint deleted, between two runs.

    It counts no longer among those that are kept, and nobody falls back to it. Whoever would go on from it will find
    that it is not there, as with one that was lost.
    """

    trial_id: str
    number: int


@dataclass(frozen=True, slots=True)
class Drifted:
    """A member steps with a hyperparameter that is not its config's, for example because it loaded a donor's optimizer.

    Said once for each key; the member goes on.
    """

    trial_id: str
    launch: int
    key: str
    """The config's, nested ones as ``a/b``."""
    text: str
    """What is used, what the config says, and how to mend it."""


@dataclass(frozen=True, slots=True)
class Reported:
    """A member called ``tune.report``."""

    trial_id: str
    launch: int
    iteration: int
    """``training_iteration``: reports that made these weights, donors' included; the first is 1."""
    metrics: Metrics
    """What the user reported, nothing added."""
    waiting: bool
    """True where the member waits inside ``tune.report`` for a decision; False where it trains on."""
    stop: str | None = None
    """Why the trial should end with this report, or None. Found by the member, or by a stopper in the driver."""
    checkpoint: SavedCheckpoint | None = None
    timestamp: float = 0.0
    """Seconds since the epoch, the member's clock."""
    time_this_iter_s: float = 0.0
    """Seconds that the user's function ran since it was last inside Shoal."""
    time_total_s: float = 0.0
    """Seconds that made these weights, donors' included."""
    time_since_restore: float = 0.0
    iterations_since_restore: int = 0


@dataclass(frozen=True, slots=True)
class Saved:
    """A member saved the checkpoint that it was asked for, of the weights of its newest report."""

    trial_id: str
    launch: int
    checkpoint: SavedCheckpoint


@dataclass(frozen=True, slots=True)
class Finished:
    """The user's function returned."""

    trial_id: str
    launch: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The user's function raised; its process lives and can be used again."""

    trial_id: str
    launch: int
    error: str
    """One line: type and message."""
    traceback: str
    raised: bytes | None = None
    """The exception itself, pickled, where that was possible."""
    no_room: bool = False
    """There was no room on the disk for what it had to write: that is nobody's fault, and the same for all."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A member's process is gone although nobody asked it to go."""

    trial_id: str
    launch: int
    reason: str
    innocent: bool = False
    """Whether something went that all members depend on, and this one has not failed."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """The scheduler raised upon the event that follows, in a function of the user's: nothing was decided on it."""

    reason: str


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The whole experiment is to end: the time budget is spent, a stopper said so, the user interrupted."""

    reason: str
    met: str | None = None
    """The user's condition that is met, ``stop`` or ``time_budget_s``: what ends by it has finished. None: cut off."""
    gently: bool = False
    """Whether members that train may come to their next report first, which still counts."""


Event: TypeAlias = (
    Opened
    | SlotsJoined
    | SlotsLeft
    | TrialAdded
    | Started
    | Damaged
    | Freed
    | Drifted
    | Reported
    | Saved
    | Finished
    | Failed
    | Lost
    | Undecided
    | StopAsked
)
