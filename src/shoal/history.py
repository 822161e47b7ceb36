"""The read model: what the journal says, as trials with their results. Stage one of every reader.

A :class:`History` is a fold over the journal's records. The live status, the log files, the results and the plots all
read one; none of them decides anything.

A trial that fails goes on from a checkpoint and trains the steps after it again. The results that it had of them count
no longer: their weights are gone, and each would be there twice. Only the journal has them. So (trial, generation,
training_iteration) is unique among the results that count. Which ones are undone is told by each ``Launch``, by the
checkpoint that it goes on from: those of the trial's present generation that did not make these weights. Results from
before an exploit are another generation's and stay. Where a trial begins anew, none stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

from .core.commands import (
    Await,
    CheckpointRecord,
    Continue,
    DeleteCheckpoint,
    Evict,
    Exploit,
    FallBack,
    Launch,
    Notice,
    Park,
    Reconfigure,
    Retry,
    Status,
    Stop,
    checkpoint_name,
)
from .core.events import (
    Config,
    Damaged,
    Drifted,
    Failed,
    Freed,
    Lost,
    Metrics,
    Opened,
    Reported,
    Saved,
    SavedCheckpoint,
    SlotsJoined,
    SlotsLeft,
    Started,
    StopAsked,
    TrialAdded,
    Undecided,
)
from .core.reports import number, value_of
from .core.trial import replaced
from .journal.codec import Record
from .space import same

__all__ = ["Ancestry", "CheckpointEntry", "History", "Replaced", "Row", "TrialHistory", "date_text", "full_row"]


@dataclass(frozen=True, slots=True)
class Replaced:
    """The user replaced values of the config when the experiment went on; nobody decided it."""

    checkpoint: CheckpointRecord
    """From which the trial went on with them."""


@dataclass(frozen=True, slots=True)
class Ancestry:
    """What made some weights: the newest exploit or change of config, and behind it those before it.

    A chain that its members share, so a population of many generations needs one link for each exploit.
    """

    change: Exploit | Reconfigure | Replaced
    before: Ancestry | None
    config: Config
    """What the weights had been trained with up to the change."""

    def oldest_first(self) -> Iterator[Ancestry]:
        """Yield the links in the order in which the changes happened to the weights."""
        chain: list[Ancestry] = []
        link: Ancestry | None = self
        while link is not None:
            chain.append(link)
            link = link.before
        return reversed(chain)


@dataclass(frozen=True, slots=True)
class Row:
    """One result of a trial, with the circumstances under which it was reported."""

    report: Reported
    config: Config
    """The trial's config at that time."""
    generation: int
    """How many exploits the trial had done."""
    pid: int
    hostname: str
    ancestry: Ancestry | None = field(default=None, compare=False, repr=False)
    """What made the weights that it is of."""
    number: int = 0
    """Its place among the trial's results that count, from 1."""
    ordinal: int = 0
    """Its place among all that the trial has ever reported, from 1."""
    before: Row | None = field(default=None, compare=False, repr=False)
    """The result of the step before, of the same weights, whoever trained them; also where that trial has gone back
    since and counts it no longer. None for the first, and where the history does not keep its rows."""

    def steps(self) -> list[Row]:
        """Return the results of all steps that made its weights, oldest first, itself the last."""
        chain: list[Row] = []
        row: Row | None = self
        while row is not None:
            chain.append(row)
            row = row.before
        chain.reverse()
        return chain

    def value(self, key: str) -> Any:
        """Return a reported or automatic value, nested keys written ``a/b``; None where there is none."""
        return value_of(self.report, key)


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """A committed checkpoint with the result that came with it."""

    saved: SavedCheckpoint
    row: Row
    """What made its weights is the row's ancestry."""


