"""The scripts of docs/cluster.md, and what stands in for SLURM where there is none: ``srun`` and ``scontrol``."""

from __future__ import annotations

import contextlib
import os
import random
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import psutil

from shoal.core.events import SlotsJoined
from shoal.errors import JournalError
from shoal.history import History
from shoal.journal.sqlite import SQLiteJournal
from shoal.reading import Experiment

__all__ = ["PAGE", "ROOT", "Job", "fences", "slurm", "wait_until"]

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "cluster.md"

_SRUN = """
import signal, subprocess, sys
import psutil

command = sys.argv[1:]
count = 1
while command[0].startswith("--"):
    option, _, value = command.pop(0).partition("=")
    count = int(value) if option == "--ntasks" else count
tasks = [psutil.Popen(command) for _ in range(count)]

def end(*_):
    # As SLURM does: gently, and a moment later not.
    started = [each for task in tasks for each in [task, *task.children(recursive=True)]]
    for task in tasks:
        task.terminate()
    for each in psutil.wait_procs(started, timeout=3)[1]:
        each.kill()
    sys.exit(1)

signal.signal(signal.SIGTERM, end)
for task in tasks:
    task.wait()
"""
_SCONTROL = """
import pathlib, sys

with pathlib.Path(__file__).with_name("requeued").open("a") as file:
    print(*sys.argv[1:], file=file)
"""


def fences(language: str) -> list[str]:
    """Return the blocks of the page that are in a language."""
    found = runpy.run_path(str(ROOT / "docs" / "make_pictures.py"))["fences"](PAGE.read_text(encoding="utf-8"))
    return [fence.code for fence in found if fence.language == language]


def wait_until(what: Callable[[], object], seconds: float = 90.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.05)


@dataclass
class Job:
    """The page's ``script.py`` in a folder, and a job that runs it.

    Args:
        folder: where SLURM would start it.
        text: the job's script.
        environment: what SLURM, and the stand-ins for it, set.
    """

    folder: Path
    text: str
    environment: dict[str, str]

    def start(self) -> subprocess.Popen[str]:
        """Start it, or start it again."""
        return subprocess.Popen(
            ["bash", "-c", self.text],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def port(self) -> int:
        """Where its Ray can be reached."""
        return 20_000 + int(self.environment["SLURM_JOB_ID"]) % 10_000

    @property
    def results(self) -> int:
        """How many there are of the experiment by now."""
        found = self._history()
        return 0 if found is None else sum(len(trial.rows) for trial in found.in_order())

    @property
    def reached(self) -> list[int]:
        """The ``training_iteration`` of each member."""
        found = self._history()
        return [] if found is None else [trial.iteration for trial in found.in_order()]

    @property
    def slots(self) -> int:
        """How many the cluster has given so far."""
        with contextlib.suppress(JournalError), contextlib.closing(SQLiteJournal.open_for_reading(self._there)) as read:
            joined = (record.item for record in read.read(unpickle=False) if isinstance(record.item, SlotsJoined))
            return sum(len(each.devices) for each in joined)
        return 0

    @property
    def _there(self) -> Path:
        return self.folder / "shoal_results" / "first"

    def _history(self) -> History | None:
        with contextlib.suppress(JournalError), contextlib.closing(Experiment.open(self._there)) as experiment:
            return experiment.history
        return None

    @property
    def requeued(self) -> list[str]:
        """What ``scontrol`` was told."""
        file = self.folder / "bin" / "requeued"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def left(self) -> list[int]:
        """Processes of its Ray."""
        return [each.pid for each in psutil.process_iter() if f":{self.port}" in _command(each)]


@contextlib.contextmanager
def slurm(folder: Path, text: str, nodes: int = 1) -> Generator[Job]:
    """Give a job of so many nodes, all of them on this machine. Nothing of it is left running at the end."""
    (folder / "bin").mkdir()
    for name, code in (("srun", _SRUN), ("scontrol", _SCONTROL)):
        (folder / "bin" / name).write_text(f"#!{sys.executable}\n{code}")
        (folder / "bin" / name).chmod(0o755)
    (script,) = fences("python")
    (folder / "script.py").write_text(script)
    # Not below the test's own folder: sockets lie in it, whose paths have to be short.
    ray = Path(tempfile.mkdtemp(prefix="ray-"))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SHOAL_", "RAY_", "SLURM_"))},
        "PATH": os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "SLURM_JOB_ID": str(1_230_000 + _free_port() - 20_000),
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_CPUS_PER_TASK": "1",
        "RAY_TMPDIR": str(ray),
    }
    job = Job(folder, text, environment)
    try:
        yield job
    finally:
        for pid in job.left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(ray, ignore_errors=True)


def _free_port() -> int:
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("", port))
            return port


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return re.sub(r"[ =]+", ":", " ".join(process.cmdline()))
    return ""
