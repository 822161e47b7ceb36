"""Drivers that are killed, interrupted or done; their experiments are recalled, opened again and run to their end."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulation.scenarios import Scenario, drawn_scenario, run_through
from tests.simulation.test_population import climb, members, pbt

from shoal.core.commands import (
    Command,
    Continue,
    DeleteCheckpoint,
    Exploit,
    Launch,
    Retry,
    Stop,
)
from shoal.core.events import (
    Config,
    Failed,
    Freed,
    Lost,
    Opened,
    Reported,
    Started,
    TrialAdded,
)
from shoal.core.limits import Limits, RetentionRules
from shoal.core.recall import recall
from shoal.errors import InvalidTransition
from shoal.journal import Item
from shoal.journal.memory import MemoryJournal
from shoal.schedulers import PopulationBasedTraining
from shoal.testing import Fault, Simulation, SimulationResult

ALL_FAULTS = tuple((fault, 0.03) for fault in Fault)


def read_back(items: Iterable[Item]) -> list[Item]:
    """Return what a journal gives back of what was written to it."""
    journal = MemoryJournal()
    journal.append(list(items), 0.0)
    return [record.item for record in journal.read()]


def journal_until(result: SimulationResult, count: int) -> list[Item]:
    """Return the journal with the first ``count`` events."""
    told = zip(result.events[:count], result.commands[:count], strict=True)
    return [result.opened, *(item for event, commands in told for item in (event, *commands))]


def some(rng: random.Random, scenario: Scenario, result: SimulationResult, count: int) -> list[int]:
    """Return numbers of events behind which a driver may have been killed: never before all trials were added."""
    points = range(scenario.members, len(result.events) + 1)
    return sorted(rng.sample(points, min(count, len(points))))


# --------------------------------------------------------------------------------------------------------------- recall


def check_recall(simulation: Simulation, result: SimulationResult, count: int) -> None:
    """Read the journal's beginning back; whatever comes then has to be answered as it was."""
    population = simulation.population()
    recall(population, read_back(journal_until(result, count)))
    population.validate()
    answers = [population.apply(event) for event in result.events[count:]]
    # repr, because NaN is not equal to itself.
    assert repr(answers) == repr(result.commands[count:])


@pytest.mark.parametrize("block", range(4))
def test_a_recalled_population_answers_all_that_comes_as_the_old_one_did(block: int) -> None:
    for seed in range(100_000 + block * 30, 100_000 + block * 30 + 30):
        scenario = drawn_scenario(seed, largest=10)
        simulation = scenario.simulation(validate=False)
        result = simulation.run()
        for count in some(random.Random(seed), scenario, result, 3):
            check_recall(simulation, result, count)


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("changes", [
    {"faults": ALL_FAULTS, "max_failures": 2, "replace_failed": True, "architectures": 2, "members": 8},
    {"faults": ALL_FAULTS, "max_failures": 2, "seed": 1},
    {"residents": 2, "num_to_keep": 1, "not_finite": 0.2},
    {"of_class": True, "checkpoint_every": 0, "num_to_keep": 1, "stopper": True, "checkpoint_at_end": True},
])  # fmt: skip
def test_a_population_can_be_recalled_after_every_single_event(synch: bool, changes: dict[str, Any]) -> None:
    scenario = replace(Scenario(seed=5, members=5, slots=2, synch=synch, interval=2.0, length=7), **changes)
    simulation = scenario.simulation(validate=False)
    result = simulation.run()
    assert result.exploits
    for count in range(len(result.events) + 1):
        check_recall(simulation, result, count)


def test_a_story_of_several_drivers_is_recalled() -> None:
    first = Scenario(seed=1, members=6, slots=2, synch=True, length=8, num_to_keep=2)
    second = replace(first, slots=3, num_to_keep=None, max_failures=1, faults=((Fault.RAISE, 0.05),))
    third = replace(second, slots=1, devices=("7",), length=12)
    result = run_through((first, 40), (second, 80), (third, 110), (third, None), config={"seed": 0})
    assert len([event for event in result.events if isinstance(event, Opened)]) == 3
    for count in range(first.members, len(result.events), 7):
        check_recall(first.simulation(), result, count)


