"""Each result counts once: in the history, in the files, and on the learning curve, whatever fails and goes back.

Experiments are told to the readers, and to an account of its own that is kept from the same records, slowly and simply.
The scenarios report a digest of all that made the weights, so two steps of the same number are told apart.
"""

from __future__ import annotations

import csv
import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest
from tests.simulation.scenarios import Scenario, State, drawn_scenario
from tests.unit.stories import make_info

from shoal.core.commands import (
    CheckpointRecord,
    DeleteCheckpoint,
    Exploit,
    Launch,
    Reconfigure,
    Retry,
    Stop,
    checkpoint_id,
)
from shoal.core.events import Config, Failed, Lost, Metrics, Opened, Reported, Saved, SavedCheckpoint, TrialAdded
from shoal.core.limits import Limits, RetentionRules
from shoal.history import History, TrialHistory
from shoal.journal.codec import Item, Record, decode, encode
from shoal.lineage import lineage_of
from shoal.results import Result
from shoal.sinks import LogFiles
from shoal.sinks.tensorboard import TensorBoardFiles
from shoal.sinks.tfevents import Kind, records
from shoal.testing import Fault

Step = tuple[str, int, int, int]
"""(trial, generation, training_iteration, digest) of a result."""
Path_ = tuple[Step, ...]
"""The results that made some weights, oldest first."""


# --------------------------------------------------------------------------------------------------------- the account


@dataclass
class Account:
    """Which results count, and what made them. Each path is copied, and each launch looked at as a whole."""

    counted: dict[str, list[Path_]] = field(default_factory=dict[str, list[Path_]])
    """For each trial, each result that counts as the path that ends with it."""
    paths: dict[str, Path_] = field(default_factory=dict[str, Path_])
    """What made the weights that each trial has now."""
    saved: dict[str, Path_] = field(default_factory=dict[str, Path_])
    generation: dict[str, int] = field(default_factory=dict[str, int])
    launch: dict[str, int] = field(default_factory=dict[str, int])
    """The launch whose messages count; 0 where none does."""
    undone: int = 0
    by_step: int = 0
    """How many results would be undone if only the step counted: those beyond the one that a launch goes on from."""

    def tell(self, item: Item) -> None:
        if isinstance(item, TrialAdded):
            self.counted[item.trial_id] = []
            self.paths[item.trial_id] = ()
            self.generation[item.trial_id] = self.launch[item.trial_id] = 0
        elif isinstance(item, Reported):
            if item.launch == self.launch[item.trial_id]:
                step = (item.trial_id, self.generation[item.trial_id], item.iteration, item.metrics["digest"])
                path = self.paths[item.trial_id] = (*self.paths[item.trial_id], step)
                self.counted[item.trial_id].append(path)
                if item.checkpoint is not None:
                    self.saved[checkpoint_id(item.trial_id, item.checkpoint.number)] = path
        elif isinstance(item, Saved):
            if item.launch == self.launch[item.trial_id]:
                self.saved[checkpoint_id(item.trial_id, item.checkpoint.number)] = self.paths[item.trial_id]
        elif isinstance(item, Failed | Lost):
            if item.launch == self.launch[item.trial_id]:
                self.launch[item.trial_id] = 0
        elif isinstance(item, Stop):
            self.launch[item.trial_id] = 0
        elif isinstance(item, Exploit):
            self.generation[item.trial_id] += 1
        elif isinstance(item, Opened):
            for trial_id in item.anew:
                self.undone += len(self.counted[trial_id])
                self.by_step += len(self.counted[trial_id])
                self.counted[trial_id] = []
        elif isinstance(item, Launch):
            self._launched(item)

    def _launched(self, launch: Launch) -> None:
        trial_id = launch.trial_id
        self.launch[trial_id] = launch.launch
        path = self.paths[trial_id] = () if launch.checkpoint is None else self.saved[launch.checkpoint.id]
        assert len(path) == launch.iteration
        made = set(path)
        now = self.generation[trial_id]
        before = self.counted[trial_id]
        self.counted[trial_id] = [told for told in before if told[-1][1] != now or told[-1] in made]
        self.undone += len(before) - len(self.counted[trial_id])
        self.by_step += sum(told[-1][1] == now and told[-1][2] > launch.iteration for told in before)


