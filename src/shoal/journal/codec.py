"""How events and commands are written down: one short JSON list each, fields in their order.

A list rather than an object keeps a result small. Fields are only ever added at the end, with a default, so an older
journal stays readable. Configs may hold any Python object: what JSON cannot hold exactly is pickled inside the JSON.
Metrics hold what JSON can hold; the session has seen to that. Every number comes back exactly as it was, because a
restored run has to take the same decisions.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import pickle
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, Union, get_args, get_origin, get_type_hints

from ..core import commands, events
from ..core.commands import CheckpointRecord, Command, Status
from ..core.events import Event, SavedCheckpoint
from ..core.limits import Limits, RetentionRules
from ..errors import JournalError
from .plain import NotPlain, plain_value

__all__ = [
    "Item",
    "Record",
    "Unloadable",
    "decode",
    "encode",
    "from_json_text",
    "is_known",
    "made",
    "pack",
    "to_json_text",
    "unpack",
]

Item: TypeAlias = Event | Command


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the journal."""

    seq: int
    """Its place, from 1, without gaps."""
    at: float
    """When the driver wrote it, seconds since the epoch."""
    item: Item
    texts: Sequence[str] | None = field(default=None, compare=False, repr=False)
    """Of a result that was written just now, where its metrics are finite numbers: how they are written, then
    ``time_this_iter_s``, ``time_total_s`` and ``time_since_restore``. To write a float takes as long as to read a
    whole result from a member, and the log files need the same texts."""


_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        events.Opened,
        events.SlotsJoined,
        events.SlotsLeft,
        events.TrialAdded,
        events.Started,
        events.Damaged,
        events.Freed,
        events.Drifted,
        events.Reported,
        events.Saved,
        events.Finished,
        events.Failed,
        events.Lost,
        events.Undecided,
        events.StopAsked,
        commands.Launch,
        commands.Continue,
        commands.HandOn,
        commands.Park,
        commands.Exploit,
        commands.Reconfigure,
        commands.Save,
        commands.Evict,
        commands.WindUp,
        commands.Retry,
        commands.FallBack,
        commands.Await,
        commands.Stop,
        commands.DeleteCheckpoint,
        commands.Notice,
    )
}
_FIELDS: dict[str, tuple[str, ...]] = {
    kind: tuple(field.name for field in dataclasses.fields(cls)) for kind, cls in _KINDS.items()
}
_CONFIGS = frozenset({"config", "donor_config", "old_config", "new_config"})
_TUPLES = {"again": str, "anew": str, "dropped": str, "changed": str, "devices": str, "slots": int}
"""Fields that are tuples, and what is in them."""
_CONVERTED = _CONFIGS | set(_TUPLES) | {"checkpoint", "status", "raised", "limits", "retention"}
_SPECIAL: dict[str, list[tuple[int, str]]] = {
    kind: [(place, name) for place, name in enumerate(names) if name in _CONVERTED] for kind, names in _FIELDS.items()
}
"""Places and names of the fields that are written in another form; all others JSON writes as they are."""
_NESTED = (SavedCheckpoint, CheckpointRecord, Limits, RetentionRules, Status, type(None))
_JSON = json.JSONEncoder(separators=(",", ":"))
# ASCII only: half a surrogate pair, as in a file name that is no UTF-8, cannot be stored in any other way.


def to_json_text(value: Any) -> str:
    """Return the JSON text of what JSON can hold, as it is written in a journal."""
    return _JSON.encode(value)


_JSON_TEXT = json.JSONDecoder()


def from_json_text(text: str) -> Any:
    """Return the value of a JSON text with nothing around it, as a record's body is.

    ``json.loads`` looks for blanks before and behind it, which takes as long as all the rest of a result.

    Raises:
        ValueError: it is none.
    """
    value, end = _JSON_TEXT.raw_decode(text)
    if end != len(text):
        raise ValueError(f"something follows on its JSON: {text[end:]:.100}")
    return value


