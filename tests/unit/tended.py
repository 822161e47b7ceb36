"""What the tests of ``shoal doctor`` and ``shoal gc`` begin with: a real run, and what may have happened to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import climb, pbt

from shoal import tune
from shoal.cli import main
from shoal.reading import Experiment
from shoal.sinks import LogFiles, PolicyFiles

Shoal = Callable[..., tuple[int, str, str]]


def command_line(capsys: pytest.CaptureFixture[str], storage: Path, monkeypatch: pytest.MonkeyPatch) -> Shoal:
    """Return what runs a command in this process, and returns its exit code, what it prints, and its errors."""
    monkeypatch.setenv("SHOAL_DIR", str(storage))
    monkeypatch.setenv("XDG_CACHE_HOME", str(storage.parent / "cache"))

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def save_always(config: dict[str, Any]) -> None:
    climb({**config, "every": 1})


def explore_nothing(config: dict[str, Any]) -> dict[str, Any]:
    return config


def run_in(storage: Path, **settings: Any) -> tune.ResultGrid:
    return tune.Tuner(
        save_always,
        param_space={"lr": tune.grid_search([0.1, 0.2, 0.3, 0.4])},
        tune_config=tune.TuneConfig(metric="score", mode="max", scheduler=pbt(**settings), seed=1, engine="inline"),
        run_config=tune.RunConfig(name="pbt", storage_path=storage, verbose=0, stop={"training_iteration": 15}),
    ).fit()


def cut_off(folder: Path) -> None:
    """Leave an experiment as a driver leaves it that was killed in the middle of its run."""
    lose_records(folder)
    experiment = Experiment.open(folder)
    for writer in (LogFiles(), PolicyFiles()):
        writer.start(experiment.info, folder, experiment.history)
        writer.close()
    for trial in experiment.history.in_order():
        known = [entry.row.report.checkpoint for entry in trial.checkpoints.values()]
        following = max((saved.number for saved in known if saved is not None), default=-1) + 1
        for path in (folder / trial.folder).glob("checkpoint_*"):
            if int(path.name[-6:]) > following:  # one was there whose report had not arrived
                shutil.rmtree(path)


def lose_records(folder: Path) -> None:
    """Have the journal forget the last third of its records, as where the log beside it is damaged."""
    import sqlite3

    with sqlite3.connect(folder / "journal.sqlite") as connection:
        (count,) = connection.execute("SELECT count(*) FROM journal").fetchone()
        # The last record of a transaction has a negative checksum: up to such a one, the journal is whole.
        (last,) = connection.execute(
            "SELECT max(seq) FROM journal WHERE crc < 0 AND seq < ?", (count * 2 // 3,)
        ).fetchone()
        connection.execute("DELETE FROM journal WHERE seq > ?", (last,))
        facts = dict(connection.execute("SELECT key, value FROM meta WHERE key != '$records'"))
        connection.execute("DELETE FROM meta WHERE key = '$records'")
        from shoal.journal.sqlite import _seal_of

        connection.execute("UPDATE meta SET value = ? WHERE key = '$crc'", (_seal_of(facts),))
    connection.close()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def findings(shoal: Shoal, *arguments: str) -> Iterator[dict[str, Any]]:
    (found,) = json.loads(shoal("doctor", *arguments, "--format", "json")[1])
    yield from found["findings"]


def problems(shoal: Shoal, *arguments: str) -> list[str]:
    return [each["check"] for each in findings(shoal, *arguments) if each["level"] == "problem"]
