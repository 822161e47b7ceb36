"""The population as a whole: whose descendants it is, how alike it has become, what its time went into, and whether
copying helped. Plain data, as in :mod:`shoal.plots.info`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ..core.commands import Exploit
from ..core.events import Config
from ..history import Row
from ..reading import Experiment
from .info import Member, concentration, config_values, finite, member_of, metric_of, x_label
from .tree import BranchId, parents

__all__ = [
    "Diversity",
    "Gain",
    "Gains",
    "MemberTime",
    "Times",
    "diversity",
    "gains",
    "times",
]

_Test = Callable[[tuple[int, ...]], bool]


@dataclass(frozen=True, slots=True)
class Diversity:
    """How many ancestors the population has left, and how far its hyperparameters are apart.

    A *founder* is the member from whose first weights others descend. There is an entry for the beginning, and one for
    each exploit.
    """

    experiment: str
    x_label: str
    x: tuple[float, ...]
    founders: tuple[Member, ...]
    """All members that began from scratch, by their numbers."""
    shares: tuple[tuple[int, ...], ...]
    """For each entry, how many members' present weights descend from each founder."""
    effective: tuple[float, ...]
    """The effective number of founders: the inverse Simpson index. It is 1 where all descend from one."""
    donors: tuple[float | None, ...]
    """The effective number of donors among the newest exploits, as many as there are members; None before the first."""
    spread: Mapping[str, tuple[float | None, ...]]
    """For each hyperparameter that is a number: the standard deviation among the members, in units of what it was at
    the beginning; of logarithms, where it has a log scale. None where it was 0 at the beginning."""
    takeover: int | None
    """Place of the first entry from which on one founder has had at least half of the population, to the end."""
    fixation: int | None
    """Place of the first entry from which on all members have descended from one founder."""


@dataclass(frozen=True, slots=True)
class MemberTime:
    """What a member's time went into, in seconds; see :class:`shoal.timeline.Spent`."""

    member: Member
    training: float
    saving: float
    loading: float
    waiting: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.training + self.saving + self.loading + self.waiting


@dataclass(frozen=True, slots=True)
class Times:
    """What the experiment's time went into."""

    experiment: str
    members: tuple[MemberTime, ...]
    duration: float
    """Seconds, without pauses between drivers."""
    slot_seconds: float
    """Seconds times slots: how much could have been trained."""

    @property
    def training_share(self) -> float | None:
        """Part of the slots' time in which members' functions trained, 0 to 1; None before anything ran."""
        trained = sum(each.training for each in self.members)
        return min(1.0, trained / self.slot_seconds) if self.slot_seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Gain:
    """What came of an exploit within the interval that followed."""

    member: Member
    donor: Member
    generation: int
    x: float
    """Where the copied checkpoint is."""
    before: float | None
    """The member's score when it was told to copy."""
    copied: float | None
    """The donor's score that came with the checkpoint."""
    after: float | None
    """The member's score at its next boundary; None where it did not get there."""
    donor_after: float | None
    """The donor's own score there, where it trained the same weights on with its own hyperparameters; else None."""
    sign: float
    """1 where larger is better, -1 where smaller is."""

    @property
    def gain(self) -> float | None:
        """By how much the member was better at its next boundary than when it copied; larger is better."""
        return None if self.after is None or self.before is None else self.sign * (self.after - self.before)

    @property
    def progress(self) -> float | None:
        """By how much it was better than the weights that it copied."""
        return None if self.after is None or self.copied is None else self.sign * (self.after - self.copied)

    @property
    def lead(self) -> float | None:
        """By how much it was better than the donor, from the same weights: what the new hyperparameters gave."""
        return None if self.after is None or self.donor_after is None else self.sign * (self.after - self.donor_after)


