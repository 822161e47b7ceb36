"""Streams: a generator is a function of the seed and of what it is for."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.core.rng import stream, uniform_key


def test_equal_purposes_give_equal_streams() -> None:
    assert [stream(1, "explore", 2).random() for _ in range(3)] == [stream(1, "explore", 2).random()] * 3


def test_seed_and_every_part_of_the_purpose_make_a_difference() -> None:
    purposes: list[tuple[int, tuple[str | int, ...]]] = [
        (0, ()),
        (1, ()),
        (0, ("a",)),
        (0, ("b",)),
        (0, ("a", 1)),
        (0, (1, "a")),
        (0, ("a", "1")),
        (0, ("a1",)),
        (0, ("a", 1, 0)),
        (-1, ("a",)),
    ]
    assert len({stream(seed, *purpose).random() for seed, purpose in purposes}) == len(purposes)
    assert len({uniform_key(seed, *purpose) for seed, purpose in purposes}) == len(purposes)


def test_a_number_and_its_text_are_different_purposes() -> None:
    assert stream(0, 7).random() != stream(0, "7").random()


def test_streams_do_not_touch_the_global_generator() -> None:
    random.seed(5)
    expected = random.random()
    random.seed(5)
    stream(0, "x").random()
    uniform_key(0, "x")
    assert random.random() == expected


def test_a_stream_is_the_same_in_another_process_with_another_hash_seed() -> None:
    code = "from shoal.core.rng import stream, uniform_key; print(stream(3, 'a', 1).random(), uniform_key(3, 'a', 1))"
    environment = {**os.environ, "PYTHONHASHSEED": "12", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == [repr(stream(3, "a", 1).random()), repr(uniform_key(3, "a", 1))]


def test_what_is_drawn_for_a_seed_stays_the_same_between_versions() -> None:
    # Experiments are restored by newer versions: a change of these numbers changes their decisions.
    assert stream(0, "donor", 1).random() == 0.3189824351311611
    assert uniform_key(0, "donor", 1) == 0.021762242188991587


@settings(deadline=None)
@given(st.integers(), st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.integers())
def test_a_key_is_from_0_to_below_1(seed: int, name: str, index: int) -> None:
    assert 0.0 <= uniform_key(seed, name, index) < 1.0


def test_keys_of_neighbouring_purposes_are_spread_evenly() -> None:
    keys = [uniform_key(0, "tie", index) for index in range(4000)]
    assert abs(statistics.mean(keys) - 0.5) < 0.02
    assert abs(statistics.pstdev(keys) - 12**-0.5) < 0.02


def test_first_draws_of_neighbouring_streams_are_uncorrelated() -> None:
    draws = [stream(0, "tie", index).random() for index in range(4000)]
    assert abs(statistics.correlation(draws[:-1], draws[1:])) < 0.06
