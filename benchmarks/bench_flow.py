"""How results flow from ``tune.report`` to the disk: ``python benchmarks/bench_flow.py [--runs 5] [--only rate]``.

* ``rate``: results a second from two members that report without pause to the committed journal and the log files.
* ``report``: what a report that needs no decision costs a member that works in between, so that the driver keeps up:
  one of two, which keep both cores of a small machine busy, and one that is alone, whose every report wakes the driver.
* ``bytes``: bytes of the journal for a result.
* ``flat``: the driver's CPU time for a result and its memory, along a run of a million results.
* ``driver``: what ``import shoal`` takes, and the driver's peak memory with eight members.

Each run is a process of its own, with the settings that users get: the event files for TensorBoard, too, which are
written where it is installed. ``rate`` is measured without these as well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import Figure

MILLION = 1_000_000
_PAUSE_S = 0.0003
_TENTHS = 10


# ------------------------------------------------------------------------------------------------------ inside a run


def report_without_pause(config: dict[str, Any]) -> None:
    """Report as fast as it goes."""
    from shoal import tune

    for step in range(config["steps"]):
        tune.report({"loss": 1 / (step + 1.7), "accuracy": 1 - 1 / (step + 1.7)})


def report_five(config: dict[str, Any]) -> None:
    """Report five metrics."""
    from shoal import tune

    for step in range(config["steps"]):
        loss = 1 / (step + 1.7)
        valid = {"val_loss": loss * 1.1, "val_accuracy": 1 - loss * 1.1}
        tune.report({"loss": loss, "accuracy": 1 - loss, **valid, "norm": loss**0.5})


def report_with_pauses(config: dict[str, Any]) -> None:
    """Work a little between two reports, and say at the end what they took."""
    from shoal import tune

    took: list[float] = []
    for step in range(config["steps"]):
        end = time.perf_counter() + _PAUSE_S
        while time.perf_counter() < end:
            pass
        metrics = {"loss": 1 / (step + 1.7), "accuracy": 1 - 1 / (step + 1.7)}
        began = time.perf_counter()
        tune.report(metrics)
        took.append(time.perf_counter() - began)
    tune.report({"accuracy": 0.0, "median_s": statistics.median(took)})


def run(trainable: Callable[[dict[str, Any]], None], members: int, steps: int, storage: str) -> dict[str, Any]:
    """Run an experiment and return its folder and what the driver needed; the results are not read."""
    import shoal
    from shoal import results, tune
    from shoal.tune.schedulers import PopulationBasedTraining

    needed: dict[str, Any] = {}

    def instead(cls: type, folder: Any) -> None:
        needed.update(folder=str(folder), cpu_s=time.process_time(), peak_mb=peak_mb())

    results.ResultGrid.read = classmethod(instead)  # type: ignore[assignment]
    shoal.init(num_cpus=max(2, members), ignore_reinit_error=True)
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=10**9,
        hyperparam_mutations={"lr": tune.uniform(0, 1)},
    )
    tune.Tuner(
        trainable,
        param_space={"lr": tune.uniform(0, 1), "steps": steps},
        tune_config=tune.TuneConfig(metric="accuracy", mode="max", num_samples=members, scheduler=scheduler, seed=1),
        run_config=tune.RunConfig(storage_path=storage, verbose=0),
    ).fit()
    return needed


def peak_mb() -> float:
    """Return the most memory that this process has had, in MB."""
    status = Path("/proc/self/status").read_text()
    return float(status.partition("VmHWM:")[2].split()[0]) / 1e3


def memory_mb() -> float:
    """Return the memory of this process, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def child_rate(storage: str, results: int) -> dict[str, float]:
    """Return results a second, from the first call of ``tune.report`` to the last write of a log file."""
    found = run(report_without_pause, 2, results // 2, storage)
    folder = Path(found["folder"])
    ended = max(path.stat().st_mtime for path in folder.glob("*/result.json"))
    return {"per_s": results / (ended - first_report(folder)), "driver_us": 1e6 * found["cpu_s"] / results}


def first_report(folder: Path) -> float:
    """Return when the first report was made, seconds since the epoch."""
    from shoal.core.events import Reported
    from shoal.journal.sqlite import SQLiteJournal

    journal = SQLiteJournal.open_for_reading(folder)
    try:
        return next(record.item.timestamp for record in journal.read() if isinstance(record.item, Reported))
    finally:
        journal.close()


def child_report(storage: str, results: int, members: int = 2) -> dict[str, float]:
    """Return the median of seconds that a report took a member; the mean, where there are several members."""
    folder = Path(run(report_with_pauses, members, results // members, storage)["folder"])
    last = [json.loads(path.read_text().splitlines()[-1]) for path in folder.glob("*/result.json")]
    return {"median_s": statistics.mean(found["median_s"] for found in last)}


def child_report_alone(storage: str, results: int) -> dict[str, float]:
    """As :func:`child_report`, with one member."""
    return child_report(storage, results, 1)


def child_bytes(storage: str, results: int) -> dict[str, float]:
    """Return bytes of the journal for a result: what a longer run's has more than a short one's."""
    sizes = []
    for count in (results // 10, results):
        folder = Path(run(report_five, 2, count // 2, storage)["folder"])
        sizes.append((folder / "journal.sqlite").stat().st_size)
    return {"bytes": (sizes[1] - sizes[0]) / (results - results // 10)}


def child_flat(storage: str, results: int) -> dict[str, Any]:
    """Return the driver's CPU time for a result and its memory at each tenth of a run."""
    samples: list[tuple[float, float, float]] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.02):
            samples.append((time.time(), time.process_time(), memory_mb()))

    thread = threading.Thread(target=sample)
    thread.start()
    folder = Path(run(report_without_pause, 2, results // 2, storage)["folder"])
    stop.set()
    thread.join()
    marks = [(place, when) for place, when in commits(folder, results)]
    at = [interpolated(samples, when) for _, when in marks]
    cpu = [1e6 * (at[i + 1][0] - at[i][0]) / (marks[i + 1][0] - marks[i][0]) for i in range(_TENTHS)]
    return {"cpu_us": cpu, "memory_mb": [memory for _, memory in at]}


def commits(folder: Path, results: int) -> list[tuple[int, float]]:
    """Return the numbers of records at each tenth of the results, and when they were committed."""
    import sqlite3

    connection = sqlite3.connect(folder / "journal.sqlite")
    try:
        last = connection.execute("SELECT max(seq) FROM journal").fetchone()[0]
        first = last - results
        places = [first + results * tenth // _TENTHS for tenth in range(_TENTHS + 1)]
        return [
            (place, connection.execute("SELECT at FROM journal WHERE seq = ?", (place,)).fetchone()[0])
            for place in places
        ]
    finally:
        connection.close()


def interpolated(samples: list[tuple[float, float, float]], when: float) -> tuple[float, float]:
    """Return CPU seconds and memory at a moment."""
    after = next((place for place, entry in enumerate(samples) if entry[0] >= when), len(samples) - 1)
    (t0, cpu0, memory0), (t1, cpu1, memory1) = samples[max(after - 1, 0)], samples[after]
    part = 0.0 if t1 == t0 else min(1.0, max(0.0, (when - t0) / (t1 - t0)))
    return cpu0 + part * (cpu1 - cpu0), memory0 + part * (memory1 - memory0)


def child_driver(storage: str, results: int) -> dict[str, float]:
    """Return the driver's peak memory with eight members."""
    return {"peak_mb": run(report_without_pause, 8, results // 8, storage)["peak_mb"]}


# -------------------------------------------------------------------------------------------------------- the figures


@dataclass(frozen=True)
class Flat:
    """The driver along a run."""

    cpu_us: list[float]
    """CPU time for a result, in each tenth of the run."""
    memory_mb: list[float]
    """At the ends of the tenths, from the start."""


def rates(runs: int = 5, results: int = 60_000, *, tensorboard: bool = True) -> list[float]:
    """Return results a second of each run, from two members to the journal and the log files.

    Args:
        runs: how many.
        results: of each.
        tensorboard: whether event files for TensorBoard are among the log files.
    """
    return [_child("rate", results, tensorboard)["per_s"] for _ in range(runs)]


def report_s(runs: int = 5, results: int = 10_000, *, alone: bool = False) -> list[float]:
    """Return the median of seconds for a report that needs no decision, of each run.

    Args:
        runs: how many.
        results: of each.
        alone: whether there is one member and not two.
    """
    return [_child("report alone" if alone else "report", results)["median_s"] for _ in range(runs)]


def journal_bytes(results: int = 20_000) -> float:
    """Return bytes of the journal for a result with five metrics."""
    found: float = _child("bytes", results)["bytes"]
    return found


def flat(results: int = MILLION) -> Flat:
    """Return the driver's CPU time and memory along a long run."""
    return Flat(**_child("flat", results))


def import_s(runs: int = 11) -> float:
    """Return the median of seconds that ``import shoal`` takes, without the start of the interpreter."""
    code = "import time; t = time.perf_counter(); import shoal; print(time.perf_counter() - t)"
    took = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(runs)]
    return statistics.median(took)


def driver_mb(results: int = 40_000) -> float:
    """Return the driver's peak memory with eight members, in MB."""
    found: float = _child("driver", results)["peak_mb"]
    return found


def figures(runs: int) -> Iterator[Figure]:
    """All parts with their targets; the long run once."""
    yield Figure("results a second, 2 members", tuple(rates(runs)), 30_000, least=True)
    without = tuple(rates(runs, tensorboard=False))
    yield Figure("results a second, 2 members, without TensorBoard's files", without)
    yield Figure(
        "a report that needs no decision, in the member", tuple(1e6 * each for each in report_s(runs)), 30, "us"
    )
    alone = tuple(1e6 * each for each in report_s(runs, results=5_000, alone=True))
    yield Figure("a report that needs no decision, of a member that is alone", alone, 30, "us")
    yield Figure("journal bytes for a result with 5 metrics", (journal_bytes(),), 200)
    yield Figure("import shoal", tuple(import_s(1) for _ in range(max(5, runs))), 0.1, "s")
    yield Figure("driver's peak memory with 8 members", (driver_mb(),), 100, "MB")
    found = flat()
    said = f"{found.cpu_us[0]:.1f} and {found.cpu_us[-1]:.1f} us"
    yield Figure(
        "driver's CPU for a result, last 10 % of 1,000,000 / first 10 %",
        (found.cpu_us[-1] / found.cpu_us[0],),
        1.15,
        note=said,
    )
    grown = found.memory_mb[-1] - found.memory_mb[1]
    yield Figure("driver's memory, growth after the first 10 % of 1,000,000", (grown,), 2.0, "MB")


def _child(part: str, results: int, tensorboard: bool = True) -> dict[str, Any]:
    """Run one part in a process of its own."""
    with tempfile.TemporaryDirectory() as storage:
        command = [sys.executable, __file__, "--child", part, storage, str(results)]
        told = subprocess.check_output(command, env={**os.environ, "SHOAL_TENSORBOARD": str(int(tensorboard))})
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    return found


_CHILDREN: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "rate": child_rate,
    "report": child_report,
    "report alone": child_report_alone,
    "bytes": child_bytes,
    "flat": child_flat,
    "driver": child_driver,
}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of what is a rate (5)")
    parser.add_argument("--only", default="", help="a part: rate, report, bytes, flat or driver")
    parser.add_argument("--results", type=int, default=MILLION, help="results of the long run (1,000,000)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        part, storage, results = given.child
        print(json.dumps(_CHILDREN[part](storage, int(results))))
        return
    wanted = [given.only] if given.only else list(_CHILDREN)
    if "rate" in wanted:
        show("results a second", rates(given.runs), 1)
        show("  without TensorBoard's files", rates(given.runs, tensorboard=False), 1)
    if "report" in wanted:
        show("us for a report in the member", report_s(given.runs), 1e6)
        show("  of a member that is alone", report_s(given.runs, results=5_000, alone=True), 1e6)
    if "bytes" in wanted:
        print(f"{'journal bytes for a result':32} {journal_bytes():10,.1f}", flush=True)
    if "driver" in wanted:
        print(f"{'ms for import shoal':32} {1e3 * import_s():10,.1f}", flush=True)
        print(f"{'MB of a driver with 8 members':32} {driver_mb():10,.1f}", flush=True)
    if "flat" in wanted:
        found = flat(given.results)
        print(f"{'driver us for a result, by tenths':32} {' '.join(f'{each:.1f}' for each in found.cpu_us)}")
        print(f"{'driver MB':32} {' '.join(f'{each:.1f}' for each in found.memory_mb)}", flush=True)


def show(name: str, found: list[float], scale: float) -> None:
    """Print a row."""
    middle, least, most = statistics.median(found), min(found), max(found)
    print(f"{name:32} {scale * middle:10,.1f}   ({scale * least:,.1f} to {scale * most:,.1f})", flush=True)


if __name__ == "__main__":
    main()
