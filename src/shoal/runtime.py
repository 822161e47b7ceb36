"""What of the machine Shoal may use: ``shoal.init(num_cpus=, num_gpus=)``, kept for this process.

There is no server to start and nothing to connect to; without ``init`` the whole machine is used.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from .arguments import check_keywords, warn_user
from .errors import ConfigError
from .resources import Machine, Request, check_custom, count_cpus, count_memory, list_gpus, make_slots

__all__ = ["init", "is_initialized", "machine", "shutdown", "slots"]

_machine: Machine | None = None


@check_keywords
def init(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    resources: Mapping[str, float] | None = None,
    ignore_reinit_error: bool = False,
    local_mode: bool = False,
    runtime_env: Any = None,
    object_store_memory: int | None = None,
    include_dashboard: bool | None = None,
    dashboard_host: str | None = None,
    dashboard_port: int | None = None,
    configure_logging: bool | None = None,
    logging_level: Any = None,
    log_to_driver: bool | None = None,
    namespace: str | None = None,
    _temp_dir: str | None = None,
) -> None:
    """Say how much of the machine members may use. Optional.

    What scripts for Ray pass here is taken too. From ``object_store_memory`` on, arguments have no effect: there is no
    store with a fixed size, no server, no dashboard to start and no logging to set up.

    Args:
        address: None or ``"local"``: this machine.
        num_cpus: CPUs that are shared out to trials; may be more than there are. Default: those of the machine.
        num_gpus: GPUs that are shared out, at most those of the machine. Default: all.
        resources: how much of which custom resources is shared out, for trials that ask for such with
            :func:`shoal.tune.with_resources`: ``{"license": 2}``. Default: none.
        ignore_reinit_error: whether a second call without :func:`shutdown` is ignored instead of an error. What the
            first one said stays, and a warning names what the second one says otherwise.
        local_mode: only False. Members run in this process with ``TuneConfig(engine="inline")``.
        runtime_env: only None or empty. Members always have the packages, the folder and the environment of the script.
        object_store_memory: without effect, as are ``include_dashboard``, ``dashboard_host``, ``dashboard_port``,
            ``configure_logging``, ``logging_level``, ``log_to_driver``, ``namespace`` and ``_temp_dir``.

    Raises:
        ConfigError: an argument is unknown, asks for something that is not there, or is out of range; or Shoal is
            initialised already.
    """
    global _machine
    if _machine is not None:
        if not ignore_reinit_error:
            raise ConfigError(
                "shoal.init was called twice. Call shoal.shutdown() first, or keep what the first call said with "
                "init(ignore_reinit_error=True)."
            )
        others: dict[str, Any] = {"address": None if address == "local" else address, "local_mode": local_mode}
        if resources is not None and dict(resources) != dict(_machine.custom):
            others["resources"] = resources
        _warn_of_ignored(_machine, num_cpus, num_gpus, {**others, "runtime_env": runtime_env})
        return
    if address not in (None, "local"):
        raise ConfigError(
            f"shoal.init: address is {address!r}, but Shoal has no cluster to connect to yet: it runs on this machine. "
            f"Leave address out, or give 'local'."
        )
    if local_mode:
        raise ConfigError(
            "shoal.init has no local_mode. To run members one after the other in this process, where a debugger sees "
            "them, leave it out and use tune.TuneConfig(engine='inline'), or set SHOAL_ENGINE=inline."
        )
    if runtime_env:
        raise ConfigError(
            f"shoal.init: runtime_env is {runtime_env!r:.200}, but members always have the packages, the folder and "
            f"the environment variables of this process. Leave runtime_env out, and set os.environ before fit()."
        )
    _machine = _machine_of(num_cpus, num_gpus, resources)


def _warn_of_ignored(machine: Machine, num_cpus: int | None, num_gpus: int | None, others: dict[str, Any]) -> None:
    """Say what a second call asks for and does not get."""
    amounts = (("num_cpus", num_cpus, machine.cpus), ("num_gpus", num_gpus, len(machine.gpus)))
    ignored = [f"{name}={asked!r} (it stays {now})" for name, asked, now in amounts if asked not in (None, now)]
    ignored += [f"{name}={asked!r:.200}" for name, asked in others.items() if asked]
    if ignored:
        warn_user(f"init was called before, so {', '.join(ignored)} is ignored. To change it, call shutdown() first.")


def _machine_of(num_cpus: int | None, num_gpus: int | None, resources: Mapping[str, float] | None) -> Machine:
    for name, value, least in (("num_cpus", num_cpus, 1), ("num_gpus", num_gpus, 0)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise ConfigError(f"shoal.init: {name} must be a whole number of {least} or more, but is {value!r}.")
    found = list_gpus()
    if num_gpus is not None and num_gpus > len(found):
        raise ConfigError(f"shoal.init: num_gpus is {num_gpus}, but this machine has {len(found)}.")
    check_custom("shoal.init: resources", resources or {})
    return Machine(num_cpus or count_cpus(), found[:num_gpus], count_memory(), dict(resources or {}))


def is_initialized() -> bool:
    """Return whether :func:`init` was called."""
    return _machine is not None


def shutdown() -> None:
    """Forget what :func:`init` said, and free what :func:`shoal.put` has stored: its references lead nowhere then."""
    global _machine
    _machine = None
    # Imported only where something was stored.
    objects = sys.modules.get("shoal.objects")
    if objects is not None:
        objects.free_all()


def machine() -> Machine:
    """Return what is shared out to trials: as :func:`init` said, or else the whole machine."""
    return _machine or Machine(count_cpus(), list_gpus(), count_memory())


def slots(request: Request, limit: int | None) -> list[str]:
    """Return the device of each slot for trials that take what ``request`` says; at most ``limit``, or None.

    Raises:
        EngineError: there is not enough for one trial.
    """
    return make_slots(request, limit, machine())
