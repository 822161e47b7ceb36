"""The watch over hyperparameters: what it says after an exploit, and above all when it says nothing."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.optim.optimizer as optim
from torch.optim import LBFGS, SGD, Adam, AdamW, lr_scheduler

from shoal import tune
from shoal.applied import leaves
from shoal.core.events import Drifted
from shoal.errors import ReportError
from shoal.worker.session import set_current_session

from .watched import KNOWN, SET_STATE, Member, donors, enter_again, from_scratch, parameters, trains, watched


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    yield from watched(tmp_path)


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


@KNOWN
def test_of_two_optimizers_with_one_key_the_one_that_forgot_it_is_named(member: Member, known: bool) -> None:
    def make(config: dict[str, Any]) -> list[Any]:
        return [Adam(parameters(), lr=config["lr"]), SGD(parameters(), lr=config["lr"])]

    state = donors(Adam(parameters(), lr=0.01)), donors(SGD(parameters(), lr=0.01))
    enter_again(member, known, {"lr": 0.012}, make)
    one, other = make({"lr": 0.012})
    one.load_state_dict(state[0])
    other.load_state_dict(state[1])
    one.param_groups[0]["lr"] = 0.012
    one.step()
    other.step()
    member.report()
    assert "but SGD steps with lr=0.01 in trial me" in member.drifts["lr"]


@KNOWN
@pytest.mark.parametrize("forgets", [True, False])
def test_an_optimizer_that_was_loaded_is_waited_for_until_it_has_stepped_and_compared_once(
    member: Member, known: bool, forgets: bool
) -> None:
    """A generator that begins when its critic has learned something."""

    def make(config: dict[str, Any]) -> list[Any]:
        return [Adam(parameters(), lr=config["lr_d"]), SGD(parameters(), lr=config["lr_g"])]

    config = {"lr_d": 0.012, "lr_g": 0.013}
    states = [donors(optimizer) for optimizer in make({"lr_d": 0.01, "lr_g": 0.01})]
    enter_again(member, known, config, make)
    mine = make(config)
    for optimizer, state in zip(mine, states, strict=True):
        optimizer.load_state_dict(state)
    mine[0].param_groups[0]["lr"] = 0.012
    if not forgets:
        mine[1].param_groups[0]["lr"] = 0.013
    for _ in range(2):
        mine[0].step()
        member.report()
        assert len(optim._global_optimizer_pre_hooks) == 1
        assert member.drifts == {}
    for _ in range(2):
        for optimizer in mine:
            optimizer.step()
        member.report()
        assert not optim._global_optimizer_pre_hooks
    assert list(member.drifts) == (["lr_g"] if forgets else [])


def test_an_optimizer_that_was_loaded_and_has_gone_is_not_waited_for(member: Member) -> None:
    member.enter({"lr": 0.012}, "donor")
    optimizer, other = (SGD(parameters(), lr=0.012) for _ in range(2))
    other.load_state_dict(donors(SGD(parameters(), lr=0.01)))
    del other
    optimizer.step()
    member.report()
    assert not optim._global_optimizer_pre_hooks
    assert member.drifts == {}


@KNOWN
@pytest.mark.parametrize("forgets", [True, False])
def test_a_step_before_loading_tells_nothing(member: Member, known: bool, forgets: bool) -> None:
    """Some take one so that there is a state to load into."""
    enter_again(member, known, {"lr": 0.012}, lambda config: [Adam(parameters(), lr=config["lr"])])
    optimizer = Adam(parameters(), lr=0.012)
    optimizer.step()
    optimizer.load_state_dict(donors(Adam(parameters(), lr=0.01)))
    if not forgets:
        optimizer.param_groups[0]["lr"] = 0.012
    optimizer.step()
    member.report()
    assert list(member.drifts) == (["lr"] if forgets else [])


def test_an_optimizer_in_the_place_of_one_that_has_gone_is_another_one(member: Member) -> None:
    """As for those who look for a learning rate with an optimizer that they throw away."""
    member.enter({"lr": 0.012}, "donor")
    gone, optimizer = SGD(parameters(), lr=1e-7), SGD(parameters(), lr=0.012)
    gone.step()
    seen = member.session._watch._seen
    seen[id(optimizer)] = seen.pop(id(gone))  # what the same address would come to
    del gone
    optimizer.load_state_dict(donors(SGD(parameters(), lr=0.01)))
    optimizer.step()
    member.report()
    assert list(member.drifts) == ["lr"]


def test_a_class_that_sets_its_rates_and_then_loads_over_them_is_told(member: Member) -> None:
    """Ray's way: reset_config sets, and load_checkpoint comes after it."""
    config = {"lr_g": 0.5, "lr_d": 0.25}
    optimizers = {"lr_g": Adam(parameters(), lr=0.5), "lr_d": SGD(parameters(), lr=0.25)}
    member.enter(config)
    for optimizer in optimizers.values():
        optimizer.step()
    member.report()
    config = {"lr_g": 0.012, "lr_d": 0.013}
    member.enter(config, "donor")
    for key, optimizer in optimizers.items():
        optimizer.param_groups[0]["lr"] = config[key]
    optimizers["lr_g"].load_state_dict(donors(Adam(parameters(), lr=0.01)))
    for optimizer in optimizers.values():
        optimizer.step()
    member.report()
    assert list(member.drifts) == ["lr_g"]


