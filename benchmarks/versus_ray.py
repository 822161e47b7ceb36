"""Shoal and Ray Tune do the same work, side by side: ``make bench-vs-ray [ARGS="--runs 3 --only synch"]``.

Ray Tune runs with the settings that are its best: its class API, whose objects are kept from trial to trial
(``reuse_actors=True``, ``reset_config``). See benchmarks/README.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from versus import FIRST, HERE, Library, Row, compare, is_alone, run_alone
from workload import CASES, Case, Ran, load, report_with, results_a_second, save

RAY = Library("Ray Tune", str(HERE.parent / ".venv-ray" / "bin" / "python"), "versus_ray.py")
TWICE = {"interval 1, 1 MB", "100 ms steps, 100 MB", "2 members on 2 slots", "synch"}
"""The cases in which Shoal wants to be twice as good."""
TARGETS = (
    *(Row(case.name, "efficiency", 2.0 if case.name in TWICE else 1.0, case) for case in CASES),
    Row("warm Ray, engine ray", "pair", 2.0, CASES[0], least=0.93),
    Row("warm Ray, engine processes", "pair", 2.0, CASES[0]),
    Row("results a second", "rate", 100.0),
    Row("seconds to the first result", "start", 1.0),
)
REPORTS = 2_000
"""Of each of two members, for the results a second."""
NOTES = """\
Efficiency: seconds in the members' own functions / (slots x wall time of fit()). Ray Tune is started before that clock.
Warm Ray: the first case on one Ray that runs already. Shoal's engine ray is to reach 0.93 there.
Ratio: how many times better Shoal is. benchmarks/README.md says what is compared."""


def start_ray(slots: int) -> None:
    """Start Ray on this machine, with nothing that it does not need here."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0"}
    import ray

    ray.init("local", num_cpus=slots, include_dashboard=False, log_to_driver=False)


def member_class() -> Any:
    """Return the class that trains one member, as ``workload.train_with`` does."""
    from ray import tune

    class Member(tune.Trainable):
        """Counts the seconds in its own methods, since it was made, over all trials that it serves."""

        def setup(self, config: dict[str, Any]) -> None:
            self.own_s = 0.0
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.member = new_config
            self.trained = 0
            return True

        def step(self) -> dict[str, Any]:
            began = time.perf_counter()
            self.trained += 1
            time.sleep(self.member["step_s"])
            score = self.member["lr"] * self.trained
            self.own_s += time.perf_counter() - began
            return {"score": score, "own_s": self.own_s, "worker": os.getpid()}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            began = time.perf_counter()
            save(checkpoint_dir, self.trained, self.member["megabytes"])
            self.own_s += time.perf_counter() - began

        def load_checkpoint(self, checkpoint: str) -> None:
            began = time.perf_counter()
            self.trained = load(checkpoint)
            self.own_s += time.perf_counter() - began

    return Member


def watcher(own_s: dict[int, float]) -> Any:
    """Return a callback that says when the first result is there, and keeps the own seconds of each process.

    Args:
        own_s: filled with the last that each process reported. The files of results lack rows; this sees all.
    """
    from ray import tune

    class Watcher(tune.Callback):
        results = 0
        first_at = 0.0

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            if not own_s:
                self.first_at = time.time()
                print(FIRST, flush=True)
            self.results += 1
            own_s[result.get("worker", 0)] = result.get("own_s", 0.0)

    return Watcher()


def efficiency(case: Case) -> float:
    """Run a case once and return its efficiency."""
    start_ray(case.slots)
    return train(case).efficiency


def train(case: Case) -> Ran:
    """Run a case once, on the Ray that this process is connected to."""
    from ray import tune
    from ray.tune.schedulers import PopulationBasedTraining

    own_s: dict[int, float] = {}
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=case.interval,
        hyperparam_mutations={"lr": tune.uniform(0, 1)},
        synch=case.synch,
    )
    watching = watcher(own_s)
    with tempfile.TemporaryDirectory() as storage:
        tuner = tune.Tuner(
            member_class(),
            param_space={"lr": tune.uniform(0, 1), **case.config},
            tune_config=tune.TuneConfig(
                metric="score", mode="max", num_samples=case.members, scheduler=scheduler, reuse_actors=True
            ),
            # No num_to_keep: it deletes checkpoints that are about to be copied, and with 1 trials die of that.
            run_config=tune.RunConfig(
                storage_path=storage, stop={"training_iteration": case.steps}, verbose=0, callbacks=[watching]
            ),
        )
        began, cpu = time.time(), time.process_time()
        grid = tuner.fit()
        wall, cpu = time.time() - began, time.process_time() - cpu
        if grid.num_errors:
            raise RuntimeError(f"{grid.num_errors} trials failed: {grid.errors[0]}")
    first = watching.first_at - case.step_s
    return Ran(case, sum(own_s.values()), wall, first - began, watching.results, cpu)


def run(reports: int, *, watched: bool) -> float:
    """Run two members on two CPUs that do nothing but report, and return the results a second."""
    start_ray(2)
    from ray import tune

    def train(config: dict[str, Any]) -> None:
        report_with(tune.report, config["reports"], config["folder"])

    with tempfile.TemporaryDirectory() as storage, tempfile.TemporaryDirectory() as folder:
        grid = tune.Tuner(
            train,
            param_space={"reports": reports, "folder": folder},
            tune_config=tune.TuneConfig(metric="score", mode="max", num_samples=2),
            run_config=tune.RunConfig(storage_path=storage, verbose=0, callbacks=[watcher({})] if watched else None),
        ).fit()
        found = results_a_second(folder, 2 * reports)
        if grid.num_errors:
            raise RuntimeError(f"{grid.num_errors} trials failed: {grid.errors[0]}")
    return found


@lru_cache
def on_one_ray(python: str, case: Case, run: int) -> dict[str, Any]:
    """Train a case on one Ray with each, in the environment that has both; see ``bench_cluster.py``."""
    command = [python, str(HERE / "bench_cluster.py"), "--json", json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"bench_cluster.py: exit code {done.returncode}\n" + done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def pair(rival: Library, row: Row, run: int) -> tuple[tuple[float, str], tuple[float, str]]:
    """Measure Shoal's engine that the row names, and Ray Tune, on one Ray."""
    assert row.case is not None
    found = on_one_ray(rival.python, row.case, run)
    values, versions = found["value"], found["versions"]
    ours = values[row.name.partition(", ")[2]]
    return (ours, versions["shoal"]), (values["Ray Tune"], versions["ray"])


def main() -> int:
    """Measure one row once, or compare."""
    if not is_alone():
        return compare(RAY, TARGETS, NOTES, (__doc__ or "").partition(":")[0], pair)
    measures: dict[str, Callable[..., float]] = {
        "efficiency": efficiency,
        "rate": lambda: run(REPORTS, watched=False),
        "start": lambda: run(3, watched=True),
    }
    import ray

    run_alone(measures, ray.__version__)
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
