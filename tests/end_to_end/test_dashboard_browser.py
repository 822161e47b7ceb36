"""The dashboard in a real browser: what people see and what they do."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests.growing import Growing
from tests.simulated import write_experiment

from shoal.core.commands import Exploit
from shoal.dashboard.app import build
from shoal.dashboard.live import key_of
from shoal.dashboard.server import listen
from shoal.reading import Experiment

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)

EVIL = "<img src=x onerror=document.title='caught'>"
PAGES = ("/", "/e/first", "/e/first/t/3", "/compare?a=first&b=second")
ENOUGH = 20_000
"""Milliseconds to wait for something at most."""


@contextlib.contextmanager
def serving(folder: Path, token: str | None = None) -> Generator[str]:
    """Serve the page of a folder in a thread, and give its address."""
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        build(folder, token, max_age=0.05), log_level="error", lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


@dataclass
class Watched:
    """A page, and what went wrong in it. As a context, it closes the page, which then asks for nothing any more."""

    page: Any
    home: str
    problems: list[str] = field(default_factory=list[str])
    foreign: list[str] = field(default_factory=list[str])

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.page.close()

    def open(self, path: str) -> Any:
        # Scripts have run then; plotly.js, which most pages want only later, may still be on its way.
        self.page.goto(self.home + path, wait_until="domcontentloaded")
        return self.page

    def ask(self, url: str) -> None:
        """Take in that the page asks for something."""
        if not url.startswith((self.home, "data:", "blob:")):
            self.foreign.append(url)

    def refuse(self, dialog: Any) -> None:
        """Take in that a script of somebody's runs."""
        self.problems.append(dialog.message)
        dialog.dismiss()

    def drawn(self, name: str) -> Any:
        """Scroll to a plot, wait until it is drawn, and return it."""
        place = self.page.locator(f'[data-plot="{name}"]')
        place.scroll_into_view_if_needed()
        self.page.wait_for_selector(f'[data-plot="{name}"].drawn .main-svg', timeout=ENOUGH)
        return place


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("storage")
    write_experiment(root / "first", members=8, steps=30, files=True)
    write_experiment(root / "second", members=4, steps=20, seed=5)
    write_experiment(
        root / EVIL.replace("/", ""),
        members=16,
        steps=12,
        files=True,
        facts={"trainable": EVIL, "parameters": ["lr", "activation", EVIL], "scheduler": "</script><script>1"},
    )
    return root


@pytest.fixture(scope="module")
def home(storage: Path) -> Generator[str]:
    with serving(storage) as address:
        yield address


