"""Facts about an experiment as a whole, written once at its start: what every reader of its journal begins with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .history import History
from .journal.codec import Record

__all__ = ["ExperimentInfo", "Reader"]


@dataclass(frozen=True, slots=True)
class ExperimentInfo:
    """What does not change during a run. Kept in the journal as JSON values."""

    name: str
    trainable: str
    """Name of the user's function."""
    run_id: str
    """Five hex digits that begin every trial id."""
    metric: str | None
    mode: str
    time_attr: str
    scheduler: str
    logs_policies: bool
    """Whether exploits are written to ``pbt_global.txt`` and ``pbt_policy_*.txt``."""
    num_trials: int
    slots: int
    cpus: float
    """CPUs of one trial."""
    gpus: float
    """GPUs of one trial."""
    engine: str
    seed: int
    parameters: list[str] = field(default_factory=list[str])
    """Config keys (``a/b`` where nested) that were sampled or mutate: those worth a column in a table."""
    stop: dict[str, float] = field(default_factory=dict[str, float])
    """``RunConfig.stop`` where it was a dict."""
    time_budget_s: float | None = None
    replay: bool = False
    """Whether the scheduler replays the schedule of an earlier run."""
    devices: list[str] = field(default_factory=list[str])
    """For each slot, the ``CUDA_VISIBLE_DEVICES`` of its members; ``""`` leaves it alone."""
    started_at: float = 0.0
    """Seconds since the epoch."""
    log_parameters: list[str] = field(default_factory=list[str])
    """Those of ``parameters`` that are on a logarithmic scale."""
    versions: dict[str, str] = field(default_factory=dict[str, str])
    """Of Shoal, Python and those large libraries that the script had loaded, when it was run last."""
    exploits: bool = False
    """Whether the scheduler has members copy each other."""
    control: list[int] = field(default_factory=list[int])
    """Numbers of the trials that are kept out of all exploits, to compare with."""
    memory: int = 0
    """Bytes of memory of one trial; 0: not said."""
    custom: dict[str, float] = field(default_factory=dict[str, float])
    """Custom resources of one trial."""
    place: str | None = None
    """The URL that the experiment is kept under, while a driver runs it; None where it is in a folder only."""

    def to_meta(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> ExperimentInfo:
        """Return the facts that :meth:`to_meta` gave; unknown ones are left out."""
        names = {entry.name for entry in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in meta.items() if key in names})


class Reader(Protocol):
    """Something that is told what the journal says, while the experiment runs: log files, the status, callbacks.

    A reader never decides anything. An error in a reader is shown and ends that reader, not the run.
    """

    def start(self, info: ExperimentInfo, folder: Path, history: History) -> None:
        """The experiment begins, or goes on after a restore: then ``history`` holds what happened before.

        ``folder`` is its folder; ``history`` stays up to date by itself.
        """
        ...

    def take(self, record: Record) -> None:
        """A record was committed. ``history`` has taken it in, and none that comes after it."""
        ...

    def flush(self) -> None:
        """A batch of records is complete."""
        ...

    def close(self) -> None:
        """The experiment has ended, or was interrupted."""
        ...
