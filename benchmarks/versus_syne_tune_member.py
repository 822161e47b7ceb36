"""One member as Syne Tune runs it: a script that is started with its hyperparameters as arguments."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from workload import load, report_with, save


def main() -> None:
    """Do what the arguments say."""
    # What the script imports of the library is the library's time, as it is for the others.
    from syne_tune import Reporter

    reporter = Reporter()
    parser = argparse.ArgumentParser()
    for name, kind in {"lr": float, "step_s": float, "interval": int, "megabytes": int, "reports": int}.items():
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--folder")
    parser.add_argument("--st_checkpoint_dir", type=Path)
    given = parser.parse_args()
    if given.reports:
        report_with(lambda metrics: reporter(**metrics), given.reports, given.folder)
    else:
        train(reporter, given)


def train(report: Any, given: argparse.Namespace) -> None:
    """Train as ``workload.train_with`` does, until the process is ended."""
    own_s = 0.0
    began = time.perf_counter()
    checkpoints: Path = given.st_checkpoint_dir
    fresh = checkpoints.with_name("fresh")
    fresh.mkdir(parents=True, exist_ok=True)
    step = load(checkpoints) if (checkpoints / "step").exists() else 0
    checkpoints.mkdir(exist_ok=True)
    while True:
        step += 1
        time.sleep(given.step_s)
        if step % given.interval == 0:
            # Another member may be copying the folder, and this process may be ended: no file is ever there in part.
            save(fresh, step, given.megabytes)
            for path in fresh.iterdir():
                os.replace(path, checkpoints / path.name)
        own_s += time.perf_counter() - began
        report(score=given.lr * step, step=step, own_s=own_s)
        began = time.perf_counter()


if __name__ == "__main__":
    main()
