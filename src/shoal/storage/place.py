"""A place in storage: a URL, and what can be done there. What is written is whole, or not there."""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import re
import threading
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import ConfigError, StorageError, did_you_mean
from ..location import check_no_password
from .parts import PART, a_few_at_once, abort_uploads, download_in_parts, seconds_for, tried, upload_in_parts
from .trying import FileRefused, describe, missing_bucket

__all__ = ["PROBE", "Place", "forget"]

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_LOCAL = ("file", "local")
_S3 = ("s3", "s3a")
_ALIKE = frozenset({"file", "gcs", "gs", "local", "memory", "s3", "s3a"})
"""Here one file system is for all URLs: the bucket is part of the path."""
_WHOLE = frozenset({"abfs", "abfss", "adl", "az", "gcs", "gs", "oci", "ocilake", "oss", "s3", "s3a"})
"""Where an object is seen only when all of it has arrived. Elsewhere it is written beside its place, and renamed."""
_ASIDE = re.compile(r"\..+\.[0-9a-f]{8}\.partial")
_CHANGED = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
"""Where file systems say when an object was written: of S3, Azure, Google, folders, and those in memory."""
PROBE = r"\.shoal_[0-9a-f]{8}"
"""Names of objects that are there for a moment, to see whether they can be written."""
_PACKAGES = {
    "s3": ("s3fs", "shoal[s3]"),
    "s3a": ("s3fs", "shoal[s3]"),
    "gs": ("gcsfs", "gcsfs"),
    "gcs": ("gcsfs", "gcsfs"),
}
_COMMON = ("s3", "gs", "az", "abfs", "memory", "file", "hdfs", "sftp")
_CONNECT_S, _READ_S = 5, 15
_LIST_S = 900.0
"""A long list comes in many answers, for each of which the file system waits less."""
_opened: dict[tuple[int, str, str], Any] = {}
"""File systems by process, scheme, and what else of the URL they are made with, such as a host.

A fork must not use those of its parent, whose threads it does not have; nor may it close them, so they stay here."""
_opening = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().update(_opening=threading.Lock()))


