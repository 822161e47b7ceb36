"""Save and load what a member trains with torch, in a line each: ``import shoal.torch``.

    state = shoal.torch.restore(tune.get_checkpoint(), model=model, optimizer=optimizer, config=config)
    step = state.get("step", 0)
    ...
    tune.report(metrics, checkpoint=shoal.torch.save(model=model, optimizer=optimizer, step=step))

Weights, momentum and where a schedule has got to come from the checkpoint; hyperparameters follow the member's config.
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
from torch import nn

from .applied import check_names, plain
from .checkpoints import DICT_FILE, Checkpoint, replacing
from .errors import ConfigError, ReportError
from .torch_hyperparameters import Takeover, Under, describe, is_new, note, numbers_of
from .worker.session import Session, current_session

__all__ = ["FILE", "restore", "save"]

FILE = "state.pt"
"""The file of a checkpoint that has it all: a dict, for ``torch.load``."""
_PARTS = ("scaler", "model", "optimizer", "scheduler")
"""In the order in which they are loaded."""


def save(
    *,
    model: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
    scaler: Any = None,
    config: Mapping[str, Any] | None = None,
    rng: bool = True,
    folder: str | os.PathLike[str] | None = None,
    **extra: Any,
) -> Checkpoint:
    """Return a checkpoint for ``tune.report`` that holds the state of all that is given.

    Args:
        model, optimizer, scheduler, scaler: what has a ``state_dict()``, or a dict of names and such objects:
            ``model={"G": generator, "D": discriminator}``. A compiled model is saved as the one that it was made of.
        config: the config that the optimizers train with. Its numbers are saved with them, so that :func:`restore`
            knows what has changed. Default: what ``restore`` was given in this launch, else the running trial's; and
            outside of trials none, so that only what is made anew follows a new config.
        rng: whether the state of the random generators is saved as well: Python's, torch's on the CPU and on GPUs, and
            NumPy's where it is used. Default True.
        folder: where to write, for ``save_checkpoint(self, folder)`` of a class. Default: a temporary folder, which
            goes with the checkpoint that is returned.
        extra: plain values that :func:`restore` gives back: ``step=step, best=best``. NumPy's scalars come back as
            Python's.

    Raises:
        ConfigError: something given has no ``state_dict()``, or cannot be written.
    """
    given = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    under = _under(_session_here(), _checked("save", given, config))
    state: dict[str, Any] = {"extra": _without_numpy(extra)}
    for part, objects in given.items():
        if objects is not None:
            state[part] = _each(objects, lambda one, _: _plain_model(one).state_dict())
            if part != "model":
                state[part] = _without_numpy(state[part])
    if optimizer is not None:
        state["tuned"] = _each(optimizer, lambda one, _: describe(one, under))
    if rng:
        state["rng"] = _rng_state()
    if folder is None:
        made = Checkpoint.from_dict({})  # a folder that goes with the object
        Path(made.path, DICT_FILE).unlink()
        made.linked_files = (FILE,)
    else:
        made = Checkpoint(folder)
    try:
        # By way of another name: where this folder was reported before, the file may be linked into a checkpoint.
        with replacing(Path(made.path, FILE)) as file:
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

    All is loaded as torch loads it, hyperparameters included. With a config, what depends on keys of it that have
    another value than when the checkpoint was saved is then multiplied by new / old. So what a schedule has made of a
    learning rate goes on, groups keep their multiples, and where nothing has changed, all is what it was, to the bit.
    Nothing is put into an optimizer where there is no checkpoint.

    What depends on the config is found out. A value does if the optimizer was just made with another one than the
    donor's; or if it had the key's new value before loading, as where ``reset_config`` of a class sets it; or, in an
    optimizer that a class keeps, if it and the donor's had the values that the key had for them. So rates that your
    code scales stay scaled, and constants beside are left alone. What is left alone has the donor's value.

    What schedulers note of a learning rate (``initial_lr``, ``max_lr``, ``base_lrs``) follows, and those that were
    just made keep their own. Where a schedule is not proportional, ``LambdaLR`` and ``CosineAnnealingLR`` are computed
    anew; ``CyclicLR``, ``OneCycleLR`` and ``CosineAnnealingWarmRestarts`` are right from their next step on. ``SWALR``
    and a rate that ``ReduceLROnPlateau`` has brought to its ``min_lr`` are only multiplied.

    Args:
        checkpoint: what ``tune.get_checkpoint()`` returned, or the path of its folder. None: nothing is loaded.
        model, optimizer, scheduler, scaler: as they were given to :func:`save`. What was saved need not be asked for.
        config: the member's config. If your code scales values before it uses them, both this and what it makes of it
            will do. None: hyperparameters are those of the checkpoint, as with torch.
        names: for keys of the config that optimizers call otherwise, the optimizers' names, as in
            :class:`shoal.tune.CheckApplied`. Several may have the same: ``{"lr_g": "lr", "lr_d": "lr"}``.
        map_location: as for ``torch.load``. Default: everything goes where the parameters are that it is loaded into.
        rng: whether the random generators go on from the saved state. Default: only in a trial that goes on from its
            own checkpoint, so that a copy draws numbers of its own.
        weights_only: as for ``torch.load``. Default: True, except for the checkpoint that a running trial goes on from.

    Returns:
        The ``extra`` of :func:`save`; empty where there is no checkpoint.

    Raises:
        ConfigError: the checkpoint was not made by :func:`save`, lacks what is asked for, or does not fit it.
    """
    check_names("shoal.torch.restore", {} if names is None else names)
    given = {"scaler": scaler, "model": model, "optimizer": optimizer, "scheduler": scheduler}
    numbers = _checked("restore", given, config)
    session = _session_here()
    new: dict[int, bool] = {}
    if optimizer is not None:
        _each(optimizer, lambda one, _: new.update({id(one): is_new(one)}))
    extra: dict[str, Any] = {}
    if checkpoint is not None:
        extra = _load_all(checkpoint, given, numbers, names or {}, session, map_location, rng, weights_only)
    if optimizer is not None:
        under = _under(session, numbers)
        _each(optimizer, lambda one, _: note(one, under, new=new[id(one)]))
    return extra


