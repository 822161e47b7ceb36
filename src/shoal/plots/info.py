"""Stage one of every plot: from the journal to plain data. What is drawn is decided here, how it looks is not.

``x`` is ``"training_iteration"`` (the steps that made the weights, donors' included), ``"time"`` (seconds since the
experiment began, without pauses between drivers) or any other key of the results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ..core.commands import Status
from ..core.events import Config
from ..core.reports import lookup, number
from ..errors import ConfigError, ResultError, did_you_mean
from ..history import Row, TrialHistory
from ..reading import Experiment

__all__ = [
    "Ancestry",
    "Curve",
    "LearningCurves",
    "Line",
    "Member",
    "ParameterSchedule",
    "Schedules",
    "Stretch",
    "ancestry",
    "by_generation",
    "check_reported",
    "check_x",
    "learning_curves",
    "member_of",
    "metric_of",
    "order_of",
    "reader_of",
    "schedules",
    "winner_of",
    "x_label",
]

_WIDE = 30.0
"""A hyperparameter whose largest value is so many times its smallest has a log axis, where nobody said what it is."""


@dataclass(frozen=True, slots=True)
class Member:
    """Who a line, a lane or a bar is about."""

    index: int
    """Its number in the population."""
    trial_id: str
    name: str
    status: Status
    score: float | None
    """The metric in its newest result; None without one, or where it is not finite."""
    control: bool = False
    """Whether it is kept out of all exploits, to compare with."""


@dataclass(frozen=True, slots=True)
class Line:
    """Points in their order, without a break. A ``y`` that was NaN, infinite or not reported is None."""

    x: tuple[float, ...]
    y: tuple[float | None, ...]

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, slots=True)
class Curve:
    """One member's values: a line for each generation, because with an exploit it goes on as another.

    After an exploit a line begins at the result of the donor that came with the weights; over time, which has passed
    since, at the first result.
    """

    member: Member
    lines: tuple[Line, ...]
    copies: tuple[tuple[float, float | None], ...]
    """Where the lines after an exploit begin."""
    donors: tuple[int, ...] = ()
    """For each of these the number of the member that was copied."""

    @property
    def last(self) -> tuple[float, float] | None:
        """The newest point that has a value."""
        for line in reversed(self.lines):
            for x, y in zip(reversed(line.x), reversed(line.y), strict=True):
                if y is not None:
                    return x, y
        return None


@dataclass(frozen=True, slots=True)
class LearningCurves:
    """What every member reported."""

    experiment: str
    metric: str
    mode: str | None
    """``max`` or ``min``; None where nobody has said which of the two is better."""
    x_label: str
    x_axis: str
    """``training_iteration``, ``time``, or a key of the results."""
    curves: tuple[Curve, ...]
    best: int | None
    """Place of the best member among the curves."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps of some weights that one member trained in one go."""

    member: Member
    generation: int
    line: Line


@dataclass(frozen=True, slots=True)
class Ancestry:
    """The true learning curve of one member's weights, through all donors."""

    experiment: str
    metric: str
    mode: str | None
    x_label: str
    x_axis: str
    """``training_iteration``, ``time``, or a key of the results."""
    member: Member
    """Whose weights they are now."""
    stretches: tuple[Stretch, ...]
    """Oldest first, without a gap."""


@dataclass(frozen=True, slots=True)
class ParameterSchedule:
    """One hyperparameter's values, by member and along the winner's ancestry.

    A value holds from where its first step began to where the first step with another begins, or to where its last
    step ended, and a line has both ends of it.
    """

    name: str
    log: bool
    """Whether its axis should be logarithmic."""
    categories: tuple[str, ...]
    """Texts of its values, where they are no numbers: ``y`` is then the place among these. Else empty."""
    curves: tuple[Curve, ...]
    winner: Line
    """Along the ancestry of the best member's weights; empty without one."""


@dataclass(frozen=True, slots=True)
class Schedules:
    """The hyperparameters' values, step by step."""

    experiment: str
    x_label: str
    x_axis: str
    """``training_iteration``, ``time``, or a key of the results."""
    parameters: tuple[ParameterSchedule, ...]
    best: int | None
    """Place of the best member among the curves of each."""


def learning_curves(
    experiment: Experiment, metric: str | None = None, x: str = "training_iteration", mode: str | None = None
) -> LearningCurves:
    """Return what every member reported.

    Args:
        experiment: which.
        metric: a key of the results, nested ones written ``val/acc``. Default: the one that the scheduler compares.
        x: see the module.
        mode: ``max`` or ``min``, what is better. Default: the experiment's, for its own metric; of another, nobody is
            said to be best.

    Raises:
        ConfigError: no metric is known, or the mode is none.
        ResultError: nobody has reported the metric, or the ``x``.
    """
    key, mode = order_of(experiment, metric, mode)
    read = reader_of(experiment, x)
    check_reported(experiment, key)
    check_reported(experiment, x)
    trials = [trial for trial in experiment.history.in_order() if trial.rows]
    curves = tuple(_curve(experiment, trial, read, lambda row: finite(row.value(key)), x) for trial in trials)
    best = _place(winner_of(experiment, key, mode), trials)
    return LearningCurves(experiment.name, key, mode, x_label(x), x, curves, best)


