"""The checkpoints in a host's folder: which are there, and how others get there and away.

A host has its own folder of the experiment unless it works in the driver's. So the same checkpoint may be on several
hosts, and a name may stand for different ones: a process that has died with its node may have saved a checkpoint that
was told to nobody, of which there is a copy here, and who takes its place saves another of the same number. Therefore a
checkpoint counts as being here only with its digest, and what comes late from an earlier life of a trial is refused.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias

from ..checkpoints.depot import LocalDepot
from ..checkpoints.store import damage, is_full
from ..core.commands import checkpoint_name
from ..errors import StorageError
from ..patience import storage_patience_s
from .copies import PIECE, Offer, Piece, bring, read_piece

__all__ = ["Neighbours", "Stock", "has_answered", "patience_for"]

_Key: TypeAlias = tuple[str, int]
"""Of a checkpoint: the trial's folder, and its number there."""
_PATIENCE_S = 60.0
"""So long a neighbour may take for what costs no time."""
_SLOWEST = 8 << 20
"""Bytes per second of the slowest network that is waited for."""
_AWAY_S = 30.0
"""So long it is tried again to reach neighbours that have a checkpoint and cannot be reached."""
_AGAIN_S = 1.0
_MANY = 1000


def patience_for(size: int) -> float:
    """Return for how many seconds a neighbour is waited for that has to send, or to take, so many bytes."""
    return _PATIENCE_S + size / _SLOWEST


def has_answered(error: BaseException) -> bool:
    """Return whether somebody who was asked for a checkpoint has said that it cannot be had there."""
    return isinstance(error, FileNotFoundError | StorageError)


class Neighbours(Protocol):
    """The other hosts, as this one reaches them.

    All calls wait, for ``patience_s`` seconds at most. They raise where there was no answer until then, or the other
    cannot be reached, or what it raised.
    """

    def piece(self, key: str, trial_folder: str, number: int, index: int, patience_s: float) -> Piece:
        """Return a piece of a checkpoint that another host has."""
        ...

    def keep(self, key: str, offer: Offer, patience_s: float) -> None:
        """Have another host make a copy of a checkpoint of this one. Returns when it has."""
        ...