@pytest.mark.parametrize("synch", [False, True])
def test_functions_of_the_user_are_not_called_while_reading_back(synch: bool) -> None:
    calls: list[str] = []

    def explore(config: Config) -> Config:
        calls.append("explore")
        return {**config, "h": config["h"] / 2, "calls": len(calls)}

    def draw() -> float:
        calls.append("draw")
        return 0.5

    def make() -> Simulation:
        scheduler = PopulationBasedTraining(
            time_attr="training_iteration", perturbation_interval=2, synch=synch, resample_probability=0.5,
            hyperparam_mutations={"h": draw}, custom_explore_fn=explore,
        )  # fmt: skip
        return Simulation(climb, members(6), scheduler, slots=2, stop={"training_iteration": 9})

    result = make().run()
    asked = calls.count("explore")
    assert asked == len(result.exploits) > 2
    population = make().population()
    calls.clear()
    recall(population, read_back(result.journal))
    assert calls == []
    assert len({exploit.new_config["calls"] for exploit in result.exploits}) == asked, "each call answered otherwise"
    assert {trial_id: trial.config for trial_id, trial in population.trials.items()} == {
        trial_id: trial.config for trial_id, trial in result.trials.items()
    }


def test_nor_where_the_scheduler_is_another_and_would_explore_more() -> None:
    calls: list[Config] = []

    def explore(config: Config) -> Config:
        calls.append(config)
        return config

    def make(**changes: Any) -> Simulation:
        scheduler = pbt(custom_explore_fn=explore, **changes)
        return Simulation(climb, members(8), scheduler, slots=8, stop={"training_iteration": 6})

    result = make(quantile_fraction=0).run()
    with pytest.raises(
        InvalidTransition, match=r"no exploit 1 of trial trial_0000\d, but what was before leads to one"
    ):
        recall(make(quantile_fraction=0.5).population(), result.journal)
    assert calls == []


@pytest.mark.parametrize("changed", [{"perturbation_interval": 3}, {"burn_in_period": 4}, {"synch": True}, {"seed": 9}])
def test_another_scheduler_that_decides_otherwise_is_found_out(changed: dict[str, Any]) -> None:
    result = Simulation(climb, members(8), pbt(), slots=2, stop={"training_iteration": 9}).run()
    other = Simulation(climb, members(8), pbt(**changed), slots=2, stop={"training_iteration": 9})
    with pytest.raises(InvalidTransition, match=r"record \d+ of the journal is .* leads to|the journal has no exploit"):
        recall(other.population(), result.journal)


def a_journal() -> tuple[Simulation, list[Item]]:
    scenario = Scenario(
        seed=3, members=5, slots=2, synch=True, interval=2.0, length=6, num_to_keep=1, max_failures=-1,
        faults=tuple((fault, 0.05) for fault in Fault if fault is not Fault.RETURN),
    )  # fmt: skip
    simulation = scenario.simulation()
    result = simulation.run()
    kinds = {type(command) for commands in result.commands for command in commands}
    assert {Launch, Continue, Exploit, Retry, Stop, DeleteCheckpoint} <= kinds
    return simulation, result.journal


