"""The live status in a notebook: one view that is drawn anew, lines below it, and nothing that can break a run."""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from shoal.display import make_status
from shoal.display.notebook import NotebookStatus, Update
from shoal.display.plain import PlainStatus

from .pages import EVIL, parsed, words
from .stories import NOON, Story, make_info

FOLDER = Path("/results/pbt_test")


class Notebook:
    """A notebook that remembers every state of its one output, and fails when it is told to."""

    def __init__(self, verbose: int = 1, *, fails: int | None = None, **facts: Any) -> None:
        self.shown: list[Mapping[str, str]] = []
        self.handles = 0
        self.fails = fails
        self.printed = io.StringIO()
        self.status = NotebookStatus(verbose, self.printed, self.show)
        self.story = Story(FOLDER, self.status, info=make_info(**facts), keep_rows=False)
        self.status.now = self.status.began = NOON

    def show(self, data: Mapping[str, str]) -> Update:
        self.handles += 1
        self.update(data)
        return self.update

    def update(self, data: Mapping[str, str]) -> None:
        if self.fails is not None and len(self.shown) >= self.fails:
            raise ConnectionError("the notebook is gone")
        self.shown.append(data)

    @property
    def html(self) -> str:
        return self.shown[-1]["text/html"]

    @property
    def text(self) -> str:
        return words(self.html)


# ------------------------------------------------------------------------------------------------------- which status


def in_kernel(monkeypatch: pytest.MonkeyPatch, shell: type | None) -> io.StringIO:
    """Pretend that IPython runs here with such a shell; return what its cells print to."""
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: None if shell is None else shell()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    assert isinstance(stream, io.StringIO)
    return stream


def test_a_kernel_gets_the_view_also_where_its_shell_is_another_kind_of_the_usual_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = type("ZMQInteractiveShell", (), {})
    colabs = type("Shell", (usual,), {})
    assert isinstance(make_status(1, in_kernel(monkeypatch, usual)), NotebookStatus)
    assert isinstance(make_status(1, in_kernel(monkeypatch, colabs)), NotebookStatus)


def test_ipython_in_a_terminal_a_console_without_html_and_redirected_output_get_plain_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = type("ZMQInteractiveShell", (), {})
    others = (None, type("TerminalInteractiveShell", (), {}), type("SpyderShell", (usual,), {}))
    for shell in others:
        assert type(make_status(1, in_kernel(monkeypatch, shell))) is PlainStatus
    in_kernel(monkeypatch, usual)
    assert type(make_status(1, io.StringIO())) is PlainStatus


def test_an_ipython_that_is_only_half_there_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = in_kernel(monkeypatch, None)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    assert type(make_status(1, stream)) is PlainStatus


# ---------------------------------------------------------------------------------------------------------- the view


def test_the_view_has_title_facts_progress_members_and_the_best_config() -> None:
    notebook = Notebook()
    notebook.story.add_usual()
    for index, accuracy in enumerate((0.5, 0.75, 0.25, 0.6)):
        notebook.story.report(index, {"mean_accuracy": accuracy}, iteration=25)
    notebook.status.tick(NOON + 5)
    assert notebook.text.startswith("pbt_test: 4 trials, PopulationBasedTraining")
    assert "running for 0:00:05" in notebook.text
    assert "perturbations 0" in notebook.text
    assert "50%" in notebook.text
    assert "best train_convnet_40bd6_00001 at iteration 25, mean_accuracy 0.75: lr=0.2, momentum=0.9" in notebook.text
    row = notebook.html.split('<tr class="shoal-best"')[1].split("</tr>")[0]
    assert "train_convnet_40bd6_00001" in row
    assert notebook.html.count('class="shoal-best"') == 1
    assert notebook.handles == 1


def test_the_view_is_drawn_once_a_second_at_most_and_only_if_something_has_changed() -> None:
    notebook = Notebook()
    notebook.story.add_usual()
    notebook.status.tick(NOON + 1)
    drawn = len(notebook.shown)
    for tenth in range(100):
        notebook.status.tick(NOON + 1 + tenth / 10)
    assert len(notebook.shown) == drawn
    for tenth in range(100):
        notebook.story.report(0)
        notebook.status.tick(NOON + 20 + tenth / 10)
    assert 2 <= len(notebook.shown) - drawn <= 10


def test_a_clock_that_is_set_back_does_not_stop_the_view() -> None:
    notebook = Notebook()
    notebook.story.add_usual()
    notebook.status.tick(NOON + 10_000)
    drawn = len(notebook.shown)
    notebook.story.report(0)
    notebook.status.tick(NOON + 1)
    assert len(notebook.shown) == drawn + 1


def test_of_many_members_the_view_has_some_and_says_what_it_leaves_out() -> None:
    notebook = Notebook(num_trials=300)
    notebook.story.add_usual(300)
    for index in range(300):
        notebook.story.report(index, {"mean_accuracy": index / 300})
    notebook.status.tick(NOON + 5)
    assert notebook.html.split("<tbody>")[1].count("<tr") == 20
    assert "40bd6_00299" in notebook.html
    assert "and 280 more: 280 RUNNING" in notebook.text


