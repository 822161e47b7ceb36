"""A cluster of any size in one process, on a virtual clock: what a driver has to do with it, without waiting for it.

The driver's side is the real one: core, engine, fleet, orders and frames, the way between driver and hosts. Hosts are
models that answer as hosts do: they carry orders out, their members report, hand their slots on, and save checkpoints,
of which there are the names alone. Time passes only while the engine waits for something.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

from shoal import space
from shoal.core.commands import Continue, DeleteCheckpoint, Evict, HandOn, Launch, Stop, checkpoint_name
from shoal.core.events import Event, Opened, Reported, SavedCheckpoint, Started, TrialAdded
from shoal.core.limits import Limits, RetentionRules
from shoal.core.population import Population
from shoal.core.reports import ReportRules
from shoal.engines import EngineSetup
from shoal.engines.backend import HostLine
from shoal.engines.cluster import ClusterEngine
from shoal.engines.granted import Cluster, Granted
from shoal.engines.line import Outbox
from shoal.engines.orders import End, Ended, Execute, Held, HostFacts, HostSetup, Order, Peers, Upload, Uploaded
from shoal.objects import ObjectRef
from shoal.resources import Request
from shoal.schedulers import PopulationBasedTraining
from shoal.worker.wire import MemberInfo

__all__ = ["Counts", "Size", "World", "first_events", "make_engine", "run"]

_PATIENCE_S = 0.1
"""As in :mod:`shoal.engines.line`: so long what nobody waits for is collected."""
_CHECKPOINT = 1 << 20
_IDLE_S = 0.001


@dataclass(frozen=True)
class Size:
    """An experiment, and the cluster that it runs on."""

    members: int
    slots: int
    nodes: int
    steps: int = 4
    interval: int = 2
    step_s: float = 1.0
    """Seconds that a member takes for a result."""
    trip_s: float = 0.001
    """Seconds that a message takes on its way."""
    shared: bool = False
    """Whether hosts work in the driver's folder."""


@dataclass
class Counts:
    """What was done."""

    results: int = 0
    boundaries: int = 0
    """Results at which the member waited."""
    questions: int = 0
    """How often hosts were asked what there is to tell; orders go along."""
    calls: int = 0
    """How often orders went by themselves."""
    answers: int = 0
    orders: int = 0
    bytes_out: int = 0
    bytes_in: int = 0


