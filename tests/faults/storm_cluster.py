"""A storm on a real Ray cluster and a real S3 server: nodes, hosts, members, drivers and the way to storage are struck.

    python -m tests.faults.storm_cluster --strikes 24 --seed 7
    python -m tests.faults.storm_cluster --minutes 30

The experiments are those of ``storm.py``, kept in a bucket; their members live on nodes of ``ray.cluster_utils``. A
driver that was killed is followed by one on "another machine": with a cache of its own, so that it knows what is in
the bucket, and nothing else. In the end ``storm_judge.py`` compares what the bucket has with what it had after each
strike, and with a run of the same seed to which nothing happened.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group_table
from tests.cluster.nodes import Nodes, hosts, left_running, members, wait_for
from tests.faults.storm_judge import Account, Evidence, Line, Snapshot, Verdict, gather, items_in, judge, lines_of
from tests.faults.storm_script import EXPERIMENTS, PAUSE, tuner
from tests.ray_folder import let_ray_leave_nothing_behind
from tests.s3 import Bucket, bucket

from shoal.core.events import Opened, Reported, Started, TrialAdded
from shoal.interruption import RESUME_EXIT_CODE
from shoal.journal import JOURNAL_NAME
from shoal.location import location_of
from shoal.scratch import sweep
from shoal.viewing import NothingThere, View

REPOSITORY = Path(__file__).parents[2]
STRIKES_EACH = 6
"""How often an experiment is struck before it is let to its end."""
STEP_S = 0.06
PATIENCE_S = 90.0
"""An experiment without a new record for so long hangs."""
AWAY_S = (2.0, 12.0)
"""For how many seconds storage is away, from and to; once in a storm for :data:`LONG_S`."""
LONG_S = 30.0
RUNS = ("synchronous", "class, synchronous", "few residents", "asynchronous", "synchronous, keeps one")

NODE, JOIN, HOST, MEMBER = "node, all at once", "a node joins", "host, kill -9", "members, kill -9"
DRIVER, TERM = "driver, kill -9", "driver, SIGTERM"
REFUSED, HANGING = "storage refuses", "storage hangs"
WEIGHTS = {NODE: 24, JOIN: 8, HOST: 12, MEMBER: 12, DRIVER: 20, TERM: 6, REFUSED: 9, HANGING: 9}
"""What is struck, and how often."""
ENDS = {DRIVER, TERM}
"""After these, the script is started again on another machine."""
BACK = {NODE, HOST, MEMBER, *ENDS}
"""After these, some trial has to be started again."""


@dataclass
class Strike:
    """What was done to an experiment."""

    number: int
    experiment: str
    what: str
    records: int
    """How many records its journal had."""
    at: float
    away: str = ""
    """Where storage was away at that moment."""
    back_s: float | None = None
    """How long it took until a trial that was started after it had a result."""

    def look(self, lines: Sequence[Line]) -> None:
        """Look in the journal for the first result of a trial that was started after it."""
        begun, again = self.what not in ENDS, set[str]()
        for seq, item in items_in(lines):
            at = lines[seq - 1][1]
            if at < self.at:
                continue
            begun = begun or isinstance(item, Opened)
            if isinstance(item, Started):
                again.add(item.trial_id)
            if isinstance(item, Reported) and begun and item.trial_id in again:
                self.back_s = at - self.at
                return


@dataclass
class Outcome:
    """What a storm has come to."""

    strikes: list[Strike] = field(default_factory=list[Strike])
    verdicts: list[Verdict] = field(default_factory=list[Verdict])
    problems: list[str] = field(default_factory=list[str])
    """What the storm itself has seen: hanging drivers, wrong exit codes, halves in the bucket, what was left."""
    compared: int = 0
    equal: int = 0
    looks: int = 0
    """How often it was looked what the bucket had acknowledged."""

    @property
    def lost(self) -> int:
        """How much is wrong."""
        return len(self.problems) + sum(len(verdict.problems) for verdict in self.verdicts)


class Driver:
    """A script that was started, on a machine of its own."""

    def __init__(self, name: str, url: str, cache: Path, log: Path, address: str) -> None:
        self.cache = cache
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.storm_script", name, url],
                cwd=REPOSITORY,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path]),
                    "RAY_ADDRESS": address,
                    "SHOAL_CACHE": str(cache),
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
    def folder(self) -> Path | None:
        """The experiment's on this machine; None where there is none yet."""
        return next((path.parent for path in self.cache.glob(f"*/*/{JOURNAL_NAME}")), None)

    def lines(self) -> list[Line]:
        """Return the records of its journal."""
        folder = self.folder
        return [] if folder is None else lines_of(folder / JOURNAL_NAME)


