"""Notices members that hang: they train, as far as anybody knows, and report nothing for too long."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Watchdog"]


class Watchdog:
    """Knows when each trial was heard of last. Reads no clock: every moment is given, in seconds of one clock.

    Args:
        timeout_s: how long a member that trains may report nothing.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._heard: dict[str, float] = {}
        self._suspects: set[str] = set()

    def hear(self, trial_id: str, now: float) -> None:
        """The trial has said something, or has only now been told to train."""
        self._heard[trial_id] = now
        self._suspects.discard(trial_id)

    def overdue(self, training: Iterable[str], now: float) -> list[str]:
        """Return the trials among ``training`` that have been silent for too long, each once.

        A trial is named only when it was found silent before: what it has sent may wait to be read, where the driver
        was busy itself. So call this once between two rounds of reading.
        """
        silent = {name for name in training if now - self._heard.setdefault(name, now) >= self.timeout_s}
        named = sorted(silent & self._suspects)
        self._suspects = silent - self._suspects
        for name in named:
            self._heard[name] = now
        return named
