"""What every engine promises at its seam: commands go in one by one, and what happens comes out as events."""

from __future__ import annotations

from .ending import EndingContract
from .launching import LaunchingContract

__all__ = ["SeamContract"]


class SeamContract(LaunchingContract, EndingContract):
    """What an engine's ``start``, ``add``, ``execute``, ``kill``, ``poll`` and ``close`` promise."""