class World:
    """The virtual clock, the cluster's nodes, and the engine's inbox: who waits for it lets time pass.

    Args:
        size: of the cluster.
        turn_s: what a turn of the driver takes of the virtual time, whatever it does in it.
    """

    def __init__(self, size: Size, *, turn_s: float = 0.0) -> None:
        self.size = size
        self.counts = Counts()
        self.now = 0.0
        self.simulating_s = 0.0
        """CPU time that the models took; the rest is the driver's."""
        self._turn_s = turn_s
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._items: deque[tuple[str, Any, Any]] = deque()

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Have something done later."""
        heapq.heappush(self._due, (self.now + delay, next(self._numbers), action))

    # As the inbox.

    def put(self, item: tuple[str, Any, Any]) -> None:
        """Something arrives at the driver."""
        self._items.append(item)

    def get(self, timeout: float) -> tuple[str, Any, Any]:
        """Let time pass until something has arrived."""
        began = time.thread_time()
        self.now += self._turn_s
        end = self.now + timeout
        # What has become due meanwhile has happened before the driver looks.
        while self._due and (self._due[0][0] <= self.now or (not self._items and self._due[0][0] <= end)):
            at, _, action = heapq.heappop(self._due)
            self.now = max(self.now, at)
            action()
        if not self._items:
            self.now = end
            if not self._due:
                time.sleep(_IDLE_S)  # another thread is at work
        self.simulating_s += time.thread_time() - began
        return self.get_nowait()

    def get_nowait(self) -> tuple[str, Any, Any]:
        """Return what has arrived."""
        if not self._items:
            raise queue.Empty
        return self._items.popleft()

    def qsize(self) -> int:
        """Return how much has arrived."""
        return len(self._items)


class _Nodes:
    """See :class:`shoal.engines.granted.Cluster`: all is granted that there is room for, node after node."""

    def __init__(self, size: Size) -> None:
        self._nodes = {f"node-{index}": 0 for index in range(size.nodes)}
        self._slots = -(-size.slots // size.nodes)
        self._at: dict[str, str | None] = {}
        self._free = deque(itertools.islice(itertools.cycle(self._nodes), size.slots))

    def ask(self, bundle: Mapping[str, float]) -> str:
        name = f"slot {len(self._at)}"
        self._at[name] = self._free.popleft() if self._free else None
        return name

    def withdraw(self, reservation: str) -> None:
        self._at.pop(reservation, None)

    def where(self) -> Mapping[str, str | None]:
        return dict(self._at)

    def nodes(self) -> dict[str, dict[str, float] | None]:
        return {name: {"CPU": float(self._slots)} for name in self._nodes}


@dataclass(slots=True)
class _Member:
    """A process of a trial on a host."""

    launch: int
    until: float | None
    iteration: int
    next_checkpoint: int
    trains: bool
    hands_to: HandOn | None = None
    """Whom it hands its slot to."""
    early: list[tuple[Any, bool]] | None = None
    """What it has said since another handed a slot on to it, which is told after its ``Continue``; None: it was not."""


class _Host(HostLine):
    """A host, and the way to it."""

    def __init__(self, world: World, setup: HostSetup, node: str) -> None:
        super().__init__(setup.key, node, self._call)
        self._world = world
        self._outbox = Outbox(lambda: world.now)
        self._members: dict[str, _Member] = {}
        self._asked: int | None = None
        """The number of the batch that the driver has confirmed, where it listens."""
        self._said_since: float | None = None
        self._urgent = False
        self._waiting: list[tuple[int, bytes]] = []
        self._peers: tuple[str, ...] = ()

    # ------------------------------------------------------------------------------------------------ as a line

    def _call(self, number: int, orders: bytes) -> None:
        self._world.counts.bytes_out += len(orders)
        if not self.listening:
            self._waiting.append((number, orders))
            return
        self._world.counts.calls += 1
        self._world.after(self._world.size.trip_s, lambda: self._receive([(number, orders)]))

    def begin(self, *, members: bool) -> None:
        """See :class:`HostLine`."""
        home = not members  # it works in the driver's folder, or it is of no use
        facts = HostFacts("node", 1, _version(), home or self._world.size.shared, 1 << 40)
        self._world.after(0.5, lambda: self._world.put(("started", self.key, facts)))

    def lacks(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """See :class:`HostLine`."""
        self._world.put(("lacks", self.key, []))

    def give(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """See :class:`HostLine`."""

    def listen(self) -> None:
        """See :class:`HostLine`."""
        self._world.counts.questions += 1
        waiting, self._waiting = self._waiting, []
        confirmed = self.confirmed

        def arrives() -> None:
            self._asked = confirmed
            self._receive(waiting)
            self._answer()

        self._world.after(self._world.size.trip_s, arrives)

    def _receive(self, packets: list[tuple[int, bytes]]) -> None:
        for number, orders in packets:
            for order in self._outbox.receive(number, orders):
                self._world.counts.orders += 1
                self._do(order)

    # ------------------------------------------------------------------------------------------------ as a host

    def _say(self, message: Any, *, urgent: bool) -> None:
        self._outbox.put(message, urgent=urgent)
        self._urgent = self._urgent or urgent
        if self._said_since is None:
            self._said_since = self._world.now
            self._world.after(_PATIENCE_S, self._answer)
        if urgent:
            self._answer()

    def _answer(self) -> None:
        """Answer the driver, where it has asked and it is time."""
        if self._asked is None or self._said_since is None:
            return
        if not self._urgent and self._world.now < self._said_since + _PATIENCE_S - 1e-9:
            return
        batch = self._outbox.take(self._asked, 0.0)
        self._asked, self._said_since, self._urgent = None, None, False
        self._world.counts.answers += 1
        self._world.counts.bytes_in += len(batch.said)
        self._world.after(self._world.size.trip_s, lambda: self._world.put(("batch", self.key, batch)))

    def _do(self, order: Order) -> None:
        if isinstance(order, Execute):
            self._execute(order.command)
        elif isinstance(order, Peers):
            self._peers = order.keys
        elif isinstance(order, Upload):
            self._say(Uploaded(order.number_of_order, None), urgent=True)
        elif isinstance(order, End):
            self._members.clear()
            self._say(Ended(), urgent=True)

    def _execute(self, command: Any) -> None:
        if isinstance(command, Launch):
            member = _Member(
                command.launch, command.until, command.iteration, command.next_checkpoint, trains=not command.waits
            )
            self._members[command.trial_id] = member
            self._say(Started(command.trial_id, command.launch, 1, self.node), urgent=True)
            if member.trains:
                self._train(command.trial_id, member)
        elif isinstance(command, Continue):
            member = self._members[command.trial_id]
            if member.early is not None:
                said, member.early = member.early, None
                for message, urgent in said:
                    self._say(message, urgent=urgent)
                return
            member.until = command.until
            if not member.trains:
                member.trains = True
                self._train(command.trial_id, member)
        elif isinstance(command, HandOn):
            self._members[command.trial_id].hands_to = command
        elif isinstance(command, Evict | Stop):
            self._members.pop(command.trial_id, None)

    def _train(self, trial_id: str, member: _Member) -> None:
        """A step begins; some take longer than others."""
        share = (int(trial_id[1:]) * 7919 + member.iteration * 104_729) % 9973 / 99_730
        self._world.after(self._world.size.step_s * (1 + share), lambda: self._report(trial_id, member))

    def _report(self, trial_id: str, member: _Member) -> None:
        if self._members.get(trial_id) is not member:
            return
        member.iteration += 1
        counts = self._world.counts
        counts.results += 1
        stop = "the last step" if member.iteration >= self._world.size.steps else None
        waiting = stop is not None or (member.until is not None and member.iteration >= member.until)
        saved = None
        if member.iteration % self._world.size.interval == 0:
            saved = SavedCheckpoint(member.next_checkpoint, f"{member.next_checkpoint:032x}", _CHECKPOINT)
            member.next_checkpoint += 1
        if waiting:
            counts.boundaries += 1
            member.trains = False
            self._hand_on(member)
        score = (int(trial_id[1:]) * 2654435761 + member.iteration * 40503) % 100_003 / 100_003
        metrics = {"score": score, "loss": 1 - score, "lr": 0.1}
        report = Reported(
            trial_id, member.launch, member.iteration, metrics, waiting, stop, saved, self._world.now, 1.0, 1.0, 1.0, 1
        )
        soon = member.until is not None and member.iteration + 1 >= member.until
        said: list[tuple[Any, bool]] = [(report, waiting or soon)]
        if saved is not None and self._peers:
            said.insert(0, (Held(f"trial_{trial_id}", saved.number, saved.digest, self._peers[0]), False))
        if member.early is not None:
            member.early += said
        else:
            for message, urgent in said:
                self._say(message, urgent=urgent)
        if not waiting:
            self._train(trial_id, member)

    def _hand_on(self, member: _Member) -> None:
        """Whom its slot was promised goes on in it at once, unless it waits elsewhere by now."""
        promise, member.hands_to = member.hands_to, None
        to = None if promise is None else self._members.get(promise.to)
        if promise is None or to is None or to.trains:
            return
        if (to.launch, to.iteration) == (promise.to_launch, promise.to_iteration):
            to.until, to.trains, to.early = promise.until, True, []
            self._train(promise.to, to)


def _version() -> str:
    from shoal import __version__

    return __version__


class _Backend:
    """See :class:`shoal.engines.backend.Backend`."""

    node = "node-0"
    alone = False

    def __init__(self, world: World) -> None:
        self._world = world

    def connect(self, experiment: str, inbox: Any) -> Cluster:
        return _Nodes(self._world.size)

    def environment(self) -> Mapping[str, str]:
        return {}

    def begin_host(self, setup: HostSetup, node: str) -> HostLine:
        return _Host(self._world, setup, node)

    def devices(self, reservation: str, node: str, gpus: float) -> None:
        raise AssertionError("no GPUs")

    def introduce(self, line: HostLine) -> None:
        pass

    def end_host(self, line: HostLine) -> None:
        pass

    def leave(self, lines: Sequence[HostLine], patience_s: float) -> None:
        pass


class _Engine(ClusterEngine):
    """The engine for a cluster, on a simulated one, which has granted all slots before the run begins."""

    def __init__(self, world: World) -> None:
        super().__init__(_Backend(world))
        self._inbox = world  # type: ignore[assignment]
        self._size = world.size

    def _wait_for_first(self, granted: Granted, setup: EngineSetup) -> None:
        while sum(len(post.slots) for post in self.fleet.posts.values()) < self._size.slots:
            granted.look()
            self._take(1.0)


class _Granted(Granted):
    """Asked by hand, so that no thread is in the way."""

    def start(self) -> None:
        """Nothing begins."""


def make_engine(world: World, folder: str, place: str | None = "memory://simulated") -> ClusterEngine:
    """Return an engine for the simulated cluster, started.

    Args:
        world: the cluster.
        folder: the experiment's on this machine, which exists.
        place: the URL that it is said to be kept at.
    """
    engine = _Engine(world)
    setup = EngineSetup(
        trainable=print, rules=ReportRules(), experiment="simulated", seed=0, cpus=1.0, gpus=0.0, devices=(),
        output=lambda name, text: None, log_to_file=False, folder=folder, place=place,
        request=Request(1.0, 0.0), limit=world.size.slots,
    )  # fmt: skip
    with mock.patch("shoal.engines.cluster.Granted", _Granted):
        engine.start(setup)
    return engine


def run(world: World, folder: str) -> Counter[str]:
    """Run an experiment as a driver does, but for the journal and all that reads it.

    Returns:
        How many events and commands there were of each kind.
    """
    engine = make_engine(world, folder)
    population, opened, trials = first_events(world.size)
    for trial in trials:
        engine.add(MemberInfo(trial.trial_id, trial.index, trial.name, f"{folder}/{trial.folder}"))
    kinds: Counter[str] = Counter()

    def step(events: Sequence[Event]) -> None:
        commands = [command for event in events for command in population.apply(event)]
        kinds.update(type(item).__name__ for item in (*events, *commands))
        for command in commands:
            if isinstance(command, DeleteCheckpoint):
                engine.fleet.delete(f"trial_{command.trial_id}", command.number)
            elif isinstance(command, Launch | Continue | HandOn | Evict | Stop):
                record = command.checkpoint if isinstance(command, Launch) else None
                name = None if record is None else f"trial_{record.trial_id}/{checkpoint_name(record.number)}"
                engine.execute(command, None if name is None else f"{folder}/{name}")

    step([opened, *trials])
    while not population.ended:
        step(engine.poll(1.0))
    return kinds


def first_events(size: Size) -> tuple[Population, Opened, list[TrialAdded]]:
    """Return a population that trains with PBT, and the events that it begins with."""
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=size.interval,
        hyperparam_mutations={"lr": space.uniform(0.0, 1.0), "momentum": space.uniform(0.0, 1.0)},
    )
    population = Population(scheduler.policy(mode="max", seed=0), metric="score")
    opened = Opened(Limits((), residents=0, hands_on=True), RetentionRules(1))
    trials = [
        TrialAdded(f"t{index:05d}", index, f"t{index:05d}", "", f"trial_t{index:05d}", {"lr": 0.5, "momentum": 0.5})
        for index in range(size.members)
    ]
    return population, opened, trials
