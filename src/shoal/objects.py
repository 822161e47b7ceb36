"""Objects that all members share: ``ref = shoal.put(data)`` once, ``shoal.get(ref)`` wherever they are needed.

An object lies in one file, and every process that gets it maps that file. So 50 members that look at 2 GB of images
need 2 GB between them, not 100, and the config that carries the reference stays small. The file holds ::

    header | table of the buffers | the pickle | buffer | buffer | ...      each buffer at a multiple of 64 bytes

The pickle is one of protocol 5: memory of NumPy arrays and torch tensors stays outside of it, is written as it lies and
is used where it is mapped.

The mapping is private to the process (copy-on-write) rather than read-only, because not everything knows what it may
not write to: torch has no read-only tensors, and ``torch.from_numpy`` makes a writable one of any array. A write into a
read-only mapping would end the process with a segmentation fault; here it changes a copy of one page in one process.

The process that puts an object owns its file: in a private folder in ``/dev/shm``, or in the folder for temporary
files. It deletes it on :func:`free_all` and when it exits. A process that was killed leaves its folder behind; the lock
on the folder is gone then, and the next run or the next process that puts something removes it, see
:mod:`shoal.scratch`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from . import resources
from .errors import ConfigError, StorageError
from .scratch import OBJECT_SUFFIX, SHARED_MEMORY, Owner

if TYPE_CHECKING:
    from pickle import PickleBuffer

__all__ = ["ObjectRef", "adopt", "expect", "free_all", "get", "put", "stored"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_MAGIC = b"SHOALOB1"
_HEADER = "<8sQQ"
"""The magic, the length of the pickle, the number of buffers."""
_ENTRY = "<QQQ"
"""A buffer's offset and length, and 1 where whoever uses it must be able to write to it."""
_ALIGNMENT = 64
"""What vector instructions and torch ask for at most."""
_SHARED_MEMORY = SHARED_MEMORY


@dataclass(frozen=True, slots=True, repr=False)
class ObjectRef(Generic[T_co]):
    """Stands for an object that :func:`put` has stored. Small; give it to members in ``param_space``."""

    id: str
    size: int
    """Of the stored object, in bytes."""
    path: str
    """The file that holds it."""

    @property
    def there(self) -> bool:
        """Whether the object can be got here: the process that put it lives, and is on this machine or has sent it."""
        return any(map(os.path.isfile, _paths_of(self)))

    def __repr__(self) -> str:
        return f"ObjectRef({self.id[:8]}..., {_size_text(self.size)})"


def put(obj: T) -> ObjectRef[T]:
    """Store an object once, for all members, and return a reference to it.

    What is stored is the object as it is now; later changes to it do not show. Memory of NumPy arrays and of torch
    tensors (also those in a model) is shared by all who get it. Everything else, such as bytes, lists and arrays of
    Python objects, is copied into each process that gets it. A tensor that is a view brings the whole memory that it
    looks at: ``clone()`` a small part of a large one. Tensors on a GPU are stored, and come back, on the CPU, because
    members see other GPUs than this process: ``shoal.get(ref).to(device)``.

    The object lives until :func:`shoal.shutdown` or the end of this process. It is not freed with the last reference
    here, because others may be in the configs of members, in journals, or in the closure of a trainable.

    It is kept in ``/dev/shm`` where it takes at most half of what is free there and of the memory that is available:
    nothing is faster, but it is memory that the system cannot take back. A larger object goes to the folder for
    temporary files (``TMPDIR``), from where it is read through the system's cache.

    Args:
        obj: anything that can be pickled, with functions and classes of the script.

    Raises:
        ConfigError: the object cannot be pickled, or is a reference already.
        StorageError: there is no room for it.
    """
    if isinstance(obj, ObjectRef):
        raise ConfigError(f"put: the object is a reference already, {obj!r}. Pass it on as it is.")
    pickled = _pickle(obj)
    ref: ObjectRef[T] = _store(pickled)
    return ref