@dataclass(frozen=True, slots=True)
class Gains:
    """Whether copying helped: all exploits, in the order in which they were decided.

    Those in place of a member that had failed are left out: there was no score before.
    """

    experiment: str
    metric: str
    mode: str
    x_label: str
    interval: float | None
    """How far the scheduler's ``time_attr`` went from a copy to the next boundary, in the middle; None without one."""
    time_attr: str
    gains: tuple[Gain, ...]


def diversity(experiment: Experiment, x: str = "training_iteration") -> Diversity:
    """Return how many ancestors the population has left, and how far its hyperparameters are apart.

    Args:
        experiment: which.
        x: ``time``, or else how far the furthest member had trained by then.
    """
    history = experiment.history
    trials = [trial for trial in history.in_order() if trial.index not in experiment.info.control]
    names = experiment.info.parameters
    founder: dict[str, int] = {trial.trial_id: place for place, trial in enumerate(trials)}
    values = {
        name: {trial.trial_id: _scaled(trial.initial_config, name, experiment) for trial in trials} for name in names
    }
    begin = {name: _deviation(values[name]) for name in names}
    numeric = [name for name in names if begin[name] is not None]
    xs: list[float] = [0.0]
    counts = [1] * len(trials)
    shares = [tuple(counts)]
    donors: list[float | None] = [None]
    spread: dict[str, list[float | None]] = {name: [1.0 if begin[name] else None] for name in numeric}
    recent: list[str] = []
    furthest = 0.0
    for exploit in history.exploits:
        if exploit.trial_id not in founder or exploit.donor_id not in founder:
            continue  # of a control: it takes part in no exploit
        counts[founder[exploit.trial_id]] -= 1
        counts[founder[exploit.donor_id]] += 1
        founder[exploit.trial_id] = founder[exploit.donor_id]
        recent = [*recent, exploit.donor_id][-len(trials) :]
        furthest = max(furthest, float(exploit.iteration), float(exploit.checkpoint.iteration))
        copied = experiment.timeline.copied.get((exploit.trial_id, exploit.generation))
        xs.append((0.0 if copied is None else copied.at) if x == "time" else furthest)
        shares.append(tuple(counts))
        donors.append(concentration(recent))
        for name in numeric:
            values[name][exploit.trial_id] = _scaled(exploit.new_config, name, experiment)
            first, now = begin[name], _deviation(values[name])
            spread[name].append(now / first if first and now is not None else None)
    last = _furthest(experiment) if x != "time" else experiment.timeline.duration
    if last > xs[-1]:
        xs.append(last)
        shares.append(shares[-1])
        donors.append(donors[-1])
        for series in spread.values():
            series.append(series[-1])
    return Diversity(
        experiment=experiment.name,
        x_label="time (s)" if x == "time" else "training iteration of the furthest member",
        x=tuple(xs),
        founders=tuple(member_of(experiment, trial) for trial in trials),
        shares=tuple(shares),
        effective=tuple(_effective(counts) for counts in shares),
        donors=tuple(donors),
        spread={name: tuple(series) for name, series in spread.items()},
        takeover=_since(shares, lambda counts: 2 * max(counts) >= sum(counts)) if len(trials) > 2 else None,
        fixation=_since(shares, lambda counts: max(counts) == sum(counts)) if len(trials) > 1 else None,
    )


def times(experiment: Experiment) -> Times:
    """Return what the experiment's time went into."""
    timeline = experiment.timeline
    now = timeline.duration
    found: list[MemberTime] = []
    for trial in experiment.history.in_order():
        spent = timeline.members[trial.trial_id]
        member = member_of(experiment, trial)
        found.append(MemberTime(member, spent.training, spent.saving, spent.loading, spent.waiting(now)))
    return Times(experiment.name, tuple(found), now, timeline.slot_seconds)


