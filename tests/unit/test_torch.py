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
    assert shoal.torch.restore(checkpoint, **again.parts, config=config, rng=True, weights_only=False) == {"step": 5}
    again.train(5)
    assert all(map(torch.equal, straight.weights, again.weights))
    assert straight.rate == again.rate


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
    for rng in (None, False):  # outside of a trial, they are none of restore's business
        shoal.torch.restore(checkpoint, rng=rng)
        assert draw() not in (first, second)
    shoal.torch.restore(checkpoint, rng=True)
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
    r"the optimizer in .* does not fit this SGD: .*different number of parameter groups": {
        "optimizer": SGD([{"params": [nn.Parameter(torch.ones(1))]} for _ in range(2)], 0.1)
    },
    rf"restore: optimizer {OBJECT} 3 \(int\)": {"optimizer": 3},
    r"the state has groups of 2 parameters, here are 1": {
        "optimizer": SGD(nn.Linear(2, 2, bias=False).parameters(), 0.1)
    },
    r"does not fit this Linear: unexpected: bias": {"model": nn.Linear(2, 2, bias=False)},
    r"does not fit this Sequential: missing: 0\.weight; missing: 0\.bias; .*unexpected: weight; .*": {
        "model": nn.Sequential(nn.Linear(2, 2))
    },
    r"config must be the dict that the trainable was given, but is 3": {"config": 3},
    r"shoal\.torch\.restore: names must give .* 'a': 'b/c'": {"names": {"a": "b/c"}},
}


@pytest.mark.parametrize(("message", "given"), REFUSED.items())
def test_what_does_not_fit_is_refused_with_what_is_there(message: str, given: dict[str, Any]) -> None:
    model = nn.Linear(2, 2)
    checkpoint = shoal.torch.save(model=model, optimizer=SGD(model.parameters(), 0.1))
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        shoal.torch.restore(checkpoint, **given)


def test_without_a_checkpoint_arguments_are_checked_all_the_same() -> None:
    wrong: dict[str, Any] = {"model": 3, "scheduler": "x", "optimizer": {"a": 3}, "scaler": [nn.Linear(1, 1)]}
    for part in wrong:
        with pytest.raises(ConfigError, match=rf"restore: {part} {OBJECT}"):
            shoal.torch.restore(None, **{part: wrong[part]})
    with pytest.raises(ConfigError, match=r"config must be the dict that the trainable was given, but is 3"):
        shoal.torch.restore(None, config=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["model", "optimizer", "scheduler", "scaler"])
def test_a_restore_that_fails_has_changed_nothing(part: str) -> None:
    donor, mine = Training(0.02), Training(0.03)
    donor.scaler = torch.amp.GradScaler("cpu", enabled=part != "scaler")
    donor.train(3)
    checkpoint = shoal.torch.save(**donor.parts)
    wrong: dict[str, Any] = {
        "model": {"model": nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 2))},
        "optimizer": {"optimizer": SGD([{"params": [one]} for one in mine.model.parameters()], 0.1)},
        "scheduler": {"scheduler": {"a": mine.scheduler}},
        "scaler": {},
    }
    given = {**mine.parts, **wrong[part]}
    before = [str(one.state_dict()) for one in (mine.model, mine.optimizer, mine.scheduler, mine.scaler)]
    numbers = torch.get_rng_state()
    with pytest.raises(ConfigError, match=rf"{part}"):
        shoal.torch.restore(checkpoint, **given, config={"lr": 0.03}, rng=True)
    assert [str(one.state_dict()) for one in (mine.model, mine.optimizer, mine.scheduler, mine.scaler)] == before
    assert torch.equal(torch.get_rng_state(), numbers)


def test_a_model_with_ways_of_its_own_to_load_is_left_to_them() -> None:
    class Renames(nn.Linear):
        def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            return super().load_state_dict({name.removeprefix("old."): it for name, it in state_dict.items()})

    class RenamesInside(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.add_module(name, nn.Linear(2, 2))
            hooked: Any = self
            hooked.register_load_state_dict_pre_hook(self.rename)

        @staticmethod
        def rename(module: Any, state: Any, *_: Any) -> None:
            for name in [name for name in state if name.startswith("old.")]:
                state[name.replace("old.", "new.")] = state.pop(name)

    for one, other in (
        (nn.ModuleDict({"old": nn.Linear(2, 2)}), Renames(2, 2)),
        (RenamesInside("old"), RenamesInside("new")),
    ):
        shoal.torch.restore(shoal.torch.save(model=one), model=other)
        assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_numpys_numbers_are_saved_as_pythons() -> None:
    numbers: dict[str, Any] = {"lr": np.float64(0.1), "momentum": np.float32(0.5)}
    optimizer = SGD([nn.Parameter(torch.ones(1))], **numbers)
    scheduler = lr_scheduler.ExponentialLR(optimizer, np.float64(0.9))
    optimizer.step()
    scheduler.step()
    config = {"lr": np.float64(0.1), "n": np.int64(3)}
    extra: dict[str, Any] = {
        "best": np.float32(0.5),
        "step": np.int64(3),
        "history": [(np.float64(1.0), {"ok": np.bool_(True)})],
    }
    checkpoint = shoal.torch.save(optimizer=optimizer, scheduler=scheduler, config=config, **extra)
    other = SGD([nn.Parameter(torch.ones(1))], lr=0.2, momentum=0.5)
    parts: dict[str, Any] = {"optimizer": other, "scheduler": lr_scheduler.ExponentialLR(other, 0.9)}
    found = shoal.torch.restore(checkpoint, **parts, config={"lr": np.float32(0.2), "n": 3})
    assert found == {"best": 0.5, "step": 3, "history": [(1.0, {"ok": True})]}
    assert [type(found[name]) for name in ("best", "step")] == [float, int]
    assert other.param_groups[0]["lr"] == pytest.approx(0.18)


def test_one_object_and_a_dict_of_them_are_not_confused() -> None:
    one = Training()
    several: dict[str, Any] = {part: {"a": it} for part, it in one.parts.items()}
    for part, it in one.parts.items():
        with pytest.raises(ConfigError, match=rf"the {part} in .* which has a, does not fit this .*: (?s:.)+"):
            shoal.torch.restore(shoal.torch.save(**several), **{part: it})
        with pytest.raises(ConfigError, match=rf"has no {part} 'a', but "):
            shoal.torch.restore(shoal.torch.save(**one.parts), **{part: several[part]})


def test_what_cannot_be_saved_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"save: config must be the dict that the trainable was given, but is 3"):
        shoal.torch.save(config=3)  # type: ignore[arg-type]
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


class Wrapped:
    """An optimizer of the user's that can neither be hashed nor referred to weakly."""

    __slots__ = ("inner",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, parameters: Any) -> None:
        self.inner = torch.optim.SGD(parameters, lr=0.5, momentum=0.9)

    def __eq__(self, other: object) -> bool:
        return self is other

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)


def test_anything_with_a_state_dict_is_saved_and_restored(tmp_path: Path) -> None:
    first, second = (Wrapped(torch.nn.Linear(2, 1).parameters()) for _ in range(2))
    first.inner.param_groups[0]["lr"] = 0.25
    shoal.torch.restore(None, optimizer=first, config={"lr": 0.5})
    made = shoal.torch.save(optimizer=first, step=3, folder=tmp_path)
    assert shoal.torch.restore(made, optimizer=second, config={"lr": 0.5}) == {"step": 3}
    assert second.inner.param_groups[0]["lr"] == 0.25
