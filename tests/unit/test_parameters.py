"""Trainables that get large objects: which calls are possible, and what the trainable looks like afterwards."""

from __future__ import annotations

import functools
import inspect
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import pytest

from shoal import objects, tune
from shoal.errors import ConfigError
from shoal.objects import free_all, put
from shoal.parameters import with_parameters
from shoal.resources import Request, resources_of


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    free_all()


def train(config: dict[str, Any], data: Any, *, scale: float = 1.0) -> tuple[dict[str, Any], Any, float]:
    """Train on data."""
    return config, data, scale


class Trainer:
    """A class whose instances are trained."""

    def setup(self, config: dict[str, Any], data: Any = None, scale: float = 1.0) -> None:
        self.given = (config, data, scale)


def test_a_function_gets_its_objects_beside_the_config() -> None:
    data = [1, 2]
    given = with_parameters(train, data=data, scale=3.0)
    config, found, scale = given({"lr": 1})
    assert (config, found, scale) == ({"lr": 1}, data, 3.0)
    assert found is not data
    assert given({})[1] is found


def test_a_default_stays_where_nothing_is_given() -> None:
    assert with_parameters(train, data=1)({}) == ({}, 1, 1.0)


def test_the_function_keeps_its_name_and_takes_the_config_alone() -> None:
    given = with_parameters(train, data=1)
    assert given.__name__ == "train"
    assert given.__doc__ == "Train on data."
    assert given.__module__ == __name__
    assert given.__wrapped__ is train  # type: ignore[attr-defined] # pyright: ignore[reportFunctionMemberAccess]
    assert list(inspect.signature(given).parameters) == ["config"]
    assert list(inspect.signature(tune.with_resources(given, {"cpu": 2})).parameters) == ["config"]
    tune.Tuner(given)


def test_every_wrapper_leads_straight_to_the_function() -> None:
    for given in (
        tune.with_resources(with_parameters(train, data=1), {"cpu": 2}),
        with_parameters(tune.with_resources(train, {"cpu": 2}), data=1),
    ):
        assert given.__wrapped__ is train  # type: ignore[attr-defined] # pyright: ignore[reportFunctionMemberAccess]


def test_the_objects_travel_as_references() -> None:
    given = with_parameters(train, data=bytes(1_000_000), scale=0.5)
    data = cloudpickle.dumps(given)
    assert len(data) < 10_000
    assert pickle.loads(data)({}) == ({}, bytes(1_000_000), 0.5)


def test_each_object_is_stored_once_and_none_where_the_call_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[Any] = []

    def store(obj: Any) -> Any:
        stored.append(obj)
        return put(obj)

    monkeypatch.setattr("shoal.parameters.put", store)
    with pytest.raises(ConfigError):
        with_parameters(train, data=1, wrong=2)
    assert stored == []
    given = with_parameters(train, data=[1], scale=2.0)
    given({})
    given({})
    assert stored == [[1], 2.0]


def test_a_reference_is_taken_as_it_is() -> None:
    ref = put([1, 2, 3])
    given = with_parameters(train, data=ref)
    assert given({})[1] is objects.get(ref)


def with_everything(config: dict[str, Any], **others: Any) -> dict[str, Any]:
    return others


class CallableObject:
    def __call__(self, config: dict[str, Any], data: Any) -> Any:
        return data

    def method(self, config: dict[str, Any], data: Any) -> Any:
        return data


@pytest.mark.parametrize(
    "trainable",
    [
        CallableObject(),
        CallableObject().method,
        functools.partial(lambda extra, config, data: data, 1),
        lambda config, data: data,
        lambda config, /, *, data: data,
        lambda *args, data: data,
    ],
)
def test_whatever_can_be_called_so_is_a_trainable(trainable: Callable[..., Any]) -> None:
    given = with_parameters(trainable, data=5)
    assert given({}) == 5
    tune.Tuner(given)
    tune.Tuner(tune.with_resources(given, {"cpu": 1}))


