"""When things happened, and what each member's time went into. A fold over the journal's records, as the history is.

Times are *active* seconds: from when the first driver began, without the pauses between a driver and the next, so that
an experiment that was killed on Friday and goes on on Monday has no gap of a weekend. A clock that was set back takes
nothing away.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .core.commands import Continue, Exploit, Launch, Retry, Stop
from .core.events import (
    Failed,
    Finished,
    Lost,
    Opened,
    Reported,
    Saved,
    SavedCheckpoint,
    SlotsJoined,
    SlotsLeft,
    Started,
    TrialAdded,
)
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
    """In the user's function, also for results that count no longer, and after the last one."""
    saving: float = 0.0
    """In committing checkpoints; a class trainable's ``save_checkpoint`` included. Where its slot was handed on before,
    another member trains there meanwhile."""
    loading: float = 0.0
    """From being launched on a slot to being in the user's function: process, checkpoint's digest.

    What a member does of it while it waits for its slot takes nobody's time and is not counted.
    """
    away: float = 0.0
    """Between its end and its going on, where it went on after it had ended."""

    def waiting(self, now: float) -> float:
        """Return what is left of its time until ``now`` or its end: for a slot, for a decision, for others."""
        end = now if self.ended is None else self.ended
        return max(0.0, end - self.added - self.away - self.training - self.saving - self.loading)


@dataclass(slots=True)
class Copied:
    """When an exploit was decided, and until when the copy trained before the next decision."""

    at: float
    """Active seconds."""
    until: float | None = None
    """The ``time_attr`` of the member's next boundary; None where it was not launched again."""


@dataclass(slots=True)
class _Stretch:
    """A time in which one driver ran the experiment and the clock did not go back."""

    began_at: float
    """Seconds since the epoch."""
    ended_at: float
    before: float
    """Active seconds of the stretches before it."""

    @property
    def seconds(self) -> float:
        return self.ended_at - self.began_at


