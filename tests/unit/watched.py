"""A member whose optimizers are watched, without a driver: what the tests of the watch share."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import torch.optim.optimizer as optim
from torch import nn
from torch.optim import LBFGS, lr_scheduler

from shoal import tune
from shoal.applied import leaves
from shoal.core.commands import CheckpointRecord, Launch
from shoal.core.events import Drifted
from shoal.core.reports import ReportRules
from shoal.worker.session import Session, set_current_session
from shoal.worker.wire import Enter, HandTo, MemberInfo, Turn

# What is in torch while nobody watches.
SET_STATE = optim.Optimizer.__setstate__


class Port:
    """A driver that listens and never answers."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: object) -> None:
        self.sent.append(message)

    def receive(self, turn: Turn | None = None) -> Any:
        raise AssertionError("nothing is waited for")

    def hand_on(self, to: HandTo) -> None:
        raise AssertionError("nobody was promised its slot")

    def pending(self) -> bool:
        return False

    def abandon(self, launch: int | None) -> NoReturn:
        raise AssertionError


class Member:
    """A real session in this process, entered as the driver would have it entered."""

    def __init__(self, folder: Path, check: tune.CheckApplied | None = None, *, off: bool = False) -> None:
        self.port = Port()
        self.folder = folder
        info = MemberInfo("me", 0, "me", str(folder))
        applied = None if off else check or tune.CheckApplied()
        self.session = Session(self.port, info, ReportRules(), "test", 1.0, 0.0, applied)
        self.launches = 0
        self.before: dict[str, Any] = {}

    def enter(
        self, config: dict[str, Any], whose: str | None = None, *, changed: tuple[str, ...] | None = None
    ) -> None:
        """Enter from scratch, or from the checkpoint of a trial.

        Args:
            config: the new one.
            whose: ``"donor"``, ``"me"`` or, from scratch, None.
            changed: what the checkpoint was made with other values of. Default: all numbers of a copy, and what the
                member itself had otherwise before.
        """
        self.launches += 1
        now = dict(leaves(config))
        if changed is None:
            changed = tuple(path for path in now if whose == "donor" or (whose and now[path] != self.before.get(path)))
        self.before = now
        record = whose and CheckpointRecord(f"{whose}/checkpoint_000000", whose, 0, "", 0, 1, 1.0, 1.0, 1.0, 1.0)
        launch = Launch(
            "me", self.launches, 0, {}, record or None, 0, 0.0, 0, None, False, int(whose == "donor"), changed
        )
        set_current_session(self.session)
        self.session.begin(Enter(launch, str(self.folder) if whose else None, pickle.dumps(config)))

    def report(self) -> None:
        self.session.report({"score": 1.0})

    @property
    def drifts(self) -> dict[str, str]:
        return {event.key: event.text for event in self.port.sent if isinstance(event, Drifted)}


def watched(folder: Path) -> Iterator[Member]:
    """Yield a member for a fixture, and see to it that nothing of its watch is left in torch."""
    made = Member(folder)
    yield made
    made.session._watch._rest()
    set_current_session(None)
    assert not optim._global_optimizer_pre_hooks
    assert optim.Optimizer.__setstate__ is SET_STATE


def parameters(count: int = 2) -> list[nn.Parameter]:
    made = [nn.Parameter(torch.ones(2)) for _ in range(count)]
    for parameter in made:
        parameter.grad = torch.ones(2)
    return made


def donors(optimizer: Any) -> dict[str, Any]:
    """Return the state of an optimizer as it comes from a file."""
    optimizer.step() if not isinstance(optimizer, LBFGS) else optimizer.step(lambda: torch.tensor(1.0))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    state: dict[str, Any] = torch.load(file, weights_only=False)
    return state


def from_scratch(member: Member, config: dict[str, Any], optimizer: Any) -> None:
    member.enter(config)
    optimizer.step()
    member.report()
    assert member.drifts == {}


KNOWN = pytest.mark.parametrize("known", [True, False], ids=["in-its-own-process", "in-a-new-process"])


def enter_again(
    member: Member, known: bool, config: dict[str, Any], make: Any, *, changed: tuple[str, ...] | None = None
) -> None:
    """Enter from a donor's checkpoint, after a launch from scratch with other values or as the first of a process."""
    if known:
        old = {key: 0.5 + number / 16 for number, key in enumerate(config)}
        member.enter(old)
        for optimizer in make(old):
            optimizer.step()
        member.report()
    member.enter(config, "donor", changed=changed)


def trains(optimizer: Any, scheduler: Any) -> None:
    optimizer.step()
    scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
