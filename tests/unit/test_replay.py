"""Replay: the files that it reads, the decisions that it takes, and what becomes of them in a simulated experiment."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.helpers import climb, fit, pbt

import shoal
from shoal.core.commands import CheckpointRecord, Command, Exploit, FallBack, Launch, Notice, Reconfigure, Status
from shoal.core.events import Config
from shoal.core.policy import Change, Proceed
from shoal.core.population import Population
from shoal.errors import ConfigError, ResultError
from shoal.replay import read_policy
from shoal.results import Result
from shoal.schedulers.replay import ReplayPolicy, ReplayScheduler
from shoal.testing import BrokenContract, Fault, Simulation, SimulationResult, random_faults
from shoal.tune.schedulers import PopulationBasedTrainingReplay

from .stories import Story

OBJECT = object()


def exploit(target: str, donor: str, step: int, old: Any, new: Any, at: int = 0) -> str:
    """Return a line of a policy file."""
    return json.dumps([target, donor, at or step, step, old, new]) + "\n"


def lr(value: float) -> Config:
    return {"lr": value, "momentum": 0.9, "checkpoint_interval": 5}


RAY = (
    # Trial 1 copied 3 and then 0, which had copied 2: so the file of 0 came first. Both numbers are one low.
    exploit("0_lr=0.1000,momentum=0.9000", "2_lr=0.3000,momentum=0.9000", 4, lr(0.3), lr(0.36), at=9)
    + exploit("1_lr=0.2000,momentum=0.9000", "0_lr=0.1000,momentum=0.9000", 9, lr(0.36), lr(0.288), at=14)
)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tmp_path / "pbt_policy_40bd6_00001.txt"


def read(path: Path, text: str | bytes) -> tuple[Config, list[tuple[int, Config]]]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_policy(path)


def refused(path: Path, text: str | bytes) -> str:
    """Return the message with which a file is refused."""
    with pytest.raises(ConfigError) as error:
        read(path, text)
    return str(error.value)


# ---------------------------------------------------------------------------------------------------- files to be read


def test_a_file_gives_the_initial_config_and_each_change_with_the_age_of_the_copied_weights(policy: Path) -> None:
    assert read(policy, RAY) == (lr(0.3), [(4, lr(0.36)), (9, lr(0.288))])


@pytest.mark.parametrize(
    "text", [RAY.rstrip("\n"), RAY.replace("\n", "\r\n"), f"\n{RAY}\n  \n", RAY.replace("\n", "\n\n")]
)
def test_blank_lines_and_other_line_ends_change_nothing(policy: Path, text: str) -> None:
    assert read(policy, text) == read_policy(_written(policy, RAY))


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_values_may_be_nested_not_finite_or_text(policy: Path) -> None:
    old: Config = {"opt": {"lr": 0.1, "betas": [0.9, 0.999]}, "bound": math.inf, "name": "a\tb ü", "none": None}
    new: Config = {"opt": {"lr": math.nan, "betas": [0.8, 0.99]}, "bound": -math.inf, "name": "c", "none": True}
    initial, changes = read(policy, exploit("0_a", "1_b", 3, old, new))
    assert initial == old
    assert math.isnan(changes[0][1]["opt"].pop("lr"))
    assert changes[0][1]["opt"] == {"betas": [0.8, 0.99]}
    assert changes[0][1]["bound"] == -math.inf


def test_whole_numbers_may_be_written_as_floats(policy: Path) -> None:
    _, changes = read(policy, '["0", "1", 5.0, 1e1, {"lr": 1}, {"lr": 2}]')
    assert changes == [(10, {"lr": 2})]
    assert type(changes[0][0]) is int


def test_what_was_copied_before_its_first_step_is_the_initial_config(policy: Path) -> None:
    text = exploit("0", "1", 0, lr(0.1), lr(0.2)) + exploit("2", "0", 0, lr(0.2), lr(0.3))
    assert read(policy, text) == (lr(0.3), [])
    assert read(policy, text + exploit("3", "2", 4, lr(0.3), lr(0.4))) == (lr(0.3), [(4, lr(0.4))])


def test_lines_that_ray_tune_leaves_in_the_file_although_those_weights_are_gone_do_not_count(policy: Path) -> None:
    """Where the donor has no policy file, Ray appends to the target's own; its own replay skips what is before."""
    left = exploit("1_lr=0.2", "3_lr=0.4", 4, lr(0.4), lr(0.48), at=9)
    counts = exploit("1_lr=0.2", "0_lr=0.1", 9, lr(0.1), lr(0.08), at=14)
    after = exploit("2_lr=0.3", "1_lr=0.2", 14, lr(0.08), lr(0.1), at=14)
    assert read(policy, left + counts) == (lr(0.1), [(9, lr(0.08))])
    assert read(policy, left + counts + after) == (lr(0.1), [(9, lr(0.08)), (14, lr(0.1))])
    assert read(policy, left + left + counts) == (lr(0.1), [(9, lr(0.08))])


