from __future__ import annotations


def stop() -> None:
    """To come."""
