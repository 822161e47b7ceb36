"""Which hyperparameters have drifted: the judgement over what the watch has seen. See decision 0010.

A key counts as drifted only where it is certain, because a false alarm is worse than none.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from ..applied import CheckApplied, element, leaves, named, plain, same, spelled, target
from ..core.commands import Launch

__all__ = ["Groups", "Judge", "Seen", "values_of"]

Groups = list[dict[str, Any]]
_BASES = ("initial_lr", "max_lr")
"""What torch's schedulers keep of a learning rate beside the one that they have changed."""
_WORDS = {"lr": ("lr", "learn"), "momentum": ("mom",), "betas": ("beta",), "weight_decay": ("wd", "decay")}
"""By what one knows a key that means a hyperparameter and has a name of its own."""


@dataclass(slots=True, eq=False)
class Seen:
    """What is known of an optimizer since the function was entered."""

    optimizer: weakref.ref[Any]
    kind: str
    kept: bool = False
    """It was there before."""
    whole: bool = False
    """It was unpickled, and nobody saw what the code made it with."""
    loaded: bool = False
    before: Groups = field(default_factory=list[dict[str, Any]])
    """What the code had put into it when it was loaded for the first time."""
    came: Groups = field(default_factory=list[dict[str, Any]])
    """What it held when the function was entered, or what was loaded into it since."""
    objects: Groups = field(default_factory=list[dict[str, Any]])
    """The very objects of that. What the code puts there is another one, even where it is equal."""
    used: Groups = field(default_factory=list[dict[str, Any]])
    """At its first step since; empty until then."""
    untouched: list[set[str]] = field(default_factory=list[set[str]])
    """What nobody had put there between the two."""
    judged: bool = False

    def note(self, optimizer: Any) -> None:
        """Take down what it holds when the function is entered, or when it has been loaded."""
        self.came = values_of(optimizer)
        self.objects = [dict(group, params=None) for group in optimizer.param_groups]
        self.used = []  # what it did before it was loaded tells nothing

    def steps(self, optimizer: Any) -> None:
        """Take down what it is about to step with."""
        used = values_of(optimizer)
        self.untouched = [
            {key for key, value in group.items() if value is objects.get(key)}
            for group, objects in zip(optimizer.param_groups, self.objects, strict=False)
        ]
        self.used = used


def values_of(optimizer: Any) -> Groups:
    """Return the numbers in the groups of an optimizer."""
    return [
        {key: number for key, value in group.items() if key != "params" and (number := plain(value)) is not None}
        for group in optimizer.param_groups
    ]


@dataclass(frozen=True, slots=True)
class _Use:
    """A group of an optimizer, and a hyperparameter of it."""

    seen: Seen
    number: int
    """Of the group."""
    name: str
    index: int | None

    @property
    def value(self) -> Any:
        return element(self.seen.used[self.number], self.name, self.index)

    @property
    def shown(self) -> str:
        return self.name if self.index is None else f"{self.name}[{self.index}]"

    def of(self, groups: Groups, key: str) -> Any:
        """Return what the group had under a key at another time, or None."""
        return element(groups[self.number], key, self.index) if self.number < len(groups) else None

    def in_(self, groups: Groups, value: Any) -> bool:
        """Whether the group had a value then, be it as what a scheduler goes out from."""
        keys = (self.name, *_BASES) if self.name == "lr" else (self.name,)
        return any(same(value, held) for key in keys if (held := self.of(groups, key)) is not None)

    def untouched(self) -> bool:
        """Whether what came is what it stepped with, put there by nobody, and was not mended since then."""
        used, came = self.value, self.of(self.seen.came, self.name)
        if came is None or not same(used, came):
            return False
        if not isinstance(self.seen.used[self.number][self.name], tuple) and not (
            self.number < len(self.seen.untouched) and self.name in self.seen.untouched[self.number]
        ):
            return False
        # A scheduler may have changed the rate by now, but not what it goes out from.
        base = self.name == "lr" and self.of(self.seen.came, "initial_lr") is not None
        return self.stays("initial_lr" if base else self.name)

    def stays(self, key: str) -> bool:
        """Whether what came under a key was there at the first step, and still is."""
        optimizer, came = self.seen.optimizer(), self.of(self.seen.came, key)
        if optimizer is None or self.number >= len(optimizer.param_groups):
            return False
        now = element({key: plain(optimizer.param_groups[self.number].get(key))}, key, self.index)
        return same(came, self.of(self.seen.used, key)) and same(came, now)


