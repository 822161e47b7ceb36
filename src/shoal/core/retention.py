"""Which checkpoints stay: those that somebody needs, and those that ``CheckpointConfig`` keeps. Pure.

A checkpoint is *pinned* while it is the point from which some trial goes on: its own newest, or a donor's that it has
taken over. A pinned checkpoint is never deleted, whatever ``num_to_keep`` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter

from ..errors import InvalidTransition
from .commands import CheckpointRecord
from .limits import RetentionRules

__all__ = ["Retention", "RetentionRules"]

_BY_NUMBER = attrgetter("number")


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
        kept = self._kept.get(record.trial_id)
        if kept is None:
            kept = self._kept[record.trial_id] = []
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
        excess = len(kept) - limit
        if excess <= 0:
            return []
        kept.sort(key=_BY_NUMBER if self.rules.score_attribute is None else self._worth)
        worst = kept[:excess]
        kept[:excess] = [entry for entry in worst if entry is spare]
        return [entry for entry in worst if entry is not spare and self._freed(entry)]

    def spoil(self, record: CheckpointRecord) -> list[CheckpointRecord]:
        """A checkpoint turned out to be damaged: nothing keeps it. Return it if it can be deleted now."""
        self._spoiled.add(record.id)
        kept = self._kept.get(record.trial_id, [])
        kept[:] = [entry for entry in kept if entry.id != record.id]
        return [record] if self._freed(record) else []

    def free(self, trial_id: str, identity: str) -> None:
        """The user has had a checkpoint deleted: it takes nobody's place any more.

        One that somebody would go on from is known until that one has found out.
        """
        kept = self._kept.get(trial_id, [])
        kept[:] = [entry for entry in kept if entry.id != identity]
        if identity in self._pins:
            self._spoiled.add(identity)
        else:
            self._existing.discard(identity)

    def pin(self, record: CheckpointRecord) -> None:
        """Somebody would go on from this checkpoint."""
        self._pins[record.id] = self._pins.get(record.id, 0) + 1

    def unpin(self, record: CheckpointRecord) -> list[CheckpointRecord]:
        """Somebody no longer would. Return the checkpoint if it can be deleted now."""
        others = self._pins[record.id] - 1
        if others:
            self._pins[record.id] = others
            return []
        del self._pins[record.id]
        return [record] if self._freed(record) else []

    def knows(self, identity: str) -> bool:
        """Return whether there is a committed checkpoint of this id that has not been deleted."""
        return identity in self._existing

    def exists(self, record: CheckpointRecord) -> bool:
        """Return whether the checkpoint has not been deleted."""
        return record.id in self._existing

    def existing(self, records: Iterable[CheckpointRecord]) -> tuple[CheckpointRecord, ...]:
        """Return those that have not been deleted."""
        return tuple([record for record in records if record.id in self._existing])

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

    def _freed(self, record: CheckpointRecord) -> bool:
        """Return whether a checkpoint can be deleted now; if so, it no longer exists."""
        identity = record.id
        if self.rules.num_to_keep is None and not record.transient and identity not in self._spoiled:
            return False
        if identity in self._pins or identity not in self._existing:
            return False
        for entry in self._kept.get(record.trial_id, ()):
            if entry.id == identity:
                return False
        self._existing.discard(identity)
        return True

    def _worth(self, record: CheckpointRecord) -> tuple[float, int]:
        """Larger is kept; NaN and missing scores go first; the newer wins a tie."""
        score = record.rank
        if score is None or not math.isfinite(score):
            return (-math.inf, record.number)
        return (score if self.rules.score_order == "max" else -score, record.number)
