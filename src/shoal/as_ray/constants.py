"""Names of result keys and files that scripts take from ``ray.tune.result`` and ``ray.air.constants``.

Only those that Shoal's results and folders have.
"""

from __future__ import annotations

VERSION = "2.60.0+shoal"
"""``ray.__version__``: the release of Ray whose names these are."""

CONFIG_PREFIX = "config"
DONE = "done"
EXPR_ERROR_FILE = "error.txt"
EXPR_PARAM_FILE = "params.json"
EXPR_PROGRESS_FILE = "progress.csv"
EXPR_RESULT_FILE = "result.json"
HOSTNAME = "hostname"
NODE_IP = "node_ip"
PID = "pid"
SHOULD_CHECKPOINT = "should_checkpoint"
TIME_THIS_ITER_S = "time_this_iter_s"
TIME_TOTAL_S = "time_total_s"
TIMESTAMP = "timestamp"
TRAINING_ITERATION = "training_iteration"
TRIAL_ID = "trial_id"

__all__ = [
    "CONFIG_PREFIX",
    "DONE",
    "EXPR_ERROR_FILE",
    "EXPR_PARAM_FILE",
    "EXPR_PROGRESS_FILE",
    "EXPR_RESULT_FILE",
    "HOSTNAME",
    "NODE_IP",
    "PID",
    "SHOULD_CHECKPOINT",
    "TIMESTAMP",
    "TIME_THIS_ITER_S",
    "TIME_TOTAL_S",
    "TRAINING_ITERATION",
    "TRIAL_ID",
]
