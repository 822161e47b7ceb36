"""PBT of a ConvNet with the function API and ray.init, in the manner of the guide, with fewer and smaller steps."""
import json
import os
import sys
import tempfile

import torch
import torch.optim as optim

import ray
from ray import tune
from ray.tune.examples.mnist_pytorch import ConvNet, get_data_loaders, test_func
from ray.tune.schedulers import PopulationBasedTraining


def train_convnet(config):
    step = 1
    train_loader, test_loader = get_data_loaders()
    model = ConvNet()
    optimizer = optim.SGD(model.parameters(), lr=config.get("lr", 0.01), momentum=config.get("momentum", 0.9))

    checkpoint = tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as checkpoint_dir:
            state = torch.load(os.path.join(checkpoint_dir, "checkpoint.pt"))
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        for group in optimizer.param_groups:
            group["lr"] = config["lr"]
            group["momentum"] = config["momentum"]
        step = state["step"] + 1

    while True:
        ray.tune.examples.mnist_pytorch.train_func(model, optimizer, train_loader)
        metrics = {"mean_accuracy": test_func(model, test_loader), "lr": config["lr"]}
        if step % config["checkpoint_interval"] == 0:
            with tempfile.TemporaryDirectory() as tmpdir:
                torch.save(
                    {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()},
                    os.path.join(tmpdir, "checkpoint.pt"),
                )
                tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(tmpdir))
        else:
            tune.report(metrics)
        step += 1


scheduler = PopulationBasedTraining(
    time_attr="training_iteration",
    perturbation_interval=2,
    metric="mean_accuracy",
    mode="max",
    hyperparam_mutations={"lr": tune.uniform(0.02, 0.1), "momentum": [0.8, 0.9, 0.99]},
)

if ray.is_initialized():
    ray.shutdown()
ray.init(include_dashboard=False, log_to_driver=False)

tuner = tune.Tuner(
    train_convnet,
    run_config=tune.RunConfig(
        name="pbt_test",
        stop={"mean_accuracy": 0.96, "training_iteration": 6},
        checkpoint_config=tune.CheckpointConfig(checkpoint_score_attribute="mean_accuracy", num_to_keep=4),
        storage_path=sys.argv[1],
        progress_reporter=tune.CLIReporter(metric_columns=["mean_accuracy", "training_iteration"]),
    ),
    tune_config=tune.TuneConfig(scheduler=scheduler, num_samples=4),
    param_space={
        "lr": tune.uniform(0.02, 0.1),
        "momentum": tune.uniform(0.5, 0.9),
        "checkpoint_interval": 2,
    },
)
results_grid = tuner.fit()

best_result = results_grid.get_best_result(metric="mean_accuracy", mode="max")
print("Best result path:", best_result.path)
df = best_result.metrics_dataframe.drop_duplicates(subset="training_iteration", keep="last")
print("OUTCOME", json.dumps({
    "accuracies": [result.metrics["mean_accuracy"] for result in results_grid],
    "iterations": df["training_iteration"].tolist(),
    "config": best_result.config,
    "path": best_result.path,
}))
