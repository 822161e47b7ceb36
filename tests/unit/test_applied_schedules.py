"""The watch over hyperparameters and torch's schedulers, which have their own idea of what a rate goes out from."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.optim import SGD, Adam, lr_scheduler

from shoal import tune

from .watched import KNOWN, Member, donors, enter_again, from_scratch, parameters, trains, watched


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    yield from watched(tmp_path)


# ------------------------------------------------------------------------------------------- what a scheduler makes


class Own(lr_scheduler.LRScheduler):
    """A schedule of a user's."""

    def get_lr(self) -> list[Any]:
        return [base * 0.9**self.last_epoch for base in self.base_lrs]


def one_cycle(optimizer: Any) -> Any:
    return lr_scheduler.OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], total_steps=50)


FROM_BASE_LRS = {
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 100 else 0.1),
    "warm-restarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 100),
    "cyclic": lambda optimizer: lr_scheduler.CyclicLR(
        optimizer, optimizer.param_groups[0]["lr"], 1.0, cycle_momentum=False
    ),
    "own": Own,
    "in-sequence": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.ConstantLR(optimizer, 1.0), Own(optimizer)], [5]
    ),
}
FROM_THE_RATE = {
    "steps": lambda optimizer: lr_scheduler.StepLR(optimizer, 2, 0.5),
    "milestones": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2], 0.5),
    "exponential": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
    "linear": lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.5),
    "polynomial": lambda optimizer: lr_scheduler.PolynomialLR(optimizer, 10),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 10),
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
}


def saved_with(schedule: Any, lr: float, steps: int = 3) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the states of a donor's optimizer and scheduler after some steps."""
    optimizer = SGD(parameters(), lr=lr)
    scheduler = schedule(optimizer)
    for _ in range(steps):
        trains(optimizer, scheduler)
    return donors(optimizer), scheduler.state_dict()


def loaded_with(schedule: Any, lr: float, states: tuple[dict[str, Any], dict[str, Any]]) -> tuple[Any, Any]:
    """Return an optimizer and a scheduler that are made with a rate and then loaded."""
    optimizer = SGD(parameters(), lr=lr)
    scheduler = schedule(optimizer)
    optimizer.load_state_dict(states[0])
    scheduler.load_state_dict(copy.deepcopy(states[1]))  # CyclicLR takes out of it what it reads
    return optimizer, scheduler


@KNOWN
@pytest.mark.parametrize("key", ["lr", "learning_rate"])
@pytest.mark.parametrize("schedule", FROM_BASE_LRS.values(), ids=FROM_BASE_LRS)
def test_a_rate_that_only_the_first_step_has_is_a_drift(member: Member, known: bool, key: str, schedule: Any) -> None:
    states = saved_with(schedule, 0.01)
    enter_again(member, known, {key: 0.012}, lambda config: [SGD(parameters(), lr=config[key])])
    optimizer, scheduler = loaded_with(schedule, 0.012, states)
    optimizer.param_groups[0]["lr"] = 0.012
    for _ in range(3):
        trains(optimizer, scheduler)
    member.report()
    text = member.drifts[key]
    assert "goes out from 0.01 after the first step of SGD in trial me: loading the donor's" in text
    assert "Set group['initial_lr'] and scheduler.base_lrs (and those of schedulers inside of it) after" in text


@pytest.mark.parametrize("schedule", FROM_THE_RATE.values(), ids=FROM_THE_RATE)
def test_a_schedule_that_goes_on_from_the_rate_that_was_set_is_no_drift(member: Member, schedule: Any) -> None:
    states = saved_with(schedule, 0.01)
    member.enter({"lr": 0.012}, "donor")
    optimizer, scheduler = loaded_with(schedule, 0.012, states)
    optimizer.param_groups[0]["lr"] = 0.012
    for _ in range(3):
        trains(optimizer, scheduler)
    member.report()
    assert member.drifts == {}


@pytest.mark.parametrize("how", ["no scheduler", "not loaded", "mended", "of another", "by hand"])
def test_what_loading_leaves_in_initial_lr_alone_is_no_drift(member: Member, how: str) -> None:
    schedule: Any = Own
    states = saved_with(schedule, 0.01)
    member.enter({"lr": 0.012}, "donor")
    optimizer, other = SGD(parameters(), lr=0.012), SGD(parameters(), lr=0.01)
    scheduler: Any = None if how in ("no scheduler", "of another") else schedule(optimizer)
    others = schedule(other)
    optimizer.load_state_dict(states[0])
    optimizer.param_groups[0]["lr"] = 0.012
    if how == "mended":
        scheduler.load_state_dict(states[1])
        scheduler.base_lrs = [0.012]
    if how == "by hand":  # and in the place that the schedule is at
        scheduler.load_state_dict(states[1])
        scheduler.base_lrs = [0.012]
        optimizer.param_groups[0]["lr"] = 0.012 * 0.9**3
    optimizer.step()
    member.report()
    assert member.drifts == {}
    assert others.optimizer is other