def test_a_function_that_takes_any_keyword_takes_any_object() -> None:
    assert with_parameters(with_everything, a=1, b=2)({}) == {"a": 1, "b": 2}
    assert with_parameters(with_everything)({}) == {}


@pytest.mark.parametrize("first", ["resources", "parameters"])
def test_resources_stay_in_either_order(first: str) -> None:
    trainables: list[Any] = [train, Trainer]
    for trainable in trainables:
        if first == "resources":
            given = with_parameters(tune.with_resources(trainable, {"cpu": 2, "gpu": 1}), data=[1])
        else:
            given = tune.with_resources(with_parameters(trainable, data=[1]), {"cpu": 2, "gpu": 1})
        assert resources_of(given) == Request(2.0, 1.0)
        assert resources_of(trainable) == Request(1.0, 0.0)
        if isinstance(given, type):
            trainer = given()
            trainer.setup({"lr": 1})
            assert trainer.given == ({"lr": 1}, [1], 1.0)
        else:
            assert given({}) == ({}, [1], 1.0)


def test_a_class_becomes_a_subclass_of_the_same_name_whose_setup_gets_the_objects() -> None:
    given = with_parameters(Trainer, data=[1], scale=2.0)
    assert issubclass(given, Trainer)
    assert given is not Trainer
    assert (given.__name__, given.__qualname__, given.__module__) == ("Trainer", "Trainer", __name__)
    assert given.__doc__ == Trainer.__doc__
    trainer = given()
    trainer.setup({"lr": 1})
    assert trainer.given == ({"lr": 1}, [1], 2.0)
    plain = Trainer()
    plain.setup({})
    assert plain.given == ({}, None, 1.0)
    assert list(inspect.signature(given.setup).parameters) == ["self", "config"]


def test_a_class_with_objects_travels() -> None:
    trainer = pickle.loads(cloudpickle.dumps(with_parameters(Trainer, data="data")))()
    trainer.setup({})
    assert trainer.given == ({}, "data", 1.0)


def needs_more(config: dict[str, Any], images: Any, labels: Any, rate: float = 0.1) -> None: ...


def without_config() -> None: ...


def too_many(config: Any, more: Any, /, data: Any) -> None: ...


class WithoutSetup: ...


