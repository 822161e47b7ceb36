"""Results are written briefly: what a result shares with an earlier one of its launch is not written again.

The first result of a launch, and the first with other metrics, is a record like any other. Those that follow have the
kind ``R`` and name it by its number:

    [number, iteration, [metrics], timestamp, time_this_iter_s, time_since_restore]

Behind that come ``time_total_s``, ``waiting``, ``stop`` and ``checkpoint``, as far as the last one that is not what it
mostly is. So a result can be read with one other record, and the number of ``iterations_since_restore`` follows from
``iteration``, as ``time_total_s`` does from ``time_since_restore``: both differ by what was before the launch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..core.events import Reported, SavedCheckpoint
from .codec import Item, encode, from_json_text, made, to_json_text

__all__ = ["BRIEF", "Expander", "Writer"]

BRIEF = "R"
"""Kind of a result that is written briefly."""
_NUMBERS = frozenset({int, float})
_SHAPES_AT_MOST = 16
"""So many kinds of metrics of a launch are remembered. Of one that always reports others, each is written out."""
_REST: tuple[Any, ...] = (None, False, None, None)
"""What is left off at the end."""
_LEAST = 6


@dataclass(frozen=True, slots=True)
class _Like:
    """What results share with an earlier one of their launch."""

    seq: int
    trial_id: str
    launch: int
    keys: tuple[str, ...]
    iteration: int
    """The one that the launch began with."""
    before_ns: int
    """``time_total_s`` when the launch began, in nanoseconds."""

    @classmethod
    def of(cls, seq: int, report: Reported) -> _Like:
        """Return what others may share with this result."""
        return cls(
            seq,
            report.trial_id,
            report.launch,
            tuple(report.metrics),
            report.iteration - report.iterations_since_restore,
            _nanoseconds(report.time_total_s) - _nanoseconds(report.time_since_restore),
        )

    def total(self, since_restore: float) -> float:
        """Return what ``time_total_s`` is, most likely: sessions count nanoseconds."""
        return (_nanoseconds(since_restore) + self.before_ns) / 1e9 if self.before_ns else since_restore


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9) if abs(seconds) < 1e15 else 0


@dataclass(slots=True)
class _Launch:
    """The newest launch of a trial."""

    number: int
    likes: dict[tuple[str, ...], _Like] = field(default_factory=dict[tuple[str, ...], _Like])


class Writer:
    """Encodes the records of a journal in their order. Where one was not written after all, take another writer."""

    def __init__(self) -> None:
        self._launches: dict[str, _Launch] = {}

    def encode(self, seq: int, item: Item) -> tuple[str, str, list[str] | None]:
        """Return (kind, body, texts) of the record with this number; ``texts`` as in :class:`Record`."""
        if type(item) is not Reported:
            return *encode(item), None
        launch = self._launches.get(item.trial_id)
        if launch is None or launch.number != item.launch:
            launch = self._launches[item.trial_id] = _Launch(item.launch)
        keys = tuple(item.metrics)
        like = launch.likes.get(keys)
        if like is None or item.iteration - item.iterations_since_restore != like.iteration:
            if len(launch.likes) < _SHAPES_AT_MOST:
                launch.likes[keys] = _Like.of(seq, item)
            return *encode(item), None
        return BRIEF, *_brief(item, like)


def _brief(report: Reported, like: _Like) -> tuple[str, list[str] | None]:
    since, total = report.time_since_restore, report.time_total_s
    follows = type(total) is type(since) is float and 0.0 < total == like.total(since)
    rest = ""
    if not follows or report.waiting or report.stop is not None or report.checkpoint is not None:
        rest = _rest(report, follows)
    values = [*report.metrics.values(), report.timestamp, report.time_this_iter_s, since]
    if _NUMBERS.issuperset(map(type, values)):
        text = repr(values)
        if "n" not in text:  # neither NaN nor an infinity: then JSON writes numbers as Python does, and slower
            *texts, timestamp, spent, since_text = text[1:-1].split(", ")
            body = f"[{like.seq},{report.iteration},[{','.join(texts)}],{timestamp},{spent},{since_text}{rest}]"
            texts += spent, since_text if total == since else repr(total), since_text
            return body, texts
    *metrics, timestamp, spent, since = values
    return f"{to_json_text([like.seq, report.iteration, metrics, timestamp, spent, since])[:-1]}{rest}]", None


def _rest(report: Reported, follows: bool) -> str:
    """Return what is written behind the rest, with a comma in front; mostly nothing."""
    saved = report.checkpoint
    checkpoint = None if saved is None else [saved.number, saved.digest, saved.size, saved.transient, saved.seconds]
    values = [None if follows else report.time_total_s, report.waiting, report.stop, checkpoint]
    while values and values[-1] is _REST[len(values) - 1]:
        values.pop()
    return f",{to_json_text(values)[1:-1]}" if values else ""


class Expander:
    """Reads results that were written briefly.

    Args:
        find: returns the result that has a number, or raises ValueError.
    """

    def __init__(self, find: Callable[[int], Item]) -> None:
        self._find = find
        self._likes: dict[int, _Like] = {}

    def decode(self, seq: int, body: str) -> Reported:
        """Return the result of a record of kind ``R``.

        Args:
            seq: its number.
            body: its JSON text.

        Raises:
            ValueError: it is damaged, or the one that it is like.
        """
        try:
            return self._decode(seq, from_json_text(body))
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            raise ValueError(f"a record of kind {BRIEF} cannot be read: {error}") from error

    def _decode(self, seq: int, values: Any) -> Reported:
        if type(values) is not list or not _LEAST <= len(values) <= _LEAST + len(_REST):
            raise ValueError(f"it is {values!r:.100}")
        number, iteration, metrics, timestamp, spent, since, *rest = values
        if type(metrics) is not list:
            raise ValueError(f"its metrics are {metrics!r:.100}")
        like = self._likes.get(number) if type(number) is int else None
        if like is None:
            like = self._likes[number] = self._like(seq, number)
        total, waiting, stop, saved = (*rest, *_REST[len(rest) :]) if rest else _REST
        fields = (
            like.trial_id,
            like.launch,
            iteration,
            dict(zip(like.keys, metrics, strict=True)),
            waiting,
            stop,
            None if saved is None else made(SavedCheckpoint, saved),
            timestamp,
            spent,
            like.total(since) if total is None else total,
            since,
            iteration - like.iteration,
        )
        if not rest and type(iteration) is int and type(timestamp) is type(spent) is type(since) is float:
            return Reported(*fields)  # most are so, and these are all that can be of another type
        report: Reported = made(Reported, list(fields))
        return report

    def _like(self, seq: int, number: object) -> _Like:
        if type(number) is not int or not 0 < number < seq:
            raise ValueError(f"there is no record {number!r:.100} before it")
        report = self._find(number)
        if type(report) is not Reported:
            raise ValueError(f"record {number} is no result that is written out")
        return _Like.of(number, report)
