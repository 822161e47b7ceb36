"""The PBT report card: what a run says about itself, in statements that tell from which numbers they come.

Did exploits pay, is the interval too short or too long, did one ancestor take over, which hyperparameters moved, where
did the time go, and what did PBT gain over a random search. A reader, and pure: the same journal gives the same card.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import Any

from .core.commands import Status
from .core.reports import lookup
from .display.text import format_duration, format_value
from .history import Row, TrialHistory
from .plots.info import finite
from .plots.population import Diversity, Gains, diversity, gains, times
from .reading import Experiment
from .inference import expected_best, middle, quantile, rank_correlation, sign_test

__all__ = ["ReportCard", "Statement", "Verdict", "report_card"]

_FEW = 5
"""Of fewer cases nothing is concluded."""
_SURE = 0.05
"""A chance below which a share is taken for no accident."""
_NOISE = 0.3
"""A rank correlation from one boundary to the next below this: who was ahead was mostly luck."""
_ROUNDS = 5
"""With fewer decisions in a whole run, PBT has hardly acted."""
_FLAT = 0.9
"""Where so much of an interval's progress is made in its first half, the second is mostly waiting."""


class Verdict(str, Enum):
    """What a statement means for the user."""

    GOOD = "good"
    WARN = "warn"
    """Something that can be done better; the text says how."""
    BAD = "bad"
    INFO = "info"
    """Neither, or it cannot be told."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that a run says about itself."""

    key: str
    """``exploits``, ``explore``, ``interval``, ``takeover``, ``hyperparameters``, ``time``, ``control``,
    ``failures``."""
    verdict: Verdict
    text: str
    """What is said, and where there is something to do, what."""
    because: str
    """From which numbers."""


@dataclass(frozen=True, slots=True)
class ReportCard:
    """What a run says about itself."""

    experiment: str
    statements: tuple[Statement, ...]
    """The most important first; empty where there is no result yet."""

    def __iter__(self) -> Iterator[Statement]:
        return iter(self.statements)

    def __len__(self) -> int:
        return len(self.statements)

    def __getitem__(self, key: str) -> Statement:
        """Return the statement with a key.

        Raises:
            KeyError: there is none.
        """
        for statement in self.statements:
            if statement.key == key:
                return statement
        raise KeyError(f"The report card has no statement {key!r}. It has: {', '.join(s.key for s in self)}.")

    def __repr__(self) -> str:
        lines = [f"\n  {statement.verdict.value}: {statement.text} ({statement.because})" for statement in self]
        return f"ReportCard of {self.experiment}{''.join(lines)}"


def report_card(source: Experiment | str | os.PathLike[str]) -> ReportCard:
    """Return what a run says about itself, also while it goes on.

    Args:
        source: an experiment, or its folder.

    Raises:
        JournalError: the folder holds no experiment, or its journal is damaged.
    """
    experiment = source if isinstance(source, Experiment) else Experiment.open(source)
    if not experiment.history.results:
        return ReportCard(experiment.name, ())
    found = [_time(experiment), _failures(experiment)]
    if experiment.info.metric is not None and (experiment.info.exploits or experiment.history.exploits):
        found = [*_of_pbt(experiment), *found]
    return ReportCard(experiment.name, tuple(statement for statement in found if statement is not None))


def _of_pbt(experiment: Experiment) -> Iterator[Statement | None]:
    copied = gains(experiment)
    yield _control(experiment)
    yield _exploits(experiment, copied)
    yield _explore(copied)
    yield _interval(experiment, copied)
    yield _takeover(experiment, diversity(experiment))
    yield _hyperparameters(experiment)


# ------------------------------------------------------------------------------------------------------------- exploits


def _exploits(experiment: Experiment, copied: Gains) -> Statement:
    """Whether a member that copied was better off at its next boundary."""
    if not copied.gains:
        return _no_exploits(experiment)
    known = [gain for each in copied.gains if (gain := each.gain) is not None]
    better = sum(gain > 0 for gain in known)
    open_cases = len(copied.gains) - len(known)
    beside = f" {_count(open_cases, 'exploit')} had no next boundary, or no score." if open_cases else ""
    because = (
        f"the {copied.metric} of a member when it was told to copy, against its own at the next boundary: "
        f"{_signed(middle(known))} in the middle, {_signed(quantile(known, 0.1))} to {_signed(quantile(known, 0.9))} "
        f"for 8 of 10.{beside}"
        if known
        else f"{_count(len(copied.gains), 'exploit')}, none of which has come to its next boundary"
    )
    share = f"{better} of {_count(len(known), 'exploit')} left the member better off one interval later"
    if len(known) < _FEW:
        text = f"Whether copying pays cannot be told yet: {share}." if known else "Whether copying pays is open."
        return Statement("exploits", Verdict.INFO, text, because)
    if better > len(known) / 2:
        return Statement("exploits", Verdict.GOOD, f"Copying pays: {share}.", because)
    text = (
        f"Copying did not pay: only {share}. Scores may be too noisy to tell who is weak (evaluate on more data), or "
        f"what is copied does not carry over: check that the checkpoint holds all of the training's state."
    )
    return Statement("exploits", Verdict.BAD, text, because)


