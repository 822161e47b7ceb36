"""``num_to_keep=1``: a thousand exploits, nothing missing, never more on disk than members, twice the slots and two."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import fit, items, load_state, pbt, story
from tests.simulation.scenarios import Scenario

from shoal import tune
from shoal.core.commands import CheckpointRecord, Command, DeleteCheckpoint, FallBack, Launch, checkpoint_id
from shoal.core.events import Damaged, Event, Reported, Saved, SavedCheckpoint, Started
from shoal.core.population import Population
from shoal.testing import Fault

MEMBERS, SLOTS, EXPLOITS = 8, 2, 1000


def train(config: dict[str, Any]) -> None:
    """A random walk, so that whoever is ahead changes all the time; it reads whatever it is given to go on from."""
    step, score = load_state() or (0, 0.0)
    while True:
        step += 1
        score += config["lr"]
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "state.json").write_text(json.dumps([step, score]))
            tune.report({"score": hash((step, score, config["lr"])) % 1000}, tune.Checkpoint.from_directory(folder))


class Walker(tune.Trainable):
    """The same as a class."""

    def setup(self, config: dict[str, Any]) -> None:
        self.steps, self.score = 0, 0.0

    def step(self) -> dict[str, Any]:
        self.steps += 1
        self.score += self.config["lr"]
        return {"score": hash((self.steps, self.score, self.config["lr"])) % 1000}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "state.json").write_text(json.dumps([self.steps, self.score]))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.steps, self.score = json.loads(Path(checkpoint, "state.json").read_text())

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True


def on_disk(run: Path) -> int:
    """Count the checkpoints in an experiment's folder, those included that are being written or deleted."""
    count = 0
    for trial in list(os.scandir(run)) if run.is_dir() else []:
        if trial.is_dir():
            with os.scandir(trial.path) as entries:
                count += sum("checkpoint_" in entry.name for entry in entries)
    return count


class Counts(tune.Callback):
    """Counts the checkpoints on disk after everything that happens, and all the time in between; ends the run."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.most = 0
        self.looks = 0
        self.exploits = 0
        self.over = threading.Event()

    def look(self) -> None:
        self.most = max(self.most, on_disk(self.run))
        self.looks += 1

    def watch(self) -> None:
        while not self.over.wait(0.002):
            self.look()

    def setup(self, **info: Any) -> None:
        threading.Thread(target=self.watch, daemon=True).start()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.look()

    def on_exploit(self, *about: Any, **info: Any) -> None:
        self.exploits += 1

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self.over.set()


class Enough(tune.Stopper):
    """Ends all after so many exploits."""

    def __init__(self, counts: Counts, exploits: int) -> None:
        self.counts = counts
        self.exploits = exploits

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.counts.exploits >= self.exploits


@pytest.mark.parametrize(
    ("trainable", "synch", "residents", "exploits", "frequency"),
    [
        pytest.param(train, False, None, EXPLOITS, 0, id="asynchronous", marks=pytest.mark.slow),
        pytest.param(train, True, None, EXPLOITS, 0, id="synchronous", marks=pytest.mark.slow),
        pytest.param(Walker, False, None, 300, 0, id="three hundred of a class"),
        pytest.param(train, False, 2, 200, 0, id="two residents", marks=pytest.mark.slow),
        pytest.param(train, False, None, 100, 0, id="a hundred"),
        pytest.param(Walker, True, None, 100, 0, id="a hundred of a synchronous class"),
        pytest.param(Walker, False, None, 100, 5, id="a hundred of a class that also saves by itself"),
    ],
)
def test_a_thousand_exploits_need_no_more_than_members_twice_the_slots_and_two_and_miss_nothing(
    trainable: Any, synch: bool, residents: int | None, exploits: int, frequency: int, tmp_path: Path
) -> None:
    counts = Counts(tmp_path / "run")
    kept = tune.CheckpointConfig(num_to_keep=1, checkpoint_frequency=frequency)
    grid = fit(
        trainable, tmp_path, num_samples=MEMBERS, max_concurrent_trials=SLOTS, max_residents=residents,
        scheduler=pbt(perturbation_interval=2 if frequency else 1, quantile_fraction=0.5, synch=synch),
        stop=Enough(counts, exploits), run={"name": "run", "checkpoint_config": kept, "callbacks": [counts]},
    )  # fmt: skip
    assert len(story(grid).exploits) >= exploits
    assert counts.looks > exploits / 10
    # Of each slot, the one that has handed it on and the one that trains there since may both have saved already.
    assert 0 < counts.most <= MEMBERS + 2 * SLOTS + 2
    assert grid.num_errors == 0
    assert items(grid, Damaged) == items(grid, FallBack) == []
    launches = {(item.trial_id, item.launch): item.checkpoint for item in items(grid, Launch)}
    started = items(grid, Started)
    assert len(started) > exploits / 2
    for item in started:
        record = launches[item.trial_id, item.launch]
        assert item.digest == (None if record is None else record.digest)
    left = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").glob("*/*checkpoint_*")}
    known = {
        f"{trial.folder}/checkpoint_{number:06d}" for trial in story(grid).in_order() for number in trial.checkpoints
    }
    assert left == known


# ------------------------------------------------------------------------------------------------------- all the faults


class Disk:
    """A second account of what is on disk, kept from events and commands alone: what a deletion must obey."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.gone: set[str] = set()

    def __call__(self, population: Population, event: Event, commands: list[Command]) -> None:
        saved: SavedCheckpoint | None = event.checkpoint if isinstance(event, Reported | Saved) else None
        if saved is not None and isinstance(event, Reported | Saved):
            identity = checkpoint_id(event.trial_id, saved.number)
            # What comes too late does not count: its number may have been given again.
            if population.retention.knows(identity) or DeleteCheckpoint(event.trial_id, saved.number) in commands:
                assert identity not in self.gone, "a number is used again"
                self.there.add(identity)
        needed: dict[str, CheckpointRecord] = {}
        for trial in population.trials.values():
            if trial.restore is not None:
                needed[trial.restore.id] = trial.restore
        for command in commands:
            if isinstance(command, DeleteCheckpoint):
                identity = checkpoint_id(command.trial_id, command.number)
                assert identity in self.there, f"{identity} is deleted, and is not there"
                assert identity not in needed, f"{identity} is deleted, and somebody would go on from it"
                self.there.discard(identity)
                self.gone.add(identity)
            elif isinstance(command, Launch | FallBack) and command.checkpoint is not None:
                assert command.checkpoint.id in self.there, f"{command.checkpoint.id} is to be loaded, and is gone"
        assert needed.keys() <= self.there
        assert all(population.retention.knows(identity) for identity in self.there)


