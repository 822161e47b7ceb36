"""The driver's side of all hosts: what each is told, and what the core hears of those that come, fail and go."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from shoal.core.commands import CheckpointRecord, Continue, Evict, HandOn, Launch, Save, Status, Stop, WindUp
from shoal.core.events import Event, Failed, Lost, Reported, SavedCheckpoint, SlotsJoined, SlotsLeft
from shoal.core.reports import ReportRules
from shoal.engines import EngineSetup
from shoal.engines.fleet import Fleet, Post
from shoal.engines.orders import (
    Add,
    Begin,
    Delete,
    Devices,
    End,
    Ended,
    Execute,
    Fetch,
    Held,
    HostFacts,
    Kill,
    Missing,
    Order,
    Peers,
    Printed,
    Remark,
    Upload,
    Uploaded,
)
from shoal.errors import StorageError
from shoal.resources import Request
from shoal.storage.place import Place
from shoal.storage.trying import PlaceError
from shoal.worker.wire import MemberInfo, frame

GIB = 1 << 30


class Bench:
    """A fleet whose hosts only write down what they are told."""

    def __init__(self, folder: Path, *, place: str | None = "memory://runs/e", **settings: Any) -> None:
        self.folder = folder
        self.shown: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self.fleet = Fleet(
            EngineSetup(
                trainable=print, rules=ReportRules(), experiment="e", seed=0, cpus=1.0, gpus=0.0, devices=(),
                output=lambda name, text: self.shown.append((name, text)), folder=str(folder), place=place,
                note=self.notes.append, **settings,
            )
        )  # fmt: skip
        self.got: dict[str, list[Order]] = {}
        for name in ("a", "b", "c"):
            self.fleet.add(MemberInfo(name, 0, f"train_{name}", str(folder / name)))

    def join(self, key: str, slots: int = 1, *, shared: bool = False, memory: int = GIB, home: bool = False) -> Any:
        bench = self

        class To:
            def send(self, orders: list[Order]) -> None:
                bench.got.setdefault(key, []).extend(orders)

        post = Post(key, To(), HostFacts(key, 1, "", shared, memory), f"node of {key}")
        return self.fleet.join(post, [""] * slots, home=home)

    def told(self, key: str, *kinds: type[Any]) -> list[Any]:
        """Return what a host was told since this was asked last, of some kinds."""
        self.fleet.flush()
        return [order for order in self.got.pop(key, []) if isinstance(order, kinds or (object,))]

    def hear(self, key: str, *said: Any) -> list[Event]:
        return self.fleet.heard(key, b"".join(map(frame, said)))

    def execute(self, command: Any, checkpoint: CheckpointRecord | None = None) -> None:
        path = (
            None
            if checkpoint is None
            else str(self.folder / checkpoint.trial_id / f"checkpoint_{checkpoint.number:06}")
        )
        self.fleet.execute(command, path)

    def place(self, name: str) -> Place:
        return Place(f"memory://runs/e/{name}")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def launch(trial_id: str, number: int = 1, slot: int = 0, *, fresh: bool = True, **others: Any) -> Launch:
    given: dict[str, Any] = {"config": {"lr": 0.5}, "checkpoint": None, "iteration": 0, "time_total_s": 0.0, **others}
    return Launch(trial_id, number, slot, next_checkpoint=0, until=None, fresh=fresh, **given)


def report(trial_id: str, number: int = 0, digest: str = "d") -> Reported:
    return Reported(trial_id, 1, 1, {}, False, checkpoint=SavedCheckpoint(number, digest, 1))


def record(trial_id: str, number: int = 0, digest: str = "d") -> CheckpointRecord:
    return CheckpointRecord("", trial_id, number, digest, 1, 1, 1.0, 1.0, None, None)


# -------------------------------------------------------------------------------------------------- slots and hosts


def test_slots_are_numbered_on_whatever_has_left(bench: Bench) -> None:
    assert [event.devices for event in bench.join("h1", 2)] == [("h1", "h1")]
    bench.join("h2")
    assert bench.told("h2", Devices) == [Devices({2: ""})]
    bench.fleet.leave("h1", "gone")
    bench.join("h3", 2)
    assert bench.told("h3", Devices) == [Devices({3: "", 4: ""})]
    assert bench.fleet.leave("h3", "gone") == [SlotsLeft((3, 4), 2)]


def test_a_device_belongs_to_its_host(bench: Bench) -> None:
    bench.join("h1", 0)
    assert bench.fleet.more_slots(bench.fleet.posts["h1"], ["0", "1", ""]) == [SlotsJoined(("h1/0", "h1/1", "h1"), 3)]
    assert bench.told("h1", Devices) == [Devices({0: "0", 1: "1", 2: ""})]


@pytest.mark.parametrize(
    ("settings", "memory", "slots", "expected"),
    [
        ({}, 8 * GIB, 2, 16),
        ({"request": Request(memory=4 * GIB)}, 8 * GIB, 1, 2),
        ({}, GIB // 4, 2, 3),
        ({"request": Request(gpus=1.0)}, 80 * GIB, 2, 3),
        ({"max_residents": 3}, 8 * GIB, 2, 0),
    ],
)
def test_a_host_has_room_for_residents_by_its_memory_and_takes_it_along(
    tmp_path: Path, settings: Any, memory: int, slots: int, expected: int
) -> None:
    bench = Bench(tmp_path, **settings)
    [joined] = bench.join("h1", slots, memory=memory)
    [more] = bench.fleet.more_slots(bench.fleet.posts["h1"], [""])
    assert isinstance(more, SlotsJoined)
    grown = joined.residents + more.residents
    assert grown == expected
    assert bench.fleet.leave("h1", "gone") == [SlotsLeft(tuple(range(slots + 1)), grown)]


def test_a_host_that_leaves_takes_its_members_along_by_no_fault_of_theirs_and_nothing_is_heard_of_it(
    bench: Bench,
) -> None:
    bench.join("h1", 2)
    bench.join("h2")
    for slot, name in enumerate("abc"):
        bench.execute(launch(name, slot=slot))
    assert bench.fleet.leave("h1", "its node died") == [
        SlotsLeft((0, 1), 2),
        Lost("a", 1, "its node died", innocent=True),
        Lost("b", 1, "its node died", innocent=True),
    ]
    assert bench.fleet.leave("h1", "again") == []
    assert bench.hear("h1", report("a")) == []
    assert bench.hear("h2", report("c")) == [report("c")]


def test_a_host_that_cannot_go_on_leaves_with_all_that_it_has_said_before(bench: Bench) -> None:
    bench.join("h1")
    bench.execute(launch("a"))
    said, left, lost = bench.hear("h1", report("a"), Ended("Traceback ..."))
    assert (said, left) == (report("a"), SlotsLeft((0,), 2))
    assert isinstance(lost, Lost)
    assert "Traceback ..." in lost.reason
    assert not bench.fleet.has("h1")


# -------------------------------------------------------------------------------------------------------- commands


def test_a_host_is_told_of_a_trial_once_and_before_its_first_launch(bench: Bench) -> None:
    bench.join("h1")
    bench.execute(launch("a"))
    bench.execute(launch("a", 2, fresh=False))
    told = bench.told("h1", Add, Execute)
    assert [type(order) for order in told] == [Add, Execute, Execute]
    assert told[1].command.config == {}
    assert told[1].config is not None


def test_what_is_for_a_trial_goes_to_where_its_process_is(bench: Bench) -> None:
    bench.join("h1")
    bench.join("h2")
    bench.execute(launch("a", slot=1))
    bench.told("h2")
    commands = [Continue("a", 1, 1, None), Save("a", 1), WindUp("a", 1)]
    for command in commands:
        bench.execute(command)
    bench.fleet.kill("a", "it hangs")
    assert [order.command for order in bench.told("h2", Execute)] == commands
    bench.execute(Evict("a", 1))
    bench.execute(launch("a", 2, slot=0))
    bench.fleet.kill("a", "it hangs")
    assert bench.told("h2", Execute, Kill) == [Execute(Evict("a", 1))]
    assert bench.told("h1", Kill) == [Kill("a", "it hangs")]


def test_a_promise_between_two_hosts_is_told_to_neither(bench: Bench) -> None:
    bench.join("h1", 2)
    bench.join("h2")
    for slot, name in enumerate("abc"):
        bench.execute(launch(name, slot=slot))
    bench.told("h1")
    there, elsewhere = (HandOn("a", 1, 0, to, 1, 0, None) for to in "bc")
    bench.execute(elsewhere)
    bench.execute(there)
    assert [order.command for order in bench.told("h1", Execute)] == [there]


def test_whoever_has_no_process_any_more_is_lost_where_that_is_still_to_be_told(bench: Bench) -> None:
    needs = (launch("a"), launch("a", 2, fresh=False), Continue("a", 2, 0, None), WindUp("a", 2), Save("a", 2))
    needs_not = (Evict("a", 2), Stop("a", 2, Status.TERMINATED, "the end"), HandOn("a", 2, 0, "b", 1, 0, None))
    for command in needs:
        bench.execute(command)
        [lost] = bench.fleet.take_ready()
        assert isinstance(lost, Lost)
        assert (lost.trial_id, lost.launch, lost.innocent) == ("a", command.launch, True)
    for other in needs_not:
        bench.execute(other)
        assert bench.fleet.take_ready() == []
    bench.fleet.kill("a", "it hangs")


def test_a_trial_whose_process_died_while_its_next_launch_was_on_its_way_is_not_forgotten(bench: Bench) -> None:
    bench.join("h1")
    bench.execute(launch("a"))
    bench.execute(launch("a", 2, fresh=False))
    assert bench.hear("h1", Lost("a", 1, "killed")) == [Lost("a", 1, "killed")]  # which is late for the core
    assert bench.fleet.leave("h1", "its node died")[1:] == [Lost("a", 2, "its node died", innocent=True)]


def iter_nothing() -> Iterator[int]:
    yield from ()


def test_a_config_that_cannot_be_sent_fails_its_own_trial(bench: Bench) -> None:
    bench.join("h1")
    bench.execute(launch("a", config={"stream": iter_nothing()}))
    [failed] = bench.fleet.take_ready()
    assert isinstance(failed, Failed)
    assert "generator" in failed.error
    assert bench.told("h1", Execute) == []


def test_all_hosts_with_members_are_told_to_end(bench: Bench) -> None:
    bench.join("h1")
    bench.join("h0", 0, home=True, shared=True)
    bench.fleet.end(at_once=True)
    assert bench.told("h1", End) == [End(True)]
    assert bench.told("h0", End) == []
    bench.hear("h1", Ended())
    assert bench.fleet.posts["h1"].ended


# --------------------------------------------------------------------------------------------- who keeps copies


def peers(bench: Bench, key: str) -> Peers:
    found: Peers = bench.told(key, Peers)[-1]
    return found


def test_each_host_has_the_next_ones_keep_its_copies(bench: Bench) -> None:
    for key in ("h1", "h2", "h3"):
        bench.join(key)
    assert [peers(bench, key).keys for key in ("h1", "h2", "h3")] == [("h2", "h3"), ("h3", "h1"), ("h1", "h2")]
    bench.fleet.leave("h2", "gone")
    assert [peers(bench, key).keys for key in ("h1", "h3")] == [("h3",), ("h1",)]


def test_without_storage_copies_are_kept_in_the_drivers_folder(tmp_path: Path) -> None:
    bench = Bench(tmp_path, place=None)
    bench.join("h1")
    bench.join("h2")
    assert peers(bench, "h1") == Peers((), awaited=True)
    bench.join("h0", 0, home=True, shared=True)
    assert peers(bench, "h1") == Peers(("h0",))
    bench.fleet.leave("h0", "gone")
    assert peers(bench, "h1") == Peers((), awaited=True)
    assert bench.fleet.needs_home


def test_nobody_waits_for_a_host_that_cannot_be(bench: Bench) -> None:
    bench.join("h1")
    assert bench.fleet.needs_home
    bench.fleet.no_home()
    assert not bench.fleet.needs_home
    assert peers(bench, "h1") == Peers(())


def test_where_a_host_works_in_the_drivers_folder_no_other_is_needed_there(bench: Bench) -> None:
    bench.join("h1", shared=True)
    assert not bench.fleet.needs_home
    bench.join("h2")
    assert not bench.fleet.needs_home
    assert peers(bench, "h2") == Peers(("h1",))


# ------------------------------------------------------------------------------------------------ checkpoints


def holders(bench: Bench, key: str, of: CheckpointRecord, slot: int) -> tuple[str, ...]:
    """Launch the trial c on a host from a checkpoint; return who is named as having it."""
    bench.told(key)
    bench.execute(launch("c", slot=slot, checkpoint=of), of)
    found: tuple[str, ...] = bench.told(key, Execute)[0].holders
    return found


def test_who_is_launched_elsewhere_is_told_who_has_its_checkpoint(bench: Bench) -> None:
    for key in ("h1", "h2", "h3", "h4"):
        bench.join(key)
    bench.execute(launch("a"))
    bench.hear("h1", Held("a", 0, "d", "h2"), report("a"))
    assert holders(bench, "h4", record("a"), 3) == ("h2", "h1")
    bench.fleet.leave("h2", "gone")
    assert holders(bench, "h3", record("a"), 2) == ("h1", "h4")


def test_one_of_the_same_number_that_a_dead_process_has_saved_is_another(bench: Bench) -> None:
    for key in ("h1", "h2", "h3"):
        bench.join(key)
    bench.execute(launch("a"))
    bench.hear("h1", Held("a", 0, "old", "h2"))  # and then it dies, before its report is heard
    bench.fleet.leave("h1", "gone")
    bench.execute(launch("a", 2, slot=2))
    bench.hear("h3", report("a", 0, "new"))
    assert holders(bench, "h2", record("a", 0, "new"), 1) == ("h3",)


def test_what_is_in_the_drivers_folder_is_got_from_who_works_there(bench: Bench) -> None:
    bench.join("h1")
    bench.join("h0", 0, home=True, shared=True)
    assert holders(bench, "h1", record("a"), 0) == ()
    (bench.folder / "a/checkpoint_000000").mkdir(parents=True)
    assert holders(bench, "h1", record("a"), 0) == ("h0",)


def missing(trial_id: str = "c", number: int = 1, *asked: str, reached: bool = True) -> Missing:
    return Missing(trial_id, number, "a", 0, "d", asked, reached, "why")


def answers(bench: Bench, key: str) -> list[Order]:
    return bench.told(key, Fetch, Begin)


def test_who_misses_a_checkpoint_is_told_who_has_it_by_now(bench: Bench) -> None:
    for key in ("h1", "h2", "h3"):
        bench.join(key)
    bench.execute(launch("a"))
    bench.hear("h1", report("a"))
    assert holders(bench, "h3", record("a"), 2) == ("h1",)
    bench.hear("h1", Held("a", 0, "d", "h2"))
    bench.hear("h3", missing("c", 1, "h1"))
    assert answers(bench, "h3") == [Fetch("c", 1, ("h2",))]
    bench.hear("h3", missing("c", 1, "h2", "h1"))
    assert answers(bench, "h3") == [Begin("c", 1)]
    assert holders(bench, "h2", record("a"), 1) == ("h1",), "the one that misses it has it not"


def test_who_misses_what_is_in_the_drivers_folder_hears_of_it_when_a_host_works_there(bench: Bench) -> None:
    (bench.folder / "a/checkpoint_000000").mkdir(parents=True)
    bench.join("h1")
    assert holders(bench, "h1", record("a"), 0) == ()
    bench.hear("h1", missing())
    bench.join("h2")
    assert answers(bench, "h1") == []
    bench.join("h0", 0, home=True, shared=True)
    assert answers(bench, "h1") == [Fetch("c", 1, ("h0",))]
    bench.hear("h1", missing("c", 1, "h0"))
    assert answers(bench, "h1") == [Begin("c", 1)]
    bench.hear("h1", missing("c", 1, "h0", reached=False))
    [begin] = answers(bench, "h1")
    assert isinstance(begin, Begin)
    assert begin.lost is not None


def test_who_is_not_launched_any_more_waits_for_nobody(bench: Bench) -> None:
    (bench.folder / "a/checkpoint_000000").mkdir(parents=True)
    bench.join("h1")
    bench.join("h2")
    for slot, name in enumerate("bc"):
        bench.execute(launch(name, slot=slot, checkpoint=record("a")), record("a"))
        bench.hear(f"h{slot + 1}", missing(name))
    bench.execute(Stop("b", 1, Status.TERMINATED, "the end"))
    bench.fleet.leave("h2", "it died")
    bench.hear("h1", missing("b"))
    bench.join("h0", 0, home=True, shared=True)
    assert answers(bench, "h1") == []


def test_what_an_earlier_launch_misses_is_in_the_way_of_no_later_one(bench: Bench) -> None:
    (bench.folder / "a/checkpoint_000000").mkdir(parents=True)
    bench.join("h1")
    holders(bench, "h1", record("a"), 0)
    bench.execute(launch("c", 2, fresh=False))
    bench.hear("h1", missing())
    assert answers(bench, "h1") == [Begin("c", 1)]


def test_a_checkpoint_is_deleted_wherever_it_is_or_will_be(bench: Bench) -> None:
    for key in ("h1", "h2", "h3"):
        bench.join(key)
    bench.execute(launch("a"))
    bench.hear("h1", Held("a", 0, "d", "h2"), report("a"))
    holders(bench, "h3", record("a"), 2)
    bench.fleet.delete("a", 0)
    assert [bench.told(key, Delete) for key in ("h1", "h2", "h3")] == [[Delete("a", 0)]] * 3
    bench.fleet.delete("a", 0)
    assert bench.told("h1", Delete) == []


def uploading_from_two(bench: Bench) -> Future[None]:
    """Have a checkpoint uploaded that two hosts have. The first one is asked."""
    bench.join("h1")
    bench.join("h2")
    bench.execute(launch("a"))
    bench.hear("h1", report("a"), Held("a", 0, "d", "h2"))
    return bench.fleet.upload("a", 0, "d", bench.place("a"))


def error_of(future: Future[None]) -> BaseException | None:
    assert future.done()
    return future.exception()


def test_who_has_a_checkpoint_uploads_it_and_else_the_next_one(bench: Bench) -> None:
    future = uploading_from_two(bench)
    [first] = bench.told("h1", Upload)
    bench.hear("h1", Uploaded(first.number_of_order, FileNotFoundError("it is not here")))
    [second] = bench.told("h2", Upload)
    assert not future.done()
    bench.hear("h2", Uploaded(second.number_of_order, None))
    assert error_of(future) is None
    bench.hear("h2", Uploaded(second.number_of_order, None))  # of which nobody knows any more


def test_an_upload_goes_on_elsewhere_where_its_node_dies(bench: Bench) -> None:
    future = uploading_from_two(bench)
    bench.fleet.leave("h1", "its node died")
    assert len(bench.told("h2", Upload)) == 1
    bench.fleet.leave("h2", "its node died")
    assert isinstance(error_of(future), StorageError)


def test_one_that_nobody_has_is_not_there_and_in_the_end_nobody_is_asked(bench: Bench) -> None:
    bench.join("h1")
    assert isinstance(error_of(bench.fleet.upload("a", 0, "d", bench.place("a"))), FileNotFoundError)
    bench.execute(launch("a"))
    bench.hear("h1", report("a"))
    pending = bench.fleet.upload("a", 0, "d", bench.place("a"))
    bench.fleet.close()
    assert isinstance(error_of(pending), StorageError)
    assert isinstance(error_of(bench.fleet.upload("a", 0, "d", bench.place("a"))), StorageError)


def test_what_storage_says_is_told(bench: Bench) -> None:
    bench.join("h1")
    bench.execute(launch("a"))
    bench.hear("h1", report("a"))
    future = bench.fleet.upload("a", 0, "d", bench.place("a"))
    [order] = bench.told("h1", Upload)
    bench.hear("h1", Uploaded(order.number_of_order, StorageError("denied")))
    assert str(error_of(future)) == "On h1: denied"


def test_where_one_host_cannot_use_storage_another_that_has_the_checkpoint_is_asked(bench: Bench) -> None:
    future = uploading_from_two(bench)
    [first] = bench.told("h1", Upload)
    bench.hear("h1", Uploaded(first.number_of_order, PlaceError("no credentials", passes=True)))
    [second] = bench.told("h2", Upload)
    assert not future.done()
    bench.hear("h2", Uploaded(second.number_of_order, None))
    assert error_of(future) is None


@pytest.mark.parametrize("second", [FileNotFoundError("it is not here"), StorageError("another reason")])
def test_where_no_host_can_upload_it_the_first_reason_counts(bench: Bench, second: Any) -> None:
    future = uploading_from_two(bench)
    bench.hear("h1", Uploaded(bench.told("h1", Upload)[0].number_of_order, PlaceError("denied", passes=True)))
    bench.hear("h2", Uploaded(bench.told("h2", Upload)[0].number_of_order, second))
    error = error_of(future)
    assert isinstance(error, PlaceError)
    assert error.passes
    assert str(error) == "On h1: denied"


def test_that_one_does_not_have_it_says_less_than_why_another_cannot(bench: Bench) -> None:
    future = uploading_from_two(bench)
    missing = FileNotFoundError("it is not here")
    bench.hear("h1", Uploaded(bench.told("h1", Upload)[0].number_of_order, missing))
    bench.hear("h2", Uploaded(bench.told("h2", Upload)[0].number_of_order, StorageError("denied")))
    assert str(error_of(future)) == "On h2: denied"


# ----------------------------------------------------------------------------------------------- slots that are spare


def spare(bench: Bench, wanted: int) -> dict[str, list[int]]:
    return {post.key: slots for post, slots in bench.fleet.spare(wanted)}


def test_spare_are_those_that_nobody_has_on_hosts_with_the_fewest_members_first(bench: Bench) -> None:
    bench.join("h1", 3)
    bench.join("h2", 2)
    bench.execute(launch("a", slot=1))
    assert spare(bench, 5) == {}
    assert spare(bench, 4) == {"h2": [3]}
    assert spare(bench, 1) == {"h2": [3, 4], "h1": [0, 2]}


def test_who_has_a_process_at_a_host_can_still_run_there(bench: Bench) -> None:
    bench.join("h1", 3)
    bench.execute(launch("a", slot=0))
    bench.execute(launch("b", slot=1))
    bench.execute(Continue("b", 1, 0, None))  # the first one is parked meanwhile
    assert spare(bench, 1) == {"h1": [1]}
    bench.execute(Stop("b", 1, Status.TERMINATED, "the end"))
    assert spare(bench, 1) == {"h1": [1, 2]}


def test_slots_that_leave_take_the_room_for_their_processes_along(bench: Bench) -> None:
    bench.join("h1", 4, memory=GIB)
    [(post, slots)] = bench.fleet.spare(2)
    assert bench.fleet.fewer_slots(post, slots) == [SlotsLeft((0, 1), 2)]
    assert bench.fleet.idle() == []
    [(post, slots)] = bench.fleet.spare(0)
    assert bench.fleet.fewer_slots(post, slots) == [SlotsLeft((2, 3), 2)]
    assert bench.fleet.idle() == [post]
    assert [event.residents for event in bench.fleet.more_slots(post, [""]) if isinstance(event, SlotsJoined)] == [2]
    assert bench.fleet.idle() == []


def test_a_host_without_slots_keeps_no_more_copies_for_others(bench: Bench) -> None:
    for key in ("h1", "h2", "h3"):
        bench.join(key)
    bench.told("h1")
    post = bench.fleet.posts["h2"]
    bench.fleet.fewer_slots(post, [1])
    assert bench.told("h1", Peers) == [Peers(("h3",))]
    bench.fleet.more_slots(post, [""])
    assert bench.told("h1", Peers) == [Peers(("h2", "h3"))]


def test_a_host_stays_until_what_it_alone_has_is_in_storage(bench: Bench) -> None:
    bench.join("h1")
    bench.execute(launch("a"))
    bench.hear("h1", report("a"))
    bench.execute(Stop("a", 1, Status.TERMINATED, "the end"))
    bench.fleet.fewer_slots(bench.fleet.posts["h1"], [0])
    assert bench.fleet.idle() == []
    future = bench.fleet.upload("a", 0, "d", bench.place("a"))
    [order] = bench.told("h1", Upload)
    assert bench.fleet.idle() == []
    bench.hear("h1", Uploaded(order.number_of_order, None))
    assert error_of(future) is None
    assert [post.key for post in bench.fleet.idle()] == ["h1"]


# ------------------------------------------------------------------------------------------------ what members print


def test_lines_are_shown_and_written_where_the_host_cannot(bench: Bench) -> None:
    bench.join("h1")
    bench.join("h2", shared=True)
    bench.execute(launch("a", slot=0))
    bench.execute(launch("b", slot=1))
    bench.hear("h1", Printed("train_a", "größer"), Printed("train_a", ""), Printed("train_a", "3"))
    bench.hear("h2", Printed("train_b", "it writes by itself"))
    bench.hear("h1", Printed("train_a", "4"), Remark("take note"))
    assert (bench.folder / "a/output.log").read_text(encoding="utf-8") == "größer\n\n3\n4\n"
    assert not (bench.folder / "b").exists()
    assert [text for _, text in bench.shown] == ["größer", "", "3", "it writes by itself", "4"]
    assert bench.notes == ["take note"]


def test_a_log_that_cannot_be_written_ends_once(bench: Bench) -> None:
    bench.join("h1")
    bench.execute(launch("a"))
    (bench.folder / "a/output.log").mkdir()
    bench.hear("h1", Printed("train_a", "1"))
    bench.hear("h1", Printed("train_a", "2"))
    assert len(bench.shown) == 3
    assert "output.log cannot be written and ends here" in bench.shown[1][1]


def test_a_folder_that_is_gone_is_not_made_anew_by_what_is_printed(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "moved away")
    bench.join("h1")
    bench.execute(launch("a"))
    bench.hear("h1", Printed("train_a", "1"))
    assert not bench.folder.exists()
