"""shoal.torch: what is saved and loaded, and whose hyperparameters are used afterwards."""

from __future__ import annotations

import gc
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, lr_scheduler

import shoal.torch
from shoal import tune
from shoal.errors import ConfigError

CONFIG = {"lr": 0.01, "betas": (0.9, 0.99)}


class Training:
    """A little net with dropout, Adam, a schedule and a scaler, as the code of a launch makes them."""

    def __init__(self, lr: float = 0.01, schedule: Any = None, seed: int = 1) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.optimizer = Adam(self.model.parameters(), lr=lr)
        self.scheduler = (schedule or (lambda one: lr_scheduler.CosineAnnealingLR(one, 20)))(self.optimizer)
        self.scaler = torch.amp.GradScaler("cpu")

    @property
    def parts(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
        }

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = self.model(torch.randn(16, 4) + random.random() + np.random.rand()).square().mean()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau):
                self.scheduler.step(1.0)
            else:
                self.scheduler.step()

    @property
    def weights(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]

    @property
    def rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])


SCHEDULES = {
    "cosine": lambda one: lr_scheduler.CosineAnnealingLR(one, 20),
    "warmup": lambda one: lr_scheduler.LambdaLR(one, lambda step: (step + 1) / 100),
    "milestones": lambda one: lr_scheduler.MultiStepLR(one, [2, 7]),
    "one-cycle": lambda one: lr_scheduler.OneCycleLR(one, one.param_groups[0]["lr"], 40),
    "cyclic": lambda one: lr_scheduler.CyclicLR(
        one, one.param_groups[0]["lr"], 2 * one.param_groups[0]["lr"], 5, cycle_momentum=False
    ),
    "plateau": lambda one: lr_scheduler.ReduceLROnPlateau(one, patience=2),
    "one-after-the-other": lambda one: lr_scheduler.SequentialLR(
        one, [lr_scheduler.LinearLR(one, 0.1, total_iters=3), lr_scheduler.ExponentialLR(one, 0.9)], [3]
    ),
}


@pytest.fixture(autouse=True)
def seeds() -> None:
    random.seed(1)
    np.random.seed(1)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("config", [CONFIG, None], ids=["config", "no-config"])
@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")  # torch's own, in SequentialLR
def test_ten_steps_and_twice_five_with_a_checkpoint_between_give_the_same_bits(schedule: Any, config: Any) -> None:
    straight = Training(schedule=schedule)
    shoal.torch.restore(None, optimizer=straight.optimizer, config=config)
    straight.train(5)
    checkpoint = shoal.torch.save(**straight.parts, step=5)
    straight.train(5)
    again = Training(schedule=schedule, seed=2)
    random.seed(7)
    np.random.seed(7)
    assert shoal.torch.restore(checkpoint, **again.parts, config=config, weights_only=False) == {"step": 5}
    again.train(5)
    assert all(map(torch.equal, straight.weights, again.weights))
    assert straight.rate == again.rate


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
def test_a_schedule_goes_on_where_it_was_with_the_new_learning_rate(schedule: Any) -> None:
    donor, whole = Training(0.01, schedule), Training(0.03, schedule)
    shoal.torch.restore(None, optimizer=donor.optimizer, config={"lr": 0.01})
    for training in (donor, whole):
        training.train(4)
    clone = Training(0.03, schedule)
    shoal.torch.restore(
        shoal.torch.save(**donor.parts), **clone.parts, config={"lr": 0.03}, rng=False, weights_only=False
    )
    assert clone.optimizer.state_dict()["state"][0]["exp_avg"].equal(
        donor.optimizer.state_dict()["state"][0]["exp_avg"]
    )
    for _ in range(8):
        assert clone.rate == pytest.approx(whole.rate)
        for training in (clone, whole):
            training.train(1)


def sgd(*rates: float, **defaults: Any) -> SGD:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates]
    settings: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, **defaults}
    made = SGD(groups, **settings)
    for group in made.param_groups:
        group["params"][0].grad = torch.ones(1)
    made.step()
    made.zero_grad()
    return made


def new(*rates: float, **defaults: Any) -> SGD:
    made = sgd(*rates, **defaults)
    made.state.clear()
    return made


