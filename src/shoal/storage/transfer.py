"""Checkpoints to storage and back. A checkpoint's manifest is written last and deleted first: without it there is none.

In storage a checkpoint is its files, ``<trial>/checkpoint_000004/...``, and ``<trial>/checkpoint_000004.json``, which
says what they are. Notes about it, of ``Checkpoint.set_metadata``, lie beside its files and may change at any time: the
manifest does not speak of them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from ..checkpoints import NOTES
from ..checkpoints.digest import is_notes
from ..checkpoints.leftovers import committed_number
from ..checkpoints.store import damage, measure
from ..errors import StorageError
from .place import Place
from .trying import PlaceError, retrying
from .workers import each

__all__ = [
    "MANIFEST_SUFFIX", "DamagedCopy", "FileEntry", "Manifest", "delete_checkpoint", "download_checkpoint",
    "key_of", "list_checkpoints", "manifest_place", "name_of_key", "read_manifest", "safe_name", "upload_checkpoint",
]  # fmt: skip

_FORMAT = 1
_PATIENCE_S = 20.0
"""For a single file; whoever asked for the checkpoint has more patience, or less."""
MANIFEST_SUFFIX = ".json"
_downloads = itertools.count(1)


def key_of(name: str) -> str:
    """Return the name of a file's object: its own, or quoted where file systems would read something else into it.

    Of two names the keys differ, and :func:`name_of_key` gives the name back.
    """
    return "/".join(map(_key_of_part, name.split("/")))


def _key_of_part(part: str) -> str:
    try:
        part.encode()
    except UnicodeEncodeError:
        return quote(os.fsencode(part))
    return quote(part) if any(sign in part for sign in _SPEAKING) else part


_SPEAKING = ("?", "#", "%", "::", "\\")
"""``?versionId=``, for example, is no part of a name for s3fs. Quoted names have a percent sign."""


def name_of_key(key: str) -> str:
    """Return the name of which :func:`key_of` made a key."""
    return "/".join(os.fsdecode(unquote_to_bytes(part)) if "%" in part else part for part in key.split("/"))


def safe_name(name: str) -> bool:
    """Return whether a name that was read somewhere, with ``/`` in it, is of something inside of the folder."""
    return "\0" not in name and not {"", ".", ".."}.intersection(name.split("/"))


class DamagedCopy(StorageError):
    """What is in storage is not the checkpoint that was put there."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a checkpoint."""

    name: str
    """From the checkpoint's folder on, with ``/``."""
    size: int
    """Bytes."""

    @property
    def key(self) -> str:
        """The name of its object."""
        return key_of(self.name)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint in storage is made of."""

    digest: str
    """As in the journal: of all its files."""
    size: int
    """Bytes of all its files."""
    files: tuple[FileEntry, ...]
    folders: tuple[str, ...] = ()
    """Those that have nothing in them."""

    @classmethod
    def of(cls, folder: Path, digest: str) -> Manifest:
        """Return that of a folder on this machine.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        files: list[FileEntry] = []
        folders: list[str] = []
        root = os.fspath(folder)
        os.stat(root)
        for parent, below, names in os.walk(root):
            inner = os.path.relpath(parent, root)
            for name in names:
                path = os.path.join(parent, name)
                if inner == "." and is_notes(name):
                    continue
                files.append(FileEntry(name if inner == "." else f"{inner}/{name}", os.stat(path).st_size))
            if not below and not names and inner != ".":
                folders.append(inner)
        files.sort(key=lambda entry: entry.name)
        return cls(digest, sum(entry.size for entry in files), tuple(files), tuple(sorted(folders)))

    def to_bytes(self) -> bytes:
        """Return its JSON text."""
        return json.dumps({
            "format": _FORMAT,
            "digest": self.digest,
            "size": self.size,
            "files": [[entry.name, entry.size] for entry in self.files],
            "folders": list(self.folders),
        }).encode()  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes, where: Place) -> Manifest:
        """Return what :meth:`to_bytes` was made of.

        Raises:
            DamagedCopy: it is none, or was written by a newer Shoal.
        """
        try:
            found: Any = json.loads(data)
            if found["format"] != _FORMAT:
                raise DamagedCopy(f"{where} has format {found['format']}; this Shoal reads {_FORMAT}. Update Shoal.")
            files = tuple(FileEntry(str(name), int(size)) for name, size in found["files"])
            folders = tuple(map(str, found["folders"]))
            made = cls(str(found["digest"]), int(found["size"]), files, folders)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise DamagedCopy(f"{where} is no manifest of a checkpoint: {error}.") from error
        for name in (*(entry.name for entry in files), *folders):
            if not safe_name(name):
                raise DamagedCopy(f"{where} names a file outside of its checkpoint: {name!r}.")
        return made


def manifest_place(place: Place) -> Place:
    """Return where the manifest of a checkpoint is."""
    return place.parent / f"{place.name}{MANIFEST_SUFFIX}"


def read_manifest(place: Place) -> Manifest | None:
    """Return what a checkpoint in storage is made of; None where there is none.

    Args:
        place: of the checkpoint, ``.../checkpoint_000004``.

    Raises:
        DamagedCopy: its manifest is damaged.
        PlaceError: it cannot be read.
    """
    where = manifest_place(place)
    try:
        return Manifest.from_bytes(_try(where.read_bytes), where)
    except FileNotFoundError:
        return None