RATES = st.sampled_from((0.0, 0.01, 0.05, 0.2))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    members=st.integers(1, 9),
    slots=st.integers(1, 5),
    keep=st.sampled_from((None, 1, 1, 1, 2, 3)),
    score=st.sampled_from((None, None, "score")),
    synch=st.booleans(),
    of_class=st.booleans(),
    every=st.sampled_from((1, 1, 2, 3, 5)),
    residents=st.booleans(),
    replace=st.booleans(),
    failures=st.sampled_from((0, 2, -1)),
    landscape=st.sampled_from(("noise", "improves", "ties", "worsens")),
    rates=st.fixed_dictionaries(dict.fromkeys(Fault, RATES)),
    kills=st.lists(st.integers(1, 150), max_size=3, unique=True).map(sorted),
    interval=st.sampled_from((1.0, 1.0, 2.0, 3.0)),
)
def test_deletions_obey_the_pins_under_all_faults(
    seed: int, members: int, slots: int, keep: int | None, score: str | None, synch: bool, of_class: bool, every: int,
    residents: bool, replace: bool, failures: int, landscape: str, rates: dict[Fault, float], kills: list[int],
    interval: float,
) -> None:  # fmt: skip
    # Whoever saves seldom, fails at most steps and is tried again for ever, hardly ever comes to its next checkpoint.
    most = 0.2 if every < 3 else 0.05
    scenario = Scenario(
        seed=seed, members=members, slots=slots, residents=slots if residents else None, synch=synch, interval=interval,
        quantile="0.5", landscape=landscape, length=12, checkpoint_every=every, of_class=of_class,
        num_to_keep=keep, score_attribute=score, max_failures=failures, replace_failed=replace,
        faults=tuple((fault, min(rate, most)) for fault, rate in rates.items()),
    )  # fmt: skip
    disk = Disk()
    simulation = scenario.simulation(disk)  # type: ignore[arg-type]
    result = simulation.run(kill_after=kills[0] if kills else None)
    for kill in [*kills[1:], None] if kills else []:
        if len(result.events) < (kill or 10**9):
            result = scenario.simulation(disk).go_on(result, kill_after=kill)  # type: ignore[arg-type]
    assert result.checkpoints == disk.there
    if keep == 1 and score is None:
        # Beside what each member keeps there is one for each slot that is being written, and those that are damaged.
        assert result.peak_checkpoints <= members + slots + 2
