"""What members have on a cluster: resources, large objects, a way to print, folders that others do not see."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ray import available_resources, cluster_resources

import shoal
from shoal import objects, tune
from shoal.core.events import SlotsJoined
from shoal.errors import EngineError
from tests.cluster.nodes import ForeignNode, Nodes, can_be_foreign, connected
from tests.cluster.runs import Strikes, decided, run, slow
from tests.helpers import fit, items

free: Any = available_resources
there: Any = cluster_resources


def test_fractions_of_gpus_memory_and_custom_resources_are_reserved_and_given_back(
    nodes: Nodes, tmp_path: Path
) -> None:
    nodes.add(num_cpus=4, num_gpus=2, memory=2 << 30, resources={"license": 3})
    nodes.add(num_cpus=4)  # which has no GPU

    def train(config: dict[str, Any]) -> None:
        for _ in range(3):
            tune.report(
                {"score": 0.0, "gpu": os.environ["CUDA_VISIBLE_DEVICES"], "threads": os.environ["OMP_NUM_THREADS"]}
            )

    wanted = {"cpu": 1, "gpu": 0.5, "memory": 256 << 20, "license": 1}
    seen: list[dict[str, float]] = []
    with connected(nodes):
        total = there()
        strikes = Strikes({2: lambda: seen.append(free())})
        grid = run(str(tmp_path), "run", trainable=tune.with_resources(train, wanted), strikes=strikes, scheduler=None)
        # Three licenses, four halves of a GPU.
        assert sum(len(each.devices) for each in items(grid, SlotsJoined)) == 3
        assert total["license"] - seen[0].get("license", 0.0) == 3
        assert total["GPU"] - seen[0].get("GPU", 0.0) == 1.5
        assert total["memory"] - seen[0]["memory"] == 3 * (256 << 20)
        deadline = time.monotonic() + 20
        while free().get("license") != 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert free()["license"] == 3
    assert {result.metrics["gpu"] for result in grid} <= {"0", "1"}
    assert len({result.metrics["gpu"] for result in grid}) == 2


def test_what_no_node_will_ever_have_is_an_error_of_a_ray_of_ones_own_and_says_what_there_is(tmp_path: Path) -> None:
    shoal.shutdown()
    shoal.init(address="local", num_cpus=1)
    try:
        with pytest.raises(EngineError, match="one trial takes CPU 1, tpu 1"):
            fit(tune.with_resources(slow, {"cpu": 1, "tpu": 1}), tmp_path, engine="ray")
    finally:
        shoal.shutdown()
    assert not list(tmp_path.iterdir())


def test_what_members_print_reaches_the_driver_and_their_output_log(
    nodes: Nodes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def train(config: dict[str, Any]) -> None:
        print("grüße from", config["which"])
        print("and to stderr", file=sys.stderr)
        tune.report({"score": 1.0})

    nodes.add(num_cpus=2)
    with connected(nodes):
        grid = fit(
            train,
            tmp_path,
            space={"which": tune.grid_search(["a", "b"])},
            num_samples=1,
            run={"verbose": 1},
        )
    shown = capfd.readouterr().out
    for result, which in zip(grid, "ab", strict=True):
        assert f"grüße from {which}" in shown
        log = Path(result.path, "output.log").read_text()
        assert f"grüße from {which}\n" in log
        assert "and to stderr\n" in log


needs_mounts = pytest.mark.skipif(not can_be_foreign(), reason="no mounts of one's own here")


@needs_mounts
def test_a_node_that_does_not_see_the_folder_has_its_checkpoints_copied_to_it_before_they_count(
    nodes: Nodes, tmp_path: Path
) -> None:
    reference = decided(run(str(tmp_path / "here"), "run", engine="processes"))
    hidden = [tmp_path / "away", tmp_path / "cache"]
    for folder in hidden:
        folder.mkdir()
    with connected(nodes, SHOAL_CACHE=str(tmp_path / "cache")):
        foreign = ForeignNode(nodes.address, hidden, cpus=2)
        try:
            strikes = Strikes({100: lambda: nodes.add(num_cpus=2), 160: foreign.kill})
            grid = run(str(tmp_path / "away"), "run", strikes=strikes)
        finally:
            foreign.kill()
        strikes.check()
    assert decided(grid) == reference
    for result in grid:
        # All that were saved before the node died are here, with those that were saved afterwards.
        assert sorted(path.name[-1] for path in Path(result.path).glob("checkpoint_*")) >= [*"0123456"]


@needs_mounts
def test_a_large_object_is_taken_to_another_machine_once(nodes: Nodes, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        numbers = config["numbers"]
        total = sum(shoal.get(numbers))
        found = {os.stat(path).st_ino for path in objects._paths_of(numbers) if os.path.isfile(path)}
        tune.report({"score": total, "file": str(found), "here": os.path.isfile(numbers.path)})

    storage, cache = tmp_path / "runs", tmp_path / "cache"
    for folder in (storage, cache):
        folder.mkdir()
    with connected(nodes, SHOAL_CACHE=str(cache)):
        numbers = shoal.put([*range(1000)])
        foreign = ForeignNode(nodes.address, [storage, cache], cpus=2)
        try:
            grid = fit(train, storage, space={"numbers": numbers}, num_samples=4)
        finally:
            foreign.kill()
    assert [result.metrics["score"] for result in grid] == [499500] * 4
    assert {result.metrics["here"] for result in grid} == {False}
    assert len({result.metrics["file"] for result in grid}) == 1
