"""The heartbeat of whoever runs an experiment in storage, and what tells one process from all others."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Alive", "born_at", "this_machine"]


@dataclass(frozen=True, slots=True)
class Alive:
    """The heartbeat of whoever runs an experiment, or has run it last."""

    process: int
    host: str
    counter: int
    """Changes with each heartbeat."""
    every_s: float
    """Seconds between two heartbeats, where storage is there."""
    ended: bool
    """Whether the driver has said that it has ended."""
    at: float
    """Seconds since the epoch, by the clock of its machine."""
    where: str = ""
    """Tells whether the number of the process means something to another process."""
    born: int = 0
    """When the process began, in ticks since its machine did."""

    @property
    def who(self) -> str:
        """The process, in words."""
        return f"process {self.process} on {self.host}"

    @property
    def is_this_process(self) -> bool:
        """Whether the process is the one that asks."""
        ours = (os.getpid(), socket.gethostname(), this_machine(), born_at(os.getpid()))
        return (self.process, self.host, self.where, self.born) == ours

    @property
    def surely_dead(self) -> bool:
        """Whether the process is known to be no more: it was one of this machine."""
        return bool(self.where) and self.where == this_machine() and born_at(self.process) != self.born


def this_machine() -> str:
    """Return what tells this machine, since it was started, and its numbers of processes from all others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def born_at(process: int) -> int:
    """Return when a process of this machine began, in ticks since the machine did; 0 where there is none.

    One that has ended and is only not yet buried is none.
    """
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return 0 if state in ("Z", "X") else int(fields[18])
    except (OSError, ValueError, LookupError):
        return 0
