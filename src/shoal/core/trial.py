"""One member of the population, as the core sees it."""

from __future__ import annotations

import math
import numbers
from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from .commands import CheckpointRecord, Status, checkpoint_id
from .events import Config, Reported, SavedCheckpoint

__all__ = ["Trial", "changed_numbers", "replaced"]


@dataclass(slots=True)
class Trial:
    """One member of the population, as the core sees it. Read it; only the population changes it."""

    trial_id: str
    index: int
    config: Config
    status: Status = Status.PENDING
    first_config: Config = field(default_factory=dict[str, Any])
    """What it began with."""
    launch: int = 0
    slot: int | None = None
    device: str | None = None
    """The device that its process is bound to; None without a process."""
    waiting: bool = False
    """It waits inside ``tune.report``, or before its function, and can be continued where it is."""
    ready: bool = False
    """It waits before its function, for which it has been launched."""
    promised: int | None = None
    """The slot that it has as soon as whoever runs there gives it up, unless it has another before.

    Then it is not in the queue."""
    until: float | None = None
    """``time_attr`` from which on its reports wait for a decision, since it was continued or launched last."""
    step: float = 0.0
    """By how much ``time_attr`` grew with its newest report."""
    iteration: int = 0
    time: float = 0.0
    """``time_attr`` at its newest report."""
    time_total_s: float = 0.0
    score: float | None = None
    """The scheduler's metric in its newest report."""
    generation: int = 0
    changes: int = 0
    """How often it was reconfigured."""
    ending: str | None = None
    """Why it ends, as soon as it has saved the checkpoint that it was asked for; None where it was not."""
    leaving: bool = False
    """It ends with its next report, because the whole experiment is to end."""
    cut: bool = False
    """It ended because the whole experiment was cut off."""
    met: str | None = None
    """The user's condition for the whole experiment that it ended by, ``stop`` or ``time_budget_s``, or None."""
    rank: float | None = None
    """``checkpoint_score_attribute`` in its newest report."""
    failures: int = 0
    barren: int = 0
    """How often it has failed since its last report."""
    orphaned: int = 0
    """How often in a row it has lost its process by no fault of its own, without getting further in between."""
    displaced: int = 0
    """The same where its slot has left, too; these are not among the others."""
    furthest: int = 0
    """The iteration at which it was when it last did so, or at which it has begun since."""
    failed: str | None = None
    """Why it has failed for good, while it waits for a donor; else None."""
    reported: bool = False
    restore: CheckpointRecord | None = None
    """From where it goes on after a crash: its newest checkpoint, or the donor's until it has saved one of its own."""
    older: tuple[CheckpointRecord, ...] = ()
    """Checkpoints from before ``restore`` that led to it, oldest first: what it falls back to where that is damaged.
    Some of them may have been deleted since it saved last."""
    next_checkpoint: int = 0
    mutated: tuple[str, ...] = ()
    """The numbers of its config that were changed last, by an exploit or otherwise."""
    mutated_at: str | None = None
    """The id of the checkpoint of its own from which it went on with them; None for an exploit: that is a donor's."""
    queued: int = 0
    """Number of its valid entry in the queue for slots; 0 where it is not queued."""
    story: deque[str] = field(default_factory=lambda: deque(maxlen=24))

    @property
    def resident(self) -> bool:
        """True where the trial has a process."""
        return self.device is not None

    @property
    def claims(self) -> bool:
        """True where it waits for a slot: any that becomes free, or the one that it was promised."""
        return self.queued > 0 or self.promised is not None

    @property
    def place(self) -> tuple[float, int]:
        """Those for whom this is least have trained least, and go first."""
        return self.time, self.iteration

    @property
    def at_barrier(self) -> bool:
        """True where it waits for others, with no claim to a slot."""
        return self.slot is None and not (self.claims or self.leaving or self.status.ended)

    @property
    def nearly_there(self) -> bool:
        """True where its next report will be the one that waits for a decision, if it gets as far as with its last."""
        return self.until is not None and self.time + self.step >= self.until

    @property
    def undecided(self) -> bool:
        """True where nothing was decided upon its newest report.

        It waits at the barrier; or it waits in its slot, because it was asked to save or because the scheduler raised.
        """
        return self.at_barrier or (self.slot is not None and self.waiting)

    @property
    def lossless(self) -> bool:
        """True where ending the process would lose nothing: all is in a checkpoint, or it is to be launched anew."""
        there = self.restore is not None and self.restore.iteration == self.iteration
        return there or self.ready or not self.waiting

    @property
    def changed(self) -> tuple[str, ...]:
        """The numbers of its config that differ from those that the checkpoint was made with, from which it goes on."""
        restore = self.restore
        if restore is None or (restore.trial_id == self.trial_id and restore.id != self.mutated_at):
            return ()
        return self.mutated

    def take(self, report: Reported, *, score: float | None, time: float | None, rank: float | None) -> None:
        """Take in what a report says.

        Args:
            report: its next one.
            score: its value of the key that is compared.
            time: its value of ``time_attr``.
            rank: its value of ``checkpoint_score_attribute``.
        """
        self.iteration = report.iteration
        # Only without require_attrs can it be missing, or be no number to count with.
        reached = time if time is not None and math.isfinite(time) else float(report.iteration)
        self.step, self.time = reached - self.time, reached
        self.time_total_s = report.time_total_s
        self.score = score
        self.rank = rank
        self.reported = True
        self.barren = 0
        if self.iteration > self.furthest:
            self.orphaned = self.displaced = 0
        self.waiting, self.ready = report.waiting, False
        self.story.append(_reported(report.iteration, report.waiting))

    def count_loss(self, *, displaced: bool) -> int:
        """It has lost its process by no fault of its own. Return how often in a row it has, in the same way."""
        self.furthest = max(self.furthest, self.iteration)
        if displaced:
            self.displaced += 1
            return self.displaced
        self.orphaned += 1
        return self.orphaned

    def absolve(self) -> None:
        """Forget its failures: it begins from another's weights, or is given another chance by the user."""
        self.failures = self.barren = self.orphaned = self.displaced = 0
        self.failed = None

    def record_of(self, saved: SavedCheckpoint) -> CheckpointRecord:
        """Return a checkpoint of its newest report, with what that said."""
        return CheckpointRecord(
            checkpoint_id(self.trial_id, saved.number),
            self.trial_id,
            saved.number,
            saved.digest,
            saved.size,
            self.iteration,
            self.time,
            self.time_total_s,
            self.score,
            self.rank,
            saved.transient,
        )

    def rewind(self) -> None:
        """Set it back to where it will be launched from."""
        self.waiting = self.ready = False
        self.ending = None
        restore = self.restore
        self.iteration = 0 if restore is None else restore.iteration
        self.time = 0.0 if restore is None else restore.time
        self.time_total_s = 0.0 if restore is None else restore.time_total_s

    def reopen(self, values: Config) -> None:
        """Set it to what it is without a process, with other values in its configs."""
        self.story.append("the experiment was opened again")
        self.slot = self.device = self.promised = None
        self.leaving = False
        self.queued = 0
        old, self.config = self.config, replaced(self.config, values)
        self.first_config = replaced(self.first_config, values)
        if replacing := changed_numbers(old, self.config):
            self.mutated = tuple(dict.fromkeys((*self.changed, *replacing)))
            self.mutated_at = None if self.restore is None else self.restore.id

    def wrong(self) -> str | None:
        """Return which of the rules that hold at any time is broken, or None."""
        if (self.slot is not None) != (self.status is Status.RUNNING):
            return f"has slot {self.slot}"
        if self.slot is not None and ((self.waiting and self.ending is None) or self.claims or not self.resident):
            return "runs, and waits or has no process"
        if self.status.ended and (self.resident or self.claims):
            return "has ended, and has a process or is queued"
        if self.waiting and not self.resident:
            return "waits without a process"
        if self.promised is not None and (self.queued or not self.waiting):
            return "was promised a slot, and is queued or does not wait for it"
        if self.ready and not self.waiting:
            return "stands before its function, and does not wait"
        return None


