"""What every journal promises, and what the durable one does with a damaged file or a second writer."""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core.commands import (
    Await,
    CheckpointRecord,
    Continue,
    DeleteCheckpoint,
    Evict,
    Exploit,
    HandOn,
    Launch,
    Notice,
    Park,
    Retry,
    Status,
    Stop,
)
from shoal.core.events import (
    Failed,
    Finished,
    Lost,
    Reported,
    SavedCheckpoint,
    SlotsJoined,
    SlotsLeft,
    Started,
    StopAsked,
    TrialAdded,
)
from shoal.errors import JournalError
from shoal.journal import JOURNAL_NAME, Item, Journal
from shoal.journal.codec import Unloadable, decode, encode, pack, unpack
from shoal.journal.memory import MemoryJournal
from shoal.journal.sqlite import SCHEMA_VERSION, SQLiteJournal
from shoal.space.containers import same

CHECKPOINT = CheckpointRecord("a_00001/checkpoint_000004", "a_00001", 4, "d1935", 17, 5, 5.0, 1 / 3, 0.1 + 0.2, None)
ONE_OF_EACH: list[Item] = [
    TrialAdded("a_00000", 0, "train_a_00000", "0_lr=0.1", "train_a_00000_0_lr=0.1", {"lr": 0.1}),
    Started("a_00000", 1, 4711, "höst"),
    Reported("a_00000", 1, 1, {"acc": 0.1 + 0.2, "val": {"loss": None}}, True, "enough", SavedCheckpoint(0, "d", 3)),
    Finished("a_00000", 1),
    Failed("a_00000", 1, "ValueError: x", "Traceback", pickle.dumps(ValueError("x"))),
    Lost("a_00000", 1, "signal 9"),
    SlotsJoined(("node-1", "node-1", "node-2"), 12),
    SlotsJoined(("",)),
    SlotsLeft((0, 1), 8),
    Await("a_00000", 1, "ValueError: x"),
    Lost("a_00000", 1, "the parent of all has died", innocent=True),
    StopAsked("the user said so"),
    Launch("a_00000", 2, 0, {"lr": (1, [2.5])}, CHECKPOINT, 5, 1e-9, 1, 1 / 3, False),
    Continue("a_00000", 2, 1, None),
    HandOn("a_00000", 2, 1, "a_00001", 3, 10, 15.0),
    Park("a_00000", 2),
    Exploit("a_00000", 2, 1, 9, 0.123456789, "a_00001", 11, CHECKPOINT, {"lr": 1}, {"lr": 2}, {"lr": 3}),
    Evict("a_00000", 2),
    Retry("a_00000", 1, 5, "ValueError: x"),
    Retry("a_00000", 0, 5, "the parent of all has died", innocent=True),
    Stop("a_00000", 2, Status.ERROR, "why not"),
    DeleteCheckpoint("a_00000", 3),
    Notice("key", "text"),
]


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    made: Journal = MemoryJournal() if request.param == "memory" else SQLiteJournal.create(tmp_path)
    yield made
    made.close()


# ------------------------------------------------------------------------------------------------------ every journal


def test_a_new_journal_is_empty(journal: Journal) -> None:
    assert list(journal.read()) == []
    assert journal.meta() == {}


def test_records_come_back_in_order_with_numbers_without_gaps(journal: Journal) -> None:
    first = journal.append(ONE_OF_EACH[:5], 1.25)
    second = journal.append(ONE_OF_EACH[5:], 2.5)
    assert [record.seq for record in first + second] == list(range(1, len(ONE_OF_EACH) + 1))
    assert list(journal.read()) == first + second
    assert [record.item for record in journal.read()] == ONE_OF_EACH
    assert {record.at for record in second} == {2.5}


def test_reading_can_go_on_after_a_number(journal: Journal) -> None:
    records = journal.append(ONE_OF_EACH, 1.0)
    assert list(journal.read(after=10)) == records[10:]
    assert list(journal.read(after=len(records))) == []


def test_an_empty_batch_is_no_record(journal: Journal) -> None:
    assert journal.append([], 1.0) == []
    assert list(journal.read()) == []


def test_facts_are_remembered_and_replaced(journal: Journal) -> None:
    journal.set_meta(name="x", stop={"acc": 0.5})
    journal.set_meta(name="y", none=None)
    assert journal.meta() == {"name": "y", "stop": {"acc": 0.5}, "none": None}


# ---------------------------------------------------------------------------------------------------------- the codec


