"""A short storm, and a judge who finds what is lost."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import pytest
from tests.faults import storm
from tests.faults.storm_judge import Evidence, gather, judge, outside, snapshot
from tests.faults.storm_script import EXPERIMENTS, tuner

from shoal.journal.brief import BRIEF


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


def test_a_short_storm_on_members_with_shared_memory_leaves_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert storm.main(["--kills", "4", "--seed", "5", "--only", "shared memory"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "lost: 0"


def test_nothing_is_found_where_nothing_is_wrong(whole: Evidence) -> None:
    assert problems(whole, whole) == []


def changed(evidence: Evidence, **fields: Callable[[Any], Any]) -> Evidence:
    """Change the first member."""
    first, *others = evidence.members
    new = {name: change(getattr(first, name)) for name, change in fields.items()}
    return replace(evidence, members=[replace(first, **new), *others])


def without_a_record(whole: Evidence) -> Evidence:
    place = next(place for place, line in enumerate(whole.lines) if place >= 100 and line[2] == BRIEF)
    return replace(whole, lines=[*whole.lines[:place], *whole.lines[place + 1 :]])


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        (without_a_record, "lost: "),
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
    lines = (*taken.lines[:50], (number, at, kind, f"[ {body[1:]}"), *taken.lines[51:])
    assert any(
        text.startswith("lost: ") for text in problems(replace(whole, snapshots=[replace(taken, lines=lines)]), whole)
    )


def test_the_judge_finds_what_is_left_elsewhere(tmp_path: Path) -> None:
    temporary, made = storm.elsewhere(tmp_path / "run")
    memory, gone = SharedMemory(create=True, size=100), SharedMemory(create=True, size=100)
    try:
        made.write_text(f"{memory.name}\n{gone.name}\n")
        gone.close()
        gone.unlink()
        temporary.mkdir()
        (temporary / "shoal-left").touch()
        assert outside(temporary, made, []) == [str(temporary / "shoal-left"), f"/dev/shm/{memory.name}"]
    finally:
        memory.close()
        memory.unlink()


# ---- The strikes -----------------------------------------------------------------------------------------------------


class Prepared(storm.Siege):
    """Strikes nobody, but tells whom it would have struck, and when."""

    def tell(self, noise: random.Random, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
        """``noise``: how many dice each strike throws until it hits, which depends on the machine."""

        def wait_for(moment: storm.Moment, run: storm.Running, dice: random.Random) -> bool:
            for _ in range(noise.randrange(5)):
                dice.random()
            return True

        def hit(run: storm.Running, what: str, moment: str) -> bool:
            self.strikes.append(storm.Strike(0, self.name, what, moment, 0, 0.0))
            return False

        monkeypatch.setattr(storm, "wait_for", wait_for)
        monkeypatch.setattr(self, "_hit", hit)
        monkeypatch.setattr(self, "_sees_nothing_left", lambda run: True)
        monkeypatch.setattr(self, "_let_end", lambda run: False)
        run = storm.Running.__new__(storm.Running)
        run.new = False
        self._run_once(run)
        return [(strike.what, strike.moment) for strike in self.strikes]


def test_the_strikes_of_a_seed_are_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many dice the machine has made those before throw."""

    def strikes(seed: int, siege: int, noise: int) -> list[tuple[str, str]]:
        shown = storm.Storm(seed, tmp_path, lambda line: None)
        prepared = Prepared(shown, "FIFO", EXPERIMENTS["FIFO"], tmp_path / "run", 40, siege)
        return prepared.tell(random.Random(noise), monkeypatch)

    one = strikes(7, 1, noise=0)
    assert one == strikes(7, 1, noise=1)
    assert len(one) == 40
    assert len({what for what, _ in one}) > 3
    for other in (strikes(8, 1, noise=0), strikes(7, 2, noise=0)):
        assert other != one
