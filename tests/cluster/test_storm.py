"""A short storm on a cluster, and what finds halves in a bucket."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from shoal.journal import JOURNAL_NAME
from shoal.location import location_of
from shoal.viewing import View
from tests.cluster.nodes import Nodes
from tests.faults.storm_cluster import STEP_S, WEIGHTS, ClusterStorm, Siege
from tests.faults.storm_judge import lines_of
from tests.faults.storm_script import EXPERIMENTS, PAUSE, tuner
from tests.s3 import Bucket


@pytest.mark.timeout(300)
def test_a_short_storm_on_a_cluster_loses_nothing(
    nodes: Nodes, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PAUSE, str(STEP_S))
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "nodes"))
    said: list[str] = []
    storm = ClusterStorm(3, nodes, bucket, tmp_path, said.append)
    storm.long_away = True  # in `make faults` it was, for half a minute
    storm.strike("synchronous", 3)
    assert storm.outcome.lost == 0, said
    assert (storm.outcome.compared, storm.outcome.equal) == (1, 1)
    assert {strike.what for strike in storm.outcome.strikes} <= set(WEIGHTS)
    assert len(storm.outcome.strikes) == 3


def test_the_storm_finds_what_a_bucket_has_by_half_and_what_it_lacks(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    siege = Siege.__new__(Siege)
    siege.storm = ClusterStorm(1, Nodes.__new__(Nodes), bucket, tmp_path, lambda line: None)
    siege.name, siege.base, siege.log = "FIFO", tmp_path, tmp_path / "log"
    siege.url = f"{bucket.url}/runs/run"
    tuner(EXPERIMENTS["FIFO"], siege.url, engine="inline").fit()
    with closing(View.open(location_of(siege.url))) as view:
        lines = lines_of(view.folder / JOURNAL_NAME)
    found = siege._look_at_files(lines, whole=True)
    assert len(found) == 4
    assert siege.storm.outcome.problems == []
    top = siege.url.removeprefix("s3://")
    first, second, *_ = [key for key in bucket.files.find(top) if key.endswith("/weights")]
    bucket.files.rm_file(first)
    bucket.files.rm_file(f"{Path(second).parent}.json")
    siege._look_at_files(lines, whole=True)
    problems = [text.partition(": ")[2] for text in siege.storm.outcome.problems]
    assert problems[0].startswith("half a checkpoint is listed")
    assert problems[1].startswith("the bucket lacks checkpoints of its journal")
