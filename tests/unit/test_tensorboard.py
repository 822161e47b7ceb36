"""Event files, as TensorBoard itself reads them."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import struct
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader  # type: ignore[import-untyped]
from tensorboard.backend.event_processing.plugin_event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator as PluginEventAccumulator,
)
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import metadata  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.api_pb2 import Status  # type: ignore[import-untyped]
from tensorboard.util.tensor_util import make_ndarray  # type: ignore[import-untyped]

from shoal.core.commands import Status as TrialStatus
from shoal.core.events import Reported
from shoal.experiment import Reader
from shoal.history import History
from shoal.journal import Record
from shoal.journal.memory import MemoryJournal
from shoal.sinks import tfevents
from shoal.sinks.tensorboard import TensorBoardFiles

from .stories import NOON, Story, make_info


@pytest.fixture
def story(tmp_path: Path) -> Story:
    told = Story(tmp_path, TensorBoardFiles())
    told.add_usual()
    return told


def folder_of(story: Story, index: int = 0) -> Path:
    return story.folder / story.history.trials[story.name(index)].folder


def files_of(story: Story, index: int = 0) -> list[str]:
    return sorted(path.name for path in folder_of(story, index).glob("events.out.tfevents.*"))


def read(story: Story, index: int = 0) -> Any:
    """Return what TensorBoard makes of a trial's folder. It logs each time that steps go back."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    accumulator = EventAccumulator(str(folder_of(story, index)), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


def line(story: Story, tag: str, index: int = 0) -> list[tuple[int, float]]:
    """Return the steps and values of a scalar: as notebooks read them, which must be what the server shows."""
    found = [(event.step, event.value) for event in read(story, index).Scalars(tag)]
    server = PluginEventAccumulator(str(folder_of(story, index)), tensor_size_guidance={"scalars": 0})
    server.Reload()
    shown = [(event.step, make_ndarray(event.tensor_proto).item()) for event in server.Tensors(tag)]
    assert [repr(point) for point in shown] == [repr(point) for point in found]
    return found


def about(values: list[tuple[int, float]]) -> Any:
    """Return the values with single precision."""
    return [(step, pytest.approx(value, rel=1e-6, nan_ok=True)) for step, value in values]


def hparams(story: Story, index: int = 0) -> dict[str, Any]:
    """Return the hyperparameters that the HPARAMS tab shows of a trial."""
    content = read(story, index).SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    found = metadata.parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}


def restored(story: Story, *, keep_rows: bool = True) -> Story:
    """Return the story, told on by a new reader as after a restore."""
    again = Story(story.folder, journal=story.journal)
    for record in story.journal.read():
        again.history.add(record)
    if not keep_rows:
        again.history.keep_rows = False
        for trial in again.history.trials.values():
            trial.rows.clear()
    reader: Reader = TensorBoardFiles()
    reader.start(again.info, again.folder, again.history)
    again.readers = [reader]
    again.saved = story.saved
    return again


# -------------------------------------------------------------------------------------------------------- the encoding


def records(data: bytes, tmp_path: Path) -> list[Any]:
    """Return the events in the bytes of a file, as TensorBoard's loader finds them; it checks every sum."""
    path = tmp_path / "events.out.tfevents.1.test"
    path.write_bytes(data)
    return [Event.FromString(each) for each in RawEventFileLoader(str(path)).Load()]


def test_a_file_begins_with_its_version(tmp_path: Path) -> None:
    (event,) = records(tfevents.first(NOON), tmp_path)
    assert event == Event(wall_time=NOON, file_version="brain.Event:2")


TAGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@given(st.lists(st.tuples(TAGS, st.floats(width=32)), max_size=20), st.integers(0, 2**40), st.floats(0, 1e10))
def test_scalars_are_what_the_library_would_write(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[str, float]], step: int, at: float
) -> None:
    data = tfevents.scalars(at, step, b"".join(tfevents.scalar(tag, value) for tag, value in values))
    (event,) = records(data, tmp_path_factory.mktemp("events"))
    expected = Event(wall_time=at, step=step)
    expected.summary.SetInParent()
    for tag, value in values:
        expected.summary.value.add(tag=tag, simple_value=value)
    assert event.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


