"""A short storm, and a judge who finds what is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.faults import storm
from tests.faults.storm_judge import Evidence, gather, judge, snapshot
from tests.faults.storm_script import EXPERIMENTS, tuner


def test_a_short_storm_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert storm.main(["--kills", "8", "--seed", "3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "lost: 0"
    kills, _, gentler = said[-2].partition(" kill -9 and ")
    assert int(kills) >= 8
    strikes = int(kills) + int(gentler.partition(" ")[0])
    assert [line.split()[:2] for line in said if line.strip().startswith("in all")] == [["in", "all"]]
    assert any(line.split()[2:] == [str(strikes)] * 2 for line in said if line.strip().startswith("in all"))


# ---- The judge -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """An experiment that nobody killed, looked at in its midst by a copy of its beginning."""
    folder = tmp_path_factory.mktemp("judge") / "run"
    tuner(EXPERIMENTS["synchronous"], folder, engine="inline").fit()
    evidence = gather(folder)
    taken = snapshot(folder, alive=False)
    return replace(evidence, snapshots=[replace(taken, lines=taken.lines[:400], shown=())])


def problems(evidence: Evidence, reference: Evidence) -> list[str]:
    return judge(evidence, EXPERIMENTS["synchronous"], reference).problems


def test_nothing_is_found_where_nothing_is_wrong(whole: Evidence) -> None:
    assert problems(whole, whole) == []


def changed(evidence: Evidence, **fields: Callable[[Any], Any]) -> Evidence:
    """Change the first member."""
    first, *others = evidence.members
    new = {name: change(getattr(first, name)) for name, change in fields.items()}
    return replace(evidence, members=[replace(first, **new), *others])


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        (lambda whole: replace(whole, lines=[*whole.lines[:100], *whole.lines[101:]]), "lost: "),
        (lambda whole: changed(whole, rows=lambda rows: rows[:-1]), "lost: "),
        (lambda whole: changed(whole, rows=lambda rows: [*rows, rows[-1]]), "twice: "),
        (lambda whole: changed(whole, logged=lambda rows: [*rows[:3], *rows[2:]]), "twice: "),
        (
            lambda whole: changed(whole, rows=lambda rows: [{**rows[0], "score": rows[0]["score"] + 1e-9}, *rows[1:]]),
            "different: ",
        ),
        (lambda whole: changed(whole, curve=lambda rows: rows[:-1]), "different: "),
        (lambda whole: changed(whole, policy=lambda lines: ["another", *lines]), "different: "),
        (lambda whole: changed(whole, checkpoints=lambda there: dict(list(there.items())[1:])), "lost: "),
        (lambda whole: replace(whole, exploits=whole.exploits[:-1]), "different: "),
        (lambda whole: replace(whole, damaged=["a/checkpoint_000000: its bytes"]), "damaged: "),
        (lambda whole: replace(whole, leftovers=["/dev/shm/something"]), "leftovers: "),
        (lambda whole: replace(whole, members=whole.members[1:]), "lost: "),
    ],
    ids=[
        "a record is gone", "a result is gone", "a result counts twice", "a line is there twice", "a score is other",
        "the curve lacks a step", "a policy is other", "a checkpoint is gone", "an exploit is gone", "damage",
        "something is left", "a member is gone",
    ],
)  # fmt: skip
def test_the_judge_finds(tamper: Callable[[Evidence], Evidence], found: str, whole: Evidence) -> None:
    assert any(text.startswith(found) for text in problems(tamper(whole), whole))


def test_the_judge_finds_a_record_that_was_changed_after_it_was_committed(whole: Evidence) -> None:
    (taken,) = whole.snapshots
    number, at, kind, body = taken.lines[50]
    lines = (*taken.lines[:50], (number, at, kind, body + " "), *taken.lines[51:])
    assert any(
        text.startswith("lost: ") for text in problems(replace(whole, snapshots=[replace(taken, lines=lines)]), whole)
    )


def test_the_strikes_of_a_seed_are_the_same_again(tmp_path: Path) -> None:
    one, two = (storm.Storm(7, tmp_path, lambda line: None).dice for _ in range(2))
    assert [one.random() for _ in range(5)] == [two.random() for _ in range(5)]