class ClusterStorm:
    """Strikes one experiment after the other.

    Args:
        seed: of what is struck and when.
        nodes: the cluster; it has no node with a CPU yet.
        kept: where experiments are kept, and the way there.
        place: a folder for what drivers keep on their machines.
        show: prints a line.
    """

    def __init__(self, seed: int, nodes: Nodes, kept: Bucket, place: Path, show: Callable[[str], None]) -> None:
        self.seed, self.nodes, self.kept, self.place, self.show = seed, nodes, kept, place, show
        self.outcome = Outcome()
        self.long_away = False
        """Whether storage was away for :data:`LONG_S` once."""
        self._sieges = 0
        self._references: dict[str, Evidence] = {}

    def strike(self, name: str, most: int) -> None:
        """Run one experiment to its end, and strike it meanwhile so many times at most."""
        self._sieges += 1
        Siege(self, name, self._sieges, most).run()

    def reference(self, name: str) -> Evidence:
        """Return the experiment as it is where nothing happens to it."""
        if name not in self._references:
            folder = self.place / f"reference of {name}" / "run"
            folder.parent.mkdir()
            before = os.environ.pop(PAUSE, None)
            try:
                tuner(EXPERIMENTS[name], folder, engine="inline").fit()
            finally:
                if before is not None:
                    os.environ[PAUSE] = before
            self._references[name] = gather(folder)
        return self._references[name]


