"""Checkpoints in storage: whole or not there, on the way there and on the way back; and the depot that sends them."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
from tests.unit.stored import interrupted, write_checkpoint

from shoal.checkpoints.depot import LocalDepot
from shoal.checkpoints.leftovers import is_unfinished
from shoal.checkpoints.store import damage, measure
from shoal.storage.place import Place
from shoal.storage.transfer import (
    DamagedCopy,
    delete_checkpoint,
    download_checkpoint,
    list_checkpoints,
    read_manifest,
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
    assert (manifest.digest, manifest.size) == (digest, measure(folder)[1])


def test_names_that_are_no_utf8_come_back_as_they_went(tmp_path: Path, place: Place) -> None:
    folder = tmp_path / NAME
    folder.mkdir()
    name = b"caf\xe9.bin".decode("utf-8", "surrogateescape")
    (folder / name).write_bytes(b"1")
    digest = measure(folder)[0]
    upload_checkpoint(folder, place, digest)
    download_checkpoint(place, tmp_path / "back", digest)
    assert everything(tmp_path / "back") == {name: b"1"}


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
