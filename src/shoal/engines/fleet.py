"""The driver's side of all hosts: who is where, what each has to be told, and what its end means for the core.

It knows nothing of how messages travel: that is a :class:`Link`, one for each host.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..core.commands import CheckpointRecord, Continue, Evict, HandOn, Launch, Stop, checkpoint_name
from ..core.events import Event, Failed, Lost, Reported, Saved, SlotsJoined, SlotsLeft
from ..errors import StorageError, one_line
from ..worker.wire import FrameReader, MemberInfo
from . import EngineCommand, EngineSetup
from .orders import (
    Add,
    Begin,
    Delete,
    Devices,
    End,
    Ended,
    Execute,
    Fetch,
    Held,
    HostFacts,
    Kill,
    Missing,
    Order,
    Peers,
    Printed,
    Remark,
    Upload,
    Uploaded,
)
from .pickling import pickle_config

if TYPE_CHECKING:
    from ..storage.place import Place

__all__ = ["Fleet", "Link", "Post"]

_BYTES_OF_A_RESIDENT = 512 << 20
"""What a parked member is taken to need, where the user does not say what one takes."""
_PEERS_AT_MOST = 3
_SHARED_AT_MOST = 3
"""So many of the hosts that work in the driver's folder are named as having what is there."""


class Link(Protocol):
    """The way to one host."""

    def send(self, orders: list[Order]) -> None:
        """Send orders, without waiting."""
        ...


@dataclass(slots=True)
class Post:
    """A host that is at work."""

    key: str
    link: Link
    facts: HostFacts
    node: str
    """Which node it is on."""
    slots: set[int] = field(default_factory=set[int])
    residents: int = 0
    """For how many processes the core was told that there is room."""
    trials: dict[str, int] = field(default_factory=dict[str, int])
    """Those that have a process there, with their newest launch."""
    known: set[str] = field(default_factory=set[str])
    """Trials that it has been told of."""
    outgoing: list[Order] = field(default_factory=list[Order])
    peers: Peers | None = None
    """What it was told last."""
    ended: bool = False
    """Its members have ended."""
    leaving: bool = False
    """Its slots were given back. It stays as long as it has checkpoints that are nowhere else."""
    frames: FrameReader = field(default_factory=FrameReader)


