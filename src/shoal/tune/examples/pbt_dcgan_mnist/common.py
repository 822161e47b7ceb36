"""See :mod:`shoal.examples.pbt_dcgan_mnist.common`."""

from __future__ import annotations

from ....examples.pbt_dcgan_mnist.common import (
    Discriminator,
    Generator,
    Net,
    batch_size,
    beta1,
    demo_gan,
    get_data_loader,
    image_size,
    inception_score,
    nc,
    ndf,
    ngf,
    nz,
    train_func,
    train_iterations_per_step,
    weights_init,
)

__all__ = [
    "Discriminator",
    "Generator",
    "Net",
    "batch_size",
    "beta1",
    "demo_gan",
    "get_data_loader",
    "image_size",
    "inception_score",
    "nc",
    "ndf",
    "ngf",
    "nz",
    "train_func",
    "train_iterations_per_step",
    "weights_init",
]
