"""Which checkpoints stay: those that somebody needs, and those that ``CheckpointConfig`` keeps. Pure.

A checkpoint is *pinned* while it is the point from which some trial goes on: its own newest, or a donor's that it has
taken over. A pinned checkpoint is never deleted, whatever ``num_to_keep`` says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..errors import InvalidTransition
from .commands import CheckpointRecord
from .limits import RetentionRules

__all__ = ["Retention", "RetentionRules"]


@dataclass(slots=True)
class Retention:
    """Knows all checkpoints on disk and who needs them; names those that can go."""

    rules: RetentionRules
    _kept: dict[str, list[CheckpointRecord]] = field(default_factory=dict)
    _pins: dict[str, int] = field(default_factory=dict)
    _existing: set[str] = field(default_factory=set)
    _spoiled: set[str] = field(default_factory=set)
    """Those that are damaged."""

    def add(self, record: CheckpointRecord) -> list[CheckpointRecord]:
        """A trial has committed a checkpoint. Return those that can be deleted now."""
        self._existing.add(record.id)
        if record.transient:
            # It is pinned by the trial that saved it, and nothing else keeps it. Like a donor's, it is what that goes
            # on from, and counts.
            return self.goes_on_elsewhere(record.trial_id)
        kept = self._kept.setdefault(record.trial_id, [])
        kept.append(record)
        limit = self.rules.num_to_keep
        # The best stay, and the newest beside them: a user expects to find it, and it is what the trial goes on from.
        return [] if limit is None else self._trim(kept, limit, spare=record)

    def goes_on_elsewhere(self, trial_id: str) -> list[CheckpointRecord]:
        """A trial goes on from a checkpoint that is none of those that it keeps. Return what can be deleted now.

        It is a donor's, or one that only Shoal wanted. It counts as one of those that the trial keeps: otherwise a
        population would need room for nearly twice as many. Only the best by a score stay all the same.
        """
        limit = self.rules.num_to_keep
        if limit is None or self.rules.score_attribute is not None:
            return []
        return self._trim(self._kept.get(trial_id, []), limit - 1)

    def _trim(
        self, kept: list[CheckpointRecord], limit: int, spare: CheckpointRecord | None = None
    ) -> list[CheckpointRecord]:
        """Keep no more than ``limit`` of a trial's own, those that are worth most, and ``spare``."""
        kept.sort(key=self._worth)
        gone: list[CheckpointRecord] = []
        for entry in kept[: max(0, len(kept) - limit)]:
            if entry is not spare:
                kept.remove(entry)
                gone.extend(self._if_free(entry))
        return gone

    def spoil(self, record: CheckpointRecord) -> list[CheckpointRecord]:
        """A checkpoint turned out to be damaged: nothing keeps it. Return it if it can be deleted now."""
        self._spoiled.add(record.id)
        kept = self._kept.get(record.trial_id, [])
        kept[:] = [entry for entry in kept if entry.id != record.id]
        return self._if_free(record)

    def pin(self, record: CheckpointRecord) -> None:
        """Somebody would go on from this checkpoint."""
        self._pins[record.id] = self._pins.get(record.id, 0) + 1

    def unpin(self, record: CheckpointRecord) -> list[CheckpointRecord]:
        """Somebody no longer would. Return the checkpoint if it can be deleted now."""
        self._pins[record.id] -= 1
        if self._pins[record.id] == 0:
            del self._pins[record.id]
        return self._if_free(record)

    def knows(self, identity: str) -> bool:
        """Return whether there is a committed checkpoint of this id that has not been deleted."""
        return identity in self._existing

    def exists(self, record: CheckpointRecord) -> bool:
        """Return whether the checkpoint has not been deleted."""
        return self.knows(record.id)

    def validate(self, pinned: list[CheckpointRecord]) -> None:
        """Raise InvalidTransition unless exactly ``pinned`` are pinned and all that is pinned or kept exists."""
        counts: dict[str, int] = {}
        for record in pinned:
            counts[record.id] = counts.get(record.id, 0) + 1
        if counts != self._pins:
            raise InvalidTransition(f"pins are {self._pins}, but trials need {counts}")
        missing = {*counts, *(entry.id for kept in self._kept.values() for entry in kept)} - self._existing
        if missing:
            raise InvalidTransition(f"checkpoints {sorted(missing)} were deleted although they are needed")

    def _if_free(self, record: CheckpointRecord) -> list[CheckpointRecord]:
        if self.rules.num_to_keep is None and not record.transient and record.id not in self._spoiled:
            return []
        kept = self._kept.get(record.trial_id, [])
        if record.id in self._pins or record.id not in self._existing or any(entry.id == record.id for entry in kept):
            return []
        self._existing.discard(record.id)
        return [record]

    def _worth(self, record: CheckpointRecord) -> tuple[float, int]:
        """Larger is kept; NaN and missing scores go first; the newer wins a tie."""
        if self.rules.score_attribute is None:
            return (0.0, record.number)
        score = record.rank
        if score is None or not math.isfinite(score):
            return (-math.inf, record.number)
        return (score if self.rules.score_order == "max" else -score, record.number)
