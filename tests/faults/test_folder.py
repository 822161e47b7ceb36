"""The experiment's folder is deleted or moved while the run goes on; or somebody else is already at work there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.helpers import climb

from shoal import tune
from shoal.errors import ExperimentExists

ENDLESS = """
    import os, pathlib, sys
    from shoal import tune

    def train(config):
        while True:
            tune.report({"score": 1.0})

    def told(trial_id, result):
        if result["training_iteration"] == 4:  # so three are committed
            print("begun", flush=True)
        return False

    tune.Tuner(train, run_config=tune.RunConfig(name="run", storage_path=os.getcwd(), verbose=0, stop=told)).fit()
"""


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def replaced(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    shutil.copytree(folder.with_name("elsewhere"), folder)


@pytest.mark.parametrize("how", [shutil.rmtree, moved, replaced])
def test_a_run_whose_folder_is_gone_ends_and_says_so(how: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(ENDLESS))
    with subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        try:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "begun\n"
            family = psutil.Process(driver.pid).children(recursive=True)
            how(tmp_path / "run")
            said, _ = driver.communicate(timeout=60)
        finally:
            if driver.poll() is None:
                driver.kill()
    assert driver.returncode == 1
    last = said.strip().splitlines()[-1]
    assert re.search(rf"JournalError: .*{tmp_path / 'run'} was deleted, moved or replaced while", last)
    assert psutil.wait_procs(family, timeout=30)[1] == []
    if how is not shutil.rmtree:
        # What was committed before is there.
        assert tune.ResultGrid.read(tmp_path / "elsewhere")[0].metrics["training_iteration"] >= 3


def test_the_same_script_started_again_while_the_first_runs_is_told_who_runs_it(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(ENDLESS))
    with subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as driver:
        try:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "begun\n"
            again = tune.Tuner(climb, run_config=tune.RunConfig(name="run", storage_path=str(tmp_path)))
            with pytest.raises(
                ExperimentExists, match=f"is being run by process {driver.pid} on {os.uname().nodename}"
            ):
                again.fit()
            assert driver.poll() is None
        finally:
            driver.kill()
