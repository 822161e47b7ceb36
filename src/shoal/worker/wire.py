"""Messages between the driver and a member: a length, then a pickle. Only between processes that Shoal started.

A result travels as the tuple of its fields: there are many of them, and a dataclass takes several times as long.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import select
import socket
import struct
import sys
from collections import deque
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, NoReturn, TypeAlias

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
    "HandTo",
    "Leave",
    "LoadFailed",
    "MemberInfo",
    "Ready",
    "SaveNow",
    "Setup",
    "Turn",
    "WentOn",
    "baton",
    "frame",
    "heavy_frame",
    "open_inbox",
]

_HEADER = struct.Struct("<I")
_HEADER_SIZE = _HEADER.size
_values_of = attrgetter(*(each.name for each in fields(Reported)))
_BATON = struct.Struct("<16sqqd")
Turn: TypeAlias = tuple[int, int]
"""Where a member waits: (launch, iteration)."""
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
    inbox: str = ""
    """The address at which the member hears from others, which nobody can guess; empty where it does not."""
    secret: bytes = b""
    """What others show that send to it: everybody on this machine can, once it is there."""


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
    """Driver to a member that waits in a report or before its function: go on. Or from another member, see HandTo."""

    until: float | None
    turn: Turn | None = None
    """Where it waits, if another may have told it so. If it waits elsewhere it has gone on already, and this means
    nothing."""


@dataclass(frozen=True, slots=True)
class HandTo:
    """Driver to a member: when it comes to its boundary, let another go on in its slot, before anything else."""

    address: str
    data: bytes
    """What the other is sent."""


@dataclass(frozen=True, slots=True)
class WentOn:
    """A member to the driver: another has told it to go on from where it waits, and it does."""


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


_WENT_ON = frame(WentOn())
"""Made once: the slot stands empty until it is sent."""


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


def baton(secret: bytes, until: float | None, turn: Turn) -> bytes:
    """Return what a member sends to the one that goes on in its slot."""
    return _BATON.pack(secret, *turn, math.nan if until is None else until)


def open_inbox(address: str) -> socket.socket | None:
    """Return the socket on which a member hears of a slot that is handed on; None where that cannot be."""
    if not address:
        return None
    try:
        inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    except OSError:
        return None
    try:
        inbox.bind(address)
    except OSError:
        inbox.close()
        return None
    inbox.setblocking(False)
    return inbox


class Channel:
    """A member's side of its socket: blocking, one message at a time.

    Args:
        sock: leads to the driver.
        inbox: where other members hand their slot on to this one.
        secret: what they show.
    """

    def __init__(self, sock: socket.socket, inbox: socket.socket | None = None, secret: bytes = b"") -> None:
        self._sock = sock
        self._inbox = inbox
        self._secret = secret
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._both = select.poll()
        self._both.register(sock, select.POLLIN)
        if inbox is not None:
            self._both.register(inbox, select.POLLIN)
        self._reader = FrameReader()
        self._received: deque[Any] = deque()

    def send(self, message: object) -> None:
        """Send a message; waits while the driver is behind."""
        self._send(frame(message))

    def _send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise DriverGone from error

    def receive(self, turn: Turn | None = None) -> Any:
        """Wait for a message.

        Args:
            turn: where this member waits to go on, also by the word of another. The driver hears that it does.

        Raises:
            DriverGone: the driver is gone.
        """
        while not self._received:
            if turn is not None and self._inbox is not None:
                ready = {fd for fd, _ in self._both.poll()}
                # The driver first: what it says was decided later, or has to be known before.
                if self._sock.fileno() not in ready:
                    if (go := self._hear(self._inbox, turn)) is not None:
                        self._send(_WENT_ON)
                        return go
                    continue
            try:
                data = self._sock.recv(1 << 14)
            except OSError as error:
                raise DriverGone from error
            if not data:
                raise DriverGone
            self._received += self._reader.feed(data)
        return self._received.popleft()

    def _hear(self, inbox: socket.socket, turn: Turn) -> Go | None:
        """Return that this member may go on, where another says so that knows where it waits."""
        try:
            data = inbox.recv(_BATON.size + 1)
        except BlockingIOError:
            return None
        except OSError:
            # The user's code has closed what it does not know. The driver is still there.
            self._both.unregister(inbox.fileno())
            inbox.detach()
            self._inbox = None
            return None
        try:
            secret, launch, iteration, until = _BATON.unpack(data)
        except struct.error:
            return None
        if secret != self._secret or (launch, iteration) != turn:
            return None  # a stranger's, or it has gone on since
        return Go(None if math.isnan(until) else until, turn)

    def hand_on(self, to: HandTo) -> None:
        """Let another member go on in this one's slot. Where it cannot be told, the driver will tell it."""
        if self._inbox is not None:
            with contextlib.suppress(OSError):
                self._inbox.sendto(to.data, to.address)

    def pending(self) -> bool:
        """Return whether something of the driver's has arrived."""
        return bool(self._received) or bool(self._poll.poll(0))

    def abandon(self, launch: int | None) -> NoReturn:
        """End this process: its function cannot be left otherwise. The driver sees the exit code."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(CANNOT_LEAVE)
