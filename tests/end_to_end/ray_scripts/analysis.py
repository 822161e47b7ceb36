"""tune.run, and all that is asked of its ExperimentAnalysis."""
import json
import os

import ray
from ray import tune
from ray.tune import ExperimentAnalysis
from ray.tune.error import TuneError


def train(config):
    for step in range(4):
        with open(os.path.join(tune.get_context().get_trial_dir(), "state"), "w") as f:
            f.write(str(step))
        folder = os.path.join(tune.get_context().get_trial_dir(), "mine")
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "step"), "w") as f:
            f.write(str(step))
        tune.report(
            {"loss": (config["x"] - 2) ** 2 + config["bumps"][step], "acc": step * config["x"]},
            checkpoint=tune.Checkpoint.from_directory(folder),
        )


def fails(config):
    if config["x"] > 1:
        raise RuntimeError("x is too large")
    tune.report({"loss": 0.0})


ray.init(num_cpus=2, num_gpus=0)
analysis = tune.run(
    train,
    config={"x": tune.grid_search([1.0, 2.0, 3.5]), "bumps": [0.5, -0.25, 0.25, 0.125]},
    name="analysis",
    metric="loss",
    mode="min",
    resources_per_trial={"cpu": 1, "gpu": 0},
    local_dir="ray_results",
    log_to_file=True,
    verbose=0,
    keep_checkpoints_num=2,
    checkpoint_score_attr="min-loss",
    raise_on_failed_trial=False,
    progress_reporter=tune.CLIReporter(metric_columns=["loss"]),
)
best_trial = analysis.best_trial
frames = analysis.trial_dataframes
read = ExperimentAnalysis("ray_results/analysis", default_metric="acc", default_mode="max")
try:
    tune.run(fails, config={"x": tune.grid_search([1, 2])}, name="failing", local_dir="ray_results", verbose=0)
except TuneError as error:
    failure = str(error)
print("OUTCOME", json.dumps({
    "best_config": analysis.best_config,
    "best_trial": [best_trial.config["x"], best_trial.last_result["loss"], best_trial.trial_id],
    "best_by_acc": analysis.get_best_config("acc", "max")["x"],
    "best_ever": analysis.get_best_trial("loss", "min", "all").metric_analysis["loss"]["min"],
    "logdir": [analysis.best_logdir, analysis.get_best_logdir("loss", "min"), best_trial.logdir, best_trial.local_path],
    "frames": [[os.path.isdir(key), len(frame), float(frame.acc.max())] for key, frame in frames.items()],
    "by_id": frames[best_trial.trial_id]["loss"].tolist(),
    "dataframe": analysis.dataframe(metric="loss", mode="min")["loss"].tolist(),
    "last": analysis.dataframe()["loss"].tolist(),
    "results_df": analysis.results_df["acc"].tolist(),
    "results": sorted(result["acc"] for result in analysis.results.values()),
    "configs": [config["x"] for config in analysis.get_all_configs().values()],
    "checkpoint": open(os.path.join(analysis.best_checkpoint.path, "step")).read(),
    "of_trial": open(os.path.join(analysis.get_best_checkpoint(best_trial, "acc", "max").path, "step")).read(),
    "last_checkpoint": open(os.path.join(analysis.get_last_checkpoint(best_trial).to_directory(), "step")).read(),
    "read": read.best_config["x"],
    "failure": failure,
    "iterations": [trial.last_result["training_iteration"] for trial in analysis.trials],
}))
