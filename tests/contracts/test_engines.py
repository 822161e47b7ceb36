"""What every engine promises, for each that Shoal has: see :mod:`shoal.testing.contracts`."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import fit, story

from shoal import tune
from shoal.testing.contracts import EngineContract


class TestInline(EngineContract):
    engine = "inline"
    in_processes = False


class TestProcesses(EngineContract):
    engine = "processes"


@pytest.mark.cluster
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or importlib.util.find_spec("shoal.engines.ray") is None,
    reason="ray is not installed",
)
class TestRay(EngineContract):
    engine = "ray"
    brings_slots = True

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def machine(cls) -> Iterator[None]:
        from shoal.engines.ray import connect, disconnect

        connect("local", num_cpus=cls.cpus)
        yield
        disconnect()


def test_the_inline_engine_runs_in_this_very_process(tmp_path: Path) -> None:
    seen: list[int] = []

    def train(config: dict[str, Any]) -> None:
        seen.append(os.getpid())
        tune.report({"score": 1.0})

    fit(train, tmp_path, engine="inline", num_samples=2)
    assert seen == [os.getpid()] * 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shoal-")]


def test_the_environment_chooses_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_ENGINE", "inline")
    grid = fit(lambda config: {"score": 1.0}, tmp_path, num_samples=1)
    assert story(grid).in_order()[0].pid == os.getpid()
