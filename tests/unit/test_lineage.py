"""Where weights come from: lineage and schedule, of experiments told record by record and of simulated ones."""

from __future__ import annotations

import builtins
import itertools
import json
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.simulation.scenarios import Scenario, drawn_scenario

from shoal.core.commands import Reconfigure, Retry, Status
from shoal.core.events import Config, Opened
from shoal.core.limits import Limits, RetentionRules
from shoal.errors import ConfigError, ResultError
from shoal.history import History, Row, TrialHistory
from shoal.journal.codec import Record, decode, encode
from shoal.lineage import Lineage, Schedule, Segment, lineage_of, schedule_of
from shoal.results import Result
from shoal.testing import Fault, Simulation, SimulationResult, random_faults
from shoal.tune.schedulers import PopulationBasedTrainingReplay

from .stories import Story

Part = tuple[int, int, int, float, "str | None", "str | None"]


@pytest.fixture
def story(tmp_path: Path) -> Story:
    told = Story(tmp_path)
    told.add_usual()
    return told


def result(story: Story, index: int) -> Result:
    return Result(story.history.trials[story.name(index)], story.history, story.folder)


def parts(story: Story, index: int) -> list[Part]:
    """Return (trial, first step, last step, lr, checkpoint, donor) of each segment, ids without the run's."""
    run = f"{story.info.run_id}_0000"
    return [
        (
            segment.trial,
            segment.first_step,
            segment.last_step,
            segment.config["lr"],
            segment.checkpoint and segment.checkpoint.replace(run, "").replace("checkpoint_00000", ""),
            segment.donor_id and segment.donor_id.replace(run, ""),
        )
        for segment in result(story, index).lineage()
    ]


def lrs(schedule: Schedule) -> list[tuple[int, float]]:
    return [(step, config["lr"]) for step, config in schedule.changes]


def train(story: Story, index: int, *steps: int) -> None:
    """Let a trial report steps, each with a checkpoint."""
    for step in steps:
        story.report(index, save=True, iteration=step)


# ------------------------------------------------------------------------------------------------ told record by record


def test_a_trial_that_copies_nobody_is_its_own_only_ancestor(story: Story) -> None:
    train(story, 2, 1, 2, 3)
    assert parts(story, 2) == [(2, 1, 3, 0.3, None, None)]
    (segment,) = result(story, 2).lineage()
    assert segment.trial_id == story.name(2)
    assert segment.steps == 3
    assert segment.config == story.history.trials[story.name(2)].config
    assert lrs(result(story, 2).schedule()) == [(0, 0.3)]


def test_an_exploit_brings_the_donors_steps_up_to_its_checkpoint(story: Story) -> None:
    train(story, 1, 1, 2)
    story.report(1)  # the donor is further than its checkpoint
    train(story, 0, 1, 2, 3)
    story.exploit(0, 1, lr=0.5)
    train(story, 0, 3, 4)
    assert parts(story, 0) == [(1, 1, 2, 0.2, None, None), (0, 3, 4, 0.5, "1/1", "1")]
    lineage = result(story, 0).lineage()
    assert lineage[1].checkpoint == f"{story.name(1)}/checkpoint_000001"
    assert [segment.digest for segment in lineage] == [None, "d1935"]
    assert lrs(result(story, 0).schedule()) == [(0, 0.2), (2, 0.5)]
    assert parts(story, 1) == [(1, 1, 3, 0.2, None, None)]


def test_a_donor_that_had_copied_brings_its_own_ancestors(story: Story) -> None:
    train(story, 3, 1, 2)
    story.exploit(1, 3, lr=0.5)
    train(story, 1, 3, 4)
    story.exploit(0, 1, lr=0.6)
    train(story, 0, 5)
    assert parts(story, 0) == [
        (3, 1, 2, 0.4, None, None),
        (1, 3, 4, 0.5, "3/1", "3"),
        (0, 5, 5, 0.6, "1/1", "1"),
    ]


def test_what_becomes_of_the_donor_afterwards_does_not_change_where_the_copy_came_from(story: Story) -> None:
    train(story, 1, 1, 2)
    story.exploit(0, 1, lr=0.5)
    train(story, 3, 1)
    story.exploit(1, 3, lr=0.7)
    train(story, 1, 2, 3)
    train(story, 0, 3)
    assert parts(story, 0) == [(1, 1, 2, 0.2, None, None), (0, 3, 3, 0.5, "1/1", "1")]
    assert parts(story, 1) == [(3, 1, 1, 0.4, None, None), (1, 2, 3, 0.7, "3/0", "3")]


