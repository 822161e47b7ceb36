"""The guide's DCGAN script, and the demo, as processes of their own: real digits, real worker processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

CONFIG_KEYS = {"netG_lr", "netD_lr", "mnist_model_ref", "checkpoint_interval"}
SCRIPT = Path(__file__).with_name("guide_dcgan.py")

# What the test adds at the end of the script: the figures that plt.show() showed, and the results as data.
TAIL = """
import json
import os
figures = [plt.figure(number) for number in plt.get_fignums()]
for number, figure in enumerate(figures):
    figure.savefig(f"figure_{number}.png")
json.dump(
    {
        "metrics": [result.metrics for result in results_grid],
        "lengths": [len(df) for df in result_dfs],
        "errors": results_grid.num_errors,
        "best": best_result.metrics["is_score"],
        "config": sorted(best_result.config),
        "files": os.listdir(best_checkpoint),
        "figures": [[axes.get_title() for axes in figure.axes] for figure in figures],
        "drawn": [[len(line.get_ydata()) for axes in figure.axes for line in axes.lines] for figure in figures],
    },
    open("outcome.json", "w"),
    default=repr,
)
"""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for the network that scores: one for all test files and workers, so that it is trained once."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shoal_cache"


def start(command: list[str], cwd: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "MPLBACKEND": "Agg", "SHOAL_DIR": str(cwd / "results"), "SHOAL_CACHE_DIR": str(cache)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def contrast(picture: Path) -> float:
    """Return the standard deviation of the pixels, 0 to 1, or 0 where the picture is of one colour."""
    return float(imread(picture)[..., :3].std())


@pytest.mark.slow
def test_the_guides_script_runs_with_only_its_import_lines_changed(tmp_path: Path, cache: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.read_text() + TAIL)

    done = start([str(script)], tmp_path, cache)

    assert done.returncode == 0, done.stdout + done.stderr
    outcome: dict[str, Any] = json.loads((tmp_path / "outcome.json").read_text())

    # Two members, five rounds each.
    assert outcome["errors"] == 0
    assert outcome["lengths"] == [5, 5]
    for metrics in outcome["metrics"]:
        assert metrics["training_iteration"] == 5
        assert 1 <= metrics["is_score"] <= 10
        assert metrics["lossg"] > 0
        assert metrics["lossd"] > 0
    assert outcome["best"] == max(metrics["is_score"] for metrics in outcome["metrics"])
    assert set(outcome["config"]) == CONFIG_KEYS
    assert outcome["files"] == ["checkpoint.pt"]

    # The files in the experiment's folder; a member's config fits on a page, because the model is not in it.
    folders = sorted(path for path in (tmp_path / "results" / "pbt_dcgan_mnist_tutorial").iterdir() if path.is_dir())
    for folder in (folder for folder in folders if folder.name.startswith("dcgan_train")):
        assert len((folder / "result.json").read_text().splitlines()) == 5
        assert set(json.loads((folder / "params.json").read_text())) == CONFIG_KEYS
        assert (folder / "params.json").stat().st_size < 1000

    # Three plots and the digits.
    assert outcome["figures"] == [
        ["Inception Score During Training"],
        ["Generator Loss During Training", "Discriminator Loss During Training"],
        ["after 5 iterations"],
    ]
    assert outcome["drawn"] == [[5, 5], [5, 5, 5, 5], []]
    for number in range(3):
        assert contrast(tmp_path / f"figure_{number}.png") > 0.05


def test_only_the_import_lines_name_shoal() -> None:
    code = [line for line in SCRIPT.read_text().splitlines() if not line.lstrip().startswith("#")]
    naming = [line for line in code if re.search(r"\bshoal\b", line, flags=re.IGNORECASE)]

    assert len(naming) == 6
    assert all(line.startswith(("import ", "from ")) for line in naming)


@pytest.mark.slow
def test_the_demo_trains_a_population_whose_score_rises(tmp_path: Path, cache: Path) -> None:
    command = ["-m", "shoal.examples.pbt_dcgan_mnist", "--members", "2", "--iterations", "11", "--seed", "3"]
    done = start([*command, "--name", "demo", "--storage", "results", "--out", "pictures"], tmp_path, cache)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    found = re.search(r"^Best inception score: (\d\.\d\d) after 11 iterations$", done.stdout, flags=re.MULTILINE)
    assert found is not None, done.stdout
    assert float(found[1]) > 2
    assert re.search(r"^Best config: +netG_lr=[\d.e-]+, netD_lr=[\d.e-]+$", done.stdout, flags=re.MULTILINE)
    experiment = tmp_path / "results" / "demo"
    for file in experiment.glob("dcgan_train*/result.json"):
        first = json.loads(file.read_text().splitlines()[0])
        assert first["is_score"] < 1.5

    pictures = {path.name: contrast(path) for path in (tmp_path / "pictures").iterdir()}
    assert set(pictures) == {"inception_score.png", "losses.png", "digits.png"}
    assert min(pictures.values()) > 0.05
