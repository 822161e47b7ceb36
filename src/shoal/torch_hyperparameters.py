"""Which hyperparameters optimizers keep of a checkpoint that they have loaded, and which follow a new config.

What torch has loaded stays to the bit, except for what depends on keys of the config whose value is another one than
when the checkpoint was saved. Nobody says what depends on what: users scale values, and have constants beside them. So
it takes evidence, from three places: what an optimizer had before loading, what it was made with, and the same of the
donor's. Values are then multiplied by new / old, so that what a schedule has made of them goes on. See decision 0010.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch.optim import lr_scheduler

from .applied import leaves, plain, same, target

__all__ = ["Takeover", "Under", "describe", "is_new", "note", "numbers_of"]

Numbers: TypeAlias = dict[str, Any]
"""The numbers of a config, by path."""
Key: TypeAlias = tuple[str, int | None]
"""The name of a hyperparameter, and which element of it where it is a tuple."""
Values: TypeAlias = dict[Key, Any]
ConfigKey: TypeAlias = tuple[str, Key]
"""The path of a number of a config, and what an optimizer calls it."""
Configured: TypeAlias = dict[ConfigKey, Any]

_LR: Key = ("lr", None)
_INITIAL: Key = ("initial_lr", None)
_OF_LR = ("initial_lr", "max_lr", "min_lr")
"""What schedulers note of a learning rate in the groups, and never change."""
_NOTED = (*_OF_LR, "swa_lr", "base_momentum", "max_momentum")
_CYCLED: tuple[Key, ...] = (("momentum", None), ("betas", 0))
"""What schedulers that have noted a ``base_momentum`` set at each of their steps."""
_BELOW_ONE = ("momentum", "betas", "alpha", "rho")
_LAYOUT = ("amsgrad", "centered")
"""What decides which tensors the state has: with a donor's state comes the donor's."""
_BY_GROUP = ("base_lrs", "max_lrs", "min_lrs", "base_momentums", "max_momentums")
_COUNTED = ("last_epoch", "T_cur", "T_i", "num_bad_epochs", "cooldown_counter", "best")
"""What schedulers change themselves."""


# ----------------------------------------------------------------------------------------------- what is remembered


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known of an optimizer that was saved or restored before."""

    made: Numbers | None
    """The numbers of the config when it was first seen; None where it had trained before."""
    last: Numbers | None
    """The numbers of the config when it was last seen."""
    given: tuple[Hashable, Numbers] | None
    """The launch in which ``restore`` got a config of the user's for it, which may be scaled; and its numbers."""
    values: list[Values]
    """What it had then, by group."""


_seen: weakref.WeakKeyDictionary[Any, _Seen] = weakref.WeakKeyDictionary()


def _seen_before(optimizer: Any) -> _Seen | None:
    """Return what is known of an optimizer. One of the user's may be of a kind of which nothing can be remembered."""
    with contextlib.suppress(TypeError):
        return _seen.get(optimizer)
    return None


@dataclass(frozen=True, slots=True)
class Under:
    """The config under which something is saved or restored."""

    launch: Hashable
    """Which launch this is; None outside of a trial."""
    here: Numbers | None
    """The numbers of the config that the launch was entered with; None: unknown."""
    given: Numbers | None = None
    """Those of a config that the user gives, which counts instead."""

    @property
    def numbers(self) -> Numbers | None:
        return self.here if self.given is None else self.given


def numbers_of(config: Mapping[Any, Any]) -> Numbers:
    """Return the numbers of a config by path, of Python's types."""
    return {path: _python(value) for path, value in leaves(config)}


def is_new(optimizer: Any) -> bool:
    """Return whether an optimizer was made for the present config, for all that is known."""
    return _seen_before(optimizer) is None and not getattr(optimizer, "state", None)


def note(optimizer: Any, under: Under, *, new: bool) -> _Seen:
    """Remember under which config an optimizer was seen, without keeping it alive; ``new``: and made."""
    known = _seen_before(optimizer)
    made = known.made if known else under.numbers if new else None
    given = (under.launch, under.given) if under.given is not None else known.given if known else None
    seen = _Seen(made, under.numbers, given, [_values(group) for group in _groups(optimizer)])
    with contextlib.suppress(TypeError):
        _seen[optimizer] = seen
    return seen


