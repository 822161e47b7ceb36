"""The warm parent: a process that has imported what the user's function needs, and forks a member when asked.

It has one thread, holds no state of the run and never runs the user's function. When the driver goes away, however that
happens, its socket closes here, and the nursery ends all members and itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pickle
import selectors
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from typing import Any, NoReturn

from .main import run_member
from .session import Session
from .wire import Channel, DriverGone, Fork, FrameReader, Setup, frame

__all__ = ["Exited", "Forked", "LoadFailed", "Ready", "main", "run_from_command_line"]

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Ready:
    """The user's function is loaded; members can be forked."""


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The user's function cannot be loaded in a process of its own."""

    traceback: str


@dataclass(frozen=True, slots=True)
class Forked:
    """A member's process exists."""

    key: int
    pid: int


@dataclass(frozen=True, slots=True)
class Exited:
    """A member's process is gone."""

    key: int
    status: int
    """As from ``os.waitpid``."""


def main(fd: int) -> None:
    """Serve the driver at the other end of the socket ``fd`` until it is gone."""
    control = socket.socket(fileno=fd)
    setup = Channel(control).receive()
    try:
        trainable = load(setup)
    except BaseException:
        control.sendall(frame(LoadFailed(traceback.format_exc())))
        return
    control.sendall(frame(Ready()))
    Nursery(control, setup, trainable).serve()


def load(setup: Setup) -> Any:
    """Load the user's function and warm up what it has imported."""
    trainable = pickle.loads(setup.trainable)
    _publish_main(trainable)
    _warm_up(setup.threads)
    return trainable


def _publish_main(trainable: Any) -> None:
    """Let plain pickle find what the user's script defined, so that ``torch.save(model)`` works in members.

    cloudpickle carries functions and classes of ``__main__`` by value; pickle looks them up there by name.
    """
    names = getattr(trainable, "__globals__", {})
    here = vars(sys.modules["__main__"])
    for name, value in names.items():
        if getattr(value, "__module__", None) == "__main__":
            here.setdefault(name, value)


def _warm_up(threads: int) -> None:
    """Do once, before any fork, what every member would do on its own: building an optimizer imports half of torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    torch.set_num_threads(threads)
    with contextlib.suppress(Exception):
        parameter = torch.nn.Parameter(torch.zeros(1))
        parameter.grad = torch.zeros(1)
        for kind in (torch.optim.SGD, torch.optim.Adam):
            kind([parameter], lr=0.1).step()


class Nursery:
    """Forks members and tells the driver when they are gone."""

    def __init__(self, control: socket.socket, setup: Setup, trainable: Any) -> None:
        self._control = control
        self._setup = setup
        self._trainable = trainable
        self._keys: dict[int, int] = {}
        """Process ids of members, with their keys."""
        self._fds: list[int] = []
        """File descriptors that have arrived for requests still to be read."""

    def serve(self) -> None:
        """Fork on request until the driver is gone; then end every member."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        reader = FrameReader()
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(wake_read, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if wake_read in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake_read, 4096)
                    self._reap()
                if self._control.fileno() in ready:
                    try:
                        data, fds, _, _ = socket.recv_fds(self._control, 1 << 16, 16)
                    except OSError:
                        break
                    if not data:
                        break
                    self._fds += fds
                    for message in reader.feed(data):
                        self._fork(message, (wake_read, wake_write, selector))
        for pid in self._keys:
            _kill_group(pid)

    def _fork(self, request: Fork, mine: tuple[int, int, selectors.BaseSelector]) -> None:
        sock, output = self._fds.pop(0), self._fds.pop(0)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            mine[2].close()
            for fd in (mine[0], mine[1]):
                os.close(fd)
            self._control.close()
            self._be_member(request, sock, output, parent)
        os.close(sock)
        os.close(output)
        self._keys[pid] = request.key
        self._control.sendall(frame(Forked(request.key, pid)))

    def _be_member(self, request: Fork, sock: int, output: int, parent: int) -> NoReturn:
        """Live as a member, in the child process. Never returns."""
        code = 1
        try:
            os.setsid()  # Ctrl-C in the terminal is the driver's business, and the group can be ended as a whole.
            _die_with_parent(parent)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            for text in (sys.stdout, sys.stderr):
                text.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            if request.device:
                os.environ["CUDA_VISIBLE_DEVICES"] = request.device
            setup = self._setup
            channel = Channel(socket.socket(fileno=sock))
            session = Session(channel, request.info, setup.rules, setup.experiment, setup.cpus, setup.gpus)
            run_member(channel, session, self._trainable, setup.seed)
            code = 0
        except DriverGone:
            code = 0  # The driver is gone; there is nobody left to work for.
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            # No exit handlers: they belong to the nursery, of which this process is a copy.
            os._exit(code)

    def _reap(self) -> None:
        while self._keys:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            key = self._keys.pop(pid, None)
            if key is None:
                continue
            _kill_group(pid)  # what the member has left running, DataLoader workers for example
            with contextlib.suppress(OSError):
                self._control.sendall(frame(Exited(key, status)))


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when the nursery dies; elsewhere the driver sees to it."""
    if sys.platform == "linux":
        with contextlib.suppress(Exception):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def run_from_command_line() -> None:
    """Serve with the socket's number and the driver's ``sys.path``, which the command line gives as JSON."""
    fd, path = json.loads(sys.argv[1])
    sys.path[:] = path
    del sys.argv[1:]
    main(fd)
