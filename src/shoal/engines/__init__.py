"""Engines carry out what the core has decided, and tell what happens. The seam: :class:`Engine`.

``processes`` runs members in processes of this machine (the default), ``inline`` one at a time in the driver's own
process, for debugging. A third-party engine implements the same five methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..core.commands import Continue, Evict, Launch, Save, Stop
from ..core.events import Event
from ..core.reports import ReportRules
from ..worker.wire import MemberInfo

__all__ = ["Engine", "EngineCommand", "EngineSetup"]

EngineCommand = Launch | Continue | Save | Evict | Stop
"""The commands that an engine carries out; the others are bookkeeping."""


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """What an engine needs to run members."""

    trainable: Callable[..., Any]
    rules: ReportRules
    experiment: str
    seed: int
    cpus: float
    gpus: float
    devices: Sequence[str]
    """For each slot, the ``CUDA_VISIBLE_DEVICES`` of its members; ``""`` leaves it alone."""
    output: Callable[[str, str], None]
    """Called with a member's name and a line that it printed."""
    log_to_file: bool = True
    """Whether what a member prints is also written to ``output.log`` in its folder."""


class Engine(Protocol):
    """Carries commands out and reports what happens. Decides nothing."""

    def start(self, setup: EngineSetup) -> None:
        """Get ready to run members.

        Raises:
            ConfigError: the trainable cannot be carried to where members run.
            EngineError: members cannot be started here.
        """
        ...

    def add(self, info: MemberInfo) -> None:
        """A trial was added; commands about it may follow."""
        ...

    def execute(self, command: EngineCommand, checkpoint: str | None) -> None:
        """Carry a command out, without waiting for its effect.

        Args:
            command: what to do.
            checkpoint: for a ``Launch``, the path of the checkpoint's folder, or None.
        """
        ...

    def poll(self, timeout: float) -> list[Event]:
        """Return what has happened, in order; wait at most ``timeout`` seconds for the first event."""
        ...

    def close(self) -> None:
        """End all members and leave nothing running. Safe to call twice, and after a failed start."""
        ...
