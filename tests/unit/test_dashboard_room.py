"""What the dashboard shows of more experiments than it can have in memory, and of those that it cannot read."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from tests.asking import Client
from tests.growing import Growing
from tests.simulated import write_experiment
from tests.unit.pages import words

from shoal.dashboard import live, member, pages
from shoal.dashboard.app import build
from shoal.dashboard.live import Experiments, Looked, Watched
from shoal.dashboard.member import MemberView
from shoal.history import TrialHistory
from shoal.journal import JOURNAL_NAME
from shoal.reading import Experiment, State

ENOUGH = 30.0
"""Seconds to wait for a thread at most."""


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The experiments that were read from their first record on, in order."""
    seen: list[str] = []
    original = Watched._open

    def spy(self: Watched) -> None:
        seen.append(self.key)
        original(self)

    monkeypatch.setattr(Watched, "_open", spy)
    return seen


def settled(asked: Client, path: str = "") -> str:
    """Ask until nothing is being read, and return the state that is told then."""
    for _ in range(3000):
        state = asked.get(f"{path}/live.json").headers["X-Shoal-State"]
        if state != "reading":
            return str(state)
    raise AssertionError("it is being read for ever")


def row(asked: Client, key: str) -> str:
    """Return what the overview says of an experiment."""
    page = asked.get("/").text
    begin = page.index(f'<tr id="x-{key}">')
    return words(page[begin : page.index("</tr>", begin) + 5])


def damage(folder: Path, seq: int) -> None:
    connection = sqlite3.connect(folder / JOURNAL_NAME)
    connection.execute("UPDATE journal SET body = '{}' WHERE seq = ?", (seq,))
    connection.commit()
    connection.close()


def test_what_has_no_room_is_not_read_and_not_said_to_be_being_read(tmp_path: Path, opens: list[str]) -> None:
    for number in range(4):
        write_experiment(tmp_path / f"e{number}", members=2, steps=5, facts={"started_at": 1000.0 - number})
    asked = Client(build(tmp_path, max_age=0.0, most_results=15))
    assert settled(asked) == "ended"
    assert opens == ["e0", "e1"]
    assert "accuracy" in row(asked, "e1")
    assert "○ not read" in row(asked, "e3")
    assert "open it" in row(asked, "e3")
    for _ in range(5):
        assert settled(asked) == "ended"
    assert opens == ["e0", "e1"]
    assert threading.active_count() < 20


def test_what_has_no_room_but_runs_is_told_to_run(tmp_path: Path) -> None:
    write_experiment(tmp_path / "all" / "full", members=2, steps=8, facts={"started_at": 4e9})
    source = write_experiment(tmp_path / "source", members=2, steps=5)
    growing = Growing(source, tmp_path / "all" / "growing")
    growing.grow(part=0.5)
    asked = Client(build(tmp_path / "all", max_age=0.0, most_results=15))
    assert settled(asked) == "running"
    assert "● running" in row(asked, "growing")
    assert "not read: open it" in row(asked, "growing")
    growing.close()
    assert "○ not read" in row(asked, "growing")


def test_two_experiments_that_have_no_room_together_are_compared(tmp_path: Path, opens: list[str]) -> None:
    for name in ("one", "two"):
        write_experiment(tmp_path / name, members=2, steps=5)
    asked = Client(build(tmp_path, max_age=0.0, most_results=5, kept=0.0))
    pair = "a=one&b=two"
    for _ in range(3000):
        if asked.get(f"/compare/live.json?{pair}").headers["X-Shoal-State"] != "reading":
            break
    assert "members 2 2" in words(asked.get(f"/compare?{pair}").text)
    count = len(opens)
    for _ in range(5):
        assert asked.get(f"/compare/live.json?{pair}").headers["X-Shoal-State"] == "ended"
        assert "data" in asked.get(f"/compare/figures/winners.json?{pair}").json()
    assert len(opens) == count


