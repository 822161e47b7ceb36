"""Who copied whom, when: the population's lineage as branches. Plain data, as in :mod:`shoal.plots.info`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from ..core.commands import Exploit
from ..core.events import Config
from ..history import History, Row, TrialHistory
from ..reading import Experiment
from .info import (
    Member,
    Reader,
    by_generation,
    check_reported,
    finite,
    member_of,
    order_of,
    reader_of,
    winner_of,
    x_label,
)

__all__ = ["Branch", "BranchId", "LineageTree", "Step", "lineage_tree", "parents"]

BranchId = tuple[int, int]
"""A member's number, and its generation: how many exploits it had done."""


@dataclass(frozen=True, slots=True)
class Branch:
    """What one member trained between two of its exploits."""

    member: Member
    generation: int
    parent: BranchId | None
    """The branch that it goes on from: the donor's; None where it began from scratch, also again after its exploit; an
    older one of its own, where the donor's checkpoint was damaged."""
    x: tuple[float, ...]
    """Where it begins, then where its results are."""
    scores: tuple[float | None, ...]
    """The metric in each result; first that of the donor's checkpoint, or None."""
    parent_x: float | None
    """Where on the donor's branch the copied checkpoint is."""
    config: Config
    """What it began with."""
    present: bool
    """Whether these are the member's present weights."""
    failed: bool = False
    """Whether it was copied because the member had failed."""

    @property
    def id(self) -> BranchId:
        """The member's number and the generation."""
        return self.member.index, self.generation

    @property
    def copied(self) -> BranchId | None:
        """The parent, where it is another member's."""
        return None if self.parent is None or self.parent[0] == self.member.index else self.parent


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the path on which the best weights came: a branch from here to there."""

    branch: BranchId
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class LineageTree:
    """The lineage of a population."""

    experiment: str
    metric: str | None
    mode: str | None
    """``max`` or ``min``; None where nobody has said which of the two is better."""
    x_label: str
    x_axis: str
    """``training_iteration``, ``time``, or a key of the results."""
    members: tuple[Member, ...]
    """By their numbers."""
    branches: tuple[Branch, ...]
    """In the order in which they began; a parent before its children."""
    path: tuple[Step, ...]
    """Through which branches the best member's weights came, oldest first; empty without a best member."""
    best: int | None
    """The best member's number."""


def lineage_tree(
    experiment: Experiment, metric: str | None = None, x: str = "training_iteration", mode: str | None = None
) -> LineageTree:
    """Return who copied whom, when, and with what score.

    Args:
        experiment: which.
        metric: what tells how good a branch was. Default: what the scheduler compares; without one, nothing does.
        x: ``training_iteration``, where a copy begins at the step of the checkpoint; ``time``, where it begins when it
            was decided; or another key of the results.
        mode: ``max`` or ``min``, what is better. Default: the experiment's, for its own metric; of another, nobody is
            said to be best.

    Raises:
        ConfigError: the mode is none.
        ResultError: nobody has reported the metric, or the ``x``.
    """
    known = metric is not None or mode is not None or experiment.info.metric is not None
    key, mode = order_of(experiment, metric, mode) if known else (None, None)
    read = reader_of(experiment, x)
    for named in (metric, x):
        if named is not None:
            check_reported(experiment, named)
    trials = experiment.history.in_order()
    members = {trial.trial_id: member_of(experiment, trial) for trial in trials}
    rows = {(trial.trial_id, generation): found for trial in trials for generation, found in by_generation(trial)}
    branches = [
        *(_root(trial, members[trial.trial_id], rows, read, key) for trial in trials if trial.launches),
        *(
            _copy(experiment, exploit, parent, members, rows, read, key, x)
            for exploit, parent in parents(experiment.history)
        ),
    ]
    best = None if key is None else winner_of(experiment, key, mode)
    return LineageTree(
        experiment=experiment.name,
        metric=key,
        mode=mode,
        x_label=x_label(x),
        x_axis=x,
        members=tuple(members.values()),
        branches=tuple(branches),
        path=() if best is None else tuple(_path(best, members, branches, read)),
        best=None if best is None else best.index,
    )