class Fleet:
    """All hosts of an experiment.

    Args:
        setup: of the engine.
    """

    def __init__(self, setup: EngineSetup) -> None:
        self._setup = setup
        self._folder = Path(setup.folder)
        self.posts: dict[str, Post] = {}
        self.home: Post | None = None
        """A host that has no slots and keeps copies in the driver's folder."""
        self._homeless = False
        """There cannot be one."""
        self._infos: dict[str, MemberInfo] = {}
        self._slots: dict[int, Post] = {}
        self._next_slot = 0
        self._where: dict[str, Post] = {}
        """The host of each trial that has a process."""
        self._at: dict[str, int] = {}
        """The slot that each of them was told of last."""
        self._stored: set[tuple[str, int]] = set()
        """Checkpoints that hosts have copied to storage."""
        self._holders: dict[tuple[str, int], dict[str, str]] = {}
        """Hosts outside of the driver's folder that have a checkpoint, or are about to, with its digest there."""
        self._missing: dict[str, Missing] = {}
        """Trials that wait for a host in the driver's folder to give them what is there."""
        self._uploads: dict[int, _Asked] = {}
        """By the number of the order."""
        self._logs = _Logs(setup.output)
        self._numbers = itertools.count(1)
        self._told: dict[str, Post] = {}
        """Hosts that have to be told something."""
        self._closed: StorageError | None = None
        """Why nothing is uploaded any more."""
        self._ready: list[Event] = []
        """What follows from commands that could not be carried out."""

    # ------------------------------------------------------------------------------------------------ hosts come and go

    def join(self, post: Post, devices: Sequence[str], *, home: bool = False) -> list[Event]:
        """A host has begun to work; ``devices``: ``CUDA_VISIBLE_DEVICES`` of each of its slots."""
        if home:
            self.home = post
        else:
            self.posts[post.key] = post
        self._tell_peers()
        self._look_again()
        return self.more_slots(post, devices) if devices else []

    def more_slots(self, post: Post, devices: Sequence[str]) -> list[Event]:
        """A host has more slots. Return what the core is told."""
        if post.leaving:
            post.leaving = False
            self._tell_peers()
        numbers = range(self._next_slot, self._next_slot + len(devices))
        self._next_slot += len(devices)
        post.slots.update(numbers)
        self._slots.update(dict.fromkeys(numbers, post))
        self._order(post, Devices(dict(zip(numbers, devices, strict=True))))
        before, post.residents = post.residents, self._room(post)
        names = tuple(f"{post.key}/{device}" if device else post.key for device in devices)
        grown = 0 if self._setup.max_residents is not None else post.residents - before
        return [SlotsJoined(names, grown)]

    def spare(self, wanted: int) -> list[tuple[Post, list[int]]]:
        """Return slots that can leave, because no more than ``wanted`` are of use, by their hosts.

        Only those that nobody has, and so many that all who have a process at a host can still run there at once. For a
        moment without events on their way: what the core was told last, it has decided upon.
        """
        over = len(self._slots) - wanted
        found: list[tuple[Post, list[int]]] = []
        # Those first that have the fewest members: where none is left, the node is free for others.
        for post in sorted(self.posts.values(), key=lambda post: len(post.trials)) if over > 0 else ():
            free = sorted(post.slots - {self._at[trial_id] for trial_id in post.trials})
            slots = free[: max(0, min(over, len(post.slots) - len(post.trials)))]
            if slots:
                over -= len(slots)
                found.append((post, slots))
        return found

    def fewer_slots(self, post: Post, slots: Sequence[int]) -> list[Event]:
        """Slots of a host that are :meth:`spare` leave. Return what the core is told."""
        post.slots.difference_update(slots)
        for slot in slots:
            del self._slots[slot]
        before, post.residents = post.residents, self._room(post) if post.slots else 0
        if not post.slots:
            post.leaving = True
            self._tell_peers()
        return [SlotsLeft(tuple(slots), 0 if self._setup.max_residents is not None else before - post.residents)]

    def idle(self) -> list[Post]:
        """Return the hosts whose slots have left and that have nothing any more that is not elsewhere, too."""
        leaving = {post.key: post for post in self.posts.values() if post.leaving and not post.trials}
        if leaving:
            for asked in self._uploads.values():
                leaving.pop(asked.key, None)
            for (folder, number), holders in self._holders.items():
                if holders.keys() & leaving.keys() and not self._is_safe(folder, number):
                    for key in holders:
                        leaving.pop(key, None)
        return list(leaving.values())

    def _is_safe(self, trial_folder: str, number: int) -> bool:
        """Return whether a checkpoint is in storage, or in the driver's folder."""
        return (trial_folder, number) in self._stored or self._is_here(trial_folder, number)

    def _room(self, post: Post) -> int:
        """Return how many members may keep a process at a host."""
        request = self._setup.request
        if request.gpus > 0:
            return len(post.slots)  # a parked member keeps its share of the GPU's memory
        return max(len(post.slots), post.facts.memory // (request.memory or _BYTES_OF_A_RESIDENT))

    def leave(self, key: str, reason: str) -> list[Event]:
        """A host is gone, with all that was on it. Return what the core is told."""
        if self.is_home(key):
            self.home = None
            self._tell_peers()
            return []
        post = self.posts.pop(key, None)
        if post is None:
            return []
        post.ended = True
        for slot in post.slots:
            del self._slots[slot]
        for holders in self._holders.values():
            holders.pop(key, None)
        self._tell_peers()
        for number in [number for number, asked in self._uploads.items() if asked.key == key]:
            self._ask_next(self._uploads.pop(number), StorageError(f"The node with the checkpoint is gone: {reason}."))
        shrunk = 0 if self._setup.max_residents is not None else post.residents
        events: list[Event] = [SlotsLeft(tuple(sorted(post.slots)), shrunk)] if post.slots else []
        for trial_id, launch in post.trials.items():
            del self._where[trial_id], self._at[trial_id]
            self._missing.pop(trial_id, None)
            events.append(Lost(trial_id, launch, reason, innocent=True))
        return events

    def has(self, key: str) -> bool:
        """Return whether a host is still one of these."""
        return key in self.posts or self.is_home(key)

    def is_home(self, key: str) -> bool:
        """Return whether a host is the one without slots that keeps copies."""
        return self.home is not None and self.home.key == key

    def no_home(self) -> None:
        """No host can work on the driver's node: nobody waits for one."""
        self._homeless = True
        self._tell_peers()
        self._look_again()

    def _tell_peers(self) -> None:
        """Tell each host who keeps copies of its checkpoints: the next one, so that all have as much to keep.

        Only where that has changed, because each host that joins or leaves changes it for the few before it.
        """
        posts = [post for post in self.posts.values() if not post.facts.shared and not post.leaving]
        shared = [post for post in self.posts.values() if post.facts.shared]
        others = [*shared, *([self.home] if self.home is not None else [])][:_PEERS_AT_MOST]
        ring = [*posts, *posts[:_PEERS_AT_MOST]]
        for index, post in enumerate(posts):
            # Without storage only what is in the driver's folder is kept; any host that works in it will do.
            following = [] if self._setup.place is None else ring[index + 1 : index + len(posts)][:_PEERS_AT_MOST]
            keys = tuple(peer.key for peer in [*following, *others][:_PEERS_AT_MOST])
            peers = Peers(keys, awaited=not keys and not self._homeless)
            if peers != post.peers:
                post.peers = peers
                self._order(post, peers)

    def has_slot(self, slot: int) -> bool:
        """Return whether a slot is one of a host that is here."""
        return slot in self._slots

    def hostname(self, key: str) -> str:
        """Return the name of a host's machine."""
        return self.posts[key].facts.hostname if key in self.posts else key

    @property
    def needs_home(self) -> bool:
        """True where a host works elsewhere than in the driver's folder, and none works there.

        Then one is to :meth:`join`, or :meth:`no_home` to be said: hosts may be waiting for it.
        """
        away = any(not post.facts.shared for post in self.posts.values())
        return away and not self._homeless and not self._is_somebody_home

    @property
    def _is_somebody_home(self) -> bool:
        """True where a host works in the driver's folder."""
        return any(post.facts.shared for post in self._all())

    # ------------------------------------------------------------------------------------------------------ commands

    def add(self, info: MemberInfo) -> None:
        """A trial was added."""
        self._infos[info.trial_id] = info

    def execute(self, command: EngineCommand, checkpoint: str | None) -> None:
        """Have a command carried out by the host that it is for."""
        if isinstance(command, Launch):
            self._launch(command, checkpoint)
            return
        post = self._where.get(command.trial_id)
        if post is None:
            if not isinstance(command, Stop | Evict | HandOn):
                reason = "its node died while it waited"
                self._ready.append(Lost(command.trial_id, command.launch, reason, innocent=True))
            return
        if isinstance(command, Continue):
            post.trials[command.trial_id] = command.launch
            self._at[command.trial_id] = command.slot
        elif isinstance(command, Stop | Evict):
            self._no_process(post, command.trial_id)
        if isinstance(command, HandOn) and self._where.get(command.to) is not post:
            return  # it hears of it by its Continue
        self._order(post, Execute(command))

    def _launch(self, launch: Launch, checkpoint: str | None) -> None:
        post = self._slots.get(launch.slot)
        if not launch.fresh:
            post = self._where.get(launch.trial_id)
        if post is None:
            reason = "its node died before it was started"
            self._ready.append(Lost(launch.trial_id, launch.launch, reason, innocent=True))
            return
        if not launch.fresh:
            post.trials[launch.trial_id] = launch.launch
        try:
            config = pickle_config(launch.config)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self._ready.append(Failed(launch.trial_id, launch.launch, text, text))
            return
        if launch.trial_id not in post.known:
            post.known.add(launch.trial_id)
            info = self._infos[launch.trial_id]
            self._order(post, Add(info))
            if self._setup.log_to_file and not post.facts.shared:
                self._logs.begin(info)
        post.trials[launch.trial_id] = launch.launch
        self._missing.pop(launch.trial_id, None)
        self._where[launch.trial_id] = post
        self._at[launch.trial_id] = launch.slot
        folder = ""
        holders: tuple[str, ...] = ()
        if launch.checkpoint is not None and checkpoint is not None:
            folder = Path(checkpoint).parent.name
            holders = self._holders_of(folder, launch.checkpoint, but=post)
            self._has(post, folder, launch.checkpoint.number, launch.checkpoint.digest)
        self._order(post, Execute(replace(launch, config={}), config, folder, holders))

    def _no_process(self, post: Post, trial_id: str) -> None:
        """A trial has no process any more, or soon."""
        del self._where[trial_id], post.trials[trial_id], self._at[trial_id]
        self._missing.pop(trial_id, None)

    def kill(self, trial_id: str, reason: str) -> None:
        """End the process of a trial at once."""
        if (post := self._where.get(trial_id)) is not None:
            self._order(post, Kill(trial_id, reason))

    def end(self, *, at_once: bool) -> None:
        """Have all members end."""
        for post in self.posts.values():
            self._order(post, End(at_once))

    def flush(self) -> None:
        """Send what the hosts have to be told."""
        told, self._told = self._told, {}
        for key, post in told.items():
            if self.has(key):
                orders, post.outgoing = post.outgoing, []
                post.link.send(orders)

    def _order(self, post: Post, order: Order) -> None:
        """Have a host told something with the next :meth:`flush`."""
        post.outgoing.append(order)
        self._told[post.key] = post

    def _all(self) -> Iterable[Post]:
        return [*self.posts.values(), *([self.home] if self.home is not None else [])]

    # ------------------------------------------------------------------------------------------------------- hearing

    def heard(self, key: str, said: bytes) -> list[Event]:
        """Take in what a host has said. Return what the core is told."""
        post = self.home if self.is_home(key) else self.posts.get(key)
        if post is None:
            return []
        events: list[Event] = []
        for message in post.frames.feed(said):
            if isinstance(message, Printed):
                self._setup.output(message.name, message.text)
                if not post.facts.shared:
                    self._logs.take(message)
            elif isinstance(message, Remark):
                self._setup.note(message.text)
            elif isinstance(message, Held):
                if (holder := self.posts.get(message.key)) is not None:
                    self._has(holder, message.trial_folder, message.number, message.digest)
            elif isinstance(message, Missing):
                self._misses(post, message)
            elif isinstance(message, Uploaded):
                self._uploaded(post, message)
            elif isinstance(message, Ended):
                post.ended = True
                if message.error is not None:
                    events += self.leave(key, f"the process that runs its members failed: {message.error}")
            else:
                self._note(post, message)
                events.append(message)
        self._logs.flush()
        return events

    def take_ready(self) -> list[Event]:
        """Return what follows from commands that could not be carried out."""
        ready, self._ready = self._ready, []
        return ready

    def _note(self, post: Post, event: Event) -> None:
        if isinstance(event, Lost):
            # One of an earlier launch is followed by that of the present one, which is on its way to the host.
            if post.trials.get(event.trial_id) == event.launch:
                self._no_process(post, event.trial_id)
        elif isinstance(event, Reported | Saved) and event.checkpoint is not None:
            folder = Path(self._infos[event.trial_id].folder).name
            self._has(post, folder, event.checkpoint.number, event.checkpoint.digest)

    # --------------------------------------------------------------------------------------------------- checkpoints

    def _has(self, post: Post, trial_folder: str, number: int, digest: str) -> None:
        """A host has a checkpoint, or is about to have it."""
        if not post.facts.shared:
            self._holders.setdefault((trial_folder, number), {})[post.key] = digest

    def _holders_of(self, trial_folder: str, record: CheckpointRecord | Missing, *, but: Post) -> tuple[str, ...]:
        """Return the hosts that have a checkpoint, in the order in which to ask them."""
        holders = self._holders.get((trial_folder, record.number), {})
        found = [key for key, digest in holders.items() if digest == record.digest and key != but.key]
        if self._is_here(trial_folder, record.number):
            found += [post.key for post in self._all() if post.facts.shared and post is not but][:_SHARED_AT_MOST]
        return tuple(found)

    def _misses(self, post: Post, missing: Missing) -> None:
        """A host has a launch wait for a checkpoint that it could not get. It is told what to do, now or later.

        What is in the driver's folder only can be had as soon as a host works there. As long as that is so, no member
        is launched without it: the core would take the checkpoint for damaged, and have it deleted.
        """
        current = post.trials.get(missing.trial_id)
        if current != missing.launch:
            if current is not None:  # another launch waits behind it
                self._order(post, Begin(missing.trial_id, missing.launch))
            return
        self._missing.pop(missing.trial_id, None)
        held = self._holders.get((missing.trial_folder, missing.number), {})
        if held.get(post.key) == missing.digest:
            del held[post.key]  # it was about to have it
        holders = self._holders_of(missing.trial_folder, missing, but=post)
        new = tuple(key for key in holders if key not in missing.asked)
        lost: str | None = None
        if not new and not post.facts.shared and self._is_here(missing.trial_folder, missing.number):
            if self._is_somebody_home:
                lost = None if missing.reached else f"its checkpoint did not get there: {missing.why}"
            elif self._homeless:
                where = f"its checkpoint is in {self._folder}, and no host can work there that would give it away"
                lost = f"{where}. Elsewhere: {missing.why}"
            else:
                self._missing[missing.trial_id] = missing
                return
        if new:
            self._has(post, missing.trial_folder, missing.number, missing.digest)
            self._order(post, Fetch(missing.trial_id, missing.launch, new))
        else:
            self._order(post, Begin(missing.trial_id, missing.launch, lost))

    def _look_again(self) -> None:
        """Who works in the driver's folder has changed: see what can be done for those that wait for that."""
        for trial_id, missing in list(self._missing.items()):
            self._misses(self._where[trial_id], missing)

    def _is_here(self, trial_folder: str, number: int) -> bool:
        """Return whether the driver's folder has a checkpoint of that name."""
        return (self._folder / trial_folder / checkpoint_name(number)).is_dir()

    def delete(self, trial_folder: str, number: int) -> None:
        """Delete the copies of a checkpoint that are elsewhere than in the driver's folder."""
        self._stored.discard((trial_folder, number))
        for key in self._holders.pop((trial_folder, number), ()):
            if key in self.posts:
                self._order(self.posts[key], Delete(trial_folder, number))

    def upload(self, trial_folder: str, number: int, digest: str, place: Place) -> Future[None]:
        """Have a host upload a checkpoint. The order goes with the next :meth:`flush`.

        Returns:
            A future; its error is FileNotFoundError where no host has it.
        """
        asked = _Asked(trial_folder, number, digest, place.url)
        if self._closed is not None:
            asked.future.set_exception(self._closed)
            return asked.future
        self._ask_next(asked, FileNotFoundError(f"no host has {trial_folder}/{checkpoint_name(number)}"))
        return asked.future

    def _ask_next(self, asked: _Asked, why: BaseException) -> None:
        """Have the next host upload a checkpoint that has it; where there is none, that fails.

        Args:
            asked: what is to be uploaded.
            why: why it was not so far.
        """
        # That one does not have it says less than why another could not.
        if asked.why is None or isinstance(asked.why, FileNotFoundError):
            asked.why = why
        for key, digest in self._holders.get((asked.trial_folder, asked.number), {}).items():
            if digest == asked.digest and key not in asked.before and key in self.posts:
                asked.before.append(key)
                number = next(self._numbers)
                self._uploads[number] = asked
                order = Upload(number, asked.trial_folder, asked.number, digest, asked.url)
                self._order(self.posts[key], order)
                return
        asked.future.set_exception(asked.why)

    def _uploaded(self, post: Post, message: Uploaded) -> None:
        asked = self._uploads.pop(message.number_of_order, None)
        if asked is None:
            return
        if message.error is None:
            if (asked.trial_folder, asked.number) in self._holders:
                self._stored.add((asked.trial_folder, asked.number))
            asked.future.set_result(None)
            return
        error = message.error
        if not isinstance(error, FileNotFoundError):
            error.args = (f"On {post.facts.hostname}: {error}",)  # each node has credentials of its own, or none
        self._ask_next(asked, error)

    def close(self, why: BaseException | None = None) -> None:
        """No host is heard any more: what they were to upload is not uploaded.

        Args:
            why: what was in the way, where something was.
        """
        self._closed = _ended(why)
        for asked in self._uploads.values():
            asked.future.set_exception(self._closed)
        self._uploads.clear()
        self.posts.clear()
        self.home = None


def _ended(why: BaseException | None) -> StorageError:
    return StorageError("The hosts of the experiment have ended" + (f": {one_line(why)}." if why is not None else "."))


@dataclass(slots=True)
class _Asked:
    """A checkpoint that a host is to upload."""

    trial_folder: str
    number: int
    digest: str
    url: str
    before: list[str] = field(default_factory=list[str])
    """The hosts that were asked, the newest last."""
    why: BaseException | None = None
    """Why it was not uploaded so far."""
    future: Future[None] = field(default_factory=Future[None])

    @property
    def key(self) -> str:
        """The host that is asked now."""
        return self.before[-1]


class _Logs:
    """Writes what members print elsewhere into their folders here.

    Args:
        show: shows a line of a member to the user.
    """

    def __init__(self, show: Callable[[str, str], None]) -> None:
        self._show = show
        self._paths: dict[str, Path] = {}
        """Of members whose lines are written, by name."""
        self._lines: dict[str, list[str]] = {}

    def begin(self, info: MemberInfo) -> None:
        """Write the lines of a member from now on."""
        self._paths[info.name] = Path(info.folder, "output.log")
        with contextlib.suppress(OSError):
            os.mkdir(info.folder)

    def take(self, line: Printed) -> None:
        """A member has printed a line."""
        if line.name in self._paths:
            self._lines.setdefault(line.name, []).append(f"{line.text}\n")

    def flush(self) -> None:
        """Write the lines that have come."""
        for name, lines in self._lines.items():
            try:
                with self._paths[name].open("a", encoding="utf-8", errors="replace") as log:
                    log.writelines(lines)
            except OSError as error:
                del self._paths[name]  # the run goes on, and says once what is missing
                self._show(name, f"(shoal: output.log cannot be written and ends here: {error})")
        self._lines.clear()
