"""The driver: wait for events, let the core decide, commit, carry out, tell the readers.

The order is the promise: what happened and what was decided is committed before anything acts on it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from .checkpoints.depot import Depot, LocalDepot
from .checkpoints.store import is_full
from .core.commands import Continue, DeleteCheckpoint, Evict, HandOn, Launch, Save, Stop, WindUp, checkpoint_name
from .core.events import Event, Failed, Reported, StopAsked, TrialAdded, Undecided
from .core.population import Population
from .core.reports import NO_ROOM
from .display import Status
from .engines import Engine, EngineCommand, grace_s
from .errors import InvalidTransition, JournalError, StorageError, one_line, stopper_failed
from .experiment import ExperimentInfo, Reader
from .history import History, Row, full_row
from .interruption import RESUME_EXIT_CODE, Interruption
from .journal import Item, Journal
from .space import copy_containers
from .watchdog import Watchdog
from .worker.wire import MemberInfo

if TYPE_CHECKING:
    from .storage.mirror import Mirror

__all__ = ["Driver", "Stopper"]

STOPPED_ALL = "the stopper ended the experiment"
AWAY = "storage is away"
_LOOK_S = 0.1
_TELL_AFTER_S = 2.0
"""After so long it is said that the rest is being copied to storage."""
_LAST_ROUND_S = 5.0
"""So long that may take at least, also where a signal came long ago. Most launchers kill 30 seconds after it."""
_TICK_S = 0.1
_POLL_S = 0.1
_SCARCE = 64
"""So many checkpoints, at least, must still have room on the disk, or old ones are deleted before members go on."""
_FOR_THE_ENGINE = (Launch, Continue, HandOn, Save, WindUp, Evict, Stop)
_SIGNS_OF_LIFE = (Reported, Launch, Continue)


class Stopper(Protocol):
    """Decides in the driver, after each result, whether a trial or the whole experiment ends."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return True to end the trial with this result."""
        ...

    def stop_all(self) -> bool:
        """Return True to end the experiment."""
        ...


