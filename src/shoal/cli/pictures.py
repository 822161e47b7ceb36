from __future__ import annotations


def plot() -> None:
    """To come."""


def report() -> None:
    """To come."""


def dashboard() -> None:
    """To come."""
