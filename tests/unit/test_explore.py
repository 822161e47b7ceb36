"""Explore: how a config changes after an exploit."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shoal import space as sp
from shoal.core.rng import stream
from shoal.errors import SpaceError
from shoal.schedulers.explore import Mutations, explore, fill, parse_mutations
from shoal.space import SpaceWarning


def moved(config: dict[str, Any], mutations: dict[str, Any], seed: int = 0, **options: Any) -> dict[str, Any]:
    """Explore, without drawing anew unless told otherwise."""
    settings: dict[str, Any] = {"resample_probability": 0.0, **options}
    return explore(config, parse_mutations(mutations), rng=random.Random(seed), **settings)


def outcomes(config: dict[str, Any], mutations: dict[str, Any], key: str, **options: Any) -> set[Any]:
    return {moved(config, mutations, seed, **options)[key] for seed in range(60)}


# ---- Reading hyperparam_mutations ------------------------------------------------------------------------------------


def test_lists_become_choices_functions_become_domains_and_dicts_stay_nested() -> None:
    mutations = parse_mutations(
        {"a": [1, 2], "b": (3, 4), "c": random.random, "d": sp.uniform(0, 1), "e": {"f": {"g": [5]}}}
    )
    assert mutations.flat() == {
        "a": sp.choice([1, 2]),
        "b": sp.choice([3, 4]),
        "c": sp.sample_from(random.random),
        "d": sp.uniform(0, 1),
        "e/f/g": sp.choice([5]),
    }


def test_nothing_to_mutate_is_allowed() -> None:
    assert parse_mutations(None) == parse_mutations({}) == Mutations()
    assert moved({"a": 1}, {}) == {"a": 1}


@pytest.mark.parametrize(
    ("mutations", "message"),
    [
        ([1], "hyperparam_mutations is .*must be a dict"),
        ({"a": []}, r"hyperparam_mutations\['a'\]: choice\(\[\]\) has no value"),
        ({"a": {}}, r"\['a'\] is an empty dict"),
        ({"a": {"b": {}}}, r"\['a'\]\['b'\] is an empty dict"),
        ({"a": 0.1}, r"\['a'\] is 0.1 of type float, but must be a domain.*a list.*a function"),
        ({"a": None}, r"\['a'\] is None"),
        ({"a": "uniform"}, r"\['a'\] is 'uniform'"),
        ({"a": {1, 2}}, r"\['a'\] is \{1, 2\}"),
        ({1: [1]}, "the key 1, but a name is text"),
        ({"a": sp.grid_search([1])}, r"\['a'\] is a grid_search"),
        ({"a": {"grid_search": [1]}}, r"\['a'\] is a grid_search"),
        ({"a": [sp.uniform(0, 1)]}, r"\['a'\] is a list with domains"),
        ({"a": sp.choice([{"b": sp.uniform(0, 1)}])}, r"\['a'\] is a list with domains"),
        ({"a": lambda x, y: 1}, r"\['a'\]: .*needs x, y"),
    ],
)
def test_a_wrong_mutation_is_refused_by_the_name_of_its_key(mutations: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        parse_mutations(mutations)


def test_reversed_bounds_of_the_guide_are_accepted_with_a_warning_for_each_key() -> None:
    with pytest.warns(SpaceWarning) as caught:
        mutations = parse_mutations({"netG_lr": sp.uniform(1e-2, 1e-5), "netD": {"lr": sp.uniform(1e-2, 1e-5)}})
    assert [str(warning.message).partition(":")[0] for warning in caught] == [
        "hyperparam_mutations['netG_lr']",
        "hyperparam_mutations['netD']['lr']",
    ]
    assert mutations.flat()["netG_lr"] == sp.uniform(1e-5, 1e-2)


# ---- Filling ---------------------------------------------------------------------------------------------------------


def test_missing_keys_are_drawn_and_present_ones_stay_whatever_they_are() -> None:
    mutations = parse_mutations(
        {"lr": sp.uniform(0, 1), "n": sp.randint(0, 5), "m": {"w": [8, 16], "k": lambda: 3}, "new": {"z": [1]}}
    )
    config = {"lr": None, "m": {"k": 99}, "other": 1}
    before = copy.deepcopy(config)
    filled = fill(config, mutations, random.Random(0))
    assert config == before
    assert filled["lr"] is None
    assert filled["n"] in range(5)
    assert filled["m"]["w"] in (8, 16)
    assert filled["m"]["k"] == 99
    assert filled["new"] == {"z": 1}
    assert filled["other"] == 1


def test_a_function_that_fills_may_read_the_config_with_what_was_drawn() -> None:
    filled = fill({}, parse_mutations({"b": lambda config: config["a"] * 2, "a": [21]}), random.Random(0))
    assert filled == {"a": 21, "b": 42}


@pytest.mark.parametrize("change", [fill, lambda c, m, rng: explore(c, m, rng=rng)])
def test_a_dict_of_mutations_needs_a_dict_in_the_config(change: Callable[..., Any]) -> None:
    with pytest.raises(SpaceError, match=r"config\['m'\] is 5, but hyperparam_mutations\['m'\] is a dict"):
        change({"m": 5}, parse_mutations({"m": {"w": [1]}}), random.Random(0))


# ---- Exploring -------------------------------------------------------------------------------------------------------


def test_a_number_is_multiplied_by_one_of_the_factors() -> None:
    assert outcomes({"lr": 0.5}, {"lr": sp.uniform(0, 1)}, "lr") == {0.5 * 1.2, 0.5 * 0.8}
    assert outcomes({"lr": 0.5}, {"lr": sp.uniform(0, 1)}, "lr", perturbation_factors=(1.5, 0.5)) == {0.75, 0.25}


def test_a_list_moves_to_a_neighbour() -> None:
    assert outcomes({"b": 32}, {"b": [16, 32, 64, 128]}, "b") == {16, 64}
    assert outcomes({"b": 16}, {"b": (16, 32, 64)}, "b") == {16, 32}
    assert outcomes({"b": 5}, {"b": [16, 32, 64]}, "b") == {16, 32, 64}


def test_with_probability_1_everything_is_drawn_anew_and_with_0_nothing() -> None:
    mutations = {"lr": sp.uniform(0, 1), "b": list(range(100))}
    assert len(outcomes({"lr": 0.5, "b": 5}, mutations, "lr", resample_probability=1.0)) == 60
    assert len(outcomes({"lr": 0.5, "b": 5}, mutations, "b", resample_probability=1.0)) > 30
    assert outcomes({"lr": 0.5, "b": 5}, mutations, "b", resample_probability=0.0) == {4, 6}


def test_a_quarter_is_drawn_anew_by_default() -> None:
    mutations = parse_mutations({"lr": sp.uniform(0, 1)})
    results = [explore({"lr": 0.5}, mutations, rng=random.Random(seed))["lr"] for seed in range(2000)]
    assert 0.2 < sum(lr not in (0.6, 0.4) for lr in results) / len(results) < 0.3


def test_integers_move_both_ways_and_stay_integers() -> None:
    assert outcomes({"n": 3}, {"n": sp.randint(1, 10)}, "n") == {2, 4}
    assert all(type(n) is int for n in outcomes({"n": 3}, {"n": sp.randint(1, 10)}, "n"))


def test_a_bool_where_a_number_belongs_is_drawn_anew() -> None:
    assert outcomes({"n": True}, {"n": sp.randint(5, 8)}, "n") == {5, 6, 7}


def test_values_stay_inside_the_bounds_unless_that_is_turned_off() -> None:
    assert outcomes({"lr": 0.9}, {"lr": sp.uniform(0, 1)}, "lr") == {1.0, 0.9 * 0.8}
    assert outcomes({"lr": 0.9}, {"lr": sp.uniform(0, 1)}, "lr", keep_in_bounds=False) == {0.9 * 1.2, 0.9 * 0.8}
    assert outcomes({"n": 9}, {"n": sp.randint(1, 10)}, "n", keep_in_bounds=False) == {11, 7}


def test_nested_keys_are_explored_and_the_rest_is_the_same_object() -> None:
    big = object()
    config: dict[str, Any] = {"m": {"w": 10, "keep": [big]}, "l": [1], "big": big}
    before = copy.copy(config)
    result = moved(config, {"m": {"w": sp.randint(1, 100)}})
    assert config == before
    assert config["m"] == {"w": 10, "keep": [big]}
    assert result["m"]["w"] in (8, 12)
    assert result["m"]["keep"] is config["m"]["keep"]
    assert result["big"] is big
    assert list(result) == list(config)


def test_a_key_that_the_config_lacks_is_drawn() -> None:
    assert moved({}, {"m": {"w": [7]}, "f": lambda: 3}) == {"m": {"w": 7}, "f": 3}


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        (lambda: 7, 3, {2, 4}),
        (lambda: 7, 10, {8, 12}),
        (lambda: 7, 0, {7}),
        (lambda: 7, True, {7}),
        (lambda: 7, "x", {7}),
        (lambda: 7, None, {7}),
        (lambda: 7, 10.5, {8, 13}),
        (lambda: 0.5, 2, {1.6, 2.4}),
        (lambda: 0.5, 0.0, {0.5}),
        (lambda: 0.5, float("nan"), {0.5}),
        (lambda: np.int64(7), 3, {2, 4}),
        (lambda: np.int8(7), 120, {96, 7}),
        (lambda: True, 3, {True}),
        (lambda: np.bool_(True), 3, {True}),
        (lambda: "relu", "tanh", {"relu"}),
        (lambda: None, 3, {None}),
        (sp.sample_from(lambda: 7), 3, {2, 4}),
        (functools.partial(int, "7"), 3, {2, 4}),
    ],
)
def test_the_result_of_a_function_keeps_the_type_of_a_fresh_sample(
    function: Any, value: Any, expected: set[Any]
) -> None:
    results = outcomes({"x": value}, {"x": function}, "x")
    assert results == expected
    fresh = function.func() if isinstance(function, sp.Function) else function()
    assert {type(result) for result in results} == {type(fresh)}


def test_a_function_that_is_drawn_anew_gives_its_sample() -> None:
    assert outcomes({"x": 3}, {"x": lambda: 7}, "x", resample_probability=1.0) == {7}


def test_functions_see_the_new_values_of_the_other_keys_but_cannot_change_the_config() -> None:
    def double(config: dict[str, Any]) -> str:
        config["m"]["w"].append(2)
        return f"{config['a']}"

    config = {"x": "", "a": 10, "m": {"w": []}}
    result = moved(config, {"x": double, "a": sp.randint(0, 100)})
    assert result["x"] == str(result["a"])
    assert result["a"] in (8, 12)
    assert config["m"] == {"w": []}


def test_functions_that_draw_from_global_generators_are_seeded() -> None:
    mutations = {"a": lambda: random.uniform(0, 1), "b": lambda: float(np.random.uniform()), "c": np.random.rand}
    random.seed(1)
    first = moved({}, mutations)
    random.seed(2)
    np.random.seed(2)
    expected = random.Random(2).random()
    assert moved({}, mutations) == first
    assert random.random() == expected
    assert moved({}, mutations, seed=1) != first


def test_an_error_in_a_function_names_its_key() -> None:
    with pytest.raises(SpaceError, match=r"hyperparam_mutations\['m'\]\['x'\].*ZeroDivisionError") as caught:
        moved({}, {"m": {"x": lambda: 1 / 0}})
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_function_that_returns_a_domain_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"\['x'\].*Give the domain itself"):
        moved({}, {"x": lambda: sp.uniform(0, 1)})


# ---- Randomness ------------------------------------------------------------------------------------------------------


def test_equal_generators_give_equal_configs() -> None:
    mutations = {"a": sp.uniform(0, 1), "b": sp.randint(0, 100), "c": random.random}
    config = {"a": 0.5, "b": 50, "c": 0.5}
    assert moved(config, mutations, 3, resample_probability=0.5) == moved(
        config, mutations, 3, resample_probability=0.5
    )
    assert len({str(moved(config, mutations, seed, resample_probability=0.5)) for seed in range(20)}) > 15


@pytest.mark.parametrize("streams", [False, True])
def test_a_new_key_shifts_no_other(streams: bool) -> None:
    def rng() -> Any:
        return (lambda path: stream(5, path)) if streams else random.Random(5)

    b = sp.randint(0, 1000)
    old = {"a": sp.uniform(0, 1), "m": {"b": b}}
    new = {"new": sp.uniform(0, 1), **old, "m": {"first": [1, 2], "b": b}}
    config = {"a": 0.5, "m": {"b": 500}}
    changes: list[Callable[[Mutations], dict[str, Any]]] = [
        lambda mutations: explore(config, mutations, rng=rng(), resample_probability=0.5),
        lambda mutations: fill({}, mutations, rng()),
    ]
    for change in changes:
        before, after = change(parse_mutations(old)), change(parse_mutations(new))
        assert (after["a"], after["m"]["b"]) == (before["a"], before["m"]["b"])


def test_each_key_is_asked_for_by_its_path() -> None:
    asked: list[str] = []

    def streams(path: str) -> random.Random:
        asked.append(path)
        return random.Random(0)

    explore({}, parse_mutations({"a": [1], "m": {"w": [1]}, "f": lambda: 1}), rng=streams)
    assert asked == ["a", "m/w", "f"]


# ---- custom_explore_fn -----------------------------------------------------------------------------------------------


def test_a_custom_function_comes_last_and_may_change_its_config() -> None:
    def custom(config: dict[str, Any]) -> dict[str, Any]:
        config["m"]["w"].append(config["lr"])
        config["extra"] = 1
        return config

    config = {"lr": 0.5, "m": {"w": [1]}}
    result = moved(config, {"lr": sp.uniform(0, 1)}, custom_explore_fn=custom)
    assert result == {"lr": result["lr"], "m": {"w": [1, result["lr"]]}, "extra": 1}
    assert config == {"lr": 0.5, "m": {"w": [1]}}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, r"custom_explore_fn .*custom returned None.*Did you forget to return config\?"),
        ([1], r"custom returned \[1\] of type list, but must return a dict"),
    ],
)
def test_a_custom_function_must_return_a_dict(returned: Any, message: str) -> None:
    def custom(config: dict[str, Any]) -> Any:
        return returned

    with pytest.raises(SpaceError, match=message):
        moved({}, {}, custom_explore_fn=custom)


def test_an_error_in_a_custom_function_is_chained_and_names_the_function() -> None:
    def custom(config: dict[str, Any]) -> dict[str, Any]:
        return {"lr": config["lrr"]}

    with pytest.raises(SpaceError, match="custom raised KeyError: 'lrr'") as caught:
        moved({"lr": 1}, {}, custom_explore_fn=custom)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_custom_function_draws_from_seeded_global_generators() -> None:
    def custom(config: dict[str, Any]) -> dict[str, Any]:
        return {**config, "x": random.random()}

    assert moved({}, {}, 1, custom_explore_fn=custom) == moved({}, {}, 1, custom_explore_fn=custom)
    assert moved({}, {}, 1, custom_explore_fn=custom) != moved({}, {}, 2, custom_explore_fn=custom)
