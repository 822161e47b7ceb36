"""The files that pages show: never any outside of an experiment's folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shoal.dashboard.files import names_in, tail_of


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "output.log").write_text("secret\n")
    (tmp_path / "experiment" / "trial").mkdir(parents=True)
    return tmp_path / "experiment"


def test_the_end_of_a_file_is_shown_by_whole_lines(experiment: Path) -> None:
    (experiment / "trial" / "output.log").write_text("".join(f"line {number}\n" for number in range(100_000)))
    tail = tail_of(experiment, "trial", "output.log", lines=5)
    assert tail is not None
    assert tail.lines == tuple(f"line {number}" for number in range(99_995, 100_000))
    assert not tail.whole
    everything = tail_of(experiment, "trial", "output.log", lines=10**6)
    assert everything is not None
    assert not everything.whole
    assert all(line.startswith("line ") for line in everything.lines)


def test_a_short_file_is_whole(experiment: Path) -> None:
    (experiment / "trial" / "output.log").write_text("one\ntwo")
    tail = tail_of(experiment, "trial", "output.log")
    assert tail is not None
    assert (tail.lines, tail.whole, tail.size) == (("one", "two"), True, 7)


def test_what_is_no_text_is_shown_as_far_as_it_is(experiment: Path) -> None:
    (experiment / "trial" / "output.log").write_bytes(b"a\xffb\x00\n\x1b[31mred\x1b[0m\n10%\r20%\r30%\n")
    tail = tail_of(experiment, "trial", "output.log")
    assert tail is not None
    assert tail.lines == ("a�b", "red", "30%")


def test_a_line_without_end_is_cut(experiment: Path) -> None:
    (experiment / "trial" / "output.log").write_text("x" * 1_000_000)
    tail = tail_of(experiment, "trial", "output.log")
    assert tail is not None
    assert len(tail.lines) == 1
    assert len(tail.lines[0]) <= 2000


@pytest.mark.parametrize("folder", ["", ".", "..", "../secret", "trial/../../secret", "/etc", "trial/", "a\0b", "none"])
def test_a_folder_that_is_not_right_inside_of_the_experiment_is_not_opened(experiment: Path, folder: str) -> None:
    (experiment / "output.log").write_text("not a trial's\n")
    assert tail_of(experiment, folder, "output.log") is None
    assert names_in(experiment, folder) == frozenset()


@pytest.mark.parametrize("name", ["", ".", "..", "../journal.sqlite", "../../secret/output.log", "/etc/passwd"])
def test_a_name_that_is_a_path_is_not_opened(experiment: Path, name: str) -> None:
    assert tail_of(experiment, "trial", name) is None


def test_links_are_not_followed(experiment: Path) -> None:
    (experiment / "trial" / "output.log").symlink_to(experiment.parent / "secret" / "output.log")
    (experiment / "linked").symlink_to(experiment.parent / "secret")
    (experiment / "trial" / "checkpoint_000000").symlink_to(experiment.parent / "secret")
    assert tail_of(experiment, "trial", "output.log") is None
    assert tail_of(experiment, "linked", "output.log") is None
    assert names_in(experiment, "linked") == frozenset()
    assert names_in(experiment, "trial") == frozenset()


def test_what_is_no_ordinary_file_is_not_waited_for(experiment: Path) -> None:
    os.mkfifo(experiment / "trial" / "output.log")
    (experiment / "trial" / "error.txt").mkdir()
    assert tail_of(experiment, "trial", "output.log") is None
    assert tail_of(experiment, "trial", "error.txt") is None


def test_folders_in_a_trials_folder_are_listed(experiment: Path) -> None:
    (experiment / "trial" / "checkpoint_000001").mkdir()
    (experiment / "trial" / "output.log").write_text("")
    assert names_in(experiment, "trial") == {"checkpoint_000001"}


def test_a_line_keeps_its_place_when_the_file_grows(tmp_path: Path) -> None:
    (tmp_path / "trial").mkdir()
    log = tmp_path / "trial" / "output.log"
    log.write_text("".join(f"zeile {number} ü\n" for number in range(9_000)))
    before = tail_of(tmp_path, "trial", "output.log")
    with log.open("a") as file:
        file.write("one more\nand half a")
    after = tail_of(tmp_path, "trial", "output.log")
    assert before is not None
    assert after is not None
    data = log.read_bytes()
    for tail in (before, after):
        for line, place in zip(tail.lines, tail.places, strict=True):
            assert data[place:].decode().startswith(line)
    assert dict(zip(before.places, before.lines, strict=True)).items() & dict(
        zip(after.places, after.lines, strict=True)
    ).items() == set(zip(before.places[2:], before.lines[2:], strict=True))
