"""What the comparisons with other libraries share: rows, runs that alternate, a table, a verdict.

Each repetition is a process of its own, in the Python of its library: Shoal, the other, Shoal, the other, ... Only what
was measured within one such run is compared, as a ratio that says how many times better Shoal is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Timer
from typing import IO, Any, TypeAlias

import results
from figures import as_installed
from workload import Case

HERE = Path(__file__).parent
FIRST = "first result"
"""What a script prints when its driver has its first result."""
LONGEST_S = 900


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    kind: str
    """``efficiency``, ``rate`` (results a second), ``start`` (seconds to the first result), or ``pair``: the efficiency
    of both in one run, see :func:`compare`."""
    wanted: float
    """The least ratio that is wanted."""
    case: Case | None = None
    """What is trained, for the efficiency."""
    least: float | None = None
    """The least value of Shoal that is wanted, or None."""

    def scaled(self, scale: float) -> Row:
        """Return the row with as many times the steps; a member crosses two boundaries at least."""
        if self.case is None:
            return self
        steps = max(2 * self.case.interval, round(self.case.steps * scale))
        return replace(self, case=replace(self.case, steps=steps))


@dataclass(frozen=True)
class Library:
    """Something that is measured."""

    name: str
    python: str
    """Its interpreter."""
    script: str
    """Which script here measures it, for :func:`run_alone`."""

    @property
    def slug(self) -> str:
        """What the command is called after it: ``make bench-vs-ray``."""
        return self.script.removeprefix("versus_").removesuffix(".py").replace("_", "-")


Pair: TypeAlias = "Callable[[Library, Row, int], tuple[tuple[float, str], tuple[float, str]]]"
"""Takes the rival, the row, and which run it is; returns the value and the version of Shoal, and those of the rival."""


@dataclass
class Measured:
    """What the runs of a row gave."""

    row: Row
    shoal: list[float] = field(default_factory=list[float])
    rival: list[float] = field(default_factory=list[float])
    failures: list[str] = field(default_factory=list[str])

    @property
    def ratio(self) -> float | None:
        """How many times better Shoal is, by the medians; None where one of them has no value."""
        if not self.shoal or not self.rival:
            return None
        ours, theirs = statistics.median(self.shoal), statistics.median(self.rival)
        return theirs / ours if self.row.kind == "start" else ours / theirs

    @property
    def ok(self) -> bool:
        """Whether the ratio is what is wanted, and Shoal's own value."""
        enough = self.row.least is None or (bool(self.shoal) and statistics.median(self.shoal) >= self.row.least)
        return enough and not self.failures and self.ratio is not None and self.ratio >= self.row.wanted


def run_alone(measures: dict[str, Callable[..., float]], version: str) -> None:
    """Measure one row once, as the command line says, and print a line of JSON.

    Args:
        measures: what to call for each kind of row. That for the efficiency takes the case.
        version: the library's.
    """
    kind, case = sys.argv[2:4]
    value = measures[kind](*([Case(**json.loads(case))] if kind == "efficiency" else []))
    print(json.dumps({"value": value, "version": version}), flush=True)


def is_alone() -> bool:
    """Return whether this process is one repetition, started by :func:`measure`."""
    return sys.argv[1:2] == ["--one"]


def measure(library: Library, row: Row) -> tuple[float, str]:
    """Measure a row once, in a process of its own.

    Returns:
        The value, and the library's version.

    Raises:
        RuntimeError: it failed, or took more than ``LONGEST_S``.
    """
    case = json.dumps(asdict(row.case)) if row.case is not None else ""
    command = [library.python, str(HERE / library.script), "--one", row.kind, case]
    with tempfile.TemporaryFile("w+") as log:
        began = time.perf_counter()
        # A session of its own, so that all it has started can be ended with it.
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
        assert process.stdout is not None
        with _ended_after(process, LONGEST_S):
            first_s, found = _listen(process.stdout, began)
            process.wait()
        if process.returncode or found is None or (row.kind == "start" and first_s is None):
            log.seek(0)
            tail = "\n".join(log.read().splitlines()[-15:])
            raise RuntimeError(f"{library.name}, {row.name}: exit code {process.returncode}\n{tail}")
    value = first_s if row.kind == "start" and first_s is not None else float(found["value"])
    return value, str(found["version"])


def _listen(lines: IO[str], began: float) -> tuple[float | None, dict[str, Any] | None]:
    """Return the seconds to the first result, if told, and what was found; libraries print here, too."""
    first_s = found = None
    for line in lines:
        if line.strip() == FIRST:
            first_s = time.perf_counter() - began
        elif line.startswith('{"value"'):
            found = json.loads(line)
    return first_s, found


