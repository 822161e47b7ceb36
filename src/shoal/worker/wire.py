"""Messages between the driver and a member: a length, then a pickle. Only between processes that Shoal started.

A result travels as the tuple of its fields: there are many of them, and a dataclass takes several times as long.
"""

from __future__ import annotations

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
    "Handed",
    "Leave",
    "LoadFailed",
    "MemberInfo",
    "Ready",
    "SaveNow",
    "Setup",
    "Turn",
    "address_of",
    "baton",
    "frame",
    "heavy_frame",
    "open_inbox",
]

_HEADER = struct.Struct("<I")
_HEADER_SIZE = _HEADER.size
_values_of = attrgetter(*(each.name for each in fields(Reported)))
_VALUES = len(fields(Reported))
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
    run: str = ""
    """What the addresses of members begin with, of no other run; empty where members cannot reach each other."""
    secret: bytes = b""
    """What a member shows to another: anybody on this machine can send to an address."""


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
    """Driver to a member that waits in a report or before its function: go on. Or from another member, see HandTo."""

    until: float | None
    turn: Turn | None = None
    """Where it waits. It may be told twice, and then has gone on already; None: it cannot."""


@dataclass(frozen=True, slots=True)
class HandTo:
    """Driver to a member: when it comes to its boundary, let another go on in its slot, before anything else."""

    trial_id: str
    turn: Turn
    """Where the other waits."""
    address: str
    data: bytes
    """What it is sent."""


@dataclass(frozen=True, slots=True)
class Handed:
    """A member to the driver: a report, and that another was told to go on before."""

    report: Reported
    trial_id: str
    turn: Turn


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
    sent: object = message
    if type(message) is Reported:
        sent = _values_of(message)
    elif type(message) is Handed:
        sent = (*_values_of(message.report), message.trial_id, message.turn)
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
    if type(message) is not tuple:
        return message
    if len(message) == _VALUES:
        return Reported(*message)
    return Handed(Reported(*message[:_VALUES]), *message[_VALUES:])


def baton(secret: bytes, until: float | None, turn: Turn) -> bytes:
    """Return what a member sends to the one that goes on in its slot."""
    return _BATON.pack(secret, *turn, math.nan if until is None else until)


def address_of(run: str, key: int) -> str:
    """Return where the member with this key hears of a slot that is handed on."""
    return f"\0shoal-{run}-{key}"


def open_inbox(setup: Setup, key: int) -> socket.socket | None:
    """Return the socket on which the member with this key hears of a slot; None where that cannot be."""
    if not setup.run:
        return None
    inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        inbox.bind(address_of(setup.run, key))
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
        self._handed: Go | None = None
        """What another member has said last."""
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
        try:
            self._sock.sendall(frame(message))
        except OSError as error:
            raise DriverGone from error

    def receive(self, turn: Turn | None = None) -> Any:
        """Wait for a message.

        Args:
            turn: where this member waits to go on, also by the word of another.

        Raises:
            DriverGone: the driver is gone.
        """
        while not self._received:
            if turn is not None and self._inbox is not None:
                if (go := self._handed) is not None and go.turn == turn:
                    self._handed = None
                    return go
                ready = [fd for fd, _ in self._both.poll()]
                if self._inbox.fileno() in ready:
                    self._hear(self._inbox, turn)
                    continue
            try:
                data = self._sock.recv(1 << 14)
            except OSError as error:
                raise DriverGone from error
            if not data:
                raise DriverGone
            self._received += self._reader.feed(data)
        return self._received.popleft()

    def _hear(self, inbox: socket.socket, turn: Turn) -> None:
        """Take in that this member may go on from a turn, this one or one that it is about to be launched for."""
        try:
            secret, launch, iteration, until = _BATON.unpack(inbox.recv(_BATON.size + 1))
        except (OSError, struct.error):
            return
        if secret == self._secret and (launch, iteration) >= turn:  # no stranger's, and it has not gone on since
            self._handed = Go(None if math.isnan(until) else until, (launch, iteration))

    def hand_on(self, to: HandTo) -> bool:
        """Let another member go on in this one's slot; return whether it was told."""
        if self._inbox is None:
            return False
        try:
            return self._inbox.sendto(to.data, to.address) == len(to.data)
        except OSError:
            return False  # it is gone, or not there yet; the driver will tell it, or another

    def pending(self) -> bool:
        """Return whether something of the driver's has arrived."""
        return bool(self._received) or bool(self._poll.poll(0))

    def abandon(self, launch: int | None) -> NoReturn:
        """End this process: its function cannot be left otherwise. The driver sees the exit code."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(CANNOT_LEAVE)
