"""The live page: a read-only view of one or many experiments in a browser, running or finished.

Pages are rendered from the journals; a small script in them asks for what has changed. Needs ``shoal[dashboard]``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["DEFAULT_PORT", "make_app", "serve"]

DEFAULT_PORT = 8787
_NEEDED = ("jinja2", "plotly", "starlette", "uvicorn")


def serve(
    folder: str | os.PathLike[str],
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
    open_browser: bool = False,
) -> None:
    """Show the experiments in a folder in a browser, until Ctrl-C.

    The process is given a lower priority than others have, so that it takes no time from who trains.

    Args:
        folder: a storage folder, or the folder of one experiment; or the URL of either.
        host: the address to listen at. Others than this machine can look only where that is not a loopback address,
            and then a token is needed.
        port: where to listen; 0: any that is free. Default: 8787, or the next one that is free.
        token: what a browser has to show once. Default: none on this machine alone, else a random one.
        open_browser: whether a browser is opened.

    Raises:
        ConfigError: an argument is wrong.
        StorageError: the address or the port cannot be used.
        ImportError: a package is missing.
    """
    check_packages()
    from .server import run

    run(folder, host, port, token, open_browser)


def make_app(folder: str | os.PathLike[str], token: str | None = None) -> Starlette:
    """Return the page as an application for a server of ASGI applications.

    Args:
        folder: a storage folder, or the folder of one experiment; or the URL of either.
        token: what a browser has to show once. Without one, only requests to this machine's own names are answered.

    Raises:
        ConfigError: the token is too short, or has characters that an address cannot have.
        ImportError: a package is missing.
    """
    check_packages()
    from .app import build

    return build(folder, token)


def check_packages() -> None:
    """Make sure that what the page is made with is installed.

    Raises:
        ImportError: it is not; the message says what to do.
    """
    from importlib.util import find_spec

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ImportError(f"The dashboard needs {' and '.join(missing)}: pip install 'shoal[dashboard]'")
