"""Examines an experiment: its journal, its checkpoints, its lock, its log files, the disk. Changes nothing.

Each check is a function that yields what it found. What it says: what is wrong, what that means, and what to do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints import store
from ..core.recall import recall
from ..display.table import count_text
from ..errors import InvalidTransition, JournalError, ShoalError
from ..experiment import ExperimentInfo
from ..journal import JOURNAL_NAME
from ..journal.lock import LOCK_NAME
from ..journal.sqlite import SQLiteJournal
from ..reading import NothingYet, has_ended, info_of, is_locked, is_running, nothing_yet
from .drivers import driver_of
from .errors import words_of
from .files import Files, read_files
from .finding import name_for, no_permission
from .logs import differences
from .plain_settings import NotPlain, plain_scheduler
from .sizes import size_text
from .summaries import NEVER_BEGAN, STARTING, UNREADABLE

if TYPE_CHECKING:
    from ..journal import Record

__all__ = ["NOTE", "OK", "PROBLEM", "Examination", "Finding", "Patient", "decisions", "driver", "examine", "read"]

_SHOWN = 5
"""How many things of a kind are named."""
_NO_PERMISSION = f"[Errno {errno.EACCES}]"
_LITTLE = 1 << 30
"""Bytes of free disk below which there is a remark."""

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found."""

    level: str
    """``ok``, ``note`` or ``problem``."""
    check: str
    """Which check: ``journal``, ``decisions``, ``driver``, ``checkpoints``, ``records``, ``leftovers``, ``logs`` or
    ``disk``."""
    what: str
    meaning: str = ""
    to_do: str = ""


@dataclass(slots=True)
class Examination:
    """All that was found out about an experiment."""

    name: str
    path: str
    state: str
    findings: list[Finding] = field(default_factory=list[Finding])

    @property
    def healthy(self) -> bool:
        """Whether there is no problem."""
        return not any(finding.level == PROBLEM for finding in self.findings)


@dataclass(slots=True)
class Patient:
    """An experiment as the checks see it."""

    folder: Path
    info: ExperimentInfo
    meta: dict[str, Any]
    records: list[Record]
    files: Files
    running: bool
    trust: bool
    place: str | None = None
    """Its URL, where it is in object storage."""

    @property
    def ended(self) -> bool:
        return has_ended(self.files.history)

    @property
    def has_lost_records(self) -> bool:
        return bool(self.files.unreported() or self.files.lost())

    @property
    def how_to_go_on(self) -> str:
        return f"shoal resume {name_for(self.place or self.folder)} MODULE:{self.info.trainable}"


def examine(folder: Path, *, trust: bool = False, tell: Callable[[str], None] | None = None) -> Examination:
    """Examine an experiment.

    Args:
        folder: its folder.
        trust: whether objects in its settings are loaded, which runs code of whoever wrote the journal.
        tell: told what is being done, for what takes long.
    """
    folder = folder.absolute()
    tell = tell or (lambda text: None)
    result = Examination(folder.name, str(folder), "damaged")
    tell("reading the journal")
    closed = no_permission(folder)
    if closed is not None:
        result.state = UNREADABLE
        meaning, to_do = "Whether it is whole cannot be told.", "Give yourself the permission, or ask whose it is."
        result.findings.append(Finding(PROBLEM, "journal", closed, meaning, to_do))
        return result
    result.findings += _lock(folder)
    try:
        patient = read(folder, trust, running=is_running(folder))
    except NothingYet as error:
        result.state = STARTING if error.starting else NEVER_BEGAN
        if error.starting:
            result.findings.append(Finding(OK, "journal", "nothing is in it yet: the experiment is just starting"))
        else:
            what = "It holds nothing: the driver ended before anything had happened."
            to_do = f"Delete the folder: rm -r {shlex.quote(str(folder))}"
            result.findings.append(Finding(NOTE, "journal", what, "The experiment never began.", to_do))
        return result
    except (ShoalError, OSError) as error:
        result.findings.append(
            Finding(
                PROBLEM,
                "journal",
                words_of(error),
                "Results and decisions are not certain any more, and the experiment cannot go on.",
                f"Put back a copy of {JOURNAL_NAME} and of what lay beside it, if there is one.",
            )
        )
        return result
    result.state = "running" if patient.running else "ended" if patient.ended else "interrupted"
    count = f"{len(patient.records):,} records, all as they were written"
    result.findings.append(Finding(OK, "journal", count))
    for text, check in _CHECKS:
        tell(text)
        try:
            result.findings += check(patient)
        except (ShoalError, OSError) as error:
            what = f"It cannot be checked: {words_of(error)}"
            result.findings.append(Finding(PROBLEM, check.__name__.strip("_"), what))
    return result


