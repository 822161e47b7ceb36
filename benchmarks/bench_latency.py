"""What people wait for: the start, a switch between two members, an exploit.

    python benchmarks/bench_latency.py [--runs 5] [--only switch]

* ``start``: from ``python script.py`` to the first committed result; with torch, from the end of the script's own
  imports, beside what one ``import torch`` takes.
* ``switch``: from the moment in which one member calls ``tune.report`` at a boundary to that in which the next one
  leaves its own call, on one slot, both resident.
* ``exploit``: from the decision, as the journal has it, to the first line of the user's function, beside reading the
  checkpoint's bytes once, into memory that is there already.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from figures import Figure, print_table
from workload import block

_SCRIPT = """
import sys, tempfile, time
{imports}
from shoal import tune
imported = time.time()

def train(config):
    {first}
    for step in range(3):
        tune.report({{"score": float(step)}})

with tempfile.TemporaryDirectory() as storage:
    grid = tune.Tuner(
        train,
        tune_config=tune.TuneConfig(metric="score", mode="max", num_samples=2),
        run_config=tune.RunConfig(storage_path=storage, verbose=0),
    ).fit()
    from shoal.core.events import Reported
    from shoal.journal.sqlite import SQLiteJournal
    from pathlib import Path
    journal = SQLiteJournal.open_for_reading(Path(grid.experiment_path))
    print(imported, min(record.at for record in journal.read() if isinstance(record.item, Reported)))
"""


def start(runs: int) -> Iterator[Figure]:
    """From ``python script.py`` to the first committed result."""
    plain = [_first_result("", "pass") for _ in range(runs)]
    yield Figure("start to first result", tuple(first - began for began, _, first in plain), 0.4, "s")
    if not _has("torch"):
        return
    after: list[float] = []
    for _ in range(runs):
        alone = _time_of([sys.executable, "-c", "import torch"]) - _time_of([sys.executable, "-c", "pass"])
        _, imported, first = _first_result("import torch", "torch.zeros(1)")
        after.append(first - imported - alone)
    yield Figure("after the script's imports to first result, less one import torch", tuple(after), 0.4, "s")


def _first_result(imports: str, first: str) -> tuple[float, float, float]:
    """Return when a script began, when its imports were done, and when its first result was committed."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "script.py")
        script.write_text(_SCRIPT.format(imports=imports, first=first))
        began = time.time()
        said = subprocess.run([sys.executable, str(script)], cwd=folder, check=True, capture_output=True, text=True)
        imported, committed = map(float, said.stdout.split())
        return began, imported, committed


