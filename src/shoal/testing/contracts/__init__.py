"""What every engine promises, as tests: for those who write an engine of their own. Needs pytest.

An engine's author writes one class, in a file that pytest finds, and runs it::

    from shoal.testing.contracts import EngineContract
    from my_package import MyEngine

    class TestMyEngine(EngineContract):
        engine = MyEngine

:class:`SeamContract` drives the engine by hand, command by command. :class:`RunContract` runs whole experiments with
it. :class:`EngineContract` is both. Attributes of the class say what kind of engine it is; see :class:`Terms`.
"""

from __future__ import annotations

import pytest

_WITH_TESTS = ("bench", "benches", "ending", "launching", "runs")
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in _WITH_TESTS))

from .bench import Bench, Member  # noqa: E402 - pytest has to know of them first, or a failed assert does not say much
from .runs import RunContract  # noqa: E402
from .seam import SeamContract  # noqa: E402
from .terms import Terms  # noqa: E402

__all__ = ["Bench", "EngineContract", "Member", "RunContract", "SeamContract", "Terms"]


class EngineContract(SeamContract, RunContract):
    """All that an engine promises: see the module."""
