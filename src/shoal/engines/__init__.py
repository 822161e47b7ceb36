"""Engines carry out what the core has decided, and tell what happens. The seam: :class:`Engine`.

``processes`` runs members in processes of this machine (the default), ``inline`` one at a time in the driver's own
process, for debugging. A third-party engine implements the same methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..applied import CheckApplied
from ..core.commands import Continue, Evict, HandOn, Launch, Save, Stop, WindUp
from ..core.events import Event
from ..core.reports import ReportRules
from ..patience import grace_s
from ..resources import Request
from ..worker.wire import MemberInfo

__all__ = ["Engine", "EngineCommand", "EngineSetup", "grace_s"]

EngineCommand = Launch | Continue | HandOn | Save | WindUp | Evict | Stop
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
    devices: Sequence[str] | Mapping[int, str]
    """For each slot, the ``CUDA_VISIBLE_DEVICES`` of its members; ``""`` leaves it alone."""
    output: Callable[[str, str], None]
    """Called with a member's name and a line that it printed."""
    log_to_file: bool = True
    """Whether what a member prints is also written to ``output.log`` in its folder."""
    applied: CheckApplied | None = field(default_factory=CheckApplied)
    """How members check that optimizers use the config's values; None: not at all."""
    check: Callable[[], None] = lambda: None
    """Called now and then while the start takes long. What it raises ends the start."""
    request: Request = field(default_factory=Request)
    """All that one trial takes; ``cpus`` and ``gpus`` are of it."""
    limit: int | None = None
    """At most so many slots can be of use, or None."""
    folder: str = ""
    """The experiment's folder on the driver's machine."""
    place: str | None = None
    """The URL of the experiment, where it is kept in storage."""
    max_residents: int | None = None
    """How many members may keep a process, where the user says so."""
    note: Callable[[str], None] = lambda text: None
    """Shows the user a remark about the run."""
    trials: int | None = None
    """How many trials there are that have not ended; None: that is not known."""


class Engine(Protocol):
    """Carries commands out and reports what happens. Decides nothing.

    ``TuneConfig(engine=...)`` takes the class. It may say of itself, by attributes of the class that are True:
    ``brings_slots``, that it tells by events (``SlotsJoined``, ``SlotsLeft``) which slots there are, else they follow
    from this machine; and ``hands_on``, that its members can hand on their slots (``HandOn``). An engine may have a
    ``depot`` (:class:`shoal.checkpoints.depot.Depot`), where checkpoints are deleted and copied to storage from; its
    members then fetch from storage what is not where they are. And it may have ``wake()``, which lets ``poll`` return
    at once, called from any thread. Whether an engine keeps what is promised here, :mod:`shoal.testing.contracts`
    tells.
    """

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

    def kill(self, trial_id: str, reason: str) -> None:
        """End the process of a trial at once, because nothing is heard of it.

        Its ``Lost`` tells the reason. One that has no process is no error. Where it is the engine itself that keeps the
        trial from being heard, for example because it copies a checkpoint, it need not end it.
        """
        ...

    def poll(self, timeout: float) -> list[Event]:
        """Return what has happened, in order; wait at most ``timeout`` seconds for the first event.

        What members did in a slot that another handed on to them is told after its ``Continue``, or a ``WindUp``.
        """
        ...

    def close(self, *, at_once: bool = False) -> None:
        """End all members and leave nothing running. Safe to call twice, and after a failed start.

        Args:
            at_once: do not give members time to leave their functions.
        """
        ...
