"""shoal.torch: which hyperparameters follow a new config, compared with what torch does from scratch or by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop, lr_scheduler
from torch.optim.swa_utils import SWALR

import shoal.torch

Config = dict[str, Any]
OLD, MID, NEW = {"lr": 0.01, "b": 0.5}, {"lr": 0.02, "b": 0.5}, {"lr": 0.03, "b": 0.5}


def parameter() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(1))]


def step(*optimizers: Any) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for each in group["params"]:
                each.grad = torch.ones(1)
        optimizer.step()


def rates(optimizer: Any) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def values(optimizer: Any, *names: str) -> list[list[Any]]:
    return [[group[name] for name in names] for group in optimizer.param_groups]


# ------------------------------------------------------------------------------------------------------- schedules


class Noam:
    def __init__(self, lr: float) -> None:
        self.lr = lr

    def __call__(self, epoch: int) -> float:
        return self.lr * min(1.0, (epoch + 1) / 10)


Made = tuple[Any, Any]


def sgd(make: Callable[[Any, float], Any], momentum: float = 0.9) -> Callable[[Config], Made]:
    def made(config: Config) -> Made:
        optimizer = SGD(parameter(), lr=config["lr"], momentum=momentum)
        return optimizer, make(optimizer, config["lr"])

    return made


def over(optimizer: Any, make: Callable[[Any], Any]) -> Made:
    return optimizer, make(optimizer)


def after_each_other(one: Any, _: float) -> Any:
    return lr_scheduler.SequentialLR(
        one, [lr_scheduler.LinearLR(one, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(one, 20)], [3]
    )


def together(one: Any, _: float) -> Any:
    return lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(one, 0.1, total_iters=3), lr_scheduler.ExponentialLR(one, 0.9)]
    )


SCHEDULES: dict[str, Callable[[Config], Made]] = {
    "lambda": sgd(lambda one, _: lr_scheduler.LambdaLR(one, lambda epoch: (epoch + 1) / 100)),
    "multiplicative": sgd(lambda one, _: lr_scheduler.MultiplicativeLR(one, lambda _: 0.9)),
    "step": sgd(lambda one, _: lr_scheduler.StepLR(one, 3, 0.5)),
    "milestones": sgd(lambda one, _: lr_scheduler.MultiStepLR(one, [2, 7])),
    "constant": sgd(lambda one, _: lr_scheduler.ConstantLR(one, 0.5, 6)),
    "linear": sgd(lambda one, _: lr_scheduler.LinearLR(one, 0.1, total_iters=8)),
    "exponential": sgd(lambda one, _: lr_scheduler.ExponentialLR(one, 0.9)),
    "polynomial": sgd(lambda one, _: lr_scheduler.PolynomialLR(one, 20, 2.0)),
    "cosine": sgd(lambda one, _: lr_scheduler.CosineAnnealingLR(one, 20)),
    "cosine-with-a-lowest": sgd(lambda one, _: lr_scheduler.CosineAnnealingLR(one, 20, eta_min=0.005)),
    "restarts": sgd(lambda one, _: lr_scheduler.CosineAnnealingWarmRestarts(one, 5)),
    "together": sgd(together),
    "after-each-other": sgd(after_each_other),
    "plateau": sgd(lambda one, _: lr_scheduler.ReduceLROnPlateau(one, patience=1)),
    "one-cycle": sgd(lambda one, lr: lr_scheduler.OneCycleLR(one, lr, 40)),
    "cyclic": sgd(lambda one, lr: lr_scheduler.CyclicLR(one, lr, 4 * lr, 5)),
    "averaging": sgd(lambda one, lr: SWALR(one, swa_lr=0.5 * lr)),
    # The optimizer was made with something else than the config's rate.
    "one-cycle-over-a-default": lambda config: over(
        Adam(parameter()), lambda one: lr_scheduler.OneCycleLR(one, config["lr"], 40)
    ),
    "function-of-the-config": lambda config: over(
        Adam(parameter(), lr=1.0), lambda one: lr_scheduler.LambdaLR(one, lambda epoch: Noam(config["lr"])(epoch))
    ),
    "object-of-the-config": lambda config: over(
        Adam(parameter(), lr=1.0), lambda one: lr_scheduler.LambdaLR(one, Noam(config["lr"]))
    ),
    "scaled": lambda config: over(
        AdamW(parameter(), lr=config["lr"] * 4), lambda one: lr_scheduler.StepLR(one, 3, 0.5)
    ),
}
FROM_THE_NEXT_STEP = {
    "restarts-with-a-lowest": sgd(lambda one, _: lr_scheduler.CosineAnnealingWarmRestarts(one, 5, eta_min=0.001)),
    "cyclic-over-a-constant": sgd(lambda one, lr: lr_scheduler.CyclicLR(one, 0.001, lr, 5)),
}
every_schedule = pytest.mark.parametrize("schedule", [*SCHEDULES, *FROM_THE_NEXT_STEP])
pytestmark = pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")  # torch's own, in SequentialLR


def make(schedule: str, config: Config) -> Made:
    return {**SCHEDULES, **FROM_THE_NEXT_STEP}[schedule](config)


def train(made: Made, steps: int) -> list[Any]:
    """Return the hyperparameters of each step."""
    optimizer, scheduler = made
    used = []
    for _ in range(steps):
        used.append([optimizer.param_groups[0].get(name) for name in ("lr", "momentum", "betas")])
        step(optimizer)
        scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
    return used


def saved(made: Made, config: Config | None) -> Any:
    return shoal.torch.save(optimizer=made[0], scheduler=made[1], config=config)


def restored(checkpoint: Any, made: Made, config: Config | None, **settings: Any) -> None:
    settings = {"weights_only": False, **settings}
    shoal.torch.restore(checkpoint, optimizer=made[0], scheduler=made[1], config=config, **settings)


def the_same(used: list[Any], truth: list[Any], schedule: str) -> None:
    first = 1 if schedule in FROM_THE_NEXT_STEP else 0
    for one, other in zip(used[first:], truth[first:], strict=True):
        assert one[:2] == pytest.approx(other[:2])
        assert one[2] == pytest.approx(other[2])


@every_schedule
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_a_copy_made_anew_goes_on_in_the_schedule_as_if_it_had_always_had_the_new_rate(
    schedule: str, known: bool
) -> None:
    if schedule == "object-of-the-config" and not known:
        return  # what it holds may be state
    donor, truth, copy = make(schedule, OLD), make(schedule, NEW), make(schedule, NEW)
    train(donor, 4)
    train(truth, 4)
    restored(saved(donor, OLD if known else None), copy, NEW)
    assert copy[1].get_last_lr() == rates(copy[0])
    the_same(train(copy, 12), train(truth, 12), schedule)


@every_schedule
def test_a_class_that_keeps_its_optimizer_goes_on_in_the_schedule_with_the_new_rate(schedule: str) -> None:
    config = dict(MID)
    donor, truth, kept = make(schedule, OLD), make(schedule, NEW), make(schedule, config)
    train(donor, 4)
    train(truth, 4)
    train(kept, 2)
    saved(kept, dict(config))
    config.update(NEW)
    restored(saved(donor, OLD), kept, config)
    assert kept[1].get_last_lr() == rates(kept[0])
    first = kept[0].param_groups[0].get("initial_lr")
    assert (
        first is None
        or "initial_lr" not in truth[0].param_groups[0]
        or first == pytest.approx(truth[0].param_groups[0]["initial_lr"])
    )
    if schedule != "averaging":  # its second rate is the class's own affair
        the_same(train(kept, 12), train(truth, 12), schedule)


@every_schedule
@pytest.mark.parametrize("config", [OLD, {**OLD, "b": 0.25}, None], ids=["config", "other-key", "no-config"])
@pytest.mark.parametrize("first", [True, False], ids=["restored-at-first", "only-saved"])
def test_where_nothing_has_changed_a_launch_goes_on_to_the_bit(schedule: str, config: Any, first: bool) -> None:
    straight, again = make(schedule, OLD), make(schedule, OLD)
    if first:
        restored(None, straight, OLD)
    train(straight, 4)
    checkpoint = saved(straight, OLD)
    restored(checkpoint, again, config)
    assert again[0].state_dict()["param_groups"] == straight[0].state_dict()["param_groups"]
    assert train(again, 8) == train(straight, 8)


@every_schedule
def test_an_object_that_is_kept_goes_back_to_its_own_checkpoint_to_the_bit(schedule: str) -> None:
    made, truth = make(schedule, OLD), make(schedule, OLD)
    train(made, 4)
    train(truth, 4)
    checkpoint = saved(made, OLD)
    train(made, 5)
    restored(checkpoint, made, OLD)
    assert train(made, 8) == train(truth, 8)


@every_schedule
def test_nothing_is_put_into_an_optimizer_without_a_checkpoint(schedule: str) -> None:
    made, truth = make(schedule, OLD), make(schedule, OLD)
    restored(None, made, {"lr": 0.7, "momentum": 0.3, "betas": (0.1, 0.2)})
    assert train(made, 8) == train(truth, 8)


def test_a_chain_of_copies_of_objects_that_are_kept_ends_at_the_last_rate() -> None:
    objects = [make("cosine", {"lr": rate}) for rate in (0.01, 0.02, 0.03)]
    for each, rate in zip(objects, (0.01, 0.02, 0.03), strict=True):
        train(each, 2)
        saved(each, {"lr": rate})
    config = {"lr": 0.01}
    for turn, new in enumerate((0.05, 0.3, 0.004, 0.07)):
        source, copy = objects[turn % 3], objects[(turn + 1) % 3]
        checkpoint = saved(source, config)
        config = {"lr": new}
        restored(checkpoint, copy, config)
        train(copy, 2)
    truth = make("cosine", config)
    train(truth, 10)
    the_same(train(objects[4 % 3], 5), train(truth, 5), "cosine")


def test_a_constant_of_a_schedule_that_the_config_names_is_the_new_one() -> None:
    def made(config: Config) -> Made:
        optimizer = SGD(parameter(), lr=0.1)
        return optimizer, lr_scheduler.StepLR(optimizer, config["every"], gamma=config["gamma"])

    old, new = {"every": 4, "gamma": 0.5}, {"every": 3, "gamma": 0.7}
    donor, copy, kept = made(old), made(new), made(old)
    train(donor, 2)
    train(kept, 1)
    saved(kept, old)
    kept[1].gamma, kept[1].step_size = new["gamma"], new["every"]  # reset_config
    for each in (copy, kept):
        restored(saved(donor, old), each, new)
        assert (each[1].gamma, each[1].step_size, each[1].last_epoch) == (0.7, 3, 2)


# ------------------------------------------------------------------------------------- what depends, and what does not


def test_what_depends_on_another_key_than_the_rate_is_as_it_was_made() -> None:
    def made(config: Config) -> Any:
        return SGD(parameter(), lr=config["lr"] * config["batch"] / 64)

    old, new = {"lr": 0.1, "batch": 64}, {"lr": 0.1, "batch": 128}
    copy = made(new)
    shoal.torch.restore(shoal.torch.save(optimizer=made(old), config=old), optimizer=copy, config=new)
    assert rates(copy) == [0.2]


@pytest.mark.parametrize("kept", [False, True], ids=["made-anew", "kept"])
def test_constants_beside_stay_what_they_are(kept: bool) -> None:
    def made(config: Config) -> Any:
        return {
            "net": SGD(parameter(), lr=config["lr"], momentum=0.9, weight_decay=1e-4),
            "alpha": Adam(parameter(), lr=3e-4),
        }

    def config(lr: float, momentum: float) -> Config:
        return {"lr": lr, "model": {"momentum": momentum}}

    old, mid, new = config(0.1, 0.5), config(0.2, 0.4), config(3e-4, 0.3)
    donor, mine = made(old), made(mid if kept else new)
    step(*donor.values())
    if kept:
        step(*mine.values())
        shoal.torch.save(optimizer=mine, config=mid)
    shoal.torch.restore(shoal.torch.save(optimizer=donor, config=old), optimizer=mine, config=new)
    assert rates(mine["net"]) == [3e-4]
    assert values(mine["net"], "momentum", "weight_decay") == [[0.9, 1e-4]]
    assert rates(mine["alpha"]) == [3e-4]


@pytest.mark.parametrize("names", [None, {"lr_g": "lr", "lr_d": "lr"}], ids=["no-names", "names"])
@pytest.mark.parametrize("how", ["made-anew", "kept", "set-by-hand", "set-by-hand-over-a-default"])
@pytest.mark.parametrize("schedule", [False, True], ids=["constant", "plateau"])
def test_two_optimizers_with_a_key_each_get_their_own(names: Any, how: str, schedule: bool) -> None:
    def made(config: Config) -> tuple[Any, Any]:
        if how == "set-by-hand-over-a-default":
            both = {"G": Adam(parameter()), "D": Adam(parameter())}
            by_hand(both, config)
        else:
            both = {"G": Adam(parameter(), lr=config["lr_g"]), "D": Adam(parameter(), lr=config["lr_d"])}
        return both, {name: lr_scheduler.ReduceLROnPlateau(one, patience=0) for name, one in both.items()}

    def by_hand(both: Any, config: Config) -> None:
        for name, key in (("G", "lr_g"), ("D", "lr_d")):
            for group in both[name].param_groups:
                group["lr"] = config[key]

    def train(both: Any, schedules: Any, steps: int) -> None:
        for _ in range(steps):
            step(*both.values())
            for each in schedules.values() if schedule else ():
                each.step(1.0)

    for old, mid, new in (
        ({"lr_g": 0.1, "lr_d": 0.2}, {"lr_g": 0.3, "lr_d": 0.4}, {"lr_g": 0.15, "lr_d": 0.2}),
        ({"lr_g": 0.1, "lr_d": 0.2}, {"lr_g": 0.3, "lr_d": 0.4}, {"lr_g": 0.5, "lr_d": 0.5}),
        ({"lr_g": 0.1, "lr_d": 0.2}, {"lr_g": 0.3, "lr_d": 0.4}, {"lr_g": 0.2, "lr_d": 0.1}),
    ):
        donor, mine = made(old), made(new if how == "made-anew" else mid)
        train(*donor, 2)
        if how != "made-anew":
            train(*mine, 2)
            shoal.torch.save(optimizer=mine[0], scheduler=mine[1], config=mid)
        if how.startswith("set-by-hand"):
            by_hand(mine[0], new)
        checkpoint = shoal.torch.save(optimizer=donor[0], scheduler=donor[1], config=old)
        shoal.torch.restore(checkpoint, optimizer=mine[0], scheduler=mine[1], config=new, names=names)
        if schedule and how == "set-by-hand-over-a-default" and new["lr_g"] == new["lr_d"]:
            continue  # nothing says which is which
        become = 0.1 if schedule else 1.0
        assert rates(mine[0]["G"]) == pytest.approx([new["lr_g"] * become])
        assert rates(mine[0]["D"]) == pytest.approx([new["lr_d"] * become])


def test_a_rate_that_is_set_by_hand_needs_no_name_and_is_kept_where_the_start_was_alike() -> None:
    start, new = {"rate": 3e-4}, {"rate": 6e-4}
    net, alpha, donors, donors_alpha = (Adam(parameter(), lr=3e-4) for _ in range(4))
    step(net, alpha, donors, donors_alpha)
    shoal.torch.save(optimizer={"net": net, "alpha": alpha}, config=start)
    checkpoint = shoal.torch.save(optimizer={"net": donors, "alpha": donors_alpha}, config=start)
    net.param_groups[0]["lr"] = new["rate"]
    both = {"net": net, "alpha": alpha}
    shoal.torch.restore(checkpoint, optimizer=both, config=new, names={"rate": "lr"})
    assert (rates(net), rates(alpha)) == ([6e-4], [3e-4])


def test_groups_keep_their_multiples_their_own_keys_and_their_constants() -> None:
    def made(config: Config) -> Any:
        lr = config["lr"]
        groups = [{"lr": lr / 10}, {}, {"lr": config["head"]}, {"lr": 1e-5}]
        return AdamW([{"params": parameter(), **group} for group in groups], lr=lr)

    old, mid, new = {"lr": 0.1, "head": 0.2}, {"lr": 0.3, "head": 0.4}, {"lr": 0.5, "head": 0.7}
    for kept in (False, True):
        donor, mine = made(old), made(mid if kept else new)
        step(donor)
        if kept:
            step(mine)
            shoal.torch.save(optimizer=mine, config=mid)
        checkpoint = shoal.torch.save(optimizer=donor, config=old)
        shoal.torch.restore(checkpoint, optimizer=mine, config=new, names={"head": "lr"})
        assert rates(mine) == pytest.approx([0.05, 0.5, 0.7, 1e-5])


def test_a_config_that_the_user_has_scaled_counts_in_its_launch() -> None:
    def made(config: Config) -> Any:
        return SGD(parameter(), lr=config["lr"], momentum=0.9)

    first, second = {"lr": 4 * 0.1}, {"lr": 4 * 0.2}
    donor, copy = made(first), made(second)
    shoal.torch.restore(None, optimizer=donor, config=first)
    step(donor)
    donor.param_groups[0]["lr"] *= 0.5
    shoal.torch.restore(shoal.torch.save(optimizer=donor), optimizer=copy, config=second)
    assert rates(copy) == pytest.approx([0.4])
    again = made(second)
    shoal.torch.restore(shoal.torch.save(optimizer=copy), optimizer=again, config=second)
    assert rates(again) == rates(copy)


@pytest.mark.parametrize("kept", [False, True], ids=["made-anew", "kept"])
@pytest.mark.parametrize(
    ("old", "mid", "new", "names", "expected"),
    [
        ({"betas": (0.9, 0.99)}, {"betas": (0.8, 0.99)}, {"betas": (0.7, 0.95)}, None, (0.7, 0.95)),
        ({"betas": [0.9, 0.99]}, {"betas": [0.8, 0.99]}, {"betas": [0.7, 0.99]}, None, (0.7, 0.99)),
        ({"b1": 0.9}, {"b1": 0.8}, {"b1": 0.7}, {"b1": "betas/0"}, (0.7, 0.99)),
        ({"in": {"b2": 0.9}}, {"in": {"b2": 0.8}}, {"in": {"b2": 0.95}}, {"in/b2": "betas[1]"}, (0.9, 0.95)),
    ],
)
def test_betas_follow_as_a_tuple_and_by_element(
    kept: bool, old: Config, mid: Config, new: Config, names: Any, expected: tuple[float, float]
) -> None:
    def made(config: Config) -> Any:
        inner = config.get("in", {})
        betas = config.get("betas", (config.get("b1", 0.9), inner.get("b2", 0.99)))
        return Adam(parameter(), lr=0.1, betas=tuple(betas))

    donor, mine = made(old), made(mid if kept else new)
    step(donor)
    if kept:
        step(mine)
        shoal.torch.save(optimizer=mine, config=mid)
    shoal.torch.restore(shoal.torch.save(optimizer=donor, config=old), optimizer=mine, config=new, names=names)
    assert values(mine, "betas") == [[expected]]


@pytest.mark.parametrize("kept", [False, True], ids=["made-anew", "kept"])
def test_momentum_never_becomes_one_and_weight_decay_may_come_from_nothing(kept: bool) -> None:
    def made(config: Config) -> Any:
        groups: list[Config] = [{"params": parameter()}, {"params": parameter(), "weight_decay": 0.0}]
        return SGD(groups, lr=0.1, momentum=config["momentum"], weight_decay=config["decay"], nesterov=config["n"])

    old = {"momentum": 0.5, "decay": 0.0, "n": False}
    mid = {"momentum": 0.6, "decay": 0.2, "n": False}
    new = {"momentum": 0.9, "decay": 0.1, "n": True}
    donor, mine = made(old), made(mid if kept else new)
    step(donor)
    for group in donor.param_groups:
        group["momentum"] = 0.8  # a schedule of the user's
    if kept:
        step(mine)
        shoal.torch.save(optimizer=mine, config=mid)
    checkpoint = shoal.torch.save(optimizer=donor, config=old)
    names = {"decay": "weight_decay", "n": "nesterov"}
    shoal.torch.restore(checkpoint, optimizer=mine, config=new, names=names)
    assert values(mine, "momentum", "weight_decay", "nesterov") == [[0.9, 0.1, True], [0.9, 0.0, True]]
    back = shoal.torch.save(optimizer=mine)
    shoal.torch.restore(back, optimizer=mine, config=old, names=names)
    assert values(mine, "weight_decay", "nesterov") == [[0.0, False], [0.0, False]]


def test_what_decides_how_the_state_is_laid_out_comes_with_the_state() -> None:
    old, new = {"amsgrad": False, "centered": False}, {"amsgrad": True, "centered": True}
    donors = {"a": Adam(parameter(), amsgrad=False), "r": RMSprop(parameter(), centered=False)}
    mine = {"a": Adam(parameter(), amsgrad=True), "r": RMSprop(parameter(), centered=True)}
    step(*donors.values())
    shoal.torch.restore(shoal.torch.save(optimizer=donors, config=old), optimizer=mine, config=new)
    step(*mine.values())


@pytest.mark.parametrize("kept", [False, True], ids=["made-anew", "kept"])
def test_a_rate_that_is_a_tensor_stays_the_same_tensor(kept: bool) -> None:
    def made(lr: float) -> Any:
        return Adam(parameter(), lr=torch.tensor(lr), foreach=False)

    donor, mine = made(0.5), made(0.4 if kept else 0.3)
    schedulers = [lr_scheduler.ExponentialLR(each, 0.5) for each in (donor, mine)]
    step(donor)
    schedulers[0].step()
    if kept:
        step(mine)
        shoal.torch.save(optimizer=mine, config={"lr": 0.4})
    rate = mine.param_groups[0]["lr"]
    checkpoint = shoal.torch.save(optimizer=donor, scheduler=schedulers[0], config={"lr": 0.5})
    shoal.torch.restore(checkpoint, optimizer=mine, scheduler=schedulers[1], config={"lr": 0.3})
    assert mine.param_groups[0]["lr"] is rate, "a captured or compiled step reads this very tensor"
    assert rate.item() == pytest.approx(0.15)
    assert [float(each) for each in schedulers[1].base_lrs] == pytest.approx([0.3])
    assert float(mine.param_groups[0]["initial_lr"]) == pytest.approx(0.3)
    assert float(schedulers[1].get_last_lr()[0]) == pytest.approx(0.15)


def test_without_a_config_hyperparameters_are_those_of_the_checkpoint() -> None:
    donor, mine = SGD(parameter(), lr=0.1), SGD(parameter(), lr=0.2)
    shoal.torch.restore(shoal.torch.save(optimizer=donor, config={"lr": 0.1}), optimizer=mine)
    assert rates(mine) == [0.1]


def test_what_the_optimizer_was_made_with_counts_also_where_the_config_calls_it_otherwise_or_not_at_all() -> None:
    def made(config: Config, **constants: Any) -> Any:
        return {
            "G": Adam(parameter(), config["netG_lr"], **constants),
            "D": Adam(parameter(), config["netD_lr"]),
        }

    old, new = {"netG_lr": 0.1, "netD_lr": 0.2, "eps": 0.4}, {"netG_lr": 0.3, "netD_lr": 0.4, "eps": 0.5}
    for config in (old, None):
        checkpoint = shoal.torch.save(optimizer=made(old), config=config)
        for names in (None, {"netG_lr": "lr", "netD_lr": "lr"}):
            both = made(new, weight_decay=0.01)
            shoal.torch.restore(checkpoint, optimizer=both, config=new, names=names)
            assert [rates(one) for one in both.values()] == [[0.3], [0.4]]
            assert values(both["G"], "weight_decay", "eps") == [[0.01, 1e-8]]


@pytest.mark.parametrize("config", [{"learning_rate": 0.1}, None], ids=["known", "unknown"])
def test_a_rate_that_is_set_after_the_optimizer_was_made_counts(config: Any) -> None:
    def made(lr: float) -> Any:
        optimizer = Adam(parameter(), lr=lr if config is None else 1.0)
        optimizer.param_groups[0]["lr"] = lr
        return optimizer

    mine = Adam(parameter())
    mine.param_groups[0]["lr"] = 0.3
    if config is not None:
        mine = made(0.3)
    checkpoint = shoal.torch.save(optimizer=made(0.1), config=config)
    shoal.torch.restore(checkpoint, optimizer=mine, config={"learning_rate": 0.3})
    assert rates(mine) == [0.3]


def test_what_an_optimizer_counts_in_its_groups_is_state_and_goes_on() -> None:
    class Counting(SGD):
        def __init__(self, lr: float) -> None:
            super().__init__(parameter(), lr=lr)
            self.param_groups[0].update(k=0, weight_sum=0.0)

        def step(self, closure: Any = None) -> Any:
            self.param_groups[0]["k"] += 1
            self.param_groups[0]["weight_sum"] += 0.5
            return super().step(closure)

    donors, mine = Counting(0.1), Counting(0.2)
    for _ in range(3):
        donors.step()
    shoal.torch.restore(shoal.torch.save(optimizer=donors, config={"lr": 0.1}), optimizer=mine, config={"lr": 0.2})
    assert values(mine, "lr", "k", "weight_sum") == [[0.2, 3, 1.5]]


def test_numbers_that_cannot_be_compared_change_nothing() -> None:
    old: Config = {"lr": float("nan"), "weight_decay": 0.1, "momentum": (0.1, 0.2), "new": 1.0, "seed": 10**400}
    new: Config = {"lr": float("nan"), "weight_decay": True, "momentum": 0.1, "seed": 10**500, "text": "a"}
    donor, mine = SGD(parameter(), lr=0.1, momentum=0.9), SGD(parameter(), lr=0.1, momentum=0.9)
    step(donor)
    shoal.torch.restore(shoal.torch.save(optimizer=donor, config=old), optimizer=mine, config=new)
    assert values(mine, "lr", "momentum", "weight_decay") == values(donor, "lr", "momentum", "weight_decay")
