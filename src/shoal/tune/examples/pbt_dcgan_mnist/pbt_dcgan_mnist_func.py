"""See :mod:`shoal.examples.pbt_dcgan_mnist.pbt_dcgan_mnist_func`."""

from __future__ import annotations

from ....examples.pbt_dcgan_mnist.pbt_dcgan_mnist_func import dcgan_train, download_mnist_cnn

__all__ = ["dcgan_train", "download_mnist_cnn"]
