"""The store: writes a checkpoint whole or not at all, and deletes only what the core names.

The name of a checkpoint exists only when all its bytes do. Its folder belongs to the store from then on: the files of
the user's own folder are copied, so overwriting them later changes nothing. Those in a ``TemporaryDirectory`` that is
about to be deleted are moved, where the file system can: that costs the same for any size. Copies come to a hidden
folder beside their place and are then renamed into it. See decision 0013.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from ..core.commands import checkpoint_name
from ..core.events import SavedCheckpoint
from ..errors import ReportError, StorageError
from ..scratch import temporary_directories
from .digest import Digest, buffer

__all__ = [
    "checkpoint_name", "damage", "delete", "delete_unfinished", "digest_of", "is_full", "measure",
    "stamp", "take_over", "write",
]  # fmt: skip

_FULL = (errno.ENOSPC, errno.EDQUOT)
_SAYS_FULL = re.compile(
    # What libraries say that lose the number of the error: many, torch.save, NumPy, SQLite.
    f"{'|'.join(re.escape(os.strerror(number)) for number in _FULL)}|PytorchStreamWriter failed writing file"
    r"|inline_container\S* \. unexpected pos \d+ vs \d+|basic_ios::clear: iostream error"
    r"|\d+ requested and \d+ written|database or disk is full"
)
_FICLONE = 0x40049409
"""Of Linux; Python has no name for it."""
_moved: dict[str, tuple[int, int, Path]] = {}
"""Folders whose files were moved last: device and inode of those in their place, and where the files are."""
_REMEMBERED = 8
_GIVEN_BACK = 0o1700
"""Their mode. The sticky bit means nothing where only one may enter; it tells them from those that were made anew, to
which the system may give the same inode."""


class _Unmovable(Exception):
    """The folder's files must be copied."""


def take_over(
    source: Path,
    trial_folder: Path,
    number: int,
    *,
    linked: Collection[str] = (),
    begins: Callable[[], None] | None = None,
) -> tuple[SavedCheckpoint, Callable[[], None]]:
    """Take the user's folder over into the trial's, whole or not at all.

    Returns:
        The checkpoint, and what is to be called before the user's code goes on. A slot need not wait for it.

    Args:
        source: the folder that the user reported.
        trial_folder: the trial's folder, made if needed.
        number: a number that no committed checkpoint of the trial has.
        linked: names of files that only Shoal has written and that nobody writes to again: they are linked, where the
            file system can.
        begins: called when it is known that the folder is there.

    Raises:
        ReportError: the user's folder is gone or cannot be read.
        StorageError: the copy cannot be written, for example because the disk is full. Nothing is left behind.
    """
    if not source.is_dir():
        raise ReportError(
            f"tune.report: the checkpoint's folder {str(source)!r} no longer exists. Call tune.report inside the "
            f"block that "
            f"made it, for example inside 'with tempfile.TemporaryDirectory() as folder:'."
        )
    if begins is not None:
        begins()
    real, trial = os.path.realpath(source), os.path.realpath(trial_folder)
    if _lies_in(trial, real):
        raise ReportError(
            f"tune.report: the checkpoint's folder {str(source)!r} contains the trial's own folder, so every "
            f"checkpoint would contain those before it. Save into a folder of its own, for example "
            f"tempfile.TemporaryDirectory()."
        )
    earlier = _moved_before(real)
    if earlier is None and _may_be_moved(str(source), real, trial):
        with contextlib.suppress(_Unmovable):
            return _commit_by_moving(real, trial_folder, number)
    saved = write(lambda staging: _copy(source, staging, linked, earlier), trial_folder, number)
    if earlier is not None:
        _moved[real] = (*_moved[real][:2], trial_folder / checkpoint_name(number))
    return saved, _nothing


def _nothing() -> None:
    pass