@dataclass(slots=True)
class Driver:
    """Runs one experiment from its first event to its last.

    Args:
        info: facts about the experiment.
        folder: its folder, which exists.
        population: the core.
        journal: where everything is committed.
        engine: carries commands out; started.
        status: shows what goes on, and hears what members print.
        readers: told of every committed record, in this order, after the status.
        stopper: looks at every result; None where only a dict of stop conditions was given.
        watchdog: notices members that hang; None where they may.
        interruption: knows of the signals that came; entered already, or else while it runs.
        clock: seconds since the epoch.
        depot: where checkpoints lie; closed at the end. Default: in the folder.
        mirror: copies all of it to storage, where the experiment has a URL; told of every record as the last one.
    """

    info: ExperimentInfo
    folder: Path
    population: Population
    journal: Journal
    engine: Engine
    status: Status
    readers: Sequence[Reader] = ()
    stopper: Stopper | None = None
    watchdog: Watchdog | None = None
    interruption: Interruption = field(default_factory=Interruption)
    clock: Callable[[], float] = time.time
    depot: Depot | None = None
    mirror: Mirror | None = None
    history: History = field(default_factory=lambda: History(keep_rows=False))
    _readers: list[Reader] = field(default_factory=list)
    _in_step: bool = False
    _ahead: bool = False
    """The core knows of something that is not in the journal."""
    _no_room: str | None = None
    """What there was no room on the disk for; that ends the run."""
    _away: str | None = None
    """Why storage is given up, in words; that ends the run."""
    _asked_at: float = 0.0
    """When it was noticed that a signal came, by ``time.monotonic()``."""
    _largest: int = 0
    """Bytes of the largest checkpoint so far."""
    _next_tick: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    def run(self, begin: Sequence[Event], trials: Sequence[TrialAdded]) -> None:
        """Run the trials until all have ended.

        Args:
            begin: the first events.
            trials: all trials, also those that an earlier driver has added.

        Raises:
            KeyboardInterrupt: the user interrupted; everything reported so far is committed.
            SystemExit: a signal ended the run, likewise.
            StorageError: there was no room on the disk, or storage was away for too long, likewise.
            BaseException: a function of the user that is called here raised, or called ``sys.exit``; the trials were
                ended first.
        """
        if self.depot is None:
            self.depot = LocalDepot(self.folder)
        self._readers = [self.status, *self.readers, *([] if self.mirror is None else [self.mirror])]
        with self.interruption as interruption:
            try:
                for reader in self._readers:
                    self._guarded(reader, partial(reader.start, self.info, self.folder, self.history))
                self.history.forget_rows()
                for trial in trials:
                    folder = str(self.folder / trial.folder)
                    self.engine.add(MemberInfo(trial.trial_id, trial.index, trial.name, folder))
                self._step(begin)
                while not self.population.ended:
                    self._step(self.engine.poll(self._patience()))
                    self._tick()
                    interruption.insist()
                    self._see_why_to_end()
            except KeyboardInterrupt:
                # The second Ctrl-C, at an arbitrary place. Between two steps the core is whole, and can still be told.
                if not self._in_step:
                    self._give_up("interrupted by the user")
                raise
            except BaseException as error:
                self._in_step = False
                self._give_up(f"the run failed with {type(error).__name__}: {error}")
                raise
            finally:
                self._wind_up()
            self.leave_if_asked()
            if self._no_room is not None:
                raise StorageError(
                    f"There was no room on the disk: {self._no_room.rstrip('.')}. The run has ended, and what was "
                    f"reported so far is kept. {self._how_to_make_room()}, then go on: {self._how_to_go_on()}"
                )
            if self._away is not None:
                raise StorageError(self._lacks(self._away))

    def _how_to_make_room(self) -> str:
        if self.info.place is None:
            return "Make room"
        return (
            f"With storage at {self.info.place}, checkpoints lie on this machine, too, in {self.folder}. Make room, or "
            f"set SHOAL_CACHE to a folder on a larger disk"
        )

    def _see_why_to_end(self) -> None:
        """End the run gently where somebody has asked for it, or it cannot go on."""
        asked = self.interruption.asked is not None
        if asked and not self._asked_at:
            self._asked_at = time.monotonic()
        if self.mirror is not None:
            self._pass_on(self.mirror)
            self._away = self._away or self.mirror.trouble
        if self.population.stopping is not None:
            return
        if asked:
            self._end_gently(self.interruption.reason)
        elif self._no_room is not None:
            self._end_gently(f"{NO_ROOM}: {self._no_room}")
        elif self._away is not None:
            what = self._away.partition(". ")[0]
            is_away = self.mirror is not None and self.mirror.trouble is not None and not self.mirror.taken_over
            self._end_gently(f"{AWAY}: {what}" if is_away else what)

    def _pass_on(self, mirror: Mirror) -> None:
        """Tell the user what the mirror has to say."""
        for text in mirror.told():
            self._guarded(self.status, partial(self.status.note, text))

    def _lacks(self, why: str) -> str:
        """Say that storage does not have everything, and how to go on."""
        why, here = why.rstrip("."), f"tune.Tuner.restore({str(self.folder)!r}, {self.info.trainable}).fit()"
        if self.mirror is not None and self.mirror.taken_over:
            return (
                f"{why}. The run has ended, and what it has done is not copied: the experiment is the other driver's. "
                f"To read it: tune.ResultGrid.read({str(self.folder)!r}). To go on with it apart, without storage: "
                f"{here}"
            )
        kept = "nothing that was reported is lost"
        if self.info.engine == "ray":
            kept = (
                f"every result that was reported is in {self.folder}. Checkpoints that only other nodes of the cluster "
                f"had are gone with them; where there were some, the steps since those that storage has are done again"
            )
        return (
            f"{why}. The run has ended, and {kept}. When that is mended, this goes on and copies what "
            f"{self.info.place} lacks, on this machine: {self._how_to_go_on()}. Without storage: {here}"
        )

    def _end_gently(self, reason: str) -> None:
        """Have members come to their next report, which still counts, and end."""
        self._step([StopAsked(reason, gently=True)])
        if not self.population.ended:
            text = (
                f"The run ends ({reason}). Members that train come to their next report first, in {grace_s():g} s at "
                f"most (SHOAL_GRACE_S). Ctrl-C ends them at once."
            )
            self._guarded(self.status, partial(self.status.note, text))

    def _how_to_go_on(self) -> str:
        return f"tune.Tuner.restore({self.info.place or str(self.folder)!r}, {self.info.trainable}).fit()"

    def _wind_up(self) -> None:
        """Let the members go, hear what they still have to say, close the readers, and copy the rest to storage."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._say_how_it_ended)
            if self.depot is not None:
                stack.callback(self.depot.close)
            if self.mirror is not None:
                stack.callback(self._finish_copy, self.mirror)
            stack.callback(self._close_readers)
            self.engine.close(at_once=self.interruption.insisted)

    def _close_readers(self) -> None:
        for reader in self._readers:
            if reader is not self.mirror:
                self._guarded(reader, reader.close)

    def _say_how_it_ended(self) -> None:
        if self.interruption.asked is not None:
            self._say_how_to_go_on(self._where_it_is(), self._how_to_go_on())

    def _where_it_is(self) -> str:
        """Say where everything is that was reported."""
        if self.mirror is None:
            return f"Everything reported so far is in {self.folder}."
        if self._away is None:
            return f"Everything reported so far is in {self.info.place}."
        return f"{self.info.place} does not have everything: {self._away.rstrip('.')}."

    def _finish_copy(self, mirror: Mirror) -> None:
        """Have the rest copied to storage: all of it at a clean end, as much as there is time for after a signal.

        The mirror closes in a thread, so that what the user wants meanwhile is noticed.
        """
        began = time.monotonic()
        if self.interruption.asked is not None and not self._asked_at:
            self._asked_at = began
        left = self._copy_until(began) - began
        closed = threading.Event()
        failed: list[str] = []

        def close() -> None:
            try:
                mirror.close(at_once=self.interruption.insisted, patience_s=None if left == math.inf else left)
            except Exception as error:
                failed.append(self._copying_failed(error))
            finally:
                closed.set()

        told = given_up = False
        try:
            threading.Thread(target=close, name="shoal-last-round", daemon=True).start()
            while not (closed.wait(_LOOK_S) or given_up):
                now = time.monotonic()
                if self.interruption.asked is not None and not self._asked_at:
                    self._asked_at = now
                if not told and now - began > _TELL_AFTER_S:
                    told = True
                    text = f"Copying the rest to {self.info.place} ... Ctrl-C, pressed twice, skips that."
                    self._guarded(self.status, partial(self.status.note, text))
                self._pass_on(mirror)
                given_up = self.interruption.insisted or now > self._copy_until(began) + _LOOK_S
        finally:
            if not closed.is_set():
                failed.append(f"The rest was not copied. What is not in storage is in {self.folder}")
            self._away = self._away or mirror.trouble or next(iter(failed), None)
            mirror.abandon()  # nothing, where it is closed

    def _copying_failed(self, error: Exception) -> str:
        return f"Copying to {self.info.place} failed: {one_line(error)}. What is not in storage is in {self.folder}"

    def _copy_until(self, began: float) -> float:
        """Return until when the last round may take, where a signal has said that there is not much time."""
        if not self._asked_at:
            return math.inf
        return max(self._asked_at + grace_s(), began + _LAST_ROUND_S)

    def _say_how_to_go_on(self, there: str, how: str) -> None:
        """The last line that is shown, below the final table."""
        asked = self.interruption.asked
        assert asked is not None
        by = "" if self.interruption.by_user else f" by {asked.name}, with exit code {RESUME_EXIT_CODE}"
        self._guarded(self.status, partial(self.status.note, f"Interrupted{by}. {there} To go on: {how}"))
        self._guarded(self.status, self.status.close)

    def leave_if_asked(self) -> None:
        """Leave ``fit()`` where a signal came. The last line has been shown, or there was nothing left to interrupt."""
        if self.interruption.asked is not None:
            self.interruption.leave(self._how_to_go_on())

    def leave_before_the_run(self, *, new: bool) -> NoReturn:
        """Leave ``fit()`` because of a signal that came before anything had begun.

        Args:
            new: whether the experiment is new: then nothing is left of it. One that goes on is as it was.
        """
        there, how = f"Everything reported so far is in {self.info.place or self.folder}.", self._how_to_go_on()
        if new:
            there, how = "Nothing had begun, and nothing is left of it.", "start the script again."
        self._readers = [self.status]
        self._say_how_to_go_on(there, how)
        self.interruption.leave(how)

    @property
    def settled(self) -> bool:
        """True where the journal holds all that the core knows."""
        return not self._ahead and not self._in_step

    def output(self, name: str, text: str) -> None:
        """Show a line that a member printed. Given to the engine."""
        self._guarded(self.status, partial(self.status.output, name, text))

    def note(self, text: str) -> None:
        """Show a remark of the engine, also while it starts. Given to the engine."""
        if self._readers:
            self._guarded(self.status, partial(self.status.note, text))
        else:
            with contextlib.suppress(OSError):  # a terminal that is gone ends no run
                self.status.note(text)

    def _give_up(self, reason: str) -> None:
        """Commit that and why the experiment ends here, where something in the driver raised."""
        if self._ahead:
            return  # what the core would decide now does not follow from the journal, and nobody could follow it
        with contextlib.suppress(Exception):
            if not self.population.ended:
                self._step([StopAsked(reason)])

    def _patience(self) -> float:
        """How long to wait for events: not longer than until the next duty."""
        limit = self.info.time_budget_s
        left = _POLL_S if limit is None else limit - self._elapsed()
        return max(0.0, min(_POLL_S, left))

    def _elapsed(self) -> float:
        """Seconds since the start, whatever happens to the time of day."""
        return time.monotonic() - self._began

    def _tick(self) -> None:
        now = self.clock()
        if now >= self._next_tick:
            self._next_tick = now + _TICK_S
            self._check_place()
            self._guarded(self.status, partial(self.status.tick, now))
            if self.stopper is not None and self.population.stopping is None and self._asks_to_stop_all(self.stopper):
                self._step([StopAsked(STOPPED_ALL, met="stop")])
        if self.watchdog is not None:
            running = self.population.running
            training = [trial.trial_id for trial in running if not trial.waiting or trial.ending is not None]
            for trial_id in self.watchdog.overdue(training, self._elapsed()):
                waited = f"{self.watchdog.timeout_s:g} s"
                self.engine.kill(trial_id, f"it reported nothing for {waited}, the report_timeout_s, and was killed")
        limit = self.info.time_budget_s
        if limit is not None and self._elapsed() >= limit and self.population.stopping is None:
            self._step([StopAsked(f"the time budget of {limit:g} s is spent", met="time_budget_s")])

    def _check_place(self) -> None:
        """End the run where its folder is no longer the one of its path: nobody would find what it still writes."""
        try:
            self.journal.check_place()
        except Exception:  # and not where the user cannot wait: that may come while it is looked for
            self._ahead = True  # and nothing more is written or swept there: another run may be in its place
            raise

    # ------------------------------------------------------------------------------------------------------- one step

    def _step(self, events: Sequence[Event]) -> None:
        """Let the core decide on a batch of events, commit, act, and tell the readers."""
        if not events:
            return
        items: list[Item] = []
        self._in_step = True
        try:
            for event in events:
                if isinstance(event, Failed) and event.no_room:
                    self._no_room = self._what_had_no_room(event)
                if self.stopper is not None and isinstance(event, Reported):
                    # The stopper is shown facts, so what happened before has to be one.
                    # Taken out first: a second Ctrl-C on the way must not have them committed again below.
                    before, items = items, []
                    self._commit(before)
                for judged in (event,) if self.stopper is None else self._judged(event):
                    try:
                        items += [judged, *self.population.apply(judged)]
                    except InvalidTransition:
                        self._ahead = True
                        raise
                    except KeyboardInterrupt:
                        raise
                    except BaseException as error:
                        # A function of the user's raised. What happened is written down all the same, and marked.
                        items += [Undecided(one_line(error)), judged, *self.population.decided]
                        raise
        finally:
            # Also where a function of the user raised on the way: what happened before has happened.
            self._commit(items)
        self._in_step = False

    def _commit(self, items: list[Item]) -> None:
        """Write down what happened and what was decided, then carry it out, then tell the readers."""
        if not items:
            return
        try:
            records = self.journal.append(items, self.clock())
        except JournalError as error:
            self._ahead = True
            raise JournalError(f"{error} {self._after_a_lost_record(is_full(error))}") from error
        except BaseException:
            self._ahead = True
            raise
        self._carry_out(items)
        for record in records:
            self.history.add(record)
            for reader in self._readers:
                try:
                    reader.take(record)
                except Exception as error:
                    self._leave_out(reader, error)
        for reader in self._readers:
            self._guarded(reader, reader.flush)

    def _carry_out(self, items: list[Item]) -> None:
        deletions = [item for item in items if isinstance(item, DeleteCheckpoint)]
        if deletions and self._room_is_scarce():
            self._delete(deletions)  # before a member goes on that may need the room
            deletions.clear()
        for item in items:
            if isinstance(item, Reported):  # the first to be asked for, because most are
                if item.checkpoint is not None:
                    self._largest = max(self._largest, item.checkpoint.size)
            elif isinstance(item, _FOR_THE_ENGINE):
                self._execute(item)
            if self.watchdog is not None and isinstance(item, _SIGNS_OF_LIFE):
                self.watchdog.hear(item.trial_id, self._elapsed())
        self._delete(deletions)

    def _room_is_scarce(self) -> bool:
        """Return whether the disk might be full before the next deletion."""
        try:
            return shutil.disk_usage(self.folder).free < _SCARCE * max(self._largest, 1 << 20)
        except OSError:
            return True

    def _delete(self, deletions: Sequence[DeleteCheckpoint]) -> None:
        assert self.depot is not None
        for command in deletions:
            self.depot.delete(self.history.trials[command.trial_id].folder, command.number)

    def _after_a_lost_record(self, full: bool) -> str:
        """Say what to do where the journal could not be written."""
        when = "Make room" if full else "When that is mended"
        if self.history.started_at is None:
            return f"Nothing had begun. {when}{', then' if full else ','} start the run again."
        return (
            f"The run has ended, and what is in the journal is kept; nothing was done that is not. "
            f"{when}{', then' if full else ','} go on: {self._how_to_go_on()}"
        )

    def _what_had_no_room(self, event: Failed) -> str:
        """Say what a member could not write: its checkpoint, which its error names, or something of its own."""
        if event.error.startswith(StorageError.__name__):
            return event.error
        return f"what trial {self.history.trials[event.trial_id].name} writes by itself: {event.error}"

    def _judged(self, event: Event) -> list[Event]:
        """Ask the user's stopper about a result, so that its answer is part of what happened."""
        if self.stopper is None or not isinstance(event, Reported):
            return [event]
        trial = self.history.trials[event.trial_id]
        if event.launch != trial.launches or trial.status.ended or trial.over:
            return [event]  # late: it counts for nobody
        row = Row(event, trial.config, len(trial.exploits), trial.pid, trial.hostname)
        judged: list[Event] = [event]
        try:
            if self.stopper(event.trial_id, copy_containers(full_row(trial, row))) and event.stop is None:
                judged = [dataclasses.replace(event, stop="the stop condition is met")]
        except Exception as error:
            asked = f"about iteration {event.iteration} of trial {event.trial_id}"
            raise stopper_failed(self.stopper, error, asked) from error
        if self.population.stopping is None and self._asks_to_stop_all(self.stopper):
            judged.append(StopAsked(STOPPED_ALL, met="stop"))
        return judged

    def _asks_to_stop_all(self, stopper: Stopper) -> bool:
        try:
            return bool(stopper.stop_all())
        except Exception as error:
            raise stopper_failed(stopper, error, "whether all should end") from error

    def _execute(self, command: EngineCommand) -> None:
        checkpoint = command.checkpoint if isinstance(command, Launch) else None
        path = None
        if checkpoint is not None:
            path = str(self._trial_folder(checkpoint.trial_id) / checkpoint_name(checkpoint.number))
        self.engine.execute(command, path)

    def _trial_folder(self, trial_id: str) -> Path:
        return self.folder / self.history.trials[trial_id].folder

    def _guarded(self, reader: Reader, call: Callable[[], object]) -> None:
        """A reader that raises is shown and left out from then on; the run goes on."""
        if reader in self._readers:
            try:
                call()
            except Exception as error:
                self._leave_out(reader, error)

    def _leave_out(self, reader: Reader, error: Exception) -> None:
        # A new list, because somebody may be going through the old one.
        self._readers = [other for other in self._readers if other is not reader]
        if reader is self.mirror:
            # Without it nothing more is copied, and a run that then ended well would be taken for one that was.
            self._away = self._away or self._copying_failed(error)
        elif is_full(error) and reader is not self.status:
            # What it lacks now is written when the run goes on, from the journal.
            self._no_room = f"{type(reader).__name__}: {one_line(error)}"
            with contextlib.suppress(Exception):
                reader.close()
            return
        failure = "".join(traceback.format_exception(error))
        text = f"{type(reader).__name__} failed and is switched off:\n{failure}"
        if reader is not self.status:
            self._guarded(self.status, partial(self.status.note, text))
        else:
            # Its terminal or pipe is gone, most likely; the run is not.
            with contextlib.suppress(Exception):
                sys.stderr.write(f"shoal: {text}")
