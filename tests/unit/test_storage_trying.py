"""What passes and is tried again, what does not, and what the user is told."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from shoal.storage.trying import Backoff, PlaceError, describe, passes, retrying


class Clock:
    """Seconds that pass only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.slept.append(seconds)
        self.now += seconds


def answered(code: str, status: int, text: str = "said the server") -> Exception:
    """Return what s3fs raises for an answer of S3."""
    exceptions = pytest.importorskip("botocore.exceptions")
    errors = pytest.importorskip("s3fs.errors")
    response = {"Error": {"Code": code, "Message": text}, "ResponseMetadata": {"HTTPStatusCode": status}}
    found: Exception = errors.translate_boto_error(exceptions.ClientError(response, "PutObject"))
    return found


def of_botocore(name: str, **settings: Any) -> Exception:
    """Return an error of botocore's own."""
    found: Exception = getattr(pytest.importorskip("botocore.exceptions"), name)(**settings)
    return found


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("too slow"),
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        ConnectionResetError("reset"),
        BrokenPipeError("pipe"),
        OSError(errno.ENETUNREACH, "no network"),
        OSError(errno.EBUSY, "503"),
        socket.gaierror(socket.EAI_AGAIN, "no name"),
    ],
    ids=repr,
)
def test_what_a_network_says_passes(error: Exception) -> None:
    assert passes(error)
    assert describe(error, "s3://b/x").passes


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("SlowDown", 503), ("ServiceUnavailable", 503), ("InternalError", 500), ("RequestTimeout", 400), ("502", 502),
        ("504", 504), ("Throttling", 400), ("429", 429), ("NoSuchUpload", 404),
    ],
)  # fmt: skip
def test_what_a_busy_server_says_passes(code: str, status: int) -> None:
    assert passes(answered(code, status))


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("NoSuchBucket", 404), ("AccessDenied", 403), ("InvalidAccessKeyId", 403), ("SignatureDoesNotMatch", 403),
        ("ExpiredToken", 400), ("NoSuchKey", 404), ("EntityTooLarge", 400), ("403", 403),
    ],
)  # fmt: skip
def test_what_a_server_refuses_does_not_pass(code: str, status: int) -> None:
    assert not passes(answered(code, status))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("EndpointConnectionError", {"endpoint_url": "http://x"}),
        ("ConnectTimeoutError", {"endpoint_url": "http://x"}),
        ("ReadTimeoutError", {"endpoint_url": "http://x"}),
        ("ConnectionClosedError", {"endpoint_url": "http://x"}),
        ("HTTPClientError", {"error": "x"}),
        ("IncompleteReadError", {"actual_bytes": 1, "expected_bytes": 2}),
    ],
)
def test_what_is_lost_on_the_way_passes(name: str, settings: dict[str, Any]) -> None:
    assert passes(of_botocore(name, **settings))


def test_an_error_that_follows_from_one_that_passes_passes() -> None:
    error = RuntimeError("something")
    assert not passes(error)
    error.__cause__ = TimeoutError("the cause")
    assert passes(error)


def test_an_error_that_was_raised_while_one_that_passes_was_handled_does_not_pass() -> None:
    error = KeyError("a bug in cleaning up")
    error.__context__ = ConnectionResetError()
    assert not passes(error)


def test_what_python_3_10_calls_a_timeout_passes() -> None:
    assert passes(type("TimeoutError", (Exception,), {})())


def test_who_has_no_credentials_is_told_which() -> None:
    told = describe(of_botocore("NoCredentialsError"), "s3://bucket/runs")
    assert not told.passes
    assert "no credentials for s3://bucket/runs" in str(told)
    assert "AWS_ACCESS_KEY_ID" in str(told)


def test_a_bucket_that_is_not_there_is_named() -> None:
    told = describe(answered("NoSuchBucket", 404), "s3://bucket/runs")
    assert str(told) == "There is no bucket 'bucket' for s3://bucket/runs. Make it first, or give another storage_path."


def test_who_is_denied_is_told_so() -> None:
    assert "Access to s3://b/x is denied" in str(describe(answered("AccessDenied", 403, "no!"), "s3://b/x"))
    assert "no!" in str(describe(answered("AccessDenied", 403, "no!"), "s3://b/x"))


def test_an_error_without_a_text_is_told_in_words() -> None:
    assert str(describe(TimeoutError(), "s3://b/x")) == "s3://b/x cannot be reached now: there was no answer in time."


def test_what_passes_is_tried_again_until_it_works() -> None:
    clock, left = Clock(), [TimeoutError(), ConnectionResetError(), TimeoutError()]

    def call() -> str:
        if left:
            raise left.pop()
        return "done"

    assert retrying(call, patience_s=60, clock=clock, sleep=clock.sleep) == "done"
    assert len(clock.slept) == 3


def test_what_does_not_pass_is_not_tried_again() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise PermissionError("no")

    with pytest.raises(PermissionError):
        retrying(call, patience_s=60, sleep=_never)
    assert calls == [1]


def test_patience_ends_and_the_last_error_is_raised() -> None:
    clock = Clock()
    with pytest.raises(PlaceError, match="away"):
        retrying(lambda: _raise(PlaceError("away", passes=True)), patience_s=60, clock=clock, sleep=clock.sleep)
    assert 45 < clock.now <= 60


def test_waits_become_longer_and_differ_up_to_a_limit() -> None:
    low, high = Backoff(1.0, 10.0, lambda: 0.0), Backoff(1.0, 10.0, lambda: 1.0)
    assert [low.next() for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert [high.next() for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    low.reset()
    assert low.next() == 0.5


def _never(seconds: float) -> None:
    pytest.fail(f"somebody waits for {seconds} s")


def _raise(error: Exception) -> None:
    raise error
