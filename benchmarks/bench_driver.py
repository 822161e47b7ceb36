"""What a driver's time goes into, part by part, for 100, 1,000 and 10,000 members on a cluster: the constants of the model.

    python benchmarks/bench_driver.py                # two minutes; needs Ray for the cost of its calls
    python benchmarks/bench_driver.py 100 1000       # other sizes

Driver, core, journal, readers and fleet are the real ones. The hosts are models on a virtual clock
(:mod:`simulated_cluster`), and what they take is not counted. There are ten members for each slot, and four slots for
each node. :mod:`capacity` says what follows from that.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulated_cluster import Size, World, first_events, make_engine

SIZES = (100, 1_000, 10_000)
RESULTS = 40_000
"""Of each run, at least four of each member."""
NEVER = 10**9
"""An interval at which nothing is ever decided."""


@dataclass
class Parts:
    """Seconds of the driver, by part."""

    size: Size
    results: int = 0
    answers: int = 0
    calls: int = 0
    """To hosts, of both kinds."""
    boundaries: int = 0
    records: int = 0
    journal_bytes: int = 0
    start_s: float = 0.0
    total_s: float = 0.0
    """Of the run, without what the models took."""
    by_part: dict[str, float] = field(default_factory=dict[str, float])

    def us(self, part: str | None = None) -> float:
        """Microseconds for a result, of a part or of all."""
        return 1e6 * (self.total_s if part is None else self.by_part.get(part, 0.0)) / self.results


def run(size: Size, *, files: bool) -> Parts:
    """Run an experiment in a simulated cluster and time the driver.

    Args:
        size: of it.
        files: whether log files are written, as they are for users.
    """
    from shoal.config import RunConfig
    from shoal.display import make_status
    from shoal.driver import Driver
    from shoal.experiment import ExperimentInfo
    from shoal.history import History
    from shoal.journal.sqlite import SQLiteJournal
    from shoal.wiring import _files

    found = Parts(size)
    world = World(size)
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        population, opened, trials = first_events(size)
        info = ExperimentInfo(
            name="simulated", trainable="simulated", run_id="00000", metric="score", mode="max",
            time_attr="training_iteration", scheduler="pbt", logs_policies=files, num_trials=size.members,
            slots=size.slots, cpus=1.0, gpus=0.0, engine="ray", seed=0, parameters=["lr", "momentum"],
        )  # fmt: skip
        began = time.perf_counter()
        engine = make_engine(world, path)
        found.start_s = time.perf_counter() - began - world.simulating_s
        journal = SQLiteJournal.create(folder)
        readers = _files(RunConfig()) if files else []
        history = History(keep_rows=False)
        driver = Driver(
            info, folder, population, journal, engine, make_status(0), readers, history=history, depot=engine.depot
        )
        before, virtual = time.perf_counter(), world.simulating_s
        with contextlib.ExitStack() as stack:
            for part, owner, name in (
                ("core", Population_type(population), "apply"),
                ("journal", SQLiteJournal, "append"),
                ("history", History, "add"),
                ("orders", type(engine), "execute"),
                ("orders", type(engine.fleet), "flush"),
                ("checkpoints", type(engine.depot), "delete"),
                ("told", type(engine.fleet), "heard"),
                *(("files", type(reader), name) for reader in readers for name in ("take", "flush")),
            ):
                stack.enter_context(_timed(found.by_part, part, owner, name))
            driver.run([opened, *trials], trials)
        found.total_s = time.perf_counter() - before - (world.simulating_s - virtual)
        engine.depot.close()
        found.journal_bytes = sum(each.stat().st_size for each in folder.glob("journal.sqlite*"))
        journal.close()
    counts = world.counts
    found.results, found.answers = counts.results, counts.answers
    found.calls, found.boundaries = counts.calls + counts.questions, counts.boundaries
    return found


def Population_type(population: Any) -> type[Any]:
    return type(population)


@contextlib.contextmanager
def _timed(into: dict[str, float], part: str, owner: type[Any], name: str) -> Iterator[None]:
    """Add up the seconds in a method."""
    original: Callable[..., Any] = getattr(owner, name)
    into.setdefault(part, 0.0)

    def timed(*args: Any, **more: Any) -> Any:
        began = time.perf_counter()
        try:
            return original(*args, **more)
        finally:
            into[part] += time.perf_counter() - began

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, original)


def size_of(members: int, interval: int) -> Size:
    """Return an experiment of at least ``RESULTS`` results."""
    steps = max(2 * interval if interval < NEVER else 4, RESULTS // members, 4)
    return Size(members, max(2, members // 10), max(1, members // 40), steps=steps, interval=interval)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("members", type=int, nargs="*", default=SIZES)
    parser.add_argument("--write", action="store_true", help="write the table into RESULTS.md as well")
    given = parser.parse_args()
    names = ["core", "journal", "history", "files", "orders", "told", "checkpoints"]
    print(
        f"{'members':>8} {'interval':>8} {'all':>7}" + "".join(f"{name:>12}" for name in names) + "   answers   calls"
    )
    for members in given.members:
        for interval in (NEVER, 5):
            found = run(size_of(members, interval), files=True)
            print(
                f"{members:8,} {'-' if interval == NEVER else interval:>8} {found.us():7.1f}"
                + "".join(f"{found.us(name):12.1f}" for name in names)
                + f"  {found.answers / found.results:8.2f} {found.calls / found.results:8.2f} start {found.start_s:.2f} bytes {found.journal_bytes / found.results:.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
