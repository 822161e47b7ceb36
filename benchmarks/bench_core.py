"""How many decisions a second the pure core takes, for populations of 100, 1,000 and 10,000 members.

    python benchmarks/bench_core.py            # a minute
    python benchmarks/bench_core.py 100 300    # other sizes
    python benchmarks/bench_core.py cluster    # 10,000 members on 1,000 slots of 250 nodes: minutes

An experiment is simulated first, without its checks; then its events are given once more to a fresh population, and
only that is timed. Every report waits at a boundary each ``INTERVAL`` steps, saves a checkpoint there, and only one is
kept.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from figures import Figure

from shoal import space
from shoal.core.commands import Exploit
from shoal.core.events import Config, Event, Reported
from shoal.schedulers import PopulationBasedTraining
from shoal.testing import Simulation

INTERVAL = 2
STEPS = 20
SLOTS = 32
CLUSTER = tuple(f"node-{slot // 4}" for slot in range(1_000))
"""The devices of 1,000 slots on 250 nodes."""


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


def simulated(
    members: int, synch: bool, steps: int = STEPS, devices: tuple[str, ...] = ("",) * SLOTS
) -> tuple[Simulation, list[Event]]:
    """Simulate an experiment; return it, and its events."""
    simulation = Simulation(
        train,
        [{"lr": (index * 7919 % members) / members} for index in range(members)],
        PopulationBasedTraining(
            time_attr="training_iteration",
            perturbation_interval=INTERVAL,
            hyperparam_mutations={"lr": space.uniform(0.0, 1.0)},
            synch=synch,
        ),
        devices=devices,
        stop={"training_iteration": steps},
        num_to_keep=1,
        checkpoint_every=INTERVAL,
        duration=lambda index, iteration, config: 1.0 + (index * 31 + iteration * 17) % 8 / 8,
        hands_on=lambda index, iteration: 0.0,
        validate=False,
        max_events=100 * members * steps,
    )
    return simulation, list(simulation.run().events)


def measure(members: int, synch: bool, steps: int = STEPS, devices: tuple[str, ...] = ("",) * SLOTS) -> Row:
    """Simulate an experiment and time the core on its events."""
    simulation, events = simulated(members, synch, steps, devices)
    population = simulation.population()
    gc.collect()
    gc.disable()
    total = decided = slowest = 0.0
    exploits = 0
    for event in events:
        started = time.perf_counter()
        commands = population.apply(event)
        spent = time.perf_counter() - started
        total += spent
        slowest = max(slowest, spent)
        exploits += sum(isinstance(command, Exploit) for command in commands)
        if at_boundary(event):
            decided += spent
    gc.enable()
    return Row(
        members,
        synch,
        events=len(events),
        decisions=sum(map(at_boundary, events)),
        exploits=exploits,
        total_s=total,
        decisions_s=decided,
        slowest_s=slowest,
    )


def figures(runs: int) -> Iterator[Figure]:
    """Events a second with 10,000 members, and what an event costs there in times of what it costs with 100.

    A small population is simulated several times over, so that both are timed for about as long.
    """
    for synch in (False, True):
        mode = "synchronous" if synch else "asynchronous"
        costs: dict[int, list[float]] = {100: [], 10_000: []}
        simulations = {members: simulated(members, synch, steps=8) for members in costs}
        for _ in range(runs):
            for members, (simulation, events) in simulations.items():
                costs[members].append(_cost_s(simulation, events, times=10_000 // members // 2 or 1))
        large = tuple(1 / cost for cost in costs[10_000])
        yield Figure(f"core, events a second, 10,000 members, {mode}", large, 50_000, least=True)
        ratios = tuple(more / less for more, less in zip(costs[10_000], costs[100], strict=True))
        yield Figure(f"core, cost of an event, 10,000 members / 100, {mode}", ratios, 1.3)


def _cost_s(simulation: Simulation, events: list[Event], times: int) -> float:
    """Give the events to as many fresh populations; return the mean of seconds for one."""
    gc.collect()
    gc.disable()
    spent = 0.0
    for _ in range(times):
        apply = simulation.population().apply
        began = time.perf_counter()
        for event in events:
            apply(event)
        spent += time.perf_counter() - began
    gc.enable()
    return spent / (times * len(events))


def at_boundary(event: Event) -> bool:
    """Return whether the event asks for a decision of the scheduler."""
    return isinstance(event, Reported) and event.waiting and event.stop is None


def main(sizes: list[int]) -> None:
    """Measure and print a table."""
    print(f"{SLOTS} slots, {STEPS} steps, a decision every {INTERVAL}, one checkpoint kept")
    print(_TITLES)
    for members in sizes:
        for synch in (False, True):
            _show(measure(members, synch))


def main_cluster() -> None:
    """Measure as many slots as a large cluster has, and print a table."""
    print(f"{len(CLUSTER):,} slots on {len(set(CLUSTER))} nodes, a decision every {INTERVAL}, one checkpoint kept")
    print(_TITLES)
    for members, steps in ((300, 40), (1_000, 20), (10_000, 6)):
        for synch in (False, True):
            _show(measure(members, synch, steps, CLUSTER))


_TITLES = "members   mode    events decisions exploits  us/event  us/decision  decisions/s  slowest ms"


def _show(row: Row) -> None:
    print(
        f"{row.members:7,}  {'sync ' if row.synch else 'async'}  {row.events:8,}  {row.decisions:8,} "
        f"{row.exploits:8,}"
        f"  {1e6 * row.total_s / row.events:8.1f}  {1e6 * row.decisions_s / row.decisions:11.1f}"
        f"  {row.decisions / row.decisions_s:11,.0f}  {1e3 * row.slowest_s:10.2f}",
        flush=True,
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["cluster"]:
        main_cluster()
    else:
        main([int(size.replace(",", "")) for size in sys.argv[1:]] or [100, 1_000, 10_000])