def test_two_trials_that_copy_each_other_in_turn_are_told_apart(story: Story) -> None:
    train(story, 0, 1)
    train(story, 1, 1, 2)
    story.exploit(0, 1, lr=0.5)
    train(story, 0, 3, 4)
    story.exploit(1, 0, lr=0.6)
    train(story, 1, 5)
    story.exploit(0, 1, lr=0.7)
    train(story, 0, 6)
    assert [(part[0], part[1], part[2]) for part in parts(story, 0)] == [(1, 1, 2), (0, 3, 4), (1, 5, 5), (0, 6, 6)]
    assert lrs(result(story, 0).schedule()) == [(0, 0.2), (2, 0.5), (4, 0.6), (5, 0.7)]


def test_an_exploit_after_the_last_report_does_not_count_yet(story: Story) -> None:
    train(story, 1, 1, 2)
    train(story, 0, 1)
    story.exploit(0, 1, lr=0.5)
    assert parts(story, 0) == [(0, 1, 1, 0.1, None, None)]
    story.exploit(0, 1, lr=0.6)  # it failed, perhaps, and copies again
    train(story, 0, 3)
    assert parts(story, 0) == [(1, 1, 2, 0.2, None, None), (0, 3, 3, 0.6, "1/1", "1")]


def test_an_exploit_of_old_weights_leads_back_and_not_on(story: Story) -> None:
    train(story, 1, 1)
    train(story, 0, *range(1, 8))
    story.exploit(0, 1, lr=0.5)
    story.report(0, iteration=2)
    assert parts(story, 0) == [(1, 1, 1, 0.2, None, None), (0, 2, 2, 0.5, "1/0", "1")]


def test_steps_that_a_retry_repeats_count_once(story: Story) -> None:
    train(story, 0, 1, 2)
    story.fail_and_retry(0, RuntimeError("once"))
    train(story, 0, 1, 2, 3)
    assert parts(story, 0) == [(0, 1, 3, 0.1, None, None)]
    train(story, 1, 1, 2)
    story.exploit(0, 1, lr=0.5)
    train(story, 0, 3, 4)
    error = story.failed(0, RuntimeError("twice"))
    story.tell(error, Retry(error.trial_id, 2, 2, error.error))
    assert parts(story, 0)[-1] == (0, 3, 4, 0.5, "1/1", "1")
    story.launch(0, 2, story.saved[story.name(1)])
    assert parts(story, 0) == [(0, 1, 3, 0.1, None, None)], "its last result is from before it copied"
    story.report(0, iteration=3)
    assert parts(story, 0) == [(1, 1, 2, 0.2, None, None), (0, 3, 3, 0.5, "1/1", "1")]


def test_a_report_that_the_news_of_a_crash_has_overtaken_counts_for_nothing(story: Story) -> None:
    train(story, 0, 1)
    late = story.reported(0, iteration=2, save=True)
    error = story.failed(0, RuntimeError("gone"))
    story.tell(error, Retry(error.trial_id, 1, 1, error.error), late)
    trial = story.history.trials[story.name(0)]
    assert [row.report.iteration for row in trial.rows] == [1]
    assert list(trial.checkpoints) == [0]
    story.launch(0, 1, replace(story.saved[trial.trial_id], id=f"{trial.trial_id}/checkpoint_000000", number=0))
    story.report(0, iteration=2)
    assert [row.report.iteration for row in trial.rows] == [1, 2]


def test_a_deleted_checkpoint_stays_in_the_lineage(story: Story) -> None:
    train(story, 1, 1, 2)
    story.exploit(0, 1, lr=0.5)
    train(story, 1, 3)
    story.delete_checkpoint(1, 1)
    train(story, 0, 3)
    assert parts(story, 0) == [(1, 1, 2, 0.2, None, None), (0, 3, 3, 0.5, "1/1", "1")]


def test_without_a_report_there_is_no_lineage_and_no_schedule(story: Story) -> None:
    lineage, schedule = result(story, 0).lineage(), result(story, 0).schedule()
    assert len(lineage) == 0
    assert schedule.changes == ()
    assert json.loads(lineage.to_json()) == json.loads(schedule.to_json()) == []
    assert lineage.to_dataframe().empty
    assert schedule.to_dataframe().empty


