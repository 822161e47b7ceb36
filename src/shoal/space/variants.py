"""Expand a search space into the configs of trials, and check it."""

from __future__ import annotations

import inspect
import itertools
import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.rng import stream
from ..errors import ConfigError, SpaceError
from .containers import Path, Pending, Unresolved, children, copy_containers, key_name, path_text, rebuild
from .domains import Choice, Domain, Function, GridSearch, Range

__all__ = ["SpaceWarning", "Variant", "check_space", "expand", "holds_domains", "warn_if_reversed"]


class SpaceWarning(UserWarning):
    """A search space is accepted, but says something that its author can hardly mean."""


@dataclass(frozen=True)
class Variant:
    """The config of one trial."""

    config: dict[str, Any]
    sampled: dict[str, Any]
    """The values that were drawn or taken from a grid, by path: ``lr``, ``model/width``, ``layers/0``."""


def expand(
    space: Mapping[str, Any] | None, num_samples: int, seed: int, *, where: str = "param_space", check: bool = True
) -> list[Variant]:
    """Draw the configs of all trials.

    Every point of the grid (all :func:`grid_search` entries crossed, the first one turning fastest) is drawn
    ``num_samples`` times. Draws of different trials and of different keys are independent.

    Args:
        space: a dict with domains anywhere in its dicts, lists and tuples. Containers are rebuilt for each trial, all
            other constants are passed on as they are. None means an empty one.
        num_samples: how often the grid is repeated, 1 or more.
        seed: equal seeds give equal configs.
        where: what errors and warnings call the space.
        check: False if :func:`check_space` has seen the space already, to spare its warnings.

    Raises:
        SpaceError: the space is wrong, or a function of the user failed; the message names the key.
        ConfigError: ``num_samples`` is no positive integer.
    """
    if type(num_samples) is not int or num_samples < 1:
        raise ConfigError(f"num_samples is {num_samples!r}, but must be an integer, 1 or more. Give for example 4.")
    space = {} if space is None else space
    if check:
        check_space(space, where)
    plan = list(_find(space, (), where))
    grid = _grid_points(space, (), where)
    points = itertools.chain.from_iterable(itertools.repeat(grid, num_samples))
    return [_Drawing(space, plan, point, (seed, index), where).run() for index, point in enumerate(points)]


def check_space(space: Mapping[str, Any], where: str = "param_space") -> None:
    """Raise SpaceError if :func:`expand` could not expand ``space``, and warn of each key with reversed bounds."""
    if not isinstance(space, dict) or _marker(space) is not None:
        raise SpaceError(
            f"{where} is {space!r}, but must be a dict of names and domains or constants. "
            f"Write for example {{'lr': tune.loguniform(1e-4, 1e-1)}}."
        )
    names: list[object] = list(space)
    for key in names:
        if not isinstance(key, str):
            raise SpaceError(
                f"{where} has the key {key!r}, but the name of a hyperparameter is text. Write {str(key)!r}."
            )
    seen: dict[str, Path] = {}
    for path, _ in _find(space, (), where):
        other = seen.setdefault(path_text(path), path)
        if other != path:
            raise SpaceError(
                f"{key_name(where, path)} and {key_name(where, other)} are both {path_text(path)!r} in results. "
                f"Rename one."
            )
    _check_part(space, (), where, None, set())


def _check_part(part: Any, path: Path, where: str, choice_at: str | None, warned: set[str]) -> None:
    for inner, marker in _find(part, path, where):
        name = key_name(where, inner)
        if isinstance(marker, GridSearch) and choice_at is not None:
            raise SpaceError(
                f"{name}: grid_search is inside the choice of {choice_at}, so the number of trials would depend on "
                f"chance. Use grid_search for {choice_at} too, or choice for {name}."
            )
        if isinstance(marker, Domain) and name not in warned and warn_if_reversed(marker, name):
            warned.add(name)
        if isinstance(marker, (Choice, GridSearch)):
            options = marker.categories if isinstance(marker, Choice) else marker.values
            for option in options:
                _check_part(option, inner, where, name if isinstance(marker, Choice) else choice_at, warned)


def warn_if_reversed(domain: Domain, name: str) -> bool:
    """Warn that the bounds of the domain at key ``name`` are reversed, if they are; return whether they are."""
    if not isinstance(domain, Range) or not domain.reversed_bounds:
        return False
    frame, depth, package = inspect.currentframe(), 1, __name__.partition(".")[0]
    # The line that the user can correct is the nearest one outside of this package.
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == package:
        frame, depth = frame.f_back, depth + 1
    text = f"{name}: {domain.as_given} has its bounds reversed; sampled as {domain!r}"
    warnings.warn(text, SpaceWarning, stacklevel=depth)
    return True


