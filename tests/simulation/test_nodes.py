"""Slots come and go as the nodes of a cluster do: nothing is lost, nobody waits for ever, decisions are the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shoal.core.commands import Command, Evict, Launch, Retry, Status
from shoal.core.events import Event, Lost, SlotsJoined, SlotsLeft
from shoal.core.population import DISPLACED_AT_MOST, Population
from shoal.testing import Fault, Node, SimulationResult, random_nodes, simulation

from .scenarios import Scenario, drawn_nodes, drawn_scenario, run_through
from .told import check_results, told


def seeded(seed: int, **fixed: Any) -> Scenario:
    """Return a synchronous experiment in which all that members report depends on their weights alone."""
    return Scenario(
        seed=seed, members=2 + seed % 9, slots=1 + seed % 4, synch=True, interval=2.0, length=9, num_to_keep=1,
        landscape=("noise", "improves", "ties")[seed % 3], of_class=seed % 4 == 0, hands_on=seed % 5 > 1,
        checkpoint_every=0 if seed % 4 == 0 else 1 + seed % 2, start_time=float(seed % 2), **fixed,
    )  # fmt: skip


@pytest.mark.parametrize("block", range(10))
def test_every_promise_holds_after_each_event_where_nodes_come_and_go(block: int) -> None:
    for seed in range(700_000 + block * 25, 700_000 + block * 25 + 25):
        replace(drawn_scenario(seed, 20), nodes=drawn_nodes(seed, often=1.0)).run()


@pytest.mark.parametrize("block", range(8))
def test_a_seeded_synchronous_run_is_the_same_to_the_last_bit_whatever_nodes_come_and_go(block: int) -> None:
    died = 0
    for seed in range(710_000 + block * 12, 710_000 + block * 12 + 12):
        expected = told(seeded(seed).run())
        for variant in range(4):
            nodes = random_nodes(seed + variant, count=1 + variant * 2, seconds=40.0, residents=2, alike=variant == 1)
            result = seeded(seed, nodes=nodes, residents=4 if variant > 1 else None).run()
            assert told(result) == expected
            assert set(result.statuses.values()) == {Status.TERMINATED}
            died += sum(isinstance(event, Lost) for event in result.events)
    assert died > 50


def give_slots_back(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have slots leave as soon as there are more than trials, and join again where there are too few.

    An engine gives them back to the cluster so, and asks for others where nodes have died. Return which have left.
    """
    left: list[int] = []
    take = simulation._Run._take

    def of_no_use(run: simulation._Run) -> list[int]:
        population = run.population
        over = len(population.devices) - len(population._gone) - population._live
        found: list[int] = []
        for slot in population._free if over > 0 and not population.ended else ():
            device = population.devices[slot]
            stays = population._slots_on[device] - sum(population.devices[other] == device for other in found)
            if len(found) < over and stays > sum(trial.device == device for trial in population._residents.values()):
                found.append(slot)
        return found

    def ask_again(run: simulation._Run) -> list[SlotsJoined]:
        population, machine = run.population, run.engine._machine
        lack = population._live - len(population.devices) + len(population._gone)
        for place, slots in machine._slots_of.items():
            node = run.engine._nodes[place]
            if (more := min(lack, node.slots - len(slots))) > 0:
                first = len(machine.devices)
                machine.devices += [node.device] * more
                slots += range(first, first + more)
                return [SlotsJoined((node.device,) * more, 0)]
        return []

    def take_and_give_back(run: simulation._Run, event: Event, kill_after: int | None) -> bool:
        killed = take(run, event, kill_after)
        machine = run.engine._machine
        if not killed and (slots := of_no_use(run)):
            left.extend(slots)
            machine.gone.update(slots)
            for there in machine._slots_of.values():
                there[:] = [slot for slot in there if slot not in slots]
            killed = take(run, SlotsLeft(tuple(slots)), kill_after)
        for joined in ask_again(run) if not killed and not run.population.ended else ():
            killed = take(run, joined, kill_after)
        return killed

    monkeypatch.setattr(simulation._Run, "_take", take_and_give_back)
    return left


@pytest.mark.parametrize("alike", [True, False])
def test_a_seeded_synchronous_run_is_the_same_where_slots_of_no_use_are_given_back(
    monkeypatch: pytest.MonkeyPatch, alike: bool
) -> None:
    seeds = range(720_000, 720_030)
    expected = [told(seeded(seed).run()) for seed in seeds]
    left = give_slots_back(monkeypatch)
    for seed, undisturbed in zip(seeds, expected, strict=True):
        nodes = random_nodes(seed, count=3, seconds=40.0, slots=5, alike=alike)
        result = seeded(seed, nodes=nodes).run()
        assert told(result) == undisturbed
        assert set(result.statuses.values()) == {Status.TERMINATED}
    assert len(left) > 50


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_drivers_are_killed_while_nodes_come_and_go(seed: int, synch: bool) -> None:
    nodes = random_nodes(seed, count=4, seconds=12.0, residents=1, alike=seed % 3 == 0)
    scenario = replace(seeded(seed, nodes=nodes, residents=2), synch=synch, members=3, length=5)
    whole = scenario.run()
    for count in range(scenario.members, len(whole.events) + 1, 2):
        result = run_through((scenario, count), (scenario, None))
        check_results(result)
        if synch:
            assert told(result) == told(whole)


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("tenth", range(0, 60, 3))
def test_a_node_that_dies_at_any_moment_costs_no_step_that_was_saved(synch: bool, alike: bool, tenth: int) -> None:
    nodes = tuple(
        Node("" if alike else str(index), 2, dies_at=tenth / 10 if index == 0 else None) for index in range(2)
    )
    scenario = Scenario(
        seed=tenth, members=6, synch=synch, interval=2.0, quantile="0", length=6, nodes=nodes, hands_on=tenth % 2 == 0
    )
    result = scenario.run()
    assert all(trial.failures == 0 for trial in result.trials.values())
    retries = [retry for retry in result.of_kind(Retry) if retry.innocent]
    redone = len(result.reports) - 6 * 6
    assert len(retries) <= 4, "only who trained, or got ready, on the node has to be launched again"
    assert redone <= len(retries), "each lost the step that it was at"