def rates(optimizer: Any) -> Any:
    return pytest.approx([float(group["lr"]) for group in optimizer.param_groups])


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (lambda: new(0.005, 0.05), [0.005, 0.05]),  # made with the config's
        (lambda: new(0.01, 0.1), [0.005, 0.05]),  # made with others: the ratio to the optimizer's own stays
        (lambda: new(0.005, 0.02, lr=0.05), [0.005, 0.02]),  # the config's is what the optimizer has for other groups
        (lambda: sgd(0.01, 0.1), [0.005, 0.05]),  # has trained already
    ],
    ids=["made-with-it", "made-with-another", "as-default", "trained"],
)
def test_groups_keep_their_multiple_of_the_learning_rate(optimizer: Any, expected: list[float]) -> None:
    donors = sgd(0.02, 0.2)
    mine = optimizer()
    shoal.torch.restore(shoal.torch.save(optimizer=donors), optimizer=mine, config={"lr": 0.05})
    assert expected == rates(mine)
    buffers = [state["momentum_buffer"].item() for state in mine.state.values()]
    assert buffers == [1.0, 1.0]
    scratch = optimizer()
    assert shoal.torch.restore(None, optimizer=scratch, config={"lr": 0.05}) == {}
    assert expected == rates(scratch)


def test_without_a_config_hyperparameters_are_those_of_the_checkpoint() -> None:
    mine = new(0.05)
    shoal.torch.restore(shoal.torch.save(optimizer=sgd(0.02)), optimizer=mine)
    assert rates(mine) == [0.02]


def test_what_the_optimizer_was_made_with_wins_also_where_the_config_calls_it_otherwise_or_not_at_all() -> None:
    checkpoint = shoal.torch.save(
        optimizer={"G": Adam([nn.Parameter(torch.ones(1))], 0.1), "D": Adam([nn.Parameter(torch.ones(1))], 0.2)}
    )
    config = {"netG_lr": 0.3, "netD_lr": 0.4, "eps": 0.5}
    for names in (None, {"netG_lr": "lr", "netD_lr": "lr"}):
        both = {
            "G": Adam([nn.Parameter(torch.ones(1))], config["netG_lr"], weight_decay=0.01),
            "D": Adam([nn.Parameter(torch.ones(1))], config["netD_lr"]),
        }
        shoal.torch.restore(checkpoint, optimizer=both, config=config, names=names)
        assert [one.param_groups[0]["lr"] for one in both.values()] == [0.3, 0.4]
        assert both["G"].param_groups[0]["weight_decay"] == 0.01
        assert both["G"].param_groups[0]["eps"] == 1e-8


def test_an_element_of_a_tuple_a_tensor_and_other_names_are_put_in() -> None:
    rate = torch.tensor(0.1)
    mine = Adam([nn.Parameter(torch.ones(1))], rate, foreach=False)
    donors = Adam([nn.Parameter(torch.ones(1))], torch.tensor(0.7), betas=(0.5, 0.6), foreach=False)
    shoal.torch.restore(
        shoal.torch.save(optimizer=donors),
        optimizer=mine,
        config={"learning_rate": 0.3, "inner": {"beta1": 0.8}},
        names={"learning_rate": "lr", "beta1": "betas/0"},
    )
    assert mine.param_groups[0]["lr"] is rate, "a captured or compiled step reads this very tensor"
    assert rate.item() == pytest.approx(0.3)
    assert mine.param_groups[0]["betas"] == (0.8, 0.999)


def test_what_an_optimizer_counts_in_its_groups_is_state_and_goes_on() -> None:
    class Counting(SGD):
        def step(self, closure: Any = None) -> Any:
            self.param_groups[0]["k"] += 1
            self.param_groups[0]["weight_sum"] += 0.5
            return super().step(closure)

    def made() -> Counting:
        one = Counting([nn.Parameter(torch.ones(1))], lr=0.1)
        one.param_groups[0].update(k=0, weight_sum=0.0)
        return one

    donors, mine = made(), made()
    shoal.torch.restore(None, optimizer=donors, config={"lr": 0.1})
    for _ in range(3):
        donors.step()
    shoal.torch.restore(shoal.torch.save(optimizer=donors), optimizer=mine, config={"lr": 0.1})
    assert (mine.param_groups[0]["k"], mine.param_groups[0]["weight_sum"]) == (3, 1.5)


def test_groups_without_weight_decay_stay_without_it_unless_none_has_any() -> None:
    def made(*decays: float) -> SGD:
        groups: list[dict[str, Any]] = [{"params": [nn.Parameter(torch.ones(1))], "weight_decay": it} for it in decays]
        return SGD(groups, lr=0.1)

    for decays, expected in (((0.1, 0.0), [0.3, 0.0]), ((0.0, 0.0), [0.3, 0.3])):
        optimizer = made(*decays)
        shoal.torch.restore(None, optimizer=optimizer, config={"weight_decay": 0.3})
        assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx(expected)


def test_of_several_optimizers_the_one_with_a_rate_of_its_own_keeps_it() -> None:
    checkpoint = shoal.torch.save(optimizer={"net": sgd(0.2), "alpha": sgd(0.7)})
    both = {"net": new(0.3), "alpha": new(0.5)}
    shoal.torch.restore(checkpoint, optimizer=both, config={"lr": 0.3})
    assert rates(both["net"]) == [0.3]
    assert rates(both["alpha"]) == [0.5]