def step_of(row: Any) -> Step:
    return row.report.trial_id, row.generation, row.report.iteration, row.report.metrics["digest"]


def check_history(history: History, account: Account) -> None:
    """Compare what counts: nothing twice, nothing missing; and how it came about."""
    assert history.results == sum(map(len, account.counted.values()))
    for trial in history.in_order():
        counted = account.counted[trial.trial_id]
        assert trial.counted == len(counted)
        assert (trial.last and step_of(trial.last)) == (counted[-1][-1] if counted else None)
        if not history.keep_rows:
            assert trial.rows == []
            continue
        told = [step_of(row) for row in trial.rows]
        assert told == [path[-1] for path in counted]
        assert len({step[:3] for step in told}) == len(told), "a step of a generation is there twice"
        assert [row.number for row in trial.rows] == list(range(1, len(told) + 1))
        for row, path in zip(trial.rows, counted, strict=True):
            assert tuple(map(step_of, row.steps())) == path
            assert [step[2] for step in path] == list(range(1, row.report.iteration + 1))


def check_lineage(history: History) -> None:
    """Compare lineage and learning curve, and what a user gets of both."""
    for trial in history.in_order():
        result = Result(trial, history, Path("nowhere"))
        curve = result.learning_curve()
        if trial.last is None:
            assert curve.empty
            continue
        segments = [segment for segment in lineage_of(trial, trial.last, history) for _ in range(segment.steps)]
        assert curve["training_iteration"].tolist() == list(range(1, trial.iteration + 1))
        assert curve["trial_id"].tolist() == [segment.trial_id for segment in segments]
        assert curve["trial"].tolist() == [segment.trial for segment in segments]
        assert [row.config for row in trial.last.steps()] == [segment.config for segment in segments]
        frame = result.metrics_dataframe
        assert frame is not None
        assert not frame.duplicated(["trial_id", "generation", "training_iteration"]).any()


# ----------------------------------------------------------------------------------------------------------- the files


def lines_of(folder: Path, trial: TrialHistory) -> list[list[tuple[int, int]]]:
    """Return (step, digest) of each row of ``result.json`` and of ``progress.csv``."""
    found: list[list[tuple[int, int]]] = [[], []]
    place = folder / trial.folder
    if (place / "result.json").exists():
        told = [json.loads(line) for line in (place / "result.json").read_text().splitlines()]
        found[0] = [(row["training_iteration"], row["digest"]) for row in told]
        with (place / "progress.csv").open(newline="") as file:
            found[1] = [(int(row["training_iteration"]), int(row["digest"])) for row in csv.DictReader(file)]
    return found


