"""A storm: small experiments on real processes, whose driver, members and warm parent are killed at random moments.

    python -m tests.faults.storm --kills 100 --seed 7
    python -m tests.faults.storm --minutes 30

Each experiment is a script (``storm_script.py``) that is started again after each end, as a user would, until it has
ended by itself. Then ``storm_judge.py`` compares what is left with what had been committed before each strike, and with
a run of the same seed that nobody killed. One line a strike, a table at the end; exit code 0 only if nothing was lost.

What is struck, and when, follows from the seed; what goes on at that moment also depends on the machine. So each strike
throws dice of its own, and how many of them it needs changes nothing of the next.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from tests.faults.storm_judge import (
    Evidence,
    Line,
    Snapshot,
    Verdict,
    gather,
    items_in,
    judge,
    lines_of,
    outside,
    snapshot,
)
from tests.faults.storm_script import EXPERIMENTS, MADE, PAUSE, Experiment, tuner

from shoal.core.events import Opened, Reported, Started
from shoal.interruption import RESUME_EXIT_CODE
from shoal.journal import JOURNAL_NAME
from shoal.journal.codec import decode

REPOSITORY = Path(__file__).parents[2]
STRIKES_EACH = 13
"""How often an experiment is struck before it is let to its end."""
STEP_S = 0.004
PATIENCE_S = 60.0
"""An experiment without a new record for so long hangs."""
ORPHANS_AFTER_S = 5.0
_TOKEN = "STORM_TOKEN"
"""The environment variable by which the processes of each driver are known."""

DRIVER, FAMILY, MEMBER = "driver", "driver and all its members", "members"
PARENT, GUARDIAN = "warm parent", "guardian"
TERM, USR1, INT, STOPPED = "driver, SIGTERM", "driver, SIGUSR1", "driver, Ctrl-C", "member, SIGSTOP"
GENTLE = {TERM: signal.SIGTERM, USR1: signal.SIGUSR1, INT: signal.SIGINT}
WEIGHTS = {DRIVER: 46, FAMILY: 12, MEMBER: 18, PARENT: 6, GUARDIAN: 3, TERM: 3, USR1: 3, INT: 3, STOPPED: 6}
"""What is struck, and how often."""
KILLS = {DRIVER, FAMILY, MEMBER, PARENT, GUARDIAN}
ENDS = {DRIVER, FAMILY, *GENTLE}
"""After these, the script has to be started again."""


# ---- A running script ------------------------------------------------------------------------------------------------


class Running:
    """A started script, and what can be seen of it from outside."""

    def __init__(self, name: str, folder: Path, token: str, log: Path, *, pause_s: float = STEP_S) -> None:
        self.folder, self.token = folder, token
        temporary, made = elsewhere(folder)
        temporary.mkdir(exist_ok=True)
        self.journal = folder / JOURNAL_NAME
        self.before = len(lines_of(self.journal))
        self.new = not self.journal.exists()
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.storm_script", name, str(folder)],
                cwd=REPOSITORY,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path]),
                    PAUSE: str(pause_s),
                    MADE: str(made),
                    "TMPDIR": str(temporary),
                    _TOKEN: token,
                },
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        self.began = time.monotonic()

    @property
    def ended(self) -> bool:
        """Whether the script has ended by itself."""
        return self.process.poll() is not None

    @property
    def elapsed(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.began

    def kinds(self) -> list[str]:
        """Return the kinds of all records that it has written."""
        return [line[2] for line in lines_of(self.journal)[self.before :]]

    def wal(self) -> tuple[int, int]:
        """Return what changes with each commit."""
        with suppress(OSError):
            state = self.journal.with_name(f"{JOURNAL_NAME}-wal").stat()
            return state.st_size, state.st_mtime_ns
        return 0, 0

    def staging(self) -> bool:
        """Return whether somebody is saving."""
        return any(self.folder.glob("*/.checkpoint_*"))

    def checkpoints(self) -> int:
        """Return how many checkpoints there are."""
        return sum(1 for _ in self.folder.glob("*/checkpoint_*"))

    def family(self) -> list[psutil.Process]:
        """Return all processes below the driver."""
        with suppress(psutil.Error):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def members(self) -> list[int]:
        """Return the members' processes: each leads a session of its own, and none is the driver's child."""
        found: list[int] = []
        for process in self.family():
            with suppress(psutil.Error, OSError):
                if os.getsid(process.pid) == process.pid and process.ppid() != self.process.pid:
                    found.append(process.pid)
        return found

    def parents(self) -> list[int]:
        """Return those between the driver and the members, the driver's child first: the guardian, the warm parent."""
        found = [self.process.pid]
        for _ in range(2):
            found += [process.pid for process in psutil.Process(found[-1]).children()[:1]]
        return found[1:]