def test_two_keys_for_one_value_of_an_optimizer_that_has_neither_are_refused() -> None:
    with pytest.raises(ConfigError, match="a, b of the config are all lr, and SGD has none of their values"):
        shoal.torch.restore(None, optimizer=new(0.1), config={"a": 1.0, "b": 2.0}, names={"a": "lr", "b": "lr"})


# ------------------------------------------------------------------------------------------------ files and errors


def test_the_file_can_be_read_without_executing_anything_and_goes_with_the_object(tmp_path: Path) -> None:
    training = Training()
    training.train(2)
    checkpoint = shoal.torch.save(**training.parts, step=2, best=(0.5, "a"), history=[1.0, {"x": None}])
    path = Path(checkpoint.path, "state.pt")
    assert [entry.name for entry in path.parent.iterdir()] == ["state.pt"]
    assert torch.load(path, weights_only=True)["model"].keys() == training.model.state_dict().keys()
    extra = shoal.torch.restore(checkpoint.path)
    assert extra == {"step": 2, "best": (0.5, "a"), "history": [1.0, {"x": None}]}
    del checkpoint
    gc.collect()
    assert not path.parent.exists()
    shoal.torch.save(folder=tmp_path, step=3)
    assert shoal.torch.restore(tune.Checkpoint(tmp_path)) == {"step": 3}


def test_what_only_a_pickle_can_hold_is_loaded_only_by_those_who_say_so() -> None:
    checkpoint = shoal.torch.save(where=Path("x"))
    with pytest.raises(
        ConfigError, match=r"that executes code. If you trust it: restore\(\.\.\., weights_only=False\)"
    ):
        shoal.torch.restore(checkpoint)
    assert shoal.torch.restore(checkpoint, weights_only=False) == {"where": Path("x")}


def test_random_numbers_go_on_only_where_that_is_wanted() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    checkpoint, without = shoal.torch.save(), shoal.torch.save(rng=False)
    first = draw()
    second = draw()
    shoal.torch.restore(checkpoint, rng=False)
    assert draw() not in (first, second)
    shoal.torch.restore(checkpoint)
    assert draw() == first
    shoal.torch.restore(without, rng=True)
    assert draw() == second


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_compiled_model_is_saved_as_the_one_it_was_made_of() -> None:
    model = nn.Linear(2, 2)
    checkpoint = shoal.torch.save(model={"a": torch.compile(model, backend="eager")})
    other = nn.Linear(2, 2)
    shoal.torch.restore(checkpoint, model={"a": other})
    assert other.weight.equal(model.weight)


OBJECT = r"must be an object with state_dict\(\), or a dict .* but is"
REFUSED: dict[str, Any] = {
    r"state\.pt has no scaler, but model, optimizer\. Save it: save\(scaler=\.\.\.\)": {
        "scaler": torch.amp.GradScaler("cpu")
    },
    r"the model in .*state\.pt, which has weight, bias, does not fit this Linear: .*size mismatch": {
        "model": nn.Linear(3, 2)
    },
    r"has no model 'G', but weight, bias": {"model": {"G": nn.Linear(2, 2)}},
    r"the optimizer in .* does not fit this SGD: .*different number of parameter groups": {"optimizer": sgd(0.1, 0.2)},
    rf"restore: optimizer {OBJECT} 3 \(int\)": {"optimizer": 3},
    r"config must be the dict that the trainable was given, but is 3": {"config": 3},
    r"shoal\.torch\.restore: names must give .* 'a': 'b/c'": {"names": {"a": "b/c"}},
}


@pytest.mark.parametrize(("message", "given"), REFUSED.items())
def test_what_does_not_fit_is_refused_with_what_is_there(message: str, given: dict[str, Any]) -> None:
    model = nn.Linear(2, 2)
    checkpoint = shoal.torch.save(model=model, optimizer=SGD(model.parameters(), 0.1))
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        shoal.torch.restore(checkpoint, **given)


def test_what_cannot_be_saved_is_refused() -> None:
    with pytest.raises(ConfigError, match=rf"shoal\.torch\.save: model {OBJECT}"):
        shoal.torch.save(model=[nn.Linear(1, 1)])
    with pytest.raises(ConfigError, match=r"the state cannot be pickled: .*\(step\) should be plain values"):
        shoal.torch.save(step=lambda: 1)
    with pytest.raises(ConfigError, match=r"has a file state\.pt; it has \.shoal_dict\.pkl"):
        shoal.torch.restore(tune.Checkpoint.from_dict({}))


def test_a_file_of_anothers_is_named(tmp_path: Path) -> None:
    torch.save([1], tmp_path / "state.pt")
    with pytest.raises(ConfigError, match=r"state\.pt was not written by shoal\.torch\.save"):
        shoal.torch.restore(tmp_path)
