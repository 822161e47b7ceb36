"""Functions and a class to be trained in tests: exact, quick, and importable wherever members run."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from .. import tune

__all__ = ["Climber", "climb", "load_state", "play", "report_state"]


def climb(config: dict[str, Any]) -> None:
    """The score grows by ``lr`` with each step; a checkpoint every ``every`` steps (5). It never ends by itself."""
    step, score = load_state() or (0, 0.0)
    while True:
        step += 1
        score += config["lr"]
        report_state(step, score, {"score": score, "step": step}, save=step % config.get("every", 5) == 0)


def load_state() -> tuple[int, float] | None:
    """Return what :func:`report_state` saved in the member's checkpoint, or None."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        step, score = json.loads(Path(folder, "state.json").read_text())
    return step, score


def report_state(step: int, score: float, metrics: dict[str, Any], *, save: bool) -> None:
    """Report the metrics, with the state in a checkpoint or without."""
    if not save:
        tune.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "state.json").write_text(json.dumps([step, score]))
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def play(config: dict[str, Any]) -> Any:
    """Be whatever function the config brings along as ``play``, so that members of one engine can be different."""
    return config["play"](config)


class Climber(tune.Trainable):
    """As :func:`climb`, as a class. It takes over a new config in place."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin at 0."""
        self._score = 0.0
        self._lr = config["lr"]

    def step(self) -> dict[str, Any]:
        """Climb by ``lr``."""
        self._score += self._lr
        return {"score": self._score}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save the score."""
        Path(checkpoint_dir, "score.json").write_text(json.dumps(self._score))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load what was saved."""
        self._score = json.loads(Path(checkpoint, "score.json").read_text())

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the new ``lr``."""
        self._lr = new_config["lr"]
        return True
