"""The function that trains one DCGAN of a population; its parts are in ``common``."""

from __future__ import annotations

import os
import tempfile
from typing import Any, cast

import torch
from torch import nn, optim

from shoal import tune
from shoal.examples.pbt_dcgan_mnist.common import (
    Discriminator,
    Generator,
    beta1,
    get_data_loader,
    train_func,
    weights_init,
)
from shoal.examples.pbt_dcgan_mnist.lenet import download_mnist_cnn

__all__ = ["dcgan_train", "download_mnist_cnn"]

DEFAULT_RATE = 0.0002
"""Adam's learning rate where the config names none (Radford et al. 2016, arXiv:1511.06434, section 4)."""


def dcgan_train(config: dict[str, Any]) -> None:
    """Train a generator and a discriminator until told to stop; the function that each member of the population runs.

    Each round of training is one report, with the losses ``lossg`` and ``lossd`` and the inception score ``is_score``.
    A checkpoint is the file ``checkpoint.pt`` with the states of both networks and both optimizers (``netGmodel``,
    ``netDmodel``, ``optimG``, ``optimD``) and the number of the round (``step``).

    Args:
        config: ``netG_lr`` and ``netD_lr``, the learning rates (default: ``lr``, else 0.0002); ``mnist_model_ref``,
            which scores (see :func:`~shoal.examples.pbt_dcgan_mnist.common.inception_score`);
            ``checkpoint_interval``: how many rounds lie between two checkpoints (default 1); ``use_gpu``: whether to
            train on a GPU if there is one (default False); ``data_dir``: see
            :func:`~shoal.examples.pbt_dcgan_mnist.common.get_data_loader`.
    """
    device = torch.device("cuda" if config.get("use_gpu") and torch.cuda.is_available() else "cpu")
    netD, optimizerD, rate_d = _prepare(Discriminator(), "netD_lr", config, device)
    netG, optimizerG, rate_g = _prepare(Generator(), "netG_lr", config, device)
    criterion = nn.BCELoss()
    dataloader = get_data_loader(config.get("data_dir"))
    step = 1

    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = torch.load(os.path.join(folder, "checkpoint.pt"), map_location=device, weights_only=True)
        netD.load_state_dict(state["netDmodel"])
        netG.load_state_dict(state["netGmodel"])
        # The optimizers' states bring the learning rates of the member that was copied. Those of this config must go
        # back in, or the perturbation has no effect.
        for optimizer, saved, rate in ((optimizerD, "optimD", rate_d), (optimizerG, "optimG", rate_g)):
            optimizer.load_state_dict(state[saved])
            for group in optimizer.param_groups:
                group["lr"] = rate
        step = state["step"] + 1

    while True:
        lossg, lossd, is_score = train_func(
            netD, netG, optimizerG, optimizerD, criterion, dataloader, step, device, config["mnist_model_ref"]
        )
        metrics = {"lossg": lossg, "lossd": lossd, "is_score": is_score}
        if step % config.get("checkpoint_interval", 1) == 0:
            with tempfile.TemporaryDirectory() as folder:
                state = {
                    "netDmodel": netD.state_dict(),
                    "netGmodel": netG.state_dict(),
                    "optimD": optimizerD.state_dict(),
                    "optimG": optimizerG.state_dict(),
                    "step": step,
                }
                torch.save(state, os.path.join(folder, "checkpoint.pt"))
                tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))
        else:
            tune.report(metrics)
        step += 1


def _prepare(
    network: nn.Module, key: str, config: dict[str, Any], device: torch.device
) -> tuple[nn.Module, optim.Optimizer, float]:
    """Return a network with its first weights, its optimizer, and the learning rate that the config has under a key."""
    network.apply(weights_init)
    # The channels of a pixel side by side in memory: the same numbers, a quarter faster on a CPU.
    cast(Any, network).to(device=device, memory_format=torch.channels_last)  # torch's annotations lack the latter
    rate = config.get(key, config.get("lr", DEFAULT_RATE))
    return network, optim.Adam(network.parameters(), lr=rate, betas=(beta1, 0.999)), rate
