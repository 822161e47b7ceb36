"""The report in a browser that has no network: everything is drawn, nothing is asked for, nothing goes wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.simulated import write_experiment

from shoal.report import write_report

pytest.importorskip("plotly")
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
_PATHS = "each.querySelectorAll('.main-svg path').length"
"""Lines, bars and markers of a figure that is drawn."""
EVIL = "<img src=x onerror=alert(1)></script>&\"'"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page of a browser without a network, and everything that it complained about or asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(offline=True, **options)
        self.page = self.context.new_page()
        self.trouble: list[str] = []
        self.page.on("console", lambda message: self.trouble.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.trouble.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self._asked(request.url, path.as_uri()))
        self.page.goto(path.as_uri())
        self.until(f"[...document.querySelectorAll('.figure')].every(each => {_PATHS} > 3)")

    def _asked(self, url: str, own: str) -> None:
        if url != own and not url.startswith(("data:", "blob:")):
            self.trouble.append(f"request: {url}")

    def until(self, holds: str) -> None:
        """Wait until something holds in the page. Playwright's own way needs what the page's policy forbids."""
        for _ in range(200):
            if self.page.evaluate(holds):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never came true: {holds}")

    def ink(self) -> list[str]:
        """Return the colour of the text in each figure."""
        colours: list[str] = self.page.evaluate(
            "[...document.querySelectorAll('.figure')].map(each => each._fullLayout.font.color)"
        )
        return colours

    def widths(self) -> list[float]:
        found: list[float] = self.page.evaluate(
            "[...document.querySelectorAll('.figure')].map(each => each._fullLayout.width)"
        )
        return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    experiment = write_experiment(folder / "pbt", facts={"trainable": EVIL, "scheduler": EVIL})
    return write_report(experiment, folder / "report.html")


def test_the_report_draws_all_figures_without_a_network_an_error_or_a_request(browser: Any, report: Path) -> None:
    opened = Opened(browser, report)
    from shoal.plots import PLOTS

    for name in PLOTS:
        box = opened.page.locator(f"#plot-{name} .figure .main-svg").first.bounding_box()
        assert box["width"] > 600
        assert box["height"] > 150
    assert EVIL in opened.page.locator("p.sub").inner_text()
    # Nothing is wider than the window, also on a telephone.
    opened.page.set_viewport_size({"width": 400, "height": 800})
    opened.until("document.documentElement.scrollWidth <= innerWidth")
    assert opened.trouble == []
    opened.context.close()


def test_figures_follow_the_theme_and_paper_is_light(browser: Any, report: Path) -> None:
    opened = Opened(browser, report, color_scheme="light")
    light = opened.ink()
    opened.page.emulate_media(color_scheme="dark")
    opened.until(f"document.querySelector('.figure')._fullLayout.font.color !== {light[0]!r}")
    dark = opened.ink()
    assert all(before != after for before, after in zip(light, dark, strict=True))
    on_screen = opened.widths()
    seen = opened.page.evaluate(
        """() => {
          window.seen = [];
          const look = () => window.seen.push(
            [...document.querySelectorAll(".figure")].map(each => [each._fullLayout.font.color, each._fullLayout.width])
          );
          addEventListener("beforeprint", look);
        }"""
    )
    assert seen is None
    opened.page.pdf(format="A4")
    (printed,) = opened.page.evaluate("window.seen")
    assert [ink for ink, _ in printed] == light
    assert max(width for _, width in printed) < 703  # A4 within the margins
    assert opened.ink() == dark
    assert opened.widths() == on_screen
    assert opened.trouble == []
    opened.context.close()


def test_a_script_that_is_not_the_reports_own_does_not_run(browser: Any, report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    changed = report.with_name("changed.html")
    foreign = "<script>document.title = 'taken over'</script>"
    changed.write_text(text.replace("<main>", f"<main>{foreign}", 1), encoding="utf-8")
    opened = Opened(browser, changed)
    assert opened.page.title() == "pbt: report"
    assert any("Content Security Policy" in line for line in opened.trouble)
    opened.context.close()
