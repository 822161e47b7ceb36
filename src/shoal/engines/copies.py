"""Checkpoints on their way between machines: read in pieces on one, written whole or not at all on the other."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.store import measure, write
from ..core.commands import checkpoint_name
from ..errors import StorageError

__all__ = ["PIECE", "Listing", "Piece", "bring", "pieces_of", "read_piece"]

PIECE = 1 << 26
"""Bytes of a piece: large enough that asking for it costs nothing beside it, and small enough for any memory."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a checkpoint."""

    files: tuple[tuple[str, int, int], ...]
    """(name with '/', bytes, mode)."""
    folders: tuple[str, ...]
    """Empty ones."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size, _ in self.files)

    @property
    def pieces(self) -> int:
        """How many pieces it is read in, at least one."""
        return max(1, -(-self.size // PIECE))


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the bytes of all files, one after the other."""

    listing: Listing
    index: int
    data: bytes


def pieces_of(folder: Path) -> Listing:
    """Return what files a checkpoint has.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    files: list[tuple[str, int, int]] = []
    folders: list[str] = []
    os.stat(folder)  # os.walk finds nothing in a folder that is not there, and says nothing
    for parent, inside, names in os.walk(folder):
        relative = Path(parent).relative_to(folder)
        for name in names:
            state = os.stat(Path(parent, name))
            files.append(((relative / name).as_posix(), state.st_size, state.st_mode & 0o777))
        if not inside and not names and relative != Path("."):
            folders.append(relative.as_posix())
    return Listing(tuple(sorted(files)), tuple(sorted(folders)))


def read_piece(folder: Path, index: int) -> Piece:
    """Return a piece of a committed checkpoint, which does not change.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    listing = pieces_of(folder)
    skip, wanted = index * PIECE, PIECE
    parts: list[bytes] = []
    for name, size, _ in listing.files:
        if skip >= size:
            skip -= size
            continue
        if wanted == 0:
            break
        with Path(folder, name).open("rb") as file:
            file.seek(skip)
            parts.append(file.read(min(wanted, size - skip)))
        wanted -= len(parts[-1])
        skip = 0
    return Piece(listing, index, b"".join(parts))


def bring(
    folder: Path, trial_folder: str, number: int, digest: str, first: Piece, read: Callable[[int], Piece]
) -> None:
    """Write a checkpoint that is somewhere else into the experiment's folder of this machine, whole or not at all.

    Args:
        folder: the experiment's folder.
        trial_folder: the name of the trial's folder in it.
        number: the checkpoint's.
        digest: what it must have.
        first: its first piece.
        read: returns the piece of an index.

    Raises:
        StorageError: it cannot be written, or is not what it should be.
        Exception: whatever ``read`` raises.
    """

    def make(staging: Path) -> tuple[str, int]:
        _lay_out(staging, first, read)
        found = measure(staging)
        if found[0] != digest:
            raise StorageError(
                f"The checkpoint {trial_folder}/{checkpoint_name(number)} has arrived with the digest "
                f"{found[0][:12]}... instead of {digest[:12]}..."
            )
        return found

    write(make, folder / trial_folder, number)


def _lay_out(folder: Path, first: Piece, read: Callable[[int], Piece]) -> None:
    """Write the files that the pieces hold, one after the other, so that only one is in memory."""
    for name in first.listing.folders:
        (folder / name).mkdir(parents=True, exist_ok=True)
    index, data = 0, memoryview(first.data)
    for name, size, mode in first.listing.files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        left = size
        with path.open("wb") as file:
            while left:
                if not data:
                    index += 1
                    data = memoryview(read(index).data)
                    if not data:
                        raise StorageError(f"The file {name} of a checkpoint became shorter while it was copied.")
                part, data = data[:left], data[left:]
                file.write(part)
                left -= len(part)
        path.chmod(mode)
