"""The warm parent's process, as the driver has it.

It is started before all else: while it imports what Shoal's members need, the driver imports and prepares the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from .errors import EngineError
from .worker.environment import THE_DRIVERS, THREAD_VARIABLES, ends

__all__ = ["WarmParent", "socket_pair"]

_START = (
    # Without the folder that -c puts in front: a module there called like one of the standard library must not get in.
    "import sys; sys.path[:] = [entry for entry in sys.path if entry] + [{root!r}]; "
    "from shoal.worker.nursery import run_from_command_line as run; run()"
)


class WarmParent:
    """The process that forks members, and the driver's end of the socket to it.

    Args:
        modules: what the trainable will need for sure: it imports them at once, before it has the trainable.

    Raises:
        EngineError: it cannot be started.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self.control, theirs = socket_pair()
        try:
            self._process = _spawn(theirs.fileno(), modules)
        except BaseException as error:
            self.control.close()
            if isinstance(error, OSError):
                raise EngineError(f"The parent process of the members cannot be started: {error}.") from error
            raise
        finally:
            theirs.close()
        self._closed = False

    def wait(self) -> int:
        """Wait for its end and return its exit code, negative for a signal."""
        return self._process.wait()

    def close(self, patience_s: float) -> None:
        """Close the socket, upon which it kills what is left of the members and ends.

        Args:
            patience_s: how long it may take; then it is killed.
        """
        if self._closed:
            return
        self._closed = True
        self.control.close()
        if not _ends(self._process, patience_s):
            self._process.kill()
        self._process.wait()


def _ends(process: subprocess.Popen[bytes], patience_s: float) -> bool:
    """Wait until a process ends, and return whether it did in this time."""
    if (ended := ends(process.pid, patience_s)) is not None:
        return ended
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _spawn(control: int, modules: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the warm parent with its end of the socket."""
    root = str(Path(__file__).parents[1])
    with _signals_wait():
        return subprocess.Popen(
            [
                *(sys.executable, *_interpreter_flags(), "-c", _START.format(root=root)),
                json.dumps([control, sys.path, [*modules]]),
            ],
            pass_fds=[control],
            stdin=subprocess.DEVNULL,
            stdout=None if _is_open(1) else subprocess.DEVNULL,
            stderr=None if _is_open(2) else subprocess.DEVNULL,
            # One thread while it imports: a pool of threads does not survive a fork. Members set their own number.
            # CUDA survives none either, and torch.cuda.is_available() at the top of a module must not open it.
            env={"PYTORCH_NVML_BASED_CUDA_CHECK": "1", **os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
            start_new_session=True,
        )


@contextlib.contextmanager
def _signals_wait() -> Generator[None]:
    """Have a process that is started begin with the driver's signals blocked, until it can leave them to the driver."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, THE_DRIVERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two ends of a socket; the second, which goes to another process, is not one of its standard streams."""
    ours, theirs = socket.socketpair()
    if theirs.fileno() < 3:
        moved = socket.socket(fileno=fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))
        theirs.close()
        theirs = moved
    return ours, theirs


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _interpreter_flags() -> list[str]:
    """The warning and development options of this interpreter, for the members."""
    flags: Any = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return list(flags)
