"""Journals after a crash: files cut off, pages lost, old or garbage, full disks, folders that cannot be written, locks.

The journal is that of a real experiment whose driver was killed. All damage is done to copies of it.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import climb, pbt, run_script

from shoal import tune
from shoal.core.events import StopAsked
from shoal.core.recall import recall
from shoal.errors import JournalError
from shoal.experiment import ExperimentInfo
from shoal.journal import JOURNAL_NAME, Record
from shoal.journal.lock import LOCK_NAME
from shoal.journal.sqlite import SCHEMA_VERSION, SQLiteJournal
from shoal.plan import new_population

ROOT = Path(__file__).parents[2]
WAL = f"{JOURNAL_NAME}-wal"
SHM = f"{JOURNAL_NAME}-shm"
PAGE = 4096
FRAME = 24 + PAGE
BOUND_S = 2.0
"""How long a loop over random damage goes on."""

KILLED = """
import os, shutil, sqlite3
from pathlib import Path
from tests.helpers import climb, pbt
from shoal import tune
from shoal.journal.sqlite import SQLiteJournal

append, folder = SQLiteJournal.append, Path(os.environ["SHOAL_DIR"])
def watched(journal, items, at):
    records = append(journal, items, at)
    for number in (150, 300):
        if records[0].seq < number <= records[-1].seq:
            # What is so far goes into the main file, and the next transactions begin the -wal file anew.
            connection = sqlite3.connect(folder / "run/journal.sqlite")
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            connection.close()
            shutil.copyfile(folder / "run/journal.sqlite", folder / f"older_{number}.sqlite")
    if records[-1].seq >= 450:
        os.kill(os.getpid(), 9)
    return records
SQLiteJournal.append = watched
tune.Tuner(
    climb, param_space={"lr": tune.uniform(0.0, 1.0)},
    tune_config=tune.TuneConfig(metric="score", mode="max", num_samples=6, seed=1, scheduler=pbt(), engine="inline"),
    run_config=tune.RunConfig(name="run", storage_path=str(folder), verbose=0, stop={"training_iteration": 200}),
).fit()
"""


@dataclass(frozen=True)
class Killed:
    """An experiment whose driver was killed."""

    folder: Path
    closed: Path
    """The same after it was opened and closed: the journal is one file."""
    older: tuple[bytes, ...]
    """Its main file at earlier times."""
    records: list[Record]
    ends: frozenset[int]
    """Numbers of records that are the last of a transaction; and 0."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    place = tmp_path_factory.mktemp("killed")
    done = run_script(KILLED, place, PYTHONPATH=str(ROOT), SHOAL_DIR=str(place))
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = place / "run"
    closed = Path(shutil.copytree(folder, place / "closed"))
    with closing(SQLiteJournal.open_for_writing(closed)) as journal:
        records = list(journal.read())
    assert not (closed / WAL).exists()
    assert (folder / WAL).stat().st_size > 20 * FRAME
    with closing(sqlite3.connect(closed / JOURNAL_NAME)) as connection:
        ends = {seq for (seq,) in connection.execute("SELECT seq FROM journal WHERE crc < 0")}
    assert len(records) >= 450
    assert 50 < len(ends) < len(records) / 3, "transactions have several records"
    older = tuple((place / f"older_{number}.sqlite").read_bytes() for number in (150, 300))
    return Killed(folder, closed, older, records, frozenset({0, *ends}))


@contextmanager
def copied(folder: Path, to: Path) -> Generator[Path]:
    """Give a copy of a journal, without the trials."""
    to.mkdir()
    for name in (JOURNAL_NAME, WAL, SHM):
        if (folder / name).exists():
            shutil.copyfile(folder / name, to / name)
    try:
        yield to
    finally:
        shutil.rmtree(to)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files that hold something of their own: a lock holds nothing, SQLite makes the -shm file anew."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (LOCK_NAME, SHM) and not (path.name == WAL and not path.stat().st_size)
    }


def read_all(folder: Path) -> tuple[list[Record], dict[str, Any]]:
    with closing(SQLiteJournal.open_for_reading(folder)) as journal:
        return list(journal.read()), journal.meta()