SIMULATION, JOURNAL = a_journal()
COMMANDS = [place for place, item in enumerate(JOURNAL) if isinstance(item, Command)]


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_a_journal_in_which_a_decision_was_changed_is_refused(data: st.DataObject) -> None:
    changed: list[Item] = list(JOURNAL)
    place = data.draw(st.sampled_from(COMMANDS))
    item: Any = changed[place]
    how = data.draw(st.sampled_from(["left out", "twice", "another trial's", "another number", "earlier"]))
    if how == "left out":
        del changed[place]
    elif how == "twice":
        changed.insert(place, item)
    elif how == "another trial's":
        changed[place] = replace(item, trial_id="trial_00000" if item.trial_id != "trial_00000" else "trial_00001")
    elif how == "another number":
        name = "number" if isinstance(item, DeleteCheckpoint) else "failures" if isinstance(item, Retry) else "launch"
        changed[place] = replace(item, **{name: getattr(item, name) + 1})
    else:
        if changed[place - 1] == item:
            return
        changed[place - 1 : place + 1] = [item, changed[place - 1]]
    with pytest.raises(InvalidTransition):
        recall(SIMULATION.population(), changed)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Reported, {"iteration": 77}),
        (Reported, {"launch": 9}),
        (Reported, {"trial_id": "nobody"}),
        (Reported, {"stop": "enough"}),
        (TrialAdded, {"trial_id": "trial_00000"}),
        (Lost, {"launch": 99}),
        (Failed, {"trial_id": "nobody"}),
    ],
)
def test_a_journal_in_which_an_event_was_changed_is_refused(kind: type[Any], change: dict[str, Any]) -> None:
    changed: list[Any] = list(JOURNAL)
    place = max(place for place, item in enumerate(changed) if isinstance(item, kind) and changed[place + 1 :])
    if kind is Reported:
        place = next(place for place, item in enumerate(changed) if isinstance(item, Reported))
    changed[place] = replace(changed[place], **change)
    with pytest.raises(InvalidTransition):
        recall(SIMULATION.population(), changed)


@pytest.mark.parametrize(
    ("kind", "field"),
    [(Launch, "config"), (Exploit, "donor_config"), (Exploit, "old_config"), (Exploit, "new_config")],
)
@pytest.mark.parametrize(
    "change", [{"h": 0.123}, {"h": "0.5"}, {"seed": True}, {"more": None}], ids=["value", "type", "bool", "key"]
)
def test_a_journal_in_which_a_config_was_changed_is_refused(
    kind: type[Any], field: str, change: dict[str, Any]
) -> None:
    for place, item in enumerate(JOURNAL):
        if isinstance(item, kind):
            changed = [*JOURNAL]
            changed[place] = replace(item, **{field: getattr(item, field) | change})
            with pytest.raises(InvalidTransition):
                recall(SIMULATION.population(), changed)