def test_a_tag_that_ray_tune_has_changed_on_a_restore_does_not_break_the_chain(policy: Path) -> None:
    text = exploit("0_lr=0.1", "2_lr=0.3", 5, lr(0.3), lr(0.36))
    text += exploit("1_lr=0.2", "0_lr=0.1@perturbed[lr=0.36]", 10, lr(0.36), lr(0.43))
    text += exploit("1_lr=0.2@perturbed[lr=0.43]", "1_lr=0.2", 15, lr(0.43), lr(0.5))
    assert [step for step, _ in read(policy, text)[1]] == [5, 10, 15]


def test_several_changes_at_one_step_are_all_read(policy: Path) -> None:
    text = exploit("0", "1", 5, lr(0.1), lr(0.2)) + exploit("2", "0", 5, lr(0.2), lr(0.3))
    assert read(policy, text)[1] == [(5, lr(0.2)), (5, lr(0.3))]


def test_the_path_may_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "policy.txt").write_text(RAY)
    assert PopulationBasedTrainingReplay("~/policy.txt").initial == lr(0.3)


def test_the_files_of_a_run_hold_exactly_its_exploits(tmp_path: Path) -> None:
    grid = fit(climb, tmp_path, engine="inline", scheduler=pbt(), space={"lr": shoal.tune.uniform(0, 1), "every": 5})
    files = sorted(Path(grid.experiment_path).glob("pbt_policy_*.txt"))
    assert files
    for file in files:
        trial_id = file.stem.removeprefix("pbt_policy_")
        result = next(result for result in grid if result.trial_id == trial_id)
        schedule = result.schedule()
        replay = PopulationBasedTrainingReplay(file)
        assert replay.initial == schedule.initial
        assert replay.changes == schedule.changes[1:]
        assert replay.changes[-1][1] == result.config


# -------------------------------------------------------------------------------------------------------- damaged files


def test_a_file_that_is_not_there_is_said_with_those_that_are(tmp_path: Path) -> None:
    missing = tmp_path / "pbt_policy_x.txt"
    with pytest.raises(ConfigError, match=re.escape(f"{missing} does not exist. In {tmp_path} there is none.")):
        PopulationBasedTrainingReplay(missing)
    (tmp_path / "pbt_policy_a.txt").touch()
    with pytest.raises(ConfigError, match=re.escape("there are: pbt_policy_a.txt.")):
        PopulationBasedTrainingReplay(str(missing))
    with pytest.raises(ConfigError, match=r"is a folder; give the policy file of one trial.*pbt_policy_a\.txt"):
        PopulationBasedTrainingReplay(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        PopulationBasedTrainingReplay(tmp_path / "no" / "such" / "folder.txt")


def test_the_file_of_all_exploits_is_no_policy(tmp_path: Path) -> None:
    path = _written(tmp_path / "pbt_global.txt", RAY)
    with pytest.raises(ConfigError, match="holds the exploits of all trials; give the policy file of one trial"):
        PopulationBasedTrainingReplay(path)


@pytest.mark.parametrize("wrong", [None, 5, ["a.txt"], b"a.txt"])
def test_what_is_no_path_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"policy_file must be the path of a pbt_policy_<trial id>\.txt"):
        PopulationBasedTrainingReplay(wrong)