@dataclass(slots=True)
class TrialHistory:
    """One trial, as the journal tells it so far."""

    trial_id: str
    index: int
    name: str
    tag: str
    folder: str
    initial_config: Config
    config: Config
    """The config as it is now."""
    status: Status = Status.PENDING
    slot: int | None = None
    pid: int = 0
    hostname: str = ""
    launches: int = 0
    over: bool = False
    """Its newest launch has failed: a report of it that comes now was overtaken by that news, and does not count."""
    last: Row | None = None
    """Its newest result that counts."""
    rows: list[Row] = field(default_factory=list[Row])
    """All results that count, where the history keeps them."""
    reported: int = 0
    """How many results it has ever reported, those included that no longer count."""
    settled: Row | None = field(default=None, repr=False)
    """Its newest result from before its newest exploit: it stays, and so do those before."""
    origin: Row | None = field(default=None, compare=False, repr=False)
    """The result that came with its weights, its own or a donor's: the one that its next result follows."""
    checkpoints: dict[int, CheckpointEntry] = field(default_factory=dict[int, CheckpointEntry])
    """Those of its own checkpoints that have not been deleted, by number."""
    damaged: set[int] = field(default_factory=set[int])
    """Numbers of those that were found to be damaged. They are kept while somebody would go on from them, for the user
    to put back, and are handed to nobody."""
    freed: set[int] = field(default_factory=set[int])
    """Numbers of those that the user has had deleted after a run."""
    first_checkpoint: int = 0
    """The number from which on its checkpoints are of its present life; others are from before it began anew."""
    restore: CheckpointRecord | None = None
    """The donor's checkpoint that it was launched from last, until it saved one of its own; else None."""
    exploits: list[Exploit] = field(default_factory=list[Exploit])
    """Its own exploits, oldest first."""
    changes: list[Reconfigure] = field(default_factory=list[Reconfigure])
    """How its config was changed without an exploit, oldest first."""
    ancestry: Ancestry | None = field(default=None, compare=False, repr=False)
    """What made the weights it has now: exploits, not all of them its own, and not all of its own."""
    trained_with: Config | None = field(default=None, compare=False, repr=False)
    """The config before values of it were replaced, until it trains on; else None."""
    error: str | None = None
    """Why its last launch failed, one line; also set while it is retried."""
    traceback: str = ""
    raised: bytes | None = None
    reason: str = ""
    """Why it ended."""

    @property
    def iteration(self) -> int:
        """``training_iteration`` of its newest result; 0 before the first."""
        return 0 if self.last is None else self.last.report.iteration

    @property
    def whole(self) -> dict[int, CheckpointEntry]:
        """Its own checkpoints that are there, and not known to be damaged."""
        lost = self.damaged | self.freed
        return {number: entry for number, entry in self.checkpoints.items() if number not in lost}

    @property
    def counted(self) -> int:
        """How many of its results count."""
        return 0 if self.last is None else self.last.number

    def value(self, key: str) -> Any:
        """Return a value of its newest result, nested keys written ``a/b``; None where there is none."""
        return None if self.last is None else self.last.value(key)


_Link = TypeVar("_Link", Ancestry, Row)