def test_members_lines_and_notes_are_ordinary_output_and_not_in_the_view() -> None:
    notebook = Notebook()
    notebook.story.add_usual()
    notebook.status.output("train_40bd6_00001", "loss \x1b[31m0.5\x1b[0m\nnext")
    notebook.status.note("the disk is slow")
    notebook.status.tick(NOON + 5)
    lines = notebook.printed.getvalue().splitlines()
    assert lines == ["(train_40bd6_00001) loss 0.5", "(train_40bd6_00001) next", "Note: the disk is slow"]
    assert "the disk is slow" not in notebook.html


def test_exploits_have_lines_only_where_they_are_asked_for() -> None:
    for verbose, count in ((1, 0), (2, 1)):
        notebook = Notebook(verbose)
        notebook.story.add_usual()
        notebook.story.report(0, {"mean_accuracy": 0.9}, save=True)
        notebook.story.report(1, {"mean_accuracy": 0.1})
        notebook.story.exploit(1, 0, lr=0.12)
        notebook.status.tick(NOON + 5)
        assert notebook.printed.getvalue().count("copies") == count
        assert "perturbations 1" in notebook.text


def test_a_failure_is_a_line_and_stands_in_the_view() -> None:
    notebook = Notebook()
    notebook.story.add_usual()
    notebook.story.fail(2, ValueError("no <data>"))
    notebook.status.tick(NOON + 5)
    assert "Error: train_convnet_40bd6_00002 failed" in notebook.printed.getvalue()
    assert "ValueError: no <data>" in notebook.text
    assert "error.txt" in notebook.text


def test_what_is_there_before_the_experiment_is_replaced_by_its_view() -> None:
    printed = io.StringIO()
    shown: list[Mapping[str, str]] = []

    def show(data: Mapping[str, str]) -> Update:
        shown.append(data)
        return shown.append

    status = NotebookStatus(1, printed, show)
    status.opening("loading train ...")
    assert "loading train" in shown[-1]["text/html"]
    Story(FOLDER, status, keep_rows=False)
    assert "pbt_test: 4 trials" in shown[-1]["text/html"]
    assert printed.getvalue() == ""


def test_the_final_table_stays_and_is_there_as_text_too() -> None:
    notebook = Notebook()
    notebook.story.add_usual()
    for index in range(4):
        notebook.story.report(index, {"mean_accuracy": 0.5 + index / 10})
        notebook.story.finish(index)
    notebook.status.tick(NOON + 5)
    notebook.story.close()
    notebook.status.close()
    assert "pbt_test ended after" in notebook.text
    assert "4 TERMINATED; 4 results" in notebook.text
    assert "checkpoint_interval=5" in notebook.text  # the whole config of the best
    assert f"results {FOLDER}" in notebook.text
    assert "shoal-bar" not in notebook.html.split("</style>")[1]
    text = notebook.shown[-1]["text/plain"]
    assert "train_convnet_40bd6_00003" in text
    assert f"results: {FOLDER}" in text
    assert notebook.printed.getvalue() == ""


def test_nothing_that_users_named_becomes_markup() -> None:
    notebook = Notebook(name=EVIL, metric=EVIL, parameters=[EVIL], scheduler=EVIL, trainable=EVIL)
    notebook.story.add({EVIL: EVIL}, {EVIL: 0.1})
    notebook.story.launch(0)
    notebook.story.report(0, {EVIL: 0.5})
    notebook.story.fail(0, ValueError(EVIL))
    notebook.status.tick(NOON + 5)
    for close in (False, True):
        if close:
            notebook.story.close()
        found = parsed(notebook.html)
        assert found.tags <= {
            "div", "span", "style", "table", "thead", "tbody", "tr", "th", "td", "br", "code",
        }  # fmt: skip
        assert "\x00" not in notebook.html
        assert "\x1b" not in notebook.html
        notebook.html.encode("utf-8")
    assert "<img src=x onerror=alert(1)>" in notebook.text


def test_with_verbose_0_nothing_is_shown_but_errors_and_notes() -> None:
    notebook = Notebook(0)
    notebook.story.add_usual()
    notebook.story.report(0)
    notebook.status.opening("loading ...")
    notebook.status.output("member", "a line")
    notebook.status.note("a note")
    notebook.status.tick(NOON + 5)
    notebook.story.close()
    assert notebook.shown == []
    assert notebook.printed.getvalue() == "Note: a note\n"


# ------------------------------------------------------------------------------------------------------ what may fail


@pytest.mark.parametrize("fails", [0, 1, 2])
def test_a_view_that_cannot_be_shown_ends_and_the_run_goes_on_with_lines(fails: int) -> None:
    notebook = Notebook(fails=fails)
    notebook.story.add_usual()
    for second in range(1, 5):
        notebook.story.report(0)
        notebook.status.tick(NOON + 5 * second)
    notebook.story.finish(0)
    notebook.story.close()
    printed = notebook.printed.getvalue()
    assert len(notebook.shown) == fails
    assert printed.count("could not be shown (ConnectionError: the notebook is gone)") == 1
    assert "pbt_test ended after" in printed
    assert "train_convnet_40bd6_00003" in printed  # the table, as text


def test_a_second_ctrl_c_is_not_kept_from_the_driver() -> None:
    notebook = Notebook()
    notebook.story.add_usual()

    def interrupt(data: Mapping[str, str]) -> None:
        raise KeyboardInterrupt

    notebook.status._update = interrupt
    with pytest.raises(KeyboardInterrupt):
        notebook.status.tick(NOON + 5)
