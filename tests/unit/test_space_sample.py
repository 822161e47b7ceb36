"""Drawing from a domain by hand: without a generator, and several values at once."""

from __future__ import annotations

import ast
import random
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import space as sp
from shoal.errors import SpaceError
from shoal.space import Domain

DOMAINS: list[Domain] = [
    sp.uniform(0, 1),
    sp.quniform(0, 1, 0.1),
    sp.loguniform(1e-4, 1),
    sp.randint(0, 100),
    sp.randn(),
    sp.choice(["a", "b", "c"]),
    sp.sample_from(random.random),
]


@pytest.mark.parametrize("domain", DOMAINS, ids=repr)
def test_a_domain_is_drawn_from_without_a_generator(domain: Domain) -> None:
    assert domain.contains(domain.sample())
    assert len({domain.sample() for _ in range(60)}) > 1


@pytest.mark.parametrize("domain", DOMAINS, ids=repr)
def test_several_values_are_those_that_would_come_one_by_one(domain: Domain) -> None:
    one_by_one, together = random.Random(3), random.Random(3)
    assert domain.sample(together, size=5) == [domain.sample(one_by_one) for _ in range(5)]
    assert domain.sample(together, size=1) == domain.sample(one_by_one)
    assert len(domain.sample(size=3)) == 3


@pytest.mark.parametrize("domain", DOMAINS, ids=repr)
def test_the_global_generator_is_neither_used_nor_moved(domain: Domain) -> None:
    random.seed(5)
    state = random.getstate()
    domain.sample(size=3)
    assert random.getstate() == state


def test_a_function_is_given_its_config_each_time() -> None:
    function = sp.sample_from(lambda config: config["n"] + random.random())
    values = function.sample(random.Random(1), {"n": 5}, size=4)
    assert all(5 <= value < 6 for value in values)
    assert len(set(values)) == 4


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"rng": 3}, r"uniform\(0\.0, 1\.0\)\.sample: rng must be a random\.Random, .* but is 3\. Leave it out"),
        ({"size": 0}, r"size must be a whole number of 1 or more, but is 0"),
        ({"size": 2.5}, r"size must be a whole number of 1 or more, but is 2\.5"),
        ({"size": None}, r"but is None"),
    ],
)
def test_wrong_arguments_are_errors(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpaceError, match=expected):
        sp.uniform(0, 1).sample(**arguments)


def test_shoal_itself_always_says_where_randomness_comes_from() -> None:
    calls = [
        (path.name, node.lineno, len(node.args))
        for path in Path(shoal.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "sample"
    ]
    assert len(calls) >= 5
    assert [call for call in calls if not call[2]] == []
