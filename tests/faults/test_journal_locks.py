"""One driver at a time: the lock of an experiment, with real processes, dead ones, and forks."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from tests.helpers import climb, fit, run_script

from shoal import tune
from shoal.core.events import StopAsked
from shoal.errors import JournalError
from shoal.journal import Item
from shoal.journal.lock import LOCK_NAME, check_free, lock, unlock
from shoal.journal.sqlite import SQLiteJournal

HOLDS = r"""
import multiprocessing, os, sys, time
from pathlib import Path
from shoal.core.events import StopAsked
from shoal.errors import JournalError
from shoal.journal.sqlite import SQLiteJournal

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # in one piece, because two processes speak

def wait():
    say("child", os.getpid())
    time.sleep(600)

journal = SQLiteJournal.create(Path(sys.argv[1]))
journal.append([StopAsked("first")], 1.0)
how = sys.argv[2]
if how == "fork":
    if os.fork() == 0:
        wait()
elif how == "multiprocessing":
    multiprocessing.get_context("fork").Process(target=wait).start()
elif how == "meddles":
    child = os.fork()
    if child == 0:
        try:
            journal.append([StopAsked("of the child")], 1.0)
        except JournalError as error:
            say(error)
        journal.close()
        sys.exit()
    os.waitpid(child, 0)
say("ready", os.path.getsize(sys.argv[1] + "/journal.sqlite-wal"))
sys.stdin.readline()
journal.append([StopAsked("second")], 1.0)
journal.close()
"""


def items(folder: Path) -> list[Item]:
    with closing(SQLiteJournal.open_for_reading(folder)) as journal:
        return [record.item for record in journal.read()]


def resume(folder: Path, how: str) -> None:
    tune.run(
        climb, name=folder.name, storage_path=folder.parent, resume=how, verbose=0, engine="inline", metric="score",
        mode="max", stop={"training_iteration": 3}, config={"lr": 0.5}, num_samples=4,
    )  # fmt: skip


@contextmanager
def holding(folder: Path, how: str = "alone") -> Generator[tuple[subprocess.Popen[str], list[str]]]:
    """Start a driver that holds a journal; give it, and what it said."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        said: list[str] = []
        try:
            assert process.stdout is not None
            while len(said) < (1 if how == "alone" else 2):
                said.append(process.stdout.readline().strip())
                assert said[-1], said
            yield process, said
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its children, too


def test_a_second_driver_is_told_process_and_host_of_the_first_and_takes_over_when_it_is_dead(tmp_path: Path) -> None:
    with holding(tmp_path) as (first, _):
        expected = f"is being run by process {first.pid} on {socket.gethostname()}. Wait for it, or stop it first"
        for attempt in (SQLiteJournal.open_for_writing, SQLiteJournal.create):
            with pytest.raises(JournalError, match=expected):
                attempt(tmp_path)
        assert items(tmp_path) == [StopAsked("first")]
        first.kill()
        first.wait()
        assert str(first.pid) in (tmp_path / LOCK_NAME).read_text(), "the file stays, and nobody holds it"
        with closing(SQLiteJournal.open_for_writing(tmp_path)) as journal:
            assert str(os.getpid()) in (tmp_path / LOCK_NAME).read_text()
            assert journal.append([StopAsked("mine")], 1.0)[0].seq == 2


@pytest.mark.parametrize("how", ["fork", "multiprocessing"])
def test_a_fork_of_a_driver_does_not_keep_its_lock_alive(tmp_path: Path, how: str) -> None:
    with holding(tmp_path, how) as (first, said):
        with pytest.raises(JournalError, match=f"is being run by process {first.pid}"):
            SQLiteJournal.open_for_writing(tmp_path)
        first.kill()
        first.wait()
        child = int(next(line for line in said if line.startswith("child")).split()[1])
        os.kill(child, 0)  # it lives
        with closing(SQLiteJournal.open_for_writing(tmp_path)) as journal:
            assert journal.append([StopAsked("mine")], 1.0)[0].seq == 2


def test_a_fork_of_a_driver_cannot_write_nor_free_the_lock(tmp_path: Path) -> None:
    with holding(tmp_path, "meddles") as (first, said):
        assert f"belongs to process {first.pid}; a fork of it, such as this process, must not write it" in said[0]
        assert int(said[1].removeprefix("ready ")) > 0, "the child has not tidied up"
        with pytest.raises(JournalError, match=f"is being run by process {first.pid}"):
            SQLiteJournal.open_for_writing(tmp_path)
        first.communicate("\n", timeout=30)
        assert first.returncode == 0
    assert items(tmp_path) == [StopAsked("first"), StopAsked("second")]