def _time_of(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def _has(module: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {module}"], check=False, capture_output=True).returncode == 0


# ------------------------------------------------------------------------------------------------------------ switches


def take_turns(config: dict[str, Any]) -> None:
    """Work a little, then report, and note both moments."""
    from shoal import tune

    with Path(config["out"], str(os.getpid())).open("a", buffering=1) as notes:
        while True:
            time.sleep(0.005)
            with tempfile.TemporaryDirectory() as folder:
                checkpoint = None
                if config["megabytes"] is not None:
                    Path(folder, "weights").write_bytes(block(config["megabytes"]))
                    checkpoint = tune.Checkpoint.from_directory(folder)
                notes.write(f"{time.perf_counter()} called\n")
                tune.report({"score": config["lr"]}, checkpoint=checkpoint)
                notes.write(f"{time.perf_counter()} returned\n")


def switch(runs: int) -> Iterator[Figure]:
    """Park one member and resume another."""
    for megabytes, target in ((None, 0.001), (1, None)):
        found = [1000 * _switch_s(megabytes) for _ in range(runs)]
        what = "no checkpoint" if megabytes is None else f"with a commit of {megabytes} MB"
        yield Figure(
            f"park one and resume another, {what}", tuple(found), None if target is None else 1000 * target, "ms"
        )


def _switch_s(megabytes: int | None) -> float:
    from shoal import tune

    with (
        tempfile.TemporaryDirectory() as storage,
        tempfile.TemporaryDirectory() as out,
        contextlib.redirect_stdout(io.StringIO()),  # that nobody saves is meant
    ):
        space = {"lr": tune.uniform(0, 1), "megabytes": megabytes, "out": out}
        _fit(take_turns, space, storage, slots=1, members=4, steps=100, perturbation_interval=1)
        noted = sorted(
            (float(moment), what, path.name)
            for path in Path(out).iterdir()
            for moment, what in map(str.split, path.read_text().splitlines())
        )
    gaps = [
        later - moment
        for (moment, what, who), (later, then, other) in itertools.pairwise(noted)
        if (what, then) == ("called", "returned") and who != other
    ]
    assert len(gaps) > 50, len(gaps)
    return statistics.median(gaps)


# ------------------------------------------------------------------------------------------------------------ exploits


def follow(config: dict[str, Any]) -> None:
    """Note when the function is entered with another's checkpoint."""
    entered = time.time()
    from shoal import tune

    step = 0
    if (checkpoint := tune.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            step = int(Path(folder, "step").read_text())
            memory = bytearray(1 << 20)
            began = time.perf_counter()
            with Path(folder, "weights").open("rb", buffering=0) as file:
                while file.readinto(memory):
                    pass
            read = time.perf_counter() - began
        with Path(config["out"], tune.get_context().get_trial_id()).open("a") as file:
            file.write(f"{entered} {read}\n")
    while True:
        step += 1
        time.sleep(0.02)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "step").write_text(str(step))
            Path(folder, "weights").write_bytes(block(config["megabytes"]))
            tune.report({"score": config["lr"] * step}, checkpoint=tune.Checkpoint.from_directory(folder))


def exploit(runs: int) -> Iterator[Figure]:
    """From the decision to the first line of the function."""
    small = [_exploit(1) for _ in range(runs)]
    yield Figure("exploit, 1 MB", tuple(1000 * latency for latency, _ in small), 5.0, "ms")
    large = [_exploit(100) for _ in range(runs)]
    yield Figure(
        "exploit, 100 MB, in times of reading its bytes once",
        tuple(latency / read for latency, read in large),
        1.2,
        note=f"{1000 * statistics.median(latency for latency, _ in large):.1f} ms",
    )


def _exploit(megabytes: int) -> tuple[float, float]:
    """Return the medians of the latency and of the time of reading the bytes, in seconds."""
    from shoal import tune
    from shoal.core.commands import Exploit
    from shoal.journal.sqlite import SQLiteJournal

    with tempfile.TemporaryDirectory() as storage, tempfile.TemporaryDirectory() as out:
        space = {"lr": tune.grid_search([0.1, 0.9]), "megabytes": megabytes, "out": out}
        pbt = {"perturbation_interval": 2, "quantile_fraction": 0.5, "resample_probability": 0.0}
        grid = _fit(follow, space, storage, slots=2, members=1, steps=40, **pbt)
        journal = SQLiteJournal.open_for_reading(Path(grid.experiment_path))
        decided: dict[str, list[float]] = {}
        for record in journal.read():
            if isinstance(record.item, Exploit):
                decided.setdefault(record.item.trial_id, []).append(record.at)
        journal.close()
        latencies: list[float] = []
        reads: list[float] = []
        for path in Path(out).iterdir():
            for line in path.read_text().splitlines():
                entered, read = map(float, line.split())
                latencies.append(entered - max(at for at in decided[path.name] if at < entered))
                reads.append(read)
    return statistics.median(latencies), statistics.median(reads)


def _fit(
    trainable: Callable[[dict[str, Any]], None],
    space: dict[str, Any],
    storage: str,
    *,
    slots: int,
    members: int,
    steps: int,
    **pbt: Any,
) -> Any:
    """Run a population on so many slots, as quietly as it goes, and return its results."""
    import shoal
    from shoal import tune
    from shoal.tune.schedulers import PopulationBasedTraining

    shoal.shutdown()
    shoal.init(num_cpus=slots)
    mutations = {"lr": tune.uniform(0, 1)}
    scheduler = PopulationBasedTraining(time_attr="training_iteration", hyperparam_mutations=mutations, **pbt)
    settings = tune.TuneConfig(metric="score", mode="max", num_samples=members, seed=1, scheduler=scheduler)
    run = tune.RunConfig(
        storage_path=storage,
        verbose=0,
        stop={"training_iteration": steps},
        checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
    )
    return tune.Tuner(trainable, param_space=space, tune_config=settings, run_config=run).fit()


PARTS = {"start": start, "switch": switch, "exploit": exploit}


def figures(runs: int) -> Iterator[Figure]:
    """Measure all of it."""
    for part in PARTS.values():
        yield from part(runs)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of each (5)")
    parser.add_argument("--only", choices=PARTS, help="one part")
    given = parser.parse_args()
    parts = PARTS.values() if given.only is None else [PARTS[given.only]]
    print_table(figure for part in parts for figure in part(given.runs))


if __name__ == "__main__":
    main()
