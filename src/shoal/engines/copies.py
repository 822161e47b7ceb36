"""Checkpoints on their way between machines: read in pieces on one, written whole or not at all on the other."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.store import damage, measure
from ..core.commands import checkpoint_name
from ..errors import StorageError

__all__ = ["PIECE", "Listing", "Offer", "Piece", "bring", "pieces_of", "read_piece"]

PIECE = 1 << 24
"""Bytes of a piece: large enough that asking for it costs little beside it, and so small that the memory of a host can
hold those of a dozen transfers, some of them several times."""


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


@dataclass(frozen=True, slots=True)
class Offer:
    """A checkpoint of which another host is to make a copy."""

    owner: str
    """The key of the host that has it."""
    trial_folder: str
    """The name of the trial's folder."""
    launch: int
    """That has saved it."""
    number: int
    digest: str
    first: Piece


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
    folder: Path,
    trial_folder: str,
    number: int,
    digest: str,
    first: Piece,
    read: Callable[[int], Piece],
    *,
    wanted: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Write a checkpoint that is somewhere else into the experiment's folder of this machine, whole or not at all.

    Where there is another of that number, that one goes: it was saved by a process that is gone, and told to nobody.

    Args:
        folder: the experiment's folder.
        trial_folder: the name of the trial's folder in it.
        number: the checkpoint's.
        digest: what it must have.
        first: its first piece.
        read: returns the piece of an index.
        wanted: what is entered while it gets its name; raises where it must not have it any more.

    Raises:
        StorageError: it cannot be read or written, or is not what it should be. Nothing is left behind.
        Exception: whatever else ``read`` or ``wanted`` raises.
    """

    def following(index: int) -> Piece:
        try:
            return read(index)
        except OSError as error:
            raise StorageError(f"The checkpoint {trial_folder}/{final.name} cannot be read: {error}.") from error

    final = folder / trial_folder / checkpoint_name(number)
    # Names that the sweep of a trial's folder knows, and nobody else takes.
    staging, replaced = (final.with_name(f".{final.name}.{uuid.uuid4().int}") for _ in range(2))
    try:
        staging.mkdir(parents=True)
        _lay_out(staging, first, following)
        found = measure(staging)[0]
        if found != digest:
            raise StorageError(
                f"The checkpoint {trial_folder}/{final.name} has arrived with the digest {found[:12]}... instead of "
                f"{digest[:12]}..."
            )
        if damage(final, digest) is not None:
            with wanted():
                with contextlib.suppress(FileNotFoundError):
                    os.rename(final, replaced)
                os.rename(staging, final)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"The checkpoint {final} cannot be written: {error}. Free some space, or check the path."
        ) from error
    finally:
        for path in (staging, replaced):
            shutil.rmtree(path, ignore_errors=True)


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
