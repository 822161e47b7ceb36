"""The search space: what values a hyperparameter may take, and how it moves among them.

A *domain* draws values, knows which values belong to it, and perturbs a value without leaving. The functions here carry
Ray Tune's names and signatures (``uniform``, ``randint``, ``choice``, ...). The type of a value comes from its domain:
an integer domain gives and keeps ``int``, a continuous one ``float``, and :func:`choice` hands out its very entries.

:func:`expand` turns a ``param_space`` into configs. It is a pure function of its arguments: each key draws from a
stream of its own, so adding a key, or drawing more samples, leaves the other draws as they were.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import numbers
import random
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from statistics import NormalDist
from typing import Any, ClassVar, NoReturn, TypeAlias

from .core.rng import stream
from .errors import ConfigError, SpaceError

__all__ = [
    "Choice",
    "Domain",
    "Float",
    "Function",
    "GridSearch",
    "Integer",
    "Normal",
    "SpaceWarning",
    "Variant",
    "check_space",
    "choice",
    "copy_containers",
    "expand",
    "grid_search",
    "key_name",
    "lograndint",
    "loguniform",
    "qlograndint",
    "qloguniform",
    "qrandint",
    "qrandn",
    "quniform",
    "randint",
    "randn",
    "sample_from",
    "seeded_globals",
    "uniform",
    "warn_if_reversed",
]

Path: TypeAlias = tuple[Any, ...]

_LIMIT = 1e300
"""No bound and no perturbed value is larger, so products and steps never overflow a float."""
_HUGE = 10**301
"""Stands for no end of a grid."""


class SpaceWarning(UserWarning):
    """A search space is accepted, but says something that its author can hardly mean."""


class Domain(ABC):
    """A set of values for one hyperparameter. Immutable, comparable, and picklable."""

    reversed_bounds: bool = False
    """Whether the bounds were given upper first. They are stored as the interval they mean."""

    @abstractmethod
    def sample(self, rng: random.Random) -> Any:
        """Draw a value."""

    @abstractmethod
    def contains(self, value: object) -> bool:
        """Return whether ``value`` could have been drawn: of the domain's type, inside its bounds, on its grid."""

    @abstractmethod
    def perturb(self, value: object, factor: float, rng: random.Random, *, clamp: bool = True) -> Any:
        """Return a value near ``value``.

        Numbers are multiplied by ``factor`` (Jaderberg et al. 2017, arXiv:1711.09846, section 4.1: 1.2 or 0.8). Integers
        and quantised numbers move at least one step towards the product. What no factor can move (0, NaN, infinity, a
        bool, no number at all) is drawn anew. A choice moves to a neighbour and takes no notice of ``factor``.

        Args:
            value: the current value; need not belong to the domain.
            factor: what numbers are multiplied by, above 0.
            rng: where randomness comes from.
            clamp: whether the product is brought back inside the bounds. Without it values keep their type and grid only.
        """

    @abstractmethod
    def encode(self, value: object) -> float:
        """Return the place of ``value`` in the domain, from 0 to 1, on the domain's own scale (linear or logarithmic).

        Raises:
            SpaceError: the value has no place here, for example text in a range of numbers.
        """

    @abstractmethod
    def decode(self, place: float) -> Any:
        """Return the value at ``place``, from 0 to 1: the inverse of :meth:`encode`. Always in the domain."""


@dataclass(frozen=True)
class _Grid:
    """The multiples ``first * q`` to ``last * q``."""

    q: float
    step: Fraction
    """``q`` as it was written: 1/10 for 0.1, which no float is."""
    whole: bool
    """Whether the multiples are ints."""
    first: int
    last: int

    def value(self, k: int) -> Any:
        # Division of ints rounds only once, so multiples of 0.1 are 0.3 and 0.7, as written, and never past a bound.
        return k * self.step.numerator if self.whole else k * self.step.numerator / self.step.denominator

    def nearest(self, number: float) -> int:
        return min(max(round(number / self.q), self.first), self.last)

    def holds(self, number: float) -> bool:
        if self.whole:
            k, rest = divmod(number, self.step.numerator)
            return isinstance(number, int) and rest == 0 and self.first <= k <= self.last
        return math.isclose(number, self.value(self.nearest(number)), rel_tol=1e-12, abs_tol=1e-9 * self.q)


