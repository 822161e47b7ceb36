"""What plots say: titles, notes, names. Plain text, which each renderer escapes in its own way."""

from __future__ import annotations

import html
from dataclasses import dataclass

from ..display.text import crop, format_value, one_line
from ..inference import middle
from .info import Ancestry, LearningCurves, Member, Schedules
from .population import Diversity, Gains, Times
from .tree import LineageTree

__all__ = [
    "Heading",
    "ancestry_heading",
    "count",
    "diversity_heading",
    "for_matplotlib",
    "for_plotly",
    "gains_heading",
    "label_of",
    "learning_heading",
    "lineage_heading",
    "name_of",
    "schedules_heading",
    "short",
    "times_heading",
    "value_text",
    "wrapped",
]

_LABEL = 22
"""Columns that a member's own name may take where it is a label."""
_NAME = 60


@dataclass(frozen=True, slots=True)
class Heading:
    """What stands above a picture, both in one line."""

    title: str
    """What one sees."""
    note: str
    """The numbers."""


# -------------------------------------------------------------------------------------------------------------- names


def label_of(member: Member) -> str:
    """Return what a member is called in a picture: its number, or the name that the user gave it."""
    own = not member.name.endswith(member.trial_id)
    label = short(member.name, _LABEL) if own and member.name.strip() else f"member {member.index}"
    return f"{label} (control)" if member.control else label


def name_of(member: Member) -> str:
    """Return the number and the name, for where there is more room."""
    return f"member {member.index}: {short(member.name, 200)}"


def short(name: str, width: int = _NAME) -> str:
    """Return a name in one line and no wider than so many columns."""
    return crop(one_line(name), width, "…")


def value_text(value: float | None) -> str:
    """Return a number as people read it; a dash for none."""
    return "-" if value is None else format_value(value)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return ``1 copy`` or ``4 copies``."""
    if number == 1:
        return f"1 {noun}"
    many = plural or (f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s")
    return f"{number:,} {many}" if number >= 10_000 else f"{number} {many}"


def wrapped(text: str, width: int) -> list[str]:
    """Return the lines of a text that has so many columns; a word that is longer has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def for_matplotlib(text: str) -> str:
    """Return text that matplotlib shows as it is, dollar signs included."""
    return one_line(text).replace("$", r"\$")


def for_plotly(text: str) -> str:
    """Return text that Plotly shows as it is: no tags, no entities, no formulas, no placeholders of templates."""
    escaped = html.escape(one_line(text), quote=False)
    return escaped.replace("$", "&#36;").replace("%{", "&#37;{")


# ----------------------------------------------------------------------------------------------------------- headings


def learning_heading(info: LearningCurves, outside: int = 0) -> Heading:
    """Return what stands above the learning curves; ``outside``: how many results the axis leaves out."""
    metric = short(info.metric, 40)
    best = None if info.best is None else info.curves[info.best]
    last = None if best is None else best.last
    title = f"Learning curves: {metric} of {count(len(info.curves), 'member')}"
    if best is not None and last is not None:
        title = f"Learning curves: {label_of(best.member)} is best, {metric} {value_text(last[1])}"
    copies = sum(len(curve.copies) for curve in info.curves)
    parts = [
        count(len(info.curves), "member"),
        f"{count(copies, 'copy')} (diamonds; fainter: what was given up for them)",
    ]
    if not copies:
        parts[1] = "nobody has copied another"
    if outside:
        parts.append(_outside(outside))
    return Heading(title, "; ".join(parts))


def _outside(number: int, noun: str = "result") -> str:
    return f"{count(number, noun)} outside of the axis"


def lineage_heading(tree: LineageTree) -> Heading:
    """Return what stands above the lineage tree."""
    copies = sum(branch.copied is not None for branch in tree.branches)
    if not copies:
        title = "Lineage: nobody has copied another"
    elif not tree.path:
        title = f"Lineage: {count(copies, 'copy')} among {count(len(tree.members), 'member')}"
    else:
        through = len({step.branch[0] for step in tree.path})
        best = next(member for member in tree.members if member.index == tree.best)
        title = f"Lineage: the weights of {label_of(best)}, the best, came through {count(through, 'member')}"
        if through == 1:
            title = f"Lineage: {label_of(best)}, the best, trained all of its weights itself"
    replaced = sum(branch.failed for branch in tree.branches)
    members = count(len(tree.members), "member")
    parts = [f"{count(copies, 'copy')} among {members}" if copies else members]
    if replaced:
        parts.append(f"{replaced} in place of a member that had failed")
    if tree.path and copies:
        parts.append("outlined: the path of the best weights")
    if tree.metric is not None:
        parts.append(f"colour: {short(tree.metric, 30)}")
    return Heading(title, "; ".join(parts))


