"""Objects are stored once, come back equal, share their memory, and are gone when they should be."""

from __future__ import annotations

import copy
import datetime
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import shoal
from shoal import objects
from shoal.errors import ConfigError, StorageError
from shoal.objects import ObjectRef, free_all, get, put


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """Stand-ins for /dev/shm and /tmp, of this test alone."""
    free_all()
    shared, temporary = tmp_path / "shm", tmp_path / "tmp"
    shared.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(objects, "_SHARED_MEMORY", shared)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield shared, temporary
    free_all()
    assert not [*shared.iterdir(), *temporary.glob("shoal*")]


def round_trip(obj: Any) -> Any:
    return get(put(obj))


def address_in_file(address: int, ref: ObjectRef[Any]) -> bool:
    """Return whether memory at an address is that of the object's file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, _, end = line.split()[0].partition("-")
        if int(start, 16) <= address < int(end, 16):
            return line.endswith(ref.path)
    return False


# Any object


class Point(NamedTuple):
    x: int
    y: int


@pytest.mark.parametrize(
    "obj",
    [
        None,
        0,
        "text",
        b"bytes" * 1000,
        bytearray(b"x"),
        [],
        {"a": [1, (2, {3})]},
        Point(1, 2),
        datetime.date(2020, 1, 1),
        range(5),
        len,
    ],
    ids=repr,
)
def test_an_object_comes_back_equal(obj: Any) -> None:
    found = round_trip(obj)
    assert found == obj
    assert type(found) is type(obj)


def test_functions_and_classes_travel_by_value_where_nobody_can_import_them() -> None:
    class Local:
        def __init__(self, value: int) -> None:
            self.value = value

    assert round_trip(lambda value: value + 1)(1) == 2
    assert isinstance(round_trip(Local(3)), Local)


def test_a_second_get_in_the_process_returns_the_same_object() -> None:
    ref = put({"a": [1]})
    assert get(ref) is get(ref)
    assert get(pickle.loads(pickle.dumps(ref))) is get(ref)


def test_what_is_stored_is_the_object_as_it_was() -> None:
    data = np.zeros(3)
    ref = put([data])
    data[:] = 1
    assert get(ref)[0].tolist() == [0, 0, 0]
    assert get(ref)[0] is not data


def test_a_list_of_references_gives_a_list_in_its_order() -> None:
    one, two, three = put("one"), put("two"), put("three")
    assert get([three, one, two, one]) == ["three", "one", "two", "one"]
    assert get((two, one)) == ["two", "one"]
    assert get([[one, two], three]) == [["one", "two"], "three"]
    assert get([]) == []
    assert get(one, timeout=1.5) == "one"


def test_an_object_may_hold_references() -> None:
    inner = put("inner")
    assert round_trip({"ref": inner}) == {"ref": inner}


def test_threads_that_get_at_once_receive_one_object() -> None:
    ref = put(list(range(100_000)))
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(get(ref))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(each) for each in found}) == 1


def test_threads_that_put_at_once_share_one_folder(places: tuple[Path, Path]) -> None:
    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(places[0].iterdir())) == 1
    assert len(list(places[0].rglob("*.object"))) == 8


def test_a_reference_is_small_frozen_hashable_and_says_what_it_stands_for() -> None:
    ref = put(np.zeros(12_345_678 // 8))
    assert len(pickle.dumps(ref)) < 500
    assert repr(ref) == f"ObjectRef({ref.id[:8]}..., 12.3 MB)"
    again = pickle.loads(pickle.dumps(ref))
    assert again == ref
    assert copy.deepcopy(ref) == ref
    assert {ref: 1}[again] == 1
    assert put(0) != put(0)
    with pytest.raises(AttributeError):
        ref.id = "other"  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (3.2e9, "3.2 GB"), (7e12, "7000.0 GB")],
)
def test_sizes_are_shown_in_decimal_units(size: float, text: str) -> None:
    assert repr(ObjectRef("0123456789", int(size), "/nowhere")) == f"ObjectRef(01234567..., {text})"


# NumPy

ARRAYS: dict[str, Any] = {
    "plain": np.arange(12.0).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(12).reshape(3, 4)),
    "transposed": np.arange(24).reshape(2, 3, 4).T,
    "gaps": np.arange(12)[::3],
    "backwards": np.arange(5)[::-1],
    "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
    "permuted": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "empty": np.zeros((0, 3)),
    "scalar": np.array(5),
    "bool": np.array([True, False]),
    "half": np.zeros(3, np.float16),
    "complex": np.array([1j, 2]),
    "date": np.array(["2020-01-01", "NaT"], "M8[D]"),
    "duration": np.array([1, 2], "m8[s]"),
    "text": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bcd"]),
    "record": np.array([(1, 2.5)], [("a", "i4"), ("b", "f8")]),
    "big endian": np.arange(3, dtype=">i4"),
    "read-only": np.frombuffer(b"12345678", np.uint8),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_equal_and_read_only_with_its_memory_mapped(name: str) -> None:
    array = ARRAYS[name]
    ref = put({"array": array})
    found = get(ref)["array"]
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.shape, type(found)) == (array.dtype, array.shape, np.ndarray)
    assert found.flags.aligned
    with pytest.raises(ValueError, match="read-only"):
        found[...] = found
    with pytest.raises(ValueError, match="WRITEABLE"):
        found.flags.writeable = True
    if sys.platform == "linux" and array.size:
        assert address_in_file(found.ctypes.data, ref)
        assert found.ctypes.data % 64 == 0


@pytest.mark.parametrize(
    "array",
    [np.array([1, None, "x"], object), np.array(["a", "long" * 20], np.dtypes.StringDType()), np.zeros(3, "S0")],
    ids=["objects", "strings", "nothing"],
)
def test_an_array_whose_memory_says_nothing_elsewhere_is_copied(array: Any) -> None:
    found = round_trip(array)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype


def test_a_memory_map_comes_back_as_an_array_that_shares_the_memory_of_its_copy(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.arange(1000))
    data = np.load(tmp_path / "data.npy", mmap_mode="r")
    ref = put(data)
    assert type(get(ref)) is np.ndarray
    assert get(ref).tolist() == list(range(1000))
    assert not get(ref).flags.writeable
    assert ref.size > 8000


def test_subclasses_of_arrays_keep_their_type() -> None:
    masked = np.ma.masked_array([1, 2, 3], [False, True, False])
    found = round_trip(masked)
    assert type(found) is type(masked)
    assert found.tolist() == [1, None, 3]


def test_an_array_in_two_places_is_one_array() -> None:
    array = np.zeros(1000)
    ref = put({"one": array, "other": [array]})
    found: Any = get(ref)
    assert found["one"] is found["other"][0]
    assert ref.size < 8500


def test_a_data_frame_shares_its_memory() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": np.arange(1000.0), "b": np.arange(1000), "c": ["x"] * 1000})
    found = round_trip(frame)
    pd.testing.assert_frame_equal(found, frame)
    assert not found["a"].to_numpy().flags.writeable


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | hnp.arrays(
        hnp.scalar_dtypes() | hnp.array_dtypes(),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
nested = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
        assert not found.flags.writeable or expected.dtype.itemsize == 0
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    else:
        assert found == expected


@settings(max_examples=150, deadline=None)
@given(nested)
def test_nested_structures_come_back_as_they_were(obj: Any) -> None:
    try:
        assert_same(round_trip(obj), obj)
    finally:
        free_all()


# torch


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.bool,
        torch.uint8,
        torch.int64,
        torch.complex64,
        torch.uint16,
        torch.float8_e4m3fn,
    ],
    ids=str,
)
def test_a_tensor_of_any_type_comes_back_equal_with_its_memory_mapped(dtype: torch.dtype) -> None:
    tensor = torch.tensor([0, 1, 0, 3]).to(dtype)
    ref = put([tensor])
    found = get(ref)[0]
    assert found.dtype == dtype
    assert found.tolist() == tensor.tolist()
    if sys.platform == "linux":
        assert address_in_file(found.data_ptr(), ref)
        assert found.data_ptr() % 64 == 0


def test_views_keep_their_strides_and_share_the_memory_of_what_they_look_at() -> None:
    base = torch.arange(20.0).reshape(4, 5)
    ref = put([base, base.t(), base[1:3, ::2], base.expand(2, 4, 5)])
    found = get(ref)
    for one, other in zip(found, [base, base.t(), base[1:3, ::2], base.expand(2, 4, 5)], strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()
        assert one.storage_offset() == other.storage_offset()
    assert len({each.untyped_storage().data_ptr() for each in found}) == 1
    found[0][1, 0] = 100
    assert found[2][0, 0] == 100


def test_empty_tensors_and_those_that_need_a_gradient() -> None:
    empty, shaped, leaf, number = round_trip(
        [torch.empty(0), torch.empty(0, 3), torch.ones(2, requires_grad=True), torch.tensor(3)]
    )
    assert (tuple(empty.shape), tuple(shaped.shape)) == ((0,), (0, 3))
    assert leaf.requires_grad
    assert not shaped.requires_grad
    leaf.sum().backward()
    assert leaf.grad.tolist() == [1, 1]
    assert number == 3


class Model(torch.nn.Module):
    """Two layers that share their weights, and a layer with buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.second = torch.nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(self.norm(self.first(x)))
        return result


