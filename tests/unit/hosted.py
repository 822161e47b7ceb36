"""Real hosts with real members, in one process: they reach each other by direct calls, which a test can hold up."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.helpers import load_state, report_state

from shoal import tune
from shoal.core.commands import CheckpointRecord, Launch, checkpoint_id, checkpoint_name
from shoal.core.events import Event, Reported
from shoal.core.reports import ReportRules
from shoal.engines import EngineSetup
from shoal.engines.copies import Offer, Piece
from shoal.engines.fleet import Fleet, Post
from shoal.engines.host import Host
from shoal.engines.line import Line
from shoal.engines.orders import HostSetup
from shoal.engines.pickling import pickle_trainable
from shoal.worker.wire import MemberInfo

__all__ = ["Gate", "Net", "World", "gate", "get_object", "kinds", "own", "own_world", "train"]

E = TypeVar("E", bound=Event)
LONG_S = 60.0


def train(config: dict[str, Any]) -> None:
    """Count steps, and do in each what the config says: a checkpoint, lines to print, an end."""
    step, score = load_state() or (0, 0.0)
    while True:
        step += 1
        while step == config.get("waits_in") and not os.path.exists(config["waits_for"]):
            time.sleep(0.001)
        for line in config.get("prints", ()):
            print(line, flush=True)
        saves = config.get("saves", ())
        report_state(step, score, {"step": step, **config.get("metrics", {})}, save=step in saves or "all" in saves)
        if step == config.get("raises_after"):
            raise ValueError("as the config says")
        if step == config.get("returns_after"):
            return


def get_object(config: dict[str, Any]) -> None:
    """Report what an object of ``shoal.put`` is."""
    import shoal

    tune.report({"found": shoal.get(config["ref"])})


class Net:
    """The way between hosts. A test can cut it, or hold up what goes there."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self.cut: set[str] = set()
        """Hosts that cannot be reached."""
        self.on_piece: Callable[[], object] = lambda: None
        self.on_keep: Callable[[], object] = lambda: None
        self.kept: list[tuple[str, str]] = []
        """(keeper, owner) of each copy that was made."""

    def piece(self, key: str, trial_folder: str, number: int, index: int, patience_s: float) -> Piece:
        self.on_piece()
        return self.reach(key).piece(trial_folder, number, index)

    def keep(self, key: str, offer: Offer, patience_s: float) -> None:
        self.on_keep()
        self.reach(key).keep(offer)
        self.kept.append((key, offer.owner))

    def reach(self, key: str) -> Host:
        if key in self.cut:
            raise ConnectionError(f"{key} cannot be reached")
        return self.hosts[key]


