"""The files in a trial's folder, which people's scripts read."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import tempfile
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shoal.core.commands import Launch, Status, Stop
from shoal.core.events import Opened
from shoal.core.limits import Limits, RetentionRules
from shoal.history import History
from shoal.journal import Record
from shoal.sinks import LogFiles, files

from .stories import Story

HEADER = (
    "mean_accuracy,lr,timestamp,checkpoint_dir_name,done,training_iteration,trial_id,date,time_this_iter_s,time_total_s,"
    "pid,hostname,node_ip,time_since_restore,iterations_since_restore"
)
USUAL = {"mean_accuracy": 0.0861, "lr": 0.8856}


@pytest.fixture
def story(tmp_path: Path) -> Story:
    told = Story(tmp_path, LogFiles())
    told.add_usual()
    return told


def folder_of(story: Story, index: int = 0) -> Path:
    return story.folder / story.history.trials[story.name(index)].folder


def results(story: Story, index: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder_of(story, index) / "result.json").read_text().splitlines()]


def table(story: Story, index: int = 0) -> list[list[str]]:
    with (folder_of(story, index) / "progress.csv").open(newline="") as file:
        return list(csv.reader(file))


# --------------------------------------------------------------------------------------------------------- params.json


def test_every_trial_has_a_folder_with_its_config_sorted_and_indented(story: Story) -> None:
    assert sorted(path.name for path in story.folder.iterdir()) == [folder_of(story, index).name for index in range(4)]
    text = (folder_of(story) / "params.json").read_text()
    assert text == '{\n  "checkpoint_interval": 5,\n  "lr": 0.1,\n  "momentum": 0.9\n}'


def test_the_config_is_rewritten_on_an_exploit_and_no_other_file_is_left(story: Story) -> None:
    story.report(1, save=True)
    story.report(0)
    story.exploit(0, 1, lr=0.24)
    assert json.loads((folder_of(story) / "params.json").read_text())["lr"] == 0.24
    assert sorted(os.listdir(folder_of(story))) == ["params.json", "progress.csv", "result.json"]


def test_a_config_may_hold_anything(story: Story) -> None:
    config: dict[Any, Any] = {
        "rate": np.float32(0.5),
        "layers": (np.int64(3), 4),
        "on": np.bool_(True),
        "weights": np.arange(3),
        "when": date(2026, 11, 23),
        "part": Fraction(1, 3),
        "nan": math.nan,
        "none": None,
        3: "three",
        ("a", 1): "pair",
        "name": "höst \U0001f41f",
    }
    story.add(config)
    assert json.loads((folder_of(story, 4) / "params.json").read_text()) == {
        "rate": 0.5,
        "layers": [3, 4],
        "on": True,
        "weights": [0, 1, 2],
        "when": "2026-11-23",
        "part": "1/3",
        "nan": pytest.approx(math.nan, nan_ok=True),
        "none": None,
        "3": "three",
        "('a', 1)": "pair",
        "name": "höst \U0001f41f",
    }


# --------------------------------------------------------------------------------------------------------- result.json


def test_a_line_is_the_result_with_the_automatic_values_and_the_config_of_that_time(story: Story) -> None:
    story.report(1, save=True)
    story.report(0, USUAL)
    story.exploit(0, 1, lr=0.24)
    story.report(0, USUAL, iteration=2, save=True)
    first, second = results(story)
    assert first["mean_accuracy"] == 0.0861
    assert first["config"]["lr"] == 0.1
    assert first["checkpoint_dir_name"] is None
    assert "should_checkpoint" not in first
    assert second["config"]["lr"] == 0.24
    assert second["checkpoint_dir_name"] == "checkpoint_000001"
    assert second["should_checkpoint"] is True
    assert {line["trial_id"] for line in (first, second)} == {"40bd6_00000"}


def test_the_keys_are_those_that_ray_tune_writes(story: Story) -> None:
    story.report(0, USUAL)
    assert set(results(story)[0]) == {*HEADER.split(","), "config"}


def test_nothing_is_written_for_a_report_that_came_late(story: Story) -> None:
    story.launch(0)
    story.report(0, launch=1)
    assert not (folder_of(story) / "result.json").exists()


def test_nan_and_infinity_can_be_read_back(story: Story) -> None:
    story.report(0, {"mean_accuracy": math.nan, "loss": math.inf})
    assert math.isnan(results(story)[0]["mean_accuracy"])
    frame = pd.read_json(folder_of(story) / "result.json", lines=True)
    assert math.isnan(frame["mean_accuracy"][0])
    read = pd.read_csv(folder_of(story) / "progress.csv")
    assert math.isnan(read["mean_accuracy"][0])
    assert read["loss"][0] == math.inf


def test_every_result_is_kept_in_order(story: Story) -> None:
    for _ in range(3):
        story.tell(*(story.reported(0, {"mean_accuracy": n / 100}, iteration=n) for n in range(1, 41)))
    assert [line["training_iteration"] for line in results(story)] == [*range(1, 41)] * 3
    assert len(table(story)) == 121


class WrittenAnew(LogFiles):
    """Makes no use of what was written before."""

    def take(self, record: Record) -> None:
        super().take(dataclasses.replace(record, texts=None))


numbers = st.integers(-(2**70), 2**70) | st.floats() | st.floats(-10, 10)
reported = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(["loss", '100%,"', "ö\n", "val", "timestamp"], numbers | st.just({"acc": 0.5}))
)
happened = st.lists(
    st.tuples(reported, st.sampled_from(["", "", "", "save", "stop", "exploit", "restart", "back"])), max_size=15
)


@given(happened)
@example([({"loss": 0.5}, ""), ({"loss": 0.5}, ""), ({"loss": 0.5, "val": 0.5}, "save"), ({"loss": 0.5}, "")])
def test_lines_of_numbers_that_were_written_before_are_those_that_are_written_anew(told: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        stories = [Story(Path(one), LogFiles()), Story(Path(other), WrittenAnew())]
        for story in stories:
            story.add({"lr": 0.1, "%s": "100%", "momentum": 0.9}, {"lr": 0.2})
            story.launch(0)
            story.launch(1)
            story.report(1, save=True)
            for metrics, what in told:
                if what == "exploit":
                    story.exploit(0, 1, lr=story.now)
                elif what == "restart":
                    story.launch(0, story.history.trials[story.name(0)].iteration)
                elif what == "back":
                    story.launch(0)
                else:
                    story.report(0, metrics, save=what == "save", stop="enough" if what == "stop" else None)
                story.now += 0.75
            story.close()
        texts = [
            {path.name: path.read_text() for path in folder_of(story).iterdir() if path.is_file()} for story in stories
        ]
    assert texts[0] == texts[1]


# -------------------------------------------------------------------------------------------------------- progress.csv


def test_the_header_is_that_of_ray_tune(story: Story) -> None:
    story.report(0, USUAL, save=True)
    story.report(0, USUAL)
    assert (folder_of(story) / "progress.csv").read_text().splitlines()[0] == HEADER
    frame = pd.read_csv(folder_of(story) / "progress.csv")
    assert frame["mean_accuracy"].tolist() == [0.0861, 0.0861]
    assert frame["checkpoint_dir_name"].tolist()[0] == "checkpoint_000000"
    assert frame["done"].tolist() == [False, False]


def test_nested_metrics_are_flattened_and_the_config_is_left_out(story: Story) -> None:
    story.report(0, {"val": {"acc": 0.5, "by": {"class": 1}}, "empty": {}})
    assert table(story)[0][:3] == ["val/acc", "val/by/class", "empty"]
    assert not [name for name in table(story)[0] if name.startswith("config")]


def test_a_new_key_comes_at_the_end_and_nothing_is_lost(story: Story) -> None:
    story.report(0, {"mean_accuracy": 0.1, "note": 'a "quoted",\ntext'})
    story.tell(
        story.reported(0, {"mean_accuracy": 0.2}, iteration=2),
        story.reported(0, {"mean_accuracy": 0.3, "loss": 7}, iteration=3),
        story.reported(0, {"loss": 8, "late": 1}, iteration=4),
    )
    story.report(0, {"late": 2, "loss": 9}, iteration=5)
    header, *rows = table(story)
    assert header[:2] == ["mean_accuracy", "note"]
    assert header[-2:] == ["loss", "late"]
    assert {len(row) for row in rows} == {len(header)}
    columns = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    assert columns["mean_accuracy"] == ["0.1", "0.2", "0.3", "", ""]
    assert columns["note"] == ['a "quoted",\ntext', "", "", "", ""]
    assert columns["loss"] == ["", "", "7", "8", "9"]
    assert columns["late"] == ["", "", "", "1", "2"]
    assert columns["training_iteration"] == ["1", "2", "3", "4", "5"]
    assert sorted(os.listdir(folder_of(story))) == ["params.json", "progress.csv", "result.json"]


def test_a_result_like_those_before_a_new_key_has_a_cell_for_it_too(story: Story) -> None:
    for metrics in (USUAL, USUAL, {**USUAL, "loss": math.nan}, USUAL):
        story.report(0, metrics)
    assert [len(row) for row in table(story)] == [len(HEADER.split(",")) + 1] * 5


def test_a_text_longer_than_csv_readers_like_survives_a_new_key(story: Story) -> None:
    story.report(0, {"text": "x" * 200_000})
    story.report(0, {"text": "y", "new": 1})
    lines = (folder_of(story) / "progress.csv").read_text().splitlines()
    assert lines[1].startswith("x" * 200_000)
    assert len(lines) == 3


def test_the_order_of_keys_may_change_between_results(story: Story) -> None:
    story.report(0, {"a": 1, "b": 2})
    story.report(0, {"b": 4, "a": 3})
    assert [row[:2] for row in table(story)] == [["a", "b"], ["1", "2"], ["3", "4"]]


# ----------------------------------------------------------------------------------------------- a trial that goes back


def test_steps_that_are_trained_again_are_there_once(story: Story) -> None:
    story.report(0, {"mean_accuracy": 0.1}, save=True)
    for score in (0.2, 0.3):
        story.report(0, {"mean_accuracy": score})
    story.launch(0, 1, story.saved[story.name(0)])
    assert [line["mean_accuracy"] for line in results(story)] == [0.1]
    assert len(table(story)) == 2
    story.report(0, {"mean_accuracy": 0.25})
    assert [line["mean_accuracy"] for line in results(story)] == [0.1, 0.25]
    assert [row[0] for row in table(story)] == ["mean_accuracy", "0.1", "0.25"]


def test_what_goes_and_what_comes_in_one_batch_is_told_apart(story: Story) -> None:
    story.report(0, {"mean_accuracy": 0.1}, save=True)
    story.report(0, {"mean_accuracy": 0.2})
    saved = story.saved[story.name(0)]
    late = story.reported(0, {"mean_accuracy": 0.3}, iteration=3)
    again = story.reported(0, {"mean_accuracy": 0.25, "new": 1}, iteration=2, launch=2)
    story.tell(late, Launch(story.name(0), 2, 0, {}, saved, 1, 1.0, 1, None, True), again)
    assert [line["mean_accuracy"] for line in results(story)] == [0.1, 0.25]
    header, *rows = table(story)
    assert [(row[0], row[header.index("new")]) for row in rows] == [("0.1", ""), ("0.25", "1")]


def test_without_a_checkpoint_the_files_are_left_with_nothing_but_a_header(story: Story) -> None:
    for _ in range(3):
        story.report(0, USUAL)
    story.fail_and_retry(0, ValueError("x"))
    assert results(story) == []
    assert (folder_of(story) / "progress.csv").read_text() == HEADER + "\n"
    before = (folder_of(story) / "progress.csv").stat()
    story.report(0, USUAL)
    assert (folder_of(story) / "progress.csv").stat().st_ino == before.st_ino, "whoever reads along goes on reading"
    assert len(results(story)) == len(table(story)) - 1 == 1


def test_a_result_that_goes_in_the_batch_in_which_it_came_leaves_the_files_of_a_trial_that_reported(
    story: Story,
) -> None:
    story.tell(story.reported(0, USUAL), Launch(story.name(0), 2, 0, {}, None, 0, 0.0, 0, None, True))
    assert results(story) == []
    assert (folder_of(story) / "progress.csv").read_text() == HEADER + "\n"


def test_a_trial_that_begins_anew_has_the_results_of_its_new_life(story: Story) -> None:
    story.report(0, USUAL, save=True)
    story.fail(0, ValueError("x"))
    story.tell(Opened(Limits(), RetentionRules(), anew=(story.name(0),)))
    assert results(story) == []
    story.launch(0)
    story.report(0, {"mean_accuracy": 0.5})
    assert [line["mean_accuracy"] for line in results(story)] == [0.5]


def test_after_a_crash_no_result_that_was_undone_is_left(story: Story) -> None:
    story.report(0, USUAL)
    story.fail_and_retry(0, ValueError("x"))
    story.close()
    (folder_of(story) / "result.json").write_text('{"mean_accuracy": 0.0861}\n{"torn')
    (folder_of(story) / "progress.csv").write_text(HEADER + "\n0.5,")
    again = LogFiles()
    again.start(story.info, story.folder, History.of(story.journal.read()))
    again.close()
    assert results(story) == []
    assert (folder_of(story) / "progress.csv").read_text() == HEADER + "\n"


@given(
    rows=st.lists(st.lists(st.text('ab",\n\r ü', max_size=5), min_size=2, max_size=2), max_size=30),
    count=st.integers(0, 31),
    block=st.integers(1, 20),
)
def test_the_last_rows_of_a_table_are_cut_wherever_lines_break(
    rows: list[list[str]], count: int, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def text(some: list[list[str]]) -> str:
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows(some)
        return lines.getvalue()

    path = tmp_path_factory.mktemp("table") / "progress.csv"
    path.write_text(text(rows), encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_BLOCK", block)
        files.cut_rows(path, count, quoted=True)
    assert path.read_bytes().decode() == text(rows[: max(0, len(rows) - count)])


def test_the_last_lines_are_cut_in_blocks_and_a_file_that_is_not_there_stays_away(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    files.cut_rows(path, 3)
    assert not path.exists()
    lines = [json.dumps({"text": 'a "quoted"\n' * 1000, "step": step}) + "\n" for step in range(100)]
    path.write_text("".join(lines))
    files.cut_rows(path, 60)
    assert path.read_text() == "".join(lines[:40])
    files.cut_rows(path, 60)
    assert path.read_text() == ""


# ----------------------------------------------------------------------------------------------------------- error.txt


def test_a_failure_is_written_with_its_traceback(story: Story) -> None:
    story.report(0)
    story.fail(0, ValueError("no such layer"))
    text = (folder_of(story) / "error.txt").read_text()
    assert text.startswith("train_convnet_40bd6_00000 failed after iteration 1:\nTraceback (most recent call last):")
    assert "ValueError: no such layer" in text
    assert not (folder_of(story, 1) / "error.txt").exists()


def test_every_failure_is_written_where_a_trial_is_tried_again(story: Story) -> None:
    story.fail_and_retry(0, ValueError("first"))
    story.lose(0, "the process was killed by signal 9")
    text = (folder_of(story) / "error.txt").read_text()
    assert text.index("ValueError: first") < text.index("the process was killed by signal 9")
    assert "and is tried again" in text


def test_an_end_without_an_exception_says_why(story: Story) -> None:
    story.tell(Stop(story.name(0), 1, Status.ERROR, "the function returned without a single tune.report(metrics)"))
    assert "without a single tune.report" in (folder_of(story) / "error.txt").read_text()


def test_a_trial_that_ends_well_has_no_error_file(story: Story) -> None:
    story.report(0)
    story.finish(0)
    assert not (folder_of(story) / "error.txt").exists()


# ------------------------------------------------------------------------------------------- many files, and restoring


def test_three_hundred_trials_need_no_more_open_files_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: set[int] = set()
    most = 0
    really_open, really_close = os.open, os.close

    def count_open(*args: Any, **options: Any) -> int:
        nonlocal most
        handle = really_open(*args, **options)
        opened.add(handle)
        most = max(most, len(opened))
        return handle

    def count_close(handle: int) -> None:
        opened.discard(handle)
        really_close(handle)

    story = Story(tmp_path, LogFiles(open_files=20))
    story.add_usual(300)
    monkeypatch.setattr(os, "open", count_open)
    monkeypatch.setattr(os, "close", count_close)
    for iteration in range(1, 4):
        story.tell(*(story.reported(index, iteration=iteration) for index in range(300)))
    story.close()
    monkeypatch.undo()
    assert most == 20
    assert opened == set()
    for index in range(300):
        assert [line["training_iteration"] for line in results(story, index)] == [1, 2, 3]
        assert len(table(story, index)) == 4


def test_after_a_crash_the_files_are_what_the_journal_says(story: Story) -> None:
    story.report(1, save=True)
    for _ in range(3):
        story.report(0, USUAL)
    story.exploit(0, 1, lr=0.3)
    story.report(0, {**USUAL, "loss": 1.0})
    story.fail(2, ValueError("x"))
    story.close()
    whole = {path: path.read_text() for path in sorted(story.folder.rglob("*.*")) if path.is_file()}
    (folder_of(story) / "result.json").write_text('{"mean_accuracy": 0.0861}\n{"torn')
    (folder_of(story) / "progress.csv").write_text(HEADER + "\n0.5,")
    (folder_of(story) / "params.json").write_text("{}")
    (folder_of(story, 1) / "result.json").unlink()
    (folder_of(story, 2) / "error.txt").unlink()
    again = LogFiles()
    again.start(story.info, story.folder, History.of(story.journal.read()))
    again.close()
    assert {path: path.read_text() for path in sorted(story.folder.rglob("*.*")) if path.is_file()} == whole


def test_a_history_without_rows_goes_on_with_the_files_that_are_there(story: Story) -> None:
    story.report(0, USUAL)
    story.close()
    more = Story(story.folder, LogFiles(), keep_rows=False, journal=story.journal)
    for record in story.journal.read():
        more.history.add(record)
    more.readers[0].start(more.info, more.folder, more.history)
    more.report(0, {"mean_accuracy": 0.7, "loss": 3, "lr": 0.1})
    more.close()
    header, *rows = table(story)
    assert header == [*HEADER.split(","), "loss"]
    assert [row[0] for row in rows] == ["0.0861", "0.7"]
    assert len(results(story)) == 2


def test_results_are_written_when_a_batch_is_complete(tmp_path: Path) -> None:
    sink = LogFiles()
    story = Story(tmp_path, sink)
    story.add_usual(1)
    for record in story.journal.append([story.reported(0)], story.now):
        story.history.add(record)
        sink.take(record)
    assert not (folder_of(story) / "result.json").exists()
    sink.flush()
    assert len(results(story)) == 1
    sink.close()
