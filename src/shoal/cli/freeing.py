from __future__ import annotations


def gc() -> None:
    """To come."""