def test_what_somebody_has_just_looked_at_is_kept_whatever_there_is_room_for(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_experiment(tmp_path / name, members=2, steps=5)
    found = Experiments(tmp_path, max_age=0.0, most_results=5, kept=3600.0)
    for name in ("one", "two", "one", "two"):
        watched = found.get(name)
        assert watched is not None
        watched.look(ENOUGH)
    assert all(each.results for each in found.all())


@pytest.fixture
def let_go(tmp_path: Path) -> tuple[Client, Growing]:
    """The page of two experiments with room for one; the first was shown in the overview, and let go of."""
    source = write_experiment(tmp_path / "source", members=2, steps=10)
    growing = Growing(source, tmp_path / "all" / "first")
    growing.grow(part=0.5)
    write_experiment(tmp_path / "all" / "second", members=2, steps=10, facts={"started_at": 1.0})
    asked = Client(build(tmp_path / "all", max_age=0.0, most_results=21, kept=0.0))
    settled(asked)
    assert "% " in row(asked, "first")
    for _ in range(3):  # read, and then the other is let go of
        settled(asked, "/e/second")
    return asked, growing


def test_an_experiment_that_was_let_go_of_keeps_its_line_while_it_is_as_it_was(
    let_go: tuple[Client, Growing], opens: list[str]
) -> None:
    asked, growing = let_go
    assert "accuracy" in row(asked, "first")
    assert "● running" in row(asked, "first")
    assert opens == []
    growing.close()


def test_a_line_that_is_not_true_any_more_is_not_shown(let_go: tuple[Client, Growing]) -> None:
    asked, growing = let_go
    growing.grow()
    growing.close()
    settled(asked)
    assert "running" not in row(asked, "first")
    assert "%" not in row(asked, "first")
    assert "○ not read" in row(asked, "first")
    shutil.rmtree(growing.folder)
    write_experiment(growing.folder, members=7, steps=2, facts={"run_id": "other", "started_at": 2.0})
    settled(asked)
    assert " 7 " in row(asked, "first")


def test_a_driver_that_was_killed_is_told_also_of_what_was_let_go_of(let_go: tuple[Client, Growing]) -> None:
    asked, growing = let_go
    growing.close()
    assert "running" not in row(asked, "first")


def test_a_damaged_journal_that_is_written_to_is_not_read_from_the_start_at_each_look(
    tmp_path: Path, opens: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    growing = Growing(write_experiment(tmp_path / "source", members=2, steps=10), tmp_path / "live")
    growing.grow(part=0.3)
    damage(growing.folder, 8)
    watched = Watched(growing.folder, "live", max_age=0.0)
    monkeypatch.setattr(live, "_REST", 0.0)
    for _ in range(8):
        growing.grow(count=2)
        assert "record 8" in watched.look(ENOUGH).problem
        thread = watched._thread
        if thread is not None:
            thread.join(ENOUGH)
    assert len(opens) <= 2
    assert watched.look().state is State.RUNNING
    growing.close()
    assert watched.look().state is State.INTERRUPTED


def test_the_list_has_the_order_in_which_experiments_began(tmp_path: Path) -> None:
    for number, name in enumerate(("old", "new", "middle")):
        write_experiment(tmp_path / name, members=2, steps=2, facts={"started_at": (1.0, 3.0, 2.0)[number]})
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / JOURNAL_NAME).write_bytes(b"no journal")
    found = Experiments(tmp_path, max_age=0.0)
    assert [each.key for each in found.all()] == ["garbage", "new", "middle", "old"]
    (tmp_path / "old" / JOURNAL_NAME).touch()
    assert [each.key for each in found.all()] == ["garbage", "new", "middle", "old"]


# ------------------------------------------------------------------------------------------ what cannot be read (yet)


def test_an_interrupted_experiment_is_nowhere_said_to_run(tmp_path: Path) -> None:
    growing = Growing(write_experiment(tmp_path / "source", members=3, steps=10), tmp_path / "all" / "cut")
    growing.grow(part=0.5)
    asked = Client(build(tmp_path / "all", max_age=0.0))
    settled(asked, "/e/cut")
    page = words(asked.get("/e/cut").text)
    assert "running for" in page
    assert "● running" in page
    growing.close()
    page = words(asked.get("/e/cut").text)
    assert "‖ interrupted" in page
    assert "cut off" in page
    assert "ran for" in page
    assert "slots 0/" in page
    assert "running" not in page
    index = next(each.index for each in growing_trials(growing) if each.status.value == "RUNNING")
    assert "running" not in words(asked.get(f"/e/cut/t/{index}").text)


def growing_trials(growing: Growing) -> list[TrialHistory]:
    return Experiment.open(growing.folder).history.in_order()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Experiments are not opened before this is set."""
    go = threading.Event()
    original = Watched._open

    def wait(self: Watched) -> None:
        go.wait(ENOUGH)
        original(self)

    monkeypatch.setattr(Watched, "_open", wait)
    monkeypatch.setattr("shoal.dashboard.pages._PATIENCE", 0.01)
    return go


def test_the_page_of_a_member_is_there_before_its_experiment_was_read_and_follows(
    tmp_path: Path, held: threading.Event
) -> None:
    write_experiment(tmp_path / "slow", members=2, steps=4)
    asked = Client(build(tmp_path, max_age=0.0))
    try:
        answer = asked.get("/e/slow/t/1")
        assert answer.status_code == 200
        assert "being read" in words(answer.text)
        assert 'data-complete="0"' in answer.text
        assert asked.get("/e/slow/t/1/live.json").headers["X-Shoal-State"] == "reading"
        assert "being read" in asked.get("/e/slow/figures/ancestry.json?trial=1").json()["message"]
        assert "being read" in words(asked.get("/compare?a=slow&b=slow").text)
    finally:
        held.set()
    settled(asked, "/e/slow")
    assert "facts" in asked.get("/e/slow/t/1/live.json").json()["blocks"]
    assert 'data-complete="1"' in asked.get("/e/slow/t/1").text
    assert asked.get("/e/slow/t/9").status_code == 404


def test_a_member_of_an_experiment_that_cannot_be_read_has_a_page_that_says_why(tmp_path: Path) -> None:
    write_experiment(tmp_path / "bad", members=2, steps=4)
    damage(tmp_path / "bad", 1)
    asked = Client(build(tmp_path, max_age=0.0))
    settled(asked, "/e/bad")
    answer = asked.get("/e/bad/t/0")
    assert answer.status_code == 200
    assert "record 1" in words(answer.text)
    assert "record 1" in asked.get("/e/bad/figures/ancestry.json?trial=0").json()["message"]


def test_more_experiments_than_the_list_shows_are_counted_and_can_be_filtered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.dashboard.pages._SHOWN", 2)
    for number in range(5):
        write_experiment(tmp_path / f"e{number}", members=2, steps=2, facts={"started_at": 1.0 + number})
    asked = Client(build(tmp_path, max_age=0.0))
    page = asked.get("/")
    assert "The 2 newest are listed, and 3 older ones are not shown." in words(page.text)
    assert 'id="overview-filter"' in page.text
    assert 'id="x-e4"' in page.text
    assert 'id="x-e2"' not in page.text


def test_a_folder_whose_journal_is_a_link_out_of_it_has_a_page(tmp_path: Path) -> None:
    source = write_experiment(tmp_path / "source", members=2, steps=2)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / JOURNAL_NAME).symlink_to(source / JOURNAL_NAME)
    answer = Client(build(tmp_path / "linked")).get("/")
    assert answer.status_code == 200
    assert "links that lead out of the folder: linked" in words(answer.text)


def test_the_page_of_a_member_is_not_made_again_while_nothing_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_experiment(tmp_path / "one", members=2, steps=4, files=True)
    made: list[int] = []
    original = member.member_view

    def spy(experiment: Experiment, trial: TrialHistory, looked: Looked) -> MemberView:
        made.append(trial.index)
        return original(experiment, trial, looked)

    monkeypatch.setattr(pages, "member_view", spy)
    asked = Client(build(tmp_path, max_age=0.0))
    settled(asked, "/e/one")
    for _ in range(3):
        asked.get("/e/one/t/1")
        asked.get("/e/one/t/1/live.json")
    assert made == [1]
    with (folder / "trial_00001" / "output.log").open("a") as file:
        file.write("one more line\n")
    assert "one more line" in words(asked.get("/e/one/t/1").text)
    shutil.rmtree(next((folder / "trial_00001").glob("checkpoint_*")))
    assert "not on this disk" in words(asked.get("/e/one/t/1").text)
    assert made == [1, 1, 1]


def test_the_page_of_a_member_leads_to_no_list_where_there_is_none(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path / "one", members=2, steps=4)
    for root, there in ((folder, False), (tmp_path, True)):
        asked = Client(build(root, max_age=0.0))
        settled(asked, "/e/one")
        assert ('<a href="/">Experiments</a>' in asked.get("/e/one/t/1").text) is there
