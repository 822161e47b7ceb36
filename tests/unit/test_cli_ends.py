"""How commands end: exit codes, and that what is wrong is said in one line, in the words of the command line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.simulated import write_experiment
from tests.unit.tended import Shoal, command_line

from shoal.cli.wording import in_options


@pytest.fixture
def shoal(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shoal:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "trains_nothing.py").write_text("def train(config): ...\n")
    return command_line(capsys, tmp_path / "results", monkeypatch)


@pytest.fixture
def folder(shoal: Shoal, tmp_path: Path) -> Path:
    return write_experiment(tmp_path / "results" / "sim", members=3, steps=6, files=True)


RUN = ("run", "trains_nothing:train", "--scheduler", "fifo", "--engine", "inline", "-v", "0")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("best", "sim", "--metric", "acuracy"), ["--metric acuracy", "Did you mean 'accuracy'?"]),
        (("best", "sim", "--mode", "maxi"), ["--mode must be one of max, min", "'maxi'"]),
        (("best", "sim", "--scope", "lst"), ["--scope must be one of", "'lst'", "Did you mean 'last'?"]),
        (("demo", "--num-samples", "0"), ["--num-samples", "0"]),
        (("demo", "--iterations", "0"), ["--iterations", "0"]),
        (("demo", "--target", "7"), ["--target", "7"]),
        (("demo", "--data-dir", "/nowhere"), ["--data-dir /nowhere"]),
        (("show", "sim", "0", "--log", "-1"), ["--log", "'-1'"]),
        (("status", "sim", "--rows=0"), ["--rows", "'0'"]),
        (("status", "sim", "--rows", "x"), ["--rows", "'x'"]),
        (("dashboard", "--port", "99999"), ["--port", "'99999'"]),
        (("plot", "sim", "lineage", "-o", "x.gif"), [".gif", ".png"]),
        (("plot", "sim", "--parameter", "lrr"), ["--parameter lrr", "lr"]),
        ((*RUN, "--num-samples", "0"), ["--num-samples must be", "but is 0"]),
        ((*RUN, "--checkpoints-to-keep", "0"), ["--checkpoints-to-keep must be"]),
        ((*RUN, "--checkpoint-frequency", "-1"), ["--checkpoint-frequency must be"]),
        ((*RUN, "--max-concurrent", "0"), ["--max-concurrent must be"]),
        ((*RUN, "--max-failures", "-7"), ["--max-failures must be"]),
        ((*RUN, "--time-budget", "-3"), ["--time-budget must be"]),
        ((*RUN, "--stop", "a=1", "--stop", "a=2"), ["--stop gives a twice"]),
        ((*RUN, "--name", "a/b"), ["--name must be"]),
    ],
    ids=lambda value: " ".join(value[-3:]) if isinstance(value, tuple) else None,
)
def test_wrong_values_are_wrong_usage_told_in_one_line_with_the_option(
    shoal: Shoal, folder: Path, arguments: tuple[str, ...], said: list[str]
) -> None:
    if arguments[0] == "demo":
        pytest.importorskip("torch")
    if arguments[0] == "plot":
        pytest.importorskip("matplotlib")
    code, out, err = shoal(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(part in err for part in said), err
    assert not any(word in err for word in ("Config", "ResultGrid", "get_best_result", "with_resources"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("TuneConfig: num_samples must be 1 or more.", "--num-samples must be 1 or more."),
        ("keep fewer: CheckpointConfig(num_to_keep=1).", "keep fewer: --checkpoints-to-keep 1."),
        ("RunConfig(stop={'loss': 0.1}) ends", "--stop loss=0.1 ends"),
        ("give run_config=tune.RunConfig(stop=...).", "give --stop."),
        ("tune.with_resources(train, {'gpu': 0}).", "--gpus 0."),
        ("2 of 4 trials failed; see ResultGrid.errors.", "2 of 4 trials failed; see 'shoal status'."),
        ("read: tune.ResultGrid.read(folder).", "read: 'shoal status'."),
        ("Give RunConfig another name.", "give another --name."),
        ("nothing of the kind", "nothing of the kind"),
    ],
)
def test_settings_that_have_an_option_are_called_by_it(text: str, expected: str) -> None:
    assert in_options(text) == expected


def test_what_gc_cannot_do_for_want_of_an_end_is_wrong_usage(shoal: Shoal, tmp_path: Path) -> None:
    write_experiment(tmp_path / "results" / "cut", members=2, steps=9, stop_asked_at=4.0)
    code, _, err = shoal("gc", "cut", "--keep-best", "0", "--give-up-restore", "--yes")
    assert code == 2
    assert "interrupted" in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Interrupted(Terminal):
    def readline(self, *size: Any) -> Any:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("stdin", "code", "left"),
    [(Terminal("n\n"), 0, True), (Terminal(""), 0, True), (Interrupted(), 130, True), (Terminal("y\n"), 0, False)],
    ids=["no", "end", "Ctrl-C", "yes"],
)
def test_who_is_asked_by_gc_may_say_no(
    shoal: Shoal, folder: Path, monkeypatch: pytest.MonkeyPatch, stdin: Terminal, code: int, left: bool
) -> None:
    half = next(folder.glob("trial_*")) / ".checkpoint_000099.4711"
    half.mkdir()
    monkeypatch.setattr("sys.stdin", stdin)
    found, out, err = shoal("gc", "sim")
    assert found == code
    assert half.exists() is left
    assert ("freed" in out) is not left
    assert ("nothing was deleted" in err) is (left and code == 0)


def test_list_ends_with_0_although_one_is_damaged_as_its_help_says(shoal: Shoal, folder: Path) -> None:
    (folder / "journal.sqlite").write_bytes(b"no journal" * 500)
    assert shoal("list")[0] == 0
    assert "exit code is 0" in " ".join(shoal("list", "--help")[1].replace("│", " ").split())
    assert shoal("doctor", "sim")[0] == 1


@pytest.mark.parametrize(
    "row",
    [[1, 2, 3], [1, 2], "text", {"a": 1}, ["stamp", {"name": 5}], ["stamp", {"nothing": "known"}]],
    ids=json.dumps,
)
def test_a_row_that_was_remembered_wrongly_is_read_anew(
    shoal: Shoal, folder: Path, tmp_path: Path, row: object
) -> None:
    before = shoal("list", "--format", "json")[1]
    cache = tmp_path / "cache" / "shoal" / "experiments.json"
    known = json.loads(cache.read_text())
    ((key, (stamp, values)),) = known["rows"].items()
    if isinstance(row, list) and row[0] == "stamp":
        row = [stamp, {**values, **row[1]}]
    cache.write_text(json.dumps({**known, "rows": {key: row}}))
    assert shoal("list", "--format", "json")[1] == before


def test_an_output_that_is_closed_is_no_bug(tmp_path: Path) -> None:
    write_experiment(tmp_path / "sim", members=2, steps=2)
    script = f'exec "{sys.executable}" -m shoal list "{tmp_path}" >&-'
    ended = subprocess.run(["sh", "-c", script], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert ended.stderr == ""
    assert ended.returncode == 0


def test_a_reader_that_has_gone_leaves_no_error_and_no_exit_code(tmp_path: Path) -> None:
    write_experiment(tmp_path / "sim", members=2, steps=2)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        ended = subprocess.run(
            [sys.executable, "-m", "shoal", "list", str(tmp_path)],
            stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