@pytest.mark.parametrize("item", ONE_OF_EACH, ids=lambda item: type(item).__name__)
def test_every_kind_of_record_comes_back_equal(item: Item) -> None:
    assert decode(*encode(item)) == item


def test_an_older_record_without_the_newest_field_is_read_with_its_default() -> None:
    newest = Launch("a_00000", 2, 0, {}, None, 5, 1.0, 1, None, False, generation=3, changed=("lr",), waits=True)
    kind, body = encode(newest)
    older = decode(kind, body.rpartition(",")[0] + "]")
    assert older == dataclasses.replace(newest, waits=False)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
numpy_scalars = st.builds(np.float32, st.floats(width=32)) | st.builds(np.int64, st.integers(-(2**63), 2**63 - 1))
values = st.recursive(
    scalars | numpy_scalars | st.complex_numbers() | st.builds(np.bool_, st.booleans()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(["$tuple", "$pickle", "$repr"]), inner, max_size=4)
        | st.dictionaries(st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), values, max_size=5))
def test_any_config_comes_back_equal_and_of_the_same_types(config: dict[str, Any]) -> None:
    back = decode(*encode(TrialAdded("a", 0, "n", "t", "f", config)))
    assert isinstance(back, TrialAdded)
    assert equal(back.config, config)


@given(values)
def test_unpack_undoes_pack(value: Any) -> None:
    assert equal(unpack(pack(value)), value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values, max_size=5), st.floats(), st.floats())
def test_metrics_and_clock_readings_come_back_exactly(metrics: dict[str, Any], clock: float, total: float) -> None:
    report = Reported("a", 1, 1, metrics, False, timestamp=clock, time_total_s=total)
    back = decode(*encode(report))
    assert all(same(getattr(back, field.name), getattr(report, field.name)) for field in dataclasses.fields(report))


def equal(a: Any, b: Any) -> bool:
    """Like ``same``, and a NaN of any kind, alone or inside something, is itself."""
    if same(a, b):
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return isinstance(a, (float, complex, np.floating)) and pickle.dumps(a) == pickle.dumps(b)


def test_nan_and_infinities_survive_in_metrics() -> None:
    back = decode(*encode(Reported("a", 1, 1, {"nan": math.nan, "inf": -math.inf}, False)))
    assert isinstance(back, Reported)
    assert math.isnan(back.metrics["nan"])
    assert back.metrics["inf"] == -math.inf


