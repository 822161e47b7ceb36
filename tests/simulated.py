"""Experiments in a folder, as a driver leaves them, made in a moment: the core decides, members and time are simulated.

For tests of what reads journals. Nothing in the journal can be told from that of a real run but the times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal import space
from shoal.core.commands import Command, checkpoint_name
from shoal.core.events import Config, Event, Opened, Reported
from shoal.core.population import Population
from shoal.core.rng import stream
from shoal.experiment import ExperimentInfo
from shoal.journal.sqlite import SQLiteJournal
from shoal.naming import trial_id
from shoal.schedulers import PopulationBasedTraining, TrialScheduler
from shoal.testing import Simulation, Train

STARTED_AT = 1_700_000_000.0
"""Seconds since the epoch, as simulated members have it."""
MUTATIONS: dict[str, Any] = {
    "lr": space.loguniform(1e-4, 1.0),
    "momentum": space.uniform(0.5, 0.99),
    "activation": ["relu", "gelu", "tanh"],
}


def learn(config: Config, state: tuple[int, float] | None) -> tuple[dict[str, Any], tuple[int, float]]:
    """One step of something like a network: what is the best learning rate becomes smaller as it learns."""
    step, loss = state or (0, 0.9)
    step += 1
    best = 0.1 * 0.93**step
    off = math.log10(config["lr"] / best)
    speed = math.exp(-off * off) * (0.8 + 0.4 * (config["momentum"] - 0.5))
    floor = 0.02 + 0.15 * min(1.0, max(0.0, off)) ** 2
    loss = floor + (loss - floor) * (1.0 - 0.15 * speed)
    noise = stream(7, "noise", step, repr(config["lr"])).gauss(0.0, 0.004)
    return {"accuracy": 1.0 - loss + noise, "loss": loss}, (step, loss)


def configs(members: int, seed: int) -> list[Config]:
    """Return the configs that the members begin with."""
    drawn = space.expand({"batch": 64, **_domains()}, members, seed)
    return [variant.config for variant in drawn]


def _domains() -> dict[str, Any]:
    return {**MUTATIONS, "activation": space.choice(["relu", "gelu", "tanh"])}


def pbt(**settings: Any) -> PopulationBasedTraining:
    """Return PBT on the accuracy, as the simulated members report it."""
    defaults: dict[str, Any] = {
        "time_attr": "training_iteration",
        "metric": "accuracy",
        "mode": "max",
        "perturbation_interval": 5,
        "hyperparam_mutations": MUTATIONS,
    }
    return PopulationBasedTraining(**{**defaults, **settings})


def write_experiment(
    folder: Path,
    *,
    members: int = 8,
    steps: int = 40,
    seed: int = 0,
    scheduler: TrialScheduler | None = None,
    train: Train = learn,
    files: bool = False,
    facts: Mapping[str, Any] | None = None,
    **simulation: Any,
) -> Path:
    """Write the journal of a simulated experiment into a new folder, and return that.

    Args:
        folder: the experiment's folder.
        members, steps, seed: how many, how long, and of all draws.
        scheduler: default :func:`pbt`.
        train: one step of a member; default :func:`learn`.
        files: whether the members' folders are there, with a file in each checkpoint that is left.
        facts: fields of ``ExperimentInfo`` that are to differ.
        **simulation: for :class:`Simulation`; ``slots`` is 4 by default.
    """
    scheduler = scheduler or pbt()
    run_id = "51a1a"
    now = [STARTED_AT]
    told: list[tuple[float, Event, list[Command]]] = []

    def watch(population: Population, event: Event, commands: list[Command]) -> None:
        if isinstance(event, Reported):
            now[0] = max(now[0], event.timestamp)
        told.append((now[0], event, list(commands)))

    settings: dict[str, Any] = {
        "slots": 4,
        "stop": {"training_iteration": steps},
        "num_to_keep": 2,
        "start_time": 0.4,
        "duration": lambda index, step, config: 0.8 + 0.05 * (index % 5),
        "validate": False,
        "watch": watch,
        **simulation,
    }
    run = Simulation(train, configs(members, seed), scheduler, seed=seed, **settings)
    result = run.run()
    folder.mkdir(parents=True)
    told_facts: dict[str, Any] = {
        "name": folder.name,
        "trainable": "learn",
        "run_id": run_id,
        "metric": run.metric,
        "mode": run.mode,
        "time_attr": scheduler.time_attr,
        "scheduler": scheduler.describe(),
        "logs_policies": scheduler.logs_policies,
        "num_trials": members,
        "slots": len(run.limits.devices),
        "cpus": 1.0,
        "gpus": 0.0,
        "engine": "processes",
        "seed": seed,
        "parameters": list(MUTATIONS),
        "log_parameters": ["lr"],
        "exploits": scheduler.controls,
        "control": sorted(run.control),
        "stop": dict(settings["stop"]),
        "devices": list(run.limits.devices),
        "started_at": STARTED_AT,
        **(facts or {}),
    }
    info = ExperimentInfo(**told_facts)
    journal = SQLiteJournal.create(folder)
    journal.set_meta(**info.to_meta())
    journal.append([result.opened], STARTED_AT)
    for at, event, commands in told:
        if not isinstance(event, Opened):
            journal.append([event, *commands], at)
    journal.close()
    if files:
        for trial in result.trials.values():
            (folder / trial.trial_id).mkdir()
            (folder / trial.trial_id / "output.log").write_text(f"I am {trial.trial_id}\n")
        for checkpoint in result.checkpoints:
            owner, _, name = checkpoint.rpartition("/")
            (folder / owner / name).mkdir()
            (folder / owner / name / "state.json").write_text("{}")
    return folder


__all__ = ["MUTATIONS", "STARTED_AT", "checkpoint_name", "configs", "learn", "pbt", "trial_id", "write_experiment"]