def outcome(folder: Path) -> tuple[list[Record], dict[str, Any]] | JournalError:
    try:
        return read_all(folder)
    except JournalError as error:
        return error


def check(folder: Path, killed: Killed) -> int | None:
    """Return how many records a damaged copy gives, None where it is refused; make sure that it is one or the other.

    What it gives has to be a beginning of what was written, in whole transactions; for the writer, too.
    """
    before = contents(folder)
    found = outcome(folder)
    assert contents(folder) == before
    if isinstance(found, JournalError):
        assert str(folder) in str(found)
        with pytest.raises(JournalError):
            SQLiteJournal.open_for_writing(folder)
        assert contents(folder) == before
        return None
    records, meta = found
    assert records == killed.records[: len(records)]
    assert len(records) in killed.ends
    if records:
        population = new_population(ExperimentInfo.from_meta(meta), pbt())
        recall(population, (record.item for record in records))
        population.validate()
    try:
        writer = SQLiteJournal.open_for_writing(folder)
    except JournalError:
        assert contents(folder) == before
        return len(records)  # it can be read, but to write it would make matters worse
    with closing(writer):
        more = writer.append([StopAsked("more"), StopAsked("and more")], 1.0)
        assert more[0].seq == len(records) + 1
    assert read_all(folder) == ([*records, *more], meta)
    return len(records)


