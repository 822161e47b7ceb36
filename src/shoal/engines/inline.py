"""The inline engine: members run in the driver's own process, one at a time, so that ``breakpoint()`` works.

Each member has a thread, and there is one slot: a member without it waits inside ``tune.report``, and only one at a
time runs the user's code between two reports. Nothing is pickled and nothing is redirected.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..core.commands import Continue, HandOn, Launch, Save, WindUp
from ..core.events import Event, Failed, Lost, StopAsked
from ..worker.main import run_member
from ..worker.session import SWALLOWED, Session, set_current_session
from ..worker.wire import Enter, Go, HandTo, Leave, MemberInfo, SaveNow, Turn
from . import EngineCommand, EngineSetup, grace_s

__all__ = ["InlineEngine"]

_GRACE_S = 5.0


@dataclass(slots=True)
class _Port:
    """A member's way to the driver: two queues."""

    events: queue.SimpleQueue[Event]
    trial_id: str
    inbox: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    winds_up: Lost | None = None
    """What is told when it has left, where it was asked to leave with its next report."""

    def send(self, message: Any) -> None:
        self.events.put(message)
        if isinstance(message, Failed) and message.error.startswith("BdbQuit"):
            self.events.put(StopAsked("the debugger was left"))  # or the next member would stop at the same place

    def receive(self, turn: Turn | None = None) -> Any:
        return self.inbox.get()

    def hand_on(self, to: HandTo) -> None:
        raise AssertionError("nobody is told who goes on after it")

    def pending(self) -> bool:
        return not self.inbox.empty()

    def abandon(self, launch: int | None) -> NoReturn:
        # A thread cannot be killed: this one waits for the end of the process, and its member is lost.
        if launch is not None:
            self.events.put(Lost(self.trial_id, launch, SWALLOWED))
        while True:
            threading.Event().wait()


@dataclass(slots=True)
class _Member:
    port: _Port
    thread: threading.Thread
    launch: int = 0


class InlineEngine:
    """See :class:`shoal.engines.Engine`."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._infos: dict[str, MemberInfo] = {}
        self._members: dict[str, _Member] = {}
        self._left: list[threading.Thread] = []
        self._winding_up: list[tuple[float, Lost]] = []
        """When members that were asked to leave with their next report are waited for no longer."""
        self._lost: set[tuple[str, int]] = set()
        """The launches that were told to be lost."""
        self._setup: EngineSetup | None = None
        self._outer: Session | None = None

    def start(self, setup: EngineSetup) -> None:
        """Remember what to run."""
        self._setup = setup
        # A trainable may itself run an experiment inline: its own session comes back afterwards.
        self._outer = set_current_session(None)

    def add(self, info: MemberInfo) -> None:
        """A trial was added."""
        self._infos[info.trial_id] = info

    def execute(self, command: EngineCommand, checkpoint: str | None) -> None:
        """Carry a command out."""
        if isinstance(command, Launch):
            if command.fresh:
                self._members[command.trial_id] = self._start(self._infos[command.trial_id])
            self._tell(command, Enter(command, checkpoint))
        elif isinstance(command, Continue):
            self._tell(command, Go(command.until))
        elif isinstance(command, HandOn):
            pass  # the driver tells, which is in the same process
        elif isinstance(command, Save):
            self._tell(command, SaveNow())
        elif isinstance(command, WindUp):
            lost = Lost(command.trial_id, command.launch, "it did not come to its next report")
            self._winding_up.append((time.monotonic() + grace_s(), lost))
            self._tell(command, Leave(counts=True), lost)
        else:
            member = self._members.pop(command.trial_id, None)
            if member is not None:
                member.port.inbox.put(Leave())
                self._left.append(member.thread)

    def _tell(self, command: Launch | Continue | Save | WindUp, message: object, winds_up: Lost | None = None) -> None:
        """Send something to a member; one that was killed when the command was on its way is lost."""
        member = self._members.get(command.trial_id)
        if member is None:
            self._events.put(Lost(command.trial_id, command.launch, "it was killed", innocent=True))
            return
        member.launch = command.launch
        member.port.winds_up = winds_up or member.port.winds_up
        member.port.inbox.put(message)

    def kill(self, trial_id: str, reason: str) -> None:
        """Have a trial no longer be waited for: a thread cannot be killed, and leaves with its next report."""
        member = self._members.pop(trial_id, None)
        if member is not None:
            member.port.inbox.put(Leave())
            self._left.append(member.thread)
            self._events.put(Lost(trial_id, member.launch, reason))

    def poll(self, timeout: float) -> list[Event]:
        """Return what has happened; wait at most ``timeout`` seconds for the first event."""
        now = time.monotonic()
        for end, lost in self._winding_up:
            if end <= now:
                self._events.put(lost)
        self._winding_up = [entry for entry in self._winding_up if entry[0] > now]
        happened: list[Event] = []
        try:
            happened.append(self._events.get(timeout=timeout))
            while True:
                happened.append(self._events.get_nowait())
        except queue.Empty:
            return [event for event in happened if self._counts(event)]

    def _counts(self, event: Event) -> bool:
        """Return whether to tell an event: not where its launch was lost before, whose thread may go on for a while."""
        launch = (getattr(event, "trial_id", ""), getattr(event, "launch", 0))
        if launch in self._lost:
            return False
        if isinstance(event, Lost):
            self._lost.add(launch)
        return True

    def close(self, *, at_once: bool = False) -> None:
        """End all members; a function that does not come back to Shoal within seconds is abandoned."""
        for member in self._members.values():
            member.port.inbox.put(Leave())
            self._left.append(member.thread)
        self._members.clear()
        end = time.monotonic() + (0.0 if at_once else _GRACE_S)
        for thread in self._left:
            thread.join(max(0.0, end - time.monotonic()))
        self._left.clear()
        if self._setup is not None:
            set_current_session(self._outer)
            self._setup = None

    def _start(self, info: MemberInfo) -> _Member:
        setup = self._setup
        assert setup is not None
        port = _Port(self._events, info.trial_id)
        session = Session(port, info, setup.rules, setup.experiment, setup.cpus, setup.gpus, setup.applied)

        def live() -> None:
            run_member(port, session, setup.trainable, None)
            if port.winds_up is not None:
                self._events.put(port.winds_up)

        thread = threading.Thread(target=live, name=f"shoal-{info.name}", daemon=True)
        thread.start()
        return _Member(port, thread)