@dataclass(frozen=True, repr=False)
class _Range(Domain):
    """Numbers between two bounds, all of them or the multiples of ``q``, even on a linear or a logarithmic scale."""

    _name: ClassVar[str]
    lower: float
    upper: float
    q: float | None = None
    log: bool = False
    base: float = 10.0
    reversed_bounds: bool = field(default=False, init=False, compare=False)
    _grid: _Grid | None = field(default=None, init=False, compare=False)

    def __post_init__(self) -> None:
        text = self._text(self.lower, self.upper)
        lower, upper = self._bound(text, "lower", self.lower), self._bound(text, "upper", self.upper)
        if self.log:
            _check_log(text, min(lower, upper), self.base)
        _store(self, reversed_bounds=lower > upper, lower=min(lower, upper), upper=max(lower, upper))
        _store(self, _grid=self._make_grid(text))
        if self.q is not None and self._grid is not None:
            _store(self, q=self._grid.q)

    @abstractmethod
    def _bound(self, text: str, name: str, value: Any) -> float: ...

    @abstractmethod
    def _make_grid(self, text: str) -> _Grid | None: ...

    def _text(self, lower: float, upper: float) -> str:
        name = ("" if self.q is None else "q") + ("log" if self.log else "") + self._name
        return _call_text(name, lower, upper, self.q, self.base)

    def __repr__(self) -> str:
        return self._text(self.lower, self.upper)

    @property
    def as_given(self) -> str:
        """How the call was written, bounds reversed or not."""
        return self._text(self.upper, self.lower) if self.reversed_bounds else repr(self)

    def sample(self, rng: random.Random) -> Any:
        """Draw a number. On a grid every value weighs the same on the domain's scale, the ends too."""
        grid = self._grid
        if grid is None:
            return self.decode(rng.random())
        if not self.log:
            return grid.value(rng.randint(grid.first, grid.last))
        # Each value stands for the cell around it, so that on a log scale k weighs about 1 / k.
        cell = rng.uniform(math.log((grid.first - 0.5) * grid.q), math.log((grid.last + 0.5) * grid.q))
        return grid.value(grid.nearest(math.exp(cell)))

    def perturb(self, value: object, factor: float, rng: random.Random, *, clamp: bool = True) -> Any:
        """Multiply ``value``, on a grid by at least one step; see :meth:`Domain.perturb`."""
        number = _number(value)
        if not number:
            return self.sample(rng)
        target = _product(number, factor)
        grid = self._grid
        if grid is None:
            return min(max(target, self.lower), self.upper) if clamp else target
        step = _moved(number, target, grid.q)
        return grid.value(min(max(step, grid.first), grid.last) if clamp else step)

    def encode(self, value: object) -> float:
        """Return the place between the lowest and the highest value; what lies outside is at the nearer end."""
        number = _placeable(self, value)
        low, high = self._ends()
        number = min(max(number, low), high)
        if low == high:
            return 0.0
        if self.log:
            return (math.log(number) - math.log(low)) / (math.log(high) - math.log(low))
        return (number - low) / (high - low)

    def decode(self, place: float) -> Any:
        """Return the value at ``place``, or on a grid the nearest."""
        place = min(max(place, 0.0), 1.0)
        low, high = self._ends()
        if self.log:
            value = math.exp(math.log(low) * (1 - place) + math.log(high) * place)
        else:
            value = low * (1 - place) + high * place
        return min(max(value, low), high) if self._grid is None else self._grid.value(self._grid.nearest(value))

    def _ends(self) -> tuple[float, float]:
        grid = self._grid
        return (self.lower, self.upper) if grid is None else (grid.value(grid.first), grid.value(grid.last))


