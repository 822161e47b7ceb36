"""The user's settings in the journal: written when an experiment begins, read when it goes on."""

from __future__ import annotations

import base64
import dataclasses
import pickle
import types
from collections.abc import Mapping
from typing import Any, TypeVar

from .arguments import given_arguments, is_default
from .config import RunConfig, TuneConfig
from .errors import ConfigError, JournalError
from .location import Location
from .schedulers import FIFOScheduler, TrialScheduler

__all__ = ["alike", "check_same", "gives_budget", "gives_stop", "is_same_stop", "settings_to_meta", "stored_settings"]

T = TypeVar("T", RunConfig, TuneConfig)
_PARTS = ("tune", "run", "callbacks", "stop")
_NEVER_NONE = frozenset({"metric", "mode", "scheduler", "seed"})
_LARGEST = 16 << 20
"""Bytes of a part. What takes more is data that a setting happens to hold, and would be written at every start."""


def settings_to_meta(tune: TuneConfig, run: RunConfig) -> dict[str, Any]:
    """Return the settings as JSON values for the journal, each part pickled by itself.

    What cannot be pickled, a callback with an open connection for example, or is very large, is left out with the
    reason; it stands in the way of nothing but a restore that needs it.
    """
    parts = {
        "tune": tune,
        "run": dataclasses.replace(run, callbacks=None, stop=None),
        "callbacks": None if run.callbacks is None else list(run.callbacks),
        "stop": run.stop,
    }
    return {f"settings_{name}": _pickled(part) for name, part in parts.items()}


def _pickled(part: object) -> dict[str, str]:
    from .pickles import dumps

    try:
        data = dumps(part)
    except Exception as error:
        return {"reason": f"{type(error).__name__}: {error}"}
    if len(data) > _LARGEST:
        return {
            "reason": f"they take {len(data) >> 20} MB, because a function or an object in them holds data, and more "
            f"than {_LARGEST >> 20} MB are not kept"
        }
    return {"pickle": base64.b64encode(data).decode()}


def stored_settings(
    meta: Mapping[str, Any], folder: Location, run: RunConfig | None, tune: TuneConfig | None
) -> tuple[TuneConfig, RunConfig]:
    """Return the settings of an experiment, with those that are given now in place of the old.

    Args:
        meta: the journal's facts.
        folder: where the experiment is, from which name and storage path follow.
        run, tune: what they were given replaces the old, also where it is the default.

    Raises:
        ConfigError: a setting is given that cannot change.
        JournalError: the old settings are not there or cannot be loaded.
    """
    parts: dict[str, Any] = {}
    for name in _PARTS:
        entry = meta.get(f"settings_{name}")
        if entry is None:
            raise JournalError(f"{folder} has no settings to go on with: it was not started by tune.Tuner.fit().")
        parts[name] = _loaded(entry, name, folder, given=_gives(name, run, tune))
    new_tune: TuneConfig = parts["tune"] or TuneConfig()
    new_run: RunConfig = dataclasses.replace(
        parts["run"] or RunConfig(), callbacks=parts["callbacks"], stop=parts["stop"]
    )
    if tune is not None:
        _check_unchanged(tune, meta, parts["tune"])
        new_tune = _merged(new_tune, tune)
    if run is not None:
        new_run = _merged(new_run, run)
    return new_tune, dataclasses.replace(new_run, name=folder.name, storage_path=folder.storage)


def gives_stop(run: RunConfig | None) -> bool:
    """Return whether the user gives a stop condition now."""
    return run is not None and "stop" in _set(run)


def gives_budget(tune: TuneConfig | None) -> bool:
    """Return whether the user gives a time budget now."""
    return tune is not None and "time_budget_s" in _set(tune)


def is_same_stop(run: RunConfig | None, meta: Mapping[str, Any]) -> bool:
    """Return whether a stopper is given that the experiment has had already.

    It would not remember why it ended a trial, and let all of them train on. A dict or a function says again, if asked,
    that a trial has met it.
    """
    if run is None or not callable(getattr(run.stop, "stop_all", None)):
        return False
    try:
        before = pickle.loads(base64.b64decode(meta["settings_stop"]["pickle"]))
    except Exception:
        return False
    return alike(before, run.stop)


def _gives(part: str, run: RunConfig | None, tune: TuneConfig | None) -> bool:
    """Whether the user gives anew what this part held."""
    if part == "tune":
        return tune is not None and tune.scheduler is not None
    return part in ("callbacks", "stop") and run is not None and part in _set(run)


def _loaded(entry: Mapping[str, str], part: str, folder: Location, *, given: bool) -> Any:
    try:
        reason = entry.get("reason")
        if reason is None:
            return pickle.loads(base64.b64decode(entry["pickle"]))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    if given:
        return None
    where = {
        "tune": "tune_config=tune.TuneConfig(scheduler=...)",
        "callbacks": "run_config=tune.RunConfig(callbacks=[...])",
        "stop": "run_config=tune.RunConfig(stop=...)",
    }.get(part, "run_config=tune.RunConfig(...)")
    what = {"tune": "scheduler and settings", "run": "run settings"}.get(part, part)
    raise JournalError(
        f"The {what} of the experiment {folder} cannot be loaded: {reason}. Give them again: "
        f"Tuner.restore(path, trainable, {where})."
    )