class _Drawing:
    """Draws the config of one trial."""

    def __init__(
        self,
        space: Any,
        plan: list[tuple[Path, Domain | GridSearch]],
        grid: dict[Path, Any],
        key: tuple[int, int],
        where: str,
    ) -> None:
        self._space, self._grid, self._key, self._where = space, grid, key, where
        self._values: dict[Path, Any] = {}
        self._branches: dict[Path, Any] = {}
        """Drawn values that hold domains themselves."""
        self._pending: dict[Path, tuple[Function, int]] = {}
        """Functions not called yet, each with a seed."""
        self._asking: Path | None = None
        """Whose function is being called."""
        self._stems: set[Path] = set()
        """Where there is something to replace at, or below."""
        self._plan = plan

    def run(self) -> Variant:
        self._draw_all(self._plan)
        while self._pending:
            self._call_pending()
        sampled: dict[str, Any] = {}
        return Variant(self._build(self._space, (), sampled), sampled)

    def _draw_all(self, plan: list[tuple[Path, Domain | GridSearch]]) -> None:
        seed, index = self._key
        for path, marker in plan:
            self._stems.update(path[:length] for length in range(len(path) + 1))
            self._draw(path, marker, stream(seed, "sample", index, path_text(path)))

    def _draw(self, path: Path, value: Any, rng: random.Random) -> None:
        while (marker := _marker(value)) is not None:
            if isinstance(marker, Function):
                # A function that has to wait is called again, and then must draw the same numbers.
                self._pending[path] = (marker, rng.getrandbits(128))
                return
            if isinstance(marker, GridSearch) and path not in self._grid:
                raise SpaceError(
                    f"{key_name(self._where, path)}: a function returned {marker!r}, too late to change the number of "
                    f"trials. Return a domain such as tune.choice, or a value."
                )
            value = self._grid[path] if isinstance(marker, GridSearch) else marker.sample(rng)
        inner = list(_find(value, path, self._where))
        (self._branches if inner else self._values)[path] = value
        self._draw_all(inner)

    def _call_pending(self) -> None:
        waits: dict[Path, Path] = {}
        asked = list(self._pending.items())
        for path, (function, seed) in asked:
            rng, self._asking = random.Random(seed), path
            try:
                config: dict[str, Any] = self._build(self._space, (), {}) if function.takes else {}
                value = function.sample(rng, config, key_name(self._where, path))
            except Unresolved as needed:
                waits[path] = needed.path
                continue
            del self._pending[path]
            self._draw(path, value, rng)
        if len(waits) == len(asked):
            first, other = next(iter(waits.items()))
            raise SpaceError(
                f"{key_name(self._where, first)}: its function needs {key_name('config', other)}, which waits for a "
                f"function itself, and none can be called before the others: "
                f"{', '.join(f'{path_text(a)} needs {path_text(b)}' for a, b in waits.items())}. Break the circle."
            )

    def _build(self, value: Any, path: Path, sampled: dict[str, Any], inside: bool = False) -> Any:
        """Return ``value`` with what was drawn in it, noted in ``sampled``; ``inside`` a drawn branch all is noted."""
        if path in self._values:
            sampled[path_text(path)] = self._values[path]
            return self._values[path]
        if path in self._pending:
            return Pending(path, path == self._asking)
        if path in self._branches:
            value, inside = self._branches[path], True
        if not inside and path not in self._stems:
            return copy_containers(value)
        pairs = children(value)
        if pairs is None:
            sampled[path_text(path)] = value
            return value
        return rebuild(value, [self._build(part, (*path, key), sampled, inside) for key, part in pairs])


# ---- Finding domains in a space --------------------------------------------------------------------------------------


def _marker(value: Any) -> Domain | GridSearch | None:
    """Return the domain or grid that ``value`` is, Ray's dict form included, or None."""
    if isinstance(value, (Domain, GridSearch)):
        return value
    entry: Any = value
    is_grid = isinstance(value, dict) and len(entry) == 1 and "grid_search" in entry
    return GridSearch(entry["grid_search"]) if is_grid else None


def _find(
    value: Any, path: Path, where: str, above: tuple[int, ...] = ()
) -> Iterator[tuple[Path, Domain | GridSearch]]:
    """Yield all domains and grids in ``value``, without looking into their options."""
    try:
        marker = _marker(value)
    except SpaceError as error:
        raise SpaceError(f"{key_name(where, path)}: {error}") from None
    if marker is not None:
        yield path, marker
        return
    inner = children(value)
    if inner is None:
        if type(value).__module__.startswith("ray.tune.search"):
            raise SpaceError(
                f"{key_name(where, path)} is {value!r} of Ray Tune. Take the function of the same name from shoal.tune."
            )
        return
    if id(value) in above:
        raise SpaceError(f"{key_name(where, path)} contains itself. Give containers that end.")
    for key, part in inner:
        yield from _find(part, (*path, key), where, (*above, id(value)))


def is_domain(value: Any) -> bool:
    """Return whether ``value`` is a domain or a grid."""
    return _marker(value) is not None


def holds_domains(value: Any) -> bool:
    """Return whether ``value`` is, or has somewhere in its containers, a domain or a grid."""
    return next(_find(value, (), "value"), None) is not None


def log_keys(space: Mapping[str, Any]) -> list[str]:
    """Return the keys, nested ones as ``a/b``, whose values are drawn on a logarithmic scale."""
    return [path_text(path) for path, domain in _find(dict(space), (), "space") if getattr(domain, "log", False)]


def constants(space: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a space that is the same in every config: what is no domain and holds none."""
    found: dict[str, Any] = {}
    for key, value in space.items():
        if not holds_domains(value):
            found[key] = value
        elif isinstance(value, dict) and _marker(value) is None:
            found[key] = constants(value)
    return found


def _grid_points(value: Any, path: Path, where: str) -> list[dict[Path, Any]]:
    """Return all choices of one value for each grid, grids inside of grids included; one empty choice without any."""
    axes: list[list[dict[Path, Any]]] = []
    for inner, marker in _find(value, path, where):
        if isinstance(marker, GridSearch):
            axes.append([{inner: v, **below} for v in marker.values for below in _grid_points(v, inner, where)])
    # product() turns the last axis fastest, Ray Tune the first.
    points = itertools.product(*reversed(axes))
    return [{path: value for axis in reversed(point) for path, value in axis.items()} for point in points]
