"""HTML for notebooks and pages: a small builder that escapes, and the one style of everything that Shoal shows there.

Text is escaped wherever it comes from; only :class:`Html` goes in as it is, and only this module's functions make it.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence

from ..core.commands import Status
from .text import Column, lay_out, one_line

__all__ = [
    "STYLE",
    "Html",
    "cut",
    "element",
    "escape",
    "fragment",
    "joined",
    "pairs",
    "raw",
    "sparkline",
    "status_mark",
    "table",
]

_LONGEST = 300
"""Characters of a cell; names and values may be of any length."""
_ABBREVIATED = 30
"""Characters that a cell has room for; the whole text of a longer one is shown where the pointer rests on it."""
_VOID = frozenset({"br", "hr", "img", "meta"})
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_FIGURE_SPACE = "\u2007"
_SPARK_WIDTH, _SPARK_HEIGHT, _SPARK_POINTS = 240.0, 44.0, 120


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def raw(text: str) -> Html:
    """Return text as HTML that is not escaped: markup, styles and scripts of Shoal's own."""
    return Html(text)


def escape(text: object) -> Html:
    """Return any text as HTML that shows it literally, without characters that a page cannot hold."""
    if isinstance(text, Html):
        return text
    return Html(html.escape(_CONTROL.sub("\ufffd", str(text))))


def joined(parts: Iterable[object]) -> Html:
    """Return parts one behind the other, each escaped unless it is HTML."""
    return Html("".join(map(escape, parts)))


def element(tag: str, *content: object, **attributes: object) -> Html:
    """Return an element.

    Args:
        tag: its name.
        *content: what is in it, each escaped unless it is HTML.
        **attributes: ``class_`` is written ``class``, other underscores as hyphens. None or False leaves one out, True
            is an attribute without a value.
    """
    written = ""
    for name, value in attributes.items():
        key = name.rstrip("_").replace("_", "-")
        if value is True:
            written += f" {key}"
        elif value is not None and value is not False:
            written += f' {key}="{escape(value)}"'
    return Html(f"<{tag}{written}>" if tag in _VOID else f"<{tag}{written}>{joined(content)}</{tag}>")