class History:
    """All trials of an experiment, as the journal tells them so far.

    Args:
        keep_rows: whether every result is kept; the live status needs only the newest of each trial.
    """

    def __init__(self, *, keep_rows: bool = True) -> None:
        self.trials: dict[str, TrialHistory] = {}
        self.keep_rows = keep_rows
        self.results = 0
        """Number of results that count."""
        self.checkpoints = 0
        """Number of checkpoints saved."""
        self.exploits: list[Exploit] = []
        """All exploits, in the order in which they were decided."""
        self.notices: list[str] = []
        self.stopped: str | None = None
        """Why the whole experiment was stopped, or None."""
        self.met: str | None = None
        """The user's condition that it was stopped by, ``stop`` or ``time_budget_s``; None where it was cut off."""
        self.slots: int | None = None
        """How many slots there are now, or were when the newest driver ended; None before the first has begun."""
        self.started_at: float | None = None
        self.updated_at: float | None = None

    @classmethod
    def of(cls, records: Iterable[Record], *, keep_rows: bool = True) -> History:
        """Return the history that the records tell."""
        history = cls(keep_rows=keep_rows)
        for record in records:
            history.add(record)
        return history

    def forget_rows(self) -> None:
        """From now on keep only the newest result of each trial."""
        self.keep_rows = False
        for trial in self.trials.values():
            trial.rows.clear()
            # A row holds all those before it.
            trial.origin = None
            trial.last, trial.settled = _alone(trial.last), _alone(trial.settled)
            trial.checkpoints = {
                place: replace(entry, row=replace(entry.row, before=None)) for place, entry in trial.checkpoints.items()
            }

    def __getstate__(self) -> tuple[list[Ancestry], list[Row], dict[str, Any]]:
        """Have chains pickled and copied oldest first: each link holds the one before, deeper than recursion may go."""
        trials = self.trials.values()
        saved = [entry.row for trial in trials for entry in trial.checkpoints.values()]
        ends = [row for trial in trials for row in (*trial.rows, trial.last, trial.settled, trial.origin)]
        rows = _linked([*ends, *saved])
        return _linked([*(row.ancestry for row in rows), *(trial.ancestry for trial in trials)]), rows, self.__dict__

    def __setstate__(self, state: tuple[list[Ancestry], list[Row], dict[str, Any]]) -> None:
        self.__dict__.update(state[2])

    @property
    def perturbations(self) -> int:
        """Number of exploits."""
        return len(self.exploits)

    def in_order(self) -> list[TrialHistory]:
        """Return the trials by their number."""
        return sorted(self.trials.values(), key=lambda trial: trial.index)

    def best(self, metric: str, mode: str) -> TrialHistory | None:
        """Return the trial whose newest result is best by a finite ``metric``, or None."""
        sign = 1.0 if mode == "max" else -1.0
        scored = [(value, trial) for trial in self.in_order() if (value := _finite(trial.value(metric))) is not None]
        return max(scored, key=lambda pair: sign * pair[0])[1] if scored else None

    def add(self, record: Record) -> None:
        """Take in one record of the journal."""
        item = record.item
        if self.started_at is None:
            self.started_at = record.at
        self.updated_at = record.at
        if isinstance(item, Reported):
            self._reported(item)
        elif isinstance(item, TrialAdded):
            self.trials[item.trial_id] = TrialHistory(
                item.trial_id, item.index, item.name, item.tag, item.folder, item.config, item.config
            )
        elif isinstance(item, StopAsked):
            self.stopped, self.met = item.reason, item.met
        elif isinstance(item, Opened):
            self._opened(item)
        elif isinstance(item, Damaged):
            owner, _, name = item.checkpoint_id.rpartition("/")
            self.trials[owner].damaged.add(int(name.rpartition("_")[2]))
        elif isinstance(item, Freed):
            self.trials[item.trial_id].freed.add(item.number)
        elif isinstance(item, SlotsJoined):
            self.slots = (self.slots or 0) + len(item.devices)
        elif isinstance(item, SlotsLeft):
            self.slots = (self.slots or 0) - len(item.slots)
        elif isinstance(item, Undecided | Drifted):
            pass  # what follows from them is told by commands
        elif isinstance(item, Notice):
            self.notices.append(item.text)
        else:
            self._changed(self.trials[item.trial_id], item)

    def _reported(self, report: Reported) -> None:
        trial = self.trials[report.trial_id]
        status = trial.status
        if report.launch != trial.launches or trial.over or (status is not Status.RUNNING and status.ended):
            return  # late: the core has ignored it too
        self.results += 1
        trial.reported += 1
        row = Row(
            report, trial.config, len(trial.exploits), trial.pid, trial.hostname, trial.ancestry,
            trial.counted + 1, trial.reported, trial.origin,
        )  # fmt: skip
        trial.last = row
        if self.keep_rows:
            trial.rows.append(row)
            trial.origin = row
        if report.checkpoint is not None:
            self._saved(trial, report.checkpoint, row)

    def _saved(self, trial: TrialHistory, saved: SavedCheckpoint, row: Row) -> None:
        self.checkpoints += 1
        trial.checkpoints[saved.number] = CheckpointEntry(saved, row)
        trial.restore = None

    def _opened(self, opened: Opened) -> None:
        self.stopped = self.met = None
        self.slots = len(opened.limits.devices)
        for trial in self.trials.values():
            if opened.config:
                trial.trained_with = trial.config if trial.trained_with is None else trial.trained_with
                trial.config = replaced(trial.config, opened.config)
                trial.initial_config = replaced(trial.initial_config, opened.config)
            anew = trial.trial_id in opened.anew
            if not trial.status.ended or anew or trial.trial_id in opened.again:
                trial.slot = None
                trial.status = Status.PENDING if anew or not trial.launches else Status.PAUSED
                trial.error, trial.traceback, trial.raised, trial.reason = None, "", None, ""
            if anew:
                trial.first_checkpoint = max(trial.checkpoints, default=-1) + 1
                trial.config, trial.restore, trial.ancestry, trial.origin = trial.initial_config, None, None, None
                trial.trained_with = trial.settled = None
                self._undo(trial, None)

    def _changed(self, trial: TrialHistory, item: Any) -> None:
        if isinstance(item, Started | Saved | Failed | Lost) and (item.launch != trial.launches or trial.status.ended):
            return  # late: the core has ignored it too
        if isinstance(item, Failed | Lost):
            trial.over = True
            trial.slot, trial.status = None, Status.PAUSED  # until a command says otherwise
        if isinstance(item, Started):
            trial.pid, trial.hostname = item.pid, item.hostname
        elif isinstance(item, Launch):
            trial.launches, trial.over = item.launch, False
            trial.slot, trial.status = (None, Status.PAUSED) if item.waits else (item.slot, Status.RUNNING)
            self._goes_on_from(trial, item.checkpoint)
        elif isinstance(item, Continue):
            trial.slot, trial.status = item.slot, Status.RUNNING
        elif isinstance(item, Park | Evict | Retry | Await):
            trial.slot, trial.status = None, Status.PAUSED
        elif isinstance(item, FallBack):
            trial.slot, trial.status = None, Status.PAUSED
            trial.config = trial.config if item.config is None else item.config
        elif isinstance(item, Exploit):
            self._exploited(trial, item)
        elif isinstance(item, Reconfigure):
            trial.changes.append(item)
            self._change(trial, item)
            trial.config = item.new_config
        elif isinstance(item, Saved) and trial.last is not None and not trial.over:
            self._saved(trial, item.checkpoint, trial.last)
        elif isinstance(item, Failed):
            trial.error, trial.traceback, trial.raised = item.error, item.traceback, item.raised
        elif isinstance(item, Lost):
            trial.error, trial.traceback, trial.raised = item.reason, "", None
        elif isinstance(item, Stop):
            trial.slot, trial.status, trial.reason = None, item.status, item.reason
            if item.status is Status.ERROR and trial.error != item.reason:
                if trial.traceback and trial.error and item.reason.startswith(trial.error.removesuffix(".")):
                    trial.traceback = f"{trial.traceback.rstrip()}\n\n{item.reason}\n"  # and why it was not replaced
                else:
                    # It was no exception that ended it; an earlier one, after which it was tried again, says nothing.
                    trial.traceback, trial.raised = "", None
                trial.error = item.reason
        elif isinstance(item, DeleteCheckpoint):
            trial.checkpoints.pop(item.number, None)

    def _goes_on_from(self, trial: TrialHistory, checkpoint: CheckpointRecord | None) -> None:
        """Take in that a trial is launched: from a checkpoint, or from scratch."""
        if checkpoint is None:
            trial.restore, trial.ancestry, trial.origin, trial.trained_with = None, None, None, None
            self._undo(trial, trial.settled)
            return
        own = checkpoint.trial_id == trial.trial_id
        entry = self.trials[checkpoint.trial_id].checkpoints.get(checkpoint.number)
        row = None if entry is None else entry.row
        trial.restore = None if own else checkpoint
        trial.origin = row if self.keep_rows else None
        mine = own and row is not None and row.generation == len(trial.exploits) and row.number <= trial.counted
        # Not each checkpoint of its own is: where newer ones are damaged, it may be one from before its exploit.
        self._undo(trial, row if mine else trial.settled)
        link = trial.ancestry
        if link is None or link.change.checkpoint.id != checkpoint.id:  # else nothing was trained since that change
            config = trial.config if trial.trained_with is None else trial.trained_with
            if row is not None and (row.ancestry is not link or row.config is not config):
                self._fell_back(trial, row, checkpoint)
            elif trial.trained_with is not None:
                self._change(trial, Replaced(checkpoint))
        trial.trained_with = None

    def _fell_back(self, trial: TrialHistory, row: Row, checkpoint: CheckpointRecord) -> None:
        """Take in that a trial goes on from older weights than those that its newest change of config was about."""
        if checkpoint.trial_id == trial.trial_id and same(row.config, trial.config):
            trial.ancestry = row.ancestry
            return
        change: Exploit | Replaced = Replaced(checkpoint)
        if checkpoint.trial_id != trial.trial_id and trial.exploits:
            donor = checkpoint.trial_id  # perhaps the donor's own donor
            change = replace(trial.exploits[-1], donor_id=donor, checkpoint=checkpoint, donor_config=row.config)
        trial.ancestry = Ancestry(change, row.ancestry, row.config)

    def _undo(self, trial: TrialHistory, newest: Row | None) -> None:
        """Let the results that a trial has reported after its ``newest`` that stays count no longer."""
        count = 0 if newest is None else newest.number
        self.results -= trial.counted - count
        del trial.rows[count:]
        trial.last = newest

    def _change(self, trial: TrialHistory, change: Reconfigure | Replaced) -> None:
        """Take in that a trial trains its own weights on with another config."""
        before = trial.config if trial.trained_with is None else trial.trained_with
        trial.ancestry = Ancestry(change, trial.ancestry, before)
        trial.trained_with = None

    def _exploited(self, trial: TrialHistory, exploit: Exploit) -> None:
        self.exploits.append(exploit)
        trial.exploits.append(exploit)
        if exploit.failed is not None:
            trial.slot, trial.status = None, Status.PAUSED
        trial.settled = trial.last
        trial.config = exploit.new_config
        trial.restore = exploit.checkpoint
        donor = self.trials[exploit.donor_id]
        copied = donor.checkpoints.get(exploit.checkpoint.number)
        trial.trained_with = None
        if copied is None:
            trial.ancestry = Ancestry(exploit, donor.ancestry, exploit.donor_config)
        else:
            trial.ancestry = Ancestry(exploit, copied.row.ancestry, copied.row.config)


