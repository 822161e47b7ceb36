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
from shoal.inference import expected_best
from shoal.reading import Experiment
from shoal.schedulers import FIFOScheduler
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


def alike(config: Config, state: int | None) -> tuple[dict[str, Any], int]:
    """Everybody has the same score at the same step, but for noise."""
    step = (state or 0) + 1
    return {"accuracy": step + 0.01 * stream(step, "noise", repr(config)).random()}, step


def settle(config: Config, state: tuple[int, float] | None) -> tuple[dict[str, Any], tuple[int, float]]:
    """Learns as others do, each at its own speed, and is at rest then but for noise."""
    step, level = state or (0, 0.0)
    level += (1.0 - level) * config["lr"]
    noise = 0.001 * stream(step, "noise", repr(config)).random()
    return {"accuracy": level + noise}, (step + 1, level)


SLOW = {"lr": space.loguniform(5e-3, 0.3)}


@pytest.mark.parametrize("mode", ["max", "min"])
def test_copying_that_pays_is_said_with_its_numbers(tmp_path: Path, mode: str) -> None:
    def train(config: Config, state: tuple[int, float] | None) -> tuple[dict[str, Any], tuple[int, float]]:
        metrics, state = climb(config, state)
        return {"accuracy": metrics["accuracy"] * (1.0 if mode == "max" else -1.0)}, state

    scheduler = pbt(hyperparam_mutations=SPACE, mode=mode)
    statement = card(tmp_path, train=train, members=12, steps=60, scheduler=scheduler)["exploits"]
    assert statement.verdict is Verdict.GOOD
    assert statement.text.startswith("Copying pays: ")
    assert "against its own accuracy when it was told to copy, better by +" in statement.because
    assert "against the lower half of those that copied nobody in the same steps, better by +" in statement.because


@pytest.mark.parametrize("train", [alike, noise])
def test_what_everybody_gains_and_what_is_chance_is_no_merit_of_copying(tmp_path: Path, train: Any) -> None:
    verdicts: list[Verdict] = []
    for seed in range(8):
        scheduler = pbt(hyperparam_mutations=SPACE, synch=True)
        folder = write_experiment(
            tmp_path / f"{seed}", train=train, members=12, steps=60, scheduler=scheduler, seed=seed
        )
        verdicts.append(report_card(folder)["exploits"].verdict)
    assert verdicts.count(Verdict.INFO) >= 6
    assert Verdict.BAD not in verdicts or verdicts.count(Verdict.BAD) <= 1


def test_copying_that_does_not_pay_is_said_and_what_can_be_done(tmp_path: Path) -> None:
    found = card(tmp_path, train=forget, members=16, steps=60, scheduler=pbt(hyperparam_mutations=SPACE))
    assert found["exploits"].verdict is Verdict.BAD
    assert "check that the checkpoint holds all" in found["exploits"].text
    assert found["explore"].verdict is Verdict.WARN
    assert "mostly do worse" in found["explore"].text


def test_scores_that_are_noise_make_the_interval_look_too_short(tmp_path: Path) -> None:
    found = card(tmp_path, train=noise, members=20, steps=80, scheduler=pbt(hyperparam_mutations=SPACE, synch=True))
    assert found["interval"].verdict is Verdict.WARN
    assert "too short (greedy)" in found["interval"].text
    assert "rank correlation" in found["interval"].because


@pytest.mark.parametrize("steps", [60, 300])
def test_a_run_that_has_come_to_rest_is_not_said_to_decide_too_early(tmp_path: Path, steps: int) -> None:
    found = card(tmp_path, train=settle, members=12, steps=steps, scheduler=pbt(hyperparam_mutations=SLOW, synch=True))
    assert found["interval"].verdict is Verdict.GOOD


def test_progress_that_is_made_early_makes_the_interval_look_too_long(tmp_path: Path) -> None:
    scheduler = pbt(perturbation_interval=10, hyperparam_mutations=SPACE)
    found = card(tmp_path, train=saturate, steps=100, scheduler=scheduler)
    assert found["interval"].verdict is Verdict.WARN
    assert "too long" in found["interval"].text


@pytest.mark.parametrize(("steps", "burn_in", "decisions"), [(30, 0, 2), (50, 35, 2), (35, 0, 3)])
def test_a_run_of_few_decisions_is_told_so_and_its_end_is_none(
    tmp_path: Path, steps: int, burn_in: int, decisions: int
) -> None:
    scheduler = pbt(perturbation_interval=10, burn_in_period=burn_in, hyperparam_mutations=SPACE, synch=True)
    found = card(tmp_path, train=climb, steps=steps, scheduler=scheduler)["interval"]
    assert found.verdict is Verdict.WARN
    assert f"{decisions} decisions about a member in all" in found.text


def test_a_steady_run_has_a_good_interval(tmp_path: Path) -> None:
    assert card(tmp_path, members=12, steps=60, scheduler=pbt(synch=True), seed=3)["interval"].verdict is Verdict.GOOD


def test_an_ancestor_that_takes_over_is_named_with_the_time(tmp_path: Path) -> None:
    scheduler = pbt(hyperparam_mutations=SPACE, quantile_fraction=0.5, synch=True)
    found = card(tmp_path, train=climb, steps=100, scheduler=scheduler)["takeover"]
    assert "One ancestor took over: from iteration" in found.text
    assert "all 8 members descend from member" in found.text