def describe(optimizer: Any, under: Under) -> dict[str, Any]:
    """Return what a checkpoint says of an optimizer beside its state, and remember that it was seen."""
    known = _seen_before(optimizer)
    if under.given is None and known is not None and known.given is not None and known.given[0] == under.launch:
        under = replace(under, given=known.given[1])
    seen = note(optimizer, under, new=True)
    defaults = {name: _python(plain(value)) for name, value in getattr(optimizer, "defaults", {}).items()}
    return {
        "defaults": {name: value for name, value in defaults.items() if value is not None},
        "made": seen.made,
        "config": seen.last,
    }


# ------------------------------------------------------------------------------------------------------- plain values


def _python(value: Any) -> Any:
    """Return a plain number as one of Python's own types: NumPy's are subclasses of float, but no plain file's."""
    if isinstance(value, tuple):
        return tuple(_python(each) for each in value)
    return next((kind(value) for kind in (bool, int, float) if isinstance(value, kind)), value)


def _values(group: Mapping[str, Any]) -> Values:
    found: Values = {}
    for name, value in group.items():
        number = None if name == "params" else _python(plain(value))
        if isinstance(number, tuple):
            found.update({(name, index): each for index, each in enumerate(number)})
        elif number is not None:
            found[name, None] = number
    return found


def _configured(numbers: Numbers | None, names: Mapping[str, str]) -> Configured:
    found: Configured = {}
    for path, value in (numbers or {}).items():
        name, index = target(path, names)
        if isinstance(value, tuple) and index is None:
            found.update({(path, (name, number)): each for number, each in enumerate(value)})
        else:
            found[path, (name, index)] = value
    return found


def _groups(optimizer: Any) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = getattr(optimizer, "param_groups", [])
    return groups


def _filled(held: Any, value: Any) -> Any:
    """Return a value in the place of another; a tensor stays the same one, which compiled steps read."""
    return held.fill_(value) if isinstance(held, torch.Tensor) else value


def _put(group: dict[str, Any], key: Key, value: Any) -> None:
    name, index = key
    held = group[name]
    if index is None:
        group[name] = _filled(held, value)
    else:
        entries = [_filled(each, value) if number == index else each for number, each in enumerate(held)]
        group[name] = entries if isinstance(held, list) else tuple(entries)


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


# ----------------------------------------------------------------------------------------------------------- evidence


@dataclass(frozen=True, slots=True)
class _Change:
    """A value under which a checkpoint was saved, and the one that is in its place now."""

    old: Any
    new: Any

    def __bool__(self) -> bool:
        return not same(self.old, self.new)

    def of(self, value: Any, name: str) -> Any:
        """Return what becomes of a value that was loaded."""
        if same(value, self.old):
            return self.new
        if isinstance(value, bool) or not self.old:
            return value
        carried = value * self.new / self.old
        return self.new if name in _BELOW_ONE and self.new < 1 <= carried else carried

    def is_like(self, other: _Change) -> bool:
        """Return whether two changes do the same."""
        if self.old and other.old:
            return same(self.new / self.old, other.new / other.old)
        return same(self.old, other.old) and same(self.new, other.new)


_PROOF = 3


def _evidence(mine: Any, theirs: Any, of_mine: Any, of_theirs: Any) -> int:
    """Return how sure it is that two values come from a key of two configs: 0 (not at all) to 3."""
    if mine is None or theirs is None:
        return 0
    is_mine, is_theirs = same(mine, of_mine), same(theirs, of_theirs)
    if is_mine and is_theirs:
        return _PROOF
    if same(mine, theirs):
        return 0  # a constant, unless the keys were the same, too
    return 2 if is_mine or is_theirs else int(_in_ratio(mine, theirs, of_mine, of_theirs))


def _in_ratio(mine: Any, theirs: Any, of_mine: Any, of_theirs: Any) -> bool:
    numbers = (mine, theirs, of_mine, of_theirs)
    if not all(isinstance(each, (int, float)) and each and math.isfinite(each) for each in numbers):
        return False
    return same(mine / theirs, of_mine / of_theirs) and not same(mine, theirs)


