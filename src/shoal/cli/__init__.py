"""The command line ``shoal``: looks at experiments, runs them, checks them, tidies up after them.

Each command is a thin function over what the rest of the package offers. Whatever is heavy is imported when a command
needs it, so that ``shoal --help`` and completing a name with the tab key are quick.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code; ``arguments`` default to those of the process.

    Wrong input ends with one line on standard error that begins with ``shoal: error:``, without a traceback.
    """
    from .app import command
    from .errors import EXIT_CTRL_C, EXIT_WRONG, told, warnings_in_one_line

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
                text, code = told(error)
                if text is None:
                    raise
                sys.stdout.flush()
                print(text, file=sys.stderr)
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # Whoever reads has read enough, as in "shoal list | head -1". Nothing is left to be said, at the exit either.
        _silence()
        return EXIT_WRONG
    except KeyboardInterrupt:
        return EXIT_CTRL_C


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError):
            continue  # replaced, as in a test
