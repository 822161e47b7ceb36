"""Domains, and how a search space becomes configs."""

from __future__ import annotations

import collections
import copy
import math
import pickle
import random
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from shoal import space as sp
from shoal.errors import ConfigError, SpaceError
from shoal.space import Domain, SpaceWarning, expand


def rng(seed: int = 0) -> random.Random:
    return random.Random(seed)


def one(space: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    (variant,) = expand(space, 1, seed)
    return variant.config


# ---- Domains ---------------------------------------------------------------------------------------------------------

DOMAINS: dict[str, Domain] = {
    "uniform(0.001, 1.0)": sp.uniform(0.001, 1),
    "quniform(0.0, 1.0, 0.1)": sp.quniform(0, 1, 0.1),
    "loguniform(1e-05, 0.1)": sp.loguniform(1e-5, 0.1),
    "qloguniform(0.5, 8.0, 0.5, base=2)": sp.qloguniform(0.5, 8, 0.5, base=2),
    "randn(0.0, 1.0)": sp.randn(),
    "qrandn(10.0, 2.0, 0.5)": sp.qrandn(10, 2, 0.5),
    "randint(1, 10)": sp.randint(1, 10),
    "qrandint(0, 20, 5)": sp.qrandint(0, 20, 5),
    "lograndint(1, 1000)": sp.lograndint(1, 1000),
    "qlograndint(2, 64, 2)": sp.qlograndint(2, 64, 2),
    "choice([None, True, 'adam', (1, 2)])": sp.choice([None, True, "adam", (1, 2)]),
}
all_domains = pytest.mark.parametrize("domain", [pytest.param(d, id=name) for name, d in DOMAINS.items()])


def test_a_domain_is_shown_as_it_is_written() -> None:
    assert [repr(domain) for domain in DOMAINS.values()] == list(DOMAINS)
    assert repr(sp.grid_search([1, 2])) == "grid_search([1, 2])"
    assert repr(sp.sample_from(rng)) == "sample_from(rng)"


@all_domains
def test_a_domain_survives_pickling_and_compares_by_value(domain: Domain) -> None:
    again = pickle.loads(pickle.dumps(domain))
    assert again == domain
    assert hash(again) == hash(domain)
    assert [again.sample(rng(3)) for _ in range(5)] == [domain.sample(rng(3)) for _ in range(5)]


def test_different_domains_are_not_equal() -> None:
    different = [*DOMAINS.values(), sp.uniform(0.001, 2), sp.choice([1]), sp.choice([True]), sp.choice([1.0])]
    assert all(a != b for i, a in enumerate(different) for b in different[:i])
    assert sp.grid_search([1]) == sp.grid_search([1])
    assert sp.grid_search([1]) != sp.grid_search([True])


def test_a_domain_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        sp.uniform(0, 1).lower = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("domain", "low", "high"),
    [
        (sp.randint(1, 4), 1, 3),
        (sp.qrandint(1, 4), 1, 4),
        (sp.qrandint(3, 20, 5), 5, 20),
        (sp.lograndint(1, 4), 1, 3),
        (sp.qlograndint(1, 4, 1), 1, 4),
        (sp.qlograndint(3, 20, 5), 5, 20),
        (sp.quniform(0, 0.3, 0.1), 0.0, 0.3),
        (sp.qloguniform(0.1, 0.3, 0.1), 0.1, 0.3),
    ],
    ids=repr,
)
def test_the_ends_of_a_range_are_those_of_ray_tune_and_are_reached(domain: Domain, low: float, high: float) -> None:
    draw = rng(1)
    drawn = {domain.sample(draw) for _ in range(500)}
    assert (min(drawn), max(drawn)) == (low, high)
    assert type(domain.sample(draw)) is type(low)


def test_multiples_of_a_step_are_the_decimals_that_one_writes() -> None:
    draw = rng()
    assert {sp.quniform(0, 1, 0.1).sample(draw) for _ in range(500)} == {round(0.1 * k, 1) for k in range(11)}