class _Optimizer:
    """An optimizer that is about to load a state."""

    def __init__(self, real: Any, saved: Mapping[str, Any], config: Numbers, names: Mapping[str, str]) -> None:
        known = _seen_before(real)
        self.real = real
        self.fresh = is_new(real)
        """Made for the present config; else it lives on, in a class, and has the values of an older one."""
        self._mine = [_values(group) for group in _groups(real)]
        self._left = known.values if known else []
        self._theirs: list[Values] = []
        self._made = (_values(getattr(real, "defaults", {})), _values(saved.get("defaults", {})))
        new = _configured(config, names)
        old, first = _configured(saved.get("config"), names), _configured(saved.get("made"), names)
        self._last = new if self.fresh else _configured(known.last if known else None, names)
        self._first = (new if self.fresh else _configured(known.made if known else None, names), first)
        self._keys = {key: _Change(old[key], new[key]) for key in new if key in old and _comparable(old[key], new[key])}
        self._as_made = not old or (bool(first) and all(same(first[key], old[key]) for key in old if key in first))
        """Whether the donor's was made for the config that it was saved under."""
        self.follows = any(self._keys.values()) or (self.fresh and not old)
        self._by_hand: set[ConfigKey] = set()
        self._ranks_anywhere: dict[tuple[ConfigKey, Key], int] = {}
        self.lr: dict[int, _Change | None] = {}
        """What has become of the learning rates, by group."""

    # ------------------------------------------------------------------------------------------------------- loading

    def loaded(self) -> None:
        """The state has been loaded."""
        self._theirs = [_values(group) for group in _groups(self.real)]
        self.follows = self.follows and len(self._theirs) == len(self._mine)

    def set_by_hand(self) -> set[ConfigKey]:
        """Return the keys whose new value was already there, in an optimizer that lives on: the user has set it."""
        if self.fresh or not self.follows:
            return set()
        keys = {key for key, change in self._keys.items() if change and not same(self._last.get(key), change.new)}
        return {key for key in keys if any(self._is_by_hand(key, number) for number in range(len(self._mine)))}

    def _is_by_hand(self, config_key: ConfigKey, number: int) -> bool:
        mine, theirs = self._mine[number], self._theirs[number]
        left = self._left[number] if number < len(self._left) else {}
        new = self._keys[config_key].new
        return any(
            same(mine[name], new) and not same(mine[name], theirs.get(name)) and not same(mine[name], left.get(name))
            for name in mine
            if name == config_key[1] or self._may_be(config_key, name)
        )

    def put(self, by_hand: set[ConfigKey]) -> None:
        """Give the groups what has changed.

        Args:
            by_hand: the keys that the user has set himself, in this optimizer or another.
        """
        self._by_hand = by_hand
        for number, group in enumerate(_groups(self.real)):
            mine, theirs = self._mine[number], self._theirs[number]
            self.lr[number] = self._change(number, _LR)
            for key, loaded in theirs.items():
                value = self._now(number, key, mine.get(key), loaded)
                if not same(value, loaded):
                    _put(group, key, value)

    def _now(self, number: int, key: Key, mine: Any, loaded: Any) -> Any:
        name = key[0]
        if name in _NOTED and self.fresh and mine is not None:
            return mine  # the user's code has just made it
        change = self.lr[number] if name in _OF_LR else self._change(number, key)
        if not change:
            return loaded
        if not change.old and self.fresh and mine is not None:
            return mine  # there is no multiple of nothing
        return change.of(loaded, name)

    # ------------------------------------------------------------------------------------------------------ evidence

    def _change(self, number: int, key: Key) -> _Change | None:
        """Return what has changed of that on which a value of a group depends, if anything."""
        mine, theirs = self._mine[number], self._theirs[number]
        if key not in mine or key not in theirs or key[0] in _LAYOUT:
            return None
        if key in _CYCLED and ("base_momentum", None) in theirs:
            return None  # a scheduler sets it
        if self.fresh and not isinstance(mine[key], bool):
            if key == _LR and _INITIAL in mine and _INITIAL in theirs:
                return _Change(theirs[_INITIAL], mine[_INITIAL])
            # The same code made both, so that what is different comes from the config.
            made, theirs_made = (each.get(key) if self._as_made else None for each in self._made)
            if made is not None and theirs_made is not None:
                if same(mine[key], made):
                    return _Change(theirs_made, made)
                if not same(made, theirs_made) and not same(mine[key], theirs[key]):
                    explicit = same(theirs[key], theirs_made)  # and mine is not, as where it is set after making
                    return self._from_config(number, key) or _Change(theirs_made, mine[key] if explicit else made)
        return self._from_config(number, key)

    def _from_config(self, number: int, key: Key) -> _Change | None:
        candidates = [each for each in self._keys if each[1] == key or self._may_be(each, key)]
        ranks = {each: self._rank(each, key, number) for each in candidates}
        if not any(ranks.values()):
            ranks = {
                each: self._rank_anywhere(each, key) for each in candidates if not self._is_constant(each, key, number)
            }
        top = max(ranks.values(), default=0)
        found = [self._keys[each] for each, rank in ranks.items() if rank == top and top]
        # Where keys that do different things explain a value equally well, nobody knows.
        return found[0] if found and all(found[0].is_like(each) for each in found) else None

    def _may_be(self, config_key: ConfigKey, key: Key) -> bool:
        """Return whether a key of the config that is called like nothing in the optimizer may be one of its values."""
        change = self._keys[config_key]
        known = any(config_key[1] in group for group in self._mine)
        return not known and bool(change) and all(type(each) is float for each in (change.old, change.new))

    def _rank(self, config_key: ConfigKey, key: Key, number: int) -> int:
        """Return how much says that a value of a group comes from a key of the config."""
        mine, theirs, old = self._mine[number], self._theirs[number], self._keys[config_key].old
        now = self._basis(config_key)
        pairs = [(mine.get(label), theirs.get(label)) for label in _labels(key)]
        made_of = tuple(made.get(key) for made in self._made), tuple(first.get(config_key) for first in self._first)
        made = _evidence(*made_of[0], *made_of[1])
        if config_key[1] != key:  # it takes more to believe this
            both = any(same(one, now) for one, _ in pairs) and any(same(other, old) for _, other in pairs)
            if (both and not same(now, old)) or (made == _PROOF and not same(*made_of[1])):
                return 2
            return int(config_key in self._by_hand and same(mine.get(key), now))
        here = max(_evidence(*pair, now, old) for pair in pairs)
        if not here and (config_key in self._by_hand or self._is_constant(config_key, key, number)):
            return 0
        # What the group itself has counts first: it may have a key of its own.
        return {_PROOF: 4 * _PROOF, 2: 2 * _PROOF}.get(here, 0) + max(here, made)

    def _rank_anywhere(self, config_key: ConfigKey, key: Key) -> int:
        """Return the same for the group of which it says most: others may have multiples of its value."""
        found = self._ranks_anywhere.get((config_key, key))
        if found is None:
            found = max(self._rank(config_key, key, number) for number in range(len(self._mine)))
            self._ranks_anywhere[config_key, key] = found
        return found

    def _basis(self, config_key: ConfigKey) -> Any:
        """Return the value of the config from which the values before loading would come."""
        hand = self.fresh or config_key in self._by_hand
        return self._keys[config_key].new if hand else self._last.get(config_key)

    def _is_constant(self, config_key: ConfigKey, key: Key, number: int) -> bool:
        """Return whether a value is the same in both, although the key was not."""
        mine, theirs = self._mine[number], self._theirs[number]
        basis = _INITIAL if key == _LR and _INITIAL in mine and _INITIAL in theirs else key
        return same(mine.get(basis), theirs.get(basis)) and not same(
            self._basis(config_key), self._keys[config_key].old
        )

    # ---------------------------------------------------------------------------------------------------- schedulers

    def of_scheduler(self, name: str, mine: Any, loaded: Any) -> Any:
        """Return what a number of a scheduler, or a tuple of one for each group, is to be."""
        if isinstance(mine, tuple) or isinstance(loaded, tuple):
            if name not in _BY_GROUP or not isinstance(mine, tuple) or not isinstance(loaded, tuple):
                return loaded
            pairs = zip(mine, loaded, strict=False)
            new = tuple(self._of_group(number, name, *pair) for number, pair in enumerate(pairs))
            return new if len(new) == len(loaded) else loaded
        return self._of_number(mine, loaded)

    def _of_group(self, number: int, name: str, mine: Any, loaded: Any) -> Any:
        if self.fresh:
            return mine
        change = self.lr.get(number) if name in ("base_lrs", "max_lrs") else None
        return change.of(loaded, name) if change else self._of_number(mine, loaded)

    def _of_number(self, mine: Any, loaded: Any) -> Any:
        if same(mine, loaded):
            return loaded
        for key, change in self._keys.items():
            if not change:
                continue
            if same(loaded, change.old) and (same(mine, change.new) or same(mine, self._last.get(key))):
                return change.new
            if self.fresh and type(mine) is float and _in_ratio(mine, loaded, change.new, change.old):
                return mine
        return loaded


