"""What calls were given: misspelled arguments, those that were given at all, and the line that a warning names."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from shoal import tune
from shoal.arguments import check_arguments, check_keywords, given_arguments
from shoal.as_ray import settings
from shoal.errors import ConfigError
from shoal.reporters import CLIReporter, JupyterNotebookReporter
from shoal.stoppers import MaximumIterationStopper, TrialPlateauStopper
from shoal.tune.schedulers import PopulationBasedTraining

wrong: Any = tune
"""The same, for what a type checker refuses."""


# ------------------------------------------------------------------------------------------------------------- methods


class Shop:
    @classmethod
    @check_keywords
    def open(cls, door: str = "front") -> str:
        return door

    @check_keywords
    def sell(self, item: str) -> str:
        return item


@check_keywords
def visit(cls: str, day: str = "friday") -> str:
    return cls + day


def test_a_method_is_named_with_its_class_and_without_what_nobody_passes() -> None:
    shop: Any = Shop
    with pytest.raises(
        ConfigError, match=r"^Shop\.open has no argument 'dor'\. Did you mean 'door'\? It takes: door\."
    ):
        shop.open(dor="back")
    with pytest.raises(ConfigError, match=r"^Shop\.sell has no argument 'self_'\. It takes: item\."):
        shop().sell(self_=1)
    assert (Shop.open("back"), Shop().sell(item="nut")) == ("back", "nut")


def test_restoring_names_itself_and_what_it_takes() -> None:
    with pytest.raises(ConfigError) as error:
        wrong.Tuner.restore("folder", resume_error=True)
    told = str(error.value)
    assert told.startswith(
        "Tuner.restore has no argument 'resume_error'. Did you mean 'resume_errored'? It takes: path,"
    )
    assert "cls" not in told


def test_a_function_keeps_its_plain_name_and_all_its_arguments() -> None:
    @check_keywords
    def inner(a: int = 1) -> int:
        return a

    with pytest.raises(ConfigError, match=r"^visit has no argument 'dy'\. Did you mean 'day'\? It takes: cls, day\."):
        visit("x", dy="monday")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigError, match=r"^inner has no argument 'b'"):
        inner(b=1)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    assert visit(cls="x") == "xfriday"


# --------------------------------------------------------------------------------------------------- what was given


@pytest.mark.parametrize(
    ("made", "given"),
    [
        (tune.RunConfig(), set[str]()),
        (tune.RunConfig("exp", verbose=1), {"name", "verbose"}),
        (tune.TuneConfig(num_samples=1, metric=None), {"num_samples", "metric"}),
        (tune.CheckpointConfig(None), {"num_to_keep"}),
        (tune.FailureConfig(max_failures=2), {"max_failures"}),
        (tune.PlacementGroupFactory([{"CPU": 1}]), {"bundles"}),
        (
            PopulationBasedTraining("training_iteration", quantile_fraction=0.25, hyperparam_mutations={"lr": [1, 2]}),
            {"time_attr", "quantile_fraction", "hyperparam_mutations"},
        ),
        (CLIReporter(["loss"], max_error_rows=20), {"metric_columns", "max_error_rows"}),
    ],
)
def test_an_object_knows_which_arguments_it_was_given(made: Any, given: set[str]) -> None:
    assert given_arguments(made) == given
    for again in (
        copy.copy(made),
        copy.deepcopy(made),
        pickle.loads(pickle.dumps(made)),
        pickle.loads(cloudpickle.dumps(made)),
    ):
        assert given_arguments(again) == given


def test_what_is_no_such_object_was_given_nothing() -> None:
    assert given_arguments(3) == given_arguments(None) == given_arguments(object()) == frozenset()


def test_what_was_given_is_not_part_of_the_object() -> None:
    plain, explicit = tune.RunConfig(), tune.RunConfig(verbose=1)
    assert plain == explicit
    assert repr(plain) == repr(explicit)
    assert dataclasses.asdict(plain) == dataclasses.asdict(explicit)
    placed = tune.PlacementGroupFactory(({"CPU": 1},), "PACK")
    assert placed == tune.PlacementGroupFactory(({"CPU": 1},))
    assert "given" not in repr(placed)


def test_a_replacement_gives_what_is_not_at_its_default_and_leaves_the_first_as_it_was() -> None:
    first = tune.RunConfig(verbose=1)
    assert given_arguments(dataclasses.replace(first, verbose=2, name="a")) == {"name", "verbose"}
    assert given_arguments(dataclasses.replace(first, log_to_file=True)) == frozenset()
    assert given_arguments(first) == {"verbose"}


def test_a_value_that_is_set_later_is_not_given() -> None:
    config = tune.RunConfig()
    config.verbose = 2
    assert given_arguments(config) == frozenset()


def test_what_a_subclass_passes_on_counts_where_it_is_no_default() -> None:
    assert given_arguments(settings.RunConfig()) == frozenset()
    assert given_arguments(settings.RunConfig("exp", verbose=2, local_dir="/tmp/x")) == {
        "name",
        "storage_path",
        "verbose",
    }
    assert given_arguments(settings.TuneConfig("loss", num_samples=1)) == {"metric"}
    assert given_arguments(settings.TuneConfig(num_samples=3, seed=4)) == {"num_samples", "seed"}
    assert given_arguments(JupyterNotebookReporter(True, metric_columns=["loss"])) == {"metric_columns"}


def test_a_subclass_without_an_init_of_its_own_is_given_what_its_user_passes() -> None:
    class Mine(tune.RunConfig):
        pass

    assert given_arguments(Mine(verbose=1)) == {"verbose"}


def test_values_without_a_plain_comparison_differ_from_the_default() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise AssertionError

    @check_arguments
    class Base:
        def __init__(self, value: Any = None, other: Any = 1, third: Any = 1) -> None:
            self.value = value

    class Derived(Base):
        def __init__(self) -> None:
            super().__init__(Odd(), third=True)

    assert given_arguments(Derived()) == {"value", "third"}


def test_an_object_that_takes_no_attributes_remembers_nothing() -> None:
    @check_arguments
    @dataclasses.dataclass(frozen=True, slots=True)
    class Slotted:
        x: int = 1

    assert given_arguments(Slotted(x=2)) == frozenset()
    with pytest.raises(ConfigError, match="Slotted has no argument 'y'"):
        Slotted(y=1)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


def test_the_pickle_of_a_stopper_tells_only_what_it_is() -> None:
    """Whether a stopper is a new one is told by its pickle, also beside one of an older Shoal."""
    assert pickle.dumps(TrialPlateauStopper("loss")) == pickle.dumps(TrialPlateauStopper(metric="loss", std=0.01))
    assert given_arguments(MaximumIterationStopper(3)) == frozenset()
    assert set(vars(MaximumIterationStopper(3))) == set(vars(MaximumIterationStopper(max_iter=3)))


# --------------------------------------------------------------------------------------------------------- whose line


class Silly(CLIReporter):
    def report(self, trials: list[Any], done: bool, *sys_info: Any) -> None: ...


def line_after(text: str) -> int:
    """Return the number of the line of this file that has this text, here as a comment."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if re.search(rf"# {text}$", line))


