"""The watch over hyperparameters: what it says after an exploit, and above all when it says nothing."""

from __future__ import annotations

import copy
import io
import pickle
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import torch.optim.optimizer as optim
from torch import nn
from torch.optim import LBFGS, SGD, Adam, AdamW, lr_scheduler

from shoal import tune
from shoal.applied import leaves, same, target
from shoal.core.commands import CheckpointRecord, Launch
from shoal.core.events import Drifted
from shoal.core.reports import ReportRules
from shoal.errors import ConfigError, ReportError
from shoal.settings import settings_to_meta, stored_settings
from shoal.worker.session import Session, set_current_session
from shoal.worker.wire import Enter, MemberInfo

# What is in torch while nobody watches.
SET_STATE = optim.Optimizer.__setstate__


class Port:
    """A driver that listens and never answers."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: object) -> None:
        self.sent.append(message)

    def receive(self) -> Any:
        raise AssertionError("nothing is waited for")

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

    def enter(self, config: dict[str, Any], whose: str | None = None) -> None:
        """Enter from scratch, or from the checkpoint of a trial."""
        self.launches += 1
        record = whose and CheckpointRecord(f"{whose}/checkpoint_000000", whose, 0, "", 0, 1, 1.0, 1.0, 1.0, 1.0)
        launch = Launch("me", self.launches, 0, {}, record or None, 0, 0.0, 0, None, False, int(whose == "donor"))
        set_current_session(self.session)
        self.session.begin(Enter(launch, str(self.folder) if whose else None, pickle.dumps(config)))

    def report(self) -> None:
        self.session.report({"score": 1.0})

    @property
    def drifts(self) -> dict[str, str]:
        return {event.key: event.text for event in self.port.sent if isinstance(event, Drifted)}


@pytest.fixture
def member(tmp_path: Path) -> Any:
    made = Member(tmp_path)
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


# ------------------------------------------------------------------------------------------------ what has drifted


@pytest.mark.parametrize("known", [True, False], ids=["in-its-own-process", "in-a-new-process"])
def test_the_learning_rate_that_came_with_a_donors_state_is_told_once_with_both_values(
    member: Member, known: bool
) -> None:
    state = donors(SGD(parameters(), lr=0.01, momentum=0.9))
    if known:
        from_scratch(member, {"lr": 0.5}, SGD(parameters(), lr=0.5, momentum=0.9))
    member.enter({"lr": 0.012, "momentum": 0.9, "batch": 32}, "donor")
    optimizer = SGD(parameters(), lr=0.012, momentum=0.9)
    optimizer.load_state_dict(state)
    for _ in range(3):
        optimizer.step()
        member.report()
    assert list(member.drifts) == ["lr"]
    assert len([event for event in member.port.sent if isinstance(event, Drifted)]) == 1
    text = member.drifts["lr"]
    assert text.startswith("config['lr'] is 0.012, but SGD steps with lr=0.01 in trial me: loading the donor's")
    assert "for group in optimizer.param_groups: group['lr'] = config['lr']" in text
    assert "shoal.torch.restore(" in text
    assert "check_applied=False" in text


@pytest.mark.parametrize(
    ("make", "config", "old"),
    [
        (lambda c: AdamW(parameters(), c["lr"], betas=(c["beta1"], 0.99)), {"lr": 0.1, "beta1": 0.8}, {"beta1": 0.7}),
        (lambda c: Adam(parameters(), betas=c["betas"]), {"betas": [0.8, 0.9]}, {"betas": [0.9, 0.99]}),
        (
            lambda c: SGD(parameters(), 0.1, c["sgd"]["momentum"]),
            {"sgd": {"momentum": 0.8}},
            {"sgd": {"momentum": 0.9}},
        ),
        (lambda c: SGD(parameters(), 0.1, weight_decay=c["wd"]), {"wd": 0.1}, {"wd": 0.0}),
        (lambda c: Adam([{"params": parameters(), "lr": c["lr"]}, {"params": parameters()}]), {"lr": 0.1}, {"lr": 0.2}),
        (lambda c: Adam(parameters(), lr=torch.tensor(c["lr"]), foreach=False), {"lr": 0.1}, {"lr": 0.2}),
        (lambda c: LBFGS(parameters(), lr=c["lr"]), {"lr": 0.1}, {"lr": 0.2}),
    ],
    ids=["element", "betas", "nested", "weight_decay", "group", "tensor", "lbfgs"],
)
def test_every_hyperparameter_that_the_config_names_is_looked_at(
    make: Any, config: dict[str, Any], old: dict[str, Any], tmp_path: Path
) -> None:
    member = Member(tmp_path, tune.CheckApplied(names={"beta1": "betas[0]", "wd": "weight_decay"}))
    state = donors(make({**config, **old}))
    for forgets in (False, True):
        member.enter(config)
        donors(make(config))
        member.report()
        member.enter(config, "donor")
        optimizer = make(config)
        mine = copy.deepcopy([{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups])
        optimizer.load_state_dict(state)
        if not forgets:
            for group, values in zip(optimizer.param_groups, mine, strict=True):
                group.update(values)
        donors(optimizer)
        member.report()
        (key, _), *_ = leaves(old)
        assert list(member.drifts) == ([key] if forgets else [])


def test_an_optimizer_that_was_pickled_as_a_whole_is_seen_too(member: Member) -> None:
    theirs = SGD(parameters(), lr=0.01)
    from_scratch(member, {"lr": 0.5}, SGD(parameters(), lr=0.5))
    member.enter({"lr": 0.012}, "donor")
    optimizer = pickle.loads(pickle.dumps(theirs))
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones(2)
    optimizer.step()
    member.report()
    assert list(member.drifts) == ["lr"]


def test_an_object_that_is_used_again_and_keeps_its_old_rate_is_seen(member: Member) -> None:
    """A class trainable whose reset_config returns True."""
    optimizer = SGD(parameters(), lr=0.5)
    from_scratch(member, {"lr": 0.5}, optimizer)
    member.enter({"lr": 0.6}, "donor")
    optimizer.step()
    member.report()
    assert "the optimizer is the one from before" in member.drifts["lr"]


def test_a_config_that_a_replay_has_changed_is_checked_and_a_retry_with_the_same_is_not(member: Member) -> None:
    own = SGD(parameters(), lr=0.5)
    from_scratch(member, {"lr": 0.5}, own)
    for lr, expected in ((0.5, []), (0.6, ["lr"])):
        member.enter({"lr": lr}, "me")
        optimizer = SGD(parameters(), lr=lr)
        optimizer.load_state_dict(donors(own))
        optimizer.step()
        member.report()
        assert list(member.drifts) == expected


def test_of_two_optimizers_the_one_that_forgot_its_rate_is_named(tmp_path: Path) -> None:
    member = Member(tmp_path, tune.CheckApplied(names={"netG_lr": "lr", "netD_lr": "lr"}))
    theirs = donors(Adam(parameters(), lr=0.001)), donors(SGD(parameters(), lr=0.002))
    for round_ in range(2):
        config = {"netG_lr": 0.003 + round_, "netD_lr": 0.004 + round_}
        member.enter(config, "donor" if round_ else None)
        generator, critic = Adam(parameters(), lr=config["netG_lr"]), SGD(parameters(), lr=config["netD_lr"])
        if round_:
            generator.load_state_dict(theirs[0])
            critic.load_state_dict(theirs[1])
            generator.param_groups[0]["lr"] = config["netG_lr"]
        threads = [threading.Thread(target=one.step) for one in (generator, critic)]
        for thread in threads:
            thread.start()
            thread.join()
        member.report()
    assert list(member.drifts) == ["netD_lr"]
    assert "SGD steps with lr=0.002" in member.drifts["netD_lr"]
    assert "Adam" not in member.drifts["netD_lr"]


def test_optimizers_that_step_only_after_the_first_report_are_looked_at_at_the_next(member: Member) -> None:
    state = donors(SGD(parameters(), lr=0.01))
    member.enter({"lr": 0.012}, "donor")
    optimizer = SGD(parameters(), lr=0.012)
    optimizer.load_state_dict(state)
    member.report()
    assert member.drifts == {}
    optimizer.step()
    member.report()
    assert list(member.drifts) == ["lr"]


def test_a_wrapper_that_steps_an_optimizer_inside_is_seen_by_way_of_that(member: Member) -> None:
    class Sharded(optim.Optimizer):
        def __init__(self, inner: Any) -> None:
            self.inner = inner
            super().__init__(inner.param_groups, inner.defaults)

        def step(self, closure: Any = None) -> Any:
            return self.inner.step(closure)

        def load_state_dict(self, state_dict: Any) -> None:
            self.inner.load_state_dict(state_dict)
            self.param_groups = self.inner.param_groups

    state = donors(SGD(parameters(), lr=0.01))
    member.enter({"lr": 0.012}, "donor")
    optimizer = Sharded(SGD(parameters(), lr=0.012))
    optimizer.load_state_dict(state)
    optimizer.step()
    member.report()
    assert "SGD steps with lr=0.01" in member.drifts["lr"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's compiler uses what torch deprecates
def test_a_compiled_step_is_seen(member: Member) -> None:
    state = donors(Adam(parameters(), lr=0.01))
    member.enter({"lr": 0.012}, "donor")
    optimizer = Adam(parameters(), lr=0.012)
    optimizer.load_state_dict(state)
    step = torch.compile(optimizer.step, backend="eager")
    step()
    member.report()
    step()
    member.report()
    assert list(member.drifts) == ["lr"]


def test_strict_raises_at_the_report_which_is_then_not_sent(tmp_path: Path) -> None:
    member = Member(tmp_path, tune.CheckApplied(strict=True))
    state = donors(SGD(parameters(), lr=0.01))
    member.enter({"lr": 0.012}, "donor")
    optimizer = SGD(parameters(), lr=0.012)
    optimizer.load_state_dict(state)
    optimizer.step()
    with pytest.raises(ReportError, match=r"config\['lr'\] is 0\.012, but SGD steps with lr=0\.01 in trial me"):
        member.report()
    assert member.port.sent == []


# -------------------------------------------------------------------------------------------------- no false alarm


def decayed(config: dict[str, Any], epoch: int) -> float:
    return float(config["lr"]) * 0.1 ** (epoch // 2)


@pytest.mark.parametrize("known", [True, False])
def test_a_rate_that_the_code_scales_or_decays_by_itself_is_not_called_drifted(tmp_path: Path, known: bool) -> None:
    for rate in (lambda config, epoch: config["lr"] * 256 / 32, decayed):
        member = Member(tmp_path)
        theirs = SGD(parameters(), lr=rate({"lr": 0.01}, 0))
        theirs.param_groups[0]["lr"] = rate({"lr": 0.01}, 3)
        if known:
            from_scratch(member, {"lr": 0.5}, SGD(parameters(), lr=rate({"lr": 0.5}, 0)))
        for number, lr in enumerate((0.012, 0.012, 0.01)):
            member.enter({"lr": lr}, "donor" if number != 1 else "me")
            optimizer = SGD(parameters(), lr=rate({"lr": lr}, 0))
            if number != 2:  # a donor with the same rate and a state that is as it should be
                optimizer.load_state_dict(donors(theirs))
            optimizer.param_groups[0]["lr"] = rate({"lr": lr}, 3)
            optimizer.step()
            member.report()
        assert member.drifts == {}


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
    lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 10)
    optimizer.step()
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


@pytest.mark.parametrize(
    "config",
    [{"eps": 0.1}, {"momentum": 0.3}, {"model": {"momentum": 0.3}, "params": 3}, {"lr": "fast"}, {"lr": None}, {}],
    ids=str,
)
def test_keys_that_are_something_else_in_the_users_code_are_left_alone(config: dict[str, Any], member: Member) -> None:
    from_scratch(member, config, Adam(parameters()))
    member.enter({key: 0.2 if isinstance(value, float) else value for key, value in config.items()}, "donor")
    for kind in (Adam, SGD):
        optimizer = kind(parameters(), lr=0.1)
        optimizer.load_state_dict(donors(kind(parameters(), lr=0.2)))
        optimizer.step()
    member.report()
    assert member.drifts == {}


def test_one_group_with_the_value_is_enough(member: Member) -> None:
    for whose in (None, "donor"):
        member.enter({"lr": 0.5}, whose)
        groups: list[dict[str, Any]] = [{"params": parameters(1), "lr": 0.05}, {"params": parameters(1)}]
        optimizer = SGD(groups, lr=0.5)
        if whose:
            optimizer.load_state_dict(donors(SGD([{"params": parameters(1)}, {"params": parameters(1)}], lr=0.01)))
            optimizer.param_groups[1]["lr"] = 0.5
        optimizer.step()
        member.report()
    assert member.drifts == {}


# --------------------------------------------------------------------------------------------- there, and gone again


def test_nothing_is_left_in_torch_once_the_first_report_has_been_checked(member: Member) -> None:
    optimizer = SGD(parameters(), lr=0.5)
    for whose in (None, "donor"):
        member.enter({"lr": 0.5}, whose)
        assert len(optim._global_optimizer_pre_hooks) == 1
        assert (optim.Optimizer.__setstate__ is SET_STATE) == (whose is None)
        optimizer.step()
        member.report()
        assert not optim._global_optimizer_pre_hooks
        assert optim.Optimizer.__setstate__ is SET_STATE


def test_a_function_that_imports_torch_itself_is_looked_at_from_its_first_report_on(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before_the_import:
        before_the_import.delitem(sys.modules, "torch.optim.optimizer")
        member.enter({"lr": 0.5})
        assert not optim._global_optimizer_pre_hooks
        member.report()
    optimizer = SGD(parameters(), lr=0.5)
    for _ in range(2):
        member.report()
        assert len(optim._global_optimizer_pre_hooks) == 1
    optimizer.step()
    member.report()
    assert not optim._global_optimizer_pre_hooks
    member.enter({"lr": 0.012}, "donor")
    optimizer = SGD(parameters(), lr=0.012)
    optimizer.load_state_dict(donors(SGD(parameters(), lr=0.01)))
    optimizer.step()
    member.report()
    assert list(member.drifts) == ["lr"]


def test_an_optimizer_that_cannot_be_read_steps_on(member: Member) -> None:
    class Odd(SGD):
        @property
        def defaults(self) -> Any:
            raise RuntimeError("not for you")

        @defaults.setter
        def defaults(self, value: Any) -> None:
            pass

    member.enter({"lr": 0.5}, "donor")
    hook = next(iter(optim._global_optimizer_pre_hooks.values()))
    hook(Odd.__new__(Odd), (), {})
    hook(object(), (), {})  # type: ignore[arg-type]
    member.report()
    assert member.drifts == {}


def test_switched_off_nothing_is_ever_put_into_torch(tmp_path: Path) -> None:
    member = Member(tmp_path, off=True)
    member.enter({"lr": 0.012}, "donor")
    assert not optim._global_optimizer_pre_hooks
    assert optim.Optimizer.__setstate__ is SET_STATE
    optimizer = SGD(parameters(), lr=0.012)
    optimizer.load_state_dict(donors(SGD(parameters(), lr=0.01)))
    optimizer.step()
    member.report()
    assert member.drifts == {}


def test_what_others_put_around_torch_in_the_meantime_stays_and_works(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    member.enter({"lr": 0.5}, "donor")
    ours = optim.Optimizer.__setstate__
    calls: list[Any] = []

    def theirs(self: Any, state: Any) -> None:
        calls.append(self)
        ours(self, state)

    optim.Optimizer.__setstate__ = theirs  # type: ignore[method-assign]
    optimizer = SGD(parameters(), lr=0.5)
    for _ in range(2):
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
        member.report()
        assert optim.Optimizer.__setstate__ is theirs
        member.enter({"lr": 0.5}, "donor")
    assert len(calls) == 2
    optim.Optimizer.__setstate__ = ours  # type: ignore[method-assign]
    optimizer.step()
    member.report()


def test_two_members_in_one_process_see_only_their_own_optimizers(tmp_path: Path) -> None:
    members = [Member(tmp_path), Member(tmp_path)]
    state = donors(SGD(parameters(), lr=0.01))
    turns = [threading.Event(), threading.Event()]

    def run(number: int) -> None:
        member = members[number]
        turns[number].wait()
        member.enter({"lr": 0.012}, "donor")
        optimizer = SGD(parameters(), lr=0.012)
        optimizer.load_state_dict(state)
        if number == 0:
            optimizer.param_groups[0]["lr"] = 0.012
            turns[1].set()
            threads[1].join()
        optimizer.step()
        member.report()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    turns[0].set()
    threads[0].join()
    set_current_session(None)
    assert [list(member.drifts) for member in members] == [[], ["lr"]]
    assert optim.Optimizer.__setstate__ is SET_STATE


# ---------------------------------------------------------------------------------------------------- what one sets


def test_names_may_be_given_by_key_or_by_path_and_for_an_element() -> None:
    names = {"rate": "lr", "d/rate": "weight_decay", "b": "betas/1", "c": "betas[0]"}
    found = [target(path, names) for path in ("g/rate", "d/rate", "b", "c", "x/lr", "odd[")]
    assert found == [
        ("lr", None), ("weight_decay", None), ("betas", 1), ("betas", 0), ("lr", None), ("odd[", None),
    ]  # fmt: skip


def test_numbers_are_the_same_up_to_single_precision() -> None:
    assert same(0.1, torch.tensor(0.1).item())
    assert same((0.9, 0.99), (0.9, 0.99))
    assert not same(0.1, 0.1001)
    assert not same((0.9, 0.99), 0.9)
    assert same(0.0, 0)
    assert dict(leaves({"a": {"b": 1, "c": "x"}, "d": [1, 2.0], "e": [], "f": [1, "x"]})) == {"a/b": 1, "d": (1, 2.0)}


def test_the_setting_is_kept_for_a_restore_and_can_be_changed_by_it(tmp_path: Path) -> None:
    check = tune.CheckApplied(names={"rate": "lr"}, strict=True)
    tune_config = tune.TuneConfig("score", "max", seed=1, check_applied=check)
    meta = {"metric": "score", "mode": "max", "seed": 1, **settings_to_meta(tune_config, tune.RunConfig())}
    kept, _ = stored_settings(meta, tmp_path, None, None)
    assert kept.check_applied == check
    kept, _ = stored_settings(meta, tmp_path, None, tune.TuneConfig(check_applied=True))
    assert kept.check_applied is True


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tune.CheckApplied(names=["lr"]), r"names must be a dict .*'learning_rate': 'lr'.*\['lr'\] \(list\)"),  # type: ignore[arg-type]
        (lambda: tune.CheckApplied(names={"rate": "betas[x]"}), r"has 'rate': 'betas\[x\]'"),
        (lambda: tune.CheckApplied(names={"rate": 1}), r"has 'rate': 1"),  # type: ignore[dict-item]
        (lambda: tune.CheckApplied(strict=1), r"strict must be True or False, but is 1 \(int\)"),  # type: ignore[arg-type]
        (lambda: tune.CheckApplied(strikt=True), r"no argument 'strikt'. Did you mean 'strict'"),  # type: ignore[call-arg]
        (lambda: tune.TuneConfig(check_applied="no"), r"check_applied must be True, False or a tune\.CheckApplied"),  # type: ignore[arg-type]
        (lambda: tune.TuneConfig(check_applied=None), r"check_applied must be .*None"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_wrong_settings_say_what_is_allowed(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
