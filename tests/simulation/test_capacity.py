"""The model of how far one driver carries, held against the real core and fleet in clusters that are simulated."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from benchmarks.capacity import COSTS, Costs, Expected, Load
from benchmarks.simulated_cluster import Size, World, run

from shoal import core, engines

DRIVER = (str(Path(core.__file__).parent), str(Path(engines.__file__).parent))
EVENTS = {"Opened", "TrialAdded", "SlotsJoined", "Started", "Reported"}


def size_of(members: int, **more: Any) -> Size:
    """Return an experiment of ten members for each slot, and four slots for each node."""
    return Size(members, members // 10, members // 40, **more)


def expected_of(size: Size) -> Expected:
    return Expected(size.members, size.slots, size.nodes, size.steps, size.interval)


def simulated(size: Size, folder: Path, turn_s: float = 0.01) -> tuple[World, Counter[str]]:
    world = World(size, turn_s=turn_s)
    return world, run(world, str(folder))


@pytest.mark.parametrize(
    "size",
    [size_of(400, steps=6, interval=3), size_of(10_000)],
    ids=lambda size: str(size.members),
)
def test_events_commands_and_orders_are_as_many_as_the_model_says(size: Size, tmp_path: Path) -> None:
    world, kinds = simulated(size, tmp_path)
    expected = expected_of(size)
    events = sum(count for kind, count in kinds.items() if kind in EVENTS)
    assert world.counts.results == expected.results == kinds["Reported"]
    assert world.counts.boundaries == expected.boundaries
    assert kinds["Stop"] == size.members
    assert kinds["HandOn"] == kinds["Continue"] == expected.handed_on
    assert kinds["Launch"] == pytest.approx(expected.launches, rel=0.03)
    assert events == pytest.approx(expected.events, rel=0.02)
    assert kinds.total() - events == pytest.approx(expected.commands, rel=0.03)
    assert world.counts.orders == pytest.approx(expected.orders, rel=0.05)
    assert world.counts.answers <= expected.answers_at_most + 2 * size.nodes
    assert world.counts.calls + world.counts.questions <= 1.5 * expected.answers_at_most


def test_a_result_costs_ten_times_as_many_members_no_more_messages_and_bytes(tmp_path: Path) -> None:
    for_one: list[list[float]] = []
    for members in (200, 2_000):
        counts = simulated(size_of(members), tmp_path)[0].counts
        told = (counts.orders, counts.bytes_out, counts.bytes_in, counts.questions + counts.calls, counts.answers)
        for_one.append([each / counts.results for each in told])
    few, many = for_one
    assert many == pytest.approx(few, rel=0.1)


@pytest.mark.parametrize(
    ("interval", "step_s", "slots_of_a_node"), [(1, 1.0, 4), (5, 1.0, 4), (20, 0.5, 4), (5, 0.1, 16), (20, 0.02, 8)]
)
def test_hosts_answer_as_often_as_the_model_says(
    interval: int, step_s: float, slots_of_a_node: int, tmp_path: Path
) -> None:
    slots = 16
    size = Size(64, slots, slots // slots_of_a_node, steps=20 * interval // (1 + interval // 10), interval=interval,
                step_s=step_s)  # fmt: skip
    world, _ = simulated(size, tmp_path, turn_s=0.0)
    load = Load(size.members, slots, size.nodes, step_s * 1.05, interval, trip_s=2 * size.trip_s)
    assert world.counts.answers / world.counts.results == pytest.approx(
        load.answers_per_s / load.results_per_s, rel=0.2
    )


def lines_of_the_driver(size: Size, folder: Path) -> int:
    """Return how many lines of core and engines are executed, which does not depend on the machine."""
    lines = 0

    def line(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        lines += 1
        return line

    def call(frame: FrameType, event: str, argument: object) -> Any:
        return line if frame.f_code.co_filename.startswith(DRIVER) else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        simulated(size, folder)
    finally:
        sys.settrace(before)
    return lines


def test_the_driver_has_no_more_to_do_for_a_result_where_there_are_ten_times_as_many_members_and_nodes(
    tmp_path: Path,
) -> None:
    few, many = size_of(160, steps=2, interval=1), size_of(1_600, steps=2, interval=1)
    for_one = [lines_of_the_driver(size, tmp_path) / (size.members * size.steps) for size in (few, many)]
    assert for_one[1] < 1.25 * for_one[0]


def test_the_driver_needs_the_more_the_more_results_boundaries_and_hosts_there_are() -> None:
    load = Load(1_000, 100, 25, 1.0, 5)
    busy = load.busy(COSTS)
    assert busy > 0
    assert Load(1_000, 100, 25, 0.5, 5).busy(COSTS) == pytest.approx(2 * busy, rel=0.2)
    assert Load(1_000, 100, 25, 1.0, 20).busy(COSTS) < busy < Load(1_000, 100, 100, 1.0, 5).busy(COSTS)
    assert Load(10_000, 100, 25, 1.0, 5).busy(COSTS) < 1.5 * busy
    assert Load(1_000, 100, 25, 1.0, 5, stored=False).busy(COSTS) < busy


def test_what_one_driver_carries_is_where_it_needs_that_share_of_a_cpu() -> None:
    costs = Costs(result_s=1e-4, boundary_s=2e-4, answer_s=3e-4, call_s=4e-4, mirror_s=1e-4, growth=0.1)
    for nodes in (1, 250):
        most = Load(10_000, 1_000, nodes, 1.0, 5, checkpoint_bytes=1e6).fastest(costs, 0.5)
        assert most.busy(costs) == pytest.approx(0.5, rel=1e-6)
        assert most.checkpoint_bytes_per_s == pytest.approx(most.results_per_s / 5 * 1e6)