@pytest.mark.parametrize(
    ("trainable", "given", "expected"),
    [
        (5, {}, "must be a function or a class, but is 5"),
        (needs_more, {"image": 1, "labels": 2}, "needs_more has no parameter 'image'. Did you mean 'images'?"),
        (needs_more, {"images": 1, "labels": 2, "x": 3}, "It takes, after config: images, labels, rate."),
        (needs_more, {"config": 1, "images": 1, "labels": 2}, "in its parameter 'config'"),
        (without_config, {}, "without_config cannot be called with config: too many positional arguments"),
        (without_config, {"data": 1}, "without_config has no parameter 'data'. It takes, after config: nothing."),
        (too_many, {"data": 1}, "too_many cannot be called with config, data: missing a required"),
        (WithoutSetup, {"data": 1}, "the class WithoutSetup has no method setup(self, config, ...)"),
        (Trainer, {"dat": 1}, "Trainer.setup has no parameter 'dat'. Did you mean 'data'?"),
        (Trainer, {"self": 1}, "in its parameter 'self'"),
    ],
)
def test_a_call_that_is_not_possible_is_an_error_that_names_what_is_wrong(
    trainable: Any, given: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        with_parameters(trainable, **given)


# --------------------------------------------------------------------------------------------------- more than one call


def collect(config: dict[str, Any], a: Any, b: Any, c: Any = "c", *, d: Any = "d") -> tuple[Any, ...]:
    return (a, b, c, d)


class Collector(tune.Trainable):
    def setup(self, config: dict[str, Any], a: Any = None, b: Any = None, c: Any = "c") -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.given = (a, b, c)

    def step(self) -> dict[str, Any]:
        return {}


def keep(trainable: Any) -> Any:
    return trainable


def on_two_cpus(trainable: Any) -> Any:
    return tune.with_resources(trainable, {"cpu": 2})


@pytest.mark.parametrize("between", [keep, on_two_cpus])
def test_a_further_call_gives_what_remains(between: Callable[[Any], Any]) -> None:
    given = with_parameters(between(with_parameters(collect, a=1)), b=2)
    assert given({}) == (1, 2, "c", "d")
    assert with_parameters(between(given), d=4)({}) == (1, 2, "c", 4)
    assert given({}) == (1, 2, "c", "d")
    assert given.__wrapped__ is collect
    assert list(inspect.signature(given).parameters) == ["config"]
    assert resources_of(given) == (Request(2.0) if between is on_two_cpus else Request())
    assert pickle.loads(cloudpickle.dumps(given))({}) == (1, 2, "c", "d")
    tune.Tuner(given)


@pytest.mark.parametrize("between", [keep, on_two_cpus])
def test_a_class_is_given_what_remains_too(between: Callable[[Any], Any]) -> None:
    given = with_parameters(between(with_parameters(Collector, a=1)), b=[2])
    again = with_parameters(given, c=3)
    assert given({}).given == (1, [2], "c")
    assert again({}).given == (1, [2], 3)
    assert pickle.loads(cloudpickle.dumps(again))({}).given == (1, [2], 3)
    assert (again.__name__, list(inspect.signature(again.setup).parameters)) == ("Collector", ["self", "config"])
    assert resources_of(again) == (Request(2.0) if between is on_two_cpus else Request())


def test_of_two_objects_for_one_parameter_the_outer_counts() -> None:
    inner = with_parameters(collect, a=1, b=1)
    assert with_parameters(inner, b=2)({}) == (1, 2, "c", "d")
    assert inner({}) == (1, 1, "c", "d")
    assert with_parameters(with_parameters(Collector, a=1), a=2)({}).given == (2, None, "c")


def test_a_function_of_any_keywords_takes_more_each_time() -> None:
    assert with_parameters(with_parameters(with_everything, a=1), b=2)({}) == {"a": 1, "b": 2}


def test_a_further_call_is_checked_as_the_first() -> None:
    inner = with_parameters(needs_more, images=1)
    with pytest.raises(
        ConfigError, match=r"no parameter 'lables'\. Did you mean 'labels'\? It takes, after config: im"
    ):
        with_parameters(inner, lables=2)
    with pytest.raises(ConfigError, match="in its parameter 'config'"):
        with_parameters(inner, config=2)
    with pytest.raises(ConfigError, match=r"Collector\.setup has no parameter 'e'"):
        with_parameters(with_parameters(Collector, a=1), e=2)


def test_what_is_still_missing_is_shown_and_refused_by_the_tuner() -> None:
    inner = with_parameters(needs_more, images=1)
    assert list(inspect.signature(inner).parameters) == ["config", "labels"]
    with pytest.raises(ConfigError, match=r"but needs_more does not: missing a required .*'labels'"):
        tune.Tuner(inner)
    tune.Tuner(with_parameters(inner, labels=2))


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("not me")


def test_the_functions_own_defaults_do_not_travel_with_the_wrapper() -> None:
    assert pickle.loads(cloudpickle.dumps(with_parameters(odd_default, a=1)))({}) == 1


def odd_default(config: dict[str, Any], a: Any, b: Any = Unpicklable()) -> Any:  # noqa: B008
    return a


def iter_nothing() -> Iterator[None]:
    yield


def test_an_object_that_cannot_be_pickled_is_an_error() -> None:
    with pytest.raises(ConfigError, match="cannot be pickled"):
        with_parameters(train, data=iter_nothing())
