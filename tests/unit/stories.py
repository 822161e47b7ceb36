"""Experiments told record by record, for tests of everything that reads a journal. Nothing runs and no time passes."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shoal.core.commands import (
    CheckpointRecord,
    Continue,
    DeleteCheckpoint,
    Exploit,
    Launch,
    Notice,
    Park,
    Retry,
    Status,
    Stop,
)
from shoal.core.events import Failed, Finished, Lost, Reported, SavedCheckpoint, Started, StopAsked, TrialAdded
from shoal.experiment import ExperimentInfo, Reader
from shoal.history import History
from shoal.journal import Item, Journal
from shoal.journal.memory import MemoryJournal

NOON = 1_795_435_200.0
"""When every story begins, seconds since the epoch."""


def make_info(**changes: Any) -> ExperimentInfo:
    """Return the facts about an experiment like the guide's."""
    facts: dict[str, Any] = {
        "name": "pbt_test",
        "trainable": "train_convnet",
        "run_id": "40bd6",
        "metric": "mean_accuracy",
        "mode": "max",
        "time_attr": "training_iteration",
        "scheduler": "PopulationBasedTraining",
        "logs_policies": True,
        "num_trials": 4,
        "slots": 2,
        "cpus": 1.0,
        "gpus": 0.0,
        "engine": "processes",
        "seed": 1,
        "parameters": ["lr", "momentum"],
        "stop": {"mean_accuracy": 0.96, "training_iteration": 50},
        "started_at": NOON,
    }
    return ExperimentInfo(**{**facts, **changes})


