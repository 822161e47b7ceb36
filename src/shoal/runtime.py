"""What of the machine, or which cluster, Shoal may use: ``shoal.init(...)``, kept for this process.

Without ``init`` the whole machine is used, and there is no server to start and nothing to connect to. With the address
of a Ray cluster, or with the engine ``ray``, members run on that cluster.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from .arguments import check_keywords, warn_user
from .errors import ConfigError
from .resources import Machine, Request, check_custom, count_cpus, count_memory, list_gpus, make_slots

__all__ = ["connect", "has_cluster", "init", "is_initialized", "machine", "shutdown", "slots"]

_machine: Machine | None = None
_address: str | None = None
"""Of the cluster that :func:`init` was given."""
_for_ray: dict[str, Any] = {}
"""What :func:`init` was given that Ray is told, if members run there."""


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
    """Say how much of the machine members may use, or which cluster. Optional.

    What scripts for Ray pass here is taken too. From ``object_store_memory`` on, arguments are passed on to Ray where
    members run there, and have no effect otherwise: there is no store with a fixed size, no server, no dashboard to
    start and no logging to set up.

    Args:
        address: None or ``"local"``: this machine. Else that of a Ray cluster that runs, ``"auto"`` or ``"host:port"``:
            this process connects to it at once, and members run there unless ``TuneConfig(engine=...)`` or the
            environment variable ``SHOAL_ENGINE`` says otherwise. Needs ``shoal[ray]``. The script itself has to run on
            a machine of the cluster.
        num_cpus: CPUs that are shared out to trials; may be more than there are. Default: those of the machine.
        num_gpus: GPUs that are shared out, at most those of the machine. Default: all.
        resources: how much of which custom resources is shared out, for trials that ask for such with
            :func:`shoal.tune.with_resources`: ``{"license": 2}``. Default: none.
        ignore_reinit_error: whether a second call without :func:`shutdown` is ignored instead of an error. What the
            first one said stays, and a warning names what the second one says otherwise.
        local_mode: only False. Members run in this process with ``TuneConfig(engine="inline")``.
        runtime_env: for a cluster, as Ray takes it. Without one only None or empty: members on this machine always have
            the packages, the folder and the environment of the script.
        object_store_memory: see above, as for ``include_dashboard``, ``dashboard_host``, ``dashboard_port``,
            ``configure_logging``, ``logging_level``, ``log_to_driver``, ``namespace`` and ``_temp_dir``.

    Raises:
        ConfigError: an argument is unknown, asks for something that is not there, or is out of range; or Shoal is
            initialised already; or Ray is not installed.
        EngineError: there is no cluster at the address.
    """
    global _machine, _address
    if address is not None and (not isinstance(address, str) or not address):
        raise ConfigError(
            f"shoal.init: address must be that of a Ray cluster, such as 'auto' or '10.0.0.1:6379', or 'local', but is "
            f"{address!r}."
        )
    if _machine is not None:
        if not ignore_reinit_error:
            raise ConfigError(
                "shoal.init was called twice. Call shoal.shutdown() first, or keep what the first call said with "
                "init(ignore_reinit_error=True)."
            )
        others: dict[str, Any] = {
            "address": None if address in ("local", _address) else address,
            "local_mode": local_mode,
        }
        if resources is not None and dict(resources) != dict(_machine.custom):
            others["resources"] = resources
        _warn_of_ignored(_machine, num_cpus, num_gpus, {**others, "runtime_env": runtime_env})
        return
    if local_mode:
        raise ConfigError(
            "shoal.init has no local_mode. To run members one after the other in this process, where a debugger sees "
            "them, leave it out and use tune.TuneConfig(engine='inline'), or set SHOAL_ENGINE=inline."
        )
    if runtime_env and address in (None, "local"):
        raise ConfigError(
            f"shoal.init: runtime_env is {runtime_env!r:.200}, but members always have the packages, the folder and "
            f"the environment variables of this process. Leave runtime_env out, and set os.environ before fit(). It is "
            f"for a Ray cluster, whose address is given."
        )
    there = _machine_of(num_cpus, num_gpus, resources)
    given = {
        "runtime_env": runtime_env,
        "object_store_memory": object_store_memory,
        "include_dashboard": include_dashboard,
        "dashboard_host": dashboard_host,
        "dashboard_port": dashboard_port,
        "configure_logging": configure_logging,
        "logging_level": logging_level,
        "log_to_driver": log_to_driver,
        "namespace": namespace,
        "_temp_dir": _temp_dir,
    }
    _for_ray.clear()
    _for_ray.update({key: value for key, value in given.items() if value is not None})
    if address not in (None, "local"):
        try:
            _check_amounts_of_cluster(num_cpus, num_gpus, resources)
            _engine().connect(address, **_for_ray)
        except BaseException:
            _for_ray.clear()
            raise
        _address = address
    elif address == "local" or num_cpus or num_gpus is not None or resources:
        amounts = {"num_cpus": num_cpus, "num_gpus": num_gpus, "resources": resources}
        _for_ray.update(address="local", **{key: value for key, value in amounts.items() if value is not None})
    _machine = there


def _check_amounts_of_cluster(num_cpus: int | None, num_gpus: int | None, resources: object) -> None:
    """Refuse amounts of a cluster that runs: it has what it has."""
    amounts = {"num_cpus": num_cpus, "num_gpus": num_gpus, "resources": resources}
    given = [f"{name}={value!r}" for name, value in amounts.items() if value is not None]
    if given:
        raise ConfigError(
            f"shoal.init: {', '.join(given)} is for this machine, and a cluster that runs has what it has. Leave it "
            f"out; TuneConfig(max_concurrent_trials=...) says how much of it is used."
        )


def _engine() -> Any:
    """Return the module that knows Ray.

    Raises:
        ConfigError: Ray is not installed.
    """
    try:
        from .engines import ray
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "ray":
            raise
        if "shoal.as_ray" in sys.modules:
            raise ConfigError(
                "Members are to run on a Ray cluster, but shoal.as_ray hides Ray from the script. Change its import "
                "lines instead: 'import shoal as ray', 'from shoal import tune'."
            ) from error
        raise ConfigError(
            "Members are to run on a Ray cluster, but Ray is not installed: pip install 'shoal[ray]'."
        ) from error
    return ray


def connect() -> None:
    """Connect to the Ray that :func:`init` named, or else to that of ``RAY_ADDRESS``, or start one on this machine.

    Raises:
        ConfigError: Ray is not installed.
        EngineError: there is none at the address, or none can be started.
    """
    settings = dict(_for_ray)
    address = settings.pop("address", None) if _address is None else _address
    _engine().connect(address, **settings)


def has_cluster() -> bool:
    """Return whether :func:`init` was given the address of a cluster."""
    return _address is not None


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
    """Forget what :func:`init` said, and free what :func:`shoal.put` has stored: its references lead nowhere then.

    A Ray that Shoal has started ends, and a cluster that it has connected to is left.
    """
    global _machine, _address
    _machine = _address = None
    _for_ray.clear()
    engine = sys.modules.get("shoal.engines.ray")
    if engine is not None:
        engine.disconnect()
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
