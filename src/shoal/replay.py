"""``PopulationBasedTrainingReplay``: trains one member on the schedule of a policy file, or of an earlier result."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .arguments import check_arguments
from .core.events import Config
from .errors import ConfigError, ResultError
from .location import is_url
from .schedulers.replay import ReplayScheduler
from .space import same

if TYPE_CHECKING:
    from .results import Result

__all__ = ["PopulationBasedTrainingReplay", "read_policy"]

_FIELDS = ("target tag", "donor tag", "target iteration", "donor iteration", "donor config", "new config")


@check_arguments
class PopulationBasedTrainingReplay(ReplayScheduler):
    """Trains one member from scratch on the hyperparameter schedule of an earlier PBT run.

    The member begins with the initial config of the file and changes its config at the recorded steps. No weights are
    copied, so the outcome differs from the original's. At a change the member is entered again from its own checkpoint
    of that step, with the new config (a class trainable whose ``reset_config`` returns True goes on in place). So save
    checkpoints as often as the original run; where the step of a change has none, the change waits for the next.

    Use the same trainable as the original run, and one trial. ``param_space`` may add keys that the file lacks, and
    objects that no file can hold, such as references from ``shoal.put``.

    Args:
        policy_file: path or URL of a ``pbt_policy_<trial id>.txt`` that Shoal or Ray Tune wrote.

    Raises:
        ConfigError: the file is missing, empty or damaged; the message names the line.
    """

    def __init__(self, policy_file: str | os.PathLike[str]) -> None:
        initial, changes = read_policy(policy_file)
        super().__init__(initial, changes)

    @classmethod
    def from_result(cls, result: Result) -> PopulationBasedTrainingReplay:
        """Return a replay of the schedule that made a result's final weights, exact to the last bit.

        Args:
            result: a result of an experiment of Shoal, for example ``results.get_best_result()``.

        Raises:
            ConfigError: this is no result of a trial.
            ResultError: the trial has reported nothing.
        """
        schedule_of = getattr(result, "schedule", None)
        if not callable(schedule_of):
            raise ConfigError(
                f"PopulationBasedTrainingReplay.from_result takes a Result, such as results.get_best_result(), but got "
                f"{result!r}."
            )
        schedule: Any = schedule_of()
        if not schedule.changes:
            raise ResultError("The trial has reported nothing, so there is no schedule to replay.")
        replay = cls.__new__(cls)
        ReplayScheduler.__init__(replay, schedule.initial, schedule.changes[1:])
        return replay


def read_policy(policy_file: str | os.PathLike[str]) -> tuple[Config, list[tuple[int, Config]]]:
    """Return the initial config and the changes, as (step, config), of a policy file.

    Each line is a JSON list ``[target tag, donor tag, target iteration, donor iteration, donor config, new config]``:
    the weights had trained for ``donor iteration`` steps when they went on with ``new config``. The first line's donor
    config is the initial one.

    Raises:
        ConfigError: the file is missing, empty or damaged; the message names the line.
    """
    path = _checked_path(policy_file)
    lines = _lines(path)
    if not lines:
        raise ConfigError(
            f"PopulationBasedTrainingReplay: {path} is empty, so there is nothing to replay. Only trials that have "
            f"copied another have a policy; take one of them, or PopulationBasedTrainingReplay.from_result(result)."
        )
    exploits: list[_Line] = []
    for number, text in lines:
        line = _parsed(text, f"line {number} of {path}", last=number == lines[-1][0])
        if exploits and _is_left_over(exploits[-1], line):
            exploits.clear()
        exploits.append(line)
    initial = exploits[0].donor_config
    changes = [(line.step, line.new_config) for line in exploits]
    while changes and changes[0][0] <= 0:
        initial = changes.pop(0)[1]  # weights that had not trained yet
    return initial, changes


class _Line(NamedTuple):
    """One exploit, as far as a replay needs it."""

    target: str
    donor: str
    step: int
    """How long the copied weights had trained."""
    donor_config: Config
    new_config: Config


def _is_left_over(before: _Line, line: _Line) -> bool:
    """Return whether a line tells of weights that the next line's exploit has thrown away.

    Ray Tune appends to the target's own file where the donor has none, because it has never copied another. Its own
    replay looks at the tags for that reason. They begin with the trial's number; what follows changes when Ray restores
    an experiment.
    """
    tags = [tag.partition("_")[0] for tag in (before.target, line.target, line.donor)]
    copied_itself = all(map(str.isdigit, tags)) and tags[0] == tags[1] != tags[2]
    return copied_itself and not same(before.new_config, line.donor_config)


def _checked_path(policy_file: object) -> Path | str:
    if not isinstance(policy_file, (str, os.PathLike)):
        raise ConfigError(
            f"PopulationBasedTrainingReplay: policy_file must be the path of a pbt_policy_<trial id>.txt, but is "
            f"{policy_file!r}. For a Result, use PopulationBasedTrainingReplay.from_result(result)."
        )
    if is_url(policy_file):
        return policy_file
    path = Path(policy_file).expanduser()
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.name != "pbt_global.txt":
        return path
    there = sorted(entry.name for entry in folder.glob("pbt_policy_*.txt")) if folder.is_dir() else []
    if path.is_dir():
        what = "is a folder; give the policy file of one trial"
    elif path.is_file():
        what = "holds the exploits of all trials; give the policy file of one trial"
    else:
        what = "does not exist"
    more = ", ..." if len(there) > 8 else ""
    hint = f" In {folder} there are: {', '.join(there[:8])}{more}." if there else f" In {folder} there is none."
    raise ConfigError(f"PopulationBasedTrainingReplay: {path} {what}.{hint}")


def _lines(path: Path | str) -> list[tuple[int, str]]:
    """Return (number from 1, text) of all lines that are not blank; the file may be in object storage."""
    try:
        raw = _downloaded(path) if isinstance(path, str) else path.read_bytes()
    except OSError as error:
        raise ConfigError(f"PopulationBasedTrainingReplay: {path} cannot be read: {error}.") from error
    found: list[tuple[int, str]] = []
    for number, line in enumerate(raw.split(b"\n"), start=1):
        try:
            text = line.decode("utf-8").strip("\r \t")
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"PopulationBasedTrainingReplay: line {number} of {path} is no text (byte {error.start + 1} is not "
                f"UTF-8). {_EXPECTED}"
            ) from error
        if text:
            found.append((number, text))
    return found


def _downloaded(url: str) -> bytes:
    from .storage.fetching import read_file

    found = read_file(url)
    if found is None:
        raise ConfigError(f"PopulationBasedTrainingReplay: {url} does not exist.")
    return found


_EXPECTED = (
    "Each line must be a JSON list [target tag, donor tag, target iteration, donor iteration, donor config, new "
    "config], as in the pbt_policy_<trial id>.txt that a run wrote."
)


def _parsed(line: str, where: str, *, last: bool) -> _Line:
    try:
        values: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        cut = " It is the last line: is the file cut off?" if last else ""
        place = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ConfigError(
            f"PopulationBasedTrainingReplay: {where} is no JSON{place}: {_excerpt(line)}.{cut} {_EXPECTED}"
        ) from error
    if not isinstance(values, list) or len(values) != len(_FIELDS):
        count = f"{len(values)} fields" if isinstance(values, list) else f"a {type(values).__name__}"
        raise ConfigError(
            f"PopulationBasedTrainingReplay: {where} has {count} instead of a list of {len(_FIELDS)}: "
            f"{_excerpt(line)}. {_EXPECTED}"
        )
    for field in (2, 3):
        step = values[field]
        whole = isinstance(step, (int, float)) and not isinstance(step, bool) and step == step // 1 and step >= 0
        if not whole:
            raise ConfigError(
                f"PopulationBasedTrainingReplay: {where}: the {_FIELDS[field]} must be a whole number, but is "
                f"{step!r:.60}. {_EXPECTED}"
            )
    for field in (4, 5):
        if _is_deep(values[field]):
            raise ConfigError(
                f"PopulationBasedTrainingReplay: {where}: the {_FIELDS[field]} is nested more than {_DEEPEST} levels "
                f"deep. {_EXPECTED}"
            )
        if not isinstance(values[field], dict):
            raise ConfigError(
                f"PopulationBasedTrainingReplay: {where}: the {_FIELDS[field]} must be an object such as "
                f'{{"lr": 0.1}}, but is {_excerpt(json.dumps(values[field]))}. {_EXPECTED}'
            )
    return _Line(str(values[0]), str(values[1]), int(values[3]), values[4], values[5])


_DEEPEST = 100


def _is_deep(value: Any) -> bool:
    """Whether a JSON value is nested so deeply that functions which follow it would come to the end of the stack."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [part for each in level if isinstance(each, (dict, list)) for part in _inside(each)]
    return bool(level)


def _inside(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:40]} ... {text[-15:]}")
