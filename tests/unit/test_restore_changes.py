"""Going on with an experiment under changed circumstances: configs, stop conditions, budgets, names."""

from __future__ import annotations

import contextlib
import json
import textwrap
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import climb, items, load_state, pbt, report_state, run_script
from tests.unit.test_restore import numbers, opened, records, restore, run, steps

import shoal
from shoal import tune
from shoal.config import CheckpointConfig, FailureConfig, RunConfig, TuneConfig
from shoal.core.commands import Launch, Status, Stop
from shoal.core.events import Failed, Opened, StopAsked
from shoal.core.limits import RetentionRules
from shoal.errors import ConfigError
from shoal.journal.sqlite import SQLiteJournal
from shoal.location import Location
from shoal.settings import stored_settings


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_ENGINE", "inline")


def test_a_finished_experiment_returns_its_results_and_nothing_is_written(tmp_path: Path) -> None:
    folder = run(tmp_path, scheduler=pbt(), num_samples=4)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.parent != folder}
    before = records(folder)
    calls: list[int] = []

    def never(config: dict[str, Any]) -> None:
        calls.append(1)

    never.__name__ = "climb"
    grid = restore(folder, never)
    assert steps(grid) == [5, 5, 5, 5]
    assert calls == []
    assert records(folder) == before
    assert {path: path.read_bytes() for path in files} == files


def test_the_trainables_name_is_compared(tmp_path: Path) -> None:
    def other(config: dict[str, Any]) -> None:
        climb(config)

    folder = run(tmp_path)
    with pytest.warns(UserWarning, match=r"started with 'climb' and goes on with 'other'.*must mean the same") as told:
        grid = restore(folder, other, run_config=RunConfig(stop={"training_iteration": 7}))
    assert [Path(warning.filename).name for warning in told] == ["test_restore.py"]
    assert steps(grid) == [7, 7]


