"""What the page of one member shows: plain data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..core.commands import Exploit, Reconfigure, Status, checkpoint_name
from ..core.reports import flatten, lookup
from ..display.reprs import size_text
from ..display.table import error_of
from ..display.text import format_duration, format_value
from ..history import Row, TrialHistory
from ..lineage import lineage_of
from ..reading import Experiment
from .files import Tail, names_in, stamp_of, tail_of
from .live import Looked
from .views import NOTHING, Change, Fact, Mark, change_of, config_items, moment, score_text, seconds, status_mark

__all__ = ["MemberView", "find_member", "member_stamp", "member_view", "result_columns"]

RESULTS_SHOWN = 50
SEGMENTS_SHOWN = 100
_MOST_METRICS = 12
_FILES = _ERRORS, _OUTPUT = "error.txt", "output.log"


@dataclass(frozen=True, slots=True)
class ConfigLine:
    """A value of the config, now and at the beginning."""

    name: str
    now: str
    began: str
    changed: bool


@dataclass(frozen=True, slots=True)
class ChangeLine:
    """An exploit, or a step of a replay, as the member had it."""

    at: str
    iteration: int
    donor: int | None
    """Whom it copied; None where it went on with its own weights."""
    scores: str
    changes: tuple[Change, ...]
    why: str


@dataclass(frozen=True, slots=True)
class SegmentLine:
    """A stretch of steps of its weights."""

    member: int
    first: int
    last: int
    checkpoint: str
    copied: bool
    config: str


@dataclass(frozen=True, slots=True)
class CheckpointLine:
    """A checkpoint that is kept."""

    name: str
    iteration: int
    score: str
    size: str
    digest: str
    note: str


@dataclass(frozen=True, slots=True)
class MemberView:
    """What the page shows, but the curve."""

    index: int
    trial_id: str
    name: str
    folder: str
    """Its name in the experiment's folder."""
    mark: Mark
    best: bool
    control: bool
    before: int | None
    """The member with the number before, to leaf through them."""
    after: int | None
    facts: tuple[Fact, ...]
    config: tuple[ConfigLine, ...]
    changes: tuple[ChangeLine, ...]
    segments: tuple[SegmentLine, ...]
    more_segments: int
    metrics: tuple[str, ...]
    results: tuple[tuple[str, ...], ...]
    """Newest first: iteration, the metrics, seconds, when."""
    checkpoints: tuple[CheckpointLine, ...]
    error: str
    traceback: str
    error_file: Tail | None
    log: Tail | None


def find_member(experiment: Experiment, name: str) -> TrialHistory | None:
    """Return a trial by its number or its id; None where there is no such trial."""
    if name in experiment.history.trials:
        return experiment.history.trials[name]
    return next((trial for trial in experiment.history.trials.values() if str(trial.index) == name), None)


def member_stamp(experiment: Experiment, trial: TrialHistory) -> tuple[object, ...]:
    """Return what changes with what :func:`member_view` reads outside of the journal."""
    return stamp_of(experiment.folder, trial.folder, *_FILES)


def member_view(experiment: Experiment, trial: TrialHistory, looked: Looked) -> MemberView:
    """Return what to show of a member; reads the end of its log and the names of its checkpoints."""
    order = [each.index for each in experiment.history.in_order()]
    place = order.index(trial.index)
    metrics = _metrics(experiment, trial)
    segments = [] if trial.last is None else list(_segments(experiment, trial, trial.last))
    return MemberView(
        index=trial.index,
        trial_id=trial.trial_id,
        name=trial.name,
        folder=trial.folder,
        mark=status_mark(trial.status, looked.state),
        best=experiment.best is trial,
        control=trial.index in experiment.info.control,
        before=order[place - 1] if place else None,
        after=order[place + 1] if place + 1 < len(order) else None,
        facts=tuple(_facts(experiment, trial)),
        config=tuple(_config(trial)),
        changes=tuple(_changes(experiment, trial)),
        segments=tuple(segments[-SEGMENTS_SHOWN:]),
        more_segments=max(0, len(segments) - SEGMENTS_SHOWN),
        metrics=metrics,
        results=tuple(_result(row, metrics) for row in reversed(trial.rows[-RESULTS_SHOWN:])),
        checkpoints=tuple(_checkpoints(experiment, trial)),
        error=error_of(trial) if trial.status is Status.ERROR or trial.error else "",
        traceback=trial.traceback,
        error_file=tail_of(experiment.folder, trial.folder, _ERRORS),
        log=tail_of(experiment.folder, trial.folder, _OUTPUT),
    )


