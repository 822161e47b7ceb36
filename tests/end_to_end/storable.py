"""A script that trains with its experiment in object storage, for ``test_storage_restore.py``.

    python -m tests.end_to_end.storable begin|restore URL GATES

About gates, and what is trained, see ``restorable.py``.
"""

from __future__ import annotations

import sys
from typing import Any

from tests.end_to_end.restorable import INTERVAL, LAST, train
from tests.helpers import pbt

from shoal import tune
from shoal.location import name_of, parent_of


def begin(url: str, gates: str, **settings: Any) -> tune.ResultGrid:
    """Run the experiment from its beginning."""
    run: dict[str, Any] = {"name": name_of(url), "storage_path": parent_of(url)} if "://" in url else {"name": url}
    return tune.Tuner(
        train,
        param_space={"lr": tune.uniform(0.0, 1.0), "gates": gates},
        tune_config=tune.TuneConfig(
            metric="score", mode="max", num_samples=4, seed=1, max_concurrent_trials=2,
            scheduler=pbt(synch=True, perturbation_interval=INTERVAL), **settings,
        ),
        run_config=tune.RunConfig(stop={"training_iteration": LAST}, verbose=1, **run),
    ).fit()  # fmt: skip


def restore(url: str) -> tune.ResultGrid:
    """Go on with it."""
    return tune.Tuner.restore(url, train).fit()


if __name__ == "__main__":
    what, url, gates = sys.argv[1:]
    if what == "begin":
        begin(url, gates)
    else:
        restore(url)
