"""Whatever the user's functions do with the config that they are shown: the experiment's own stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers import climb, fit, items, pbt

from shoal import tune
from shoal.core.commands import Exploit, Launch


def meddles(trial_id: str, result: dict[str, Any]) -> bool:
    """A condition that changes what it was given."""
    result["config"]["lr"] = "changed"
    result["config"]["net"]["sizes"].append(9)
    return int(result["training_iteration"]) >= 10


def test_a_stop_condition_that_changes_the_config_that_it_is_shown_changes_nothing(tmp_path: Path) -> None:
    space = {"lr": tune.uniform(0.0, 1.0), "net": {"sizes": [1, 2]}}
    grid = fit(climb, tmp_path, space=space, engine="inline", scheduler=pbt(), stop=meddles)
    assert grid.num_errors == 0
    configs = [item.config for item in items(grid, Launch)] + [item.new_config for item in items(grid, Exploit)]
    assert all(isinstance(config["lr"], float) and config["net"] == {"sizes": [1, 2]} for config in configs)
    longer = tune.RunConfig(stop={"training_iteration": 15}, verbose=0)
    again = tune.Tuner.restore(grid.experiment_path, climb, run_config=longer).fit()
    assert [result.metrics["training_iteration"] for result in again] == [15] * 4
