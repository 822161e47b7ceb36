"""The guardian: stands between the driver and the nursery, and sees to it that no process of a run outlives the run.

It has nothing to do but to wait, so it is never busy, needs hardly any memory, and loads nothing of the user's. On
Linux it adopts whatever process below it loses its parent, also one in a session of its own. So when the driver or the
nursery dies, or both at once, it finds all that is left, kills it, and deletes their temporary files. When it dies
itself, the nursery does the same.

Elsewhere there is none; the nursery watches the driver there, and the driver the nursery.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Collection
from typing import NoReturn

from .. import scratch
from .environment import ends

__all__ = ["adopt_orphans", "children", "die_with_parent", "end_all", "guard", "kill_orphans", "outlive_parent"]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_S = 3.0
"""Seconds that processes have which tidy up behind others. Hardly any is needed, unless the machine is busy."""
_OWN_END_S = 0.5
"""Seconds that the nursery has to end what is below it, and itself."""
_TIDIES_UP = re.compile(rb"\b(?:multiprocessing|loky\.backend)\.resource_tracker\b")
"""It ends by itself when those are gone whose semaphores and shared memory it knows, and deletes what is left of it. It
is told by its command line. Joblib has one of its own."""
_LOOK_EVERY_MS = 500
"""Where the system does not tell when a process ends."""


def guard(control: int) -> int | None:
    """Make this process the guardian of a fork of itself, and return its number in that fork.

    Returns None where there is no guardian, and this process is the driver's child as before.

    Args:
        control: the socket to the driver, which both hold.
    """
    driver = os.getppid()
    if not adopt_orphans():
        return None
    guardian = os.getpid()
    nursery = os.fork()
    if nursery == 0:
        die_with_parent(guardian)
        return guardian
    status = 0
    try:
        status = _wait(nursery, driver, control)
        gone = end_all(trackers_too=True)
        # All who held the locks are gone.
        scratch.sweep()
        scratch.delete_of_torch({nursery, *gone})
    finally:
        _end_like(status)


def _wait(nursery: int, driver: int, control: int) -> int:
    """Wait until the nursery or the driver has ended, and then for the nursery. Return its status, 0 if it is late."""
    poll = select.poll()
    poll.register(control, 0)  # that the other end is closed is told in any case
    timeout: int | None = _LOOK_EVERY_MS
    with contextlib.suppress(OSError, AttributeError):
        for pid in (nursery, driver):
            poll.register(os.pidfd_open(pid), select.POLLIN)
        timeout = None
    told: object = _maker_of(control) not in (None, driver)  # it ended before this process had begun
    while not told and os.getppid() == driver:
        told = poll.poll(timeout)
    return _let_end(nursery, control)


def _let_end(nursery: int, control: int) -> int:
    """Let the nursery end by itself, which takes a moment: should this process be killed in it, all the same ends."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(control)) as sock:
        sock.shutdown(socket.SHUT_RDWR)  # tells it, also where a fork of the driver holds the other end
    late = time.monotonic() + _OWN_END_S
    ends(nursery, _OWN_END_S)
    while True:
        pid, status = os.waitpid(nursery, os.WNOHANG)
        if pid or time.monotonic() >= late:
            return status if pid else 0
        time.sleep(0.005)  # where the system does not tell


def _maker_of(control: int) -> int | None:
    """Return who has made the socket, or None where that cannot be told."""
    with contextlib.suppress(OSError, AttributeError):
        with socket.socket(fileno=os.dup(control)) as sock:
            size = struct.calcsize("3i")
            pid: int = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]
        return pid or None
    return None


def end_all(*, trackers_too: bool) -> set[int]:
    """Kill all processes below this one, and return them. When one has ended, its children become this one's.

    Args:
        trackers_too: whether to wait for those that tidy up behind others. If not, they are left: this process may be
            one of those that they wait for.
    """
    gone: set[int] = set()
    late = time.monotonic() + _PATIENCE_S
    while True:
        killed, _ = kill_orphans((), patient=not trackers_too or time.monotonic() < late)
        try:
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                gone.add(pid)
        except ChildProcessError:
            return gone
        if not killed and not trackers_too:
            return gone
        time.sleep(0.005)


def _end_like(status: int) -> NoReturn:
    """End with the status of the nursery, which is all that the driver gets to see of it."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        with contextlib.suppress(Exception):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if -code != signal.SIGKILL:
                signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def adopt_orphans() -> bool:
    """Make this process the parent of whatever loses its own below it; return whether the system can do that."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere the driver sees to it."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def outlive_parent() -> None:
    """Take back what :func:`die_with_parent` has asked for."""
    _prctl(_PR_SET_PDEATHSIG, 0)


def _prctl(option: int, value: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        done: int = ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    except (OSError, AttributeError):
        return False
    return done == 0


def kill_orphans(known: Collection[int], *, patient: bool) -> tuple[int, int]:
    """Kill the children of this process that it does not know; return how many, and how many may go on.

    Args:
        known: those that stay.
        patient: whether those may go on that end by themselves when they have tidied up.
    """
    found = [pid for pid in children() if pid not in known]
    spared = {pid for pid in found if patient and _tidies_up(pid)}
    for pid in found:
        if pid not in spared:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    return len(found) - len(spared), len(spared)


def children() -> list[int]:
    """Return the processes whose parent is this one, those that have ended too."""
    try:
        # Twice, because one that ends while the system lists them can hide another.
        return list(dict.fromkeys([*_listed_children(), *_listed_children()]))
    except FileNotFoundError:
        return _searched_children()  # a kernel without such lists


def _listed_children() -> list[int]:
    found: list[int] = []
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/children", "rb") as file:
            found += map(int, file.read().split())
    return found


def _searched_children() -> list[int]:
    found: list[int] = []
    me = str(os.getpid()).encode()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # The name of the program, in parentheses, may hold anything.
                if file.read().rpartition(b")")[2].split()[1] == me:
                    found.append(int(name))
    return found


def _tidies_up(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read(4096)
    except OSError:
        return False
    return _TIDIES_UP.search(command) is not None