def test_a_model_computes_the_same_has_tied_weights_and_no_memory_of_its_own() -> None:
    model = Model().eval()
    ref = put(model)
    found = get(ref)
    x = torch.randn(3, 4)
    assert torch.equal(found(x), model(x))
    assert not found.training
    assert isinstance(found.first.weight, torch.nn.Parameter)
    assert found.first.weight is found.second.weight
    assert [name for name, _ in found.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert {name: value.tolist() for name, value in found.state_dict().items()} == {
        name: value.tolist() for name, value in model.state_dict().items()
    }
    if sys.platform == "linux":
        assert all(address_in_file(value.data_ptr(), ref) for value in found.state_dict().values())


def test_a_copy_of_a_model_can_be_trained_and_leaves_the_object_as_it_was() -> None:
    ref = put(Model())
    mine = copy.deepcopy(get(ref))
    before = get(ref).first.weight.tolist()
    optimizer = torch.optim.SGD(mine.parameters(), lr=0.1)
    mine(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    assert mine.first.weight.tolist() != before
    assert get(ref).first.weight.tolist() == before


def test_a_write_to_a_tensor_changes_it_in_this_process_only() -> None:
    ref = put(torch.zeros(5000))
    stored = Path(ref.path).read_bytes()
    get(ref).add_(1)
    assert get(ref).sum() == 5000
    assert Path(ref.path).read_bytes() == stored


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_a_write_through_torch_to_an_array_ends_no_process() -> None:
    ref = put(np.zeros(5000))
    stored = Path(ref.path).read_bytes()
    torch.from_numpy(get(ref)).add_(1)
    assert Path(ref.path).read_bytes() == stored


def test_sparse_quantized_and_meta_tensors_travel_too() -> None:
    dense = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantized tensors are about to leave torch
        quantized = torch.quantize_per_tensor(dense, 0.5, 0, torch.qint8)
        sparse, quant, meta = round_trip([dense.to_sparse(), quantized, torch.empty(3, device="meta")])
    assert sparse.to_dense().tolist() == dense.tolist()
    assert quant.dequantize().tolist() == dense.tolist()
    assert meta.device.type == "meta"


def test_storages_themselves_keep_what_they_share() -> None:
    tensor = torch.arange(4.0)
    found, untyped, typed = round_trip([tensor, tensor.untyped_storage(), tensor._typed_storage()])
    assert untyped.data_ptr() == found.data_ptr()
    assert typed._untyped_storage.data_ptr() == found.data_ptr()


def test_memory_of_another_device_is_brought_to_the_cpu() -> None:
    host = torch.arange(4.0).untyped_storage()

    class OnDevice:
        device = torch.device("cuda:1")

        def cpu(self) -> Any:
            return host

    rules = objects._Rules()
    function, (buffer,) = rules._reduce_storage(OnDevice())
    rules.take(buffer)
    assert function(bytearray(rules.buffers[0].view)).tolist() == host.tolist()
    assert rules.buffers[0].writable


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_model_on_a_gpu_comes_back_on_the_cpu() -> None:
    model = Model().cuda()
    found = round_trip(model)
    assert {value.device.type for value in found.state_dict().values()} == {"cpu"}
    assert found.first.weight.tolist() == model.first.weight.tolist()
    assert found.first.weight is found.second.weight


def test_neither_numpy_nor_torch_is_imported_for_objects_without_them() -> None:
    source = (
        "import sys, shoal.objects as objects\n"
        "loaded = set(sys.modules)\n"
        "assert objects.get(objects.put({'a': [1]})) == {'a': [1]}\n"
        "print(*sorted({'cloudpickle', 'numpy', 'torch', 'mmap'} & loaded), '-',"
        " *sorted({'numpy', 'torch'} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.split() == ["-"]


# Errors


def iter_nothing() -> Iterator[None]:
    yield


@pytest.mark.parametrize("value", [3, "ref", None, {"a": 1}], ids=repr)
def test_what_is_no_reference_is_an_error_that_says_what_one_is(value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"get: .*{type(value).__name__}.* is no reference.*shoal\.put.*ObjectRef"):
        get(value)
    with pytest.raises(ConfigError, match="is no reference"):
        get([put(1), value])


def test_a_reference_is_not_stored_again() -> None:
    ref = put(1)
    with pytest.raises(ConfigError, match=r"put: .*reference already, ObjectRef\(.*Pass it on"):
        put(ref)


@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        (iter_nothing(), "generator"),
        ({"lock": threading.Lock()}, "_thread.lock"),
        ([threading.local()], "_thread._local"),
    ],
    ids=["generator", "lock", "local"],
)
def test_what_cannot_be_pickled_is_an_error_with_type_and_reason(obj: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"put: the object \({type(obj).__name__}\) cannot be pickled.*{reason}"):
        put(obj)


@pytest.mark.parametrize("cached", [True, False])
def test_the_object_of_a_reference_is_gone_after_shutdown(cached: bool) -> None:
    ref = put([1])
    if cached:
        get(ref)
    shoal.shutdown()
    with pytest.raises(ConfigError, match=r"is gone.*Put it again.*Tuner\.restore\(\.\.\., param_space=\.\.\.\)"):
        get(ref)
    assert get(put([2])) == [2]


def test_what_is_in_use_outlives_its_file() -> None:
    array = round_trip(np.arange(10_000))
    tensor = round_trip(torch.arange(10_000))
    free_all()
    assert array.sum() == tensor.sum() == 49_995_000


def test_an_object_whose_class_cannot_be_loaded_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_of_an_object.py").write_text("class Thing: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import module_of_an_object  # type: ignore[import-not-found] # pyright: ignore[reportMissingImports]

    ref = put(module_of_an_object.Thing())
    monkeypatch.delitem(sys.modules, "module_of_an_object")
    (tmp_path / "module_of_an_object.py").unlink()
    with pytest.raises(ConfigError, match=r"cannot be loaded in this process: ModuleNotFoundError: .*module_of_an"):
        get(ref)


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_a_file_that_holds_something_else_is_an_error(content: bytes) -> None:
    ref = put([1])
    Path(ref.path).write_bytes(content)
    with pytest.raises(StorageError, match=r"Put the object again"):
        get(ref)


# Where objects lie, and for how long


def test_objects_lie_in_shared_memory_in_a_folder_of_this_process_that_no_other_user_enters(
    places: tuple[Path, Path],
) -> None:
    ref, other = put(1), put(2)
    folder = Path(ref.path).parent
    assert folder.parent == places[0]
    assert Path(other.path).parent == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not list(places[1].glob("shoal*"))


@pytest.mark.parametrize("room", ["shared", "memory", "container"])
def test_an_object_that_takes_more_than_half_of_the_room_goes_to_the_temporary_folder(
    room: str, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {"shared": 1e15, "memory": 1e15, "container": 1e15, room: 1e6}

    class Memory:
        available = free["memory"]

    monkeypatch.setattr(objects, "_free_space", lambda folder: free["shared"] if folder == places[0] else 1e15)
    monkeypatch.setattr(objects, "_memory_left_in_container", lambda: free["container"])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory)
    small, large = put(bytes(400_000)), put(bytes(600_000))
    assert Path(small.path).parents[1] == places[0]
    assert Path(large.path).parents[1] == places[1]
    assert get([small, large]) == [bytes(400_000), bytes(600_000)]


def test_without_shared_memory_objects_lie_in_the_temporary_folder(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_SHARED_MEMORY", places[0] / "missing")
    assert Path(put(1).path).parents[1] == places[1]


def test_where_shared_memory_turns_out_to_be_full_the_temporary_folder_is_tried(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_write", full(places[0]))
    ref = put(5)
    assert Path(ref.path).parents[1] == places[1]
    assert get(ref) == 5


def test_no_room_anywhere_is_an_error_that_names_the_places_and_what_to_set(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_write", full(places[0], places[1]))
    with pytest.raises(StorageError, match=r"no room for an object of 1\.0 MB.*shm.*No space left.*tmp.*TMPDIR"):
        put(bytes(1_000_000))


def full(*bases: Path) -> Any:
    write = objects._write

    def write_unless_full(path: Path, pickled: Any) -> None:
        if path.parents[1] in bases:
            raise OSError(28, "No space left on device")
        write(path, pickled)

    return write_unless_full


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    source = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from shoal import objects\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        f"objects._SHARED_MEMORY = Path({str(tmp_path)!r}, 'shm')\n"
        "objects.put(b'small')\n"
        "try:\n"
        "    objects.put(bytes(1 << 23))\n"
        "except objects.StorageError as error:\n"
        "    print(error)\n"
        f"print([path.stat().st_size > 1000 for path in Path({str(tmp_path)!r}).rglob('*.object')])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "no room for an object of 8.4 MB" in ran.stdout
    assert "File too large" in ran.stdout
    assert ran.stdout.endswith("[False]\n")


def test_no_folder_for_temporary_files_is_an_error(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(objects, "_SHARED_MEMORY", places[0] / "missing")
    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(StorageError, match=r"No usable temporary directory found.*TMPDIR"):
        put(1)


def ended_pid() -> int:
    """Return the number of a process that is gone."""
    ran = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    return int(ran.stdout)


def left_behind(base: Path, pid: int, *, prefix: str | None = None) -> Path:
    """Make what a killed process leaves."""
    folder = base / f"{objects._prefix() if prefix is None else prefix}{pid}-abc"
    folder.mkdir(mode=0o700)
    (folder / "1.object").write_bytes(b"x")
    return folder


def test_what_a_killed_process_left_is_swept_by_the_next_put(places: tuple[Path, Path]) -> None:
    folder = left_behind(places[0], ended_pid())
    put(1)
    assert not folder.exists()


def test_what_is_not_surely_left_behind_stays(places: tuple[Path, Path]) -> None:
    fcntl = pytest.importorskip("fcntl")
    dead = ended_pid()
    alive = left_behind(places[0], os.getppid())
    locked = left_behind(places[0], dead)
    lock = os.open(locked, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    other_machine = left_behind(places[0], dead, prefix=f"shoal-objects-{os.geteuid()}-0123-")
    other_user = left_behind(places[0], dead, prefix=f"shoal-objects-{os.geteuid() + 1}-")
    elsewhere = left_behind(places[0], dead, prefix="elsewhere-")
    link = places[0] / f"{objects._prefix()}{dead}-link"
    link.symlink_to(elsewhere)
    put(1)
    kept = [alive, locked, other_machine, other_user, elsewhere]
    assert all((folder / "1.object").exists() for folder in kept)
    assert link.is_symlink()
    os.close(lock)
    free_all()  # sweeps too
    assert not locked.exists()
    link.unlink()
    for folder in kept:
        if folder.exists():
            (folder / "1.object").unlink()
            folder.rmdir()


def test_files_of_others_in_a_folder_that_is_swept_stay(places: tuple[Path, Path]) -> None:
    folder = left_behind(places[0], ended_pid())
    (folder / "notes.txt").write_text("keep")
    put(1)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    folder.rmdir()


def test_a_folder_that_is_swept_while_it_is_made_is_made_again(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = tempfile.mkdtemp
    made: list[str] = []

    def make_and_lose(*args: Any, **kwargs: Any) -> str:
        made.append(make(*args, **kwargs))
        if len(made) == 1:
            opened = os.open(made[0], os.O_RDONLY)
            monkeypatch.setattr(os, "open", lambda path, flags: opened)
            os.rmdir(made[0])
        else:
            monkeypatch.undo()
            monkeypatch.setattr(objects, "_SHARED_MEMORY", places[0])
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose)
    monkeypatch.setattr(objects, "_sweep", lambda base: None)
    ref = put(7)
    assert len(made) == 2
    assert Path(ref.path).parent == Path(made[1])
    assert get(ref) == 7
