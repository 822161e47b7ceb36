"""The report's page: its head, its style, and how figures get into it. What it says is in :mod:`shoal.report`."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .display.html import STYLE, Html, element, joined, raw
from .errors import ConfigError, ResultError, one_line
from .reading import Experiment

__all__ = [
    "Figure",
    "can_be_interactive",
    "differences",
    "figures_of",
    "page",
    "plotly_script",
    "safe_json",
    "without_title",
]

_POINTS = 300
"""Points of a line in an interactive figure."""
_LARGEST_SVG = 1_500_000
"""Bytes of a picture; one that is larger is made of pixels."""
_DPI = 150
_TITLE, _NOTE_LINE = 44, 16
"""Pixels that the title of an interactive figure takes with a line of its note, and what each further line takes."""
_NEEDS = "A report draws its figures with plotly or matplotlib"


@dataclass(frozen=True, slots=True)
class Figure:
    """One plot of the report."""

    name: str
    title: str
    explanation: str
    """How it is to be read."""
    body: Html
    """The picture, or why there is none."""
    data: Html
    """What its script needs; empty where there is none."""
    note: str = ""
    """What stands below the title."""
    titled: bool = False
    """Whether the picture has its title in it."""


def can_be_interactive(interactive: bool | None) -> bool:
    """Return whether figures are interactive: as asked for, or where plotly is installed.

    Raises:
        ImportError: what is needed is not installed.
    """
    plotly, matplotlib = plotly_script() is not None, importlib.util.find_spec("matplotlib") is not None
    if interactive and not plotly:
        raise ImportError("Interactive figures need plotly: pip install 'shoal[plotly]'")
    if interactive is False and not matplotlib:
        raise ImportError("Figures that are not interactive need matplotlib: pip install 'shoal[plots]'")
    if not (plotly or matplotlib):
        raise ImportError(f"{_NEEDS}: pip install 'shoal[plotly]', or pip install 'shoal[plots]'")
    return plotly if interactive is None else interactive


def plotly_script() -> Path | None:
    """Return where plotly's script is, without importing plotly; None where it is not installed."""
    found = importlib.util.find_spec("plotly")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        path = Path(folder, "package_data", "plotly.min.js")
        if path.is_file():
            return path
    return None


# ------------------------------------------------------------------------------------------------------------- figures


def figures_of(experiment: Experiment, *, interactive: bool) -> list[Figure]:
    """Return all plots of an experiment; one that has nothing to draw, or cannot be drawn, says so."""
    from .plots import PLOTS

    return [_figure(experiment, name, plot, interactive) for name, plot in PLOTS.items()]


def _figure(experiment: Experiment, name: str, plot: Any, interactive: bool) -> Figure:
    try:
        info = plot.info(experiment)
        return _interactive(name, plot, info) if interactive else _static(name, plot, info)
    except (ResultError, ConfigError) as error:
        why = str(error)
    except Exception as error:  # a report without one of its figures is better than none
        why = f"It could not be drawn: {one_line(error)}"
    return Figure(name, plot.title, plot.explanation, element("p", why, class_="nothing"), Html(""))


def _interactive(name: str, plot: Any, info: Any) -> Figure:
    """Return a figure for the script to draw, and its data: what it is on a light page, and what differs on a dark."""
    light = plot.spec(info, theme="light", points=_POINTS)
    dark = plot.spec(info, theme="dark", points=_POINTS)
    title, note = plot.title, ""
    said = light["layout"].get("meta")
    if isinstance(said, dict) and said.get("title"):
        title, note = str(said["title"]), str(said.get("note") or "")
        light["layout"], dark["layout"] = without_title(light["layout"]), without_title(dark["layout"])
    where = f"data-{name}"
    text = safe_json({"light": light, "dark": differences(light, dark)})
    style = f"height:{float(light['layout'].get('height', 450)):.0f}px"
    body = element("div", class_="figure", data_from=where, style=style, role="img", aria_label=title)
    data = element("script", raw(text), type="application/json", id=where)
    return Figure(name, title, plot.explanation, body, data, note)


def without_title(layout: dict[str, Any], least: int = 0) -> dict[str, Any]:
    """Return a layout without its title and the room for it: the page shows it, where it wraps and can be searched for.

    Args:
        layout: of a figure.
        least: pixels that stay above the plot.
    """
    rest = {key: value for key, value in layout.items() if key != "title"}
    title = str(layout.get("title", {}).get("text", ""))
    above = layout["margin"]["t"]
    left = max(least, above - _TITLE - _NOTE_LINE * max(0, title.count("<br>") - 1))
    return {**rest, "margin": {**layout["margin"], "t": left}, "height": layout["height"] - above + left}


