"""Ctrl-C and the signals by which a cluster ends a job: questions that the driver asks itself between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, NoReturn

__all__ = ["RESUME_EXIT_CODE", "Interruption"]

RESUME_EXIT_CODE = 75
"""A script's exit code where a signal ended ``fit()`` and the experiment can go on: ``EX_TEMPFAIL`` of sysexits.h."""

_POLITE = (signal.SIGTERM, signal.SIGUSR1)
"""What SLURM, Kubernetes and others send some time before they kill."""


class Interruption:
    """Takes signals while it is entered, so that no step of the driver is cut in half.

    The second Ctrl-C is the ordinary one, and interrupts at once. ``SIGTERM`` and ``SIGUSR1`` are taken where the
    script has no handler of its own; more of them change nothing, because some launchers send each twice. Outside of
    the main thread, which gets no signals, nothing changes.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        """The first signal that came."""
        self.insisted = False
        """Whether Ctrl-C came after that: nobody is to be waited for any more."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if before not in (signal.SIG_IGN, None):
                self._take(signal.SIGINT, before)
            for number in _POLITE:
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._take(number, signal.SIG_DFL)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @property
    def by_user(self) -> bool:
        """Whether it was Ctrl-C."""
        return self.asked is signal.SIGINT

    @property
    def reason(self) -> str:
        """Why the experiment ends, in words."""
        assert self.asked is not None
        return "interrupted by the user" if self.by_user else f"ended by {self.asked.name}"

    def insist(self) -> None:
        """Interrupt at once where Ctrl-C came again, and its exception was lost, as in a finalizer it is."""
        if self.insisted:
            raise KeyboardInterrupt

    def leave(self, how_to_go_on: str) -> NoReturn:
        """Leave ``fit()`` as the signal asks: by KeyboardInterrupt, or with the exit code that says 'resume me'.

        A traceback follows the former, so its last line tells, too.
        """
        if self.by_user:
            raise KeyboardInterrupt(f"to go on: {how_to_go_on}")
        raise SystemExit(RESUME_EXIT_CODE)

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
