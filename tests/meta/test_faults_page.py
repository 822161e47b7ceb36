"""docs/faults.md is true: its tests are there, and what it quotes is what the code says and the tests expect."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| what was tried"))
]
SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
# Texts that go over several lines of the source are one text.
SAID = re.sub(r'"\s*\n\s*f?"', "", SOURCE)


def texts_of(source: str) -> str:
    """Return all texts in a test's file, as what they are or as regular expressions that match themselves."""
    texts = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return "\n".join(text.replace("\\", "") for text in texts if isinstance(text, str))


def test_the_page_has_many_rows_of_four_cells() -> None:
    assert len(ROWS) >= 60
    assert {len(row) for row in ROWS} == {4}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:60])
def test_each_row_names_a_test_and_quotes_what_is_said(row: list[str]) -> None:
    tried, seen, lost, tests = row
    assert tried
    assert lost
    named = re.findall(r"`([^`]+)`", tests)
    assert named
    for name in named:
        path, _, function = name.partition("::")
        source = (ROOT / "tests" / path).read_text(encoding="utf-8")
        assert re.search(rf"^def {function}\(", source, re.M), name
        for quoted in re.findall(r'"([^"]+)"', seen):
            assert quoted in SAID, quoted
            assert quoted in texts_of(source), f"{path} expects no such text: {quoted}"
        real = path.startswith(("cluster/", "faults/", "end_to_end/"))
        assert real or "simulated" in tried, f"{path} runs no real processes"


def test_no_test_is_named_twice() -> None:
    named = [row[3] for row in ROWS]
    assert len(named) == len(set(named))
