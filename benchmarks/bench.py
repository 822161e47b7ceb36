"""All that Shoal promises about speed, in one table: ``make bench``.

    python benchmarks/bench.py                       # ten minutes
    python benchmarks/bench.py --runs 1              # a glance
    python benchmarks/bench.py --only core           # core, flow, latency, mnist, efficiency or cluster
    python benchmarks/bench.py --write               # into RESULTS.md too

The exit code is 0 if every median reaches its target. Each part runs with the settings that users get, and can be run
alone: see the other files here.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator

import bench_cluster
import bench_core
import bench_efficiency
import bench_flow
import bench_latency
import bench_mnist
import results
from figures import HEADER, Figure, print_table

PARTS: dict[str, Callable[[int], Iterator[Figure]]] = {
    "core": bench_core.figures,
    "flow": bench_flow.figures,
    "latency": bench_latency.figures,
    "mnist": bench_mnist.figures,
    "efficiency": bench_efficiency.figures,
    "cluster": bench_cluster.figures_in_its_environment,
}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of each (5)")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--write", action="store_true", help="write the table into RESULTS.md as well")
    given = parser.parse_args()
    began = time.monotonic()
    print(f"{results.machine()}, load {os.getloadavg()[0]:.1f}")
    parts = PARTS.values() if given.only is None else [PARTS[given.only]]
    printed = print_table(figure for part in parts for figure in part(given.runs))
    missed = [figure for figure in printed if not figure.holds]
    judged = [figure for figure in printed if figure.target is not None]
    verdict = f"{len(judged) - len(missed)} of {len(judged)} targets reached, in {time.monotonic() - began:.0f} s"
    print(verdict)
    if given.write:
        results.write_section("make bench", "\n".join([HEADER, *(figure.row() for figure in printed), "", verdict]))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
