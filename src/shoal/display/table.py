"""What the status shows, as plain data: made from the history, drawn by :mod:`.terminal` and :mod:`.plain`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.commands import Exploit, Reconfigure, Status
from ..core.events import Config
from ..core.reports import flatten, lookup, number
from ..experiment import ExperimentInfo
from ..history import History, Row, TrialHistory
from ..naming import short_name
from .text import Column, format_config, format_duration, format_value, one_line

__all__ = [
    "Overview",
    "Pace",
    "Progress",
    "begin_line",
    "change_line",
    "choose",
    "count_text",
    "end_line",
    "error_of",
    "error_path",
    "exploit_line",
    "failure_line",
    "overview",
    "result_line",
    "slots_now",
    "span_text",
    "status_counts",
    "stopped_because",
    "trial_columns",
    "work_done",
]

_ORDER = (Status.RUNNING, Status.PAUSED, Status.PENDING, Status.TERMINATED, Status.ERROR)
_FAILURES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Overview:
    """What the status shows at one moment."""

    title: str
    facts: list[tuple[str, str]]
    """Names and values: running for, slots, checkpoints, perturbations, ..."""
    columns: list[Column]
    """The table of trials, ready for :func:`shoal.display.text.lay_out`."""
    statuses: list[Status]
    """The status of each row of the table."""
    best_row: int | None
    """The table's row of the best trial."""
    rest: str
    """What the table leaves out; empty where it has all trials."""
    best: str
    """The best trial so far, and its hyperparameters at that time; empty before there is one."""
    config: str
    """The whole config of the best trial at that time, where ``best`` does not have all of it."""
    failures: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    """For trials that failed: the name, when and why it failed in one line, and the path of its ``error.txt``."""
    more_failures: int = 0
    """How many failed trials ``failures`` leaves out."""


def overview(
    info: ExperimentInfo,
    history: History,
    *,
    folder: Path | str,
    running_for: float,
    memory: str = "",
    rows: int = 20,
) -> Overview:
    """Return what to show.

    Args:
        info: the experiment.
        history: its trials so far.
        folder: the experiment's folder, or its URL.
        running_for: seconds.
        memory: use of the machine's memory, or an empty text.
        rows: how many trials the table may have. Of more, it has the best ones and those that run.
    """
    trials = history.in_order()
    best = None if info.metric is None else history.best(info.metric, info.mode)
    shown = choose(trials, info, rows)
    failed = [trial for trial in trials if trial.status is Status.ERROR]
    in_use = sum(trial.slot is not None for trial in trials)
    facts = [
        ("running for", format_duration(running_for)),
        ("slots", f"{in_use}/{slots_now(history, info)}"),
        ("memory", memory),
        ("checkpoints", str(history.checkpoints)),
        ("replay:", _replayed(history)) if info.replay else ("perturbations", str(history.perturbations)),
    ]
    return Overview(
        title=f"{info.name}: {count_text(info.num_trials, 'trial')}, {info.scheduler}",
        facts=[(name, value) for name, value in facts if value],
        columns=trial_columns(shown, info),
        statuses=[trial.status for trial in shown],
        best_row=next((place for place, trial in enumerate(shown) if trial is best), None),
        rest=_rest(trials, shown),
        best="" if best is None else _best_line(best, info),
        config="" if best is None or best.last is None else _whole_config(best.last, info),
        failures=[(trial.name, failure_line(trial), error_path(trial, folder)) for trial in failed[:_FAILURES_SHOWN]],
        more_failures=max(0, len(failed) - _FAILURES_SHOWN),
    )


def error_path(trial: TrialHistory, folder: Path | str) -> str:
    """Return the path of the file with the trial's traceback."""
    return f"{folder}/{trial.folder}/error.txt"


def trial_columns(trials: Sequence[TrialHistory], info: ExperimentInfo) -> list[Column]:
    """Return the table of some trials: one column each for name, status, progress, metric and hyperparameters."""
    values = [_parameter_cells(trials, name) for name in info.parameters]
    titles = _short_titles(info.parameters)
    lasts = [None if trial.last is None else trial.last.report for trial in trials]
    columns = [
        Column("trial", [trial.name for trial in trials], short=[trial.trial_id for trial in trials]),
        Column("status", [trial.status.value for trial in trials]),
        Column("iter", [str(trial.iteration) if trial.last else "" for trial in trials], right=True),
        Column(
            "total time (s)",
            ["" if last is None else f"{last.time_total_s:.1f}" for last in lasts],
            right=True,
            expendable=len(titles) + 1,
        ),
    ]
    if info.metric is not None:
        cells = ["" if trial.last is None else format_value(trial.value(info.metric)) for trial in trials]
        columns.append(Column(info.metric, cells, right=True))
    columns += [
        Column(title, cells, right=True, expendable=place + 1)
        for place, (title, cells) in enumerate(zip(titles, values, strict=True))
    ]
    return columns