def test_the_base_of_a_logarithm_changes_no_draw() -> None:
    assert sp.loguniform(1e-5, 1, base=2).sample(rng()) == sp.loguniform(1e-5, 1).sample(rng())


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (
            sp.uniform(0, 1),
            [0, 0.0, 1.0, 0.5, np.float64(0.5), np.float32(0.5)],
            [-0.1, 1.1, True, None, "0.5", math.nan],
        ),
        (sp.quniform(0, 1, 0.1), [0.3, 0.1 + 0.2, 1], [0.35, 1.1, False]),
        (sp.randint(0, 5), [0, 4, np.int64(3)], [5, -1, 3.0, True, "3", 2**2000]),
        (sp.qrandint(0, 20, 5), [0, 20], [21, 7]),
        (sp.randn(), [-1e9, 0], [math.inf, math.nan, None, True]),
        (sp.qrandn(0, 1, 0.25), [100.25, -0.5], [0.3]),
        (sp.choice([1, "a", None]), [1, "a", None], [True, 1.0, "b"]),
        (sp.choice([True, 1.5]), [True, 1.5], [1, np.float64(1.5)]),
        (sp.sample_from(lambda: 1), [object()], []),
    ],
)
def test_membership_asks_for_type_bounds_and_grid(domain: Domain, inside: list[Any], outside: list[Any]) -> None:
    assert [value for value in inside if not domain.contains(value)] == []
    assert [value for value in outside if domain.contains(value)] == []


@all_domains
def test_encoding_puts_values_between_0_and_1_and_decoding_finds_them_again(domain: Domain) -> None:
    draw = rng(5)
    for _ in range(100):
        value = domain.sample(draw)
        place = domain.encode(value)
        assert 0.0 <= place <= 1.0
        again = domain.decode(place)
        assert again == value or math.isclose(again, value, rel_tol=1e-6, abs_tol=1e-6)
        assert type(again) is type(value)


def test_encoding_is_logarithmic_where_the_domain_is() -> None:
    assert sp.loguniform(1e-4, 1).encode(1e-2) == pytest.approx(0.5)
    assert sp.loguniform(1e-4, 1).encode(-3) == 0.0
    assert sp.uniform(0, 4).encode(1) == 0.25
    assert sp.uniform(0, 4).encode(9) == 1.0
    assert sp.uniform(3, 3).encode(3) == 0.0
    assert sp.loguniform(1e-300, 1.0000000000000002e-300).encode(1e-300) == 0.0
    assert sp.randn(5, 2).encode(5) == 0.5
    assert sp.choice(["a", "b", "c"]).encode("b") == 0.5
    assert sp.choice(["only"]).encode("only") == 0.0


@all_domains
def test_decoding_stays_in_the_domain_even_from_outside_of_0_to_1(domain: Domain) -> None:
    assert all(domain.contains(domain.decode(place)) for place in (-1.0, 0.0, 0.3, 1.0, 2.0))


@pytest.mark.parametrize(
    "domain", [sp.uniform(0, 1), sp.randint(0, 3), sp.randn(), sp.choice([1]), sp.sample_from(rng)]
)
def test_what_has_no_place_cannot_be_encoded(domain: Domain) -> None:
    with pytest.raises(SpaceError, match="'x'"):
        domain.encode("x")


def test_a_function_has_no_scale() -> None:
    with pytest.raises(SpaceError, match="no scale"):
        sp.sample_from(rng).decode(0.5)