def test_a_misspelled_argument_is_named() -> None:
    with pytest.raises(ConfigError, match="policy_file"):
        PopulationBasedTrainingReplay(policyfile="a.txt")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("text", ["", "\n", " \n\t\r\n"])
def test_an_empty_file_is_refused(policy: Path, text: str) -> None:
    assert "is empty, so there is nothing to replay" in refused(policy, text)


def test_a_last_line_that_is_cut_off_is_named(policy: Path) -> None:
    message = refused(policy, RAY[:-20])
    assert f"line 2 of {policy} is no JSON at column" in message
    assert "It is the last line: is the file cut off?" in message


def test_a_line_in_the_middle_that_is_mangled_is_named_by_its_place_in_the_file(policy: Path) -> None:
    first, second = RAY.splitlines(keepends=True)
    message = refused(policy, f"{first}\n{second[:30]}\n{second}")
    assert f"line 3 of {policy} is no JSON" in message
    assert "cut off" not in message


def test_a_damaged_line_is_refused_also_where_it_does_not_count(policy: Path) -> None:
    counts = exploit("1_lr=0.2", "0_lr=0.1", 9, lr(0.1), lr(0.08))
    left = exploit("1_lr=0.2", "3_lr=0.4", 4, lr(0.4), lr(0.48))
    assert "line 1 of" in refused(policy, left.replace(" 4,", " -4,", 1).replace(" 4,", " -4,", 1) + counts)


def test_bytes_that_are_no_text_are_refused_with_their_line(policy: Path) -> None:
    assert "line 2 of" in (message := refused(policy, RAY.encode()[:-9] + b"\xff\xfe\n"))
    assert "is no text (byte " in message
    assert re.search(r"line \d of", refused(policy, bytes(range(256))))
    assert "line 1 of" in refused(policy, b"\x00" * 100)
    assert "line 1 of" in refused(policy, pickle.dumps(RAY))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('["0", "1", 5, 5, {"lr": 1}]', "has 5 fields instead of a list of 6"),
        ('["0", "1", 5, 5, {"lr": 1}, {"lr": 2}, 7]', "has 7 fields"),
        ("[]", "has 0 fields"),
        ('{"lr": 1}', "has a dict instead of a list"),
        ("7", "has a int instead of a list"),
        ("null", "has a NoneType instead of a list"),
        ('["0", "1", "5", 5, {"lr": 1}, {"lr": 2}]', "the target iteration must be a whole number, but is '5'"),
        ('["0", "1", 5, "5", {"lr": 1}, {"lr": 2}]', "the donor iteration must be a whole number, but is '5'"),
        ('["0", "1", 5, -1, {"lr": 1}, {"lr": 2}]', "the donor iteration must be a whole number, but is -1"),
        ('["0", "1", 5, 1.5, {"lr": 1}, {"lr": 2}]', "but is 1.5"),
        ('["0", "1", 5, true, {"lr": 1}, {"lr": 2}]', "but is True"),
        ('["0", "1", 5, null, {"lr": 1}, {"lr": 2}]', "but is None"),
        ('["0", "1", 5, NaN, {"lr": 1}, {"lr": 2}]', "but is nan"),
        ('["0", "1", 5, Infinity, {"lr": 1}, {"lr": 2}]', "but is inf"),
        ('["0", "1", "' + "9" * 5000 + '", 5, {"lr": 1}, {"lr": 2}]', "but is '9999"),
        ('["0", "1", 5, 5, ["' + "9" * 5000 + '"], {"lr": 2}]', "the donor config must be an object"),
        ('["0", "1", 5, 5, [["lr", 1]], {"lr": 2}]', "the donor config must be an object"),
        ('["0", "1", 5, 5, {"lr": 1}, "lr"]', "the new config must be an object"),
        ("[" * 100_000, "is no JSON"),
        ('["0", "1", 5, ' + "9" * 5000 + ', {"lr": 1}, {"lr": 2}]', "is no JSON"),
        (RAY.replace("\n", ""), "is no JSON"),
    ],
)
def test_a_line_that_is_not_as_it_must_be_is_named_with_what_is_wrong(policy: Path, line: str, said: str) -> None:
    message = refused(policy, f"{RAY}{line}\n")
    assert f"line 3 of {policy}" in message
    assert said in message
    assert "Each line must be a JSON list [target tag, donor tag" in message
    assert len(message) < 700


