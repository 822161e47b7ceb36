"""What the dashboard reads, and when: experiments that grow, are replaced, damaged or deleted while somebody looks."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.growing import Growing
from tests.simulated import write_experiment

from shoal.dashboard import live
from shoal.dashboard.blocks import Blocks
from shoal.dashboard.kept import Kept
from shoal.dashboard.live import Experiments, Watched, key_of
from shoal.journal import JOURNAL_NAME
from shoal.journal.sqlite import SQLiteJournal
from shoal.reading import State

ENOUGH = 30.0
"""Seconds to wait for a thread at most."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("whole") / "experiment", members=4, steps=12)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The journals that were opened, in order."""
    seen: list[Path] = []
    original = SQLiteJournal.open_for_reading

    def spy(folder: Path) -> SQLiteJournal:
        seen.append(folder)
        return original(folder)

    monkeypatch.setattr(SQLiteJournal, "open_for_reading", staticmethod(spy))
    return seen


def results(watched: Watched) -> int:
    with watched.reading() as experiment:
        return 0 if experiment is None else experiment.history.results


def test_an_experiment_that_grows_is_followed(whole: Path, tmp_path: Path) -> None:
    growing = Growing(whole, tmp_path / "growing")
    growing.grow(part=0.5)
    watched = Watched(growing.folder, "growing", max_age=0.0)
    first = watched.look(ENOUGH)
    before = results(watched)
    assert (first.state, first.reading, first.problem) == (State.RUNNING, None, "")
    assert before > 0
    growing.grow(count=15)
    second = watched.look()
    assert second.version != first.version
    assert results(watched) > before
    growing.grow()
    growing.close()
    last = watched.look()
    assert last.state is State.ENDED
    assert watched.look().version == last.version


def test_nothing_is_read_while_nobody_looks_and_little_while_many_do(
    whole: Path, tmp_path: Path, opened: list[Path]
) -> None:
    growing = Growing(whole, tmp_path / "growing")
    growing.grow(part=0.5)
    watched = Watched(growing.folder, "growing", max_age=3600.0)
    assert not opened[1:]
    watched.look(ENOUGH)
    count = len(opened)
    growing.grow(count=5)
    for _ in range(10):
        watched.look()
    assert len(opened) == count
    growing.close()


def test_a_journal_that_has_not_changed_is_not_opened_again(
    whole: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_SETTLED", -3600.0)  # as if it had been written long ago
    watched = Watched(whole, "experiment", max_age=0.0)
    watched.look(ENOUGH)
    count = len(opened)
    for _ in range(3):
        assert watched.look().state is State.ENDED
    assert len(opened) == count


@pytest.mark.parametrize("seed", [3, 4])
def test_another_experiment_of_the_same_name_takes_the_place_of_the_first(tmp_path: Path, seed: int) -> None:
    folder = write_experiment(tmp_path / "same", members=4, steps=10)
    watched = Watched(folder, "same", max_age=0.0)
    first = watched.look(ENOUGH)
    shutil.rmtree(folder)
    write_experiment(folder, members=2, steps=3, seed=seed, facts={"run_id": f"{seed}" * 5, "started_at": 1.0 * seed})
    watched.look()
    second = watched.look(ENOUGH)
    assert second.info is not None
    assert second.info.num_trials == 2
    assert first.version.partition("-")[0] != second.version.partition("-")[0]
    with watched.reading() as experiment:
        assert experiment is not None
        assert len(experiment.history.trials) == 2


def damage(folder: Path, after: int) -> None:
    connection = sqlite3.connect(folder / JOURNAL_NAME)
    connection.execute("UPDATE journal SET body = '{}' WHERE seq = ?", (after,))
    connection.commit()
    connection.close()


def test_of_a_damaged_journal_what_came_before_is_shown_and_the_damage_is_told(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path / "damaged", members=4, steps=10)
    damage(folder, 40)
    watched = Watched(folder, "damaged", max_age=0.0)
    looked = watched.look(ENOUGH)
    assert "record 40" in looked.problem
    with watched.reading() as experiment:
        assert experiment is not None
        assert experiment.seq == 39


@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3\0" + bytes(4000)])
def test_what_only_has_a_journals_name_is_told_to_be_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / JOURNAL_NAME).write_bytes(content)
    looked = Watched(tmp_path, "garbage", max_age=0.0).look(ENOUGH)
    assert looked.problem
    assert looked.reading is None


