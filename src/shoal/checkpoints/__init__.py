"""Checkpoints: what users hand over and get back, and the store that owns every committed one."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import ConfigError
from ..location import check_slashes, is_url

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["DICT_FILE", "NOTES", "Checkpoint", "filesystem_of", "read_dict", "replacing", "write_dict"]

DICT_FILE = ".shoal_dict.pkl"
"""The file of a checkpoint that is a dict: of :meth:`Checkpoint.from_dict`, or what a class returned to be saved."""
NOTES = ".metadata.json"
"""The file of the notes about a checkpoint, where Ray's checkpoints have it, too."""


class Checkpoint:
    """A folder of files that holds a member's state.

    Make one with :meth:`from_directory` (or :meth:`from_dict`, for a small state) and hand it to
    ``tune.report(metrics, checkpoint=...)``, which takes a copy before it returns, or the files themselves, see
    :meth:`from_directory`; the folder is then yours again. What
    ``tune.get_checkpoint()`` and ``Result.checkpoint`` return is a committed checkpoint: read its files, and leave them
    as they are.

    One in object storage, ``Checkpoint("s3://bucket/runs/name/trial/checkpoint_000004")``, is what
    ``Result.checkpoint`` returns of a run with such a ``storage_path``. :meth:`as_directory`, :meth:`to_directory` and
    :meth:`to_dict` download it, and compare what has come with the digest that it was saved with.

    Args:
        path: an existing folder; or the URL of one in object storage, which is looked for when it is used.

    Raises:
        ConfigError: there is no such folder.

    Attributes:
        path: the folder's path, or the whole URL. ``checkpoint.filesystem`` takes it as it is.
    """

    linked_files: tuple[str, ...] = ()
    """Names of files that only Shoal has written, and nobody writes to again: ``tune.report`` need not copy them."""
    digest: str | None = None
    """The digest that its files must have, where that is known."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise ConfigError(
                f"Checkpoint: path must be the path of a folder, but is {path!r} ({type(path).__name__}). "
                f"Save your state to files in a folder, then Checkpoint.from_directory(folder)."
            )
        if is_url(path):
            self.path: str = path.rstrip("/")
            return
        check_slashes("Checkpoint: path", path)
        folder = Path(path)
        if not folder.is_dir():
            what = "is a file; give the folder that it is in" if folder.exists() else "does not exist"
            raise ConfigError(
                f"Checkpoint: {str(folder)!r} {what}. A checkpoint is made of a folder that holds its files."
            )
        self.path = str(folder.absolute())

    @classmethod
    def from_directory(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Return a checkpoint made of the files in an existing folder, which stays where it is.

        ``tune.report`` copies them. What lies in a ``tempfile.TemporaryDirectory``, which would be deleted soon, it
        moves instead, so read what you still need before. It copies there as well where something in it is open or the
        working directory, where it holds the experiment, too, and on systems other than Linux.
        """
        return cls(path)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Checkpoint:
        """Return a checkpoint that holds a dict of things that can be pickled; :meth:`to_dict` gives it back.

        It lies in a temporary folder, which goes with the object, and with this process; copies and pickles of the
        object do not keep it.

        Raises:
            ConfigError: ``data`` is no dict, or cannot be pickled.
        """
        from ..scratch import make_temporary

        if not isinstance(data, Mapping):
            raise ConfigError(
                f"Checkpoint.from_dict: data must be a dict, but is {data!r:.200} ({type(data).__name__})."
            )
        folder = make_temporary("checkpoint_")
        try:
            write_dict(Path(folder), dict(data))
        except OSError:
            _remove(folder, os.getpid())  # no room, for example: that says enough
            raise
        except Exception as error:
            _remove(folder, os.getpid())
            raise ConfigError(
                f"Checkpoint.from_dict: data cannot be pickled: {type(error).__name__}: {error}. Put plain values, "
                f"arrays and state_dicts into it."
            ) from error
        made = cls(folder)
        made.linked_files = (DICT_FILE,)
        weakref.finalize(made, _remove, folder, os.getpid())
        return made

    def to_dict(self) -> dict[str, Any]:
        """Return the dict of :meth:`from_dict`, or the one that a class trainable's ``save_checkpoint`` returned.

        Pickles execute code: load only what comes from yourself.

        Raises:
            ConfigError: the checkpoint is made of files, or they are gone.
            StorageError: it cannot be downloaded.
        """
        with self.as_directory() as folder:
            found = read_dict(Path(folder))
            if found is None and not os.path.isdir(folder):
                raise ConfigError(
                    f"Checkpoint.to_dict: {self.path} is gone. The folder of a Checkpoint.from_dict goes with its "
                    f"object."
                )
            if found is None:
                names = sorted(entry.name for entry in Path(folder).iterdir())
                raise ConfigError(
                    f"Checkpoint.to_dict: {self.path} is a folder with {', '.join(names[:8]) or 'nothing in it'}. "
                    f"Read its files: with checkpoint.as_directory() as folder."
                )
            return found

    @contextlib.contextmanager
    def as_directory(self) -> Generator[str]:
        """Give the path of a folder with its files, for reading: ``with checkpoint.as_directory() as folder:``.

        One in object storage is downloaded to a temporary folder, which is deleted when the block is left.

        Raises:
            ConfigError: there is no such checkpoint in object storage.
            StorageError: it cannot be downloaded, or what has come is not what was saved.
        """
        if not is_url(self.path):
            yield self.path
            return
        from ..scratch import make_temporary

        outer, owner = make_temporary("checkpoint_"), os.getpid()
        try:
            folder = Path(outer, self.path.rpartition("/")[2])
            self._download(folder)
            yield str(folder)
        finally:
            _remove(outer, owner)

    def to_directory(self, path: str | os.PathLike[str] | None = None) -> str:
        """Copy the checkpoint's files to a folder and return its path.

        Args:
            path: the folder, made if it does not exist. Default: a new temporary one, which is yours to delete.

        Raises:
            ConfigError: the folder is inside of the checkpoint; or there is no such checkpoint in object storage.
            StorageError: it cannot be downloaded, or what has come is not what was saved.
        """
        import shutil
        import tempfile

        if is_url(self.path):
            target = tempfile.mkdtemp(prefix="checkpoint_") if path is None else os.fspath(path)
            with contextlib.suppress(OSError):
                os.rmdir(target)  # an empty one: what is downloaded takes its place
            if not os.path.lexists(target):
                self._download(Path(target))
                return target
            with self.as_directory() as folder:
                shutil.copytree(folder, target, dirs_exist_ok=True)
            return target
        target = tempfile.mkdtemp(prefix="checkpoint_") if path is None else os.fspath(path)
        if Path(target).resolve().is_relative_to(Path(self.path).resolve()):
            raise ConfigError(f"Checkpoint.to_directory: {target!r} is inside of the checkpoint. Give another folder.")
        shutil.copytree(self.path, target, dirs_exist_ok=True)
        return target

    def get_metadata(self) -> dict[str, Any]:
        """Return the notes that :meth:`set_metadata` left beside the files; empty where there are none."""
        import json

        path = f"{self.path}/{NOTES}"
        data = self._notes()
        if data is None:
            return {}
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"Checkpoint.get_metadata: {path} is no JSON: {error}.") from error
        if not isinstance(found, dict):
            raise ConfigError(f"Checkpoint.get_metadata: {path} must hold a JSON object, but holds {found!r:.100}.")
        return found

    def set_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Leave notes beside the files, in place of those that are there.

        Args:
            metadata: a dict of JSON values, such as ``{"classes": ["cat", "dog"]}``.

        Raises:
            ConfigError: it is no dict, or holds what is no JSON.
        """
        import json

        if not isinstance(metadata, Mapping):
            raise ConfigError(f"Checkpoint.set_metadata: metadata must be a dict, but is {metadata!r:.200}.")
        try:
            text = json.dumps(dict(metadata), indent=2, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"Checkpoint.set_metadata: metadata must be JSON values: {error}.") from error
        if is_url(self.path):
            from ..storage.fetching import write_file

            write_file(f"{self.path}/{NOTES}", f"{text}\n".encode())
            return
        with replacing(Path(self.path, NOTES)) as file:
            file.write(f"{text}\n".encode())

    def update_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Add to the notes; see :meth:`set_metadata`."""
        if not isinstance(metadata, Mapping):
            raise ConfigError(f"Checkpoint.update_metadata: metadata must be a dict, but is {metadata!r:.200}.")
        self.set_metadata({**self.get_metadata(), **metadata})

    @property
    def filesystem(self) -> AbstractFileSystem:
        """The file system that ``path`` belongs to, as fsspec knows it: of this machine, or object storage."""
        return filesystem_of(self.path)

    def __repr__(self) -> str:
        return f"Checkpoint(path={self.path!r})"

    def _repr_html_(self) -> str | None:
        from ..display.reprs import checkpoint_html

        return checkpoint_html(self.path, NOTES)

    def _download(self, folder: Path) -> None:
        """Download it from object storage.

        Raises:
            ConfigError: it is not there.
            StorageError: it cannot be downloaded, or what has come is not what was saved.
        """
        from ..storage.fetching import download

        download(self.path, folder, self.digest)

    def _notes(self) -> bytes | None:
        """Return what is in the file of notes; None where there is none."""
        if is_url(self.path):
            from ..storage.fetching import read_file

            return read_file(f"{self.path}/{NOTES}")
        path = Path(self.path, NOTES)
        return path.read_bytes() if path.is_file() else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checkpoint) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)


