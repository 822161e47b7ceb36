from __future__ import annotations


def run() -> None:
    """To come."""


def resume() -> None:
    """To come."""


def replay() -> None:
    """To come."""


def demo() -> None:
    """To come."""
