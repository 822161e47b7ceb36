"""How the report card is printed: at the end of a run, in terminals and pipes of any kind."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from shoal import tune
from shoal.card import ReportCard, Statement, Verdict
from shoal.display.card import card_lines, show_card

from ..helpers import climb, fit, pbt

LONG = "a statement that goes on and on, because there is much to be said about it, more than fits into a line " * 2
CARD = ReportCard(
    "run",
    (
        Statement("one", Verdict.GOOD, LONG, "many numbers, " * 20),
        Statement("two", Verdict.BAD, "ends with \x1b[2J escape codes of a name, and ✓", "1 of 2"),
    ),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_no_line_is_wider_than_it_may_be_and_nothing_is_lost(width: int) -> None:
    lines = card_lines(CARD, width)[1:]
    assert max(map(len, lines)) <= width
    words = " ".join(" ".join(lines).split())
    assert LONG.strip() in words
    assert "From: 1 of 2" in words


def test_evidence_can_be_left_out() -> None:
    assert not [line for line in card_lines(CARD, evidence=False) if "From" in line]


def test_codes_in_names_do_not_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    stream = Terminal()
    show_card(CARD, stream)
    codes = set(re.findall(r"\x1b\[[^m]*m?", stream.getvalue()))
    assert codes == {"\x1b[1;32m", "\x1b[1;31m", "\x1b[2m", "\x1b[0m"}


def test_a_pipe_gets_no_codes() -> None:
    stream = io.StringIO()
    show_card(CARD, stream)
    assert "\x1b" not in stream.getvalue()
    assert "\n  + a statement" in stream.getvalue()


def test_a_stream_that_is_closed_or_knows_few_letters_ends_nothing() -> None:
    closed = io.StringIO()
    closed.close()
    show_card(CARD, closed)
    raw = io.BytesIO()
    narrow = io.TextIOWrapper(raw, encoding="ascii")
    show_card(CARD, narrow)
    assert b"\\u2713" in raw.getvalue()


def test_a_card_without_statements_prints_nothing() -> None:
    stream = io.StringIO()
    show_card(ReportCard("run", ()), stream)
    assert stream.getvalue() == ""


def test_a_card_that_cannot_be_made_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune.ResultGrid, "report_card", lambda grid: 1 / 0)
    with pytest.warns(UserWarning, match="The report card cannot be made: ZeroDivisionError"):
        grid = fit(climb, tmp_path, engine="inline", run={"verbose": 1})
    assert len(grid) == 4


@pytest.mark.parametrize("verbose", [0, 1])
def test_a_run_ends_with_its_report_card_unless_it_is_to_be_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verbose: int
) -> None:
    grid = tune.Tuner(
        climb,
        param_space={"lr": tune.uniform(0.0, 1.0)},
        tune_config=tune.TuneConfig(
            metric="score", mode="max", num_samples=4, scheduler=pbt(), engine="inline", seed=1
        ),
        run_config=tune.RunConfig(storage_path=tmp_path, name="run", stop={"training_iteration": 20}, verbose=verbose),
    ).fit()
    printed = capsys.readouterr().out
    assert ("PBT report card" in printed) == bool(verbose)
    if verbose:
        lines = card_lines(tune.ResultGrid.read(grid.experiment_path).report_card())
        assert printed.rstrip().endswith("\n".join(lines))
