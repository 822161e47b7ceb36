"""The seam between the population and a scheduler: a policy answers, the population acts.

A policy never sees the population, a process or a file. It is told what members report and is asked, when a member
waits at its boundary, who goes on and who copies whom. It holds its own state, takes randomness only from
:mod:`shoal.core.rng`, and so answers the same to the same story.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from .commands import CheckpointRecord
from .events import Config

__all__ = ["Change", "Copy", "Decision", "Explored", "GiveUp", "Policy", "Proceed"]


@dataclass(frozen=True, slots=True)
class Proceed:
    """The member goes on as it is."""

    trial_id: str


@dataclass(frozen=True, slots=True)
class Copy:
    """The member takes over a donor's checkpoint with a new config."""

    trial_id: str
    donor_id: str
    checkpoint: CheckpointRecord
    donor_config: Config
    new_config: Config


@dataclass(frozen=True, slots=True)
class Change:
    """The member goes on from its own checkpoint, which came with the report it waits in, with a new config."""

    trial_id: str
    new_config: Config


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The member has failed for good, and there is nobody whom it could copy instead."""

    trial_id: str
    why: str = ""
    """Why not: ``no other member has a checkpoint``."""


Decision: TypeAlias = Proceed | Copy | Change | GiveUp

Explored: TypeAlias = Mapping[tuple[str, int], Config]
"""The new configs of earlier exploits, by (trial id, generation)."""


class Policy(Protocol):
    """What a scheduler decides during one experiment.

    A member that waits at its boundary and is named in no decision stays there, without a slot, until a later call
    names it. A policy must name every waiting member in the end, also when others end early.
    """

    def add(self, trial_id: str, index: int, config: Config) -> None:
        """A trial joined the population."""
        ...

    def until(self, trial_id: str) -> float | None:
        """Return the ``time_attr`` at which the trial has to wait for a decision; None: never.

        The same until something is decided about the trial: it may be asked for twice.
        """
        ...

    def observe(self, trial_id: str, score: float | None, checkpoint: CheckpointRecord | None) -> None:
        """A trial reported; ``checkpoint`` came with the report and is committed."""
        ...

    def spoiled(self, checkpoint: CheckpointRecord) -> None:
        """A checkpoint turned out to be damaged: nobody may copy it any more."""
        ...

    def fell_back(self, trial_id: str, checkpoint: CheckpointRecord) -> Config | None:
        """A trial goes on from an older checkpoint, because a newer one is damaged.

        Return the config that it goes on with, or None to leave it as it is.
        """
        ...

    def decide(self, trial_id: str, time: float, score: float | None) -> list[Decision]:
        """A trial waits at its boundary, with the score that it just reported."""
        ...

    def withdraw(self, trial_id: str) -> None:
        """A trial that waits at its boundary will come there again, perhaps at once: forget that it was there.

        It lost its process and steps; or the experiment is opened again.
        """
        ...

    def reseed(self, trial_id: str) -> list[Decision] | None:
        """A trial has failed for good: have it take over a donor instead, with a ``Copy`` for it.

        Return None where it cannot. Where it has to wait for others, or for one that can be copied, a list without it:
        then a later call names it, with a ``Copy`` or ``GiveUp``. Called again where the experiment is opened again.
        """
        ...

    def gone(self, trial_id: str, donates: bool = False) -> None:
        """A trial ended.

        ``donates``: it reached its stop condition, and its newest checkpoint is from before that report, so that others
        can still copy it and go on.
        """
        ...

    def settle(self) -> list[Decision]:
        """Return what is decided for those that waited: for a trial that is gone now, or, where they have failed for
        good, for a checkpoint that has come.

        Not called where the whole experiment ends: nothing is decided any more, and it may be taken up again.
        """
        ...

    def back(self, trial_id: str, anew: Config | None) -> None:
        """A trial that was gone goes on, as it was; or begins from scratch, with the config ``anew``."""
        ...

    def recall(self, explored: Explored) -> None:
        """Take these configs, where they are asked for, instead of exploring anew.

        For a restored experiment: what the user's functions returned then is in the journal, and they may return
        something else now.
        """
        ...

    def replace(self, config: Config) -> None:
        """Values of every trial's config were replaced, as :class:`shoal.core.events.Opened` says."""
        ...

    def notice(self) -> tuple[str, str] | None:
        """Return something the user should know, as (key, text), once; None if there is nothing."""
        ...
