"""Copies of log files and of users' files: what goes to storage, what is sent again, and what storage lacks."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from tests.unit.stored import LOGS, Interrupted, interrupted, undisturbed, write_logs

from shoal.checkpoints import NOTES
from shoal.checkpoints.store import measure
from shoal.storage.logs import LogCopies, lacking
from shoal.storage.transfer import delete_checkpoint, name_of_key, upload_checkpoint
from shoal.storage.trying import FileRefused, PlaceError


def test_log_files_are_sent_again_only_where_they_have_changed(tmp_path: Path) -> None:
    sent: list[str] = []
    with interrupted(lambda what, path: sent.append(path) if what == "wrote" else None) as place:
        write_logs(tmp_path)
        copies = LogCopies(place, tmp_path)
        copies.send().result(30)
        assert len([path for path in sent if not path.endswith(".partial")]) == len(LOGS)
        sent.clear()
        (tmp_path / LOGS[-2]).write_text("more of it")
        copies.send().result(30)
        assert {path.removeprefix("/runs/exp/") for path in sent if not path.endswith(".partial")} == {LOGS[-2]}
        assert (place / LOGS[-2]).read_bytes() == b"more of it"
        copies.close()


def test_log_files_that_could_not_be_sent_are_sent_the_next_time(tmp_path: Path) -> None:
    failing = True

    def sometimes(what: str, path: str) -> None:
        if failing and "output.log" in path:
            raise PermissionError("not now")

    with interrupted(sometimes) as place:
        write_logs(tmp_path)
        copies = LogCopies(place, tmp_path)
        with pytest.raises(PlaceError):
            copies.send().result(30)
        assert set(map(name_of_key, place.list_sizes())) == set(LOGS) - {"t/output.log"}
        failing = False
        copies.send().result(30)
        assert set(map(name_of_key, place.list_sizes())) == set(LOGS)
        copies.close()


def test_what_storage_lacks_is_found(tmp_path: Path) -> None:
    with interrupted() as place:
        write_logs(tmp_path)
        copies = LogCopies(place, tmp_path)
        copies.send().result(30)
        copies.close()
        mine = "t/checkpoint_000001.json"
        assert lacking(place, tmp_path, {("t", 0)}) == [mine, "journal"]
        assert sorted(lacking(place, tmp_path, ())) == ["journal", "t/checkpoint_000000", mine]
        assert lacking(place, tmp_path, {("t", 0)}, lambda: {("t", 0)}) == [mine, "t/checkpoint_000000", "journal"]
        (tmp_path / "t" / "deep" / "late.png").write_text("late")
        assert sorted(lacking(place, tmp_path, {("t", 0)})) == ["journal", mine, "t/deep/late.png"]


def test_a_file_that_cannot_be_read_is_no_trouble_with_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one that cannot have its name there. Whoever would delete them finds that storage lacks them."""
    real = Path.open

    def refuses(path: Path, *arguments: Any, **settings: Any) -> Any:
        if path.name == "output.log":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **settings)

    def too_long(what: str, path: str) -> None:
        if what == "write" and "notes.txt" in path:
            raise OSError(errno.ENAMETOOLONG, "Your key is too long")

    with interrupted(too_long) as place:
        write_logs(tmp_path)
        monkeypatch.setattr(Path, "open", refuses)
        copies = LogCopies(place, tmp_path)
        copies.send().result(30)
        assert set(map(name_of_key, place.list_sizes())) == set(LOGS) - {"t/output.log", "t/notes.txt"}
        assert {"t/output.log", "t/notes.txt"} <= set(lacking(place, tmp_path, {("t", 0)}))
        with pytest.raises(FileRefused, match=r"The file .*output\.log cannot be read: .*Permission denied"):
            (place / "a").upload_file(tmp_path / "t" / "output.log")
        monkeypatch.undo()
        copies.send().result(30)
        assert set(map(name_of_key, place.list_sizes())) == set(LOGS) - {"t/notes.txt"}
        copies.close()


def test_a_folder_that_cannot_be_looked_into_is_one_that_storage_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def refuses(path: str) -> Any:
        if os.fspath(path).endswith("deep"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    (tmp_path / "t" / "deep").mkdir(parents=True)
    with interrupted() as place:
        assert lacking(place, tmp_path, ()) == []
        monkeypatch.setattr("shoal.storage.logs.os.scandir", refuses)
        assert lacking(place, tmp_path, ()) == ["t/deep"]


def test_notes_that_change_after_their_checkpoint_was_sent_are_sent_again(tmp_path: Path) -> None:
    """Each is asked about once; not before the checkpoint is there, and not when it is gone."""
    changes: list[str] = []
    name = "t/checkpoint_000004"
    folder = tmp_path / name
    folder.mkdir(parents=True)
    (folder / "state").write_text("1")
    with interrupted(lambda what, path: changes.append(path) if what == "wrote" else None) as place:
        copies = LogCopies(place, tmp_path)

        def sent() -> list[str]:
            changes.clear()
            copies.send().result(30)
            return [path.removeprefix("/runs/exp/") for path in changes if not path.endswith(".partial")]

        (folder / NOTES).write_text('{"by": 1}')
        assert sent() == []
        upload_checkpoint(folder, place / name, measure(folder)[0])
        (folder / NOTES).write_text('{"by": 17}')
        assert lacking(place, tmp_path, {("t", 4)}) == [f"{name}/{NOTES}"]
        assert sent() == [f"{name}/{NOTES}"]
        assert (place / name / NOTES).read_bytes() == b'{"by": 17}'
        assert lacking(place, tmp_path, {("t", 4)}) == []
        assert sent() == []
        (folder / NOTES).write_text('{"by": 170}')
        delete_checkpoint(place / name)
        assert sent() == []
        assert place.list_sizes() == {}
        copies.close()


def test_notes_of_a_checkpoint_that_is_deleted_meanwhile_are_not_left_behind(tmp_path: Path) -> None:
    folder = tmp_path / "t" / "checkpoint_000004"
    folder.mkdir(parents=True)
    (folder / "state").write_text("1")

    def deleted(what: str, path: str) -> None:
        if what == "write" and path.endswith(NOTES):
            with undisturbed():
                shutil.rmtree(folder)
                delete_checkpoint(place / "t/checkpoint_000004")

    with interrupted() as place:
        copies = LogCopies(place, tmp_path)
        upload_checkpoint(folder, place / "t/checkpoint_000004", measure(folder)[0])
        (folder / NOTES).write_text("{}")
        Interrupted.hook = deleted
        copies.send().result(30)
        assert place.list_sizes() == {}
        copies.close()


@pytest.mark.parametrize("later", [-100, 100])
def test_notes_from_before_this_driver_are_sent_where_they_are_newer_than_those_in_storage(
    tmp_path: Path, later: int
) -> None:
    folder = tmp_path / "t" / "checkpoint_000004"
    folder.mkdir(parents=True)
    (folder / NOTES).write_text('{"by": "an earlier driver"}')
    with interrupted() as place:
        there = place / "t" / "checkpoint_000004"
        upload_checkpoint(folder, there, measure(folder)[0])
        (there / NOTES).write_bytes(b'{"by": "somebody else"}')
        changed = (there / NOTES).changed_at()
        assert changed is not None
        os.utime(folder / NOTES, (changed + later, changed + later))
        copies = LogCopies(place, tmp_path)
        copies._began = time.time_ns() + 1000 * 10**9
        copies.send().result(30)
        copies.close()
        assert json.loads((there / NOTES).read_bytes()) == {"by": "an earlier driver" if later > 0 else "somebody else"}