class Float(_Range):
    """A range of floats, both bounds included; with ``q``, the multiples of ``q`` among them."""

    _name = "uniform"

    def _bound(self, text: str, name: str, value: Any) -> float:
        return _finite(text, name, value)

    def _make_grid(self, text: str) -> _Grid | None:
        return None if self.q is None else _float_grid(text, self.q, self.lower, self.upper)

    def contains(self, value: object) -> bool:
        """Return whether ``value`` is a number inside the bounds; on a grid, up to rounding errors."""
        number = _number(value)
        if number is None or not self.lower <= number <= self.upper:
            return False
        return self._grid is None or self._grid.holds(number)


class Integer(_Range):
    """A range of integers. ``upper`` is excluded without ``q`` and included with it, as Ray Tune has it."""

    _name = "randint"

    def _bound(self, text: str, name: str, value: Any) -> float:
        return _whole(text, name, value)

    def _make_grid(self, text: str) -> _Grid:
        return _integer_grid(text, self.q, int(self.lower), int(self.upper))

    def contains(self, value: object) -> bool:
        """Return whether ``value`` is an integer (no float such as 3.0, no bool) inside the bounds and on the grid."""
        number = _number(value)
        return isinstance(number, int) and self._grid is not None and self._grid.holds(number)


@dataclass(frozen=True, repr=False)
class Normal(Domain):
    """Floats with a normal distribution, without bounds; with ``q``, rounded to multiples of ``q``."""

    mean: float = 0.0
    sd: float = 1.0
    q: float | None = None
    _grid: _Grid | None = field(default=None, init=False, compare=False)

    def __post_init__(self) -> None:
        text = repr(self)
        _store(self, mean=_finite(text, "mean", self.mean), sd=_finite(text, "sd", self.sd))
        if self.sd <= 0:
            raise SpaceError(f"{text}: sd is {self.sd!r}, but a standard deviation is above 0. Give one, such as 1.0.")
        if self.q is not None:
            q = _finite(text, "q", self.q)
            _check_q(text, q, abs(self.mean) + self.sd)
            _store(self, q=q, _grid=_Grid(q, _exact(q), False, -_HUGE, _HUGE))

    def __repr__(self) -> str:
        return _call_text("randn" if self.q is None else "qrandn", self.mean, self.sd, self.q)

    def sample(self, rng: random.Random) -> float:
        """Draw a float."""
        return self._rounded(rng.normalvariate(self.mean, self.sd))

    def contains(self, value: object) -> bool:
        """Return whether ``value`` is a finite number; on a grid, up to rounding errors."""
        number = _number(value)
        return number is not None and (self._grid is None or self._grid.holds(number))

    def perturb(self, value: object, factor: float, rng: random.Random, *, clamp: bool = True) -> float:
        """Multiply ``value``; there are no bounds to keep. See :meth:`Domain.perturb`."""
        number = _number(value)
        if not number:
            return self.sample(rng)
        target = _product(number, factor)
        return target if self._grid is None else self._grid.value(_moved(number, target, self._grid.q))

    def encode(self, value: object) -> float:
        """Return the share of draws that are below ``value``."""
        return NormalDist(self.mean, self.sd).cdf(_placeable(self, value))

    def decode(self, place: float) -> float:
        """Return the value that a share ``place`` of draws is below; the ends stand for one draw in 10^12."""
        return self._rounded(NormalDist(self.mean, self.sd).inv_cdf(min(max(place, 1e-12), 1 - 1e-12)))

    def _rounded(self, value: float) -> float:
        return value if self._grid is None else self._grid.value(self._grid.nearest(value))


