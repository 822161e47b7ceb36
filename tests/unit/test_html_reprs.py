"""Results in a notebook: small tables that hold what matters, escape what users named, and never raise."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.simulated import write_experiment

from shoal.analysis import ExperimentAnalysis
from shoal.checkpoints import Checkpoint
from shoal.display.html import element, escape, pairs, raw, sparkline, table
from shoal.display.reprs import size_text
from shoal.display.text import Column
from shoal.lineage import Lineage, Schedule, Segment
from shoal.results import ResultGrid

from .pages import EVIL, parsed, words
from .stories import Story, make_info


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> ResultGrid:
    return ResultGrid.read(write_experiment(tmp_path_factory.mktemp("reprs") / "small", files=True))


def shown(thing: Any) -> str:
    html = thing._repr_html_()
    assert isinstance(html, str)
    parsed(html)
    return html


# ------------------------------------------------------------------------------------------------------------ builder


def test_text_is_escaped_and_html_is_not_escaped_twice() -> None:
    inner = element("b", "a<b", title='"x"')
    assert inner == '<b title="&quot;x&quot;">a&lt;b</b>'
    assert element("p", inner, " & ", 3) == f"<p>{inner} &amp; 3</p>"
    assert (
        element("input", "x", hidden=True, class_="y", data_id=None, open=False) == '<input hidden class="y">x</input>'
    )
    assert escape(raw("<hr>")) == "<hr>"
    assert escape("\x00\ud800\x1b") == "\ufffd" * 3


def test_numbers_of_a_column_have_their_decimal_points_in_one_line() -> None:
    html = table([Column("lr", ["0.5", "0.0625", "12"], right=True)])
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", html)
    assert [cell.replace("\u2007", "_") for cell in cells] == ["0.5___", "0.0625", "12_____"]


def test_a_sparkline_has_gaps_where_values_are_missing_and_few_points_of_many() -> None:
    html = sparkline(
        [(1.0, 0.0), (2.0, 1.0), (3.0, None), (4.0, 0.5), (5.0, float("nan")), (6.0, 1.0), (7.0, 0.0)], "x"
    )
    assert html.count("<polyline") == 2
    points = [(float(step), float(step % 7)) for step in range(10_000)]
    html = sparkline([*points, (10_000.0, 100.0)], "x")
    assert len(html) < 10_000
    assert re.search(r"[ \"][0-9.]+,3\.0[ \"]", html)  # the peak is drawn
    assert sparkline([], "x") == sparkline([(1.0, 2.0)], "x") == sparkline([(1.0, None), (2.0, None)], "x") == ""


@pytest.mark.parametrize("values", [(1.0, 1.0), (1e308, -1e308), (5e-324, 0.0), (float("inf"), 1.0, 2.0)])
def test_a_sparkline_of_any_numbers_stays_in_its_frame(values: tuple[float, ...]) -> None:
    html = sparkline(list(enumerate(values)), "x")
    for x, y in re.findall(r"([0-9.a-z-]+),([0-9.a-z-]+)", re.findall(r'points="([^"]*)"', html)[0]):
        assert 0 <= float(x) <= 240
        assert 0 <= float(y) <= 44


def test_a_long_value_is_cut_and_a_long_name_has_its_whole_text_as_a_title() -> None:
    html = pairs([("x" * 1000, "y" * 1000)])
    assert len(html) < 1000
    html = table([Column("trial", ["t" * 50])])
    assert f'title="{"t" * 50}"' in html


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_940, "99.9 kB"), (123_456, "123 kB"), (999_600, "1.0 MB"),
     (5e9, "5.0 GB"), (3e15, "3000.0 TB")],
)  # fmt: skip
def test_sizes_are_short(size: float, text: str) -> None:
    assert size_text(size) == text


# ------------------------------------------------------------------------------------------------------------ results


def test_a_grid_is_a_table_of_its_trials_with_the_best_one_marked(grid: ResultGrid) -> None:
    html = shown(grid)
    best = grid.get_best_result()
    row = html.split('class="shoal-best"')[1].split("</tr>")[0]
    assert Path(best.path).name in row
    assert html.count("TERMINATED") == len(grid) == 8
    assert grid.experiment_path in words(html)
    assert repr(grid).startswith("ResultGrid of 8 trials")


def test_a_grid_of_a_thousand_trials_shows_some_of_them() -> None:
    story = Story(Path("/results/large"), info=make_info(num_trials=1000))
    story.add_usual(1000)
    for index in range(1000):
        story.report(index, {"mean_accuracy": index / 1000})
    html = shown(ResultGrid(story.history, story.info, story.folder))
    assert html.split("<tbody>")[1].count("<tr") == 40
    assert "40bd6_00999" in html
    assert "and 960 more: 960 RUNNING" in words(html)


def test_a_result_has_metrics_config_curve_path_and_checkpoint(grid: ResultGrid) -> None:
    result = grid.get_best_result()
    html = shown(result)
    text = words(html)
    assert f"accuracy {result.metrics['accuracy']:.5g}" in text
    assert "batch 64" in text
    assert "<polyline" in html
    assert "accuracy by training_iteration" in text
    assert "iteration 1 to 40" in text
    assert result.path in text
    assert result.checkpoint is not None
    assert result.checkpoint.path in text


def test_a_result_without_a_metric_shows_the_first_number_and_one_without_results_its_config() -> None:
    story = Story(Path("/results/x"), info=make_info(metric=None))
    story.add_usual(2)
    for step in range(3):
        story.report(0, {"note": "text", "loss": 1.0 / (step + 1)})
    grid = ResultGrid(story.history, story.info, story.folder)
    assert "loss by training_iteration" in words(shown(grid[0]))
    assert "<svg" not in shown(grid[1])
    assert "lr 0.2" in words(shown(grid[1]))


def test_a_failed_result_says_why(grid: ResultGrid) -> None:
    story = Story(Path("/results/x"))
    story.add_usual(1)
    story.fail(0, ValueError("no <data>"))
    assert "ValueError: no <data>" in words(shown(ResultGrid(story.history, story.info, story.folder)[0]))


def test_what_was_deleted_is_shown_as_such(tmp_path: Path) -> None:
    grid = ResultGrid.read(write_experiment(tmp_path / "gone", members=2, steps=5, files=True))
    checkpoint = grid[0].checkpoint
    assert checkpoint is not None
    shutil.rmtree(tmp_path / "gone")
    assert "not there any more" in words(shown(grid))
    text = words(shown(grid[0]))
    assert "not there any more" in text
    assert "checkpoint its folder is gone" in text
    assert "Its folder is gone." in words(shown(checkpoint))


def test_a_result_that_was_pickled_before_shows_its_curve_all_the_same(grid: ResultGrid) -> None:
    again = pickle.loads(pickle.dumps(grid[0]))
    del again.__dict__["_metric"]  # as results had it once
    assert "<polyline" in shown(again)


def test_an_analysis_shows_what_its_grid_does(grid: ResultGrid) -> None:
    assert shown(ExperimentAnalysis(grid.experiment_path)) == shown(grid)


# ----------------------------------------------------------------------------------------------- checkpoint, lineage


def test_a_checkpoint_lists_its_files_with_sizes_and_its_metadata(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "weights.bin").write_bytes(b"x" * 2048)
    checkpoint = Checkpoint.from_directory(tmp_path)
    checkpoint.set_metadata({"classes": ["cat", "<dog>"]})
    text = words(shown(checkpoint))
    assert "inner/weights.bin 2.0 kB" in text
    assert 'classes ["cat", "<dog>"]' in text
    assert repr(checkpoint) == f"Checkpoint(path={str(tmp_path)!r})"


def test_a_checkpoint_with_very_many_files_or_broken_notes_is_shown_as_well(tmp_path: Path) -> None:
    for number in range(1005):
        (tmp_path / f"{number:04d}").touch()
    assert "more than 1000 files" in words(shown(Checkpoint.from_directory(tmp_path)))
    notes = tmp_path / "broken"
    notes.mkdir()
    (notes / ".metadata.json").write_text("{")
    assert "cannot be read" in words(shown(Checkpoint.from_directory(notes)))
    (notes / ".metadata.json").write_text(json.dumps({"x": "y" * 100_000}))
    assert "Its metadata takes 100 kB" in words(shown(Checkpoint.from_directory(notes)))


def test_a_lineage_and_a_schedule_have_columns_for_what_differs(grid: ResultGrid) -> None:
    result = max(grid, key=lambda each: len(each.lineage()))
    lineage = result.lineage()
    assert len(lineage) > 1
    html = shown(lineage)
    assert html.split("<tbody>")[1].count("<tr") == len(lineage)
    assert "from scratch" in html
    assert f"copied {lineage[-1].checkpoint}" in words(html)
    assert "batch=64" in words(html)
    schedule = shown(result.schedule())
    assert schedule.split("<tbody>")[1].count("<tr") == len(result.schedule().changes)


def test_an_empty_lineage_and_a_very_long_one_are_shown() -> None:
    assert "nothing has been reported" in words(shown(Lineage([])))
    assert "nothing has been reported" in words(shown(Schedule(())))
    segments = [Segment("a_0", 0, step, step, {"lr": float(step)}, None, None) for step in range(1, 1001)]
    html = shown(Lineage(segments))
    assert html.split("<tbody>")[1].count("<tr") == 60
    assert "940 earlier segments left out" in words(html)


# ---------------------------------------------------------------------------------------------------- never in the way


def test_nothing_that_users_named_becomes_markup() -> None:
    story = Story(
        Path("/results") / EVIL.replace("\x00", ""), info=make_info(name=EVIL, metric=EVIL, parameters=[EVIL])
    )
    story.add({EVIL: EVIL, "list": [EVIL], EVIL[::-1]: {EVIL: EVIL}})
    story.launch(0)
    for step in range(3):
        story.report(0, {EVIL: float(step), "text": EVIL})
    story.fail(0, ValueError(EVIL))
    grid = ResultGrid(story.history, story.info, story.folder)
    for thing in (grid, grid[0], grid[0].lineage(), grid[0].schedule()):
        html = shown(thing)
        assert not {"img", "script"} & parsed(html).tags
        assert "\x00" not in html
        assert "\x1b" not in html
        html.encode("utf-8")


class Nasty:
    """Has a text while it is written down, and none when it is to be shown."""

    armed = False

    def __str__(self) -> str:
        if self.armed:
            raise RuntimeError("no text")
        return "nasty"

    __repr__ = __str__


def test_what_cannot_be_shown_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(Path("/results/x"), info=make_info(parameters=["nasty"]))
    story.add({"nasty": Nasty()})
    story.launch(0)
    story.report(0, {"mean_accuracy": 0.5})
    grid = ResultGrid(story.history, story.info, story.folder)
    things = (grid, grid[0], grid[0].lineage(), grid[0].schedule())
    assert all("nasty" in shown(thing) for thing in things)
    monkeypatch.setattr(Nasty, "armed", True)
    for thing in things:
        assert thing._repr_html_() is None


def test_html_does_not_turn_around_what_stands_behind_a_name() -> None:
    assert element("b", "gnp.\u202egpj") == "<b>gnp.\ufffdgpj</b>"
