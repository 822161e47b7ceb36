"""Plain values out of pickles, without running anything: NumPy's numbers, and containers that hold plain values.

A config may have ``np.float64(0.1)`` where a float would have done. Readers that do not load objects still have to know
the number. Nothing of a pickle's own choice is imported or called here.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections import OrderedDict
from typing import Any

__all__ = ["NotPlain", "plain_value"]

_FORMATS = {
    "f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I",
    "u8": "Q", "b1": "?",
}  # fmt: skip
_CONTAINERS: dict[tuple[str, str], Any] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("collections", "OrderedDict"): OrderedDict,
}
_SCALARS = (("numpy._core.multiarray", "scalar"), ("numpy.core.multiarray", "scalar"))


class NotPlain(Exception):
    """The pickle holds something else."""


def plain_value(data: bytes) -> Any:
    """Return the value of a pickle; NumPy's numbers, bools and texts as Python's, which are equal.

    Raises:
        NotPlain: it holds any other object, or cannot be read.
    """
    try:
        value = _Reader(io.BytesIO(data)).load()
        _check(value)
        return value
    except Exception as error:  # the bytes may be anything
        raise NotPlain(f"{type(error).__name__}: {error}") from error


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # What is handed out cannot be changed by a pickle in a way that outlives it.
        if (module, name) in _CONTAINERS:
            return _CONTAINERS[module, name]
        if (module, name) in _SCALARS:
            return lambda kind, data: _scalar(kind, data)
        if (module, name) == ("numpy", "dtype"):
            return lambda code, *rest: _Kind(code)
        raise NotPlain(f"it holds {module}.{name}")


def _check(value: Any) -> None:
    """Raise NotPlain unless a value is a plain one, with all that is in it."""
    kind: type[Any] = type(value)
    if issubclass(kind, dict):
        for pair in value.items():
            _check(pair)
    elif kind in (list, tuple, set, frozenset):
        for entry in value:
            _check(entry)
    elif value is not None and kind not in (bool, int, float, str, bytes):
        raise NotPlain(f"it holds a {kind.__name__}")


class _Kind:
    """A NumPy type, as far as it is needed."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _scalar(kind: _Kind, data: bytes) -> Any:
    if kind.code.startswith("U"):
        return data.decode("utf-32-be" if kind.order == ">" else "utf-32-le").rstrip("\0")
    return struct.unpack(kind.order + _FORMATS[kind.code], data)[0]