@dataclass(frozen=True, slots=True)
class _Drift:
    use: _Use
    scheduler: str = ""
    """The kind of the one that goes out from an old value; empty where the value in use itself is the old one."""
    basis: Any = None
    """What it goes out from."""


class Judge:
    """Compares what optimizers use with the config.

    Only keys of ``Launch.changed`` can have drifted, and an optimizer that was kept over from the launch before may
    have the value of that launch's config. Then one of these must be known of a group:

    - Its optimizer held the config's value when it was loaded, and what was loaded is another one.
    - It was kept, or unpickled as a whole, and optimizers of this process used the value of the key before.

    And what came must have been in use as it came. So a value that the code scales, or schedules by itself, is not
    compared.
    """

    def __init__(self, check: CheckApplied) -> None:
        self._names = check.names
        self._launch: Any = None
        self._config: Mapping[Any, Any] = {}
        self._numbers: dict[str, Any] = {}
        self._previous: dict[str, Any] = {}
        """The numbers of the config that was compared before this one."""
        self._direct: set[str] = set()
        """Keys whose value was in use."""
        self._indirect: set[str] = set()
        """Keys whose value was not in use from scratch: the code has its own ways with them."""
        self._schedulers: list[Any] | None = None

    def enter(self, launch: Launch, config: Mapping[Any, Any]) -> None:
        """Another launch is to be compared."""
        self._launch, self._config = launch, config
        self._previous, self._numbers = self._numbers, dict(leaves(config))

    def leave(self) -> None:
        """All has been compared. Only the numbers of the config are kept, in which there may be much else."""
        self._launch, self._config = None, {}

    def compare(self, seen: Iterable[Seen]) -> list[tuple[str, str]]:
        """Return the keys that have drifted, by optimizers that have stepped and were not judged yet."""
        stepped = [one for one in seen if one.used and one.optimizer() is not None]
        self._schedulers = None
        found = [
            (path, self._text(path, value, drifted))
            for path, value in self._numbers.items()
            if (drifted := self._drifted(path, value, stepped))
        ]
        self._schedulers = None
        return found

    def _drifted(self, path: str, value: Any, stepped: list[Seen]) -> list[_Drift]:
        name, index = target(path, self._names)
        uses = [
            _Use(one, number, name, index)
            for one in stepped
            for number, group in enumerate(one.used)
            if element(group, name, index) is not None and not _cycled(group, name, index)
        ]
        right = any(use.in_(use.seen.used, value) for use in uses)
        if right:
            self._direct.add(path)
        elif uses and self._launch.checkpoint is None:
            self._indirect.add(path)
        if self._launch.checkpoint is None:
            return []
        changed = path in self._launch.changed
        put_in = [
            use
            for use in uses
            if use.in_(use.seen.before, value) and not (right and self._may_be_a_constant(use, value))
        ]
        if not uses and not named(path, self._names):
            put_in = list(self._put_in_under_its_own_name(path, value, stepped))
        found = self._look(put_in, value, depends=True) if changed else []
        if changed and right:  # the first step may be right, and what a scheduler makes of it wrong
            found += self._look([use for use in uses if use not in put_in], value, depends=False)
        if not found and not right and path in self._direct and path not in self._indirect:
            found = self._look(self._not_made_here(path, value, uses, changed), value, depends=True)
        return found

    def _put_in_under_its_own_name(self, path: str, value: Any, stepped: list[Seen]) -> Iterator[_Use]:
        """Yield where the code put the value of a key such as ``netG_lr``, if it can be no other's."""
        if not isinstance(value, float) or value in (0.0, 1.0):
            return
        if any(same(value, other) for key, other in self._numbers.items() if key != path):
            return
        places = {place for one in stepped for group in one.before for place in _places(group, value)}
        if len(places) != 1:
            return
        ((name, index),) = places
        hinted = any(word in path.rpartition("/")[2].lower() for word in _WORDS.get(name, (name,)))
        for one in stepped:
            for number, group in enumerate(one.used):
                use = _Use(one, number, name, index)
                there = use.in_(one.before, value) and use.value is not None and not _cycled(group, name, index)
                if there and (hinted or not self._may_be_a_constant(use, value)):
                    yield use

    def _not_made_here(self, path: str, value: Any, uses: list[_Use], changed: bool) -> list[_Use]:
        """Return where the value before this one may be, in optimizers that the code has not made in this launch."""
        others = [
            other for key, other in self._numbers.items() if key != path and target(key, self._names)[0] == uses[0].name
        ] if uses else []  # fmt: skip
        found = [
            use
            for use in uses
            if (use.seen.kept or use.seen.whole)
            and (changed or not use.seen.loaded)
            and not any(use.in_(use.seen.used, other) for other in others)
        ]
        previous = self._previous.get(path)
        if previous is None or same(previous, value):
            had = []
        else:
            had = [use for use in found if use.in_(use.seen.before if use.seen.loaded else use.seen.came, previous)]
        return had or [use for use in found if use.seen.loaded]

    def _may_be_a_constant(self, use: _Use, value: Any) -> bool:
        """Whether code may hold such a number of its own, and have come to another one by a schedule."""
        plain_number = isinstance(value, (int, float)) and same(value, float(f"{value:.0e}"))
        return plain_number and use.of(use.seen.came, "initial_lr") is None

    def _look(self, uses: list[_Use], value: Any, *, depends: bool) -> list[_Drift]:
        """Return which of some groups have drifted; ``depends``: the config's value is known to be meant for them."""
        found: list[_Drift] = []
        for use in uses:
            if use.seen.judged:
                continue
            if depends and not use.in_(use.seen.used, value) and use.untouched():
                found.append(_Drift(use))
            elif use.name == "lr" and (depends or same(use.value, value)):
                found += self._scheduled(use, value)
        return found

    # -------------------------------------------------------------------------------------------------- schedulers

    def _scheduled(self, use: _Use, value: Any) -> list[_Drift]:
        """Find out whether a scheduler goes out from what came, although the rate was set."""
        for key in _BASES:
            old = use.of(use.seen.came, key)
            if old is None or same(old, value) or not use.stays(key):
                continue
            if key == "max_lr":
                if not same(use.of(use.seen.before, key), value):
                    continue
                going = [one for one in self._schedulers_of(use) if type(one).__name__ == "OneCycleLR"]
            else:
                going = [one for one in self._schedulers_of(use) if _goes_out_from_base_lrs(one)]
                if not all(same(plain(one.base_lrs[use.number]), old) for one in going):
                    continue
            if going:
                return [_Drift(use, type(going[0]).__name__, old)]
        return []

    def _schedulers_of(self, use: _Use) -> list[Any]:
        """Return torch's schedulers of an optimizer. Nothing knows them but who made them, so all objects are asked."""
        if self._schedulers is None:
            kind: Any = getattr(sys.modules.get("torch.optim.lr_scheduler"), "LRScheduler", ())
            # By type(), because some objects do a lot when they are asked for their __class__.
            self._schedulers = [one for one in gc.get_objects() if issubclass(type(one), kind)]
        optimizer = use.seen.optimizer()
        return [one for one in self._schedulers if getattr(one, "optimizer", None) is optimizer]

    # -------------------------------------------------------------------------------------------------------- text

    def _text(self, path: str, value: Any, drifted: list[_Drift]) -> str:
        wanted = "config" + spelled(self._config, path)
        says = " and ".join(dict.fromkeys(_says(drift, value) for drift in drifted))
        return (
            f"{wanted} is {_shown(value)}, but {says} in trial {self._launch.trial_id}: "
            f"{self._why_and_how(wanted, value, drifted)}. Or load with shoal.torch.restore(checkpoint, "
            f"model=..., optimizer=..., config=config). If {wanted} is not meant for an optimizer, "
            f"TuneConfig(check_applied=tune.CheckApplied(names={{{path!r}: 'none'}})) says so; check_applied=False "
            f"switches this check off."
        )

    def _why_and_how(self, wanted: str, value: Any, drifted: list[_Drift]) -> str:
        use = drifted[0].use
        groups = "for group in optimizer.param_groups:"
        loaded = any(drift.use.seen.loaded for drift in drifted)
        checkpoint = self._launch.checkpoint
        whose = "the donor's" if checkpoint.trial_id != self._launch.trial_id else "the"
        why = f"loading {whose} optimizer state has put its own value back" if loaded else (
            "the optimizer is the one from before, with the value from before"
        )  # fmt: skip
        then = "after loading" if loaded else "anew"
        if use.name == "lr" and same(use.of(use.seen.before, "max_lr"), value):
            return (
                f"{why}. Set group['max_lr'] {then}, and with it what the schedule makes of it: {groups} factor = "
                f"{wanted} / group['max_lr'], and for name in ('lr', 'initial_lr', 'max_lr', 'min_lr'): group[name] *= "
                f"factor"
            )
        if use.name == "lr" and use.of(use.seen.used, "initial_lr") is not None:
            rate = "" if same(use.value, value) else f"group['lr'] *= {wanted} / group['initial_lr']; "
            return (
                f"{why}, and a schedule goes out from it. Set group['initial_lr'] and scheduler.base_lrs (and those of "
                f"schedulers inside of it) {then}: {groups} {rate}group['initial_lr'] = {wanted}; then "
                f"scheduler.base_lrs = [group['initial_lr'] for group in optimizer.param_groups]"
            )
        new = wanted if use.index is None else f"the tuple with {wanted} at [{use.index}]"
        return f"{why}. Set it {then}: {groups} group[{use.name!r}] = {new}"


