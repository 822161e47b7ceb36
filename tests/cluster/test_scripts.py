"""Scripts as people start them beside a cluster: found by the environment, without room, interrupted, without Ray."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ray.util.placement_group import placement_group_table

import shoal
from shoal import tune
from shoal.core.events import SlotsJoined
from shoal.errors import EngineError
from tests.cluster.nodes import ForeignNode, Nodes, can_be_foreign, connected, left_running, wait_for
from tests.cluster.runs import Strikes, run
from tests.helpers import fit, items

INTERRUPTED = {-signal.SIGINT, 1}
"""Exit codes after Ctrl-C. What Ray does at the end of a process may keep Python from ending by the signal."""
ROOT = Path(__file__).parents[2]
_SCRIPT = """
from shoal import tune
from tests.cluster.runs import slow

tune.Tuner(
    slow,
    param_space={"lr": tune.uniform(0.0, 1.0)},
    tune_config=tune.TuneConfig(metric="score", mode="max", num_samples=2, engine=ENGINE),
    run_config=tune.RunConfig(name="run", storage_path=STORAGE, stop={"training_iteration": STEPS}, verbose=1),
).fit()
print("came to its end")
"""


class Script:
    """A script that runs, and what it has printed."""

    def __init__(
        self, folder: Path, source: str, *, steps: int = 5, engine: str | None = None, **environment: str
    ) -> None:
        path = folder / "script.py"
        path.write_text(f"ENGINE, STEPS, STORAGE = {engine!r}, {steps}, {str(folder / 'runs')!r}\n{source}")
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(path)],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **environment},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    @property
    def printed(self) -> str:
        """All of it."""
        return self.log.read_text()

    def says(self, text: str) -> None:
        """Wait until it has said so."""
        wait_for(lambda: text in self.printed or self.process.poll() is not None, 90.0)
        assert text in self.printed, self.printed

    def end(self, number: int | None = None) -> int:
        """Wait for its end, after a signal where there is one; return the exit code."""
        if number is not None:
            self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()


def test_a_script_finds_the_cluster_that_its_environment_names_as_in_a_submitted_job(
    nodes: Nodes, tmp_path: Path
) -> None:
    nodes.add(num_cpus=2)
    script = Script(tmp_path, _SCRIPT, engine="ray", RAY_ADDRESS=nodes.address)
    assert script.end() == 0, script.printed
    assert "came to its end" in script.printed
    pids = {result.metrics["process"] for result in tune.ResultGrid.read(tmp_path / "runs" / "run")}
    assert script.process.pid not in pids


def test_a_cluster_without_room_is_waited_for_and_the_run_begins_when_there_is_some(
    nodes: Nodes, tmp_path: Path
) -> None:
    script = Script(tmp_path, _SCRIPT, engine="ray", RAY_ADDRESS=nodes.address)
    script.says("Waiting for the cluster: one trial takes CPU 1, and no node that is there now can run one")
    nodes.add()
    assert script.end() == 0, script.printed
    assert "came to its end" in script.printed


def test_ctrl_c_while_there_is_no_room_leaves_nothing_behind(nodes: Nodes, tmp_path: Path) -> None:
    script = Script(tmp_path, _SCRIPT, engine="ray", RAY_ADDRESS=nodes.address)
    script.says("Waiting for the cluster")
    assert script.end(signal.SIGINT) in INTERRUPTED, script.printed
    assert "Nothing had begun, and nothing is left of it" in script.printed
    assert not (tmp_path / "runs" / "run").exists()
    with connected(nodes):
        assert {group["state"] for group in placement_group_table().values()} <= {"REMOVED"}


def test_ctrl_c_twice_ends_members_on_all_nodes_at_once(nodes: Nodes, tmp_path: Path) -> None:
    nodes.add()
    nodes.add()
    stubborn = "\n\ndef slow(config):\n    import time\n    print('here I am')\n    time.sleep(1000)\n"
    source = _SCRIPT.replace("\nfrom tests.cluster.runs import slow\n", stubborn)
    script = Script(tmp_path, source, engine="ray", RAY_ADDRESS=nodes.address)
    wait_for(lambda: script.printed.count("here I am") == 2 or script.process.poll() is not None)
    script.process.send_signal(signal.SIGINT)
    script.says("Ctrl-C ends them at once")
    begun = time.monotonic()
    assert script.end(signal.SIGINT) in INTERRUPTED, script.printed
    assert time.monotonic() - begun < 15  # they would have 20 s, and sleep for longer
    wait_for(lambda: not left_running())


def test_without_ray_it_says_what_to_install(tmp_path: Path) -> None:
    hidden = "import sys\nsys.modules['ray'] = None\n"
    script = Script(tmp_path, hidden + _SCRIPT, engine="ray")
    assert script.end() == 1
    assert "ConfigError" in script.printed
    assert "Ray is not installed: pip install 'shoal[ray]'" in script.printed
    assert not (tmp_path / "runs" / "run").exists()


def test_no_more_is_taken_of_a_cluster_than_members_can_use(nodes: Nodes, tmp_path: Path) -> None:
    nodes.add(num_cpus=6)
    seen: list[float] = []

    def look() -> None:
        from ray import available_resources

        ask: Any = available_resources
        wait_for(lambda: ask().get("CPU", 0.0) == 4.0)
        seen.append(ask()["CPU"])

    strikes = Strikes({20: look})
    with connected(nodes):
        grid = run(str(tmp_path), "run", num_samples=2, steps=20, scheduler=None, strikes=strikes)
        strikes.check()
        assert {group["state"] for group in placement_group_table().values()} <= {"REMOVED"}
    assert seen == [4.0]
    assert sum(len(joined.devices) for joined in items(grid, SlotsJoined)) == 2


def test_what_members_print_in_pieces_at_length_and_in_masses_arrives_line_by_line(
    nodes: Nodes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def train(config: dict[str, Any]) -> None:
        print("first ", end="", flush=True)
        time.sleep(0.3)
        print("and second half")
        print("x" * 100_000)
        for number in range(3000):
            print("line", number)
        tune.report({"score": 1.0})
        print("no newline at the end", end="")

    nodes.add()
    with connected(nodes):
        grid = fit(train, tmp_path, num_samples=1, run={"verbose": 1})
    shown = capfd.readouterr().out
    log = Path(grid[0].path, "output.log").read_text()
    for text in (shown, log):
        assert "first and second half\n" in text
        assert "x" * 100_000 in text
        assert "no newline at the end" in text
        assert [int(number) for number in re.findall(r"line (\d+)$", text, re.MULTILINE)] == [*range(3000)]


@pytest.mark.skipif(not can_be_foreign(), reason="no mounts of one's own here")
def test_a_node_with_another_release_of_shoal_is_left_out_and_alone_it_is_an_error(
    nodes: Nodes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"
    shutil.copytree(Path(shoal.__file__).parent, old / "shoal", ignore=shutil.ignore_patterns("__pycache__"))
    source = old / "shoal" / "__init__.py"
    text = source.read_text()
    changed = text.replace(f'"{shoal.__version__}"', '"0.0.9"')
    assert changed != text
    source.write_text(changed)
    environment = {"PYTHONPATH": os.pathsep.join([str(old), os.environ.get("PYTHONPATH", "")])}
    with connected(nodes):
        foreign = ForeignNode(nodes.address, [], cpus=1, **environment)
        try:
            said = rf"Shoal is 0\.0\.9 on .*, and {shoal.__version__} here\. Install one"
            with pytest.raises(EngineError, match=said):
                run(str(tmp_path / "runs"), "alone", num_samples=1, steps=5, scheduler=None)
            assert not (tmp_path / "runs" / "alone").exists()
            nodes.add()
            grid = run(str(tmp_path / "runs"), "run", num_samples=2, steps=5, scheduler=None, verbose=1)
        finally:
            foreign.kill()
    assert [result.metrics["training_iteration"] for result in grid] == [5, 5]