GOOD = (
    exploit("0_lr=0.1", "2_lr=0.3,ü=\u2603", 5, {"lr": 0.3, "opt": {"n": 3}}, {"lr": 0.36, "opt": {"n": 4}}, at=10)
    + exploit("1_lr=0.2", "0_lr=0.1", 10, {"lr": 0.36, "opt": {"n": 4}}, {"lr": 0.288, "opt": {"n": -4}}, at=15)
    + exploit("3_lr=0.4", "1_lr=0.2", 15, {"lr": 0.288, "opt": {"n": -4}}, {"lr": math.nan, "opt": {}}, at=15)
).encode()


def read_or_refuse(path: Path, data: bytes) -> None:
    """Read any bytes: either the outcome makes sense, or a ConfigError names the line (or says that there is none)."""
    path.write_bytes(data)
    try:
        initial, changes = read_policy(path)
    except ConfigError as error:
        if re.search(r"line \d+ of|is empty", str(error)):
            return
        raise
    assert isinstance(initial, dict)
    assert len(changes) <= data.count(b"\n") + 1
    assert all(type(step) is int and step > 0 and isinstance(config, dict) for step, config in changes)


def test_a_file_that_is_cut_anywhere_is_read_up_to_a_whole_line_or_refused(policy: Path) -> None:
    whole = [0]
    for size in range(len(GOOD) + 1):
        read_or_refuse(policy, GOOD[:size])
        ends = GOOD[:size].endswith(b"]") and not GOOD[:size].endswith(b"]]")
        if ends or GOOD[:size].endswith(b"\n"):
            whole.append(len(read_policy(policy)[1]))
    assert sorted(set(whole)) == [0, 1, 2, 3]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_file_with_other_bytes_is_read_or_refused(policy: Path, flips: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for place, byte in flips:
        data[place] = byte
    read_or_refuse(policy, bytes(data))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(policy: Path, data: bytes) -> None:
    read_or_refuse(policy, data)


# -------------------------------------------------------------------------------------------------------- the scheduler


def scheduler(*steps: int) -> ReplayScheduler:
    """Return a replay that begins with h=0 and changes to h=1, h=2, ... at the steps."""
    return ReplayScheduler({"h": 0}, [(step, {"h": number}) for number, step in enumerate(steps, start=1)])


def test_it_trains_one_trial_on_the_schedules_first_config() -> None:
    replay = scheduler(5)
    assert replay.prepare({"h": 7, "data": OBJECT}, 0, 1) == {"h": 0, "data": OBJECT}
    with pytest.raises(ConfigError, match=re.escape("leave TuneConfig(num_samples=1)")):
        replay.prepare({}, 1, 1)
    assert "replay" in replay.describe()


def test_it_says_which_keys_change() -> None:
    first: Config = {
        "a": 1,
        "b": 1,
        "n": {"x": 1, "y": [1]},
        "weights": np.zeros(3),
        "same": np.zeros(3),
        "nan": math.nan,
    }
    second = {**first, "b": 2, "n": {"x": 1, "y": [2]}, "weights": np.ones(3), "same": np.zeros(3), "new": 1}
    third = {**second, "a": 1.0}
    replay = ReplayScheduler(first, [(1, second), (2, third)])
    assert replay.mutated() == ["b", "n/y", "weights", "new", "a"]


class Anything:
    """An object that no JSON holds."""


def test_keys_and_objects_beside_the_schedule_stay_through_all_changes() -> None:
    data, other = Anything(), Anything()
    first: Config = {"lr": 0.1, "data": "<text>", "net": {"width": 3, "loss": "<text>"}, "name": "n"}
    second: Config = {"lr": 0.2, "data": "<text>", "net": {"width": 4, "loss": "<text>"}, "name": "m"}
    replay = ReplayScheduler(first, [(5, second)])
    mine: Config = {"lr": 9.0, "data": data, "net": {"width": 9, "loss": other, "deep": 1}, "name": 5, "extra": [1]}
    begun = replay.prepare(mine, 0, 1)
    assert begun == {
        "lr": 0.1,
        "data": data,
        "net": {"width": 3, "loss": other, "deep": 1},
        "name": "n",
        "extra": [1],
    }
    policy = replay.policy(mode="max", seed=1)
    policy.add("t", 0, begun)
    policy.observe("t", None, record(5))
    assert policy.decide("t", 5.0, None) == [
        Change("t", {"lr": 0.2, "data": data, "net": {"width": 4, "loss": other, "deep": 1}, "name": "m", "extra": [1]})
    ]
    assert first["data"] == second["data"] == "<text>"


def test_a_key_that_the_schedule_drops_is_dropped() -> None:
    replay = ReplayScheduler({"a": 1, "b": 2, "n": {"x": 1}}, [(5, {"a": 1})])
    policy = replay.policy(mode="max", seed=1)
    policy.add("t", 0, replay.prepare({}, 0, 1))
    policy.observe("t", None, record(5))
    assert policy.decide("t", 5.0, None) == [Change("t", {"a": 1})]


def test_an_object_of_the_schedule_gives_way_to_one_that_is_given_unless_the_schedule_changes_it() -> None:
    """A reference of an earlier process refers to nothing any more; a function that is a hyperparameter is one."""
    old, new, sine, cosine, mine = (Anything() for _ in range(5))
    first: Config = {"data": old, "n": {"f": sine}}
    replay = ReplayScheduler(first, [(5, {"data": old, "n": {"f": cosine}})])
    begun = replay.prepare({"data": new, "n": {"f": mine}}, 0, 1)
    assert begun == {"data": new, "n": {"f": sine}}
    policy = replay.policy(mode="max", seed=1)
    policy.add("t", 0, begun)
    policy.observe("t", None, record(5))
    assert policy.decide("t", 5.0, None) == [Change("t", {"data": new, "n": {"f": cosine}})]


# ----------------------------------------------------------------------------------------------------------- the policy


def record(iteration: int) -> CheckpointRecord:
    return CheckpointRecord("t/0", "t", 0, "d", 1, iteration, float(iteration), 1.0, None, None)


class Told:
    """A replay's policy, told of one report after the other."""

    def __init__(self, *steps: int) -> None:
        self.policy: ReplayPolicy = scheduler(*steps).policy(mode="max", seed=1)
        self.policy.add("t", 0, {"h": 0})

    def report(self, step: int, *, save: bool = True) -> int | None:
        """Report as a member does; return the h that the config changes to, or None."""
        self.policy.observe("t", None, record(step) if save else None)
        until = self.policy.until("t")
        if until is None or step < until:
            return None
        (decision,) = self.policy.decide("t", float(step), None)
        return int(decision.new_config["h"]) if isinstance(decision, Change) else None


def test_the_config_changes_at_the_recorded_steps_and_then_never_again() -> None:
    told = Told(2, 5)
    assert [told.report(step) for step in range(1, 8)] == [None, 1, None, None, 2, None, None]
    assert told.policy.until("t") is None
    assert told.policy.notice() is None


def test_a_change_without_a_checkpoint_waits_for_the_next_and_says_so_once_it_is_due() -> None:
    told = Told(2, 10)
    assert told.report(1, save=False) is None
    assert told.policy.notice() is None
    assert told.report(2, save=False) is None
    notice = told.policy.notice()
    assert notice is not None
    assert "change the config at step 2, but no checkpoint came with this report" in notice[1]
    assert told.policy.notice() is None
    assert [told.report(step, save=step == 5) for step in (3, 4, 5, 6)] == [None, None, 1, None]
    assert told.policy.until("t") == 10


def test_of_several_changes_that_are_due_the_last_counts() -> None:
    told = Told(2, 3, 3, 4, 9)
    assert [told.report(step, save=step in (4, 9)) for step in range(1, 10)] == [None] * 3 + [4] + [None] * 4 + [5]


def test_steps_that_the_trial_leaps_over_are_not_forgotten() -> None:
    told = Told(2, 5, 20)
    assert told.report(7) == 2
    assert told.policy.until("t") == 20


def test_a_trial_that_begins_anew_begins_the_schedule_anew() -> None:
    told = Told(2, 5)
    assert [told.report(step) for step in (1, 2, 3, 4, 5)] == [None, 1, None, None, 2]
    told.policy.gone("t")
    told.policy.back("t", {"h": 0})
    assert [told.report(step) for step in (1, 2, 3, 4, 5)] == [None, 1, None, None, 2]


def test_a_trial_that_goes_on_from_its_end_changes_there_where_that_is_due() -> None:
    told = Told(2, 5)
    assert told.report(2) == 1
    told.policy.observe("t", None, record(5))  # it meets its stop condition, so nobody asks
    told.policy.gone("t")
    assert told.policy.settle() == []
    told.policy.back("t", None)
    assert told.policy.until("t") == 5
    assert told.policy.decide("t", 5.0, None) == [Change("t", {"h": 2})]


def test_values_that_a_restore_replaces_are_kept_through_later_changes() -> None:
    replay = ReplayScheduler({"h": 0, "batch": 32}, [(2, {"h": 1, "batch": 32})])
    policy = replay.policy(mode="max", seed=1)
    policy.add("t", 0, replay.prepare({"data": "old", "n": {"a": 1, "b": 2}}, 0, 1))
    policy.replace({"data": "new", "n": {"b": 3}, "batch": 64})
    policy.observe("t", None, record(2))
    assert policy.decide("t", 2.0, None) == [Change("t", {"h": 1, "batch": 64, "data": "new", "n": {"a": 1, "b": 3}})]
    assert replay.changes == ((2, {"h": 1, "batch": 32}),)


def test_what_concerns_others_changes_nothing() -> None:
    told = Told(2)
    told.policy.withdraw("t")
    told.policy.recall({})
    assert told.policy.settle() == []
    assert told.policy.decide("t", 1.0, None) == [Proceed("t")]


# ------------------------------------------------------------------------------------------- in a simulated experiment


def trace(config: Config, state: list[int] | None) -> tuple[dict[str, Any], list[int]]:
    """The state is the list of all h that it was trained with."""
    trained = [*(state or []), config["h"]]
    return {"score": float(len(trained)), "trained": trained}, trained


def replayed(*steps: int, end: int = 12, **options: Any) -> SimulationResult:
    settings: dict[str, Any] = {"stop": {"training_iteration": end}, **options}
    return Simulation(trace, [{}], scheduler(*steps), **settings).run()


def trained(result: SimulationResult) -> list[int]:
    (state,) = result.states.values()
    return list(state)


def test_a_replay_trains_to_its_end_with_the_recorded_config_at_each_step() -> None:
    result = replayed(2, 5, 11)
    assert trained(result) == [0] * 2 + [1] * 3 + [2] * 6 + [3]
    assert list(result.statuses.values()) == [Status.TERMINATED]
    assert [(change.number, change.iteration, change.old_config, change.new_config) for change in changes(result)] == [
        (1, 2, {"h": 0}, {"h": 1}),
        (2, 5, {"h": 1}, {"h": 2}),
        (3, 11, {"h": 2}, {"h": 3}),
    ]
    assert not result.exploits
    assert not result.notices


def changes(result: SimulationResult) -> list[Reconfigure]:
    return list(result.of_kind(Reconfigure))


def test_it_stays_in_its_process() -> None:
    assert [launch.fresh for launch in replayed(2, 5).of_kind(Launch)] == [True, False, False]


def test_checkpoints_that_come_less_often_delay_a_change_and_lose_no_step() -> None:
    result = replayed(4, 9, checkpoint_every=5, end=14)
    assert trained(result) == [0] * 5 + [1] * 5 + [2] * 4
    assert [notice.key for notice in result.of_kind(Notice)] == ["replay-checkpoint"]


def test_without_checkpoints_it_trains_to_its_end_and_says_what_is_missing() -> None:
    result = replayed(4, 9, checkpoint_every=0)
    assert trained(result) == [0] * 12
    assert [notice.key for notice in result.of_kind(Notice)] == ["replay-checkpoint"]


def test_members_that_can_save_change_at_the_very_step_and_keep_no_checkpoint_that_nobody_needs() -> None:
    result = replayed(4, 9, checkpoint_every=0, saves_when_needed=True)
    assert trained(result) == [0] * 4 + [1] * 5 + [2] * 3
    assert result.peak_checkpoints == 2
    assert len(result.checkpoints) == 1


def test_a_change_at_the_last_step_or_after_it_never_comes() -> None:
    result = replayed(12, 20)
    assert trained(result) == [0] * 12
    assert not changes(result)


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in (Fault.RETURN, Fault.DAMAGE)])
@pytest.mark.parametrize("saves", [{"checkpoint_every": 1}, {"checkpoint_every": 0, "saves_when_needed": True}])
def test_whatever_fails_on_the_way_the_outcome_is_the_same(fault: Fault, saves: dict[str, Any]) -> None:
    struck = 0
    for seed in range(25):
        faults = random_faults(seed, {fault: 0.25})
        result = replayed(2, 5, 11, max_failures=-1, faults=faults, seed=seed, **saves)
        assert trained(result) == [0] * 2 + [1] * 3 + [2] * 6 + [3]
        assert [change.iteration for change in changes(result)] == [2, 5, 11]
        struck += len(result.of_kind(Launch)) > 4
    assert struck > 10 or fault is Fault.CRASH_PARKED  # it has the machine for itself, so it is never parked


