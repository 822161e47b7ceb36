"""Arrays and tensors come back equal, and their memory is that of the stored object."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal import objects
from shoal.objects import ObjectRef, free_all, get, put


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    free_all()


def round_trip(obj: Any) -> Any:
    return get(put(obj))


def address_in_file(address: int, ref: ObjectRef[Any]) -> bool:
    """Return whether memory at an address is that of the object's file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, _, end = line.split()[0].partition("-")
        if int(start, 16) <= address < int(end, 16):
            return line.endswith(ref.path)
    return False


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
