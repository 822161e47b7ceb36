"""Numbers out of pickles that are only looked at."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.journal.codec import Unloadable, pack, unpack
from shoal.journal.plain import NotPlain, plain_value


@pytest.mark.parametrize(
    "value",
    [
        np.float64(0.1), np.float32(0.1), np.float16(0.1), np.float64("inf"), np.int64(-(2**60)), np.uint8(255),
        np.int32(-7), np.uint64(2**64 - 1), np.bool_(True), np.bool_(False), np.str_("relu é"),
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_numpys_scalars_are_pythons_of_the_same_value(value: Any, protocol: int) -> None:
    if protocol == 2:  # its bytes come by way of a codec
        with pytest.raises(NotPlain):
            plain_value(pickle.dumps(value, 2))
        return
    found = plain_value(pickle.dumps(value, protocol))
    assert type(found) in (bool, int, float, str)
    assert found == value
    assert type(found) is type(value.item())


def test_containers_of_plain_values_are_read_and_objects_stand_for_themselves() -> None:
    config = {
        "lr": np.float64(0.3),
        "layers": {1: np.int64(64), 2: (np.float32(0.5),)},
        "seen": {1, 2},
        "model": Path(),
    }
    found = unpack(pack(config), unpickle=False)
    assert found["lr"] == 0.3
    assert type(found["lr"]) is float
    assert found["layers"] == {1: 64, 2: (0.5,)}
    assert found["seen"] == {1, 2}
    assert isinstance(found["model"], Unloadable)


def test_nothing_of_a_pickles_own_choice_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "was_run"),)

    for value in (Evil(), [Evil()], {1: Evil()}, os.rmdir, np.array([1.0]), np.dtype("f8")):
        with pytest.raises(NotPlain):
            plain_value(pickle.dumps(value))
    with pytest.raises(NotPlain):
        plain_value(b"no pickle")
    assert not (tmp_path / "was_run").exists()
