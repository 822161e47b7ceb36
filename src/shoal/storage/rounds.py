"""What the mirror does, without its thread: so it can be tried with any order of events, and cut off at any moment.

A round makes the copy in storage a later state of the experiment. It takes a snapshot: the newest record, and the
checkpoints that exist then. Those that are not in storage are uploaded; then the journal is published up to that
record; then what does not exist by then is deleted from storage. So at each moment what is published is a state all of
whose checkpoints are there.

Before each of these steps, and every two seconds while one takes longer, it is looked whether somebody else has taken
the experiment over: the next driver gives its checkpoints the same numbers.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ..checkpoints.depot import Depot
from ..checkpoints.leftovers import committed_number
from ..core.commands import DeleteCheckpoint, checkpoint_name
from ..core.events import Freed, Reported, Saved
from ..journal.codec import Record
from ..journal.sqlite import SQLiteJournal
from .place import Place
from .shipping import Shipper, TakenOver
from .transfer import MANIFEST_SUFFIX, delete_checkpoint
from .workers import each

if TYPE_CHECKING:
    from ..history import History

__all__ = ["Key", "Ledger", "Rounds", "Target"]

Key: TypeAlias = tuple[str, int]
"""Of a checkpoint: the trial's folder, and its number there."""
_LOST_AFTER = 30
"""So often a checkpoint is looked for that exists, as the journal says, and is not there."""
_LOOK_AGAIN_S = 0.1
_CHECK_AGAIN_S = 2.0
_LOOK_S = 0.5
"""So often, while uploads are waited for, it is looked whether there is still time."""
_DELETED_TOGETHER = 64
"""After so many deletions it is looked again whether the experiment is still this driver's."""
_MANY, _GATHER_S = 200, 0.05


@dataclass(frozen=True, slots=True)
class Target:
    """A state of the experiment."""

    seq: int
    """Its newest record, with which a batch ends."""
    wanted: Mapping[Key, str]
    """The checkpoints that exist, with their digests."""


@dataclass(slots=True)
class Ledger:
    """Which checkpoints exist now, as the records tell. The driver tells it; the mirror's thread asks.

    Args:
        history: what the records told before and tell meanwhile; it has taken in each of them when it comes here.
        seq: number of the newest of them.
    """

    history: History
    seq: int
    _existing: dict[Key, str] = field(default_factory=dict[Key, str])
    _changes: list[tuple[Key, str | None]] = field(default_factory=list[tuple[Key, "str | None"]])
    """Of a batch that is not complete."""
    largest: int = 0
    """Bytes of the largest checkpoint so far."""
    _newest: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._newest = self.seq
        for trial in self.history.trials.values():
            for number, entry in trial.checkpoints.items():
                if number not in trial.freed:
                    self._existing[trial.folder, number] = entry.saved.digest
                    self.largest = max(self.largest, entry.saved.size)

    def take(self, record: Record) -> None:
        """A record was committed."""
        item = record.item
        self._newest = record.seq
        if isinstance(item, (Reported, Saved)):
            saved = item.checkpoint
            if saved is not None:
                self.largest = max(self.largest, saved.size)
                trial = self.history.trials[item.trial_id]
                entry = trial.checkpoints.get(saved.number)
                if entry is not None and entry.saved is saved:  # else it came too late to count
                    self._changes.append(((trial.folder, saved.number), saved.digest))
        elif isinstance(item, (DeleteCheckpoint, Freed)):
            folder = self.history.trials[item.trial_id].folder
            self._changes.append(((folder, item.number), None))

    def flush(self) -> None:
        """All records of a batch have been taken."""
        with self._lock:
            for key, digest in self._changes:
                if digest is None:
                    self._existing.pop(key, None)
                else:
                    self._existing[key] = digest
            self._changes.clear()
            self.seq = self._newest

    def snapshot(self) -> Target:
        """Return the newest state. Called from any thread."""
        with self._lock:
            return Target(self.seq, dict(self._existing))

    def existed_at(self, seq: int, folder: Path) -> set[Key]:
        """Return the checkpoints that existed in an earlier state, before anything was taken.

        Args:
            seq: the newest record of that state.
            folder: the experiment's, with its journal.
        """
        if seq >= self.seq:
            return set(self._existing)
        added: set[Key] = set()
        deleted: set[Key] = set()
        with contextlib.closing(SQLiteJournal.open_for_reading(folder)) as journal:
            for record in journal.read(seq, unpickle=False):
                item = record.item
                if isinstance(item, (Reported, Saved)) and item.checkpoint is not None:
                    added.add((self.history.trials[item.trial_id].folder, item.checkpoint.number))
                elif isinstance(item, (DeleteCheckpoint, Freed)):
                    deleted.add((self.history.trials[item.trial_id].folder, item.number))
        return (self._existing.keys() | deleted) - added