def test_a_warning_names_the_users_line(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"Silly\.report is never called") as told:
        settings.RunConfig(progress_reporter=Silly())  # the settings
    assert [(each.filename, each.lineno) for each in told] == [(__file__, line_after("the settings"))]

    class Mine(settings.RunConfig):
        def __init__(self) -> None:
            super().__init__(progress_reporter=Silly())  # a subclass

    with pytest.warns(UserWarning, match=r"Silly\.report is never called") as told:
        Mine()
    assert [(each.filename, each.lineno) for each in told] == [(__file__, line_after("a subclass"))]
    with pytest.warns(UserWarning, match=r"tune.run: Silly\.report") as told, pytest.raises(ConfigError):
        tune.run("nobody registered this", progress_reporter=Silly())  # the run
    assert [(each.filename, each.lineno) for each in told] == [(__file__, line_after("the run"))]


def test_a_misspelled_hook_is_told_at_the_users_line(tmp_path: Path) -> None:
    class Misspelled(tune.Callback):
        def on_trail_result(self, **info: Any) -> None: ...

    def train(config: dict[str, Any]) -> None:
        tune.report({"score": 1})

    run = tune.RunConfig("exp", tmp_path, callbacks=[Misspelled()], verbose=0)
    tuner = tune.Tuner(train, tune_config=tune.TuneConfig(engine="inline"), run_config=run)
    with pytest.warns(UserWarning, match="did you mean 'on_trial_result'") as told:
        tuner.fit()  # the fit
    assert [(each.filename, each.lineno) for each in told] == [(__file__, line_after("the fit"))]


def test_the_signatures_stay() -> None:
    assert list(inspect.signature(tune.RunConfig).parameters)[:2] == ["name", "storage_path"]
    assert list(inspect.signature(Shop.open).parameters) == ["door"]
