"""Functions that travel to other processes keep the name of their file, so that tracebacks and debuggers find it."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from shoal.pickles import dumps, pickler

SCRIPT = """
import sys
from shoal.pickles import dumps

def outer():
    def inner():
        return (lambda: 1 / 0)()  # here
    return inner

sys.stdout.buffer.write(dumps(outer()))
"""


def test_a_function_of_a_script_and_those_inside_of_it_have_their_file_and_lines(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    inner = pickle.loads(subprocess.run([sys.executable, str(script)], capture_output=True, check=True).stdout)
    with pytest.raises(ZeroDivisionError) as raised:
        inner()
    frames = traceback.extract_tb(raised.value.__traceback__)[1:]
    assert [(frame.filename, frame.line) for frame in frames] == [(str(script), "return (lambda: 1 / 0)()  # here")] * 2


def test_types_with_a_rule_of_their_own_are_pickled_by_it_and_all_others_as_ever() -> None:
    class Mine:
        pass

    stream = io.BytesIO()
    pickler({Mine: lambda mine: (str, ("mine",))})(stream).dump([Mine(), Path("a"), {1: None}])
    assert pickle.loads(stream.getvalue()) == ["mine", Path("a"), {1: None}]
    assert isinstance(pickle.loads(dumps(Mine())), Mine)