def elsewhere(folder: Path) -> tuple[Path, Path]:
    """Return an experiment's folder for temporary files, and the file with what its members have made elsewhere."""
    return folder.with_name("tmp"), folder.with_name("made")


def processes_of(tokens: Sequence[str]) -> list[int]:
    """Return all processes of these drivers that live."""
    found: list[int] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(_TOKEN) in tokens:
                found.append(process.pid)
    return found


# ---- Moments ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """When to strike."""

    name: str
    has_come: Callable[[], bool]


def early(run: Running, dice: random.Random) -> Moment:
    """Return a moment before anything has begun."""
    name = "being started" if run.new else "being restored"
    if run.new and dice.random() < 0.4:
        return Moment("its folder just made", run.folder.exists)
    if run.new and dice.random() < 0.4:
        return Moment("its journal just made", run.journal.exists)
    if dice.random() < 0.3:
        return Moment(f"{name}, the warm parent there", lambda: bool(run.family()))
    if dice.random() < 0.3:
        return Moment(f"{name}, members forked", lambda: bool(run.members()))
    moment = dice.uniform(0.0, 0.5)
    return Moment(name, lambda: run.elapsed >= moment)


def later(run: Running, dice: random.Random, members: int) -> Moment:
    """Return a moment while it trains: after some records, and then when something special goes on."""
    after = dice.randint(1, 50)
    mark: list[object] = []

    def changed(what: Callable[[], object]) -> Callable[[], bool]:
        def has_come() -> bool:
            now = what()
            mark.append(now)
            return now != mark[0]

        return has_come

    def written(kind: str) -> Callable[[], bool]:
        return changed(lambda: run.kinds().count(kind))

    special: list[tuple[str, Callable[[], bool]]] = [
        ("training", lambda: True),
        ("training", lambda: True),
        ("committing", changed(run.wal)),
        ("committing", changed(run.wal)),
        ("saving", run.staging),
        ("a checkpoint just there", changed(run.checkpoints)),
        ("members being forked", changed(lambda: len(run.members()))),
        ("parking", written("Park")),
        ("exploiting", written("Exploit")),
        ("launching", written("Launch")),
        ("deleting a checkpoint", written("DeleteCheckpoint")),
    ]
    if dice.random() < 0.12:
        count = dice.randint(1, members)
        return Moment("at its very end", lambda: run.kinds().count("Stop") >= count)
    name, has_come = dice.choice(special)
    return Moment(name, lambda: len(run.kinds()) >= after and has_come())


def wait_for(moment: Moment, run: Running, dice: random.Random) -> bool:
    """Wait until a moment has come, or something like it; return False where the script has ended before."""
    end = time.monotonic() + 4.0
    while not run.ended:
        if moment.has_come() or time.monotonic() > end:
            if dice.random() < 0.5:
                time.sleep(dice.uniform(0.0, 0.006))
            return not run.ended
        time.sleep(0.0003)
    return False


# ---- Strikes ---------------------------------------------------------------------------------------------------------


