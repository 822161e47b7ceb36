"""Hosts with real members, several at a time, each as on a machine of its own: what is told is safe, and in order."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.hosted import Gate, Net, World, gate, get_object, kinds, own_world

import shoal
from shoal import objects
from shoal.checkpoints.store import damage
from shoal.core.commands import Continue, Evict, HandOn, Status, Stop, WindUp
from shoal.core.events import Damaged, Event, Failed, Finished, Lost, Reported, SlotsLeft, Started
from shoal.engines import copies
from shoal.engines import host as host_module
from shoal.engines.orders import End, Execute, Upload
from shoal.errors import EngineError, StorageError
from shoal.storage.place import Place

__all__ = ["gate", "own_world"]  # fixtures


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOAL_CACHE", str(folder / "cache"))
        patch.setenv("SHOAL_OBJECTS", "")
        world = World(folder, "memory://hosts/experiment")
        world.host("h1")
        world.host("h2")
        world.poll()
        yield world
        world.close()


@pytest.fixture
def world(shared_world: World) -> Iterator[World]:
    """Two hosts that keep each other's copies, with two slots each, and no trial yet."""
    yield shared_world
    net = shared_world.net
    net.cut.clear()
    net.on_keep = net.on_piece = lambda: None
    for trial_id, launch in shared_world.trials.items():
        shared_world.fleet.execute(Stop(trial_id, launch, Status.TERMINATED, "the test is over"), None)
    shared_world.poll()
    shared_world.events.clear()
    shared_world.notes.clear()


def folder_of(net: Net, key: str) -> Path:
    return net.hosts[key].folder


# ------------------------------------------------------------------------------------------------- what is told is safe


def test_a_report_is_told_when_another_host_has_a_copy_of_its_checkpoint(world: World) -> None:
    world.launch("a1", world.slot("h1"), saves=[2], until=2.0)
    assert world.next(Reported, "a1").iteration == 1
    record = world.saved("a1")
    assert damage(folder_of(world.net, "h2") / "a1/checkpoint_000000", record.digest) is None
    assert not (world.folder / "a1/checkpoint_000000").exists()


def test_a_report_is_held_while_the_copy_is_made_and_others_are_not(world: World, gate: Gate) -> None:
    world.net.on_keep = gate
    world.launch("b1", world.slot("h1"), saves=[1], until=1.0)
    world.wait_until(gate.reached.is_set)
    world.launch("b2", world.slot("h1", 1), until=1.0)
    world.next(Reported, "b2")
    assert kinds(world.about("b1")) == ["Started"]
    gate.opened.set()
    world.next(Reported, "b1")


@pytest.mark.parametrize(("end", "kind"), [({"returns_after": 2}, Finished), ({"raises_after": 2}, Failed)])
def test_a_member_that_ends_while_its_report_is_held_is_told_to_end_after_it(
    world: World, gate: Gate, end: dict[str, Any], kind: type[Event]
) -> None:
    world.net.on_keep = gate
    name = f"c{kind.__name__}"
    world.launch(name, world.slot("h1"), saves=[1, 2], **end)
    world.wait_until(gate.reached.is_set)
    gate.opened.set()
    world.wait_until(lambda: kinds(world.about(name))[-1:] == [kind.__name__])
    assert kinds(world.about(name)) == ["Started", "Reported", "Reported", kind.__name__]


def test_a_member_whose_report_is_held_is_not_killed_because_it_is_silent(world: World, gate: Gate) -> None:
    world.net.on_keep = gate
    world.launch("d1", world.slot("h1"), saves=[1], until=1.0)
    world.wait_until(gate.reached.is_set)
    world.fleet.kill("d1", "it was silent")
    world.launch("d2", world.slot("h1", 1), until=1.0)
    world.next(Reported, "d2")
    assert kinds(world.about("d1")) == ["Started"]
    gate.opened.set()
    assert world.next(Reported, "d1").checkpoint is not None
    world.fleet.kill("d1", "it was silent")
    assert world.next(Lost, "d1").reason == "it was silent"


