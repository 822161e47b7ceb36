"""The numbers behind the report card: members at their boundaries, and copies beside those that copied nobody.

Plain data, made from the history and the timeline. What follows from them is said in :mod:`shoal.card`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .core.commands import Exploit
from .history import TrialHistory
from .inference import between, middle, rank_correlation
from .plots.info import by_generation, finite
from .reading import Experiment

__all__ = ["Persistence", "Rounds", "early_share", "leads_over_peers", "persistence", "rounds_of"]

_AT_MOST = 2_000
"""So many copies are looked at, evenly chosen: more make nothing surer, and take long."""
_PEERS = 100
"""With so many others a copy is compared."""
_RISEN = 0.95
"""Up to where so much of a run's progress has been made, scores tell members apart by what they have learned."""


@dataclass(frozen=True, slots=True)
class Life:
    """What a member reported between two exploits: where each result is by the scheduler's ``time_attr``, and its
    score, larger is better."""

    trial: TrialHistory
    generation: int
    times: tuple[float, ...]
    scores: tuple[float, ...]
    ended: bool
    """Whether the trial ended with the last of them."""

    def at(self, time: float) -> float | None:
        """Return the score in the first result at or behind a time; None where it never came there."""
        place = bisect_left(self.times, time)
        return self.scores[place] if place < len(self.times) else None

    def covers(self, begin: float, end: float) -> bool:
        """Return whether it goes from one time to another."""
        return bool(self.times) and self.times[0] <= begin and end <= self.times[-1]


