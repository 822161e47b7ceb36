"""Replay: one member, whose hyperparameters change at given steps. Its weights are its own all the time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.commands import CheckpointRecord
from ..core.events import Config
from ..core.policy import Change, Decision, Explored, Proceed
from ..core.trial import replaced
from ..errors import ConfigError
from ..space import same
from .base import TrialScheduler

__all__ = ["ReplayPolicy", "ReplayScheduler"]


class ReplayScheduler(TrialScheduler):
    """Trains one member on a schedule of hyperparameters.

    Args:
        initial: the config that it begins with.
        changes: (step, config): at that ``training_iteration`` the config changes; in order.
    """

    time_attr = "training_iteration"
    needs_checkpoints = True
    replays = True
    settled: tuple[str, ...] = ("initial", "changes")

    def __init__(self, initial: Config, changes: Sequence[tuple[int, Config]]) -> None:
        self.initial = initial
        self.changes = tuple(changes)

    def describe(self) -> str:
        """Return the name that the status shows."""
        return "PopulationBasedTraining replay"

    def mutated(self) -> list[str]:
        """Return the keys whose values the schedule changes, nested ones as ``a/b``."""
        found: dict[str, None] = {}
        before = self.initial
        for _, config in self.changes:
            found.update(dict.fromkeys(_differences(before, config)))
            before = config
        return list(found)

    def prepare(self, config: Config, index: int, seed: int) -> Config:
        """Return the schedule's first config, with what only the search space has.

        Raises:
            ConfigError: there is more than one trial.
        """
        if index > 0:
            raise ConfigError(
                "A replay trains one member: leave TuneConfig(num_samples=1), and no grid_search in param_space. For "
                "several replays run several experiments."
            )
        return completed(self.initial, config, self.mutated())

    def policy(self, *, mode: str, seed: int, control: frozenset[int] = frozenset()) -> ReplayPolicy:
        """Return the decisions for one experiment."""
        return ReplayPolicy(self.initial, self.changes, self.mutated())


@dataclass
class ReplayPolicy:
    """The decisions of one replay.

    A change needs a checkpoint of its step: the member is entered again from there with the new config. Where the
    report at the step brought none, the change waits for the next report that does.
    """

    initial: Config
    changes: tuple[tuple[int, Config], ...]
    mutated: Collection[str] = ()
    _given: Config = field(default_factory=dict[str, Any])
    """What the trial's config has beside the schedule's."""
    _done: int = 0
    _saved: bool = False
    """Whether a checkpoint came with the newest report."""
    _notice: tuple[str, str] | None = None

    def add(self, trial_id: str, index: int, config: Config) -> None:
        """The trial joined."""
        self._given = _beside(self.initial, config, self.mutated)

    def until(self, trial_id: str) -> float | None:
        """Return the step of the next change."""
        return self.changes[self._done][0] if self._done < len(self.changes) else None

    def observe(self, trial_id: str, score: float | None, checkpoint: CheckpointRecord | None) -> None:
        """Remember whether the newest report came with a checkpoint."""
        self._saved = checkpoint is not None

    def spoiled(self, checkpoint: CheckpointRecord) -> None:
        """Nobody copies here."""

    def fell_back(self, trial_id: str, checkpoint: CheckpointRecord) -> Config | None:
        """Return the schedule's config at that step; the changes behind it come again."""
        done = sum(step <= checkpoint.time for step, _ in self.changes[: self._done])
        if done == self._done:
            return None
        self._done = done
        return completed(self.changes[done - 1][1] if done else self.initial, self._given, self.mutated)

    def decide(self, trial_id: str, time: float, score: float | None) -> list[Decision]:
        """Change the config, where the step has come and a checkpoint is there."""
        due = self._done
        while due < len(self.changes) and self.changes[due][0] <= time:
            due += 1
        if due == self._done:
            return [Proceed(trial_id)]
        if not self._saved:
            self._notice = (
                "replay-checkpoint",
                f"The replay is to change the config at step {self.changes[self._done][0]}, but no checkpoint came "
                f"with this report. It changes with the next checkpoint. Save one at the steps at which the original "
                f"run did.",
            )
            return [Proceed(trial_id)]
        self._done = due
        return [Change(trial_id, completed(self.changes[due - 1][1], self._given, self.mutated))]

    def withdraw(self, trial_id: str) -> None:
        """Nobody waits for others in a replay."""

    def reseed(self, trial_id: str) -> list[Decision] | None:
        """Return None: there is nobody to copy."""
        return None

    def gone(self, trial_id: str, donates: bool = False) -> None:
        """The trial ended."""

    def settle(self) -> list[Decision]:
        """Return nothing: nobody waits."""
        return []

    def back(self, trial_id: str, anew: Config | None) -> None:
        """The trial goes on, or begins from scratch."""
        if anew is not None:
            self._done, self._saved = 0, False
        else:
            # It stands at its checkpoint, or goes back to it.
            self._saved = True

    def recall(self, explored: Explored) -> None:
        """Nothing is explored."""

    def replace(self, config: Config) -> None:
        """Values of the config were replaced; they stay through the changes to come."""
        self._given = replaced(self._given, config)
        self.changes = tuple((step, replaced(scheduled, config)) for step, scheduled in self.changes)

    def notice(self) -> tuple[str, str] | None:
        """Return, once, that a change waits for a checkpoint."""
        notice, self._notice = self._notice, None
        return notice


def _beside(scheduled: Config, config: Config, mutated: Collection[str] = (), prefix: str = "") -> Config:
    """Return the part of a config that did not come from the schedule."""
    beside: Config = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        old = scheduled.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            if inside := _beside(old, value, mutated, f"{path}/"):
                beside[key] = inside
        elif key not in scheduled or _stands_in(value, old, path in mutated):
            beside[key] = value
    return beside


def completed(scheduled: Config, given: Config, mutated: Collection[str] = (), prefix: str = "") -> Config:
    """Return a config of the schedule with the keys that only ``given`` has, and objects in place of others.

    A policy file holds an object, for example a reference from ``shoal.put``, only as text, and what a reference of an
    earlier process refers to is gone. Where ``given`` has an object under the same key, that is taken; but not for one
    that the schedule changes.

    Args:
        scheduled: a config of the schedule.
        given: what the trial has beside it.
        mutated: the keys that the schedule changes, nested ones as ``a/b``.
        prefix: of the keys, as in ``mutated``.
    """
    config = dict(scheduled)
    for key, value in given.items():
        path = f"{prefix}{key}"
        if key not in scheduled:
            config[key] = value
        elif isinstance(value, dict) and isinstance(scheduled[key], dict):
            config[key] = completed(scheduled[key], value, mutated, f"{path}/")
        elif _stands_in(value, scheduled[key], path in mutated):
            config[key] = value
    return config


def _stands_in(value: Any, scheduled: Any, changes: bool) -> bool:
    """Return whether a value is an object that takes the place of the schedule's."""
    return _is_object(value) and (isinstance(scheduled, str) or (_is_object(scheduled) and not changes))


def _is_object(value: Any) -> bool:
    """Return whether a policy file holds such a value only as text."""
    return not (value is None or isinstance(value, (bool, int, float, str, list, tuple, dict)))


def _differences(before: Config, after: Config, prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            found += _differences(old, value, f"{prefix}{key}/")
        elif key not in before or not same(old, value):
            found.append(f"{prefix}{key}")
    return found