@dataclass
class Strike:
    """One kill, or one of the gentler ends."""

    number: int
    experiment: str
    what: str
    moment: str
    records: int
    """How many records the journal had."""
    at: float
    trials: list[str] = field(default_factory=list[str])
    """Whose processes were struck, where that is known and was not everybody's."""
    back_s: float | None = None
    """How long it took until there was a result again."""
    recovered: bool = False

    def look(self, lines: Sequence[Line]) -> None:
        """Look in the journal for the first result after it: of a new driver, or of the trials that were struck."""
        begun, again = self.what not in ENDS, set[str]()
        for seq, item in items_in(lines, self.records):
            at = lines[seq - 1][1]
            begun = begun or isinstance(item, Opened)
            if isinstance(item, Started) and (not self.trials or item.trial_id in self.trials):
                again.add(item.trial_id)
            if isinstance(item, Reported) and begun and item.trial_id in again:
                self.back_s, self.recovered = max(0.0, at - self.at), True
                return

    def line(self, width: int, otherwise: str) -> str:
        """Return it as it is shown."""
        back = f"back in {self.back_s:4.2f} s" if self.back_s is not None else otherwise
        return f"{self.number:5}  {self.experiment:{width}}  {self.what:26}  {self.moment:38} {self.records:5}  {back}"


@dataclass
class Account:
    """What a storm has come to."""

    strikes: list[Strike] = field(default_factory=list[Strike])
    verdicts: list[tuple[str, Verdict]] = field(default_factory=list[tuple[str, Verdict]])
    problems: list[str] = field(default_factory=list[str])
    """What the storm itself has seen: hanging drivers, wrong exit codes."""
    orphans: list[str] = field(default_factory=list[str])
    leftovers: list[str] = field(default_factory=list[str])
    equal: int = 0
    compared: int = 0

    @property
    def lost(self) -> int:
        """How much is wrong."""
        told = [*self.problems, *self.orphans, *self.leftovers]
        return len(told) + sum(len(verdict.problems) for _, verdict in self.verdicts)


class Storm:
    """Strikes one experiment after the other.

    Args:
        seed: of what is struck and when.
        place: the folder for the experiments; those of which something was lost stay there.
        show: prints a line.
    """

    def __init__(self, seed: int, place: Path, show: Callable[[str], None]) -> None:
        self.seed = seed
        self.place = place
        self.show = show
        self.account = Account()
        self._width = max(map(len, EXPERIMENTS))
        self._references: dict[str, Evidence] = {}
        self._sieges = self._started = 0
        self._due: list[tuple[float, str]] = []
        """When to look for processes of which driver."""

    def strike(self, name: str, most: int) -> None:
        """Run one experiment to its end, and strike it meanwhile so many times at most."""
        experiment = EXPERIMENTS[name]
        self._sieges += 1
        folder = self.place / f"{self._sieges:03}" / "run"
        folder.parent.mkdir(parents=True)
        siege = Siege(self, name, experiment, folder, most, self._sieges)
        siege.run()
        if siege.broken:
            return
        reference = self.reference(name) if experiment.seeded else None
        left = outside(*elsewhere(folder), siege.drivers)
        verdict = judge(gather(folder, siege.snapshots, elsewhere=left), experiment, reference)
        self.account.verdicts.append((name, verdict))
        if reference is not None:
            self.account.compared += 1
            self.account.equal += not verdict.different
        for strike in siege.strikes:
            strike.recovered = True  # it has ended as it should
        told = [f"{name} in {folder}: {text}" for text in verdict.problems]
        for text in told[:20]:
            self.show(f"       LOST  {text}")
        if not told:
            shutil.rmtree(folder.parent)

    def reference(self, name: str) -> Evidence:
        """Return the experiment as it is where nobody kills anything."""
        if name not in self._references:
            folder = self.place / f"reference of {name}" / "run"
            folder.parent.mkdir()
            tuner(EXPERIMENTS[name], folder, engine="inline").fit()
            self._references[name] = gather(folder)
            shutil.rmtree(folder.parent)
        return self._references[name]

    def start(self, name: str, folder: Path, log: Path) -> Running:
        """Start the script, for the first time or again."""
        self._started += 1
        return Running(name, folder, f"{os.getpid()}-{self._started}", log)

    def will_look_for_orphans(self, run: Running) -> None:
        """Some time after its end, none of its processes may live."""
        self._due.append((time.monotonic() + ORPHANS_AFTER_S, run.token))

    def look_for_orphans(self, *, wait: bool = False) -> None:
        """Look for processes that should be gone by now; ``wait`` for the time of all."""
        if wait and self._due:
            time.sleep(max(0.0, self._due[-1][0] - time.monotonic()))
        now = time.monotonic()
        due = [token for at, token in self._due if at <= now]
        if due:
            self._due = [entry for entry in self._due if entry[1] not in due]
            self.account.orphans += [f"process {pid}" for pid in processes_of(due)]


