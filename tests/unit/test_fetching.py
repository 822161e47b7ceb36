"""The engine that downloads a checkpoint before a member goes on from it."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest

from shoal.core.commands import CheckpointRecord, Continue, Evict, HandOn, Launch, Save, Status, Stop, WindUp
from shoal.core.events import Event, Failed, Lost, Started
from shoal.engines import EngineCommand, EngineSetup
from shoal.errors import StorageError
from shoal.storage.fetching import FetchingEngine
from shoal.storage.place import Place
from shoal.storage.trying import PlaceError
from shoal.worker.wire import MemberInfo


class Inner:
    """An engine that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[EngineCommand] = []
        self.killed: list[str] = []
        self.closed = False
        self.bell = threading.Event()

    def start(self, setup: EngineSetup) -> None: ...

    def add(self, info: MemberInfo) -> None: ...

    def execute(self, command: EngineCommand, checkpoint: str | None) -> None:
        self.told.append(command)

    def kill(self, trial_id: str, reason: str) -> None:
        self.killed.append(trial_id)

    def wake(self) -> None:
        self.bell.set()

    def poll(self, timeout: float) -> list[Event]:
        if self.bell.wait(timeout):
            self.bell.clear()
        return []

    def close(self, *, at_once: bool = False) -> None:
        self.closed = True


