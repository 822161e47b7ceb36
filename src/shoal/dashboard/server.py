"""Runs the page: finds a port, says where the page is, and ends silently with Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import threading
import webbrowser

import uvicorn

from ..errors import ConfigError, StorageError
from ..location import is_url
from . import DEFAULT_PORT
from .app import build
from .security import check_token, is_loopback

__all__ = ["run"]

_NICENESS = 5
_TRIES = 20
"""Ports that are tried, where none was asked for."""


def run(folder: str | os.PathLike[str], host: str, port: int | None, token: str | None, open_browser: bool) -> None:
    """Serve until Ctrl-C; see :func:`shoal.dashboard.serve`."""
    check_token(token)
    far = not is_loopback(host)
    if far and token is None:
        token = secrets.token_urlsafe(24)
    listening = listen(host, port)
    yield_to_training()
    with contextlib.closing(listening):
        app = build(folder, token, far=far)
        address = address_of(host, listening.getsockname()[1], token)
        shown = folder if is_url(folder) else os.path.abspath(os.path.expanduser(folder))
        print(f"Shoal dashboard of {shown}: {address}", flush=True)
        if far:
            print("Others reach it, too, and what it sends is not encrypted. The token lets in.", flush=True)
        print("Ctrl-C ends it.", flush=True)
        if open_browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        config = uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
            ws="none",
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def yield_to_training() -> None:
    """Have this process wait where others want to compute: who looks must not slow down who trains."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(max(0, _NICENESS - os.nice(0)))


def listen(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: a name or an address.
        port: 0: any; None: the default one, or the next that is free.

    Raises:
        ConfigError: the port is no port.
        StorageError: the address cannot be used, or the port is taken.
    """
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535):
        raise ConfigError(f"dashboard: port must be a whole number from 0 (any that is free) to 65535, not {port!r}.")
    wanted = range(DEFAULT_PORT, DEFAULT_PORT + _TRIES) if port is None else [port]
    problem: OSError | None = None
    for each in wanted:
        try:
            return _listen(host, each)
        except OSError as error:
            problem = error
            if error.errno != errno.EADDRINUSE:
                break
    assert problem is not None
    if problem.errno == errno.EADDRINUSE:
        what = f"the ports {wanted[0]} to {wanted[-1]} are" if port is None else f"the port {port} is"
        raise StorageError(
            f"The dashboard cannot start: {what} taken on {host}. Give another port, or 0 for any that is free."
        ) from problem
    raise StorageError(
        f"The dashboard cannot listen at {host}: {problem.strerror or problem}. The address has to be one of this "
        f"machine's; 127.0.0.1 is for this machine alone, 0.0.0.0 for all networks."
    ) from problem


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(error.errno, error.strerror or str(error)) from error
    family, kind, protocol, _, address = sorted(found, key=lambda each: each[0] != socket.AF_INET)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except BaseException:
        listening.close()
        raise
    return listening


def address_of(host: str, port: int, token: str | None) -> str:
    """Return the address to open."""
    name = host
    if host in ("0.0.0.0", "::", ""):
        name = socket.gethostname()
    elif ":" in host:
        name = f"[{host}]"
    return f"http://{name}:{port}/" + ("" if token is None else f"?token={token}")
