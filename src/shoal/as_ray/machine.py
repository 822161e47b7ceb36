"""``ray.init`` and ``ray.shutdown``, and what a script asks Ray about the machine."""

from __future__ import annotations

import os
from typing import Any

from .. import runtime
from ..arguments import warn_user

__all__ = ["available_resources", "cluster_resources", "get_gpu_ids", "init", "shutdown"]

_ENGINE = "SHOAL_ENGINE"
_inline = False
"""Whether :func:`init` has set ``SHOAL_ENGINE``, which :func:`shutdown` then takes back."""


def init(
    address: str | None = None, *, ignore_reinit_error: bool = False, local_mode: bool = False, **settings: Any
) -> None:
    """See :func:`shoal.init`, which has no ``local_mode``.

    Args:
        address, ignore_reinit_error: as there.
        local_mode: whether all trials run in this process, one at a time, until :func:`shutdown`: by the environment
            variable ``SHOAL_ENGINE``, unless it is set already. ``TuneConfig(engine=...)`` overrides it.
        **settings: as there.

    Raises:
        ConfigError: as there.
    """
    again = runtime.is_initialized()
    dropped = local_mode and again and not _inline
    runtime.init(address, ignore_reinit_error=ignore_reinit_error, local_mode=dropped, **settings)
    if local_mode and not again:
        _run_inline()


def _run_inline() -> None:
    global _inline
    chosen = os.environ.get(_ENGINE, "").strip()
    if not chosen:
        os.environ[_ENGINE], _inline = "inline", True
        text = "all trials run in this process, one at a time, as with SHOAL_ENGINE=inline."
    elif chosen != "inline":
        text = f"this is without effect, because SHOAL_ENGINE={chosen} is set. Unset it, or set SHOAL_ENGINE=inline."
    else:
        return
    warn_user(f"ray.init(local_mode=True): {text}")


def shutdown() -> None:
    """See :func:`shoal.shutdown`. It ends ``local_mode``, too."""
    global _inline
    if _inline:
        os.environ.pop(_ENGINE, None)
        _inline = False
    runtime.shutdown()


def cluster_resources() -> dict[str, float]:
    """Return what Shoal may use: ``{"CPU": 8.0, "GPU": 1.0}`` and custom resources; without GPU where there is none."""
    machine = runtime.machine()
    found = {"CPU": float(machine.cpus), **({"GPU": float(len(machine.gpus))} if machine.gpus else {})}
    return {**found, **{name: float(amount) for name, amount in machine.custom.items()}}


def available_resources() -> dict[str, float]:
    """Return the same as :func:`cluster_resources`: nothing holds resources while no experiment runs."""
    return cluster_resources()


def get_gpu_ids() -> list[int | str]:
    """Return the GPUs that ``CUDA_VISIBLE_DEVICES`` names; in a trial, those of the trial."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = [name.strip() for name in visible if name.strip() not in ("", "-1")]
    return [int(name) if name.isdigit() else name for name in names]
