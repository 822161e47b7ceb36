"""Looks at an experiment in object storage: its journal is downloaded into a temporary folder, and read from there.

Where a driver on this machine runs it, its working folder is read instead, which is never behind.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path

from .errors import JournalError
from .location import Location, join, location_of, name_of, parent_of

__all__ = ["Followed", "NothingThere", "View", "find_urls"]

_SILENT_S = 60.0
"""A driver whose heartbeat has not changed for so long is taken to be dead, or cut off from storage."""
_COPIES_AT_ONCE = 8
_NAMED = 8
_FOLDERS = 2000
"""So many folders are looked into for experiments, at most."""
_INSIDE_S = 5.0
"""So long it is looked which experiments are in a folder, for a message."""
_END = 256 << 10
"""Bytes of the end of a text that is looked at: a few thousand lines."""
_LISTED_S = 5.0
"""So long a list of checkpoints is new enough."""


class NothingThere(JournalError):
    """There is no experiment of this URL."""


class View:
    """What was downloaded of an experiment; use :meth:`open`.

    Args:
        location: where the experiment is.
        folder: where its journal lies on this machine.
        outer: the temporary folder around that; None where it is the working folder.
    """

    def __init__(self, location: Location, folder: Path, outer: str | None) -> None:
        from .storage.place import Place

        assert location.url is not None
        self.url = location.url
        self.folder = folder
        self._location = location
        self._place = Place(location.url)
        self._outer = outer
        self._owner = os.getpid()
        self._heard: tuple[int, float] | None = None
        """The driver's last heartbeat, and when that was seen first, by ``time.monotonic()``."""
        self._listed: dict[str, tuple[float, frozenset[int]]] = {}

    @classmethod
    def open(cls, location: Location, *, furthest: bool = False) -> View:
        """Download the journal of an experiment, or find it on this machine.

        Args:
            location: where it is; with a URL.
            furthest: whether a working folder that nobody uses counts where it is as far as storage, or further.

        Raises:
            NothingThere: there is no such experiment.
            JournalError: it is damaged.
            ConfigError: the kind of URL is not known, or a package is missing.
            StorageError: storage cannot be read.
        """
        from .reading import is_experiment, is_locked
        from .storage import shipping

        here = location.folder
        view = cls(location, here, None)
        if is_experiment(here) and is_locked(here):
            return view
        if not shipping.is_there(view._place):
            if furthest and is_experiment(here):
                return view
            raise NothingThere(f"There is no experiment {location}.{_inside(location.url)}")
        if furthest and is_experiment(here) and shipping.relation(view._place, here) in ("same", "further"):
            return view
        if furthest and (kept := _take_kept(view.url)) is not None:
            with contextlib.suppress(JournalError):  # then all of it is downloaded anew
                kept.refresh()
                return kept
            kept.close()
        view._fetch()
        return view

    def _fetch(self) -> None:
        """Download the journal."""
        from .scratch import make_temporary
        from .storage import shipping

        self._outer, self._owner = make_temporary("view_"), os.getpid()
        self.folder = Path(self._outer, self._location.name)
        try:
            self.folder.mkdir()
            shipping.fetch(self._place, self.folder)
        except BaseException:
            self.close()
            raise

    def refresh(self) -> Path:
        """Download what is new. Return the folder with the journal, which may be another one now.

        Raises:
            JournalError: it is gone or damaged.
            StorageError: storage cannot be read.
        """
        from .reading import is_experiment
        from .storage import shipping

        if self._outer is not None and self.folder.is_dir():
            shipping.refresh(self._place, self.folder)
        elif self._outer is not None or not is_experiment(self.folder):
            self._fetch()  # the run on this machine has ended, and its working folder is gone
        return self.folder

    def is_running(self) -> bool:
        """Return whether a driver runs the experiment now, as far as that can be told from here."""
        from .reading import is_running
        from .storage import shipping

        if is_running(self._location.folder):
            return True
        found = shipping.look(self._place)
        alive = None if found is None else found.alive
        if alive is None or alive.ended:
            return False
        now = time.monotonic()
        if self._heard is None:
            # By the driver's clock, because nothing else is known yet.
            self._heard = (alive.counter, now - max(0.0, time.time() - alive.at))
        elif self._heard[0] != alive.counter:
            self._heard = (alive.counter, now)
        return now - self._heard[1] < max(_SILENT_S, 10 * alive.every_s)

    def driver(self) -> tuple[int, str] | None:
        """Return process and host of who runs the experiment elsewhere, or ran it last, as storage tells; or None."""
        from .storage import shipping

        if self._outer is None:
            return None
        found = shipping.look(self._place)
        return None if found is None or found.alive is None else (found.alive.process, found.alive.host)

    def checkpoints(self, trial_folder: str) -> frozenset[int]:
        """Return the numbers of a trial's checkpoints that are there; what was seen seconds ago counts.

        Raises:
            StorageError: storage cannot be read.
        """
        from .storage.transfer import list_checkpoints

        now = time.monotonic()
        at, found = self._listed.get(trial_folder, (-1e9, frozenset[int]()))
        if now - at > _LISTED_S:
            found = frozenset(list_checkpoints(self._place / trial_folder))
            self._listed[trial_folder] = (now, found)
        return found

    def fetch_end(self, trial_folder: str, name: str) -> None:
        """Download the end of a text of a trial to where it would be beside the journal, if it is there.

        Raises:
            StorageError: storage cannot be read.
        """
        if self._outer is None:
            return  # it is there
        from .storage.fetching import read_end
        from .storage.transfer import key_of

        data = read_end(join(self.url, key_of(f"{trial_folder}/{name}")), _END)
        if data is not None:
            folder = self.folder / trial_folder
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

    @property
    def has_copy(self) -> bool:
        """Whether there is a copy that this process has downloaded."""
        return self._outer is not None and self._owner == os.getpid()

    def close(self) -> None:
        """Delete what was downloaded."""
        from .scratch import remove_temporary

        outer, self._outer = self._outer, None
        if outer is not None and os.getpid() == self._owner:
            remove_temporary(outer)

    @contextlib.contextmanager
    def kept(self) -> Generator[Path]:
        """Give the folder, for reading, and keep the copy afterwards: this process may look again, or go on with it."""
        global _kept
        try:
            yield self.folder
        finally:
            if self._outer is not None:
                before, _kept = _kept, self
                if before is not None and before is not self:
                    before.close()


