"""The watch over hyperparameters: do the optimizers that step in this process use the config's values?

After an exploit the usual code loads the donor's optimizer, and with it, unseen, the donor's learning rate in place of
the one that was just mutated. The watch looks at each torch optimizer once, at its first step after the function was
entered, and compares at the next report. From then on it is not there at all. See decision 0010.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..applied import CheckApplied, element, leaves, plain, same, target
from .wire import Enter

__all__ = ["Watch"]

_BASES = {"lr": ("initial_lr", "max_lr"), "momentum": ("base_momentum", "max_momentum")}
"""What torch's schedulers keep of a value beside the one that they have changed."""

Groups = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Seen:
    """An optimizer at its first step."""

    optimizer: weakref.ref[Any]
    kind: str
    groups: Groups
    defaults: dict[str, Any]
    """What it was made with."""


@dataclass(frozen=True, slots=True)
class _Use:
    """A group of an optimizer that has a hyperparameter of some name."""

    seen: _Seen
    number: int
    """Of the group."""
    value: Any


class Watch:
    """Compares what optimizers use with the config, once after each time that the function is entered.

    A key counts as drifted only where all of this is so, because a false alarm is worse than none:

    - No optimizer steps with its value.
    - The code is known to hand the value over as it is: the optimizer was made with it, or an earlier one of this
      process used that of its config. A learning rate that is scaled, or that a schedule of the user's sets, is not.
    - The value in use is one that loading has brought, or that was there before the function was entered.

    Args:
        check: what to check; None: nothing, ever.
        mine: whether the calling thread is one of this member's.
    """

    def __init__(self, check: CheckApplied | None, mine: Callable[[], bool]) -> None:
        self._check = check
        self._mine = mine
        self._enter: Enter | None = None
        """What is still to be looked at."""
        self._hook: Any = None
        self._seen: dict[int, _Seen] = {}
        self._came: dict[int, tuple[weakref.ref[Any], Groups]] = {}
        """Of optimizers by id: what they held when the function was entered, or what was loaded into them since."""
        self._taken_over: set[int] = set()
        """Those that were not made by the code since then, so that what they were made with tells nothing."""
        self._was_loaded: set[int] = set()
        self._old: list[weakref.ref[Any]] = []
        self._before: dict[str, Any] = {}
        """The numbers of the last config that was compared."""
        self._direct: dict[str, bool] = {}
        """Keys whose value was in use; True where optimizers were made with it."""
        self._indirect: set[str] = set()
        """Keys whose value was not in use from scratch: the code has its own ways with them."""

    def begin(self, enter: Enter) -> None:
        """The function is about to be entered."""
        self._rest()
        if self._check is None:
            return
        self._enter = enter
        self._seen, self._came, self._taken_over, self._was_loaded = {}, {}, set(), set()
        for reference in self._old:
            if (optimizer := reference()) is not None:
                self._taken_over.add(id(optimizer))
                self._note(optimizer)
        self._look()

    def end(self) -> None:
        """The function has ended: whoever else steps in this process is none of it."""
        self._rest()

    def drifts(self) -> list[tuple[str, str]]:
        """The function reports: return the keys that have drifted, each with what is used and what to do."""
        enter = self._enter
        if enter is None:
            return []
        if self._hook is None:
            self._look()  # the function itself may have imported torch
            return []
        if not self._seen:
            return []  # no optimizer has stepped yet
        self._rest()
        self._old = [seen.optimizer for seen in self._seen.values()]
        with contextlib.suppress(Exception):  # as in _saw
            return self._compare(enter)
        return []

    # ----------------------------------------------------------------------------------------------------- looking

    def _look(self) -> None:
        """Have torch tell of the steps that follow, where it is there: nothing is imported for this."""
        module: Any = sys.modules.get("torch.optim.optimizer")
        register = getattr(module, "register_optimizer_step_pre_hook", None)
        if register is None:
            return
        compiler: Any = sys.modules.get("torch.compiler")
        compiling = getattr(compiler, "is_compiling", bool)

        def stepping(optimizer: Any, args: Any, kwargs: Any) -> None:
            if not compiling() and id(optimizer) not in self._seen:
                self._saw(optimizer)

        hook: Any = stepping
        if "torch._dynamo" in sys.modules:
            hook = compiler.disable(stepping)  # seen in compiled steps, too, and never made a part of them
        self._hook = register(hook)
        if self._enter is not None and self._enter.launch.checkpoint is not None:
            _listen(module.Optimizer, self._loaded)

    def _rest(self) -> None:
        """Be gone until the function is entered again."""
        self._enter = None
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
            _unlisten(sys.modules["torch.optim.optimizer"].Optimizer, self._loaded)

    def _saw(self, optimizer: Any) -> None:
        # Whatever an optimizer of the user's may be like, its step is not what fails on account of this.
        with contextlib.suppress(Exception):
            if self._mine() and not _being_captured():
                reference, kind = weakref.ref(optimizer), type(optimizer).__name__
                seen = _Seen(reference, kind, _values(optimizer), _numbers(getattr(optimizer, "defaults", {})))
                self._seen[id(optimizer)] = seen

    def _loaded(self, optimizer: Any, state: Mapping[str, Any]) -> None:
        with contextlib.suppress(Exception):
            if self._mine():
                if "defaults" in state:  # unpickled as a whole
                    self._taken_over.add(id(optimizer))
                self._was_loaded.add(id(optimizer))
                self._note(optimizer)

    def _note(self, optimizer: Any) -> None:
        with contextlib.suppress(Exception):
            self._came[id(optimizer)] = (weakref.ref(optimizer), _values(optimizer))

    # --------------------------------------------------------------------------------------------------- comparing

    def _compare(self, enter: Enter) -> list[tuple[str, str]]:
        assert self._check is not None
        config = enter.launch.config if enter.config is None else pickle.loads(enter.config)
        before, self._before = self._before, dict(leaves(config))
        checkpoint, trial_id = enter.launch.checkpoint, enter.launch.trial_id
        donors = checkpoint is not None and checkpoint.trial_id != trial_id
        found: list[tuple[str, str]] = []
        for path, value in self._before.items():
            name, index = target(path, self._check.names)
            uses = self._uses(name, index)
            if not uses:
                continue  # a key of something else, or momentum with Adam
            if any(same(value, each) for use in uses for each in _all_of(use, name, index)):
                made = any(same(element(seen.defaults, name, index), value) for seen in self._seen.values())
                self._direct[path] = made
            elif checkpoint is None:
                self._indirect.add(path)
            elif (
                path not in self._indirect
                and (donors or (path in before and not same(before[path], value)))
                and (stale := self._stale(path, value, uses))
            ):
                found.append((path, self._text(path, value, stale, trial_id, donors)))
        return found

    def _uses(self, name: str, index: int | None) -> list[_Use]:
        return [
            _Use(seen, number, value)
            for seen in self._seen.values()
            for number, group in enumerate(seen.groups)
            if (value := element(group, name, index)) is not None
        ]

    def _stale(self, path: str, value: Any, uses: list[_Use]) -> list[_Use]:
        """Return the uses of an old value in the place of the config's."""
        assert self._check is not None
        name, index = target(path, self._check.names)
        others = [
            other for key, other in self._before.items() if key != path and target(key, self._check.names)[0] == name
        ]
        old = [
            use
            for use in uses
            if not any(same(other, each) for other in others for each in _all_of(use, name, index))
            and self._is_old(use, name, index)
        ]
        made = [use for use in old if self._made_here(use) and same(element(use.seen.defaults, name, index), value)]
        if made or path not in self._direct:
            return made
        # An optimizer that is made with the value each time, and this time was not, is none of this key's.
        return [use for use in old if not (self._direct[path] and self._made_here(use))]

    def _made_here(self, use: _Use) -> bool:
        return id(use.seen.optimizer()) not in self._taken_over

    def _is_old(self, use: _Use, name: str, index: int | None) -> bool:
        """Whether a value was there, or was loaded, before the first step, and still is."""
        optimizer = use.seen.optimizer()
        reference, came = self._came.get(id(optimizer), (None, []))
        if optimizer is None or reference is None or reference() is not optimizer or use.number >= len(came):
            return False
        group = use.seen.groups[use.number]
        # Where a scheduler of torch's is at work, what it goes out from counts, and not where it has got to.
        basis = next((each for each in _BASES.get(name, ()) if each in group), name)
        first = element(group, basis, index)
        now = _values(optimizer)[use.number : use.number + 1]
        return all(same(first, element(each, basis, index)) for each in (came[use.number], *now))

    def _text(self, path: str, value: Any, stale: list[_Use], trial_id: str, donors: bool) -> str:
        assert self._check is not None
        name, index = target(path, self._check.names)
        steps = " and ".join(dict.fromkeys(f"{use.seen.kind} steps with {name}={_shown(use.value)}" for use in stale))
        wanted = "config" + "".join(f"[{part!r}]" for part in path.split("/"))
        if not any(id(use.seen.optimizer()) in self._was_loaded for use in stale):
            why = "the optimizer is the one from before, with the value from before. Set it"
        else:
            whose = "the donor's optimizer state" if donors else "the optimizer's state"
            why = f"loading {whose} has put its own value back. Set it after loading"
        new = wanted if index is None else f"the tuple with {wanted} at [{index}]"
        also = ""
        if name == "lr" and any("initial_lr" in use.seen.groups[use.number] for use in stale):
            also = " (and group['initial_lr'], and base_lrs of its scheduler)"
        return (
            f"{wanted} is {_shown(value)}, but {steps} in trial {trial_id}: {why}: for group in "
            f"optimizer.param_groups: group[{name!r}] = {new}{also}. Or load with shoal.torch.restore(checkpoint, "
            f"model=..., optimizer=..., config=config). If {wanted} is not meant for an optimizer, "
            f"TuneConfig(check_applied=tune.CheckApplied(names={{{path!r}: 'none'}})) says so; check_applied=False "
            f"switches this check off."
        )


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _all_of(use: _Use, name: str, index: int | None) -> list[Any]:
    """Return the value in use, and what a scheduler has made it of."""
    group = use.seen.groups[use.number]
    return [use.value, *(element(group, each, index) for each in _BASES.get(name, ()))]


