"""Diversity, times and gains, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .choose import MANY_GAINS, bands, entries, fan_width, fanned, gains_axes, moments
from .figures import LOOK, canvas, end_labels, headline, in_style, legend, name_x, named_ticks, shown
from .figures_curves import draw_lines
from .info import Line
from .lanes import lane_height, lane_labels
from .population import Diversity, Gains, Times
from .words import diversity_heading, gains_heading, label_of, short, times_heading, value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["diversity_figure", "gains_figure", "times_figure"]

_ENTRIES = 1000


@in_style
def diversity_figure(info: Diversity) -> Figure:
    """Return the figure of the diversity."""
    heights = [2.3, 1.2, 1.2] if info.spread else [2.3, 1.2]
    figure, rows = canvas(diversity_heading(info), heights)
    kept = entries(info, _ENTRIES)
    x = [info.x[place] for place in kept]
    size = len(info.founders)
    _shares(rows[0], info, kept, x)
    headline(rows[0], f"members by founder ({size} in all)")
    headline(rows[1], "effective number of founders and of donors")
    numbers = [("founders", info.effective, LOOK.ink), ("donors", info.donors, LOOK.winner)]
    _series(rows[1], numbers, kept, x, heights[1])
    if info.spread:
        headline(rows[2], "spread of hyperparameters, 1 at the beginning")
        spread = [
            (short(name, 16), values, LOOK.colour(place)) for place, (name, values) in enumerate(info.spread.items())
        ]
        _series(rows[2], spread, kept, x, heights[2])
    high = x[-1] or 1.0
    for axes in rows:
        axes.set_xlim(0, high * 1.005)
        for at, _ in moments(info):
            axes.axvline(at, color=LOOK.ink, linewidth=1.0, linestyle=":", zorder=5)
    for step, (at, text) in enumerate(moments(info)):
        left = at < 0.7 * high
        rows[0].annotate(
            text, (at, 0), xycoords=("data", "axes fraction"), xytext=(6 if left else -6, 7 + 17 * step),
            textcoords="offset points", ha="left" if left else "right", va="bottom", size=8.5, zorder=6,
            bbox={"boxstyle": "round,pad=0.25", "facecolor": LOOK.background, "edgecolor": "none", "alpha": 0.85},
        )  # fmt: skip
    name_x(rows[-1], info.x_label, info.x_axis)
    return figure


def _shares(axes: Axes, info: Diversity, kept: Sequence[int], x: Sequence[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    below = [0] * len(kept)
    labels: list[tuple[str, float, str, bool]] = []
    for band in bands(info, LOOK):
        counts = [band.counts[place] for place in kept]
        top = [low + each for low, each in zip(below, counts, strict=True)]
        axes.fill_between(
            x, below, top, step="post", facecolor=band.colour, edgecolor=LOOK.background, linewidth=0.5
        )  # fmt: skip
        if counts[-1]:
            colour = LOOK.muted if band.member is None else band.colour
            labels.append((f"{band.label}  {counts[-1]}", below[-1] + counts[-1] / 2, colour, False))
        below = top
    axes.set_ylim(0, max(1, len(info.founders)))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    end_labels(axes, labels, 2.0)


def _series(
    axes: Axes,
    series: Sequence[tuple[str, Sequence[float | None], str]],
    kept: Sequence[int],
    x: Sequence[float],
    inches: float,
) -> None:
    """Draw lines in steps, with labels at their ends."""
    labels: list[tuple[str, float, str, bool]] = []
    top = 0.0
    for name, values, colour in series:
        y = [values[place] for place in kept]
        top = max([top, *(each for each in y if each is not None)])
        missing = [float("nan") if each is None else each for each in y]
        axes.plot(x, missing, color=colour, linewidth=1.7, drawstyle="steps-post")
        last = y[-1]
        if last is not None:
            labels.append((f"{name}  {value_text(float(f'{last:.3g}'))}", last, colour, False))
    axes.set_ylim(0, (top or 1.0) * 1.08)
    end_labels(axes, labels, inches * 0.8)


@in_style
def times_figure(info: Times) -> Figure:
    """Return the figure of the times."""
    from matplotlib.patches import Patch

    size = len(info.members)
    height = max(1.3, size * min(0.3 if size <= 12 else 0.19 if size <= 40 else 0.085, lane_height(size) / 100))
    figure, (axes,) = canvas(times_heading(info), [height + 0.3])
    parts = (
        ("training", [each.training for each in info.members], LOOK.training),
        ("saving", [each.saving for each in info.members], LOOK.saving),
        ("loading", [each.loading for each in info.members], LOOK.loading),
        ("waiting", [each.waiting for each in info.members], LOOK.waiting),
    )
    left = [0.0] * size
    for _, values, colour in parts:
        # No gaps where they would be narrower than a pixel: some would be seen and others not.
        axes.barh(range(size), values, left=left, height=0.74 if size <= 200 else 1.0, color=colour, linewidth=0)
        left = [begin + value for begin, value in zip(left, values, strict=True)]
    axes.set_ylim(size - 0.4, -0.6)
    axes.set_xlim(0, (max(left) or 1.0) * 1.015)
    labelled = lane_labels(size)
    named_ticks(axes, labelled, [label_of(info.members[place].member) for place in labelled])
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("time (s)")
    legend(axes, [(name, Patch(facecolor=colour)) for name, _, colour in parts])
    return figure


@in_style
def gains_figure(info: Gains) -> Figure:
    """Return the figure of the gains."""
    from matplotlib.lines import Line2D

    found = [gain for gain in info.gains if gain.before is not None or gain.copied is not None]
    (low, high, outside), change = gains_axes(found)
    figure, (axes, lower) = canvas(gains_heading(info, outside), [3.1, 1.4])
    axes.set_ylim(low, high)
    lower.set_ylim(change)
    xs = fanned([gain.x for gain in found], fan_width(found))
    many = len(found) > MANY_GAINS
    area = 7 if many else 26
    groups = ((LOOK.better, True), (LOOK.worse, False))
    known = [(gain, x) for gain, x in zip(found, xs, strict=True) if gain.gain is not None]
    for colour, wanted in groups:
        own = [(gain, x) for gain, x in known if ((gain.gain or 0.0) > 0) == wanted]
        if not many:
            draw_lines(axes, [Line((x, x), (gain.before, gain.after)) for gain, x in own], colour, 1.8, alpha=0.6)
        changes = [Line((x, x), (0.0, gain.sign * (gain.gain or 0.0))) for gain, x in own]
        draw_lines(lower, changes, colour, 0.9 if many else 2.2, zorder=3)
    _marks(axes, [(x, gain.before) for gain, x in zip(found, xs, strict=True)], area, zorder=3, **(
        {"color": LOOK.pale, "linewidths": 0} if many
        else {"facecolor": LOOK.background, "edgecolor": LOOK.muted, "linewidths": 1.2}
    ))  # fmt: skip
    _marks(
        axes, [(x, gain.copied) for gain, x in zip(found, xs, strict=True)], 2 * area, zorder=4, marker="_",
        color=LOOK.muted, linewidths=1.4,
    )  # fmt: skip
    for colour, wanted in groups:
        after = [(x, gain.after) for gain, x in known if ((gain.gain or 0.0) > 0) == wanted]
        _marks(axes, after, area, zorder=5, color=colour, linewidths=0)
    lower.axhline(0, color=LOOK.muted, linewidth=0.9, zorder=2)
    for each in (axes, lower):
        each.autoscale_view(scaley=False)
    axes.set_ylabel(shown(short(info.metric, 40)))
    lower.set_ylabel("change")
    name_x(lower, info.x_label, info.x_axis)

    def handle(**marker: Any) -> Line2D:
        return Line2D([], [], linestyle="none", markersize=5.5, **marker)

    legend(
        axes,
        [
            (
                "before",
                handle(marker="o", color=LOOK.pale)
                if many
                else handle(marker="o", markerfacecolor=LOOK.background, markeredgecolor=LOOK.muted),
            ),
            ("what was copied", handle(marker="_", color=LOOK.muted)),
            ("after, better", handle(marker="o", color=LOOK.better)),
            ("after, not better", handle(marker="o", color=LOOK.worse)),
        ],
    )
    return figure


def _marks(axes: Axes, points: Sequence[tuple[float, float | None]], area: float, **style: Any) -> None:
    low, high = axes.get_ylim()
    kept = [(x, y) for x, y in points if y is not None and low <= y <= high]
    if kept:
        axes.scatter([x for x, _ in kept], [y for _, y in kept], s=area, **style)
