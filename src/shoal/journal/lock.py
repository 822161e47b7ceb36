"""The lock of an experiment: one driver at a time. The kernel frees it when the driver ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from ..errors import JournalError

__all__ = ["LOCK_NAME", "check_free", "is_at", "is_gone", "lock", "unlock"]

LOCK_NAME = "journal.lock"
"""Name of the lock's file. It stays behind; only the kernel's lock on it counts, and its text says who has that."""
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_held: set[int] = set()
"""Handles of this process's locks."""


def lock(folder: Path, task: str | None = None) -> int:
    """Take the lock of the experiment in a folder. Return its handle, for :func:`unlock`.

    Args:
        folder: the experiment's folder.
        task: what it is taken for, where that is not to run the experiment; others that want it are told.

    Raises:
        JournalError: another process has it, the folder cannot be written, or its file system has no locks.
    """
    import fcntl

    path = folder / LOCK_NAME
    try:
        # Where a link leads to is not the lock, and must not be written to.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        handle = os.open(path, flags, 0o644)
    except OSError as error:
        raise _cannot_be_made(folder, path, error) from error
    _held.add(handle)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise JournalError(f"{path} is no ordinary file, so the experiment cannot be locked. Delete it.")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _refused(folder, handle, error) from error
        # Only for people to read: a full disk, for example, must not keep anybody from anything.
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            what = "" if task is None else f" ({task})"
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}{what}".encode(), 0)
    except BaseException:
        _held.discard(handle)
        os.close(handle)
        raise
    return handle


def unlock(handle: int) -> None:
    """Let go of a lock. In a fork of the process that took it, this does nothing."""
    import fcntl

    if handle in _held:
        # Said, and not only closed: a fork that Python was not told of may have a copy of the handle.
        fcntl.flock(handle, fcntl.LOCK_UN)
        _held.remove(handle)
        os.close(handle)


def is_at(handle: int, path: Path) -> bool:
    """Return whether the file of a lock is still the one of this path. Where that cannot be told now, it is."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # a network file system that hiccups, say


def is_gone(path: Path) -> bool:
    """Return whether there is surely nothing at a path."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def check_free(folder: Path) -> None:
    """Make sure that no driver has the lock of an experiment; where there is no file of a lock, none is made.

    Raises:
        JournalError: a driver runs the experiment.
    """
    import fcntl

    try:
        handle = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        # Shared: two who ask at the same time do not keep each other from it.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _refused(folder, handle, error) from error
    except OSError:
        return
    finally:
        os.close(handle)


def _refused(folder: Path, handle: int, error: OSError) -> JournalError:
    if isinstance(error, BlockingIOError):
        owner = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
        return JournalError(f"The experiment {folder} is being run by {owner}. Wait for it, or stop it first.")
    why = "The file system of the folder knows no locks" if error.errno in _NO_LOCKS else "Locking failed"
    return JournalError(
        f"The experiment {folder} cannot be locked: {error}. {why}, so nothing would keep a second driver from writing "
        f"the same journal. Give RunConfig a storage_path on a local disk, or copy the experiment's folder to one."
    )


def _cannot_be_made(folder: Path, path: Path, error: OSError) -> JournalError:
    if not folder.is_dir():
        return JournalError(f"The experiment's folder {folder} cannot be written: {error}.")
    if path.is_symlink():
        return JournalError(f"{path} is a link, so the experiment cannot be locked. Delete it.")
    if path.is_dir():
        return JournalError(f"{path} is a folder, so the experiment cannot be locked. Delete it.")
    which = path if os.access(folder, os.W_OK) else f"The experiment's folder {folder}"
    return JournalError(
        f"{which} cannot be written: {error}. To run the experiment, make that possible, or copy its folder to where "
        f"it is. tune.ResultGrid.read(folder) reads the results as it is."
    )


def _forget() -> None:
    """Close a fork's copies of the locks: while they were open, the lock would outlive the driver."""
    while _held:
        with contextlib.suppress(OSError):
            os.close(_held.pop())


os.register_at_fork(after_in_child=_forget)