def _facts(experiment: Experiment, trial: TrialHistory) -> Iterator[Fact]:
    info = experiment.info
    yield Fact("iteration", str(trial.iteration), f"{trial.counted:,} results of its own")
    if info.metric is not None:
        value = trial.value(info.metric)
        yield Fact(info.metric, NOTHING if value is None else format_value(value), f"newest, {info.mode}")
    yield Fact("exploits", str(len(trial.exploits)), "copies it has made")
    copied = sum(exploit.donor_id == trial.trial_id for exploit in experiment.history.exploits)
    yield Fact("copied", str(copied), "times by others")
    spent = experiment.timeline.members.get(trial.trial_id)
    if spent is not None:
        rest = f"saving {seconds(spent.saving)}, loading {seconds(spent.loading)}"
        yield Fact("training", seconds(spent.training), rest)
    if trial.pid:
        yield Fact("process", str(trial.pid), f"on {trial.hostname}" if trial.hostname else "")


def _config(trial: TrialHistory) -> Iterator[ConfigLine]:
    now, began = dict(config_items(trial.config)), dict(config_items(trial.initial_config))
    for name in [*now, *(name for name in began if name not in now)]:
        one, other = now.get(name, NOTHING), began.get(name, NOTHING)
        yield ConfigLine(name, one, other, one != other)


def _changes(experiment: Experiment, trial: TrialHistory) -> Iterator[ChangeLine]:
    """Yield what changed its config, the newest first."""
    trials = experiment.history.trials
    made: list[Exploit | Reconfigure] = [*trial.exploits, *trial.changes]
    for change in reversed(made):
        if isinstance(change, Exploit):
            copied = experiment.timeline.copied.get((trial.trial_id, change.generation))
            yield ChangeLine(
                at="" if copied is None else format_duration(copied.at),
                iteration=change.iteration,
                donor=trials[change.donor_id].index,
                scores=f"{score_text(change.score)} → {score_text(change.checkpoint.score)}",
                changes=change_of(change),
                why="" if change.failed is None else "it had failed",
            )
        else:
            yield ChangeLine("", change.iteration, None, "", change_of(change), "")


def _segments(experiment: Experiment, trial: TrialHistory, row: Row) -> Iterator[SegmentLine]:
    names = experiment.info.parameters
    for segment in lineage_of(trial, row, experiment.history):
        leaves = dict(flatten(segment.config))
        shown = names or list(leaves)
        values = [(name, lookup(segment.config, name)) for name in shown]
        yield SegmentLine(
            segment.trial,
            segment.first_step,
            segment.last_step,
            "" if segment.checkpoint is None else segment.checkpoint,
            segment.donor_id is not None,
            ", ".join(f"{name}={format_value(value)}" for name, value in values if value is not None),
        )


def _metrics(experiment: Experiment, trial: TrialHistory) -> tuple[str, ...]:
    """Return the keys of its newest results; the one that the scheduler compares is the first."""
    found: dict[str, None] = {}
    if experiment.info.metric is not None:
        found[experiment.info.metric] = None
    for row in trial.rows[-1:]:
        found.update(dict.fromkeys(name for name, _ in flatten(row.report.metrics)))
    return tuple(found)[:_MOST_METRICS]


def _result(row: Row, metrics: tuple[str, ...]) -> tuple[str, ...]:
    report = row.report
    values = ["" if (value := row.value(name)) is None else format_value(value) for name in metrics]
    return (str(report.iteration), *values, f"{report.time_this_iter_s:.2f}", moment(report.timestamp))


def _checkpoints(experiment: Experiment, trial: TrialHistory) -> Iterator[CheckpointLine]:
    there = names_in(experiment.folder, trial.folder)
    metric = experiment.info.metric
    for number, entry in sorted(trial.checkpoints.items(), reverse=True):
        name = checkpoint_name(number)
        value = None if metric is None else entry.row.value(metric)
        note = _note(trial, number, name in there)
        yield CheckpointLine(
            name,
            entry.row.report.iteration,
            "" if value is None else format_value(value),
            size_text(entry.saved.size),
            entry.saved.digest,
            note,
        )


def _note(trial: TrialHistory, number: int, there: bool) -> str:
    """Return what is to be said of a checkpoint's files, in a word or two."""
    if number in trial.freed:
        return "freed"
    if number in trial.damaged:
        return "damaged"
    return "" if there else "not on this disk"


def result_columns(view: MemberView) -> list[str]:
    """Return the titles of the table of results."""
    return ["iteration", *view.metrics, "seconds", "when"]
