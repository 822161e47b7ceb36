"""Keeps the copy of a running experiment in storage up to date, behind the run. What it does is in :mod:`.rounds`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.depot import Depot
from ..errors import JournalError, StorageError, one_line
from ..journal.codec import Record
from ..journal.sqlite import SQLiteJournal
from ..patience import seconds_set, storage_patience_s
from .logs import LogCopies
from .place import Place
from .rounds import Ledger, Rounds
from .shipping import Shipper, TakenOver
from .trying import Backoff, passes

if TYPE_CHECKING:
    from ..experiment import ExperimentInfo
    from ..history import History

__all__ = ["Mirror"]

_EVERY_S = 1.0
_BEAT_S = 2.0
_LOGS_S = 30.0
_LOGS_SHARE = 10.0
"""Log files are copied for a tenth of the time at most."""
_AT_ONCE_S = 5.0
_SAY_AFTER_S = 5.0
"""Storage that is away for less is not spoken of."""
_MOST_S = 5.0
"""Longest time between two tries."""
_GRACE_S = 2.0
_LOOK_S = 0.05
_ASK_S = 0.5
_LASTING_S = 60.0
"""So long it is tried again what does not pass by itself: somebody may be about to mend it."""
_SILENT_S = 60.0
"""After so long in which nothing has arrived in storage, without an error, the user is told."""
_NOTHING, _IN_THE_RUN, _AT_THE_END = range(3)
"""When the user was told last that something is wrong."""
_RATE = 1 << 20
"""Bytes in a second. Of a checkpoint on another machine is known only when all of it has arrived."""


class _Late(Exception):
    """There is no more time."""


class Mirror:
    """A reader of the experiment, with a thread of its own. It must be the last of the driver's readers.

    Args:
        place: the experiment's, in storage.
        depot: has the experiment's checkpoints.
        every_s: seconds between the beginnings of two rounds, at least. Default: ``SHOAL_STORAGE_EVERY_S``, or 1.
        patience_s: for how many seconds nothing may move, because storage is away or for any other reason. Default:
            ``SHOAL_STORAGE_PATIENCE_S``, or 600.
        clock: seconds.
    """

    def __init__(
        self,
        place: Place,
        depot: Depot,
        *,
        every_s: float | None = None,
        patience_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.trouble: str | None = None
        """Why it has given up, in a sentence or two: the run is to end."""
        self.taken_over = False
        """Whether that is because another driver has the experiment now."""
        self._place = place
        self._depot = depot
        self._every_s = seconds_set("SHOAL_STORAGE_EVERY_S", _EVERY_S) if every_s is None else every_s
        self._patience_s = storage_patience_s() if patience_s is None else patience_s
        self._clock = clock
        self._progressed_at = clock()
        """When something has arrived in storage, or there was nothing to do."""
        self._moved = 0
        self._rounds: Rounds | None = None
        self._logs: LogCopies | None = None
        self._said = _NOTHING
        self._failed: str | None = None
        """What went wrong last, since something went well."""
        self._folder = Path()
        self._shipper: Shipper | None = None
        self._ledger: Ledger | None = None
        self._thread: threading.Thread | None = None
        self._woken = threading.Event()
        """There is something new, or it is to end."""
        self._ending = threading.Event()
        self._deadline = float("inf")
        """When the last round is given up."""
        self._done = threading.Event()
        self._texts: deque[str] = deque()
        self._closed = False

    def begin(self, folder: Path) -> None:
        """Take the experiment over in storage, before anything runs. Whoever has called this calls :meth:`close`.

        Args:
            folder: the experiment's on this machine. Its journal has its facts.

        Raises:
            TakenOver: somebody else does so at this moment.
            JournalError: there are records in storage that are not in the folder.
            PlaceError: storage cannot be reached, or refuses.
        """
        self._folder = folder
        shipper = Shipper(self._place, folder, _BEAT_S)
        shipper.begin()
        self._shipper = shipper
        threading.Thread(target=self._keep_beating, args=(shipper,), name="shoal-heartbeat", daemon=True).start()

    def start(self, info: ExperimentInfo, folder: Path, history: History) -> None:
        """See :class:`shoal.experiment.Reader`; :meth:`begin` has been called."""
        if self._shipper is None:
            self.begin(folder)
        assert self._shipper is not None
        with contextlib.closing(SQLiteJournal.open_for_reading(folder)) as journal:
            self._ledger = Ledger(history, journal.last)
        self._rounds = Rounds(self._place, folder, self._depot, self._ledger, self._shipper)
        self._rounds.meanwhile(self._check_time)
        self._logs = LogCopies(self._place, folder)
        copier = _Copier(self._rounds, self._shipper, self._logs, every_s=self._every_s, clock=self._clock)
        self._progressed_at = self._clock()
        thread = threading.Thread(target=self._run, args=(copier,), name="shoal-mirror", daemon=True)
        thread.start()
        self._thread = thread

    def take(self, record: Record) -> None:
        """See :class:`shoal.experiment.Reader`."""
        if self._ledger is not None:
            self._ledger.take(record)

    def flush(self) -> None:
        """See :class:`shoal.experiment.Reader`."""
        if self._ledger is not None:
            self._ledger.flush()
            self._woken.set()

    def told(self) -> list[str]:
        """Return what the user is to be told since the last call, such as that storage is away."""
        found: list[str] = []
        while self._texts:
            found.append(self._texts.popleft())
        return found

    def close(self, *, at_once: bool = False, patience_s: float | None = None) -> None:
        """Make the last round: all checkpoints, the journal, the log files. Closing again does nothing.

        Where not all of it is in storage then, :attr:`trouble` says so.

        Args:
            at_once: try for a few seconds only.
            patience_s: for how many seconds to try; default: as long as something moves, and the patience after that.
        """
        if self._closed:
            return
        self._closed = True
        if self._thread is None:
            self._done.set()
            self._say_that_it_ended()
            return
        self._progressed_at = self._clock()
        if at_once or self.trouble is not None:
            patience_s = min(self._patience_s if patience_s is None else patience_s, _AT_ONCE_S)
        if patience_s is not None:
            self._deadline = self._clock() + patience_s
        self._ending.set()
        self._woken.set()
        while not self._done.wait(min(_ASK_S, _GRACE_S)):
            self._look_whether_it_moves()
            # A request to which nobody answers takes its time; it is not waited for.
            if self._clock() > min(self._deadline, self._progressed_at + self._allowed_s()) + _GRACE_S:
                self._give_up(f"{self._place} does not answer" if self._failed is None else self._no_time())
                self.abandon()
                return

    def abandon(self) -> None:
        """Copy nothing more, wait for nothing, and do not say any more that this driver is there. Called at any time.

        A :meth:`close` that another thread is in returns.
        """
        self._deadline = min(self._deadline, self._clock())
        self._done.set()
        self._ending.set()
        self._woken.set()

    def _say_that_it_ended(self) -> None:
        """Nothing has run, or all is done: let nobody wait for the next heartbeat."""
        if self._shipper is not None:
            with contextlib.suppress(StorageError):
                self._shipper.beat(ended=True)

    def _keep_beating(self, shipper: Shipper) -> None:
        """Say that the driver is there, whatever the rounds do; in a thread of its own."""
        while not self._done.wait(_BEAT_S):
            with contextlib.suppress(Exception):  # the rounds notice that storage is away
                shipper.beat()

    # ----------------------------------------------------------------------------------------------- in its own thread

    def _run(self, copier: _Copier) -> None:
        try:
            self._copy(copier)
        except Exception as error:
            # Somebody else has taken it over, the journal cannot be read, or Shoal has a bug.
            self.taken_over = isinstance(error, TakenOver)
            self._give_up(str(error) if isinstance(error, StorageError) else one_line(error))
        finally:
            copier.close()
            self._done.set()

    def _copy(self, copier: _Copier) -> None:
        backoff = Backoff(most_s=_MOST_S)
        while not self._done.is_set():
            self._woken.clear()
            ending = self._ending.is_set()
            try:
                self._check_time()
                done = copier.work(ending=ending)
            except JournalError:
                raise
            except (_Late, OSError) as error:
                if ending and isinstance(error, _Late) and not self._done.is_set() and copier.has_only_remnants:
                    self._say_that_it_ended()  # the sweep of whoever goes on with it deletes them
                    return
                if self._is_hopeless(error, ending=ending):
                    return
                delay = backoff.next()
                if ending:
                    time.sleep(max(0.0, min(delay, self._deadline - self._clock())))
                else:
                    self._ending.wait(delay)
                continue
            if done:
                return
            if ending and self._deadline < float("inf") and copier.has_only_remnants:
                self._say_that_it_ended()  # what there is not much time for is not spent on them
                return
            waiting = ending and copier.waiting
            if not waiting:
                backoff.reset()
                self._went_well()
            (self._ending if copier.behind and not ending else self._woken).wait(copier.until_next(ending=ending))
            if not waiting:
                self._progressed_at = self._clock()  # it was not storage that was waited for

    def _went_well(self) -> None:
        self._failed = None
        self._progressed_at = self._clock()
        if self._said != _NOTHING:
            self._said = _NOTHING
            self._texts.append(f"{self._place} can be used again; what is missing there is copied now.")

    def _is_hopeless(self, error: BaseException, *, ending: bool) -> bool:
        """Something went wrong: say so, and give up where it is time. Return whether nothing more is to be tried."""
        if self._done.is_set():
            return True
        late = isinstance(error, _Late)
        now = self._clock()
        if not late:
            self._failed = str(error)
            self._look_whether_it_moves()
        elif self._failed is None and self._shipper is not None:
            try:
                self._shipper.beat()  # an upload that tries again by itself does not say why
            except StorageError as why:
                self._failed = str(why)
        away = now - self._progressed_at
        lasting = not late and not passes(error)
        patience = min(self._patience_s, _LASTING_S) if lasting else self._patience_s
        if not late and away > _SAY_AFTER_S:
            if self._ending.is_set():
                self._say(f"{error} The run has ended; the rest is copied when that works again.")
            else:
                self._say(f"{error} The run goes on, and what is new is copied when that works again.")
        if now >= self._deadline:
            self._give_up(self._no_time())
            return True
        if late or away > patience:
            how = "" if lasting else " (SHOAL_STORAGE_PATIENCE_S)"
            text = f"Nothing arrives in {self._place}." if self._failed is None else self._failed
            self._give_up(f"{text} So it has been for {away:.0f} s{how}")
            return ending
        return False

    def _no_time(self) -> str:
        why = "" if self._failed is None else f": {self._failed}"
        return f"There was no time to copy everything to {self._place}{why}"

    def _check_time(self) -> None:
        """Look whether things go on, and say so where they do not. Called again and again while something is copied.

        Raises:
            _Late: there is no more time.
        """
        if self._done.is_set():
            raise _Late
        now = self._clock()
        self._look_whether_it_moves()
        silent = now - self._progressed_at
        if silent > _SILENT_S:
            how = "has ended" if self._ending.is_set() else "goes on"
            self._say(f"Nothing has arrived in {self._place} for {silent:.0f} s. The run {how}; it is waited for.")
        if now >= self._deadline or (silent > self._allowed_s() and self.trouble is None):
            raise _Late

    def _look_whether_it_moves(self) -> None:
        moved = (0 if self._rounds is None else self._rounds.moved) + (0 if self._logs is None else self._logs.moved)
        if moved != self._moved:
            self._moved, self._progressed_at = moved, self._clock()

    def _allowed_s(self) -> float:
        """Return for how many seconds nothing may arrive."""
        largest = 0 if self._rounds is None else self._rounds.largest
        return self._patience_s + largest / _RATE

    def _say(self, text: str) -> None:
        """Have the user told something, once in the run, and once more when it has ended."""
        now = _AT_THE_END if self._ending.is_set() else _IN_THE_RUN
        if self._said < now:
            self._said = now
            self._texts.append(text)

    def _give_up(self, why: str) -> None:
        if self.trouble is None:
            where = "" if self.taken_over else f" What is not in storage is in {self._folder}."
            self.trouble = f"{why.rstrip('.')}.{where}"


class _Copier:
    """Does what is due, in the mirror's thread."""

    def __init__(
        self,
        rounds: Rounds,
        shipper: Shipper,
        logs: LogCopies,
        *,
        every_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._rounds = rounds
        self._shipper = shipper
        self._logs = logs
        self._every_s = every_s
        self._clock = clock
        now = clock()
        self._next_round = now
        self._next_logs = now + min(every_s, _LOGS_S)
        self._sending: Future[None] | None = None
        """Log files on their way."""
        self._sending_since = now
        self._last_ones = False
        """Whether these are what the log files are at the end."""

    @property
    def behind(self) -> bool:
        """Whether a round is due, now or soon."""
        return self._rounds.behind

    @property
    def waiting(self) -> bool:
        """Whether something is on its way, log files or checkpoints."""
        return self._sending is not None or self._rounds.uploading

    @property
    def has_only_remnants(self) -> bool:
        """Whether all is copied, and only uploads that nobody needs any more have not ended."""
        return self._last_ones and self._sending is None and self._rounds.only_remnants

    def work(self, *, ending: bool) -> bool:
        """Do what is due. Return whether all is done, where the experiment has ended.

        Args:
            ending: whether nothing new comes.

        Raises:
            TakenOver, JournalError: nothing more can be done.
            OSError: storage cannot be reached, or refuses; the next call tries again.
        """
        now = self._clock()
        if self._rounds.behind and (ending or now >= self._next_round):
            self._rounds.run()
            self._next_round = now + self._every_s
        logs_done = self._copy_logs(ending)
        if not ending or self._rounds.behind or not logs_done:
            return False
        self._shipper.beat(ended=True)
        return True

    def until_next(self, *, ending: bool) -> float:
        """Return for how many seconds there is nothing to do, if nothing new comes."""
        due = [self._clock() + _ASK_S] if ending else []
        if self._sending is not None or (ending and self._rounds.uploading):
            due.append(self._clock() + _LOOK_S)
        elif not ending:
            due.append(self._next_logs)
        if self._rounds.behind and not ending:
            due.append(self._next_round)
        return max(0.0, min(due) - self._clock())

    def close(self) -> None:
        """Copy nothing more."""
        self._logs.close()

    def _copy_logs(self, ending: bool) -> bool:
        """Have log files copied where that is due. Return whether it has been done for the last time."""
        now = self._clock()
        if self._sending is not None:
            if not self._sending.done():
                return False
            sent, self._sending = self._sending, None
            self._next_logs = now + max(_LOGS_S, _LOGS_SHARE * (now - self._sending_since))
            error = sent.exception()
            if error is not None:
                self._last_ones = False
                raise error
            if self._last_ones:
                return True
        if self._last_ones:
            return True
        if ending or now >= self._next_logs:
            self._sending, self._sending_since, self._last_ones = self._logs.send(), now, ending
        return False
