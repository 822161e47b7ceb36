"""Who is ahead of whom: members that may copy each other, ranked by their scores. Pure.

A change of a rank costs O(log n) comparisons and moves 2 KB at most, whatever the size of the population.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, islice
from typing import Any, TypeAlias

from ..core.commands import CheckpointRecord
from ..core.events import Config
from ..core.reports import lookup

__all__ = ["Group", "Member", "Rank", "Ranks", "Top", "group_key"]

Rank: TypeAlias = tuple[float, float, int]
"""(score with larger is better and non-finite as -inf, tie break, index)."""

_PIECE = 256
"""A piece of the ranks that is longer than this is cut in two."""


class Ranks:
    """Ranks in order, the lowest first; no two are equal.

    They are kept in pieces: in a single list, all that stands behind a change would have to be moved. And changes wait
    until somebody asks: at a barrier all ranks have changed, and then it costs less to sort once.
    """

    def __init__(self) -> None:
        self._changes: list[tuple[Rank, bool]] = []
        """What has not been carried out yet: ranks that were put in (True) or taken out."""
        self._pieces: list[list[Rank]] = [[]]
        self._counts = [0]
        """How many there are in each piece."""
        self._bounds: list[Rank] = []
        """For each piece but the last: none in it is higher, and none behind it is as low."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, rank: Rank) -> None:
        """Put a rank in."""
        self._changes.append((rank, True))
        self._count += 1
        if len(self._changes) > 4 * self._count:
            self._settle()  # nobody has asked for so long that they would become too many

    def remove(self, rank: Rank) -> None:
        """Take out a rank: the very object that was put in."""
        self._changes.append((rank, False))
        self._count -= 1

    def lower(self, rank: Rank) -> int:
        """Return how many are lower than a rank, which need not be there."""
        self._settle()
        number = bisect_left(self._bounds, rank)
        return sum(self._counts[:number]) + bisect_left(self._pieces[number], rank)

    def between(self, begin: int, end: int) -> Iterator[Rank]:
        """Return the ranks that at least ``begin`` and less than ``end`` are lower than, the lowest first."""
        self._settle()
        return islice(chain.from_iterable(self._pieces), begin, end)

    def highest(self, place: int) -> Rank:
        """Return the rank that so many are higher than: 0 is the highest of all."""
        self._settle()
        number = len(self._counts) - 1
        while place >= self._counts[number]:
            place -= self._counts[number]
            number -= 1
        return self._pieces[number][-1 - place]

    def _settle(self) -> None:
        """Carry out the changes that wait."""
        if not self._changes:
            return
        changes, self._changes = self._changes, []
        if 2 * len(changes) > self._count:
            self._build(changes)
            return
        for rank, put_in in changes:
            if put_in:
                self._put_in(rank)
            else:
                self._take_out(rank)

    def _build(self, changes: list[tuple[Rank, bool]]) -> None:
        """Carry out so many changes that all pieces are made anew."""
        there = {id(rank): rank for rank in chain(*self._pieces)}
        for rank, put_in in changes:
            if put_in:
                there[id(rank)] = rank
            else:
                del there[id(rank)]
        ranks = sorted(there.values())
        size = _PIECE // 2
        self._pieces = [ranks[begin : begin + size] for begin in range(0, len(ranks), size)] or [[]]
        self._counts = list(map(len, self._pieces))
        self._bounds = [piece[-1] for piece in self._pieces[:-1]]

    def _put_in(self, rank: Rank) -> None:
        number = bisect_left(self._bounds, rank)
        piece = self._pieces[number]
        insort(piece, rank)
        self._counts[number] += 1
        if len(piece) > _PIECE:
            self._cut(number)

    def _take_out(self, rank: Rank) -> None:
        number = bisect_left(self._bounds, rank)
        piece = self._pieces[number]
        del piece[bisect_left(piece, rank)]
        self._counts[number] -= 1
        if len(piece) < _PIECE // 4 and len(self._pieces) > 1:
            self._join(max(0, number - 1))

    def _cut(self, number: int) -> None:
        """Make two pieces of one."""
        piece = self._pieces[number]
        half = len(piece) // 2
        self._pieces[number : number + 1] = [piece[:half], piece[half:]]
        self._counts[number : number + 1] = [half, len(piece) - half]
        self._bounds.insert(number, piece[half - 1])

    def _join(self, number: int) -> None:
        """Make one piece of two that stand side by side, or two that are alike in length."""
        self._pieces[number] += self._pieces.pop(number + 1)
        self._counts[number] += self._counts.pop(number + 1)
        del self._bounds[number]
        if self._counts[number] > _PIECE:
            self._cut(number)


