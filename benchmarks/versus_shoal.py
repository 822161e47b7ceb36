"""Shoal's side of the comparisons: measures one row once, for :func:`versus.measure`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from versus import FIRST, is_alone, run_alone
from workload import Case, report_with, results_a_second

import shoal
from shoal import tune

REPORTS = 100_000
"""Of each of two members, for the results a second."""


class First(tune.Callback):
    """Says when the driver has the first result."""

    told = False

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Print it, once."""
        if not self.told:
            self.told = True
            print(FIRST, flush=True)


def train(config: dict[str, Any]) -> None:
    """Nothing but reports, as many as are asked for."""
    report_with(tune.report, config["reports"], config["folder"])


def run(reports: int, callbacks: list[tune.Callback]) -> float:
    """Run two members on two slots, and return the results a second."""
    shoal.init(num_cpus=2)
    with tempfile.TemporaryDirectory() as storage, tempfile.TemporaryDirectory() as folder:
        grid = tune.Tuner(
            train,
            param_space={"reports": reports, "folder": folder},
            tune_config=tune.TuneConfig(metric="score", mode="max", num_samples=2),
            run_config=tune.RunConfig(storage_path=storage, verbose=0, callbacks=callbacks),
        ).fit()
        found = results_a_second(folder, 2 * reports)
        assert grid.num_errors == 0
        assert [result.metrics["training_iteration"] for result in grid] == [reports, reports]
    return found


def efficiency(case: Case) -> float:
    """Run a case once and return its efficiency."""
    import bench_efficiency

    return bench_efficiency.efficiency(case)


def main() -> None:
    """Measure what the command line says."""
    measures: dict[str, Callable[..., float]] = {
        "efficiency": efficiency,
        "rate": lambda: run(REPORTS, []),
        "start": lambda: run(3, [First()]),
    }
    run_alone(measures, shoal.__version__)


if __name__ == "__main__":
    assert is_alone(), "python benchmarks/versus_ray.py compares; this script is started by it"
    main()
