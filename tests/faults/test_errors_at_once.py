"""A member that fails for good is told of at once, also while it waits for one that it can copy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import fit, items, pbt

from shoal import tune
from shoal.core.commands import Await, Exploit


@pytest.mark.parametrize("synch", [False, True])
def test_the_error_of_a_member_that_waits_for_a_donor_is_shown_before_the_others_go_on(
    synch: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"

    def train(config: dict[str, Any]) -> None:
        if config["lr"] == 0.1 and tune.get_checkpoint() is None:
            raise RuntimeError("a typo")
        for step in range(1, 21):
            # Nobody gets further before the error can be read.
            while step == 2 and not any("a typo" in path.read_text() for path in folder.glob("*/error.txt")):
                time.sleep(0.005)
            made = tune.Checkpoint.from_dict({"step": step}) if step % 5 == 0 else None
            tune.report({"score": config["lr"] * step}, checkpoint=made)

    grid = fit(
        train, tmp_path, space={"lr": tune.grid_search([0.1, 0.2, 0.3, 0.4])}, num_samples=1,
        scheduler=pbt(synch=synch), engine="processes", run={"name": "run", "verbose": 1},
    )  # fmt: skip
    assert grid.num_errors == 0
    assert [item.error for item in items(grid, Await)] == ["RuntimeError: a typo"]
    (copied,) = (exploit for exploit in items(grid, Exploit) if exploit.failed)
    told = "".join(capsys.readouterr())
    assert "failed after iteration 0: RuntimeError: a typo. It waits for one that it can copy." in told
    text = next(folder.glob("*/error.txt")).read_text()
    assert text.count("a typo") == 1 + text.count("in train")  # the error once, and its line in the traceback
    assert f"goes on as a copy of {copied.donor_id}" in text