@dataclass(frozen=True)
class Place:
    """A folder or an object in storage; nothing is looked up when it is made. It can be pickled.

    Args:
        url: such as ``s3://bucket/runs``; ``file://`` and other schemes of fsspec work, too.

    Raises:
        ConfigError: the scheme is unknown, its package is not installed, or the URL has a password in it.
    """

    url: str

    def __post_init__(self) -> None:
        scheme, rest = _split(self.url)
        object.__setattr__(self, "url", f"{scheme}://{rest}")

    def __truediv__(self, name: str) -> Place:
        """Return a place inside of this one; ``name`` may have slashes in it."""
        return _unchecked(f"{self.url}{'' if self.url.endswith('/') else '/'}{name.strip('/')}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return posixpath.basename(self.url)

    @property
    def parent(self) -> Place:
        """The place that this one is in."""
        outer = posixpath.dirname(self.url)
        return _unchecked(outer) if "://" in outer else Place(outer)

    @property
    def scheme(self) -> str:
        """What is before ``://``."""
        return self.url.partition("://")[0]

    # ------------------------------------------------------------------------------------------------------- reading

    def is_there(self) -> bool:
        """Return whether there is an object of this name, or anything in a folder of it.

        Raises:
            PlaceError: that cannot be told: storage cannot be reached, or refuses.
        """
        try:
            with self._told() as (files, path):
                self._ask(files, "info", path)
            return True
        except FileNotFoundError:
            return False

    def read_bytes(self) -> bytes:
        """Return what is in the object.

        Raises:
            FileNotFoundError: there is none.
            PlaceError: it cannot be read.
        """
        with self._told() as (files, path):
            found: bytes = self._ask(files, "cat_file", path)
        return found

    def read_end(self, limit: int) -> tuple[bytes, int]:
        """Return the last bytes of the object, and where they begin in it.

        Args:
            limit: how many, at most.

        Raises:
            FileNotFoundError: there is none.
            PlaceError: it cannot be read.
        """
        with self._told() as (files, path):
            size = int(self._ask(files, "info", path)["size"])
            start = max(0, size - limit)
            if size == start:
                return b"", start
            found: bytes = self._ask(files, "cat_file", path, start=start, end=size, seconds=seconds_for(size - start))
        return found, start

    def changed_at(self) -> float | None:
        """Return when the object was written: seconds since the epoch, by storage's clock; None where it does not tell.

        Raises:
            FileNotFoundError: there is none.
            PlaceError: it cannot be told now.
        """
        with self._told() as (files, path):
            entry: dict[str, Any] = self._ask(files, "info", path)
        value = next((entry[key] for key in _CHANGED if entry.get(key) is not None), None)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        if isinstance(value, datetime):
            return value.timestamp()
        return float(value) if isinstance(value, (int, float)) else None

    def list_names(self) -> list[str]:
        """Return the names of the objects and folders in this folder, sorted; none where there is no such folder.

        Raises:
            PlaceError: it cannot be listed.
        """
        try:
            with self._told() as (files, path):
                files.invalidate_cache()
                found: list[Any] = self._ask(files, "ls", path, detail=True, seconds=_LIST_S)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = {_path_of(entry["name"]) for entry in found} - {_path_of(path)}
        return sorted(name for name in map(posixpath.basename, names) if name and not _ASIDE.fullmatch(name))

    def list_folders(self) -> list[str]:
        """Return the names of the folders in this folder, sorted; none where there is no such folder.

        Raises:
            PlaceError: it cannot be listed.
        """
        try:
            with self._told() as (files, path):
                files.invalidate_cache()
                found: list[Any] = self._ask(files, "ls", path, detail=True, seconds=_LIST_S)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = {_path_of(entry["name"]) for entry in found if entry["type"] == "directory"} - {_path_of(path)}
        return sorted(name for name in map(posixpath.basename, names) if name)

    def list_sizes(self) -> dict[str, int]:
        """Return all objects below this folder, at any depth: their names from here on, and their sizes in bytes.

        Raises:
            PlaceError: it cannot be listed.
        """
        try:
            with self._told() as (files, path):
                files.invalidate_cache()
                found: dict[str, Any] = self._ask(files, "find", path, detail=True, seconds=_LIST_S)
        except FileNotFoundError:
            return {}
        start = f"{_path_of(path)}/"
        sizes: dict[str, int] = {}
        for name, entry in found.items():
            inner = _path_of(name).removeprefix(start)
            if _path_of(name).startswith(start) and not _ASIDE.fullmatch(posixpath.basename(inner)):
                sizes[inner] = int(entry.get("size") or 0)
        return sizes

    def download_file(self, path: Path, size: int | None = None) -> None:
        """Write the object to a file on this machine; a large one in parts.

        Args:
            path: the file.
            size: bytes of the object, where they are known.

        Raises:
            FileNotFoundError: there is no such object.
            PlaceError: it cannot be read, or has another size. There may be a part of it in the file.
        """
        with self._told() as (files, where):
            if self.scheme in _LOCAL:
                files.get_file(where, str(path))
                return
            bytes_of = int(self._ask(files, "info", where)["size"]) if size is None else size

            def read(start: int, end: int) -> bytes:
                # Exceptions of a part's own that pass are tried again; what is left of them is told as any other.
                def once(seconds: float) -> bytes:
                    found: bytes = self._ask(files, "cat_file", where, start=start, end=end, seconds=seconds)
                    return found

                return tried(once, seconds_for(end - start))

            if bytes_of > 0:
                download_in_parts(read, path, bytes_of)
            else:
                self._ask(files, "info", where)
                path.write_bytes(b"")

    # ------------------------------------------------------------------------------------------------------- writing

    def write_bytes(self, data: bytes) -> None:
        """Put an object here, in place of one that is there: whole, or not at all.

        Raises:
            PlaceError: it cannot be written.
        """
        with self._told() as (files, path):
            self._put(files, path, data)

    def upload_file(self, path: Path, moved: Callable[[], object] = lambda: None) -> None:
        """Put a file of this machine here, whole or not at all; a large one in parts.

        Args:
            path: the file.
            moved: called for each part of it that has arrived, where that is known, and when all of it has.

        Raises:
            FileNotFoundError: there is no such file on this machine.
            FileRefused: the file cannot be read, or its name is too long: with storage all is well.
            PlaceError: it cannot be written.
        """
        size, data = _content_of(path, 0 if self.scheme == "memory" else 2 * PART)
        try:
            with self._told() as (files, where):
                if data is not None:
                    self._put(files, where, data)
                elif self.scheme in _S3:
                    upload_in_parts(files, where, path, size, moved)
                elif self.scheme in _WHOLE:
                    self._ask(files, "put_file", str(path), where, seconds=seconds_for(size))
                else:
                    with self._aside(files, where) as aside:
                        self._ask(files, "put_file", str(path), aside, seconds=seconds_for(size))
            moved()
        except FileNotFoundError as error:
            path.stat()  # is it the file that is gone, or the place?
            raise describe(error, self.url) from error

    def delete(self, *, recursive: bool = False) -> None:
        """Delete the object; where there is none, that is no error.

        Args:
            recursive: delete everything that is below this place instead.

        Raises:
            PlaceError: it cannot be deleted.
        """
        with self._told() as (files, path):
            if not recursive:
                self._remove(files, path)
                return
            files.invalidate_cache()
            # Not by ``rm``, which takes brackets and stars in a name for a pattern.
            try:
                found: dict[str, Any] = self._ask(
                    files, "find", path, withdirs=self.scheme not in _WHOLE, detail=True, seconds=_LIST_S
                )
            except FileNotFoundError:
                return
            folders = [name for name, entry in found.items() if entry["type"] == "directory"]
            a_few_at_once([partial(self._remove, files, name) for name in found.keys() - folders])
            if self.scheme not in _WHOLE:
                for name in sorted({*folders, path}, key=len, reverse=True):
                    with contextlib.suppress(OSError):
                        files.rmdir(name)

    def abort_uploads(self) -> None:
        """Abort uploads of large files below this place that somebody has begun who is dead; where that is possible."""
        if self.scheme in _S3:
            with contextlib.suppress(StorageError), self._told() as (files, path):
                abort_uploads(files, path)

    def check_writable(self) -> None:
        """Make sure that objects can be written, read and deleted here, before anything depends on it.

        Raises:
            PlaceError: they cannot.
        """
        self.list_names()  # some servers would make a bucket that is not there
        probe = self / f".shoal_{uuid.uuid4().hex[:8]}"
        probe.write_bytes(b"shoal")
        try:
            found = probe.read_bytes()
        except FileNotFoundError:
            found = b""
        probe.delete()
        if found != b"shoal":
            raise StorageError(f"{self.url} does not give back what was written there. Give another storage_path.")

    # -------------------------------------------------------------------------------------------------------- inside

    @contextlib.contextmanager
    def _told(self) -> Generator[tuple[Any, str]]:
        """Give the file system and the path in it, and say in Shoal's words what goes wrong."""
        files = _file_system(self.url)
        try:
            yield files, files._strip_protocol(self.url)
        except (StorageError, ConfigError):
            raise
        except FileNotFoundError as error:
            if missing_bucket(error):
                raise describe(error, self.url) from error
            raise
        except Exception as error:
            raise describe(error, self.url) from error

    def _ask(self, files: Any, method: str, *arguments: Any, seconds: float | None = None, **settings: Any) -> Any:
        """Call a method of a file system, and wait for its answer no longer than so many seconds."""
        from fsspec.asyn import AsyncFileSystem

        if isinstance(files, AsyncFileSystem):
            settings["timeout"] = seconds_for(0) if seconds is None else seconds
        return getattr(files, method)(*arguments, **settings)

    def _remove(self, files: Any, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._ask(files, "rm_file", path)

    def _put(self, files: Any, path: str, data: bytes) -> None:
        """Write an object that is in memory."""
        seconds = seconds_for(len(data))
        if self.scheme in _WHOLE or self.scheme == "memory":
            self._ask(files, "pipe_file", path, data, seconds=seconds)
        else:
            with self._aside(files, path) as aside:
                self._ask(files, "pipe_file", aside, data, seconds=seconds)

    @contextlib.contextmanager
    def _aside(self, files: Any, path: str) -> Generator[str]:
        """Give another path beside this one, and rename it to this one when it is written."""
        parent, name = posixpath.split(path)
        aside = posixpath.join(parent, f".{name}.{uuid.uuid4().hex[:8]}.partial")
        files.makedirs(parent, exist_ok=True)
        try:
            yield aside
            _rename(files, aside, path, local=self.scheme in _LOCAL)
        except BaseException:
            with contextlib.suppress(Exception):
                files.rm_file(aside)
            raise


def _content_of(path: Path, large: int) -> tuple[int, bytes | None]:
    """Return a file's size and, where it is not large, what is in it.

    Args:
        path: the file, of this machine.
        large: from so many bytes on it is only looked whether it can be read; 0: no file is large.

    Raises:
        FileNotFoundError: there is none.
        FileRefused: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return size, None if 0 < large <= size else file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileRefused(f"The file {path} cannot be read: {error}.") from error


def _split(url: str) -> tuple[str, str]:
    """Return the scheme and the rest of a URL without slashes at its end, checked."""
    check_no_password("storage_path", url)
    found = _URL.match(url)
    if found is None or "::" in url:
        raise ConfigError(f"storage_path {url!r} is no URL that Shoal can use. It must look like s3://bucket/runs.")
    scheme = found[1].lower()
    from fsspec.registry import known_implementations, registry

    if scheme not in registry and scheme not in known_implementations:
        raise ConfigError(
            f"storage_path {url!r}: the scheme {scheme!r} is unknown. fsspec knows, among others, "
            f"{', '.join(_COMMON)}.{did_you_mean(scheme, [*known_implementations, *registry])}"
        )
    rest = url[found.end() :].rstrip("/")
    if not rest and scheme not in _LOCAL and scheme != "memory":
        raise ConfigError(f"storage_path {url!r} names no bucket. It must look like {scheme}://bucket/runs.")
    return scheme, rest


def _unchecked(url: str) -> Place:
    """Return a place inside of one whose URL was checked, whatever its name is."""
    place = object.__new__(Place)
    # As it was checked, without slashes at its end.
    start = url.index("://") + 3
    object.__setattr__(place, "url", url[:start] + url[start:].rstrip("/"))
    return place


def _rename(files: Any, source: str, target: str, *, local: bool) -> None:
    from fsspec import AbstractFileSystem

    if local:
        os.replace(source, target)  # whatever is there
    elif type(files).mv is AbstractFileSystem.mv:
        # It would take brackets and stars in a name for a pattern.
        files.cp_file(source, target)
        files.rm_file(source)
    else:
        files.mv(source, target)


def _path_of(path: str) -> str:
    return path.strip("/")


def _file_system(url: str) -> Any:
    """Return the file system of this process for a URL: its scheme, and the host, for example, that it names."""
    scheme = url.partition("://")[0]
    kind = _kind(scheme)
    settings: dict[str, Any] = {} if scheme in _ALIKE else kind._get_kwargs_from_urls(url)
    key = (os.getpid(), scheme, repr(sorted(settings.items())))
    with _opening:
        if key not in _opened:
            _opened[key] = _open(scheme, kind, settings)
        return _opened[key]


def forget() -> None:
    """Open file systems anew from now on: the environment says something else."""
    with _opening:
        _opened.clear()


def _kind(scheme: str) -> Any:
    """Return the class of file systems of a scheme."""
    import fsspec

    try:
        return fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        package, install = _PACKAGES.get(scheme, (None, None))
        what = f"needs the package {package}: pip install '{install}'" if package else f"needs a package: {error}"
        raise ConfigError(f"storage_path {scheme}://... {what}.") from error


def _open(scheme: str, kind: Any, told: Mapping[str, Any]) -> Any:
    # Own ones, which nobody else changes, and which list what is there now.
    settings: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False, **told}
    if scheme in _S3:
        settings |= _s3_settings()
    try:
        files = kind(**settings)
    except Exception as error:
        raise describe(error, f"{scheme}://") from error
    if scheme in _S3:
        # Shoal tries again, and reads large objects in parts, by itself. Else each small one would be asked for twice.
        files.retries = 1
        files.max_concurrency = 1
    return files


def _s3_settings() -> dict[str, Any]:
    """Return how long to wait for an answer, where the user's environment does not say.

    botocore alone tries five times, and so does s3fs with each of them: storage that hangs would be noticed after six
    minutes.
    """
    import fsspec.config

    told: Any = {**fsspec.config.conf.get("s3", {}), **fsspec.config.conf.get("s3a", {})}.get("config_kwargs") or {}
    if isinstance(told, str):
        try:
            told = json.loads(told)
        except ValueError:
            return {}
    defaults: dict[str, Any] = {"connect_timeout": _CONNECT_S, "read_timeout": _READ_S, "max_pool_connections": 32}
    if not {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} & os.environ.keys():
        defaults["retries"] = {"mode": "standard", "total_max_attempts": 1}
    return {"config_kwargs": {**defaults, **told}}
