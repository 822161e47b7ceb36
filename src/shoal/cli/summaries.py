"""An experiment in one row, for lists. What has been read once is remembered, as long as the journal stays the same.

To read a journal of a hundred thousand records takes seconds, and a list may have a hundred of them. The rows of
experiments that are not running are kept in a file in the user's cache folder; it can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ShoalError
from .errors import words_of

__all__ = ["BAD", "DAMAGED", "NEVER_BEGAN", "STARTING", "UNREADABLE", "Summary", "summaries"]

DAMAGED = "damaged"
UNREADABLE = "unreadable"
BAD = (DAMAGED, UNREADABLE)
"""The states of an experiment of which nothing can be told."""
STARTING = "starting"
NEVER_BEGAN = "never began"
_VERSION = 1
_KEPT = 2000
"""How many rows are remembered, those that were asked for last."""


@dataclass(frozen=True, slots=True)
class Summary:
    """An experiment in one row. The fields' names are those of ``shoal list --format json``."""

    name: str
    path: str
    state: str
    """``running``, ``interrupted``, ``ended`` or ``damaged``; where there is nothing in its journal, ``starting`` or
    ``never began``; ``unreadable``, where the permission is lacking."""
    trials: int | None = None
    failed: int | None = None
    """How many trials have failed for good."""
    iterations: int | None = None
    """The highest ``training_iteration`` of a trial's newest result."""
    results: int | None = None
    metric: str | None = None
    mode: str | None = None
    best_score: float | None = None
    best_trial: str | None = None
    exploits: int | None = None
    started_at: float | None = None
    """Seconds since the epoch."""
    duration_s: float | None = None
    """Seconds that drivers ran it."""
    error: str | None = None
    """Why it cannot be read."""


def summaries(folders: Sequence[Path | str]) -> list[Summary]:
    """Return the rows of experiments, in their order; of one that cannot be read, a row that says so."""
    known = _Remembered.load()
    rows = [known.row(folder) for folder in folders]
    known.save()
    return rows


def _read(folder: Path | str) -> tuple[Summary, bool]:
    """Return the row of an experiment, and whether a driver runs it."""
    from ..core.commands import Status
    from ..core.reports import number
    from ..reading import Experiment, NothingYet, State
    from .finding import name_in, no_permission

    place = os.path.abspath(folder) if isinstance(folder, Path) else folder
    try:
        with contextlib.closing(Experiment.open(folder)) as experiment:
            state = experiment.state
    except NothingYet as error:
        return Summary(name_in(folder), place, STARTING if error.starting else NEVER_BEGAN), True
    except (ShoalError, OSError) as error:
        closed = no_permission(folder) if isinstance(folder, Path) else None
        kind, why = (DAMAGED, words_of(error)) if closed is None else (UNREADABLE, closed)
        return Summary(name_in(folder), place, kind, error=why), True
    info, history, best = experiment.info, experiment.history, experiment.best
    trials = history.trials.values()
    score = None if best is None or info.metric is None else number(best.value(info.metric))
    return Summary(
        name=experiment.name,
        path=experiment.place,
        state=state.value,
        trials=info.num_trials,
        failed=sum(trial.status is Status.ERROR for trial in trials),
        iterations=max((trial.iteration for trial in trials), default=0),
        results=history.results,
        metric=info.metric,
        mode=None if info.metric is None else info.mode,
        best_score=score,
        best_trial=None if best is None else best.trial_id,
        exploits=history.perturbations,
        started_at=info.started_at or history.started_at,
        duration_s=experiment.timeline.duration,
    ), state is State.RUNNING


class _Remembered:
    """The rows of experiments whose journals have not changed since they were read."""

    def __init__(self, path: Path | None, rows: dict[str, Any]) -> None:
        self._path = path
        self._rows = rows
        self._changed = False

    @classmethod
    def load(cls) -> _Remembered:
        """Return what is remembered; nothing where there is no such file, or one of another version."""
        path = _cache_file()
        rows: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            found = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
            if found["version"] == _VERSION:
                rows = dict(found["rows"])
        return cls(path, rows)

    def row(self, folder: Path | str) -> Summary:
        """Return the row of an experiment."""
        from ..reading import is_locked
        from .finding import name_in

        if isinstance(folder, Path):
            key, stamp, place = os.path.realpath(folder), _stamp(folder), os.path.abspath(folder)
        else:
            key, stamp, place = folder, _stamp_of_url(folder), folder
        with contextlib.suppress(TypeError, KeyError, ValueError, AttributeError):
            before, values = self._rows[key]
            if not all(_fits(name, value) for name, value in values.items()):
                raise ValueError("it was not written by this Shoal")
            if stamp is not None and before == stamp and not (isinstance(folder, Path) and is_locked(folder)):
                return replace(Summary(**values), name=name_in(folder), path=place)
        summary, fleeting = _read(folder)
        if fleeting:
            self._changed |= self._rows.pop(key, None) is not None
        elif stamp is not None:
            self._rows.pop(key, None)
            self._rows[key] = [stamp, asdict(summary)]
            self._changed = True
        return summary

    def save(self) -> None:
        """Write down what is remembered, if that can be."""
        if not self._changed or self._path is None:
            return
        rows = dict(list(self._rows.items())[-_KEPT:])
        aside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps({"version": _VERSION, "rows": rows}), encoding="utf-8")
            os.replace(aside, self._path)


def _fits(name: str, value: object) -> bool:
    """Return whether a value that was read from the file may be that of a field."""
    kinds: dict[str, tuple[type, ...]] = {
        "best_score": (int, float),
        "started_at": (int, float),
        "duration_s": (int, float),
    }
    numbers = ("trials", "failed", "iterations", "results", "exploits")
    return value is None or isinstance(value, kinds.get(name, (int,) if name in numbers else (str,)))


def _cache_file() -> Path | None:
    with contextlib.suppress(RuntimeError):  # no home
        root = os.environ.get("XDG_CACHE_HOME")
        return Path(root if root and os.path.isabs(root) else Path.home() / ".cache") / "shoal" / "experiments.json"
    return None


def _stamp_of_url(url: str) -> list[Any] | None:
    """Return what tells whether an experiment in object storage has changed since; None where it may be running."""
    from ..storage import shipping
    from ..storage.place import Place

    with contextlib.suppress(ShoalError, OSError):
        found = shipping.look(Place(url))
        if found is not None and found.alive is not None and found.alive.ended:
            return [found.seq, found.alive.counter, found.alive.at]
    return None


def _stamp(folder: Path) -> list[Any] | None:
    """Return what tells whether a journal has changed since; None where it cannot be told."""
    from ..journal import JOURNAL_NAME

    found: list[Any] = []
    try:
        for name in (JOURNAL_NAME, f"{JOURNAL_NAME}-wal"):
            path = folder / name
            state = path.stat() if name == JOURNAL_NAME or path.exists() else None
            found += [None] if state is None else [state.st_ino, state.st_size, state.st_mtime_ns]
    except OSError:
        return None
    return found