def test_a_replay_that_falls_back_behind_a_change_does_not_change_too_early() -> None:
    fell = failed = 0
    for seed in range(60):
        faults = random_faults(seed, {Fault.DAMAGE: 0.4})
        result = replayed(2, 5, 11, max_failures=-1, faults=faults, seed=seed, checkpoint_every=1)
        fell += len(result.of_kind(FallBack))
        if set(result.statuses.values()) == {Status.ERROR}:
            failed += 1  # there was no older checkpoint that was whole
            continue
        assert trained(result) == [0] * 2 + [1] * 3 + [2] * 6 + [3]
        assert sorted({change.iteration for change in changes(result)}) in ([2, 5, 11], [2, 11], [5, 11], [11])
    assert fell > 30
    assert failed < 30


def test_the_engine_refuses_a_change_that_would_lose_work() -> None:
    class Careless(Simulation):
        def population(self) -> Population:
            population = super().population()
            apply = population.apply

            def careless(event: Any) -> list[Command]:
                return [
                    dataclasses.replace(command, iteration=1) if isinstance(command, Reconfigure) else command
                    for command in apply(event)
                ]

            population.apply = careless  # type: ignore[method-assign]
            return population

    with pytest.raises(BrokenContract, match="it holds iteration 2: work is lost"):
        Careless(trace, [{}], scheduler(2), stop={"training_iteration": 5}).run()


