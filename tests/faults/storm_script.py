"""A user's script that is started again and again until its experiment has ended; ``storm.py`` kills it meanwhile.

    python -m tests.faults.storm_script EXPERIMENT FOLDER
    python -m tests.faults.storm_script EXPERIMENT URL        # on the cluster that the environment names

Each member keeps a chain of digests in its state: every step folds in its number, its config and the state before. So
what a member reports tells from which checkpoint and with which config each of its steps was trained, and the judge
(``storm_judge.py``) computes it again. A member also refuses weights that cannot be its own.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import shoal
from shoal import tune
from shoal.tune.schedulers import PopulationBasedTraining

PAUSE = "STORM_PAUSE_S"
"""The environment variable that says how long a step takes, so that there is something to kill."""
MADE = "STORM_MADE"
"""The environment variable with the file to which members write what they have made in shared memory."""
SAVED_EVERY = 3
INTERVAL = 6
SHARED = list(range(7, 107))
"""What ``shoal.put`` stores."""


# ---- What a step does, for members and for the judge ---------------------------------------------------------------


def next_state(state: dict[str, Any], config: dict[str, Any], shared: int) -> dict[str, Any]:
    """Return the state after one step more: its number, a score and the chain, which follow from the state before."""
    step = state["step"] + 1
    text = f"{state['chain']} {step} {config['lr']!r} {config['mark']!r} {shared}"
    chain = hashlib.sha256(text.encode()).hexdigest()[:16]
    score = state["score"] + config["lr"] * (0.5 + int(chain, 16) / 2**64)
    return {"step": step, "score": score, "chain": chain, "lr": config["lr"], "mark": config["mark"]}


def first_state() -> dict[str, Any]:
    """Return the state before the first step."""
    return {"step": 0, "score": 0.0, "chain": ""}


# ---- The members -----------------------------------------------------------------------------------------------------


def load(folder: str, config: dict[str, Any], own: bool) -> dict[str, Any]:
    """Return the state in a checkpoint; raise where the config does not belong to it.

    ``mark`` never mutates, so it comes from the donor with the weights; of a member's own, ``lr`` is the same, too.
    """
    state: dict[str, Any] = json.loads(Path(folder, "state.json").read_text())
    keys = ("mark", "lr") if own else ("mark",)
    if any(state[key] != config[key] for key in keys):
        raise AssertionError(f"refused: the checkpoint {folder} was trained with {state}, but the config is {config}")
    return state


def pause() -> None:
    """Take some time."""
    time.sleep(float(os.environ.get(PAUSE, "0")))


def train(config: dict[str, Any]) -> None:
    """A member as a function: it saves every :data:`SAVED_EVERY` steps, and never ends by itself."""
    state, checkpoint = first_state(), tune.get_checkpoint()
    if checkpoint is not None:
        own = Path(checkpoint.path).parent == Path(tune.get_context().get_trial_dir())
        state = load(checkpoint.path, config, own)
    data = config.get("data")
    shared = 0 if data is None else sum(shoal.get(data))
    while True:
        pause()
        state = next_state(state, config, shared)
        if state["step"] % SAVED_EVERY:
            tune.report(state)
            continue
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "state.json").write_text(json.dumps(state))
            Path(folder, "weights").write_bytes(state["chain"].encode() * 1000)
            tune.report(state, checkpoint=tune.Checkpoint.from_directory(folder))


HELD: list[Any] = []


def sharing(config: dict[str, Any]) -> None:
    """As :func:`train`, with what libraries make in shared memory: it has no owner but a process that tracks it."""
    if MADE in os.environ:
        memory, semaphore = SharedMemory(create=True, size=1000), multiprocessing.get_context("spawn").Semaphore()
        HELD.extend([memory, semaphore])
        with open(os.environ[MADE], "a") as made:
            made.write(f"{memory.name}\nsem.{semaphore._semlock.name.lstrip('/')}\n")  # type: ignore[attr-defined]
    train(config)


class Climber(tune.Trainable):
    """A member as a class; where nothing else is said, all its checkpoints are Shoal's own."""

    def setup(self, config: dict[str, Any]) -> None:
        self.state = first_state()

    def step(self) -> dict[str, Any]:
        pause()
        self.state = next_state(self.state, self.config, 0)
        return self.state

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "state.json").write_text(json.dumps(self.state))
        Path(checkpoint_dir, "weights").write_bytes(self.state["chain"].encode() * 1000)

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.state = load(checkpoint, self.config, own=False)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        return True