class Siege:
    """One experiment, struck again and again until it has ended."""

    def __init__(self, storm: ClusterStorm, name: str, number: int, most: int) -> None:
        self.storm, self.name, self.most = storm, name, most
        self.number = number
        self.dice = random.Random()
        """Of the strike that is being prepared: how many it throws changes nothing of the next."""
        self.base = storm.place / f"{number:03}"
        self.base.mkdir()
        self.log = self.base / "output.log"
        self.url = f"{storm.kept.url}/runs{number}/run"
        self.snapshots: list[Snapshot] = []
        self.strikes: list[Strike] = []
        self.began = time.monotonic()
        self.machines = self.prepared = 0
        self.there: list[Any] = []
        """Nodes with CPUs."""
        self.back_at: float | None = None
        """When storage is to come back."""
        self.killed_while_away = False

    def run(self) -> None:
        """Start the script until it has ended by itself; strike it meanwhile; then judge."""
        nodes = self.storm.nodes
        self.there = [nodes.add(), nodes.add()]
        last: Driver | None = None
        try:
            for _ in range(self.most + 1):
                self.machines += 1
                last = Driver(self.name, self.url, self.base / f"machine{self.machines}", self.log, nodes.address)
                try:
                    again = self._besiege(last)
                finally:
                    last.process.kill()
                    last.process.wait()
                if not again:
                    break
            self.storm.kept.line.go("open")
            self._judge(last)
        finally:
            self.storm.kept.line.go("open")
            nodes.kill_added()

    # --------------------------------------------------------------------------------------------------------- strikes

    def _besiege(self, driver: Driver) -> bool:
        """Strike what runs until the driver is gone. Return whether it is to be started again."""
        while len(self.strikes) < self.most:
            self.prepared += 1
            self.dice = random.Random(f"{self.storm.seed}, {self.number}, {self.prepared}")
            what = self.dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            after, extra = self.dice.randint(15, 90), self.dice.uniform(0.0, 0.5)
            before = len(driver.lines())
            if not self._wait(driver, lambda: len(driver.lines()) >= before + after):  # noqa: B023
                break
            time.sleep(extra)
            if self._hit(driver, what):
                return True
        if not self._wait(driver, lambda: False) and driver.process.returncode != 0:
            self._wrong(f"it ended with exit code {driver.process.returncode}")
        return False

    def _wait(self, driver: Driver, has_come: Callable[[], bool]) -> bool:
        """Wait for a moment; return False where the script has ended before, or hangs."""
        seen, since = -1, time.monotonic()
        while not driver.ended:
            self._bring_storage_back()
            if has_come():
                return True
            if (now := len(driver.lines())) != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - since > PATIENCE_S:
                self._wrong(f"there was no new record for {PATIENCE_S:g} s")
                driver.process.kill()
                driver.process.wait()
                return False
            time.sleep(0.05)
        return False

    def _bring_storage_back(self, *, at_once: bool = False) -> None:
        if self.back_at is not None and (at_once or time.monotonic() >= self.back_at):
            self.storm.kept.line.go("open")
            self.back_at = None
            self.killed_while_away = False

    def _hit(self, driver: Driver, what: str) -> bool:
        """Strike. Return whether the script has ended by that."""
        if what in (NODE, HOST) and self.back_at is not None:
            # Two nodes that die while storage is away take with them what only they had, and that is no fault.
            if self.killed_while_away:
                what = MEMBER
            self.killed_while_away = True
        if what in (REFUSED, HANGING) and self.back_at is not None:
            what = NODE if not self.killed_while_away else MEMBER
        number = len(self.storm.outcome.strikes) + 1
        strike = Strike(number, self.name, what, len(driver.lines()), time.time(), "away" if self.back_at else "")
        if not self._do(driver, what):
            return False
        self.strikes.append(strike)
        self.storm.outcome.strikes.append(strike)
        since = time.monotonic() - self.began
        line = f"{number:5}  {self.name:24}  {what:20}  {strike.records:7}  {strike.away:4}  {since:4.0f} s"
        self.storm.show(line)
        if what in ENDS:
            self._bring_storage_back(at_once=True)
            self._look(driver)
            return driver.process.returncode != 0
        return False

    def _do(self, driver: Driver, what: str) -> bool:
        """Do it; return whether there was anybody to do it to."""
        storm = self.storm
        if what is NODE:
            victim = self.there.pop(self.dice.randrange(len(self.there)))
            storm.nodes.kill(victim)
            self.there.append(storm.nodes.add())
        elif what is JOIN:
            self.there.append(storm.nodes.add())
        elif what in (HOST, MEMBER):
            found = hosts()
            pids = [host.pid for host in found] if what is HOST else [pid for host in found for pid in members(host)]
            if not pids:
                return False
            for pid in self.dice.sample(pids, 1 if what is HOST else self.dice.randint(1, len(pids))):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        elif what in (REFUSED, HANGING):
            away = self.dice.uniform(*AWAY_S)
            if not storm.long_away:
                away, storm.long_away = LONG_S, True
            storm.kept.line.go("refuse" if what is REFUSED else "hang")
            self.back_at = time.monotonic() + away
        elif driver.ended:
            return False
        else:
            self._end(driver, what)
        return True

    def _end(self, driver: Driver, what: str) -> None:
        """End the driver, gently or not."""
        driver.process.send_signal(signal.SIGKILL if what is DRIVER else signal.SIGTERM)
        if what is TERM:
            self._bring_storage_back(at_once=True)  # else it waits for it, as long as it may be away
        driver.process.wait(PATIENCE_S)
        if what is TERM and driver.process.returncode not in (0, RESUME_EXIT_CODE):
            self._wrong(f"exit code {driver.process.returncode} after SIGTERM")

    def _look(self, driver: Driver) -> tuple[Line, ...]:
        """Take down what the bucket has acknowledged; return its journal."""
        try:
            with closing(View.open(location_of(self.url))) as view:
                lines = tuple(lines_of(view.folder / JOURNAL_NAME))
        except NothingThere:
            lines = ()
        here = driver.lines()
        if here and list(lines) != here[: len(lines)]:
            self._wrong("the bucket has records that its driver did not write")
        self._look_at_files(lines, whole=False)
        self.snapshots.append(Snapshot(lines))
        self.storm.outcome.looks += 1
        return lines

    def _look_at_files(self, lines: Sequence[Line], *, whole: bool) -> set[str]:
        """Compare the bucket's checkpoints with the journal in it. Return their ids.

        Args:
            lines: the journal.
            whole: whether there must be none but those of the journal's last state.
        """
        files = self.storm.kept.files
        files.invalidate_cache()
        top = self.url.removeprefix("s3://")
        sizes: dict[str, int] = {}
        with suppress(FileNotFoundError):
            sizes = {key: int(entry["size"]) for key, entry in files.find(top, detail=True).items()}
        found: set[str] = set()
        account = Account(lines)
        trials = {trial.folder: trial.trial_id for _, trial in account.items_of(TrialAdded)}
        for key in sizes:
            trial, _, name = key.removeprefix(f"{top}/").partition("/")
            if not (name.startswith("checkpoint_") and name.endswith(".json") and "/" not in name):
                continue
            identity = f"{trials.get(trial, trial)}/{name.removesuffix('.json')}"
            manifest = json.loads(files.cat_file(key))
            found.add(identity)
            for name, size in manifest["files"]:
                at = f"{key.removesuffix('.json')}/{name}"
                if sizes.get(at) != size:
                    self._wrong(f"half a checkpoint is listed: {at} has {sizes.get(at)} bytes, not {size}")
        missing = account.kept - found
        if missing:
            self._wrong(f"the bucket lacks checkpoints of its journal: {sorted(missing)}")
        if whole and (more := found - account.kept):
            self._wrong(f"the bucket has checkpoints that nobody needs: {sorted(more)}")
        return found

    # --------------------------------------------------------------------------------------------------------- judging

    def _judge(self, driver: Driver | None) -> None:
        """Compare what is there in the end with all that was acknowledged."""
        assert driver is not None
        if driver.process.returncode != 0:
            self._wrong("it did not come to its end")
            return
        if driver.lines():
            self._wrong("its working folder is left, although all of it is in the bucket")
        lines = self._look(driver)
        self._look_at_files(lines, whole=True)
        copy = self.base / "copy" / "run"
        self._download(copy)
        evidence = gather(copy, self.snapshots, elsewhere=self._left())
        experiment = EXPERIMENTS[self.name]
        reference = self.storm.reference(self.name) if experiment.seeded else None
        verdict = judge(evidence, experiment, reference)
        outcome = self.storm.outcome
        outcome.verdicts.append(verdict)
        if reference is not None:
            outcome.compared += 1
            outcome.equal += not verdict.different
        for strike in self.strikes:
            strike.look(lines)
        for text in verdict.problems[:20]:
            self.storm.show(f"       LOST  {self.name}: {text}")
        if not verdict.problems:
            shutil.rmtree(copy.parent)

    def _download(self, copy: Path) -> None:
        """Bring all that the bucket has to where the judge looks for it."""
        top = self.url.removeprefix("s3://")
        for key in self.storm.kept.files.find(top):
            name = key.removeprefix(f"{top}/")
            hidden = name.startswith(("journal/", ".")) or (name.endswith(".json") and "/checkpoint_" in name)
            if hidden and not name.endswith("/state.json"):
                continue
            at = copy / name
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_bytes(self.storm.kept.files.cat_file(key))
        with closing(View.open(location_of(self.url))) as view:
            for path in view.folder.glob("journal.*"):
                shutil.copy(path, copy)

    def _left(self) -> list[str]:
        """Return what is left of the experiment on the cluster."""
        with suppress(AssertionError):
            wait_for(lambda: not left_running(), 20.0)
        left = left_running()
        with connection(self.storm.nodes.address):
            states = Counter(group["state"] for group in placement_group_table().values())
        left += [f"{count} placement groups: {state}" for state, count in states.items() if state != "REMOVED"]
        sweep()
        caches = [Path(os.environ["SHOAL_CACHE"]), *self.base.glob("machine*")]
        return left + [str(path) for cache in caches for path in cache.glob("nodes/*")]

    def _wrong(self, text: str) -> None:
        told = f"{self.name} in {self.base}: {text}"
        if not text.startswith(("half", "the bucket")) and self.log.exists():
            told += f"\n{self.log.read_text(errors='replace')[-2500:]}"
        self.storm.outcome.problems.append(told)
        self.storm.show(f"       LOST  {told}")


