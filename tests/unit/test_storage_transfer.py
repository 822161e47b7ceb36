"""Checkpoints in storage: whole or not there, on the way there and on the way back; and the depot that sends them."""

from __future__ import annotations

import json
import os
import shutil
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
from tests.unit.stored import AtOnce, interrupted, write_checkpoint

from shoal.checkpoints import Checkpoint
from shoal.checkpoints.depot import LocalDepot
from shoal.checkpoints.leftovers import is_unfinished
from shoal.checkpoints.store import damage, measure
from shoal.errors import StorageError
from shoal.storage.place import Place
from shoal.storage.transfer import (
    DamagedCopy,
    Manifest,
    delete_checkpoint,
    download_checkpoint,
    list_checkpoints,
    name_of_key,
    read_manifest,
    safe_name,
    upload_checkpoint,
)
from shoal.storage.workers import Workers, each

NAME = "checkpoint_000004"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(f"memory://{tmp_path.name}/exp/trial") / NAME


def made(tmp_path: Path, text: str = "x") -> tuple[Path, str]:
    """Return the folder and the digest of a checkpoint with files of all kinds."""
    folder = tmp_path / "exp" / "trial" / NAME
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "sub" / "a [1]*.bin").write_bytes(b"\0" * 1000)
    (folder / ".shoal_dict.pkl").write_bytes(b"")
    (folder / ".metadata.json").write_text('{"note": 1}')
    digest = write_checkpoint(folder, text, files=3)
    return folder, digest


