"""The copy in storage is a state of the experiment with all its checkpoints: whatever happens, and at every moment."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.stored import Crash, Telling, check_copy, existing, interrupted, undisturbed, write_checkpoint

from shoal.checkpoints.depot import LocalDepot
from shoal.errors import StorageError
from shoal.storage import rounds as module
from shoal.storage.place import Place
from shoal.storage.rounds import Ledger, Rounds
from shoal.storage.shipping import Shipper, TakenOver, fetch
from shoal.storage.transfer import list_checkpoints
from shoal.storage.workers import Workers


@contextmanager
def one_after_the_other() -> Generator[None]:
    """Have what goes on at the same time go on in order."""
    with patch.object(module, "each", lambda calls: [call() for call in calls]):
        yield


def mirrored(place: Place, driver: Telling) -> Rounds:
    """Return the rounds for a driver, which tells them what happens."""
    shipper = Shipper(place, driver.folder, 1.0)
    with undisturbed():
        shipper.begin()
    ledger = Ledger(driver.history, driver.journal.last)
    driver.listeners.append((ledger.take, ledger.flush))
    return Rounds(place, driver.folder, driver.depot, ledger, shipper, sleep=lambda _: None)


def stored(place: Place, driver: Telling) -> set[tuple[str, int]]:
    """Return which checkpoints are in storage, whole."""
    folders = {trial.folder for trial in driver.history.trials.values()}
    return {(folder, number) for folder in folders for number in list_checkpoints(place / folder)}


def test_after_a_round_all_is_in_storage_and_nothing_else(tmp_path: Path) -> None:
    with interrupted() as place, one_after_the_other():
        driver = Telling(tmp_path / "exp")
        rounds = mirrored(place, driver)
        while not driver.ended:
            for _ in range(7):
                driver.step()
            rounds.run()
            assert not rounds.behind
            assert check_copy(place, driver.journal, tmp_path / f"at_{driver.told}") == driver.journal.last
            assert stored(place, driver) == set(existing(driver.history))
        driver.journal.close()


def test_a_checkpoint_that_comes_and_goes_between_two_rounds_is_never_sent(tmp_path: Path) -> None:
    sent: list[str] = []
    with interrupted(lambda what, path: sent.append(path) if what == "write" else None) as place, one_after_the_other():
        driver = Telling(tmp_path / "exp")
        rounds = mirrored(place, driver)
        while not driver.ended:
            driver.step()
        rounds.run()
        driver.journal.close()
    manifests = [path for path in sent if path.endswith(".json") and "/checkpoint_" in path]
    assert len(manifests) == len(existing(driver.history))


def test_what_exists_and_is_not_on_this_machine_does_not_keep_the_rest_from_storage(tmp_path: Path) -> None:
    with interrupted() as place, one_after_the_other():
        driver = Telling(tmp_path / "exp")
        rounds = mirrored(place, driver)
        while not driver.ended:
            driver.step()
        folder, number = min(existing(driver.history))
        shutil.rmtree(tmp_path / "exp" / folder / f"checkpoint_{number:06d}")
        rounds.run()
        assert not rounds.behind
        assert stored(place, driver) == set(existing(driver.history)) - {(folder, number)}
        assert fetch(place, tmp_path / "copy").seq == driver.journal.last
        driver.journal.close()


def test_a_round_that_is_ended_while_uploads_are_done_is_made_good_by_the_next(tmp_path: Path) -> None:
    with interrupted() as place, one_after_the_other():
        driver = Telling(tmp_path / "exp")
        rounds = mirrored(place, driver)
        calls = itertools.count(1)

        def ends_every_other() -> None:
            if next(calls) % 2:
                raise OSError("storage is away")

        rounds.meanwhile(ends_every_other)
        while not driver.ended:
            driver.step()
        ended = 0
        while rounds.behind:
            try:
                rounds.run()
            except OSError:
                ended += 1
                assert ended < 100
        assert ended
        assert stored(place, driver) == set(existing(driver.history))
        driver.journal.close()


def test_a_driver_that_was_taken_over_writes_nothing_more(tmp_path: Path) -> None:
    with interrupted() as place, one_after_the_other():
        driver = Telling(tmp_path / "exp")
        rounds = mirrored(place, driver)
        for _ in range(8):
            driver.step()
        rounds.run()
        fetch(place, tmp_path / "other")
        Shipper(place, tmp_path / "other", 2.0).begin()
        before = place.list_sizes()
        for _ in range(8):
            driver.step()
        with pytest.raises(TakenOver):
            rounds.run()
        assert place.list_sizes() == before
        driver.journal.close()


def test_a_driver_that_is_taken_over_while_it_uploads_completes_none_of_them(tmp_path: Path) -> None:
    """One upload takes long; the others wait for it, and the experiment goes to somebody else."""
    gate, arrived = threading.Event(), threading.Event()

    def hangs(what: str, path: str) -> None:
        if what == "write" and "checkpoint_" in path:
            arrived.set()
            gate.wait(30)

    clock = itertools.count(0, 3)
    with interrupted(hangs) as place, contextlib.closing(LocalDepot(tmp_path / "exp", Workers(1, "test"))) as depot:
        driver = Telling(tmp_path / "exp", depot=depot)
        rounds = mirrored(place, driver)
        rounds._clock = lambda: float(next(clock))

        def take_over() -> None:
            if arrived.is_set():
                with undisturbed():
                    fetch(place, tmp_path / "other")
                    Shipper(place, tmp_path / "other", 2.0).begin()

        rounds.meanwhile(take_over)
        while len(existing(driver.history)) < 3:
            driver.step()
        with pytest.raises(TakenOver):
            rounds.run()
        gate.set()
        began = [future for future in rounds._uploads.values() if not future.cancelled()]
        assert len(began) == 1
        with pytest.raises(StorageError, match="Nothing more is copied"):
            began[0].result(30)
        assert stored(place, driver) == set()
        driver.journal.close()


def test_what_an_earlier_driver_has_left_under_the_number_of_a_later_checkpoint_is_deleted_first(
    tmp_path: Path,
) -> None:
    with interrupted() as place, one_after_the_other():
        driver = Telling(tmp_path / "exp")
        trial = "trial_00000"
        for what in ("part_0", "more"):
            (place / trial / "checkpoint_000000" / what).write_bytes(b"old")
        (place / trial / "checkpoint_000000.json").write_bytes(b"{}")
        (place / trial / "result.json").write_bytes(b"stays")
        rounds = mirrored(place, driver)
        rounds.run()
        left = set(place.list_sizes())
        assert {name for name in left if not name.startswith("journal/")} == {f"{trial}/result.json"}
        driver.journal.close()


@settings(
    max_examples=400 if os.environ.get("SHOAL_TEST_ALL") else 15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 2**32),
    failing=st.sampled_from([0.0, 0.02, 0.2]),
    busy=st.sampled_from([0.0, 0.1, 0.6]),
    crash=st.sampled_from([0.0, 0.002, 0.02]),
)
def test_every_moment_shows_a_state_with_all_its_checkpoints(
    seed: int, failing: float, busy: float, crash: float
) -> None:
    draw = random.Random(seed)
    names = (f"folder_{number}" for number in itertools.count())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        driver: Telling
        state = {"published": 0, "depth": 0}

        def happens(what: str, path: str) -> None:
            """Anything, while one request is on its way: the run goes on, storage fails, the process dies."""
            while draw.random() < busy and not state["depth"]:
                state["depth"] += 1
                driver.step()
                state["depth"] -= 1
            if draw.random() < crash:
                raise Crash
            if draw.random() < failing:
                raise PermissionError("not now")
            telling = path.endswith(".seg") or (path.endswith(".json") and "/checkpoint_" in path)
            if what in ("wrote", "deleted") and telling and draw.random() < 0.15:
                state["published"] = checked(root / next(names))

        def checked(aside: Path) -> int:
            with undisturbed():
                seq = check_copy(place, driver.journal, aside)
            assert seq >= state["published"], "went back"
            return seq

        with interrupted(happens) as place, one_after_the_other():
            driver = Telling(root / next(names), members=2)
            for life in range(1, 6):
                try:
                    rounds = mirrored(place, driver)
                    for _ in range(400):
                        with suppress(OSError):
                            rounds.run()
                        if driver.ended and not rounds.behind:
                            break
                        driver.step()
                    else:
                        pytest.fail("no progress")
                    break
                except Crash:
                    state["published"] = checked(root / next(names))
                    driver.journal.close()
                    if draw.random() < 0.5:  # a fresh machine
                        fresh = root / next(names)
                        with undisturbed():
                            fetch(place, fresh)
                        driver = Telling(fresh, life, members=2)
                    else:
                        driver = Telling(driver.folder, life, members=2)
            else:
                driver.journal.close()
                return
            state["published"] = checked(root / next(names))
            with undisturbed():
                assert state["published"] == driver.journal.last
                assert stored(place, driver) == set(existing(driver.history))
            driver.journal.close()


def test_progress_is_made_where_checkpoints_come_faster_than_they_can_be_sent(tmp_path: Path) -> None:
    """Each request takes so long that several things happen meanwhile; rounds end all the same."""
    with interrupted() as place, one_after_the_other():
        driver = Telling(tmp_path / "exp", members=4)
        for _ in range(20):
            driver.step()
        rounds = mirrored(place, driver)
        seen: list[int] = []

        requests = itertools.count()

        def goes_on(what: str, path: str) -> None:
            if what == "write" and not next(requests) % 4:
                driver.step()

        with patch("tests.unit.stored.Interrupted.hook", staticmethod(goes_on)):
            while not driver.ended:
                before = driver.told
                rounds.run()
                assert driver.told > before
                with undisturbed():
                    seen.append(check_copy(place, driver.journal, tmp_path / f"at_{len(seen)}"))
        assert seen == sorted(set(seen))
        assert len(seen) > 3
        driver.journal.close()


def test_a_checkpoint_of_several_files_is_there_with_the_last_of_them(tmp_path: Path) -> None:
    from shoal.storage.transfer import upload_checkpoint

    digest = write_checkpoint(tmp_path / "checkpoint_000004", "x", files=5)
    for stop in range(100):
        calls = itertools.count()

        def dies(what: str, path: str, calls: Iterator[int] = calls, stop: int = stop) -> None:
            if next(calls) == stop:
                raise Crash

        with interrupted(dies) as place, patch("shoal.storage.transfer.each", lambda calls: [call() for call in calls]):
            try:
                upload_checkpoint(tmp_path / "checkpoint_000004", place / "t" / "checkpoint_000004", digest)
            except Crash:
                with undisturbed():
                    whole = list_checkpoints(place / "t") == [4]
                    assert whole == (len(place.list_sizes()) == 6)
                continue
            break
    else:
        pytest.fail("it never ended")
    assert stop > 10
