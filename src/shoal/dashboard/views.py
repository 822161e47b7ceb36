"""What pages say of an experiment and of its members, as texts: plain data, made from the read model."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.commands import Exploit, Reconfigure, Status
from ..core.events import Config
from ..core.reports import flatten, lookup, number
from ..display.table import Pace, count_text, error_of, slots_now, stopped_because
from ..display.text import format_duration, format_value, one_line
from ..experiment import ExperimentInfo
from ..history import TrialHistory
from ..naming import short_name
from ..reading import Experiment, State
from .live import Looked, Watched

__all__ = [
    "NOTHING",
    "Cell",
    "Change",
    "ExperimentView",
    "Fact",
    "MemberRow",
    "OverviewRow",
    "Statement",
    "columns_of",
    "experiment_view",
    "overview_row",
    "score_text",
    "sort_number",
    "state_mark",
    "statements_of",
    "status_mark",
    "whole_value",
]

EXPLOITS_SHOWN = 25
_LONGEST_VALUE = 400
NOTHING = "\N{EN DASH}"
"""What stands where there is no value."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A state as a sign, a word and a kind, which gives the colour: never the colour alone."""

    sign: str
    word: str
    kind: str


_STATES = {
    State.RUNNING: Mark("●", "running", "running"),
    State.ENDED: Mark("✓", "ended", "ended"),
    State.INTERRUPTED: Mark("‖", "interrupted", "paused"),
}
_STATUSES = {
    Status.RUNNING: Mark("●", "running", "running"),
    Status.PAUSED: Mark("‖", "waiting", "paused"),
    Status.PENDING: Mark("○", "pending", "pending"),
    Status.TERMINATED: Mark("✓", "ended", "ended"),
    Status.ERROR: Mark("✕", "failed", "error"),
}


def state_mark(looked: Looked) -> Mark:
    """Return how the state of an experiment is shown."""
    if looked.problem:
        return Mark("✕", "damaged", "error")
    if looked.reading is not None:
        return Mark("…", "being read", "pending")
    if looked.state is None:
        return Mark("○", "not read", "pending")
    return _STATES[looked.state]


_CUT_OFF = Mark("‖", "cut off", "paused")


def status_mark(status: Status, state: State | None) -> Mark:
    """Return how the status of a member is shown.

    Args:
        status: the newest in the journal.
        state: the experiment's: what no driver runs does not train, whatever was written last.
    """
    return _CUT_OFF if status is Status.RUNNING and state not in (State.RUNNING, None) else _STATUSES[status]


@dataclass(frozen=True, slots=True)
class Fact:
    """A key number."""

    label: str
    value: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A value in a table."""

    text: str
    sort: float | None = None
    """What it is sorted by; None: by its text, behind all numbers."""


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A member in the table."""

    index: int
    trial_id: str
    mark: Mark
    best: bool
    control: bool
    cells: tuple[Cell, ...]
    """Behind number and status: as :func:`columns_of` names them."""
    error: str


@dataclass(frozen=True, slots=True)
class Change:
    """A hyperparameter that changed."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ExploitRow:
    """Who copied whom."""

    at: str
    member: int
    donor: int
    iteration: int
    score: str
    donor_score: str
    changes: tuple[Change, ...]
    failed: bool


@dataclass(frozen=True, slots=True)
class Statement:
    """One line of the report card."""

    verdict: str
    sign: str
    text: str
    because: str


@dataclass(frozen=True, slots=True)
class ExperimentView:
    """What the page of an experiment shows, but the plots."""

    mark: Mark
    facts: tuple[Fact, ...]
    done: float | None
    """How far it has come, from 0 to 1; None where the end is not known."""
    progress: str
    best: MemberRow | None
    best_score: str
    best_config: tuple[tuple[str, str], ...]
    rows: tuple[MemberRow, ...]
    exploits: tuple[ExploitRow, ...]
    more_exploits: int
    notices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OverviewRow:
    """An experiment in the list."""

    key: str
    name: str
    mark: Mark
    done: float | None
    score: Cell
    metric: str
    members: Cell
    results: Cell
    exploits: Cell
    started: Cell
    took: Cell
    spark: tuple[float, ...]
    """The best weights' scores, from 0 to 1; empty without any."""
    problem: str
    unread: bool
    """Whether it has to be opened before there is more to say."""


def columns_of(info: ExperimentInfo) -> list[str]:
    """Return the titles of a member's cells."""
    tails = [short_name(name) for name in info.parameters]
    count = Counter(tails)
    titles = [tail if count[tail] == 1 else name for name, tail in zip(info.parameters, tails, strict=True)]
    return ["iteration", *([] if info.metric is None else [info.metric]), *titles, "exploits", "trained"]


