"""Who may ask, and for what: the layer around the whole application.

It only reads, so anything but GET and HEAD is refused. On this machine alone there is no token, but the ``Host`` of a
request has to be one of its names: else a page from elsewhere could have its own name point here and read the answers.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import ConfigError

__all__ = ["Guard", "check_token", "is_loopback"]

SHORTEST_TOKEN = 12
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        # Plotly keeps its own rules in a style element, and figures are styled by attributes.
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_token(token: str | None) -> None:
    """Make sure that a token is hard to guess and can be part of an address.

    Raises:
        ConfigError: it is not.
    """
    if token is None:
        return
    if not isinstance(token, str) or not re.fullmatch(r"[A-Za-z0-9._~-]+", token) or len(token) < SHORTEST_TOKEN:
        raise ConfigError(
            f"dashboard: token must have at least {SHORTEST_TOKEN} characters, each a letter (a-z), a digit, or one of "
            f"'-', '.', '_', '~'. Leave it out to have one made."
        )


class Guard:
    """Answers what is not allowed itself, and gives all answers their headers.

    Args:
        app: what answers the rest.
        token: what a browser has to show; None: the ``Host`` is checked in its place.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = token
        # Cookies know no ports: pages with other tokens on this machine must not overwrite each other's.
        self._cookie = "" if token is None else f"shoal_{hashlib.sha256(token.encode()).hexdigest()[:12]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # web sockets: none is served, and closing without an answer refuses it

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        if scope["method"] not in ("GET", "HEAD"):
            await _say(with_headers, 405, "This page only shows: GET and HEAD are answered.", [("allow", "GET, HEAD")])
        elif self._token is None:
            await self._by_host(scope, receive, with_headers)
        else:
            await self._by_token(scope, receive, with_headers, self._token)

    async def _by_host(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _is_here(_header(scope, b"host")):
            await self._app(scope, receive, send)
        else:
            await _say(send, 421, "This page is only at http://127.0.0.1 and http://localhost, with its port.")

    async def _by_token(self, scope: Scope, receive: Receive, send: Send, token: str) -> None:
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        shown = [value for name, value in query if name == "token"]
        if shown and _equal(shown[-1], token):
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            # One slash at the beginning: two would lead to another host.
            path = "/" + quote(scope["path"].lstrip("/\\"), safe="/,=@~+")
            cookie = f"{self._cookie}={token}; Path=/; HttpOnly; SameSite=Strict"
            await _say(send, 303, "", [("location", f"{path}?{rest}" if rest else path), ("set-cookie", cookie)])
        elif not shown and _equal(_cookie(scope, self._cookie), token):
            await self._app(scope, receive, send)
        else:
            await _say(send, 403, "This page needs a token: open the address that `shoal dashboard` has printed.")


def _is_here(host: str) -> bool:
    """Return whether a ``Host`` is a name or an address of this machine alone.

    Any port: through an SSH tunnel it is another one, and what a foreign page cannot choose is the name. Nor can an
    address be made to point elsewhere.
    """
    name = re.sub(r":\d+$", "", host).lower()
    if name.startswith("["):
        return name.endswith("]") and ":" in name and is_loopback(name[1:-1])
    return ":" not in name and is_loopback(name)


def _equal(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


def _header(scope: Scope, name: bytes) -> str:
    """Return a header, or an empty text where it is not there or there twice."""
    found = [value for key, value in scope["headers"] if key == name]
    return found[0].decode("latin-1") if len(found) == 1 else ""


def _cookie(scope: Scope, name: str) -> str:
    for key, value in scope["headers"]:
        if key == b"cookie":
            try:
                found = SimpleCookie(value.decode("latin-1")).get(name)
            except CookieError:
                continue
            if found is not None:
                return found.value
    return ""


async def _say(send: Send, status: int, text: str, headers: Iterable[tuple[str, str]] = ()) -> None:
    """Answer with a line of text."""
    body = f"{text}\n".encode() if text else b""
    named = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(body))), *headers]
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named],
        }
    )
    await send({"type": "http.response.body", "body": body})