@pytest.mark.parametrize("sets", [True, False], ids=["lr-set", "all-forgotten"])
@pytest.mark.parametrize("kind", ["lambda", "warm-restarts", "cyclic", "own", "one-cycle"])
def test_who_does_what_the_text_says_trains_as_one_that_was_made_with_the_new_rate(
    member: Member, kind: str, sets: bool
) -> None:
    schedule = {**FROM_BASE_LRS, "one-cycle": one_cycle}[kind]
    states = saved_with(schedule, 0.01)
    expected = rates(*loaded_with(schedule, 0.012, saved_with(schedule, 0.012)))
    for told in (False, True):
        member.enter({"lr": 0.012}, "donor")
        optimizer, scheduler = loaded_with(schedule, 0.012, states)
        if sets:
            optimizer.param_groups[0]["lr"] = 0.012
        if told:
            exec(advice(member.drifts["lr"]), {"config": {"lr": 0.012}, "optimizer": optimizer, "scheduler": scheduler})
            member.port.sent.clear()
        used = rates(optimizer, scheduler)
        member.report()
        assert ("lr" in member.drifts) != told
    assert used == pytest.approx(expected)


def rates(optimizer: Any, scheduler: Any) -> list[float]:
    """Train, and return the rates from the second step on: the first is what somebody has set."""
    found: list[float] = []
    for _ in range(5):
        trains(optimizer, scheduler)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def advice(text: str) -> str:
    """Return the code in a text, in lines."""
    code = "for group in" + text.partition(": for group in")[2].partition(". Or load")[0]
    code = code.replace("param_groups: ", "param_groups:\n    ").replace("; then ", "\n")
    return code.replace(", and for name", "\n    for name")


def test_an_object_that_sets_its_rate_and_keeps_what_its_schedule_goes_out_from_is_seen(member: Member) -> None:
    optimizer = SGD(parameters(), lr=0.5)
    scheduler = Own(optimizer)
    member.enter({"lr": 0.5})
    trains(optimizer, scheduler)
    member.report()
    member.enter({"lr": 0.6}, "donor")
    optimizer.param_groups[0]["lr"] = 0.6
    trains(optimizer, scheduler)
    member.report()
    assert "Own goes out from 0.5 after the first step of SGD in trial me: the optimizer is" in member.drifts["lr"]


def test_a_beta_that_a_cycle_moves_is_no_drift(tmp_path: Path) -> None:
    member = Member(tmp_path, tune.CheckApplied(names={"beta1": "betas/0"}))
    theirs = Adam(parameters(), lr=0.01, betas=(0.8, 0.999))
    scheduler = lr_scheduler.OneCycleLR(theirs, 0.01, total_steps=50)
    for _ in range(5):
        trains(theirs, scheduler)
    member.enter({"beta1": 0.85}, "donor")
    optimizer = Adam(parameters(), lr=0.01, betas=(0.85, 0.999))
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=50)
    optimizer.load_state_dict(donors(theirs))
    optimizer.step()
    member.report()
    assert member.drifts == {}
    assert scheduler.optimizer is optimizer


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10)),
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 10),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], 50),
        lambda optimizer: lr_scheduler.StepLR(optimizer, 1),
    ],
    ids=["warmup", "cosine", "one-cycle", "steps"],
)
def test_a_scheduler_of_torchs_that_is_made_after_loading_is_no_drift(schedule: Any, member: Member) -> None:
    theirs = SGD(parameters(), lr=0.01)
    scheduler = schedule(theirs)
    for _ in range(3):
        theirs.step()
        scheduler.step()
    mine = SGD(parameters(), lr=0.5)
    schedule(mine)
    from_scratch(member, {"lr": 0.5}, mine)
    member.enter({"lr": 0.012}, "donor")
    optimizer = SGD(parameters(), lr=0.012)
    optimizer.load_state_dict(donors(theirs))
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = 0.012
    scheduler = schedule(optimizer)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    member.report()
    assert member.drifts == {}


def test_a_warmup_that_begins_with_the_donors_initial_rate_is_a_drift(member: Member) -> None:
    """What torch does with an ``initial_lr`` that is there: a new scheduler goes out from it, and not from ``lr``."""
    theirs = SGD(parameters(), lr=0.01)
    lr_scheduler.LambdaLR(theirs, lambda step: (step + 1) / 10)
    member.enter({"lr": 0.012}, "donor")
    optimizer = SGD(parameters(), lr=0.012)
    optimizer.load_state_dict(donors(theirs))
    optimizer.param_groups[0]["lr"] = 0.012
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 10)
    optimizer.step()
    scheduler.step()
    member.report()
    assert "SGD steps with lr=0.001" in member.drifts["lr"]


def test_a_schedule_that_goes_out_from_the_donors_rate_is_a_drift(member: Member) -> None:
    theirs = SGD(parameters(), lr=0.01)
    lr_scheduler.CosineAnnealingLR(theirs, 10)
    state = donors(theirs)
    member.enter({"lr": 0.012}, "donor")
    optimizer = SGD(parameters(), lr=0.012)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 10)
    optimizer.load_state_dict(state)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    member.report()
    assert "group['initial_lr']" in member.drifts["lr"]