def test_a_lock_that_this_process_gave_back_is_free_although_its_forks_live(tmp_path: Path) -> None:
    journal = SQLiteJournal.create(tmp_path)
    # One that Python's own hooks are not told of has copies of all handles.
    copy = os.dup(next(handle for handle in map(int, os.listdir("/dev/fd")) if is_lock(handle, tmp_path)))
    journal.close()
    SQLiteJournal.open_for_writing(tmp_path).close()
    os.close(copy)


def is_lock(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(folder / LOCK_NAME))
    except OSError:
        return False


def test_an_experiment_that_is_just_starting_or_runs_is_not_begun_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with closing(SQLiteJournal.create(folder)), pytest.raises(JournalError, match=f"by process {os.getpid()} on"):
        resume(folder, "AUTO")
    shutil.rmtree(folder)
    fit(climb, tmp_path, run={"name": "run"}, engine="inline", stop={"training_iteration": 2})
    before = items(folder)
    with closing(SQLiteJournal.open_for_writing(folder)):
        for how in ("AUTO", "LOCAL"):
            with pytest.raises(JournalError, match=f"is being run by process {os.getpid()} on"):
                resume(folder, how)
    assert items(folder) == before


def test_where_a_link_leads_to_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("do not touch")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "journal.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(JournalError, match=r"journal\.lock is a link"):
        lock(folder)
    check_free(folder)
    assert (tmp_path / "precious").read_text() == "do not touch"


def test_who_takes_it_for_another_task_says_so(tmp_path: Path) -> None:
    handle = lock(tmp_path, "gc")
    with pytest.raises(JournalError, match=rf"is being run by process {os.getpid()} on .* \(gc\)"):
        lock(tmp_path)
    unlock(handle)


def test_what_is_no_lock_is_named(tmp_path: Path) -> None:
    SQLiteJournal.create(tmp_path).close()
    path = tmp_path / LOCK_NAME
    path.unlink()
    path.mkdir()
    with pytest.raises(JournalError, match=r"journal\.lock is a folder, so the experiment cannot be locked. Delete it"):
        SQLiteJournal.open_for_writing(tmp_path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(JournalError, match=r"journal\.lock is no ordinary file"):
        SQLiteJournal.open_for_writing(tmp_path)
    path.unlink()
    path.write_bytes(b"\xff\0 process 1 on elsewhere" * 100)
    SQLiteJournal.open_for_writing(tmp_path).close()
    assert path.read_text() == f"process {os.getpid()} on {socket.gethostname()}"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_named_as_the_reason(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(handle: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.raises(JournalError, match=f"cannot be locked: .*{os.strerror(number)}.*a local disk") as caught:
        SQLiteJournal.create(tmp_path)
    assert "is being run by" not in str(caught.value)
    assert ("knows no locks" in str(caught.value)) is (number != errno.EIO)


def test_a_lock_that_may_not_be_opened_is_told(tmp_path: Path) -> None:
    script = """
import os, sys, tempfile
from pathlib import Path
from shoal.errors import JournalError
from shoal.journal.sqlite import SQLiteJournal
with tempfile.TemporaryDirectory() as made:
    folder = Path(made)
    SQLiteJournal.create(folder).close()
    (folder / "journal.lock").chmod(0o000)
    folder.chmod(0o777)
    if os.geteuid() == 0:
        os.seteuid(65534)  # nobody
    try:
        SQLiteJournal.open_for_writing(folder)
    except JournalError as error:
        print(error)
    SQLiteJournal.open_for_reading(folder).close()
    if os.getuid() == 0:
        os.seteuid(0)
"""
    done = run_script(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"journal.lock cannot be written: [Errno {errno.EACCES}]" in done.stdout


def test_what_a_reader_has_made_while_a_false_start_was_cleared_is_in_nobodys_way(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "journal.sqlite-wal").touch()
    (folder / "journal.sqlite-shm").write_bytes(bytes(32768))
    (folder / "journal.lock").write_text("process 1 on somewhere")
    grid = fit(climb, tmp_path, engine="inline", num_samples=1, run={"name": "run"})
    assert grid.num_terminated == 1
    assert tune.ResultGrid.read(folder).num_terminated == 1


def test_a_file_system_that_hiccups_takes_no_lock_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(path: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with closing(SQLiteJournal.create(tmp_path)) as journal:
        with monkeypatch.context() as patched:
            patched.setattr(os, "stat", stale)
            journal.check_place()
        journal.check_place()
        (tmp_path / LOCK_NAME).rename(tmp_path / "elsewhere")
        with pytest.raises(JournalError, match="was deleted, moved or replaced"):
            journal.check_place()
