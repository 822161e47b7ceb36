"""``shoal.examples.mnist_pytorch`` and the drawing of ``pbt_mnist``: the parts of the example, without a population."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn, optim
from torch.utils.data import DataLoader

from shoal.examples import mnist_pytorch, pbt_mnist


@pytest.fixture(autouse=True)
def one_thread_and_a_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    yield
    torch.set_num_threads(threads)


def train_some_rounds(rounds: int, lr: float = 0.1, momentum: float = 0.9) -> float:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    train_loader, test_loader = mnist_pytorch.get_data_loaders()
    model = mnist_pytorch.ConvNet()
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    for _ in range(rounds):
        mnist_pytorch.train_func(model, optimizer, train_loader)
    return mnist_pytorch.test_func(model, test_loader)


def test_the_loaders_are_data_loaders_of_normalised_digits() -> None:
    train_loader, test_loader = mnist_pytorch.get_data_loaders()

    assert isinstance(train_loader, DataLoader)
    assert isinstance(test_loader, DataLoader)
    assert len(train_loader) == 63
    assert len(train_loader.dataset) == 4000  # type: ignore[arg-type]
    images, labels = next(iter(train_loader))
    assert images.shape == (64, 1, 28, 28)
    assert images.dtype == torch.float32
    assert labels.shape == (64,)
    assert labels.dtype == torch.int64
    everything = torch.cat([batch for batch, _ in train_loader])
    assert len(everything) == 4000
    assert abs(float(everything.mean())) < 0.05
    assert float(everything.std()) == pytest.approx(1, abs=0.05)


def test_the_training_order_is_new_each_time_and_the_test_order_the_same() -> None:
    train_loader, test_loader = mnist_pytorch.get_data_loaders(batch_size=100)

    first, second = next(iter(train_loader)), next(iter(train_loader))
    assert not torch.equal(first[1], second[1])
    torch.manual_seed(3)
    third = next(iter(train_loader))
    torch.manual_seed(3)
    assert torch.equal(third[0], next(iter(train_loader))[0])
    assert torch.equal(next(iter(test_loader))[0], next(iter(test_loader))[0])


def test_a_single_digit_is_what_a_batch_has_of_it() -> None:
    _, test_loader = mnist_pytorch.get_data_loaders()
    image, label = test_loader.dataset[3]
    images, labels = next(iter(test_loader))

    assert image.shape == (1, 28, 28)
    assert torch.equal(image, images[3])
    assert int(label) == int(labels[3])


def test_the_loaders_work_with_worker_processes_and_can_be_pickled() -> None:
    _, test_loader = mnist_pytorch.get_data_loaders()
    again = DataLoader(
        pickle.loads(pickle.dumps(test_loader.dataset)),
        batch_size=500,
        collate_fn=mnist_pytorch.whole_batch,
        num_workers=1,
    )

    assert [len(labels) for _, labels in again] == [500, 500]


def test_a_round_sees_epoch_size_digits() -> None:
    seen = 0

    class Counting(mnist_pytorch.ConvNet):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            nonlocal seen
            seen += len(images)
            return super().forward(images)

    train_loader, test_loader = mnist_pytorch.get_data_loaders()
    model = Counting()
    mnist_pytorch.train_func(model, optim.SGD(model.parameters(), lr=0.1), train_loader)
    assert seen == mnist_pytorch.EPOCH_SIZE == 512

    seen = 0
    mnist_pytorch.test_func(model, test_loader)
    assert seen == mnist_pytorch.TEST_SIZE == 1000


def test_a_short_loader_ends_the_round() -> None:
    batch = (torch.randn(8, 1, 28, 28), torch.arange(8))
    model = mnist_pytorch.ConvNet()
    before = model.classify.weight.detach().clone()

    mnist_pytorch.train_func(model, optim.SGD(model.parameters(), lr=0.1), [batch], "cpu")

    assert not torch.equal(before, model.classify.weight)
    assert mnist_pytorch.test_func(model, [batch], torch.device("cpu")) * 8 in range(9)


def test_accuracy_is_the_part_that_is_right_of_the_first_test_size_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    class Always3(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(torch.full((len(images),), 3), 10).float()

    images = torch.zeros(4, 1, 28, 28)
    batches = [(images, torch.tensor([3, 3, 1, 3])), (images, torch.tensor([3, 0, 3, 3]))]
    assert mnist_pytorch.test_func(Always3(), batches) == 6 / 8

    monkeypatch.setattr(mnist_pytorch, "TEST_SIZE", 6)
    assert mnist_pytorch.test_func(Always3(), batches) == 4 / 6


def test_no_digits_to_test_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="test_loader is empty"):
        mnist_pytorch.test_func(mnist_pytorch.ConvNet(), [])


def test_a_good_rate_learns_and_a_hopeless_one_does_not() -> None:
    good = train_some_rounds(5)
    hopeless = train_some_rounds(5, lr=1e-5, momentum=0.0)

    assert good > 0.85
    assert hopeless < 0.5


def test_weights_and_optimizer_survive_saving(tmp_path: Path) -> None:
    train_loader, test_loader = mnist_pytorch.get_data_loaders()
    model = mnist_pytorch.ConvNet()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    mnist_pytorch.train_func(model, optimizer, train_loader)
    accuracy = mnist_pytorch.test_func(model, test_loader)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pt")

    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    again = mnist_pytorch.ConvNet()
    again.load_state_dict(state["model"])
    optim.SGD(again.parameters(), lr=0.5, momentum=0.1).load_state_dict(state["optimizer"])
    assert mnist_pytorch.test_func(again, test_loader) == accuracy


def test_processes_that_start_together_get_the_same_result() -> None:
    code = """
