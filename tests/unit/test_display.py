"""The live status: what it says, how it looks, and that it keeps quiet where nobody reads it live."""

from __future__ import annotations

import io
import logging
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from shoal.display import make_status
from shoal.display.base import StatusBase
from shoal.display.plain import PlainStatus
from shoal.display.table import Pace, exploit_line, overview, stopped_because
from shoal.display.terminal import TerminalStatus
from shoal.display.text import one_line, printable, width_of
from shoal.errors import ConfigError

from .stories import NOON, Story, make_info

ESCAPE = "\x1b"
FOLDER = Path("/results/pbt_test")


class Screen:
    """A terminal of a given size that remembers what was drawn."""

    def __init__(self, width: int = 100, height: int = 40, verbose: int = 1) -> None:
        self.file = io.StringIO()
        self.console = Console(
            file=self.file, force_terminal=True, color_system="standard", width=width, height=height, highlight=False
        )
        self.status = TerminalStatus(verbose, self.file, self.console)

    def draw(self, now: float) -> str:
        """Return what the tick adds, without escape sequences."""
        start = len(self.file.getvalue())
        self.status.tick(now)
        return bare(self.file.getvalue()[start:])

    @property
    def text(self) -> str:
        return bare(self.file.getvalue())


def bare(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text)


def begin(status: StatusBase, **changes: Any) -> Story:
    """Let the guide's experiment begin at noon."""
    story = Story(FOLDER, status, info=make_info(**changes), keep_rows=False)
    status.now = status.began = NOON
    return story


def plain(verbose: int = 1, **changes: Any) -> tuple[Story, PlainStatus, io.StringIO]:
    stream = io.StringIO()
    status = PlainStatus(verbose, stream)
    return begin(status, **changes), status, stream


# -------------------------------------------------------------------------------------------------------- which status


def tty(**methods: Callable[[], Any]) -> io.StringIO:
    stream = io.StringIO()
    stream.isatty = methods.get("isatty", lambda: True)  # type: ignore[method-assign]
    return stream


@pytest.fixture
def terminal_env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return monkeypatch


def test_a_terminal_gets_the_live_view(terminal_env: pytest.MonkeyPatch) -> None:
    assert isinstance(make_status(1, tty()), TerminalStatus)


def test_pipes_ci_jobs_dumb_terminals_and_debuggers_get_plain_lines(terminal_env: pytest.MonkeyPatch) -> None:
    assert isinstance(make_status(1, io.StringIO()), PlainStatus)
    assert isinstance(make_status(1, tty(), inline=True), PlainStatus)
    closed = io.StringIO()
    closed.close()
    assert isinstance(make_status(1, closed), PlainStatus)
    terminal_env.setenv("CI", "true")
    assert isinstance(make_status(1, tty()), PlainStatus)
    terminal_env.delenv("CI")
    terminal_env.setenv("TERM", "dumb")
    assert isinstance(make_status(1, tty()), PlainStatus)


def test_without_any_output_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    status = make_status(1)
    begin(status).add_usual()
    status.close()


@pytest.mark.parametrize("verbose", [-1, 4, True, "1", None, 1.5])
def test_a_wrong_verbose_is_an_error(verbose: Any) -> None:
    with pytest.raises(ConfigError, match="verbose must be 0, 1, 2 or 3, but is"):
        make_status(verbose, io.StringIO())


# --------------------------------------------------------------------------------------------------------- plain lines


def guide_run(story: Story, status: StatusBase) -> None:
    """Tell a run like the guide's: 4 trials on 2 slots, 50 iterations, two minutes, members that print nothing."""
    story.add_usual()
    story.park(2)
    story.park(3)
    for step in range(1, 51):
        for index in range(4):
            story.now += 0.625
            status.tick(story.now)
            score = min(0.95, step / 60 + index / 100)
            story.report(index, {"mean_accuracy": score}, save=step % 5 == 0, iteration=step)
        if step % 5 == 0 and step < 50:
            story.exploit(0, 3, lr=step / 100, momentum=0.8)
    for index in range(4):
        story.finish(index, "training_iteration is 50, at least 50")
    story.close()


