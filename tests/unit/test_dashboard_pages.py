"""What the dashboard's pages say, and how they escape what users have named."""

from __future__ import annotations

import gzip
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.asking import Client
from tests.growing import Growing
from tests.simulated import pbt, write_experiment

from shoal.core.commands import Status
from shoal.dashboard import make_app
from shoal.dashboard.app import build
from shoal.dashboard.lighter import lighter
from shoal.dashboard.live import key_of
from shoal.plots import PLOTS
from shoal.reading import Experiment

EVIL = "<img src=x onerror=alert(1)>"
QUOTE = "\"><script>alert(2)</script>'"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("storage")
    write_experiment(root / "first", members=4, steps=20, files=True)
    write_experiment(root / "second", members=3, steps=15, seed=5)
    return root


@pytest.fixture(scope="module")
def client(storage: Path) -> Client:
    asked = Client(make_app(storage))
    for name in ("first", "second"):
        ready(asked, f"/e/{name}")
    return asked


def ready(asked: Client, page: str) -> None:
    """Wait until the experiment of a page was read."""
    for _ in range(2000):
        if asked.get(f"{page}/live.json").headers["X-Shoal-State"] != "reading":
            return
    raise AssertionError("it was never read")


def text_of(page: str) -> str:
    """Return what a page shows, without its markup."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def figure(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["Content-Encoding"] == "gzip"
    found: dict[str, Any] = answer.json()
    return found


def test_the_overview_lists_the_experiments_with_what_is_known_of_them(client: Client) -> None:
    page = text_of(client.get("/").text)
    for word in ("first", "second", "ended", "accuracy", "2023-11-1"):
        assert word in page
    assert 'href="/e/first"' in client.get("/").text


def test_the_page_of_an_experiment_shows_its_members_before_any_script_runs(client: Client, storage: Path) -> None:
    answer = client.get("/e/first")
    experiment = Experiment.open(storage / "first")
    best = experiment.best
    assert best is not None
    for trial in experiment.history.in_order():
        assert f'href="/e/first/t/{trial.index}"' in answer.text
    row = re.search(r'<tr id="m-(\d+)" class="best">', answer.text)
    assert row is not None
    assert int(row[1]) == best.index
    page = text_of(answer.text)
    assert f"exploits {experiment.history.perturbations}" in page
    assert repr(best.config["lr"]) in page


def test_a_page_has_no_script_and_no_handler_of_its_own(client: Client) -> None:
    for path in ("/", "/e/first", "/e/first/t/1", "/compare?a=first&b=second"):
        page = client.get(path).text
        assert re.findall(r"<script(?![^>]* src=)", page) == []
        assert re.findall(r"<[^>]+ on[a-z]+=", page) == []
        assert "http://" not in page
        assert "https://" not in page


def test_the_page_of_a_member_shows_config_lineage_log_and_checkpoints(client: Client, storage: Path) -> None:
    experiment = Experiment.open(storage / "first")
    trial = next(each for each in experiment.history.in_order() if each.exploits)
    page = text_of(client.get(f"/e/first/t/{trial.index}").text)
    assert repr(trial.config["lr"]) in page
    assert repr(trial.initial_config["lr"]) in page
    assert f"I am {trial.trial_id}" in page
    donor = experiment.history.trials[trial.exploits[-1].donor_id]
    assert f'href="/e/first/t/{donor.index}"' in client.get(f"/e/first/t/{trial.index}").text
    for entry in trial.checkpoints.values():
        assert f"checkpoint_{entry.saved.number:06d}" in page
    assert "not on this disk" not in page
    assert client.get(f"/e/first/t/{trial.trial_id}").status_code == 200


def test_checkpoints_that_are_not_there_are_told(client: Client) -> None:
    assert "not on this disk" in text_of(client.get("/e/second/t/0").text)


def test_two_experiments_are_compared_side_by_side(client: Client) -> None:
    page = text_of(client.get("/compare?a=first&b=second").text)
    assert "members 4 3" in page
    for name in ("winners", "best-so-far"):
        spec = figure(client.get(f"/compare/figures/{name}.json?a=first&b=second&theme=dark&x=time"))
        assert [trace["name"] for trace in spec["data"]] == ["first", "second"]
        assert all(len(trace["x"]) == len(trace["y"]) > 2 for trace in spec["data"])


def test_the_best_so_far_never_becomes_worse(client: Client) -> None:
    spec = figure(client.get("/compare/figures/best-so-far.json?a=first&b=second"))
    for trace in spec["data"]:
        values = [value for value in trace["y"] if value is not None]
        assert values == sorted(values)


def test_scores_that_are_not_the_same_thing_are_not_drawn_over_each_other(tmp_path: Path) -> None:
    write_experiment(tmp_path / "up", members=2, steps=4)
    write_experiment(tmp_path / "down", members=2, steps=4, scheduler=pbt(metric="loss", mode="min"))
    asked = Client(make_app(tmp_path))
    ready(asked, "/e/up")
    ready(asked, "/e/down")
    assert "no common axis" in figure(asked.get("/compare/figures/winners.json?a=up&b=down"))["message"]
    assert asked.get("/compare?a=up&b=down").status_code == 200


@pytest.mark.parametrize("path", ["/compare", "/compare?a=first", "/compare?a=&b="])
def test_a_comparison_without_two_experiments_asks_for_them(client: Client, path: str) -> None:
    assert "Choose two" in text_of(client.get(path).text)


@pytest.mark.parametrize(
    "path",
    ["/e/none", "/e/none/live.json", "/e/first/t/99", "/e/first/t/x", "/e/first/figures/none.json", "/nothing",
     "/compare?a=none&b=first", "/static/none.js", "/static/..%2Fapp.py", "/static/%2e%2e/app.py",
     "/e/..%2Ffirst", "/e/first/t/..%2F..%2Fsecond", "/e/%00", "/e/.", "/compare/figures/none.json?a=first&b=second",
     "/e/first/figures/winners.json", "/e/first/figures/ancestry.json?trial=zzz", "/e/first/t/99/live.json"],
)  # fmt: skip
def test_what_is_not_there_is_a_friendly_404(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    if ".json" in path:
        assert answer.json()["problem"]
    else:
        assert "<h1>There is nothing here.</h1>" in answer.text


def test_a_folder_without_experiments_says_so_and_fills_when_they_come(tmp_path: Path) -> None:
    asked = Client(make_app(tmp_path / "not there yet"))
    assert "not there yet" in text_of(asked.get("/").text)
    assert "No experiments yet" in asked.get("/").text


def test_the_page_of_one_experiment_is_the_first_where_the_folder_is_one(storage: Path) -> None:
    answer = Client(make_app(storage / "first")).get("/")
    assert answer.status_code == 307
    assert answer.headers["Location"] == "/e/first"


# ---------------------------------------------------------------------------------------------------------------- live


def test_an_open_page_is_sent_only_what_has_changed(storage: Path, tmp_path: Path) -> None:
    growing = Growing(storage / "first", tmp_path / "growing")
    growing.grow(part=0.8)
    asked = Client(build(tmp_path / "growing", max_age=0.0))
    ready(asked, "/e/growing")
    have = re.search(r'data-have="([^"]+)"', asked.get("/e/growing").text)
    assert have is not None
    assert asked.get(f"/e/growing/live.json?have={have[1]}").status_code == 204
    before = len(asked.get("/e/growing/live.json").json()["blocks"])
    growing.grow(count=4)
    answer = asked.get(f"/e/growing/live.json?have={have[1]}")
    update = answer.json()
    assert 0 < len(update["blocks"]) < before
    assert answer.headers["X-Shoal-State"] == "running"
    assert asked.get(f"/e/growing/live.json?have={update['version']}").status_code == 204
    growing.grow()
    growing.close()
    answer = asked.get(f"/e/growing/live.json?have={update['version']}")
    assert answer.headers["X-Shoal-State"] == "ended"
    assert "ended" in answer.json()["blocks"]["status"]


def test_an_experiment_that_is_deleted_while_somebody_looks_is_told_gone(tmp_path: Path) -> None:
    write_experiment(tmp_path / "gone", members=2, steps=3)
    asked = Client(build(tmp_path, max_age=0.0))
    ready(asked, "/e/gone")
    shutil.rmtree(tmp_path / "gone")
    answer = asked.get("/e/gone/live.json")
    assert answer.status_code == 404
    assert "deleted" in answer.json()["problem"]


def test_a_damaged_experiment_is_told_and_the_others_are_shown(tmp_path: Path) -> None:
    write_experiment(tmp_path / "good", members=2, steps=3)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "journal.sqlite").write_bytes(b"no journal at all")
    asked = Client(make_app(tmp_path))
    ready(asked, "/e/bad")
    ready(asked, "/e/good")
    assert "cannot be read" in text_of(asked.get("/e/bad").text)
    page = text_of(asked.get("/").text)
    assert "damaged" in page
    assert "good" in page


# -------------------------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize("name", list(PLOTS))
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_plot_is_served_as_plain_json(client: Client, name: str, theme: str) -> None:
    answer = client.get(f"/e/first/figures/{name}.json?theme={theme}&x=time")
    spec = figure(answer)
    assert spec["data"]
    assert spec["layout"]["uirevision"]
    assert "title" not in spec["layout"]
    assert spec["layout"]["meta"]["title"]
    version = answer.headers["X-Shoal-Version"]
    assert client.get(f"/e/first/figures/{name}.json?theme={theme}&x=time&have={version}").status_code == 204


def test_a_plot_with_nothing_to_draw_says_why(tmp_path: Path) -> None:
    growing = Growing(write_experiment(tmp_path / "whole", members=2, steps=3), tmp_path / "live" / "new")
    growing.grow(count=3)
    asked = Client(make_app(tmp_path / "live"))
    ready(asked, "/e/new")
    for name in PLOTS:
        assert "no result yet" in figure(asked.get(f"/e/new/figures/{name}.json"))["message"]
    assert asked.get("/e/new").status_code == 200
    assert asked.get("/e/new/t/0").status_code == 200
    growing.close()


def test_a_plot_that_fails_leaves_the_others_alone(client: Client, storage: Path, monkeypatch: Any) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("oh <b>no</b>")

    monkeypatch.setattr("shoal.plots.specs_tree.lineage_spec", fail)
    asked = Client(make_app(storage))
    ready(asked, "/e/first")
    assert "oh <b>no</b>" in figure(asked.get("/e/first/figures/lineage.json"))["message"]
    assert "data" in figure(asked.get("/e/first/figures/times.json"))


@pytest.mark.parametrize("query", ["theme=evil", "x=../../etc", "x=", "have=%00"])
def test_what_no_page_asks_for_does_no_harm(client: Client, query: str) -> None:
    assert figure(client.get(f"/e/first/figures/ancestry.json?{query}"))["data"]


# ------------------------------------------------------------------------------------------------------------- escaping


class Markup(HTMLParser):
    """Collects the tags of a page and where their attributes lead."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> tuple[Client, str]:
    root = tmp_path_factory.mktemp("evil")
    name = "<script>alert(3)<" + "b>"
    folder = write_experiment(
        root / name,
        members=3,
        steps=8,
        files=True,
        facts={
            "trainable": EVIL,
            "scheduler": QUOTE,
            "parameters": ["lr", EVIL],
        },
    )
    write_experiment(root / "plain", members=2, steps=4)
    (folder / "trial_00000" / "output.log").write_text(f"{EVIL}\n{QUOTE}\n</pre></div>\n")
    asked = Client(make_app(root))
    ready(asked, f"/e/{key_of(name)}")
    ready(asked, "/e/plain")
    return asked, key_of(name)


