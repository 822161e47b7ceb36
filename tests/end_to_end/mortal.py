"""A script whose members kill themselves at any step, for ``test_restore.py``.

    python -m tests.end_to_end.mortal begin|restore FOLDER GATES

Each step draws a number that nobody can draw again, and passes a digest on of all the numbers that made its weights. So
a step that is trained twice is two steps, and can be told from the other one. About gates see ``restorable.py``.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.end_to_end.restorable import pass_gate
from tests.helpers import pbt

from shoal import tune

LAST = 60
SAVED_EVERY = 4


def train(config: dict[str, Any]) -> None:
    """The score grows by ``lr`` with each step; of ten steps, one kills the member, perhaps just after it was told."""
    state: dict[str, Any] = {"step": 0, "score": 0.0, "digest": ""}
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = json.loads(Path(folder, "state.json").read_text())
    drawn = random.SystemRandom()
    while True:
        step = state["step"] + 1
        pass_gate(config, step)
        if drawn.random() < 0.1:
            os.kill(os.getpid(), signal.SIGKILL)
        number = drawn.getrandbits(32)
        state = {"step": step, "score": state["score"] + config["lr"], "digest": digest(state["digest"], number)}
        metrics = {"score": state["score"], "number": number, "digest": state["digest"]}
        if step % SAVED_EVERY:
            tune.report(metrics)
            continue
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "state.json").write_text(json.dumps(state))
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def digest(before: str, number: int) -> str:
    """Return the digest of weights that a step with this number was trained on."""
    return hashlib.sha256(f"{before}{number}".encode()).hexdigest()


def begin(folder: Path, gates: Path) -> tune.ResultGrid:
    """Run the experiment from its beginning."""
    return tune.Tuner(
        train,
        param_space={"lr": tune.uniform(0.0, 1.0), "gates": str(gates)},
        tune_config=tune.TuneConfig(
            metric="score", mode="max", num_samples=4, seed=1, max_concurrent_trials=2,
            scheduler=pbt(perturbation_interval=SAVED_EVERY),
        ),
        run_config=tune.RunConfig(
            name=folder.name, storage_path=folder.parent, verbose=0, stop={"training_iteration": LAST},
            failure_config=tune.FailureConfig(max_failures=-1),
        ),
    ).fit()  # fmt: skip


def restore(folder: Path) -> tune.ResultGrid:
    """Go on with it."""
    return tune.Tuner.restore(folder, train).fit()


if __name__ == "__main__":
    what, folder, gates = sys.argv[1:]
    if what == "begin":
        begin(Path(folder), Path(gates))
    else:
        restore(Path(folder))