SINGLE = st.floats(width=32) | st.integers(-(2**100), 2**100)


@given(
    st.lists(TAGS, min_size=1, max_size=8),
    st.lists(st.tuples(TAGS, SINGLE), max_size=3),
    st.lists(st.tuples(st.integers(1, 2**40), st.floats(), st.lists(SINGLE, min_size=8, max_size=8)), max_size=5),
)
def test_records_of_a_series_are_the_same_as_others(tags: list[str], more: list[Any], steps: list[Any]) -> None:
    constant = b"".join(tfevents.scalar(tag, value) for tag, value in more)
    series = tfevents.Series(tags, constant)
    for step, at, given_values in steps:
        values = given_values[: len(tags)]
        expected = b"".join(tfevents.scalar(tag, value) for tag, value in zip(tags, values, strict=True)) + constant
        assert series.record(at, step, values) == tfevents.scalars(at, step, expected)


HPARAMS = st.one_of(st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False), TAGS)


@given(st.dictionaries(TAGS, HPARAMS, max_size=8))
@example({"huge": 10**400})
def test_hyperparameters_are_what_the_library_reads(
    tmp_path_factory: pytest.TempPathFactory, given_values: dict[str, Any]
) -> None:
    data = tfevents.first(1.0) + tfevents.session_start(NOON, given_values)
    event = records(data, tmp_path_factory.mktemp("events"))[1]
    (value,) = event.summary.value
    info = metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content)
    assert value.tensor == metadata.NULL_TENSOR
    assert info.start_time_secs == NOON
    found = {name: getattr(entry, entry.WhichOneof("kind")) for name, entry in info.hparams.items()}
    assert found == {name: str(value) if name == "huge" else value for name, value in given_values.items()}


def test_the_other_records(tmp_path: Path) -> None:
    data = (
        tfevents.restart(2.0, 300) + tfevents.session_end(3.0, success=True) + tfevents.session_end(4.0, success=False)
    )
    restart, good, bad = records(data, tmp_path)
    assert restart == Event(wall_time=2.0, step=300, session_log=SessionLog(status=SessionLog.START))
    for event, status, at in ((good, "STATUS_SUCCESS", 3.0), (bad, "STATUS_FAILURE", 4.0)):
        (value,) = event.summary.value
        assert value.tag == metadata.SESSION_END_INFO_TAG
        end = metadata.parse_session_end_info_plugin_data(value.metadata.plugin_data.content)
        assert (Status.Name(end.status), end.end_time_secs) == (status, at)


def test_what_single_precision_cannot_hold_is_infinite(tmp_path: Path) -> None:
    values = [1e39, -1e300, math.inf, 1e-60]
    data = tfevents.scalars(1.0, 1, b"".join(tfevents.scalar("x", value) for value in values))
    (event,) = records(data, tmp_path)
    assert [each.simple_value for each in event.summary.value] == [math.inf, -math.inf, math.inf, 0.0]


def test_a_series_says_where_it_cannot_hold_a_value() -> None:
    series = tfevents.Series(["x"], b"")
    for value in (1e39, 10**400):
        with pytest.raises(OverflowError):
            series.record(1.0, 1, [value])
    assert series.record(1.0, 1, [2.5]) == tfevents.scalars(1.0, 1, tfevents.scalar("x", 2.5))


def test_text_that_is_no_unicode_is_kept_readable(tmp_path: Path) -> None:
    (event,) = records(tfevents.scalars(1.0, 1, tfevents.scalar("a\udc80", 1.0)), tmp_path)
    assert event.summary.value[0].tag == "a\\udc80"


# ------------------------------------------------------------------------------------------------------------- scalars


