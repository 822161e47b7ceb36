"""What commands print: tables for people, JSON and CSV for programs.

In a terminal, tables are no wider than it is; into a pipe or a file they go whole and without colours. Names and values
of users are never taken for markup.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import math
import os
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import UsageProblem

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from ..display.text import Column

__all__ = [
    "Format", "FormatOption", "OneFormat", "OneFormatOption", "Table", "clean", "console", "csv_text", "facts",
    "plain", "print_csv", "print_json", "print_table", "say", "table_lines", "warn", "when", "write_text",
]  # fmt: skip


class Format(str, Enum):
    """How a list is printed."""

    table = "table"
    json = "json"
    csv = "csv"


class OneFormat(str, Enum):
    """How what is no list is printed."""

    table = "table"
    json = "json"


FormatOption = Annotated[Format, typer.Option("--format", "-f", help="For people, or for programs.")]
OneFormatOption = Annotated[OneFormat, typer.Option("--format", "-f", help="For people, or for programs.")]


@dataclass(frozen=True, slots=True)
class Table:
    """A table, ready to be printed."""

    columns: Sequence[Column]
    styles: Mapping[int, Sequence[str]] = field(default_factory=dict[int, Sequence[str]])
    """For the number of a column, rich's style of each of its cells."""
    bold: Sequence[int] = ()
    """Numbers of rows that stand out."""


def console(stderr: bool = False) -> Console:
    """Return what prints, to standard output by default; without markup, emoji and highlighting."""
    return _console_class()(file=sys.stderr if stderr else sys.stdout, markup=False, emoji=False, highlight=False,
                   soft_wrap=True)  # fmt: skip


@functools.cache
def _console_class() -> type[Console]:
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end with exit code 1: see main

    return Plain


def say(*parts: str | tuple[str, str]) -> None:
    """Print a line; a part is text, or (text, style)."""
    from rich.text import Text

    console().print(Text.assemble(*(part if isinstance(part, tuple) else (part, "") for part in parts)), crop=False,
                    overflow="ignore", no_wrap=True)  # fmt: skip


def warn(text: str) -> None:
    """Print a remark to standard error."""
    from ..display.text import one_line

    print(f"shoal: {one_line(text)}", file=sys.stderr)


def print_table(table: Table) -> None:
    """Print a table: in a terminal without the columns that do not fit, else whole."""
    out = console()
    width = out.width if out.is_terminal else None
    for line in table_lines(table, width):
        if width is not None:
            line.truncate(width, overflow="ellipsis")
        out.print(line, crop=False, overflow="ignore", no_wrap=True)


def table_lines(table: Table, width: int | None) -> list[Text]:
    """Return the lines of a table, and one that names the columns that are left out.

    Args:
        table: what to show.
        width: of the terminal; None: as wide as it is.
    """
    from rich.text import Text

    from ..display.text import lay_out

    grid = lay_out(clean(table.columns), width)
    lines = [Text("  ".join(grid.titles).rstrip(), style="bold")]
    for row, cells in enumerate(grid.rows):
        line = Text(style="bold" if row in table.bold else "")
        for place, (number, cell) in enumerate(zip(grid.places, cells, strict=True)):
            styles = table.styles.get(number, ())
            shown = cell if place + 1 < len(cells) else cell.rstrip()
            line.append("  " if place else "").append(shown, style=styles[row] if row < len(styles) else "")
        lines.append(line)
    if grid.left_out:
        count = len(grid.left_out)
        more = f"… {count} more column{'' if count == 1 else 's'} in a wider terminal: {', '.join(grid.left_out)}"
        lines.append(Text(more, style="dim"))
    return lines


def clean(columns: Iterable[Column]) -> list[Column]:
    """Return columns whose texts have no line breaks and no escape sequences, whoever named things so."""
    from ..display.text import Column, one_line

    return [
        Column(
            one_line(each.title),
            [one_line(cell) for cell in each.cells],
            each.right,
            None if each.short is None else [one_line(cell) for cell in each.short],
            each.expendable,
        )
        for each in columns
    ]


def facts(pairs: Iterable[tuple[str, str] | tuple[str, str, str]]) -> None:
    """Print names and values, one pair a line, the values below each other; a third entry is the value's style."""
    from ..display.text import one_line

    kept = [(pair[0], one_line(pair[1]), pair[2] if len(pair) == 3 else "") for pair in pairs]
    width = max((len(name) for name, _, _ in kept), default=0) + 2
    for name, value, style in kept:
        say((f"{name:<{width}}", "cyan"), (value, style))


def plain(value: Any, *, finite: bool = True) -> Any:
    """Return a value as JSON has it: arrays as lists, anything unknown as its text.

    Args:
        value: anything.
        finite: whether NaN and infinities, which JSON lacks, are None; if not, they are the texts that Python has.
    """
    if value is None or isinstance(value, (bool, str)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None if finite else str(float(value))
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): plain(entry, finite=finite) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(entry, finite=finite) for entry in value]
    tolist = getattr(value, "tolist", None)
    if callable(tolist):
        try:
            return plain(tolist(), finite=finite)
        except Exception:
            return str(value)
    return str(value)


def print_json(value: Any) -> None:
    """Print a value as JSON, in full precision."""
    print(json.dumps(plain(value), indent=2, allow_nan=False))


def print_csv(rows: Sequence[Mapping[str, Any]], keys: Sequence[str] | None = None) -> None:
    """Print rows as CSV with a header; numbers in full precision, None and NaN empty, lists and dicts as JSON.

    Args:
        rows: what to print.
        keys: the columns; by default those of all rows, in the order in which they come.
    """
    print(csv_text(rows, keys), end="")


def csv_text(rows: Sequence[Mapping[str, Any]], keys: Sequence[str] | None = None, *, finite: bool = True) -> str:
    """Return rows as CSV, as :func:`print_csv` prints them; ``finite`` as for :func:`plain`."""
    names = list(dict.fromkeys(key for row in rows for key in row)) if keys is None else list(keys)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_csv_cell(plain(row.get(name), finite=finite)) for name in names])
    return text.getvalue()


def _csv_cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (dict, list)) else value


def when(at: float | None) -> str | None:
    """Return seconds since the epoch as ISO 8601 with the local offset; None for none."""
    import datetime

    return None if not at else datetime.datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")


def write_text(path: Path | None, text: str) -> None:
    """Write text to a file, or print it where there is none. A file has its old text until it has the new one, whole.

    Raises:
        UsageProblem: the file cannot be written.
    """
    text = text if text.endswith("\n") else f"{text}\n"
    if path is None:
        print(text, end="")
        return
    data = text.encode("utf-8", errors="backslashreplace")  # half a surrogate pair, as in a name that is no UTF-8
    target = Path(os.path.realpath(path.expanduser()))
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)  # a pipe, or /dev/stdout
            return
        _replace(target, data)
    except OSError as error:
        raise UsageProblem(f"{path} cannot be written: {error.strerror or error}.") from error


def _replace(path: Path, data: bytes) -> None:
    """Put a file in place of another, with the same mode."""
    aside = path.with_name(f".{path.name[:200]}.{os.getpid()}.new")
    try:
        aside.write_bytes(data)
        with contextlib.suppress(OSError):
            os.chmod(aside, stat.S_IMODE(path.stat().st_mode))
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
