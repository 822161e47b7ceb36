"""The domains of a search space, and the arithmetic of drawing and moving values in them.

Users make domains with the functions of :mod:`shoal.space`.
"""

from __future__ import annotations

import inspect
import math
import numbers
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from statistics import NormalDist
from typing import Any, ClassVar, NoReturn, TypeGuard

from ..errors import SpaceError
from .containers import PartialDict, Unresolved, same, without_guards

__all__ = ["Choice", "Domain", "Float", "Function", "GridSearch", "Integer", "Normal", "Range", "seeded_globals"]

_LIMIT = 1e300
"""No bound, product or number of steps is larger, so the arithmetic below never overflows a float."""
_HUGE = 10**301
"""Stands for no end of a grid."""


class Domain(ABC):
    """A set of values for one hyperparameter. Immutable, comparable, and picklable."""

    reversed_bounds: bool = False
    """Whether the bounds were given upper first. They are stored as the interval they mean."""

    def sample(self, rng: random.Random | None = None, *, size: int = 1) -> Any:
        """Draw a value, or several.

        Args:
            rng: where randomness comes from. Default: a new generator each time, so that no draw can be repeated; that
                is for looking at a domain by hand.
            size: how many values; above 1 they come in a list. Default 1.

        Raises:
            SpaceError: an argument is wrong, or a function of the user raised an error.
        """
        return _several(self, self._draw, rng, size)

    @abstractmethod
    def _draw(self, rng: random.Random) -> Any:
        """Draw a value."""

    @abstractmethod
    def contains(self, value: object) -> bool:
        """Return whether ``value`` could have been drawn: of the domain's type, inside its bounds, on its grid."""

    @abstractmethod
    def perturb(self, value: object, factor: float, rng: random.Random, *, clamp: bool = True) -> Any:
        """Return a value near ``value``.

        Numbers are multiplied by ``factor`` (Jaderberg et al. 2017, arXiv:1711.09846, "perturb"). Integers and
        quantised numbers move at least one step towards the product. What no factor can move (0, NaN, infinity, a bool,
        no number at all) is drawn anew. A choice moves to a neighbour and takes no notice of ``factor``.

        Args:
            value: the current value; need not belong to the domain.
            factor: what numbers are multiplied by, above 0.
            rng: where randomness comes from.
            clamp: whether the product is brought back inside the bounds; if not, only type and grid are kept.
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
        return min(max(round(_limited(number / self.q)), self.first), self.last)

    def holds(self, number: float) -> bool:
        if self.whole:
            k, rest = divmod(number, self.step.numerator)
            return isinstance(number, int) and rest == 0 and self.first <= k <= self.last
        return math.isclose(number, self.value(self.nearest(number)), rel_tol=1e-12, abs_tol=1e-9 * self.q)


@dataclass(frozen=True, repr=False)
class Range(Domain):
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

    def _draw(self, rng: random.Random) -> Any:
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
        if self.log:
            number, low, high = math.log(number), math.log(low), math.log(high)
        return (number - low) / (high - low) if low < high else 0.0

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


class Float(Range):
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


class Integer(Range):
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

    def _draw(self, rng: random.Random) -> float:
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
            return self._draw(rng)
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
        return same(self.categories, other.categories) if isinstance(other, Choice) else NotImplemented

    def __hash__(self) -> int:
        # Entries may be unhashable.
        return hash((Choice, len(self.categories)))

    def _draw(self, rng: random.Random) -> Any:
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
            if entry is value or same(entry, value):
                return index
        return None


_GIVEN = {"": "no argument", "config": "the config", "spec": "spec, which has the config as spec.config"}


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
        func: Any = self.func
        if not callable(func):
            raise SpaceError(f"sample_from takes a function, but got {func!r}. Write sample_from(lambda: ...).")
        _store(self, takes=_argument(self.func))

    def __repr__(self) -> str:
        return f"sample_from({getattr(self.func, '__qualname__', None) or repr(self.func)})"

    def sample(
        self,
        rng: random.Random | None = None,
        config: dict[str, Any] | None = None,
        where: str = "",
        *,
        size: int = 1,
    ) -> Any:
        """Call the function, once or several times.

        Args:
            rng: seeds the global generators during the call. Default: a new generator, as :meth:`Domain.sample` says.
            config: what a function with an argument is given. Default: an empty dict.
            where: the key that errors name.
            size: how many values; above 1 they come in a list. Default 1.

        Raises:
            SpaceError: an argument is wrong, or the function raised an error, which is chained.
        """
        return _several(self, lambda rng: self._draw(rng, config, where), rng, size)

    def _draw(self, rng: random.Random, config: dict[str, Any] | None = None, where: str = "") -> Any:
        shown = PartialDict(config or {})
        arguments = {"": (), "config": (shown,), "spec": (PartialDict({"config": shown}),)}[self.takes]
        try:
            with seeded_globals(rng):
                return without_guards(self.func(*arguments))
        except Unresolved:
            raise
        except Exception as error:
            keys = f", whose keys are {list(config or ())}" if self.takes else ""
            raise SpaceError(
                f"{where + ': ' if where else ''}{self!r} raised {type(error).__name__}: {error}. It was called with "
                f"{_GIVEN[self.takes]}{keys}. Correct the function."
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
            kind: Any = type(fresh)
            result = kind(moved)
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
    """All of some values, each in a trial of its own. A mark in a search space, and no domain: nothing is drawn."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        _store(self, values=_entries("grid_search", self.values))

    def __repr__(self) -> str:
        return f"grid_search({list(self.values)!r})"

    def __eq__(self, other: object) -> bool:
        return same(self.values, other.values) if isinstance(other, GridSearch) else NotImplemented

    def __hash__(self) -> int:
        return hash((GridSearch, len(self.values)))


