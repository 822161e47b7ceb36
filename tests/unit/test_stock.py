"""The checkpoints in a host's folder: each arrives once, what comes late replaces nothing, and waiting has an end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shoal.checkpoints.store import damage, digest_of
from shoal.engines import copies
from shoal.engines import stock as module
from shoal.engines.copies import Offer, Piece
from shoal.engines.stock import Stock, patience_for
from shoal.errors import StorageError
from shoal.storage.place import Place
from shoal.storage.transfer import upload_checkpoint


class Others:
    """The other hosts, called directly."""

    def __init__(self) -> None:
        self.stocks: dict[str, Stock] = {}
        self.before_piece: Callable[[str, int], None] = lambda key, index: None
        self.pieces: list[tuple[str, int]] = []

    def piece(self, key: str, trial_folder: str, number: int, index: int, patience_s: float) -> Piece:
        assert patience_s > 0
        self.pieces.append((key, index))
        self.before_piece(key, index)
        return self.stocks[key].piece(trial_folder, number, index)

    def keep(self, key: str, offer: Offer, patience_s: float) -> None:
        raise AssertionError("a stock asks nobody to keep anything")


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.others = Others()
        self.ended = threading.Event()
        self.waits: list[float] = []
        self.on_wait: Callable[[], None] = lambda: None

    def stock(self, key: str, place: str | None = None) -> Stock:
        self.others.stocks[key] = made = Stock(self.folder / key, self.others, place, self.wait)
        return made

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.on_wait()
        return self.ended.is_set()

    def save(self, key: str, text: str, trial: str = "t", number: int = 0) -> str:
        """Have a member on a host save a checkpoint; return its digest."""
        folder = self.folder / key / trial / f"checkpoint_{number:06}"
        folder.mkdir(parents=True)
        (folder / "state").write_text(text)
        digest = digest_of(folder)
        self.others.stocks[key].saved(trial, number, digest)
        return digest

    def away_for(self, waits: int) -> None:
        """Have no neighbour reached until it was waited so often."""

        def away(key: str, index: int) -> None:
            if len(self.waits) < waits:
                raise ConnectionError("away")

        self.others.before_piece = away

    def offer(self, owner: str, digest: str, launch: int, trial: str = "t", number: int = 0) -> Offer:
        first = self.others.stocks[owner].piece(trial, number, 0)
        return Offer(owner, trial, launch, number, digest, first)

    def text(self, key: str, trial: str = "t", number: int = 0) -> str:
        return (self.folder / key / trial / f"checkpoint_{number:06}/state").read_text()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_checkpoint_is_fetched_from_the_first_that_has_it(bench: Bench) -> None:
    here, _, _ = bench.stock("here"), bench.stock("empty"), bench.stock("there")
    digest = bench.save("there", "state")
    assert not here.has("t", 0, digest)
    assert here.fetch("t", 0, digest, ("empty", "there")) is None
    assert here.has("t", 0, digest)
    assert bench.text("here") == "state"


def test_one_that_nobody_has_is_not_waited_for(bench: Bench) -> None:
    here, _ = bench.stock("here"), bench.stock("empty")
    for holders in ((), ("empty",)):
        assert isinstance(here.fetch("t", 0, "d", holders), FileNotFoundError)
    assert bench.waits == []


def test_one_that_is_here_is_fetched_from_nobody(bench: Bench) -> None:
    digest = (bench.stock("here"), bench.save("here", "state"))[1]
    again = bench.stock("here")  # which does not know of it
    assert not again.has("t", 0, digest)
    assert again.fetch("t", 0, digest, ("nobody",)) is None
    assert again.has("t", 0, digest)


def test_another_of_the_same_number_is_not_taken_for_it(bench: Bench) -> None:
    here, _ = bench.stock("here"), bench.stock("there")
    old = bench.save("here", "of a process that died with its node")
    new = bench.save("there", "of the one that took its place")
    assert here.has("t", 0, old)
    assert not here.has("t", 0, new)
    assert here.fetch("t", 0, new, ("there",)) is None
    assert bench.text("here") == "of the one that took its place"


def test_several_that_go_on_from_the_same_fetch_it_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "PIECE", 2)
    here, _ = bench.stock("here"), bench.stock("there")
    digest = bench.save("there", "a state of many pieces")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: here.fetch("t", 0, digest, ("there",)), range(8)))
    assert found == [None] * 8
    assert len(bench.others.pieces) == len(set(bench.others.pieces))


def test_a_neighbour_that_cannot_be_reached_is_asked_again(bench: Bench) -> None:
    here, _ = bench.stock("here"), bench.stock("there")
    digest = bench.save("there", "state")
    bench.away_for(3)
    assert here.fetch("t", 0, digest, ("there",)) is None
    assert len(bench.waits) == 3


def test_a_neighbour_that_stays_away_is_waited_for_no_longer_than_it_may_be(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("shoal.engines.stock.time.monotonic", lambda: now)
    here, _ = bench.stock("here"), bench.stock("there")
    digest = bench.save("there", "state")

    def away(key: str, index: int) -> None:
        raise TimeoutError("no answer")

    def later() -> None:
        nonlocal now
        now += bench.waits[-1]

    bench.others.before_piece, bench.on_wait = away, later
    assert isinstance(here.fetch("t", 0, digest, ("there",)), TimeoutError)
    assert 25 < sum(bench.waits) < 35


def test_nobody_is_waited_for_after_the_end(bench: Bench) -> None:
    here = bench.stock("here")
    bench.ended.set()
    assert isinstance(here.fetch("t", 0, "d", ("unknown",)), KeyError)
    assert len(bench.waits) == 1


def test_one_that_is_damaged_where_it_is_is_fetched_from_the_next(bench: Bench) -> None:
    here, _, _ = bench.stock("here"), bench.stock("damaged"), bench.stock("there")
    digest = bench.save("there", "state")
    bench.save("damaged", "static")
    assert here.fetch("t", 0, digest, ("damaged", "there")) is None
    assert isinstance(here.fetch("t", 1, digest, ("damaged",)), FileNotFoundError)


def test_a_disk_that_is_full_is_full_for_all_who_would_give(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    here, _, _ = bench.stock("here"), bench.stock("there"), bench.stock("there, too")
    digest = bench.save("there", "state")

    def full(self: Path, mode: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "chmod", full)
    error = here.fetch("t", 0, digest, ("there", "there, too"))
    assert "No space left" in str(error)
    assert [key for key, _ in bench.others.pieces] == ["there"]


# ------------------------------------------------------------------------------------------------------- storage


def test_what_no_host_has_comes_from_storage(bench: Bench) -> None:
    bench.stock("there")
    digest = bench.save("there", "state")
    url = f"memory://{bench.folder.name}/e"
    upload_checkpoint(bench.folder / "there/t/checkpoint_000000", Place(f"{url}/t/checkpoint_000000"), digest)
    here = bench.stock("here", url)
    assert here.fetch("t", 0, digest, ("unknown",)) is None
    assert bench.waits == []
    assert bench.text("here") == "state"
    assert isinstance(here.fetch("t", 1, digest, ()), FileNotFoundError)
    here.close()


def test_that_storage_does_not_have_it_says_less_than_that_a_neighbour_did_not_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = bench.stock("here", f"memory://{bench.folder.name}/e"), bench.stock("there")
    digest = bench.save("there", "state")
    bench.away_for(3)
    assert here.fetch("t", 0, digest, ("there",)) is None
    assert len(bench.waits) == 3
    monkeypatch.setattr(module, "_AWAY_S", 0.0)
    bench.waits.clear()
    assert isinstance(here.fetch("t", 1, digest, ("there",)), ConnectionError)


def test_a_checkpoint_is_uploaded_before_it_is_deleted(bench: Bench) -> None:
    here = bench.stock("here")
    digest = bench.save("here", "state")
    url = f"memory://{bench.folder.name}/e/t/checkpoint_000000"
    uploaded = here.upload("t", 0, digest, url)
    here.delete("t", 0)
    uploaded.result(60)
    assert (Place(url) / "state").read_bytes() == b"state"
    assert isinstance(here.upload("t", 0, digest, url).exception(60), FileNotFoundError)
    assert not here.has("t", 0, digest)
    here.close()


# -------------------------------------------------------------------------------------------------------- copies


def test_a_copy_is_kept_and_given_to_others(bench: Bench) -> None:
    keeper, _, third = bench.stock("keeper"), bench.stock("owner"), bench.stock("third")
    digest = bench.save("owner", "state")
    keeper.keep(bench.offer("owner", digest, 1))
    del bench.others.stocks["owner"]
    assert third.fetch("t", 0, digest, ("keeper",)) is None


def test_what_an_earlier_launch_has_saved_is_refused_where_a_later_one_is_known(bench: Bench) -> None:
    keeper, _, _ = bench.stock("keeper"), bench.stock("cut off"), bench.stock("took its place")
    late, digest = bench.save("cut off", "late"), bench.save("took its place", "newer")
    keeper.keep(bench.offer("took its place", digest, 4))
    with pytest.raises(StorageError, match="Launch 3 of t is over"):
        keeper.keep(bench.offer("cut off", late, 3))
    assert bench.text("keeper") == "newer"


def test_what_arrives_while_the_trial_is_launched_here_does_not_replace_what_that_saves(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "PIECE", 2)
    keeper, _ = bench.stock("keeper"), bench.stock("cut off")
    late = bench.save("cut off", "late")

    def launched(key: str, index: int) -> None:
        if index == 1:
            keeper.launched("t", 4)
            bench.save("keeper", "its own")

    bench.others.before_piece = launched
    with pytest.raises(StorageError, match="Launch 3 of t is over"):
        keeper.keep(bench.offer("cut off", late, 3))
    assert bench.text("keeper") == "its own"


def test_one_that_is_deleted_while_it_arrives_is_gone_when_it_is_here(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "PIECE", 2)
    here, _ = bench.stock("here"), bench.stock("there")
    digest = bench.save("there", "state")
    bench.others.before_piece = lambda key, index: here.delete("t", 0) if index == 1 else None
    here.fetch("t", 0, digest, ("there",))
    assert not here.has("t", 0, digest)
    assert list((bench.folder / "here/t").iterdir()) == []
    assert here.fetch("t", 0, digest, ("there",)) is None  # and where it is wanted again, it comes again


def test_two_hosts_that_keep_each_others_copies_wait_for_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "PIECE", 2)
    one, other = bench.stock("one"), bench.stock("other")
    mine, yours = bench.save("one", "mine", "t"), bench.save("other", "yours", "u")
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(other.keep, bench.offer("one", mine, 1, "t")),
            pool.submit(one.keep, bench.offer("other", yours, 1, "u")),
        ]
        assert [each.result(60) for each in both] == [None, None]


def test_what_the_driver_deletes_is_forgotten_some_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MANY", 10)
    here = bench.stock("here")
    for number in range(200):
        here.saved("t", number, "d")
    assert len(here._there) < 30


def test_a_delete_that_fails_ends_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    here = bench.stock("here")
    digest = bench.save("here", "state")

    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr("shoal.checkpoints.store.os.rename", refuse)
    here.delete("t", 0)
    assert damage(bench.folder / "here/t/checkpoint_000000", digest) is None
    assert not here.has("t", 0, digest)


def test_patience_grows_with_what_has_to_be_sent() -> None:
    assert 30 <= patience_for(0) <= 120
    assert patience_for(10 << 30) > 600