class Ref:
    """Like a reference to an object in a store: equal to itself only, as it comes back from a journal."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Ref({self.name})"


def shows_config(config: dict[str, Any]) -> None:
    step, score = load_state() or (0, 0.0)
    while True:
        step += 1
        shown = {key: repr(value) for key, value in config.items()}
        report_state(step, score, {"score": config["lr"], "shown": shown}, save=True)


def test_constants_of_the_space_replace_those_of_the_trials(tmp_path: Path) -> None:
    scheduler = pbt(
        hyperparam_mutations={"lr": tune.uniform(0, 1), "opt": {"eps": tune.uniform(0, 1)}}, quantile_fraction=0.5
    )

    def space(name: str, epochs: int) -> dict[str, Any]:
        return {
            "lr": 0.5, "sampled": tune.uniform(0, 1), "grid": tune.grid_search([1, 2]), "data": Ref(name),
            "opt": {"eps": 0.1, "data": Ref(name), "drawn": tune.choice([1, 2]), "deep": {"epochs": epochs}},
            "list": [Ref(name), 1], "epochs": epochs, "same": "same",
        }  # fmt: skip

    folder = run(tmp_path, trainable=shows_config, scheduler=scheduler, space=space("old", 3))
    before = tune.ResultGrid.read(folder)
    longer = RunConfig(stop={"training_iteration": 11})
    given = {**space("new", 4), "sampled": 7.0, "lr": 9.0, "same": tune.choice(["same"])}
    with pytest.warns(UserWarning, match="has no effect") as warned:
        grid = restore(folder, shows_config, run_config=longer, param_space=given)
    assert [str(one.message) for one in warned] == [
        "Tuner.restore: param_space['lr'] is 9.0 now, but was sampled or mutates. It has no effect: the trials keep "
        "what they have.",
        "Tuner.restore: param_space['sampled'] is 7.0 now, but was sampled or mutates. It has no effect: the trials "
        "keep what they have.",
        "Tuner.restore: param_space['same'] is sampled now, but was 'same'. It has no effect: the trials keep what "
        "they have.",
    ]
    assert {one.filename for one in warned} == {restore.__code__.co_filename}
    values = opened(grid).config
    assert set(values) == {"data", "opt", "list", "epochs"}, "what was sampled or mutates stays"
    assert set(values["opt"]) == {"data", "deep"}
    assert values["epochs"] == values["opt"]["deep"]["epochs"] == 4
    for old, new in zip(before, grid, strict=True):
        shown = new.metrics["shown"]
        assert shown["data"] == "Ref(new)"
        assert shown["list"] == "[Ref(new), 1]"
        assert "'data': Ref(new)" in shown["opt"]
        assert "'epochs': 4" in shown["opt"]
        assert shown["epochs"] == "4"
        assert shown["same"] == "'same'"
        assert shown["sampled"] != "7.0", "what was sampled stays"
        assert new.config["grid"] == old.config["grid"]
        assert 0 <= new.config["lr"] <= 1, "mutated keys stay"
        assert new.config["opt"]["drawn"] in (1, 2)
        assert 0 <= new.config["opt"]["eps"] <= 1
        assert set(new.config) == set(old.config)
        assert json.loads(Path(new.path, "result.json").read_text().splitlines()[-1])["config"]["epochs"] == 4


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            {"epoch": 4},
            r"has 'epoch', which the trials' configs lack\. Did you mean 'epochs'\? They have: 'lr', 'epochs', ",
        ),
        ({"opt": {"name": "sgd", "eps": 1}}, r"has 'opt/eps', which .* They have: 'opt/name'"),
        ({"epochs": 4, "new": tune.uniform(0, 1)}, "has 'new', which"),
    ],
)
def test_a_value_that_no_config_has_is_refused(space: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = run(tmp_path, space={"lr": tune.uniform(0, 1), "epochs": 3, "opt": {"name": "adam"}})
    with pytest.raises(ConfigError, match=said):
        restore(folder, run_config=RunConfig(stop={"training_iteration": 9}), param_space=space)


def test_a_choice_of_dicts_may_be_given_again(tmp_path: Path) -> None:
    space = {"lr": 0.5, "opt": tune.choice([{"name": "sgd", "lr": tune.uniform(0, 1)}])}
    folder = run(tmp_path, space=space)
    assert steps(restore(folder, run_config=RunConfig(stop={"training_iteration": 9}), param_space=space)) == [9, 9]


def test_a_reference_whose_object_is_gone_is_named_before_anything_starts(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        step, _ = load_state() or (0, 0.0)
        while True:
            step += 1
            report_state(step, 0.0, {"score": float(sum(shoal.get(config["data"]["train"])))}, save=True)

    folder = run(tmp_path, trainable=train, space={"data": {"train": shoal.put([1, 2])}}, metric="score", mode="max")
    longer = RunConfig(stop={"training_iteration": 9})
    shoal.shutdown()
    before = records(folder)
    with pytest.raises(
        ConfigError, match=r"config\['data/train'\] refers to, ObjectRef\(.*\), is gone: .*param_space="
    ):
        restore(folder, train, run_config=longer)
    assert records(folder) == before
    (result, _) = restore(folder, train, run_config=longer, param_space={"data": {"train": shoal.put([3, 4])}})
    assert result.metrics["score"] == 7.0
    # Nobody goes on, so nobody needs it.
    shoal.shutdown()
    assert steps(restore(folder, train)) == [9, 9]


def test_a_value_can_be_changed_and_changed_back(tmp_path: Path) -> None:
    folder = run(tmp_path, trainable=shows_config, space={"lr": 0.5, "epochs": 3})
    for length, epochs, expected in ((6, None, 3), (7, 4, 4), (8, None, 4), (9, 4, 4), (10, 3, 3), (11, 5, 5)):
        grid = restore(
            folder, shows_config, run_config=RunConfig(stop={"training_iteration": length}),
            param_space=None if epochs is None else {"lr": 0.5, "epochs": epochs},
        )  # fmt: skip
        assert {result.metrics["shown"]["epochs"] for result in grid} == {str(expected)}, length
        assert [event.config for event in items(grid, Opened)][-1] in ({}, {"epochs": expected})


def test_what_a_function_of_the_user_has_changed_stays_where_the_space_is_as_it_was(tmp_path: Path) -> None:
    def explore(config: dict[str, Any]) -> dict[str, Any]:
        return {**config, "epochs": config["epochs"] + 1}

    scheduler = pbt(perturbation_interval=1, quantile_fraction=0.5, synch=True, custom_explore_fn=explore)
    space = {"lr": tune.uniform(0, 1), "epochs": 3}
    folder = run(tmp_path, trainable=shows_config, space=space, scheduler=scheduler)
    before = max(result.config["epochs"] for result in tune.ResultGrid.read(folder))
    assert before > 3
    grid = restore(folder, shows_config, param_space=space, run_config=RunConfig(stop={"training_iteration": 8}))
    assert opened(grid).config == {}
    assert max(result.config["epochs"] for result in grid) >= before


def test_a_value_that_cannot_be_written_down_is_refused_before_anything_starts(tmp_path: Path) -> None:
    folder = run(tmp_path, space={"lr": 0.5, "data": 1})
    before = records(folder)
    with pytest.raises(ConfigError, match=r"param_space\['data'\] .*cannot be pickled"):
        restore(folder, param_space={"data": threading.Lock()}, run_config=RunConfig(stop={"training_iteration": 9}))
    assert records(folder) == before


def finite(config: dict[str, Any]) -> None:
    """0 returns after three steps, 1 fails at its fourth, 2 says there that it is done, 3 returns after nine."""
    number = int(tune.get_context().get_trial_id()[-5:])
    step, _ = load_state() or (0, 0.0)
    while True:
        step += 1
        if (number == 0 and step > 3) or (number == 3 and step > 9):
            return
        if number == 1 and step == 4:
            raise RuntimeError("no")
        report_state(step, 0.0, {"score": 0.0, "done": number == 2 and step == 4}, save=True)


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (None, []),
        ({"training_iteration": 5}, []),
        ({"training_iteration": 4}, []),
        ({"training_iteration": 8}, [3]),
        ({"score": 1.0}, None),
        (lambda trial_id, result: result["training_iteration"] >= 8, [3]),
        (lambda trial_id, result: result["training_iteration"] >= 5, []),
        (tune.stopper.MaximumIterationStopper(8), [3]),
        (tune.stopper.MaximumIterationStopper(5), []),
    ],
)
def test_a_new_stop_condition_takes_those_along_that_do_not_meet_it(
    stop: Any, expected: list[int] | None, tmp_path: Path
) -> None:
    folder = run(tmp_path, trainable=finite, num_samples=4)
    assert steps(tune.ResultGrid.read(folder)) == [3, 3, 4, 5]
    if expected is None:
        # Nobody ever meets this one: somebody else has to end it.
        config = TuneConfig(time_budget_s=0.01)
        grid = restore(folder, finite, run_config=RunConfig(stop=stop), tune_config=config)
        assert numbers(opened(grid).again) == [3]
        return
    grid = restore(folder, finite, run_config=RunConfig(stop=stop) if stop else None)
    assert steps(grid) == [3, 3, 4, 8 if expected else 5]
    assert [numbers(event.again) for event in items(grid, Opened)] == [[], *([expected] if expected else [])]


class Twice(tune.Stopper):
    """Ends a trial that it has seen twice: a stopper with a memory, which does not outlive its process."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.seen.append(trial_id)
        return self.seen.count(trial_id) >= 2

    def stop_all(self) -> bool:
        return False


