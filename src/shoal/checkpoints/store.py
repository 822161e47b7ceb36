"""The store: writes a checkpoint whole or not at all, and deletes only what the core names.

A checkpoint comes to a hidden folder beside its place and is then renamed into it, so that its name exists only when
all its bytes do. Its folder belongs to the store from then on: the files of the user's own folder are copied, never
linked, so overwriting them later changes nothing. Those in a ``TemporaryDirectory`` that is about to be deleted are
moved, where the file system can: that costs the same for any size. See decision 0013.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import xxhash

from ..core.commands import checkpoint_name
from ..core.events import SavedCheckpoint
from ..errors import ReportError, StorageError
from ..scratch import temporary_directories

__all__ = [
    "checkpoint_name", "commit", "damage", "delete", "delete_unfinished", "digest_of", "is_full", "measure", "write",
]  # fmt: skip

_Buffer = bytes | memoryview
_CHUNK = 1 << 20
_of_thread = threading.local()
_NOTES = ".metadata.json"
"""Of ``Checkpoint.set_metadata``, which may write it at any time: no part of what the digest is of."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SAYS_FULL = re.compile(
    # What libraries say that lose the number of the error: many, torch.save, NumPy, SQLite.
    f"{'|'.join(re.escape(os.strerror(number)) for number in _FULL)}|PytorchStreamWriter failed writing file"
    r"|inline_container\S* \. unexpected pos \d+ vs \d+|basic_ios::clear: iostream error"
    r"|\d+ requested and \d+ written|database or disk is full"
)


def commit(source: Path, trial_folder: Path, number: int) -> SavedCheckpoint:
    """Copy the user's folder into the trial's, whole or not at all.

    Args:
        source: the folder that the user reported.
        trial_folder: the trial's folder, made if needed.
        number: a number that no committed checkpoint of the trial has.

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
    if trial_folder.resolve().is_relative_to(source.resolve()):
        raise ReportError(
            f"tune.report: the checkpoint's folder {str(source)!r} contains the trial's own folder, so every "
            f"checkpoint would contain those before it. Save into a folder of its own, for example "
            f"tempfile.TemporaryDirectory()."
        )
    moves = _is_about_to_be_deleted(source) and not any(map(_is_linked, _entries(source)))

    def take(staging: Path) -> tuple[str, int]:
        nonlocal moves
        names = _files(source) if moves else []
        moves = moves and _move(source, staging)
        if moves:
            staging.chmod(stat.S_IMODE(trial_folder.stat().st_mode))
            return _digest_and_size([(name, staging / path.relative_to(source)) for name, path in names])
        return _copy(source, staging)

    return write(take, trial_folder, number, undo=lambda staging: moves and _move(staging, source))


def write(
    make: Callable[[Path], tuple[str, int]],
    trial_folder: Path,
    number: int,
    *,
    undo: Callable[[Path], bool] = lambda staging: False,
) -> SavedCheckpoint:
    """Have the files of a checkpoint written into the trial's folder, whole or not at all.

    Args:
        make: writes the files into the empty folder that it is given, and returns their digest and size.
        trial_folder: the trial's folder, made if needed.
        number: a number that no committed checkpoint of the trial has.
        undo: called with that folder where it fails; returns whether the files are somewhere else again.

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
        if final.exists():
            # A process died between this rename and its report, so nobody knows of that one.
            shutil.rmtree(final)
        staging.rename(final)
    except OSError as error:
        _discard(staging, undo)
        raise StorageError(
            f"The checkpoint {final} cannot be written: {error}. Free some space, or check the path."
        ) from error
    except BaseException:
        _discard(staging, undo)
        raise
    return SavedCheckpoint(number=number, digest=digest, size=size)


def _discard(staging: Path, undo: Callable[[Path], bool]) -> None:
    with contextlib.suppress(OSError):
        if undo(staging):
            staging.rmdir()
            return
    shutil.rmtree(staging, ignore_errors=True)


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
    return _digest_and_size(_files(folder))


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
    """Delete a committed checkpoint. Its name is gone at once; one that is not there is no error."""
    final = trial_folder / checkpoint_name(number)
    trash = trial_folder / f".deleted_{final.name}"
    try:
        final.rename(trash)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        # Left by an earlier one of that number: whoever deleted that was killed meanwhile, or could not.
        shutil.rmtree(trash, ignore_errors=True)
        try:
            final.rename(trash)
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
    return _digest_and_size(_files(folder))[0]


def _digest_and_size(files: list[tuple[str, Path]]) -> tuple[str, int]:
    """Return the digest of files with these names, and their size in bytes."""
    digest = xxhash.xxh3_128()
    total = 0
    buffer = _buffer()
    for name, path in files:
        if path.is_dir():
            continue
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            total += size
            if _is_notes(name):
                continue
            _begin(digest.update, name, size)
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
    return digest.hexdigest(), total


def _buffer() -> memoryview:
    """Return this thread's memory for reading: touching other memory for the first time costs more than all else."""
    if not hasattr(_of_thread, "buffer"):
        _of_thread.buffer = memoryview(bytearray(_CHUNK))
    buffer: memoryview = _of_thread.buffer
    return buffer


def _is_about_to_be_deleted(folder: Path) -> bool:
    """Return whether a folder is, or lies in, a ``TemporaryDirectory`` of this process."""
    where = Path(os.path.abspath(folder))
    return any(where.is_relative_to(os.path.abspath(name)) for name in temporary_directories().values())


def _move(source: Path, target: Path) -> bool:
    """Give a folder's files to another, which is empty, and leave it empty; return False where nothing was done."""
    try:
        target.rmdir()
        source.rename(target)
    except OSError:
        target.mkdir(exist_ok=True)  # another file system, most likely
        return False
    source.mkdir(mode=0o700)
    return True


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(Path(entry.path))


def _is_linked(entry: os.DirEntry[str]) -> bool:
    found = entry.stat(follow_symlinks=False)
    return stat.S_ISLNK(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink > 1)


def _copy(source: Path, target: Path) -> tuple[str, int]:
    """Copy all files, reading each byte once for the copy and for the digest."""
    digest = xxhash.xxh3_128()
    total = 0
    buffer = _buffer()
    for name, path in _files(source):
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            copy.mkdir(exist_ok=True)
            continue
        with path.open("rb", buffering=0) as reading, copy.open("wb", buffering=0) as writing:
            size = os.fstat(reading.fileno()).st_size
            update = _ignore if _is_notes(name) else digest.update
            _begin(update, name, size)
            copied = 0
            while count := reading.readinto(buffer):
                view = buffer[:count]
                update(view)
                while view:
                    view = view[writing.write(view) :]
                copied += count
        if copied != size:
            raise OSError(f"{path} changed its size from {size} to {copied} bytes while it was copied")
        shutil.copymode(path, copy)
        total += size
    return digest.hexdigest(), total


def _is_notes(name: str) -> bool:
    """Whether a file is the notes about the checkpoint, or what a process left that died while it wrote them."""
    return name == _NOTES or (name.startswith(f"{_NOTES}.") and name[len(_NOTES) + 1 :].isdigit())


def _ignore(data: _Buffer) -> None:
    pass


def _begin(update: Callable[[_Buffer], None], name: str, size: int) -> None:
    update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))


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
