"""What every status does the same way: which of the records become a line, and how they are worded."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path

from ..core.commands import Await, Exploit, FallBack, Notice, Reconfigure, Retry, Stop
from ..core.commands import Status as TrialStatus
from ..core.events import Reported
from ..experiment import ExperimentInfo
from ..history import History, TrialHistory
from ..journal.codec import Record
from .table import begin_line, change_line, count_text, error_of, error_path, exploit_line, failure_line, result_line
from .text import crop

__all__ = ["EXPLOITS", "RESULTS", "SILENT", "Memory", "StatusBase"]

SILENT = 0
"""``verbose`` with errors and notes only."""
EXPLOITS = 2
"""``verbose`` from which every exploit has a line."""
RESULTS = 3
"""``verbose`` from which every result has a line."""
_REPEATS_EVERY_S = 5.0
"""How long failures with an error that was shown before are counted before they are told."""


class StatusBase(ABC):
    """Turns records into lines; how and when they appear is up to the subclass."""

    def __init__(self, verbose: int) -> None:
        self.verbose = verbose
        self.info: ExperimentInfo | None = None
        self.folder: Path | str = Path()
        """The experiment's folder, or its URL."""
        self.history = History(keep_rows=False)
        self.now = 0.0
        """The newest time known, seconds since the epoch."""
        self.began = 0.0
        """When this run began, seconds since the epoch."""
        self._errors: set[str] = set()
        """The errors of trials that were shown in full."""
        self._repeats = 0
        """How many trials failed with the error shown last, and were not told yet."""
        self._repeated = self._newest_error = ""
        self._repeats_due = 0.0

    @abstractmethod
    def say(self, text: str, kind: str) -> None:
        """Show one or more lines; ``kind`` is note, error, repeat, exploit, result or info."""

    @abstractmethod
    def tick(self, now: float) -> None:
        """Draw if it is worth it; called about ten times a second.

        Args:
            now: seconds since the epoch.
        """

    @abstractmethod
    def output(self, name: str, text: str) -> None:
        """Show a line that a member printed, with its name in front."""

    @abstractmethod
    def flush(self) -> None:
        """A batch of records is complete."""

    @abstractmethod
    def close(self) -> None:
        """Show how it ended."""

    def start(self, info: ExperimentInfo, folder: Path, history: History) -> None:
        """The experiment begins."""
        self.info, self.folder, self.history = info, info.place or folder, history
        self.now = self.began = time.time()
        if self.verbose > SILENT:
            where = folder if info.place is None else f"{info.place}, and until it ends also in {folder}"
            self.say(begin_line(info, where, history), "info")

    def opening(self, text: str) -> None:
        """Show a line at once, before the experiment begins, unless ``verbose`` is 0."""
        if self.verbose > SILENT:
            self.say(text, "info")

    def note(self, text: str) -> None:
        """Show a warning or another remark of Shoal's, whatever ``verbose`` is."""
        self.say(text, "note")

    def take(self, record: Record) -> None:
        """Show what the record says, as far as ``verbose`` asks for it."""
        item = record.item
        self.now = max(self.now, record.at)
        if isinstance(item, Reported):
            if self.verbose >= RESULTS:
                self._result(item)
        elif isinstance(item, Exploit) and item.failed is not None:
            text = _sentence(failure_line(self.history.trials[item.trial_id], item.failed))
            donor = self.history.trials[item.donor_id]
            self.say(f"{text} It goes on as a copy of {donor.name}, iteration {item.checkpoint.iteration}.", "error")
        elif isinstance(item, Exploit):
            self.exploited(item)
        elif isinstance(item, Reconfigure):
            if self.verbose > SILENT:
                self.say(change_line(item), "info")
        elif isinstance(item, Notice):
            self.note(item.text)
        elif isinstance(item, Retry):
            text = _sentence(failure_line(self.history.trials[item.trial_id]))
            again = f"from iteration {item.iteration}" if item.iteration else "from the start"
            counts = "It counts as no failure" if item.innocent else f"Failure {item.failures}"
            self.say(f"{text} {counts}; it is tried again {again}.", "error")
        elif isinstance(item, Await):
            text = _sentence(failure_line(self.history.trials[item.trial_id], item.error))
            self.say(f"{text} It waits for one that it can copy.", "error")
        elif isinstance(item, FallBack):
            name = self.history.trials[item.trial_id].name
            self.note(
                f"{name} was to go on from {item.damaged}, which is damaged: {item.reason}. It goes on from "
                f"{item.checkpoint.id}, iteration {item.checkpoint.iteration}."
            )
        elif isinstance(item, Stop) and item.status is TrialStatus.ERROR:
            self._failed(self.history.trials[item.trial_id])

    def exploited(self, exploit: Exploit) -> None:
        """Show an exploit, from ``verbose=2`` on."""
        if self.info is not None and self.verbose >= EXPLOITS:
            self.say(exploit_line(exploit, self.history, self.info), "exploit")

    def say_repeats(self, now: float | None = None) -> None:
        """Show how many more trials failed with an error that was shown.

        Args:
            now: seconds since the epoch; not more than a line every few seconds. Without it, at once.
        """
        if self._repeats and (now is None or not self._repeats_due - _REPEATS_EVERY_S <= now < self._repeats_due):
            count, self._repeats = self._repeats, 0
            # Which error, only where another was shown since.
            which = "the same error" if self._repeated == self._newest_error else crop(self._repeated, 80, "...")
            self.say(f"... and {count_text(count, 'more trial')} failed with {which}", "repeat")

    def _failed(self, trial: TrialHistory) -> None:
        error = error_of(trial)
        if error in self._errors:
            if error != self._repeated:
                self.say_repeats()
            self._repeated = error
            if not self._repeats:
                self._repeats_due = self.now + _REPEATS_EVERY_S
            self._repeats += 1
            return
        self.say_repeats()
        self._errors.add(error)
        self._newest_error = error
        self.say(f"{failure_line(trial)}\n    See {error_path(trial, self.folder)}", "error")

    def _result(self, report: Reported) -> None:
        trial = self.history.trials[report.trial_id]
        if self.info is not None and trial.last is not None and trial.last.report is report:
            self.say(result_line(trial, trial.last, self.info), "result")


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


class Memory:
    """The use of the machine's memory as text, looked up at most every two seconds."""

    def __init__(self) -> None:
        self._text = ""
        self._next = 0.0

    def text(self, now: float) -> str:
        """Return ``3.8/62.0 GiB``, or an empty text where it is not known."""
        if now >= self._next:
            self._next = now + 2.0
            try:
                import psutil

                memory = psutil.virtual_memory()
                self._text = f"{(memory.total - memory.available) / 2**30:.1f}/{memory.total / 2**30:.1f} GiB"
            except Exception:
                # No such system call in some containers; nothing that a run should end for.
                self._text = ""
        return self._text
