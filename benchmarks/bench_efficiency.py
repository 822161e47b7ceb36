"""How much of the slots' time goes into the members' own code: ``python benchmarks/bench_efficiency.py [--runs 5]``.

The cases, and what efficiency means, are in :mod:`workload`. Members sleep, so some cases at a time disturb each other
little: a round of all then takes 70 s instead of 160 s. ``--alone`` runs one at a time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench_flow import first_report
from figures import Figure, print_table
from workload import CASES, Case, Ran, train_with

TOGETHER = (
    ("interval 5, 1 MB", "100 ms steps, 10 MB"),
    ("interval 1, 1 MB", "2 members on 2 slots"),
    ("32 members, 8 residents", "synch", "100 ms steps, 100 MB"),
)
"""Cases that run at the same time, of about the same length."""


def train(config: dict[str, Any]) -> None:
    """One member."""
    from shoal import tune

    train_with(tune, config)


def efficiency(case: Case, trainable: Any = train) -> float:
    """Run a case once and return its efficiency, with the settings that users get."""
    return run(case, trainable).efficiency


def run(case: Case, trainable: Any = train, engine: str | None = None) -> Ran:
    """Run a case once, with the settings that users get.

    Args:
        case: what is run.
        trainable: one member.
        engine: which runs them; None: the default one.
    """
    import shoal
    from shoal import tune
    from shoal.tune.schedulers import PopulationBasedTraining

    shoal.init(num_cpus=case.slots, ignore_reinit_error=True)
    rate = partial(tune.uniform, 0, 1)
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=case.interval,
        hyperparam_mutations={"lr": rate()},
        synch=case.synch,
    )
    with tempfile.TemporaryDirectory() as storage:
        tuner = tune.Tuner(
            trainable,
            param_space={"lr": rate(), **case.config},
            tune_config=tune.TuneConfig(
                metric="score",
                mode="max",
                num_samples=case.members,
                scheduler=scheduler,
                seed=1,
                max_residents=case.residents,
                engine=engine,
            ),
            run_config=tune.RunConfig(
                storage_path=storage,
                stop={"training_iteration": case.steps},
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            ),
        )
        began, cpu = time.time(), time.process_time()
        grid = tuner.fit()
        wall, cpu = time.time() - began, time.process_time() - cpu
        frames = [frame for result in grid if (frame := result.metrics_dataframe) is not None]
        assert grid.num_errors == 0
        own = sum(float(frame["own_s"].sum()) for frame in frames)
        first = first_report(Path(grid.experiment_path)) - case.step_s
    return Ran(case, own, wall, first - began, sum(map(len, frames)), cpu)


def figures(runs: int, *, only: str = "", alone: bool = False) -> Iterator[Figure]:
    """Run the cases in rounds, so that a busy moment of the machine meets all of them."""
    names = [case.name for case in CASES if only in case.name]
    groups = [tuple(name for name in group if name in names) for group in TOGETHER]
    if alone:
        groups = [(name,) for name in names]
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(runs):
        for group in groups:
            for name, value in _together(group):
                found[name].append(value)
    for case in CASES:
        if case.name in found:
            yield Figure(f"efficiency, {case.name}", tuple(found[case.name]), case.target, least=True)


def _together(names: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Run cases at the same time, each in a process of its own."""
    running = [
        (name, subprocess.Popen([sys.executable, __file__, "--once", name], stdout=subprocess.PIPE, text=True))
        for name in names
    ]
    for name, process in running:
        said, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"the case {name!r} ended with exit code {process.returncode}")
        yield name, float(said)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--runs", type=int, default=1, help="runs of each case (1)")
    parser.add_argument("--only", default="", help="cases whose names hold this text")
    parser.add_argument("--alone", action="store_true", help="one case at a time")
    parser.add_argument("--once", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once is not None:
        print(efficiency(next(case for case in CASES if case.name == given.once)))
    else:
        print_table(figures(given.runs, only=given.only, alone=given.alone))


if __name__ == "__main__":
    main()
