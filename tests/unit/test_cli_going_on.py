"""What is said about going on with an experiment that was interrupted."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.simulated import write_experiment

from shoal.cli import main
from shoal.reading import Experiment, State, find_experiments
from shoal.tuner import Tuner

Run = Callable[..., tuple[int, str]]
MODULE = """
import os, signal
from shoal import tune

def train(config):
    for step in range(1_000_000):
        tune.report({"score": step})
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run ``shoal run`` or ``resume`` in a folder with an older experiment; return the exit code and the hint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_DIR", str(tmp_path / "results"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "interrupts.py").write_text(MODULE)
    older = write_experiment(tmp_path / "results" / "older", members=2, steps=3)
    os.utime(older / "journal.lock", (1e9, 1e9))  # by a process of the same number, as in a container
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(command: str, *arguments: str) -> tuple[int, str]:
        code = main([command, *arguments, "-v", "0", "--engine", "inline"])
        _, _, hint = capsys.readouterr().err.partition("shoal: to go on: ")
        return code, hint.strip()

    yield run
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_run_without_a_name_is_named_by_the_one_that_it_was_given(run: Run, tmp_path: Path) -> None:
    code, hint = run("run", "interrupts:train", "--scheduler", "fifo")
    assert code == 130
    (new,) = [path.name for path in find_experiments(tmp_path / "results") if path.name != "older"]
    assert hint == f"shoal resume {new} interrupts:train"


@pytest.mark.filterwarnings("ignore:.*begin from scratch")
def test_in_another_storage_folder_it_is_named_by_its_path_in_a_form_that_a_shell_takes(
    run: Run, tmp_path: Path
) -> None:
    storage = tmp_path / "my results"
    code, hint = run("run", "interrupts:train", "--scheduler", "fifo", "--storage", str(storage))
    assert code == 130
    (new,) = find_experiments(storage)
    assert shlex.split(hint) == ["shoal", "resume", str(new), "interrupts:train"]
    assert Experiment.open(new).state is State.INTERRUPTED
    code, hint = run("resume", str(new), "interrupts:train")
    assert code == 130
    assert shlex.split(hint) == ["shoal", "resume", str(new), "interrupts:train"]


def test_where_nothing_has_begun_no_other_experiment_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(tuner: Tuner) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Tuner, "fit", interrupted)
    assert run("run", "interrupts:train", "--scheduler", "fifo") == (130, "")