@pytest.mark.parametrize("sets", [True, False])
def test_an_object_that_keeps_its_own_rate_where_a_copy_has_the_donors_is_seen(member: Member, sets: bool) -> None:
    """Not mutated, but another one than before: who copies takes over the whole config."""
    optimizer = SGD(parameters(), lr=0.5, momentum=0.8)
    from_scratch(member, {"lr": 0.5, "momentum": 0.8}, optimizer)
    member.enter({"lr": 0.01, "momentum": 0.9}, "donor", changed=("momentum",))
    optimizer.param_groups[0].update({"momentum": 0.9, **({"lr": 0.01} if sets else {})})
    optimizer.step()
    member.report()
    assert list(member.drifts) == ([] if sets else ["lr"])


# ----------------------------------------------------------------------------------------------------- when, and how


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


def test_strict_raises_at_every_report_until_the_function_is_entered_again(tmp_path: Path) -> None:
    member = Member(tmp_path, tune.CheckApplied(strict=True))
    state = donors(SGD(parameters(), lr=0.01))
    for sets in (False, True):
        member.enter({"lr": 0.012}, "donor")
        optimizer = SGD(parameters(), lr=0.012)
        optimizer.load_state_dict(state)
        if sets:
            optimizer.param_groups[0]["lr"] = 0.012
        for _ in range(3):
            optimizer.step()
            if sets:
                member.report()
            else:
                with pytest.raises(ReportError, match="but SGD steps with"):
                    member.report()
    assert len(member.port.sent) == 3


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


@KNOWN
@pytest.mark.parametrize("forgets", [True, False])
@pytest.mark.parametrize("how", ["plateau", "by hand"])
def test_a_key_that_has_not_changed_is_not_compared_whatever_a_schedule_has_made_of_it(
    member: Member, known: bool, forgets: bool, how: str
) -> None:
    def make(config: dict[str, Any]) -> list[Any]:
        return [SGD(parameters(), lr=0.1, momentum=config["momentum"])]

    theirs = SGD(parameters(), lr=0.1, momentum=0.9)
    scheduler = lr_scheduler.ReduceLROnPlateau(theirs, patience=0)
    for _ in range(4):
        if how == "plateau":
            trains(theirs, scheduler)
        else:
            theirs.param_groups[0]["lr"] *= 0.1
    config = {"momentum": 0.95, "lr": 0.1}
    enter_again(member, known, config, make, changed=("momentum",))
    (optimizer,) = make(config)
    optimizer.load_state_dict(donors(theirs))
    if not forgets:
        optimizer.param_groups[0]["momentum"] = 0.95
    optimizer.step()
    member.report()
    assert optimizer.param_groups[0]["lr"] < 0.001
    assert list(member.drifts) == (["momentum"] if forgets else [])


def test_a_launch_from_the_members_own_checkpoint_is_not_compared_where_nothing_has_changed(member: Member) -> None:
    member.enter({"lr": 0.1}, "me", changed=())
    optimizer = SGD(parameters(), lr=0.1)
    optimizer.load_state_dict(donors(SGD(parameters(), lr=0.012)))
    optimizer.step()
    member.report()
    assert member.drifts == {}


@pytest.mark.parametrize("kept", [True, False])
def test_a_rate_of_the_codes_own_that_happens_to_be_the_donors_is_no_drift(member: Member, kept: bool) -> None:
    """The end of a schedule by hand, which is the same for all."""

    def rate(config: dict[str, Any], step: int) -> float:
        return max(float(config["lr"]) * 0.1**step, 0.0001)

    optimizer = SGD(parameters(), lr=0.5)
    from_scratch(member, {"lr": 0.5}, optimizer)
    optimizer.param_groups[0]["lr"] = rate({"lr": 0.5}, 8)
    member.enter({"lr": 0.012}, "donor")
    if not kept:
        optimizer = SGD(parameters(), lr=0.012)
        optimizer.load_state_dict(donors(SGD(parameters(), lr=0.0001)))
    optimizer.param_groups[0]["lr"] = rate({"lr": 0.012}, 9)
    optimizer.step()
    member.report()
    assert member.drifts == {}


@KNOWN
@pytest.mark.parametrize("decayed", [True, False])
def test_an_optimizer_with_a_constant_beside_one_with_the_key_is_not_judged(
    member: Member, known: bool, decayed: bool
) -> None:
    """Where the constant is what was drawn for the key, too, by chance."""

    def make(config: dict[str, Any]) -> list[Any]:
        return [Adam(parameters(), lr=config["lr"]), Adam(parameters(), lr=0.001)]

    for lr in (0.0012, 0.001):
        enter_again(member, known, {"lr": lr}, make)
        mine = make({"lr": lr})
        mine[0].load_state_dict(donors(Adam(parameters(), lr=0.01)))
        mine[1].load_state_dict(donors(Adam(parameters(), lr=0.0001 if decayed else 0.001)))
        mine[0].param_groups[0]["lr"] = lr
        for optimizer in mine:
            optimizer.step()
        member.report()
        assert member.drifts == {}


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


def test_who_took_ours_for_torchs_own_may_call_it_for_ever(member: Member) -> None:
    member.enter({"lr": 0.5}, "donor")
    taken = optim.Optimizer.__setstate__

    class Mine(SGD):
        def __setstate__(self, state: dict[str, Any]) -> None:
            taken(self, state)

    optimizer = SGD(parameters(), lr=0.5)
    optimizer.step()
    member.report()
    assert optim.Optimizer.__setstate__ is SET_STATE
    later = Mine(parameters(), lr=0.5)
    later.load_state_dict(later.state_dict())
    assert later.param_groups[0]["lr"] == 0.5


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
