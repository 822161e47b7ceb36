"""One cluster for all tests here: to start it takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from tests.cluster.nodes import Nodes, left_running, wait_for
from tests.cluster.runs import decided, run
from tests.s3 import Bucket
from tests.s3 import bucket as made_bucket


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.filterwarnings("default::ResourceWarning"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Nodes]:
    """A cluster of the driver's node alone, without a CPU to share out."""
    started = Nodes()
    try:
        yield started
    finally:
        started.close()


@pytest.fixture
def nodes(cluster: Nodes) -> Iterator[Nodes]:
    """The cluster; nodes that a test adds end with it, after nothing of Shoal runs there any more."""
    try:
        yield cluster
        wait_for(lambda: not left_running(), 20.0)
    finally:
        cluster.kill_added()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """What :func:`run` decides on this machine, where nothing happens to it."""
    return decided(run(str(tmp_path_factory.mktemp("undisturbed")), "run", engine="processes"))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket on a real S3 server, and the line to it."""
    with made_bucket(monkeypatch) as made:
        yield made
