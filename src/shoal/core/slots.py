"""Who gets the next slot: the trials that wait for one, those that have trained least first."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from .trial import Trial

__all__ = ["SlotQueue"]

_Entry = tuple[float, int, int, str]
"""(time, iteration, number of the entry, trial id)."""


class SlotQueue:
    """Waiting trials, by the device that their process is bound to.

    A trial that is taken out, or put in again, leaves its old entry behind; only the entry whose number the trial
    carries in ``queued`` counts. So putting in and looking costs O(log n), and taking out nothing.

    Args:
        trials: all trials, by their ids; it may grow.
    """

    def __init__(self, trials: Mapping[str, Trial]) -> None:
        self._trials = trials
        self._heaps: dict[str, list[_Entry]] = {}
        self._numbers = 0

    def add(self, trial: Trial) -> None:
        """Put the trial in."""
        self._numbers += 1
        trial.queued = self._numbers
        heap = self._heaps.setdefault(trial.device or "", [])
        heapq.heappush(heap, (trial.time, trial.iteration, self._numbers, trial.trial_id))

    def clear(self) -> None:
        """Forget all entries. Their trials have to know that by themselves."""
        self._heaps.clear()

    def least_trained(self, device: str, *, move: bool = True) -> Trial | None:
        """Return the trial that has trained least and can run on the device, without taking it out.

        Args:
            device: where it would run.
            move: whether it may come from another device where there is no other.
        """
        heads = [entry for name in {device, ""} if (entry := self._head(name)) is not None]
        if not heads and move:
            # Rather move a trial from another device, where a checkpoint holds all that it has, than leave this idle.
            heads = [
                entry
                for name in sorted(self._heaps)
                if (entry := self._head(name)) is not None and self._trials[entry[3]].lossless
            ]
        return self._trials[min(heads)[3]] if heads else None

    def _head(self, device: str) -> _Entry | None:
        """Return the first entry of a device's heap that counts."""
        heap = self._heaps.get(device)
        while heap:
            entry = heap[0]
            if self._trials[entry[3]].queued == entry[2]:
                return entry
            heapq.heappop(heap)
        return None