def _values(optimizer: Any) -> Groups:
    """Return the numbers in the groups of an optimizer."""
    return [_numbers(group) for group in optimizer.param_groups]


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: plain(value) for key, value in values.items() if key != "params"}
    return {key: value for key, value in found.items() if value is not None}


def _being_captured() -> bool:
    """Whether a CUDA graph is being recorded, in which no value can be read."""
    cuda: Any = sys.modules.get("torch.cuda")
    return cuda is not None and bool(cuda.is_initialized()) and bool(cuda.is_current_stream_capturing())


# ------------------------------------------------------------------------------------------------ what is loaded

_listeners: list[Callable[[Any, Mapping[str, Any]], None]] = []
_original: Any = None
"""torch's own ``Optimizer.__setstate__``, while ours is in its place."""


def _listen(kind: Any, listener: Callable[[Any, Mapping[str, Any]], None]) -> None:
    """Have a listener told what is loaded into any optimizer.

    torch has hooks for that on each optimizer, but none on all. ``load_state_dict`` and unpickling both end in
    ``Optimizer.__setstate__``, which is another one until the last listener has gone.
    """
    global _original
    _listeners.append(listener)
    if _original is None:
        _original, kind.__setstate__ = kind.__setstate__, _set_state


def _unlisten(kind: Any, listener: Callable[[Any, Mapping[str, Any]], None]) -> None:
    global _original
    if listener in _listeners:
        _listeners.remove(listener)
    if not _listeners and kind.__setstate__ is _set_state:  # else another has been put around it, and calls it
        kind.__setstate__, _original = _original, None


def _set_state(self: Any, state: Any) -> None:
    _original(self, state)
    for listener in tuple(_listeners):
        listener(self, state)
