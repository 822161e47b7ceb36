"""Shoal: Population Based Training. Many models train side by side, weak ones copy strong ones, hyperparameters mutate.

``from shoal import tune`` gives the names that people know from Ray Tune. General layout, from the user inwards:

- ``tune``: the public names, re-exported. ``tuner``, ``config``, ``runtime``, ``resources``: what a user sets, checked.
- ``driver``: the loop that waits for events, journals, applies, executes.
- ``core``, ``schedulers``, ``space``: PURE. All that is decided is decided there.
- ``journal``, ``checkpoints``: what is durable.
- ``engines``, ``worker``: the processes that members live in.
- ``history``, ``results``, ``sinks``, ``display``, ``callbacks``: readers of the journal.
- ``testing``: for those who write a scheduler or an engine. ``examples``: scripts to copy.
"""

from __future__ import annotations

from . import tune
from .runtime import init, is_initialized, shutdown

__all__ = ["__version__", "init", "is_initialized", "shutdown", "tune"]

__version__ = "0.1.0"
