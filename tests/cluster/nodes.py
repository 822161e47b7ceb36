"""A real Ray cluster of several nodes on this machine, as ``ray.cluster_utils`` makes one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

import shoal
from tests.s3 import die_with_parent

__all__ = ["ForeignNode", "Nodes", "can_be_foreign", "connected", "hosts", "left_running", "members", "wait_for"]

_STORE = 80 << 20
_SPARE = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
"""What nobody needs here, and costs a second each."""
_QUICK = {
    # A dead node is noticed in two seconds instead of fifteen.
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}


class Nodes:
    """The nodes of a cluster; the driver is on the first one.

    Args:
        **head: what the first node has, as for ``ray.init``.
    """

    def __init__(self, **head: Any) -> None:
        arguments = {"num_cpus": 0, "object_store_memory": _STORE, **_SPARE, **head}
        self._added: list[Any] = []
        self._cluster: Any = Cluster(initialize_head=True, head_node_args={**arguments, "_system_config": _QUICK})

    @property
    def address(self) -> str:
        """For ``shoal.init``."""
        return str(self._cluster.address)

    def add(self, **has: Any) -> Any:
        """Start a node, with one CPU unless told otherwise; return it."""
        node = self._cluster.add_node(**{"num_cpus": 1, "object_store_memory": _STORE, **has})
        self._added.append(node)
        return node

    def kill(self, *nodes: Any) -> None:
        """End nodes as machines end that lose their power, all at once: nothing on them does anything any more."""
        for node in nodes:
            _kill_all_below(node.all_processes["raylet"][0].process.pid)
        for node in nodes:
            self._cluster.remove_node(node, allow_graceful=False)
            self._added.remove(node)

    def kill_added(self) -> None:
        """End all nodes that were added."""
        self.kill(*self._added)

    def close(self) -> None:
        """End all nodes; their folder goes with this process."""
        self._cluster.shutdown()


class ForeignNode:
    """A node that sees none of some folders of this machine, nor its shared memory: as if it was another machine.

    Args:
        address: the cluster's.
        hidden: folders that are empty there.
        cpus: how many it has.
        **environment: variables that are others there.
    """

    def __init__(self, address: str, hidden: Iterable[Path], cpus: int = 1, **environment: str) -> None:
        mounts = "".join(f"mount -t tmpfs tmpfs {folder}; " for folder in [*hidden, Path("/dev/shm")])
        start = (
            f"exec {Path(sys.executable).with_name('ray')} start --address={address} --num-cpus={cpus} --block "
            f"--object-store-memory={_STORE} --disable-usage-stats"
        )
        before = _alive()
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "bash", "-c", mounts + start],
            env={**os.environ, **environment},
            preexec_fn=die_with_parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
        wait_for(lambda: _alive() - before)

    def kill(self) -> None:
        """End it, and all that is on it."""
        _kill_all_below(self._process.pid)
        self._process.wait()


def _alive() -> set[str]:
    nodes: Any = ray.nodes
    return {node["NodeID"] for node in nodes() if node["Alive"]}


def can_be_foreign() -> bool:
    """Return whether nodes can be given a file system of their own here."""
    program = shutil.which("unshare")
    return program is not None and subprocess.run([program, "--mount", "true"], capture_output=True).returncode == 0


def _kill_all_below(pid: int) -> None:
    """Kill a process and all that it has started: first the one, so that it starts nothing more."""
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        below = first.children(recursive=True)
        for process in [first, *below]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)


@contextlib.contextmanager
def connected(nodes: Nodes, **environment: str) -> Generator[None]:
    """Let Shoal use a cluster, on which processes get these environment variables, as this one does."""
    before = dict(os.environ)
    os.environ.update(environment)
    shoal.shutdown()
    shoal.init(address=nodes.address, runtime_env={"env_vars": dict(environment)}, log_to_driver=False)
    try:
        yield
    finally:
        shoal.shutdown()
        assert not ray.is_initialized()
        os.environ.clear()
        os.environ.update(before)


def hosts() -> list[psutil.Process]:
    """Return the processes of the hosts that run members, on all nodes of this process's clusters."""
    found = [each for each in psutil.process_iter() if _is_host(each)]
    return sorted(found, key=lambda each: each.pid)


def _is_host(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        if "".join(process.cmdline()).startswith("ray::_HostActor") and process.children():
            # Its title is where its environment was, but it keeps its log files open.
            return any(_is_ours(file.path) for file in process.open_files())
    return False


def _is_ours(path: str) -> bool:
    return path.startswith(os.environ["RAY_TMPDIR"])


def members(host: psutil.Process) -> list[int]:
    """Return the processes of the members of a host: each leads a session of its own."""
    found: list[int] = []
    for process in host.children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == process.pid and process.ppid() != host.pid:
                found.append(process.pid)
    return found


def left_running() -> list[str]:
    """Return what runs of Shoal on nodes of this process's clusters: hosts, and all that is below them."""
    found = [f"host {host.pid}" for host in hosts()]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if "shoal.worker" in line and _is_ours(process.environ().get("RAY_TMPDIR", "")):
                parents = {parent.pid for parent in process.parents()}
                if any("ray" in parent.name() for parent in process.parents()) or os.getpid() not in parents:
                    found.append(f"{process.pid}: {line[:80]}")
    return found


def wait_for(what: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.05)