def _linked(ends: Iterable[_Link | None]) -> list[_Link]:
    """Return these links and all before them, each behind the one before it."""
    found: dict[int, _Link] = {}
    for end in ends:
        chain: list[_Link] = []
        link = end
        while link is not None and id(link) not in found:
            chain.append(link)
            link = link.before
        found.update((id(each), each) for each in reversed(chain))
    return list(found.values())


def _alone(row: Row | None) -> Row | None:
    """Return a row without those before it."""
    return None if row is None else replace(row, before=None)


def full_row(trial: TrialHistory, row: Row) -> Metrics:
    """Return a result as users read it: what was reported, and the automatic values."""
    report = row.report
    automatic = {
        "timestamp": int(report.timestamp),
        "checkpoint_dir_name": None if report.checkpoint is None else checkpoint_name(report.checkpoint.number),
        "done": report.stop is not None,
        "training_iteration": report.iteration,
        "trial_id": trial.trial_id,
        "date": date_text(int(report.timestamp)),
        "time_this_iter_s": report.time_this_iter_s,
        "time_total_s": report.time_total_s,
        "pid": row.pid,
        "hostname": row.hostname,
        "node_ip": "127.0.0.1",
        "config": row.config,
        "time_since_restore": report.time_since_restore,
        "iterations_since_restore": report.iterations_since_restore,
    }
    if report.checkpoint is not None:
        automatic["should_checkpoint"] = True
    return {**report.metrics, **automatic}


@lru_cache(maxsize=64)
def date_text(timestamp: int) -> str:
    """Return seconds since the epoch as ``date`` shows them, in local time."""
    # Most results share their second with the one before, and the formatting costs as much as the rest of a row.
    return time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(timestamp))


def _finite(value: Any) -> float | None:
    as_number = number(value)
    return as_number if as_number is not None and abs(as_number) != float("inf") and as_number == as_number else None
