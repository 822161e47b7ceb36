"""What the benchmarks train, and how they count: the same for Shoal and for what it is compared with.

Efficiency = seconds spent in the members' own functions / (slots x wall time of ``fit()``, start-up included). A member
counts its own seconds: all that runs between its calls into the library, its saving and loading included.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEGABYTE = 1 << 20
_blocks: dict[int, bytes] = {}


@dataclass(frozen=True)
class Case:
    """One experiment of the table."""

    name: str
    target: float
    """The least efficiency that is wanted."""
    members: int = 8
    steps: int = 300
    step_s: float = 0.02
    interval: int = 5
    megabytes: int = 1
    residents: int | None = None
    synch: bool = False
    slots: int = 2

    @property
    def config(self) -> dict[str, Any]:
        """What the function is given beside what mutates."""
        return {"step_s": self.step_s, "interval": self.interval, "megabytes": self.megabytes}


CASES = (
    Case("interval 5, 1 MB", 0.98),
    Case("interval 1, 1 MB", 0.95, steps=200, interval=1),
    Case("100 ms steps, 10 MB", 0.97, steps=60, step_s=0.1, megabytes=10),
    Case("100 ms steps, 100 MB", 0.97, steps=60, step_s=0.1, megabytes=100),
    Case("32 members, 8 residents", 0.95, members=32, steps=75, residents=8),
    Case("2 members on 2 slots", 0.97, members=2, steps=600),
    Case("synch", 0.94, synch=True),
)


@dataclass(frozen=True)
class Ran:
    """What one ``fit()`` took."""

    case: Case
    own_s: float
    """In the members' own functions."""
    wall_s: float
    """From the call of ``fit()`` until it returned."""
    first_s: float
    """From the call of ``fit()`` until the first step began."""
    results: int
    cpu_s: float
    """CPU time of the driver's process meanwhile, of all its threads."""

    @property
    def efficiency(self) -> float:
        """Of the whole of ``fit()``."""
        return self.own_s / (self.case.slots * self.wall_s)

    @property
    def efficiency_training(self) -> float:
        """From the first step on."""
        return self.own_s / (self.case.slots * (self.wall_s - self.first_s))

    @property
    def cpu_ms(self) -> float:
        """CPU time of the driver for a result, its start and end included, in milliseconds."""
        return 1e3 * self.cpu_s / self.results


def block(megabytes: int) -> bytes:
    """Return bytes to save, made once in a process."""
    if megabytes not in _blocks:
        _blocks[megabytes] = bytes(megabytes * MEGABYTE)
    return _blocks[megabytes]


def save(folder: str | Path, step: int, megabytes: int) -> None:
    """Write a member's checkpoint."""
    Path(folder, "step").write_text(str(step))
    Path(folder, "weights").write_bytes(block(megabytes))


def load(folder: str | Path) -> int:
    """Read a member's checkpoint, all of it, and return its step."""
    Path(folder, "weights").read_bytes()
    return int(Path(folder, "step").read_text())


def train_with(tune: Any, config: dict[str, Any]) -> None:
    """Train one member as the guide does: sleep a step, report, at each boundary with a checkpoint.

    Args:
        tune: the library's module: ``report``, ``get_checkpoint`` and ``Checkpoint``.
        config: the member's.
    """
    left = time.perf_counter()
    step = 0
    if (checkpoint := tune.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            step = load(folder)
    while True:
        step += 1
        time.sleep(config["step_s"])
        metrics = {"score": config["lr"] * step}
        if step % config["interval"]:
            left = _report(tune, metrics, left)
            continue
        with tempfile.TemporaryDirectory() as folder:
            save(folder, step, config["megabytes"])
            left = _report(tune, metrics, left, checkpoint=tune.Checkpoint.from_directory(folder))


def _report(tune: Any, metrics: dict[str, Any], left: float, **more: Any) -> float:
    """Report, with the seconds since the member left the library last; return when it leaves it this time."""
    metrics["own_s"] = time.perf_counter() - left
    tune.report(metrics, **more)
    return time.perf_counter()


def report_with(report: Callable[[dict[str, Any]], None], reports: int, folder: str | Path) -> None:
    """Do nothing but report.

    Args:
        report: the library's.
        reports: how often.
        folder: where to note, in seconds of the epoch, when the first report was done; see :func:`results_a_second`.
    """
    for step in range(1, reports + 1):
        report({"score": step})
        if step == 1:
            Path(folder, str(os.getpid())).write_text(repr(time.time()))


def results_a_second(folder: str | Path, results: int) -> float:
    """Return the rate from the first report of any member until now, where all is known to be written.

    Args:
        folder: what :func:`report_with` was given.
        results: of all members.
    """
    began = min(float(path.read_text()) for path in Path(folder).iterdir())
    return (results - 1) / (time.time() - began)
