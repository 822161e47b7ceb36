"""Large files in parts, a few of them at the same time: little memory, and what is lost on the way is one part.

s3fs has that, too, but there a part that meets a dead line is waited for without end: S3 is asked whether it will take
the bytes before they are sent (``Expect: 100-continue``), and nobody counts how long its answer takes.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from .trying import Backoff, missing_upload, passes
from .workers import Workers

__all__ = ["PART", "a_few_at_once", "abort_uploads", "download_in_parts", "seconds_for", "tried", "upload_in_parts"]

_T = TypeVar("_T")
PART = 8 << 20
"""Bytes of a part. Files of two parts and more go in parts."""
_PARTS_AT_MOST = 10_000
_AT_ONCE = 4
"""Parts of one file."""
_AT_ONCE_OF_ALL = 12
_TRIES = 4
_ANSWER_S = 20.0
_RATE = 256 << 10
"""Bytes in a second, of all that is sent at the same time: a slower line has to try twice, with twice the time."""
_of_parts: dict[int, Workers] = {}
_making = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().update(_making=threading.Lock()))


def seconds_for(size: int) -> float:
    """Return how long to wait for an answer when so many bytes are sent or received."""
    return _ANSWER_S + size / _RATE


def tried(call: Callable[[float], _T], seconds: float, tries: int = _TRIES) -> _T:
    """Return what a call returns, trying again, and waiting twice as long each time, while it fails by what passes.

    Args:
        call: what to do, given how many seconds to wait at most.
        seconds: for the first try.
        tries: how many.
    """
    backoff = Backoff()
    for attempt in range(tries):
        try:
            return call(seconds * 2.0**attempt)
        except Exception as error:
            if attempt == tries - 1 or not passes(error):
                raise
            time.sleep(backoff.next())
    raise AssertionError(tries)


def upload_in_parts(files: Any, path: str, source: Path, size: int, moved: Callable[[], object] = lambda: None) -> None:
    """Put a large file into S3; the object is there when all of it is.

    Args:
        files: the file system, s3fs's.
        path: where it goes, in there.
        source: the file.
        size: its bytes.
        moved: called for each part that has arrived.
    """
    bucket, key, _ = files.split_path(path)
    where = {"Bucket": bucket, "Key": key}

    def asked(method: str, seconds: float | None = None, tries: int = _TRIES, **settings: Any) -> Any:
        limit = seconds_for(0) if seconds is None else seconds
        return tried(lambda limit: files.call_s3(method, timeout=limit, **where, **settings), limit, tries)

    step = max(PART, -(-size // _PARTS_AT_MOST))
    upload = asked("create_multipart_upload")["UploadId"]
    try:
        with source.open("rb", buffering=0) as file:

            def send(number: int) -> dict[str, Any]:
                body = os.pread(file.fileno(), step, number * step)
                seconds = seconds_for(len(body) * _AT_ONCE)
                answer = asked("upload_part", seconds, UploadId=upload, PartNumber=number + 1, Body=body)
                moved()
                return {"PartNumber": number + 1, "ETag": answer["ETag"]}

            parts = a_few_at_once([partial(send, number) for number in range(-(-size // step))])
        _complete(files, path, size, partial(asked, UploadId=upload, MultipartUpload={"Parts": parts}))
    except BaseException:
        with contextlib.suppress(Exception):
            files.call_s3("abort_multipart_upload", timeout=_ANSWER_S, UploadId=upload, **where)
        raise


def _complete(files: Any, path: str, size: int, asked: Callable[..., Any]) -> None:
    try:
        # S3 puts large objects together for minutes.
        asked(method="complete_multipart_upload", seconds=_ANSWER_S * 15, tries=2)
    except Exception as error:
        # It was completed, and only its answer was lost.
        if not missing_upload(error) or files.info(path, timeout=_ANSWER_S)["size"] != size:
            raise


def abort_uploads(files: Any, path: str) -> int:
    """Abort uploads in parts to S3 that were begun below a path and not completed: they cost, and nobody sees them.

    Returns:
        How many there were.
    """
    bucket, key, _ = files.split_path(path)
    count = 0
    after: dict[str, Any] = {}
    while True:
        answer = files.call_s3("list_multipart_uploads", timeout=_ANSWER_S, Bucket=bucket, Prefix=f"{key}/", **after)
        for upload in answer.get("Uploads") or ():
            # Some servers do not look at the prefix.
            if str(upload["Key"]).startswith(f"{key}/"):
                where = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                files.call_s3("abort_multipart_upload", timeout=_ANSWER_S, **where)
                count += 1
        before = after
        after = {"KeyMarker": answer.get("NextKeyMarker"), "UploadIdMarker": answer.get("NextUploadIdMarker")}
        if not answer.get("IsTruncated") or not all(after.values()) or after == before:
            return count


def download_in_parts(read: Callable[[int, int], bytes], target: Path, size: int) -> None:
    """Write an object to a file, a few parts at the same time.

    Args:
        read: returns its bytes from one place to another.
        target: the file.
        size: the object's bytes.
    """
    with target.open("wb", buffering=0) as file:
        os.truncate(file.fileno(), size)

        def get(start: int) -> None:
            end = min(size, start + PART)
            data = memoryview(read(start, end))
            if len(data) != end - start:
                raise EOFError(f"bytes {start} to {end} are {len(data)}")
            while data:
                written = os.pwrite(file.fileno(), data, start)
                data, start = data[written:], start + written

        a_few_at_once([partial(get, start) for start in range(0, size, PART)])


def a_few_at_once(calls: Iterable[Callable[[], _T]]) -> list[_T]:
    """Return what the calls return, in order; when this ends none of them is at work.

    They are about single requests: one of them must not use this itself.

    Raises:
        Exception: of the first that failed.
    """
    todo = list(calls)
    if len(todo) == 1:
        return [todo[0]()]
    with _making:
        workers = _of_parts.setdefault(os.getpid(), Workers(_AT_ONCE_OF_ALL, "shoal-part"))
    running: deque[Future[_T]] = deque()
    found: list[_T] = []
    try:
        for call in todo:
            if len(running) == _AT_ONCE:
                found.append(running.popleft().result())
            running.append(workers.submit(call))
        while running:
            found.append(running.popleft().result())
    finally:
        for future in running:
            future.cancel()
        for future in running:
            if not future.cancelled():
                future.exception()
    return found
