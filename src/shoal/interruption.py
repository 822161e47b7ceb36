"""Ctrl-C and the signals by which a cluster ends a job: questions that the driver asks itself between two steps."""

from __future__ import annotations

import atexit
import math
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, NoReturn

__all__ = ["RESUME_EXIT_CODE", "Asked", "Interruption"]

RESUME_EXIT_CODE = 75
"""A script's exit code where a signal ended ``fit()`` and the experiment can go on: ``EX_TEMPFAIL`` of sysexits.h."""

_POLITE = (signal.SIGTERM, signal.SIGUSR1)
"""What SLURM, Kubernetes and others send some time before they kill."""


class Asked(BaseException):
    """A signal came before anything had begun. No Exception, so that nobody takes it for one that went wrong."""


_leaving_until = -math.inf
"""Until when, by ``time.monotonic()``, a script that a signal has ended is on its way out."""
_WAY_OUT_S = 10.0


def _too_late(number: int, frame: FrameType | None) -> None:
    """Stands in for a signal's default while the script ends as that signal asks: more of them change nothing.

    A script that has caught ``SystemExit`` and goes on is ended by the next one that comes.
    """
    if time.monotonic() > _leaving_until:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


class Interruption:
    """Takes signals while it is entered, so that no step of the driver is cut in half.

    The second Ctrl-C is the ordinary one, and interrupts at once. ``SIGTERM`` and ``SIGUSR1`` are taken where the
    script has no handler of its own; more of them change nothing, because some launchers send each twice: not before
    the process has ended, or its exit code would be another than the one that is promised. Outside of the main thread,
    which gets no signals, nothing changes.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        """The first signal that came."""
        self.insisted = False
        """Whether Ctrl-C came after that: nobody is to be waited for any more."""
        self._before: dict[signal.Signals, Any] = {}
        self._entered = 0

    def __enter__(self) -> Interruption:
        self._entered += 1
        if self._entered == 1 and threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if before not in (signal.SIG_IGN, None):
                self._take(signal.SIGINT, before)
            for number in _POLITE:
                if signal.getsignal(number) in (signal.SIG_DFL, _too_late):
                    self._take(number, signal.SIG_DFL)
        return self

    def __exit__(self, *_: object) -> None:
        self._entered -= 1
        if not self._entered:
            for number, before in self._before.items():
                signal.signal(number, before)
            self._before.clear()

    @property
    def by_user(self) -> bool:
        """Whether it was Ctrl-C."""
        return self.asked is signal.SIGINT

    @property
    def reason(self) -> str:
        """Why the experiment ends, in words."""
        assert self.asked is not None
        return "interrupted by the user" if self.by_user else f"ended by {self.asked.name}"

    def check(self) -> None:
        """Raise :class:`Asked` where a signal came; for what takes long before the experiment begins."""
        if self.asked is not None:
            raise Asked

    def insist(self) -> None:
        """Interrupt at once where Ctrl-C came again, and its exception was lost, as in a finalizer it is."""
        if self.insisted:
            raise KeyboardInterrupt

    def leave(self, how_to_go_on: str) -> NoReturn:
        """Leave ``fit()`` as the signal asks: by KeyboardInterrupt, or with the exit code that says 'resume me'.

        A traceback follows the former, so its last line tells, too.
        """
        if self.by_user:
            raise KeyboardInterrupt(f"to go on: {how_to_go_on}") from None
        if not hasattr(sys, "ps1"):  # where somebody types commands, it ends nothing
            self._polite_no_more()
        raise SystemExit(RESUME_EXIT_CODE) from None

    def _polite_no_more(self) -> None:
        global _leaving_until
        _leaving_until = time.monotonic() + _WAY_OUT_S
        taken = [number for number in _POLITE if number in self._before]
        for number in taken:
            self._before[number] = _too_late
        # Only to the end of the exit handlers would Python call a function of its own.
        atexit.register(_ignore, taken)

    def _take(self, number: signal.Signals, before: Any) -> None:
        self._before[number] = before
        signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked = signal.Signals(number)
        elif number == signal.SIGINT:
            self.insisted = True
            before = self._before[signal.SIGINT]
            signal.signal(signal.SIGINT, before)
            if callable(before):
                before(number, frame)
                self.insisted = False  # a handler of the script's, to which it was no reason to leave


def _ignore(numbers: list[signal.Signals]) -> None:
    for number in numbers:
        if signal.getsignal(number) is _too_late:
            signal.signal(number, signal.SIG_IGN)
