"""Save and load what a member trains with torch, in a line each: ``import shoal.torch``.

    state = shoal.torch.restore(tune.get_checkpoint(), model=model, optimizer=optimizer, config=config)
    step = state.get("step", 0)
    ...
    tune.report(metrics, checkpoint=shoal.torch.save(model=model, optimizer=optimizer, step=step))

Weights, momentum and where a schedule has got to come from the checkpoint; hyperparameters are the member's own.
"""

from __future__ import annotations

import os
import pickle
import random
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .applied import check_names, element, leaves, plain, same, target
from .checkpoints import DICT_FILE, Checkpoint
from .errors import ConfigError, ReportError
from .worker.session import Session, current_session

__all__ = ["FILE", "restore", "save"]

FILE = "state.pt"
"""The file of a checkpoint that has it all: a dict, for ``torch.load``."""
_PARTS = ("model", "optimizer", "scheduler", "scaler")
_ALWAYS_PUT = ("lr", "momentum", "betas", "weight_decay")
"""What a config means where it uses these names. ``eps`` for example may be something else; ``names`` says."""
_WITH_LR = ("initial_lr", "max_lr", "min_lr")

Groups = list[dict[str, Any]]
_built: weakref.WeakKeyDictionary[Any, Groups] = weakref.WeakKeyDictionary()
"""The hyperparameters of optimizers by group, without what schedules have made of them."""


def save(
    *,
    model: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
    scaler: Any = None,
    rng: bool = True,
    folder: str | os.PathLike[str] | None = None,
    **extra: Any,
) -> Checkpoint:
    """Return a checkpoint for ``tune.report`` that holds the state of all that is given.

    Args:
        model, optimizer, scheduler, scaler: what has a ``state_dict()``, or a dict of names and such objects:
            ``model={"G": generator, "D": discriminator}``. A compiled model is saved as the one that it was made of.
        rng: whether the state of the random generators is saved as well: Python's, torch's on the CPU and on GPUs, and
            NumPy's where it is used. Default True.
        folder: where to write, for ``save_checkpoint(self, folder)`` of a class. Default: a temporary folder, which
            goes with the checkpoint that is returned.
        extra: plain values that :func:`restore` gives back: ``step=step, best=best``.

    Raises:
        ConfigError: something given has no ``state_dict()``, or cannot be written.
    """
    given = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    state: dict[str, Any] = {"extra": extra}
    for part, objects in given.items():
        if objects is not None:
            state[part] = _each(part, objects, "save", lambda one, _: _plain_model(one).state_dict())
    if optimizer is not None:
        state["built"] = _each("optimizer", optimizer, "save", lambda one, _: _remembered(one))
    if rng:
        state["rng"] = _rng_state()
    if folder is None:
        made = Checkpoint.from_dict({})  # a folder that goes with the object
        Path(made.path, DICT_FILE).unlink()
    else:
        made = Checkpoint(folder)
    try:
        with Path(made.path, FILE).open("wb") as file:  # so that a full disk is an OSError, which says so
            torch.save(state, file)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"shoal.torch.save: the state cannot be pickled: {error}. What you give beside model, optimizer, scheduler "
            f"and scaler ({_names(extra)}) should be plain values."
        ) from error
    return made


