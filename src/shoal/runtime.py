"""What of the machine Shoal may use: ``shoal.init(num_cpus=, num_gpus=)``, kept for this process.

There is no server to start and nothing to connect to; without ``init`` the whole machine is used.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ConfigError
from .resources import count_cpus, list_gpus, make_slots

__all__ = ["init", "is_initialized", "shutdown", "slots"]


@dataclass(frozen=True, slots=True)
class _Machine:
    cpus: int
    gpus: list[str]


_machine: _Machine | None = None


def init(*, num_cpus: int | None = None, num_gpus: int | None = None, ignore_reinit_error: bool = False) -> None:
    """Say how much of the machine members may use. Optional.

    Args:
        num_cpus: CPUs that are shared out to trials; may be more than there are. Default: those of the machine.
        num_gpus: GPUs that are shared out, at most those of the machine. Default: all.
        ignore_reinit_error: whether a second call without :func:`shutdown` replaces the first instead of raising.

    Raises:
        ConfigError: an argument is out of range, or Shoal is initialised already.
    """
    global _machine
    if _machine is not None and not ignore_reinit_error:
        raise ConfigError(
            "shoal.init was called twice. Call shoal.shutdown() first, or init(ignore_reinit_error=True)."
        )
    for name, value, least in (("num_cpus", num_cpus, 1), ("num_gpus", num_gpus, 0)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise ConfigError(f"shoal.init: {name} must be a whole number of {least} or more, but is {value!r}.")
    found = list_gpus()
    if num_gpus is not None and num_gpus > len(found):
        raise ConfigError(f"shoal.init: num_gpus is {num_gpus}, but this machine has {len(found)}.")
    _machine = _Machine(num_cpus or count_cpus(), found[:num_gpus])


def is_initialized() -> bool:
    """Return whether :func:`init` was called."""
    return _machine is not None


def shutdown() -> None:
    """Forget what :func:`init` said."""
    global _machine
    _machine = None


def slots(cpus: float, gpus: float, limit: int | None) -> list[str]:
    """Return the device of each slot for trials that take ``cpus`` and ``gpus``."""
    machine = _machine or _Machine(count_cpus(), list_gpus())
    return make_slots(cpus, gpus, limit, machine.cpus, machine.gpus)
