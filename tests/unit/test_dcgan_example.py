"""``shoal.examples.pbt_dcgan_mnist``: the networks, the score, the kept weights, and the function of a member."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from tests.helpers import items, pbt
from torch import Tensor, nn, optim

import shoal
from shoal import tune
from shoal.core.commands import Exploit
from shoal.errors import ConfigError
from shoal.examples.digits import Digits, load_digits
from shoal.examples.pbt_dcgan_mnist import __main__ as demo
from shoal.examples.pbt_dcgan_mnist import common, lenet
from shoal.examples.pbt_dcgan_mnist.pbt_dcgan_mnist_func import dcgan_train, download_mnist_cnn


@pytest.fixture(autouse=True)
def one_thread_and_a_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for the network that scores: one for all test files and workers, so that it is trained once."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shoal_cache"


@pytest.fixture
def weights(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the weights of the network that scores."""
    monkeypatch.setenv("SHOAL_CACHE_DIR", str(cache))
    return Path(download_mnist_cnn())


@pytest.fixture
def net(weights: Path) -> common.Net:
    model = common.Net()
    model.load_state_dict(torch.load(weights))
    return model


@pytest.fixture
def small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "train_iterations_per_step", 2)
    monkeypatch.setattr(common, "scored_images", 20)


# The networks and their data


def test_the_generator_writes_what_the_discriminator_reads() -> None:
    images = common.Generator()(torch.randn(3, common.nz, 1, 1))
    verdicts = common.Discriminator()(images)

    assert images.shape == (3, 1, 32, 32)
    assert float(images.detach().abs().max()) <= 1
    assert verdicts.shape == (3, 1, 1, 1)
    assert bool(((verdicts > 0) & (verdicts < 1)).all())


def test_the_networks_have_the_weights_that_the_guides_have() -> None:
    shapes = {name: tuple(value.shape) for name, value in common.Generator().state_dict().items() if "weight" in name}
    assert shapes == {
        "main.0.weight": (100, 128, 4, 4),
        "main.1.weight": (128,),
        "main.3.weight": (128, 64, 4, 4),
        "main.4.weight": (64,),
        "main.6.weight": (64, 32, 4, 4),
        "main.7.weight": (32,),
        "main.9.weight": (32, 1, 4, 4),
    }
    shapes = {name: tuple(value.shape) for name, value in common.Discriminator().named_parameters()}
    assert shapes == {
        "main.0.weight": (32, 1, 4, 4),
        "main.2.weight": (64, 32, 4, 4),
        "main.3.weight": (64,),
        "main.3.bias": (64,),
        "main.5.weight": (128, 64, 4, 4),
        "main.6.weight": (128,),
        "main.6.bias": (128,),
        "main.8.weight": (1, 128, 4, 4),
    }