_kept: View | None = None
"""The one that was downloaded last by somebody who may go on with the experiment."""


def _take_kept(url: str) -> View | None:
    """Return the view of an experiment that was kept, which is kept no longer; None where there is none."""
    global _kept
    found = _kept
    if found is None or found.url != url or not found.has_copy:
        return None
    _kept = None
    return found


def give_copy(location: Location, folder: Path) -> bool:
    """Put a copy of an experiment's journal that this process has downloaded into a folder. Return whether it had one.

    Args:
        location: where the experiment is.
        folder: where the copy goes; nobody has a journal open there.
    """
    import shutil

    from .journal import JOURNAL_NAME
    from .storage.shipping import COPY_NAME

    kept = None if location.url is None else _take_kept(location.url)
    if kept is None:
        return False
    try:
        for name in (JOURNAL_NAME, COPY_NAME):
            shutil.copyfile(kept.folder / name, folder / name)
    except OSError:
        return False
    finally:
        kept.close()
    return True


class Followed:
    """A folder of this machine with copies of the journals of experiments in object storage, kept up to date.

    What looks at folders can look at them, the dashboard for example. The other files are not there.

    Args:
        url: a folder with experiments, or one experiment.
        every_s: seconds between two looks.
    """

    def __init__(self, url: str, every_s: float = 3.0) -> None:
        from .scratch import make_temporary
        from .storage import shipping
        from .storage.place import Place

        self.url = url.rstrip("/")
        self._every_s = every_s
        single = bool(name_of(url)) and shipping.is_there(Place(url))
        self._root = parent_of(self.url) if single else url
        self._outer = Path(make_temporary("followed_"))
        self._names: list[str] | None = [name_of(url)] if single else None
        self._seen: dict[str, tuple[object, float]] = {}
        self._ended = threading.Event()
        self.folder = self._outer / name_of(url) if single else self._outer
        """The folder with the copies; of one experiment, its own."""
        self.refresh()
        threading.Thread(target=self._follow, name="shoal-follow", daemon=True).start()

    def place_of(self, folder: Path) -> str:
        """Return the URL of an experiment, given the folder with its copy."""
        return join(self._root, folder.name)

    def close(self) -> None:
        """Follow them no longer."""
        self._ended.set()

    def refresh(self) -> None:
        """Download what is new.

        Raises:
            ConfigError: the kind of URL is not known, or a package is missing.
            StorageError: storage cannot be read.
        """
        from .storage.workers import Workers

        failed: list[OSError] = []
        names = [name_of(each) for each in find_urls(self._root)] if self._names is None else self._names
        workers = Workers(_COPIES_AT_ONCE, "shoal-follow")
        try:
            for each in [workers.submit(partial(self._bring, name)) for name in names]:
                try:
                    each.result()
                except JournalError:
                    continue  # one that is damaged: the others are shown
                except OSError as error:
                    failed.append(error)  # one that this user may not read, for example: likewise
        finally:
            workers.close()
        if failed and len(failed) == len(names):
            raise failed[0]

    def _bring(self, name: str) -> None:
        from .reading import mark_running
        from .storage import shipping
        from .storage.place import Place

        place, folder = Place(join(self._root, name)), self._outer / name
        found = shipping.look(place)
        if found is None:
            return
        beat = (None if found.alive is None else found.alive.counter, found.seq)
        before, since = self._seen.get(name, (None, 0.0))
        if beat != before:
            shipping.refresh(place, folder)
            since = time.time() if before is not None or found.alive is None else found.alive.at
            self._seen[name] = (beat, since)
        running = found.alive is not None and not found.alive.ended
        mark_running(folder, since + _SILENT_S if running else 0.0)

    def _follow(self) -> None:
        while not self._ended.wait(self._every_s):
            with contextlib.suppress(Exception):  # storage is away: what is there is shown
                self.refresh()