def test_the_same_stopper_given_again_is_no_new_stop_condition(tmp_path: Path) -> None:
    folder = run(tmp_path, stop=Twice())
    assert steps(tune.ResultGrid.read(folder)) == [2, 2]
    with pytest.warns(UserWarning, match="2 of 2 trials have finished by their stopper and stay so, because .* same"):
        assert steps(restore(folder, run_config=RunConfig(stop=Twice()))) == [2, 2]
    assert steps(restore(folder)) == [2, 2]


def test_the_stopper_of_a_script_is_the_same_in_each_of_its_runs(tmp_path: Path) -> None:
    script = f"""
        from shoal import tune
        from tests.helpers import climb

        class Often(tune.Stopper):
            def __init__(self, times, key=lambda result: result["step"]):
                self.times, self.key, self.seen = times, key, {{}}
            def __call__(self, trial_id, result):
                self.seen[trial_id] = self.seen.get(trial_id, 0) + 1
                return self.seen[trial_id] >= self.times
            def stop_all(self):
                return False

        if __name__ == "__main__":
            for stop, resume in ((Often(2), None), (Often(2), True), (Often(3), True)):
                found = tune.run(
                    climb, name="run", storage_path={str(tmp_path)!r}, config={{"every": 1, "lr": 1.0}},
                    metric="score", mode="max",
                    stop=tune.stopper.CombinedStopper(stop, tune.stopper.TimeoutStopper(1000)), resume=resume,
                    engine="inline", verbose=0,
                )
                print([result["training_iteration"] for result in found.results.values()])
    """
    for expected in ("[2]\n[2]\n[5]\n", "[5]\n"):
        ran = run_script(textwrap.dedent(script), tmp_path, PYTHONPATH=str(Path(__file__).parents[2]))
        assert ran.stdout == expected, ran.stderr
        assert "trials have finished by their stopper and stay so" in ran.stderr
        script = script.replace("((Often(2), None), (Often(2), True), (Often(3), True))", "((Often(3), True),)")


