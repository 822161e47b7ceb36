"""Who runs where: slots, the trials that wait for one, and the processes that they keep meanwhile.

A *slot* is a permit to run. A trial that has none waits inside ``tune.report``, in its own process (a *resident*). Only
when there may be no more residents does one leave, through a checkpoint. Those that have trained least go first.

Where members can hand a slot on by themselves, it is *promised* when its holder is one report away from its boundary.
Who was promised it gets ready, and goes on there as soon as the holder is at its boundary: what happened until then is
told, decided and committed while it trains. What has been promised is kept, unless who waits for it can go on elsewhere
before: a promise is no reason to wait longer than others.
"""

from __future__ import annotations

import heapq
from collections import deque
from functools import lru_cache

from ..errors import InvalidTransition
from .commands import Command, Continue, Evict, HandOn, Launch, Notice, Park, Status
from .events import Event
from .limits import Limits
from .policy import Policy
from .trial import Trial

__all__ = ["SlotQueue", "Slots"]

_Entry = tuple[float, int, int, Trial]
"""(time, iteration, number of the entry, trial)."""


class SlotQueue:
    """Waiting trials, by the device that their process is bound to.

    A trial that is taken out, or put in again, leaves its old entry behind; only the entry whose number the trial
    carries in ``queued`` counts. So putting in and looking costs O(log n), and taking out nothing. Most come in the
    order in which they go, and stand in a line; only the others need a heap.
    """

    def __init__(self) -> None:
        self._lines: dict[str, deque[_Entry]] = {}
        self._heaps: dict[str, list[_Entry]] = {}
        self._numbers = 0

    def add(self, trial: Trial) -> None:
        """Put the trial in."""
        self._numbers += 1
        trial.queued = self._numbers
        device = trial.device or ""
        line = self._lines.get(device)
        if line is None:
            line = self._lines[device] = deque()
            self._heaps[device] = []
        entry = (trial.time, trial.iteration, self._numbers, trial)
        if not line or line[-1] < entry:
            line.append(entry)
        else:
            heapq.heappush(self._heaps[device], entry)

    def clear(self) -> None:
        """Forget all entries. Their trials have to know that by themselves."""
        self._lines.clear()
        self._heaps.clear()

    def least_trained(self, device: str, *, move: bool = True) -> Trial | None:
        """Return the trial that has trained least and can run on the device, without taking it out.

        Args:
            device: where it would run.
            move: whether it may come from another device where there is no other.
        """
        least = self._head(device)
        if device:
            # Who has no process yet can run anywhere.
            anywhere = self._head("")
            if least is None or (anywhere is not None and anywhere < least):
                least = anywhere
        if least is None and move:
            # Rather move a trial from another device, where a checkpoint holds all that it has, than leave this idle.
            heads = [head for name in self._heaps if (head := self._head(name)) is not None and head[3].lossless]
            least = min(heads, default=None)
        return None if least is None else least[3]

    def _head(self, device: str) -> _Entry | None:
        """Return the first of a device's entries that counts."""
        line = self._lines.get(device)
        if line is None:
            return None
        while line and line[0][3].queued != line[0][2]:
            line.popleft()
        heap = self._heaps[device]
        while heap and heap[0][3].queued != heap[0][2]:
            heapq.heappop(heap)
        if heap and (not line or heap[0] < line[0]):
            return heap[0]
        return line[0] if line else None


@lru_cache(maxsize=4096)
def _continues(slot: int) -> str:
    # A text for each slot, not for each time.
    return f"continues in slot {slot}"


@lru_cache(maxsize=4096)
def _is_promised(slot: int) -> str:
    return f"is promised slot {slot}"


