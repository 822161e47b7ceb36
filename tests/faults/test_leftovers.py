"""Nothing of a run outlives it: no process, no temporary file, no shared memory, no half-written checkpoint.

Scripts run as a user runs them, in processes of their own, with a folder for temporary files of their own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Generator
from pathlib import Path

import psutil
import pytest
from tests.helpers import fit, story

from shoal import tune

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no guardian")

GONE_WITHIN_S = 5.0
REPOSITORY = Path(__file__).parents[2]


# ---- Processes -------------------------------------------------------------------------------------------------------

SCRIPT = """
import multiprocessing, os, signal, subprocess, sys, tempfile, threading, time
from multiprocessing import shared_memory
from pathlib import Path
from shoal import tune
from shoal.tune.schedulers import PopulationBasedTraining

READY = Path("ready")

def sleep():
    time.sleep(1000)

def nothing(config):
    pass

def deaf(config):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)

def stops(config):
    (READY / str(config["index"])).touch()
    os.kill(os.getpid(), signal.SIGSTOP)

def forks(config):
    multiprocessing.get_context("fork").Process(target=sleep).start()

def spawns(config):
    multiprocessing.get_context("spawn").Process(target=time.sleep, args=(1000,)).start()

def calls(config):
    subprocess.Popen(["sleep", "1000"])

def session(config):
    subprocess.Popen(["sleep", "1000"], start_new_session=True)

def daemon(config):
    # As a service starts: a child of a child, in a session of its own, whose parent has ended.
    subprocess.run(["sh", "-c", "setsid sleep 1000 &"])

def deep(config):
    subprocess.Popen(["sh", "-c", "sleep 1000 & setsid sh -c 'trap \\"\\" TERM HUP INT; sleep 1000; true' & wait"])

KEPT = []

def shares(config):
    KEPT.append(shared_memory.SharedMemory(create=True, size=1000))
    KEPT.append(multiprocessing.get_context("spawn").Semaphore())
    with open("made", "a") as made:
        made.write(f"{KEPT[0].name}\\nsem.{KEPT[1]._semlock.name.lstrip('/')}\\n")

START = {f.__name__: f for f in (nothing, deaf, stops, forks, spawns, calls, session, daemon, deep, shares)}

def train(config):
    START[config["kind"]](config)
    (READY / str(config["index"])).touch()
    tune.report({"score": 1.0})  # some train, the others are parked here
    while True:
        time.sleep(0.01)

def go(kinds, slots=None):
    READY.mkdir(exist_ok=True)
    return tune.Tuner(
        train,
        param_space={"lr": 1.0, "index": tune.grid_search([*range(len(kinds))]),
                     "kind": tune.sample_from(lambda spec: kinds[spec.config.index])},
        tune_config=tune.TuneConfig(
            metric="score", mode="max", max_concurrent_trials=slots or len(kinds),
            scheduler=PopulationBasedTraining(
                time_attr="training_iteration", perturbation_interval=1, synch=True,
                hyperparam_mutations={"lr": tune.uniform(0.5, 1)},
            ),
        ),
        run_config=tune.RunConfig(name="run", storage_path=os.getcwd(), verbose=0,
                                  failure_config=tune.FailureConfig(max_failures=-1)),
    ).fit()
"""
KINDS = ("nothing", "deaf", "stops", "forks", "spawns", "calls", "session", "daemon", "deep", "shares")
NUMBER_OF_CHILDREN = {"forks": 1, "spawns": 2, "calls": 1, "session": 1, "daemon": 1, "deep": 4, "shares": 1}
"""That stay; those of ``spawns`` and ``shares`` have a companion that tracks resources, and deletes what they share."""
SHARED = Path("/dev/shm")


@contextlib.contextmanager
def script(folder: Path, source: str, *, start: tuple[str, ...] = ()) -> Generator[psutil.Popen]:
    """Start a script; in the end, nothing of it is left, whatever it has come to."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    (folder / "script.py").write_text(SCRIPT + textwrap.dedent(source))
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(REPOSITORY)}
    family: list[psutil.Process] = []
    driver = psutil.Popen([sys.executable, *start, "script.py"], cwd=folder, env=environment, stdin=subprocess.PIPE)
    try:
        yield driver
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = driver.children(recursive=True)
        driver.stdin.close()
        with contextlib.suppress(psutil.NoSuchProcess):
            driver.kill()
        driver.wait(30)
        # Those that tidy up behind others have their time first: what is shared has no other owner.
        for process in psutil.wait_procs(family, timeout=GONE_WITHIN_S)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def until(condition: Callable[[], bool], process: psutil.Popen) -> None:
    """Wait for something that a script does."""
    end = time.monotonic() + 20
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)