def read(folder: Path, trust: bool, *, running: bool, place: str | None = None) -> Patient:
    """Read everything, and make sure that it is what was written.

    Args:
        folder: where the journal is.
        trust: see :func:`examine`.
        running: whether a driver runs the experiment.
        place: its URL, where it is in object storage.

    Raises:
        NothingYet: it is just starting, or never began.
        JournalError: it is not.
    """
    info = info_of(folder)
    with contextlib.closing(SQLiteJournal.open_for_reading(folder)) as journal:
        journal.check_all()
        records = list(journal.read(unpickle=False))
        meta = journal.meta()
    if not records:
        raise nothing_yet(folder) or JournalError(f"The journal in {folder} holds no record: they are lost.")
    return Patient(folder, info, meta, records, read_files(folder, records), running, trust, place)


# --------------------------------------------------------------------------------------------------------- the journal


def decisions(patient: Patient) -> Iterator[Finding]:
    """See whether today's core comes to the same decisions, as a restore needs."""
    from ..plan import new_population

    with contextlib.closing(SQLiteJournal.open_for_reading(patient.folder)) as journal:
        try:
            journal.check_format()
        except JournalError as error:
            yield Finding(NOTE, "decisions", words_of(error), "It can be read, and not gone on with.")
            return
    try:
        scheduler = plain_scheduler(patient.meta, trust=patient.trust)
    except NotPlain as error:
        meaning, to_do = "", ""
        if error.helps:
            meaning = "Loading them would run code of whoever wrote the journal."
            to_do = f"If that was you: shoal doctor {name_for(patient.place or patient.folder)} --trust"
        yield Finding(NOTE, "decisions", f"Not followed, for want of the settings: {error}.", meaning, to_do)
        return
    try:
        recall(new_population(patient.info, scheduler), (record.item for record in patient.records))
    except (InvalidTransition, LookupError, TypeError, ValueError, AttributeError) as error:
        yield Finding(
            PROBLEM,
            "decisions",
            f"The journal cannot be followed: {error}.",
            "It was written by a Shoal that decides otherwise, or changed. Results can be read, but the experiment "
            "cannot go on.",
            "Go on with the version of Shoal that wrote it.",
        )
        return
    exploits = patient.files.history.perturbations
    yield Finding(OK, "decisions", f"all decisions follow from what was reported, {exploits:,} exploits among them")


def _lock(folder: Path) -> Iterator[Finding]:
    """Look at the lock and at who has it."""
    path = folder / LOCK_NAME
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(path.stat().st_mode):
            yield Finding(
                PROBLEM,
                "driver",
                f"{path} is no ordinary file.",
                "The experiment cannot be locked, and so it cannot go on.",
                f"Delete it: rm -r {path}",
            )
            return
    if not is_locked(folder):
        return
    owner = driver_of(folder)
    if owner is not None and owner.task is not None:
        yield Finding(NOTE, "driver", f"'shoal {owner.task}' works on it now: {owner}.")
    elif owner is None:
        yield Finding(NOTE, "driver", f"It is running, but {path} does not say in which process.")
    elif not owner.here:
        yield Finding(OK, "driver", f"it is being run by {owner}, another machine")
    elif not owner.alive or owner.holds(path) is False:
        yield Finding(
            PROBLEM,
            "driver",
            f"It is locked, but not by {owner}, which its lock names and which is "
            f"{'another program by now' if owner.alive else 'not alive'}.",
            "Another process holds the lock: a copy of the driver that outlived it, or one in another container.",
            f"Look for it and end it: lsof {path}",
        )
    else:
        yield Finding(OK, "driver", f"it is being run by {owner}")


