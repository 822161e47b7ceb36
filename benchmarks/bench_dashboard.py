"""What the live page costs, and how quick it is: ``python benchmarks/bench_dashboard.py [--runs 3] [--only paint]``.

* ``paint``: seconds until a browser shows the key numbers and the table of 100 members with 1,000 results each: where
  the server knows the experiment already, and right after the server was started, which then has to read its journal;
  what an experiment is and how large is there before that.
* ``update``: milliseconds that the browser is busy with an update of that page, and with a figure's, and how long the
  longest tasks were that kept it from answering the reader, whatever they were for. The experiment grows by a hundred
  results a second meanwhile. What was not updated at least three times within a minute counts as missed.
* ``driver``: results a second of two members that keep two cores busy, with and without a page that is open; each pair
  is measured one after the other. Without work between two results, they report some 20,000 a second, and the page's
  server has that many to read. The browser is played by a client that asks as it does, because on a small machine a
  real one would take a core by itself, which is usually another machine's.

Needs Chromium and the packages of ``shoal[dashboard]`` and Playwright.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import results
from figures import HEADER, Figure, print_table

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.growing import Growing
from tests.simulated import pbt, write_experiment

MEMBERS, STEPS = 100, 1000
LEAST = 3
"""Updates without which nothing is said of what they cost."""
PAINT_S, UPDATE_MS = 2.0, 200.0
LONGEST_S = 60.0
"""Seconds for which such updates are waited for."""
_LONG_TASKS = """
    window.shoalLong = [];
    new PerformanceObserver(list => {
        for (const task of list.getEntries()) window.shoalLong.push(task.duration);
    }).observe({type: "longtask", buffered: true});
"""
_PLOTS = ("learning-curves", "lineage", "schedules", "ancestry", "diversity", "times", "gains")
_SERVE = "import sys; from shoal import dashboard; dashboard.serve(sys.argv[1], port=0)"
_RUN = """
import sys, time
from shoal import tune
def train(config):
    for step in range(config["steps"]):
        end = time.perf_counter() + config["work_s"]
        while time.perf_counter() < end:
            pass
        tune.report({"loss": 1 / (step + 1.7), "accuracy": 1 - 1 / (step + 1.7)})