def _inside(url: str | None) -> str:
    """Return which experiments are in a folder that is none itself, for a message."""
    from .storage.workers import Workers

    found: list[str] = []
    worker = Workers(1, "shoal-inside")
    try:
        with contextlib.suppress(Exception):
            found = [name_of(each) for each in worker.submit(partial(find_urls, str(url))).result(_INSIDE_S)]
    finally:
        worker.close()
    if not found:
        return ""
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f" It is a folder with some: {', '.join(found[:_NAMED])}{more}. Give the URL of one of them."


def find_urls(root: str) -> list[str]:
    """Return the URLs of the experiments in a folder of object storage; itself, where it is one. Newest first.

    Those that are damaged, or cannot be read, are among them, as the last ones. Of a folder with very many folders only
    some are looked into.

    Raises:
        ConfigError: the kind of URL is not known, or a package is missing.
        StorageError: storage cannot be read: not the folder, or nothing that is in it.
    """
    from .storage import shipping
    from .storage.place import Place
    from .storage.workers import Workers

    place = Place(root)
    with contextlib.suppress(Exception):
        if shipping.is_there(place):
            return [location_of(root).url or root]
    names = place.list_folders()[:_FOLDERS]
    workers = Workers(_COPIES_AT_ONCE, "shoal-look")
    try:
        found = [each.result() for each in [workers.submit(partial(_begun, place / name)) for name in names]]
    finally:
        workers.close()
    failed = [each for each in found if isinstance(each, OSError)]
    if failed and len(failed) == len(names):
        raise failed[0]
    begun = [0.0 if isinstance(each, OSError) else each for each in found]
    there = [(at, str(place / name)) for name, at in zip(names, begun, strict=True) if at is not None]
    return [url for _, url in sorted(there, key=lambda pair: (-pair[0], pair[1]))]


def _begun(place: object) -> float | OSError | None:
    """Return when an experiment began; 0 where it is damaged, what is wrong where it cannot be read, None for none."""
    from .storage import shipping
    from .storage.place import Place

    assert isinstance(place, Place)
    try:
        found = shipping.look(place)
        return None if found is None else float(found.facts.get("started_at") or 0.0)
    except (JournalError, TypeError, ValueError):
        return 0.0
    except OSError as error:
        return error
