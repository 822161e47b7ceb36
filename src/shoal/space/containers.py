"""Walking configs: nested dicts, lists and tuples, whose other values are opaque and never copied.

Also the half-drawn config that a function of the user is shown, which notices when a value is not there yet.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, TypeGuard

__all__ = [
    "PartialDict",
    "Path",
    "Pending",
    "Unresolved",
    "children",
    "copy_containers",
    "key_name",
    "path_text",
    "rebuild",
    "same",
    "without_guards",
]

Path: TypeAlias = tuple[Any, ...]
"""The keys and indices that lead to a value."""


def key_name(where: str, path: Path) -> str:
    """Return how a value is written in code: ``param_space['model']['lr']``."""
    return where + "".join(f"[{key!r}]" for key in path)


def path_text(path: Path) -> str:
    """Return how a value is written in results: ``model/lr``."""
    return "/".join(map(str, path))


def children(value: object) -> list[tuple[Any, Any]] | None:
    """Return the (key, value) pairs of a dict, list or (named) tuple, and None for anything else."""
    if _is_dict(value):
        return list(value.items())
    if _is_list(value) or (_is_tuple(value) and (type(value) is tuple or hasattr(value, "_make"))):
        return list(enumerate(value))
    return None


def _is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_tuple(value: object) -> TypeGuard[tuple[Any, ...]]:
    return isinstance(value, tuple)


def rebuild(value: Any, parts: Iterable[Any]) -> Any:
    """Return a container like ``value``, of its type and with its keys, that holds ``parts``."""
    if _is_tuple(value):
        kind: Any = type(value)
        return tuple(parts) if kind is tuple else kind._make(parts)
    new = copy.copy(value)
    if _is_dict(value):
        new.update(zip(value, parts, strict=True))
    else:
        new[:] = parts
    return new


def copy_containers(value: Any) -> Any:
    """Return ``value`` with all its containers copied, and everything else in them the same object."""
    pairs = children(value)
    if pairs is None:
        return value
    return rebuild(value, [part if type(part) in _SCALARS else copy_containers(part) for _, part in pairs])


_SCALARS = frozenset({bool, int, float, str, bytes, type(None)})


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal and of equal type, whatever ``==`` of their type returns or raises."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if type(a) in _SCALARS:
        return bool(a == b or (a != a and b != b))
    pairs, others = children(a), children(b)
    if pairs is not None and others is not None:
        if _is_dict(a):
            return len(pairs) == len(others) and all(key in b and same(part, b[key]) for key, part in pairs)
        return len(pairs) == len(others) and all(same(x, y) for (_, x), (_, y) in zip(pairs, others, strict=True))
    try:
        # Arrays answer == with an array, and broadcast.
        equal = a == b
        if hasattr(equal, "all") and getattr(a, "shape", None) == getattr(b, "shape", None):
            equal = equal.all()
        return bool(equal)
    except Exception:
        return False


class Unresolved(Exception):
    """A function of the user has read a value that is not drawn yet."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{key_name('config', path)} is not drawn yet")
        self.path = path


class Pending:
    """Stands in a config for a value that is not drawn yet."""

    def __init__(self, path: Path, own: bool) -> None:
        self.path = path
        self.own = own
        """Whether it is the value that the function is asked for. Then reading all values leaves it out."""


def _ready(value: Any) -> Any:
    if isinstance(value, Pending):
        raise Unresolved(value.path)
    return value


def _is_own(value: Any) -> bool:
    return isinstance(value, Pending) and value.own


class PartialDict(dict[str, Any]):
    """A config, with its values as items and as attributes, that raises Unresolved where a value is pending."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__({key: _guard(value) for key, value in config.items()})

    def __getitem__(self, key: str) -> Any:
        return _ready(super().__getitem__(key))

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the config has no {name!r}") from None

    def get(self, key: str, default: Any = None, /) -> Any:
        return _ready(super().get(key, default))

    def __iter__(self) -> Iterator[str]:
        # That this method is not dict's own also makes dict(config) and {**config} ask keys() and __getitem__.
        return iter([key for key, value in super().items() if not _is_own(value)])

    def keys(self) -> Any:
        return dict.fromkeys(self).keys()

    def values(self) -> Any:
        return [self[key] for key in self]

    def items(self) -> Any:
        return [(key, self[key]) for key in self]


class _PartialList(list[Any]):
    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return [_ready(value) for value in found] if isinstance(index, slice) else _ready(found)

    def __iter__(self) -> Iterator[Any]:
        return (_ready(value) for value in super().__iter__() if not _is_own(value))


def _guard(value: Any) -> Any:
    if isinstance(value, PartialDict):
        return value
    if _is_dict(value):
        return PartialDict(value)
    if _is_list(value):
        return _PartialList(_guard(part) for part in value)
    if _is_tuple(value) and type(value) is tuple:
        parts = tuple(_guard(part) for part in value)
        return next((part for part in parts if isinstance(part, Pending)), parts)
    return value


def without_guards(value: Any) -> Any:
    """Return what a function returned, with plain dicts and lists instead of parts of the config that it was shown."""
    if isinstance(value, PartialDict):
        return {key: without_guards(part) for key, part in value.items()}
    if isinstance(value, _PartialList):
        return [without_guards(part) for part in value]
    pairs = children(value)
    if pairs is None or all(type(part) in _SCALARS for _, part in pairs):
        return value
    parts = [without_guards(part) for _, part in pairs]
    return value if all(old is new for (_, old), new in zip(pairs, parts, strict=True)) else rebuild(value, parts)
