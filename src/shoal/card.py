"""The PBT report card: what a run says about itself, in statements that tell from which numbers they come.

Did exploits pay, is the interval too short or too long, did one ancestor take over, which hyperparameters moved, where
did the time go, and what did PBT gain over a random search. A reader, and pure: the same journal gives the same card.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .core.commands import Status
from .core.reports import lookup
from .display.text import format_duration, format_value
from .evidence import Rounds, early_share, leads_over_peers, persistence, rounds_of
from .inference import expected_best, middle, quantile, rank_sum_test, sign_test
from .plots.info import finite
from .plots.population import Diversity, Gains, diversity, gains, times
from .reading import Experiment

__all__ = ["ReportCard", "Statement", "Verdict", "report_card"]

_FEW = 5
"""Of fewer cases nothing is concluded."""
_SURE = 0.05
"""A chance below which a difference is taken for no accident."""
_NOISE = 0.3
"""A rank correlation from one boundary to the next below this: who is ahead is mostly luck."""
_ROUNDS = 5
"""With fewer decisions in a whole run, PBT has hardly acted."""
_FLAT = 0.9
"""Where so much of an interval's progress is made in its first half, the second is mostly waiting."""
_NARROW = 0.2
"""Hyperparameters that are closer together than this, by what they were at the beginning, no longer search."""


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
        source: an experiment, or its folder or URL.

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
    rounds = rounds_of(experiment)
    yield _control(experiment)
    yield _exploits(experiment, copied, rounds)
    yield _explore(copied)
    yield _interval(experiment, copied, rounds)
    yield _takeover(experiment, diversity(experiment))
    yield _hyperparameters(experiment)


# ------------------------------------------------------------------------------------------------------------- exploits


def _exploits(experiment: Experiment, copied: Gains, rounds: Rounds) -> Statement:
    """Whether members that copied were better off than those that were as low and did not."""
    if not copied.gains:
        return _no_exploits(experiment, rounds)
    own = [gain for each in copied.gains if (gain := each.gain) is not None]
    leads = leads_over_peers(experiment, rounds)
    better, worse = sum(lead > 0 for lead in leads), sum(lead < 0 for lead in leads)
    chance = sign_test(better, better + worse)
    numbers = [
        f"{_count(len(copied.gains), 'exploit')}",
        *([f"against its own {copied.metric} when it was told to copy, better by {_range(own)}"] if own else []),
    ]
    if leads:
        numbers.append(
            f"against the lower half of those that copied nobody in the same steps, better by {_range(leads)}; better "
            f"{better}, worse {worse}, {_coin(chance)}"
        )
    because = "one interval after each copy. " + "; ".join(numbers)
    share = f"{better} of {_count(len(leads), 'copy', 'copies')} did better than those that were low and copied nobody"
    if better + worse < _FEW or chance >= _SURE:
        few = "cannot be told" if len(leads) >= _FEW else "cannot be told yet"
        text = f"Whether copying pays {few}{f': {share}' if leads else ''}."
        return Statement("exploits", Verdict.INFO, text, because)
    if better > worse:
        return Statement("exploits", Verdict.GOOD, f"Copying pays: {share}.", because)
    text = (
        f"Copying did not pay: only {share}. Scores may be too noisy to tell who is weak (evaluate on more data), or "
        f"what is copied does not carry over: check that the checkpoint holds all of the training's state."
    )
    return Statement("exploits", Verdict.BAD, text, because)


def _no_exploits(experiment: Experiment, rounds: Rounds) -> Statement:
    trials = experiment.history.in_order()
    saved = experiment.history.checkpoints
    because = (
        f"{_count(len(trials), 'member')}, {_count(saved, 'checkpoint')}, no exploit; "
        f"{_count(rounds.decisions, 'decision')} about the member about which there were most"
    )
    if not saved:
        text = "Nobody copied anybody, because no member has saved a checkpoint. Save one at least every interval."
    elif len(trials) - len(experiment.info.control) < 2:
        text = "Nobody copied anybody: there is only one member to take part."
    elif not any(map(len, (life.times for life in rounds.lives))):
        text = "Nobody copied anybody: no score was ever a finite number, and such a score is never copied."
    elif not rounds.decisions:
        text = (
            "Nobody copied anybody: no member has come to its first boundary. A shorter perturbation_interval or "
            "burn_in_period brings it there."
        )
    else:
        text = (
            "Nobody copied anybody although it was decided about members: quantile_fraction is 0, too few members "
            "compete, or all were equal."
        )
    return Statement("exploits", Verdict.WARN, text, because)