def test_a_trial_that_begins_anew_has_none_of_its_former_ancestors(story: Story) -> None:
    train(story, 1, 1)
    story.exploit(0, 1, lr=0.5)
    train(story, 0, 2)
    story.fail(0, RuntimeError("for good"))
    story.tell(Opened(Limits(), RetentionRules(), anew=(story.name(0),)))
    assert len(result(story, 0).lineage()) == 0
    story.launch(0)
    story.report(0, iteration=1)
    assert parts(story, 0) == [(0, 1, 1, 0.1, None, None)]


def reconfigure(story: Story, index: int, **changed: Any) -> None:
    """Let a trial change its config at its newest checkpoint, as a replay does."""
    trial = story.history.trials[story.name(index)]
    saved = story.saved[trial.trial_id]
    number = len(trial.changes) + 1
    new = {**trial.config, **changed}
    story.tell(Reconfigure(trial.trial_id, trial.launches, number, saved.iteration, saved, trial.config, new))
    story.launch(index, saved.iteration, saved)


def test_a_replay_is_its_own_ancestor_at_each_change(story: Story) -> None:
    train(story, 0, 1, 2)
    reconfigure(story, 0, lr=0.5)
    train(story, 0, 3)
    reconfigure(story, 0, lr=0.6)
    story.report(0, iteration=4)
    assert parts(story, 0) == [
        (0, 1, 2, 0.1, None, None),
        (0, 3, 3, 0.5, "0/1", None),
        (0, 4, 4, 0.6, "0/2", None),
    ]
    assert lrs(result(story, 0).schedule()) == [(0, 0.1), (2, 0.5), (3, 0.6)]


def test_a_stretch_without_a_step_is_in_the_lineage_and_not_in_the_schedule(story: Story) -> None:
    train(story, 0, 1, 2)
    reconfigure(story, 0, lr=0.5)
    reconfigure(story, 0, lr=0.6)
    story.report(0, iteration=3)
    assert [(part[1], part[2], part[3]) for part in parts(story, 0)] == [(1, 2, 0.1), (3, 2, 0.5), (3, 3, 0.6)]
    assert [segment.steps for segment in result(story, 0).lineage()] == [2, 0, 1]
    assert lrs(result(story, 0).schedule()) == [(0, 0.1), (2, 0.6)]


def test_a_trial_that_was_copied_can_change_its_config_too(story: Story) -> None:
    train(story, 1, 1)
    reconfigure(story, 1, lr=0.5)
    train(story, 1, 2)
    story.exploit(0, 1, lr=0.6)
    story.report(0, iteration=3)
    assert [(part[0], part[1], part[3], part[5]) for part in parts(story, 0)] == [
        (1, 1, 0.2, None),
        (1, 2, 0.5, None),
        (0, 3, 0.6, "1"),
    ]


# ------------------------------------------------------------------------------------- back to an older checkpoint


def test_a_trial_that_goes_on_from_an_older_checkpoint_than_its_change_is_told_from_there(story: Story) -> None:
    """The newer ones are damaged."""
    train(story, 0, 1, 2)
    older = story.saved[story.name(0)]
    train(story, 0, 3)
    reconfigure(story, 0, lr=0.5)
    train(story, 0, 4)
    story.lose(0)
    story.launch(0, 2, older)
    story.report(0, iteration=3)
    assert parts(story, 0) == [(0, 1, 2, 0.1, None, None), (0, 3, 3, 0.5, "0/1", None)]
    assert lrs(result(story, 0).schedule()) == [(0, 0.1), (2, 0.5)]


def test_a_trial_that_goes_on_from_an_older_checkpoint_of_its_donor_is_told_from_there(story: Story) -> None:
    train(story, 1, 1, 2)
    older = story.saved[story.name(1)]
    train(story, 1, 3)
    story.exploit(0, 1, lr=0.5)
    story.report(0, iteration=4)
    story.launch(0, 2, older)
    train(story, 0, 3)
    assert parts(story, 0) == [(1, 1, 2, 0.2, None, None), (0, 3, 3, 0.5, "1/1", "1")]
    story.exploit(2, 0, lr=0.6)
    story.report(2, iteration=4)
    assert [part[:3] for part in parts(story, 2)] == [(1, 1, 2), (0, 3, 3), (2, 4, 4)]


