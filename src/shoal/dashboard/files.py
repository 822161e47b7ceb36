"""The few files that pages show, opened so that nothing outside of an experiment's folder can be reached.

Names of folders come out of journals, which anybody may have written. So each step of the way is opened by itself, from
the folder before it, and links are not followed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from ..display.text import printable

__all__ = ["Tail", "names_in", "stamp_of", "tail_of"]

_MOST_BYTES = 48 << 10
_LONGEST_LINE = 2000


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a text file."""

    lines: tuple[str, ...]
    places: tuple[int, ...]
    """Where each line begins in the file, in bytes: the same line has the same place when the file has grown."""
    size: int
    """Bytes of the whole file."""
    whole: bool
    """Whether nothing is left out."""


def tail_of(experiment: Path, folder: str, name: str, lines: int = 300) -> Tail | None:
    """Return the end of a file in a trial's folder; None where there is no ordinary file of that name.

    Args:
        experiment: the experiment's folder.
        folder: the trial's folder in it.
        name: the file's name.
        lines: at most so many.
    """
    with _inside(experiment, folder) as place:
        if place is None or not _is_plain(name):
            return None
        try:
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
        except OSError:
            return None
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                return None
            begin = max(0, status.st_size - _MOST_BYTES)
            data = os.pread(handle, _MOST_BYTES, begin)
        except OSError:
            return None
        finally:
            os.close(handle)
    found: list[tuple[int, bytes]] = []
    place = begin
    for line in data.split(b"\n"):
        found.append((place, line))
        place += len(line) + 1
    if not found[-1][1]:
        found.pop()
    if begin and len(found) > 1:
        found.pop(0)  # the rest of a line
    newest = found[-lines:]
    shown = tuple(printable(line.decode("utf-8", "replace"))[:_LONGEST_LINE] for _, line in newest)
    return Tail(shown, tuple(at for at, _ in newest), status.st_size, begin == 0 and len(newest) == len(found))


def stamp_of(experiment: Path, folder: str, *names: str) -> tuple[object, ...]:
    """Return something that changes when files in a trial's folder do, or when some come or go.

    Args:
        experiment: the experiment's folder.
        folder: the trial's folder in it.
        names: of the files.
    """
    with _inside(experiment, folder) as place:
        if place is None:
            return ()
        found: list[object] = [os.fstat(place).st_mtime_ns]
        for name in names:
            with contextlib.suppress(OSError):
                status = os.stat(name, dir_fd=place, follow_symlinks=False)
                found.append((name, status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(found)


def names_in(experiment: Path, folder: str) -> frozenset[str]:
    """Return the names of the folders in a trial's folder; none where it is not there."""
    with _inside(experiment, folder) as place:
        if place is None:
            return frozenset()
        try:
            with os.scandir(place) as entries:
                return frozenset(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except OSError:
            return frozenset()


@contextlib.contextmanager
def _inside(experiment: Path, folder: str) -> Generator[int | None]:
    """Give a handle of a trial's folder; None where it is no folder right inside the experiment's."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    outer = inner = -1
    try:
        if _is_plain(folder):
            with contextlib.suppress(OSError):
                outer = os.open(experiment, flags)
                inner = os.open(folder, flags | os.O_NOFOLLOW, dir_fd=outer)
        yield inner if inner >= 0 else None
    finally:
        for handle in (inner, outer):
            if handle >= 0:
                os.close(handle)


def _is_plain(name: str) -> bool:
    """Return whether a name is that of something right in a folder."""
    return bool(name) and name not in (".", "..") and "/" not in name and "\0" not in name
