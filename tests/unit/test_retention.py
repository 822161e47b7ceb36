"""Which checkpoints stay, and which can go."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from shoal.core.commands import CheckpointRecord
from shoal.core.limits import RetentionRules
from shoal.core.retention import Retention
from shoal.errors import InvalidTransition


def record(number: int, rank: float | None = None, trial: str = "a") -> CheckpointRecord:
    return CheckpointRecord(
        id=f"{trial}/checkpoint_{number:06d}",
        trial_id=trial,
        number=number,
        digest="",
        size=0,
        iteration=number + 1,
        time=number + 1.0,
        time_total_s=0.0,
        score=None,
        rank=rank,
    )


def deleted(rules: RetentionRules, ranks: list[float | None]) -> list[list[int]]:
    """Return which numbers go with each checkpoint that a trial adds, its newest always being pinned."""
    retention = Retention(rules)
    told: list[list[int]] = []
    newest: CheckpointRecord | None = None
    for number, rank in enumerate(ranks):
        added = record(number, rank)
        retention.pin(added)
        gone = [] if newest is None else retention.unpin(newest)
        newest = added
        told.append(sorted(entry.number for entry in [*gone, *retention.add(added)]))
        retention.validate([added])
    return told


def test_without_a_limit_nothing_is_deleted() -> None:
    assert deleted(RetentionRules(), [None] * 5) == [[], [], [], [], []]


def test_a_checkpoint_that_the_user_had_deleted_takes_nobodys_place() -> None:
    retention = Retention(RetentionRules(2, "acc"))
    best, other, newest = (record(number, rank) for number, rank in enumerate([0.9, 0.8, 0.7]))
    assert retention.add(best) == retention.add(other) == []
    retention.free("a", best.id)
    retention.free("a", "a/checkpoint_000077")
    assert not retention.exists(best)
    assert retention.add(newest) == []
    assert retention.existing([best, other, newest]) == (other, newest)
    retention.validate([])


@pytest.mark.parametrize("rules", [RetentionRules(), RetentionRules(2)])
def test_one_that_somebody_would_go_on_from_is_known_until_that_one_goes_on_from_another(rules: RetentionRules) -> None:
    retention = Retention(rules)
    freed = record(0)
    retention.pin(freed)
    retention.add(freed)
    retention.free("a", freed.id)
    retention.validate([freed])
    assert retention.unpin(freed) == [freed]
    assert not retention.exists(freed)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_newest_stay(limit: int) -> None:
    expected = [[number - limit] if number >= limit else [] for number in range(6)]
    assert deleted(RetentionRules(limit), [None] * 6) == expected


def test_the_best_stay_and_the_newest_beside_them() -> None:
    rules = RetentionRules(1, "acc")
    #           the best stays    5 is beaten     4 was only there as the newest
    assert deleted(rules, [5.0, 4.0, 3.0, 6.0, 1.0]) == [[], [], [1], [0, 2], []]


def test_the_smallest_are_the_best_where_the_order_says_so() -> None:
    assert deleted(RetentionRules(1, "loss", "min"), [5.0, 4.0, 6.0, 3.0]) == [[], [0], [], [1, 2]]


@pytest.mark.parametrize("order", ["max", "min"])
@pytest.mark.parametrize("worst", [math.nan, math.inf, -math.inf, None])
def test_what_has_no_finite_score_goes_first(order: str, worst: float | None) -> None:
    assert deleted(RetentionRules(1, "acc", order), [worst, 1.0]) == [[], [0]]
    assert deleted(RetentionRules(2, "acc", order), [1.0, worst, 1.0, 1.0]) == [[], [], [1], [0]]


def test_the_newer_of_two_with_the_same_score_stays() -> None:
    assert deleted(RetentionRules(1, "acc"), [1.0, 1.0]) == [[], [0]]


def test_trials_have_limits_of_their_own() -> None:
    retention = Retention(RetentionRules(1))
    assert retention.add(record(0, trial="a")) == []
    assert retention.add(record(0, trial="b")) == []
    assert [entry.id for entry in retention.add(record(1, trial="b"))] == ["b/checkpoint_000000"]


def test_what_somebody_goes_on_from_stays_until_the_last_one_lets_go() -> None:
    retention = Retention(RetentionRules(1))
    needed = record(0)
    retention.pin(needed)
    retention.pin(needed)
    retention.add(needed)
    assert retention.add(record(1)) == []
    assert retention.unpin(needed) == []
    assert retention.exists(needed)
    assert retention.unpin(needed) == [needed]
    assert not retention.exists(needed)


def test_a_checkpoint_that_is_kept_stays_when_nobody_needs_it_any_more() -> None:
    retention = Retention(RetentionRules(1))
    kept = record(0)
    retention.pin(kept)
    retention.add(kept)
    assert retention.unpin(kept) == []
    assert retention.exists(kept)


def test_what_was_never_saved_does_not_exist() -> None:
    assert not Retention(RetentionRules()).exists(record(0))


def test_validate_notices_pins_that_nobody_holds() -> None:
    retention = Retention(RetentionRules(1))
    retention.pin(record(0))
    retention.add(record(0))
    retention.validate([record(0)])
    with pytest.raises(InvalidTransition, match="pins are"):
        retention.validate([])


def test_validate_notices_that_a_needed_checkpoint_was_never_there() -> None:
    retention = Retention(RetentionRules(1))
    retention.pin(record(7))
    with pytest.raises(InvalidTransition, match="a/checkpoint_000007"):
        retention.validate([record(7)])


class RetentionMachine(RuleBasedStateMachine):
    """Any sequence of what trials do, against the plain definition of what may exist."""

    records: Bundle[CheckpointRecord] = Bundle("records")
    pins: Bundle[CheckpointRecord] = Bundle("pins")

    def __init__(self) -> None:
        super().__init__()
        self.retention = Retention(RetentionRules(1, "acc"))
        self.saved: dict[str, list[CheckpointRecord]] = {"a": [], "b": []}
        self.on_disk: set[str] = set()
        self.pinned: list[CheckpointRecord] = []

    @rule(target=pins, trial=st.sampled_from("ab"), rank=st.sampled_from([None, math.nan, 0.0, 1.0, 2.0, 3.0]))
    def save(self, trial: str, rank: float | None) -> CheckpointRecord:
        saved = record(len(self.saved[trial]), rank, trial)
        self.saved[trial].append(saved)
        self.retention.pin(saved)
        self.pinned.append(saved)
        self.on_disk.add(saved.id)
        self._delete(self.retention.add(saved))
        return saved

    @rule(target=pins, pin=pins)
    def copy(self, pin: CheckpointRecord) -> CheckpointRecord:
        self.retention.pin(pin)
        self.pinned.append(pin)
        return pin

    @rule(pin=consumes(pins))
    def let_go(self, pin: CheckpointRecord) -> None:
        self.pinned.remove(pin)
        self._delete(self.retention.unpin(pin))

    def _delete(self, gone: list[CheckpointRecord]) -> None:
        for entry in gone:
            assert entry.id in self.on_disk, "deleted twice"
            self.on_disk.remove(entry.id)

    @invariant()
    def exactly_what_is_needed_or_kept_exists(self) -> None:
        self.retention.validate(self.pinned)
        needed = {entry.id for entry in self.pinned}
        assert needed <= self.on_disk
        for saved in self.saved.values():
            assert {entry.id for entry in saved if self.retention.exists(entry)} == {
                entry.id for entry in saved if entry.id in self.on_disk
            }
            if saved:
                best = max(saved, key=self._worth)
                assert {best.id, saved[-1].id} <= self.on_disk
                assert len({entry.id for entry in saved} & self.on_disk - needed) <= 2

    @staticmethod
    def _worth(entry: CheckpointRecord) -> tuple[float, int]:
        finite = entry.rank is not None and math.isfinite(entry.rank)
        return (entry.rank if finite and entry.rank is not None else -math.inf, entry.number)


def _machine() -> Any:
    case = RetentionMachine.TestCase
    case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
    return case


TestAnyOrderOfSavingCopyingAndLettingGo = _machine()
