"""Where an experiment is: folders, URLs, working folders."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from shoal.errors import ConfigError
from shoal.journal.lock import lock, unlock
from shoal.location import cache_folder, is_url, join, location_of, name_of, parent_of
from shoal.working import discard, sweep_cache


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("url", ["s3://bucket/runs", "gs://b", "memory://runs/a", "S3://bucket"])
def test_urls_are_told_from_paths(url: str) -> None:
    assert is_url(url)


@pytest.mark.parametrize(
    "path", ["/home/me/runs", "runs", "file:///mnt/runs", "s3:/bucket", "C://x".replace("//", "/"), ""]
)
def test_paths_of_this_machine_are_no_urls(path: str) -> None:
    assert not is_url(path)


def test_a_file_url_is_a_folder_of_this_machine() -> None:
    found = location_of("file:///mnt/runs/a")
    assert (found.url, found.folder, str(found)) == (None, Path("/mnt/runs/a"), "/mnt/runs/a")
    assert join("file:///mnt/runs", "a") == "/mnt/runs/a"


def test_the_working_folder_follows_from_the_url_alone(cache: Path) -> None:
    found = location_of("s3://bucket/runs/a/")
    assert found.url == str(found) == "s3://bucket/runs/a"
    assert found.folder.parent.parent == cache
    assert len(found.folder.parent.name) == 16
    assert (found.name, found.storage) == ("a", "s3://bucket/runs")
    assert location_of("S3://bucket/runs/a") == found
    assert location_of("s3://bucket/other/a").folder != found.folder


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SHOAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "shoal"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/paths/count/for/nothing")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "shoal"


def test_urls_are_put_together_and_taken_apart() -> None:
    assert join("s3://bucket/runs/", "a") == "s3://bucket/runs/a"
    assert join("memory://", "a") == "memory://a"
    assert (parent_of("s3://bucket/runs/a"), name_of("s3://bucket/runs/a/")) == ("s3://bucket/runs", "a")
    assert (parent_of("memory://a"), name_of("memory://a")) == ("memory://", "a")


def test_a_url_that_lost_a_slash_is_told_so() -> None:
    with pytest.raises(ConfigError, match=r"lacks a slash: 's3://bucket/runs'\. pathlib\.Path makes one slash of two"):
        location_of(Path("s3://bucket/runs"))
    with pytest.raises(ConfigError, match="lacks a slash"):
        location_of("s3:/bucket/runs")


@pytest.mark.parametrize("url", ["s3://", "memory://", "s3://bucket/.."])
def test_a_url_without_a_name_is_no_experiment(url: str) -> None:
    with pytest.raises(ConfigError, match="has to end with the experiment's name"):
        location_of(url)


def _working_folder(url: str, *, age_days: float) -> Path:
    folder = location_of(url).folder
    (folder / "trial" / "checkpoint_000001").mkdir(parents=True)
    (folder / "journal.sqlite").write_bytes(b"x")
    then = time.time() - age_days * 86400
    for path in (folder / "journal.sqlite", folder):
        os.utime(path, (then, then))
    return folder


def test_working_folders_that_nobody_has_used_for_long_are_deleted_and_nothing_else(cache: Path) -> None:
    old, new = _working_folder("s3://b/old", age_days=40), _working_folder("s3://b/new", age_days=20)
    used, mine = _working_folder("s3://b/used", age_days=40), _working_folder("s3://b/mine", age_days=40)
    (cache / "experiments.json").write_text("{}")
    (cache / "of another program").mkdir()
    handle = lock(used)
    then = time.time() - 40 * 86400
    os.utime(used / "journal.lock", (then, then))
    os.utime(used, (then, then))
    try:
        sweep_cache(keep=mine)
    finally:
        unlock(handle)
    assert not old.parent.exists()
    assert new.is_dir()
    assert (used / "trial").is_dir()
    assert (mine / "trial").is_dir()
    assert {"experiments.json", "of another program"} < {entry.name for entry in cache.iterdir()}


def test_a_working_folder_that_somebody_uses_is_not_discarded() -> None:
    folder = _working_folder("s3://b/used", age_days=0)
    handle = lock(folder)
    try:
        discard(folder)
        assert (folder / "trial" / "checkpoint_000001").is_dir()
    finally:
        unlock(handle)
    discard(folder)
    assert not folder.parent.exists()


def test_a_file_url_is_a_path_of_this_machine() -> None:
    assert str(location_of("file:///tmp/a%20b")) == "/tmp/a b"
    assert str(location_of("file://localhost/tmp/x")) == "/tmp/x"
    assert str(location_of("/tmp/a%20b")) == "/tmp/a%20b"
