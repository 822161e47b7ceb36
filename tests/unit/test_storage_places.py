"""Places: what is written is whole or not there, what is listed is there now, whatever the names."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.utils import infer_storage_options
from tests.unit.stored import Crash, Interrupted, interrupted, undisturbed

from shoal.errors import ConfigError
from shoal.location import location_of
from shoal.storage.fetching import read_end
from shoal.storage.parts import PART, abort_uploads, download_in_parts, tried
from shoal.storage.place import Place, forget
from shoal.storage.trying import PlaceError

ODD = "a [b]*? {c} #1 %41,lr=0.1"


@pytest.fixture(params=["memory", "file", "interrupted"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "file":
        return Place(f"file://{tmp_path}/runs")
    if request.param == "interrupted":
        Interrupted.store.clear()
        return Place(f"interrupted://{tmp_path.name}/runs")
    return Place(f"memory://{tmp_path.name}/runs")


def test_an_unknown_scheme_is_an_error_that_names_a_known_one() -> None:
    with pytest.raises(ConfigError, match=r"scheme 's4' is unknown.*s3, gs"):
        Place("s4://bucket/runs")
    with pytest.raises(ConfigError, match="Did you mean 'memory'"):
        Place("memroy://bucket/runs")


@pytest.mark.parametrize("url", ["s3://", "s3:///", "gs:///"])
def test_a_url_without_a_bucket_is_an_error(url: str) -> None:
    with pytest.raises(ConfigError, match="names no bucket"):
        Place(url)


@pytest.mark.parametrize("url", ["bucket/runs", "simplecache::s3://bucket/runs"])
def test_what_is_no_url_of_one_storage_is_an_error(url: str) -> None:
    with pytest.raises(ConfigError, match="must look like s3://bucket/runs"):
        Place(url)


def test_a_url_with_a_password_is_an_error_that_does_not_show_it() -> None:
    for refused in (Place, location_of):
        with pytest.raises(ConfigError, match="FSSPEC_SFTP_PASSWORD") as raised:
            refused("sftp://me:s3cr3t@host/runs")
        assert "s3cr3t" not in str(raised.value)
    assert Place("memory://a:b/runs@c").url == "memory://a:b/runs@c"


class Hosted(MemoryFileSystem):  # type: ignore[misc]
    """Files in memory, of one machine of several."""

    protocol = "hosted"
    stores: dict[str, dict[str, Any]] = {}  # noqa: RUF012

    def __init__(self, host: str, username: str | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.store = self.stores.setdefault(f"{username}@{host}", {})
        self.pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(infer_storage_options(path)["path"]).rstrip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        found = infer_storage_options(path)
        return {name: found[name] for name in ("host", "username") if name in found}


def test_a_host_that_a_url_names_is_the_one_that_is_used() -> None:
    fsspec.register_implementation("hosted", Hosted, clobber=True)
    first, second = Place("hosted://me@one/runs"), Place("hosted://me@two/runs")
    (first / "a").write_bytes(b"1")
    assert first.list_names() == ["a"]
    assert second.list_names() == []
    assert set(Hosted.stores) == {"me@one", "me@two"}


def test_only_folders_are_listed_where_only_those_are_wanted(place: Place) -> None:
    assert place.list_folders() == []
    for name in ("b/x", "a/y/z", "file"):
        (place / name).write_bytes(b"")
    assert place.list_folders() == ["a", "b"]


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def missing(scheme: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    forget()
    with pytest.raises(ConfigError, match=r"needs the package s3fs: pip install 'shoal\[s3\]'"):
        Place("s3://bucket/runs").list_names()
    forget()


def test_places_are_put_together_and_taken_apart() -> None:
    place = Place("s3://bucket/runs/") / "exp" / "trial/checkpoint_000001"
    assert place.url == "s3://bucket/runs/exp/trial/checkpoint_000001"
    assert place.name == "checkpoint_000001"
    assert place.parent == Place("s3://bucket/runs/exp/trial")
    assert pickle.loads(pickle.dumps(place)) == place
    assert {place: 1}[Place(str(place))] == 1


def test_what_is_written_is_read_listed_and_deleted(place: Place) -> None:
    assert not (place / ODD).is_there()
    assert place.list_names() == []
    assert place.list_sizes() == {}
    (place / ODD).write_bytes(b"one")
    (place / ODD).write_bytes(b"other")
    (place / "folder" / ODD).write_bytes(b"")
    assert (place / ODD).read_bytes() == b"other"
    assert place.list_names() == sorted([ODD, "folder"])
    assert place.list_sizes() == {ODD: 5, f"folder/{ODD}": 0}
    assert (place / ODD).is_there()
    assert (place / "folder").is_there()
    (place / ODD).delete()
    (place / ODD).delete()
    assert place.list_names() == ["folder"]
    with pytest.raises(FileNotFoundError):
        (place / ODD).read_bytes()


def test_a_name_with_stars_in_it_deletes_only_itself(place: Place) -> None:
    for folder in ("t*", "tx", "t[xy]"):
        (place / folder / "file").write_bytes(b"1")
        (place / folder / "inner" / "file").write_bytes(b"1")
    (place / "t*").delete(recursive=True)
    assert place.list_names() == ["t[xy]", "tx"]
    (place / "t[xy]").delete(recursive=True)
    (place / "t[xy]").delete(recursive=True)
    assert place.list_names() == ["tx"]


@pytest.mark.parametrize("size", [0, 10, 2 * PART + 17])
def test_files_come_back_as_they_went(place: Place, tmp_path: Path, size: int) -> None:
    (tmp_path / "given").write_bytes(os.urandom(size))
    (place / "file").upload_file(tmp_path / "given")
    for known in (None, size):
        (place / "file").download_file(tmp_path / "back", known)
        assert (tmp_path / "back").read_bytes() == (tmp_path / "given").read_bytes()
    assert place.list_sizes() == {"file": size}


def test_an_object_that_is_not_there_cannot_be_downloaded(place: Place, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        (place / "file").download_file(tmp_path / "back")
    with pytest.raises(FileNotFoundError):
        (place / "file").download_file(tmp_path / "back", 0)


def test_a_file_that_is_not_on_this_machine_cannot_be_uploaded(place: Place, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        (place / "file").upload_file(tmp_path / "missing")


def test_an_object_with_fewer_bytes_than_it_should_have_is_an_error(tmp_path: Path) -> None:
    place = Place(f"memory://{tmp_path.name}/file")
    place.write_bytes(b"123")
    with pytest.raises(PlaceError):
        place.download_file(tmp_path / "back", 4)


def test_what_is_being_written_is_not_seen(tmp_path: Path) -> None:
    seen: list[tuple[list[str], dict[str, int], bytes]] = []

    def look(what: str, path: str) -> None:
        with undisturbed():
            seen.append((root.list_names(), root.list_sizes(), (root / "file").read_bytes()))

    with interrupted(look) as root:
        with undisturbed():
            (root / "file").write_bytes(b"old")
        (root / "file").write_bytes(b"newer")
    names = [entry[0] for entry in seen]
    assert names == [["file"]] * len(seen)
    assert {(sizes["file"], data) for _, sizes, data in seen} == {(3, b"old"), (5, b"newer")}


def test_a_process_that_dies_while_it_writes_leaves_what_was_there(tmp_path: Path) -> None:
    def dies(what: str, path: str) -> None:
        if what == "wrote":
            raise Crash

    with interrupted(dies) as place:
        with pytest.raises(Crash):
            (place / "file").write_bytes(b"half")
        with undisturbed():
            assert place.list_names() == []
            assert not (place / "file").is_there()


def test_storage_that_fails_is_told_with_its_url() -> None:
    def fails(what: str, path: str) -> None:
        raise ConnectionRefusedError("nobody is there")

    with interrupted(fails) as place:
        for call in (
            place.list_names,
            place.list_sizes,
            place.read_bytes,
            place.delete,
            lambda: place.write_bytes(b""),
        ):
            with pytest.raises(
                PlaceError, match=r"interrupted://runs/exp.* cannot be reached now: Conn.*nobody"
            ) as told:
                call()
            assert told.value.passes


def test_a_place_that_can_be_written_says_so(place: Place) -> None:
    place.check_writable()
    assert place.list_names() == []


def test_parts_that_fail_by_what_passes_are_read_again(tmp_path: Path) -> None:
    data = os.urandom(3 * PART + 5)
    failures = [TimeoutError(), ConnectionResetError()]

    def read(start: int, end: int) -> bytes:
        def once(seconds: float) -> bytes:
            if failures and start == PART:
                raise failures.pop()
            return data[start:end]

        return tried(once, 1.0)

    download_in_parts(read, tmp_path / "file", len(data))
    assert (tmp_path / "file").read_bytes() == data
    assert not failures


def test_a_part_that_fails_for_good_ends_all_of_them(tmp_path: Path) -> None:
    def read(start: int, end: int) -> bytes:
        if start == 2 * PART:
            raise PermissionError("not this one")
        return bytes(end - start)

    with pytest.raises(PermissionError):
        download_in_parts(read, tmp_path / "file", 9 * PART)


def test_all_uploads_that_somebody_has_begun_are_aborted_however_many_there_are() -> None:
    class Answers:
        """A server that lists two at a time."""

        def __init__(self) -> None:
            self.left = [f"runs/exp/t/{number}" for number in range(5)] + ["runs/other/t/0"]

        def split_path(self, path: str) -> tuple[str, str, None]:
            bucket, _, key = path.partition("/")
            return bucket, key, None

        def call_s3(self, method: str, **given: Any) -> dict[str, Any]:
            if method == "abort_multipart_upload":
                self.left.remove(given["Key"])
                return {}
            begun = [key for key in self.left if key > given.get("KeyMarker", "")]
            found = [{"Key": key, "UploadId": "u"} for key in begun[:2]]
            last = found[-1]["Key"] if found else None
            return {"Uploads": found, "IsTruncated": len(begun) > 2, "NextKeyMarker": last, "NextUploadIdMarker": "u"}

    server = Answers()
    assert abort_uploads(server, "bucket/runs/exp") == 5
    assert server.left == ["runs/other/t/0"]


def test_nothing_of_storage_is_loaded_before_it_is_needed() -> None:
    import subprocess

    code = "import sys, shoal.storage.mirror; print(*sorted({n.split('.')[0] for n in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"fsspec", "s3fs", "botocore", "aiohttp", "asyncio"} & set(loaded)


def test_of_an_object_its_end_can_be_read_alone(place: Place) -> None:
    log = place / "output.log"
    log.write_bytes(b"one\ntwo\nthree\n")
    assert log.read_end(6) == (b"three\n", 8)
    assert log.read_end(100) == (b"one\ntwo\nthree\n", 0)
    assert read_end(log.url, 9) == b"three\n"
    assert read_end(log.url, 100) == b"one\ntwo\nthree\n"
    log.write_bytes(b"")
    assert log.read_end(6) == (b"", 0)
    assert read_end((place / "nothing").url, 6) is None
    with pytest.raises(FileNotFoundError):
        (place / "nothing").read_end(6)