def restore(
    checkpoint: Checkpoint | str | os.PathLike[str] | None,
    *,
    model: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
    scaler: Any = None,
    config: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
    map_location: Any = None,
    rng: bool | None = None,
    weights_only: bool | None = None,
) -> dict[str, Any]:
    """Load a checkpoint of :func:`save` into what is given, and return the plain values that were saved with it.

    With a config, each optimizer keeps the hyperparameters that it was made with, and not those that come with the
    donor's state; what a schedule has made of the donor's is carried over in proportion, and ``initial_lr`` and the
    scheduler's ``base_lrs`` follow. Where it was made with another ``lr``, ``momentum``, ``betas`` or ``weight_decay``
    than the config's, or has trained with an older config, the config's is put in; groups that had a multiple of the
    optimizer's value, such as a tenth for a backbone, keep that. So if your code scales a value, pass what it makes of
    it: ``config={**config, "lr": scaled}``.

    Args:
        checkpoint: what ``tune.get_checkpoint()`` returned, or the path of its folder. None: nothing is loaded; a
            config is put in all the same, so that all launches train alike, and what an optimizer was made with is
            remembered, to know later what a schedule has made of it. So call this at every launch.
        model, optimizer, scheduler, scaler: as they were given to :func:`save`. What was saved need not be asked for.
        config: the member's config. None: hyperparameters are those of the checkpoint, as with torch.
        names: for keys of the config that optimizers call otherwise, the optimizers' names, as in
            :class:`shoal.tune.CheckApplied`. Where two optimizers have keys of their own, make each with its value.
        map_location: as for ``torch.load``. Default: everything goes where the parameters are that it is loaded into.
        rng: whether the random generators go on from the saved state. Default: only if the checkpoint is not another
            member's, so that a copy draws numbers of its own.
        weights_only: as for ``torch.load``. Default: True, except for the checkpoint that a running trial goes on from.

    Returns:
        The ``extra`` of :func:`save`; empty where there is no checkpoint.

    Raises:
        ConfigError: the checkpoint was not made by :func:`save`, lacks what is asked for, or does not fit it.
    """
    check_names("shoal.torch.restore", {} if names is None else names)
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(
            f"shoal.torch.restore: config must be the dict that the trainable was given, but is {config!r:.200}."
        )
    tuned = None if config is None else _Tuned(config, names or {})
    if tuned is not None and optimizer is not None:
        _each("optimizer", optimizer, "restore", lambda one, _: tuned.look(one))
    if checkpoint is None:
        if tuned is not None and optimizer is not None:
            _each("optimizer", optimizer, "restore", lambda one, _: tuned.begin(one))
        return {}
    path = Path(checkpoint.path if isinstance(checkpoint, Checkpoint) else checkpoint, FILE)
    session = _session_here()
    if weights_only is None:
        weights_only = session is None or not _goes_on_from(session, path)
    state = _read(path, map_location, weights_only)

    def load(part: str, objects: Any, how: Callable[[Any, Any, str | None], None]) -> None:
        if objects is not None and part not in state:
            there = _names(part for part in state if part in _PARTS)
            raise ConfigError(f"shoal.torch.restore: {path} has no {part}, but {there}. Save it: save({part}=...).")
        if objects is not None:
            _each(part, objects, "restore", lambda one, name: how(one, _named(state[part], part, name, path), name))

    def load_optimizer(one: Any, saved: Any, name: str | None) -> None:
        _load_optimizer(one, saved, state["built"] if name is None else state["built"][name], tuned, path)

    def load_scheduler(one: Any, saved: Any, name: str | None) -> None:
        _load(one, saved, "scheduler", path)
        if tuned is not None:
            tuned.follow(one)

    load("model", model, lambda one, saved, _: _load(_plain_model(one), saved, "model", path))
    load("optimizer", optimizer, load_optimizer)
    load("scheduler", scheduler, load_scheduler)
    load("scaler", scaler, lambda one, saved, _: _load(one, saved, "scaler", path))
    own = session is None or session.goes_on_with(str(path.parent))
    if "rng" in state and (own if rng is None else rng):
        _set_rng_state(state["rng"])
    extra: dict[str, Any] = state["extra"]
    return extra


# ------------------------------------------------------------------------------------------------ files and parts


def _read(path: Path, map_location: Any, weights_only: bool) -> dict[str, Any]:
    if not path.is_file():
        there = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
        raise ConfigError(
            f"shoal.torch.restore: {path.parent} is no checkpoint of shoal.torch.save, which has a file {FILE}; it has "
            f"{_names(there)}. Load it the way it was saved."
        )
    try:
        state = torch.load(
            path, map_location="cpu" if map_location is None else map_location, weights_only=weights_only
        )
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"shoal.torch.restore: {path} holds more than plain values and tensors, and loading that executes code. If "
            f"you trust it: restore(..., weights_only=False). ({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(state, dict) or "extra" not in state:
        raise ConfigError(f"shoal.torch.restore: {path} was not written by shoal.torch.save. Load it with torch.load.")
    return state


def _each(part: str, objects: Any, caller: str, how: Callable[[Any, str | None], Any]) -> Any:
    """Do something with an object, or with each of a dict of them; return what comes of it, in a dict for a dict."""
    if hasattr(objects, "state_dict"):
        return how(objects, None)
    if not isinstance(objects, Mapping) or not all(hasattr(one, "state_dict") for one in objects.values()):
        raise ConfigError(
            f"shoal.torch.{caller}: {part} must be an object with state_dict(), or a dict of names and such objects, "
            f"but is {objects!r:.200} ({type(objects).__name__})."
        )
    return {name: how(one, name) for name, one in objects.items()}


def _named(saved: Any, part: str, name: str | None, path: Path) -> Any:
    if name is None:
        return saved
    if name not in saved or not isinstance(saved[name], Mapping):
        raise ConfigError(f"shoal.torch.restore: {path} has no {part} {name!r}, but {_names(saved)}.")
    return saved[name]


