"""shoal.torch in real runs: what the members step with after exploits and retries, as functions and as classes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import fit, items, pbt
from torch import nn
from torch.optim import SGD, Adam, lr_scheduler

import shoal.torch
from shoal import tune
from shoal.core.commands import Exploit, Retry
from shoal.core.events import Drifted

BATCH = 4
KEYS = {"G": "lr_g", "D": "lr_d"}


def backwards(model: nn.Module) -> None:
    model.zero_grad()
    model(torch.ones(1, 1)).square().sum().backward()


def train(config: dict[str, Any]) -> None:
    """Scales its rate, which a plateau halves at every second step, and restores only what there is."""
    model = nn.Linear(1, 1)
    optimizer = SGD(model.parameters(), lr=config["lr"] * BATCH, momentum=0.9)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    step = 0
    if (checkpoint := tune.get_checkpoint()) is not None:
        given = {**config, "lr": config["lr"] * BATCH} if config["scales"] else config
        step = shoal.torch.restore(checkpoint, **parts, config=given)["step"]
    while True:
        step += 1
        backwards(model)
        optimizer.step()
        used = optimizer.param_groups[0]["lr"]
        scheduler.step(0.0 if step == 1 else 1.0)
        metrics = {"score": config["lr"], "used": used / BATCH / 0.5 ** (max(step - 2, 0) // 2)}
        tune.report(metrics, checkpoint=shoal.torch.save(**parts, step=step))


class Two(tune.Trainable):
    """Two networks with a rate each, and one number beside that has a rate of its own. Keeps all its objects."""

    def setup(self, config: dict[str, Any]) -> None:
        self.models = {name: nn.Linear(1, 1) for name in ("G", "D", "alpha")}
        rates = {"G": config["lr_g"], "D": config["lr_d"], "alpha": 0.25}
        self.optimizers = {name: Adam(one.parameters(), lr=rates[name]) for name, one in self.models.items()}

    def step(self) -> dict[str, Any]:
        for name, model in self.models.items():
            backwards(model)
            self.optimizers[name].step()
        used = {name: one.param_groups[0]["lr"] for name, one in self.optimizers.items()}
        return {"score": self.config["lr_g"], **used}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        shoal.torch.save(model=self.models, optimizer=self.optimizers, folder=checkpoint_dir)

    def load_checkpoint(self, checkpoint: Any) -> None:
        names = dict.fromkeys(KEYS.values(), "lr") if self.config["names"] else None
        parts = {"model": self.models, "optimizer": self.optimizers}
        shoal.torch.restore(checkpoint, **parts, config=self.config, names=names)  # type: ignore[arg-type]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        for name, key in KEYS.items():
            for group in self.optimizers[name].param_groups if new_config["by_hand"] else []:
                group["lr"] = new_config[key]
        return True


class Plateau(tune.Trainable):
    """Its process may die once."""

    def setup(self, config: dict[str, Any]) -> None:
        self.model = nn.Linear(1, 1)
        self.optimizer = SGD(self.model.parameters(), lr=config["lr"])
        self.scheduler = lr_scheduler.ReduceLROnPlateau(self.optimizer, patience=1)
        self.parts: dict[str, Any] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
        }

    def step(self) -> dict[str, Any]:
        flag = Path(self.config["flag"])
        if self.config["fails"] and self.iteration == 6 and not flag.exists():
            flag.touch()
            os._exit(1)
        backwards(self.model)
        self.optimizer.step()
        self.scheduler.step(1.0)
        return {"score": 1.0, "used": self.optimizer.param_groups[0]["lr"]}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        shoal.torch.save(**self.parts, folder=checkpoint_dir)

    def load_checkpoint(self, checkpoint: Any) -> None:
        shoal.torch.restore(checkpoint, **self.parts, config=self.config)


def column(result: tune.Result, name: str) -> list[float]:
    table = result.metrics_dataframe
    assert table is not None
    return [float(value) for value in table[name]]


@pytest.mark.parametrize(("engine", "scales"), [("processes", True), ("inline", True), ("inline", False)])
def test_a_function_that_scales_its_rate_and_restores_only_copies(tmp_path: Path, engine: str, scales: bool) -> None:
    space = {"lr": tune.uniform(0.0, 1.0), "scales": scales}
    grid = fit(train, tmp_path, space=space, scheduler=pbt(), engine=engine, stop={"training_iteration": 16})
    assert grid.num_errors == 0
    assert items(grid, Exploit)
    for result in grid:
        assert column(result, "used") == pytest.approx(column(result, "config/lr"))


@pytest.mark.parametrize(
    ("engine", "by_hand", "names"),
    [("processes", True, False), ("processes", False, True), ("inline", True, True), ("inline", False, False)],
)
def test_a_class_that_keeps_two_optimizers_with_a_key_each(
    tmp_path: Path, engine: str, by_hand: bool, names: bool
) -> None:
    rates = {key: tune.uniform(0.0, 1.0) for key in KEYS.values()}
    scheduler = pbt(hyperparam_mutations=rates)
    space = {**rates, "by_hand": by_hand, "names": names}
    check = tune.CheckApplied(names=dict.fromkeys(KEYS.values(), "lr"))
    settings: dict[str, Any] = {"scheduler": scheduler, "engine": engine, "check_applied": check}
    grid = fit(Two, tmp_path, space=space, stop={"training_iteration": 21}, **settings)
    assert grid.num_errors == 0
    assert items(grid, Exploit)
    assert items(grid, Drifted) == []
    for result in grid:
        for name, key in KEYS.items():
            assert column(result, name) == pytest.approx(column(result, f"config/{key}"))
        assert set(column(result, "alpha")) == {0.25}


def test_a_member_that_dies_after_its_plateau_goes_on_with_the_rate_that_it_had(tmp_path: Path) -> None:
    run = {
        "checkpoint_config": tune.CheckpointConfig(checkpoint_frequency=5),
        "failure_config": tune.FailureConfig(max_failures=1),
    }
    stop = {"training_iteration": 10}
    straight, again = (
        fit(
            Plateau,
            tmp_path,
            space={"lr": 0.1, "fails": fails, "flag": str(tmp_path / "flag")},
            num_samples=1,
            run=run,
            stop=stop,
        )
        for fails in (False, True)
    )
    assert len(items(again, Retry)) == 1
    assert column(again[0], "used") == column(straight[0], "used")
    assert column(again[0], "used")[-1] < 1e-4