def _load_all(
    checkpoint: Checkpoint | str | os.PathLike[str],
    given: Mapping[str, Any],
    config: dict[str, Any] | None,
    names: Mapping[str, str],
    session: Session | None,
    map_location: Any,
    rng: bool | None,
    weights_only: bool | None,
) -> dict[str, Any]:
    path = Path(checkpoint.path if isinstance(checkpoint, Checkpoint) else checkpoint, FILE)
    if weights_only is None:
        weights_only = session is None or not _goes_on_from(session, path)
    state = _read(path, map_location, weights_only)
    loads: list[tuple[str, Any, Any]] = []
    takeover = None if config is None else Takeover(config, names)
    for part in _PARTS:
        if given[part] is None:
            continue
        if part not in state:
            there = _names(part for part in state if part in _PARTS)
            raise ConfigError(f"shoal.torch.restore: {path} has no {part}, but {there}. Save it: save({part}=...).")

        def prepare(one: Any, name: str | None, part: str = part) -> None:
            loads.append((part, one, _named(state[part], part, name, path)))
            if part == "optimizer" and takeover is not None:
                tuned = state.get("tuned", {})
                takeover.add_optimizer(one, tuned if name is None else tuned.get(name, {}))
            elif part == "scheduler" and takeover is not None:
                takeover.add_scheduler(one)

        _each(given[part], prepare)
    for part, one, saved in loads:  # all of them before the first one is loaded, so that none is changed in vain
        _check_fits(one, saved, part, path)
    for part, one, saved in loads:
        _load(one, saved, part, path)
    if takeover is not None:
        takeover.finish()
    own = session is not None and session.goes_on_with(str(path.parent))
    if "rng" in state and (own if rng is None else rng):
        _set_rng_state(state["rng"])
    extra: dict[str, Any] = state["extra"]
    return extra


def _checked(caller: str, given: Mapping[str, Any], config: object) -> dict[str, Any] | None:
    """Return the numbers of the config, if there is one; raise ConfigError for what is no state or config."""
    for part, objects in given.items():
        mapping = isinstance(objects, Mapping) and all(_has_state(one) for one in objects.values())
        if objects is not None and not _has_state(objects) and not mapping:
            raise ConfigError(
                f"shoal.torch.{caller}: {part} must be an object with state_dict(), or a dict of names and such "
                f"objects, but is {objects!r:.200} ({type(objects).__name__})."
            )
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(
            f"shoal.torch.{caller}: config must be the dict that the trainable was given, but is {config!r:.200}."
        )
    return None if config is None else numbers_of(config)


# ---------------------------------------------------------------------------------------------------- the running trial

_of_launch: weakref.WeakKeyDictionary[Session, tuple[int, dict[str, Any]]] = weakref.WeakKeyDictionary()
"""The numbers of the newest launch's config, by session: each save needs them."""


def _session_here() -> Session | None:
    """Return the session of the trial that runs here, or None."""
    try:
        session = current_session("shoal.torch")
    except ReportError:
        return None
    return None if session.launch is None else session


