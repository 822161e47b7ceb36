"""Where weights come from: the members that trained them, step by step, and the hyperparameters they were trained with.

Plain data, read from the history. ``Result.lineage()`` and ``Result.schedule()`` return it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, overload

from .core.commands import Exploit
from .core.events import Config
from .core.reports import flatten
from .errors import ConfigError, ResultError
from .history import History, Row, TrialHistory
from .sinks.files import to_json
from .space import same

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Lineage", "Schedule", "Segment", "data_frame", "lineage_of", "schedule_of"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of steps in which one member trained the weights with one config."""

    trial_id: str
    """The member that trained."""
    trial: int
    """Its number in the population."""
    first_step: int
    """``training_iteration`` of the first step of the stretch; the weights began at the step before."""
    last_step: int
    """``training_iteration`` of its last step; one less than ``first_step`` where it has none."""
    config: Config
    """The hyperparameters of all its steps."""
    checkpoint: str | None
    """Id of the checkpoint that it began with, ``<trial id>/checkpoint_NNNNNN``; None: from scratch."""
    donor_id: str | None
    """The member whose checkpoint that was, where the stretch began with an exploit; None elsewhere."""
    digest: str | None = None
    """Digest of that checkpoint's files: XXH3, 128 bits, in hex."""

    @property
    def steps(self) -> int:
        """How many steps it has."""
        return self.last_step - self.first_step + 1


class Lineage(Sequence[Segment]):
    """The exact ancestry of some weights: segments, oldest first, without gaps from step 1 to the last.

    Args:
        segments: in their order.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = tuple(segments)

    def __len__(self) -> int:
        return len(self._segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    @overload
    def __getitem__(self, index: int) -> Segment: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Segment]: ...

    def __getitem__(self, index: int | slice) -> Segment | Sequence[Segment]:
        return self._segments[index]

    def to_dataframe(self) -> pd.DataFrame:
        """Return a table with one row for each segment; hyperparameters are in columns such as ``config/lr``.

        Raises:
            ImportError: pandas is not installed.
        """
        return data_frame(
            {**_plain(segment), **{f"config/{key}": value for key, value in flatten(segment.config)}}
            for segment in self
        )

    def to_json(self, indent: int | None = None) -> str:
        """Return a JSON list with an object for each segment, ``config`` among its keys.

        Args:
            indent: spaces of each level; None: all in one line.
        """
        return _indented([{**_plain(segment), "config": segment.config} for segment in self], indent)

    def __repr__(self) -> str:
        lines = [
            f"\n  steps {segment.first_step} to {segment.last_step}: trial {segment.trial}"
            f"{'' if segment.checkpoint is None else f' from {segment.checkpoint}'}, {segment.config!r}"
            for segment in self
        ]
        return f"Lineage({','.join(lines)})"

    def _repr_html_(self) -> str | None:
        from .display.reprs import lineage_html

        return lineage_html(self._segments)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Hyperparameters by step: what a replay trains with.

    ``changes`` holds (step, config): weights that have ``step`` steps behind them train on with ``config``. In order;
    the first is (0, the initial config).
    """

    changes: tuple[tuple[int, Config], ...]

    @property
    def initial(self) -> Config:
        """The config of the first step.

        Raises:
            ResultError: the schedule is empty.
        """
        return self._not_empty()[0][1]

    def at(self, step: int) -> Config:
        """Return the config that the ``step``-th step was trained with; after the last change, any step will do.

        Args:
            step: a whole number from 1.

        Raises:
            ConfigError: it is none.
            ResultError: the schedule is empty, or begins later.
        """
        changes = self._not_empty()
        if isinstance(step, bool) or not isinstance(step, Integral) or step < 1:
            raise ConfigError(
                f"Schedule.at: step must be a whole number, 1 for the first step, but is {step!r}. The config that "
                f"training begins with is Schedule.initial."
            )
        reached = [config for begin, config in changes if begin < step]
        if not reached:
            raise ResultError(
                f"Schedule.at: the schedule begins after step {changes[0][0]}, so it has no config for step {step}."
            )
        return reached[-1]

    def _not_empty(self) -> tuple[tuple[int, Config], ...]:
        if not self.changes:
            raise ResultError(
                "The schedule is empty, so it has no config: its trial has reported nothing. Take one of a trial that "
                "has, or look at Schedule.changes first."
            )
        return self.changes

    def to_dataframe(self) -> pd.DataFrame:
        """Return a table with one row for each change: ``step``, and a column for each hyperparameter (``a/b``).

        A hyperparameter that is itself called ``step`` is in ``config/step``.

        Raises:
            ImportError: pandas is not installed.
        """
        return data_frame(
            {"step": step, **{"config/step" if key == "step" else key: value for key, value in flatten(config)}}
            for step, config in self.changes
        )

    def to_json(self, indent: int | None = None) -> str:
        """Return a JSON list of objects with ``step`` and ``config``.

        Args:
            indent: spaces of each level; None: all in one line.
        """
        return _indented([{"step": step, "config": config} for step, config in self.changes], indent)

    def _repr_html_(self) -> str | None:
        from .display.reprs import schedule_html

        return schedule_html(self.changes)


def lineage_of(trial: TrialHistory, row: Row, history: History) -> Lineage:
    """Return the lineage of the weights that a result is of."""
    links = [] if row.ancestry is None else list(row.ancestry.oldest_first())
    segments: list[Segment] = []
    begin, checkpoint, donor, digest = 0, None, None, None
    for link in links:
        copied = link.change.checkpoint
        trained = history.trials[copied.trial_id]
        segments.append(
            Segment(
                trained.trial_id, trained.index, begin + 1, copied.iteration, link.config, checkpoint, donor, digest
            )
        )
        begin, checkpoint, digest = copied.iteration, copied.id, copied.digest
        donor = link.change.donor_id if isinstance(link.change, Exploit) else None
    last = Segment(trial.trial_id, trial.index, begin + 1, row.report.iteration, row.config, checkpoint, donor, digest)
    return Lineage([*segments, last])


def schedule_of(lineage: Lineage) -> Schedule:
    """Return the hyperparameters by step; of segments without steps, nothing remains."""
    changes: list[tuple[int, Config]] = []
    for segment in lineage:
        if segment.steps > 0 and not (changes and same(changes[-1][1], segment.config)):
            changes.append((segment.first_step - 1, segment.config))
    return Schedule(tuple(changes))


def _plain(segment: Segment) -> dict[str, Any]:
    return {
        "trial_id": segment.trial_id,
        "trial": segment.trial,
        "first_step": segment.first_step,
        "last_step": segment.last_step,
        "checkpoint": segment.checkpoint,
        "donor_id": segment.donor_id,
        "digest": segment.digest,
    }


def data_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a table with these rows.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("DataFrames need pandas: pip install pandas") from error
    frame: pd.DataFrame = pd.DataFrame(list(rows))
    return frame


def _indented(value: Any, indent: int | None) -> str:
    text = to_json(value)
    return text if indent is None else json.dumps(json.loads(text), indent=indent)