def ancestry(
    experiment: Experiment,
    metric: str | None = None,
    x: str = "training_iteration",
    trial_id: str | None = None,
    mode: str | None = None,
) -> Ancestry:
    """Return the true learning curve of one member's weights.

    Args:
        experiment, metric, x, mode: as for :func:`learning_curves`.
        trial_id: whose weights. Default: the best member's by this metric; by the experiment's, where nobody has said
            what is better.

    Raises:
        ConfigError: no metric is known, or the mode is none.
        ResultError: there is no such member, it has no result, or nobody has reported the metric.
    """
    key, mode = order_of(experiment, metric, mode)
    read = reader_of(experiment, x)
    check_reported(experiment, key)
    check_reported(experiment, x)
    trial = _trial(experiment, trial_id, winner_of(experiment, key, mode) or winner_of(experiment))
    assert trial.last is not None
    trials = experiment.history.trials
    stretches: list[Stretch] = []
    for (owner, generation), rows in groupby(trial.last.steps(), lambda row: (row.report.trial_id, row.generation)):
        line = _line(rows, read, lambda row: finite(row.value(key)))
        stretches.append(Stretch(member_of(experiment, trials[owner]), generation, line))
    return Ancestry(experiment.name, key, mode, x_label(x), x, member_of(experiment, trial), tuple(stretches))


def schedules(
    experiment: Experiment, parameters: Sequence[str] | None = None, x: str = "training_iteration"
) -> Schedules:
    """Return the hyperparameters' values, step by step.

    Args:
        experiment: which.
        parameters: config keys, nested ones written ``a/b``. Default: all that were sampled or mutate.
        x: see the module.

    Raises:
        ConfigError: the parameters are no sequence of names.
        ResultError: there is no result yet, no config has such a key, or there is no hyperparameter.
    """
    given = parameters if isinstance(parameters, (list, tuple)) else None
    if parameters is not None and (not given or not all(isinstance(name, str) for name in given)):
        raise ConfigError(f"parameters must be a list of config keys such as ['lr'], but is {parameters!r}.")
    read = reader_of(experiment, x)
    check_reported(experiment, x)
    trials = [trial for trial in experiment.history.in_order() if trial.rows]
    names = _parameters(experiment, trials, parameters)
    best = winner_of(experiment)
    path = [] if best is None or best.last is None else best.last.steps()
    return Schedules(
        experiment.name,
        x_label(x),
        x,
        tuple(_parameter(experiment, name, trials, path, _begins(read, x)) for name in names),
        _place(best, trials),
    )


def _parameter(
    experiment: Experiment, name: str, trials: Sequence[TrialHistory], path: Sequence[Row], span: _Span
) -> ParameterSchedule:
    def value(row: Row) -> Any:
        return lookup(row.config, name)

    configs = {id(row.config): row.config for trial in trials for row in trial.rows}
    values = [lookup(config, name) for config in configs.values()]
    numeric = all(each is None or (type(each) is not bool and number(each) is not None) for each in values)
    categories: tuple[str, ...] = ()
    if numeric:

        def place(row: Row) -> float | None:
            return finite(value(row))

    else:
        categories = tuple(sorted({str(each) for each in values if each is not None}))
        places = {text: float(index) for index, text in enumerate(categories)}

        def place(row: Row) -> float | None:
            each = value(row)
            return None if each is None else places[str(each)]

    curves: list[Curve] = []
    for trial in trials:
        lines = [(_donor(experiment, trial, rows), _held(rows, span, place)) for _, rows in by_generation(trial)]
        drawn = [(donor, line) for donor, line in lines if line]
        copies = tuple((line.x[0], line.y[0]) for donor, line in drawn if donor is not None)
        donors = tuple(donor for donor, _ in drawn if donor is not None)
        curves.append(Curve(member_of(experiment, trial), tuple(line for _, line in drawn), copies, donors))
    log = numeric and _is_log(experiment, name, values)
    return ParameterSchedule(name, log, categories, tuple(curves), _held(path, span, place))


def _is_log(experiment: Experiment, name: str, values: Iterable[Any]) -> bool:
    """Whether a parameter is drawn on a log scale; as the space has it, or where it spans a wide range."""
    numbers = [each for value in values if (each := finite(value)) is not None]
    if not numbers or min(numbers) <= 0:
        return False
    return name in experiment.info.log_parameters or max(numbers) > _WIDE * min(numbers)


