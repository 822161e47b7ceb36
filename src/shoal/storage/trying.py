"""What storage says when something goes wrong: whether it passes, what the user is told, and trying again."""

from __future__ import annotations

import errno
import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ..errors import StorageError, one_line

__all__ = [
    "Backoff", "FileRefused", "PlaceError", "describe", "missing_bucket", "missing_upload", "passes", "retrying",
]  # fmt: skip

_T = TypeVar("_T")
_PASSING_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        "EAGAIN", "EBUSY", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "EINTR",
        "ENETDOWN", "ENETRESET", "ENETUNREACH", "ENOTCONN", "EPIPE", "EREMOTEIO", "ESHUTDOWN", "ESTALE", "ETIMEDOUT",
    )
    if hasattr(errno, name)
)  # fmt: skip
"""s3fs makes EBUSY of the status 503, and EREMOTEIO of 500."""
_PASSING_NAMES = frozenset({
    "ClientConnectionError", "ClientConnectorError", "ClientOSError", "ClientPayloadError", "ConnectTimeoutError",
    "ConnectionClosedError", "ConnectionError", "EndpointConnectionError", "FSTimeoutError", "HTTPClientError",
    "IncompleteRead", "IncompleteReadError", "ProxyConnectionError", "ReadTimeoutError", "ResponseParserError",
    "ResponseStreamingError", "ServerDisconnectedError", "ServerTimeoutError", "ServiceRequestError",
    "ServiceResponseError", "TimeoutError", "TransportError",
})  # fmt: skip
"""Of errors that libraries raise when a connection cannot be made, is lost, or says nothing."""
_PASSING_CODES = frozenset({
    "408", "429", "500", "502", "503", "504", "InternalError", "OperationAborted", "RequestTimeout",
    "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests",
    "RequestLimitExceeded", "NoSuchUpload",
})  # fmt: skip
"""``NoSuchUpload``: somebody has aborted a large upload; it can be begun again."""
_DENIED_CODES = frozenset({
    "401", "403", "AccessDenied", "AllAccessDisabled", "AccountProblem", "ExpiredToken", "InvalidAccessKeyId",
    "InvalidToken", "Forbidden", "NotSignedUp", "RequestTimeTooSkewed", "SignatureDoesNotMatch",
})  # fmt: skip
_NO_CREDENTIALS = frozenset({"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"})
_NO_BUCKET = "NoSuchBucket"


class PlaceError(StorageError):
    """A place in storage cannot be read or written.

    Args:
        text: what happened, and what to do.
        passes: whether it may well be gone when it is tried again: nobody answers, or too much is asked of it.
    """

    def __init__(self, text: str, *, passes: bool = False) -> None:
        super().__init__(text)
        self.passes = passes


class FileRefused(PlaceError):
    """One file cannot be put into storage, now or later, because of what it is; others can."""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        # What was only being handled when it was raised is no reason for it; libraries that translate an error of the
        # system leave it at that.
        around = cause.__context__ if isinstance(cause, OSError) else None
        cause = cause.__cause__ or around


def _codes(error: BaseException) -> set[str]:
    """Return what the server's answer says that an error was made of: its code and the status of HTTP."""
    found: set[str] = set()
    for cause in _chain(error):
        response: Any = getattr(cause, "response", None)
        if isinstance(response, dict):
            found.add(str(response.get("Error", {}).get("Code", "")))
            found.add(str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")))
        for name in ("code", "status", "status_code"):  # gcsfs, aiohttp, adlfs
            value: Any = getattr(cause, name, None)
            if isinstance(value, (int, str)):
                found.add(str(value))
    return found


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for cause in _chain(error) for kind in type(cause).__mro__}


def passes(error: BaseException) -> bool:
    """Return whether an error of storage may be gone when the same is tried again."""
    if isinstance(error, PlaceError):
        return error.passes
    codes = _codes(error)
    if codes & _DENIED_CODES or _NO_BUCKET in codes or _names(error) & _NO_CREDENTIALS:
        return False
    if codes & _PASSING_CODES or any(code.startswith("5") and len(code) == 3 and code.isdigit() for code in codes):
        return True
    for cause in _chain(error):
        if isinstance(cause, (TimeoutError, ConnectionError, socket.gaierror)):
            return True
        if isinstance(cause, OSError) and cause.errno in _PASSING_ERRNOS:
            return True
    return bool(_names(error) & _PASSING_NAMES)


def missing_upload(error: BaseException) -> bool:
    """Return whether an error says that there is no such upload in parts, or that it was completed."""
    return "NoSuchUpload" in _codes(error)


def missing_bucket(error: BaseException) -> bool:
    """Return whether an error says that there is no such bucket."""
    return _NO_BUCKET in _codes(error)


def describe(error: BaseException, url: str) -> PlaceError:
    """Return the error that says what is wrong with a place in storage, and what to do.

    Args:
        error: what the library raised.
        url: of the place.
    """
    scheme, _, rest = url.partition("://")
    codes, names = _codes(error), _names(error)
    said = one_line(error)
    if isinstance(error, TimeoutError) or "TimeoutError" in names:
        said = "there was no answer in time"
    if names & _NO_CREDENTIALS:
        how = (
            "for example AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE" if scheme in ("s3", "s3a") else ""
        )
        return PlaceError(
            f"There are no credentials for {url}: {said}. Set them in the environment"
            f"{f', {how}' if how else ''}; Shoal takes them as fsspec does."
        )
    if _NO_BUCKET in codes:
        bucket = rest.partition("/")[0]
        return PlaceError(f"There is no bucket {bucket!r} for {url}. Make it first, or give another storage_path.")
    if codes & _DENIED_CODES or isinstance(error, PermissionError):
        return PlaceError(
            f"Access to {url} is denied: {said}. Check the credentials in the environment, and what they allow."
        )
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return FileRefused(f"{url} cannot be written: its name is too long ({said}).")
    if isinstance(error, NotImplementedError):
        return PlaceError(
            f"{url} cannot be used: {scheme} cannot do what is needed ({said}). Give another storage_path."
        )
    if passes(error):
        return PlaceError(f"{url} cannot be reached now: {said}.", passes=True)
    return PlaceError(f"{url} cannot be read or written: {said}.")


class Backoff:
    """How long to wait before the next try: twice as long each time, and not all at the same moment.

    Args:
        first_s: seconds before the second try.
        most_s: seconds at most.
        draw: returns a number from 0 to 1.
    """

    def __init__(self, first_s: float = 0.2, most_s: float = 10.0, draw: Callable[[], float] = random.random) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._draw = draw
        self._failures = 0

    def next(self) -> float:
        """Return how many seconds to wait now, after one more failure."""
        delay = min(self._most_s, self._first_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return delay * (0.5 + 0.5 * self._draw())

    def reset(self) -> None:
        """It went well: begin with short waits again."""
        self._failures = 0


def retrying(
    call: Callable[[], _T],
    *,
    patience_s: float,
    backoff: Backoff | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> _T:
    """Return what ``call`` returns, trying again while it raises errors that pass.

    Args:
        call: what to do; it can be done again after it has failed.
        patience_s: no try begins later than so many seconds after the first.
        backoff: how long to wait between two tries.
        clock, sleep: seconds, and how to wait for some.

    Raises:
        Exception: that of the last try; at once where it does not pass.
    """
    waits = backoff or Backoff()
    began = clock()
    while True:
        try:
            return call()
        except Exception as error:
            delay = waits.next()
            if not passes(error) or clock() - began + delay > patience_s:
                raise
            sleep(delay)