def _plain_model(model: Any) -> Any:
    """Return what a compiled model was made of, so that it can be loaded without being compiled."""
    return getattr(model, "_orig_mod", model)


def _load(into: Any, saved: Any, part: str, path: Path) -> None:
    try:
        into.load_state_dict(saved)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"shoal.torch.restore: the {part} in {path}, which has {_names(saved)}, does not fit this "
            f"{type(into).__name__}: {error}"
        ) from error


def _names(values: Any) -> str:
    names = [str(name) for name in values]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"


def _session_here() -> Session | None:
    """Return the session of the trial that runs here, or None."""
    try:
        return current_session("shoal.torch.restore")
    except ReportError:
        return None


def _goes_on_from(session: Session, path: Path) -> bool:
    """Return whether a file is of the checkpoint that a trial goes on from, which members of the experiment wrote."""
    checkpoint = session.get_checkpoint()
    return checkpoint is not None and os.path.realpath(checkpoint.path) == os.path.realpath(path.parent)


# ----------------------------------------------------------------------------------------------- hyperparameters


def _numbers(group: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: plain(value) for name, value in group.items() if name != "params"}
    return {name: value for name, value in found.items() if value is not None}


def _values_built(optimizer: Any) -> Groups:
    """Return the hyperparameters of an optimizer by group, without what schedules have made of them."""
    known = _built.get(optimizer, [])
    now = [_numbers(group) for group in getattr(optimizer, "param_groups", [])]
    for group in now:
        if "lr" in group:
            group["lr"] = group.get("initial_lr", group["lr"])
    return [*known[: len(now)], *now[len(known) :]]


def _remembered(optimizer: Any) -> Groups:
    """Return the same, from now on."""
    _built[optimizer] = _values_built(optimizer)
    return _built[optimizer]


