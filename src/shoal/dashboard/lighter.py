"""The same figures with fewer elements for the browser.

Plotly makes an element for every unbroken piece of a line, and thousands of them take it half a second, at each update.
A shape is one element, however many pieces it has. So lines behind all others that nobody can hover over become shapes.
"""

from __future__ import annotations

from typing import Any

__all__ = ["lighter"]

_MANY = 100
"""Pieces from which on a line becomes a shape."""


def lighter(data: list[dict[str, Any]], layout: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return traces and layout of a figure that looks the same.

    Args:
        data: the traces, in the order in which they are drawn; they are not changed.
        layout: the layout; it is not changed.
    """
    count = 0
    while count < len(data) and _can_be_shape(data[count], layout):
        count += 1
    if sum(_pieces(trace) for trace in data[:count]) < _MANY:
        return data, layout
    shapes = [_shape(trace) for trace in data[:count]]
    # Below all traces, over the grid, and in their order: what is drawn over what stays as it was.
    return data[count:], {**layout, "shapes": [*shapes, *layout.get("shapes", [])]}


def _can_be_shape(trace: dict[str, Any], layout: dict[str, Any]) -> bool:
    line = trace.get("line", {})
    return (
        trace.get("type") == "scatter"
        and trace.get("mode") == "lines"
        and trace.get("hoverinfo") == "skip"
        and "fill" not in trace
        and not trace.get("showlegend")
        and line.get("shape", "linear") == "linear"
        and all(_is_linear(layout.get(_axis_name(trace, axis), {})) for axis in "xy")
    )


def _axis_name(trace: dict[str, Any], axis: str) -> str:
    return f"{axis}axis{trace.get(f'{axis}axis', axis)[1:]}"


def _is_linear(axis: dict[str, Any]) -> bool:
    return axis.get("type", "linear") == "linear" and "range" in axis


def _pieces(trace: dict[str, Any]) -> int:
    return sum(value is None for value in trace["y"]) + 1


def _shape(trace: dict[str, Any]) -> dict[str, Any]:
    parts: list[str] = []
    pen = "M"
    for x, y in zip(trace["x"], trace["y"], strict=True):
        if x is None or y is None:
            pen = "M"
        else:
            parts.append(f"{pen}{x!r},{y!r}")
            pen = "L"
    return {
        "type": "path",
        "path": "".join(parts),
        "xref": trace.get("xaxis", "x"),
        "yref": trace.get("yaxis", "y"),
        "layer": "between",
        "line": {key: value for key, value in trace.get("line", {}).items() if key in ("color", "width", "dash")},
        "fillcolor": "rgba(0,0,0,0)",
        "opacity": trace.get("opacity", 1),
    }
