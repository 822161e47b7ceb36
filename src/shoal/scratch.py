"""Files outside of the experiment's folder that must not outlive whoever made them, however that ended.

Whoever makes such files holds a lock on a folder in ``/dev/shm`` or in the folder for temporary files. The system lets
go of a lock when its process ends, and so whoever comes later can tell what is left of the dead: :func:`sweep` deletes
that, at the start and at the end of every run. The name of the folder tells its kind, its user, the machine and the
process, ``shoal-objects-1000-<boot id>-4711-x3k_q9ab``:

* ``objects``: what a process has put, see :mod:`shoal.objects`;
* ``files``: temporary files of a process, such as those of ``Checkpoint.from_dict``;
* ``members``: notes about the members of one warm parent, see :class:`MemberFiles`.

Nothing is deleted that belongs to another user, or under a name that Shoal has not given, and no link is followed.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import stat
import sys
import threading
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "OBJECT_SUFFIX",
    "MemberFiles",
    "Owner",
    "delete_of_torch",
    "free_all",
    "make_temporary",
    "remove_temporary",
    "sweep",
    "sweep_untouched",
    "temporary_directories",
]

Kind = Literal["objects", "files", "members"]
_KINDS: tuple[Kind, ...] = ("objects", "files", "members")
OBJECT_SUFFIX = ".object"
"""Of the files that hold objects."""
SHARED_MEMORY = Path("/dev/shm")
_TOUCH_EVERY_S = 3600.0
_UNTOUCHED_S = 7 * 86400.0
"""Of what is so old that its process must be gone, where processes touch what is theirs."""


# Locked folders


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder of one process, or of a warm parent and its members."""

    path: Path
    lock: int
    """A file descriptor of the folder. While it is open, the folder is locked."""


class Owner:
    """The locked folders of one kind of this process, which it deletes when it exits."""

    def __init__(self, kind: Kind) -> None:
        self._kind: Kind = kind
        self._pid = os.getpid()
        self._lock = threading.RLock()  # the end of an object, which may come at any moment, leads here again
        self._folders: dict[Path, _Folder] = {}
        """By the folders that they lie in."""
        self._swept: set[Path] = set()
        self._touched = -_TOUCH_EVERY_S
        _owners.append(self)

    def folder(self, base: Path) -> Path:
        """Return this process's folder in ``base``; the first time, what dead processes have left there goes."""
        with self._lock:
            found = self._folders.get(base)
            if found is None or not _is_at(found.lock, found.path):
                atexit.unregister(self.free)
                atexit.register(self.free)
                if base not in self._swept:
                    self._swept.add(base)
                    _sweep_in(base)
                self._folders[base] = found = _make_folder(base, self._kind)
            return found.path

    def touch(self) -> None:
        """Show that these folders are in use, for :func:`sweep_untouched` on machines that cannot see that."""
        now = time.monotonic()
        if now - self._touched > _TOUCH_EVERY_S:
            self._touched = now
            with self._lock:
                for folder in self._folders.values():
                    with contextlib.suppress(OSError):
                        os.utime(folder.path)

    def leave_empty(self) -> None:
        """Delete those folders that are empty."""
        with self._lock:
            for base, folder in list(self._folders.items()):
                with contextlib.suppress(OSError):
                    os.rmdir(folder.path)
                    del self._folders[base]
                    os.close(folder.lock)

    def free(self) -> None:
        """Delete all of it, in the process that has made it and in no other."""
        if self._pid != os.getpid():
            return
        with self._lock:
            for base, folder in list(self._folders.items()):
                _delete(folder, self._kind)
                _sweep_in(base)
            self._folders.clear()
            self._swept.clear()

    def begin_anew(self) -> None:
        """In a fork: all of it belongs to the parent, and the lock may have been held by a thread."""
        for folder in self._folders.values():
            with contextlib.suppress(OSError):
                os.close(folder.lock)
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._folders = {}


_owners: list[Owner] = []


