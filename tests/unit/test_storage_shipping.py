"""The journal's copy: equal byte for byte, few objects, and one driver at a time."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.stored import Crash, Interrupted, interrupted, story, undisturbed

from shoal.core.events import Reported, StopAsked
from shoal.errors import JournalError
from shoal.journal.sqlite import SCHEMA_VERSION, RawRecord, SQLiteJournal
from shoal.storage import segments, shipping
from shoal.storage.place import Place
from shoal.storage.segments import Epoch, Segment, Shelf
from shoal.storage.shipping import (
    Alive,
    Shipper,
    TakenOver,
    begun,
    check_free,
    fetch,
    is_there,
    look,
    refresh,
    relation,
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(f"memory://{tmp_path.name}/runs/exp")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SQLiteJournal]:
    facts, batches = story(3)
    made = SQLiteJournal.create(_made(tmp_path / "exp"))
    made.set_meta(**facts)
    for number, batch in enumerate(batches):
        made.append(batch, 1000.0 + number / 7)
    yield made
    made.close()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def raw(folder: Path) -> tuple[list[RawRecord], dict[str, str], int]:
    """Return all that is in a journal, as it is written."""
    with contextlib.closing(SQLiteJournal.open_for_reading(folder)) as found:
        return found.raw(0, found.last), found.raw_facts(), found.format


def ends(folder: Path) -> list[int]:
    """Return the numbers of the records with which batches end."""
    return [record[0] for record in raw(folder)[0] if record[4] < 0]


def shipper(place: Place, folder: Path) -> Shipper:
    """Return one that has begun."""
    found = Shipper(place, folder, 2.0)
    found.begin()
    return found


def segments_of(place: Place) -> list[str]:
    """Return the names of all segments."""
    return [name for name in (place / "journal").list_sizes() if name.endswith(".seg")]


class Clock:
    """Seconds that pass only where somebody sleeps; something may happen meanwhile."""

    def __init__(self, happens: Any = None) -> None:
        self.now = 0.0
        self.happens = happens or (lambda now: None)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.now += seconds
        self.happens(self.now)


# --------------------------------------------------------------------------------------------------------- to and back


def test_what_is_fetched_is_what_was_published(place: Place, journal: SQLiteJournal, tmp_path: Path) -> None:
    assert not is_there(place)
    assert look(place) is None
    sender = shipper(place, journal.folder)
    assert is_there(place)
    for seq in [*ends(journal.folder)[::5], journal.last]:
        sender.publish(seq)
        assert sender.seq == seq
    published = fetch(place, tmp_path / "copy")
    assert published.seq == journal.last
    assert published.facts == journal.meta()
    assert raw(tmp_path / "copy") == raw(journal.folder)
    with contextlib.closing(SQLiteJournal.open_for_writing(tmp_path / "copy")) as copy:
        assert list(copy.read()) == list(journal.read())
        copy.append([StopAsked("it goes on")], 5.0)


def test_each_prefix_that_is_published_is_a_whole_journal(place: Place, journal: SQLiteJournal, tmp_path: Path) -> None:
    sender = shipper(place, journal.folder)
    everything = raw(journal.folder)[0]
    for number, seq in enumerate(ends(journal.folder)[::9]):
        sender.publish(seq)
        fetch(place, tmp_path / str(number))
        with contextlib.closing(SQLiteJournal.open_for_reading(tmp_path / str(number))) as copy:
            copy.check_all()
        assert raw(tmp_path / str(number))[0] == everything[:seq]


def test_an_experiment_in_which_nothing_has_happened_can_be_fetched(place: Place, tmp_path: Path) -> None:
    made = SQLiteJournal.create(_made(tmp_path / "exp"))
    made.set_meta(name="exp")
    shipper(place, tmp_path / "exp")
    assert fetch(place, tmp_path / "copy").seq == 0
    assert raw(tmp_path / "copy") == raw(tmp_path / "exp")
    made.close()


def test_many_rounds_leave_few_objects(place: Place, journal: SQLiteJournal, tmp_path: Path) -> None:
    sender = shipper(place, journal.folder)
    most = 0
    for seq in ends(journal.folder):
        sender.publish(seq)
        most = max(most, len(segments_of(place)))
    assert len(ends(journal.folder)) > 40
    assert most <= 16 + 3
    fetch(place, tmp_path / "copy")
    assert raw(tmp_path / "copy") == raw(journal.folder)


def test_large_segments_are_not_written_again(
    place: Place, journal: SQLiteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "_LARGE", 20)
    sender = shipper(place, journal.folder)
    for seq in ends(journal.folder):
        sender.publish(seq)
    fetch(place, tmp_path / "copy")
    assert raw(tmp_path / "copy") == raw(journal.folder)
    levels = {int(name.split(".")[-2]) for name in segments_of(place)}
    assert max(levels) <= 1


def test_segments_of_many_bytes_are_neither_written_nor_merged(
    place: Place, journal: SQLiteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "_ABOUT_BYTES", 200)
    monkeypatch.setattr(shipping, "_LARGE_BYTES", 2000)
    sender = shipper(place, journal.folder)
    sender.publish(journal.last)
    found = [Segment.of(name.rpartition("/")[2]) for name in segments_of(place)]
    assert {segment.last for segment in found if segment} <= set(ends(journal.folder))
    assert {segment.level for segment in found if segment} == {0}
    assert len(found) > shipping._FANOUT
    batch = max(len(record[3]) for record in journal.raw(0, journal.last)) * 20
    for segment in filter(None, found):
        texts = journal.raw(segment.first - 1, segment.last)
        assert sum(len(record[3]) for record in texts) < 200 + batch
    fetch(place, tmp_path / "copy")
    assert raw(tmp_path / "copy") == raw(journal.folder)


def test_a_long_journal_goes_in_segments_that_end_where_batches_do(
    place: Place, journal: SQLiteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "_ABOUT", 10)
    sender = shipper(place, journal.folder)
    sender.publish(journal.last)
    found = [Segment.of(name.rpartition("/")[2]) for name in segments_of(place)]
    assert len(found) > 2
    assert {segment.last for segment in found if segment} <= set(ends(journal.folder))
    fetch(place, tmp_path / "copy")
    assert raw(tmp_path / "copy") == raw(journal.folder)


def test_segments_that_are_merged_while_they_are_read_do_no_harm(tmp_path: Path, journal: SQLiteJournal) -> None:
    left = ends(journal.folder)

    def meanwhile(what: str, path: str) -> None:
        if what == "read" and path.endswith(".seg") and left:
            with undisturbed():
                for _ in range(min(20, len(left))):
                    sender.publish(left.pop(0))

    with interrupted() as place:
        sender = shipper(place, journal.folder)
        for _ in range(17):
            sender.publish(left.pop(0))
        Interrupted.hook = staticmethod(meanwhile)
        published = fetch(place, tmp_path / "copy")
        assert raw(tmp_path / "copy")[0] == raw(journal.folder)[0][: published.seq]


def test_a_journal_of_an_earlier_format_keeps_it(place: Place, journal: SQLiteJournal, tmp_path: Path) -> None:
    import sqlite3

    journal.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "exp" / "journal.sqlite")) as connection:
        connection.execute("PRAGMA user_version=3")
    sender = shipper(place, tmp_path / "exp")
    sender.publish(ends(tmp_path / "exp")[-1])
    fetch(place, tmp_path / "copy")
    assert raw(tmp_path / "copy")[2] == 3
    # Who goes on with it writes today's format.
    SQLiteJournal.open_for_writing(tmp_path / "exp").close()
    shipper(place, tmp_path / "exp")
    assert refresh(place, tmp_path / "copy")
    assert raw(tmp_path / "copy")[2] == SCHEMA_VERSION


def test_a_journal_of_a_format_that_is_not_known_is_an_error(
    place: Place, journal: SQLiteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SQLiteJournal, "format", SCHEMA_VERSION + 1)
    shipper(place, journal.folder)
    monkeypatch.undo()
    with pytest.raises(JournalError, match="Update Shoal"):
        fetch(place, tmp_path / "copy")
    assert not (tmp_path / "copy" / "journal.sqlite").exists()


# ------------------------------------------------------------------------------------------------------------- refresh


def test_a_copy_is_brought_up_to_date(place: Place, journal: SQLiteJournal, tmp_path: Path) -> None:
    sender = shipper(place, journal.folder)
    assert refresh(place, tmp_path / "copy")
    for seq in [*ends(journal.folder)[::11], journal.last]:
        sender.publish(seq)
        assert refresh(place, tmp_path / "copy")
        assert not refresh(place, tmp_path / "copy")
        assert raw(tmp_path / "copy")[0] == raw(journal.folder)[0][:seq]


def test_a_refresh_reads_only_what_is_new(journal: SQLiteJournal, tmp_path: Path) -> None:
    read: list[str] = []
    with interrupted(lambda what, path: read.append(path) if what == "read" else None) as place:
        sender = shipper(place, journal.folder)
        for seq in ends(journal.folder)[:10]:
            sender.publish(seq)
        refresh(place, tmp_path / "copy")
        sender.publish(ends(journal.folder)[10])
        read.clear()
        refresh(place, tmp_path / "copy")
    assert len([path for path in read if path.endswith(".seg")]) == 1


def test_facts_that_change_come_with_a_refresh(place: Place, journal: SQLiteJournal, tmp_path: Path) -> None:
    sender = shipper(place, journal.folder)
    sender.publish(journal.last)
    fetch(place, tmp_path / "copy")
    journal.set_meta(seed=4711)
    sender.publish(journal.last)
    assert refresh(place, tmp_path / "copy")
    assert raw(tmp_path / "copy") == raw(journal.folder)


def test_a_copy_of_what_was_given_up_is_made_anew(place: Place, journal: SQLiteJournal, tmp_path: Path) -> None:
    """Somebody has gone on from an earlier record than the one that a copy has."""
    middle = ends(journal.folder)[20]
    sender = shipper(place, journal.folder)
    sender.publish(middle)
    fetch(place, tmp_path / "other")
    sender.publish(journal.last)
    fetch(place, tmp_path / "copy")
    with contextlib.closing(SQLiteJournal.open_for_writing(tmp_path / "other")) as other:
        newest = Epoch(2, "aa", _token(place), middle)
        for name in ("open.json", "facts.json"):
            (place / "journal" / newest.name / name).write_bytes(_object(place, name))
        other.append([StopAsked("gone on elsewhere")], 9.0)
        assert relation(place, tmp_path / "copy") == "further"  # no record says anything else yet
        records = other.raw(middle, other.last)
        (place / "journal" / newest.name / Segment(middle + 1, middle + 1, 0).name).write_bytes(
            segments.pack(other.format, records)
        )
        assert relation(place, tmp_path / "copy") == "other"
        assert refresh(place, tmp_path / "copy")
        assert raw(tmp_path / "copy")[0] == raw(tmp_path / "other")[0]


def _token(place: Place) -> str:
    found = Epoch.of((place / "journal").list_names()[0])
    assert found is not None
    return found.token


def _object(place: Place, name: str) -> bytes:
    return (place / "journal" / (place / "journal").list_names()[0] / name).read_bytes()


def test_a_journal_that_a_driver_has_open_is_not_touched(place: Place, journal: SQLiteJournal) -> None:
    sender = shipper(place, journal.folder)
    sender.publish(journal.last)
    with pytest.raises(JournalError, match="being run"):
        fetch(place, journal.folder)
    with pytest.raises(JournalError, match="being run"):
        refresh(place, journal.folder)


# ------------------------------------------------------------------------------------------------ who has it


def test_the_relation_of_a_folder_to_storage_is_told(place: Place, journal: SQLiteJournal, tmp_path: Path) -> None:
    assert relation(place, tmp_path / "none") == "nothing"
    assert relation(place, journal.folder) == "other"
    sender = shipper(place, journal.folder)
    assert relation(place, journal.folder) == "further"
    sender.publish(ends(journal.folder)[20])
    fetch(place, tmp_path / "copy")
    assert relation(place, journal.folder) == "further"
    assert relation(place, tmp_path / "copy") == "same"
    sender.publish(journal.last)
    assert relation(place, journal.folder) == "same"
    assert relation(place, tmp_path / "copy") == "behind"


def test_another_experiment_of_that_name_is_another(place: Place, journal: SQLiteJournal, tmp_path: Path) -> None:
    shipper(place, journal.folder).publish(journal.last)
    facts, batches = story(3)
    with contextlib.closing(SQLiteJournal.create(_made(tmp_path / "again"))) as again:
        again.set_meta(**{**facts, "run_id": "other"})
        for batch in batches:
            again.append(batch, 7.0)
        assert relation(place, tmp_path / "again") == "other"
        with pytest.raises(JournalError, match="holds records that the journal in"):
            shipper(place, tmp_path / "again")


def test_a_driver_whose_experiment_was_taken_over_is_told(place: Place, journal: SQLiteJournal, tmp_path: Path) -> None:
    first = shipper(place, journal.folder)
    first.publish(ends(journal.folder)[20])
    first.check_mine()
    fetch(place, tmp_path / "copy")
    second = Shipper(place, tmp_path / "copy", 2.0)
    assert second.begin() == ends(journal.folder)[20]
    second.check_mine()
    with pytest.raises(TakenOver, match=rf"taken over by process {os.getpid()} on {socket.gethostname()}"):
        first.check_mine()
    first.publish(journal.last)  # it has not asked
    assert look(place).seq == ends(journal.folder)[20]  # type: ignore[union-attr]
    third = Shipper(place, tmp_path / "copy", 2.0)
    third.begin()
    with pytest.raises(TakenOver):
        second.check_mine()


@pytest.mark.parametrize("moment", range(8))
def test_of_two_that_take_over_at_the_same_time_one_has_it(tmp_path: Path, journal: SQLiteJournal, moment: int) -> None:
    """Whatever the order in which their requests arrive: after both have looked, exactly one goes on."""
    calls: list[str] = []
    left: list[Shipper] = []

    def take_over(folder: Path) -> None:
        sender = Shipper(root, folder, 2.0)
        with contextlib.suppress(TakenOver):
            sender.begin()
            left.append(sender)

    def meanwhile(what: str, path: str) -> None:
        calls.append(what)
        if len(calls) == moment + 1:
            with undisturbed():
                take_over(tmp_path / "copy")

    with interrupted(meanwhile) as root:
        with undisturbed():
            shipper(root, journal.folder).publish(journal.last)
            fetch(root, tmp_path / "copy")
        take_over(journal.folder)
        assert len(calls) > moment
        with undisturbed():
            assert len([each for each in left if _has_it(each)]) == 1


def _never(seconds: float) -> None:
    pytest.fail(f"somebody waits for {seconds} s")


def _has_it(each: Shipper) -> bool:
    try:
        each.check_mine()
    except TakenOver:
        return False
    return True


def test_an_experiment_that_nobody_runs_is_free(place: Place, journal: SQLiteJournal) -> None:
    check_free(place, sleep=_never)
    sender = shipper(place, journal.folder)
    sender.beat(ended=True)
    check_free(place, sleep=_never)


def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have heartbeats be those of another machine."""
    monkeypatch.setattr(shipping, "this_machine", lambda: "another machine")


