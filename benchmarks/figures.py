"""A measured figure with its target, and the table of them."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["HEADER", "Figure", "as_installed", "print_table"]


def as_installed() -> None:
    """Let modules be compiled at the first start, as they are where Shoal is installed."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


as_installed()


@dataclass(frozen=True)
class Figure:
    """What was measured, some times over."""

    name: str
    values: tuple[float, ...]
    target: float | None = None
    """What the median should reach; None where there is no target."""
    unit: str = ""
    least: bool = False
    """True where more is better."""
    note: str = field(default="", compare=False)

    @property
    def median(self) -> float:
        """The median of all runs."""
        return statistics.median(self.values)

    @property
    def holds(self) -> bool:
        """Whether the median reaches the target."""
        if self.target is None:
            return True
        return self.median >= self.target if self.least else self.median <= self.target

    def row(self) -> str:
        """Return it as a line of the table."""
        wanted = "" if self.target is None else f"{'>=' if self.least else '<='} {_number(self.target)}"
        said = "" if self.target is None else "ok" if self.holds else "MISSED"
        numbers = "".join(f"{_number(value):>10}" for value in (self.median, min(self.values), max(self.values)))
        name = f"{self.name} [{self.unit}]" if self.unit else self.name
        return f"{name:62}{wanted:>12}{numbers}{len(self.values):>5}  {said:6} {self.note}".rstrip()


HEADER = f"{'':62}{'target':>12}{'median':>10}{'min':>10}{'max':>10}{'runs':>5}"


def print_table(figures: Iterable[Figure]) -> list[Figure]:
    """Print figures as they come, and return them."""
    print(HEADER, flush=True)
    printed: list[Figure] = []
    for figure in figures:
        print(figure.row(), flush=True)
        printed.append(figure)
    return printed


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