def _may_be_moved(given: str, source: str, trial: str) -> bool:
    """Return whether a folder lies in a ``TemporaryDirectory`` of this process, and nobody has anything open in it.

    One that has the experiment in it as well, as in a test, is no place for what is to be deleted soon.

    Args:
        given: the folder's path as it was given.
        source: the same without links.
        trial: the trial's folder, without links.
    """
    names = temporary_directories(own=True).values()
    if given not in names:  # else nothing has to be resolved, and the experiment does not lie in it
        holders = map(os.path.realpath, names)
        if not any(_lies_in(source, name) and not _lies_in(trial, name) for name in holders):
            return False
    try:
        if _lies_in(os.getcwd(), source):
            return False
        return not any(_lies_in(path, source) for path in _open_files())
    except OSError:
        return False  # not Linux


def _open_files() -> Iterator[str]:
    """Yield the paths of the files and folders that this process has open."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself is closed by now
            # Most are sockets and pipes, and their names take several times as long to be told.
            mode = os.fstat(int(name)).st_mode
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                yield os.readlink(f"/proc/self/fd/{name}")


def _commit_by_moving(source: str, trial_folder: Path, number: int) -> tuple[SavedCheckpoint, Callable[[], None]]:
    """As :func:`take_over`, without a copy; ``source`` has no links in it.

    Raises:
        _Unmovable: nothing was done, and it must be copied.
    """
    found: list[str] = []
    _list_movable(source, "", found)
    final = trial_folder / checkpoint_name(number)
    try:
        # First of all: from here on nobody reaches the files by the path that they had.
        _rename_over(source, final)
    except OSError:
        raise _Unmovable from None  # most likely another file system; and whatever it is, copying tells
    try:
        digest, size = _measured([(name, f"{final}/{name}") for name in sorted(found)])
    except BaseException as error:
        os.rename(final, source)
        if isinstance(error, OSError):
            raise _Unmovable from None
        raise
    return SavedCheckpoint(number=number, digest=digest, size=size), functools.partial(_give_back, source, final)


def _give_back(source: str, final: Path) -> None:
    """Make an empty folder in place of the one that was moved, and give that the mode of its new place.

    Raises:
        ReportError: somebody else has made a folder there meanwhile.
        OSError: there is no room. Whoever writes to the folder then will find that it is not there.
    """
    with contextlib.suppress(OSError):
        os.chmod(final, stat.S_IMODE(os.stat(final.parent).st_mode))
    with contextlib.suppress(FileExistsError):
        os.mkdir(source, _GIVEN_BACK)
    found = os.lstat(source)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ReportError(
            f"tune.report: somebody else has made {source!r} in the moment in which the checkpoint was taken over, so "
            f"it cannot be given back to you. What you have reported counts."
        )
    _moved.pop(source, None)
    _moved[source] = (found.st_dev, found.st_ino, final)
    while len(_moved) > _REMEMBERED:
        _moved.pop(next(iter([*_moved])), None)


def _moved_before(source: str) -> Path | None:
    """Return where the files went that were in a folder when it was reported before; None where it was not moved.

    It is one for many checkpoints then. What was written to it once is meant to be in all of them.
    """
    known = _moved.get(source)
    if known is None:
        return None
    found = os.lstat(source)
    if (found.st_dev, found.st_ino) != known[:2] or stat.S_IMODE(found.st_mode) != _GIVEN_BACK:
        return None  # it was deleted and made anew
    return known[2]


def _rename_over(source: str | Path, final: Path) -> None:
    try:
        os.rename(source, final)
    except FileNotFoundError:
        final.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, final)
    except OSError:
        if not final.is_dir():
            raise
        # A process died between this rename and its report, so nobody knows of that one.
        shutil.rmtree(final)
        os.rename(source, final)


def write(make: Callable[[Path], tuple[str, int]], trial_folder: Path, number: int) -> SavedCheckpoint:
    """Have the files of a checkpoint written into the trial's folder, whole or not at all.

    Args:
        make: writes the files into the empty folder that it is given, and returns their digest and size.
        trial_folder: the trial's folder, made if needed.
        number: a number that no committed checkpoint of the trial has.

    Raises:
        StorageError: they cannot be written, for example because the disk is full. Nothing is left behind.
    """
    final = trial_folder / checkpoint_name(number)
    staging = trial_folder / f".{final.name}.{os.getpid()}"
    try:
        trial_folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        digest, size = make(staging)
        _rename_over(staging, final)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise _cannot_be_written(final, error) from error
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return SavedCheckpoint(number=number, digest=digest, size=size)


def _cannot_be_written(final: Path, error: OSError) -> StorageError:
    return StorageError(f"The checkpoint {final} cannot be written: {error}. Free some space, or check the path.")


def is_full(error: BaseException) -> bool:
    """Return whether an error, or what led to it, says that there is no room on a disk."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return True
        with contextlib.suppress(Exception):  # the text of an exception of the user's is code of the user's
            if _SAYS_FULL.search(str(cause)):
                return True
        cause = cause.__cause__ or cause.__context__
    return False


