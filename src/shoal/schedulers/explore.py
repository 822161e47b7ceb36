"""Explore: how a member's hyperparameters change after it has copied a better one.

Source: Jaderberg et al. 2017, arXiv:1711.09846 ("explore": perturb or resample). Names and defaults are those of Ray
Tune's ``PopulationBasedTraining``.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeGuard, cast

from ..core.rng import stream
from ..errors import SpaceError
from ..space import (
    Choice,
    Domain,
    Function,
    GridSearch,
    choice,
    copy_containers,
    holds_domains,
    key_name,
    sample_from,
    seeded_globals,
    warn_if_reversed,
)

__all__ = ["Mutations", "Streams", "explore", "fill", "parse_mutations"]

Streams: TypeAlias = random.Random | Callable[[str], random.Random]
"""Where randomness comes from: a generator, from which one for each key is derived, or a function of the key's path."""

_ALLOWED = (
    "a domain such as tune.uniform(0, 1), a list of values, a function that returns a value, or a dict of at least one "
    "of these"
)
_MISSING = object()
_Path: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Mutations:
    """What may mutate: ``hyperparam_mutations``, checked, with lists as choices and functions as domains."""

    entries: Mapping[str, Domain | Mutations] = field(default_factory=dict[str, "Domain | Mutations"])

    def flat(self, prefix: str = "") -> dict[str, Domain]:
        """Return the domains by path: ``lr``, ``model/width``."""
        found: dict[str, Domain] = {}
        for key, entry in self.entries.items():
            found.update({prefix + key: entry} if isinstance(entry, Domain) else entry.flat(f"{prefix}{key}/"))
        return found


def parse_mutations(hyperparam_mutations: Mapping[str, Any] | None, where: str = "hyperparam_mutations") -> Mutations:
    """Check ``hyperparam_mutations`` and return what they mean. None, or an empty dict, means that nothing mutates.

    Warns (:class:`~shoal.space.SpaceWarning`) of each key whose bounds are reversed.

    Args:
        hyperparam_mutations: for each name a domain, a list or tuple of values, a function that returns a value (its
            argument, if it has one, as :func:`~shoal.space.sample_from` says), or a dict of these.
        where: what errors and warnings call it.

    Raises:
        SpaceError: an entry is none of these, or empty; the message names the key.
    """
    if hyperparam_mutations is None:
        return Mutations()
    if not _is_mapping(hyperparam_mutations):
        raise SpaceError(
            f"{where} is {hyperparam_mutations!r}, but must be a dict. Write for example {{'lr': tune.uniform(0, 1)}}."
        )
    return _parse_dict(hyperparam_mutations, where, ())


def _parse_dict(entries: Mapping[Any, Any], where: str, path: tuple[Any, ...]) -> Mutations:
    parsed: dict[str, Domain | Mutations] = {}
    for key, entry in entries.items():
        if not isinstance(key, str):
            raise SpaceError(f"{key_name(where, path)} has the key {key!r}, but a name is text. Write {str(key)!r}.")
        parsed[key] = _parse_entry(entry, where, (*path, key))
    return Mutations(parsed)


def _parse_entry(entry: object, where: str, path: tuple[Any, ...]) -> Domain | Mutations:
    name = key_name(where, path)
    if isinstance(entry, GridSearch) or (_is_mapping(entry) and list(entry) == ["grid_search"]):
        raise SpaceError(f"{name} is a grid_search, but a mutation draws. Give {_ALLOWED}.")
    if _is_mapping(entry):
        if not entry:
            raise SpaceError(f"{name} is an empty dict, so nothing says what may change. Give {_ALLOWED}.")
        return _parse_dict(entry, where, path)
    try:
        domain = _parse_domain(entry)
    except SpaceError as error:
        raise SpaceError(f"{name}: {error}") from None
    if domain is None:
        raise SpaceError(f"{name} is {entry!r} of type {type(entry).__name__}, but must be {_ALLOWED}.")
    if isinstance(domain, Choice) and any(map(holds_domains, domain.categories)):
        raise SpaceError(f"{name} is a list with domains in it, but a mutation moves among values. Give values only.")
    warn_if_reversed(domain, name)
    return domain


