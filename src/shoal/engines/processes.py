"""The default engine: each member in a process of its own, forked from a warm parent.

The driver talks to a member over a socket pair and reads what it prints from a pipe. Everything happens in
:meth:`ProcessEngine.poll`, in the driver's one thread. Nothing there waits for a member; only when the warm parent has
died and is started again, the driver waits until it has loaded the user's function.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import math
import os
import secrets
import select
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ..checkpoints.store import delete_unfinished
from ..core.commands import Continue, HandOn, Launch, Save, Stop, WindUp
from ..core.events import Event, Failed, Lost
from ..errors import EngineError
from ..warm_parent import WarmParent, socket_pair
from ..worker.wire import (
    CANNOT_LEAVE,
    Enter,
    Exited,
    Fork,
    Forked,
    FrameReader,
    Go,
    HandTo,
    Leave,
    LoadFailed,
    MemberInfo,
    Ready,
    SaveNow,
    Setup,
    baton,
    frame,
    heavy_frame,
)
from . import EngineCommand, EngineSetup, grace_s
from .members import MemberProcess
from .memory import OutOfMemory
from .pickling import pickle_config, pickle_trainable

__all__ = ["ProcessEngine"]

_ASK_EVERY_MS = 100
"""How often to look whether the user still wants it, while the trainable is loaded."""
_GRACE_S = 5.0
"""Seconds that a member has to leave its function and end, before it is killed."""


class _ParentKilled(EngineError):
    """The warm parent was killed before it could fork anything."""


class ProcessEngine:
    """See :class:`shoal.engines.Engine`.

    Args:
        parent: a warm parent that was started early; it belongs to the engine from then on. None: one is started.
    """

    def __init__(self, parent: WarmParent | None = None) -> None:
        self._setup: EngineSetup | None = None
        self._trainable = b""
        self._early = parent
        self._nursery: WarmParent | None = None
        self._adopts = False
        """Whether the warm parent ends what a member has started, so that it suffices to kill the member."""
        self._control: socket.socket | None = None
        self._control_reader = FrameReader()
        self._selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._infos: dict[str, MemberInfo] = {}
        self._ended: set[str] = set()
        """Trials that have ended, and need no process any more."""
        self._members: dict[str, MemberProcess] = {}
        """The process of each trial that has one."""
        self._by_key: dict[int, MemberProcess] = {}
        """All processes, also those that are leaving."""
        self._last_key = 0
        self._requests: deque[tuple[bytearray, list[int]]] = deque()
        """Requests to the warm parent that it has not taken yet, with the file descriptors that go along."""
        self._postponed: list[tuple[Launch | Continue, str | None]] = []
        """What is to enter its function in a slot that a process has still to leave."""
        self._mourned: dict[str, list[Event]] = {}
        """What is known of members that went on in a slot by the word of its holder, and whose process is gone."""
        self._memory = OutOfMemory()
        self._received = memoryview(bytearray(1 << 18))
        """Where bytes from members come to, again and again: so much new memory costs more than what is received."""
        self._ready: deque[Event] = deque()
        """Events that did not come from a poll."""
        self._packed: dict[tuple[str, int], bytes] = {}
        """Configs of launches to come, by trial and launch, that somebody else has pickled."""
        self._alarm, self._bell = socket.socketpair()
        self._alarm.setblocking(False)
        self._bell.setblocking(False)
        self._selector.register(self._alarm, selectors.EVENT_READ, None)

    # -------------------------------------------------------------------------------------------------------- starting

    def start(self, setup: EngineSetup, pickled: bytes | None = None) -> None:
        """Start the warm parent and load the user's function in it.

        ``pickled``: the trainable as bytes, in place of the setup's.
        """
        self._setup = setup
        self._trainable = pickle_trainable(setup.trainable) if pickled is None else pickled
        self._start_nursery(setup.check)

    def _start_nursery(self, check: Callable[[], None] = lambda: None) -> None:
        early = self._early is not None
        try:
            self._try_to_start_nursery(check)
        except BaseException as error:
            self._end_nursery()
            if not (early and isinstance(error, _ParentKilled)):
                raise
            self._start_nursery(check)  # it had nothing to do with the trainable yet, most likely

    def _try_to_start_nursery(self, check: Callable[[], None]) -> None:
        setup = self._setup
        assert setup is not None
        parent, self._early = self._early, None
        self._nursery = parent or WarmParent()
        self._control = ours = self._nursery.control
        self._control_reader = FrameReader()
        message = Setup(
            trainable=self._trainable,
            rules=setup.rules,
            experiment=setup.experiment,
            seed=setup.seed,
            cpus=setup.cpus,
            gpus=setup.gpus,
            threads=max(1, math.ceil(setup.cpus)),
            applied=setup.applied,
        )
        self._wait_until_loaded(ours, bytearray(heavy_frame(message)), check)
        self._selector.register(ours, selectors.EVENT_READ, None)

    def _wait_until_loaded(self, control: socket.socket, outbox: bytearray, check: Callable[[], None]) -> None:
        """Send what is to be loaded, as the parent takes it, which may be busy with importing; wait for its answer."""
        poll = select.poll()
        while True:
            poll.register(control, select.POLLIN | (select.POLLOUT if outbox else 0))
            while not (ready := poll.poll(_ASK_EVERY_MS)):
                check()
            if ready[0][1] & select.POLLOUT:
                with contextlib.suppress(OSError):  # that it has ended is noticed next
                    del outbox[: control.send(outbox[: 1 << 16], socket.MSG_DONTWAIT)]
            if ready[0][1] == select.POLLOUT:
                continue
            try:
                data = control.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                code = self._nursery.wait() if self._nursery is not None else 0
                raise (_ParentKilled if code < 0 else EngineError)(
                    f"The parent process of the members ended with code {code} while it loaded the trainable. Its "
                    f"output is above. TuneConfig(engine='inline') runs the trainable in this process, for debugging."
                )
            for message in self._control_reader.feed(data):
                if isinstance(message, Ready):
                    self._adopts = message.adopts
                    return
                assert isinstance(message, LoadFailed)
                raise EngineError(
                    "The trainable cannot be loaded in a member's process. Modules that it imports must be importable "
                    "there: installed, or in a folder of sys.path.\n\n" + message.traceback
                )

    def add(self, info: MemberInfo) -> None:
        """A trial was added."""
        self._infos[info.trial_id] = info

    def pack(self, trial_id: str, launch: int, config: bytes) -> None:
        """Give the config of a launch that follows as bytes: whoever passes it on need not be able to load it."""
        self._packed[trial_id, launch] = config

    def wake(self) -> None:
        """Have :meth:`poll` return soon. The only method that may be called in another thread than the others."""
        with contextlib.suppress(OSError):  # enough is waiting there already, or all has ended
            self._bell.send(b"!")

    # ------------------------------------------------------------------------------------------------------- executing

    def execute(self, command: EngineCommand, checkpoint: str | None) -> None:
        """Carry a command out."""
        if isinstance(command, Launch):
            self._ended.discard(command.trial_id)
            if command.fresh and not command.waits and self._is_being_left(command.slot):
                self._postponed.append((command, checkpoint))
            else:
                self._launch(command, checkpoint)
        elif isinstance(command, Continue):
            self._continue(command)
        elif isinstance(command, HandOn):
            self._promise(command)
        elif isinstance(command, Save):
            self._tell(command.trial_id, command.launch, None, frame(SaveNow()))
        elif isinstance(command, WindUp):
            self._wind_up(command)
        else:
            if isinstance(command, Stop):
                self._ended.add(command.trial_id)
            self._postponed = [entry for entry in self._postponed if entry[0].trial_id != command.trial_id]
            self._mourned.pop(command.trial_id, None)
            member = self._members.pop(command.trial_id, None)
            if member is not None:
                self._dismiss(member)

    def _is_being_left(self, slot: int) -> bool:
        """Return whether the CPU of a slot, and on a GPU its memory, is still in use."""
        return any(member.slot == slot for member in self._by_key.values() if member.leaving)

    def _continue(self, command: Continue) -> None:
        """Let a member go on; it may have been told so by the one before in its slot."""
        if (known := self._mourned.pop(command.trial_id, None)) is not None:
            self._ready.extend(known)
            return
        member = self._members.get(command.trial_id)
        turn = None
        if member is not None:
            if not (member.entered or member.early) and self._is_being_left(command.slot):
                self._postponed.append((command, None))
                return
            turn, member.entered = member.promised, True
            self._ready.extend(member.release())
        self._tell(command.trial_id, command.launch, command.slot, frame(Go(command.until, turn)))

    def _trains_early(self, command: Launch | Continue) -> bool:
        """Return whether a command that was postponed is for one that was told so already by the holder of its slot."""
        member = self._members.get(command.trial_id)
        return isinstance(command, Continue) and member is not None and member.early

    def _promise(self, command: HandOn) -> None:
        """Tell the holder of a slot who goes on there."""
        holder, successor = self._members.get(command.trial_id), self._members.get(command.to)
        if successor is None:
            return  # which becomes an event when it is to go on
        successor.promised = turn = (command.to_launch, command.to_iteration)
        successor.slot = command.slot
        waits_for_another = not successor.entered and self._is_being_left(command.slot)
        if holder is not None and successor.inbox and not waits_for_another:
            holder.send(frame(HandTo(successor.inbox, baton(successor.secret, command.until, turn))))
            self._watch(holder)

    def _launch(self, launch: Launch, checkpoint: str | None) -> None:
        try:
            config = self._packed.pop((launch.trial_id, launch.launch), None) or pickle_config(launch.config)
            if launch.fresh:
                self._fork(self._infos[launch.trial_id], launch)
        except _ParentKilled:
            reason = "the parent process of the members was killed while it loaded the trainable"
            self._ready.append(Lost(launch.trial_id, launch.launch, reason, innocent=True))
            return
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self._ready.append(Failed(launch.trial_id, launch.launch, text, text))
            return
        if (member := self._members.get(launch.trial_id)) is not None:
            member.release()  # what it has sent is of an earlier launch
            member.entered = not (launch.fresh and launch.waits)
        enter = Enter(dataclasses.replace(launch, config={}), checkpoint, config)
        self._tell(launch.trial_id, launch.launch, launch.slot, frame(enter))

    def _fork(self, info: MemberInfo, launch: Launch) -> None:
        assert self._setup is not None
        if self._control is None:
            self._start_nursery()
        assert self._control is not None
        ours, theirs = socket_pair()
        try:
            read_end, write_end = os.pipe()
        except OSError:
            ours.close()
            theirs.close()
            raise
        os.set_blocking(read_end, False)
        log = None
        if self._setup.log_to_file:
            log = Path(info.folder, "output.log")
            with contextlib.suppress(OSError):
                log.parent.mkdir(parents=True, exist_ok=True)
        self._last_key += 1
        member = MemberProcess(
            self._last_key, info, launch.launch, launch.slot, ours, read_end, self._setup.output, log
        )
        if sys.platform == "linux":  # which alone has addresses that nobody has to delete
            member.inbox, member.secret = f"\0shoal-{secrets.token_hex(16)}", secrets.token_bytes(16)
        self._members[info.trial_id] = self._by_key[member.key] = member
        self._selector.register(ours, selectors.EVENT_READ, member)
        self._selector.register(read_end, selectors.EVENT_READ, member)
        more = len(self._members) + len(self._ended) < len(self._infos)
        device = self._setup.devices[launch.slot]
        request = frame(Fork(member.key, info, device, more, member.inbox, member.secret))
        self._requests.append((bytearray(request), [theirs.detach(), write_end]))
        self._push_requests()

    def _push_requests(self) -> None:
        """Send as many requests to the warm parent as it takes now; it may be waiting for us to read what it says."""
        control = self._control
        while control is not None and self._requests:
            data, fds = self._requests[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                sent = control.sendmsg([data], rights, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                return  # it has died, which is noticed by reading
            _close_all(fds)
            del data[:sent]
            if not data:
                self._requests.popleft()
        if control is not None:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._requests else 0)
            if self._selector.get_key(control).events != wanted:
                self._selector.modify(control, wanted, None)

    def _tell(self, trial_id: str, launch: int, slot: int | None, data: bytes) -> None:
        """Send to a trial's process; that it has died meanwhile becomes an event of this launch."""
        member = self._members.get(trial_id)
        if member is None:
            lost = Lost(trial_id, launch, "its process died while it waited", innocent=True)
            if not any(
                isinstance(event, Lost) and (event.trial_id, event.launch) == (trial_id, launch)
                for event in self._ready
            ):
                self._ready.append(lost)
            return
        member.launch = launch
        member.slot = member.slot if slot is None else slot
        member.send(data)
        self._watch(member)

    def _watch(self, member: MemberProcess) -> None:
        """Have the selector tell when a member takes what it has not taken yet."""
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if member.outbox else 0)
        with contextlib.suppress(KeyError, ValueError):
            if self._selector.get_key(member.sock).events != wanted:
                self._selector.modify(member.sock, wanted, member)

    def _wind_up(self, command: WindUp) -> None:
        """Have a member leave with its next report. What it still says is listened to, and how it ended is an event."""
        if (known := self._mourned.pop(command.trial_id, None)) is not None:
            self._ready.extend(known)
            return
        postponed = [entry for entry, _ in self._postponed if entry.trial_id == command.trial_id]
        self._postponed = [entry for entry in self._postponed if entry[0].trial_id != command.trial_id]
        if any(isinstance(entry, Launch) for entry in postponed):
            self._ready.append(Lost(command.trial_id, command.launch, "it had not been started yet"))
            return
        if (member := self._members.get(command.trial_id)) is not None:
            self._ready.extend(member.release())
            member.deadline = time.monotonic() + grace_s()
        self._tell(command.trial_id, command.launch, None, frame(Leave(counts=True)))

    def kill(self, trial_id: str, reason: str) -> None:
        """End the process of a trial at once."""
        member = self._members.get(trial_id)
        if member is not None and not member.leaving:
            member.killed_for = reason
            member.deadline = 0.0  # also where its number is not known yet
            self._kill_overdue()

    def _dismiss(self, member: MemberProcess) -> None:
        member.leaving = True
        member.deadline = time.monotonic() + _GRACE_S
        member.send(frame(Leave()))
        self._watch(member)

    # --------------------------------------------------------------------------------------------------------- polling

    def poll(self, timeout: float) -> list[Event]:
        """Return what has happened; wait at most ``timeout`` seconds for the first event."""
        # What was held back came before what the same members have sent since.
        events: list[Event] = list(self._ready)
        self._ready.clear()
        if events:
            timeout = 0.0
        for key, mask in self._selector.select(timeout):
            member: MemberProcess | None = key.data
            if key.fileobj is self._alarm:
                with contextlib.suppress(BlockingIOError):
                    self._alarm.recv(1 << 12)
            elif member is None:
                if mask & selectors.EVENT_READ:
                    self._read_control(events)
                self._push_requests()
            elif member.closed:
                continue  # it ended earlier in this round, and its numbers may be somebody else's by now
            elif key.fd == member.output:
                if not member.read_output():
                    self._forget(member.output)
            else:
                if mask & selectors.EVENT_WRITE:
                    member.push()
                    self._watch(member)
                if mask & selectors.EVENT_READ and not member.receive(events, self._received):
                    self._forget(member.sock)  # the nursery tells how it ended
        for entry in [entry for entry in self._postponed if self._trains_early(entry[0])]:
            self._postponed.remove(entry)
            self.execute(*entry)
        events.extend(self._ready)
        self._ready.clear()
        self._kill_overdue()
        return [self._explained(event) if isinstance(event, Failed) else event for event in events]

    def _explained(self, event: Failed) -> Failed:
        """Say so where a member failed because the kernel had killed a process of its own, such as a worker."""
        hint = self._memory.hint_about_worker(event.error)
        if hint is None:
            return event
        return dataclasses.replace(
            event, error=f"{event.error} ({hint})", traceback=f"{event.traceback.rstrip()} ({hint})"
        )

    def _read_control(self, events: list[Event]) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._nursery_died(events)
        for message in self._control_reader.feed(data):
            member = self._by_key.get(message.key)
            if member is None:
                continue
            if isinstance(message, Forked):
                member.pid = message.pid
            elif isinstance(message, Exited):
                self._drain(member, events)
                reason = member.killed_for or message.reason or self._how_it_ended(message.status)
                self._gone(member, reason)
                events.extend(self._ready)
                self._ready.clear()

    def _how_it_ended(self, status: int) -> str:
        code = os.waitstatus_to_exitcode(status)
        if code == CANNOT_LEAVE:
            why = "it catches BaseException around tune.report and could not be stopped otherwise"
            return f"{why}; catch Exception instead"
        if code >= 0:
            return f"its process exited with code {code}; its output.log may tell why"
        name = signal.Signals(-code).name if -code in signal.Signals.__members__.values() else f"signal {-code}"
        hint = f"; {self._memory.hint()}" if -code == signal.SIGKILL else ""
        return f"its process was killed by {name}{hint}"

    def _drain(self, member: MemberProcess, events: list[Event]) -> None:
        """Read what a dead member had still sent and printed."""
        before = -1
        while before < len(events) + len(member.held):
            before = len(events) + len(member.held)
            member.receive(events, self._received)
        member.read_output()

    def _gone(self, member: MemberProcess, reason: str, *, innocent: bool = False) -> None:
        """Forget a process that has ended; unless it was told to leave, that is an event."""
        self._by_key.pop(member.key, None)
        self._forget(member.sock)
        self._forget(member.output)
        member.close()
        if member.pid is not None:
            delete_unfinished(Path(member.info.folder), member.pid)
        trial_id = member.info.trial_id
        if self._members.get(trial_id) is member:
            del self._members[trial_id]
        if not member.leaving:
            lost = Lost(trial_id, member.launch, reason, innocent)
            if member.early:
                self._mourned[trial_id] = [*member.held, lost]
            else:
                self._ready.append(lost)
        waiting, self._postponed = self._postponed, []
        for launch, checkpoint in waiting:
            self.execute(launch, checkpoint)

    def _forget(self, file: socket.socket | int) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(file)

    def _nursery_died(self, events: list[Event]) -> None:
        """Without the warm parent all members end; the core launches them again where it may, in a new one."""
        self._end_nursery()
        for member in list(self._by_key.values()):
            _kill_group(member.pid)
            self._drain(member, events)
            reason = member.killed_for or "the parent process of the members died"
            self._gone(member, reason, innocent=member.killed_for is None)
            events.extend(self._ready)  # before what the next one has sent
            self._ready.clear()

    def _end_nursery(self) -> None:
        """Close the socket to the warm parent, upon which it kills what is left of the members and ends."""
        if self._early is not None:
            self._nursery, self._early = self._early, None
        if self._control is not None:
            self._forget(self._control)
            self._control = None
        for _, fds in self._requests:
            _close_all(fds)
        self._requests.clear()
        if self._nursery is not None:
            # Without members, and where it does not tidy up: it may be busy with importing, and nothing depends on it.
            needed = self._by_key or sys.platform == "linux"
            self._nursery.close(_GRACE_S if needed else 0.0)
            self._nursery = None

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for member in self._by_key.values():
            if member.deadline <= now and member.pid is not None:
                member.deadline = math.inf
                self._kill(member)

    def _kill(self, member: MemberProcess) -> None:
        """Kill a member. What it has started, the warm parent ends, or else it goes with the member's group."""
        if not self._adopts:
            _kill_group(member.pid)
        elif member.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(member.pid, signal.SIGKILL)

    # --------------------------------------------------------------------------------------------------------- closing

    def close(self, *, at_once: bool = False) -> None:
        """Ask all members to leave, kill those that do not, and end the warm parent."""
        self._members.clear()
        self._postponed.clear()
        try:
            for member in self._by_key.values():
                if not member.leaving:
                    self._dismiss(member)
            end = time.monotonic() + _GRACE_S + 1.0
            with contextlib.suppress(OSError, ValueError):
                while not at_once and self._by_key and self._control is not None and time.monotonic() < end:
                    self.poll(0.05)
        finally:
            # Also where the user cannot wait and interrupts again: nothing is left running.
            for member in list(self._by_key.values()):
                member.leaving = True
                self._kill(member)
                self._gone(member, "")
            self._end_nursery()
            self._selector.close()
            self._alarm.close()
            self._bell.close()


def _close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())


def _kill_group(pid: int | None) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
