"""Results that are written briefly: each comes back exactly as it was, and none without the one that it is like."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.core.events import Reported, SavedCheckpoint, StopAsked
from shoal.errors import JournalError
from shoal.journal import JOURNAL_NAME, Item, Journal
from shoal.journal import sqlite as in_sqlite
from shoal.journal.brief import BRIEF, Expander, Writer
from shoal.journal.codec import decode
from shoal.journal.memory import MemoryJournal
from shoal.journal.sqlite import SQLiteJournal
from shoal.space.containers import same

BEGAN = 1_795_435_200.123456


class Member:
    """Reports as a session does, which counts nanoseconds."""

    def __init__(self, trial_id: str = "ab12c_00000", launch: int = 1, iteration: int = 0, before_ns: int = 0) -> None:
        self.trial_id, self.launch = trial_id, launch
        self.iteration, self.since_restore = iteration, 0
        self.total_ns, self.since_ns = before_ns, 0

    def report(self, metrics: dict[str, Any], spent_ns: int = 123_456_789, **changes: Any) -> Reported:
        self.iteration += 1
        self.since_restore += 1
        self.total_ns += spent_ns
        self.since_ns += spent_ns
        report = Reported(
            trial_id=self.trial_id,
            launch=self.launch,
            iteration=self.iteration,
            metrics=metrics,
            waiting=False,
            timestamp=round(BEGAN + self.since_ns / 1e9, 6),
            time_this_iter_s=spent_ns / 1e9,
            time_total_s=self.total_ns / 1e9,
            time_since_restore=self.since_ns / 1e9,
            iterations_since_restore=self.since_restore,
        )
        return dataclasses.replace(report, **changes)


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    made: Journal = MemoryJournal() if request.param == "memory" else SQLiteJournal.create(tmp_path)
    yield made
    made.close()


def exactly(one: Item, other: Item) -> bool:
    """Whether two results are the same to the last bit and in the types of what they hold."""
    pairs = ((getattr(one, each.name), getattr(other, each.name)) for each in dataclasses.fields(one))
    return type(one) is type(other) and all(same(a, b) and repr(a) == repr(b) for a, b in pairs)


def kinds(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / JOURNAL_NAME)) as connection:
        return [kind for (kind,) in connection.execute("SELECT kind FROM journal ORDER BY seq")]


leaves = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(st.characters(), max_size=5)
values = leaves | st.floats(-1e3, 1e3) | st.lists(leaves, max_size=3) | st.dictionaries(st.text(), leaves, max_size=3)
metrics_like = st.lists(st.sampled_from(["loss", "acc", '"%s"', "ö\ud800", "[,"]), unique=True, max_size=4).flatmap(
    lambda keys: st.fixed_dictionaries(dict.fromkeys(keys, values))
)
rests = st.fixed_dictionaries(
    {},
    optional={
        "waiting": st.just(True),
        "stop": st.sampled_from(["acc is 1, at least 1", ""]),
        "checkpoint": st.builds(SavedCheckpoint, st.integers(0, 9), st.just("d1"), st.just(3), st.booleans()),
        "timestamp": st.floats(),
        "time_this_iter_s": st.floats(),
        "time_total_s": st.floats() | st.integers(),
        "time_since_restore": st.floats() | st.integers(),
        "iterations_since_restore": st.integers(0, 3),
        "launch": st.integers(1, 2),
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # which is a question of who else uses the machine
@given(
    st.lists(st.tuples(st.integers(0, 1), metrics_like, st.integers(0, 10**12), rests), max_size=12),
    st.integers(0, 10**13),
)
def test_whatever_is_reported_comes_back_exactly(told: list[Any], before_ns: int) -> None:
    members = [Member("a_00000"), Member("a_00001", 1, 7, before_ns)]
    reports = [members[who].report(metrics, spent_ns, **rest) for who, metrics, spent_ns, rest in told]
    journal = MemoryJournal()
    records = [record for report in reports for record in journal.append([report], 1.0)]
    assert all(map(exactly, (record.item for record in journal.read()), reports))
    for record, report in zip(records, reports, strict=True):
        if record.texts is not None:
            numbers = [
                *report.metrics.values(),
                report.time_this_iter_s,
                report.time_total_s,
                report.time_since_restore,
            ]
            assert record.texts == [json.dumps(value) for value in numbers]


def test_a_result_like_an_earlier_one_names_that_and_does_not_repeat_it(tmp_path: Path) -> None:
    first, second = Member(), Member("ab12c_00001", 3, 40, 10**12 + 1)
    reports = [member.report({"loss": 0.1, "acc": 1 / 3}) for _ in range(3) for member in (first, second)]
    with closing(SQLiteJournal.create(tmp_path)) as journal:
        journal.append([StopAsked("x")], 1.0)
        journal.append(reports, 1.0)
        assert all(map(exactly, (record.item for record in journal.read(after=1)), reports))
    with closing(sqlite3.connect(tmp_path / JOURNAL_NAME)) as connection:
        written = list(connection.execute("SELECT kind, body FROM journal WHERE seq > 1"))
    assert [kind for kind, _ in written] == ["Reported"] * 2 + [BRIEF] * 4
    assert written[3][1] == "[3,42,[0.1,0.3333333333333333],1795435200.37037,0.123456789,0.246913578]"


def test_other_metrics_and_other_launches_are_written_out_once(tmp_path: Path) -> None:
    member = Member()
    plain, validated = {"loss": 0.1}, {"loss": 0.1, "val_loss": 0.2}
    reports = [member.report(validated if step % 3 == 2 else plain) for step in range(9)]
    again = Member("ab12c_00000", 2, 5, 10**9)
    reports += [again.report(plain), again.report(plain)]
    with closing(SQLiteJournal.create(tmp_path)) as journal:
        for report in reports:
            journal.append([report], 1.0)
        assert all(map(exactly, (record.item for record in journal.read()), reports))
    written_out = [place for place, kind in enumerate(kinds(tmp_path)) if kind == "Reported"]
    assert written_out == [0, 2, 9]


def test_of_a_launch_that_always_reports_other_metrics_not_all_are_remembered() -> None:
    writer, member = Writer(), Member()
    for step in range(40):
        writer.encode(step + 1, member.report({f"step {step}": 1}))
    assert len(writer._launches["ab12c_00000"].likes) == 16


def test_a_writer_that_goes_on_with_a_journal_relies_on_no_record_that_it_has_not_written(tmp_path: Path) -> None:
    member = Member()
    reports = [member.report({"loss": 0.1}) for _ in range(4)]
    with closing(SQLiteJournal.create(tmp_path)) as journal:
        journal.append(reports[:2], 1.0)
    with closing(SQLiteJournal.open_for_writing(tmp_path)) as journal:
        journal.append(reports[2:], 1.0)
        assert all(map(exactly, (record.item for record in journal.read()), reports))
    assert kinds(tmp_path) == ["Reported", BRIEF] * 2


@pytest.mark.parametrize("after", [1, 2, 5])
def test_reading_goes_on_after_any_result(journal: Journal, after: int) -> None:
    member = Member()
    reports = [member.report({"loss": step / 7}) for step in range(6)]
    journal.append(reports, 1.0)
    assert all(map(exactly, (record.item for record in journal.read(after)), reports[after:]))


def test_after_a_transaction_that_failed_no_result_is_like_one_of_it(tmp_path: Path) -> None:
    member = Member()
    reports = [member.report({"loss": step / 7}) for step in range(4)]
    with closing(SQLiteJournal.create(tmp_path)) as journal:
        with closing(sqlite3.connect(tmp_path / JOURNAL_NAME)) as other:
            other.execute("INSERT INTO journal VALUES (2, 0.0, 'in', 'the way', 0)")
            other.commit()
            with pytest.raises(JournalError, match="UNIQUE constraint failed"):
                journal.append(reports[:2], 1.0)
            other.execute("DELETE FROM journal")
            other.commit()
        journal.append([StopAsked("in between"), *reports[2:]], 1.0)
        assert all(map(exactly, (record.item for record in journal.read(after=1)), reports[2:]))
    assert kinds(tmp_path) == ["StopAsked", "Reported", BRIEF]


def test_five_metrics_to_the_last_digit_take_two_hundred_bytes(tmp_path: Path) -> None:
    rng = random.Random(1)
    # From the start, and after it went on from a checkpoint of long ago.
    members = [Member("ab12c_00000"), Member("ab12c_00001", 3, 100_000, 10**15 + 7)]
    empty = SQLiteJournal.create(tmp_path)
    empty.close()
    before = (tmp_path / JOURNAL_NAME).stat().st_size
    with closing(SQLiteJournal.open_for_writing(tmp_path)) as journal:
        for _ in range(200):
            names = ("accuracy", "loss", "val_loss", "val_accuracy", "gradient_norm")
            journal.append(
                [
                    member.report({name: rng.random() for name in names}, rng.randrange(10**9))
                    for member in members
                    for _ in range(5)
                ],
                1.7e9 + rng.random(),
            )
    assert (tmp_path / JOURNAL_NAME).stat().st_size - before <= 200 * 2000


# ------------------------------------------------------------------------------------------------------------- damage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a journal with a command, then results, of which all but the first are brief."""
    member = Member()
    with closing(SQLiteJournal.create(tmp_path)) as journal:
        journal.append([StopAsked("x"), *[member.report({"loss": step / 7}) for step in range(5)]], 1.0)
    return tmp_path


