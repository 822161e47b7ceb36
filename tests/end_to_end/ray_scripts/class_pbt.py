#!/usr/bin/env python
"""PBT of a class trainable with tune.run and the older spellings of its arguments."""
import argparse
import json
import os
import random

import ray
from ray import tune
from ray.tune import Trainable
from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.utils import validate_save_restore


class PBTBenchmark(Trainable):
    def setup(self, config):
        self.lr = config["lr"]
        self.accuracy = 0.0
        self.resets = 0

    def step(self):
        best = 0.01 * (1 + self.accuracy / 100)
        ratio = max(self.lr, best) / min(self.lr, best)
        self.accuracy += 1.0 / ratio
        return {"mean_accuracy": self.accuracy, "cur_lr": self.lr, "resets": self.resets}

    def save_checkpoint(self, checkpoint_dir):
        with open(os.path.join(checkpoint_dir, "state.json"), "w") as f:
            json.dump({"accuracy": self.accuracy, "lr": self.lr}, f)

    def load_checkpoint(self, checkpoint_dir):
        with open(os.path.join(checkpoint_dir, "state.json")) as f:
            self.accuracy = json.load(f)["accuracy"]

    def reset_config(self, new_config):
        self.lr = new_config["lr"]
        self.config = new_config
        self.resets += 1
        return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke-test", action="store_true", help="Finish quickly for testing")
    args, _ = parser.parse_known_args()
    ray.init(num_cpus=2)
    validate_save_restore(PBTBenchmark, config={"lr": 0.01})

    pbt = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=3,
        hyperparam_mutations={
            "lr": lambda: random.uniform(0.0001, 0.02),
            "some_other_factor": [1, 2],
        },
        synch=True,
    )
    analysis = tune.run(
        PBTBenchmark,
        name="pbt_class",
        scheduler=pbt,
        metric="mean_accuracy",
        mode="max",
        reuse_actors=True,
        checkpoint_freq=3,
        keep_checkpoints_num=2,
        checkpoint_score_attr="mean_accuracy",
        verbose=False,
        stop={"training_iteration": 9 if args.smoke_test else 200},
        num_samples=1,
        config={"lr": tune.grid_search([0.0001, 0.002, 0.01, 0.02]), "some_other_factor": 1},
        resources_per_trial={"cpu": 1},
    )
    print("Best hyperparameters found were: ", analysis.best_config)
    print("OUTCOME", json.dumps({
        "best": analysis.best_result["mean_accuracy"],
        "iterations": [trial.last_result["training_iteration"] for trial in analysis.trials],
        "resets": [trial.last_result["resets"] for trial in analysis.trials],
        "checkpoint": os.listdir(analysis.best_checkpoint.path),
        "config": analysis.best_config,
    }))