class Told:
    """Tells the readers an experiment, batch by batch; now and then the driver is killed and another one goes on."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(f"told {seed}")
        self.folder = folder
        self.account = Account()
        self.told: list[Record] = []
        self.begin()

    def begin(self) -> None:
        """A driver begins."""
        self.history = History.of(Record(record.seq, record.at, again(record.item)) for record in self.told)
        self.logs, self.board = LogFiles(open_files=3), TensorBoardFiles()
        check_history(self.history, self.account)
        self.logs.start(make_info(), self.folder, self.history)
        self.board.start(make_info(), self.folder, self.history)
        self.check_files()
        self.history.forget_rows()

    def tell(self, items: Sequence[Item]) -> None:
        """A batch is committed, and the readers hear of it."""
        for item in items:
            record = Record(len(self.told) + 1, 0.0, item)
            self.told.append(record)
            self.account.tell(item)
            self.history.add(record)
            self.logs.take(record)
            self.board.take(record)
        self.logs.flush()
        self.board.flush()
        check_history(self.history, self.account)

    def check_files(self) -> None:
        for trial in self.history.in_order():
            expected = [path[-1][2:] for path in self.account.counted[trial.trial_id]]
            assert lines_of(self.folder, trial) == [expected, expected]
            # TensorBoard is told of everything once, and what to drop.
            for path in (self.folder / trial.folder).glob("events.*"):
                kinds = [record.kind for record in records(path.read_bytes())]
                assert kinds.count(Kind.SCALARS) == trial.reported

    def killed(self) -> None:
        """The driver is killed in the middle of writing; another one goes on."""
        self.forget()
        for trial in self.history.in_order():
            places = list((self.folder / trial.folder).iterdir())
            for path in sorted(path for path in places if path.name.startswith(("result", "progress", "events"))):
                if self.rng.random() < 0.5:
                    data = path.read_bytes()
                    path.write_bytes(data[: self.rng.randrange(len(data) + 1)] + self.rng.choice([b"", b'{"torn']))
        self.begin()

    def forget(self) -> None:
        """Let go of open files, as a process does that is killed; all that was told has been flushed."""
        self.logs.close()
        self.board.close()

    def run(self, items: Sequence[Item]) -> History:
        """Tell all items, and return the history that the whole journal tells."""
        rest = list(items)
        while rest:
            size = self.rng.choice((1, 1, 2, 5, 20))
            self.tell(rest[:size])
            del rest[:size]
            if self.rng.random() < 0.1:
                self.check_files()
            if self.rng.random() < 0.02:
                self.killed()
        self.check_files()
        self.logs.close()
        self.killed()
        self.forget()
        history = History.of(Record(record.seq, record.at, again(record.item)) for record in self.told)
        check_history(history, self.account)
        check_lineage(history)
        return history


def again(item: Item) -> Item:
    """Return an item as it is read back from the journal."""
    return decode(*encode(item))


# ------------------------------------------------------------------------------------------------ simulated experiments


class Digested(Scenario):
    """Reports what made its weights, with a text that is hard on CSV files, and now and then a column that is new."""

    def train(self, config: Config, state: State | None) -> tuple[Metrics, State] | None:
        trained = super().train(config, state)
        if trained is None:
            return None
        metrics, now = trained
        chain = now[3]
        more: Metrics = {"digest": chain, "text": ('"', "a,\nb", '"x"\n\n', "ü\r\n", "")[chain % 5]}
        if chain % 13 == 0:
            more[f"rare{chain % 3}"] = chain % 7
        return {**metrics, **more}, now


def digested(scenario: Scenario) -> Digested:
    return Digested(**{entry.name: getattr(scenario, entry.name) for entry in fields(scenario)})


def lively(seed: int) -> Digested:
    """Draw an experiment with many exploits and failures, and checkpoints of which not every step has one."""
    rng = random.Random(f"unique {seed}")
    drawn = drawn_scenario(seed, 8, pbt=True, length=14, fail_fast=False, residents=rng.choice((None, 1, 3)))
    return digested(
        replace(
            drawn,
            members=rng.randint(2, 6),
            interval=rng.choice((1.0, 2.0, 3.0)),
            burn_in=0.0,
            quantile=rng.choice(("0.25", "0.5")),
            landscape=rng.choice(("improves", "noise", "ties")),
            checkpoint_every=rng.choice((1, 2, 3, 5)),
            synch=seed % 4 < 2,
            target=None,
            faults=tuple((fault, 0.04) for fault in Fault if fault is not Fault.RETURN),
            max_failures=rng.choice((2, -1)),
            stop_asked_at=None,
        )
    )


def journal_of(scenario: Scenario, rng: random.Random) -> list[Item]:
    """Return all records of an experiment whose driver is killed up to three times."""
    whole = scenario.simulation(validate=False).run()
    result = scenario.simulation(validate=False).run(kill_after=rng.randrange(1, len(whole.events) + 1))
    for _ in range(rng.randrange(3)):
        kill_after = len(result.events) + rng.randrange(1, 60)
        how: dict[str, Any] = rng.choice(({}, {"resume_errored": True}, {"restart_errored": True}))
        result = scenario.simulation(validate=False).go_on(result, kill_after=kill_after, **how)
    return scenario.simulation(validate=False).go_on(result, resume_errored=True).journal


def test_no_result_of_a_simulated_experiment_counts_twice_and_none_that_counts_is_missing(tmp_path: Path) -> None:
    undone = generations = curves = 0
    for seed in range(100):
        scenario = lively(seed) if seed % 3 else digested(drawn_scenario(seed, 6))
        told = Told(tmp_path / str(seed), seed)
        try:
            history = told.run(journal_of(scenario, random.Random(f"killed {seed}")))
            check_weights(scenario, history)
        except Exception as error:
            raise AssertionError(f"{error}\nin {scenario!r}") from error
        assert told.account.undone == told.account.by_step, "here, step and generation of the launches tell it too"
        undone += told.account.undone
        generations += sum(len(trial.exploits) for trial in history.in_order())
        curves += sum(trial.last is not None and trial.last.steps()[0].report.trial_id != trial.trial_id
                      for trial in history.in_order())  # fmt: skip
    assert undone > 400
    assert generations > 300
    assert curves > 50


def check_weights(scenario: Scenario, history: History) -> None:
    """Train each trial's last weights again, with the configs of its learning curve: each step is the one reported."""
    endless = replace(scenario, returns=False)
    for trial in history.in_order():
        state: State | None = None
        for row in [] if trial.last is None else trial.last.steps():
            trained = endless.train(row.config, state)
            assert trained is not None
            assert repr(trained[0]) == repr(row.report.metrics)
            state = trained[1]


