"""The errors that Shoal raises, and the one way they are worded.

::

    ShoalError
    ├── ConfigError (ValueError)      an argument is wrong; nothing was started
    │   └── SpaceError                a search space or a mutation is wrong
    ├── ReportError (ValueError)      a call to ``tune.report`` is wrong; raised inside the user's function
    ├── StorageError (OSError)        the experiment's folder cannot be used
    │   ├── ExperimentExists          it holds another experiment
    │   └── JournalError              its journal cannot be read or written
    ├── EngineError (RuntimeError)    member processes cannot be started
    ├── TrialFailed (RuntimeError)    what ``Result.error`` holds: a member's own failure
    ├── TuneError (RuntimeError)      trials of ``tune.run`` failed
    ├── ResultError (LookupError)     a question that the results cannot answer
    └── InvalidTransition             a bug in Shoal: the core was driven in an impossible way

Every message says what was given, what is allowed, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "EngineError",
    "ExperimentExists",
    "InvalidTransition",
    "JournalError",
    "ReportError",
    "ResultError",
    "ShoalError",
    "SpaceError",
    "StorageError",
    "TrialFailed",
    "TuneError",
    "did_you_mean",
    "similar_name",
    "stopper_failed",
]


class ShoalError(Exception):
    """The root of all errors that Shoal raises on purpose."""


class ConfigError(ShoalError, ValueError):
    """An argument is wrong. Raised before anything was started or written."""


class SpaceError(ConfigError):
    """A search space, or a value of ``hyperparam_mutations``, is wrong."""


class ReportError(ShoalError, ValueError):
    """A call to ``tune.report`` is wrong. Raised in the user's function, at the line of the call."""


class StorageError(ShoalError, OSError):
    """The experiment's folder cannot be created, read or written."""


class ExperimentExists(StorageError):
    """The folder already holds another experiment, which Shoal will not mix with this one."""


class JournalError(StorageError):
    """The journal of an experiment cannot be read or written."""


class EngineError(ShoalError, RuntimeError):
    """Member processes cannot be started, or the machine has not what a member asks for."""


class TrialFailed(ShoalError, RuntimeError):
    """A member failed. ``Result.error`` holds one; its text is the member's own traceback."""


class TuneError(ShoalError, RuntimeError):
    """``tune.run`` has ended, and trials failed. The others have trained to their end."""


class ResultError(ShoalError, LookupError):
    """The results cannot answer what was asked, for example because no trial reported the metric."""


class InvalidTransition(ShoalError):
    """The core was driven in an impossible way: a bug in Shoal. The message tells the trial's story."""


def similar_name(given: str, allowed: Iterable[str]) -> str | None:
    """Return the name in ``allowed`` that ``given`` is most likely a misspelling of, or None."""
    names = list(allowed)
    by_fold = {name.casefold(): name for name in names}
    if given.casefold() in by_fold:
        return by_fold[given.casefold()]
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.75)
    return close[0] if close else None


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` (with a leading blank) where a name is close to ``given``, else an empty text."""
    close = similar_name(given, allowed)
    return f" Did you mean {close!r}?" if close is not None else ""


def stopper_failed(stopper: object, error: Exception, asked: str) -> ConfigError:
    """Return the error that names a stopper which raised, and says what it was asked."""
    name = getattr(stopper, "name", type(stopper).__name__)
    return ConfigError(
        f"RunConfig(stop=...): {name} raised {type(error).__name__}: {error}, when it was asked {asked}."
    )


def one_line(error: BaseException) -> str:
    """Return an exception's type and message in one line."""
    name = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "(its text cannot be shown)"
    return f"{name}: {text}" if text else name
