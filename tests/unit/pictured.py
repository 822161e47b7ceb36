"""Experiments to draw, for tests of plots."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from tests.simulated import write_experiment
from tests.unit.stories import NOON, Story, make_info

from shoal.core.events import Opened
from shoal.core.limits import Limits, RetentionRules
from shoal.journal.codec import Record
from shoal.reading import Experiment
from shoal.timeline import Timeline

ODD_NAMES = (
    "<b>bold</b><img src=x onerror=alert(1)>",
    "costs $5$ and $\\frac{$",
    "_hidden_",
    "模型 \U0001f41f é",
    "long " * 40,
    "%{x} {y} \\ \"quoted\" 'too' &amp;",
)


def simulated(folder: Path, **settings: Any) -> Experiment:
    """Return a simulated experiment."""
    return Experiment.open(write_experiment(folder, **settings))


def pictured(story: Story, **facts: Any) -> Experiment:
    """Return the experiment of a story."""
    info = dataclasses.replace(story.info, **facts)
    begun = Record(0, NOON, Opened(Limits(("",) * info.slots), RetentionRules()))
    return Experiment(story.folder, info, story.history, Timeline.of([begun, *story.journal.read()]))


def known(folder: Path, **facts: Any) -> Experiment:
    """Return three members, of which the second copies the first after two steps, and the third that one after four.

    Scores: member 0 0.5, 0.6, 0.7, 0.8; member 1 0.1, 0.2, then 0.65, 0.75; member 2 0.3, 0.3, 0.3, 0.3, then 0.9.
    """
    story = Story(folder)
    story.add_usual(3)

    def report(index: int, *scores: float, save: bool = False) -> None:
        for place, score in enumerate(scores):
            story.report(index, {"mean_accuracy": score}, save=save and place + 1 == len(scores))

    report(0, 0.5, 0.6, save=True)
    report(1, 0.1, 0.2)
    report(2, 0.3, 0.3)
    story.exploit(1, 0, lr=0.4)
    report(0, 0.7, 0.8)
    report(1, 0.65, 0.75, save=True)
    report(2, 0.3, 0.3)
    story.exploit(2, 1, lr=0.5)
    report(2, 0.9)
    return pictured(story, **facts)


def odd(folder: Path, mode: str = "max") -> Experiment:
    """Return an experiment in which everything that users name has an odd name, and scores that are none."""
    metric, parameter = "<i>$loss$</i>_", "$lr$<br>/x"
    story = Story(folder, info=make_info(metric=metric, mode=mode, parameters=[parameter, "kind"]))
    kinds = ("a<b", "$c$", "模")
    story.add(*({parameter: 0.1 * (place + 1), "kind": kinds[place % 3]} for place in range(len(ODD_NAMES))))
    for index, name in enumerate(ODD_NAMES):
        story.history.trials[story.name(index)].name = name
        story.launch(index)
    for step in range(5):
        for index in range(len(ODD_NAMES)):
            value = math.nan if step == 2 else math.inf if (step, index) == (3, 1) else 0.1 * index + 0.01 * step
            story.report(index, {metric: value}, save=step == 4)
    item = story.exploit(0, 5, **{parameter: 0.7})
    # A story's exploits know no other metric than the guide's.
    scored = dataclasses.replace(item, score=0.04, checkpoint=dataclasses.replace(item.checkpoint, score=0.54))
    story.history.exploits[0] = scored
    story.report(0, {metric: 0.9})
    story.report(0, {metric: 0.95})
    story.fail(2, ValueError("no"))
    return pictured(story)


def without_copies(folder: Path, members: int = 1, steps: int = 4, score: float = 0.5, **facts: Any) -> Experiment:
    """Return members that have all reported one score, and copied nobody."""
    story = Story(folder)
    story.add_usual(members)
    for _ in range(steps):
        for index in range(members):
            story.report(index, {"mean_accuracy": score})
    return pictured(story, **facts)


__all__ = ["ODD_NAMES", "known", "odd", "pictured", "simulated", "without_copies"]