def test_the_guides_run_is_well_under_forty_lines_without_escape_codes() -> None:
    story, status, stream = plain()
    guide_run(story, status)
    text = stream.getvalue()
    assert len(text.splitlines()) < 32
    assert ESCAPE not in text
    assert "\r" not in text
    text.encode("ascii")


def test_what_the_plain_run_says() -> None:
    story, status, stream = plain()
    guide_run(story, status)
    lines = stream.getvalue().splitlines()
    assert lines[0] == (
        "pbt_test: 4 trials on 2 slots, PopulationBasedTraining, mean_accuracy (max). Results: /results/pbt_test"
    )
    assert lines[1] == (
        "train_convnet_40bd6_00000 (iteration 5, mean_accuracy 0.083333) copies train_convnet_40bd6_00003 "
        "(iteration 5, mean_accuracy 0.11333): lr 0.4 -> 0.05, momentum 0.9 -> 0.8"
    )
    block = next(line for line in lines if line.startswith("[0:00:3"))
    assert re.fullmatch(
        r"\[0:00:3\d\] 2 RUNNING, 2 PAUSED, \d+ checkpoints, 2 perturbations, memory .* GiB, "
        r"2\d% done, 0:01:\d\d to go",
        block,
    )
    assert lines[lines.index(block) + 1].startswith("    best: train_convnet_40bd6_0000")
    end = next(place for place, line in enumerate(lines) if line.startswith("pbt_test ended after 0:02:05: "))
    assert "4 TERMINATED" in lines[end]
    assert lines[end].endswith("; 200 results, 40 checkpoints, 9 perturbations")
    assert lines[end + 1].split() == "trial status iter total time (s) mean_accuracy lr momentum".split()
    assert lines[end + 2].split() == ["train_convnet_40bd6_00000", "TERMINATED", "50", "12.5", "0.83333", "0.45", "0.8"]
    assert lines[-3].startswith("best: train_convnet_40bd6_00003 at iteration 50, mean_accuracy 0.86333: lr=0.4")
    assert lines[-2] == "    config: lr=0.4, momentum=0.9, checkpoint_interval=5"
    assert lines[-1] == "results: /results/pbt_test"


def test_a_block_comes_at_most_every_thirty_seconds_and_only_with_news() -> None:
    story, status, stream = plain()
    story.add_usual()
    for tenth in range(1000):
        status.tick(NOON + tenth / 10)
    assert stream.getvalue().count("[0:") == 1
    for tenth in range(1000, 2000):
        story.report(0, iteration=tenth)
        status.tick(NOON + tenth / 10)
    assert stream.getvalue().count("[0:") == 5


def test_a_long_run_has_few_blocks() -> None:
    story, status, stream = plain()
    story.add_usual()
    for second in range(10 * 3600):
        if second % 10 == 0:
            story.report(0, iteration=second + 1)
        status.tick(NOON + second)
    assert 40 < stream.getvalue().count("to go\n") < 160


def test_many_exploits_are_counted_where_few_are_told() -> None:
    story, status, stream = plain()
    story.add_usual()
    story.report(0, save=True)
    story.report(1)
    status.tick(NOON)
    for _ in range(25):
        story.exploit(1, 0)
    assert stream.getvalue().count("copies") == 10
    status.tick(NOON + 31)
    assert "    and 15 more exploits\n" in stream.getvalue()
    story.exploit(1, 0)
    assert stream.getvalue().count("copies") == 11


def test_verbose_two_tells_every_exploit_and_three_every_result() -> None:
    for verbose, exploits, results in ((1, 10, 0), (2, 25, 0), (3, 25, 2)):
        story, _, stream = plain(verbose)
        story.add_usual()
        story.report(0, save=True)
        story.report(1)
        for _ in range(25):
            story.exploit(1, 0)
        assert stream.getvalue().count("copies") == exploits
        assert stream.getvalue().count("at iteration 1, mean_accuracy 0.5, 0.25 s") == results
        assert stream.getvalue().count("checkpoint saved") == results // 2