@pytest.mark.parametrize("grace", ["0", "0.2"])
@pytest.mark.parametrize("until", [1.0, None])
def test_what_is_held_is_told_when_the_time_to_leave_is_up(
    world: World, gate: Gate, monkeypatch: pytest.MonkeyPatch, grace: str, until: float | None
) -> None:
    world.net.on_keep = gate
    name = f"w{grace}{until}"
    world.launch(name, world.slot("h1"), saves=["all"], until=until)
    world.wait_until(gate.reached.is_set)
    monkeypatch.setenv("SHOAL_GRACE_S", grace)
    world.fleet.execute(WindUp(name, 1), None)
    world.wait_until(lambda: kinds(world.about(name))[-1:] == ["Lost"])
    assert kinds(world.about(name))[:2] == ["Started", "Reported"]
    world.wait_until(lambda: world.notes)
    assert f"only: {name}/checkpoint_000000. There was no time left" in world.notes[0]
    monkeypatch.undo()
    gate.opened.set()
    world.wait_until(lambda: ("h2", "h1") in world.net.kept)
    world.launch(f"{name} next", world.slot("h1"), saves=[1], until=1.0)
    assert world.next(Reported, f"{name} next").checkpoint is not None


def test_a_trial_that_is_stopped_while_its_report_is_held_can_begin_anew(world: World, gate: Gate) -> None:
    world.net.on_keep = gate
    world.launch("e1", world.slot("h1"), saves=[1], until=1.0)
    world.wait_until(gate.reached.is_set)
    world.fleet.execute(Stop("e1", 1, Status.TERMINATED, "enough"), None)
    world.launch("e1", world.slot("h1"), until=1.0)
    gate.opened.set()
    late = world.next(Reported, "e1", lambda event: event.launch == 1)
    assert late.checkpoint is not None
    assert world.next(Reported, "e1", lambda event: event.launch == 2).iteration == 1


def test_where_nobody_can_make_a_copy_the_report_is_told_all_the_same_and_the_user_is_told(world: World) -> None:
    world.net.cut = {"h2"}
    world.launch("f1", world.slot("h1"), saves=["all"], until=2.0)
    for _ in range(2):
        world.next(Reported, "f1")
    [note] = world.notes
    assert "f1/checkpoint_000000" in note
    assert "ConnectionError: h2 cannot be reached" in note
    world.net.cut.clear()
    kept = len(world.net.kept)
    world.launch("f2", world.slot("h1", 1), saves=[1], until=1.0)
    world.next(Reported, "f2")
    assert world.net.kept[kept:] == [("h2", "h1")]


def test_before_a_host_is_there_that_can_make_copies_a_report_waits_for_it(own_world: World) -> None:
    own_world.host("h1")
    own_world.launch("a", own_world.slot("h1"), saves=[1], until=1.0)
    own_world.next(Started, "a")
    own_world.launch("b", own_world.slot("h1", 1), until=1.0)
    own_world.next(Reported, "b")
    own_world.wait_until((folder_of(own_world.net, "h1") / "a/checkpoint_000000").is_dir)
    assert own_world.about("a") == []
    own_world.host("h0", shared=True, home=True)
    record = own_world.saved("a")
    assert damage(own_world.folder / "a/checkpoint_000000", record.digest) is None


def test_where_none_will_ever_be_there_nothing_waits(own_world: World) -> None:
    own_world.host("h1")
    own_world.launch("a", own_world.slot("h1"), saves=[1], until=1.0)
    own_world.wait_until((folder_of(own_world.net, "h1") / "a/checkpoint_000000").is_dir)
    own_world.fleet.no_home()
    own_world.saved("a")


# --------------------------------------------------------------------------------------- checkpoints that are elsewhere


def test_a_member_goes_on_in_place_from_a_checkpoint_of_another_host(world: World) -> None:
    world.launch("g1", world.slot("h1"), saves=[3], until=3.0)
    record = world.saved("g1")
    world.launch("g2", world.slot("h2"), until=1.0)
    pid = world.next(Started, "g2").pid
    world.next(Reported, "g2")
    world.launch("g2", world.slot("h2"), record, fresh=False, until=4.0)
    assert world.next(Started, "g2").pid == pid
    report = world.next(Reported, "g2")
    assert (report.launch, report.iteration, report.metrics["step"]) == (2, 4, 4)


def test_a_checkpoint_outlives_the_host_of_its_member(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "PIECE", 3)
    world.launch("h1", world.slot("h1"), saves=[2], until=2.0)
    record = world.saved("h1")
    world.fleet.execute(Evict("h1", 1), None)
    world.net.cut = {"h1"}
    world.launch("h1", world.slot("h2"), record, until=3.0)
    assert world.next(Started, "h1").digest == record.digest
    assert world.next(Reported, "h1").iteration == 3