@overload
def get(refs: ObjectRef[T], *, timeout: float | None = None) -> T: ...
@overload
def get(refs: Sequence[ObjectRef[T]], *, timeout: float | None = None) -> list[T]: ...
@overload
def get(refs: Sequence[Any], *, timeout: float | None = None) -> list[Any]: ...
def get(refs: Any, *, timeout: float | None = None) -> Any:
    """Return the object of a reference, or the objects of a list of references in its order.

    An object is loaded once in a process: the second call returns the same object, also after a member has copied
    another one and begins anew. So do not change it; work on ``copy.deepcopy(...)`` of what you change. NumPy arrays
    are read-only (writing raises ValueError). torch knows no read-only tensors: writing to one changes it for this
    process alone. The process that put the object gets such a mapped one too, not the one that it put.

    Args:
        refs: what :func:`put` returned, or a list or tuple of it, which may be nested.
        timeout: without effect; an object is there from the moment that ``put`` returns.

    Raises:
        ConfigError: something is no reference, or its object is gone, or cannot be loaded here.
        StorageError: the object's file cannot be read.
    """
    if isinstance(refs, (list, tuple)):
        return [get(ref) for ref in refs]
    if not isinstance(refs, ObjectRef):
        raise ConfigError(
            f"get: {refs!r:.100} ({type(refs).__name__}) is no reference. Give what shoal.put(...) returned, an "
            f"ObjectRef, or a list of them."
        )
    # No lock: loading may import modules, and a module that is being imported may get something too. Where two threads
    # load the same object at once, both receive the one that was there first.
    found = _loaded.get(refs.id, _MISSING)
    return _loaded.setdefault(refs.id, _load(refs)) if found is _MISSING else found


def stored() -> list[ObjectRef[Any]]:
    """Return the references of what this process has put."""
    return list(_stored.values())


def expect() -> None:
    """Tell the processes that this one starts from now on where they find what :func:`adopt` stores later."""
    import tempfile

    bases = [_SHARED_MEMORY] if os.access(_SHARED_MEMORY, os.W_OK) else []
    with contextlib.suppress(FileNotFoundError):
        bases.append(Path(tempfile.gettempdir()))
    for base in bases:
        with contextlib.suppress(OSError):
            _announce(_owner.folder(base))


def adopt(ref: ObjectRef[Any], data: Any) -> None:
    """Store an object that another machine has put, for the processes that this one starts from now on.

    Those that were started after :func:`expect` find it, too.

    Args:
        ref: its reference.
        data: the bytes of its file, as anything that has a buffer.

    Raises:
        StorageError: there is no room for it.
    """

    def write(path: Path) -> None:
        # Nobody may find a part of it.
        arriving = path.with_name(f"arriving-{os.urandom(8).hex()}{OBJECT_SUFFIX}")
        try:
            arriving.write_bytes(data)
            os.replace(arriving, path)
        finally:
            arriving.unlink(missing_ok=True)

    _announce(_write_somewhere(ref.id, ref.size, write).parent)


def _announce(folder: Path) -> None:
    folders = os.environ.get(_ADOPTED, "")
    if str(folder) not in folders.split(os.pathsep):
        os.environ[_ADOPTED] = os.pathsep.join(filter(None, (folders, str(folder))))


def _paths_of(ref: ObjectRef[Any]) -> list[str]:
    """Return where the object's file may be: where it was put, or where a process above this one has stored a copy."""
    folders = os.environ.get(_ADOPTED, "").split(os.pathsep)
    return [ref.path, *(os.path.join(folder, ref.id + OBJECT_SUFFIX) for folder in folders if folder)]


def free_all() -> None:
    """Delete what this process has put, and forget what it got. What is in use stays mapped until nothing uses it."""
    _loaded.clear()
    _stored.clear()
    _owner.free()


_loaded: dict[str, Any] = {}
"""The objects that this process has got, by the ids of their references."""
_MISSING = object()
_stored: dict[str, ObjectRef[Any]] = {}
"""The references of what this process has put, by their ids."""
_ADOPTED = "SHOAL_OBJECTS"
"""The environment variable with the folders of objects that came from another machine."""


# Pickling


@dataclass(frozen=True, slots=True)
class _Buffer:
    """Memory that is written beside the pickle."""

    view: memoryview
    writable: bool


@dataclass(frozen=True, slots=True)
class _Pickled:
    """An object as bytes, with the memory that was not copied into them."""

    data: memoryview
    buffers: tuple[_Buffer, ...]

    @property
    def size(self) -> int:
        """The bytes of the file, short of what aligns the buffers."""
        return len(self.data) + sum(len(buffer.view) for buffer in self.buffers)


def _pickle(obj: Any) -> _Pickled:
    import io

    from .pickles import pickler

    rules = _Rules()
    stream = io.BytesIO()
    try:
        pickler(rules.reducers())(stream, protocol=5, buffer_callback=rules.take).dump(obj)
    except Exception as error:
        # Whatever the objects' own methods raise.
        raise ConfigError(
            f"put: the object ({type(obj).__name__}) cannot be pickled, so it cannot be stored: "
            f"{type(error).__name__}: {error}. Put plain data, arrays or models, and create locks, open files, "
            f"connections and generators inside the trainable."
        ) from error
    return _Pickled(stream.getbuffer(), tuple(rules.buffers))