class Siege:
    """One experiment, struck again and again until it has ended."""

    def __init__(
        self, storm: Storm, name: str, experiment: Experiment, folder: Path, most: int, number: int = 1
    ) -> None:
        self.storm, self.name, self.experiment, self.folder, self.most = storm, name, experiment, folder, most
        self.number = number
        self.dice = random.Random()
        """Of the strike that is being prepared."""
        self.drivers: list[int] = []
        self._prepared = 0
        self.log = folder.with_name("output.log")
        self.strikes: list[Strike] = []
        self.snapshots: list[Snapshot] = []
        self.broken = False
        """Something went wrong, so that there is no end to judge."""
        self._open: list[Strike] = []
        """Strikes after which nothing has come yet."""

    def run(self) -> None:
        """Start the script until it has ended by itself; strike it meanwhile."""
        while not self.broken:
            run = self.storm.start(self.name, self.folder, self.log)
            self.drivers.append(run.process.pid)
            try:
                again = self._run_once(run)
            finally:
                if not run.ended:
                    run.process.kill()
                    run.process.wait()
            self.storm.will_look_for_orphans(run)
            self.storm.look_for_orphans()
            if not again:
                break
        self._resolve(final=True)

    def _run_once(self, run: Running) -> bool:
        """Strike a running script until it is gone; return whether it has to be started again."""
        swept = False
        while len(self.strikes) < self.most:
            self._prepared += 1
            self.dice = random.Random(f"{self.storm.seed}, {self.number}, {self._prepared}")
            what = self.dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            if what is STOPPED and self.experiment.timeout_s is None:
                what = MEMBER
            is_early = not swept and what in (DRIVER, FAMILY) and self.dice.random() < (0.6 if run.new else 0.3)
            members = self.experiment.tune.get("num_samples", 4)
            moment = early(run, self.dice) if is_early else later(run, self.dice, members)
            if not is_early and not swept:
                swept = self._sees_nothing_left(run)
            if not wait_for(moment, run, self.dice):
                break
            if self._hit(run, what, moment.name):
                return True
        return self._let_end(run)

    def _sees_nothing_left(self, run: Running) -> bool:
        """Wait until the driver has begun, and look for what members of the one before were saving."""
        end = time.monotonic() + PATIENCE_S
        while not run.ended and "Opened" not in run.kinds():
            if time.monotonic() > end:
                self._break(run, "it does not begin")
                return True
            time.sleep(0.001)
        for path in self.folder.glob("*/.checkpoint_*"):
            pid = path.name.rpartition(".")[2]
            if int(pid) not in processes_of([run.token]) and path.exists():
                self.storm.account.leftovers.append(f"{self.name}: {path}")
        return True

    def _hit(self, run: Running, what: str, moment: str) -> bool:
        """Strike; return whether the script has ended by that."""
        pids = self._targets(run, what)
        if not pids:
            return False
        records = 0 if what in ENDS else len(lines_of(run.journal))
        at = time.time()
        number = GENTLE.get(what, signal.SIGSTOP if what is STOPPED else signal.SIGKILL)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        if what in ENDS:
            run.process.wait(PATIENCE_S)
            if run.process.returncode == 0:
                return False  # it had just ended
        taken = snapshot(self.folder, alive=what not in ENDS)
        self.snapshots.append(taken)
        self._resolve(lines=taken.lines)
        count = len(self.storm.account.strikes) + 1
        strike = Strike(count, self.name, what, moment, records or len(taken.lines), at)
        if what in (MEMBER, STOPPED):
            strike.trials = _trials_of(taken.lines, pids)
        if what in GENTLE:
            self._check_code(run, taken, number)
        self.strikes.append(strike)
        self._open.append(strike)
        self.storm.account.strikes.append(strike)
        return what in ENDS

    def _targets(self, run: Running, what: str) -> list[int]:
        """Return the processes to strike, in an order."""
        driver = run.process.pid
        if what is DRIVER:
            return [driver]
        if what in GENTLE:
            # Before it has begun there is nobody to end gently.
            return [driver] if "Opened" in run.kinds() else []
        members = run.members()
        if what in (PARENT, GUARDIAN):
            with suppress(psutil.Error):
                above = run.parents()
                return above[:1] if what is GUARDIAN else above[-1:]
            return []
        if what is FAMILY:
            pids = [driver, *(process.pid for process in run.family())]
            self.dice.shuffle(pids)
            return pids
        count = 1 if what is STOPPED else self.dice.randint(1, max(1, len(members)))
        return self.dice.sample(members, min(count, len(members)))

    def _check_code(self, run: Running, taken: Snapshot, number: signal.Signals) -> None:
        """A script that heard of the signal while it trained says that it can go on."""
        asked = [line for line in taken.lines[run.before :] if line[2] == "StopAsked"]
        expected = -number if number is signal.SIGINT else RESUME_EXIT_CODE
        if asked and run.process.returncode != expected:
            self.storm.account.problems.append(
                f"{self.name} in {self.folder}: exit code {run.process.returncode} instead of {expected}"
            )

    def _let_end(self, run: Running) -> bool:
        """Wait for the end of a script that nobody strikes any more; return whether it has to be started again."""
        seen, since = -1, time.monotonic()
        while not run.ended:
            now = len(lines_of(run.journal))
            if now != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - since > PATIENCE_S:
                self._break(run, f"there was no new record for {PATIENCE_S:g} s")
                return False
            time.sleep(0.02)
        if run.process.returncode != 0:
            self._break(run, f"it ended with exit code {run.process.returncode}")
        return False

    def _break(self, run: Running, why: str) -> None:
        self.broken = True
        tail = self.log.read_text(errors="replace")[-2500:]
        self.storm.account.problems.append(f"{self.name} in {self.folder}: {why}\n{tail}")
        self.storm.show(f"       LOST  {self.storm.account.problems[-1]}")

    def _resolve(self, lines: Sequence[Line] = (), *, final: bool = False) -> None:
        """Show the strikes of which it is known now how they ended."""
        lines = lines_of(self.folder / JOURNAL_NAME) if final else lines
        for strike in self._open:
            strike.look(lines)
            self.storm.show(strike.line(self.storm._width, "ended" if final else "struck again before"))
        self._open.clear()


