"""Fetches what is in object storage only: checkpoints for members to go on from, and for whoever looks.

A restore on another machine begins with nothing but the journal. :class:`FetchingEngine` stands around an engine of
this machine and downloads a checkpoint when a member is about to go on from it, so that members can begin as soon as
their own is there.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.store import is_full
from ..core.commands import Continue, HandOn, Launch, Save, WindUp
from ..core.events import Event, Failed, Lost
from ..errors import ConfigError, StorageError, one_line
from ..patience import storage_patience_s
from .place import Place
from .transfer import DamagedCopy, download_checkpoint, read_manifest, safe_name
from .trying import PlaceError, passes, retrying
from .workers import Workers, each

if TYPE_CHECKING:
    from ..engines import Engine, EngineCommand, EngineSetup
    from ..worker.wire import MemberInfo

__all__ = ["FetchingEngine", "download", "read_end", "read_file", "write_file"]

_AT_A_TIME = 4
"""Downloads; each of them uses several connections where it has several files."""
_LOOK_EVERY_S = 0.05
"""How often to look whether a download is done, where the engine cannot be woken."""


_LOOKING_S = 20.0
"""So long somebody who looks at something is made to wait for storage that does not answer."""


@dataclass(slots=True)
class _Waiting:
    """A trial whose checkpoint is being downloaded, and what it is to do when that is done."""

    launch: int
    download: Future[None]
    commands: deque[tuple[EngineCommand, str | None]] = field(default_factory=deque["tuple[EngineCommand, str | None]"])


class FetchingEngine:
    """See :class:`shoal.engines.Engine`. A ``Launch`` waits until its checkpoint is on this machine.

    What is to be done for that trial meanwhile keeps its order. A checkpoint that storage lacks or does not give is no
    error here: the member finds that it is gone, and the core decides. Where storage gives none at all, that is one.

    Args:
        engine: carries the commands out; one whose members live on this machine.
        folder: the experiment's folder on this machine.
        place: where the experiment is kept.
        fetch: downloads a checkpoint, given by its place, into a folder, given its digest; FileNotFoundError where
            there is none.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        place: Place,
        fetch: Callable[[Place, Path, str], None] | None = None,
    ) -> None:
        self._engine = engine
        self._folder = folder
        self._place = place
        self._fetch = fetch or download_checkpoint
        self._closed = threading.Event()
        self._workers = Workers(_AT_A_TIME, "shoal-fetch")
        self._downloads: dict[str, Future[None]] = {}
        """Those that go on, by the folders of their checkpoints."""
        self._waiting: dict[str, _Waiting] = {}
        self._events: list[Event] = []
        self._came = False
        """Whether storage has given a checkpoint."""

    def start(self, setup: EngineSetup) -> None:
        """Get ready to run members."""
        self._engine.start(setup)

    def add(self, info: MemberInfo) -> None:
        """A trial was added."""
        self._engine.add(info)

    def execute(self, command: EngineCommand, checkpoint: str | None) -> None:
        """Carry a command out, or remember it where the trial waits for its checkpoint."""
        waiting = self._waiting.get(command.trial_id)
        if isinstance(command, Launch) and checkpoint is not None and not Path(checkpoint).is_dir():
            # What was queued behind an earlier launch is of that launch, which this one ends.
            waiting = self._waiting[command.trial_id] = _Waiting(command.launch, self._begin(command, Path(checkpoint)))
        elif waiting is not None and isinstance(command, Launch):
            del self._waiting[command.trial_id]
            waiting = None
        if isinstance(command, HandOn) and (waiting is not None or command.to in self._waiting):
            return  # the driver tells, when it comes to that
        if waiting is None:
            self._engine.execute(command, checkpoint)
        elif isinstance(command, (Launch, Continue, Save)):
            waiting.commands.append((command, checkpoint))
        elif isinstance(command, WindUp):
            del self._waiting[command.trial_id]
            self._events.append(Lost(command.trial_id, command.launch, "its checkpoint was still being downloaded"))
        else:
            del self._waiting[command.trial_id]
            self._engine.execute(command, checkpoint)

    def kill(self, trial_id: str, reason: str) -> None:
        """End the process of a trial at once."""
        waiting = self._waiting.pop(trial_id, None)
        if waiting is not None:
            self._events.append(Lost(trial_id, waiting.launch, reason))
        self._engine.kill(trial_id, reason)

    def poll(self, timeout: float) -> list[Event]:
        """Return what has happened, in order.

        Raises:
            StorageError: storage is away for too long, or gives no checkpoint at all.
        """
        self._go_on()
        events, self._events = self._events, []
        if events:
            timeout = 0.0
        elif self._waiting and not hasattr(self._engine, "wake"):
            timeout = min(timeout, _LOOK_EVERY_S)
        return events + self._engine.poll(timeout)

    def close(self, *, at_once: bool = False) -> None:
        """End all members; downloads that have not begun are given up, and others end by themselves."""
        self._waiting.clear()
        self._closed.set()
        self._workers.close()
        self._engine.close(at_once=at_once)

    def _begin(self, launch: Launch, folder: Path) -> Future[None]:
        """Have a checkpoint downloaded, once for all who go on from it."""
        known = self._downloads.get(str(folder))
        if known is not None:
            return known
        assert launch.checkpoint is not None
        place = self._place / folder.parent.name / folder.name
        future = self._workers.submit(partial(self._download, place, folder, launch.checkpoint.digest))
        future.add_done_callback(self._wake)
        self._downloads[str(folder)] = future
        return future

    def _wake(self, _: object) -> None:
        wake = getattr(self._engine, "wake", None)
        if wake is not None and not self._closed.is_set():
            wake()

    def _download(self, place: Place, folder: Path, digest: str) -> None:
        """Download a checkpoint, in a thread; try again as long as storage may come back."""
        with contextlib.suppress(FileNotFoundError, DamagedCopy):  # the member finds that it is not there
            retrying(partial(self._fetch, place, folder, digest), patience_s=storage_patience_s(), sleep=self._wait)
            self._came = True

    def _wait(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise StorageError("The run has ended.")

    def _go_on(self) -> None:
        """Carry out what waited for checkpoints that are here by now."""
        if not self._waiting:
            return
        some_on_their_way = any(not waiting.download.done() for waiting in self._waiting.values())
        for trial_id, waiting in list(self._waiting.items()):
            if not waiting.download.done():
                continue
            error = waiting.download.exception()
            if error is not None and is_full(error):
                del self._waiting[trial_id]
                text = one_line(error)
                self._events.append(Failed(trial_id, waiting.launch, text, text, no_room=True))
                continue
            if error is not None and not (self._came and isinstance(error, PlaceError) and not error.passes):
                if some_on_their_way and not passes(error):
                    continue  # whether storage gives others is not known yet
                raise StorageError(self._how_to_go_on(error)) from error
            del self._waiting[trial_id]
            for command, checkpoint in waiting.commands:
                self._engine.execute(command, checkpoint)
        self._downloads = {path: future for path, future in self._downloads.items() if not future.done()}

    def _how_to_go_on(self, error: BaseException) -> str:
        said = str(error).rstrip(".") if isinstance(error, StorageError) else one_line(error)
        return (
            f"{said}. Members cannot go on without their checkpoints. Nothing that was reported is lost: when that is "
            f"mended, go on with tune.Tuner.restore({self._place.url!r}, trainable).fit()"
        )


# ------------------------------------------------------------------------------------------------------ for who looks


def download(url: str, folder: Path, digest: str | None = None) -> None:
    """Download a checkpoint, or another folder of files, where there is no manifest of it.

    Args:
        url: where it is.
        folder: where its files go; it does not exist yet.
        digest: that its files must have; None: as its manifest says, where it has one.

    Raises:
        ConfigError: there is nothing.
        StorageError: it cannot be read, or is not what was saved.
    """
    place = Place(url)
    if digest is not None or read_manifest(place) is not None:
        try:
            download_checkpoint(place, folder, digest)
        except FileNotFoundError as error:
            raise ConfigError(f"Checkpoint: {url} does not exist, or no longer.") from error
        return
    names = retrying(place.list_sizes, patience_s=_LOOKING_S)
    if not names:
        raise ConfigError(f"Checkpoint: {url} does not exist. A checkpoint is a folder that holds its files.")
    for name in names:
        if not safe_name(name):
            raise StorageError(f"{url} holds a file with the name {name!r}, which cannot be one of a checkpoint.")
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    each(
        partial(retrying, partial((place / name).download_file, folder / name), patience_s=_LOOKING_S) for name in names
    )


def read_file(url: str) -> bytes | None:
    """Return what is in a small file in storage; None where there is none.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        return retrying(Place(url).read_bytes, patience_s=_LOOKING_S)
    except FileNotFoundError:
        return None


def read_end(url: str, limit: int) -> bytes | None:
    """Return the last whole lines of a text in storage; None where there is none.

    Args:
        url: where it is.
        limit: so many bytes at most.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        data, start = retrying(partial(Place(url).read_end, limit), patience_s=_LOOKING_S)
    except FileNotFoundError:
        return None
    return data[data.find(b"\n") + 1 :] if start else data


def write_file(url: str, data: bytes) -> None:
    """Write a small file in storage, in place of one that is there.

    Raises:
        StorageError: it cannot be written.
    """
    retrying(partial(Place(url).write_bytes, data), patience_s=_LOOKING_S)
