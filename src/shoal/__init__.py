"""Shoal: Population Based Training. Many models train side by side, weak ones copy strong ones, hyperparameters mutate.

``from shoal import tune`` gives the names that people know from Ray Tune. General layout, from the user inwards:

- ``tune``: the public names, re-exported. ``tuner``, ``config``, ``runtime``, ``resources``: what a user sets, checked.
  ``trainable``: the class API. ``objects``, ``parameters``: large objects, stored once and mapped by all members.
  ``torch``: saves and loads what is trained with torch. ``applied``: what is checked of that.
- ``plan``, ``wiring``, ``restore``: from the settings, or from a journal, to a run.
- ``driver``: the loop that waits for events, journals, applies, executes.
- ``core``, ``schedulers``, ``space``: PURE. All that is decided is decided there.
- ``journal``, ``checkpoints``: what is durable.
- ``engines``, ``worker``: the processes that members live in.
- ``history``, ``lineage``, ``results``, ``analysis``, ``sinks``, ``display``, ``callbacks``, ``loggers``: they read the
  journal. ``stoppers``: judges of results.
- ``run``, ``as_ray``: for scripts that were written for Ray Tune.
- ``testing``: for those who write a scheduler or an engine. ``examples``: scripts to copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import tune
from .runtime import init, is_initialized, shutdown

if TYPE_CHECKING:
    from .objects import ObjectRef, get, put

__all__ = ["ObjectRef", "__version__", "get", "init", "is_initialized", "put", "shutdown", "tune"]

__version__ = "0.1.0"


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in ("ObjectRef", "get", "put"):
        # Not every script has large objects, and every import takes time.
        from . import objects

        return getattr(objects, name)
    if name == "torch":
        import importlib

        return importlib.import_module(".torch", __name__)
    raise AttributeError(f"module 'shoal' has no attribute {name!r}")
