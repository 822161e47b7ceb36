from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from shoal.core.events import Damaged
from tests.cluster import test_driver as d
from tests.cluster.nodes import Nodes, connected
from tests.cluster.runs import decided, run
from tests.s3 import Bucket


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    return decided(run(str(tmp_path_factory.mktemp("undisturbed")), "run", engine="processes"))


@pytest.mark.parametrize("at", [93, 127, 150])
def test_same(nodes: Nodes, bucket: Bucket, tmp_path: Path, undisturbed: Any, at: int) -> None:
    nodes.add(num_cpus=2)
    killed = d.start(nodes, f"{bucket.url}/runs", tmp_path / "one", at, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with connected(nodes, **bucket.environment, SHOAL_CACHE=str(tmp_path / "one")):
        grid = d.go_on(f"{bucket.url}/runs/run")
        from tests.cluster.runs import journal_of

        print("DAMAGED", journal_of(grid, Damaged))
        assert decided(grid) == undisturbed