def filesystem_of(path: str) -> AbstractFileSystem:
    """Return the file system of a path or a URL, as fsspec knows it."""
    import fsspec

    return fsspec.core.url_to_fs(path)[0] if is_url(path) else fsspec.filesystem("file")


def _remove(folder: str, owner: int) -> None:
    """Delete a temporary folder, in the process that made it: a forked child, too, has an object that goes."""
    from ..scratch import remove_temporary

    if os.getpid() == owner:
        remove_temporary(folder)


def write_dict(folder: Path, data: dict[str, Any]) -> None:
    """Write the dict that a checkpoint is made of into its folder."""
    import pickle

    with replacing(folder / DICT_FILE) as file:
        pickle.dump(data, file, protocol=pickle.HIGHEST_PROTOCOL)


@contextlib.contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """Write a file by way of another name, so that what was there stays as it is, also under its other names.

    Raises:
        OSError: there is no room, for example. Nothing is left behind.
    """
    staging = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with staging.open("wb") as file:
            yield file
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def read_dict(folder: Path) -> dict[str, Any] | None:
    """Return the dict that a checkpoint is made of; None where it is made of files."""
    import pickle

    if not (folder / DICT_FILE).is_file():
        return None
    with (folder / DICT_FILE).open("rb") as file:
        found: dict[str, Any] = pickle.load(file)
    return found
