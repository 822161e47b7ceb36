"""``TuneConfig(control=k)``: members that take no part in exploits, and are in no other way treated differently."""

from __future__ import annotations

import random
from typing import Any

import pytest

from shoal import space, tune
from shoal.core.commands import Status
from shoal.errors import ConfigError
from shoal.experiment import ExperimentInfo
from shoal.plan import make_plan
from shoal.schedulers import FIFOScheduler
from shoal.testing import Fault, Simulation, SimulationResult, random_faults

from ..simulated import configs, learn, pbt

MEMBERS = 7
FAULTS = {Fault.RAISE: 0.02, Fault.CRASH: 0.02, Fault.CRASH_PARKED: 0.02, Fault.CRASH_AFTER_REPORT: 0.02}


def simulation(seed: int, **settings: Any) -> Simulation:
    rng = random.Random(seed)
    drawn: dict[str, Any] = {
        "control": rng.sample(range(MEMBERS), rng.randint(1, MEMBERS - 2)),
        "slots": rng.randint(1, 4),
        "max_failures": rng.choice([0, 3]),
        "replace_failed": rng.random() < 0.5,
        "scheduler": pbt(synch=rng.random() < 0.5, quantile_fraction=rng.choice([0.25, 0.5])),
        "faults": random_faults(seed, FAULTS) if rng.random() < 0.5 else None,
        "stop": {"training_iteration": 30},
        "seed": seed,
    }
    return Simulation(learn, configs(MEMBERS, seed), **{**drawn, **settings})


def taking_part(result: SimulationResult) -> set[int]:
    indices = {trial_id: trial.index for trial_id, trial in result.trials.items()}
    return {indices[each] for exploit in result.exploits for each in (exploit.trial_id, exploit.donor_id)}


@pytest.mark.parametrize("seed", range(40))
def test_a_control_copies_nobody_and_is_copied_by_nobody(seed: int) -> None:
    run = simulation(seed)
    result = run.run()
    assert not taking_part(result) & run.control
    for trial in result.trials.values():
        if trial.index in run.control:
            assert trial.generation == 0
            assert trial.config == trial.first_config


@pytest.mark.parametrize("seed", range(20))
def test_a_control_that_never_fails_trains_to_its_end_and_others_copy_each_other(seed: int) -> None:
    run = simulation(seed, faults=None)
    result = run.run()
    assert taking_part(result)
    assert set(result.statuses.values()) == {Status.TERMINATED}
    assert {trial.iteration for trial in result.trials.values()} == {30}


@pytest.mark.parametrize("synch", [False, True])
def test_a_control_that_fails_for_good_ends_with_its_error(synch: bool) -> None:
    result = simulation(
        1,
        control=[2],
        slots=3,
        scheduler=pbt(synch=synch),
        replace_failed=True,
        max_failures=0,
        faults=lambda index, launch, iteration: Fault.RAISE if index == 2 and iteration == 12 else None,
    ).run()
    failed = [trial for trial in result.trials.values() if trial.status is Status.ERROR]
    assert [trial.index for trial in failed] == [2]
    assert all(trial.iteration == 30 for trial in result.trials.values() if trial.index != 2)


@pytest.mark.parametrize("seed", range(6))
def test_the_lineage_of_a_seeded_synchronous_run_does_not_depend_on_the_slots(seed: int) -> None:
    settings: dict[str, Any] = {"scheduler": pbt(synch=True), "control": [1, 4], "faults": None}
    assert len({repr(simulation(seed, slots=slots, **settings).run().lineage) for slots in (1, 2, 8)}) == 1


@pytest.mark.parametrize("kill_after", range(5, 200, 13))
def test_a_killed_run_goes_on_with_the_same_controls(kill_after: int) -> None:
    settings: dict[str, Any] = {"scheduler": pbt(synch=True), "control": [0, 3], "faults": None}
    whole = simulation(3, **settings).run()
    killed = simulation(3, **settings).run(kill_after=kill_after)
    assert simulation(3, **settings).go_on(killed).lineage == whole.lineage


def test_two_that_may_copy_each_other_are_not_told_that_they_are_alone() -> None:
    for members, told in ((3, True), (4, False)):
        result = Simulation(learn, configs(members, 0), pbt(), control=[0, 1], stop={"training_iteration": 6}).run()
        assert [notice.key for notice in result.notices if notice.key == "alone"] == (["alone"] if told else [])
        assert not [notice for notice in result.notices if notice.key == "alone-by-fixed"]


# --------------------------------------------------------------------------------------------------------- the settings

SPACE = {"lr": space.loguniform(1e-4, 1e-1)}


def info(**tune_settings: Any) -> ExperimentInfo:
    settings = tune.TuneConfig(scheduler=pbt(), num_samples=6, seed=1, **tune_settings)
    return make_plan(lambda config: None, SPACE, settings, tune.RunConfig()).info


def test_the_controls_are_drawn_once_and_written_down() -> None:
    drawn = info(control=2).control
    assert len(drawn) == 2
    assert drawn == info(control=2).control == sorted(drawn)
    assert info().control == []


def test_of_each_architecture_two_are_left_that_can_copy_each_other() -> None:
    wide = {**SPACE, "layers": tune.grid_search([2, 3])}
    for control, expected in ((2, [1, 1]), (4, [2, 2])):
        settings = tune.TuneConfig(scheduler=pbt(fixed=["layers"]), num_samples=4, seed=1, control=control)
        plan = make_plan(lambda config: None, wide, settings, tune.RunConfig())
        layers = [plan.trials[index].config["layers"] for index in plan.info.control]
        assert sorted(layers.count(value) for value in (2, 3)) == expected
    settings = tune.TuneConfig(scheduler=pbt(fixed=["layers"]), num_samples=4, control=5)
    with pytest.raises(ConfigError, match=r"in 2 groups by the values of fixed.*At most 4 can be kept out"):
        make_plan(lambda config: None, wide, settings, tune.RunConfig())


@pytest.mark.parametrize(("control", "text"), [(5, "At most 4 can be kept out"), (6, "at least two have to be left")])
def test_so_many_controls_that_nobody_could_copy_are_refused(control: int, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        info(control=control)


@pytest.mark.parametrize("control", [-1, True, 1.5, "2"])
def test_what_is_no_number_of_members_is_refused(control: Any) -> None:
    with pytest.raises(ConfigError, match="control must be a whole number of members"):
        tune.TuneConfig(control=control)


def test_a_scheduler_that_copies_nobody_has_no_controls() -> None:
    settings = tune.TuneConfig(scheduler=FIFOScheduler(), num_samples=6, control=2)
    with pytest.raises(ConfigError, match="keeps members out of exploits, but FIFO"):
        make_plan(lambda config: None, SPACE, settings, tune.RunConfig())


def test_which_parameters_are_on_a_log_scale_is_written_down() -> None:
    wide = {**SPACE, "model": {"width": space.lograndint(1, 64), "depth": space.randint(1, 4)}}
    settings = tune.TuneConfig(scheduler=pbt(), num_samples=2)
    found = make_plan(lambda config: None, wide, settings, tune.RunConfig()).info
    assert found.log_parameters == ["lr", "model/width"]