@contextmanager
def connection(address: str) -> Generator[None]:
    """Let this process ask the cluster."""
    start: Any = ray.init
    start(address=address, configure_logging=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


# ---- The report ------------------------------------------------------------------------------------------------------


def table(outcome: Outcome) -> Iterator[str]:
    """Yield the lines of what was tried, and what came of it."""

    def total(name: str) -> int:
        return sum(len(getattr(verdict, name)) for verdict in outcome.verdicts)

    yield f"{'tried':24}  times   back after, median and most"
    for what in WEIGHTS:
        struck = [strike for strike in outcome.strikes if strike.what is what]
        back = sorted(strike.back_s for strike in struck if strike.back_s is not None)
        times = f"{back[len(back) // 2]:6.1f} s {back[-1]:6.1f} s" if back and what in BACK else ""
        yield f"  {what:22}  {len(struck):5}   {times}"
    yield f"  {'in all':22}  {len(outcome.strikes):5}"
    yield ""
    for text, value in (
        ("experiments", len(outcome.verdicts)),
        ("  with a run to compare with", outcome.compared),
        ("  of these equal, bit for bit", outcome.equal),
        ("looks at what the bucket had", outcome.looks),
        ("results committed", sum(verdict.committed for verdict in outcome.verdicts)),
        ("  trained again since a checkpoint", sum(verdict.undone for verdict in outcome.verdicts)),
        ("  acknowledged by storage and lost", total("lost")),
        ("  counted twice", total("twice")),
        ("members with a wrong checkpoint or config", total("strayed")),
        ("damaged checkpoints or weights", total("damaged")),
        ("results that differ between two places", total("different")),
        ("leftovers", total("leftovers")),
        ("errors, and halves in the bucket", total("failures") + len(outcome.problems)),
    ):
        yield f"{text:45} {value:8,}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a storm on a cluster of its own, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.storm_cluster", description="Strike, go on, compare.")
    parser.add_argument("--strikes", type=int, default=24, help="how many (%(default)s)")
    parser.add_argument("--minutes", type=float, help="how long, in place of a number of strikes")
    parser.add_argument("--seed", type=int, help="of what is struck and when (default: a new one)")
    parser.add_argument("--only", choices=RUNS, help="one experiment only")
    given = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(10_000) if given.seed is None else given.seed
    place = Path(tempfile.mkdtemp(prefix="shoal_cluster_storm_"))
    began = time.monotonic()
    wanted = f"{given.strikes} strikes" if given.minutes is None else f"{given.minutes:g} minutes of strikes"
    print(f"A storm of {wanted} on a cluster, seed {seed}, in {place}\n", flush=True)
    print(f"{'':5}  {'experiment':24}  {'struck':20}  records  storage, and after how long", flush=True)
    let_ray_leave_nothing_behind()
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        kept = stack.enter_context(bucket(patch))
        patch.setenv(PAUSE, str(STEP_S))
        patch.setenv("SHOAL_CACHE", str(place / "nodes"))
        nodes = Nodes()
        stack.callback(nodes.close)
        storm = ClusterStorm(seed, nodes, kept, place, lambda line: print(line, flush=True))

        def left() -> int:
            if given.minutes is not None:
                return STRIKES_EACH if time.monotonic() - began < 60 * float(given.minutes) else 0
            return int(given.strikes) - len(storm.outcome.strikes)

        names = [given.only] if given.only else list(RUNS)
        rounds = 0
        while left() > 0 and rounds < 4 * (given.strikes or 1):
            storm.strike(names[rounds % len(names)], min(STRIKES_EACH, left()))
            rounds += 1
    outcome = storm.outcome
    print()
    for line in table(outcome):
        print(line)
    for text in outcome.problems:
        print(f"\nLOST: {text}")
    if outcome.lost:
        print(f"\nWhat is left of the experiments is in {place}.")
    else:
        shutil.rmtree(place)
    print(f"\n{len(outcome.strikes)} strikes in {time.monotonic() - began:.0f} s, seed {seed}")
    print(f"lost: {outcome.lost}")
    return 1 if outcome.lost else 0


if __name__ == "__main__":
    sys.exit(main())
