"""A browser without a screen, for tests of applications that answer HTTP: no port, no server, no other process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx

HOME = "http://127.0.0.1:8787"


class Client:
    """Asks an ASGI application, keeps cookies, follows no redirects.

    Args:
        app: the application.
        home: what it believes to be its address.
        raising: whether what the application raises is raised here; else its answer counts, as it does for a browser.
    """

    def __init__(self, app: Any, home: str = HOME, raising: bool = True) -> None:
        self._app = app
        self._raising = raising
        self._home = home
        self._cookies = httpx.Cookies()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Ask for something."""
        return self.request("GET", path, headers)

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Ask; ``path`` is sent as it is."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app, raise_app_exceptions=self._raising)
            async with httpx.AsyncClient(transport=transport, cookies=self._cookies) as client:
                answer = await client.request(method, self._home + path, headers=headers)
                self._cookies = client.cookies
                return answer

        return asyncio.run(ask())
