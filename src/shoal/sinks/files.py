"""What the log files share: JSON that holds anything, files that are replaced whole, and many files that grow.

Nothing here calls fsync: the journal is the record, and a restored experiment writes its log files anew from it.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["GrowingFiles", "replace_text", "to_json"]


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
    aside.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    os.replace(aside, path)


class GrowingFiles:
    """Appends to any number of files, of which the ones used last stay open.

    Args:
        limit: how many are open at the same time. A process may have 1,024 open files by default, or 256 on macOS.
    """

    def __init__(self, limit: int = 100) -> None:
        self._limit = limit
        self._open: OrderedDict[Path, int] = OrderedDict()

    def append(self, path: Path, text: str) -> None:
        """Write text at the end of a file, made if needed, and hand it to the operating system."""
        handle = self._open.get(path)
        if handle is None:
            while len(self._open) >= self._limit:
                os.close(self._open.popitem(last=False)[1])
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._open[path] = handle
        else:
            self._open.move_to_end(path)
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        while data:
            data = data[os.write(handle, data) :]

    def release(self, path: Path) -> None:
        """Close a file, because it is about to be replaced or will not grow any more."""
        handle = self._open.pop(path, None)
        if handle is not None:
            os.close(handle)

    def close(self) -> None:
        """Close all files."""
        while self._open:
            os.close(self._open.popitem()[1])