def schedules_heading(info: Schedules) -> Heading:
    """Return what stands above the schedules."""
    curves = info.parameters[0].curves
    winner = None if info.best is None else curves[info.best].member
    names = [short(each.name, 24) for each in info.parameters]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    title = f"Schedules of {', '.join(names[:4])}{more}"
    if winner is None:
        return Heading(title, f"{count(len(curves), 'member')}, a line for each")
    note = f"in colour: what the weights of {label_of(winner)}, the best, were trained with, donors' steps included"
    return Heading(title, note + (f"; pale: {count(len(curves) - 1, 'other member')}" if len(curves) > 1 else ""))


def ancestry_heading(info: Ancestry, outside: int = 0) -> Heading:
    """Return what stands above the ancestry; ``outside``: how many results the axis leaves out."""
    who = label_of(info.member)
    owners: dict[int, int] = {}
    for stretch in info.stretches:
        owners[stretch.member.index] = owners.get(stretch.member.index, 0) + len(stretch.line)
    labels = {stretch.member.index: label_of(stretch.member) for stretch in info.stretches}
    if len(owners) == 1:
        title = f"Ancestry: {who} trained all of its weights itself"
    else:
        title = f"Ancestry: the weights of {who} were trained by {count(len(owners), 'member')}"
    most = sorted(owners.items(), key=lambda pair: -pair[1])
    parts = [f"{labels[index]}: {count(steps, 'step')}" for index, steps in most[:4]]
    if len(most) > 4:
        parts.append(f"{count(len(most) - 4, 'other')}: {count(sum(steps for _, steps in most[4:]), 'step')}")
    handovers = len(info.stretches) - 1
    note = f"{count(handovers, 'handover') if handovers else 'no handover'}; " + ", ".join(parts)
    return Heading(title, note + (f"; {_outside(outside)}" if outside else ""))


def diversity_heading(info: Diversity) -> Heading:
    """Return what stands above the diversity."""
    final = info.shares[-1]
    left, total = sum(each > 0 for each in final), sum(final)
    where = "{} s" if info.x_axis == "time" else "iteration {}"
    title = f"Diversity: the population descends from {left} of {count(len(final), 'founder')}"
    parts: list[str] = []
    if info.fixation is not None:
        parts.append(f"one founder from {where.format(value_text(info.x[info.fixation]))} on")
    elif info.takeover is not None:
        leader = info.founders[final.index(max(final))]
        parts.append(
            f"{label_of(leader)}'s descendants are {max(final)} of {total}, at least half from "
            f"{where.format(value_text(info.x[info.takeover]))} on"
        )
    parts.append(f"effective founders {value_text(round(info.effective[-1], 2))}")
    donors = info.donors[-1]
    if donors is not None:
        parts.append(f"effective donors {value_text(round(donors, 2))}")
    return Heading(title, "; ".join(parts))


def times_heading(info: Times) -> Heading:
    """Return what stands above the times."""
    share = info.training_share
    title = "Times" if share is None else f"Times: members trained in {share:.0%} of the slots' time"
    sums = {
        "training": sum(each.training for each in info.members),
        "saving": sum(each.saving for each in info.members),
        "loading": sum(each.loading for each in info.members),
    }
    spent = ", ".join(f"{name} {seconds_text(value)}" for name, value in sums.items())
    return Heading(title, f"{count(len(info.members), 'member')}, {seconds_text(info.duration)} in all; {spent}")


def seconds_text(seconds: float) -> str:
    """Return ``12.3 s``, ``4.5 min`` or ``7.1 h``."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 or not seconds else f"{seconds:.2g} s"


def gains_heading(info: Gains, outside: int = 0) -> Heading:
    """Return what stands above the gains; ``outside``: how many scores the axis leaves out."""
    known = [gain.gain for gain in info.gains if gain.gain is not None]
    if not known:
        came = "none came" if info.ended else "none has come"
        return Heading(f"Gains: {count(len(info.gains), 'copy')}, {came} to its next boundary", "")
    better = sum(value > 0 for value in known)
    title = f"Gains: {better} of {count(len(known), 'copy')} were better after one interval"
    if len(known) == 1:
        title = f"Gains: the one copy was {'better' if better else 'not better'} after one interval"
    parts = [f"in the middle by {value_text(middle(known))}"]
    progress = [gain.progress for gain in info.gains if gain.progress is not None]
    if progress:
        parts.append(f"{sum(value > 0 for value in progress)} of {len(progress)} better than what they copied")
    lead = [gain.lead for gain in info.gains if gain.lead is not None]
    if lead:
        parts.append(f"{sum(value > 0 for value in lead)} of {len(lead)} better than the donor by then")
    if len(known) < len(info.gains):
        missing = len(info.gains) - len(known)
        parts.append(f"{missing} never came there" if info.ended else f"{missing} not known yet")
    if outside:
        parts.append(_outside(outside, "score"))
    return Heading(title, "; ".join(parts))
