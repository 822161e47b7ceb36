"""Who comes first: the free slots, the trials that wait for one, and those that can do without their process.

All of it stays quick with thousands of trials on a thousand slots of hundreds of devices. What has changed leaves its
old entries behind, and an entry that counts no longer is dropped when it comes to the front.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from .trial import Trial

__all__ = ["Evictable", "FreeSlots", "Promises", "SlotQueue"]

_FEW = 8
"""So many are looked at one by one."""

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
        self.joined: set[str] = set()
        """Devices whose line somebody has joined since this was emptied; not those that are alike."""
        self._heads: list[tuple[_Entry, str]] = []
        """A heap of the first of each device, or of one that was before."""
        self._newest: dict[str, _Entry] = {}
        """Each device's entry in that heap; any other is of no use."""
        self._kept: dict[str, _Entry] = {}
        """Devices whose first would lose work without its process. They are not in the heap."""

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
        if device:
            self.joined.add(device)
            before = self._newest.get(device) or self._kept.get(device)
            if before is None or entry < before:
                self._push(device, entry)

    def clear(self) -> None:
        """Forget all entries. Their trials have to know that by themselves."""
        for told in (self._lines, self._heaps, self.joined, self._heads, self._newest, self._kept):
            told.clear()

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
            least = self._mover()
        return None if least is None else least[3]

    def waits_for(self, device: str) -> bool:
        """Return whether there is a trial whose process is on the device, or one without where it is ``""``."""
        return self._head(device) is not None

    def waits_for_any(self) -> bool:
        """Return whether there is a trial that can run on each device."""
        return self._head("") is not None or self._mover() is not None

    def mover(self) -> Trial | None:
        """Return the trial that has trained least of those that can move: the first of a device, where that can."""
        least = self._mover()
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

    def _mover(self) -> _Entry | None:
        """Return the first of those that come first on their device and would lose nothing elsewhere."""
        if self._kept:
            gone = [device for device, entry in self._kept.items() if entry[3].queued != entry[2]]
            for device in gone:
                del self._kept[device]
                self._look_again(device)
        while self._heads:
            entry, device = self._heads[0]
            if self._newest.get(device) is not entry:
                heapq.heappop(self._heads)
            elif self._head(device) is not entry:
                heapq.heappop(self._heads)
                del self._newest[device]
                self._look_again(device)
            elif entry[3].lossless:
                return entry
            else:
                heapq.heappop(self._heads)
                self._kept[device] = self._newest.pop(device)
        return None

    def _look_again(self, device: str) -> None:
        head = self._head(device)
        if head is not None:
            self._push(device, head)

    def _push(self, device: str, entry: _Entry) -> None:
        self._kept.pop(device, None)
        self._newest[device] = entry
        heapq.heappush(self._heads, (entry, device))


class FreeSlots(list[int]):
    """Slots that nobody holds, in order. Whoever adds or removes one that is not alike with all others says so."""

    def __init__(self, devices: Sequence[str]) -> None:
        super().__init__(range(len(devices)))
        self._on: dict[str, list[int]] = {}
        self.changed: set[str] = set()
        """Devices of which a slot has been freed since this was emptied."""
        for slot, device in enumerate(devices):
            if device:
                self.freed(slot, device)

    def freed(self, slot: int, device: str) -> None:
        """A slot of a device has been added."""
        insort(self._on.setdefault(device, []), slot)
        self.changed.add(device)

    def taken(self, slot: int, device: str) -> None:
        """A slot of a device has been removed."""
        _remove(self._on[device], slot)

    def take(self, slot: int, device: str) -> bool:
        """Take a slot out. Return whether it was free."""
        found = _remove(self, slot)
        if found and device:
            self.taken(slot, device)
        return found

    def first(self, after: int, device: str = "") -> int | None:
        """Return the first free slot behind another, of a device or of any; None where there is none."""
        slots = self._on.get(device, ()) if device else self
        place = bisect_right(slots, after)
        return slots[place] if place < len(slots) else None


def _remove(ordered: list[int], number: int) -> bool:
    place = bisect_left(ordered, number)
    if place == len(ordered) or ordered[place] != number:
        return False
    del ordered[place]
    return True


class Promises(dict[int, Trial]):
    """Who goes on next in a slot that is held, by slot, in the order in which that was promised."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: dict[str, list[_Entry]] | None = None
        """Those of each device as a heap, as soon as there were too many to look at each."""
        self._numbers = 0

    def make(self, slot: int, trial: Trial) -> None:
        """The trial, whose process is on the slot's device, was promised the slot."""
        self[slot] = trial
        trial.promised = slot
        if self._lines is not None:
            self._stand_in_line(trial, self._lines)
        elif len(self) > _FEW:
            self._lines = {}
            for other in self.values():
                self._stand_in_line(other, self._lines)

    def _stand_in_line(self, trial: Trial, lines: dict[str, list[_Entry]]) -> None:
        device = trial.device or ""
        line = lines.setdefault(device, [])
        if len(line) > 64 + 2 * len(self):
            line[:] = [entry for entry in line if self._counts(entry, device)]
            heapq.heapify(line)
        # Of those that have trained as long the newest comes first.
        self._numbers -= 1
        heapq.heappush(line, (trial.time, trial.iteration, self._numbers, trial))

    def clear(self) -> None:
        """Forget all. Their trials have to know that by themselves."""
        super().clear()
        self._lines = None

    def least_trained(self, device: str) -> Trial | None:
        """Return who has trained least of those that were promised a slot of the device, the newest where it ties."""
        least: Trial | None = None
        if self._lines is None:
            for trial in self.values():
                if trial.device == device and (least is None or trial.place <= least.place):
                    least = trial
            return least
        line = self._lines.get(device)
        while line:
            if self._counts(line[0], device):
                return line[0][3]
            heapq.heappop(line)
        return None

    def _counts(self, entry: _Entry, device: str) -> bool:
        time, iteration, _, trial = entry
        return trial.promised is not None and trial.device == device and trial.place == (time, iteration)


class Evictable:
    """Parked trials that lose nothing without their process, the most trained first.

    Args:
        trials: all that have a process.
        can_leave: whether a trial can be evicted now.
    """

    def __init__(self, trials: Iterable[Trial], can_leave: Callable[[Trial], bool]) -> None:
        self._can_leave = can_leave
        self._heap: list[tuple[float, int, Trial]] = []
        self._fill(trials)

    def consider(self, trial: Trial) -> None:
        """The trial may have come to be one of them, or may have trained more than it had."""
        if not self._can_leave(trial):
            return
        heapq.heappush(self._heap, (-trial.time, -trial.index, trial))
        if len(self._heap) > self._most:
            self._fill({trial.trial_id: trial for _, _, trial in self._heap}.values())

    def _fill(self, trials: Iterable[Trial]) -> None:
        self._heap = [(-trial.time, -trial.index, trial) for trial in trials if self._can_leave(trial)]
        heapq.heapify(self._heap)
        self._most = 64 + 4 * len(self._heap)

    def first(self) -> Trial | None:
        """Return the one that has trained most, or None."""
        heap = self._heap
        while heap:
            time, index, trial = heap[0]
            if not self._can_leave(trial):
                heapq.heappop(heap)
            elif -time != trial.time:
                heapq.heapreplace(heap, (-trial.time, index, trial))
            else:
                return trial
        return None
