"""Checkpoints: what users hand over and get back, and the store that owns every committed one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["Checkpoint"]


class Checkpoint:
    """A folder of files that holds a member's state.

    Make one with :meth:`from_directory` and hand it to ``tune.report(metrics, checkpoint=...)``, which takes a copy
    before it returns; the folder is then yours again. What ``tune.get_checkpoint()`` and ``Result.checkpoint`` return
    is a committed checkpoint: read its files, and leave them as they are.

    Args:
        path: an existing folder.

    Raises:
        ConfigError: there is no such folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise ConfigError(
                f"Checkpoint: path must be the path of a folder, but is {path!r} ({type(path).__name__}). "
                f"Save your state to files in a folder, then Checkpoint.from_directory(folder)."
            )
        folder = Path(path)
        if not folder.is_dir():
            what = "is a file; give the folder that it is in" if folder.exists() else "does not exist"
            raise ConfigError(
                f"Checkpoint: {str(folder)!r} {what}. A checkpoint is made of a folder that holds its files."
            )
        self.path: str = str(folder.absolute())

    @classmethod
    def from_directory(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Return a checkpoint made of the files in an existing folder, which stays where it is."""
        return cls(path)

    @contextlib.contextmanager
    def as_directory(self) -> Generator[str]:
        """Give the path of a folder with its files, for reading: ``with checkpoint.as_directory() as folder:``."""
        yield self.path

    def to_directory(self, path: str | os.PathLike[str] | None = None) -> str:
        """Copy the checkpoint's files to a folder and return its path.

        Args:
            path: the folder, made if it does not exist. Default: a new temporary one, which is yours to delete.
        """
        import shutil
        import tempfile

        target = tempfile.mkdtemp(prefix="checkpoint_") if path is None else os.fspath(path)
        if Path(target).resolve().is_relative_to(Path(self.path).resolve()):
            raise ConfigError(f"Checkpoint.to_directory: {target!r} is inside of the checkpoint. Give another folder.")
        shutil.copytree(self.path, target, dirs_exist_ok=True)
        return target

    @property
    def filesystem(self) -> AbstractFileSystem:
        """The (local) file system that ``path`` belongs to, as fsspec knows it."""
        import fsspec

        return fsspec.filesystem("file")

    def __repr__(self) -> str:
        return f"Checkpoint(path={self.path!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checkpoint) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)
