"""Members on a real GPU: what they see of it, what is saved and loaded there, and that the watch leaves steps alone."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import fit, items, pbt
from torch import nn
from torch.optim import Adam, lr_scheduler

import shoal.torch
from shoal import tune
from shoal.core.commands import Exploit, Launch, Notice, Retry
from shoal.errors import EngineError

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def network(device: str) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)).to(device)


def train(config: dict[str, Any]) -> None:
    """Mixed precision on the GPU, saved and loaded with ``shoal.torch``, but for what ``how`` says."""
    how = config.get("how", "")
    model = network("cuda")
    optimizer = Adam(model.parameters(), lr=config["lr"])
    scheduler = lr_scheduler.StepLR(optimizer, 6, 0.5)
    scaler = torch.amp.GradScaler("cuda")
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    checkpoint = tune.get_checkpoint()
    state = shoal.torch.restore(checkpoint, **parts, config=None if how == "forgets" else config)
    step = state.get("step", 0)
    where = {tensor.device.type for moments in optimizer.state.values() for tensor in moments.values() if tensor.ndim}
    assert where <= {"cuda"}
    mark = Path(tune.get_context().get_trial_dir(), "died")
    while True:
        step += 1
        if how == "dies" and step == 8 and not mark.exists():
            mark.touch()
            os._exit(3)
        inputs = torch.randn(16, 8, device="cuda")
        with torch.autocast("cuda"):
            loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        metrics = {
            "score": -float(loss.detach()),
            "used": optimizer.param_groups[0]["initial_lr"],
            "devices": os.environ["CUDA_VISIBLE_DEVICES"],
            "count": torch.cuda.device_count(),
        }
        tune.report(metrics, checkpoint=shoal.torch.save(**parts, step=step) if step % 3 == 0 else None)


def run(storage: Path, trainable: Any = train, gpus: float = 0.25, **settings: Any) -> tune.ResultGrid:
    settings = {"stop": {"training_iteration": 18}, "scheduler": pbt(perturbation_interval=3, synch=True), **settings}
    wrapped = tune.with_resources(trainable, {"cpu": 1, "gpu": gpus})
    return fit(wrapped, storage, space={"lr": tune.loguniform(1e-4, 1e-1), **settings.pop("space", {})}, **settings)


def test_members_share_a_gpu_and_use_their_own_rates(tmp_path: Path) -> None:
    grid = run(tmp_path)
    assert grid.num_errors == 0
    assert items(grid, Exploit)
    for result in grid:
        table = result.metrics_dataframe
        assert table is not None
        assert set(table["devices"].astype(str)) == {"0"}
        assert set(table["count"]) == {1}
        assert (table["used"] - table["config/lr"]).abs().max() < 1e-9
    assert [note for note in items(grid, Notice) if note.key.startswith("drift")] == []


def test_a_rate_that_the_donors_state_brings_back_is_told(tmp_path: Path) -> None:
    grid = run(tmp_path, space={"how": "forgets"})
    assert grid.num_errors == 0
    assert [note.key for note in items(grid, Notice) if note.key.startswith("drift")] == ["drift lr"]


def test_a_member_that_dies_draws_the_same_numbers_on_the_gpu_as_one_that_does_not(tmp_path: Path) -> None:
    once = {"failure_config": tune.FailureConfig(max_failures=1)}
    straight, again = (
        run(tmp_path, num_samples=1, scheduler=None, run=once, space={"how": how}) for how in ("", "dies")
    )
    assert len(items(again, Retry)) == 1
    assert [row["score"] for row in rows(straight)] == pytest.approx([row["score"] for row in rows(again)], rel=1e-5)


def rows(grid: tune.ResultGrid) -> list[dict[str, Any]]:
    table = grid[0].metrics_dataframe
    assert table is not None
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def captured(config: dict[str, Any]) -> None:
    """Steps inside of a CUDA graph: what is read while it is recorded would break it."""
    model = network("cuda")
    rate = torch.tensor(config["lr"], device="cuda")
    optimizer = Adam(model.parameters(), lr=rate, capturable=True)
    state = shoal.torch.restore(tune.get_checkpoint(), model=model, optimizer=optimizer, config=config)
    step = state.get("step", 0)
    assert optimizer.param_groups[0]["lr"] is rate
    inputs = torch.randn(16, 8, device="cuda")

    def once() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss: torch.Tensor = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            once()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = once()
    while True:
        step += 1
        graph.replay()
        metrics = {"score": -float(loss.detach()), "used": float(rate)}
        made = shoal.torch.save(model=model, optimizer=optimizer, step=step) if step % 3 == 0 else None
        tune.report(metrics, checkpoint=made)


def test_steps_inside_of_a_cuda_graph_are_left_alone_and_have_their_own_rates(tmp_path: Path) -> None:
    grid = run(tmp_path, captured)
    assert grid.num_errors == 0, grid.errors
    assert items(grid, Exploit)
    for result in grid:
        table = result.metrics_dataframe
        assert table is not None
        assert (table["used"] - table["config/lr"]).abs().max() < 1e-6


def test_a_whole_gpu_for_each_lets_one_run_at_a_time(tmp_path: Path) -> None:
    grid = run(tmp_path, gpus=1, num_samples=2, stop={"training_iteration": 6})
    assert grid.num_errors == 0
    if torch.cuda.device_count() == 1:
        assert {launch.slot for launch in items(grid, Launch)} == {0}


USES_IT_AT_ONCE = """
import torch
HERE = torch.cuda.is_available()
{more}
def train(config):
    from shoal import tune
    tune.report({{"score": float(torch.ones(2, device="cuda").sum()) if HERE else 0.0}})
"""


def test_a_module_may_ask_for_the_gpu_and_not_use_it_when_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, more in (("asks_for_the_gpu", ""), ("uses_the_gpu", "torch.ones(2, device='cuda')")):
        (tmp_path / f"{name}.py").write_text(USES_IT_AT_ONCE.format(more=more))
        trainable = importlib.import_module(name).train
        if more:
            with pytest.raises(EngineError, match=r"CUDA does not survive a fork\. Use the GPU inside"):
                run(tmp_path, trainable, scheduler=None, num_samples=1)
        else:
            grid = run(tmp_path, trainable, scheduler=None, num_samples=1)
            assert grid[0].metrics["score"] == 2.0
