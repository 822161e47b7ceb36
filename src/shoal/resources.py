"""What the machine has, what one trial takes, and how many slots that makes."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import os
import resource
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from .arguments import check_arguments
from .errors import ConfigError, EngineError, did_you_mean, similar_name

__all__ = [
    "FILES_OF_A_RESIDENT",
    "Machine",
    "PlacementGroupFactory",
    "Request",
    "allow_open_files",
    "check_custom",
    "count_cpus",
    "count_memory",
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
_AMOUNTS = {"CPU": "cpu", "GPU": "gpu", "memory": "memory"}
"""What Ray's bundles call the resources, and what Shoal calls them. All others are custom ones."""
_CUSTOM = "custom_resources"
_OTHER_NAMES = {"mem": "memory", "num_cpus": "cpu", "num_gpus": "gpu", "ram": "memory"}
"""What is most likely meant, and not found by similarity."""
_LEAST_MEMORY = 1 << 20
_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


@dataclass(frozen=True, slots=True)
class Request:
    """What one trial takes."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0
    """Bytes; 0: as much as it needs, and nobody counts."""
    custom: Mapping[str, float] = field(default_factory=dict[str, float])
    """Resources that the user has named himself, and how much of each; none of them 0."""

    def describe(self) -> str:
        """Return it in words: ``2 CPUs, 0.5 GPUs, 4 GiB of memory, 1 tpu``."""
        said = [_amount(self.cpus, "CPU"), _amount(self.gpus, "GPU")]
        said.append(f"{_bytes(self.memory)} of memory" if self.memory else "")
        return ", ".join([*filter(None, said), *(f"{amount:g} {name}" for name, amount in self.custom.items())])


def _amount(count: float, noun: str) -> str:
    return f"{count:g} {noun}{'' if count == 1 else 's'}" if count else ""


def _bytes(count: float) -> str:
    return f"{count / 2**30:.3g} GiB" if count >= 2**30 else f"{count / 2**20:.3g} MiB"


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to share out to trials."""

    cpus: int
    gpus: Sequence[str] = ()
    """As ``CUDA_VISIBLE_DEVICES`` names them."""
    memory: int = sys.maxsize
    """Bytes, also those that are in use."""
    custom: Mapping[str, float] = field(default_factory=dict[str, float])
    """What ``shoal.init(resources=...)`` says that there is."""


@check_arguments
@dataclass(frozen=True)
class PlacementGroupFactory:
    """What a trial takes, in the form of Ray: ``tune.PlacementGroupFactory([{"CPU": 2, "GPU": 0.5}])``.

    Args:
        bundles: one dict with amounts of ``CPU``, ``GPU``, ``memory`` (bytes) and custom resources; they mean what
            ``cpu``, ``gpu``, ``memory`` and others mean to :func:`with_resources`. Further bundles must be empty: a
            trial is one process on one machine.
        strategy: ``PACK``, ``SPREAD``, ``STRICT_PACK`` or ``STRICT_SPREAD``. Without effect: with a single bundle
            there is nothing to place.

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
            _check_custom_name("PlacementGroupFactory", name, _AMOUNTS, "A resource of your own needs another name.")
        filled = [bundle for bundle in bundles if any(bundle.values())]
        if len(filled) != 1:
            raise ConfigError(
                f"PlacementGroupFactory: one bundle must say what a trial takes, but in {bundles!r} {len(filled)} do. "
                f"A trial is one process: give its amounts together, such as [{{'CPU': 4, 'GPU': 1}}]."
            )
        _check_amounts("PlacementGroupFactory", filled[0])

    @property
    def required_resources(self) -> dict[str, float]:
        """What a trial takes, as ``{"CPU": ..., "GPU": ...}``, with no more than the bundle names."""
        return dict(next(bundle for bundle in self.bundles if any(bundle.values())))


def with_resources(trainable: F, resources: Mapping[str, Any] | PlacementGroupFactory) -> F:
    """Say what each trial of a function takes: ``tune.with_resources(train, {"cpu": 2, "gpu": 0.5})``.

    Args:
        trainable: the function or the class; a wrapper or a subclass with its name is returned.
        resources: a dict, or a :class:`PlacementGroupFactory`. In the dict:
            ``cpu`` (default 1; also how many threads torch uses in a member, rounded up; 0 only with a GPU, whose
            number then decides alone);
            ``gpu`` (default 0; a fraction below 1 shares a GPU, else a whole number);
            ``memory`` in bytes (default 0: not counted), by which fewer members run at a time where there is not enough
            for all. It is no limit: nobody stops a member that takes more;
            ``custom_resources``: a dict of names and amounts, each a fraction up to 1 or a whole number, for what a
            node of a Ray cluster, or ``shoal.init(resources=...)``, says that it has. Further keys of ``resources`` are
            such names too, where they are not close to one of the above.

    Raises:
        ConfigError: the name of a resource is most likely misspelt, or an amount is out of range.
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