def test_a_trial_that_goes_on_from_before_it_copied_has_no_donor(story: Story) -> None:
    train(story, 0, 1, 2)
    own = story.saved[story.name(0)]
    train(story, 1, 1)
    story.exploit(0, 1, lr=0.5)
    train(story, 0, 2, 3)
    story.launch(0, 2, own)
    story.report(0, iteration=3)
    assert parts(story, 0) == [(0, 1, 2, 0.1, None, None), (0, 3, 3, 0.5, "0/1", None)]
    trial = story.history.trials[story.name(0)]
    assert [(row.generation, row.report.iteration) for row in trial.rows] == [(0, 1), (0, 2), (1, 3)]
    story.launch(0)
    story.report(0, iteration=1)
    assert parts(story, 0) == [(0, 1, 1, 0.5, None, None)]


# ----------------------------------------------------------------------------------------------------------- as tables


def family(story: Story) -> Result:
    train(story, 1, 1, 2)
    story.exploit(0, 1, lr=math.nan, opt={"betas": [0.9, np.float64(0.5)], "n": np.int64(3)}, data=Path("/data"))
    story.report(0, iteration=3)
    return result(story, 0)


def test_a_lineage_as_a_data_frame_has_a_row_for_each_segment(story: Story) -> None:
    frame = family(story).lineage().to_dataframe()
    assert list(frame.columns) == [
        *("trial_id", "trial", "first_step", "last_step", "checkpoint", "donor_id", "digest"),
        *("config/lr", "config/momentum", "config/checkpoint_interval"),
        *("config/opt/betas", "config/opt/n", "config/data"),
    ]
    assert frame["trial"].tolist() == [1, 0]
    assert frame["first_step"].tolist() == [1, 3]
    assert frame["last_step"].tolist() == [2, 3]
    assert frame["config/lr"][0] == 0.2
    assert pd.isna(frame["config/lr"][1])
    assert frame["config/opt/n"][1] == 3


def test_a_lineage_as_json_has_an_object_for_each_segment(story: Story) -> None:
    lineage = family(story).lineage()
    first, second = json.loads(lineage.to_json())
    assert first == {
        "trial_id": story.name(1),
        "trial": 1,
        "first_step": 1,
        "last_step": 2,
        "checkpoint": None,
        "donor_id": None,
        "digest": None,
        "config": {"lr": 0.2, "momentum": 0.9, "checkpoint_interval": 5},
    }
    assert second["donor_id"] == story.name(1)
    assert second["checkpoint"] == f"{story.name(1)}/checkpoint_000001"
    assert math.isnan(second["config"].pop("lr"))
    assert second["config"]["opt"] == {"betas": [0.9, 0.5], "n": 3}
    assert second["config"]["data"] == "/data"
    assert "\n" not in lineage.to_json()
    assert repr(json.loads(lineage.to_json(indent=4))) == repr(json.loads(lineage.to_json()))
    assert '\n    {\n        "trial_id": ' in lineage.to_json(indent=4)


def test_a_schedule_as_a_table_has_a_row_for_each_change(story: Story) -> None:
    schedule = family(story).schedule()
    frame = schedule.to_dataframe()
    assert list(frame.columns) == ["step", "lr", "momentum", "checkpoint_interval", "opt/betas", "opt/n", "data"]
    assert frame["step"].tolist() == [0, 2]
    assert [entry["step"] for entry in json.loads(schedule.to_json(indent=2))] == [0, 2]
    assert json.loads(schedule.to_json())[0]["config"]["lr"] == 0.2


def test_a_hyperparameter_called_step_does_not_hide_the_step() -> None:
    frame = Schedule(((0, {"step": 0.1}), (5, {"step": 0.2}))).to_dataframe()
    assert frame["step"].tolist() == [0, 5]
    assert frame["config/step"].tolist() == [0.1, 0.2]


def test_a_schedule_tells_the_config_of_each_step() -> None:
    schedule = Schedule(((0, {"lr": 1}), (5, {"lr": 2}), (6, {"lr": 3})))
    assert [schedule.at(step)["lr"] for step in (1, 5, 6, 7, 100)] == [1, 1, 2, 3, 3]
    assert schedule.initial == {"lr": 1}


