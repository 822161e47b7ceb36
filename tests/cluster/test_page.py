"""The job of docs/cluster.md for several nodes, on a real Ray; all of its nodes are on this machine."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from shoal.core.events import SlotsJoined
from shoal.journal.sqlite import SQLiteJournal
from tests.jobs import fences, slurm, wait_until


def test_a_job_on_several_nodes_is_requeued_and_goes_on_and_leaves_no_ray_behind(tmp_path: Path) -> None:
    _, several = fences("bash")
    with slurm(tmp_path, several, nodes=2) as job:
        first = job.start()
        wait_until(lambda: job.results > 20)
        first.send_signal(signal.SIGUSR1)
        printed, _ = first.communicate(timeout=60)
        assert first.returncode == 75, printed
        assert len(job.requeued) == 1
        assert job.reached != [40] * 8
        wait_until(lambda: not job.left)

        second = job.start()
        printed, _ = second.communicate(timeout=120)
        assert second.returncode == 0, printed
        assert job.reached == [40] * 8
        wait_until(lambda: not job.left)
    with contextlib.closing(SQLiteJournal.open_for_reading(tmp_path / "shoal_results" / "first")) as journal:
        joined = [record.item for record in journal.read() if isinstance(record.item, SlotsJoined)]
    assert sum(len(each.devices) for each in joined) >= 3  # one slot on each node, in both runs
