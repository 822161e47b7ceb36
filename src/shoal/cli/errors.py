"""How commands end: the exit codes, and errors as one line."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Generator, Sequence
from typing import Any

import typer

from ..errors import ConfigError, ShoalError, TrialFailed
from .wording import in_options

__all__ = [
    "EXIT_CODES",
    "EXIT_CTRL_C",
    "EXIT_RESUME",
    "EXIT_USAGE",
    "EXIT_WRONG",
    "UsageProblem",
    "told",
    "warnings_in_one_line",
    "words_of",
]

EXIT_WRONG = 1
EXIT_USAGE = 2
EXIT_RESUME = 75
"""As ``fit()`` ends a script; see :mod:`shoal.interruption`."""
EXIT_CTRL_C = 130

EXIT_CODES = {
    0: "all is well",
    EXIT_WRONG: "something is wrong: problems found, trials failed, not running, damaged (but not with 'list')",
    EXIT_USAGE: "wrong usage: an unknown command, option, experiment, trial or value",
    EXIT_RESUME: "ended by a signal such as SIGTERM; 'shoal resume' goes on",
    EXIT_CTRL_C: "ended by Ctrl-C; 'shoal resume' goes on",
}


class UsageProblem(ShoalError):
    """What was given on the command line is wrong."""


# Typer brings click under one name or another, and exports only one of its errors.
_ClickError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)  # fmt: skip


def told(error: Exception, arguments: Sequence[str] = ()) -> tuple[str | None, int]:
    """Return the line that tells an error, and the exit code; (None, 1) for a bug, which deserves its traceback.

    Args:
        error: what was raised.
        arguments: what was given on the command line.
    """
    if isinstance(error, _ClickError):
        return _of_usage(error, arguments), EXIT_USAGE
    if isinstance(error, typer.Abort):
        return "shoal: stopped: nothing was done.", EXIT_WRONG
    if isinstance(error, (ConfigError, UsageProblem)):
        return _line(in_options(str(error))), EXIT_USAGE
    if isinstance(error, TrialFailed):
        lines = str(error).splitlines()  # which trial, and then a traceback, which ends with what was raised
        return _line(" ".join(dict.fromkeys((lines[0], lines[-1])))), EXIT_WRONG
    if isinstance(error, (ShoalError, OSError, ImportError)):
        return _line(in_options(words_of(error))), EXIT_WRONG
    return None, EXIT_WRONG


def words_of(error: BaseException) -> str:
    """Return what an error says, in one line: of Shoal's own its text, of the system's what it was and where."""
    from ..display.text import one_line

    if isinstance(error, ShoalError):
        return one_line(str(error))
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return one_line(f"{where}{error.strerror}.")
    return one_line(str(error)) or type(error).__name__


@contextlib.contextmanager
def warnings_in_one_line() -> Generator[None]:
    """Show warnings to users without the line of the package that led to them."""

    def show(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if issubclass(category, UserWarning):
            print(_line(in_options(f"{message}"), "warning"), file=sys.stderr)
        else:
            before(message, category, *args, **kwargs)

    with warnings.catch_warnings():
        before = warnings.showwarning
        warnings.showwarning = show
        yield


def _of_usage(error: Exception, arguments: Sequence[str]) -> str:
    """Return what is wrong with the arguments, and where to read about them."""
    describe = getattr(error, "format_message", None)
    message = str(describe()) if callable(describe) else str(error)
    value = _given(getattr(error, "param", None), arguments)
    if value is not None and value not in message:
        message = f"{message.rstrip('.')}, but was {value!r}."
    path = getattr(getattr(error, "ctx", None), "command_path", None) or "shoal"
    line = _line(message)
    return f"{line}{'' if line.endswith(('.', '?', '!')) else '.'} See: {path} --help"


def _given(parameter: Any, arguments: Sequence[str]) -> str | None:
    """Return what was given for an option; None where that cannot be told."""
    found: str | None = None
    for name in getattr(parameter, "opts", ()):
        for place, text in enumerate(arguments):
            if text == name:
                found = arguments[place + 1] if place + 1 < len(arguments) else None
            elif name.startswith("--") and text.startswith(f"{name}="):
                found = text.removeprefix(f"{name}=")
    return found


def _line(message: str, kind: str = "error") -> str:
    from ..display.text import one_line

    return f"shoal: {kind}: {one_line(message)}"
