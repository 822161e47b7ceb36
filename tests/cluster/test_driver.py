"""The driver that dies or is interrupted, and storage that is away, on a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shoal import tune
from shoal.core.events import Opened, Started
from shoal.reading import Experiment
from tests.cluster.nodes import Nodes, connected, left_running, wait_for
from tests.cluster.runs import Strikes, decided, run, slow
from tests.helpers import items
from tests.s3 import Bucket, Way

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
    script = cache.with_name("script.py")
    script.write_text(_SCRIPT)
    return subprocess.run(
        [sys.executable, str(script), nodes.address, storage, str(at), str(number)],
        cwd=root,
        env={**os.environ, "SHOAL_CACHE": str(cache), "PYTHONPATH": os.pathsep.join([str(root), *sys.path])},
        capture_output=True,
        text=True,
        timeout=100,
    )


def go_on(url: str) -> tune.ResultGrid:
    """Go on with it, without what struck it before."""
    return tune.Tuner.restore(url, slow, run_config=tune.RunConfig(callbacks=[], verbose=0)).fit()


def test_a_driver_that_is_killed_leaves_nothing_running_and_another_machine_goes_on_to_the_same_lineage(
    nodes: Nodes, bucket: Bucket, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    nodes.add(num_cpus=2)
    killed = start(nodes, f"{bucket.url}/runs", tmp_path / "one", 150, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    wait_for(lambda: not left_running())
    with connected(nodes, **bucket.environment, SHOAL_CACHE=str(tmp_path / "other")):
        url = f"{bucket.url}/runs/run"
        history = Experiment.open(url).history
        heard = sum(len(trial.rows) for trial in history.in_order())
        assert heard > 0
        grid = go_on(url)
        assert decided(grid) == undisturbed


@pytest.mark.parametrize(("number", "codes"), [(signal.SIGTERM, {75}), (signal.SIGINT, {-signal.SIGINT, 1})])
def test_an_interrupted_run_says_how_to_go_on_and_has_all_of_it_in_storage(
    number: int, codes: set[int], nodes: Nodes, bucket: Bucket, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    nodes.add(num_cpus=2)
    ended = start(nodes, f"{bucket.url}/runs", tmp_path / "one", 150, number)
    assert ended.returncode in codes, ended.stderr
    assert f"tune.Tuner.restore('{bucket.url}/runs/run', slow).fit()" in ended.stdout
    wait_for(lambda: not left_running())
    with connected(nodes, **bucket.environment, SHOAL_CACHE=str(tmp_path / "other")):
        url = f"{bucket.url}/runs/run"
        assert sum(len(trial.rows) for trial in Experiment.open(url).history.in_order()) >= 150
        assert decided(go_on(url)) == undisturbed


@pytest.mark.parametrize("way", ["refuse", "hang"])
def test_a_run_goes_on_while_storage_is_away_and_has_all_of_it_there_in_the_end(
    way: Way, nodes: Nodes, bucket: Bucket, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    nodes.add()
    nodes.add()
    strikes = Strikes({60: lambda: bucket.line.go(way), 250: lambda: bucket.line.go("open")})
    with connected(nodes, **bucket.environment, SHOAL_CACHE=str(tmp_path)):
        grid = run(f"{bucket.url}/runs", "run", strikes=strikes)
        strikes.check()
        assert decided(grid) == undisturbed
        for result in grid:
            assert result.checkpoint is not None
            with result.checkpoint.as_directory() as folder:
                assert json.loads(Path(folder, "state.json").read_text())[0] == 40


def test_a_run_goes_from_a_cluster_to_one_machine_and_back(
    nodes: Nodes, bucket: Bucket, tmp_path: Path, undisturbed: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.add(num_cpus=2)
    url = f"{bucket.url}/runs/run"
    ended = start(nodes, f"{bucket.url}/runs", tmp_path / "one", 100, signal.SIGTERM)
    assert ended.returncode == 75, ended.stderr
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "two"))
    strikes = Strikes({60: lambda: os.kill(os.getpid(), signal.SIGINT)})
    with pytest.raises(KeyboardInterrupt):
        tune.Tuner.restore(
            url,
            slow,
            run_config=tune.RunConfig(callbacks=[strikes], verbose=0),
            tune_config=tune.TuneConfig(engine="processes"),
        ).fit()
    strikes.check()
    with connected(nodes, **bucket.environment, SHOAL_CACHE=str(tmp_path / "three")):
        grid = tune.Tuner.restore(
            url,
            slow,
            run_config=tune.RunConfig(callbacks=[], verbose=0),
            tune_config=tune.TuneConfig(engine="ray"),
        ).fit()
        assert decided(grid) == undisturbed
        assert {info.engine for info in [Experiment.open(url).info]} == {"ray"}
        hosts_seen = {started.hostname for started in items(grid, Started)}
        assert hosts_seen
        assert len(items(grid, Opened)) == 3
