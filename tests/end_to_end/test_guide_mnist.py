"""The guide's MNIST script as a process of its own: real digits, real worker processes, no ``__main__`` guard."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CONFIG_KEYS = {"lr", "momentum", "checkpoint_interval"}
SCRIPT = Path(__file__).with_name("guide_mnist.py")
REPLAY = Path(__file__).with_name("guide_replay.py")

# What the test adds at the end of the script: the figure that plt.show() showed, and the results as data.
TAIL = """
import json
plt.savefig("learning_curve.png")
(line,) = plt.gca().get_lines()
json.dump(
    {
        "accuracies": [result.metrics["mean_accuracy"] for result in results_grid],
        "iterations": [result.metrics["training_iteration"] for result in results_grid],
        "paths": [result.path for result in results_grid],
        "errors": results_grid.num_errors,
        "best": best_result.metrics["mean_accuracy"],
        "best_path": best_result.path,
        "best_config": best_result.config,
        "drawn": [list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))],
        "axes": [plt.gca().get_xlabel(), plt.gca().get_ylabel()],
    },
    open("outcome.json", "w"),
)
"""


# And below the replay.
END = """
json.dump(
    {
        "policy": sample_pbt_trial_log,
        "rows": results_grid[0].metrics_dataframe[["training_iteration", "lr", "config/momentum"]].values.tolist(),
        "path": results_grid[0].path,
    },
    open("replayed.json", "w"),
)
"""


@pytest.mark.slow
def test_the_guides_script_runs_with_only_its_import_lines_changed(tmp_path: Path) -> None:
    storage = tmp_path / "results"
    text = SCRIPT.read_text()
    assert text.count('"/tmp/ray_results"') == 1
    replay = REPLAY.read_text()
    assert replay.count("/tmp/ray_results/") == 1
    assert text.count('"mean_accuracy": 0.96, "training_iteration": 50') == 1
    script = tmp_path / "script.py"
    script.write_text(
        # The target out of reach: of members that are there after a few intervals, none may have copied another, and
        # then there is no policy to replay. And 20 iterations show all that 50 would.
        text.replace('"/tmp/ray_results"', repr(str(storage))).replace(
            '"mean_accuracy": 0.96, "training_iteration": 50', '"mean_accuracy": 1.0, "training_iteration": 20'
        )
        + TAIL
        + replay.replace("/tmp/ray_results/", f"{storage}/")
        + END
    )

    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    outcome: dict[str, Any] = json.loads((tmp_path / "outcome.json").read_text())
    experiment = storage / "pbt_test"

    # Four members trained to the last iteration, and did not overshoot.
    assert outcome["errors"] == 0
    assert len(outcome["accuracies"]) == 4
    for accuracy, iteration in zip(outcome["accuracies"], outcome["iterations"], strict=True):
        assert 0 <= accuracy <= 1
        assert iteration == 20 or accuracy == 1
    assert max(outcome["accuracies"]) == outcome["best"] > 0.9

    # What the script printed.
    assert f"Best result path: {outcome['best_path']}\n" in done.stdout
    assert f"Best final iteration hyperparameter config:\n {outcome['best_config']}\n" in done.stdout
    assert set(outcome["best_config"]) == CONFIG_KEYS
    assert 0.0001 <= outcome["best_config"]["lr"] <= 1

    # The files that the guide names, in the experiment's folder.
    assert all(Path(path).parent == experiment for path in outcome["paths"])
    for path in map(Path, outcome["paths"]):
        lines = [json.loads(line) for line in (path / "result.json").read_text().splitlines()]
        assert lines[-1]["training_iteration"] in outcome["iterations"]
        assert {"mean_accuracy", "lr", "training_iteration", "trial_id"} <= set(lines[-1])
        assert set(json.loads((path / "params.json").read_text())) == CONFIG_KEYS
        assert (path / "progress.csv").read_text().count("\n") == len(lines) + 1
    checkpoints = [folder for folder in Path(outcome["best_path"]).iterdir() if folder.name.startswith("checkpoint_")]
    assert checkpoints
    assert all((folder / "checkpoint.pt").is_file() for folder in checkpoints)

    # The learning curve: the best member's iterations, each once.
    drawn_iterations, drawn_accuracies = outcome["drawn"]
    assert drawn_iterations[0] == 1
    assert len(drawn_iterations) == len(set(drawn_iterations)) <= 20
    assert drawn_accuracies[-1] == pytest.approx(outcome["best"])
    assert outcome["axes"] == ["Training Iterations", "Test Accuracy"]
    assert (tmp_path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")

    _check_replay(json.loads((tmp_path / "replayed.json").read_text()), done.stdout)

    # Nothing went elsewhere.
    made = {"results", "outcome.json", "learning_curve.png", "replayed.json", "shoal_results"}
    assert {path.name for path in tmp_path.iterdir()} == {"script.py", *made}


def _check_replay(replayed: dict[str, Any], printed: str) -> None:
    """The replay trained to its end, with the hyperparameters of its policy at every step."""
    policy = [json.loads(line) for line in Path(replayed["policy"]).read_text().splitlines()]
    configs = [policy[0][4], *(line[5] for line in policy)]
    steps = [line[3] for line in policy]
    rows = replayed["rows"]
    assert [row[0] for row in rows] == list(range(1, 51))
    for step, lr, momentum in rows:
        config = configs[sum(begin < step for begin in steps)]
        assert (lr, momentum) == (config["lr"], config["momentum"])
    for step, config in zip(steps, configs[1:], strict=True):
        assert (
            f"Population Based Training replay is now at step {step}. Configuration will be changed to {config}."
        ) in printed
    assert f"replay: Step {steps[-1]}, perturb {len(steps)}" in printed
    assert Path(replayed["path"]).parent.parent.name == "shoal_results"


def test_only_the_import_lines_name_shoal() -> None:
    text = SCRIPT.read_text() + REPLAY.read_text()
    code = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    naming = [line for line in code if re.search(r"\bshoal\b", line, flags=re.IGNORECASE)]

    assert len(naming) == 6
    assert all(line.startswith(("import ", "from ")) for line in naming)


@pytest.mark.slow
def test_the_demo_trains_a_population_and_draws_it(tmp_path: Path) -> None:
    # Out of reach, so that all members go on to the end, and the worst of them copies another one now and then.
    command = [sys.executable, "-m", "shoal.examples.pbt_mnist", "--target", "1.0", "--iterations", "21"]
    done = subprocess.run(
        [*command, "--name", "demo", "--storage", "results", "--seed", "3"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    experiment = tmp_path / "results" / "demo"
    found = re.search(r"^Best accuracy:  (0\.\d+) after \d+ iterations$", done.stdout, flags=re.MULTILINE)
    assert found is not None, done.stdout
    assert float(found[1]) > 0.9
    assert re.search(r"^Best config:    .*lr=0\.\d+, momentum=0\.\d+", done.stdout, flags=re.MULTILINE)
    assert f"Result:         {experiment}{os.sep}" in done.stdout
    assert f"Learning curve: {experiment / 'learning_curve.png'}" in done.stdout
    assert (experiment / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    exploits = [json.loads(line) for line in (experiment / "pbt_global.txt").read_text().splitlines()]
    assert exploits
    for target, donor, _, _, old, new in exploits:
        assert target != donor
        assert set(old) == set(new) == CONFIG_KEYS
        assert 0.0001 <= new["lr"] <= 1
        assert new["momentum"] in (0.8, 0.9, 0.99)
    assert list(experiment.glob("pbt_policy_*.txt"))