class Top:
    """The highest ranks, the lowest of them first, without a copy: in a large population they are many.

    Of no use any more when a rank has changed.
    """

    def __init__(self, ranks: Ranks, count: int) -> None:
        self._ranks = ranks
        self._count = min(count, len(ranks))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> Rank:
        return self._ranks.highest(self._count - 1 - place)

    def __iter__(self) -> Iterator[Rank]:
        return self._ranks.between(len(self._ranks) - self._count, len(self._ranks))


@dataclass(slots=True)
class Group:
    """Members that may copy each other: all of them, or those with the same values of the fixed keys.

    Each is a population of its own: who is low or on top is told by those in it.
    """

    ranking: Ranks = field(default_factory=Ranks)
    """By the scores at their last boundaries."""
    donors: Ranks = field(default_factory=Ranks)
    """Those that can be copied, by the scores at their newest own checkpoints. Nobody who has failed is among them."""

    def evaluate(self, member: Member, rank: Rank) -> None:
        """Give a member its place by a new score."""
        if member.rank is not None:
            self.ranking.remove(member.rank)
        member.rank = rank
        self.ranking.add(rank)

    def offer(self, member: Member, rank: Rank | None) -> None:
        """Give a member its place among the donors, or, with None, take it away."""
        if not member.failed:
            if member.donor_rank is not None:
                self.donors.remove(member.donor_rank)
            if rank is not None:
                self.donors.add(rank)
        member.donor_rank = rank

    def fail(self, member: Member) -> None:
        """A member has failed for good: nobody copies from where it failed."""
        if not member.failed and member.donor_rank is not None:
            self.donors.remove(member.donor_rank)
        member.failed = True

    def leave(self, member: Member) -> None:
        """A member is no longer there; what it has reached is not forgotten."""
        if member.rank is not None:
            self.ranking.remove(member.rank)
        if not member.failed and member.donor_rank is not None:
            self.donors.remove(member.donor_rank)

    def join(self, member: Member) -> None:
        """A member is there, with what it had reached when it left."""
        if member.rank is not None:
            self.ranking.add(member.rank)
        if not member.failed and member.donor_rank is not None:
            self.donors.add(member.donor_rank)

    def quantile(self, fraction: float) -> int:
        """Return how many are in each quantile: rounded up, but never more than half of all."""
        return _quantile(len(self.ranking), fraction)

    def is_low(self, member: Member, fraction: float) -> bool:
        """Return whether a member is in the bottom quantile."""
        return member.rank is not None and self.ranking.lower(member.rank) < self.quantile(fraction)

    def low(self, fraction: float) -> set[int]:
        """Return the indices of the members in the bottom quantile."""
        return {rank[2] for rank in self.ranking.between(0, self.quantile(fraction))}

    def top(self, fraction: float) -> Top:
        """Return the donors of the top quantile; one also where it is empty, for somebody who has failed."""
        return Top(self.donors, max(1, self.quantile(fraction)))


@dataclass(slots=True)
class Member:
    """What the policy knows of a trial."""

    trial_id: str
    index: int
    config: Config
    boundary: float
    """The next ``time_attr`` at which it is ready."""
    group: Group
    evaluations: int = 0
    generation: int = 0
    rank: Rank | None = None
    """Its entry in the ranking, by its score at its last boundary."""
    donor_rank: Rank | None = None
    """Its entry among possible donors, by the score at its newest own checkpoint."""
    failed: bool = False
    """It has failed for good and is no donor, whatever it has saved."""
    checkpoint: CheckpointRecord | None = None
    next_rank: Rank | None = None
    """Its rank, if it were evaluated by its newest checkpoint's score; None where it has been evaluated since."""
    last_score: float | None = None
    """What it reported last."""
    copied_time: float = -math.inf
    """The latest ``time_attr`` of the checkpoints that it has copied."""
    chances: int = 0
    """How often it may still copy one that is not later than that."""


def group_key(config: Config, fixed: Sequence[str]) -> Any:
    """Return what is equal where two configs have the same values, of the same types, under the keys of ``fixed``."""
    return tuple(_frozen(lookup(config, path)) for path in fixed)


def _frozen(value: Any) -> Any:
    kind = type(value).__name__
    if isinstance(value, (list, tuple)):
        return (kind, *map(_frozen, value))
    if isinstance(value, dict):
        return (kind, frozenset((key, _frozen(entry)) for key, entry in value.items()))
    if isinstance(value, float) and value != value:
        return (kind, "nan")  # NaN is what differs from itself
    # An object is another one after a restore. It can only be there by Opened.config, which gives all the same.
    return (kind, value) if value is None or isinstance(value, (bool, int, float, str)) else (kind,)


@lru_cache(maxsize=16)
def _quantile(count: int, fraction: float) -> int:
    # Rounded: 100 * 0.07 is 7.000000000000001, but means 7.
    return min(math.ceil(round(count * fraction, 9)), count // 2)
