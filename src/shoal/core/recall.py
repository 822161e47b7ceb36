"""Restoring an experiment: read its journal back into the same pure state. Pure.

The events are applied again, and have to lead to the decisions that were written down behind them. Functions of the
user are not called for that: what they returned is in the journal, and they may return something else today.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast, get_args

from ..errors import InvalidTransition
from ..space import same
from .commands import Command, Exploit, Status
from .events import Config, Event
from .population import Population
from .trial import Trial

__all__ = ["Choice", "choose", "recall"]

_EVENTS: tuple[type[Any], ...] = get_args(Event)
_PLAIN = frozenset({bool, int, float, str, type(None)})
"""The types of values that a journal gives back as they were, beside dicts, lists and tuples."""


def recall(population: Population, items: Iterable[Event | Command]) -> None:
    """Bring a new population to where the items of a journal lead.

    Args:
        population: has seen no event yet; its policy has the settings of the experiment.
        items: events, each followed by the commands that were decided upon it.

    Raises:
        InvalidTransition: the events lead to other decisions: the journal was written by another version of Shoal that
            decides differently, or was changed.
    """
    items = list(items)
    population.policy.recall(_Recorded(items))
    expected: deque[Command] = deque()
    for place, item in enumerate(items, start=1):
        if isinstance(item, _EVENTS):
            if expected:
                raise _disagreement(place, item, expected[0])
            expected.extend(population.apply(cast(Event, item)))
        elif not expected or not _same(item, expected[0]):
            raise _disagreement(place, item, expected[0] if expected else None)
        else:
            expected.popleft()
    if expected:
        raise _disagreement(len(items), None, expected[0])
    population.policy.recall({})


class _Recorded(Mapping[tuple[str, int], Config]):
    """The configs of all exploits in a journal. Asked for one that is not there, it raises: nobody explores anew."""

    def __init__(self, items: Iterable[Event | Command]) -> None:
        exploits = [item for item in items if isinstance(item, Exploit)]
        self._configs = {(exploit.trial_id, exploit.generation): exploit.new_config for exploit in exploits}

    def __getitem__(self, key: tuple[str, int]) -> Config:
        if key not in self._configs:
            raise InvalidTransition(
                f"the journal has no exploit {key[1]} of trial {key[0]}, but what was before leads to one"
            )
        return self._configs[key]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._configs)

    def __len__(self) -> int:
        return len(self._configs)


def _same(one: Any, other: Any) -> bool:
    """Whether two commands say the same."""
    if type(one) is not type(other):
        return False
    for name in (field.name for field in dataclasses.fields(one)):
        equal = _same_data if name.endswith("config") else _equal
        if not equal(getattr(one, name), getattr(other, name)):
            return False
    return True


def _equal(one: Any, other: Any) -> bool:
    if dataclasses.is_dataclass(one):
        return _same(one, other)
    return bool(one == other or (one != one and other != other))  # NaN is what differs from itself


def _same_data(one: Any, other: Any) -> bool:
    """Whether two configs have the same plain data. Objects in them are not compared: not all know what equal means."""
    if type(one) in _PLAIN and type(other) in _PLAIN:
        return same(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        if not all(type(key) is str for key in (*one, *other)):
            return True  # it was written down as one object
        return one.keys() == other.keys() and all(_same_data(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same_data, one, other))
    return not any(type(value) in _PLAIN or isinstance(value, (dict, list, tuple)) for value in (one, other))


def _disagreement(place: int, found: object, expected: object) -> InvalidTransition:
    return InvalidTransition(
        f"record {place} of the journal is {_short(found)}, but what was before leads to {_short(expected)}"
    )


def _short(item: object) -> str:
    text = "nothing" if item is None else repr(item)
    return text if len(text) < 300 else text[:300] + "..."


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """Which trials of an experiment go on when it is opened again; see :class:`shoal.core.events.Opened`."""

    again: tuple[str, ...]
    anew: tuple[str, ...]
    dropped: tuple[str, ...]


def choose(
    population: Population, *, unfinished: bool, errored: bool, restarted: bool, extended: Iterable[str]
) -> Choice:
    """Return which trials go on.

    Args:
        population: the experiment as it was left.
        unfinished: whether those go on that were cut off: by a crash, an interruption or ``fail_fast``.
        errored: whether those that failed go on from their newest checkpoint.
        restarted: whether those that failed begin from scratch.
        extended: trials that had finished by a condition of the user's, but not by those that count from now on.
    """
    trials = list(population.trials.values())
    again = set(extended)
    if unfinished:
        again |= {trial.trial_id for trial in trials if trial.cut}
    if errored and not restarted:
        again |= {trial.trial_id for trial in trials if _failed(trial)}
    return Choice(
        again=tuple(trial.trial_id for trial in trials if trial.trial_id in again and trial.status.ended),
        anew=tuple(trial.trial_id for trial in trials if restarted and _failed(trial)),
        dropped=tuple(trial.trial_id for trial in trials if not unfinished and not trial.status.ended),
    )


def _failed(trial: Trial) -> bool:
    return trial.status is Status.ERROR
