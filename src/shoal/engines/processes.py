"""The default engine: each member in a process of its own, forked from a warm parent.

The driver talks to a member over a socket pair and reads what it prints from a pipe. Everything happens in
:meth:`ProcessEngine.poll`, in the driver's one thread.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..core.commands import Continue, Launch
from ..core.events import Event, Lost
from ..errors import EngineError
from ..worker.nursery import Exited, Forked, LoadFailed, Ready
from ..worker.wire import Enter, Fork, FrameReader, Go, Leave, MemberInfo, Setup, frame, heavy_frame
from . import EngineCommand, EngineSetup
from .pickling import pickle_trainable

__all__ = ["ProcessEngine"]

_GRACE_S = 5.0
"""Seconds that a member has to leave its function and end, before it is killed."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(eq=False, slots=True)
class _Member:
    """A member's process, as the driver sees it."""

    key: int
    info: MemberInfo
    launch: int
    sock: socket.socket
    output: int
    reader: FrameReader = field(default_factory=FrameReader)
    pid: int | None = None
    leaving: bool = False
    """It was told to leave; what it says is of no interest any more."""
    deadline: float = math.inf
    """When it is killed if it is still there."""
    text: bytearray = field(default_factory=bytearray)
    """The beginning of a line that it has not finished."""
    log: IO[bytes] | None = None