class Thing:
    """An object that is no other, also after it was read back; and that does not know what equal means."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("do not ask")

    __hash__ = None  # type: ignore[assignment]


def test_objects_in_configs_are_not_compared_and_what_is_beside_them_is() -> None:
    def make() -> Simulation:
        beside = {"nan": math.nan, "shape": (3, [4.0, None]), "by": {1: 2}}
        configs = [{"h": 0.2 * index, "net": [{"thing": Thing()}], **beside} for index in range(4)]
        return Simulation(climb, configs, pbt(), slots=2, stop={"training_iteration": 6})

    journal = read_back(make().run().journal)
    assert any(isinstance(item, Exploit) for item in journal)
    recall(make().population(), journal)
    place = next(place for place, item in enumerate(journal) if isinstance(item, Launch))
    others: list[Config] = [
        {"net": [{"thing": 3}]}, {"net": [{"other": Thing()}]}, {"net": []}, {"shape": (3, [4, None])},
    ]  # fmt: skip
    for config in others:
        changed: list[Any] = [*journal]
        changed[place] = replace(changed[place], config=changed[place].config | config)
        with pytest.raises(InvalidTransition):
            recall(make().population(), changed)


def test_a_journal_that_ends_in_the_middle_of_a_decision_is_refused() -> None:
    with pytest.raises(InvalidTransition, match=r"record \d+ of the journal is nothing, but .* leads to Launch"):
        recall(SIMULATION.population(), JOURNAL[: COMMANDS[0]])


def test_a_refusal_names_the_record_and_both_sides() -> None:
    changed = [item for item in JOURNAL if not isinstance(item, Stop)]
    with pytest.raises(
        InvalidTransition, match=r"record \d+ of the journal is [A-Z]\w+\(.* leads to Stop\(trial_id="
    ) as refusal:
        recall(SIMULATION.population(), changed)
    assert len(str(refusal.value)) < 900


# -------------------------------------------------------------------------------------------- killed, and on to the end


@pytest.mark.parametrize("block", range(6))
def test_every_promise_holds_where_the_driver_is_killed_at_any_moment(block: int) -> None:
    for seed in range(110_000 + block * 60, 110_000 + block * 60 + 60):
        scenario = drawn_scenario(seed, largest=10)
        result = scenario.simulation(validate=False).run()
        for count in some(random.Random(seed), scenario, result, 2):
            run_through((scenario, count), (replace(scenario, stop_asked_at=None), None))


@pytest.mark.parametrize("block", range(6))
def test_every_promise_holds_where_drivers_are_killed_again_and_again_and_settings_change(block: int) -> None:
    for seed in range(120_000 + block * 60, 120_000 + block * 60 + 60):
        rng = random.Random(seed)
        scenario = drawn_scenario(seed, largest=10)
        killed = scenario.members + rng.randint(0, 40)
        lives: list[tuple[Scenario, int | None]] = [(scenario, killed)]
        for _ in range(rng.randint(1, 3)):
            slots = rng.choice((1, 2, 4, 8))
            scenario = replace(
                scenario,
                slots=slots,
                devices=rng.choice((None, None, tuple(rng.choice("012") for _ in range(slots)))),
                residents=rng.choice((None, slots, slots + 2)),
                length=scenario.length + rng.choice((0, 0, 1, 5)),
                max_failures=rng.choice((scenario.max_failures, -1)),
                stop_asked_at=rng.choice((None, None, 4.0)),
            )
            killed += rng.choice((1, 2, rng.randint(1, 40)))
            lives.append((scenario, killed))
        lives.append((replace(scenario, stop_asked_at=None), None))
        asked = rng.choice(({}, {}, {"resume_errored": True}, {"restart_errored": True}, {"resume_unfinished": False}))
        run_through(*lives, **asked, config=rng.choice((None, {"seed": 7})))


@pytest.mark.parametrize("synch", [False, True])
def test_an_experiment_whose_driver_is_killed_after_every_event_comes_to_its_end(synch: bool) -> None:
    scenario = Scenario(seed=2, members=4, slots=2, synch=synch, interval=2.0, length=6, num_to_keep=1)
    for count in range(scenario.members, len(scenario.simulation().run().events) + 1):
        result = run_through((scenario, count), (scenario, count + 1), (scenario, count + 2), (scenario, None))
        assert {trial.iteration for trial in result.trials.values()} == {6}


@pytest.mark.parametrize("of_class", [False, True])
def test_no_step_that_is_in_a_checkpoint_is_trained_again(of_class: bool) -> None:
    scenario = Scenario(
        seed=6, members=5, slots=2, pbt=of_class, quantile="0", interval=3.0, length=10, num_to_keep=1,
        checkpoint_every=0 if of_class else 3, of_class=of_class,
    )  # fmt: skip
    whole = scenario.run()
    assert len(whole.reports) == 5 * 10
    for count in range(scenario.members, len(whole.events) + 1):
        result = run_through((scenario, count), (scenario, None))
        steps = Counter((report.trial_id, report.iteration) for report in result.reports)
        assert len(steps) == 5 * 10
        again = Counter(trial_id for (trial_id, _), times in steps.items() if times > 1)
        # Every third step is saved, so at most two are lost with the process.
        assert max(again.values(), default=0) <= 2
        assert max(steps.values()) <= 2


def test_who_has_trained_least_goes_first_when_the_experiment_goes_on() -> None:
    # Every second step is saved. Both report three steps: 0 goes back to its second, 1 has none to go back to.
    simulation = Simulation(
        climb, members(2), slots=2, stop={"training_iteration": 6},
        checkpoint_every=lambda index, iteration: index == 0 and iteration == 2,
    )  # fmt: skip
    killed = simulation.run(kill_after=2 + 2 + 6)
    assert {trial.iteration for trial in killed.trials.values()} == {3}
    one_slot = Simulation(climb, members(2), slots=1, stop={"training_iteration": 6})
    result = one_slot.go_on(killed)
    again = [(report.trial_id[-1], report.iteration) for report in result.reports[6:]]
    assert again == [("1", iteration) for iteration in range(1, 7)] + [("0", iteration) for iteration in range(3, 7)]


def test_a_checkpoint_that_only_a_late_report_knew_of_is_forgotten_and_its_number_used_again() -> None:
    def late(index: int, launch: int, iteration: int) -> Fault | None:
        return Fault.LATE_REPORT if launch == 1 and iteration == 3 else None

    simulation = Simulation(
        climb, members(1), stop={"training_iteration": 4}, faults=late, max_failures=1, start_time=3.0
    )
    whole = simulation.run()
    assert [type(event) for event in whole.events[4:7]] == [Lost, Reported, Started]
    for count in (5, 6, 7):
        result = simulation.go_on(simulation.run(kill_after=count))
        saved = [report.checkpoint.number for report in result.reports if report.checkpoint is not None]
        assert saved == ([0, 1, 2, 3] if count == 5 else [0, 1, 2, 2, 3])
        assert result.checkpoints == {f"trial_00000/checkpoint_00000{number}" for number in range(4)}


# ----------------------------------------------------------------------------------------------------- the same lineage


@pytest.mark.parametrize("block", range(4))
def test_the_lineage_of_a_synchronous_run_survives_kills_interruptions_and_extensions(block: int) -> None:
    for seed in range(130_000 + block * 15, 130_000 + block * 15 + 15):
        rng = random.Random(seed)
        interval, every = rng.choice(((1.0, 1), (2.0, 2), (2.0, 1), (3.0, 3), (4.0, 2)))
        scenario = drawn_scenario(
            seed, largest=10, pbt=True, synch=True, interval=interval, checkpoint_every=every, burn_in=0.0, faults=(),
            time_attr="training_iteration", stopper=False, target=None, stop_asked_at=None, fail_fast=False,
            of_class=False,
        )  # fmt: skip
        whole = scenario.run()
        for count in some(rng, scenario, whole, 3):
            other = replace(scenario, slots=rng.randint(1, 6), devices=None)
            assert run_through((scenario, count), (other, None)).lineage == whole.lineage
        stopped = replace(scenario, stop_asked_at=whole.elapsed_s * rng.random())
        assert run_through((stopped, None), (scenario, None)).lineage == whole.lineage
        if not scenario.returns:
            short = replace(scenario, length=rng.randint(1, scenario.length))
            assert run_through((short, None), (scenario, None)).lineage == whole.lineage


@pytest.mark.parametrize("checkpoint_every", [1, 2, 5])
@pytest.mark.parametrize("of_class", [False, True])
def test_a_run_to_10_extended_to_20_is_a_run_to_20(checkpoint_every: int, of_class: bool) -> None:
    to_20 = Scenario(
        seed=8, members=8, slots=3, synch=True, interval=5.0, length=20, checkpoint_every=checkpoint_every,
        of_class=of_class, num_to_keep=1,
    )  # fmt: skip
    expected = to_20.run()
    assert {exploit.iteration for exploit in expected.exploits} == {5, 10, 15}
    for length in (1, 5, 9, 10, 11, 20):
        result = run_through((replace(to_20, length=length), None), (to_20, None))
        assert result.lineage == expected.lineage
        assert result.states == expected.states
    in_steps = run_through(*((replace(to_20, length=length), None) for length in (3, 5, 10, 15, 20)))
    assert in_steps.lineage == expected.lineage
    assert in_steps.states == expected.states


def test_a_run_that_is_finished_stays_as_it_is() -> None:
    scenario = Scenario(seed=8, members=4, slots=2, length=6)
    finished = scenario.run()
    result = run_through((scenario, None), (scenario, None))
    assert result.events[: len(finished.events)] == finished.events
    (opened,) = result.events[len(finished.events) :]
    assert isinstance(opened, Opened)
    assert (opened.again, opened.anew, opened.dropped) == ((), (), ())
    assert result.states == finished.states


def test_extending_takes_those_along_that_met_the_old_stop_condition_and_no_others() -> None:
    # Member 3 reaches the score, 0 returns by itself, 1 fails, 2 gets to the end.
    def train(config: Config, state: int | None) -> tuple[dict[str, Any], int] | None:
        steps = (state or 0) + 1
        if config["who"] == 0 and steps == 3:
            return None
        if config["who"] == 1 and steps == 4:
            raise RuntimeError("no")
        return {"score": 3 * steps if config["who"] == 3 else 0}, steps

    configs = [{"who": who} for who in range(4)]
    short = Simulation(train, configs, slots=4, stop={"training_iteration": 5, "score": 9})
    finished = short.run()
    assert [trial.iteration for trial in finished.trials.values()] == [2, 3, 5, 3]
    for stop, expected in (
        ({"training_iteration": 5, "score": 9}, []),
        ({"training_iteration": 7, "score": 9}, [2]),
        ({"training_iteration": 5, "score": 12}, [3]),
        ({"training_iteration": 7, "score": 12}, [2, 3]),
        ({"training_iteration": 4}, [3]),
    ):
        longer = Simulation(train, configs, slots=4, stop=stop)
        result = longer.go_on(finished)
        (opened,) = [event for event in result.events if isinstance(event, Opened)]
        assert [int(trial_id[-1]) for trial_id in opened.again] == expected, stop
        assert {trial_id for trial_id in result.trials if trial_id not in opened.again} == {
            trial_id for trial_id in result.trials if result.trials[trial_id].launch == 1
        }


def test_what_was_freed_between_two_runs_is_nobodys_way_back() -> None:
    settings: dict[str, Any] = {"scheduler": pbt(), "stop": {"training_iteration": 12}}
    ended = Simulation(climb, members(4), **settings).run()
    chosen = ended.trials["trial_00003"].older[:2]
    freed = [record.id for record in chosen]
    journal = [*ended.journal, *(Freed(record.trial_id, record.number) for record in chosen)]
    population = Simulation(climb, members(4), **settings).population()
    recall(population, read_back(journal))
    population.validate()
    assert {key: trial.config for key, trial in population.trials.items()} == {
        key: trial.config for key, trial in ended.trials.items()
    }
    assert len(freed) == 2
    assert not set(freed) & {record.id for trial in population.trials.values() for record in trial.older}
    assert not any(map(population.retention.knows, freed))


def test_a_donor_whose_checkpoint_was_freed_is_copied_by_nobody() -> None:
    settings: dict[str, Any] = {"scheduler": pbt(), "slots": 4}
    killed = Simulation(climb, members(4), stop={"training_iteration": 12}, **settings).run(kill_after=60)
    best = max(killed.trials.values(), key=lambda trial: trial.score or 0.0)
    assert best.restore is not None
    population = Simulation(climb, members(4), **settings).population()
    recall(population, read_back([*killed.journal, Freed(best.restore.trial_id, best.restore.number)]))
    population.validate()
    opened = population.apply(Opened(Limits(("",) * 4), RetentionRules()))
    assert not [each for each in opened if isinstance(each, Exploit) and each.checkpoint == best.restore]
