"""The population: every trial's state, and what follows from each event.

``apply(event)`` returns commands. It is the one place where things are decided: who trains, who waits, who copies whom,
which checkpoint goes. It reads no clock, does no I/O and draws no random number of its own; the scheduler's policy
answers its questions. The same events give the same commands, always. Who runs where is told in
:mod:`shoal.core.slots`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from ..errors import InvalidTransition
from .commands import (
    Await,
    CheckpointRecord,
    Command,
    DeleteCheckpoint,
    Exploit,
    FallBack,
    Reconfigure,
    Retry,
    Save,
    Status,
    Stop,
    WindUp,
    checkpoint_id,
)
from .events import (
    Damaged,
    Drifted,
    Event,
    Failed,
    Finished,
    Freed,
    Lost,
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
from .limits import Limits, RetentionRules
from .policy import Change, Copy, Decision, GiveUp, Policy
from .reports import AUTOMATIC, NO_ROOM, number, reader, value_of
from .retention import Retention
from .slots import Slots
from .trial import Trial, changed_numbers

__all__ = ["BARREN_AT_MOST", "DISPLACED_AT_MOST", "ORPHANED_AT_MOST", "Limits", "Population", "Trial"]

_RESERVED = frozenset(AUTOMATIC)

_FALLBACKS = 8
"""How many older checkpoints of a trial are remembered for the case that a newer one is damaged, where all are kept."""

BARREN_AT_MOST = 20
"""A trial that fails so often without one report in between has failed for good, whatever ``max_failures`` says."""

ORPHANED_AT_MOST = 2
"""So often in a row a trial may lose its process by no fault of its own without getting further. Then it has failed."""

DISPLACED_AT_MOST = 20
"""The same where its slot has left too. Nodes come and go, and only one that brings each of them down is to blame."""


class Population(Slots):
    """Trials, slots and checkpoints of one experiment.

    Args:
        policy: the scheduler's decisions.
        metric: the key that the policy compares, or None.
        time_attr: the key that measures progress.
        limits: slots, residents, failures.
        retention: which checkpoints are kept.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        metric: str | None = None,
        time_attr: str = "training_iteration",
        limits: Limits | None = None,
        retention: RetentionRules | None = None,
    ) -> None:
        super().__init__(policy, limits or Limits())
        self._score_of = reader(metric)
        self._time_of = reader(time_attr)
        self.retention = Retention(retention or RetentionRules())
        self._met: str | None = None
        """The user's condition by which all end, or None."""
        self._live = 0
        self._hoping: set[str] = set()
        """Trials that have failed for good and wait for a donor."""
        self._mute = False
        """The scheduler is not asked about the next event."""

    @property
    def ended(self) -> bool:
        """True where every trial has ended (also where there is none)."""
        return self._live == 0

    # -------------------------------------------------------------------------------------------------------- apply

    def apply(self, event: Event) -> list[Command]:
        """Take in what happened and return what to do, in order.

        Raises:
            InvalidTransition: the event cannot follow what was before; a bug in the shell.
        """
        self._out = []
        handler = self._HANDLERS.get(type(event))
        if handler is None:
            raise InvalidTransition(f"unknown event {event!r}")
        handler(self, event)
        if not self._mute:
            if self._free:
                self._assign()
            if self._nearer and self.limits.hands_on:
                for trial in self._nearer:
                    self._promise(trial)
        elif not isinstance(event, Undecided):
            self._mute = False
        self._nearer.clear()
        return self._out

    @property
    def decided(self) -> list[Command]:
        """The commands of the newest event, also where :meth:`apply` raised on the way."""
        return self._out

    def _added(self, event: TrialAdded) -> None:
        if event.trial_id in self.trials:
            raise InvalidTransition(f"trial {event.trial_id} was added twice")
        trial = Trial(event.trial_id, event.index, event.config, first_config=event.config)
        self.trials[event.trial_id] = trial
        self._live += 1
        self.policy.add(event.trial_id, event.index, event.config)
        trial.story.append("added")
        if self.stopping is not None:
            self._close(trial)
            return
        self._wait(trial)

    def _opened(self, event: Opened) -> None:
        self.retention.rules, self.stopping = event.retention, None
        self._begin_anew(event.limits)
        if event.config:
            self.policy.replace(event.config)
        # First all are there, then they are decided about: whom a trial may copy depends on who is there.
        mute, self._mute = self._mute, True
        held = [trial for trial in self.trials.values() if self._reopen(trial, event)]
        self._mute = mute
        # And first all decisions are there, then they are carried out: one of them may raise.
        decisions: list[Decision] = []
        for trial in held:
            until = self.policy.until(trial.trial_id)
            if trial.failed is not None:
                decisions += self._reseeded(trial) if not mute else []
            elif until is None or trial.time < until:
                self._wait(trial)
            elif not mute:
                decisions += self.policy.decide(trial.trial_id, trial.time, trial.score)
        if decisions:
            self._decide(decisions, at_boundary=None)

    def _reopen(self, trial: Trial, event: Opened) -> bool:
        """Set a trial to what it is without a process. Return whether its boundary has still to be looked at."""
        undecided = trial.undecided
        trial.reopen(event.config)
        if trial.status.ended:
            return self._revive(trial, event)
        if trial.trial_id in event.dropped:
            trial.cut = True
            self._end(trial, Status.TERMINATED, "not resumed")
            return False
        if trial.ending is not None and trial.lossless:
            self._end(trial, Status.TERMINATED, trial.ending)  # it was asked to save, but all that it has is saved
            return False
        if undecided:
            self.policy.withdraw(trial.trial_id)
        held = undecided and trial.lossless
        trial.rewind()
        if trial.launch:
            trial.status = Status.PAUSED
        if not held:
            self._wait(trial)
        return held

    def _revive(self, trial: Trial, event: Opened) -> bool:
        """Let a trial that has ended go on, or begin anew, where that is asked for."""
        anew = trial.trial_id in event.anew
        if not anew and trial.trial_id not in event.again:
            return False
        self._live += 1
        trial.story.append("begins anew" if anew else "goes on")
        trial.cut, trial.met = False, None
        trial.absolve()
        trial.status = Status.PAUSED if trial.launch and not anew else Status.PENDING
        # Whether all that it has ever reported is in its checkpoint, so that it stands where it ended.
        whole = not anew and trial.restore is not None and trial.restore.iteration == trial.iteration
        if anew:
            trial.config, trial.score, trial.reported = trial.first_config, None, False
            trial.older, trial.furthest = (), 0
            if trial.restore is not None:
                old, trial.restore = trial.restore, None
                self._delete(self.retention.unpin(old))
        self.policy.back(trial.trial_id, trial.first_config if anew else None)
        trial.rewind()
        if not whole:
            self._wait(trial)
        return whole

    def _started(self, event: Started) -> None:
        trial = self._speaking(event.trial_id, event.launch)
        if trial is not None:
            trial.story.append(f"started, pid {event.pid}")

    def _damaged(self, event: Damaged) -> None:
        trial = self._speaking(event.trial_id, event.launch)
        if trial is None:
            return
        if trial.restore is None or trial.restore.id != event.checkpoint_id:
            raise self._invalid(trial, event, "was not launched from that checkpoint")
        self._fall_back(trial, trial.restore, event.reason)

    def _freed(self, event: Freed) -> None:
        identity = checkpoint_id(event.trial_id, event.number)
        self.retention.free(event.trial_id, identity)
        for trial in self.trials.values():
            trial.older = self.retention.existing(trial.older)
            if trial.restore is not None and trial.restore.id == identity:
                self.policy.spoiled(trial.restore)

    def _drifted(self, event: Drifted) -> None:
        self._notice(f"drift {event.key}", event.text)

    def _reported(self, event: Reported) -> None:
        trial = self._speaking(event.trial_id, event.launch)
        if trial is None:
            return
        if trial.slot is None and not trial.leaving:
            raise self._invalid(trial, event, "reports without a slot")
        if event.iteration != trial.iteration + 1:
            raise self._invalid(trial, event, f"reports iteration {event.iteration} after {trial.iteration}")
        rank = self.retention.rules.score_attribute
        trial.take(
            event,
            score=self._score_of(event),
            time=self._time_of(event),
            rank=None if rank is None else number(value_of(event, rank)),
        )
        self._say_reserved(event)
        saved = event.checkpoint
        self.policy.observe(event.trial_id, trial.score, None if saved is None else self._committed(trial, saved))
        if trial.leaving:
            if event.stop is not None:
                self._end(trial, Status.TERMINATED, event.stop, donates=saved is None)
            elif trial.slot is not None or event.waiting:
                self._close(trial)
            # Else it has sent more, perhaps, before it was asked to leave; that it is gone follows.
        elif event.stop is not None:
            if self.limits.save_at_end and event.waiting and (saved is None or saved.transient):
                trial.ending = event.stop
                trial.story.append("asked to save before it ends")
                self._out.append(Save(trial.trial_id, trial.launch))
            else:
                self._end(trial, Status.TERMINATED, event.stop, donates=saved is None)
        else:
            self._go_on(trial, event)

    def _go_on(self, trial: Trial, event: Reported) -> None:
        """Have decided what follows from a report that does not end its trial."""
        until = self.policy.until(trial.trial_id) if event.waiting else None
        at_boundary = until is not None and trial.time >= until
        if not event.waiting:
            self._nearer.append(trial)
        elif not at_boundary:
            assert trial.slot is not None
            if trial.slot in self._gone:
                self._park(trial)
                self._wait(trial)
            else:
                self._continue(trial, trial.slot)
        if self._mute:
            return
        decisions: list[Decision] = []
        if at_boundary:
            decisions += self.policy.decide(trial.trial_id, trial.time, trial.score)
        if self._hoping and event.checkpoint is not None:
            decisions += self.policy.settle()
        if decisions or at_boundary:
            self._decide(decisions, at_boundary=trial if at_boundary else None)

    def _saved(self, event: Saved) -> None:
        trial = self._speaking(event.trial_id, event.launch)
        if trial is None:
            return
        if trial.ending is None:
            raise self._invalid(trial, event, "saves a checkpoint that nobody asked for")
        self.policy.observe(event.trial_id, trial.score, self._committed(trial, event.checkpoint))
        self._end(trial, Status.TERMINATED, trial.ending)

    def _finished(self, event: Finished) -> None:
        trial = self._speaking(event.trial_id, event.launch)
        if trial is None:
            return
        if trial.reported:
            self._end(trial, Status.TERMINATED, "the function returned")
        else:
            self._end(
                trial,
                Status.ERROR,
                "the function returned without a single tune.report(metrics). Call it once an iteration, or return a "
                "dict of metrics at the end.",
            )

    def _raised(self, event: Failed) -> None:
        trial = self._speaking(event.trial_id, event.launch)
        if trial is None:
            return
        if event.no_room and not trial.leaving:
            # It would fail again at once, and so would the others. Everything can go on when there is room.
            trial.story.append(f"no room: {event.error}")
            self.stopping, self._met = f"{NO_ROOM}: {event.error}", None
            self._close(trial)
            self._stop_all(self.stopping, gently=True)
        else:
            self._failed(trial, event.error)

    def _lost(self, event: Lost) -> None:
        trial = self._current(event.trial_id, event.launch)
        if trial is None:
            return
        displaced = trial.slot in self._gone or trial.trial_id in self._adrift
        self._leave(trial)
        if trial.ending is not None and trial.lossless:
            self._end(trial, Status.TERMINATED, trial.ending)
            return
        if trial.leaving:
            self._close(trial)
            return
        if trial.slot is None and trial.lossless and not trial.ready:
            # It was parked and everything it had is in a checkpoint: only the process has to come back.
            trial.waiting = False
            trial.story.append("lost its process while parked")
            if trial.claims:
                self._withdraw(trial)
                self._wait(trial)
            return
        self._failed(trial, event.reason, innocent=event.innocent, displaced=displaced)

    def _undecided(self, event: Undecided) -> None:
        self._mute = True

    def _stop_asked(self, event: StopAsked) -> None:
        self._stop_all(event.reason, met=event.met, gently=event.gently)

    _HANDLERS: ClassVar[dict[type[Any], Callable[[Population, Any], None]]] = {
        Damaged: _damaged,
        Drifted: _drifted,
        Failed: _raised,
        Finished: _finished,
        Freed: _freed,
        Lost: _lost,
        Opened: _opened,
        Reported: _reported,
        Saved: _saved,
        SlotsJoined: Slots._slots_joined,
        SlotsLeft: Slots._slots_left,
        Started: _started,
        StopAsked: _stop_asked,
        TrialAdded: _added,
        Undecided: _undecided,
    }

    # --------------------------------------------------------------------------------------------------- transitions

    def _current(self, trial_id: str, launch: int) -> Trial | None:
        """Return the trial, or None where the message is of an earlier launch or comes after its end."""
        trial = self.trials.get(trial_id)
        if trial is None:
            raise InvalidTransition(f"there is no trial {trial_id}")
        if launch > trial.launch:
            raise self._invalid(trial, None, f"speaks of launch {launch}, which is still to come")
        if launch < trial.launch or trial.status.ended:
            return None
        return trial

    def _speaking(self, trial_id: str, launch: int) -> Trial | None:
        """Return the trial, or None where the message is late: the function that sent it is no longer entered."""
        trial = self._current(trial_id, launch)
        # News of a crash can overtake a report. The trial has then gone back, and waits for its next launch.
        over = trial is not None and trial.slot is None and not (trial.waiting or trial.leaving)
        return None if over else trial

    def _say_reserved(self, event: Reported) -> None:
        if _RESERVED.isdisjoint(event.metrics) or "reserved" in self._noticed:
            return
        reserved = ", ".join(repr(key) for key in AUTOMATIC if key in event.metrics)
        self._notice(
            "reserved",
            f"The trainable reports {reserved}, which Shoal fills itself: in the results its own values stand under "
            f"these names. Report yours under others.",
        )

    def _committed(self, trial: Trial, saved: SavedCheckpoint) -> CheckpointRecord:
        """A trial has saved a checkpoint of its newest report, and goes on from there if it has to."""
        record = trial.record_of(saved)
        trial.next_checkpoint = saved.number + 1
        older = trial.older if trial.restore is None else (*trial.older, trial.restore)
        self._restore_from(trial, record)
        self._delete(self.retention.add(record))
        trial.older = self.retention.existing(older)
        if self.retention.rules.num_to_keep is None:
            # Else the newest may be deleted before older ones, which a score keeps; and there are never many.
            trial.older = trial.older[-_FALLBACKS:]
        return record

    def _restore_from(self, trial: Trial, record: CheckpointRecord) -> None:
        old, trial.restore = trial.restore, record
        self.retention.pin(record)
        if old is not None:
            self._delete(self.retention.unpin(old))

    def _delete(self, records: list[CheckpointRecord]) -> None:
        for record in records:
            self._out.append(DeleteCheckpoint(record.trial_id, record.number))

    def _decide(self, decisions: list[Decision], at_boundary: Trial | None) -> None:
        """Carry a policy's decisions into the trials' state; slots are given out afterwards."""
        notice = self.policy.notice()
        if notice is not None:
            self._notice(*notice)
        named = [decision.trial_id for decision in decisions]
        goes_on = at_boundary is not None and at_boundary.trial_id in named
        if at_boundary is not None and not goes_on:
            self._park(at_boundary)
        for decision in decisions:
            trial = self.trials[decision.trial_id]
            if isinstance(decision, Copy):
                self._exploit(trial, decision)
            elif isinstance(decision, Change):
                self._reconfigure(trial, decision)
            elif isinstance(decision, GiveUp):
                self._give_up(trial, decision.why)
                continue
            if trial is not at_boundary:
                self._wait(trial)
        if at_boundary is not None and goes_on:
            if self._free:
                # Those that can have a free slot need not have this one.
                self._assign()
            self._keep_or_yield(at_boundary)

    def _exploit(self, trial: Trial, copy: Copy) -> None:
        donor = self.trials[copy.donor_id]
        trial.generation += 1
        self._out.append(
            Exploit(
                trial_id=trial.trial_id,
                launch=trial.launch,
                generation=trial.generation,
                iteration=trial.iteration,
                score=trial.score,
                donor_id=copy.donor_id,
                donor_iteration=donor.iteration,
                checkpoint=copy.checkpoint,
                donor_config=copy.donor_config,
                old_config=trial.config,
                new_config=copy.new_config,
                failed=trial.failed,
            )
        )
        if trial.failed is not None:
            trial.absolve()
            self._hoping.discard(trial.trial_id)
        trial.furthest = copy.checkpoint.iteration
        trial.config = copy.new_config
        trial.mutated, trial.mutated_at = changed_numbers(copy.donor_config, copy.new_config), None
        trial.story.append(f"exploits {copy.checkpoint.id}")
        whole = donor.restore is not None and donor.restore.id == copy.checkpoint.id
        trial.older = donor.older if whole else ()
        self._restore_from(trial, copy.checkpoint)
        self._delete(self.retention.goes_on_elsewhere(trial.trial_id))
        trial.rewind()

    def _reconfigure(self, trial: Trial, change: Change) -> None:
        if trial.restore is None or trial.restore.iteration != trial.iteration:
            raise self._invalid(trial, None, "is to change its config without a checkpoint of its newest report")
        trial.changes += 1
        self._out.append(
            Reconfigure(
                trial_id=trial.trial_id,
                launch=trial.launch,
                number=trial.changes,
                iteration=trial.iteration,
                checkpoint=trial.restore,
                old_config=trial.config,
                new_config=change.new_config,
            )
        )
        trial.mutated, trial.mutated_at = changed_numbers(trial.config, change.new_config), trial.restore.id
        trial.config = change.new_config
        trial.story.append(f"changes its config at {trial.iteration}")
        trial.rewind()

    def _keep_or_yield(self, trial: Trial) -> None:
        """At a boundary, pass the slot to whom it was promised, or to a waiting trial that has trained less."""
        assert trial.slot is not None
        slot = trial.slot
        if slot in self._promised or slot in self._gone:
            other, yields = None, True
        else:
            other = self._least_trained(self.devices[slot], move=False)
            yields = other is not None and other.place < trial.place
            other = None if yields or not self._joined else self._left_behind(trial)
        if yields or other is not None:
            self._park(trial)
            self._wait(trial)
        else:
            self._run(trial, slot)
        if other is not None:
            self._free.take(slot, self.devices[slot])
            self._run(other, slot)

    def _failed(self, trial: Trial, error: str, *, innocent: bool = False, displaced: bool = False) -> None:
        if trial.leaving:
            self._close(trial)
            return
        trial.story.append(f"failed: {error}")
        if innocent:
            times, most = trial.count_loss(displaced=displaced), DISPLACED_AT_MOST if displaced else ORPHANED_AT_MOST
            if times <= most:
                self._retry(trial, error, innocent=True)
                return
            error = f"{error}, {times} times in a row before this trial got any further"
        trial.failures += 1
        trial.barren += 1
        if trial.barren >= BARREN_AT_MOST:
            error = f"it failed {trial.barren} times in a row without a single report, the last time with: {error}"
        elif self.limits.max_failures < 0 or trial.failures <= self.limits.max_failures:
            self._retry(trial, error)
            return
        self._failed_for_good(trial, error)

    def _retry(self, trial: Trial, error: str, *, innocent: bool = False) -> None:
        if trial.at_barrier:
            self.policy.withdraw(trial.trial_id)
        trial.rewind()
        self._out.append(Retry(trial.trial_id, trial.failures, trial.iteration, error, innocent))
        self._release(trial)
        trial.status = Status.PAUSED
        # Its process, where it has one, has left the function; the next launch enters it anew.
        self._wait(trial)

    def _fall_back(self, trial: Trial, damaged: CheckpointRecord, reason: str) -> None:
        """Let a trial go on from the checkpoint before one that cannot be loaded. Nobody begins anew in silence."""
        if trial.leaving:
            self._close(trial)
            return
        older = list(self.retention.existing(trial.older))
        self.policy.spoiled(damaged)
        self._delete(self.retention.spoil(damaged))
        trial.story.append(f"{damaged.id} is damaged")
        if not older:
            advice = ". With CheckpointConfig(num_to_keep=2) or more there is."
            self._failed_for_good(
                trial,
                f"the checkpoint {damaged.id}, from which it was to go on, is damaged ({reason}), and there is "
                f"none before it{advice if self.retention.rules.num_to_keep == 1 else ''}",
            )
            return
        trial.older = tuple(older[:-1])
        config = self.policy.fell_back(trial.trial_id, older[-1])
        self._out.append(FallBack(trial.trial_id, trial.launch, damaged.id, older[-1], reason, config))
        trial.config = trial.config if config is None else config
        self._restore_from(trial, older[-1])
        trial.rewind()
        self._release(trial)
        trial.status = Status.PAUSED
        self._wait(trial)

    def _failed_for_good(self, trial: Trial, error: str) -> None:
        if self.limits.fail_fast:
            self.stopping = f"fail_fast: trial {trial.trial_id} failed"
            self._end(trial, Status.ERROR, error)
            self._stop_all(self.stopping)
            return
        if not self.limits.replace_failed:
            self._end(trial, Status.ERROR, error)
            return
        trial.failed = error
        self._hoping.add(trial.trial_id)
        trial.waiting = False
        trial.queued = 0
        self._release(trial)
        trial.status = Status.PAUSED
        trial.rewind()  # so that it is the same before and after a restore
        if not self._mute:
            self._decide(self._reseeded(trial), at_boundary=None)
            if trial.trial_id in self._hoping:
                self._out.append(Await(trial.trial_id, trial.launch, error))

    def _reseeded(self, trial: Trial) -> list[Decision]:
        """Return what is decided where a trial that has failed for good is to copy another."""
        decisions = self.policy.reseed(trial.trial_id) if self.limits.replace_failed else None
        return [GiveUp(trial.trial_id)] if decisions is None else decisions

    def _give_up(self, trial: Trial, why: str) -> None:
        """End a trial that has failed for good."""
        error = trial.failed or "it has failed for good"
        self._end(trial, Status.ERROR, f"{error.removesuffix('.')}. It was not replaced: {why}." if why else error)

    def _end(self, trial: Trial, status: Status, reason: str, *, donates: bool = False) -> None:
        self._release(trial)
        self._hoping.discard(trial.trial_id)
        trial.queued = 0
        trial.waiting = trial.ready = False
        trial.ending = trial.failed = None
        trial.leaving = False
        trial.status = status
        self._live -= 1
        self._leave(trial)
        trial.story.append(f"{status.value}: {reason}")
        self._out.append(Stop(trial.trial_id, trial.launch, status, reason))
        self.policy.gone(trial.trial_id, donates)
        if self.stopping is None and not self._mute:
            self._decide(self.policy.settle(), at_boundary=None)

    def _stop_all(self, reason: str, *, met: str | None = None, gently: bool = False) -> None:
        self.stopping, self._met = reason, met
        for trial in self.trials.values():
            if trial.status.ended:
                continue
            trains = trial.slot is not None and (trial.ending is not None or not trial.waiting)
            # Whoever was promised a slot may have gone on there, of which nothing was heard yet.
            if not gently or not (trains or trial.leaving or trial.promised is not None):
                self._close(trial)
            elif not trial.leaving:
                trial.leaving = True
                self._withdraw(trial)
                trial.story.append("asked to leave with its next report")
                self._out.append(WindUp(trial.trial_id, trial.launch))

    def _close(self, trial: Trial) -> None:
        """End a trial because all end."""
        assert self.stopping is not None
        reason = self.stopping
        if trial.ending is not None and trial.lossless:
            # It was asked to save at its end, and has all that it has in a checkpoint: it is at its end.
            reason = trial.ending
        else:
            trial.met, trial.cut = self._met, self._met is None
        self._end(trial, Status.TERMINATED, reason)

    # -------------------------------------------------------------------------------------------------------- checks

    def validate(self) -> None:
        """Check every invariant; for tests and simulations.

        Raises:
            InvalidTransition: an invariant does not hold.
        """
        self._validate_slots()
        for trial in self.trials.values():
            wrong = trial.wrong()
            if trial.restore is not None and not self.retention.exists(trial.restore):
                wrong = f"would restore from {trial.restore.id}, which was deleted"
            if wrong is not None:
                raise self._invalid(trial, None, wrong)
        if set(self._residents) != {trial.trial_id for trial in self.trials.values() if trial.resident}:
            raise InvalidTransition(f"residents are said to be {sorted(self._residents)}")
        if self._live != sum(not trial.status.ended for trial in self.trials.values()):
            raise InvalidTransition(f"{self._live} live trials are counted")
        failed = {trial.trial_id for trial in self.trials.values() if trial.failed is not None}
        if self._hoping != failed:
            raise InvalidTransition(f"{sorted(failed)} wait for a donor, not {sorted(self._hoping)}")
        if self._live and not self.running and self._free and not self._adrift and self.stopping is None:
            raise InvalidTransition(f"nobody runs, and {self._live} live: everyone would wait for ever")
        self._validate_order()
        self.retention.validate([trial.restore for trial in self.trials.values() if trial.restore is not None])