def test_a_journal_that_was_put_right_is_read_again(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path / "once", members=2, steps=4)
    shutil.copyfile(folder / JOURNAL_NAME, tmp_path / "copy")
    damage(folder, 10)
    watched = Watched(folder, "once", max_age=0.0)
    assert watched.look(ENOUGH).problem
    shutil.copyfile(tmp_path / "copy", folder / JOURNAL_NAME)
    deadline = time.monotonic() + ENOUGH
    while watched.look().problem and time.monotonic() < deadline:
        time.sleep(0.01)
    assert watched.look().problem == ""
    assert results(watched) >= 8


def test_experiments_come_and_go_with_their_folders(tmp_path: Path) -> None:
    found = Experiments(tmp_path, max_age=0.0)
    assert found.all() == []
    write_experiment(tmp_path / "first", members=2, steps=3)
    (tmp_path / "no experiment").mkdir()
    (tmp_path / "file").write_text("")
    assert [each.key for each in found.all()] == ["first"]
    first = found.get("first")
    assert first is not None
    assert found.get("first") is first
    shutil.rmtree(tmp_path / "first")
    assert found.get("first") is None


def test_the_folder_of_an_experiment_is_itself_the_only_one(whole: Path) -> None:
    found = Experiments(whole)
    assert found.single
    assert [each.folder for each in found.all()] == [whole]