@lru_cache(maxsize=4096)
def _reported(iteration: int, waiting: bool) -> str:
    # Members are at the same iterations, and so their stories hold the same texts.
    return f"report {iteration}{' waits' if waiting else ''}"


def changed_numbers(before: Config, after: Config, prefix: str = "") -> tuple[str, ...]:
    """Return the paths (``a/b`` for nested ones) of numbers, and of lists of numbers, that are others than before."""
    found: list[str] = []
    if not isinstance(before, dict) or not isinstance(after, dict):
        return ()  # of a journal, and of a kind that cannot be loaded here
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, dict):
            found += changed_numbers(old if isinstance(old, dict) else {}, value, f"{prefix}{key}/")
        elif _is_number(value) and not (_is_number(old) and old == value):
            found.append(f"{prefix}{key}")
    return tuple(found)


def _is_number(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_number, value))
    return isinstance(value, numbers.Real)


def replaced(config: Config, values: Config) -> Config:
    """Return a config with other values for some of its keys; nested dicts recurse, and neither input changes.

    Keys that the config lacks are left out: a value is replaced, none is added.
    """
    changed = dict(config)
    for key, value in values.items():
        if key not in config:
            continue
        inside = config[key]
        nested = isinstance(value, dict) and isinstance(inside, dict)
        changed[key] = replaced(inside, value) if nested else value
    return changed
