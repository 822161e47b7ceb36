"""Who may look at the dashboard, and what its answers allow a browser to do."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.asking import Client
from tests.simulated import write_experiment

from shoal.dashboard import make_app
from shoal.dashboard.security import is_loopback
from shoal.errors import ConfigError

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("storage")
    write_experiment(root / "one", members=2, steps=3)
    write_experiment(root / "two", members=2, steps=3)
    return root


def client(folder: Path, token: str | None = None) -> Client:
    return Client(make_app(folder, token))


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8787", "localhost:9000", "[::1]:8787", "LOCALHOST", "127.0.0.1", "127.0.0.2:8787"]
)
def test_names_of_this_machine_are_answered_whatever_the_port(folder: Path, host: str) -> None:
    assert client(folder).get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "192.0.2.1",
        "[2001:db8::1]:80",
        "::1",
        "127.0.0.2.evil.example",
        "evil.example",
        "127.0.0.1.evil.example",
        "evil.example:8787",
        "localhost:8787:1",
        "localhost@evil.example",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/e/one/live.json", "/static/page.js"])
def test_a_foreign_name_that_points_here_is_told_nothing(folder: Path, host: str, path: str) -> None:
    answer = client(folder).get(path, headers={"Host": host})
    assert answer.status_code == 421
    assert "one" not in answer.text.split()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("token", [None, TOKEN])
def test_nothing_but_reading_is_answered(folder: Path, method: str, token: str | None) -> None:
    answer = client(folder, token).request(method, "/e/one")
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/", "/e/one", "/e/none", "/static/page.css", "/plotly.min.js", "/e/one/live.json"])
def test_every_answer_says_what_a_browser_may_do_with_it(folder: Path, path: str) -> None:
    headers = client(folder).request("HEAD", path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_pages_are_kept_by_nobody_and_plotly_for_long(folder: Path) -> None:
    asked = client(folder)
    assert asked.get("/e/one").headers["Cache-Control"] == "no-store"
    assert "immutable" in asked.request("HEAD", "/plotly.min.js").headers["Cache-Control"]


# ------------------------------------------------------------------------------------------------------------- a token


@pytest.mark.parametrize("path", ["/", "/e/one", "/e/one/live.json", "/static/page.js", "/plotly.min.js", "/nothing"])
@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong-wrong-wrong", f"?token={TOKEN}x", "?token=%C3%A4"])
def test_without_the_token_nothing_is_answered(folder: Path, path: str, query: str) -> None:
    answer = client(folder, TOKEN).get(path + query)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_the_token_is_shown_once_and_then_a_cookie_lets_in(folder: Path) -> None:
    asked = client(folder, TOKEN)
    first = asked.get(f"/e/one?token={TOKEN}&x=time")
    assert first.status_code == 303
    assert first.headers["Location"] == "/e/one?x=time"
    cookie = first.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert asked.get("/e/one?x=time").status_code == 200
    assert asked.get("/plotly.min.js").status_code == 200


def test_any_host_will_do_with_the_token_because_a_foreign_page_has_no_cookie(folder: Path) -> None:
    asked = client(folder, TOKEN)
    asked.get(f"/?token={TOKEN}")
    assert asked.get("/e/one", headers={"Host": "cluster.example:8787"}).status_code == 200


@pytest.mark.parametrize("cookie", ["", "garbage", "shoal_000000000000=" + TOKEN, "a=b; c=\x7f"])
def test_other_cookies_do_not_let_in(folder: Path, cookie: str) -> None:
    assert client(folder, TOKEN).get("/", headers={"Cookie": cookie}).status_code == 403


def test_two_dashboards_on_one_machine_keep_their_cookies_apart(folder: Path) -> None:
    one = client(folder, TOKEN).get(f"/?token={TOKEN}").headers["Set-Cookie"]
    other = client(folder, "another-token-123").get("/?token=another-token-123").headers["Set-Cookie"]
    assert one.split("=")[0] != other.split("=")[0]


@pytest.mark.parametrize("path", ["//evil.example/", "///evil.example", "/\\evil.example", "/%5Cevil.example"])
def test_the_redirect_never_leads_to_another_host(folder: Path, path: str) -> None:
    answer = client(folder, TOKEN).get(f"{path}?token={TOKEN}")
    assert answer.status_code == 303
    place = urlsplit(answer.headers["Location"])
    assert (place.scheme, place.netloc) == ("", "")
    assert answer.headers["Location"][:2] not in ("//", "/\\")


@pytest.mark.parametrize(
    "token", ["", "short", "with blanks in it", "semi;colon;semi", "0123456789äöü", 123456789012345]
)
def test_a_token_that_is_easy_to_guess_or_no_part_of_an_address_is_refused(folder: Path, token: str) -> None:
    with pytest.raises(ConfigError, match="at least 12 characters"):
        make_app(folder, token)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("localhost", True), ("::1", True), ("0.0.0.0", False),
     ("::", False), ("192.168.0.7", False), ("cluster.example", False), ("", False)],
)  # fmt: skip
def test_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_an_error_of_ours_is_answered_with_the_same_headers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no page")

    monkeypatch.setattr("shoal.dashboard.pages.Pages.overview", fail)
    answer = Client(make_app(folder), raising=False).get("/")
    assert answer.status_code == 500
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
