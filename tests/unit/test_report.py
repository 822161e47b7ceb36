"""The report: one file that holds everything, lets nothing out of its place, and is there whatever the run came to."""

from __future__ import annotations

import base64
import copy
import hashlib
import importlib.util
import json
import math
import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.growing import Growing
from tests.simulated import write_experiment

from shoal.errors import ConfigError, JournalError, ResultError, StorageError
from shoal.journal.sqlite import SQLiteJournal
from shoal.reading import Experiment
from shoal.report import report_html, write_report
from shoal.report_page import differences, safe_json
from shoal.results import ResultGrid

from .pages import EVIL, parsed, words
from .stories import Story, make_info

pytest.importorskip("plotly")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("report") / "small", files=True)


@pytest.fixture(scope="module")
def html(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(folder, tmp_path_factory.mktemp("out") / "report.html").read_text(encoding="utf-8")


def begin(tmp_path: Path, name: str = "told", **facts: Any) -> Story:
    """Begin a story whose journal is in a folder."""
    where = tmp_path / name
    where.mkdir()
    info = make_info(**{"name": name, "run_id": "40bd6", **facts})
    journal = SQLiteJournal.create(where)
    journal.set_meta(**info.to_meta())
    return Story(where, info=info, journal=journal)


def opened(story: Story) -> Experiment:
    story.journal.close()
    return Experiment.open(story.folder)


# --------------------------------------------------------------------------------------------------------- what it says


def test_the_report_says_what_was_run_and_what_came_of_it(html: str, folder: Path) -> None:
    text = words(html)
    best = ResultGrid.read(folder).get_best_result()
    assert "small ended learn with PopulationBasedTraining, accuracy (max)" in text
    assert "Members 8 (8 TERMINATED)" in text
    assert f"accuracy {best.metrics['accuracy']:.5g} by {Path(best.path).name} at iteration 40" in text
    assert best.checkpoint is not None
    assert f"{best.checkpoint.path} (2 B)" in text
    assert "Seed 0" in text
    assert "Slots 4, each with 1 CPU " in text
    assert "training_iteration ≥ 40" in text


def test_the_report_has_the_card_with_what_each_statement_follows_from(html: str, folder: Path) -> None:
    from shoal.card import report_card

    text = words(html)
    statements = report_card(folder).statements
    assert statements
    for statement in statements:
        assert " ".join(f"{statement.text} From: {statement.because}".split()) in text


def test_schedule_and_lineage_of_the_winner_are_whole(html: str, folder: Path) -> None:
    best = ResultGrid.read(folder).get_best_result()
    schedule, lineage = re.findall(r"<h3>Its (?:schedule|lineage)</h3>.*?<tbody>(.*?)</tbody>", html, re.DOTALL)
    assert schedule.count("<tr") == len(best.schedule().changes)
    assert lineage.count("<tr") == len(best.lineage())
    assert str(best.lineage()[-1].checkpoint) in lineage


def test_every_plot_is_there_with_how_to_read_it(html: str) -> None:
    from shoal.plots import PLOTS

    text = words(html)
    for name, plot in PLOTS.items():
        assert f'id="plot-{name}"' in html
        assert " ".join(plot.explanation.split()) in text
        spec = json.loads(re.findall(rf'id="data-{name}">(.*?)</script>', html)[0])
        assert spec["light"]["data"]
        assert "title" not in spec["light"]["layout"]  # the page has it


def test_members_and_exploits_have_tables_with_all_of_them(html: str, folder: Path) -> None:
    grid = ResultGrid.read(folder)
    members = html.split('id="members"')[1].split("</section>")[0]
    assert members.split("<tbody>")[1].count("<tr") == len(grid)
    assert members.count('class="shoal-best"') == 1
    exploits = html.split('id="exploits"')[1].split("</section>")[0]
    count = len(Experiment.open(folder).history.exploits)
    assert exploits.split("<tbody>")[1].count("<tr") == count
    assert f"All {count}, newest first." in exploits


def test_of_many_exploits_the_newest_hundred_are_shown(tmp_path: Path) -> None:
    story = begin(tmp_path)
    story.add_usual(2)
    for step in range(105):
        story.report(0, {"mean_accuracy": 0.9}, save=True)
        story.report(1, {"mean_accuracy": 0.1})
        story.exploit(1, 0, lr=float(step))
    text = report_html(opened(story))
    exploits = text.split('id="exploits"')[1].split("</section>")[0]
    assert exploits.split("<tbody>")[1].count("<tr") == 100
    assert "The newest 100 of 105" in exploits
    first = words(exploits.split("<tbody>")[1].split("</tr>")[0].removeprefix("<tr>"))
    assert "→ 104" in first


def test_members_that_failed_alike_are_told_together_with_one_traceback(tmp_path: Path) -> None:
    story = begin(tmp_path)
    story.add_usual()
    story.report(0)
    for index in (1, 2):
        story.fail(index, ValueError("no <data>"))
    story.notice("the disk is slow")
    text = words(report_html(opened(story)))
    assert "2 members failed: ValueError: no <data>" in text
    assert text.count("Traceback (most recent call last)") == 1
    assert "error.txt" in text
    assert "the disk is slow" in text


# ---------------------------------------------------------------------------------------------------- whatever it is of


def test_a_run_that_has_only_begun_has_a_report_that_says_so(tmp_path: Path) -> None:
    story = begin(tmp_path)
    story.add_usual()
    text = words(report_html(opened(story)))
    assert "There is no result yet." in text
    assert "There is no winner" in text
    assert "has no result yet, so there is nothing to draw" in text
    assert "Nobody has copied anybody." in text


def test_an_experiment_without_members_or_metric_has_a_report(tmp_path: Path) -> None:
    assert "Members none yet" in words(report_html(opened(begin(tmp_path, "empty"))))
    story = begin(tmp_path, "none", metric=None, parameters=[])
    story.add_usual()
    story.report(0, {"loss": 1.0})
    assert "There is no winner: no metric that compares members." in words(report_html(opened(story)))


def test_scores_that_are_no_numbers_are_no_obstacle(tmp_path: Path) -> None:
    story = begin(tmp_path)
    story.add_usual()
    for index, value in enumerate((math.nan, math.inf, -math.inf, None)):
        story.report(index, {"mean_accuracy": value}, save=True)
    story.exploit(0, 1)
    text = words(report_html(opened(story)))
    assert "There is no winner: no result with a finite value of it." in text
    assert "could not be drawn" not in text


def test_what_a_damaged_journal_still_tells_is_reported(tmp_path: Path) -> None:
    where = write_experiment(tmp_path / "damaged", members=4, steps=10)
    with sqlite3.connect(where / "journal.sqlite") as connection:
        count = connection.execute("SELECT MAX(seq) FROM journal").fetchone()[0]
        connection.execute("UPDATE journal SET body = '{}' WHERE seq = ?", (count // 2,))
    connection.close()
    path = write_report(where, tmp_path / "report.html")
    text = words(path.read_text(encoding="utf-8"))
    assert "Not all of it could be read." in text
    assert f"record {count // 2} is not what was written" in text
    assert "Members 4" in text
    with sqlite3.connect(where / "journal.sqlite") as connection:
        connection.execute("UPDATE journal SET body = '{}' WHERE seq = 1")
    connection.close()
    with pytest.raises(JournalError, match="damaged"):
        write_report(where, path)
    assert words(path.read_text(encoding="utf-8")) == text  # the one that was there stays


def test_a_plot_that_fails_is_missing_and_the_others_are_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shoal.plots

    class Broken:
        title, explanation = "Broken", "Nobody knows."

        def __init__(self, error: Exception) -> None:
            self.error = error

        def info(self, experiment: Experiment) -> Any:
            raise self.error

    some = {
        "lineage": shoal.plots.PLOTS["lineage"],
        "a": Broken(ValueError("<oops>")),
        "b": Broken(ResultError("none.")),
    }
    monkeypatch.setattr(shoal.plots, "PLOTS", some, raising=False)
    html = report_html(Experiment.open(folder))
    assert html.count('class="figure"') == 1
    text = words(html)
    assert "It could not be drawn: ValueError: <oops>" in text
    assert "Broken none. Nobody knows." in text


# ------------------------------------------------------------------------------------------------- one safe, whole file


def evil_experiment(tmp_path: Path) -> Experiment:
    story = begin(tmp_path, "evil", trainable=EVIL, scheduler=EVIL, metric=EVIL, parameters=[EVIL, "lr"])
    story.add(*({EVIL: f"{EVIL}{index}", "lr": 0.1 + index, "__proto__": EVIL} for index in range(3)))
    for index in range(3):
        story.launch(index)
        story.report(index, {EVIL: 0.5 + index, "text": EVIL}, save=True)
    story.exploit(0, 2, lr=0.7)
    story.report(0, {EVIL: 0.9})
    story.fail(1, ValueError(EVIL))
    story.notice(EVIL)
    return opened(story)


def test_nothing_that_users_named_becomes_markup_or_ends_a_script(tmp_path: Path) -> None:
    html = report_html(evil_experiment(tmp_path))
    html.encode("utf-8")
    assert "could not be drawn" not in html
    found = parsed(html)
    assert not {"img", "iframe", "link", "object"} & found.tags
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL)
    assert html.count("<script") == html.count("</script>") == len(scripts)
    for script in scripts[:-2]:
        json.loads(script)
        assert "<" not in script


def test_the_page_may_load_nothing_and_run_only_its_own_scripts(html: str) -> None:
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)[0].replace("&#x27;", "'")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert "http" not in policy
    assert "unsafe-eval" not in policy
    code = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in code]
    assert rules["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    outside = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    assert not re.findall(r'\b(?:src|href)="(?!#|data:)', outside)
    assert not re.findall(r"url\(|@import", outside)


def test_a_report_takes_the_place_of_the_old_one_and_leaves_nothing_beside_it(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    assert write_report(ResultGrid.read(folder), str(path)) == path
    path.write_text("old")
    os.umask(mask := os.umask(0))
    assert write_report(Experiment.open(folder), path) == path
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_report_that_cannot_be_written_leaves_the_old_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*names: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        write_report(folder, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"


def test_wrong_arguments_are_told_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        write_report(folder, tmp_path)
    with pytest.raises(ConfigError, match="path must be"):
        write_report(folder, "")
    with pytest.raises(ConfigError, match="source must be"):
        write_report(3, tmp_path / "x.html")  # type: ignore[arg-type]
    with pytest.raises(JournalError):
        write_report(tmp_path, tmp_path / "x.html")
    assert list(tmp_path.iterdir()) == []


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Pretend that packages are not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in names else find(name, *rest))


def test_missing_packages_are_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.html"
    without(monkeypatch, "plotly", "matplotlib")
    with pytest.raises(ImportError, match=r"pip install 'shoal\[plotly\]', or pip install 'shoal\[plots\]'"):
        write_report(folder, path)
    with pytest.raises(ImportError, match=r"shoal\[plotly\]"):
        write_report(folder, path, interactive=True)
    with pytest.raises(ImportError, match=r"shoal\[plots\]"):
        write_report(folder, path, interactive=False)


def test_without_plotly_figures_are_pictures_and_the_page_has_no_script(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    from shoal.plots import PLOTS

    without(monkeypatch, "plotly")
    html = report_html(Experiment.open(folder))
    assert html.count("data:image/svg+xml;base64,") == len(PLOTS)
    assert "<script" not in html
    assert "script-src &#x27;none&#x27;" in html
    assert len(html) < 5_000_000


# --------------------------------------------------------------------------------------------------------------- pieces


def patched(light: Any, changes: Any) -> Any:
    """Do what the page's script does."""
    tree = copy.deepcopy(light)
    for path, value in changes:
        if not path:
            tree = value
            continue
        inner = tree
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
    return tree


@pytest.mark.parametrize(
    ("light", "dark"),
    [
        ({"a": 1, "b": [1, 2, {"c": "x"}]}, {"a": 1, "b": [1, 2, {"c": "y"}]}),
        ({"a": [1, 2, 3]}, {"a": [1, 2]}),
        ({"a": 1}, {"b": 1}),
        ({"a": ["x"] * 9}, {"a": ["y"] * 9}),
        ({"a": 1}, {"a": True}),
        ([], {}),
        ({"a": {"b": None}}, {"a": {"b": {}}}),
    ],
)
def test_the_dark_figure_is_the_light_one_with_its_differences(light: Any, dark: Any) -> None:
    changes = json.loads(json.dumps(differences(light, dark)))
    assert json.dumps(patched(light, changes)) == json.dumps(dark)


def test_figures_of_both_themes_share_their_data(folder: Path) -> None:
    from shoal.plots import PLOTS

    experiment = Experiment.open(folder)
    for plot in PLOTS.values():
        info = plot.info(experiment)
        light, dark = plot.spec(info, theme="light"), plot.spec(info, theme="dark")
        changes = differences(light, dark)
        assert patched(light, changes) == dark
        assert len(json.dumps(changes)) < len(json.dumps(dark))


def test_json_in_a_page_cannot_end_its_script_and_has_no_nan() -> None:
    text = safe_json({"x": "</script><!-- <script> & \u2028 \ud800"})
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text)["x"].startswith("</script>")
    with pytest.raises(ValueError, match="JSON"):
        safe_json({"x": math.nan})


def test_the_report_of_an_interrupted_run_does_not_say_that_members_run(folder: Path, tmp_path: Path) -> None:
    growing = Growing(folder, tmp_path / "cut")
    growing.grow(part=0.5)
    text = words(report_html(Experiment.open(growing.folder)))
    assert " RUNNING" in text
    assert "cut off" not in text
    growing.close()
    text = words(report_html(Experiment.open(growing.folder)))
    assert "interrupted" in text
    assert " RUNNING" not in text
    assert "● cut off" in text
    assert " cut off, " in text