def page_numbers(data: bytes) -> range:
    return range(len(data) // PAGE)


def rounds(seed: int) -> Iterator[random.Random]:
    """Yield sources of randomness for some seconds, at least one. A failure shows the seed, as a local variable."""
    until = time.monotonic() + BOUND_S
    while True:
        yield random.Random(seed)
        seed += 1
        if time.monotonic() > until:
            return


# -------------------------------------------------------------------------------------------------- the write-ahead log


def test_a_killed_drivers_journal_is_whole(killed: Killed, tmp_path: Path) -> None:
    with copied(killed.folder, tmp_path / "copy") as copy:
        assert check(copy, killed) == len(killed.records)
    with copied(killed.closed, tmp_path / "copy") as copy:
        assert check(copy, killed) == len(killed.records)


def test_a_log_cut_off_at_any_frame_gives_the_transactions_that_are_whole(killed: Killed, tmp_path: Path) -> None:
    size = (killed.folder / WAL).stat().st_size
    found: list[int] = []
    for cut in range(32, size + 1, FRAME * max(1, size // FRAME // 150)):
        with copied(killed.folder, tmp_path / "copy") as copy:
            os.truncate(copy / WAL, cut)
            count = check(copy, killed)
            assert count is not None, "what is in the log is not needed to read what is not"
            found.append(count)
    assert found == sorted(found)
    assert len(set(found)) > 20


def test_a_log_cut_off_at_any_byte_gives_the_transactions_that_are_whole(killed: Killed, tmp_path: Path) -> None:
    size = (killed.folder / WAL).stat().st_size
    for rng in rounds(1):
        with copied(killed.folder, tmp_path / "copy") as copy:
            os.truncate(copy / WAL, rng.randrange(size))
            assert check(copy, killed) is not None


@pytest.mark.parametrize("how", ["zeros", "garbage", "a bit", "another frame"])
def test_what_comes_behind_a_damaged_frame_of_the_log_is_as_if_never_written(
    killed: Killed, tmp_path: Path, how: str
) -> None:
    frames = ((killed.folder / WAL).stat().st_size - 32) // FRAME
    for rng in rounds(2):
        with copied(killed.folder, tmp_path / "copy") as copy:
            data = bytearray((copy / WAL).read_bytes())
            begin = 32 + FRAME * rng.randrange(frames)
            if how == "a bit":
                data[begin + rng.randrange(FRAME)] ^= 1 << rng.randrange(8)
            else:
                other = 32 + FRAME * rng.randrange(frames)
                new = {"zeros": bytes(FRAME), "garbage": rng.randbytes(FRAME)}.get(how, data[other : other + FRAME])
                data[begin : begin + FRAME] = new
            (copy / WAL).write_bytes(data)
            assert check(copy, killed) is not None


def test_a_log_that_is_gone_leaves_what_the_main_file_has(killed: Killed, tmp_path: Path) -> None:
    with copied(killed.folder, tmp_path / "copy") as copy:
        (copy / WAL).unlink()
        count = check(copy, killed)
        assert count is not None
        assert 300 <= count < len(killed.records)


def test_a_main_file_that_is_gone_is_told_and_nothing_begins_anew(killed: Killed, tmp_path: Path) -> None:
    with copied(killed.folder, tmp_path / "copy") as copy:
        (copy / JOURNAL_NAME).unlink()
        with pytest.raises(JournalError, match=r"is gone, and only journal\.sqlite-wal is left"):
            SQLiteJournal.open_for_reading(copy)
        with pytest.raises(JournalError, match="is gone"):
            resume(copy, "AUTO")


@pytest.mark.parametrize("how", ["missing", "empty", "garbage", "of another time"])
def test_the_index_of_the_log_is_not_needed(killed: Killed, tmp_path: Path, how: str) -> None:
    for rng in rounds(3) if how == "garbage" else [random.Random(0)]:
        with copied(killed.folder, tmp_path / "copy") as copy:
            path = copy / SHM
            if how == "missing":
                path.unlink()
            elif how == "of another time":
                with copied(killed.folder, tmp_path / "other") as other:
                    os.truncate(other / WAL, 32 + 7 * FRAME)
                    with closing(SQLiteJournal.open_for_reading(other)) as journal:
                        assert list(journal.read())
                        shutil.copyfile(other / SHM, path)
            else:
                path.write_bytes(b"" if how == "empty" else rng.randbytes(path.stat().st_size))
            assert check(copy, killed) == len(killed.records)


# -------------------------------------------------------------------------------------------------------- the main file


def test_a_journal_cut_off_is_refused(killed: Killed, tmp_path: Path) -> None:
    size = (killed.closed / JOURNAL_NAME).stat().st_size
    rng = random.Random(4)
    for cut in [*range(0, size, PAGE), *(rng.randrange(size) for _ in range(100))]:
        with copied(killed.closed, tmp_path / "copy") as copy:
            os.truncate(copy / JOURNAL_NAME, cut)
            assert check(copy, killed) is None, cut


@pytest.mark.parametrize("how", ["zeros", "garbage", "another page"])
def test_a_journal_with_a_page_that_is_not_its_own_is_refused(killed: Killed, tmp_path: Path, how: str) -> None:
    whole = (killed.closed / JOURNAL_NAME).read_bytes()
    rng = random.Random(5)
    for page in page_numbers(whole):
        with copied(killed.closed, tmp_path / "copy") as copy:
            data = bytearray(whole)
            other = rng.choice([number for number in page_numbers(whole) if number != page]) * PAGE
            new = {"zeros": bytes(PAGE), "garbage": rng.randbytes(PAGE)}.get(how, whole[other : other + PAGE])
            data[page * PAGE : (page + 1) * PAGE] = new
            (copy / JOURNAL_NAME).write_bytes(data)
            # A page on the list of the free ones may hold anything.
            assert check(copy, killed) in (None, len(killed.records))


def test_older_pages_are_refused_or_give_what_was_then(killed: Killed, tmp_path: Path) -> None:
    """What a power cut can leave where pages were written, and the disk has kept only some of them."""
    newest = (killed.closed / JOURNAL_NAME).read_bytes()
    found: set[int | None] = set()
    for rng in rounds(6):
        older = rng.choice(killed.older)
        chance = rng.choice([1.0, 0.9, 0.5, 0.1, 0.02])
        data = bytearray(newest)
        for page in page_numbers(older):
            if rng.random() < chance:
                data[page * PAGE : (page + 1) * PAGE] = older[page * PAGE : (page + 1) * PAGE]
        if rng.random() < 0.5:
            del data[len(older) :]
        with copied(killed.closed, tmp_path / "copy") as copy:
            (copy / JOURNAL_NAME).write_bytes(data)
            found.add(check(copy, killed))
    assert None in found
    assert len(found) > 1


def test_a_killed_drivers_main_file_with_lost_pages_is_refused_or_gives_whole_transactions(
    killed: Killed, tmp_path: Path
) -> None:
    for rng in rounds(7):
        with copied(killed.folder, tmp_path / "copy") as copy:
            data = bytearray((copy / JOURNAL_NAME).read_bytes())
            older = rng.choice(killed.older)
            page = rng.randrange(min(len(data), len(older)) // PAGE) * PAGE
            how = rng.randrange(5)
            if how == 0:
                del data[rng.randrange(len(data)) :]
            else:
                new = [bytes(PAGE), rng.randbytes(PAGE), older[page : page + PAGE], data[:PAGE]][how - 1]
                data[page : page + PAGE] = new
            (copy / JOURNAL_NAME).write_bytes(data)
            if rng.random() < 0.5:
                (copy / WAL).unlink()
            check(copy, killed)


def test_a_journal_with_flipped_bits_is_refused_or_unchanged(killed: Killed, tmp_path: Path) -> None:
    whole = (killed.closed / JOURNAL_NAME).read_bytes()
    found: set[int | None] = set()
    for rng in rounds(8):
        data = bytearray(whole)
        # Of each page the beginning says where everything is.
        page = rng.randrange(len(data) // PAGE) * PAGE
        near = rng.choice([16, 120, PAGE])
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[page + rng.randrange(near)] ^= 1 << rng.randrange(8)
        with copied(killed.closed, tmp_path / "copy") as copy:
            (copy / JOURNAL_NAME).write_bytes(data)
            found.add(check(copy, killed))
    assert found == {None, len(killed.records)}


def test_a_journal_whose_free_pages_are_not_free_can_be_read_but_not_written(tmp_path: Path) -> None:
    with closing(SQLiteJournal.create(tmp_path)) as journal:
        journal.set_meta(large="x" * 100_000)
        journal.set_meta(large="")
        records = journal.append([StopAsked("x" * 300) for _ in range(100)], 1.0)
        journal.set_meta(large="x" * 50_000)
        journal.set_meta(large="")
    data = bytearray((tmp_path / JOURNAL_NAME).read_bytes())
    first = int.from_bytes(data[32:36], "big")
    free = data[(first - 1) * PAGE : first * PAGE]
    assert int.from_bytes(free[4:8], "big") > 0, "it lists others"
    with closing(sqlite3.connect(tmp_path / JOURNAL_NAME)) as connection:
        (used,) = connection.execute("SELECT max(pageno) FROM dbstat WHERE name = 'journal'").fetchone()
    data[(first - 1) * PAGE + 8 : (first - 1) * PAGE + 12] = used.to_bytes(4, "big")
    (tmp_path / JOURNAL_NAME).write_bytes(data)
    assert read_all(tmp_path)[0] == records
    with pytest.raises(JournalError, match=r"is damaged: .*put back a copy"):
        SQLiteJournal.open_for_writing(tmp_path)
    assert (tmp_path / JOURNAL_NAME).read_bytes() == data


def test_records_that_are_deleted_exchanged_or_changed_are_told_by_their_numbers(
    killed: Killed, tmp_path: Path
) -> None:
    last = len(killed.records)
    for statement, expected in (
        ("DELETE FROM journal WHERE seq = 1", "records 1 to 1 are missing"),
        ("DELETE FROM journal WHERE seq BETWEEN 7 AND 9", "records 7 to 9 are missing"),
        (f"DELETE FROM journal WHERE seq > {last - 3}", "records"),
        ("DELETE FROM journal", f"records 1 to {last} are missing"),
        ("UPDATE journal SET at = at + 1 WHERE seq = 5", "record 5 is not what was written"),
        ("UPDATE journal SET body = body || ' ' WHERE seq = 5", "record 5 is not what was written"),
        ("UPDATE journal SET body = CAST(body AS BLOB) WHERE seq = 5", "record 5 is not what was written"),
        ("UPDATE journal SET crc = -crc WHERE seq = 5", "record 5 is not what was written"),
        ("UPDATE journal SET body = (SELECT body FROM journal WHERE seq = 4) WHERE seq = 5", "record 5"),
        ("UPDATE meta SET value = '\"min\"' WHERE key = 'mode'", "the facts about the experiment are not what was"),
        ("UPDATE meta SET value = x'00' WHERE key = 'mode'", "the facts about the experiment"),
        ("DELETE FROM meta WHERE key = 'settings_tune'", "the facts about the experiment are not what was written"),
        ("DELETE FROM meta", "the facts about the experiment are not what was written"),
        ("ALTER TABLE journal RENAME body TO text", "records have"),
        ("DROP TABLE meta", "no such table: meta"),
    ):
        with copied(killed.closed, tmp_path / "copy") as copy:
            with closing(sqlite3.connect(copy / JOURNAL_NAME)) as connection:
                connection.execute(statement)
                connection.commit()
            assert check(copy, killed) is None, statement
            with pytest.raises(JournalError, match=rf"is damaged: .*{expected}.*result\.json.*put back a copy"):
                read_all(copy)


# ------------------------------------------------------------------------------------------------------- what users see


def resume(folder: Path, how: str) -> None:
    tune.run(
        climb, name=folder.name, storage_path=folder.parent, resume=how, verbose=0, engine="inline", metric="score",
        mode="max", scheduler=pbt(), stop={"training_iteration": 3}, config={"lr": tune.uniform(0, 1)},
    )  # fmt: skip


def flip(folder: Path) -> None:
    with closing(sqlite3.connect(folder / JOURNAL_NAME)) as connection:
        connection.execute("UPDATE journal SET body = replace(body, '1', '2') WHERE seq = 100")
        connection.commit()


def cut(folder: Path) -> None:
    os.truncate(folder / JOURNAL_NAME, (folder / JOURNAL_NAME).stat().st_size // 2)


def empty(folder: Path) -> None:
    os.truncate(folder / JOURNAL_NAME, 0)


def garbage(folder: Path) -> None:
    (folder / JOURNAL_NAME).write_bytes(random.Random(1).randbytes(10_000))


def newer(folder: Path) -> None:
    with closing(sqlite3.connect(folder / JOURNAL_NAME)) as connection:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")


def forgotten(folder: Path) -> None:
    """The beginning of its log is all that the disk has kept."""
    (folder / JOURNAL_NAME).unlink()
    SQLiteJournal.create(folder).close()


@pytest.mark.parametrize("damage", [flip, cut, empty, garbage, newer])
def test_nobody_takes_a_damaged_or_newer_journal_for_none(
    killed: Killed, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(killed.closed, tmp_path / "run"))
    damage(folder)
    before = contents(folder)
    expected = "Update Shoal to read it" if damage is newer else "result.json|no journal, or damaged"
    for attempt in (
        lambda: resume(folder, "AUTO"),
        lambda: resume(folder, "LOCAL"),
        lambda: tune.Tuner.restore(folder, climb).fit(),
        lambda: tune.ResultGrid.read(folder),
        lambda: tune.ExperimentAnalysis(folder),
    ):
        with pytest.raises(JournalError, match=expected) as caught:
            attempt()
        assert str(folder) in str(caught.value)
        assert contents(folder) == before
    assert tune.Tuner.can_restore(folder) is (damage is flip)


def test_a_journal_without_records_beside_trials_is_not_taken_for_a_false_start(killed: Killed, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(killed.closed, tmp_path / "run"))
    forgotten(folder)
    before = contents(folder)
    with pytest.raises(JournalError, match="holds no record, but there are other files"):
        resume(folder, "AUTO")
    assert contents(folder) == before
    assert tune.Tuner.can_restore(folder) is False


def test_what_is_left_of_an_experiment_goes_on(killed: Killed, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(killed.folder, tmp_path / "run"))
    os.truncate(folder / WAL, (folder / WAL).stat().st_size // 2)
    grid = tune.Tuner.restore(folder, climb, run_config=tune.RunConfig(stop={"training_iteration": 90})).fit()
    assert [result.metrics["training_iteration"] for result in grid] == [90] * 6


# ------------------------------------------------------------------------------------ folders and disks, really mounted

MOUNTED = """
import json, os, subprocess, sys
from contextlib import closing
from pathlib import Path
from shoal import tune
from shoal.core.commands import Notice
from shoal.core.events import StopAsked
from shoal.errors import JournalError
from shoal.journal.sqlite import SQLiteJournal

def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)

def refused(attempt):
    try:
        attempt()
    except JournalError as error:
        return str(error)
    raise AssertionError("it was not refused")

def items(folder):
    with closing(SQLiteJournal.open_for_reading(folder)) as journal:
        return [record.item for record in journal.read()]

folder = Path(sys.argv[1])
"""


def mounted(script: str, folder: Path) -> str:
    """Run a script with mounts of its own, which are gone when it ends; skip where that is not allowed."""
    unshare = ["unshare", "--mount", "--map-root-user"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("nothing can be mounted here")
    done = subprocess.run(
        [*unshare, sys.executable, "-c", MOUNTED + script, str(folder)],
        capture_output=True, text=True, timeout=100, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("how", ["closed", "killed", "killed without index"])
def test_a_folder_that_cannot_be_written_can_be_read(killed: Killed, tmp_path: Path, how: str) -> None:
    folder = Path(shutil.copytree(killed.closed if how == "closed" else killed.folder, tmp_path / "run"))
    if how == "killed without index":
        (folder / SHM).unlink()
    before = contents(folder)
    said = mounted(
        """
mount("--bind", folder, folder)
mount("-o", "remount,bind,ro", folder)
print(len(items(folder)))
print(len(tune.ResultGrid.read(folder)))
print(tune.Tuner.can_restore(folder))
for attempt in (
    lambda: SQLiteJournal.open_for_writing(folder),
    lambda: tune.Tuner.restore(folder, lambda config: None).fit(),
    lambda: SQLiteJournal.create(folder),
):
    print(refused(attempt))
""",
        folder,
    ).splitlines()
    assert said[:3] == [str(len(killed.records)), "6", "True"]
    assert len(said) == 6
    for line in said[3:]:
        assert f"{folder} cannot be written: [Errno {errno.EROFS}]" in line
        assert "tune.ResultGrid.read(folder) reads the results as it is" in line
    assert contents(folder) == before


def test_on_a_full_disk_a_transaction_is_written_whole_or_not_and_can_be_written_later(tmp_path: Path) -> None:
    said = mounted(
        """
mount("-t", "tmpfs", "-o", "size=400k", "tmpfs", folder)
for room in range(0, 200_000, 4096):
    run = folder / "run"
    run.mkdir()
    journal = SQLiteJournal.create(run)
    journal.set_meta(name="x")
    written = [record.item for record in journal.append([StopAsked(str(number)) for number in range(100)], 1.0)]
    free = os.statvfs(folder).f_bavail * 4096
    (folder / "filler").write_bytes(bytes(free - room))
    for size in range(1000):
        batch = [Notice(f"{size} {number}", "x" * 300) for number in range(size % 50 + 1)]
        try:
            written += [record.item for record in journal.append(batch, 1.0)]
        except JournalError as error:
            assert "cannot be written" in str(error), error
            break
    else:
        raise AssertionError("the disk is not full")
    assert [record.item for record in journal.read()] == written == items(run)
    refused(lambda: journal.append([StopAsked("x" * 300_000)], 1.0))
    if room % 8192:
        journal.close()
        assert items(run) == written
        journal = SQLiteJournal.open_for_writing(run)
        refused(lambda: journal.append([StopAsked("x" * 300_000)], 1.0))
    (folder / "filler").unlink()
    more = journal.append(batch, 1.0)
    assert more[0].seq == len(written) + 1
    written += batch
    journal.close()
    assert items(run) == written
    assert [path.name for path in sorted(run.iterdir())] == ["journal.lock", "journal.sqlite"]
    with closing(SQLiteJournal.open_for_writing(run)) as journal:
        assert journal.meta() == {"name": "x"}
    for path in run.iterdir():
        path.unlink()
    run.rmdir()
    print(room, len(written))
""",
        tmp_path,
    ).splitlines()
    assert len(said) == 49
