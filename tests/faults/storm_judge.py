"""The judge of a storm: what an experiment left, compared with what had been committed before each strike.

:func:`gather` reads everything into plain data, and :func:`judge` is a pure function of it. It keeps an account of its
own from the journal's records, slowly and simply, and shares none with the code that it judges.
"""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.storm_script import SHARED, Experiment, first_state, next_state

from shoal import tune
from shoal.checkpoints.store import damage
from shoal.core.commands import DeleteCheckpoint, Exploit, FallBack, Launch, Status, Stop, checkpoint_id
from shoal.core.events import Damaged, Failed, Lost, Opened, Reported, Saved, TrialAdded
from shoal.core.trial import replaced
from shoal.journal import JOURNAL_NAME
from shoal.journal.brief import BRIEF, Expander
from shoal.journal.codec import decode

__all__ = [
    "Account", "Evidence", "Line", "Member", "Snapshot", "Verdict",
    "gather", "judge", "lines_of", "outside", "snapshot",
]  # fmt: skip

Line = tuple[int, float, str, str]
"""A record of the journal as it is stored: number, time, kind, text."""
SHARED_MEMORY = Path("/dev/shm")
OWN = ("step", "score", "chain", "lr", "mark")
"""What members report."""
_THE_PARENT_WAS_KILLED = "The parent process of the members ended with code -9 while it loaded the trainable"
"""The only error that a storm causes: a strike at a warm parent that has just been started again."""


# ---- Evidence --------------------------------------------------------------------------------------------------------