class Rounds:
    """Does one round after the other. Used by one thread.

    Args:
        place: the experiment's, in storage.
        folder: the experiment's, on this machine.
        depot: has the checkpoints.
        ledger: knows which exist. Nothing has been taken yet.
        shipper: publishes the journal; it has begun.
        clock, sleep: seconds, and how to wait for some.
    """

    def __init__(
        self,
        place: Place,
        folder: Path,
        depot: Depot,
        ledger: Ledger,
        shipper: Shipper,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._place = place
        self._depot = depot
        self._ledger = ledger
        self._shipper = shipper
        self._meanwhile: Callable[[], object] = lambda: None
        self._steps = 0
        self._clock = clock
        self._sleep = sleep
        self._existed = ledger.existed_at(shipper.seq, folder)
        """What exists in the state that is published, until it was swept."""
        self._swept = False
        self._there: set[Key] = set()
        """What may be in storage, in part at least."""
        self._whole: set[Key] = set()
        """What is in storage, whole."""
        self._uploads: dict[Key, Future[None]] = {}
        self._done: queue.SimpleQueue[Key] = queue.SimpleQueue()
        """Of those that are done."""
        self._missed: dict[Key, int] = {}
        """How often one was not there that exists."""
        self._lost: set[Key] = set()
        """Those that exist, as the journal says, and are not there: whoever would go on from one will find that."""
        self._checked_at = float("-inf")

    def meanwhile(self, call: Callable[[], object]) -> None:
        """Have something called twice a second while uploads are waited for; what it raises ends the round."""
        self._meanwhile = call

    @property
    def moved(self) -> int:
        """A number that grows with all that arrives in storage, or goes from there. Called from any thread."""
        sent: int = getattr(self._depot, "moved", 0)
        return self._steps + self._shipper.published + sent

    @property
    def largest(self) -> int:
        """Bytes of the largest checkpoint so far."""
        return self._ledger.largest

    @property
    def behind(self) -> bool:
        """Whether there is something to do."""
        return (
            self._ledger.seq > self._shipper.seq or bool(self._uploads) or not self._swept or bool(self._superfluous())
        )

    @property
    def uploading(self) -> bool:
        """Whether uploads have not ended yet, or not been taken in."""
        return bool(self._uploads)

    @property
    def only_remnants(self) -> bool:
        """Whether nothing is left but uploads that have begun, and of which nobody needs anything any more."""
        wanted = self._ledger.snapshot().wanted
        return (
            bool(self._uploads)
            and self._swept
            and self._ledger.seq <= self._shipper.seq
            and not any(key in wanted for key in self._uploads)
            and not self._superfluous()
        )

    def run(self) -> None:
        """Do one round.

        An upload that was superseded while it went on is not waited for: a later round takes it in, and deletes it.

        Raises:
            TakenOver: somebody else has taken the experiment over.
            JournalError: the journal on this machine cannot be read.
            PlaceError: storage cannot be reached, or refuses. The next round does what was not done.
        """
        if not self._swept:
            self._sweep()
        self._take_in_late_ones()
        target = self._upload(self._ledger.snapshot())
        if target.seq > self._shipper.seq:
            self._check_mine()
            self._shipper.publish(target.seq)
        self._delete(self._superfluous(target))

    # --------------------------------------------------------------------------------------------------------- inside

    def _sweep(self) -> None:
        """Find out what is there, and delete what is of no state that is published: an earlier driver has left it.

        It may have the number of one that is still to come.
        """
        found: set[Key] = set()
        whole: set[Key] = set()
        for name in self._place.list_sizes():
            trial, _, inner = name.partition("/")
            first, _, rest = inner.partition("/")
            number = committed_number(first if rest else first.removesuffix(MANIFEST_SUFFIX))
            if number is not None:
                found.add((trial, number))
                if not rest and first.endswith(MANIFEST_SUFFIX):
                    whole.add((trial, number))
        self._there, self._whole = found, found & self._existed & whole
        self._check_mine()
        self._place.abort_uploads()
        self._delete(found - self._whole)
        self._swept = True

    def _upload(self, target: Target) -> Target:
        """Have everything uploaded that a state needs. Return that state; a later one, where something was deleted."""
        if any(map(self._is_missing, target.wanted)):
            self._check_mine()
        while True:
            # At once: from then on the depot deletes none of them before it is uploaded.
            for key, digest in target.wanted.items():
                if self._is_missing(key):
                    self._there.add(key)
                    future = self._uploads[key] = self._depot.upload(*key, digest, self._place_of(key))
                    future.add_done_callback(partial(self._note, key))
            for key in self._uploads.keys() - target.wanted.keys():
                self._uploads[key].cancel()
            if not any(key in target.wanted for key in self._uploads):
                return target
            missed = self._collect(self._wait(), target)  # first: what else there is to do may end this round
            self._meanwhile()
            self._check_while_uploading()
            if missed:
                self._sleep(_LOOK_AGAIN_S)
                target = self._ledger.snapshot()

    def _is_missing(self, key: Key) -> bool:
        return key not in self._whole and key not in self._uploads and key not in self._lost

    def _check_while_uploading(self) -> None:
        if self._clock() - self._checked_at > _CHECK_AGAIN_S:
            self._check_mine()

    def _note(self, key: Key, future: Future[None]) -> None:
        """An upload is done. Called from the thread that did it."""
        self._done.put(key)

    def _take_in_late_ones(self) -> None:
        """Take in uploads of an earlier round that are done, however they ended: what is still needed is begun anew."""
        done: list[Key] = []
        with contextlib.suppress(queue.Empty):
            while True:
                done.append(self._done.get_nowait())
        self._collect(done, Target(0, {}))

    def _wait(self) -> list[Key]:
        """Wait for uploads that are done; not for long."""
        done: list[Key] = []
        with contextlib.suppress(queue.Empty):
            done.append(self._done.get(timeout=_LOOK_S))
            if len(self._uploads) > _MANY:
                self._sleep(_GATHER_S)  # to look through them for each one would take longer
            while True:
                done.append(self._done.get_nowait())
        return done

    def _collect(self, done: Collection[Key], target: Target) -> bool:
        """Take in uploads that are done. Return whether one was not there that should be.

        Raises:
            Exception: of one that has failed.
        """
        failed: BaseException | None = None
        missed = False
        for key in done:
            future = self._uploads.pop(key)
            error = None if future.cancelled() else future.exception()
            if future.cancelled() or (error is not None and key not in target.wanted):
                continue
            if error is None:
                self._whole.add(key)
                self._steps += 1
            elif isinstance(error, FileNotFoundError):
                # The driver deletes before it tells.
                missed = True
                self._missed[key] = self._missed.get(key, 0) + 1
                if self._missed[key] >= _LOST_AFTER:
                    self._lost.add(key)
            else:
                failed = error
        if failed is not None:
            raise failed
        return missed

    def _superfluous(self, target: Target | None = None) -> set[Key]:
        """Return what may be in storage, and does not exist in a state; None: the newest."""
        wanted: Collection[Key] = (self._ledger.snapshot() if target is None else target).wanted
        return {key for key in self._there if key not in wanted and key not in self._uploads}

    def _delete(self, keys: Collection[Key]) -> None:
        if not keys:
            return
        # Before it is tried: what cannot be deleted now may be there in part.
        self._whole.difference_update(keys)
        todo = list(keys)
        for start in range(0, len(todo), _DELETED_TOGETHER):
            if self._clock() - self._checked_at > _CHECK_AGAIN_S:
                self._check_mine()
            each(partial(self._delete_one, key) for key in todo[start : start + _DELETED_TOGETHER])
            self._meanwhile()

    def _delete_one(self, key: Key) -> None:
        delete_checkpoint(self._place_of(key))
        self._there.discard(key)
        self._steps += 1

    def _check_mine(self) -> None:
        try:
            self._shipper.check_mine()
        except TakenOver:
            for future in list(self._uploads.values()):
                future.cancel()
            stop = getattr(self._depot, "stop", None)
            if stop is not None:
                stop()  # the uploads that have begun, too, before the manifests of their checkpoints
            raise
        self._checked_at = self._clock()

    def _place_of(self, key: Key) -> Place:
        return self._place / key[0] / checkpoint_name(key[1])
