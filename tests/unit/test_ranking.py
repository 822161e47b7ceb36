"""Ranks in order: against a plain sorted list, whatever is put in and taken out, and whoever asks when."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shoal.core.rng import stream
from shoal.schedulers import ranking
from shoal.schedulers.ranking import Rank, Ranks, Top

SCORES = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 1.0]) | st.floats(-10, 10)


class RanksMachine(RuleBasedStateMachine):
    """Any order of changes and questions, with pieces so short that they are cut and joined all the time."""

    piece = ranking._PIECE

    def __init__(self) -> None:
        super().__init__()
        ranking._PIECE = 8
        self.ranks = Ranks()
        self.there: list[Rank] = []
        self.gone: list[Rank] = []
        self.made = 0

    def teardown(self) -> None:
        ranking._PIECE = self.piece

    @initialize(count=st.integers(0, 60))
    def fill(self, count: int) -> None:
        for score in range(count):
            self.put_in(float(score))

    @rule(score=SCORES)
    def put_in(self, score: float) -> None:
        self.made += 1
        rank = (score, (self.made * 7919 % 1009) / 1009, self.made)
        self.there.append(rank)
        self.ranks.add(rank)

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def take_out(self, data: st.DataObject) -> None:
        rank = self.there.pop(data.draw(st.integers(0, len(self.there) - 1)))
        self.gone.append(rank)
        self.ranks.remove(rank)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        rank = self.gone.pop(data.draw(st.integers(0, len(self.gone) - 1)))
        self.there.append(rank)
        self.ranks.add(rank)

    @rule(data=st.data())
    def take_out_a_stretch(self, data: st.DataObject) -> None:
        ordered = sorted(self.there)
        begin = data.draw(st.integers(0, len(ordered)))
        for rank in ordered[begin : begin + 20]:
            self.there.remove(rank)
            self.ranks.remove(rank)

    @rule(score=SCORES)
    def ask_how_many_are_lower(self, score: float) -> None:
        for rank in [(score, 0.5, 0), *self.there[:5]]:
            assert self.ranks.lower(rank) == sum(other < rank for other in self.there)

    @rule(begin=st.integers(0, 40), count=st.integers(0, 40))
    def ask_for_a_stretch(self, begin: int, count: int) -> None:
        assert list(self.ranks.between(begin, begin + count)) == sorted(self.there)[begin : begin + count]

    @rule(count=st.integers(1, 40))
    def ask_for_the_top(self, count: int) -> None:
        top = Top(self.ranks, count)
        expected = sorted(self.there)[-count:]
        assert list(top) == expected
        assert [top[place] for place in range(len(top))] == expected

    @invariant()
    def all_are_counted(self) -> None:
        assert len(self.ranks) == len(self.there)


def _machine() -> Any:
    case = RanksMachine.TestCase
    case.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
    return case


TestAnyOrderOfChangesAndQuestions = _machine()


@pytest.mark.parametrize("count", [0, 1, 255, 257, 3000])
def test_ranks_of_any_number_are_told_in_order(count: int) -> None:
    draw = stream(0, "ranks", count)
    ranks, expected = Ranks(), [(draw.random(), draw.random(), index) for index in range(count)]
    for rank in expected:
        ranks.add(rank)
    expected.sort()
    assert list(ranks.between(0, count)) == expected
    assert [ranks.lower(rank) for rank in expected] == list(range(count))
    assert [ranks.highest(place) for place in range(count)] == expected[::-1]


def test_what_waits_stays_little_where_nobody_ever_asks() -> None:
    ranks = Ranks()
    rank = (0.0, 0.0, 0)
    ranks.add(rank)
    for score in range(10_000):
        ranks.remove(rank)
        rank = (float(score), 0.0, 0)
        ranks.add(rank)
    assert len(ranks._changes) < 10


def test_a_draw_from_the_top_is_the_same_as_from_a_list() -> None:
    # What is drawn decides who copies whom, and must stay the same between versions.
    ranks, everything = Ranks(), [(score / 7, 0.0, score) for score in range(1000)]
    for rank in everything:
        ranks.add(rank)
    for purpose in range(20):
        drawn = stream(1, "donor", purpose).choice(Top(ranks, 250))
        assert drawn == stream(1, "donor", purpose).choice(everything[-250:])