class Enough:
    """A stopper that ends all when there have been so many results."""

    def __init__(self, results: int) -> None:
        self.left = results

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.left -= 1
        return False

    def stop_all(self) -> bool:
        return self.left <= 0


def test_what_a_stopper_for_all_has_ended_has_finished_until_another_one_is_given(tmp_path: Path) -> None:
    folder = run(tmp_path, stop=Enough(7), num_samples=3, max_concurrent_trials=1)
    grid = tune.ResultGrid.read(folder)
    assert items(grid, StopAsked)[-1].met == "stop"
    before = records(folder)
    for same in (None, RunConfig(verbose=0)):
        restore(folder, run_config=same)
        assert records(folder) == before
    with pytest.warns(UserWarning, match="stay so, because the one that is given is the same"):
        restore(folder, run_config=RunConfig(stop=Enough(7)))
    assert records(folder) == before
    # Also with another budget: it was not the budget that ended it.
    with pytest.warns(UserWarning, match=r"3 of 3 trials have finished by stop and stay so\. To .* RunConfig\(stop="):
        restore(folder, tune_config=TuneConfig(time_budget_s=1000))
    assert records(folder) == before
    assert steps(restore(folder, run_config=RunConfig(stop={"training_iteration": 9}))) == [9, 9, 9]