# --------------------------------------------------------------------------------- whatever else a trial may go back to


class Wild:
    """Tells experiments in which trials go back to any checkpoint that is left, from any moment."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"wild {seed}")
        self.items: list[Item] = []
        self.names = ["a", "b", "c"]
        self.launches = dict.fromkeys(self.names, 0)
        self.steps = dict.fromkeys(self.names, 0)
        self.generations = dict.fromkeys(self.names, 0)
        self.changes = dict.fromkeys(self.names, 0)
        self.numbers = dict.fromkeys(self.names, 0)
        self.configs: dict[str, Config] = {name: {"h": float(index)} for index, name in enumerate(self.names)}
        self.donor: dict[str, str | None] = dict.fromkeys(self.names)
        """From whom a trial has copied, until it saved a checkpoint of its own."""
        self.kept: dict[str, dict[int, CheckpointRecord]] = {name: {} for name in self.names}
        self.saved_in: dict[str, int] = {}
        """For each checkpoint, its trial's generation."""
        self.pinned: dict[str, CheckpointRecord | None] = dict.fromkeys(self.names)
        self.counter = itertools.count(1)

    def tell(self) -> list[Item]:
        for index, name in enumerate(self.names):
            self.items.append(TrialAdded(name, index, name, name, name, self.configs[name]))
            self.launch(name, None)
        for _ in range(150):
            name = self.rng.choice(self.names)
            act = self.rng.choice((*[self.report] * 6, self.fail, self.fail, self.exploit, self.change, self.delete))
            act(name)
            if self.rng.random() < 0.02:
                self.open_again(name)
        return self.items

    def report(self, name: str) -> None:
        self.steps[name] += 1
        saved = None
        if self.rng.random() < 0.4:
            number, self.numbers[name] = self.numbers[name], self.numbers[name] + 1
            saved = SavedCheckpoint(number, "d", 1)
            record = CheckpointRecord(
                checkpoint_id(name, number),
                name,
                number,
                "d",
                1,
                self.steps[name],
                float(self.steps[name]),
                1.0,
                0.0,
                None,
            )
            self.kept[name][number] = self.pinned[name] = record
            self.saved_in[record.id] = self.generations[name]
            self.donor[name] = None
        metrics = {"digest": next(self.counter), "text": "x" * self.rng.randrange(3)}
        self.items.append(Reported(name, self.launches[name], self.steps[name], metrics, False, checkpoint=saved))

    def fail(self, name: str) -> None:
        """It goes on from its newest checkpoint, from an older one, from its donor's, or from scratch."""
        self.items.append(Lost(name, self.launches[name], "gone"))
        if self.rng.random() < 0.3:
            self.report(name)  # this news has overtaken it
            if self.items[-1].checkpoint is not None:  # type: ignore[union-attr]
                del self.kept[name][self.numbers[name] - 1]
        donor = self.donor[name]
        own = list(self.kept[name].values())
        older = [*own, *(self.kept[donor].values() if donor is not None else ()), None]
        pinned = self.pinned[name]
        newest = pinned if pinned is not None and pinned in older else self.rng.choice(older)
        back = newest if self.rng.random() < 0.5 else self.rng.choice(older)
        self.items.append(Retry(name, 1, 0 if back is None else back.iteration, "gone"))
        self.launch(name, back)

    def exploit(self, name: str) -> None:
        donor = self.rng.choice([other for other in self.names if other != name])
        if not self.kept[donor]:
            return
        if self.rng.random() < 0.3:
            self.items.append(Failed(name, self.launches[name], "for good", ""))
        record = self.rng.choice(list(self.kept[donor].values()))
        self.generations[name] += 1
        new = {"h": self.rng.random()}
        self.items.append(
            Exploit(
                name, self.launches[name], self.generations[name], self.steps[name], None, donor, self.steps[donor],
                record, self.configs[donor], self.configs[name], new,
            )
        )  # fmt: skip
        self.configs[name], self.donor[name] = new, donor
        self.launch(name, record)

    def change(self, name: str) -> None:
        record = self.pinned[name]
        if record is None or record.trial_id != name or record.iteration != self.steps[name] or self.donor[name]:
            return
        self.changes[name] += 1
        new = {"h": self.rng.random()}
        self.items.append(
            Reconfigure(
                name, self.launches[name], self.changes[name], record.iteration, record, self.configs[name], new
            )
        )
        self.configs[name] = new
        self.launch(name, record)

    def delete(self, name: str) -> None:
        used = [record.id for record in self.pinned.values() if record is not None]
        for number, record in list(self.kept[name].items())[:-1]:
            if record.id not in used and self.rng.random() < 0.5:
                del self.kept[name][number]
                self.items.append(DeleteCheckpoint(name, number))

    def open_again(self, name: str) -> None:
        """The driver is killed. A trial begins anew, or all go on."""
        anew = self.rng.random() < 0.5
        self.items.append(Opened(Limits(), RetentionRules(), anew=(name,) if anew else ()))
        for other in self.names:
            if other == name and anew:
                self.kept[name] = {}
                self.donor[name] = None
                self.configs[name] = {"h": float(self.names.index(name))}
                self.launch(name, None)
            else:
                record = self.pinned[other]
                there = record is not None and record.number in self.kept[record.trial_id]
                self.launch(other, record if there else None)

    def launch(self, name: str, record: CheckpointRecord | None) -> None:
        self.launches[name] += 1
        self.steps[name] = 0 if record is None else record.iteration
        self.pinned[name] = record
        if record is None or record.trial_id == name:
            self.donor[name] = None
        # Whoever goes back to an older checkpoint does so because the newer ones are damaged: none is used again.
        now = self.generations[name]
        mine = record is not None and record.trial_id == name and self.saved_in[record.id] == now
        since = record.number if record is not None and mine else -1
        for number, other in list(self.kept[name].items()):
            if number > since and self.saved_in[other.id] == now:
                del self.kept[name][number]
        self.items.append(
            Launch(
                name, self.launches[name], 0, self.configs[name], record, self.steps[name], 0.0, self.numbers[name],
                None, True, self.generations[name],
            )
        )  # fmt: skip


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_no_result_counts_twice_whatever_checkpoint_a_trial_goes_back_to(start: int, tmp_path: Path) -> None:
    undone = 0
    for seed in range(start, start + 50):
        told = Told(tmp_path / str(seed), seed)
        try:
            told.run(Wild(seed).tell())
        except Exception as error:
            raise AssertionError(f"{error}\nin wild {seed}") from error
        undone += told.account.undone
    assert undone > 500
