"""What a driver's time goes into, for 100, 1,000 and 10,000 members on a cluster: the constants of the model.

    python benchmarks/bench_driver.py                # three minutes; Ray's part needs Ray
    python benchmarks/bench_driver.py --parts        # in which part of the driver it is spent
    python benchmarks/bench_driver.py 100 1000       # other sizes

Driver, core, journal, readers, engine and fleet are the real ones. The hosts are models on a virtual clock
(:mod:`simulated_cluster`), and what they take is not counted. There are ten members for each slot. Each cost is found
by experiments that differ in it: many results and hardly anything else; with boundaries; with a host for each slot,
so that each result is an answer; with a copy kept in storage (in memory). :mod:`capacity` says what follows.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import results
from capacity import COSTS, Costs, table
from simulated_cluster import Size, World, first_events, make_engine

SIZES = (100, 1_000, 10_000)
RESULTS = 10_000
"""Of each run, at least four of each member."""
MIRRORED = 1_000
"""So many members, at most, are copied to storage: their log files take most of the time there."""
NEVER = 10**9
"""An interval at which nothing is ever decided."""
CALLS = 2_000
_PARTS = ("core", "journal", "history", "files", "orders", "told", "checkpoints")


@dataclass
class Spent:
    """What a run took of the driver."""

    results: int
    boundaries: int
    answers: int
    cpu_s: float
    """CPU time of the thread that decides, without what the models took."""
    mirror_s: float
    """CPU time of the thread that copies to storage."""
    start_s: float
    """Until all hosts work."""
    journal_bytes: int
    memory: int
    """Bytes that the process has at the end."""
    by_part: dict[str, float] = field(default_factory=dict[str, float])
    """Seconds, by part."""


def run(size: Size, *, turn_s: float = 0.0, stored: bool = False, parts: bool = False) -> Spent:
    """Run an experiment in a simulated cluster and time the driver.

    Args:
        size: of it.
        turn_s: virtual seconds of a turn of the driver: what arrives meanwhile is taken in at once.
        stored: whether it is kept in storage.
        parts: whether to time the parts, too, which takes time itself.
    """
    from shoal.config import RunConfig
    from shoal.display import make_status
    from shoal.driver import Driver
    from shoal.experiment import ExperimentInfo
    from shoal.history import History
    from shoal.journal.sqlite import SQLiteJournal
    from shoal.storage.mirror import Mirror
    from shoal.storage.place import Place
    from shoal.wiring import _files

    world = World(size, turn_s=turn_s)
    by_part: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as path, contextlib.ExitStack() as stack:
        population, opened, trials = first_events(size)
        info = ExperimentInfo(
            name="simulated", trainable="simulated", run_id="00000", metric="score", mode="max",
            time_attr="training_iteration", scheduler="pbt", logs_policies=True, num_trials=size.members,
            slots=size.slots, cpus=1.0, gpus=0.0, engine="ray", seed=0, parameters=["lr", "momentum"],
        )  # fmt: skip
        began = time.process_time()
        engine = make_engine(world, path)
        start_s = time.process_time() - began - world.simulating_s
        journal = SQLiteJournal.create(Path(path))
        journal.set_meta(**info.to_meta())
        mirror = Mirror(Place(f"memory://bench-{time.time_ns()}"), engine.depot) if stored else None
        if mirror is not None:
            mirror.begin(Path(path))
        readers = _files(RunConfig())
        driver = Driver(
            info, Path(path), population, journal, engine, make_status(0), readers,
            history=History(keep_rows=False), depot=engine.depot, mirror=mirror,
        )  # fmt: skip
        timed: list[tuple[str, Any, str]] = [
            ("core", type(population), "apply"),
            ("journal", SQLiteJournal, "append"),
            ("history", History, "add"),
            ("orders", type(engine), "execute"),
            ("orders", type(engine.fleet), "flush"),
            ("checkpoints", type(engine.depot), "delete"),
            ("told", type(engine.fleet), "heard"),
            *(("files", type(reader), name) for reader in readers for name in ("take", "flush")),
        ]
        for part, owner, name in timed if parts else ():
            stack.enter_context(_timed(by_part, part, owner, name))
        copying: list[float] = []
        stack.enter_context(_spent(copying, Mirror, "_run"))
        began, models = time.thread_time(), world.simulating_s
        driver.run([opened, *trials], trials)
        engine.depot.close()
        cpu_s = time.thread_time() - began - (world.simulating_s - models)
        journal.close()
        journal_bytes = Path(path, "journal.sqlite").stat().st_size
    counts = world.counts
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    return Spent(
        counts.results, counts.boundaries, counts.answers, cpu_s, sum(copying), start_s, journal_bytes, memory, by_part
    )


@contextlib.contextmanager
def _spent(into: list[float], owner: type[Any], name: str) -> Iterator[None]:
    """Note the CPU time of each call of a method, of its thread."""
    original: Callable[..., Any] = getattr(owner, name)

    def timed(*args: Any, **more: Any) -> Any:
        began = time.thread_time()
        try:
            return original(*args, **more)
        finally:
            into.append(time.thread_time() - began)

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextlib.contextmanager
def _timed(into: dict[str, float], part: str, owner: type[Any], name: str) -> Iterator[None]:
    """Add up the seconds in a method."""
    original: Callable[..., Any] = getattr(owner, name)
    into.setdefault(part, 0.0)

    def timed(*args: Any, **more: Any) -> Any:
        began = time.thread_time()
        try:
            return original(*args, **more)
        finally:
            into[part] += time.thread_time() - began

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, original)


@dataclass(frozen=True)
class Found:
    """What was found with so many members, in seconds."""

    members: int
    result_s: float
    boundary_s: float
    answer_s: float
    mirror_s: float
    member_s: float
    """Once: its folder and files."""
    start_s: float
    journal_bytes: float
    """For a result, of an experiment with a boundary each second."""
    member_bytes: float
    """Of the driver's memory, for a member."""


