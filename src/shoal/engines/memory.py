"""Whether the kernel has killed processes for lack of memory: it counts them, and a signal does not tell."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["OutOfMemory"]

_SYSTEM = Path("/proc/vmstat")
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")
_FRESH_S = 10.0
"""Seconds for which a count may still explain the death of another process."""
_WORKER_KILLED = re.compile(r"killed by signal: Killed|SIGKILL\(-9\)|process pool was terminated abruptly")
"""How DataLoader, joblib and ``concurrent.futures`` say that a process of theirs was killed, or perhaps was."""


class OutOfMemory:
    """Remembers how many processes the kernel had killed, and tells what has changed since.

    Each that was counted explains one death. The kernel may kill several at once, so what is left of a count explains
    the next deaths, but only for a while: it may have been for a process that nobody asks about.

    Args:
        system: a file with a line ``oom_kill <number>`` for the whole machine.
        group: the like for the control group (container, SLURM job) that this process is in; None finds it.
        clock: seconds of one clock.
    """

    def __init__(
        self, system: Path = _SYSTEM, group: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._groups = _Counter(_group_file() if group is None else group)
        self._systems = _Counter(system)

    def hint(self) -> str:
        """Return what the kernel's counters say about a process that was just killed by SIGKILL."""
        counted = self._counted()
        if counted is None and self._systems.can_tell:
            return "the kernel counts no process that it has killed for lack of memory, so somebody else has"
        return counted or "possibly the machine was out of memory"

    def hint_about_worker(self, error: str) -> str | None:
        """Return the like about an error of a member of which a worker was killed; None where there is nothing to say.

        Args:
            error: the error's text. Most are not about that, and then nothing is counted as explained.
        """
        return None if _WORKER_KILLED.search(error) is None else self._counted()

    def _counted(self) -> str | None:
        now = self._clock()
        # What the group counts, the machine counts too.
        in_group, in_system = self._groups.explains_one(now), self._systems.explains_one(now)
        if in_group:
            return "the kernel has killed it because the memory limit of this job or container was reached"
        if in_system:
            return "the machine was out of memory: the kernel has killed a process for that meanwhile"
        return None


class _Counter:
    """One of the kernel's counters, and how many of those that it has counted explain nothing yet."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._before = _count(path)
        self._left = 0
        self._since = 0.0
        self.can_tell = False

    def explains_one(self, now: float) -> bool:
        """Return whether it has counted one that explains nothing else."""
        count = _count(self._path)
        self.can_tell = count is not None and self._before is not None
        if now - self._since > _FRESH_S:
            self._left = 0
        if count is not None and self._before is not None and count > self._before:
            self._left += count - self._before
            self._since = now
        self._before = count
        self._left -= (found := self._left > 0)
        return found


def _count(path: Path | None) -> int | None:
    """Return the number behind ``oom_kill`` in a file, or None where it does not tell."""
    if path is None:
        return None
    try:
        for line in path.read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    except (OSError, ValueError):
        pass
    return None


def _group_file() -> Path | None:
    """Return the file with the counters of this process's control group (version 2, else 1), or None."""
    try:
        lines = _OWN_GROUP.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, kinds, path = line.split(":", 2)
        inside = path.lstrip("/")
        if not kinds:
            found = _GROUPS / inside / "memory.events"
        elif "memory" in kinds.split(","):
            found = _GROUPS / "memory" / inside / "memory.oom_control"
        else:
            continue
        # Inside of a container its own group is the root, whatever path the kernel tells.
        for candidate in (found, _GROUPS / found.name, _GROUPS / "memory" / found.name):
            if candidate.is_file():
                return candidate
    return None
