"""The driver's side of all hosts: who is where, what each has to be told, and what its end means for the core.

It knows nothing of how messages travel: that is a :class:`Link`, one for each host.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..core.commands import Continue, Evict, HandOn, Launch, Stop, checkpoint_name
from ..core.events import Event, Failed, Lost, Reported, Saved, SlotsJoined, SlotsLeft
from ..errors import StorageError
from ..worker.wire import FrameReader, MemberInfo
from . import EngineCommand, EngineSetup
from .orders import (
    Add,
    Delete,
    Devices,
    End,
    Ended,
    Execute,
    Held,
    HostFacts,
    Kill,
    Order,
    Peers,
    Printed,
    Upload,
    Uploaded,
)
from .pickling import pickle_config

if TYPE_CHECKING:
    from ..storage.place import Place

__all__ = ["Fleet", "Link", "Post"]

_BYTES_OF_A_RESIDENT = 512 << 20
"""What a parked member is taken to need, where the user does not say what one takes."""


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
    ended: bool = False
    """Its members have ended."""
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
        """A host on the driver's own node that has no slots and keeps copies."""
        self._infos: dict[str, MemberInfo] = {}
        self._slots: dict[int, Post] = {}
        self._next_slot = 0
        self._where: dict[str, Post] = {}
        """The host of each trial that has a process."""
        self._holders: dict[tuple[str, int], set[str]] = {}
        """Keys of the hosts outside of the driver's folder that have a checkpoint."""
        self._uploads: dict[int, tuple[str, Future[None]]] = {}
        """By the number of the order: the host that was asked, and what becomes of it."""
        self._numbers = itertools.count(1)
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
        return self.more_slots(post, devices) if devices else []

    def more_slots(self, post: Post, devices: Sequence[str]) -> list[Event]:
        """A host has more slots. Return what the core is told."""
        numbers = range(self._next_slot, self._next_slot + len(devices))
        self._next_slot += len(devices)
        post.slots.update(numbers)
        self._slots.update(dict.fromkeys(numbers, post))
        post.outgoing.append(Devices(dict(zip(numbers, devices, strict=True))))
        before, post.residents = post.residents, self._room(post)
        names = tuple(f"{post.key}/{device}" if device else post.key for device in devices)
        grown = 0 if self._setup.max_residents is not None else post.residents - before
        return [SlotsJoined(names, grown)]

    def _room(self, post: Post) -> int:
        """Return how many members may keep a process at a host."""
        request = self._setup.request
        if request.gpus > 0:
            return len(post.slots)  # a parked member keeps its share of the GPU's memory
        return max(len(post.slots), post.facts.memory // (request.memory or _BYTES_OF_A_RESIDENT))

    def leave(self, key: str, reason: str) -> list[Event]:
        """A host is gone, with all that was on it. Return what the core is told."""
        if self.home is not None and self.home.key == key:
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
            holders.discard(key)
        self._tell_peers()
        for number, (asked, future) in list(self._uploads.items()):
            if asked == key:
                del self._uploads[number]
                future.set_exception(StorageError(f"The node with the checkpoint is gone: {reason}."))
        shrunk = 0 if self._setup.max_residents is not None else post.residents
        events: list[Event] = [SlotsLeft(tuple(sorted(post.slots)), shrunk)] if post.slots else []
        for trial_id, launch in post.trials.items():
            del self._where[trial_id]
            events.append(Lost(trial_id, launch, reason, innocent=True))
        return events

    def _tell_peers(self) -> None:
        """Tell each host who keeps copies of its checkpoints: the next one, so that all have as much to keep."""
        posts = [post for post in self.posts.values() if not post.facts.shared]
        shared = [post for post in self.posts.values() if post.facts.shared]
        for index, post in enumerate(posts):
            if self._setup.place is None:
                # Only what is in the driver's folder is kept; any host that works in it will do.
                peers = [*shared, *([self.home] if self.home is not None else [])]
            else:
                peers = [*posts[index + 1 :], *posts[:index], *shared, *([self.home] if self.home is not None else [])]
            post.outgoing.append(Peers(tuple(peer.key for peer in peers[:3])))

    @property
    def needs_home(self) -> bool:
        """True where a host works elsewhere than in the driver's folder, and none works there."""
        away = any(not post.facts.shared for post in self.posts.values())
        return away and self.home is None and not any(post.facts.shared for post in self.posts.values())

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
        elif isinstance(command, Stop | Evict):
            del self._where[command.trial_id], post.trials[command.trial_id]
        if isinstance(command, HandOn) and self._where.get(command.to) is not post:
            return  # it hears of it by its Continue
        post.outgoing.append(Execute(command))

    def _launch(self, launch: Launch, checkpoint: str | None) -> None:
        post = self._slots.get(launch.slot)
        if not launch.fresh:
            post = self._where.get(launch.trial_id)
        if post is None:
            reason = "its node died before it was started"
            self._ready.append(Lost(launch.trial_id, launch.launch, reason, innocent=True))
            return
        try:
            config = pickle_config(launch.config)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self._ready.append(Failed(launch.trial_id, launch.launch, text, text))
            return
        if launch.trial_id not in post.known:
            post.known.add(launch.trial_id)
            post.outgoing.append(Add(self._infos[launch.trial_id]))
        post.trials[launch.trial_id] = launch.launch
        self._where[launch.trial_id] = post
        folder = ""
        holders: tuple[str, ...] = ()
        if launch.checkpoint is not None and checkpoint is not None:
            folder = Path(checkpoint).parent.name
            holders = self._holders_of(folder, launch.checkpoint.number, but=post)
        post.outgoing.append(Execute(replace(launch, config={}), config, folder, holders))

    def kill(self, trial_id: str, reason: str) -> None:
        """End the process of a trial at once."""
        if (post := self._where.get(trial_id)) is not None:
            post.outgoing.append(Kill(trial_id, reason))

    def end(self, *, at_once: bool) -> None:
        """Have all members end."""
        for post in self.posts.values():
            post.outgoing.append(End(at_once))

    def flush(self) -> None:
        """Send what the hosts have to be told."""
        for post in self._all():
            if post.outgoing:
                orders, post.outgoing = post.outgoing, []
                post.link.send(orders)

    def _all(self) -> Iterable[Post]:
        return [*self.posts.values(), *([self.home] if self.home is not None else [])]

    # ------------------------------------------------------------------------------------------------------- hearing

    def heard(self, key: str, said: bytes) -> list[Event]:
        """Take in what a host has said. Return what the core is told."""
        post = next((post for post in self._all() if post.key == key), None)
        if post is None:
            return []
        events: list[Event] = []
        for message in post.frames.feed(said):
            if isinstance(message, Printed):
                self._print(post, message)
            elif isinstance(message, Held):
                self._holders.setdefault((message.trial_folder, message.number), set()).update(self._away(message.keys))
            elif isinstance(message, Uploaded):
                self._uploaded(message)
            elif isinstance(message, Ended):
                post.ended = True
                if message.error is not None:
                    events += self.leave(key, f"the process that runs its members failed: {message.error}")
            else:
                self._note(post, message)
                events.append(message)
        return events

    def take_ready(self) -> list[Event]:
        """Return what follows from commands that could not be carried out."""
        ready, self._ready = self._ready, []
        return ready

    def _away(self, keys: Iterable[str]) -> set[str]:
        """Of hosts, return those that do not work in the driver's folder."""
        return {key for key in keys if key in self.posts and not self.posts[key].facts.shared}

    def _note(self, post: Post, event: Event) -> None:
        if isinstance(event, Lost):
            if post.trials.pop(event.trial_id, None) is not None:
                del self._where[event.trial_id]
        elif isinstance(event, Reported | Saved) and event.checkpoint is not None and not post.facts.shared:
            folder = Path(self._infos[event.trial_id].folder).name
            self._holders.setdefault((folder, event.checkpoint.number), set()).add(post.key)

    def _print(self, post: Post, line: Printed) -> None:
        self._setup.output(line.name, line.text)
        if self._setup.log_to_file and not post.facts.shared:
            folder = next((info.folder for info in self._infos.values() if info.name == line.name), None)
            if folder is not None:
                with contextlib.suppress(OSError):
                    Path(folder).mkdir(parents=True, exist_ok=True)
                    with Path(folder, "output.log").open("a", encoding="utf-8", errors="replace") as log:
                        log.write(f"{line.text}\n")

    # --------------------------------------------------------------------------------------------------- checkpoints

    def _holders_of(self, trial_folder: str, number: int, *, but: Post) -> tuple[str, ...]:
        """Return the hosts that have a checkpoint, in the order in which to ask them."""
        found = [key for key in self._holders.get((trial_folder, number), ()) if key != but.key]
        if (self._folder / trial_folder / checkpoint_name(number)).is_dir():
            found += [post.key for post in self._all() if post.facts.shared and post is not but]
        return tuple(found)

    def delete(self, trial_folder: str, number: int) -> None:
        """Delete the copies of a checkpoint that are elsewhere than in the driver's folder."""
        for key in self._holders.pop((trial_folder, number), ()):
            if key in self.posts:
                self.posts[key].outgoing.append(Delete(trial_folder, number))

    def upload(self, trial_folder: str, number: int, digest: str, place: Place) -> Future[None] | None:
        """Have a host upload a checkpoint; None where none has it. The order goes with the next :meth:`flush`."""
        for key in self._holders.get((trial_folder, number), ()):
            if (post := self.posts.get(key)) is not None:
                order = next(self._numbers)
                future: Future[None] = Future()
                self._uploads[order] = (key, future)
                post.outgoing.append(Upload(order, trial_folder, number, digest, place.url))
                return future
        return None

    def _uploaded(self, message: Uploaded) -> None:
        _, future = self._uploads.pop(message.number_of_order, ("", None))
        if future is not None:
            if message.error is None:
                future.set_result(None)
            else:
                future.set_exception(message.error)
