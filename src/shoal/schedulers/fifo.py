"""First in, first out: every trial runs to its end, in the order of their numbers."""

from __future__ import annotations

from ..core.commands import CheckpointRecord
from ..core.events import Config
from ..core.policy import Decision, Explored, Policy, Proceed
from .base import TrialScheduler

__all__ = ["FIFOScheduler"]


class FIFOScheduler(TrialScheduler):
    """Run trials in the order in which they were sampled, each to its end. The default."""

    def policy(self, *, mode: str, seed: int, control: frozenset[int] = frozenset()) -> Policy:
        """Return a policy that lets everybody go on."""
        return _FIFO()

    def describe(self) -> str:
        """Return ``FIFO``."""
        return "FIFO"


class _FIFO:
    def add(self, trial_id: str, index: int, config: Config) -> None:
        pass

    def until(self, trial_id: str) -> float | None:
        return None

    def observe(self, trial_id: str, score: float | None, checkpoint: CheckpointRecord | None) -> None:
        pass

    def spoiled(self, checkpoint: CheckpointRecord) -> None:
        pass

    def fell_back(self, trial_id: str, checkpoint: CheckpointRecord) -> Config | None:
        return None

    def decide(self, trial_id: str, time: float, score: float | None) -> list[Decision]:
        return [Proceed(trial_id)]

    def withdraw(self, trial_id: str) -> None:
        pass

    def reseed(self, trial_id: str) -> list[Decision] | None:
        return None

    def gone(self, trial_id: str, donates: bool = False) -> None:
        pass

    def settle(self) -> list[Decision]:
        return []

    def back(self, trial_id: str, anew: Config | None) -> None:
        pass

    def recall(self, explored: Explored) -> None:
        pass

    def replace(self, config: Config) -> None:
        pass

    def notice(self) -> tuple[str, str] | None:
        return None