def _amounts(resources: Any) -> dict[str, Any]:
    """Return what was asked for, checked, with all custom resources in a dict of their own."""
    if isinstance(resources, PlacementGroupFactory):
        return _split({_AMOUNTS.get(name, name): amount for name, amount in resources.required_resources.items()})
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
    amounts = {**resources}
    known = (*_AMOUNTS.values(), _CUSTOM)
    for name in amounts:
        if name not in known:
            hint = f"A resource of your own with this name: {{{_CUSTOM!r}: {{{name!r}: 1}}}}."
            _check_custom_name("with_resources", name, known, hint)
    named = amounts.pop(_CUSTOM, None)
    if named is not None:
        check_custom("with_resources: custom_resources", named)
        if twice := sorted({*named} & {*amounts}):
            raise ConfigError(f"with_resources: {twice[0]!r} is given twice, once in {_CUSTOM}. Give it once.")
        amounts.update(named)
    _check_amounts("with_resources", amounts)
    return _split(amounts)


def _split(amounts: Mapping[str, float]) -> dict[str, Any]:
    own = {name: amounts[name] for name in _AMOUNTS.values() if name in amounts}
    custom = {name: float(amount) for name, amount in amounts.items() if name not in own and amount}
    return {**own, **({_CUSTOM: custom} if custom else {})}


def check_custom(owner: str, amounts: Any) -> None:
    """Raise ConfigError unless ``amounts`` gives amounts of custom resources.

    Args:
        owner: whose argument it is, for the message.
        amounts: what the user gave.
    """
    if not isinstance(amounts, Mapping):
        raise ConfigError(f"{owner} must be a dict such as {{'tpu': 1}}, but is {amounts!r}.")
    for name in amounts:
        if not isinstance(name, str) or not name or name.casefold() in ("cpu", "gpu", "memory", "object_store_memory"):
            raise ConfigError(
                f"{owner}: {name!r} cannot be the name of a custom resource. It must be a text, and no name that Ray "
                f"has taken: CPU, GPU, memory, object_store_memory."
            )
    _check_amounts(owner, amounts)


def _check_custom_name(owner: str, name: object, known: Iterable[str], hint: str) -> None:
    """Raise ConfigError where the name of what would be a custom resource is most likely a misspelling."""
    known = list(known)
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{owner}: the name of a resource must be a text, but is {name!r}.")
    # Also letters that have changed places, which in so short a name are not similar enough.
    letters = sorted(name.casefold().removesuffix("s"))
    swapped = next((each for each in known if sorted(each.casefold()) == letters), name)
    meant = similar_name(_OTHER_NAMES.get(name.casefold(), swapped), known)
    if meant is not None:
        raise ConfigError(f"{owner}: there is no resource {name!r}. Did you mean {meant!r}? {hint}")
    if name == "object_store_memory":
        raise ConfigError(
            f"{owner}: object_store_memory cannot be asked for; members take what they need. Leave it out."
        )


def _check_amounts(owner: str, amounts: Mapping[str, Any]) -> None:
    # A trial that takes no CPU is one that waits for its GPU; the GPUs alone say how many there are at a time.
    on_gpu = any(amounts.get(name) for name in ("gpu", "GPU"))
    for name, amount in amounts.items():
        number = isinstance(amount, (int, float)) and not isinstance(amount, bool) and math.isfinite(amount)
        if not number or amount < 0 or (name in ("cpu", "CPU") and amount == 0 and not on_gpu):
            raise ConfigError(f"{owner}: {name!r} must be a number greater than 0, but is {amount!r}.")
        if name == "memory":
            if 0 < amount < _LEAST_MEMORY:
                raise ConfigError(
                    f"{owner}: 'memory' is a number of bytes, but {amount!r} bytes are too few for any process. 4 GiB "
                    f"are 4 * 2**30."
                )
        elif name not in ("cpu", "CPU") and amount > 1 and amount != int(amount):
            raise ConfigError(f"{owner}: {name!r} must be a fraction up to 1 or a whole number, but is {amount!r}.")