def test_verbose_zero_shows_errors_and_notes_only() -> None:
    story, status, stream = plain(0)
    story.add_usual()
    status.output("train_40bd6_00000", "loud")
    story.report(0, save=True)
    story.report(1)
    story.exploit(1, 0)
    status.tick(NOON)
    status.tick(NOON + 100)
    assert stream.getvalue() == ""
    story.notice("no member has a checkpoint")
    status.note("careful")
    story.fail(2, ValueError("boom"))
    story.close()
    lines = stream.getvalue().splitlines()
    assert lines[:3] == [
        "Note: no member has a checkpoint",
        "Note: careful",
        "Error: train_convnet_40bd6_00002 failed after iteration 0: ValueError: boom",
    ]
    assert lines[3].startswith("    See /results/pbt_test/train_convnet_40bd6_00002_2_")
    assert lines[3].endswith("/error.txt")
    assert len(lines) == 4


def test_members_output_has_the_name_in_front_and_no_control_codes() -> None:
    _, status, stream = plain()
    status.output("train_40bd6_00001", f"{ESCAPE}[31mred{ESCAPE}[0m\a and {ESCAPE}]0;title\aplain")
    status.output("train_40bd6_00001", "  10%|#   |\r  20%|##  |\r")
    status.output("train_40bd6_00001", "")
    status.output("train_40bd6_00001", "two\nlines\tand a tab")
    assert stream.getvalue().splitlines()[1:] == [
        "(train_40bd6_00001) red and plain",
        "(train_40bd6_00001)   20%|##  |",
        "(train_40bd6_00001) ",
        "(train_40bd6_00001) two",
        "(train_40bd6_00001) lines\tand a tab",
    ]


def test_text_that_the_stream_cannot_encode_is_shown_escaped() -> None:
    data = io.BytesIO()
    status = PlainStatus(1, io.TextIOWrapper(data, encoding="ascii"))
    status.output("x", "höst")
    status.close()
    status.flush()
    assert b"(x) h\\xf6st\n" in data.getvalue()


def test_a_failure_that_is_tried_again_says_so() -> None:
    story, _, stream = plain()
    story.add_usual()
    story.fail_and_retry(0, ValueError("boom\nand more"))
    assert "failed after iteration 0: ValueError: boom and more. Failure 1; it is tried again from the start." in (
        stream.getvalue()
    )


def test_the_end_tells_failures_and_why_it_was_stopped() -> None:
    story, _, stream = plain()
    story.add_usual()
    story.add({"lr": 1.0}, {"lr": 2.0})
    for index in range(3):
        story.fail(index, ValueError("boom"))
    story.stop_all("the time budget of 60 s is spent")
    story.close()
    story.close()
    before, _, end = stream.getvalue().partition("ended after")
    assert before.count("ValueError: boom") == 1
    assert "... and 2 more trials failed with the same error\n" in before
    assert "1 TERMINATED, 3 ERROR, 2 never started" in end
    assert "stopped: the time budget of 60 s is spent" in end
    assert "ValueError: boom" not in end
    assert end.count("train_convnet_40bd6_00002 failed: /results/pbt_test/") == 1
    assert end.count("/error.txt") == 3
    assert "ended after" not in end


def test_errors_that_come_back_are_counted_every_few_seconds_and_others_told() -> None:
    story, status, stream = plain(0)
    story.add_usual(6)
    for index, text in enumerate(("boom", "boom", "boom", "bang", "boom")):
        story.fail(index, ValueError(text))
        status.tick(NOON + index)
    status.tick(NOON + 30)
    lines = [line for line in stream.getvalue().splitlines() if "See " not in line]
    assert [line.rpartition("0: ")[2] for line in lines] == [
        "ValueError: boom",
        "... and 2 more trials failed with the same error",
        "ValueError: bang",
        "... and 1 more trial failed with ValueError: boom",
    ]


