"""The MNIST example: how much of the slots' time goes into its own training code.

    python benchmarks/bench_mnist.py [--runs 5] [--iterations 50]

Four ConvNets on two slots, as in ``python -m shoal.examples.pbt_mnist``, without a target, so that each run does the
same work. Besides the whole of ``fit()``, it tells the figure from the first step on: before that, the members' parent
imports torch and builds a first optimizer, which any script pays once.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from figures import Figure, print_table

import shoal
from shoal import tune
from shoal.examples import pbt_mnist
from shoal.examples.mnist_pytorch import train_convnet
from shoal.tune.schedulers import PopulationBasedTraining

SLOTS = 2


def train(config: dict[str, Any]) -> None:
    """Train one ConvNet as the example does, and count the seconds between its calls of ``tune.report``."""
    report: Callable[..., None] = tune.report
    left = time.perf_counter()
    entered = time.time()

    def counting(metrics: dict[str, Any], checkpoint: Any = None) -> None:
        nonlocal left
        metrics = {**metrics, "own_s": time.perf_counter() - left, "entered": entered}
        report(metrics, checkpoint=checkpoint)
        left = time.perf_counter()

    tune.report = counting
    try:
        train_convnet(config)
    finally:
        tune.report = report


def efficiency(iterations: int) -> tuple[float, float]:
    """Train once; return the efficiency of the whole of ``fit()``, and from when the first member was entered."""
    shoal.init(num_cpus=SLOTS)
    with tempfile.TemporaryDirectory() as storage:
        tuner = tune.Tuner(
            train,
            param_space={"lr": tune.uniform(0.001, 1), "momentum": tune.uniform(0.001, 1), "checkpoint_interval": 5},
            tune_config=tune.TuneConfig(
                num_samples=4,
                seed=1,
                scheduler=PopulationBasedTraining(
                    time_attr="training_iteration",
                    perturbation_interval=pbt_mnist.PERTURBATION_INTERVAL,
                    metric=pbt_mnist.METRIC,
                    mode="max",
                    hyperparam_mutations={"lr": tune.uniform(0.0001, 1), "momentum": [0.8, 0.9, 0.99]},
                ),
            ),
            run_config=tune.RunConfig(
                storage_path=storage,
                verbose=0,
                stop={"training_iteration": iterations},
                checkpoint_config=tune.CheckpointConfig(checkpoint_score_attribute=pbt_mnist.METRIC, num_to_keep=4),
            ),
        )
        began = time.time()
        grid = tuner.fit()
        ended = time.time()
        frames = [frame for result in grid if (frame := result.metrics_dataframe) is not None]
        own = sum(float(frame["own_s"].sum()) for frame in frames)
        first = min(float(frame["entered"].min()) for frame in frames)
    return own / (SLOTS * (ended - began)), own / (SLOTS * (ended - first))


def figures(runs: int, iterations: int = 50) -> Iterator[Figure]:
    """Train in processes of their own."""
    said = [
        subprocess.run(
            [sys.executable, __file__, "--once", "--iterations", str(iterations)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.split()
        for _ in range(runs)
    ]
    yield Figure("efficiency, MNIST example", tuple(float(whole) for whole, _ in said), 0.95, least=True)
    yield Figure("efficiency, MNIST example, from the first step on", tuple(float(rest) for _, rest in said))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--runs", type=int, default=5, help="runs (5)")
    parser.add_argument("--iterations", type=int, default=50, help="rounds of training of each member (50)")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        print(*efficiency(given.iterations))
    else:
        print_table(figures(given.runs, given.iterations))


if __name__ == "__main__":
    main()