def _labels(key: Key) -> list[Key]:
    """Return under which names a group may have a value that schedules have not changed."""
    return [key, _INITIAL, ("max_lr", None)] if key == _LR else [key]


def _comparable(old: Any, new: Any) -> bool:
    numbers = all(isinstance(each, (int, float)) and abs(each) < 1e300 for each in (old, new))  # no nan either
    return numbers and isinstance(old, bool) == isinstance(new, bool)


# --------------------------------------------------------------------------------------------------------- schedulers


class _Scheduler:
    """A scheduler, or a callable object of one, that is about to load a state."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self._mine = self._numbers()
        functions = [each for each in getattr(real, "lr_lambdas", ()) if hasattr(each, "__dict__")]
        self._inner = [_Scheduler(each) for each in [*getattr(real, "_schedulers", ()), *functions]]
        self._computes = False

    def _numbers(self) -> Numbers:
        found = {
            name: _python(plain(value))
            for name, value in getattr(self.real, "__dict__", {}).items()
            if not name.startswith("_") and name not in _COUNTED
        }
        return {name: value for name, value in found.items() if value is not None}

    def loaded(self) -> None:
        """The state has been loaded: find out whether the learning rates are what this scheduler makes them."""
        active = _active(self.real)
        now = tuple(group["lr"] for group in _groups(getattr(self.real, "optimizer", None)))
        if isinstance(active, lr_scheduler.LambdaLR):  # the functions may be others now
            self._computes = same(_plain_tuple(getattr(active, "_last_lr", ())), _plain_tuple(now))
        else:
            computed = _computed(active)
            self._computes = computed is not None and same(_plain_tuple(computed), _plain_tuple(now))

    def put(self, optimizer: _Optimizer) -> None:
        """Give the scheduler what has changed; its optimizer has it already."""
        self._put_numbers(optimizer)
        groups = _groups(optimizer.real)
        computed = _computed(_active(self.real)) if self._computes else None
        for group, value in zip(groups, computed or (), strict=False):
            if not same(_python(plain(group["lr"])), _python(plain(value))):
                group["lr"] = _filled(group["lr"], _python(plain(value)))
        self._follow([_copy(group["lr"]) for group in groups])

    def _put_numbers(self, optimizer: _Optimizer) -> None:
        for inner in self._inner:
            inner._put_numbers(optimizer)
        for name, loaded in self._numbers().items():
            value = optimizer.of_scheduler(name, self._mine.get(name), loaded)
            if same(value, loaded):
                continue
            held = getattr(self.real, name)
            if isinstance(held, list):
                value = [_filled(*pair) for pair in zip(held, value, strict=True)]
            setattr(self.real, name, _filled(held, value))

    def _follow(self, rates: list[Any]) -> None:
        """Let ``get_last_lr`` tell what the groups have."""
        for inner in self._inner:
            inner._follow(rates)
        if len(getattr(self.real, "_last_lr", ())) == len(rates):
            self.real._last_lr = [_copy(rate) for rate in rates]


def _active(scheduler: Any) -> Any:
    """Return the one of several schedulers after each other whose turn it is; None where they work together."""
    while hasattr(scheduler, "_schedulers"):
        if not hasattr(scheduler, "_milestones"):
            return None
        scheduler = scheduler._schedulers[bisect_right(scheduler._milestones, scheduler.last_epoch)]
    return scheduler


def _computed(scheduler: Any) -> Any:
    """Return the learning rates that a scheduler has at its place in the schedule, if it can tell without stepping."""
    if isinstance(scheduler, lr_scheduler.LambdaLR):
        each = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        return [base * function(scheduler.last_epoch) for base, function in each]
    closed = getattr(scheduler, "_get_closed_form_lr", None)
    return None if closed is None else closed()


def _plain_tuple(values: Iterable[Any]) -> Any:
    return plain(list(values))


class Takeover:
    """Gives optimizers and schedulers that load a checkpoint what a config changes of it.

    Args:
        config: the numbers of the config.
        names: how optimizers call its keys.
    """

    def __init__(self, config: Numbers, names: Mapping[str, str]) -> None:
        self._config = config
        self._names = names
        self._optimizers: list[_Optimizer] = []
        self._schedulers: list[_Scheduler] = []

    def add_optimizer(self, optimizer: Any, saved: Mapping[str, Any]) -> None:
        """Look at an optimizer before it loads; ``saved``: what :func:`describe` said of the donor's."""
        self._optimizers.append(_Optimizer(optimizer, saved, self._config, self._names))

    def add_scheduler(self, scheduler: Any) -> None:
        """Look at a scheduler before it loads."""
        self._schedulers.append(_Scheduler(scheduler))

    def finish(self) -> None:
        """All have loaded: give them what has changed."""
        by_hand: set[ConfigKey] = set()
        for optimizer in self._optimizers:
            optimizer.loaded()
            by_hand |= optimizer.set_by_hand()
        following = {id(each.real): each for each in self._optimizers if each.follows}
        pairs = [(each, following.get(id(getattr(each.real, "optimizer", None)))) for each in self._schedulers]
        for scheduler, owner in pairs:
            if owner is not None:
                scheduler.loaded()
        for optimizer in following.values():
            optimizer.put(by_hand)
        for scheduler, owner in pairs:
            if owner is not None:
                scheduler.put(owner)