@dataclass(frozen=True, repr=False, eq=False)
class Choice(Domain):
    """Some values in a given order, handed out as they are: None, bools, NumPy scalars, any object."""

    categories: tuple[Any, ...]

    def __post_init__(self) -> None:
        _store(self, categories=_entries("choice", self.categories))

    def __repr__(self) -> str:
        return f"choice({list(self.categories)!r})"

    def __eq__(self, other: object) -> bool:
        return _same(self.categories, other.categories) if isinstance(other, Choice) else NotImplemented

    def __hash__(self) -> int:
        # Entries may be unhashable, but equal entries have equal types.
        return hash(tuple(type(entry) for entry in self.categories))

    def sample(self, rng: random.Random) -> Any:
        """Draw one of the entries, each as likely as the others."""
        return self.categories[int(rng.random() * len(self.categories))]

    def contains(self, value: object) -> bool:
        """Return whether ``value`` equals an entry of the same type: 1, 1.0 and True are three different entries."""
        return self._index(value) is not None

    def perturb(self, value: object, factor: float, rng: random.Random, *, clamp: bool = True) -> Any:
        """Move one place left or right, evenly; at an end half of the moves stay. An unknown value is drawn anew."""
        index = self._index(value)
        if index is None:
            return self.sample(rng)
        index += 1 if rng.random() < 0.5 else -1
        return self.categories[min(max(index, 0), len(self.categories) - 1)]

    def encode(self, value: object) -> float:
        """Return the entry's place in the list; a single entry is at 0."""
        index = self._index(value)
        if index is None:
            raise SpaceError(f"{value!r} is not in {self!r}, so it has no place there. Give one of its entries.")
        return index / max(len(self.categories) - 1, 1)

    def decode(self, place: float) -> Any:
        """Return the entry nearest to ``place``."""
        return self.categories[round(min(max(place, 0.0), 1.0) * (len(self.categories) - 1))]

    def _index(self, value: object) -> int | None:
        for index, entry in enumerate(self.categories):
            if entry is value or _same(entry, value):
                return index
        return None


@dataclass(frozen=True, repr=False)
class Function(Domain):
    """Whatever a user's function returns: nothing is known of it before it is called.

    The function takes no argument, or one: an argument named ``spec`` is an object with the config in ``spec.config``,
    any other is the config itself. Python's and NumPy's global generators are seeded around the call, and put back.
    """

    func: Callable[..., Any]
    takes: str = field(default="", init=False, compare=False)
    """``spec``, ``config``, or an empty text for nothing."""

    def __post_init__(self) -> None:
        if not callable(self.func) or isinstance(self.func, Domain):
            raise SpaceError(f"sample_from takes a function, but got {self.func!r}. Write sample_from(lambda: ...).")
        _store(self, takes=_argument(self.func))

    def __repr__(self) -> str:
        return f"sample_from({getattr(self.func, '__qualname__', None) or repr(self.func)})"

    def sample(self, rng: random.Random, config: dict[str, Any] | None = None, where: str = "") -> Any:
        """Call the function.

        Args:
            rng: seeds the global generators during the call.
            config: what a function with an argument is given. Default: an empty dict.
            where: the key that errors name.

        Raises:
            SpaceError: the function raised an error, which is chained.
        """
        shown = _PartialDict(config or {})
        arguments = {"": (), "config": (shown,), "spec": (_PartialDict({"config": shown}),)}[self.takes]
        try:
            with seeded_globals(rng):
                return _plain(self.func(*arguments))
        except _Unresolved:
            raise
        except Exception as error:
            raise SpaceError(
                f"{where + ': ' if where else ''}{self!r} raised {type(error).__name__}: {error}. It is called with "
                f"{ {'': 'no argument', 'config': 'the config', 'spec': 'spec (the config is spec.config)'}[self.takes] }; "
                f"its keys so far: {', '.join(map(repr, config or {})) or 'none'}. Correct the function."
            ) from error

    def contains(self, value: object) -> bool:
        """Return True: nobody knows what the function may return."""
        return True

    def perturb(self, value: object, factor: float, rng: random.Random, *, clamp: bool = True) -> Any:
        """Move ``value`` as the type of a fresh sample says; see :meth:`perturb_like`."""
        return self.perturb_like(self.sample(rng), value, factor)

    @staticmethod
    def perturb_like(fresh: Any, value: object, factor: float) -> Any:
        """Return ``value`` times ``factor`` in the type of ``fresh``, an int at least 1 away; else ``fresh`` itself."""
        number = _number(value)
        if not number or isinstance(fresh, bool) or not isinstance(fresh, numbers.Real):
            return fresh
        target = _product(number, factor)
        try:
            # A fresh sample may be of a narrow or an odd type (numpy.int8, an enum) that does not hold the product.
            moved: Any = _moved(number, target, 1) if isinstance(fresh, numbers.Integral) else target
            result: Any = type(fresh)(moved)
            return result if math.isfinite(result) else fresh
        except (TypeError, ValueError, ArithmeticError):
            return fresh

    def encode(self, value: object) -> float:
        """Raise SpaceError: a function has no scale."""
        raise SpaceError(f"{self!r} has no scale to place {value!r} on. Use a domain such as tune.uniform(0, 1).")

    def decode(self, place: float) -> NoReturn:
        """Raise SpaceError: a function has no scale."""
        raise SpaceError(f"{self!r} has no scale to read {place!r} from. Use a domain such as tune.uniform(0, 1).")