def everything(folder: Path) -> dict[str, bytes | None]:
    """Return all that is in a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }  # fmt: skip


def test_a_checkpoint_comes_back_as_it_went(tmp_path: Path, place: Place) -> None:
    folder, digest = made(tmp_path)
    upload_checkpoint(folder, place, digest)
    assert list_checkpoints(place.parent) == [4]
    for known in (None, digest):
        back = tmp_path / f"back_{known}" / NAME
        download_checkpoint(place, back, known)
        assert everything(back) == everything(folder)
        assert damage(back, digest) is None
    manifest = read_manifest(place)
    assert manifest is not None
    notes = (folder / ".metadata.json").stat().st_size
    assert (manifest.digest, manifest.size) == (digest, measure(folder)[1] - notes)


def test_names_that_are_no_utf8_come_back_as_they_went(tmp_path: Path, place: Place) -> None:
    folder = tmp_path / NAME
    folder.mkdir()
    name = b"caf\xe9.bin".decode("utf-8", "surrogateescape")
    (folder / name).write_bytes(b"1")
    digest = measure(folder)[0]
    upload_checkpoint(folder, place, digest)
    download_checkpoint(place, tmp_path / "back", digest)
    assert everything(tmp_path / "back") == {name: b"1"}


@pytest.mark.parametrize("notes", [True, False], ids=["with_notes", "without"])
def test_notes_that_are_written_afterwards_are_there_and_harm_nothing(
    tmp_path: Path, place: Place, notes: bool
) -> None:
    folder, digest = made(tmp_path)
    if not notes:
        (folder / ".metadata.json").unlink()
    upload_checkpoint(folder, place, digest)
    checkpoint = Checkpoint(str(place))
    assert checkpoint.get_metadata() == ({"note": 1} if notes else {})
    for text in ("a text that makes it longer than it was", ""):
        checkpoint.update_metadata({"note": text})
        back = Checkpoint(checkpoint.to_directory(tmp_path / f"back_{len(text)}"))
        assert back.get_metadata() == {"note": text}
        assert damage(Path(back.path), digest) is None
        with checkpoint.as_directory() as inside:
            assert Checkpoint(inside).get_metadata() == {"note": text}


def test_notes_are_written_again_where_storage_was_away(tmp_path: Path) -> None:
    failures = [TimeoutError(), TimeoutError()]

    def away(what: str, path: str) -> None:
        if what == "write" and failures:
            raise failures.pop()

    with interrupted(away) as root:
        checkpoint = Checkpoint(str(root / NAME))
        checkpoint.set_metadata({"note": 1})
        assert checkpoint.get_metadata() == {"note": 1}


def test_a_download_takes_the_place_of_an_empty_folder_and_no_room_twice(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, digest = made(tmp_path)
    upload_checkpoint(folder, place, digest)
    monkeypatch.setattr("shutil.copytree", None)
    (tmp_path / "empty").mkdir()
    assert everything(Path(Checkpoint(str(place)).to_directory(tmp_path / "empty"))) == everything(folder)
    made_here = Checkpoint(str(place)).to_directory()
    assert everything(Path(made_here)) == everything(folder)
    shutil.rmtree(made_here)


def test_a_download_is_added_to_what_is_in_a_folder(tmp_path: Path, place: Place) -> None:
    folder, digest = made(tmp_path)
    upload_checkpoint(folder, place, digest)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.txt").write_text("own")
    found = everything(Path(Checkpoint(str(place)).to_directory(tmp_path / "mine")))
    assert found == {**everything(folder), "own.txt": b"own"}


def test_a_fork_that_leaves_the_block_deletes_nothing_of_its_parent(tmp_path: Path, place: Place) -> None:
    (place / "file").write_bytes(b"x")
    block = Checkpoint(str(place)).as_directory()
    inside = block.__enter__()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            block.__exit__(None, None, None)
            code = 0
        finally:
            os._exit(code)  # whatever happens, the child must not go on as a second runner of tests
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.listdir(inside) == ["file"]
    block.__exit__(None, None, None)
    assert not os.path.exists(inside)


NAMES = ["opt::state.bin", "x?versionId=1", "a%3Fb", "a?b", "a#b", "back\\slash", "a b", "é", "{x}", "a%"]


def test_files_may_have_any_name(tmp_path: Path, place: Place) -> None:
    folder = tmp_path / "exp" / "trial" / NAME
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_text(name)
    digest = measure(folder)[0]
    upload_checkpoint(folder, place, digest)
    keys = place.list_sizes()
    assert sorted(map(name_of_key, keys)) == sorted(NAMES)
    assert not [key for key in keys if {*key} & {*"?#"} or "::" in key]
    download_checkpoint(place, tmp_path / "back", digest)
    assert everything(tmp_path / "back") == everything(folder)


@pytest.mark.parametrize("name", ["", "/etc/x", "a//etc/x", "..", "a/../../x", "a/./b", "a/", "a\0b"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    assert not safe_name(name)
    text = json.dumps({"format": 1, "digest": "x", "size": 1, "files": [[name, 1]], "folders": []})
    with pytest.raises(DamagedCopy, match="outside"):
        Manifest.from_bytes(text.encode(), Place("memory://x/checkpoint_000001.json"))


def test_a_folder_in_storage_without_a_manifest_writes_nowhere_else(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Place, "list_sizes", lambda self: {"a": 1, f"/{tmp_path}/victim": 1})
    with pytest.raises(StorageError, match="victim"):
        Checkpoint(str(place)).to_directory(tmp_path / "back")
    assert list(tmp_path.iterdir()) == []


def test_deleting_leaves_nothing_and_can_be_done_twice(tmp_path: Path, place: Place) -> None:
    folder, digest = made(tmp_path)
    upload_checkpoint(folder, place, digest)
    (place.parent / "result.json").write_bytes(b"stays")
    delete_checkpoint(place)
    delete_checkpoint(place)
    assert list_checkpoints(place.parent) == []
    assert place.parent.list_sizes() == {"result.json": 5}


def test_a_checkpoint_without_its_manifest_is_none(tmp_path: Path, place: Place) -> None:
    folder, digest = made(tmp_path)
    upload_checkpoint(folder, place, digest)
    (place.parent / f"{NAME}.json").delete()
    assert list_checkpoints(place.parent) == []
    assert read_manifest(place) is None
    with pytest.raises(FileNotFoundError, match=f"no checkpoint memory://.*{NAME}"):
        download_checkpoint(place, tmp_path / "back", digest)
    assert not (tmp_path / "back").exists()


def test_other_json_files_are_no_checkpoints(place: Place) -> None:
    for name in ("result.json", "checkpoint_12.json", "checkpoint_000004.json.bak", "checkpoint_x.json"):
        (place.parent / name).write_bytes(b"{}")
    (place / "file").write_bytes(b"")
    assert list_checkpoints(place.parent) == []


@pytest.mark.parametrize("harm", ["bytes", "lost", "digest", "shorter"])
def test_what_is_not_what_was_sent_is_told_and_leaves_nothing(tmp_path: Path, place: Place, harm: str) -> None:
    folder, digest = made(tmp_path)
    upload_checkpoint(folder, place, digest)
    file = place / "sub" / "a [1]*.bin"
    if harm == "bytes":
        file.write_bytes(b"\0" * 999 + b"\1")
    elif harm == "shorter":
        file.write_bytes(b"\0" * 10)
    elif harm == "lost":
        file.delete()
    wanted = digest if harm != "digest" else digest[::-1]
    with pytest.raises(OSError, match=r"digest|lacks a file|cannot be read"):
        download_checkpoint(place, tmp_path / "back" / NAME, wanted)
    assert not [path for path in (tmp_path / "back").rglob("*") if path.exists()]


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", '{"format": 1}', '{"format": 2}', "null", "[[]]",
        '{"format": 1, "digest": "x", "size": 1, "files": [["../../x", 1]], "folders": []}',
        '{"format": 1, "digest": "x", "size": 1, "files": [["/etc/x", 1]], "folders": []}',
        '{"format": 1, "digest": "x", "size": 1, "files": [], "folders": ["a/../../.."]}',
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_told_and_leads_nowhere(tmp_path: Path, place: Place, text: str) -> None:
    (place.parent / f"{NAME}.json").write_bytes(text.encode())
    with pytest.raises(DamagedCopy, match=r"checkpoint_000004\.json"):
        download_checkpoint(place, tmp_path / "back")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_stays_where_it_is_whole_and_is_replaced_where_not(tmp_path: Path, place: Place) -> None:
    folder, digest = made(tmp_path)
    upload_checkpoint(folder, place, digest)
    inode = (folder / "part_0").stat().st_ino
    download_checkpoint(place, folder, digest)
    assert (folder / "part_0").stat().st_ino == inode
    (folder / "part_0").write_text("damaged")
    download_checkpoint(place, folder, digest)
    assert damage(folder, digest) is None


def test_what_is_downloaded_has_a_name_that_the_sweep_knows_until_it_is_whole(tmp_path: Path) -> None:
    folder, digest = made(tmp_path)
    back = tmp_path / "back" / NAME
    seen: set[str] = set()

    def look(what: str, path: str) -> None:
        if back.parent.exists():
            seen.update(entry.name for entry in back.parent.iterdir())

    with interrupted(look) as root:
        upload_checkpoint(folder, root / "trial" / NAME, digest)
        download_checkpoint(root / "trial" / NAME, back, digest)
    assert seen
    assert all(map(is_unfinished, seen))
    assert [entry.name for entry in back.parent.iterdir()] == [NAME]


def test_a_disk_that_is_full_is_told_and_leaves_nothing(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, digest = made(tmp_path)
    upload_checkpoint(folder, place, digest)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.rename", full)
    with pytest.raises(OSError, match=r"No space left on device.*Free some space"):
        download_checkpoint(place, tmp_path / "back" / NAME, digest)
    assert list((tmp_path / "back").iterdir()) == []


# ----------------------------------------------------------------------------------------------------------- the depot


class Gate:
    """Lets requests of a file system through, or not."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.arrived = threading.Event()

    def __call__(self, what: str, path: str) -> None:
        """Wait until it is opened."""
        self.arrived.set()
        assert self.opened.wait(30)


