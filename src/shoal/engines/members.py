"""A member's process, as the driver sees it: a socket to talk, a pipe with what it prints."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..core.events import Event
from ..worker.wire import FrameReader, MemberInfo, Turn, WentOn

__all__ = ["LineReader", "MemberProcess"]

_LONGEST_LINE = 1 << 16
_CHUNK = 1 << 16


class LineReader:
    """Cuts what a process prints into lines; of a line that rewrites itself (a progress bar), its last state."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[str]:
        """Take in bytes and yield the lines that are now complete. A line without end is cut."""
        *ended, begun = data.split(b"\n")
        for piece in ended:
            self._rest += piece
            yield self._take()
        self._rest += begun
        # What a carriage return has overwritten is gone; those at the end may belong to the end of the line.
        del self._rest[: self._rest.rfind(b"\r", 0, len(self._rest.rstrip(b"\r"))) + 1]
        if len(self._rest) > _LONGEST_LINE:
            yield self._take()

    def end(self) -> Iterator[str]:
        """Yield the line that was begun and will not be ended."""
        if self._rest:
            yield self._take()

    def _take(self) -> str:
        text = bytes(self._rest).decode(errors="replace").rstrip("\r").rpartition("\r")[2]
        self._rest.clear()
        return text


@dataclass(eq=False, slots=True)
class MemberProcess:
    """One process. Sending to it never waits: what it does not take at once is kept until it does."""

    key: int
    info: MemberInfo
    launch: int
    slot: int
    sock: socket.socket
    output: int
    """The reading end of its pipe."""
    show: Callable[[str, str], None]
    log: Path | None
    """Where what it prints is written too."""
    pid: int | None = None
    leaving: bool = False
    """It was told to leave; what it says is of no interest any more."""
    deadline: float = math.inf
    """When it is killed if it is still there, by ``time.monotonic()``."""
    killed_for: str | None = None
    """Why the driver had it killed, or None."""
    closed: bool = False
    entered: bool = False
    """It has entered its function, or may have."""
    inbox: str = ""
    """Its address for other members, if it can have one."""
    secret: bytes = b""
    """What these have to show."""
    promised: Turn | None = None
    """Where it waits for a slot that it was promised. Its holder may tell it to go on before the driver does."""
    early: bool = False
    """The holder has told it, and it trains; the core has not heard that the slot is free."""
    held: list[Event] = field(default_factory=list[Event])
    """What it has sent since. It is passed on when the core has given it the slot."""
    outbox: bytearray = field(default_factory=bytearray)
    _frames: FrameReader = field(default_factory=FrameReader)
    _lines: LineReader = field(default_factory=LineReader)

    def send(self, data: bytes) -> None:
        """Send as much as it takes now, and keep the rest. That it is gone is noticed elsewhere, with the reason."""
        self.outbox += data
        self.push()

    def push(self) -> None:
        """Send as much of the kept data as it takes now."""
        try:
            while self.outbox:
                del self.outbox[: self.sock.send(self.outbox, socket.MSG_DONTWAIT)]
        except BlockingIOError:
            return
        except OSError:
            self.outbox.clear()

    def receive(self, events: list[Event], memory: memoryview) -> bool:
        """Append what it has sent to ``events``; return False where its end of the socket is closed.

        ``memory``: where the bytes come to first, of no meaning afterwards.
        """
        try:
            count = self.sock.recv_into(memory, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        for event in self._frames.feed(memory[:count]):
            if type(event) is WentOn:
                self.early = self.promised is not None  # else the driver has told it so, too
            elif self.early:
                self.held.append(event)
            elif not self.leaving:
                events.append(event)
        return count > 0

    def release(self) -> list[Event]:
        """Let it be one like the others; return what it has sent since it was told to go on."""
        held, self.held = self.held, []
        self.promised, self.early = None, False
        return held

    def read_output(self) -> bool:
        """Pass on what it has printed; return False where nothing can follow."""
        for _ in range(16):  # bounded, so that a member that prints without end does not starve the others
            try:
                data = os.read(self.output, _CHUNK)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            if self.log is not None:
                self._write_log(self.log, data)
            for line in self._lines.feed(data):
                self.show(self.info.name, line)
        return True

    def _write_log(self, path: Path, data: bytes) -> None:
        try:
            with path.open("ab") as log:
                log.write(data)
        except OSError as error:
            self.log = None  # the run goes on, and says once what is missing
            self.show(self.info.name, f"(shoal: {path.name} cannot be written and ends here: {error})")

    def close(self) -> None:
        """Let go of its socket and its pipe."""
        if not self.closed:
            self.closed = True
            for line in self._lines.end():
                self.show(self.info.name, line)
            self.sock.close()
            os.close(self.output)
