"""The working folder of an experiment that is kept in object storage; see :mod:`shoal.location`."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import warn_user
from .checkpoints.store import is_full
from .errors import ExperimentExists, JournalError, StorageError
from .location import Location, cache_folder

if TYPE_CHECKING:
    from .storage.place import Place

__all__ = ["bring", "check_new", "discard", "discard_copied", "forget", "sweep_cache"]

UNUSED_DAYS = 30
"""So long a working folder is kept that nobody uses."""
_WORKING = re.compile(r"[0-9a-f]{16}")
_NAMED = 5


def check_new(location: Location) -> None:
    """Make sure that storage can be used, and has nothing of a new experiment yet.

    Raises:
        ConfigError: the kind of URL is not known, or a package is missing.
        ExperimentExists: there is something of that name.
        StorageError: there is no such bucket, there are no credentials for it, or it cannot be written.
    """
    from .storage import shipping
    from .storage.place import Place

    assert location.url is not None
    place = Place(location.url)
    place.check_writable()
    if not _names_that_count(place):
        return
    found = shipping.begun(place)
    try:
        shipping.check_free(place)
    except JournalError as error:
        raise ExperimentExists(f"{error} To run another one beside it, give RunConfig another name.") from error
    if found is None or found.seq:
        raise ExperimentExists(
            f"{location} already holds an experiment or other files, which Shoal will not mix with a new one. Give "
            f"RunConfig another name (or none: then it has the time in it), or go on with it: "
            f"tune.Tuner.restore({location.url!r}, trainable)."
        )
    place.delete(recursive=True)  # its driver was killed before anything had begun


def _names_that_count(place: Place) -> list[str]:
    """Return the names in a folder of storage, without what drivers have left that were killed while they wrote it."""
    from .storage.place import PROBE

    names = [name for name in place.list_names() if not re.fullmatch(PROBE, name)]
    return [] if names == ["journal"] and not (place / "journal").list_sizes() else names


def bring(location: Location) -> None:
    """Make the working folder hold an experiment from storage, so that a driver can go on with it.

    What is there already counts where it is the same experiment and as far as storage, or further, and has the
    checkpoints that storage lacks: on a cluster they may have been on nodes that have ended with the driver. Otherwise
    it is replaced by the journal from storage, and the checkpoints come when they are needed. One that has records that
    storage does not have is moved aside then, and the user is told.

    Raises:
        JournalError: there is no such experiment, it is damaged, or somebody runs it.
        StorageError: storage cannot be read, or the folder cannot be written.
    """
    from .journal.lock import lock, unlock
    from .storage import shipping
    from .storage.place import Place

    assert location.url is not None
    place, folder = Place(location.url), location.folder
    folder.mkdir(parents=True, exist_ok=True)
    sweep_cache(keep=folder)
    handle = lock(folder)
    try:
        if shipping.look(place) is None:
            if not _has_journal(folder):
                raise JournalError(f"There is no experiment {location}.")
            return  # its driver was killed before storage had anything
        shipping.check_free(place)
        known = shipping.relation(place, folder)
        gone = _gone(place, folder) if known == "further" else []
        if known == "same" or (known == "further" and not gone):
            return
        if known == "other":
            _move_aside(
                location,
                "has what storage does not have, or cannot be read: another driver has gone on with the experiment, or "
                "it is another one of that name",
            )
        elif known == "further":
            _move_aside(
                location,
                f"has results that storage does not have, and their checkpoints are neither there nor here: they were "
                f"on other machines, most likely, or were deleted. These are gone: {_some(gone)}",
            )
        else:
            _clear(folder)
    finally:
        unlock(handle)
    # Without the lock: a journal is replaced only where nobody has it.
    folder.mkdir(parents=True, exist_ok=True)
    # The journal last: where it is there, all is.
    _fetch_files(place, location)
    _fetch_journal(place, location)


def _fetch_journal(place: Place, location: Location) -> None:
    """Download the journal, or only what has come since this process has looked at it."""
    from .storage import shipping
    from .viewing import give_copy

    if give_copy(location, location.folder):
        shipping.refresh(place, location.folder)
    else:
        shipping.fetch(place, location.folder)


def _move_aside(location: Location, why: str) -> None:
    """Keep a working folder that has what storage lacks, or cannot be read; it is swept when it has not been used."""
    folder = location.folder
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    aside = next(
        path
        for number in itertools.count(1)
        if not (path := folder.with_name(f"{folder.name}.{stamp}{f'.{number}' if number > 1 else ''}.aside")).exists()
    )
    folder.rename(aside)
    os.utime(aside)
    warn_user(
        f"Tuner.restore: the working folder of {location} on this machine {why}. It was moved to {aside}, where it "
        f"stays for {UNUSED_DAYS} days. What storage has goes on."
    )


def _gone(place: Place, folder: Path) -> list[str]:
    """Return the checkpoints that are newer than what storage has, and that a working folder speaks of and lacks."""
    from .core.commands import checkpoint_name
    from .reading import Experiment
    from .storage import shipping
    from .storage.rounds import Ledger

    published = shipping.look(place)
    with contextlib.closing(Experiment.open(folder)) as experiment:
        ledger = Ledger(experiment.history, experiment.seq)
        before = ledger.existed_at(0 if published is None else published.seq, folder)
    new = sorted(ledger.snapshot().wanted.keys() - before)
    names = [f"{trial}/{checkpoint_name(number)}" for trial, number in new]
    return [name for name in names if not (folder / name).is_dir()]


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:_NAMED])}{f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''}"


def forget(url: str) -> None:
    """Delete what this process has put into storage of an experiment that has not begun, and nothing of anybody else.

    Raises:
        StorageError: that cannot be done.
    """
    from .storage import shipping
    from .storage.place import Place

    place = Place(url)
    found = shipping.begun(place)
    alive = None if found is None or found.seq else found.alive
    if alive is not None and alive.is_this_process:
        place.delete(recursive=True)


def discard(folder: Path) -> None:
    """Delete a working folder, unless somebody uses it; what cannot be deleted stays."""
    from .journal.lock import lock, unlock

    try:
        handle = lock(folder)
    except OSError:
        return
    try:
        _clear(folder)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        unlock(handle)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def discard_copied(location: Location, checkpoints: Collection[tuple[str, int]]) -> None:
    """Delete the working folder of an experiment that has ended, where storage has every record and file of it.

    Args:
        location: where the experiment is.
        checkpoints: those that are Shoal's, by the trial's folder and the number, also of those that are gone.
    """
    from .storage import shipping
    from .storage.logs import lacking
    from .storage.place import Place

    assert location.url is not None
    place, folder = Place(location.url), location.folder
    try:
        if shipping.relation(place, folder) != "same":
            warn_user(
                f"{folder} was kept, because {location} does not have the same records: it may be all that there is "
                f"of this run."
            )
            return
        left = lacking(place, folder, checkpoints, partial(_existing, folder))
    except StorageError:
        return  # all that was reported is there; whether the rest is, cannot be told now
    if left:
        some = f"{', '.join(left[:_NAMED])}{', ...' if len(left) > _NAMED else ''}"
        warn_user(f"{folder} was kept, because {location} lacks files of it: {some}. Take what you need.")
        return
    discard(folder)


def _existing(folder: Path) -> Collection[tuple[str, int]]:
    """Return the checkpoints that exist, as the journal in a folder says."""
    from .reading import Experiment
    from .storage.rounds import Ledger

    with contextlib.closing(Experiment.open(folder)) as experiment:
        return Ledger(experiment.history, experiment.seq).snapshot().wanted.keys()


def sweep_cache(keep: Path) -> None:
    """Delete working folders that nobody has used for 30 days and nobody uses now.

    Args:
        keep: the one that is about to be used.
    """
    oldest = time.time() - UNUSED_DAYS * 86400
    with contextlib.suppress(OSError):
        for outer in cache_folder().iterdir():
            if _WORKING.fullmatch(outer.name) and not outer.is_symlink() and outer != keep.parent:
                with contextlib.suppress(OSError):
                    for folder in list(outer.iterdir()):
                        if folder.is_dir() and not folder.is_symlink() and _last_used(folder) < oldest:
                            discard(folder)
                    outer.rmdir()


def _fetch_files(place: Place, location: Location) -> None:
    """Download what members have printed so far, and users' files, each of them whole or not at all.

    This run adds to them, and they are copied back as a whole. What is made from the journal is made anew. A file that
    storage does not give is left as it is there, and the user is told.

    Raises:
        StorageError: storage is away, or there is no room for them.
    """
    from .storage.logs import is_made_from_the_journal, note_unread, stored_files
    from .storage.transfer import key_of
    from .storage.trying import passes, retrying
    from .storage.workers import each

    folder = location.folder
    parts = folder / _PARTS
    unread: dict[str, OSError] = {}

    def fetch(number: int, name: str, size: int) -> None:
        part = parts / str(number)
        try:
            retrying(partial((place / key_of(name)).download_file, part, size), patience_s=_FILES_PATIENCE_S)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            part.replace(folder / name)
        except FileNotFoundError:
            return
        except OSError as error:
            if is_full(error) or passes(error):
                raise
            unread[name] = error

    try:
        found = retrying(partial(stored_files, place), patience_s=_FILES_PATIENCE_S)
        wanted = sorted((name, size) for name, size in found.items() if not is_made_from_the_journal(name))
        if wanted:
            parts.mkdir(exist_ok=True)
        each(partial(fetch, number, *file) for number, file in enumerate(wanted))
        if unread:
            note_unread(folder, unread)
    except OSError as error:
        what = " Make room, or set SHOAL_CACHE to a folder on a larger disk." if is_full(error) else ""
        raise StorageError(
            f"Tuner.restore: the files of {location} cannot be brought to {folder}: {error}{what} The experiment is as "
            f"it was; when that is mended, restore it again."
        ) from error
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    if unread:
        warn_user(
            f"Tuner.restore: storage does not give {len(unread)} file{'s' if len(unread) > 1 else ''} of {location}: "
            f"{_some(sorted(unread))}. {next(iter(unread.values()))} They stay there as they are; what this run writes "
            f"under these names is in {folder} only."
        )


_PARTS = ".fetching"
"""Name of a folder with files that are being downloaded. There is no journal beside it yet."""
_FILES_PATIENCE_S = 60.0


def _has_journal(folder: Path) -> bool:
    from .reading import is_experiment

    return is_experiment(folder)


def _clear(folder: Path) -> None:
    """Delete all that is in an experiment's folder but its lock, which the caller holds."""
    from .journal.lock import LOCK_NAME

    with contextlib.suppress(OSError):
        # The journal first: without it, what is left is of no experiment.
        for entry in sorted(folder.iterdir(), key=lambda entry: not entry.name.startswith("journal")):
            if entry.name == LOCK_NAME:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    entry.unlink()


def _last_used(folder: Path) -> float:
    return max([folder.stat().st_mtime, *(entry.stat().st_mtime for entry in folder.glob("journal*"))])