def driver(patient: Patient) -> Iterator[Finding]:
    """Say where nobody runs an experiment that has not ended."""
    if patient.running or patient.ended:
        return
    trials = patient.files.history.trials.values()
    going = sum(not trial.status.ended for trial in trials)
    what = f"{going} of {len(trials)} trials have not ended" if going else "its trials were cut off"
    if patient.has_lost_records:
        yield Finding(NOTE, "driver", f"Nobody runs it, and {what}.")
        return
    yield Finding(
        NOTE, "driver", f"Nobody runs it, and {what}.", "Nothing that was reported is lost.",
        f"To go on: {patient.how_to_go_on}",
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- the files


def _checkpoints(patient: Patient) -> Iterator[Finding]:
    """Read every checkpoint that should be there, and compare it with what was written."""
    files, found = patient.files, 0
    wrong: list[tuple[str, str]] = []
    size = 0
    for trial, number, entry, path in files.checkpoints():
        found += 1
        size += entry.saved.size
        problem = store.damage(path, entry.saved.digest)
        if problem is not None:
            wrong.append((f"{trial.trial_id}/{store.checkpoint_name(number)}", problem))
    if wrong and patient.running:
        there = _there_now(patient)  # some were deleted meanwhile, as they should be
        wrong = [pair for pair in wrong if pair[0] in there]
    needed = files.needed()
    closed = [pair for pair in wrong if _NO_PERMISSION in pair[1]]
    if closed:
        yield _closed(closed)
    wrong = [pair for pair in wrong if _NO_PERMISSION not in pair[1]]
    for title, group in (
        ("that trials would go on from", [pair for pair in wrong if pair[0] in needed]),
        ("that nobody would go on from", [pair for pair in wrong if pair[0] not in needed]),
    ):
        if group:
            yield _damaged(patient, title, group, needed=group[0][0] in needed)
    known = sum(len(trial.damaged & trial.checkpoints.keys()) for trial in files.history.trials.values())
    freed = files.freed
    if known:
        yield Finding(
            NOTE,
            "checkpoints",
            f"{known} were found to be damaged during the run, and count no more.",
            "Their trials have gone on from others.",
        )
    if freed:
        yield Finding(NOTE, "checkpoints", f"{freed} were freed by 'shoal gc', and count no more.")
    if not wrong and not closed:
        yield Finding(OK, "checkpoints", f"{found:,} with {size_text(size)}, all as they were written")


def _closed(group: list[tuple[str, str]]) -> Finding:
    named = "; ".join(f"{identity}: {problem}" for identity, problem in group[:_SHOWN])
    more = f"; and {len(group) - _SHOWN} more" if len(group) > _SHOWN else ""
    return Finding(
        PROBLEM,
        "checkpoints",
        f"{len(group)} cannot be read for want of permission: {named}{more}.",
        "Whether they are as they were written cannot be told.",
        "Give yourself the permission (chmod -R u+rX), or ask whose files they are.",
    )


def _there_now(patient: Patient) -> set[str]:
    with contextlib.closing(SQLiteJournal.open_for_reading(patient.folder)) as journal:
        files = read_files(patient.folder, journal.read(unpickle=False))
    return {f"{trial.trial_id}/{path.name}" for trial, _, _, path in files.checkpoints()}


def _damaged(patient: Patient, title: str, group: list[tuple[str, str]], *, needed: bool) -> Finding:
    named = "; ".join(f"{identity}: {problem}" for identity, problem in group[:_SHOWN])
    more = f"; and {len(group) - _SHOWN} more" if len(group) > _SHOWN else ""
    if needed:
        meaning = "A restore has these trials go on from older checkpoints, as copies of others, or fail."
    else:
        meaning = "The results are right, but these weights cannot be loaded."
    return Finding(
        PROBLEM,
        "checkpoints",
        f"{len(group)} {title}, not as written: {named}{more}.",
        meaning,
        "Put the files back from a copy, if there is one.",
    )


def _records(patient: Patient) -> Iterator[Finding]:
    """See whether the files tell of what the journal knows nothing of, although it is always written first."""
    if patient.running:
        return
    unreported, lost = patient.files.unreported(), patient.files.lost()
    parts: list[str] = []
    if unreported:
        of = ", ".join(list(unreported)[:_SHOWN]) + (" and others" if len(unreported) > _SHOWN else "")
        parts.append(
            f"result.json has {count_text(sum(unreported.values()), 'result')} that it knows nothing of ({of})"
        )
    if lost:
        size = size_text(sum(item.size for item in lost))
        parts.append(f"there are {count_text(len(lost), 'whole checkpoint')} with {size} that it knows nothing of")
    if parts:
        yield Finding(
            PROBLEM,
            "records",
            f"The journal has lost records: {', and '.join(parts)}.",
            "To go on would train these steps again, and delete these results and checkpoints.",
            f"Copy the folder before 'shoal resume' or 'shoal gc'. If a copy of {JOURNAL_NAME}-wal is left, put it "
            f"back first: the newest records were in it.",
        )


def _leftovers(patient: Patient) -> Iterator[Finding]:
    """Look for what killed processes have left."""
    if patient.running:
        return
    items = patient.files.leftovers()
    freed = [item for item in items if item.freed]
    for who, group in (
        ("Killed processes have", [item for item in items if not item.freed]),
        ("A 'shoal gc' that was interrupted has", freed),
    ):
        if group:
            size = size_text(sum(item.size for item in group))
            one = "1 entry" if len(group) == 1 else f"{len(group)} entries"
            yield Finding(
                NOTE, "leftovers", f"{who} left {one} with {size}.", "Nobody will ever read them.",
                f"To delete them: shoal gc {name_for(patient.folder)}",
            )  # fmt: skip


def _logs(patient: Patient) -> Iterator[Finding]:
    """Compare the log files with the journal, from which they are made."""
    if patient.running or patient.has_lost_records:
        return  # they are a moment behind; or ahead, which is told
    wrong = list(differences(patient.folder, patient.files.history, policies=patient.info.logs_policies))
    if not wrong:
        policies = ", the policies" if patient.info.logs_policies else ""
        yield Finding(OK, "logs", f"result.json, progress.csv, params.json{policies} say what the journal says")
        return
    named = "; ".join(wrong[:_SHOWN]) + (f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else "")
    yield Finding(
        # A driver that is killed had not always written what it had committed: the next one does that first of all.
        PROBLEM if patient.ended else NOTE,
        "logs",
        f"Log files differ from the journal: {named}.",
        "The journal is right. What reads the log files sees other results.",
        f"They are written anew when the experiment is opened again: {patient.how_to_go_on}",
    )


def _disk(patient: Patient) -> Iterator[Finding]:
    """See whether there is room to go on."""
    free = shutil.disk_usage(patient.folder).free
    largest = max((entry.saved.size for _, _, entry, _ in patient.files.checkpoints()), default=0)
    slots = max(1, patient.files.history.slots or 0)
    wanted = largest * slots
    if not patient.ended and free < wanted:
        yield Finding(
            PROBLEM,
            "disk",
            f"{size_text(free)} are free, and one checkpoint of each of {slots} slots takes {size_text(wanted)}.",
            "The run ends as soon as a checkpoint does not fit; what was reported is kept.",
            "Make room, for example with shoal gc, or keep fewer checkpoints: CheckpointConfig(num_to_keep=1).",
        )
    elif free < _LITTLE:
        yield Finding(NOTE, "disk", f"Only {size_text(free)} are free.")
    else:
        yield Finding(OK, "disk", f"{size_text(free)} are free")
    if not patient.ended and not os.access(patient.folder, os.W_OK):
        yield Finding(
            NOTE, "disk", f"{patient.folder} cannot be written.", "The experiment cannot go on where it is.",
            "Make it writable, or copy it to where it is.",
        )  # fmt: skip


_CHECKS: tuple[tuple[str, Callable[[Patient], Iterator[Finding]]], ...] = (
    ("following the decisions", decisions),
    ("looking for the driver", driver),
    ("reading the checkpoints", _checkpoints),
    ("looking for lost records", _records),
    ("looking for leftovers", _leftovers),
    ("comparing the log files", _logs),
    ("asking for free space", _disk),
)
