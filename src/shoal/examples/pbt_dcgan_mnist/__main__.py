"""Train a population of DCGANs with Population Based Training: ``python -m shoal.examples.pbt_dcgan_mnist``.

Eight members start with learning rates of generator and discriminator drawn from three values. Every five rounds of
training, those that write the worst digits copy the weights and the config of those that write the best, and change
the rates. The run leaves pictures of the scores, of the losses, and of digits that the best member writes.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal import tune
from shoal.errors import ShoalError
from shoal.location import is_url
from shoal.objects import put
from shoal.tune.schedulers import PopulationBasedTraining

_EXTRAS = "pip install 'shoal[examples]'"

try:
    import torch

    from shoal.examples.digits import load_digits
    from shoal.examples.pbt_dcgan_mnist.common import Net, demo_gan
    from shoal.examples.pbt_dcgan_mnist.pbt_dcgan_mnist_func import dcgan_train, download_mnist_cnn
except ModuleNotFoundError as error:
    _missing = f"This example needs {error.name}, which is not installed: {_EXTRAS}"
    raise (SystemExit(f"error: {_missing}") if __name__ == "__main__" else ImportError(_missing)) from error

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRIC = "is_score"
PERTURBATION_INTERVAL = 5
FULL_RUN = (8, 150)
"""How many members, and for how many rounds of training."""
SMOKE_TEST = (2, 5)


def run(
    members: int = FULL_RUN[0],
    iterations: int = FULL_RUN[1],
    storage: str = "./shoal_results",
    name: str | None = None,
    seed: int | None = None,
) -> tune.ResultGrid:
    """Train the population and return the results of its members.

    Args:
        members: How many members the population has.
        iterations: After how many rounds of training a member ends.
        storage: The folder that gets a folder for this experiment.
        name: The experiment's name; default: ``dcgan_demo_`` and the time.
        seed: Draws the same start values and the same mutations again; default: new ones each time.
    """
    net = Net()
    net.load_state_dict(torch.load(download_mnist_cnn(), weights_only=True))
    net.eval()

    scheduler = PopulationBasedTraining(
        # Rounds, not seconds as by default: a faster machine then makes the same decisions.
        time_attr="training_iteration",
        perturbation_interval=PERTURBATION_INTERVAL,
        hyperparam_mutations={
            "netG_lr": tune.uniform(1e-5, 1e-2),
            "netD_lr": tune.uniform(1e-5, 1e-2),
        },
        seed=seed,
    )
    tuner = tune.Tuner(
        dcgan_train,
        param_space={
            "netG_lr": tune.choice([0.0001, 0.0002, 0.0005]),
            "netD_lr": tune.choice([0.0001, 0.0002, 0.0005]),
            # Stored once for all members; the config carries a reference.
            "mnist_model_ref": put(net),
            # A checkpoint at each perturbation, so that a copy is as new as the score it was chosen for.
            "checkpoint_interval": max(1, min(PERTURBATION_INTERVAL, iterations)),
        },
        tune_config=tune.TuneConfig(metric=METRIC, mode="max", scheduler=scheduler, num_samples=members, seed=seed),
        run_config=tune.RunConfig(
            name=name or time.strftime("dcgan_demo_%Y-%m-%d_%H-%M-%S"),
            storage_path=storage,
            stop={"training_iteration": iterations},
            # Each takes some 6 MB.
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        ),
    )
    return tuner.fit()


def plot_scores(curves: Sequence[pd.DataFrame], best: int, path: Path) -> None:
    """Draw the members' inception score by training iteration, as a PNG.

    Args:
        curves: For each member a table with the columns ``training_iteration`` and ``is_score``.
        best: Which of them is drawn in front, in colour.
        path: Where the picture goes.
    """
    figure = _make_figure(8.5, 4.5)
    _plot(figure.subplots(), curves, best, METRIC, "Inception score during training", "inception score (1 to 10)")
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path)


def plot_losses(curves: Sequence[pd.DataFrame], best: int, path: Path) -> None:
    """Draw the loss of the members' generators and, beside it, that of their discriminators, as a PNG.

    Args:
        curves: For each member a table with the columns ``training_iteration``, ``lossg`` and ``lossd``.
        best: Which of them is drawn in front, in colour.
        path: Where the picture goes.
    """
    figure = _make_figure(13, 4.5)
    left, right = figure.subplots(1, 2)
    _plot(left, curves, best, "lossg", "Generator loss during training", "loss")
    _plot(right, curves, best, "lossd", "Discriminator loss during training", "loss")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    figure.savefig(path)


def _make_figure(width: float, height: float) -> Figure:
    # A Figure of its own, not pyplot's: no window, and the caller's backend stays as it is.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _plot(axes: Axes, curves: Sequence[pd.DataFrame], best: int, column: str, title: str, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    colours = ("#8fb3d9", "#a5c8a1", "#c9b3d9", "#d9c08f", "#9fcfcf", "#b8b8b8", "#c7a08c", "#8c9ac7")
    for member, table in enumerate(curves):
        # A member that copied one which had trained less went back; what it had done from there on is gone.
        reached_later = table["training_iteration"][::-1].cummin()[::-1].shift(-1)
        curve = table[~(table["training_iteration"] >= reached_later)]
        is_best = member == best
        axes.plot(
            curve["training_iteration"],
            curve[column],
            color="#d1495b" if is_best else colours[member % len(colours)],
            linewidth=2.2 if is_best else 1.4,
            marker="." if len(curve) < 10 else None,
            zorder=3 if is_best else 2,
            label=f"member {member}" + (" (best)" if is_best else ""),
        )
    axes.set_title(title, loc="left", weight="bold")
    axes.set_xlabel("training iteration")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw(results: tune.ResultGrid, best: tune.Result, folder: Path) -> list[Path]:
    """Draw scores, losses, and digits that the best member writes, into a folder; return the pictures' paths.

    The digits are left out where the best member has no checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = [(result.path == best.path, result.metrics_dataframe) for result in results]
    reported = [(is_best, table) for is_best, table in tables if table is not None and not table.empty]
    curves, number = [table for _, table in reported], [is_best for is_best, _ in reported].index(True)
    pictures = [folder / "inception_score.png", folder / "losses.png"]
    plot_scores(curves, number, pictures[0])
    plot_losses(curves, number, pictures[1])
    if best.checkpoint is not None:
        pictures.append(folder / "digits.png")
        with best.checkpoint.as_directory() as checkpoint:
            demo_gan([checkpoint], save_as=pictures[-1])
    return pictures


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example from the command line; ``arguments`` default to those of the process."""
    parser = _make_parser()
    options = parser.parse_args(arguments)
    for package in ("pandas", "matplotlib"):  # needed after the run, when it is late to say so
        if importlib.util.find_spec(package) is None:
            parser.error(f"this example needs {package}, which is not installed: {_EXTRAS}")
    try:
        load_digits()  # so that missing data are said once, before any member starts
    except (OSError, ValueError, ImportError) as error:
        parser.error(str(error))
    members, iterations = SMOKE_TEST if options.smoke_test else FULL_RUN
    try:
        results = run(
            members if options.members is None else options.members,
            iterations if options.iterations is None else options.iterations,
            options.storage,
            options.name,
            options.seed,
        )
    except ShoalError as error:
        raise SystemExit(f"{parser.prog}: error: {error}") from error
    if results.num_errors == len(results):
        raise SystemExit("Every member failed; see the errors above.")

    best = results.get_best_result(metric=METRIC, mode="max")
    metrics, config = best.metrics or {}, best.config or {}
    # Of an experiment in object storage the pictures are drawn here.
    beside = Path("." if is_url(results.experiment_path) else results.experiment_path)
    pictures = draw(results, best, beside if options.out is None else Path(options.out).expanduser())
    print()
    rounds = metrics["training_iteration"]
    print(f"Best inception score: {metrics[METRIC]:.2f} after {rounds} iteration{'' if rounds == 1 else 's'}")
    print(f"Best config:          netG_lr={config['netG_lr']:.4g}, netD_lr={config['netD_lr']:.4g}")
    print(f"Result:               {best.path}")
    for picture in pictures:
        print(f"Picture:              {picture}")


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shoal.examples.pbt_dcgan_mnist",
        description="Train a population of DCGANs that write digits, with Population Based Training.",
    )

    def add(flag: str, text: str, default: Any = None, otherwise: str = "%(default)s", **settings: Any) -> None:
        parser.add_argument(flag, default=default, help=f"{text} (default: {otherwise})", **settings)

    small = f"a small run: {SMOKE_TEST[0]} members, {SMOKE_TEST[1]} rounds"
    parser.add_argument("--smoke-test", action="store_true", help=small)
    add("--members", "members of the population", None, str(FULL_RUN[0]), type=int, metavar="N")
    add("--iterations", "rounds of training", None, str(FULL_RUN[1]), type=int, metavar="N")
    add("--storage", "folder for results", "./shoal_results", metavar="DIR")
    add("--out", "folder for the pictures", None, "that of the experiment", metavar="DIR")
    add("--name", "name of the experiment", None, "dcgan_demo_ and the time")
    add("--seed", "repeat the same draws", None, "new draws each time", type=int, metavar="N")
    return parser


if __name__ == "__main__":
    main()