import torch
from shoal.examples import mnist_pytorch
torch.set_num_threads(1)
torch.manual_seed(1)
train_loader, test_loader = mnist_pytorch.get_data_loaders()
model = mnist_pytorch.ConvNet()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
mnist_pytorch.train_func(model, optimizer, train_loader)
print(mnist_pytorch.test_func(model, test_loader))
"""
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    scores = [process.communicate()[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0]
    assert float(scores[0]) > 0.5
    assert scores[0] == scores[1]


def test_the_learning_curves_are_drawn_without_what_an_exploit_took_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = [
        pd.DataFrame(
            {
                "training_iteration": [1, 2, 3, 4, 3, 4],
                "mean_accuracy": [0.1, 0.2, 0.3, 0.4, 0.8, 0.9 + member / 100],
                "lr": [0.1, 0.1, 0.1, 0.1, 0.2, 0.2],
            }
        )
        for member in range(8)
    ]
    drawn: list[Figure] = []
    save = Figure.savefig

    def keep_and_save(figure: Figure, path: Path) -> None:
        drawn.append(figure)
        save(figure, path)

    monkeypatch.setattr(Figure, "savefig", keep_and_save)
    picture = tmp_path / "learning_curve.png"

    pbt_mnist.plot_learning_curves(curves, 5, 0.96, picture)

    accuracy, rate = drawn[0].axes
    *members, target = accuracy.get_lines()
    assert [line.get_label() for line in members] == [
        f"member {n}: {90 + n}.0%" + (" (best)" if n == 5 else "") for n in range(8)
    ]
    assert list(members[2].get_xdata()) == [1, 2, 3, 4]  # type: ignore[arg-type]
    assert list(members[2].get_ydata()) == [0.1, 0.2, 0.8, 0.92]  # type: ignore[arg-type]
    assert list(rate.get_lines()[2].get_ydata()) == [0.1, 0.1, 0.2, 0.2]  # type: ignore[arg-type]
    assert list(target.get_ydata()) == [0.96, 0.96]  # type: ignore[arg-type]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data-dir", "/nowhere-at-all"], "does not exist"),
        (["--iterations", "many"], "invalid int value"),
        (["--target", "96"], "--target is an accuracy, above 0 and up to 1, such as 0.96, but is 96.0"),
    ],
)
def test_wrong_arguments_end_before_any_training(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        pbt_mnist.main(arguments)

    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_what_shoal_rejects_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: TuneConfig: num_samples must be .* but is 0"):
        pbt_mnist.main(["--num-samples", "0", "--storage", str(tmp_path)])
