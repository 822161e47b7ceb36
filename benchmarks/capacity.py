"""How far one driver carries: the model, as a formula with a few constants.

    python benchmarks/capacity.py                                                       # the table
    python benchmarks/capacity.py --members 10000 --slots 1000 --nodes 250 --step 10    # one experiment

A driver's work is counted in three things, and each has its price (:class:`Costs`):

* a *result*: it is read from the host's answer, given to the core, written to the journal and to the log files;
* a *boundary*, a result at which a member waits: a decision, some commands, orders to hosts, a checkpoint that goes;
* an *answer* of a host, and the question that follows it: a call each way, a commit.

Bytes of checkpoints are none of it: they go from node to node and from nodes to storage, and never through the driver.
``tests/simulation/test_capacity.py`` holds the counts against simulated clusters of up to 10,000 members.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace

__all__ = ["COSTS", "Costs", "Expected", "Load"]

QUANTILE = 0.25
"""The share of decisions that lead to an exploit: ``quantile_fraction``."""
COLLECTED_S = 0.1
"""So long a host collects what nobody waits for."""


@dataclass(frozen=True)
class Costs:
    """Seconds of a driver."""

    result_s: float
    boundary_s: float
    """What a boundary costs more than a result."""
    answer_s: float
    """Of the driver itself: a step, a commit."""
    call_s: float
    """Of Ray, for one call: CPU time of the driver's process, of all threads."""
    mirror_s: float
    """What a boundary costs more where the experiment is kept in storage."""
    growth: float
    """By how much a result and a boundary cost more for each tenfold of members, as a share, above 100 members."""

    def grown(self, members: int) -> float:
        """Return how many times as much a result and a boundary cost with so many members."""
        return 1 + self.growth * max(0.0, math.log10(max(members, 1) / 100))


COSTS = Costs(result_s=100e-6, boundary_s=500e-6, answer_s=300e-6, call_s=600e-6, mirror_s=200e-6, growth=0.2)
"""What ``benchmarks/bench_driver.py`` finds, rounded up."""


@dataclass(frozen=True)
class Load:
    """An experiment and its cluster."""

    members: int
    slots: int
    nodes: int
    step_s: float
    """Seconds from one result of a member to the next."""
    interval: int
    """Results from one boundary to the next."""
    checkpoint_bytes: float = 0.0
    stored: bool = True
    """Whether it is kept in storage."""
    trip_s: float = 0.002
    """Seconds of a question to a host and its answer, on the way."""

    @property
    def results_per_s(self) -> float:
        """Of all members together."""
        return self.slots / self.step_s

    @property
    def boundaries_per_s(self) -> float:
        """Decisions, and as many checkpoints."""
        return self.results_per_s / self.interval

    @property
    def checkpoint_bytes_per_s(self) -> float:
        """Written by members, and copied once from node to node where nodes share no folder."""
        return self.boundaries_per_s * self.checkpoint_bytes

    @property
    def answers_per_s(self) -> float:
        """Of all hosts together.

        Somebody waits for the result before a boundary, for that at the boundary, and for a launch. Other results are
        collected, and go along with these, or by themselves. What comes while an answer is on its way goes with the
        next.
        """
        waited_for = min(self.interval, 2)
        urgent = self.boundaries_per_s * (waited_for + QUANTILE) / self.nodes
        quiet = self.boundaries_per_s * (self.interval - waited_for) / self.nodes
        asked = urgent + quiet / (1 + COLLECTED_S * quiet) * math.exp(-COLLECTED_S * urgent)
        return self.nodes * asked / (1 + asked * self.trip_s)

    def busy(self, costs: Costs) -> float:
        """Return the share of one CPU that the driver needs."""
        boundary_s = costs.boundary_s + (costs.mirror_s if self.stored else 0.0)
        grown = costs.grown(self.members)
        return (
            self.results_per_s * costs.result_s * grown
            + self.boundaries_per_s * boundary_s * grown
            + self.answers_per_s * (costs.answer_s + costs.call_s)
        )

    def fastest(self, costs: Costs, share: float = 0.5) -> Load:
        """Return the experiment with the shortest steps at which the driver needs no more than a share of a CPU."""
        low, high = 1e-4, 1e6
        for _ in range(100):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if replace(self, step_s=middle).busy(costs) <= share else (middle, high)
        return replace(self, step_s=high)


