"""What goes wrong in a simulated experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TypeAlias

from ..core.rng import uniform_key

__all__ = ["Fault", "Faults", "random_faults"]


class Fault(str, Enum):
    """What goes wrong with a member at one of its steps."""

    CRASH = "its process dies during the step"
    CRASH_AFTER_REPORT = "its process dies right after it sent the report, perhaps before the answer"
    LATE_REPORT = "its process dies right after it sent the report, and the news of its death overtakes the report"
    CRASH_COMMITTING = "its process dies when it has handed its slot on, before it sent the report"
    CRASH_PARKED = "if it has to give up its slot after this report, its process dies while it waits"
    RAISE = "its function raises"
    RAISE_AND_CRASH = "its function raises, and its process dies soon after, perhaps when it was entered again"
    RETURN = "its function returns"
    DAMAGE = "the checkpoint that comes with this report is damaged later, which is found out when it is to be loaded"
    ORPHAN = "its process dies during the step, because that of which it was forked has died"


Faults: TypeAlias = Callable[[int, int, int], "Fault | None"]
"""``(index of the trial, launch, iteration) -> Fault or None``."""


def random_faults(seed: int, probabilities: Mapping[Fault, float]) -> Faults:
    """Return faults that strike each step with the given probabilities, the same for the same seed."""
    bounds: list[tuple[float, Fault]] = []
    total = 0.0
    for fault, probability in probabilities.items():
        total += probability
        bounds.append((total, fault))

    def faults(index: int, launch: int, iteration: int) -> Fault | None:
        drawn = uniform_key(seed, "fault", index, launch, iteration)
        return next((fault for bound, fault in bounds if drawn < bound), None)

    return faults