VIEWPORT: Any = {"width": 1280, "height": 900}
Open = Callable[..., Watched]


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Generator[Any]:
    """A profile that keeps what it has loaded, as people's does."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=CHROMIUM, args=["--no-sandbox"], viewport=VIEWPORT
        )
        yield context
        context.close()


@pytest.fixture
def opened(profile: Any, home: str) -> Generator[Open]:
    """Opens pages that may complain about nothing, and ask nobody but the server."""
    seen: list[Watched] = []

    def open_page(address: str = home) -> Watched:
        watched = Watched(profile.new_page(), address)
        page = watched.page
        page.set_default_timeout(ENOUGH)
        page.on("console", lambda message: watched.problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: watched.problems.append(str(error)))
        page.on("dialog", watched.refuse)
        page.on("request", lambda request: watched.ask(request.url))
        seen.append(watched)
        return watched

    yield open_page
    for watched in seen:
        watched.page.close()
    for watched in seen:
        assert watched.problems == []
        assert watched.foreign == []


def test_an_experiment_is_there_before_the_plots_and_the_plots_follow(opened: Open, tmp_path: Path) -> None:
    watched = opened()
    page = watched.open("/e/first")
    assert page.locator("#members tr").count() == 8
    assert page.locator("#members tr.best .star").is_visible()
    for name in ("learning-curves", "lineage", "schedules", "ancestry", "diversity", "times", "gains"):
        plot = watched.drawn(name)
        assert plot.bounding_box()["height"] > 150
        assert page.locator(f"#plot-{name} .said b").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_pages_are_light_or_dark_as_the_reader_has_it(opened: Open) -> None:
    watched = opened()
    for path in PAGES:
        page = watched.open(path)
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            for element in ("body", ".panel"):
                colour = page.evaluate(f"getComputedStyle(document.querySelector('{element}')).backgroundColor")
                brightness = sum(int(part) for part in re.findall(r"\d+", colour)[:3])
                assert (brightness > 600) is (theme == "light"), (path, element)


def test_the_theme_can_be_switched_and_is_remembered(opened: Open) -> None:
    watched = opened()
    watched.page.emulate_media(color_scheme="light")
    page = watched.open("/e/first")
    watched.drawn("learning-curves")
    ink = "document.querySelector('[data-plot=\"learning-curves\"] .xtick text').style.fill"
    before = page.evaluate(ink)
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.wait_for_selector('[data-plot="learning-curves"]')
    until(page, lambda: page.evaluate(ink) != before)
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.evaluate("localStorage.clear()")  # the profile is shared


def hurry(page: Any) -> None:
    """Have a page ask at once for what is new, as it does when it comes into view again."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def until(page: Any, holds: Callable[[], bool], hurried: bool = False) -> None:
    """Wait until something holds."""
    for _ in range(ENOUGH // 50):
        if hurried:
            hurry(page)
        if holds():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it never came to that")


def test_an_open_page_follows_an_experiment_and_leaves_the_reader_alone(opened: Open, storage: Path) -> None:
    growing = Growing(storage / "first", storage / "growing")
    growing.grow(part=0.4)
    with opened() as watched:
        page = watched.open("/e/growing")
        watched.drawn("learning-curves")
        assert page.locator("#status .mark").inner_text().endswith("running")
        page.wait_for_selector("#live[data-kind=live]")
        # The reader sorts, zooms, selects and scrolls.
        page.get_by_role("button", name="accuracy").click()
        plot = "document.querySelector('[data-plot=\"learning-curves\"]')"
        page.locator('[data-plot="learning-curves"]').scroll_into_view_if_needed()
        box = page.locator('[data-plot="learning-curves"] .nsewdrag').bounding_box()
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.5 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
        page.mouse.up()
        chosen = f"{plot}.layout.xaxis.range.map(each => each.toFixed(3)).join()"
        until(page, lambda: page.evaluate(f"{plot}.layout.xaxis.range[0] > 1"))
        zoomed = page.evaluate(chosen)
        page.evaluate("getSelection().selectAllChildren(document.querySelector('#best .lead'))")
        selected = page.evaluate("getSelection().toString()")
        place = page.locator("#plot-learning-curves").bounding_box()["y"]
        points = f"{plot}.data.reduce((sum, trace) => sum + trace.x.length, 0)"
        before = page.evaluate(points)
        results = page.locator("#facts").inner_text()
        growing.grow(part=0.9)
        hurry(page)
        until(page, lambda: page.locator("#facts").inner_text() != results)
        until(page, lambda: page.evaluate(points) > before)
        assert page.evaluate(chosen) == zoomed
        assert page.evaluate("getSelection().toString()") == selected
        assert abs(page.locator("#plot-learning-curves").bounding_box()["y"] - place) <= 1
        scores = [float(text) for text in page.locator("#members td:nth-child(4)").all_inner_texts()]
        assert scores == sorted(scores, reverse=True)
        page.mouse.dblclick(box["x"] + 0.9 * box["width"], box["y"] + 0.1 * box["height"])
        until(page, lambda: page.evaluate(chosen) != zoomed)
        growing.grow()
        growing.close()
        hurry(page)
        page.wait_for_selector("#status .mark.ended")
        # What is there in the end is what a new page shows.
        page.evaluate("getSelection().removeAllRanges()")
        with opened() as fresh:
            fresh.open("/e/growing")
            whole = fresh.page.locator("#best").inner_text()
            until(page, lambda: page.locator("#best").inner_text() == whole, hurried=True)
            assert page.locator("#facts").inner_text() == fresh.page.locator("#facts").inner_text()


def test_a_click_in_the_lineage_tree_leads_to_the_member(opened: Open) -> None:
    watched = opened()
    page = watched.open("/e/first")
    watched.drawn("lineage")
    place = page.evaluate(
        """() => {
            const plot = document.querySelector('[data-plot="lineage"]');
            for (const trace of plot.data) {
                const data = trace.customdata || [];
                const is = (each, i) => (Array.isArray(each) ? each[0] : each) === 3 && trace.y[i] !== null;
                const at = data.findIndex(is);
                if (at < 0) continue;
                const box = plot.querySelector('.nsewdrag').getBoundingClientRect();
                const {xaxis, yaxis} = plot._fullLayout;
                return {x: box.x + xaxis.d2p(trace.x[at]) + 4, y: box.y + yaxis.d2p(trace.y[at])};
            }
            return null;
        }"""
    )
    assert place is not None
    page.mouse.move(place["x"], place["y"])
    page.mouse.move(place["x"] + 1, place["y"])
    page.wait_for_selector('[data-plot="lineage"] .hoverlayer *', state="attached")
    page.mouse.click(place["x"] + 1, place["y"])
    page.wait_for_url(re.compile(r"/e/first/t/\d+$"))
    assert page.locator("h1").inner_text() == "Member 3"


def test_members_are_reached_by_the_keyboard_and_followed_through_their_lineage(opened: Open, storage: Path) -> None:
    experiment = Experiment.open(storage / "first")
    exploit: Exploit = experiment.history.exploits[-1]
    member, donor = (experiment.history.trials[each].index for each in (exploit.trial_id, exploit.donor_id))
    watched = opened()
    page = watched.open("/e/first")
    page.locator(f"#m-{member} a").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/t/{member}")
    assert f"I am trial_0000{member}" in page.locator("#log").inner_text()
    assert page.locator("#config tr.changed").count() >= 1
    watched.drawn("ancestry")
    page.locator("#changes").get_by_role("link", name=str(donor), exact=True).first.click()
    page.wait_for_url(f"**/t/{donor}")


READ = """(() => {
    const log = document.querySelector('#log .follow'), edge = log.getBoundingClientRect().top;
    const line = [...log.children].find((each) => each.getBoundingClientRect().bottom > edge + 1);
    return `${line.textContent} at ${Math.round(line.getBoundingClientRect().top - edge)}`;
})()"""
"""The first line of the log that can be seen, and where it stands."""


def test_a_log_is_followed_while_it_grows(opened: Open, storage: Path) -> None:
    growing = Growing(storage / "first", storage / "logging")
    growing.grow(part=0.4)
    log = storage / "logging" / "trial_00000" / "output.log"
    log.parent.mkdir()
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    with opened() as watched:
        page = watched.open("/e/logging/t/0")
        page.wait_for_selector("#log")
        assert page.locator("#log .l").last.inner_text() == "line 99"
        with log.open("a") as file:
            file.write(f"{EVIL}\n")
        until(page, lambda: page.locator("#log .l").last.inner_text() == EVIL, hurried=True)
        assert page.evaluate(
            "(log => log.scrollHeight - log.scrollTop - log.clientHeight < 8)(document.querySelector('#log .follow'))"
        )
        assert page.locator("main img").count() == 0
        # Who reads further up keeps his line, also where the first ones are left out.
        page.evaluate("document.querySelector('#log .follow').scrollTop = 700")
        read = page.evaluate(READ)
        with log.open("a") as file:
            file.write("".join(f"line {number}\n" for number in range(100, 230)))
        until(page, lambda: page.locator("#log .l").last.inner_text() == "line 229", hurried=True)
        assert page.evaluate(READ) == read
        with log.open("a") as file:
            file.write("".join(f"line {number}\n" for number in range(230, 310)))
        until(page, lambda: page.locator("#log .l").last.inner_text() == "line 309", hurried=True)
        assert page.locator("#log .l").first.inner_text() != "line 0"
        assert page.evaluate(READ) == read
    growing.close()


def test_two_experiments_are_compared(opened: Open) -> None:
    watched = opened()
    page = watched.open("/")
    page.locator("select[name=a]").select_option("first")
    page.locator("select[name=b]").select_option("second")
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/compare?a=first&b=second")
    for name in ("winners", "best-so-far"):
        watched.drawn(name)
        names = page.evaluate(f"document.querySelector('[data-plot=\"{name}\"]').data.map(trace => trace.name)")
        assert names == ["first", "second"]
    page.get_by_text("time", exact=True).first.click()
    until(page, lambda: "time" in page.locator('[data-plot="winners"] .xtitle').text_content())


def test_what_users_have_named_runs_nowhere(opened: Open) -> None:
    watched = opened()
    page = watched.open("/")
    page.get_by_role("link", name=EVIL.replace("/", "")).click()
    page.wait_for_url(f"**/e/{key_of(EVIL.replace('/', ''))}")
    for name in ("learning-curves", "lineage", "schedules", "ancestry", "diversity", "times", "gains"):
        place = page.locator(f'[data-plot="{name}"]')
        place.scroll_into_view_if_needed()
        page.wait_for_selector(f'[data-plot="{name}"].drawn, [data-plot="{name}"] .wait:not(:text("…"))')
    assert page.locator("main img").count() == 0
    assert page.locator("main script").count() == 0
    assert "caught" not in page.title().replace(EVIL.replace("/", ""), "")
    assert EVIL in page.locator(".sub").inner_text()


def test_a_long_table_is_filtered(opened: Open) -> None:
    watched = opened()
    page = watched.open(f"/e/{key_of(EVIL.replace('/', ''))}")
    rows = page.locator("#members tr:visible")
    assert rows.count() == 16
    page.get_by_placeholder("number, state, value").fill("tanh")
    assert 0 < rows.count() < 16
    page.get_by_placeholder("number, state, value").fill("nothing like that")
    assert rows.count() == 0


def test_a_lost_connection_and_a_deleted_experiment_are_told(opened: Open, storage: Path) -> None:
    folder = write_experiment(storage / "gone", members=2, steps=4)
    with opened() as watched:
        page = watched.open("/e/gone")
        page.wait_for_selector("#live[data-kind=idle]")
        shutil.rmtree(folder)
        hurry(page)
        page.wait_for_selector("#gone")
        assert "deleted" in page.locator("#gone").inner_text()
        page.route("**/live.json*", lambda route: route.abort())
        hurry(page)
        until(page, lambda: "connection lost" in page.locator("#live").inner_text())
        # The browser itself reports what was missing: that is no error of the page.
        watched.problems[:] = [each for each in watched.problems if "Failed to load resource" not in each]


SEEN = {
    "/": ("#x-second td:nth-child(3) b", "#x-second .mark"),
    "/e/first": ("#exploits tbody .changes",),
}


def test_a_phone_shows_it_without_scrolling_sideways(opened: Open) -> None:
    watched = opened()
    watched.page.set_viewport_size({"width": 390, "height": 800})
    for path in PAGES:
        page = watched.open(path)
        if path == "/e/first":
            page.locator("[data-plot]").first.scroll_into_view_if_needed()
            page.wait_for_selector(".main-svg")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        # What counts is there without scrolling tables, either.
        for place in SEEN.get(path, ()):
            assert right_of(page, place) <= 390


def right_of(page: Any, place: str) -> float:
    """Return where the first such element ends, in pixels from the left."""
    box = page.locator(place).first.bounding_box()
    return float(box["x"] + box["width"])


def test_the_token_lets_a_browser_in(opened: Open, storage: Path) -> None:
    with serving(storage, "0123456789abcdef") as address, opened(address) as watched:
        page = watched.open("/e/first?token=0123456789abcdef")
        assert page.url == f"{address}/e/first"
        page.wait_for_selector("#live[data-kind=idle]")
        assert page.locator("#members tr").count() == 8


def test_another_experiment_of_the_same_name_takes_the_place_of_the_first(opened: Open, storage: Path) -> None:
    folder = write_experiment(storage / "same", members=2, steps=4)
    with opened() as watched:
        page = watched.open("/e/same")
        page.wait_for_selector("#members tr:nth-child(2)")
        shutil.rmtree(folder)
        write_experiment(folder, members=3, steps=4, facts={"run_id": "abcde", "parameters": ["momentum"]})
        until(page, lambda: page.locator("#members tr").count() == 3, hurried=True)
        titles = page.locator("table.sortable th[scope=col]").all_inner_texts()
        assert titles == ["member", "state", "iteration", "accuracy", "momentum", "exploits", "trained"]
        # A moment without it is not told as an error by the page, but by the browser.
        watched.problems[:] = [each for each in watched.problems if "Failed to load resource" not in each]
