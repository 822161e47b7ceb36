"""What it costs to share 100 MB with members: shoal.put and shoal.get, beside a pickle for each of them.

    python benchmarks/bench_objects.py              # seconds; 100 MB, 4 members
    python benchmarks/bench_objects.py 500 8        # MB, members

Each member is a process that is forked, gets the object, adds its numbers up and says how much memory it took that is
its own. The other way is the one without an object store: the pickle travels with the config, and each member unpickles
a copy.
"""

from __future__ import annotations

import functools
import os
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shoal.objects import free_all, get, put


@dataclass(frozen=True)
class Member:
    """What one member needed."""

    get_s: float
    """Until it had the object."""
    again_s: float
    """The second time."""
    own_mb: float
    """Memory that it took, once it has read everything, and that is not the file's."""


def own_mb() -> float:
    """Return the memory of this process that belongs to no file, in MB (on Linux)."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return float("nan")
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous")) / 1e3


def measure(load: Callable[[], Any], add_up: Callable[[Any], float], members: int) -> list[Member]:
    """Have so many processes load the object at the same time, each keeping it until all have answered."""
    pipes: list[tuple[int, int]] = []
    for _ in range(members):
        answer, hold = os.pipe(), os.pipe()
        if os.fork() == 0:
            os.write(answer[1], pickle.dumps(as_member(load, add_up)))
            os.close(hold[1])
            for _, other in pipes:
                os.close(other)
            os.read(hold[0], 1)
            os._exit(0)
        os.close(answer[1])
        os.close(hold[0])
        pipes.append((answer[0], hold[1]))
    found = [pickle.loads(os.read(answer, 1 << 16)) for answer, _ in pipes]
    for ends in pipes:
        for end in ends:
            os.close(end)
    for _ in range(members):
        os.wait()
    return found


def as_member(load: Callable[[], Any], add_up: Callable[[Any], float]) -> Member:
    """Load the object twice and read all of it."""
    torch.set_num_threads(1)
    before = own_mb()
    started = time.perf_counter()
    obj = load()
    first = time.perf_counter() - started
    add_up(obj)
    own = own_mb() - before
    started = time.perf_counter()
    again = load()
    second = time.perf_counter() - started
    del again
    return Member(first, second, own)


def warm_up(model: torch.nn.Module) -> None:
    """Do once what the first use in a process costs: imports, mostly."""
    get([put(model), put(np.zeros(1))])
    pickle.loads(pickle.dumps(model))
    free_all()


def add_up_array(array: Any) -> float:
    """Read every number."""
    return float(array.sum())


def add_up_model(model: torch.nn.Module) -> float:
    """Read every weight."""
    return sum(float(weight.detach().sum()) for weight in model.parameters())


def show(name: str, put_s: float, members: list[Member]) -> None:
    """Print a row: times of the slowest member, memory on average."""
    print(
        f"{name:30}  {1e3 * put_s:8.1f}  {1e3 * max(member.get_s for member in members):9.2f}"
        f"  {1e3 * max(member.again_s for member in members):11.4f}"
        f"  {sum(member.own_mb for member in members) / len(members):13.1f}",
        flush=True,
    )


def main(megabytes: int, members: int) -> None:
    """Measure an array and a model, both ways, and print a table."""
    torch.set_num_threads(1)  # threads would not survive the forks
    array = np.random.default_rng(0).random(megabytes * 125_000)
    width = 1000
    layers = max(1, round(megabytes * 1e6 / 4 / width**2))
    model = torch.nn.Sequential(*[torch.nn.Linear(width, width) for _ in range(layers)])
    warm_up(torch.nn.Linear(1, 1))
    print(f"{megabytes} MB, {members} members at once, {os.cpu_count()} CPUs")
    print("                                  put ms     get ms  2nd get ms  own MB/member")
    for name, obj, add_up in (("array", array, add_up_array), ("torch model", model, add_up_model)):
        ways: list[tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = [
            ("shoal.put and get", put, get),
            ("pickle copy", functools.partial(pickle.dumps, protocol=5), pickle.loads),
        ]
        for way, store, load in ways:
            started = time.perf_counter()
            stored = store(obj)
            spent = time.perf_counter() - started
            show(f"{name}, {way}", spent, measure(functools.partial(load, stored), add_up, members))
            del stored
            free_all()


if __name__ == "__main__":
    given = [int(value.replace(",", "")) for value in sys.argv[1:]]
    main(*(given + [100, 4][len(given) :]))