_inherited: set[Any] = set()
"""Finalizers of temporary directories that were there when this process was forked."""


def _begin_anew() -> None:
    _inherited.update(temporary_directories())
    for owner in _owners:
        owner.begin_anew()


os.register_at_fork(after_in_child=_begin_anew)


def free_all() -> None:
    """Delete all that this process has made; for one that ends without exit handlers."""
    for owner in _owners:
        owner.free()


_files = Owner("files")


def make_temporary(prefix: str) -> str:
    """Make a folder for temporary files that goes with this process, however it ends; return its path."""
    import tempfile

    while True:
        folder = _files.folder(Path(tempfile.gettempdir()))
        with contextlib.suppress(FileNotFoundError):  # another thread has just left it empty
            return tempfile.mkdtemp(prefix=prefix, dir=folder)


def remove_temporary(folder: str) -> None:
    """Delete a folder of :func:`make_temporary`."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    _files.leave_empty()


def temporary_directories(*, own: bool = False) -> dict[Any, str]:
    """Return the user's ``tempfile.TemporaryDirectory`` objects that are to be deleted: their finalizers, with paths.

    Oldest first. There is no public way to know them; should Python keep them elsewhere one day, there are none.

    Args:
        own: leave out those that were there when this process was forked, which others may use as well.
    """
    import tempfile
    import weakref

    deleting = getattr(getattr(tempfile.TemporaryDirectory, "_cleanup", None), "__func__", None)
    found: dict[Any, str] = {}
    for finalizer in list(getattr(weakref.finalize, "_registry", ())):
        alive = None if own and finalizer in _inherited else finalizer.peek()
        if alive is not None and getattr(alive[1], "__func__", None) is deleting and alive[3].get("delete", True):
            found[finalizer] = alive[2][0]
    return found


def _machine() -> str:
    """Return what only processes under the same running kernel have in common: only they see each other's locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    except OSError:
        import platform

        return "".join(letter for letter in platform.node() if letter.isalnum())


def _prefix(kind: Kind) -> str:
    return f"shoal-{kind}-{os.geteuid()}-{_machine()}-"


def _make_folder(base: Path, kind: Kind) -> _Folder:
    """Return a new folder that only this user can enter and that is locked while this process, or a fork, lives."""
    import fcntl
    import tempfile

    while True:
        path = Path(tempfile.mkdtemp(prefix=f"{_prefix(kind)}{os.getpid()}-", dir=base))
        lock = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(lock, path):
                return _Folder(path, lock)
        except BlockingIOError:
            pass
        except OSError:
            # A file system without locks. Nobody can lock the folder then, so nobody sweeps it.
            return _Folder(path, lock)
        # Someone who sweeps was faster, and removes it.
        os.close(lock)


def _is_at(fd: int, path: Path) -> bool:
    """Return whether an open folder is still the one of this path."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


# What the dead have left


def sweep() -> None:
    """Delete what processes of this user that are gone, on this machine, have left in the usual places. Fast."""
    for base in _places():
        _sweep_in(base)


def _places() -> list[Path]:
    """Return where there may be something: also where the system has temporary files and this process has not."""
    import tempfile

    found = {SHARED_MEMORY: None, _default_place(): None}
    with contextlib.suppress(FileNotFoundError):
        found[Path(tempfile.gettempdir())] = None
    return list(found)


def _default_place() -> Path:
    """Return where temporary files go by default, without settling that for the user's code as ``tempfile`` would."""
    named = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    for name in [*named, "/tmp", "/var/tmp", "/usr/tmp"]:
        if name and os.path.isdir(name) and os.access(name, os.W_OK | os.X_OK):
            return Path(name).absolute()
    return Path.cwd()


def sweep_untouched(base: Path) -> None:
    """Delete folders for temporary files that nobody has touched for a week, of this user on other machines.

    These are machines that share this one's folder, or this one before it was started anew: of their processes nothing
    can be known. Only for a folder in which all processes :meth:`Owner.touch` what is theirs.
    """
    kind = f"shoal-files-{os.geteuid()}-"
    with contextlib.suppress(OSError), os.scandir(base) as entries:
        for entry in entries:
            if entry.name.startswith(kind) and not entry.name.startswith(_prefix("files")):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > _UNTOUCHED_S:
                        _remove(Path(entry.path))


