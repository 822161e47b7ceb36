"""``shoal doctor``: examines experiments and says what is wrong; see :mod:`shoal.cli.examining`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import EXIT_WRONG, UsageProblem
from .finding import complete_experiment, experiment_folders, name_in
from .output import OneFormat, OneFormatOption, console, print_json, say

if TYPE_CHECKING:
    from .examining import Examination, Finding

__all__ = ["doctor"]

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def doctor(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="EXPERIMENT|FOLDER",
            show_default=False,
            autocompletion=complete_experiment,
            help="An experiment, or a folder with some, all of which are examined.",
        ),
    ],
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Load objects in the settings, which runs code of whoever wrote the journal."),
    ] = False,
    format: OneFormatOption = OneFormat.table,
) -> None:
    """Examine experiments: journal, decisions, checkpoints, driver, log files, leftovers, free space.

    In object storage that is the journal, the decisions, the driver, and whether all checkpoints are there.

    Every record and every checkpoint is read and compared with what was written. Nothing is changed. The exit code is 1
    where something is wrong.
    """
    from .examining import examine

    folders, single = experiment_folders(folder)
    if not folders:
        raise UsageProblem(f"There are no experiments in {folder}.")
    found: list[Examination] = []
    for each in folders:
        with _progress(name_in(each)) as tell:
            if isinstance(each, str):
                from .examining_storage import examine_url

                found.append(examine_url(each, trust=trust, tell=tell))
            else:
                found.append(examine(each, trust=trust, tell=tell))
        if format is OneFormat.table:
            if len(found) > 1:
                say("")
            _show(found[-1])
    bad = [each.name for each in found if not each.healthy]
    if format is OneFormat.json:
        print_json([{**asdict(each), "healthy": each.healthy} for each in found])
    elif not single:
        say("")
        say(
            f"{len(found)} examined: ",
            ("all healthy", "green") if not bad else (f"problems in {', '.join(bad)}", "red"),
        )
    if bad:
        raise typer.Exit(EXIT_WRONG)


@contextlib.contextmanager
def _progress(name: str) -> Generator[Callable[[str], None]]:
    """Show what is being done, in a terminal."""
    out = console(stderr=True)
    if not out.is_terminal or not sys.stdout.isatty():
        yield lambda text: None
        return
    from rich.text import Text

    with out.status(Text(name)) as status:
        yield lambda text: status.update(Text(f"{name}: {text} ..."))


def _show(examination: Examination) -> None:
    say((examination.name, "bold"), (f"  {examination.state}", "dim"), f"  {examination.path}")
    for finding in examination.findings:
        _show_finding(finding)


def _show_finding(finding: Finding) -> None:
    out = console()
    width = out.width if out.is_terminal else None
    head = f"  {finding.level:<8} {finding.check:<12} "
    lines = [finding.what, *filter(None, (finding.meaning, finding.to_do and f"-> {finding.to_do}"))]
    for place, text in enumerate(lines):
        shown = _wrapped(text, None if width is None else width - len(head))
        for row, part in enumerate(shown):
            if place == 0 and row == 0:
                say((f"  {finding.level:<8} ", _STYLES[finding.level]), (f"{finding.check:<12} ", "cyan"), part)
            else:
                say(" " * len(head), part)


def _wrapped(text: str, width: int | None) -> list[str]:
    import textwrap

    from ..display.text import one_line

    text = one_line(text)
    if width is None:
        return [text]
    return textwrap.wrap(text, max(20, width), break_long_words=False, break_on_hyphens=False) or [""]
