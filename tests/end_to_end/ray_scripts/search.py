"""Random and grid search with the default scheduler: no population based training at all."""
import json

from ray import tune
from ray.tune import Callback, CLIReporter, FailureConfig, RunConfig, TuneConfig
from ray.tune.stopper import MaximumIterationStopper


def objective(x, a, b):
    return a * (x**0.5) + b


def trainable(config, offset):
    for x in range(20):
        tune.report({"score": objective(x, config["a"], config["b"]) + offset})


def one_value(config):
    return {"score": config["a"]}


space = {"a": tune.grid_search([0.001, 0.01, 1.0]), "b": tune.choice([1, 2]), "c": tune.uniform(0, 1)}
tuner = tune.Tuner(
    tune.with_resources(tune.with_parameters(trainable, offset=1), {"cpu": 1}),
    param_space=space,
    tune_config=TuneConfig(metric="score", mode="max", num_samples=2, max_concurrent_trials=2, search_alg=None),
    run_config=RunConfig(
        name="search",
        stop=MaximumIterationStopper(max_iter=5),
        failure_config=FailureConfig(max_failures=1),
        progress_reporter=CLIReporter(parameter_columns=["a", "b"]),
        callbacks=[Callback()],
        verbose=1,
    ),
)
results = tuner.fit()
best = results.get_best_result(metric="score", mode="max")
frame = results.get_dataframe()
returned = tune.Tuner(one_value, param_space={"a": tune.grid_search([3, 5])}, run_config=RunConfig(verbose=0)).fit()
print("OUTCOME", json.dumps({
    "trials": len(results),
    "errors": len(results.errors),
    "best": best.config["a"],
    "score": best.metrics["score"],
    "iterations": frame["training_iteration"].tolist(),
    "a": sorted(frame["config/a"].tolist()),
    "returned": [result.metrics["score"] for result in returned],
}))
