"""The command line ``shoal``: looks at experiments, runs them, checks them, tidies up after them.

Each command is a thin function over what the rest of the package offers. Whatever is heavy is imported when a command
needs it, so that ``shoal --help`` and completing a name with the tab key are quick.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import TextIO

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code; ``arguments`` default to those of the process.

    Wrong input ends with one line on standard error that begins with ``shoal: error:``, without a traceback.
    """
    from .app import command
    from .errors import EXIT_CTRL_C, told, warnings_in_one_line

    # Closed by whoever started it, as in "shoal list >&-".
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        # Names may hold what the terminal's encoding lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    given = None if arguments is None else list(arguments)
    try:
        with warnings_in_one_line():
            try:
                code = command().main(args=given, prog_name="shoal", standalone_mode=False)
                sys.stdout.flush()
            except BrokenPipeError:
                raise
            except Exception as error:
                text, code = told(error, sys.argv[1:] if given is None else given)
                if text is None:
                    raise
                sys.stdout.flush()
                print(text, file=sys.stderr)
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # Whoever reads has read enough, as in "shoal list | head -1". Nothing is left to be said, at the exit either.
        _silence()
        return 0
    except KeyboardInterrupt:
        return EXIT_CTRL_C


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError):
            continue  # replaced, as in a test
