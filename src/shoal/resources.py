"""What the machine has, what one trial takes, and how many slots that makes."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import os
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from .arguments import check_arguments
from .errors import ConfigError, EngineError, did_you_mean

__all__ = [
    "FILES_OF_A_RESIDENT",
    "PlacementGroupFactory",
    "allow_open_files",
    "count_cpus",
    "has_resources",
    "list_gpus",
    "make_slots",
    "memory_available",
    "open_files_allowed",
    "resources_of",
    "show_innermost",
    "subclass",
    "with_resources",
]

F = TypeVar("F", bound=Callable[..., Any])
TAKES = "_shoal_takes"
"""Attribute of a wrapper: itself, and the signature of what can be given to it, while it shows only what has to be."""
_ATTRIBUTE = "_shoal_resources"
_AMOUNTS = {"CPU": "cpu", "GPU": "gpu"}
"""What Ray's bundles call the resources, and what Shoal calls them."""
_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


@check_arguments
@dataclass(frozen=True)
class PlacementGroupFactory:
    """What a trial takes, in the form of Ray: ``tune.PlacementGroupFactory([{"CPU": 2, "GPU": 0.5}])``.

    Args:
        bundles: one dict with amounts of ``CPU`` and ``GPU``; they mean what ``cpu`` and ``gpu`` mean to
            :func:`with_resources`. Further bundles must be empty: a trial is one process on one machine.
        strategy: ``PACK``, ``SPREAD``, ``STRICT_PACK`` or ``STRICT_SPREAD``. Without effect: there is nothing to place.

    Raises:
        ConfigError: a bundle is wrong, more than one is not empty, or the strategy is unknown.
    """

    bundles: Sequence[Mapping[str, float]]
    strategy: str = "PACK"

    def __post_init__(self) -> None:
        if self.strategy not in _STRATEGIES:
            raise ConfigError(
                f"PlacementGroupFactory: strategy must be one of {', '.join(_STRATEGIES)}, but is {self.strategy!r}."
                f"{did_you_mean(str(self.strategy), _STRATEGIES)}"
            )
        bundles = self.bundles
        if not isinstance(bundles, Sequence) or not all(isinstance(bundle, Mapping) for bundle in bundles):
            raise ConfigError(
                f"PlacementGroupFactory: bundles must be a list with one dict such as [{{'CPU': 1, 'GPU': 0.5}}], but "
                f"is {bundles!r}."
            )
        for name in [name for bundle in bundles for name in bundle if name not in _AMOUNTS]:
            raise ConfigError(
                f"PlacementGroupFactory: there is no resource {name!r}.{did_you_mean(str(name), _AMOUNTS)} Allowed: "
                f"'CPU', 'GPU'."
            )
        filled = [bundle for bundle in bundles if any(bundle.values())]
        if len(filled) != 1:
            raise ConfigError(
                f"PlacementGroupFactory: one bundle must say what a trial takes, but in {bundles!r} {len(filled)} do. "
                f"A trial is one process: give its amounts together, such as [{{'CPU': 4, 'GPU': 1}}]."
            )
        _check_amounts("PlacementGroupFactory", filled[0])

    @property
    def required_resources(self) -> dict[str, float]:
        """What a trial takes, as ``{"CPU": ..., "GPU": ...}``, without what the bundle does not name."""
        return dict(next(bundle for bundle in self.bundles if any(bundle.values())))


def with_resources(trainable: F, resources: Mapping[str, float] | PlacementGroupFactory) -> F:
    """Say what each trial of a function takes: ``tune.with_resources(train, {"cpu": 2, "gpu": 0.5})``.

    Args:
        trainable: the function or the class; a wrapper or a subclass with its name is returned.
        resources: ``cpu`` (default 1; also how many threads torch uses in a member, rounded up; 0 only with a GPU,
            whose number then decides alone) and ``gpu``
            (default 0; a fraction below 1 shares a GPU, else a whole number); or a :class:`PlacementGroupFactory`.

    Raises:
        ConfigError: a resource is unknown or its amount is out of range.
    """
    if not callable(trainable):
        raise ConfigError(f"with_resources: the trainable must be a function, but is {trainable!r}.")
    amounts = _amounts(resources)
    if inspect.isclass(trainable):
        return cast(F, subclass(trainable, {_ATTRIBUTE: amounts}))

    @functools.wraps(trainable)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return trainable(*args, **kwargs)

    setattr(wrapped, _ATTRIBUTE, amounts)
    of, takes = getattr(trainable, TAKES, (None, None))
    if of is trainable:
        setattr(wrapped, TAKES, (wrapped, takes))  # it passes all on
    return cast(F, show_innermost(wrapped))


def show_innermost(wrapper: Callable[..., Any]) -> Callable[..., Any]:
    """Have a wrapper lead straight to the user's function: a member looks there for what the script has defined."""
    wrapper.__wrapped__ = inspect.unwrap(wrapper)  # type: ignore[attr-defined]
    return wrapper


def subclass(trainable: type[Any], attributes: dict[str, Any]) -> Any:
    """Return a subclass that is called like the class, with attributes of its own, and leaves the class as it is."""
    names = {name: getattr(trainable, name) for name in ("__module__", "__qualname__", "__doc__")}
    metaclass: Any = type(trainable)
    return metaclass(trainable.__name__, (trainable,), {**names, **attributes})


def _amounts(resources: Any) -> dict[str, float]:
    if isinstance(resources, PlacementGroupFactory):
        return {_AMOUNTS[name]: amount for name, amount in resources.required_resources.items()}
    if callable(resources):
        raise ConfigError(
            "with_resources: resources that depend on the config are not supported, because the members of a "
            "population take turns on the same slots. Give a dict such as {'cpu': 1, 'gpu': 0.5} with what the largest "
            "takes."
        )
    if not isinstance(resources, Mapping):
        raise ConfigError(
            f"with_resources: resources must be a dict such as {{'cpu': 1, 'gpu': 0.5}}, but is {resources!r}."
        )
    for name in resources:
        if name not in _AMOUNTS.values():
            raise ConfigError(
                f"with_resources: there is no resource {name!r}.{did_you_mean(str(name), _AMOUNTS.values())} Allowed: "
                f"'cpu', 'gpu'."
            )
    _check_amounts("with_resources", resources)
    return dict(resources)


def _check_amounts(owner: str, amounts: Mapping[str, Any]) -> None:
    # A trial that takes no CPU is one that waits for its GPU; the GPUs alone say how many there are at a time.
    on_gpu = any(amounts.get(name) for name in ("gpu", "GPU"))
    for name, amount in amounts.items():
        number = isinstance(amount, (int, float)) and not isinstance(amount, bool) and math.isfinite(amount)
        if not number or amount < 0 or (name in ("cpu", "CPU") and amount == 0 and not on_gpu):
            raise ConfigError(f"{owner}: {name!r} must be a number greater than 0, but is {amount!r}.")
        if name in ("gpu", "GPU") and amount > 1 and amount != int(amount):
            raise ConfigError(f"{owner}: {name!r} must be a fraction up to 1 or a whole number, but is {amount!r}.")


def has_resources(trainable: Callable[..., Any]) -> bool:
    """Return whether :func:`with_resources` has said what a trial takes."""
    return hasattr(trainable, _ATTRIBUTE)


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


def memory_available() -> int:
    """Return how many bytes of memory new processes may use without swapping."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
    import psutil  # late: elsewhere, too, it takes as long to import as half of Shoal

    return int(psutil.virtual_memory().available)


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
    by_cpu = sys.maxsize if cpus == 0 else int(cpu_count / cpus + 1e-9)
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
