"""A run in a real notebook kernel: the view is drawn and drawn anew, and what stays is a table and no garbage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

DEFINE = """
import time
from shoal import tune
from shoal.tune.schedulers import PopulationBasedTraining

def train(config):
    step = 0
    while True:
        step += 1
        time.sleep(0.02)
        if step == 2:
            print("member says <hello>")
        if config["lr"] > 2 and step == 4:
            raise ValueError("too <large>")
        tune.report({"score": step * config["lr"]})
"""
FIT = """
grid = tune.Tuner(
    train,
    param_space={"lr": tune.grid_search([1.0, 2.0, 3.0])},
    tune_config=tune.TuneConfig(metric="score", mode="max"),
    run_config=tune.RunConfig(name="nb", storage_path="results", stop={"training_iteration": 100}),
).fit()
"""
SHOW = "grid"
BROKEN = """
from IPython.core.displaypub import DisplayPublisher
def publish(*args, **options):
    raise OSError("no display")
get_ipython().display_pub.publish = publish
"""
INTERRUPTED = """
import os, signal, threading
threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
tune.Tuner(
    train,
    param_space={"lr": 1.0},
    tune_config=tune.TuneConfig(metric="score", mode="max"),
    run_config=tune.RunConfig(name="interrupted", storage_path="results"),
).fit()
"""


def execute(cells: list[str], folder: Path, *, allow_errors: bool = False) -> tuple[list[Any], list[dict[str, Any]]]:
    """Execute cells in a kernel of this Python; return them with their outputs, and every display message there was."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    messages: list[dict[str, Any]] = []

    class Client(nbclient.NotebookClient):  # type: ignore[misc, name-defined, unused-ignore]
        def process_message(self, message: dict[str, Any], cell: Any, index: int) -> Any:
            if message["msg_type"] in ("display_data", "update_display_data"):
                messages.append(message)
            return super().process_message(message, cell, index)

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    client = Client(notebook, timeout=90, allow_errors=allow_errors, resources={"metadata": {"path": str(folder)}})
    client.execute()
    return notebook.cells, messages


def printed(cell: Any, name: str = "stdout") -> str:
    return "".join(output["text"] for output in cell.outputs if output.get("name") == name)


@pytest.mark.slow
def test_a_run_in_a_notebook_has_one_view_that_changes_and_a_final_table_that_stays(tmp_path: Path) -> None:
    cells, messages = execute([DEFINE, FIT, SHOW], tmp_path)
    fit = cells[1]
    displays = [output for output in fit.outputs if output.output_type == "display_data"]
    assert len(displays) == 1
    html = displays[0]["data"]["text/html"]
    assert "nb ended after" in html
    assert html.count("TERMINATED") >= 2
    assert 'class="shoal-best"' in html
    assert "ValueError: too &lt;large&gt;" in html
    assert "nb ended after" in displays[0]["data"]["text/plain"]
    # It was drawn while the members trained, all of it in one place.
    kinds = [message["msg_type"] for message in messages]
    assert kinds.count("display_data") == 1
    assert any("RUNNING" in message["content"]["data"]["text/html"] for message in messages[1:])
    assert len({message["content"]["transient"]["display_id"] for message in messages}) == 1
    # What members print is ordinary output, with their names; and there is nothing else before the report card.
    lines, _, _ = printed(fit).partition("\nPBT report card")
    assert lines.count("member says <hello>") == 3
    for line in lines.splitlines():
        assert line.startswith(("(train_", "Error: ", "    See ")), line
    assert printed(fit, "stderr") == ""
    assert "\x1b" not in printed(fit) + html
    shown = cells[2].outputs[0]["data"]
    assert "shoal-table" in shown["text/html"]
    assert shown["text/plain"].startswith("ResultGrid of 3 trials")


@pytest.mark.slow
def test_a_notebook_that_cannot_show_anything_does_not_end_the_run(tmp_path: Path) -> None:
    cells, messages = execute([DEFINE, BROKEN, FIT, "print(len(grid), grid.num_errors)"], tmp_path)
    assert messages == []
    assert "could not be shown (OSError: no display)" in printed(cells[2])
    assert "nb ended after" in printed(cells[2])
    assert printed(cells[3]) == "3 1\n"


@pytest.mark.slow
def test_an_interrupted_cell_ends_the_run_in_order_and_says_how_to_go_on(tmp_path: Path) -> None:
    cells, messages = execute([DEFINE, INTERRUPTED, "print('the kernel lives')"], tmp_path, allow_errors=True)
    errors = [output for output in cells[1].outputs if output.output_type == "error"]
    assert [error["ename"] for error in errors] == ["KeyboardInterrupt"]
    assert "To go on: tune.Tuner.restore(" in printed(cells[1])
    assert "interrupted ended after" in messages[-1]["content"]["data"]["text/html"]
    assert printed(cells[2]) == "the kernel lives\n"
