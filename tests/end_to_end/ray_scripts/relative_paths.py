# Members write to the same relative path at the same time, as scripts for Ray Tune do.
import os

import ray
from ray import tune


def train(config):
    os.makedirs("my_model", exist_ok=True)
    for step in range(5):
        with open("my_model/weights.txt", "w") as file:
            file.write(str(config["number"]))
        tune.report({"score": step}, checkpoint=tune.Checkpoint.from_directory("my_model"))


ray.init()
results = tune.Tuner(train, param_space={"number": tune.grid_search([1, 2, 3, 4])}).fit()
for result in results:
    with open(os.path.join(result.checkpoint.path, "weights.txt")) as file:
        assert int(file.read()) == result.config["number"]
    assert os.path.isdir(os.path.join(result.path, "my_model"))
assert not os.path.exists("my_model")
print("each its own")
