"""What every engine promises to those who run experiments: the same decisions, whatever carries them out."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ... import tune
from ...core.commands import Exploit, Launch, Status
from ...core.events import Damaged, Opened, Reported
from ...errors import ConfigError, EngineError, TrialFailed
from ...history import History
from ...journal.sqlite import SQLiteJournal
from ...tune.schedulers import PopulationBasedTraining
from ..trainables import Climber, climb, load_state, report_state
from .terms import Terms

__all__ = ["RunContract"]

Trainable = Callable[[dict[str, Any]], Any]


def pbt(**settings: Any) -> PopulationBasedTraining:
    """Return PBT with an interval of 5 iterations, other settings as given."""
    defaults: dict[str, Any] = {
        "time_attr": "training_iteration",
        "perturbation_interval": 5,
        "hyperparam_mutations": {"lr": tune.uniform(0.0, 1.0)},
    }
    return PopulationBasedTraining(**{**defaults, **settings})


def items(grid: tune.ResultGrid, kind: type[Any]) -> list[Any]:
    """Return all events or commands of one kind, in the order of the journal."""
    journal = SQLiteJournal.open_for_reading(Path(grid.experiment_path))
    try:
        return [record.item for record in journal.read() if isinstance(record.item, kind)]
    finally:
        journal.close()


def story(grid: tune.ResultGrid) -> History:
    """Return what the journal of a run tells."""
    journal = SQLiteJournal.open_for_reading(Path(grid.experiment_path))
    try:
        return History.of(journal.read())
    finally:
        journal.close()


def lineage(grid: tune.ResultGrid) -> list[tuple[Any, ...]]:
    """Return who copied whom, at which step, with which result: what must not depend on engine and slots."""
    trials = story(grid).trials
    return sorted(
        (
            exploit.generation,
            trials[exploit.trial_id].index,
            trials[exploit.donor_id].index,
            exploit.iteration,
            exploit.checkpoint.iteration,
            exploit.checkpoint.digest,
            json.dumps(exploit.new_config, sort_keys=True),
        )
        for exploit in items(grid, Exploit)
    )


def is_second() -> bool:
    """Return whether this is the second member."""
    return tune.get_context().get_trial_id().endswith("00001")


class RunContract(Terms):
    """What ``Tuner(...).fit()`` does with the engine."""

    def fit(
        self,
        trainable: Trainable | type[Any],
        storage: Path,
        *,
        space: dict[str, Any] | None = None,
        stop: Any = None,
        slots: int | None = 2,
        run: dict[str, Any] | None = None,
        **config: Any,
    ) -> tune.ResultGrid:
        """Run a small experiment: 4 members on 2 slots, metric ``score``, seed 1, silent, unless told otherwise."""
        where: dict[str, Any] = {"storage_path": str(storage), "verbose": 0, **(run or {})}
        where["stop"] = stop or {"training_iteration": 20}
        settings: dict[str, Any] = {
            "metric": "score",
            "mode": "max",
            "num_samples": 4,
            "seed": 1,
            "engine": type(self).engine,
            "max_concurrent_trials": slots,
            **config,
        }
        return tune.Tuner(
            trainable,
            param_space={"lr": tune.uniform(0.0, 1.0)} if space is None else space,
            tune_config=tune.TuneConfig(**settings),
            run_config=tune.RunConfig(**where),
        ).fit()

    # ---------------------------------------------------------------------------------------------------- reports, ends

    def test_a_member_reports_and_ends_when_its_function_returns(self, tmp_path: Path) -> None:
        def train(config: dict[str, Any]) -> None:
            for step in range(3):
                tune.report({"score": step * config["lr"]})

        grid = self.fit(train, tmp_path, space={"lr": 2.0}, num_samples=2)
        assert [result.metrics["score"] for result in grid] == [4.0, 4.0]
        assert [result.metrics["training_iteration"] for result in grid] == [3, 3]
        assert grid.num_terminated == 2

    def test_a_dict_that_the_function_returns_is_its_last_report(self, tmp_path: Path) -> None:
        grid = self.fit(lambda config: {"score": config["lr"] + 1}, tmp_path, space={"lr": 2.0}, num_samples=1)
        assert grid[0].metrics["score"] == 3.0

    def test_a_run_never_overshoots_its_stop_condition(self, tmp_path: Path) -> None:
        grid = self.fit(climb, tmp_path, stop={"training_iteration": 7})
        assert [len(trial.rows) for trial in story(grid).in_order()] == [7, 7, 7, 7]

    def test_leaving_the_function_runs_its_with_and_finally_blocks(self, tmp_path: Path) -> None:
        marks = tmp_path / "marks"
        marks.mkdir()

        def train(config: dict[str, Any]) -> None:
            try:
                while True:
                    tune.report({"score": 1.0})
            finally:
                (marks / tune.get_context().get_trial_id()).touch()

        grid = self.fit(train, tmp_path / "run", num_samples=2, stop={"training_iteration": 2})
        assert {path.name for path in marks.iterdir()} == set(story(grid).trials)

    def test_the_context_tells_a_member_who_it_is(self, tmp_path: Path) -> None:
        def train(config: dict[str, Any]) -> None:
            context = tune.get_context()
            tune.report(
                {
                    "score": 1.0,
                    "id": context.get_trial_id(),
                    "name": context.get_trial_name(),
                    "dir": context.get_trial_dir(),
                    "experiment": context.get_experiment_name(),
                    "cpus": context.get_trial_resources()["cpu"],
                }
            )

        grid = self.fit(train, tmp_path, num_samples=2, run={"name": "whö is it"})
        for trial, result in zip(story(grid).in_order(), grid, strict=True):
            metrics = result.metrics
            assert (metrics["id"], metrics["name"]) == (trial.trial_id, trial.name)
            assert metrics["name"].endswith(metrics["id"])
            assert metrics["dir"] == result.path
            assert metrics["experiment"] == "whö is it"
            assert metrics["cpus"] == 1.0

    def test_a_callable_stop_ends_a_trial_with_the_very_result_that_it_saw(self, tmp_path: Path) -> None:
        seen: list[tuple[str, int]] = []

        def stop(trial_id: str, result: dict[str, Any]) -> bool:
            seen.append((trial_id, result["training_iteration"]))
            return bool(result["score"] >= 3)

        grid = self.fit(climb, tmp_path, space={"lr": 1.0}, num_samples=2, stop=stop)
        assert [trial.iteration for trial in story(grid).in_order()] == [3, 3]
        assert sorted(seen) == [(trial_id, step) for trial_id in sorted(story(grid).trials) for step in (1, 2, 3)]
        assert all(result.metrics["done"] for result in grid)

    def test_a_stopper_can_end_the_whole_experiment(self, tmp_path: Path) -> None:
        class Enough:
            results = 0

            def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
                self.results += 1
                return False

            def stop_all(self) -> bool:
                return self.results >= 4

        grid = self.fit(climb, tmp_path, num_samples=2, stop=Enough())
        assert grid.num_terminated == 2
        assert story(grid).stopped == "the stopper ended the experiment"
        assert all(trial.status is Status.TERMINATED for trial in story(grid).trials.values())

    def test_the_time_budget_ends_members_that_would_go_on_for_ever(self, tmp_path: Path) -> None:
        grid = self.fit(climb, tmp_path, stop={"training_iteration": 10**9}, num_samples=2, time_budget_s=0.5)
        assert grid.num_terminated == 2
        assert "time budget" in (story(grid).stopped or "")

    # ----------------------------------------------------------------------------------------------------- taking turns

    def test_more_members_than_slots_train_in_turn_and_lose_nothing_without_checkpoints(self, tmp_path: Path) -> None:
        """Ray Tune starts a function that never checkpoints from scratch at each pause (its defect 5)."""

        def train(config: dict[str, Any]) -> None:
            step = 0
            while True:
                step += 1
                tune.report({"score": config["lr"] * step, "step": step})

        grid = self.fit(train, tmp_path, num_samples=6, scheduler=pbt())
        for trial in story(grid).in_order():
            assert [row.report.metrics["step"] for row in trial.rows] == list(range(1, 21))
        assert {launch.launch for launch in items(grid, Launch)} == {1}

    def test_residents_beyond_the_limit_leave_through_their_checkpoint_and_go_on_where_they_were(
        self, tmp_path: Path
    ) -> None:
        grid = self.fit(climb, tmp_path, num_samples=5, scheduler=pbt(quantile_fraction=0.0), max_residents=2)
        for trial in story(grid).in_order():
            assert [row.report.metrics["step"] for row in trial.rows] == list(range(1, 21))
            assert trial.rows[-1].report.metrics["score"] == pytest.approx(20 * trial.config["lr"])
        assert any(launch.launch > 1 for launch in items(grid, Launch))

    def test_many_members_take_their_turns(self, tmp_path: Path) -> None:
        grid = self.fit(climb, tmp_path, num_samples=40, slots=4, scheduler=pbt(), stop={"training_iteration": 10})
        assert (grid.num_terminated, grid.num_errors) == (40, 0)
        assert {trial.iteration for trial in story(grid).in_order()} == {10}
        assert items(grid, Exploit)

    # --------------------------------------------------------------------------------------------------------- exploits

    def test_an_exploit_enters_the_function_anew_in_the_same_process_with_the_donors_state(
        self, tmp_path: Path
    ) -> None:
        def train(config: dict[str, Any]) -> None:
            restored = load_state()
            step, score = restored or (0, 0.0)
            while True:
                step += 1
                score += config["lr"]
                before = score if restored is None else restored[1]
                report_state(
                    step, score, {"score": score, "before": before, "process": os.getpid()}, save=step % 5 == 0
                )

        grid = self.fit(train, tmp_path, scheduler=pbt())
        history = story(grid)
        exploits = items(grid, Exploit)
        assert exploits
        for exploit in exploits:
            after = [row for row in history.trials[exploit.trial_id].rows if row.generation == exploit.generation]
            if after:
                assert after[0].report.metrics["before"] == exploit.checkpoint.score
                assert after[0].report.iteration == exploit.checkpoint.iteration + 1
        for trial in history.in_order():
            assert len({row.report.metrics["process"] for row in trial.rows}) == 1

    @pytest.mark.parametrize("trainable", [climb, Climber], ids=["function", "class"])
    def test_the_seeded_synchronous_lineage_is_the_same_on_any_number_of_slots(
        self, trainable: Any, tmp_path: Path
    ) -> None:
        """The inline engine, one member after the other, is what it is compared with."""
        found: dict[str, Any] = {}
        for slots in (0, 1, 2, 8) if trainable is climb else (0, 8):
            engine: dict[str, Any] = {} if slots else {"engine": "inline"}
            grid = self.fit(
                trainable,
                tmp_path / str(slots),
                num_samples=8,
                slots=slots or 1,
                scheduler=pbt(synch=True),
                stop={"training_iteration": 30},
                **engine,
            )
            scores = [trial.value("score") for trial in story(grid).in_order()]
            found[f"{slots} slots"] = (lineage(grid), scores)
        first, *others = found.values()
        assert len(first[0]) >= 8
        for other in others:
            assert other == first

    # ----------------------------------------------------------------------------------------------------------- faults

    def test_a_function_that_raises_fails_alone_with_its_traceback(self, tmp_path: Path) -> None:
        def train(config: dict[str, Any]) -> None:
            for step in range(4):
                if step == 2 and is_second():
                    raise ZeroDivisionError("the loss exploded")
                tune.report({"score": float(step)})

        grid = self.fit(train, tmp_path)
        assert (grid.num_errors, grid.num_terminated) == (1, 3)
        error = grid[1].error
        assert isinstance(error, TrialFailed)
        assert 'raise ZeroDivisionError("the loss exploded")' in str(error)
        assert isinstance(error.__cause__, ZeroDivisionError)
        assert "the loss exploded" in Path(grid[1].path, "error.txt").read_text()
        assert [len(trial.rows) for trial in story(grid).in_order()] == [4, 2, 4, 4]

    @pytest.mark.parametrize("way", ["raise", "die"])
    def test_a_failed_member_is_launched_again_from_its_last_checkpoint(self, way: str, tmp_path: Path) -> None:
        if way == "die":
            self.needs_processes()

        def train(config: dict[str, Any]) -> None:
            step, score = load_state() or (0, 0.0)
            broken = tune.get_checkpoint() is None
            while True:
                step += 1
                if step == 8 and broken:
                    if way == "die":
                        os._exit(1)
                    raise RuntimeError("once")
                report_state(step, score, {"score": score, "step": step}, save=step % 5 == 0)

        failures = tune.FailureConfig(max_failures=1)
        stop = {"training_iteration": 12}
        grid = self.fit(train, tmp_path, num_samples=1, stop=stop, run={"failure_config": failures})
        assert [report.metrics["step"] for report in items(grid, Reported)] == [*range(1, 8), *range(6, 13)]
        # What was undone does not count, and no step counts twice.
        assert [row.report.metrics["step"] for row in story(grid).in_order()[0].rows] == [*range(1, 13)]
        assert grid[0].error is None

    def test_a_checkpoint_that_was_damaged_is_not_loaded_and_the_one_before_is(self, tmp_path: Path) -> None:
        def train(config: dict[str, Any]) -> None:
            step, score = load_state() or (0, 0.0)
            began = step
            while True:
                step += 1
                report_state(step, score, {"score": score, "step": step}, save=step % 2 == 0)
                if step == 5 and began == 0:
                    newest = max(Path(tune.get_context().get_trial_dir()).glob("checkpoint_*"))
                    (newest / "state.json").write_text("[1000, 0.0]")
                    raise RuntimeError("once")

        failures = tune.FailureConfig(max_failures=1)
        stop = {"training_iteration": 6}
        grid = self.fit(train, tmp_path, num_samples=1, stop=stop, run={"failure_config": failures})
        assert len(items(grid, Damaged)) == 1
        assert [report.metrics["step"] for report in items(grid, Reported)] == [1, 2, 3, 4, 5, 3, 4, 5, 6]
        assert grid[0].error is None

    def test_what_cannot_be_carried_or_loaded_is_told_before_anything_runs(self, tmp_path: Path) -> None:
        self.needs_processes()
        lock = threading.Lock()

        def train(config: dict[str, Any]) -> None:
            with lock:
                tune.report({"score": 1.0})

        with pytest.raises(ConfigError, match=r"'lock' \(lock\), which cannot be pickled"):
            self.fit(train, tmp_path, run={"name": "run"})
        with pytest.raises(ConfigError, match=r"param_space\['value'\].*cannot be pickled"):
            self.fit(climb, tmp_path, space={"value": lock, "lr": 1.0}, run={"name": "run"})
        with pytest.raises(EngineError, match="no_module_of_this_name"):
            self.fit(_Absent(), tmp_path, run={"name": "run"})
        assert not (tmp_path / "run").exists()

    # -------------------------------------------------------------------------------------------------- around members

    def test_members_draw_different_random_numbers_and_a_seeded_run_draws_the_same_again(self, tmp_path: Path) -> None:
        self.needs_processes()

        def train(config: dict[str, Any]) -> dict[str, Any]:
            import random

            return {"score": random.random()}

        first, second = ([result.metrics["score"] for result in self.fit(train, tmp_path / name)] for name in "ab")
        assert first == second
        assert len(set(first)) == 4

    def test_what_a_member_prints_is_in_its_file_and_on_the_terminal(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self.needs_processes()

        def train(config: dict[str, Any]) -> dict[str, Any]:
            print("hello from", tune.get_context().get_trial_id())
            return {"score": 1.0}

        grid = self.fit(train, tmp_path, num_samples=2, run={"verbose": 1})
        shown = capfd.readouterr()
        for result, trial_id in zip(grid, story(grid).trials, strict=True):
            line = f"hello from {trial_id}"
            assert line in Path(result.path, "output.log").read_text().splitlines()
            assert line in shown.out + shown.err

    def test_members_find_what_lies_beside_the_script(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        package = tmp_path / "lib" / "of_the_run"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "inner.py").write_text("from .beside import BASE\nVALUE = BASE + 1\n")
        (package / "beside.py").write_text("BASE = 41\n")
        (tmp_path / "lib" / "of_the_trainable.py").write_text(
            "def train(config):\n    from of_the_run.inner import VALUE\n    return {'score': VALUE}\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path / "lib"))
        from of_the_trainable import train  # type: ignore[import-not-found]

        try:
            grid = self.fit(train, tmp_path / "runs", num_samples=2)
        finally:
            for name in [name for name in sys.modules if name.startswith(("of_the_trainable", "of_the_run"))]:
                del sys.modules[name]
        assert [result.metrics["score"] for result in grid] == [42, 42]

    def test_large_objects_reach_all_members(self, tmp_path: Path) -> None:
        def train(config: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
            return {"score": float(sum(data["bytes"])), "name": data["name"]}

        data = {"bytes": b"\1" * 3_000_000, "name": "ähnlich"}
        grid = self.fit(tune.with_parameters(train, data=data), tmp_path)
        assert [(result.metrics["score"], result.metrics["name"]) for result in grid] == [(3e6, "ähnlich")] * 4

    def test_an_interrupted_run_keeps_all_reports_and_goes_on_behind_them(self, tmp_path: Path) -> None:
        once = tmp_path / "once"  # a file, because the function is restored as it was at the start

        def stop(trial_id: str, result: dict[str, Any]) -> bool:
            if result["training_iteration"] == 8 and not once.exists():
                once.touch()
                signal.raise_signal(signal.SIGINT)
            return bool(result["training_iteration"] >= 12)

        where: dict[str, Any] = {"storage": tmp_path, "space": {"lr": 1.0, "every": 1}, "num_samples": 3}
        with pytest.raises(KeyboardInterrupt):
            self.fit(climb, stop=stop, run={"name": "run"}, scheduler=pbt(quantile_fraction=0.0), **where)
        again = tune.Tuner.restore(str(tmp_path / "run"), climb).fit()
        assert len(items(again, Opened)) == 2
        for trial in story(again).in_order():
            assert [row.report.metrics["step"] for row in trial.rows] == list(range(1, 13))
            assert trial.rows[-1].report.metrics["score"] == 12.0

    def test_a_run_goes_on_with_the_same_engine_where_it_was(self, tmp_path: Path) -> None:
        grid = self.fit(climb, tmp_path, space={"lr": 1.0}, num_samples=2, stop={"training_iteration": 5})
        tuner = tune.Tuner.restore(
            grid.experiment_path, climb, run_config=tune.RunConfig(stop={"training_iteration": 8}, verbose=0)
        )
        again = tuner.fit()
        assert [result.metrics["score"] for result in again] == [8.0, 8.0]
        assert [len(trial.rows) for trial in story(again).in_order()] == [8, 8]


class _Absent:
    """A trainable that needs a module which members do not find."""

    def __call__(self, config: dict[str, Any]) -> None: ...

    def __reduce__(self) -> Any:
        return __import__, ("no_module_of_this_name",)