def all_ready(folder: Path, count: int) -> Callable[[], bool]:
    return lambda: len(list((folder / "ready").glob("*"))) == count


def family_of(driver: psutil.Popen) -> tuple[psutil.Process, psutil.Process, list[psutil.Process]]:
    """Return the guardian, the nursery, and the members of a driver."""
    (watching,) = driver.children()
    (nursery,) = watching.children()
    return watching, nursery, nursery.children()


def has_members(driver: psutil.Popen, count: int) -> Callable[[], bool]:
    def look() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess, ValueError):
            return len(family_of(driver)[2]) >= count
        return False

    return look


def settled(driver: psutil.Popen, count: int) -> Callable[[], bool]:
    """Return whether members have as many children below them as they are to have."""

    def look() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess, ValueError):
            *_, members = family_of(driver)
            return sum(len(member.children(recursive=True)) for member in members) == count
        return False

    return look


def left(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return who is still there when all must be gone."""
    _, alive = psutil.wait_procs(processes, timeout=GONE_WITHIN_S)
    return [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def made(folder: Path) -> list[Path]:
    """Return what a member has made in shared memory."""
    names = (folder / "made").read_text().split()
    assert len(names) == 2
    return [SHARED / name for name in names]


def there(paths: list[Path]) -> list[Path]:
    return [path for path in paths if path.exists()]


@pytest.mark.parametrize("slots", [len(KINDS), 3])
@pytest.mark.parametrize("killed", ["driver", "nursery", "driver and nursery", "guardian", "driver and guardian"])
def test_every_process_of_a_run_is_gone_when_one_that_it_depends_on_is_killed(
    killed: str, slots: int, tmp_path: Path
) -> None:
    kinds: tuple[str, ...] = KINDS if slots > 3 else ("nothing", "deaf", "calls", "nothing", "deaf", "shares")
    with script(tmp_path, f"go({kinds!r}, {min(slots, len(kinds))})") as driver:
        until(all_ready(tmp_path, len(kinds)), driver)
        until(settled(driver, sum(NUMBER_OF_CHILDREN.get(kind, 0) for kind in kinds)), driver)
        watching, nursery, members = family_of(driver)
        assert len(members) == len(kinds)
        family = watching.children(recursive=True)
        shared = made(tmp_path)
        assert there(shared) == shared
        for name, process in (("driver", driver), ("guardian", watching), ("nursery", nursery)):
            if name in killed:
                with contextlib.suppress(psutil.NoSuchProcess):  # of the death of the one before
                    process.kill()
        assert left([watching, *family]) == []
        assert there(shared) == []
        if "driver" in killed:
            driver.wait(30)
            assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_member_has_started_is_gone_when_it_is_killed(kind: str, tmp_path: Path) -> None:
    """Also what has a session of its own; and what others have started stays."""
    with script(tmp_path, f"go(({kind!r}, 'daemon'))") as driver:
        until(all_ready(tmp_path, 2), driver)
        until(settled(driver, NUMBER_OF_CHILDREN.get(kind, 0) + 1), driver)
        _, _, members = family_of(driver)
        first, second = sorted(members, key=lambda member: member.pid)
        family, others = first.children(recursive=True), second.children(recursive=True)
        first.kill()
        assert left([first, *family]) == []
        assert kind != "shares" or there(made(tmp_path)) == []
        assert all(process.is_running() for process in [second, *others])


HANGS = """
def hangs(config):
    shares(config)
    while True:
        time.sleep(0.01)

run = tune.RunConfig(name="run", storage_path=os.getcwd(), verbose=0,
                     failure_config=tune.FailureConfig(report_timeout_s=1.0))
(result,) = tune.Tuner(hangs, run_config=run).fit()
assert "reported nothing" in str(result.error)
"""


def test_shared_memory_of_members_that_the_driver_kills_goes_with_them(tmp_path: Path) -> None:
    for number, source in enumerate((HANGS, "os.environ['SHOAL_GRACE_S'] = '0'\ngo(['shares'])")):
        folder = tmp_path / str(number)
        folder.mkdir()
        with script(folder, source) as driver:
            if source != HANGS:
                until(all_ready(folder, 1), driver)
                until(settled(driver, 1), driver)
                assert len(there(made(folder))) == 2
                driver.terminate()
            assert driver.wait(60) == (0 if source == HANGS else 75)
            assert there(made(folder)) == []


JOBLIB = """
def many(config):
    import joblib, numpy
    data = numpy.ones((500, 1000))  # so large that joblib shares it
    tune.report({"score": sum(joblib.Parallel(n_jobs=2)(joblib.delayed(numpy.sum)(data) for _ in range(4)))})
    tune.report({"score": 1.0, "pid": os.getpid()})

run = tune.RunConfig(name="run", storage_path=os.getcwd(), verbose=0)
(result,) = tune.Tuner(many, run_config=run).fit()
assert result.error is None, result.error
Path("pid").write_text(str(result.metrics["pid"]))
"""


def test_joblib_tidies_up_behind_a_member_that_ends_in_order(tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    with script(tmp_path, JOBLIB) as driver:
        assert driver.wait(60) == 0
    pid = (tmp_path / "pid").read_text()
    assert [path for path in SHARED.iterdir() if f"-{pid}-" in path.name or f"_{pid}_" in path.name] == []
    assert list((tmp_path / "tmp").iterdir()) == []


GLOBAL = """
ALL = []

def once(config):
    ALL.append(tempfile.TemporaryDirectory(prefix="mine"))
    return {"score": 1.0}

grid = tune.Tuner(once, run_config=tune.RunConfig(name="run", storage_path=os.getcwd(), verbose=0)).fit()
assert not grid.errors
assert not [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("mine")]
of_the_script = tempfile.TemporaryDirectory()
grid = tune.Tuner(lambda config: {"score": os.path.isdir(of_the_script.name)}, run_config=tune.RunConfig(
    name="again", storage_path=os.getcwd(), verbose=0)).fit()
assert os.path.isdir(of_the_script.name)
"""


def test_a_temporary_folder_in_a_global_variable_of_a_member_goes_with_it(tmp_path: Path) -> None:
    """And those of others stay: a member calls at its end what it has registered itself."""
    with script(tmp_path, GLOBAL) as driver:
        assert driver.wait(60) == 0


def test_a_driver_that_is_killed_while_members_are_forked_leaves_no_process(tmp_path: Path) -> None:
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        with script(folder, "go(['nothing'] * 40)") as driver:
            until(lambda: bool(driver.children(recursive=True)[2 + number :]), driver)  # noqa: B023
            family = driver.children(recursive=True)
            nursery = family_of(driver)[1]
            if number % 2:
                nursery.suspend()  # and the nursery, at any place
                driver.kill()
                with contextlib.suppress(psutil.NoSuchProcess):  # the guardian may be faster
                    family = nursery.children(recursive=True) + family
                    nursery.kill()
            else:
                driver.kill()
            assert left(family) == []
            driver.wait(30)
            assert list((folder / "tmp").iterdir()) == []


LOADS_SLOWLY = """
(Path("slow.py")).write_text(
    "import subprocess, time, os\\nif os.environ.get('SLOW'):\\n    subprocess.Popen(['sleep', '1000'])\\n"
    "    open('loading', 'w')\\n    time.sleep(1000)\\ndef train(config): pass\\n"
)
import slow
os.environ["SLOW"] = "1"
tune.Tuner(slow.train, run_config=tune.RunConfig(name="run", storage_path=os.getcwd(), verbose=0)).fit()
"""


def test_a_driver_that_is_killed_while_the_trainable_is_loaded_leaves_no_process(tmp_path: Path) -> None:
    with script(tmp_path, LOADS_SLOWLY) as driver:
        until((tmp_path / "loading").exists, driver)
        family = driver.children(recursive=True)
        assert len(family) == 3
        driver.kill()
        assert left(family) == []


HAS_FORKED = """
import multiprocessing
child = multiprocessing.get_context("fork").Process
def start_late():
    until = time.monotonic() + 50
    while not READY.exists() or len(list(READY.iterdir())) < 2:
        time.sleep(0.01)
    pid = os.fork()
    if pid == 0:
        Path("forked").write_text(str(os.getpid()))
        signal.pause()
        os._exit(0)
threading.Thread(target=start_late, daemon=True).start()
go(["nothing", "calls"])
"""


def test_a_fork_of_the_driver_that_outlives_it_keeps_no_member_alive(tmp_path: Path) -> None:
    """It holds the driver's end of the socket, and so the warm parent would take the driver for alive."""
    with script(tmp_path, HAS_FORKED) as driver:
        until(lambda: bool((tmp_path / "forked").exists() and (tmp_path / "forked").read_text()), driver)
        fork = psutil.Process(int((tmp_path / "forked").read_text()))
        try:
            family = [process for process in driver.children(recursive=True) if process != fork]
            assert len(family) == 5
            driver.kill()
            assert left(family) == []
            assert fork.is_running()
        finally:
            fork.kill()


IN_A_THREAD = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(1) as pool:
    pool.submit(go, ["nothing", "session"]).result()
"""


@pytest.mark.parametrize(("source", "start"), [(IN_A_THREAD, ()), ("go(['nothing', 'session'])", ("-i",))])
def test_a_driver_in_a_thread_or_an_interactive_one_leaves_no_process_when_it_is_killed(
    source: str, start: tuple[str, ...], tmp_path: Path
) -> None:
    with script(tmp_path, source, start=start) as driver:
        until(all_ready(tmp_path, 2), driver)
        family = driver.children(recursive=True)
        assert len(family) == 5
        driver.kill()
        assert left(family) == []


def test_a_run_that_ends_in_order_leaves_no_process_either(tmp_path: Path) -> None:
    source = """
    def once(config):
        for kind in ("forks", "spawns", "calls", "session", "daemon", "deep"):
            START[kind](config)
        Path("children").write_text(" ".join(str(child.pid) for child in psutil.Process().children(recursive=True)))
        return {"score": 1.0}

    import psutil
    tune.Tuner(once, run_config=tune.RunConfig(name="run", storage_path=os.getcwd(), verbose=0)).fit()
    Path("ended").touch()
    sys.stdin.read()
    """
    with script(tmp_path, source) as driver:
        until(lambda: (tmp_path / "ended").exists(), driver)
        pids = (tmp_path / "children").read_text().split()
        assert len(pids) >= 7
        assert left([psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]) == []


def test_how_the_warm_parent_ended_is_told(tmp_path: Path) -> None:
    for code in ("os._exit(7)", "os.kill(os.getpid(), 9)"):
        (tmp_path / "breaks.py").write_text(f"import os\nif os.environ.get('NOW'): {code}\ndef train(config): pass\n")
        expected = "7" if "7" in code else "-9"
        source = (
            "import os, breaks\nfrom shoal import tune\nos.environ['NOW'] = '1'\n"
            "try:\n    tune.Tuner(breaks.train, run_config=tune.RunConfig(storage_path=os.getcwd())).fit()\n"
            f"except Exception as error:\n    assert 'ended with code {expected} ' in str(error), error\n"
            "    print('told')\n"
        )
        (tmp_path / "script.py").write_text(source)
        ran = subprocess.run(
            [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert ran.stdout.endswith("told\n"), ran.stderr


# ---- Files -----------------------------------------------------------------------------------------------------------

SAVES = """
import shoal

class Holder:
    pass

def train(config):
    step = 0
    if (checkpoint := tune.get_checkpoint()) is not None:
        step = 1
    junk = tempfile.mkdtemp()
    held = tempfile.NamedTemporaryFile(delete=False)
    os.symlink(os.getcwd(), os.path.join(junk, "link"))
    worker = multiprocessing.get_context("spawn").Semaphore()
    block = shared_memory.SharedMemory(create=True, size=1000)
    while not Path("finish").exists():
        step += 1
        mine = shoal.put(os.urandom(1000))
        shared = shoal.put(bytes(100_000))
        assert len(shoal.get(shared)) == 100_000
        if step % 2:
            tune.report({"score": config["lr"]}, checkpoint=tune.Checkpoint.from_dict({"data": bytes(20_000_000)}))
        else:
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "weights").write_bytes(bytes(20_000_000))
                tune.report({"score": config["lr"]}, checkpoint=tune.Checkpoint.from_directory(folder))
    os.remove(held.name)
    import shutil
    shutil.rmtree(junk)

