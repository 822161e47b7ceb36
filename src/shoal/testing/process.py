"""What a simulated experiment consists of: processes and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ..core.commands import HandOn
from ..core.events import Config, Event

__all__ = ["Before", "Phase", "Process", "Stored"]

Phase = Literal["training", "waiting", "idle"]


@dataclass(frozen=True, slots=True)
class Before:
    """Where a member was when it was handed a slot."""

    iteration: int
    state: Any


@dataclass(slots=True)
class Process:
    """A member's process."""

    trial_id: str
    index: int
    device: str
    alive: bool = True
    phase: Phase = "idle"
    """``waiting``: inside ``tune.report``; ``idle``: outside of the user's function."""
    slot: int | None = None
    home: int | None = None
    """The slot in which it ran last, or for which it was launched: where that is, the process is."""
    mute: bool = False
    """Nothing is heard of it but that it is gone."""
    launch: int = 0
    turn: int = 0
    """Grows with each launch and each continuation; what was planned for an earlier turn does not happen."""
    doomed: bool = False
    """It dies as soon as it is parked."""
    leaving: bool = False
    """It leaves its function with its next report."""
    damaged: str | None = None
    """Id of the damaged checkpoint that it is to load."""
    door: bool = False
    """It has been launched and waits for a slot before its function, or is on its way there."""
    arrived: bool = False
    """It stands there."""
    successor: HandOn | None = None
    """To whom it hands its slot on at its boundary."""
    early: Before | None = None
    """It was handed a slot, of which the core has not heard yet; then what it was before that."""
    held: list[Callable[[], Event | None]] = field(default_factory=list["Callable[[], Event | None]"])
    """What happened to it meanwhile. The core hears of it afterwards."""
    config: Config = field(default_factory=dict[str, Any])
    state: Any = None
    until: float | None = None
    iteration: int = 0
    time_total_s: float = 0.0
    start_iteration: int = 0
    start_time_s: float = 0.0
    next_checkpoint: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """What a checkpoint contains."""

    state: Any
    iteration: int
    time_total_s: float
    digest: str