class ProcessEngine:
    """See :class:`shoal.engines.Engine`."""

    def __init__(self) -> None:
        self._setup: EngineSetup | None = None
        self._trainable = b""
        self._nursery: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._control_reader = FrameReader()
        self._selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._infos: dict[str, MemberInfo] = {}
        self._members: dict[str, _Member] = {}
        """The process of each trial that has one."""
        self._by_key: dict[int, _Member] = {}
        """All processes, also those that are leaving."""
        self._last_key = 0
        self._ready: deque[Event] = deque()
        """Events that did not come from a poll."""

    # -------------------------------------------------------------------------------------------------------- starting

    def start(self, setup: EngineSetup) -> None:
        """Start the warm parent and load the user's function in it."""
        self._setup = setup
        self._trainable = pickle_trainable(setup.trainable)
        self._start_nursery()

    def _start_nursery(self) -> None:
        setup = self._setup
        assert setup is not None
        ours, theirs = socket.socketpair()
        threads = max(1, math.ceil(setup.cpus))
        environment = {**os.environ, **{name: str(threads) for name in _THREAD_VARIABLES}}
        # The path is given twice: for the interpreter to find shoal, and as the user's script sees its own modules.
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        start = "from shoal.worker.nursery import run_from_command_line as run; run()"
        try:
            self._nursery = subprocess.Popen(
                [sys.executable, *_interpreter_flags(), "-c", start, json.dumps([theirs.fileno(), sys.path])],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise EngineError(f"The parent process of the members cannot be started: {error}.") from error
        finally:
            theirs.close()
        self._control = ours
        self._control_reader = FrameReader()
        ours.sendall(
            heavy_frame(
                Setup(
                    trainable=self._trainable,
                    rules=setup.rules,
                    experiment=setup.experiment,
                    folder=str(setup.folder),
                    seed=setup.seed,
                    cpus=setup.cpus,
                    gpus=setup.gpus,
                    threads=threads,
                )
            )
        )
        self._wait_until_loaded(ours)
        self._selector.register(ours, selectors.EVENT_READ, None)

    def _wait_until_loaded(self, control: socket.socket) -> None:
        while True:
            data = control.recv(1 << 16)
            if not data:
                code = self._nursery.wait() if self._nursery is not None else None
                raise EngineError(
                    f"The parent process of the members ended with code {code} while it loaded the trainable. Its "
                    f"output is "
                    f"above. TuneConfig(engine='inline') runs the trainable in this process, for debugging."
                )
            for message in self._control_reader.feed(data):
                if isinstance(message, Ready):
                    return
                assert isinstance(message, LoadFailed)
                raise EngineError(
                    "The trainable cannot be loaded in a member's process. Modules that it imports must be importable "
                    "there: "
                    "installed, or in a folder of sys.path.\n\n" + message.traceback
                )

    def add(self, info: MemberInfo) -> None:
        """A trial was added."""
        self._infos[info.trial_id] = info

    # ------------------------------------------------------------------------------------------------------- executing

    def execute(self, command: EngineCommand, checkpoint: str | None) -> None:
        """Carry a command out."""
        if isinstance(command, Launch):
            if command.fresh:
                self._fork(self._infos[command.trial_id], command)
            self._tell(command.trial_id, command.launch, heavy_frame(Enter(command, checkpoint)))
        elif isinstance(command, Continue):
            self._tell(command.trial_id, command.launch, frame(Go(command.until)))
        else:
            member = self._members.pop(command.trial_id, None)
            if member is not None:
                self._dismiss(member)

    def _fork(self, info: MemberInfo, launch: Launch) -> None:
        assert self._setup is not None
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        self._last_key += 1
        member = _Member(self._last_key, info, launch.launch, ours, read_end)
        if self._setup.log_to_file:
            with contextlib.suppress(OSError):
                Path(info.folder).mkdir(parents=True, exist_ok=True)
                member.log = Path(info.folder, "output.log").open("ab")  # noqa: SIM115 - open as long as the member lives
        request = frame(Fork(member.key, info, self._setup.devices[launch.slot]))
        self._members[info.trial_id] = self._by_key[member.key] = member
        self._selector.register(ours, selectors.EVENT_READ, member)
        self._selector.register(read_end, selectors.EVENT_READ, member)
        try:
            if self._control is None:
                self._start_nursery()
            assert self._control is not None
            socket.send_fds(self._control, [request], [theirs.fileno(), write_end])
        except (OSError, EngineError) as error:
            self._gone(member, f"its process cannot be started: {error}")
        finally:
            theirs.close()
            os.close(write_end)

    def _tell(self, trial_id: str, launch: int, data: bytes) -> None:
        """Send to a trial's process; that it has died meanwhile becomes an event of this launch."""
        member = self._members.get(trial_id)
        if member is None:
            self._ready.append(Lost(trial_id, launch, "its process died while it waited"))
            return
        member.launch = launch
        with contextlib.suppress(OSError):  # its end is noticed by poll, with the reason
            member.sock.sendall(data)

    def _dismiss(self, member: _Member) -> None:
        member.leaving = True
        member.deadline = time.monotonic() + _GRACE_S
        with contextlib.suppress(OSError):
            member.sock.sendall(frame(Leave()))

    # --------------------------------------------------------------------------------------------------------- polling

    def poll(self, timeout: float) -> list[Event]:
        """Return what has happened; wait at most ``timeout`` seconds for the first event."""
        events: list[Event] = []
        if self._ready:
            timeout = 0.0
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._read_control(events)
                continue
            member: _Member = key.data
            if key.fd == member.output:
                self._read_output(member)
            elif member.key in self._by_key:
                self._read_frames(member, events)
        events.extend(self._ready)
        self._ready.clear()
        self._kill_overdue()
        return events

    def _read_frames(self, member: _Member, events: list[Event]) -> None:
        try:
            data = member.sock.recv(1 << 18, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # The nursery tells how it ended; until then there is nothing more to read here.
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(member.sock)
            return
        for event in member.reader.feed(data):
            if not member.leaving:
                events.append(event)

    def _read_control(self, events: list[Event]) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._nursery_died()
            events.extend(self._ready)
            self._ready.clear()
            return
        for message in self._control_reader.feed(data):
            member = self._by_key.get(message.key)
            if member is None:
                continue
            if isinstance(message, Forked):
                member.pid = message.pid
            elif isinstance(message, Exited):
                self._drain(member, events)
                self._gone(member, _how_it_ended(message.status))
                events.extend(self._ready)
                self._ready.clear()

    def _drain(self, member: _Member, events: list[Event]) -> None:
        """Read what a dead member had still sent."""
        with contextlib.suppress(OSError):
            while data := member.sock.recv(1 << 18, socket.MSG_DONTWAIT):
                for event in member.reader.feed(data):
                    if not member.leaving:
                        events.append(event)
        self._read_output(member)

    def _gone(self, member: _Member, reason: str) -> None:
        """Forget a process that has ended; unless it was told to leave, that is an event."""
        self._by_key.pop(member.key, None)
        for file in (member.sock, member.output):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(file)
        if member.text:
            self._line(member, bytes(member.text))
        member.sock.close()
        os.close(member.output)
        if member.log is not None:
            member.log.close()
        trial_id = member.info.trial_id
        if self._members.get(trial_id) is member:
            del self._members[trial_id]
        if not member.leaving:
            self._ready.append(Lost(trial_id, member.launch, reason))

    def _nursery_died(self) -> None:
        """Without the warm parent all members end; the core launches them again where it may, in a new one."""
        assert self._control is not None
        self._selector.unregister(self._control)
        self._control.close()
        self._control = None
        for member in list(self._by_key.values()):
            _kill_group(member.pid)
            self._drain(member, [])
            self._gone(member, "the parent process of the members died")

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for member in self._by_key.values():
            if member.deadline <= now and member.pid is not None:
                member.deadline = math.inf
                _kill_group(member.pid)

    # ---------------------------------------------------------------------------------------------------------- output

    def _read_output(self, member: _Member) -> None:
        for _ in range(16):  # bounded, so that a member that prints without end does not starve the others
            try:
                data = os.read(member.output, 1 << 16)
            except (BlockingIOError, OSError):
                return
            if not data:
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(member.output)
                return
            if member.log is not None:
                with contextlib.suppress(OSError):
                    member.log.write(data)
                    member.log.flush()
            member.text += data
            *lines, rest = bytes(member.text).split(b"\n")
            member.text = bytearray(rest)
            for line in lines:
                self._line(member, line)

    def _line(self, member: _Member, line: bytes) -> None:
        assert self._setup is not None
        # A progress bar rewrites its line; its last state is what one wants to read.
        text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
        self._setup.output(member.info.name, text)

    # --------------------------------------------------------------------------------------------------------- closing

    def close(self) -> None:
        """Ask all members to leave, kill those that do not, and end the warm parent."""
        self._members.clear()
        for member in self._by_key.values():
            if not member.leaving:
                self._dismiss(member)
        end = time.monotonic() + _GRACE_S + 1.0
        with contextlib.suppress(OSError, ValueError):
            while self._by_key and self._control is not None and time.monotonic() < end:
                self.poll(0.05)
        if self._control is not None:
            self._control.close()  # the nursery kills what is left
            self._control = None
        if self._nursery is not None:
            try:
                self._nursery.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                self._nursery.kill()
                self._nursery.wait()
            self._nursery = None
        for member in list(self._by_key.values()):
            _kill_group(member.pid)
            self._gone(member, "")
        self._selector.close()


def _how_it_ended(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        hint = " (it catches BaseException around tune.report)" if code == 70 else ""
        return f"its process exited with code {code}{hint}; its output.log may tell why"
    name = signal.Signals(-code).name if -code in signal.Signals.__members__.values() else f"signal {-code}"
    hint = "; possibly the machine was out of memory" if -code == signal.SIGKILL else ""
    return f"its process was killed by {name}{hint}"


def _kill_group(pid: int | None) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _interpreter_flags() -> list[str]:
    """The warning and development options of this interpreter, for the members."""
    flags: Any = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return list(flags)