@dataclass(slots=True)
class Timeline:
    """When things happened, as the journal tells so far."""

    members: dict[str, Spent] = field(default_factory=dict[str, Spent])
    """By trial id."""
    copied: dict[tuple[str, int], Copied] = field(default_factory=dict[tuple[str, int], Copied])
    """By (trial id, generation)."""
    boundaries: dict[tuple[str, int], list[float]] = field(default_factory=dict[tuple[str, int], list[float]])
    """By (trial id, generation): the ``time_attr`` of each boundary that the member was given, in order."""
    retries: int = 0
    """How often a member that had failed was tried again."""
    slots: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    """How many slots there were, each from when on, in active seconds and in order."""
    _stretches: list[_Stretch] = field(default_factory=list[_Stretch])
    _generations: dict[str, int] = field(default_factory=dict[str, int])
    _launched: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    """The newest launch on a slot that has not been answered yet: its number, and when it was."""
    _inside: dict[str, float] = field(default_factory=dict[str, float])
    """Since when members have been in the user's function, in active seconds."""

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
        return self._stretches[-1].before + self._stretches[-1].seconds if self._stretches else 0.0

    @property
    def slot_seconds(self) -> float:
        """Active seconds times the slots that there were at the time."""
        ends = [*(began for began, _ in self.slots[1:]), self.duration]
        return sum((end - began) * count for (began, count), end in zip(self.slots, ends, strict=False))

    @property
    def slots_between(self) -> tuple[int, int]:
        """The fewest and the most slots that there were, moments aside that took no time."""
        ends = [*(began for began, _ in self.slots[1:]), self.duration]
        counts = [count for (began, count), end in zip(self.slots, ends, strict=False) if end > began]
        counts = counts or [count for _, count in self.slots[-1:]] or [0]
        return min(counts), max(counts)

    def active(self, at: float) -> float:
        """Return how many active seconds had passed at a time, given in seconds since the epoch.

        Where a clock went back, one time may have been twice; then the newer is meant.
        """
        for stretch in reversed(self._stretches):
            if stretch.began_at <= at <= stretch.ended_at:
                return stretch.before + at - stretch.began_at
        earlier = [stretch for stretch in self._stretches if stretch.began_at <= at]
        return max((stretch.before + stretch.seconds for stretch in earlier), default=0.0)

    def add(self, record: Record) -> None:
        """Take in one record of the journal."""
        item = record.item
        if isinstance(item, Opened):
            self._stretches.append(_Stretch(record.at, record.at, self.duration))
            self.slots.append((self.duration, len(item.limits.devices)))
            self._opened(item)
            return
        if not self._stretches:  # a journal begins with a driver; a story in a test need not
            self._stretches.append(_Stretch(record.at, record.at, 0.0))
        now = self._pass(record.at)
        if isinstance(item, Reported):  # the first to be asked for, because most are
            self.members[item.trial_id].training += item.time_this_iter_s
            if item.waiting:
                self._inside.pop(item.trial_id, None)
            else:
                self._inside[item.trial_id] = now
            if item.checkpoint is not None:
                self._saved(item.trial_id, item.checkpoint)
        elif isinstance(item, TrialAdded):
            self.members[item.trial_id] = Spent(now)
        elif isinstance(item, Launch):
            self._launch(item, now)
        elif isinstance(item, Continue):
            self._inside[item.trial_id] = now
            self._bound(item.trial_id, item.until)
        elif isinstance(item, Started):
            launch, at = self._launched.pop(item.trial_id, (0, 0.0))
            if launch == item.launch:
                self.members[item.trial_id].loading += max(0.0, now - at)
                self._inside[item.trial_id] = now
        elif isinstance(item, Saved):
            self._saved(item.trial_id, item.checkpoint)
        elif isinstance(item, Finished | Failed | Lost):
            since = self._inside.pop(item.trial_id, now)
            self.members[item.trial_id].training += now - since
        elif isinstance(item, Exploit):
            self.copied[item.trial_id, item.generation] = Copied(now)
        elif isinstance(item, Retry):
            self.retries += 1
        elif isinstance(item, SlotsJoined):
            self._count_slots(now, len(item.devices))
        elif isinstance(item, SlotsLeft):
            self._count_slots(now, -len(item.slots))
        elif isinstance(item, Stop):
            self.members[item.trial_id].ended = now
            self._inside.pop(item.trial_id, None)

    def _pass(self, at: float) -> float:
        """Let time pass until a record, and return the active seconds by then."""
        newest = self._stretches[-1]
        if at < newest.ended_at:
            newest = _Stretch(at, at, self.duration)
            self._stretches.append(newest)
        newest.ended_at = at
        return newest.before + at - newest.began_at

    def _count_slots(self, now: float, more: int) -> None:
        self.slots.append((now, more + (self.slots[-1][1] if self.slots else 0)))

    def _opened(self, opened: Opened) -> None:
        self._inside.clear()
        self._launched.clear()
        for trial_id in (*opened.again, *opened.anew):
            spent = self.members[trial_id]
            spent.away += self.duration - (self.duration if spent.ended is None else spent.ended)
            spent.ended = None

    def _launch(self, launch: Launch, now: float) -> None:
        self._generations[launch.trial_id] = launch.generation
        self._inside.pop(launch.trial_id, None)
        self._launched.pop(launch.trial_id, None)
        if not launch.waits:
            self._launched[launch.trial_id] = (launch.launch, now)
        copied = self.copied.get((launch.trial_id, launch.generation))
        if copied is not None and copied.until is None:
            copied.until = launch.until
        self._bound(launch.trial_id, launch.until)

    def _bound(self, trial_id: str, until: float | None) -> None:
        """A member is given a boundary; most often the one that it has."""
        if until is None:
            return
        given = self.boundaries.setdefault((trial_id, self._generations.get(trial_id, 0)), [])
        if not given or given[-1] < until:
            given.append(until)

    def _saved(self, trial_id: str, checkpoint: SavedCheckpoint) -> None:
        self.members[trial_id].saving += checkpoint.seconds
