"""Who runs where: slots, the trials that wait for one, and the processes that they keep meanwhile.

A *slot* is a permit to run. A trial that has none waits inside ``tune.report``, in its own process (a *resident*). Only
when there may be no more residents does one leave, through a checkpoint. Those that have trained least go first.

Where members can hand a slot on by themselves, it is *promised* when its holder is one report away from its boundary.
Who was promised it gets ready, and goes on there as soon as the holder is at its boundary: what happened until then is
told, decided and committed while it trains. What has been promised is kept, unless who waits for it can go on elsewhere
before: a promise is no reason to wait longer than others.

Slots join and leave as the nodes of a cluster do. A slot that has left is never given out again. Who holds it does so
until its process is known to be gone, or comes to a report upon which it has to wait; what it sends until then counts.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import Counter
from functools import lru_cache
from operator import attrgetter

from ..errors import InvalidTransition
from .commands import Command, Continue, Evict, HandOn, Launch, Notice, Park, Status
from .events import Event, SlotsJoined, SlotsLeft
from .limits import Limits
from .policy import Policy
from .queues import Evictable, FreeSlots, Promises, SlotQueue
from .trial import Trial

__all__ = ["SlotQueue", "Slots"]

_by_index = attrgetter("index")

_FEW = 4
"""So many free slots are looked at one by one."""


@lru_cache(maxsize=4096)
def _continues(slot: int) -> str:
    # A text for each slot, not for each time.
    return f"continues in slot {slot}"


@lru_cache(maxsize=4096)
def _is_promised(slot: int) -> str:
    return f"is promised slot {slot}"


@lru_cache(maxsize=4096)
def _is_gone(slot: int) -> str:
    return f"slot {slot} is gone"


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
        self._queue = SlotQueue()
        self._promised = Promises()
        self._nearer: list[Trial] = []
        """Trials that the newest event has brought nearer to their boundary: they hold a slot, or report in it."""
        self._residents: dict[str, Trial] = {}
        """Those that have a process."""
        self._noticed: set[str] = set()
        self._out: list[Command] = []
        """The commands of the newest event."""
        self._begin_anew(limits)

    @property
    def running(self) -> list[Trial]:
        """The trials that hold a slot, in their order."""
        return sorted(self._holders.values(), key=_by_index)

    def _begin_anew(self, limits: Limits) -> None:
        """No trial has a process, or a claim to a slot."""
        self.limits = limits
        self.devices: list[str] = list(limits.devices)
        """The device of each slot that there has been, those that have left included."""
        self._joined = False
        """Whether some slots have joined since, so that devices may have more members for a slot than others."""
        self._gone: set[int] = set()
        """The slots that have left."""
        self._slots_on = Counter(self.devices)
        """How many slots each device has now."""
        self._free = FreeSlots(self.devices)
        self._holders: dict[int, Trial] = {}
        self._room = limits.residents
        """How many processes there may be; None: any number."""
        self._adrift: set[str] = set()
        """Trials whose process is on a device that has no slot any more. That it is gone is still to be heard."""
        self._evictable: Evictable | None = None
        """Who can be evicted; None as long as nobody asked."""
        self._queue.clear()
        self._promised.clear()
        self._residents.clear()
        self._noticed.clear()

    def _slots_joined(self, event: SlotsJoined) -> None:
        self._joined = True
        known = self.devices[-1:]
        if len({device == "" for device in (*known, *event.devices)}) > 1:
            raise InvalidTransition(f"{event!r}: some slots are alike and others are not, after {known}")
        back = {device for device in event.devices if device and not self._slots_on[device]}
        for slot, device in enumerate(event.devices, start=len(self.devices)):
            self.devices.append(device)
            self._slots_on[device] += 1
            self._free.append(slot)
            if device:
                self._free.freed(slot, device)
        self._adrift = {trial_id for trial_id in self._adrift if self._residents[trial_id].device not in back}
        self._grow(event.residents)

    def _slots_left(self, event: SlotsLeft) -> None:
        left: set[str] = set()
        for slot in event.slots:
            if not 0 <= slot < len(self.devices) or slot in self._gone:
                raise InvalidTransition(f"{event!r}: there is no slot {slot}")
            device = self.devices[slot]
            self._gone.add(slot)
            self._slots_on[device] -= 1
            if device and not self._slots_on[device]:
                left.add(device)
            if self._free.take(slot, device):
                continue
            self._holders[slot].story.append(_is_gone(slot))
            promised = self._promised.get(slot)
            if promised is not None:
                promised.story.append(_is_gone(slot))
                self._withdraw(promised)
                self._wait(promised)
        if left:
            self._adrift |= {trial.trial_id for trial in self._residents.values() if trial.device in left}
        self._grow(-event.residents)

    def _grow(self, residents: int) -> None:
        """So many more processes are allowed, or fewer."""
        self._evictable = None
        if self._room is not None:
            self._room = max(0, self._room + residents)

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

    def _wait(self, trial: Trial) -> None:
        """The trial waits for a slot."""
        self._queue.add(trial)
        if self._evictable is not None:
            self._evictable.consider(trial)

    def _release(self, trial: Trial) -> None:
        """The trial gives up its slot, or the one that it was promised."""
        slot = trial.slot
        if slot is None:
            self._withdraw(trial)
            return
        trial.slot = None
        del self._holders[slot]
        if slot not in self._gone:
            insort(self._free, slot)
            if device := self.devices[slot]:
                self._free.freed(slot, device)
        if self._evictable is not None:
            self._evictable.consider(trial)

    def _withdraw(self, trial: Trial) -> None:
        """The trial no longer waits for the slot that it was promised."""
        if trial.promised is not None:
            del self._promised[trial.promised]
            trial.promised = None
            if self._evictable is not None:
                self._evictable.consider(trial)

    def _leave(self, trial: Trial) -> None:
        """The trial's process is gone, or about to be."""
        if trial.resident:
            trial.device = None
            del self._residents[trial.trial_id]
            self._adrift.discard(trial.trial_id)

    def _assign(self) -> None:
        """Give free slots to those that they were promised, and to the trials that have trained least."""
        if self.stopping is not None:
            return
        free = self._free
        if len(free) > _FEW:
            self._assign_many()
            return
        place = 0
        while place < len(free):
            slot = free[place]
            device = self.devices[slot]
            trial = self._promised.get(slot) or self._least_trained(device)
            if trial is not None:
                del free[place]
                if device:
                    free.taken(slot, device)
                self._run(trial, slot)
            elif device:
                place += 1
            else:
                return  # all are alike

    def _assign_many(self) -> None:
        """Do the same without looking at each free slot."""
        slot, own = -1, self._own_heads()
        while (found := self._next_free(slot, own)) is not None:
            slot, device = found, self.devices[found]
            trial = self._promised.get(slot) or self._least_trained(device)
            assert trial is not None
            self._free.take(slot, device)
            self._run(trial, slot)

    def _own_heads(self) -> list[tuple[int, str]]:
        """Return the first free slot of each device that may have a trial of its own for it, as a heap.

        Those are devices for which something has changed: else each had its turn before.
        """
        changed = self._free.changed | self._queue.joined
        self._free.changed.clear()
        self._queue.joined.clear()
        own = [(slot, device) for device in changed if (slot := self._free.first(-1, device)) is not None]
        heapq.heapify(own)
        return own

    def _next_free(self, after: int, own: list[tuple[int, str]]) -> int | None:
        """Return the first free slot behind another for which there is a trial."""
        if self._queue.waits_for_any() or self._promised.least_trained("") is not None:
            return self._free.first(after)
        while own:
            slot, device = own[0]
            first = self._free.first(after, device)
            if first is None or not (self._queue.waits_for(device) or self._promised.least_trained(device)):
                heapq.heappop(own)
            elif first != slot:
                heapq.heapreplace(own, (first, device))
            else:
                return slot
        return None

    def _least_trained(self, device: str, *, move: bool = True) -> Trial | None:
        """Return who has trained least and can run on the device, in the queue or promised another slot.

        Args:
            device, move: as for :meth:`SlotQueue.least_trained`.
        """
        least = self._queue.least_trained(device, move=False)
        other = self._promised.least_trained(device) if self._promised else None
        # Where both have trained the same, this one is ready.
        if other is not None and (least is None or other.place <= least.place):
            return other
        return self._queue.least_trained(device) if least is None and move else least

    def _left_behind(self, trial: Trial) -> Trial | None:
        """Return who waits for another device, has trained less than a trial by more than one turn, and may move.

        A node that joins takes the members that have trained least. They would never wait there, and be far ahead of
        all others. So it takes more of them, until all devices have as many for each slot.
        """
        until = self.policy.until(trial.trial_id)
        other = self._queue.mover()
        return other if other is not None and until is not None and 2 * trial.time - other.time > until else None

    def _run(self, trial: Trial, slot: int) -> None:
        """Let the trial run in the slot: continue it where it waits, or launch it."""
        if trial.promised is not None:
            self._withdraw(trial)
        trial.queued = 0
        if trial.waiting and trial.device == self.devices[slot]:
            self._continue(trial, slot)
        else:
            self._launch(trial, slot)

    def _continue(self, trial: Trial, slot: int) -> None:
        trial.slot = slot
        self._holders[slot] = trial
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
        if slot in self._gone:
            return
        device = self.devices[slot]
        trial = self._queue.least_trained(device, move=False)
        assert holder.until is not None
        if trial is None or trial.time > holder.until:
            return  # the holder will most likely go on itself
        if not trial.waiting:
            if not (trial.resident or self._has_room(trial)):
                return
            self._launch(trial, slot, waits=True)
        trial.queued = 0
        self._promised.make(slot, trial)
        trial.story.append(_is_promised(slot))
        until = self.policy.until(trial.trial_id)
        self._out.append(
            HandOn(holder.trial_id, holder.launch, slot, trial.trial_id, trial.launch, trial.iteration, until)
        )

    def _launch(self, trial: Trial, slot: int, *, waits: bool = False) -> None:
        """Launch the trial for a slot, which it has; or, where it waits, does not have yet."""
        device = self.devices[slot]
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
            self._holders[slot] = trial
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

    @property
    def _processes(self) -> int:
        """How many processes there are, those aside that are about to be heard to be gone."""
        return len(self._residents) - len(self._adrift)

    def _has_room(self, trial: Trial) -> bool:
        """Return whether one more process is allowed for the trial, or another that has trained more can leave."""
        limit = self._room
        if limit is None or self._processes < limit:
            return True
        leaving = self._who_can_leave().first() if self._processes == limit else None
        return leaving is not None and leaving.time >= trial.time

    def _who_can_leave(self) -> Evictable:
        if self._evictable is None:
            self._evictable = Evictable(self._residents.values(), self._can_leave)
        return self._evictable

    def _can_leave(self, trial: Trial) -> bool:
        """Return whether a trial is parked and loses nothing without its process.

        Whoever was promised a slot must not: it may be training there already.
        """
        stays = trial.device is None or trial.slot is not None or trial.promised is not None
        return not stays and trial.lossless and trial.trial_id not in self._adrift

    def _make_room(self) -> None:
        """Evict parked trials, the most trained first, until one more process is allowed."""
        limit = self._room
        if limit is None or self._processes < limit:
            return
        while self._processes >= limit and (leaving := self._who_can_leave().first()) is not None:
            self._evict(leaving)
        if self._processes >= limit:
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
            self._wait(trial)

    def _invalid(self, trial: Trial, event: Event | None, what: str) -> InvalidTransition:
        lines = "\n  ".join(trial.story)
        return InvalidTransition(
            f"trial {trial.trial_id} ({trial.status.value}) {what}: {event!r}\nIts story:\n  {lines}"
        )

    def _validate_slots(self) -> None:
        taken = {trial.slot: trial for trial in self.trials.values() if trial.slot is not None}
        left = self._gone - taken.keys()
        if sorted([*taken, *self._free, *left]) != list(range(len(self.devices))) or taken != self._holders:
            raise InvalidTransition(
                f"slots {sorted(taken)} taken, {sorted(self._free)} free and {sorted(left)} gone are not all slots, "
                f"each once, or not held by {self._holders}"
            )
        promised = {trial.promised: trial for trial in self.trials.values() if trial.promised is not None}
        if promised != self._promised or not set(promised) <= set(taken) - self._gone:
            raise InvalidTransition(f"slots {sorted(promised)} are promised, and {sorted(self._promised)} in the list")
        queued = [trial for trial in self.trials.values() if trial.queued]
        if queued and self._free and len(set(self.devices)) == 1 and self.stopping is None:
            raise InvalidTransition("a slot is free although a trial waits for one")

    def _validate_order(self) -> None:
        """Check that those come first who have trained least, or most."""
        queued = [trial for trial in self.trials.values() if trial.queued]
        adrift = {name for name, trial in self._residents.items() if trial.device and not self._slots_on[trial.device]}
        if adrift != self._adrift:
            raise InvalidTransition(f"processes of {sorted(adrift)} are adrift, not of {sorted(self._adrift)}")
        for device in {trial.device for trial in self._promised.values() if trial.device is not None}:
            places = [trial.place for trial in self._promised.values() if trial.device == device]
            least = self._promised.least_trained(device)
            if least is None or least.place != min(places):
                raise InvalidTransition(f"{least} is the first of those that were promised a slot, of {places}")
        firsts: dict[str, Trial] = {}
        for trial in sorted(queued, key=lambda trial: (trial.place, trial.queued)):
            firsts.setdefault(trial.device or "", trial)
        movable = [trial for device, trial in firsts.items() if trial.lossless or not device]
        if self._queue.waits_for_any() != bool(movable):
            raise InvalidTransition(f"{movable} could run anywhere, which the queue does not know")
        if self._evictable is not None:
            leaving = [trial for trial in self._residents.values() if self._can_leave(trial)]
            most = max(leaving, key=lambda trial: (trial.time, trial.index), default=None)
            if self._evictable.first() is not most:
                raise InvalidTransition(f"{most} would be evicted first, not {self._evictable.first()}")
