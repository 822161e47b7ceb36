"""Hosts elsewhere, and checkpoints that only the driver's folder has: nobody is launched without, and none is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.hosted import Gate, World, gate, kinds, own, own_world

from shoal.checkpoints.store import digest_of
from shoal.core.commands import CheckpointRecord, WindUp, checkpoint_id
from shoal.core.events import Damaged, Lost, Reported
from shoal.engines import stock as stock_module

__all__ = ["gate", "own_world"]  # fixtures


def of_an_earlier_run(world: World, trial_id: str) -> CheckpointRecord:
    """Put a checkpoint of a trial into the driver's folder."""
    folder = world.folder / trial_id / "checkpoint_000000"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("[1, 0.0]")
    identity = checkpoint_id(trial_id, 0)
    return CheckpointRecord(identity, trial_id, 0, digest_of(folder), 8, 1, 1, 1.0, None, None)


def another_begins(world: World, key: str, name: str) -> None:
    world.launch(name, world.slot(key, 1), until=1.0)
    world.next(Reported, name)


def goes_on(world: World, trial_id: str) -> None:
    world.wait_until(lambda: "Reported" in kinds(world.about(trial_id)))
    assert kinds(world.about(trial_id)) == ["Started", "Reported"]
    assert world.next(Reported, trial_id).iteration == 2


@pytest.fixture(params=[None, "memory://hosts/behind"], ids=["no storage", "storage that is behind"])
def any_world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from own(tmp_path, monkeypatch, request.param)


def test_who_goes_on_from_what_only_the_drivers_folder_has_waits_for_a_host_there(any_world: World) -> None:
    any_world.host("h1")
    any_world.launch("a", any_world.slot("h1"), of_an_earlier_run(any_world, "a"), until=2.0)
    another_begins(any_world, "h1", "b")
    any_world.fleet.kill("a", "it was silent")
    another_begins(any_world, "h1", "c")
    assert any_world.about("a") == []
    any_world.host("h0", shared=True, home=True)
    goes_on(any_world, "a")


def test_who_waits_for_the_drivers_folder_while_its_host_is_begun_again_goes_on_then(own_world: World) -> None:
    own_world.host("h1")
    own_world.host("h0", shared=True, home=True)
    own_world.fleet.leave("h0", "it died")
    own_world.net.cut.add("h0")
    own_world.launch("a", own_world.slot("h1"), of_an_earlier_run(own_world, "a"), until=2.0)
    another_begins(own_world, "h1", "b")
    assert own_world.about("a") == []
    own_world.host("h2", shared=True, home=True)
    goes_on(own_world, "a")


def test_who_was_given_a_checkpoint_by_a_host_that_dies_meanwhile_asks_the_next(
    own_world: World, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock_module, "_AWAY_S", 0.0)
    own_world.host("h1")
    own_world.host("h0", shared=True, home=True)
    own_world.net.on_piece = gate
    own_world.launch("a", own_world.slot("h1"), of_an_earlier_run(own_world, "a"), until=2.0)
    own_world.wait_until(gate.reached.is_set)
    own_world.fleet.leave("h0", "it died")
    own_world.net.cut.add("h0")
    gate.opened.set()
    another_begins(own_world, "h1", "b")
    own_world.host("h2", shared=True, home=True)
    goes_on(own_world, "a")


@pytest.mark.parametrize("fresh", [True, False])
def test_where_no_host_can_give_what_the_drivers_folder_has_who_needs_it_is_lost_and_it_is_not_damaged(
    own_world: World, fresh: bool
) -> None:
    own_world.host("h1")
    if not fresh:
        own_world.launch("a", own_world.slot("h1"), until=1.0)
        own_world.next(Reported, "a")
    record = of_an_earlier_run(own_world, "a")
    launch = own_world.launch("a", own_world.slot("h1"), record, until=2.0, fresh=fresh)
    another_begins(own_world, "h1", "b")
    own_world.fleet.no_home()
    own_world.wait_until(lambda: own_world.about("a"))
    [lost] = own_world.about("a")
    assert isinstance(lost, Lost)
    assert (lost.launch, lost.innocent) == (launch.launch, True)
    assert f"its checkpoint is in {own_world.folder}, and no host can work there" in lost.reason
    own_world.launch("a", own_world.slot("h1"), until=1.0)
    assert own_world.next(Reported, "a").iteration == 1


def test_what_cannot_be_brought_from_the_drivers_folder_is_not_damaged_either(
    own_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock_module, "_AWAY_S", 0.0)
    own_world.host("h1")
    own_world.host("h0", shared=True, home=True)
    own_world.net.cut.add("h0")
    own_world.launch("a", own_world.slot("h1"), of_an_earlier_run(own_world, "a"), until=2.0)
    lost = own_world.next(Lost, "a")
    assert lost.innocent
    assert "ConnectionError: h0 cannot be reached" in lost.reason


def test_one_that_is_damaged_in_the_drivers_folder_is_found_by_the_member(own_world: World) -> None:
    own_world.host("h1")
    own_world.host("h0", shared=True, home=True)
    record = of_an_earlier_run(own_world, "a")
    (own_world.folder / "a/checkpoint_000000/state.json").write_text("[2, 0.0]")
    own_world.launch("a", own_world.slot("h1"), record, until=2.0)
    assert own_world.next(Damaged, "a").checkpoint_id == record.id


def test_one_that_is_to_leave_while_it_waits_for_the_drivers_folder_is_lost_at_once(own_world: World) -> None:
    own_world.host("h1")
    own_world.launch("a", own_world.slot("h1"), of_an_earlier_run(own_world, "a"), until=2.0)
    another_begins(own_world, "h1", "b")
    own_world.fleet.execute(WindUp("a", 1), None)
    assert not own_world.next(Lost, "a").innocent
    own_world.host("h0", shared=True, home=True)
    another_begins(own_world, "h1", "c")
    assert own_world.about("a") == []
