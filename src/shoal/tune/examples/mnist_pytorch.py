"""See :mod:`shoal.examples.mnist_pytorch`."""

from __future__ import annotations

from ...examples.mnist_pytorch import ConvNet, get_data_loaders, test_func, train_convnet, train_func

__all__ = ["ConvNet", "get_data_loaders", "test_func", "train_convnet", "train_func"]
