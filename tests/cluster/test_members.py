"""What members meet on a cluster: they are killed, hang, leave and come back, copy others that are elsewhere."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from shoal import tune
from shoal.core.commands import Evict, Exploit, HandOn, Launch, Retry
from shoal.core.events import Damaged, Lost, SlotsJoined
from shoal.testing.trainables import Climber
from tests.cluster.nodes import Nodes, connected, hosts, members
from tests.cluster.runs import Strikes, decided, run
from tests.helpers import items, load_state, pbt, report_state
from tests.s3 import Bucket


def test_a_member_that_is_killed_goes_on_from_its_checkpoint_and_the_lineage_stays_the_same(
    nodes: Nodes, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    nodes.add(num_cpus=2)
    strikes: Strikes

    def strike() -> None:
        os.kill(strikes.result["process"], signal.SIGKILL)

    def strike_all() -> None:
        for host in hosts():
            for pid in members(host):
                os.kill(pid, signal.SIGKILL)

    strikes = Strikes({70: strike, 150: strike_all})
    with connected(nodes):
        grid = run(str(tmp_path), "run", strikes=strikes, failure={"max_failures": 3})
    strikes.check()
    assert decided(grid) == undisturbed
    assert items(grid, Retry)
    assert any("kill" in lost.reason.lower() for lost in items(grid, Lost))


def test_a_member_that_hangs_is_ended_and_goes_on(nodes: Nodes, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        step, score = load_state() or (0, 0.0)
        while True:
            step, score = step + 1, score + config["lr"]
            if step == 7 and not (hung := tmp_path / tune.get_context().get_trial_id()).exists():
                hung.touch()
                time.sleep(1000)
            report_state(step, score, {"score": score}, save=step % 5 == 0)

    nodes.add(num_cpus=2)
    with connected(nodes):
        grid = run(
            str(tmp_path / "runs"),
            "run",
            trainable=train,
            num_samples=2,
            steps=10,
            scheduler=None,
            failure={"max_failures": 1, "report_timeout_s": 2.0},
        )
    assert [result.metrics["training_iteration"] for result in grid] == [10, 10]
    reasons = [lost.reason for lost in items(grid, Lost)]
    assert len(reasons) == 2
    assert all("it reported nothing for" in reason for reason in reasons)


def test_members_that_leave_for_others_come_back_on_any_node_and_decide_the_same(
    nodes: Nodes, bucket: Bucket, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    nodes.add()
    nodes.add()
    with connected(nodes, **bucket.environment, SHOAL_CACHE=str(tmp_path)):
        grid = run(f"{bucket.url}/runs", "run", max_residents=3)
        assert decided(grid) == undisturbed
        assert len(items(grid, Evict)) >= 5


def test_a_class_decides_on_a_cluster_what_it_decides_here(nodes: Nodes, bucket: Bucket, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"trainable": Climber, "steps": 20}
    here = decided(run(str(tmp_path / "here"), "run", engine="processes", **settings))
    nodes.add()
    nodes.add()
    with connected(nodes, **bucket.environment, SHOAL_CACHE=str(tmp_path / "cache")):
        grid = run(f"{bucket.url}/runs", "run", **settings)
        assert decided(grid) == here


def test_an_exploit_from_another_node_takes_the_bytes_from_there_and_never_from_storage(
    nodes: Nodes, bucket: Bucket, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    nodes.add()
    nodes.add()
    with connected(nodes, **bucket.environment, SHOAL_CACHE=str(tmp_path)):
        grid = run(f"{bucket.url}/runs", "run")
        read = [line for line in [*bucket.line.requests] if line.startswith("GET ") and "checkpoint_" in line]
        assert decided(grid) == undisturbed
        assert bucket.line.count("PUT", "checkpoint_") > 0
        assert read == []
        host = dict(enumerate(joined_devices(grid)))
        launches = items(grid, Launch)
        where = {launch.trial_id: host[launch.slot] for launch in launches}
        exploits = items(grid, Exploit)
        assert any(where[exploit.trial_id] != where[exploit.donor_id] for exploit in exploits)
        assert sum(not launch.fresh for launch in launches) >= 5  # in place: the process stays


def joined_devices(grid: Any) -> list[str]:
    """Return the device of each slot."""
    return [device for joined in items(grid, SlotsJoined) for device in joined.devices]


def test_slots_are_handed_on_where_members_take_turns(nodes: Nodes, tmp_path: Path) -> None:
    nodes.add(num_cpus=2)
    with connected(nodes):
        grid = run(str(tmp_path), "run", scheduler=pbt(), steps=20)
    assert items(grid, HandOn)
    assert [result.metrics["training_iteration"] for result in grid] == [20] * 8


def large(config: dict[str, Any]) -> None:
    """Save ``config["size"]`` bytes in ``config["files"]`` files every five steps."""
    step, score = load_state() or (0, 0.0)
    if (checkpoint := tune.get_checkpoint()) is not None:
        found = sorted(Path(checkpoint.path).glob("weights/*"))
        assert len(found) == config["files"]
        assert sum(path.stat().st_size for path in found) == config["size"]
        assert os.access(found[0], os.X_OK)
        assert Path(checkpoint.path, "empty").is_dir()
    while True:
        step, score = step + 1, score + config["lr"]
        if step % 5:
            tune.report({"score": score})
            continue
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "state.json").write_text(f"[{step}, {score}]")
            Path(folder, "weights").mkdir()
            Path(folder, "empty").mkdir()
            for number in range(config["files"]):
                path = Path(folder, "weights", f"{number:04}")
                path.write_bytes(os.urandom(config["size"] // config["files"]))
                path.chmod(0o755)
            tune.report({"score": score}, checkpoint=tune.Checkpoint.from_directory(folder))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("size", "files"), [(128 << 20, 2), (40_000, 400)], ids=["large", "many small files"])
def test_checkpoints_travel_between_nodes_and_to_storage_whatever_their_size(
    size: int, files: int, nodes: Nodes, bucket: Bucket, tmp_path: Path
) -> None:
    nodes.add()
    nodes.add()
    peaks: list[int] = []

    def look() -> None:
        for host in hosts():
            status = Path(f"/proc/{host.pid}/status").read_text()
            peaks.append(int(status.partition("VmHWM:")[2].split()[0]) << 10)

    strikes = Strikes({19: look})
    with connected(nodes, **bucket.environment, SHOAL_CACHE=str(tmp_path)):
        grid = run(
            f"{bucket.url}/runs",
            "run",
            trainable=large,
            num_samples=2,
            steps=10,
            space={"size": size, "files": files},
            scheduler=pbt(synch=True, quantile_fraction=0.5),
            strikes=strikes,
            keep={"num_to_keep": 1},
        )
        strikes.check()
        assert len(peaks) == 2
        # That of a host with pieces and parts on their way, some of them several times, whatever a checkpoint's size.
        assert max(peaks) < 1 << 30
        assert not items(grid, Damaged)
        assert items(grid, Exploit)
        best = grid.get_best_result().checkpoint
        assert best is not None
        with best.as_directory() as folder:
            assert sum(path.stat().st_size for path in Path(folder, "weights").iterdir()) == size
            assert Path(folder, "empty").is_dir()