def _no_exploits(experiment: Experiment) -> Statement:
    trials = experiment.history.in_order()
    saved = experiment.history.checkpoints
    because = f"{_count(len(trials), 'member')}, {_count(saved, 'checkpoint')}, no exploit"
    if not saved:
        text = "Nobody copied anybody, because no member has saved a checkpoint. Save one at least every interval."
    elif len(trials) - len(experiment.info.control) < 2:
        text = "Nobody copied anybody: there is only one member to take part."
    else:
        text = (
            "Nobody copied anybody. Either no member has come to its first boundary (a shorter perturbation_interval "
            "or burn_in_period brings it there), or quantile_fraction is 0, or too few members compete."
        )
    return Statement("exploits", Verdict.WARN, text, because)


def _explore(copied: Gains) -> Statement | None:
    """Whether new hyperparameters did better than the donor's own, from the same weights."""
    leads = [lead for each in copied.gains if (lead := each.lead) is not None]
    if len(leads) < _FEW:
        return None
    better, worse = sum(lead > 0 for lead in leads), sum(lead < 0 for lead in leads)
    chance = sign_test(better, better + worse)
    because = (
        f"both trained on from the same checkpoint to the same boundary: {_signed(middle(leads))} {copied.metric} in "
        f"the middle; a coin would give this or a clearer result with a chance of {_percent(chance)}"
    )
    share = f"in {better} of {len(leads)} cases they did better than the donor's own"
    if chance < _SURE and better > worse:
        return Statement("explore", Verdict.GOOD, f"Mutated hyperparameters pay: {share}.", because)
    if chance < _SURE:
        text = (
            f"Mutated hyperparameters mostly do worse: {share}. Smaller steps (perturbation_factors nearer to 1), or "
            f"fewer draws from the whole range (resample_probability), lose less."
        )
        return Statement("explore", Verdict.WARN, text, because)
    return Statement("explore", Verdict.INFO, f"Mutated hyperparameters do neither better nor worse: {share}.", because)


# ------------------------------------------------------------------------------------------------------------- interval


def _interval(experiment: Experiment, copied: Gains) -> Statement | None:
    """Whether decisions come too early, when scores still are noise, or too late, when little happens any more."""
    interval = copied.interval
    if interval is None or interval <= 0:
        return None
    boundaries = _boundaries(experiment, interval)
    furthest = max((number for of_member in boundaries for number in of_member), default=0)
    correlation = _persistence(boundaries, experiment)
    behind, donors_behind, compared = _behind(copied)
    early = _early_share(experiment, interval)
    told = [
        f"the interval is {format_value(interval)} {copied.time_attr}, and the furthest member came to its boundary "
        f"{furthest}",
        *([] if correlation is None else [f"rank correlation from one boundary to the next {correlation:.2f}"]),
        *([] if not compared else [_behind_text(behind, donors_behind, compared)]),
        *([] if early is None else [f"{early:.0%} of an interval's progress in its first half"]),
    ]
    because = "; ".join(told)
    if furthest < _ROUNDS:
        text = (
            f"The interval is long for this run: {_count(furthest, 'decision')} for each member in all. PBT has hardly "
            f"acted; a shorter perturbation_interval, or a longer run, gives it more to do."
        )
        return Statement("interval", Verdict.WARN, text, because)
    if correlation is not None and correlation < _NOISE:
        text = (
            "The interval looks too short (greedy): who is ahead at one boundary is not ahead at the next, so copies "
            "follow noise. Lengthen perturbation_interval, or make the score less noisy."
        )
        return Statement("interval", Verdict.WARN, text, because)
    if compared >= _FEW and behind > compared / 2 and behind - donors_behind > compared / 4:
        text = (
            "The interval looks too short (greedy): most copies had not come back to the score that they copied when "
            "they were judged again. Lengthen perturbation_interval, or check that a restored member goes on smoothly "
            "(the optimizer's state, warm-up)."
        )
        return Statement("interval", Verdict.WARN, text, because)
    if early is not None and early > _FLAT:
        text = (
            "The interval looks too long: members make their progress in its first half. A shorter "
            "perturbation_interval would decide more often on the same budget."
        )
        return Statement("interval", Verdict.WARN, text, because)
    if correlation is None and compared < _FEW:
        return Statement("interval", Verdict.INFO, "Whether the interval is right cannot be told yet.", because)
    return Statement("interval", Verdict.GOOD, "The interval looks neither too short nor too long.", because)


