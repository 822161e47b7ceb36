"""What the tests of the cluster share: a trainable that goes on from checkpoints, and what a run has decided."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

from shoal import tune
from shoal.reading import Experiment
from tests.helpers import load_state, pbt, report_state

__all__ = ["Strikes", "decided", "run", "slow"]


def slow(config: dict[str, Any]) -> None:
    """As ``climb``, with steps that take time, so that a node can die in between."""
    step, score = load_state() or (0, 0.0)
    while True:
        time.sleep(0.02)
        step += 1
        score += config["lr"]
        report_state(step, score, {"score": score, "step": step, "process": os.getpid()}, save=step % 5 == 0)


class Strikes(tune.Callback):
    """Does something to the cluster when the driver has heard of so many results.

    Args:
        strikes: what, by the number of the result.
    """

    def __init__(self, strikes: dict[int, Callable[[], object]]) -> None:
        self._strikes = dict(strikes)
        self._heard = 0
        self.result: dict[str, Any] = {}
        """The one that was heard of last."""

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        self._heard += 1
        self.result = result
        if self._heard in self._strikes:
            self._strikes[self._heard]()
            del self._strikes[self._heard]

    def check(self) -> None:
        """Make sure that all have come, and that none has raised."""
        assert not self._strikes


def run(
    storage: str, name: str, *, steps: int = 40, strikes: Strikes | None = None, engine: str | None = None, **more: Any
) -> tune.ResultGrid:
    """Run eight seeded members to a step, by synchronous PBT unless told otherwise.

    Args:
        storage: where to.
        name: of the experiment.
        steps: after how many a member ends.
        strikes: what happens meanwhile.
        engine: None: as said by ``shoal.init``.
        **more: ``trainable``, ``space``, ``verbose``, ``failure`` and ``keep`` (settings of the failure and checkpoint
            config), and settings of ``TuneConfig``.
    """
    settings: dict[str, Any] = {"num_samples": 8, "scheduler": pbt(synch=True), "seed": 1, **more}
    failure, keep = settings.pop("failure", {}), settings.pop("keep", {})
    trainable, space = settings.pop("trainable", slow), settings.pop("space", {})
    verbose = settings.pop("verbose", 0)
    return tune.Tuner(
        trainable,
        param_space={"lr": tune.uniform(0.0, 1.0), **space},
        tune_config=tune.TuneConfig(metric="score", mode="max", engine=engine, **settings),
        run_config=tune.RunConfig(
            name=name,
            storage_path=storage,
            stop={"training_iteration": steps},
            verbose=verbose,
            failure_config=tune.FailureConfig(**failure),
            checkpoint_config=tune.CheckpointConfig(**keep),
            callbacks=[] if strikes is None else [strikes],
        ),
    ).fit()


def decided(grid: tune.ResultGrid) -> tuple[Any, ...]:
    """Return what a run has decided and reached: what must not depend on where it ran and what happened there."""
    history = Experiment.open(grid.experiment_path).history
    index = {trial.trial_id: trial.index for trial in history.trials.values()}
    exploits = [
        [
            (exploit.generation, index[exploit.donor_id], exploit.iteration, json.dumps(exploit.new_config))
            for exploit in trial.exploits
        ]
        for trial in history.in_order()
    ]
    return exploits, [(trial.iteration, trial.value("score")) for trial in history.in_order()]
