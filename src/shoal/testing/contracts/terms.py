"""What the suite has to know about an engine before it can judge it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

import shoal

from ...engines import Engine
from ...wiring import make_engine
from .bench import Bench

__all__ = ["Terms"]


class Terms:
    """What kind of engine it is; set as attributes of the class of tests."""

    engine: ClassVar[Any]
    """What ``TuneConfig(engine=...)`` is given: a name that Shoal knows, the engine's class, or another function of no
    arguments that makes a new engine."""
    in_processes: ClassVar[bool] = True
    """Whether each member has a process of its own. False: members live in the driver's, one at a time."""
    cpus: ClassVar[int] = 16
    """So many the suite says that there are, with ``shoal.init``, whatever there are. Slots are made of them: up to 8
    for a run, and while that is going on 4 for the engine that is driven by hand."""
    brings_slots: ClassVar[bool | None] = None
    """Whether the engine tells by itself which slots there are (``SlotsJoined``). None: as its class says."""
    carries_environment: ClassVar[bool] = True
    """Whether members have the environment variables and the working folder of the driver, as the engine starts."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def machine(cls) -> Iterator[None]:
        """Say how much there is to share out, while the tests of the class run. May be overridden."""
        shoal.init(num_cpus=cls.cpus, ignore_reinit_error=True)
        yield
        shoal.shutdown()

    @classmethod
    def tells_slots(cls) -> bool:
        """Return whether the engine tells by itself which slots there are."""
        if cls.brings_slots is not None:
            return cls.brings_slots
        return cls.engine == "ray" or bool(getattr(cls.engine, "brings_slots", False))

    def take_slots(self, bench: Bench) -> None:
        """Take all slots away from an engine that is at work, as where a node dies. May be overridden.

        Others may come in their place.
        """
        pytest.skip("nobody says how this engine's slots are taken away")

    @classmethod
    def make_engine(cls) -> Engine:
        """Return a new engine, not started."""
        return make_engine(cls.engine)

    @classmethod
    def needs_processes(cls) -> None:
        """Skip a test of what only an engine promises whose members have processes of their own."""
        if not cls.in_processes:
            pytest.skip("its members have no processes of their own")