def test_every_number_is_a_line_by_training_iteration(story: Story) -> None:
    story.report(0, {"mean_accuracy": 0.5, "val": {"acc": 0.25, "by": {"class": 3}}, "done_well": True, "note": "text"})
    story.report(0, {"mean_accuracy": 0.75, "late": 1})
    assert line(story, "mean_accuracy") == [(1, 0.5), (2, 0.75)]
    assert set(read(story).Tags()["scalars"]) == {
        "mean_accuracy", "val/acc", "val/by/class", "done_well", "late", "time_this_iter_s", "time_total_s",
        "config/lr", "config/momentum",
    }  # fmt: skip
    assert line(story, "val/by/class") == [(1, 3.0)]
    assert line(story, "done_well") == [(1, 1.0)]
    assert line(story, "late") == [(2, 1.0)]
    assert line(story, "time_total_s") == [(1, 0.25), (2, 0.5)]


def test_the_time_of_a_value_is_that_of_its_report(story: Story) -> None:
    story.report(0, timestamp=NOON + 7.5)
    assert [event.wall_time for event in read(story).Scalars("mean_accuracy")] == [NOON + 7.5]


def test_nan_and_infinity_are_kept(story: Story) -> None:
    for value in (math.nan, math.inf, -math.inf, 1e300):
        story.report(0, {"loss": value})
    values = [value for _, value in line(story, "loss")]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf, math.inf]


def test_what_is_no_number_is_no_line(story: Story) -> None:
    story.report(0, {"a": 1, "f": [1.0], "h": None, "j": {}, "l": "1.0"})
    assert [tag for tag in read(story).Tags()["scalars"] if len(tag) == 1] == ["a"]


def test_hyperparameters_may_be_anything(tmp_path: Path) -> None:
    config = {"a": np.float32(0.5), "b": np.int64(2), "c": True, "d": np.array([1.0]), "e": "text", "f": None, "g": 1j}
    story = Story(tmp_path, TensorBoardFiles(), info=make_info(parameters=list(config)))
    story.add(config)
    story.launch(0)
    story.report(0)
    assert [tag for tag in read(story).Tags()["scalars"] if tag.startswith("config/")] == [
        "config/a", "config/b", "config/c",
    ]  # fmt: skip
    assert hparams(story) == {"a": 0.5, "b": 2.0, "c": True, "d": "[1.]", "e": "text", "g": "1j"}


def test_the_hyperparameters_of_the_time_are_lines_too(story: Story) -> None:
    story.report(1, save=True)
    story.report(0)
    story.report(0)
    story.exploit(0, 1, lr=0.7)
    story.report(0, iteration=3)
    story.report(0, iteration=4)
    assert line(story, "config/lr") == about([(1, 0.1), (2, 0.1), (3, 0.7), (4, 0.7)])
    assert line(story, "config/momentum") == about([(step, 0.9) for step in (1, 2, 3, 4)])


def test_constants_are_no_lines_unless_they_change(story: Story) -> None:
    story.report(1, save=True)
    story.report(0)
    assert "config/checkpoint_interval" not in read(story).Tags()["scalars"]
    story.exploit(0, 1, checkpoint_interval=7)  # a custom_explore_fn may change anything
    story.report(0, iteration=2)
    assert line(story, "config/checkpoint_interval") == [(2, 7.0)]


def test_nested_hyperparameters_have_a_path(tmp_path: Path) -> None:
    story = Story(tmp_path, TensorBoardFiles(), info=make_info(parameters=["opt/lr", "layers/0", "name"]))
    story.add({"opt": {"lr": 0.5, "eps": 0.1}, "layers": [np.int64(64)], "name": "adam"})
    story.launch(0)
    story.report(0)
    assert [tag for tag in read(story).Tags()["scalars"] if tag.startswith("config/")] == ["config/opt/lr"]
    assert hparams(story) == {"opt/lr": 0.5, "layers/0": 64.0, "name": "adam"}


# --------------------------------------------------------------------------------------------------- steps that go back


