"""One Ray that runs already, and who trains on it: Shoal's engine ``ray``, its engine ``processes``, and Ray Tune.

    make bench-vs-ray ARGS="--only warm"                 # as two rows of that table
    .venv-ray/bin/python benchmarks/bench_cluster.py     # all of it; some three minutes

Ray is started once, on this machine, and each of the three connects to it from a process of its own, one after the
other. Each runs a short experiment first, so that Ray has done everything once, and only then the one that is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from figures import Figure, print_table
from workload import CASES, Case, Ran, report_with

CASE = next(case for case in CASES if case.name == "interval 5, 1 MB")
REPORTS = 20_000
"""Of each of two members, where results are cheap."""
HERE = Path(__file__).parent
PYTHON = HERE.parent / ".venv-ray" / "bin" / "python"
"""It has Ray Tune and Shoal."""
_WARM_STEPS = 15
_PATIENCE_S = 600


# ------------------------------------------------------------------------------------------- in a process of its own


def with_shoal(engine: str, case: Case) -> Ran:
    """Run the case on Shoal."""
    import bench_efficiency

    return bench_efficiency.run(case, engine=engine)


def with_ray_tune(case: Case) -> Ran:
    """Run the case on Ray Tune."""
    import versus_ray

    return versus_ray.train(case)


def cheap(case: Case) -> Ran:
    """Run two members on the cluster that do nothing but report, as often as the case says."""
    import shoal
    from shoal import tune

    def train(config: dict[str, Any]) -> None:
        report_with(tune.report, config["reports"], config["folder"])

    assert shoal.is_initialized()
    with tempfile.TemporaryDirectory() as storage, tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            train,
            param_space={"reports": case.steps, "folder": folder},
            tune_config=tune.TuneConfig(metric="score", mode="max", num_samples=2, engine="ray"),
            run_config=tune.RunConfig(storage_path=storage, verbose=0),
        )
        began, cpu = time.time(), time.process_time()
        grid = tuner.fit()
        wall, cpu = time.time() - began, time.process_time() - cpu
        assert grid.num_errors == 0
        first = min(float(path.read_text()) for path in Path(folder).iterdir())
    return Ran(case, 0.0, wall, first - began, 2 * case.steps, cpu)


KINDS: dict[str, Callable[[Case], Ran]] = {
    "engine ray": lambda case: with_shoal("ray", case),
    "engine processes": lambda case: with_shoal("processes", case),
    "Ray Tune": with_ray_tune,
    "cheap results": cheap,
}


def once(kind: str, address: str, case: Case) -> None:
    """Measure once, after a short experiment, and print it as JSON."""
    _connect(kind, address)
    KINDS[kind](replace(case, steps=_WARM_STEPS))
    print(json.dumps(asdict(KINDS[kind](case))), flush=True)


def _connect(kind: str, address: str) -> None:
    if kind == "Ray Tune":
        import ray

        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
        ray.init(address, log_to_driver=False)
    elif kind == "engine processes":
        import shoal

        shoal.init(num_cpus=CASE.slots)
    else:
        import shoal

        shoal.init(address, log_to_driver=False)


def hold(slots: int) -> None:
    """Start Ray, say where it is, and keep it until the input ends."""
    import ray

    context = ray.init(
        "local", num_cpus=slots, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1"
    )
    print(f"at {context.address_info['gcs_address']}", flush=True)
    sys.stdin.read()
    ray.shutdown()


# ------------------------------------------------------------------------------------------------------ all of them


@contextlib.contextmanager
def running_ray(slots: int) -> Iterator[str]:
    """Start a Ray in a process of its own, which ends it. Yields its address."""
    # Who connects shows the token that the Ray was started with; what Ray makes up by itself, only its starter has.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED="0")
    command = [sys.executable, __file__, "--hold", str(slots)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        address = next((line for line in process.stdout if line.startswith("at ")), "")
        if not address:
            raise RuntimeError("Ray could not be started")
        yield address.split()[1]
        process.stdin.close()
        process.stdout.read()


def measure(kind: str, address: str, case: Case) -> Ran:
    """Measure once, in a process of its own."""
    command = [sys.executable, __file__, "--once", kind, "--address", address, "--case", json.dumps(asdict(case))]
    with tempfile.TemporaryFile("w+") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, timeout=_PATIENCE_S)
        if done.returncode:
            log.seek(0)
            raise RuntimeError(f"{kind}: exit code {done.returncode}\n" + "\n".join(log.read().splitlines()[-15:]))
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"case"')))
    return Ran(**{**found, "case": Case(**found["case"])})


def all_once(case: Case) -> dict[str, Any]:
    """Train a case with each of the three on one Ray; return the efficiencies, and the versions."""
    from importlib.metadata import version

    with running_ray(case.slots) as address:
        found = {
            kind: measure(kind, address, case).efficiency for kind in ("engine ray", "engine processes", "Ray Tune")
        }
    return {"value": found, "versions": {name: version(name) for name in ("shoal", "ray")}}


def figures(runs: int, *, scale: float = 1.0) -> Iterator[Figure]:
    """Measure all, in turns, on one Ray."""
    case = replace(CASE, steps=max(2 * CASE.interval, round(CASE.steps * scale)))
    cases = {**dict.fromkeys(KINDS, case), "cheap results": replace(case, steps=max(100, round(REPORTS * scale)))}
    found: dict[str, list[Ran]] = {kind: [] for kind in KINDS}
    with running_ray(CASE.slots) as address:
        for _ in range(runs):
            for kind, each in cases.items():
                found[kind].append(measure(kind, address, each))
    yield from table(found)


def figures_in_its_environment(runs: int) -> Iterator[Figure]:
    """Measure all in the environment that has Ray Tune, where that is there, with as few runs as make a median."""
    if not PYTHON.exists():
        print("left out: what runs on Ray. make bench-vs-ray makes the environment that it needs", flush=True)
        return
    command = [str(PYTHON), __file__, "--runs", str(min(runs, 3)), "--pickle"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    yield from pickle.loads(done.stdout)


def table(found: dict[str, list[Ran]]) -> Iterator[Figure]:
    """Return what the runs say."""
    ours, forks, theirs = found["engine ray"], found["engine processes"], found["Ray Tune"]
    where = "on a warm Ray"
    yield Figure(f"efficiency {where}, engine ray", _each(ours, "efficiency"), 0.93, least=True)
    yield Figure(f"efficiency {where}, engine ray, from the first step on", _each(ours, "efficiency_training"))
    yield Figure(f"efficiency {where}, engine processes", _each(forks, "efficiency"))
    yield Figure(f"efficiency {where}, Ray Tune", _each(theirs, "efficiency"))
    yield Figure(f"efficiency {where}, Ray Tune, from the first step on", _each(theirs, "efficiency_training"))
    ratios = tuple(our.efficiency / their.efficiency for our, their in zip(ours, theirs, strict=True))
    yield Figure(f"efficiency {where}, engine ray / Ray Tune", ratios, 2.0, least=True)
    yield Figure("engine ray, fit() to the first step", _each(ours, "first_s"), unit="s")
    yield Figure("engine ray, driver's CPU for a result of these", _each(ours, "cpu_ms"), 1.0, unit="ms")
    yield Figure("Ray Tune, the same", _each(theirs, "cpu_ms"), unit="ms")
    yield Figure("engine ray, driver's CPU for a cheap result", _each(found["cheap results"], "cpu_ms"), 1.0, unit="ms")


def _each(runs: list[Ran], name: str) -> tuple[float, ...]:
    return tuple(getattr(run, name) for run in runs)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--runs", type=int, default=1, help="runs of each (1)")
    parser.add_argument("--scale", type=float, default=1.0, help="times the steps (1.0)")
    parser.add_argument("--json", metavar="CASE", help="train a case once with each but the cheap one; print JSON")
    parser.add_argument("--pickle", action="store_true", help=argparse.SUPPRESS)
    for hidden in ("--once", "--address", "--case"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--hold", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.hold is not None:
        hold(given.hold)
    elif given.once is not None:
        once(given.once, given.address, Case(**json.loads(given.case)))
    elif given.pickle:
        sys.stdout.buffer.write(pickle.dumps(list(figures(given.runs, scale=given.scale))))
    elif given.json is not None:
        print(json.dumps(all_once(Case(**json.loads(given.json)))), flush=True)
    else:
        print_table(figures(given.runs, scale=given.scale))


if __name__ == "__main__":
    main()