@dataclass(frozen=True)
class Expected:
    """What a whole experiment comes to, from its first event to its last, where nothing fails.

    Where there are more than two boundaries, members that copy one that is less far train some steps again: a few
    percent more of all.
    """

    members: int
    slots: int
    nodes: int
    steps: int
    """Results of each member; a multiple of the interval."""
    interval: int

    @property
    def results(self) -> int:
        """Of all members."""
        return self.members * self.steps

    @property
    def boundaries(self) -> int:
        """Each with a checkpoint; the last of each member among them."""
        return self.results // self.interval

    @property
    def decisions(self) -> int:
        """At all boundaries but the last."""
        return self.boundaries - self.members

    @property
    def launches(self) -> float:
        """The first of each member, and one for each exploit."""
        return self.members + QUANTILE * self.decisions

    @property
    def handed_on(self) -> int:
        """Slots: each time that a member begins to train, but for the first ones."""
        return self.boundaries - self.slots

    @property
    def events(self) -> float:
        """Results, and of each launch that it has started; at the beginning members and nodes."""
        return self.results + self.launches + self.members + self.nodes + 1

    @property
    def commands(self) -> float:
        """A slot is promised and given, a member parked or stopped, a checkpoint deleted; an exploit and its launch."""
        deleted = self.boundaries - self.members
        return 2 * self.handed_on + self.boundaries + deleted + self.launches + QUANTILE * self.decisions

    @property
    def orders(self) -> float:
        """To hosts: most commands, a member's first, and deletions to each host that has a copy: two, without a shared
        folder, and whom a donor's was given."""
        deleted = (2 + QUANTILE) * (self.boundaries - self.members)
        at_the_start = 4 * self.nodes
        return 2 * self.handed_on + self.launches + 2 * self.members + deleted + at_the_start

    @property
    def answers_at_most(self) -> float:
        """Answers of hosts, if nothing goes together."""
        return self.results + self.launches


def table(costs: Costs, *, share: float = 0.5) -> str:
    """Return what one driver carries, as lines of text."""
    lines = [
        f"{'members':>8} {'slots':>6} {'nodes':>6} {'interval':>9} {'results/s':>10} {'decisions/s':>12} "
        f"{'shortest step':>14} {'100 MB checkpoints':>19}"
    ]
    for members, slots, nodes in ((100, 10, 3), (1_000, 100, 25), (10_000, 1_000, 250), (10_000, 1_000, 125)):
        for interval in (5, 20):
            most = Load(members, slots, nodes, 1.0, interval, 100e6).fastest(costs, share)
            lines.append(
                f"{members:8,} {slots:6,} {nodes:6,} {interval:9,} {most.results_per_s:10,.0f} "
                f"{most.boundaries_per_s:12,.0f} {_seconds(most.step_s):>14} "
                f"{most.checkpoint_bytes_per_s / 1e9:14,.1f} GB/s"
            )
    return "\n".join(lines)


def _seconds(value: float) -> str:
    return f"{1e3 * value:.0f} ms" if value < 1 else f"{value:.1f} s"


def main() -> None:
    """Print the table, or what one experiment takes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--members", type=int)
    parser.add_argument("--slots", type=int, default=100)
    parser.add_argument("--nodes", type=int, default=25)
    parser.add_argument("--step", type=float, default=1.0, help="seconds from one result of a member to the next (1.0)")
    parser.add_argument("--interval", type=int, default=5, help="results from one boundary to the next (5)")
    parser.add_argument("--bytes", type=float, default=100e6, help="of a checkpoint (1e8)")
    given = parser.parse_args()
    if given.members is None:
        print(f"With half of a CPU for the driver:\n\n{table(COSTS)}")
        return
    load = Load(given.members, given.slots, given.nodes, given.step, given.interval, given.bytes)
    print(f"results a second          {load.results_per_s:12,.1f}")
    print(f"decisions a second        {load.boundaries_per_s:12,.1f}")
    print(f"bytes of checkpoints      {load.checkpoint_bytes_per_s / 1e6:12,.1f} MB a second")
    print(f"answers of hosts a second {load.answers_per_s:12,.1f}")
    print(f"the driver needs          {100 * load.busy(COSTS):12,.1f} % of a CPU")


if __name__ == "__main__":
    main()
