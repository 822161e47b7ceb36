"""The queue for slots: those that have trained least go first, and who came first where they have trained as long."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.core.slots import SlotQueue
from shoal.core.trial import Trial

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "again", "leave", "take"]),
        st.integers(0, 7),
        st.sampled_from([0.0, 1.0, 1.0, 2.0, 3.5]) | st.floats(0, 10),
        st.sampled_from(["", "0", "1"]),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS)
def test_whatever_comes_and_goes_the_least_trained_of_a_device_is_next(
    steps: list[tuple[str, int, float, str]],
) -> None:
    queue = SlotQueue()
    trials = [Trial(f"t{index}", index, {}) for index in range(8)]
    waiting: dict[int, tuple[float, int, int]] = {}

    def first(device: str) -> int | None:
        fitting = [index for index in waiting if trials[index].device in (None, device)]
        return min(fitting, key=waiting.__getitem__, default=None)

    for count, (what, index, time, device) in enumerate(steps):
        trial = trials[index]
        if what in ("add", "again") and (what == "again" or not trial.queued):
            trial.time, trial.iteration, trial.device = time, int(time), device or None
            queue.add(trial)
            waiting[index] = (time, int(time), count)
        elif what == "leave":
            trial.queued = 0
            waiting.pop(index, None)
        elif what == "take" and (least := queue.least_trained(device, move=False)) is not None:
            assert least.index == first(device)
            least.queued = 0
            del waiting[least.index]
        for name in ("", "0", "1"):
            found = queue.least_trained(name, move=False)
            assert (None if found is None else found.index) == first(name)


def test_one_that_is_bound_to_another_device_moves_where_that_loses_nothing() -> None:
    queue = SlotQueue()
    held, free = Trial("held", 0, {}, device="0", waiting=True), Trial("free", 1, {}, device="1", time=9.0)
    queue.add(held)
    queue.add(free)
    assert queue.least_trained("2", move=False) is None
    assert queue.least_trained("2") is free


def test_nobody_waits_after_all_were_forgotten() -> None:
    queue = SlotQueue()
    queue.add(Trial("a", 0, {}))
    queue.clear()
    assert queue.least_trained("") is None
