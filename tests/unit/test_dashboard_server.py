"""Starting and ending the dashboard."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.simulated import write_experiment

from shoal import dashboard
from shoal.dashboard.server import address_of, listen
from shoal.errors import ConfigError, StorageError

SCRIPT = "import sys; from shoal import dashboard; dashboard.serve(sys.argv[1], host=sys.argv[2], port=0)"


@contextlib.contextmanager
def taken() -> Generator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_that_is_taken_is_an_error_that_says_so() -> None:
    with taken() as port, pytest.raises(StorageError, match=f"the port {port} is taken on 127.0.0.1"):
        listen("127.0.0.1", port)


def test_the_next_free_port_is_taken_where_none_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with taken() as port:
        monkeypatch.setattr("shoal.dashboard.server.DEFAULT_PORT", port)
        with contextlib.closing(listen("127.0.0.1", None)) as listening:
            assert port < listening.getsockname()[1] < port + 20


@pytest.mark.parametrize("port", [-1, 65536, True, "8787", 80.0])
def test_what_is_no_port_is_refused(port: Any) -> None:
    with pytest.raises(ConfigError, match="port must be a whole number from 0"):
        listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host.invalid"])
def test_an_address_that_is_not_this_machines_is_refused(host: str) -> None:
    with pytest.raises(StorageError, match=r"cannot listen at .*one of this machine's"):
        listen(host, 0)


@pytest.mark.parametrize(
    ("host", "token", "address"),
    [("127.0.0.1", None, "http://127.0.0.1:80/"), ("::1", None, "http://[::1]:80/"),
     ("10.0.0.1", "abc", "http://10.0.0.1:80/?token=abc"), ("0.0.0.0", None, f"http://{socket.gethostname()}:80/")],
)  # fmt: skip
def test_the_address_is_one_to_click_on(host: str, token: str | None, address: str) -> None:
    assert address_of(host, 80, token) == address


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> Any:
        return None if name in ("starlette", "uvicorn") else original(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(ImportError, match=r"starlette and uvicorn: pip install 'shoal\[dashboard\]'"):
        dashboard.make_app(".")


def test_importing_the_package_loads_nothing_that_it_needs_later() -> None:
    code = "import sys, shoal.dashboard; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"starlette", "uvicorn", "jinja2", "plotly"} & set(loaded)


def start(folder: Path, host: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), host], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline()


def ask(line: str, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    found = re.search(r"http://[^:/]+:(\d+)", line)
    assert found is not None, line
    return httpx.get(f"http://127.0.0.1:{found[1]}{path}", headers=headers, timeout=30, trust_env=False)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_ends_silently(tmp_path: Path, how: signal.Signals) -> None:
    write_experiment(tmp_path / "one", members=2, steps=3)
    process, line = start(tmp_path, "127.0.0.1")
    try:
        answer = ask(line, "/e/one")
        assert answer.status_code == 200
        assert "one" in answer.text
        assert "server" not in answer.headers
        process.send_signal(how)
        assert process.stdout is not None
        assert process.stdout.readline() == "Ctrl-C ends it.\n"
        out, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (out, errors) == ("", "")
    assert process.returncode in (0, -signal.SIGTERM)


def test_what_others_reach_has_a_token_that_is_made(tmp_path: Path) -> None:
    process, line = start(tmp_path, "0.0.0.0")
    try:
        token = re.search(r"\?token=([\w-]{24,})$", line.strip())
        assert token is not None
        assert ask(line, "/").status_code == 403
        entered = ask(line, f"/?token={token[1]}")
        assert entered.status_code == 303
        cookie = entered.headers["Set-Cookie"].partition(";")[0]
        answer = ask(line, "/", {"Cookie": cookie, "Accept-Encoding": "gzip"})
        assert answer.status_code == 200
        assert answer.headers["Content-Encoding"] == "gzip"
    finally:
        process.terminate()
        process.communicate(timeout=30)