def experiment_view(experiment: Experiment, looked: Looked) -> ExperimentView:
    """Return what to show of an experiment."""
    history, info = experiment.history, experiment.info
    best = experiment.best
    rows = tuple(_member_row(experiment, trial, best, looked.state) for trial in history.in_order())
    shown = list(reversed(history.exploits[-EXPLOITS_SHOWN:]))
    done, progress = _progress(experiment, looked)
    stopped = stopped_because(history)
    return ExperimentView(
        mark=state_mark(looked),
        facts=tuple(_facts(experiment, best, looked.state)),
        done=done,
        progress=progress,
        best=None if best is None else next(row for row in rows if row.index == best.index),
        best_score="" if best is None or info.metric is None else format_value(best.value(info.metric)),
        best_config=() if best is None or best.last is None else tuple(config_items(best.last.config)),
        rows=rows,
        exploits=tuple(_exploit_row(experiment, exploit) for exploit in shown),
        more_exploits=len(history.exploits) - len(shown),
        notices=(*([f"Stopped: {stopped}"] if stopped else []), *map(one_line, history.notices[-3:])),
    )


def statements_of(experiment: Experiment) -> tuple[Statement, ...]:
    """Return the report card; empty where there is nothing to say yet."""
    from ..card import report_card

    card = report_card(experiment)
    return tuple(
        Statement(each.verdict.value, _SIGNS[each.verdict.value], each.text, each.because) for each in card.statements
    )


_SIGNS = {"good": "✓", "warn": "!", "bad": "✕", "info": "i"}


def overview_row(watched: Watched, looked: Looked, experiment: Experiment | None) -> OverviewRow:
    """Return an experiment for the list, with what is known of it so far."""
    info = looked.info
    unknown = Cell("")
    score, results, exploits, took = unknown, unknown, unknown, unknown
    done: float | None = None
    spark: tuple[float, ...] = ()
    if experiment is not None:
        history = experiment.history
        best = experiment.best
        if best is not None and experiment.info.metric is not None:
            value = best.value(experiment.info.metric)
            score = Cell(format_value(value), sort_number(value))
            spark = _spark(best, experiment.info)
        results = Cell(f"{history.results:,}", history.results)
        exploits = Cell(f"{history.perturbations:,}", history.perturbations)
        duration = experiment.timeline.duration
        took = Cell(format_duration(duration), duration)
        done = 1.0 if looked.state is State.ENDED else _progress(experiment, looked)[0]
    return OverviewRow(
        key=watched.key,
        name=watched.name,
        mark=state_mark(looked),
        done=done,
        score=score,
        metric="" if info is None else info.metric or "",
        members=unknown if info is None else Cell(str(info.num_trials), info.num_trials),
        results=results,
        exploits=exploits,
        started=unknown if info is None else Cell(moment(info.started_at), info.started_at),
        took=took,
        spark=spark,
        problem=_first_sentence(one_line(looked.problem)),
        unread=looked.unread,
    )


# --------------------------------------------------------------------------------------------------------------- parts


def _facts(experiment: Experiment, best: TrialHistory | None, state: State | None) -> Iterable[Fact]:
    history, info = experiment.history, experiment.info
    count = Counter(trial.status for trial in history.trials.values())
    yield Fact("members", str(info.num_trials), _counts(count, state))
    if info.metric is not None:
        value = NOTHING if best is None else format_value(best.value(info.metric))
        where = "no result yet" if best is None else f"{info.mode}, member {best.index} at iteration {best.iteration}"
        yield Fact(f"best {info.metric}", value, where)
    # Who copies somebody goes on at the iteration of what he copied, which may lie before his own.
    again = history.results > sum(trial.iteration for trial in history.trials.values())
    hint = f"{history.checkpoints:,} checkpoints saved"
    yield Fact("results", f"{history.results:,}", f"some steps were trained again, {hint}" if again else hint)
    if info.replay:
        changes = sum(len(trial.changes) for trial in history.trials.values())
        yield Fact("config changes", f"{changes:,}", "as the schedule says")
    else:
        involved = len({exploit.trial_id for exploit in history.exploits})
        yield Fact("exploits", f"{history.perturbations:,}", f"by {count_text(involved, 'member')}")
    duration = experiment.timeline.duration
    ended = all(trial.status.ended for trial in history.trials.values())
    runs = state in (State.RUNNING, None)
    yield Fact(
        "took" if ended else "running for" if runs else "ran for",
        format_duration(duration),
        f"since {moment(info.started_at)}",
    )
    in_use = sum(trial.slot is not None for trial in history.trials.values()) if runs else 0
    yield Fact("slots", f"{in_use}/{slots_now(history, info)}", "in use")


def _counts(count: Counter[Status], state: State | None) -> str:
    order = (Status.RUNNING, Status.PAUSED, Status.PENDING, Status.TERMINATED, Status.ERROR)
    return ", ".join(f"{count[status]} {status_mark(status, state).word}" for status in order if count[status])