def measure(folder: Path) -> tuple[str, int]:
    """Return the digest of a folder's files and their size in bytes."""
    return _measured([(name, str(path)) for name, path in _files(folder) if not path.is_dir()])


def _measured(files: list[tuple[str, str]]) -> tuple[str, int]:
    """Return the digest and the size of files, given as (name, path) in order."""
    digest = Digest()
    for name, path in files:
        digest.add(name, path)
    return digest.hexdigest(), digest.size


def damage(folder: Path, digest: str) -> str | None:
    """Return what is wrong with a committed checkpoint, in words; None where its files have the digest."""
    try:
        if not folder.is_dir():
            return f"{folder} is gone"
        found = digest_of(folder)
    except (OSError, ReportError) as error:
        return f"its files cannot be read: {error}"
    return None if found == digest else f"its files have the digest {found[:12]}... instead of {digest[:12]}..."


def stamp(folder: str) -> list[tuple[str, int, int, int]]:
    """Return what tells whether a committed checkpoint may have changed since, without reading its files.

    Their paths, inodes, sizes and times of the last change, of folders too; nothing where the folder is gone.
    """
    found: list[tuple[str, int, int, int]] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            state = entry.stat(follow_symlinks=False)
            found.append((entry.path, state.st_ino, state.st_size, state.st_ctime_ns))
            if stat.S_ISDIR(state.st_mode):
                found += stamp(entry.path)
    return sorted(found)


def delete(trial_folder: Path, number: int) -> None:
    """Delete a committed checkpoint; one that is not there is no error."""
    # Its name is gone at once.
    final = trial_folder / checkpoint_name(number)
    trash = trial_folder / f".deleted_{final.name}"
    try:
        os.rename(final, trash)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        # Left by an earlier one of that number: whoever deleted that was killed meanwhile, or could not.
        shutil.rmtree(trash, ignore_errors=True)
        try:
            os.rename(final, trash)
        except OSError:
            shutil.rmtree(final, ignore_errors=True)
    shutil.rmtree(trash, ignore_errors=True)


def delete_unfinished(trial_folder: Path, pid: int) -> None:
    """Delete what a process that is dead was writing: nobody else would before the end of the run."""
    with contextlib.suppress(OSError):
        for staging in trial_folder.glob(f".checkpoint_*.{pid}"):
            shutil.rmtree(staging, ignore_errors=True)