def _parameter_cells(trials: Sequence[TrialHistory], name: str) -> list[str]:
    """Return a hyperparameter of each trial: as it is now, but that of the last result once the trial has ended."""
    return [format_value(lookup(_config(trial), name)) for trial in trials]


def _config(trial: TrialHistory) -> Config:
    if not trial.status.ended:
        return trial.config
    return trial.initial_config if trial.last is None else trial.last.config


def _short_titles(names: Sequence[str]) -> list[str]:
    """Return the last parts of nested names, where they tell the names apart."""
    tails = [short_name(name) for name in names]
    count = Counter(tails)
    return [tail if count[tail] == 1 else name for name, tail in zip(names, tails, strict=True)]


def choose(trials: list[TrialHistory], info: ExperimentInfo, rows: int) -> list[TrialHistory]:
    """Return the trials for the table, by their number: where there are many, the best ones and those that run."""
    if len(trials) <= rows:
        return trials
    ranked = _ranked(trials, info)
    running = [trial for trial in trials if trial.status is Status.RUNNING]
    order = [*ranked[: max(1, rows // 3)], *running, *ranked]
    chosen = list({trial.index: trial for trial in order}.values())[:rows]
    return sorted(chosen, key=lambda trial: trial.index)


def _ranked(trials: list[TrialHistory], info: ExperimentInfo) -> list[TrialHistory]:
    sign = -1.0 if info.mode == "max" else 1.0

    def rank(trial: TrialHistory) -> tuple[float, int]:
        value = None if info.metric is None else number(trial.value(info.metric))
        return (float("inf") if value is None or value != value else sign * value, trial.index)

    return sorted(trials, key=rank)


def _rest(trials: list[TrialHistory], shown: list[TrialHistory]) -> str:
    """Return ``280 more: 150 PAUSED, 130 TERMINATED``."""
    count = Counter(trial.status for trial in trials)
    count.subtract(trial.status for trial in shown)
    kinds = ", ".join(f"{count[status]} {status.value}" for status in _ORDER if count[status])
    return f"{len(trials) - len(shown)} more: {kinds}" if kinds else ""


def status_counts(history: History) -> str:
    """Return ``2 RUNNING, 1 PAUSED``; trials that ended before they ran are counted apart."""
    unstarted = sum(trial.status is Status.TERMINATED and not trial.launches for trial in history.trials.values())
    count = Counter(trial.status for trial in history.trials.values())
    count[Status.TERMINATED] -= unstarted
    parts = [f"{count[status]} {status.value}" for status in _ORDER if count[status]]
    return ", ".join([*parts, f"{unstarted} never started"] if unstarted else parts)


def stopped_because(history: History) -> str:
    """Return why the whole experiment was stopped before its trials had ended; empty where it was not."""
    if history.stopped is not None:
        return history.stopped
    for trial in history.trials.values():
        # The core ends the others by itself then, and nobody asked for it.
        if trial.status is Status.TERMINATED and trial.reason.startswith("fail_fast"):
            words = trial.reason.split()
            return " ".join(history.trials[word].name if word in history.trials else word for word in words)
    return ""


def end_line(history: History, info: ExperimentInfo) -> str:
    """Return what the run came to, for the summary."""
    return f"{status_counts(history)}; {count_text(history.results, 'result')}, {work_done(history, info)}"


def work_done(history: History, info: ExperimentInfo) -> str:
    """Return ``8 checkpoints, 3 perturbations``; of a replay ``8 checkpoints, replay: Step 39, perturb 2``."""
    perturbed = f"replay: {_replayed(history)}" if info.replay else count_text(history.perturbations, "perturbation")
    return f"{count_text(history.checkpoints, 'checkpoint')}, {perturbed}"


def _replayed(history: History) -> str:
    """Return the step of the last change of config, and how many there have been."""
    changes = [change for trial in history.trials.values() for change in trial.changes]
    return f"Step {changes[-1].iteration if changes else 0}, perturb {len(changes)}"


def change_line(change: Reconfigure) -> str:
    """Return what a replay changes, in the words that people know."""
    return (
        f"Population Based Training replay is now at step {change.iteration}. Configuration will be changed to "
        f"{change.new_config}."
    )


def _best_line(trial: TrialHistory, info: ExperimentInfo) -> str:
    assert trial.last is not None
    # With its config when it got there: the trial may have copied another since.
    config = format_config(trial.last.config, info.parameters or None)
    return f"{_scored(trial, trial.last, info)}{': ' if config else ''}{config}"


def _whole_config(row: Row, info: ExperimentInfo) -> str:
    whole = format_config(row.config)
    return "" if whole == format_config(row.config, info.parameters or None) else whole


def _scored(trial: TrialHistory, row: Row, info: ExperimentInfo) -> str:
    score = "" if info.metric is None else f", {info.metric} {format_value(row.value(info.metric))}"
    return f"{trial.name} at iteration {row.report.iteration}{score}"


# -------------------------------------------------------------------------------------------------------------- lines


def begin_line(info: ExperimentInfo, folder: Path | str, history: History) -> str:
    """Return what is said first."""
    goal = "" if info.metric is None else f", {info.metric} ({info.mode})"
    goal += f", {len(info.control)} kept out of exploits" if info.control else ""
    # Of a cluster's slots none is there yet.
    slots = f" on {count_text(info.slots, 'slot')}" if info.slots else ""
    again = f" goes on after {count_text(history.results, 'result')}" if history.results else ""
    return (
        f"{info.name}{again}: {count_text(info.num_trials, 'trial')}{slots}, {info.scheduler}{goal}. Results: {folder}"
    )


def exploit_line(exploit: Exploit, history: History, info: ExperimentInfo) -> str:
    """Return who copied whom, and what changed on the way from the donor's config to the new one."""
    target, donor = history.trials[exploit.trial_id], history.trials[exploit.donor_id]
    scores = [
        "" if info.metric is None or score is None else f", {info.metric} {format_value(score)}"
        for score in (exploit.score, exploit.checkpoint.score)
    ]
    old = _leaves(exploit.donor_config, info)
    changes = [
        f"{name} {format_value(old.get(name))} -> {format_value(value)}"
        for name, value in _leaves(exploit.new_config, info).items()
        if format_value(old.get(name)) != format_value(value)
    ]
    return (
        f"{target.name} (iteration {exploit.iteration}{scores[0]}) copies {donor.name} "
        f"(iteration {exploit.checkpoint.iteration}{scores[1]}): {', '.join(changes) or 'config unchanged'}"
    )


def _leaves(config: Config, info: ExperimentInfo) -> dict[str, Any]:
    """Return the values in a config; of a list that holds parameters, those instead of the list."""
    leaves = dict(flatten(config))
    for name in info.parameters:
        if name not in leaves and (value := lookup(config, name)) is not None:
            parts = name.split("/")
            for end in range(1, len(parts)):
                leaves.pop("/".join(parts[:end]), None)
            leaves[name] = value
    return leaves


def error_of(trial: TrialHistory) -> str:
    """Return why a trial failed, in one line."""
    return one_line(trial.error or trial.reason or "unknown error")


def failure_line(trial: TrialHistory, why: str | None = None) -> str:
    """Return which trial failed, when, and why; None: for the reason that its history has."""
    reason = error_of(trial) if why is None else one_line(why)
    return f"{trial.name} failed after iteration {trial.iteration}: {reason}"


def result_line(trial: TrialHistory, row: Row, info: ExperimentInfo) -> str:
    """Return a result: the metric, or else all that was reported."""
    values = "" if info.metric is not None else f": {format_config(row.report.metrics)}"
    saved = "" if row.report.checkpoint is None else ", checkpoint saved"
    return f"{_scored(trial, row, info)}{values}, {row.report.time_this_iter_s:.2f} s{saved}"


def count_text(count: int, noun: str) -> str:
    """Return ``1 trial`` or ``4 trials``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def slots_now(history: History, info: ExperimentInfo) -> int:
    """Return how many slots there are."""
    return info.slots if history.slots is None else history.slots


def span_text(fewest: int, most: int) -> str:
    """Return ``4``, or ``2 to 8`` where a number was not always the same."""
    return str(most) if fewest == most else f"{fewest} to {most}"


# ----------------------------------------------------------------------------------------------------------- progress


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come."""

    done: float
    """From 0 to 1."""
    to_go: float | None
    """Seconds, or None where nothing is known yet."""


class Pace:
    """Estimates the progress of a run and the time to go.

    It counts from its own start, so that a run that was restored is not taken for a fast one.
    """

    def __init__(self, info: ExperimentInfo) -> None:
        self._info = info
        self._bounds = [(key, bound) for key, bound in info.stop.items() if key in _MEASURABLE and bound > 0]
        self._start: tuple[float, float] | None = None

    def at(self, now: float, history: History) -> Progress | None:
        """Return the progress, or None where the run's end is not known.

        Args:
            now: seconds since the epoch.
            history: the trials so far.
        """
        done = self._done(history)
        budget = self._info.time_budget_s
        if done is None and not budget:
            return None
        to_go: list[float] = []
        if done is not None:
            self._start = self._start or (now, done)
            began, before = self._start
            if done > before and now > began:
                to_go.append((now - began) * (1.0 - done) / (done - before))
        if budget:
            spent = now - self._info.started_at
            to_go.append(max(0.0, budget - spent))
            done = max(done or 0.0, min(1.0, spent / budget))
        return Progress(done or 0.0, min(to_go) if to_go else None)

    def _done(self, history: History) -> float | None:
        """The mean over all trials of how much of each is done."""
        if not self._bounds or not self._info.num_trials:
            return None
        done = 0.0
        for trial in history.trials.values():
            if trial.status.ended:
                done += 1.0
            elif trial.last is not None:
                done += min(1.0, max((number(trial.value(key)) or 0.0) / bound for key, bound in self._bounds))
        return min(1.0, done / self._info.num_trials)


_MEASURABLE = ("training_iteration", "time_total_s")
"""Stop conditions that say how far a trial still has to go; nobody knows when a metric will be reached."""
