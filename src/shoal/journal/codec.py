"""How events and commands are written down: one short JSON list each, fields in their order.

A list rather than an object keeps a result small. Fields are only ever added at the end, with a default, so an older
journal stays readable. Configs may hold any Python object: what JSON cannot hold exactly is pickled inside the JSON.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import pickle
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..core import commands, events
from ..core.commands import CheckpointRecord, Command, Status
from ..core.events import Event, SavedCheckpoint

__all__ = ["Record", "decode", "encode", "pack", "unpack"]

Item: TypeAlias = Event | Command


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the journal."""

    seq: int
    """Its place, from 1, without gaps."""
    at: float
    """When the driver wrote it, seconds since the epoch."""
    item: Item


_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        events.TrialAdded,
        events.Started,
        events.Reported,
        events.Finished,
        events.Failed,
        events.Lost,
        events.StopAsked,
        commands.Launch,
        commands.Continue,
        commands.Park,
        commands.Exploit,
        commands.Evict,
        commands.Retry,
        commands.Stop,
        commands.DeleteCheckpoint,
        commands.Notice,
    )
}
_FIELDS: dict[str, tuple[str, ...]] = {
    kind: tuple(field.name for field in dataclasses.fields(cls)) for kind, cls in _KINDS.items()
}
_CONFIGS = frozenset({"config", "donor_config", "old_config", "new_config"})


def encode(item: Item) -> tuple[str, str]:
    """Return (kind, body) of an event or a command; ``body`` is JSON text."""
    kind = type(item).__name__
    values = [_to_json(name, getattr(item, name)) for name in _FIELDS[kind]]
    return kind, json.dumps(values, separators=(",", ":"), ensure_ascii=False)


def decode(kind: str, body: str) -> Item:
    """Return the event or command that :func:`encode` wrote.

    Raises:
        ValueError: the kind is unknown or the body is damaged.
    """
    cls = _KINDS.get(kind)
    if cls is None:
        raise ValueError(f"unknown kind of record {kind!r}")
    values = json.loads(body)
    names = _FIELDS[kind]
    if not isinstance(values, list) or len(values) > len(names):
        raise ValueError(f"a record of kind {kind} has {body!r} instead of {len(names)} fields")
    fields = {name: _from_json(kind, name, value) for name, value in zip(names, values, strict=False)}
    item: Item = cls(**fields)
    return item


def _to_json(name: str, value: Any) -> Any:
    if name in _CONFIGS:
        return pack(value)
    if isinstance(value, float):
        return _short(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, (SavedCheckpoint, CheckpointRecord)):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return value


def _short(value: float) -> float:
    """Clock readings need no more than microseconds."""
    return round(value, 6) if math.isfinite(value) and abs(value) > 1e-3 else value


def _from_json(kind: str, name: str, value: Any) -> Any:
    if name in _CONFIGS:
        return unpack(value)
    if value is None:
        return None
    if name == "checkpoint":
        return SavedCheckpoint(*value) if kind == "Reported" else CheckpointRecord(*value)
    if name == "status":
        return Status(value)
    if name == "raised":
        return base64.b64decode(value)
    return value


def pack(value: Any) -> Any:
    """Return a JSON form of any Python object that :func:`unpack` turns back into an equal one of the same type."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return [pack(entry) for entry in value]
    if kind is tuple:
        return {"$tuple": [pack(entry) for entry in value]}
    if kind is dict and all(type(key) is str and not key.startswith("$") for key in value):
        return {key: pack(entry) for key, entry in value.items()}
    import cloudpickle

    return {"$pickle": base64.b64encode(cloudpickle.dumps(value)).decode(), "$repr": repr(value)[:200]}


def unpack(value: Any) -> Any:
    """Return the object that :func:`pack` was given."""
    if isinstance(value, list):
        return [unpack(entry) for entry in value]
    if isinstance(value, dict):
        if "$tuple" in value:
            return tuple(unpack(entry) for entry in value["$tuple"])
        if "$pickle" in value:
            return pickle.loads(base64.b64decode(value["$pickle"]))
        return {key: unpack(entry) for key, entry in value.items()}
    return value