def test_what_fail_fast_ended_says_so() -> None:
    story, _, _ = plain()
    story.add_usual()
    story.fail(1, ValueError("boom"))
    assert stopped_because(story.history) == ""
    story.finish(0, "fail_fast: trial 40bd6_00001 failed")
    assert stopped_because(story.history) == "fail_fast: trial train_convnet_40bd6_00001 failed"


# ------------------------------------------------------------------------------------------------------- the live view


def test_the_view_shows_what_the_guides_status_shows() -> None:
    screen = Screen()
    story = begin(screen.status)
    story.add_usual()
    story.park(2)
    story.park(3)
    story.report(0, {"mean_accuracy": 0.93125}, save=True)
    story.report(1, {"mean_accuracy": 1 / 3})
    story.exploit(1, 0, lr=0.00720379)
    text = screen.draw(NOON + 30)
    assert "pbt_test: 4 trials, PopulationBasedTraining" in text
    memory = r"memory [\d.]+/[\d.]+ GiB"
    assert re.search(f"running for 0:00:30   slots 2/2   {memory}   checkpoints 1   perturbations 1", text)
    lines = [line.split() for line in text.splitlines()]
    assert ["trial", "status", "iter", "total", "time", "(s)", "mean_accuracy", "lr", "momentum"] in lines
    assert ["train_convnet_40bd6_00000", "RUNNING", "1", "0.2", "0.93125", "0.1", "0.9"] in lines
    assert ["train_convnet_40bd6_00001", "RUNNING", "1", "0.2", "0.33333", "0.0072038", "0.9"] in lines
    assert ["train_convnet_40bd6_00003", "PAUSED", "0.4", "0.9"] in lines
    assert "best  train_convnet_40bd6_00000 at iteration 1, mean_accuracy 0.93125: lr=0.1, momentum=0.9" in text


def test_the_view_is_drawn_at_most_four_times_a_second_and_only_with_news_or_for_the_clock() -> None:
    screen = Screen()
    story = begin(screen.status)
    story.add_usual()
    screen.draw(NOON)
    quiet = [bool(screen.draw(NOON + tenth / 10)) for tenth in range(1, 31)]
    assert sum(quiet) == 3
    busy = 0
    for tenth in range(40, 80):
        story.report(0, iteration=tenth)
        busy += bool(screen.draw(NOON + tenth / 10))
    assert 4 <= busy <= 16


def test_a_clock_that_is_set_back_does_not_stop_the_view() -> None:
    screen = Screen()
    begin(screen.status).add_usual()
    screen.draw(NOON)
    assert screen.draw(NOON - 3600)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("height", [3, 10, 24, 60])
def test_no_line_is_wider_and_no_view_higher_than_the_terminal(width: int, height: int) -> None:
    names = ["lr", "momentum", *(f"model/layer{number}/width" for number in range(8))]
    screen = Screen(width, height)
    story = begin(screen.status, num_trials=60, slots=8, parameters=names)
    model = {f"layer{number}": {"width": 2**number} for number in range(8)}
    story.add(*({"lr": 10.0**-index, "momentum": 0.9, "model": model} for index in range(60)))
    for index in range(20):
        story.launch(index)
        story.report(index, {"mean_accuracy": index / 7})
    for index in range(3):
        story.fail(index, ValueError("Expected all tensors to be on the same device, but found at least two devices"))
    screen.draw(NOON + 100)
    screen.draw(NOON + 200)
    before = len(screen.file.getvalue())
    story.report(7)
    screen.status.tick(NOON + 300)
    lines = bare(screen.file.getvalue()[before:]).splitlines()
    assert max(map(width_of, lines)) <= width
    assert len(lines) < height