@contextmanager
def seeded_globals(rng: random.Random) -> Generator[None, None, None]:
    """Seed the global generators of Python and, if it is loaded, NumPy from ``rng``; put their states back at the end.

    Functions of users draw from these, and would otherwise make a seeded run depend on everything else that does. Other
    libraries' generators, and a NumPy that is first imported inside, are not touched.
    """
    # Both seeds are drawn always, so that NumPy's presence changes no later draw from rng.
    python_seed, numpy_seed = rng.getrandbits(128), rng.getrandbits(32)
    numpy_random: Any = getattr(sys.modules.get("numpy"), "random", None)
    python_state = random.getstate()
    numpy_state = None if numpy_random is None else numpy_random.get_state()
    try:
        random.seed(python_seed)
        if numpy_random is not None:
            numpy_random.seed(numpy_seed)
        yield
    finally:
        random.setstate(python_state)
        if numpy_random is not None:
            numpy_random.set_state(numpy_state)


# ---- Numbers ---------------------------------------------------------------------------------------------------------


def _number(value: object) -> float | int | None:
    """Return ``value`` as a float or int of Python, or None if it is no number, not finite, or too big for a float."""
    if type(value) is float or type(value) is int:
        return value if -sys.float_info.max <= value <= sys.float_info.max else None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return _number(int(value) if isinstance(value, numbers.Integral) else float(value))
    except (TypeError, ValueError, OverflowError):
        return None


def _limited(number: float) -> float:
    return min(max(number, -_LIMIT), _LIMIT)


def _product(number: float, factor: float) -> float:
    return _limited(number * factor)


def _moved(number: float, target: float, q: float) -> int:
    """Return which multiple of ``q`` is nearest to ``target``, but at least one step from ``number`` towards it."""
    here, there = _limited(number / q), _limited(target / q)
    if abs(here - round(here)) < 1e-6:
        here = round(here)
    if there > here:
        return max(round(there), math.floor(here) + 1)
    if there < here:
        return min(round(there), math.ceil(here) - 1)
    return round(there)


def _placeable(domain: Domain, value: object) -> float:
    number = _number(value)
    if number is None:
        raise SpaceError(f"{value!r} has no place in {domain!r}. Give a finite number.")
    return number


# ---- Draws -----------------------------------------------------------------------------------------------------------


def _several(domain: Domain, draw: Callable[[random.Random], Any], rng: object, size: object) -> Any:
    """Return one draw, or a list of ``size`` draws."""
    if rng is None:
        rng = random.Random()
    elif not isinstance(rng, random.Random):
        raise SpaceError(
            f"{domain!r}.sample: rng must be a random.Random, such as random.Random(1), but is {rng!r}. Leave it out "
            f"for a draw that need not be repeatable."
        )
    if size == 1:
        return draw(rng)
    if not isinstance(size, numbers.Integral) or size < 1:
        raise SpaceError(f"{domain!r}.sample: size must be a whole number of 1 or more, but is {size!r}.")
    return [draw(rng) for _ in range(int(size))]


# ---- Checks of arguments ---------------------------------------------------------------------------------------------


def _store(domain: object, **values: object) -> None:
    for name, value in values.items():
        object.__setattr__(domain, name, value)


def _call_text(name: str, first: object, second: object, q: object, base: object = 10) -> str:
    arguments = [repr(first), repr(second)]
    arguments += [] if q is None else [repr(q)]
    arguments += [] if base == 10 else [f"base={base!r}"]
    return f"{name}({', '.join(arguments)})"