def _explore(copied: Gains) -> Statement | None:
    """Whether new hyperparameters did better than the donor's own, from the same weights."""
    cases = [each for each in copied.gains if each.lead is not None]
    leads = [each.lead or 0.0 for each in cases]
    better, worse = sum(lead > 0 for lead in leads), sum(lead < 0 for lead in leads)
    if better + worse < _FEW:
        return None
    chance = sign_test(better, better + worse)
    behind = sum((each.progress or 0.0) < 0 for each in cases)
    donors_behind = sum(each.sign * ((each.donor_after or 0.0) - (each.copied or 0.0)) < 0 for each in cases)
    because = (
        f"member and donor trained on from the same checkpoint to the same boundary. Better {better}, worse {worse}, "
        f"equal {len(leads) - better - worse}, {_coin(chance)}; {copied.metric} better by {_range(leads)}; "
        f"{behind} then were behind the score that they copied, {donors_behind} of the donors were, too"
    )
    share = f"in {better} of {len(leads)} cases they did better than the donor's own"
    if chance < _SURE and better > worse:
        return Statement("explore", Verdict.GOOD, f"Mutated hyperparameters pay: {share}.", because)
    if chance < _SURE:
        more = " mostly" if worse > 0.55 * len(leads) else " somewhat more often"
        text = (
            f"Mutated hyperparameters{more} do worse: {share}. Smaller steps (perturbation_factors nearer to 1) or "
            f"fewer draws from the whole range (resample_probability) lose less; so does a restore after which "
            f"training goes on smoothly (the optimizer's state, warm-up)."
        )
        return Statement("explore", Verdict.WARN, text, because)
    return Statement("explore", Verdict.INFO, f"Mutated hyperparameters do neither better nor worse: {share}.", because)


# ------------------------------------------------------------------------------------------------------------- interval


def _interval(experiment: Experiment, copied: Gains, rounds: Rounds) -> Statement | None:
    """Whether decisions come too early, when scores still are noise, or too late, when little happens any more."""
    if not rounds.rounds:
        return None
    kept, early = persistence(rounds), early_share(experiment, rounds)
    told = [
        *([f"the interval is {format_value(copied.interval)} {copied.time_attr}"] if copied.interval else []),
        f"{_count(rounds.decisions, 'decision')} about the member about which there were most",
    ]
    if kept is not None:
        told.append(
            f"while the population got better, the rank correlation from one boundary to the next was "
            f"{kept.correlation:.2f} (standard error {kept.error:.2f}; {_count(kept.rounds, 'boundary', 'boundaries')} "
            f"of {kept.members} members)"
        )
    if early is not None and early[1] >= 2 * _FEW:
        told.append(f"{early[0]:.0%} of an interval's progress in its first half ({early[1]} cases)")
    because = "; ".join(told)
    if rounds.decisions < _ROUNDS:
        text = (
            f"The interval is long for this run: {_count(rounds.decisions, 'decision')} about a member in all. PBT has "
            f"hardly acted; a shorter perturbation_interval, or a longer run, gives it more to do."
        )
        return Statement("interval", Verdict.WARN, text, because)
    if kept is not None and kept.correlation + 1.65 * kept.error < _NOISE:
        text = (
            "The interval looks too short (greedy): who is ahead at one boundary is not ahead at the next, so copies "
            "follow noise. Lengthen perturbation_interval, or make the score less noisy."
        )
        return Statement("interval", Verdict.WARN, text, because)
    if early is not None and early[0] > _FLAT and early[1] >= 2 * _FEW:
        text = (
            "The interval looks too long: members make their progress in its first half. A shorter "
            "perturbation_interval would decide more often on the same budget."
        )
        return Statement("interval", Verdict.WARN, text, because)
    if kept is None or kept.correlation - 1.65 * kept.error < _NOISE:
        return Statement("interval", Verdict.INFO, "Whether the interval is right cannot be told.", because)
    return Statement("interval", Verdict.GOOD, "The interval looks neither too short nor too long.", because)


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
        spreads = [values[-1] for values in found.spread.values() if values[-1] is not None]
        if spreads and max(spreads) < _NARROW and size >= _FEW:
            more = (
                " Their hyperparameters are close together, too, so little is searched any more: a smaller "
                "quantile_fraction, a higher resample_probability, a longer perturbation_interval or more members "
                "keep the search wider."
            )
            because += f"; the hyperparameters' spread is {_percent(max(spreads))} of that at the beginning, at most"
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
    if len(trials) < _FEW - 1:
        return None
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
    what = "the middle of the members that take part (and between what half of them lie), at the beginning and now"
    because = f"{what}. {'; '.join(numbers)}"
    return Statement("hyperparameters", Verdict.INFO, f"Hyperparameters: {text}.", because)