def _behind(copied: Gains) -> tuple[int, int, int]:
    """Return how many copies were worse at their next boundary than what they copied, how many donors, and of how many.

    A score that is copied is one of the highest, so by chance alone what follows is often lower. The donor, which
    trained on from the same weights, tells how often.
    """
    cases = [each for each in copied.gains if None not in (each.progress, each.donor_after)]
    behind = sum((each.progress or 0.0) < 0 for each in cases)
    donors = sum(each.sign * ((each.donor_after or 0.0) - (each.copied or 0.0)) < 0 for each in cases)
    return behind, donors, len(cases)


def _behind_text(behind: int, donors: int, cases: int) -> str:
    return f"{behind} of {_count(cases, 'copy', 'copies')} behind the score they copied, their donors {donors} times"


_Boundaries = list[dict[int, tuple[int, float]]]
"""For each member, by the number of the boundary: its generation then, and its score."""


def _boundaries(experiment: Experiment, interval: float) -> _Boundaries:
    """Return the members' scores at their boundaries: in the first result in or behind each."""
    found: _Boundaries = []
    for trial in experiment.history.in_order():
        of_member: dict[int, tuple[int, float]] = {}
        for generation, rows in _generations(trial):
            for row in rows:
                reached = finite(row.value(experiment.info.time_attr))
                score = finite(row.value(str(experiment.info.metric)))
                if reached is not None and score is not None and reached >= interval:
                    number = int(reached / interval + 1e-9)
                    if number not in of_member or of_member[number][0] != generation:
                        of_member[number] = (generation, score)
        found.append(of_member)
    return found


def _persistence(boundaries: _Boundaries, experiment: Experiment) -> float | None:
    """Return how well the ranks at a boundary tell those at the next, among members that went on by themselves."""
    found: list[float] = []
    last = max((number for of_member in boundaries for number in of_member), default=0)
    for number in range(1, last):
        pairs = [
            (now[1], later[1])
            for of_member in boundaries
            if (now := of_member.get(number)) is not None
            and (later := of_member.get(number + 1)) is not None
            and now[0] == later[0]
        ]
        if len(pairs) >= 4 and (correlation := rank_correlation(pairs)) is not None:
            found.append(correlation)
    return sum(found) / len(found) if len(found) >= 3 else None


