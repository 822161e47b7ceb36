"""The report of an experiment: one HTML file that opens anywhere, without a network and without Shoal.

It says what was run, what came of it, who trained the winner with what, and shows every plot. A reader: it can be
written while the experiment runs, and of as much of it as a damaged journal still tells.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import __version__
from .card import report_card
from .core.commands import Exploit, Status
from .core.reports import flatten
from .display.html import Html, cut, element, joined, pairs, table
from .display.reprs import lineage_columns, schedule_columns, size_text
from .display.table import (
    count_text,
    error_of,
    error_path,
    span_text,
    status_counts,
    stopped_because,
    trial_columns,
)
from .display.text import Column, format_duration, format_value, one_line
from .errors import ConfigError, JournalError, ShoalError, StorageError
from .errors import one_line as error_line
from .history import TrialHistory
from .location import is_url
from .reading import Experiment, State
from .report_page import Figure, can_be_interactive, figures_of, page
from .resources import Request
from .results import Result, ResultGrid

__all__ = ["report_html", "write_report"]

_EXPLOITS = 100
_SEGMENTS = 200
"""Rows of the winner's lineage and schedule; the newest of more."""
_MEMBERS = 1000
_ERRORS = 20
_TRACEBACK = 6000
"""Characters of a traceback; the end of a longer one, where the error is."""
_NOTES = 50
_VERDICTS = {"good": ("✓", "Good"), "warn": ("!", "Could be better"), "bad": ("✕", "Bad"), "info": ("i", "Note")}


def write_report(
    source: str | os.PathLike[str] | ResultGrid | Experiment,
    path: str | os.PathLike[str],
    *,
    interactive: bool | None = None,
) -> Path:
    """Write the report of an experiment, and return where it is.

    Args:
        source: the experiment's folder or URL, its results, or an experiment that was opened.
        path: of the file, such as ``report.html``. Missing folders are made; a file that is there is replaced, whole.
        interactive: whether figures can be zoomed into and say more where one points; the file then has some 5 MB of
            Plotly's script in it. Default: where plotly is installed; else they are pictures by matplotlib.

    Raises:
        ConfigError: the source is none, or ``path`` is a folder.
        ImportError: what draws the figures is not installed.
        JournalError: the folder holds no experiment, or so little of its journal can be read that it says nothing.
        StorageError: the file cannot be written.
    """
    target = _target(path)
    interactive = can_be_interactive(interactive)
    experiment, damage = _opened(source)
    text = _html(experiment, interactive=interactive, damage=damage)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(target, text.encode("utf-8"))
    except OSError as error:
        raise StorageError(f"The report {target} cannot be written: {error}. Give another path.") from error
    return target


def report_html(experiment: Experiment, *, interactive: bool | None = None) -> str:
    """Return the report of an experiment as the text of one HTML file.

    Args:
        experiment: read as far as its report is to go.
        interactive: see :func:`write_report`.

    Raises:
        ImportError: what draws the figures is not installed.
    """
    return _html(experiment, interactive=can_be_interactive(interactive), damage="")