def parents(history: History) -> list[tuple[Exploit, BranchId]]:
    """Return all exploits, each with the branch that was copied, in the order in which they were decided.

    A donor's checkpoint is of the generation that it is in when it is copied: after an exploit of its own a member is
    no donor before it has saved the next one.
    """
    generations = dict.fromkeys(history.trials, 0)
    found: list[tuple[Exploit, BranchId]] = []
    for exploit in history.exploits:
        donor = history.trials[exploit.donor_id]
        found.append((exploit, (donor.index, generations[exploit.donor_id])))
        generations[exploit.trial_id] = exploit.generation
    return found


_Rows = Mapping[tuple[str, int], list[Row]]


def _root(trial: TrialHistory, member: Member, rows: _Rows, read: Reader, metric: str | None) -> Branch:
    xs, scores = _points(rows.get((trial.trial_id, 0), []), read, metric)
    return Branch(
        member=member,
        generation=0,
        parent=None,
        x=(0.0, *xs),
        scores=(None, *scores),
        parent_x=None,
        config=trial.initial_config,
        present=not trial.exploits,
    )


def _copy(
    experiment: Experiment,
    exploit: Exploit,
    parent: BranchId,
    members: Mapping[str, Member],
    rows: _Rows,
    read: Reader,
    metric: str | None,
    x: str,
) -> Branch:
    trial = experiment.history.trials[exploit.trial_id]
    own = rows.get((exploit.trial_id, exploit.generation), [])
    present = exploit.generation == len(trial.exploits)
    xs, scores = _points(own, read, metric)
    begin, parent_x, score = 0.0, None, None
    whence: BranchId | None = None
    if own or not (present and trial.ancestry is None):  # else it begins anew, and has no result yet
        source = own[0].before if own else _copied_row(exploit, rows.get((exploit.donor_id, parent[1]), []))
        if source is not None:
            whence, score = (members[source.report.trial_id].index, source.generation), _score(source, metric)
        elif not own:  # the donor has gone back since, and counts that result no longer
            whence = parent
            score = finite(exploit.checkpoint.score) if metric == experiment.info.metric else None
        begin, parent_x = _beginning(experiment, exploit, whence, source, own, read, x)
    return Branch(
        member=members[exploit.trial_id],
        generation=exploit.generation,
        parent=whence,
        x=(begin, *xs),
        scores=(score, *scores),
        parent_x=parent_x,
        config=own[0].config if own else exploit.new_config,
        present=present,
        failed=exploit.failed is not None,
    )


def _copied_row(exploit: Exploit, of_donor: list[Row]) -> Row | None:
    return next((row for row in of_donor if row.report.iteration == exploit.checkpoint.iteration), None)


def _beginning(
    experiment: Experiment,
    exploit: Exploit,
    whence: BranchId | None,
    source: Row | None,
    own: list[Row],
    read: Reader,
    x: str,
) -> tuple[float, float | None]:
    """Return where the branch of an exploit begins, and where on its parent that is; None without a parent."""
    if whence is None:  # from scratch, long after the exploit
        first = own[0].report
        return (max(0.0, read(own[0]) - first.time_this_iter_s) if x == "time" else 0.0), None
    copied = experiment.timeline.copied.get((exploit.trial_id, exploit.generation))
    when = 0.0 if copied is None else copied.at
    otherwise = when if x == "time" else float(exploit.checkpoint.iteration)
    parent_x = otherwise if source is None or math.isnan(read(source)) else read(source)
    return (when if x == "time" else parent_x), parent_x


def _points(rows: list[Row], read: Reader, metric: str | None) -> tuple[list[float], list[float | None]]:
    """Return where results are, and their scores; without those that are nowhere on the x axis."""
    placed = [(x, row) for row in rows if not math.isnan(x := read(row))]
    return [x for x, _ in placed], [_score(row, metric) for _, row in placed]


def _score(row: Row, metric: str | None) -> float | None:
    return None if metric is None else finite(row.value(metric))


def _path(best: TrialHistory, members: Mapping[str, Member], branches: list[Branch], read: Reader) -> list[Step]:
    """Return through which branches a trial's weights came."""
    begins = {branch.id: branch.x[0] for branch in branches}
    found: list[Step] = []
    steps = [] if best.last is None else best.last.steps()
    for (owner, generation), rows in groupby(steps, lambda row: (row.report.trial_id, row.generation)):
        branch = (members[owner].index, generation)
        ends = [x for row in rows if not math.isnan(x := read(row))]
        if ends:
            found.append(Step(branch, begins.get(branch, ends[0]), ends[-1]))
    return found
