"""Files from outside may hold anything: each reader gives a value or its own error that names the file, and soon.

Hypothesis makes up the files, others at every run.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import shutil
import sqlite3
import struct
import tracemalloc
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal import tune
from shoal.checkpoints import Checkpoint
from shoal.core import commands, events
from shoal.errors import ConfigError, JournalError
from shoal.examples import digits
from shoal.journal import JOURNAL_NAME, sqlite
from shoal.journal.brief import BRIEF
from shoal.journal.codec import decode, encode
from shoal.journal.sqlite import SQLiteJournal
from shoal.replay import PopulationBasedTrainingReplay
from shoal.sinks import logfiles, tfevents

bounded = settings(max_examples=300, deadline=None)
KINDS = {
    cls.__name__: cls
    for module in (events, commands)
    for cls in vars(module).values()
    if dataclasses.is_dataclass(cls) and isinstance(cls, type)
}
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["a_00000", "TERMINATED", "", 0, 1, [], {}, 2**70, base64.b64encode(b"x").decode()]),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(st.text(max_size=6) | st.sampled_from(["$tuple", "$repr", "lr"]), inner, max_size=4)
    ),
    max_leaves=15,
)


def nested(depth: int, kind: str = "[") -> str:
    """Return JSON that is nested more deeply than Python's stack is high."""
    return "[" * depth + "]" * depth if kind == "[" else '{"a":' * depth + "1" + "}" * depth


depths = st.sampled_from([10, 300, 450, 900, 990, 1100, 5000, 200_000])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@contextmanager
def refused_by(kind: type[Exception] | tuple[type[Exception], ...], path: Path) -> Generator[None]:
    """Whatever is inside may raise this kind of error, if it names the file, or the folder."""
    caught: Exception | None = None
    try:
        yield
    except kind as error:
        caught = error
    assert caught is None or str(path) in str(caught)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file with pieces cut out, doubled, overwritten; or any bytes."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.integers(0, 12)))
        data[begin:end] = draw(st.one_of(st.binary(max_size=12), st.just(bytes(data[end : end + 40]))))
    return bytes(data[: draw(st.sampled_from([len(data), len(data), draw(st.integers(0, len(data)))]))])


# ------------------------------------------------------------------------------------------------ records of a journal


@bounded
@given(st.sampled_from([*KINDS, "NoSuchKind", ""]), st.lists(json_values, max_size=12) | json_values)
@example("Stop", ["a", 1, "NOSUCH", ""])
@example("Failed", ["a", 1, "e", "t", "no base64", False])
@example("Failed", ["a", 1, "e", "t", 5, False])
@example("Launch", ["a", 1, 0, {"$tuple": 5}, None, 0, 0.0, 0, None, True])
@example("Launch", ["a", 1, 0, {"$pickle": 5, "$repr": 5}, None, 0, 0.0, 0, None, True])
@example("Launch", ["a", 1, 0, {}, {"a": 1}, 0, 0.0, 0, None, True])
@example("Launch", ["a", 1, 0, {}, [1, 2], 0, 0.0, 0, None, True])
@example("Opened", [[[""]], 5])
@example("Opened", [[[5]], [None]])
@example("Opened", [[[""]], [None], 5])
@example("Opened", [[[""]], [None], "abc"])
@example("Finished", [["a"], 1])
@example("Finished", ["a", True])
@example("Reported", ["a", 1, 1, [], True])
def test_any_record_is_an_item_that_can_be_written_again_or_a_value_error(kind: str, values: Any) -> None:
    body = json.dumps(values)
    try:
        item = decode(kind, body)
    except ValueError:
        return
    repr(item)
    assert type(item).__name__ == kind
    try:
        again = encode(item)
    except JournalError:
        assert "$pickle" in body, "what cannot be loaded here cannot be sent to a member either"
    else:
        assert repr(decode(*again)) == repr(item)


@bounded
@given(st.sampled_from(sorted(KINDS)), st.text())
@example("Finished", "[" + "9" * 5000 + "]")
def test_any_text_is_no_record_or_one(kind: str, body: str) -> None:
    with suppress(ValueError):
        decode(kind, body)


