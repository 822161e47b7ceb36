"""Shoal and Syne Tune do the same work, side by side: ``make bench-vs-syne-tune [ARGS="--runs 3 --only start"]``.

Syne Tune runs its PBT scheduler on its local backend, and looks for results more often than it does by default. See
benchmarks/README.md.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from versus import FIRST, HERE, Library, Row, compare, is_alone, run_alone
from workload import Case, results_a_second

SYNE_TUNE = Library("Syne Tune", str(HERE.parent / ".venv-syne-tune" / "bin" / "python"), "versus_syne_tune.py")
CASES = (
    # Syne Tune's members all run at once: as many slots as members.
    Case("2 members on 2 slots", 0.97, members=2),
    Case("2 on 2, 100 ms steps, 100 MB", 0.97, members=2, steps=60, step_s=0.1, megabytes=100),
    Case("8 on 8, 100 ms steps, 10 MB", 0.97, members=8, steps=60, step_s=0.1, megabytes=10, slots=8),
)
TARGETS = (
    *(Row(case.name, "efficiency", 1.0, case) for case in CASES),
    Row("results a second", "rate", 1.0),
    Row("seconds to the first result", "start", 1.0),
)
REPORTS = 100_000
"""Of each of two members, for the results a second."""
POLL_S = 0.05
"""How long Syne Tune waits between its looks for results. Its default of 5 s makes it many times slower."""
NOTES = """\
Efficiency: seconds in the members' own functions / (slots x wall time of the run).
Ratio: how many times better Shoal is. benchmarks/README.md says what is compared."""


def tuner(scheduler: Any, slots: int, watching: Any) -> Any:
    """Return a tuner that runs the member's script until ``watching`` says that all members have ended."""
    from syne_tune import Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.results_callback import StoreResultsCallback

    return Tuner(
        # Without a look for GPUs, which takes time and leaves a file behind.
        trial_backend=LocalBackend(str(HERE / "versus_syne_tune_member.py"), rotate_gpus=False),
        scheduler=scheduler,
        stop_criterion=watching.all_ended,
        n_workers=slots,
        sleep_time=POLL_S,
        callbacks=[StoreResultsCallback(), watching],
    )


def watcher(members: int, steps: int) -> Any:
    """Return a callback that sees all results.

    Args:
        members: so many end.
        steps: where one ends.
    """
    from syne_tune.tuner_callback import TunerCallback

    class Watcher(TunerCallback):
        def __init__(self) -> None:
            self.own_s: dict[int, float] = {}
            self.ended = 0

        def on_trial_result(self, trial: Any, status: str, result: dict[str, Any], decision: str) -> None:
            if not self.own_s:
                print(FIRST, flush=True)
            self.own_s[trial.trial_id] = result.get("own_s", 0.0)
            self.ended += result.get("step", result["score"]) == steps

        def all_ended(self, status: object) -> bool:
            return self.ended >= members

    return Watcher()


def efficiency(case: Case) -> float:
    """Run a case once and return its efficiency."""
    from syne_tune.config_space import uniform
    from syne_tune.optimizer.schedulers.pbt import PopulationBasedTraining

    space = {"lr": uniform(0, 1), **case.config}
    scheduler = PopulationBasedTraining(
        space,
        metric="score",
        time_attr="step",
        max_t=case.steps,
        do_minimize=False,
        population_size=case.members,
        perturbation_interval=case.interval,
    )
    watching = watcher(case.members, case.steps)
    tuning = tuner(scheduler, case.slots, watching)
    began = time.perf_counter()
    tuning.run()
    wall = time.perf_counter() - began
    return sum(watching.own_s.values()) / (case.slots * wall)


def run(reports: int) -> float:
    """Run two members at once that do nothing but report, and return the results a second."""
    from syne_tune.config_space import uniform
    from syne_tune.optimizer.baselines import RandomSearch

    with tempfile.TemporaryDirectory() as folder:
        space = {"lr": uniform(0, 1), "reports": reports, "folder": folder}
        tuner(RandomSearch(space, metrics=["score"]), 2, watcher(2, reports)).run()
        return results_a_second(folder, 2 * reports)


def main() -> int:
    """Measure one row once, or compare."""
    if not is_alone():
        return compare(SYNE_TUNE, TARGETS, NOTES, (__doc__ or "").partition(":")[0])
    measures: dict[str, Callable[..., float]] = {
        "efficiency": efficiency,
        "rate": lambda: run(REPORTS),
        "start": lambda: run(3),
    }
    with tempfile.TemporaryDirectory() as results:
        os.environ["SYNETUNE_FOLDER"] = results
        import syne_tune

        run_alone(measures, syne_tune.__version__)
    return 0


if __name__ == "__main__":
    sys.exit(main())
