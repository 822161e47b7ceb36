"""What a TensorBoard event file is made of, as bytes. Pure.

A file is a row of TFRecords, each of them an ``Event`` in the encoding of Protocol Buffers: first one that names the
format's version, then summaries. Five kinds of events are all that Shoal needs, so it writes them itself.
tensorboardX, the usual library, imports torch wherever torch is installed (measured: 1.1 s and 200 MB in the driver,
which needs none of it), starts a thread for each file, and takes longer for an event.

Sources: the TFRecord format, https://www.tensorflow.org/tutorials/load_data/tfrecord; CRC-32C, RFC 3720, B.4; the
field numbers, TensorBoard's ``event.proto``, ``summary.proto``, ``tensor.proto`` and
``plugins/hparams/plugin_data.proto``; the encoding, https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

__all__ = [
    "Kind",
    "Series",
    "Written",
    "first",
    "records",
    "restart",
    "scalar",
    "scalars",
    "session_end",
    "session_start",
]

_START_TAG = "_hparams_/session_start_info"
_END_TAG = "_hparams_/session_end_info"

_DOUBLE = struct.Struct("<d").pack
_FLOAT = struct.Struct("<f").pack
_U32 = struct.Struct("<I").pack
_U64 = struct.Struct("<Q").pack


def first(wall_time: float) -> bytes:
    """Return the record that every file begins with."""
    return _record(_event(wall_time, 0) + _bytes(3, b"brain.Event:2"))


def scalar(tag: str, value: float) -> bytes:
    """Return a value for :func:`scalars`. It is kept with single precision, as in every scalar of TensorBoard."""
    try:
        return _scalar_prefix(tag) + _FLOAT(value)
    except OverflowError:
        return _scalar_prefix(tag) + _FLOAT(math.copysign(math.inf, value))


def scalars(wall_time: float, step: int, values: bytes) -> bytes:
    """Return the record of the values at a step, which are what :func:`scalar` returned, one after the other."""
    return _record(_event(wall_time, step) + _bytes(5, values))


class Series:
    """Makes records like those of :func:`scalars`, of the same tags at many steps, in a fifth of the time.

    All bytes stay the same but those of the time, the step and the values. And a checksum is linear: it is that of a
    record with zeros in their places, changed by what each of them adds there.

    Args:
        tags: the names of the values, at least one.
        constant: further values, which stay the same, as :func:`scalar` returned them.
    """

    def __init__(self, tags: Sequence[str], constant: bytes) -> None:
        self._prefixes = [_scalar_prefix(tag) for tag in tags]
        self._constant = constant
        self._layouts: dict[int, _Layout] = {}
        """By the bytes that a step takes."""

    def record(self, wall_time: float, step: int, values: Sequence[float]) -> bytes:
        """Return the record of the values at a step, which is not 0.

        Raises:
            OverflowError: single precision cannot hold one of them.
        """
        encoded = _varint(step)
        layout = self._layouts.get(len(encoded))
        if layout is None:
            layout = self._layouts[len(encoded)] = _Layout(self._prefixes, self._constant, len(encoded))
        return layout.record(wall_time, encoded, values)


class _Layout:
    """Where everything is in the records of a series whose steps take the same number of bytes."""

    def __init__(self, prefixes: Sequence[bytes], constant: bytes, step_size: int) -> None:
        count = len(prefixes)
        values = b"\x2a" + _varint(sum(map(len, prefixes)) + 4 * count + len(constant))
        # What stays, and behind each part of it what varies: its kind for struct, and how many bytes it takes.
        known = [b"\x09", b"\x10", values + prefixes[0], *prefixes[1:], constant]
        kinds = ["d", f"{step_size}s", *["f"] * count, ""]
        sizes = [8, step_size, *[4] * count, 0]
        zeros, varying = b"", list[int]()
        for part, size in zip(known, sizes, strict=True):
            zeros += part + bytes(size)
            varying += range(len(zeros) - size, len(zeros))
        self._pack = struct.Struct(
            "<12s" + "".join(f"{len(part)}s{kind}" for part, kind in zip(known, kinds, strict=True))
        ).pack
        self._parts: list[Any] = [_record_head(len(zeros)), *(each for part in known for each in (part, None))][:-1]
        self._register = _register(zeros)
        self._varying = itemgetter(*(12 + place for place in varying))
        self._added = [_added_by(len(zeros) - 1 - place) for place in varying]

    def record(self, wall_time: float, step: bytes, values: Sequence[float]) -> bytes:
        """As in :class:`Series`."""
        parts = self._parts
        parts[2], parts[4] = wall_time, step
        parts[6:-1:2] = values
        try:
            record = self._pack(*parts)
        except struct.error as error:  # of an int that no float can hold
            raise OverflowError(*error.args) from error
        register = self._register
        for added, byte in zip(self._added, self._varying(record), strict=True):
            register ^= added[byte]
        return record + _masked(register)


def restart(wall_time: float, step: int) -> bytes:
    """Return a record that says: what was written for this step and later ones was not to be."""
    start = b"\x08\x01"  # SessionLog.status = START
    return _record(_event(wall_time, step) + _bytes(7, start))


def session_start(wall_time: float, hparams: Mapping[str, object]) -> bytes:
    """Return the record from which the HPARAMS tab knows a run.

    Args:
        wall_time: when it began, seconds since the epoch.
        hparams: its hyperparameters. What is no bool, number or text is written as its text.
    """
    entries = b"".join(
        _bytes(1, _bytes(1, _text(name)) + _bytes(2, _protobuf_value(value))) for name, value in hparams.items()
    )
    return _session(wall_time, _START_TAG, _bytes(3, entries + b"\x29" + _DOUBLE(wall_time)))


def session_end(wall_time: float, *, success: bool) -> bytes:
    """Return the record from which the HPARAMS tab knows that and how a run ended."""
    status = b"\x08\x01" if success else b"\x08\x02"
    return _session(wall_time, _END_TAG, _bytes(4, status + b"\x11" + _DOUBLE(wall_time)))


class Kind(Enum):
    """What a record is, as far as one has to know it to go on with a file."""

    SCALARS = "scalars"
    RESTART = "restart"
    SESSION_END = "session end"
    OTHER = "other"


class Written(NamedTuple):
    """A record that was found in a file."""

    kind: Kind
    end: int
    """Where the next one begins."""


def records(data: bytes) -> Iterator[Written]:
    """Yield the records of a file that this module wrote, up to the first that is torn or damaged."""
    begin = 0
    while begin + 12 <= len(data):
        length: int = struct.unpack_from("<Q", data, begin)[0]
        end = begin + 12 + length + 4
        payload = data[begin + 12 : end - 4]
        if data[begin : begin + 12] != _record_head(length) or end > len(data):
            return
        if data[end - 4 : end] != _masked_crc(payload):
            return
        yield Written(_kind(payload), end)
        begin = end


def _kind(payload: bytes) -> Kind:
    if payload[9:10] != b"\x10":  # no step: the beginning of a file, or metadata
        return Kind.SESSION_END if _text(_END_TAG) in payload else Kind.OTHER
    place = 10
    while payload[place : place + 1] > b"\x7f":
        place += 1
    return Kind.SCALARS if payload[place + 1 : place + 2] == b"\x2a" else Kind.RESTART


# ------------------------------------------------------------------------------------------------------------- messages


def _event(wall_time: float, step: int) -> bytes:
    """Return the fields that every event begins with."""
    return b"\x09" + _DOUBLE(wall_time) + (b"\x10" + _varint(step) if step else b"")


def _session(wall_time: float, tag: str, content: bytes) -> bytes:
    """Return an event whose only value is metadata for the HParams plugin."""
    metadata = _bytes(1, _bytes(1, b"hparams") + _bytes(2, content))
    empty = b"\x08\x01" + _bytes(2, _bytes(2, b""))  # dtype DT_FLOAT, one dimension of size 0: no data, but a tensor
    value = _bytes(1, _text(tag)) + _bytes(8, empty) + _bytes(9, metadata)
    return _record(_event(wall_time, 0) + _bytes(5, _bytes(1, value)))


def _protobuf_value(value: object) -> bytes:
    """Return a ``google.protobuf.Value``."""
    if isinstance(value, bool):
        return b"\x20\x01" if value else b"\x20\x00"
    if isinstance(value, (int, float)):
        try:
            return b"\x11" + _DOUBLE(float(value))
        except OverflowError:
            pass  # an int that no float can hold
    return _bytes(3, _text(str(value)))


@lru_cache(maxsize=10_000)
def _scalar_prefix(tag: str) -> bytes:
    """Return all of ``Summary.value`` up to the four bytes of its number."""
    body = _bytes(1, _text(tag)) + b"\x15"
    return b"\x0a" + _varint(len(body) + 4) + body


# ------------------------------------------------------------------------------------------------------------- encoding


def _text(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _bytes(field: int, payload: bytes) -> bytes:
    """Return a field of bytes, a text or a message."""
    return bytes((field << 3 | 2,)) + _varint(len(payload)) + payload


def _varint(number: int) -> bytes:
    if number < 128:
        return bytes((number,))
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _record(data: bytes) -> bytes:
    """Return a TFRecord."""
    return _record_head(len(data)) + data + _masked_crc(data)


@lru_cache(maxsize=1_000)
def _record_head(length: int) -> bytes:
    head = _U64(length)
    return head + _masked_crc(head)


def _crc_table() -> tuple[int, ...]:
    table: list[int] = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return tuple(table)


_CRC_TABLE = _crc_table()


def _register(data: bytes) -> int:
    table = _CRC_TABLE
    register = 0xFFFFFFFF
    for byte in data:
        register = table[(register ^ byte) & 0xFF] ^ register >> 8
    return register


def _masked(register: int) -> bytes:
    crc = register ^ 0xFFFFFFFF
    return _U32(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _masked_crc(data: bytes) -> bytes:
    """Return the CRC-32C of the data, masked as TFRecord does it."""
    return _masked(_register(data))


_bits_behind: list[tuple[int, ...]] = [tuple(_CRC_TABLE[1 << bit] for bit in range(8))]
"""What each bit of a byte adds to the checksum, by the number of bytes that follow."""


@lru_cache(maxsize=4_000)
def _added_by(following: int) -> array[int]:
    """Return what each value of a byte adds to the checksum's register, where so many bytes follow."""
    while len(_bits_behind) <= following:
        _bits_behind.append(tuple(_CRC_TABLE[bit & 0xFF] ^ bit >> 8 for bit in _bits_behind[-1]))
    added = [0]
    for bit in _bits_behind[following]:
        added += [bit ^ other for other in added]
    return array("I", added)