@bounded
@given(st.sampled_from(sorted(KINDS)), depths, st.sampled_from("[{"), st.integers(0, 9))
def test_a_record_that_is_nested_too_deeply_is_a_value_error(kind: str, depth: int, how: str, place: int) -> None:
    for body in (nested(depth, how), "[" + "1," * place + nested(depth, how) + "]"):
        with suppress(ValueError):
            decode(kind, body)
    config = '["a",0,"n","t","f",{"c":' + nested(depth, how) + "}]"
    try:
        decode("TrialAdded", config)
    except ValueError:
        assert depth > 10


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([*sorted(KINDS), BRIEF]), st.lists(json_values, max_size=6)), max_size=5),
    st.data(),
)
def test_any_journal_is_read_or_refused_by_name(
    place: Path, rows: list[tuple[str, list[Any]]], data: st.DataObject
) -> None:
    folder = place / "journal"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with closing(sqlite3.connect(folder / JOURNAL_NAME)) as connection:
        # With checksums that are right, as in a file that somebody made on purpose.
        connection.executescript(f"{sqlite._SCHEMA} PRAGMA user_version={sqlite.SCHEMA_VERSION};")
        for seq, (kind, values) in enumerate(rows, start=1):
            body = json.dumps(values)
            stamp = sqlite._stamp(seq, "1.0", kind, body)
            row = (seq, 1.0, kind, body, ~stamp if seq == len(rows) else stamp)
            connection.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?)", row)
        facts = data.draw(st.dictionaries(st.sampled_from(["name", "metric", "settings_tune", "stop"]), json_values))
        sqlite._store(connection, {key: json.dumps(value) for key, value in facts.items()})
        connection.commit()
    for attempt in (
        lambda: SQLiteJournal.open_for_writing(folder).close(),
        lambda: tune.ResultGrid.read(folder),
        lambda: tune.Tuner.restore(folder, lambda config: None),
    ):
        with refused_by(JournalError, folder):
            attempt()
    assert tune.Tuner.can_restore(folder) in (True, False)


# --------------------------------------------------------------------------------------------------------- policy files

POLICY = (
    b'["2_lr=0.1", "0_lr=0.2", 20, 20, {"lr": 0.2, "m": {"a": 1}}, {"lr": 0.24, "m": {"a": 1}}]\n'
    b'["2_lr=0.1", "1_lr=0.3", 40, 40, {"lr": 0.3, "m": {"a": 2}}, {"lr": 0.25, "m": {"a": 2}}]\n'
)


def check_policy(path: Path) -> None:
    with refused_by(ConfigError, path):
        replay = PopulationBasedTrainingReplay(path)
        config = replay.prepare({"lr": 1.0, "other": [1]}, 0, 0)
        policy = replay.policy(mode="max", seed=0)
        policy.add("a", 0, config)
        policy.decide("a", 30.0, None)


@bounded
@given(damaged(POLICY) | st.binary())
def test_any_bytes_are_a_policy_or_an_error_that_names_the_file(place: Path, data: bytes) -> None:
    path = place / "pbt_policy_x.txt"
    path.write_bytes(data)
    check_policy(path)


@bounded
@given(st.lists(st.lists(json_values, min_size=5, max_size=7) | json_values, min_size=1, max_size=4))
def test_any_json_lines_are_a_policy_or_an_error_that_names_the_line(place: Path, lines: list[Any]) -> None:
    path = place / "pbt_policy_x.txt"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    check_policy(path)


@bounded
@given(json_values, json_values, st.dictionaries(st.text(max_size=3), json_values, max_size=3), depths)
def test_a_policy_with_any_configs_is_followed_or_refused(
    place: Path, step: Any, other: Any, config: dict[str, Any], depth: int
) -> None:
    path = place / "pbt_policy_x.txt"
    deep = nested(depth, "{")
    text = json.dumps(config)
    path.write_text(
        f'["1_x", "0_x", 3, {json.dumps(step)}, {text}, {deep}]\n["1_x", "1_x", 9, 9, {deep}, {text}]\n'
        f'["1_x", "0_x", {json.dumps(other)}, 20, {deep.replace("1", "2")}, {deep}]\n'
    )
    check_policy(path)
    path.write_text(f'["1_x", "0_x", 3, 3, {text}, {deep}]\n["1_x", "0_x", 9, 9, {deep}, {text}]\n')
    check_policy(path)