def encode(item: Item) -> tuple[str, str]:
    """Return (kind, body) of an event or a command; ``body`` is JSON text."""
    kind = type(item).__name__
    values: list[Any] = [getattr(item, name) for name in _FIELDS[kind]]
    for place, name in _SPECIAL[kind]:
        values[place] = _to_json(name, values[place])
    return kind, to_json_text(values)


def decode(kind: str, body: str, *, unpickle: bool = True) -> Item:
    """Return the event or command that :func:`encode` wrote.

    Args:
        kind, body: what it returned.
        unpickle: whether objects in configs are loaded, which runs code of whoever wrote them; if not, an
            :class:`Unloadable` stands for each, and NumPy's numbers are Python's.

    Raises:
        ValueError: the kind is unknown or the body is damaged.
    """
    cls = _KINDS.get(kind)
    if cls is None:
        raise ValueError(f"unknown kind of record {kind!r}; a newer Shoal may have written it")
    try:
        values = from_json_text(body)
        if type(values) is not list:
            raise ValueError(f"it is no list: {body:.100}")
        for place, name in _SPECIAL[kind]:
            if place < len(values):
                values[place] = _from_json(kind, name, values[place], unpickle)
        item: Item = made(cls, values)
        if kind == "TrialAdded":
            _check_folder(item)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise ValueError(f"a record of kind {kind} cannot be read: {error}") from error
    return item


def _check_folder(item: Any) -> None:
    """Refuse a trial's folder that is not one inside of the experiment's: the journal may be of anybody."""
    folder = item.folder
    if folder in ("", ".", "..") or not {"/", "\0", os.sep}.isdisjoint(folder):
        raise ValueError(f"its trial's folder is {folder!r:.100}, which is none inside of the experiment's")


def is_known(kind: str) -> bool:
    """Return whether there are records of this kind."""
    return kind in _KINDS


def made(cls: type[Any], values: list[Any]) -> Any:
    """Return an object of a dataclass with values for its first fields, or all.

    Raises:
        ValueError: a value is of another type than the field's.
        TypeError: a field without a default has no value.
    """
    found = tuple(map(type, values))
    if (cls, found) not in _fitting:
        _check_types(cls, values)
        if not _LISTS.intersection(found):
            _fitting.add((cls, found))
    return cls(*values)


_fitting: set[tuple[type[Any], tuple[type[Any], ...]]] = set()
"""Types of fields that were found to fit, because most records are like one before."""
_LISTS = frozenset({list, tuple})


def _check_types(cls: type[Any], values: list[Any]) -> None:
    allowed = _allowed(cls)
    if len(values) > len(allowed):
        raise ValueError(f"it has {len(values)} fields instead of {len(allowed)}; a newer Shoal may have written it")
    for each, value, fits in zip(dataclasses.fields(cls), values, allowed, strict=False):
        a_config = dict in fits and isinstance(value, (dict, Unloadable))
        within = _TUPLES.get(each.name, str)
        alike = not isinstance(value, (list, tuple)) or all(type(entry) is within for entry in value)
        if not alike or not (type(value) in fits or a_config):
            raise ValueError(f"its field {each.name} is {value!r:.100}")


def _allowed(cls: type[Any]) -> tuple[frozenset[type[Any]], ...]:
    """Return for each field of a dataclass which types its values may have."""
    if cls not in _allowed_of:
        hints = get_type_hints(cls)
        _allowed_of[cls] = tuple(_types_in(hints[field.name]) for field in dataclasses.fields(cls))
    return _allowed_of[cls]


_allowed_of: dict[type[Any], tuple[frozenset[type[Any]], ...]] = {}