# ---- The experiments -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Experiment:
    """One that is small: seconds, where nobody kills it.

    Args:
        trainable: what trains a member.
        seeded: whether decisions follow from the seed alone, so that it must end as one that nobody killed.
        synch: of PBT; None: FIFO.
        last: the number of steps.
        tune: more settings for ``TuneConfig``.
        keep: more settings for ``CheckpointConfig``.
        timeout_s: ``report_timeout_s``, for members that are stopped and not killed.
        puts: whether the config has an object that ``shoal.put`` stores.
    """

    trainable: Callable[..., Any]
    seeded: bool = False
    synch: bool | None = None
    last: int = 54
    tune: dict[str, Any] = field(default_factory=dict[str, Any])
    keep: dict[str, Any] = field(default_factory=dict[str, Any])
    timeout_s: float | None = None
    puts: bool = False


EXPERIMENTS = {
    "synchronous": Experiment(train, seeded=True, synch=True, tune={"num_samples": 6}),
    "asynchronous": Experiment(train, synch=False, keep={"num_to_keep": 1}, timeout_s=2.0),
    "class, synchronous": Experiment(Climber, seeded=True, synch=True, tune={"num_samples": 5}),
    "few residents": Experiment(
        train, seeded=True, synch=True, tune={"num_samples": 6, "max_residents": 3}, keep={"num_to_keep": 1}
    ),
    "class, few residents": Experiment(
        Climber, synch=False, tune={"max_residents": 2}, keep={"num_to_keep": 1, "checkpoint_frequency": 4}
    ),
    "FIFO": Experiment(train, seeded=True, keep={"num_to_keep": 1}, timeout_s=2.0),
    "shared objects": Experiment(train, seeded=True, synch=True, puts=True),
    "shared memory": Experiment(sharing, seeded=True, synch=True, keep={"num_to_keep": 1}, timeout_s=2.0),
    "one slot": Experiment(
        Climber, seeded=True, synch=True, tune={"max_concurrent_trials": 1}, keep={"num_to_keep": 2}
    ),
    "synchronous, keeps one": Experiment(
        train, seeded=True, synch=True, tune={"num_samples": 6}, keep={"num_to_keep": 1}, timeout_s=2.0
    ),
}  # fmt: skip


def tuner(experiment: Experiment, folder: Path | str, **settings: Any) -> tune.Tuner:
    """Return what runs the experiment, or goes on with it: the same lines whether or not there is anything yet.

    ``folder`` may be a URL; ``settings``: more of those of ``TuneConfig``, where it begins.
    """
    data = {"data": shoal.put(SHARED)} if experiment.puts else {}
    if tune.Tuner.can_restore(folder):
        return tune.Tuner.restore(folder, experiment.trainable, param_space=data)
    scheduler = None
    if experiment.synch is not None:
        scheduler = PopulationBasedTraining(
            time_attr="training_iteration",
            perturbation_interval=INTERVAL,
            hyperparam_mutations={"lr": tune.uniform(0.0, 1.0)},
            synch=experiment.synch,
        )
    storage, _, name = str(folder).rpartition("/")
    given: dict[str, Any] = {"num_samples": 4, "max_concurrent_trials": 2, **experiment.tune, **settings}
    return tune.Tuner(
        experiment.trainable,
        param_space={"lr": tune.uniform(0.0, 1.0), "mark": tune.randint(0, 10**9), **data},
        tune_config=tune.TuneConfig(metric="score", mode="max", seed=11, scheduler=scheduler, **given),
        run_config=tune.RunConfig(
            name=name,
            storage_path=storage,
            verbose=0,
            stop={"training_iteration": experiment.last},
            checkpoint_config=tune.CheckpointConfig(**experiment.keep),
            failure_config=tune.FailureConfig(max_failures=-1, report_timeout_s=experiment.timeout_s),
        ),
    )


if __name__ == "__main__":
    on_cluster: dict[str, Any] = {"engine": "ray", "max_concurrent_trials": 3} if "://" in sys.argv[2] else {}
    tuner(EXPERIMENTS[sys.argv[1]], sys.argv[2], **on_cluster).fit()
