"""What the log files share: JSON that holds anything, files that are replaced whole, and many files that grow.

Nothing here calls fsync: the journal is the record, and a restored experiment writes its log files anew from it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["GrowingFiles", "append_whole", "cut_rows", "replace_text", "to_json"]

_BLOCK = 1 << 16


def _storable(value: Any) -> Any:
    """Return what JSON writes for a value that it does not know: numbers for NumPy's and torch's, else its text."""
    tolist = getattr(value, "tolist", None)
    if callable(tolist):
        try:
            return tolist()
        except Exception:
            return str(value)
    return str(value)


def _text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        pairs: dict[Any, Any] = value
        return {str(key): _text_keys(entry) for key, entry in pairs.items()}
    if isinstance(value, (list, tuple)):
        entries: Sequence[Any] = value
        return [_text_keys(entry) for entry in entries]
    return value


_ENCODERS = {
    None: json.JSONEncoder(default=_storable),
    2: json.JSONEncoder(default=_storable, indent=2, sort_keys=True),
}


def to_json(value: Any, indent: int | None = None) -> str:
    """Return JSON text; what JSON cannot hold is written as its ``str``, NumPy scalars as numbers, NaN as ``NaN``.

    Args:
        value: anything.
        indent: None for one line, or 2 for a file to be read by people, with sorted keys.
    """
    encoder = _ENCODERS[indent]
    try:
        return encoder.encode(value)
    except TypeError:
        # Keys that are no text, or that cannot be sorted among each other.
        return encoder.encode(_text_keys(value))


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old text or the new, whole."""
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)  # on a full disk every page counts
        raise


def append_whole(handle: int, data: bytes) -> None:
    """Write all of the data at the end of an open file, or nothing of it.

    Raises:
        OSError: it could not be written, for example because the disk is full.
    """
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(handle, rest) :]
    except OSError:
        if len(rest) < len(data):
            with contextlib.suppress(OSError):
                os.ftruncate(handle, os.fstat(handle).st_size - (len(data) - len(rest)))
        raise


def cut_rows(path: Path, count: int, *, quoted: bool = False) -> None:
    """Take the last rows off a file, reading no more of it than these; a file that grows may stay open meanwhile.

    Args:
        path: it ends with a whole row. One that is missing, or has fewer rows, is left empty or as it is.
        count: how many rows.
        quoted: whether rows may have line breaks between double quotes, as in CSV; else each line is a row.
    """
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return
    with file:
        file.truncate(_end_without(file, count, quoted))


def _end_without(file: BinaryIO, count: int, quoted: bool) -> int:
    """Return where a file ends when its last rows are gone."""
    begin = file.seek(0, os.SEEK_END)
    left, inside = count + 1, False  # the last row's own line break comes first
    while begin > 0:
        size = min(_BLOCK, begin)
        begin -= size
        file.seek(begin)
        block = file.read(size)
        end = size
        while (place := block.rfind(b"\n", 0, end)) >= 0:
            # Behind the end of a row, there is an even number of quotes: they come in pairs, also inside of quotes.
            inside ^= quoted and block.count(b'"', place, end) % 2 == 1
            end = place
            if not inside:
                left -= 1
                if left == 0:
                    return begin + place + 1
        inside ^= quoted and block.count(b'"', 0, end) % 2 == 1
    return 0


class GrowingFiles:
    """Appends to any number of files, of which the ones used last stay open.

    Args:
        limit: how many are open at the same time. A process may have 1,024 open files by default, or 256 on macOS.
    """

    def __init__(self, limit: int = 100) -> None:
        self._limit = limit
        self._open: OrderedDict[Path, int] = OrderedDict()

    def append(self, path: Path, text: str) -> None:
        """Write text at the end of a file, made if needed, and hand it to the system: all of it or nothing."""
        handle = self._open.get(path)
        if handle is None:
            while len(self._open) >= self._limit:
                os.close(self._open.popitem(last=False)[1])
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._open[path] = handle
        else:
            self._open.move_to_end(path)
        append_whole(handle, text.encode("utf-8", "backslashreplace"))

    def release(self, path: Path) -> None:
        """Close a file, because it is about to be replaced or will not grow any more."""
        handle = self._open.pop(path, None)
        if handle is not None:
            os.close(handle)

    def close(self) -> None:
        """Close all files."""
        while self._open:
            os.close(self._open.popitem()[1])