def _progress(experiment: Experiment, looked: Looked) -> tuple[float | None, str]:
    history = experiment.history
    progress = Pace(experiment.info).at(history.updated_at or 0.0, history)
    if progress is None or (progress.done >= 1.0 and looked.state is State.ENDED):
        return None, ""
    done = progress.done
    text = f"{done:.0%}"
    duration = experiment.timeline.duration
    if looked.state is State.RUNNING and 0.02 < done < 1.0 and duration > 5.0:
        text += f", about {format_duration(duration * (1.0 - done) / done)} to go"
    return done, text


def _member_row(
    experiment: Experiment, trial: TrialHistory, best: TrialHistory | None, state: State | None
) -> MemberRow:
    info = experiment.info
    config = trial.config
    if trial.status.ended:
        config = trial.initial_config if trial.last is None else trial.last.config
    cells = [Cell(str(trial.iteration) if trial.last else "", trial.iteration)]
    if info.metric is not None:
        value = trial.value(info.metric)
        cells.append(Cell("" if value is None else format_value(value), sort_number(value)))
    for name in info.parameters:
        value = lookup(config, name)
        cells.append(Cell("" if value is None else format_value(value), sort_number(value)))
    count = len(trial.exploits) or len(trial.changes)
    cells.append(Cell(str(count), count))
    trained = 0.0 if trial.last is None else trial.last.report.time_total_s
    cells.append(Cell(seconds(trained), trained))
    failed = trial.status is Status.ERROR
    return MemberRow(
        trial.index,
        trial.trial_id,
        status_mark(trial.status, state),
        trial is best,
        trial.index in info.control,
        tuple(cells),
        error_of(trial)[:_LONGEST_VALUE] if failed else "",
    )


def _exploit_row(experiment: Experiment, exploit: Exploit) -> ExploitRow:
    trials = experiment.history.trials
    copied = experiment.timeline.copied.get((exploit.trial_id, exploit.generation))
    return ExploitRow(
        at="" if copied is None else format_duration(copied.at),
        member=trials[exploit.trial_id].index,
        donor=trials[exploit.donor_id].index,
        iteration=exploit.iteration,
        score=score_text(exploit.score),
        donor_score=score_text(exploit.checkpoint.score),
        changes=changes_of(exploit.donor_config, exploit.new_config),
        failed=exploit.failed is not None,
    )


def score_text(score: float | None) -> str:
    """Return a score that trials were compared by."""
    return NOTHING if score is None else format_value(score)


def changes_of(before: Config, after: Config) -> tuple[Change, ...]:
    """Return what differs between two configs."""
    old, new = dict(flatten(before)), dict(flatten(after))
    names = [*new, *(name for name in old if name not in new)]
    texts = [(name, short_text(old.get(name)), short_text(new.get(name))) for name in names]
    return tuple(Change(name, one, other) for name, one, other in texts if one != other)


def change_of(change: Exploit | Reconfigure) -> tuple[Change, ...]:
    """Return what an exploit or a replay's step changed in the config that the weights had been trained with."""
    return changes_of(change.donor_config if isinstance(change, Exploit) else change.old_config, change.new_config)


def config_items(config: Config) -> list[tuple[str, str]]:
    """Return a config's leaves as texts."""
    return [(name, whole_value(value)) for name, value in flatten(config)]


def short_text(value: Any) -> str:
    """Return a value in a few characters."""
    return NOTHING if value is None else format_value(value)


def whole_value(value: Any) -> str:
    """Return a value with all its digits."""
    try:
        text = str(value) if isinstance(value, str) else repr(value)
    except Exception:
        text = f"({type(value).__name__})"
    return one_line(text)[:_LONGEST_VALUE]


def sort_number(value: Any) -> float | None:
    """Return a value as a number to sort by; None where it is none, or NaN."""
    if isinstance(value, bool):
        return float(value)
    found = number(value)
    return None if found is None or found != found else found


def seconds(value: float) -> str:
    """Return seconds as ``12.3 s``, or from a minute on as ``0:01:02``."""
    return f"{value:.1f} s" if value < 60 else format_duration(value)


def moment(at: float | None) -> str:
    """Return seconds since the epoch as ``2026-05-01 12:30``, in the server's time."""
    return "" if not at else time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].removesuffix(".") + "." if text else ""


def _spark(best: TrialHistory, info: ExperimentInfo) -> tuple[float, ...]:
    """Return at most so many scores of the best weights, scaled to 0 to 1."""
    if best.last is None or info.metric is None:
        return ()
    values = [sort_number(row.value(info.metric)) for row in best.last.steps()]
    found = [value for value in values if value is not None and abs(value) != float("inf")]
    picked = _pick(found, 48)
    if len(picked) < 2:
        return ()
    low, high = min(picked), max(picked)
    return tuple(0.5 if high == low else (value - low) / (high - low) for value in picked)


def _pick(values: Sequence[float], most: int) -> Sequence[float]:
    if len(values) <= most:
        return values
    step = (len(values) - 1) / (most - 1)
    return [values[round(place * step)] for place in range(most)]