def _types_in(hint: Any) -> frozenset[type[Any]]:
    if isinstance(hint, types.UnionType) or get_origin(hint) is Union:
        return frozenset().union(*map(_types_in, get_args(hint)))
    if hint is float:
        return frozenset({float, int, bool})  # metrics and steps, as users gave them
    found: type[Any] = get_origin(hint) or hint
    return frozenset({found}) if found in (str, int, bool, bytes, dict, tuple, *_NESTED) else _LISTS


def _to_json(name: str, value: Any) -> Any:
    if name in _CONFIGS:
        return pack(value)
    if value is None or name == "status" or name in _TUPLES:
        return value
    if name == "raised":
        return base64.b64encode(value).decode()
    return [getattr(value, field.name) for field in dataclasses.fields(value)]


def _from_json(kind: str, name: str, value: Any, unpickle: bool) -> Any:
    if name in _CONFIGS:
        return unpack(value, unpickle=unpickle)
    if value is None:
        return None
    if name == "status":
        return Status(value)
    if name == "raised":
        return base64.b64decode(value)
    if type(value) is not list:
        raise ValueError(f"its field {name} is {value!r:.100}")
    if name in _TUPLES:
        return tuple(value)
    if name == "checkpoint":
        return made(SavedCheckpoint if kind in ("Reported", "Saved") else CheckpointRecord, value)
    if name == "limits":
        return made(Limits, value or [[""]])  # devices are a list here, also the default ones
    return made(RetentionRules, value)


def pack(value: Any) -> Any:
    """Return a JSON form of any Python object that :func:`unpack` turns back into an equal one of the same type."""
    kind: type[Any] = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return [pack(entry) for entry in value]
    if kind is tuple:
        return {"$tuple": [pack(entry) for entry in value]}
    if kind is dict and all(type(key) is str and not key.startswith("$") for key in value):
        return {key: pack(entry) for key, entry in value.items()}
    from ..pickles import dumps

    return {"$pickle": base64.b64encode(dumps(value)).decode(), "$repr": _shown(value)}


def _shown(value: Any) -> str:
    """Return how an object shows itself, cut off; its own code, which may fail."""
    try:
        return repr(value)[:200]
    except Exception as error:
        return f"<{type(value).__name__}, which cannot be shown: {type(error).__name__}>"


def unpack(value: Any, *, unpickle: bool = True) -> Any:
    """Return the object that :func:`pack` was given.

    Args:
        value: what that returned.
        unpickle: whether pickles are loaded; if not, each that holds more than plain values is an :class:`Unloadable`.
    """
    if isinstance(value, list):
        entries: list[Any] = value
        return [unpack(entry, unpickle=unpickle) for entry in entries]
    if isinstance(value, dict):
        packed: dict[str, Any] = value
        if "$tuple" in packed:
            return tuple(unpack(entry, unpickle=unpickle) for entry in packed["$tuple"])
        if "$pickle" in packed:
            shown = packed.get("$repr", "")
            return (_unpickle if unpickle else _looked_at)(packed["$pickle"], shown)
        return {key: unpack(entry, unpickle=unpickle) for key, entry in packed.items()}
    return value


class Unloadable:
    """Stands for a value of a config whose class cannot be imported here, so that everything else can be read.

    It shows itself as the value did. It cannot be sent to a member: that raises JournalError with the reason.
    """

    def __init__(self, text: str, reason: str) -> None:
        self._text = str(text)
        self._reason = reason

    def __repr__(self) -> str:
        return self._text

    def __reduce__(self) -> Any:
        raise JournalError(f"The config value {self._text} cannot be read from the journal here: {self._reason}.")


def _unpickle(text: str, shown: str) -> Any:
    try:
        return pickle.loads(base64.b64decode(text))
    except Exception as error:
        # Unpickling runs code of the user's modules, so anything can be raised; most often a module is not there.
        return Unloadable(shown, f"{type(error).__name__}: {error}")


def _looked_at(text: str, shown: str) -> Any:
    try:
        return plain_value(base64.b64decode(text))
    except (NotPlain, ValueError):
        return Unloadable(shown, "it was only looked at")
