"""Whether the kernel has killed processes for lack of memory: it counts them, and a signal does not tell."""

from __future__ import annotations

from pathlib import Path

__all__ = ["OutOfMemory"]

_SYSTEM = Path("/proc/vmstat")
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


class OutOfMemory:
    """Remembers how many processes the kernel had killed, and tells what has changed since.

    Args:
        system: a file with a line ``oom_kill <number>`` for the whole machine.
        group: the like for the control group (container, SLURM job) that this process is in; None finds it.
    """

    def __init__(self, system: Path = _SYSTEM, group: Path | None = None) -> None:
        self._system = system
        self._group = _group_file() if group is None else group
        self._before = (_count(self._group), _count(self._system))

    def hint(self) -> str:
        """Return what the kernel's counters say about a process that was just killed by SIGKILL."""
        group, system = _count(self._group), _count(self._system)
        before_group, before_system = self._before
        self._before = (group, system)
        if group is not None and before_group is not None and group > before_group:
            return "the kernel has killed it because the memory limit of this job or container was reached"
        if system is not None and before_system is not None:
            if system > before_system:
                return "the machine was out of memory: the kernel has killed a process for that meanwhile"
            return "the kernel counts no process that it has killed for lack of memory, so somebody else has"
        return "possibly the machine was out of memory"


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