# ------------------------------------------------------------------------------------------------------------ IDX files


def idx(images: int, rows: int = 28, columns: int = 28) -> bytes:
    return struct.pack(">4I", 0x803, images, rows, columns) + bytes(images * rows * columns)


sizes = st.sampled_from([0, 1, 2, 28, 2**16, 2**31, 2**32 - 1])


def check_folder(folder: Path) -> None:
    tracemalloc.start()
    try:
        with refused_by((ValueError, FileNotFoundError), folder):
            digits.read_idx_folder(folder)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@bounded
@given(
    st.sampled_from(["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]),
    st.sampled_from(["", ".gz"]),
    st.one_of(
        damaged(idx(2)),
        damaged(gzip.compress(idx(2))),
        st.binary(),
        damaged(struct.pack(">2I", 0x801, 2) + b"\1\2"),
        st.tuples(sizes, sizes, sizes, st.binary(max_size=8)).map(
            lambda four: struct.pack(">4I", 0x803, *four[:3]) + four[3]
        ),
        st.tuples(sizes, sizes, sizes).map(lambda three: gzip.compress(struct.pack(">4I", 0x803, *three))),
    ),
)
def test_any_idx_files_are_digits_or_an_error_that_names_them(place: Path, name: str, suffix: str, data: bytes) -> None:
    folder = place / "idx"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(2))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 2) + b"\1\2")
    (folder / name).unlink()
    (folder / f"{name}{suffix}").write_bytes(data)
    check_folder(folder)


def test_a_packed_idx_file_that_unpacks_to_more_than_it_promises_is_not_unpacked_whole(place: Path) -> None:
    folder = place / "bomb"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(1) + bytes(64 << 20), 9))
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 1) + b"\1")
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is too long"):
        digits.read_idx_folder(folder)
    check_folder(folder)


# -------------------------------------------------------------------------------------------- what else lies in folders


@bounded
@given(
    damaged(b'{"classes": ["cat", "dog"], "n": 3}') | st.binary() | json_values.map(lambda v: json.dumps(v).encode())
)
@example(nested(200_000).encode())
@example(b'{"a":' + b"9" * 5000 + b"}")
def test_any_notes_of_a_checkpoint_are_a_dict_or_an_error_that_names_them(place: Path, data: bytes) -> None:
    folder = place / "checkpoint"
    folder.mkdir(exist_ok=True)
    checkpoint = Checkpoint.from_directory(folder)
    checkpoint.set_metadata({})
    (path,) = folder.iterdir()
    path.write_bytes(data)
    with refused_by(ConfigError, path):
        assert isinstance(checkpoint.get_metadata(), dict)


@bounded
@given(st.binary() | damaged(b'a,b,config/lr\n1,"x\n",0.5\n2,,"0,5"\n'))
def test_any_progress_csv_can_be_gone_on_with(place: Path, data: bytes) -> None:
    path = place / "progress.csv"
    path.write_bytes(data)
    assert all(isinstance(cell, str) for row in logfiles._read(path) for cell in row)


@bounded
@given(st.lists(st.binary(max_size=40) | st.just(bytes(9) + b"\x10"), max_size=4), st.binary(max_size=40), st.data())
def test_any_event_file_is_read_up_to_what_is_damaged(payloads: list[bytes], rest: bytes, data: st.DataObject) -> None:
    whole = b"".join(tfevents._record(payload) for payload in payloads)
    ends = [len(b"".join(map(tfevents._record, payloads[:count]))) for count in range(1, len(payloads) + 1)]
    assert [written.end for written in tfevents.records(whole + rest)][: len(ends)] == ends
    for written in tfevents.records(data.draw(damaged(whole))):
        assert written.end > 0