def digest_of(folder: Path) -> str:
    """Return the digest of a folder's files: their relative names, sizes and bytes. Notes do not count."""
    return measure(folder)[0]


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _list_movable(folder: str, prefix: str, found: list[str]) -> None:
    """Add the names of all files below a folder.

    Raises:
        _Unmovable: something in it can be changed from elsewhere, or is no regular file.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            mode = (state := entry.stat(follow_symlinks=False)).st_mode
            name = prefix + entry.name
            if stat.S_ISDIR(mode):
                _list_movable(entry.path, f"{name}/", found)
            elif stat.S_ISREG(mode) and state.st_nlink == 1:
                found.append(name)
            else:
                raise _Unmovable


def _copy(source: Path, target: Path, linked: Collection[str] = (), earlier: Path | None = None) -> tuple[str, int]:
    """Copy all files, or link those that may be, and return the digest and the size of the copies.

    Args:
        source: where they are.
        target: where they go to.
        linked: names of files that may be linked.
        earlier: a committed checkpoint of the same folder; what is not in the folder any more is linked from there.

    Raises:
        ReportError: the earlier one was deleted meanwhile.
    """
    digest = Digest()
    files = _files(source)
    if earlier is not None:
        if not earlier.is_dir():
            raise ReportError(
                f"tune.report: the files in the checkpoint's folder {str(source)!r} were taken over by an earlier "
                f"report, as {earlier.name}, which was deleted meanwhile. Make a TemporaryDirectory for each "
                f"checkpoint, or save all files before each report."
            )
        there = {name for name, _ in files}
        lacking = [(name, path) for name, path in _files(earlier) if name not in there]
        files, linked = sorted([*files, *lacking]), {*linked, *(name for name, _ in lacking)}
    for name, path in files:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            copy.mkdir(exist_ok=True)
        elif name in linked and _link(path, copy):
            digest.add(name, str(copy))
        else:
            if _clone(path, copy):
                digest.add(name, str(copy))
            else:
                _copy_bytes(name, path, copy, digest)
            shutil.copymode(path, copy)
    return digest.hexdigest(), digest.size


def _link(path: Path, copy: Path) -> bool:
    """Give a file a second name; return False where the file system cannot."""
    try:
        os.link(path, copy)
    except OSError:
        return False
    return True


def _clone(path: Path, copy: Path) -> bool:
    """Make a file of the same bytes, which are stored once until one of both is changed; False where that is unknown.

    XFS and Btrfs can. ``os.copy_file_range`` does so too, but is slower than reading and writing where it copies.
    """
    if sys.platform != "linux":
        return False
    try:
        with path.open("rb", buffering=0) as reading, copy.open("wb", buffering=0) as writing:
            fcntl.ioctl(writing, _FICLONE, reading.fileno())
    except OSError:
        return False
    return True


def _copy_bytes(name: str, path: Path, copy: Path, digest: Digest) -> None:
    """Copy a file, reading each byte once for the copy and for the digest."""
    with path.open("rb", buffering=0) as reading, copy.open("wb", buffering=0) as writing:
        size = os.fstat(reading.fileno()).st_size
        update = digest.begin(name, size)
        copied = 0
        memory = buffer()
        while count := reading.readinto(memory):
            view = memory[:count]
            update(view)
            while view:
                view = view[writing.write(view) :]
            copied += count
    if copied != size:
        raise OSError(f"{path} changed its size from {size} to {copied} bytes while it was copied")


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Return (relative name with '/', path) of all files and empty folders below the folder, in order.

    Links are followed, but not into a folder that the walk is inside of already.
    """
    found: list[tuple[str, Path]] = []
    inside = {os.fspath(folder): [folder.resolve()]}
    for parent, folders, names in os.walk(folder, followlinks=True):
        around = inside.pop(parent)
        real = {name: Path(parent, name).resolve() for name in folders}
        folders[:] = [name for name in folders if not any(entry.is_relative_to(real[name]) for entry in around)]
        inside.update((os.path.join(parent, name), [*around, real[name]]) for name in folders)
        for name in names:
            path = Path(parent, name)
            if not path.is_file():
                raise ReportError(f"tune.report: {path} in the checkpoint is no regular file, so it cannot be saved.")
            found.append((path.relative_to(folder).as_posix(), path))
        if not names and not folders and Path(parent) != folder:
            found.append((Path(parent).relative_to(folder).as_posix(), Path(parent)))
    return sorted(found)
