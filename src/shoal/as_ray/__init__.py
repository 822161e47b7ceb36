"""Run scripts that were written for Ray Tune on Shoal, as they are: ``python -m shoal.as_ray script.py``.

After :func:`install`, ``import ray`` and the names in ``ray.tune``, ``ray.train`` and ``ray.air`` that scripts for
Population Based Training use give Shoal's, in this process and in those of the members. A name that Shoal does not have
fails with an error that says so.

- ``names``: which names there are, where they come from, and what to do without those that are not there.
- ``modules``: modules called ``ray...`` that look their names up there, and the finder that makes them.
- ``settings``, ``running``, ``search``, ``session``, ``context``, ``trainable``, ``machine``, ``utils``, ``constants``:
  what Ray has and Shoal spells otherwise.
- ``__main__``: the command line.

Nothing in Shoal imports this package, and it is no part of ``import shoal``. The real Ray is neither needed nor
touched; where it is installed, it is hidden.
"""

from __future__ import annotations

import importlib
import os
import sys

from ..errors import ConfigError
from .modules import RayFinder, RayModule

__all__ = ["install"]

_PRELOAD = "SHOAL_PRELOAD"
"""Names what the parent of the members' processes calls before it loads the trainable; see ``shoal.worker.nursery``."""
_MYSELF = f"{__name__}:install"


def install() -> None:
    """Make ``import ray`` give Shoal, from now on and for the whole process. A second call changes nothing.

    Call it before anything imports ray::

        import shoal.as_ray

        shoal.as_ray.install()
        from ray import tune

    The processes of the members do the same before they load the trainable. They hear of it by the environment variable
    ``SHOAL_PRELOAD``. As with Ray, members work in their trials' folders, unless ``RAY_CHDIR_TO_TRIAL_DIR=0`` is set,
    and ``TUNE_ORIG_WORKING_DIR`` names the folder of the script.

    Raises:
        ConfigError: the real Ray has been imported already.
    """
    found = sys.modules.get("ray")
    if found is not None and not isinstance(found, RayModule):
        raise ConfigError(
            f"shoal.as_ray.install: ray has been imported already, from {getattr(found, '__file__', 'somewhere')}. "
            f"What was taken from it would be Ray's and the rest Shoal's. Call install() before the first import of "
            f"ray, or run the script with: python -m shoal.as_ray script.py"
        )
    if not any(isinstance(finder, RayFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RayFinder())
    importlib.import_module("ray")
    entries = [entry for entry in os.environ.get(_PRELOAD, "").split(",") if entry]
    if _MYSELF not in entries:
        os.environ[_PRELOAD] = ",".join([*entries, _MYSELF])
    os.environ.setdefault("TUNE_ORIG_WORKING_DIR", os.getcwd())
    # Scripts write to relative paths in their train functions, and would overwrite each other's files elsewhere.
    stays = os.environ.get("RAY_CHDIR_TO_TRIAL_DIR") == "0"
    os.environ.setdefault("SHOAL_CHDIR_TO_TRIAL_DIR", "0" if stays else "1")