def differences(light: Any, dark: Any) -> list[tuple[list[str | int], Any]]:
    """Return what has to be set in ``light``, by its path, so that it equals ``dark``."""
    pairs: list[tuple[str | int, Any, Any]]
    if isinstance(light, dict) and isinstance(dark, dict) and light.keys() == dark.keys():
        pairs = [(key, value, dark[key]) for key, value in light.items()]
    elif isinstance(light, list) and isinstance(dark, list) and len(light) == len(dark):
        pairs = [(place, *each) for place, each in enumerate(zip(light, dark, strict=True))]
    else:
        return [] if type(light) is type(dark) and light == dark else [([], dark)]
    found = [([key, *path], value) for key, before, after in pairs for path, value in differences(before, after)]
    # Where most of many small values differ, as the colours of points do, one list takes less room.
    if len(found) > 1 and 2 * len(found) > len(light) and all(len(path) == 1 for path, _ in found):
        return [([], dark)]
    return found


def safe_json(value: Any) -> str:
    """Return JSON that may stand between script tags: no text in it can end them.

    Raises:
        ValueError: it has a NaN or an infinite value, which JSON has not.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _static(name: str, plot: Any, info: Any) -> Figure:
    """Return matplotlib's figure as an image, which keeps its ids and styles to itself. It has a title in it."""
    figure = plot.figure(info)
    kind, data = "svg+xml", _saved(figure, "svg")
    if len(data) > _LARGEST_SVG:
        kind, data = "png", _saved(figure, "png")
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    body = element("div", element("img", alt=plot.title, src=source), class_="picture")
    return Figure(name, plot.title, plot.explanation, body, Html(""), titled=True)


def _saved(figure: Any, kind: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=_DPI, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()


# ---------------------------------------------------------------------------------------------------------------- page


def page(title: str, body: Sequence[Html], figures: Sequence[Figure], *, interactive: bool) -> str:
    """Return the whole page. A browser lets it load nothing, and run no script but those that it comes with."""
    scripts: list[str] = []
    if interactive and any(figure.data for figure in figures):
        path = plotly_script()
        assert path is not None
        # A script could only be ended by a text in it, where the backslash means nothing.
        library = path.read_text(encoding="utf-8").replace("\r\n", "\n").replace("</script", "<\\/script")
        scripts = [library, _SCRIPT]
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts)) or chr(39) + 'none' + chr(39)}; "
        f"style-src 'unsafe-inline'; img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", raw(STYLE + _STYLE)),
    )
    data = joined(figure.data for figure in figures)
    code = joined(element("script", raw(script)) for script in scripts)
    whole = element("html", head, element("body", *body, data, code, class_="shoal-view"), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}'"


