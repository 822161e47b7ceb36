"""PBT over a nested config, with functions of the script, sample_from and custom_explore_fn."""
import json
import os
import pickle
import random
import tempfile

import numpy as np

from ray import train, tune
from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.tune_config import TuneConfig


class Model:
    """Plain pickle has to find this class in the member's process."""

    def __init__(self, width):
        self.width = width
        self.value = 0.0
        self.epoch = 0


def explore(config):
    config["net"]["width"] = max(1, min(64, int(config["net"]["width"])))
    return config


def train_model(config):
    model = Model(config["net"]["width"])
    checkpoint = train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder, open(os.path.join(folder, "model.pkl"), "rb") as f:
            model = pickle.load(f)
    while model.epoch < 8:
        model.epoch += 1
        model.value += config["optim"]["lr"] * (1 - config["optim"]["betas"]["beta1"]) + config["net"]["width"] / 1000
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "model.pkl"), "wb") as f:
                pickle.dump(model, f)
            train.report(
                {"val": {"score": model.value}, "epoch": model.epoch},
                checkpoint=train.Checkpoint.from_directory(folder),
            )


pbt = PopulationBasedTraining(
    time_attr="epoch",
    metric="val/score",
    mode="max",
    perturbation_interval=2,
    resample_probability=0.5,
    hyperparam_mutations={
        "optim": {
            "lr": tune.loguniform(1e-4, 1e-1),
            "betas": {"beta1": lambda: np.random.uniform(0.5, 0.99)},
        },
        "net": {"width": tune.randint(1, 65)},
    },
    custom_explore_fn=explore,
    synch=True,
)
grid = tune.Tuner(
    train_model,
    param_space={
        "optim": {"lr": tune.loguniform(1e-4, 1e-1), "betas": {"beta1": 0.9, "beta2": 0.999}},
        "net": {"width": tune.sample_from(lambda spec: random.choice([8, 16, 32])), "depth": 2},
    },
    tune_config=TuneConfig(num_samples=4, scheduler=pbt),
    run_config=train.RunConfig(name="nested", verbose=0),
).fit()
best = grid.get_best_result()
with open(os.path.join(grid.experiment_path, "pbt_global.txt")) as f:
    exploits = [json.loads(line) for line in f]
print("OUTCOME", json.dumps({
    "config": best.config,
    "score": best.metrics["val"]["score"],
    "epochs": [result.metrics["epoch"] for result in grid],
    "exploits": len(exploits),
    "width": best.metrics_dataframe["config/net/width"].tolist()[-1],
}))
