"""Messages between the driver and a member: a length, then a pickle. Only between processes that Shoal started.

A result travels as the tuple of its fields: there are many of them, and a dataclass takes several times as long.
"""

from __future__ import annotations

import os
import pickle
import select
import socket
import struct
import sys
from collections import deque
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, NoReturn

from ..applied import CheckApplied
from ..core.commands import Launch
from ..core.events import Reported
from ..core.reports import ReportRules

__all__ = [
    "CANNOT_LEAVE",
    "Channel",
    "DriverGone",
    "Enter",
    "Exited",
    "Fork",
    "Forked",
    "FrameReader",
    "Go",
    "Leave",
    "LoadFailed",
    "MemberInfo",
    "Ready",
    "SaveNow",
    "Setup",
    "frame",
    "heavy_frame",
]

_HEADER = struct.Struct("<I")
_HEADER_SIZE = _HEADER.size
_values_of = attrgetter(*(each.name for each in fields(Reported)))
CANNOT_LEAVE = 70
"""Exit code of a member whose function could not be left."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Driver to the warm parent, once: everything that all members share."""

    trainable: bytes
    """The user's function, by cloudpickle."""
    rules: ReportRules
    experiment: str
    seed: int
    cpus: float
    gpus: float
    threads: int
    """Threads that numeric libraries use in a member."""
    applied: CheckApplied | None = field(default_factory=CheckApplied)
    """How members check that optimizers use the config's values; None: not at all."""


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """Who a member is."""

    trial_id: str
    index: int
    name: str
    folder: str
    """Path of the trial's folder."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Driver to the warm parent: start a process. Its socket and its output pipe come along as file descriptors."""

    key: int
    info: MemberInfo
    device: str
    """``CUDA_VISIBLE_DEVICES`` of the process; ``""`` leaves it as it is."""
    more: bool = False
    """Whether other processes will most likely be asked for."""


@dataclass(frozen=True, slots=True)
class Enter:
    """Driver to a member: enter the function."""

    launch: Launch
    checkpoint: str | None
    """Path of the folder to restore from."""
    config: bytes | None = None
    """The config by cloudpickle, in place of the launch's, so that one which cannot be loaded fails its own trial."""


@dataclass(frozen=True, slots=True)
class Go:
    """Driver to a member that waits in a report: go on."""

    until: float | None


@dataclass(frozen=True, slots=True)
class SaveNow:
    """Driver to a member that waits in a report and can save at any time: save a checkpoint, and go on waiting."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Driver to a member: leave the function and end the process."""

    counts: bool = False
    """Whether the next report still counts."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The warm parent to the driver: the user's function is loaded, and members can be forked."""

    adopts: bool = False
    """Whether all that a member has started is ended with it, so that it suffices to kill the member alone."""


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The warm parent to the driver: the user's function cannot be loaded in a process of its own."""

    traceback: str


@dataclass(frozen=True, slots=True)
class Forked:
    """The warm parent to the driver: a member's process exists."""

    key: int
    pid: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The warm parent to the driver: a member's process is gone."""

    key: int
    status: int
    """As from ``os.waitpid``."""
    reason: str | None = None
    """Why it could not even be started."""


def frame(message: object) -> bytes:
    """Return a message as bytes, with its length in front."""
    sent = _values_of(message) if type(message) is Reported else message
    body = pickle.dumps(sent, pickle.HIGHEST_PROTOCOL)
    return _HEADER.pack(len(body)) + body


def heavy_frame(message: object) -> bytes:
    """Like :func:`frame`, for messages with the user's own objects, which may be defined in a script or a notebook."""
    from ..pickles import dumps

    body = dumps(message)
    return _HEADER.pack(len(body)) + body


class DriverGone(BaseException):
    """The other end of the socket is closed. No Exception, so that the user's function does not catch it."""


class FrameReader:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> list[Any]:
        """Take in bytes and return the messages that are now complete."""
        buffer = self._buffer
        buffer += data
        messages: list[Any] = []
        start, size = 0, len(buffer)
        try:
            while size - start >= _HEADER_SIZE:
                begin = start + _HEADER_SIZE
                end = begin + _HEADER.unpack_from(buffer, start)[0]
                if size < end:
                    break
                start = end
                messages.append(_message(buffer[begin:end]))
        finally:
            del buffer[:start]
        return messages


def _message(body: bytes | bytearray) -> Any:
    message = pickle.loads(body)
    return Reported(*message) if type(message) is tuple else message


class Channel:
    """A member's side of its socket: blocking, one message at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._reader = FrameReader()
        self._received: deque[Any] = deque()

    def send(self, message: object) -> None:
        """Send a message; waits while the driver is behind."""
        try:
            self._sock.sendall(frame(message))
        except OSError as error:
            raise DriverGone from error

    def receive(self) -> Any:
        """Wait for a message.

        Raises:
            DriverGone: the driver is gone.
        """
        while not self._received:
            try:
                data = self._sock.recv(1 << 14)
            except OSError as error:
                raise DriverGone from error
            if not data:
                raise DriverGone
            self._received += self._reader.feed(data)
        return self._received.popleft()

    def pending(self) -> bool:
        """Return whether something has arrived."""
        return bool(self._received) or bool(self._poll.poll(0))

    def abandon(self, launch: int | None) -> NoReturn:
        """End this process: its function cannot be left otherwise. The driver sees the exit code."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(CANNOT_LEAVE)