def _parameters(experiment: Experiment, trials: Sequence[TrialHistory], given: Sequence[str] | None) -> list[str]:
    """Return the names of the parameters to draw."""
    if given is None:
        known = experiment.info.parameters
        found = [name for name in known if any(lookup(trial.config, name) is not None for trial in trials)]
        if not found:
            raise ResultError(
                f"{experiment.name} has no hyperparameter that was sampled or mutates. Name config keys: "
                f"parameters=['lr']."
            )
        return found
    for name in given:
        if all(lookup(row.config, name) is None for trial in trials for row in trial.rows):
            there = [*experiment.info.parameters, *(key for trial in trials[:1] for key in trial.config)]
            raise ResultError(
                f"No config has the key {name!r}.{did_you_mean(name, there)} "
                f"There are: {', '.join(map(repr, dict.fromkeys(there))) or 'none'}."
            )
    return list(given)


# ------------------------------------------------------------------------------------------------------ what all need

Reader = Callable[[Row], float]
"""Where a result is on the x axis."""


def metric_of(experiment: Experiment, metric: str | None) -> tuple[str, str]:
    """Return the metric and the mode that plots are about.

    Raises:
        ConfigError: neither the caller nor the experiment names a metric.
    """
    chosen = experiment.info.metric if metric is None else metric
    if chosen is None:
        raise ConfigError(
            f"Which metric? Neither the Tuner nor the scheduler of {experiment.name} was given one. Name a key of the "
            f"results: metric='mean_accuracy'."
        )
    return chosen, experiment.info.mode


def reader_of(experiment: Experiment, x: str) -> Reader:
    """Return what tells where a result is on the x axis; NaN where it has no such value."""
    if x == "training_iteration":
        return lambda row: float(row.report.iteration)
    if x == "time":
        return lambda row: experiment.timeline.active(row.report.timestamp)

    def read(row: Row) -> float:
        value = number(row.value(x))
        return math.nan if value is None else value

    return read


def check_x(x: str, plot: str) -> None:
    """Raise ConfigError where ``x`` is neither of the two that are known of each change of the population."""
    if x not in ("training_iteration", "time"):
        raise ConfigError(
            f"{plot}: x must be 'training_iteration' or 'time', but is {x!r}."
            f"{did_you_mean(str(x), ('training_iteration', 'time'))} A key of the results is none here: what "
            f"is drawn are changes of the population."
        )


def x_label(x: str, experiment: Experiment | None = None) -> str:
    """Return what is written at the x axis."""
    return {"training_iteration": "training iteration", "time": "time (s)"}.get(x, x)


def finite(value: Any) -> float | None:
    """Return a value as a float; None where it is no number, NaN or infinite."""
    found = number(value)
    return found if found is not None and math.isfinite(found) else None


def member_of(experiment: Experiment, trial: TrialHistory) -> Member:
    """Return who a trial is, for plots."""
    metric = experiment.info.metric
    score = None if metric is None else finite(trial.value(metric))
    control = trial.index in experiment.info.control
    return Member(trial.index, trial.trial_id, trial.name, trial.status, score, control)


def order_of(experiment: Experiment, metric: str | None, mode: str | None) -> tuple[str, str | None]:
    """Return the metric that a plot is about, and what is better; None where nobody has said it.

    Raises:
        ConfigError: neither the caller nor the experiment names a metric, or the mode is none.
    """
    key, own = metric_of(experiment, metric)
    if mode is None:
        return key, own if key == experiment.info.metric else None
    if mode not in ("max", "min"):
        raise ConfigError(f"mode must be 'max' or 'min', but is {mode!r}.{did_you_mean(str(mode), ('max', 'min'))}")
    return key, mode


def winner_of(experiment: Experiment, metric: str | None = None, mode: str | None = None) -> TrialHistory | None:
    """Return the best trial by a metric, or None where no result tells, or nobody has said what is better.

    Args:
        experiment: which.
        metric: by default the experiment's, with its mode.
        mode: ``max`` or ``min``.
    """
    if metric is None:
        return experiment.best
    return None if mode is None else experiment.history.best(metric, mode)


def _trial(experiment: Experiment, trial_id: str | None, best: TrialHistory | None) -> TrialHistory:
    """Return a trial that has a result, by its id; or the best one."""
    trials = experiment.history.trials
    if trial_id is None:
        if best is None:
            raise ResultError(f"{experiment.name} has no best member yet: no result, or no metric that compares them.")
        return best
    trial = trials.get(trial_id)
    if trial is None:
        raise ResultError(
            f"{experiment.name} has no trial {trial_id!r}.{did_you_mean(trial_id, list(trials))} "
            f"Ids: {', '.join(list(trials)[:8])}{', ...' if len(trials) > 8 else ''}."
        )
    if trial.last is None:
        raise ResultError(f"Trial {trial.name} has no result yet.")
    return trial


