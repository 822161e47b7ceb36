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
from .shipping import Shipper
from .trying import Backoff, PlaceError

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
"""So often, while uploads are waited for, it is looked whether there is still time."""


class Mirror:
    """A reader of the experiment, with a thread of its own. It must be the last of the driver's readers.

    Args:
        place: the experiment's, in storage.
        depot: has the experiment's checkpoints.
        every_s: seconds between the beginnings of two rounds, at least. Default: ``SHOAL_STORAGE_EVERY_S``, or 1.
        patience_s: for how many seconds storage may be away. Default: ``SHOAL_STORAGE_PATIENCE_S``, or 600.
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
        self._place = place
        self._depot = depot
        self._every_s = seconds_set("SHOAL_STORAGE_EVERY_S", _EVERY_S) if every_s is None else every_s
        self._patience_s = storage_patience_s() if patience_s is None else patience_s
        self._clock = clock
        self._beat_s = max(self._every_s, _BEAT_S)
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
        shipper = Shipper(self._place, folder, self._beat_s)
        shipper.begin()
        self._shipper = shipper

    def start(self, info: ExperimentInfo, folder: Path, history: History) -> None:
        """See :class:`shoal.experiment.Reader`; :meth:`begin` has been called."""
        if self._shipper is None:
            self.begin(folder)
        assert self._shipper is not None
        with contextlib.closing(SQLiteJournal.open_for_reading(folder)) as journal:
            self._ledger = Ledger(history, journal.last)
        copier = _Copier(
            Rounds(self._place, folder, self._depot, self._ledger, self._shipper),
            self._shipper,
            LogCopies(self._place, folder),
            every_s=self._every_s,
            beat_s=self._beat_s,
            clock=self._clock,
            check=self._check_time,
        )
        self._thread = threading.Thread(target=self._run, args=(copier,), name="shoal-mirror", daemon=True)
        self._thread.start()

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
            patience_s: for how many seconds to try; default: as long as storage may be away.
        """
        if self._closed:
            return
        self._closed = True
        patience = self._patience_s if patience_s is None else patience_s
        if at_once or self.trouble is not None:
            patience = min(patience, _AT_ONCE_S)
        if self._thread is None:
            self._say_that_it_ended()
            return
        self._deadline = self._clock() + patience
        self._ending.set()
        self._woken.set()
        # A request to which nobody answers takes its time; it is not waited for.
        if not self._done.wait(patience + _GRACE_S):
            self._give_up(f"{self._place} does not answer")

    def _say_that_it_ended(self) -> None:
        """Nothing has run: let nobody wait for the next heartbeat."""
        if self._shipper is not None:
            with contextlib.suppress(StorageError):
                self._shipper.beat(ended=True)

    # ----------------------------------------------------------------------------------------------- in its own thread

    def _run(self, copier: _Copier) -> None:
        try:
            self._copy(copier)
        except Exception as error:
            # Somebody else has taken it over, the journal cannot be read, or Shoal has a bug.
            self._give_up(str(error) if isinstance(error, StorageError) else one_line(error))
        finally:
            copier.close()
            self._done.set()

    def _copy(self, copier: _Copier) -> None:
        backoff = Backoff(most_s=_MOST_S)
        failing_since: float | None = None
        said = False
        while True:
            self._woken.clear()
            ending = self._ending.is_set()
            try:
                done = copier.work(ending=ending)
            except JournalError:
                raise
            except OSError as error:
                now = self._clock()
                failing_since = now if failing_since is None else failing_since
                away = now - failing_since
                if away > _SAY_AFTER_S and not said:
                    said = True
                    self._texts.append(f"{error} The run goes on, and what is new is copied when that works again.")
                if now >= self._deadline:
                    self._give_up(str(error))
                    return
                if away > self._patience_s and not ending:
                    self._give_up(f"{error} So it has been for {away:.0f} s (SHOAL_STORAGE_PATIENCE_S)")
                delay = backoff.next()
                if ending:
                    time.sleep(max(0.0, min(delay, self._deadline - now)))
                else:
                    self._ending.wait(delay)
                continue
            backoff.reset()
            failing_since = None
            if said:
                said = False
                self._texts.append(f"{self._place} can be used again; what is missing there is copied now.")
            if done:
                return
            (self._ending if copier.behind else self._woken).wait(copier.until_next(ending=ending))

    def _check_time(self) -> None:
        """Raise PlaceError where the last round is to be given up."""
        if self._clock() >= self._deadline:
            raise PlaceError(f"There was no time to copy everything to {self._place}", passes=True)

    def _give_up(self, why: str) -> None:
        if self.trouble is None:
            self.trouble = f"{why.rstrip('.')}. What is not in storage is in {self._folder}."


class _Copier:
    """Does what is due, in the mirror's thread."""

    def __init__(
        self,
        rounds: Rounds,
        shipper: Shipper,
        logs: LogCopies,
        *,
        every_s: float,
        beat_s: float,
        clock: Callable[[], float],
        check: Callable[[], None],
    ) -> None:
        self._rounds = rounds
        self._shipper = shipper
        self._logs = logs
        self._every_s = every_s
        self._beat_s = beat_s
        self._clock = clock
        self._check = check
        now = clock()
        self._next_round = now
        self._next_beat = now + beat_s
        self._next_logs = now + min(every_s, _LOGS_S)
        self._sending: Future[None] | None = None
        """Log files on their way."""
        self._sending_since = now
        self._last_ones = False
        """Whether these are what the log files are at the end."""
        rounds.meanwhile(self._beat_if_due, self._until_beat)

    @property
    def behind(self) -> bool:
        """Whether a round is due, now or soon."""
        return self._rounds.behind

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
            self._beat_if_due()
            return False
        self._shipper.beat(ended=True)
        return True

    def until_next(self, *, ending: bool) -> float:
        """Return for how many seconds there is nothing to do, if nothing new comes."""
        due = [self._next_beat]
        if self._sending is not None:
            due.append(self._clock() + _LOOK_S)
        elif not ending:
            due.append(self._next_logs)
        if self._rounds.behind:
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

    def _until_beat(self) -> float:
        return max(0.0, min(_ASK_S, self._next_beat - self._clock()))

    def _beat_if_due(self) -> None:
        self._check()
        if self._clock() >= self._next_beat:
            self._next_beat = self._clock() + self._beat_s
            self._shipper.beat()