def test_what_users_have_named_is_text_on_every_page(evil: tuple[Client, str]) -> None:
    asked, key = evil
    pages = ["/", f"/e/{key}", f"/e/{key}/t/0", f"/compare?a={key}&b=plain", f"/compare?a={QUOTE}&b={EVIL}"]
    for path in pages:
        page = asked.get(path)
        found = Markup()
        found.feed(page.text)
        assert "img" not in {tag for tag, _ in found.tags}
        scripts = [attributes for tag, attributes in found.tags if tag == "script"]
        assert all((attributes.get("src") or "").startswith("/static/") for attributes in scripts)
        assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert EVIL in html.unescape(asked.get(f"/e/{key}/t/0").text)
    assert EVIL in html.unescape(asked.get(f"/e/{key}").text)


def test_what_is_sent_to_open_pages_is_escaped_as_well(evil: tuple[Client, str]) -> None:
    asked, key = evil
    for path in ("/live.json", f"/e/{key}/live.json", f"/e/{key}/t/0/live.json", f"/compare/live.json?a={key}&b=plain"):
        blocks = asked.get(path).json()["blocks"]
        for block in blocks.values():
            assert "<img" not in block
            assert "<script" not in block


def test_names_in_plots_are_escaped_for_plotly(evil: tuple[Client, str]) -> None:
    asked, key = evil
    for path in (f"/compare/figures/winners.json?a={key}&b=plain", f"/e/{key}/figures/schedules.json"):
        answer = asked.get(path)
        shown = {**figure(answer)}
        shown.get("layout", {}).pop("meta", None)  # plain text, and shown as that
        assert "<img" not in json.dumps(shown)
        assert "<script" not in json.dumps(shown)