class _Rules:
    """How NumPy arrays and torch storages are pickled, so that their memory stays outside of the pickle."""

    def __init__(self) -> None:
        self.buffers: list[_Buffer] = []
        self._writable: set[int] = set()
        """The ids of buffers that are to be mapped writable."""
        self._kept: list[Any] = []
        """What must live until it is written, because a buffer only knows its address."""

    def reducers(self) -> dict[type[Any], Callable[[Any], Any]]:
        """Return a function for each type, and no other: an object cannot hold an array of a NumPy not yet imported."""
        rules: dict[type[Any], Callable[[Any], Any]] = {}
        numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
        if numpy is not None and hasattr(numpy, "ndarray"):
            rules[numpy.ndarray] = rules[numpy.memmap] = _reduce_array
        if torch is not None and hasattr(torch, "UntypedStorage"):
            rules[torch.UntypedStorage] = self._reduce_storage
            rules[torch.storage.TypedStorage] = _reduce_typed_storage
            rules[torch.Tensor] = _reduce_tensor
        return rules

    def take(self, buffer: PickleBuffer) -> None:
        """Keep memory that pickle leaves outside."""
        self._kept.append(buffer)
        self.buffers.append(_Buffer(buffer.raw(), id(buffer) in self._writable))

    def _reduce_storage(self, storage: Any) -> Any:
        import ctypes
        from pickle import PickleBuffer

        if storage.device.type == "meta":
            return storage.__reduce_ex__(5)
        if storage.device.type != "cpu":
            storage = storage.cpu()
        size = storage.nbytes()
        if size == 0:
            return _empty_storage, ()
        self._kept.append(storage)
        buffer = PickleBuffer((ctypes.c_char * size).from_address(storage.data_ptr()))
        self._writable.add(id(buffer))
        return _map_storage, (buffer,)


def _reduce_array(array: Any) -> Any:
    """NumPy's own way leaves out arrays with gaps, dates and memory maps, which would come back as writable copies."""
    from pickle import PickleBuffer

    import numpy

    if array.dtype.hasobject or array.dtype.itemsize == 0:
        return array.__reduce_ex__(5)
    shape, dtype = array.shape, array.dtype
    in_fortran_order = array.flags.f_contiguous and not array.flags.c_contiguous
    array = numpy.ascontiguousarray(array.T if in_fortran_order else array)
    memory: Any = numpy.asarray(array).reshape(-1).view(numpy.uint8)
    return _map_array, (PickleBuffer(memory), dtype, shape, "F" if in_fortran_order else "C")


def _map_array(buffer: Any, dtype: Any, shape: tuple[int, ...], order: Any) -> Any:
    import numpy

    # Not ndarray(buffer=...): it looks through the view at the mapping, and would let itself be made writable.
    return numpy.frombuffer(buffer, numpy.uint8).view(dtype).reshape(shape, order=order)


def _reduce_typed_storage(storage: Any) -> Any:
    # Tensors that share memory each make a TypedStorage of their own around the same untyped one. pickle meets that one
    # again and knows it.
    return _type_storage, (storage._untyped_storage, storage.dtype)


def _reduce_tensor(tensor: Any) -> Any:
    """torch's own way, but for its newest dtypes (uint16, float8, ...): there it cannot read what it has written."""
    import torch

    function, arguments = tensor.__reduce_ex__(5)
    if arguments and isinstance(arguments[0], torch.UntypedStorage):
        arguments = (_type_storage(arguments[0], torch.uint8), *arguments[1:])
    return function, arguments


def _type_storage(storage: Any, dtype: Any) -> Any:
    import torch

    return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def _map_storage(buffer: Any) -> Any:
    import torch

    return torch.frombuffer(buffer, dtype=torch.uint8).untyped_storage()


def _empty_storage() -> Any:
    import torch

    return torch.UntypedStorage(0)


# Files