def _change(before: Sequence[Any], now: Sequence[Any], log: bool) -> tuple[str, str] | None:
    """Return how a hyperparameter moved (empty: it stayed), and the numbers; None where none tells.

    It went up or down where a rank-sum test tells the members' values now from those at the beginning; it narrowed down
    where the middle half of them is less than half as wide.
    """
    old, new = _numbers(before), _numbers(now)
    if old is not None and new is not None:
        evidence = f"{_extent(old)} -> {_extent(new)}"
        if rank_sum_test(old, new) < _SURE:
            return "went up" if middle(new) > middle(old) else "went down", evidence
        ends = " to ".join(format_value(quantile(new, share)) for share in (0.25, 0.75))
        return (f"narrowed down to {ends}" if 2 * _width(new, log) < _width(old, log) else ""), evidence
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
    beside = max(0.0, share + saving + loading - 1.0)
    rest = max(0.0, 1.0 - share - saving - loading)
    overlap = f" ({_percent(beside)} while another trained in the slot)" if beside > 0.005 else ""
    because = (
        f"{format_duration(spent.duration)} on {_slots(experiment)}; saving {_percent(saving)}"
        f"{overlap}, loading {_percent(loading)}, starting, deciding and empty slots {_percent(rest)} of the slots' "
        f"time"
    )
    text = f"{_percent(share)} of the slots' time went into training."
    if share >= 0.9:
        return Statement("time", Verdict.GOOD, text, because)
    causes = {
        "saving": "Save smaller checkpoints, or less often; those in a TemporaryDirectory are moved, not copied.",
        "loading": "Members load for long: fewer processes (max_residents), smaller checkpoints.",
        "empty slots": "Short steps, few members for the slots, or an interval of few steps leave slots empty.",
    }
    largest = max(zip((saving, loading, rest), causes, strict=True))[1]
    verdict = Verdict.WARN if share < 0.75 else Verdict.INFO
    return Statement("time", verdict, f"{text} Most of what is left went into {largest}. {causes[largest]}", because)


def _slots(experiment: Experiment) -> str:
    """How many slots there were."""
    fewest, most = experiment.timeline.slots_between
    if fewest == most:
        return _count(most, "slot")
    average = experiment.timeline.slot_seconds / experiment.timeline.duration
    return f"{fewest} to {_count(most, 'slot')}, {average:.1f} on average"