def test_figures_are_compressed_once_and_can_be_read(client: Client, monkeypatch: Any) -> None:
    calls: list[int] = []
    original = gzip.compress

    def spy(data: bytes, *args: Any, **options: Any) -> bytes:
        calls.append(len(data))
        return original(data, *args, **options)

    monkeypatch.setattr("shoal.dashboard.figures.gzip.compress", spy)
    for _ in range(3):
        figure(client.get("/e/second/figures/times.json?theme=dark"))
    assert len(calls) == 1


def test_a_member_that_failed_tells_why(tmp_path: Path) -> None:
    source = write_experiment(tmp_path / "whole", members=2, steps=6)
    growing = Growing(source, tmp_path / "live" / "failing")
    growing.grow(part=0.5)
    growing.fail(0, f"ValueError: {EVIL}", "Traceback of mine")
    asked = Client(make_app(tmp_path / "live"))
    ready(asked, "/e/failing")
    page = text_of(asked.get("/e/failing/t/0").text)
    assert "Why it failed" in page
    assert "Traceback of mine" in page
    assert "✕ failed" in text_of(asked.get("/e/failing").text)
    assert Experiment.open(growing.folder).history.in_order()[0].status is Status.ERROR
    growing.close()


def test_names_that_no_encoding_knows_are_shown_as_far_as_they_can_be(tmp_path: Path) -> None:
    name = "odd\udcff\u2028name"
    write_experiment(tmp_path / name, members=2, steps=4, facts={"trainable": "half \ud800 a character"})
    asked = Client(make_app(tmp_path))
    page = f"/e/{key_of(name)}"
    ready(asked, page)
    for path in ("/", page, f"{page}/t/1", "/live.json", f"{page}/live.json"):
        assert asked.get(path).status_code == 200
    assert "odd�" in asked.get("/").text


