"""What several tests share: trainables that travel to member processes, scripts run as a user runs them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Generator
from pathlib import Path
from typing import Any

from shoal import tune
from shoal.checkpoints.store import take_over
from shoal.core.commands import Exploit
from shoal.core.events import SavedCheckpoint
from shoal.history import History
from shoal.journal.sqlite import SQLiteJournal
from shoal.reading import Experiment
from shoal.testing.trainables import climb as climb
from shoal.testing.trainables import load_state as load_state
from shoal.testing.trainables import report_state as report_state
from shoal.tune.schedulers import PopulationBasedTraining


def pbt(**settings: Any) -> PopulationBasedTraining:
    """Return PBT on ``score`` with an interval of 5 iterations, other settings as given."""
    defaults: dict[str, Any] = {
        "time_attr": "training_iteration",
        "perturbation_interval": 5,
        "hyperparam_mutations": {"lr": tune.uniform(0.0, 1.0)},
    }
    return PopulationBasedTraining(**{**defaults, **settings})


def fit(
    trainable: Callable[[dict[str, Any]], Any],
    storage: Path | str,
    *,
    space: dict[str, Any] | None = None,
    stop: Any = None,
    run: dict[str, Any] | None = None,
    **config: Any,
) -> tune.ResultGrid:
    """Run a small experiment: 4 members, metric ``score``, seed 1, silent, unless told otherwise."""
    where: dict[str, Any] = {"storage_path": str(storage), "verbose": 0, **(run or {})}
    where["stop"] = stop or {"training_iteration": 20}
    settings: dict[str, Any] = {"metric": "score", "mode": "max", "num_samples": 4, "seed": 1, **config}
    return tune.Tuner(
        trainable,
        param_space={"lr": tune.uniform(0.0, 1.0)} if space is None else space,
        tune_config=tune.TuneConfig(**settings),
        run_config=tune.RunConfig(**where),
    ).fit()


def commit(source: Path, trial_folder: Path, number: int, *, linked: Collection[str] = ()) -> SavedCheckpoint:
    """Take a checkpoint over, and do what follows from that."""
    saved, settle = take_over(source, trial_folder, number, linked=linked)
    settle()
    return saved


@contextlib.contextmanager
def journal_of(path: str) -> Generator[SQLiteJournal]:
    """Open the journal of an experiment, in a folder or in object storage."""
    with contextlib.closing(Experiment.begin(path)) as experiment:
        journal = SQLiteJournal.open_for_reading(experiment.folder)
        try:
            yield journal
        finally:
            journal.close()


def story(grid: tune.ResultGrid) -> History:
    """Return what the journal of a run tells."""
    with journal_of(grid.experiment_path) as journal:
        return History.of(journal.read())


def items(grid: tune.ResultGrid, kind: type[Any]) -> list[Any]:
    """Return all events or commands of one kind, in the order of the journal."""
    with journal_of(grid.experiment_path) as journal:
        return [record.item for record in journal.read() if isinstance(record.item, kind)]


def lineage(grid: tune.ResultGrid) -> list[tuple[Any, ...]]:
    """Return who copied whom, at which step, with which result: what must not depend on engine and slots."""
    trials = story(grid).trials
    exploits = [exploit for exploit in items(grid, Exploit) if isinstance(exploit, Exploit)]
    return sorted(
        (
            exploit.generation,
            trials[exploit.trial_id].index,
            trials[exploit.donor_id].index,
            exploit.iteration,
            exploit.checkpoint.iteration,
            json.dumps(exploit.new_config, sort_keys=True),
        )
        for exploit in exploits
    )


def run_script(
    source: str, cwd: Path, *, args: tuple[str, ...] = (), stdin: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, from a file in ``cwd`` or from standard input, as a user does."""
    command = [sys.executable]
    if stdin:
        command.append("-")
    else:
        script = cwd / "script.py"
        script.write_text(source)
        command.append(str(script))
    return subprocess.run(
        [*command, *args],
        input=source if stdin else None,
        cwd=cwd,
        env={**os.environ, "SHOAL_DIR": str(cwd / "results"), **environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
