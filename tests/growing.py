"""An experiment whose journal goes on when it is told to: for tests of who follows one."""

from __future__ import annotations

from pathlib import Path

from shoal.core.commands import Launch, Status, Stop
from shoal.core.events import Failed, TrialAdded
from shoal.journal.codec import Item
from shoal.journal.sqlite import SQLiteJournal


class Growing:
    """A copy of an experiment, record by record. While it is open, its driver seems to run.

    Args:
        source: the folder of a whole experiment.
        folder: where the copy grows; must not be there yet.
        **facts: fields of ``ExperimentInfo`` that are to differ.
    """

    def __init__(self, source: Path, folder: Path, **facts: object) -> None:
        reader = SQLiteJournal.open_for_reading(source)
        try:
            self._records = [(record.at, record.item) for record in reader.read()]
            meta = {**reader.meta(), "name": folder.name, **facts}
        finally:
            reader.close()
        folder.mkdir(parents=True)
        self.folder = folder
        self.written = 0
        self._journal = SQLiteJournal.create(folder)
        self._journal.set_meta(**meta)

    @property
    def total(self) -> int:
        """How many records the whole experiment has."""
        return len(self._records)

    def grow(self, count: int | None = None, part: float | None = None) -> None:
        """Write on: so many records, or up to a part of the whole, or all that are left."""
        end = self.total
        if part is not None:
            end = int(self.total * part)
        elif count is not None:
            end = min(end, self.written + count)
        batch: list[Item] = []
        at = 0.0
        for at_now, item in self._records[self.written : end]:
            if batch and at_now != at:
                self._journal.append(batch, at)
                batch = []
            at = at_now
            batch.append(item)
        if batch:
            self._journal.append(batch, at)
        self.written = max(end, self.written)

    def fail(self, index: int, error: str, traceback: str) -> None:
        """Have a member fail for good, with what it was doing."""
        launch = 0
        trial_id = ""
        for _, item in self._records[: self.written]:
            if isinstance(item, TrialAdded) and item.index == index:
                trial_id = item.trial_id
            if isinstance(item, Launch) and item.trial_id == trial_id:
                launch = item.launch
        self._journal.append(
            [Failed(trial_id, launch, error, traceback), Stop(trial_id, launch, Status.ERROR, error)],
            self._records[self.written - 1][0],
        )

    def close(self) -> None:
        """Let go of it, as a driver that ends does."""
        self._journal.close()
