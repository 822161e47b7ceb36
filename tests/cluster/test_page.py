"""The job of docs/cluster.md for several nodes, on a real Ray; all of its nodes are on this machine."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.jobs import fences, slurm, wait_until


def test_a_job_on_several_nodes_is_requeued_and_leaves_no_ray_behind_and_any_machine_goes_on(tmp_path: Path) -> None:
    _, several = fences("bash")
    with slurm(tmp_path, several, nodes=2) as job:
        first = job.start()
        wait_until(lambda: job.slots == 2 and job.results > 8)
        first.send_signal(signal.SIGUSR1)
        printed, _ = first.communicate(timeout=60)
        assert first.returncode == 75, printed
        assert len(job.requeued) == 1
        assert job.reached != [40] * 8
        wait_until(lambda: not job.left)

        command = [sys.executable, "script.py"]
        subprocess.run(command, cwd=tmp_path, env=job.environment, capture_output=True, timeout=60, check=True)
        assert job.reached == [40] * 8
