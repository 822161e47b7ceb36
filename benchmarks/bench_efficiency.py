"""How much of the slots' time goes into the members' own code: ``python benchmarks/bench_efficiency.py [--runs 3]``.

The cases, and what efficiency means, are in :mod:`workload`. A run of all cases takes two and a half minutes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from functools import partial
from typing import Any

from workload import CASES, Case, train_with

import shoal
from shoal import tune
from shoal.tune.schedulers import PopulationBasedTraining


def train(config: dict[str, Any]) -> None:
    """One member."""
    train_with(tune, config)


def efficiency(case: Case, trainable: Any = train) -> float:
    """Run a case once and return its efficiency, with the settings that users get."""
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
            ),
            run_config=tune.RunConfig(
                storage_path=storage,
                stop={"training_iteration": case.steps},
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            ),
        )
        began = time.perf_counter()
        grid = tuner.fit()
        wall = time.perf_counter() - began
        frames = [result.metrics_dataframe for result in grid]
        assert grid.num_errors == 0
        own = sum(float(frame["own_s"].sum()) for frame in frames if frame is not None)
    return own / (case.slots * wall)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--runs", type=int, default=1, help="runs of each case (1)")
    parser.add_argument("--only", default="", help="cases whose names hold this text")
    given = parser.parse_args()
    print(f"{'case':24} {'target':>7} {'median':>7} {'min':>7} {'max':>7}")
    for case in CASES:
        if given.only in case.name:
            found = [efficiency(case) for _ in range(given.runs)]
            middle = statistics.median(found)
            print(f"{case.name:24} {case.target:7.3f} {middle:7.3f} {min(found):7.3f} {max(found):7.3f}", flush=True)


if __name__ == "__main__":
    main()
