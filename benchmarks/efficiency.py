"""How much of the slots' time goes into the members' own code; the cases are in :mod:`workload`."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from typing import Any

from workload import Case, train_with

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