data = shoal.put(bytes(1000))
kept = tune.Checkpoint.from_dict({"mine": 1})
if tune.Tuner.can_restore("run"):
    tuner = tune.Tuner.restore("run", train)
else:
    tuner = tune.Tuner(
        train, param_space={"lr": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(
            metric="score", mode="max", num_samples=3, max_concurrent_trials=2,
            scheduler=PopulationBasedTraining(
                time_attr="training_iteration", perturbation_interval=2,
                hyperparam_mutations={"lr": tune.uniform(0.5, 1)},
            ),
        ),
        run_config=tune.RunConfig(
            name="run", storage_path=os.getcwd(), verbose=0, checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
            failure_config=tune.FailureConfig(max_failures=-1),
        ),
    )
grid = tuner.fit()
assert not grid.errors, grid.errors
"""


def outside(folder: Path, pids: set[int]) -> set[str]:
    """Return what lies in the folder for temporary files, and what processes have in shared memory."""
    # Things come and go meanwhile.
    found = {os.path.join(at, name) for at, *names in os.walk(folder / "tmp") for name in itertools.chain(*names)}
    tokens = {path.name.rpartition("-")[2] for path in (folder / "tmp").glob("shoal-members-*")}
    marks = {f"-{pid}-" for pid in pids} | {f"shoal-{token}-" for token in tokens}
    return found | {str(path) for path in SHARED.iterdir() if any(mark in path.name for mark in marks)}


def unfinished(folder: Path) -> set[str]:
    """Return the checkpoints that are being written or deleted."""
    return {str(path) for path in (folder / "run").glob("*/.*checkpoint_*")}


HAS_ENDED = """
def once(config):
    return {"score": 1.0}

if tune.Tuner.can_restore("ended"):
    tune.Tuner.restore("ended", once).fit()
else:
    tune.Tuner(once, run_config=tune.RunConfig(name="ended", storage_path=os.getcwd(), verbose=0)).fit()
    go(["shares"])
"""


def test_nothing_is_left_where_the_next_start_finds_that_all_has_ended(tmp_path: Path) -> None:
    with script(tmp_path, HAS_ENDED) as driver:
        until(all_ready(tmp_path, 1), driver)
        until(settled(driver, 1), driver)
        family = driver.children(recursive=True)  # with the one that tracks what is shared
        for process in (driver, *family):
            process.suspend()  # or who is killed last would still tidy up
        for process in (driver, *family):
            process.kill()
        assert left(family) == []
        driver.wait(30)
    assert there(made(tmp_path)) != []
    assert outside(tmp_path, set()) != set()
    with script(tmp_path, HAS_ENDED) as driver:
        assert driver.wait(60) == 0
    assert there(made(tmp_path)) == []
    assert outside(tmp_path, set()) == set()


def test_what_a_member_was_saving_when_it_died_goes_before_it_is_tried_again(tmp_path: Path) -> None:
    class Dies(tune.Trainable):
        def setup(self, config: dict[str, object]) -> None:
            self.steps = 0

        def step(self) -> dict[str, object]:
            self.steps += 1
            there = list(Path(tune.get_context().get_trial_dir()).glob(".checkpoint_*"))
            return {"score": 1.0, "there": len(there), "should_checkpoint": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            Path(checkpoint_dir, "half").write_bytes(bytes(1000))
            died = len(list(tmp_path.glob("died *")))
            if self.steps == 2 and died < 3:
                (tmp_path / f"died {died}").touch()
                os.kill(os.getpid(), signal.SIGKILL)

        def load_checkpoint(self, checkpoint: object) -> None:
            self.steps = 1

    grid = fit(
        Dies, tmp_path, engine="processes", num_samples=1, stop={"training_iteration": 4},
        run={
            "failure_config": tune.FailureConfig(max_failures=-1),
            "checkpoint_config": tune.CheckpointConfig(num_to_keep=1),
        },
    )  # fmt: skip
    assert len(list(tmp_path.glob("died *"))) == 3
    rows = story(grid).in_order()[0].rows
    assert [row.report.metrics["there"] for row in rows] == [0, 0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3] if os.environ.get("SHOAL_TEST_ALL") else [1])
def test_nothing_is_left_of_runs_that_were_killed_at_any_moment(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    dead: set[str] = set()
    pids: set[int] = set()
    for _ in range(10 if os.environ.get("SHOAL_TEST_ALL") else 6):
        with script(tmp_path, SAVES) as driver:
            until(has_members(driver, 2), driver)
            with contextlib.suppress(psutil.TimeoutExpired):
                driver.wait(chance.random())  # any moment
            assert driver.poll() is None
            assert dead & (outside(tmp_path, pids) | unfinished(tmp_path)) == set()
            watching, nursery, members = family_of(driver)
            family = driver.children(recursive=True)
            pids |= {driver.pid, *(process.pid for process in family)}
            victims: dict[str, list[psutil.Process | psutil.Popen]] = {
                "driver": [driver],
                "and the nursery": [driver, nursery],
                "and the guardian": [watching, driver],
                "and all": [watching, driver, nursery, *members],
            }
            for process in victims[chance.choice([*victims])]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            assert left(family) == []
            driver.wait(30)
            dead = outside(tmp_path, pids) | unfinished(tmp_path)
    (tmp_path / "finish").touch()
    with script(tmp_path, SAVES) as driver:
        assert driver.wait(60) == 0
    (tmp_path / "finish").unlink()
    assert outside(tmp_path, pids) == set()
    assert unfinished(tmp_path) == set()
    for result in tune.ResultGrid.read(tmp_path / "run"):
        there = {path.name for path in Path(result.path).glob("*checkpoint_*")}
        assert there == {Path(checkpoint.path).name for checkpoint, _ in result.best_checkpoints}