def _says(drift: _Drift, value: Any) -> str:
    use = drift.use
    if drift.scheduler and same(use.value, value):
        return f"{drift.scheduler} goes out from {_shown(drift.basis)} after the first step of {use.seen.kind}"
    made = f", which {drift.scheduler} makes of {_shown(drift.basis)}" if drift.scheduler else ""
    return f"{use.seen.kind} steps with {use.shown}={_shown(use.value)}{made}"


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _cycled(group: Mapping[str, Any], name: str, index: int | None) -> bool:
    """Whether a scheduler puts values of its own there, whatever the optimizer was made with."""
    moved = name == "momentum" or (name == "betas" and index in (None, 0))
    return moved and ("max_momentum" in group or "base_momentum" in group)


def _places(group: Mapping[str, Any], value: float) -> Iterator[tuple[str, int | None]]:
    """Yield where a group holds a value: the name of a hyperparameter, and which element of it."""
    for key, held in group.items():
        if isinstance(held, float) and same(held, value):
            yield ("lr" if key in _BASES else key), None
        elif isinstance(held, tuple):
            for index, entry in enumerate(held):
                if isinstance(entry, float) and same(entry, value):
                    yield key, index


def _goes_out_from_base_lrs(scheduler: Any) -> bool:
    """Whether a scheduler makes each rate of its base_lrs. Others go on from the rate that is there, as StepLR does."""
    code = getattr(getattr(type(scheduler), "get_lr", None), "__code__", None)
    words = _words(code) if isinstance(code, CodeType) else set[str]()
    return "base_lrs" in words and "lr" not in words


def _words(code: CodeType) -> set[str]:
    """Return the names and the texts in some code."""
    found = {*code.co_names, *(constant for constant in code.co_consts if isinstance(constant, str))}
    return found.union(*(_words(inner) for inner in code.co_consts if isinstance(inner, CodeType)))