def lines_of(path: Path) -> list[Line]:
    """Return the records of a journal that may be in use; none where there is none yet."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
            return list(connection.execute("SELECT seq, at, kind, body FROM journal ORDER BY seq"))
    except sqlite3.OperationalError:
        return []


def items_in(lines: Sequence[Line], after: int = 0) -> Iterator[tuple[int, Any]]:
    """Yield number and item of each record of a journal, but of the first ones."""
    by_number = {line[0]: line for line in lines}
    expander = Expander(lambda number: decode(*by_number[number][2:]))
    for seq, _, kind, body in lines[after:]:
        yield seq, expander.decode(seq, body) if kind == BRIEF else decode(kind, body)


@dataclass(frozen=True)
class Snapshot:
    """What there was when the experiment was struck."""

    lines: tuple[Line, ...]
    """The journal."""
    shown: tuple[tuple[str, str], ...] = ()
    """Trial and chain of all results that stood in a ``result.json``."""


def snapshot(folder: Path, *, alive: bool) -> Snapshot:
    """Look at an experiment without touching it; while its driver is ``alive``, not at what it writes just now."""
    journal = folder / JOURNAL_NAME
    if alive:
        return Snapshot(tuple(lines_of(journal)))
    with tempfile.TemporaryDirectory() as aside:
        for path in (journal, journal.with_name(f"{JOURNAL_NAME}-wal")):
            if path.exists():
                shutil.copy(path, aside)
        lines = tuple(lines_of(Path(aside, JOURNAL_NAME)))
    shown: list[tuple[str, str]] = []
    for path in folder.glob("*/result.json"):
        whole = path.read_text().rpartition("\n")[0]
        rows = [json.loads(line) for line in whole.splitlines()]
        shown += [(row["trial_id"], row["chain"]) for row in rows]
    return Snapshot(lines, tuple(shown))


@dataclass(frozen=True)
class Member:
    """What is left of one member, as users see it."""

    index: int
    trial_id: str
    tag: str
    rows: list[dict[str, Any]]
    """``metrics_dataframe``: what it reported, ``generation`` and ``training_iteration``."""
    logged: list[dict[str, Any]]
    """``result.json``."""
    table: list[dict[str, str]]
    """``progress.csv``."""
    curve: list[dict[str, Any]]
    """``learning_curve()``, with the config of each step."""
    lineage: list[dict[str, Any]]
    schedule: list[tuple[int, dict[str, Any]]]
    policy: list[Any]
    """Lines of its ``pbt_policy_*.txt``."""
    checkpoints: dict[str, str]
    """The chain in each checkpoint's folder, by the checkpoint's id."""


@dataclass(frozen=True)
class Evidence:
    """All that there is about one experiment."""

    lines: Sequence[Line]
    """The journal at the end."""
    members: Sequence[Member]
    exploits: Sequence[Any] = ()
    """Lines of ``pbt_global.txt``."""
    damaged: Sequence[str] = ()
    """Checkpoints whose files are not what was committed."""
    leftovers: Sequence[str] = ()
    """Files and folders that nobody needs."""
    snapshots: Sequence[Snapshot] = ()


def outside(temporary: Path, made: Path, drivers: Iterable[int]) -> list[str]:
    """Return what is left of an experiment elsewhere than in its folder.

    Args:
        temporary: its folder for temporary files, of which nobody else knows.
        made: a file with the names of what its members have made in shared memory.
        drivers: the numbers of its drivers' processes, by which their objects are called.
    """
    names = made.read_text().split() if made.exists() else []
    marks = [f"-{pid}-" for pid in drivers]
    shared = [
        path
        for path in SHARED_MEMORY.glob("*")
        if path.name in names or (path.name.startswith("shoal-") and any(mark in path.name for mark in marks))
    ]
    return [str(path) for path in (*temporary.glob("*"), *shared)]


def gather(folder: Path, snapshots: Sequence[Snapshot] = (), *, elsewhere: Sequence[str] = ()) -> Evidence:
    """Read all that there is about an experiment that has ended; ``elsewhere``: what it has left there."""
    lines = lines_of(folder / JOURNAL_NAME)
    account = Account(lines)
    places = {trial.trial_id: trial.folder for _, trial in account.items_of(TrialAdded)}
    digests = {identity: digest for identity, (digest, _) in account.saved.items()}
    members: list[Member] = []
    damaged: list[str] = []
    leftovers = [*elsewhere]
    leftovers += [str(path) for pattern in (".*", "*/.*", "*/deleted_*") for path in folder.glob(pattern)]
    for result in tune.ResultGrid.read(folder):
        place = folder / places[result.trial_id]
        there: dict[str, str] = {}
        for path in sorted(place.glob("checkpoint_*")):
            identity = f"{result.trial_id}/{path.name}"
            if identity not in digests:
                leftovers.append(str(path))
            elif (wrong := damage(path, digests[identity])) is not None:
                damaged.append(f"{identity}: {wrong}")
            else:
                there[identity] = json.loads((path / "state.json").read_text())["chain"]
        members.append(_member(result, place, there))
    told = folder / "pbt_global.txt"
    exploits = [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []
    return Evidence(lines, members, _bare(exploits), damaged, leftovers, snapshots)


def _member(result: tune.Result, place: Path, checkpoints: dict[str, str]) -> Member:
    frame, curve = result.metrics_dataframe, result.learning_curve()
    columns = [*OWN, "generation", "training_iteration"]
    policy = place.parent / f"pbt_policy_{result.trial_id}.txt"
    with (place / "progress.csv").open() as file:
        table = list(csv.DictReader(file))
    added = result._trial
    return Member(
        index=added.index,
        trial_id=result.trial_id,
        tag=added.tag,
        rows=[] if frame is None else frame[columns].to_dict("records"),
        logged=[json.loads(line) for line in (place / "result.json").read_text().splitlines()],
        table=table,
        curve=curve[[*columns, "trial", "config/lr", "config/mark"]].to_dict("records"),
        lineage=_bare(json.loads(result.lineage().to_json())),
        schedule=_bare([(step, dict(config)) for step, config in result.schedule().changes]),
        policy=_bare([json.loads(line) for line in policy.read_text().splitlines()]) if policy.exists() else [],
        checkpoints=checkpoints,
    )


def _bare(value: Any) -> Any:
    """Return plain data without what changes with every process: references to stored objects."""
    if isinstance(value, dict):
        return {key: _bare(entry) for key, entry in value.items() if key != "data"}
    if isinstance(value, (list, tuple)):
        return type(value)(_bare(entry) for entry in value)
    return value


# ---- An account of its own -------------------------------------------------------------------------------------------


@dataclass
class _Trial:
    """One trial, as far as the records have been read."""

    config: dict[str, Any]
    launch: int = 0
    over: bool = True
    """What it reports does not count: it is not launched, has failed or has ended."""
    generation: int = 0
    settled: int = 0
    """How many rows it has from before its newest exploit."""
    newest: str | None = None
    """The id of the checkpoint that it has to go on from."""
    made: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """For each of its checkpoints, the generation, and how many rows it had."""
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """What counts."""

    @property
    def safe(self) -> int:
        """How many rows a kill at this moment cannot undo."""
        generation, count = self.made.get(self.newest or "", (-1, 0))
        return count if generation == self.generation else self.settled


class Account:
    """What counts, by the journal's records alone; and what is wrong with them."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.items = list(items_in(list(lines)))
        self.trials: dict[str, _Trial] = {}
        self.saved: dict[str, tuple[str, str]] = {}
        """Digest and chain of each committed checkpoint, by its id."""
        self.kept: set[str] = set()
        """Those that have not been deleted."""
        self.reported = 0
        self.strayed: list[str] = []
        """Launches from elsewhere than the newest committed checkpoint, or with another config."""
        self.failures: list[str] = []
        for seq, item in self.items:
            self._take(seq, item)

    def items_of(self, kind: type[Any]) -> list[tuple[int, Any]]:
        """Return the items of one kind, with their numbers."""
        return [(seq, item) for seq, item in self.items if isinstance(item, kind)]

    def _take(self, seq: int, item: Any) -> None:
        if isinstance(item, TrialAdded):
            self.trials[item.trial_id] = _Trial(item.config)
        elif isinstance(item, Opened):
            for trial in self.trials.values():
                trial.over = True
                trial.config = replaced(trial.config, item.config)
        elif isinstance(item, Launch):
            self._launched(seq, item, self.trials[item.trial_id])
        elif isinstance(item, Reported | Saved):
            self._spoken(item, self.trials[item.trial_id])
        elif isinstance(item, Exploit):
            trial = self.trials[item.trial_id]
            trial.generation, trial.settled, trial.over = item.generation, len(trial.rows), True
            trial.newest, trial.config = item.checkpoint.id, item.new_config
        elif isinstance(item, Failed | Lost | Stop):
            self._ended(seq, item, self.trials[item.trial_id])
        elif isinstance(item, DeleteCheckpoint):
            self.kept.discard(checkpoint_id(item.trial_id, item.number))
        elif isinstance(item, Damaged | FallBack):
            self.failures.append(f"record {seq}: a checkpoint was damaged: {item}")

    def _launched(self, seq: int, launch: Launch, trial: _Trial) -> None:
        record = launch.checkpoint
        found = None if record is None else record.id
        if found != trial.newest:
            self.strayed.append(f"record {seq}: {launch.trial_id} goes on from {found} instead of {trial.newest}")
        if _bare(launch.config) != _bare(trial.config) or launch.generation != trial.generation:
            self.strayed.append(f"record {seq}: {launch.trial_id} goes on with {launch.config}, not {trial.config}")
        if launch.iteration != (0 if record is None else record.iteration):
            self.strayed.append(f"record {seq}: {launch.trial_id} goes on at step {launch.iteration} with {found}")
        trial.launch, trial.over = launch.launch, False
        del trial.rows[trial.safe :]

    def _spoken(self, item: Reported | Saved, trial: _Trial) -> None:
        if item.launch != trial.launch or trial.over:
            return
        if isinstance(item, Reported):
            self.reported += 1
            own = {key: item.metrics[key] for key in OWN}
            trial.rows.append({**own, "generation": trial.generation, "training_iteration": item.iteration})
        if item.checkpoint is not None:
            trial.newest = checkpoint_id(item.trial_id, item.checkpoint.number)
            trial.made[trial.newest] = (trial.generation, len(trial.rows))
            self.kept.add(trial.newest)
            self.saved[trial.newest] = (item.checkpoint.digest, trial.rows[-1]["chain"])

    def _ended(self, seq: int, item: Failed | Lost | Stop, trial: _Trial) -> None:
        if isinstance(item, Failed) and _THE_PARENT_WAS_KILLED not in item.error:
            self.failures.append(f"record {seq}: {item.trial_id} failed: {item.error}")
        if isinstance(item, Stop) and item.status is Status.ERROR:
            self.failures.append(f"record {seq}: {item.trial_id} ended with an error: {item.reason}")
        if item.launch == trial.launch:
            trial.over = True


