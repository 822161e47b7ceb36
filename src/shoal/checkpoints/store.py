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
from collections.abc import Callable, Collection
from pathlib import Path

from ..core.commands import checkpoint_name
from ..core.events import SavedCheckpoint
from ..errors import ReportError, StorageError
from ..scratch import temporary_directories
from .digest import Digest, buffer

__all__ = [
    "checkpoint_name", "commit", "damage", "delete", "delete_unfinished", "digest_of", "is_full", "measure",
    "take_over", "write",
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
_taken: dict[str, Path] = {}
"""Folders whose files were moved last, and where to: they are empty, and may be reported again."""
_REMEMBERED = 8


class _Unmovable(Exception):
    """The folder's files must be copied."""


def commit(source: Path, trial_folder: Path, number: int, *, linked: Collection[str] = ()) -> SavedCheckpoint:
    """As :func:`take_over`, with what follows from it."""
    saved, settle = take_over(source, trial_folder, number, linked=linked)
    settle()
    return saved


def take_over(
    source: Path, trial_folder: Path, number: int, *, linked: Collection[str] = ()
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
    real = os.path.realpath(source)
    if _lies_in(_real(str(trial_folder)), real):
        raise ReportError(
            f"tune.report: the checkpoint's folder {str(source)!r} contains the trial's own folder, so every "
            f"checkpoint would contain those before it. Save into a folder of its own, for example "
            f"tempfile.TemporaryDirectory()."
        )
    if any(_lies_in(real, _real(name)) for name in temporary_directories().values()):
        with contextlib.suppress(_Unmovable):
            return _commit_by_moving(real, trial_folder, number)
    return write(lambda staging: _copy(source, staging, linked), trial_folder, number), _nothing


def _nothing() -> None:
    pass


def _commit_by_moving(source: str, trial_folder: Path, number: int) -> tuple[SavedCheckpoint, Callable[[], None]]:
    """As :func:`take_over`, without a copy; ``source`` has no links in it.

    Raises:
        _Unmovable: nothing was done, and it must be copied.
    """
    found: list[tuple[str, str]] = []
    _list_movable(source, "", found)
    if not found and (earlier := _taken.get(source)) is not None:
        return _once_more(earlier, trial_folder, number), _nothing
    final = trial_folder / checkpoint_name(number)
    try:
        digest, size = _measured(sorted(found))
        _rename_over(source, final)
    except OSError:
        raise _Unmovable from None  # most likely another file system; and whatever it is, copying tells
    _taken.pop(source, None)
    _taken[source] = final
    while len(_taken) > _REMEMBERED:
        _taken.pop(next(iter([*_taken])), None)
    return SavedCheckpoint(number=number, digest=digest, size=size), functools.partial(_give_back, source, final)


def _give_back(source: str, final: Path) -> None:
    """Make an empty folder in place of the one that was moved, and give that the mode of its new place.

    On a full disk there is none: whoever writes to it then is told so, and what was moved is safe.
    """
    with contextlib.suppress(OSError):
        os.mkdir(source, 0o700)
        os.chmod(final, stat.S_IMODE(os.stat(final.parent).st_mode))


def _once_more(earlier: Path, trial_folder: Path, number: int) -> SavedCheckpoint:
    """Commit what was moved out of a folder that is reported again, with nothing written to it since."""
    if not earlier.is_dir():
        raise ReportError(
            f"tune.report: the checkpoint's folder is empty. Its files were taken over by an earlier report, as "
            f"{earlier.name}, which was deleted meanwhile. Save into it before each report with a checkpoint."
        )
    return write(lambda staging: _copy(earlier, staging), trial_folder, number)


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


@functools.lru_cache(maxsize=64)
def _real(path: str) -> str:
    return os.path.realpath(path)


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _list_movable(folder: str, prefix: str, found: list[tuple[str, str]]) -> None:
    """Add (name, path) of all files below a folder; an empty folder below it has a name too.

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
                found.append((name, entry.path))
            else:
                raise _Unmovable


def _copy(source: Path, target: Path, linked: Collection[str] = ()) -> tuple[str, int]:
    """Copy all files, or link those that may be, and return the digest and the size of the copies."""
    digest = Digest()
    for name, path in _files(source):
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