def upload_checkpoint(
    folder: Path,
    place: Place,
    digest: str,
    *,
    sent: set[str] | None = None,
    moved: Callable[[], object] = lambda: None,
    check: Callable[[], object] = lambda: None,
) -> None:
    """Put a committed checkpoint into storage, where it is from the moment on at which all of it is.

    Args:
        folder: the checkpoint's on this machine; nobody changes or deletes it meanwhile.
        place: where it goes, ``.../checkpoint_000004``. There is none yet.
        digest: as in the journal.
        sent: names of files that an earlier try for the very same checkpoint has sent; those of this one are added.
        moved: called whenever something of it has arrived.
        check: called before each file, and before that with which the checkpoint is there; what it raises ends this.

    Raises:
        FileNotFoundError: there is no such folder, or a file in it is gone.
        PlaceError: it could not be written. The same call may succeed later.
    """
    manifest = Manifest.of(folder, digest)
    done = set[str]() if sent is None else sent

    def send(entry: FileEntry) -> None:
        check()
        _try(partial((place / entry.key).upload_file, folder / entry.name, moved))
        done.add(entry.name)

    def send_notes() -> None:
        check()
        with contextlib.suppress(FileNotFoundError):
            _try(partial((place / NOTES).upload_file, folder / NOTES))
            done.add(NOTES)

    calls: list[Callable[[], object]] = [partial(send, entry) for entry in manifest.files if entry.name not in done]
    each([*calls, *([send_notes] if NOTES not in done and (folder / NOTES).is_file() else [])])
    check()
    _try(partial(manifest_place(place).write_bytes, manifest.to_bytes()))
    moved()


def download_checkpoint(place: Place, folder: Path, digest: str | None = None) -> None:
    """Get a checkpoint from storage, whole or not at all. One that is there already, and whole, stays.

    Args:
        place: where it is, ``.../checkpoint_000004``.
        folder: where it goes.
        digest: as in the journal; None: as its manifest says.

    Raises:
        FileNotFoundError: there is no such checkpoint in storage.
        DamagedCopy: it is not what it was.
        PlaceError: it cannot be read.
        StorageError: it cannot be written, for example because the disk is full.
    """
    manifest = read_manifest(place)
    if manifest is None:
        raise FileNotFoundError(f"There is no checkpoint {place}.")
    expected = manifest.digest if digest is None else digest
    if manifest.digest != expected:
        raise DamagedCopy(f"{place} has the digest {manifest.digest[:12]}... instead of {expected[:12]}...")
    # A name that the sweep of a trial's folder knows.
    staging = folder.with_name(f".{folder.name}.{os.getpid()}{next(_downloads):06d}")
    try:
        staging.mkdir(parents=True)
        for name in manifest.folders:
            (staging / name).mkdir(parents=True, exist_ok=True)
        for name in {os.path.dirname(entry.name) for entry in manifest.files}:
            (staging / name).mkdir(parents=True, exist_ok=True)
        try:
            calls = [
                partial(_try, partial((place / entry.key).download_file, staging / entry.name, entry.size))
                for entry in manifest.files
            ]
            each([*calls, partial(_download_notes, place, staging)])
        except FileNotFoundError as error:
            raise DamagedCopy(f"{place} lacks a file: {error}.") from error
        except PlaceError as error:
            there = {key: size for key, size in _try(place.list_sizes).items() if not is_notes(key)}
            if error.passes or there == {entry.key: entry.size for entry in manifest.files}:
                raise
            raise DamagedCopy(f"{place} has files of other sizes than it had: {error}") from error
        found = measure(staging)[0]
        if found != expected:
            raise DamagedCopy(f"{place}: its files have the digest {found[:12]}... instead of {expected[:12]}...")
        _put_in_place(staging, folder, expected)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{place} cannot be written to {folder}: {error}. Free some space, or check it.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _download_notes(place: Place, folder: Path) -> None:
    """Get the notes about a checkpoint, as they are now, where there are some."""
    with contextlib.suppress(FileNotFoundError):
        (folder / NOTES).write_bytes(_try((place / NOTES).read_bytes))


def _put_in_place(staging: Path, folder: Path, digest: str) -> None:
    try:
        os.rename(staging, folder)
    except OSError:
        if not folder.is_dir():
            raise
        if damage(folder, digest) is not None:
            shutil.rmtree(folder)
            os.rename(staging, folder)


def delete_checkpoint(place: Place) -> None:
    """Delete a checkpoint in storage, or what is left of one; where there is none, that is no error.

    Args:
        place: where it is, ``.../checkpoint_000004``.

    Raises:
        PlaceError: it could not be deleted. There may be files left, and no checkpoint any more.
    """
    _try(manifest_place(place).delete)
    _try(partial(place.delete, recursive=True))


def list_checkpoints(place: Place) -> list[int]:
    """Return the numbers of all checkpoints of a trial that are in storage, whole.

    Args:
        place: the trial's.

    Raises:
        PlaceError: it cannot be listed.
    """
    names = [name.removesuffix(MANIFEST_SUFFIX) for name in _try(place.list_names) if name.endswith(MANIFEST_SUFFIX)]
    return sorted(number for name in names if (number := committed_number(name)) is not None)


def _try(call: Callable[[], Any]) -> Any:
    return retrying(call, patience_s=_PATIENCE_S)