def _sweep_in(base: Path) -> None:
    prefixes: dict[Kind, str] = {kind: _prefix(kind) for kind in _KINDS}
    with contextlib.suppress(OSError), os.scandir(base) as entries:
        for entry in entries:
            if not entry.name.startswith("shoal-"):
                continue
            for kind, prefix in prefixes.items():
                if entry.name.startswith(prefix):
                    with contextlib.suppress(OSError):
                        _sweep_folder(Path(entry.path), kind, entry.name.removeprefix(prefix).partition("-")[0])


def _sweep_folder(path: Path, kind: Kind, pid: str) -> None:
    """Remove a folder if its process is gone. The lock tells best, as it knows no other process of the same number and
    sees into other containers. The number still counts, for a process that has closed all files that it did not know;
    the lock of a warm parent is held by its members, too.
    """
    import fcntl

    if kind != "members" and pid != str(os.getpid()) and _is_alive(pid):
        return
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.fstat(lock).st_uid == os.geteuid() and _is_at(lock, path)
    except OSError:
        mine = False
    if mine:
        _delete(_Folder(path, lock), kind)
    else:
        os.close(lock)


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):
        return True
    return True


def _delete(folder: _Folder, kind: Kind) -> None:
    """Delete what is in a folder, the folder and its lock. What somebody else has put beside objects stays."""
    with contextlib.suppress(OSError):
        if kind == "members":
            _delete_of_members(folder, os.listdir(folder.lock))
        for name in os.listdir(folder.lock):
            if kind == "objects" and name.endswith(OBJECT_SUFFIX):
                os.unlink(name, dir_fd=folder.lock)
            elif kind == "files":
                _remove(folder.path / name)
        os.rmdir(folder.path)
    with contextlib.suppress(OSError):
        os.close(folder.lock)


def _remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it, if it belongs to this user. A link goes, not where it leads."""
    import shutil

    with contextlib.suppress(OSError):
        found = path.lstat()
        if found.st_uid != os.geteuid():
            return
        if stat.S_ISDIR(found.st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def delete_of_torch(pids: Collection[int]) -> None:
    """Delete the shared memory that torch has left of processes that have just ended and were this one's own.

    Its names, ``torch_<pid>_...``, do not say on which machine or in which container. So only who has seen a process
    end can tell.
    """
    with contextlib.suppress(OSError), os.scandir(SHARED_MEMORY) as entries:
        for entry in entries:
            kind, _, rest = entry.name.partition("_")
            pid = rest.partition("_")[0]
            if kind == "torch" and pid.isdecimal() and int(pid) in pids:
                _remove(Path(entry.path))


# What members make


class MemberFiles:
    """What the members of one warm parent make with ``tempfile`` and ``multiprocessing``.

    Their names begin alike for each member, and a note in a folder that all of them keep locked tells who has not ended
    in order: what is called like those is deleted once they are dead. What a member that ends in order leaves behind is
    left: its function may have told somebody where it is.

    The folder for temporary files itself is the same as everywhere, because scripts keep caches in it. Names that the
    user's code chooses stay as they are; what bears them is not found again.
    """

    def __init__(self) -> None:
        # Here, once, rather than in each member.
        importlib.import_module("multiprocessing.process")
        with contextlib.suppress(ImportError):  # not every system has it
            importlib.import_module("multiprocessing.shared_memory")
        self._folder: _Folder | None = None
        self._of_multiprocessing: str | None = None
        with contextlib.suppress(OSError):  # Where nothing can be written to, nothing can be left.
            self._folder = _make_folder(_default_place(), "members")

    def enter(self, key: int, *places: str) -> None:
        """Have all temporary files of this process, the member ``key``, begin alike.

        ``places``: other folders than that for temporary files where the member may make some.
        """
        import tempfile

        if self._folder is None:
            return
        prefix = _prefix_of(self._folder, str(key))
        where = [tempfile.tempdir or str(_default_place()), str(SHARED_MEMORY), *places]
        try:
            note = os.open(str(key), os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600, dir_fd=self._folder.lock)
            with open(note, "w", encoding="utf-8") as file:
                json.dump([os.fsdecode(place) for place in where], file)
        except OSError:
            return  # Not even a note can be made, so there is no room for what it would be about.
        tempfile.template = prefix
        self._of_multiprocessing = _have_multiprocessing_use(prefix, where[0])
        _have_shared_memory_use(prefix)

    def leave(self, key: int) -> None:
        """The member, this process, ends in order: what is left of its own files is the user's."""
        if self._folder is None:
            return
        if self._of_multiprocessing is not None:
            _remove(Path(self._of_multiprocessing))
        with contextlib.suppress(OSError):
            os.unlink(str(key), dir_fd=self._folder.lock)

    def delete(self, keys: Iterable[int]) -> bool:
        """Delete what members that are dead have left, unless they ended in order. Return whether all have done so."""
        if self._folder is None:
            return False
        try:
            return not _delete_of_members(self._folder, [str(key) for key in keys])
        except OSError:
            return False

    def close(self) -> None:
        """Delete what all of them have left; they must be dead."""
        if self._folder is not None:
            _delete(self._folder, "members")
            self._folder = None


