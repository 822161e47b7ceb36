"""Nodes that die and join, hosts that are killed: members go on elsewhere, and what is decided stays the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.core.events import Lost, SlotsJoined, SlotsLeft
from shoal.reading import Experiment
from tests.cluster.nodes import Nodes, connected
from tests.cluster.runs import Strikes, decided, run
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
        assert strikes.left == 0
        assert decided(grid) == undisturbed
        assert len(journal_of(grid, SlotsLeft)) == 2
        assert len(journal_of(grid, SlotsJoined)) >= 3
        assert {lost.innocent for lost in journal_of(grid, Lost)} == {True}
        with grid.get_best_result().checkpoint.as_directory() as folder:
            assert Path(folder, "state.json").is_file()
