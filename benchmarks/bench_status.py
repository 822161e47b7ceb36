"""What the live status costs: ``python benchmarks/bench_status.py``, best in a terminal of its own.

Runs 4 and 40 members for some seconds with the terminal status, and prints the CPU time that the driver spent in it as
a part of the run's wall time.
"""

from __future__ import annotations

import io
import tempfile
import time
from typing import Any

import shoal
from shoal import display, tune
from shoal.tune.schedulers import PopulationBasedTraining


class _Terminal(io.StringIO):
    """A terminal that nobody looks at."""

    def isatty(self) -> bool:
        return True


class _Metered:
    """A status that counts the CPU time it takes."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.spent = 0.0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        def metered(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return method(*args, **kwargs)
            finally:
                self.spent += time.thread_time() - began

        return metered


def train(config: dict[str, Any]) -> None:
    """One member: 20 ms a step."""
    step = 0
    while True:
        step += 1
        time.sleep(0.02)
        tune.report({"score": config["lr"] * step, "loss": 1 / step})


def share(members: int, seconds: float) -> tuple[float, float]:
    """Return (CPU seconds of the status, wall seconds) of one run."""
    meters: list[_Metered] = []
    make = display.make_status

    def make_metered(*args: Any, **kwargs: Any) -> Any:
        meters.append(_Metered(make(*args, **{**kwargs, "stream": _Terminal()})))
        return meters[-1]

    display.make_status = make_metered
    try:
        with tempfile.TemporaryDirectory() as storage:
            scheduler = PopulationBasedTraining(
                time_attr="training_iteration",
                perturbation_interval=5,
                hyperparam_mutations={"lr": tune.uniform(0, 1), "momentum": tune.uniform(0, 1)},
            )
            began = time.perf_counter()
            tune.Tuner(
                train,
                param_space={"lr": tune.uniform(0, 1)},
                tune_config=tune.TuneConfig(
                    metric="score", mode="max", num_samples=members, scheduler=scheduler, time_budget_s=seconds
                ),
                run_config=tune.RunConfig(storage_path=storage, stop={"training_iteration": 10**6}),
            ).fit()
            return meters[0].spent, time.perf_counter() - began
    finally:
        display.make_status = make


def main() -> None:
    """Print a table."""
    shoal.init(num_cpus=2)
    print(f"{'members':>7} {'CPU s':>6} {'wall s':>6} {'share':>6}")
    for members in (4, 40):
        spent, wall = share(members, 10.0)
        print(f"{members:7} {spent:6.3f} {wall:6.2f} {spent / wall:6.2%}")


if __name__ == "__main__":
    main()