def test_an_exploit_that_goes_back_leaves_one_value_for_each_step(story: Story) -> None:
    for score in (0.1, 0.2, 0.3):
        story.report(1, {"mean_accuracy": score}, save=score == 0.3)
    for score in (0.01, 0.02, 0.03, 0.04, 0.05):
        story.report(0, {"mean_accuracy": score})
    story.exploit(0, 1, lr=0.7)
    story.report(0, {"mean_accuracy": 0.4}, iteration=4)
    assert line(story, "mean_accuracy") == about([(1, 0.01), (2, 0.02), (3, 0.03), (4, 0.4)])
    assert line(story, "config/lr") == about([(1, 0.1), (2, 0.1), (3, 0.1), (4, 0.7)])


def test_an_exploit_that_goes_ahead_leaves_a_gap(story: Story) -> None:
    story.report(1, {"mean_accuracy": 0.3}, iteration=10, save=True)
    story.report(0, {"mean_accuracy": 0.1})
    story.exploit(0, 1)
    story.report(0, {"mean_accuracy": 0.4}, iteration=11)
    assert line(story, "mean_accuracy") == about([(1, 0.1), (11, 0.4)])


def test_what_is_repeated_after_a_failure_is_there_once(story: Story) -> None:
    for score in (0.1, 0.2, 0.3):
        story.report(0, {"mean_accuracy": score})
    story.fail_and_retry(0, ValueError("x"))
    for iteration, score in enumerate((0.11, 0.21, 0.31, 0.41), 1):
        story.report(0, {"mean_accuracy": score}, iteration=iteration)
    assert line(story, "mean_accuracy") == about([(1, 0.11), (2, 0.21), (3, 0.31), (4, 0.41)])
    assert hparams(story) == pytest.approx({"lr": 0.1, "momentum": 0.9})


@given(st.lists(st.integers(1, 6), min_size=1, max_size=20))
def test_the_newest_value_of_each_step_is_left(tmp_path_factory: pytest.TempPathFactory, steps: list[int]) -> None:
    """However the iterations go up and down: a step and all after it are replaced when it is reported again."""
    story = Story(tmp_path_factory.mktemp("story"), TensorBoardFiles())
    story.add_usual(1)
    expected: dict[int, float] = {}
    for number, step in enumerate(steps):
        expected = {earlier: value for earlier, value in expected.items() if earlier < step}
        expected[step] = float(number)
        story.report(0, {"mean_accuracy": float(number)}, iteration=step)
    assert line(story, "mean_accuracy") == sorted(expected.items())


class WrittenAnew(TensorBoardFiles):
    """Knows nothing of what metrics are."""

    def take(self, record: Record) -> None:
        super().take(dataclasses.replace(record, texts=None))


METRICS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(["loss", "ö", "val"], SINGLE | st.floats() | st.just({"acc": 0.5}) | st.just("text"))
)


@given(st.lists(st.tuples(METRICS, st.sampled_from(["", "", "", "exploit", "back"])), max_size=15))
def test_results_of_one_kind_are_written_as_others_are(told: list[Any]) -> None:
    found: list[bytes] = []
    for reader in (TensorBoardFiles(), WrittenAnew()):
        with tempfile.TemporaryDirectory() as folder:
            story = Story(Path(folder), reader)
            story.add_usual(2)
            story.report(1, save=True)
            for metrics, what in told:
                if what == "exploit":
                    story.exploit(0, 1, lr=story.now)
                elif what == "back":
                    story.launch(0)
                else:
                    story.report(0, metrics)
            story.close()
            found.append(b"".join(path.read_bytes() for path in sorted(Path(folder).rglob("events.out*"))))
    assert found[0] == found[1]


def test_nothing_is_written_for_a_report_that_came_late(story: Story) -> None:
    story.launch(0)
    story.report(0, launch=1)
    assert files_of(story) == []


# -------------------------------------------------------------------------------------------------------- HPARAMS tab


