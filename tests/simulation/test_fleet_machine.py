"""Hosts join, leave and die at any moment, with whatever is on its way to them or from them, and the core goes on.

The core and the fleet are the real ones. The hosts are models that do at each command what a host does, but their
orders arrive late, what they say is heard late, and a host that dies takes all of that with it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shoal import space
from shoal.core.commands import (
    CheckpointRecord,
    Continue,
    DeleteCheckpoint,
    Evict,
    HandOn,
    Launch,
    Save,
    Stop,
    WindUp,
    checkpoint_name,
)
from shoal.core.events import (
    Damaged,
    Event,
    Failed,
    Finished,
    Lost,
    Opened,
    Reported,
    SavedCheckpoint,
    Started,
    StopAsked,
    TrialAdded,
)
from shoal.core.limits import Limits, RetentionRules
from shoal.core.population import Population
from shoal.core.reports import ReportRules
from shoal.engines import EngineSetup
from shoal.engines.fleet import Fleet, Post
from shoal.engines.orders import Add, Delete, Devices, End, Ended, Execute, Held, HostFacts, Kill, Order, Peers
from shoal.schedulers import PopulationBasedTraining
from shoal.worker.wire import MemberInfo, frame

WHO = st.integers(0, 11)
LAST = 12
"""The iteration at which every trial ends."""
_FOR_THE_ENGINE = (Launch, Continue, HandOn, Save, WindUp, Evict, Stop)


@dataclass
class Member:
    """A process of a trial on a host."""

    launch: Launch
    until: float | None
    iteration: int
    next_checkpoint: int
    trains: bool
    leaves: bool = False


@dataclass
class ModelHost:
    """A host as the fleet knows it."""

    key: str
    shared: bool
    orders: deque[Order] = field(default_factory=deque[Order])
    """On their way to it."""
    says: list[Any] = field(default_factory=list[Any])
    """Not heard yet."""
    members: dict[str, Member] = field(default_factory=dict[str, Member])
    added: set[str] = field(default_factory=set[str])
    devices: set[int] = field(default_factory=set[int])
    files: set[str] = field(default_factory=set[str])
    """Ids of the checkpoints that it has."""
    peers: tuple[str, ...] = ()

    def send(self, orders: list[Order]) -> None:
        self.orders.extend(orders)

    def do(self, order: Order, there: set[str]) -> None:
        """Carry an order out. ``there``: checkpoints that some host has."""
        if isinstance(order, Add):
            assert order.info.trial_id not in self.added
            self.added.add(order.info.trial_id)
        elif isinstance(order, Devices):
            assert not self.devices & order.devices.keys()
            self.devices.update(order.devices)
        elif isinstance(order, Peers):
            self.peers = order.keys
        elif isinstance(order, Kill):
            if (member := self.members.pop(order.trial_id, None)) is not None:
                self.says.append(Lost(order.trial_id, member.launch.launch, order.reason))
        elif isinstance(order, Delete):
            self.files.discard(f"{order.trial_folder}/{checkpoint_name(order.number)}")
        elif isinstance(order, End):
            self.members.clear()
            self.says.append(Ended())
        else:
            assert isinstance(order, Execute)
            if isinstance(order.command, HandOn):
                assert order.command.to in self.added
            self.execute(order.command, there)

    def execute(self, command: Any, there: set[str]) -> None:
        trial_id: str = command.trial_id
        assert trial_id in self.added
        if isinstance(command, Launch):
            assert command.slot in self.devices
            if command.fresh:
                assert trial_id not in self.members
            elif trial_id not in self.members:
                self.says.append(Lost(trial_id, command.launch, "it died while it waited", innocent=True))
                return
            self.enter(command, there)
        elif isinstance(command, Evict | Stop):
            self.members.pop(trial_id, None)
        elif isinstance(command, Continue | WindUp):
            member = self.members.get(trial_id)
            if member is None:
                self.says.append(Lost(trial_id, command.launch, "it died while it waited", innocent=True))
            elif isinstance(command, Continue):
                assert command.slot in self.devices
                assert member.launch.launch == command.launch
                member.until, member.trains = command.until, True
            elif member.trains:
                member.leaves = True
            else:
                del self.members[trial_id]
                self.says.append(Lost(trial_id, command.launch, "it has left"))

    def enter(self, launch: Launch, there: set[str]) -> None:
        member = Member(launch, launch.until, launch.iteration, launch.next_checkpoint, trains=not launch.waits)
        self.members[launch.trial_id] = member
        if launch.checkpoint is not None:
            if launch.checkpoint.id not in self.files | there:
                member.trains = False
                self.says.append(Damaged(launch.trial_id, launch.launch, launch.checkpoint.id, "it is gone"))
                return
            self.files.add(launch.checkpoint.id)
        self.says.append(Started(launch.trial_id, launch.launch, 1, self.key))

    def report(self, trial_id: str, score: float, save: bool) -> SavedCheckpoint | None:
        """A member comes to its next report. Return what it has saved."""
        member = self.members[trial_id]
        member.iteration += 1
        stop = "the end" if member.iteration >= LAST else None
        waits = stop is not None or (member.until is not None and member.iteration >= member.until)
        saved = None
        if save:
            saved = SavedCheckpoint(member.next_checkpoint, f"{self.key} {trial_id} {member.launch.launch}", 1)
            member.next_checkpoint += 1
            self.files.add(f"{trial_id}/{checkpoint_name(saved.number)}")
        launch = member.launch.launch
        self.says.append(
            Reported(trial_id, launch, member.iteration, {"score": score}, waits, stop=stop, checkpoint=saved)
        )
        member.trains = not waits
        if member.leaves:
            del self.members[trial_id]
            self.says.append(Lost(trial_id, launch, "it has left"))
        return saved


class FleetMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.hosts: dict[str, ModelHost] = {}
        self.population: Population
        self.joined = 0
        self.cut = False
        self.events: list[Event] = []
        """What the core is told with the next poll: commands that follow from some of it are late for the rest."""
        self.launches: dict[str, int] = {}

    @initialize(
        members=st.integers(1, 6),
        residents=st.sampled_from([None, 1, 3]),
        kept=st.sampled_from([None, 1]),
        synch=st.booleans(),
        hands_on=st.booleans(),
        shared=st.booleans(),
    )
    def begin(
        self, members: int, residents: int | None, kept: int | None, synch: bool, hands_on: bool, shared: bool
    ) -> None:
        self.shared, self.residents = shared, residents
        scheduler = PopulationBasedTraining(
            time_attr="training_iteration",
            perturbation_interval=2,
            hyperparam_mutations={"h": space.uniform(0.0, 1.0)},
            quantile_fraction=0.5,
            synch=synch,
        )
        self.population = Population(scheduler.policy(mode="max", seed=0), metric="score")
        self.fleet = Fleet(
            EngineSetup(
                trainable=print, rules=ReportRules(), experiment="e", seed=0, cpus=1.0, gpus=0.0, devices=(),
                output=lambda name, text: None, log_to_file=False, folder="/nowhere", max_residents=residents,
                place="memory://e",
            )
        )  # fmt: skip
        limits = Limits((), residents=residents, max_failures=-1, hands_on=hands_on)
        self.step([Opened(limits, RetentionRules(kept))])
        for index in range(members):
            name = f"t{index}"
            self.fleet.add(MemberInfo(name, index, name, f"/nowhere/{name}"))
            self.step([TrialAdded(name, index, "", "", name, {"h": 0.5})])

    # ---------------------------------------------------------------------------------------- as a driver does

    def step(self, events: list[Event]) -> None:
        """Let the core decide on a batch of events, then carry all of it out."""
        commands = [command for event in events for command in self.population.apply(event)]
        self.population.validate()
        deletions = [command for command in commands if isinstance(command, DeleteCheckpoint)]
        for command in commands:
            if isinstance(command, Launch):
                self.launches[command.trial_id] = command.launch
            if isinstance(command, _FOR_THE_ENGINE):
                self.fleet.execute(command, self.path_of(command.checkpoint if isinstance(command, Launch) else None))
        for command in deletions:
            self.fleet.delete(command.trial_id, command.number)

    @staticmethod
    def path_of(record: CheckpointRecord | None) -> str | None:
        return None if record is None else f"/nowhere/{record.trial_id}/{checkpoint_name(record.number)}"

    @rule()
    def the_driver_polls(self) -> None:
        events, self.events = self.events + self.fleet.take_ready(), []
        self.step(events)
        self.fleet.flush()

    # ---------------------------------------------------------------------------------------- what hosts do

    def one_of(self, things: list[Any], who: int) -> Any:
        return things[who % len(things)] if things else None

    @rule(slots=st.integers(1, 2), joins=st.booleans())
    def a_host_joins(self, slots: int, joins: bool) -> None:
        if len(self.hosts) < 4:
            self.joined += 1
            host = ModelHost(f"host-{self.joined}", self.shared)
            self.hosts[host.key] = host
            post = Post(host.key, host, HostFacts("node", 1, "", self.shared, 2 << 30), host.key)
            self.events += self.fleet.join(post, [""] * slots)

    @rule(who=WHO)
    def a_host_has_more_slots(self, who: int) -> None:
        if (host := self.one_of(list(self.hosts.values()), who)) is not None and len(host.devices) < 4:
            self.events += self.fleet.more_slots(self.fleet.posts[host.key], [""])

    @rule(who=WHO, and_more=st.integers(0, 2))
    def a_host_dies_and_perhaps_another_with_it(self, who: int, and_more: int) -> None:
        for _ in range(1 + and_more // 2):
            if (host := self.one_of(list(self.hosts.values()), who)) is not None:
                del self.hosts[host.key]
                self.events += self.fleet.leave(host.key, "its node died")

    @rule(fewer=st.booleans())
    def slots_that_are_of_no_use_leave(self, fewer: bool) -> None:
        """As an engine does when all is told and carried out; also where there is no reason to."""
        self.the_driver_polls()
        if self.fleet._ready or self.events:
            return
        left = sum(not trial.status.ended for trial in self.population.trials.values())
        for post, slots in self.fleet.spare(1 if fewer else max(1, left)):
            assert not {self.population.devices[slot] for slot in slots} - {post.key}
            assert set(slots) <= set(self.population._free), "nobody has one that leaves"
            self.events += self.fleet.fewer_slots(post, slots)
        self.the_driver_polls()
        for post in self.fleet.idle():
            assert not post.trials
            del self.hosts[post.key]
            assert self.fleet.leave(post.key, "it is of no use") == []

    @rule(who=WHO)
    def a_host_fails_with_all_that_it_has_said(self, who: int) -> None:
        if (host := self.one_of(list(self.hosts.values()), who)) is not None:
            host.says.append(Ended("an error"))
            self.a_host_is_heard(who, 99)
            assert not self.fleet.has(host.key)
            del self.hosts[host.key]

    @rule(who=WHO, count=st.integers(1, 9))
    def orders_arrive(self, who: int, count: int) -> None:
        if (host := self.one_of(list(self.hosts.values()), who)) is not None:
            for _ in range(min(count, len(host.orders))):
                host.do(host.orders.popleft(), {name for other in self.hosts.values() for name in other.files})

    @rule(who=WHO, count=st.integers(1, 9))
    def a_host_is_heard(self, who: int, count: int) -> None:
        if (host := self.one_of(list(self.hosts.values()), who)) is not None:
            said, host.says = host.says[:count], host.says[count:]
            self.events += self.fleet.heard(host.key, b"".join(map(frame, said)))

    @rule(who=WHO, which=WHO, steps=st.integers(1, 3), score=st.floats(0, 1), save=st.booleans())
    def a_member_trains(self, who: int, which: int, steps: int, score: float, save: bool) -> None:
        host: ModelHost | None = self.one_of(list(self.hosts.values()), who)
        if host is None:
            return
        for _ in range(steps):
            training = [trial_id for trial_id, member in host.members.items() if member.trains]
            if (trial_id := self.one_of(training, which)) is not None:
                saved = host.report(trial_id, score, save)
                keeper = next((key for key in host.peers if key in self.hosts), None)
                if saved is not None and keeper is not None and not self.shared:
                    self.hosts[keeper].files.add(f"{trial_id}/{checkpoint_name(saved.number)}")
                    host.says.append(Held(trial_id, saved.number, saved.digest, keeper))

    @rule(who=WHO, which=WHO, how=st.sampled_from([Finished, Failed, Lost]))
    def a_member_ends(self, who: int, which: int, how: Any) -> None:
        """Its function ends where it trains; its process dies anywhere."""
        host: ModelHost | None = self.one_of(list(self.hosts.values()), who)
        if host is None or (trial_id := self.one_of(list(host.members), which)) is None:
            return
        members = host.members
        member = members[trial_id]
        if how is Lost:
            del members[trial_id]
            host.says.append(Lost(trial_id, member.launch.launch, "killed"))
        elif member.trains:
            member.trains = False
            about = (trial_id, member.launch.launch)
            host.says.append(Finished(*about) if how is Finished else Failed(*about, "an error", ""))

    @rule(who=WHO)
    def a_member_is_killed(self, who: int) -> None:
        if (trial := self.one_of(self.population.running, who)) is not None:
            self.fleet.kill(trial.trial_id, "it hangs")

    @rule(turns=st.integers(1, 3))
    def nothing_is_late(self, turns: int) -> None:
        for _ in range(turns):
            self.all_goes_well()

    @rule(gently=st.sampled_from([True, False]))
    def the_run_is_to_end(self, gently: bool) -> None:
        self.the_driver_polls()
        self.cut = self.cut or not gently
        self.step([StopAsked("enough", gently=gently)])

    # ---------------------------------------------------------------------------------------- what always holds

    @invariant()
    def what_the_fleet_knows_fits_together(self) -> None:
        if not hasattr(self, "population"):
            return
        fleet = self.fleet
        assert fleet.posts.keys() == self.hosts.keys()
        assert {trial_id: post for post in fleet.posts.values() for trial_id in post.trials} == fleet._where
        assert {slot: post for post in fleet.posts.values() for slot in post.slots} == fleet._slots
        assert all(keys.keys() <= self.hosts.keys() for keys in fleet._holders.values())
        if self.events:
            return
        assert len(self.population.devices) == fleet._next_slot
        assert set(self.population._gone) == set(range(fleet._next_slot)) - fleet._slots.keys()
        room = sum(post.residents for post in fleet.posts.values())
        assert self.residents is not None or self.population._room is None or self.population._room == room

    def teardown(self) -> None:
        """From here on all goes well: then everybody comes to an end, and nothing is left in the fleet's memory."""
        if not hasattr(self, "population"):
            return
        if not self.fleet._slots:
            self.hosts.clear()
            for key in list(self.fleet.posts):
                self.events += self.fleet.leave(key, "its node died")
            self.a_host_joins(1, True)
        for _ in range(400):
            if self.population.ended:
                break
            self.all_goes_well()
        assert self.population.ended, {trial.trial_id: trial.story for trial in self.population.trials.values()}
        self.all_goes_well()
        assert not self.fleet._where
        if self.cut:
            return  # what trials that were stopped had still said came late, and the driver's last sweep deletes it
        known = {f"{folder}/{checkpoint_name(number)}" for folder, number in self.fleet._holders}
        assert {name for name in known if not self.population.retention.knows(name)} == set()

    def all_goes_well(self) -> None:
        for _ in range(2):
            self.the_driver_polls()
        for place in range(len(self.hosts)):
            self.orders_arrive(place, 99)
            for which in range(6):
                self.a_member_trains(place, which, 1, 0.5, True)
            self.a_host_is_heard(place, 99)


def _machine() -> Any:
    case = FleetMachine.TestCase
    case.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
    return case


TestAnyFate = pytest.mark.timeout(300)(_machine())