def test_a_narrow_terminal_loses_columns_and_says_which() -> None:
    screen = Screen(80)
    story = begin(screen.status, parameters=["lr", "momentum", "weight_decay", "dropout", "batch_size"])
    story.add_usual()
    story.report(0)
    text = screen.draw(NOON + 100)
    row = next(line for line in text.splitlines() if line.startswith("40bd6_00000"))
    assert row.split()[:4] == ["40bd6_00000", "RUNNING", "1", "0.5"]
    assert "more columns in a wider terminal: total time (s), " in text


def test_of_many_trials_the_best_and_the_running_ones_are_shown_and_the_rest_counted() -> None:
    screen = Screen(100, 60)
    story = begin(screen.status, num_trials=300, slots=4)
    story.add_usual(300)
    for index in range(300):
        story.report(index, {"mean_accuracy": 1 / (1 + abs(index - 200))})
        if index not in (17, 120, 250, 299):
            story.park(index)
    text = screen.draw(NOON + 100)
    shown = [int(found) for found in re.findall(r"^train_convnet_40bd6_(\d+) ", text, re.MULTILINE)]
    assert len(shown) == 20
    assert shown == sorted(shown)
    assert {17, 120, 250, 299, 200, 199, 201} <= set(shown)
    assert "and 280 more: 280 PAUSED" in text


def test_lines_above_the_view_keep_the_members_colours_and_the_view_follows_them() -> None:
    screen = Screen()
    story = begin(screen.status)
    story.add_usual()
    screen.draw(NOON)
    start = len(screen.file.getvalue())
    screen.status.output("train_40bd6_00001", f"{ESCAPE}[31mred{ESCAPE}[0m {ESCAPE}[2Jtext [not markup]")
    screen.status.note("be careful")
    screen.status.tick(NOON + 100)
    raw = screen.file.getvalue()[start:]
    assert f"{ESCAPE}[31mred" in raw
    assert f"{ESCAPE}[2J" not in raw
    lines = bare(raw).splitlines()
    assert lines[:2] == ["(train_40bd6_00001) red text [not markup]", "be careful"]
    assert lines[2].startswith("pbt_test: 4 trials")


def test_a_flood_of_output_is_cut_and_counted() -> None:
    screen = Screen()
    begin(screen.status).add_usual()
    for number in range(50_000):
        screen.status.output("x", str(number))
    lines = screen.draw(NOON).splitlines()
    above = [line for line in lines if line.startswith("(x) ")]
    assert len(above) <= 2000
    assert above[-1] == "(x) 49999"
    skipped = next(line for line in lines if "lines left out" in line)
    assert int(re.findall(r"\d+", skipped)[0]) + len(above) == 50_000


def test_the_view_is_taken_away_at_the_end_and_the_table_stays() -> None:
    screen = Screen()
    story = begin(screen.status)
    guide_run(story, screen.status)
    assert screen.file.getvalue().count(f"{ESCAPE}[?25l") == screen.file.getvalue().count(f"{ESCAPE}[?25h") == 1
    end = screen.text.rpartition("\n\n")[2].splitlines()
    assert end[0].startswith("pbt_test ended after 0:02:05: 4 TERMINATED; 200 results, 40 checkpoints, 9 perturbations")
    assert end[1].split()[0] == "trial"
    assert end[-1] == "results: /results/pbt_test"
    length = len(screen.file.getvalue())
    screen.status.close()
    assert len(screen.file.getvalue()) == length


def test_what_this_process_prints_is_shown_above_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, out, err = Screen(), tty(), tty()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    handler = logging.StreamHandler()
    logging.getLogger("shoal.test").addHandler(handler)
    begin(screen.status).add_usual()
    screen.draw(NOON)
    start = len(screen.text)
    print("from", "a callback\nof mine", end="?")
    sys.stdout.flush()
    logging.getLogger("shoal.test").warning("logged")
    screen.status.tick(NOON + 100)
    lines = screen.text[start:].splitlines()
    said = [lines.index(line) for line in ("from a callback", "of mine?", "logged")]
    assert said == sorted(said)
    assert lines[said[-1] + 1].startswith("pbt_test: 4 trials")
    print("unfinished", end="")
    screen.status.close()
    assert (sys.stdout, sys.stderr, handler.stream) == (out, err, err)
    assert screen.text.count("unfinished\n") == 1
    assert out.getvalue() == err.getvalue() == ""