def _merged(old: T, new: T) -> T:
    """Return the old settings with all that the new ones set."""
    return dataclasses.replace(old, **{name: getattr(new, name) for name in _set(new)})


def _set(config: RunConfig | TuneConfig) -> frozenset[str]:
    """Return the fields that the user has set: when the object was made, or later."""
    fields = dataclasses.fields(config)
    names = given_arguments(config) | {
        field.name for field in fields if not is_default(field.default, getattr(config, field.name))
    }
    # These have no default of their own: None stands for what is said elsewhere, and here for what was.
    return names - {name for name in _NEVER_NONE & names if getattr(config, name) is None}


def _check_unchanged(new: TuneConfig, meta: Mapping[str, Any], old: TuneConfig | None) -> None:
    """Compare with the facts, where the metric given to the scheduler and a seed that was drawn stand, too."""
    before = {name: meta[name] for name in ("metric", "mode", "seed")}
    before["control"] = len(meta.get("control", ()))
    if old is not None:
        before["num_samples"] = old.num_samples
        if new.scheduler is not None:
            _check_scheduler(new.scheduler, old.scheduler or FIFOScheduler())
    for name in _set(new) & before.keys():
        check_same("TuneConfig", name, getattr(new, name), before[name])


def _check_scheduler(new: TrialScheduler, old: TrialScheduler) -> None:
    """Past decisions are not in the journal but follow from it, so what they depend on has to stay."""
    check_same("TuneConfig", "scheduler", new.describe(), old.describe())
    for name in new.settled:
        check_same(new.describe(), name, getattr(new, name), getattr(old, name, None))


def check_same(owner: str, name: str, value: object, before: object) -> None:
    """Raise ConfigError where a setting differs from what it was, and cannot."""
    if not alike(value, before):
        raise ConfigError(
            f"Tuner.restore: {owner}({name}={value!r:.200}) cannot change when an experiment goes on; it is "
            f"{before!r:.200}. Give that, or start a new experiment."
        )


_BY_NAME = (types.BuiltinFunctionType, types.ModuleType)
_OF_EVERY_CLASS = frozenset(
    "__annotations__ __dict__ __doc__ __firstlineno__ __module__ __static_attributes__ __weakref__ _abc_impl".split()
)


def alike(one: Any, other: Any) -> bool:
    """Return whether two objects are of the same kind and consist of the same.

    Most classes of users, and functions, know no equality but identity; and two pickles of the same object differ where
    its class is the script's. So what pickle would write of them is compared part by part: for functions and for
    classes of a script also their code, and what they read of the script.
    """
    try:
        return _alike(one, other, {})
    except Exception:
        return False  # what cannot be taken apart is another


def _alike(one: Any, other: Any, seen: dict[tuple[int, int], Any]) -> bool:
    if one is other or (id(one), id(other)) in seen:
        return True
    seen[id(one), id(other)] = (one, other)  # kept, so that their ids stay theirs
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return bool(one == other or (one != one and other != other))
    if not _same_name(type(one), type(other)):
        return False
    if one is None or isinstance(one, (str, bytes, complex)):
        return bool(one == other)
    if isinstance(one, _BY_NAME):
        return _same_name(one, other)
    if isinstance(one, type):
        mine, others = _members(one), _members(other)
        both_of_scripts = bool(mine) and bool(others)
        return _same_name(one, other) and (not both_of_scripts or _alike(mine, others, seen))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key], seen) for key in one)
    parts, opposite = _parts(one), _parts(other)
    return len(parts) == len(opposite) and all(_alike(*both, seen) for both in zip(parts, opposite, strict=True))


def _same_name(one: Any, other: Any) -> bool:
    """Whether two classes, functions or modules have the same name; a script may be a module another time."""
    homes = {getattr(each, "__module__", None) for each in (one, other)}
    names = {getattr(each, "__qualname__", getattr(each, "__name__", None)) for each in (one, other)}
    return len(names) == 1 and (len(homes) == 1 or "__main__" in homes)


def _members(cls: type[Any]) -> dict[str, Any]:
    """Return what the body of a script's class holds; of a class that can be imported, which is today's, nothing."""
    if cls.__module__ != "__main__":
        return {}
    return {"__bases__": cls.__bases__, **{k: v for k, v in vars(cls).items() if k not in _OF_EVERY_CLASS}}


def _parts(value: Any) -> list[Any]:
    """Return what an object consists of."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        read = {name: value.__globals__[name] for name in _names_in(value.__code__) if name in value.__globals__}
        return [value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__, cells, read]
    if isinstance(value, types.CodeType):
        return [value.co_code, value.co_consts, value.co_names, value.co_varnames]
    if isinstance(value, (staticmethod, classmethod)):
        return [value.__func__]
    if isinstance(value, property):
        return [value.fget, value.fset]
    reduced = value.__reduce_ex__(4)
    if isinstance(reduced, str):
        return [reduced]
    return [part if index < 3 or part is None else list(part) for index, part in enumerate(reduced)]


def _names_in(code: types.CodeType) -> set[str]:
    """Return the names that code, and the functions inside of it, look up."""
    inner = [_names_in(const) for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*inner)