@pytest.mark.parametrize(("factors", "verdict"), [((1.0001, 0.9999), Verdict.WARN), ((3.0, 0.3), Verdict.INFO)])
def test_an_ancestor_that_took_over_is_a_warning_where_nothing_is_searched_any_more(
    tmp_path: Path, factors: tuple[float, float], verdict: Verdict
) -> None:
    scheduler = pbt(
        hyperparam_mutations=SPACE, quantile_fraction=0.5, synch=True, perturbation_factors=factors,
        resample_probability=0.0,
    )  # fmt: skip
    found = card(tmp_path, train=climb, steps=100, scheduler=scheduler, facts={"parameters": ["lr"]})["takeover"]
    assert found.verdict is verdict


def test_where_no_ancestor_has_half_none_took_over(tmp_path: Path) -> None:
    found = card(tmp_path, members=20, steps=6)["takeover"]
    assert found.verdict is Verdict.GOOD


def test_the_direction_of_a_hyperparameter_is_told(tmp_path: Path) -> None:
    facts = {"parameters": ["lr"]}
    found = card(tmp_path, train=climb, steps=60, facts=facts, scheduler=pbt(hyperparam_mutations=SPACE))
    assert found["hyperparameters"].text == "Hyperparameters: lr went up."


def with_controls(tmp_path: Path, train: Any = climb, **settings: Any) -> tuple[Experiment, ReportCard]:
    settings = {"members": 10, "steps": 60, "control": [1, 4, 7], **settings}
    scheduler = settings.pop("scheduler", pbt(hyperparam_mutations=SPACE))
    folder = write_experiment(tmp_path / "run", train=train, scheduler=scheduler, **settings)
    experiment = Experiment.open(folder)
    return experiment, report_card(experiment)


def test_what_pbt_gained_is_told_with_its_chance_and_on_the_same_number_of_members(tmp_path: Path) -> None:
    experiment, found = with_controls(tmp_path)
    scores = {trial.index: trial.value("accuracy") for trial in experiment.history.in_order()}
    best = expected_best([score for index, score in scores.items() if index not in (1, 4, 7)], 3)
    statement = found["control"]
    assert statement.verdict is Verdict.GOOD
    assert statement.text.startswith("PBT gained over a random search: with the same training, members ended ")
    assert f"the best of 3 is expected at {best:.5g}" in statement.because
    assert f"against {max(scores[index] for index in (1, 4, 7)):.5g}, but those that took part" in statement.because
    assert "rank-sum test" in statement.because


def test_the_best_of_as_many_is_compared_as_it_is(tmp_path: Path) -> None:
    _, found = with_controls(tmp_path, control=[0, 1, 2, 3, 4])
    assert "the best of 5 reached" in found["control"].because


def test_where_copying_does_nothing_no_gain_is_claimed(tmp_path: Path) -> None:
    verdicts: list[Verdict] = []
    for seed in range(10):
        (tmp_path / str(seed)).mkdir()
        _, found = with_controls(tmp_path / str(seed), noise, seed=seed, members=12)
        verdicts.append(found["control"].verdict)
    assert verdicts.count(Verdict.INFO) >= 8


def test_of_few_controls_nothing_sure_is_said(tmp_path: Path) -> None:
    _, found = with_controls(tmp_path, control=[0])
    assert found["control"].verdict is Verdict.INFO
    assert "which may be luck" in found["control"].text


def test_a_control_that_failed_is_not_compared_with(tmp_path: Path) -> None:
    def faults(index: int, launch: int, step: int) -> Fault | None:
        return Fault.RAISE if step == 3 and index in (1, 4, 7) else None

    _, found = with_controls(tmp_path, faults=faults)
    assert "cannot be told yet" in found["control"].text


def test_where_nobody_copied_nothing_is_said_of_a_gain(tmp_path: Path) -> None:
    _, found = with_controls(tmp_path, checkpoint_every=1000)
    assert "control" not in [statement.key for statement in found]


def test_where_all_reach_the_score_that_ends_them_the_time_is_compared(tmp_path: Path) -> None:
    def train(config: Config, state: tuple[int, float] | None) -> tuple[dict[str, Any], tuple[int, float]]:
        step, score = state or (0, 0.0)
        score += 0.02 + config["lr"]
        return {"accuracy": score}, (step + 1, score)

    _, found = with_controls(tmp_path, train, stop={"accuracy": 5.0})
    assert found["control"].text in (
        "PBT came to its goal sooner than a random search.",
        "Whether PBT came to its goal sooner than a random search cannot be told.",
    )
    assert "seconds of training" in found["control"].because


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


def test_retries_are_told(tmp_path: Path) -> None:
    once = [Fault.RAISE]
    found = card(
        tmp_path,
        max_failures=3,
        faults=lambda index, launch, step: once.pop() if once and (index, step) == (3, 12) else None,
    )
    assert "1 time one was tried again" in found["failures"].text.lower()


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
    assert found["hyperparameters"].text.startswith("Hyperparameters: lr narrowed down to 0.0")