def line(count: int, **more: Any) -> dict[str, Any]:
    """Return a trace of so many pieces."""
    points = [(place, place % 7) for place in range(count)]
    x = [value for at, _ in points for value in (at, at + 1, None)]
    y = [value for _, height in points for value in (height, 0.5, None)]
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "hoverinfo": "skip", "line": {"width": 2}, **more}


AXES: dict[str, Any] = {"xaxis": {"range": [0, 1]}, "yaxis": {"range": [0, 1]}}


def test_lines_of_many_pieces_behind_all_others_are_sent_as_one_element() -> None:
    before = [line(200, opacity=0.5), line(2), line(300, hoverinfo="text"), line(300)]
    data, layout = lighter(before, AXES)
    assert data == before[2:]
    path = layout["shapes"][0]["path"]
    assert path.startswith("M0,0L1,0.5M1,1L2,0.5M2,2")
    assert path.count("M") == path.count("L") == 200
    assert [shape["opacity"] for shape in layout["shapes"]] == [0.5, 1]
    assert "shapes" not in AXES


@pytest.mark.parametrize(
    "trace",
    [line(20), line(200, hoverinfo="all"), line(200, mode="lines+markers"), line(200, line={"shape": "hv"}),
     line(200, yaxis="y2"), line(200, fill="tozeroy")],
)  # fmt: skip
def test_other_lines_stay_what_they_are(trace: dict[str, Any]) -> None:
    data, layout = lighter([trace], {**AXES, "yaxis2": {"type": "log", "range": [0, 1]}})
    assert data == [trace]
    assert "shapes" not in layout


TURNED = "gnp.\u202egpj\u2066.exe"


def test_names_do_not_turn_around_what_stands_behind_them(tmp_path: Path) -> None:
    folder = write_experiment(
        tmp_path / TURNED, members=2, steps=4, files=True, facts={"trainable": TURNED, "parameters": ["lr", TURNED]}
    )
    (folder / "trial_00000" / "output.log").write_text(f"{TURNED}\n")
    asked = Client(make_app(tmp_path))
    page = f"/e/{key_of(TURNED)}"
    ready(asked, page)
    for path in ("/", page, f"{page}/t/0", f"/compare?a={key_of(TURNED)}&b={key_of(TURNED)}"):
        text = asked.get(path).text
        assert "gnp.gpj.exe" in text
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", text)


def test_more_results_than_steps_are_explained(tmp_path: Path) -> None:
    write_experiment(tmp_path / "again", members=6, steps=30, scheduler=pbt(perturbation_interval=4))
    write_experiment(tmp_path / "once", members=2, steps=3)
    asked = Client(make_app(tmp_path))
    for name, told in (("again", True), ("once", False)):
        ready(asked, f"/e/{name}")
        assert ("some steps were trained again" in text_of(asked.get(f"/e/{name}").text)) is told
    history = Experiment.open(tmp_path / "again").history
    assert history.results > 6 * 30