@dataclass(frozen=True, repr=False, eq=False)
class GridSearch:
    """All of some values, each in a trial of its own. A mark in a search space, not a domain: it has no chance in it."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        _store(self, values=_entries("grid_search", self.values))

    def __repr__(self) -> str:
        return f"grid_search({list(self.values)!r})"

    def __eq__(self, other: object) -> bool:
        return _same(self.values, other.values) if isinstance(other, GridSearch) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(type(entry) for entry in self.values))


# ---- The names that Ray Tune knows -----------------------------------------------------------------------------------


def uniform(lower: float, upper: float) -> Float:
    """Return the floats from ``lower`` to ``upper``, all as likely."""
    return Float(lower, upper)


def quniform(lower: float, upper: float, q: float) -> Float:
    """Return the multiples of ``q`` from ``lower`` to ``upper``, all as likely."""
    return Float(lower, upper, q)


def loguniform(lower: float, upper: float, base: float = 10) -> Float:
    """Return the floats from ``lower`` to ``upper``, both above 0, even on a log scale; ``base`` changes no draw."""
    return Float(lower, upper, log=True, base=base)


def qloguniform(lower: float, upper: float, q: float, base: float = 10) -> Float:
    """Return the multiples of ``q`` from ``lower`` to ``upper``, both above 0, even on a log scale."""
    return Float(lower, upper, q, log=True, base=base)


def randn(mean: float = 0.0, sd: float = 1.0) -> Normal:
    """Return normally distributed floats with mean ``mean`` and standard deviation ``sd``, without bounds."""
    return Normal(mean, sd)


def qrandn(mean: float, sd: float, q: float) -> Normal:
    """Return normally distributed floats rounded to multiples of ``q``, without bounds."""
    return Normal(mean, sd, q)


def randint(lower: int, upper: int) -> Integer:
    """Return the integers from ``lower`` to ``upper - 1``, all as likely."""
    return Integer(lower, upper)


def qrandint(lower: int, upper: int, q: int = 1) -> Integer:
    """Return the integer multiples of ``q`` from ``lower`` to ``upper``, both included, all as likely."""
    return Integer(lower, upper, q)


def lograndint(lower: int, upper: int, base: float = 10) -> Integer:
    """Return the integers from ``lower`` (1 or more) to ``upper - 1``, even on a log scale; ``base`` changes no draw."""
    return Integer(lower, upper, log=True, base=base)


def qlograndint(lower: int, upper: int, q: int, base: float = 10) -> Integer:
    """Return the integer multiples of ``q`` from ``lower`` to ``upper``, both above 0 and included, even on a log scale."""
    return Integer(lower, upper, q, log=True, base=base)


def choice(categories: Sequence[Any]) -> Choice:
    """Return some values in their order, all as likely. An entry may hold domains: a conditional part of the space."""
    return Choice(categories)  # pyright: ignore[reportArgumentType]


def sample_from(func: Callable[..., Any]) -> Function:
    """Return what ``func()``, ``func(config)`` or ``func(spec)`` returns; it may use keys drawn before it.

    The argument's name decides: ``spec`` is given an object whose ``config`` has the values as attributes and as items,
    any other name the config itself. These keys are drawn after the plain ones, and in any order they need.
    """
    return Function(func)


def grid_search(values: Sequence[Any]) -> GridSearch:
    """Return a mark that every one of ``values`` is tried, ``num_samples`` times. The dict form of Ray works as well."""
    return GridSearch(values)  # pyright: ignore[reportArgumentType]


# ---- Expanding a search space ----------------------------------------------------------------------------------------


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
    for key in space:
        if not isinstance(key, str):
            raise SpaceError(
                f"{where} has the key {key!r}, but the name of a hyperparameter is text. Write {str(key)!r}."
            )
    seen: dict[str, Path] = {}
    for path, _ in _find(space, (), where):
        if seen.setdefault(_text(path), path) != path:
            raise SpaceError(
                f"{key_name(where, path)} and {key_name(where, seen[_text(path)])} are both written {_text(path)!r} in "
                f"results. Rename one."
            )
    _check_part(space, (), where, None, set())


def _check_part(part: Any, path: Path, where: str, choice_at: str | None, warned: set[str]) -> None:
    for inner, marker in _find(part, path, where):
        name = key_name(where, inner)
        if isinstance(marker, GridSearch) and choice_at is not None:
            raise SpaceError(
                f"{name}: grid_search is inside the choice of {choice_at}, so the number of trials would depend on chance. "
                f"Use grid_search for {choice_at} too, or choice for {name}."
            )
        if isinstance(marker, Domain) and name not in warned and warn_if_reversed(marker, name):
            warned.add(name)
        if isinstance(marker, (Choice, GridSearch)):
            options = marker.categories if isinstance(marker, Choice) else marker.values
            for option in options:
                _check_part(option, inner, where, name if isinstance(marker, Choice) else choice_at, warned)


def warn_if_reversed(domain: Domain, name: str) -> bool:
    """Warn that the bounds of the domain at key ``name`` are reversed, if they are; return whether they are."""
    if not isinstance(domain, _Range) or not domain.reversed_bounds:
        return False
    frame, depth, package = inspect.currentframe(), 1, __name__.partition(".")[0]
    # The line that the user can correct is the nearest one outside of this package.
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == package:
        frame, depth = frame.f_back, depth + 1
    text = f"{name}: {domain.as_given} has its bounds reversed; sampled as {domain!r}"
    warnings.warn(text, SpaceWarning, stacklevel=depth - 1)
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
            self._draw(path, marker, stream(seed, "sample", index, _text(path)))

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
        for path, (function, seed) in list(self._pending.items()):
            rng = random.Random(seed)
            try:
                config = self._build(self._space, (), {}) if function.takes else {}
                value = function.sample(rng, config, key_name(self._where, path))
            except _Unresolved as needed:
                waits[path] = needed.path
                continue
            del self._pending[path]
            self._draw(path, value, rng)
        if waits and set(waits) == set(self._pending) and len(waits) == len(self._pending):
            self._raise_if_stuck(waits)

    def _build(self, value: Any, path: Path, sampled: dict[str, Any], inside: bool = False) -> Any:
        """Return ``value`` with what was drawn in it, and note that in ``sampled``; ``inside`` a branch all is noted."""
        if path in self._values:
            sampled[_text(path)] = self._values[path]
            return self._values[path]
        if path in self._pending:
            return _Pending(path)
        if path in self._branches:
            value, inside = self._branches[path], True
        if not inside and path not in self._stems:
            return copy_containers(value)
        children = _children(value)
        if children is None:
            sampled[_text(path)] = value
            return value
        return _rebuild(value, [self._build(child, (*path, key), sampled, inside) for key, child in children])