def _finite(text: str, name: str, value: object) -> float:
    number = _number(value)
    if number is None or abs(number) > _LIMIT:
        hint = "Write it without quotes." if isinstance(value, str) else "Give one, such as 0.1."
        raise SpaceError(f"{text}: {name} is {value!r}, but must be a finite number, at most {_LIMIT:g}. {hint}")
    return float(number)


def _whole(text: str, name: str, value: Any) -> int:
    number = _finite(text, name, value)
    if not number.is_integer():
        raise SpaceError(f"{text}: {name} is {value!r}, but must be an integer. Round it, or use uniform for floats.")
    return int(value)


def _check_log(text: str, lower: float, base: object) -> None:
    if lower <= 0:
        raise SpaceError(
            f"{text}: a bound is {lower!r}, but a logarithmic range needs bounds above 0. Give a small positive bound, "
            f"or use the range without log."
        )
    number = _finite(text, "base", base)
    if number <= 0 or number == 1:
        raise SpaceError(f"{text}: base is {base!r}, but must be above 0 and not 1. Leave it out: it changes no draw.")


def _exact(number: float) -> Fraction:
    """Return ``number`` as its author wrote it: 1/10 for 0.1, which no float is."""
    return Fraction(repr(float(number)))


def _check_q(text: str, q: float, largest: float) -> None:
    if q <= 0:
        raise SpaceError(f"{text}: q is {q!r}, but a step is above 0. Give one, or use the range without q.")
    if largest / q > 2**52:
        raise SpaceError(
            f"{text}: multiples of {q!r} are too fine for floats of this size. Give a larger q, or use the range "
            f"without q."
        )


def _float_grid(text: str, raw_q: object, lower: float, upper: float) -> _Grid:
    q = _finite(text, "q", raw_q)
    _check_q(text, q, max(abs(lower), abs(upper)))
    step, low, high = _exact(q), _exact(lower), _exact(upper)
    return _check_grid(text, _Grid(q, step, False, math.ceil(low / step), math.floor(high / step)), high - low)


def _integer_grid(text: str, raw_q: object, lower: int, upper: int) -> _Grid:
    if raw_q is None:
        if lower == upper:
            raise SpaceError(
                f"{text}: there is no integer to draw, because upper is excluded. Give two different bounds, or the "
                f"constant {lower}."
            )
        return _Grid(1, Fraction(1), True, lower, upper - 1)
    q = _whole(text, "q", raw_q)
    if q <= 0:
        raise SpaceError(f"{text}: q is {q!r}, but a step is 1 or more. Give one, or use the range without q.")
    return _check_grid(text, _Grid(q, Fraction(q), True, -(-lower // q), upper // q), upper - lower)


def _check_grid(text: str, grid: _Grid, width: float | Fraction) -> _Grid:
    if grid.first > grid.last or (grid.step > width and width != 0):
        raise SpaceError(
            f"{text}: q is {grid.q!r}, too large for the range, which holds at most one multiple of it. Give a smaller "
            f"q, wider bounds, or a constant."
        )
    return grid


def _entries(name: str, values: Any) -> tuple[Any, ...]:
    if not _has_order(values):
        raise SpaceError(
            f"{name} takes a list of values in a given order, but got {values!r}. Write {name}([a, b, c])."
        )
    entries = tuple(values)
    if not entries:
        raise SpaceError(f"{name}([]) has no value to give. List at least one.")
    return entries


def _has_order(values: object) -> TypeGuard[Iterable[Any]]:
    return isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping, Set))


def _argument(func: Callable[..., Any]) -> str:
    """Return what ``func`` is given: ``spec``, ``config``, or an empty text for nothing."""
    try:
        parameters = list(inspect.signature(func).parameters.values())
    except (TypeError, ValueError):
        # Functions of extension modules may hide their signature; random.random and its like take nothing.
        return ""
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) > 1 or any(p.kind is p.KEYWORD_ONLY for p in needed):
        raise SpaceError(
            f"sample_from takes a function of no argument or of one, but {func!r} needs "
            f"{', '.join(p.name for p in needed)}. Write lambda: ..., lambda config: ... or lambda spec: ..."
        )
    # An argument with a default is the function's own business, unless its name says what it is for.
    named = [p for p in parameters[:1] if p.kind is not p.KEYWORD_ONLY and p.name in ("config", "spec")]
    taken = needed or named
    return "" if not taken else "spec" if taken[0].name == "spec" else "config"