def _write(path: Path, pickled: _Pickled) -> None:
    import struct

    start = struct.calcsize(_HEADER) + len(pickled.buffers) * struct.calcsize(_ENTRY) + len(pickled.data)
    table: list[tuple[int, int, int]] = []
    for buffer in pickled.buffers:
        start += -start % _ALIGNMENT
        table.append((start, len(buffer.view), buffer.writable))
        start += len(buffer.view)
    try:
        with path.open("xb") as file:
            file.write(struct.pack(_HEADER, _MAGIC, len(pickled.data), len(table)))
            for entry in table:
                file.write(struct.pack(_ENTRY, *entry))
            file.write(pickled.data)
            for buffer in pickled.buffers:
                file.write(bytes(-file.tell() % _ALIGNMENT))
                file.write(buffer.view)
    except BaseException:
        # Ctrl-C too: half an object would lie there until the end.
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _load(ref: ObjectRef[Any]) -> Any:
    import pickle
    import struct

    view = _map(ref)
    magic, length, count = struct.unpack_from(_HEADER, view)
    if magic != _MAGIC:
        raise StorageError(f"get: {ref.path} was not written by this version of Shoal. Put the object again.")
    entry = struct.calcsize(_ENTRY)
    table_end = struct.calcsize(_HEADER) + count * entry
    buffers: list[memoryview] = []
    for offset, size, writable in struct.iter_unpack(_ENTRY, view[table_end - count * entry : table_end]):
        buffer = view[offset : offset + size]
        buffers.append(buffer if writable else buffer.toreadonly())
    try:
        return pickle.loads(view[table_end : table_end + length], buffers=buffers)
    except Exception as error:
        # Unpickling runs code of the user's modules, so anything can be raised; most often a module is not there.
        raise ConfigError(
            f"get: the object of {ref!r} cannot be loaded in this process: {type(error).__name__}: {error}. The "
            f"modules of its classes must be importable here."
        ) from error


def _map(ref: ObjectRef[Any]) -> memoryview:
    import mmap

    path = next(filter(os.path.isfile, _paths_of(ref)), ref.path)
    try:
        with open(path, "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except FileNotFoundError:
        if os.environ.get(_ADOPTED):  # on a node of a cluster, where objects are stored that others have put
            raise ConfigError(
                f"get: the object of {ref!r} is not on this node. Either there was no room for it here, which a note "
                f"of the run says, or the process that put it has ended or has called shoal.shutdown(). Make room in "
                f"/dev/shm or TMPDIR of this node, or put the object again (with_parameters: call it again)."
            ) from None
        raise ConfigError(
            f"get: the object of {ref!r} is gone, because the process that put it has ended or has called "
            f"shoal.shutdown(). Put it again (with_parameters: call it again) and use the new reference. For a "
            f"restored experiment give Tuner.restore(..., param_space=...) the new reference."
        ) from None
    except (OSError, ValueError) as error:
        # ValueError: the file is empty.
        raise StorageError(f"get: the file of {ref!r} cannot be read: {error}. Put the object again.") from error


# Where files lie


_owner = Owner("objects")


def _store(pickled: _Pickled) -> ObjectRef[Any]:
    """Write an object to a file of its own."""
    name = os.urandom(12).hex()
    path = _write_somewhere(name, pickled.size, lambda path: _write(path, pickled))
    ref: ObjectRef[Any] = ObjectRef(name, pickled.size, str(path))
    _stored[name] = ref
    return ref


def _write_somewhere(name: str, size: int, write: Callable[[Path], object]) -> Path:
    """Write an object's file where there is room for it, and return where that is."""
    reasons: list[str] = []
    for base in _places_for(size):
        try:
            path = _owner.folder(base) / (name + OBJECT_SUFFIX)
            write(path)
        except OSError as error:
            reasons.append(f"{base} ({_size_text(_free_space(base))} free): {error.strerror or error}")
        else:
            return path
    raise StorageError(
        f"put: there is no room for an object of {_size_text(size)}. {'; '.join(reasons)}. Make room "
        f"there, or set the environment variable TMPDIR to a folder that has enough."
    )


def _places_for(size: int) -> Iterator[Path]:
    """Yield where to try to store so many bytes."""
    import tempfile

    if os.access(_SHARED_MEMORY, os.W_OK):
        room = min(_free_space(_SHARED_MEMORY), resources.memory_available(), _memory_left_in_container())
        if size <= room / 2:
            yield _SHARED_MEMORY
    try:
        yield Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise StorageError(
            f"put: {error.strerror or error}. Set the environment variable TMPDIR to a folder that can be written to."
        ) from error


def _free_space(folder: Path) -> int:
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def _memory_left_in_container() -> float:
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text()
        return int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return float("inf")  # no such limit here


def _size_text(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