# ---- Perturbation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "value", "factor", "expected"),
    [
        (sp.uniform(0, 1), 0.5, 1.2, 0.6),
        (sp.uniform(0, 1), 0.9, 1.2, 1.0),
        (sp.uniform(0.5, 1), 0.55, 0.8, 0.5),
        (sp.uniform(0, 1), 7.0, 0.8, 1.0),
        (sp.uniform(-1, -0.5), -0.9, 1.2, -1.0),
        (sp.uniform(-1, -0.5), -0.6, 0.8, -0.5),
        (sp.loguniform(1e-5, 1), 1e-3, 0.5, 5e-4),
        (sp.randn(), 100.0, 1.5, 150.0),
        (sp.quniform(0, 1, 0.1), 0.5, 1.2, 0.6),
        (sp.quniform(0, 1, 0.1), 0.1, 1.2, 0.2),
        (sp.quniform(0, 1, 0.1), 0.3, 0.9, 0.2),
        (sp.quniform(0, 1, 0.1), 0.1 + 0.2, 1.2, 0.4),
        (sp.quniform(0, 1, 0.1), 1.0, 1.2, 1.0),
        (sp.quniform(0, 1, 0.1), 0.27, 1.01, 0.3),
        (sp.qrandn(0, 1, 0.5), 1.0, 1.2, 1.5),
        (sp.randint(1, 10), 3, 1.2, 4),
        (sp.randint(1, 10), 3, 0.8, 2),
        (sp.randint(1, 100), 10, 1.2, 12),
        (sp.randint(0, 10), 1, 0.8, 0),
        (sp.randint(1, 10), 1, 0.8, 1),
        (sp.randint(1, 10), 9, 1.2, 9),
        (sp.qrandint(1, 10), 9, 1.2, 10),
        (sp.randint(1, 10), 50, 0.8, 9),
        (sp.randint(10, 20), 1, 1.2, 10),
        (sp.randint(-10, 0), -3, 1.2, -4),
        (sp.randint(-10, 0), -3, 0.8, -2),
        (sp.randint(1, 10), 3.7, 1.2, 4),
        (sp.qrandint(0, 100, 10), 10, 1.2, 20),
        (sp.qrandint(0, 100, 10), 10, 0.8, 0),
        (sp.qlograndint(8, 64, 8), 32, 0.8, 24),
        (sp.randint(1, 10), np.int64(3), 1.2, 4),
        (sp.uniform(0, 1), np.float32(0.5), 1.2, 0.6),
        (sp.quniform(0, 1, 1e-12), 1e300, 1.2, 1.0),
        (sp.uniform(0, 1e300), 9e299, 1.2, 1e300),
        (sp.randint(0, 100), 10**300, 1e9, 99),
    ],
)
def test_a_number_moves_towards_the_product_and_stays_inside(
    domain: Domain, value: Any, factor: float, expected: float
) -> None:
    moved = domain.perturb(value, factor, rng())
    assert moved == pytest.approx(expected)
    assert type(moved) is type(expected)


@pytest.mark.parametrize(
    ("domain", "value", "factor", "expected"),
    [
        (sp.uniform(0, 1), 0.9, 1.2, 1.08),
        (sp.randint(1, 10), 9, 1.2, 11),
        (sp.quniform(0, 1, 0.1), 1.0, 1.2, 1.2),
        (sp.qrandint(0, 20, 5), 20, 1.2, 25),
    ],
)
def test_without_clamping_a_number_leaves_the_bounds_but_keeps_type_and_grid(
    domain: Domain, value: Any, factor: float, expected: float
) -> None:
    moved = domain.perturb(value, factor, rng(), clamp=False)
    assert moved == pytest.approx(expected)
    assert type(moved) is type(expected)


@pytest.mark.parametrize("value", [0, 0.0, -0.0, True, False, None, "0.5", math.nan, math.inf, [0.5], 1 + 2j, 10**400])
@pytest.mark.parametrize("domain", [d for name, d in DOMAINS.items() if "choice" not in name], ids=repr)
def test_what_no_factor_can_move_is_drawn_anew(domain: Domain, value: Any) -> None:
    drawn = {domain.perturb(value, 1.2, rng(seed)) for seed in range(20)}
    assert len(drawn) > 2
    assert all(domain.contains(one) for one in drawn)


def test_a_choice_moves_to_a_neighbour_and_stays_at_most_at_the_ends() -> None:
    domain = sp.choice([10, 20, 30])
    draw = rng()
    reached = {value: {domain.perturb(value, 1.2, draw) for _ in range(50)} for value in domain.categories}
    assert reached == {10: {10, 20}, 20: {10, 30}, 30: {20, 30}}


def test_a_value_that_is_no_entry_of_a_choice_is_drawn_anew() -> None:
    domain = sp.choice([0, 1, 2, 3])
    assert {domain.perturb(True, 1.2, rng(seed)) for seed in range(50)} == {0, 1, 2, 3}