def check_reported(experiment: Experiment, key: str) -> None:
    """Raise ResultError where no result has a finite number under this key."""
    if key in ("training_iteration", "time"):
        key = "training_iteration"
    trials = experiment.history.in_order()
    if any(finite(row.value(key)) is not None for trial in trials for row in trial.rows):
        return
    if any(number(row.value(key)) is not None for trial in trials for row in trial.rows):
        raise ResultError(
            f"All values of {key!r} in {experiment.name} are NaN or infinite, so there is nothing to draw."
        )
    lasts = [trial.last for trial in trials if trial.last is not None]
    if not lasts:
        raise ResultError(f"{experiment.name} has no result yet, so there is nothing to draw.")
    there = sorted({name for row in lasts for name in row.report.metrics})
    raise ResultError(
        f"No result of {experiment.name} has a number called {key!r}.{did_you_mean(key, there)} "
        f"There are: {', '.join(map(repr, there))}."
    )


def _place(trial: TrialHistory | None, trials: Sequence[TrialHistory]) -> int | None:
    return next((place for place, each in enumerate(trials) if each is trial), None)


def _curve(
    experiment: Experiment, trial: TrialHistory, read: Reader, value: Callable[[Row], float | None], x: str
) -> Curve:
    lines: list[Line] = []
    copies: list[tuple[float, float | None]] = []
    donors: list[int] = []
    for _, rows in by_generation(trial):
        donor = _donor(experiment, trial, rows)
        source = rows[0].before
        line = _line(rows if source is None or x == "time" else [source, *rows], read, value)
        if not line:
            continue
        lines.append(line)
        if donor is not None:
            copies.append((line.x[0], line.y[0]))
            donors.append(donor)
    return Curve(member_of(experiment, trial), tuple(lines), tuple(copies), tuple(donors))


def by_generation(trial: TrialHistory) -> Iterator[tuple[int, list[Row]]]:
    """Yield a member's generations that have results, each with these."""
    for generation, rows in groupby(trial.rows, lambda row: row.generation):
        yield generation, list(rows)


def _donor(experiment: Experiment, trial: TrialHistory, rows: Sequence[Row]) -> int | None:
    """Return the number of the member whose weights a generation's results began with.

    None where nobody was copied: it began from scratch, also again after all its exploits, or with an older checkpoint
    of its own, because the donor's was damaged.
    """
    source = rows[0].before
    owner = trial.trial_id if source is None else source.report.trial_id
    return None if owner == trial.trial_id else experiment.history.trials[owner].index


def _line(rows: Iterable[Row], read: Reader, value: Callable[[Row], float | None]) -> Line:
    points = [(x, value(row)) for row in rows if not math.isnan(x := read(row))]
    return Line(tuple([x for x, _ in points]), tuple([y for _, y in points]))


_Span = Callable[[Row], tuple[float, float]]
"""From where to where on the x axis the step of a result went."""


def _begins(read: Reader, x: str) -> _Span:
    """Return what tells from where to where the step of a result went; NaN where it has no such value."""

    def span(row: Row) -> tuple[float, float]:
        end = read(row)
        if x == "time":
            return max(0.0, end - row.report.time_this_iter_s), end
        begin = read(row.before) if row.before is not None else 0.0 if x == "training_iteration" else end
        return (end if math.isnan(begin) else begin), end

    return span


def _held(rows: Sequence[Row], span: _Span, value: Callable[[Row], float | None]) -> Line:
    """Return a line that has both ends of each stretch of equal values."""
    xs: list[float] = []
    ys: list[float | None] = []
    config: Config | None = None
    y: float | None = None
    for row in rows:
        if xs and row.config is config:  # nearly always, and looking a value up is what takes time
            end = span(row)[1]
            if not math.isnan(end):
                xs[-1] = end
            continue
        begin, end = span(row)
        if math.isnan(end):
            continue
        before, y, config = y, value(row), row.config
        if xs and y == before:
            xs[-1] = end
        else:
            if xs and begin > xs[-1]:
                xs[-1] = begin  # nobody trained meanwhile
            xs += (xs[-1] if xs and xs[-1] > begin else begin), end
            ys += y, y
    return Line(tuple(xs), tuple(ys))


def config_values(configs: Iterable[Config], name: str) -> Iterator[float]:
    """Yield the finite numbers that configs have under a key."""
    for config in configs:
        value = lookup(config, name)
        if type(value) is not bool and (found := finite(value)) is not None:
            yield found