class _Tuned:
    """Puts a config into optimizers."""

    def __init__(self, config: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self._wanted: dict[tuple[str, int | None], dict[str, Any]] = {}
        for path, value in leaves(config):
            name, index = target(path, names)
            if name in _ALWAYS_PUT or path in names or path.rpartition("/")[2] in names:
                self._wanted.setdefault((name, index), {})[path] = value
        self._arrived: set[tuple[str, int | None]] = set()
        """What an optimizer was made with: others beside it have values of their own."""
        self._ratios: dict[int, list[float]] = {}
        """For each optimizer by id, its learning rates as multiples of the donor's, by group."""

    def look(self, optimizer: Any) -> None:
        """Find out which of the config's values an optimizer has already."""
        # One that has trained may have been made with an older config.
        new_here = optimizer not in _built and not getattr(optimizer, "state", None)
        groups = _values_built(optimizer) + ([_numbers(getattr(optimizer, "defaults", {}))] if new_here else [])
        for (name, index), wanted in self._wanted.items():
            if any(same(value, element(group, name, index)) for value in wanted.values() for group in groups):
                self._arrived.add((name, index))

    def begin(self, optimizer: Any) -> Groups:
        """Put the config's values in where they are not, and return what an optimizer has then, by group."""
        built = _values_built(optimizer)
        for (name, index), wanted in self._wanted.items():
            held = [value for group in built if (value := element(group, name, index)) is not None]
            if not held or (name, index) in self._arrived:
                continue
            if len(wanted) > 1:
                raise ConfigError(
                    f"shoal.torch.restore: {_names(wanted)} of the config are all {name}, and "
                    f"{type(optimizer).__name__} has none of their values. Make each optimizer with its own."
                )
            (value,) = wanted.values()
            made_with = element(_numbers(getattr(optimizer, "defaults", {})), name, index)
            basis = next((each for each in (made_with, *held) if each), None)  # a group without decay stays without
            for group, real in zip(built, optimizer.param_groups, strict=True):
                if (old := element(group, name, index)) is not None:
                    new = _in_proportion(value, basis, old)
                    before = group[name]
                    group[name] = new if index is None else (*before[:index], new, *before[index + 1 :])
                    self._put(real, name, _carried(group[name], before, plain(real[name])))
                    for other in _WITH_LR if name == "lr" else ():
                        if other in real:
                            self._put(real, other, _carried(group[name], before, plain(real[other])))
        _built[optimizer] = built
        return built

    def after(self, optimizer: Any, mine: Groups, donors: Groups) -> None:
        """An optimizer has loaded a donor's state: give it its own values back, where a schedule has carried them."""
        ratios: list[float] = []
        for number, group in enumerate(getattr(optimizer, "param_groups", [])):
            theirs = donors[number] if number < len(donors) else {}
            for name, value in mine[number].items():
                if name in _WITH_LR or name not in group or name not in theirs:
                    continue
                if isinstance(value, bool) and (name, None) not in self._wanted:
                    continue  # how the state is laid out, as for amsgrad
                self._put(group, name, _carried(value, theirs[name], plain(group[name])))
            lr, their_lr = mine[number].get("lr"), theirs.get("lr")
            for name in _WITH_LR:
                if name in group and lr is not None and their_lr is not None:
                    self._put(group, name, _carried(lr, their_lr, plain(group[name])))
            ratios.append(lr / their_lr if lr and their_lr and lr != their_lr else 1.0)
        self._ratios[id(optimizer)] = ratios

    def follow(self, scheduler: Any) -> None:
        """A scheduler has loaded a donor's state: let it go out from the optimizer's values."""
        for inner in getattr(scheduler, "_schedulers", ()):
            self.follow(inner)
        groups: Any = getattr(getattr(scheduler, "optimizer", None), "param_groups", None)
        ratios = self._ratios.get(id(getattr(scheduler, "optimizer", None)), [])
        if groups is None or all(ratio == 1.0 for ratio in ratios):
            return
        if hasattr(scheduler, "base_lrs") and all("initial_lr" in group for group in groups):
            scheduler.base_lrs = [_copy(group["initial_lr"]) for group in groups]
        if hasattr(scheduler, "max_lrs"):
            scheduler.max_lrs = [lr * ratio for lr, ratio in zip(scheduler.max_lrs, ratios, strict=True)]
        if hasattr(scheduler, "_last_lr"):
            scheduler._last_lr = [_copy(group["lr"]) for group in groups]

    def _put(self, group: dict[str, Any], name: str, value: Any) -> None:
        held = group[name]
        if plain(held) == value:
            return
        if isinstance(held, torch.Tensor):
            held.fill_(value)  # a compiled or captured step reads this very tensor
        elif isinstance(held, list):
            group[name] = list(value)
        else:
            group[name] = value


def _load_optimizer(optimizer: Any, saved: Any, donors: Groups, tuned: _Tuned | None, path: Path) -> None:
    mine = None if tuned is None else tuned.begin(optimizer)
    before = [dict(group) for group in getattr(optimizer, "param_groups", [])]
    _load(optimizer, saved, "optimizer", path)
    for old, group in zip(before, getattr(optimizer, "param_groups", []), strict=True):
        for name, held in old.items():
            if isinstance(held, torch.Tensor) and plain(group.get(name)) is not None:
                held.fill_(plain(group[name]))
                group[name] = held
    if tuned is not None and mine is not None:
        tuned.after(optimizer, mine, donors)
    else:
        _built[optimizer] = donors


def _carried(mine: Any, theirs: Any, loaded: Any) -> Any:
    """Return my value, in the proportion in which a schedule has changed the donor's; exact where none has."""
    if isinstance(mine, tuple):
        alike = isinstance(theirs, tuple) and isinstance(loaded, tuple) and len(mine) == len(theirs) == len(loaded)
        return tuple(_carried(*each) for each in zip(mine, theirs, loaded, strict=True)) if alike else mine
    if mine == theirs:
        return loaded  # also what an optimizer counts in its groups
    if loaded == theirs or isinstance(mine, tuple) or not theirs:
        return mine
    return mine * loaded / theirs


def _in_proportion(value: Any, basis: Any, old: Any) -> Any:
    numbers = all(isinstance(each, (int, float)) for each in (value, basis, old))
    return value * old / basis if numbers and basis and not same(old, basis) else value


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


# ------------------------------------------------------------------------------------------------ random numbers


def _rng_state() -> dict[str, Any]:
    """Return the state of this process's random generators, as plain values and tensors."""
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if (numpy := sys.modules.get("numpy")) is not None:
        kind, keys, *rest = numpy.random.get_state()
        state["numpy"] = [kind, keys.tolist(), *rest]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _set_rng_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"].cpu())
    if "numpy" in state and (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.set_state(tuple(state["numpy"]))
    for device, saved in _cuda_states(state):
        torch.cuda.set_rng_state(saved.cpu(), device)


def _cuda_states(state: Mapping[str, Any]) -> Iterator[tuple[int, Any]]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    yield from ((device, saved) for device, saved in enumerate(state.get("cuda", ())) if device < count)