def test_an_empty_schedule_says_that_it_is_empty(story: Story) -> None:
    schedule = result(story, 0).schedule()
    with pytest.raises(ResultError, match=r"schedule is empty.* trial has reported nothing"):
        assert schedule.initial
    with pytest.raises(ResultError, match="schedule is empty"):
        schedule.at(1)


@pytest.mark.parametrize("step", [0, -1, 1.5, "3", None, True])
def test_a_step_that_is_none_is_an_error(step: Any) -> None:
    with pytest.raises(ConfigError, match=rf"step must be a whole number, 1 for the first step, but is {step!r}\."):
        Schedule(((0, {"lr": 1}),)).at(step)


def test_a_schedule_that_begins_later_says_so() -> None:
    schedule = Schedule(((4, {"lr": 1}),))
    assert schedule.at(5) == {"lr": 1}
    third: Any = np.int64(3)
    assert Schedule(((0, {"lr": 1}),)).at(third) == {"lr": 1}
    with pytest.raises(ResultError, match="begins after step 4, so it has no config for step 4"):
        schedule.at(4)


def test_a_lineage_is_a_sequence_that_shows_itself(story: Story) -> None:
    lineage = family(story).lineage()
    assert isinstance(lineage[-1], Segment)
    assert list(lineage)[1:] == list(lineage[1:])
    assert lineage[0] in lineage
    assert f"steps 3 to 3: trial 0 from {story.name(1)}/checkpoint_000001, " in repr(lineage)
    with pytest.raises(IndexError):
        lineage[2]


def test_equal_configs_in_a_row_are_one_entry_of_the_schedule_whatever_they_hold() -> None:
    def lineage(*configs: Config) -> Lineage:
        return Lineage([Segment("t", 0, step, step, config, None, None) for step, config in enumerate(configs, 1)])

    ones, zeros = np.ones(3), np.zeros(3)
    arrays = schedule_of(lineage({"w": ones}, {"w": np.ones(3)}, {"w": zeros}, {"w": np.zeros(4)}))
    assert [step for step, _ in arrays.changes] == [0, 2, 3]
    frames = schedule_of(lineage({"w": pd.DataFrame({"a": [1]})}, {"w": pd.DataFrame({"a": [1]})}))
    assert [step for step, _ in frames.changes] in ([0], [0, 1])
    not_a_number = schedule_of(lineage({"w": math.nan}, {"w": float("nan")}))
    assert [step for step, _ in not_a_number.changes] == [0]
    types = schedule_of(lineage({"w": 1}, {"w": 1.0}, {"w": True}))
    assert [step for step, _ in types.changes] == [0, 1, 2]


def test_tables_need_pandas_and_say_so(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    family(story)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "pandas")
    monkeypatch.setattr(builtins, "__import__", without)
    for table in (result(story, 0).lineage(), result(story, 0).schedule()):
        with pytest.raises(ImportError, match="pip install pandas"):
            table.to_dataframe()
        assert table.to_json()


# ------------------------------------------------------------------------------------------------ simulated experiments


def history_of(result: SimulationResult) -> History:
    """Return what the journal of a simulated experiment tells, as it is read back from its file."""
    return History.of(
        Record(number, float(number), decode(*encode(item))) for number, item in enumerate(result.journal, 1)
    )


def rows(history: History) -> Iterator[tuple[TrialHistory, Row]]:
    for trial in history.in_order():
        for row in trial.rows:
            yield trial, row


def check_ancestors(scenario: Scenario, history: History) -> None:
    """Every result ever reported can be computed again from its lineage, and from its schedule, to the last bit."""
    for trial, row in rows(history):
        lineage = lineage_of(trial, row, history)
        assert lineage[0].first_step == 1
        assert lineage[-1].last_step == row.report.iteration
        assert lineage[-1].trial_id == trial.trial_id
        for before, after in itertools.pairwise(lineage):
            assert before.last_step + 1 == after.first_step
            assert after.checkpoint is not None
            assert after.checkpoint.startswith(before.trial_id)
            # Where what it copied is damaged, it may have gone back to a checkpoint of its own from before.
            assert after.donor_id == (None if before.trial_id == after.trial_id else before.trial_id)
        configs = [segment.config for segment in lineage for _ in range(segment.steps)]
        schedule = schedule_of(lineage)
        assert len(configs) == row.report.iteration
        assert repr([schedule.at(step) for step in range(1, len(configs) + 1)]) == repr(configs)
        assert repr(trained(scenario, configs)) == repr(row.report.metrics)


