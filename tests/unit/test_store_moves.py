"""Files of a ``TemporaryDirectory`` are moved into the store where that is safe, and copied where it is not."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import commit

from shoal.checkpoints import Checkpoint, digest, read_dict, write_dict
from shoal.checkpoints.store import digest_of, take_over
from shoal.core.commands import checkpoint_name
from shoal.errors import ReportError, StorageError


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    return tmp_path / "trial"


def fill(folder: Path) -> int:
    """Write some files; return the inode of one."""
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "state.json").write_text("{}")
    (folder / "empty").mkdir()
    (folder / "weights").write_bytes(b"w" * 3000)
    return (folder / "weights").stat().st_ino


@pytest.mark.parametrize("inside", [".", "checkpoint", "a/b"])
def test_what_a_temporary_directory_holds_is_moved_and_leaves_it_empty(
    inside: str, trial: Path, tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    fill(tmp_path / "plain")
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        source = Path(name, inside)
        source.mkdir(parents=True, exist_ok=True)
        inode = fill(source)
        saved = commit(source, trial, 3)
        assert list(source.iterdir()) == []
        (source / "weights").write_bytes(b"other")  # whatever follows changes nothing
    assert not Path(name).exists()
    final = trial / checkpoint_name(3)
    assert (final / "weights").stat().st_ino == inode
    assert (final / "weights").read_bytes() == b"w" * 3000
    assert (saved.number, saved.size) == (3, 3002)
    assert saved.digest == digest_of(final) == digest_of(tmp_path / "plain")
    assert stat.S_IMODE(final.stat().st_mode) == stat.S_IMODE(trial.stat().st_mode)
    assert [path.name for path in trial.iterdir()] == [checkpoint_name(3)]


def link(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "weights")


def link_to_a_folder(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "deep")


def second_name(folder: Path) -> None:
    os.link(folder / "weights", folder.with_name("elsewhere"))


@pytest.mark.parametrize("how", [link, link_to_a_folder, second_name])
def test_what_could_be_changed_from_elsewhere_is_copied(
    how: Callable[[Path], None], trial: Path, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        inode = fill(Path(name))
        how(Path(name))
        saved = commit(Path(name), trial, 0)
        assert (trial / checkpoint_name(0) / "weights").stat().st_ino != inode
        assert (Path(name) / "weights").read_bytes() == b"w" * 3000
        assert saved.digest == digest_of(Path(name))


def plain(folder: Path) -> Path:
    return folder


def not_deleted(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder))


@pytest.mark.parametrize("make", [plain, not_deleted])
def test_a_folder_that_stays_is_copied(make: Callable[[Path], Path], trial: Path, tmp_path: Path) -> None:
    source = make(tmp_path / "source") if make is plain else make(tmp_path)
    source.mkdir(exist_ok=True)
    inode = fill(source)
    commit(source, trial, 0)
    assert (source / "weights").stat().st_ino == inode
    assert (trial / checkpoint_name(0) / "weights").stat().st_ino != inode


def test_where_it_cannot_be_moved_it_is_copied(trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:

        def other_file_system(source: str | Path, target: Path) -> None:
            if str(source) == name:
                raise OSError(18, "Invalid cross-device link")
            rename(source, target)

        monkeypatch.setattr(os, "rename", other_file_system)
        fill(Path(name))
        saved = commit(Path(name), trial, 0)
        assert saved.digest == digest_of(trial / checkpoint_name(0)) == digest_of(Path(name))


def test_what_cannot_be_committed_is_where_it_was(trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def full(source: str | Path, target: Path) -> None:
        if target.name.startswith("checkpoint_"):
            raise OSError(28, "No space left on device")
        rename(source, target)

    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        fill(Path(name))
        before = digest_of(Path(name))
        with monkeypatch.context() as patched:
            patched.setattr(os, "rename", full)
            with pytest.raises(StorageError, match="No space left"):
                commit(Path(name), trial, 0)
        assert list(trial.iterdir()) == []
        assert digest_of(Path(name)) == before
        assert commit(Path(name), trial, 0).digest == before
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        os.mkfifo(Path(name, "pipe"))
        with pytest.raises(ReportError, match="no regular file"):
            commit(Path(name), trial, 1)
        assert Path(name, "pipe").exists()


def test_one_that_was_cleaned_up_before_is_an_error(trial: Path, tmp_path: Path) -> None:
    folder = tempfile.TemporaryDirectory(dir=tmp_path)
    shutil.rmtree(folder.name)
    with pytest.raises(ReportError, match="no longer exists"):
        commit(Path(folder.name), trial, 0)
    folder.cleanup()


def test_where_no_empty_folder_can_be_made_the_checkpoint_is_there_all_the_same(
    trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def full(folder: str | Path, mode: int = 0o777) -> None:
        if str(folder) == name:
            raise OSError(28, "No space left on device")
        mkdir(folder, mode)

    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        fill(Path(name))
        before = digest_of(Path(name))
        monkeypatch.setattr(os, "mkdir", full)
        saved, settle = take_over(Path(name), trial, 0)
        assert saved.digest == digest_of(trial / checkpoint_name(0)) == before
        with pytest.raises(OSError, match="No space left"):
            settle()
        assert not Path(name).exists()


def test_a_folder_that_somebody_else_has_made_meanwhile_is_not_given_to_the_user(trial: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        fill(Path(name))
        _, settle = take_over(Path(name), trial, 0)
        Path(name).mkdir(mode=0o755)
        with pytest.raises(ReportError, match=r"somebody else has made.*What you have reported counts"):
            settle()


def test_a_folder_for_many_checkpoints_may_be_reported_as_it_was(trial: Path, tmp_path: Path) -> None:
    """One folder for the whole run, into which is saved at some reports only, and some files only once."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        fill(Path(name))
        first, again = commit(Path(name), trial, 0), commit(Path(name), trial, 1)
        assert (again.digest, again.size) == (first.digest, first.size)
        assert digest_of(trial / checkpoint_name(1)) == first.digest
        shutil.rmtree(trial / checkpoint_name(0))
        for number in (2, 3):
            Path(name, "weights").write_text(f"other {number}")
            commit(Path(name), trial, number)
            assert (trial / checkpoint_name(number) / "weights").read_text() == f"other {number}"
            assert (trial / checkpoint_name(number) / "deep" / "er" / "state.json").read_text() == "{}"
        assert (trial / checkpoint_name(2) / "weights").read_text() == "other 2"
        shutil.rmtree(trial / checkpoint_name(3))
        with pytest.raises(ReportError, match=r"deleted meanwhile.*save all files before each report"):
            commit(Path(name), trial, 4)
    assert sorted(path.name for path in trial.iterdir()) == [checkpoint_name(1), checkpoint_name(2)]


