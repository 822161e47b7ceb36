"""Whom a member copies that has failed for good, how long it waits for that, and when it is given up."""

from __future__ import annotations

import math

import pytest
from tests.unit.test_pbt import Members, copies

from shoal.core.policy import GiveUp, Proceed
from shoal.schedulers.pbt import SECOND_CHANCES


def test_a_failed_member_copies_the_best_of_the_others_also_where_it_is_the_best() -> None:
    members = Members(4)
    for index in range(4):
        members.save(index, 3.0, score=float(index))
    found = members.policy.reseed("m3")
    assert found is not None
    assert copies(found) == {"m3": "m2"}


def test_nobody_copies_what_a_failed_member_has_saved_while_it_waits_for_a_donor() -> None:
    members = Members(3)
    members.save(2, 3.0, score=9.0)
    assert members.policy.reseed("m2") == [], "nobody else has a checkpoint yet"
    assert members.policy.settle() == [], "and still nobody has"
    assert members.reach(0, 5.0, save=False) == [Proceed("m0")]
    assert members.reach(1, 1.0, save=False) == [Proceed("m1")], "m2 is lower than it, and no donor"
    members.save(1, 6.0, score=2.0)
    assert copies(members.policy.settle()) == {"m2": "m1"}
    assert members.policy.settle() == []
    assert members.policy.until("m2") == 11.0


def test_a_failed_member_that_is_given_up_and_taken_back_can_be_copied_again() -> None:
    members = Members(2)
    members.save(0, 3.0, score=9.0)
    members.policy.reseed("m0")
    members.policy.gone("m1")
    assert members.policy.settle() == [GiveUp("m0", "no other member has saved a checkpoint")]
    assert members.policy.settle() == []
    members.policy.gone("m0")
    members.policy.back("m0", None)
    members.policy.back("m1", None)
    assert copies(members.policy.reseed("m1") or []) == {"m1": "m0"}


def test_a_failed_member_whose_copies_lead_no_further_is_given_up() -> None:
    members = Members(3)
    members.save(1, 5.0, score=1.0)
    for _ in range(1 + SECOND_CHANCES):
        assert copies(members.policy.reseed("m0") or []) == {"m0": "m1"}
    assert members.policy.reseed("m0") == [GiveUp("m0", "copies of others have led it no further")]


@pytest.mark.parametrize("synch", [False, True])
def test_a_checkpoint_without_a_finite_score_is_not_waited_for_when_nobody_trains_any_more(synch: bool) -> None:
    members = Members(2, synch=synch)
    members.save(1, 5.0, score=math.nan)
    assert members.policy.reseed("m0") == []
    members.policy.gone("m1", donates=True)
    assert members.policy.settle() == [GiveUp("m0", "no other member is left that could be copied")]


def test_at_the_barrier_low_members_copy_the_best_that_has_not_failed() -> None:
    members = Members(8, synch=True)
    for index in range(7):
        members.reach(index, float(index))
    members.save(7, 3.0, score=100.0)
    found = members.policy.reseed("m7")
    assert found is not None
    assert copies(found).keys() == {"m0", "m7"}
    assert set(copies(found).values()) <= {"m5", "m6"}


def test_whoever_has_failed_waits_at_the_next_barrier_too_where_nobody_has_saved() -> None:
    members = Members(3, synch=True)
    members.reach(0, 1.0, save=False)
    members.reach(1, 2.0, save=False)
    assert members.policy.reseed("m2") == [Proceed("m0"), Proceed("m1")]
    assert members.reach(0, 1.0, time=10.0) == []
    found = members.reach(1, 2.0, time=10.0)
    assert copies(found)["m2"] == "m1"