class Storage:
    """Downloads when it is let go on."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = threading.Event()
        self.error: Exception | None = None

    def fetch(self, place: Place, folder: Path, digest: str) -> None:
        self.asked.append(f"{place} {digest}")
        assert self.open.wait(30)
        if self.error is not None:
            raise self.error
        folder.mkdir(parents=True, exist_ok=True)


class Rig:
    def __init__(self, folder: Path) -> None:
        self.inner, self.storage, self.folder = Inner(), Storage(), folder
        self.engine = FetchingEngine(self.inner, folder, Place("memory://runs/a"), self.storage.fetch)

    def launch(self, trial: str, number: int = 1, launch: int = 1, **values: Any) -> Launch:
        """Launch a trial from its own checkpoint."""
        name = f"checkpoint_{number:06d}"
        record = CheckpointRecord(f"{trial}/{name}", trial, number, "d" * 8, 3, 5, 5.0, 1.0, 0.5, None)
        command = Launch(trial, launch, 0, {}, record, 5, 1.0, number + 1, None, True, **values)
        self.engine.execute(command, str(self.folder / trial / name))
        return command

    def until(self, *, told: int) -> list[Event]:
        """Poll until the inner engine has been told of so many commands; return the events."""
        events: list[Event] = []
        for _ in range(600):
            events += self.engine.poll(0.1)
            if len(self.inner.told) >= told:
                return events
        raise AssertionError(f"only {self.inner.told}")


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_a_launch_waits_for_its_checkpoint_and_what_follows_keeps_its_order(rig: Rig) -> None:
    first = rig.launch("a")
    go, save = Continue("a", 1, 0, None), Save("a", 1)
    rig.engine.execute(go, None)
    rig.engine.execute(save, None)
    rig.engine.poll(0)
    assert rig.inner.told == []
    rig.storage.open.set()
    rig.until(told=3)
    assert rig.inner.told == [first, go, save]
    assert rig.storage.asked == ["memory://runs/a/a/checkpoint_000001 dddddddd"]


def test_others_do_not_wait(rig: Rig) -> None:
    rig.launch("a")
    fresh = Launch("b", 1, 1, {}, None, 0, 0.0, 0, None, True)
    rig.engine.execute(fresh, None)
    (rig.folder / "c" / "checkpoint_000001").mkdir(parents=True)
    there = rig.launch("c")
    assert rig.inner.told == [fresh, there]
    rig.storage.open.set()


def test_a_checkpoint_that_two_go_on_from_is_downloaded_once(rig: Rig) -> None:
    first = rig.launch("a")
    copy = Launch("b", 1, 1, {}, first.checkpoint, 5, 1.0, 0, None, True)
    rig.engine.execute(copy, str(rig.folder / "a" / "checkpoint_000001"))
    rig.storage.open.set()
    rig.until(told=2)
    assert rig.inner.told == [first, copy]
    assert len(rig.storage.asked) == 1


def test_a_checkpoint_that_storage_lacks_is_for_the_member_to_miss(rig: Rig) -> None:
    rig.storage.error = FileNotFoundError("gone")
    rig.storage.open.set()
    first = rig.launch("a")
    rig.until(told=1)
    assert rig.inner.told == [first]


def test_storage_that_refuses_ends_the_run(rig: Rig) -> None:
    rig.storage.error = PlaceError("Access is denied.")
    rig.storage.open.set()
    rig.launch("a")
    rig.launch("b")
    with pytest.raises(StorageError, match=r"denied\. Members cannot go on .* tune\.Tuner\.restore\('memory://runs/a'"):
        rig.until(told=1)


def test_storage_that_stays_away_ends_the_run_with_how_to_go_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_STORAGE_PATIENCE_S", "0")
    rig.storage.error = TimeoutError("away")
    rig.storage.open.set()
    rig.launch("a")
    with pytest.raises(StorageError, match=r"away\. Members cannot go on .* tune\.Tuner\.restore"):
        rig.until(told=1)


@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]])
def test_one_checkpoint_that_storage_does_not_give_is_for_its_member_to_miss(rig: Rig, order: list[str]) -> None:
    real = rig.storage.fetch

    def one_denied(place: Place, folder: Path, digest: str) -> None:
        real(place, folder, digest)
        if folder.parent.name == "a":
            raise PlaceError("Access is denied.")

    rig.engine._fetch = one_denied
    rig.storage.open.set()
    launches = [rig.launch(trial) for trial in order]
    rig.until(told=2)
    assert set(map(id, rig.inner.told)) == set(map(id, launches))


def test_a_disk_that_is_full_ends_the_run_gently(rig: Rig) -> None:
    full = StorageError("cannot be written")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    rig.storage.error = full
    rig.storage.open.set()
    rig.launch("a")
    events: list[Event] = []
    for _ in range(600):
        events += rig.engine.poll(0.01)
        if events:
            break
    (event,) = events
    assert isinstance(event, Failed)
    assert event.no_room
    assert event.error.startswith("StorageError")
    assert rig.inner.told == []


@pytest.mark.parametrize("command", [Stop("a", 1, Status.TERMINATED, "it ends"), Evict("a", 1)], ids=["stop", "evict"])
def test_a_trial_that_ends_meanwhile_is_not_launched_any_more(rig: Rig, command: EngineCommand) -> None:
    rig.launch("a")
    rig.engine.execute(command, None)
    rig.storage.open.set()
    rig.until(told=1)
    rig.engine.poll(0.01)
    assert rig.inner.told == [command]


def test_a_trial_that_is_to_wind_up_is_lost_at_once(rig: Rig) -> None:
    rig.launch("a")
    rig.engine.execute(WindUp("a", 1), None)
    assert rig.engine.poll(0) == [Lost("a", 1, "its checkpoint was still being downloaded")]
    rig.storage.open.set()
    rig.engine.poll(0.01)
    assert rig.inner.told == []


def test_a_trial_that_is_killed_meanwhile_is_lost_and_its_process_too(rig: Rig) -> None:
    rig.launch("a", launch=3)
    rig.engine.kill("a", "it hangs")
    assert rig.engine.poll(0) == [Lost("a", 3, "it hangs")]
    assert rig.inner.killed == ["a"]
    rig.storage.open.set()


def test_a_promise_to_one_that_waits_is_left_to_the_driver(rig: Rig) -> None:
    rig.launch("b", waits=True)
    rig.engine.execute(HandOn("a", 1, 0, "b", 1, 5, None), None)
    assert rig.inner.told == []
    rig.storage.open.set()
    rig.until(told=1)


def test_a_later_launch_takes_the_place_of_one_that_waits(rig: Rig) -> None:
    rig.launch("a", 1, launch=1)
    rig.engine.execute(Save("a", 1), None)
    second = rig.launch("a", 2, launch=2)
    rig.storage.open.set()
    rig.until(told=1)
    assert rig.inner.told == [second]


def test_what_the_inner_engine_tells_is_passed_on_after_what_is_known_here(rig: Rig) -> None:
    rig.launch("a")
    rig.engine.kill("a", "it hangs")
    started = Started("b", 1, 7, "host")
    rig.inner.poll = lambda timeout: [started]  # type: ignore[method-assign]
    assert rig.engine.poll(5) == [Lost("a", 1, "it hangs"), started]
    rig.storage.open.set()


def test_closing_waits_for_no_download(rig: Rig) -> None:
    rig.launch("a")
    rig.engine.close()
    assert rig.inner.closed
    rig.storage.open.set()