began = time.perf_counter()
grid = tune.Tuner(
    train,
    param_space={"steps": int(sys.argv[2]), "work_s": float(sys.argv[3]), "lr": tune.uniform(0, 1)},
    tune_config=tune.TuneConfig(metric="accuracy", mode="max", num_samples=2),
    run_config=tune.RunConfig(name="watched", storage_path=sys.argv[1], verbose=0),
).fit()
print(2 * int(sys.argv[2]) / (time.perf_counter() - began))
"""


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run the page of a folder in a process of its own, and give its address."""
    process = subprocess.Popen([sys.executable, "-c", _SERVE, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().rpartition(" ")[2].strip().rstrip("/")
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Give a Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            yield chromium
        finally:
            chromium.close()


def seconds_to_table(chromium: Any, address: str) -> tuple[float, float]:
    """Return how long it takes from the address to the name with first facts, and to 100 members, on the screen."""
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    try:
        began = time.perf_counter()
        page.goto(address, wait_until="commit")
        page.wait_for_selector(".facts dd")
        head = time.perf_counter() - began
        page.wait_for_selector(f"#members tr:nth-child({MEMBERS})", state="attached")
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return head, time.perf_counter() - began
    finally:
        page.close()


def paint(source: Path, runs: int) -> Iterator[Figure]:
    """Measure how soon something useful is there."""
    cold: list[float] = []
    head: list[float] = []
    known: list[float] = []
    with browser() as chromium:
        chromium.new_page().close()  # its own start is not measured
        for _ in range(runs):
            with server(source) as address:
                for place, took in zip(
                    (head, cold), seconds_to_table(chromium, f"{address}/e/{source.name}"), strict=True
                ):
                    place.append(took)
                known.append(seconds_to_table(chromium, f"{address}/e/{source.name}")[1])
    yield Figure(f"first useful paint, {MEMBERS} x {STEPS}, journal read before", tuple(known), PAINT_S, "s")
    yield Figure(f"name and facts, {MEMBERS} x {STEPS}, server just started", tuple(head), PAINT_S, "s")
    yield Figure(f"table of members, {MEMBERS} x {STEPS}, server just started", tuple(cold), PAINT_S, "s")


def update(source: Path, folder: Path, seconds: float) -> Iterator[Figure]:
    """Measure what updates cost in the browser, while the experiment grows."""
    growing = Growing(source, folder / "growing")
    growing.grow(part=0.7)
    stop = threading.Event()

    def grow() -> None:
        while not stop.wait(0.1):
            growing.grow(count=12)

    with server(folder) as address, browser() as chromium:
        page = chromium.new_page(viewport={"width": 1400, "height": 1000})
        page.add_init_script(_LONG_TASKS)
        page.goto(f"{address}/e/growing")
        page.wait_for_selector(f"#members tr:nth-child({MEMBERS})", state="attached", timeout=60_000)
        writer = threading.Thread(target=grow)
        writer.start()
        try:
            long_tasks(page)  # what opening the page took is measured elsewhere
            found = {"key numbers and table": updates(page, "shoal-update", seconds)}
            tasks = {"key numbers and table": long_tasks(page)}
            for name in _PLOTS:
                page.evaluate(f"document.getElementById('plot-{name}').scrollIntoView()")
                page.wait_for_selector(f'[data-plot="{name}"].drawn', timeout=60_000)
                long_tasks(page)
                found[f"plot {name}"] = updates(page, f"shoal-figure-{name}", seconds)
                tasks[f"plot {name}"] = long_tasks(page)
        finally:
            stop.set()
            writer.join()
            growing.close()
    for name, values in found.items():
        # Values that no target holds for: without enough of them, the line says so, and the whole has failed.
        enough = len(values) >= LEAST
        said = f"p95 {percentile(values, 95):.0f} ms" if enough else f"NOT MEASURED: {len(values)} updates"
        yield Figure(
            f"update in the browser: {name}", tuple(values) if enough else (float("inf"),), UPDATE_MS, "ms", note=said
        )
        longest = tasks[name] or [0.0]  # the browser tells of those above 50 ms
        note = f"p95 {percentile(longest, 95):.0f} ms, {len(tasks[name])} above 50 ms"
        yield Figure(f"long tasks meanwhile: {name}", tuple(longest), unit="ms", note=note)


def updates(page: Any, name: str, seconds: float) -> list[float]:
    """Return the milliseconds of what the page measures from now on.

    What takes long to make is made seldom, on a slow machine the more so: some updates are waited for.
    """
    before = len(measures(page, name))
    page.wait_for_timeout(1000 * seconds)
    deadline = time.monotonic() + LONGEST_S
    while len(measures(page, name)) < before + LEAST and time.monotonic() < deadline:
        page.wait_for_timeout(500)
    return measures(page, name)[before:]


def percentile(values: list[float], part: int) -> float:
    """Return what so many of a hundred values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * part // 100)]


def long_tasks(page: Any) -> list[float]:
    """Return the milliseconds of the long tasks since this was asked for last."""
    return page.evaluate("window.shoalLong.splice(0)")


def measures(page: Any, name: str) -> list[float]:
    """Return the milliseconds that the page has measured."""
    return page.evaluate(f"performance.getEntriesByName('{name}').map(entry => entry.duration)")


class Watcher:
    """Asks as an open page does: what is new once a second, and the figures in view when there is something new."""

    def __init__(self, address: str) -> None:
        self._address = f"{address}/e/watched"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.answers = 0

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        have, shown = "", dict.fromkeys(_PLOTS[:2], "")
        while not self._stop.wait(1.0):
            with contextlib.suppress(urllib.error.URLError):
                found, _ = self._get(f"live.json?have={have}")
                have = json.loads(found)["version"] if found else have
                for name in shown:
                    _, shown[name] = self._get(f"figures/{name}.json?have={shown[name]}")
                self.answers += 1

    def _get(self, path: str) -> tuple[bytes, str]:
        with urllib.request.urlopen(f"{self._address}/{path}", timeout=30) as answer:
            return answer.read(), answer.headers.get("X-Shoal-Version", "")


def rate(storage: Path, steps: int, work_s: float) -> float:
    """Return the results a second of one run."""
    command = [sys.executable, "-c", _RUN, str(storage), str(steps), str(work_s)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def driver(runs: int, seconds: float) -> Iterator[Figure]:
    """Measure what a page that is open costs the driver."""
    for name, work_s, guess in (("2 ms of work a result", 0.002, 450), ("no work", 0.0, 9_000)):
        steps = int(guess * seconds)
        alone: list[float] = []
        watched: list[float] = []
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as storage:
                alone.append(rate(Path(storage), steps, work_s))
            with (
                tempfile.TemporaryDirectory() as storage,
                server(Path(storage)) as address,
                Watcher(address) as watcher,
            ):
                watched.append(rate(Path(storage), steps, work_s))
            assert watcher.answers, "nobody has watched"
        parts = tuple(one / other for one, other in zip(watched, alone, strict=True))
        yield Figure(f"results a second, {name}, nobody looks", tuple(alone))
        yield Figure(f"results a second, {name}, a page is open", tuple(watched))
        yield Figure(f"part of the rate that is left, {name}", parts, note=f"median {statistics.median(parts):.0%}")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--runs", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--only", choices=("paint", "update", "driver"), help="one part")
    parser.add_argument("--seconds", type=float, default=12.0, help="how long each thing is watched (12)")
    parser.add_argument("--write", action="store_true", help="write the table into RESULTS.md as well")
    given = parser.parse_args()

    def figures(folder: Path) -> Iterator[Figure]:
        if given.only != "driver":
            source = write_experiment(
                folder / "whole" / "experiment", members=MEMBERS, steps=STEPS, seed=1, slots=16,
                scheduler=pbt(perturbation_interval=20), checkpoint_every=20, max_events=10**7,
            )  # fmt: skip
            if given.only != "update":
                yield from paint(source, given.runs)
            if given.only != "paint":
                (folder / "live").mkdir()
                yield from update(source, folder / "live", given.seconds)
        if given.only in (None, "driver"):
            yield from driver(given.runs, given.seconds)

    with tempfile.TemporaryDirectory() as folder:
        printed = print_table(figures(Path(folder)))
    if given.write:
        table = "\n".join([HEADER, *(figure.row() for figure in printed)])
        results.write_section("python benchmarks/bench_dashboard.py", table)
    return 0 if all(figure.holds for figure in printed) else 1


if __name__ == "__main__":
    sys.exit(main())