def test_a_checkpoint_that_is_being_uploaded_is_deleted_afterwards(tmp_path: Path) -> None:
    gate = Gate()
    with interrupted(gate) as root:
        folder, digest = made(tmp_path)
        depot = LocalDepot(tmp_path / "exp")
        future = depot.upload("trial", 4, digest, root / "trial" / NAME)
        assert gate.arrived.wait(30)
        depot.delete("trial", 4)
        assert folder.exists()
        gate.opened.set()
        future.result(30)
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        assert done.wait(30)
        download_checkpoint(root / "trial" / NAME, tmp_path / "back", digest)
        _until(lambda: not folder.exists())
        depot.close()


def test_one_that_waits_for_its_upload_is_not_deleted_either(tmp_path: Path) -> None:
    gate = Gate()
    with interrupted(gate) as root:
        depot = LocalDepot(tmp_path / "exp", Workers(1, "test"))
        digests = [write_checkpoint(tmp_path / "exp" / "t" / f"checkpoint_{n:06d}", str(n)) for n in range(5)]
        futures = [depot.upload("t", n, digest, root / "t" / f"checkpoint_{n:06d}") for n, digest in enumerate(digests)]
        for number in range(5):
            depot.delete("t", number)
        assert len(list((tmp_path / "exp" / "t").iterdir())) == 5
        gate.opened.set()
        for future in futures:
            future.result(30)
        assert list_checkpoints(root / "t") == [0, 1, 2, 3, 4]
        _until(lambda: not list((tmp_path / "exp" / "t").iterdir()))
        depot.close()


