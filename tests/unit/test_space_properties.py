"""What holds for every domain, every value and every seed."""

from __future__ import annotations

import collections
import copy
import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from shoal import space as sp
from shoal.errors import SpaceError
from shoal.schedulers.explore import explore, fill, parse_mutations
from shoal.space import Domain

quick = settings(deadline=None)

numbers = st.one_of(st.floats(-1e3, 1e3), st.floats(-1e300, 1e300), st.integers(-100, 100))
positive = st.one_of(st.floats(1e-9, 1e3), st.floats(1e-300, 1e300), st.integers(1, 100))
whole = st.one_of(st.integers(-50, 50), st.integers(-(10**20), 10**20))
counts = st.one_of(st.integers(1, 50), st.integers(1, 10**20))
entries = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=2))
seeds = st.integers(0, 2**64)
factors = st.one_of(st.sampled_from([1.2, 0.8]), st.floats(0.01, 100))


def made(function: Callable[..., Domain], *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Domain]:
    """Domains of one kind; arguments that it refuses are not tried."""

    def make(given_arguments: tuple[Any, ...]) -> Domain:
        try:
            return function(*given_arguments)
        except SpaceError:
            reject()

    return st.tuples(*arguments).map(make)


steps = st.one_of(st.sampled_from([0.1, 0.25, 0.3, 1, 5, 1e-5, 1e-12]), st.floats(1e-6, 1e3))
small = st.floats(-1e3, 1e3)
int_domains = st.one_of(
    made(sp.randint, whole, whole),
    made(sp.qrandint, whole, whole, st.integers(1, 20)),
    made(sp.lograndint, counts, counts),
    made(sp.qlograndint, counts, counts, st.integers(1, 20)),
)
float_domains = st.one_of(
    made(sp.uniform, numbers, numbers),
    made(sp.loguniform, positive, positive),
    made(sp.quniform, small, small, steps),
    made(sp.qloguniform, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), steps),
    made(sp.randn, small, st.floats(1e-6, 1e3)),
    made(sp.qrandn, small, st.floats(1e-6, 1e3), steps),
)
choices = made(sp.choice, st.lists(entries, min_size=1, max_size=6))
domains = st.one_of(int_domains, float_domains, choices)
values = st.one_of(
    st.floats(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    entries,
    st.floats(width=32).map(np.float32),
    st.integers(-(2**63), 2**63 - 1).map(np.int64),
    st.lists(st.floats(), max_size=2),
    st.complex_numbers(),
)


def belongs(domain: Domain, value: Any) -> bool:
    """Whether a value is of the domain's type and inside it."""
    if isinstance(domain, sp.Choice):
        return any(value is entry for entry in domain.categories)
    return type(value) is (int if isinstance(domain, sp.Integer) else float) and domain.contains(value)


@quick
@given(domains, seeds)
def test_a_sample_belongs_to_its_domain_and_depends_on_the_seed_alone(domain: Domain, seed: int) -> None:
    value = domain.sample(random.Random(seed))
    assert belongs(domain, value)
    again = domain.sample(random.Random(seed))
    assert value is again or value == again


@quick
@given(domains, values, factors, seeds)
def test_a_perturbation_of_anything_belongs_to_the_domain(domain: Domain, value: Any, factor: float, seed: int) -> None:
    assert belongs(domain, domain.perturb(value, factor, random.Random(seed)))


@quick
@given(st.one_of(int_domains, float_domains), values, factors, seeds)
def test_without_bounds_a_perturbation_still_has_the_type_of_the_domain(
    domain: Domain, value: Any, factor: float, seed: int
) -> None:
    moved = domain.perturb(value, factor, random.Random(seed), clamp=False)
    assert type(moved) is (int if isinstance(domain, sp.Integer) else float)
    assert math.isfinite(moved)


@quick
@given(int_domains, st.sampled_from([1.2, 0.8]), seeds)
def test_an_integer_moves_in_the_direction_of_the_product_unless_a_bound_is_in_the_way(
    domain: Domain, factor: float, seed: int
) -> None:
    value = domain.sample(random.Random(seed))
    moved = domain.perturb(value, factor, random.Random(seed))
    low, high = domain.decode(0), domain.decode(1)
    if value == 0:
        assert low <= moved <= high
    elif (value > 0) == (factor > 1):
        assert moved > value or moved == high
    else:
        assert moved < value or moved == low


@quick
@given(domains, st.floats(-1, 2))
def test_every_place_decodes_to_a_value_of_the_domain_that_encodes_near_it(domain: Domain, place: float) -> None:
    value = domain.decode(place)
    assert belongs(domain, value)
    assert 0.0 <= domain.encode(value) <= 1.0


@quick
@given(domains, seeds)
def test_encoding_keeps_the_order_of_values(domain: Domain, seed: int) -> None:
    draw = random.Random(seed)
    a, b = domain.sample(draw), domain.sample(draw)
    if not isinstance(domain, sp.Choice):
        assert (domain.encode(a) <= domain.encode(b)) or a > b


@quick
@given(st.dictionaries(st.text(max_size=3), domains, max_size=4), values, seeds)
def test_explore_leaves_its_input_alone_and_puts_every_key_into_its_domain(
    space: dict[str, Domain], value: Any, seed: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sp.SpaceWarning)
        mutations = parse_mutations({**space, "nested": space} if space else {})
    config: dict[str, Any] = {**dict.fromkeys(space, value), "nested": {}, "constant": [value]}
    before = copy.copy(config)
    filled = fill(config, mutations, random.Random(seed))
    explored = explore(config, mutations, rng=random.Random(seed))
    assert list(config) == list(before)
    assert all(config[key] is before[key] for key in config)
    assert config["nested"] == {}
    for key, domain in space.items():
        assert key == "nested" or belongs(domain, explored[key])
        assert key == "nested" or filled[key] is value
        assert belongs(domain, explored["nested"][key])
        assert belongs(domain, filled["nested"][key])
    assert explored["constant"] is config["constant"]


def test_chained_perturbations_of_what_functions_return_keep_their_types() -> None:
    mutations = parse_mutations({"int": lambda: 5, "float": lambda: 0.5, "text": lambda: "relu", "none": lambda: None})
    shared = random.Random(0)
    config: dict[str, Any] = {"int": 100, "float": 1.0, "text": "tanh", "none": None}
    for _ in range(3000):
        config = explore(config, mutations, rng=lambda path: shared, resample_probability=0.0)
        assert [type(value) for value in config.values()] == [int, float, str, type(None)]
        assert math.isfinite(config["float"])


def test_a_million_chained_perturbations_stay_in_bounds_and_keep_their_types() -> None:
    space: dict[str, Any] = {
        "uniform": sp.uniform(0, 1),
        "negative": sp.uniform(-2, -1),
        "across": sp.uniform(-1, 1),
        "loguniform": sp.loguniform(1e-5, 1e-1),
        "quniform": sp.quniform(0, 1, 0.1),
        "qloguniform": sp.qloguniform(0.5, 32, 0.5),
        "randn": sp.randn(0, 1),
        "qrandn": sp.qrandn(0, 1, 0.25),
        "randint": sp.randint(1, 10),
        "zero": sp.randint(0, 10),
        "below": sp.randint(-10, 11),
        "qrandint": sp.qrandint(0, 100, 10),
        "lograndint": sp.lograndint(1, 1000),
        "qlograndint": sp.qlograndint(8, 512, 8),
        "choice": sp.choice([None, True, 1, 1.0, "a"]),
        "list": [16, 32, 64, 128],
        "nested": {"lr": sp.uniform(0.001, 1), "width": sp.qrandint(1, 8)},
    }
    mutations = parse_mutations(space)
    flat = mutations.flat()
    shared = random.Random(0)
    config = fill({}, mutations, shared)
    ends: dict[str, list[Any]] = {
        path: [math.inf, -math.inf] for path, domain in flat.items() if isinstance(domain, sp.Integer)
    }
    for _ in range(1_000_000 // len(flat) + 1):
        # Only one key in fifty is drawn anew, so that nearly all steps start where the last one ended.
        config = explore(config, mutations, rng=lambda path: shared, resample_probability=0.02)
        for path, domain in flat.items():
            outer, _, inner = path.partition("/")
            value = config[outer][inner] if inner else config[outer]
            assert belongs(domain, value), f"{path}: {value!r}"
            if path in ends:
                low, high = ends[path]
                ends[path] = [min(low, value), max(high, value)]
    assert ends == {
        "randint": [1, 9],
        "zero": [0, 9],
        "below": [-10, 10],
        "qrandint": [0, 100],
        "lograndint": [1, 999],
        "qlograndint": [8, 512],
        "nested/width": [1, 8],
    }


# ---- How draws are spread --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "domain", [sp.quniform(0, 1, 0.25), sp.qrandint(0, 4), sp.randint(0, 5), sp.choice(["a", "b", "c", "d", "e"])]
)
def test_every_value_of_a_linear_grid_is_as_likely(domain: Domain) -> None:
    draw = random.Random(2)
    counts = collections.Counter(domain.encode(domain.sample(draw)) for _ in range(5000))
    assert all(abs(count - 5000 / len(counts)) < 150 for count in counts.values())


@pytest.mark.parametrize(
    "domain", [sp.loguniform(1, 1e4), sp.lograndint(1, 10001), sp.qlograndint(1, 10**4, 1)], ids=repr
)
def test_a_logarithmic_range_is_even_over_the_orders_of_magnitude(domain: Domain) -> None:
    draw = random.Random(3)
    decades = collections.Counter(int(math.log10(domain.sample(draw))) for _ in range(8000))
    assert all(abs(decades[decade] - 2000) < 400 for decade in range(1, 4))


def test_a_normal_distribution_has_the_given_mean_and_deviation() -> None:
    draw = random.Random(4)
    values = [sp.randn(10, 2).sample(draw) for _ in range(5000)]
    mean = sum(values) / len(values)
    assert abs(mean - 10) < 0.1
    assert abs(math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)) - 2) < 0.1