def _is_mapping(entry: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(entry, Mapping)


def _is_list(entry: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(entry, (list, tuple))


def _parse_domain(entry: object) -> Domain | None:
    if isinstance(entry, Domain):
        return entry
    if _is_list(entry):
        return choice(entry)
    return sample_from(entry) if callable(entry) else None


def fill(config: dict[str, Any], mutations: Mutations, rng: Streams) -> dict[str, Any]:
    """Return ``config`` with a value for every key of ``mutations``, drawn where there was none.

    Args:
        config: stays as it is. Dicts that change are copied, everything else is the same object in the result.
        mutations: as :func:`parse_mutations` returns them.
        rng: where randomness comes from; each key has a stream of its own, so new keys do not shift the others.

    Raises:
        SpaceError: the config holds no dict where ``mutations`` have one, or a function failed.
    """
    return _Change(_streams(rng)).apply(config, mutations)


def explore(
    config: dict[str, Any],
    mutations: Mutations,
    *,
    rng: Streams,
    resample_probability: float = 0.25,
    perturbation_factors: Sequence[float] = (1.2, 0.8),
    custom_explore_fn: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    keep_in_bounds: bool = True,
) -> dict[str, Any]:
    """Return a config near ``config``.

    Each key of ``mutations`` is drawn anew with ``resample_probability``. Else a list moves to a neighbour, and a
    number is multiplied by one of ``perturbation_factors`` and keeps the type, the grid and (unlike in Ray Tune) the
    bounds of its domain. What a function returns has no bounds: a number keeps the type of a fresh sample, and
    anything else becomes that sample.

    Args:
        config: stays as it is. Dicts that change are copied, everything else is the same object in the result.
        mutations: as :func:`parse_mutations` returns them. A key that the config lacks is drawn.
        rng: where randomness comes from; each key has a stream of its own, so new keys do not shift the others.
        resample_probability: 0 to 1.
        perturbation_factors: above 0; one of them is drawn evenly for each key.
        custom_explore_fn: called last, with a copy of the result that it may change; returns the config. Python's and
            NumPy's global generators are seeded around the call.
        keep_in_bounds: False lets products leave the bounds of their domain, as Ray Tune does.

    Raises:
        SpaceError: the config holds no dict where ``mutations`` have one, or a function failed or returned no config.
    """
    streams = _streams(rng)
    new = _Explore(streams, resample_probability, tuple(perturbation_factors), keep_in_bounds).apply(config, mutations)
    if custom_explore_fn is None:
        return new
    with seeded_globals(streams("custom_explore_fn()")):
        return _call_custom(custom_explore_fn, copy_containers(new))


def _streams(rng: Streams) -> Callable[[str], random.Random]:
    if not isinstance(rng, random.Random):
        return rng
    base = rng.getrandbits(64)
    return lambda path: stream(base, path)


_Later: TypeAlias = tuple[dict[str, Any], str, _Path, Function]
"""A function to call: the dict and the key that its value is for, its path, and itself."""


@dataclass(frozen=True)
class _Change:
    """Walks a config along the mutations. As it stands, it only draws what is missing."""

    streams: Callable[[str], random.Random]

    def apply(self, config: dict[str, Any], mutations: Mutations) -> dict[str, Any]:
        later: list[_Later] = []
        new = self._walk(config, mutations, (), later)
        # Functions may read the config, so they come last and see the new values of all others.
        for part, key, path, function in later:
            shown: dict[str, Any] = copy_containers(new) if function.takes else {}
            part[key] = self._call(function, part.get(key, _MISSING), shown, path)
        return new

    def _walk(self, config: dict[str, Any], mutations: Mutations, path: _Path, later: list[_Later]) -> dict[str, Any]:
        new = copy.copy(config)
        for key, entry in mutations.entries.items():
            inner = (*path, key)
            if isinstance(entry, Mutations):
                part: Any = config.get(key, {})
                if not isinstance(part, dict):
                    raise SpaceError(
                        f"{key_name('config', inner)} is {part!r}, but {key_name('hyperparam_mutations', inner)} is a "
                        f"dict. Make both dicts, or neither."
                    )
                new[key] = self._walk(cast("dict[str, Any]", part), entry, inner, later)
            elif isinstance(entry, Function):
                later.append((new, key, inner, entry))
            else:
                new[key] = self._move(entry, config.get(key, _MISSING), inner)
        return new

    def _move(self, domain: Domain, value: Any, path: _Path) -> Any:
        return domain.sample(self._stream(path)) if value is _MISSING else value

    def _call(self, function: Function, value: Any, config: dict[str, Any], path: _Path) -> Any:
        return _fresh(function, self._stream(path), config, path) if value is _MISSING else value

    def _stream(self, path: _Path) -> random.Random:
        return self.streams("/".join(path))


@dataclass(frozen=True)
class _Explore(_Change):
    resample_probability: float
    factors: tuple[float, ...]
    keep_in_bounds: bool

    def _move(self, domain: Domain, value: Any, path: _Path) -> Any:
        rng = self._stream(path)
        resample, factor = self._draw(rng)
        if value is _MISSING or resample:
            return domain.sample(rng)
        return domain.perturb(value, factor, rng, clamp=self.keep_in_bounds)

    def _call(self, function: Function, value: Any, config: dict[str, Any], path: _Path) -> Any:
        rng = self._stream(path)
        resample, factor = self._draw(rng)
        fresh = _fresh(function, rng, config, path)
        return fresh if value is _MISSING or resample else function.perturb_like(fresh, value, factor)

    def _draw(self, rng: random.Random) -> tuple[bool, float]:
        resample = rng.random() < self.resample_probability
        return resample, self.factors[int(rng.random() * len(self.factors))]


def _fresh(function: Function, rng: random.Random, config: dict[str, Any], path: _Path) -> Any:
    name = key_name("hyperparam_mutations", path)
    value = function.sample(rng, config, name)
    if holds_domains(value):
        raise SpaceError(f"{name}: {function!r} returned {value!r}, but must return a value. Give the domain itself.")
    return value


def _call_custom(function: Callable[[dict[str, Any]], Any], config: dict[str, Any]) -> dict[str, Any]:
    name = f"custom_explore_fn {getattr(function, '__qualname__', None) or repr(function)}"
    try:
        result = function(config)
    except Exception as error:
        raise SpaceError(f"{name} raised {type(error).__name__}: {error}. Correct the function.") from error
    if not isinstance(result, dict):
        hint = "Did you forget to return config?" if result is None else "Return the config, changed or not."
        raise SpaceError(f"{name} returned {result!r} of type {type(result).__name__}, but must return a dict. {hint}")
    return cast("dict[str, Any]", result)