def test_what_the_time_budget_has_ended_has_finished_until_one_is_given(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        step, score = load_state() or (0, 0.0)
        while True:
            step += 1
            report_state(step, score, {"score": score}, save=True)

    folder = run(tmp_path, trainable=train, stop={"score": 1.0}, time_budget_s=0.05)
    grid = tune.ResultGrid.read(folder)
    reached = [result.metrics.get("training_iteration", 0) for result in grid]  # one may not have begun
    assert items(grid, StopAsked)[-1].met == "time_budget_s"
    before = records(folder)
    restore(folder, train)
    ended = RunConfig(stop={"training_iteration": max(reached) + 1})
    with pytest.warns(UserWarning, match=r"finished by time_budget_s .*, give TuneConfig\(time_budget_s=\.\.\.\), too"):
        restore(folder, train, run_config=ended)
    assert records(folder) == before
    grid = restore(folder, train, run_config=ended, tune_config=TuneConfig(time_budget_s=None))
    assert steps(grid) == [max(reached) + 1] * len(reached)


def test_what_an_interruption_has_ended_goes_on(tmp_path: Path) -> None:
    def interrupt(trial_id: str, result: dict[str, Any]) -> bool:
        if result["training_iteration"] == 3:
            raise SystemExit("the user's code has called sys.exit")
        return False

    with pytest.raises(SystemExit):
        run(tmp_path, stop=interrupt, space={"lr": 1.0, "every": 1})
    folder = tmp_path / "run"
    grid = tune.ResultGrid.read(folder)
    assert items(grid, StopAsked)[-1].met is None
    assert steps(restore(folder, run_config=RunConfig(stop={"training_iteration": 5}))) == [5, 5]


def test_trials_without_a_checkpoint_are_said_to_begin_from_scratch(tmp_path: Path) -> None:
    folder = run(tmp_path, space={"lr": 1.0, "every": 100}, num_samples=3)
    with pytest.warns(
        UserWarning, match=r"3 of 3 trials \(.*_00000, .*_00001, .*_00002\) have no checkpoint and begin"
    ) as warned:
        grid = restore(folder, run_config=RunConfig(stop={"training_iteration": 7}))
    assert [one.filename for one in warned] == [restore.__code__.co_filename]
    assert steps(grid) == [7, 7, 7]


def test_settings_can_be_set_back_to_their_default(tmp_path: Path) -> None:
    folder = run(
        tmp_path, stop=lambda trial_id, result: result["training_iteration"] >= 5, max_concurrent_trials=1,
        run={"callbacks": [tune.Callback()], "failure_config": FailureConfig(2)},
    )  # fmt: skip
    back = RunConfig(stop={"training_iteration": 7}, callbacks=None, failure_config=None)
    restore(folder, run_config=back, tune_config=TuneConfig(max_concurrent_trials=None))
    (_, second) = items(tune.ResultGrid.read(folder), Opened)
    assert second.limits.max_failures == 0
    with contextlib.closing(SQLiteJournal.open_for_reading(folder)) as journal:
        tune_config, run_config = stored_settings(journal.meta(), Location(folder), None, None)
    assert (tune_config.max_concurrent_trials, run_config.callbacks) == (None, None)
    assert run_config.stop == {"training_iteration": 7}


def test_without_a_stop_condition_those_that_the_old_one_ended_train_until_they_return(tmp_path: Path) -> None:
    folder = run(tmp_path, trainable=finite, num_samples=4)
    assert steps(tune.ResultGrid.read(folder)) == [3, 3, 4, 5]
    assert steps(restore(folder, finite, run_config=RunConfig(stop=None))) == [3, 3, 4, 9]


def test_settings_with_which_nothing_could_be_started_are_not_kept(tmp_path: Path) -> None:
    folder = run(tmp_path)
    before = records(folder)
    for stop in ({"training_iteration": 7}, tune.stopper.MaximumIterationStopper(7)):
        for _ in range(2):
            with pytest.raises(ConfigError, match="no callback"):
                restore(folder, run_config=RunConfig(stop=stop, callbacks=["no callback"]))
        assert records(folder) == before
    assert steps(restore(folder, run_config=RunConfig(stop=stop))) == [7, 7]


def test_the_name_of_the_experiment_is_that_of_its_folder(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        tune.report({"score": 0.0, "name": tune.get_context().get_experiment_name()})

    folder = run(tmp_path, trainable=train, num_samples=1, stop={"score": 1.0})
    moved = folder.rename(tmp_path / "elsewhere")
    (result,) = restore(moved, train, restart_errored=True)
    assert result.metrics["name"] == "run"

    def fails(config: dict[str, Any]) -> None:
        raise RuntimeError("no")

    fails.__name__ = "train"
    folder = run(tmp_path / "second", trainable=fails, num_samples=1)
    moved = folder.rename(tmp_path / "moved")
    (result,) = restore(moved, train, restart_errored=True)
    assert result.metrics["name"] == "moved"
    assert tune.ResultGrid.read(moved).experiment_path == str(moved)


def test_failures_count_anew_for_those_that_go_on(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        step, _ = load_state() or (0, 0.0)
        marks = Path(tune.get_context().get_trial_dir(), "marks")
        for now in range(step + 1, 6):
            if now == 3 and not marks.exists():
                raise RuntimeError("no")
            report_state(now, 0.0, {"score": 0.0}, save=True)

    folder = run(tmp_path, trainable=train, run={"failure_config": FailureConfig(max_failures=2)})
    grid = tune.ResultGrid.read(folder)
    assert grid.num_errors == 2
    assert len(items(grid, Failed)) == 2 * 3
    grid = restore(folder, train, resume_errored=True)
    assert grid.num_errors == 2
    assert len(items(grid, Failed)) == 2 * 6
    for result in grid:
        Path(result.path, "marks").touch()
    grid = restore(folder, train, resume_errored=True)
    assert (grid.num_errors, steps(grid)) == (0, [5, 5])
    assert [result.error for result in grid] == [None, None]
    stops = [stop.status for stop in items(grid, Stop)]
    assert stops == [Status.ERROR] * 4 + [Status.TERMINATED] * 2


def test_each_restore_is_opened_with_what_is_set_now(tmp_path: Path) -> None:
    folder = run(tmp_path, num_samples=3, run={"checkpoint_config": CheckpointConfig(2)})
    grid = restore(
        folder,
        run_config=RunConfig(
            stop={"training_iteration": 12}, checkpoint_config=CheckpointConfig(1), failure_config=FailureConfig(4)
        ),
        tune_config=TuneConfig(max_residents=2),
    )
    assert opened(grid).retention == RetentionRules(1)
    assert (opened(grid).limits.max_failures, opened(grid).limits.residents) == (4, 2)
    # And that is kept for the next time.
    grid = restore(folder, run_config=RunConfig(stop={"training_iteration": 13}))
    assert opened(grid).retention == RetentionRules(1)
    assert (opened(grid).limits.max_failures, opened(grid).limits.residents) == (4, 2)
    assert [launch.launch for launch in items(grid, Launch)] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


SCRIPT = """
from shoal import tune
from tests.helpers import climb

LIMIT = 2

class Base(tune.Stopper):
    top = 0

    def limit(self):
        return 0

    def __call__(self, trial_id, result):
        return result["training_iteration"] >= self.top + self.limit() + LIMIT

    def stop_all(self):
        return False

class Last(Base):
    pass

found = tune.run(
    climb, name="run", config={"every": 1, "lr": 1.0}, metric="score", mode="max", stop=Last(), resume="AUTO",
    engine="inline", verbose=0,
)
print([result["training_iteration"] for result in found.results.values()])
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("LIMIT = 2", "LIMIT = 4"),
        ("top = 0", "top = 2"),
        ("return 0", "return 2"),
        ("def limit", "# same\n    def limit"),
    ],
)
def test_a_stopper_whose_class_was_edited_is_another(before: str, after: str, tmp_path: Path) -> None:
    path = str(Path(__file__).parents[2])
    ran = [run_script(text, tmp_path, PYTHONPATH=path) for text in (SCRIPT, SCRIPT.replace(before, after))]
    goes_on = "same" not in after
    assert [each.stdout for each in ran] == ["[2]\n", "[4]\n" if goes_on else "[2]\n"], ran
    assert ("because the one that is given is the same" in ran[1].stderr) is not goes_on


def test_a_stopper_that_raises_when_it_is_asked_who_goes_on_is_named(tmp_path: Path) -> None:
    folder = run(tmp_path)
    with pytest.raises(
        ConfigError, match=r"RunConfig\(stop=...\): .* raised KeyError: 'acc', when it was asked whether trial"
    ):
        restore(folder, run_config=RunConfig(stop=lambda trial_id, result: result["acc"] > 1))


def test_values_of_a_choice_among_dicts_are_said_to_have_no_effect(tmp_path: Path) -> None:
    space = {"lr": 0.5, "opt": tune.choice([{"a": 1}, {"b": 2}])}
    folder = run(tmp_path, space=space, num_samples=4)
    longer = RunConfig(stop={"training_iteration": 9})
    with pytest.warns(UserWarning, match=r"param_space\['opt'\] is \{'a': 99\} now, but was sampled"):
        restore(folder, run_config=longer, param_space={"opt": {"a": 99}})


def test_a_copy_that_was_cut_off_is_one_stretch_of_the_lineage_also_with_other_values(tmp_path: Path) -> None:
    class Interrupts(tune.Callback):
        def on_exploit(self, **info: Any) -> None:  # type: ignore[override]
            raise SystemExit

    space = {"lr": tune.uniform(0.1, 1.0), "scale": 1.0}
    settings: dict[str, Any] = {
        "scheduler": pbt(perturbation_interval=3, quantile_fraction=0.5),
        "num_samples": 4,
        "trainable": scaled,
    }
    with pytest.raises(SystemExit):
        run(tmp_path, space=space, stop={"training_iteration": 9}, run={"callbacks": [Interrupts()]}, **settings)
    for scale in (2.0, 3.0):
        last = RunConfig(stop={"training_iteration": 12}, callbacks=None if scale == 3.0 else [Interrupts()])
        with contextlib.suppress(SystemExit):
            restore(tmp_path / "run", scaled, run_config=last, param_space={"scale": scale})
    grid = tune.ResultGrid.read(tmp_path / "run")
    assert steps(grid) == [12] * 4
    for result in grid:
        assert explained(result) == pytest.approx([result.metrics["score"]] * 2)
        donors = [segment.donor_id for segment in result.lineage() if segment.steps == 0]
        assert donors == []


def scaled(config: dict[str, Any]) -> None:
    """Its score grows by ``lr * scale`` with each step, and a checkpoint comes with every third."""
    step, score = load_state() or (0, 0.0)
    while True:
        step += 1
        score += config["lr"] * config["scale"]
        report_state(step, score, {"score": score}, save=step % 3 == 0)


def explained(result: tune.Result) -> list[float]:
    """Return the score by each step of the lineage, and by each step of the schedule."""
    lineage, schedule = result.lineage(), result.schedule()
    last = lineage[-1].last_step
    configs = [schedule.at(step) for step in range(1, last + 1)]
    return [
        sum(segment.steps * segment.config["lr"] * segment.config["scale"] for segment in lineage),
        sum(config["lr"] * config["scale"] for config in configs),
    ]


@pytest.mark.parametrize("synch", [True, False])
def test_the_lineage_knows_when_values_were_replaced(synch: bool, tmp_path: Path) -> None:
    scheduler = pbt(perturbation_interval=6, synch=synch, quantile_fraction=0.5)
    space = {"lr": tune.uniform(0.1, 1.0), "scale": 1.0}
    stop = {"training_iteration": 8}
    folder = run(tmp_path, trainable=scaled, scheduler=scheduler, space=space, stop=stop, num_samples=4)
    for length, scale in ((17, 2.0), (17, 3.0), (26, 5.0), (31, 7.0)):
        longer = RunConfig(stop={"training_iteration": length})
        with warnings.catch_warnings():
            if scale == 3.0:
                warnings.filterwarnings("ignore", message=".*'scale'. has no effect, because no trial goes on")
            grid = restore(folder, scaled, run_config=longer, param_space={"scale": scale})
        for result in grid:
            assert explained(result) == pytest.approx([result.metrics["score"]] * 2)
    assert {segment.config["scale"] for result in grid for segment in result.lineage()} == {1.0, 2.0, 5.0, 7.0}
    assert any(segment.donor_id for result in grid for segment in result.lineage())
    best = grid.get_best_result()
    replay = tune.schedulers.PopulationBasedTrainingReplay.from_result(best)
    again = run(tmp_path / "replay", trainable=scaled, scheduler=replay, stop={"training_iteration": 31}, num_samples=1)
    assert tune.ResultGrid.read(again)[0].metrics["score"] == pytest.approx(best.metrics["score"])
