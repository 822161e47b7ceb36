"""Where the checkpoints of a running experiment lie: the driver has them deleted there, and copied to storage."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..core.commands import checkpoint_name
from ..errors import StorageError
from ..patience import uploads_at_once
from . import store

if TYPE_CHECKING:
    from ..storage.place import Place
    from ..storage.workers import Workers

__all__ = ["Depot", "LocalDepot"]

_LARGE = 16 << 20
"""Of a file with so many bytes several parts are sent at the same time."""
_LARGE_AT_ONCE = 4


class Depot(Protocol):
    """Has the committed checkpoints of an experiment, on this machine or on others.

    It may have an attribute ``moved``: a number that grows whenever something has arrived in storage, also of what is
    only being uploaded; and a method ``stop``, after which nothing more is written there: what is being uploaded ends
    with the file that it is at.
    """

    def delete(self, trial_folder: str, number: int) -> None:
        """Delete a checkpoint; one that is not there is no error. This never waits long.

        Args:
            trial_folder: name of the trial's folder in the experiment's.
            number: the checkpoint's.
        """
        ...

    def upload(self, trial_folder: str, number: int, digest: str, place: Place) -> Future[None]:
        """Have a checkpoint copied to storage. Called from any thread.

        From this call on until the future is done the checkpoint is not deleted: that is done afterwards.

        Args:
            trial_folder: name of the trial's folder in the experiment's.
            number: the checkpoint's.
            digest: as in the journal.
            place: where it goes, ``.../checkpoint_000004``.

        Returns:
            A future; its error is FileNotFoundError where there is no such checkpoint any more, and any other where it
            could not be copied: the same call may succeed later.
        """
        ...

    def close(self) -> None:
        """Copy nothing more. What is being copied is not waited for."""
        ...


class LocalDepot:
    """The checkpoints in this machine's folder of an experiment.

    Args:
        folder: the experiment's.
        workers: what copies; default: a few threads of its own.
        compares: whether the files are read first, and compared with the digest: where several machines have
            checkpoints, one of that number may be here that a process has saved which died, and nobody was told of.
    """

    def __init__(self, folder: Path, workers: Workers | None = None, *, compares: bool = False) -> None:
        self._folder = folder
        self._compares = compares
        self._workers = workers
        self._lock = threading.Lock()
        self._uploading: dict[tuple[str, int], int] = {}
        """How many uploads there are of a checkpoint."""
        self._doomed: set[tuple[str, int]] = set()
        """Those that are to be deleted when they are uploaded."""
        self._sent: dict[tuple[str, int, str], set[str]] = {}
        """Files that are in storage already, of checkpoints whose upload has failed half-way."""
        self._large = threading.BoundedSemaphore(_LARGE_AT_ONCE)
        self._stopped = threading.Event()
        self.moved = 0
        """Grows whenever something has arrived in storage."""

    def delete(self, trial_folder: str, number: int) -> None:
        """See :class:`Depot`."""
        with self._lock:
            if (trial_folder, number) in self._uploading:
                self._doomed.add((trial_folder, number))
                return
            self._forget((trial_folder, number))
        store.delete(self._folder / trial_folder, number)

    def upload(self, trial_folder: str, number: int, digest: str, place: Place) -> Future[None]:
        """See :class:`Depot`."""
        key = (trial_folder, number)
        with self._lock:
            if self._workers is None:
                from ..storage.workers import Workers

                self._workers = Workers(uploads_at_once(), "shoal-upload")
            # The name is gone at once when it is deleted, so whoever finds it here has it to the end.
            self._uploading[key] = self._uploading.get(key, 0) + 1
        try:
            future = self._workers.submit(partial(self._carry_out, key, digest, place))
        except RuntimeError:  # they are closed
            self._uploaded(key)
            raise
        future.add_done_callback(lambda done: self._uploaded(key) if done.cancelled() else None)
        return future

    def stop(self) -> None:
        """See :class:`Depot`: the experiment is another driver's, which may give the same numbers."""
        self._stopped.set()

    def close(self) -> None:
        """See :class:`Depot`."""
        with self._lock:
            workers = self._workers
        if workers is not None:
            workers.close()

    def _carry_out(self, key: tuple[str, int], digest: str, place: Place) -> None:
        try:
            self._upload(key, digest, place)
        finally:
            self._uploaded(key)  # before anybody hears of it

    def _upload(self, key: tuple[str, int], digest: str, place: Place) -> None:
        from ..storage.transfer import upload_checkpoint

        folder = self._folder / key[0] / checkpoint_name(key[1])
        if self._compares and (found := store.damage(folder, digest)) is not None:
            raise FileNotFoundError(f"{folder} is not the checkpoint of the journal: {found}")
        with self._lock:
            sent = self._sent.setdefault((*key, digest), set())
        with self._large if _is_large(folder) else contextlib.nullcontext():
            upload_checkpoint(folder, place, digest, sent=sent, moved=self._has_moved, check=self._check)
        with self._lock:
            self._sent.pop((*key, digest), None)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise StorageError("Nothing more is copied.")

    def _has_moved(self) -> None:
        with self._lock:
            self.moved += 1

    def _uploaded(self, key: tuple[str, int]) -> None:
        """An upload has ended, however it did."""
        with self._lock:
            left = self._uploading[key] - 1
            if left:
                self._uploading[key] = left
                return
            del self._uploading[key]
            doomed = key in self._doomed
            self._doomed.discard(key)
            if doomed:
                self._forget(key)
        if doomed:
            with contextlib.suppress(OSError):  # the sweep at the end of the run tries again
                store.delete(self._folder / key[0], key[1])

    def _forget(self, key: tuple[str, int]) -> None:
        """Forget what was sent of a checkpoint that is deleted."""
        if any(known[:2] == key for known in self._sent):
            self._sent = {known: names for known, names in self._sent.items() if known[:2] != key}


def _is_large(folder: Path) -> bool:
    """Return whether a checkpoint has a large file."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                if os.stat(os.path.join(parent, name)).st_size >= _LARGE:
                    return True
    return False