def test_where_drawing_fails_the_streams_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, out = Screen(), tty()
    monkeypatch.setattr(sys, "stdout", out)
    begin(screen.status).add_usual()
    screen.draw(NOON)
    assert sys.stdout is not out
    monkeypatch.setattr(screen.status, "_view", lambda width, height: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        screen.status.tick(NOON + 100)
    assert sys.stdout is out


def test_a_view_that_the_terminal_has_wrapped_is_erased_whole() -> None:
    ups: list[int] = []
    for width in (100, 50):
        screen = Screen()
        begin(screen.status).add_usual()
        screen.draw(NOON)
        screen.console.width = width
        start = len(screen.file.getvalue())
        screen.draw(NOON + 100)
        ups.append(screen.file.getvalue()[start:].count(f"{ESCAPE}[1A"))
    wrapped = [line for line in screen.text.splitlines()[1:] if width_of(line) > 50]
    assert ups[1] - ups[0] == len(wrapped) > 5


def test_the_opening_is_seen_at_once() -> None:
    screen = Screen()
    screen.status.opening("starting pbt_test")
    assert screen.text == "starting pbt_test\n"
    silent = Screen(verbose=0)
    silent.status.opening("starting pbt_test")
    assert silent.text == ""


def test_only_from_verbose_two_on_the_terminal_tells_exploits() -> None:
    for verbose, count in ((1, 0), (2, 1)):
        screen = Screen(verbose=verbose)
        story = begin(screen.status)
        story.add_usual()
        story.report(0, save=True)
        story.report(1)
        story.exploit(1, 0)
        assert screen.draw(NOON).count("copies") == count


def test_verbose_zero_has_no_view_but_notes_and_errors() -> None:
    screen = Screen(verbose=0)
    story = begin(screen.status)
    story.add_usual()
    screen.status.output("x", "loud")
    assert screen.draw(NOON) == ""
    story.fail(0, ValueError("boom"))
    assert "ValueError: boom" in screen.draw(NOON + 100)
    story.close()
    assert "ended after" not in screen.text


def test_a_note_before_the_start_is_not_lost() -> None:
    screen = Screen()
    screen.status.note("the lower bound of lr is above the upper one")
    screen.status.close()
    assert "the lower bound of lr" in screen.text


def test_an_old_encoding_gets_no_special_characters() -> None:
    data = io.BytesIO()
    stream = io.TextIOWrapper(data, encoding="ascii")
    console = Console(file=stream, force_terminal=True, color_system=None, width=80, height=24)
    status = TerminalStatus(1, stream, console)
    story = begin(status)
    story.add_usual()
    story.report(0)
    status.tick(NOON + 100)
    story.close()
    stream.flush()
    assert b"###" not in data.getvalue()
    assert b"-----" in data.getvalue()


# ------------------------------------------------------------------------------------------------- the plain data below


def test_the_hyperparameters_are_those_of_now_and_the_bests_those_of_its_result() -> None:
    story = Story(FOLDER)
    story.add_usual()
    story.report(1, {"mean_accuracy": 0.7}, save=True)
    story.report(0, {"mean_accuracy": 0.9})
    story.exploit(0, 1, lr=0.77)
    view = overview(story.info, story.history, folder=FOLDER, running_for=1.0)
    rates = next(column for column in view.columns if column.title == "lr")
    assert rates.cells == ["0.77", "0.2", "0.3", "0.4"]
    assert view.best == "train_convnet_40bd6_00000 at iteration 1, mean_accuracy 0.9: lr=0.1, momentum=0.9"
    assert view.best_row == 0


def test_nested_parameters_are_shown_by_their_last_name_where_it_is_unique() -> None:
    story = Story(FOLDER, info=make_info(parameters=["opt/lr", "a/width", "b/width"]))
    story.add({"opt": {"lr": 0.5}, "a": {"width": 1}, "b": {"width": 2}})
    titles = [column.title for column in overview(story.info, story.history, folder=FOLDER, running_for=0).columns]
    assert titles[-3:] == ["lr", "a/width", "b/width"]


def test_without_a_metric_there_is_no_best_and_no_column_for_it() -> None:
    story = Story(FOLDER, info=make_info(metric=None, parameters=[]))
    story.add_usual()
    story.report(0)
    view = overview(story.info, story.history, folder=FOLDER, running_for=0)
    assert view.best == ""
    assert [column.title for column in view.columns] == ["trial", "status", "iter", "total time (s)"]


def test_an_exploit_line_tells_what_changed_on_the_way() -> None:
    story = Story(FOLDER)
    story.add_usual()
    story.report(1, {"mean_accuracy": 0.8}, save=True)
    story.report(0, {"mean_accuracy": math.nan})
    same = exploit_line(story.exploit(0, 1), story.history, story.info)
    assert same == (
        "train_convnet_40bd6_00000 (iteration 1, mean_accuracy nan) copies train_convnet_40bd6_00001 "
        "(iteration 1, mean_accuracy 0.8): config unchanged"
    )
    changed = exploit_line(story.exploit(0, 1, lr=0.24, extra={"x": 1}), story.history, story.info)
    assert changed.endswith(": lr 0.2 -> 0.24, extra/x None -> 1")


def test_progress_is_the_mean_over_the_trials() -> None:
    story = Story(FOLDER)
    pace = Pace(story.info)
    story.add_usual()
    reached = pace.at(NOON, story.history)
    assert reached is not None
    assert (reached.done, reached.to_go) == (0.0, None)
    story.report(0, iteration=25)
    story.report(1, iteration=50)
    story.finish(2)
    reached = pace.at(NOON + 50, story.history)
    assert reached is not None
    assert reached.done == pytest.approx(0.625)
    assert reached.to_go == pytest.approx(30)


def test_the_time_to_go_counts_from_where_a_restored_run_went_on() -> None:
    story = Story(FOLDER)
    story.add_usual(4)
    for index in range(4):
        story.report(index, iteration=40)
    pace = Pace(story.info)
    pace.at(NOON + 10_000, story.history)
    for index in range(4):
        story.report(index, iteration=45)
    reached = pace.at(NOON + 10_010, story.history)
    assert reached is not None
    assert reached.to_go == pytest.approx(10)


def test_a_time_budget_is_an_end_too() -> None:
    info = make_info(stop={"mean_accuracy": 0.96}, time_budget_s=100.0)
    story = Story(FOLDER, info=info)
    reached = Pace(info).at(NOON + 25, story.history)
    assert reached is not None
    assert (reached.done, reached.to_go) == (0.25, 75.0)


@pytest.mark.parametrize("stop", [{}, {"mean_accuracy": 0.96}])
def test_where_no_end_is_known_there_is_no_progress(stop: dict[str, float]) -> None:
    info = make_info(stop=stop)
    assert Pace(info).at(NOON, Story(FOLDER, info=info).history) is None


@pytest.mark.parametrize("show", [one_line, printable])
def test_no_text_turns_around_what_stands_behind_it(show: Callable[[str], str]) -> None:
    assert show("gnp.\u202egpj\u2066.exe\u2069") == "gnp.gpj.exe"
    assert show("\N{HEBREW LETTER ALEF}\N{ARABIC LETTER BEH}") == "\N{HEBREW LETTER ALEF}\N{ARABIC LETTER BEH}"


def test_a_note_is_there_at_once_before_the_experiment_begins_because_it_may_have_to_wait(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as stream:
        PlainStatus(0, stream).note("Waiting for the cluster")
        assert log.read_text() == "Note: Waiting for the cluster\n"
