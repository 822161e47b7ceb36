"""A bench that an engine is driven on by hand: commands go in, and each member's events are waited for, in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ...core.commands import (
    CheckpointRecord,
    Continue,
    Evict,
    HandOn,
    Launch,
    Save,
    Status,
    Stop,
    WindUp,
    checkpoint_id,
    checkpoint_name,
)
from ...core.events import Event, Finished, Lost, Reported, SavedCheckpoint, SlotsJoined, SlotsLeft, Started
from ...core.reports import ReportRules
from ...engines import Engine, EngineSetup
from ...worker.wire import MemberInfo
from ..trainables import play

__all__ = ["Bench", "Member"]

E = TypeVar("E")
PATIENCE_S = 30.0
"""Seconds after which what was waited for will not come. Long, because a machine may be busy; nothing depends on it."""


class Bench:
    """An engine, with what it was told and what it has said.

    Args:
        engine: a new one. It is started by :meth:`start`, or on entering the bench as a context.
        folder: where the folders of trials are made.
        trainable: what members run. Default: whatever function the config brings along, as ``play``.
        rules: what reports must hold.
        slots: so many, all alike; 0: the engine tells by itself.
        **setup: further fields of the ``EngineSetup``.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        trainable: Callable[..., Any] = play,
        *,
        rules: ReportRules | None = None,
        slots: int = 4,
        **setup: Any,
    ) -> None:
        self.engine = engine
        self.folder = folder
        self.lines: list[tuple[str, str]] = []
        """What members have printed, with their names."""
        self.told: list[Event] = []
        """All events, in order."""
        self.members: dict[str, Member] = {}
        self.slots = slots
        """How many slots there have been so far."""
        given: dict[str, Any] = {
            "rules": rules or ReportRules(metric="score"),
            "experiment": folder.name,
            "seed": 1,
            "cpus": 1.0,
            "gpus": 0.0,
            "applied": None,
            "folder": str(folder),
            **setup,
        }
        self.setup = EngineSetup(
            trainable=trainable,
            devices=[""] * slots,
            output=lambda name, line: self.lines.append((name, line)),
            **given,
        )

    def __enter__(self) -> Bench:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def start(self) -> None:
        """Start the engine, and wait until there is a slot."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.engine.start(self.setup)
        self.until(lambda: self.slots > 0, "a slot")

    def member(self, play: Callable[[dict[str, Any]], Any] | None = None, name: str = "", **config: Any) -> Member:
        """Add a trial that runs a function; its config holds that, and the values given."""
        index = len(self.members)
        trial_id = f"abcde_{index:05d}"
        name = name or f"member_{trial_id}"
        info = MemberInfo(trial_id, index, name, str(self.folder / name))
        Path(info.folder).mkdir(parents=True, exist_ok=True)
        if play is not None:
            config["play"] = play
        self.members[trial_id] = member = Member(self, info, config)
        self.engine.add(info)
        return member

    def pump(self, timeout: float = 0.0) -> None:
        """Poll once, and give each event to its member."""
        for event in self.engine.poll(timeout):
            self.told.append(event)
            if isinstance(event, SlotsJoined):
                self.slots += len(event.devices)
            elif not isinstance(event, SlotsLeft):
                trial_id = getattr(event, "trial_id", None)
                assert trial_id in self.members, f"this is about no member: {event}"
                self.members[trial_id].hear(event)

    def until(self, there: Callable[[], object], what: str = "it") -> None:
        """Poll until something is so."""
        end = time.monotonic() + PATIENCE_S
        while not there():
            assert time.monotonic() < end, f"{what} did not come; heard so far: {self.heard()}"
            self.pump(0.05)

    def settle(self) -> None:
        """Have a member come and go: what others had to say before is heard then."""
        visitor = self.member(lambda config: {"score": 0.0})
        visitor.launch()
        visitor.next(Started)
        visitor.reports(1)
        visitor.next(Finished)
        visitor.stop()

    def heard(self) -> list[Event]:
        """Return the events that nobody has asked for yet."""
        return [event for member in self.members.values() for event in member.events]

    def dismiss(self) -> None:
        """End all members."""
        for member in self.members.values():
            if member.has_process:
                member.stop()


@dataclass(eq=False, slots=True)
class Member:
    """A trial on the bench. Its methods tell the engine, or wait for what it says."""

    bench: Bench
    info: MemberInfo
    config: dict[str, Any]
    launches: int = 0
    has_process: bool = False
    slot: int = 0
    iteration: int = 0
    """Of its newest report."""
    over: bool = False
    """It was stopped; what it says does not count."""
    events: deque[Event] = field(default_factory=deque[Event])
    """What it has said and nobody has asked for yet, of its newest launch."""
    late: list[Event] = field(default_factory=list[Event])
    """What came of earlier launches, or after its end."""

    @property
    def trial_id(self) -> str:
        return self.info.trial_id

    # ---------------------------------------------------------------------------------------------------- what is told

    def launch(
        self,
        slot: int = 0,
        *,
        until: float | None = None,
        checkpoint: CheckpointRecord | None = None,
        folder: Path | None = None,
        waits: bool = False,
        **config: Any,
    ) -> None:
        """Have it enter its function.

        Args:
            slot, until, checkpoint, waits: as in ``Launch``.
            folder: that of the checkpoint; None: where its trial has it.
            **config: values that replace those of its config.
        """
        self.launches += 1
        self.slot, self.over = slot, False
        self.config = {**self.config, **config}
        self._forget()
        if checkpoint is not None:
            self.iteration = checkpoint.iteration
            donor = self.bench.members[checkpoint.trial_id]
            folder = folder or Path(donor.info.folder, checkpoint_name(checkpoint.number))
        else:
            self.iteration = 0
        command = Launch(
            trial_id=self.trial_id,
            launch=self.launches,
            slot=slot,
            config=self.config,
            checkpoint=checkpoint,
            iteration=self.iteration,
            time_total_s=0.0,
            next_checkpoint=100 * self.launches,
            until=until,
            fresh=not self.has_process,
            generation=self.launches - 1,
            waits=waits,
        )
        self.has_process = True
        self.bench.engine.execute(command, None if folder is None else str(folder))

    def go_on(self, slot: int | None = None, *, until: float | None = None) -> None:
        """Have it go on from where it waits."""
        self.slot = self.slot if slot is None else slot
        self._execute(Continue(self.trial_id, self.launches, self.slot, until))

    def hand_on(self, to: Member, *, until: float | None = None) -> None:
        """Promise its slot to another."""
        command = HandOn(self.trial_id, self.launches, self.slot, to.trial_id, to.launches, to.iteration, until)
        self._execute(command)

    def save(self) -> None:
        """Have it save."""
        self._execute(Save(self.trial_id, self.launches))

    def wind_up(self) -> None:
        """Have it leave with its next report."""
        self._execute(WindUp(self.trial_id, self.launches))

    def evict(self) -> None:
        """End its process."""
        self._execute(Evict(self.trial_id, self.launches))
        self.has_process = False

    def stop(self) -> None:
        """End it for good."""
        self._execute(Stop(self.trial_id, self.launches, Status.TERMINATED, "enough"))
        self.has_process, self.over = False, True
        self._forget()

    def _execute(self, command: Continue | HandOn | Save | WindUp | Evict | Stop) -> None:
        self.bench.engine.execute(command, None)

    # ----------------------------------------------------------------------------------------------------- what it says

    def hear(self, event: Event) -> None:
        """Take an event in."""
        launch = getattr(event, "launch", 0)
        assert launch <= self.launches, f"nobody has told of this launch: {event}"
        if launch < self.launches or self.over:
            self.late.append(event)
            return
        if isinstance(event, Reported):
            self.iteration = event.iteration
        self.events.append(event)

    def _forget(self) -> None:
        self.late.extend(self.events)
        self.events.clear()

    def next(self, kind: type[E], *others: type[Event]) -> E:
        """Wait for its next event and return it, which must be of this kind; ``others`` may come before."""
        while True:
            self.bench.until(lambda: self.events, f"{kind.__name__} of {self.info.name}")
            event = self.events.popleft()
            if isinstance(event, kind):
                return event
            assert isinstance(event, others), f"{kind.__name__} should be next, but there is {event}"

    def reports(self, count: int) -> list[Reported]:
        """Wait for its next events, which must be so many reports, and return them."""
        return [self.next(Reported) for _ in range(count)]

    def until_lost(self) -> list[Reported]:
        """Return what it still reports until it is lost."""
        reports: list[Reported] = []
        while not isinstance(event := self.next(object), Lost):
            if not isinstance(event, Started):
                assert isinstance(event, Reported), event
                reports.append(event)
        assert event.launch == self.launches
        self.has_process = False
        return reports

    def is_silent(self) -> bool:
        """Return whether there is nothing more of it, when others have come and gone meanwhile."""
        self.bench.settle()
        return not self.events

    def record(self, saved: SavedCheckpoint | None, **changes: Any) -> CheckpointRecord:
        """Return the record of a checkpoint that it has saved with its newest report."""
        assert saved is not None, "it has saved nothing"
        facts: dict[str, Any] = {
            "id": checkpoint_id(self.trial_id, saved.number),
            "trial_id": self.trial_id,
            "number": saved.number,
            "digest": saved.digest,
            "size": saved.size,
            "iteration": self.iteration,
            "time": float(self.iteration),
            "time_total_s": 0.0,
            "score": 0.0,
            "rank": None,
        }
        return CheckpointRecord(**{**facts, **changes})

    def path_of(self, saved: SavedCheckpoint | None) -> Path:
        """Return the folder of a checkpoint that it has saved."""
        assert saved is not None, "it has saved nothing"
        return Path(self.info.folder, checkpoint_name(saved.number))
