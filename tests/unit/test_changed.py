"""A launch names the numbers of a config that are others than those its checkpoint was made with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shoal.core.trial import changed_numbers


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {}, ()),
        ({"lr": 0.1, "n": 3}, {"lr": 0.2, "n": 3}, ("lr",)),
        ({"lr": 0.1}, {}, ()),
        ({}, {"lr": 0.1}, ("lr",)),
        ({"optim": {"lr": 0.1, "wd": 0}}, {"optim": {"lr": 0.1, "wd": 0.5}}, ("optim/wd",)),
        ({"optim": None}, {"optim": {"lr": 0.1}}, ("optim/lr",)),
        ({"betas": [0.9, 0.99]}, {"betas": (0.9, 0.99)}, ("betas",)),
        ({"betas": (0.9, 0.99)}, {"betas": (0.8, 0.99)}, ("betas",)),
        ({"lr": np.float32(0.5)}, {"lr": np.float32(0.25)}, ("lr",)),
        ({"name": "a", "model": object()}, {"name": "b", "model": object()}, ()),
        ({"lr": "auto"}, {"lr": 0.1}, ("lr",)),
        ({"mixed": [1, "a"]}, {"mixed": [2, "a"]}, ()),
    ],
)
def test_numbers_that_differ_are_named(
    before: dict[str, Any], after: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert changed_numbers(before, after) == expected