def _early_share(experiment: Experiment, interval: float) -> float | None:
    """Return which part of an interval's progress is made in its first half, in the middle; None where few tell."""
    sign = 1.0 if experiment.info.mode == "max" else -1.0
    shares: list[float] = []
    for trial in experiment.history.in_order():
        for _, rows in _generations(trial):
            for values in _by_interval(rows, experiment, interval):
                whole = sign * (values[-1] - values[0])
                if len(values) >= _FEW and whole > 0:
                    shares.append(sign * (values[(len(values) - 1) // 2] - values[0]) / whole)
    return middle(shares) if len(shares) >= 2 * _FEW else None


def _by_interval(rows: Sequence[Row], experiment: Experiment, interval: float) -> Iterator[list[float]]:
    """Yield the scores of each interval, with the one that it begins with."""
    scored = [
        (reached, score)
        for row in rows
        if (reached := finite(row.value(experiment.info.time_attr))) is not None
        and (score := finite(row.value(str(experiment.info.metric)))) is not None
    ]
    before: list[float] = []
    for _, group in groupby(scored, lambda pair: math.ceil(pair[0] / interval - 1e-9)):
        values = [score for _, score in group]
        if before:
            yield [before[-1], *values]
        before = values


# ------------------------------------------------------------------------------------------------- takeover, parameters


def _takeover(experiment: Experiment, found: Diversity) -> Statement | None:
    """Whether the population descends from one ancestor, and since when."""
    if len(found.founders) < 2 or not experiment.history.exploits:
        return None
    left = sum(count > 0 for count in found.shares[-1])
    whose = found.founders[max(range(len(found.founders)), key=lambda place: found.shares[-1][place])]
    size, end = sum(found.shares[-1]), found.x[-1]
    because = (
        f"{left} of {len(found.founders)} founders have descendants left, an effective number of "
        f"{found.effective[-1]:.1f}; the newest exploits came from an effective number of "
        f"{found.donors[-1] or 0.0:.1f} donors"
    )
    if found.fixation is not None:
        when = found.x[found.fixation]
        text = (
            f"One ancestor took over: from iteration {when:g} of {end:g} on, all {size} members descend from member "
            f"{whose.index}."
        )
        if end and when < end / 2:
            more = (
                " That is early: a smaller quantile_fraction, a longer perturbation_interval or burn_in_period, or "
                "more members keep the search wider."
            )
            return Statement("takeover", Verdict.WARN, text + more, because)
        return Statement("takeover", Verdict.INFO, text, because)
    if found.takeover is not None:
        when = found.x[found.takeover]
        share = max(found.shares[-1])
        text = (
            f"One ancestor has most of the population: {share} of {size} members descend from member {whose.index}, "
            f"at least half since iteration {when:g} of {end:g}."
        )
        return Statement("takeover", Verdict.INFO, text, because)
    return Statement("takeover", Verdict.GOOD, f"No ancestor took over: {left} founders have descendants.", because)


def _hyperparameters(experiment: Experiment) -> Statement | None:
    """Which hyperparameters moved, and in which direction."""
    trials = [trial for trial in experiment.history.in_order() if trial.index not in experiment.info.control]
    best = experiment.best
    moved: list[str] = []
    stayed: list[str] = []
    numbers: list[str] = []
    for name in experiment.info.parameters:
        before = [lookup(trial.initial_config, name) for trial in trials]
        now = [lookup(trial.config, name) for trial in trials]
        winner = [] if best is None or best.last is None else [lookup(row.config, name) for row in best.last.steps()]
        change = _change(before, now, name in experiment.info.log_parameters)
        if change is None:
            continue
        direction, evidence = change
        (moved if direction else stayed).append(f"{name} {direction}".strip())
        if winner:
            evidence += f", the winner's {format_value(winner[0])} -> {format_value(winner[-1])}"
        numbers.append(f"{name}: {evidence}")
    if not numbers:
        return None
    parts = [", ".join(moved) if moved else "none moved"]
    if stayed and moved:
        parts.append(f"{', '.join(stayed)} stayed")
    text = "; ".join(parts)
    what = "the middle of all members (and between what half of them lie), at the beginning and now"
    because = f"{what}. {'; '.join(numbers)}"
    return Statement("hyperparameters", Verdict.INFO, f"Hyperparameters: {text}.", because)


def _change(before: Sequence[Any], now: Sequence[Any], log: bool) -> tuple[str, str] | None:
    """Return how a hyperparameter moved (empty: it stayed), and the numbers; None where none tells.

    It went up or down where the middle has left what half of the members had; it narrowed down where these are now less
    than half as far apart.
    """
    old, new = _numbers(before), _numbers(now)
    if old is not None and new is not None:
        first, last = middle(old), middle(new)
        evidence = f"{_extent(old)} -> {_extent(new)}"
        if not quantile(old, 0.25) <= last <= quantile(old, 0.75):
            return "went up" if last > first else "went down", evidence
        return ("narrowed down" if 2 * _width(new, log) < _width(old, log) else ""), evidence
    texts, texts_now = (Counter(str(value) for value in values if value is not None) for values in (before, now))
    if not texts or not texts_now:
        return None
    (most, count), total = texts_now.most_common(1)[0], sum(texts_now.values())
    evidence = f"{most} in {texts[most]} of {sum(texts.values())} members -> {count} of {total}"
    return (f"became {most}" if count > total / 2 and count > texts[most] else ""), evidence


def _width(values: Sequence[float], log: bool) -> float:
    """Return how far the middle half of some values are apart; by a factor, where the scale is logarithmic."""
    low, high = quantile(values, 0.25), quantile(values, 0.75)
    return math.log(high / low) if log and low > 0 else high - low


def _extent(values: Sequence[float]) -> str:
    """Return the middle of some values, and between what the middle half of them lies."""
    ends = " to ".join(format_value(quantile(values, share)) for share in (0.25, 0.75))
    return f"{format_value(middle(values))} ({ends})"


def _numbers(values: Sequence[Any]) -> list[float] | None:
    """Return values as numbers, or None where one is none."""
    found = [None if type(value) is bool else finite(value) for value in values]
    return [value for value in found if value is not None] if found and None not in found else None


# --------------------------------------------------------------------------------------- time, failures and control


def _time(experiment: Experiment) -> Statement | None:
    """How much of the slots' time went elsewhere than into training."""
    spent = times(experiment)
    share = spent.training_share
    if share is None:
        return None
    saving = sum(each.saving for each in spent.members) / spent.slot_seconds
    loading = sum(each.loading for each in spent.members) / spent.slot_seconds
    rest = max(0.0, 1.0 - share - saving - loading)
    because = (
        f"{format_duration(spent.duration)} on {_count(experiment.info.slots, 'slot')}; saving {_percent(saving)}, "
        f"loading {_percent(loading)}, starting, deciding and empty slots {_percent(rest)} of the slots' time"
    )
    text = f"{_percent(share)} of the slots' time went into training."
    if share >= 0.9:
        return Statement("time", Verdict.GOOD, text, because)
    causes = {
        "saving": "Save smaller checkpoints, or less often; those in a TemporaryDirectory are moved, not copied.",
        "loading": "Members load for long: fewer processes (max_residents), smaller checkpoints.",
        "the rest": "Short steps, few members for the slots, or an interval of few steps leave slots empty.",
    }
    largest = max(zip((saving, loading, rest), causes, strict=True))[1]
    verdict = Verdict.WARN if share < 0.75 else Verdict.INFO
    return Statement("time", verdict, f"{text} Most of the others went into {largest}. {causes[largest]}", because)


def _failures(experiment: Experiment) -> Statement | None:
    """Who failed."""
    trials = experiment.history.in_order()
    failed = sum(trial.status is Status.ERROR for trial in trials)
    replaced = sum(exploit.failed is not None for exploit in experiment.history.exploits)
    if not failed and not replaced:
        return None
    parts = [
        *([f"{_count(failed, 'member')} failed for good"] if failed else []),
        *([f"{_count(replaced, 'time')} one that had failed went on as a copy"] if replaced else []),
    ]
    text = f"{', and '.join(parts)}."
    return Statement(
        "failures",
        Verdict.BAD if failed else Verdict.WARN,
        text[0].upper() + text[1:],
        f"{failed} of {_count(len(trials), 'trial')} with the status ERROR; see error.txt in their folders",
    )


def _control(experiment: Experiment) -> Statement | None:
    """What PBT gained over a random search on the same budget."""
    control, metric = set(experiment.info.control), str(experiment.info.metric)
    if not control:
        return None
    sign = 1.0 if experiment.info.mode == "max" else -1.0
    scores: Mapping[bool, list[float]] = {True: [], False: []}
    spent: Mapping[bool, list[float]] = {True: [], False: []}
    for trial in experiment.history.in_order():
        score = finite(trial.value(metric))
        if score is not None:
            scores[trial.index in control].append(sign * score)
            spent[trial.index in control].append(experiment.timeline.members[trial.trial_id].training)
    alone, taking_part = scores[True], scores[False]
    if not alone or len(taking_part) < len(alone):
        return Statement(
            "control", Verdict.INFO, "What PBT gained over a random search cannot be told yet.",
            f"{_count(len(alone), 'member')} kept out of exploits with a score, {len(taking_part)} others",
        )  # fmt: skip
    best = expected_best(taking_part, len(alone))
    gain = best - max(alone)
    why = (
        f"on the same budget, {_count(len(alone), 'member')}: the best of so many that took part is expected at "
        f"{format_value(sign * best)} {metric}, the best of those kept out of exploits is at "
        f"{format_value(sign * max(alone))}; the middle of all {format_value(sign * middle(taking_part))} against "
        f"{format_value(sign * middle(alone))}; {format_duration(middle(spent[False]))} of training each against "
        f"{format_duration(middle(spent[True]))}"
    )
    few = " With so few controls that may be luck." if len(alone) < 3 else ""
    if gain > 0:
        text = f"PBT gained {format_value(gain)} {metric} over a random search on the same budget.{few}"
        return Statement("control", Verdict.INFO if few else Verdict.GOOD, text, why)
    text = f"PBT gained nothing over a random search on the same budget: {_signed(gain)} {metric}.{few}"
    return Statement("control", Verdict.INFO if few else Verdict.BAD, text, why)


# -------------------------------------------------------------------------------------------------------------- helpers


def _generations(trial: TrialHistory) -> Iterator[tuple[int, list[Row]]]:
    for generation, rows in groupby(trial.rows, lambda row: row.generation):
        yield generation, list(rows)


def _count(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{format_value(value)}"


def _percent(share: float) -> str:
    """Return ``96%``; what is close to nothing or to all with a digit more."""
    return f"{share:.0%}" if 0.1 <= share < 0.985 or share in (0.0, 1.0) else f"{share:.1%}"