def find(members: int) -> Found:
    """Return what a result, a boundary, an answer and a copy cost with so many members."""
    slots = max(2, members // 10)
    steps = max(4, RESULTS // members // 2 * 2)
    nobody = run(Size(10, 2, 1, steps=2, interval=NEVER)).memory

    def size(interval: int, times: int = 1, nodes: int = 1) -> Size:
        return Size(members, slots, nodes, steps=times * steps, interval=interval)

    # One host says all that there is once in a virtual second: hardly any answers. What twice as many steps cost more
    # is not of the beginning, which makes a folder and files for each member.
    plain, longer = run(size(NEVER), turn_s=1.0), run(size(NEVER, 2), turn_s=1.0)
    result_s = (longer.cpu_s - plain.cpu_s) / (longer.results - plain.results)
    pairs, more_pairs = run(size(2), turn_s=1.0), run(size(2, 2), turn_s=1.0)
    more = more_pairs.results - pairs.results
    boundary_s = (more_pairs.cpu_s - pairs.cpu_s - more * result_s) / (more_pairs.boundaries - pairs.boundaries)
    # Each result is an answer of its own.
    alone = run(replace(size(NEVER, nodes=slots), step_s=100.0))
    answer_s = (alone.cpu_s - plain.cpu_s) / (alone.answers - plain.answers)
    return Found(
        members, result_s, boundary_s, answer_s, _mirror_s(min(members, MIRRORED)),
        (plain.cpu_s - plain.results * result_s) / members, alone.start_s,
        more_pairs.journal_bytes / more_pairs.results, (plain.memory - nobody) / members,
    )  # fmt: skip


def _mirror_s(members: int) -> float:
    """Return what a boundary costs more where all is in storage, too. Log files, in other threads, come on top."""
    size = Size(members, max(2, members // 10), 1, steps=20, interval=2)
    before, stored = run(size, turn_s=1.0), run(size, turn_s=1.0, stored=True)
    return (max(0.0, stored.cpu_s - before.cpu_s) + stored.mirror_s) / stored.boundaries


def call_s(calls: int = CALLS) -> float | None:
    """Return CPU seconds of this process for a call to an actor, of all threads; None where Ray is not there.

    With a kilobyte each way, and the answer taken from a queue: as a host is asked what there is to tell.
    """
    import queue

    try:
        import ray
    except ImportError:
        return None
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")

    class Host:
        def listen(self, orders: bytes) -> bytes:
            return orders

    actor: Any = ray.remote(num_cpus=0)(Host).remote()
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    data = bytes(1_000)

    def ask(count: int) -> None:
        for _ in range(count):
            actor.listen.remote(data).future().add_done_callback(lambda answer: inbox.put(answer.result()))
            inbox.get()

    ask(100)
    began = time.process_time()
    ask(calls)
    spent = (time.process_time() - began) / calls
    ray.shutdown()
    return spent


def costs_of(found: list[Found], call: float | None) -> Costs:
    """Return the model's constants: those of the fewest members, and how they grow."""
    few, many = found[0], found[-1]
    tenfolds = len(found) - 1
    price = [each.result_s + each.boundary_s / 5 for each in (few, many)]
    return Costs(
        few.result_s, few.boundary_s, statistics.median(each.answer_s for each in found),
        COSTS.call_s if call is None else call, statistics.median(each.mirror_s for each in found),
        max(0.0, (price[1] / price[0] - 1) / tenfolds) if tenfolds else 0.0,
    )  # fmt: skip


def lines_of(found: list[Found], call: float | None) -> list[str]:
    """Return the table."""
    lines = [
        f"{'members':>8} {'result':>8} {'boundary':>9} {'answer':>8} {'copy':>8} {'begin':>8} "
        f"{'all hosts work':>15} {'journal':>9} {'memory':>10}",
        f"{'':>8} {'us':>8} {'us more':>9} {'us':>8} {'us':>8} {'us':>8} {'s':>15} {'B/result':>9} {'kB/member':>10}",
    ]
    lines += [
        f"{each.members:8,.0f} {1e6 * each.result_s:8.1f} {1e6 * each.boundary_s:9.1f} {1e6 * each.answer_s:8.1f} "
        f"{1e6 * each.mirror_s:8.1f} {1e6 * each.member_s:8.0f} {each.start_s:15.2f} {each.journal_bytes:9.0f} "
        f"{each.member_bytes / 1e3:10.1f}"
        for each in found
    ]
    lines.append("")
    lines.append(
        "one call of Ray: " + ("no Ray here" if call is None else f"{1e6 * call:.0f} us of CPU, of all threads")
    )
    return lines


def parts_of(members: int, interval: int) -> str:
    """Return what parts take for a result, in microseconds."""
    size = Size(members, max(2, members // 10), max(1, members // 40), steps=10, interval=interval)
    spent = run(size, parts=True)
    each = {name: 1e6 * spent.by_part[name] / spent.results for name in _PARTS}
    rest = 1e6 * spent.cpu_s / spent.results - sum(each.values())
    numbers = "".join(f"{value:12.1f}" for value in (*each.values(), rest))
    return f"{members:8,} {'-' if interval == NEVER else interval:>9}{numbers}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("members", type=int, nargs="*", default=SIZES)
    parser.add_argument("--runs", type=int, default=1, help="runs of each size, for the medians (1)")
    parser.add_argument("--parts", action="store_true", help="in which part of the driver the time is spent")
    parser.add_argument("--write", action="store_true", help="write the tables into RESULTS.md as well")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.parts:
        print(f"{'members':>8} {'interval':>9}" + "".join(f"{name:>12}" for name in (*_PARTS, "the rest")))
        for members in given.members:
            for interval in (NEVER, 5):
                print(parts_of(members, interval), flush=True)
        return
    if given.one:
        print(repr(find(given.members[0])))
        return
    found = [_median([_alone(members) for _ in range(given.runs)]) for members in given.members]
    call = call_s()
    costs = costs_of(found, call)
    rounded = {name: round(getattr(costs, name), 6) for name in costs.__dataclass_fields__}
    lines = [
        *lines_of(found, call),
        "",
        repr(Costs(**rounded)),
        "",
        "With half of a CPU for the driver:",
        "",
        table(costs),
    ]
    print("\n".join(lines), flush=True)
    if given.write:
        results.write_section("python benchmarks/bench_driver.py", "\n".join(lines))


def _alone(members: int) -> Found:
    """Find it in a process of its own, whose memory is of it alone."""
    command = [sys.executable, __file__, "--one", str(members)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: Found = eval(said.splitlines()[-1], {"Found": Found})
    return found


def _median(found: list[Found]) -> Found:
    names = list(Found.__dataclass_fields__)
    return Found(**{name: statistics.median(getattr(each, name) for each in found) for name in names})


if __name__ == "__main__":
    main()
