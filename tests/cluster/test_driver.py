"""The driver that dies or is interrupted, and storage that is away, on a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from shoal import tune
from shoal.reading import Experiment
from tests.cluster.nodes import Nodes, connected, hosts, wait_for
from tests.cluster.runs import Strikes, decided, run, slow
from tests.s3 import Bucket

_SCRIPT = """
import os, signal, sys
import shoal
from tests.cluster.runs import Strikes, run

address, storage, at, number = sys.argv[1:]
shoal.init(address=address, runtime_env={"env_vars": {"SHOAL_CACHE": os.environ["SHOAL_CACHE"]}}, log_to_driver=False)
run(storage, "run", strikes=Strikes({int(at): lambda: os.kill(os.getpid(), int(number))}))
print("came to its end")
"""


def start(nodes: Nodes, storage: str, cache: Path, at: int, number: int) -> subprocess.CompletedProcess[str]:
    """Run the experiment in a process that sends itself a signal when it has heard of so many results."""
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", _SCRIPT, nodes.address, storage, str(at), str(number)],
        cwd=root,
        env={**os.environ, "SHOAL_CACHE": str(cache), "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=100,
    )


def go_on(url: str) -> tune.ResultGrid:
    """Go on with it, without what struck it before."""
    return tune.Tuner.restore(url, slow, run_config=tune.RunConfig(callbacks=[], verbose=0)).fit()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """What a run on this machine decides, to which nothing happens."""
    return decided(run(str(tmp_path_factory.mktemp("undisturbed")), "run", engine="processes"))


def test_a_driver_that_is_killed_leaves_nothing_running_and_another_machine_goes_on_to_the_same_lineage(
    nodes: Nodes, bucket: Bucket, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    nodes.add(num_cpus=2)
    killed = start(nodes, f"{bucket.url}/runs", tmp_path / "one", 150, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    wait_for(lambda: not hosts())
    with connected(nodes, **bucket.environment, SHOAL_CACHE=str(tmp_path / "other")):
        url = f"{bucket.url}/runs/run"
        history = Experiment.open(url).history
        heard = sum(len(trial.rows) for trial in history.in_order())
        assert heard > 0
        grid = go_on(url)
        assert decided(grid) == undisturbed


def test_an_interrupted_run_says_how_to_go_on_and_has_all_of_it_in_storage(
    nodes: Nodes, bucket: Bucket, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    nodes.add(num_cpus=2)
    ended = start(nodes, f"{bucket.url}/runs", tmp_path / "one", 150, signal.SIGTERM)
    assert ended.returncode == 75, ended.stderr
    wait_for(lambda: not hosts())
    with connected(nodes, **bucket.environment, SHOAL_CACHE=str(tmp_path / "other")):
        url = f"{bucket.url}/runs/run"
        assert sum(len(trial.rows) for trial in Experiment.open(url).history.in_order()) >= 150
        assert decided(go_on(url)) == undisturbed


def test_a_run_goes_on_while_storage_is_away_and_has_all_of_it_there_in_the_end(
    nodes: Nodes, bucket: Bucket, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    nodes.add()
    nodes.add()
    results_while_away: list[int] = []

    def come_back() -> None:
        results_while_away.append(1)
        bucket.line.go("open")

    def go_away() -> None:
        bucket.line.go("refuse")

    strikes = Strikes({60: go_away, 250: come_back})
    with connected(nodes, **bucket.environment, SHOAL_CACHE=str(tmp_path)):
        grid = run(f"{bucket.url}/runs", "run", strikes=strikes)
        strikes.check()
        assert decided(grid) == undisturbed
        assert json.loads(json.dumps(results_while_away)) == [1]
        for result in grid:
            assert result.checkpoint is not None
            with result.checkpoint.as_directory() as folder:
                assert json.loads(Path(folder, "state.json").read_text())[0] == 40
    assert threading.main_thread().is_alive()
