"""Nodes that die and join, hosts that are killed: members go on elsewhere, and what is decided stays the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from shoal.core.commands import Launch
from shoal.core.events import Damaged, Lost, SlotsJoined, SlotsLeft
from tests.cluster.nodes import Nodes, connected, hosts
from tests.cluster.runs import Strikes, decided, run
from tests.helpers import items, pbt
from tests.s3 import Bucket


def test_nodes_that_die_and_join_change_nothing_of_what_a_synchronous_run_decides(
    nodes: Nodes, bucket: Bucket, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    first, second = nodes.add(), nodes.add()
    strikes = Strikes({60: lambda: nodes.kill(first), 110: lambda: nodes.add(), 200: lambda: nodes.kill(second)})
    with connected(nodes, **bucket.environment, SHOAL_CACHE=str(tmp_path)):
        grid = run(f"{bucket.url}/runs", "run", strikes=strikes)
        strikes.check()
        assert decided(grid) == undisturbed
        assert len(items(grid, SlotsLeft)) == 2
        assert len(items(grid, SlotsJoined)) >= 3
        assert all(lost.innocent and lost.reason.startswith("its node died") for lost in items(grid, Lost))
        best = grid.get_best_result().checkpoint
        assert best is not None
        with best.as_directory() as folder:
            assert Path(folder, "state.json").is_file()


def test_a_host_that_is_killed_is_replaced_on_its_node_and_nothing_decided_changes(
    nodes: Nodes, bucket: Bucket, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    nodes.add(num_cpus=2)

    def strike() -> None:
        (host,) = hosts()
        os.kill(host.pid, signal.SIGKILL)

    strikes = Strikes({100: strike})
    with connected(nodes, **bucket.environment, SHOAL_CACHE=str(tmp_path)):
        grid = run(f"{bucket.url}/runs", "run", strikes=strikes)
        strikes.check()
        assert decided(grid) == undisturbed
        assert [len(left.slots) for left in items(grid, SlotsLeft)] == [2]
        assert sum(len(joined.devices) for joined in items(grid, SlotsJoined)) == 4


def test_a_node_that_joins_is_used_and_one_slot_can_be_all_that_there_is(nodes: Nodes, tmp_path: Path) -> None:
    nodes.add()
    strikes = Strikes({30: lambda: nodes.add(num_cpus=2)})
    with connected(nodes):
        grid = run(str(tmp_path), "run", strikes=strikes, scheduler=pbt(), steps=60)
    strikes.check()
    joined = items(grid, SlotsJoined)
    assert sorted(len(each.devices) for each in joined)[0] == 1
    assert sum(len(each.devices) for each in joined) == 3
    assert {launch.slot for launch in items(grid, Launch)} == {0, 1, 2}
    assert grid.num_terminated == 8


def test_two_nodes_that_die_at_once_cost_what_storage_did_not_have_yet_and_never_the_run(
    nodes: Nodes, bucket: Bucket, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    first, second = nodes.add(), nodes.add()

    def strike() -> None:
        nodes.kill(first, second)
        nodes.add(num_cpus=2)

    strikes = Strikes({150: strike})
    with connected(nodes, **bucket.environment, SHOAL_CACHE=str(tmp_path)):
        grid = run(f"{bucket.url}/runs", "run", strikes=strikes)
        strikes.check()
        assert len(items(grid, SlotsLeft)) == 2
        assert [result.metrics["training_iteration"] for result in grid] == [40] * 8
        # Where a checkpoint was on these two nodes alone, its member goes on from the one before, and says so.
        assert decided(grid) == undisturbed or items(grid, Damaged)


def test_a_node_that_dies_while_storage_is_away_takes_nothing_with_it_that_was_decided_upon(
    nodes: Nodes, bucket: Bucket, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    first, _ = nodes.add(), nodes.add()
    strikes = Strikes(
        {
            20: lambda: bucket.line.go("refuse"),
            150: lambda: nodes.kill(first),
            170: nodes.add,
            260: lambda: bucket.line.go("open"),
        }
    )
    with connected(nodes, **bucket.environment, SHOAL_CACHE=str(tmp_path)):
        grid = run(f"{bucket.url}/runs", "run", strikes=strikes)
        strikes.check()
        assert decided(grid) == undisturbed
        assert len(items(grid, SlotsLeft)) == 1
