"""The digest of a checkpoint's files: XXH3 with 128 bits of their names, sizes and bytes.

It is computed while a member holds its slot, so large files are read through mapped memory, which takes half the time
of copying them. A mapping of bytes that cannot be read would kill the process; so each window is populated first, where
the kernel tells that as an error. And one of a file that is cut off meanwhile would; so only files are read here that
nobody else can reach for writing: those of committed checkpoints.
"""

from __future__ import annotations

import io
import mmap
import os
import re
import sys
import threading
from collections.abc import Callable

import xxhash

__all__ = ["Digest", "buffer", "is_notes"]

_Buffer = bytes | memoryview | mmap.mmap
_CHUNK = 1 << 20
_SMALL = 1 << 18
_WINDOW = 1 << 24
_POPULATE_READ = 22
"""``MADV_POPULATE_READ`` of Linux 5.14; Python has no name for it."""
_NOTES = re.compile(r"\.metadata\.json(\.\d+)?")
"""Of ``Checkpoint.set_metadata``, which may write it at any time, and what a process left that died while it did so."""
_of_thread = threading.local()


class Digest:
    """The digest of files, which are added one after the other, in the order of their names."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()
        self.size = 0
        """Bytes of all files, notes included."""

    def add(self, name: str, path: str) -> None:
        """Add a file.

        Raises:
            OSError: it cannot be read.
        """
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if (count := _read(file, size, self.begin(name, size))) != size:
                raise OSError(f"{path} changed its size from {size} to {count} bytes while it was read")

    def begin(self, name: str, size: int) -> Callable[[_Buffer], object]:
        """Begin the next file, and return what takes its bytes: they are no part of the digest where it is notes."""
        self.size += size
        if is_notes(name):
            return _ignore
        self._hash.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
        update: Callable[[_Buffer], object] = self._hash.update
        return update

    def hexdigest(self) -> str:
        """Return the digest of all files so far."""
        return self._hash.hexdigest()


def is_notes(name: str) -> bool:
    """Whether a file is the notes about the checkpoint, which are no part of what the digest is of."""
    return name.startswith(".metadata") and _NOTES.fullmatch(name) is not None


def _ignore(data: _Buffer) -> None:
    pass


def buffer() -> memoryview:
    """Return this thread's memory for reading: touching other memory for the first time costs more than all else."""
    if not hasattr(_of_thread, "buffer"):
        _of_thread.buffer = memoryview(bytearray(_CHUNK))
    found: memoryview = _of_thread.buffer
    return found


def _read(file: io.FileIO, size: int, update: Callable[[_Buffer], object]) -> int:
    """Pass on all bytes of a file, which is ``size`` bytes long or was a moment ago; return how many there were."""
    done = _read_mapped(file.fileno(), size, update) if size > _SMALL and sys.platform == "linux" else 0
    file.seek(done)
    memory = buffer()
    while count := file.readinto(memory):
        update(memory[:count])
        done += count
    return done


def _read_mapped(file: int, size: int, update: Callable[[_Buffer], object]) -> int:
    """Pass on as many of the bytes as can be mapped, and return how many these are."""
    done = 0
    while done < size:
        try:
            window = mmap.mmap(file, min(_WINDOW, size - done), prot=mmap.PROT_READ, offset=done)
        except (OSError, ValueError):
            break  # a file system without mappings, or the file has become shorter
        with window:
            try:
                window.madvise(_POPULATE_READ)
            except OSError:
                break  # an older kernel, or bytes that cannot be read: reading them tells which
            update(window)
            done += len(window)
    return done