def has_resources(trainable: Callable[..., Any]) -> bool:
    """Return whether :func:`with_resources` has said what a trial takes."""
    return hasattr(trainable, _ATTRIBUTE)


def resources_of(trainable: Callable[..., Any]) -> Request:
    """Return what one trial of the function takes."""
    said = getattr(trainable, _ATTRIBUTE, {})
    cpus, gpus = float(said.get("cpu", 1.0)), float(said.get("gpu", 0.0))
    return Request(cpus, gpus, math.ceil(said.get("memory", 0)), dict(said.get(_CUSTOM, {})))


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


def count_memory() -> int:
    """Return how many bytes of memory this process may use together with others: the machine's, or its container's."""
    with contextlib.suppress(OSError, ValueError):  # "max", or no such limit here
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        return min(limit, _memory("MemTotal", "total"))
    return _memory("MemTotal", "total")


def memory_available() -> int:
    """Return how many bytes of memory new processes may use without swapping."""
    return _memory("MemAvailable", "available")


def _memory(line: str, attribute: str) -> int:
    """Return a line of the kernel's file, in bytes, or else what psutil says."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(each.split()[1] for each in lines if each.startswith(f"{line}:")))
    import psutil  # late: elsewhere, too, it takes as long to import as half of Shoal

    return int(getattr(psutil.virtual_memory(), attribute))


def list_gpus() -> list[str]:
    """Return the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them, without loading CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        return [str(index) for index in range(len(list(Path("/proc/driver/nvidia/gpus").iterdir())))]
    except OSError:
        return []


def make_slots(request: Request, limit: int | None, machine: Machine) -> list[str]:
    """Return, for each slot, the GPUs that its members see (``""``: no GPU was asked for).

    Args:
        request: what one trial takes.
        limit: at most so many slots, or None.
        machine: what there is.

    Raises:
        EngineError: the machine has not enough for one trial.
    """
    most = min(_most(request, machine), limit or sys.maxsize)
    if request.gpus == 0:
        return [""] * most
    names = list(machine.gpus)
    if request.gpus >= 1:
        width = int(request.gpus)
        slots = [",".join(names[at : at + width]) for at in range(0, len(names) - width + 1, width)]
    else:
        # One slot of every GPU, then the second of every GPU: a small population spreads over all of them.
        slots = [name for _ in range(int(1 / request.gpus + 1e-9)) for name in names]
    if not slots:
        raise EngineError(
            f"One trial asks for {request.gpus:g} GPUs, but this machine has {len(names)}"
            f"{' that CUDA_VISIBLE_DEVICES allows' if 'CUDA_VISIBLE_DEVICES' in os.environ else ''}. Ask for less: "
            f"tune.with_resources(train, {{'gpu': 0}})."
        )
    return slots[:most]


def _most(request: Request, machine: Machine) -> int:
    """Return for how many trials at a time there is enough of all but GPUs."""
    most = sys.maxsize if request.cpus == 0 else int(machine.cpus / request.cpus + 1e-9)
    if most < 1:
        raise EngineError(
            f"One trial asks for {request.cpus:g} CPUs, but this machine has {machine.cpus}. Ask for less: "
            f"tune.with_resources(train, {{'cpu': {machine.cpus}}})."
        )
    if request.memory > machine.memory:
        raise EngineError(
            f"One trial asks for {_bytes(request.memory)} of memory, but this machine has {_bytes(machine.memory)}. "
            f"Ask for less with tune.with_resources, or leave memory out: then it is not counted."
        )
    if request.memory:
        most = min(most, machine.memory // request.memory)
    for name, amount in request.custom.items():
        there = machine.custom.get(name, 0.0)
        if there + 1e-9 < amount:
            raise EngineError(
                f"One trial asks for {amount:g} of the custom resource {name!r}, but this machine has {there:g} of "
                f"it.{did_you_mean(name, machine.custom)} Say how much there is, with shoal.init(resources={{{name!r}: "
                f"...}}), or run on a Ray cluster that has it: TuneConfig(engine='ray')."
            )
        most = min(most, int(there / amount + 1e-9))
    return most
