"""A script that trains and can be killed at any moment, for ``test_restore.py``; and its members.

    python -m tests.end_to_end.restorable begin|restore function|class FOLDER GATES

Members wait at the steps of :data:`GATES` until there is a file of that name in the folder ``GATES``, so that whoever
kills the script knows that it cannot have ended meanwhile.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.helpers import load_state, pbt, report_state

from shoal import tune

GATES = (17, 33, 48)
LAST = 60
INTERVAL = 5


def pass_gate(config: dict[str, Any], step: int) -> None:
    """Wait where there is a gate at this step."""
    while step in GATES and not Path(config["gates"], str(step)).exists():
        time.sleep(0.005)


def train(config: dict[str, Any]) -> None:
    """The score grows by ``lr`` with each step; a checkpoint every :data:`INTERVAL` steps."""
    step, score = load_state() or (0, 0.0)
    while True:
        step += 1
        pass_gate(config, step)
        score += config["lr"]
        report_state(step, score, {"score": score, "lr": config["lr"]}, save=step % INTERVAL == 0)


class Climber(tune.Trainable):
    """The same as a class. It never asks for a checkpoint, so all of them are Shoal's own."""

    def setup(self, config: dict[str, Any]) -> None:
        self.score = 0.0

    def step(self) -> dict[str, Any]:
        pass_gate(self.config, self.iteration + 1)
        self.score += self.config["lr"]
        return {"score": self.score, "lr": self.config["lr"]}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "state.json").write_text(json.dumps(self.score))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.score = json.loads(Path(checkpoint, "state.json").read_text())


TRAINABLES: dict[str, Any] = {"function": train, "class": Climber}


def begin(kind: str, folder: Path, gates: Path, **settings: Any) -> tune.ResultGrid:
    """Run the experiment from its beginning."""
    run: dict[str, Any] = {"name": folder.name, "storage_path": folder.parent, "verbose": 0}
    config: dict[str, Any] = {
        "metric": "score", "mode": "max", "num_samples": 4, "seed": 1, "max_concurrent_trials": 2,
        "scheduler": pbt(synch=True, perturbation_interval=INTERVAL),
    }  # fmt: skip
    run["stop"] = {"training_iteration": settings.pop("length", LAST)}
    return tune.Tuner(
        TRAINABLES[kind],
        param_space={"lr": tune.uniform(0.0, 1.0), "gates": str(gates)},
        tune_config=tune.TuneConfig(**config, **settings),
        run_config=tune.RunConfig(**run),
    ).fit()


def restore(kind: str, folder: Path, **options: Any) -> tune.ResultGrid:
    """Go on with it."""
    return tune.Tuner.restore(folder, TRAINABLES[kind], **options).fit()


if __name__ == "__main__":
    what, kind, folder, gates = sys.argv[1:]
    if what == "begin":
        begin(kind, Path(folder), Path(gates))
    else:
        restore(kind, Path(folder))