def test_a_choice_hands_out_its_very_entries() -> None:
    entries = [
        None,
        True,
        1,
        1.0,
        np.float32(1),
        np.int64(1),
        "1",
        [1],
        {"a": 1},
        np.zeros(3),
        np.ones(3),
        math.nan,
        object(),
    ]
    domain = sp.choice(entries)
    draw = rng()
    value: Any = domain.sample(draw)
    for _ in range(500):
        value = domain.perturb(value, 1.2, draw)
        assert any(value is entry for entry in entries)
    places = [domain.encode(entry) for entry in pickle.loads(pickle.dumps(entries))[:-1]]
    assert places == [index / (len(entries) - 1) for index in range(len(entries) - 1)]


def test_entries_of_a_choice_are_compared_with_their_types_all_the_way_down() -> None:
    domain = sp.choice([(1, 2), [1, 2], {"a": 1}, {"a": True}])
    assert [domain.encode(value) * 3 for value in [(1, 2), [1, 2], {"a": 1}, {"a": True}]] == [0, 1, 2, 3]
    assert not domain.contains((True, 2))
    assert not domain.contains({"a": 1.0})
    assert not domain.contains({"b": 1})
    assert not domain.contains([1])


def test_an_entry_that_cannot_be_compared_crashes_nothing() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("do not compare me")

        __hash__ = None  # type: ignore[assignment]

    odd = Odd()
    domain = sp.choice([Odd(), odd])
    assert domain.encode(odd) == 1.0
    assert not domain.contains(Odd())
    assert hash(domain) == hash(sp.choice([1, 2]))


# ---- Wrong arguments -------------------------------------------------------------------------------------------------

