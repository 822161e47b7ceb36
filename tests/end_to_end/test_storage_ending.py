"""How a run in object storage ends where something is wrong: it says so, and what is true, and nothing goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.end_to_end.in_memory import cache, fail_once, interrupted, root, run, working_folders
from tests.end_to_end.test_storage_runs import Away
from tests.helpers import climb, load_state, report_state
from tests.unit.stored import until

from shoal import tune
from shoal.driver import Driver
from shoal.errors import StorageError
from shoal.interruption import Interruption
from shoal.reading import Experiment, State
from shoal.storage.mirror import Mirror
from shoal.storage.place import Place
from shoal.storage.segments import ALIVE
from shoal.storage.shipping import Shipper, fetch

__all__ = ["cache", "root"]  # fixtures


def paced(config: dict[str, Any]) -> None:
    step, score = load_state() or (0, 0.0)
    while True:
        step += 1
        time.sleep(0.005)
        report_state(step, score, {"score": score}, save=step % 5 == 0)


class AtTheEnd(tune.Callback):
    """Calls something when all trials have ended, before the last round."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def on_experiment_end(self, *_: Any, **__: Any) -> None:
        self.call()


def hearts() -> list[threading.Thread]:
    """Return what says that a driver of this process is there."""
    return [thread for thread in threading.enumerate() if thread.name == "shoal-heartbeat"]


def test_storage_that_is_away_at_the_end_is_spoken_of(
    root: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHOAL_STORAGE_PATIENCE_S", "60")
    monkeypatch.setattr("shoal.storage.mirror._SAY_AFTER_S", 0.0)
    monkeypatch.setattr("shoal.storage.transfer._PATIENCE_S", 0.0)
    away, said = Away(monkeypatch), threading.Event()
    real = Mirror.told

    def told(mirror: Mirror) -> list[str]:
        texts = real(mirror)
        if any("The run has ended; the rest is copied when that works again" in text for text in texts):
            said.set()
            away.gone.clear()
        return texts

    monkeypatch.setattr(Mirror, "told", told)
    run(root, run={"name": "a", "verbose": 1, "callbacks": [AtTheEnd(away.gone.set)]})
    assert said.is_set()
    assert "it is away. The run has ended; the rest is copied when that works again." in capfd.readouterr().out
    assert Experiment.open(f"{root}/a").state is State.ENDED
    assert working_folders() == []


def test_who_does_not_wait_for_the_last_round_can_go_on_in_the_same_process(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing, hanging, over, heard = (threading.Event() for _ in range(4))
    real, real_ask, real_close = Place.write_bytes, Interruption._ask, Mirror.close

    def close(mirror: Mirror, **settings: Any) -> None:
        closing.set()
        real_close(mirror, **settings)

    def ask(interruption: Interruption, *given: Any) -> None:
        real_ask(interruption, *given)
        heard.set()

    def hangs(place: Place, data: bytes) -> None:
        if closing.is_set() and place.name != ALIVE:
            hanging.set()
            over.wait(60)
        real(place, data)

    def press() -> None:
        assert hanging.wait(60)
        os.kill(os.getpid(), signal.SIGINT)
        assert heard.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    before = set(hearts())
    monkeypatch.setattr(Place, "write_bytes", hangs)
    monkeypatch.setattr(Interruption, "_ask", ask)
    monkeypatch.setattr(Mirror, "close", close)
    presses = threading.Thread(target=press)
    presses.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(root, run={"name": "a"})
        until(lambda: set(hearts()) <= before)
    finally:
        over.set()
        presses.join()
    assert len(tune.Tuner.restore(f"{root}/a", climb).fit()) == 4
    assert working_folders() == []


def test_a_copy_that_cannot_be_completed_leaves_no_heartbeat(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(root, tmp_path / "flag")
    (folder,) = working_folders()
    tune.Tuner.restore(folder, fail_once).fit()  # without storage
    before = set(hearts())

    def broken(mirror: Mirror, *_: Any) -> None:
        raise RuntimeError("can't start new thread")

    tuner = tune.Tuner.restore(f"{root}/a", fail_once)
    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "start", broken)
        with pytest.raises(RuntimeError, match="new thread"):
            tuner.fit()
    until(lambda: set(hearts()) <= before)
    assert len(tune.Tuner.restore(f"{root}/a", fail_once).fit()) == 4


@pytest.mark.filterwarnings("ignore:Tuner.restore. .* begin from scratch")
@pytest.mark.parametrize("method", ["start", "take", "flush", "close"])
def test_a_run_whose_copying_fails_does_not_end_as_if_all_were_copied(
    root: str, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    real, calls = getattr(Mirror, method), iter(range(1000))

    def failing(mirror: Mirror, *given: Any, **settings: Any) -> None:
        if next(calls) == (10 if method in ("take", "flush") else 0):
            raise KeyError("a bug")
        real(mirror, *given, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Mirror, method, failing)
        with pytest.raises(StorageError, match=rf"^Copying to {root}/a failed: KeyError: 'a bug'\. What is not in"):
            run(root, run={"name": "a"})
    assert len(working_folders()) == 1
    grid = tune.Tuner.restore(f"{root}/a", climb).fit()
    assert {result.metrics["training_iteration"] for result in grid} == {20}
    assert working_folders() == []


def test_a_driver_whose_experiment_was_taken_over_says_whose_it_is(root: str, tmp_path: Path) -> None:
    place, taken = Place(f"{root}/a"), threading.Event()

    class TakeOver(tune.Callback):
        def on_trial_result(self, iteration: int, *_: Any, **__: Any) -> None:
            if iteration >= 5 and not taken.is_set():
                taken.set()
                fetch(place, tmp_path / "other")
                Shipper(place, tmp_path / "other", 1.0).begin()

    with pytest.raises(StorageError) as error:
        run(root, paced, run={"name": "a", "callbacks": [TakeOver()]}, stop={"training_iteration": 10**9})
    (folder,) = working_folders()
    for text in ("was taken over by process", f"is in {folder} only", "the experiment is the other driver's"):
        assert text in str(error.value)
    for text in ("copies what", "nothing that was reported is lost", "What is not in storage"):
        assert text not in str(error.value)
    stopped = Experiment.open(folder).history.stopped
    assert stopped is not None
    assert "storage is away" not in str(stopped)


@pytest.mark.parametrize(("engine", "is_lost"), [("processes", False), ("ray", True)])
def test_what_only_other_nodes_had_is_not_said_to_be_kept(engine: str, is_lost: bool) -> None:
    driver: Any = SimpleNamespace(
        info=SimpleNamespace(engine=engine, place="s3://bucket/runs/a", trainable="train"),
        folder=Path("/here"),
        mirror=SimpleNamespace(taken_over=False),
        _how_to_go_on=lambda: "tune.Tuner.restore(...)",
    )
    text = Driver._lacks(driver, "It is away.")
    assert ("nothing that was reported is lost" in text) is not is_lost
    assert ("Checkpoints that only other nodes of the cluster had are gone with them" in text) is is_lost
    assert "copies what s3://bucket/runs/a lacks" in text