def cut(text: str, longest: int = _LONGEST) -> str:
    """Return a text that is not longer than so many characters."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def fragment(*content: object, style: bool = True) -> Html:
    """Return what a notebook shows as one output: the content, with the style that it needs.

    Args:
        *content: what is in it.
        style: whether the style comes with it; a page has it once.
    """
    return element("div", *([element("style", raw(STYLE))] if style else []), *content, class_="shoal-view")


def table(
    columns: Sequence[Column],
    *,
    best: int | None = None,
    statuses: Sequence[Status] | None = None,
    running: bool = True,
    caption: str = "",
    class_: str = "",
) -> Html:
    """Return a table.

    Args:
        columns: as for :func:`shoal.display.text.lay_out`; numbers have their decimal points in one line here, too. A
            cell that is HTML stays as it is.
        best: the row that is marked.
        statuses: of each row, for the mark in the column that is called ``status``.
        running: whether somebody runs the experiment; else what was running was cut off.
        caption: a text below it.
        class_: more classes.
    """
    grid = lay_out(columns, None)
    right = ["shoal-num" if column.right and _has_number(column) else None for column in columns]
    titles = [one_line(column.title) for column in columns]
    head = [element("th", cut(title), class_=kind, scope="col") for title, kind in zip(titles, right, strict=True)]
    rows: list[Html] = []
    for row, cells in enumerate(grid.rows):
        written: list[Html] = []
        for place, cell in enumerate(cells):
            column = columns[place]
            if statuses is not None and column.title == "status" and not column.right:
                written.append(element("td", status_mark(statuses[row], running)))
                continue
            given = column.cells[row]
            if isinstance(given, Html):
                written.append(element("td", given))
                continue
            whole = one_line(given)
            shown = _padded(cell) if right[place] else cut(whole)
            title = cut(whole) if len(whole) > _ABBREVIATED else None
            written.append(element("td", shown, class_=right[place], title=title))
        marked = {"class_": "shoal-best", "title": "the best"} if row == best else {}
        rows.append(element("tr", *written, **marked))
    made = element(
        "table",
        element("thead", element("tr", *head)),
        element("tbody", *rows),
        class_=f"shoal-table {class_}".rstrip(),
    )
    foot = [element("div", caption, class_="shoal-dim")] if caption else []
    return element("div", made, *foot, class_="shoal-scroll")


def _has_number(column: Column) -> bool:
    """Return whether a column that stands flush right has numbers, and not only words."""
    return any(cell[:1].isdigit() or cell[1:2].isdigit() for cell in column.cells) or not any(column.cells)


def _padded(cell: str) -> str:
    """Return a cell that was padded on its right for its decimal point, with blanks as wide as digits."""
    text = cell.strip(" ")
    return text + _FIGURE_SPACE * (len(cell) - len(cell.rstrip(" "))) if text else ""


def pairs(values: Iterable[tuple[str, object]], *, title: str = "", class_: str = "") -> Html:
    """Return names and values as a small table.

    Args:
        values: each name with its value, which is shown as its text, or HTML.
        title: a line above.
        class_: more classes.
    """
    rows = [
        element("tr", element("th", cut(name), scope="row"), element("td", _value(value))) for name, value in values
    ]
    head = [element("div", title, class_="shoal-head")] if title else []
    made = element("table", element("tbody", *rows), class_="shoal-pairs")
    return element("div", *head, made, class_=class_ or None)


def _value(value: object) -> object:
    return value if isinstance(value, Html) else cut(str(value))


def status_mark(status: Status, running: bool = True) -> Html:
    """Return a trial's status with a dot in its colour.

    Args:
        status: the newest in the journal.
        running: whether somebody runs the experiment; else a trial that was running was cut off.
    """
    kind, word = status.value.lower(), status.value
    if status is Status.RUNNING and not running:
        kind, word = Status.PAUSED.value.lower(), "cut off"
    dot = element("span", "●", class_=f"shoal-dot shoal-{kind}", aria_hidden="true")
    return element("span", dot, f" {word}", class_="shoal-status")


def sparkline(points: Sequence[tuple[float, float | None]], label: str) -> Html:
    """Return a small curve as inline SVG; empty where fewer than two points are finite.

    Args:
        points: x and y in their order; a ``y`` of None is a gap.
        label: what it shows, for those who cannot see it.
    """
    known = [(x, y) for x, y in points if y is not None and math.isfinite(x) and math.isfinite(y)]
    if len(known) < 2:
        return Html("")
    left, right = min(x for x, _ in known), max(x for x, _ in known)
    low, high = min(y for _, y in known), max(y for _, y in known)
    # Halved, so that values at the edge of what a float holds have a span.
    across, up = (right / 2 - left / 2) or 1.0, (high / 2 - low / 2) or 1.0
    pad = 3.0

    def place(point: tuple[float, float]) -> str:
        x = pad + (_SPARK_WIDTH - 2 * pad) * ((point[0] / 2 - left / 2) / across)
        share = 0.5 if high == low else (point[1] / 2 - low / 2) / up
        return f"{x:.1f},{_SPARK_HEIGHT - pad - (_SPARK_HEIGHT - 2 * pad) * share:.1f}"

    lines = [
        element("polyline", points=" ".join(map(place, part)), fill="none", stroke="currentColor", stroke_width="1.5")
        for part in _parts(points)
        if len(part) > 1
    ]
    x, y = place(known[-1]).split(",")
    end = element("circle", cx=x, cy=y, r="2.5", fill="currentColor")
    return element(
        "svg",
        element("title", label),
        *lines,
        end,
        viewBox=f"0 0 {_SPARK_WIDTH:g} {_SPARK_HEIGHT:g}",
        width=f"{_SPARK_WIDTH:g}",
        height=f"{_SPARK_HEIGHT:g}",
        class_="shoal-spark",
        role="img",
    )


def _parts(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """Return the points between gaps, few enough to draw: of many that are side by side, the lowest and the highest."""
    size = max(1, math.ceil(len(points) / _SPARK_POINTS))
    parts: list[list[tuple[float, float]]] = [[]]
    for begin in range(0, len(points), size):
        bucket = points[begin : begin + size]
        known = [(x, y) for x, y in bucket if y is not None and math.isfinite(x) and math.isfinite(y)]
        if not known:
            parts.append([])
            continue
        low, high = min(known, key=lambda point: point[1]), max(known, key=lambda point: point[1])
        chosen = {known[0], low, high, known[-1]}
        parts[-1] += [point for point in known if point in chosen] if size > 1 else known
    return parts


# Notebooks have a theme that a page cannot ask for: so no backgrounds that cover it, the text's own colour, and the
# colours of JupyterLab and VS Code where they are there. Class names twice win over what notebooks do to tables.
STYLE = """
.shoal-view{--shoal-line:rgba(128,128,128,.35);--shoal-tint:rgba(128,128,128,.13);
--shoal-accent:var(--jp-brand-color1,var(--vscode-charts-blue,#3b82c4));
--shoal-good:var(--jp-success-color1,var(--vscode-charts-green,#35995a));
--shoal-warn:var(--jp-warn-color1,var(--vscode-charts-yellow,#c27c0e));
--shoal-bad:var(--jp-error-color1,var(--vscode-charts-red,#d64545));
color:inherit;line-height:1.4;max-width:100%}
.shoal-view .shoal-title{font-weight:600;display:flex;gap:1em;justify-content:space-between;overflow-wrap:anywhere}
.shoal-view .shoal-dim{opacity:.72}
.shoal-view .shoal-clock{opacity:.72;font-weight:400;white-space:nowrap;font-variant-numeric:tabular-nums}
.shoal-view .shoal-facts{display:flex;flex-wrap:wrap;gap:0 1.4em;margin:.15em 0}
.shoal-view .shoal-name{opacity:.72}
.shoal-view .shoal-bar{display:flex;align-items:center;gap:.8em;margin:.35em 0;font-variant-numeric:tabular-nums}
.shoal-view .shoal-bar>div{flex:0 1 24em;height:.5em;border-radius:.25em;background:var(--shoal-line);overflow:hidden}
.shoal-view .shoal-bar>div>div{height:100%;background:var(--shoal-accent)}
.shoal-view .shoal-scroll{overflow-x:auto;margin:.4em 0}
.shoal-view .shoal-head{font-weight:600;margin:.4em 0 .1em}
.shoal-view .shoal-columns{display:flex;flex-wrap:wrap;gap:.2em 2.5em;align-items:flex-start}
.shoal-view.shoal-view table{border-collapse:collapse;border:0;margin:0;width:auto;font-size:inherit;
table-layout:auto;color:inherit}
.shoal-view.shoal-view th,.shoal-view.shoal-view td{padding:.15em .7em;text-align:left;vertical-align:baseline;
border:0;max-width:22em;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;background:none}
.shoal-view.shoal-view th:first-child,.shoal-view.shoal-view td:first-child{padding-left:.2em}
.shoal-view.shoal-view .shoal-table thead th{border-bottom:1px solid var(--shoal-line);font-weight:600}
.shoal-view.shoal-view tbody tr{background:none}
.shoal-view.shoal-view .shoal-num{text-align:right;font-variant-numeric:tabular-nums}
.shoal-view.shoal-view .shoal-best.shoal-best{background:var(--shoal-tint)}
.shoal-view.shoal-view .shoal-best td:first-child{font-weight:600}
.shoal-view.shoal-view .shoal-pairs th{font-weight:400;opacity:.72;padding-left:0}
.shoal-view.shoal-view .shoal-pairs td{font-variant-numeric:tabular-nums;max-width:44em}
.shoal-view.shoal-view .shoal-wrap td{white-space:normal;overflow-wrap:anywhere;max-width:none}
.shoal-view .shoal-dot{color:var(--shoal-line)}
.shoal-view .shoal-running{color:var(--shoal-good)}
.shoal-view .shoal-paused{color:var(--shoal-warn)}
.shoal-view .shoal-terminated{color:var(--shoal-accent)}
.shoal-view .shoal-error{color:var(--shoal-bad)}
.shoal-view .shoal-spark{display:block;max-width:100%;color:var(--shoal-accent)}
.shoal-view .shoal-failure{overflow-wrap:anywhere;border-left:3px solid var(--shoal-bad);padding-left:.6em;
margin:.3em 0}
.shoal-view code{font-family:var(--jp-code-font-family,var(--vscode-editor-font-family,ui-monospace,monospace));
font-size:.95em;background:none;color:inherit;padding:0;overflow-wrap:anywhere;white-space:pre-wrap}
""".strip()