def test_the_first_weights_are_small_and_those_of_normalisations_near_one() -> None:
    generator = common.Generator()
    generator.apply(common.weights_init)
    state = generator.state_dict()

    assert float(state["main.0.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(state["main.1.weight"].mean()) == pytest.approx(1, abs=0.02)
    assert not state["main.1.bias"].any()


def test_the_loader_gives_batches_of_digits_in_a_new_order_each_time() -> None:
    loader = common.get_data_loader()
    batches = list(loader)

    assert len(batches) == 4000 // common.batch_size
    images, labels = batches[0]
    assert images.shape == (common.batch_size, 1, 32, 32)
    assert images.dtype == torch.float32
    assert labels.shape == (common.batch_size,)
    assert (float(images.min()), float(images.max())) == (-1, 1)
    assert not torch.equal(labels, next(iter(loader))[1])
    image, label = loader.dataset[7]
    digits = load_digits()
    assert torch.equal(image, common.to_images(digits.train_images[7:8])[0])
    assert int(label) == digits.train_labels[7]


# The score


def all_digits() -> Tensor:
    return common.to_images(load_digits().test_images)


def test_one_image_over_and_over_scores_1(net: common.Net) -> None:
    score, deviation = common.inception_score(all_digits()[:1].expand(100, -1, -1, -1), net)

    assert score == pytest.approx(1, abs=1e-6)
    assert deviation == 0


def test_noise_scores_little_and_real_digits_of_all_classes_much(net: common.Net) -> None:
    real = all_digits()
    assert common.inception_score(torch.rand_like(real) * 2 - 1, net)[0] < 1.5
    assert 8.5 < common.inception_score(real, net)[0] < 10


def test_real_digits_of_two_classes_score_about_2(net: common.Net) -> None:
    labels = load_digits().test_labels
    assert common.inception_score(all_digits()[(labels == 0) | (labels == 1)], net)[0] == pytest.approx(2, abs=0.2)


class Seeing(nn.Module):
    """Reads the class of an image out of its first pixel, and is certain of it."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.one_hot(images[:, 0, 0, 0].round().long(), 10).double().log()


def test_the_score_of_certain_verdicts_is_the_number_of_classes() -> None:
    classes = [image.expand(1, 32, 32) for image in torch.arange(10.0).repeat(6)]

    assert common.inception_score(classes, Seeing()) == pytest.approx((10, 0))
    assert common.inception_score(classes, Seeing(), batch_size=7) == pytest.approx((10, 0))
    assert common.inception_score(classes[:4], Seeing()) == pytest.approx((4, 0))


def test_splits_are_scored_one_by_one_and_a_rest_is_left_out() -> None:
    classes = torch.tensor([0.0, 1, 2, 3, 4, 4, 4, 4, 9]).reshape(-1, 1, 1, 1).expand(-1, 1, 32, 32)

    assert common.inception_score(classes, Seeing(), splits=2) == pytest.approx((2.5, 1.5))
    for splits in (0, 10):
        with pytest.raises(ValueError, match=f"9 images cannot be split into {splits} parts"):
            common.inception_score(classes, Seeing(), splits=splits)


def test_a_model_and_a_reference_to_it_score_the_same_and_it_stays_as_it_is(net: common.Net) -> None:
    images = all_digits()[::10]
    reference = shoal.put(net)
    net.train()

    assert common.inception_score(images, net) == common.inception_score(images, reference)
    assert net.training
    with pytest.raises(ConfigError, match="is no reference"):
        common.inception_score(images, "a text")  # type: ignore[arg-type]


# A round of training, and a picture


def test_a_round_trains_both_networks_and_scores(small_rounds: None) -> None:
    netD, netG = common.Discriminator(), common.Generator()
    before = [network.state_dict()["main.0.weight"].clone() for network in (netD, netG)]
    optimizerD, optimizerG = optim.Adam(netD.parameters(), lr=1e-3), optim.Adam(netG.parameters(), lr=1e-3)
    seen: list[int] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for number, batch in enumerate(common.get_data_loader()):
            seen.append(number)
            yield batch

    outcome = common.train_func(
        netD, netG, optimizerG, optimizerD, nn.BCELoss(), batches(), 1, torch.device("cpu"), common.Net()
    )

    lossg, lossd, is_score = outcome
    assert all(type(value) is float for value in outcome)
    assert lossg > 0
    assert lossd > 0
    assert 1 <= is_score <= 10
    assert seen == [0, 1]
    for network, old in zip((netD, netG), before, strict=True):
        assert not torch.equal(network.state_dict()["main.0.weight"], old)


def test_no_digits_to_train_on_is_an_error() -> None:
    netD, netG = common.Discriminator(), common.Generator()
    optimizer = optim.Adam(netG.parameters())
    with pytest.raises(ValueError, match="no batch in iteration 3"):
        common.train_func(netD, netG, optimizer, optimizer, nn.BCELoss(), [], 3, "cpu", common.Net())


def save_generator(folder: Path, step: int) -> Path:
    folder.mkdir()
    torch.save({"netGmodel": common.Generator().state_dict(), "step": step}, folder / "checkpoint.pt")
    return folder


def test_the_picture_has_a_square_of_digits_for_each_checkpoint(tmp_path: Path) -> None:
    folders = [save_generator(tmp_path / str(step), step) for step in (1, 20)]
    state = torch.get_rng_state()

    figure = common.demo_gan(folders, save_as=tmp_path / "digits.png")

    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(figure, Figure)
    assert [axes.get_title() for axes in figure.axes] == ["after 1 iteration", "after 20 iterations"]
    assert [axes.get_images()[0].get_size() for axes in figure.axes] == [(256, 256)] * 2
    assert imread(tmp_path / "digits.png")[..., :3].std() > 0.05


def test_without_a_file_the_picture_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    shown: list[Figure] = []
    plt.switch_backend("agg")

    figure = common.demo_gan(str(save_generator(tmp_path / "one", 5)))

    assert shown == [figure]
    plt.close(figure)


def test_a_picture_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="checkpoint_paths is empty"):
        common.demo_gan([])
    with pytest.raises(FileNotFoundError, match=r"checkpoint\.pt"):
        common.demo_gan([tmp_path], save_as=tmp_path / "digits.png")


# The kept weights


def forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(digits: Digits) -> common.Net:
        raise AssertionError("trained again")

    monkeypatch.setattr(lenet, "_train", fail)


def test_the_network_that_scores_reads_digits_well(net: common.Net) -> None:
    digits = load_digits()
    net.eval()
    with torch.no_grad():
        found = net(common.to_net(all_digits())).argmax(dim=1).numpy()

    assert np.mean(found == digits.test_labels) >= 0.95


def test_a_second_call_trains_nothing(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = weights.stat().st_mtime_ns
    state = torch.get_rng_state()
    forbid_training(monkeypatch)

    assert download_mnist_cnn() == str(weights)
    assert torch.equal(torch.get_rng_state(), state)
    assert weights.stat().st_mtime_ns == written
    assert {path.suffix for path in weights.parent.iterdir()} == {".pt", ".lock"}


@pytest.mark.parametrize("damage", ["cut short", "empty", "text", "another network", "untrained"])
def test_a_file_that_is_no_good_is_replaced(
    damage: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = weights.read_bytes()
    monkeypatch.setenv("SHOAL_CACHE_DIR", str(tmp_path))
    broken = tmp_path / weights.name
    if damage == "another network":
        torch.save(common.Generator().state_dict(), broken)
    elif damage == "untrained":
        torch.save(common.Net().state_dict(), broken)
    else:
        broken.write_bytes({"cut short": good[:1000], "empty": b"", "text": b"<html>not found</html>"}[damage])
    torch.set_num_threads(3)
    trained: list[int] = []

    def train(digits: Digits) -> common.Net:
        trained.append(torch.get_num_threads())
        model = common.Net()
        model.load_state_dict(torch.load(weights))
        return model

    monkeypatch.setattr(lenet, "_train", train)

    assert download_mnist_cnn() == download_mnist_cnn() == str(broken)
    assert trained == [1]  # once, and with one thread
    assert torch.get_num_threads() == 3
    common.Net().load_state_dict(torch.load(broken))


def test_other_digits_and_another_version_have_files_of_their_own(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_training(monkeypatch)
    digits = load_digits()
    monkeypatch.setattr(lenet, "load_digits", lambda: digits._replace(train_images=digits.train_images[::-1]))
    with pytest.raises(AssertionError, match="trained again"):
        download_mnist_cnn()

    monkeypatch.undo()
    monkeypatch.setenv("SHOAL_CACHE_DIR", str(weights.parent))
    forbid_training(monkeypatch)
    monkeypatch.setattr(lenet, "VERSION", lenet.VERSION + 1)
    with pytest.raises(AssertionError, match="trained again"):
        download_mnist_cnn()


def test_training_that_fails_leaves_no_file_and_no_lock_behind(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_CACHE_DIR", str(tmp_path / "new" / "folder"))
    save = torch.save

    def fail(state: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    monkeypatch.setattr(lenet, "_train", lambda digits: common.Net())
    with pytest.raises(OSError, match="No space left"):
        download_mnist_cnn()
    assert [path.suffix for path in (tmp_path / "new" / "folder").iterdir()] == [".lock"]

    monkeypatch.setattr(torch, "save", save)
    download_mnist_cnn()


def test_processes_that_call_together_train_once(weights: Path, tmp_path: Path) -> None:
    # What takes long in training is left out; who trains, waits and writes is as it is.
    code = """
import sys, time
import torch
from shoal.examples.pbt_dcgan_mnist import common, lenet
def train(digits):
    print("trains", flush=True)
    time.sleep(0.5)
    net = common.Net()
    net.load_state_dict(torch.load(sys.argv[1]))
    return net
lenet._train = train
print(lenet.download_mnist_cnn())
"""
    environment = {**os.environ, "SHOAL_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code, str(weights)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    said = [process.communicate()[0].split() for process in processes]

    assert [process.returncode for process in processes] == [0, 0]
    path = str(tmp_path / weights.name)
    assert sorted(said, key=len) == [[path], ["trains", path]]


def test_digits_that_cannot_be_learnt_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_digits()
    wrong = digits._replace(test_labels=(digits.test_labels + 1) % 10)
    monkeypatch.setenv("SHOAL_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(lenet, "load_digits", lambda: wrong)
    monkeypatch.setattr(lenet, "_BATCHES", 5)
    with pytest.raises(RuntimeError, match=r"reads only \d+\.\d% of the test digits right, but needs 95%"):
        download_mnist_cnn()


def test_the_folder_is_the_one_named_or_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("SHOAL_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert lenet.cache_folder() == Path("/home/somebody/.cache/shoal")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert lenet.cache_folder() == Path("/var/cache/shoal")
    monkeypatch.setenv("SHOAL_CACHE_DIR", "~/weights")
    assert lenet.cache_folder() == Path("/home/somebody/weights")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SHOAL_CACHE_DIR", str(tmp_path / "file" / "folder"))
    with pytest.raises(OSError, match=r"Set the environment variable SHOAL_CACHE_DIR to"):
        download_mnist_cnn()


# The function of a member


def saved_state(result: tune.Result) -> dict[str, Any]:
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as folder:
        state: dict[str, Any] = torch.load(Path(folder, "checkpoint.pt"))
    return state


def rates(result: tune.Result) -> tuple[float, float]:
    """Return the learning rates that the optimizers of a result's checkpoint had."""
    state = saved_state(result)
    return state["optimG"]["param_groups"][0]["lr"], state["optimD"]["param_groups"][0]["lr"]


def train_members(storage: Path, iterations: int, **space: Any) -> tune.ResultGrid:
    scheduler = pbt(
        perturbation_interval=2,
        synch=True,
        hyperparam_mutations={"netG_lr": tune.uniform(1e-5, 1e-2), "netD_lr": tune.uniform(1e-5, 1e-2)},
    )
    config = tune.TuneConfig(metric="is_score", mode="max", scheduler=scheduler, num_samples=2, seed=1, engine="inline")
    tuner = tune.Tuner(
        dcgan_train,
        param_space={"mnist_model_ref": shoal.put(common.Net()), "checkpoint_interval": 2, **space},
        tune_config=config,
        run_config=tune.RunConfig(storage_path=str(storage), verbose=0, stop={"training_iteration": iterations}),
    )
    return tuner.fit()


def test_a_member_uses_the_rates_of_its_config_from_the_start(small_rounds: None, tmp_path: Path) -> None:
    grid = train_members(tmp_path, 2, netG_lr=0.0005, netD_lr=0.0001)

    assert [rates(result) for result in grid] == [(0.0005, 0.0001)] * 2
    for result in grid:
        state = saved_state(result)
        assert state["step"] == 2
        common.Generator().load_state_dict(state["netGmodel"])
        common.Discriminator().load_state_dict(state["netDmodel"])


def test_a_member_that_copied_goes_on_with_its_own_rates(small_rounds: None, tmp_path: Path) -> None:
    grid = train_members(tmp_path, 4, netG_lr=tune.choice([0.0001, 0.0005]), netD_lr=0.0002)

    assert grid.num_errors == 0
    (exploit,) = items(grid, Exploit)
    for result in grid:
        assert result.config is not None
        assert rates(result) == (result.config["netG_lr"], result.config["netD_lr"])
        assert saved_state(result)["step"] == 4
    assert exploit.new_config["netG_lr"] in [rates(result)[0] for result in grid]
    assert exploit.old_config["netG_lr"] != exploit.new_config["netG_lr"]


# The demo


def test_the_demos_plots_have_a_line_for_each_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"training_iteration": [1, 2, 3, 2, 3], "is_score": [1.0, 2, 3, 5, 6], "lossg": range(5), "lossd": range(5)}
    curves = [pd.DataFrame(rows) for _ in range(9)]
    drawn: list[Figure] = []
    save = Figure.savefig

    def keep_and_save(figure: Figure, path: Path) -> None:
        drawn.append(figure)
        save(figure, path)

    monkeypatch.setattr(Figure, "savefig", keep_and_save)

    demo.plot_scores(curves, 2, tmp_path / "scores.png")
    demo.plot_losses(curves, 2, tmp_path / "losses.png")

    (scores,), losses = drawn[0].axes, drawn[1].axes
    assert [line.get_label() for line in scores.get_lines()] == [
        f"member {n}" + (" (best)" if n == 2 else "") for n in range(9)
    ]
    # What a member did before it copied one that had trained less is gone.
    assert list(scores.get_lines()[0].get_xdata()) == [1, 2, 3]  # type: ignore[arg-type]
    assert list(scores.get_lines()[0].get_ydata()) == [1, 5, 6]  # type: ignore[arg-type]
    assert [axes.get_title(loc="left") for axes in losses] == [
        "Generator loss during training",
        "Discriminator loss during training",
    ]
    for name in ("scores.png", "losses.png"):
        assert imread(tmp_path / name)[..., :3].std() > 0.05


@pytest.mark.parametrize(
    ("arguments", "members", "iterations"),
    [
        ([], 8, 150),
        (["--smoke-test"], 2, 5),
        (["--smoke-test", "--members", "3"], 3, 5),
        (["--iterations", "40", "--seed", "7"], 8, 40),
    ],
)
def test_how_large_the_demo_is(
    arguments: list[str], members: int, iterations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def run(*settings: Any) -> None:
        asked.extend(settings)
        raise ConfigError("enough")

    monkeypatch.setattr(demo, "run", run)
    with pytest.raises(SystemExit, match="error: enough"):
        demo.main(arguments)
    assert asked[:2] == [members, iterations]


def test_what_shoal_rejects_is_said_in_a_line(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: TuneConfig: num_samples must be .* but is 0"):
        demo.main(["--members", "0", "--storage", str(tmp_path)])


def test_the_names_of_the_guide_are_those_of_the_example() -> None:
    from shoal.tune.examples.pbt_dcgan_mnist import common as guides_common
    from shoal.tune.examples.pbt_dcgan_mnist import pbt_dcgan_mnist_func as guides_func

    for module, example in ((guides_common, common), (guides_func, sys.modules[dcgan_train.__module__])):
        assert all(getattr(module, name) is getattr(example, name) for name in module.__all__)