def trained(scenario: Scenario, configs: list[Config]) -> Any:
    """Return the metrics of the last step, with one config for each step."""
    endless = replace(scenario, returns=False)
    state, metrics = None, None
    for config in configs:
        step = endless.train(config, state)
        assert step is not None
        metrics, state = step
    return metrics


def faults_of(scenario: Scenario) -> Any:
    faults: dict[Fault, float] = dict(scenario.faults)
    faults.pop(Fault.RETURN, None)
    return random_faults(scenario.seed, faults) if faults else None


def check_replay(scenario: Scenario, trial: TrialHistory, history: History) -> None:
    """A replay of a result ends with the very same result, whatever fails on its way."""
    assert trial.last is not None
    replay = PopulationBasedTrainingReplay.from_result(Result(trial, history, Path("nowhere")))
    again = Simulation(
        replace(scenario, returns=False).train,
        [{}],
        replay,
        mode=scenario.mode,
        seed=scenario.seed,
        stop={"training_iteration": trial.iteration},
        checkpoint_every=scenario.checkpoint_every,
        saves_when_needed=scenario.of_class,
        max_failures=-1,
        faults=faults_of(scenario),
    ).run()
    (replayed,) = history_of(again).in_order()
    if replayed.status is Status.ERROR:
        assert "is damaged" in replayed.reason  # and there was none before it
        return
    assert replayed.last is not None
    assert repr(replayed.last.report.metrics) == repr(trial.last.report.metrics)
    assert replayed.iteration == trial.iteration


def lively(seed: int, **fixed: Any) -> Scenario:
    """Draw an experiment with many exploits; half of them with faults, half of them synchronous."""
    rng = random.Random(f"lively {seed}")
    drawn = drawn_scenario(seed, 8, pbt=True, length=14, not_finite=rng.choice((0.0, 0.1)), fail_fast=False)
    faults = tuple((fault, 0.03) for fault in Fault if fault is not Fault.RETURN) if seed % 2 else ()
    settings: dict[str, Any] = {
        "members": rng.randint(2, 8),
        "interval": rng.choice((1.0, 2.0, 3.0)),
        "burn_in": 0.0,
        "quantile": rng.choice(("0.25", "0.5")),
        "landscape": rng.choice(("improves", "noise", "ties")),
        "checkpoint_every": rng.choice((1, 1, 2, 3)),
        "synch": seed % 4 < 2,
        "target": None,
        "faults": faults,
        "max_failures": rng.choice((3, -1)),
        "stop_asked_at": None,
    }
    return replace(drawn, **settings, **fixed)


def test_results_of_simulated_experiments_are_what_their_lineage_and_schedule_say() -> None:
    exploits, depth, retries = 0, 0, 0
    for seed in range(120):
        scenario = lively(seed)
        outcome = scenario.simulation(validate=False).run()
        history = history_of(outcome)
        check_ancestors(scenario, history)
        for trial in history.in_order():
            if trial.last is not None:
                check_replay(scenario, trial, history)
                depth = max(depth, len(lineage_of(trial, trial.last, history)))
        exploits += len(outcome.exploits)
        retries += len(outcome.of_kind(Retry))
    assert exploits > 600
    assert depth > 6
    assert retries > 100


def test_any_simulated_experiment_has_a_lineage_that_explains_it() -> None:
    for seed in range(200):
        scenario = drawn_scenario(seed, 8)
        check_ancestors(scenario, history_of(scenario.simulation(validate=False).run()))


def test_an_experiment_that_was_killed_and_goes_on_has_the_same_kind_of_lineage() -> None:
    exploits = 0
    for seed in range(40):
        scenario = lively(seed)
        whole = scenario.simulation(validate=False).run()
        result = scenario.simulation().run(kill_after=random.Random(seed).randrange(1, len(whole.events)))
        check_ancestors(scenario, history_of(result))
        result = scenario.simulation().go_on(result, resume_errored=seed % 3 == 0, restart_errored=seed % 3 == 1)
        history = history_of(result)
        check_ancestors(scenario, history)
        for trial in history.in_order():
            if trial.last is not None:
                check_replay(scenario, trial, history)
        exploits += len(result.exploits)
    assert exploits > 200