def test_an_experiment_begins_without_slots_and_trains_when_there_are_some() -> None:
    result = Scenario(seed=1, members=5, nodes=(Node("late", 2, joins_at=10.0),)).run()
    first = next(place for place, commands in enumerate(result.commands) if commands)
    assert isinstance(result.events[first], SlotsJoined)
    assert {command.slot for command in result.of_kind(Launch)} == {0, 1}


def test_all_wait_while_there_is_no_node_and_go_on_where_the_next_one_is() -> None:
    scenario = Scenario(
        seed=1, members=4, length=6, nodes=(Node("a", 2, dies_at=5.2), Node("b", 2, joins_at=100.0)), uneven=False
    )
    result = scenario.run()
    place = next(place for place, event in enumerate(result.events) if isinstance(event, SlotsLeft))
    joined = next(place for place, event in enumerate(result.events) if isinstance(event, SlotsJoined))
    between = [command for commands in result.commands[place:joined] for command in commands]
    assert not [command for command in between if isinstance(command, Launch)]
    assert {launch.slot for commands in result.commands[joined:] for launch in of(commands, Launch)} == {2, 3}
    assert set(result.statuses.values()) == {Status.TERMINATED}


def test_who_waits_while_there_is_no_slot_ends_when_asked_to() -> None:
    result = Scenario(seed=1, members=4, nodes=(Node("a", 2, dies_at=3.5),), stop_asked_at=50.0).run()
    assert set(result.statuses.values()) == {Status.TERMINATED}
    assert result.elapsed_s == 50.0


def test_members_spread_to_a_node_that_joins_where_that_loses_nothing() -> None:
    result = Scenario(
        seed=2, members=8, length=8, nodes=(Node("a", 1), Node("b", 3, joins_at=4.0)), synch=True, interval=2.0
    ).run()
    assert result.of_kind(Evict)
    assert not result.of_kind(Retry)
    assert {launch.slot for launch in result.of_kind(Launch)} == {0, 1, 2, 3}


@pytest.mark.parametrize("hands_on", [False, True])
def test_members_on_a_node_that_joins_do_not_run_away_from_all_others(hands_on: bool) -> None:
    nodes = (Node("a", 4), Node("b", 4, joins_at=30.5))
    scenario = Scenario(seed=1, members=40, interval=2.0, length=40, uneven=False, nodes=nodes, hands_on=hands_on)
    apart = 0.0

    def watch(population: Population, event: Event, commands: list[Command]) -> None:
        nonlocal apart
        if not any(trial.status.ended for trial in population.trials.values()):
            times = [trial.time for trial in population.trials.values()]
            apart = max(apart, max(times) - min(times))

    simulation = scenario.simulation(validate=False)
    simulation.watch = watch
    result = simulation.run()
    assert apart <= 10.0
    assert len(result.of_kind(Evict)) <= 40


def test_a_member_that_brings_down_each_node_fails_in_the_end() -> None:
    nodes = tuple(Node(str(index), 1, joins_at=10.0 * index, dies_at=10.0 * index + 1.5) for index in range(30))
    scenario = Scenario(seed=1, members=1, length=50, checkpoint_every=0, nodes=nodes, uneven=False, pbt=False)
    # One step takes a second, and the first is never heard of.
    result = replace(scenario, start_time=1.0).simulation().run()
    assert result.statuses == {"trial_00000": Status.ERROR}
    assert len(result.of_kind(Retry)) == DISPLACED_AT_MOST


def test_nodes_that_die_do_not_count_as_deaths_of_the_parent_of_all_processes() -> None:
    nodes = tuple(Node(str(index), 1, joins_at=10.0 * index, dies_at=10.0 * index + 1.5) for index in range(5))
    scenario = Scenario(
        seed=1, members=1, length=3, checkpoint_every=1, uneven=False, pbt=False, start_time=1.0,
        nodes=(*nodes, Node("last", 1, joins_at=100.0)), faults=((Fault.ORPHAN, 0.0),),
    )  # fmt: skip
    result = scenario.run()
    assert result.statuses == {"trial_00000": Status.TERMINATED}
    assert [retry.failures for retry in result.of_kind(Retry)] == [0] * 5


def test_more_slots_than_members_are_no_harm_and_nobody_moves_without_need() -> None:
    nodes = (Node("a", 2), Node("b", 50, joins_at=2.2), Node("c", 50, joins_at=4.4, dies_at=6.6))
    result = Scenario(seed=3, members=4, length=8, nodes=nodes).run()
    assert len(result.of_kind(Evict)) <= 2
    assert set(result.statuses.values()) == {Status.TERMINATED}


def of(commands: list[Any], kind: type[Any]) -> list[Any]:
    return [command for command in commands if isinstance(command, kind)]


def test_the_same_events_give_the_same_commands_to_a_fresh_population() -> None:
    for seed in range(720_000, 720_010):
        scenario = replace(drawn_scenario(seed, 20), nodes=drawn_nodes(seed, often=1.0), stop_asked_at=None)
        result: SimulationResult = scenario.simulation(validate=False).run()
        assert scenario.simulation().replay(result.events) == result.commands