class World:
    """A driver's folder, a fleet, and hosts with ways to them.

    Args:
        folder: for all of it; hosts have folders of their own where ``SHOAL_CACHE`` says.
        place: the URL that the experiment has.
        trainable: what members run.
    """

    def __init__(self, folder: Path, place: str | None, trainable: Callable[..., Any] = train) -> None:
        self.folder = folder / "experiment"
        self.folder.mkdir()
        (self.folder / "probe").touch()
        self.place = place
        self.trainable = trainable
        self.net = Net()
        self.lines: dict[str, Line] = {}
        self.events: list[Event] = []
        """All that was heard and that no test has asked for."""
        self.shown: list[str] = []
        self.notes: list[str] = []
        self.trials: dict[str, int] = {}
        self.fleet = Fleet(
            EngineSetup(
                trainable=trainable, rules=ReportRules(), experiment="experiment", seed=0, cpus=1.0, gpus=0.0,
                devices=(), output=lambda name, text: self.shown.append(text), folder=str(self.folder), place=place,
                note=self.notes.append,
            )
        )  # fmt: skip

    def host(self, key: str, *, slots: int = 2, shared: bool = False, home: bool = False) -> Host:
        """Start a host, and let it join."""
        setup = HostSetup(
            key=key, trainable=pickle_trainable(self.trainable), rules=ReportRules(), experiment="experiment", seed=0,
            cpus=1.0, gpus=0.0, log_to_file=True, applied=None, folder=str(self.folder),
            probe=str(self.folder / ("probe" if shared else "not there")), place=self.place, with_driver=shared,
            path=tuple(sys.path),
        )  # fmt: skip
        host = Host(setup, self.net)
        self.net.hosts[key] = host
        facts = host.facts() if home else host.start()
        line = self.lines[key] = Line(host.do)
        self.events += self.fleet.join(Post(key, line, facts, key), [""] * (0 if home else slots), home=home)
        return host

    def slot(self, key: str, place: int = 0) -> int:
        """Return the number of a host's slot."""
        return sorted(self.fleet.posts[key].slots)[place]

    def add(self, trial_id: str) -> None:
        """A trial is added."""
        self.trials[trial_id] = 0
        info = MemberInfo(trial_id, len(self.trials), f"train_{trial_id}", str(self.folder / trial_id))
        self.fleet.add(info)

    def launch(self, trial_id: str, slot: int, checkpoint: CheckpointRecord | None = None, **others: Any) -> Launch:
        """Launch a trial, for the first time or again; further arguments are the launch's, or the config's."""
        if trial_id not in self.trials:
            self.add(trial_id)
        self.trials[trial_id] += 1
        names = ("until", "fresh", "waits")
        given: dict[str, Any] = {
            "until": None,
            "fresh": True,
            **{name: others.pop(name) for name in names if name in others},
        }
        iteration = 0 if checkpoint is None else checkpoint.iteration
        launch = Launch(trial_id, self.trials[trial_id], slot, others, checkpoint, iteration, 0.0, 0, **given)
        path = None
        if checkpoint is not None:
            path = str(self.folder / checkpoint.trial_id / checkpoint_name(checkpoint.number))
        self.fleet.execute(launch, path)
        return launch

    def poll(self) -> None:
        """Take in what the hosts say, and send what they are to be told."""
        self.fleet.flush()
        self.events += self.fleet.take_ready()
        for key, host in self.net.hosts.items():
            batch = host.listen(self.lines[key].confirmed, 0.01)
            if self.lines[key].took(batch):
                self.events += self.fleet.heard(key, batch.said)
        self.fleet.flush()

    def wait_until(self, there: Callable[[], object]) -> None:
        """Poll until something is true."""
        end = time.monotonic() + LONG_S
        while not there():
            assert time.monotonic() < end, self.events
            self.poll()

    def next(self, kind: type[E], trial_id: str, which: Callable[[E], object] = lambda event: True) -> E:
        """Return the next event of a kind about a trial; it and all about that trial before it are forgotten."""
        found: list[E] = []

        def there() -> bool:
            found.extend(
                event for event in self.about(trial_id) if isinstance(event, kind) and which(event)
            )  # fmt: skip
            return bool(found)

        self.wait_until(there)
        place = next(place for place, event in enumerate(self.events) if event is found[0])
        old = {id(event) for event in self.about(trial_id) if self.events.index(event) <= place}
        self.events = [event for event in self.events if id(event) not in old]
        return found[0]

    def about(self, trial_id: str) -> list[Event]:
        """Return the events about a trial that were heard and not asked for."""
        return [event for event in self.events if getattr(event, "trial_id", None) == trial_id]

    def saved(self, trial_id: str) -> CheckpointRecord:
        """Return the checkpoint of the trial's next report that has one."""
        report = self.next(Reported, trial_id, lambda event: event.checkpoint is not None)
        saved = report.checkpoint
        assert saved is not None
        step = report.iteration
        identity = checkpoint_id(trial_id, saved.number)
        return CheckpointRecord(
            identity, trial_id, saved.number, saved.digest, saved.size, step, step, 1.0, None, None
        )  # fmt: skip

    def close(self) -> None:
        """End all hosts."""
        for host in self.net.hosts.values():
            host.close()


def own(folder: Path, monkeypatch: pytest.MonkeyPatch, place: str | None = None) -> Iterator[World]:
    """Yield a world without hosts, for a fixture, and end it."""
    monkeypatch.setenv("SHOAL_CACHE", str(folder / "cache"))
    monkeypatch.setenv("SHOAL_OBJECTS", "")
    world = World(folder, place)
    yield world
    world.close()


class Gate:
    """Holds up who comes here until it is opened, or the test is over."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(60)


@pytest.fixture
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """No host yet; all is kept in the driver's folder."""
    yield from own(tmp_path, monkeypatch)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.opened.set()


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]