def fetching(world: World, gate: Gate, name: str, **launch: object) -> None:
    """Launch a trial on the second host from a checkpoint that only the first one has, and that is held up."""
    world.net.cut = {"h2"}
    donor = f"{name}_donor"
    world.launch(donor, world.slot("h1"), saves=[1], until=1.0)
    record = world.saved(donor)
    world.net.cut.clear()
    world.net.on_piece = gate
    world.launch(name, world.slot("h2"), record, until=2.0, **launch)
    world.wait_until(gate.reached.is_set)


def nothing_more_comes(world: World, gate: Gate, name: str) -> None:
    """Let the checkpoint arrive, and see that its trial does not begin."""
    arrives(world, gate, name)
    assert world.about(name) == []


def arrives(world: World, gate: Gate, name: str) -> None:
    """Let the checkpoint arrive, and the host do what follows from that."""
    gate.opened.set()
    world.wait_until((folder_of(world.net, "h2") / f"{name}_donor/checkpoint_000000").is_dir)
    comes_and_goes(world, name)


def comes_and_goes(world: World, name: str) -> None:
    """Let two other trials begin on the second host, one after the other, and leave."""
    for _ in range(2):
        other = f"{name}_{len(world.trials)}"
        world.launch(other, world.slot("h2", 1), until=1.0)
        world.next(Reported, other)
        world.fleet.execute(Evict(other, 1), None)


@pytest.mark.parametrize("fresh", [True, False])
def test_one_whose_checkpoint_is_on_its_way_is_not_killed_because_it_is_silent(
    world: World, gate: Gate, fresh: bool
) -> None:
    name = f"i{fresh}"
    if not fresh:
        world.launch(name, world.slot("h2"), until=1.0)
        world.next(Reported, name)
    fetching(world, gate, name, fresh=fresh)
    world.fleet.kill(name, "it was silent")
    for _ in range(3):
        world.poll()
    gate.opened.set()
    launch = world.trials[name]
    assert world.next(Reported, name, lambda event: event.launch == launch).iteration == 2
    assert "Lost" not in kinds(world.events)


