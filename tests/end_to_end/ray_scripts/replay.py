"""A run of PBT, and the replay of one of its schedules on a single trial."""
import glob
import json
import os
import tempfile

from ray import tune
from ray.tune.schedulers import PopulationBasedTraining, PopulationBasedTrainingReplay


def train(config):
    step, total = 1, 0.0
    checkpoint = tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder, open(os.path.join(folder, "state.json")) as f:
            step, total = json.load(f)
        step += 1
    while True:
        total += config["lr"]
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "state.json"), "w") as f:
                json.dump([step, total], f)
            tune.report({"score": total, "lr": config["lr"]}, checkpoint=tune.Checkpoint.from_directory(folder))
        step += 1


pbt = PopulationBasedTraining(
    time_attr="training_iteration",
    metric="score",
    mode="max",
    perturbation_interval=3,
    hyperparam_mutations={"lr": tune.uniform(0.0, 1.0)},
    synch=True,
)
stop = {"training_iteration": 12}
tune.Tuner(
    train,
    param_space={"lr": tune.uniform(0.0, 1.0)},
    tune_config=tune.TuneConfig(scheduler=pbt, num_samples=4),
    run_config=tune.RunConfig(name="pbt_test", stop=stop, storage_path=os.path.abspath("ray_results"), verbose=0),
).fit()

policy = sorted(glob.glob(os.path.expanduser("ray_results/pbt_test/pbt_policy*.txt")))[0]
with open(policy) as f:
    steps = [json.loads(line) for line in f]
results = tune.Tuner(
    train,
    tune_config=tune.TuneConfig(scheduler=PopulationBasedTrainingReplay(policy)),
    run_config=tune.RunConfig(stop=stop, verbose=0),
).fit()
frame = results[0].metrics_dataframe
print("OUTCOME", json.dumps({
    "policy": [[entry[3], entry[5]["lr"]] for entry in steps],
    "first": steps[0][4]["lr"],
    "iterations": frame["training_iteration"].tolist(),
    "lr": frame["lr"].tolist(),
    "error": str(results[0].error),
}))