def _failures(experiment: Experiment) -> Statement | None:
    """Who failed."""
    trials = experiment.history.in_order()
    failed = sum(trial.status is Status.ERROR for trial in trials)
    replaced = sum(exploit.failed is not None for exploit in experiment.history.exploits)
    retried = experiment.timeline.retries
    if not failed and not replaced and not retried:
        return None
    parts = [
        *([f"{_count(failed, 'member')} failed for good"] if failed else []),
        *([f"{_count(retried, 'time')} one was tried again"] if retried else []),
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
    """What PBT gained over a random search: those that took part beside those that trained alone."""
    if not experiment.info.control or not experiment.history.exploits:
        return None
    metric = str(experiment.info.metric)
    alone, together = _ended_scores(experiment, control=True), _ended_scores(experiment, control=False)
    if len(alone) < 1 or len(together) < 2:
        why = f"{len(together)} with a score took part and did not fail, {len(alone)} trained alone"
        return Statement("control", Verdict.INFO, "What PBT gained over a random search cannot be told yet.", why)
    if metric in experiment.info.stop and all(
        trial.last is not None and trial.last.report.stop for trial in experiment.history.trials.values()
    ):
        return _control_by_time(experiment)
    sign = 1.0 if experiment.info.mode == "max" else -1.0
    chance = rank_sum_test(together, alone)
    gain = middle(together) - middle(alone)
    count = min(len(together), len(alone))
    bests = [expected_best(scores, count) for scores in (together, alone)]
    same = len(together) == len(alone)
    because = (
        f"{metric} at the end, in the middle {_shown(sign, together)} of {len(together)} that took part and "
        f"{_shown(sign, alone)} of {len(alone)} that trained alone; a chance of {_chance(chance)} that they differ so "
        f"without a cause (rank-sum test, of this one run); the best of {count} "
        f"{'reached' if same else 'is expected at'} {format_value(sign * bests[0])} against "
        f"{format_value(sign * bests[1])}"
        f"{'' if same else ', but those that took part have learned from more than so many'}; "
        f"{_training(experiment, control=False)} of training each against {_training(experiment, control=True)}"
    )
    if chance >= _SURE:
        text = (
            f"Whether PBT gained anything over a random search cannot be told: members that took part ended "
            f"{_by(gain, metric)} than those that trained alone, which may be luck."
        )
        return Statement("control", Verdict.INFO, text, because)
    if gain > 0:
        text = f"PBT gained over a random search: with the same training, members ended {_by(gain, metric)}."
        return Statement("control", Verdict.GOOD, text, because)
    text = f"PBT lost against a random search: with the same training, members ended {_by(gain, metric)}."
    return Statement("control", Verdict.BAD, text, because)


def _control_by_time(experiment: Experiment) -> Statement | None:
    """All have reached the score that ends them: what differs is how long that took."""
    groups = [
        [experiment.timeline.members[trial.trial_id].training for trial in experiment.history.in_order()
         if (trial.index in experiment.info.control) == control]
        for control in (False, True)
    ]  # fmt: skip
    together, alone = groups
    chance = rank_sum_test(together, alone)
    because = (
        f"all have met {', '.join(experiment.info.stop)}; seconds of training, in the middle "
        f"{format_value(middle(together))} of {len(together)} that took part and {format_value(middle(alone))} of "
        f"{len(alone)} that trained alone; a chance of {_chance(chance)} that they differ so without a cause"
    )
    if chance >= _SURE:
        return Statement(
            "control", Verdict.INFO, "Whether PBT came to its goal sooner than a random search cannot be told.", because
        )
    sooner = middle(together) < middle(alone)
    text = f"PBT came to its goal {'sooner' if sooner else 'later'} than a random search."
    return Statement("control", Verdict.GOOD if sooner else Verdict.BAD, text, because)


def _ended_scores(experiment: Experiment, *, control: bool) -> list[float]:
    """Return the newest scores, larger is better, of those that have not failed."""
    sign = 1.0 if experiment.info.mode == "max" else -1.0
    found: list[float] = []
    for trial in experiment.history.in_order():
        score = finite(trial.value(str(experiment.info.metric)))
        of_group = (trial.index in experiment.info.control) == control and trial.status is not Status.ERROR
        if of_group and score is not None:
            found.append(sign * score)
    return found


def _training(experiment: Experiment, *, control: bool) -> str:
    spent = [
        experiment.timeline.members[trial.trial_id].training
        for trial in experiment.history.in_order()
        if (trial.index in experiment.info.control) == control and trial.status is not Status.ERROR
    ]
    return format_duration(middle(spent)) if spent else "nothing"


def _shown(sign: float, scores: Sequence[float]) -> str:
    return format_value(sign * middle(scores))


def _by(gain: float, metric: str) -> str:
    """Return ``0.02 accuracy better``."""
    return f"{format_value(abs(gain))} {metric} {'better' if gain > 0 else 'worse'}" if gain else "no better"


# -------------------------------------------------------------------------------------------------------------- helpers


def _count(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{format_value(value)}"


def _range(values: Sequence[float]) -> str:
    """Return the middle of some differences, and between what 8 of 10 of them lie."""
    low, high = quantile(values, 0.1), quantile(values, 0.9)
    return f"{_signed(middle(values))} in the middle ({_signed(low)} to {_signed(high)} for 8 of 10)"


def _chance(chance: float) -> str:
    return "less than 0.1%" if chance < 0.001 else f"{chance:.1%}" if chance < 0.1 else f"{chance:.0%}"


def _coin(chance: float) -> str:
    return f"a coin would be as unequal with a chance of {_chance(chance)}"


def _percent(share: float) -> str:
    """Return ``96%``; what is close to nothing or to all with a digit more."""
    return f"{share:.0%}" if 0.1 <= share < 0.985 or share in (0.0, 1.0) else f"{share:.1%}"
