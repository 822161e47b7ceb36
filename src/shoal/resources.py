"""What the machine has, what one trial takes, and how many slots that makes."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .errors import ConfigError, EngineError

__all__ = [
    "FILES_OF_A_RESIDENT",
    "allow_open_files",
    "count_cpus",
    "list_gpus",
    "make_slots",
    "open_files_allowed",
    "resources_of",
    "with_resources",
]

F = TypeVar("F", bound=Callable[..., Any])
_ATTRIBUTE = "_shoal_resources"


def with_resources(trainable: F, resources: Mapping[str, float]) -> F:
    """Say what each trial of a function takes: ``tune.with_resources(train, {"cpu": 2, "gpu": 0.5})``.

    Args:
        trainable: the function; it is returned, wrapped.
        resources: ``cpu`` (default 1; also how many threads torch uses in a member, rounded up) and ``gpu``
            (default 0; a fraction below 1 shares a GPU, else a whole number).

    Raises:
        ConfigError: a resource is unknown or its amount is out of range.
    """
    if not callable(trainable):
        raise ConfigError(f"with_resources: the trainable must be a function, but is {trainable!r}.")
    if not isinstance(resources, Mapping):
        raise ConfigError(
            f"with_resources: resources must be a dict such as {{'cpu': 1, 'gpu': 0.5}}, but is {resources!r}."
        )
    for name, amount in resources.items():
        if name not in ("cpu", "gpu"):
            raise ConfigError(f"with_resources: there is no resource {name!r}. Allowed: 'cpu', 'gpu'.")
        number = isinstance(amount, (int, float)) and not isinstance(amount, bool) and math.isfinite(amount)
        if not number or amount < 0 or (name == "cpu" and amount == 0):
            raise ConfigError(f"with_resources: {name!r} must be a number greater than 0, but is {amount!r}.")
        if name == "gpu" and amount > 1 and amount != int(amount):
            raise ConfigError(f"with_resources: 'gpu' must be a fraction up to 1 or a whole number, but is {amount!r}.")

    @functools.wraps(trainable)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return trainable(*args, **kwargs)

    setattr(wrapped, _ATTRIBUTE, dict(resources))
    return wrapped  # type: ignore[return-value]


def resources_of(trainable: Callable[..., Any]) -> tuple[float, float]:
    """Return (cpus, gpus) of one trial of the function."""
    resources = getattr(trainable, _ATTRIBUTE, {})
    return float(resources.get("cpu", 1.0)), float(resources.get("gpu", 0.0))


FILES_OF_A_RESIDENT = 2
"""A socket and a pipe."""
_FILES_OF_OUR_OWN = 200


def open_files_allowed() -> int:
    """Return how many files may be opened for members, at most."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if hard == resource.RLIM_INFINITY else max(0, hard - _FILES_OF_OUR_OWN)


def allow_open_files(count: int) -> None:
    """Raise this process's limit of open files, where it is too low for so many members' and may be raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + _FILES_OF_OUR_OWN
    if soft != resource.RLIM_INFINITY and soft < needed:
        wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def count_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, and the limit of its container."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity is not None else (os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        pass  # no such limit here
    return count


def list_gpus() -> list[str]:
    """Return the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them, without loading CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        return [str(index) for index in range(len(list(Path("/proc/driver/nvidia/gpus").iterdir())))]
    except OSError:
        return []


def make_slots(cpus: float, gpus: float, limit: int | None, cpu_count: int, gpu_names: list[str]) -> list[str]:
    """Return, for each slot, the GPUs that its members see (``""``: no GPU was asked for).

    Args:
        cpus, gpus: what one trial takes.
        limit: at most so many slots, or None.
        cpu_count, gpu_names: what the machine has.

    Raises:
        EngineError: the machine has not enough for one trial.
    """
    by_cpu = int(cpu_count / cpus + 1e-9)
    if by_cpu < 1:
        raise EngineError(
            f"One trial asks for {cpus:g} CPUs, but this machine has {cpu_count}. Ask for less: "
            f"tune.with_resources(train, {{'cpu': {cpu_count}}})."
        )
    if gpus == 0:
        return [""] * min(by_cpu, limit or by_cpu)
    if gpus >= 1:
        width = int(gpus)
        groups = [",".join(gpu_names[at : at + width]) for at in range(0, len(gpu_names) - width + 1, width)]
        slots = groups
    else:
        # One slot of every GPU, then the second of every GPU: a small population spreads over all of them.
        slots = [name for _ in range(int(1 / gpus + 1e-9)) for name in gpu_names]
    if not slots:
        raise EngineError(
            f"One trial asks for {gpus:g} GPUs, but this machine has {len(gpu_names)}"
            f"{' that CUDA_VISIBLE_DEVICES allows' if 'CUDA_VISIBLE_DEVICES' in os.environ else ''}. Ask for less: "
            f"tune.with_resources(train, {{'gpu': 0}})."
        )
    return slots[: min(by_cpu, limit or by_cpu)]
