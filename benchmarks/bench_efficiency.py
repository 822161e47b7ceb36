"""How much of the slots' time goes into the members' own code: ``python benchmarks/bench_efficiency.py [--runs 3]``.

Efficiency = seconds spent in the members' own functions, their own saving and loading included, divided by
(slots x wall time of ``fit()``, start-up included). 8 members on 2 slots, 20 ms steps (sleep), a checkpoint of 1 MB at
each boundary, the function API as in the guide.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import shoal
from shoal import tune
from shoal.tune.schedulers import PopulationBasedTraining

MEGABYTE = bytes(1 << 20)
CASES = ((8, 100, 5, False), (8, 100, 1, False), (8, 100, 5, True), (2, 200, 5, False))


def train(config: dict[str, Any]) -> None:
    """One member: sleep a step, report, now and then with a checkpoint."""
    step = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            step = int(Path(folder, "step").read_text())
            Path(folder, "weights").read_bytes()
    while True:
        step += 1
        time.sleep(config["step_s"])
        metrics = {"score": config["lr"] * step}
        if step % config["interval"] == 0:
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "step").write_text(str(step))
                Path(folder, "weights").write_bytes(MEGABYTE)
                tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))
        else:
            tune.report(metrics)


def efficiency(members: int, steps: int, interval: int, synch: bool) -> float:
    """Run once and return the efficiency."""
    with tempfile.TemporaryDirectory() as storage:
        scheduler = PopulationBasedTraining(
            time_attr="training_iteration",
            perturbation_interval=interval,
            hyperparam_mutations={"lr": tune.uniform(0, 1)},
            synch=synch,
        )
        began = time.perf_counter()
        grid = tune.Tuner(
            train,
            param_space={"lr": tune.uniform(0, 1), "step_s": 0.02, "interval": interval},
            tune_config=tune.TuneConfig(metric="score", mode="max", num_samples=members, scheduler=scheduler, seed=1),
            run_config=tune.RunConfig(
                storage_path=storage,
                stop={"training_iteration": steps},
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            ),
        ).fit()
        wall = time.perf_counter() - began
        inside = 0.0
        for result in grid:
            frame = result.metrics_dataframe
            assert frame is not None
            inside += float(frame["time_this_iter_s"].sum())
        return inside / (2 * wall)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    shoal.init(num_cpus=2)
    print(f"{'members':>7} {'steps':>5} {'interval':>8} {'synch':>5}   {'median':>6} {'min':>6} {'max':>6}")
    for members, steps, interval, synch in (
        (8, 100, 5, False),
        (8, 100, 1, False),
        (8, 100, 5, True),
        (2, 200, 5, False),
    ):
        found = [efficiency(members, steps, interval, synch) for _ in range(runs)]
        middle = statistics.median(found)
        print(f"{members:7} {steps:5} {interval:8} {synch!s:>5}   {middle:6.3f} {min(found):6.3f} {max(found):6.3f}")


if __name__ == "__main__":
    main()
