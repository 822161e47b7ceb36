"""Hyperparameters that an exploit has changed are proven to be in use, in real processes with real optimizers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import fit, items, pbt
from torch import nn
from torch.optim import SGD, lr_scheduler

import shoal.torch
from shoal import tune
from shoal.core.commands import Exploit, Notice, Retry
from shoal.core.events import Drifted


def train(config: dict[str, Any]) -> None:
    """A train function as in the guide, which does with the donor's learning rate what ``how`` says."""
    how, lr = config["how"], config.get("lr") or config["rate"]
    model = nn.Linear(1, 1)
    optimizer = SGD(model.parameters(), lr=lr * 0.125 if how == "scales" else lr, momentum=0.9)
    step = 0
    if (checkpoint := tune.get_checkpoint()) is not None:
        state = torch.load(Path(checkpoint.path, "state.pt"))
        step = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        for group in optimizer.param_groups:
            if how == "mends":
                group["lr"] = lr
            elif how == "scales":
                group["lr"] = lr * 0.125
    while True:
        step += 1
        optimizer.zero_grad()
        model(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        metrics = {"score": lr, "used": optimizer.param_groups[0]["lr"]}
        with tempfile.TemporaryDirectory() as folder:
            state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, Path(folder, "state.pt"))
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def train_in_two_lines(config: dict[str, Any]) -> None:
    model = nn.Linear(1, 1)
    optimizer = SGD(model.parameters(), lr=config["lr"], momentum=0.9)
    scheduler = lr_scheduler.StepLR(optimizer, 4, 0.5)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    state = shoal.torch.restore(tune.get_checkpoint(), **parts, config=config)
    step = state.get("step", 0)
    while True:
        step += 1
        optimizer.zero_grad()
        model(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        used = optimizer.param_groups[0]["lr"] / 0.5 ** ((step - 1) // 4)
        scheduler.step()
        metrics = {"score": config["lr"], "used": used, "drawn": float(torch.rand(()))}
        tune.report(metrics, checkpoint=shoal.torch.save(**parts, step=step, by=tune.get_context().get_trial_id()))
        if config.get("fails") and step == 7:
            raise OSError("fails once, unless it is launched again beyond this step")


class Trainer(tune.Trainable):
    """Keeps its optimizer, and with it the old learning rate, unless ``how`` is ``restores``."""

    def setup(self, config: dict[str, Any]) -> None:
        self.model = nn.Linear(1, 1)
        self.optimizer = SGD(self.model.parameters(), lr=config["lr"], momentum=0.9)

    def step(self) -> dict[str, Any]:
        self.optimizer.zero_grad()
        self.model(torch.ones(1, 1)).sum().backward()
        self.optimizer.step()
        return {"score": self.config["lr"], "used": self.optimizer.param_groups[0]["lr"]}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        shoal.torch.save(model=self.model, optimizer=self.optimizer, folder=checkpoint_dir)

    def load_checkpoint(self, checkpoint: Any) -> None:
        if self.config["how"] == "restores":
            shoal.torch.restore(checkpoint, model=self.model, optimizer=self.optimizer, config=self.config)
        else:
            shoal.torch.restore(checkpoint, model=self.model)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True


def run(trainable: Any, how: str, storage: Path, **settings: Any) -> tune.ResultGrid:
    space = {"lr": tune.uniform(0.0, 1.0), "how": how}
    # In step, so that it does not depend on who is faster whom a member copies, and what it does with that.
    settings = {"space": space, "scheduler": pbt(synch=True), "stop": {"training_iteration": 16}, **settings}
    grid = fit(trainable, storage, **settings)
    assert items(grid, Exploit)
    return grid


def drifts(grid: tune.ResultGrid) -> list[Notice]:
    return [item for item in items(grid, Notice) if item.key.startswith("drift")]


def mismatches(grid: tune.ResultGrid) -> int:
    """Count the reports after which the optimizer had another learning rate than the config."""
    tables = [result.metrics_dataframe for result in grid]
    return sum(int(((table["used"] - table["config/lr"]).abs() > 1e-6).sum()) for table in tables if table is not None)


@pytest.mark.parametrize("engine", ["processes", "inline"])
def test_a_function_that_keeps_the_donors_learning_rate_is_told_so_once_in_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: str
) -> None:
    grid = run(train, "forgets", tmp_path, run={"verbose": 1}, engine=engine)
    assert grid.num_errors == 0
    assert mismatches(grid) > 0
    (notice,) = drifts(grid)
    assert notice.key == "drift lr"
    assert "but SGD steps with lr=" in notice.text
    assert "loading the donor's optimizer state has put its own value back" in notice.text
    told = "".join(capsys.readouterr())
    assert " ".join(told.split()).count("but SGD steps with lr=") == 1


@pytest.mark.parametrize("how", ["mends", "scales"])
def test_a_function_that_sets_its_own_learning_rate_after_loading_is_told_nothing(tmp_path: Path, how: str) -> None:
    grid = run(train, how, tmp_path)
    assert items(grid, Drifted) == []
    assert (mismatches(grid) == 0) == (how == "mends")


def test_with_restore_and_save_the_new_value_is_used_and_the_schedule_goes_on(tmp_path: Path) -> None:
    grid = run(train_in_two_lines, "", tmp_path)
    assert grid.num_errors == 0
    assert items(grid, Drifted) == []
    assert mismatches(grid) == 0


def test_a_copy_draws_numbers_of_its_own(tmp_path: Path) -> None:
    # In step, because one that copies a donor ahead of it skips what lies between.
    grid = run(train_in_two_lines, "", tmp_path)
    drawn = [number for result in grid for number in draws(result)]
    assert len(drawn) == len(set(drawn)) == 4 * 16


def test_a_member_that_is_launched_again_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    retry = {"failure_config": tune.FailureConfig(max_failures=1)}
    straight, again = (
        fit(train_in_two_lines, tmp_path, space={"lr": 0.1, "fails": fails}, num_samples=1, run=retry)
        for fails in (False, True)
    )
    assert len(items(again, Retry)) == 1
    assert draws(straight[0]) == draws(again[0])


def draws(result: tune.Result) -> list[float]:
    table = result.metrics_dataframe
    assert table is not None
    return [float(number) for number in table["drawn"]]


@pytest.mark.parametrize("how", ["restores", "keeps"])
def test_a_class_that_keeps_its_object_is_told_where_the_rate_stays_the_old_one(tmp_path: Path, how: str) -> None:
    grid = run(Trainer, how, tmp_path)
    assert grid.num_errors == 0
    assert (mismatches(grid) > 0) == (how == "keeps")
    assert [notice.key for notice in drifts(grid)] == (["drift lr"] if how == "keeps" else [])


def test_strict_makes_it_the_trials_error_at_its_report(tmp_path: Path) -> None:
    grid = run(train, "forgets", tmp_path, check_applied=tune.CheckApplied(strict=True))
    errors = [str(error) for error in grid.errors]
    assert errors
    assert all("but SGD steps with lr=" in error and "tune.report(metrics, checkpoint" in error for error in errors)
    assert items(grid, Drifted) == []


def test_switched_off_nothing_is_said(tmp_path: Path) -> None:
    grid = run(train, "forgets", tmp_path, check_applied=False)
    assert mismatches(grid) > 0
    assert items(grid, Drifted) == []


@pytest.mark.parametrize(
    ("names", "expected"), [({}, ["drift rate"]), ({"rate": "lr"}, ["drift rate"]), ({"rate": "none"}, [])], ids=str
)
def test_a_key_with_a_name_of_its_own_is_found_by_its_value_and_can_be_named(
    tmp_path: Path, names: dict[str, str], expected: list[str]
) -> None:
    space = {"rate": tune.uniform(0.0, 1.0), "how": "forgets"}
    scheduler = pbt(hyperparam_mutations={"rate": tune.uniform(0.0, 1.0)}, synch=True)
    check = tune.CheckApplied(names=names)
    grid = run(train, "", tmp_path, space=space, scheduler=scheduler, check_applied=check)
    assert [notice.key for notice in drifts(grid)] == expected


def train_on_a_plateau(config: dict[str, Any]) -> None:
    """Changes its learning rate, which is the same for all, as it goes, and goes on from where a donor's has got to."""
    model = nn.Linear(1, 1)
    optimizer = SGD(model.parameters(), lr=config["lr"], momentum=config["momentum"])
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    if (checkpoint := tune.get_checkpoint()) is not None:
        state = torch.load(Path(checkpoint.path, "state.pt"))
        for name, part in parts.items():
            part.load_state_dict(state[name])
        optimizer.param_groups[0]["momentum"] = config["momentum"]
    while True:
        optimizer.zero_grad()
        model(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        scheduler.step(1.0)
        with tempfile.TemporaryDirectory() as folder:
            torch.save({name: part.state_dict() for name, part in parts.items()}, Path(folder, "state.pt"))
            metrics = {"score": config["momentum"], "used": optimizer.param_groups[0]["lr"]}
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def test_a_rate_that_is_the_same_for_all_may_decay_even_where_the_check_is_strict(tmp_path: Path) -> None:
    space = {"lr": 0.1, "momentum": tune.uniform(0.1, 0.9)}
    scheduler = pbt(hyperparam_mutations={"momentum": tune.uniform(0.1, 0.9)}, synch=True)
    check = tune.CheckApplied(strict=True)
    grid = run(train_on_a_plateau, "", tmp_path, space=space, scheduler=scheduler, check_applied=check)
    assert grid.num_errors == 0
    assert mismatches(grid) > 0


class TwoRates(tune.Trainable):
    """Sets both rates when its config changes, and then loads over one of them, unless ``how`` is ``mends``."""

    def setup(self, config: dict[str, Any]) -> None:
        self.parts = [nn.Linear(1, 1), nn.Linear(1, 1)]
        rates = config["lr"], config["lr_d"]
        self.optimizers = [SGD(part.parameters(), lr=lr) for part, lr in zip(self.parts, rates, strict=True)]

    def set_rates(self) -> None:
        self.optimizers[0].param_groups[0]["lr"] = self.config["lr"]
        self.optimizers[1].param_groups[0]["lr"] = self.config["lr_d"]

    def step(self) -> dict[str, Any]:
        for part, optimizer in zip(self.parts, self.optimizers, strict=True):
            optimizer.zero_grad()
            part(torch.ones(1, 1)).sum().backward()
            optimizer.step()
        return {"score": self.config["lr"], "used": self.optimizers[0].param_groups[0]["lr"]}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        torch.save([one.state_dict() for one in self.optimizers], Path(checkpoint_dir, "state.pt"))

    def load_checkpoint(self, checkpoint: Any) -> None:
        states = torch.load(Path(checkpoint, "state.pt"))
        self.optimizers[1].load_state_dict(states[1])
        if self.config["how"] == "mends":
            self.set_rates()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        self.set_rates()
        return True


@pytest.mark.parametrize("how", ["forgets", "mends"])
def test_a_class_that_sets_its_rates_before_it_loads_is_told_which_one_is_the_donors(tmp_path: Path, how: str) -> None:
    space = {"lr": tune.uniform(0.0, 1.0), "lr_d": tune.uniform(0.0, 1.0), "how": how}
    mutations = {"lr": tune.uniform(0.0, 1.0), "lr_d": tune.uniform(0.0, 1.0)}
    grid = run(TwoRates, how, tmp_path, space=space, scheduler=pbt(hyperparam_mutations=mutations, synch=True))
    assert grid.num_errors == 0
    assert [notice.key for notice in drifts(grid)] == (["drift lr_d"] if how == "forgets" else [])
