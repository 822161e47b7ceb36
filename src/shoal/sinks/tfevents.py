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
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

__all__ = ["Kind", "Written", "first", "records", "restart", "scalar", "scalars", "session_end", "session_start"]

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


def _masked_crc(data: bytes) -> bytes:
    """Return the CRC-32C of the data, masked as TFRecord does it."""
    table = _CRC_TABLE
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return _U32(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