def gains(experiment: Experiment, x: str = "training_iteration") -> Gains:
    """Return what came of each exploit within the interval that followed.

    Args:
        experiment: which.
        x: ``training_iteration`` or ``time``: of when it was decided.

    Raises:
        ConfigError: the experiment has no metric.
    """
    metric, mode = metric_of(experiment, None)
    history, timeline = experiment.history, experiment.timeline
    sign = 1.0 if mode == "max" else -1.0
    members = {trial.trial_id: member_of(experiment, trial) for trial in history.in_order()}
    rows = {
        (trial.index, generation): list(found)
        for trial in history.in_order()
        for generation, found in groupby(trial.rows, lambda row: row.generation)
    }
    found: list[Gain] = []
    intervals: list[float] = []
    for exploit, parent in parents(history):
        copied = timeline.copied.get((exploit.trial_id, exploit.generation))
        until = None if copied is None else copied.until
        if until is not None:
            intervals.append(until - exploit.checkpoint.time)
        if exploit.failed is not None:
            continue
        after, donor_after = _after(experiment, exploit, parent, members[exploit.trial_id].index, until, rows, metric)
        found.append(
            Gain(
                member=members[exploit.trial_id],
                donor=members[exploit.donor_id],
                generation=exploit.generation,
                x=float(exploit.checkpoint.iteration) if x != "time" else (0.0 if copied is None else copied.at),
                before=finite(exploit.score),
                copied=finite(exploit.checkpoint.score),
                after=after,
                donor_after=donor_after,
                sign=sign,
            )
        )
    return Gains(
        experiment=experiment.name,
        metric=metric,
        mode=mode,
        x_label=x_label("time" if x == "time" else "training_iteration", experiment),
        interval=statistics.median(intervals) if intervals else None,
        time_attr=experiment.info.time_attr,
        gains=tuple(found),
    )


def _after(
    experiment: Experiment,
    exploit: Exploit,
    parent: BranchId,
    index: int,
    until: float | None,
    rows: Mapping[tuple[int, int], Sequence[Row]],
    metric: str,
) -> tuple[float | None, float | None]:
    """Return the scores of the member and of the donor, an interval after the checkpoint that was copied."""
    if until is None:
        return None, None
    own = _first_at(rows.get((index, exploit.generation), ()), until, experiment)
    donors = [row for row in rows.get(parent, ()) if row.report.iteration > exploit.checkpoint.iteration]
    theirs = None if own is None else _first_at(donors, until, experiment)
    return (
        None if own is None else finite(own.value(metric)),
        None if theirs is None else finite(theirs.value(metric)),
    )


def _first_at(rows: Sequence[Row], until: float, experiment: Experiment) -> Row | None:
    """Return the first result at or behind a boundary."""
    key = experiment.info.time_attr
    return next((row for row in rows if (at := finite(row.value(key))) is not None and at >= until), None)


def _effective(counts: Sequence[int]) -> float:
    total = sum(counts)
    return total * total / sum(count * count for count in counts) if total else 0.0


def _since(shares: Sequence[tuple[int, ...]], holds: _Test) -> int | None:
    """Return the first place from which on something holds to the end; None where it does not hold at the end."""
    found: int | None = None
    for place in range(len(shares) - 1, -1, -1):
        if not holds(shares[place]):
            break
        found = place
    return found


def _scaled(config: Config, name: str, experiment: Experiment) -> float | None:
    """Return a hyperparameter on its own scale, which may be logarithmic; None where it is no number."""
    value = next(config_values([config], name), None)
    if value is None or name not in experiment.info.log_parameters:
        return value
    return math.log(value) if value > 0 else None


def _deviation(values: Mapping[str, float | None]) -> float | None:
    """Return the standard deviation of a hyperparameter among the members; None where it is no number in all."""
    found = [value for value in values.values() if value is not None]
    if len(found) < len(values) or len(found) < 2:
        return None
    middle = math.fsum(found) / len(found)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in found) / len(found))


def _furthest(experiment: Experiment) -> float:
    return float(max((trial.iteration for trial in experiment.history.trials.values()), default=0))