def change(folder: Path, seq: int, alter: Callable[[str, str], tuple[str, str]], *, stamped: bool) -> None:
    """Change kind and body of a record; ``stamped``: with a checksum that is right, as somebody could on purpose."""
    with closing(sqlite3.connect(folder / JOURNAL_NAME)) as connection:
        found = connection.execute("SELECT at, kind, body, crc FROM journal WHERE seq = ?", (seq,)).fetchone()
        kind, body = alter(*found[1:3])
        stamp = in_sqlite._stamp(seq, repr(found[0]), kind, body)
        crc = found[3] if not stamped else ~stamp if found[3] < 0 else stamp
        connection.execute("UPDATE journal SET kind = ?, body = ?, crc = ? WHERE seq = ?", (kind, body, crc, seq))
        connection.commit()


def with_value(place: int, value: Any) -> Callable[[str, str], tuple[str, str]]:
    def alter(kind: str, body: str) -> tuple[str, str]:
        values = json.loads(body)
        values[place] = value
        return kind, json.dumps(values)

    return alter


def refused(folder: Path, after: int, match: str) -> None:
    with (
        closing(SQLiteJournal.open_for_reading(folder)) as journal,
        pytest.raises(JournalError, match=rf"The journal .*journal\.sqlite is damaged: record {match}"),
    ):
        list(journal.read(after))