def test_the_hparams_tab_shows_the_first_sample_and_how_it_ended(story: Story) -> None:
    for index in (0, 1, 2):
        story.report(index)
    story.finish(0)
    story.fail(1, ValueError("x"))
    assert hparams(story) == {"lr": 0.1, "momentum": 0.9}
    for index, status in ((0, "STATUS_SUCCESS"), (1, "STATUS_FAILURE")):
        content = read(story, index).SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
        assert Status.Name(metadata.parse_session_end_info_plugin_data(content).status) == status
    assert metadata.SESSION_END_INFO_TAG not in read(story, 2).Tags()["tensors"]


# ------------------------------------------------------------------------------------------- files, many, and restored


def test_a_trial_has_one_file_and_none_before_its_first_result(story: Story) -> None:
    assert files_of(story) == []
    story.report(1, save=True)
    for _ in range(3):
        story.report(0)
        story.exploit(0, 1)
    story.report(0, iteration=2)
    story.finish(0)
    story.close()
    assert files_of(story) == [f"events.out.tfevents.{int(NOON)}.shoal"]
    assert files_of(story, 2) == []


def test_results_are_written_when_a_batch_is_complete(tmp_path: Path) -> None:
    sink = TensorBoardFiles()
    story = Story(tmp_path, sink)
    story.add_usual(1)
    for record in story.journal.append([story.reported(0)], story.now):
        story.history.add(record)
        sink.take(record)
    assert files_of(story) == []
    sink.flush()
    assert len(line(story, "mean_accuracy")) == 1
    sink.close()


def test_three_hundred_trials_need_no_thread_and_one_open_file_at_a_time(
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

    story = Story(tmp_path, TensorBoardFiles())
    story.add_usual(300)
    threads = threading.active_count()
    monkeypatch.setattr(os, "open", count_open)
    monkeypatch.setattr(os, "close", count_close)
    for iteration in (1, 2):
        story.tell(*(story.reported(index, iteration=iteration) for index in range(300)))
    assert threading.active_count() == threads
    story.close()
    monkeypatch.undo()
    assert most == 1
    assert opened == set()
    assert [step for step, _ in line(story, "mean_accuracy", 299)] == [1, 2]


def test_after_a_crash_the_file_is_completed(story: Story) -> None:
    for score in (0.1, 0.2, 0.3):
        story.report(0, {"mean_accuracy": score})
    story.report(1)
    story.finish(1)
    story.report(2)
    whole = {path: path.read_bytes() for path in story.folder.rglob("events.*")}
    path = folder_of(story) / files_of(story)[0]
    path.write_bytes(path.read_bytes()[:-11])  # the last record is torn
    (folder_of(story, 2) / files_of(story, 2)[0]).unlink()
    again = restored(story)
    assert {path: path.read_bytes() for path in story.folder.rglob("events.*")} == whole
    again.report(0, {"mean_accuracy": 0.4})
    assert line(again, "mean_accuracy") == about([(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)])
    again.close()
    assert read(again, 1).Tags()["tensors"] == [metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG]


def test_a_trial_that_ended_and_goes_on_is_told_on(story: Story) -> None:
    story.report(0, save=True)
    story.finish(0)
    story.close()
    again = restored(story)
    again.history.trials[again.name(0)].status = TrialStatus.PAUSED
    again.launch(0, 1, again.saved[again.name(0)])
    again.report(0)
    again.finish(0)
    again.close()
    assert line(again, "mean_accuracy") == [(1, 0.5), (2, 0.5)]
    assert read(again).Tags()["tensors"] == [metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG]


@given(st.data())
def test_a_file_cut_anywhere_is_completed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    story = Story(tmp_path_factory.mktemp("story"), TensorBoardFiles())
    story.add_usual(1)
    for step in data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=8)):
        story.report(0, iteration=step)
    path = folder_of(story) / files_of(story)[0]
    whole, expected = path.read_bytes(), line(story, "mean_accuracy")
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut] + data.draw(st.sampled_from([b"", bytes(300), b"x" * 20])))
    restored(story)
    assert path.read_bytes() == whole
    assert line(story, "mean_accuracy") == expected


