"""Callbacks and loggers of one's own."""
import json
import os
from typing import Dict, List

import ray
from ray import air, tune
from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback
from ray.tune.utils import flatten_dict


class CustomLoggerCallback(LoggerCallback):
    """Writes one file for each trial into its folder."""

    def __init__(self, filename: str = "log.txt"):
        self._trial_files = {}
        self._filename = filename

    def log_trial_start(self, trial: "Trial"):
        self._trial_files[trial] = open(os.path.join(trial.logdir, self._filename), "a")

    def log_trial_result(self, iteration: int, trial: "Trial", result: Dict):
        if trial in self._trial_files:
            self._trial_files[trial].write(json.dumps(flatten_dict(result)) + "\n")

    def log_trial_end(self, trial: "Trial", failed: bool = False):
        if trial in self._trial_files:
            self._trial_files.pop(trial).close()


class Counter(tune.Callback):
    def __init__(self):
        self.results, self.completed, self.best = 0, [], {}

    def setup(self, stop=None, num_samples=None, total_num_samples=None, **info):
        self.samples = num_samples

    def on_trial_result(self, iteration: int, trials: List["Trial"], trial: "Trial", result: Dict, **info):
        self.results += 1
        self.best[trial.trial_id] = max(result["loss"], self.best.get(trial.trial_id, 0))

    def on_trial_complete(self, iteration, trials, trial, **info):
        self.completed.append((str(trial), trial.config["alpha"]))

    def on_experiment_end(self, trials, **info):
        print("ended with", len(trials), "trials")


def train_function(config):
    for i in range(5):
        tune.report({"loss": config["alpha"] * i, "nested": {"step": i}})


ray.init(ignore_reinit_error=True)
counter = Counter()
results = tune.Tuner(
    train_function,
    param_space={"alpha": tune.grid_search([0.1, 0.2, 0.3])},
    tune_config=tune.TuneConfig(metric="loss", mode="min"),
    run_config=air.RunConfig(name="logged", callbacks=[counter, CustomLoggerCallback("log_test.txt")], verbose=0),
).fit()
lines = {}
for result in results:
    with open(os.path.join(result.path, "log_test.txt")) as f:
        lines[result.config["alpha"]] = [json.loads(line)["nested/step"] for line in f]
print("OUTCOME", json.dumps({
    "results": counter.results,
    "completed": sorted(alpha for _, alpha in counter.completed),
    "best": sorted(counter.best.values()),
    "lines": sorted(lines.items()),
}))