class Stock:
    """The checkpoints of an experiment on this machine. All methods may be called in any thread.

    Args:
        folder: the experiment's, here.
        neighbours: from whom others can be fetched.
        place: the URL that checkpoints are kept at, or None.
        wait: waits for so many seconds; returns True where the experiment has ended meanwhile.
    """

    def __init__(self, folder: Path, neighbours: Neighbours, place: str | None, wait: Callable[[float], bool]) -> None:
        self._folder = folder
        self._neighbours = neighbours
        self._place = place
        self._wait = wait
        self._depot = LocalDepot(folder, compares=True)
        self._changed = threading.Condition()
        self._there: dict[_Key, str] = {}
        """The digests of those that are known to be here."""
        self._many = _MANY
        """When to look which of them are still here."""
        self._busy: set[_Key] = set()
        """Those that are being written here."""
        self._doomed: set[_Key] = set()
        """Those of them that were to be deleted meanwhile."""
        self._launches: dict[str, int] = {}
        """The newest launch of each trial that was heard of, by its folder."""

    def path(self, trial_folder: str, number: int) -> Path:
        """Return where a checkpoint is, or would be."""
        return self._folder / trial_folder / checkpoint_name(number)

    # ----------------------------------------------------------------------------------------------- what is here

    def launched(self, trial_folder: str, launch: int) -> None:
        """A trial was launched here: what an earlier launch of it has saved elsewhere is of no interest any more."""
        with self._changed:
            self._launches[trial_folder] = max(launch, self._launches.get(trial_folder, 0))

    def saved(self, trial_folder: str, number: int, digest: str) -> None:
        """A checkpoint is here: a member has saved it, or it has arrived."""
        with self._changed:
            self._there[trial_folder, number] = digest
            if len(self._there) > self._many:
                # In the driver's folder it is the driver that deletes.
                self._there = {key: digest for key, digest in self._there.items() if self.path(*key).is_dir()}
                self._many = 2 * len(self._there) + _MANY

    def has(self, trial_folder: str, number: int, digest: str) -> bool:
        """Return whether a checkpoint is known to be here. Reads no file of it."""
        with self._changed:
            known = self._there.get((trial_folder, number)) == digest
        return known and self.path(trial_folder, number).is_dir()

    def piece(self, trial_folder: str, number: int, index: int) -> Piece:
        """Return a piece of a checkpoint that is here.

        Raises:
            OSError: it is not.
        """
        return read_piece(self._folder / trial_folder / checkpoint_name(number), index)

    def delete(self, trial_folder: str, number: int) -> None:
        """Delete a checkpoint; one that is on its way here, or to storage, is deleted as soon as it has arrived."""
        with self._changed:
            self._there.pop((trial_folder, number), None)
            if (trial_folder, number) in self._busy:
                self._doomed.add((trial_folder, number))
                return
        with contextlib.suppress(OSError):  # the folder goes in the end
            self._depot.delete(trial_folder, number)

    def close(self) -> None:
        """Copy nothing more."""
        self._depot.close()

    # -------------------------------------------------------------------------------------------- to here, and away

    def upload(self, trial_folder: str, number: int, digest: str, url: str) -> Future[None]:
        """Copy a checkpoint to storage; see :meth:`shoal.checkpoints.depot.Depot.upload`.

        Raises:
            Exception: this machine cannot use that storage.
        """
        from ..storage.place import Place

        return self._depot.upload(trial_folder, number, digest, Place(url))

    def keep(self, offer: Offer) -> None:
        """Make a copy of a checkpoint that another host has.

        Raises:
            StorageError: it cannot be written here, or a later launch of that trial is known.
            Exception: the other cannot be reached any more.
        """

        @contextlib.contextmanager
        def current() -> Generator[None, None, None]:
            with self._changed:
                if offer.launch < self._launches.get(offer.trial_folder, 0):
                    raise StorageError(f"Launch {offer.launch} of {offer.trial_folder} is over, and what it has saved.")
                yield

        with current():
            self._launches[offer.trial_folder] = offer.launch
        first = offer.first
        self._bring(offer.owner, offer.trial_folder, offer.number, offer.digest, lambda: first, current)

    def fetch(self, trial_folder: str, number: int, digest: str, holders: tuple[str, ...]) -> BaseException | None:
        """Bring a checkpoint here: from another host's memory, or else from storage. Return why it could not be.

        A neighbour that cannot be reached is asked again for a while, and so is storage. Where neither has it, but a
        neighbour did not answer, that is the reason.

        Args:
            trial_folder: the name of the folder of the trial that has saved it.
            number: the checkpoint's.
            digest: what it must have.
            holders: hosts that have it.
        """
        if self._is_here(trial_folder, number, digest):
            self.saved(trial_folder, number, digest)
            return None
        why: BaseException | None = None
        end = time.monotonic() + _AWAY_S
        while True:
            away: BaseException | None = None
            for key in holders:
                why = self._try(partial(self._fetch_from, key, trial_folder, number, digest))
                if why is None or is_full(why):
                    return why
                away = away if has_answered(why) else why
            if self._place is not None:
                why = self._try(partial(self._download, trial_folder, number, digest))
                if not isinstance(why, FileNotFoundError):
                    return why
            if away is None or time.monotonic() > end or self._wait(_AGAIN_S):
                return away or why or FileNotFoundError(f"nobody has {trial_folder}/{checkpoint_name(number)}")

    def _is_here(self, trial_folder: str, number: int, digest: str) -> bool:
        """Return whether a checkpoint is here. Reads its files where that is not known."""
        known = self.has(trial_folder, number, digest)
        return known or damage(self.path(trial_folder, number), digest) is None

    @staticmethod
    def _try(call: Callable[[], None]) -> BaseException | None:
        try:
            call()
        except Exception as error:
            return error
        return None

    def _fetch_from(self, key: str, trial_folder: str, number: int, digest: str) -> None:
        def first() -> Piece:
            return self._neighbours.piece(key, trial_folder, number, 0, patience_for(PIECE))

        self._bring(key, trial_folder, number, digest, first, contextlib.nullcontext)

    def _bring(
        self,
        key: str,
        trial_folder: str,
        number: int,
        digest: str,
        first: Callable[[], Piece],
        wanted: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        """Bring a checkpoint here from another host, unless somebody else has done so meanwhile."""
        with self._alone((trial_folder, number)):
            if not self._is_here(trial_folder, number, digest):
                bring(
                    self._folder,
                    trial_folder,
                    number,
                    digest,
                    first(),
                    lambda index: self._neighbours.piece(key, trial_folder, number, index, patience_for(PIECE)),
                    wanted=wanted,
                )
            self.saved(trial_folder, number, digest)

    def _download(self, trial_folder: str, number: int, digest: str) -> None:
        from ..storage.place import Place
        from ..storage.transfer import download_checkpoint
        from ..storage.trying import retrying

        def sleep(seconds: float) -> None:
            if self._wait(seconds):
                raise StorageError("The experiment has ended.")

        assert self._place is not None
        place = Place(self._place) / trial_folder / checkpoint_name(number)
        with self._alone((trial_folder, number)):
            if not self._is_here(trial_folder, number, digest):
                folder = self.path(trial_folder, number)
                retrying(
                    lambda: download_checkpoint(place, folder, digest), patience_s=storage_patience_s(), sleep=sleep
                )
            self.saved(trial_folder, number, digest)

    @contextlib.contextmanager
    def _alone(self, key: _Key) -> Generator[None, None, None]:
        """Let one at a time write a checkpoint: several trials may go on from the same at once."""
        with self._changed:
            while key in self._busy:
                self._changed.wait()
            self._busy.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._busy.discard(key)
                doomed = key in self._doomed
                self._doomed.discard(key)
                self._changed.notify_all()
            if doomed:
                self.delete(*key)