def test_who_has_waited_for_its_checkpoint_gets_that_time_again(
    world: World, gate: Gate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = [1000.0]
    monkeypatch.setattr(host_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    fetching(world, gate, "s1", waits_in=2, waits_for=str(tmp_path / "go"))
    now[0] += 50.0
    gate.opened.set()
    world.next(Started, "s1")
    now[0] += 49.0
    world.fleet.kill("s1", "it was silent")
    world.launch("s2", world.slot("h2", 1), until=1.0)
    world.next(Reported, "s2")
    assert "Lost" not in kinds(world.about("s1"))
    now[0] += 2.0
    world.fleet.kill("s1", "it was silent")
    assert world.next(Lost, "s1").reason == "it was silent"


def test_one_that_is_to_leave_while_its_checkpoint_is_on_its_way_is_lost_at_once(world: World, gate: Gate) -> None:
    fetching(world, gate, "j1")
    world.fleet.execute(WindUp("j1", 1), None)
    assert world.next(Lost, "j1").launch == 1
    nothing_more_comes(world, gate, "j1")


@pytest.mark.parametrize("command", [Evict("k1", 1), Stop("k2", 1, Status.TERMINATED, "enough")])
def test_one_that_is_not_wanted_any_more_when_its_checkpoint_comes_does_not_begin(
    world: World, gate: Gate, command: Evict | Stop
) -> None:
    fetching(world, gate, command.trial_id)
    world.fleet.execute(command, None)
    nothing_more_comes(world, gate, command.trial_id)
    world.launch(command.trial_id, world.slot("h2"), until=1.0)
    assert world.next(Reported, command.trial_id).launch == 2


def test_a_parked_member_that_dies_while_its_next_checkpoint_is_on_its_way_is_lost_in_its_next_launch(
    world: World, gate: Gate
) -> None:
    world.launch("m1", world.slot("h2"), until=1.0)
    pid = world.next(Started, "m1").pid
    world.next(Reported, "m1")
    fetching(world, gate, "m1", fresh=False)
    os.kill(pid, signal.SIGKILL)
    assert world.next(Lost, "m1").launch == 1
    gate.opened.set()
    assert world.next(Lost, "m1").launch == 2


def test_one_that_was_promised_a_slot_while_its_checkpoint_is_on_its_way_hears_of_it_by_its_continue(
    world: World, gate: Gate, tmp_path: Path
) -> None:
    world.launch("n1", world.slot("h2"), until=1.0)
    pid = world.next(Started, "n1").pid
    world.next(Reported, "n1")
    world.launch("n0", world.slot("h2", 1), until=2.0, waits_in=2, waits_for=str(tmp_path / "mark"))
    world.next(Reported, "n0")
    fetching(world, gate, "n1", fresh=False, waits=True)
    os.kill(pid, signal.SIGSTOP)  # so that all that it is sent is there at once when it looks
    world.fleet.execute(HandOn("n0", 1, world.slot("h2", 1), "n1", 2, 1, 2.0), None)
    comes_and_goes(world, "n1")
    (tmp_path / "mark").touch()
    world.next(Reported, "n0")  # at its boundary, where it would hand the slot on
    world.fleet.execute(Evict("n0", 1), None)
    arrives(world, gate, "n1")
    os.kill(pid, signal.SIGCONT)
    comes_and_goes(world, "n1")
    assert world.about("n1") == []
    world.fleet.execute(Continue("n1", 2, world.slot("h2", 1), 2.0), None)
    assert world.next(Started, "n1").pid == pid
    assert world.next(Reported, "n1").iteration == 2


def test_one_that_nobody_has_any_more_is_found_by_the_member_and_decided_by_the_core(world: World) -> None:
    world.net.cut = {"h2"}
    world.launch("o1", world.slot("h1"), saves=[1], until=1.0)
    record = world.saved("o1")
    world.fleet.delete("o1", 0)
    world.net.cut.clear()
    world.launch("o2", world.slot("h2"), record)
    damaged = world.next(Damaged, "o2")
    assert damaged.checkpoint_id == record.id
    assert damaged.reason.endswith("is gone")


def test_where_the_disk_is_full_the_launch_has_failed_for_that_and_the_core_ends_the_run(
    world: World, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.launch("p1", world.slot("h2"), until=1.0)
    world.next(Reported, "p1")
    fetching(world, gate, "p1", fresh=False, waits=True)
    world.fleet.execute(Continue("p1", 2, world.slot("h2"), None), None)  # of a launch that never is
    world.poll()

    def full(self: Path, mode: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "chmod", full)
    gate.opened.set()
    failed = world.next(Failed, "p1")
    assert (failed.launch, failed.no_room) == (2, True)
    assert "No space left on device" in failed.error
    assert world.about("p1") == []


# ------------------------------------------------------------------------------------------------------ what is printed


def test_lines_are_shown_in_order_and_written_by_the_driver(world: World) -> None:
    world.launch("q1", world.slot("h1"), until=1.0, prints=["größer", "", "x" * 100_000, "the last"])
    world.wait_until(lambda: world.shown[-1:] == ["the last"])
    text = (world.folder / "q1/output.log").read_text(encoding="utf-8")
    assert text.split("\n")[0] == "größer"
    assert text.count("x") == 100_000
    assert not (folder_of(world.net, "h1") / "q1/output.log").exists()


# -------------------------------------------------------------------------------------------------------------- storage


def test_a_host_uploads_and_says_what_is_wrong(world: World) -> None:
    world.launch("r1", world.slot("h1"), saves=[1], until=1.0)
    record = world.saved("r1")
    there = Place("memory://hosts/uploads/checkpoint_000000")
    future = world.fleet.upload("r1", 0, record.digest, there)
    world.wait_until(future.done)
    future.result()
    assert (there / "state.json").read_bytes() == b"[1, 0.0]"
    world.fleet.flush()
    world.lines["h1"].send([Upload(10_000, "r1", 0, record.digest, "unheard-of://bucket")])
    world.lines["h1"].send([Upload(10_001, "r1", 7, record.digest, there.url)])
    world.launch("r2", world.slot("h1", 1), until=1.0)
    world.next(Reported, "r2")  # the host lives


class NoSuchKey(FileNotFoundError):
    """As libraries have them: it cannot be unpickled."""

    def __init__(self, bucket: str, key: str) -> None:
        super().__init__(f"{bucket} has no {key}")


def test_what_a_library_means_by_not_found_can_be_loaded_by_the_driver(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.launch("v1", world.slot("h1"), saves=[1], until=1.0)
    record = world.saved("v1")
    for key in ("h1", "h2"):

        def upload(*_: object) -> None:
            raise NoSuchKey("the bucket", "v1")

        monkeypatch.setattr(world.net.hosts[key]._stock, "upload", upload)
    future = world.fleet.upload("v1", 0, record.digest, Place("memory://hosts/uploads/v1"))
    world.wait_until(future.done)
    error = future.exception()
    assert type(error) is FileNotFoundError
    assert "NoSuchKey: the bucket has no v1" in str(error)


# ---------------------------------------------------------------------------------------------- how a host begins, ends


def test_a_host_in_the_drivers_folder_makes_no_copies_and_writes_its_logs_itself(own_world: World) -> None:
    host = own_world.host("h1", shared=True)
    assert host.folder == own_world.folder
    own_world.launch("a", own_world.slot("h1"), saves=[1], prints=["a line"], until=1.0)
    record = own_world.saved("a")
    assert damage(own_world.folder / "a/checkpoint_000000", record.digest) is None
    own_world.wait_until(lambda: own_world.shown == ["a line"])
    assert (own_world.folder / "a/output.log").read_text() == "a line\n"
    assert own_world.net.kept == []


def test_nothing_begins_after_the_end_whatever_arrives_then_and_checkpoints_are_still_given_away(
    own_world: World, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, begun = own_world.net, list[object]()
    own_world.host("h1")
    own_world.host("h2")
    own_world.host("h0", shared=True, home=True)
    own_world.launch("a", own_world.slot("h1"), saves=[1], until=1.0)
    record = own_world.saved("a")
    own_world.launch("b", own_world.slot("h1", 1), until=1.0)
    own_world.next(Reported, "b")
    net.on_piece = net.on_keep = gate
    own_world.launch("c", own_world.slot("h2"), record)
    own_world.wait_until(gate.reached.is_set)
    own_world.fleet.end(at_once=False)
    own_world.wait_until(lambda: all(post.ended for post in own_world.fleet.posts.values()))
    monkeypatch.setattr(net.hosts["h2"]._engine, "execute", lambda command, checkpoint: begun.append(command))
    gate.opened.set()
    own_world.wait_until((folder_of(net, "h2") / "a/checkpoint_000000").is_dir)
    future = own_world.fleet.upload("a", 0, record.digest, Place("memory://hosts/after the end/checkpoint_000000"))
    own_world.wait_until(future.done)
    future.result()
    own_world.fleet.delete("a", 0)
    own_world.wait_until(
        lambda: not any((folder_of(net, key) / "a/checkpoint_000000").exists() for key in ("h1", "h2"))
    )
    assert begun == []


def test_a_host_that_is_closed_leaves_nothing_on_its_machine(own_world: World) -> None:
    host = own_world.host("h1")
    own_world.fleet.no_home()
    own_world.launch("a", own_world.slot("h1"), saves=[1], until=1.0)
    pid = own_world.next(Started, "a").pid
    own_world.saved("a")
    assert host.folder.is_dir()
    host.close()
    assert not host.folder.parent.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    host.close()


def test_a_host_whose_user_has_no_home_uses_the_folder_for_temporary_files(
    own_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_world.folder / "file").touch()
    monkeypatch.setenv("SHOAL_CACHE", str(own_world.folder / "file"))
    host = own_world.host("h0", home=True)
    assert not host.shared
    assert host.folder.parent.is_dir()


def test_a_host_that_sees_the_drivers_folder_and_cannot_write_there_has_its_own_and_says_so(
    own_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.touch

    def touch(path: Path) -> None:
        if path.parent == own_world.folder:
            raise PermissionError(13, "Permission denied")
        real(path)

    monkeypatch.setattr(Path, "touch", touch)
    host = own_world.host("h1", shared=True)
    assert not host.shared
    assert host.folder != own_world.folder
    own_world.wait_until(lambda: own_world.notes)
    assert f"cannot write to {own_world.folder}" in own_world.notes[0]
    monkeypatch.undo()
    assert sorted(path.name for path in own_world.folder.iterdir()) == ["probe"]


@pytest.mark.parametrize("with_driver", [True, False])
def test_only_a_host_on_the_drivers_node_reads_the_drivers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_driver: bool
) -> None:
    there = {"TOKEN": "secret", "RAY_ADDRESS": "other", "SHOAL_A": "1", "PATH": "another"}
    (tmp_path / "environment").write_text(json.dumps(there))
    monkeypatch.setattr(os, "environ", {"PATH": "own", "SHOAL_B": "own"})
    setup: Any = SimpleNamespace(
        with_driver=with_driver, secrets=str(tmp_path / "environment"), environment={"SHOAL_A": "1", "SHOAL_B": "2"},
        cwd="", path=(),
    )  # fmt: skip
    monkeypatch.setattr(sys, "path", sys.path.copy())
    host_module._take_over(setup)
    own = {"PATH": "own", "SHOAL_A": "1", "SHOAL_B": "own"}
    theirs = {"TOKEN": "secret", "SHOAL_A": "1", "PATH": "another", "SHOAL_B": "own"}
    assert os.environ == (theirs if with_driver else own)


def test_a_host_on_the_drivers_node_that_cannot_read_its_environment_takes_what_all_may_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(sys, "path", sys.path.copy())
    setup: Any = SimpleNamespace(
        with_driver=True, secrets=str(tmp_path / "not there"), environment={"SHOAL_A": "1"}, cwd="", path=()
    )
    host_module._take_over(setup)
    assert os.environ == {"SHOAL_A": "1"}


def test_a_trainable_that_cannot_be_loaded_is_told(own_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.hosted.pickle_trainable", lambda trainable: b"no pickle")
    with pytest.raises(EngineError, match="cannot be loaded"):
        own_world.host("h1")


def test_a_host_that_fails_says_so_with_its_last_word(own_world: World) -> None:
    own_world.host("h1")
    own_world.launch("a", own_world.slot("h1"), until=1.0)
    own_world.next(Reported, "a")
    own_world.lines["h1"].send([Execute(Continue("nobody", 1, 0, None)), "no order"])  # type: ignore[list-item]
    own_world.wait_until(lambda: not own_world.fleet.has("h1"))
    assert isinstance(own_world.events[-2], SlotsLeft)
    lost = own_world.next(Lost, "a")
    assert lost.innocent
    assert "Traceback" in lost.reason


def test_orders_that_come_twice_are_carried_out_once(world: World) -> None:
    world.launch("s1", world.slot("h1"), until=2.0)
    world.poll()
    world.lines["h1"].resend(all_of_it=True)
    world.next(Reported, "s1", lambda event: event.waiting)
    assert [event for event in world.about("s1") if isinstance(event, Started)] == []


def test_an_object_that_comes_after_the_start_is_found_by_members(own_world: World) -> None:
    own_world.trainable = get_object
    own_world.host("h1", shared=True)
    ref = shoal.put({"large": list(range(1000))})
    data = Path(ref.path).read_bytes()
    os.unlink(ref.path)
    objects.adopt(objects.ObjectRef(ref.id, ref.size, "/not/here"), data)
    elsewhere: objects.ObjectRef[object] = objects.ObjectRef(ref.id, ref.size, "/not/here")
    assert elsewhere.there
    own_world.launch("a", own_world.slot("h1"), ref=elsewhere)
    assert own_world.next(Reported, "a").metrics["found"] == {"large": list(range(1000))}


def test_a_half_written_object_is_never_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_OBJECTS", "")
    ref: objects.ObjectRef[object] = objects.ObjectRef("0123", 3, "/not/here")
    objects.expect()
    seen: list[bool] = []

    def fails(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data)
        seen.append(ref.there)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(StorageError, match="no room"):
        objects.adopt(ref, b"abc")
    assert seen
    assert not any(seen)
    assert not ref.there
    monkeypatch.undo()
    objects.free_all()


def test_a_host_ends_at_once_where_that_is_wanted(own_world: World) -> None:
    own_world.host("h1")
    own_world.launch("a", own_world.slot("h1"))
    own_world.next(Reported, "a")
    own_world.lines["h1"].send([End(at_once=True)])
    own_world.wait_until(lambda: own_world.fleet.posts["h1"].ended)