class Story:
    """Writes records and tells the readers, as the driver does: history first, then each reader, then a flush a batch.

    Args:
        folder: the experiment's folder.
        readers: who is told.
        info: facts about the experiment.
        keep_rows: whether the history keeps every result.
        journal: where the records go; in memory by default.
    """

    def __init__(
        self,
        folder: Path,
        *readers: Reader,
        info: ExperimentInfo | None = None,
        keep_rows: bool = True,
        journal: Journal | None = None,
    ) -> None:
        self.folder = folder
        self.readers: Sequence[Reader] = readers
        self.info = info or make_info()
        self.history = History(keep_rows=keep_rows)
        self.journal = journal or MemoryJournal()
        self.now = NOON
        self.saved: dict[str, CheckpointRecord] = {}
        """The newest checkpoint of each trial."""
        for reader in readers:
            reader.start(self.info, folder, self.history)

    # ------------------------------------------------------------------------------------------------------ whole steps

    def tell(self, *items: Item) -> None:
        """Commit items as one batch and let everyone hear of them."""
        for record in self.journal.append(items, self.now):
            self.history.add(record)
            for reader in self.readers:
                reader.take(record)
        for reader in self.readers:
            reader.flush()

    def close(self) -> None:
        """End the story."""
        for reader in self.readers:
            reader.close()

    def name(self, index: int) -> str:
        """Return a trial's id."""
        return f"{self.info.run_id}_{index:05d}"

    def add(self, *configs: dict[str, Any]) -> None:
        """Add trials."""
        items: list[Item] = []
        for config in configs:
            index = len(self.history.trials) + len(items)
            tag = f"{index}_" + ",".join(f"{key}={value}" for key, value in config.items() if key in ("lr", "momentum"))
            name = f"{self.info.trainable}_{self.name(index)}"
            folder = f"{name}_{tag}_2026-11-23_12-00-00".replace("/", "_").replace("\0", "_")
            items.append(TrialAdded(self.name(index), index, name, tag, folder, config))
        self.tell(*items)

    def add_usual(self, count: int = 4) -> None:
        """Add trials with a learning rate and a momentum, and let them start."""
        self.add(*({"lr": (index + 1) / 10, "momentum": 0.9, "checkpoint_interval": 5} for index in range(count)))
        for index in range(count):
            self.launch(index)

    def launch(self, index: int, iteration: int = 0, checkpoint: CheckpointRecord | None = None) -> None:
        """Let a trial's function be entered."""
        trial = self.history.trials[self.name(index)]
        number = trial.launches + 1
        launch = Launch(
            trial.trial_id, number, index % self.info.slots, trial.config, checkpoint, iteration, 0.0, 0, None, True
        )
        self.tell(launch, Started(trial.trial_id, number, 1000 + index, "host"))

    def report(self, index: int, metrics: dict[str, Any] | None = None, **changes: Any) -> Reported:
        """Let a trial report; the iteration goes on from its last one. ``save=True`` brings a checkpoint."""
        item = self.reported(index, metrics, **changes)
        self.tell(item)
        return item

    def reported(
        self, index: int, metrics: dict[str, Any] | None = None, *, save: bool = False, **changes: Any
    ) -> Reported:
        """Return a report that is not told yet."""
        trial = self.history.trials[self.name(index)]
        iteration = changes.pop("iteration", trial.iteration + 1)
        number = len(trial.rows) if trial.rows else trial.iteration
        checkpoint = SavedCheckpoint(number, "d1935", 1000) if save else None
        values: dict[str, Any] = {
            "trial_id": trial.trial_id,
            "launch": trial.launches,
            "iteration": iteration,
            "metrics": {"mean_accuracy": 0.5} if metrics is None else metrics,
            "waiting": False,
            "checkpoint": checkpoint,
            "timestamp": self.now,
            "time_this_iter_s": 0.25,
            "time_total_s": iteration * 0.25,
            "time_since_restore": iteration * 0.25,
            "iterations_since_restore": iteration,
        }
        if save:
            score = values["metrics"].get("mean_accuracy")
            identity = f"{trial.trial_id}/checkpoint_{number:06d}"
            self.saved[trial.trial_id] = CheckpointRecord(
                identity, trial.trial_id, number, "d1935", 1000, iteration, float(iteration), 1.0, score, None
            )
        return Reported(**{**values, **changes})

    def exploit(self, target: int, donor: int, **mutated: Any) -> Exploit:
        """Let a trial copy the newest checkpoint of another, and be launched from it."""
        trial, giver = self.history.trials[self.name(target)], self.history.trials[self.name(donor)]
        checkpoint = self.saved[giver.trial_id]
        item = Exploit(
            trial_id=trial.trial_id,
            launch=trial.launches,
            generation=len(trial.exploits) + 1,
            iteration=trial.iteration,
            score=trial.value("mean_accuracy"),
            donor_id=giver.trial_id,
            donor_iteration=giver.iteration,
            checkpoint=checkpoint,
            donor_config=giver.config,
            old_config=trial.config,
            new_config={**giver.config, **mutated},
        )
        self.tell(item)
        self.launch(target, checkpoint.iteration, checkpoint)
        return item

    def park(self, index: int) -> None:
        """Let a trial wait for a slot."""
        trial = self.history.trials[self.name(index)]
        self.tell(Park(trial.trial_id, trial.launches))

    def go_on(self, index: int) -> None:
        """Let a parked trial go on."""
        trial = self.history.trials[self.name(index)]
        self.tell(Continue(trial.trial_id, trial.launches, 0, None))

    def failed(self, index: int, error: Exception, traceback: str = "") -> Failed:
        """Return a failure that is not told yet."""
        trial = self.history.trials[self.name(index)]
        line = f"{type(error).__name__}: {error}"
        text = traceback or f"Traceback (most recent call last):\n  ...\n{line}\n"
        return Failed(trial.trial_id, trial.launches, line, text, pickle.dumps(error))

    def fail(self, index: int, error: Exception) -> None:
        """Let a trial's function raise, for good."""
        item = self.failed(index, error)
        self.tell(item, Stop(item.trial_id, item.launch, Status.ERROR, item.error))

    def fail_and_retry(self, index: int, error: Exception) -> None:
        """Let a trial's function raise, and be tried again from the start."""
        item = self.failed(index, error)
        self.tell(item, Retry(item.trial_id, 1, 0, item.error))
        self.launch(index)

    def lose(self, index: int, reason: str = "the process was killed by signal 9") -> None:
        """Let a trial's process vanish, for good."""
        trial = self.history.trials[self.name(index)]
        lost = Lost(trial.trial_id, trial.launches, reason)
        self.tell(lost, Stop(trial.trial_id, trial.launches, Status.ERROR, reason))

    def finish(self, index: int, reason: str = "the function returned") -> None:
        """Let a trial end well."""
        trial = self.history.trials[self.name(index)]
        finished = Finished(trial.trial_id, trial.launches)
        self.tell(finished, Stop(trial.trial_id, trial.launches, Status.TERMINATED, reason))

    def delete_checkpoint(self, index: int, number: int) -> None:
        """Let a checkpoint be deleted."""
        self.tell(DeleteCheckpoint(self.name(index), number))

    def notice(self, text: str) -> None:
        """Tell the user something."""
        self.tell(Notice("key", text))

    def stop_all(self, reason: str) -> None:
        """End everything that has not ended."""
        live = [trial for trial in self.history.trials.values() if not trial.status.ended]
        self.tell(
            StopAsked(reason), *(Stop(trial.trial_id, trial.launches, Status.TERMINATED, reason) for trial in live)
        )