# ---- The verdict -----------------------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What was found, by kind; all lists are empty where all is well."""

    committed: int = 0
    """How many results were committed."""
    undone: int = 0
    """How many of these were trained again, because their trial went back to its newest checkpoint."""
    lost: list[str] = field(default_factory=list[str])
    """Results that were committed and are not there."""
    twice: list[str] = field(default_factory=list[str])
    """Results that count more than once."""
    strayed: list[str] = field(default_factory=list[str])
    """Members that went on from another checkpoint than their newest, or with another config."""
    damaged: list[str] = field(default_factory=list[str])
    """Checkpoints, and chains of weights."""
    different: list[str] = field(default_factory=list[str])
    """What differs from the run that nobody killed, or between two places of the same experiment."""
    leftovers: list[str] = field(default_factory=list[str])
    failures: list[str] = field(default_factory=list[str])
    """Errors where none should be."""

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong."""
        kinds = ("lost", "twice", "strayed", "damaged", "different", "leftovers", "failures")
        return [f"{kind}: {text}" for kind in kinds for text in getattr(self, kind)]


def judge(evidence: Evidence, experiment: Experiment, reference: Evidence | None = None) -> Verdict:
    """Compare what is left with what was committed, and with a run that nobody killed, where there is one. Pure."""
    account = Account(evidence.lines)
    counted = sum(len(trial.rows) for trial in account.trials.values())
    verdict = Verdict(account.reported, account.reported - counted)
    verdict.strayed += account.strayed
    verdict.failures += account.failures
    verdict.damaged += evidence.damaged
    verdict.leftovers += evidence.leftovers
    members = {member.trial_id: member for member in evidence.members}
    if members.keys() != account.trials.keys():
        verdict.lost.append(f"the members are {sorted(members)} instead of {sorted(account.trials)}")
        return verdict
    for taken in evidence.snapshots:
        _judge_snapshot(verdict, taken, evidence, members)
    there = {identity for member in evidence.members for identity in member.checkpoints}
    found = there | {text.partition(":")[0] for text in evidence.damaged}
    verdict.lost += [f"the checkpoint {identity}" for identity in sorted(account.kept - found)]
    verdict.leftovers += [f"the checkpoint {identity}" for identity in sorted(found - account.kept)]
    for trial_id, member in members.items():
        _judge_member(verdict, member, account.trials[trial_id], account, experiment)
    if reference is not None:
        _compare(verdict, evidence, reference)
    return verdict


def _judge_snapshot(verdict: Verdict, taken: Snapshot, evidence: Evidence, members: dict[str, Member]) -> None:
    """Whatever was committed is still there, and whatever a checkpoint covered still counts."""
    count = len(taken.lines)
    if list(taken.lines) != list(evidence.lines[:count]):
        gone = set(taken.lines) - set(evidence.lines)
        verdict.lost += [f"record {line[0]}, {line[2]}, is gone or changed" for line in sorted(gone)] or ["the order"]
    before = Account(taken.lines)
    for trial_id, trial in before.trials.items():
        safe = trial.rows[: trial.safe]
        for row, now in zip(safe, [*members[trial_id].rows, *([None] * len(safe))], strict=False):
            if row != now:
                verdict.lost.append(f"{trial_id} had {_named(row)} in a checkpoint, and has {now and _named(now)}")
    chains = {(item.trial_id, item.metrics["chain"]) for _, item in before.items_of(Reported)}
    for shown in set(taken.shown) - chains:
        verdict.different.append(f"{shown} was shown before it was committed")


def _judge_member(verdict: Verdict, member: Member, trial: _Trial, account: Account, experiment: Experiment) -> None:
    who = f"trial {member.index}"
    for kind, rows in (("metrics_dataframe", member.rows), ("result.json", member.logged)):
        seen = Counter((row.get("generation"), row["training_iteration"], row["chain"]) for row in rows)
        verdict.twice += [f"{who}: {step} is {count} times in {kind}" for step, count in seen.items() if count > 1]
    steps = Counter((row["generation"], row["training_iteration"]) for row in member.rows)
    verdict.twice += [f"{who}: generation and step {step} {n} times" for step, n in steps.items() if n > 1]
    if len(member.rows) < len(trial.rows):
        verdict.lost.append(f"{who}: {len(member.rows)} of {len(trial.rows)} results are there")
    elif member.rows != trial.rows:
        wrong = [_named(row) for row in member.rows if row not in trial.rows]
        verdict.different.append(f"{who}: results that do not follow from the journal: {wrong}")
    logged = [{key: row[key] for key in (*OWN, "training_iteration")} for row in member.logged]
    kept = [{key: row[key] for key in (*OWN, "training_iteration")} for row in trial.rows]
    if logged != kept:
        verdict.different.append(f"{who}: result.json does not hold what counts")
    if [(int(row["step"]), row["chain"]) for row in member.table] != [(row["step"], row["chain"]) for row in kept]:
        verdict.different.append(f"{who}: progress.csv does not hold what counts")
    for identity, chain in member.checkpoints.items():
        if account.saved[identity][1] != chain:
            verdict.damaged.append(f"{who}: {identity} holds other weights than were reported with it")
    if member.rows and member.rows[-1]["step"] != experiment.last:
        verdict.failures.append(f"{who}: it ended at step {member.rows[-1]['step']}, not {experiment.last}")
    _judge_weights(verdict, member, experiment)


def _judge_weights(verdict: Verdict, member: Member, experiment: Experiment) -> None:
    """Train the final weights again, by the curve; lineage and schedule have to tell of the same configs."""
    who, state = f"trial {member.index}", first_state()
    shared = sum(SHARED) if experiment.puts else 0
    if [row["training_iteration"] for row in member.curve] != [*range(1, len(member.curve) + 1)]:
        verdict.twice.append(f"{who}: the steps of its weights are not 1, 2, 3, ...")
    segments = {
        step: segment for segment in member.lineage for step in range(segment["first_step"], segment["last_step"] + 1)
    }
    for row in member.curve:
        config = {"lr": row["config/lr"], "mark": row["config/mark"]}
        state = next_state(state, config, shared)
        if any(row[key] != state[key] for key in OWN):
            verdict.damaged.append(f"{who}: step {row['step']} was not trained from the step before with {config}")
            break
        segment = segments.get(row["step"])
        if segment is None or (segment["config"], segment["trial"]) != (config, row["trial"]):
            verdict.different.append(f"{who}: its lineage says otherwise about step {row['step']}")
        planned = [entry for begin, entry in member.schedule if begin < row["step"]]
        if not planned or planned[-1] != config:
            verdict.different.append(f"{who}: its schedule says otherwise about step {row['step']}")
    if member.rows and (not member.curve or member.curve[-1]["chain"] != member.rows[-1]["chain"]):
        verdict.different.append(f"{who}: its curve does not lead to its last result")


def _compare(verdict: Verdict, evidence: Evidence, reference: Evidence) -> None:
    """Compare with a run of the same seed that nobody killed, bit for bit."""
    for member, expected in zip(evidence.members, reference.members, strict=True):
        for what, one, other in (
            ("tag", member.tag, expected.tag),
            ("results", member.rows, expected.rows),
            ("learning curve", member.curve, expected.curve),
            ("lineage", _kin(member), _kin(expected)),
            ("schedule", _plan(member), _plan(expected)),
            ("policy file", member.policy, expected.policy),
        ):
            if repr(one) != repr(other):
                verdict.different.append(f"trial {member.index}: its {what} is not that of the run that nobody killed")
    if sorted(map(repr, evidence.exploits)) != sorted(map(repr, reference.exploits)):
        verdict.different.append("pbt_global.txt is not that of the run that nobody killed")


def _kin(member: Member) -> list[tuple[Any, ...]]:
    """Return a lineage without what may differ: ids of trials, numbers of checkpoints, where an object was stored."""
    kin: list[tuple[Any, ...]] = []
    for segment in member.lineage:
        if segment["last_step"] < segment["first_step"]:
            continue
        entry: tuple[Any, ...] = (segment["trial"], segment["config"], segment["first_step"], segment["last_step"])
        if kin and segment["donor_id"] is None and kin[-1][:2] == entry[:2]:
            entry = (*entry[:2], kin.pop()[2], entry[3])  # only a reference was replaced
        kin.append(entry)
    return kin


def _plan(member: Member) -> list[tuple[int, dict[str, Any]]]:
    """Return a schedule without changes of nothing but where an object was stored."""
    schedule = member.schedule
    return [entry for place, entry in enumerate(schedule) if not place or schedule[place - 1][1] != entry[1]]


def _named(row: dict[str, Any]) -> str:
    return f"step {row['training_iteration']} of generation {row['generation']} ({row['chain']})"
