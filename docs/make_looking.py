"""Make the pictures of docs/looking.md, and the report card that it shows, of one real run; in ``make pictures``.

    python docs/make_looking.py [--folder FOLDER]     # of an experiment that is there already, instead of a new run

Twelve ConvNets on the digits of the examples, three of them kept out of exploits; a minute on two cores. Screenshots
need the package playwright and a Chromium; without these, the ones that are there stay.
"""

from __future__ import annotations

import argparse
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from make_pictures import PICTURES, keep

from shoal import tune
from shoal.card import report_card
from shoal.display.card import card_lines
from shoal.examples.mnist_pytorch import train_convnet
from shoal.plots import PLOTS, save_plot
from shoal.tune.schedulers import PopulationBasedTraining

PAGE = Path(__file__).resolve().parent / "looking.md"
_CARD = re.compile(r"(<!-- card -->\n```text\n).*?(^```$)", flags=re.MULTILINE | re.DOTALL)


def train(storage: Path) -> Path:
    """Train the population whose pictures the page shows, and return its folder."""
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=5,
        hyperparam_mutations={"lr": tune.loguniform(1e-4, 1), "momentum": tune.uniform(0.5, 0.99)},
        seed=1,
    )
    grid = tune.Tuner(
        train_convnet,
        param_space={
            "lr": tune.loguniform(1e-4, 1),
            "momentum": tune.uniform(0.5, 0.99),
            "checkpoint_interval": 5,
        },
        tune_config=tune.TuneConfig(
            metric="mean_accuracy", mode="max", num_samples=12, control=3, seed=1, scheduler=scheduler
        ),
        run_config=tune.RunConfig(
            name="digits",
            storage_path=storage,
            stop={"training_iteration": 50},
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
        ),
    ).fit()
    return Path(grid.experiment_path)


def screenshots(folder: Path, target: Path) -> None:
    """Take pictures of the live page, in light and dark, and of the report."""
    from playwright.sync_api import sync_playwright

    browser = shutil.which("chromium")
    if browser is None:
        print("no chromium: screenshots stay as they are")
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "shoal", "dashboard", str(folder), "--port", str(port), "--no-open"]
    report = target / "report.html"
    subprocess.run([sys.executable, "-m", "shoal", "report", str(folder), "-o", str(report)], check=True)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server, sync_playwright() as play:
        try:
            _wait_for(f"http://127.0.0.1:{port}/")
            chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            for scheme in ("light", "dark"):
                page: Any = chromium.new_page(viewport={"width": 1240, "height": 1500}, color_scheme=scheme)
                page.goto(f"http://127.0.0.1:{port}/e/{folder.name}")
                page.locator("#lineage, [data-plot=lineage]").first.scroll_into_view_if_needed()
                page.wait_for_load_state("networkidle")
                page.wait_for_timeout(1500)
                page.screenshot(path=target / f"looking-dashboard-{scheme}.png")
            chromium.close()
        finally:
            server.terminate()


def _wait_for(url: str) -> None:
    """Wait until somebody answers."""
    for _ in range(200):
        try:
            urllib.request.urlopen(url).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"nobody answers at {url}")


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, metavar="FOLDER", help="an experiment's folder; default: train one")
    given = parser.parse_args().folder
    with tempfile.TemporaryDirectory(prefix="shoal_pictures_") as place:
        target = Path(place)
        folder = (given or train(target / "results")).resolve()
        for name in PLOTS:
            save_plot(folder, name, target / f"looking-{name}.png")
        screenshots(folder, target)
        made = keep(target)
        lines = card_lines(report_card(folder))
    text = PAGE.read_text(encoding="utf-8")
    shown = "\n".join(lines)
    PAGE.write_text(_CARD.sub(lambda found: f"{found[1]}{shown}\n{found[2]}", text), encoding="utf-8")
    print(f"made {', '.join(made)} in {PICTURES.name}; wrote {PAGE.name}")


if __name__ == "__main__":
    main()
