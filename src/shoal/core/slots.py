"""Who runs where: slots, the trials that wait for one, and the processes that they keep meanwhile.

A *slot* is a permit to run. A trial that has none waits inside ``tune.report``, in its own process (a *resident*). Only
when there may be no more residents does one leave, through a checkpoint. Those that have trained least go first.
"""

from __future__ import annotations

import heapq
from collections import deque
from functools import lru_cache

from ..errors import InvalidTransition
from .commands import Command, Continue, Evict, Launch, Notice, Park, Status
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
        self._residents = 0
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
        self._residents = 0
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
        if trial.slot is not None:
            heapq.heappush(self._free, trial.slot)
            trial.slot = None

    def _leave(self, trial: Trial) -> None:
        """The trial's process is gone, or about to be."""
        if trial.resident:
            trial.device = None
            self._residents -= 1

    def _assign(self) -> None:
        """Give free slots to the trials that have trained least."""
        if self.stopping is not None:
            return
        passed: list[int] = []
        while self._free:
            slot = heapq.heappop(self._free)
            trial = self._queue.least_trained(self.limits.devices[slot])
            if trial is None:
                passed.append(slot)
                if self.limits.devices[slot] == "":
                    break
                continue
            self._run(trial, slot)
        for slot in passed:
            heapq.heappush(self._free, slot)

    def _run(self, trial: Trial, slot: int) -> None:
        """Let the trial run in the slot: continue it where it waits, or launch it."""
        trial.queued = 0
        if trial.waiting and trial.device == self.limits.devices[slot]:
            self._continue(trial, slot)
        else:
            self._launch(trial, slot)

    def _continue(self, trial: Trial, slot: int) -> None:
        trial.slot = slot
        trial.waiting = False
        trial.status = Status.RUNNING
        trial.story.append(_continues(slot))
        self._out.append(Continue(trial.trial_id, trial.launch, slot, self.policy.until(trial.trial_id)))

    def _launch(self, trial: Trial, slot: int) -> None:
        device = self.limits.devices[slot]
        if trial.resident and trial.device != device:
            self._evict(trial)
        fresh = not trial.resident
        if fresh:
            self._make_room()
            self._residents += 1
        trial.device = device
        trial.slot = slot
        trial.status = Status.RUNNING
        trial.launch += 1
        trial.rewind()
        source = "scratch" if trial.restore is None else trial.restore.id
        trial.story.append(f"launch {trial.launch} in slot {slot} from {source}")
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
                until=self.policy.until(trial.trial_id),
                fresh=fresh,
                generation=trial.generation,
                changed=trial.changed,
            )
        )

    def _make_room(self) -> None:
        """Evict parked trials, the most trained first, until one more process is allowed."""
        limit = self.limits.residents
        if limit is None or self._residents < limit:
            return
        parked = [trial for trial in self.trials.values() if trial.resident and trial.slot is None]
        leaving = sorted((trial for trial in parked if trial.lossless), key=lambda trial: (-trial.time, -trial.index))
        for trial in leaving[: self._residents - limit + 1]:
            self._evict(trial)
        if self._residents >= limit:
            self._notice(
                "residents",
                f"More than {limit} members keep a process, because those that wait have no checkpoint at their step "
                "and would lose work. Save one at every perturbation_interval to keep memory in its limit.",
            )

    def _evict(self, trial: Trial) -> None:
        self._leave(trial)
        trial.waiting = False
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
        queued = [trial for trial in self.trials.values() if trial.queued]
        if queued and self._free and len(set(self.limits.devices)) == 1 and self.stopping is None:
            raise InvalidTransition("a slot is free although a trial waits for one")