class Slots:
    """Gives slots to trials and tells what follows: launch, continue, park, evict. The lower half of the population.

    Args:
        policy: tells until when a trial may run.
        limits: slots and residents.
    """

    def __init__(self, policy: Policy, limits: Limits) -> None:
        self.policy = policy
        self.limits = limits
        self.trials: dict[str, Trial] = {}
        self.stopping: str | None = None
        """Why all are to end, or None. Nobody gets a slot then."""
        self._free: list[int] = list(range(len(limits.devices)))
        self._queue = SlotQueue()
        self._promised: dict[int, Trial] = {}
        """Who goes on next in a slot that is held."""
        self._nearer: list[Trial] = []
        """Trials that the newest event has brought nearer to their boundary: they hold a slot, or report in it."""
        self._residents: dict[str, Trial] = {}
        """Those that have a process."""
        self._noticed: set[str] = set()
        self._out: list[Command] = []
        """The commands of the newest event."""

    @property
    def running(self) -> list[Trial]:
        """The trials that hold a slot."""
        return [trial for trial in self.trials.values() if trial.slot is not None]

    def _begin_anew(self, limits: Limits) -> None:
        """No trial has a process, or a claim to a slot."""
        self.limits = limits
        self._free = list(range(len(limits.devices)))
        self._queue.clear()
        self._promised.clear()
        self._residents.clear()
        self._noticed.clear()

    def _notice(self, key: str, text: str) -> None:
        """Tell the user something, once for each key and driver."""
        if key not in self._noticed:
            self._noticed.add(key)
            self._out.append(Notice(key, text))

    def _park(self, trial: Trial) -> None:
        self._release(trial)
        trial.status = Status.PAUSED
        trial.story.append("parked")
        self._out.append(Park(trial.trial_id, trial.launch))

    def _release(self, trial: Trial) -> None:
        """The trial gives up its slot, or the one that it was promised."""
        if trial.slot is not None:
            heapq.heappush(self._free, trial.slot)
            trial.slot = None
        else:
            self._withdraw(trial)

    def _withdraw(self, trial: Trial) -> None:
        """The trial no longer waits for the slot that it was promised."""
        if trial.promised is not None:
            del self._promised[trial.promised]
            trial.promised = None

    def _leave(self, trial: Trial) -> None:
        """The trial's process is gone, or about to be."""
        if trial.resident:
            trial.device = None
            del self._residents[trial.trial_id]

    def _assign(self) -> None:
        """Give free slots to those that they were promised, and to the trials that have trained least."""
        if self.stopping is not None:
            return
        passed: list[int] = []
        while self._free:
            slot = heapq.heappop(self._free)
            trial = self._promised.get(slot) or self._least_trained(self.limits.devices[slot])
            if trial is None:
                passed.append(slot)
                if self.limits.devices[slot] == "":
                    break
                continue
            self._run(trial, slot)
        for slot in passed:
            heapq.heappush(self._free, slot)

    def _least_trained(self, device: str, *, move: bool = True) -> Trial | None:
        """Return who has trained least and can run on the device, in the queue or promised another slot.

        Args:
            device, move: as for :meth:`SlotQueue.least_trained`.
        """
        least = self._queue.least_trained(device, move=False)
        for other in self._promised.values():
            # Where both have trained the same, this one is ready.
            if other.device == device and (least is None or other.place <= least.place):
                least = other
        return self._queue.least_trained(device) if least is None and move else least

    def _run(self, trial: Trial, slot: int) -> None:
        """Let the trial run in the slot: continue it where it waits, or launch it."""
        self._withdraw(trial)
        trial.queued = 0
        if trial.waiting and trial.device == self.limits.devices[slot]:
            self._continue(trial, slot)
        else:
            self._launch(trial, slot)

    def _continue(self, trial: Trial, slot: int) -> None:
        trial.slot = slot
        trial.waiting = trial.ready = False
        trial.status = Status.RUNNING
        trial.until = self.policy.until(trial.trial_id)
        trial.story.append(_continues(slot))
        self._out.append(Continue(trial.trial_id, trial.launch, slot, trial.until))
        self._nearer.append(trial)

    def _promise(self, holder: Trial) -> None:
        """Promise a slot whose holder is about to come to its boundary to the trial that has trained least."""
        slot = holder.slot
        if slot is None or not holder.nearly_there or slot in self._promised or self.stopping is not None:
            return
        device = self.limits.devices[slot]
        trial = self._queue.least_trained(device, move=False)
        assert holder.until is not None
        if trial is None or trial.time > holder.until:
            return  # the holder will most likely go on itself
        if not trial.waiting:
            if not (trial.resident or self._has_room(trial)):
                return
            self._launch(trial, slot, waits=True)
        trial.queued = 0
        trial.promised = slot
        self._promised[slot] = trial
        trial.story.append(_is_promised(slot))
        until = self.policy.until(trial.trial_id)
        self._out.append(
            HandOn(holder.trial_id, holder.launch, slot, trial.trial_id, trial.launch, trial.iteration, until)
        )

    def _launch(self, trial: Trial, slot: int, *, waits: bool = False) -> None:
        """Launch the trial for a slot, which it has; or, where it waits, does not have yet."""
        device = self.limits.devices[slot]
        if trial.resident and trial.device != device:
            self._evict(trial)
        fresh = not trial.resident
        if fresh:
            self._make_room()
            self._residents[trial.trial_id] = trial
        trial.device = device
        trial.launch += 1
        trial.rewind()
        if waits:
            trial.waiting = trial.ready = True
            trial.status = Status.PAUSED
        else:
            trial.slot = slot
            trial.status = Status.RUNNING
        trial.until = self.policy.until(trial.trial_id)
        source = "scratch" if trial.restore is None else trial.restore.id
        trial.story.append(f"launch {trial.launch} {'for' if waits else 'in'} slot {slot} from {source}")
        self._out.append(
            Launch(
                trial_id=trial.trial_id,
                launch=trial.launch,
                slot=slot,
                config=trial.config,
                checkpoint=trial.restore,
                iteration=trial.iteration,
                time_total_s=trial.time_total_s,
                next_checkpoint=trial.next_checkpoint,
                until=trial.until,
                fresh=fresh,
                generation=trial.generation,
                changed=trial.changed,
                waits=waits,
            )
        )
        if not waits:
            self._nearer.append(trial)

    def _has_room(self, trial: Trial) -> bool:
        """Return whether one more process is allowed for the trial, or another that has trained more can leave."""
        limit = self.limits.residents
        if limit is None or len(self._residents) < limit:
            return True
        leaving = self._evictable() if len(self._residents) == limit else []
        return bool(leaving) and leaving[0].time >= trial.time

    def _evictable(self) -> list[Trial]:
        """Return the parked trials that lose nothing without a process, the most trained first.

        Whoever was promised a slot is none of them: it may be training there already.
        """
        parked = [trial for trial in self._residents.values() if trial.slot is None and trial.promised is None]
        return sorted((trial for trial in parked if trial.lossless), key=lambda trial: (-trial.time, -trial.index))

    def _make_room(self) -> None:
        """Evict parked trials, the most trained first, until one more process is allowed."""
        limit = self.limits.residents
        if limit is None or len(self._residents) < limit:
            return
        leaving = self._evictable()
        for trial in leaving[: len(self._residents) - limit + 1]:
            self._evict(trial)
        if len(self._residents) >= limit:
            self._notice(
                "residents",
                f"More than {limit} members keep a process, because those that wait have no checkpoint at their step "
                "and would lose work. Save one at every perturbation_interval to keep memory in its limit.",
            )

    def _evict(self, trial: Trial) -> None:
        self._leave(trial)
        trial.waiting = trial.ready = False
        trial.story.append("evicted")
        self._out.append(Evict(trial.trial_id, trial.launch))
        if trial.queued:
            self._queue.add(trial)

    def _invalid(self, trial: Trial, event: Event | None, what: str) -> InvalidTransition:
        lines = "\n  ".join(trial.story)
        return InvalidTransition(
            f"trial {trial.trial_id} ({trial.status.value}) {what}: {event!r}\nIts story:\n  {lines}"
        )

    def _validate_slots(self) -> None:
        taken = [trial.slot for trial in self.trials.values() if trial.slot is not None]
        if sorted([*taken, *self._free]) != list(range(len(self.limits.devices))):
            raise InvalidTransition(
                f"slots {sorted(taken)} taken and {sorted(self._free)} free are not all slots, each once"
            )
        promised = {trial.promised: trial for trial in self.trials.values() if trial.promised is not None}
        if promised != self._promised or not set(promised) <= set(taken):
            raise InvalidTransition(f"slots {sorted(promised)} are promised, and {sorted(self._promised)} in the list")
        queued = [trial for trial in self.trials.values() if trial.queued]
        if queued and self._free and len(set(self.limits.devices)) == 1 and self.stopping is None:
            raise InvalidTransition("a slot is free although a trial waits for one")
