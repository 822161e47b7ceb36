"""ray.air's session and ray.train's report, an object shared by ray.put, and a module that is imported in the function."""
import json
import os
import tempfile
from functools import partial

import ray
from ray import air, train, tune
from ray.air import session
from ray.air.checkpoint import Checkpoint
from ray.air.config import CheckpointConfig, RunConfig


def train_air(config, scale=1):
    import ray.tune

    table = ray.get(config["table_ref"])
    start = 0
    if session.get_checkpoint():
        with session.get_checkpoint().as_directory() as folder, open(os.path.join(folder, "epoch")) as f:
            start = int(f.read()) + 1
    for epoch in range(start, 6):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "epoch"), "w") as f:
                f.write(str(epoch))
            session.report(
                {"acc": table[epoch] * config["lr"] * scale, "who": session.get_trial_name(), "rank": session.get_world_rank()},
                checkpoint=Checkpoint.from_directory(folder),
            )


def train_new(config):
    context = train.get_context()
    train.report({"acc": config["lr"], "dir": context.get_trial_dir(), "name": context.get_experiment_name()})


ray.init()
ref = ray.put({epoch: epoch + 1 for epoch in range(6)})
pbt = tune.create_scheduler(
    "pbt",
    time_attr="training_iteration",
    perturbation_interval=2,
    hyperparam_mutations={"lr": tune.uniform(0.1, 1.0)},
    synch=True,
)
results = tune.Tuner(
    partial(train_air, scale=2),
    param_space={"lr": tune.uniform(0.1, 1.0), "table_ref": ref},
    tune_config=tune.TuneConfig(metric="acc", mode="max", num_samples=3, scheduler=pbt),
    run_config=RunConfig(name="air", verbose=0, checkpoint_config=CheckpointConfig(num_to_keep=1)),
).fit()
more = tune.Tuner(
    train_new,
    param_space={"lr": tune.grid_search([1, 2])},
    run_config=train.RunConfig(name="train", verbose=0, storage_path=os.path.abspath("elsewhere")),
).fit()
best = results.get_best_result()
print("OUTCOME", json.dumps({
    "iterations": [result.metrics["training_iteration"] for result in results],
    "acc": best.metrics["acc"],
    "lr": best.config["lr"],
    "rank": best.metrics["rank"],
    "who": best.metrics["who"],
    "trial_id": best.metrics["trial_id"],
    "is_checkpoint": isinstance(best.checkpoint, air.Checkpoint),
    "dirs": [result.metrics["dir"] == result.path for result in more],
    "name": more[0].metrics["name"],
}))
ray.shutdown()
