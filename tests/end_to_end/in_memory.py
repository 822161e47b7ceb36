"""What the tests of runs in object storage share: storage in this process's memory, and small experiments there."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tests.helpers import climb, fit, load_state, pbt, report_state

from shoal import tune
from shoal.location import cache_folder
from shoal.storage.place import Place


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test working folders of its own."""
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SHOAL_STORAGE_EVERY_S", "0.05")
    monkeypatch.setattr("shoal.storage.mirror._BEAT_S", 0.1)  # so that nobody waits long for the next one


@pytest.fixture
def root() -> Iterator[str]:
    """The URL of a folder in this process's memory."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    yield f"memory://{name}"
    files = fsspec.filesystem("memory")
    if files.exists(f"/{name}"):
        files.rm(f"/{name}", recursive=True)


def names(url: str) -> set[str]:
    """Return the names of all objects below a URL."""
    return set(Place(url).list_sizes())


def working_folders() -> list[Path]:
    return [*cache_folder().glob("*/*")]


def run(root: str, trainable: Callable[[dict[str, Any]], Any] = climb, **settings: Any) -> tune.ResultGrid:
    """Run a small experiment, in this process unless told otherwise."""
    given: dict[str, Any] = {"scheduler": pbt(), "engine": "inline", **settings}
    return fit(trainable, root, **given)


def fail_once(config: dict[str, Any]) -> None:
    """Train, and be interrupted at step 8 of the run that has the flag."""
    step, score = load_state() or (0, 0.0)
    while True:
        step += 1
        score += config["lr"]
        report_state(step, score, {"score": score, "step": step}, save=True)
        if step == 8:
            with contextlib.suppress(FileExistsError):
                Path(config["flag"]).touch(exist_ok=False)  # by one member only: a second Ctrl-C would be another thing
                os.kill(config["driver"], signal.SIGINT)


def interrupted(root: str, flag: Path) -> None:
    """Run an experiment that is interrupted by the user."""
    space = {"lr": tune.uniform(0, 1), "flag": str(flag), "driver": os.getpid()}
    with pytest.raises(KeyboardInterrupt, match=rf"Tuner\.restore\('{root}/a', fail_once\)"):
        run(root, fail_once, space=space, run={"name": "a"}, engine="processes")