def _trials_of(lines: Sequence[Line], pids: Sequence[int]) -> list[str]:
    """Return the trials whose members these processes are."""
    started = [decode(kind, body) for _, _, kind, body in lines if kind == "Started"]
    owners = {item.pid: item.trial_id for item in started if isinstance(item, Started)}
    return [owners[pid] for pid in pids if pid in owners]


# ---- The report ------------------------------------------------------------------------------------------------------


def table(account: Account) -> Iterator[str]:
    """Yield the lines of what was tried, and what came of it."""
    verdicts = [verdict for _, verdict in account.verdicts]

    def total(name: str) -> int:
        return sum(len(getattr(verdict, name)) for verdict in verdicts)

    yield f"{'tried':36}  times  recovered"
    tried = Counter(strike.what for strike in account.strikes)
    recovered = Counter(strike.what for strike in account.strikes if strike.recovered)
    for what in WEIGHTS:
        how = f"{what}, kill -9" if what in KILLS else what
        yield f"  {how:34}  {tried[what]:5}  {recovered[what]:9}"
    yield f"  {'in all':34}  {tried.total():5}  {recovered.total():9}"
    back = sorted(strike.back_s for strike in account.strikes if strike.back_s is not None)
    if back:
        yield f"  back after {back[len(back) // 2]:.2f} s (median), {back[-1]:.2f} s at most"
    yield ""
    for text, value in (
        ("experiments", len(verdicts)),
        ("  with a run to compare with", account.compared),
        ("  of these equal, bit for bit", account.equal),
        ("results committed", sum(verdict.committed for verdict in verdicts)),
        ("  trained again since a checkpoint", sum(verdict.undone for verdict in verdicts)),
        ("  lost", total("lost")),
        ("  counted twice", total("twice")),
        ("members with a wrong checkpoint or config", total("strayed")),
        ("damaged checkpoints or weights", total("damaged")),
        ("results that differ between two places", total("different")),
        ("errors", total("failures") + len(account.problems)),
        (f"processes {ORPHANS_AFTER_S:g} s after their driver's end", len(account.orphans)),
        ("leftovers", total("leftovers") + len(account.leftovers)),
    ):
        yield f"{text:45} {value:8,}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a storm, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.storm", description="Kill, restore, compare.")
    parser.add_argument(
        "--kills", type=int, default=110, help="how many kill -9; gentler ends come on top (%(default)s)"
    )
    parser.add_argument("--minutes", type=float, help="how long, in place of a number of kills")
    parser.add_argument("--seed", type=int, help="of what is struck and when (default: a new one)")
    parser.add_argument("--only", choices=EXPERIMENTS, help="one experiment only")
    given = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(10_000) if given.seed is None else given.seed
    place = Path(tempfile.mkdtemp(prefix="shoal_storm_"))
    began = time.monotonic()
    wanted = f"{given.kills} kills" if given.minutes is None else f"{given.minutes:g} minutes of strikes"
    print(f"A storm of {wanted}, seed {seed}, in {place}\n", flush=True)
    width = max(map(len, EXPERIMENTS))
    print(f"{'':5}  {'experiment':{width}}  {'struck':26}  {'when':38} records", flush=True)
    storm = Storm(seed, place, lambda line: print(line, flush=True))

    def left() -> int:
        if given.minutes is not None:
            return STRIKES_EACH if time.monotonic() - began < 60 * float(given.minutes) else 0
        return int(given.kills) - sum(strike.what in KILLS for strike in storm.account.strikes)

    names = [given.only] if given.only else list(EXPERIMENTS)
    rounds = 0
    while left() > 0:
        storm.strike(names[rounds % len(names)], min(STRIKES_EACH, left()))
        rounds += 1
    storm.look_for_orphans(wait=True)
    account = storm.account
    print()
    for line in table(account):
        print(line)
    for text in (*account.problems, *account.orphans, *account.leftovers):
        print(f"\nLOST: {text}")
    if account.lost:
        print(f"\nWhat is left of the experiments is in {place}.")
    else:
        shutil.rmtree(place)
    kills = sum(strike.what in KILLS for strike in account.strikes)
    gentler = len(account.strikes) - kills
    print(f"\n{kills} kill -9 and {gentler} gentler ends in {time.monotonic() - began:.0f} s, seed {seed}")
    print(f"lost: {account.lost}")
    return 1 if account.lost else 0


if __name__ == "__main__":
    sys.exit(main())
