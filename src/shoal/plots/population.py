"""The population as a whole: whose descendants it is, how alike it has become, what its time went into, and whether
copying helped. Plain data, as in :mod:`shoal.plots.info`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.commands import CheckpointRecord, Exploit
from ..core.events import Config
from ..errors import ResultError
from ..history import Row
from ..inference import middle
from ..reading import Experiment, has_ended
from .families import Families, Spread
from .info import Member, by_generation, check_x, config_values, finite, member_of, metric_of, x_label
from .tree import BranchId, parents

__all__ = [
    "Diversity",
    "Gain",
    "Gains",
    "MemberTime",
    "Times",
    "diversity",
    "gains",
    "gains_to_draw",
    "times",
]

_ENTRIES = 2000


@dataclass(frozen=True, slots=True)
class Diversity:
    """How many ancestors the population has left, and how far its hyperparameters are apart.

    A *founder* is the member from whose first weights others descend. There is an entry for the beginning, and one for
    each place on the x axis at which somebody copied another or began anew; of more than 2,000 so many, evenly chosen.
    Members that are kept out of exploits are left out.
    """

    experiment: str
    x_label: str
    x_axis: str
    """``training_iteration``, ``time``, or a key of the results."""
    x: tuple[float, ...]
    founders: tuple[Member, ...]
    """All members that began from scratch, by their numbers."""
    shares: tuple[tuple[int, ...], ...]
    """For each entry, how many members' present weights descend from each founder."""
    effective: tuple[float, ...]
    """The effective number of founders: the inverse Simpson index. It is 1 where all descend from one."""
    donors: tuple[float | None, ...]
    """The effective number of donors among the newest exploits, at most as many as there are members; None before the
    first."""
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
    x_axis: str
    """``training_iteration``, ``time``, or a key of the results."""
    interval: float | None
    """How far the scheduler's ``time_attr`` went from a copy to the next boundary, in the middle; None without one."""
    time_attr: str
    gains: tuple[Gain, ...]
    ended: bool = False
    """Whether the run has ended, so that who has not come to the next boundary never will."""


def diversity(experiment: Experiment, x: str = "training_iteration") -> Diversity:
    """Return how many ancestors the population has left, and how far its hyperparameters are apart.

    Args:
        experiment: which.
        x: ``training_iteration``, how far the furthest member had trained by then, or ``time``.

    Raises:
        ConfigError: ``x`` is another.
    """
    check_x(x, "diversity")
    trials = [trial for trial in experiment.history.in_order() if trial.index not in experiment.info.control]
    families = Families(experiment, trials)
    spread = {
        name: found
        for name in experiment.info.parameters
        if (found := Spread([_scaled(trial.initial_config, name, experiment) for trial in trials])).numeric
    }
    xs: list[float] = []
    numbers: list[tuple[float, float | None, list[float | None]]] = []

    def close(at: float) -> None:
        xs.append(at)
        numbers.append((families.effective, families.donors, [each.now for each in spread.values()]))
        families.close()

    at = 0.0
    for change in families.changes():
        where = max(at, change.at if x == "time" else change.reached)
        if where > at:
            close(at)
            at = where
        families.apply(change)
        for name, values in spread.items():
            values.replace(change.member, _scaled(change.config, name, experiment))
    close(at)
    last = _furthest(experiment) if x != "time" else experiment.timeline.duration
    if last > at:
        close(last)
    takeover = families.half if len(trials) > 2 else None
    fixation = families.whole if len(trials) > 1 else None
    kept = _evenly(len(xs), {place for place in (takeover, fixation) if place is not None})
    return Diversity(
        experiment=experiment.name,
        x_label="time (s)" if x == "time" else "training iteration of the furthest member",
        x_axis=x,
        x=tuple(xs[place] for place in kept),
        founders=tuple(member_of(experiment, trial) for trial in trials),
        shares=families.shares(kept),
        effective=tuple(numbers[place][0] for place in kept),
        donors=tuple(numbers[place][1] for place in kept),
        spread={
            name: tuple(numbers[place][2][column] for place in kept) for column, name in enumerate(spread)
        },
        takeover=None if takeover is None else kept.index(takeover),
        fixation=None if fixation is None else kept.index(fixation),
    )  # fmt: skip


def _evenly(size: int, always: set[int]) -> list[int]:
    """Return the places of the entries to keep, the first and the last among them."""
    if size <= _ENTRIES:
        return list(range(size))
    return sorted({round(step * (size - 1) / (_ENTRIES - 1)) for step in range(_ENTRIES)} | always)


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
        ConfigError: the experiment has no metric, or ``x`` is another.
    """
    check_x(x, "gains")
    metric, mode = metric_of(experiment, None)
    history, timeline = experiment.history, experiment.timeline
    sign = 1.0 if mode == "max" else -1.0
    members = {trial.trial_id: member_of(experiment, trial) for trial in history.in_order()}
    rows = {
        (trial.index, generation): found
        for trial in history.in_order()
        for generation, found in by_generation(trial)
    }  # fmt: skip
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
        x_label=x_label(x),
        x_axis=x,
        interval=middle(intervals) if intervals else None,
        ended=has_ended(history),
        time_attr=experiment.info.time_attr,
        gains=tuple(found),
    )


def gains_to_draw(experiment: Experiment, x: str = "training_iteration") -> Gains:
    """Return the gains, as :func:`gains` does.

    Raises:
        ConfigError: the experiment has no metric, or ``x`` is another.
        ResultError: there is none to draw.
    """
    if not experiment.history.exploits:
        raise ResultError(f"Nobody has copied another in {experiment.name} yet, so there are no gains to draw.")
    found = gains(experiment, x)
    if all(gain.before is None and gain.copied is None for gain in found.gains):
        raise ResultError(f"No copy in {experiment.name} has a score before it to compare with, so far.")
    return found


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
    mine = rows.get((index, exploit.generation), ())
    source = mine[0].before if mine else None
    if until is None or source is None or not _is_of(source, exploit.checkpoint):
        # Nobody comes there any more who began anew since, or went on from other weights than those that it copied.
        return None, None
    own = _first_at(mine, until, experiment)
    theirs = rows.get(parent, ())
    after = next((place + 1 for place, row in enumerate(theirs) if row is source), len(theirs))
    donors = None if own is None else _first_at(theirs[after:], until, experiment)
    return (
        None if own is None else finite(own.value(metric)),
        None if donors is None else finite(donors.value(metric)),
    )


def _is_of(row: Row, checkpoint: CheckpointRecord) -> bool:
    return (row.report.trial_id, row.report.iteration) == (checkpoint.trial_id, checkpoint.iteration)


def _first_at(rows: Sequence[Row], until: float, experiment: Experiment) -> Row | None:
    """Return the first result at or behind a boundary."""
    key = experiment.info.time_attr
    return next((row for row in rows if (at := finite(row.value(key))) is not None and at >= until), None)


def _scaled(config: Config, name: str, experiment: Experiment) -> float | None:
    """Return a hyperparameter on its own scale, which may be logarithmic; None where it is no number."""
    value = next(config_values([config], name), None)
    if value is None or name not in experiment.info.log_parameters:
        return value
    return math.log(value) if value > 0 else None


def _furthest(experiment: Experiment) -> float:
    return float(max((trial.iteration for trial in experiment.history.trials.values()), default=0))