# ------------------------------------------------------------------------------------------------------------- a result


def result_of(story: Story, index: int) -> Result:
    trial = story.history.trials[story.name(index)]
    return Result(trial, story.history, story.folder)


def test_a_result_gives_its_schedule_with_the_very_values(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.add_usual()
    data = (1, Anything())
    for index in range(2):
        story.report(index, save=True)
    story.exploit(0, 1, lr=0.1 + 0.2, data=data)
    story.report(0, iteration=2)
    replay = PopulationBasedTrainingReplay.from_result(result_of(story, 0))
    assert isinstance(replay, PopulationBasedTrainingReplay)
    assert replay.initial == {"lr": 0.2, "momentum": 0.9, "checkpoint_interval": 5}
    assert replay.changes == ((1, {"lr": 0.1 + 0.2, "momentum": 0.9, "checkpoint_interval": 5, "data": data}),)
    assert replay.changes[0][1]["data"] is data


def test_a_result_that_has_copied_nobody_gives_a_schedule_without_changes(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.add_usual()
    story.report(3)
    replay = PopulationBasedTrainingReplay.from_result(result_of(story, 3))
    assert replay.initial == story.history.trials[story.name(3)].config
    assert replay.changes == ()
    assert replay.mutated() == []


def test_a_result_without_a_report_has_nothing_to_replay(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.add_usual()
    with pytest.raises(ResultError, match="reported nothing"):
        PopulationBasedTrainingReplay.from_result(result_of(story, 0))


@pytest.mark.parametrize("wrong", [None, "pbt_policy_x.txt", {"lr": 1}])
def test_what_is_no_result_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape("takes a Result, such as results.get_best_result(), but got")):
        PopulationBasedTrainingReplay.from_result(wrong)


def test_a_replay_of_a_result_can_be_pickled(tmp_path: Path) -> None:
    replay: Any = PopulationBasedTrainingReplay(_written(tmp_path / "p.txt", RAY))
    again = pickle.loads(pickle.dumps(replay))
    assert (again.initial, again.changes) == (replay.initial, replay.changes)


def test_a_simulated_population_and_the_replay_of_its_policy_do_the_same(tmp_path: Path) -> None:
    """What Shoal writes, read back: the same configs at the same steps as in the donors' lives."""
    simulation = Simulation(
        trace,
        [{"h": index} for index in range(6)],
        pbt(hyperparam_mutations={"h": list(range(50))}, perturbation_interval=3),
        slots=2,
        stop={"training_iteration": 30},
    )
    result = simulation.run()
    copied = [trial_id for trial_id in result.states if any(e.trial_id == trial_id for e in result.exploits)]
    assert copied
    lines: dict[str, str] = {}
    alive: dict[str, str] = {}
    for step in result.exploits:
        assert isinstance(step, Exploit)
        tags = (str(result.trials[step.trial_id].index), str(result.trials[step.donor_id].index))
        alive[step.trial_id] = alive.get(step.donor_id, "") + exploit(
            *tags, step.checkpoint.iteration, step.donor_config, step.new_config
        )
        lines = alive
    for trial_id, text in lines.items():
        replay = PopulationBasedTrainingReplay(_written(tmp_path / f"{trial_id}.txt", text))
        again = Simulation(trace, [{}], replay, stop={"training_iteration": 30}).run()
        assert trained(again) == result.states[trial_id]