def _under(session: Session | None, given: dict[str, Any] | None) -> Under:
    if session is None or session.launch is None:
        return Under(None, None, given)
    launch, numbers = _of_launch.get(session, (None, {}))
    if launch != session.launch:
        numbers = numbers_of(session.config)
        _of_launch[session] = (session.launch, numbers)
    return Under((session.context.trial_id, session.launch), numbers, given)


def _goes_on_from(session: Session, path: Path) -> bool:
    """Return whether a file is of the checkpoint that a trial goes on from, which members of the experiment wrote."""
    checkpoint = session.get_checkpoint()
    return checkpoint is not None and os.path.realpath(checkpoint.path) == os.path.realpath(path.parent)


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


def _has_state(one: Any) -> bool:
    return hasattr(one, "state_dict") and hasattr(one, "load_state_dict")


def _each(objects: Any, how: Callable[[Any, str | None], Any]) -> Any:
    """Do something with an object, or with each of a dict of them; return what comes of it, in a dict for a dict."""
    if _has_state(objects):
        return how(objects, None)
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


def _check_fits(into: Any, saved: Mapping[str, Any], part: str, path: Path) -> None:
    """Raise ConfigError where it is sure that torch will not load a state, or only a part of it."""
    if part == "model":
        wrong = _misfit_of_model(_plain_model(into), saved)
    elif part == "optimizer":
        wrong = _misfit_of_optimizer(into, saved)
    else:
        own = into.state_dict()
        wrong = f"here is {_names(own)}" if own and saved and not own.keys() & saved.keys() else ""
    if wrong:
        raise _misfit(into, saved, part, path, wrong)


def _misfit_of_optimizer(optimizer: Any, saved: Mapping[str, Any]) -> str:
    hooks = getattr(optimizer, "_optimizer_load_state_dict_pre_hooks", None)
    if not isinstance(optimizer, torch.optim.Optimizer) or hooks:
        return ""  # torch will see
    if "param_groups" not in saved:
        return "the state has no param_groups"
    there, here = ([len(group["params"]) for group in groups] for groups in (saved["param_groups"], _groups(optimizer)))
    if len(there) != len(here):
        return f"the state has a different number of parameter groups: {len(there)}, and here are {len(here)}"
    return f"the state has groups of {_names(there)} parameters, here are {_names(here)}" if there != here else ""


def _misfit_of_model(model: Any, saved: Mapping[str, Any]) -> str:
    modules = model.modules() if isinstance(model, nn.Module) else [None]
    if getattr(type(model), "load_state_dict", None) is not nn.Module.load_state_dict or any(map(_may_rename, modules)):
        return ""  # torch will see
    own = model.state_dict()
    wrong = [f"missing: {name}" for name in own if name not in saved]
    wrong += [f"unexpected: {name}" for name in saved if name not in own]
    for name in own:
        there, here = saved.get(name), own[name]
        if isinstance(there, torch.Tensor) and isinstance(here, torch.Tensor) and there.shape != here.shape:
            wrong.append(f"size mismatch: {name} is {tuple(there.shape)} there and {tuple(here.shape)} here")
    return "; ".join(wrong[:4]) + (f"; and {len(wrong) - 4} more" if len(wrong) > 4 else "")


def _may_rename(module: Any) -> bool:
    """Return whether code of the user's comes in between, which may rename or reshape what is loaded."""
    ways = type(module)._load_from_state_dict.__module__
    return bool(module._load_state_dict_pre_hooks) or not ways.startswith("torch.nn.")


def _groups(optimizer: Any) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = getattr(optimizer, "param_groups", [])
    return groups


def _load(into: Any, saved: Any, part: str, path: Path) -> None:
    real = _plain_model(into) if part == "model" else into
    before = [dict(group) for group in _groups(real)]
    try:
        real.load_state_dict(saved)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _misfit(into, saved, part, path, str(error)) from error
    for old, group in zip(before, _groups(real), strict=False):
        for name, held in old.items():
            if isinstance(held, torch.Tensor) and (number := plain(group.get(name))) is not None:
                group[name] = held.fill_(number)  # a compiled or captured step reads this very tensor


def _misfit(into: Any, saved: Any, part: str, path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"shoal.torch.restore: the {part} in {path}, which has {_names(saved)}, does not fit this "
        f"{type(into).__name__}: {why}"
    )


def _names(values: Any) -> str:
    names = [str(name) for name in values]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"


def _without_numpy(value: Any) -> Any:
    """Return dicts, lists and tuples with Python's numbers in place of NumPy's, which torch takes for code."""
    if type(value) is dict:
        return {_without_numpy(key): _without_numpy(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_without_numpy(entry) for entry in value)
    numpy = sys.modules.get("numpy")
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value


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
