"""Killed after every single event of hundreds of experiments: nothing is lost, nothing counts twice, nobody waits."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import pytest

from shoal.core.commands import Status
from shoal.core.events import Config, Metrics

from .scenarios import Scenario, State, drawn_scenario, run_through
from .told import check_results, told

ALL = bool(os.environ.get("SHOAL_TEST_ALL"))
MANY = 30 if ALL else 20
"""Experiments of a block."""


def small(seed: int, **fixed: Any) -> Scenario:
    """Draw an experiment of a few dozen events."""
    drawn = drawn_scenario(seed, 5)
    short = {"members": min(drawn.members, 4), "length": min(drawn.length, 6), "interval": min(drawn.interval, 3.0)}
    return replace(drawn, **{"slots": min(drawn.slots, 3), "devices": None, "burn_in": 0.0, **short, **fixed})


@pytest.mark.parametrize("block", range(8 if ALL else 5))
def test_after_every_event_of_hundreds_of_experiments(block: int) -> None:
    for seed in range(900_000 + block * MANY, 900_000 + (block + 1) * MANY):
        scenario = small(seed)
        ends = replace(scenario, stop_asked_at=None)
        for count in range(scenario.members, len(scenario.simulation(validate=False).run().events) + 1):
            check_results(run_through((scenario, count), (ends, None)))


@pytest.mark.parametrize("block", range(4 if ALL else 2))
def test_a_seeded_synchronous_run_is_the_same_to_the_last_bit_after_every_event(block: int) -> None:
    """Lineage, schedules, and every result that counts, equal those of the run that nobody killed."""
    for seed in range(910_000 + block * MANY, 910_000 + (block + 1) * MANY):
        every = 1 + seed % 2
        scenario = small(
            seed, members=4, pbt=True, synch=True, interval=float(every * 2), checkpoint_every=every, length=7,
            time_attr="training_iteration", faults=(), target=None, stopper=False, stop_asked_at=None, fail_fast=False,
            returns=False, of_class=seed % 3 == 0, nodes=(),
        )  # fmt: skip
        whole = scenario.run()
        expected = told(whole)
        for count in range(scenario.members, len(whole.events) + 1):
            assert told(run_through((scenario, count), (scenario, None))) == expected


@dataclass(frozen=True)
class Poisoned(Scenario):
    """Raises at states that the weights and the config lead to, so at the same ones after a restore."""

    poisoned: float = 0.1
    knows_all_faults: ClassVar[bool] = False

    def train(self, config: Config, state: State | None) -> tuple[Metrics, State] | None:
        trained = super().train(config, state)
        if trained is not None and (trained[1][3] >> 7) % 1000 < 1000 * self.poisoned:
            raise RuntimeError("poison")
        return trained


@pytest.mark.parametrize("block", range(3 if ALL else 2))
def test_the_same_where_members_fail_for_good_and_copy_others(block: int) -> None:
    failed = 0
    for seed in range(920_000 + block * 12, 920_000 + block * 12 + 12):
        every = 1 + seed % 2
        base = small(
            seed, members=3 + seed % 3, pbt=True, synch=True, interval=float(every * (1 + seed // 2 % 2)),
            checkpoint_every=every, length=7, time_attr="training_iteration", faults=(), target=None, stopper=False,
            stop_asked_at=None, fail_fast=False, returns=False, of_class=seed % 3 == 0, nodes=(), replace_failed=True,
            architectures=(0, 0, 2)[seed % 3], max_failures=0,
        )  # fmt: skip
        scenario = Poisoned(**{field.name: getattr(base, field.name) for field in fields(base)}, poisoned=0.15)
        whole = scenario.run()
        expected = told(whole)
        failed += sum(exploit.failed is not None for exploit in whole.exploits)
        for count in range(scenario.members, len(whole.events) + 1):
            assert told(run_through((scenario, count), (scenario, None))) == expected
    assert failed


@pytest.mark.parametrize("synch", [False, True])
@pytest.mark.parametrize("of_class", [False, True])
def test_a_run_that_is_interrupted_gently_after_every_event_goes_on_and_no_checkpointed_step_is_trained_again(
    synch: bool, of_class: bool
) -> None:
    scenario = Scenario(
        seed=11, members=4, slots=2, synch=synch, interval=2.0, length=6, num_to_keep=1, of_class=of_class,
        checkpoint_every=0 if of_class else 1,
    )  # fmt: skip
    whole = scenario.run()
    for tenth in range(int(whole.elapsed_s * 10) + 1):
        asked = replace(scenario, stop_asked_at=tenth / 10, gently=True)
        cut = asked.simulation().run()
        assert all(trial.status is Status.TERMINATED for trial in cut.trials.values())
        result = run_through((asked, None), (scenario, None))
        check_results(result)
        if synch:
            assert told(result) == told(whole)
            # Whoever was at work came to its report, which holds all that it had: no step is trained a second time.
            assert len(result.reports) == len(whole.reports)
