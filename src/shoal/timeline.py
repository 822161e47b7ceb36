"""When things happened, and what each member's time went into. A fold over the journal's records, as the history is.

Times are *active* seconds: from when the first driver began, without the pauses between a driver and the next, so that
an experiment that was killed on Friday and goes on on Monday has no gap of a weekend.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from .core.commands import Exploit, Launch, Stop
from .core.events import Opened, Reported, Saved, SavedCheckpoint, Started, TrialAdded
from .journal.codec import Record

__all__ = ["Copied", "Spent", "Timeline"]


@dataclass(slots=True)
class Spent:
    """What a member's time went into, in seconds."""

    added: float
    """When it joined the population, in active seconds."""
    ended: float | None = None
    """When it ended; None while it has not."""
    training: float = 0.0
    """In the user's function, results included that count no longer."""
    saving: float = 0.0
    """In committing checkpoints; a class trainable's ``save_checkpoint`` included."""
    loading: float = 0.0
    """From being launched on a slot to being in the user's function: process, checkpoint's digest.

    What a member does of it while it waits for its slot takes nobody's time and is not counted.
    """

    def waiting(self, now: float) -> float:
        """Return what is left of its time until ``now`` or its end: for a slot, for a decision, for others."""
        end = now if self.ended is None else self.ended
        return max(0.0, end - self.added - self.training - self.saving - self.loading)


@dataclass(slots=True)
class Copied:
    """When an exploit was decided, and until when the copy trained before the next decision."""

    at: float
    """Active seconds."""
    until: float | None = None
    """The ``time_attr`` of the member's next boundary; None where it was not launched again."""


@dataclass(slots=True)
class _Driver:
    """A stretch of time in which one driver ran the experiment."""

    began_at: float
    """Seconds since the epoch."""
    before: float
    """Active seconds of the drivers before it."""
    slots: int


@dataclass(slots=True)
class Timeline:
    """When things happened, as the journal tells so far."""

    members: dict[str, Spent] = field(default_factory=dict[str, Spent])
    """By trial id."""
    copied: dict[tuple[str, int], Copied] = field(default_factory=dict[tuple[str, int], Copied])
    """By (trial id, generation)."""
    _drivers: list[_Driver] = field(default_factory=list[_Driver])
    _last_at: float = 0.0
    _launched: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])

    @classmethod
    def of(cls, records: Iterable[Record]) -> Timeline:
        """Return the timeline that the records tell."""
        timeline = cls()
        for record in records:
            timeline.add(record)
        return timeline

    @property
    def duration(self) -> float:
        """Active seconds until the newest record."""
        return self.active(self._last_at)

    @property
    def slot_seconds(self) -> float:
        """Active seconds times the slots that there were."""
        ends = [*(driver.before for driver in self._drivers[1:]), self.duration]
        return sum((end - each.before) * each.slots for each, end in zip(self._drivers, ends, strict=bool(ends[1:])))

    def active(self, at: float) -> float:
        """Return how many active seconds had passed at a time, given in seconds since the epoch."""
        place = bisect_right(self._drivers, at, key=lambda driver: driver.began_at) - 1
        if place < 0:
            return 0.0
        driver = self._drivers[place]
        passed = driver.before + at - driver.began_at
        return min(passed, self._drivers[place + 1].before) if place + 1 < len(self._drivers) else passed

    def add(self, record: Record) -> None:
        """Take in one record of the journal."""
        item = record.item
        if isinstance(item, Reported):  # the first to be asked for, because most are
            spent = self.members[item.trial_id]
            spent.training += item.time_this_iter_s
            if item.checkpoint is not None:
                self._saved(item.trial_id, item.checkpoint)
        elif isinstance(item, Opened):
            self._drivers.append(_Driver(record.at, self.duration, len(item.limits.devices)))
            for trial_id in (*item.again, *item.anew):
                self.members[trial_id].ended = None
        elif isinstance(item, TrialAdded):
            self.members[item.trial_id] = Spent(self.active(record.at))
        elif isinstance(item, Launch):
            if item.waits:
                self._launched.pop(item.trial_id, None)
            else:
                self._launched[item.trial_id] = (item.launch, record.at)
            copied = self.copied.get((item.trial_id, item.generation))
            if copied is not None and copied.until is None:
                copied.until = item.until
        elif isinstance(item, Started):
            launch, at = self._launched.pop(item.trial_id, (0, 0.0))
            if launch == item.launch:
                self.members[item.trial_id].loading += max(0.0, record.at - at)
        elif isinstance(item, Saved):
            self._saved(item.trial_id, item.checkpoint)
        elif isinstance(item, Exploit):
            self.copied[item.trial_id, item.generation] = Copied(self.active(record.at))
        elif isinstance(item, Stop):
            self.members[item.trial_id].ended = self.active(record.at)
        self._last_at = max(self._last_at, record.at)

    def _saved(self, trial_id: str, checkpoint: SavedCheckpoint) -> None:
        self.members[trial_id].saving += checkpoint.seconds
