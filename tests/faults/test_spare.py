"""Nobody depends on the spare process that the warm parent forks in advance. And when old checkpoints are deleted."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from tests.helpers import fit

from shoal import driver, tune, warm_parent
from shoal.checkpoints.store import delete
from shoal.core.reports import ReportRules
from shoal.engines import EngineSetup, processes
from shoal.engines.inline import InlineEngine
from shoal.tune.schedulers import PopulationBasedTraining


def train(config: dict[str, Any]) -> None:
    step = 0
    if (checkpoint := tune.get_checkpoint()) is not None:
        step = json.loads(Path(checkpoint.path, "state").read_text())
    while True:
        step += 1
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "state").write_text(json.dumps(step))
            tune.report({"score": float(step)}, checkpoint=tune.Checkpoint.from_directory(folder))


def pbt() -> PopulationBasedTraining:
    return PopulationBasedTraining(
        time_attr="training_iteration", perturbation_interval=1, hyperparam_mutations={"lr": tune.uniform(0, 1)}
    )


class KillSpares(tune.Callback):
    """Kills what the warm parent has forked and has not reported yet: the spare process, now and then a new member."""

    def __init__(self) -> None:
        self.members: set[int] = set()
        self.killed: set[int] = set()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.members.add(result["pid"])
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(psutil.Process(result["pid"]).ppid()).children():
                if child.pid not in self.members and child.pid not in self.killed:
                    self.killed.add(child.pid)
                    child.kill()


def test_whoever_kills_the_spare_process_harms_nobody(tmp_path: Path) -> None:
    killer = KillSpares()
    grid = fit(
        train,
        tmp_path,
        engine="processes",
        num_samples=6,
        max_residents=2,
        scheduler=pbt(),
        stop={"training_iteration": 6},
        run={"callbacks": [killer], "failure_config": tune.FailureConfig(max_failures=-1)},
    )
    assert killer.killed
    assert grid.num_errors == 0
    assert {result.metrics["training_iteration"] for result in grid if result.metrics is not None} == {6}


def test_a_warm_parent_that_is_killed_before_it_has_anything_to_do_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "killed"
    first = f"import os; os.path.exists({str(mark)!r}) or (open({str(mark)!r}, 'w'), os.kill(os.getpid(), 9)); "
    monkeypatch.setattr(warm_parent, "_START", first + warm_parent._START)
    grid = fit(train, tmp_path / "run", engine="processes", num_samples=2, stop={"training_iteration": 2})
    assert mark.exists()
    assert grid.num_errors == 0


def test_whoever_interrupts_is_heard_while_the_warm_parent_does_not_take_the_trainable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(warm_parent, "_START", "import signal; signal.pause()")
    monkeypatch.setattr(processes, "_GRACE_S", 0.1)
    large = bytes(4_000_000)

    def interrupt() -> None:
        raise KeyboardInterrupt

    engine = processes.ProcessEngine()
    setup = EngineSetup(lambda config: len(large), ReportRules(), "run", 1, 1.0, 0.0, [""], print, check=interrupt)
    with contextlib.closing(engine), pytest.raises(KeyboardInterrupt):
        engine.start(setup)


@pytest.mark.parametrize("scarce", [True, False])
def test_old_checkpoints_are_deleted_first_where_those_who_go_on_may_need_the_room(
    scarce: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story: list[str] = []
    execute, carry_out = InlineEngine.execute, driver.Driver._carry_out

    def deletes(folder: Path, number: int) -> None:
        story.append("delete")
        delete(folder, number)

    def executes(self: InlineEngine, command: Any, checkpoint: str | None) -> None:
        story.append("continue")
        execute(self, command, checkpoint)

    def carries_out(self: driver.Driver, items: list[Any]) -> None:
        story.append("batch")
        carry_out(self, items)

    monkeypatch.setattr("shoal.checkpoints.store.delete", deletes)
    monkeypatch.setattr(InlineEngine, "execute", executes)
    monkeypatch.setattr(driver.Driver, "_carry_out", carries_out)
    free = 10 << 20 if scarce else 1 << 40
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    fit(
        train,
        tmp_path,
        engine="inline",
        num_samples=2,
        scheduler=pbt(),
        stop={"training_iteration": 8},
        run={"checkpoint_config": tune.CheckpointConfig(num_to_keep=1)},
    )
    batches = [batch.split() for batch in " ".join(story).split("batch")]
    mixed = [batch for batch in batches if set(batch) == {"delete", "continue"}]
    assert mixed
    for batch in mixed:
        assert batch == sorted(batch, key=lambda word: (word == "delete") is not scarce)