def test_an_upload_that_is_cancelled_frees_what_is_to_be_deleted(tmp_path: Path) -> None:
    gate = Gate()
    with interrupted(gate) as root:
        depot = LocalDepot(tmp_path / "exp", Workers(1, "test"))
        for number in range(2):
            write_checkpoint(tmp_path / "exp" / "t" / f"checkpoint_{number:06d}", "x")
        first = depot.upload("t", 0, "d", root / "t" / "checkpoint_000000")
        second = depot.upload("t", 1, "d", root / "t" / "checkpoint_000001")
        depot.delete("t", 1)
        assert second.cancel()
        assert not (tmp_path / "exp" / "t" / "checkpoint_000001").exists()
        gate.opened.set()
        first.result(30)
        assert (tmp_path / "exp" / "t" / "checkpoint_000000").exists()
        depot.close()


def test_a_checkpoint_that_is_gone_is_told_as_such(tmp_path: Path, place: Place) -> None:
    depot = LocalDepot(tmp_path / "exp")
    with pytest.raises(FileNotFoundError):
        depot.upload("trial", 4, "d", place).result(30)
    depot.delete("trial", 4)
    depot.close()


def test_an_upload_that_failed_goes_on_where_it_was(tmp_path: Path) -> None:
    sent: list[str] = []
    failing = True

    def sometimes(what: str, path: str) -> None:
        if what == "write" and failing and "part_1" in path:
            raise PermissionError("not now")
        if what == "wrote" and not path.endswith(".partial"):
            sent.append(path.rpartition("/")[2])

    with interrupted(sometimes) as root:
        _, digest = made(tmp_path)
        depot = LocalDepot(tmp_path / "exp")
        target = root / "trial" / NAME
        with pytest.raises(PermissionError):
            _raised(depot.upload("trial", 4, digest, target))
        assert list_checkpoints(root / "trial") == []
        failing = False
        depot.upload("trial", 4, digest, target).result(30)
        download_checkpoint(target, tmp_path / "back", digest)
        depot.close()
    assert sorted(sent) == sorted(set(sent))


def test_a_depot_remembers_nothing_of_what_was_deleted(tmp_path: Path) -> None:
    def denied(what: str, path: str) -> None:
        if what == "write":
            raise PermissionError("denied")

    with interrupted(denied) as root:
        _, digest = made(tmp_path)
        depot = LocalDepot(tmp_path / "exp", AtOnce())  # type: ignore[arg-type]
        with pytest.raises(PermissionError):
            _raised(depot.upload("trial", 4, digest, root / "trial" / NAME))
        depot.delete("trial", 4)
        assert not depot._sent


def test_a_depot_that_is_closed_begins_nothing(tmp_path: Path, place: Place) -> None:
    gate = Gate()
    with interrupted(gate) as root:
        _, digest = made(tmp_path)
        depot = LocalDepot(tmp_path / "exp", Workers(1, "test"))
        first = depot.upload("trial", 4, digest, root / "trial" / NAME)
        second = depot.upload("trial", 4, digest, root / "trial" / NAME)
        assert gate.arrived.wait(30)
        depot.close()
        assert second.cancelled()
        gate.opened.set()
        first.result(30)
        with pytest.raises(RuntimeError):
            depot.upload("trial", 4, digest, place)


def test_calls_are_done_at_the_same_time_and_the_first_error_is_raised_after_all_have_ended() -> None:
    together = threading.Barrier(4)
    ended: list[int] = []

    def call(number: int) -> int:
        together.wait(30)
        ended.append(number)
        if number in (1, 2):
            raise ValueError(number)
        return number

    with pytest.raises(ValueError, match="1"):
        each([lambda number=number: call(number) for number in range(4)])  # type: ignore[misc]
    assert sorted(ended) == [0, 1, 2, 3]


def _raised(future: Future[None]) -> None:
    """Raise what an upload failed with, as it was before Shoal told it in its words."""
    error = future.exception(30)
    assert error is not None
    assert error.__cause__ is not None
    raise error.__cause__


def _until(is_so: object) -> None:
    """Wait until something is so that another thread does."""
    assert callable(is_so)
    waited = threading.Event()
    for _ in range(3000):
        if is_so():
            return
        waited.wait(0.01)
    raise AssertionError("it never was so")


def test_json_of_a_manifest_is_plain(tmp_path: Path, place: Place) -> None:
    folder, digest = made(tmp_path)
    upload_checkpoint(folder, place, digest)
    found = json.loads((place.parent / f"{NAME}.json").read_bytes())
    assert found["digest"] == digest
    assert ["sub/a [1]*.bin", 1000] in found["files"]
    assert found["folders"] == ["sub/empty"]