@dataclass(frozen=True, slots=True)
class Round:
    """The boundaries of one number: who came there, with which score."""

    time: float
    """The least ``time_attr`` among them."""
    scores: Mapping[str, tuple[int, float]]
    """By trial id: the generation then, and the score; larger is better."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """All boundaries of a run."""

    rounds: tuple[Round, ...]
    decisions: int
    """How often it was decided about the member about which that was most often: its end is no decision."""
    lives: tuple[Life, ...]


@dataclass(frozen=True, slots=True)
class Persistence:
    """How well ranks at a boundary tell those at the next."""

    correlation: float
    """The mean of the rank correlations."""
    error: float
    """Its standard error, were there no correlation at all."""
    rounds: int
    members: int
    """How many members took part in a round, in the middle."""


def rounds_of(experiment: Experiment) -> Rounds:
    """Return the boundaries of a run, by their numbers, of the members that take part in exploits."""
    lives = tuple(_lives(experiment))
    found: dict[float, dict[str, tuple[int, float]]] = defaultdict(dict)
    times: dict[float, float] = {}
    decisions: dict[str, int] = defaultdict(int)
    interval = _interval(experiment)
    for life in lives:
        trial_id = life.trial.trial_id
        if life.trial.index in experiment.info.control:
            continue
        for until in experiment.timeline.boundaries.get((trial_id, life.generation), ()):
            score = life.at(until)
            if score is None:
                continue
            at_its_end = life.ended and bisect_left(life.times, until) == len(life.times) - 1
            decisions[trial_id] += not at_its_end
            number = round(until / interval, 1) if interval else until
            found[number][trial_id] = (life.generation, score)
            times[number] = min(until, times.get(number, math.inf))
    rounds = tuple(Round(times[number], found[number]) for number in sorted(found))
    return Rounds(rounds, max(decisions.values(), default=0), lives)


def persistence(rounds: Rounds) -> Persistence | None:
    """Return how well ranks at a boundary tell those at the next, while the population still learns.

    Only members count that were not exchanged in between. Once scores have come to rest, nobody is ahead but by chance,
    with any interval; so those boundaries say nothing about it.
    """
    correlations: list[float] = []
    sizes: list[int] = []
    for now, later in pairwise(_rising(rounds.rounds)):
        pairs = [
            (score, later.scores[trial_id][1])
            for trial_id, (generation, score) in now.scores.items()
            if trial_id in later.scores and later.scores[trial_id][0] == generation
        ]
        if len(pairs) >= 4 and (correlation := rank_correlation(pairs)) is not None:
            correlations.append(correlation)
            sizes.append(len(pairs))
    if not correlations:
        return None
    error = math.sqrt(math.fsum(1.0 / (size - 1) for size in sizes)) / len(sizes)
    mean = math.fsum(correlations) / len(correlations)
    return Persistence(mean, error, len(correlations), round(middle(sizes)))


def _rising(rounds: Sequence[Round]) -> Sequence[Round]:
    """Return the rounds in which the population still gets better; all, where it never does."""
    middles = [middle([score for _, score in each.scores.values()]) for each in rounds]
    if len(middles) < 3:
        return rounds
    begin, best = middles[0], max(middles)
    steps = middle([abs(later - now) for now, later in pairwise(middles)])
    if best - begin <= 4 * steps:
        return rounds  # it goes up and down, and nowhere
    end = next(place for place, value in enumerate(middles) if value - begin >= _RISEN * (best - begin))
    return rounds[: end + 1]


def early_share(experiment: Experiment, rounds: Rounds) -> tuple[float, int] | None:
    """Return which part of the progress between two boundaries is made in its first half, in the middle, and of how
    many cases; None where there are none. Only of the rounds in which the population still gets better."""
    rising = _rising(rounds.rounds)
    if not rising:
        return None
    last = rising[-1].time
    shares: list[float] = []
    for life in rounds.lives:
        given = experiment.timeline.boundaries.get((life.trial.trial_id, life.generation), ())
        for begin, end in pairwise(given):
            if end > last or not life.covers(begin, end):
                continue
            first, behind = bisect_left(life.times, begin), bisect_left(life.times, end)
            values = life.scores[first : behind + 1]
            whole = values[-1] - values[0]
            if len(values) >= 5 and whole > 0:
                shares.append((between(values, (len(values) - 1) / 2) - values[0]) / whole)
    return (middle(shares), len(shares)) if shares else None


def leads_over_peers(experiment: Experiment, rounds: Rounds) -> list[float]:
    """Return for copies by how much they were ahead, at their next boundary, of those that were low and copied nobody.

    Peers are the lower half of the members, controls included, that trained their own weights on from the step of the
    copied checkpoint to that boundary: they were low as well, and have had the same steps since. So what everybody
    gains, and what falls back to the mean by itself, is not taken for the copy's merit. Copies with less than two peers
    are left out. Larger is better.
    """
    by_time = _by_trial(rounds.lives)
    copies = [exploit for exploit in experiment.history.exploits if exploit.failed is None]
    step = max(1, math.ceil(len(copies) / _AT_MOST))
    found: list[float] = []
    for exploit in copies[::step]:
        copied = experiment.timeline.copied.get((exploit.trial_id, exploit.generation))
        own = by_time.get((exploit.trial_id, exploit.generation))
        if copied is None or copied.until is None or own is None:
            continue
        after = own.at(copied.until)
        peers = _peers(rounds.lives, exploit, copied.until)
        if after is not None and len(peers) >= 2:
            found.append(after - middle(peers))
    return found


def _by_trial(lives: Sequence[Life]) -> dict[tuple[str, int], Life]:
    return {(life.trial.trial_id, life.generation): life for life in lives}


def _peers(lives: Sequence[Life], exploit: Exploit, until: float) -> list[float]:
    """Return the scores at a boundary of those that were in the lower half when the copy was made."""
    begin = exploit.checkpoint.time
    there = [
        (at_begin, at_end)
        for life in lives
        if life.trial.trial_id not in (exploit.trial_id, exploit.donor_id) and life.covers(begin, until)
        if (at_begin := life.at(begin)) is not None and (at_end := life.at(until)) is not None
    ][:_PEERS]
    there.sort(key=lambda pair: pair[0])
    return [at_end for _, at_end in there[: (len(there) + 1) // 2]]


def _lives(experiment: Experiment) -> Iterator[Life]:
    sign = 1.0 if experiment.info.mode == "max" else -1.0
    metric, time_attr = str(experiment.info.metric), experiment.info.time_attr
    for trial in experiment.history.in_order():
        for generation, rows in by_generation(trial):
            points = [
                (time, sign * score, row)
                for row in rows
                if (time := finite(row.value(time_attr))) is not None
                and (score := finite(row.value(metric))) is not None
            ]
            newest = points[-1][2] if points else None
            ended = newest is not None and newest is trial.last and newest.report.stop is not None
            times, scores = tuple(time for time, _, _ in points), tuple(score for _, score, _ in points)
            yield Life(trial, generation, times, scores, ended)


def _interval(experiment: Experiment) -> float:
    """Return how far apart two boundaries of a member are, in the middle; 0 where that cannot be told."""
    given = experiment.timeline.boundaries.values()
    steps = [later - now for untils in given for now, later in pairwise(untils)]
    firsts = [untils[0] for (_, generation), untils in experiment.timeline.boundaries.items() if not generation]
    return middle(steps) if steps else (min(firsts) if firsts else 0.0)