def _prefix_of(folder: _Folder, key: str) -> str:
    """Return how the names of a member's files begin. Short: a socket's path has at most 107 bytes."""
    return f"shoal-{folder.path.name.rpartition('-')[2]}-{key}-"


def _have_multiprocessing_use(prefix: str, place: str) -> str | None:
    """Have it make its sockets and semaphores under such names, here and in the processes that this one starts.

    A DataLoader whose workers send tensors leaves a folder with a socket for each worker that is killed. Returns the
    folder that stands in for all of these.
    """
    import multiprocessing.process

    config = getattr(multiprocessing.process.current_process(), "_config", None)
    if not isinstance(config, dict):
        return None
    folder = os.path.join(place, f"{prefix}mp")
    try:
        os.mkdir(folder, 0o700)
    except OSError:
        return None
    config["tempdir"] = folder
    if sys.platform == "linux":  # elsewhere such names have at most 30 letters
        config["semprefix"] = f"/{prefix}mp"
    return folder


def _have_shared_memory_use(prefix: str) -> None:
    """Have ``SharedMemory`` that is given no name begin so, too.

    Python starts a process that deletes what is left of it; but not for what is made while that is still being started,
    and not where that is killed as well.
    """
    module = sys.modules.get("multiprocessing.shared_memory")
    if sys.platform == "linux" and hasattr(module, "_SHM_NAME_PREFIX") and hasattr(module, "_SHM_SAFE_NAME_LENGTH"):
        letters = f"/{prefix}"
        vars(module).update(_SHM_NAME_PREFIX=letters, _SHM_SAFE_NAME_LENGTH=len(letters) + 16)


def _delete_of_members(folder: _Folder, keys: list[str]) -> list[str]:
    """Delete what the members have left that there is a note about, and the notes. Return those members."""
    notes = set(os.listdir(folder.lock))
    prefixes: list[str] = []
    places = dict.fromkeys([str(folder.path.parent)])
    gone = [key for key in keys if key in notes]
    for key in gone:
        prefixes += [_prefix_of(folder, key), "sem." + _prefix_of(folder, key)]
        with contextlib.suppress(OSError, ValueError):
            places.update(dict.fromkeys(json.loads((folder.path / key).read_text(encoding="utf-8"))))
    for place in places if gone else ():
        with contextlib.suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith(tuple(prefixes)):
                    _remove(Path(entry.path))
    for key in gone:
        os.unlink(key, dir_fd=folder.lock)
    return gone
