"""The toy problem of the PBT paper (Jaderberg et al. 2017, arXiv:1711.09846, section 4 and figure 2).

Members climb a surrogate Q' = 1.2 - (h0 t0^2 + h1 t1^2) of the true Q = 1.2 - (t0^2 + t1^2), from t = (0.9, 0.9). One
follows h = (1, 0), the other h = (0, 1), so each alone can only get one of the two parameters right: Q = 0.39. Together
they get both. Its traps: by symmetry the two tie, exactly, until one copies the other; and 0 times 1.2 is 0, for ever.
"""

from __future__ import annotations

from typing import Any

import pytest

from shoal import space
from shoal.core.events import Config
from shoal.schedulers import FIFOScheduler, PopulationBasedTraining, TrialScheduler
from shoal.testing import Simulation, SimulationResult

STEPS = 400
LEARNING_RATE = 0.01
HALVES: list[Config] = [{"h0": 1.0, "h1": 0.0}, {"h0": 0.0, "h1": 1.0}]


def climb(config: Config, theta: tuple[float, float] | None) -> tuple[dict[str, Any], tuple[float, float]]:
    """One step of gradient ascent on the surrogate."""
    t0, t1 = theta or (0.9, 0.9)
    t0 -= LEARNING_RATE * 2.0 * config["h0"] * t0
    t1 -= LEARNING_RATE * 2.0 * config["h1"] * t1
    return {"Q": 1.2 - (t0 * t0 + t1 * t1)}, (t0, t1)


def run(scheduler: TrialScheduler, seed: int = 0, slots: int = 2, steps: int = STEPS) -> SimulationResult:
    return Simulation(
        climb, HALVES, scheduler, metric="Q", seed=seed, slots=slots, stop={"training_iteration": steps}, num_to_keep=1
    ).run()


def pbt(synch: bool, **settings: Any) -> PopulationBasedTraining:
    return PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=5,
        hyperparam_mutations={"h0": space.uniform(0.0, 1.0), "h1": space.uniform(0.0, 1.0)},
        synch=synch,
        **settings,
    )


def best(result: SimulationResult) -> float:
    return max(float(report.metrics["Q"]) for report in result.reports)


def test_grid_search_gets_only_one_of_the_two_parameters_right() -> None:
    assert best(run(FIFOScheduler())) == pytest.approx(0.39, abs=1e-6)


@pytest.mark.parametrize("synch", [False, True])
def test_without_exploits_a_population_is_a_grid_search(synch: bool) -> None:
    result = run(pbt(synch, quantile_fraction=0.0))
    assert not result.exploits
    assert best(result) == pytest.approx(0.39, abs=1e-6)


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_a_population_reaches_the_optimum(synch: bool, seed: int, slots: int) -> None:
    assert best(run(pbt(synch), seed, slots)) == pytest.approx(1.2, abs=0.01)


@pytest.mark.parametrize("synch", [False, True])
def test_an_exact_tie_does_not_keep_one_from_copying_the_other(synch: bool) -> None:
    for seed in range(20):
        first = run(pbt(synch), seed, steps=100).exploits[0]
        assert first.score == first.checkpoint.score


def test_with_a_barrier_exactly_one_of_two_that_tie_copies_and_chance_says_which() -> None:
    copied = set[str]()
    for seed in range(20):
        (exploit,) = [exploit for exploit in run(pbt(True), seed, steps=10).exploits if exploit.iteration == 5]
        copied.add(exploit.trial_id)
    assert copied == {"trial_00000", "trial_00001"}


@pytest.mark.parametrize("synch", [False, True])
def test_a_zero_moves_also_where_nothing_is_ever_resampled(synch: bool) -> None:
    result = run(pbt(synch, resample_probability=0.0))
    donors = [exploit.donor_config for exploit in result.exploits]
    assert 0.0 in donors[0].values()
    assert all(exploit.new_config["h0"] > 0.0 < exploit.new_config["h1"] for exploit in result.exploits)
    assert best(result) == pytest.approx(1.2, abs=0.01)
