"""What users read of a simulated experiment, out of its journal."""

from __future__ import annotations

from collections import Counter
from typing import Any

from shoal.history import History
from shoal.journal.codec import Record, decode, encode
from shoal.testing import SimulationResult


def history_of(result: SimulationResult) -> History:
    """Return what is read from the journal of an experiment, written and read back."""
    return History.of(Record(place, 0.0, decode(*encode(item))) for place, item in enumerate(result.journal, start=1))


def check_results(result: SimulationResult) -> None:
    """No result counts twice, and each trial has one for each of its steps."""
    for trial in history_of(result).in_order():
        counts = Counter((row.generation, row.report.iteration) for row in trial.rows)
        assert max(counts.values(), default=1) == 1
        if trial.last is not None:
            assert [row.report.iteration for row in trial.last.steps()] == list(range(1, trial.iteration + 1))


def told(result: SimulationResult) -> list[Any]:
    """Return lineage, and each trial's schedule and results, as users read them."""
    history = history_of(result)
    rows = [
        [
            (row.generation, row.report.iteration, repr(row.report.metrics), sorted(row.config.items()))
            for row in trial.last.steps()
        ]
        for trial in history.in_order()
        if trial.last is not None
    ]
    ends = [(trial.trial_id, trial.status, trial.iteration) for trial in history.in_order()]
    # Where members are asked to save before they leave, their checkpoints have other numbers.
    lineage = [(*entry[:4], *entry[5:]) for entry in result.lineage]
    return [lineage, rows, ends]
