"""What all tests need of the process that runs them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.ray_folder import let_ray_leave_nothing_behind

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control starts what it puts into the background so, and processes inherit it: none of those
    # that the tests start would then hear of their Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

let_ray_leave_nothing_behind()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the tests of the cluster where they are not wanted: to look at them loads Ray, and others hide that."""
    unwanted = "not cluster" in str(config.getoption("markexpr", ""))
    return True if unwanted and collection_path == Path(__file__).parent / "cluster" else None
