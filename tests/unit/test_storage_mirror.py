"""The mirror beside a run: it ends with all in storage, or says what is not; storage that is away ends no run."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from tests.unit.stored import (
    LOGS,
    Interrupted,
    Telling,
    check_copy,
    existing,
    interrupted,
    undisturbed,
    until,
    write_logs,
)

from shoal.checkpoints.depot import LocalDepot
from shoal.errors import JournalError
from shoal.patience import uploads_at_once
from shoal.storage import mirror as module
from shoal.storage.logs import log_files
from shoal.storage.mirror import Mirror
from shoal.storage.place import Place
from shoal.storage.segments import ALIVE
from shoal.storage.shipping import Shipper, fetch, look, relation
from shoal.storage.transfer import list_checkpoints, name_of_key
from shoal.storage.trying import PlaceError
from shoal.storage.workers import Workers


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to wait for long."""
    monkeypatch.setattr(module, "_MOST_S", 0.02)
    monkeypatch.setattr(module, "_SAY_AFTER_S", 0.0)
    monkeypatch.setattr(module, "_AT_ONCE_S", 0.3)
    monkeypatch.setattr(module, "_GRACE_S", 0.1)
    monkeypatch.setattr("shoal.storage.transfer._PATIENCE_S", 0.0)


class Run:
    """A driver with a mirror."""

    def __init__(self, place: Place, folder: Path, patience_s: float = 60.0) -> None:
        self.place = place
        self.depot = LocalDepot(folder)
        self.driver = Telling(folder, depot=self.depot, members=2)
        self.mirror = Mirror(place, self.depot, every_s=0.0, patience_s=patience_s)

    def start(self) -> None:
        """Begin."""
        with undisturbed():
            self.mirror.begin(self.driver.folder)
        self.mirror.start(self.driver.info, self.driver.folder, self.driver.history)
        self.driver.listeners.append((self.mirror.take, self.mirror.flush))

    def go_on(self, steps: int = 10_000) -> None:
        """Let things happen."""
        while steps and not self.driver.ended:
            self.driver.step()
            steps -= 1

    def end(self) -> None:
        """End without the mirror."""
        self.depot.close()
        self.driver.journal.close()


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Make runs, all of which are ended."""
    made: list[Run] = []

    def make(place: Place, name: str = "exp", **settings: float) -> Run:
        made.append(Run(place, tmp_path / name, **settings))
        return made[-1]

    yield make
    for run in made:
        run.mirror.close(at_once=True)
        run.end()


def test_at_the_end_of_a_run_all_of_it_is_in_storage(runs: Callable[..., Run], tmp_path: Path) -> None:
    with interrupted() as place:
        run = runs(place)
        run.start()
        run.go_on()
        write_logs(run.driver.folder)
        run.mirror.close()
        run.mirror.close()
        assert run.mirror.trouble is None
        assert run.mirror.told() == []
        assert check_copy(place, run.driver.journal, tmp_path / "copy") == run.driver.journal.last
        folders = {trial.folder for trial in run.driver.history.trials.values()}
        there = {(folder, number) for folder in folders for number in list_checkpoints(place / folder)}
        assert there == set(existing(run.driver.history))
        found = look(place)
        assert found is not None
        assert found.alive is not None
        assert found.alive.ended
        assert {name for name in map(name_of_key, place.list_sizes()) if _is_other(name)} == set(LOGS)
        assert set(log_files(run.driver.folder)) == set(LOGS)


def _is_other(name: str) -> bool:
    return not name.startswith(("journal/", "trial_0"))


def test_storage_follows_while_the_run_goes_on(runs: Callable[..., Run]) -> None:
    with interrupted() as place:
        run = runs(place)
        run.start()
        for _ in range(4):
            run.go_on(8)
            last = run.driver.journal.last
            until(lambda last=last: _seq(place) == last)  # type: ignore[misc]


def _seq(place: Place) -> int:
    found = look(place)
    return -1 if found is None else found.seq


def test_a_run_that_goes_on_elsewhere_sends_what_is_new(runs: Callable[..., Run], tmp_path: Path) -> None:
    with interrupted() as place:
        first = runs(place)
        first.start()
        first.go_on(25)
        first.mirror.close()
        fetch(place, tmp_path / "fresh")
        second = runs(place, "fresh")
        second.start()
        second.go_on()
        second.mirror.close()
        assert second.mirror.trouble is None
        assert check_copy(place, second.driver.journal, tmp_path / "copy") == second.driver.journal.last


def test_storage_that_is_away_for_a_while_is_spoken_of_and_caught_up_with(
    runs: Callable[..., Run], tmp_path: Path
) -> None:
    away = threading.Event()

    def sometimes(what: str, path: str) -> None:
        if away.is_set():
            raise ConnectionRefusedError("nobody is there")

    with interrupted(sometimes) as place:
        run = runs(place)
        run.start()
        run.go_on(10)
        until(lambda: _quietly(place) == run.driver.journal.last)
        away.set()
        run.go_on(10)
        told: list[str] = []

        def told_so_far() -> int:
            told.extend(run.mirror.told())
            return len(told)

        until(told_so_far)
        run.go_on(10)
        away.clear()
        until(lambda: _quietly(place) == run.driver.journal.last)
        until(lambda: told_so_far() == 2)
        run.mirror.close()
        assert run.mirror.trouble is None
        assert "cannot be reached now" in told[0]
        assert "The run goes on" in told[0]
        assert "can be used again" in told[1]
        assert check_copy(place, run.driver.journal, tmp_path / "copy") == run.driver.journal.last


def _quietly(place: Place) -> int:
    with undisturbed():
        return _seq(place)


def test_storage_that_stays_away_ends_the_run_with_what_to_do(runs: Callable[..., Run]) -> None:
    def away(what: str, path: str) -> None:
        raise TimeoutError

    with interrupted(away) as place:
        run = runs(place, patience_s=0.05)
        run.start()
        run.go_on(10)
        until(lambda: run.mirror.trouble)
        run.mirror.close()
        assert run.mirror.trouble is not None
        assert "there was no answer in time" in run.mirror.trouble
        assert "SHOAL_STORAGE_PATIENCE_S" in run.mirror.trouble
        assert f"What is not in storage is in {run.driver.folder}." in run.mirror.trouble


def test_who_finds_another_driver_in_its_place_ends(runs: Callable[..., Run], tmp_path: Path) -> None:
    with interrupted() as place:
        run = runs(place)
        run.start()
        run.go_on(10)
        until(lambda: _seq(place) == run.driver.journal.last)
        fetch(place, tmp_path / "copy")
        Shipper(place, tmp_path / "copy", 1.0).begin()
        run.go_on(10)
        until(lambda: run.mirror.trouble)
        assert "taken over by process" in (run.mirror.trouble or "")
        assert relation(place, tmp_path / "copy") == "same"


def test_a_last_round_that_is_not_done_in_time_is_told(runs: Callable[..., Run]) -> None:
    opened = threading.Event()

    def hangs(what: str, path: str) -> None:
        opened.wait(30)

    with interrupted(hangs) as place:
        run = runs(place)
        run.start()
        run.go_on(10)
        run.mirror.close(at_once=True)
        assert run.mirror.trouble is not None
        assert "does not answer" in run.mirror.trouble
        opened.set()


def test_a_last_round_that_fails_to_the_end_is_told(runs: Callable[..., Run]) -> None:
    def refuses(what: str, path: str) -> None:
        raise PermissionError("not you")

    with interrupted(refuses) as place:
        run = runs(place)
        run.start()
        run.go_on(10)
        run.mirror.close(patience_s=0.1)
        assert run.mirror.trouble is not None
        assert "is denied" in run.mirror.trouble


def test_a_mirror_that_has_a_bug_says_so(runs: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: object, target: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("shoal.storage.rounds.Rounds._upload", wrong)
    with interrupted() as place:
        run = runs(place)
        run.start()
        run.go_on(1)
        until(lambda: run.mirror.trouble)
        assert "KeyError: 'a bug'" in (run.mirror.trouble or "")


def test_storage_that_cannot_be_used_is_told_before_anything_runs(runs: Callable[..., Run]) -> None:
    def refuses(what: str, path: str) -> None:
        raise PermissionError("not you")

    with interrupted(refuses) as place:
        run = runs(place)
        with pytest.raises(PlaceError, match=r"Access to interrupted://runs/exp.*is denied"):
            run.mirror.begin(run.driver.folder)


def test_who_began_and_did_not_run_keeps_nobody_waiting(runs: Callable[..., Run]) -> None:
    with interrupted() as place:
        run = runs(place)
        run.mirror.begin(run.driver.folder)
        run.mirror.close()
        found = look(place)
        assert found is not None
        assert found.alive is not None
        assert found.alive.ended


def test_an_experiment_of_that_name_with_other_records_is_not_written_over(runs: Callable[..., Run]) -> None:
    with interrupted() as place:
        first = runs(place)
        first.start()
        first.go_on()
        first.mirror.close()
        second = runs(place, "other")
        with pytest.raises(JournalError, match="holds records that the journal in"):
            second.mirror.begin(second.driver.folder)


def test_a_last_round_takes_as_long_as_something_arrives(runs: Callable[..., Run], tmp_path: Path) -> None:
    """A request takes a tenth of the patience; together they take more than all of it."""
    slow: list[float] = []

    def slowly(what: str, path: str) -> None:
        if what == "wrote" and "checkpoint_" in path:
            slow.append(0.1)
            threading.Event().wait(0.1)

    with interrupted(slowly) as place:
        run = runs(place, patience_s=1.0)
        run.depot._workers = Workers(1, "test")
        run.start()
        run.go_on(30)
        run.mirror.close()
        assert run.mirror.trouble is None
        assert sum(slow) > 1.0
        Interrupted.hook = None
        assert check_copy(place, run.driver.journal, tmp_path / "copy") == run.driver.journal.last


def test_an_upload_that_never_returns_is_told_and_ends_the_run(
    runs: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SILENT_S", 0.05)
    monkeypatch.setattr("shoal.storage.rounds._LOOK_S", 0.02)
    with interrupted() as place:
        run = runs(place, patience_s=0.3)
        real = run.depot.upload
        monkeypatch.setattr(run.depot, "upload", lambda *a: Future() if a[0] == "trial_00000" else real(*a))
        run.start()
        run.go_on(15)
        until(lambda: run.mirror.trouble)
        assert "Nothing arrives in interrupted://runs/exp" in (run.mirror.trouble or "")
        assert any("Nothing has arrived in" in text for text in run.mirror.told())


def superseded_while_it_is_uploaded(run: Run, monkeypatch: pytest.MonkeyPatch) -> Future[None]:
    """Have the first upload of a run go on for ever; return it when the run has ended, and nobody needs it any more.

    Rounds that want it are cut off, or they would wait for it.
    """
    monkeypatch.setattr("shoal.storage.rounds._LOOK_S", 0.02)
    hanging: dict[tuple[str, int], Future[None]] = {}
    superseded, cut_off = threading.Event(), threading.Event()
    real = run.depot.upload

    def meanwhile() -> None:
        if not cut_off.is_set():
            if superseded.is_set():
                cut_off.set()  # the next round knows of it
            raise TimeoutError
        run.mirror._check_time()

    def upload(folder: str, number: int, digest: str, place: Place) -> Future[None]:
        if hanging:
            return real(folder, number, digest, place)
        future = hanging[folder, number] = Future()
        future.set_running_or_notify_cancel()
        return future

    monkeypatch.setattr(run.depot, "upload", upload)
    run.start()
    assert run.mirror._rounds is not None
    run.mirror._rounds.meanwhile(meanwhile)
    run.go_on(10)
    until(lambda: hanging)
    run.go_on()
    ((key, future),) = hanging.items()
    assert key not in existing(run.driver.history)
    superseded.set()
    return future


@pytest.mark.parametrize("patience_s", [None, 600.0])
def test_a_superseded_upload_that_never_ends_keeps_no_run_from_its_end(
    runs: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience_s: float | None
) -> None:
    """Without a signal it is given the usual patience; after one there is only so much time, and it gets none."""
    with interrupted() as place:
        run = runs(place)
        superseded_while_it_is_uploaded(run, monkeypatch)
        run.mirror._patience_s = 0.5 if patience_s is None else 600.0
        tries: list[bool] = []
        real = module._Copier.work

        def counting(copier: module._Copier, *, ending: bool) -> bool:
            tries.append(ending)
            return real(copier, ending=ending)

        monkeypatch.setattr(module._Copier, "work", counting)
        closing = threading.Thread(target=run.mirror.close, kwargs={"patience_s": patience_s}, daemon=True)
        closing.start()
        closing.join(30)
        assert not closing.is_alive()
        assert tries.count(True) < 50  # it is waited for, and not asked for all the time
        assert run.mirror.trouble is None
        assert check_copy(place, run.driver.journal, tmp_path / "copy") == run.driver.journal.last
        assert look(place).alive.ended  # type: ignore[union-attr]


def test_what_a_superseded_upload_has_left_is_deleted_when_it_ends_in_time(
    runs: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    with interrupted() as place:
        run = runs(place)
        future = superseded_while_it_is_uploaded(run, monkeypatch)
        closing = threading.Thread(target=run.mirror.close, daemon=True)
        closing.start()
        until(lambda: _quietly(place) == run.driver.journal.last)
        (key,) = run.mirror._rounds._uploads  # type: ignore[union-attr]
        (place / key[0] / f"checkpoint_{key[1]:06d}" / "part_0").write_bytes(b"late")
        future.set_result(None)
        closing.join(30)
        assert run.mirror.trouble is None
        assert not any(name.startswith(f"{key[0]}/checkpoint_{key[1]:06d}") for name in place.list_sizes())


def test_what_does_not_pass_is_not_tried_for_long_and_its_reason_is_told(
    runs: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LASTING_S", 0.1)

    def expired(what: str, path: str) -> None:
        if what == "write":
            raise PermissionError("ExpiredToken")

    with interrupted(expired) as place:
        run = runs(place, patience_s=600.0)
        run.start()
        run.go_on()
        run.mirror.close()
        assert "ExpiredToken" in (run.mirror.trouble or "")


def test_a_round_that_ends_for_want_of_time_tells_what_went_wrong(runs: Callable[..., Run]) -> None:
    def expired(what: str, path: str) -> None:
        if what == "write":
            raise TimeoutError

    with interrupted(expired) as place:
        run = runs(place, patience_s=600.0)
        run.start()
        run.go_on()
        run.mirror.close(patience_s=0.2)
        assert "There was no time to copy everything" in (run.mirror.trouble or "")
        assert "no answer in time" in (run.mirror.trouble or "")


def test_rounds_that_are_seldom_end_no_run(runs: Callable[..., Run]) -> None:
    with interrupted() as place:
        run = runs(place, patience_s=0.05)
        run.mirror._every_s = 3600.0
        run.start()
        for _ in range(10):
            run.go_on(1)
            threading.Event().wait(0.03)
        assert run.mirror.trouble is None
        run.go_on()
        run.mirror.close()
        assert run.mirror.trouble is None
        assert _seq(place) == run.driver.journal.last


def test_the_heart_beats_whatever_the_rounds_do(runs: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEAT_S", 0.02)
    opened = threading.Event()

    def hangs(what: str, path: str) -> None:
        if "checkpoint_" in path:
            opened.wait(30)

    def beats() -> int:
        with undisturbed():
            found = look(place)
        assert found is not None
        assert found.alive is not None
        return found.alive.counter

    with interrupted(hangs) as place:
        run = runs(place)
        run.start()
        run.go_on(10)
        first = beats()
        until(lambda: beats() > first + 5)
        opened.set()
        run.mirror.close()
        assert look(place).alive.ended  # type: ignore[union-attr]


def test_once_a_last_round_is_given_up_the_driver_is_not_taken_for_alive(
    runs: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BEAT_S", 0.02)
    hanging, opened = threading.Event(), threading.Event()

    def hangs(what: str, path: str) -> None:
        if what == "write" and "/journal/" in path and ALIVE not in path:
            hanging.set()
            opened.wait(30)

    def threads(name: str) -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == name}

    hearts, mirrors = threads("shoal-heartbeat"), threads("shoal-mirror")
    with interrupted(hangs) as place:
        run = runs(place)
        run.start()
        run.go_on(2)
        until(hanging.is_set)
        run.go_on(8)
        run.mirror.close(patience_s=0.1)
        assert "no time" in (run.mirror.trouble or "") or "does not answer" in (run.mirror.trouble or "")
        until(lambda: threads("shoal-heartbeat") <= hearts)
        opened.set()
        until(lambda: threads("shoal-mirror") <= mirrors)
        with undisturbed():
            found = look(place)
        assert found is not None
        assert found.seq < run.driver.journal.last
        assert not getattr(found.alive, "ended", True)


@pytest.mark.parametrize(("text", "count"), [("3", 3), ("0", 16), ("many", 16), ("-1", 16), ("", 16)])
def test_the_environment_says_how_many_uploads_there_are(
    monkeypatch: pytest.MonkeyPatch, text: str, count: int
) -> None:
    monkeypatch.setenv("SHOAL_STORAGE_UPLOADS", text)
    assert uploads_at_once() == count


@pytest.mark.parametrize(("text", "seconds"), [("7.5", 7.5), ("0", 0.0), ("soon", 600.0), ("-1", 600.0), ("", 600.0)])
def test_the_environment_says_how_long_storage_may_be_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, seconds: float
) -> None:
    monkeypatch.setenv("SHOAL_STORAGE_PATIENCE_S", text)
    with interrupted() as place, contextlib.closing(LocalDepot(tmp_path)) as depot:
        assert Mirror(place, depot)._patience_s == seconds