def _target(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ConfigError(f"write_report: path must be that of a file, such as 'report.html', but is {path!r}.")
    target = Path(os.path.abspath(Path(path).expanduser()))
    if target.is_dir():
        raise ConfigError(f"write_report: {target} is a folder. Give the path of a file, such as {target}/report.html.")
    return target


def _write_whole(target: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old one or the new, whole; also where two write it at once."""
    aside = target.with_name(f".{target.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with aside.open("xb") as file:
            file.write(data)
        os.replace(aside, target)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def _opened(source: str | os.PathLike[str] | ResultGrid | Experiment) -> tuple[Experiment, str]:
    """Return an experiment read as far as possible, and what is wrong with its journal."""
    if isinstance(source, Experiment):
        return source, ""
    if isinstance(source, ResultGrid):
        source = source.experiment_path
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source):
        raise ConfigError(
            f"write_report: source must be the folder of an experiment, a ResultGrid or an Experiment, but is "
            f"{source!r:.200}."
        )
    experiment = Experiment.begin(source)
    try:
        experiment.refresh()
    except JournalError as error:
        if not experiment.history.trials:
            raise
        return experiment, str(error)
    return experiment, ""


# ---------------------------------------------------------------------------------------------------------------- page


def _html(experiment: Experiment, *, interactive: bool, damage: str) -> str:
    figures = figures_of(experiment, interactive=interactive)
    sections = [
        _section("card", "Report card", _card(experiment)),
        _section("winner", "The winner", _winner(experiment)),
        _section("plots", "Plots", [_figure(figure) for figure in figures]),
        _section("members", "Members", _members(experiment)),
        _section("exploits", "Exploits", _exploits(experiment)),
        _section("errors", "Errors and notes", _errors(experiment)),
        _section("settings", "Settings", [_facts(_settings(experiment))]),
    ]
    there = [(name, title, made) for name, title, made in sections if made]
    links = [element("a", title, href=f"#{name}") for name, title, _ in there]
    body = element(
        "main",
        *_header(experiment, damage),
        element("nav", *links, aria_label="Contents"),
        *(made for _, _, made in there),
        element("footer", f"Written by Shoal {__version__} on {_date(time.time())}."),
    )
    return page(f"{one_line(experiment.name)}: report", [body], figures, interactive=interactive)


def _section(name: str, title: str, content: Sequence[Html]) -> tuple[str, str, Html | None]:
    made = element("section", element("h2", title), *content, id=name) if content else None
    return name, title, made


def _header(experiment: Experiment, damage: str) -> list[Html]:
    info, history = experiment.info, experiment.history
    state = _state(experiment)
    goal = "" if info.metric is None else f", {info.metric} ({info.mode})"
    stopped = stopped_because(history)
    counts = status_counts(history)
    if state != State.RUNNING.value:
        counts = counts.replace(Status.RUNNING.value, "cut off")
    facts = [
        ("Members", f"{len(history.trials)} ({counts})" if history.trials else "none yet"),
        ("Results", f"{history.results:,}"),
        ("Exploits", str(history.perturbations)),
        ("Checkpoints saved", str(history.checkpoints)),
        ("Time", format_duration(experiment.timeline.duration)),
        ("Begun", _date(info.started_at) if info.started_at else "not known"),
        ("Stopped because", stopped),
    ]
    sub = f"{info.trainable} with {info.scheduler}{goal}"
    return [
        element("h1", experiment.name),
        element("p", element("span", state, class_=f"state state-{state}"), sub, class_="sub"),
        *([element("p", f"Not all of it could be read. {damage}", class_="banner")] if damage else []),
        _facts((name, value) for name, value in facts if value),
    ]


def _state(experiment: Experiment) -> str:
    try:
        return experiment.state.value
    except (ShoalError, OSError):  # its folder is gone
        return State.INTERRUPTED.value


def _facts(facts: Iterable[tuple[str, object]]) -> Html:
    made: list[Html] = []
    for name, value in facts:
        wide = "wide" if len(str(value)) > _LONG_FACT else None
        made.append(element("div", element("dt", name), element("dd", value), class_=wide))
    return element("dl", *made, class_="facts")


_LONG_FACT = 90


def _settings(experiment: Experiment) -> list[tuple[str, object]]:
    info = experiment.info
    stop = ", ".join(f"{key} ≥ {format_value(value)}" for key, value in info.stop.items())
    budget = "" if info.time_budget_s is None else format_duration(info.time_budget_s)
    # Of a cluster a device is the name of a host.
    gpus = info.gpus > 0 and info.engine == "processes"
    takes = Request(info.cpus, info.gpus, info.memory, info.custom).describe()
    known: list[tuple[str, object]] = [
        ("Trainable", info.trainable),
        ("Scheduler", info.scheduler),
        ("Metric", "none" if info.metric is None else f"{info.metric} ({info.mode})"),
        ("Time attribute", info.time_attr),
        ("Hyperparameters", ", ".join(info.parameters)),
        ("On a log scale", ", ".join(info.log_parameters)),
        ("Stop", stop),
        ("Time budget", budget),
        ("Seed", str(info.seed)),
        ("Slots", f"{span_text(*experiment.timeline.slots_between)}, each with {takes}"),
        ("Devices", ", ".join(device for device in info.devices if device) if gpus else ""),
        ("Engine", info.engine),
        ("Kept out of exploits", ", ".join(map(str, info.control))),
        ("Versions", ", ".join(f"{name} {version}" for name, version in info.versions.items())),
        ("Run id", info.run_id),
        ("Folder", element("code", experiment.place)),
    ]
    return [(name, value) for name, value in known if value]


def _date(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds)).strip()
    except (OverflowError, ValueError, OSError):
        return "not known"


def _figure(figure: Figure) -> Html:
    note = [element("p", figure.note, class_="muted")] if figure.note else []
    caption = element("figcaption", figure.explanation)
    title = element("h3", figure.title, class_="hidden" if figure.titled else None)
    return element("figure", title, *note, figure.body, caption, id=f"plot-{figure.name}")


# ----------------------------------------------------------------------------------------------------- card and winner


def _card(experiment: Experiment) -> list[Html]:
    try:
        statements = report_card(experiment).statements
    except Exception as error:  # a journal that ends in the middle may leave it without an answer
        return [element("p", f"There is no report card: {error_line(error)}", class_="nothing")]
    made: list[Html] = []
    for statement in statements:
        verdict = getattr(statement.verdict, "value", statement.verdict)
        mark, words = _VERDICTS[verdict]
        text = element(
            "div",
            element("span", f"{words}: ", class_="hidden"),
            statement.text,
            element("div", f"From: {statement.because}", class_="because"),
        )
        made.append(element("li", element("span", mark, class_=f"mark {verdict}", aria_hidden="true"), text))
    return (
        [element("ul", *made, class_="card")] if made else [element("p", "There is no result yet.", class_="nothing")]
    )


def _winner(experiment: Experiment) -> list[Html]:
    info, best = experiment.info, experiment.best
    if best is None or best.last is None or info.metric is None:
        why = "no metric that compares members" if info.metric is None else "no result with a finite value of it"
        return [element("p", f"There is no winner: {why}.", class_="nothing")]
    result = Result(best, experiment.history, experiment.place, info.metric)
    score = element("b", f"{info.metric} {format_value(best.value(info.metric))}")
    who = f" by {best.name} at iteration {best.iteration}"
    lineage = result.lineage()
    changes = result.schedule().changes
    config = [(one_line(str(name)), format_value(value)) for name, value in flatten(result.config)]
    segments, same = lineage_columns(lineage[-_SEGMENTS:])
    schedule, always = schedule_columns(changes[-_SEGMENTS:])
    return [
        element("p", score, who, ".", class_="score"),
        pairs([*_checkpoint(result), ("folder", element("code", result.path))], class_="shoal-wrap"),
        element("h3", "Its config at the end"),
        pairs(config[:_NOTES]),
        element("h3", "Its schedule"),
        element("p", "With which hyperparameters its weights were trained, from which step on.", class_="muted"),
        _tall(table(schedule, caption=_caption(len(changes), always))),
        element("h3", "Its lineage"),
        element("p", "Which members trained its weights, and from which checkpoints they went on.", class_="muted"),
        _tall(table(segments, caption=_caption(len(lineage), same))),
    ]


def _caption(count: int, same: str) -> str:
    parts = [f"the newest {_SEGMENTS} of {count}"] if count > _SEGMENTS else []
    return "; ".join([*parts, f"always: {same}"] if same else parts)


def _checkpoint(result: Result) -> list[tuple[str, object]]:
    try:
        found = result.checkpoint
    except ConfigError:
        return [("checkpoint", "its folder is gone")]
    if found is None:
        return [("checkpoint", "none")]
    if is_url(found.path):
        return [("checkpoint", element("code", found.path))]
    size = 0
    for where, _, names in os.walk(found.path):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(where, name)).st_size
    return [("checkpoint", element("code", found.path, f" ({size_text(size)})"))]


# ------------------------------------------------------------------------------------------ members, exploits, errors


def _members(experiment: Experiment) -> list[Html]:
    trials = experiment.history.in_order()
    if not trials:
        return []
    shown = trials[:_MEMBERS]
    best = experiment.best
    copies = Column("exploits", [str(len(trial.exploits)) for trial in shown], right=True)
    place = next((place for place, trial in enumerate(shown) if trial is best), None)
    rest = f"the first {_MEMBERS} of {len(trials)}" if len(trials) > _MEMBERS else ""
    made = table(
        [*trial_columns(shown, experiment.info), copies],
        best=place,
        statuses=[trial.status for trial in shown],
        running=_state(experiment) == State.RUNNING.value,
        caption=rest,
    )
    return [_tall(made)]


def _tall(made: Html, *more: str) -> Html:
    """Return a table that scrolls where it is long; on paper it has all its rows."""
    return element("div", made, class_=" ".join(["tall", *more]))


def _exploits(experiment: Experiment) -> list[Html]:
    history, info = experiment.history, experiment.info
    if not history.exploits:
        text = "Nobody has copied anybody." if history.trials else ""
        return [element("p", text, class_="nothing")] if text else []
    newest = history.exploits[: -_EXPLOITS - 1 : -1]
    scores = info.metric or "score"
    columns = [
        Column("time", [_when(experiment, exploit) for exploit in newest], right=True),
        Column("member", [exploit.trial_id for exploit in newest]),
        Column("at iteration", [str(exploit.iteration) for exploit in newest], right=True),
        Column(f"with {scores}", [_score(exploit.score) for exploit in newest], right=True),
        Column("copied", [exploit.donor_id for exploit in newest]),
        Column("of iteration", [str(exploit.checkpoint.iteration) for exploit in newest], right=True),
        Column(f"with {scores}", [_score(exploit.checkpoint.score) for exploit in newest], right=True),
        Column("changed", [_changes(exploit) for exploit in newest]),
    ]
    count = len(history.exploits)
    note = f"The newest {_EXPLOITS} of {count}, newest first." if count > _EXPLOITS else f"All {count}, newest first."
    return [element("p", note, class_="muted"), _tall(table(columns), "wrapping")]


def _when(experiment: Experiment, exploit: Exploit) -> str:
    copied = experiment.timeline.copied.get((exploit.trial_id, exploit.generation))
    return "" if copied is None else format_duration(copied.at)


def _score(score: float | None) -> str:
    return "" if score is None or not math.isfinite(score) else format_value(score)


def _changes(exploit: Exploit) -> Html:
    """Return what the copy trains with and the donor did not; a line breaks only between two hyperparameters."""
    old, new = dict(flatten(exploit.donor_config)), dict(flatten(exploit.new_config))
    changed: list[object] = []
    for name, value in new.items():
        before, after = format_value(old.get(name)), format_value(value)
        if before != after:
            text = cut(f"{one_line(str(name))} {before} → {after}", 100)
            changed += [", "] if changed else []
            changed.append(element("span", text, class_="whole"))
    why = ", in place of a member that failed" if exploit.failed is not None else ""
    return joined([*(changed or ["nothing"]), why])


def _errors(experiment: Experiment) -> list[Html]:
    """Return the errors of members that failed, those with the same one together; then what Shoal remarked."""
    found: dict[str, list[TrialHistory]] = {}
    for trial in experiment.history.in_order():
        if trial.status is Status.ERROR:
            found.setdefault(error_of(trial), []).append(trial)
    made: list[Html] = []
    for error, trials in list(found.items())[:_ERRORS]:
        first = trials[0]
        names = ", ".join(trial.name for trial in trials[:8]) + (", …" if len(trials) > 8 else "")
        where = error_path(first, experiment.place)
        text = (first.traceback or error).strip()
        kept = text if len(text) <= _TRACEBACK else f"…{text[-_TRACEBACK:]}"
        made += [
            element("h3", f"{count_text(len(trials), 'member')} failed: {cut(error)}"),
            element("p", f"{names}; after iteration {first.iteration}. ", element("code", where)),
            element("pre", kept),
        ]
    if len(found) > _ERRORS:
        made.append(element("p", f"… and {count_text(len(found) - _ERRORS, 'other error')}."))
    notices = experiment.history.notices
    if notices:
        made += [element("h3", "Notes"), *(element("p", cut(text, 1000)) for text in notices[:_NOTES])]
    if len(notices) > _NOTES:
        made.append(element("p", f"… and {count_text(len(notices) - _NOTES, 'more note')}."))
    return made
