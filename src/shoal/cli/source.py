"""A schedule as Python source that runs by itself, without Shoal or anything else that would have to be installed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..journal.codec import Unloadable

if TYPE_CHECKING:
    from ..lineage import Schedule

__all__ = ["schedule_source", "source_of"]

_HEAD = '''"""A hyperparameter schedule: config(step) returns the config of each training step, from 1 on.

Made by "shoal schedule --format python" from a run of Population Based Training.
"""

import copy

EXPERIMENT = {experiment}
TRIAL = {trial}
STEPS = {steps}  # how long it was trained in that run

# (after so many steps, the config from then on)
SCHEDULE = [
{entries}
]


def config(step):
    """Return the config that training step `step` was done with; the first step is 1."""
    found = None
    for after, values in SCHEDULE:
        if after < step:
            found = values
    if found is None:
        raise ValueError("step must be at least %d, but is %r" % (SCHEDULE[0][0] + 1, step))
    return copy.deepcopy(found)
'''


def schedule_source(schedule: Schedule, experiment: str, trial: str, steps: int) -> str:
    """Return a module with a function ``config(step)``.

    Args:
        schedule: it has at least one change.
        experiment, trial: their names.
        steps: how long the weights were trained.

    Raises:
        ConfigError: a config holds more than plain data, which source cannot say.
    """
    entries = "\n".join(f"    ({begin}, {source_of(config, '')})," for begin, config in schedule.changes)
    return _HEAD.format(experiment=ascii(experiment), trial=ascii(trial), steps=steps, entries=entries)


def source_of(value: Any, path: str) -> str:
    """Return Python source whose value equals this one, of the same types.

    Args:
        value: None, a bool, a number, a text, bytes, or a list, a tuple, a set, a dict of these. NumPy's are Python's.
        path: where it is, for the error: ``model/lr``; empty for the whole.

    Raises:
        ConfigError: it is anything else.
    """
    kind = type(value)
    if value is None or kind in (bool, int, bytes):
        return repr(value)
    if kind is str:
        return ascii(value)
    if kind is float:
        return repr(value) if math.isfinite(value) else f"float({str(value)!r})"
    if kind is dict:
        parts = [f"{source_of(key, path)}: {source_of(each, _below(path, key))}" for key, each in value.items()]
        return f"{{{', '.join(parts)}}}"
    if kind in (list, tuple):
        inside = ", ".join(source_of(each, _below(path, place)) for place, each in enumerate(value))
        if kind is list:
            return f"[{inside}]"
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if kind in (set, frozenset):
        return f"{kind.__name__}([{', '.join(sorted(source_of(each, path) for each in value))}])"
    if kind.__module__ == "numpy" and callable(tolist := getattr(value, "tolist", None)):
        return source_of(tolist(), path)
    what = "an object" if kind is Unloadable else f"a {kind.__name__}"
    raise ConfigError(
        f"The schedule cannot be written as Python: config[{path!r}] is {what}, {value!r:.100}, and only "
        f"plain data can: numbers, text, None, lists, tuples, sets and dicts. --format json writes it as its text."
    )


def _below(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)