_STYLE = """
:root{color-scheme:light dark;--page:#fff;--ink:#1c2127;--muted:#5b6470;--card:#f5f6f8;--rule:#dde1e6;
--good:#1a7f45;--warn:#a15c00;--bad:#c22f2f;--info:#2467a8}
@media screen and (prefers-color-scheme:dark){:root{--page:#15181c;--ink:#e3e6ea;--muted:#9aa4b0;--card:#1d2126;
--rule:#333a42;--good:#4cc07e;--warn:#e0a040;--bad:#f07272;--info:#6fb0ea}}
@media print{:root{color-scheme:light}}
body.shoal-view{margin:0;background:var(--page);color:var(--ink);
--shoal-line:var(--rule);--shoal-tint:var(--card);--shoal-good:var(--good);--shoal-warn:var(--warn);
--shoal-bad:var(--bad);--shoal-accent:var(--info);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:70rem;margin:0 auto;padding:1.5rem 1.25rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.4rem 0 .6rem;padding-bottom:.25rem;border-bottom:1px solid var(--rule)}
h3{font-size:1rem;margin:1.4rem 0 .3rem}
p{margin:.4rem 0;max-width:50rem;overflow-wrap:anywhere}
.sub,.muted,figcaption{color:var(--muted)}
.sub{overflow-wrap:anywhere;max-width:none}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:.8rem 0 0}
a{color:var(--info);text-decoration:none}a:hover{text-decoration:underline}
.state{display:inline-block;border:1px solid currentColor;border-radius:1em;padding:0 .7em;margin-right:.6em;
font-size:.85em}
.state-running{color:var(--good)}.state-ended{color:var(--info)}.state-interrupted{color:var(--warn)}
.banner{border-left:4px solid var(--bad);background:var(--card);padding:.5rem .9rem;margin:1rem 0;max-width:none}
dl.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(13rem,1fr));gap:.7rem 1.5rem;margin:.8rem 0}
dl.facts div{min-width:0}dl.facts dt{color:var(--muted);font-size:.85rem}dl.facts dd{margin:0;overflow-wrap:anywhere}
dl.facts div.wide{grid-column:1/-1}
ul.card{list-style:none;margin:.6rem 0;padding:0}
ul.card li{display:grid;grid-template-columns:1.5rem 1fr;gap:0 .7rem;padding:.55rem .8rem;background:var(--card);
border-radius:.4rem;margin:.4rem 0}
ul.card .mark{font-weight:700;width:1.5rem;height:1.5rem;line-height:1.5rem;text-align:center;border-radius:50%;
color:var(--page);background:var(--info)}
ul.card .good{background:var(--good)}ul.card .warn{background:var(--warn)}ul.card .bad{background:var(--bad)}
ul.card .because{color:var(--muted);font-size:.88rem}
ul.card li>div{min-width:0;overflow-wrap:anywhere}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.score{font-size:1.1rem}
figure{margin:1.2rem 0 2.4rem}figure h3+p{font-size:.92rem;margin:0 0 .2rem;max-width:none}
figcaption{max-width:50rem;margin-top:.2rem;font-size:.92rem;font-style:italic}
.figure{width:100%}
.picture{background:#fff;border-radius:.4rem;padding:.4rem}.picture img{display:block;max-width:100%;height:auto;
margin:0 auto}
.nothing{color:var(--muted);font-style:italic;background:var(--card);border-radius:.4rem;padding:.8rem 1rem}
.shoal-view .shoal-scroll{font-size:.88rem}
.shoal-view .tall{max-height:40rem;overflow:auto;border-bottom:1px solid var(--rule)}
.shoal-view.shoal-view .tall thead th{position:sticky;top:0;background:var(--page)}
.whole{display:inline-block}
.shoal-view.shoal-view .wrapping thead th{white-space:normal;vertical-align:bottom;max-width:11em}
.shoal-view.shoal-view .wrapping td:last-child{white-space:normal;max-width:none;min-width:14em}
pre{background:var(--card);border-radius:.4rem;padding:.7rem .9rem;overflow-x:auto;font-size:.82rem;line-height:1.4;
white-space:pre-wrap;overflow-wrap:anywhere;margin:.4rem 0}
footer{margin-top:3rem;color:var(--muted);font-size:.85rem}
@page{margin:12mm}
@media print{body.shoal-view{font-size:10.5pt;print-color-adjust:exact;-webkit-print-color-adjust:exact}
main{max-width:none;padding:0}nav{display:none}
.shoal-view .tall{max-height:none;overflow:visible;border:0}.shoal-view .shoal-scroll{overflow:visible;font-size:8pt}
.shoal-view.shoal-view .tall thead th{position:static}
.shoal-view.shoal-view td,.shoal-view.shoal-view th{white-space:normal;overflow-wrap:break-word;padding:.1em .5em}
figure,ul.card li,tr{break-inside:avoid}h2,h3{break-after:avoid}
.modebar-container{display:none}}
"""

# Draws each figure for the page's theme, and for paper as on a light page and as wide as that is.
_SCRIPT = """
(() => {
  "use strict";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paper = 690, shrunk = 0.85;
  const figures = [...document.querySelectorAll(".figure")];
  let printing = false;
  const set = (tree, path, value) => {
    const last = path[path.length - 1];
    path.slice(0, -1).reduce((inner, key) => inner[key], tree)[last] = value;
  };
  const spec = (figure) => {
    // Read anew each time: Plotly keeps what it is given, and writes into it.
    const found = JSON.parse(document.getElementById(figure.dataset.from).textContent);
    if (dark.matches && !printing) {
      for (const [path, value] of found.dark) {
        if (path.length) set(found.light, path, value);
        else found.light = value;
      }
    }
    return found.light;
  };
  const draw = (figure) => {
    const { data, layout } = spec(figure);
    if (printing) {
      layout.width = paper;
      layout.height = Math.round((layout.height || 450) * shrunk);
    }
    figure.style.height = (layout.height || 450) + "px";
    return Plotly.react(figure, data, layout, { responsive: true, displaylogo: false });
  };
  const drawAll = () => figures.forEach(draw);
  const print = (begins) => {
    if (begins === printing) return;
    printing = begins;
    drawAll();
  };
  drawAll();
  dark.addEventListener("change", drawAll);
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  matchMedia("print").addEventListener("change", (event) => print(event.matches));
})();
"""