def test_results_that_the_journal_has_lost_are_dropped(story: Story) -> None:
    """A power cut may take the last moments from the journal, and leave them to a log file."""
    for step in (1, 2, 3, 2):
        story.report(0, {"mean_accuracy": step / 10}, iteration=step)
    journal = story.journal
    story.journal = MemoryJournal()
    story.journal.append([record.item for record in journal.read()][:-1], story.now)
    again = restored(story)
    again.report(0, {"mean_accuracy": 0.9}, iteration=4)
    assert line(again, "mean_accuracy") == about([(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.9)])


def test_a_tensorboard_that_is_running_follows(story: Story) -> None:
    for score in (0.1, 0.2, 0.3):
        story.report(0, {"mean_accuracy": score})
    path = folder_of(story) / files_of(story)[0]
    path.write_bytes(path.read_bytes()[:-11])
    running = read(story)
    assert [event.step for event in running.Scalars("mean_accuracy")] == [1, 2]
    again = restored(story)
    again.report(0, {"mean_accuracy": 0.4})
    running.Reload()
    assert [event.step for event in running.Scalars("mean_accuracy")] == [1, 2, 3, 4]


def test_a_history_without_rows_goes_on_with_the_file_that_is_there(story: Story) -> None:
    for score in (0.1, 0.2, 0.3):
        story.report(0, {"mean_accuracy": score})
    path = folder_of(story) / files_of(story)[0]
    path.write_bytes(path.read_bytes()[:-11])
    again = restored(story, keep_rows=False)
    again.report(0, {"mean_accuracy": 0.21}, iteration=2)
    assert line(again, "mean_accuracy") == about([(1, 0.1), (2, 0.21)])
    assert hparams(again) == {"lr": 0.1, "momentum": 0.9}


def test_event_files_of_the_users_own_are_left_alone(story: Story) -> None:
    users = folder_of(story)
    users.mkdir(exist_ok=True)
    (users / "events.out.tfevents.1795435200.host").write_bytes(b"mine")
    story.report(0)
    restored(story)
    assert (users / "events.out.tfevents.1795435200.host").read_bytes() == b"mine"


def test_the_late_reports_of_a_trial_that_ended_change_nothing(story: Story) -> None:
    story.report(0)
    story.finish(0)
    size = (folder_of(story) / files_of(story)[0]).stat().st_size
    story.report(0, iteration=2)
    story.close()
    assert (folder_of(story) / files_of(story)[0]).stat().st_size == size


def test_an_event_is_small(story: Story) -> None:
    """What is written for a report with two metrics and two hyperparameters, whatever the names' share of it."""
    story.report(0, {"mean_accuracy": 0.5, "lr": 0.1})
    path = folder_of(story) / files_of(story)[0]
    before = path.stat().st_size
    story.report(0, {"mean_accuracy": 0.5, "lr": 0.1})
    assert path.stat().st_size - before < 200


def test_nothing_of_it_needs_a_library() -> None:
    import subprocess

    code = (
        "import sys; from shoal.sinks.tensorboard import TensorBoardFiles; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tensorboard", "tensorboardX", "google", "numpy", "torch"} & set(loaded)


def test_the_sums_are_those_of_the_standard() -> None:
    """RFC 3720, B.4: 32 bytes of zeros have the CRC-32C aa 36 91 8a, in the order of transmission."""
    masked = struct.unpack("<I", tfevents._masked_crc(bytes(32)))[0]
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    assert struct.pack("<I", (rotated << 15 | rotated >> 17) & 0xFFFFFFFF) == bytes.fromhex("aa36918a")


def test_reports_of_all_kinds_are_read(story: Story) -> None:
    item: Reported = story.reported(0)
    story.tell(item, story.reported(1))
    assert line(story, "mean_accuracy") == line(story, "mean_accuracy", 1) == [(1, 0.5)]
    assert History.of(story.journal.read()).results == 2