def test_links_that_lead_out_of_the_folder_are_not_followed(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "storage"
    write_experiment(root / "here", members=2, steps=3)
    (root / "inside").symlink_to(root / "here")
    (root / "outside").symlink_to(whole)
    (root / "journal").mkdir()
    (root / "journal" / JOURNAL_NAME).symlink_to(whole / JOURNAL_NAME)
    found = Experiments(root, max_age=0.0)
    assert sorted(each.name for each in found.all()) == ["here", "inside"]
    assert sorted(found.outside) == ["journal", "outside"]


@pytest.mark.parametrize("name", ["plain", "mnist_demo_2026-11-27_19-33-19", "a=1,b=2.5", "x@y+z"])
def test_a_plain_name_is_its_address(name: str) -> None:
    assert key_of(name) == name


def test_odd_names_have_plain_addresses_that_differ() -> None:
    names = ["<b>", "a b", "a/b", "..", ".hidden", "-x", "ä", "a?b", "a#b", "a%b", "\udcff", "<i>", "x" * 300 + "ß"]
    keys = {key_of(name) for name in names}
    assert len(keys) == len(names)
    for key in keys:
        assert all(letter.isalnum() or letter in "-~" for letter in key)
        assert len(key) < 60


def test_experiments_that_nobody_looks_at_are_let_go_of_where_room_is_short(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_experiment(tmp_path / name, members=2, steps=5)
    found = Experiments(tmp_path, max_age=0.0, most_results=15, kept=0.0)
    for name in ("one", "two", "one"):
        watched = found.get(name)
        assert watched is not None
        watched.look(ENOUGH)
    found.get("one")
    assert [each.results > 0 for each in sorted(found.all(), key=lambda each: each.name)] == [True, False]


def test_the_newest_are_read_before_anybody_asks(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_experiment(tmp_path / name, members=2, steps=3)
    found = Experiments(tmp_path)
    found.warm()
    for each in found.all():
        each.wait(ENOUGH)
        assert each.known().reading is None


# ---------------------------------------------------------------------------------------------------- what is expensive


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def made(clock: Clock, took: float, value: str) -> Callable[[], str]:
    def make() -> str:
        clock.now += took
        return value

    return make


def test_what_takes_long_is_made_seldom_while_it_changes() -> None:
    clock = Clock()
    kept: Kept[str] = Kept(10, rest=10.0, clock=clock)
    assert kept.get(("a",), "e-1", made(clock, 0.5, "first"), True) == ("e-1", "first")
    clock.now += 4.9
    assert kept.get(("a",), "e-2", made(clock, 0.5, "second"), True) == ("e-1", "first")
    clock.now += 0.2
    assert kept.get(("a",), "e-3", made(clock, 0.5, "third"), True) == ("e-3", "third")


def test_what_has_ended_or_is_another_experiment_is_made_at_once() -> None:
    clock = Clock()
    kept: Kept[str] = Kept(10, rest=10.0, clock=clock)
    kept.get(("a",), "e-1", made(clock, 5.0, "first"), True)
    assert kept.get(("a",), "e-2", made(clock, 5.0, "ended"), False) == ("e-2", "ended")
    assert kept.get(("a",), "f-1", made(clock, 5.0, "other"), True) == ("f-1", "other")


def test_the_oldest_is_forgotten() -> None:
    kept: Kept[int] = Kept(2)
    for number in range(3):
        kept.get((str(number),), "e-1", partial(int, number), True)
    assert kept.get(("0",), "e-1", lambda: -1, True)[1] == -1
    assert kept.get(("2",), "e-1", lambda: -1, True)[1] == 2


def test_what_many_ask_for_at_once_is_made_once() -> None:
    kept: Kept[int] = Kept(2)
    count = 0
    begun = threading.Barrier(4)

    def make() -> int:
        nonlocal count
        count += 1
        return count

    def ask() -> None:
        begun.wait(ENOUGH)
        kept.get(("a",), "e-1", make, True)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(ENOUGH)
    assert count == 1


# --------------------------------------------------------------------------------------------------------------- blocks


def test_only_blocks_that_have_changed_are_sent() -> None:
    page = Blocks()
    page.set({"a": "1", "b": "1"}, {"list": ["a", "b"]})
    have = page.version
    assert page.since(have) is None
    page.set({"a": "1", "b": "1"}, {"list": ["a", "b"]})
    assert page.since(have) is None
    page.set({"a": "1", "b": "2", "c": "1"}, {"list": ["a", "b", "c"]})
    update = page.since(have)
    assert update is not None
    assert update.blocks == {"b": "2", "c": "1"}
    assert update.lists == {"list": ["a", "b", "c"]}
    assert page.since(update.version) is None


def test_what_vanishes_is_told_by_its_list() -> None:
    page = Blocks()
    page.set({"a": "1", "b": "1"}, {"list": ["a", "b"]})
    have = page.version
    page.set({"a": "1"}, {"list": ["a"]})
    update = page.since(have)
    assert update is not None
    assert (update.blocks, update.lists) == ({}, {"list": ["a"]})


@pytest.mark.parametrize("have", ["", "x", "x-1", "-", "12345678-0", "0-99999999999999999999", "\0"])
def test_who_has_something_unknown_is_sent_all(have: str) -> None:
    page = Blocks()
    page.set({"a": "1", "b": "1"}, {"list": ["a"]})
    update = page.since(have)
    assert update is not None
    assert set(update.blocks) == {"a", "b"}


def test_what_somebody_uses_does_not_change_meanwhile_and_nobody_waits_for_that(whole: Path, tmp_path: Path) -> None:
    growing = Growing(whole, tmp_path / "growing")
    growing.grow(part=0.5)
    watched = Watched(growing.folder, "growing", max_age=0.0)
    before = watched.look(ENOUGH)
    growing.grow(count=10)
    with watched.reading() as experiment:
        assert experiment is not None
        seq = experiment.seq
        looker = threading.Thread(target=watched.look)
        looker.start()
        looker.join(ENOUGH)
        assert not looker.is_alive()
        assert experiment.seq == seq
    assert watched.look().version != before.version
    growing.close()
