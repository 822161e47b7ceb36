"""The store: a checkpoint is there whole or not at all, and is exactly what the user's folder held."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import commit

from shoal.checkpoints.store import delete, delete_unfinished, digest_of
from shoal.core.commands import checkpoint_name
from shoal.errors import ReportError, StorageError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "weights").write_bytes(b"w" * 3000)
    (folder / "deep" / "er" / "state.json").write_text("{}")
    (folder / "nothing").touch()
    return folder


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    return tmp_path / "experiment" / "trial"


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return the bytes of all files below a folder; None for folders."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def test_a_commit_holds_what_the_folder_held_and_says_how_much(source: Path, trial: Path) -> None:
    saved = commit(source, trial, 7)
    final = trial / "checkpoint_000007"
    assert tree(final) == tree(source)
    assert (saved.number, saved.size) == (7, 3002)
    assert [path.name for path in trial.iterdir()] == [checkpoint_name(7)]


def test_the_digest_is_that_of_the_committed_folder_and_of_the_source(source: Path, trial: Path) -> None:
    saved = commit(source, trial, 0)
    assert saved.digest == digest_of(trial / checkpoint_name(0)) == digest_of(source)


@pytest.mark.parametrize("change", ["bytes", "name", "more"])
def test_another_content_has_another_digest(change: str, source: Path) -> None:
    before = digest_of(source)
    if change == "bytes":
        (source / "weights").write_bytes(b"v" * 3000)
    elif change == "name":
        (source / "weights").rename(source / "weight")
    else:
        (source / "another").touch()
    assert digest_of(source) != before


def test_what_is_done_to_the_source_later_changes_nothing(source: Path, trial: Path) -> None:
    before = tree(source)
    saved = commit(source, trial, 0)
    with (source / "weights").open("r+b") as file:  # in place: a hard link would show it
        file.write(b"other")
    shutil.rmtree(source / "deep")
    assert tree(trial / checkpoint_name(0)) == before
    assert digest_of(trial / checkpoint_name(0)) == saved.digest


def test_modes_of_files_and_empty_folders_are_kept(source: Path, trial: Path) -> None:
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    (source / "weights").chmod(0o640)
    (source / "empty" / "inner").mkdir(parents=True)
    commit(source, trial, 0)
    final = trial / checkpoint_name(0)
    assert stat.S_IMODE((final / "run.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((final / "weights").stat().st_mode) == 0o640
    assert (final / "empty" / "inner").is_dir()


def test_an_empty_folder_is_a_checkpoint_too(tmp_path: Path, trial: Path) -> None:
    (tmp_path / "empty").mkdir()
    saved = commit(tmp_path / "empty", trial, 0)
    assert saved.size == 0
    assert list((trial / checkpoint_name(0)).iterdir()) == []


def test_links_are_copied_as_what_they_point_at(source: Path, trial: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "big").write_text("shared")
    (source / "file_link").symlink_to(outside / "big")
    (source / "folder_link").symlink_to(outside, target_is_directory=True)
    saved = commit(source, trial, 0)
    shutil.rmtree(outside)
    final = trial / checkpoint_name(0)
    assert (final / "file_link").read_text() == (final / "folder_link" / "big").read_text() == "shared"
    assert not any(path.is_symlink() for path in final.rglob("*"))
    assert digest_of(final) == saved.digest


@pytest.mark.parametrize("target", [".", ".."])
def test_a_link_to_a_folder_around_it_is_not_followed_for_ever(target: str, source: Path, trial: Path) -> None:
    plain = {name: data for name, data in tree(source).items() if data is not None}
    (source / "deep" / "loop").symlink_to((source / "deep" / target).resolve(), target_is_directory=True)
    (source / "loop").symlink_to(source, target_is_directory=True)
    commit(source, trial, 0)
    copied = tree(trial / checkpoint_name(0))
    assert {name: data for name, data in copied.items() if data is not None and "loop" not in name} == plain


def _fifo(path: Path) -> Any:
    os.mkfifo(path)


def _socket(path: Path) -> Any:
    listening = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket has about 100 bytes at most
    try:
        listening.bind(path.name)
    finally:
        os.chdir(here)
        listening.close()


def _dangling(path: Path) -> Any:
    path.symlink_to(path.parent / "not there")


@pytest.mark.parametrize("make", [_fifo, _socket, _dangling])
def test_what_is_no_regular_file_is_refused_and_nothing_is_left_behind(make: Any, source: Path, trial: Path) -> None:
    make(source / "deep" / "odd")
    with pytest.raises(ReportError, match=r"odd.*no regular file"):
        commit(source, trial, 0)
    assert list(trial.iterdir()) == []


@pytest.mark.parametrize("above", [0, 1, 2], ids=["itself", "its parent", "above"])
def test_a_folder_that_contains_the_trials_own_is_refused(above: int, trial: Path) -> None:
    trial.mkdir(parents=True)
    (trial / "log").write_text("mine")
    source = [trial, *trial.parents][above]
    with pytest.raises(ReportError, match=r"(?s)contains the trial's own folder.*folder of its own"):
        commit(source, trial, 0)
    assert tree(trial) == {"log": b"mine"}


def test_a_link_to_the_folder_that_contains_the_trial_is_refused_as_well(trial: Path, tmp_path: Path) -> None:
    trial.mkdir(parents=True)
    (tmp_path / "link").symlink_to(trial.parent, target_is_directory=True)
    with pytest.raises(ReportError, match="contains the trial's own folder"):
        commit(tmp_path / "link", trial, 0)


def test_a_folder_inside_the_trials_own_can_be_reported(trial: Path) -> None:
    mine = trial / "scratch"
    mine.mkdir(parents=True)
    (mine / "weights").write_text("1")
    commit(mine, trial, 0)
    assert (trial / checkpoint_name(0) / "weights").read_text() == "1"


def test_a_folder_that_is_gone_says_how_to_call_report(tmp_path: Path, trial: Path) -> None:
    with pytest.raises(ReportError, match=r"(?s)no longer exists.*inside the block"):
        commit(tmp_path / "gone", trial, 0)
    assert not trial.exists()


def test_a_copy_that_fails_half_way_leaves_nothing_and_the_one_before_as_it_was(
    source: Path, trial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(source, trial, 0)
    before = tree(trial)
    copied: list[str] = []

    def copymode(here: Path, there: Path) -> None:
        copied.append(here.name)
        if len(copied) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copymode", copymode)
    with pytest.raises(StorageError, match=r"checkpoint_000001.*No space left.*Free some space"):
        commit(source, trial, 1)
    assert len(copied) == 2
    assert tree(trial) == before


def test_the_name_appears_only_when_all_bytes_are_there(
    source: Path, trial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    copymode = shutil.copymode

    def spy(here: Path, there: Path) -> None:
        seen.append((trial / checkpoint_name(0)).exists())
        copymode(here, there)

    monkeypatch.setattr(shutil, "copymode", spy)
    commit(source, trial, 0)
    assert seen == [False, False, False]
    assert (trial / checkpoint_name(0)).exists()


def test_a_trial_folder_that_cannot_be_made_is_an_error_of_the_storage(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        commit(source, tmp_path / "file" / "trial", 0)


def test_what_a_dead_process_left_under_the_number_is_replaced(source: Path, trial: Path) -> None:
    stale = trial / checkpoint_name(3)
    stale.mkdir(parents=True)
    (stale / "stale").touch()
    staged = trial / f".{checkpoint_name(3)}.{os.getpid()}"
    staged.mkdir()
    (staged / "half").touch()
    commit(source, trial, 3)
    assert tree(stale) == tree(source)
    assert [path.name for path in trial.iterdir()] == [stale.name]


def test_deleting_takes_one_checkpoint_and_only_that(source: Path, trial: Path) -> None:
    commit(source, trial, 0)
    commit(source, trial, 1)
    delete(trial, 0)
    assert [path.name for path in trial.iterdir()] == [checkpoint_name(1)]


def test_deleting_what_is_not_there_is_no_error(source: Path, trial: Path) -> None:
    delete(trial, 0)
    assert not trial.exists()
    commit(source, trial, 1)
    delete(trial, 0)
    delete(trial, 0)
    assert [path.name for path in trial.iterdir()] == [checkpoint_name(1)]


def test_names_that_are_no_utf_8_are_kept(tmp_path: Path, trial: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    name = os.fsdecode(b"caf\xe9")
    try:
        (folder / name).write_text("x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    saved = commit(folder, trial, 0)
    assert digest_of(trial / checkpoint_name(0)) == saved.digest
    assert os.listdir(trial / checkpoint_name(0)) == [name]


def test_folders_that_link_to_each_other_are_copied_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name, link in (("a", "b"), ("b", "a")):
        (source / name).mkdir(parents=True)
        (source / name / "file").write_text(name)
        (source / name / "link").symlink_to(f"../{link}")
    commit(source, tmp_path / "trial", 0)
    copied = {
        path.relative_to(tmp_path / "trial" / "checkpoint_000000").as_posix(): path.read_text()
        for path in (tmp_path / "trial").rglob("file")
    }
    assert copied == {"a/file": "a", "a/link/file": "b", "b/file": "b", "b/link/file": "a"}


def test_what_an_earlier_deletion_has_left_is_in_nobodys_way(source: Path, trial: Path) -> None:
    """Who deleted was killed in the midst of it, or somebody held a file there."""
    for left in ("folder", "file"):
        commit(source, trial, 4)
        trash = trial / ".deleted_checkpoint_000004"
        if left == "folder":
            (trash / "deep").mkdir(parents=True)
        else:
            trash.touch()
        delete(trial, 4)
        assert not (trial / "checkpoint_000004").exists()
        assert left == "file" or not trash.exists()


def test_only_what_the_dead_process_was_saving_is_deleted(trial: Path) -> None:
    names = [".checkpoint_000001.123", ".checkpoint_000002.1123", ".checkpoint_000003.12", "checkpoint_000001", "123"]
    for name in names:
        (trial / name / "deep").mkdir(parents=True)
    delete_unfinished(trial, 123)
    assert sorted(path.name for path in trial.iterdir()) == sorted(names[1:])
    delete_unfinished(trial / "absent", 123)
