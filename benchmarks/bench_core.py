"""How many decisions a second the pure core takes, for populations of 100, 1,000 and 10,000 members.

    python benchmarks/bench_core.py            # a minute
    python benchmarks/bench_core.py 100 300    # other sizes

An experiment is simulated first, without its checks; then its events are given once more to a fresh population, and
only that is timed. Every report waits at a boundary each ``INTERVAL`` steps, saves a checkpoint there, and only one is
kept.
"""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import dataclass
from typing import Any

from shoal import space
from shoal.core.commands import Exploit
from shoal.core.events import Config, Event, Reported
from shoal.schedulers import PopulationBasedTraining
from shoal.testing import Simulation

INTERVAL = 2
STEPS = 20
SLOTS = 32


@dataclass(frozen=True)
class Row:
    """What one population needed."""

    members: int
    synch: bool
    events: int
    decisions: int
    exploits: int
    total_s: float
    """All events."""
    decisions_s: float
    """Only reports at a boundary: ranking, exploits, slots, checkpoints."""
    slowest_s: float
    """The slowest single event."""


def train(config: Config, state: float | None) -> tuple[dict[str, Any], float]:
    """The score grows by the learning rate."""
    level = (state or 0.0) + config["lr"]
    return {"score": level}, level


def measure(members: int, synch: bool) -> Row:
    """Simulate an experiment and time the core on its events."""
    simulation = Simulation(
        train,
        [{"lr": (index * 7919 % members) / members} for index in range(members)],
        PopulationBasedTraining(
            time_attr="training_iteration",
            perturbation_interval=INTERVAL,
            hyperparam_mutations={"lr": space.uniform(0.0, 1.0)},
            synch=synch,
        ),
        slots=SLOTS,
        stop={"training_iteration": STEPS},
        num_to_keep=1,
        checkpoint_every=INTERVAL,
        duration=lambda index, iteration, config: 1.0 + (index * 31 + iteration * 17) % 8 / 8,
        validate=False,
        max_events=100 * members * STEPS,
    )
    result = simulation.run()
    population = simulation.population()
    gc.collect()
    gc.disable()
    total = decided = slowest = 0.0
    for event in result.events:
        started = time.perf_counter()
        population.apply(event)
        spent = time.perf_counter() - started
        total += spent
        slowest = max(slowest, spent)
        if at_boundary(event):
            decided += spent
    gc.enable()
    return Row(
        members,
        synch,
        events=len(result.events),
        decisions=sum(map(at_boundary, result.events)),
        exploits=len(result.of_kind(Exploit)),
        total_s=total,
        decisions_s=decided,
        slowest_s=slowest,
    )


def at_boundary(event: Event) -> bool:
    """Return whether the event asks for a decision of the scheduler."""
    return isinstance(event, Reported) and event.waiting and event.stop is None


def main(sizes: list[int]) -> None:
    """Measure and print a table."""
    print(f"{SLOTS} slots, {STEPS} steps, a decision every {INTERVAL}, one checkpoint kept")
    print("members   mode    events decisions exploits  us/event  us/decision  decisions/s  slowest ms")
    for members in sizes:
        for synch in (False, True):
            row = measure(members, synch)
            print(
                f"{row.members:7,}  {'sync ' if row.synch else 'async'}  {row.events:8,}  {row.decisions:8,} "
                f"{row.exploits:8,}"
                f"  {1e6 * row.total_s / row.events:8.1f}  {1e6 * row.decisions_s / row.decisions:11.1f}"
                f"  {row.decisions / row.decisions_s:11,.0f}  {1e3 * row.slowest_s:10.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main([int(size.replace(",", "")) for size in sys.argv[1:]] or [100, 1_000, 10_000])
