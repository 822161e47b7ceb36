"""What the machine and the user allow, as the core needs it. Pure data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Limits", "RetentionRules"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the machine and the user allow."""

    devices: Sequence[str] = ("",)
    """One entry a slot: the device that its members see, ``""`` where slots are alike (CPUs). A process is bound to its
    device. These are the slots of the beginning: none, where slots join later."""
    residents: int | None = None
    """How many trials may have a process at the same time; None: all. It grows and shrinks with slots that join and
    leave, by what these events say."""
    max_failures: int = 0
    """How often a trial is launched again after a failure; -1: always."""
    fail_fast: bool = False
    """Whether the first trial that fails for good ends the experiment."""
    save_at_end: bool = False
    """Whether a trial that ends with a report is asked for a checkpoint first, where none came with it. Only members
    that can save at any time, those of a class, understand."""
    replace_failed: bool = False
    """Whether a trial that has failed for good takes over a donor, where the scheduler knows one."""
    hands_on: bool = False
    """Whether members can hand their slot on by themselves, to one that was promised it."""


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """``CheckpointConfig``, as the core needs it."""

    num_to_keep: int | None = None
    """How many a trial keeps; its newest stays beside them where it is not one of them. None: all."""
    score_attribute: str | None = None
    """Keep the best by this key of the report; None: the newest."""
    score_order: str = "max"