def test_a_folder_that_was_deleted_and_made_anew_has_nothing_of_the_earlier_one(trial: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        fill(Path(name))
        commit(Path(name), trial, 0)
        Path(name).rmdir()
        Path(name).mkdir(mode=0o700)  # and most likely with the same inode
        commit(Path(name), trial, 1)
    assert list((trial / checkpoint_name(1)).iterdir()) == []


def test_where_the_experiment_is_temporary_too_nothing_is_moved(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        trial = Path(name, "experiment", "trial")
        for reported in (Path(name, "pretrained"), trial / checkpoint_name(0)):
            if not reported.exists():
                fill(reported)
            before = digest_of(reported)
            assert commit(reported, trial, len(list(trial.glob("*")))).digest == digest_of(reported) == before


def stands_in(folder: Path) -> Callable[[], object]:
    before = os.getcwd()
    os.chdir(folder)
    return lambda: os.chdir(before)


def writes_to(folder: Path) -> Callable[[], object]:
    return (folder / "log").open("w").close


@pytest.mark.skipif(sys.platform != "linux", reason="nobody can tell there, so nothing is moved")
@pytest.mark.parametrize("how", [stands_in, writes_to])
def test_what_is_in_use_is_copied(how: Callable[[Path], Callable[[], object]], trial: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        inode = fill(Path(name))
        end = how(Path(name))
        try:
            commit(Path(name), trial, 0)
        finally:
            end()
        assert Path(name, "weights").stat().st_ino == inode
        assert (trial / checkpoint_name(0) / "weights").stat().st_ino != inode


def test_what_was_there_before_this_process_was_forked_is_copied(trial: Path, tmp_path: Path) -> None:
    """Others may use it as well."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        inode = fill(Path(name))
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                commit(Path(name), trial, 0)
            os._exit(0)
        os.waitpid(child, 0)
        assert Path(name, "weights").stat().st_ino == inode
        assert (trial / checkpoint_name(0) / "weights").read_bytes() == b"w" * 3000


def test_a_link_in_a_temporary_directory_does_not_make_what_it_points_at_temporary(trial: Path, tmp_path: Path) -> None:
    fill(tmp_path / "kept")
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        Path(name, "link").symlink_to(tmp_path / "kept")
        for reported in ("link", "link/deep"):
            commit(Path(name, reported), trial, 0)
    assert digest_of(tmp_path / "kept" / "deep") == digest_of(trial / checkpoint_name(0))
    assert (tmp_path / "kept" / "weights").exists()


def test_files_that_nobody_writes_to_again_are_linked(trial: Path, tmp_path: Path) -> None:
    inode = fill(tmp_path / "source")
    saved = commit(tmp_path / "source", trial, 0, linked=["weights"])
    final = trial / checkpoint_name(0)
    assert (final / "weights").stat().st_ino == inode
    assert (final / "deep" / "er" / "state.json").stat().st_nlink == 1
    assert saved.digest == digest_of(tmp_path / "source")


def test_what_shoal_writes_again_under_the_same_name_is_another_file(trial: Path) -> None:
    made = Checkpoint.from_dict({"step": 1})
    saved = commit(Path(made.path), trial, 0, linked=made.linked_files)
    write_dict(Path(made.path), {"step": 2})
    assert digest_of(trial / checkpoint_name(0)) == saved.digest
    assert read_dict(trial / checkpoint_name(0)) == {"step": 1}
    assert made.to_dict() == {"step": 2}
    assert len(os.listdir(made.path)) == 1


def test_a_file_that_changes_its_size_while_it_is_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "folder")
    begin = digest.Digest.begin

    def grows(self: digest.Digest, name: str, size: int) -> Any:
        with (tmp_path / "folder" / "weights").open("ab") as file:
            file.write(b"more")
        return begin(self, name, size)

    monkeypatch.setattr(digest.Digest, "begin", grows)
    with pytest.raises(OSError, match="changed its size from"):
        digest_of(tmp_path / "folder")
