"""What a script asks Ray about the machine."""

from __future__ import annotations

import contextlib
import os

from .. import runtime
from ..errors import EngineError

__all__ = ["available_resources", "cluster_resources", "get_gpu_ids"]


def cluster_resources() -> dict[str, float]:
    """Return what Shoal may use: ``{"CPU": 8.0, "GPU": 1.0}``, without GPU where there is none."""
    found = {"CPU": float(len(runtime.slots(1.0, 0.0, None)))}
    with contextlib.suppress(EngineError):  # there is no GPU
        # One slot for each GPU, of which no number of CPUs takes any away.
        found["GPU"] = float(len(runtime.slots(1e-6, 1.0, None)))
    return found


def available_resources() -> dict[str, float]:
    """Return the same as :func:`cluster_resources`: nothing holds resources while no experiment runs."""
    return cluster_resources()


def get_gpu_ids() -> list[int | str]:
    """Return the GPUs that ``CUDA_VISIBLE_DEVICES`` names; in a trial, those of the trial."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = [name.strip() for name in visible if name.strip() not in ("", "-1")]
    return [int(name) if name.isdigit() else name for name in names]