loose: Any = sp
"""The functions as they are called where nothing checks types."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: loose.uniform("0", 1), r"uniform\('0', 1\): lower is '0'.*without quotes"),
        (lambda: loose.uniform(0, "1e-3"), "upper is '1e-3'"),
        (lambda: loose.uniform(0, None), "upper is None"),
        (lambda: loose.uniform(True, 2), "lower is True"),
        (lambda: loose.uniform(0, math.nan), "nan.*finite"),
        (lambda: loose.uniform(-math.inf, 1), "inf.*finite"),
        (lambda: loose.uniform(0, 10**400), "finite"),
        (lambda: loose.loguniform(0, 1), "bounds above 0"),
        (lambda: loose.loguniform(1, -1), "bounds above 0"),
        (lambda: loose.loguniform(1, 2, base=1), "base is 1"),
        (lambda: loose.loguniform(1, 2, base=0), "base is 0"),
        (lambda: loose.lograndint(0, 10), "bounds above 0"),
        (lambda: loose.quniform(0, 1, 0), "q is 0.0.*above 0"),
        (lambda: loose.quniform(0, 1, -0.1), "q is -0.1"),
        (lambda: loose.quniform(0, 1, 2), "too large for the range"),
        (lambda: loose.quniform(0.31, 0.31, 0.1), "too large for the range"),
        (lambda: loose.quniform(0, 1, 1e-300), "too fine"),
        (lambda: loose.quniform(0, 1, "a"), "q is 'a'"),
        (lambda: loose.qrandn(0, 1, 0), "q is 0.0"),
        (lambda: loose.randn(0, 0), "sd is 0.0.*above 0"),
        (lambda: loose.randn(0, -1), "sd is -1.0"),
        (lambda: loose.randn("0", 1), "mean is '0'"),
        (lambda: loose.randint(3, 3), "upper is excluded"),
        (lambda: loose.randint(0.5, 3), "lower is 0.5, but must be an integer"),
        (lambda: loose.qrandint(0, 10, 0), "q is 0"),
        (lambda: loose.qrandint(0, 10, 2.5), "q is 2.5, but must be an integer"),
        (lambda: loose.qrandint(0, 10, 20), "too large"),
        (lambda: loose.choice([]), r"choice\(\[\]\) has no value"),
        (lambda: loose.choice("abc"), "list of values.*'abc'"),
        (lambda: loose.choice({"a", "b"}), "in a given order"),
        (lambda: loose.choice({"a": 1}), "in a given order"),
        (lambda: loose.choice(3), "list of values"),
        (lambda: loose.grid_search([]), "no value"),
        (lambda: loose.grid_search(1), "list of values"),
        (lambda: loose.sample_from(3), "takes a function, but got 3"),
        (lambda: loose.sample_from(lambda a, b: 1), "needs a, b"),
        (lambda: loose.sample_from(lambda *, a: 1), "needs a"),
    ],
)
def test_wrong_arguments_are_refused_with_what_was_given_and_what_is_allowed(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(SpaceError, match=message):
        make()


def test_whole_numbers_may_be_written_as_floats_and_numpy_scalars() -> None:
    assert loose.randint(1e3, np.int64(5000)) == loose.randint(1000, 5000)
    assert type(loose.randint(1e3, 5e3).sample(rng())) is int
    assert loose.uniform(np.float32(0.5), 1) == loose.uniform(0.5, 1)
    assert loose.choice(np.arange(3)).contains(np.int64(2))


def test_bounds_need_not_be_multiples_of_the_step() -> None:
    assert {sp.quniform(0.05, 0.35, 0.1).sample(rng(seed)) for seed in range(50)} == {0.1, 0.2, 0.3}
    assert sp.quniform(0.1, 0.3, 0.2).contains(0.2)


# ---- Reversed bounds -------------------------------------------------------------------------------------------------


def test_reversed_bounds_mean_the_interval_between_them() -> None:
    domain = sp.uniform(1e-2, 1e-5)
    assert domain == sp.uniform(1e-5, 1e-2)
    assert domain.reversed_bounds
    assert not sp.uniform(1e-5, 1e-2).reversed_bounds
    assert 1e-5 <= domain.sample(rng()) <= 1e-2
    assert sp.randint(10, 1) == sp.randint(1, 10)
    assert sp.qloguniform(1, 0.1, 0.1) == sp.qloguniform(0.1, 1, 0.1)


def test_reversed_bounds_are_warned_of_once_for_each_key_by_name() -> None:
    space = {"netG_lr": sp.uniform(0.01, 1e-5), "m": {"w": [sp.randint(9, 1)]}, "ok": sp.uniform(0, 1)}
    with pytest.warns(SpaceWarning) as caught:
        expand(space, 5, 0)
    assert [str(warning.message) for warning in caught] == [
        "param_space['netG_lr']: uniform(0.01, 1e-05) has its bounds reversed; sampled as uniform(1e-05, 0.01)",
        "param_space['m']['w'][0]: randint(9, 1) has its bounds reversed; sampled as randint(1, 9)",
    ]


def test_the_warning_points_at_the_line_that_called_shoal() -> None:
    with pytest.warns(SpaceWarning) as caught:
        sp.check_space({"a": sp.uniform(1, 0)})
    assert caught[0].filename == __file__


def test_a_space_that_was_checked_is_not_warned_of_again() -> None:
    space = {"a": sp.uniform(1, 0)}
    with pytest.warns(SpaceWarning, match=r"tune\['a'\]"):
        sp.check_space(space, "tune")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expand(space, 1, 0, check=False)


def test_reversed_bounds_in_one_of_several_options_are_warned_of_once() -> None:
    options = [{"lr": sp.uniform(1, 0)}, {"lr": sp.uniform(2, 0)}]
    with pytest.warns(SpaceWarning) as caught:
        sp.check_space({"o": sp.choice(options)})
    assert len(caught) == 1


# ---- Expanding -------------------------------------------------------------------------------------------------------


def test_domains_are_drawn_and_constants_kept() -> None:
    big = object()
    space = {"lr": sp.uniform(0, 1), "n": 3, "big": big, "none": None}
    (variant,) = expand(space, 1, 7)
    assert list(variant.config) == ["lr", "n", "big", "none"]
    assert variant.config["big"] is big
    assert variant.sampled == {"lr": variant.config["lr"]}
    assert isinstance(space["lr"], Domain)


def test_nested_containers_are_walked_and_rebuilt_with_their_types() -> None:
    class Pair(NamedTuple):
        a: Any
        b: Any

    ordered = collections.OrderedDict(z=sp.randint(0, 9), y=1)
    constant = {"deep": [1, {"x": (2,)}]}
    space = {
        "model": {"width": sp.choice([16]), "layers": [sp.choice([8]), sp.choice([4]), 2]},
        "pair": Pair(sp.choice(["p"]), 5),
        "tuple": (sp.choice(["t"]), {"k": sp.choice(["v"])}),
        "ordered": ordered,
        "constant": constant,
    }
    first, second = expand(space, 2, 0)
    config = first.config
    assert config["model"] == {"width": 16, "layers": [8, 4, 2]}
    assert config["pair"] == Pair("p", 5)
    assert type(config["pair"]) is Pair
    assert config["tuple"] == ("t", {"k": "v"})
    assert type(config["ordered"]) is collections.OrderedDict
    assert type(config["ordered"]["z"]) is int
    assert config["constant"] == constant
    assert config["constant"]["deep"][1] is not second.config["constant"]["deep"][1]
    assert list(first.sampled) == [
        "model/width",
        "model/layers/0",
        "model/layers/1",
        "pair/0",
        "tuple/0",
        "tuple/1/k",
        "ordered/z",
    ]
    assert space["ordered"] is ordered
    assert isinstance(ordered["z"], Domain)


def test_large_objects_and_foreign_tuples_are_never_copied() -> None:
    class Shape(tuple[int, ...]):
        __slots__ = ()

    array, shape = np.zeros(1000), Shape((1, 2))
    config = one({"data": {"x": [array]}, "shape": shape, "lr": sp.uniform(0, 1)})
    assert config["data"]["x"][0] is array
    assert config["shape"] is shape


def test_equal_seeds_give_equal_configs_and_others_do_not() -> None:
    space = {"a": sp.uniform(0, 1), "b": sp.randint(0, 1000)}
    assert expand(space, 3, 1) == expand(space, 3, 1)
    assert expand(space, 3, 1) != expand(space, 3, 2)
    assert len({variant.config["a"] for variant in expand(space, 20, 1)}) == 20


def test_a_new_key_or_a_new_sample_shifts_no_other_draw() -> None:
    space = {"a": sp.uniform(0, 1), "b": {"c": sp.randint(0, 1000)}}
    before = [variant.config for variant in expand(space, 2, 1)]
    after = [variant.config for variant in expand({"new": sp.uniform(0, 1), **space}, 5, 1)]
    assert [{"a": config["a"], "b": config["b"]} for config in after[:2]] == before


def test_a_grid_is_crossed_and_repeated_and_the_first_key_turns_fastest() -> None:
    space = {"a": sp.grid_search([1, 2]), "b": {"c": {"grid_search": ["x", "y"]}}, "d": sp.uniform(0, 1)}
    variants = expand(space, 2, 0)
    assert [(v.config["a"], v.config["b"]["c"]) for v in variants] == [(1, "x"), (2, "x"), (1, "y"), (2, "y")] * 2
    assert len({v.config["d"] for v in variants}) == 8
    assert {key: variants[1].sampled[key] for key in ("a", "b/c")} == {"a": 2, "b/c": "x"}


def test_two_samples_of_a_grid_of_three_are_six_trials() -> None:
    assert len(expand({"a": sp.grid_search([1, 2, 3])}, 2, 0)) == 6


def test_values_of_a_grid_may_hold_grids_and_domains() -> None:
    space = {
        "o": sp.grid_search([{"n": "sgd", "m": sp.grid_search([0, 0.9])}, {"n": "adam", "lr": sp.choice([0.1])}, None])
    }
    configs = [variant.config["o"] for variant in expand(space, 1, 0)]
    assert configs == [{"n": "sgd", "m": 0}, {"n": "sgd", "m": 0.9}, {"n": "adam", "lr": 0.1}, None]


def test_an_entry_of_a_choice_may_hold_domains_so_that_spaces_are_conditional() -> None:
    branches = [{"name": "sgd", "momentum": sp.uniform(0, 1)}, {"name": "adam", "betas": (sp.uniform(0, 1), 0.999)}]
    seen: set[str] = set()
    for variant in expand({"opt": sp.choice(branches), "drop": sp.choice([None, sp.uniform(0.1, 0.5)])}, 20, 0):
        opt, drop = variant.config["opt"], variant.config["drop"]
        seen.add(opt["name"])
        assert drop is None or 0.1 <= drop <= 0.5
        assert variant.sampled["opt/name"] == opt["name"]
        if opt["name"] == "sgd":
            assert 0 <= opt["momentum"] <= 1
            assert set(variant.sampled) == {"opt/name", "opt/momentum", "drop"}
        else:
            assert 0 <= opt["betas"][0] <= 1
            assert set(variant.sampled) == {"opt/name", "opt/betas/0", "opt/betas/1", "drop"}
    assert seen == {"sgd", "adam"}


def test_no_space_gives_empty_configs() -> None:
    assert [variant.config for variant in expand({}, 2, 0)] == [{}, {}]
    assert [variant.config for variant in expand(None, 2, 0)] == [{}, {}]


# ---- Functions in a space --------------------------------------------------------------------------------------------


def test_a_function_may_read_the_config_in_the_ways_of_ray_tune() -> None:
    space: dict[str, Any] = {
        "spec_attribute": sp.sample_from(lambda spec: spec.config.m.width * 2),
        "spec_item": sp.sample_from(lambda spec: spec["config"]["m"]["width"] * 3),
        "config": sp.sample_from(lambda config: config["m"]["width"] * 4),
        "other_name": sp.sample_from(lambda c: c["m"].get("width") * 5),
        "nothing": sp.sample_from(lambda: 6),
        "default": sp.sample_from(lambda size=7: size),
        "named_default": sp.sample_from(lambda config=None: sum(config["layers"])),
        "m": {"width": sp.choice([10])},
        "layers": [1, sp.choice([2])],
    }
    config = one(space)
    names = ["spec_attribute", "spec_item", "config", "other_name", "nothing", "default", "named_default"]
    assert [config[name] for name in names] == [20, 30, 40, 50, 6, 7, 3]


def test_functions_may_depend_on_one_another_in_any_order() -> None:
    space: dict[str, Any] = {
        "a": sp.sample_from(lambda config: config["b"] + 1),
        "b": sp.sample_from(lambda spec: spec.config.c + 1),
        "c": sp.sample_from(lambda config: config["d"][1] + 1),
        "d": [sp.choice([1]), sp.sample_from(lambda config: config["d"][0] * 10)],
        "e": sp.sample_from(lambda config: {**config}["a"]),
    }
    assert one(space) == {"a": 13, "b": 12, "c": 11, "d": [1, 10], "e": 13}


@pytest.mark.parametrize(
    "read",
    [
        lambda config: config.get("b", 0),
        lambda config: dict(config)["b"],
        lambda config: {**config}["b"],
        lambda config: next(iter(config.values())),
        lambda config: dict(config.items())["b"],
        lambda config: config.b,
        lambda config: config["l"][0],
        lambda config: next(iter(config["l"])),
        lambda config: config["l"][:1][0],
        lambda config: copy.deepcopy(config)["b"],
        lambda config: (lambda a=0, b=0, **rest: b)(**config),
    ],
)
def test_a_function_never_sees_a_value_that_is_not_drawn_yet(read: Callable[[Any], Any]) -> None:
    five = sp.sample_from(lambda: 5)
    assert one({"a": sp.sample_from(read), "b": five, "l": [five], "t": (five,)})["a"] == 5


def test_a_part_of_the_config_that_a_function_returns_is_a_plain_one() -> None:
    space = {
        "m": {"l": [1, {"w": sp.choice([2])}]},
        "copy": sp.sample_from(lambda config: (config["m"], config.m.l[1:])),
    }
    first, rest = one(space)["copy"]
    assert (first, rest) == ({"l": [1, {"w": 2}]}, [{"w": 2}])
    assert {type(first), type(first["l"]), type(first["l"][1]), type(rest[0])} == {dict, list}


def test_functions_that_wait_for_each_other_are_named() -> None:
    space = {"a": sp.sample_from(lambda config: config["b"]), "b": sp.sample_from(lambda config: config["a"])}
    with pytest.raises(SpaceError, match=r"param_space\['a'\].*a needs b, b needs a"):
        expand(space, 1, 0)


def test_a_function_that_needs_itself_is_named() -> None:
    with pytest.raises(SpaceError, match=r"param_space\['m'\]\['a'\].*m/a needs m/a"):
        expand({"m": {"a": sp.sample_from(lambda config: config["m"]["a"])}}, 1, 0)


@pytest.mark.parametrize("read", [lambda config: config["lrr"], lambda spec: spec.config.lrr, lambda: [][0]])
def test_an_error_in_a_function_names_the_key_and_is_chained(read: Callable[..., Any]) -> None:
    with pytest.raises(SpaceError, match=r"param_space\['x'\]: sample_from\(.*<lambda>\) raised") as caught:
        expand({"lr": 1, "x": sp.sample_from(read)}, 1, 0)
    assert isinstance(caught.value.__cause__, (LookupError, AttributeError))


def test_functions_draw_from_seeded_global_generators_and_leave_them_as_they_were() -> None:
    def draw() -> tuple[float, float]:
        return random.random(), float(np.random.uniform())

    space = {"a": sp.sample_from(draw), "b": sp.sample_from(draw)}
    random.seed(1)
    np.random.seed(1)
    expected = (random.random(), np.random.uniform())
    random.seed(1)
    np.random.seed(1)
    config = one(space)
    assert (random.random(), np.random.uniform()) == expected
    assert one(space) == config
    assert one(space, seed=1) != config
    assert len({*config["a"], *config["b"]}) == 4


def test_a_function_that_had_to_wait_draws_the_same_as_one_that_had_not() -> None:
    draw = sp.sample_from(lambda config: (random.random(), config["b"])[0])
    assert one({"a": draw, "b": sp.sample_from(lambda: 1)})["a"] == one({"a": draw, "b": 1})["a"]


def test_generators_are_put_back_after_an_error_too() -> None:
    state = random.getstate()
    with pytest.raises(ZeroDivisionError), sp.seeded_globals(rng()):
        raise ZeroDivisionError(random.random())
    assert random.getstate() == state


def test_a_domain_that_a_function_returns_is_drawn_from() -> None:
    space = {"n": sp.choice([3]), "x": sp.sample_from(lambda config: {"k": sp.randint(0, config["n"])})}
    assert one(space)["x"]["k"] in {0, 1, 2}


def test_functions_whose_signature_is_hidden_are_called_without_argument() -> None:
    assert sp.sample_from(dict).sample(rng()) == {}
    assert 0 <= sp.sample_from(random.random).sample(rng()) < 1
    assert 0 <= sp.sample_from(np.random.rand).sample(rng()) < 1


# ---- Wrong spaces ----------------------------------------------------------------------------------------------------


class Foreign:
    """Stands for a domain of Ray Tune, which other code may still make."""


Foreign.__module__ = "ray.tune.search.sample"
circle: list[Any] = []
circle.append(circle)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ([1], "must be a dict"),
        (sp.uniform(0, 1), "must be a dict"),
        ({"grid_search": [1]}, "must be a dict of names"),
        ({1: sp.uniform(0, 1)}, "the key 1, but the name of a hyperparameter is text"),
        ({"a": {"grid_search": 3}}, r"param_space\['a'\]: grid_search takes a list"),
        ({"a": {"b": {"grid_search": []}}}, r"param_space\['a'\]\['b'\]: grid_search"),
        ({"a": sp.choice([{"b": sp.grid_search([1])}])}, r"\['a'\]\['b'\]: grid_search is inside the choice"),
        ({"a": {"b": sp.uniform(0, 1)}, "a/b": sp.uniform(0, 1)}, "both 'a/b' in results"),
        ({"a": [Foreign()]}, r"param_space\['a'\]\[0\].*of Ray Tune.*shoal.tune"),
        ({"a": circle}, "contains itself"),
    ],
)
def test_a_wrong_space_is_refused_by_the_name_of_the_key(space: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        expand(space, 1, 0)


def test_a_grid_that_a_function_returns_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"param_space\['a'\].*too late"):
        expand({"a": sp.sample_from(lambda: sp.grid_search([1]))}, 1, 0)


@pytest.mark.parametrize("num_samples", [0, -1, 1.5, True, "4", None])
def test_the_number_of_samples_is_a_positive_integer(num_samples: Any) -> None:
    with pytest.raises(ConfigError, match=r"num_samples is .*integer, 1 or more"):
        expand({}, num_samples, 0)
