"""Nodes that die and join, hosts that are killed: members go on elsewhere, and what is decided stays the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from shoal.core.commands import Launch
from shoal.core.events import Lost, SlotsJoined, SlotsLeft
from shoal.reading import Experiment
from tests.cluster.nodes import Nodes, connected, hosts
from tests.cluster.runs import Strikes, decided, run
from tests.helpers import items, pbt
from tests.s3 import Bucket


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """What a run on this machine decides, to which nothing happens."""
    return decided(run(str(tmp_path_factory.mktemp("undisturbed")), "run", engine="processes"))


def journal_of(grid: Any, *kinds: type[Any]) -> list[Any]:
    """Return events and commands of some kinds, from the journal's copy in storage."""
    from shoal.journal.sqlite import SQLiteJournal

    journal = SQLiteJournal.open_for_reading(Experiment.open(grid.experiment_path).folder)
    try:
        return [record.item for record in journal.read() if isinstance(record.item, kinds)]
    finally:
        journal.close()


def test_nodes_that_die_and_join_change_nothing_of_what_a_synchronous_run_decides(
    nodes: Nodes, bucket: Bucket, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    first, second = nodes.add(), nodes.add()
    strikes = Strikes({60: lambda: nodes.kill(first), 110: lambda: nodes.add(), 200: lambda: nodes.kill(second)})
    with connected(nodes, **bucket.environment, SHOAL_CACHE=str(tmp_path)):
        grid = run(f"{bucket.url}/runs", "run", strikes=strikes)
        strikes.check()
        assert decided(grid) == undisturbed
        assert len(journal_of(grid, SlotsLeft)) == 2
        assert len(journal_of(grid, SlotsJoined)) >= 3
        assert {lost.innocent for lost in journal_of(grid, Lost)} == {True}
        with grid.get_best_result().checkpoint.as_directory() as folder:
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
        assert [len(left.slots) for left in journal_of(grid, SlotsLeft)] == [2]
        assert sum(len(joined.devices) for joined in journal_of(grid, SlotsJoined)) == 4


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
