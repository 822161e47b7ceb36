"""What every scheduler offers: the user's settings, checked, and a policy for each experiment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from ..core.events import Config
    from ..core.policy import Policy

__all__ = ["MODES", "TrialScheduler", "check_mode"]

MODES = ("max", "min")


def check_mode(mode: object, where: str) -> None:
    """Raise ConfigError unless ``mode`` is None, ``max`` or ``min``."""
    if mode is not None and mode not in MODES:
        hint = did_you_mean(str(mode), MODES)
        raise ConfigError(f"{where}: mode must be 'max' (larger is better) or 'min', but is {mode!r}.{hint}")


class TrialScheduler(ABC):
    """Settings of a scheduler. Holds no state of a run, so one object serves any number of experiments.

    Attributes:
        time_attr: the key of a report that measures progress.
        metric: the key of a report that is compared, or None to take ``TuneConfig.metric``.
        mode: ``max`` or ``min``, or None to take ``TuneConfig.mode``.
        require_attrs: whether a report without ``metric`` or ``time_attr`` is an error.
        needs_metric: whether it cannot work without a metric.
        needs_checkpoints: whether it decides nothing without checkpoints.
        replays: whether it repeats the schedule of an earlier run.
        controls: whether members can be kept out of its exploits, for ``TuneConfig(control=...)``.
        settled: settings that past decisions follow from, so that they stay when an experiment goes on.
        logs_policies: whether exploits are written to ``pbt_global.txt`` and ``pbt_policy_*.txt``.
    """

    time_attr: str = "training_iteration"
    metric: str | None = None
    mode: str | None = None
    require_attrs: bool = True
    needs_metric: bool = False
    needs_checkpoints: bool = False
    logs_policies: bool = False
    replays: bool = False
    controls: bool = False
    seed: int | None = None
    settled: tuple[str, ...] = ()

    @abstractmethod
    def policy(self, *, mode: str, seed: int, control: frozenset[int] = frozenset()) -> Policy:
        """Return the decisions for one experiment.

        Args:
            mode: ``max`` or ``min``.
            seed: of all decisions.
            control: numbers of the members that neither copy nor are copied; only where ``controls`` is set.
        """

    @abstractmethod
    def describe(self) -> str:
        """Return the scheduler's name, as the status shows it."""

    def check(self, param_space: dict[str, Any]) -> None:  # noqa: B027 - most schedulers have nothing to check
        """Raise ConfigError where the settings do not fit the search space."""

    def rehearse(self, config: Config, seed: int) -> None:  # noqa: B027 - most schedulers have nothing to rehearse
        """Call the user's functions once before anything starts, so that their errors do not come hours later."""

    def prepare(self, config: Config, index: int, seed: int) -> Config:
        """Return the trial's first config, completed where the scheduler needs keys of its own."""
        return config

    def log_keys(self) -> list[str]:
        """Return those of ``mutated()`` that are on a logarithmic scale."""
        return []

    def kin(self, config: Config) -> Hashable:
        """Return what members with this config have in common with those that they may copy."""
        return None

    def mutated(self) -> list[str]:
        """Return the config keys (``a/b`` where nested) that change during a run."""
        return []