@contextlib.contextmanager
def _ended_after(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """End a process and what it has started when it takes too long, or when we are interrupted."""

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = Timer(seconds, end)
    timer.start()
    try:
        yield
    except BaseException:
        end()
        raise
    finally:
        timer.cancel()


def compare(rival: Library, rows: Sequence[Row], notes: str, description: str, pair: Pair | None = None) -> int:
    """Measure all rows as the command line says, and print the table.

    Args:
        rival: what Shoal is compared with.
        rows: of the table.
        notes: what a reader has to know, printed below the table.
        description: of the command.
        pair: measures both for a row of the kind ``pair``.

    Returns:
        The exit code: 0 if all ratios are what is wanted.
    """
    as_installed()
    given = _arguments(description)
    shoal = Library("Shoal", given.shoal_python, "versus_shoal.py")
    rival = replace(rival, python=given.rival_python or rival.python)
    chosen = [row.scaled(given.scale) for row in rows if given.only in row.name]
    versions: dict[str, str] = {}
    measured: list[Measured] = []
    width = max((len(row.name) for row in chosen), default=0)
    lines = [f"{'':{width}}  {'Shoal':>9} {rival.name:>9} {'ratio':>8} {'wanted':>7}"]
    print(lines[0], flush=True)
    for row in chosen:
        found = Measured(row)
        measured.append(found)
        for run in range(given.runs):
            sides = ((shoal, found.shoal), (rival, found.rival))
            if row.kind == "pair":
                assert pair is not None
                try:
                    both = pair(rival, row, run)
                except RuntimeError as error:
                    found.failures.append(str(error))
                    continue
                for (library, values), (value, version) in zip(sides, both, strict=True):
                    values.append(value)
                    versions[library.name] = version
                continue
            for library, values in sides:
                try:
                    value, versions[library.name] = measure(library, row)
                except RuntimeError as error:
                    found.failures.append(str(error))
                else:
                    values.append(value)
        lines.append(_line(found, width))
        print(lines[-1], flush=True)
    lines.append(_foot(measured, versions, given, notes))
    print(lines[-1], flush=True)
    if given.write:
        results.write_section(f"make bench-vs-{rival.slug}", "\n".join(lines))
    if given.json:
        Path(given.json).write_text(json.dumps(_as_json(measured, versions, given), indent=2) + "\n")
    return 0 if all(found.ok for found in measured) else 1


def _arguments(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=int, default=1, help="runs of each row, of each library (1)")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose names hold this text")
    parser.add_argument("--scale", type=float, default=1.0, help="times the steps, for both (1.0); less is less exact")
    parser.add_argument("--json", metavar="FILE", help="write what was measured there")
    parser.add_argument("--write", action="store_true", help="write the table into RESULTS.md as well")
    parser.add_argument("--shoal-python", default=sys.executable, help="the Python that has Shoal (this one)")
    parser.add_argument("--rival-python", help="the Python that has the other library (that of its own environment)")
    return parser.parse_args()


def _line(found: Measured, width: int) -> str:
    """Return the row of the table."""
    ratio = "failed" if found.ratio is None else f"{found.ratio:.2f}"
    return (
        f"{found.row.name:{width}}  {_median(found.shoal, found.row):>9} {_median(found.rival, found.row):>9} "
        f"{ratio:>8} {found.row.wanted:7.2f}  {'ok' if found.ok else 'NOT REACHED'}"
    )


def _median(values: list[float], row: Row) -> str:
    if not values:
        return "-"
    middle = statistics.median(values)
    return {"rate": f"{middle:,.0f}", "start": f"{middle:.2f} s"}.get(row.kind, f"{middle:.3f}")


def _foot(measured: Sequence[Measured], versions: dict[str, str], given: argparse.Namespace, notes: str) -> str:
    """Return what stands below the table."""
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    each = "one run" if given.runs == 1 else f"medians of {given.runs} runs"
    scaled = "" if given.scale == 1 else f", with {given.scale:g} times the steps"
    failures = [f"\nFAILED: {failure}" for found in measured for failure in found.failures]
    return "\n".join([f"\n{named}; {each} of each{scaled}; {os.cpu_count()} CPUs.\n{notes}", *failures])


def _as_json(measured: Sequence[Measured], versions: dict[str, str], given: argparse.Namespace) -> dict[str, Any]:
    return {
        "versions": versions,
        "runs": given.runs,
        "scale": given.scale,
        "cpus": os.cpu_count(),
        "rows": [{**asdict(found), "ratio": found.ratio, "ok": found.ok} for found in measured],
    }
