"""Whose descendants a population is, and how far its hyperparameters are apart, kept up to date change by change.

Each change costs the same however many members there are.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..core.commands import Exploit
from ..core.events import Config
from ..history import Ancestry, Row, TrialHistory
from ..reading import Experiment
from .info import by_generation

__all__ = ["Change", "Families", "Spread", "effective"]

_DIGITS = 64
"""Of a value, binary."""


@dataclass(frozen=True, slots=True)
class Change:
    """A member goes on with other weights than its own: it copied another, or began anew."""

    member: int
    """Its place among the members."""
    donor: int | None
    """Whom it copied; None: nobody."""
    founder: int | None
    """With whose first weights what it has now began; None: with those that the donor's began with."""
    config: Config
    """What it goes on with."""
    at: float
    """When, in active seconds."""
    reached: float
    """``training_iteration`` that somebody had come to by then."""


class Families:
    """Which member's first weights each member's present ones descend from. At first each has its own.

    Args:
        experiment: which.
        trials: the members that take part.
    """

    def __init__(self, experiment: Experiment, trials: Sequence[TrialHistory]) -> None:
        self._experiment = experiment
        self._trials = trials
        self._places = {trial.trial_id: place for place, trial in enumerate(trials)}
        size = len(trials)
        self._founder = list(range(size))
        self._counts = [1] * size
        self._sizes = Counter({1: size})
        """How many founders have so many descendants."""
        self._largest = 1
        self._squares = size
        self._recent: deque[int] = deque()
        self._donated = [0] * size
        self._donated_squares = 0
        self._moves: list[tuple[int, int, int]] = []
        """Entry, from which founder, to which."""
        self._entries = 0
        self.half: int | None = None
        """The entry since which one founder has had at least half of all."""
        self.whole: int | None = None
        """The entry since which one founder has had all."""

    @property
    def effective(self) -> float:
        """The effective number of founders: the inverse Simpson index."""
        return effective(len(self._trials), self._squares)

    @property
    def donors(self) -> float | None:
        """The effective number of donors among the newest exploits; None before the first."""
        return effective(len(self._recent), self._donated_squares) if self._recent else None

    def changes(self) -> Iterator[Change]:
        """Yield what happened, in its order."""
        copies = (
            self._copied(exploit)
            for exploit in self._experiment.history.exploits
            # A control takes part in no exploit.
            if exploit.trial_id in self._places and exploit.donor_id in self._places
        )
        # Both have their times in order; of one moment, the copy comes first.
        return heapq.merge(copies, sorted(self._anew(), key=lambda each: each.at), key=lambda each: each.at)

    def _copied(self, exploit: Exploit) -> Change:
        copied = self._experiment.timeline.copied.get((exploit.trial_id, exploit.generation))
        founder, config = None, exploit.new_config
        first = self._firsts.get((exploit.trial_id, exploit.generation))
        if first is not None and first.ancestry is not None:
            # What it really went on from: where the donor's checkpoint was damaged, that is an older one.
            founder = self._places.get(_oldest(first.ancestry))
            config = first.config
        return Change(
            member=self._places[exploit.trial_id],
            donor=self._places[exploit.donor_id],
            founder=founder,
            config=config,
            at=0.0 if copied is None else copied.at,
            reached=float(max(exploit.iteration, exploit.checkpoint.iteration)),
        )

    def _anew(self) -> Iterator[Change]:
        """Yield when members began anew whose exploits were for nothing."""
        timeline = self._experiment.timeline
        for place, trial in enumerate(self._trials):
            if not trial.exploits:
                continue
            if trial.last is None and trial.ancestry is None:
                yield Change(place, None, place, trial.initial_config, timeline.duration, 0.0)
            first = trial.rows[0] if trial.rows else None
            if first is not None and first.ancestry is None and first.generation:
                copied = timeline.copied.get((trial.trial_id, first.generation))
                begun = timeline.active(first.report.timestamp) - first.report.time_this_iter_s
                yield Change(place, None, place, first.config, max(begun, 0.0 if copied is None else copied.at), 0.0)

    @functools.cached_property
    def _firsts(self) -> dict[tuple[str, int], Row]:
        """The first result of each generation of those that have copied, by member and generation."""
        copied = {exploit.trial_id for exploit in self._experiment.history.exploits}
        return {
            (trial.trial_id, generation): rows[0]
            for trial in self._trials
            if trial.trial_id in copied
            for generation, rows in by_generation(trial)
        }

    def apply(self, change: Change) -> None:
        """Take in a change."""
        old = self._founder[change.member]
        new = change.founder
        if new is None:
            new = old if change.donor is None else self._founder[change.donor]
        if new != old:
            self._count(old, -1)
            self._count(new, 1)
            self._founder[change.member] = new
            self._moves.append((self._entries, old, new))
        if change.donor is not None:
            self._recent.append(change.donor)
            self._donate(change.donor, 1)
            if len(self._recent) > len(self._trials):
                self._donate(self._recent.popleft(), -1)

    def _count(self, founder: int, more: int) -> None:
        before = self._counts[founder]
        after = self._counts[founder] = before + more
        self._squares += after * after - before * before
        self._sizes[before] -= 1
        self._sizes[after] += 1
        # The largest can only have changed by one.
        self._largest = max(self._largest, after)
        if not self._sizes[self._largest]:
            self._largest -= 1

    def _donate(self, donor: int, more: int) -> None:
        before = self._donated[donor]
        after = self._donated[donor] = before + more
        self._donated_squares += after * after - before * before

    def close(self) -> None:
        """End an entry: what is taken in from now on belongs to the next."""
        size = len(self._trials)
        self.half = None if 2 * self._largest < size else self._entries if self.half is None else self.half
        self.whole = None if self._largest < size else self._entries if self.whole is None else self.whole
        self._entries += 1

    def shares(self, entries: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Return how many descended from each founder at the ends of entries, given in their order."""
        counts = [1] * len(self._trials)
        found: list[tuple[int, ...]] = []
        moves = iter(self._moves)
        move = next(moves, None)
        for entry in entries:
            while move is not None and move[0] <= entry:
                counts[move[1]] -= 1
                counts[move[2]] += 1
                move = next(moves, None)
            found.append(tuple(counts))
        return tuple(found)


def effective(total: int, squares: int) -> float:
    """Return the effective number of different ones, the inverse Simpson index: from 1 to how many there are.

    Args:
        total: how many there are in all.
        squares: the sum of the squares of how many there are of each.
    """
    return total * total / squares if squares else 0.0


def _oldest(link: Ancestry) -> str:
    """Return the id of the member with whose first weights an ancestry began."""
    while link.before is not None:
        link = link.before
    return link.change.checkpoint.trial_id


class Spread:
    """The standard deviation of values of which one changes at a time, in units of what it was at the beginning.

    In whole numbers of any length, so that sums may be corrected for ever and no value is too large to be squared.

    Args:
        values: the first of each; None where it is no number.
    """

    def __init__(self, values: Sequence[float | None]) -> None:
        self.numeric = len(values) > 1 and None not in values
        """Whether each is a number."""
        largest = max((abs(value) for value in values if value is not None), default=0.0)
        self._shift = _DIGITS - math.frexp(largest)[1]
        self._values: list[int | None] = [self._whole(value) for value in values]
        self._missing = self._values.count(None)
        known = [value for value in self._values if value is not None]
        self._sum = sum(known)
        self._squares = sum(value * value for value in known)
        self._begin = self._variance

    @property
    def _variance(self) -> int:
        return len(self._values) * self._squares - self._sum * self._sum

    @property
    def now(self) -> float | None:
        """What it is now; None where it was 0 at the beginning, where a value is no number, or where it is endless."""
        if self._missing or not self._begin:
            return None
        root = math.isqrt((self._variance << 2 * _DIGITS) // self._begin)
        try:
            return root / (1 << _DIGITS)
        except OverflowError:
            return None

    def replace(self, place: int, value: float | None) -> None:
        """Change one value."""
        old, new = self._values[place], self._whole(value)
        self._values[place] = new
        self._missing += (new is None) - (old is None)
        self._sum += (new or 0) - (old or 0)
        self._squares += (new or 0) ** 2 - (old or 0) ** 2

    def _whole(self, value: float | None) -> int | None:
        if value is None:
            return None
        above, below = value.as_integer_ratio()
        return (above << self._shift) // below if self._shift >= 0 else above // (below << -self._shift)
