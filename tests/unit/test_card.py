"""The report card: each statement, on runs that were made so that it must be said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from shoal import space
from shoal.card import ReportCard, Verdict, report_card
from shoal.core.events import Config
from shoal.core.rng import stream
from shoal.reading import Experiment
from shoal.schedulers import FIFOScheduler
from shoal.inference import expected_best
from shoal.testing import Fault

from ..simulated import pbt, write_experiment

SPACE = {"lr": space.loguniform(1e-4, 1.0)}


def card(tmp_path: Path, **settings: Any) -> ReportCard:
    return report_card(write_experiment(tmp_path / "run", **settings))


def noise(config: Config, state: int | None) -> tuple[dict[str, Any], int]:
    step = (state or 0) + 1
    return {"accuracy": stream(step, "noise", repr(config)).random()}, step


def climb(config: Config, state: tuple[int, float] | None) -> tuple[dict[str, Any], tuple[int, float]]:
    """The larger the learning rate, the quicker: everybody should go up."""
    step, score = state or (0, 0.0)
    return {"accuracy": score + config["lr"]}, (step + 1, score + config["lr"])


def saturate(config: Config, state: int | None) -> tuple[dict[str, Any], int]:
    """Within each interval of 10 all progress is made in the first three steps."""
    step = (state or 0) + 1
    whole, part = divmod(step - 1, 10)
    return {"accuracy": whole + min(part + 1, 3) / 3 + config["lr"]}, step


def forget(config: Config, state: tuple[int, bool, float] | None) -> tuple[dict[str, Any], tuple[int, bool, float]]:
    """Whoever has copied, and so has another learning rate than its weights, loses, the later the more."""
    step, _, lr = state or (0, False, config["lr"])
    lost = lr != config["lr"]
    return {"accuracy": step + config["lr"] - (step**2 if lost else 0)}, (step + 1, lost, lr)


def test_copying_that_pays_is_said_with_its_numbers(tmp_path: Path) -> None:
    found = card(tmp_path, train=climb, scheduler=pbt(hyperparam_mutations=SPACE))
    statement = found["exploits"]
    assert statement.verdict is Verdict.GOOD
    assert statement.text.startswith("Copying pays: ")
    assert "accuracy of a member when it was told to copy, against its own at the next boundary" in statement.because


def test_copying_that_does_not_pay_is_said_and_what_can_be_done(tmp_path: Path) -> None:
    found = card(tmp_path, train=forget, members=12, steps=60, scheduler=pbt(hyperparam_mutations=SPACE))
    assert found["exploits"].verdict is Verdict.BAD
    assert "check that the checkpoint holds all" in found["exploits"].text
    assert found["explore"].verdict is Verdict.WARN
    assert "mostly do worse" in found["explore"].text


def test_scores_that_are_noise_make_the_interval_look_too_short(tmp_path: Path) -> None:
    found = card(tmp_path, train=noise, members=16, steps=60, scheduler=pbt(hyperparam_mutations=SPACE))
    assert found["interval"].verdict is Verdict.WARN
    assert "too short (greedy)" in found["interval"].text
    assert "rank correlation" in found["interval"].because


def test_copies_that_cannot_keep_up_make_the_interval_look_too_short(tmp_path: Path) -> None:
    found = card(tmp_path, train=forget, members=12, steps=60, scheduler=pbt(hyperparam_mutations=SPACE))
    assert "most copies had not come back" in found["interval"].text


def test_progress_that_is_made_early_makes_the_interval_look_too_long(tmp_path: Path) -> None:
    scheduler = pbt(perturbation_interval=10, hyperparam_mutations=SPACE)
    found = card(tmp_path, train=saturate, steps=100, scheduler=scheduler)
    assert found["interval"].verdict is Verdict.WARN
    assert "too long" in found["interval"].text


def test_a_run_of_few_decisions_is_told_so(tmp_path: Path) -> None:
    found = card(tmp_path, train=climb, steps=30, scheduler=pbt(perturbation_interval=10, hyperparam_mutations=SPACE))
    assert "hardly acted" in found["interval"].text


def test_a_steady_run_has_a_good_interval(tmp_path: Path) -> None:
    assert card(tmp_path, members=12, steps=60, scheduler=pbt(synch=True), seed=3)["interval"].verdict is Verdict.GOOD


def test_an_ancestor_that_takes_over_early_is_named_with_the_time(tmp_path: Path) -> None:
    scheduler = pbt(hyperparam_mutations=SPACE, quantile_fraction=0.5, synch=True)
    found = card(tmp_path, train=climb, steps=100, scheduler=scheduler)["takeover"]
    assert found.verdict is Verdict.WARN
    assert "One ancestor took over: from iteration" in found.text
    assert "all 8 members descend from member" in found.text


def test_where_no_ancestor_has_half_none_took_over(tmp_path: Path) -> None:
    found = card(tmp_path, members=20, steps=6)["takeover"]
    assert found.verdict is Verdict.GOOD


def test_the_direction_of_a_hyperparameter_is_told(tmp_path: Path) -> None:
    facts = {"parameters": ["lr"]}
    found = card(tmp_path, train=climb, steps=60, facts=facts, scheduler=pbt(hyperparam_mutations=SPACE))
    assert found["hyperparameters"].text == "Hyperparameters: lr went up."


def test_what_pbt_gained_is_compared_on_the_same_number_of_members(tmp_path: Path) -> None:
    scheduler = pbt(hyperparam_mutations=SPACE)
    folder = write_experiment(
        tmp_path / "run", train=climb, members=10, steps=60, scheduler=scheduler, control=[1, 4, 7]
    )
    experiment = Experiment.open(folder)
    scores = {trial.index: trial.value("accuracy") for trial in experiment.history.in_order()}
    best = expected_best([score for index, score in scores.items() if index not in (1, 4, 7)], 3)
    statement = report_card(experiment)["control"]
    assert statement.verdict is Verdict.GOOD
    assert statement.text.startswith("PBT gained ")
    assert f"{best:.5g}" in statement.because
    assert f"{max(scores[index] for index in (1, 4, 7)):.5g}" in statement.because


def test_of_few_controls_nothing_sure_is_said(tmp_path: Path) -> None:
    found = card(tmp_path, train=climb, scheduler=pbt(hyperparam_mutations=SPACE), control=[0])
    assert found["control"].verdict is Verdict.INFO
    assert "may be luck" in found["control"].text


def test_a_run_in_which_nobody_saves_is_told_why_nobody_copied(tmp_path: Path) -> None:
    found = card(tmp_path, checkpoint_every=1000)
    assert found["exploits"].verdict is Verdict.WARN
    assert "no member has saved a checkpoint" in found["exploits"].text


def test_failures_are_told(tmp_path: Path) -> None:
    found = card(tmp_path, faults=lambda index, launch, step: Fault.RAISE if (index, step) == (3, 12) else None)
    assert found["failures"].verdict is Verdict.BAD
    assert found["failures"].text == "1 member failed for good."


def test_failures_that_were_made_up_for_are_told(tmp_path: Path) -> None:
    once = [Fault.RAISE]
    found = card(
        tmp_path,
        replace_failed=True,
        faults=lambda index, launch, step: once.pop() if once and (index, step) == (3, 12) else None,
    )
    assert found["failures"].verdict is Verdict.WARN
    assert "1 time one that had failed went on as a copy" in found["failures"].text


def test_slots_that_stand_empty_are_told(tmp_path: Path) -> None:
    found = card(tmp_path, members=4, slots=8)["time"]
    assert found.verdict is Verdict.WARN
    assert "leave slots empty" in found.text
    assert card_of_full_slots(tmp_path)["time"].verdict is Verdict.GOOD


def card_of_full_slots(tmp_path: Path) -> ReportCard:
    return report_card(write_experiment(tmp_path / "full", members=8, slots=2, start_time=0.0))


def test_a_scheduler_that_makes_no_exploits_has_no_statements_about_them(tmp_path: Path) -> None:
    found = card(tmp_path, scheduler=FIFOScheduler(), metric="accuracy")
    assert [statement.key for statement in found] == ["time"]


def test_without_a_result_there_is_no_statement(tmp_path: Path) -> None:
    found = card(tmp_path, faults=lambda index, launch, step: Fault.RAISE)
    assert len(found) == 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("members", [1, 2, 5])
def test_a_card_can_be_made_of_any_run(tmp_path: Path, members: int, seed: int) -> None:
    def train(config: Config, state: int | None) -> tuple[dict[str, Any], int]:
        values = (float("nan"), 1.0, 1.0, float("inf"), -2.0)
        return {"accuracy": values[stream(seed, "v", state or 0, repr(config)).randrange(5)]}, (state or 0) + 1

    mode = "min" if seed % 2 else "max"
    found = card(tmp_path, members=members, steps=12 * seed, train=train, scheduler=pbt(mode=mode, synch=seed > 3))
    assert all(statement.text and statement.because for statement in found)
    assert "nan" not in repr(found)


def test_a_hyperparameter_that_narrows_down_is_told(tmp_path: Path) -> None:
    def peak(config: Config, state: tuple[int, float] | None) -> tuple[dict[str, Any], tuple[int, float]]:
        step, score = state or (0, 0.0)
        score += 1.0 - abs(math.log10(config["lr"]) + 2.0)
        return {"accuracy": score}, (step + 1, score)

    facts = {"parameters": ["lr"]}
    found = card(tmp_path, train=peak, members=20, steps=60, facts=facts, scheduler=pbt(hyperparam_mutations=SPACE))
    assert found["hyperparameters"].text == "Hyperparameters: lr narrowed down."