def test_text_that_is_no_utf8_can_be_stored(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    journal = SQLiteJournal.create(tmp_path)
    journal.append([Notice("key", name), TrialAdded("a", 0, "n", "t", "f", {name: name})], 1.0)
    items = [record.item for record in journal.read()]
    journal.close()
    assert items == [Notice("key", name), TrialAdded("a", 0, "n", "t", "f", {name: name})]


def test_a_lambda_in_a_config_comes_back_as_a_function() -> None:
    back = unpack(pack({"scale": lambda x: 3 * x}))
    assert back["scale"](2) == 6


class Shy:
    """An object that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("not now")


def test_a_value_that_cannot_be_shown_is_written_all_the_same() -> None:
    packed = pack({"model": Shy()})
    assert type(unpack(packed)["model"]).__name__ == "Shy"
    assert repr(unpack(packed, unpickle=False)["model"]) == "<Shy, which cannot be shown: RuntimeError>"


def test_a_value_whose_module_is_not_here_does_not_hide_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack({"lr": 0.1, "model": Path("x")})
    packed["model"]["$pickle"] = "gAJjbm93aGVyZQpUaGluZwopgS4="  # an instance of nowhere.Thing
    back = unpack(packed)
    assert back["lr"] == 0.1
    assert isinstance(back["model"], Unloadable)
    assert repr(back["model"]) == repr(Path("x"))
    with pytest.raises(JournalError, match=r"cannot be read from the journal here: ModuleNotFoundError.*'nowhere'"):
        pickle.dumps(back)


@pytest.mark.parametrize("body", ["{}", "[1,2,3]", "", "[1", '"text"'])
def test_a_damaged_body_is_an_error(body: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's own message
        decode("Finished", body)


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown kind of record 'Danced'"):
        decode("Danced", "[]")


# ------------------------------------------------------------------------------------------------------ the SQLite file


def test_what_was_appended_is_there_after_closing(tmp_path: Path) -> None:
    journal = SQLiteJournal.create(tmp_path)
    journal.set_meta(name="x")
    journal.append(ONE_OF_EACH, 1.0)
    journal.close()
    journal.close()
    again = SQLiteJournal.open_for_writing(tmp_path)
    assert again.meta() == {"name": "x"}
    assert again.append([StopAsked("more")], 2.0)[0].seq == len(ONE_OF_EACH) + 1
    again.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal.lock", JOURNAL_NAME]


def test_readers_see_what_is_committed_while_it_is_written(tmp_path: Path) -> None:
    writer = SQLiteJournal.create(tmp_path)
    reader = SQLiteJournal.open_for_reading(tmp_path)
    assert list(reader.read()) == []
    records = writer.append(ONE_OF_EACH, 1.0)
    assert list(reader.read()) == records
    reader.close()
    writer.close()


def test_a_killed_writer_loses_nothing_and_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from shoal.core.events import StopAsked\n"
        "from shoal.journal.sqlite import SQLiteJournal\n"
        "journal = SQLiteJournal.create(Path(sys.argv[1]))\n"
        "for number in range(200): journal.append([StopAsked(str(number))], 1.0)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    journal = SQLiteJournal.open_for_writing(tmp_path)
    assert [record.item for record in journal.read()] == [StopAsked(str(number)) for number in range(200)]
    journal.close()


@pytest.mark.parametrize("open_it", [SQLiteJournal.open_for_reading, SQLiteJournal.open_for_writing])
class TestFilesThatAreNoJournal:
    def test_no_file(self, tmp_path: Path, open_it: Callable[[Path], SQLiteJournal]) -> None:
        with pytest.raises(JournalError, match=r"holds no experiment of Shoal: there is no file journal\.sqlite"):
            open_it(tmp_path)

    def test_other_bytes(self, tmp_path: Path, open_it: Callable[[Path], SQLiteJournal]) -> None:
        (tmp_path / JOURNAL_NAME).write_bytes(b"no database" * 500)
        with pytest.raises(JournalError, match=r"cannot be read: file is not a database"):
            open_it(tmp_path)

    def test_an_empty_file(self, tmp_path: Path, open_it: Callable[[Path], SQLiteJournal]) -> None:
        (tmp_path / JOURNAL_NAME).touch()
        with pytest.raises(JournalError, match=r"has format 0; this Shoal reads format 5. It is no journal"):
            open_it(tmp_path)

    def test_a_newer_format(self, tmp_path: Path, open_it: Callable[[Path], SQLiteJournal]) -> None:
        SQLiteJournal.create(tmp_path).close()
        change(tmp_path, f"PRAGMA user_version={SCHEMA_VERSION + 1}")
        with pytest.raises(JournalError, match=r"has format 6; this Shoal reads format 5. Update Shoal"):
            open_it(tmp_path)

    def test_an_older_format(self, tmp_path: Path, open_it: Callable[[Path], SQLiteJournal]) -> None:
        with closing(SQLiteJournal.create(tmp_path)) as journal:
            written = journal.append(ONE_OF_EACH, 1.0)
        change(tmp_path, "PRAGMA user_version=2")
        with closing(SQLiteJournal.open_for_reading(tmp_path)) as journal:
            assert list(journal.read()) == written
        if open_it == SQLiteJournal.open_for_writing:
            with pytest.raises(JournalError, match=r"has format 2\. It was written by .* can be read"):
                open_it(tmp_path)
        change(tmp_path, "PRAGMA user_version=1")
        with pytest.raises(JournalError, match=r"has format 1; this Shoal reads format 5\. It was"):
            open_it(tmp_path)

    def test_a_lost_table(self, tmp_path: Path, open_it: Callable[[Path], SQLiteJournal]) -> None:
        SQLiteJournal.create(tmp_path).close()
        change(tmp_path, "DROP TABLE journal")
        with pytest.raises(JournalError, match="cannot be read: no such table: journal"):
            open_it(tmp_path)

    def test_a_folder_can_be_opened_once_it_is_right(
        self, tmp_path: Path, open_it: Callable[[Path], SQLiteJournal]
    ) -> None:
        with pytest.raises(JournalError):
            open_it(tmp_path)
        SQLiteJournal.create(tmp_path).close()
        open_it(tmp_path).close()


@pytest.mark.parametrize("version", [3, 4])
def test_a_journal_of_an_older_format_goes_on_and_has_the_new_one_from_then_on(tmp_path: Path, version: int) -> None:
    with closing(SQLiteJournal.create(tmp_path)) as journal:
        written = journal.append(ONE_OF_EACH, 1.0)
    change(tmp_path, f"PRAGMA user_version={version}")
    with closing(SQLiteJournal.open_for_reading(tmp_path)) as journal:
        assert list(journal.read()) == written
    with closing(SQLiteJournal.open_for_writing(tmp_path)) as journal:
        written += journal.append([StopAsked("more")], 2.0)
    with closing(sqlite3.connect(tmp_path / JOURNAL_NAME)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    with closing(SQLiteJournal.open_for_reading(tmp_path)) as journal:
        assert list(journal.read()) == written


def change(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / JOURNAL_NAME)
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE journal SET body = 'torn [' WHERE seq = 2",
        "UPDATE journal SET kind = 'Danced' WHERE seq = 2",
        "UPDATE journal SET body = '[]' WHERE seq = 2",
    ],
)
def test_a_damaged_record_is_an_error_that_names_the_file(tmp_path: Path, statement: str) -> None:
    journal = SQLiteJournal.create(tmp_path)
    journal.append(ONE_OF_EACH, 1.0)
    journal.close()
    change(tmp_path, statement)
    reader = SQLiteJournal.open_for_reading(tmp_path)
    with pytest.raises(JournalError, match=r"The journal .*journal\.sqlite is damaged"):
        list(reader.read())
    reader.close()


def test_damaged_pages_are_an_error(tmp_path: Path) -> None:
    journal = SQLiteJournal.create(tmp_path)
    journal.append([Notice("key", "x" * 3000) for _ in range(100)], 1.0)
    journal.close()
    path = tmp_path / JOURNAL_NAME
    data = bytearray(path.read_bytes())
    data[4096 * 3 :] = b"\xff" * (len(data) - 4096 * 3)
    path.write_bytes(data)
    with pytest.raises(JournalError, match="cannot be read: database disk image is malformed"):
        SQLiteJournal.open_for_reading(tmp_path)


def test_a_folder_with_an_experiment_takes_no_second_one(tmp_path: Path) -> None:
    SQLiteJournal.create(tmp_path).close()
    with pytest.raises(JournalError, match="exists already; a new experiment needs a folder of its own"):
        SQLiteJournal.create(tmp_path)


@pytest.mark.parametrize("open_it", [SQLiteJournal.create, SQLiteJournal.open_for_writing])
def test_a_second_writer_is_turned_away_and_told_who_writes(
    tmp_path: Path, open_it: Callable[[Path], SQLiteJournal]
) -> None:
    writer = SQLiteJournal.create(tmp_path)
    with pytest.raises(JournalError, match=rf"is being run by process {os.getpid()} on .* or stop it first"):
        open_it(tmp_path)
    writer.append([StopAsked("still writable")], 1.0)
    writer.close()
    SQLiteJournal.open_for_writing(tmp_path).close()


def test_a_transaction_that_fails_halfway_leaves_nothing_and_can_be_written_again(tmp_path: Path) -> None:
    journal = SQLiteJournal.create(tmp_path)
    change(tmp_path, "INSERT INTO journal VALUES (2, 0.0, 'in', 'the way', 0)")
    with pytest.raises(JournalError, match="cannot be written: UNIQUE constraint failed"):
        journal.append(ONE_OF_EACH, 1.0)
    change(tmp_path, "DELETE FROM journal WHERE seq = 2")
    assert list(journal.read()) == []
    records = journal.append(ONE_OF_EACH, 1.0)
    assert records[0].seq == 1
    assert list(journal.read()) == records
    journal.close()
    with pytest.raises(JournalError, match="is closed, or was opened for reading"):
        journal.append(ONE_OF_EACH, 1.0)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot be written"):
        SQLiteJournal.create(tmp_path / "nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_can_be_read(tmp_path: Path) -> None:
    journal = SQLiteJournal.create(tmp_path)
    records = journal.append(ONE_OF_EACH, 1.0)
    journal.close()
    tmp_path.chmod(0o555)
    try:
        reader = SQLiteJournal.open_for_reading(tmp_path)
        assert list(reader.read()) == records
        reader.close()
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("folder", ["", ".", "..", "/abs", "../../x", "a/b", "a\0b"])
def test_a_trial_whose_folder_is_elsewhere_cannot_be_read(folder: str) -> None:
    kind, body = encode(TrialAdded("a", 0, "n", "t", folder, {}))
    with pytest.raises(ValueError, match="folder"):
        decode(kind, body)
