"""Which checkpoints a restore needs, as ``gc`` and ``doctor`` read it off a journal: held against the core."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.simulated import configs, learn, pbt

from shoal.cli.files import read_files
from shoal.core.commands import CheckpointRecord, Command
from shoal.core.events import Event, Opened
from shoal.core.population import Population
from shoal.journal.codec import Record
from shoal.testing import Simulation
from shoal.testing.faults import Fault, random_faults

EVERY = 9
"""Events between two looks: as many drivers are killed."""


def ways_back(population: Population) -> dict[str, list[CheckpointRecord]]:
    """Return what each trial may go on from, the one that it would take first of all."""
    return {
        trial.trial_id: [
            *([] if trial.restore is None else [trial.restore]),
            *reversed(population.retention.existing(trial.older)),
        ]
        for trial in population.trials.values()
    }


@pytest.mark.parametrize("seed", [0, 1, 2, 30, 64, 72])
@pytest.mark.parametrize(("keep", "every"), [(None, 1), (1, 2), (2, 5)])
def test_whatever_has_failed_what_a_restore_goes_on_from_is_known_to_be_needed(
    seed: int, keep: int | None, every: int
) -> None:
    told: list[tuple[Event, list[Command], dict[str, list[CheckpointRecord]]]] = []

    def watch(population: Population, event: Event, commands: list[Command]) -> None:
        told.append((event, list(commands), ways_back(population)))

    faults = random_faults(seed, {Fault.CRASH: 0.05, Fault.DAMAGE: 0.3, Fault.RAISE: 0.03})
    run = Simulation(
        learn, configs(6, seed), pbt(), seed=seed, slots=3, stop={"training_iteration": 20}, num_to_keep=keep,
        max_failures=-1, replace_failed=bool(seed % 2), checkpoint_every=every, faults=faults, validate=False,
        watch=watch,
    )  # fmt: skip
    opened = run.run().opened
    records = [] if isinstance(told[0][0], Opened) else [Record(1, 0.0, opened)]
    looks = 0
    for place, (event, commands, ways) in enumerate(told):
        records += [Record(len(records) + 1 + more, 0.0, item) for more, item in enumerate((event, *commands))]
        if place % EVERY:
            continue
        files = read_files(Path("nowhere"), records)
        needed, trials = files.needed(), files.history.trials
        for trial_id, candidates in ways.items():
            whole = [way.id for way in candidates if way.number in trials[way.trial_id].whole]
            looks += bool(whole)
            assert not whole or whole[0] in needed, (place, trial_id, candidates)
    assert looks > 10
