"""How long it takes to read an experiment back: its journal from the disk, the core from the journal, the history.

    python benchmarks/bench_restore.py            # a minute
    python benchmarks/bench_restore.py 100 300    # other sizes

An experiment is simulated, its events and decisions are written to a real journal, and this is read back as
``Tuner.restore`` and ``ResultGrid.read`` do.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from bench_core import INTERVAL, STEPS, train

from shoal import space
from shoal.core.recall import recall
from shoal.history import History
from shoal.journal.sqlite import SQLiteJournal
from shoal.schedulers import PopulationBasedTraining
from shoal.testing import Simulation


def measure(members: int, folder: Path) -> tuple[int, int, float, float, float]:
    """Return (results, records, seconds to read, seconds to recall, seconds for the history)."""
    simulation = Simulation(
        train,
        [{"lr": (index * 7919 % members) / members} for index in range(members)],
        PopulationBasedTraining(
            time_attr="training_iteration",
            perturbation_interval=INTERVAL,
            hyperparam_mutations={"lr": space.uniform(0.0, 1.0)},
        ),
        slots=32,
        stop={"training_iteration": STEPS},
        num_to_keep=1,
        checkpoint_every=INTERVAL,
        validate=False,
        max_events=100 * members * STEPS,
    )
    result = simulation.run()
    journal = SQLiteJournal.create(folder)
    population = simulation.population()
    for event in result.events:
        journal.append([event, *population.apply(event)], 0.0)
    journal.close()

    started = time.perf_counter()
    journal = SQLiteJournal.open_for_writing(folder)
    records = list(journal.read())
    read = time.perf_counter()
    recall(simulation.population(), [record.item for record in records])
    recalled = time.perf_counter()
    history = History.of(records)
    told = time.perf_counter()
    journal.close()
    return history.results, len(records), read - started, recalled - read, told - recalled


def main(sizes: list[int]) -> None:
    """Measure and print a table."""
    print("members   results   records   read s  recall s  history s   us a record")
    for members in sizes:
        with tempfile.TemporaryDirectory() as folder:
            results, records, read, recalled, told = measure(members, Path(folder))
        each = 1e6 * (read + recalled + told) / records
        print(
            f"{members:7,}  {results:8,}  {records:8,}  {read:7.2f}  {recalled:8.2f}  {told:9.2f}  {each:12.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main([int(size.replace(",", "")) for size in sys.argv[1:]] or [100, 1_000, 5_000])