def test_an_experiment_that_is_run_elsewhere_is_not_free(
    place: Place, journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    _elsewhere(monkeypatch)
    sender = shipper(place, journal.folder)
    monkeypatch.undo()
    clock = Clock(lambda now: sender.beat() if now > 1.9 else None)
    with pytest.raises(JournalError, match=rf"being run by process {os.getpid()} on"):
        check_free(place, clock=clock, sleep=clock.sleep)
    assert clock.now < 3.0


def test_an_experiment_whose_driver_is_silent_is_free_after_some_heartbeats(
    place: Place, journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    _elsewhere(monkeypatch)
    shipper(place, journal.folder)
    monkeypatch.undo()
    clock, told = Clock(), list[str]()
    check_free(place, clock=clock, sleep=clock.sleep, tell=told.append)
    assert 6.0 <= clock.now <= 8.0
    assert len(told) == 1
    assert f"waiting for 7 s, to see whether process {os.getpid()} on" in told[0]


@pytest.mark.parametrize("every_s", [600.0, 1e300, math.nan, -5.0, "x"])
def test_what_a_heartbeat_says_of_its_pace_makes_nobody_wait_for_long(
    place: Place, journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch, every_s: object
) -> None:
    _elsewhere(monkeypatch)
    sender = shipper(place, journal.folder)
    sender._every_s = every_s  # type: ignore[assignment]
    sender.beat()
    monkeypatch.undo()
    clock = Clock()
    check_free(place, clock=clock, sleep=clock.sleep)
    assert clock.now < 40.0


def test_who_has_ended_is_not_alive_afterwards(place: Place, journal: SQLiteJournal) -> None:
    sender = shipper(place, journal.folder)
    sender.beat(ended=True)
    sender.beat()
    assert look(place).alive.ended  # type: ignore[union-attr]


def test_a_driver_of_this_machine_that_is_dead_is_not_waited_for(place: Place, journal: SQLiteJournal) -> None:
    code = (
        "from pathlib import Path; from shoal.storage import shipping; from shoal.storage.place import Place\n"
        "print(shipping.Shipper(Place('memory://x'), Path('x'), 2.0)._heartbeat(ended=False).decode())"
    )
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    sender = shipper(place, journal.folder)
    alive = (place / "journal" / (place / "journal").list_names()[0]) / "alive.json"
    alive.write_bytes(text.encode())
    assert Alive(**json.loads(text)).surely_dead
    check_free(place, sleep=_never)
    sender.beat()
    found = look(place)
    assert found is not None
    assert found.alive is not None
    assert not found.alive.surely_dead


# --------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("harm", ["cut", "bytes", "empty", "lost", "swapped"])
def test_a_damaged_segment_is_told_and_no_journal_is_made(
    place: Place, journal: SQLiteJournal, tmp_path: Path, harm: str
) -> None:
    sender = shipper(place, journal.folder)
    for seq in ends(journal.folder)[:6]:
        sender.publish(seq)
    names = sorted(segments_of(place))
    where = place / "journal" / names[2]
    data = where.read_bytes()
    if harm == "lost":
        where.delete()
    else:
        other = (place / "journal" / names[3]).read_bytes()
        spoiled = data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
        where.write_bytes({"cut": data[:-1], "bytes": spoiled, "empty": b"", "swapped": other}[harm])
    with pytest.raises(JournalError, match="damaged"):
        fetch(place, tmp_path / "copy")
    assert not (tmp_path / "copy" / "journal.sqlite").exists()


def test_records_of_an_earlier_epoch_that_are_missing_are_told(
    place: Place, journal: SQLiteJournal, tmp_path: Path
) -> None:
    sender = shipper(place, journal.folder)
    for seq in ends(journal.folder)[:4]:
        sender.publish(seq)
    lost = sorted(segments_of(place))[1]
    shipper(place, journal.folder).publish(journal.last)
    (place / "journal" / lost).delete()
    with pytest.raises(JournalError, match=r"records \d+ to \d+ are missing"):
        fetch(place, tmp_path / "copy")


def test_damaged_facts_are_told(place: Place, journal: SQLiteJournal, tmp_path: Path) -> None:
    shipper(place, journal.folder).publish(journal.last)
    where = place / "journal" / (place / "journal").list_names()[0] / "facts.json"
    for data in (b"", b"[]", b"{}", where.read_bytes().replace(b"learn", b"loarn")):
        where.write_bytes(data)
        with pytest.raises(JournalError, match=r"facts\.json is damaged"):
            fetch(place, tmp_path / "copy")


def test_what_is_no_experiment_is_told(place: Place, tmp_path: Path) -> None:
    (place / "journal" / "notes.txt").write_bytes(b"mine")
    (place / "journal" / "000001.aa.from..0000000000" / "facts.json").write_bytes(b"{}")  # without who began it
    assert not is_there(place)
    with pytest.raises(JournalError, match="holds no experiment"):
        fetch(place, tmp_path / "copy")


def test_the_fewest_segments_are_read() -> None:
    shelf = Shelf(Epoch(1, "a", "", 0))
    shelf.segments = [Segment(1, 1, 0), Segment(2, 3, 0), Segment(1, 3, 1), Segment(4, 9, 0), Segment(6, 7, 0)]
    assert shelf.following(0) == [Segment(1, 3, 1), Segment(4, 9, 0)]
    assert shelf.following(2, 3) == [Segment(1, 3, 1)] or shelf.following(2, 3) == [Segment(2, 3, 0)]
    assert shelf.end == 9
    shelf.segments.remove(Segment(4, 9, 0))
    assert shelf.end == 3


@pytest.mark.parametrize("name", ["x", "000001.zz.from..0000000000", "000001.aa.from..12", "000001.aa"])
def test_other_folders_are_no_epochs(name: str) -> None:
    assert Epoch.of(name) is None


def test_names_tell_what_they_were_made_of() -> None:
    for epoch in (Epoch(1, "ab12", "", 0), Epoch(1234567, "ab", "cd", 12345678901)):
        assert Epoch.of(epoch.name) == epoch
    assert Segment.of(Segment(5, 12345678901, 3).name) == Segment(5, 12345678901, 3)
    assert Segment.of("alive.json") is None


def test_texts_with_any_characters_come_back(tmp_path: Path, place: Place) -> None:
    odd = "line\u2028sep\x85\n\r\x0b\x1c\ud800 \U0001f41f"
    with contextlib.closing(SQLiteJournal.create(_made(tmp_path / "exp"))) as journal:
        journal.set_meta(run_id="x", text=odd)
        journal.append([StopAsked(odd), Reported("t", 1, 1, {odd: float("nan")}, False)], 0.1 + 0.2)
        shipper(place, tmp_path / "exp").publish(2)
        fetch(place, tmp_path / "copy")
        assert raw(tmp_path / "copy") == raw(tmp_path / "exp")


def test_what_a_driver_leaves_that_is_killed_when_it_has_just_begun_is_no_experiment_and_is_told(
    tmp_path: Path, journal: SQLiteJournal
) -> None:
    def killed(what: str, path: str) -> None:
        if what == "write" and path.endswith(segments.FACTS):
            raise Crash

    with interrupted(killed) as place:
        with pytest.raises(Crash):
            shipper(place, journal.folder)
        Interrupted.hook = None
        assert look(place) is None
        assert not is_there(place)
        assert relation(place, journal.folder) == "other"
        with pytest.raises(JournalError, match="holds no experiment"):
            fetch(place, tmp_path / "copy")
        left = begun(place)
        assert left is not None
        assert left.alive is not None
        assert (left.seq, left.facts, left.alive.is_this_process) == (0, {}, True)
        another = Clock()
        with pytest.raises(AssertionError, match="somebody slept"):
            check_free(place, clock=another, sleep=_slept, tell=_quiet)
        assert shipper(place, journal.folder).seq == 0  # and another one may begin
        assert look(place) == begun(place)


def _slept(_: float) -> None:
    raise AssertionError("somebody slept")


def _quiet(_: str) -> None:
    pass


def test_an_experiment_that_is_deleted_while_it_is_looked_at_is_said_to_be_gone(
    place: Place, journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipper(place, journal.folder)
    real = shipping._experiment

    def deleted(place: Place) -> Any:
        found = real(place)
        place.delete(recursive=True)
        return found

    monkeypatch.setattr(shipping, "_experiment", deleted)
    with pytest.raises(JournalError, match="is gone: somebody has deleted the experiment"):
        look(place)