@pytest.mark.parametrize("after", [0, 3])
def test_a_result_like_one_that_is_damaged_is_refused(folder: Path, after: int) -> None:
    change(folder, 2, lambda kind, body: (kind, body.replace("0.0", "0.5")), stamped=False)
    refused(folder, after, "2 is not what was" if after == 0 else "4: .* record 2 is not what was written")


def test_a_page_that_is_lost_before_what_is_read_is_an_error_of_the_journal(tmp_path: Path) -> None:
    member = Member()
    with closing(SQLiteJournal.create(tmp_path)) as journal:
        journal.append([member.report({"loss": step / 7}) for step in range(1000)], 1.0)
    with closing(sqlite3.connect(tmp_path / JOURNAL_NAME)) as connection:
        query = "SELECT pageno FROM dbstat WHERE name = 'journal' AND pagetype = 'leaf' ORDER BY pageno"
        page = connection.execute(query).fetchone()[0]
    data = bytearray((tmp_path / JOURNAL_NAME).read_bytes())
    data[(page - 1) * 4096 : page * 4096] = bytes(4096)
    (tmp_path / JOURNAL_NAME).write_bytes(data)
    refused(tmp_path, 900, "901: .* record 1 (cannot be read|is missing)")


def test_a_result_that_was_changed_is_refused(folder: Path) -> None:
    change(folder, 5, lambda kind, body: (kind, body.replace("0.4", "0.5")), stamped=False)
    refused(folder, 0, "5 is not what was written")


@pytest.mark.parametrize("value", [0, -1, 1, 4, 5, 6, 99, 2**70, 2.0, True, None, "2", [2], {}])
def test_a_result_that_names_no_result_that_is_written_out_before_it_is_refused(folder: Path, value: object) -> None:
    change(folder, 5, with_value(0, value), stamped=True)
    refused(folder, 0, "5: a record of kind R cannot be read")


@pytest.mark.parametrize(
    ("place", "value"),
    [(1, "7"), (1, 7.0), (1, None), (2, []), (2, [1, 2]), (2, {"loss": 1}), (2, None), (3, "x"), (4, None), (5, [])],
)
def test_a_result_of_other_types_is_refused(folder: Path, place: int, value: object) -> None:
    change(folder, 5, with_value(place, value), stamped=True)
    refused(folder, 0, "5: a record of kind R cannot be read")


@pytest.mark.parametrize(
    "body",
    ["", "[2", "{}", "2", "[]", "[2,4,[0.1],1.0,2.0]", "[2,4,[0.1],1.0,2.0,3.0,null,false,null,null,5]"],
)
def test_what_is_no_result_at_all_is_refused(folder: Path, body: str) -> None:
    change(folder, 5, lambda kind, _: (kind, body), stamped=True)
    refused(folder, 0, "5: a record of kind R cannot be read")


@pytest.mark.parametrize("rest", ['"x"', "null,1", "null,false,5", "null,false,null,[1]", "null,false,null,{}"])
def test_what_stands_behind_a_result_is_checked(folder: Path, rest: str) -> None:
    change(folder, 5, lambda kind, body: (kind, f"{body[:-1]},{rest}]"), stamped=True)
    refused(folder, 0, "5: a record of kind R cannot be read")


def test_a_result_like_one_that_is_missing_is_refused() -> None:
    def find(number: int) -> Item:
        raise ValueError(f"record {number} is missing")

    with pytest.raises(ValueError, match="record 2 is missing"):
        Expander(find).decode(5, "[2,4,[0.1],1.0,2.0,3.0]")


def test_nan_and_infinities_are_written_as_json_does() -> None:
    writer, member = Writer(), Member()
    values = (0.5, math.nan, math.inf, -math.inf, -0.0, 1e16, 1e-7, 10**30)
    written = [writer.encode(seq, member.report({"loss": value})) for seq, value in enumerate(values, start=1)]
    first = decode(*written[0][:2])
    expander = Expander(lambda number: first)
    back = [expander.decode(seq, body) for seq, (_, body, _) in enumerate(written[1:], start=2)]
    assert [repr(report.metrics["loss"]) for report in back] == [repr(value) for value in values[1:]]
    texts = [None if found is None else found[0] for _, _, found in written]
    assert texts == [None, None, None, None, "-0.0", "1e+16", "1e-07", "1" + 30 * "0"]
    assert list(itertools.accumulate(report.iteration for report in back))[-1] == sum(range(2, 9))
