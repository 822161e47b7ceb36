"""How many results a second the journal and the log files take: ``python benchmarks/bench_sinks.py [--results 60000]``.

Each batch is treated as the driver treats it once it is decided: append to the SQLite journal and commit, take into the
history, write ``result.json`` and ``progress.csv`` of each trial, and flush. One process, nothing else.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from shoal.core.commands import Launch
from shoal.core.events import Reported, Started, TrialAdded
from shoal.experiment import ExperimentInfo
from shoal.history import History
from shoal.journal.codec import Item, Record
from shoal.journal.memory import MemoryJournal
from shoal.journal.sqlite import SQLiteJournal
from shoal.results import ResultGrid
from shoal.sinks import LogFiles

CASES = ((8, 1), (8, 100), (300, 1), (300, 300), (300, 1000))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--results", type=int, default=60_000, help="results of each case (60,000)")
    count: int = parser.parse_args().results
    print("results a second\n")
    print(f"{'trials':>6} {'batch':>6} {'journal':>12} {'log files':>12} {'both':>12} {'read back':>12}")
    for trials, batch in CASES:
        size = count if batch > 1 else count // 5
        journal_only, _ = measure(trials, batch, size, journaled=True, logged=False)
        logs_only, _ = measure(trials, batch, size, journaled=False, logged=True)
        both, back = measure(trials, batch, size, journaled=True, logged=True)
        print(f"{trials:6} {batch:6} {journal_only:12,.0f} {logs_only:12,.0f} {both:12,.0f} {back:12,.0f}", flush=True)


class Bench:
    """An experiment whose records go where the case says."""

    def __init__(self, folder: Path, info: ExperimentInfo, *, journaled: bool, logged: bool) -> None:
        self.journal = SQLiteJournal.create(folder) if journaled else None
        self.logs = LogFiles() if logged else None
        self.history = History(keep_rows=False)
        self._aside = MemoryJournal()
        if self.journal is not None:
            self.journal.set_meta(**info.to_meta())
        if self.logs is not None:
            self.logs.start(info, folder, self.history)

    def ready(self, items: Sequence[Item]) -> Sequence[Item] | list[Record]:
        """Return what is to be told: items that are still to be journaled, or else their records."""
        return items if self.journal is not None else self._aside.append(items, 0.0)

    def tell(self, batch: Sequence[Item] | list[Record]) -> None:
        """Handle a batch."""
        records = batch if self.journal is None else self.journal.append(batch, 0.0)
        for record in records:
            self.history.add(record)
            if self.logs is not None:
                self.logs.take(record)
        if self.logs is not None:
            self.logs.flush()

    def close(self) -> None:
        """Write out everything."""
        if self.logs is not None:
            self.logs.close()
        if self.journal is not None:
            self.journal.close()


def measure(trials: int, batch: int, count: int, *, journaled: bool, logged: bool) -> tuple[float, float]:
    """Return results a second for writing, and for reading them back (0 where there is no journal)."""
    folder = Path(tempfile.mkdtemp())
    try:
        bench = Bench(folder, make_info(trials), journaled=journaled, logged=logged)
        bench.tell(bench.ready(first_steps(trials)))
        results = [report(trials, place) for place in range(count)]
        batches = [bench.ready(results[start : start + batch]) for start in range(0, count, batch)]
        began = time.perf_counter()
        for items in batches:
            bench.tell(items)
        bench.close()
        written = count / (time.perf_counter() - began)
        if not journaled:
            return written, 0.0
        began = time.perf_counter()
        ResultGrid.read(folder)
        return written, count / (time.perf_counter() - began)
    finally:
        shutil.rmtree(folder)


def first_steps(trials: int) -> list[Item]:
    """Return what adds the trials and starts them."""
    items: list[Item] = []
    for index in range(trials):
        name = f"40bd6_{index:05d}"
        config = {"lr": 0.0123456 + index, "momentum": 0.9, "checkpoint_interval": 5}
        items += [
            TrialAdded(name, index, f"train_{name}", f"{index}_lr={index}", f"train_{name}_{index}", config),
            Launch(name, 1, 0, config, None, 0, 0.0, 0, None, True),
            Started(name, 1, 1000 + index, "host"),
        ]
    return items


def report(trials: int, place: int) -> Reported:
    """Return a result like the guide's; the trials report in turn."""
    iteration = place // trials + 1
    return Reported(
        trial_id=f"40bd6_{place % trials:05d}",
        launch=1,
        iteration=iteration,
        metrics={"mean_accuracy": 1 - 1 / (place + 1.7), "lr": 0.0123456},
        waiting=False,
        timestamp=1_795_435_200.123 + place / 1000,
        time_this_iter_s=0.123456789,
        time_total_s=iteration * 123_456_789 / 1e9,
        time_since_restore=iteration * 123_456_789 / 1e9,
        iterations_since_restore=iteration,
    )


def make_info(trials: int) -> ExperimentInfo:
    """Return the facts about the experiment."""
    return ExperimentInfo(
        name="bench",
        trainable="train",
        run_id="40bd6",
        metric="mean_accuracy",
        mode="max",
        time_attr="training_iteration",
        scheduler="FIFO",
        logs_policies=False,
        num_trials=trials,
        slots=2,
        cpus=1.0,
        gpus=0.0,
        engine="processes",
        seed=0,
    )


if __name__ == "__main__":
    main()