def test_a_replay_that_was_killed_and_goes_on_ends_with_the_same_result() -> None:
    changes = 0
    for seed in range(0, 60, 4):
        scenario = lively(seed)
        history = history_of(scenario.simulation(validate=False).run())
        trial = max(history.in_order(), key=lambda trial: (len(trial.exploits), trial.index))
        if trial.last is None:
            continue
        replay = Simulation(
            scenario.train,
            [{}],
            PopulationBasedTrainingReplay.from_result(Result(trial, history, Path("nowhere"))),
            mode=scenario.mode,
            stop={"training_iteration": trial.iteration},
            checkpoint_every=scenario.checkpoint_every,
            saves_when_needed=scenario.of_class,
        )
        whole = replay.run()
        changes += len(whole.of_kind(Reconfigure))
        for kill_after in range(1, len(whole.events)):
            result = replay.go_on(replay.run(kill_after=kill_after))
            (again,) = history_of(result).in_order()
            assert again.last is not None
            assert repr(again.last.report.metrics) == repr(trial.last.report.metrics)
            assert [change.iteration for change in again.changes] == [
                change.iteration for change in whole.of_kind(Reconfigure)
            ]
    assert changes > 20


# ------------------------------------------------------------------------- members that save when they are asked


def as_class(scenario: Scenario, *, at_end: bool, frequency: int = 0, **more: Any) -> Simulation:
    """Return an experiment whose members are of a class trainable."""
    draws = [random.Random(f"{scenario.seed}/{index}").random() for index in range(scenario.members)]
    return Simulation(
        replace(scenario, returns=False).train,
        [{"h": drawn, "seed": index} for index, drawn in enumerate(draws)],
        scenario.scheduler(),
        mode=scenario.mode,
        seed=scenario.seed,
        slots=scenario.slots,
        devices=scenario.devices,
        residents=scenario.residents,
        max_failures=scenario.max_failures,
        stop={"training_iteration": scenario.length},
        num_to_keep=scenario.num_to_keep,
        validate=False,
        checkpoint_every=frequency,
        checkpoint_at_end=at_end,
        saves_when_needed=True,
        faults=faults_of(scenario),
        **more,
    )


def test_members_that_save_when_they_are_asked_copy_each_other_and_keep_one_checkpoint_each() -> None:
    exploits = 0
    for seed in range(60):
        scenario = lively(seed)
        result = as_class(scenario, at_end=False).run()
        exploits += len(result.exploits)
        assert result.peak_checkpoints <= scenario.members + 1
        history = history_of(result)
        check_ancestors(scenario, history)
        assert result.checkpoints == known(history)
    assert exploits > 300


def known(history: History) -> set[str]:
    """Return the ids of all checkpoints that readers take to exist."""
    return {f"{trial.trial_id}/checkpoint_{n:06d}" for trial in history.in_order() for n in trial.checkpoints}


@pytest.mark.parametrize("frequency", [0, 3])
def test_members_that_are_to_save_at_their_end_end_with_a_checkpoint_of_their_last_result(frequency: int) -> None:
    asked = 0
    for seed in range(40):
        scenario = lively(seed)
        stopper = scenario._stopper if seed % 3 == 0 else None
        result = as_class(scenario, at_end=True, frequency=frequency, stopper=stopper).run()
        asked += stopper is not None
        history = history_of(result)
        check_ancestors(scenario, history)
        assert result.checkpoints == known(history)
        for trial in result.trials.values():
            if trial.status.value == "TERMINATED":
                assert trial.restore is not None
                assert (trial.restore.iteration, trial.restore.transient) == (trial.iteration, False)
                assert trial.restore.trial_id == trial.trial_id
    assert asked


def test_a_driver_that_is_killed_at_the_end_of_members_trains_none_of_them_beyond_their_end() -> None:
    def simulation() -> Simulation:
        scenario = Scenario(3, members=3, slots=3, length=99)
        return as_class(scenario, at_end=True, stopper=lambda event: "enough" if event.iteration >= 3 else None)

    whole = simulation().run()
    assert [trial.iteration for trial in whole.trials.values()] == [3, 3, 3]
    for kill_after in range(1, len(whole.events)):
        result = simulation().go_on(simulation().run(kill_after=kill_after))
        assert [trial.iteration for trial in result.trials.values()] == [3, 3, 3]
        assert all(trial.restore and trial.restore.iteration == 3 for trial in result.trials.values())
