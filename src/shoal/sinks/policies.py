"""``pbt_global.txt`` and ``pbt_policy_<trial_id>.txt``: who copied whom, and the schedule behind a member's weights.

A line is ``[target_tag, donor_tag, target_iteration, donor_iteration, donor_config, new_config]``. The fourth field is
the ``training_iteration`` of the copied weights, at which a replay has to change to the new config.
"""

from __future__ import annotations

from pathlib import Path

from ..core.commands import Exploit, FallBack, Launch
from ..core.events import Opened, Reported
from ..experiment import ExperimentInfo
from ..history import History, TrialHistory
from ..journal.codec import Record
from .files import GrowingFiles, replace_text, to_json

__all__ = ["PolicyFiles"]


class PolicyFiles:
    """Writes the experiment's exploits, where its scheduler asks for that; a :class:`shoal.experiment.Reader`.

    A target's policy file holds the lines of the donor's weights, then the new one: the ancestry of the weights that
    the target has now. It is replaced whole. After a restore all files are written anew from the history.
    """

    def __init__(self) -> None:
        self._files = GrowingFiles(1)
        self._wanted = False
        self._folder = Path()
        self._history = History()
        self._lines: list[str] = []
        self._targets: dict[str, TrialHistory] = {}
        self._fallen: set[str] = set()
        """Trials that go on from older weights, perhaps of another member, as soon as they are launched."""
        self._texts: dict[tuple[str, int, str], str] = {}
        """Every line so far, because each is needed again for every descendant of the weights."""

    def start(self, info: ExperimentInfo, folder: Path, history: History) -> None:
        """Begin in the experiment's folder, which exists."""
        self._wanted = info.logs_policies
        self._folder = folder
        self._history = history
        if self._wanted and history.exploits:
            replace_text(self._global_path, "".join(map(self._line, history.exploits)))
            self._targets = {exploit.trial_id: history.trials[exploit.trial_id] for exploit in history.exploits}
            self.flush()

    def take(self, record: Record) -> None:
        """Collect an exploit."""
        item = record.item
        if not self._wanted or isinstance(item, Reported):
            return
        if isinstance(item, Opened):
            for trial_id in item.anew:
                # It has nothing of the weights that the file tells of.
                (self._folder / f"pbt_policy_{trial_id}.txt").unlink(missing_ok=True)
        elif isinstance(item, FallBack):
            self._fallen.add(item.trial_id)
        elif isinstance(item, Launch):
            if item.trial_id in self._fallen:
                self._fallen.discard(item.trial_id)
                self._targets[item.trial_id] = self._history.trials[item.trial_id]
        elif isinstance(item, Exploit):
            self._lines.append(self._line(item))
            self._targets[item.trial_id] = self._history.trials[item.trial_id]

    def flush(self) -> None:
        """Write what was collected."""
        if self._lines:
            self._files.append(self._global_path, "".join(self._lines))
            self._lines.clear()
        for trial in self._targets.values():
            chain = () if trial.ancestry is None else (link.change for link in trial.ancestry.oldest_first())
            text = "".join(self._line(change) for change in chain if isinstance(change, Exploit))
            path = self._folder / f"pbt_policy_{trial.trial_id}.txt"
            if text:
                replace_text(path, text)
            else:
                path.unlink(missing_ok=True)  # it has fallen back behind all of its exploits
        self._targets.clear()

    def close(self) -> None:
        """Write what was collected and close the files."""
        try:
            self.flush()
        finally:
            self._files.close()

    @property
    def _global_path(self) -> Path:
        return self._folder / "pbt_global.txt"

    def _line(self, exploit: Exploit) -> str:
        key = (exploit.trial_id, exploit.generation, exploit.checkpoint.id)
        if key not in self._texts:
            trials = self._history.trials
            fields = [
                trials[exploit.trial_id].tag,
                trials[exploit.donor_id].tag,
                exploit.iteration,
                exploit.checkpoint.iteration,
                exploit.donor_config,
                exploit.new_config,
            ]
            self._texts[key] = f"{to_json(fields)}\n"
        return self._texts[key]
